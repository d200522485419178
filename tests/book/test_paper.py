"""The book as one PDF."""

import base64
import html
import os
import re
import subprocess
import sys
from xml.etree import ElementTree

import pytest
from book.sites import ROOT, built
from pypdf import PdfReader

from course_lib.layout import topics

sys.path.append(str(ROOT / "book" / "_ext"))
from reading_room import paper  # noqa: E402

SVG = "{http://www.w3.org/2000/svg}"
PATH = f"{ROOT / 'book' / '_ext'}{os.pathsep}{ROOT}"
PAGES = paper.pages(ROOT)


@pytest.fixture(scope="module")
def document(browser, tmp_path_factory):
    """The printed book. (`browser` is asked for so that this is skipped where there is none.)"""
    target = tmp_path_factory.mktemp("paper") / "book.pdf"
    command = [sys.executable, "-m", "reading_room.paper", "--site", built("book"), "--target", target]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env=os.environ | {"PYTHONPATH": PATH}
    )
    assert done.returncode == 0, done.stderr
    return PdfReader(target)


def elements(element, kind):
    """All structure elements of a kind below one."""
    below = element.get("/K", [])
    for child in map(lambda one: one.get_object(), below if isinstance(below, list) else [below]):
        if isinstance(child, dict):
            if child.get("/S") == kind:
                yield child
            yield from elements(child, kind)


def test_it_can_be_read_aloud_tagged_in_its_language_with_pictures_described(document):
    root = document.trailer["/Root"]
    assert root["/MarkInfo"]["/Marked"] and root["/Lang"] == "en" and root["/StructTreeRoot"]
    assert document.metadata.title and document.metadata.author
    described = [figure["/Alt"] for figure in elements(root["/StructTreeRoot"], "/Figure") if figure.get("/Alt")]
    text = "".join((built("book") / f"{page}.html").read_text(encoding="utf-8") for page in PAGES)
    assert len(described) >= len(re.findall(r'class="course-figure" role="img"', text)) > 4
    headings = [sum(1 for _ in elements(root["/StructTreeRoot"], kind)) for kind in ("/H1", "/H2")]
    assert headings[0] == len(PAGES) < headings[1]


def test_links_between_pages_lead_within_the_document(document):
    within, names = 0, document.named_destinations
    for sheet in document.pages:
        for annotation in sheet.get("/Annots") or []:
            link = annotation.get_object()
            target = link.get("/Dest") or link.get("/A", {}).get("/D")
            within += target is not None
            assert (
                not isinstance(target, str) or target in names or f"/{target}" in names or target.lstrip("/") in names
            )
    assert within > 50


def test_ids_and_links_of_joined_pages_are_their_own():
    article = (
        '<article class="bd-article"><h1 id="top">{}</h1><a href="{}">x</a><use href="#g"/><script>1</script></article>'
    )
    link = '<html><head><link rel="stylesheet" href="{}"></head><body>'
    one = link.format("a.css") + article.format("One", "two.html#top") + "</article></body></html>"
    two = link.format("b.css") + article.format("Two", "../notebooks/two.ipynb") + "</article></body></html>"
    text = paper.whole({"book/one": one, "book/two": two})
    assert 'id="p0-top"' in text and 'id="p1-top"' in text and 'href="#p1-top"' in text
    assert 'href="#p0-g"' in text and 'href="#p1-g"' in text and "ipynb" not in text and "<script" not in text
    assert text.index("a.css") < text.index("b.css") and text.count("<article") == 1


@pytest.mark.parametrize("page", PAGES)
def test_every_drawing_is_whole_and_well_formed_or_an_empty_frame_is_printed(page):
    text = (built("book") / f"{page}.html").read_text(encoding="utf-8")
    article = paper.own(paper.ARTICLE.search(text)[1], page, {page: "p0"})
    images = re.findall(r'src="data:image/svg\+xml;base64,([^"]*)"', article)
    assert len(images) == text.count('<div class="course-figure"') and "course-letters" not in article
    for image in images:
        drawing = ElementTree.fromstring(base64.b64decode(image))
        ids = {element.get("id") for element in drawing.iter()}
        assert {element.get("href")[1:] for element in drawing.iter(f"{SVG}use")} <= ids


def bookmarks(document):
    marks = [mark for mark in document.outline if not isinstance(mark, list)]
    return [(mark.title, document.get_destination_page_number(mark)) for mark in marks]


def test_it_has_one_bookmark_a_page_of_the_book_in_reading_order(document):
    marks = bookmarks(document)
    assert len(marks) == len(PAGES) < len(document.pages)
    starts = [page for _, page in marks]
    assert starts == sorted(set(starts)) and starts[0] == 0
    below = [entry for entry in document.outline if isinstance(entry, list)]
    assert len(below) >= len(topics(ROOT)) and all(below)


def titles(entries):
    return [title for entry in entries for title in (titles(entry) if isinstance(entry, list) else [entry.title])]


def test_the_bookmarks_say_what_the_headings_say(document):
    articles = (paper.ARTICLE.search((built("book") / f"{page}.html").read_text(encoding="utf-8"))[1] for page in PAGES)
    headings = [text for article in articles for text in re.findall(r"<h[1-6][^>]*>(.*?)</h[1-6]>", article, re.S)]
    words = (re.sub(r'<a class="headerlink".*?</a>|<[^>]+>', "", text, flags=re.S) for text in headings)
    assert titles(document.outline) == [" ".join(html.unescape(text).split()) for text in words]


def lines(sheet):
    """How many lines are drawn on a sheet, those of its images made of lines included."""
    own = sheet.get_contents().get_data() if "/Contents" in sheet else sheet.get_data()
    below = sheet.get("/Resources", {}).get("/XObject", {}).values()
    return own.count(b" l\n") + sum(lines(one.get_object()) for one in below if one.get_object()["/Subtype"] == "/Form")


def sheets_of(document, page):
    """The sheets of one page of the book."""
    starts = [*(first for _, first in bookmarks(document)), len(document.pages)]
    place = PAGES.index(page)
    return document.pages[starts[place] : starts[place + 1]]


@pytest.mark.parametrize("topic", topics(ROOT))
def test_a_chapter_is_there_with_its_figures_and_numbered_equations(document, topic):
    sheets = sheets_of(document, f"book/{topic}")
    text = "\n".join(sheet.extract_text() for sheet in sheets)
    html = (built("book") / "book" / f"{topic}.html").read_text(encoding="utf-8")
    numbers = re.findall(r'class="caption-number">(Fig\. [\d.]+)', html) + re.findall(
        r'class="eqno">(\([\d.]+\))', html
    )
    for number in numbers:
        assert number.strip() in text.replace("\xa0", " "), number
    unbroken = re.sub(r"\s+", "", text)
    for proof in re.findall(r"<summary>Proof</summary>(.*?)</details>", html, flags=re.S):
        parts = [re.sub(r"\s+", "", part) for part in re.findall(r">([^<>$\\]+)<", proof)]
        found = [part in unbroken for part in parts if len(part) >= 12]  # formulas may part a line of text
        assert any(found), f"a proof is open on paper: {parts}"
    assert sum(map(lines, sheets)) > 300, "the figures' lines are drawn"
    assert "copybtn" not in text and "Show code cell source" not in text


def test_the_long_tables_of_the_grader_are_left_out(document):
    text = "\n".join(sheet.extract_text() for sheet in sheets_of(document, "book/grader"))
    assert "alternatives accepted" in text and "contractive_penalty" in text and "Versions tried in" not in text


def test_links_stay_within_the_document(document):
    for sheet in document.pages:
        for annotation in sheet.get("/Annots") or []:
            assert "127.0.0.1" not in str(annotation.get_object().get("/A", {}).get("/URI", ""))


def test_sheets_are_numbered_through(document):
    for number in (5, len(document.pages) // 2, len(document.pages)):
        assert str(number) in document.pages[number - 1].extract_text().split()


def test_without_chromium_it_says_what_to_do(tmp_path):
    site = tmp_path / "site"
    for name in PAGES:
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / f"{name}.html").touch()
    command = [sys.executable, "-m", "reading_room.paper", "--site", str(site), "--target", str(tmp_path / "book.pdf")]
    environment = {key: value for key, value in os.environ.items() if key != "COURSE_CHROMIUM"}
    environment |= {"PATH": str(tmp_path), "PLAYWRIGHT_BROWSERS_PATH": str(tmp_path), "PYTHONPATH": PATH}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 1 and "no Chromium: install one" in done.stderr


def test_without_a_built_book_it_says_so(monkeypatch, tmp_path):
    with pytest.raises(FileNotFoundError, match="make book"):
        paper.write(tmp_path, tmp_path / "book.pdf")
