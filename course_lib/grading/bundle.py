"""Everything that grading one assignment needs, as bytes: the same on this machine and on a worker elsewhere.

A bundle holds the released notebook, the checks, and the library without the topic's own module and without topics
that the notebook does not use: what one chapter asks for, another may have. It holds no solution. Equal inputs give
equal bytes, so a digest tells whether a result is still valid.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path

from course_lib.grading.limits import Limits
from course_lib.grading.probes import ChecksError, graded_cells, hidden_task, probe_source
from course_lib.layout import topics

# Of the grading package only what runs inside the sandbox travels there.
_INSIDE = {f"grading/{name}.py" for name in ("__init__", "cage", "quick_imports", "witness", "zygote")}

_IMPORT = re.compile(r"^[ \t]*(?:from|import)[ \t]+course_lib\b[^\n(]*(?:\([^)]*\))?", re.MULTILINE)


@dataclass(frozen=True)
class Test:
    """One graded cell.

    Attributes:
        grade_id: its name in the notebook.
        points: its maximum; earned in full or not at all.
        claim: the title line of the cell, without `#`.
        task: what the hidden test checks: a function, or a part of what is asked of one; None without a hidden test.
        function: the exercised function, None with `task`.
        probe: the probe's text, None with `task`.
    """

    grade_id: str
    points: float
    claim: str
    task: str | None
    function: str | None
    probe: str | None


@dataclass(frozen=True)
class Bundle:
    """An assignment, ready to grade.

    Attributes:
        assignment: its name; also the topic's.
        notebook: the released notebook, parsed JSON.
        tests: its automatically graded cells, in their order.
        manual: points of cells that only a person can grade.
        checks: text of the checks file.
        library: the filtered course_lib, path to content.
        limits: the budgets.
    """

    assignment: str
    notebook: dict
    tests: tuple[Test, ...]
    manual: dict[str, float]
    checks: str
    library: dict[str, bytes] = field(repr=False)
    limits: Limits = Limits()

    def pack(self) -> bytes:
        """Serialize, equal bundles to equal bytes."""
        content = asdict(self) | {"library": {k: base64.b64encode(v).decode() for k, v in self.library.items()}}
        return json.dumps(content, sort_keys=True).encode()

    @classmethod
    def unpack(cls, data: bytes) -> Bundle:
        """Undo `pack`."""
        content = json.loads(data)
        content["library"] = {path: base64.b64decode(text) for path, text in content["library"].items()}
        content["tests"] = tuple(Test(**test) for test in content["tests"])
        content["limits"] = Limits(**content["limits"])
        return cls(**content)

    @property
    def max_score(self) -> float:
        """All points of the assignment."""
        return sum(test.points for test in self.tests) + sum(self.manual.values())


def digest(data: bytes) -> str:
    """Name some bytes by their content."""
    return hashlib.sha256(data).hexdigest()


def build(course_dir: str | Path, assignment: str, limits: Limits | None = None) -> Bundle:
    """Collect an assignment from a course's folder.

    Args:
        course_dir: the course's root, with `exercises`, `solutions` and `tests/checks`; the installed
            course_lib stands in where it has none of its own.
        assignment: name of the assignment.
        limits: budgets other than the default.

    Returns:
        The bundle.

    Raises:
        FileNotFoundError: if the assignment has not been released, or its checks are missing.
        ChecksError: if hidden tests and checks do not fit together.
    """
    root = Path(course_dir)
    released = _read(root / "exercises" / assignment / f"{assignment}.ipynb", "Run: course release")
    notebook = json.loads(released)
    checks = _read(root / "tests" / "checks" / f"{assignment}.py", "Write one probe and one verify a task")
    tasks = _tasks(root, assignment, notebook, checks)
    tests, manual = _graded(notebook, tasks, checks)
    code = "\n".join(text(cell) for cell in notebook["cells"] if cell["cell_type"] == "code")
    package = root / "course_lib" if (root / "course_lib").is_dir() else Path(__file__).parent.parent
    others = {*topics(root), assignment} if (root / "_toc.yml").is_file() else {assignment}
    library = filtered_library(package, assignment, others - used(package, code, others))
    return Bundle(assignment, notebook, tests, manual, checks, library, limits or Limits())


def _read(path: Path, fix: str) -> str:
    if not path.is_file():
        raise FileNotFoundError(f"An assignment to grade is released and has checks: wanted {path}, not found. {fix}.")
    return path.read_text(encoding="utf-8")


def _tasks(root: Path, assignment: str, notebook: dict, checks: str) -> dict[str, tuple[str, str] | None]:
    graded = [grade_id(cell) for cell in notebook["cells"] if is_test(cell)]
    source = root / "solutions" / assignment / f"{assignment}.ipynb"
    if source.is_file():
        cells = {grade_id(cell): text(cell) for cell in json.loads(source.read_text(encoding="utf-8"))["cells"]}
        if missing := [name for name in graded if name not in cells]:
            raise ChecksError(
                f"Release and source hold the same graded cells: {source} lacks {', '.join(missing)}. "
                f"Run: course release {assignment}"
            )
        return {name: hidden_task(cells[name], assignment) for name in graded}
    # A course handed out without its solutions: the contract's names are all there is.
    functions = [grade_id(cell) for cell in notebook["cells"] if marking(cell).get("solution")]
    probed = {
        name: (task, function)
        for function in functions
        for name in graded_cells(function, graded)
        if f"def probe_{(task := name.removeprefix('test_'))}(" in checks
    }
    return {name: probed.get(name) for name in graded}


def _graded(
    notebook: dict, tasks: dict[str, tuple[str, str] | None], checks: str
) -> tuple[tuple[Test, ...], dict[str, float]]:
    tests, manual = [], {}
    for cell in notebook["cells"]:
        name, marks = grade_id(cell), marking(cell)
        if is_test(cell):
            task, function = tasks[name] or (None, None)
            probe = probe_source(checks, task) if task else None
            tests.append(Test(name, _points(name, marks), _claim(text(cell)), task, function, probe))
        elif marks.get("grade") or marks.get("task"):
            manual[name] = _points(name, marks)
    if len({test.grade_id for test in tests}) < len(tests):
        raise ChecksError(f"Every graded cell has its own grade_id: got {[test.grade_id for test in tests]}.")
    return tuple(tests), manual


def _points(name: str, marks: dict) -> float:
    points = float(marks.get("points", 0))
    if not 0 <= points < float("inf"):
        raise ChecksError(f"Points are finite and not negative: got {points} for {name}. Correct the source notebook.")
    return points


def _claim(source: str) -> str:
    first = source.lstrip().split("\n", 1)[0]
    return first.lstrip("# ").strip() if first.startswith("#") else ""


def used(package: Path, code: str, topics: Collection[str]) -> set[str]:
    """Topics whose modules some code imports, and those that these import.

    Args:
        package: the folder course_lib.
        code: for example a notebook's.
        topics: the names to look for.
    """
    found: set[str] = set()
    waiting = [code]
    while waiting:
        named = set(re.findall(r"\w+", " ".join(_IMPORT.findall(waiting.pop())))) & {*topics} - found
        found |= named
        waiting += [(package / f"{name}.py").read_text(encoding="utf-8") for name in sorted(named)]
    return found


def filtered_library(package: Path, topic: str, unused: Collection[str] = ()) -> dict[str, bytes]:
    """Read course_lib as the sandbox sees it: without the topic's module, the command line and the grader.

    Args:
        package: the folder course_lib.
        topic: name of the module to leave out.
        unused: other topics, whose import says that they are not there.

    Returns:
        Path below the folder that holds course_lib, to content.
    """
    found = {}
    for path in sorted(package.rglob("*")):
        name = path.relative_to(package).as_posix()
        if path.is_file() and not path.is_symlink() and _travels(name, topic):
            found[f"course_lib/{name}"] = path.read_bytes()
    told = "course_lib.{0} is not there while {1} is graded: it may hold answers. Write the function yourself."
    shelved = {f"course_lib/{name}.py": told.format(name, topic) for name in unused}
    return found | {path: f"raise ImportError({told!r})\n".encode() for path, told in shelved.items() if path in found}


def _travels(name: str, topic: str) -> bool:
    if "__pycache__" in name or name == "cli.py":
        return False
    if name == f"{topic}.py" or name.startswith(f"{topic}/"):
        return False
    return name in _INSIDE or not name.startswith("grading/")


def marking(cell: dict) -> dict:
    """Give a cell's nbgrader metadata, empty where there is none."""
    metadata = cell.get("metadata")
    marks = metadata.get("nbgrader") if isinstance(metadata, dict) else None
    return marks if isinstance(marks, dict) else {}


def grade_id(cell: dict) -> str:
    """Give the name that nbgrader knows a cell by, empty where there is none."""
    name = marking(cell).get("grade_id")
    return name if isinstance(name, str) else ""


def is_test(cell: dict) -> bool:
    """Tell whether a released cell is an automatic test."""
    marks = marking(cell)
    return bool(marks.get("grade")) and not marks.get("solution") and cell.get("cell_type") == "code"


def is_solution(cell: dict) -> bool:
    """Tell whether a released cell is one that students fill in."""
    return bool(marking(cell).get("solution"))


def text(cell: dict) -> str:
    """Give a cell's source, which notebooks store as a string or as a list of lines."""
    source = cell.get("source", "")
    return "".join(source) if isinstance(source, list) else source
