"""Cut a task's probe out of the checks file, without its verify and without what only verify needs."""

from __future__ import annotations

import ast
from collections.abc import Iterable

from course_lib.grading.excerpt import excerpt


class ChecksError(ValueError):
    """A checks file or a source notebook breaks the contract between probe and verify."""


def probe_source(checks: str, task: str) -> str:
    """Give the text that travels into the student's kernel for one task.

    Args:
        checks: text of the checks file.
        task: name of the exercised function.

    Returns:
        The definition of `probe_<task>` and all it leans on; no comments, no docstrings, no verify.

    Raises:
        ChecksError: if the pair is incomplete, or the probe leans on a verify.
    """
    names = _functions(checks)
    missing = [name for name in (f"probe_{task}", f"verify_{task}") if name not in names]
    if missing:
        raise ChecksError(
            f"A check is a probe and a verify: wanted both for {task}, missing {', '.join(missing)}. "
            "Write it in the checks file, or correct the task's name in the source notebook."
        )
    source = ast.unparse(_without_docstrings(ast.parse(excerpt(checks, [f"probe_{task}"]))))
    leaked = sorted(name for name in _functions(source) if name.startswith("verify_"))
    if leaked:
        raise ChecksError(
            f"A probe travels into the student's kernel without any verify: probe_{task} reaches {leaked}. "
            "Move what both need into a function of its own."
        )
    return source


def _functions(source: str) -> set[str]:
    return {node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return tree


def graded_cells(function: str, cells: Iterable[str]) -> list[str]:
    """Name the graded cells of an exercised function: `test_<function>`, and `test_<function>_<part>` for parts of it.

    Args:
        function: its name. No other's in the notebook may begin with it and an underscore.
        cells: the names to choose from.

    >>> graded_cells("pool", ["pool", "test_pool", "test_lift", "test_pool_mean"])
    ['test_pool', 'test_pool_mean']
    """
    return [cell for cell in cells if f"{cell}_".startswith(f"test_{function}_")]


def hidden_task(source: str, topic: str) -> tuple[str, str] | None:
    """Name the task that a source notebook's test cell checks in its hidden block, and the function it is tried on.

    Args:
        source: the test cell of the source notebook.
        topic: the notebook's topic.

    Returns:
        The task and the function, or None if the cell has no hidden block.

    Raises:
        ChecksError: if the block does anything but call `check` once: the sandboxed grader would not run it.
    """
    begin, end = "### BEGIN HIDDEN TESTS", "### END HIDDEN TESTS"
    if begin not in source:
        return None
    block = source.split(begin, 1)[1].split(end, 1)[0]
    calls = [node for node in ast.parse(block).body if not isinstance(node, ast.ImportFrom)]
    if len(calls) == 1 and (found := _checked(calls[0], topic)):
        return found
    raise ChecksError(
        f'A hidden block holds one call check("{topic}", "<task>", <function>) and its import, nothing else, because '
        "only the probe of that task travels into the sandbox. The task is the function's name, or <function>_<part> "
        f"where it has several graded cells; got:\n{block.strip()}"
    )


def _checked(statement: ast.stmt, topic: str) -> tuple[str, str] | None:
    match statement:
        case ast.Expr(
            ast.Call(
                func=ast.Name("check"),
                args=[ast.Constant(named), ast.Constant(str() as task), ast.Name(function)],
                keywords=[],
            )
        ) if named == topic and graded_cells(function, [f"test_{task}"]):
            return task, function
    return None
