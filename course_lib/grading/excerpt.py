"""Cut out of a module the smallest part that still defines a name: the definition and all that it leans on."""

import ast
from collections.abc import Iterable


def excerpt(source: str, names: Iterable[str]) -> str:
    r"""The top-level statements of a module that some names need, in their order.

    Args:
        source: the module's text.
        names: names that the module defines or imports at top level; others (builtins, say) are passed over.

    Returns:
        Python text: the imports, assignments, functions and classes reachable from the names, and nothing else.

    >>> print(excerpt("import math, os\nA = 2\nB = 3\ndef f(x):\n    return math.sqrt(A * x)", ["f"]))
    import math
    A = 2
    def f(x):
        return math.sqrt(A * x)
    """
    tree = ast.parse(source)
    needed, waiting = set(), set(names)
    while waiting:
        needed |= waiting
        reached = [node for node in tree.body if _defines(node) & waiting and not _is_import(node)]
        waiting = {name for node in reached for name in _mentions(node)} - needed
    kept = (_kept(node, needed, source) for node in tree.body)
    return "\n".join(text for text in kept if text)


def mentioned(expression: str) -> set[str]:
    """The names that an expression reads."""
    return _mentions(ast.parse(expression))


def _is_import(node: ast.stmt) -> bool:
    return isinstance(node, (ast.Import, ast.ImportFrom))


def _defines(node: ast.stmt) -> set[str]:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return {node.name}
    if _is_import(node):
        return {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return {part.id for target in targets if target for part in ast.walk(target) if isinstance(part, ast.Name)}


def _mentions(node: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


def _kept(node: ast.stmt, needed: set[str], source: str) -> str:
    if not _defines(node) & needed:
        return ""
    if _is_import(node):
        node.names = [alias for alias in node.names if (alias.asname or alias.name).partition(".")[0] in needed]
        return ast.unparse(node)
    decorators = getattr(node, "decorator_list", [])
    first = min([node.lineno, *(decorator.lineno for decorator in decorators)])
    return "\n".join(source.splitlines()[first - 1 : node.end_lineno])
