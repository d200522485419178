"""The book's own Sphinx extension, module by module, on small projects of its own."""

import io
import json
import os
import re
import sys
import time
from types import SimpleNamespace

import pytest
import yaml
from book.sites import ROOT
from docutils import nodes
from pygments.formatters import HtmlFormatter
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace, patch_docutils

sys.path.append(str(ROOT / "book" / "_ext"))
from reading_room import bundle, drawings, execution, finish, mathematics, trim, typography  # noqa: E402


def build(tmp_path, pages: dict[str, str], modules: list[str], **config) -> tuple[Sphinx, str, str]:
    """Build a project of MyST pages; return the application, what it said and what it warned of."""
    source = tmp_path / "source"
    source.mkdir(exist_ok=True)
    for name, text in pages.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / f"{name}.md").write_text(text, encoding="utf-8")
    said, warned = io.StringIO(), io.StringIO()
    math = "katex" if "reading_room.mathematics" in modules else "mathjax"
    overrides = {"extensions": modules, "html_theme": "basic", "html_math_renderer": math} | config
    folders = [source, None, tmp_path / "html", tmp_path / "doctrees", "html"]
    with patch_docutils(None), docutils_namespace():
        app = Sphinx(*folders, overrides, status=said, warning=warned)
        app.build()
    return app, said.getvalue(), warned.getvalue()


def page(tmp_path, name="index") -> str:
    return (tmp_path / "html" / f"{name}.html").read_text(encoding="utf-8")


# -- mathematics

MATH = {"modules": ["myst_parser", "reading_room.mathematics"], "myst_enable_extensions": ["dollarmath", "amsmath"]}


def test_formulas_are_html_and_mathml_and_numbers_are_sphinxs(tmp_path):
    text = "# T\n\nInline $\\sq{x}$.\n\n$$\na = b\n$$ (eq-a)\n\nSee {eq}`eq-a`.\n\n"
    text += "\\begin{align}\na &= b \\\\\nc &= d\n\\end{align}\n"
    _, _, warned = build(tmp_path, {"index": text}, course_math_macros={"\\sq": "#1^2"}, **MATH)
    html = page(tmp_path)
    assert not warned
    assert html.count('<span class="katex">') == 3 and "<msup><mi>x</mi><mn>2</mn></msup>" in html
    assert html.count('class="eqno"') == 2 and 'href="#equation-eq-a">(1)</a>' in html
    assert "katex-error" not in html and "MathJax" not in html
    assert html.count('class="tag"') == 0, "KaTeX numbers nothing itself"


def test_a_formula_that_cannot_be_parsed_is_a_warning_with_file_and_line(tmp_path):
    _, _, warned = build(tmp_path, {"index": "# T\n\nGood $x$.\n\nBad $\\frac{1}$ here.\n"}, **MATH)
    assert "index.md:5" in warned and "KaTeX parse error" in warned and "\\frac{1}" in warned


def test_several_rows_are_set_as_rows(tmp_path):
    _, _, warned = build(tmp_path, {"index": "# T\n\n```{math}\na = b \\\\\nc = d\n\ne = f\n```\n"}, **MATH)
    assert not warned and page(tmp_path).count("<mtr>") >= 3


def test_mathematics_in_the_librarys_own_html_is_set(tmp_path):
    typesetter = mathematics.Typesetter({})
    try:
        assert "<mi>λ</mi>" in typesetter(r"\lambda < 1", False, None)
        assert typesetter.process is not None and len(typesetter.known) == 1
    finally:
        typesetter.close()
    assert mathematics.MARKED.sub(r"[\1]", 'a <span class="course-math">$x$</span> b') == "a [x] b"


# -- folds


def test_boxes_of_the_class_dropdown_fold(tmp_path):
    text = (
        "# T\n\n```{admonition} A <hint>\n:class: dropdown\nLook.\n```\n\n"
        "```{prf:proof}\n:class: dropdown\nAs $x$.\n```\n\n"
        "```{prf:theorem} Main\n:label: thm\n:class: dropdown\nIt is.\n```\n"
    )
    build(tmp_path, {"index": text}, ["myst_parser", "sphinx_proof", "reading_room.folds"])
    html = page(tmp_path)
    assert html.count("<details") == html.count("</details>") == 3
    assert "<summary>A &lt;hint&gt;</summary>" in html and "<summary>Proof</summary>" in html
    assert "<summary>Theorem: Main</summary>" in html and "Proof. " not in html


# -- typography


def test_marks_stay_with_their_formula_and_numbers_are_whole(tmp_path):
    text = "# T\n\n*It*, that is ($x$), and $y$, or *it*, 60 000 times and 3 ± 1 %, never `60 000`.\n"
    config = MATH | {"modules": [*MATH["modules"], "reading_room.typography"]}
    _, _, warned = build(tmp_path, {"index": text}, **config)
    html = page(tmp_path)
    assert not warned and html.count('<span class="course-glued">') == 2
    assert ', that is <span class="course-glued">(<span' in html and "</span>),</span> and " in html
    assert "</span>,</span> or <em>it</em>, 60\xa0000 times and 3\xa0±\xa01\xa0%, never" in html
    assert '<span class="pre">60</span> <span class="pre">000</span>' in html


def test_numbers_of_runs_are_set_as_in_print():
    pasted = nodes.inline("", "-0.1 ± 3e-07", classes=["pasted-text"])
    sentence = nodes.paragraph("", "", nodes.Text("by "), pasted, nodes.Text(" %, on 2026-11-21"))
    for element in (sentence, pasted):
        typography.set_texts(element)
    assert sentence.astext() == "by −0.1\xa0±\xa03·10⁻⁷\xa0%, on 2026-11-21"


# -- execution

CHAPTER = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  name: python3
---

# Chapter {name}

```{{code-cell}} python
import pathlib, time
with pathlib.Path("{log}").open("a") as log:
    print("{name}", time.time(), file=log)
    time.sleep(1.5)
    print("{name}", time.time(), file=log)
{more}
```
"""


def chapters(tmp_path, **more) -> dict[str, str]:
    log = tmp_path / "log"
    texts = {name: CHAPTER.format(name=name, log=log, more=more.get(name, "")) for name in ("one", "two")}
    return texts | {"index": "# T\n\n```{toctree}\none\ntwo\n```\n"}


EXECUTION = {
    "modules": ["myst_nb", "reading_room.execution"],
    "source_suffix": {".md": "myst-nb"},
    "nb_execution_mode": "cache",
    "nb_execution_raise_on_error": True,
}


@pytest.fixture
def library(tmp_path, monkeypatch):
    root = tmp_path / "root"
    (root / "course_lib").mkdir(parents=True)
    (root / "course_lib" / "__init__.py").touch()
    (root / "course_lib" / "topic.py").write_text("x = 1\n")
    monkeypatch.setattr(execution, "ROOT", root)
    return root


def log(tmp_path):
    """Who ran so far, by name; each run leaves two lines."""
    return sorted(line.split()[0] for line in (tmp_path / "log").read_text().splitlines())[::2]


IMPORTS = "def never(): from course_lib import topic"


def test_stale_chapters_run_side_by_side_once(tmp_path, library):
    options = EXECUTION | {"nb_execution_cache_path": str(tmp_path / "cache")}
    app, said, warned = build(tmp_path, chapters(tmp_path), **options)
    assert not [line for line in warned.splitlines() if "WARNING" in line]
    words = (tmp_path / "log").read_text().split()
    starts = {name: float(words[words.index(name) + 1]) for name in ("one", "two")}
    if len(os.sched_getaffinity(0)) > 1:
        assert "2 at a time" in said and abs(starts["one"] - starts["two"]) < 1.5, "one waited for the other"
    assert all(about["execution_seconds"] > 1.5 for about in app.env.course_runs.values())
    os.utime(tmp_path / "source" / "one.md", (time.time() + 5, time.time() + 5))
    app, _, _ = build(tmp_path, {}, **options)
    assert log(tmp_path) == ["one", "two"], "nothing changed, nothing runs"
    assert set(app.env.course_runs) == {"one", "two"}


def test_cores_are_counted_where_the_system_has_no_affinity(monkeypatch):
    assert 1 <= execution.cores() <= os.cpu_count()
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert execution.cores() == os.cpu_count()


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="the system does not say")
def test_the_memory_that_a_chapter_holds_is_that_of_its_kernel(tmp_path, library):
    hungry = {"two": "big = bytearray(300_000_000)\ndel big"}
    app, _, _ = build(tmp_path, chapters(tmp_path, **hungry), **EXECUTION)
    one, two = (app.env.course_runs[name]["peak_megabytes"] for name in ("one", "two"))
    assert 20 < one < 250 and 290 < two - one < 330
    again, _, _ = build(tmp_path, {}, **EXECUTION)
    assert again.env.course_runs == app.env.course_runs, "kept with the results"


def test_only_chapters_that_import_what_has_changed_run_again(tmp_path, library):
    build(tmp_path, chapters(tmp_path, one=IMPORTS), **EXECUTION)
    (library / "course_lib" / "topic.py").write_text("x = 2\n")
    build(tmp_path, {}, **EXECUTION)
    assert log(tmp_path) == ["one", "one", "two"]
    build(tmp_path, {}, **EXECUTION)
    assert len(log(tmp_path)) == 3


def test_a_chapter_that_raises_stops_the_build(tmp_path, library):
    options = EXECUTION | {"nb_execution_cache_path": str(tmp_path / "cache")}
    for _ in range(2):  # a failure must not be remembered as a result
        with pytest.raises(Exception, match="two.md"):
            build(tmp_path, chapters(tmp_path, two="raise RuntimeError('on purpose')"), **options)


def test_results_depend_on_what_the_code_imports_and_on_the_studies_that_are_named(library):
    files = {
        "course_lib/topic.py": "from course_lib.room import draw\n",
        "course_lib/room.py": "def draw():\n    from course_lib import deep\n",
        "course_lib/deep.py": 'study("sweep")\n',
        "course_lib/other.py": "",
        "benchmarks/sweep.json": "{}",
        "benchmarks/unread.json": "{}",
    }
    for name, text in files.items():
        (library / name).parent.mkdir(exist_ok=True)
        (library / name).write_text(text)
    code = "import torch\nfrom course_lib.topic import f\n"
    before = execution.state(code)
    for name in files:
        (library / name).write_text(files[name] + " ")
        changed = execution.state(code) != before
        assert changed == (name not in {"course_lib/other.py", "benchmarks/unread.json"}), name
        (library / name).write_text(files[name])
    assert execution.state(code + "# and a word") == before, "the cache compares cells itself"


@pytest.mark.parametrize("code", ["import importlib\nimportlib.import_module(name)", "%timeit f()"])
def test_code_whose_imports_are_not_known_depends_on_everything(library, code):
    before = execution.state(code)
    (library / "tests").mkdir()
    (library / "tests" / "test_topic.py").write_text("MUTANTS = {}")
    assert execution.state(code) != before


# -- finish

THEME = (
    '<meta name="viewport" content="width=device-width, initial-scale=1.0" />'
    '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
    '<script src="../_static/scripts/fontawesome.js?digest=1"></script>'
    "<script>let twice = 1;</script><script>let once = 2;</script><script>let twice = 1;</script>"
    '<summary aria-label="Toggle hidden content">Show</summary>'
    '<div class="citation" id="id1" role="doc-biblioentry"></div><section id="proof-content">'
)


def test_finish_mends_what_the_theme_writes_and_does_so_once():
    page = finish.finish(THEME)
    assert "fontawesome.js" not in page and page.count("let twice") == page.count("let once") == 1
    assert page.count("viewport") == 1 and "aria-label" not in page and "role=" not in page
    assert "proof-content" not in page
    assert finish.finish(page) == page


def test_only_long_words_of_code_may_break():
    marked = finish.finish('<span class="pre">--from</span> <span class="pre">benchmarks/tangent_prop_mnist.py</span>')
    assert marked == '<span class="pre">--from</span> <span class="pre long">benchmarks/tangent_prop_mnist.py</span>'


def test_parameters_of_a_signature_are_lines_and_true_definitions_stay():
    signature = "(<dl>\n<dd><em>x</em>,</dd>\n<dd><em>y</em></dd>\n</dl>\n)"
    line = '<span class="course-parameter">'
    assert finish.finish(signature) == f"({line}<em>x</em>,</span>\n{line}<em>y</em></span>\n)"
    assert finish.finish("<dl><dt>a</dt><dd>b</dd></dl>") == "<dl><dt>a</dt><dd>b</dd></dl>"


def test_finish_links_what_the_page_uses():
    head = '<link href="../_static/proof.css?v=1" rel="stylesheet"/><script src="../_static/copybutton.js"></script>'
    assert finish.finish(f"{head}<body>plain") == "<body>plain"
    assert "proof.css" in finish.finish(f'{head}<body><div class="proof theorem">')
    script = finish.finish(f'{head}<body><div class="highlight">').partition("<body")[0]
    assert script == '<script defer src="../_static/copybutton.js"></script>'


def test_light_or_dark_is_chosen_before_anything_is_drawn():
    line = 'document.documentElement.dataset.theme = localStorage.getItem("theme") || "auto";'
    page = finish.finish(f'<html lang="en" data-theme="auto"><script>{line}</script>')
    assert 'data-theme="light"' in page and "prefers-color-scheme" in page and '"auto"' not in page


CODE = (
    '<div class="highlight"><pre><span></span><span class="n">a</span><span class="w"> </span><span class="o">=</span>'
)
CODE += '<span class="p">(</span><span class="mi">1</span></pre></div><span class="n">b</span>'


def test_code_keeps_the_marks_that_colour_it():
    left = '<div class="highlight"><pre>a <span class="o">=</span>(<span class="mi">1</span></pre></div>'
    assert finish.plain_code(CODE) == f'{left}<span class="n">b</span>'


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_is_not_marked_has_the_colour_of_the_code_around_it(scheme):
    options = yaml.safe_load((ROOT / "_config.yml").read_text())["sphinx"]["config"]["html_theme_options"]
    style = HtmlFormatter(style=options[f"pygments_{scheme}_style"])
    around = re.search(r"^\.x \{.*color: (#\w+)", style.get_style_defs(".x"), flags=re.M)[1]
    for name in finish.UNCOLOURED:
        rule = re.search(rf"^\.x \.{name} \{{ *(.*?) *\}}", style.get_style_defs(".x"), flags=re.M)
        assert rule is None or rule[1].lower() == f"color: {around}".lower(), name


# -- drawings


def drawing(prefix: str, *letters: str) -> str:
    outlines = "".join(f'<path id="{prefix}-Sans-{one}" d="M{one}"/>' for one in letters)
    shown = "".join(f'<use href="#{prefix}-Sans-{one}"/>' for one in letters)
    clip = f'<clipPath id="{prefix}-p1"/><path clip-path="url(#{prefix}-p1)"/>'
    return (
        f'<svg viewBox="0 0 3 2"><defs>{outlines}</defs><g><g/><g style="x">{shown}<g class="y"/></g></g>{clip}</svg>'
    )


def figure(prefix: str, *letters: str) -> str:
    return f'<div class="course-figure" role="img" aria-label="About it.">{drawing(prefix, *letters)}</div>'


def slider(prefix: str) -> str:
    pieces = [f'<svg viewBox="0 0 1 1"><path id="{prefix}-Sans-9" d="M9"/>', f'<use href="#{prefix}-Sans-9"/></svg>']
    data = {"texts": [["a", "</b"]], "alts": ["x", "y"], "pieces": pieces, "frames": [[0, 1], [0, 1]]}
    stored = json.dumps(data, separators=(",", ":")).replace("</", "<\\/")
    return (
        f'<course-explore role="group">{figure(prefix, "1")}'
        f'<script type="application/json">{stored}</script></course-explore>'
    )


def test_letters_are_in_a_page_once_and_a_drawing_can_be_made_whole_again():
    page = f"<p>{figure('c11111111', '1', '2')}</p>{figure('c22222222', '2', '3')}"
    light, files = drawings.lightened(page)
    assert not files and [light.count(f'<path id="Sans-{one}" d="M{one}"/>') for one in "123"] == [1, 1, 1]
    assert light.count('href="#Sans-2"') == 2 and "url(#c22222222-p1)" in light and "<g>" not in light
    assert light.index("course-letters") < light.index("course-figure") and light.count("<svg") == light.count("</svg")
    assert light.count("<g style") == light.count("</g>") == 2 and "<g/>" not in light and "-Sans" not in light
    assert light.count('aria-label="About it." style="aspect-ratio:3/2"><svg viewBox="0 0 3 2">') == 2
    assert drawings.lightened(light) == (light, {})
    second = drawings.DRAWING.findall(light)[-1]
    made = drawings.whole(second, drawings.letters_of(light))
    assert 'id="Sans-2"' in made and 'id="Sans-3"' in made and 'id="Sans-1"' not in made
    assert drawings.lightened("<p>text</p>") == ("<p>text</p>", {})


def test_one_letter_with_two_outlines_is_refused():
    page = figure("c11111111", "1") + figure("c22222222", "1").replace("M1", "M2")
    with pytest.raises(ValueError, match="two outlines of Sans-1"):
        drawings.lightened(page)


def test_frames_leave_the_page_with_all_that_only_a_move_needs():
    light, files = drawings.lightened(slider("c11111111") + figure("c22222222", "1"), "../_frames")
    ((name, text),) = files.items()
    assert f'<course-explore data-frames="../_frames/{name}" role="group">' in light
    assert json.loads(re.search(r"json\">(.*?)</script>", light)[1]) == {"texts": [["a", "</b"]]}
    data = json.loads(text.partition('"] = ')[2].removesuffix(";\n"))
    assert data["alts"] == ["x", "y"] and len(data["frames"]) == 2 and f'["{name.removesuffix(".js")}"]' in text
    assert data["pieces"] == ['<svg viewBox="0 0 1 1">', '<use href="#Sans-9"/></svg>']
    assert drawings.letters_of(light).keys() == {"Sans-1", "Sans-9"}, "those of all frames"


def test_frames_that_no_page_asks_for_any_more_are_deleted(tmp_path):
    app = SimpleNamespace(outdir=tmp_path, builder=SimpleNamespace(format="html"))
    page = tmp_path / "book" / "page.html"
    page.parent.mkdir()
    for prefix in ("c11111111", "c11111111", "c22222222"):
        page.write_text(slider(prefix).replace('"y"', f'"{prefix}"'))
        drawings.lighten(app, None)
        drawings.lighten(app, None)  # a later build leaves the page as it is
        (one,) = (tmp_path / "_frames").iterdir()
        assert f"../_frames/{one.name}" in page.read_text() and prefix in one.read_text()


# -- trim

CSS = (
    '@charset "UTF-8";\n/*! by A, B; [MIT] */'
    ".used,.unused{a:b}.used .unused{c:d}.used:not(.unused){e:f}@media print{.unused{g:h}}"
    "@media screen{.used{i:j}}@keyframes spin{0%{k:l}to{m:n}}.bs-x{o:p}a>b:is(p,.q){q:r}"
    '@font-face{s:t}.fa-bars:before,.fa-navicon:before{content:"\\f0c9"}.fa-ghost:before{content:"\\f6e2"}'
    'a{--i:"\uf0f3"}'
)


def test_the_style_sheet_keeps_the_rules_of_mentioned_classes():
    kept = trim.used_rules(CSS, {"used", "fa-navicon"})
    assert kept == (
        '@charset "UTF-8";\n/*! by A, B; [MIT] */'
        ".used{a:b}.used:not(.unused){e:f}@media screen{.used{i:j}}@keyframes spin{0%{k:l}to{m:n}}.bs-x{o:p}"
        'a>b:is(p,.q){q:r}@font-face{s:t}.fa-navicon:before{content:"\\f0c9"}a{--i:"\uf0f3"}'
    )
    assert trim.icon_codes(kept) == {0xF0C9, 0xF0F3}


def test_a_style_sheet_of_which_everything_is_mentioned_stays_as_it_is():
    css = (trim.THEME / trim.SHEET).read_text(encoding="utf-8")

    class Everything(set):
        def __contains__(self, word):
            return True

    assert trim.used_rules(css, Everything()) == css[: css.rindex("}") + 1]


def test_the_trimmed_font_has_the_icons_and_is_small(tmp_path):
    from fontTools.ttLib import TTFont

    target = tmp_path / "solid.woff"
    trim.trim_font(trim.THEME / trim.ICONS / "fa-solid-900.ttf", {0xF0C9, 0xF0F3}, target)
    assert set(TTFont(target).getBestCmap()) == {0xF0C9, 0xF0F3} and target.stat().st_size < 3000


def test_typefaces_that_no_rule_asks_for_go():
    a, b = "@font-face{font-family:A;src:url(x)}", "@font-face{font-family:B\\ c;src:url(y)}"
    assert trim.used_faces(f"{a}{b}p{{font:1em B\\ c,serif}}") == f"{b}p{{font:1em B\\ c,serif}}"


def test_fonts_of_formulas_hold_what_pages_show(tmp_path):
    from fontTools.ttLib import TTFont

    (tmp_path / "index.html").write_text("a + λ", encoding="utf-8")
    trim.trim_fonts(tmp_path, "")
    fonts = tmp_path / "_static" / trim.KATEX_SERVED
    assert set(TTFont(fonts / "KaTeX_Main-Regular.woff").getBestCmap()) == {ord("a"), ord("+"), ord(" ")}
    assert set(TTFont(fonts / "KaTeX_Math-Italic.woff").getBestCmap()) >= {ord("a"), ord("λ")}


def test_a_raw_node_is_written_as_it_is():
    from reading_room import folds

    assert isinstance(folds.raw("<b>"), nodes.raw) and folds.raw("<b>").astext() == "<b>"


# -- bundle


@pytest.fixture
def site(tmp_path):
    """A site of one page, with sheets, scripts and a font."""
    static = tmp_path / "site" / "_static"
    (static / "vendor").mkdir(parents=True)
    (static / "a.css").write_text('@charset "UTF-8";@import "vendor/b.css";/* why */.a{x:url(c.png)}.unused{y:z}')
    (static / "vendor" / "b.css").write_text("b{y:url('../d.png?v=1');z:url(data:e);f:url(f.woff)}")
    (static / "vendor" / "f.woff").write_bytes(b"font")
    (static / "one.js").write_text('"use strict";let one = 1')
    (static / "two.js").write_text("let two = one + 1 // end")
    (static / "documentation_options.js").write_text("const DOCUMENTATION_OPTIONS = {};")
    page = tmp_path / "site" / "book" / "page.html"
    page.parent.mkdir()
    page.write_text(
        '<html><link rel="stylesheet" href="../_static/a.css?v=1" />\n<link href="../_static/vendor/b.css" '
        'rel="stylesheet"><link rel="preload" as="script" href="../_static/two.js"/>'
        '<script src="../_static/documentation_options.js"></script>'
        '<script defer src="../_static/one.js?v=1"></script><script>inline()</script><body class="a">'
        '<script defer src="../_static/two.js"></script><script src="elsewhere.js"></script></body></html>'
    )
    return page


def bundled(page):
    """Bundle the site as the end of a build does; return the page's text, its sheet and its script."""
    folder = page.parents[1]
    bundle.bundle(SimpleNamespace(outdir=folder, builder=SimpleNamespace(format="html")), None)
    (sheet,), (script,) = ((folder / "_static").glob(f"bundle-*.{ending}") for ending in ("css", "js"))
    return page.read_text(), sheet, script


def test_sheets_become_one_whose_addresses_hold_and_whose_small_fonts_travel_within(site):
    text, sheet, _ = bundled(site)
    b = "b{y:url(d.png?v=1);z:url(data:e);f:url(data:font/woff;base64,Zm9udA==)}"
    assert sheet.read_text().replace("\n", "") == f"{b}.a{{x:url(c.png)}}{b}" and text.count("stylesheet") == 1
    assert f'href="../_static/{sheet.name}?v=' in text and 'data-sheets="a.css vendor/b.css"' in text


def test_scripts_become_one_in_their_order_and_what_the_page_asks_at_once_stands_in_it(site):
    text, _, script = bundled(site)
    assert script.read_text() == ';"use strict";let one = 1\n;let two = one + 1 // end'
    assert f'<script defer src="../_static/{script.name}?v=' in text and 'data-scripts="one.js two.js"' in text
    assert text.count("<script") == 4 and "preload" not in text and "elsewhere.js" in text
    assert text.index("DOCUMENTATION_OPTIONS") < text.index("inline()")


def test_what_a_page_can_be_read_without_comes_later_and_all_of_it_is_named_for_the_next_build(site, monkeypatch):
    monkeypatch.setattr(bundle, "LATE", ("one.js",))
    bundle.bundle(SimpleNamespace(outdir=site.parents[1], builder=SimpleNamespace(format="html")), None)
    text, static = site.read_text(), site.parents[1] / "_static"
    source, names, late = re.search(r'src="([^"]*)" data-scripts="([^"]*)" data-late="([^"]*)"', text).groups()
    read = [(site.parent / place.partition("?")[0]).read_text() for place in (source, late)]
    assert read == [";let two = one + 1 // end", ';"use strict";let one = 1'] and names == "one.js two.js"
    assert len(list(static.glob("bundle-*.js"))) == 2 and text.count("<script") == 4
    before = text
    bundle.bundle(SimpleNamespace(outdir=site.parents[1], builder=SimpleNamespace(format="html")), None)
    assert site.read_text() == before


def test_what_is_to_be_mended_in_a_script_has_to_be_there(tmp_path, monkeypatch):
    monkeypatch.setattr(bundle, "MENDED", {"a.js": {"slow()": "fast()"}})
    (tmp_path / "a.js").write_text("slow(); rest")
    assert bundle.mended("a.js", tmp_path) == "fast(); rest"
    (tmp_path / "a.js").write_text("other()")
    with pytest.raises(ValueError, match="wanted one 'slow\\(\\)' in a.js, got 0; look at MENDED"):
        bundle.mended("a.js", tmp_path)


def test_bundles_of_a_page_that_was_not_written_again_are_made_anew(site):
    before, _, _ = bundled(site)
    assert bundled(site)[0] == before
    (site.parents[1] / "_static" / "a.css").write_text(".a{p:q}")
    (site.parents[1] / "_static" / "two.js").write_text("let two")
    text, sheet, script = bundled(site)
    assert sheet.read_text().startswith(".a{p:q}") and script.read_text().endswith(";let two") and text != before


def test_a_sheet_from_elsewhere_stays():
    elsewhere = '<link rel="stylesheet" href="other/a.css">'
    assert bundle.one_link(elsewhere, ROOT) == elsewhere
