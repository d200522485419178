"""Start a topic: its five files from a template that already works, to be replaced piece by piece."""

import keyword
import re
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from course_lib.layout import course_dir, topic_files, topics

TEMPLATE = Path(__file__).parent / "template"

SETUP = """from course_lib.exercise import begin

begin("{topic}")  # the finished functions stay on the shelf while you write your own

import torch
from jaxtyping import Float
from torch import Tensor

from course_lib.preconditions import require_finite, require_nonnegative"""

TITLE = """# {title}

You will write one function. The chapter *{title}* derives it. You need norms.

| task | function | points | difficulty | minutes |
|---|---|---|---|---|
| 1 | `{topic}_clip` | 2 | ●○○ | 5 |

**How it works.** The docstring of each function is the exercise: formula, shapes, normalisation. Replace
`raise NotImplementedError()` by your own lines. The lines that begin with `require_` are given: they explain bad
input, so leave them where they are. The cell below each function tests it; more tests run when the notebook is
graded. Any right algorithm gets the points. A task earns all its points or none."""

TASK = """## Task 1 · Clip a gradient

<details><summary>Hint 1</summary>

What is the norm of (3, 4)?
</details>
<details><summary>Hint 2</summary>

Multiply by one number; which, if the gradient is short?
</details>
<details><summary>A worked idea</summary>

(3, 4) has norm 5. For a bound of 1 the number is 1/5; for a bound of 10 it is 1.
</details>"""

TEST = """# A long gradient keeps its direction and gets the norm asked for.
clipped = {topic}_clip(torch.tensor([3.0, 4.0]), bound=1.0)
assert torch.allclose(clipped, torch.tensor([0.6, 0.8])), f"(3, 4) has norm 5: wanted (0.6, 0.8), got {{clipped}}"
### BEGIN HIDDEN TESTS
from course_lib.grading.hidden import check

check("{topic}", "{topic}_clip", {topic}_clip)
### END HIDDEN TESTS"""


def new_topic(topic: str, title: str, course: Path | None = None) -> list[Path]:
    """Write a topic's files and put it at the end of the last part in ``_toc.yml``.

    Args:
        topic: the name, in lower case with underscores; it is the same in all places.
        title: the chapter's heading.
        course: the course's folder; found from the current folder if None.

    Returns:
        The files that were written. The released notebook is not among them: ``course sync`` derives it.

    Raises:
        ValueError: the name is not in lower case with underscores, holds a number, or is taken.
    """
    course = course or course_dir()
    if not re.fullmatch("[a-z_]*[a-z][a-z_]*", topic) or keyword.iskeyword(topic):
        raise ValueError(
            "a topic is one name everywhere: wanted lower case letters and underscores, no word of Python's, "
            f"got {topic!r}. The order stands in _toc.yml, so names need no numbers."
        )
    files = topic_files(topic, course)
    taken = [path for path in (*files, files.module.with_suffix("")) if path.exists()]
    if taken or topic in topics(course):
        raise ValueError(
            f"a topic's name must be free: {topic} has {', '.join(map(str, taken)) or 'a line in _toc.yml'}."
        )
    texts = {
        files.chapter: _filled("chapter.md", topic, title),
        files.module: _filled("module.py", topic, title),
        files.checks: _filled("checks.py", topic, title),
        files.tests: _filled("tests.py", topic, title),
        files.solution: nbformat.writes(_notebook(topic, title)) + "\n",
    }
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    _enter(topic, course / "_toc.yml")
    return list(texts)


def _filled(name: str, topic: str, title: str) -> str:
    text = (TEMPLATE / f"{name}.txt").read_text(encoding="utf-8")
    return text.replace("TOPIC", topic).replace("TITLE", title)


def _notebook(topic: str, title: str) -> NotebookNode:
    name = f"{topic}_clip"
    return new_notebook(
        cells=[
            _graded(new_markdown_cell(TITLE.format(title=title, topic=topic)), "title"),
            _graded(new_code_cell(SETUP.format(topic=topic)), "setup"),
            _graded(new_markdown_cell(TASK), f"task_{name}"),
            _graded(new_code_cell(""), name, solution=True, locked=False),
            _graded(new_code_cell(TEST.format(topic=topic)), f"test_{name}", grade=True, points=2),
        ]
    )


def _graded(cell: NotebookNode, grade_id: str, **flags: object) -> NotebookNode:
    """Mark a cell for nbgrader; locked unless said otherwise."""
    cell.id = grade_id
    marks = {
        "grade": False,
        "solution": False,
        "task": False,
        "locked": True,
        "schema_version": 3,
        "grade_id": grade_id,
    }
    cell.metadata["nbgrader"] = marks | flags
    return cell


def _enter(topic: str, table: Path) -> None:
    """Add a line after the last topic of ``_toc.yml``, leaving the rest of the text as it is."""
    lines = table.read_text(encoding="utf-8").splitlines()
    last = topics(table.parent)[-1]
    (place,) = [number for number, line in enumerate(lines) if line.strip() == f"- file: book/{last}"]
    indentation = lines[place][: len(lines[place]) - len(lines[place].lstrip())]
    lines.insert(place + 1, f"{indentation}- file: book/{topic}")
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
