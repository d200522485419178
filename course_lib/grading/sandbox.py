"""The outer wall: a bubblewrap command line that shows the interpreter, the course's library, and nothing else."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from course_lib.grading import cage
from course_lib.grading.limits import Limits

LIBRARY = "/course"  # where the sandbox sees the filtered course_lib
SHARED = "/run/course"  # where a zygote sees all submissions' folders; a kernel never does
_DEVICES = ("null", "zero", "full", "random", "urandom")
_HINT = (
    "Install it (Debian, Ubuntu: apt install bubblewrap; Fedora: dnf install bubblewrap) and allow user "
    "namespaces, or grade on a machine you can throw away with --unsandboxed."
)


class SandboxUnavailable(RuntimeError):
    """Submitted work may run only in a sandbox, and this machine cannot build one."""


def require_sandbox() -> None:
    """Build an empty sandbox, to know now rather than in the middle of a class.

    Raises:
        SandboxUnavailable: if bubblewrap is missing or refuses; the message says how to install it.
    """
    trouble = _trouble()
    if trouble:
        raise SandboxUnavailable(
            f"Submitted code runs only in a sandbox: wanted a working bubblewrap (bwrap), got {trouble}. {_HINT}"
        )


@functools.cache
def _trouble() -> str:
    program = shutil.which("bwrap")
    if sys.platform != "linux" or program is None:
        return f"no program bwrap on {sys.platform}"
    command = [*wall(Limits()), "--", sys.executable, "-c", "pass"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=60, env={})
    except (OSError, subprocess.TimeoutExpired) as error:
        return repr(error)
    return "" if run.returncode == 0 else f"exit code {run.returncode}: {run.stderr.strip()[-500:]}"


def wall(limits: Limits, hidden: Sequence[Path] = (), own: Sequence[str] = ()) -> list[str]:
    """Give the bubblewrap command up to, and without, the program to run.

    The three capabilities are for `course_lib.grading.cage`, which gives them up before student code runs.
    bubblewrap's `--dev` is not used: it needs a second user namespace, in which no fresh /proc may be mounted.

    Args:
        limits: sizes of the scratch file systems.
        hidden: folders that must not be visible even where they lie inside the interpreter's, or in /usr.
        own: the arguments for what the caller binds.

    Returns:
        The arguments, starting with the program's path.
    """
    size = str(limits.file_bytes)
    scratch = [part for folder in cage.SCRATCH for part in ("--size", size, "--tmpfs", folder)]
    return [
        shutil.which("bwrap") or "bwrap",
        *("--unshare-all", "--die-with-parent", "--new-session", "--clearenv"),
        *("--cap-drop", "ALL", "--cap-add", "CAP_SYS_ADMIN", "--cap-add", "CAP_SYS_RESOURCE"),
        *("--cap-add", "CAP_SETPCAP"),
        *("--uid", "65534", "--gid", "65534", "--hostname", "grader"),
        *_system(),
        *("--proc", "/proc", "--dir", "/dev"),
        *(part for name in _DEVICES for part in ("--dev-bind", f"/dev/{name}", f"/dev/{name}")),
        *("--symlink", "/proc/self/fd", "/dev/fd"),
        *scratch,
        *_interpreter(hidden),
        *("--dir", cage.SOCKETS, "--dir", SHARED, "--chdir", cage.WORK),
        *own,
        # The kernels of a zygote share this file system: what one could write into it, the next would find there.
        *("--remount-ro", "/"),
        *(part for name, value in environment().items() for part in ("--setenv", name, value)),
    ]


def _system() -> list[str]:
    folders = [folder for folder in ("/lib", "/lib32", "/lib64", "/bin", "/sbin") if os.path.exists(folder)]
    links = [
        part
        for folder in folders
        for part in (
            ("--symlink", os.readlink(folder), folder) if os.path.islink(folder) else ("--ro-bind", folder, folder)
        )
    ]
    files = ("/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime", "/etc/fonts")
    tries = [part for path in files for part in ("--ro-bind-try", path, path)]
    return ["--ro-bind", "/usr", "/usr", *links, *tries]


def _interpreter(hidden: Sequence[Path]) -> list[str]:
    shown = {Path(sys.base_prefix).resolve(), Path(sys.prefix).resolve(), Path(sys.prefix)}
    package = Path(__file__).resolve().parent.parent
    clone = [package.parent] if (package.parent / "_toc.yml").is_file() else []  # with solutions and other work in it
    masked = {path.resolve() for path in [*hidden, package, *clone]} - shown
    masked = {path for path in masked if any(path.is_relative_to(outer) for outer in [Path("/usr"), *shown])}
    arguments = []
    for path in sorted(shown | masked):  # outer ones first: an interpreter inside a hidden folder is shown again
        arguments += ["--ro-bind", str(path), str(path)] if path in shown else ["--tmpfs", str(path)]
    return [*arguments, *(part for path in masked for part in ("--remount-ro", str(path)))]


def environment() -> dict[str, str]:
    """Give the whole environment of a sandboxed process; nothing of the grader's own is in it."""
    return {
        "PATH": f"{sys.prefix}/bin:/usr/bin:/bin",
        "HOME": "/tmp",
        "USER": "student",
        "LANG": "C.UTF-8",
        "PYTHONPATH": LIBRARY,
        "PYTHONNOUSERSITE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        # One thread each: workers share the cores evenly, and a fork needs a parent without threads.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "MPLCONFIGDIR": "/tmp/matplotlib",
        "IPYTHONDIR": "/tmp/ipython",
        "NBGRADER_EXECUTION": "autograde",
    }
