"""Reading aids: time and difficulty, the map, the runs behind the numbers, previews of what a link points to."""

import ast
import re
import sys

import pytest
from book.sites import PAGES, ROOT, built
from book.test_reading_room import build, page

from course_lib.claims import study
from course_lib.layout import topic_files, topics

sys.path.append(str(ROOT / "book" / "_ext"))
from reading_room import course_map, runs  # noqa: E402

TOPICS = topics(ROOT)


def html(topic):
    return (built("book") / "book" / f"{topic}.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("topic", TOPICS)
def test_every_chapter_says_how_long_and_how_hard_it_is(topic):
    opening = re.search(r'<div class="course-opening"><p>(.*?)</p>', html(topic))[1]
    minutes = int(re.match(r"(\d+) minutes? to read · ", opening)[1])
    assert 3 <= minutes <= 40 and opening.count("●") in (1, 2, 3)


def test_reading_time_grows_with_words_and_not_with_code(tmp_path):
    words = "word " * 720
    pages = {"index": "# T\n\n```{toctree}\none\ntwo\n```\n"}
    pages |= {"one": f"# One\n\n{words}\n", "two": f"# Two\n\n{words}\n\n```python\n{words}\n```\n"}
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "_toc.yml").write_text("root: index\nparts: []\n")
    app, _, _ = build(tmp_path, pages, ["myst_parser", "reading_room.notebooks", "reading_room.opening"])
    assert [app.env.metadata[name]["course_minutes"] for name in ("one", "two")] == [5, 5]


def test_studies_are_found_beside_a_magic_of_ipython():
    cells = ["%config InlineBackend.figure_format = 'svg'\nstored = study('ledger')", "!ls", "ledger.show()"]
    head = "---\nkernelspec: {name: python3}\n---\n\n"
    chapter = head + "\n".join(f"```{{code-cell}} python\n{cell}\n```\n" for cell in cells)
    assert runs.studies_read(chapter) == ["ledger"]


@pytest.mark.parametrize("topic", TOPICS)
def test_every_chapter_lists_the_studies_that_it_reads(topic):
    names = runs.studies_read(topic_files(topic, ROOT).chapter.read_text(encoding="utf-8"))
    block = re.search(r'<details class="course-fold course-runs">.*?</details>', html(topic), flags=re.S)[0]
    assert names and "Computed by the cells of this page" in block
    for name in names:
        assert f"benchmarks/results/{name}.json" in block
        assert all(run["commit"] in block and run["machine"] in block for run in study(name)["runs"].values())


@pytest.mark.parametrize("topic", TOPICS)
def test_every_claim_is_quoted(topic):
    """By its name as it stands in a cell; names that a loop makes are not asked for."""
    text = topic_files(topic, ROOT).chapter.read_text(encoding="utf-8")
    claims = {word.arg for call in runs.calls(text) if ast.unparse(call.func) == "claim" for word in call.keywords}
    assert claims - {None} <= set(runs.QUOTED.findall(text))


def test_runs_that_differ_by_their_seed_alone_are_one_row():
    about = {"date": "2026-01-01", "commit": "abc", "machine": "m", "command": "c", "seconds": 1.0}
    rows = runs.grouped({"plain, seed 0": about, "plain, seed 1": about, "plain, seed 2": about, "tuning": about})
    assert [(row["runs"], row["seeds"], row["seconds"]) for row in rows] == [
        ("plain", "0–2", "3.0"),
        ("tuning", "–", "1.0"),
    ]
    assert len(runs.grouped({"a seed 0": about, "a seed 1": about | {"commit": "def"}})) == 2
    assert runs.span([0, 2, 5]) == "0, 2, 5"


@pytest.mark.parametrize("built_pages, links", [("abt", ["a", "b", "a"]), ("b", ["b"])])
def test_the_map_follows_the_contents_and_the_imports_and_names_built_pages_alone(tmp_path, built_pages, links):
    toc = "root: index\nparts:\n- {caption: Part I, chapters: [{file: book/a}, {file: book/b}]}\n"
    toc += "- {caption: For teachers, chapters: [{file: book/t}]}\n"
    for name, text in {
        "_toc.yml": toc,
        "course_lib/b.py": "from course_lib.a import f\n",
        "course_lib/a.py": "",
    }.items():
        (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "source" / name).write_text(text)
    tree = "\n".join(f"book/{name}" for name in built_pages)
    pages = {"index": f"# I\n\n```{{toctree}}\n{tree}\n```\n\n```{{course-map}}\n```\n"}
    pages |= {f"book/{name}": f"# Title {name}\n\nText.\n" for name in built_pages}
    build(tmp_path, pages, ["myst_parser", "reading_room.course_map"])
    text = page(tmp_path).partition('class="course-map"')[2].partition("</ul>")[0]
    assert re.findall(r'href="([^"]*)"', text) == [f"book/{name}.html" for name in links]
    assert "Part I" in text and "teachers" not in text and ("leans on" in text) == (len(links) > 1)


def test_the_map_is_on_the_landing_page():
    text = (built("book") / "book" / "index.html").read_text(encoding="utf-8").partition('class="course-map"')[2]
    assert all(f'href="{topic}.html"' in text for topic in course_map.leans_on(ROOT))


@pytest.mark.parametrize("page", [name for name in PAGES if "sampler" in name or any(t in name for t in TOPICS)])
def test_links_to_equations_and_sources_show_them_by_mouse_and_by_key(visit, page):
    seen = visit(page)
    box, tried = seen.page.locator("#course-preview"), 0
    for kind in ('a[href^="#equation-"]:not(.headerlink)', 'a.reference[href^="#id"]'):
        link = seen.page.locator(f"article {kind}:visible").first  # others may lie in a folded proof
        if not link.count():
            continue
        tried += 1
        assert box.is_hidden()
        link.hover()
        box.wait_for(state="visible", timeout=2000)
        assert box.inner_text().strip() and link.get_attribute("aria-describedby") == "course-preview"
        seen.page.keyboard.press("Escape")
        assert box.is_hidden() and link.get_attribute("aria-describedby") is None
        seen.page.mouse.move(2, 2)
        seen.page.keyboard.press("Tab")  # from here on the keyboard is in use
        link.focus()
        box.wait_for(state="visible", timeout=2000)
        area = box.bounding_box()
        assert area["x"] >= 0 and area["x"] + area["width"] <= 1280
        link.evaluate("link => link.blur()")
        box.wait_for(state="hidden", timeout=2000)
    assert tried == 2 and not seen.problems


def test_links_to_terms_show_their_definition_by_mouse_and_by_key_where_the_text_is(visit):
    for address, term in (("sampler:book/sampler.html", "penalty"), ("sampler:book/second.html", "strength")):
        seen = visit(address)
        box, link = seen.page.locator("#course-preview"), seen.page.locator(f'article a[href$="#term-{term}"]').first
        seen.page.keyboard.press("Tab")  # the keyboard is in use
        link.focus()
        box.wait_for(state="visible", timeout=2000)
        assert link.get_attribute("aria-describedby") == "course-preview"
        by_key = box.inner_text()
        assert len(by_key) > 20 and box.locator(".katex").count() == 1 and not box.locator("a").count()
        link.evaluate("link => link.blur()")
        box.wait_for(state="hidden", timeout=2000)
        link.hover()
        box.wait_for(state="visible", timeout=2000)
        assert box.inner_text() == by_key and not seen.problems


def test_pages_that_speak_of_a_term_follow_its_definition(tmp_path):
    text = "# I\n\n```{toctree}\none\nwords\n```\n"
    words = "# W\n\n```{glossary}\nridge\n  The %s of {term}`norms <norm>`.\n\nnorm\n  A length.\n```\n"
    pages = {"index": text, "one": "# One\n\nSee {term}`ridge`.\n", "words": words % "square"}
    modules = ["myst_parser", "reading_room.terms"]
    build(tmp_path, pages, modules)
    assert re.search(r'<template id="preview-term-ridge">\s*<p>The square of .*norms', page(tmp_path, "one"))
    assert "preview-term-norm" not in page(tmp_path, "one") and "<template" not in page(tmp_path, "words")
    build(tmp_path, {"words": words % "root"}, modules)
    assert "<p>The root of" in page(tmp_path, "one")
