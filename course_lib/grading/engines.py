"""Grade many submissions at once: on this machine with fork servers, or on a dask cluster.

Both take the same jobs and give the same results in the order in which they come; at most a few dozen submissions
and results are in memory at any time.
"""

from __future__ import annotations

import base64
import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from course_lib.grading.bundle import Bundle
from course_lib.grading.forkserver import SPARE_SECONDS, ForkServer
from course_lib.grading.grade_one import lost
from course_lib.grading.sandbox import SandboxUnavailable, require_sandbox

# Results wait while the gradebook is busy, so that the workers need not.
BACKLOG = 16


@dataclass(frozen=True)
class Job:
    """One submission to grade; `load` reads it only when its turn comes."""

    student: str
    load: Callable[[], bytes]


def local(bundle: bytes, jobs: Iterable[Job], *, workers: int = 2, sandbox: bool = True) -> Iterator[dict[str, Any]]:
    """Grade on this machine, in children of one fork server.

    Args:
        bundle: a packed `Bundle`.
        jobs: what to grade.
        workers: how many at a time.
        sandbox: False runs student code with the grader's own rights.

    Yields:
        Results of `grade_one`, in the order in which they come.

    Raises:
        SandboxUnavailable: if there is no sandbox and `sandbox` is true.
    """
    if workers < 1:
        raise ValueError(f"Grading needs a worker: wanted workers >= 1, got {workers}.")
    if sys.platform != "linux":
        yield from one_by_one(bundle, jobs, sandbox=sandbox)
        return
    with ForkServer(bundle, sandbox=sandbox) as server:
        yield from on_server(server, jobs, workers=workers)


def one_by_one(bundle: bytes, jobs: Iterable[Job], *, sandbox: bool = True) -> Iterator[dict[str, Any]]:
    """Grade in a fresh process each: slower, and all that systems without Linux's forks and namespaces allow.

    Args:
        bundle: a packed `Bundle`.
        jobs: what to grade.
        sandbox: False runs student code with the grader's own rights.

    Yields:
        Results of `grade_one`, in order.

    Raises:
        SandboxUnavailable: if there is no sandbox and `sandbox` is true.
    """
    if sandbox:
        require_sandbox()
    seconds = Bundle.unpack(bundle).limits.notebook_seconds + SPARE_SECONDS
    command = [sys.executable, "-m", "course_lib.grading.grade_one"]
    for job in jobs:
        packed = {
            name: base64.b64encode(data).decode() for name, data in (("bundle", bundle), ("submission", job.load()))
        }
        wanted = json.dumps(packed | {"student": job.student, "sandbox": sandbox})
        try:
            run = subprocess.run(command, input=wanted, capture_output=True, text=True, timeout=seconds)
            yield json.loads(run.stdout) if run.returncode == 0 else lost(job.student, run.stderr[-2000:])
        except subprocess.TimeoutExpired:
            yield lost(job.student, f"not done after {seconds:.0f} s")


def on_server(server: ForkServer, jobs: Iterable[Job], *, workers: int = 2) -> Iterator[dict[str, Any]]:
    """Grade on a fork server that is already there, and stays.

    Args:
        server: made for the bundle to grade.
        jobs: what to grade.
        workers: how many at a time.

    Yields:
        Results of `grade_one`, in the order in which they come.
    """
    pool = ThreadPoolExecutor(workers)
    try:
        yield from _window(pool, server, jobs, workers)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _window(pool: ThreadPoolExecutor, server: ForkServer, jobs: Iterable[Job], workers: int) -> Iterator[dict]:
    waiting, running = iter(jobs), set[Future]()
    while True:
        for job in itertools.islice(waiting, BACKLOG * workers - len(running)):
            running.add(pool.submit(lambda job=job: server.grade(job.load(), job.student)))
        if not running:
            return
        done, running = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            yield future.result()


def dask(bundle: bytes, jobs: Iterable[Job], *, cluster: str, sandbox: bool = True) -> Iterator[dict[str, Any]]:
    """Grade on a dask cluster whose workers have this package and bubblewrap installed.

    A plugin starts one fork server in each worker, also in one that joins later; student code never runs in the
    worker itself. A submission whose worker dies is graded again elsewhere.

    Args:
        bundle: a packed `Bundle`.
        jobs: what to grade.
        cluster: the scheduler's address, for example `tcp://127.0.0.1:8786`.
        sandbox: False runs student code with the worker's own rights.

    Yields:
        Results of `grade_one`, in the order in which they come.

    Raises:
        SandboxUnavailable: if a worker has no sandbox and `sandbox` is true.
    """
    from distributed import Client

    from course_lib.grading.dask_worker import GradingPlugin

    plugin = GradingPlugin(bundle, sandbox)
    with Client(cluster, set_as_default=False) as client:
        client.wait_for_workers(1, timeout=60)
        client.register_plugin(plugin)
        try:
            yield from _dask_window(client, plugin.name, jobs)
        finally:
            client.unregister_worker_plugin(plugin.name)


def _dask_window(client: Any, plugin: str, jobs: Iterable[Job]) -> Iterator[dict]:
    from distributed import as_completed

    from course_lib.grading.dask_worker import grade_on_worker

    waiting, running = iter(jobs), as_completed(loop=client.loop)
    students: dict[str, Job] = {}
    while True:
        room = max(2 * sum(client.nthreads().values()), 2) - len(students)  # below 0 when a worker has died
        for job in itertools.islice(waiting, max(room, 0)):
            future = client.submit(grade_on_worker, plugin, job.load(), job.student, pure=False)
            students[future.key] = job
            running.add(future)
        if not students:
            return
        future = next(running)
        job = students.pop(future.key)
        try:
            # A finished result is lost again if its worker dies before it is fetched; dask then makes it anew.
            result = future.result()
        except SandboxUnavailable:
            raise
        except Exception as error:
            result = lost(job.student, repr(error))
        future.release()
        yield result
