"""Write each student's feedback page: their notebook, what each test claims, and what is wrong in words.

The page is made from the executed notebook, in which hidden tests never were. Scores and comments come from the
gradebook, so that what a person corrected in formgrader is what the student reads.
"""

from __future__ import annotations

import fnmatch
import html
import json
from pathlib import Path
from typing import Any

from course_lib.grading.gradebook import default_url, load_nbgrader
from course_lib.grading.quick_imports import without_iri_grammar
from course_lib.grading.records import Records
from course_lib.grading.submission import EXCHANGE_FILES, exchange_file
from course_lib.layout import replace_file

_PLAIN = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title></head>
<body><h1>{title}</h1><p>Score: {score:g} of {most:g}</p><p>{message}</p></body></html>
"""


def feedback(
    course_dir: str | Path, assignment: str, *, students: str = "*", db: str | None = None, stale_only: bool = False
) -> list[Path]:
    """Write `feedback/<student>/<assignment>/<assignment>.html` for every graded submission.

    Beside it go the two small files by which `nbgrader release_feedback` knows the submission, where it has them.

    Args:
        course_dir: the course's root.
        assignment: name of the assignment.
        students: a glob over student ids.
        db: SQLAlchemy URL of the gradebook; the course's own by default.
        stale_only: leave a page that is newer than the executed notebook. Corrections by hand need all of them.

    Returns:
        The pages that were written, by student.
    """
    root, records = Path(course_dir).resolve(), Records(course_dir, assignment)
    url = db or default_url(course_dir)
    gradebook = load_nbgrader().Gradebook(url)
    with gradebook:
        submissions = gradebook.assignment_submissions(assignment)
        scores = {
            submission.student.id: (submission.score - submission.late_submission_penalty, submission.max_score)
            for submission in submissions
        }
    exporter = _exporter()
    pages = []
    for student in sorted(name for name in scores if fnmatch.fnmatchcase(name, students)):
        page = root / "feedback" / student / assignment / f"{assignment}.html"
        notebook = root / "autograded" / student / assignment / f"{assignment}.ipynb"
        if not notebook.is_file():
            content = _plain(assignment, _why(records.latest(student) or {}), *scores[student])
        elif stale_only and page.is_file() and page.stat().st_mtime_ns > notebook.stat().st_mtime_ns:
            continue
        else:
            try:
                content = _render(exporter, notebook, assignment, student, url)
            except Exception as problem:  # what one student wrote must not keep the others from their pages
                message = f"This work could not be shown as a page: {type(problem).__name__}."
                content = _plain(assignment, message, *scores[student])
        replace_file(page, content.encode())
        for name in EXCHANGE_FILES:
            text = exchange_file(root / "submitted" / student / assignment, name)
            if text is not None:
                replace_file(page.with_name(name), text.encode())
        pages.append(page)
    return pages


def _exporter() -> Any:
    with without_iri_grammar():
        import nbgrader
        from nbconvert.exporters import HTMLExporter
        from nbconvert.preprocessors import CSSHTMLHeaderPreprocessor
        from nbgrader.preprocessors import GetGrades

    forms = Path(nbgrader.__file__).parent / "server_extensions" / "formgrader"
    bootstrap = forms / "static" / "node_modules" / "bootstrap" / "dist" / "css"
    exporter = HTMLExporter(
        template_name="feedback",
        extra_template_basedirs=[str(forms / "templates")],
        extra_template_paths=[str(bootstrap)],
        sanitize_html=True,
    )
    exporter.register_preprocessor(GetGrades, enabled=True)
    exporter.register_preprocessor(CSSHTMLHeaderPreprocessor, enabled=True)
    return exporter


def _render(exporter: Any, path: Path, assignment: str, student: str, url: str) -> str:
    import nbformat

    content = json.loads(path.read_text(encoding="utf-8"))
    notebook = nbformat.from_dict(content)
    names = {"notebook": assignment, "assignment": assignment, "student": student, "db_url": url}
    page, _ = exporter.from_notebook_node(notebook, resources={"nbgrader": names, "metadata": {"name": assignment}})
    return page


def _why(result: dict[str, Any]) -> str:
    return f"Nothing could be run: {result.get('status', 'missing')}. {result.get('message', '')}"


def _plain(assignment: str, message: str, score: float, most: float) -> str:
    return _PLAIN.format(title=html.escape(assignment), score=score, most=most, message=html.escape(message))
