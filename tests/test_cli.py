"""The command `course`: help for strangers, exit codes that mean something, and a new topic from CONTRIBUTING."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from course_lib.grading.gradebook import default_url, load_nbgrader
from course_lib.layout import course_dir, topics
from course_lib.sync import exercised

COURSE = course_dir(Path(__file__).parent)
COMMANDS = "sync release new sample-class collect grade feedback export check-grader build".split()


def course(*arguments, folder=COURSE):
    programs = str(Path(sys.executable).parent)
    environment = os.environ | {
        "COLUMNS": "200",
        "NO_COLOR": "1",
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
    }
    environment |= {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}  # the copy's own library
    command = [sys.executable, "-c", "from course_lib.cli import main; main()", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_one_page_is_built_alone():
    done = course("build", "notation")
    page = COURSE / "_build" / "page" / "_build" / "html" / "book" / "notation.html"
    assert done.returncode == 0 and page.as_uri() in done.stdout.replace("\n", ""), done.stderr
    assert "Notation" in page.read_text(encoding="utf-8")
    unknown = course("build", "book/nonsense.md")
    assert unknown.returncode == 2 and "No such page: nonsense" in unknown.stdout and "norm_penalties" in unknown.stdout


@pytest.fixture
def copy(tmp_path):
    """A copy of the course to write in."""
    for name in (".gitignore", "_toc.yml", "_config.yml", "nbgrader_config.py", "pyproject.toml"):
        shutil.copy(COURSE / name, tmp_path / name)
    for name in ("book", "course_lib", "solutions", "exercises", "tests"):
        shutil.copytree(COURSE / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command):
    done = course(command, "--help")
    assert done.returncode == 0 and "Exit status: 0" in done.stdout and "Usage" in done.stdout


def test_help_lists_every_command():
    help_text = course("--help").stdout
    assert [command for command in COMMANDS if command not in help_text] == []


@pytest.mark.parametrize("command", ["sync", "release", "sample-class", "grade", "feedback", "export", "check-grader"])
def test_an_unknown_topic_is_wrong_usage(command):
    done = course(command, "norm_penaltys")
    assert done.returncode == 2 and topics(COURSE)[0] in done.stdout


def test_outside_a_course_the_message_says_so(tmp_path):
    done = course("sync", "--check", folder=tmp_path)
    assert done.returncode == 2 and "_toc.yml" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_gradebook_that_is_none_is_explained(copy):
    topic = topics(COURSE)[0]
    done = course("export", topic, "--db", "gradebook.db", folder=copy)
    assert done.returncode == 2 and "sqlite:////folder/gradebook.db" in done.stderr and "Traceback" not in done.stderr


def test_where_there_is_nothing_the_commands_say_what_comes_first(copy):
    topic = topics(COURSE)[0]
    graded = course("grade", topic, "--unsandboxed", folder=copy)
    assert graded.returncode == 0 and f"course collect {topic}" in graded.stderr
    exported = course("export", topic, folder=copy)
    assert exported.returncode == 2 and f"course grade {topic} first" in exported.stdout + exported.stderr


def test_a_class_that_has_handed_in(copy):
    """Its feedback goes back to Moodle; a release with other graded cells is refused, with the way out."""
    topic = topics(COURSE)[0]
    assert course("release", topic, folder=copy).returncode == 0
    with load_nbgrader().Gradebook(default_url(copy)) as book:
        for student in ("ada_12", "ben"):
            book.add_student(student)
            book.add_submission(topic, student)
    assert course("feedback", topic, "--zip", "back.zip", folder=copy).returncode == 0
    with zipfile.ZipFile(copy / "back.zip") as archive:
        assert archive.namelist() == [f"ada_12_assignsubmission_file_/{topic}.html"]
    source, released = (copy / folder / topic / f"{topic}.ipynb" for folder in ("solutions", "exercises"))
    book = json.loads(source.read_text())
    book["cells"] = [cell for cell in book["cells"] if not cell["metadata"]["nbgrader"]["grade"]]
    source.write_text(json.dumps(book))
    done = course("release", topic, folder=copy)
    assert done.returncode == 1 and f"nbgrader db assignment remove {topic} --force" in done.stderr
    assert released.is_file() and "Traceback" not in done.stderr


def test_sync_check_fails_where_a_notebook_was_edited(copy):
    topic = topics(COURSE)[0]
    notebook = copy / "exercises" / topic / f"{topic}.ipynb"
    notebook.write_text(notebook.read_text().replace("NotImplementedError", "NotWrittenYet"))
    before = notebook.read_text()
    assert course("sync", "--check", topic, folder=copy).returncode == 1
    assert notebook.read_text() == before, "--check must change nothing"
    assert course("sync", topic, folder=copy).returncode == 0
    assert "NotImplementedError" in notebook.read_text()


def test_check_grader_notices_a_surviving_mutant(copy):
    topic = topics(COURSE)[0]
    checks = copy / "tests" / "checks" / f"{topic}.py"
    checks.write_text(checks.read_text() + f"\n\ndef verify_{exercised(topic, COURSE)[0]}(arrays, seed):\n    pass\n")
    done = course("check-grader", topic, folder=copy)
    assert done.returncode == 1 and "mutants killed" in done.stdout


def test_a_new_topic_is_green_from_its_first_minute(copy):
    made = course("new", "equivariant_attention", "--title", "Equivariant attention", folder=copy)
    assert made.returncode == 0, made.stdout + made.stderr
    assert topics(copy)[-1] == "equivariant_attention"
    assert course("sync", "--check", "equivariant_attention", folder=copy).returncode == 0
    trial = course("check-grader", "equivariant_attention", folder=copy)
    assert trial.returncode == 0, trial.stdout
    tests = ["tests/test_equivariant_attention.py", "course_lib/equivariant_attention.py", "tests/test_layout.py"]
    subprocess.run(["git", "init", "-q"], cwd=copy, check=True)
    environment = os.environ | {"PYTHONPATH": str(copy)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    shutil.copy(COURSE / "pyproject.toml", copy)
    for lint in (["check"], ["format", "--check"]):
        done = subprocess.run(["ruff", *lint, "--no-cache", "."], cwd=copy, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["Weight_Noise", "weight_noise_2", "norm_penalties", "a-b", "lambda", "grading"])
def test_a_bad_name_is_refused(copy, name):
    before = sorted(copy.rglob("*"))
    assert course("new", name, folder=copy).returncode == 2
    assert sorted(copy.rglob("*")) == before
