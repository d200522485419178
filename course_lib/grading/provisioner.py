"""Kernel provisioners: start a Jupyter kernel in bubblewrap, cold or forked from a zygote.

`SandboxProvisioner` works under any Jupyter client, unmodified nbgrader included:
`JUPYTER_DEFAULT_PROVISIONER_NAME=course-sandbox nbgrader autograde ...`. `ZygoteProvisioner` needs a running
zygote and belongs to `course grade`.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from traitlets import Dict, Instance, Integer, Unicode

from course_lib.grading import cage
from course_lib.grading.limits import Limits
from course_lib.grading.quick_imports import without_iri_grammar
from course_lib.grading.sandbox import LIBRARY, require_sandbox, wall
from course_lib.grading.submission import DATA_SUFFIXES

with without_iri_grammar():
    from jupyter_client.connect import KernelConnectionInfo
    from jupyter_client.provisioning import LocalProvisioner

START_SECONDS = 60.0
SETTLE_SECONDS = 20.0


class Cage:
    """A kernel in its sandbox, seen from outside; has what `LocalProvisioner` asks of a Popen.

    Attributes:
        pid: of the process outside that the sandbox hangs on, 0 if that is a zygote's business.
        ending: how it ended: `exit`, `memory`, `processes`, `killed`, `broken`; None while it runs.
        detail: more about `broken`.
    """

    stdin = stdout = stderr = None

    def __init__(self, report: socket.socket, outer: subprocess.Popen | None = None) -> None:
        """Watch a cage by the socket on which it reports."""
        self.pid = outer.pid if outer else 0
        self.ending: str | None = None
        self.detail = ""
        self._report, self._outer, self._heard = report, outer, b""
        report.setblocking(False)

    def wait_sealed(self, seconds: float) -> None:
        """Wait until the cage is ready for student code.

        Raises:
            RuntimeError: if it is not, with what it said.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.poll() is None:
            if b'"sealed"' in self._heard:
                return
            select.select([self._report], [], [], 0.2)
        self.kill()
        raise RuntimeError(
            f"A sandboxed kernel is up in {seconds:.0f} s: this one is not. {self.detail or self._heard}"
        )

    def settle(self) -> None:
        """Have the watchdog look once more, now; what passes a limit ends here, however short a time it took."""
        answers = self._heard.count(b'"looked"')
        deadline = time.monotonic() + SETTLE_SECONDS
        with contextlib.suppress(OSError):
            self._report.send(b"?")
        while self.poll() is None and self._heard.count(b'"looked"') == answers and time.monotonic() < deadline:
            select.select([self._report], [], [], 0.2)

    def poll(self) -> int | None:
        """Give None while the kernel lives, else a number."""
        if self.ending is None:
            self._listen()
        return None if self.ending is None else 1

    def _listen(self) -> None:
        try:
            while data := self._report.recv(65536):
                self._heard += data
        except BlockingIOError:
            return
        except OSError:
            pass
        self._conclude()

    def _conclude(self) -> None:
        said = [json.loads(line) for line in self._heard.splitlines() if line.startswith(b"{") and line.endswith(b"}")]
        last = said[-1] if said else {"reason": "broken", "detail": "the sandbox ended without a word"}
        self.ending = "killed" if last["reason"] in ("sealed", "looked") else last["reason"]
        self.detail = str(last.get("detail", ""))
        self._close()

    def _close(self) -> None:
        self._report.close()
        if self._outer:
            self._outer.kill()  # and with bubblewrap dies all that is in it
            self._outer.wait()

    def wait(self) -> int:
        """Wait until the kernel has ended."""
        while self.poll() is None:
            select.select([self._report], [], [], 0.2)
        return 1

    def kill(self) -> None:
        """End the kernel and everything that it started."""
        if self.poll() is None:
            self.ending = "killed"
            self._close()

    def send_signal(self, signum: int) -> None:
        """Take every signal for the end; interrupts travel as messages."""
        self.kill()

    terminate = kill


class SandboxProvisioner(LocalProvisioner):
    """Start the kernel's command under bubblewrap, with limits, without network, seeing next to nothing."""

    limits = Dict(help="fields of Limits that differ from the default").tag(config=True)
    library = Unicode(help="folder that holds the course_lib to show; empty: none", default_value="").tag(config=True)
    hidden = Unicode(help="folder to hide wherever it lies", default_value="").tag(config=True)
    folder: Path | None = None

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Move the kernel's sockets from TCP into a folder of their own, before anything is written down."""
        require_sandbox()
        self.folder = self._make_folder()
        manager = self.parent
        manager.transport = "ipc"  # the sandbox has no network
        # Short and absolute: a socket's path has room for 107 bytes.
        manager.ip = str(self.folder / "k")
        manager.connection_file = str(self.folder / "kernel.json")
        manager.kernel_spec.interrupt_mode = "message"  # a signal would end bubblewrap
        return await super().pre_launch(**kwargs)

    def _make_folder(self) -> Path:
        usual = tempfile.gettempdir()
        return Path(tempfile.mkdtemp(prefix="cage", dir=usual if len(usual) < 60 else "/tmp"))

    def _write_connection(self) -> None:
        # The kernel sees the same sockets under another path.
        path = self.folder / "kernel.json"
        content = json.loads(path.read_text()) | {"ip": cage.PREFIX}
        path.unlink()
        path.write_text(json.dumps(content))

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Start the kernel; return when it is ready and its folder is sealed."""
        self._write_connection()
        self.process = self._start(kwargs)
        self.process.wait_sealed(START_SECONDS)
        self.pid, self.pgid, self.cwd = self.process.pid, None, kwargs.get("cwd")
        return self.connection_info

    def _start(self, kwargs: dict[str, Any]) -> Cage:
        ours, theirs = socket.socketpair()
        command = self._command(Path(kwargs.get("cwd") or os.devnull), theirs.fileno())
        outer = subprocess.Popen(
            command,
            env={},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        return Cage(ours, outer)

    def _command(self, work: Path, report: int) -> list[str]:
        limits = Limits(**self.limits)
        hidden = [Path(self.hidden)] if self.hidden else []
        kernel = [sys.executable, "-m", "ipykernel_launcher", "-f", cage.CONNECTION]
        kernel += ["--HistoryManager.enabled=False"]
        own = [
            *("--bind", str(self.folder), cage.SOCKETS),
            *("--ro-bind", str(Path(__file__).with_name("cage.py")), "/run/cage.py"),
            *(("--ro-bind", self.library, LIBRARY) if self.library else ()),
            *(part for path in _data(work) for part in ("--ro-bind", str(path), f"{cage.WORK}/{path.name}")),
        ]
        return [
            *wall(limits, hidden, own),
            "--as-pid-1",  # any other number the kernel could stop (kill -STOP), and with it the watchdog
            *("--", sys.executable, "/run/cage.py", "--limits", json.dumps(asdict(limits))),
            *("--report", str(report), "--", *kernel),
        ]

    async def kill(self, restart: bool = False) -> None:
        """End the sandbox and everything in it."""
        if self.process:
            self.process.kill()

    async def terminate(self, restart: bool = False) -> None:
        """End the sandbox and everything in it."""
        await self.kill(restart)

    async def send_signal(self, signum: int) -> None:
        """End the sandbox; the only signal that Jupyter still sends here is a last one."""
        if self.process and signum != 0:
            self.process.kill()

    async def cleanup(self, restart: bool = False) -> None:
        """Remove the folder of sockets."""
        if self.process:
            self.process.kill()
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)
        await super().cleanup(restart)


def _data(work: Path) -> list[Path]:
    if not work.is_dir():
        return []
    files = (path for path in sorted(work.iterdir()) if path.suffix.lower() in DATA_SUFFIXES)
    return [path for path in files if path.is_file() and not path.is_symlink()]


class ZygoteProvisioner(SandboxProvisioner):
    """Ask a zygote to fork the kernel: the imports are already there."""

    control = Instance(socket.socket, help="the zygote's control socket")
    shared = Unicode(help="folder of all submissions' folders, outside")
    job = Integer(help="a number that no other running submission has")

    def _make_folder(self) -> Path:
        folder = Path(self.shared, str(self.job))
        folder.mkdir()
        return folder

    def _start(self, kwargs: dict[str, Any]) -> Cage:
        work = Path(kwargs.get("cwd") or os.devnull)
        for path in _data(work):
            (self.folder / "files").mkdir(exist_ok=True)
            shutil.copy(path, self.folder / "files")
        ours, theirs = socket.socketpair()
        request = {"folder": self.folder.name, "limits": asdict(Limits(**self.limits))}
        socket.send_fds(self.control, [json.dumps(request).encode()], [theirs.fileno()])
        theirs.close()
        return Cage(ours)
