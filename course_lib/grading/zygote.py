"""Inside the sandbox: a process that has imported torch once, and forks a caged kernel for each submission.

It runs no student code itself and knows no secret: what it holds when it forks is installed packages and the
filtered library. Each fork gets namespaces of its own before the first line of a submission arrives.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import shutil
import signal
import socket
import sys
import traceback
from pathlib import Path

from course_lib.grading import cage
from course_lib.grading.quick_imports import without_iri_grammar

# What a kernel imports between its start and its first traceback.
_KERNEL = (
    *("ipykernel.kernelapp", "ipykernel.ipkernel", "ipykernel.zmqshell", "comm", "tornado.platform.asyncio"),
    *("IPython.core.magics", "IPython.core.debugger", "IPython.core.oinspect", "IPython.core.completerlib"),
    *("IPython.extensions.storemagic", "stack_data", "pygments.formatters.terminal256", "pygments.lexers.python"),
    *("faulthandler", "resource", "xmlrpc.client", "encodings.idna", "course_lib.grading.witness"),
)


def serve(control: socket.socket, shared: str, preload: list[str]) -> None:
    """Import everything once, say so, then fork a kernel for each request until the other end closes.

    A request is one packet: JSON with `folder` (name below `shared`) and `limits`, and the file descriptor of a
    socket on which the cage reports and whose closing ends the kernel.

    Args:
        control: a connected SOCK_SEQPACKET socket.
        shared: the folder of all submissions' folders.
        preload: further modules to import; one that fails is left to the notebook to fail on.
    """
    with without_iri_grammar():
        _preload([*_KERNEL, *preload])
    _require_one_thread()
    gc.collect()
    gc.freeze()  # so that a collection in a child does not touch, and so copy, the parent's pages
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    control.send(b"ready")
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 65536, 1)
        if not message:
            return
        if os.fork() == 0:
            control.close()
            _supervise(json.loads(message), shared, descriptors[0])
            os._exit(0)
        os.close(descriptors[0])


def _preload(names: list[str]) -> None:
    sys.modules["debugpy"] = None  # type: ignore[assignment]  # nobody debugs here, and it is large
    for name in names:
        try:
            importlib.import_module(name)
        except Exception:
            print(f"not preloaded: {name}: {sys.exc_info()[1]!r}", file=sys.stderr)


def _require_one_thread() -> None:
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        raise RuntimeError(
            f"A process that forks kernels has one thread: got {threads} after the imports. "
            "Some preloaded module starts threads on import; leave it out of the preload list."
        )


def _supervise(request: dict, shared: str, report: int) -> None:
    """Stay outside the new process namespace, to kill it when the grader hangs up."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    cage.die_with_parent()
    try:
        cage.separate()
    except OSError as error:
        os.write(report, json.dumps({"reason": "broken", "detail": str(error)}).encode() + b"\n")
        return
    first = os.fork()
    if first == 0:
        _first_process(request, shared, report)
    until = select.poll()
    until.register(report, 0)  # a hang-up is always heard; questions are for the process inside
    until.register(os.pidfd_open(first), select.POLLIN)
    until.poll()
    os.kill(first, signal.SIGKILL)
    os.waitpid(first, 0)


def _first_process(request: dict, shared: str, report: int) -> None:
    try:
        cage.die_with_parent()
        cage.furnish(f"{shared}/{request['folder']}", shared, request["limits"]["file_bytes"])
        _copy_files(Path(cage.SOCKETS, "files"))
        cage.receive_connection()
        cage.harden()
        cage.keep(_kernel, request["limits"], report)
    except BaseException:
        os.write(report, json.dumps({"reason": "broken", "detail": traceback.format_exc()}).encode() + b"\n")
    os._exit(0)


def _copy_files(source: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, cage.WORK, dirs_exist_ok=True)


def _kernel() -> None:
    from ipykernel.kernelapp import IPKernelApp
    from traitlets.config import Config

    os.chdir(cage.WORK)
    config = Config()
    config.HistoryManager.enabled = False
    app = IPKernelApp.instance(config=config, connection_file=cage.CONNECTION, log_level=50)
    app.initialize([])
    app.start()


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2], sys.argv[3:])
