"""Run a rebuilt notebook and collect evidence: what ran to its end, what it returned, what was tampered with."""

from __future__ import annotations

import secrets
from dataclasses import asdict, dataclass, field
from types import ModuleType

from course_lib.grading.bundle import Test
from course_lib.grading.evidence import BadEvidence, decode, judge
from course_lib.grading.hidden import SEEDS
from course_lib.grading.kernel import KernelTrouble, Run, Session
from course_lib.grading.rebuild import Flag, Step

_WITNESS = '__import__("course_lib.grading.witness", fromlist=["_"])'
# Each of these fails in a kernel that nobody has touched. One that does not is a kernel that lies.
_CANARIES = (
    'if True:\n    raise AssertionError("{nonce}")',
    'assert all([True, False]) or abs(-1) < 0 or isinstance(1, str) or len([1]) == 0, "{nonce}"',
    'import torch\nassert torch.allclose(torch.zeros(2), torch.ones(2)), "{nonce}"',
)


@dataclass
class Mark:
    """What became of one test.

    Attributes:
        score: points earned, 0 or `max`.
        max: points possible.
        visible: `passed`, `failed`, `no evidence`, or why it did not run.
        hidden: the same, or `none` where nothing hidden is checked.
        message: what is wrong, in words.
        claim: what the test says must be true.
        seconds: wall clock of both parts.
    """

    score: float
    max: float
    visible: str
    hidden: str
    message: str
    claim: str
    seconds: float


@dataclass
class Findings:
    """Everything that one run found."""

    marks: dict[str, Mark] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    flags: list[Flag] = field(default_factory=list)

    def flag(self, kind: str, cell: str, what: str) -> None:
        """Note something for a person to look at, once."""
        flag = Flag(kind, cell, what[:500])
        if flag not in self.flags:
            self.flags.append(flag)

    def as_dicts(self) -> dict[str, dict]:
        """Give the marks as JSON-able dicts."""
        return {name: asdict(mark) for name, mark in self.marks.items()}


def examine(session: Session, steps: list[Step], checks: ModuleType) -> Findings:
    """Run all steps in order.

    Args:
        session: a fresh kernel.
        steps: the rebuilt notebook.
        checks: the assignment's loaded checks.

    Returns:
        One run a step (an empty one for text), one mark a test, and flags.

    Raises:
        KernelTrouble: if the fresh kernel does not testify: then no student is to blame.
    """
    findings = Findings()
    _swear_in(session)
    for step in steps:
        if step.kind != "code":
            findings.runs.append(Run())
        elif step.test is None:
            findings.runs.append(session.run(step.source, history=True))
        else:
            findings.runs.append(_test(session, step, step.test, checks, findings))
        _note_end(session, step.name, findings)
    _last_look(session, findings)
    return findings


def _swear_in(session: Session) -> None:
    run = session.run(lambda nonce: f'{_WITNESS}.begin("{nonce}")')
    if not _said(run, "begin") or not _canary(session, 0):
        raise KernelTrouble(f"A fresh kernel testifies: this one did not ({run.status}, {run.error}).")


def _said(run: Run, kind: str) -> list[dict]:
    return [evidence for evidence in run.evidence if evidence.get("kind") == kind]


def _canary(session: Session, number: int) -> bool:
    word = secrets.token_hex(8)
    run = session.run(_CANARIES[number].replace("{nonce}", word))
    return run.status != "ok"


def _test(session: Session, step: Step, test: Test, checks: ModuleType, findings: Findings) -> Run:
    run = session.run(lambda nonce: f'{step.source}\n{_WITNESS}.finish("{nonce}")')
    visible = _visible(run, step, findings)
    hidden, message, seconds = "none", "", 0.0
    if test.task and run.status in ("ok", "error"):
        hidden, message, seconds = _hidden(session, test, checks, findings)
    elif test.task:
        hidden = "not run"
    earned = visible == "passed" and hidden in ("passed", "none")
    score = test.points if earned else 0.0
    findings.marks[test.grade_id] = Mark(
        score, test.points, visible, hidden, message, test.claim, round(run.seconds + seconds, 3)
    )
    return run


def _visible(run: Run, step: Step, findings: Findings) -> str:
    if run.status == "error":
        return "failed"
    if run.status != "ok":
        return run.status
    if not _said(run, "finish"):
        findings.flag("no evidence", step.name, "The test seemed to pass, but did not reach its end.")
        return "no evidence"
    return "passed"


def _hidden(session: Session, test: Test, checks: ModuleType, findings: Findings) -> tuple[str, str, float]:
    seeds = [secrets.randbelow(2**31) for _ in range(SEEDS)]
    name = f"probe_{test.task}"
    run = session.run(lambda nonce: f'{_WITNESS}.probe("{nonce}", {test.probe!r}, "{name}", {seeds}, {test.function})')
    if run.status != "ok":
        return ("failed" if run.status == "error" else run.status), _reason(run), run.seconds
    said = _said(run, "arrays")
    if len(said) != 1:
        findings.flag("no evidence", test.grade_id, f"The hidden test ended well but spoke {len(said)} times.")
        return "no evidence", "", run.seconds
    _note_impostors(said[0], test, findings)
    try:
        arrays = [decode(found) for found in said[0]["arrays"]]
        wrong = judge(checks, test.task, arrays, seeds)
    except (BadEvidence, KeyError, TypeError, ValueError):
        wrong = "The result could not be read as arrays of numbers."
    return ("failed" if wrong else "passed"), wrong, run.seconds


def _reason(run: Run) -> str:
    if run.status == "timeout":
        return "It took too long on other inputs."
    return f"On other inputs your function ended with {run.error}"[:500] if run.status == "error" else ""


def _note_impostors(said: dict, test: Test, findings: Findings) -> None:
    impostors = said.get("impostors")
    if isinstance(impostors, list) and impostors:
        what = f"The function returns objects that equal everything: {', '.join(map(str, impostors[:5]))}."
        findings.flag("impostor", test.grade_id, what)


def _note_end(session: Session, cell: str, findings: Findings) -> None:
    noted = any(flag.kind == "kernel ended" for flag in findings.flags)  # later cells are not to blame
    if session.ended and session.ended != "timeout" and not noted:
        findings.flag("kernel ended", cell, f"The kernel was lost: {session.ended}.")


def _last_look(session: Session, findings: Findings) -> None:
    if session.ended:
        return
    if not all([_canary(session, number) for number in range(len(_CANARIES))]):
        findings.flag("tampered kernel", "", "A statement that must fail did not fail.")
    run = session.run(lambda nonce: f'{_WITNESS}.integrity("{nonce}", globals())')
    said = _said(run, "integrity")
    found = said[0].get("found") if said else None
    if not isinstance(found, list):
        findings.flag("no evidence", "", f"The last look at the kernel gave nothing ({run.status}).")
    elif found:
        findings.flag("tampered kernel", "", "; ".join(map(str, found[:10])))
    session.settle()
    _note_end(session, "", findings)
