"""Make a page's drawings light: letters are there once for all figures, a slider's frames in a file of their own.

Every figure brings the outlines of its letters, since it must be whole wherever it is shown; together they are a fifth
of a chapter. Frames are needed when somebody moves the slider; explore.js asks for them when the page has loaded, by a
``<script>``, which works from a folder too. The first frame stays in the page. Each figure's box says its own shape, so
a browser need not look into those out of sight (``content-visibility`` in course.css), and no line moves later.
"""

import hashlib
import json
import os
import re
from pathlib import Path

FOLDER = "_frames"
EXPLORE = re.compile(
    r'<course-explore( .*?)<script type="application/json">(.*?)</script></course-explore>', flags=re.S
)
DRAWING = re.compile(r"(?<=>)<svg viewBox=.*?</svg>", flags=re.S)
#: An outline, and what shows it. Other ids of matplotlib's (markers, clips) begin with a small letter.
OUTLINE = re.compile(r'<path id="c[0-9a-f]{8}-([A-Z][\w-]*)" ([^>]*)/>')
SHOWN = re.compile(r'href="#c[0-9a-f]{8}-([A-Z][\w-]*)"')
LETTERS = '<svg class="course-letters" width="0" height="0" aria-hidden="true" focusable="false"><defs>{}</defs></svg>'
LETTER = re.compile(r'<path id="([A-Z][\w-]*)" [^>]*/>')
STORE = re.compile(re.escape(LETTERS).replace(r"\{\}", "(.*?)"), flags=re.S)
FIGURE = '<div class="course-figure"'
SIZED = re.compile(rf'({FIGURE}[^>]*)(><svg viewBox="[\d.]+ [\d.]+ ([\d.]+) ([\d.]+)")')
REFERRED = re.compile(rf'data-frames="[^"]*{FOLDER}/([^"]*)"')


def lighten(app, error):
    """Lighten the pages of a finished site; those that a later build left as they are have been lightened before."""
    if error or app.builder.format != "html":
        return
    site, used = Path(app.outdir), set()
    for path in site.rglob("*.html"):
        page = path.read_text(encoding="utf-8")
        light, files = lightened(page, os.path.relpath(site / FOLDER, path.parent))
        for name, text in files.items():
            (site / FOLDER).mkdir(exist_ok=True)
            (site / FOLDER / name).write_text(text, encoding="utf-8")
        if light != page:
            path.write_text(light, encoding="utf-8")
        used |= set(REFERRED.findall(light))
    for old in (site / FOLDER).glob("*.js"):
        if old.name not in used:
            old.unlink()


def lightened(page: str, folder: str = FOLDER) -> tuple[str, dict[str, str]]:
    """Return a page whose figures share their letters and say their shape, and the files of frames by name.

    Args:
        page: the page's text.
        folder: the way from the page to the folder where the files will be.
    """
    if FIGURE not in page or STORE.search(page):
        return page, {}
    letters, files = {}, {}

    def shared(drawing: str) -> str:
        return SHOWN.sub(r'href="#\1"', OUTLINE.sub(keep, drawing)).replace("<defs></defs>", "")

    def keep(outline: re.Match) -> str:
        if letters.setdefault(outline[1], outline[2]) != outline[2]:
            raise ValueError(f"drawings: two outlines of {outline[1]}, wanted one font; build every page anew")
        return ""

    def apart(slider: re.Match) -> str:
        data = json.loads(slider[2])
        kept = json.dumps({"texts": data.pop("texts")}, ensure_ascii=False, separators=(",", ":"))
        data["pieces"] = [shared(piece) for piece in data["pieces"]]
        text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
        name = hashlib.sha256(text.encode()).hexdigest()[:10]
        files[f"{name}.js"] = f'(window.courseFrames ??= {{}})["{name}"] = {text};\n'
        kept = kept.replace("</", "<\\/")
        return (
            f'<course-explore data-frames="{folder}/{name}.js"{slider[1]}'
            f'<script type="application/json">{kept}</script></course-explore>'
        )

    page = DRAWING.sub(lambda drawing: without_empty_groups(shared(drawing[0])), EXPLORE.sub(apart, page))
    page = SIZED.sub(r'\1 style="aspect-ratio:\3/\4"\2', page)
    outlines = "".join(f'<path id="{name}" {rest}/>' for name, rest in sorted(letters.items()))
    return page.replace(FIGURE, LETTERS.format(outlines) + FIGURE, 1), files


def without_empty_groups(drawing: str) -> str:
    """Return a drawing without groups that say nothing about what is in them; a page has a thousand."""
    written, bare = [], []
    for part in re.split(r"(<g(?: [^>]*[^>/])?>|</g>)", drawing.replace("<g/>", "")):
        if part.startswith("<g"):
            bare.append(part == "<g>")
        if not ((part.startswith("<g") and bare[-1]) or (part == "</g>" and bare.pop())):
            written.append(part)
    return "".join(written)


def letters_of(page: str) -> dict[str, str]:
    """Return the letters of a page's figures by their ids."""
    store = STORE.search(page)
    return {letter[1]: letter[0] for letter in LETTER.finditer(store[1])} if store else {}


def whole(drawing: str, letters: dict[str, str]) -> str:
    """Return a drawing with the letters that it shows in it."""
    shown = dict.fromkeys(name for name in re.findall(r'href="#([A-Z][\w-]*)"', drawing) if name in letters)
    start = drawing.index(">") + 1
    return f"{drawing[:start]}<defs>{''.join(letters[name] for name in shown)}</defs>{drawing[start:]}"


def setup(app):
    """Connect to the end of the build."""
    app.connect("build-finished", lighten, priority=800)
    return {"parallel_read_safe": True}
