"""Notebooks follow the library: bodies, fences, ids; the release is the same bytes every time and holds no answer."""

import json
import re
import subprocess
import sys

import nbformat
import pytest

from course_lib import sync
from course_lib.grading.probes import graded_cells
from course_lib.layout import course_dir, topic_files, topics

COURSE = course_dir()
pytestmark = pytest.mark.xdist_group("sync")

MODULE = '''
@decorated
def f(x: int, y: int = 2) -> int:
    """Say what.

    More.
    """
    x = require_thing(x)
    require_other(y=y)
    z = x + y  # the idea
    return z


def only_given(x):
    """Nothing to write."""
    require_thing(x)
'''


def test_decorator_signature_docstring_and_preconditions_are_given():
    lines = sync.solution_cell(MODULE, "f").splitlines()
    begin, end = lines.index("    ### BEGIN SOLUTION"), lines.index("    ### END SOLUTION")
    assert lines[0] == "@decorated" and lines[begin - 1] == "    require_other(y=y)"
    assert lines[begin + 1 : end] == ["    z = x + y  # the idea", "    return z"]
    assert end == len(lines) - 1


@pytest.mark.parametrize("name, message", [("g", "wanted g, the module has none"), ("only_given", "must have a body")])
def test_a_cell_without_a_function_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        sync.solution_cell(MODULE, name)


@pytest.fixture(scope="module")
def everything():
    return sync.wanted(topics(COURSE), COURSE)


@pytest.fixture(params=topics(COURSE))
def released(request, everything):
    return request.param, everything[request.param]


def test_notebooks_are_in_step(released):
    assert sync.out_of_step(released[1]) == []


def test_the_release_is_the_same_bytes_again(everything):
    configuration = (COURSE / "nbgrader_config.py").read_text()
    again = sync.derive({topic: sync.fill(topic, COURSE) for topic in everything}, configuration)  # past .cache
    assert again == {topic: everything[topic][topic_files(topic, COURSE).exercise] for topic in everything}


def test_the_release_holds_no_answer(released):
    topic, notebooks = released
    text = notebooks[topic_files(topic, COURSE).exercise]
    assert "BEGIN SOLUTION" not in text and "BEGIN HIDDEN" not in text and "grading.hidden" not in text
    cells = {cell["id"]: "".join(cell["source"]) for cell in json.loads(text)["cells"]}
    assert all("raise NotImplementedError()" in cells[task] for task in sync.exercised(topic, COURSE))


def test_every_task_has_its_cells(released):
    topic, notebooks = released
    notebook = nbformat.reads(notebooks[topic_files(topic, COURSE).exercise], as_version=4)
    cells = {cell.id: cell for cell in notebook.cells}
    assert f'begin("{topic}")' in cells["setup"].source
    for task in sync.exercised(topic, COURSE):
        hints = cells[f"task_{task}"].source.count("<details>")
        tests = [cells[name] for name in graded_cells(task, cells)]
        assert hints >= 2 and tests and tests[0].id == f"test_{task}"
        assert all(test.source.startswith("# ") and test.metadata.nbgrader.points > 0 for test in tests)


def test_a_graded_cell_belongs_to_one_function(released):
    topic, notebooks = released
    notebook = nbformat.reads(notebooks[topic_files(topic, COURSE).exercise], as_version=4)
    graded = [cell.id for cell in notebook.cells if sync.grading_metadata(cell).get("grade")]
    claimed = [name for task in sync.exercised(topic, COURSE) for name in graded_cells(task, graded)]
    assert sorted(claimed) == sorted(graded)


def test_the_table_of_tasks_has_the_points_of_the_tests(released):
    topic, notebooks = released
    notebook = nbformat.reads(notebooks[topic_files(topic, COURSE).exercise], as_version=4)
    cells = {cell.id: cell for cell in notebook.cells}
    told = dict(re.findall(r"^\| \d+ \| `(\w+)` \| (\d+) \|", cells["title"].source, flags=re.MULTILINE))
    points = {name: cell.metadata.nbgrader.points for name, cell in cells.items() if name.startswith("test_")}
    wanted = {task: sum(points[name] for name in graded_cells(task, points)) for task in sync.exercised(topic, COURSE)}
    assert told == {task: f"{most:g}" for task, most in wanted.items()}


def test_what_nbgrader_refuses_is_said():
    notebook = nbformat.reads(sync.fill(topics(COURSE)[0], COURSE), as_version=4)
    del next(cell for cell in notebook.cells if sync.grading_metadata(cell)).metadata.nbgrader["locked"]
    with pytest.raises(RuntimeError, match="nbgrader refused odd(.|\n)*'locked' is a required property"):
        sync.derive({"odd": nbformat.writes(notebook)}, (COURSE / "nbgrader_config.py").read_text())


def test_a_changed_library_is_noticed(tmp_path):
    topic = topics(COURSE)[0]
    files, copy = topic_files(topic, COURSE), topic_files(topic, tmp_path)
    for source, target in zip(files, copy, strict=True):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
    (tmp_path / "nbgrader_config.py").write_bytes((COURSE / "nbgrader_config.py").read_bytes())
    assert sync.out_of_step(sync.wanted([topic], tmp_path)[topic]) == []
    task = sync.exercised(topic, COURSE)[0]
    text = copy.module.read_text()
    assert f"def {task}(" in text
    copy.module.write_text(text.replace("ValueError: ", "ValueError, always: ", 1))
    changed = sync.wanted([topic], tmp_path)[topic]
    assert sync.out_of_step(changed) == [copy.solution, copy.exercise]
    assert sync.write(changed) == [copy.solution, copy.exercise]
    assert sync.out_of_step(changed) == []


def test_begin_takes_the_answer_off_the_shelf_also_where_it_was_imported_before():
    code = """
import course_lib.norm_penalties
from course_lib.exercise import begin
begin("norm_penalties")
for line in ("from course_lib import norm_penalties", "from course_lib.norm_penalties import l2_penalty"):
    try:
        exec(line)
    except ImportError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=COURSE, check=True)
    assert done.stdout.count("holds the functions that this notebook asks you to write") == 2
