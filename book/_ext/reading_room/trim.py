"""Trim style sheets and fonts to what the pages use.

The theme brings 391 kB of Bootstrap's rules, Font Awesome 156 kB of icons, KaTeX 250 kB of glyphs. What pages and
scripts mention is looked up in what was written; rules for classes that nobody mentions go, with the typefaces that no
rule asks for. Fonts keep the icons of the rules that stay, and the characters of the pages.
"""

import logging
import re
from pathlib import Path

import pydata_sphinx_theme
from fontTools import subset
from fontTools.ttLib import TTFont

THEME = Path(pydata_sphinx_theme.__file__).parent / "theme" / "pydata_sphinx_theme" / "static"
SHEET = "styles/pydata-sphinx-theme.css"
ICONS = "vendor/fontawesome/webfonts"
KATEX = Path(__file__).parent / "vendor" / "katex" / "fonts"
KATEX_SERVED = "vendor/katex/fonts"
SOURCE = re.compile(r'\.woff2\) format\("woff2"\),url\([^)]*\.ttf\) format\("truetype"\)')
CLASS = re.compile(r"\.(-?(?:[A-Za-z_]|\\.)(?:[\w-]|\\.)*)")
BETWEEN = re.compile(r"(?:\s|/\*.*?\*/|@[^;{]*;)*", flags=re.S)  # licences and statements before a block
CONDITIONS = re.compile(r":(?:not|is|where|has)\((?:[^()]|\([^()]*\))*\)")
FACE = re.compile(r"@font-face\s*\{[^}]*\}")
FAMILY = re.compile(r"""font-family:\s*["']?([^;"'}]+)""")

logging.getLogger("fontTools").setLevel(logging.WARNING)  # it tells of every table that it cuts

#: What Bootstrap's script adds to the pages: tips, and marks in the contents. It names all its other parts as well.
TIPS = {"tooltip", "tooltip-inner", "tooltip-arrow", "fade", "show", "active"}


def mentioned(site: Path) -> set[str]:
    """Return the classes of all pages, and every word of the scripts, any of which may become a class."""
    words = set()
    for path in site.rglob("*.html"):
        for names in re.findall(r'class="([^"]*)"', path.read_text(encoding="utf-8")):
            words |= set(names.split())
    for path in site.glob("_static/**/*.js"):
        if path.name == "bootstrap.js":
            words |= TIPS
        elif not path.name.startswith(("fontawesome", "bundle-")):
            words |= set(re.findall(r"[\w-]+", path.read_text(encoding="utf-8")))
    return words


def used_rules(css: str, words: set[str]) -> str:
    """Return a minified style sheet without the selectors that ask for a class which is not among the words."""

    def used(selector: str) -> bool:
        names = (name.replace("\\", "") for name in CLASS.findall(CONDITIONS.sub("", selector)))
        return all(name in words or name.startswith("bs-") for name in names)  # Bootstrap composes bs-*

    written, opened = [], []  # finished text; for each open block its prelude and where its text starts
    for text, brace in re.findall(r"([^{}]*)([{}])", css):
        if brace == "{":
            before = BETWEEN.match(text)[0]
            written.append(before)
            opened.append((text[len(before) :], len(written)))
            continue
        prelude, start = opened.pop()
        body = "".join(written[start:]) + text
        del written[start:]
        inside_keyframes = bool(opened) and "keyframes" in opened[-1][0]
        if not prelude.startswith("@") and not inside_keyframes:
            prelude = ",".join(filter(used, re.split(r",(?![^()]*\))", prelude)))
        if prelude and body:
            written.append(f"{prelude}{{{body}}}")
    return "".join(written)


def used_faces(css: str) -> str:
    """Return a style sheet without the typefaces that none of its rules asks for."""
    rest = FACE.sub("", css)
    return FACE.sub(lambda face: face[0] if FAMILY.search(face[0])[1].strip() in rest else "", css)


def trim_fonts(site: Path, sheets: str):
    """Write the site's fonts anew, cut to what is seen, and delete what nobody asks for.

    Args:
        site: the finished site.
        sheets: the text of all its style sheets.
    """
    static = site / "_static"
    icons, pages = icon_codes(sheets), (path.read_text(encoding="utf-8") for path in site.rglob("*.html"))
    shown = {ord(character) for page in pages for character in set(page)}  # the stroke of ≠ is a private code point
    for folder, target, codes in ((THEME / ICONS, static / ICONS, icons), (KATEX, static / KATEX_SERVED, shown)):
        for font in folder.glob("*.ttf"):
            trim_font(font, codes, target / f"{font.stem}.woff")
    leftovers = [*(static / ICONS).glob("*.ttf"), *(static / ICONS).glob("*.woff2"), *static.rglob("*.map")]
    for path in {*leftovers, *static.glob("scripts/fontawesome*")}:
        path.unlink()


def icon_codes(css: str) -> set[int]:
    """Return the private code points that a style sheet writes, as characters or as escapes."""
    escaped = {int(code, 16) for code in re.findall(r"\\([ef][0-9a-f]{3})\b", css)}
    return escaped | {ord(character) for character in css if "\ue000" <= character <= "\uf8ff"}


def trim_font(source: Path, codes: set[int], target: Path):
    """Write the given code points of a font as WOFF (which, unlike WOFF 2, needs nothing but zlib)."""
    font = TTFont(source)
    cutter = subset.Subsetter(subset.Options(hinting=False, notdef_outline=False, name_IDs=[]))
    cutter.populate(unicodes=codes)
    cutter.subset(font)
    font.flavor = "woff"
    target.parent.mkdir(parents=True, exist_ok=True)
    font.save(target)
