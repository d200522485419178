"""Augmentation: teach an invariance by example.

Training on randomly transformed images averages the loss over a family of transformations. For a squared loss, where
the labels are fitted, that is to first order in the variance a penalty on how the output moves along the family's
tangent. Leen (1995); Zhang et al. (2018),
*mixup*; DeVries & Taylor (2017), *cutout*. Chapter: ``book/augmentation.md``.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from course_lib.preconditions import (
    require_between,
    require_finite,
    require_indices,
    require_invertible,
    require_nonempty,
    require_nonnegative,
    require_positive_integer,
    require_sizes,
)


def affine_warp(
    images: Float[Tensor, "batch channels height width"], matrices: Float[Tensor, "batch 2 3"]
) -> Float[Tensor, "batch channels height width"]:
    """Move the content of each image by its own affine map; bilinear between pixels, 0 outside the image.

    In a formula, with positions p = (right, down) in pixels, counted from the image's centre::

        output(A·p + b) = input(p),     so     output(q) = input(A⁻¹·(q − b)),     matrix = [A | b]

    The pixel in row r and column c of an image with H rows and W columns lies at right = c − (W − 1)/2 and
    down = r − (H − 1)/2. So b = (1, 0) moves everything one pixel to the right, and A turns, scales or shears
    about the centre. Between pixel centres the input is bilinear; every pixel beyond its edge counts as 0.

    Args:
        images: any height and width, square or not. They are not changed.
        matrices: one [A | b] an image, in pixels, A invertible; dtype and device of the images.

    Returns:
        Images of the same shape, device and dtype. Differentiable in images and matrices (in the matrices, where
        no point of the source lies exactly on a row or column of pixel centres).

    Raises:
        ValueError: not a batch of finite images, not one finite 2×3 matrix an image, dtypes or devices that
            differ, or an A without inverse.

    Source: the sampler of Jaderberg et al. (2015), *Spatial transformer networks*, with the map in pixels.

    >>> image = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    >>> affine_warp(image, torch.tensor([[[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]]))  # one pixel to the right
    tensor([[[[0., 1.],
              [0., 3.]]]])
    """
    require_finite(images=images, matrices=matrices)
    require_sizes(images=(images, "batch channels height width"), matrices=(matrices, "batch 2 3"))
    require_invertible(matrices=matrices[:, :, :2])
    height, width = images.shape[-2:]
    right = (torch.arange(width, device=images.device) - (width - 1) / 2).expand(height, width)
    down = (torch.arange(height, device=images.device) - (height - 1) / 2)[:, None].expand(height, width)
    q = torch.stack([right, down, torch.ones_like(right)]).flatten(1).to(images)  # (3, height * width)
    half = matrices.new_tensor([width / 2, height / 2])  # grid_sample's unit of length, along each axis
    back = torch.linalg.inv(matrices[:, :, :2])
    source = torch.cat([back, -back @ matrices[:, :, 2:]], dim=2) / half[:, None]
    grid = (source @ q).reshape(-1, 2, height, width).movedim(1, 3)  # (batch, height, width, 2)
    return F.grid_sample(images, grid, align_corners=False)


def mixup(
    x: Float[Tensor, " batch *shape"],
    y: Float[Tensor, "batch classes"],
    weights: Float[Tensor, " batch"],
    partners: Int64[Tensor, " batch"],
) -> tuple[Float[Tensor, " batch *shape"], Float[Tensor, "batch classes"]]:
    """Mix every example with its partner, inputs and labels alike.

    In a formula, with λᵢ for ``weights[i]`` and j for ``partners[i]``::

        x'ᵢ = λᵢ·xᵢ + (1 − λᵢ)·xⱼ          y'ᵢ = λᵢ·yᵢ + (1 − λᵢ)·yⱼ

    All partners are taken from ``x`` and ``y`` as they came, before any mixing. The paper draws λ from
    Beta(a, a) and the partners as a random permutation; here both are arguments, so that nothing is random.

    Args:
        x: inputs of any shape. They are not changed.
        y: labels as probabilities, one row an example (one-hot rows, for instance). They are not changed.
        weights: λ in [0, 1], one an example.
        partners: for each example the index of the one that it is mixed with.

    Returns:
        The mixed inputs and labels, of the same shapes, devices and dtypes. Differentiable in x, y and weights.

    Raises:
        ValueError: an empty batch, lengths that differ, dtypes or devices that differ, NaN or infinity, weights
            outside [0, 1], or a partner that is not there.

    Source: Zhang, Cisse, Dauphin & Lopez-Paz (2018), *mixup: beyond empirical risk minimization*.

    >>> x, y = torch.tensor([[0.0], [8.0]]), torch.eye(2)
    >>> mixup(x, y, weights=torch.tensor([0.75, 1.0]), partners=torch.tensor([1, 0]))
    (tensor([[2.], [8.]]), tensor([[0.7500, 0.2500], [0.0000, 1.0000]]))
    """
    require_sizes(
        x=(x, "batch *shape"), y=(y, "batch classes"), weights=(weights, "batch"), partners=(partners, "batch")
    )
    require_finite(x=x, y=y)
    require_between(0, 1, weights=weights)
    require_indices(len(x), partners=partners)
    share = weights.reshape(-1, *[1] * (x.ndim - 1))  # (batch, 1, ..., 1)
    mixed_x = share * x + (1 - share) * x[partners]
    mixed_y = weights[:, None] * y + (1 - weights[:, None]) * y[partners]
    return mixed_x, mixed_y


def cutout(
    images: Float[Tensor, "batch channels height width"],
    rows: Int64[Tensor, " batch"],
    columns: Int64[Tensor, " batch"],
    side: int,
) -> Float[Tensor, "batch channels height width"]:
    """Blank one square in each image, in all its channels.

    In a formula, with s for ``side``, for the image whose square is centred at row r and column c::

        output(i, j) = 0   where   r − ⌊s/2⌋ ≤ i < r − ⌊s/2⌋ + s   and   c − ⌊s/2⌋ ≤ j < c − ⌊s/2⌋ + s
        output(i, j) = input(i, j)   elsewhere

    The square may hang over the edge; what lies outside the image is cut off.

    Args:
        images: any height and width. They are not changed.
        rows: r, the row of each square's centre, counted from 0 at the top.
        columns: c, the column of each square's centre, counted from 0 at the left.
        side: s ≥ 1, in pixels.

    Returns:
        Images of the same shape, device and dtype. Differentiable; the gradient is 0 inside the squares.

    Raises:
        ValueError: not a batch of finite images, not one row and one column inside the image for each, or a
            side below 1.

    Source: DeVries & Taylor (2017), *Improved regularization of convolutional neural networks with cutout*.

    >>> cutout(torch.ones(1, 1, 3, 4), rows=torch.tensor([0]), columns=torch.tensor([2]), side=3)
    tensor([[[[1., 0., 0., 0.],
              [1., 0., 0., 0.],
              [1., 1., 1., 1.]]]])
    """
    require_finite(images=images)
    require_sizes(images=(images, "batch channels height width"), rows=(rows, "batch"), columns=(columns, "batch"))
    require_indices(images.shape[-2], rows=rows)
    require_indices(images.shape[-1], columns=columns)
    require_positive_integer(side=side)
    height, width = images.shape[-2:]
    down = torch.arange(height, device=rows.device) - (rows - side // 2)[:, None]  # (batch, height)
    right = torch.arange(width, device=columns.device) - (columns - side // 2)[:, None]  # (batch, width)
    in_rows, in_columns = (down >= 0) & (down < side), (right >= 0) & (right < side)
    square = in_rows[:, None, :, None] & in_columns[:, None, None, :]  # (batch, 1, height, width)
    return images.masked_fill(square, 0.0)


def averaged_probabilities(
    model: Callable[[Tensor], Tensor],
    x: Float[Tensor, " batch *shape"],
    transforms: Sequence[Callable[[Tensor], Tensor]],
) -> Float[Tensor, "batch classes"]:
    """Test-time augmentation: the mean of the class probabilities over transformed copies of the input.

    In a formula, for K transforms::

        p(x) = 1/K · Σₖ softmax(model(Tₖ x))

    Normalisation: a mean over transforms; the softmax comes first, so probabilities are averaged, not scores.
    The untransformed input takes part only if the identity is among the transforms.

    Args:
        model: maps a batch of inputs to one score a class, shape (batch, classes). Its mode is left as it is.
        x: a batch of inputs.
        transforms: functions of a batch; each is applied to ``x`` itself, not to what another one returned.

    Returns:
        Rows of probabilities that sum to 1, on the device and in the dtype of the scores. Differentiable.

    Raises:
        ValueError: an empty batch, NaN or infinity in it, or no transform.

    Source: Krizhevsky, Sutskever & Hinton (2012), *ImageNet classification with deep convolutional neural
    networks*, section 4.1: predictions averaged over ten patches.

    >>> scores = lambda x: x * torch.tensor([[1.0, -1.0]])
    >>> averaged_probabilities(scores, torch.tensor([[2.0]]), [lambda x: x, lambda x: -x])
    tensor([[0.5000, 0.5000]])
    """
    require_nonempty(x=x, transforms=transforms)
    require_finite(x=x)
    return torch.stack([model(transform(x)).softmax(dim=1) for transform in transforms]).mean(dim=0)


def first_order_penalty(
    model: Callable[[Tensor], Tensor],
    x: Float[Tensor, " batch *shape"],
    tangents: Float[Tensor, " batch *shape"],
    variance: float,
) -> Float[Tensor, ""]:
    """The tangent penalty that augmentation adds to a squared loss, to first order in the variance.

    In a formula, with J(x) the Jacobian of the model at x and τᵢ for ``tangents[i]``::

        Ω = σ² · 1/n · Σᵢ ‖J(xᵢ)·τᵢ‖²

    If τ is the tangent of a family of transformations, τ = ∂T_φ x/∂φ at φ = 0, and φ has mean 0 and variance σ²,
    then this is what the loss 1/n · Σᵢ ‖f(T_φ xᵢ) − yᵢ‖² gains on average wherever the model fits its labels.

    Normalisation: a sum over outputs, a mean over the batch; the norm is squared; no factor 1/2.

    Args:
        model: maps a batch to outputs (batch, outputs), each example on its own (no batch statistics).
        x: a batch of inputs.
        tangents: one direction an example, in units of the input per unit of φ; same shape as ``x``.
        variance: σ² ≥ 0 of φ, in squared units of φ (radians², pixels²).

    Returns:
        A scalar on the device and in the dtype of ``x``. Differentiable, also in the parameters of the model.

    Raises:
        ValueError: an empty batch, shapes, dtypes or devices that differ, NaN or infinity, a negative variance.

    Source: Leen (1995), *From data distributions to regularization in invariant learning*; Simard, Victorri,
    LeCun & Denker (1992), *Tangent prop*.

    >>> model = lambda x: x @ torch.tensor([[1.0, 1.0], [0.0, 2.0]])
    >>> first_order_penalty(model, torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), variance=0.5)
    tensor(1.)
    """
    require_finite(x=x, tangents=tangents)
    require_sizes(x=(x, "batch *shape"), tangents=(tangents, "batch *shape"))
    require_nonnegative(variance=variance)
    _, slopes = torch.func.jvp(model, (x,), (tangents,))  # (batch, outputs): J·τ, forward mode
    return variance * slopes.square().sum(dim=1).mean()


def expansion_terms(
    curve: Callable[[Tensor], Tensor], y: Float[Tensor, "batch outputs"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
    """All that augmentation does to a squared loss up to the order of the variance.

    In a formula, with F(φ) = f(T_φ x), derivatives at φ = 0, and φ symmetric around 0 with variance σ²::

        1/n · Σ E‖F(φ) − y‖²  =  loss + σ²·slope + σ²·bend + O(σ⁴)
        loss = 1/n · Σ ‖F − y‖²     slope = 1/n · Σ ‖F'‖²     bend = 1/n · Σ (F − y)·F''

    Args:
        curve: F, from a scalar tensor φ to the outputs of a whole batch; twice differentiable in forward mode.
        y: targets.

    Returns:
        ``loss``, ``slope`` and ``bend``: means over the batch, sums over outputs, without σ².

    Raises:
        ValueError: targets that are not finite or do not have the shape of the outputs.

    Source: Leen (1995); Bishop (1995), *Training with noise is equivalent to Tikhonov regularization*.

    >>> expansion_terms(lambda phi: (1 + phi).square().reshape(1, 1), torch.tensor([[3.0]]))
    (tensor(4.), tensor(4.), tensor(-4.))
    """
    require_finite(y=y)
    zero, one = y.new_zeros(()), y.new_ones(())

    def slope(phi: Tensor) -> Tensor:
        return torch.func.jvp(curve, (phi,), (one,))[1]

    outputs = curve(zero)
    require_sizes(outputs=(outputs, "batch outputs"), y=(y, "batch outputs"))
    first, second = torch.func.jvp(slope, (zero,), (one,))
    residual = outputs - y
    return tuple((a * b).sum(dim=1).mean() for a, b in ((residual, residual), (first, first), (residual, second)))


def affine_matrices(
    radians: Float[Tensor, " batch"],
    shifts: Float[Tensor, "batch 2"] | None = None,
    scales: Float[Tensor, " batch"] | None = None,
) -> Float[Tensor, "batch 2 3"]:
    """Matrices for ``affine_warp``: turn and scale about the centre, then shift.

    In a formula, with positions (right, down) in pixels from the centre::

        [A | b],   A = s · [[cos φ, sin φ], [−sin φ, cos φ]],   b = (right, down)

    Args:
        radians: φ, counter-clockwise as the image is displayed, the direction of ``course_lib.data.rotate``.
        shifts: b in pixels, to the right and down; None for none.
        scales: s, above 1 to enlarge; None for 1.

    Returns:
        One matrix an angle, on the device and in the dtype of ``radians``. Differentiable.

    Raises:
        ValueError: not finite, no angle, or shapes, dtypes or devices that do not fit.

    >>> affine_matrices(torch.tensor([0.0]), shifts=torch.tensor([[1.0, -2.0]]))
    tensor([[[ 1.,  0.,  1.],
             [-0.,  1., -2.]]])
    """
    require_sizes(radians=(radians, "batch"))
    shifts = radians.new_zeros(len(radians), 2) if shifts is None else shifts
    scales = torch.ones_like(radians) if scales is None else scales
    require_sizes(radians=(radians, "batch"), shifts=(shifts, "batch 2"), scales=(scales, "batch"))
    require_finite(radians=radians, shifts=shifts, scales=scales)
    cos, sin = scales * radians.cos(), scales * radians.sin()
    turn = torch.stack([torch.stack([cos, sin], dim=1), torch.stack([-sin, cos], dim=1)], dim=1)  # (batch, 2, 2)
    return torch.cat([turn, shifts[:, :, None]], dim=2)


def random_affine(
    images: Float[Tensor, "batch channels height width"],
    degrees: float,
    pixels: float = 0.0,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "batch channels height width"]:
    """Turn and shift each image at random: one draw of the augmentation.

    Args:
        images: any height and width. They are not changed.
        degrees: angles are uniform in ±degrees.
        pixels: shifts are uniform in ±pixels, to the right and down alike.
        generator: where the draws come from, on the images' device; None for torch's global one.

    Returns:
        Images of the same shape, device and dtype.

    Raises:
        ValueError: not a batch of finite images, or a negative range.

    >>> torch.equal(random_affine(torch.ones(2, 1, 4, 4), degrees=0.0), torch.ones(2, 1, 4, 4))
    True
    """
    require_finite(images=images)
    require_sizes(images=(images, "batch channels height width"))
    require_nonnegative(degrees=degrees, pixels=pixels)
    u = images.new_empty(len(images), 3).uniform_(-1, 1, generator=generator)
    radians, shifts = u[:, 0] * torch.pi * degrees / 180, u[:, 1:] * pixels
    return affine_warp(images, affine_matrices(radians, shifts))
