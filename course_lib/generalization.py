"""Generalization: a model is judged on data that it has not seen, and that judgement has to be earned.

Train and test error, their split into bias and variance by retraining (Geman, Bienenstock & Doursat 1992), validation
without leakage (Stone 1974), and the fit whose test error peaks where parameters and examples are equal in number and
falls again beyond (Belkin, Hsu, Ma & Mandal 2019). Chapter: ``book/generalization.md``.
"""

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from course_lib.preconditions import (
    require_finite,
    require_integer_between,
    require_nonnegative,
    require_sizes,
)

Model = TypeVar("Model")


def bias_variance(
    predictions: Float[Tensor, " resample *shape"], target: Float[Tensor, "*shape"]
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """Split the mean squared error of retrained models into squared bias and variance.

    In a formula, with f₁ … f_R the predictions of R models and f̄ their mean, for every entry of the target y::

        bias² = (f̄ − y)²       variance = 1/R · Σᵣ (fᵣ − f̄)²       error = 1/R · Σᵣ (fᵣ − y)²

    Normalisation: both means divide by R, not by R − 1; then error = bias² + variance holds up to rounding.
    Nothing is averaged over examples or outputs.

    Args:
        predictions: what R ≥ 2 models say about the same inputs, each trained on a resample of its own.
        target: the truth y, in the shape of one model's predictions (any shape, also ()), and in their dtype.

    Returns:
        ``(bias_squared, variance, error)``, each in the shape, dtype and on the device of the target.
        Differentiable in both arguments.

    Raises:
        ValueError: fewer than two models, shapes that do not fit, not floating point, NaN or infinity.

    Source: Geman, Bienenstock & Doursat (1992), *Neural networks and the bias/variance dilemma*.

    >>> bias_variance(torch.tensor([[1.0], [3.0]]), torch.tensor([0.0]))
    (tensor([4.]), tensor([1.]), tensor([5.]))
    """
    require_finite(predictions=predictions, target=target)
    require_sizes(predictions=(predictions, "resample *shape"), target=(target, "*shape"))
    require_integer_between(2, 2**31, **{"len(predictions)": len(predictions)})
    mean = predictions.mean(dim=0)
    variance = ((predictions - mean) ** 2).mean(dim=0)
    error = ((predictions - target) ** 2).mean(dim=0)
    return (mean - target) ** 2, variance, error


def k_fold(n: int, k: int, seed: int) -> list[tuple[Int64[Tensor, " train"], Int64[Tensor, " held_out"]]]:
    """Split the indices 0 … n − 1 for cross-validation.

    Shuffle the indices and deal them into k folds. Each fold is held out once, and the others are trained on.

    Normalisation: the sizes of two folds differ by at most one. Every index is held out exactly once.

    Args:
        n: how many examples there are, at least 2.
        k: how many folds, from 2 to n; k = n holds out one example at a time.
        seed: fixes the shuffle, from 0. No global generator is read or moved: not torch's, numpy's or Python's.

    Returns:
        k pairs ``(train, held_out)`` of int64 indices on the CPU, in any order within a part.

    Raises:
        ValueError: not integers, n < 2, k < 2 or k > n, or a negative seed.

    Source: Stone (1974), *Cross-validatory choice and assessment of statistical predictions*.

    >>> [len(held_out) for train, held_out in k_fold(n=7, k=3, seed=0)]
    [3, 2, 2]
    """
    require_integer_between(2, 2**31, n=n)
    require_integer_between(2, n, k=k)
    require_integer_between(0, 2**31, seed=seed)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    folds = [order[start::k] for start in range(k)]
    return [(torch.cat(folds[:i] + folds[i + 1 :]), folds[i]) for i in range(k)]


def learning_curve(
    fit: Callable[[Tensor, Tensor], Model],
    error: Callable[[Model, Tensor, Tensor], float],
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    sizes: Sequence[int],
    seeds: Sequence[int],
) -> tuple[Float[Tensor, "seed size"], Float[Tensor, "seed size"]]:
    """Train and test error of a method against the number of training examples.

    For every seed shuffle the training examples once. For every size take that many from the front of this order, call
    ``fit`` on them once, and measure two errors of this model: on these same examples, and on all test examples. So the
    subsets of one seed are nested, and a curve shows what *more* data do, not *other* data.

    Args:
        fit: ``fit(x, y)`` returns a new model; it sees this subset and nothing else.
        error: ``error(model, x, y)`` returns a number (a float or a tensor of shape ()), kept as it is, in its
            own units.
        train: ``(x, y)``, n inputs and their labels, one row each.
        test: ``(x, y)``, never passed to ``fit``.
        sizes: subset sizes from 1 to n, in any order.
        seeds: one shuffle each, from 0; a seed alone fixes its row, whatever other seeds stand beside it. No global
            generator is read or moved.

    Returns:
        ``(train_errors, test_errors)``, float64 on the CPU, one row a seed, one column a size in the order given.

    Raises:
        ValueError: labels do not match inputs, an empty part, or a size or seed that is out of range.

    Source: the same measurements as ``sklearn.model_selection.learning_curve``, on one fixed test set.

    >>> x, y = torch.zeros(4, 1), torch.tensor([1.0, 1.0, 1.0, 1.0])
    >>> mean, off = lambda x, y: y.mean(), lambda model, x, y: (y - model).abs().mean().item()
    >>> learning_curve(mean, off, (x, y), (x, 2 * y), sizes=[2, 4], seeds=[0])
    (tensor([[0., 0.]], dtype=torch.float64), tensor([[1., 1.]], dtype=torch.float64))
    """
    require_sizes(**{"train[0]": (train[0], "n ..."), "train[1]": (train[1], "n ...")})
    require_sizes(**{"test[0]": (test[0], "n ..."), "test[1]": (test[1], "n ...")})
    require_integer_between(1, len(train[0]), **{f"sizes[{i}]": size for i, size in enumerate(sizes)})
    require_integer_between(0, 2**31, **{f"seeds[{i}]": seed for i, seed in enumerate(seeds)})
    train_errors, test_errors = torch.zeros(2, len(seeds), len(sizes), dtype=torch.float64)
    for row, seed in enumerate(seeds):
        order = torch.randperm(len(train[0]), generator=torch.Generator().manual_seed(seed))
        for column, size in enumerate(sizes):
            x, y = train[0][order[:size]], train[1][order[:size]]
            model = fit(x, y)
            for errors, examples in ((train_errors, (x, y)), (test_errors, test)):
                errors[row, column] = torch.as_tensor(error(model, *examples), dtype=torch.float64).detach()
    return train_errors, test_errors


def min_norm_fit(
    features: Float[Tensor, "n p"], y: Float[Tensor, "n k"], strength: float = 0.0
) -> Float[Tensor, "p k"]:
    """Fit a linear read-out by least squares: ridge for a positive strength, and its limit for strength 0.

    In a formula::

        w = argmin  1/(2n) · ‖Φw − y‖² + α/2 · ‖w‖²                   for α > 0
        w = of all minimizers of ‖Φw − y‖², the one of least norm     for α = 0

    The second is the limit of the first as α falls to 0. It exists for n < p, n = p and n > p, and for features that
    repeat each other. With the singular value decomposition Φ = U S Vᵀ both are::

        w = V · diag(sᵢ / (sᵢ² + nα)) · Uᵀ y     and a direction with sᵢ = 0 keeps nothing

    Normalisation: a mean over the n examples, a sum over the k outputs, 1/2 on both terms, squared norms; the same
    α as in a penalty α/2·‖w‖² on a mean loss. No constant is added to the features.

    Args:
        features: Φ, one row an example.
        y: what to fit, one column an output.
        strength: α ≥ 0, in the units of a mean squared feature.

    Returns:
        The weights w, on the device and in the dtype of the features. For α = 0, singular values count as zero below
        max(n, p) · ε · s₁, with ε the precision of the dtype. Differentiable in ``y``.

    Raises:
        ValueError: not matrices, numbers of rows that differ, an empty side, not floating point, NaN or infinity, or a
            negative strength.

    Source: Penrose (1956), *On best approximate solutions of linear matrix equations*, for strength 0.

    >>> min_norm_fit(torch.tensor([[3.0, 4.0]]), torch.tensor([[5.0]]))  # of all w with 3a + 4b = 5 the shortest
    tensor([[0.6000],
            [0.8000]])
    """
    require_finite(features=features, y=y)
    require_sizes(features=(features, "n p"), y=(y, "n k"))
    require_nonnegative(strength=strength)
    u, s, vh = torch.linalg.svd(features, full_matrices=False)
    seen = s > max(features.shape) * torch.finfo(s.dtype).eps * s.max()
    kept = torch.where(seen, s / (s**2 + len(features) * strength), 0.0)
    return vh.mT @ (kept[:, None] * (u.mT @ y))


def random_relu_features(x: Float[Tensor, "n d"], weights: Float[Tensor, "d p"]) -> Float[Tensor, "n p"]:
    """A hidden layer of rectified units that is drawn once and never trained.

    In a formula::

        φⱼ(x) = max(0, x·vⱼ) / √p

    Normalisation: divided by the root of the number of features, so that ‖φ(x)‖² is a mean over features, and a ridge
    strength means the same for every p.

    Args:
        x: inputs, one row each.
        weights: the directions v, one column a feature; ``torch.randn(d, p)`` for Gaussian ones.

    Returns:
        One row an input, one column a feature. Differentiable except where x·v = 0.

    Raises:
        ValueError: not matrices, sizes that do not fit, no feature, not floating point, NaN or infinity.

    Source: Rahimi & Recht (2007), *Random features for large-scale kernel machines*, with rectified units.

    >>> random_relu_features(torch.tensor([[2.0, -1.0, 0.0, 4.0]]), torch.eye(4))
    tensor([[1., 0., 0., 2.]])
    """
    require_finite(x=x, weights=weights)
    require_sizes(x=(x, "n d"), weights=(weights, "d p"))
    return torch.relu(x @ weights) / math.sqrt(weights.shape[1])


def cross_validation(
    fit: Callable[[Tensor, Tensor], Model],
    error: Callable[[Model, Tensor, Tensor], float],
    x: Float[Tensor, "n ..."],
    y: Tensor,
    k: int,
    seed: int,
) -> Float[Tensor, " k"]:
    """The error on each fold of a model that was fitted to all the other folds.

    Args:
        fit: ``fit(x, y)`` returns a new model. Whatever learns from data belongs in here: also scaling, also the choice
            of features.
        error: ``error(model, x, y)`` returns a number.
        x: n inputs, one row each.
        y: their labels.
        k: how many folds.
        seed: fixes the folds.

    Returns:
        One error a fold, float64 on the CPU. Their mean is the estimate; folds share training data, so their spread
        is no honest interval.

    Raises:
        ValueError: labels do not match inputs, or as ``k_fold``.

    Source: Stone (1974), *Cross-validatory choice and assessment of statistical predictions*.

    >>> x, y = torch.zeros(4, 1), torch.tensor([0.0, 0.0, 0.0, 3.0])
    >>> mean, off = lambda x, y: y.mean(), lambda model, x, y: (y - model).abs().mean().item()
    >>> cross_validation(mean, off, x, y, k=4, seed=0).mean()
    tensor(1.5000, dtype=torch.float64)
    """
    require_sizes(x=(x, "n ..."), y=(y, "n ..."))
    errors = []
    for train, held_out in k_fold(len(x), k, seed):
        model = fit(x[train], y[train])
        errors.append(float(error(model, x[held_out], y[held_out])))
    return torch.tensor(errors, dtype=torch.float64)
