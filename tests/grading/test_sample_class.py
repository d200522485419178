"""The sample class, graded by the command and by real nbgrader: every grade written down before the run."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import fmean

import pytest

from course_lib.grading.export import export, grades
from course_lib.grading.sample_class import sample_class, write_sample_class
from course_lib.layout import course_dir, topics
from course_lib.sync import exercised, generate

COURSE = course_dir(Path(__file__).parent)
TOPIC = "norm_penalties"
TASKS = ["l2_penalty", "l1_penalty", "soft_threshold", "elastic_net_proximal_step", "adamw_step"]
EXPECTED = {  # points by task, in the order of TASKS
    "ada_reference": [2, 2, 2, 2, 2],
    "ben_another_way": [2, 2, 2, 2, 2],
    "cleo_a_third_way": [2, 2, 2, 2, 2],
    "dan_extra_cells": [2, 2, 2, 2, 2],
    "eva_first_half": [2, 2, 0, 0, 0],
    "finn_slips_in_every_other": [2, 0, 2, 0, 2],
    "gil_one_slip_at_the_end": [2, 2, 2, 2, 0],
    "hana_all_slips": [0, 0, 0, 0, 0],
    "ivan_blank": [0, 0, 0, 0, 0],
    "jo_syntax_error": [2, 2, 0, 2, 2],
    "kim_crash": [2, 2, 2, 2, 0],
    "lea_infinite_loop": [2, 2, 0, 2, 2],
}


def command(course, *arguments):
    """The command `course` in a course of its own, as a person would type it."""
    environment = os.environ | {"PYTHONPATH": str(course), "NO_COLOR": "1", "COLUMNS": "160"}
    program = [sys.executable, "-c", "from course_lib.cli import main; main()", *arguments]
    return subprocess.run(program, cwd=course, env=environment, capture_output=True, text=True)


def course_of_its_own(home, topic=TOPIC):
    for name in ("_toc.yml", "nbgrader_config.py"):
        shutil.copy(COURSE / name, home / name)
    for name in ("solutions", "exercises", "tests/checks", "course_lib"):
        shutil.copytree(COURSE / name, home / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(COURSE / "tests" / f"test_{topic}.py", home / "tests")
    write_sample_class(topic, home)
    return home


@pytest.fixture(scope="module")
def graded(sandbox, tmp_path_factory):
    """A course with the class handed in and graded by `course grade`, and what that printed."""
    home = course_of_its_own(tmp_path_factory.mktemp("course"))
    done = command(home, "grade", TOPIC, "--json")
    assert done.returncode == 0, done.stderr
    return home, {result["student"]: result for result in json.loads(done.stdout)}


pytestmark = pytest.mark.xdist_group("sample class")


@pytest.mark.parametrize("student", EXPECTED)
def test_the_grade_is_the_one_written_down(graded, student):
    marks = {name.removeprefix("test_"): mark["score"] for name, mark in graded[1][student]["tasks"].items()}
    assert marks == dict(zip(TASKS, EXPECTED[student], strict=True))


def test_the_gradebook_says_the_same(graded):
    assert {grade.student: list(grade.tasks.values()) for grade in grades(graded[0], TOPIC)} == EXPECTED


def test_a_second_run_grades_nobody_again(graded):
    results = json.loads(command(graded[0], "grade", TOPIC, "--json").stdout)
    assert len(results) == len(EXPECTED) and all(result["cached"] for result in results)


def test_the_table_is_for_people(graded):
    shown = command(graded[0], "grade", TOPIC).stdout
    assert "0 graded now, 12 handed in" in shown and all(student in shown for student in EXPECTED)
    assert "3 soft_threshold" in shown and "feedback" in shown and "of 10" in shown
    (mean,) = (line.split()[1:] for line in shown.splitlines() if line.strip().startswith("mean"))
    points = [[*marks, sum(marks)] for marks in EXPECTED.values()]
    assert [float(cell) for cell in mean] == pytest.approx(
        [fmean(task) for task in zip(*points, strict=True)], abs=0.05
    )


def test_feedback_is_written_for_everybody(graded):
    again = command(graded[0], "feedback", TOPIC)
    written = {path.parent.parent.name for path in (graded[0] / "feedback").glob(f"*/{TOPIC}/*.html")}
    assert again.returncode == 0 and written == set(EXPECTED)


def test_without_a_sandbox_the_command_refuses(graded, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", "from course_lib.cli import app; app()", "grade", TOPIC],
        cwd=graded[0],
        env={"PATH": str(tmp_path), "HOME": str(tmp_path), "PYTHONPATH": str(graded[0])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 3 and "bubblewrap" in done.stderr and "--unsandboxed" in done.stderr


def rows(text):
    return list(csv.reader(io.StringIO(text)))


def test_export_csv(graded):
    table = rows(command(graded[0], "export", TOPIC).stdout)
    assert table[0] == ["student", "first_name", "last_name", *TASKS, "score", "max_score", "needs_a_look"]
    assert {row[0]: [float(cell) for cell in row[3:8]] for row in table[1:]} == EXPECTED


@pytest.fixture
def numbered(graded, monkeypatch):
    """The gradebook's grades under ids as `course collect` makes them: a name and the platform's number."""
    found = grades(graded[0], TOPIC)[:3]
    ids = ["ada-lovelace_4711", "hyper-link_12", "not-enrolled_99"]
    renamed = [grade._replace(student=name) for grade, name in zip(found, ids, strict=True)]
    monkeypatch.setattr("course_lib.grading.export.grades", lambda *_: renamed)
    return graded[0]


def test_export_fills_moodles_worksheet(numbered, tmp_path):
    sheet = tmp_path / "worksheet.csv"
    sheet.write_text(
        "\ufeffIdentifier,Full name,Grade,Maximum Grade\n"
        'Participant 4711,"Lovelace, Ada",,10.00\nParticipant 12,"=HYPERLINK(""http://x"")",,10.00\n'
        "Participant 5,Did Nothing,,10.00\n",
        encoding="utf-8",
    )
    text, remarks = export(numbered, TOPIC, "moodle", template=sheet)
    assert [row[1:3] for row in rows(text)[1:]] == [
        ["Lovelace, Ada", "10"],
        ['\'=HYPERLINK("http://x")', "10"],
        ["Did Nothing", ""],
    ]
    assert remarks == [f"not in {sheet}: not-enrolled_99"]


def test_export_says_that_the_platforms_maximum_is_another(numbered, tmp_path):
    sheet = tmp_path / "worksheet.csv"
    sheet.write_text("Identifier,Grade,Maximum Grade\nParticipant 4711,,100.00\nParticipant 12,,100.00\n")
    _, (remark, _) = export(numbered, TOPIC, "moodle", template=sheet)
    assert "is 100, the exercise has 10 points" in remark
    sheet.write_text("Student,ID,Norm_Penalties (88)\n    Points Possible,,20\nA,4711,\n")
    _, (remark, *_) = export(numbered, TOPIC, "canvas", template=sheet)
    assert "is 20, the exercise has 10 points" in remark


def test_export_fills_canvas_gradebook(numbered, tmp_path):
    sheet = tmp_path / "canvas.csv"
    sheet.write_text(
        "Student,ID,SIS User ID,Section,Norm_Penalties (88),Other (89)\n    Points Possible,,,,10,5\n"
        '"Lovelace, Ada",4711,x,A,,4\n"Link, H",12,y,A,3,\n'
    )
    text, _ = export(numbered, TOPIC, "canvas", template=sheet)
    assert [row[4:] for row in rows(text)[1:]] == [["10", "5"], ["10", "4"], ["10", ""]]
    with pytest.raises(ValueError, match="one 'Norm'.*Norm_Penalties"):
        export(numbered, TOPIC, "moodle", template=sheet, column="Norm")


@pytest.mark.parametrize("arguments, message", [(("pdf",), "csv, moodle, canvas"), (("moodle",), "--template")])
def test_export_explains_what_it_lacks(graded, arguments, message):
    with pytest.raises(ValueError, match=message):
        export(graded[0], TOPIC, *arguments)
    assert command(graded[0], "export", TOPIC, "--format", *arguments).returncode == 2


def test_collect_then_grade_one_student(graded, tmp_path):
    import zipfile

    packed = tmp_path / "moodle.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        source = graded[0] / "submitted" / "ada_reference" / TOPIC / f"{TOPIC}.ipynb"
        archive.write(source, f"Ada Lovelace_4711_assignsubmission_file_/{TOPIC}.ipynb")
        archive.writestr("stray.txt", "not a submission")
    done = command(graded[0], "collect", TOPIC, str(packed), "--from", "moodle")
    assert done.returncode == 1 and "stray.txt" in done.stdout and "1 collected" in done.stdout
    results = json.loads(command(graded[0], "grade", TOPIC, "--student", "ada-*", "--json").stdout)
    assert [(result["student"], result["score"]) for result in results] == [("ada-lovelace_4711", 10)]
    (line,) = (row for row in rows(command(graded[0], "export", TOPIC).stdout) if row[0] == "ada-lovelace_4711")
    assert line[1:3] == ["Ada", "Lovelace"]
    shutil.rmtree(graded[0] / "submitted" / "ada-lovelace_4711")


def test_real_nbgrader_alone_gives_full_marks_and_none(tmp_path):
    home = course_of_its_own(tmp_path)
    generate([TOPIC], home)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # nbgrader calls alembic by name
    for student in ("ada_reference", "cleo_a_third_way", "ivan_blank"):
        words = [sys.executable, "-m", "nbgrader", "autograde", TOPIC, "--create", f"--student={student}"]
        subprocess.run(words, cwd=home, env=os.environ | {"PATH": path}, capture_output=True, check=True)
    assert {grade.student: grade.score for grade in grades(home, TOPIC)} == {
        "ada_reference": 10,
        "cleo_a_third_way": 10,
        "ivan_blank": 0,
    }


@pytest.mark.parametrize("topic", [topic for topic in topics(COURSE) if topic != TOPIC])
def test_right_answers_to_every_topic_get_full_marks_and_blank_ones_none(topic, sandbox, tmp_path):
    home = course_of_its_own(tmp_path, topic)
    done = command(home, "grade", topic, "--json", "--student", "[abcdi]*")  # all that is wholly right, or blank
    assert done.returncode == 0, done.stderr
    shares = {result["student"]: result["score"] / result["max_score"] for result in json.loads(done.stdout)}
    wanted = {student: sum(points) / 10 for student, points in EXPECTED.items() if student[0] in "abcdi"}
    assert shares == wanted


def test_a_function_with_several_graded_cells_earns_those_that_it_deserves(sandbox, tmp_path):
    home = course_of_its_own(tmp_path, "group_convolution")
    path = home / "submitted" / "ada_reference" / "group_convolution" / "group_convolution.ipynb"
    right = "f.index_select(2, group.table[group.inverse[h]]"
    wrong = "f.index_select(2, group.table[h]"  # poses in the wrong places: images do not notice
    assert path.read_text().count(right) == 1
    path.write_text(path.read_text().replace(right, wrong))
    shown = command(home, "grade", "group_convolution", "--student", "ada*").stdout
    (grade,) = (found for found in grades(home, "group_convolution") if found.student == "ada_reference")
    assert [name for name, mark in grade.tasks.items() if mark == 0] == ["equivariance_test_poses"]
    assert grade.score == grade.most - 0.5 and "1.5" in shown


@pytest.mark.parametrize("topic", topics(COURSE))
def test_every_topic_has_a_sample_class(topic):
    notebooks = sample_class(topic, COURSE)
    assert len(notebooks) >= 12
    unwritten = {
        student: sum("\n    raise NotImplementedError()" in cell.source for cell in notebook.cells)
        for student, notebook in notebooks.items()
    }
    assert unwritten["ada_reference"] == 0 and unwritten["ivan_blank"] == len(exercised(topic, COURSE))
