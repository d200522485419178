"""List the runs behind a chapter's numbers near its end: what it computes itself, and the stored studies it reads."""

import ast
import html
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from platform import python_version

from docutils import nodes
from IPython.core.inputtransformer2 import TransformerManager
from myst_nb.core.read import read_myst_markdown_notebook

from course_lib.claims import RESULTS
from course_lib.figures import set_numbers
from course_lib.layout import topics

BEFORE = "Further reading"
COLUMNS = ("runs", "seeds", "seconds", "date", "commit", "machine", "command")
SEED = re.compile(r"[, ]*\bseed (\d+)$")
QUOTED = re.compile(r"\{glue:text\}`([^`:]+)")


def calls(chapter: str) -> Iterator[ast.Call]:
    """Find every call in a chapter's cells.

    Args:
        chapter: the chapter's text.
    """
    for cell in read_myst_markdown_notebook(chapter).cells:
        if cell.cell_type == "code":
            code = TransformerManager().transform_cell(cell.source)  # a magic of IPython becomes a call
            yield from (node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call))


def studies_read(chapter: str) -> list[str]:
    """Return the names of the studies that a chapter's cells read, by ``study("name")`` or from the ledger.

    Args:
        chapter: the chapter's text.
    """
    found = []
    for call in calls(chapter):
        called = ast.unparse(call.func)
        if called.rpartition(".")[2] == "study" and call.args and isinstance(call.args[0], ast.Constant):
            found.append(call.args[0].value)
        elif called in {"ledger.show", "ledger.results"}:
            found.append("ledger")
    return list(dict.fromkeys(found))


def stored(name: str) -> Path | None:
    """Return the file of a study, if there is one."""
    return next((path for folder in RESULTS if (path := folder / f"{name}.json").is_file()), None)


def grouped(runs: dict[str, dict]) -> list[dict[str, str]]:
    """Return one row for all runs that differ by their seed alone."""
    rows = {}
    for key, run in runs.items():
        seed = SEED.search(key)
        place = tuple(str(run.get(column, "")) for column in ("date", "commit", "machine", "command"))
        row = rows.setdefault((SEED.sub("", key) or "all", *place), {"seeds": [], "seconds": 0.0})
        row["seeds"] += [int(seed[1])] if seed else []
        row["seconds"] += run.get("seconds", 0)
    return [
        {"runs": name, "seeds": span(row["seeds"]), "seconds": f"{row['seconds']:.1f}"}
        | dict(zip(("date", "commit", "machine", "command"), place, strict=True))
        for (name, *place), row in rows.items()
    ]


def span(seeds: list[int]) -> str:
    """Return seeds as people write them: ``0–9``, or one by one where some are left out."""
    seeds = sorted(set(seeds))
    if len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]}–{seeds[-1]}"
    return ", ".join(map(str, seeds)) or "–"


def table(name: str, content: dict) -> str:
    """Return a study's runs as an HTML table."""

    def row(cells: dict[str, str]) -> str:
        rest = "".join(f"<td>{html.escape(cells[column])}</td>" for column in COLUMNS[1:])
        return f'<tr><th scope="row">{set_numbers(html.escape(cells["runs"]))}</th>{rest}</tr>'

    caption = f"benchmarks/results/{name}.json: {content.get('about', '')}. Data: {content.get('data', '')}"
    head = "".join(f'<th scope="col">{column}</th>' for column in COLUMNS)
    return (
        f'<div class="course-table" role="region" aria-label="Runs of {html.escape(name)}" tabindex="0"><table>'
        f"<caption><span>{set_numbers(html.escape(caption))}.</span></caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(map(row, grouped(content['runs'])))}</tbody></table></div>"
    )


def block(names: list[str], executed: dict | None, claims: set[str]) -> str:
    """Return the folded list of all that a chapter's numbers come from."""
    parts = []
    if executed:
        day = datetime.fromtimestamp(executed["mtime"], UTC).date().isoformat()
        named = ", ".join(f"<code>{html.escape(name)}</code>" for name in sorted(claims))
        parts.append(
            f"<p>Computed by the cells of this page, whose seeds stand in them: {executed['runtime'] or 0:.0f} s "
            f"on {day} with Python {python_version()} and torch {version('torch')}."
            f"{' Numbers in the text: ' + named + '.' if named else ''}</p>"
        )
    parts += [table(name, json.loads(path.read_text(encoding="utf-8"))) for name in names if (path := stored(name))]
    if not parts:
        return ""
    summary = "The runs behind this chapter's numbers"
    return f'<details class="course-fold course-runs"><summary>{summary}</summary>{"".join(parts)}</details>'


def depend(app, document):
    """Let a chapter be written anew when a study that it reads has changed."""
    env = app.env
    if env.docname.rpartition("/")[2] in topics(Path(app.srcdir)):
        text = Path(env.doc2path(env.docname)).read_text(encoding="utf-8")
        names = studies_read(text)
        env.metadata[env.docname] |= {"course_studies": names, "course_quoted": sorted(set(QUOTED.findall(text)))}
        for path in filter(None, map(stored, names)):
            env.note_dependency(str(path.resolve()))


def add(app, document, docname):
    """Add the block before the further reading, or at the end where there is none."""
    names = app.env.metadata[docname].get("course_studies")
    if app.builder.format != "html" or names is None:
        return
    known = getattr(app.env, "nb_metadata", {}).get(docname, {})
    claims = set(known.get("glue") or ()) & set(app.env.metadata[docname]["course_quoted"])
    text = block(names, known.get("exec_data"), claims)
    if not text:
        return
    sections = [section for section in document.findall(nodes.section) if section[0].astext() == BEFORE]
    first = next(iter(document.findall(nodes.section)))
    place = (sections[0].parent, sections[0].parent.index(sections[0])) if sections else (first, len(first))
    place[0].insert(place[1], nodes.raw("", text, format="html"))


def setup(app):
    """Connect when a chapter is read and when it is written."""
    app.connect("doctree-read", depend)
    app.connect("doctree-resolved", add)
    return {"parallel_read_safe": True}
