"""Grade one submission: bytes in, one JSON-able dict out, no shared state; any engine can run it anywhere."""

from __future__ import annotations

import base64
import contextlib
import copy
import json
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from course_lib.grading.bundle import Bundle, digest
from course_lib.grading.evidence import load
from course_lib.grading.examine import Findings, examine
from course_lib.grading.kernel import KernelTrouble, Run, Start, cold, kernel, unsandboxed
from course_lib.grading.rebuild import Flag, Step, rebuild
from course_lib.grading.sandbox import SandboxUnavailable
from course_lib.grading.submission import Unreadable, read_cells
from course_lib.grading.suspicion import suspicious

# Every status but the last two is the student's and final.
STATUSES = (
    *("graded", "timeout", "died", "memory", "processes", "output", "missing", "unreadable", "too large"),
    *("error", "lost"),
)
# Characters of a student's own text that are shown. Rendering what is made to be slow takes time by their square.
_SHOWN, _SHOWN_OF_A_CELL = 100_000, 10_000
OWN_BYTES = 2**30
_ENDINGS = {"": "graded", "exit": "died", "killed": "died", "broken": "died"}


def grade_one(
    bundle: bytes, submission: bytes, student: str, *, sandbox: bool = True, start: Start | None = None
) -> dict[str, Any]:
    """Grade one submission.

    Args:
        bundle: a packed `Bundle`.
        submission: a packed `submission`.
        student: the student's id.
        sandbox: False runs student code with the grader's own rights.
        start: how to start the kernel; None for a bubblewrap of its own.

    Returns:
        `status` (one of `STATUSES`), `score`, `max_score`, `tasks` (a mark a test), `flags`, `notes`, `manual`,
        `seconds`, `sandbox` (how the kernel ran), `submission` and `bundle` (digests), and `notebook`, the
        executed one, None where nothing could be run.

    Raises:
        SandboxUnavailable: if there is no sandbox and `sandbox` is true.
    """
    began, plan, packed = time.monotonic(), Bundle.unpack(bundle), json.loads(submission)
    result = _blank(plan, packed, student) | {"submission": digest(submission), "bundle": digest(bundle)}
    try:
        cells = read_cells(packed, plan.limits)
        steps, flags = rebuild(plan, cells)
        result["flags"] += [asdict(flag) for flag in [*flags, *_suspicions(steps, plan.assignment)]]
        _run(plan, packed, steps, result, start, sandbox)
    except Unreadable as trouble:
        result.update(status=trouble.status, message=str(trouble))
    except KernelTrouble as trouble:
        result.update(status="error", message=str(trouble))
    result["seconds"] = round(time.monotonic() - began, 3)
    # Half a surrogate pair is a str that no file takes; a student's output may hold one.
    return json.loads(json.dumps(result, ensure_ascii=False).encode("utf-8", "replace"))


def _blank(plan: Bundle, packed: dict, student: str) -> dict[str, Any]:
    unrun = {"score": 0.0, "visible": "not run", "hidden": "not run", "message": "", "seconds": 0.0}
    notes = [f"renamed: the notebook came as {packed['renamed']}"] if packed["renamed"] else []
    dropped = [Flag("dropped file", "", f"{name} did not travel") for name in packed["dropped"]]
    return {
        "student": student,
        "assignment": plan.assignment,
        "status": "error",
        "message": "",
        "score": 0.0,
        "max_score": plan.max_score,
        "tasks": {test.grade_id: unrun | {"max": test.points, "claim": test.claim} for test in plan.tests},
        "manual": plan.manual,
        "flags": [asdict(flag) for flag in dropped],
        "notes": notes,
        "sandbox": "none",
        "notebook": None,
    }


def lost(student: str, why: str) -> dict[str, Any]:
    """Give the result of a submission that an engine could not bring home: no status of its own, no score."""
    empty = {"score": 0.0, "max_score": 0.0, "tasks": {}, "flags": [], "notes": [], "notebook": None}
    return {"student": student, "status": "lost", "message": why, **empty}


def _suspicions(steps: list[Step], topic: str) -> Iterator[Flag]:
    for step in steps:
        if step.own and step.kind == "code" and (found := suspicious(step.source, topic)):
            yield Flag("suspicious source", step.name, "; ".join(found[:10]))


def _run(plan: Bundle, packed: dict, steps: list[Step], result: dict, start: Start | None, sandbox: bool) -> None:
    with staged(plan, packed) as (folder, library):
        how = start or (cold(plan.limits, str(library)) if sandbox else unsandboxed())
        if sandbox and how.provisioner == "local-provisioner":
            raise SandboxUnavailable(f"Submitted code runs only in a sandbox: got the start {how.provisioner}.")
        with kernel(how, folder, str(library), plan.limits) as session:
            result["sandbox"] = how.provisioner if sandbox else "none"
            findings = examine(session, steps, load(plan.checks, plan.assignment))
            ended = session.ended
    result["tasks"] = findings.as_dicts()
    result["score"] = float(sum(mark.score for mark in findings.marks.values()))
    result["status"] = _ENDINGS.get(ended, ended)
    result["notebook"] = executed(plan, steps, findings)
    result["flags"] += [asdict(flag) for flag in findings.flags]


@contextlib.contextmanager
def staged(plan: Bundle, packed: dict) -> Iterator[tuple[Path, Path]]:
    """Write the submission's data files and the filtered library into a folder for the length of a with-block.

    Args:
        plan: the assignment.
        packed: the submission.

    Yields:
        The folder of files, and the folder that holds course_lib.
    """
    with tempfile.TemporaryDirectory(prefix="grade") as root:
        folder, library = Path(root, "files"), Path(root, "library")
        folder.mkdir()
        for name, content in packed["files"].items():
            (folder / Path(name).name).write_bytes(base64.b64decode(content))
        write_library(plan.library, library)
        yield folder, library


def write_library(library: dict[str, bytes], folder: Path) -> None:
    """Write a bundle's library below a folder."""
    for name, content in library.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def executed(plan: Bundle, steps: list[Step], findings: Findings) -> dict:
    """Put outputs and verdicts into the rebuilt notebook, for feedback and for formgrader.

    Args:
        plan: the assignment.
        steps: the rebuilt notebook.
        findings: what running it gave, one run a step.

    Returns:
        A notebook without hidden tests and without anything that a browser would execute.
    """
    secrets_of_probes = _probe_lines(plan)
    cells = [
        _executed_cell(number, step, source, run, findings, secrets_of_probes)
        for number, (step, source, run) in enumerate(zip(steps, _sources(steps), findings.runs, strict=True))
    ]
    return {key: value for key, value in plan.notebook.items() if key != "cells"} | {"cells": cells}


def _probe_lines(plan: Bundle) -> set[str]:
    lines = {line.strip() for test in plan.tests for line in (test.probe or "").splitlines()}
    return {line for line in lines if len(line) >= 16 and not line.startswith(("import ", "from "))}


def _sources(steps: list[Step]) -> Iterator[str]:
    """The text of each cell as it is shown; a student's is cut where rendering it would take for ever."""
    left = _SHOWN
    for step in steps:
        if not step.own:
            yield step.source
            continue
        shown = step.source[: min(_SHOWN_OF_A_CELL, left)]
        left -= len(shown)
        cut = "" if shown == step.source else "\n\n# [shortened]" if step.kind == "code" else "\n\n[shortened]"
        yield (shown if step.kind == "code" else _defused(shown)) + cut


def _executed_cell(number: int, step: Step, source: str, run: Run, findings: Findings, probes: set[str]) -> dict:
    cell = copy.deepcopy(step.cell) or {"cell_type": step.kind, "id": f"own-{number}", "metadata": {}}
    cell["source"] = source
    if step.kind == "code":
        outputs = [_scrubbed(output, probes, step, findings) for output in run.outputs]
        if step.test:
            outputs.append(_verdict(findings, step.test.grade_id))
        cell.update(outputs=outputs, execution_count=None)
    return cell


def _defused(markdown: str) -> str:
    """A student's text without HTML, without pictures, and with links to web addresses alone.

    Formgrader and the feedback page render it as HTML, in the instructor's session. There a link to `javascript:`,
    however it is written, would be a program, and a picture that was pasted in and did not come along an error.
    """
    text = markdown.replace("<", "&lt;").replace("![", "! [")
    # A link is made by `](` or `]:` alone; no list of wicked schemes would ever be complete.
    return re.sub(r"\](?=[(:])(?!\(https?://|: *https?://)", "] ", text)


def _scrubbed(output: dict, probes: set[str], step: Step, findings: Findings) -> dict:
    text = json.dumps(output)
    if any(json.dumps(line)[1:-1] in text for line in probes):
        findings.flag("leak", step.name, "An output held a line of a hidden test; it was removed.")
        return {"output_type": "stream", "name": "stderr", "text": "[output removed]\n"}
    if output["output_type"] == "error":
        output["traceback"] = [
            "\n".join(line for line in part.splitlines() if "course_lib.grading.witness" not in line)
            for part in output["traceback"]
        ]
    return output


_WORDS = {
    "timeout": "stopped, it ran too long",
    "output": "stopped, too much was printed",
    "memory": "stopped, it needed too much memory",
    "processes": "stopped, it started too many processes",
    **dict.fromkeys(("exit", "killed", "broken"), "stopped, the code ended Python itself"),
    "skipped": "not run, because an earlier cell was stopped for good",
}


def _in_words(verdict: str) -> str:
    return _WORDS.get(verdict, verdict)


def _verdict(findings: Findings, name: str) -> dict:
    mark = findings.marks[name]
    # "The tests give": a person may have given another score, which stands in the cell's head.
    lines = [f"The tests give {mark.score:g} of {mark.max:g} points.", f"Claim: {mark.claim}"]
    lines.append(f"Visible test: {_in_words(mark.visible)}.")
    if mark.hidden != "none":
        lines.append(f"On other inputs: {_in_words(mark.hidden)}. {mark.message}".rstrip())
    return {"output_type": "display_data", "data": {"text/plain": "\n".join(lines)}, "metadata": {}}


def spare_the_machine(kernel_bytes: int) -> None:
    """Limit this process, too: a verify that pairs all entries of an array pairs as many as the student returned.

    Args:
        kernel_bytes: what the student's kernel may hold; this process may hold `OWN_BYTES` more.
    """
    import resource

    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    wanted = kernel_bytes + OWN_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def main() -> None:
    """Grade the one submission that comes on standard input as JSON, and print the result as JSON."""
    job = json.load(sys.stdin)
    bundle, submission = (base64.b64decode(job[name]) for name in ("bundle", "submission"))
    if job["sandbox"]:
        spare_the_machine(Bundle.unpack(bundle).limits.memory_bytes)
    with contextlib.redirect_stdout(sys.stderr):
        result = grade_one(bundle, submission, job["student"], sandbox=job["sandbox"])
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
