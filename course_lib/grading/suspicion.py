"""Read a student's source for what has no honest use in an exercise, to show a person where to look.

This defends nothing (the sandbox does) and takes no points. It names attempts that leave no other trace: a file
that is not there was asked for, a socket could not be opened.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator

_MODULES = {"ctypes", "socket", "subprocess", "builtins", "_thread", "pty", "requests", "urllib"}
_MODULES |= {"http", "sqlite3", "nbgrader", "zmq", "jupyter_client", "ipykernel", "resource", "mmap"}
_CALLS = {
    *(f"os.{name}" for name in ("_exit", "abort", "fork", "forkpty", "kill", "killpg", "popen", "setsid", "system")),
    *("sys.settrace", "sys.setprofile", "sys._getframe", "threading.settrace", "signal.signal", "globals"),
    *("gc.get_objects", "gc.get_referrers", "inspect.currentframe", "inspect.stack", "inspect.getouterframes"),
}
_WORDS = ("gradebook", "solutions/", "/checks", "BEGIN SOLUTION", "BEGIN HIDDEN", "/proc/", ".ipynb", "sitecustomize")
_WORDS += ("usercustomize", "/etc/passwd", ".ipython", "site-packages", "course_evidence", "__import__")
_SHELL = {"input_transformers_cleanup", "input_transformers_post", "ast_transformers", "set_custom_exc", "run_cell"}
_SHELL |= {"input_transformer_manager", "history_manager", "display_pub", "kernel", "set_next_input"}
_BASES = {"torch", "np", "numpy", "math", "builtins", "sys", "F", "unittest"}
_LENGTH = 200_000
_DUNDERS = {"__eq__", "__ne__", "__torch_function__", "__array__", "__bool__", "__del__"}


def suspicious(source: str, topic: str) -> list[str]:
    r"""Name what in a cell deserves a look.

    Args:
        source: the student's text.
        topic: the exercise's topic, whose library module the notebook may not import.

    Returns:
        Short phrases, each once, in the order found; empty for ordinary work.

    >>> suspicious("import torch\nprint(torch.ones(2))", "norm_penalties")
    []
    >>> suspicious("torch.allclose = lambda *a, **k: True", "norm_penalties")
    ['sets torch.allclose']
    """
    tree = _parse(source[:_LENGTH])
    if tree is None:
        return []
    try:
        found = [phrase for node in ast.walk(tree) for phrase in _phrases(node, topic)]
    except RecursionError:
        return ["is nested too deeply to be read"]
    return list(dict.fromkeys(found))


def _parse(source: str) -> ast.Module | None:
    # Magics and shell lines are IPython's, not Python's.
    plain = "\n".join("pass" if line.lstrip().startswith(("%", "!", "?")) else line for line in source.splitlines())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(plain)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _phrases(node: ast.AST, topic: str) -> Iterator[str]:
    match node:
        case ast.Import(names) | ast.ImportFrom(names=names):
            yield from _imports(node, [alias.name for alias in names], topic)
        case ast.Call(func=function) if _dotted(function) in _CALLS:
            yield f"calls {_dotted(function)}"
        case ast.Call(func=ast.Name("setattr"), args=[target, *_]) if _dotted(target).split(".")[0] in _BASES:
            yield f"sets an attribute of {_dotted(target)}"
        case ast.Attribute(attr=name) if name in _SHELL and "get_ipython" in ast.dump(node):
            yield f"reaches for IPython's {name}"
        case ast.Attribute(ctx=ast.Store()) if _dotted(node).split(".")[0] in _BASES:
            if not _dotted(node).startswith("torch.backends."):  # an ordinary setting
                yield f"sets {_dotted(node)}"
        case ast.Attribute(value=ast.Name("sys"), attr="modules" | "meta_path" | "path_hooks" as name):
            yield f"reaches for sys.{name}"
        case ast.FunctionDef(name=name) if name in _DUNDERS:
            yield f"defines {name}"
        case ast.Constant(value=str() as value):
            yield from (f"mentions {word!r}" for word in _WORDS if word in value)


def _imports(node: ast.Import | ast.ImportFrom, names: list[str], topic: str) -> Iterator[str]:
    origin = getattr(node, "module", None)
    for name in names:
        full = f"{origin}.{name}" if origin else name
        if full.split(".")[0] in _MODULES:
            yield f"imports {full}"
        if full == f"course_lib.{topic}" or full.startswith((f"course_lib.{topic}.", "course_lib.grading")):
            yield f"imports {full}"


def _dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return ""
