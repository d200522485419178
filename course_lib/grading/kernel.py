"""Start a kernel for one submission, and run cells in it under a clock, with capped output."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import zmq

from course_lib.grading.limits import Limits
from course_lib.grading.provisioner import Cage, SandboxProvisioner, ZygoteProvisioner
from course_lib.grading.quick_imports import without_iri_grammar
from course_lib.grading.sandbox import SandboxUnavailable
from course_lib.grading.witness import MIME

with without_iri_grammar():
    from jupyter_client.blocking import BlockingKernelClient
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
    from jupyter_client.manager import KernelManager

INTERRUPT_SECONDS = 3.0
IDLE_SECONDS = 5.0  # from the reply to the last output
WELCOME_SECONDS = 5.0
AWAY_SECONDS = 1.0  # reading takes less; more means that this process did not run
_BASE64 = re.compile(r"[A-Za-z0-9+/=\s]*")
_KINDS = {"stream", "display_data", "execute_result", "error"}


class _OneKernel(KernelSpecManager):
    """Knows one kernel spec, in memory, so that nothing installed or submitted can choose another."""

    def __init__(self, spec: KernelSpec) -> None:
        super().__init__()
        self._only = spec

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        return self._only


def _spec(provisioner: str, config: dict[str, Any]) -> KernelSpec:
    return KernelSpec(
        argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        display_name="Python 3",
        language="python",
        interrupt_mode="message",
        metadata={"kernel_provisioner": {"provisioner_name": provisioner, "config": config}},
    )


@dataclass(frozen=True)
class Start:
    """A way to start kernels.

    Attributes:
        provisioner: name of a registered kernel provisioner.
        config: its traits.
        wanted: the class that must come out of it.
    """

    provisioner: str
    config: dict[str, Any]
    wanted: type


def cold(limits: Limits, library: str) -> Start:
    """Start each kernel in a bubblewrap of its own."""
    return Start("course-sandbox", {"limits": asdict(limits), "library": library}, SandboxProvisioner)


def warm(limits: Limits, control: object, shared: str, job: int) -> Start:
    """Fork each kernel from a zygote."""
    config = {"limits": asdict(limits), "control": control, "shared": shared, "job": job}
    return Start("course-zygote", config, ZygoteProvisioner)


def unsandboxed() -> Start:
    """Start each kernel as an ordinary process, which may do whatever the grader may."""
    return Start("local-provisioner", {}, object)


class KernelTrouble(RuntimeError):
    """The grader could not start a kernel; no student is to blame."""


@contextlib.contextmanager
def kernel(start: Start, folder: Path, library: str, limits: Limits) -> Iterator[Session]:
    """Run a kernel for the length of a with-block; nothing of it is left afterwards.

    Args:
        start: how.
        folder: the submission's files; also the current folder of an unsandboxed kernel.
        library: folder of the filtered course_lib, for an unsandboxed kernel.
        limits: the budgets.

    Yields:
        The session to run cells in.

    Raises:
        KernelTrouble: if it does not come up.
        SandboxUnavailable: if what comes up is not in the sandbox that was asked for.
    """
    # Not ports: a free one may be taken before this kernel listens. A sandbox has sockets of its own.
    place = {"transport": "ipc", "ip": f"{library}/k"}
    manager = KernelManager(kernel_spec_manager=_OneKernel(_spec(start.provisioner, start.config)), **place)
    try:
        client = _connect(manager, start, folder, library, limits)
        try:
            yield Session(manager, client, limits)
        finally:
            client.stop_channels()
    finally:
        if manager.has_kernel:
            manager.shutdown_kernel(now=True)
        manager.cleanup_resources()


def _connect(manager: KernelManager, start: Start, folder: Path, library: str, limits: Limits) -> BlockingKernelClient:
    try:
        manager.start_kernel(cwd=str(folder), env=_environment(library))
    except SandboxUnavailable:
        raise
    except Exception as error:
        raise KernelTrouble(f"A kernel starts: this one did not. {type(error).__name__}: {error}") from error
    if not isinstance(manager.provisioner, start.wanted):
        raise SandboxUnavailable(
            f"Submitted code runs only in a sandbox: wanted {start.wanted.__name__}, got "
            f"{type(manager.provisioner).__name__}. Reinstall the package, so that its entry points are found."
        )
    client = manager.client(context=_context(limits))
    client.start_channels(stdin=False, hb=False)
    # Messages published before the subscription has arrived would be lost; this one says that it has.
    client.iopub_channel.socket.poll(1000 * WELCOME_SECONDS)
    return client


def _environment(library: str) -> dict[str, str]:
    path = os.pathsep.join(part for part in (library, os.environ.get("PYTHONPATH", "")) if part)
    return {**os.environ, "PYTHONPATH": path, "NBGRADER_EXECUTION": "autograde", "OMP_NUM_THREADS": "1"}


def _context(limits: Limits) -> zmq.Context:
    context = zmq.Context()
    # A kernel may send anything: what is larger than this is not even received.
    context.setsockopt(zmq.MAXMSGSIZE, 2 * limits.evidence_bytes)
    context.setsockopt(zmq.LINGER, 0)
    return context


@dataclass
class Run:
    """What came of one request.

    Attributes:
        status: `ok`, `error`, `timeout` (interrupted), or how the kernel ended: `killed`, `output`, and the
            words of `Cage.ending`.
        outputs: notebook outputs, capped.
        evidence: what `witness` published with the right nonce, in order.
        seconds: wall clock.
        error: class and message of the exception, empty if none.
    """

    status: str = "ok"
    outputs: list[dict] = field(default_factory=list)
    evidence: list[dict] = field(default_factory=list)
    seconds: float = 0.0
    error: str = ""


class Session:
    """A running kernel and its two clocks: one a cell, one for the whole notebook.

    Attributes:
        ended: why no more cells run, empty while they do.
    """

    def __init__(self, manager: KernelManager, client: BlockingKernelClient, limits: Limits) -> None:
        """Start the notebook's clock."""
        self._manager, self._client, self._limits = manager, client, limits
        self._deadline = time.monotonic() + limits.notebook_seconds
        self._received = 0
        self.ended = ""

    def run(self, code: Callable[[str], str] | str, *, history: bool = False) -> Run:
        """Run one request to its end, or to the end of its time.

        Args:
            code: the source, or a function that makes it from a nonce.
            history: whether it counts as the student's, and enters `In`.

        Returns:
            What came of it; `status` is `skipped` once the kernel has ended.
        """
        if self.ended:
            return Run("skipped")
        nonce, began = secrets.token_hex(16), time.monotonic()
        source = code if isinstance(code, str) else code(nonce)
        message = self._client.execute(source, store_history=history, allow_stdin=False, stop_on_error=False)
        request = _Request(message, nonce, Run(), self._limits)
        self._follow(request, min(began + self._limits.cell_seconds, self._deadline))
        request.run.seconds = time.monotonic() - began
        return request.run

    def settle(self) -> None:
        """Ask the sandbox, if there is one, whether a limit is passed at this moment; `ended` says which."""
        process = getattr(self._manager.provisioner, "process", None)
        if isinstance(process, Cage) and not self.ended:
            process.settle()
            self.ended = process.ending or ""

    def _follow(self, request: _Request, deadline: float) -> None:
        interrupted = False
        while not request.done:
            began = time.monotonic()
            heard = self._receive(request, min(max(deadline - began, 0.0), 0.2))
            away = time.monotonic() - began - AWAY_SECONDS
            if away > 0:  # the grader was stopped (Ctrl-Z) or starved; no student is to blame for that time
                deadline, self._deadline = deadline + away, self._deadline + away
            if heard and began < deadline + AWAY_SECONDS:
                continue  # what came in time counts, also when it is read a little late
            if not self._alive(request):
                return
            if request.replied and time.monotonic() - request.replied > IDLE_SECONDS:
                return  # the word "idle" was lost with a message too large to receive
            if time.monotonic() > deadline:
                if interrupted:
                    self._end(request, "timeout")
                    return
                interrupted, deadline = True, time.monotonic() + INTERRUPT_SECONDS
                self._interrupt()
        if interrupted:
            request.run.status = "timeout"
            if time.monotonic() > self._deadline:
                self.ended = "timeout"

    def _interrupt(self) -> None:
        client = self._client
        client.control_channel.send(client.session.msg("interrupt_request", {}))

    def _alive(self, request: _Request) -> bool:
        if self._manager.is_alive():
            return True
        process = getattr(self._manager.provisioner, "process", None)
        request.run.error = getattr(process, "detail", "")
        self._end(request, getattr(process, "ending", None) or "exit")
        return False

    def _receive(self, request: _Request, seconds: float) -> bool:
        sockets = {self._client.shell_channel.socket: request.reply, self._client.iopub_channel.socket: request.hear}
        ready = zmq.select(list(sockets), [], [], seconds)[0]
        for channel in ready:
            frames = channel.recv_multipart()
            self._received += sum(map(len, frames))
            if self._received > self._limits.output_bytes + self._limits.evidence_bytes:
                self._end(request, "output")
                return True
            # A student's kernel has the key and may sign anything, also what breaks these lines.
            with contextlib.suppress(Exception):
                sockets[channel](self._decode(frames))
        return bool(ready)

    def _decode(self, frames: list[bytes]) -> dict:
        session = self._client.session
        return session.deserialize(session.feed_identities(frames)[1])

    def _end(self, request: _Request, reason: str) -> None:
        request.run.status, request.done = reason, True
        self.ended = reason
        self._manager.shutdown_kernel(now=True)


class _Request:
    """Messages that answer one execute request."""

    def __init__(self, message: str, nonce: str, run: Run, limits: Limits) -> None:
        self.message, self.nonce, self.run = message, nonce, run
        self._room, self._evidence_room = limits.recorded_bytes, limits.evidence_bytes
        self.replied = 0.0
        self._idle = self.done = False

    def reply(self, message: dict) -> None:
        if self._is_mine(message) and message["msg_type"] == "execute_reply":
            content = message["content"]
            if content.get("status") != "ok":
                self.run.status = "error"
                self.run.error = f"{content.get('ename', 'Error')}: {content.get('evalue', '')}"[:2000]
            self.replied = time.monotonic()
            self.done = self._idle

    def hear(self, message: dict) -> None:
        if not self._is_mine(message):
            return
        kind, content = message["msg_type"], message["content"]
        if kind == "status" and content.get("execution_state") == "idle":
            self._idle = True
            self.done = bool(self.replied)
        elif kind in ("display_data", "update_display_data") and MIME in content.get("data", {}):
            self._testify(content["data"][MIME])
        elif kind in _KINDS:
            self._record(kind, content)

    def _is_mine(self, message: dict) -> bool:
        return message.get("parent_header", {}).get("msg_id") == self.message

    def _testify(self, said: object) -> None:
        if not isinstance(said, str) or len(said) > self._evidence_room:
            return
        self._evidence_room -= len(said)
        try:
            evidence = json.loads(said)
        except (ValueError, RecursionError):
            return
        if isinstance(evidence, dict) and evidence.get("nonce") == self.nonce:
            self.run.evidence.append(evidence)

    def _record(self, kind: str, content: dict) -> None:
        if self._room <= 0:
            return
        output = _output(kind, content)
        size = len(json.dumps(output))
        if size > self._room:
            output = {"output_type": "stream", "name": "stderr", "text": "[output cut: too long to keep]\n"}
            self._room = 0
        self._room -= size
        last = self.run.outputs[-1] if self.run.outputs else {}
        if kind == "stream" and last.get("output_type") == "stream" and last.get("name") == output["name"]:
            last["text"] += output["text"]
        else:
            self.run.outputs.append(output)


def _output(kind: str, content: dict) -> dict:
    """Give a notebook output with nothing in it that a browser would run: text and pixels only."""
    if kind == "stream":
        return {"output_type": "stream", "name": _word(content.get("name")), "text": str(content.get("text", ""))}
    if kind == "error":
        traceback = [str(line) for line in content.get("traceback", [])][:200]
        return {
            "output_type": "error",
            "ename": str(content.get("ename", "")),
            "evalue": str(content.get("evalue", "")),
            "traceback": traceback,
        }
    data = content.get("data", {})
    kept = {mime: data[mime] for mime in ("text/plain", "image/png") if isinstance(data.get(mime), str)}
    if not _BASE64.fullmatch(kept.get("image/png", "")):
        del kept["image/png"]
    kept = kept or {"text/plain": "[output that is not shown here]"}
    return {"output_type": "display_data", "data": kept, "metadata": {}}


def _word(name: object) -> str:
    return "stderr" if name == "stderr" else "stdout"
