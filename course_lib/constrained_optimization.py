"""Penalties and constraints: two ways to say "no large weights", and the map between them.

A strength α prices the size of the weights, a radius r forbids too much of it; for a convex loss every solution
of one problem solves the other. Projections enforce a radius. Duchi, Shalev-Shwartz, Singer & Chandra (2008),
Srivastava et al. (2014), Boyd & Vandenberghe (2004). Chapter: ``book/constrained_optimization.md``.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from course_lib.preconditions import (
    require_between,
    require_finite,
    require_nonempty,
    require_positive,
    require_positive_integer,
    require_sizes,
)


def project_l2(x: Float[Tensor, "*shape"], radius: float) -> Float[Tensor, "*shape"]:
    """The point of the L2 ball that is nearest to x.

    In a formula::

        P(x) = argmin over z of ‖z − x‖   such that   ‖z‖ ≤ r

    Normalisation: ‖·‖ is the root of the sum of squares over **all** entries; x is one vector, whatever its shape.

    Args:
        x: a tensor of any shape. It is not changed.
        radius: r > 0, in the units of ``x``.

    Returns:
        A tensor of the same shape, device and dtype: equal to x inside the ball, of norm r otherwise.
        Differentiable except on the sphere ‖x‖ = r; also at x = 0.

    Raises:
        ValueError: not a floating-point tensor, NaN or infinity, or a radius that is not positive.

    Source: Parikh & Boyd (2014), *Proximal algorithms*, section 6.5.1.

    >>> project_l2(torch.tensor([3.0, 4.0]), radius=1.0)
    tensor([0.6000, 0.8000])
    """
    require_finite(x=x)
    require_positive(radius=radius)
    return x / (torch.linalg.vector_norm(x) / radius).clamp(min=1)


def project_l1(x: Float[Tensor, "*shape"], radius: float) -> Float[Tensor, "*shape"]:
    """The point of the L1 ball that is nearest to x.

    In a formula::

        P(x) = argmin over z of ‖z − x‖   such that   Σᵢ |zᵢ| ≤ r

    Outside the ball it is soft thresholding, with the one threshold t > 0 that makes Σᵢ max(|xᵢ| − t, 0) = r. Exact,
    in O(n log n) for n entries: no iteration that stops at a tolerance.

    Normalisation: a sum over **all** entries; x is one vector, whatever its shape.

    Args:
        x: a tensor of any shape with at least one entry. It is not changed.
        radius: r > 0, in the units of ``x``.

    Returns:
        A tensor of the same shape, device and dtype: equal to x inside the ball; otherwise its absolute entries
        sum to r, and the entries of x within ±t have become exactly zero. Differentiable almost everywhere.

    Raises:
        ValueError: not a floating-point tensor, no entry, NaN or infinity, or a radius that is not positive.

    Source: Duchi, Shalev-Shwartz, Singer & Chandra (2008), *Efficient projections onto the l1-ball for learning
    in high dimensions*, figure 1.

    >>> project_l1(torch.tensor([3.0, -2.0, 0.5]), radius=2.0)
    tensor([ 1.5000, -0.5000,  0.0000])
    """
    require_finite(x=x)
    require_nonempty(x=x.flatten())
    require_positive(radius=radius)
    largest_first = x.abs().flatten().sort(descending=True).values
    count = torch.arange(1, x.numel() + 1, dtype=x.dtype, device=x.device)
    threshold = ((largest_first.cumsum(0) - radius) / count).max().clamp(min=0)
    return torch.where(x.abs() < threshold, 0, x - threshold * x.sign())


def max_norm_(weight: Float[Tensor, " unit *incoming"], bound: float) -> Float[Tensor, " unit *incoming"]:
    """Project the incoming weights of every unit onto an L2 ball, in place: the max-norm constraint.

    In a formula, for every unit i, with ``weight[i]`` as one vector::

        wᵢ ← wᵢ · min(1, c / ‖wᵢ‖)

    Normalisation: one norm for each index of the first dimension, the root of the sum of squares over all others: a
    row of a linear layer's weight, an output channel of a convolution's. Never over the whole tensor.

    Args:
        weight: at least two dimensions, the first counts the units. **Changed in place**, outside the graph of
            autograd, so that a parameter may be passed as it is. Its entries may lie in memory in any order
            (``channels_last``, a transpose).
        bound: c > 0, in the units of ``weight``.

    Returns:
        The same tensor object. Units inside their ball stay as they are, also a unit of zeros. Autograd is on after
        the call if it was on before.

    Raises:
        ValueError: not a floating-point tensor, fewer than two dimensions, NaN or infinity, or a bound that is not
            positive.

    Source: Srivastava, Hinton, Krizhevsky, Sutskever & Salakhutdinov (2014), *Dropout*, section 5.1.

    >>> max_norm_(torch.tensor([[3.0, 4.0], [0.3, 0.4]]), bound=1.0)
    tensor([[0.6000, 0.8000],
            [0.3000, 0.4000]])
    """
    require_finite(weight=weight)
    require_sizes(weight=(weight, "unit incoming ..."))
    require_positive(bound=bound)
    with torch.no_grad():
        norms = torch.linalg.vector_norm(weight.flatten(1), dim=1)  # (unit,)
        excess = (norms / bound).clamp(min=1)
        return weight.div_(excess.reshape(-1, *[1] * (weight.ndim - 1)))


def ridge_radius(eigenvalues: Float[Tensor, " n"], moment: Float[Tensor, " n"], strength: float) -> Float[Tensor, ""]:
    """The norm of the ridge solution of a given strength: the radius that belongs to it.

    In a formula::

        r(α) = ‖(H + α·I)⁻¹ b‖ = √ Σᵢ (bᵢ / (λᵢ + α))²

    Normalisation: the penalty is α/2·‖w‖², the loss wᵀHw/2 − bᵀw; so α stands beside the eigenvalues without a 2.

    Args:
        eigenvalues: λᵢ ≥ 0 of the Hessian H of the loss, in any order.
        moment: bᵢ, the downhill direction −∇L(0) in the same eigenvectors: bᵢ = vᵢᵀ b. For least squares, b = Xᵀy/n.
        strength: α > 0, in the units of the eigenvalues. For α → 0 the radius tends to the free solution's norm.

    Returns:
        A scalar on the device and in the dtype of ``eigenvalues``. Differentiable where it is not 0.

    Raises:
        ValueError: a tensor is not floating point or not finite, shapes differ, a negative eigenvalue, or a strength
            that is not positive.

    Source: Hoerl & Kennard (1970), *Ridge regression*, section 3.

    >>> ridge_radius(torch.tensor([2.0, 0.0]), torch.tensor([9.0, 4.0]), strength=1.0)
    tensor(5.)
    """
    require_between(0, torch.inf, eigenvalues=eigenvalues)
    require_finite(moment=moment)
    require_sizes(eigenvalues=(eigenvalues, "*n"), moment=(moment, "*n"))
    require_positive(strength=strength)
    return torch.linalg.vector_norm(moment / (eigenvalues + strength))


def strength_for_radius(eigenvalues: Float[Tensor, " n"], moment: Float[Tensor, " n"], radius: float) -> float:
    """The strength of the ridge penalty whose solution has a given norm: the multiplier of the constraint.

    In a formula, with r(α) as in ``ridge_radius``::

        α = the smallest α ≥ 0 with r(α) ≤ r

    r(α) falls, and r(α) ≤ ‖b‖/α; so the root lies between 0 and ‖b‖/r, and halving this interval a hundred times
    pins it down.

    Normalisation: as in ``ridge_radius``.

    Args:
        eigenvalues: λᵢ ≥ 0 of the Hessian H of the loss, in any order.
        moment: bᵢ = vᵢᵀ b in the same eigenvectors.
        radius: r > 0, in the units of the weights.

    Returns:
        A Python float: α ≥ 0, to the precision of the inputs' dtype; 0 (or less than 10⁻¹²) where the free solution
        lies inside the ball already. Not differentiable.

    Raises:
        ValueError: a tensor is not floating point or not finite, shapes differ, a negative eigenvalue, or a radius
            that is not positive.

    Source: Moré & Sorensen (1983), *Computing a trust region step*, section 3; there by Newton's method.

    >>> round(strength_for_radius(torch.tensor([2.0, 0.0]), torch.tensor([9.0, 4.0]), radius=5.0), 5)
    1.0
    """
    require_between(0, torch.inf, eigenvalues=eigenvalues)
    require_finite(moment=moment)
    require_sizes(eigenvalues=(eigenvalues, "*n"), moment=(moment, "*n"))
    require_positive(radius=radius)
    low, high = 0.0, torch.linalg.vector_norm(moment).item() / radius
    for _ in range(100):
        middle = (low + high) / 2
        outside = torch.linalg.vector_norm(moment / (eigenvalues + middle)) > radius
        low, high = (middle, high) if outside else (low, middle)
    return low


def kkt_residual(
    weight: Float[Tensor, "*shape"], gradient: Float[Tensor, "*shape"], project: Callable[[Tensor], Tensor]
) -> Float[Tensor, ""]:
    """How far a weight is from solving a constrained problem: for a convex loss zero at a solution, and only there.

    In a formula::

        ρ(w) = ‖w − P(w − g)‖

    One projected gradient step with rate 1 must lead nowhere. For a convex loss and a convex set this says all of the
    conditions of Karush, Kuhn and Tucker at once; it asks for no multiplier.

    Normalisation: the root of the sum of squares over all entries, never a mean. Without a constraint it is ‖g‖.

    Args:
        weight: w, a tensor of any shape.
        gradient: g, the gradient of the loss alone at ``weight``, same shape.
        project: P, the projection onto the set, for example ``lambda w: project_l1(w, 2.0)``.

    Returns:
        A scalar ≥ 0, in the units of the gradient.

    Raises:
        ValueError: shapes differ, or a tensor is not floating point or not finite.

    Source: Boyd & Vandenberghe (2004), *Convex optimization*, section 5.5.3, for the conditions.

    >>> w = torch.tensor([0.6, 0.8])  # the loss ‖w − (3, 4)‖²/2 on the unit ball
    >>> kkt_residual(w, w - torch.tensor([3.0, 4.0]), lambda z: project_l2(z, 1.0)) < 1e-6
    tensor(True)
    """
    require_finite(weight=weight, gradient=gradient)
    require_sizes(weight=(weight, "*shape"), gradient=(gradient, "*shape"))
    return torch.linalg.vector_norm(weight - project(weight - gradient))


def projected_gradient_descent(
    weight: Float[Tensor, "*shape"],
    gradient_of: Callable[[Tensor], Tensor],
    project: Callable[[Tensor], Tensor],
    lr: float,
    steps: int,
) -> Float[Tensor, "*shape"]:
    """Minimize a smooth loss over a convex set: a gradient step, then back to the nearest allowed point.

    In a formula::

        w ← P(w − η·g)

    Args:
        weight: where to start, a tensor of any shape; it need not lie in the set. It is not changed.
        gradient_of: maps a weight to the gradient of the loss alone, same shape.
        project: maps a weight to the nearest point of the set.
        lr: the learning rate η > 0; for a convex loss it converges if lr is at most 1 / (largest eigenvalue of the
            Hessian).
        steps: how many steps, at least 1.

    Returns:
        The last weight; it lies in the set.

    Raises:
        ValueError: lr is not positive, steps is below 1, or the weight is no longer finite: the run has diverged.

    Source: Parikh & Boyd (2014), *Proximal algorithms*, section 4.2: proximal gradient descent, where the penalty is
    0 in the set and infinite outside.

    >>> target = torch.tensor([3.0, 4.0])
    >>> ball = lambda w: project_l2(w, 1.0)
    >>> projected_gradient_descent(torch.zeros(2), lambda w: w - target, ball, lr=1.0, steps=9)
    tensor([0.6000, 0.8000])
    """
    require_positive(lr=lr)
    require_positive_integer(steps=steps)
    for _ in range(steps):
        weight = project(weight - lr * gradient_of(weight))
        require_finite(weight=weight)
    return weight
