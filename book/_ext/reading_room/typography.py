"""Set numbers and formulas so that no line break parts what belongs together.

Numbers that runs hand to the text come as computers write them: 3e-07, -0.1. A formula is a box to the browser, which
would break the line between it and the comma that follows.
"""

import re

from docutils import nodes
from sphinx.transforms.post_transforms import SphinxPostTransform

from course_lib.figures import kept_together, set_numbers

AFTER = re.compile(r"[.,;:!?)\]’”]+|-\w+")
BEFORE = re.compile(r"[(\[“‘]+$")
LONG = 36  # characters of TeX: too wide for a phone unless it breaks
LITERAL = (nodes.literal, nodes.math, nodes.FixedTextElement)


class Typography(SphinxPostTransform):
    """Mend the text of one page."""

    default_priority = 940  # after the numbers of the runs stand in the text
    formats = ("html",)

    def run(self, **kwargs):
        """Glue formulas to the marks around them, then write numbers as in print."""
        for formula in list(self.document.findall(nodes.math)):
            glue(formula)
        for parent in list(self.document.findall(nodes.Element)):
            if not is_code(parent):
                set_texts(parent)


def glue(formula):
    """Put a formula and the marks right before and after it into one element, which course.css keeps together."""
    parent, place = formula.parent, formula.parent.index(formula)
    before, after = parent.children[place - 1] if place else None, (*parent.children[place + 1 :], None)[0]
    opened = BEFORE.search(before) if isinstance(before, nodes.Text) else None
    closed = AFTER.match(after) if isinstance(after, nodes.Text) else None
    if not opened and not closed:
        return
    breaks = ["course-breaks"] if len(formula.astext()) > LONG else []
    glued = nodes.inline(classes=["course-glued", *breaks])
    parent[place] = glued
    # By place: docutils would look for a text by what it says, and equal ones may stand side by side.
    if opened:
        parent[place - 1] = nodes.Text(before[: opened.start()])
        glued += nodes.Text(opened[0])
    glued += formula
    if closed:
        parent[place + 1] = nodes.Text(after[closed.end() :])
        glued += nodes.Text(closed[0])


def set_texts(parent):
    """Write the numbers in an element's own texts as in print."""
    mend = set_numbers if "pasted-text" in parent.get("classes", []) else kept_together
    for place, child in enumerate(parent.children):
        if isinstance(child, nodes.Text):
            text = mend(child)
            if place:  # what stands before it may end in a number
                text = re.sub(r"^ (?=[%±])", "\N{NO-BREAK SPACE}", text)
            parent[place] = nodes.Text(text)


def is_code(node) -> bool:
    """Say whether a node stands in code, or is a formula."""
    while node is not None and not isinstance(node, LITERAL):
        node = node.parent
    return node is not None


def setup(app):
    """Register the transform."""
    app.add_post_transform(Typography)
    return {"parallel_read_safe": True}
