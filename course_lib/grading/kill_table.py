"""Validate the grader: run wrong and right versions of every task through the real graded cells.

A graded cell is worth what it tells apart. The wrong versions (``MUTANTS`` in ``tests/test_X.py``) must lose its
points, right ones by another algorithm (``ALTERNATIVES``) must keep them, and the stub scores nothing.
"""

import contextlib
import importlib
import inspect
import multiprocessing
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import nbformat

from course_lib.grading.probes import graded_cells
from course_lib.layout import course_dir, topic_files
from course_lib.sync import exercised, grading_metadata

HIDDEN = "### BEGIN HIDDEN TESTS"


class Verdict(NamedTuple):
    """What the graded cells of a function said of one version of it."""

    task: str
    kind: str  # library, stub, mutant or alternative
    version: str
    passed: bool
    killer: str  # "visible" or "hidden", the part that refused it; "" if it passed
    reason: str  # the error's first line; "" if it passed

    @property
    def as_wanted(self) -> bool:
        """Right versions pass, wrong ones do not."""
        return self.passed == (self.kind in {"library", "alternative"})


def kill_table(topic: str, course: Path | None = None) -> list[Verdict]:
    """Run all versions of all tasks of a topic through the graded cells of its source notebook.

    Args:
        topic: the topic's name.
        course: the course's folder; found from the current folder if None.

    Returns:
        One verdict a version, in the order of the tasks: library, stub, mutants, alternatives.
    """
    course = course or course_dir()
    return [verdict for task in exercised(topic, course) for verdict in _trials(topic, task, course)]


def kill_tables(topics: Iterable[str], course: Path | None = None) -> Iterator[tuple[str, list[Verdict]]]:
    """The kill tables of several topics, made side by side on all processors.

    Args:
        topics: the topics' names.
        course: the course's folder; found from the current folder if None.

    Yields:
        A topic and its kill table, in the order given, as soon as it is there.
    """
    course = course or course_dir()
    context = multiprocessing.get_context("spawn")  # a notebook's threads must not be forked
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        trials = {
            topic: [pool.submit(_trials, topic, task, course) for task in exercised(topic, course)] for topic in topics
        }
        for topic, tasks in trials.items():
            yield topic, [verdict for task in tasks for verdict in task.result()]


def _trials(topic: str, task: str, course: Path) -> list[Verdict]:
    """All versions of one task."""
    with _tests_importable(course), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a wrong version may divide by zero, and need not say so
        tests = importlib.import_module(f"test_{topic}")
        library = getattr(importlib.import_module(f"course_lib.{topic}"), task)
        cells = _sources(topic_files(topic, course).solution)
        stub = _sources(topic_files(topic, course).exercise)[task]
        return [
            Verdict(task, kind, version, *_try(cells, task, implementation))
            for kind, versions in {
                "library": {"course_lib": lambda space: library},
                "stub": {"as released": lambda space: _defined(stub, task, space)},
                "mutant": _positional(tests.MUTANTS.get(task, {}), library),
                "alternative": _positional(tests.ALTERNATIVES.get(task, {}), library),
            }.items()
            for version, implementation in versions.items()
        ]


def _positional(versions: dict[str, Callable], library: Callable) -> dict[str, Callable]:
    """Versions may name their arguments as they like: keywords are put in the library's order first."""
    signature = inspect.signature(library)

    def bound(version: Callable) -> Callable:
        def call(*args, **kwargs):
            arguments = signature.bind(*args, **kwargs)
            arguments.apply_defaults()
            return version(*arguments.args)

        return lambda space: call

    return {name: bound(version) for name, version in versions.items()}


def _defined(source: str, task: str, space: dict) -> Callable:
    exec(compile(source, f"<{task}>", "exec"), space)
    return space[task]


def _try(cells: dict[str, str], task: str, implementation: Callable[[dict], Callable]) -> tuple[bool, str, str]:
    """Execute a task's graded cells, visible parts first, in a namespace where its name is bound to a version."""
    setup = "\n".join(line for line in cells["setup"].splitlines() if "begin" not in line)
    space: dict = {}
    exec(compile(setup, "<setup>", "exec"), space)
    space[task] = implementation(space)
    for cell in graded_cells(task, cells):
        visible, _, hidden = cells[cell].partition(HIDDEN)
        for part, source in (("visible", visible), ("hidden", hidden)):
            try:
                exec(compile(source, f"<{part} tests of {cell}>", "exec"), space)
            except Exception as error:  # whatever a wrong version raises, it has lost
                first_line = (str(error).splitlines() or [""])[0]
                return False, part, f"{type(error).__name__}: {first_line}"
    return True, "", ""


def _sources(path: Path) -> dict[str, str]:
    cells = nbformat.read(path, as_version=4).cells
    return {meta["grade_id"]: cell.source for cell in cells if (meta := grading_metadata(cell))}


@contextlib.contextmanager
def _tests_importable(course: Path) -> Iterator[None]:
    """Let ``import test_X`` and ``from checks import X`` work, and hidden tests find the checks."""
    tests = str(course / "tests")
    before = os.environ.get("COURSE_CHECKS")
    os.environ["COURSE_CHECKS"] = str(course / "tests" / "checks")
    sys.path.insert(0, tests)
    try:
        yield
    finally:
        sys.path.remove(tests)
        if before is None:
            del os.environ["COURSE_CHECKS"]
        else:
            os.environ["COURSE_CHECKS"] = before
