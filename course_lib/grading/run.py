"""Grade a class: find submissions, skip what is done, fan out, and write each result down as it comes."""

from __future__ import annotations

import contextlib
import fnmatch
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from course_lib.grading import engines
from course_lib.grading.bundle import Bundle, build, digest
from course_lib.grading.collect import read_names
from course_lib.grading.gradebook import Writer, default_url, prepare
from course_lib.grading.limits import Limits
from course_lib.grading.records import Records
from course_lib.grading.sandbox import require_sandbox
from course_lib.grading.submission import exchange_file, pack

INDEFINITE = ("error", "lost")


@dataclass(frozen=True)
class Result:
    """What became of one student's submission.

    Attributes:
        student: the student's id.
        status: one of `grade_one.STATUSES`; `error` and `lost` are the grader's trouble, not the student's.
        score: points earned.
        max_score: points possible.
        tasks: a mark for each test: `score`, `max`, `visible`, `hidden`, `message`, `claim`, `seconds`.
        flags: what a person should look at: `kind`, `cell`, `what`.
        notes: what is merely worth knowing.
        message: why there is no grade, if there is none.
        seconds: wall clock of its grading.
        cached: whether it was graded in an earlier run and is unchanged.
        sandbox: name of the kernel provisioner, `none` for unsandboxed.
    """

    student: str
    status: str
    score: float
    max_score: float
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    flags: list[dict[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    message: str = ""
    seconds: float = 0.0
    cached: bool = False
    sandbox: str = "none"

    @property
    def definite(self) -> bool:
        """Whether the status is final: the grader itself had no trouble."""
        return self.status not in INDEFINITE

    @classmethod
    def of(cls, raw: dict[str, Any], *, cached: bool = False) -> Result:
        """Make a result of the dict of `grade_one`."""
        names = [name for name in cls.__dataclass_fields__ if name in raw and name != "cached"]
        return cls(**{name: raw[name] for name in names}, cached=cached)


Progress = Callable[[int, int, Result | None], None]
Engine = Callable[[bytes, list[engines.Job]], Iterator[dict[str, Any]]]


def grade(
    course_dir: str | Path,
    assignment: str,
    *,
    workers: int = 2,
    cluster: str | None = None,
    db: str | None = None,
    students: str = "*",
    sandbox: bool = True,
    limits: Limits | None = None,
    force: bool = False,
    progress: Progress | None = None,
    engine: Engine | None = None,
) -> list[Result]:
    """Grade all submissions of an assignment that are not graded yet, and merge them into the gradebook.

    It may be stopped at any moment; the next call takes up where it was. A submission that changed is graded
    again, one that did not is not.

    Args:
        course_dir: the course's root, with `submitted/<student>/<assignment>`.
        assignment: name of the assignment.
        workers: submissions at a time, on this machine.
        cluster: a dask scheduler's address instead.
        db: SQLAlchemy URL of the gradebook; the course's own `gradebook.db` by default.
        students: a glob over student ids.
        sandbox: False runs student code with your own rights: only for code that you wrote.
        limits: budgets other than the default.
        force: grade again what is graded already.
        progress: called with how many are done, how many there are, and the newest result; first with 0 and None.
        engine: another way to grade than `workers` and `cluster`: packed bundle and jobs in, results out.

    Returns:
        One result a submission, by student.

    Raises:
        SandboxUnavailable: if there is no sandbox and `sandbox` is true; nothing has been run then.
        FileNotFoundError: if the assignment is not released or has no checks.
    """
    if sandbox and cluster is None:
        require_sandbox()
    plan = build(course_dir, assignment, limits)
    run = _Run(Path(course_dir).resolve(), plan, db or default_url(course_dir), sandbox, force)
    run.find(students)
    return run.all(engine or _engine(cluster, workers, sandbox), progress or (lambda done, total, result: None))


def _engine(cluster: str | None, workers: int, sandbox: bool) -> Engine:
    if cluster:
        return lambda bundle, jobs: engines.dask(bundle, jobs, cluster=cluster, sandbox=sandbox)
    return lambda bundle, jobs: engines.local(bundle, jobs, workers=workers, sandbox=sandbox)


class _Run:
    def __init__(self, root: Path, plan: Bundle, url: str, sandbox: bool, force: bool) -> None:
        self._root, self._plan, self._url, self._sandbox, self._force = root, plan, url, sandbox, force
        self._bundle = plan.pack()
        # A result from an unsandboxed run must never pass for one from the sandbox.
        self._digest = digest(self._bundle + (b"" if sandbox else b"unsandboxed"))
        self._records = Records(root, plan.assignment)

    def find(self, students: str) -> None:
        names = submitted(self._root, self._plan.assignment, students)
        self._jobs = [engines.Job(name, lambda name=name: self._pack(name)) for name in names]

    def _pack(self, student: str) -> bytes:
        folder = self._root / "submitted" / student / self._plan.assignment
        return pack(folder, self._plan.assignment, self._plan.limits)

    def all(self, engine: Engine, progress: Progress) -> list[Result]:
        total, results = len(self._jobs), {}
        progress(0, total, None)
        writer: Writer | None = None
        preparing = threading.Thread(target=self._prepare, daemon=True)
        preparing.start()
        fresh = self._grade(engine)
        try:
            for raw, cached in fresh:
                preparing.join()
                writer = writer or Writer(self._url, self._root, self._plan)
                results[raw["student"]] = self._merge(writer, raw, cached)
                progress(len(results), total, results[raw["student"]])
            if writer:
                with contextlib.suppress(Exception):  # the marks are in; the next run tries the names again
                    writer.name_students(read_names(self._root))
            preparing.join()  # or with nothing to grade it would make the gradebook beside the caller
        finally:
            fresh.close()
            if writer:
                writer.__exit__(None, None, None)
        return [results[student] for student in sorted(results)]

    def _prepare(self) -> None:
        with contextlib.suppress(Exception):  # it is raised again where the gradebook is opened
            prepare(self._url)

    def _grade(self, engine: Engine) -> Iterator[tuple[dict[str, Any], bool]]:
        missing = []
        for job in self._jobs:
            known = None if self._force else self._records.find(job.student, digest(job.load()), self._digest)
            if known and Result.of(known).definite:
                yield known, True
            else:
                missing.append(job)
        if missing:
            for raw in engine(self._bundle, missing):
                raw["bundle"] = self._digest
                if "submission" in raw:
                    self._records.record(raw)
                yield raw, False

    def _merge(self, writer: Writer, raw: dict[str, Any], cached: bool) -> Result:
        result = Result.of(raw, cached=cached)
        merged = self._records.is_merged(raw, self._url) and result.student in writer.students
        if merged or not result.definite:
            return result
        try:
            folder = self._root / "submitted" / result.student / self._plan.assignment
            writer.merge(raw, (exchange_file(folder, "timestamp.txt") or "").strip() or None)
            self._records.mark_merged(raw, self._url)
        except Exception as error:  # one student's odd name must not stop the class; the next run tries again
            message = f"Graded, but not in the gradebook: {type(error).__name__}: {error}"
            return replace(result, status="error", message=message)
        return result


def submitted(root: Path, assignment: str, students: str = "*") -> list[str]:
    """Name the students whose folder for an assignment exists.

    Args:
        root: the course's root.
        assignment: name of the assignment.
        students: a glob over student ids.

    Returns:
        Student ids, sorted; folders that are links are nobody's.

    Raises:
        ValueError: if a folder's name cannot be printed, so that it cannot be anybody's id.
    """
    folders = (root / "submitted").glob(f"*/{assignment}")
    found = [path.parent for path in folders if path.is_dir() and not path.is_symlink()]
    names = [path.name for path in found if not path.is_symlink() and not path.name.startswith(".")]
    odd = [name for name in names if not name.isprintable()]
    if odd:
        raise ValueError(
            f"A student's folder has a name that can be printed: got {odd} in submitted/. "
            "Rename it to the student's id."
        )
    return sorted(name for name in names if fnmatch.fnmatchcase(name, students))
