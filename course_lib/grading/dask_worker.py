"""What runs inside a dask worker: a plugin that keeps a fork server, and the task that asks it."""

from __future__ import annotations

import uuid
from typing import Any

from distributed import Worker, WorkerPlugin, get_worker

from course_lib.grading.forkserver import ForkServer
from course_lib.grading.sandbox import SandboxUnavailable


class GradingPlugin(WorkerPlugin):
    """Starts a fork server when the worker starts and ends it with the worker."""

    def __init__(self, bundle: bytes, sandbox: bool) -> None:
        """Keep what a fork server needs; it is started on the worker."""
        self.name = f"course-grading-{uuid.uuid4().hex}"
        self._bundle, self._sandbox = bundle, sandbox
        self._server: ForkServer | None = None
        self._trouble = ""

    def setup(self, worker: Worker) -> None:
        """Start the fork server; trouble is kept for the first task, whose caller hears of it."""
        try:
            self._server = ForkServer(self._bundle, sandbox=self._sandbox)
        except SandboxUnavailable as error:
            self._trouble = str(error)

    def teardown(self, worker: Worker) -> None:
        """End the fork server and all below it."""
        if self._server:
            self._server.close()

    def grade(self, submission: bytes, student: str) -> dict[str, Any]:
        """Grade one submission in a child of this worker's fork server.

        Raises:
            SandboxUnavailable: if this worker's machine has no sandbox.
        """
        if self._server is None:
            raise SandboxUnavailable(self._trouble)
        return self._server.grade(submission, student)


def grade_on_worker(plugin: str, submission: bytes, student: str) -> dict[str, Any]:
    """Find the worker's fork server and grade one submission in it."""
    return get_worker().plugins[plugin].grade(submission, student)
