"""Steerable CNNs: layers that commute with every turn of the plane, not only with those of a finite group.

Features are vectors that turn along with the image; the kernels between such fields are sums of circular harmonics,
Freeman & Adelson's steerable filters (1991). Which sums: Weiler & Cesa (2019). Chapter: ``book/steerable_cnns.md``.
"""

import functools
import math
from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from course_lib.group_convolution import ExpandedLayer
from course_lib.preconditions import (
    require_finite,
    require_indices,
    require_nonempty,
    require_nonnegative,
    require_positive,
    require_positive_integer,
    require_sizes,
)

# How many fields of each frequency: ``{0: 8, 1: 4}`` is 8 + 2 · 4 = 16 channels, in order of frequency.
Fields = Mapping[int, int]


def circular_harmonic(
    points: Float[Tensor, "*grid 2"], frequency: int, radius: float, width: float
) -> Float[Tensor, " part *grid"]:
    """A wave along a circle, on a ring with soft edges, at points of the plane.

    In a formula, with the polar coordinates r = √(u² + v²) and φ, the angle of (u, v) counter-clockwise from the
    u-axis::

        ring(r) = exp(−(r − R)² / 2σ²)
        harmonic(u, v) = ring(r) · (cos kφ, sin kφ)

    At the centre, r = 0, there is no angle: there both parts are **0 unless k = 0**. (For k = 0 the parts are the ring
    and 0 everywhere.) Normalisation: the ring is 1 at r = R; nothing is divided by a sum.

    Args:
        points: pairs (u, v), u to the right and v **up**, in pixels; any number of axes before the last.
        frequency: k ≥ 0, the number of waves around the circle.
        radius: R ≥ 0, in pixels.
        width: σ > 0, in pixels.

    Returns:
        The cosine part, then the sine part, on the device and in the dtype of ``points``.

    Raises:
        ValueError: not pairs, NaN or infinity, a negative frequency or radius, or a width that is not positive.

    Source: Weiler & Cesa (2019), *General E(2)-equivariant steerable CNNs*, section 2 and appendix.

    >>> east, north = [2.0, 0.0], [0.0, 2.0]
    >>> circular_harmonic(torch.tensor([east, north, [0.0, 0.0]]), frequency=2, radius=2.0, width=1.0).round(decimals=4)
    tensor([[ 1., -1.,  0.],
            [ 0., -0.,  0.]])
    """
    require_finite(points=points)
    require_sizes(points=(points, "*grid 2"))
    require_nonnegative(frequency=frequency, radius=radius)
    require_positive(width=width)
    u, v = points.unbind(dim=-1)
    r, phi = torch.hypot(u, v), torch.atan2(v, u)
    ring = torch.exp(-(r - radius).square() / (2 * width**2))
    if frequency > 0:
        ring = torch.where(r > 0, ring, 0.0)
    return ring * torch.stack([torch.cos(frequency * phi), torch.sin(frequency * phi)])


def steer(
    coefficients: Float[Tensor, "frequency 2"], frequencies: Int64[Tensor, " frequency"], angles: Float[Tensor, " turn"]
) -> Float[Tensor, "turn frequency 2"]:
    """Turn a filter by turning its coefficients; no pixel is touched.

    The filter, for ``coefficients[i]`` = (aᵢ, bᵢ) and ``frequencies[i]`` = kᵢ, with rings that depend on r alone::

        f(r, φ) = Σᵢ ringᵢ(r) · (aᵢ·cos kᵢφ + bᵢ·sin kᵢφ)

    Turned counter-clockwise by θ it is f(r, φ − θ), a sum of the same harmonics. Return its coefficients, for each
    angle θ.

    Args:
        coefficients: (aᵢ, bᵢ); they are not changed.
        frequencies: kᵢ ≥ 0, integers in any order; some may be equal.
        angles: θ in radians, counter-clockwise, each one turn. Same dtype as the coefficients.

    Returns:
        The coefficients of the turned filter, one set an angle, on the device and in the dtype of ``coefficients``.
        Differentiable in the coefficients and in the angles. Where kᵢ = 0 the sine is 0 everywhere: there bᵢ is free.

    Raises:
        ValueError: shapes or dtypes that do not fit, NaN or infinity.

    Source: Freeman & Adelson (1991), *The design and use of steerable filters*.

    >>> edge = torch.tensor([[1.0, 0.0]])  # cos φ: bright in the east, dark in the west
    >>> steer(edge, torch.tensor([1]), torch.tensor([torch.pi / 2])).round(decimals=4)  # sin φ: bright in the north
    tensor([[[-0., 1.]]])
    """
    require_finite(coefficients=coefficients, angles=angles)
    require_sizes(
        coefficients=(coefficients, "frequency 2"), frequencies=(frequencies, "frequency"), angles=(angles, "turn")
    )
    a, b = coefficients.unbind(dim=-1)
    phase = angles[:, None] * frequencies  # (turn, frequency)
    cos, sin = torch.cos(phase), torch.sin(phase)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1)


def solve_kernel_constraint(
    rho_in: Float[Tensor, "element in in"], rho_out: Float[Tensor, "element out out"], moves: Int64[Tensor, "element p"]
) -> Float[Tensor, "basis p out in"]:
    """All kernels between two kinds of fields, found as a null space.

    A kernel gives each point p a matrix κ(p) of shape (out, in). The constraint, for every g that is given and every
    point p, where g moves p to the point ``moves[g, p]``::

        κ(g·p) = ρ_out(g) · κ(p) · ρ_in(g)⁻¹

    It is linear in κ, so its solutions form a space. Return an **orthonormal** basis of it, for the inner product that
    multiplies two kernels entry by entry and sums over everything. Which orthonormal basis is up to you.

    A singular value of the linear system counts as 0 where it is at most √ε times the largest, with ε =
    ``torch.finfo(rho_in.dtype).eps``, also if you compute in float64: the matrices are rounded to their own dtype. Any
    other cut between rounding errors (about ε) and the rest will do.

    Args:
        rho_in: ρ_in(g), one invertible matrix for each g that is given. It **need not be orthogonal**: its inverse is
            not always its transpose.
        rho_out: ρ_out(g), for the same elements.
        moves: the number of the point to which g moves p, each row a permutation.

    The elements may be the whole group or generators only: what holds for g and h holds for g·h.

    Returns:
        The kernels of the basis, on the device and in the dtype of ``rho_in``; none (length 0) where only κ = 0
        satisfies the constraint.

    Raises:
        ValueError: sizes or dtypes that do not fit, NaN or infinity, or a move to a point that does not exist.

    Source: Weiler & Cesa (2019), *General E(2)-equivariant steerable CNNs*, equation 2.

    >>> mirror, same = torch.tensor([[[-1.0]]]), torch.tensor([[[1.0]]])
    >>> swap = torch.tensor([[1, 0]])  # a mirror swaps left and right
    >>> solve_kernel_constraint(same, mirror, swap).shape  # odd kernels: (1, -1), and nothing else
    torch.Size([1, 2, 1, 1])
    """
    require_finite(rho_in=rho_in, rho_out=rho_out)
    require_sizes(rho_in=(rho_in, "element in in"), rho_out=(rho_out, "element out out"), moves=(moves, "element p"))
    require_indices(moves.shape[1], moves=moves)
    shape = moves.shape[1], rho_out.shape[1], rho_in.shape[1]
    size = math.prod(shape)
    unknown = torch.eye(size, dtype=rho_in.dtype, device=rho_in.device).reshape(size, *shape)
    # κ(g·p)·ρ_in(g) − ρ_out(g)·κ(p), of each unit kernel: the columns of the linear system
    misses = [unknown[:, to] @ a - b @ unknown for a, b, to in zip(rho_in, rho_out, moves, strict=True)]
    system = torch.cat([miss.flatten(1) for miss in misses], dim=1).T  # (equation, unknown)
    _, values, vectors = torch.linalg.svd(system, full_matrices=False)
    small = values <= torch.finfo(values.dtype).eps ** 0.5 * values[0]
    return vectors[small].reshape(-1, *shape)


def norm_nonlinearity(
    x: Float[Tensor, "batch field component height width"], bias: Float[Tensor, " field"]
) -> Float[Tensor, "batch field component height width"]:
    """A rectifier for vectors: it changes their lengths and leaves their directions.

    In a formula, for the vector x of one field at one pixel, and the bias b of this field::

        y = max(‖x‖ + b, 0) · x / ‖x‖,        and y = 0 where x = 0

    Normalisation: ‖x‖ is the root of the sum of squares over the components.

    Args:
        x: fields of vectors, the components on their own axis; they are not changed.
        bias: one number a field, of any sign.

    Returns:
        A new tensor like ``x``. Differentiable in x and bias; where x = 0 the gradient counts as 0 (not NaN).

    Raises:
        ValueError: shapes or dtypes that do not fit, NaN or infinity.

    Source: Worrall, Garbin, Turmukhambetov & Brostow (2017), *Harmonic networks*.

    >>> x = torch.tensor([3.0, 4.0]).reshape(1, 1, 2, 1, 1)
    >>> norm_nonlinearity(x, torch.tensor([-2.5])).flatten()  # length 5 becomes 2.5
    tensor([1.5000, 2.0000])
    >>> norm_nonlinearity(x, torch.tensor([-6.0])).flatten()
    tensor([0., 0.])
    """
    require_finite(x=x, bias=bias)
    require_sizes(x=(x, "batch field component height width"), bias=(bias, "field"))
    square = x.square().sum(dim=2, keepdim=True)
    nonzero = square > 0
    norm = torch.where(nonzero, square, 1.0).sqrt()  # the root of 0 has no slope, so it is never taken
    factor = (norm + bias[:, None, None, None]).relu() / norm
    return x * torch.where(nonzero, factor, 0.0)


def regular_to_irreps(x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
    """The Fourier transform of functions on the cyclic group C_n, as an orthogonal change of basis.

    ``x[..., g]`` is the value at the element g, a turn by g·2π/n. Turning by one more step moves all values on: the new
    x[..., g] is the old x[..., g − 1], around the end. In the new basis this permutation falls into small blocks, in
    this order::

        1 number            the frequency 0, which stays as it is
        2 numbers           for each frequency k with 0 < k < n/2, in rising order: turned by the angle k·2π/n,
                            as the vector (1, 0) would be turned to (cos(k·2π/n), sin(k·2π/n))
        1 number            for even n, the frequency n/2, which changes its sign

    Normalisation: the change of basis is **orthogonal**, it keeps the norm of ``x``. That leaves a choice: a single
    number may have either sign, a pair any fixed turn of its own. Each choice is right.

    Args:
        x: functions on C_n along the last axis, n ≥ 1; they are not changed.

    Returns:
        Their coefficients, a tensor like ``x``. Differentiable (linear).

    Raises:
        ValueError: no axis, an empty axis, NaN or infinity.

    Source: Weiler & Cesa (2019), *General E(2)-equivariant steerable CNNs*, appendix on group Fourier transforms.

    >>> regular_to_irreps(torch.ones(3)).abs().round(decimals=3)  # √3 at the frequency 0, nothing else
    tensor([1.7320, 0.0000, 0.0000])
    """
    require_finite(x=x)
    require_sizes(x=(x, "*batch n"))
    n = x.shape[-1]
    g = torch.arange(n, dtype=x.dtype, device=x.device) * (2 * math.pi / n)
    rows = [torch.ones_like(g)]
    for k in range(1, (n + 1) // 2):
        rows += [math.sqrt(2) * torch.cos(k * g), math.sqrt(2) * torch.sin(k * g)]
    if n % 2 == 0:
        rows.append(1.0 - 2.0 * (torch.arange(n, dtype=x.dtype, device=x.device) % 2))
    return x @ torch.stack(rows, dim=1) / math.sqrt(n)


# --- representations, and what they do to fields -----------------------------------------------------------------


def irrep(frequency: int, angles: Float[Tensor, "*angle"]) -> Float[Tensor, "*angle d d"]:
    """The real irreducible representation of SO(2): turn a plane k times as fast as the image; 1 for k = 0.

    In a formula::

        ρ₀(θ) = 1        ρ_k(θ) = [cos kθ  −sin kθ]
                                  [sin kθ   cos kθ]

    Args:
        frequency: k ≥ 0.
        angles: θ in radians.

    Returns:
        Matrices of size d = 1 or 2. Differentiable in the angles.

    Raises:
        ValueError: a negative frequency, NaN or infinity.

    >>> irrep(2, torch.tensor(torch.pi / 4)).round(decimals=4)
    tensor([[-0., -1.],
            [ 1., -0.]])
    """
    require_finite(angles=angles)
    require_nonnegative(frequency=frequency)
    if frequency == 0:
        return torch.ones_like(angles)[..., None, None]
    cos, sin = torch.cos(frequency * angles), torch.sin(frequency * angles)
    return torch.stack([cos, -sin, sin, cos], dim=-1).reshape(*angles.shape, 2, 2)


def dimension(frequency: int) -> int:
    """The channels of one field: 1 for the frequency 0, else 2."""
    return 1 if frequency == 0 else 2


def channels(fields: Fields) -> int:
    """The channels of all fields together.

    >>> channels({0: 8, 1: 4})
    16
    """
    return sum(count * dimension(frequency) for frequency, count in fields.items())


def parts(
    x: Float[Tensor, "batch channel height width"], fields: Fields
) -> Iterator[tuple[int, Float[Tensor, "batch field component height width"]]]:
    """The fields of each frequency, with the components on an axis of their own.

    Args:
        x: channels in the order of ``fields``.
        fields: the number of fields of each frequency.

    Returns:
        Pairs of a frequency and a view of its channels.
    """
    sizes = [count * dimension(frequency) for frequency, count in fields.items()]
    for frequency, part in zip(fields, x.split(sizes, dim=1), strict=True):
        yield frequency, part.unflatten(1, (-1, dimension(frequency)))


def turn_vectors(
    x: Float[Tensor, "batch channel height width"], fields: Fields, angle: float
) -> Float[Tensor, "batch channel height width"]:
    """Turn the vector at every pixel as its frequency asks, and leave the pixels where they are.

    Turn the pixels too (``torch.rot90``, ``course_lib.data.rotate``), and fields have been turned.

    Args:
        x: channels in the order of ``fields``.
        fields: the number of fields of each frequency.
        angle: in radians, counter-clockwise.

    Returns:
        A tensor like ``x``.
    """
    theta = torch.tensor(angle, dtype=torch.float64)
    turned = [
        torch.einsum("ij,bfjhw->bfihw", irrep(frequency, theta).to(part), part).flatten(1, 2)
        for frequency, part in parts(x, fields)
    ]
    return torch.cat(turned, dim=1)


# --- kernels -----------------------------------------------------------------------------------------------------


def grid_points(size: int, dtype: torch.dtype = torch.float64) -> Float[Tensor, "size size 2"]:
    """The centres of a square of pixels, (u right, v up) from the middle, in the order of the pixels.

    >>> grid_points(3)[0, 0]  # the first pixel is at the top left
    tensor([-1., 1.], dtype=torch.float64)
    """
    line = torch.arange(size, dtype=dtype) - (size - 1) / 2
    return torch.stack([line.expand(size, size), -line[:, None].expand(size, size)], dim=-1)


def default_rings(size: int) -> tuple[tuple[float, float, float], ...]:
    """Rings one pixel apart that fill a square kernel: (radius, width, highest frequency) of each.

    A circle of radius R meets about 2πR pixels. Waves that are finer than the pixels can carry come back as other waves
    (aliasing), and such a kernel does not turn as it should. So a ring carries frequencies up to 2R, and the outermost,
    which the square cuts off, at most 2.

    Args:
        size: the side of the kernel in pixels.

    Returns:
        The rings, from the inside.

    >>> default_rings(5)
    ((0.0, 0.6, 0.0), (1.0, 0.6, 2.0), (2.0, 0.4, 2))
    """
    require_positive_integer(size=size)
    radii = [k + (0.5 if size % 2 == 0 else 0.0) for k in range((size + 1) // 2)]
    last = radii[-1]
    return tuple((r, 0.4 if r == last > 0 else 0.6, min(2 * r, 2) if r == last else 2 * r) for r in radii)


@functools.cache
@torch.inference_mode(False)  # kept for the whole process: an ordinary tensor, on the CPU
def kernel_basis(
    frequency_in: int, frequency_out: int, size: int, rings: tuple[tuple[float, float, float], ...]
) -> Float[Tensor, "basis out in size size"]:
    """The solutions of the kernel constraint for all turns, in closed form, at the pixels of a square.

    Every point of a circle is some turn of its first point. So the constraint leaves the matrix A at the first point
    free, and gives all others::

        κ(r, φ) = ring(r) · ρ_out(φ) · A · ρ_in(φ)⁻¹

    With m = ``frequency_in``, n = ``frequency_out`` and J a quarter turn, A = 1 and A = J make waves of the frequency
    n − m; A = S and A = J·S, where S mirrors the second component, make waves of n + m. At the centre only waves of
    frequency 0 remain.

    Args:
        frequency_in: m ≥ 0.
        frequency_out: n ≥ 0.
        size: the side of the kernel in pixels.
        rings: (radius, width, highest frequency) of each ring, as ``default_rings`` makes them.

    Returns:
        float64; the squares of the entries of each kernel sum to the number of output components.

    Raises:
        ValueError: negative frequencies, or rings that are not rings.

    Source: Weiler & Cesa (2019), table of the solutions for SO(2).
    """
    require_nonnegative(frequency_in=frequency_in, frequency_out=frequency_out)
    require_nonempty(rings=rings)
    points = grid_points(size)
    r, phi = points.norm(dim=-1), torch.atan2(points[..., 1], points[..., 0])
    turn_out, turn_in = irrep(frequency_out, phi), irrep(frequency_in, phi)  # (size, size, d, d)
    kernels = []
    for radius, width, highest in rings:
        require_positive(width=width)
        ring = torch.exp(-(r - radius).square() / (2 * width**2))
        for start, wave in _starts(frequency_in, frequency_out):
            kernel = (turn_out @ start @ turn_in.mT) * ring[..., None, None]
            if wave != 0:
                kernel = kernel.where((r > 0)[..., None, None], 0.0)
            if abs(wave) <= highest and kernel.norm() > 1e-6:
                kernels.append(kernel.permute(2, 3, 0, 1) * (len(start) ** 0.5 / kernel.norm()))
    shape = dimension(frequency_out), dimension(frequency_in), size, size
    return torch.stack(kernels) if kernels else torch.zeros(0, *shape, dtype=torch.float64)


def _starts(frequency_in: int, frequency_out: int) -> list[tuple[Float[Tensor, "out in"], int]]:
    """The matrices at the first point of a circle, each with the frequency of the waves that it makes."""
    one = torch.eye(2, dtype=torch.float64)
    if frequency_in > 0 and frequency_out > 0:
        quarter, mirror = torch.tensor([[0.0, -1.0], [1.0, 0.0]]).double(), torch.tensor([[1.0, 0.0], [0.0, -1.0]])
        mirror, less, more = mirror.double(), frequency_out - frequency_in, frequency_out + frequency_in
        return [(one, less), (quarter, less), (mirror, more), (quarter @ mirror, more)]
    if frequency_out > 0:
        return [(one[:, [0]], frequency_out), (one[:, [1]], frequency_out)]
    if frequency_in > 0:
        return [(one[[0]], frequency_in), (one[[1]], frequency_in)]
    return [(one[:1, :1], 0)]


# --- layers ------------------------------------------------------------------------------------------------------


class SteerableConv2d(ExpandedLayer):
    """A convolution from fields to fields that commutes with all turns, as far as the pixels allow.

    The kernel is a sum of ``kernel_basis`` with learned coefficients; then one ``conv2d``. The bias is added to fields
    of frequency 0 alone: a constant vector would have to turn. Without gradients, in evaluation mode, the expanded
    kernel is kept until a coefficient changes.

    Args:
        fields_in: fields of the input, ``{frequency: how many}``; an image is ``{0: channels}``.
        fields_out: fields of the output.
        size: the side of the kernel in pixels.
        stride: as in ``nn.Conv2d``.
        padding: as in ``nn.Conv2d``.
        bias: whether to add one.
        rings: (radius, width, highest frequency) of each ring; None for ``default_rings(size)``.

    Raises:
        ValueError: no fields, or a frequency or number that makes no sense.

    >>> layer = SteerableConv2d({0: 1}, {0: 3, 1: 2}, size=5, padding=2)
    >>> layer(torch.rand(4, 1, 9, 9)).shape
    torch.Size([4, 7, 9, 9])
    """

    def __init__(
        self,
        fields_in: Fields,
        fields_out: Fields,
        size: int,
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
        rings: tuple[tuple[float, float, float], ...] | None = None,
    ):
        super().__init__()
        require_nonempty(fields_in=fields_in, fields_out=fields_out)
        self.fields_in, self.fields_out = dict(fields_in), dict(fields_out)
        for frequency, count in [*self.fields_in.items(), *self.fields_out.items()]:
            require_nonnegative(frequency=frequency)
            require_positive_integer(count=count)
        self.size, self.stride, self.padding = size, stride, padding
        self.rings = default_rings(size) if rings is None else rings
        self.coefficients = nn.ParameterDict()
        for n, many in self.fields_out.items():
            bases = {m: self._basis(m, n) for m in self.fields_in}
            fan = sum(count * len(bases[m]) for m, count in self.fields_in.items())
            for m, count in self.fields_in.items():
                # each output has the variance of the inputs, times two for the rectifier that follows
                start = torch.randn(many, count, len(bases[m])) * math.sqrt(2 / max(fan, 1))
                self.coefficients[f"{m}_{n}"] = nn.Parameter(start)
        self.bias = nn.Parameter(torch.zeros(self.fields_out[0])) if bias and 0 in self.fields_out else None
        self._place()

    def _place(self) -> None:
        for key, coefficients in self.coefficients.items():
            basis = self._basis(*map(int, key.split("_"))).flatten(1)  # (basis, out·in·row·column)
            self.register_buffer(f"basis_{key}", basis.to(coefficients, copy=True), persistent=False)

    def _basis(self, frequency_in: int, frequency_out: int) -> Float[Tensor, "basis out in size size"]:
        with torch.device("cpu"):  # wherever this layer is made
            return kernel_basis(frequency_in, frequency_out, self.size, self.rings)

    def kernel(self) -> Float[Tensor, "out in size size"]:
        """The kernel as ``conv2d`` takes it; differentiable in the coefficients."""
        rows = []
        for n, many in self.fields_out.items():
            blocks = []
            for m, count in self.fields_in.items():
                basis = getattr(self, f"basis_{m}_{n}")
                block = (self.coefficients[f"{m}_{n}"].flatten(0, 1) @ basis).reshape(
                    many, count, dimension(n), dimension(m), self.size, self.size
                )
                blocks.append(block.transpose(1, 2).flatten(2, 3).flatten(0, 1))  # (out, in, size, size)
            rows.append(torch.cat(blocks, dim=1))
        return torch.cat(rows)

    def full_bias(self) -> Float[Tensor, " out"] | None:
        """The bias of every channel: 0 where the frequency is not 0."""
        if self.bias is None:
            return None
        filled = [
            self.bias if n == 0 else self.bias.new_zeros(count * dimension(n)) for n, count in self.fields_out.items()
        ]
        return torch.cat(filled)

    def _kept_kernel(self) -> Float[Tensor, "out in size size"]:
        return self._made_once(tuple(self.coefficients.values()), self.kernel)

    def forward(self, x: Float[Tensor, "batch in height width"]) -> Float[Tensor, "batch out rows columns"]:
        """Convolve fields with the kernel."""
        return F.conv2d(x, self._kept_kernel(), self.full_bias(), self.stride, self.padding)

    def to_conv2d(self) -> nn.Conv2d:
        """A plain convolution that computes the same, to be used without this module."""
        kernel, bias = self.kernel().detach(), self.full_bias()
        plain = nn.Conv2d(kernel.shape[1], len(kernel), self.size, self.stride, self.padding, bias=bias is not None)
        plain = plain.to(kernel)
        plain.weight.data.copy_(kernel)
        if bias is not None:
            plain.bias.data.copy_(bias.detach())
        return plain


class NormNonlinearity(nn.Module):
    """A rectifier for fields: ``norm_nonlinearity`` where they are vectors, max(x + b, 0) where they are numbers.

    Args:
        fields: the number of fields of each frequency.
    """

    def __init__(self, fields: Fields):
        super().__init__()
        self.fields = dict(fields)
        self.bias = nn.Parameter(torch.zeros(sum(self.fields.values())))

    def forward(self, x: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch channel height width"]:
        """Rectify every field."""
        rectified = []
        biases = self.bias.to(x.dtype).split(list(self.fields.values()))
        for (frequency, part), bias in zip(parts(x, self.fields), biases, strict=True):
            bias = bias[:, None, None, None]
            if frequency == 0:
                rectified.append((part + bias).relu())
            else:  # norm_nonlinearity without its questions, which a compiler cannot ask
                length, nonzero = _lengths(part)
                rectified.append(part * torch.where(nonzero, (length + bias).relu() / length, 0.0))
        return torch.cat([part.flatten(1, 2) for part in rectified], dim=1)


class GatedNonlinearity(nn.Module):
    """Numbers go through ELU; every vector is multiplied by a number in (0, 1), the sigmoid of a channel of its own.

    Args:
        fields: the number of fields of each frequency behind the layer.
    """

    def __init__(self, fields: Fields):
        super().__init__()
        self.fields = dict(fields)
        self.gates = sum(count for frequency, count in self.fields.items() if frequency)
        # What the convolution before must give: as many numbers more as there are vectors.
        self.numbers = self.fields.get(0, 0)
        self.fields_in = self.fields | {0: self.numbers + self.gates}

    def forward(self, x: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch less height width"]:
        """Bend the numbers, gate the vectors, and drop the gates."""
        split = dict(parts(x, self.fields_in))
        numbers, gates = split.pop(0).split([self.numbers, self.gates], dim=1)
        gates = iter(gates.sigmoid().split([count for frequency, count in self.fields.items() if frequency], dim=1))
        done = {frequency: part * next(gates) for frequency, part in split.items()} | {0: F.elu(numbers)}
        return torch.cat([done[frequency].flatten(1, 2) for frequency in self.fields], dim=1)


class SteerableBatchNorm2d(nn.Module):
    """Batch normalization of fields: the components of a vector share one scale, and no mean is taken from vectors.

    In a formula, for one field, with E the mean over batch and positions, and over both components of a vector::

        numbers:  γ·(x − E x) / √(Var x + ε) + β,        vectors:  γ·x / √(E x² + ε)

    A mean vector would have to turn with the image, so only zero could be learned. In evaluation mode the kept means
    and squares take the place of the batch's, as in ``nn.BatchNorm2d``.

    Args:
        fields: the number of fields of each frequency.
        eps: ε, added to the mean square.
        momentum: the weight of the newest batch in what is kept.

    Raises:
        ValueError: no fields, or eps or momentum is not positive.

    Source: Weiler & Cesa (2019), *General E(2)-equivariant steerable CNNs*; Ioffe & Szegedy (2015).

    >>> SteerableBatchNorm2d({0: 1, 1: 2})(torch.rand(4, 5, 9, 9)).shape
    torch.Size([4, 5, 9, 9])
    """

    def __init__(self, fields: Fields, eps: float = 1e-5, momentum: float = 0.1):
        super().__init__()
        require_nonempty(fields=fields)
        require_positive(eps=eps, momentum=momentum)
        self.fields, self.eps, self.momentum = dict(fields), eps, momentum
        vectors = sum(count for frequency, count in self.fields.items() if frequency)
        self.numbers = nn.BatchNorm2d(self.fields[0], eps, momentum) if 0 in self.fields else None
        self.scale = nn.Parameter(torch.ones(vectors))
        self.register_buffer("running_square", torch.ones(vectors))

    def forward(self, x: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch channel height width"]:
        """Normalize every field."""
        split = dict(parts(x, self.fields))
        done = {0: self.numbers(split.pop(0).flatten(1, 2))} if 0 in split else {}
        if split:
            square = self.running_square
            if self.training:
                precise = [part.to(self.scale.dtype) for part in split.values()]  # autocast hands over fewer digits
                square = torch.cat([part.square().mean(dim=(0, 2, 3, 4)) for part in precise])
                with torch.no_grad():
                    self.running_square.lerp_(square, self.momentum)
            factors = (self.scale * (square + self.eps).rsqrt()).split([part.shape[1] for part in split.values()])
            for (frequency, part), factor in zip(split.items(), factors, strict=True):
                done[frequency] = (part * factor[:, None, None, None].to(part.dtype)).flatten(1, 2)
        return torch.cat([done[frequency] for frequency in self.fields], dim=1)


def _lengths(
    x: Float[Tensor, "batch field component height width"],
) -> tuple[Float[Tensor, "batch field 1 height width"], Bool[Tensor, "batch field 1 height width"]]:
    """The length of each vector, 1 for a zero vector, and which are not zero: the root of 0 has no slope."""
    square = x.square().sum(dim=2, keepdim=True)
    nonzero = square > 0
    return torch.where(nonzero, square, 1.0).sqrt(), nonzero


def invariants(
    x: Float[Tensor, "batch channel height width"], fields: Fields
) -> Float[Tensor, "batch field height width"]:
    """What a turn of the vectors leaves alone: the numbers themselves, and the lengths of the vectors.

    Args:
        x: channels in the order of ``fields``.
        fields: the number of fields of each frequency.

    Returns:
        One channel a field. Differentiable, twice too; the length of a zero vector has the gradient 0.
    """
    found = []
    for frequency, part in parts(x, fields):
        length, nonzero = _lengths(part)
        found.append(part if frequency == 0 else torch.where(nonzero, length, 0.0))
    return torch.cat([part.squeeze(2) for part in found], dim=1)


class SteerableNetwork(nn.Module):
    """A small network whose scores do not move when the image turns.

    Steerable convolutions with gates between them, then the lengths of all vectors, averaged over positions, and a
    linear layer.

    Args:
        seed: fixes the initial weights (and sets torch's global generator).
        hidden: the fields behind each convolution but the last.
        last: the fields behind the last one.
        depth: the number of convolutions.
        size: the side of their kernels in pixels.
        pools: behind so many of the first convolutions, four pixels are averaged into one.
        componentwise: ReLU on each component instead of the gates: the mistake that the chapter shows.
    """

    def __init__(
        self,
        seed: int,
        hidden: Fields,
        last: Fields,
        depth: int = 3,
        size: int = 5,
        pools: int = 0,
        componentwise: bool = False,
    ):
        super().__init__()
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        before: Fields = {0: 1}
        for level in range(depth):
            after = hidden if level < depth - 1 else last
            gate = GatedNonlinearity(after)
            convolution = SteerableConv2d(before, after if componentwise else gate.fields_in, size, padding=size // 2)
            layers += [convolution, nn.ReLU() if componentwise else gate]
            if level < pools:
                layers.append(nn.AvgPool2d(2))
            before = after
        self.body, self.fields = nn.Sequential(*layers), dict(before)
        self.head = nn.Linear(sum(self.fields.values()), 10)

    def forward(self, x: Float[Tensor, "batch 1 height width"]) -> Float[Tensor, "batch 10"]:
        """One score a class."""
        return self.head(invariants(self.body(x), self.fields).mean(dim=(-2, -1)))
