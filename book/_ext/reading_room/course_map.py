"""Draw the map of the course, ``{course-map}``: its parts, chapters, and what each chapter leans on.

What a topic leans on is read off the imports of its module, and off the chapters that its own text links to; the
order is that of ``_toc.yml``. It is a nested list, which everyone can read and which grows with the course.
"""

import ast
import html
from pathlib import Path

import yaml
from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from course_lib.layout import topic_files, topics
from reading_room import opening


class course_map(nodes.General, nodes.Element):
    """The place of a map, until all titles are known."""


class CourseMap(SphinxDirective):
    """The directive ``course-map``; it has neither arguments nor content."""

    def run(self):
        """Leave a place."""
        maps = set(getattr(self.env, "course_maps", ()))
        self.env.course_maps = maps | {self.env.docname}
        return [course_map()]


def leans_on(course: Path) -> dict[str, list[str]]:
    """Return for each topic the earlier topics that its module imports or its chapter links to, in reading order."""
    known, found = topics(course), {}
    for place, topic in enumerate(known):
        files = topic_files(topic, course)
        text = files.chapter.read_text(encoding="utf-8") if files.chapter.is_file() else ""
        used = imported(files.module) if files.module.is_file() else set()
        found[topic] = [other for other in known[:place] if other in used or f"{{doc}}`{other}`" in text]
    return found


def imported(module: Path) -> set[str]:
    """Return the names of course_lib's modules that a module imports."""
    names = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "course_lib":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("course_lib."):
            names.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("course_lib.")}
    return names


def draw(app, document, docname):
    """Put the list in the place that was left for it."""
    for place in list(document.findall(course_map)):
        place.replace_self(nodes.raw("", markup(app, docname), format="html") if app.builder.format == "html" else [])


def markup(app, docname: str) -> str:
    """Return the map as HTML."""
    course, env = Path(app.srcdir), app.env
    leans = leans_on(course)
    docnames = {name.rpartition("/")[2]: name for name in env.titles}  # fewer than all where one page is built alone

    def link(topic: str) -> str:
        title = html.escape(env.titles[docnames[topic]].astext())
        return f'<a href="{app.builder.get_relative_uri(docname, docnames[topic])}">{title}</a>'

    def entry(topic: str) -> str:
        about = env.metadata[docnames[topic]]
        words = [f"{about['course_minutes']} min" if "course_minutes" in about else ""]
        words.append(opening.difficulty(about.get("difficulty")))
        earlier = [link(other) for other in leans[topic] if other in docnames]
        words.append("leans on " + ", ".join(earlier) if earlier else "")
        said = " · ".join(filter(None, words))
        return f"<li>{link(topic)}<span>{said}</span></li>"

    parts = yaml.safe_load((course / "_toc.yml").read_text(encoding="utf-8"))["parts"]
    written = []
    for part in parts:
        names = [Path(chapter["file"]).name for chapter in part["chapters"]]
        chosen = [name for name in names if name in leans and name in docnames]
        if chosen:
            entries = "".join(map(entry, chosen))
            written.append(f"<li><span>{html.escape(part['caption'])}</span><ol>{entries}</ol></li>")
    return f'<ul class="course-map">{"".join(written)}</ul>'


def again(app, env):
    """Have pages with a map written anew whenever anything was read, since titles and times may have changed."""
    return [docname for docname in getattr(env, "course_maps", ()) if docname in env.found_docs]


def setup(app):
    """Register the directive."""
    app.add_node(course_map)
    app.add_directive("course-map", CourseMap)
    app.connect("doctree-resolved", draw)
    app.connect("env-updated", again)
    return {"parallel_read_safe": True}
