"""What a machine may have or lack: one Chromium for all pages of a test run, escnn, and a GPU."""

import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "book" / "_ext"))
from reading_room import chromium  # noqa: E402


@pytest.fixture(scope="session")
def browser():
    """Return a headless Chromium; without one, skip, or fail where COURSE_REQUIRE_BROWSER=1 says that it must be."""
    try:
        with chromium.launched() as one:
            yield one
    except chromium.Missing as missing:
        if os.environ.get("COURSE_REQUIRE_BROWSER") == "1":
            pytest.fail(str(missing), pytrace=False)
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def escnn():
    """Return escnn's modules ``gspaces`` and ``nn``; without the package, skip."""
    if not find_spec("escnn"):
        pytest.skip("escnn is not installed")
    from course_lib.measuring_invariance import escnn_modules  # here, since few tests need it

    return escnn_modules()


@pytest.fixture
def on_cuda():
    """Return what puts a function on the GPU: its tensors go there, its results come back. Without a GPU, skip."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")

    def move(value, device):
        if isinstance(value, torch.Tensor):
            return value.to(device)
        if callable(value):
            return lambda x: value(x.cpu()).to(device)
        if isinstance(value, (list, tuple, Iterator)):
            moved = [move(item, device) for item in value]
            return moved if isinstance(value, list) else tuple(moved)
        return value

    return lambda implementation: lambda *args: move(implementation(*move(args, "cuda")), "cpu")


def pytest_collection_modifyitems(items):
    """Give a test of pages, kernels or servers one second try, shown as RERUN: a loaded machine can starve them.

    A defect stays. Hostile submissions get no second try: what holds only sometimes does not hold.
    """
    for item in items:
        if "browser" in item.fixturenames or item.path.parent.name in ("book", "grading"):
            item.add_marker(pytest.mark.flaky(reruns=1))
