"""The reference, the notation page and the glossary: complete, and linked."""

import ast
import re
import sys

import pytest
import yaml
from book.sites import ROOT, built
from book.test_reading_room import build, page

from course_lib.layout import topics

sys.path.append(str(ROOT / "book" / "_ext"))
from reading_room import reference  # noqa: E402

BOOK = ROOT / "book"
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text())["sphinx"]["config"]


def public(module: str) -> list[str]:
    tree = ast.parse((ROOT / "course_lib" / f"{module}.py").read_text())
    kinds = ast.FunctionDef | ast.ClassDef
    return [node.name for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]


def rooms() -> list[str]:
    return reference.LINE.search((BOOK / "reference_rooms.md").read_text())[1].split()


@pytest.mark.parametrize("name", ["reference", "reference_rooms"])
def test_every_public_function_is_there_with_a_place_to_link_to(name):
    html = (built("book") / "book" / f"{name}.html").read_text(encoding="utf-8")
    modules = topics(ROOT) if name == "reference" else rooms()
    wanted = [f"course_lib.{module}.{function}" for module in modules for function in public(module)]
    assert wanted and [name for name in wanted if f'id="{name}"' not in html] == []


def test_signatures_read_as_they_were_written():
    html = (built("book") / "book" / "reference.html").read_text(encoding="utf-8")
    start = html.index('id="course_lib.norm_penalties.soft_threshold"')
    text = re.sub(r"<[^>]+>", "", html[start : html.index("</dt>", start)])
    assert text.count("Float[Tensor, '*shape']") == 2 and "jaxtyping" not in text
    assert "threshold: float" in text


def test_a_new_topic_appears_by_its_line_in_the_table_of_contents(tmp_path):
    toc = "root: index\nparts:\n- {caption: Part I, chapters: [{file: book/norm_penalties}, {file: book/unwritten}]}\n"
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "_toc.yml").write_text(toc)
    text = "# R\n\n% reference: topics\n\nSee {func}`course_lib.norm_penalties.adamw_step`.\n"
    modules = ["myst_parser", "sphinx.ext.napoleon", "reading_room.reference"]
    build(tmp_path, {"index": text}, modules, autodoc_typehints="none")
    html = page(tmp_path)
    assert html.count("<h2>") == 1 and 'href="#course_lib.norm_penalties.adamw_step"' in html
    assert reference.modules("topics", tmp_path / "source") == ["norm_penalties"]


def test_bars_and_colons_in_docstrings_are_prose():
    lines = [
        "The size |x|, ``|y|``::",
        "",
        "    |z|",
        "",
        "Returns:",
        "    a: |t|.",
        "",
        "Raises:",
        "    E: |u|",
    ]
    reference.prose(None, "function", "f", None, None, lines)
    assert lines[0] == "The size \\|x\\|, ``|y|``::" and lines[2] == "    |z|"
    assert lines[4:6] == [":returns:", "    a: \\|t\\|."] and lines[8] == "    E: \\|u\\|"


def test_the_notation_page_lists_every_macro_and_shows_it():
    text = (BOOK / "notation.md").read_text(encoding="utf-8")
    for macro in CONFIG["course_math_macros"]:
        used = re.escape(macro) + r"(?![A-Za-z])"
        assert re.search(rf"\| `[^`]*{used}[^`]*` \| \$[^$]*{used}[^$]*\$ \|", text), f"{macro} is not listed"


def test_every_macro_stands_in_the_configuration_and_is_used():
    chapters = {path.name: path.read_text(encoding="utf-8") for path in BOOK.glob("*.md")}
    for name, text in chapters.items():
        assert "\\newcommand" not in text, f"{name}: macros stand in _config.yml"
    text = "".join(text for name, text in chapters.items() if name != "notation.md")
    unused = [m for m in CONFIG["course_math_macros"] if not re.search(re.escape(m) + r"(?![A-Za-z])", text)]
    assert unused == []


def test_glossary_terms_can_be_linked():
    html = (built("book") / "book" / "glossary.html").read_text(encoding="utf-8")
    terms = re.findall(r'<dt id="term-[^"]+"', html)
    assert len(terms) >= 25 and len(set(terms)) == len(terms)
    assert "glossary.html#term-" in (built("book") / "book" / "notation.html").read_text(encoding="utf-8")
