"""Group convolution: a filter is tried in every pose of a group, and the poses of the answer are kept as an axis.

The image is lifted to feature maps on positions and poses; every later layer convolves over both. Cohen & Welling
(2016), *Group equivariant convolutional networks*. Chapter: ``book/group_convolution.md``.

Convention: (g·x)(p) = x(g⁻¹p). A feature map has the shape (batch, field, order, height, width), and the group moves it
in space and along its own axis: (h·f)[g] = h·(f[h⁻¹g]).
"""

import copy
import functools
import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from course_lib.groups import Group, act_on_grid
from course_lib.preconditions import (
    require_finite,
    require_indices,
    require_integer_between,
    require_nonempty,
    require_positive,
    require_positive_integer,
    require_sizes,
)

Made = TypeVar("Made")

# --- the functions that the exercise asks for --------------------------------------------------------------------


def transform_filters(
    weight: Float[Tensor, "out in size size"], group: Group
) -> Float[Tensor, "out order in size size"]:
    """Every filter in every pose of the group.

    In a formula, for each element g and each position q in the filter, measured from the filter's centre::

        bank[o, g, i](q) = (g·ψ[o, i])(q) = ψ[o, i](g⁻¹q)

    ``act_on_grid(x, group, g)`` is g·x, for any tensor whose last two axes are space. Quarter turns and mirrors move
    pixels and are exact; other turns interpolate bilinearly, as ``act_on_grid`` does.

    Args:
        weight: square filters ψ of any size, odd or even. They are not changed.
        group: turns, or turns and mirrors, of the plane.

    Returns:
        The bank, the group's axis behind ``out``, its elements in their own order: ``bank[:, 0]`` is ``weight``. On the
        device and in the dtype of ``weight``. Differentiable (linear) in ``weight``.

    Raises:
        ValueError: not square filters (out, in, size, size), or NaN or infinity.

    Source: Cohen & Welling (2016), section 7.

    >>> from course_lib.groups import cyclic
    >>> corner = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
    >>> transform_filters(corner, cyclic(4))[0, 1, 0]  # a quarter turn counter-clockwise
    tensor([[0., 0.],
            [1., 0.]])
    """
    require_finite(weight=weight)
    require_sizes(weight=(weight, "out in size size"))
    return torch.stack([act_on_grid(weight, group, g) for g in range(group.order)], dim=1)


def lifting_convolution(
    x: Float[Tensor, "batch in height width"],
    weight: Float[Tensor, "out in size size"],
    group: Group,
    stride: int = 1,
    padding: int = 0,
) -> Float[Tensor, "batch out order rows columns"]:
    """The first layer: an image becomes a feature map on positions and poses.

    In a formula, with ⋆ for the correlation that ``F.conv2d`` computes::

        y[b, o, g] = Σᵢ  x[b, i] ⋆ (g·ψ[o, i])

    Then lifting is equivariant: lifting(h·x)[g] = h·(lifting(x)[h⁻¹g]) for all g and h, if the filters turn exactly and
    the last step ends at the border: height + 2·padding − size is a multiple of the stride, and so for the width.

    Args:
        x: images, square or not.
        weight: square filters ψ.
        group: turns, or turns and mirrors, of the plane.
        stride: rows and columns from one output to the next.
        padding: zeros around the image, on each side.

    Returns:
        The feature map, no bias added. On the device and in the dtype of ``x``. Differentiable in x and weight.

    Raises:
        ValueError: sizes that do not fit, two dtypes or devices, NaN or infinity.

    Source: Cohen & Welling (2016), section 6.1.

    >>> from course_lib.groups import cyclic
    >>> edge = torch.tensor([[[[-1.0, 1.0], [-1.0, 1.0]]]])  # brighter to the right
    >>> lifting_convolution(edge, edge, cyclic(4)).flatten()  # fits as it is; turned by 180 degrees it is the opposite
    tensor([ 4.,  0., -4.,  0.])
    """
    require_finite(x=x, weight=weight)
    require_sizes(x=(x, "batch in height width"), weight=(weight, "out in size size"))
    bank = transform_filters(weight, group)  # (out, order, in, size, size)
    return F.conv2d(x, bank.flatten(0, 1), stride=stride, padding=padding).unflatten(1, (-1, group.order))


def group_filters(
    weight: Float[Tensor, "out in order size size"], group: Group
) -> Float[Tensor, "out order in order size size"]:
    """Every filter on the group in every pose: it turns in space **and** its poses change places.

    In a formula, for output element g and input element h::

        bank[o, g, i, h] = g·(ψ[o, i, g⁻¹h])

    First pick the pose g⁻¹h of the filter, then turn it by g in the plane. ``group.table[a, b]`` is a·b (first b, then
    a), ``group.inverse[g]`` is g⁻¹.

    Args:
        weight: filters ψ, one square for each pair of fields and each element. They are not changed.
        group: turns, or turns and mirrors, of the plane.

    Returns:
        The bank. On the device and in the dtype of ``weight``; ``bank[:, 0]`` is ``weight``. Differentiable (linear).

    Raises:
        ValueError: not filters (out, in, order of the group, size, size), or NaN or infinity.

    Source: Cohen & Welling (2016), section 7, equation 11 and figure 1.

    >>> from course_lib.groups import cyclic
    >>> weight = torch.tensor([10.0, 11.0, 12.0, 13.0]).reshape(1, 1, 4, 1, 1)  # one pixel: nothing turns in space
    >>> group_filters(weight, cyclic(4)).reshape(4, 4)
    tensor([[10., 11., 12., 13.],
            [13., 10., 11., 12.],
            [12., 13., 10., 11.],
            [11., 12., 13., 10.]])
    """
    require_finite(weight=weight)
    require_sizes(weight=(weight, f"out in {group.order} size size"))
    bank = []
    for g in range(group.order):
        before = group.table[group.inverse[g]].to(weight.device)  # (order,): g⁻¹h for every h
        bank.append(act_on_grid(weight.index_select(2, before), group, g))
    return torch.stack(bank, dim=1)


def group_convolution(
    x: Float[Tensor, "batch in order height width"],
    weight: Float[Tensor, "out in order size size"],
    group: Group,
    stride: int = 1,
    padding: int = 0,
) -> Float[Tensor, "batch out order rows columns"]:
    """A layer between feature maps on the group, by **one** plain convolution.

    In a formula, with the bank of ``group_filters`` and the correlation ⋆ of ``F.conv2d``::

        y[b, o, g] = Σᵢ Σₕ  x[b, i, h] ⋆ (g·(ψ[o, i, g⁻¹h]))

    Then convolution is equivariant: conv(h·x) = h·conv(x) with (h·f)[g] = h·(f[h⁻¹g]).

    Args:
        x: feature maps, square or not.
        weight: square filters ψ on the group.
        group: turns, or turns and mirrors, of the plane.
        stride: rows and columns from one output to the next.
        padding: zeros around the maps, on each side.

    Returns:
        Feature maps, no bias added. On the device and in the dtype of ``x``. Differentiable in x and weight.

    Raises:
        ValueError: sizes that do not fit, two dtypes or devices, NaN or infinity.

    Source: Cohen & Welling (2016), section 6.1, equation 11.

    >>> from course_lib.groups import cyclic
    >>> x = torch.tensor([1.0, 0.0, 0.0, 0.0]).reshape(1, 1, 4, 1, 1)  # something seen in pose 0
    >>> weight = torch.tensor([10.0, 11.0, 12.0, 13.0]).reshape(1, 1, 4, 1, 1)
    >>> group_convolution(x, weight, cyclic(4)).flatten()
    tensor([10., 13., 12., 11.])
    """
    require_finite(x=x, weight=weight)
    require_sizes(x=(x, f"batch in {group.order} height width"), weight=(weight, f"out in {group.order} size size"))
    bank = group_filters(weight, group).flatten(0, 1).flatten(1, 2)  # (out·order, in·order, size, size)
    return F.conv2d(x.flatten(1, 2), bank, stride=stride, padding=padding).unflatten(1, (-1, group.order))


def group_pool(
    x: Float[Tensor, "batch field order height width"], bias: Float[Tensor, " field"], average: bool = False
) -> Float[Tensor, "batch field height width"]:
    """Bias, ReLU, and **then** one number for all poses: what is left turns with the image and changes places no more.

    In a formula::

        y[b, f] = max over g of  max(x[b, f, g] + bias[f], 0)         average=False
        y[b, f] = 1/order · Σ_g  max(x[b, f, g] + bias[f], 0)         average=True

    One bias a field: all its poses share it.

    Args:
        x: what a group convolution gave. It is not changed.
        bias: one number a field.
        average: the mean over the group instead of the largest.

    Returns:
        Maps without the group's axis. On the device and in the dtype of ``x``. Differentiable in x and bias.

    Raises:
        ValueError: sizes that do not fit, two dtypes or devices, NaN or infinity.

    Source: Cohen & Welling (2016), section 6.3.

    >>> x = torch.tensor([-3.0, 1.0, 0.0, 3.0]).reshape(1, 1, 4, 1, 1)
    >>> group_pool(x, torch.tensor([1.0])).flatten(), group_pool(x, torch.tensor([1.0]), average=True).flatten()
    (tensor([4.]), tensor([1.7500]))
    """
    require_finite(x=x, bias=bias)
    require_sizes(x=(x, "batch field order height width"), bias=(bias, "field"))
    active = F.relu(x + bias[:, None, None, None])
    return active.mean(dim=2) if average else active.amax(dim=2)


def equivariance_test(
    layer: Callable[[Tensor], Tensor],
    x: Float[Tensor, "batch channel *order height width"],
    group: Group,
    tolerance: float = 1e-4,
) -> bool:
    """Say whether a layer commutes with every element of the group: layer(h·x) = h·layer(x).

    What h does depends on the number of axes. Images, or maps whose group axis was pooled away, have four:
    (batch, channel, height, width). They turn in space alone. Feature maps have five: (batch, field, order, height,
    width). They also change places along the group's axis::

        4 axes:   (h·x)[b, c]    = h·(x[b, c])
        5 axes:   (h·f)[b, f, g] = h·(f[b, f, h⁻¹g])

    The input may have four axes or five, and so may the output, whatever the input has. ``act_on_grid(x, group, h)`` is
    h·x in space.

    Normalisation: for each h the error is the Euclidean norm of layer(h·x) − h·layer(x) over the whole batch, divided
    by that of layer(x). A layer passes if no h has an error above the tolerance. A layer whose output for h·x has
    another shape than h·layer(x) does not pass. No layer(x) in the tests is zero everywhere, and none holds NaN.

    Args:
        layer: what is tried, a function of a batch.
        x: an input to try it on, square or not.
        group: turns, or turns and mirrors, of the plane.
        tolerance: the largest relative error that passes.

    Returns:
        True if the layer is equivariant on x, False if it is not: a Python bool.

    Raises:
        ValueError: x has not four or five axes, NaN or infinity, or a tolerance that is not positive.

    Source: the definition of equivariance; Cohen & Welling (2016), section 2.

    >>> from course_lib.groups import cyclic
    >>> x = torch.rand(2, 3, 5, 5)
    >>> equivariance_test(torch.relu, x, cyclic(4)), equivariance_test(lambda x: x.cumsum(dim=-1), x, cyclic(4))
    (True, False)
    """
    require_finite(x=x)
    require_sizes(x=(x, "batch channel order? height width"))
    require_positive(tolerance=tolerance)

    def act(f: Tensor, h: int) -> Tensor:
        if f.ndim == 5:
            f = f.index_select(2, group.table[group.inverse[h]].to(f.device))
        return act_on_grid(f, group, h)

    output = layer(x)
    for h in range(group.order):
        got, wanted = layer(act(x, h)), act(output, h)
        if got.shape != wanted.shape or not (got - wanted).norm() <= tolerance * output.norm():  # nor does NaN pass
            return False
    return True


# --- what the chapter and the layers need beyond ------------------------------------------------------------------


def act_on_features(
    f: Float[Tensor, "batch field order height width"], group: Group, element: int
) -> Float[Tensor, "batch field order height width"]:
    """An element acts on feature maps: (h·f)[g] = h·(f[h⁻¹g]).

    Args:
        f: feature maps on the group.
        group: turns, or turns and mirrors, of the plane.
        element: h.

    Returns:
        New maps; a quarter turn of maps that are not square swaps their sides.

    Raises:
        ValueError: maps whose third axis is not the group's, or no such element.

    >>> from course_lib.groups import cyclic
    >>> act_on_features(torch.arange(4.0).reshape(1, 1, 4, 1, 1), cyclic(4), 1).flatten()  # what was at 0 is now at 1
    tensor([3., 0., 1., 2.])
    """
    require_sizes(f=(f, f"batch field {group.order} height width"))
    require_integer_between(0, group.order - 1, element=element)
    before = group.table[group.inverse[element]].to(f.device)
    return act_on_grid(f.index_select(2, before), group, element)


def equivariance_errors(
    layer: Callable[[Tensor], Tensor], x: Float[Tensor, "batch channel *order height width"], group: Group
) -> Float[Tensor, " order"]:
    """The relative error of ``equivariance_test`` for each element h: ‖layer(h·x) − h·layer(x)‖ / ‖layer(x)‖.

    Args:
        layer: a function of a batch.
        x: images (four axes) or feature maps (five).
        group: turns, or turns and mirrors, of the plane.

    Returns:
        One number an element, the first about 0. Infinity where the two shapes differ.

    Raises:
        ValueError: x has not four or five axes.

    >>> from course_lib.groups import cyclic
    >>> equivariance_errors(torch.relu, torch.rand(1, 1, 3, 3), cyclic(4))
    tensor([0., 0., 0., 0.])
    """
    require_sizes(x=(x, "batch channel order? height width"))

    def act(f: Tensor, h: int) -> Tensor:
        return act_on_features(f, group, h) if f.ndim == 5 else act_on_grid(f, group, h)

    output, errors = layer(x), []
    for h in range(group.order):
        got, wanted = layer(act(x, h)), act(output, h)
        same = got.shape == wanted.shape
        errors.append((got - wanted).norm() / output.norm() if same else output.new_tensor(math.inf))
    return torch.stack(errors)


def cosets(group: Group, subgroup: Sequence[int]) -> Int64[Tensor, "coset size"]:
    """The left cosets gH of a subgroup H, one a row: what coset pooling pools over.

    Args:
        group: G.
        subgroup: the elements of H.

    Returns:
        Elements of G, each once. The first row is H; row c holds r·h for a representative r and h in the order given.

    Raises:
        ValueError: not elements of the group, or not closed under multiplication.

    >>> from course_lib.groups import cyclic
    >>> cosets(cyclic(4), [0, 2])
    tensor([[0, 2],
            [1, 3]])
    """
    chosen = torch.as_tensor(subgroup)
    require_nonempty(subgroup=chosen)
    require_indices(group.order, subgroup=chosen)
    products = group.table[chosen[:, None], chosen]
    if chosen[0] != 0 or len(chosen.unique()) < len(chosen) or not torch.isin(products, chosen).all():
        raise ValueError(
            "subgroup must be closed, begin with the identity and hold each element once: wanted a subgroup of "
            f"{group}, got {chosen.tolist()}. Add the products of its elements."
        )
    rows, seen = [], set()
    for g in range(group.order):
        if g not in seen:
            rows.append(group.table[g, chosen])
            seen |= set(rows[-1].tolist())
    return torch.stack(rows)


def coset_pool(
    x: Float[Tensor, "batch field order height width"], group: Group, subgroup: Sequence[int], average: bool = False
) -> Float[Tensor, "batch field coset height width"]:
    """Pool over the cosets of a subgroup: y[gH] = max over h in H of x[g·h]. The group still moves what is left.

    Args:
        x: feature maps on the group.
        group: G.
        subgroup: the elements of H, the identity first.
        average: the mean instead of the largest.

    Returns:
        One map a coset, in the order of ``cosets``.

    Raises:
        ValueError: as ``cosets``, or maps whose third axis is not the group's.

    >>> from course_lib.groups import cyclic
    >>> coset_pool(torch.arange(4.0).reshape(1, 1, 4, 1, 1), cyclic(4), [0, 2]).flatten()
    tensor([2., 3.])
    """
    require_sizes(x=(x, f"batch field {group.order} height width"))
    return CosetPool(group, subgroup, average).to(x.device)(x)


@functools.cache
@torch.inference_mode(False)
def _pixel_maps(group: Group, size: int) -> Float[Tensor, "order from to"]:
    """Each element as a matrix on the pixels of a filter: 0 and 1 where pixels move, shares where turns interpolate."""
    unit = torch.eye(size * size, dtype=torch.float64, device="cpu").reshape(-1, size, size)
    return torch.stack([act_on_grid(unit, group, g).flatten(1) for g in range(group.order)])


@functools.cache
@torch.inference_mode(False)
def _expansion(
    group: Group, size: int, inputs: int, lifts: bool
) -> tuple[Int64[Tensor, " entry"], Float[Tensor, "from turned"] | None]:
    """For each entry of one output field's bank (order, inputs, [order,] pixel): its place in the flattened weight.

    The bank of all output fields is then one gather. Where turns interpolate, every plane of the weight is first
    multiplied by a small matrix, which makes all its turns, and the place is one among those.
    """
    order, pixels = group.order, size**2
    poses = torch.zeros(order, 1, dtype=torch.int64) if lifts else group.table[group.inverse]  # (g, h): g⁻¹h
    planes = torch.arange(inputs)[:, None] * poses.shape[1] + poses[:, None]  # (g, input, h)
    maps = _pixel_maps(group, size)
    if group.exact_on_grid:
        return (planes[..., None] * pixels + maps.argmax(dim=1)[:, None, None]).flatten(), None
    turned = torch.arange(order * pixels).reshape(order, 1, 1, pixels)
    return (planes[..., None] * order * pixels + turned).flatten(), maps.transpose(0, 1).flatten(1)


def _expanded(weight: Tensor, index: Tensor, turns: Tensor | None, order: int) -> Float[Tensor, "rows columns k k"]:
    """The bank as ``conv2d`` wants it: one gather."""
    planes = weight.flatten(1) if turns is None else (weight.flatten(-2) @ turns).flatten(1)
    return planes.index_select(1, index).reshape(weight.shape[0] * order, -1, *weight.shape[-2:])


class ExpandedLayer(nn.Module):
    """A layer whose filters are made of fewer weights, and of constants that lie where the weights lie.

    A subclass says how to place the constants (``_place``) and how to make the filters (``_made_once``). Then devices,
    dtypes, loading, copies and files are as for every module.
    """

    def __init__(self):
        super().__init__()
        self._kept: tuple | None = None
        self.register_load_state_dict_post_hook(ExpandedLayer._anew)  # assign=True can change the device

    def _place(self) -> None:
        """Register the constants as buffers of the weights' device and dtype, from their exact values."""
        raise NotImplementedError

    def _anew(self, _: object = None) -> None:
        self._place()  # from float64: float32 constants, made longer, would stay rough
        self._kept = None

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        self._anew()
        return self

    def train(self, mode: bool = True):
        """As for every module; the kept filters are forgotten."""
        self._kept = None
        return super().train(mode)

    def __getstate__(self) -> dict:
        """Copies and files do not carry the kept filters."""
        return self.__dict__ | {"_kept": None}

    def _made_once(self, weights: Sequence[Tensor], make: Callable[[], Made]) -> Made:
        """What ``make`` makes of the weights: once in evaluation mode without gradients, else at every call.

        It is made anew when a weight changes: another tensor, an in-place change that autograd sees, another device or
        dtype, or autocast's other precision. Autograd sees neither ``weight.data.add_(...)`` nor the step of a fused
        optimizer. So a call with gradients, after which a step may follow, forgets what is kept, and so do ``train()``
        and ``eval()``.
        """
        if self.training or torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing():
            self._kept = None
            return make()
        if any(type(part) is not nn.Parameter or part.is_inference() for part in weights):
            return make()
        kind = weights[0].device.type
        mixed = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
        precision = mixed and torch.get_autocast_dtype(kind)
        versions = ((id(part), part.data_ptr(), part._version) for part in weights)
        state = (precision, torch.is_inference_mode_enabled(), *versions)
        if self._kept is None or self._kept[0] != state:
            holders = weights, [part.detach() for part in weights]  # while they live, no other gets their id or address
            self._kept = state, make(), holders
        return self._kept[1]


class _Convolution(ExpandedLayer):
    """What lifting and group convolution share: weight, bias, the gather, and the bank kept for inference.

    The weight has the shape (out, in/groups, size, size) for lifting and (out, in/groups, order, size, size) else; the
    bias (out).
    """

    lifts = False

    def __init__(
        self,
        group: Group,
        inputs: int,
        outputs: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        """Draw weights as ``nn.Conv2d`` does, for the channels that one output sees."""
        super().__init__()
        sizes = {"kernel_size": kernel_size, "stride": stride, "dilation": dilation, "groups": groups}
        require_positive_integer(inputs=inputs, outputs=outputs, **sizes)
        require_integer_between(0, 10**6, padding=padding)
        if inputs % groups or outputs % groups:
            raise ValueError(
                f"groups must divide inputs and outputs: wanted divisors of {inputs} and {outputs}, got {groups}. "
                "Take another number of fields."
            )
        self.group, self.inputs, self.outputs, self.kernel_size = group, inputs, outputs, kernel_size
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        poses = () if self.lifts else (group.order,)
        shape = outputs, inputs // groups, *poses, kernel_size, kernel_size
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(outputs, device=device, dtype=dtype)) if bias else None
        self._place()
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Uniform in ±1/√(number of inputs of one output), weights and bias."""
        bound = 1 / math.sqrt(self.weight[0].numel())
        for parameter in self.parameters():
            parameter.uniform_(-bound, bound)

    def _place(self) -> None:
        with torch.device("cpu"):  # what is kept for other layers too must not lie where this one is made
            index, turns = _expansion(self.group, self.kernel_size, self.inputs // self.groups, self.lifts)
        self.register_buffer("_index", index.to(self.weight.device), persistent=False)
        self.register_buffer("_turns", None if turns is None else turns.to(self.weight), persistent=False)
        fields = torch.arange(self.outputs, device=self.weight.device).repeat_interleave(self.group.order)
        self.register_buffer("_fields", fields, persistent=False)  # whose bias a row of the bank has

    def filters(self) -> tuple[Float[Tensor, "rows columns size size"], Float[Tensor, " rows"] | None]:
        """The plain convolution's weight (out·order, in·order, size, size) and bias, differentiable.

        Rows are ordered by field, then by element. In evaluation mode and without gradients they are made once, and
        anew when weight or bias change.
        """
        weights = (self.weight,) if self.bias is None else (self.weight, self.bias)
        return self._made_once(weights, self._filters)

    def _filters(self) -> tuple[Tensor, Tensor | None]:
        bank = _expanded(self.weight, self._index, self._turns, self.group.order)
        return bank, None if self.bias is None else self.bias.index_select(0, self._fields)

    def forward(self, x: Tensor) -> Float[Tensor, "batch out order rows columns"]:
        """One gather, one ``conv2d``."""
        channels = (self.inputs,) if self.lifts else (self.inputs, self.group.order)
        if x.shape[1:-2] != channels or x.ndim != 3 + len(channels):
            raise ValueError(
                f"the input must fit the layer: wanted (batch, {', '.join(map(str, channels))}, height, width), got "
                f"{tuple(x.shape)}. " + ("" if self.lifts else "LiftingConv2d makes feature maps of images.")
            )
        flat = x if self.lifts else x.flatten(1, 2)
        weight, bias = self.filters()
        y = F.conv2d(flat, weight, bias, self.stride, self.padding, self.dilation, self.groups)
        return y.view(y.shape[0], self.outputs, self.group.order, *y.shape[2:])

    @torch.no_grad()
    def to_conv2d(self) -> nn.Conv2d:
        """A plain ``nn.Conv2d`` with the same outputs, on channels flattened as (field, order)."""
        weight, bias = self._filters()
        shape = weight.shape[1] * self.groups, weight.shape[0], self.kernel_size
        settings = self.stride, self.padding, self.dilation, self.groups, bias is not None
        plain = nn.Conv2d(*shape, *settings, device=weight.device, dtype=weight.dtype).train(self.training)
        plain.weight.copy_(weight)
        if bias is not None:
            plain.bias.copy_(bias)
        return plain

    def extra_repr(self) -> str:
        """Sizes and settings."""
        settings = {name: getattr(self, name) for name in ("stride", "padding", "dilation", "groups")}
        usual = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
        changed = "".join(f", {name}={value}" for name, value in settings.items() if value != usual[name])
        without = "" if self.bias is not None else ", bias=False"
        rough = "" if self._turns is None else ", filters interpolated"
        return f"{self.group}, {self.inputs}, {self.outputs}, kernel_size={self.kernel_size}{changed}{without}{rough}"


class LiftingConv2d(_Convolution):
    """The first layer: images (batch, in, h, w) become feature maps (batch, out, order, h', w').

    ``lifting_convolution`` with a bias for each field. Arguments as for ``GroupConv2d``.

    >>> from course_lib.groups import cyclic
    >>> LiftingConv2d(cyclic(4), 1, 10, 3, padding=1)(torch.rand(2, 1, 8, 8)).shape
    torch.Size([2, 10, 4, 8, 8])
    """

    lifts = True


class GroupConv2d(_Convolution):
    """A convolution between feature maps on the group: (batch, in, order, h, w) to (batch, out, order, h', w').

    ``group_convolution`` with a bias for each field: the filters of all poses are gathered in one step, and one plain
    ``conv2d`` does the rest.

    Args:
        group: any C_n or D_n. Filters turn exactly for C1, C2, C4, D1, D2, D4; bilinearly for others.
        inputs: fields that come in (channels, for lifting).
        outputs: fields that go out.
        kernel_size: filters are square.
        stride: of the convolution. It keeps the symmetry if it divides height + 2·padding − dilation·(size − 1) − 1,
            and the same for the width: then the grid that is left is centred.
        padding: zeros on all four sides.
        dilation: distance of the filter's pixels.
        groups: blocks of fields that do not see each other.
        bias: one number a field, shared by its poses.
        device: where the weights are made.
        dtype: of the weights.

    >>> from course_lib.groups import dihedral
    >>> layer = GroupConv2d(dihedral(4), 10, 6, 3, padding=1)
    >>> layer(torch.rand(2, 10, 8, 9, 7)).shape
    torch.Size([2, 6, 8, 9, 7])
    >>> layer.to_conv2d()
    Conv2d(80, 48, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
    """


class GroupBatchNorm2d(nn.BatchNorm3d):
    """Batch normalization of feature maps on a group: mean, variance, scale and shift are shared by a field's poses.

    Arguments are those of ``nn.BatchNorm3d``: for it the group is one more axis of space. So it is for torch's
    ``nn.GroupNorm(groups, fields)`` and ``nn.InstanceNorm3d(fields)``, which commute with the group just as they are.

    >>> GroupBatchNorm2d(6)(torch.rand(2, 6, 4, 9, 7)).shape
    torch.Size([2, 6, 4, 9, 7])
    """


class GroupPool(nn.Module):
    """One map a field: the largest of its poses, or their mean. Put it behind the nonlinearity.

    >>> GroupPool()(torch.rand(2, 6, 4, 9, 7)).shape
    torch.Size([2, 6, 9, 7])
    """

    def __init__(self, average: bool = False):
        super().__init__()
        self.average = average

    def forward(self, x: Float[Tensor, "batch field order height width"]) -> Float[Tensor, "batch field height width"]:
        """Pool."""
        return x.mean(dim=2) if self.average else x.amax(dim=2)

    def extra_repr(self) -> str:
        """Which."""
        return "average" if self.average else "max"


class CosetPool(nn.Module):
    """``coset_pool`` as a layer.

    >>> from course_lib.groups import dihedral
    >>> CosetPool(dihedral(4), [0, 4])(torch.rand(2, 6, 8, 9, 7)).shape  # turns are left, mirrors are pooled
    torch.Size([2, 6, 4, 9, 7])
    """

    def __init__(self, group: Group, subgroup: Sequence[int], average: bool = False):
        super().__init__()
        self.average = average
        self.register_buffer("_rows", cosets(group, subgroup), persistent=False)

    def forward(
        self, x: Float[Tensor, "batch field order height width"]
    ) -> Float[Tensor, "batch field coset height width"]:
        """Pool."""
        gathered = x.index_select(2, self._rows.flatten()).unflatten(2, self._rows.shape)
        return gathered.mean(dim=3) if self.average else gathered.amax(dim=3)


class SpatialPool2d(nn.Module):
    """Pool every pose of every field in space, the largest or the mean of a window.

    It keeps the symmetry if the windows tile the map: ``stride`` divides height + 2·padding − kernel_size.

    >>> SpatialPool2d(2)(torch.rand(2, 6, 4, 8, 8)).shape
    torch.Size([2, 6, 4, 4, 4])
    """

    def __init__(self, kernel_size: int, stride: int | None = None, padding: int = 0, average: bool = False):
        super().__init__()
        kind = nn.AvgPool2d if average else nn.MaxPool2d
        self.pool = kind(kernel_size, stride, padding)

    def forward(self, x: Float[Tensor, "batch field order height width"]) -> Tensor:
        """Pool."""
        return self.pool(x.flatten(1, 2)).unflatten(1, x.shape[1:3])


# Layers of torch that do the same to every entry, and those that read axes and leave them as they are.
_ENTRYWISE = tuple(
    getattr(nn, name)
    for name in "ReLU LeakyReLU ELU SELU CELU GELU SiLU Mish Softplus Softsign Tanh Sigmoid Hardtanh Hardswish "
    "Hardsigmoid ReLU6 LogSigmoid Tanhshrink Softshrink Hardshrink Threshold Identity Dropout".split()
)
_KEEP_AXES = tuple(
    getattr(nn, name)
    for name in "BatchNorm3d InstanceNorm3d GroupNorm LayerNorm PReLU Softmax LogSoftmax Dropout3d ZeroPad2d MaxPool3d "
    "AvgPool3d AdaptiveMaxPool3d AdaptiveAvgPool3d Upsample".split()
)


def to_plain(network: nn.Sequential) -> nn.Sequential:
    """The same network in torch's own layers, on channels flattened as (field, order); for inference and export.

    Args:
        network: a Sequential (also nested) of this module's layers and of torch's; its copy is in evaluation mode.

    Returns:
        A new network with the same outputs.

    Raises:
        ValueError: a layer of this module that has no plain twin, one of torch's that may treat the group's axis in
            another way than the flattened channels, or no convolution that says which group it is.

    >>> from course_lib.groups import cyclic
    >>> network = nn.Sequential(LiftingConv2d(cyclic(4), 1, 2, 3), nn.ReLU(), GroupPool())
    >>> to_plain(network)[2]
    Sequential(
      (0): Unflatten(dim=1, unflattened_size=(-1, 4))
      (1): MaxPool3d(kernel_size=(4, 1, 1), stride=(4, 1, 1), padding=0, dilation=1, ceil_mode=False)
      (2): Flatten(start_dim=1, end_dim=2)
    )
    """
    first = next((layer for layer in network.modules() if isinstance(layer, _Convolution)), None)
    if first is None:
        raise ValueError(
            "the network must hold a convolution of this module, which says its group: wanted LiftingConv2d or "
            f"GroupConv2d, got {network}. A network of torch's own layers is plain already."
        )
    return _plain(network, first.group.order, not first.lifts)[0].eval()


def _plain(layer: nn.Module, order: int, lifted: bool) -> tuple[nn.Module, bool]:
    """The plain twin of a layer, and whether the group's axis is (flattened) in what it gives."""
    if isinstance(layer, nn.Sequential):
        twins = []
        for part in layer:
            twin, lifted = _plain(part, order, lifted)
            twins.append(twin)
        return nn.Sequential(*twins), lifted
    if isinstance(layer, _Convolution):
        return layer.to_conv2d(), True
    if isinstance(layer, GroupPool):
        kind = nn.AvgPool3d if layer.average else nn.MaxPool3d
        return _unflattened(kind((order, 1, 1), (order, 1, 1)), order), False
    if isinstance(layer, SpatialPool2d):
        return copy.deepcopy(layer.pool), True
    if lifted and isinstance(layer, nn.BatchNorm3d) and layer.track_running_stats:
        plain = nn.BatchNorm2d(layer.num_features * order, layer.eps, layer.momentum, layer.affine)
        for name, value in layer.state_dict().items():
            getattr(plain, name).data.copy_(value.repeat_interleave(order) if value.ndim else value)
        return plain.to(layer.running_mean), True
    whole = isinstance(layer, nn.Flatten) and (layer.start_dim, layer.end_dim) == (1, -1)
    if type(layer).__module__ != __name__ and (not lifted or whole or isinstance(layer, _ENTRYWISE)):
        return copy.deepcopy(layer), lifted and not whole
    if lifted and type(layer) in _KEEP_AXES:
        return _unflattened(copy.deepcopy(layer), order), True
    raise ValueError(
        f"each layer must have a plain twin: wanted layers of this module or torch, got {layer}. "
        "Export its parts one by one with to_conv2d()."
    )


def _unflattened(layer: nn.Module, order: int) -> nn.Sequential:
    """The group's axis is there for this layer."""
    return nn.Sequential(nn.Unflatten(1, (-1, order)), layer, nn.Flatten(1, 2))
