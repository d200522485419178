"""Measuring invariance: how far an output moves when the input is transformed, and which layer is to blame.

One number for a network (equivariance error, orbit consistency, Lie derivative), and one a layer (``diagnose``).
Cohen & Welling (2016) for equivariance; Zhang (2019) for consistency; Gruver et al. (2023) for the Lie derivative.
Chapter: ``book/measuring_invariance.md``.
"""

import copy
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad

from course_lib import figures
from course_lib.data import Split
from course_lib.preconditions import (
    require_finite,
    require_nonempty,
    require_nonzero,
    require_numbers,
    require_positive,
    require_positive_integer,
    require_sizes,
)
from course_lib.training import accuracy, evaluating

Transform = Callable[[Tensor], Tensor]
Flow = Callable[[Tensor, Tensor], Tensor]


# --- one number for a network ------------------------------------------------------------------------------------


def equivariance_error(
    f: Callable[[Tensor], Tensor],
    x: Float[Tensor, "n ..."],
    transform: Transform,
    output_transform: Transform | None = None,
) -> Float[Tensor, ""]:
    """How far f is from commuting with a transformation, relative to the size of its output.

    In a formula::

        ‖f(g·x) − ρ(g)·f(x)‖ / ‖f(x)‖

    Normalisation: both norms are Euclidean, over all entries of the whole batch at once: one ratio of two norms,
    not a mean of ratios. The norms are not squared.

    Args:
        f: a function of a batch, for example a network in evaluation mode.
        x: the batch, first axis the examples.
        transform: x ↦ g·x, how the input is transformed.
        output_transform: y ↦ ρ(g)·y, how the output should follow. None: it should not move (invariance).

    Returns:
        A scalar ≥ 0, dimensionless, on the device and in the dtype of the output: 0 for exact equivariance, about
        √2 for outputs of equal length, scattered about zero, that have nothing to do with each other.
        Differentiable where it is not 0.

    Raises:
        ValueError: x is not a batch of finite floating-point numbers, or f(x) is zero everywhere: an error relative to
            nothing.

    Source: the measure is folklore; Weiler & Cesa (2019), *General E(2)-equivariant steerable CNNs*, for ρ.

    >>> x = torch.tensor([[3.0, 4.0]])
    >>> equivariance_error(torch.abs, x, transform=lambda x: x.flip(1), output_transform=lambda y: y.flip(1))
    tensor(0.)
    >>> equivariance_error(torch.abs, x, transform=lambda x: x.flip(1))  # |(4, 3) − (3, 4)| / |(3, 4)|
    tensor(0.2828)
    """
    require_finite(x=x)
    require_sizes(x=(x, "n ..."))
    output = f(x)
    require_nonzero(output=output)
    expected = output if output_transform is None else output_transform(output)
    return (f(transform(x)) - expected).norm() / output.norm()


def orbit_consistency(
    f: Callable[[Tensor], Tensor], x: Float[Tensor, "n ..."], transforms: Sequence[Transform]
) -> float:
    """The share of images whose predicted class is the same over their whole orbit.

    In a formula::

        1/n · Σᵢ [ argmax f(g·xᵢ) = argmax f(xᵢ)  for every g ]

    Normalisation: a mean over images of 0 or 1. One element of the orbit that disagrees makes the image count 0.
    Labels play no part: an image that is wrong in the same way over its orbit counts 1.

    Args:
        f: maps a batch to scores (n, classes), for example a network in evaluation mode; the class is the argmax.
        x: the batch.
        transforms: the elements of the orbit, each x ↦ g·x. The image itself always belongs to its orbit, whether
            or not the identity is listed.

    Returns:
        A number in [0, 1]. Not differentiable.

    Raises:
        ValueError: x is not a batch of finite floating-point numbers, or there is no transform.

    Source: Zhang (2019), *Making convolutional networks shift-invariant again*, section 4.2, who compares two
    random shifts of an image where we compare all.

    >>> x = torch.tensor([[2.0, 1.0], [1.0, 1.5]])
    >>> orbit_consistency(lambda x: x, x, [lambda x: x * torch.tensor([1.0, 3.0])])
    0.5
    """
    require_finite(x=x)
    require_sizes(x=(x, "n ..."))
    require_nonempty(transforms=transforms)
    upright = f(x).argmax(dim=1)
    same = torch.stack([f(transform(x)).argmax(dim=1) == upright for transform in transforms])  # (orbit, n)
    return same.all(dim=0).double().mean().item()


def local_equivariance_error(
    f: Callable[[Tensor], Tensor],
    x: Float[Tensor, "n ..."],
    flow: Flow,
    output_flow: Flow | None = None,
) -> Float[Tensor, ""]:
    """The local equivariance error: the squared Lie derivative of f along a one-parameter group of transformations.

    In a formula::

        (L f)(x) = d/dt  ρ(−t)·f(T(t)·x)  at t = 0
        LEE      = mean over images of  ‖(L f)(x)‖² / (number of outputs of one image)

    T(t) moves the input and ρ(−t) takes the output back, so that an equivariant f does not move at all. For a
    classifier ρ is the identity.

    Normalisation: squares; a mean over images **and** over the outputs of an image, as in the paper; no root. The
    unit is that of the output squared per unit of t squared (per rad² for a rotation, per pixel² for a shift).

    Args:
        f: a function of a batch, with a first derivative; a network in evaluation mode.
        x: the batch.
        flow: ``(x, t) -> T(t)·x`` with t a tensor of shape (), differentiable in t; T(0) is the identity. The
            library's ``spectral_rotation`` and ``spectral_shift``, used in the chapter, are flows.
        output_flow: ``(y, t) -> ρ(t)·y`` for the output; None: the output should not move (invariance).

    Returns:
        A scalar ≥ 0, exact to rounding: an automatic derivative, no finite difference. Differentiable in the
        parameters of f.

    Raises:
        ValueError: x is not a batch of finite floating-point numbers.

    Source: Gruver, Finzi, Goldblum & Wilson (2023), *The Lie derivative for measuring learned equivariance*.

    >>> x = torch.tensor([[3.0, 4.0]])
    >>> grow = lambda x, t: x * t.exp()
    >>> local_equivariance_error(lambda x: x**2, x, grow)  # the derivative is (2·9, 2·16)
    tensor(674.)
    >>> local_equivariance_error(lambda x: x**2, x, grow, output_flow=lambda y, t: y * (2 * t).exp())
    tensor(0.)
    """
    require_finite(x=x)
    require_sizes(x=(x, "n ..."))

    def there_and_back(t: Tensor) -> Tensor:
        moved = f(flow(x, t))
        return moved if output_flow is None else output_flow(moved, -t)

    zero = x.new_zeros(())
    _, lie_derivative = torch.func.jvp(there_and_back, (zero,), (torch.ones_like(zero),))
    return lie_derivative.square().mean()


def culprit(errors: Sequence[tuple[str, float, float]], tolerance: float = 1e-4) -> str | None:
    """The first layer at which the equivariance error jumps.

    A layer *jumps* if the error after it exceeds the error before it by more than the tolerance::

        after − before > tolerance

    A layer that is handed an error and passes it on does not jump, nor does one that makes it smaller. An error may be
    infinite (outputs whose shapes cannot be compared); a layer with infinite errors before and after passes it on.

    Args:
        errors: for each layer, in the order in which they run: its name, the error of its input (before) and the
            error of its output (after). In a network with branches, before need not be the previous layer's after.
        tolerance: how much may be rounding, > 0. The default suits float32.

    Returns:
        The name, or None if no layer jumps.

    Raises:
        ValueError: no layers, a NaN among the errors, or a tolerance that is not positive.

    >>> culprit([("conv", 0.0, 2e-7), ("pool", 2e-7, 0.41), ("relu", 0.41, 0.45)])
    'pool'
    """
    require_nonempty(errors=errors)
    require_numbers(nan=False, errors=[error for _, *pair in errors for error in pair])
    require_positive(tolerance=tolerance)
    return next((name for name, before, after in errors if after - before > tolerance), None)


def accuracy_sweep(model: nn.Module, split: Split, transforms: Sequence[Transform]) -> list[float]:
    """Accuracy on transformed images, one number a transformation: the curve behind the columns of the ledger.

    Args:
        model: maps images to one score a class.
        split: images and labels; the labels stay as they are.
        transforms: each maps a batch of images to a batch of images.

    Returns:
        Accuracies in [0, 1], in the order of the transforms.

    Raises:
        ValueError: no transform, or the split is empty.

    >>> from course_lib.data import digits
    >>> class Ink(nn.Linear):  # one score: more ink, class 0
    ...     def forward(self, x): return torch.stack([x.mean((1, 2, 3)), 0 * x.sum((1, 2, 3))], dim=1)
    >>> zeros = digits().test.y == 0
    >>> test = Split(digits().test.x[zeros], digits().test.y[zeros])
    >>> accuracy_sweep(Ink(1, 1), test, [lambda x: x, lambda x: -x])
    [1.0, 0.0]
    """
    require_nonempty(transforms=transforms)
    return [accuracy(model, Split(transform(split.x), split.y)) for transform in transforms]


# --- transformations with a derivative ---------------------------------------------------------------------------


def _sheared(x: Tensor, pixels: Tensor) -> Tensor:
    """Move each row to the right by its own number of pixels, around the edge, without blur (Fourier)."""
    turns = torch.fft.fftfreq(x.shape[-1], dtype=x.dtype, device=x.device)  # cycles per pixel
    angle = -2 * math.pi * pixels[:, None] * turns  # (height, width)
    return torch.fft.ifft(torch.fft.fft(x) * torch.polar(torch.ones_like(angle), angle)).real


def spectral_shift(
    x: Float[Tensor, "n c height width"], right: Tensor, down: Tensor | float = 0.0
) -> Float[Tensor, "n c height width"]:
    """Shift images by any part of a pixel, around the edges, by turning the phases of their Fourier series.

    For whole pixels it is ``torch.roll``. It has derivatives of every order and both modes, which bilinear
    interpolation (a kink at every pixel) and ``grid_sample`` (no forward mode) have not.

    Args:
        x: images or feature maps.
        right: pixels to the right, a tensor of shape ().
        down: pixels downwards.

    Returns:
        Images of the same shape. Waves of half the sampling frequency (even sizes) are projected on their real part.

    Raises:
        ValueError: x is no finite floating-point batch with rows and columns.

    >>> spectral_shift(torch.tensor([[[[1.0, 2.0, 3.0]]]]), torch.tensor(1.0)).round(decimals=4)
    tensor([[[[3., 1., 2.]]]])
    """
    require_finite(x=x)
    require_sizes(x=(x, "n c ... height width"))
    height, width = x.shape[-2:]
    moved = _sheared(x, x.new_ones(height) * right)
    return _sheared(moved.mT, x.new_ones(width) * down).mT


def spectral_rotation(x: Float[Tensor, "n c height width"], radians: Tensor) -> Float[Tensor, "n c height width"]:
    """Turn images counter-clockwise about their centre by three shears, each one exact in Fourier space.

    Differentiable in the angle in both modes, and sharper than bilinear interpolation. Meant for small angles and
    images with a margin: what leaves at one edge comes back at the other.

    Args:
        x: images or feature maps.
        radians: the angle, a tensor of shape ().

    Returns:
        Images of the same shape.

    Raises:
        ValueError: x is no finite floating-point batch with rows and columns.

    Source: Larkin, Oldfield & Klemm (1997), *Fast Fourier method for the accurate rotation of sampled images*.

    >>> x = torch.zeros(1, 1, 9, 9); x[..., 4, 6] = 1.0  # right of the centre
    >>> spectral_rotation(x, torch.tensor(0.5))[0, 0].argmax().item() // 9  # moves up
    3
    """
    require_finite(x=x)
    require_sizes(x=(x, "n c ... height width"))
    rows, columns = (
        torch.arange(size, dtype=x.dtype, device=x.device) - (size - 1) / 2 for size in x.shape[-2:]
    )  # from the centre, downwards and to the right
    x = _sheared(x, (radians / 2).tan() * rows)
    x = _sheared(x.mT, -radians.sin() * columns).mT
    return _sheared(x, (radians / 2).tan() * rows)


# --- layers that commute -----------------------------------------------------------------------------------------


class FourfoldConv2d(nn.Conv2d):
    """A convolution whose filters are averaged over their four quarter turns, so that it commutes with quarter turns.

    The arguments are those of ``torch.nn.Conv2d``. It commutes if its stride and padding let it.

    >>> x, conv = torch.randn(1, 1, 7, 7), FourfoldConv2d(1, 2, 3, stride=2)
    >>> torch.allclose(conv(x.rot90(1, (-2, -1))), conv(x).rot90(1, (-2, -1)), atol=1e-6)
    True
    """

    def forward(self, x: Tensor) -> Tensor:
        """Convolve with the averaged filters."""
        return self._conv_forward(x, _averaged_over_turns(self.weight), self.bias)


def _averaged_over_turns(filters: Tensor) -> Tensor:
    return sum(filters.rot90(quarters, (-2, -1)) for quarters in range(4)) / 4


def blur_pool(channels: int, stride: int = 2) -> nn.Conv2d:
    """Blur each channel with the binomial filter (1, 2, 1)⊗(1, 2, 1)/16, then keep every stride-th pixel.

    After a max pool of stride 1 it makes the anti-aliased pooling of Zhang (2019). The padding is circular.

    Args:
        channels: of the feature map.
        stride: 1 for blur alone.

    Returns:
        A depthwise convolution whose weights are not trained.

    Raises:
        ValueError: a number that is not a positive integer.

    >>> blur_pool(1, stride=1)(torch.eye(3)[None, None])[0, 0, 1]
    tensor([0.3125, 0.3750, 0.3125])
    """
    require_positive_integer(channels=channels, stride=stride)
    layer = nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False, padding_mode="circular")
    weights = torch.tensor([1.0, 2.0, 1.0])
    layer.weight.data.copy_(weights.outer(weights) / 16)
    return layer.requires_grad_(False)


def escnn_modules() -> tuple[ModuleType, ModuleType]:
    """The package escnn's ``gspaces`` and ``nn``, without its warnings of packages that are not needed here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from escnn import gspaces
        from escnn import nn as steerable
    return gspaces, steerable


class QuarterTurnNetwork(nn.Module):
    """A small network of escnn's layers, all of which commute with quarter turns: ten scores that should not move.

    Fields of the regular representation of C4 (four channels each, one a direction), pooled over directions and
    positions. One convolution has stride 2. Needs the package escnn.

    Args:
        seed: fixes the initial weights (and sets torch's global generator).
    """

    def __init__(self, seed: int):
        super().__init__()
        gspaces, steerable = escnn_modules()
        torch.manual_seed(seed)
        space = gspaces.rot2dOnR2(4)
        scalar = steerable.FieldType(space, [space.trivial_repr])
        narrow, wide = (steerable.FieldType(space, fields * [space.regular_repr]) for fields in (4, 6))
        self.quarter = space.fibergroup.element(1)  # the group element to give to diagnose
        self.body = steerable.SequentialModule(
            steerable.R2Conv(scalar, narrow, 3, padding=1),
            steerable.InnerBatchNorm(narrow),
            steerable.ReLU(narrow),
            steerable.R2Conv(narrow, wide, 3, padding=1, stride=2),
            steerable.InnerBatchNorm(wide),
            steerable.ReLU(wide),
            steerable.R2Conv(wide, wide, 3, padding=1),
            steerable.ReLU(wide),
            steerable.GroupPooling(wide),
        )
        self.pool, self.head = nn.AdaptiveMaxPool2d(1), nn.Linear(6, 10)
        self._wrapped = lambda x: steerable.GeometricTensor(x, scalar)

    def features(self, x: Float[Tensor, "n 1 height width"]) -> Float[Tensor, "n 6 rows columns"]:
        """The last maps, pooled over directions: they should turn as the image turns."""
        return self.body(self._wrapped(x)).tensor

    def forward(self, x: Float[Tensor, "n 1 height width"]) -> Float[Tensor, "n 10"]:
        """One score a class."""
        return self.head(self.pool(self.features(x)).flatten(1))


# --- one number a layer ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LayerError:
    """What ``diagnose`` found at one layer.

    ``before`` and ``after`` are equivariance errors of its input and its output, both counted from the network's
    input; ``alone`` is the error that the layer makes when it is handed an exactly transformed input; ``cause`` is
    what had to be changed for ``alone`` to vanish, in words, where one change was enough.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    before: float
    after: float
    alone: float
    cause: str = ""

    @property
    def adds(self) -> float:
        """By how much the error rises from input to output."""
        return 0.0 if self.before == self.after else self.after - self.before

    @property
    def label(self) -> str:
        """Name and kind, as the table shows them."""
        return f"{self.name} {self.kind}".strip()


@dataclass(frozen=True)
class Diagnosis:
    """A table of equivariance errors by layer, and the layer to blame. Displays itself in a notebook."""

    layers: tuple[LayerError, ...]
    output_error: float
    tolerance: float
    constant: bool = False

    @property
    def culprit(self) -> LayerError | None:
        """The first layer at which the error jumps, as the function ``culprit`` defines it.

        Nobody is blamed for an error that the network's output no longer shows, nor a layer whose error the next one
        takes back (padding is a layer of this kind: the ring that it adds matters only through the layer behind it).
        """
        if self.output_error <= self.tolerance:
            return None
        healed = [following.before > self.tolerance >= following.after for following in self.layers[1:]] + [False]
        kept = {layer.label: layer for layer, mended in zip(self.layers, healed, strict=True) if not mended}
        name = culprit([(label, layer.before, layer.after) for label, layer in kept.items()], self.tolerance)
        return kept.get(name)

    @property
    def suspects(self) -> list[LayerError]:
        """All layers that break equivariance on their own, the culprit among them."""
        return [layer for layer in self.layers if layer.alone > self.tolerance]

    @property
    def verdict(self) -> str:
        """The finding in a sentence or two."""
        found = self.culprit
        if found is None and self.constant:
            return "The output hardly depends on the images. A constant is invariant to everything: nothing is shown."
        if found is None and self.output_error <= self.tolerance:
            return f"The output's error is at most {self.tolerance:g}: nothing to blame."
        if found is None:
            return (
                f"The output's error is {self.output_error:.2g}, but it rises nowhere by more than {self.tolerance:g}."
            )
        if math.isinf(found.adds):
            return f"The culprit is {found.label}. {found.cause}".strip()
        return f"The culprit is {found.label}, which adds {found.adds:.2g}. {found.cause}".strip()

    def table(self) -> figures.Table:
        """One row a layer, the culprit set apart, the verdict as caption."""
        rows = [
            [
                layer.label,
                "×".join(map(str, layer.shape[1:])),
                _number(layer.after),
                _number(layer.adds, self.tolerance),
                _number(layer.alone, self.tolerance),
            ]
            for layer in self.layers
        ]
        columns = ["layer", "makes", "error", "it adds", "alone"]
        chosen = [self.culprit.label] if self.culprit else []
        return figures.table(rows, columns, caption=self.verdict, highlight=chosen)

    def __repr__(self) -> str:
        """Return the table as aligned text."""
        return repr(self.table())

    def _repr_mimebundle_(self, include=None, exclude=None):
        return self.table()._repr_mimebundle_(include, exclude)


def diagnose(
    model: nn.Module, transform: Transform, x: Tensor | Any, *, element: Any = None, tolerance: float = 1e-4
) -> Diagnosis:
    """Why is my network not equivariant? The equivariance error after every layer, and the layer to blame.

    The network runs on x and on g·x. After each layer the two feature maps h(x) and h(g·x) are compared::

        ‖h(g·x) − ρ(g)·h(x)‖ / ‖h(x)‖

    Tensors with four or more axes are feature maps: ρ(g) is ``transform`` again, so it must accept every size and
    number of channels. All others (after flattening or pooling) are compared as invariants. Each layer is also tried
    **alone**, on an exactly transformed input. If it fails, one thing at a time is changed (circular padding, a size
    that the windows fit, stride 1, ...) and what makes the error vanish is reported as the cause.

    The first row is the transform itself: ‖sort(g·x) − sort(x)‖ / ‖x‖, its distance from any rearrangement of pixels.
    It is 0 for quarter turns, mirrors and cyclic shifts, and positive where g interpolates or loses pixels, unless the
    sorted values happen to agree: such a g is no exact symmetry of a grid, and even perfect filters will not follow it.

    Args:
        model: any module. It is run in evaluation mode without gradients and left as it was.
        transform: x ↦ g·x for images and feature maps (n, channels, height, width) of any size, for example
            ``lambda x: x.rot90(1, (-2, -1))`` or ``lambda x: x.roll(1, -1)``.
        x: a batch of images, or an escnn ``GeometricTensor``. Use real ones, several, without symmetry of their own.
        element: for escnn's networks, the group element that ``transform`` performs, for example
            ``gspace.fibergroup.element(1)``; it acts on the channels of GeometricTensors.
        tolerance: rises and errors up to this are taken for rounding.

    Returns:
        A ``Diagnosis`` with ``.culprit``, ``.suspects``, ``.verdict`` and ``.layers``; it shows itself as a table. What
        happens in ``forward`` between layers gets a row of its own where it adds an error.

    Raises:
        ValueError: x is no finite floating-point batch of images, the transform changes what it should not, the model
            cannot take the transformed images, or a GeometricTensor needs an element.

    >>> _ = torch.manual_seed(0)
    >>> net = nn.Sequential(FourfoldConv2d(1, 4, 3, padding=1), nn.ReLU(), FourfoldConv2d(4, 4, 3, stride=2, padding=1))
    >>> found = diagnose(net, lambda x: x.rot90(1, (-2, -1)), torch.rand(5, 1, 8, 8))
    >>> found.culprit.label
    '2 FourfoldConv2d'
    >>> found.culprit.cause
    'Stride 2 does not fit an 8×8 map: the windows end before its edge. On 7×7 the error vanishes.'
    """
    require_finite(x=_plain(x))
    require_sizes(x=(_plain(x), "n channels ... height width"))
    require_positive(tolerance=tolerance)

    def act(value):
        return _acted(value, transform, element)

    with torch.no_grad(), evaluating(model):
        still, moved = _recorded(model, x), _recorded(model, act(x), of=x)
        _require_same_calls(still, moved)
        rows = [_first_row(_plain(x), _plain(act(x)), tolerance)]
        for call, twin in zip(still, moved, strict=True):
            rows += _rows(call, twin, act, max(row.after for row in rows), tolerance)
        output_error = _error(moved[-1].output, still[-1].output, act)
    return Diagnosis(tuple(rows), output_error, tolerance, _constant(_plain(still[-1].output), tolerance))


def _first_row(x: Tensor, moved: Tensor, tolerance: float) -> LayerError:
    """The distance of the transformed images from every rearrangement of their pixels, relative to the images."""
    pixels, others = (value.flatten(2).sort().values.double() for value in (x, moved))
    found = ((others - pixels).norm() / pixels.norm().clamp(min=1e-300)).item()
    cause = "It interpolates or loses pixels. Quarter turns, mirrors and cyclic shifts by whole pixels do not."
    return LayerError("the transform", "", tuple(x.shape), 0.0, found, found, cause if found > tolerance else "")


@dataclass
class _Call:
    """One run of one layer: what came in, what went out (copies, because layers may work in place)."""

    name: str
    module: nn.Module | None
    inputs: list = field(default_factory=list)
    keywords: dict = field(default_factory=dict)
    output: Any = None

    def again(self, act: Callable, module: nn.Module | None = None, prepare: Callable = lambda value: value) -> float:
        """The error of the layer alone, on inputs that are transformed exactly; the layer may be a changed one."""
        module = module or self.module
        before = [prepare(value) for value in self.inputs]
        keywords = {key: act(value) for key, value in self.keywords.items()}
        try:
            plain = _first(module(*map(_cloned, before), **{k: _cloned(v) for k, v in self.keywords.items()}))
            return _error(_first(module(*map(act, before), **keywords)), plain, act)
        except RuntimeError:  # the transformed input does not fit the layer
            return math.inf


def _layers(module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The modules that do the work, by name: without children, or escnn's, whose children make filters."""
    children = [(key, child) for key, child in module.named_children() if key != "parametrizations"]
    steerable = hasattr(module, "in_type") and not any(hasattr(m, "in_type") for _, c in children for m in c.modules())
    if not children or steerable:
        yield name, module
        return
    for key, child in children:
        yield from _layers(child, f"{name}.{key}" if name else key)


def _recorded(model: nn.Module, x: Any, of: Any = None) -> list[_Call]:
    """Run the model and note every call of every layer, and at the end the model's own output."""
    calls: list[_Call] = []
    counts: dict[str, int] = {}

    def start(name: str) -> Callable:
        def hook(module, inputs, keywords):
            counts[name] = counts.get(name, 0) + 1
            title = name if counts[name] == 1 else f"{name} (call {counts[name]})"
            kept = {key: _cloned(value) for key, value in keywords.items()}
            calls.append(_Call(title, module, [_cloned(value) for value in inputs], kept))

        return hook

    def end(module, inputs, output):
        calls[-1].output = _cloned(_first(output))

    hooks = []
    for name, module in _layers(model):
        hooks += [module.register_forward_pre_hook(start(name), with_kwargs=True), module.register_forward_hook(end)]
    try:
        output = _first(model(_cloned(x)))
    except RuntimeError as error:
        if of is None:
            raise
        shapes = f"{tuple(_plain(x).shape)} for {tuple(_plain(of).shape)}"
        raise ValueError(
            f"the model must take the transformed images: wanted a shape that fits, got {shapes}: {error}. A quarter "
            "turn needs square images, or layers that take any size."
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    return [*calls, _Call("output", None, [_cloned(output)], output=_cloned(output))]


def _rows(call: _Call, twin: _Call, act: Callable, worst: float, tolerance: float) -> list[LayerError]:
    """The row of a layer, and one for the code before it if an error came in there."""
    values, twins = (
        [value for value in [*one.inputs, *one.keywords.values()] if _is_value(value)] for one in (call, twin)
    )
    before = max((_error(b, a, act) for a, b in zip(values, twins, strict=True)), default=0.0)
    shape = tuple(_plain(call.output).shape)
    rows = []
    if before - worst > tolerance:
        where = "at the end of" if call.module is None else f"before {call.name} in"
        cause = f"It happens {where} forward(), outside every layer: pooling, padding or flattening by a function?"
        name = f"code before {call.name}"
        rows.append(LayerError(name, "", tuple(_plain(values[0]).shape), worst, before, before, cause))
    if call.module is None:
        return rows
    after, alone = _error(twin.output, call.output, act), call.again(act)
    cause = _cause(call, act, alone, tolerance) if max(alone, after - before) > tolerance else ""
    return [*rows, LayerError(call.name, type(call.module).__name__, shape, before, after, alone, cause)]


# --- causes: change one thing, measure again ---------------------------------------------------------------------


def _cause(call: _Call, act: Callable, alone: float, tolerance: float) -> str:
    """The first single change that makes the layer's own error vanish, in words."""
    if math.isinf(alone):
        height, width = _plain(call.output).shape[-2:]
        return f"Its output, {height}×{width}, and that of the transformed input have shapes that cannot be compared."
    for words, module, prepare in _changes(call.module, _plain(call.inputs[0])):
        if call.again(act, module, prepare) <= tolerance:
            return f"{words} the error vanishes."
    return ""


def _changes(module: nn.Module, x: Tensor) -> Iterator[tuple[str, nn.Module, Callable]]:
    """Single changes of a layer: what to call each, the changed layer, what to do to the layer's input first."""
    if isinstance(module, nn.Flatten) and x.ndim > 3:
        yield "Flattening keeps positions. Averaged over positions first,", module, _mean
    if not hasattr(module, "kernel_size") or "Transpose" in type(module).__name__ or x.ndim < 4:
        return
    height, width = x.shape[-2:]
    kernel, stride, dilation = (_pair(getattr(module, key, 1)) for key in ("kernel_size", "stride", "dilation"))
    reach = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    padding = getattr(module, "padding", 0)
    margin = [r // 2 for r in reach] if padding == "same" else _pair(0 if padding == "valid" else padding)
    around = [reach[1] // 2, reach[1] - reach[1] // 2, reach[0] // 2, reach[0] - reach[0] // 2]
    extra = [(n + 2 * m - r - 1) % s for n, m, r, s in zip((height, width), margin, reach, stride, strict=True)]
    ring, around_fits = _Ring(module, around), around[1] <= width and around[3] <= height
    if padding == "same" and any(r % 2 for r in reach):
        even = f"An even kernel ({kernel[0]}×{kernel[1]}) has no centre, and 'same' pads one side more."
        yield f"{even} Padded alike on both sides,", _changed(module, padding=tuple(margin)), lambda h: h
    if max(stride) == 1 and around_fits:
        words = "Zeros come in at the edge." if any(margin) else "No window reaches over the edge."
        yield f"{words} With circular padding", ring, lambda h: h
    if any(extra):
        size, fit = f"{height}×{width}", f"{height - extra[0]}×{width - extra[1]}"
        words = f"Stride {stride[0]} does not fit {_an(height)} {size} map: the windows end before its edge. On {fit}"
        yield words, module, _mapped(lambda h: h[..., : height - extra[0], : width - extra[1]])
    if max(stride) > 1:
        words = (
            f"Stride {stride[0]} keeps one position in {stride[0]}, and the transform moves to others. With stride 1"
        )
        yield words, _changed(module, stride=1), lambda h: h
        if around_fits:
            words = words.replace("With stride 1", "With stride 1 and circular padding")
            yield words, _Ring(_changed(module, stride=1), around), lambda h: h
    if type(module) is nn.Conv2d and kernel[0] == kernel[1]:
        turned = copy.deepcopy(module)
        turned.weight.copy_(_averaged_over_turns(module.weight))
        yield "An ordinary filter has a direction. Averaged over its quarter turns,", turned, lambda h: h


def _changed(module: nn.Module, **attributes: Any) -> nn.Module:
    """A copy that shares the weights and differs in the attributes that the layer has."""
    changed = copy.copy(module)
    for name, value in attributes.items():
        if hasattr(module, name):
            setattr(changed, name, value)
    return changed


class _Ring(nn.Module):
    """A layer with circular padding in place of its own."""

    def __init__(self, module: nn.Module, around: list[int]):
        super().__init__()
        self.module, self.around = _changed(module, padding=0, padding_mode="zeros"), around

    def forward(self, value: Any) -> Any:
        return self.module(_mapped(lambda h: pad(h, self.around, mode="circular"))(value))


def _mean(value: Tensor) -> Tensor:
    return value.mean((-2, -1), keepdim=True)


def _an(number: int) -> str:
    return "an" if str(number)[0] == "8" or number in (11, 18) else "a"


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


# --- tensors, and escnn's GeometricTensors, known by what they have ----------------------------------------------


def _is_value(value: Any) -> bool:
    return isinstance(_plain(value), Tensor)


def _plain(value: Any) -> Any:
    """The tensor in a GeometricTensor; anything else as it is."""
    return value.tensor if hasattr(value, "tensor") and hasattr(value, "type") else value


def _mapped(change: Callable[[Tensor], Tensor]) -> Callable:
    """Let a function of tensors take GeometricTensors."""

    def mapped(value: Any) -> Any:
        if not _is_value(value):
            return value
        return change(value) if isinstance(value, Tensor) else type(value)(change(value.tensor), value.type)

    return mapped


def _cloned(value: Any) -> Any:
    return _mapped(torch.clone)(value)


def _first(output: Any) -> Any:
    """The first tensor of an output that may be a tuple or a dictionary."""
    if isinstance(output, dict):
        output = tuple(output.values())
    while isinstance(output, (tuple, list)):
        output = next(value for value in output if isinstance(value, (tuple, list)) or _is_value(value))
    return output


def _acted(value: Any, transform: Transform, element: Any) -> Any:
    """ρ(g) on anything: pixels move by the transform, escnn's channels by the element, the rest stays."""
    if not _is_value(value):
        return value
    tensor = _plain(value).clone()
    if tensor.ndim < 4:
        return _mapped(lambda _: tensor)(value)
    moved = transform(tensor)
    if not isinstance(moved, Tensor) or moved.shape[:-2] != tensor.shape[:-2] or moved.numel() != tensor.numel():
        got = tuple(moved.shape) if isinstance(moved, Tensor) else type(moved).__name__
        raise ValueError(
            f"transform must keep examples, channels and the number of pixels: wanted {tuple(tensor.shape)} up to "
            f"height and width, got {got}. It acts on the last two axes."
        )
    if isinstance(value, Tensor):
        return moved
    fields = value.type.representations
    if element is not None:
        matrix = torch.as_tensor(value.type.representation(element), dtype=moved.dtype, device=moved.device)
        moved = torch.einsum("ij,nj...->ni...", matrix, moved)
    elif not all(one.is_trivial() for one in fields):
        raise ValueError(
            "a GeometricTensor's channels move with the group: wanted element=..., got None. Pass the group element "
            "that the transform performs, for example gspace.fibergroup.element(1)."
        )
    return type(value)(moved, value.type)


def _error(moved: Any, still: Any, act: Callable) -> float:
    """The equivariance error between two values; infinite if their shapes differ."""
    got, expected, size = _plain(moved), _plain(act(still)), _plain(still)
    if got.shape != expected.shape:
        return math.inf
    difference, size = (got.double() - expected.double()).norm().item(), size.double().norm().item()
    if not math.isfinite(difference):
        raise ValueError(
            "the outputs of every layer must be finite: wanted numbers, got NaN or infinity. Has training diverged?"
        )
    return 0.0 if difference == 0 else difference / size if size > 0 else math.inf


def _constant(output: Tensor, tolerance: float) -> bool:
    """Whether all images of a batch of two or more give the same output."""
    spread = (output - output.mean(0)).double().norm()
    return len(output) > 1 and bool(spread <= tolerance * output.double().norm())


def _require_same_calls(still: Sequence[_Call], moved: Sequence[_Call]) -> None:
    for one, other in zip_longest(still, moved):
        names = [call.name if call else "nothing" for call in (one, other)]
        if names[0] != names[1]:
            raise ValueError(
                f"the same layers must run on both inputs: wanted {names[0]}, got {names[1]}. Does forward() branch on "
                "the values or the shape of its input?"
            )


def _number(value: float, tolerance: float = 0.0) -> str | None:
    if math.isinf(value):
        return "shapes differ"
    return None if abs(value) <= tolerance and tolerance else f"{value:.2g}".replace("-", "−", value < 0)
