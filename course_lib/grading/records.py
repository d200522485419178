"""The grader's own record of what has been graded, so that a run killed at any moment can be taken up again.

One file a student, replaced in one step. nbgrader takes the folder `autograded/` for "graded", which a crash
makes wrong; here a result counts only if it is whole and belongs to exactly these bytes of submission and bundle.
"""

from __future__ import annotations

import hashlib
import json
import urllib.parse
from pathlib import Path
from typing import Any

from sqlalchemy.engine import make_url

from course_lib.layout import replace_file


class Records:
    """Results of one assignment, in `<course>/.cache/grading/<assignment>`; safe to delete: all is regraded."""

    def __init__(self, course_dir: str | Path, assignment: str) -> None:
        """Open the records; there are none at first."""
        self._folder = Path(course_dir) / ".cache" / "grading" / assignment
        self._folder.mkdir(parents=True, exist_ok=True)

    def find(self, student: str, submission: str, bundle: str) -> dict[str, Any] | None:
        """Give the result for exactly this submission and bundle.

        Args:
            student: the student's id.
            submission: digest of the packed submission.
            bundle: digest of the packed bundle.

        Returns:
            The result, or None if there is none or it is of other bytes.
        """
        result = self.latest(student)
        if result and (result.get("submission"), result.get("bundle")) == (submission, bundle):
            return result
        return None

    def latest(self, student: str) -> dict[str, Any] | None:
        """Give a student's last result, whatever it belongs to."""
        try:
            return json.loads(self._path(student, "json").read_bytes())
        except (OSError, ValueError):
            return None

    def record(self, result: dict[str, Any]) -> None:
        """Keep a result; it replaces the student's earlier one and is not yet merged."""
        self._path(result["student"], "merged").unlink(missing_ok=True)
        replace_file(self._path(result["student"], "json"), json.dumps(result).encode())

    def is_merged(self, result: dict[str, Any], gradebook: str) -> bool:
        """Tell whether a result has reached a gradebook."""
        try:
            return self._path(result["student"], "merged").read_text() == _stamp(result, gradebook)
        except (OSError, KeyError):
            return False

    def mark_merged(self, result: dict[str, Any], gradebook: str) -> None:
        """Note that a result has reached a gradebook."""
        replace_file(self._path(result["student"], "merged"), _stamp(result, gradebook).encode())

    def _path(self, student: str, suffix: str) -> Path:
        name = urllib.parse.quote(student, safe="", errors="replace")
        if len(name) > 150:  # a file's name has room for 255
            name = f"{name[:100]}-{hashlib.sha256(student.encode()).hexdigest()[:32]}"
        return self._folder / f"{name}.{suffix}"


def _stamp(result: dict[str, Any], gradebook: str) -> str:
    return json.dumps([result["submission"], result["bundle"], make_url(gradebook).render_as_string()])  # no password
