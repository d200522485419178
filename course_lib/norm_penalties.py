"""Norm penalties: make large weights cost something.

L2 shrinks every direction of weight space by its own factor; L1 makes weights exactly zero, but only through
its proximal step. Krogh & Hertz (1992), Tibshirani (1996), Zou & Hastie (2005), Loshchilov & Hutter (2019).
Chapter: ``book/norm_penalties.md``.
"""

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from course_lib.preconditions import (
    require_between,
    require_finite,
    require_nonnegative,
    require_positive,
    require_positive_integer,
    require_sizes,
    takes_parameters,
)


@takes_parameters
def l2_penalty(parameters: Iterable[Tensor], strength: float) -> Float[Tensor, ""]:
    """Half the squared L2 norm of all parameters, times a strength.

    In a formula::

        α·Ω(θ) = α/2 · Σᵢ θᵢ²

    Normalisation: a sum over all entries of all tensors, never a mean; the norm is squared; the
    1/2 is there, so that the gradient is αθ.

    Args:
        parameters: tensors of any shapes, together the vector θ.
        strength: α ≥ 0, dimensionless.

    Returns:
        A scalar on the device and in the dtype of the parameters. Differentiable; the gradient at θ = 0 is 0.

    Raises:
        ValueError: no tensor, a bare tensor, an integer tensor, NaN or infinity, or a negative strength.

    Source: Krogh & Hertz (1992), *A simple weight decay can improve generalization*.

    >>> l2_penalty([torch.tensor([3.0, 4.0])], strength=0.1)
    tensor(1.2500)
    """
    require_nonnegative(strength=strength)
    vectors = [parameter.flatten() for parameter in parameters]
    return strength / 2 * sum(vector @ vector for vector in vectors)


@takes_parameters
def l1_penalty(parameters: Iterable[Tensor], strength: float) -> Float[Tensor, ""]:
    """The L1 norm of all parameters, times a strength.

    In a formula::

        α·Ω(θ) = α · Σᵢ |θᵢ|

    Normalisation: a sum over all entries of all tensors, never a mean; no factor 1/2.

    Args:
        parameters: tensors of any shapes, together the vector θ.
        strength: α ≥ 0, dimensionless.

    Returns:
        A scalar on the device and in the dtype of the parameters. Differentiable except at zero; the gradient
        is α·sign(θ), and 0 at exact zeros.

    Raises:
        ValueError: no tensor, a bare tensor, an integer tensor, NaN or infinity, or a negative strength.

    Source: Tibshirani (1996), *Regression shrinkage and selection via the lasso*.

    >>> l1_penalty([torch.tensor([3.0, -4.0])], strength=0.1)
    tensor(0.7000)
    """
    require_nonnegative(strength=strength)
    pieces = (piece for parameter in parameters for piece in parameter.flatten().split(2**17))
    # Pieces that stay in a cache: torch's own L1 norm is slower, and loses digits on long float32 vectors.
    return strength * sum(piece.abs().sum() for piece in pieces)


@takes_parameters
def elastic_net_penalty(parameters: Iterable[Tensor], l1: float, l2: float) -> Float[Tensor, ""]:
    """The elastic net: an L1 and an L2 penalty together.

    In a formula::

        Ω(θ) = α₁ · Σᵢ |θᵢ| + α₂/2 · Σᵢ θᵢ²

    Normalisation: as in ``l1_penalty`` and ``l2_penalty``. Zou and Hastie write the squared norm without the
    1/2, beside a sum of squared errors: for a loss of 1/(2n)·‖y − Xw‖² their λ₁ is our 2n·α₁, their λ₂ our n·α₂.

    Args:
        parameters: tensors of any shapes, together the vector θ.
        l1: α₁ ≥ 0, dimensionless.
        l2: α₂ ≥ 0, dimensionless.

    Returns:
        A scalar on the device and in the dtype of the parameters. Differentiable except at zero.

    Raises:
        ValueError: no tensor, a bare tensor, an integer tensor, NaN or infinity, or a negative strength.

    Source: Zou & Hastie (2005), *Regularization and variable selection via the elastic net*.

    >>> elastic_net_penalty([torch.tensor([3.0, -4.0])], l1=0.1, l2=0.1)
    tensor(1.9500)
    """
    return l1_penalty(parameters, l1) + l2_penalty(parameters, l2)


def soft_threshold(x: Float[Tensor, "*shape"], threshold: float) -> Float[Tensor, "*shape"]:
    """Move every entry towards zero by a threshold, and stop at zero: the proximal step of the L1 norm.

    In a formula::

        S(x) = argmin over z of  (z − x)²/2 + t·|z|,   entry by entry

    Args:
        x: a tensor of any shape. It is not changed.
        threshold: t ≥ 0, in the units of ``x``.

    Returns:
        A new tensor of the same shape, device and dtype. Entries with |x| ≤ t are exactly zero.
        Differentiable except at |x| = t.

    Raises:
        ValueError: not a floating-point tensor, NaN or infinity, or a negative threshold.

    Source: Parikh & Boyd (2014), *Proximal algorithms*, section 6.5.2.

    >>> soft_threshold(torch.tensor([-3.0, -0.5, 0.0, 2.0]), threshold=1.0)
    tensor([-2., 0., 0., 1.])
    """
    require_finite(x=x)
    require_nonnegative(threshold=threshold)
    return x - x.clamp(-threshold, threshold)


def elastic_net_proximal_step(
    weight: Float[Tensor, "*shape"], gradient: Float[Tensor, "*shape"], lr: float, l1: float, l2: float
) -> Float[Tensor, "*shape"]:
    """One proximal gradient step for a smooth loss plus an elastic net.

    In a formula::

        w' = argmin over z of  1/(2η)·‖z − (w − η·g)‖² + α₁·‖z‖₁ + α₂/2·‖z‖²

    The minimum has a closed form, entry by entry: set the derivative to zero, as for ``soft_threshold``.

    Args:
        weight: w, a tensor of any shape. It is not changed.
        gradient: g, the gradient of the loss alone at ``weight``, same shape.
        lr: the learning rate η > 0.
        l1: α₁ ≥ 0, the strength of ‖z‖₁, a sum over entries.
        l2: α₂ ≥ 0, the strength of half the squared norm, a sum over entries.

    Returns:
        The new weight w', same shape, with exact zeros where |w − η·g| ≤ η·α₁.

    Raises:
        ValueError: shapes differ, a tensor is not floating point or not finite, a number is negative, or lr is 0.

    Source: Zou & Hastie (2005) for the penalty; Parikh & Boyd (2014), sections 4.2 and 6.5.3, for the step.

    >>> elastic_net_proximal_step(torch.tensor([2.0, 0.1]), torch.tensor([-1.0, 0.0]), lr=1.0, l1=1.0, l2=1.0)
    tensor([1., 0.])
    """
    require_finite(weight=weight, gradient=gradient)
    require_sizes(weight=(weight, "*shape"), gradient=(gradient, "*shape"))
    require_positive(lr=lr)
    require_nonnegative(l1=l1, l2=l2)
    moved = weight - lr * gradient
    thresholded = moved - moved.clamp(-lr * l1, lr * l1)
    return thresholded / (1 + lr * l2)


def adamw_step(
    weight: Float[Tensor, "*shape"],
    gradient: Float[Tensor, "*shape"],
    mean: Float[Tensor, "*shape"],
    square: Float[Tensor, "*shape"],
    step: int,
    lr: float,
    decay: float,
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """One step of Adam with decoupled weight decay.

    In a formula::

        m' = 0.9·m + 0.1·g            v' = 0.999·v + 0.001·g²
        m̂  = m' / (1 − 0.9ᵗ)          v̂  = v' / (1 − 0.999ᵗ)
        w' = (1 − η·λ)·w − η·m̂ / (√v̂ + 1e-8)

    The decay acts on the weight alone. It enters neither the gradient nor the running averages, so that the
    division by √v̂ cannot weaken it.

    Args:
        weight: w, a tensor of any shape. Like all the other arguments, it is not changed.
        gradient: g, the gradient of the loss alone, same shape.
        mean: m, the running mean of gradients, same shape; zeros before the first step.
        square: v, the running mean of squared gradients, same shape; zeros before the first step.
        step: t, the number of this step; the first one is 1.
        lr: the learning rate η ≥ 0.
        decay: λ ≥ 0; the weight is multiplied by 1 − η·λ.

    Returns:
        The new ``weight``, ``mean`` and ``square``: w', m', v'.

    Raises:
        ValueError: shapes differ, a tensor is not floating point or not finite, a number is negative, or step
            < 1.

    Source: Loshchilov & Hutter (2019), *Decoupled weight decay regularization*, algorithm 2, with its λ read
    as our η·λ, as in ``torch.optim.AdamW``.

    >>> w, zero = torch.ones(1), torch.zeros(1)
    >>> adamw_step(w, zero, zero, zero, step=1, lr=0.1, decay=0.5)[0]
    tensor([0.9500])
    """
    require_finite(weight=weight, gradient=gradient, mean=mean, square=square)
    require_sizes(weight=(weight, "*shape"), gradient=(gradient, "*shape"))
    require_sizes(weight=(weight, "*shape"), mean=(mean, "*shape"), square=(square, "*shape"))
    require_nonnegative(lr=lr, decay=decay)
    require_positive_integer(step=step)
    mean = 0.9 * mean + 0.1 * gradient
    square = 0.999 * square + 0.001 * gradient**2
    mean_unbiased = mean / (1 - 0.9**step)
    square_unbiased = square / (1 - 0.999**step)
    weight = (1 - lr * decay) * weight - lr * mean_unbiased / (square_unbiased.sqrt() + 1e-8)
    return weight, mean, square


def shrinkage_factors(eigenvalues: Float[Tensor, " n"], strength: float) -> Float[Tensor, " n"]:
    """How much of the unpenalized solution an L2 penalty keeps along each eigenvector of the Hessian.

    In a formula::

        sᵢ = λᵢ / (λᵢ + α)

    Args:
        eigenvalues: λᵢ ≥ 0 of the Hessian of the unpenalized loss, in any order.
        strength: α ≥ 0, in the units of the eigenvalues, for the penalty of ``l2_penalty``.

    Returns:
        One factor in [0, 1] an eigenvalue. A direction that the data do not see (λᵢ = 0) keeps nothing, also
        at α = 0, the limit from above.

    Raises:
        ValueError: not a floating-point tensor, not finite, a negative eigenvalue, or a negative strength.

    Source: Hoerl & Kennard (1970), *Ridge regression*.

    >>> shrinkage_factors(torch.tensor([9.0, 1.0, 0.0]), strength=1.0)
    tensor([0.9000, 0.5000, 0.0000])
    """
    require_between(0, torch.inf, eigenvalues=eigenvalues)
    require_nonnegative(strength=strength)
    shrunk = eigenvalues / (eigenvalues + strength)
    return torch.where(eigenvalues > 0, shrunk, torch.zeros_like(eigenvalues))


def proximal_gradient_descent(
    weight: Float[Tensor, "*shape"],
    gradient_of: Callable[[Tensor], Tensor],
    lr: float,
    steps: int,
    l1: float = 0.0,
    l2: float = 0.0,
) -> Float[Tensor, "*shape"]:
    """Minimize a smooth loss plus an elastic net by repeating ``elastic_net_proximal_step`` (ISTA).

    Args:
        weight: where to start, a tensor of any shape. It is not changed.
        gradient_of: maps a weight to the gradient of the loss alone, same shape.
        lr: the learning rate; for a convex loss it converges if lr is at most 1 / (largest eigenvalue of the Hessian).
        steps: how many steps, at least 1.
        l1: strength of the L1 norm, a sum over entries.
        l2: strength of half the squared L2 norm, a sum over entries.

    Returns:
        The last weight.

    Raises:
        ValueError: as ``elastic_net_proximal_step``; so a run that diverges ends with a message.

    Source: Beck & Teboulle (2009), *A fast iterative shrinkage-thresholding algorithm*, section 3.

    >>> target = torch.tensor([2.0, 0.5])
    >>> proximal_gradient_descent(torch.zeros(2), lambda w: w - target, lr=1.0, steps=9, l1=1.0)
    tensor([1., 0.])
    """
    require_positive_integer(steps=steps)
    for _ in range(steps):
        weight = elastic_net_proximal_step(weight, gradient_of(weight), lr, l1, l2)
    return weight
