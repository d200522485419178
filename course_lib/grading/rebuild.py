"""Rebuild a notebook from the release: of a submission only the text of solution cells and own cells is taken.

Nothing else can matter: metadata, tags, kernel, outputs, tests and their order come from the released notebook.
What a submission says differently is not obeyed, but noticed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from course_lib.grading.bundle import Bundle, Test, grade_id, is_solution, text
from course_lib.grading.submission import Cell

ABSENT = "# This cell was not in the submission."
_EXECUTION_TAGS = {"skip-execution", "raises-exception", "remove-cell"}
_MARKS = ("grade", "solution", "task", "locked", "points")


@dataclass(frozen=True)
class Step:
    """One cell of the rebuilt notebook.

    Attributes:
        kind: `code` or `markdown`.
        source: its text.
        name: its grade_id; empty for a student's own cell.
        own: whether the text is the student's.
        test: what it earns, None if nothing.
        cell: the released cell, None for a student's own.
    """

    kind: str
    source: str
    name: str
    own: bool
    test: Test | None = None
    cell: dict | None = None


@dataclass(frozen=True)
class Flag:
    """Something that a person should look at; it never changes a score.

    Attributes:
        kind: what sort of thing, a short word.
        cell: where, empty for the whole notebook.
        what: a sentence.
    """

    kind: str
    cell: str
    what: str


def rebuild(bundle: Bundle, cells: list[Cell]) -> tuple[list[Step], list[Flag]]:
    """Put a student's work into the released notebook.

    Args:
        bundle: the assignment.
        cells: the submitted cells.

    Returns:
        The notebook's steps, in the order to run them, and what was odd.
    """
    released = {grade_id(cell): cell for cell in bundle.notebook["cells"] if grade_id(cell)}
    taken, own, flags = _sort(cells, released)
    flags += [flag for name, cell in released.items() for flag in _differences(name, cell, taken.get(name), bundle)]
    tests = {test.grade_id: test for test in bundle.tests}
    steps = [*own.get("", [])]
    for cell in bundle.notebook["cells"]:
        name = grade_id(cell)
        steps.append(_step(cell, taken.get(name), tests.get(name)))
        steps += own.get(name, []) if name else []
    return steps, flags


def _sort(cells: list[Cell], released: dict[str, dict]) -> tuple[dict[str, Cell], dict[str, list[Step]], list[Flag]]:
    """Tell released cells from own ones; own cells stay behind the released cell that they followed."""
    taken: dict[str, Cell] = {}
    own: dict[str, list[Step]] = {}
    flags, anchor = [], ""
    for cell in cells:
        if cell.name in released and cell.name not in taken:
            taken[cell.name], anchor = cell, cell.name
            continue
        if cell.name in released:
            flags.append(Flag("duplicate cell", cell.name, "The submission holds two cells of this name."))
        if cell.name not in released or is_solution(released[cell.name]):
            own.setdefault(anchor, []).append(Step(cell.kind, cell.source, "", own=True))
    return taken, own, flags


def _step(cell: dict, submitted: Cell | None, test: Test | None) -> Step:
    kind, name = cell["cell_type"], grade_id(cell)
    if not is_solution(cell):
        return Step(kind, text(cell), name, own=False, test=test, cell=cell)
    source = submitted.source if submitted else ABSENT if kind == "code" else ""
    return Step(kind, source, name, own=True, cell=cell)


def _differences(name: str, cell: dict, submitted: Cell | None, bundle: Bundle) -> Iterator[Flag]:
    graded = name in {test.grade_id for test in bundle.tests}
    if submitted is None:
        if graded:
            yield Flag("deleted test", name, "The test cell was missing; the released one was run.")
        return
    if cell["cell_type"] == "code" and not is_solution(cell) and _lines(submitted.source) != _lines(text(cell)):
        yield Flag(
            "edited test" if graded else "edited cell", name, "A locked cell was changed; the released one was run."
        )
    if submitted.kind != cell["cell_type"]:  # one key pressed in JupyterLab's command mode
        yield Flag(
            "changed metadata", name, f"It came as a {submitted.kind} cell, and was taken for {cell['cell_type']}."
        )
    yield from _metadata(name, cell, submitted)


def _lines(source: str) -> list[str]:
    return [line.rstrip() for line in source.strip().splitlines()]


def _metadata(name: str, cell: dict, submitted: Cell) -> Iterator[Flag]:
    tags = submitted.metadata.get("tags")
    odd = (
        sorted(_EXECUTION_TAGS.intersection(tag for tag in tags if isinstance(tag, str)))
        if isinstance(tags, list)
        else []
    )
    if odd:
        yield Flag("changed metadata", name, f"The cell carries the tags {odd}, which were ignored.")
    theirs = submitted.metadata.get("nbgrader")
    ours = cell["metadata"]["nbgrader"]
    if isinstance(theirs, dict):
        changed = sorted(mark for mark in _MARKS if mark in theirs and theirs[mark] != ours.get(mark, theirs[mark]))
        if changed:
            yield Flag(
                "changed metadata", name, f"The cell's {', '.join(changed)} differ from the release and were ignored."
            )
