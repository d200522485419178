"""Read what came out of a student's kernel: arrays of numbers or text, by construction nothing that executes."""

from __future__ import annotations

import base64
import math
import re
from types import ModuleType

import numpy as np

_KINDS = "biufcU"
_FLOAT = re.compile(r"[-+−]?\d+(\.\d+([eE][-+]?\d+)?|[eE][-+]?\d+)")
_ARRAY = re.compile(r"(array|tensor)\(.*?\)|\[[^\[\]]*\d[^\[\]]*\]", re.DOTALL)
_BOILERPLATE = ("Not equal to tolerance", "Arrays are not", "Mismatched elements", "Max absolute", "Max relative")


class BadEvidence(ValueError):
    """What came out is not arrays."""


def decode(encoded: object) -> dict[str, np.ndarray]:
    """Turn the JSON of `witness.probe` for one seed into arrays.

    Args:
        encoded: name to dtype, shape and base64 of the bytes.

    Returns:
        The arrays, by name; writable copies.

    Raises:
        BadEvidence: if anything is not as `witness` writes it.
    """
    if not isinstance(encoded, dict):
        raise BadEvidence("a probe returns a dict of arrays")
    try:
        return {str(name): _array(**fields) for name, fields in encoded.items()}
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise BadEvidence(f"not an array: {error}") from None


def _array(dtype: str, shape: list[int], data: str) -> np.ndarray:
    kind = np.dtype(dtype)
    if kind.kind not in _KINDS or kind.names or kind.subdtype or not isinstance(dtype, str):
        raise BadEvidence(f"dtype {dtype!r} is not numbers or text")
    if len(shape) > 32 or not all(isinstance(length, int) and length >= 0 for length in shape):
        raise BadEvidence(f"shape {shape!r}")
    raw = base64.b64decode(data, validate=True)
    if len(raw) != math.prod(shape) * kind.itemsize:
        raise BadEvidence(f"{len(raw)} bytes are not {shape} of {dtype}")
    return np.frombuffer(raw, dtype=kind).reshape(shape).copy()


def load(checks: str, assignment: str) -> ModuleType:
    """Execute a checks file, which is the instructor's, as a module."""
    module = ModuleType(f"checks_of_{assignment}")
    exec(compile(checks, f"<checks of {assignment}>", "exec"), vars(module))
    return module


def judge(checks: ModuleType, task: str, arrays: list[dict[str, np.ndarray]], seeds: list[int]) -> str:
    """Let verify decide, for every seed.

    Args:
        checks: the module with `verify_<task>`.
        task: name of the exercised function.
        arrays: what the probe returned, one dict a seed.
        seeds: the seeds.

    Returns:
        Empty if all is well; otherwise what is wrong, in words and without numbers that would give it away.
    """
    verify = getattr(checks, f"verify_{task}")
    for found, seed in zip(arrays, seeds, strict=True):
        try:
            verify(found, seed)
        except AssertionError as error:
            return without_values(str(error)) or "The result is not what the text asks for."
        except Exception:  # a missing name, a wrong shape: made by what came out, not by verify
            return "The result does not have the form that the text asks for."
    return ""


def without_values(message: str) -> str:
    """Keep of a message the words: no arrays, no decimals, none of numpy's printed comparisons.

    >>> without_values("the penalty is 0.7312, wanted 1.4624: did you forget the 2?")
    'the penalty is …, wanted …: did you forget the 2?'
    """
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    worded = next((line for line in lines if not line.startswith(_BOILERPLATE)), "")
    return _FLOAT.sub("…", _ARRAY.sub("…", worded))[:500]
