"""The house holds: one topic is one name in five places, topics lean on earlier ones only, nothing lies around."""

import ast
import re
import subprocess
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from course_lib.layout import course_dir, topic_files, topics
from course_lib.sync import exercised

COURSE = course_dir(Path(__file__).parent)
TOPICS = topics(COURSE)
LISTED = subprocess.run(
    ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=COURSE, capture_output=True, text=True
).stdout.splitlines()
TRACKED = [path for path in LISTED if (COURSE / path).is_file()]  # a file that was just deleted is still listed
TOP_LEVEL = set(
    ".ci .github .gitignore CHANGELOG.md CONTRIBUTING.md LICENSE Makefile README.md _config.yml _toc.yml benchmarks "
    "book course_lib environment.yml exercises nbgrader_config.py pyproject.toml requirements.txt solutions "
    "tests".split()
)
# The shared rooms in the order in which they lean on each other; topics may use all of them.
ROOMS = "preconditions exercise layout figures claims widgets data training ledger sync new_topic grading cli".split()
RHYTHM = [
    "The ledger",
    "The paper's number beside ours",
    "When it fails",
    "What you should be able to do now",
    "Exercises",
    "Quiz",
    "Further reading",
]


def imports(path):
    """The modules of course_lib that a file imports, at any depth."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "course_lib":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("course_lib."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("course_lib."))


def test_the_repository_lists_its_files():
    assert len(TRACKED) > 20


@pytest.mark.parametrize("topic", TOPICS)
def test_a_topic_is_one_name_in_all_its_places(topic):
    missing = [str(path.relative_to(COURSE)) for path in topic_files(topic, COURSE) if not path.is_file()]
    assert missing == []


def test_every_module_is_a_topic_or_a_shared_room():
    modules = {path.stem for path in (COURSE / "course_lib").glob("*.py")} - {"__init__"}
    modules |= {path.parent.name for path in (COURSE / "course_lib").glob("*/__init__.py")}
    assert modules == set(TOPICS) | set(ROOMS)


def test_no_topic_outside_the_reading_order():
    found = {path.parent.name for folder in ("solutions", "exercises") for path in (COURSE / folder).glob("*/*.ipynb")}
    found |= {path.stem for path in (COURSE / "tests" / "checks").glob("*.py")}
    assert found == set(TOPICS)


@pytest.mark.parametrize("topic", TOPICS)
def test_a_topic_leans_on_earlier_topics_only(topic):
    allowed = set(ROOMS[: ROOMS.index("sync")]) | set(TOPICS[: TOPICS.index(topic)])
    assert set(imports(topic_files(topic, COURSE).module)) <= allowed


@pytest.mark.parametrize("room", ROOMS)
def test_a_shared_room_leans_on_earlier_rooms_only(room):
    path = COURSE / "course_lib" / room
    files = sorted(path.glob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    used = {name for file in files for name in imports(file)} - {room}
    assert used <= set(ROOMS[: ROOMS.index(room)])


def test_studies_and_tests_import_what_there_is():
    files = [*(COURSE / "benchmarks").glob("*.py"), *(COURSE / "tests").rglob("*.py")]
    known = {*TOPICS, *ROOMS, "results"}
    astray = {str(path.relative_to(COURSE)): set(imports(path)) - known for path in files}
    assert {path: names for path, names in astray.items() if names} == {}


def test_pages_import_what_there_is():
    """A name that left the library is found here in seconds; the build would find it in minutes."""
    astray = set()
    for path in (COURSE / "book").glob("*.md"):
        text = path.read_text(encoding="utf-8")
        for module, several, one in re.findall(r"^from (course_lib[.\w]*) import (?:\(([^)]*)\)|(.*))$", text, re.M):
            for name in (part.split()[0] for part in (several or one).split(",") if part.strip()):
                if not (importable(f"{module}.{name}") or importable(module) and hasattr(import_module(module), name)):
                    astray.add(f"{path.name}: from {module} import {name}")
    assert astray == set()


def importable(module):
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def test_pages_link_to_pages_that_exist():
    pages = {path.stem: path.read_text(encoding="utf-8") for path in (COURSE / "book").glob("*.md")}
    links = {name: set(re.findall(r"\{doc\}`(?:[^`<]*<)?([^`<>]+)>?`", text)) for name, text in pages.items()}
    assert {f"book/{name}.md": dead for name, found in links.items() if (dead := found - pages.keys())} == {}


def test_the_package_reexports_nothing():
    tree = ast.parse((COURSE / "course_lib" / "__init__.py").read_text())
    assert all(isinstance(node, ast.Expr) for node in tree.body)


@pytest.mark.parametrize("topic", TOPICS)
def test_checks_do_not_import_what_they_check(topic):
    assert set(imports(topic_files(topic, COURSE).checks)) <= {"grading"}, "of the library only how verdicts are worded"


@pytest.mark.parametrize("topic", TOPICS)
def test_the_chapter_shows_no_answer(topic):
    text = topic_files(topic, COURSE).chapter.read_text(encoding="utf-8")
    assert set(re.findall(r":pyobject:\s*(\w+)", text)) & set(exercised(topic, COURSE)) == set()
    whole = re.findall(r"```\{literalinclude\}[^\n]*\n(?!:pyobject:)", text)
    assert whole == [], "a literalinclude without :pyobject: shows the whole module"


@pytest.mark.parametrize("topic", TOPICS)
def test_the_chapter_keeps_the_rhythm(topic):
    text = topic_files(topic, COURSE).chapter.read_text(encoding="utf-8")
    headings = re.findall(r"^## (.*)$", text, flags=re.MULTILINE)
    assert [heading for heading in headings if heading in RHYTHM] == RHYTHM
    assert "widgets.explore(" in text, "a chapter has a slider"


def test_every_page_with_code_is_executed():
    for path in (COURSE / "book").glob("*.md"):
        text = path.read_text(encoding="utf-8")
        if "{code-cell}" in text:
            assert text.startswith("---\njupytext:"), f"{path.name} lacks the jupytext header: its cells would not run"


def test_topics_carry_no_numbers():
    assert [name for name in TOPICS if any(letter.isdigit() for letter in name)] == []


def test_nothing_lies_around():
    assert {path.split("/")[0] for path in TRACKED} <= TOP_LEVEL
    rooms_without_a_name = [path for path in TRACKED if re.search(r"(^|/)(utils|helpers|common|misc)(\.py|/)", path)]
    data_or_weights = [path for path in TRACKED if path.endswith((".gz", ".npz", ".pt", ".pth", ".db", ".zip", ".pkl"))]
    assert rooms_without_a_name == data_or_weights == []


def test_notebooks_are_committed_without_outputs():
    for path in TRACKED:
        if path.endswith(".ipynb") and path.startswith(("solutions/", "exercises/")):
            assert '"output_type"' not in (COURSE / path).read_text(encoding="utf-8"), path
