"""Tangent distance: compare images by the planes of their small changes, not by their pixels.

A shifted or rotated image moves along a curve in pixel space; near the image that curve is its tangent. Between two
images we measure the gap between their tangent planes. Simard, LeCun & Denker (1993). Chapter:
``book/tangent_distance.md``.
"""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from course_lib.preconditions import require_finite, require_integer_between, require_positive, require_sizes

TANGENTS = ("shift right", "shift down", "rotation", "scale", "stretch", "diagonal stretch", "thickness")


def image_gradient(
    images: Float[Tensor, "batch 1 height width"], sigma: float
) -> Float[Tensor, "batch 2 height width"]:
    """The slopes of images that a Gaussian has made smooth, at every pixel.

    Pixels have no slope. So every pixel becomes a Gaussian hill; their sum is a function of the plane::

        s(r, c) = Σᵢⱼ x[i, j] · g(r − i) · g(c − j),      g(t) = exp(−t²/2σ²) / (σ·√(2π))

    and the derivatives of s are known exactly. r counts rows downwards, c counts columns to the right.

    Normalisation: g integrates to 1; its samples at whole pixels are not rescaled. Outside the image there is nothing:
    x is 0 there. The sums run over all pixels of the image, none is cut off.

    Args:
        images: x, any height and width.
        sigma: σ > 0, the width of the hills in pixels.

    Returns:
        ∂s/∂r (downwards) and ∂s/∂c (to the right) at the pixels, in this order, per pixel.
        Differentiable (linear in x).

    Raises:
        ValueError: not a floating-point tensor of shape (batch, 1, height, width), empty, not finite, or sigma not
            positive.

    Source: Simard, LeCun, Denker & Victorri (1998), *Transformation invariance in pattern recognition*, section 4.

    >>> image = torch.tensor([[[[0.0, 1.0, 0.0]]]])
    >>> image_gradient(image, sigma=1.0)[0, 1, 0, ::2]  # uphill before the pixel, downhill after it
    tensor([ 0.0965, -0.0965])
    """
    require_finite(images=images)
    require_sizes(images=(images, "batch 1 height width"))
    require_positive(sigma=sigma)
    hills, slopes = [], []
    for size in images.shape[-2:]:
        place = torch.arange(size, dtype=images.dtype, device=images.device)
        offset = place[:, None] - place  # (output pixel, input pixel)
        hills.append(torch.exp(-(offset**2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi)))
        slopes.append(-offset / sigma**2 * hills[-1])
    down, right = slopes[0] @ images @ hills[1].T, hills[0] @ images @ slopes[1].T
    return torch.cat([down, right], dim=1)


def shift_and_rotation_tangents(
    images: Float[Tensor, "batch 1 height width"], sigma: float
) -> Float[Tensor, "batch 3 height width"]:
    """How images change, pixel by pixel, when they begin to shift right, to shift down, or to rotate.

    With s the smooth image of ``image_gradient``, and u pixels to the right, v pixels **down** from the image's
    centre::

        shift right:   d/dt s(v, u − t)                            at t = 0
        shift down:    d/dt s(v − t, u)                            at t = 0
        rotation:      d/dφ s(v·cos φ + u·sin φ, u·cos φ − v·sin φ)    at φ = 0

    The content of a pixel comes from where the transformation moved it *from*: hence the minus signs. The rotation
    turns counter-clockwise as the image is displayed, like ``course_lib.data.rotate``, about the centre
    ((height − 1)/2, (width − 1)/2).

    Args:
        images: x, any height and width.
        sigma: σ > 0, the width of the Gaussian in pixels.

    Returns:
        The three tangents in this order: per pixel of shift, per pixel of shift, per radian. Differentiable.

    Raises:
        ValueError: as ``image_gradient``.

    Source: Simard, LeCun, Denker & Victorri (1998), *Transformation invariance in pattern recognition*.

    >>> dot = torch.zeros(1, 1, 3, 3); dot[0, 0, 1, 2] = 1.0  # right of the centre: a turn lifts it
    >>> shift_and_rotation_tangents(dot, sigma=1.0)[0, 2, ::2, 2]  # above it grows brighter, below it darker
    tensor([ 0.0965, -0.0965])
    """
    require_finite(images=images)
    require_sizes(images=(images, "batch 1 height width"))
    require_positive(sigma=sigma)
    height, width = images.shape[-2:]
    v = torch.arange(height, dtype=images.dtype, device=images.device)[:, None] - (height - 1) / 2
    u = torch.arange(width, dtype=images.dtype, device=images.device) - (width - 1) / 2
    down, right = image_gradient(images, sigma).unbind(dim=1)
    return torch.stack([-right, -down, u * down - v * right], dim=1)


def orthonormal_tangents(tangents: Float[Tensor, "batch tangent pixel"]) -> Float[Tensor, "batch tangent pixel"]:
    """Replace the tangents of each image by orthonormal ones that span the same plane.

    In a formula, with the tangents as the rows of T and the answer as the rows of Q::

        Q·Qᵀ is diagonal with entries 1 and 0,     Qᵀ·Q projects onto the span of T's rows

    If tangents are linearly dependent (in a blank image all are zero), the plane has fewer dimensions than
    tangents. Then as many rows of Q are **zero** as dimensions are missing: which rows, you may choose.

    Normalisation: first each tangent is scaled to length 1 (zero stays zero), for their units differ. Then directions
    with a singular value below P · eps times the image's largest are dropped, with P the number of pixels and eps the
    dtype's rounding unit, ``torch.finfo(dtype).eps``.

    Args:
        tangents: T; at most as many tangents as pixels.

    Returns:
        Q, same shape, device and dtype. Do not differentiate through it: the basis of a plane is not unique.

    Raises:
        ValueError: not a floating-point tensor of three dimensions, empty, not finite, or more tangents than pixels.

    >>> orthonormal_tangents(torch.tensor([[[3.0, 4.0, 0.0], [6.0, 8.0, 0.0]]])).abs()
    tensor([[[0.6000, 0.8000, 0.0000],
             [0.0000, 0.0000, 0.0000]]])
    """
    require_finite(tangents=tangents)
    require_sizes(tangents=(tangents, "batch tangent pixel"))
    require_integer_between(1, tangents.shape[2], number_of_tangents=tangents.shape[1])  # at most one a pixel
    unit = torch.nn.functional.normalize(tangents, dim=-1, eps=torch.finfo(tangents.dtype).tiny)
    unit = torch.nn.functional.hardshrink(unit, torch.finfo(unit.dtype).tiny ** 0.5)  # they slow QR down
    columns, triangle = torch.linalg.qr(unit.mT)  # (batch, pixel, tangent), (batch, tangent, tangent)
    turn, singular, _ = torch.linalg.svd(triangle)  # the small matrix alone: far cheaper than all pixels
    cut = tangents.shape[2] * torch.finfo(tangents.dtype).eps * singular[:, :1]
    return (columns @ turn).mT * (singular > cut)[..., None]


def one_sided_distance(
    x: Float[Tensor, "batch pixel"], y: Float[Tensor, "batch pixel"], y_tangents: Float[Tensor, "batch tangent pixel"]
) -> Float[Tensor, " batch"]:
    """The squared distance from each image x to the tangent plane of its partner y.

    In a formula, with the tangents t₁, t₂, ... of y and one free coefficient for each::

        d = min over a of  ‖x − (y + Σₖ aₖ·tₖ)‖²

    Normalisation: a sum over pixels of squares; no root, no mean. Coefficients are not penalized: linearly
    dependent tangents span a smaller plane, and the minimum is what it is.

    Args:
        x: images, all pixels in one row.
        y: as many images.
        y_tangents: the tangents of y, one a row.

    Returns:
        One number a pair. Differentiable in x and y.

    Raises:
        ValueError: sizes or dtypes differ, not floating point, empty, not finite, or more tangents than pixels.

    Source: Simard, LeCun & Denker (1993), *Efficient pattern recognition using a new transformation distance*.

    >>> x, y = torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2)
    >>> one_sided_distance(x, y, torch.tensor([[[2.0, 0.0]]]))  # the first pixel may move, the second not
    tensor([16.])
    """
    require_finite(x=x, y=y, y_tangents=y_tangents)
    require_sizes(x=(x, "batch pixel"), y=(y, "batch pixel"), y_tangents=(y_tangents, "batch tangent pixel"))
    basis = orthonormal_tangents(y_tangents)
    difference = (x - y)[:, :, None]  # (batch, pixel, 1)
    return (difference - basis.mT @ (basis @ difference)).square().sum(dim=(1, 2))


def two_sided_distance(
    x: Float[Tensor, "batch pixel"],
    x_tangents: Float[Tensor, "batch x_tangent pixel"],
    y: Float[Tensor, "batch pixel"],
    y_tangents: Float[Tensor, "batch y_tangent pixel"],
) -> Float[Tensor, " batch"]:
    """The squared distance between the tangent plane of each image x and that of its partner y.

    In a formula, with free coefficients for the tangents sⱼ of x and tₖ of y::

        d = min over a, b of  ‖(x + Σⱼ aⱼ·sⱼ) − (y + Σₖ bₖ·tₖ)‖²

    Normalisation: as in ``one_sided_distance``.

    Args:
        x: images, all pixels in one row.
        x_tangents: the tangents of x, one a row.
        y: as many images.
        y_tangents: the tangents of y, one a row; x and y may have different numbers of them.

    Returns:
        One number a pair. Differentiable in x and y. Exchanging x and y changes nothing.

    Raises:
        ValueError: as ``one_sided_distance``; the tangents of both images count together.

    Source: Simard, LeCun & Denker (1993).

    >>> x, y, first = torch.tensor([[3.0, 4.0, 5.0]]), torch.zeros(1, 3), torch.tensor([[[1.0, 0.0, 0.0]]])
    >>> two_sided_distance(x, first, y, first.roll(1, -1))  # the first pixel of x may move, and the second of y
    tensor([25.])
    """
    require_finite(x=x, x_tangents=x_tangents, y=y, y_tangents=y_tangents)
    require_sizes(
        x=(x, "batch pixel"),
        x_tangents=(x_tangents, "batch x_tangent pixel"),
        y=(y, "batch pixel"),
        y_tangents=(y_tangents, "batch y_tangent pixel"),
    )
    return one_sided_distance(x, y, torch.cat([x_tangents, y_tangents], dim=1))


def tangent_distance_matrix(
    x: Float[Tensor, "n pixel"],
    x_tangents: Float[Tensor, "n x_tangent pixel"],
    y: Float[Tensor, "m pixel"],
    y_tangents: Float[Tensor, "m y_tangent pixel"],
) -> Float[Tensor, "n m"]:
    """The two-sided distance of every image x to every image y: ``two_sided_distance`` for all pairs.

    In a formula::

        D[i, j] = min over a, b of  ‖(x[i] + Σₖ aₖ·x_tangents[i, k]) − (y[j] + Σₖ bₖ·y_tangents[j, k])‖²

    It runs in blocks of pairs, whose inner products are one matrix product; there is no Python loop over pairs.

    Normalisation: squared, a sum over pixels. A direction that two planes share counts once; so it is for planes whose
    angle's squared sine is below 100 · eps, with eps the dtype's rounding unit.

    Args:
        x: n images, all pixels in one row.
        x_tangents: the tangents of each x, one a row.
        y: m images.
        y_tangents: the tangents of each y, one a row.

    Returns:
        All n · m distances, never negative. Differentiable in x and y.

    Raises:
        ValueError: as ``one_sided_distance``; the tangents of each side count alone.

    Source: Simard, LeCun & Denker (1993); the elimination is a Cholesky factorization of the Schur complement.

    >>> x, y = torch.tensor([[3.0, 4.0], [0.0, 1.0]]), torch.zeros(1, 2)
    >>> tangent_distance_matrix(x, torch.zeros(2, 1, 2), y, torch.tensor([[[2.0, 0.0]]]))
    tensor([[16.],
            [ 1.]])
    """
    require_finite(x=x, x_tangents=x_tangents, y=y, y_tangents=y_tangents)
    require_sizes(
        x=(x, "n pixel"),
        x_tangents=(x_tangents, "n x_tangent pixel"),
        y=(y, "m pixel"),
        y_tangents=(y_tangents, "m y_tangent pixel"),
    )
    tiny = torch.finfo(x.dtype).tiny ** 0.5  # smaller entries have no square, and slow a product down tenfold
    planes = []
    for points, tangents in ((x, x_tangents), (-y, y_tangents)):
        basis = orthonormal_tangents(tangents)
        foot = points[:, None] - points[:, None] @ basis.mT @ basis  # where the plane comes nearest to zero
        plane = torch.cat([basis, foot], dim=1).transpose(0, 1)  # (tangent + 1, image, pixel)
        planes.append(torch.nn.functional.hardshrink(plane, tiny))
    own = torch.einsum("imd,jmd->ijm", planes[1], planes[1])[:, :, None]
    size, floor = (32, 512) if x.device.type == "cpu" else (256, 4096), 100 * torch.finfo(x.dtype).eps
    rows = []
    for left in planes[0].split(size[0], dim=1):
        blocks = []
        for right, gram in zip(planes[1].split(size[1], dim=1), own.split(size[1], dim=3), strict=True):
            inner = left.flatten(0, 1) @ right.mT  # (y_tangent + 1, (x_tangent + 1) · n, m)
            *factors, gap = inner.unflatten(1, left.shape[:2]).unbind(dim=1)  # each (y_tangent + 1, n, m)
            for i in range(len(right), 0, -1):  # Cholesky, row by row, of y's basis and the gap between the feet
                row = gram[-i, -i:] + torch.zeros_like(gap[-i:])
                row[-1] += gap[-i]
                if i == 1:
                    row += gap[-1] + left[-1].square().sum(-1)[:, None]
                for factor in factors:  # what tangents of x, and earlier ones of y, explain
                    row.addcmul_(factor[-i], factor[-i:], value=-1)
                # a direction that the others explain is left out; only rounding is left of it
                factors.append(row * (row[0].clamp(min=floor).rsqrt() * (row[0] > floor)))
            blocks.append(row[0].clamp(min=0))
        rows.append(torch.cat(blocks, dim=1))
    return torch.cat(rows)


def tangent_vectors(
    images: Float[Tensor, "batch 1 height width"], sigma: float
) -> Float[Tensor, "batch 7 height width"]:
    """The seven tangents of Simard, LeCun & Denker: what a pen and a scanner do to a digit.

    With u, v and s as in ``shift_and_rotation_tangents``, and ∂ᵤs, ∂ᵥs the slopes of s to the right and downwards:

    ====================  =======================  ==================================================
    ``TANGENTS``          formula                  what begins to happen, per
    ====================  =======================  ==================================================
    ``shift right``       −∂ᵤs                     pixel
    ``shift down``        −∂ᵥs                     pixel
    ``rotation``          u·∂ᵥs − v·∂ᵤs            radian, counter-clockwise
    ``scale``             −u·∂ᵤs − v·∂ᵥs           growth by a factor e
    ``stretch``           −u·∂ᵤs + v·∂ᵥs           growth by e horizontally, by 1/e vertically
    ``diagonal stretch``  −v·∂ᵤs − u·∂ᵥs           the same along the diagonals
    ``thickness``         (∂ᵤs)² + (∂ᵥs)²          pixel²/ink: edges move out by the slope
    ====================  =======================  ==================================================

    Args:
        images: any height and width.
        sigma: the width of the Gaussian in pixels.

    Returns:
        The tangents in the order of ``TANGENTS``. Differentiable.

    Raises:
        ValueError: as ``image_gradient``.

    Source: Simard, LeCun, Denker & Victorri (1998), section 4.

    >>> tangent_vectors(torch.rand(5, 1, 8, 8), sigma=1.0).shape
    torch.Size([5, 7, 8, 8])
    """
    moving = shift_and_rotation_tangents(images, sigma)
    to_left, upwards, _ = moving.unbind(dim=1)  # minus the slopes
    height, width = images.shape[-2:]
    v = torch.arange(height, dtype=images.dtype, device=images.device)[:, None] - (height - 1) / 2
    u = torch.arange(width, dtype=images.dtype, device=images.device) - (width - 1) / 2
    scale = u * to_left + v * upwards
    stretch = u * to_left - v * upwards
    diagonal = v * to_left + u * upwards
    thickness = to_left**2 + upwards**2
    others = torch.stack([scale, stretch, diagonal, thickness], dim=1)
    return torch.cat([moving, others], dim=1)


def smooth_images(images: Float[Tensor, "batch 1 height width"], sigma: float) -> Float[Tensor, "batch 1 height width"]:
    """The smooth image s of ``image_gradient``, at the pixels.

    Args:
        images: any height and width.
        sigma: the width of the Gaussian in pixels.

    Returns:
        Images of the same shape. Differentiable.

    Raises:
        ValueError: as ``image_gradient``.

    >>> smooth_images(torch.tensor([[[[0.0, 1.0, 0.0]]]]), sigma=0.5)
    tensor([[[[0.0862, 0.6366, 0.0862]]]])
    """
    require_finite(images=images)
    require_sizes(images=(images, "batch 1 height width"))
    require_positive(sigma=sigma)
    for dimension in (-2, -1):
        place = torch.arange(images.shape[dimension], dtype=images.dtype, device=images.device)
        hills = torch.exp(-((place[:, None] - place) ** 2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))
        images = (hills @ images.transpose(-2, dimension)).transpose(-2, dimension)
    return images


def turn_smooth_images(
    images: Float[Tensor, "batch 1 height width"], sigma: float, radians: float
) -> Float[Tensor, "batch 1 height width"]:
    """The smooth image s of ``image_gradient``, turned: the curve whose tangent is the rotation's.

    With u and v as in ``shift_and_rotation_tangents``::

        s(v·cos φ + u·sin φ, u·cos φ − v·sin φ)

    Nothing is interpolated: s is known everywhere.

    Args:
        images: any height and width.
        sigma: the width of the Gaussian in pixels.
        radians: φ, one angle for all images, counter-clockwise.

    Returns:
        Images of the same shape. Differentiable in the images.

    Raises:
        ValueError: as ``image_gradient``.

    >>> dot = torch.zeros(1, 1, 3, 3); dot[0, 0, 1, 2] = 1.0
    >>> turn_smooth_images(dot, sigma=0.5, radians=math.pi / 2).argmax().item()  # right of the centre, then above it
    1
    """
    require_finite(images=images)
    require_sizes(images=(images, "batch 1 height width"))
    require_positive(sigma=sigma)
    height, width = images.shape[-2:]
    rows, columns = (torch.arange(size, dtype=images.dtype, device=images.device) for size in (height, width))
    v, u = rows[:, None] - (height - 1) / 2, columns - (width - 1) / 2
    v, u = v * math.cos(radians) + u * math.sin(radians), u * math.cos(radians) - v * math.sin(radians)
    down, right = v[..., None] + (height - 1) / 2 - rows, u[..., None] + (width - 1) / 2 - columns
    hills = [torch.exp(-(offset**2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi)) for offset in (down, right)]
    return torch.einsum("bcij,hwi,hwj->bchw", images, *hills)


def nearest_labels(
    x: Float[Tensor, "n pixel"],
    x_tangents: Float[Tensor, "n x_tangent pixel"],
    y: Float[Tensor, "m pixel"],
    y_tangents: Float[Tensor, "m y_tangent pixel"],
    y_labels: Int64[Tensor, " m"],
) -> Int64[Tensor, " n"]:
    """The label of the image y that is nearest to each x in two-sided tangent distance.

    With tangents of zero a side stays where it is: ``0 * x_tangents`` makes the distance one-sided, zeros on both
    sides make it Euclidean.

    Args:
        x: images to classify, all pixels in one row.
        x_tangents: their tangents.
        y: images whose class is known.
        y_tangents: their tangents.
        y_labels: their classes.

    Returns:
        One label an image x. Of equally near images y any one may decide.

    Raises:
        ValueError: as ``tangent_distance_matrix``, or not one label for each y.

    >>> x, none = torch.tensor([[3.0, 0.0]]), torch.zeros(1, 1, 2)
    >>> y, y_tangents = torch.tensor([[2.0, 2.0], [9.0, 1.0]]), torch.tensor([[[0.0, 0.0]], [[1.0, 0.0]]])
    >>> nearest_labels(x, none, y, 0 * y_tangents, torch.tensor([4, 7])).item()  # the nearer point is a 4,
    4
    >>> nearest_labels(x, none, y, y_tangents, torch.tensor([4, 7])).item()  # the nearer plane that of a 7
    7
    """
    require_sizes(y=(y, "m pixel"), y_labels=(y_labels, "m"))
    return y_labels[tangent_distance_matrix(x, x_tangents, y, y_tangents).argmin(dim=1)]
