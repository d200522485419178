"""A process that has imported everything once, and forks one child a submission, with a hard deadline each.

Three processes stand between student code and the caller: this server's child (talks to the kernel, compares),
the zygote in its bubblewrap (forks the kernel), and the cage (the kernel's own namespaces). The caller's process
never sees an unchecked byte, and whatever dies below it costs one submission.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import json
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from course_lib.grading import cage
from course_lib.grading.bundle import Bundle, text
from course_lib.grading.grade_one import grade_one, lost, spare_the_machine, write_library
from course_lib.grading.kernel import Start, warm
from course_lib.grading.sandbox import LIBRARY, SHARED, SandboxUnavailable, require_sandbox, wall

PREFIX = "course-grading-"
START_SECONDS = 120.0
SPARE_SECONDS = 90.0  # beside the notebook's own budget: to start a kernel, to compare
# Imported where the notebook mentions the word. The first optimizer of a process imports torch._dynamo, which
# takes as long as torch itself.
_MENTIONED = {"torch": "torch.testing", "torch.optim": "torch._dynamo", "matplotlib": "matplotlib.pyplot"}


class ForkServer:
    """The caller's handle: one server for one bundle; `grade` may be called from several threads at once."""

    def __init__(self, bundle: bytes, *, sandbox: bool = True, preload: bool = True) -> None:
        """Start the server and return at once; the first `grade` waits until it is ready.

        Args:
            bundle: a packed `Bundle`.
            sandbox: False runs student code with the grader's own rights.
            preload: False starts every kernel cold, in a bubblewrap of its own.

        Raises:
            SandboxUnavailable: if there is no sandbox and `sandbox` is true.
        """
        if sandbox:
            require_sandbox()
        sweep()
        self._plan = Bundle.unpack(bundle)
        self._root = _claim_root(self)
        (self._root / "bundle").write_bytes(bundle)
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        options = {"root": str(self._root), "sandbox": sandbox, "preload": preload and sandbox}
        command = [sys.executable, "-m", "course_lib.grading.forkserver", str(theirs.fileno()), json.dumps(options)]
        self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        theirs.close()
        self._greeting: dict[str, Any] | None = None
        self._greeted = threading.Lock()

    def kernels(self) -> str:
        """Wait for the server and tell how it starts kernels: `zygote`, `cold` or `unsandboxed`.

        Raises:
            RuntimeError: if it does not come up.
        """
        with self._greeted:
            if self._greeting is None:
                patience = 2 * START_SECONDS  # the server itself waits once as long for its zygote
                ready = select.select([self._control], [], [], patience)[0]
                said = self._control.recv(65536) if ready else b""
                if not said:
                    raise RuntimeError(f"The fork server is ready within {patience:.0f} s: this one is not.")
                self._greeting = json.loads(said)
        return self._greeting["kernels"]

    def grade(self, submission: bytes, student: str) -> dict[str, Any]:
        """Grade one submission in a child of the server.

        Args:
            submission: a packed submission.
            student: the student's id.

        Returns:
            The dict of `grade_one`; with status `lost` if the child died on it twice.

        Raises:
            SandboxUnavailable: if kernels came up outside the sandbox.
        """
        self.kernels()
        for _ in range(2):
            answer = self._ask(submission, student)
            if answer is not None:
                break
        else:
            answer = lost(student, "The grader's child died twice on this submission, or its server has ended.")
        if answer.get("raised") == "SandboxUnavailable":
            raise SandboxUnavailable(answer["message"])
        return answer

    def _ask(self, submission: bytes, student: str) -> dict[str, Any] | None:
        ours, theirs = socket.socketpair()
        with ours:
            ours.settimeout(self._plan.limits.notebook_seconds + SPARE_SECONDS + 30)
            try:
                with theirs:
                    socket.send_fds(self._control, [json.dumps({"student": student}).encode()], [theirs.fileno()])
                send(ours, submission)
                return json.loads(receive(ours))
            except (OSError, EOFError, ValueError):
                return None

    def close(self) -> None:
        """End the server and everything below it, and remove its folder."""
        self._control.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._root, ignore_errors=True)
        os.close(self._lock)

    def __enter__(self) -> ForkServer:
        """Give the server itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()


def _claim_root(server: ForkServer) -> Path:
    import fcntl  # Windows has none, and imports this module all the same

    root = Path(tempfile.mkdtemp(prefix=PREFIX, dir=_short_tmp()))
    server._lock = os.open(root / "new", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC)
    fcntl.flock(server._lock, fcntl.LOCK_EX)
    (root / "new").rename(root / "lock")  # there was no moment with a lock that nobody held
    for name in ("shared", "tmp"):
        (root / name).mkdir()
    return root


def _short_tmp() -> str:
    usual = tempfile.gettempdir()
    return usual if len(usual) < 50 else "/tmp"  # sockets below it have short paths


def sweep() -> None:
    """Remove the folders of servers that were killed: those whose lock nobody holds."""
    import fcntl

    for root in Path(_short_tmp()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            lock = os.open(root / "lock", os.O_RDWR)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(root, ignore_errors=True)
            finally:
                os.close(lock)


def send(channel: socket.socket, data: bytes) -> None:
    """Send bytes with their length before them."""
    channel.sendall(struct.pack("!Q", len(data)) + data)


def receive(channel: socket.socket) -> bytes:
    """Receive what `send` sent.

    Raises:
        EOFError: if the other end closes before that.
    """
    (length,) = struct.unpack("!Q", _exactly(channel, 8))
    return _exactly(channel, length)


def _exactly(channel: socket.socket, length: int) -> bytes:
    parts = []
    while length:
        part = channel.recv(min(length, 1 << 20))
        if not part:
            raise EOFError("the other end closed")
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


class _Zygote:
    """The preloaded process in its bubblewrap, restarted if it dies."""

    def __init__(self, root: Path, plan: Bundle) -> None:
        self._root, self._plan = root, plan
        write_library(plan.library, root / "library")
        self.start()

    def start(self) -> None:
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        binds = ["--ro-bind", str(self._root / "library"), LIBRARY, "--bind", str(self._root / "shared"), SHARED]
        command = [
            *wall(self._plan.limits, own=binds),
            *("--", sys.executable, "-m", "course_lib.grading.zygote", str(theirs.fileno()), SHARED),
            *preloads(self._plan),
        ]
        self._process = subprocess.Popen(command, env={}, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
        theirs.close()

    def wait_ready(self) -> bool:
        ready = select.select([self.control], [], [], START_SECONDS)[0]
        return bool(ready) and self.control.recv(16) == b"ready"

    def revive(self) -> None:
        if self._process.poll() is not None:
            self.control.close()
            self.start()
            self.wait_ready()

    def end(self) -> None:
        self._process.kill()  # and with bubblewrap dies all that is in it
        self._process.wait()

    def start_for(self, job: int) -> Start:
        return warm(self._plan.limits, self.control, str(self._root / "shared"), job)


def preloads(plan: Bundle) -> list[str]:
    """Name the modules that the released notebook imports, and what they would import later."""
    names, sources = [], [text(cell) for cell in plan.notebook["cells"] if cell["cell_type"] == "code"]
    for source in sources:
        with contextlib.suppress(SyntaxError):
            names += _imported(ast.parse(source))
    wanted = [name for name in dict.fromkeys(names) if name.split(".")[0] != "course_lib"]
    more = [module for word, module in _MENTIONED.items() if any(word in source for source in sources)]
    return [*wanted, *more, "numpy"]


def _imported(tree: ast.Module) -> list[str]:
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
    return names


def serve(control: socket.socket, options: dict[str, Any]) -> None:
    """Import, start the zygote, and fork a child for each job until the caller hangs up.

    Args:
        control: a connected SOCK_SEQPACKET socket.
        options: `root` (a folder of the server's own), `sandbox`, `preload`.
    """
    root = Path(options["root"])
    tempfile.tempdir = str(root / "tmp")
    bundle = (root / "bundle").read_bytes()
    plan = Bundle.unpack(bundle)
    zygote = _Zygote(root, plan) if options["preload"] else None
    _import_for(plan)
    if zygote and not zygote.wait_ready():
        zygote = None  # no nested namespaces here: every kernel gets a bubblewrap of its own
    kernels = "zygote" if zygote else "cold" if options["sandbox"] else "unsandboxed"
    control.send(json.dumps({"kernels": kernels}).encode())
    _Loop(control, bundle, plan, zygote, options["sandbox"], root).run()
    if zygote:
        zygote.end()
    os._exit(0)  # torch takes its time to leave


def _import_for(plan: Bundle) -> None:
    for name in _imported(ast.parse(plan.checks)):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


class _Loop:
    """Accept jobs, reap children, kill those that are late."""

    def __init__(
        self, control: socket.socket, bundle: bytes, plan: Bundle, zygote: _Zygote | None, sandbox: bool, root: Path
    ) -> None:
        self._control, self._bundle, self._zygote = control, bundle, zygote
        self._sandbox, self._root = sandbox, root
        self._seconds = plan.limits.notebook_seconds + SPARE_SECONDS
        self._children: dict[int, tuple[float, int]] = {}
        self._jobs = 0

    def run(self) -> None:
        while True:
            self._reap()
            if not select.select([self._control], [], [], 0.2)[0]:
                continue
            message, descriptors, _, _ = socket.recv_fds(self._control, 65536, 1)
            if not message:
                break
            self._fork(json.loads(message)["student"], socket.socket(fileno=descriptors[0]))
        for pid in self._children:
            os.kill(pid, signal.SIGKILL)

    def _fork(self, student: str, channel: socket.socket) -> None:
        self._jobs += 1
        if self._zygote:
            self._zygote.revive()
        pid = os.fork()
        if pid == 0:
            self._control.close()
            _grade_in_child(self._bundle, student, channel, self._start(), self._sandbox)
        channel.close()
        self._children[pid] = time.monotonic() + self._seconds, self._jobs

    def _start(self) -> Start | None:
        return self._zygote.start_for(self._jobs) if self._zygote else None

    def _reap(self) -> None:
        now = time.monotonic()
        for pid, (deadline, job) in list(self._children.items()):
            if os.waitpid(pid, os.WNOHANG)[0]:
                del self._children[pid]
                shutil.rmtree(self._root / "shared" / str(job), ignore_errors=True)
            elif now > deadline:
                os.kill(pid, signal.SIGKILL)


def _grade_in_child(bundle: bytes, student: str, channel: socket.socket, start: Start | None, sandbox: bool) -> None:
    try:
        if sys.platform == "linux":
            cage.die_with_parent()
        if sandbox:
            spare_the_machine(Bundle.unpack(bundle).limits.memory_bytes)
        submission = receive(channel)
        try:
            answer = grade_one(bundle, submission, student, sandbox=sandbox, start=start)
        except Exception as error:
            answer = _failure(bundle, student, error)
        send(channel, json.dumps(answer).encode())
    finally:
        os._exit(0)


def _failure(bundle: bytes, student: str, error: Exception) -> dict[str, Any]:
    plan = Bundle.unpack(bundle)
    return {
        "student": student,
        "assignment": plan.assignment,
        "status": "error",
        "raised": type(error).__name__,
        "message": "".join(traceback.format_exception(error))[-4000:],
        "score": 0.0,
        "max_score": plan.max_score,
        "tasks": {},
        "flags": [],
        "notes": [],
        "notebook": None,
    }


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])), json.loads(sys.argv[2]))
