"""The grader on trial, for every topic: wrong versions lose points, right ones keep them, the stub scores zero."""

import pytest

from course_lib.grading.kill_table import kill_table
from course_lib.layout import topics

TOPICS = topics()


@pytest.fixture(scope="module", params=TOPICS)
def verdicts(request):
    return kill_table(request.param)


def test_every_mutant_loses_points(verdicts):
    survivors = [f"{v.task}: {v.version}" for v in verdicts if v.kind == "mutant" and v.passed]
    assert survivors == []


def test_mutants_die_of_what_they_compute(verdicts):
    wrong_call = ("TypeError", "NameError", "SyntaxError", "ImportError")
    assert [v for v in verdicts if v.kind == "mutant" and v.reason.startswith(wrong_call)] == []


def test_every_alternative_keeps_its_points(verdicts):
    refused = [f"{v.task}: {v.version}: {v.reason}" for v in verdicts if v.kind == "alternative" and not v.passed]
    assert refused == []


def test_the_library_passes_and_the_stub_does_not(verdicts):
    assert all(v.passed == (v.kind == "library") for v in verdicts if v.kind in {"library", "stub"})


def test_every_task_is_tried_often_enough(verdicts):
    for task in {v.task for v in verdicts}:
        kinds = [v.kind for v in verdicts if v.task == task]
        assert kinds.count("mutant") >= 6 and kinds.count("alternative") >= 2, task
