"""Parameter sharing: a layer that obeys a symmetry has equal weights, and the symmetry says which.

Convolution is the dense layer that commutes with shifts (LeCun et al. 1989). For any finite group an average finds the
layers that commute with it, a character sum counts their weights, and orbits say which are tied (Shawe-Taylor 1989;
Ravanbakhsh, Schneider & Póczos 2017). Chapter: ``book/parameter_sharing.md``.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from course_lib.preconditions import (
    require_finite,
    require_indices,
    require_integer_between,
    require_invertible,
    require_odd,
    require_positive_integer,
    require_sizes,
)


def circulant(kernel: Float[Tensor, " taps"], size: int) -> Float[Tensor, "size size"]:
    """The matrix of circular convolution with a kernel.

    In a formula, with m taps k₀ … kₘ₋₁, kᵣ = 0 for r ≥ m, and all indices modulo n::

        C[i, j] = k[(i − j) mod n]          so that          (C·x)ᵢ = Σᵣ kᵣ · x[(i − r) mod n]

    The convention is that of convolution, not of cross-correlation, and the kernel is not centred: its first entry
    stands on the diagonal, its second just **below** it, and what leaves at the bottom comes in at the top. The first
    column is the kernel, followed by zeros. Nothing is normalised.

    Args:
        kernel: m taps, from 1 to ``size`` of them. It is not changed.
        size: n, the length of the signals.

    Returns:
        C, on the device and in the dtype of the kernel. Differentiable (linear) in it: a tap's gradient is the sum over
        its n places.

    Raises:
        ValueError: not one row of taps, NaN or infinity, or a size smaller than the number of taps or above 2¹⁵.

    Source: LeCun et al. (1989), *Backpropagation applied to handwritten zip code recognition*, weight sharing; without
    borders.

    >>> circulant(torch.tensor([1.0, 2.0]), 4)
    tensor([[1., 0., 0., 2.],
            [2., 1., 0., 0.],
            [0., 2., 1., 0.],
            [0., 0., 2., 1.]])
    """
    require_finite(kernel=kernel)
    require_sizes(kernel=(kernel, "taps"))
    require_integer_between(len(kernel), 2**15, size=size)
    column = F.pad(kernel, (0, size - len(kernel)))
    place = torch.arange(size, device=kernel.device)
    return column[(place[:, None] - place) % size]


def convolution_matrix(
    kernel: Float[Tensor, "out in rows columns"], height: int, width: int
) -> Float[Tensor, "out*height*width in*height*width"]:
    """The matrix with which a convolutional layer acts on images written as one column of pixels.

    In a formula, for output pixel (r, c) of map o and input pixel (s, d) of map i, with a kernel of R × S, both odd::

        M[(o, r, c), (i, s, d)] = kernel[o, i, s − r + (R − 1)/2, d − c + (S − 1)/2],   0 where there is no such entry

    This is what deep learning calls convolution: a **cross-correlation** (the kernel is not turned around), zeros
    outside the image, stride 1, output of the size of the input; ``F.conv2d`` with the padding ((R − 1)/2, (S − 1)/2).
    Images are flattened as ``flatten`` does it: map after map, row after row. Nothing is normalised.

    Args:
        kernel: as in ``nn.Conv2d``; rows and columns odd, not necessarily equal, perhaps larger than the image. It is
            not changed.
        height: rows of the images.
        width: columns of the images.

    Returns:
        M, on the device and in the dtype of the kernel. Differentiable (linear) in it.

    Raises:
        ValueError: not a kernel with four axes, an even side, NaN or infinity, or a height or width below 1.

    Source: LeCun et al. (1989), *Backpropagation applied to handwritten zip code recognition*, weight sharing.

    >>> convolution_matrix(torch.tensor([[[[1.0, 2.0, 3.0]]]]), height=1, width=4)
    tensor([[2., 3., 0., 0.],
            [1., 2., 3., 0.],
            [0., 1., 2., 3.],
            [0., 0., 1., 2.]])
    """
    require_finite(kernel=kernel)
    require_sizes(kernel=(kernel, "out in rows columns"))
    require_odd(rows=kernel.shape[2], columns=kernel.shape[3])
    require_positive_integer(height=height, width=width)
    places, inside = [], []
    for length, taps in zip((height, width), kernel.shape[2:], strict=True):
        place = torch.arange(length, device=kernel.device)
        tap = place - place[:, None] + taps // 2  # (output place, input place)
        places.append(tap.clamp(0, taps - 1))
        inside.append((tap >= 0) & (tap < taps))
    weights = kernel[:, :, places[0][:, None, :, None], places[1][:, None]]  # (out, in, height, width, height, width)
    weights = weights * (inside[0][:, None, :, None] & inside[1][:, None])
    return weights.movedim(1, 3).flatten(3).flatten(0, 2)


def tie_by_averaging(
    weight: Float[Tensor, "out in"], rho_in: Float[Tensor, "order in in"], rho_out: Float[Tensor, "order out out"]
) -> Float[Tensor, "out in"]:
    """The Reynolds operator: the average of a weight matrix over a finite group commutes with the group.

    In a formula, for a group whose element g acts on inputs by ρ_in(g) and on outputs by ρ_out(g)::

        P(W) = 1/|G| · Σ_g ρ_out(g) · W · ρ_in(g)⁻¹

    Then P(W)·ρ_in(g) = ρ_out(g)·P(W) for every g, and P(W) = W if W has this property already. Normalisation: a mean
    over the elements. The matrices need not be orthogonal, so the inverse is not always the transpose.

    Args:
        weight: W, of shape (out, in) as in ``nn.Linear``. It is not changed.
        rho_in: one matrix for each element of the group, all elements, in any order. Different elements may have
            equal matrices.
        rho_out: the matrices of the same elements in the same order.

    Returns:
        P(W), on the device and in the dtype of ``weight``. Differentiable (linear) in it.

    Raises:
        ValueError: sizes or dtypes that do not fit, NaN or infinity, or matrices without an inverse.

    Source: Shawe-Taylor (1989), *Building symmetries into feedforward networks*, has the ties for permutations; the
    average is older.

    >>> swap = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]])
    >>> tie_by_averaging(torch.tensor([[1.0, 2.0], [4.0, 5.0]]), swap, swap)
    tensor([[3., 3.],
            [3., 3.]])
    """
    require_finite(weight=weight, rho_in=rho_in, rho_out=rho_out)
    require_sizes(weight=(weight, "out in"), rho_in=(rho_in, "order in in"), rho_out=(rho_out, "order out out"))
    require_invertible(rho_in=rho_in, rho_out=rho_out)
    return (rho_out @ weight @ torch.linalg.inv(rho_in)).mean(dim=0)


def equivariant_dimension(rho_in: Float[Tensor, "order in in"], rho_out: Float[Tensor, "order out out"]) -> int:
    """How many free weights a linear layer keeps when it commutes with a finite group.

    In a formula, with the characters χ(g) = tr ρ(g)::

        dim {W : W·ρ_in(g) = ρ_out(g)·W for all g} = 1/|G| · Σ_g χ_out(g) · χ_in(g)

    It is the trace of the projection ``tie_by_averaging``. (For real matrices χ(g⁻¹) = χ(g), so no inverse is needed.)
    Normalisation: a mean over the elements.

    Args:
        rho_in: one matrix for each element of the group, all elements, in any order; real, orthogonal or not. Different
            elements may have equal matrices. All may be rounded to a few decimals, so they need not obey the group's
            equations exactly: a rank needs a generous tolerance.
        rho_out: the matrices of the same elements in the same order.

    Returns:
        The dimension, a Python int; the mean above is an integer up to rounding, so the nearest one is meant. A single
        character need not be an integer.

    Raises:
        ValueError: sizes or dtypes that do not fit, NaN or infinity.

    Source: Shawe-Taylor (1989), *Building symmetries into feedforward networks*, counts orbits of weights; the
    character sum is Schur's and Burnside's.

    >>> swap = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]])
    >>> equivariant_dimension(swap, swap)  # [[a, b], [b, a]]
    2
    """
    require_finite(rho_in=rho_in, rho_out=rho_out)
    require_sizes(rho_in=(rho_in, "order in in"), rho_out=(rho_out, "order out out"))
    of_inputs, of_outputs = (rho.double().diagonal(dim1=1, dim2=2).sum(dim=1) for rho in (rho_in, rho_out))
    return round((of_outputs * of_inputs).mean().item())


def orbit_labels(move_in: Int64[Tensor, "order in"], move_out: Int64[Tensor, "order out"]) -> Int64[Tensor, "out in"]:
    """Which weights of a layer are tied when a group permutes its inputs and outputs.

    In a formula: g moves input j to ``move_in[g, j]`` and output i to ``move_out[g, i]``. The weight from j to i must
    equal the weight between the places to which g moves the two::

        W[move_out[g, i], move_in[g, j]] = W[i, j]     for all g

    So all pairs (i, j) of one orbit share one label, and pairs of different orbits have different labels. Labels count
    0, 1, 2, … in the order in which they first appear when the table is read row after row. With one free number a
    label, ``free[labels]`` is the weight matrix of an equivariant layer, and every equivariant layer is of this kind.

    Args:
        move_in: one permutation of the inputs for each element of the group, all elements, in any order.
        move_out: the permutations of the outputs by the same elements in the same order.

    Returns:
        The table of labels, int64, on the device of ``move_in``. ``labels.max() + 1`` is the number of free weights.

    Raises:
        ValueError: not tables of indices, or different numbers of elements.

    Source: Ravanbakhsh, Schneider & Póczos (2017), *Equivariance through parameter-sharing*.

    >>> around = torch.tensor([[0, 1, 2], [1, 2, 0], [2, 0, 1]])  # three pixels on a ring, shifted by 0, 1, 2
    >>> orbit_labels(around, around)
    tensor([[0, 1, 2],
            [2, 0, 1],
            [1, 2, 0]])
    """
    require_sizes(move_in=(move_in, "order in"), move_out=(move_out, "order out"))
    require_indices(move_in.shape[1], move_in=move_in)
    require_indices(move_out.shape[1], move_out=move_out)
    pairs = move_out[:, :, None] * move_in.shape[1] + move_in[:, None, :]  # (order, out, in): where each pair goes
    return pairs.amin(dim=0).unique(return_inverse=True)[1]


def permutation_matrices(move: Int64[Tensor, "order size"]) -> Float[Tensor, "order size size"]:
    """Permutations as matrices: the entry at place j goes to place ``move[g, j]``.

    Args:
        move: one permutation a row.

    Returns:
        ρ with ρ[g, move[g, j], j] = 1, in the default dtype.

    >>> permutation_matrices(torch.tensor([[1, 2, 0]]))[0] @ torch.tensor([5.0, 6.0, 7.0])
    tensor([7., 5., 6.])
    """
    require_sizes(move=(move, "order size"))
    require_indices(move.shape[1], move=move)
    return F.one_hot(move, move.shape[1]).transpose(1, 2).to(torch.get_default_dtype())


def torus_shifts(height: int, width: int) -> Int64[Tensor, "order pixel"]:
    """All cyclic shifts of an image: what leaves at one edge comes in at the other.

    Element a·width + b moves every pixel a rows down and b columns to the right.

    Args:
        height: rows of the image.
        width: columns of the image.

    Returns:
        A permutation of the height · width pixels, flattened row after row, for each of the height · width shifts.

    >>> torus_shifts(2, 2)
    tensor([[0, 1, 2, 3],
            [1, 0, 3, 2],
            [2, 3, 0, 1],
            [3, 2, 1, 0]])
    """
    require_positive_integer(height=height, width=width)
    row, column = torch.arange(height * width) // width, torch.arange(height * width) % width
    return (row[:, None] + row) % height * width + (column[:, None] + column) % width


def average_ties(
    weight: Float[Tensor, "*batch out in"], labels: Int64[Tensor, "out in"]
) -> Float[Tensor, "*batch out in"]:
    """The nearest weights with the given ties: each becomes the mean of all that share its label.

    For the labels of ``orbit_labels`` it is ``tie_by_averaging`` with permutation matrices, at the cost of one pass.

    Args:
        weight: any number of matrices. They are not changed.
        labels: as ``orbit_labels`` makes them.

    Returns:
        The projected matrices. Differentiable.

    >>> average_ties(torch.tensor([[1.0, 2.0], [4.0, 5.0]]), torch.tensor([[0, 1], [1, 0]]))
    tensor([[3., 3.],
            [3., 3.]])
    """
    require_finite(weight=weight)
    require_sizes(weight=(weight, "... out in"), labels=(labels, "out in"))
    flat, into = weight.flatten(-2), labels.flatten().expand(weight.flatten(-2).shape)
    sums = flat.new_zeros(*flat.shape[:-1], int(labels.max()) + 1).scatter_add(-1, into, flat)
    return (sums / labels.flatten().bincount()).gather(-1, into).reshape(weight.shape)


class TiedLinear(nn.Module):
    """A linear layer for any group of permutations: one free weight an orbit, and a bias for each orbit of outputs.

    Args:
        move_in: how each element of the group permutes the inputs.
        move_out: how the same elements permute the outputs.
        seed: fixes the initial weights.

    >>> layer = TiedLinear(torus_shifts(8, 8), torus_shifts(8, 8), seed=0)
    >>> [parameter.numel() for parameter in layer.parameters()]  # instead of 64 · 64 and 64
    [64, 1]
    """

    def __init__(self, move_in: Int64[Tensor, "order in"], move_out: Int64[Tensor, "order out"], seed: int):
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.register_buffer("labels", orbit_labels(move_in, move_out))
        self.register_buffer("bias_labels", orbit_labels(torch.zeros_like(move_out[:, :1]), move_out)[:, 0])
        count, inputs = int(self.labels.max()) + 1, move_in.shape[1]
        self.free = nn.Parameter(torch.randn(count, generator=draw) / math.sqrt(inputs))
        self.free_bias = nn.Parameter(torch.zeros(int(self.bias_labels.max()) + 1))

    def forward(self, x: Float[Tensor, "batch in"]) -> Float[Tensor, "batch out"]:
        """Apply the layer to inputs, one a row."""
        return F.linear(x, self.free[self.labels], self.free_bias[self.bias_labels])


class Windows(nn.Module):
    """Units that look through windows of 5×5 at every second place, two pixels of border around the image.

    Every unit has a bias of its own, as in the network of 1989.

    Args:
        sources: for each map of the layer, the input maps that it sees, all equally many.
        side: rows and columns of the input maps, even.
        tied: whether the units of one map share their weights.
        seed: fixes the initial weights.
    """

    def __init__(self, sources: Int64[Tensor, "map seen"], side: int, tied: bool, seed: int):
        super().__init__()
        self.maps, self.seen, self.places = *sources.shape, (side // 2) ** 2
        draw = torch.Generator().manual_seed(seed)
        fan_in = 25 * self.seen
        self.register_buffer("sources", sources)
        shape = self.maps, 1 if tied else self.places, fan_in
        self.weight = nn.Parameter((2 * torch.rand(shape, generator=draw) - 1) * 2.4 / fan_in)
        self.bias = nn.Parameter(torch.zeros(self.maps, self.places))

    @property
    def connections(self) -> int:
        """Every unit's inputs, the ones from the border included, and its bias."""
        return self.bias.numel() * (25 * self.seen + 1)

    def forward(self, x: Float[Tensor, "n in side side"]) -> Float[Tensor, "n map half half"]:
        """Weighted sums of what each window shows; the border is -1, the background."""
        patches = F.unfold(F.pad(x, (2, 1, 2, 1), value=-1.0), 5, stride=2)  # (n, in * 25, place)
        weight = self.weight.unflatten(2, (-1, 25))
        place = self.sources[:, None, :, None].expand(weight.shape)
        weight = weight.new_zeros(*weight.shape[:2], x.shape[1], 25).scatter_add(2, place, weight).flatten(2)
        tied = weight.shape[1] == 1
        sums = (weight[:, 0] @ patches if tied else torch.einsum("nfp,mpf->nmp", patches, weight)) + self.bias
        return sums.unflatten(2, (math.isqrt(self.places), -1))


class ZipCodeNetwork(nn.Module):
    """The network of LeCun et al. (1989): 16×16 pixels, two layers of windows, 30 hidden units, 10 outputs.

    Each map of the second layer sees eight of the first's twelve. Which ones in the paper is not known to us; here map
    m sees m, m + 1, … m + 7, around. Units are 1.7159·tanh(2a/3).

    Args:
        tied: whether windows share their weights, as in the paper.
        seed: fixes the initial weights.

    >>> network = ZipCodeNetwork(tied=True, seed=0)
    >>> sum(parameter.numel() for parameter in network.parameters()), network.connections
    (9760, 64660)
    """

    def __init__(self, tied: bool, seed: int):
        super().__init__()
        maps = torch.arange(12)
        self.first = Windows(torch.zeros(12, 1, dtype=torch.int64), 16, tied, seed)
        self.second = Windows((maps[:, None] + torch.arange(8)) % 12, 8, tied, seed + 1)
        draw = torch.Generator().manual_seed(seed + 2)
        self.third, self.last = nn.Linear(192, 30), nn.Linear(30, 10)
        for layer in (self.third, self.last):
            nn.init.uniform_(layer.weight, -2.4 / layer.in_features, 2.4 / layer.in_features, generator=draw)
            nn.init.zeros_(layer.bias)

    @property
    def connections(self) -> int:
        """Of all layers."""
        dense = sum(layer.weight.numel() + layer.bias.numel() for layer in (self.third, self.last))
        return self.first.connections + self.second.connections + dense

    def forward(self, x: Float[Tensor, "n 1 16 16"]) -> Float[Tensor, "n 10"]:
        """Ten outputs for images with values from -1 to 1; the largest names the class."""
        for layer in (self.first, self.second, nn.Flatten(), self.third, self.last):
            x = layer(x)
            x = x if isinstance(layer, nn.Flatten) else 1.7159 * torch.tanh(2 / 3 * x)
        return x
