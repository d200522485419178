"""Hidden tests under plain nbgrader: draw fresh seeds, run a check's probe, let its verify decide.

The source notebooks call `check` between `### BEGIN HIDDEN TESTS` and `### END HIDDEN TESTS`. `course grade`
never executes that call: there the probe alone travels into the sandbox and verify stays outside it.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

SEEDS = 3
_FIX = "nbgrader_config.py sets it to <course>/tests/checks; run nbgrader from the course's root."


def load_checks(topic: str, folder: str | Path) -> ModuleType:
    """Execute `<folder>/<topic>.py` as a module of its own, outside `sys.modules`.

    Args:
        topic: name of the topic, for example `"norm_penalties"`.
        folder: the folder that holds one checks file a topic.

    Returns:
        The module with its `probe_<task>` and `verify_<task>` functions.

    Raises:
        FileNotFoundError: if the folder has no checks file for this topic.
    """
    path = Path(folder) / f"{topic}.py"
    if not path.is_file():
        raise FileNotFoundError(f"A topic has a checks file: wanted {path}, found none. {_FIX}")
    spec = importlib.util.spec_from_file_location(f"checks_of_{topic}", path)
    assert spec is not None and spec.loader is not None  # a .py path always has a loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check(topic: str, task: str, implementation: Callable) -> None:
    """Run a task's hidden test on an implementation, on three seeds that nobody could know beforehand.

    Args:
        topic: name of the topic, for example `"norm_penalties"`.
        task: name of the exercised function.
        implementation: the function to test.

    Raises:
        AssertionError: if the implementation is wrong; the message is for the student.
        RuntimeError: if the environment variable COURSE_CHECKS is not set.
        FileNotFoundError: if the topic has no checks file.
        AttributeError: if its checks file has no probe or verify for this task.
    """
    folder = os.environ.get("COURSE_CHECKS")
    if not folder:
        raise RuntimeError(f"Hidden tests need COURSE_CHECKS, the folder of checks; it is unset. {_FIX}")
    checks = load_checks(topic, folder)
    probe, verify = _pair(checks, topic, task)
    for _ in range(SEEDS):
        seed = secrets.randbelow(2**31)
        verify(probe(implementation, seed), seed)


def _pair(checks: ModuleType, topic: str, task: str) -> tuple[Callable, Callable]:
    names = f"probe_{task}", f"verify_{task}"
    missing = [name for name in names if not hasattr(checks, name)]
    if missing:
        raise AttributeError(
            f"A check is a probe and a verify: checks/{topic}.py lacks {', '.join(missing)}. "
            "Write it, or correct the task's name in the source notebook."
        )
    return getattr(checks, names[0]), getattr(checks, names[1])
