"""Manifold tangents: let the data say which small changes do not matter, then forbid the network to notice them.

The directions in which an encoder still listens, the top singular vectors of its Jacobian, are taken for tangents of
the manifold near which the data lie. Rifai, Dauphin, Vincent, Bengio & Muller (2011).
Chapter: ``book/manifold_tangents.md``.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from course_lib.contractive_autoencoders import encoder_jacobian
from course_lib.preconditions import (
    require_finite,
    require_indices,
    require_integer_between,
    require_nonnegative,
    require_sizes,
)
from course_lib.tangent_distance import orthonormal_tangents
from course_lib.tangent_prop import pushforward


def encoder_tangents(
    encoder: Callable[[Tensor], Tensor], x: Float[Tensor, "batch pixel"], k: int
) -> Float[Tensor, "batch k pixel"]:
    """The k directions in which an encoder's code moves fastest, for each image: learned tangents.

    In a formula, with h the encoder and J its Jacobian at one image::

        J = ∂h/∂x  (code × pixel),    J = U·diag(s₁ ≥ s₂ ≥ …)·Vᵀ,    the answer: the first k rows of Vᵀ

    Normalisation: the rows are orthonormal; the singular values are dropped. Largest singular value first. The sign of
    a row is free; so is the choice of rows with equal singular values, which do not occur in the tests.

    Args:
        encoder: maps a batch of images, (batch, pixel), to a batch of codes, (batch, code). Each code depends on its
            own image alone.
        x: the images at which to differentiate, one a row.
        k: how many tangents, at most the number of code units and of pixels.

    Returns:
        The tangents, one a row, on the device and in the dtype of ``x``. They are data for what follows: no gradient
        flows back through them, neither to ``x`` nor to the encoder.

    Raises:
        ValueError: not a floating-point matrix, empty, not finite, or k out of range.

    Source: Rifai, Dauphin, Vincent, Bengio & Muller (2011), *The manifold tangent classifier*, section 3.

    >>> stretch = torch.tensor([[1.0, 0.0, 0.0], [0.0, 3.0, 0.0]])
    >>> encoder_tangents(lambda x: x @ stretch.T, torch.ones(1, 3), k=2).abs()  # the second pixel moves the code most
    tensor([[[0., 1., 0.],
             [1., 0., 0.]]])
    """
    require_finite(x=x)
    require_sizes(x=(x, "batch pixel"))
    require_integer_between(1, min(x.shape[1], encoder(x[:1]).shape[1]), k=k)
    jacobian = encoder_jacobian(encoder, x)  # (batch, code, pixel)
    return torch.linalg.svd(jacobian.detach(), full_matrices=False).Vh[:, :k].contiguous()


def local_pca_tangents(
    x: Float[Tensor, "batch pixel"], data: Float[Tensor, "n pixel"], neighbours: int, k: int
) -> Float[Tensor, "batch k pixel"]:
    """The k directions in which the nearest data spread most, for each image: tangents without a network.

    In a formula, with z₁, …, zₙ the n nearest data of one image, and z̄ their mean::

        Z = rows zᵢ − z̄,    Z = U·diag(s₁ ≥ s₂ ≥ …)·Vᵀ,    the answer: the first k rows of Vᵀ

    Normalisation: the rows are orthonormal. Largest spread first. The sign of a row is free, and so is the choice of
    rows of equal spread, which does not occur in the tests. The cloud is centred at its own mean, not at the image.

    Args:
        x: the images whose tangents are wanted, one a row.
        data: where neighbours are looked for, by Euclid's distance. An image that is itself among the data counts as
            one of its own neighbours.
        neighbours: n, how many, at least 2.
        k: how many tangents, at most n − 1 (n centred points span no more) and the number of pixels.

    Returns:
        The tangents, one a row, on the device and in the dtype of ``x``.

    Raises:
        ValueError: sizes or dtypes differ, empty, not finite, fewer data than neighbours, or k out of range.

    Source: after Kambhatla & Leen (1997), *Dimension reduction by local principal component analysis*, who take cells
    of a partition of the data where this takes neighbours.

    >>> data = torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.0, 2.0], [9.0, 0.0]])
    >>> local_pca_tangents(torch.tensor([[0.5, 1.0]]), data, neighbours=3, k=1).abs()  # the far point has no say
    tensor([[[0., 1.]]])
    """
    require_finite(x=x, data=data)
    require_sizes(x=(x, "batch pixel"), data=(data, "n pixel"))
    require_integer_between(2, len(data), neighbours=neighbours)
    require_integer_between(1, min(neighbours - 1, x.shape[1]), k=k)
    near = torch.cdist(x, data).topk(neighbours, largest=False).indices
    cloud = data[near]  # (batch, neighbour, pixel)
    spread = cloud - cloud.mean(dim=1, keepdim=True)
    return torch.linalg.svd(spread, full_matrices=False).Vh[:, :k].contiguous()


def tangent_split(
    vectors: Float[Tensor, "batch pixel"], tangents: Float[Tensor, "batch tangent pixel"]
) -> tuple[Float[Tensor, "batch pixel"], Float[Tensor, "batch pixel"]]:
    """Split each vector into the part along its tangent plane and the part across it.

    In a formula::

        v = a + c,    a in the span of the tangents,    c orthogonal to every tangent

    Normalisation: none; the parts add up to v, and ‖a‖² + ‖c‖² = ‖v‖².

    Args:
        vectors: v, one a row.
        tangents: those of each vector, one a row; at most as many as pixels. They need be neither orthogonal nor of
            length 1, and some may depend on others, or be zero.

    Returns:
        First the part **along** the plane, then the part **across** it. Differentiable in the vectors.

    Raises:
        ValueError: sizes or dtypes differ, empty, not finite, or more tangents than pixels.

    >>> v, plane = torch.tensor([[3.0, 4.0, 5.0]]), torch.tensor([[[2.0, 0.0, 0.0], [1.0, 1.0, 0.0]]])
    >>> along, across = tangent_split(v, plane)
    >>> (5 * along).round() / 5, (5 * across).round() / 5
    (tensor([[3., 4., 0.]]), tensor([[0., 0., 5.]]))
    """
    require_finite(vectors=vectors, tangents=tangents)
    require_sizes(vectors=(vectors, "batch pixel"), tangents=(tangents, "batch tangent pixel"))
    basis = orthonormal_tangents(tangents)
    along = torch.einsum("bkp,bkq,bq->bp", basis, basis, vectors)
    return along, vectors - along


def principal_angles(
    a: Float[Tensor, "batch a_tangent pixel"], b: Float[Tensor, "batch b_tangent pixel"]
) -> Float[Tensor, "batch angle"]:
    """The angles between two planes: how far the directions of one must turn to lie in the other.

    In a formula, with orthonormal rows A and B that span the planes::

        cos θᵢ = σᵢ(A·Bᵀ),     sin θᵢ = σ'ᵢ(B − B·Aᵀ·A)     if B has no more rows than A, else exchange A and B

    with the singular values σ from the largest to the smallest, and σ' from the smallest to the largest.

    Normalisation: radians, from 0 to π/2, smallest first; as many as the smaller plane has dimensions.

    Accuracy: small angles and right angles are exact up to rounding. (The cosine of a small angle is 1 up to rounding,
    and so is the sine of one near π/2: each formula alone loses half of the digits somewhere.) Rounding may make a
    sine or cosine larger than 1; an angle is never NaN.

    Args:
        a: vectors that span the first plane of each pair, one a row, linearly independent. They need be
            neither orthogonal nor of length 1.
        b: the same for the second plane. It may have another number of dimensions.

    Returns:
        min(a_tangent, b_tangent) angles a pair. If rows are linearly dependent all the same, each missing dimension
        counts as a right angle. Do not differentiate through it.

    Raises:
        ValueError: sizes or dtypes differ, empty, not finite, or more tangents than pixels.

    Source: Björck & Golub (1973), *Numerical methods for computing angles between linear subspaces*; Knyazev &
    Argentati (2002) for the two formulas together.

    >>> floor = torch.tensor([[[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
    >>> wall = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 0.0, 5.0]]])
    >>> principal_angles(floor, wall)  # they share a direction, and stand upright on each other
    tensor([[0.0000, 1.5708]])
    """
    require_finite(a=a, b=b)
    require_sizes(a=(a, "batch a_tangent pixel"), b=(b, "batch b_tangent pixel"))
    large, small = (orthonormal_tangents(plane) for plane in ((a, b) if a.shape[1] >= b.shape[1] else (b, a)))
    across = small - small @ large.mT @ large
    missing = torch.diag_embed(1 - small.square().sum(dim=2)).clamp(min=0)  # a row of zeros has the sine 1
    sine = torch.linalg.svdvals(torch.cat([across, missing], dim=2)).flip(1)
    cosine = torch.linalg.svdvals(large @ small.mT)
    return torch.atan2(sine, cosine)  # as exact as the smaller of the two, which is the exact one


def mtc_loss(
    model: Callable[[Tensor], Tensor],
    x: Float[Tensor, "batch pixel"],
    y: Int64[Tensor, " batch"],
    tangents: Float[Tensor, "batch tangent pixel"],
    strength: float,
) -> Float[Tensor, ""]:
    """The loss of the manifold tangent classifier: be right, and do not move along the tangents.

    In a formula, with o the model, B images in the batch, and uᵢⱼ the tangents of image xᵢ::

        L = 1/B · Σᵢ CE(o(xᵢ), yᵢ)  +  λ/B · Σᵢ Σⱼ ‖J(xᵢ)·uᵢⱼ‖²,      J = ∂o/∂x

    CE is the cross-entropy of ``torch.nn.functional.cross_entropy``.

    Normalisation: a **mean** over the images of the batch in both terms; in the second a **sum** over tangents and over
    classes, of squared derivatives of the scores o (before the softmax), without a factor 1/2. The tangents are used as
    they are: twice as long, four times the penalty.

    Args:
        model: maps a batch of images, (batch, pixel), to scores, (batch, class). Each row depends on its own image
            alone.
        x: the images, one a row.
        y: their classes, int64 from 0.
        tangents: those of each image, one a row; usually orthonormal.
        strength: λ ≥ 0, dimensionless.

    Returns:
        A scalar on the device and in the dtype of ``x``. Differentiable in the model's parameters.

    Raises:
        ValueError: sizes or dtypes differ, empty, not finite, y not one int64 an image, or a negative strength.

    Source: Rifai, Dauphin, Vincent, Bengio & Muller (2011), section 4, after Simard et al. (1992).

    >>> weight = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    >>> x, y, tangents = torch.zeros(1, 2), torch.tensor([0]), torch.tensor([[[1.0, 0.0]]])
    >>> mtc_loss(lambda x: x @ weight.T, x, y, tangents, strength=0.1)  # log 2 and 0.1 · 3²
    tensor(1.5931)
    """
    require_finite(x=x, tangents=tangents)
    require_sizes(x=(x, "batch pixel"), y=(y, "batch"), tangents=(tangents, "batch tangent pixel"))
    require_indices(model(x[:1]).shape[1], y=y)
    require_nonnegative(strength=strength)
    scores, slopes = pushforward(model, x, tangents)  # (batch, class), (batch, tangent, class)
    return torch.nn.functional.cross_entropy(scores, y) + strength * slopes.square().sum(dim=(1, 2)).mean()


def captured_share(
    directions: Float[Tensor, "batch direction pixel"], tangents: Float[Tensor, "batch tangent pixel"]
) -> Float[Tensor, "batch direction"]:
    """How much of each direction lies in a plane: the squared cosine of its angle with the plane.

    In a formula::

        share = ‖part of d along the plane‖² / ‖d‖²

    A random plane of k dimensions captures k/pixel on average.

    Args:
        directions: such as known tangents, one a row, not zero.
        tangents: of the plane, one a row; see ``tangent_split``.

    Returns:
        Numbers from 0 to 1, one a direction.

    Raises:
        ValueError: as ``tangent_split``, or a direction is zero.

    >>> captured_share(torch.tensor([[[1.0, 1.0], [0.0, 2.0]]]), torch.tensor([[[3.0, 0.0]]]))
    tensor([[0.5000, 0.0000]])
    """
    require_finite(directions=directions, tangents=tangents)
    require_sizes(directions=(directions, "batch direction pixel"), tangents=(tangents, "batch tangent pixel"))
    length = directions.square().sum(dim=2)
    if not length.all():
        raise ValueError(
            "a share needs a length to be a share of: wanted directions that are not zero, got "
            f"{int((length == 0).sum())} of length 0. Is an image blank?"
        )
    return (directions @ orthonormal_tangents(tangents).mT).square().sum(dim=2) / length


def random_tangents(batch: int, k: int, pixel: int, *, seed: int = 0) -> Float[Tensor, "batch k pixel"]:
    """Planes that know nothing of the data, all directions equally likely: the control.

    Args:
        batch: how many planes.
        k: their dimensions, at most ``pixel``.
        pixel: the dimension of the space.
        seed: chooses the planes; torch's global generator is not touched.

    Returns:
        Orthonormal rows, float32, on the CPU.

    Raises:
        ValueError: a size is not an integer in range.

    >>> random_tangents(5, 2, 64).shape
    torch.Size([5, 2, 64])
    """
    require_integer_between(1, 2**31, batch=batch, pixel=pixel)
    require_integer_between(1, pixel, k=k)
    normal = torch.randn(batch, pixel, k, generator=torch.Generator().manual_seed(seed))
    return torch.linalg.qr(normal).Q.mT.contiguous()
