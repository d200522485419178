"""What a function may ask of its inputs, said once and in one voice.

Each message states the invariant, what was wanted, what came, and a likely fix. In the exercises these
calls are given to the student, so that a task is about its mathematics and a slip is still explained.
"""

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real

import torch
from torch import Tensor


def _refuse(invariant: str, wanted: str, got: str, fix: str) -> None:
    raise ValueError(f"{invariant}: wanted {wanted}, got {got}. {fix}")


def _require_floating(**tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            fix = "Wrap numbers with torch.tensor(...)."
            _refuse(f"{name} must be a tensor", "torch.Tensor", type(tensor).__name__, fix)
        if not tensor.is_floating_point():
            fix = "Call .float() first."
            _refuse(f"{name} must be floating point", "float32 or float64", str(tensor.dtype), fix)


def require_finite(**tensors: Tensor) -> None:
    """Refuse anything but floating-point tensors without NaN or infinity.

    Args:
        **tensors: the tensors, by the names they have in the caller's signature.

    Raises:
        ValueError: not a tensor, not floating point, or an entry that is not finite.

    >>> require_finite(weight=torch.ones(2))
    >>> require_finite(weight=torch.ones(2, dtype=torch.int64))
    Traceback (most recent call last):
    ...
    ValueError: weight must be floating point: wanted float32 or float64, got torch.int64. Call...
    """
    _require_floating(**tensors)
    for name, tensor in tensors.items():
        if torch.isfinite(tensor.detach().sum()):  # then all are, and a sum is far cheaper than a look at each
            continue
        finite = torch.isfinite(tensor.detach())
        if not finite.all():
            got = f"{int((~finite).sum())} such of {tensor.numel()} entries"
            fix = "Has training diverged? Try a smaller learning rate."
            _refuse(f"{name} must be finite", "no NaN, no infinity", got, fix)


def takes_parameters(penalty: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Let a penalty take ``model.parameters()`` as it comes, and refuse what no penalty can be taken of.

    The decorated function receives its first argument as a list of floating-point tensors, at least one.
    Whether they are finite is read off the penalty's own value, so that the parameters are read only once;
    the culprit is looked for only when that value is NaN or infinite. (On a GPU this waits for the value.)

    Args:
        penalty: a function ``(parameters, ...) -> scalar tensor``.

    Returns:
        The same function with its first argument checked. It raises ValueError for a bare tensor, an empty
        collection, a tensor that is not floating point, NaN or infinity, or a penalty that overflows.

    >>> @takes_parameters
    ... def largest(parameters):
    ...     return max(parameter.abs().max() for parameter in parameters)
    >>> largest(iter([torch.tensor([1.0, -2.0])]))
    tensor(2.)
    >>> largest([])
    Traceback (most recent call last):
    ...
    ValueError: parameters must not be empty: wanted at least one tensor, got none. A generator can be read
        ...
    """

    @functools.wraps(penalty)
    def checked(parameters: Iterable[Tensor], *args, **kwargs) -> Tensor:
        if isinstance(parameters, Tensor):
            fix = "Write [tensor]: a bare tensor would be read row by row."
            _refuse("parameters must be a collection", "an iterable of tensors", "one tensor", fix)
        named = {f"parameters[{index}]": tensor for index, tensor in enumerate(parameters)}
        if not named:
            fix = "A generator can be read only once: pass model.parameters() anew."
            _refuse("parameters must not be empty", "at least one tensor", "none", fix)
        _require_floating(**named)
        value = penalty(list(named.values()), *args, **kwargs)
        if not isinstance(value, Tensor):
            fix = "Is `return` missing, or was the tensor turned into a number?"
            _refuse(f"{penalty.__name__} must return a tensor", "a scalar tensor", type(value).__name__, fix)
        if not torch.isfinite(value).all():
            require_finite(**named)
            fix = "Are the parameters of a sensible size? float64 has room to spare."
            _refuse("a penalty must be finite", f"a number that fits {value.dtype}", str(value.item()), fix)
        return value

    return checked


def require_nonnegative(**numbers: float) -> None:
    """Refuse a strength, threshold or rate that is negative, NaN or infinite.

    Args:
        **numbers: the numbers, by the names they have in the caller's signature.

    Raises:
        ValueError: not a real number, negative, or not finite.

    >>> require_nonnegative(strength=-0.1)
    Traceback (most recent call last):
    ...
    ValueError: strength must be non-negative: wanted a finite number >= 0, got -0.1. A negative one would ...
    """
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            fix = "Call float(...) first."
            _refuse(f"{name} must be a number", "int or float", type(number).__name__, fix)
        if not (math.isfinite(number) and number >= 0):
            fix = "A negative one would reward what it should penalize."
            _refuse(f"{name} must be non-negative", "a finite number >= 0", repr(number), fix)


def require_positive(**numbers: float) -> None:
    """Refuse a number that is not greater than zero and finite.

    Args:
        **numbers: the numbers, by the names they have in the caller's signature.

    Raises:
        ValueError: not a real number, zero, negative, or not finite.

    >>> require_positive(lr=0.0)
    Traceback (most recent call last):
    ...
    ValueError: lr must be positive: wanted a finite number > 0, got 0. Was it rounded down to zero?
    """
    require_nonnegative(**numbers)
    for name, number in numbers.items():
        if number == 0:
            _refuse(f"{name} must be positive", "a finite number > 0", "0", "Was it rounded down to zero?")


def require_positive_integer(**numbers: int) -> None:
    """Refuse a count that is not an integer of at least 1.

    Args:
        **numbers: the counts, by the names they have in the caller's signature.

    Raises:
        ValueError: not an integer, or smaller than 1.

    >>> require_positive_integer(step=0)
    Traceback (most recent call last):
    ...
    ValueError: step must be a positive integer: wanted 1, 2, 3, ..., got 0. Counting starts at 1.
    """
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            _refuse(f"{name} must be a positive integer", "1, 2, 3, ...", repr(number), "Counting starts at 1.")


def require_odd(**numbers: int) -> None:
    """Refuse a side that has no middle.

    Args:
        **numbers: the sides, by the names they have in the caller's signature.

    Raises:
        ValueError: not a positive integer, or an even one.

    >>> require_odd(rows=4)
    Traceback (most recent call last):
    ...
    ValueError: rows must be odd: wanted 1, 3, 5, ..., got 4. An even side has no entry in the middle.
    """
    require_positive_integer(**numbers)
    for name, number in numbers.items():
        if number % 2 == 0:
            fix = "An even side has no entry in the middle."
            _refuse(f"{name} must be odd", "1, 3, 5, ...", repr(number), fix)


def require_nonempty(**collections: object) -> None:
    """Refuse a batch, or another collection, without anything in it.

    Args:
        **collections: tensors (their first axis counts), lists, tuples, by their names in the caller's signature.

    Raises:
        ValueError: nothing in it, or something that has no length: a single number, a generator.

    >>> require_nonempty(transforms=[])
    Traceback (most recent call last):
    ...
    ValueError: transforms must not be empty: wanted at least one entry, got none. Was everything filtered ...
    """
    for name, collection in collections.items():
        if not hasattr(collection, "__len__") or (isinstance(collection, Tensor) and collection.ndim == 0):
            fix = "Put what is single into a list, or give it a batch axis; call list(...) on a generator."
            _refuse(f"{name} must have a length", "a batch or a list", type(collection).__name__, fix)
        if len(collection) == 0:
            _refuse(f"{name} must not be empty", "at least one entry", "none", "Was everything filtered away?")


def require_sizes(**tensors: tuple[Tensor, str]) -> None:
    """Refuse tensors whose sizes do not fit together, or are zero, and floating-point tensors of two kinds.

    Args:
        **tensors: by the names in the caller's signature, each with its dimensions as jaxtyping writes them: one word
            a dimension. A word that occurs twice must mean the same size, a number means itself. One word of each
            tensor may stand for several dimensions: ``*shape`` for the same ones wherever it occurs (they may be 0),
            ``...`` for any, ``targets?`` for the same one or none.

    Raises:
        ValueError: not a tensor, a wrong number of dimensions, a wrong size or 0, or floating-point tensors of two
            dtypes or on two devices.

    >>> require_sizes(x=(torch.ones(5, 64), "batch pixel"), w=(torch.ones(64), "pixel"))
    >>> require_sizes(x=(torch.ones(5, 64), "batch pixel"), y=(torch.ones(4, 64), "batch pixel"))
    Traceback (most recent call last):
    ...
    ValueError: y must have the sizes (batch, pixel): wanted (5, 64), got (4, 64). x has batch = 5; is ...
    """
    sizes: dict[str, tuple[tuple[int, ...], str]] = {}
    for name, (tensor, dimensions) in tensors.items():
        if not isinstance(tensor, Tensor):
            _refuse(f"{name} must be a tensor", "torch.Tensor", type(tensor).__name__, "Call torch.as_tensor(...).")
        _require_named_sizes(name, tuple(tensor.shape), dimensions.split(), sizes)
    floating = {name: tensor for name, (tensor, _) in tensors.items() if tensor.is_floating_point()}
    for name, tensor in floating.items():
        first, reference = next(iter(floating.items()))
        if (tensor.dtype, tensor.device) != (reference.dtype, reference.device):
            wanted, got = f"{reference.dtype} on {reference.device}", f"{tensor.dtype} on {tensor.device}"
            _refuse(f"{name} must be of the kind of {first}", wanted, got, f"Call {name}.to({first}) first.")


def _require_named_sizes(name: str, shape: tuple[int, ...], words: list[str], sizes: dict) -> None:
    invariant = f"{name} must have the sizes ({', '.join(words)})"
    loose = next((word for word in words if word[0] in "*." or word[-1] == "?"), "")
    count = len(words) - bool(loose)
    spare = len(shape) - count  # so many dimensions the loose word stands for
    if spare < 0 or (spare > 0 and not loose) or (spare > 1 and loose[-1] == "?"):
        wanted = f"{count} or {count + 1}" if loose.endswith("?") else f"{'at least ' * bool(loose)}{count}"
        fix = "Add one by [None] or [:, None]." if spare < 0 else "Join some by .flatten(1), or drop one."
        _refuse(invariant, f"{wanted} dimension{'s' * (wanted[-1] != '1')}", str(shape), fix)
    rest = shape
    for word in words:
        part, rest = (rest[:spare], rest[spare:]) if word == loose else (rest[:1], rest[1:])
        if 0 in part and word[0] != "*":
            _refuse(invariant, "at least 1 of each", str(shape), "Was everything filtered out?")
        wanted, holder = sizes.setdefault(word, ((int(word),) if word.isdigit() else part, name))
        if part != wanted and word != "...":
            known = (sizes[word][0] if word in sizes and word != "..." else [word] for word in words)
            fits = ", ".join(str(size) for part in known for size in part)
            fits = f"({fits}{',' * (', ' not in fits)})"
            fix = f"{holder} has {word} = {wanted if word == loose else wanted[0]}; is one transposed or cut short?"
            _refuse(invariant, fits, str(shape), "The size is fixed." if word.isdigit() else fix)


def require_nonzero(**tensors: Tensor) -> None:
    """Refuse tensors that are zero everywhere: nothing can be measured relative to them.

    Args:
        **tensors: the tensors, by a name that the caller's reader knows.

    Raises:
        ValueError: not a finite floating-point tensor, or all entries are zero.

    >>> require_nonzero(output=torch.zeros(2))
    Traceback (most recent call last):
    ...
    ValueError: output must not be zero everywhere: wanted a norm > 0, got 0. Something is divided by ...
    """
    require_finite(**tensors)
    for name, tensor in tensors.items():
        if not tensor.detach().any():
            fix = "Something is divided by its norm. Are all units dead, or is nothing trained yet?"
            _refuse(f"{name} must not be zero everywhere", "a norm > 0", "0", fix)


def require_between(low: float, high: float, **tensors: Tensor) -> None:
    """Refuse tensors with entries outside a closed interval.

    Args:
        low: the smallest value allowed.
        high: the largest value allowed.
        **tensors: the tensors, by the names they have in the caller's signature.

    Raises:
        ValueError: not floating point, not finite, or an entry outside.

    >>> require_between(0, 1, weights=torch.tensor([0.3, 1.5]))
    Traceback (most recent call last):
    ...
    ValueError: weights must lie in [0, 1]: wanted all entries there, got 1 outside, from 0.3 to 1.5. Clamp ...
    """
    _require_floating(**tensors)
    for name, tensor in tensors.items():
        if not tensor.numel():
            continue
        smallest, largest = (bound.item() for bound in tensor.detach().aminmax())  # NaN if there is one
        if not (low <= smallest <= largest <= high and math.isfinite(largest - smallest)):
            require_finite(**{name: tensor})
            outside = int(((tensor < low) | (tensor > high)).sum())
            got = f"{outside} outside, from {smallest:.3g} to {largest:.3g}"
            fix = "Clamp rounding errors into it; anything larger is a mistake."
            _refuse(f"{name} must lie in [{low}, {high}]", "all entries there", got, fix)


def require_signs(**tensors: Tensor) -> None:
    """Refuse labels other than -1 and 1.

    Args:
        **tensors: the labels, by the names they have in the caller's signature.

    Raises:
        ValueError: another value than -1 and 1.

    >>> require_signs(y=torch.tensor([0.0, 1.0]))
    Traceback (most recent call last):
    ...
    ValueError: y must be signs: wanted -1 and 1 alone, got values [0.0, 1.0]. From 0 and 1: 2 * y - 1.
    """
    for name, tensor in tensors.items():
        if not (tensor.abs() == 1).all():
            got = f"values {tensor.detach().unique()[:4].tolist()}"
            _refuse(f"{name} must be signs", "-1 and 1 alone", got, f"From 0 and 1: 2 * {name} - 1.")


def require_indices(length: int, **tensors: Tensor) -> None:
    """Refuse anything but int64 tensors with entries from 0 to ``length`` − 1.

    Args:
        length: how many things there are to point at.
        **tensors: the tensors, by the names they have in the caller's signature.

    Raises:
        ValueError: not a tensor of int64, or an entry out of range.

    >>> require_indices(3, partners=torch.tensor([0, 3]))
    Traceback (most recent call last):
    ...
    ValueError: partners must be indices: wanted int64 from 0 to 2, got 1 entry out of range. Counting starts ...
    """
    for name, tensor in tensors.items():
        wanted, fix = f"int64 from 0 to {length - 1}", "Counting starts at 0; call .long() on whole numbers."
        if not isinstance(tensor, Tensor) or tensor.dtype != torch.int64:
            got = str(tensor.dtype) if isinstance(tensor, Tensor) else type(tensor).__name__
            _refuse(f"{name} must be indices", wanted, got, fix)
        outside = int(((tensor < 0) | (tensor >= length)).sum())
        if outside:
            got = f"{outside} {'entry' if outside == 1 else 'entries'} out of range"
            _refuse(f"{name} must be indices", wanted, got, fix)


def require_invertible(**matrices: Tensor) -> None:
    """Refuse square matrices with a determinant of zero, as far as their precision can tell.

    Args:
        **matrices: tensors of shape (..., n, n), by the names they have in the caller's signature.

    Raises:
        ValueError: not floating point, or a matrix without an inverse (one with NaN has none).

    >>> require_invertible(matrices=torch.ones(1, 2, 2))
    Traceback (most recent call last):
    ...
    ValueError: matrices must be invertible: wanted determinants away from 0, got 1 of 1 that vanish. A map ...
    """
    _require_floating(**matrices)
    for name, tensor in matrices.items():
        entries = tensor.detach()
        smallest = 10 * torch.finfo(tensor.dtype).eps * entries.abs().amax(dim=(-2, -1)) ** tensor.shape[-1]
        invertible = torch.linalg.det(entries).abs() > smallest
        if not invertible.all():
            got = f"{int((~invertible).sum())} of {invertible.numel()} that vanish"
            fix = "A map that flattens the plane cannot be undone; is a scale 0?"
            _refuse(f"{name} must be invertible", "determinants away from 0", got, fix)


def require_integer_between(low: int, high: int, **numbers: int) -> None:
    """Refuse a count, size or seed outside a range.

    Args:
        low: the smallest that is allowed.
        high: the largest that is allowed.
        **numbers: the integers, by the names they have in the caller's signature.

    Raises:
        ValueError: not an integer, or outside the range.

    >>> require_integer_between(2, 5, k=6)
    Traceback (most recent call last):
    ...
    ValueError: k must be in range: wanted an integer from 2 to 5, got 6. Is it larger than the data allow?
    """
    for name, number in numbers.items():
        integer = isinstance(number, int) and not isinstance(number, bool)
        if not integer or not low <= number <= high:
            fix = "Is it larger than the data allow?" if integer and number > high else "Take a larger one."
            fix = fix if integer else "Call int(...) first."
            _refuse(f"{name} must be in range", f"an integer from {low} to {high}", repr(number), fix)


def require_numbers(*, nan: bool = True, **sequences: Sequence[float]) -> None:
    """Refuse anything but sequences of real numbers; infinity is a number, an empty sequence is one.

    Args:
        nan: whether a NaN may be among them (every comparison with it is false, so it may go unseen).
        **sequences: lists, tuples or arrays, by the names they have in the caller's signature.

    Raises:
        ValueError: not a sequence, or an entry that is not a real number, such as None, a text or a tensor.

    >>> require_numbers(errors=[0.5, float("nan")])
    >>> require_numbers(errors=[torch.tensor(0.5)])
    Traceback (most recent call last):
    ...
    ValueError: errors must hold numbers: wanted int or float, got Tensor in entry 0. Call .item() on tensors first.
    """
    for name, values in sequences.items():
        if isinstance(values, (str, bytes, Mapping)) or not (
            hasattr(values, "__len__") and hasattr(values, "__iter__")
        ):
            fix = "Write list(...): a generator can be read only once, a single number not at all."
            _refuse(f"{name} must be a sequence", "a list or tuple of numbers", type(values).__name__, fix)
        for index, value in enumerate(values):
            if isinstance(value, bool) or not isinstance(value, Real):
                got = f"{type(value).__name__} in entry {index}"
                _refuse(f"{name} must hold numbers", "int or float", got, "Call .item() on tensors first.")
            if not nan and math.isnan(value):
                _refuse(
                    f"{name} must be comparable", "numbers without NaN", f"nan in entry {index}", "Did 0/0 make it?"
                )


def require_named_tensors(**collections: Mapping[str, Tensor]) -> None:
    """Refuse anything but a non-empty mapping from names to tensors, such as ``model.state_dict()``.

    Args:
        **collections: the mappings, by the names they have in the caller's signature.

    Raises:
        ValueError: not a mapping, empty, or a value that is not a tensor.

    >>> require_named_tensors(state={"weight": torch.ones(2)})
    >>> require_named_tensors(state=[torch.ones(2)])
    Traceback (most recent call last):
    ...
    ValueError: state must be a dictionary: wanted tensors by name, got list. Pass model.state_dict().
    """
    for name, tensors in collections.items():
        fix = "Pass model.state_dict()."
        if not isinstance(tensors, Mapping):
            _refuse(f"{name} must be a dictionary", "tensors by name", type(tensors).__name__, fix)
        if not tensors:
            _refuse(f"{name} must not be empty", "at least one tensor", "none", fix)
        for key, tensor in tensors.items():
            if not isinstance(tensor, Tensor):
                _refuse(f"{name}[{key!r}] must be a tensor", "torch.Tensor", type(tensor).__name__, fix)


def require_stable_descent(eigenvalues: Tensor, lr: float, limit: float = 2.0) -> None:
    """Refuse eigenvalues that no convex loss has, and a learning rate that is too large for them.

    Gradient descent on a quadratic converges for lr · eigenvalue < 2, and without overshooting for at most 1.

    Args:
        eigenvalues: those of the Hessian, a floating-point tensor.
        lr: the learning rate.
        limit: the largest lr · eigenvalue that is allowed (one rounding error more passes).

    Raises:
        ValueError: eigenvalues that are not finite floating-point numbers >= 0, or lr · eigenvalue above the limit.

    >>> require_stable_descent(torch.tensor([4.0, 1.0]), lr=0.5)
    >>> require_stable_descent(torch.tensor([4.0, 1.0]), lr=0.6)
    Traceback (most recent call last):
    ...
    ValueError: lr must suit the largest eigenvalue: wanted lr * eigenvalue <= 2, got 0.6 * 4 = 2.4. Take lr <= 0.5.
    """
    require_between(0, math.inf, eigenvalues=eigenvalues)
    largest = float(eigenvalues.detach().max()) if eigenvalues.numel() else 0.0
    if lr * largest > limit * (1 + 1e-6):
        got = f"{lr:.4g} * {largest:.4g} = {lr * largest:.4g}"
        wanted, fix = f"lr * eigenvalue <= {limit:g}", f"Take lr <= {limit / largest:.4g}."
        _refuse("lr must suit the largest eigenvalue", wanted, got, fix)
