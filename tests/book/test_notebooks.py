"""Notebooks that leave the page: clean, complete, and able to install what they need."""

import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import nbformat
import pytest
from book.sites import ROOT, built
from book.test_reading_room import build, page

from course_lib.layout import topic_files, topics

sys.path.append(str(ROOT / "book" / "_ext"))
from reading_room import notebooks, opening, plain_markdown  # noqa: E402

TOPICS = topics(ROOT)
CONFIG = SimpleNamespace(course_repository="someone/course@v1", course_math_macros={})


def published(topic, folder=""):
    return nbformat.read(built("book") / "notebooks" / folder / f"{topic}.ipynb", as_version=4)


@pytest.mark.parametrize("topic", TOPICS)
def test_a_chapter_leaves_as_plain_markdown_without_outputs(topic):
    book = published(topic)
    nbformat.validate(book)
    assert book.cells[0].id == "install" and len({cell.id for cell in book.cells}) == len(book.cells)
    text = "\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")
    for trace in ("```{", ":::", "{cite", "{eq}", "{glue", "{func}", ":label:", "\\norm", "\\abs", "\\argmin", "\\R^"):
        assert trace not in text, trace
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert len(code) > 3 and not any(cell.outputs for cell in code)
    assert code[0].source.startswith("# Installs")


@pytest.mark.parametrize("topic", TOPICS)
def test_an_exercise_leaves_as_it_was_committed_behind_the_cell_that_installs(topic):
    book, committed = published(topic, "exercises"), nbformat.read(topic_files(topic, ROOT).exercise, as_version=4)
    assert book.cells[0].id == "install" and book.cells[1:] == committed.cells


@pytest.mark.parametrize("topic", TOPICS)
def test_the_chapter_links_both_and_without_a_repository_nothing_else(topic):
    html = (built("book") / "book" / f"{topic}.html").read_text(encoding="utf-8")
    for path in (f"../notebooks/{topic}.ipynb", f"../notebooks/exercises/{topic}.ipynb"):
        assert f'href="{path}" download=' in html
    assert "colab.research" not in html and "mybinder" not in html


CHAPTER = """---
difficulty: 2
---
# T

$\\R$ and {math}`x`.

$$
a = b
$$ (eq-a)

## Exercises

Do {eq}`eq-a`.
"""


def test_with_a_repository_there_are_buttons_that_open_the_generated_branch(tmp_path):
    source = tmp_path / "source"
    (source / "book").mkdir(parents=True)
    shutil.copy(ROOT / "book" / "references.bib", source / "book")
    (source / "exercises" / "one").mkdir(parents=True)
    shutil.copy(topic_files(TOPICS[0], ROOT).exercise, source / "exercises" / "one" / "one.ipynb")
    (source / "_toc.yml").write_text("root: index\nparts:\n- {caption: Part I, chapters: [{file: book/one}]}\n")
    pages = {"index": "# I\n\n```{toctree}\nbook/one\n```\n", "book/one": CHAPTER}
    modules = ["myst_parser", "reading_room.mathematics", "reading_room.notebooks", "reading_room.opening"]
    options = {"course_repository": "someone/course@v1", "myst_enable_extensions": ["dollarmath"]}
    build(
        tmp_path, pages, modules, course_math_macros={"\\R": "\\mathbb{R}"}, exclude_patterns=["exercises"], **options
    )
    html = page(tmp_path, "book/one")
    assert "https://colab.research.google.com/github/someone/course/blob/notebooks/one.ipynb" in html
    assert "https://colab.research.google.com/github/someone/course/blob/notebooks/exercises/one.ipynb" in html
    assert "https://mybinder.org/v2/gh/someone/course/notebooks?labpath=exercises/one.ipynb" in html
    assert "1 minutes" not in html and "1 minute to read" in html and "●●○</span> some practice needed" in html
    book = nbformat.read(tmp_path / "html" / "notebooks" / "one.ipynb", as_version=4)
    assert "git+https://github.com/someone/course@v1" in book.cells[0].source
    assert "$\\mathbb{R}$ and x" in book.cells[1].source and "\\tag{1}" in book.cells[1].source
    assert "someone/course@v1" in (tmp_path / "html" / "notebooks" / "requirements.txt").read_text()


def test_the_repository_is_owner_and_name():
    assert notebooks.repository(SimpleNamespace(course_repository="")) == ("", "")
    assert notebooks.repository(SimpleNamespace(course_repository="a/b")) == ("a/b", "main")
    with pytest.raises(ValueError, match="OWNER/NAME"):
        notebooks.repository(SimpleNamespace(course_repository="https://github.com/a/b"))


def test_the_install_cell_does_nothing_where_the_library_is_there(monkeypatch):
    monkeypatch.setattr(subprocess, "check_call", lambda *command: pytest.fail("it installs"))
    exec(notebooks.install_cell(CONFIG).source, {})


def test_the_install_cell_makes_the_library_importable_in_an_empty_environment(tmp_path):
    """From a wheel of this tree, so that no network is needed; its dependencies are left out for the same reason."""
    tree, empty = tmp_path / "tree", tmp_path / "empty"
    for name in ("course_lib", "benchmarks/results"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", tmp_path, tree]
    subprocess.run(list(map(str, pip)), check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", str(empty)], check=True)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"COURSE_SOURCE": str(wheel), "PIP_NO_DEPS": "1", "PIP_NO_INDEX": "1"}
    program = notebooks.install_cell(CONFIG).source + (
        "\nimport course_lib, pathlib\nfolder = pathlib.Path(course_lib.__file__).parent\n"
        "print(folder, (folder / 'results' / 'ledger.json').is_file())"
    )
    python = empty / ("Scripts" if os.name == "nt" else "bin") / "python"
    done = subprocess.run([python, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert str(empty) in done.stdout and "True" in done.stdout, "stored studies come with the package"


def test_without_a_source_the_install_cell_says_what_to_do(tmp_path):
    program = notebooks.install_cell(SimpleNamespace(course_repository="")).source
    command = [sys.executable, "-I", "-S", "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={})
    assert done.returncode == 1 and "pip install ." in done.stderr


def test_macros_are_written_out():
    macros = {"\\norm": "|#1|", "\\T": "^{t}", "\\R": "\\mathbb{R}"}
    text = "\\norm{\\frac{a}{b}}_2 + w\\T x, \\R^n, \\Theta, \\norm x, \\T\\R"
    wanted = "|\\frac{a}{b}|_2 + w^{t} x, \\mathbb{R}^n, \\Theta, |x|, ^{t}\\mathbb{R}"
    assert plain_markdown.expand(text, macros) == wanted


def test_what_has_no_counterpart_is_said_in_words():
    plain = plain_markdown.Plain(ROOT / "book", {}, lambda key: f"{key.title()} (1999)", {"eq-a": 3})
    assert plain("See {cite:t}`a,b`, {cite:p}`a`, {eq}`eq-a`, {glue:text}`x:.2f`.") == (
        "See A (1999); B (1999), (A, 1999), (3), ⟨x⟩."
    )
    assert plain("{func}`~course_lib.data.digits`, {term}`norms <norm>`, {doc}`norm_penalties`") == (
        "`digits`, norms, *norm penalties*"
    )
    folded = plain("```{prf:proof}\n:class: dropdown\n\nAs is.\n```")
    assert folded == "<details><summary>Proof</summary>\n\nAs is.\n\n</details>"
    assert plain(":::{note}\nA\n:::") == "**Note.**\n\nA" and plain("(here)=\n# H") == "# H"
    listing = plain("```{literalinclude} ../course_lib/claims.py\n:pyobject: claim\n```")
    assert listing.startswith("```python\ndef claim(") and listing.endswith("\n```")


def test_difficulty_is_one_of_three():
    assert opening.difficulty(None) == ""
    with pytest.raises(ValueError, match="1, 2 or 3"):
        opening.difficulty(7)
