"""A class of attackers and honest students, graded in one run, with what must come of each written before."""

import html
import json
import re
import shutil
import socket
import threading
from pathlib import Path

import pytest
from grading import tiny
from grading.conftest import LIMITS, mounted, private_tmp
from grading.hostile import attacks
from grading.hostile.attacks import ATTACKS
from grading.tiny import NAME, RIGHT, WRONG, notebook

from course_lib.grading.feedback import feedback
from course_lib.grading.grade_one import grade_one
from course_lib.grading.gradebook import default_url, load_nbgrader
from course_lib.grading.run import grade
from course_lib.grading.submission import pack

HONEST = {f"honest-{number}": RIGHT for number in range(4)} | {f"wrong-{number}": WRONG for number in range(2)}


@pytest.fixture(scope="session")
def listener():
    """A server on this machine that a submission tries to reach."""
    heard = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        ended = threading.Event()

        def listen():
            while not ended.is_set():
                try:
                    heard.append(server.accept()[0].recv(10))
                except TimeoutError:
                    pass

        thread = threading.Thread(target=listen)
        thread.start()
        yield server.getsockname()[1], heard
        ended.set()
        thread.join()


def dump(url, student):
    """Everything that the gradebook says about a student's other assignment."""
    with load_nbgrader().Gradebook(url) as book:
        submission = book.find_submission("other", student)
        return [(grade.name, grade.auto_score, grade.manual_score) for grade in submission.notebooks[0].grades]


def fill_other(url, students):
    """Give the gradebook rows that grading must leave alone."""
    with load_nbgrader().Gradebook(url) as book:
        book.add_assignment("other")
        book.add_notebook("other", "other")
        book.add_grade_cell("cell", "other", "other", max_score=5, cell_type="code")
        for student in students:
            book.add_student(student)
            book.add_submission("other", student)
            book.find_grade("cell", "other", "other", student).manual_score = 3.0
        book.db.commit()


@pytest.fixture(scope="session")
def world(sandbox, tmp_path_factory, listener):
    """Hand in everything, grade it in one run, and keep what can be looked at afterwards."""
    course = tiny.write_course(tmp_path_factory.mktemp("class"))
    for name, attack in ATTACKS.items():
        attack.hand_in(course, name)
    for name, solutions in HONEST.items():
        tiny.submit(course, name, notebook(solutions))
    sending = course / "submitted" / "08-sends-notebook" / NAME / f"{NAME}.ipynb"
    sending.write_text(sending.read_text().replace("PORT", str(listener[0])))
    url = default_url(course)
    fill_other(url, ["honest-0", "06-opens-gradebook"])
    before = snapshot()
    with private_tmp() as tmp:
        results = {result.student: result for result in grade(course, NAME, workers=2, limits=LIMITS)}
    feedback(course, NAME)
    yield {"course": course, "results": results, "url": url, "tmp": tmp, "before": before}
    shutil.rmtree(tmp)


def snapshot():
    """Files that a submission might have written, by name and time."""
    places = [Path.home() / ".ipython", *map(Path, __import__("site").getsitepackages())]
    return {str(path): path.stat().st_mtime_ns for place in places if place.is_dir() for path in place.iterdir()}


def executed(world, name):
    """What a student's notebook printed."""
    path = world["course"] / "autograded" / name / NAME / f"{NAME}.ipynb"
    cells = json.loads(path.read_text())["cells"]
    return "".join(str(output.get("text", "")) for cell in cells for output in cell.get("outputs", []))


@pytest.mark.parametrize("name", ATTACKS)
def test_outcome(world, name):
    wanted, got = ATTACKS[name], world["results"][name]
    kinds = {flag["kind"] for flag in got.flags}
    assert sum(flag["kind"] == "kernel ended" for flag in got.flags) <= 1, "later cells are not to blame"
    assert (got.score, got.status) == (wanted.score, wanted.status), got
    assert wanted.flags <= kinds, got.flags
    assert wanted.flags or not kinds, got.flags
    assert wanted.says in executed(world, name) if wanted.says else True, executed(world, name)[-2000:]


@pytest.mark.parametrize("name", HONEST)
def test_honest_students_beside_them(world, name):
    wanted, got = 6.0 if HONEST[name] is RIGHT else 0.0, world["results"][name]
    assert (got.score, got.status, got.flags) == (wanted, "graded", [])


def test_enough_attacks():
    assert {name[:2] for name in ATTACKS} >= {f"{number:02}" for number in range(1, 21)}
    assert len(attacks.OWN) >= 10


def test_nobody_is_lost(world):
    assert set(world["results"]) == {*ATTACKS, *HONEST}
    assert all(result.definite for result in world["results"].values())


def test_nothing_was_sent(world, listener):
    assert listener[1] == []


def test_no_privileges_inside(world):
    said = executed(world, "m-namespaces")
    assert "OPENED" not in said and "UNSHARE 0" not in said and "MOUNT 0" not in said and "TRACE 0" not in said
    assert re.findall(r"Cap(?:Eff|Prm|Bnd|Amb):\\t(\w+)", said) == ["0" * 16] * 6 and "NoNewPrivs:\\t1" in said


def test_nothing_of_the_grader_is_visible_inside(world):
    said = executed(world, "n-looks-around")
    assert "PROCESSES [1, 2" in said and "WORK [] HOME ['student']" in said
    assert "course-grading" not in said and "COURSE_CHECKS" not in said
    files = re.findall(r"FILE \d+ (\S+)", said)
    allowed = (
        "socket:",
        "anon_inode:",
        "pipe:",
        "/tmp/kernel.log",
        "/dev/null",
        "/dev/urandom",
        "/proc/self/fd",
        "/proc/",
    )
    assert files and all(path.startswith(allowed) for path in files), files


def test_no_process_is_left(world):
    assert mounted(world["tmp"]) == []


def test_no_file_is_left(world):
    assert list(world["tmp"].iterdir()) == []
    assert snapshot() == world["before"]


def test_other_rows_are_untouched(world):
    for student in ("honest-0", "06-opens-gradebook"):
        assert dump(world["url"], student) == [("cell", None, 3.0)]


def test_gradebook_has_the_same_scores(world):
    with load_nbgrader().Gradebook(world["url"]) as book:
        for submission in book.assignment_submissions(NAME):
            assert submission.score == world["results"][submission.student.id].score


def test_flagged_work_waits_for_a_person(world):
    with load_nbgrader().Gradebook(world["url"]) as book:
        for submission in book.assignment_submissions(NAME):
            result = world["results"][submission.student.id]
            assert submission.needs_manual_grade == bool(result.flags or result.status not in ("graded", "timeout"))


def hidden_lines():
    """Lines of the checks that would give something away, and the words that only they use."""
    lines = {line.strip() for line in tiny.CHECKS.splitlines()}
    return {line for line in lines if len(line) > 20 and not line.startswith(('"""', "import"))} | {"WANTED_SHARPNESS"}


@pytest.mark.parametrize("name", [*ATTACKS, *HONEST])
def test_feedback_shows_nothing_hidden(world, name):
    page = world["course"] / "feedback" / name / NAME / f"{NAME}.html"
    raw = page.read_text()
    text = html.unescape(re.sub(r"<[^>]+>", "", raw))
    assert not [line for line in hidden_lines() if line in text or line in raw]
    assert "drawn_for_the_hidden_test" not in text and "onerror=alert" not in raw.replace("&lt;", "<") or "&lt;" in raw
    assert "<script>alert" not in raw and "<img src=x" not in raw


COLD = ["02-transformer-pass", "05b-imports-answer", "10b-many-threads", "14b-exits", "m-namespaces", "x2-reaches-out"]


@pytest.mark.parametrize("name", COLD)
def test_a_cold_kernel_is_as_safe(sandbox, bundle, tmp_path, name):
    """Where no zygote can be had, every kernel has a bubblewrap of its own."""
    ATTACKS[name].hand_in(tmp_path, name)
    result = grade_one(bundle, pack(tmp_path / "submitted" / name / NAME, NAME, LIMITS), name)
    assert (result["score"], result["status"]) == (ATTACKS[name].score, ATTACKS[name].status), result
    assert ATTACKS[name].flags <= {flag["kind"] for flag in result["flags"]}
    outputs = [output for cell in result["notebook"]["cells"] for output in cell.get("outputs", [])]
    said = "".join(str(output.get("text", "")) for output in outputs)
    assert ATTACKS[name].says in said, said[-2000:]
    if name == "m-namespaces":
        assert "OPENED" not in said and "UNSHARE 0" not in said and "MOUNT 0" not in said and "TRACE 0" not in said
        assert set(re.findall(r"Cap(?:Eff|Prm|Bnd|Amb):\\t(\w+)", said)) == {"0" * 16} and "FIRST" in said
