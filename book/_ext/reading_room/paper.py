"""Print the whole book into one PDF: ``make pdf``.

The articles of the built site are put into one page, in reading order, and Chromium prints it.
So figures and formulas are those of the site, and the tags, by which a PDF can be read aloud, and the bookmarks are
Chromium's, of the whole book.
"""

import argparse
import base64
import io
import posixpath
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml
from pypdf import PdfReader, PdfWriter
from pypdf.generic import DictionaryObject, NameObject, TextStringObject

from reading_room import chromium, drawings

ROOT = Path(__file__).parents[3]
TARGET = ROOT / "_build" / "pdf" / "regularization.pdf"
MARGINS = {"top": "18mm", "bottom": "20mm", "left": "18mm", "right": "18mm"}
ARTICLE = re.compile(r'<article class="bd-article">(.*?)</article>', flags=re.S)
SHEET = re.compile(r'<link rel="stylesheet"[^>]*>')
SCRIPT = re.compile(r"<(script|template|noscript)\b.*?</\1>", flags=re.S)
FIGURE = re.compile(r'(<div class="course-figure") role="img"( aria-label="[^"]*")[^>]*>(<svg.*?</svg>)', flags=re.S)
HEADINGS = """[...document.querySelectorAll(".bd-article :is(h1, h2, h3, h4, h5, h6)")].map(heading => {
    const own = heading.cloneNode(true)
    own.querySelectorAll(".headerlink").forEach(link => link.remove())
    return own.textContent.replace(/\\s+/g, " ").trim()
})"""
HREF = re.compile(r' href="([^"#]*)(?:#([^"]*))?"')
STYLE = """<style>
@page { @bottom-center { content: counter(page); font: 9pt sans-serif } }
.course-sheet + .course-sheet { break-before: page }
course-explore .course-slider { visibility: visible !important }
/* the theme prints a title and a list of sections of its own, once, in place of every first heading */
.course-figure img { display: block; width: 100%; max-width: 34rem; margin: 0 auto }
#jb-print-docs-body { display: none !important }
.bd-main .bd-content .bd-article h1 { display: block !important; margin-top: 0 }
/* a long table begins where it is named, and is cut between rows */
.bd-main .bd-content .pst-scrollable-table-container table { break-inside: auto }
tr { break-inside: avoid }
</style>"""


def pages(course: Path) -> list[str]:
    """Return the pages in reading order, as paths below the site without their ending."""
    table = yaml.safe_load((course / "_toc.yml").read_text(encoding="utf-8"))
    return [table["root"], *(chapter["file"] for part in table["parts"] for chapter in part["chapters"])]


def whole(texts: dict[str, str]) -> str:
    """Return one page that holds the articles of all.

    Args:
        texts: the pages' HTML by their path below the site, in reading order; they stand in one folder.
    """
    places = {name: f"p{number}" for number, name in enumerate(texts)}
    articles = "".join(
        f'<section class="course-sheet" id="{places[name]}">{own(ARTICLE.search(text)[1], name, places)}</section>'
        for name, text in texts.items()
    )
    first = SCRIPT.sub("", next(iter(texts.values())))
    sheets = "".join(dict.fromkeys(sheet for text in texts.values() for sheet in SHEET.findall(text)))
    page = ARTICLE.sub(lambda _: f'<article class="bd-article">{articles}</article>', first)
    return page.replace("</head>", f"{sheets}{STYLE}</head>", 1)


def own(article: str, name: str, places: dict[str, str]) -> str:
    """Return an article whose ids no other has, and whose links stay within the book or lead to the world.

    Args:
        article: its HTML.
        name: its page.
        places: for every page of the book the id of its section.
    """

    def led(link: re.Match) -> str:
        path, fragment = link[1], link[2]
        if re.match(r"[a-z]+:", path):
            return link[0]
        page = posixpath.normpath(posixpath.join(posixpath.dirname(name), path)) if path else f"{name}.html"
        place = places.get(page.removesuffix(".html"))
        # What is not in the book, such as a notebook to take along, cannot be reached from paper.
        return f' href="#{place}{f"-{fragment}" if fragment else ""}"' if place else ""

    letters = drawings.letters_of(article)
    article = FIGURE.sub(lambda figure: pictured(figure, letters), drawings.STORE.sub("", article))
    article = HREF.sub(led, SCRIPT.sub("", article))
    article = re.sub(r' (id|for|aria-labelledby)="', rf' \1="{places[name]}-', article)
    return article.replace("url(#", f"url(#{places[name]}-")


def pictured(figure: re.Match, letters: dict[str, str]) -> str:
    """Return a drawing as an image, still made of lines: Chromium hands on the description of no other.

    Args:
        figure: a match of ``FIGURE``.
        letters: those that the page's figures share, by their ids.
    """
    drawing = drawings.whole(figure[3], letters).replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1).encode()
    said = figure[2].replace("aria-label", "alt")
    return f'{figure[1]}><img{said} src="data:image/svg+xml;base64,{base64.b64encode(drawing).decode()}">'


def printed(browser, address: str, name: str, text: str) -> tuple[bytes, list[str]]:
    """Return a page as PDF, tagged and with bookmarks, and the titles of these.

    Args:
        browser: a Chromium.
        address: where the site is served.
        name: a page of the site, in whose place the text is printed.
        text: HTML.
    """
    context = browser.new_context(color_scheme="light", reduced_motion="reduce")
    page = context.new_page()
    page.route(f"{address}{name}.html", lambda route: route.fulfill(body=text, content_type="text/html; charset=utf-8"))
    page.goto(f"{address}{name}.html")
    page.emulate_media(media="print", color_scheme="light")
    page.evaluate("document.querySelectorAll('.course-fold:not(.course-runs)').forEach(fold => fold.open = true)")
    page.evaluate("document.fonts.ready.then(() => true)")
    sheets = page.pdf(format="A4", margin=MARGINS, print_background=True, tagged=True, outline=True)
    titles = page.evaluate(HEADINGS)
    context.close()
    return sheets, titles


def bookmarks(below: DictionaryObject) -> Iterator[DictionaryObject]:
    """Yield the bookmarks of a PDF in reading order, each before those within it."""
    mark = below.get("/First")
    while mark is not None:
        yield mark.get_object()
        yield from bookmarks(mark.get_object())
        mark = mark.get_object().get("/Next")


def write(site: Path, target: Path, course: Path = ROOT) -> int:
    """Print a built site.

    Args:
        site: the folder with the site's pages.
        target: the PDF to write.
        course: the folder with ``_toc.yml`` and ``_config.yml``.

    Returns:
        The number of sheets.

    Raises:
        FileNotFoundError: a page has not been built.
        reading_room.chromium.Missing: there is no Chromium.
    """
    names = pages(course)
    if missing := [name for name in names if not (site / f"{name}.html").is_file()]:
        raise FileNotFoundError(f"the book must be built first (make book): {', '.join(missing)} not in {site}")
    config = yaml.safe_load((course / "_config.yml").read_text(encoding="utf-8"))
    about = {"/Title": config["title"], "/Author": config["author"]}
    texts = {name: (site / f"{name}.html").read_text(encoding="utf-8") for name in names}
    with chromium.launched() as browser, chromium.served(site) as address:
        sheets, titles = printed(browser, address, names[0], whole(texts))
    document = PdfWriter(clone_from=PdfReader(io.BytesIO(sheets)))
    # Chromium says a title twice where a sheet begins with it, and loses the space where its line breaks.
    for mark, title in zip(bookmarks(document.get_outline_root()), titles, strict=True):
        mark[NameObject("/Title")] = TextStringObject(title)
    document.add_metadata(about)
    document.page_mode = "/UseOutlines"
    target.parent.mkdir(parents=True, exist_ok=True)
    document.write(target)
    return len(document.pages)


def main():
    """Print the book that ``make book`` built."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--site", type=Path, default=ROOT / "_build" / "html")
    parser.add_argument("--target", type=Path, default=TARGET)
    chosen = parser.parse_args()
    try:
        sheets = write(chosen.site, chosen.target)
    except (FileNotFoundError, chromium.Missing) as problem:
        sys.exit(str(problem))
    print(f"{chosen.target}: {sheets} pages")


if __name__ == "__main__":
    main()
