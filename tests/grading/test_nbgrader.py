"""Beside the real thing: unmodified nbgrader runs in our sandbox, and what it does without it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from grading import tiny
from grading.hostile.attacks import ATTACKS
from grading.tiny import NAME, RIGHT, find, notebook, own

from course_lib.grading.bundle import text

CONFIG = """
c = get_config()
c.CourseDirectory.source_directory = "solutions"
c.CourseDirectory.release_directory = "exercises"
c.ClearSolutions.code_stub = {"python": "# YOUR CODE HERE\\nraise NotImplementedError()"}
"""
PROOF = """
import os, socket
print("UID", os.getuid())
print("FILES", sorted(os.listdir(".")))
try: socket.create_connection(("127.0.0.1", 9), timeout=1)
except OSError as error: print("NETWORK", error)
"""


def nbgrader(root, *arguments, **environment):
    bin_folder = Path(sys.executable).parent
    path = os.pathsep.join([str(bin_folder), os.environ["PATH"]])
    settings = os.environ | {"PATH": path, "COURSE_CHECKS": str(root / "tests" / "checks")} | environment
    settings["PYTHONPATH"] = str(root)  # the course's own course_lib
    command = [sys.executable, "-m", "nbgrader", *arguments]
    return subprocess.run(command, cwd=root, env=settings, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def released(course, tmp_path_factory):
    """The course, released by nbgrader itself."""
    root = tmp_path_factory.mktemp("nbgrader") / "course"
    shutil.copytree(course, root, ignore=shutil.ignore_patterns("submitted", ".cache", "gradebook.db", "exercises"))
    (root / "nbgrader_config.py").write_text(CONFIG)
    run = nbgrader(root, "generate_assignment", NAME)
    assert run.returncode == 0, run.stderr
    return root


def autograded(root, student):
    return json.loads((root / "autograded" / student / NAME / f"{NAME}.ipynb").read_text())


def score(root, student):
    from course_lib.grading.gradebook import default_url, load_nbgrader

    with load_nbgrader().Gradebook(default_url(root)) as book:
        return book.find_submission(NAME, student).score


def test_the_release_is_the_exercise_that_the_other_tests_use(released):
    book = json.loads((released / "exercises" / NAME / f"{NAME}.ipynb").read_text())
    wanted = notebook()
    assert {cell["id"]: text(cell) for cell in book["cells"]} == {cell["id"]: text(cell) for cell in wanted["cells"]}


def test_plain_nbgrader_runs_hidden_tests_and_can_be_cheated(released):
    tiny.submit(released, "honest", notebook(RIGHT))
    ATTACKS["01-skip-execution"].hand_in(released, "cheat")
    run = nbgrader(released, "autograde", NAME)
    assert run.returncode == 0, run.stderr
    assert (score(released, "honest"), score(released, "cheat")) == (6.0, 6.0)  # what `course grade` gives: 6 and 0


def test_unmodified_nbgrader_in_the_sandbox(sandbox, released):
    visible_only = notebook({task: "import torch\n" + source for task, source in RIGHT.items()})
    find(visible_only, "setup")["source"] = "import torch"
    visible_only["cells"].append(own(PROOF))
    folder = tiny.submit(released, "inside", visible_only)
    (folder / "numbers.csv").write_text("1,2")
    (folder / "torch.py").write_text("raise RuntimeError")
    name = {"JUPYTER_DEFAULT_PROVISIONER_NAME": "course-sandbox"}
    nbgrader(released, "autograde", NAME, "--student", "inside", **name)
    outputs = [out for cell in autograded(released, "inside")["cells"] for out in cell.get("outputs", [])]
    said = "".join(str(output.get("text", "")) for output in outputs)
    assert "UID 65534" in said and "FILES ['numbers.csv']" in said and "NETWORK" in said
