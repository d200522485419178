"""Finite groups as tables of integers, and how they act on images and signals.

An element is an integer, a product is a look-up: nothing is rounded, so a group of any order is closed. Floats appear
only where a group acts on pixels between which it must interpolate. Averages over a group after Yarotsky (2018, 2022),
over frames after Puny et al. (2022). Chapter: ``book/groups.md``.
"""

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor, nn

from course_lib.preconditions import (
    require_finite,
    require_indices,
    require_integer_between,
    require_nonnegative,
    require_positive_integer,
    require_sizes,
)

Action = Callable[[Tensor, int], Tensor]


# --- the exercise ------------------------------------------------------------------------------------------------


def cayley_table(permutations: Int64[Tensor, "order point"]) -> Int64[Tensor, "order order"]:
    """The multiplication table of a group that is given as a list of permutations.

    In a formula, with p_g for ``permutations[g]``, a map from points to points, i ↦ p_g(i)::

        table[g, h] = the number k for which  p_k(i) = p_g(p_h(i))  for every point i

    So the product g·h does h **first**, then g, as matrices do. The row is g, the column is h.

    Args:
        permutations: one element of the group a row; row g lists p_g(0), p_g(1), … All rows are permutations and all
            are different. The identity may stand in any row.

    Returns:
        The Cayley table, int64, on the device of ``permutations``.

    Raises:
        ValueError: not int64 indices of points, or a product that is not in the list: then it is no group.

    Source: Cayley (1854), *On the theory of groups*; every finite group comes about in this way.

    >>> cayley_table(torch.tensor([[0, 1, 2], [1, 2, 0], [2, 0, 1]]))  # the turns of a triangle
    tensor([[0, 1, 2],
            [1, 2, 0],
            [2, 0, 1]])
    """
    require_sizes(permutations=(permutations, "order point"))
    require_indices(permutations.shape[1], permutations=permutations)
    products = permutations[:, permutations].flatten(0, 1)  # (g·h, point): p_g at p_h(i)
    number = {tuple(row): g for g, row in enumerate(permutations.tolist())}
    table = [number.get(tuple(row), -1) for row in products.tolist()]
    if -1 in table:
        raise ValueError(
            f"a group must be closed: wanted all {len(table)} products in the list, got {table.count(-1)} outside. "
            "Add the products, and the products of these, until nothing new appears."
        )
    return torch.tensor(table, device=permutations.device).reshape(len(number), -1)


def inverses(table: Int64[Tensor, "order order"]) -> Int64[Tensor, " order"]:
    """The inverse of every element of a group: what undoes it.

    In a formula, for every g::

        table[g, inverse[g]] = table[inverse[g], g] = 0

    Args:
        table: the Cayley table of a group, ``table[g, h]`` is g·h; element 0 is the identity.

    Returns:
        One element for each element, int64, on the device of the table.

    Raises:
        ValueError: not a square table of int64 indices of its own rows.

    >>> inverses(torch.tensor([[0, 1, 2], [1, 2, 0], [2, 0, 1]]))
    tensor([0, 2, 1])
    """
    require_sizes(table=(table, "order order"))
    require_indices(len(table), table=table)
    return (table == 0).to(torch.int64).argmax(dim=1)


def regular_representation(table: Int64[Tensor, "order order"]) -> Float[Tensor, "order order order"]:
    """Each element as the matrix that permutes the basis as it permutes the group.

    In a formula, with one basis vector e_h for each element h::

        ρ(g)·e_h = e_{g·h}

    Column h of ``ρ(g)`` is therefore 0 but for a single 1, in row g·h. The **left** regular representation: g stands on
    the left of h.

    Args:
        table: the Cayley table of a group, ``table[g, h]`` is g·h; element 0 is the identity.

    Returns:
        ``matrices[g]`` is ρ(g); in torch's default dtype (``torch.get_default_dtype()``), on the device of the table.

    Raises:
        ValueError: not a square table of int64 indices of its own rows.

    Source: Serre (1977), *Linear representations of finite groups*, section 1.2.

    >>> regular_representation(torch.tensor([[0, 1, 2], [1, 2, 0], [2, 0, 1]]))[1]  # e_0 → e_1 → e_2 → e_0
    tensor([[0., 0., 1.],
            [1., 0., 0.],
            [0., 1., 0.]])
    """
    require_sizes(table=(table, "order order"))
    require_indices(len(table), table=table)
    return F.one_hot(table, len(table)).transpose(1, 2).to(torch.get_default_dtype())


def is_representation(
    table: Int64[Tensor, "order order"], matrices: Float[Tensor, "order d d"], tolerance: float
) -> bool:
    """Whether matrices multiply as the elements of a group do, and the identity is the identity matrix.

    In a formula, with ρ(g) for ``matrices[g]``, up to a tolerance::

        ρ(0) = I          ρ(g)·ρ(h) = ρ(g·h)     for all g and h

    Normalisation: absolute deviations, entry by entry. **Every** entry of **every** equation must be off by at most the
    tolerance: no mean, no norm, nothing relative.

    Args:
        table: the Cayley table of a group, ``table[g, h]`` is g·h; element 0 is the identity.
        matrices: one square matrix an element.
        tolerance: the largest deviation that passes, ≥ 0.

    Returns:
        A Python bool.

    Raises:
        ValueError: not a square table of int64 indices, another number of matrices, matrices that are not square, NaN
            or infinity, or a negative tolerance.

    Source: Serre (1977), *Linear representations of finite groups*, section 1.1.

    >>> turns = torch.tensor([[0, 1], [1, 0]])  # C2
    >>> is_representation(turns, torch.tensor([[[1.0]], [[-1.0]]]), tolerance=1e-6)
    True
    >>> is_representation(turns, torch.tensor([[[0.0]], [[0.0]]]), tolerance=1e-6)  # multiplies rightly, but 0 is not I
    False
    """
    require_finite(matrices=matrices)
    require_sizes(table=(table, "order order"), matrices=(matrices, "order d d"))
    require_indices(len(table), table=table)
    require_nonnegative(tolerance=tolerance)
    off = matrices[:, None] @ matrices - matrices[table]  # (g, h, row, column): ρ(g)·ρ(h) − ρ(g·h)
    identity = torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
    return max(off.abs().max(), (matrices[0] - identity).abs().max()).item() <= tolerance


def group_average(
    function: Callable[[Tensor], Tensor],
    x: Float[Tensor, " batch *shape"],
    table: Int64[Tensor, "order order"],
    action: Action,
    output_action: Action | None = None,
) -> Float[Tensor, " batch *out"]:
    """A function averaged over a group: invariant, or equivariant, whatever the function was.

    In a formula, with g·x for ``action(x, g)`` and ρ(g)·y for ``output_action(y, g)``::

        f̄(x) = 1/|G| · Σ_g f(g·x)                 without an output action: f̄(g·x) = f̄(x)
        f̄(x) = 1/|G| · Σ_g ρ(g⁻¹)·f(g·x)          with one:                 f̄(g·x) = ρ(g)·f̄(x)

    Normalisation: a **mean** over all |G| elements of the group, the identity among them. An image that some elements
    leave as it is counts once for each of them.

    Args:
        function: maps a batch to outputs, (batch, ...), each example on its own.
        x: a batch of inputs.
        table: the Cayley table of the group, ``table[g, h]`` is g·h; element 0 is the identity.
        action: ``action(x, g)`` moves a batch of inputs by the element g, a Python int; a left action:
            ``action(action(x, h), g)`` is ``action(x, table[g, h])``.
        output_action: the same for outputs. None: they should not move.

    Returns:
        One output an example, as ``function`` gives it. Differentiable in ``x`` and in whatever ``function``
        is made of.

    Raises:
        ValueError: not a batch of finite floating-point numbers, or not a square table of int64 indices.

    Source: Yarotsky (2022), *Universal approximations of invariant maps by neural networks*, section 2.1.

    >>> table = torch.tensor([[0, 1, 2], [1, 2, 0], [2, 0, 1]])
    >>> def shift(x, g):
    ...     return x.roll(g, dims=1)
    >>> first = lambda x: x[:, 0]  # which of the three stands first changes with the shift; the mean does not
    >>> group_average(first, torch.tensor([[1.0, 2.0, 6.0]]), table, shift)
    tensor([3.])
    """
    require_finite(x=x)
    require_sizes(x=(x, "batch *shape"), table=(table, "order order"))
    require_indices(len(table), table=table)
    total = 0
    for g, undo in enumerate(inverses(table).tolist()):
        output = function(action(x, g))
        total = total + (output if output_action is None else output_action(output, undo))
    return total / len(table)


# --- groups ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Group:
    """A finite group; its elements are the integers 0 … order − 1, and 0 is the identity.

    Attributes:
        name: as in the literature, for instance ``C4``.
        table: the Cayley table, int64 of shape (order, order): ``table[g, h]`` is g·h (first h, then g).
        turns: n, where the group turns the plane in steps of 2π/n; 0 where it does not act on the plane.
        mirrors: whether it mirrors the plane too. Then element ``f·n + k`` mirrors f times (left and right swapped),
            **then** turns k steps counter-clockwise.

    >>> turns = cyclic(4)
    >>> turns.order, turns.table[1, 3].item(), turns.inverse.tolist()
    (4, 0, [0, 3, 2, 1])
    """

    name: str
    table: Tensor
    turns: int = 0
    mirrors: bool = False

    @property
    def order(self) -> int:
        """The number of elements."""
        return len(self.table)

    @functools.cached_property
    def inverse(self) -> Int64[Tensor, " order"]:
        """The inverse of each element."""
        return inverses(self.table)

    @property
    def exact_on_grid(self) -> bool:
        """Whether every element maps the pixels of a square onto pixels (C1, C2, C4, D1, D2 and D4 do)."""
        return self.turns in (1, 2, 4)

    def __reduce__(self) -> tuple:
        """A copy of C_n or D_n is the same object, out of a file too: what is kept for a group is found again."""
        make = dihedral if self.mirrors else cyclic
        if self.turns > 0 and make(self.turns) is self:
            return make, (self.turns,)
        return Group, (self.name, self.table, self.turns, self.mirrors)

    def __repr__(self) -> str:
        """Return the name."""
        return f"Group({self.name})"


@functools.cache
@torch.inference_mode(False)  # a table is kept for the whole process: an ordinary tensor, on the CPU
def cyclic(n: int) -> Group:
    """C_n: the turns of the plane by multiples of 2π/n. Element k turns k steps counter-clockwise.

    Args:
        n: the order, at least 1.

    Returns:
        The group; called twice, the same object.

    Raises:
        ValueError: n is not a positive integer.

    >>> cyclic(5).table[3, 4].item()  # three steps and four are seven, so two
    2
    """
    require_positive_integer(n=n)
    k = torch.arange(n, device="cpu")
    return Group(f"C{n}", (k[:, None] + k) % n, turns=n)


@functools.cache
@torch.inference_mode(False)
def dihedral(n: int) -> Group:
    """D_n, of order 2n: the turns of C_n, each also after swapping left and right.

    A mirror reverses a turn that came before it, so with (f, k) for the element f·n + k::

        (f, k)·(f', k') = (f + f' mod 2,  k + (−1)^f · k' mod n)

    Args:
        n: the number of turns, at least 1. D1 is a mirror alone.

    Returns:
        The group; called twice, the same object.

    Raises:
        ValueError: n is not a positive integer.

    >>> d4 = dihedral(4)
    >>> d4.table[1, 4].item(), d4.table[4, 1].item()  # mirror and then turn; turn and then mirror
    (5, 7)
    """
    require_positive_integer(n=n)
    element = torch.arange(2 * n, device="cpu")
    k, f = element % n, element // n
    turned = (k[:, None] + (1 - 2 * f[:, None]) * k) % n
    return Group(f"D{n}", (f[:, None] + f) % 2 * n + turned, turns=n, mirrors=True)


def direct_product(first: Group, second: Group) -> Group:
    """Pairs (a, b), multiplied part by part; the pair is the element ``a · second.order + b``.

    Args:
        first: the group of the first parts.
        second: the group of the second parts.

    Returns:
        A group of order ``first.order · second.order`` that does not act on the plane.

    >>> direct_product(cyclic(2), cyclic(3)).table[1 * 3 + 2, 1 * 3 + 2].item()  # (1, 2)·(1, 2) = (0, 1)
    1
    """
    pair = torch.arange(first.order * second.order, device=first.table.device)
    a, b = pair // second.order, pair % second.order
    table = first.table[a[:, None], a] * second.order + second.table[b[:, None], b]
    return Group(f"{first.name}×{second.name}", table)


def broken_axiom(table: Int64[Tensor, "order order"]) -> str | None:
    """Which axiom of a group a table breaks first, with an example; None if it breaks none.

    Args:
        table: a square table of integers; element 0 should be the identity.

    Returns:
        A sentence, or None. Looked at in turn: closure, identity, inverses, associativity.

    Raises:
        ValueError: the table is not square, or does not hold int64.

    >>> broken_axiom(torch.tensor([[0, 1, 2], [1, 0, 2], [2, 2, 0]]))
    'not associative: (1·2)·2 = 0, but 1·(2·2) = 1'
    """
    require_sizes(table=(table, "order order"))
    order = len(table)
    outside = (table < 0) | (table >= order)
    if outside.any():
        g, h = outside.nonzero()[0].tolist()
        return f"not closed: {g}·{h} = {table[g, h].item()} is no element"
    require_indices(order, table=table)
    elements = torch.arange(order, device=table.device)
    moved = (table[0] != elements) | (table[:, 0] != elements)
    if moved.any():
        g = moved.nonzero()[0].item()
        return f"0 is not the identity: 0·{g} = {table[0, g].item()}, {g}·0 = {table[g, 0].item()}"
    alone = ~((table == 0) & (table.T == 0)).any(dim=1)
    if alone.any():
        return f"no inverse: nothing undoes {alone.nonzero()[0].item()} from both sides"
    left, right = table[table], table[:, table]  # (g, h, k): (g·h)·k and g·(h·k)
    if not torch.equal(left, right):
        g, h, k = (left != right).nonzero()[0].tolist()
        return f"not associative: ({g}·{h})·{k} = {left[g, h, k].item()}, but {g}·({h}·{k}) = {right[g, h, k].item()}"
    return None


def is_group(table: Int64[Tensor, "order order"]) -> bool:
    """Whether a table is the Cayley table of a group with 0 as its identity; ``broken_axiom`` says why not.

    Args:
        table: a square table of integers.

    Returns:
        A Python bool.

    Raises:
        ValueError: the table is not square, or does not hold int64.

    >>> is_group(cyclic(7).table), is_group(cyclic(7).table.flip(0))
    (True, False)
    """
    return broken_axiom(table) is None


# --- actions -----------------------------------------------------------------------------------------------------


def _require_turns(group: Group) -> None:
    if group.turns < 1:
        raise ValueError(
            f"the group must act on the plane: wanted C_n or D_n, got {group.name}. Take cyclic(n) or dihedral(n)."
        )


def plane_matrices(group: Group) -> Float[Tensor, "order 2 2"]:
    """Each element as a matrix on points (u right, v **up**), float64; entries at quarter turns are exactly 0, ±1.

    Args:
        group: C_n or D_n.

    Returns:
        A representation: ``matrices[g] @ matrices[h]`` is ``matrices[table[g, h]]`` up to rounding.

    Raises:
        ValueError: the group does not act on the plane.

    >>> plane_matrices(dihedral(4))[5]  # mirrored, then turned by 90 degrees: the diagonal stays
    tensor([[ 0., -1.],
            [-1.,  0.]], dtype=torch.float64)
    """
    _require_turns(group)
    steps = torch.arange(group.turns, dtype=torch.float64) * (2 * math.pi / group.turns)
    cos, sin = (part.where(part.abs() > 1e-15, 0.0) for part in (steps.cos(), steps.sin()))
    turns = torch.stack([cos, -sin, sin, cos], dim=1).reshape(-1, 2, 2)
    mirror = torch.tensor([[-1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    return torch.cat([turns, turns @ mirror]) + 0.0 if group.mirrors else turns  # + 0.0: no zero is negative


def act_on_grid(
    x: Float[Tensor, "*batch height width"], group: Group, element: int
) -> Float[Tensor, "*batch height width"]:
    """The element acts on images: (g·x)(p) = x(g⁻¹·p), about the centre of the image.

    Quarter turns and mirrors move pixels and are exact (a quarter turn of an image that is not square swaps its sides).
    Every other turn interpolates bilinearly, zeros outside.

    Args:
        x: images of any size; for elements that are exact, of any dtype.
        group: C_n or D_n.
        element: which element, 0 … order − 1.

    Returns:
        Moved images on the device and in the dtype of ``x``. Differentiable (linear) in x.

    Raises:
        ValueError: not images, integers where it must interpolate, no such element, or a group that does not act on
            the plane.

    >>> act_on_grid(torch.tensor([[1, 2], [3, 4]]), cyclic(4), 1)  # a quarter turn, counter-clockwise
    tensor([[2, 4],
            [1, 3]])
    """
    _require_turns(group)
    require_sizes(x=(x, "*batch height width"))
    require_integer_between(0, group.order - 1, element=element)
    k, mirrored = element % group.turns, element >= group.turns
    if mirrored:
        x = x.flip(-1)
    if 4 * k % group.turns == 0:
        return x.rot90(4 * k // group.turns, (-2, -1))
    if not x.is_floating_point():
        raise ValueError(
            f"pixels must be floating point to be interpolated: wanted float, got {x.dtype}. Call .float()."
        )
    height, width = x.shape[-2:]
    angle = 2 * math.pi * k / group.turns
    cos, sin = math.cos(angle), math.sin(angle)
    # half-precision numbers are too coarse for places: only what is found there is rounded to them
    flat = x.reshape(1, -1, height, width).to(torch.promote_types(x.dtype, torch.float32))
    # grid_sample's axes: right and down, each from -1 to 1; the point that is looked up is turned back
    theta = flat.new_tensor([[cos, -sin * height / width, 0.0], [sin * width / height, cos, 0.0]])
    grid = F.affine_grid(theta[None], flat.shape, align_corners=False)
    return F.grid_sample(flat, grid, align_corners=False).reshape(x.shape).to(x.dtype)


def grid_permutations(group: Group, size: int) -> Int64[Tensor, "order pixel"]:
    """Where the pixels of a turned or mirrored square come from: pixel i of g·x is pixel ``index[g, i]`` of x.

    Only for groups that are exact on the grid. Pixels are numbered row by row::

        (g·x).flatten() = x.flatten()[index[g]]

    As maps of pixels these are the *inverses* i ↦ g⁻¹(i), so ``index[h][index[g]] = index[table[g, h]]``, the two the
    other way round.

    Args:
        group: C1, C2, C4, D1, D2 or D4.
        size: the height and width of the square.

    Returns:
        One permutation of the ``size · size`` pixels for each element, int64.

    Raises:
        ValueError: another group, or a size that is not a positive integer.

    >>> grid_permutations(cyclic(2), 2)
    tensor([[0, 1, 2, 3],
            [3, 2, 1, 0]])
    """
    require_positive_integer(size=size)
    if not group.exact_on_grid:
        raise ValueError(
            f"every element must map pixels onto pixels: wanted C1, C2, C4, D1, D2 or D4, got {group.name}. "
            "Use act_on_grid, which interpolates."
        )
    pixels = torch.arange(size * size).reshape(size, size)
    return torch.stack([act_on_grid(pixels, group, element).flatten() for element in range(group.order)])


def act_on_signal(
    signal: Shaped[Tensor, " *shape"], group: Group, element: int, dim: int = -1
) -> Shaped[Tensor, " *shape"]:
    """The element acts on functions on the group: (g·f)(h) = f(g⁻¹·h).

    The value that stood at h stands at g·h afterwards: on the values as a column it is ``regular_representation``.
    A feature map with one channel an element, (batch, order, height, width), is turned by moving its pixels and
    permuting its channels: ``act_on_signal(act_on_grid(x, group, g), group, g, dim=-3)``.

    Args:
        signal: along ``dim`` one value for each element of the group; any dtype.
        group: the group.
        element: g, 0 … order − 1.
        dim: the axis that counts the elements.

    Returns:
        The same values, permuted. Differentiable (linear) in the signal.

    Raises:
        ValueError: an axis of another length, or no such element.

    >>> act_on_signal(torch.tensor([10, 11, 12]), cyclic(3), 1)
    tensor([12, 10, 11])
    """
    require_integer_between(0, group.order - 1, element=element)
    if not -signal.ndim <= dim < signal.ndim or signal.shape[dim] != group.order:
        raise ValueError(
            f"a signal must have one value an element: wanted length {group.order} along axis {dim}, "
            f"got shape {tuple(signal.shape)}. Which axis counts the elements of {group.name}?"
        )
    return signal.index_select(dim, group.table[group.inverse[element]].to(signal.device))


def orbits(permutations: Int64[Tensor, "order point"]) -> Int64[Tensor, " point"]:
    """To which orbit each point belongs; the points of one orbit are carried into each other.

    By Burnside's lemma their number is the mean number of points that an element leaves in place.

    Args:
        permutations: all elements of a group, as maps of points (of these, or of their inverses).

    Returns:
        For each point the number of its orbit, counted from 0 in the order in which their first points stand.

    Raises:
        ValueError: not int64 indices of points.

    >>> orbits(grid_permutations(cyclic(4), 3)).reshape(3, 3)  # corners, edges, centre
    tensor([[0, 1, 0],
            [1, 2, 1],
            [0, 1, 0]])
    """
    require_sizes(permutations=(permutations, "order point"))
    require_indices(permutations.shape[1], permutations=permutations)
    return permutations.amin(dim=0).unique(return_inverse=True)[1]


# --- averages ----------------------------------------------------------------------------------------------------


class Averaged(nn.Module):
    """A model averaged over a group that acts on its images: an invariant head for any network.

    All copies of the batch go through the model at once, so the cost is that of |G| passes. Invariance is exact where
    the group is exact on the grid; elsewhere it is as good as the interpolation.

    Args:
        model: maps square images to outputs, each example on its own.
        group: C_n or D_n.

    >>> model = Averaged(nn.Sequential(nn.Flatten(), nn.Linear(9, 2)), cyclic(4))
    >>> x = torch.rand(5, 1, 3, 3)
    >>> torch.allclose(model(x), model(x.rot90(1, (-2, -1))))
    True
    """

    def __init__(self, model: nn.Module, group: Group):
        """Keep both; the model is not copied."""
        super().__init__()
        _require_turns(group)
        self.model, self.group = model, group

    def forward(self, x: Float[Tensor, "batch channels size size"]) -> Float[Tensor, " batch *out"]:
        """The mean of the model's outputs over the group."""
        copies = _poses(x, self.group)
        return self.model(copies.flatten(0, 1)).unflatten(0, copies.shape[:2]).mean(dim=0)


def _poses(x: Tensor, group: Group) -> Tensor:
    """All moved copies, (order, batch, channels, size, size)."""
    require_sizes(x=(x, "batch channels size size"))
    return torch.stack([act_on_grid(x, group, element) for element in range(group.order)])


def grid_frame(x: Float[Tensor, "batch channels size size"], group: Group) -> Bool[Tensor, "order batch"]:
    """The canonical poses of each image: the copies g·x whose ink lies farthest towards one fixed direction.

    In a formula, with the positions p = (u right, v up) from the image's centre and q = (1/2, 1)::

        s(x) = Σ_p ⟨q, p⟩ · x(p)          g belongs to it where  s(g·x) = max over h of s(h·x)

    That is a condition on the first moments. Every image of an orbit has the same canonical poses: mostly one, more
    where the ink balances (an image that a turn leaves as it is).

    Args:
        x: images.
        group: C_n or D_n, at best one that is exact on the grid.

    Returns:
        True where g·x is canonical; at least one an image. Two sums count as equal up to rounding: 1e-5 times the sum
        of all absolute terms.

    Raises:
        ValueError: not square images, or a group that does not act on the plane.

    Source: Puny et al. (2022), *Frame averaging for invariant and equivariant network design*, for frames.

    >>> dot = torch.zeros(1, 1, 3, 3); dot[..., 2, 1] = 1.0  # below the centre: half a turn takes it up
    >>> grid_frame(dot, cyclic(4))[:, 0]
    tensor([False, False,  True, False])
    """
    _require_turns(group)
    poses = _poses(x, group)
    place = torch.arange(x.shape[-1], dtype=x.dtype, device=x.device) - (x.shape[-1] - 1) / 2
    heights = 0.5 * place - place[:, None]
    terms = (poses * heights).flatten(2)  # (order, batch, pixel)
    sums = terms.sum(dim=2)
    return sums >= sums.amax(dim=0) - 1e-5 * terms.abs().sum(dim=2).amax(dim=0)


def frame_average(
    function: Callable[[Tensor], Tensor], x: Float[Tensor, "batch channels size size"], group: Group
) -> Float[Tensor, " batch *out"]:
    """A function averaged over the canonical poses of each image only: invariant, at the cost of about one pass.

    Args:
        function: maps images to outputs, each example on its own.
        x: square images.
        group: C_n or D_n, at best one that is exact on the grid.

    Returns:
        For each image the mean of ``function`` over the poses that ``grid_frame`` chooses. Differentiable in the
        function, but it jumps where the choice changes.

    Raises:
        ValueError: as ``grid_frame``.

    Source: Puny et al. (2022), *Frame averaging for invariant and equivariant network design*, equation 3.

    >>> x = torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]])
    >>> pixels = lambda x: x.flatten(1)
    >>> frame_average(pixels, x, cyclic(4)), frame_average(pixels, x.rot90(1, (-2, -1)), cyclic(4))
    (tensor([[1., 3., 0., 2.]]), tensor([[1., 3., 0., 2.]]))
    """
    poses, chosen = _poses(x, group), grid_frame(x, group)
    outputs = function(poses[chosen])  # as a rule one pose an image
    owner = chosen.nonzero()[:, 1]
    total = outputs.new_zeros(len(x), *outputs.shape[1:]).index_add(0, owner, outputs)
    return total / chosen.sum(dim=0).reshape(-1, *[1] * (outputs.ndim - 1))


def pca_frame(
    points: Float[Tensor, "batch point 2"], weights: Float[Tensor, "batch point"]
) -> Float[Tensor, "batch 4 2 2"]:
    """The frame of a cloud of points in the plane under all rotations and mirrors: its principal axes, up to signs.

    In a formula, with the weighted mean c and the eigenvectors v₁, v₂ of Σᵢ wᵢ·(pᵢ − c)(pᵢ − c)ᵀ::

        F(p) = { [α₁·v₁ | α₂·v₂] :  α₁, α₂ = ±1 }          F(R·p) = R·F(p)

    The mean of f(g⁻¹·(p − c)) over the four g in F(p) does not change when the cloud is turned, mirrored or moved.

    Args:
        points: positions.
        weights: how much each counts, ≥ 0, not all 0.

    Returns:
        Four orthogonal matrices a cloud. Where both eigenvalues agree (a square, a disc) there is no such frame, and
        rounding chooses the axes.

    Raises:
        ValueError: sizes or dtypes that do not fit, NaN or infinity.

    Source: Puny et al. (2022), *Frame averaging for invariant and equivariant network design*, section 3.1.

    >>> cloud = torch.tensor([[[-2.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, -1.0]]])
    >>> pca_frame(cloud, torch.ones(1, 4)).abs()[0, 0]  # the short axis first, as eigh sorts
    tensor([[0., 1.],
            [1., 0.]])
    """
    require_finite(points=points, weights=weights)
    require_sizes(points=(points, "batch point 2"), weights=(weights, "batch point"))
    weights = weights / weights.sum(dim=1, keepdim=True)
    centred = points - (weights[..., None] * points).sum(dim=1, keepdim=True)
    axes = torch.linalg.eigh(torch.einsum("bp,bpi,bpj->bij", weights, centred, centred)).eigenvectors
    signs = torch.tensor(list(itertools.product((1.0, -1.0), repeat=2))).to(axes)
    return axes[:, None] * signs[:, None]  # (batch, sign, row, column)
