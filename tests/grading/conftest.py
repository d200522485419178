"""One tiny course, one fork server and one graded class for all tests of a worker."""

import contextlib
import tempfile
from pathlib import Path

import pytest
from grading import tiny

from course_lib.grading.bundle import build
from course_lib.grading.forkserver import ForkServer
from course_lib.grading.limits import Limits, MiB
from course_lib.grading.sandbox import SandboxUnavailable, require_sandbox

LIMITS = Limits(cell_seconds=8, notebook_seconds=26, memory_bytes=1024 * MiB, processes=64, file_bytes=64 * MiB)


@pytest.fixture(scope="session")
def sandbox():
    try:
        require_sandbox()
    except SandboxUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def course(tmp_path_factory):
    return tiny.write_course(tmp_path_factory.mktemp("course"))


@pytest.fixture(scope="session")
def bundle(course):
    return build(course, tiny.NAME, LIMITS).pack()


@pytest.fixture(scope="session")
def server(sandbox, bundle):
    with ForkServer(bundle) as server:
        yield server


@pytest.fixture(scope="session")
def graded(server):
    """Grade a notebook in a kernel forked from the zygote."""
    return lambda book, student="ann": server.grade(tiny.packed(book), student)


@contextlib.contextmanager
def private_tmp():
    """A folder that for a while is the only place for temporary files, short enough for sockets below it.

    What is seen in it, and which process still has it mounted, is ours: others use this machine, too.
    """
    usual, folder = tempfile.tempdir, Path(tempfile.mkdtemp(prefix="g", dir="/tmp"))
    tempfile.tempdir = str(folder)
    try:
        yield folder
    finally:
        tempfile.tempdir = usual


def mounted(folder):
    """Processes, by their mount tables, that still have something of a folder."""
    return [path for path in Path("/proc").glob("[0-9]*/mountinfo") if folder.name in _text(path)]


def _text(path):
    try:
        return path.read_text()
    except OSError:
        return ""  # it ended while we looked
