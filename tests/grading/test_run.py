"""Grading a class: resumable at any moment, idempotent, one writer, and a gradebook that nbgrader reads."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from grading import tiny
from grading.conftest import LIMITS, mounted, private_tmp
from grading.tiny import NAME, RIGHT, STUBS, WRONG, notebook

from course_lib.grading import engines
from course_lib.grading import feedback as module_of_feedback
from course_lib.grading.feedback import feedback
from course_lib.grading.gradebook import GradebookMismatch, Writer, default_url, load_nbgrader
from course_lib.grading.records import Records
from course_lib.grading.run import Result, grade
from course_lib.grading.sandbox import SandboxUnavailable

HALF = RIGHT | {"clipped": WRONG["clipped"]}


@pytest.fixture
def run(server):
    """Grade on the session's fork server, which every start of one's own would cost seconds."""

    def on_session_server(root, **options):
        shared = {"engine": lambda bundle, jobs: engines.on_server(server, jobs)}
        return as_dict(grade(root, NAME, limits=LIMITS, **shared | options))

    return on_session_server


def as_dict(results):
    return {result.student: result for result in results}


@pytest.fixture
def class_of_three(sandbox, course, tmp_path):
    """A course of one's own with three submissions."""
    root = tmp_path / "course"
    shutil.copytree(course, root, ignore=shutil.ignore_patterns("submitted", ".cache", "gradebook.db", "autograded"))
    for student, solutions in {"ann": RIGHT, "bob": HALF, "cy": WRONG}.items():
        tiny.submit(root, student, notebook(solutions))
    return root


def scores(results):
    return {student: result.score for student, result in results.items()}


def rows(root):
    """The gradebook's scores by student and cell."""
    with load_nbgrader().Gradebook(default_url(root)) as book:
        return {
            submission.student.id: {grade.name: grade.score for grade in submission.notebooks[0].grades}
            for submission in book.assignment_submissions(NAME)
        }


def test_a_second_run_grades_nothing_and_changes_nothing(class_of_three, run):
    first = run(class_of_three)
    before, content = rows(class_of_three), (class_of_three / "gradebook.db").read_bytes()
    second = run(class_of_three)
    assert scores(first) == scores(second) == {"ann": 6.0, "bob": 4.0, "cy": 0.0}
    assert not any(result.cached for result in first.values()) and all(result.cached for result in second.values())
    assert rows(class_of_three) == before and (class_of_three / "gradebook.db").read_bytes() == content
    assert before["bob"] == {"test_mean_square": 2.0, "test_centred": 2.0, "test_clipped": 0.0}


def test_what_changes_is_graded_again(class_of_three, run):
    run(class_of_three, students="[ac]*")
    tiny.submit(class_of_three, "ann", notebook(WRONG))
    book = notebook(RIGHT)
    book["cells"] = [cell for cell in book["cells"] if cell["id"] != "test_centred"]
    tiny.submit(class_of_three, "cy", book)
    again = run(class_of_three)
    assert scores(again) == {"ann": 0.0, "bob": 4.0, "cy": 6.0}
    assert {student: sum(row.values()) for student, row in rows(class_of_three).items()} == scores(again)
    assert [flag["kind"] for flag in again["cy"].flags] == ["deleted test"]


def test_a_lost_gradebook_is_filled_again_without_grading(class_of_three, run):
    run(class_of_three, students="ann")
    before = rows(class_of_three)
    (class_of_three / "gradebook.db").unlink()
    assert run(class_of_three, students="ann")["ann"].cached
    assert rows(class_of_three) == before


def test_a_torn_record_is_graded_again(class_of_three, run):
    run(class_of_three, students="ann")
    record = next((class_of_three / ".cache" / "grading" / NAME).glob("ann.json"))
    record.write_bytes(record.read_bytes()[:100])
    assert not run(class_of_three, students="ann")["ann"].cached


def test_a_persons_grade_stays_and_is_looked_at_again(class_of_three, run):
    run(class_of_three, students="bob")
    with load_nbgrader().Gradebook(default_url(class_of_three)) as book:
        book.find_grade("test_clipped", NAME, NAME, "bob").manual_score = 1.5
        book.db.commit()
    tiny.submit(class_of_three, "bob", notebook(RIGHT))
    run(class_of_three, students="bob")
    with load_nbgrader().Gradebook(default_url(class_of_three)) as book:
        mark = book.find_grade("test_clipped", NAME, NAME, "bob")
        assert (mark.auto_score, mark.manual_score, mark.score, mark.needs_manual_grade) == (2.0, 1.5, 1.5, True)


def test_a_page_shows_a_persons_grade_also_where_nothing_could_be_run(class_of_three, run):
    (class_of_three / "submitted" / "cy" / NAME / f"{NAME}.ipynb").write_text("not a notebook")
    run(class_of_three, students="cy")
    with load_nbgrader().Gradebook(default_url(class_of_three)) as book:
        book.find_grade("test_clipped", NAME, NAME, "cy").manual_score = 1.5
        book.db.commit()
    (page,) = feedback(class_of_three, NAME)
    assert "Score: 1.5 of 6" in page.read_text() and "unreadable" in page.read_text()


def test_a_page_that_cannot_be_made_keeps_nobody_else_from_theirs(class_of_three, run, monkeypatch):
    run(class_of_three)
    render = module_of_feedback._render

    def broken_for_ann(exporter, path, assignment, student, url):
        if student == "ann":
            raise RecursionError("too deep")
        return render(exporter, path, assignment, student, url)

    monkeypatch.setattr(module_of_feedback, "_render", broken_for_ann)
    pages = {page.parent.parent.name: page.read_text() for page in feedback(class_of_three, NAME)}
    assert len(pages) == 3 and "Score: 6 of 6" in pages["ann"] and "RecursionError" in pages["ann"]
    assert "Claim: " in pages["bob"]


def test_a_name_reaches_the_gradebook_and_a_persons_correction_stays(class_of_three, run):
    run(class_of_three)
    for student, name in {"ann": "Ada van der Berg", "bob": "Benjamin Tester"}.items():
        (class_of_three / "submitted" / student / "name.txt").write_text(name)
    with load_nbgrader().Gradebook(default_url(class_of_three)) as book:
        book.update_or_create_student("bob", first_name="Ben", last_name="T.")
    assert all(result.cached for result in run(class_of_three).values())
    with load_nbgrader().Gradebook(default_url(class_of_three)) as book:
        names = {student.id: (student.first_name, student.last_name) for student in book.students}
    assert (names["ann"], names["bob"]) == (("Ada", "van der Berg"), ("Ben", "T."))


def test_only_stale_pages_are_written_anew(class_of_three, run):
    run(class_of_three)
    assert len(feedback(class_of_three, NAME, stale_only=True)) == 3
    tiny.submit(class_of_three, "bob", notebook(RIGHT))
    run(class_of_three)
    assert [page.parts[-3] for page in feedback(class_of_three, NAME, stale_only=True)] == ["bob"]
    assert feedback(class_of_three, NAME, stale_only=True) == []


def test_the_time_of_handing_in_reaches_the_gradebook(class_of_three, run):
    folder = class_of_three / "submitted" / "ann" / NAME
    (folder / "timestamp.txt").write_text("2026-03-01 12:00:00 UTC\n")
    (class_of_three / "submitted" / "cy" / NAME / "timestamp.txt").write_text("yesterday")
    run(class_of_three, students="[ac]*")
    with load_nbgrader().Gradebook(default_url(class_of_three)) as book:
        assert str(book.find_submission(NAME, "ann").timestamp) == "2026-03-01 12:00:00"
        assert book.find_submission(NAME, "cy").timestamp is None


def test_feedback_carries_what_the_exchange_knows_it_by(class_of_three, run, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("of this machine")
    ann, bob, _ = (class_of_three / "submitted" / name / NAME for name in ("ann", "bob", "cy"))
    (ann / "submission_secret.txt").write_text("of ann\n")
    (bob / "submission_secret.txt").symlink_to(secret)
    run(class_of_three)
    feedback(class_of_three, NAME)
    kept = {path.parts[-3]: path.read_text() for path in class_of_three.glob("feedback/*/*/submission_secret.txt")}
    assert kept == {"ann": "of ann\n"}


def test_progress_counts_every_result(class_of_three, run):
    seen = []
    run(class_of_three, progress=lambda done, total, result: seen.append((done, total, result and result.student)))
    assert seen[0] == (0, 3, None) and [done for done, _, _ in seen] == [0, 1, 2, 3]
    assert {student for _, _, student in seen[1:]} == {"ann", "bob", "cy"}


def test_unsandboxed_results_do_not_pass_for_sandboxed_ones(class_of_three, run):
    loose = run(class_of_three, students="ann", sandbox=False, engine=None)["ann"]
    strict = run(class_of_three, students="ann")["ann"]
    assert (loose.sandbox, loose.score, strict.sandbox, strict.cached) == ("none", 6.0, "course-zygote", False)


def test_without_a_sandbox_nothing_is_run(class_of_three, monkeypatch, run):
    monkeypatch.setattr("course_lib.grading.sandbox._trouble", lambda: "no program bwrap")
    with pytest.raises(SandboxUnavailable, match="bubblewrap"):
        run(class_of_three)
    assert not (class_of_three / "gradebook.db").exists() and not (class_of_three / "autograded").exists()


def test_another_release_in_the_gradebook_is_refused(class_of_three, run):
    run(class_of_three, students="ann")
    path = class_of_three / "exercises" / NAME / f"{NAME}.ipynb"
    book = json.loads(path.read_text())
    book["cells"] = [cell for cell in book["cells"] if cell["id"] != "test_clipped"]
    path.write_text(json.dumps(book))
    with pytest.raises(GradebookMismatch, match="generate_assignment"):
        run(class_of_three, students="ann")


def test_other_points_in_the_gradebook_are_refused(class_of_three, run):
    run(class_of_three, students="ann")
    path = class_of_three / "exercises" / NAME / f"{NAME}.ipynb"
    path.write_text(path.read_text().replace('"points": 2', '"points": 5'))
    with pytest.raises(GradebookMismatch, match="course release"):
        run(class_of_three, students="ann")


def test_nothing_handed_in_leaves_nobody_at_work(class_of_three, run, monkeypatch):
    ended = []
    monkeypatch.setattr("course_lib.grading.run.prepare", lambda url: ended.append(time.sleep(0.5)))
    assert run(class_of_three, students="nobody") == {} and ended


def test_an_unreleased_assignment_is_refused(class_of_three):
    with pytest.raises(FileNotFoundError, match="course release"):
        grade(class_of_three, "nothing")


def test_trouble_of_the_grader_is_no_grade(class_of_three, run):
    lost = {"student": "ann", "status": "lost", "score": 0.0, "max_score": 6.0, "message": "?"}
    result = run(class_of_three, students="ann", engine=lambda bundle, jobs: iter([lost]))["ann"]
    assert not result.definite and rows(class_of_three) == {}
    assert run(class_of_three, students="ann")["ann"].score == 6.0


CHILD = """
import sys
from course_lib.grading.run import grade
from grading.conftest import LIMITS, mounted, private_tmp
grade(sys.argv[1], "averages", limits=LIMITS, progress=lambda done, total, result: print(done, flush=True))
"""


def test_killed_in_the_middle_and_taken_up_again(class_of_three, run):
    wanted = {}
    for number in range(9):
        solutions = [RIGHT, HALF, STUBS][number % 3]
        tiny.submit(class_of_three, f"s{number}", notebook(solutions))
        wanted[f"s{number}"] = [6.0, 4.0, 0.0][number % 3]
    with private_tmp() as tmp:
        _kill_after_four(class_of_three, tmp)
        results = run(class_of_three, engine=None)
        assert list(tmp.iterdir()) == []  # what the killed one left behind was swept up
    tmp.rmdir()
    assert scores(results) == wanted | {"ann": 6.0, "bob": 4.0, "cy": 0.0}
    assert 4 <= sum(result.cached for result in results.values()) < 12
    assert {student: sum(row.values()) for student, row in rows(class_of_three).items()} == scores(results)


def _kill_after_four(root, tmp):
    path = os.pathsep.join([str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path, "TMPDIR": str(tmp)}
    command = [sys.executable, "-c", CHILD, str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
        while int(child.stdout.readline()) < 4:
            pass
        child.kill()
    deadline = time.monotonic() + 30
    while mounted(tmp):
        assert time.monotonic() < deadline, "a sandbox outlived its grader"
        time.sleep(0.1)


def test_a_merge_that_fails_costs_one_student_and_is_tried_again(class_of_three, run, monkeypatch):
    genuine = Writer.merge

    def merge(self, result, timestamp=None):
        if result["student"] == "bob":
            raise OSError("disk full")
        genuine(self, result, timestamp)

    monkeypatch.setattr(Writer, "merge", merge)
    results = run(class_of_three)
    assert results["bob"].status == "error" and "disk full" in results["bob"].message
    assert set(rows(class_of_three)) == {"ann", "cy"}
    monkeypatch.undo()
    assert run(class_of_three)["bob"].cached and set(rows(class_of_three)) == {"ann", "bob", "cy"}


def test_a_name_that_cannot_be_printed_is_refused(class_of_three, run):
    tiny.submit(class_of_three, "x\ny", notebook(RIGHT))
    with pytest.raises(ValueError, match="Rename it"):
        run(class_of_three)


def test_record_names_are_safe(tmp_path):
    records = Records(tmp_path, NAME)
    result = {"student": "../../x y/ä", "submission": "1", "bundle": "2", "status": "graded"}
    records.record(result)
    assert records.find("../../x y/ä", "1", "2") == result and records.find("../../x y/ä", "1", "3") is None
    assert [path.parent.name for path in tmp_path.rglob("*.json")] == [NAME]


def test_merged_is_known_by_gradebook(tmp_path):
    records = Records(tmp_path, NAME)
    result = {"student": "ann", "submission": "1", "bundle": "2"}
    records.record(result)
    records.mark_merged(result, "sqlite:///a")
    assert records.is_merged(result, "sqlite:///a") and not records.is_merged(result, "sqlite:///b")
    records.record(result)
    assert not records.is_merged(result, "sqlite:///a")


def test_result_of_a_dict_ignores_what_it_does_not_show():
    assert Result.of({"student": "a", "status": "graded", "score": 1.0, "max_score": 2.0, "notebook": {}}).definite
