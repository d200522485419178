"""Make the site ready for the world: a page for wrong addresses, a sitemap, cards for shared links, a status.

Addresses are those of GitHub Pages for ``course_repository``. While that is empty nobody knows where the site will
be, so what needs a full address (sitemap, the cards' pictures) is left out.
"""

import html
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from urllib.parse import urlsplit

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from reading_room import notebooks

CARDS = "_static/cards"
VERSIONS = ("torch", "numpy", "matplotlib", "scikit-learn", "sphinx", "jupyter-book", "myst-nb")


def address(config) -> str:
    """Return where the site will be, with a slash at its end, or nothing."""
    name, _ = notebooks.repository(config)
    owner, _, project = name.partition("/")
    return f"https://{owner.lower()}.github.io/{project}/" if name else ""


def describe(app, pagename, templatename, context, doctree):
    """Say in a page's head what it is, for search engines and for links that are shared."""
    if doctree is None:
        return
    title = app.env.titles[pagename].astext()
    first = next((text for text in map(nodes.Element.astext, doctree.findall(nodes.paragraph)) if len(text) > 60), "")
    about = " ".join(first.split())
    about = about if len(about) <= 200 else about[:200].rpartition(" ")[0] + " …"
    tags = {"og:type": "article", "og:title": title, "og:site_name": app.config.project, "og:description": about}
    if base := address(app.config):
        picture = f"{base}{CARDS}/{pagename.replace('/', '-')}.png"
        tags |= {"og:url": f"{base}{pagename}.html", "og:image": picture, "twitter:card": "summary_large_image"}
        app.course_cards[pagename] = title
    written = [f'<meta property="{name}" content="{html.escape(text)}" />' for name, text in tags.items() if text]
    if about:
        written.append(f'<meta name="description" content="{html.escape(about)}" />')
    context["metatags"] = context.get("metatags", "") + "".join(written)


def draw_card(title: str, course: str, target: Path):
    """Draw the picture that stands beside a shared link, 1200 by 630 pixels.

    Args:
        title: the page's title, written large.
        course: the course's title, written below.
        target: the PNG to write.
    """
    import textwrap

    import matplotlib.pyplot as plt
    import numpy as np

    from course_lib import figures

    with figures.style_context():
        fig = plt.figure(figsize=(12, 6.3), layout="none")
        ax = fig.add_axes((0, 0, 1, 1))
        ax.set(xlim=(0, 12), ylim=(0, 6.3))
        ax.axis("off")
        angles = np.linspace(0, 2 * np.pi, 200)
        for size, name in zip((3.4, 2.6, 1.8, 1.0), ("plain", "penalty", "data", "symmetry"), strict=True):
            color, power = figures.COLORS[name], 2 - 0.35 * (3.4 - size)  # level sets, from a circle towards a diamond
            x, y = np.cos(angles), np.sin(angles)
            radius = size / (np.abs(x) ** power + np.abs(y) ** power) ** (1 / power)
            ax.plot(10.2 + radius * x, 3.15 + radius * y, color=color, linewidth=6)
        ax.text(0.7, 3.6, textwrap.fill(title, 22), fontsize=44, weight="bold", va="center")
        ax.text(0.7, 0.8, course, fontsize=20, color=figures.COLORS["plain"])
        target.parent.mkdir(parents=True, exist_ok=True)
        fig.savefig(target, dpi=100, metadata={"Software": None})
        plt.close(fig)


def finish(app, error):
    """Write what stands beside the pages."""
    if error or app.builder.format != "html":
        return
    site, base = Path(app.outdir), address(app.config)
    (site / "404.html").write_text(lost(app, base), encoding="utf-8")
    (site / ".nojekyll").touch()
    if base:
        for pagename, title in app.course_cards.items():
            draw_card(title, app.config.project, site / CARDS / f"{pagename.replace('/', '-')}.png")
        places = "".join(f"<url><loc>{base}{name}.html</loc></url>" for name in sorted(app.env.found_docs))
        (site / "sitemap.xml").write_text(
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{places}</urlset>\n'
        )
        (site / "robots.txt").write_text(f"User-agent: *\nAllow: /\nSitemap: {base}sitemap.xml\n")


def lost(app, base: str) -> str:
    """Return the page for wrong addresses; it is shown at any depth, so it needs no other file."""
    root, titles = urlsplit(base).path or "/", app.env.titles
    links = "".join(
        f'<li><a href="{root}{name}.html">{html.escape(titles[name].astext())}</a></li>'
        for name in app.env.toctree_includes.get(app.config.root_doc, [])
    )
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>No such page</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="robots" content="noindex">'
        "<style>:root{color-scheme:light dark}body{max-width:36rem;margin:4rem auto;padding:0 1rem;"
        "font:1rem/1.6 system-ui,sans-serif}</style></head><body><main><h1>No such page</h1>"
        f'<p>The address may be old. <a href="{root}{app.config.root_doc}.html">The course begins here</a>, and '
        f'<a href="{root}search.html">its search</a> finds what has moved.</p><ul>{links}</ul></main></body></html>\n'
    )


class course_status(nodes.General, nodes.Element):
    """The place of the status, until all pages have been read."""


class CourseStatus(SphinxDirective):
    """The directive ``course-status``: what each page took to compute, and with what."""

    def run(self):
        """Leave a place."""
        self.env.course_status_pages = {*getattr(self.env, "course_status_pages", ()), self.env.docname}
        return [course_status()]


def report(app, document, docname):
    """Put the tables in the place that was left for them."""
    for place in list(document.findall(course_status)):
        place.replace_self(nodes.raw("", status(app, docname), format="html") if app.builder.format == "html" else [])


def status(app, docname: str) -> str:
    """Return the status as HTML."""
    rows = []
    for name, known in sorted(getattr(app.env, "nb_metadata", {}).items()):
        if done := known.get("exec_data"):
            title, way = html.escape(app.env.titles[name].astext()), app.builder.get_relative_uri(docname, name)
            state = "done" if done["succeeded"] else "failed"
            memory = getattr(app.env, "course_runs", {}).get(name, {}).get("peak_megabytes") or "–"
            rows.append((f'<a href="{way}">{title}</a>', f"{done['runtime'] or 0:.1f}", memory, state))
    versions = [("Python", python_version()), *((name, version(name)) for name in VERSIONS)]
    cost = "What the cells of each page took: time, and the most memory that the kernel held"
    return _table(cost, ("page", "seconds", "megabytes", "state"), rows) + _table(
        "What they ran with", ("package", "version"), versions
    )


def _table(caption: str, columns: tuple, rows: list[tuple]) -> str:
    head = "".join(f'<th scope="col">{column}</th>' for column in columns)
    body = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>' for first, *rest in rows
    )
    return (
        f'<div class="course-table" role="region" aria-label="{caption}" tabindex="0"><table><caption><span>{caption}.'
        f"</span></caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def again(app, env):
    """Have the status written anew whenever anything was read."""
    return [docname for docname in getattr(env, "course_status_pages", ()) if docname in env.found_docs]


def start(app):
    """Begin an empty list of cards."""
    app.course_cards = {}


def setup(app):
    """Connect to each page and to the end."""
    app.add_node(course_status)
    app.add_directive("course-status", CourseStatus)
    app.connect("builder-inited", start)
    app.connect("html-page-context", describe)
    app.connect("doctree-resolved", report)
    app.connect("env-updated", again)
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True}
