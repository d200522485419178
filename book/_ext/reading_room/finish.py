"""Mend the theme's pages as they are written: lighter, and usable by everyone.

``finish`` is a function from text to text, applied to each page between the template and the disk.
"""

import re


def finish(page: str) -> str:
    """Return the page as it should be."""
    for mend in (drop_unused, once_each, defer, colour_at_once, speak_plainly, own_ids_only, plain_code, whole_words):
        page = mend(page)
    return page


#: Files that extensions link from every page, and what a page must contain to need them (None: no page does).
NEEDED_BY = {
    "scripts/fontawesome.js": None,  # draws icons as SVG, 542 kB compressed: the web font has them too
    "clipboard.min.js": 'class="highlight',
    "copybutton.js": 'class="highlight',
    "copybutton.css": 'class="highlight',
    "design-tabs.js": "sd-tab-set",
    "sphinx-design.min.css": 'class="sd-',
    "proof.css": 'class="proof',
    "exercise.css": "exercise",
}


def drop_unused(page: str) -> str:
    """Drop links to scripts and style sheets for which the page has no use."""

    def keep(match: re.Match) -> str:
        name = match[1].partition("?")[0].partition("_static/")[2]
        needed_by = NEEDED_BY.get(name, "")
        return match[0] if needed_by is not None and needed_by in body else ""

    _, _, body = page.partition("<body")
    return re.sub(r'<(?:script|link)\b[^>]*(?:src|href)="([^"]*_static/[^"]*)"[^>]*>(?:</script>)?', keep, page)


def defer(page: str) -> str:
    """Let the page be drawn before its scripts run; the options, which inline scripts need, are small."""
    return re.sub(r"<script(?![^>]*(?:defer|async|documentation_options))([^>]* src=)", r"<script defer\1", page)


def once_each(page: str) -> str:
    """Keep the first of equal inline scripts and meta tags; Sphinx 7 and the theme emit some of them twice."""
    seen = set()

    def first(match: re.Match) -> str:
        key = re.sub(r"\s*/?>$", "", match[0]).replace("initial-scale=1.0", "initial-scale=1")
        if key in seen:
            return ""
        seen.add(key)
        return match[0]

    return re.sub(r'<script>[^<]*</script>|<meta name="viewport"[^>]*>', first, page)


CHOOSE = (
    'document.documentElement.dataset.theme = ["light", "dark"].find(mode => mode === localStorage.getItem("mode")) || '
    '(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");'
)


def colour_at_once(page: str) -> str:
    """Choose light or dark before anything is drawn.

    The theme's own script comes late. Until then no colour is defined, nor any border in one: lines move.
    """
    page = page.replace('document.documentElement.dataset.theme = localStorage.getItem("theme") || "auto";', CHOOSE)
    return re.sub(r'(<html\b[^>]*) data-theme="auto"', r'\1 data-theme="light"', page)


def speak_plainly(page: str) -> str:
    """Let assistive technology hear what is written.

    Names that hide a control's own text, roles that no longer exist or forbid their content, and a sidebar that is
    no landmark.
    """
    page = page.replace('<summary aria-label="Toggle hidden content">', "<summary>")
    page = re.sub(r'(<button class="btn search-button-field[^>]*?) aria-label="Search"', r"\1", page)
    page = page.replace('<div role="list" class="citation-list">', '<div class="citation-list">')
    page = re.sub(r' role="doc-(?:biblioentry|backlink)"', "", page)
    page = re.sub(r"<dl>\s*((?:<dd>(?:(?!</?d[dl]>).)*</dd>\s*)+)</dl>", spelled_out, page, flags=re.S)
    return re.sub(
        r'<div id="pst-primary-sidebar" class="',
        '<div id="pst-primary-sidebar" role="complementary" aria-label="Book" class="',
        page,
    )


def spelled_out(parameters: re.Match) -> str:
    """Write a signature's parameters as lines; Sphinx makes them a list of definitions that defines nothing."""
    lines = parameters[1].replace("<dd>", '<span class="course-parameter">').replace("</dd>", "</span>")
    return lines.rstrip()


def own_ids_only(page: str) -> str:
    """Drop the ids that sphinx-proof gives to every proof and every theorem alike."""
    return re.sub(r' id="proof(?:-content)?"', "", page)


CODE = re.compile(r'(?<=<div class="highlight"><pre>).*?(?=</pre>)', flags=re.S)
#: Names, punctuation and spaces have the colour of the code around them, in both themes.
UNCOLOURED = ("n", "p", "w")
UNSEEN = re.compile(rf'<span class="(?:{"|".join(UNCOLOURED)})">([^<]*)</span>|<span></span>')


def plain_code(page: str) -> str:
    """Take the marks off the parts of code that look like the rest; they are two thirds of a chapter's elements."""
    return CODE.sub(lambda code: UNSEEN.sub(lambda part: part[1] or "", code[0]), page)


def whole_words(page: str) -> str:
    """Mark the long words of code in the text: only these may break within (see course.css)."""
    return re.sub(r'<span class="pre">(?=[^<]{21})', '<span class="pre long">', page)


def wrap(app):
    """Put ``finish`` between the templates and the disk."""
    if app.builder.format == "html":
        render = app.builder.templates.render
        app.builder.templates.render = lambda name, context: finish(render(name, context))


def setup(app):
    """Connect when the builder has its templates."""
    app.connect("builder-inited", wrap, priority=900)
    return {"parallel_read_safe": True}
