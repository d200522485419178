"""Fold what has the class ``dropdown`` (proofs, hints, solutions) with HTML's own ``<details>``.

No script, no jump while the page loads, and it opens by keyboard and where scripts are off.
"""

import html

from docutils import nodes
from sphinx.transforms.post_transforms import SphinxPostTransform


class Fold(SphinxPostTransform):
    """Wrap each such box into ``<details>`` whose summary is the box's title."""

    default_priority = 950  # after extensions have given their boxes titles and numbers
    formats = ("html",)

    def run(self, **kwargs):
        """Wrap the boxes of one page."""
        for node in list(self.document.findall(nodes.Element)):
            if "dropdown" not in node.get("classes", []):
                continue
            node["classes"].remove("dropdown")
            title = html.escape(take_title(node))
            place = node.parent.index(node)
            node.parent.insert(place, raw(f'<details class="course-fold"><summary>{title}</summary>'))
            node.parent.insert(place + 2, raw("</details>"))


def take_title(node) -> str:
    """Return the box's title; sphinx-proof writes that of a proof into its first line, from where it is taken."""
    if "proof" in node["classes"] and isinstance(node, nodes.admonition):
        first = next(iter(node.findall(nodes.Text)), None)
        if first is not None and first.startswith("Proof. "):
            first.parent.replace(first, nodes.Text(first[len("Proof. ") :]))
        return "Proof"
    title = next((child.astext().strip(" ()") for child in node.children if isinstance(child, nodes.title)), "")
    kind = node.get("realtype", "").title()
    return ": ".join(filter(None, [kind, title])) or node.tagname.removesuffix("_node").title()


def raw(text: str) -> nodes.raw:
    """Return a node that is written as it is."""
    return nodes.raw("", text, format="html")


def setup(app):
    """Register the transform."""
    app.add_post_transform(Fold)
    return {"parallel_read_safe": True}
