"""Underconstrained problems: when many weights fit the data perfectly, something has to choose.

A vanishing ridge penalty (Hoerl & Kennard 1970) chooses the shortest solution, and so does gradient descent from zero.
On separable data logistic regression has no solution at all: its weights grow for ever, towards the widest margin
(Soudry et al. 2018). Chapter: ``book/underconstrained_problems.md``.
"""

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import nnls
from torch import Tensor

from course_lib.preconditions import (
    require_finite,
    require_nonnegative,
    require_nonzero,
    require_positive,
    require_positive_integer,
    require_signs,
    require_sizes,
)


def ridge_svd(
    x: Float[Tensor, "n d"], y: Float[Tensor, " n *targets"], strength: float
) -> Float[Tensor, " d *targets"]:
    """Ridge regression by singular values, exact also where the strength goes to zero.

    In a formula, with the singular values sᵢ of X and its singular vectors uᵢ (left) and vᵢ (right)::

        w = argmin  1/(2n)·‖Xw − y‖² + α/2·‖w‖²  =  Σᵢ  sᵢ / (sᵢ² + nα) · (uᵢᵀy) · vᵢ

    The sum leaves out what the data do not see: a singular value counts as zero, at any strength, if it is at most
    max(n, d) · ε · (largest singular value), where ε is ``torch.finfo(x.dtype).eps``. So strength 0 means the limit
    from above, the pseudo-inverse: the shortest of all least-squares solutions.

    Normalisation: the squared error is a mean over examples with a factor 1/2, the squared norm a sum over weights
    with a factor 1/2. Hence nα in the formula; scikit-learn's ``alpha`` is our nα.

    Args:
        x: X, one example a row. There is no constant term; centre the data if you want one.
        y: one target an example, shape (n,), or several, shape (n, k), each regressed on its own.
        strength: α ≥ 0, in the squared units of ``x``.

    Returns:
        The weights, shape (d,) or (d, k), on the device and in the dtype of ``x``. Differentiable in ``y``.

    Raises:
        ValueError: not floating point, NaN or infinity, x is no matrix or is empty, y does not fit, or a negative
            strength.

    Source: Hoerl & Kennard (1970), *Ridge regression*; the cutoff is that of ``numpy.linalg.matrix_rank``.

    >>> ridge_svd(torch.tensor([[3.0, 4.0]]), torch.tensor([5.0]), strength=0.0)
    tensor([0.6000, 0.8000])
    >>> ridge_svd(torch.tensor([[3.0, 4.0]]), torch.tensor([5.0]), strength=25.0)
    tensor([0.3000, 0.4000])
    """
    require_finite(x=x, y=y)
    require_sizes(x=(x, "n d"), y=(y, "n targets?"))
    require_nonnegative(strength=strength)
    u, s, vt = torch.linalg.svd(x, full_matrices=False)
    seen = s > max(x.shape) * torch.finfo(x.dtype).eps * s.max()
    u, s, v = u[:, seen], s[seen], vt[seen].T  # (n, rank), (rank,), (d, rank)
    return v * (s / (s**2 + len(x) * strength)) @ (u.T @ y)


def row_space_component(x: Float[Tensor, "n d"], w: Float[Tensor, " d *targets"]) -> Float[Tensor, " d *targets"]:
    """The part of the weights that the data can see: their orthogonal projection onto the rows of X.

    In a formula, with the right singular vectors vᵢ of X whose singular value is not zero::

        w∥ = Σᵢ (vᵢᵀw) · vᵢ,      so that  Xw∥ = Xw  and  w − w∥ is orthogonal to every row of X

    A singular value counts as zero if it is at most max(n, d) · ε · (largest singular value), where ε is
    ``torch.finfo(x.dtype).eps``.

    Args:
        x: X, one example a row. Rows may depend on each other: an image may occur twice, or be blank.
        w: one weight a column of ``x``, shape (d,), or several such vectors, shape (d, k). It is not changed.

    Returns:
        w∥, the shortest vector with the same predictions on ``x``. Same shape, device and dtype as ``w``.
        Differentiable in ``w``.

    Raises:
        ValueError: not floating point, NaN or infinity, x is no matrix or is empty, or w does not fit its columns.

    Source: Strang (1993), *The fundamental theorem of linear algebra*.

    >>> row_space_component(torch.tensor([[0.0, 2.0, 0.0]]), torch.tensor([5.0, 6.0, 7.0]))
    tensor([0., 6., 0.])
    """
    require_finite(x=x, w=w)
    require_sizes(x=(x, "n d"), w=(w, "d targets?"))
    _, s, vt = torch.linalg.svd(x, full_matrices=False)
    rows = vt[s > max(x.shape) * torch.finfo(x.dtype).eps * s.max()]  # (rank, d), orthonormal
    return rows.T @ (rows @ w)


def gradient_descent_least_squares(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, " n *targets"],
    lr: float,
    steps: int,
    start: Float[Tensor, " d *targets"],
) -> Float[Tensor, " d *targets"]:
    """Plain gradient descent on the mean squared error, from a start of your choice.

    In a formula::

        w ← w − η/n · Xᵀ(Xw − y),      repeated ``steps`` times

    Normalisation: the loss is 1/(2n)·‖Xw − y‖², a mean over examples with a factor 1/2. With several targets each
    column of w has a loss of its own; the error is not averaged over targets.

    Args:
        x: X, one example a row.
        y: one target an example, shape (n,), or several, shape (n, k).
        lr: the learning rate η > 0. Converges for η < 2n / (largest singular value)²; beyond, it diverges to infinity.
        steps: how many steps, at least 1.
        start: the first w, shape (d,) or (d, k). It is not changed.

    Returns:
        The last w, same shape as ``start``. Differentiable in ``x``, ``y`` and ``start``.

    Raises:
        ValueError: not floating point, NaN or infinity, shapes that do not fit, or ``lr`` or ``steps`` not positive.

    Source: the iteration is Landweber's (1951).

    >>> x, y = torch.tensor([[3.0, 4.0]]), torch.tensor([5.0])
    >>> gradient_descent_least_squares(x, y, lr=0.04, steps=1, start=torch.zeros(2))
    tensor([0.6000, 0.8000])
    """
    require_finite(x=x, y=y, start=start)
    require_sizes(x=(x, "n d"), y=(y, "n targets?"), start=(start, "d targets?"))
    require_positive(lr=lr)
    require_positive_integer(steps=steps)
    w = start
    for _ in range(steps):
        w = w - lr / len(x) * (x.T @ (x @ w - y))
    return w


def gradient_descent_limit(
    x: Float[Tensor, "n d"], y: Float[Tensor, " n *targets"], start: Float[Tensor, " d *targets"]
) -> Float[Tensor, " d *targets"]:
    """Where gradient descent on the squared error ends: the shortest solution plus the unseen part of the start.

    In a formula, with the pseudo-inverse X⁺::

        w∞ = X⁺y + (w₀ − w₀∥)

    Args:
        x: X, one example a row.
        y: one target an example, shape (n,), or several, shape (n, k).
        start: w₀, where the descent starts. It is not changed.

    Returns:
        The limit, for every learning rate that converges; of all least-squares solutions the one nearest to the start.

    Raises:
        ValueError: as ``gradient_descent_least_squares``.

    >>> x, y = torch.tensor([[0.0, 2.0]]), torch.tensor([2.0])
    >>> gradient_descent_limit(x, y, start=torch.tensor([7.0, 7.0]))
    tensor([7., 1.])
    """
    require_finite(start=start)
    require_sizes(x=(x, "n d"), y=(y, "n targets?"), start=(start, "d targets?"))
    shortest = ridge_svd(x, y, strength=0.0)
    unseen = start - row_space_component(x, start)
    return shortest + unseen


def logistic_loss(
    w: Float[Tensor, " d"], x: Float[Tensor, "n d"], y: Float[Tensor, " n"], strength: float = 0.0
) -> Float[Tensor, ""]:
    """Logistic loss for two classes plus an L2 penalty.

    In a formula::

        J(w) = 1/n · Σᵢ log(1 + exp(−yᵢ·xᵢᵀw)) + α/2·‖w‖²

    Normalisation: the loss is a mean over examples, in nats; the squared norm is a sum with a factor 1/2.

    Args:
        w: the weights.
        x: X, one example a row; no constant term.
        y: −1 or 1 an example.
        strength: α ≥ 0.

    Returns:
        A scalar, finite however large the weights are. Differentiable.

    Raises:
        ValueError: not floating point, NaN or infinity, shapes that do not fit, other labels, or a negative strength.

    >>> logistic_loss(torch.zeros(2), torch.ones(3, 2), torch.tensor([1.0, -1.0, 1.0]))
    tensor(0.6931)
    """
    require_finite(w=w, x=x, y=y)
    require_sizes(x=(x, "n d"), y=(y, "n"), w=(w, "d"))
    require_signs(y=y)
    require_nonnegative(strength=strength)
    return torch.nn.functional.softplus(-y * (x @ w)).mean() + strength / 2 * w @ w


def fit_logistic(
    x: Float[Tensor, "n d"], y: Float[Tensor, " n"], strength: float, lr: float, steps: int
) -> tuple[Float[Tensor, " d"], Float[Tensor, " steps"]]:
    """Logistic regression by gradient descent from zero, and how the norm of the weights grew.

    In a formula, from w = 0, with the logistic function σ(m) = 1/(1 + exp(−m))::

        J(w) = 1/n · Σᵢ log(1 + exp(−yᵢ·xᵢᵀw)) + α/2·‖w‖²
        w ← w − η·∇J(w),      ∇J(w) = −1/n · Σᵢ σ(−yᵢ·xᵢᵀw)·yᵢ·xᵢ + αw

    Normalisation: the loss is a mean over examples; the squared norm is a sum over weights with a factor 1/2.

    Args:
        x: X, one example a row; no constant term.
        y: the class of each example, −1 or 1, in the dtype of ``x``.
        strength: α ≥ 0; 0 for no penalty.
        lr: the learning rate η > 0.
        steps: how many steps, at least 1.

    Returns:
        The last w, and the norm ‖w‖ after each step, shape (steps,). Both in the dtype and on the device of ``x``, and
        finite also where some yᵢ·xᵢᵀw is in the thousands.

    Raises:
        ValueError: not floating point, NaN or infinity, shapes that do not fit, labels other than −1 and 1, a negative
            strength, or ``lr`` or ``steps`` not positive.

    Source: Soudry et al. (2018), *The implicit bias of gradient descent on separable data*, section 2.

    >>> w, norms = fit_logistic(torch.tensor([[3.0, 4.0]]), torch.tensor([1.0]), strength=0.0, lr=0.4, steps=1)
    >>> w, norms
    (tensor([0.6000, 0.8000]), tensor([1.]))
    """
    require_finite(x=x, y=y)
    require_sizes(x=(x, "n d"), y=(y, "n"))
    require_signs(y=y)
    require_nonnegative(strength=strength)
    require_positive(lr=lr)
    require_positive_integer(steps=steps)
    w, norms = torch.zeros_like(x[0]), []
    for _ in range(steps):
        pull = torch.sigmoid(-y * (x @ w)) * y  # (n,): how hard each example pulls, and which way
        w = w - lr * (strength * w - x.T @ pull / len(x))
        norms.append(w.norm())
    return w, torch.stack(norms)


def margin(w: Float[Tensor, " d"], x: Float[Tensor, "n d"], y: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """The distance from the decision boundary xᵀw = 0 to the nearest example, negative if one is on the wrong side.

    In a formula::

        γ(w) = minᵢ  yᵢ·xᵢᵀw / ‖w‖

    Normalisation: divided by the norm of w, once; not by the norms of the examples. So γ(w) = γ(2w).

    Args:
        w: the weights, not all zero.
        x: X, one example a row.
        y: the class of each example, −1 or 1, in the dtype of ``x``.

    Returns:
        A scalar, in the units of ``x``, on its device and in its dtype. Differentiable where one example is nearest.

    Raises:
        ValueError: not floating point, NaN or infinity, shapes that do not fit, labels other than −1 and 1, or w = 0.

    Source: Soudry et al. (2018), *The implicit bias of gradient descent on separable data*, section 2.

    >>> margin(torch.tensor([3.0, 4.0]), torch.tensor([[1.0, 0.0], [0.0, -2.0]]), torch.tensor([1.0, -1.0]))
    tensor(0.6000)
    """
    require_finite(w=w, x=x, y=y)
    require_sizes(x=(x, "n d"), y=(y, "n"), w=(w, "d"))
    require_signs(y=y)
    require_nonzero(w=w)
    return (y * (x @ w)).min() / w.norm()


def max_margin(x: Float[Tensor, "n d"], y: Float[Tensor, " n"]) -> Float[Tensor, " d"]:
    """The linear support vector machine with a hard margin and no constant term.

    In a formula::

        ŵ = argmin ‖w‖   subject to   yᵢ·xᵢᵀw ≥ 1 for all i

    Its margin is 1/‖ŵ‖, the widest there is. Lawson and Hanson turn the problem into non-negative least squares, which
    SciPy solves exactly, in float64 on the CPU.

    Args:
        x: X, one example a row.
        y: the class of each example, −1 or 1, in the dtype of ``x``.

    Returns:
        ŵ, on the device and in the dtype of ``x``. Not differentiable.

    Raises:
        ValueError: bad input as for ``margin``, or no w of norm below 10⁹ has yᵢ·xᵢᵀw ≥ 1 for all i.

    Source: Lawson & Hanson (1974), *Solving least squares problems*, chapter 23.

    >>> max_margin(torch.tensor([[2.0, 0.0], [-4.0, 0.0]]), torch.tensor([1.0, -1.0])).abs()
    tensor([0.5000, 0.0000])
    """
    require_finite(x=x, y=y)
    require_sizes(x=(x, "n d"), y=(y, "n"))
    require_signs(y=y)
    signed = (y[:, None] * x).detach().cpu().double().numpy()  # (n, d)
    wanted = np.append(np.zeros(x.shape[1]), 1.0)
    system = np.vstack([signed.T, np.ones(len(signed))])  # (d + 1, n)
    weights, distance = nnls(system, wanted, maxiter=100 * len(signed))
    if distance < 1e-9:
        raise ValueError(
            "two classes must be separable: wanted some w with y·xᵀw > 0 for all examples, got none. "
            "Is a label wrong, or is a constant column missing?"
        )
    residual = wanted - system @ weights
    return torch.as_tensor(-residual[:-1] / residual[-1]).to(x)
