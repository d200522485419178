"""Inside the sandbox: one submission's own namespaces, limits, and the watchdog that is its process 1.

Everything here runs before or beside student code, with the standard library alone. Bubblewrap has built the
file system; this module gives each forked kernel its own copy of what must not be shared (mounts, processes,
network, shared memory), takes every privilege away, and counts memory and processes from outside the kernel.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import errno
import json
import os
import select
import signal
import stat
import struct
import sys
import time
import traceback
from collections.abc import Callable

# From <sched.h>, <sys/mount.h>, <sys/prctl.h> and <linux/capability.h>.
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWPID, CLONE_NEWNET = (1 << n for n in (17, 26, 27, 29, 30))
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE = 1 << 12, 1 << 14, 1 << 18
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 4, 24, 38
PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
LINUX_CAPABILITY_VERSION_3 = 0x20080522
PR_SET_SECCOMP, SECCOMP_MODE_FILTER, SECCOMP_ERROR, SECCOMP_ALLOW = 22, 2, 0x00050000, 0x7FFF0000
BPF_LOAD, BPF_EQUAL, BPF_AT_LEAST, BPF_RETURN = 0x20, 0x15, 0x35, 0x06

# System calls by machine: the architecture's word for seccomp, then their numbers (man 2 seccomp, <asm/unistd.h>).
_MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
_FORBIDDEN = {
    # Keyrings belong to the user, and so to all kernels of a zygote: one could leave a note there for the next.
    **{"add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219)},
    # Memory of no process and of no scratch file system, which the watchdog would not see.
    **{"memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "msgget": (68, 186)},
    **{"mq_open": (240, 180), "io_uring_setup": (425, 425)},
    # Nothing honest needs them, and they are a short way to the kernel's bugs.
    **{"bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282)},
}
# Refused where an argument (by its place) has this value: process 1, or PRIO_USER. The watchdog has the kernel's user,
# and could be slowed down or starved.
_WATCHDOG = {
    **{"prlimit64": (302, 261, {0: 1}), "setpriority": (141, 140, {0: 2, 1: 1}), "sched_setattr": (314, 274, {0: 1})},
    **{"sched_setparam": (142, 118, {0: 1}), "sched_setscheduler": (144, 119, {0: 1})},
    "sched_setaffinity": (203, 122, {0: 1}),
}
# A session has its own share of the processor (man 7 sched, autogroup). A kernel has one; more are only pretended.
_SETSID = (112, 157)

WATCH_SECONDS = 0.1
WORK = "/home/student"  # the kernel's current folder
SCRATCH = ("/tmp", WORK, "/dev/shm")
SOCKETS = "/ipc"  # where the kernel sees its own folder of sockets
PREFIX = f"{SOCKETS}/k"  # Jupyter names the five sockets PREFIX-1 to PREFIX-5
CONNECTION = "/tmp/kernel.json"  # the kernel writes to its connection file, and SOCKETS gets sealed
LOG = "/tmp/kernel.log"
SOCKET_BYTES = 2 * 212_992  # what one socket may hold of messages nobody has read
CROWD = 8  # threads of a kernel that may want to run at the same time; the others have to wait for everybody's


def _call(name: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}{arguments}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str | None = None, flags: int = 0, data: str = "") -> None:
    """Attach a file system, or change how one is attached (man 2 mount).

    Args:
        source: device, folder or a word for virtual file systems.
        target: the mount point.
        kind: file system type, None for binds and remounts.
        flags: MS_ flags.
        data: options of the file system.

    Raises:
        OSError: if the kernel refuses.
    """
    _call("mount", source.encode(), target.encode(), kind.encode() if kind else None, flags, data.encode() or None)


def separate() -> None:
    """Leave the zygote's namespaces; the next child forked is process 1 of a world of its own.

    Raises:
        OSError: if the kernel refuses.
    """
    _call("unshare", CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS)
    mount("none", "/", None, MS_REC | MS_PRIVATE)


def furnish(folder: str, shared: str, scratch_bytes: int) -> None:
    """Mount what one submission sees: fresh scratch, its own processes, its own sockets, nobody else's.

    Args:
        folder: this submission's folder, as the zygote sees it.
        shared: parent of all submissions' folders, hidden from here on.
        scratch_bytes: size of each scratch file system.

    Raises:
        OSError: if the kernel refuses.
    """
    safe = MS_NOSUID | MS_NODEV
    mount(folder, SOCKETS, None, MS_BIND)
    mount("tmpfs", shared, "tmpfs", safe | MS_RDONLY, "size=4k")
    for target in SCRATCH:
        _renew(target, safe, scratch_bytes)
    for covered in _mounts_below("/proc"):
        _call("umount2", covered.encode(), MNT_DETACH)
    mount("proc", "/proc", "proc", safe | MS_NOEXEC)


def _renew(target: str, safe: int, scratch_bytes: int) -> None:
    """Cover a scratch folder with an empty one; what bubblewrap mounted below it (an interpreter in /tmp) stays."""
    kept: dict[str, int] = {}
    for path in reversed(_mounts_below(target)):  # outer ones first
        if not any(path.startswith(f"{outer}/") for outer in kept):
            kept[path] = os.open(path, os.O_PATH | os.O_DIRECTORY)
    mount("tmpfs", target, "tmpfs", safe, f"size={scratch_bytes},mode=1777")
    for path, folder in kept.items():
        os.makedirs(path, exist_ok=True)
        mount(f"/proc/self/fd/{folder}", path, None, MS_BIND | MS_REC)  # read-only stays read-only
        os.close(folder)


def harden() -> None:
    """Close the doors that an unprivileged process still has: user namespaces, and settings below /proc.

    Raises:
        OSError: if the kernel refuses.
    """
    # A user namespace of one's own is the usual way to kernel bugs; nothing honest needs one.
    with open("/proc/sys/user/max_user_namespaces", "w") as setting:
        setting.write("0")
    # A grader run by root is root to /proc/sys even without capabilities.
    mount("none", "/proc", None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC)
    # And owns the machine's own /dev/null: read-only, it still takes what is written, but no other mode or date.
    for path in (f"/dev/{name}" for name in os.listdir("/dev")):
        if stat.S_ISCHR(os.lstat(path).st_mode):
            locked = os.statvfs(path).f_flag & (MS_NOSUID | MS_NOEXEC)
            mount("none", path, None, MS_REMOUNT | MS_BIND | MS_RDONLY | locked)


def receive_connection() -> None:
    """Copy the connection file from where the grader left it to where the kernel may write."""
    with open(f"{SOCKETS}/kernel.json", "rb") as given, open(CONNECTION, "wb") as own:
        own.write(given.read())


def silence() -> None:
    """Cut the kernel off the grader's terminal; what it says before it can speak Jupyter goes to `LOG`."""
    nothing = os.open(os.devnull, os.O_RDWR)
    log = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for standard, target in enumerate((nothing, nothing, log)):
        os.dup2(target, standard)


def seal(seconds: float = 30.0) -> bool:
    """Wait until the kernel has bound its sockets, then make their folder read-only.

    Args:
        seconds: how long to wait.

    Returns:
        Whether the sockets came; without them there is nothing to connect to.
    """
    deadline = time.monotonic() + seconds
    while not all(os.path.exists(f"{PREFIX}-{number}") for number in range(1, 6)):
        if time.monotonic() > deadline or _ended():
            return False
        time.sleep(0.005)
    mount("none", SOCKETS, None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)
    return True


def _ended() -> bool:
    # WNOWAIT leaves the dead child for `guard` to reap.
    return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _mounts_below(root: str) -> list[str]:
    with open("/proc/self/mountinfo") as table:
        targets = [line.split()[4] for line in table]
    return [target for target in reversed(targets) if target.startswith(root + "/")]


def drop_privileges() -> None:
    """Give up every capability for good, in this process and all it starts.

    Raises:
        OSError: if the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in range(64):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)  # fails without CAP_SETPCAP: then there is none to drop
    libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(LINUX_CAPABILITY_VERSION_3, 0)
    _call("capset", header, (ctypes.c_uint32 * 6)())
    _call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def forbid() -> None:
    """Refuse, for good and for all children, system calls that reach beyond one kernel or beyond its limits.

    Raises:
        OSError: if the kernel refuses.
        RuntimeError: on a machine whose system calls are not known here.
    """
    if os.uname().machine not in _MACHINES:
        raise RuntimeError(f"The sandbox knows the system calls of {', '.join(_MACHINES)}: got {os.uname().machine}.")
    word, machine = _MACHINES[os.uname().machine]
    refuse = [(BPF_RETURN, 0, 0, SECCOMP_ERROR | errno.EPERM)]
    foreign = [(BPF_RETURN, 0, 0, SECCOMP_ERROR | errno.ENOSYS)]
    program = [(BPF_LOAD, 0, 0, 4), (BPF_EQUAL, 1, 0, word), *foreign]
    program += [(BPF_LOAD, 0, 0, 0), (BPF_AT_LEAST, 0, 1, 0x40000000), *foreign]  # x86_64 has each call twice
    program += [(BPF_EQUAL, 0, 1, _SETSID[machine]), (BPF_RETURN, 0, 0, SECCOMP_ERROR)]
    for numbers in _FORBIDDEN.values():
        program += [(BPF_EQUAL, 0, 1, numbers[machine]), *refuse]
    for *numbers, wrong in _WATCHDOG.values():
        tests = [
            part
            for place, value in wrong.items()
            for part in [(BPF_LOAD, 0, 0, 16 + 8 * place), (BPF_EQUAL, 0, 1, value), *refuse]
        ]
        program += [(BPF_EQUAL, 0, len(tests) + 1, numbers[machine]), *tests, (BPF_RETURN, 0, 0, SECCOMP_ALLOW)]
    program.append((BPF_RETURN, 0, 0, SECCOMP_ALLOW))
    packed = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))
    header = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(packed)))
    _call("prctl", PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header, 0, 0)


def limit(limits: dict) -> None:
    """Set this process's resource limits, hard and soft alike.

    RLIMIT_AS would fight torch, which reserves far more than it touches; RLIMIT_DATA counts what can be written.
    RLIMIT_NPROC is twice what is allowed: it must not stop a fork before the watchdog, which knows the reason, can
    see one too many. (It binds only graders that are not root.)

    Args:
        limits: the fields of `course_lib.grading.limits.Limits`.
    """
    import resource

    wanted = {
        resource.RLIMIT_DATA: int(limits["memory_bytes"]),
        resource.RLIMIT_FSIZE: int(limits["file_bytes"]),
        resource.RLIMIT_NPROC: 2 * int(limits["processes"]),
        resource.RLIMIT_NOFILE: int(limits["open_files"]),
        resource.RLIMIT_CPU: int(4 * limits["notebook_seconds"]) + 1,
        resource.RLIMIT_CORE: 0,
    }
    for kind, value in wanted.items():
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


def die_with_parent() -> None:
    """Ask the kernel to kill this process as soon as its parent is gone."""
    _call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _others() -> list[str]:
    return [name for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]


def _threads(pid: str) -> int:
    return _field(pid, "status", "Threads")


def _resident(pid: str) -> int:
    return 1024 * (_field(pid, "status", "RssAnon") + _field(pid, "status", "RssShmem"))


def _own_share(pid: str) -> int:
    """Count pages that a fork shares with its parent in parts; slower, and only asked for when it matters."""
    share = _field(pid, "smaps_rollup", "Pss_Anon") + _field(pid, "smaps_rollup", "Pss_Shmem")
    return 1024 * share or _resident(pid)


def _field(pid: str, file: str, name: str) -> int:
    try:
        with open(f"/proc/{pid}/{file}") as lines:
            return next((int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)
    except OSError:
        return 0  # it ended while we looked


def _passed(limits: dict) -> str:
    others = _others()
    if sum(map(_threads, others)) > limits["processes"]:
        return "processes"
    room = limits["memory_bytes"] - SOCKET_BYTES * _sockets()
    if all(sum(map(measure, others)) > room for measure in (_resident, _own_share)):
        return "memory"
    _queue(others)
    return ""


def _sockets() -> int:
    """Count the sockets of this network namespace: what they hold is memory of no process."""
    with open("/proc/net/sockstat") as lines:
        return int(next(lines).split()[2])


def _queue(others: list[str]) -> None:
    """Of many busy threads, let the youngest run only while nobody else wants to; there is no way back for them."""
    threads = [(pid, thread) for pid in sorted(others, key=int) for thread in _listed(f"/proc/{pid}/task")]
    if len(threads) > CROWD:
        for _, thread in [pair for pair in threads if _runs(*pair)][CROWD:]:
            with contextlib.suppress(OSError):
                os.sched_setscheduler(int(thread), os.SCHED_IDLE, os.sched_param(0))


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []  # it ended while we looked


def _runs(pid: str, thread: str) -> bool:
    try:
        with open(f"/proc/{pid}/task/{thread}/stat", "rb") as line:
            return line.read().rpartition(b") ")[2][:1] == b"R"
    except OSError:
        return False


def guard(main: int, limits: dict, report: int) -> dict:
    """Reap every orphan and watch the whole until its main process ends or a limit is passed.

    A byte on the report's socket asks for a look at once, which is answered by `{"reason": "looked"}`; a hang-up
    ends this process. SIGCHLD must be blocked by the caller before it forks, so that no death is missed.

    Args:
        main: process id of the kernel.
        limits: the fields of `course_lib.grading.limits.Limits`.
        report: file descriptor of the report.

    Returns:
        `{"reason": "exit" | "memory" | "processes", "detail": exit code and last words, if it failed}`.
    """
    looked, deaths = time.monotonic(), _hear_deaths()
    while True:
        ready = select.select([deaths, report], [], [], WATCH_SECONDS)[0]
        if deaths in ready:
            os.read(deaths, 4096)
        asked = report in ready
        if asked and not os.read(report, 1):
            os._exit(0)
        code = _reap(main)
        if code is not None:
            return {"reason": "exit", "detail": f"exit code {code}. {_last_words() if code else ''}"}
        if asked or time.monotonic() - looked >= WATCH_SECONDS:
            if reason := _passed(limits):
                return {"reason": reason}
            looked = time.monotonic()
        if asked:
            _tell(report, {"reason": "looked"})


def _hear_deaths() -> int:
    """Turn SIGCHLD into bytes, so that one `select` waits for deaths and for questions."""
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
    return readable


def _last_words() -> str:
    try:
        with open(LOG, "rb") as log:
            return log.read(1 << 20)[-2000:].decode("utf-8", "replace")
    except OSError:
        return ""


def _reap(main: int) -> int | None:
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == main:
            found = os.waitstatus_to_exitcode(status)


def keep(start: Callable[[], None], limits: dict, report: int) -> None:
    """Fork the kernel, seal its folder, guard it, report how it ended, and end, taking everything along.

    The report is lines of JSON: `{"reason": "sealed"}` before any student code can arrive, an answer to each
    question, then the ending.

    Args:
        start: runs the kernel; must not return.
        limits: the fields of `course_lib.grading.limits.Limits`.
        report: file descriptor of the report, a socket.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    main = os.fork()
    if main == 0:
        os.close(report)
        _become(start, limits)
    if seal():
        drop_privileges()
        _call("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)  # so that the kernel cannot trace its watchdog
        _tell(report, {"reason": "sealed"})
        _tell(report, guard(main, limits, report))
    else:
        _tell(report, {"reason": "broken", "detail": f"no sockets. {_last_words()}"})
    os._exit(0)


def _become(start: Callable[[], None], limits: dict) -> None:
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
        os.setsid()
        silence()
        drop_privileges()
        limit(limits)
        forbid()
        start()
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(70)  # never back into the zygote's code


def _tell(report: int, message: dict) -> None:
    os.write(report, json.dumps(message).encode() + b"\n")


def run(arguments: list[str] | None = None) -> None:
    """Guard one cold kernel: `python -m course_lib.grading.cage --limits JSON --report FD -- command`.

    Args:
        arguments: the command line, without the program's name.
    """
    parser = argparse.ArgumentParser(description="Run a command under the sandbox's limits.")
    parser.add_argument("--limits", type=json.loads, required=True)
    parser.add_argument("--report", type=int, required=True)
    parser.add_argument("command", nargs="+")
    options = parser.parse_args(arguments)
    harden()
    receive_connection()
    keep(lambda: os.execv(options.command[0], options.command), options.limits, options.report)


if __name__ == "__main__":
    run(sys.argv[1:])
