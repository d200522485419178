"""The other engine and the other database, both real: a dask cluster of processes, a PostgreSQL server."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from distributed import Client
from grading import tiny
from grading.conftest import LIMITS
from grading.tiny import NAME, RIGHT, WRONG, notebook

from course_lib.grading import engines
from course_lib.grading.forkserver import ForkServer
from course_lib.grading.gradebook import load_nbgrader
from course_lib.grading.run import grade


@pytest.fixture(scope="module")
def cluster(sandbox, tmp_path_factory):
    """A scheduler and two worker processes; a nanny restarts a worker that dies."""
    place = tmp_path_factory.mktemp("dask")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    options = {"cwd": place, "stdout": subprocess.DEVNULL, "stderr": open(place / "log", "w")}
    # Killed in one go with their nannies at the end: sessions of their own.
    start = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--no-dashboard", "--port", address.split(":")[-1]]
    processes = [subprocess.Popen(start, start_new_session=True, **options)]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard"]
    processes += [subprocess.Popen(worker, start_new_session=True, **options) for _ in range(2)]
    with Client(address, timeout=60) as client:
        client.wait_for_workers(2, timeout=60)
    yield address
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture
def class_of_eight(course, tmp_path):
    root = tmp_path / "course"
    shutil.copytree(course, root, ignore=shutil.ignore_patterns("submitted", ".cache", "gradebook.db", "autograded"))
    for number in range(8):
        tiny.submit(root, f"s{number}", notebook(RIGHT if number % 2 else WRONG))
    return root


WANTED = {f"s{number}": 6.0 if number % 2 else 0.0 for number in range(8)}


def test_dask_gives_the_same_grades(cluster, class_of_eight):
    results = grade(class_of_eight, NAME, cluster=cluster, limits=LIMITS)
    assert {result.student: result.score for result in results} == WANTED
    assert {(result.status, result.sandbox, len(result.flags)) for result in results} == {
        ("graded", "course-zygote", 0)
    }


def test_a_killed_worker_costs_nobody_anything(cluster, class_of_eight):
    killed = []

    def kill_once(done, total, result):
        if done == 2 and not killed:
            with Client(cluster, set_as_default=False) as client:
                pid = next(iter(client.run(os.getpid).values()))
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    results = grade(class_of_eight, NAME, cluster=cluster, limits=LIMITS, progress=kill_once)
    assert killed and {result.student: (result.status, result.score, result.message) for result in results} == {
        student: ("graded", score, "") for student, score in WANTED.items()
    }


def test_a_submission_that_kills_does_not_reach_the_worker(cluster, class_of_eight):
    fatal = RIGHT | {"clipped": "import os\ndef clipped(x, limit):\n    os.kill(os.getppid(), 9); os._exit(1)"}
    tiny.submit(class_of_eight, "s0", notebook(fatal))
    with Client(cluster, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)
        before = client.run(os.getpid)
        results = grade(class_of_eight, NAME, cluster=cluster, limits=LIMITS, students="s[01]")
        assert client.run(os.getpid) == before
    assert [(result.status, result.score) for result in results] == [("died", 4.0), ("graded", 6.0)]


@pytest.fixture(scope="module")
def postgres():
    """A server of the tests' own, on a socket in a folder, run by an ordinary user."""
    folders = [*Path("/usr/lib/postgresql").glob("*/bin")]
    programs = folders[-1] if folders else Path(shutil.which("initdb") or "/nowhere/x").parent
    if not (programs / "initdb").exists():
        pytest.skip("no PostgreSQL here: apt install postgresql")
    place = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))
    who = {"user": "nobody", "extra_groups": []} if os.geteuid() == 0 else {}
    if who:
        shutil.chown(place, "nobody")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": place, **who}
    data = place / "data"
    subprocess.run([programs / "initdb", "-D", data, "-U", "teacher", "-A", "trust", "-N"], check=True, **quiet)
    command = [programs / "postgres", "-D", data, "-k", place, "-c", "listen_addresses=", "-F"]
    server = subprocess.Popen(command, **quiet)
    for _ in range(100):
        if subprocess.run([programs / "pg_isready", "-h", place], **quiet).returncode == 0:
            break
        time.sleep(0.1)
    yield f"postgresql+psycopg2://teacher@/postgres?host={place}"
    server.send_signal(signal.SIGINT)
    server.wait(20)
    shutil.rmtree(place)


def test_postgresql_gradebook(sandbox, postgres, class_of_eight):
    first = grade(class_of_eight, NAME, db=postgres, limits=LIMITS, students="s[0-3]")
    again = grade(class_of_eight, NAME, db=postgres, limits=LIMITS, students="s[0-3]")
    assert {result.student: result.score for result in first} == {name: WANTED[name] for name in sorted(WANTED)[:4]}
    assert all(result.cached for result in again) and not (class_of_eight / "gradebook.db").exists()
    with load_nbgrader().Gradebook(postgres) as book:
        found = {submission.student.id: submission.score for submission in book.assignment_submissions(NAME)}
    assert found == {name: WANTED[name] for name in sorted(WANTED)[:4]}


def test_other_systems_grade_one_by_one(bundle):
    jobs = [engines.Job("ann", lambda: tiny.packed(notebook(RIGHT))), engines.Job("bob", lambda: b"{}")]
    first, second = engines.one_by_one(bundle, jobs, sandbox=False)
    assert (first["student"], first["score"], first["sandbox"]) == ("ann", 6.0, "none")
    assert (second["student"], second["status"]) == ("bob", "lost") and "KeyError" in second["message"]


def test_a_server_that_was_killed_costs_no_traceback(bundle):
    with ForkServer(bundle, sandbox=False) as server:
        server.kernels()
        server._process.kill()
        server._process.wait()
        assert server.grade(tiny.packed(notebook(RIGHT)), "ann")["status"] == "lost"


def test_no_workers_is_refused(bundle):
    with pytest.raises(ValueError, match="workers >= 1"):
        list(engines.local(bundle, [], workers=0))
