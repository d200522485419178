"""Import Jupyter's packages without the grammar that jsonschema loads to check IRIs, which takes 1.7 s."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

_GRAMMAR = "rfc3987_syntax"


@contextlib.contextmanager
def without_iri_grammar() -> Iterator[None]:
    """Let imports in a with-block believe that jsonschema's optional IRI checker is not installed.

    nbformat and jupyter_events import jsonschema, and nothing in a notebook is an IRI to check.
    """
    hidden = _GRAMMAR not in sys.modules
    if hidden:
        sys.modules[_GRAMMAR] = None  # type: ignore[assignment]  # the import system's own way to say "absent"
    try:
        yield
    finally:
        if hidden:
            sys.modules.pop(_GRAMMAR, None)
