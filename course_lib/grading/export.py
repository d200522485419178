"""Take grades out: a CSV of the class, or the file that Moodle or Canvas gave you with one column filled in.

Every cell goes through a real CSV writer, and text that a spreadsheet would run as a formula is made text.
"""

import csv
import io
import re
from pathlib import Path
from typing import NamedTuple

from course_lib.grading.gradebook import default_url, load_nbgrader

FORMATS = ("csv", "moodle", "canvas")
_NUMBER = re.compile(r"_(\d+)$")


class Grade(NamedTuple):
    """One student's grade, as it stands in the gradebook: corrections by hand and late penalties included."""

    student: str
    score: float
    most: float
    tasks: dict[str, float]
    by_hand: bool  # somebody should still look at it
    first_name: str = ""
    last_name: str = ""


def grades(course_dir: Path, assignment: str, db: str | None = None) -> list[Grade]:
    """Read the grades of an assignment.

    Args:
        course_dir: the course's root.
        assignment: name of the assignment.
        db: SQLAlchemy URL of the gradebook; the course's own by default.

    Returns:
        One grade a submission, by student.
    """
    with load_nbgrader().Gradebook(db or default_url(course_dir)) as gradebook:
        found = [
            Grade(
                submission.student.id,
                submission.score - submission.late_submission_penalty,
                submission.max_score,
                {
                    grade.name.removeprefix("test_"): grade.score
                    for notebook in submission.notebooks
                    for grade in notebook.grades
                },
                submission.needs_manual_grade,
                submission.student.first_name or "",
                submission.student.last_name or "",
            )
            for submission in gradebook.assignment_submissions(assignment)
        ]
    return sorted(found)


def spreadsheet_text(text: str) -> str:
    """Text that no spreadsheet takes for a formula; numbers stay numbers.

    >>> print(spreadsheet_text('=HYPERLINK("http://example.org")'))
    '=HYPERLINK("http://example.org")
    >>> print(spreadsheet_text("-3.5"), spreadsheet_text("-"))
    -3.5 -
    """
    if re.fullmatch(r"[+-]?(\d+([.,]\d+)?)?", text) or not text.lstrip().startswith(("=", "+", "-", "@")):
        return text if not text.startswith(("\t", "\r", "\n")) else f"'{text}"
    return f"'{text}"


def export(
    course_dir: Path,
    assignment: str,
    kind: str = "csv",
    *,
    template: Path | None = None,
    column: str | None = None,
    db: str | None = None,
) -> tuple[str, list[str]]:
    """The grades as a file to upload.

    Args:
        course_dir: the course's root.
        assignment: name of the assignment.
        kind: ``"csv"``; or ``"moodle"`` and ``"canvas"``, which fill in the file that the platform gave out (Moodle's
            *grading worksheet*, Canvas's exported gradebook) and find students by the number in their id.
        template: that file; required for Moodle and Canvas.
        column: the column to fill; ``Grade`` for Moodle, for Canvas the only one whose name holds the assignment's.
        db: SQLAlchemy URL of the gradebook; the course's own by default.

    Returns:
        The text of the file, and remarks: who is graded but not in the template, and a maximum that is not ours.

    Raises:
        ValueError: an unknown kind, no template, or a template without the columns that are needed.
    """
    if kind not in FORMATS:
        raise ValueError(f"format must be known: wanted one of {', '.join(FORMATS)}, got {kind!r}.")
    found = grades(course_dir, assignment, db)
    if not found:
        raise ValueError(f"No grades of {assignment} in the gradebook: run course grade {assignment} first.")
    if kind == "csv":
        return _plain(found), []
    if template is None:
        raise ValueError(f"{kind} needs the file that it gave out: wanted --template FILE, got none.")
    if not template.is_file():
        raise ValueError(f"{kind} needs the file that it gave out: {template} is not there. Download it, and name it.")
    try:
        rows = list(csv.reader(io.StringIO(template.read_text(encoding="utf-8-sig"))))
    except UnicodeDecodeError:  # a spreadsheet has saved it
        raise ValueError(
            f"{template} is not in UTF-8: download it anew, and do not save it in a spreadsheet."
        ) from None
    key, place = _columns(rows, kind, column or (assignment if kind == "canvas" else "Grade"))
    most = {f"{grade.most:g}" for grade in found}
    remarks = [
        f"the maximum in {template} is {theirs}, the exercise has {', '.join(sorted(most))} points: "
        "make them equal on the platform, or the marks mean something else there"
        for theirs in sorted(_maxima(rows, kind, place) - most if most else ())
    ]
    text, missing = _filled(rows, found, key, place)
    return text, remarks + [f"not in {template}: {name}" for name in missing]


def _plain(found: list[Grade]) -> str:
    tasks = list(dict.fromkeys(task for grade in found for task in grade.tasks))
    head = ["student", "first_name", "last_name", *tasks, "score", "max_score", "needs_a_look"]
    lines = []
    for g in found:
        points = [*(_number(g.tasks.get(task)) for task in tasks), _number(g.score), _number(g.most)]
        lines.append([g.student, g.first_name, g.last_name, *points, str(g.by_hand)])
    return _written([head, *lines])


def _columns(rows: list[list[str]], kind: str, name: str) -> tuple[int, int]:
    """Where the platform keeps the student's number, and where the grade goes."""
    head = rows[0] if rows else []
    key = {"moodle": "Identifier", "canvas": "ID"}[kind]
    exact = [i for i, title in enumerate(head) if title == name]
    alike = exact or [i for i, title in enumerate(head) if kind == "canvas" and name.lower() in title.lower()]
    if key not in head or len(alike) != 1:
        raise ValueError(
            f"a {kind} file has the columns {key!r} and one {name!r}: got {', '.join(head) or 'an empty file'}. "
            "Download it anew, or name the column with --column."
        )
    return head.index(key), alike[0]


def _maxima(rows: list[list[str]], kind: str, column: int) -> set[str]:
    """What the platform takes for full marks."""
    if kind == "canvas":
        cells = [row[column] for row in rows[1:] if row and row[0].strip() == "Points Possible" and len(row) > column]
    else:
        cells = [row.get("Maximum Grade", "") for row in (dict(zip(rows[0], row, strict=False)) for row in rows[1:])]
    return {f"{float(cell):g}" for cell in cells if re.fullmatch(r"\d+([.]\d+)?", cell)}


def _filled(rows: list[list[str]], found: list[Grade], key: int, column: int) -> tuple[str, list[str]]:
    by_number = {match[1]: grade for grade in found if (match := _NUMBER.search(grade.student))}
    missing = {grade.student for grade in found}
    for row in rows[1:]:
        number = re.sub(r"\D", "", row[key]) if len(row) > max(key, column) else ""
        if number in by_number:
            row[column] = _number(by_number[number].score)
            missing.discard(by_number[number].student)
    return _written(rows), sorted(missing)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _written(rows: list[list[str]]) -> str:
    out = io.StringIO()
    csv.writer(out).writerows([[spreadsheet_text(cell) for cell in row] for row in rows])
    return out.getvalue()
