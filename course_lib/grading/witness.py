"""Inside the kernel: bear witness, with a nonce, that a test ran to its end, and carry arrays out.

Student code shares this process and can forge what is said here. That is why no score rests on it alone: what
earns points are arrays that only a right implementation can return, compared outside the sandbox. What is said
here about tampering (`integrity`) is there to be noticed by, not to defend.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import os
import random
import sys
import types
import warnings
from collections.abc import Callable, Iterator

MIME = "application/vnd.course.evidence+json"
_WATCHED = ("builtins", "math", "numpy", "numpy.testing", "torch", "torch.testing", "torch.Tensor", "unittest")
_HOOKS = ("run_cell", "run_cell_async", "run_code", "run_ast_nodes", "transform_cell", "showtraceback")
_pristine: dict[str, dict[str, object]] = {}
_shell: dict[str, object] = {}


def publish(nonce: str, kind: str, **content: object) -> None:
    """Send one piece of evidence to the grader, beside the outputs.

    Args:
        nonce: the word that the grader drew for this request.
        kind: what is said.
        content: JSON-able details.
    """
    from IPython import get_ipython

    data = {"nonce": nonce, "kind": kind, **content}
    get_ipython().display_pub.publish(data={MIME: json.dumps(data)})


def begin(nonce: str) -> None:
    """Remember what is there before any student code: functions that tests lean on, and the shell's own."""
    from IPython import get_ipython

    _pristine.update({name: _callables(_resolve(name)) for name in _WATCHED if _resolve(name) is not None})
    _shell.update(_hooks(get_ipython()))
    publish(nonce, "begin")


def finish(nonce: str) -> None:
    """Say that the cell which ends with this call got here."""
    publish(nonce, "finish")


def probe(nonce: str, source: str, name: str, seeds: list[int], implementation: Callable) -> None:
    """Run a probe on fresh seeds and send the arrays that it returns.

    Args:
        nonce: the word that the grader drew for this request.
        source: the probe and what it needs; nothing of verify is in it.
        name: name of the probe's function.
        seeds: one call each.
        implementation: the student's function.
    """
    returned: list[object] = []
    with _clean_state(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = types.ModuleType("probe")
        exec(compile(source, "<probe>", "exec"), vars(module))
        function = getattr(module, name)
        found = [_encode(function(_recorded(implementation, returned), seed)) for seed in seeds]
    publish(nonce, "arrays", arrays=found, impostors=_impostors(returned))


def integrity(nonce: str, namespace: dict[str, object]) -> None:
    """Name what student code has replaced: functions that tests use, the shell's hooks, names in the notebook."""
    publish(nonce, "integrity", found=sorted({*_replaced(), *_rehooked(), *_shadowed(namespace)}))


def _resolve(path: str) -> object | None:
    module, _, attribute = path.partition(".") if path == "torch.Tensor" else (path, "", "")
    found = sys.modules.get(module)
    return getattr(found, attribute, None) if attribute else found


def _callables(owner: object) -> dict[str, object]:
    # The kernel sets `_` and `input` anew for every cell; torch sets Storage with the default dtype.
    ordinary = {"_", "input", "Storage"}
    return {name: value for name, value in vars(owner).items() if callable(value) and name not in ordinary}


def _replaced() -> Iterator[str]:
    for path, before in _pristine.items():
        now = vars(_resolve(path) or types.ModuleType("gone"))
        changed = (name for name, value in before.items() if now.get(name) is not value)
        yield from (f"{path}.{name} replaced" for name in changed if not _is_torchs_own(now.get(name)))


def _is_torchs_own(function: object) -> bool:
    # torch._dynamo, which the first optimizer imports, wraps a few of torch's functions.
    torch, code = sys.modules.get("torch"), getattr(function, "__code__", None)
    return torch is not None and code is not None and code.co_filename.startswith(os.path.dirname(torch.__file__))


def _hooks(shell: object) -> dict[str, object]:
    hooks = {name: getattr(getattr(shell, name), "__func__", None) for name in _HOOKS}
    transformers = [*shell.input_transformers_cleanup, *shell.input_transformers_post]
    # Bound methods are made anew at each look: compare what they are bound to.
    hooks["input transformers"] = [_identity(transformer) for transformer in transformers]
    hooks["manager's transformers"] = [
        _identity(transformer)
        for name in ("cleanup_transforms", "line_transforms", "token_transformers")
        for transformer in getattr(shell.input_transformer_manager, name)
    ]
    hooks["syntax tree transformers"] = list(map(id, shell.ast_transformers))
    hooks["exception handlers"] = tuple(shell.custom_exceptions)
    hooks["display"] = [type(shell.display_pub), type(shell.displayhook)]
    hooks["display's publish"] = getattr(shell.display_pub.publish, "__func__", None)
    kernel = shell.kernel
    hooks["kernel"] = [type(kernel), getattr(kernel.do_execute, "__func__", None)]
    return hooks


def _identity(function: object) -> object:
    return getattr(function, "__func__", function), id(getattr(function, "__self__", None))


def _rehooked() -> Iterator[str]:
    from IPython import get_ipython

    now = _hooks(get_ipython())
    yield from (f"IPython's {name} changed" for name, value in _shell.items() if now[name] != value)
    if sys.gettrace() is not None or sys.getprofile() is not None:
        yield "a trace or profile function is set"


def _shadowed(namespace: dict[str, object]) -> Iterator[str]:
    # An ordinary `sum = 0` is clumsy; a function that answers for a builtin is something else.
    for name, value in namespace.items():
        genuine = _pristine.get("builtins", {}).get(name)
        if genuine is not None and callable(value) and getattr(value, "__module__", None) == "__main__":
            yield f"the builtin {name} shadowed"
    for name, module in (("torch", "torch"), ("np", "numpy"), ("numpy", "numpy"), ("math", "math")):
        if name in namespace and namespace[name] is not sys.modules.get(module):
            yield f"the name {name} is not the module {module}"


@contextlib.contextmanager
def _clean_state() -> Iterator[None]:
    """Run a probe with default settings and leave the student's settings and random numbers as they were."""
    with contextlib.ExitStack() as stack:
        stack.callback(random.setstate, random.getstate())
        if "numpy" in sys.modules:
            _numpy_state(stack)
        if "torch" in sys.modules:
            _torch_state(stack)
        yield


def _numpy_state(stack: contextlib.ExitStack) -> None:
    import numpy

    stack.callback(numpy.random.set_state, numpy.random.get_state())
    stack.enter_context(numpy.errstate(all="ignore"))


def _torch_state(stack: contextlib.ExitStack) -> None:
    import torch

    stack.callback(torch.set_rng_state, torch.get_rng_state())
    stack.callback(torch.set_default_dtype, torch.get_default_dtype())
    torch.set_default_dtype(torch.float32)
    if torch.get_default_device().type != "cpu":
        stack.enter_context(torch.device("cpu"))
    stack.enter_context(torch.enable_grad())


def _recorded(implementation: Callable, returned: list[object]) -> Callable:
    @functools.wraps(implementation)
    def call(*arguments: object, **keywords: object) -> object:
        value = implementation(*arguments, **keywords)
        torch = sys.modules.get("torch")
        if torch and isinstance(value, torch.Tensor):
            value = value.resolve_conj().resolve_neg()  # a view that a probe's .numpy() would refuse
        returned.append(value)
        return value

    return call


def _impostors(values: object) -> list[str]:
    leaves = list(_leaves(values))
    types_seen = {type(leaf): leaf for leaf in leaves if type(leaf).__module__ == "__main__"}
    return sorted(kind.__name__ for kind, leaf in types_seen.items() if _equals_anything(leaf))


def _leaves(value: object, depth: int = 0) -> Iterator[object]:
    if isinstance(value, (list, tuple)) and depth < 4:
        for item in value[:1000]:
            yield from _leaves(item, depth + 1)
    else:
        yield value


def _equals_anything(leaf: object) -> bool:
    try:
        return bool(leaf == object())
    except Exception:
        return False


def _encode(arrays: dict[str, object]) -> dict[str, dict[str, object]]:
    import numpy

    encoded = {}
    for name, value in arrays.items():
        array = numpy.asarray(value)
        if array.dtype.kind not in "biufcU":
            raise TypeError(f"A probe returns arrays of numbers or text: {name} has dtype {array.dtype}.")
        data = base64.b64encode(numpy.ascontiguousarray(array).tobytes()).decode("ascii")
        encoded[str(name)] = {"dtype": array.dtype.str, "shape": list(array.shape), "data": data}
    return encoded
