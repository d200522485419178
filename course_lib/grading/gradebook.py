"""The one writer that brings results into nbgrader's gradebook; everything else of nbgrader reads it as ever."""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from sqlalchemy.exc import SAWarning

from course_lib.grading.bundle import Bundle, grade_id, marking, text
from course_lib.grading.collect import first_and_last
from course_lib.grading.probes import graded_cells
from course_lib.grading.quick_imports import without_iri_grammar
from course_lib.layout import replace_file

_RETRY_SECONDS = (0.1, 0.5, 2.0, 5.0)


class GradebookMismatch(ValueError):
    """The gradebook knows another version of the assignment than the one that was released."""


def default_url(course_dir: str | Path) -> str:
    """Give the URL of a course's own SQLite gradebook, the one that nbgrader uses by default."""
    return f"sqlite:///{Path(course_dir).resolve() / 'gradebook.db'}"


def load_nbgrader() -> ModuleType:
    """Import nbgrader's API, which takes a second or two: not before it is needed."""
    with without_iri_grammar():
        api = importlib.import_module("nbgrader.api")
    # nbgrader builds a submission's rows before it adds them to the session, which SQLAlchemy 2 remarks on.
    warnings.filterwarnings("ignore", category=SAWarning, module=r"nbgrader\.api")
    return api


def prepare(url: str) -> None:
    """Import nbgrader and create the gradebook if there is none, which takes it seconds: run this beside others."""
    load_nbgrader().Gradebook(url).close()


class Writer:
    """An open gradebook; use in one thread, in a with-block.

    Attributes:
        students: ids of those for whom it held a submission of this assignment when it was opened.
    """

    def __init__(self, url: str, course_dir: str | Path, bundle: Bundle) -> None:
        """Open the gradebook and make sure that it knows the assignment.

        Args:
            url: any URL that SQLAlchemy understands.
            course_dir: the course's root; `autograded` is written below it.
            bundle: the assignment.

        Raises:
            GradebookMismatch: if the gradebook holds other graded cells, or other points, for this assignment.
        """
        self._gradebook = load_nbgrader().Gradebook(url)
        self._root, self._bundle = Path(course_dir), bundle
        self._name = bundle.assignment
        try:
            self._register()
            known = self._gradebook.assignment_submissions(self._name)
            self.students = {submission.student.id for submission in known}
        except BaseException:
            self._gradebook.close()
            raise

    def __enter__(self) -> Writer:
        """Give the writer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the gradebook."""
        self._gradebook.close()

    def merge(self, result: dict[str, Any], timestamp: str | None = None) -> None:
        """Write one result: the executed notebook, then the submission and its grades.

        A grade that a person has given stays, and is marked to be looked at again, as nbgrader does.

        Args:
            result: a dict of `grade_one` with a definite status.
            timestamp: when it was handed in, as nbgrader's timestamp.txt has it.

        Raises:
            ValueError: if a score is not a finite number between 0 and its maximum.
        """
        _require_sane(result)
        self._write_notebook(result)
        self._patiently(lambda: self._write_grades(result, timestamp))

    def _patiently(self, write_down: Callable[[], None]) -> None:
        for seconds in (*_RETRY_SECONDS, None):
            try:
                write_down()
                return
            except Exception as error:  # another program may hold the database's lock for a moment
                self._gradebook.db.rollback()
                if seconds is None or "locked" not in str(error):
                    raise
                time.sleep(seconds)

    def name_students(self, names: dict[str, str]) -> None:
        """Give names to students of this assignment who have none; what a person entered stays.

        Args:
            names: what a learning platform calls them, by id.
        """
        self._patiently(lambda: self._write_names(names))

    def _write_names(self, names: dict[str, str]) -> None:
        for submission in self._gradebook.assignment_submissions(self._name):
            student = submission.student
            if student.id in names and not (student.first_name or student.last_name):
                student.first_name, student.last_name = first_and_last(names[student.id])
        self._gradebook.db.commit()

    def _write_notebook(self, result: dict[str, Any]) -> None:
        folder = self._root / "autograded" / result["student"] / self._name
        path = folder / f"{self._name}.ipynb"
        if result["notebook"] is None:
            path.unlink(missing_ok=True)
        else:
            replace_file(path, json.dumps(result["notebook"], indent=1, ensure_ascii=False).encode())

    def _write_grades(self, result: dict[str, Any], timestamp: str | None) -> None:
        when = {"timestamp": timestamp} if _is_time(timestamp) else {}
        self._gradebook.update_or_create_student(result["student"])
        submission = self._gradebook.update_or_create_submission(self._name, result["student"], **when)
        (notebook,) = (notebook for notebook in submission.notebooks if notebook.name == self._name)
        flagged = _flagged(result)
        for grade in notebook.grades:
            mark = result["tasks"].get(grade.name)
            grade.auto_score = mark["score"] if mark else None
            doubt = mark is None or grade.manual_score is not None or not flagged.isdisjoint({grade.name, ""})
            grade.needs_manual_grade = doubt
        self._gradebook.db.commit()

    def _register(self) -> None:
        from nbgrader.api import MissingEntry

        with contextlib.suppress(MissingEntry):
            notebook = self._gradebook.find_notebook(self._name, self._name)
            self._require_same({cell.name: cell.max_score for cell in [*notebook.grade_cells, *notebook.task_cells]})
            return
        # One transaction: nbgrader's own functions would wait for the disk once a cell.
        api, session = load_nbgrader(), self._gradebook.db
        assignment = api.Assignment(name=self._name, course_id=self._gradebook.course_id)
        notebook = api.Notebook(name=self._name, kernelspec="{}", assignment=assignment)
        session.add_all([assignment, notebook])
        for cell in self._bundle.notebook["cells"]:
            session.add_all(_rows(api, notebook, cell))
        session.commit()

    def _require_same(self, known: dict[str, float]) -> None:
        wanted = {test.grade_id: test.points for test in self._bundle.tests} | self._bundle.manual
        if known != wanted:
            raise GradebookMismatch(
                f"Gradebook and release hold the same graded cells of {self._name}, with the same points: the release "
                f"has {wanted}, the gradebook {known}. Run: course release {self._name}; for another gradebook than "
                f"the course's own: nbgrader generate_assignment {self._name} --force --db=URL"
            )


def _rows(api: ModuleType, notebook: Any, cell: dict) -> Iterator[Any]:
    name, marks = grade_id(cell), marking(cell)
    points = {"max_score": float(marks.get("points") or 0), "cell_type": cell["cell_type"]}
    if marks.get("grade"):
        yield api.GradeCell(name=name, notebook=notebook, **points)
    if marks.get("solution"):
        yield api.SolutionCell(name=name, notebook=notebook)
    if marks.get("task"):
        yield api.TaskCell(name=name, notebook=notebook, **points)
    if any(marks.get(mark) for mark in ("grade", "solution", "locked", "task")):
        source = {"cell_type": cell["cell_type"], "locked": bool(marks.get("locked")), "source": text(cell)}
        yield api.SourceCell(name=name, notebook=notebook, checksum=marks.get("checksum"), **source)


def _require_sane(result: dict[str, Any]) -> None:
    for name, mark in result["tasks"].items():
        score, most = mark["score"], mark["max"]
        if not (isinstance(score, float) and math.isfinite(score) and 0 <= score <= most):
            raise ValueError(f"A score is a finite number from 0 to its maximum: {name} has {score!r} of {most!r}.")


def _is_time(timestamp: str | None) -> bool:
    from nbgrader.utils import parse_utc

    try:
        return timestamp is not None and parse_utc(timestamp) is not None
    except (ValueError, OverflowError):
        return False


def _flagged(result: dict[str, Any]) -> set[str]:
    """Name the graded cells that a person should look at; the empty name stands for all of them."""
    if result["status"] not in ("graded", "timeout"):
        return {""}
    tests = result["tasks"]
    cells = {flag["cell"] for flag in result["flags"]}
    return {name for cell in cells for name in ([cell] if cell in tests else graded_cells(cell, tests) or [""])}
