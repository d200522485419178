"""Let chapters and exercises leave the page as notebooks: downloads, and buttons for Colab and Binder.

``course_repository`` in ``_config.yml`` (OWNER/NAME@BRANCH) is the one place that says where the course lives. While
it is empty there are downloads only. Colab and Binder open the branch ``notebooks``, which holds what is written
here; the publishing workflow pushes it.
"""

import functools
import html
import re
from pathlib import Path

import nbformat
from myst_nb.core.read import read_myst_markdown_notebook
from pybtex.database import parse_file

from course_lib.layout import topic_files, topics
from reading_room.plain_markdown import Plain

BRANCH = "notebooks"
FOLDER = "notebooks"

#: COURSE_SOURCE may name any other source that pip understands.
INSTALL = """# Installs the course's library where it is missing (in Colab, on a new machine); does nothing elsewhere.
import importlib.util

if importlib.util.find_spec("course_lib") is None:
    import os
    import subprocess
    import sys

    source = os.environ.get("COURSE_SOURCE", "{source}")
    if not source:
        raise SystemExit("The course's library is missing: run `pip install .` in a clone of the course, then again.")
    subprocess.check_call([sys.executable, "-m", "pip", "install", "--quiet", source])
    importlib.invalidate_caches()"""


def repository(config) -> tuple[str, str]:
    """Return OWNER/NAME and the branch, or two empty strings."""
    name, _, branch = config.course_repository.partition("@")
    if name and not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise ValueError(f"course_repository is OWNER/NAME@BRANCH or empty, got {config.course_repository!r}")
    return name, (branch or "main") if name else ""


def install_cell(config) -> nbformat.NotebookNode:
    """Return the first cell of every notebook that leaves the page."""
    name, branch = repository(config)
    source = f"course-lib @ git+https://github.com/{name}@{branch}" if name else ""
    return nbformat.v4.new_code_cell(INSTALL.format(source=source), id="install")


def chapter_notebook(path: Path, config, bibliography: Path) -> nbformat.NotebookNode:
    """Return a chapter as a notebook without outputs, in Markdown that every front end shows."""
    text = path.read_text(encoding="utf-8")
    book = read_myst_markdown_notebook(text)
    labels = re.findall(r"^:label: *(\S+)|^\$\$ *\(([\w:-]+)\)", "\n".join(math_only(text)), flags=re.M)
    numbers = {a or b: number for number, (a, b) in enumerate(labels, 1)}
    keys = []

    def cited(key: str) -> str:
        keys.append(key)
        return in_words(key, bibliography)

    plain = Plain(path.parent, config.course_math_macros, cited, numbers)
    cells = []
    for cell in book.cells:
        if cell.cell_type == "markdown":
            cells.append(nbformat.v4.new_markdown_cell(plain(cell.source)))
            continue
        cells.append(nbformat.v4.new_code_cell(cell.source))
        caption = cell.metadata.get("mystnb", {}).get("figure", {}).get("caption")
        if caption:
            cells.append(nbformat.v4.new_markdown_cell(plain(f"*Figure.* {caption}")))
    if keys:
        works = "\n".join(f"* {reference(key, bibliography)}" for key in sorted(set(keys)))
        cells.append(nbformat.v4.new_markdown_cell(works))
    note = "Names in ⟨angle brackets⟩ stand for numbers that the cells print."
    if any("⟨" in cell.source for cell in cells):
        cells.insert(1, nbformat.v4.new_markdown_cell(f"*{note}*"))
    return finished([install_cell(config), *cells])


def exercise_notebook(path: Path, config) -> nbformat.NotebookNode:
    """Return the committed exercise as it is, behind the cell that installs."""
    book = nbformat.read(path, as_version=4)
    book.cells.insert(0, install_cell(config))
    return book


def finished(cells: list) -> nbformat.NotebookNode:
    """Return a notebook of these cells, equal for equal cells: ids are counted, not drawn."""
    for number, cell in enumerate(cells):
        cell.id = "install" if number == 0 else f"cell-{number}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})


def math_only(text: str) -> list[str]:
    """Return the parts of a chapter that hold labels of equations."""
    return re.findall(
        r"^```\{math\}.*?^```|^\$\$ *\([\w:-]+\)|(?<=\n)\$\$.*?\$\$ *\([\w:-]+\)", text, flags=re.M | re.S
    )


@functools.cache
def _works(bibliography: Path):
    return parse_file(str(bibliography)).entries


def in_words(key: str, bibliography: Path) -> str:
    """Return authors and year, such as ``Hoerl & Kennard (1970)``."""
    entry = _works(bibliography)[key]
    names = [" ".join(person.last_names) for person in entry.persons["author"]]
    shown = f"{names[0]} et al." if len(names) > 2 else " & ".join(names)
    return f"{shown} ({entry.fields['year']})".replace("{", "").replace("}", "")


def reference(key: str, bibliography: Path) -> str:
    """Return a line for the list of works."""
    fields = _works(bibliography)[key].fields
    place = fields.get("journal") or fields.get("booktitle") or fields.get("publisher") or ""
    line = f"{in_words(key, bibliography)}. *{fields['title']}*. {place}"
    return line.replace("{", "").replace("}", "").strip() + "."


def write(app, error):
    """Write the notebooks into the finished site, with what Binder installs beside them."""
    if error or app.builder.format != "html":
        return
    course, target = Path(app.srcdir), Path(app.outdir, FOLDER)
    bibliography = course / "book" / "references.bib"
    for topic in topics(course):
        files = topic_files(topic, course)
        books = {target / f"{topic}.ipynb": chapter_notebook(files.chapter, app.config, bibliography)}
        if files.exercise.is_file():
            books[target / "exercises" / f"{topic}.ipynb"] = exercise_notebook(files.exercise, app.config)
        for path, book in books.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(nbformat.writes(book) + "\n", encoding="utf-8")
    name, branch = repository(app.config)
    if name:
        target.mkdir(parents=True, exist_ok=True)
        (target / "requirements.txt").write_text(f"course-lib @ git+https://github.com/{name}@{branch}\njupyterlab\n")


def links(app, kind: str, topic: str, here: str) -> str:
    """Return the buttons of a chapter or an exercise as HTML, or nothing where there is no notebook.

    Args:
        app: the Sphinx application.
        kind: ``"chapter"`` or ``"exercise"``.
        topic: whose notebook.
        here: the way from the page to the site's root, such as ``"../"``.
    """
    if kind == "exercise" and not topic_files(topic, Path(app.srcdir)).exercise.is_file():
        return ""
    path = f"exercises/{topic}.ipynb" if kind == "exercise" else f"{topic}.ipynb"
    buttons = [(f"{here}{FOLDER}/{path}", f"Download the {kind} as a notebook", f' download="{topic}.ipynb"')]
    name, _ = repository(app.config)
    if name:
        buttons += [
            (f"https://colab.research.google.com/github/{name}/blob/{BRANCH}/{path}", f"Open the {kind} in Colab", ""),
            (f"https://mybinder.org/v2/gh/{name}/{BRANCH}?labpath={path}", f"Open the {kind} in Binder", ""),
        ]
    return "".join(
        f'<a class="course-button" href="{html.escape(url)}"{more}>{text}</a>' for url, text, more in buttons
    )


def setup(app):
    """Register the one value, and write when all pages are there."""
    app.add_config_value("course_repository", "", "html", [str])
    app.connect("build-finished", write)
    return {"parallel_read_safe": True}
