"""Keep the notebooks in step with the library, so that code is written once.

``fill`` copies each exercised function from ``course_lib/X.py`` into the solution cell whose ``grade_id`` is its
name; ``release`` lets nbgrader derive the students' notebook from that. Both always give the same bytes.
"""

import ast
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from course_lib.layout import course_dir, replace_file, topic_files

BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"


def grading_metadata(cell: NotebookNode) -> dict:
    """What nbgrader wrote about a cell; empty for a cell it does not know."""
    return cell.metadata.get("nbgrader", {})


def exercised(topic: str, course: Path | None = None) -> list[str]:
    """The functions that a topic's exercise asks for, in order: the grade_ids of its solution cells."""
    notebook = nbformat.read(topic_files(topic, course).solution, as_version=4)
    return [meta["grade_id"] for meta in map(grading_metadata, notebook.cells) if meta.get("solution")]


def solution_cell(module_source: str, function: str) -> str:
    """A library function as nbgrader's source of a solution cell.

    Decorators, signature, docstring and the leading ``require_...`` lines are given to the student; the rest of the
    body stands between nbgrader's fences.

    Args:
        module_source: the text of the library module.
        function: the name of a top-level function in it.

    Returns:
        The cell's source.

    Raises:
        ValueError: the module has no such function, or its body is empty after the given lines.
    """
    found = [
        node for node in ast.parse(module_source).body if isinstance(node, ast.FunctionDef) and node.name == function
    ]
    if not found:
        raise ValueError(
            f"a solution cell is named after a library function: wanted {function}, the module has none. "
            "Rename the cell's grade_id or write the function."
        )
    node, lines = found[0], module_source.splitlines()
    own = next((statement for statement in node.body if not _is_given(statement)), None)
    if own is None:
        raise ValueError(f"{function} must have a body: wanted lines after the docstring and require_..., got none.")
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) - 1
    given, body = lines[first : own.lineno - 1], lines[own.lineno - 1 : node.end_lineno]
    return "\n".join([*given, f"    {BEGIN}", *body, f"    {END}"])


def _is_given(statement: ast.stmt) -> bool:
    """The docstring, or a call of a precondition."""
    call = statement.value if isinstance(statement, (ast.Expr, ast.Assign)) else None
    if isinstance(call, ast.Constant):
        return isinstance(call.value, str)
    return isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id.startswith("require_")


def fill(topic: str, course: Path | None = None) -> str:
    """The source notebook of a topic as it should stand: solution cells filled, ids set, no outputs.

    Args:
        topic: the topic's name.
        course: the course's folder; found from the current folder if None.

    Returns:
        The notebook's JSON text.
    """
    files = topic_files(topic, course)
    notebook = nbformat.read(files.solution, as_version=4)
    source = files.module.read_text(encoding="utf-8")
    for cell in notebook.cells:
        meta = grading_metadata(cell)
        if meta.get("solution"):
            cell.source = solution_cell(source, meta["grade_id"])
    return _settled(notebook)


def release(sources: dict[str, str], course: Path | None = None) -> dict[str, str]:
    """The students' notebooks of topics, as ``nbgrader generate_assignment`` derives them from the filled sources.

    nbgrader works in a temporary course, so that nothing is changed here and no gradebook is needed. What it made of
    a source is remembered in ``.cache``, by the content of the source and the configuration.

    Args:
        sources: the filled source notebooks' JSON texts by topic.
        course: the course's folder; found from the current folder if None.

    Returns:
        The released notebooks' JSON texts by topic, the same bytes each time.

    Raises:
        RuntimeError: nbgrader refused a source; its log is in the message.
    """
    course = course or course_dir()
    configuration = (course / "nbgrader_config.py").read_text(encoding="utf-8")
    remembered = {}
    for topic, source in sources.items():
        key = hashlib.sha256("\n".join([version("nbgrader"), configuration, source]).encode()).hexdigest()[:16]
        remembered[topic] = course / ".cache" / "released" / f"{topic}-{key}.ipynb"
    missing = {topic: sources[topic] for topic, path in remembered.items() if not path.is_file()}
    for topic, text in derive(missing, configuration).items() if missing else ():
        replace_file(remembered[topic], text.encode())
    return {topic: path.read_text(encoding="utf-8") for topic, path in remembered.items()}


def derive(sources: dict[str, str], configuration: str) -> dict[str, str]:
    """Let nbgrader generate assignments from source notebooks, in a temporary course.

    Args:
        sources: the source notebooks' JSON texts by topic.
        configuration: the text of ``nbgrader_config.py``.

    Returns:
        The released notebooks' JSON texts by topic, ids set, no outputs.

    Raises:
        RuntimeError: nbgrader refused a source; its log is in the message.
    """
    with tempfile.TemporaryDirectory() as scratch:
        for topic, source in sources.items():
            path = Path(scratch, "solutions", topic, f"{topic}.ipynb")
            path.parent.mkdir(parents=True)
            path.write_text(source, encoding="utf-8")
        Path(scratch, "nbgrader_config.py").write_text(configuration, encoding="utf-8")
        generate(sources, Path(scratch))
        made = {topic: Path(scratch, "exercises", topic, f"{topic}.ipynb") for topic in sources}
        return {topic: _settled(nbformat.read(path, as_version=4)) for topic, path in made.items()}


def generate(names: Iterable[str], folder: Path) -> None:
    """Run nbgrader's ``generate_assignment`` on topics, with this environment's programs first on PATH.

    Args:
        names: the topics.
        folder: the course to work in; it holds ``nbgrader_config.py``.

    Raises:
        RuntimeError: nbgrader refused a source; its log is in the message.
    """
    programs = str(Path(sys.executable).parent)  # nbgrader calls alembic by name
    environment = os.environ | {"PATH": os.pathsep.join([programs, os.environ.get("PATH", "")])}
    command = [sys.executable, "-m", "course_lib.grading.generate", *names]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"nbgrader ended with status {done.returncode}:\n{done.stderr}")


def _settled(notebook: NotebookNode) -> str:
    """Ids from grade_ids (nbformat would draw them at random), no outputs, no trace of who saved it last."""
    for index, cell in enumerate(notebook.cells):
        cell.id = grading_metadata(cell).get("grade_id", f"cell-{index}")
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    notebook.nbformat_minor = max(notebook.nbformat_minor, 5)
    nbformat.validate(notebook)
    return nbformat.writes(notebook) + "\n"


def wanted(names: Iterable[str], course: Path | None = None) -> dict[str, dict[Path, str]]:
    """The two notebooks of each topic as the library says they should be.

    Args:
        names: the topics.
        course: the course's folder; found from the current folder if None.

    Returns:
        For each topic the text of the source notebook and of the released one, by path.
    """
    sources = {topic: fill(topic, course) for topic in names}
    found = {}
    for topic, text in release(sources, course).items():
        files = topic_files(topic, course)
        found[topic] = {files.solution: sources[topic], files.exercise: text}
    return found


def out_of_step(notebooks: dict[Path, str]) -> list[Path]:
    """Those of the ``wanted`` notebooks that are missing or differ on disk."""
    return [path for path, text in notebooks.items() if not path.is_file() or path.read_text("utf-8") != text]


def write(notebooks: dict[Path, str]) -> list[Path]:
    """Bring notebooks into step with the library.

    Args:
        notebooks: what ``wanted`` returned.

    Returns:
        The files that were rewritten.
    """
    changed = out_of_step(notebooks)
    for path in changed:
        replace_file(path, notebooks[path].encode())
    return changed
