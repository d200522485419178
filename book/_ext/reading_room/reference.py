"""Write the reference of ``course_lib`` from its docstrings.

A page asks for it by a line such as ``% reference: topics`` (all topics of ``_toc.yml``, in reading order) or
``% reference: data training`` (these modules). The line becomes one section a module, so the page's own contents list
them. Signatures are taken from the source, in which shapes read as they were written.
"""

import ast
import functools
import importlib.util
import inspect
import re
from pathlib import Path

from sphinx import addnodes

from course_lib.layout import topics

LINE = re.compile(r"^% reference: *(.+)$", flags=re.M)
SECTION = """(module-{name})=
## {title}

```{{eval-rst}}
.. automodule:: course_lib.{name}
   :members:
   :member-order: bysource
```
"""


def modules(wanted: str, course: Path) -> list[str]:
    """Return the modules that a line asks for; topics without a module of their own are left out."""
    if wanted.strip() != "topics":
        return wanted.split()
    return [topic for topic in topics(course) if importlib.util.find_spec(f"course_lib.{topic}")]


def fill(app, docname, source):
    """Replace the lines that ask for modules, before the page is parsed."""
    course = Path(app.srcdir)

    def sections(line: re.Match) -> str:
        names = modules(line[1], course)
        for name in names:
            app.env.note_dependency(importlib.util.find_spec(f"course_lib.{name}").origin)
        return "\n".join(SECTION.format(name=name, title=f"`course_lib.{name}`") for name in names)

    if LINE.search(source[0]):
        app.env.note_dependency(str(course / "_toc.yml"))
        source[0] = LINE.sub(sections, source[0])


def written_signature(app, what, name, obj, options, signature, return_annotation):
    """Return parameters and result as they stand in the source, ``Float[Tensor, " n"]`` and all."""
    if what not in ("function", "method") or not (function := _definition(inspect.unwrap(obj))):
        return None
    arguments = ast.unparse(function.args)
    if what == "method":
        arguments = re.sub(r"^(self|cls)(, )?", "", arguments)
    return f"({arguments})", ast.unparse(function.returns) if function.returns else None


@functools.cache
def _definition(function) -> ast.FunctionDef | None:
    try:
        source = inspect.cleandoc("\n" + inspect.getsource(function))
        (node,) = ast.parse(source).body
    except (OSError, TypeError, SyntaxError, ValueError):
        return None
    return node if isinstance(node, ast.FunctionDef) else None


def prose(app, what, name, obj, options, lines):
    """Let bars be bars, and results be prose.

    In reStructuredText ``|x|`` would be a substitution; and Napoleon would take what stands before a colon in
    ``Returns`` for a type.
    """
    written, literal, result = [], None, False
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if literal is not None and line.strip() and indent <= literal:
            literal = None
        if literal is None:
            if line.strip() and indent == 0:
                result = False
            if line.rstrip() == "Returns:":
                result, line = True, ":returns:"
            if not line.lstrip().startswith((">>>", "...")):
                line = "``".join(part if i % 2 else part.replace("|", "\\|") for i, part in enumerate(line.split("``")))
            if line.rstrip().endswith("::") and not result:
                literal = indent
        written.append(line)
    lines[:] = written


def plain_types(app, env, node, contnode):
    """Set the types in signatures that nothing here describes (Tensor, Sequence, ...) as plain text."""
    place = node.parent
    while place is not None and not isinstance(place, addnodes.desc_signature):
        place = place.parent
    return contnode if place is not None and node.get("refdomain") == "py" else None


def skip(app, what, name, obj, skip, options):
    """Leave out the fields of named tuples: the class's own text and annotations describe them."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def setup(app):
    """Connect to reading and to autodoc."""
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("source-read", fill)
    app.connect("autodoc-process-signature", written_signature)
    app.connect("autodoc-process-docstring", prose, priority=100)  # before Napoleon
    app.connect("autodoc-skip-member", skip)
    app.connect("missing-reference", plain_types)
    return {"parallel_read_safe": True}
