"""Say at the top of a chapter how long it takes and how hard it is, and let it leave the page as a notebook."""

import math
from pathlib import Path

from docutils import nodes

from course_lib.layout import topics
from reading_room import notebooks

WORDS, SECONDS_A_FORMULA, SECONDS_A_PICTURE = 180, 12, 20  # words a minute; what else takes a reader's time
LEVELS = {1: "a first course", 2: "some practice needed", 3: "demanding"}


def minutes(document: nodes.document) -> int:
    """Return how long the text takes to read: words, displayed formulas and pictures; code is not counted."""
    words = 0
    for text in document.findall(nodes.Text):
        place = text.parent
        while place is not None and not isinstance(place, nodes.FixedTextElement | nodes.math_block | nodes.raw):
            place = place.parent
        if place is None:
            words += len(text.split())
    formulas = len(list(document.findall(nodes.math_block)))
    pictures = len(list(document.findall(nodes.figure)))
    return math.ceil(words / WORDS + (formulas * SECONDS_A_FORMULA + pictures * SECONDS_A_PICTURE) / 60)


def difficulty(level: object) -> str:
    """Return the level (1, 2 or 3) as dots for the eye and as words for everyone; nothing where none is given."""
    if level in (None, ""):
        return ""
    level = int(level)
    if level not in LEVELS:
        raise ValueError(f"difficulty in a chapter's first lines is 1, 2 or 3, got {level}")
    dots = f'<span aria-hidden="true">{"●" * level}{"○" * (3 - level)}</span>'
    return f"{dots} {LEVELS[level]}"


def measure(app, document):
    """Keep how long a page takes to read; the map of the course says it, too."""
    app.env.metadata[app.env.docname]["course_minutes"] = minutes(document)


def open_chapter(app, document, docname):
    """Add the line and the buttons below a chapter's title, and the exercise's buttons where it speaks of it."""
    topic = docname.rpartition("/")[2]
    if app.builder.format != "html" or topic not in topics(Path(app.srcdir)) or not document.children:
        return
    here = "../" * docname.count("/")
    time = app.env.metadata[docname]["course_minutes"]
    about = [f"{time} minute{'s' * (time > 1)} to read", difficulty(app.env.metadata[docname].get("difficulty"))]
    line = " · ".join(filter(None, about))
    links = notebooks.links(app, "chapter", topic, here)
    insert_below_title(document, f'<div class="course-opening"><p>{line}</p><p class="course-links">{links}</p></div>')
    for section in document.findall(nodes.section):
        exercise = notebooks.links(app, "exercise", topic, here)
        if exercise and section[0].astext() == "Exercises":
            section += nodes.raw("", f'<p class="course-links">{exercise}</p>', format="html")


def insert_below_title(document: nodes.document, text: str):
    """Put HTML below the page's title."""
    title = next(iter(document.findall(nodes.title)))
    title.parent.insert(title.parent.index(title) + 1, nodes.raw("", text, format="html"))


def setup(app):
    """Connect when a page's references are resolved."""
    app.connect("doctree-read", measure)
    app.connect("doctree-resolved", open_chapter)
    return {"parallel_read_safe": True}
