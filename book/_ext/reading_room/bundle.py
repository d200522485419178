"""Give each page one style sheet and one script instead of a dozen of each: on a slow line every file costs a journey.

Pages with the same files share a bundle. Which files it holds stands in the page, so that a later build, which
may leave the page as it is, can write its bundle anew. Sheets are trimmed, and small fonts travel within them: no
journey of their own, and no line that moves when they arrive. Scripts that a page does not need to be read come in a
bundle of their own, which course.js asks for when the page has loaded.
"""

import base64
import hashlib
import html
import os
import re
from collections.abc import Sequence
from pathlib import Path

from reading_room import trim

LINKS = re.compile(r'(?:<link\b(?=[^>]*rel="stylesheet")[^>]*>\s*)+')
# The search's own two are asked for by typeof, which fails within one file and not across files.
SCRIPT = re.compile(r'[ \t]*<script\b(?=[^>]*\bsrc="(?:\.\./)*_static/(?!searchtools|language_data))[^>]*></script>\n?')
PLACE = re.compile(r'(?:href|src)="((?:\.\./)*)_static/([^"?]+)[^"]*"')
HELD = re.compile(r'data-(?:sheets|scripts)="([^"]*)"')
PRELOADED = re.compile(r'[ \t]*<link rel="preload" as="script"[^>]*>\n?')
REMARK = re.compile(r'@charset "[^"]*";|/\*(?!!).*?\*/', flags=re.S)  # licences begin with /*! and stay
OPTIONS = "documentation_options.js"  # inline scripts need it at once
LATE = ("scripts/bootstrap.js", "clipboard.min.js", "copybutton.js")
# The theme asks a box whether it scrolls and marks it before it asks the next: the page is laid out once for each.
SCROLLS = "e.scrollWidth>e.clientWidth||e.scrollHeight>e.clientHeight?0:-1"
MENDED = {
    "scripts/pydata-sphinx-theme.js": {
        f"e.tabIndex={SCROLLS}": f"const t={SCROLLS};e.tabIndex===t||queueMicrotask((()=>{{e.tabIndex=t}}))",
        "{subtree:!0,childList:!0}),e()}": "{subtree:!0,childList:!0}),setTimeout(e)}",  # not before it has loaded
    }
}
IMPORT = re.compile(r"""@import\s+(?:url\()?["']?([^"')]+)["']?\)?\s*;""")
URL = re.compile(r"""url\(\s*(["']?)(?!data:|https?:|#)([^"')]+)\1\s*\)""")
FONT = re.compile(r"url\(([^)]+\.woff)\)")
SMALL = 4_000  # bytes of a font that is not worth a journey


def bundle(app, error):
    """Write the bundles of a finished site, and link them."""
    if error or app.builder.format != "html":
        return
    site = Path(app.outdir)
    static, sheets = site / "_static", {}
    for old in static.glob("bundle-*"):
        old.unlink()
    words = trim.mentioned(site)
    for path in site.rglob("*.html"):
        for links in LINKS.findall(path.read_text(encoding="utf-8")):
            names = held(links)
            if names and names not in sheets:
                text = "\n".join(sheet(static / name, static) for name in names)
                sheets[names] = trim.used_faces(trim.used_rules(REMARK.sub("", text), words))
    trim.trim_fonts(site, "".join(sheets.values()))
    for names, text in sheets.items():
        bundled(names, ".css", static).write_text(with_fonts(text, static), encoding="utf-8")
    for path in site.rglob("*.html"):
        page = path.read_text(encoding="utf-8")
        mended = one_script(LINKS.sub(lambda found: one_link(found[0], static), page), static)
        if mended != page:
            path.write_text(mended, encoding="utf-8")


def held(elements: str) -> tuple[str, ...]:
    """Return the files below ``_static`` that elements ask for, none if one of them asks for something else."""
    if before := HELD.search(elements):
        return tuple(html.unescape(before[1]).split())
    places = [PLACE.search(element) for element in re.findall(r"<(?:link|script)\b[^>]*>", elements)]
    return tuple(place[2] for place in places) if all(places) else ()


def bundled(names: tuple[str, ...], ending: str, static: Path) -> Path:
    """Return where a bundle of these files is."""
    return static / f"bundle-{hashlib.sha256(' '.join(names).encode()).hexdigest()[:10]}{ending}"


def address(target: Path, elements: str) -> str:
    """Return the way to a bundle from the page that these elements are from."""
    version = hashlib.sha256(target.read_bytes()).hexdigest()[:8]
    return f"{PLACE.search(elements)[1]}_static/{target.name}?v={version}"


def one_link(links: str, static: Path) -> str:
    """Return one link for several that follow each other; links to elsewhere stay as they are.

    Args:
        links: ``<link>`` elements.
        static: the site's folder ``_static``, where the bundle is.
    """
    if not (names := held(links)):
        return links
    href = address(bundled(names, ".css", static), links)
    return f'<link rel="stylesheet" type="text/css" href="{href}" data-sheets="{" ".join(names)}" />\n'


def one_script(page: str, static: Path) -> str:
    """Return a page whose linked scripts are one, in their order.

    Args:
        page: the page's text.
        static: the site's folder ``_static``, where the bundle is written.
    """
    found = list(SCRIPT.finditer(page))
    if not found:
        return page
    elements = "".join(script[0] for script in found)
    names = tuple(name for name in held(elements) if name != OPTIONS)
    later = tuple(name for name in names if name in LATE)
    source = script([name for name in names if name not in LATE], elements, static)
    late = f' data-late="{script(later, elements, static)}"' if later else ""
    one = f'<script defer src="{source}" data-scripts="{" ".join(names)}"{late}></script>\n'
    if OPTIONS in elements:
        one = f"<script>{(static / OPTIONS).read_text(encoding='utf-8').strip()}</script>\n{one}"
    start = found[0].start()
    return PRELOADED.sub("", page[:start] + one + SCRIPT.sub("", page[start:]))


def script(names: Sequence[str], elements: str, static: Path) -> str:
    """Write the bundle of some scripts if it is not there; return the way to it from the page with these elements."""
    target = bundled(tuple(names), ".js", static)
    if not target.exists():
        # The semicolon ends what a file leaves open, and keeps its "use strict" from ruling the others.
        target.write_text("\n".join(";" + mended(name, static) for name in names), encoding="utf-8")
    return address(target, elements)


def mended(name: str, static: Path) -> str:
    """Return a script's text with what is mended in it.

    Raises:
        ValueError: what is to be mended is not there, so the theme is another one.
    """
    text = (static / name).read_text(encoding="utf-8")
    for old, new in MENDED.get(name, {}).items():
        if text.count(old) != 1:
            raise ValueError(f"bundle: wanted one {old!r} in {name}, got {text.count(old)}; look at MENDED")
        text = text.replace(old, new)
    return text


def sheet(path: Path, static: Path) -> str:
    """Return a style sheet with those that it imports, its addresses seen from the folder ``_static``."""

    def moved(found: re.Match) -> str:
        place, mark, rest = found[2].partition("?")
        return f"url({Path(os.path.relpath(path.parent / place, static)).as_posix()}{mark}{rest})"

    text = trim.SOURCE.sub('.woff) format("woff")', path.read_text(encoding="utf-8"))
    text = URL.sub(moved, IMPORT.sub(lambda found: f"/*import {found[1]}*/", text))
    return re.sub(r"/\*import ([^*]+)\*/", lambda found: sheet(path.parent / found[1], static), text)


def with_fonts(text: str, static: Path) -> str:
    """Return a style sheet that holds its small fonts."""

    def inlined(found: re.Match) -> str:
        font = (static / found[1]).read_bytes()
        return f"url(data:font/woff;base64,{base64.b64encode(font).decode()})" if len(font) < SMALL else found[0]

    return FONT.sub(inlined, text)


def setup(app):
    """Connect to the end of the build."""
    app.connect("build-finished", bundle, priority=900)
    return {"parallel_read_safe": True}
