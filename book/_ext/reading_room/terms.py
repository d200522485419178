"""Give pages the definitions of the glossary's terms that they link to, for ``preview.js`` to show.

A definition stands at the end of the page in a ``<template>``, which is not drawn, read out or searched; from another
page it could not be fetched where there is no server.
"""

from docutils import nodes
from sphinx import addnodes


def definitions(app) -> dict[tuple[str, str], nodes.definition]:
    """Return all definitions, by page and anchor."""
    env, found = app.env, {}
    for docname in glossaries(env):
        for item in env.get_doctree(docname).findall(nodes.definition_list_item):
            for name in (name for term in item.findall(nodes.term) for name in term["ids"]):
                found[docname, name] = next(iter(item.findall(nodes.definition)))
    return found


def glossaries(env) -> set[str]:
    """Return the pages that define terms."""
    objects = env.domaindata["std"]["objects"]
    return {docname for (kind, _), (docname, _) in objects.items() if kind == "term"}


def note(app, document):
    """Keep which pages speak of terms."""
    pages = getattr(app.env, "course_term_pages", set()) - {app.env.docname}
    speaks = any(link.get("reftype") == "term" for link in document.findall(addnodes.pending_xref))
    app.env.course_term_pages = pages | ({app.env.docname} if speaks else set())


def again(app, env, docnames):
    """Read the pages that speak of terms again when a glossary is read."""
    if glossaries(env) & set(docnames):
        pages = getattr(env, "course_term_pages", set()) & env.found_docs
        docnames.extend(sorted(pages - set(docnames)))


def add(app, document, docname):
    """Put the definitions behind the page's text."""
    if app.builder.format != "html" or docname not in getattr(app.env, "course_term_pages", ()):
        return
    links = {link["refuri"] for link in document.findall(nodes.reference) if "#term-" in link.get("refuri", "")}
    for (page, name), definition in definitions(app).items():
        if page != docname and f"{app.builder.get_relative_uri(docname, page)}#{name}" in links:
            document += nodes.raw("", f'<template id="preview-{name}">', format="html")
            document.extend(plain(definition).children)
            document += nodes.raw("", "</template>", format="html")


def plain(definition: nodes.definition) -> nodes.definition:
    """Return a copy without links and ids."""
    copy = definition.deepcopy()
    for link in list(copy.findall(addnodes.pending_xref)):
        link.replace_self(link.children)
    for element in copy.findall(nodes.Element):
        element["ids"], element["names"] = [], []
    return copy


def setup(app):
    """Connect when a page is read and when it is written."""
    app.connect("doctree-read", note)
    app.connect("env-before-read-docs", again, priority=100)
    app.connect("doctree-resolved", add)
    return {"parallel_read_safe": True}
