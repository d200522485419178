"""Early stopping: end training when unseen data say so, and keep the weights of the best epoch.

On a quadratic, stopping gradient descent after τ steps acts like an L2 penalty of strength about 1/(ητ). Bishop
(1995), Prechelt (1998), Ali, Kolter & Tibshirani (2019). Chapter: ``book/early_stopping.md``.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from course_lib.data import Split
from course_lib.preconditions import (
    require_named_tensors,
    require_nonempty,
    require_nonnegative,
    require_numbers,
    require_positive,
    require_positive_integer,
    require_stable_descent,
)


def best_epoch(errors: Sequence[float], min_delta: float = 0.0) -> int:
    """The epoch of the last improvement, counted from 0.

    Read the errors in order. An epoch is an **improvement** if its error is smaller than the error at the
    improvement before it by more than ``min_delta``::

        error < (error at the last improvement) − min_delta

    Before the first improvement the number to beat is infinity. So a tie is no improvement and the earlier epoch
    stands; NaN and +infinity never are improvements. The yardstick moves only at improvements: many small steps
    down, none of them larger than ``min_delta``, add up and count once their sum is.

    Args:
        errors: one validation error an epoch, lower is better (pass accuracies with a minus sign). NaN and +infinity
            are allowed. They are compared as they are: a copy in float32 would make ties where there are none.
        min_delta: how much an error must fall to count, ≥ 0, in the units of the errors.

    Returns:
        The number of the epoch; −1, the state before training, if there was no improvement.

    Raises:
        ValueError: ``errors`` is not a sequence of numbers, or ``min_delta`` is negative or not finite.

    >>> best_epoch([0.9, 0.5, 0.7, 0.5])
    1
    >>> best_epoch([0.9, 0.5, 0.45, 0.38], min_delta=0.1)
    3
    """
    require_numbers(errors=errors)
    require_nonnegative(min_delta=min_delta)
    best, lowest = -1, float("inf")
    for epoch, error in enumerate(errors):
        if error < lowest - min_delta:
            best, lowest = epoch, error
    return best


def should_stop(errors: Sequence[float], patience: int, min_delta: float = 0.0) -> bool:
    """Whether patience has run out: the latest ``patience`` epochs brought no improvement.

    An improvement is what ``best_epoch`` says it is; what came before it does not count against a run. A run
    without any improvement, such as one whose errors are all NaN, has been waiting since before its first epoch.

    Args:
        errors: one validation error an epoch so far, lower is better. NaN and +infinity are allowed.
        patience: how many epochs in a row may pass without improvement, at least 1; at that many, stop.
        min_delta: how much an error must fall to count, ≥ 0.

    Returns:
        True to stop now, False to go on; False before the first epoch.

    Raises:
        ValueError: ``errors`` is not a sequence of numbers, ``patience`` is not a positive integer, or ``min_delta``
            is negative or not finite.

    Source: Prechelt (1998), *Early stopping – but when?*, for this rule's relatives.

    >>> should_stop([0.9, 0.5, 0.7], patience=2)
    False
    >>> should_stop([0.9, 0.5, 0.7, 0.5], patience=2)
    True
    """
    require_numbers(errors=errors)
    require_positive_integer(patience=patience)
    require_nonnegative(min_delta=min_delta)
    return len(errors) - 1 - best_epoch(errors, min_delta) >= patience


def best_checkpoint(
    train_epoch: Callable[[], object],
    validate: Callable[[], float],
    state: dict[str, Tensor],
    epochs: int,
    patience: int,
    min_delta: float = 0.0,
) -> list[float]:
    """Train until patience runs out, then put the best epoch's state back.

    An epoch is one call of ``train_epoch``, then one of ``validate``. After each, ``should_stop`` decides about
    going on, and ``best_epoch`` about which state to keep. At the end ``state`` holds the values that it had at the
    best epoch; its values at the start, if no epoch was an improvement.

    Args:
        train_epoch: trains for one epoch. It changes the tensors in ``state`` **in place**, as optimizers do.
        validate: returns the validation error of the present state, lower is better. It changes nothing.
        state: tensors that do not require gradients, by name and of any dtype, as in ``model.state_dict()``, whose
            tensors are the model's own. The best values are written back into these same tensors.
        epochs: train at most so many, at least 1.
        patience: stop after so many epochs in a row without improvement, at least 1.
        min_delta: how much an error must fall to count, ≥ 0.

    Returns:
        The validation errors, one for each epoch that was run.

    Raises:
        ValueError: ``state`` is not a non-empty dictionary of tensors, a count is not a positive integer,
            ``min_delta`` is negative, or ``validate`` returns something that is not a number.

    >>> w, errors = torch.tensor(0.0), iter([0.9, 0.5, 0.7, 0.8])
    >>> best_checkpoint(lambda: w.add_(1), lambda: next(errors), {"w": w}, epochs=4, patience=2)
    [0.9, 0.5, 0.7, 0.8]
    >>> w
    tensor(2.)
    """
    require_named_tensors(state=state)
    require_positive_integer(epochs=epochs, patience=patience)
    require_nonnegative(min_delta=min_delta)
    errors: list[float] = []
    kept = {name: tensor.clone() for name, tensor in state.items()}
    while len(errors) < epochs and not should_stop(errors, patience, min_delta):
        train_epoch()
        errors.append(validate())
        if best_epoch(errors, min_delta) == len(errors) - 1:
            kept = {name: tensor.clone() for name, tensor in state.items()}
    with torch.no_grad():
        for name, tensor in state.items():
            tensor.copy_(kept[name])
    return errors


def gradient_descent_filter_factors(eigenvalues: Float[Tensor, " n"], lr: float, steps: int) -> Float[Tensor, " n"]:
    """How much of the solution gradient descent has found along each eigenvector of the Hessian.

    For a quadratic loss, a start at zero and full-batch steps, in a formula::

        sᵢ = 1 − (1 − η·λᵢ)^τ

    Args:
        eigenvalues: λᵢ ≥ 0 of the Hessian, in any order.
        lr: the learning rate η > 0, with η·λᵢ ≤ 2 for all i; beyond that descent diverges.
        steps: τ, how many steps were taken, at least 1.

    Returns:
        One factor an eigenvalue, in the dtype of the eigenvalues; 0 for λᵢ = 0. In [0, 1] where η·λᵢ ≤ 1; beyond
        that the steps jump across the minimum, and after an odd number of them the factor lies above 1.
        Differentiable in the eigenvalues.

    Raises:
        ValueError: eigenvalues that are not a floating-point tensor, not finite or negative, a learning rate that is
            not positive or too large, or ``steps`` not a positive integer.

    Source: Goodfellow, Bengio & Courville (2016), *Deep learning*, section 7.8.

    >>> gradient_descent_filter_factors(torch.tensor([1.0, 0.5, 0.0]), lr=1.0, steps=2)
    tensor([1.0000, 0.7500, 0.0000])
    """
    require_positive(lr=lr)
    require_stable_descent(eigenvalues, lr, limit=2.0)
    require_positive_integer(steps=steps)
    return 1 - (1 - lr * eigenvalues) ** steps


def equivalent_strength(eigenvalues: Float[Tensor, " n"], lr: float, steps: int) -> Float[Tensor, " n"]:
    """The strength of the L2 penalty that keeps the same share as early stopping, eigenvalue by eigenvalue.

    In a formula, αᵢ solves::

        λᵢ / (λᵢ + αᵢ) = 1 − (1 − η·λᵢ)^τ        and        αᵢ → 1/(η·τ)  as  λᵢ → 0

    Args:
        eigenvalues: λᵢ ≥ 0 of the Hessian, in any order.
        lr: the learning rate η > 0, with η·λᵢ ≤ 1 for all i; beyond that descent overshoots, and after an odd
            number of steps no strength ≥ 0 does the same.
        steps: τ, how many steps were taken, at least 1.

    Returns:
        One strength an eigenvalue, in the dtype and units of the eigenvalues, for the penalty α/2 · Σ w²; the limit
        1/(η·τ) where λᵢ = 0, and 0 where η·λᵢ = 1.

    Raises:
        ValueError: eigenvalues that are not a floating-point tensor, not finite or negative, a learning rate that is
            not positive or too large, or ``steps`` not a positive integer.

    Source: Bishop (1995), *Regularization and complexity control in feed-forward networks*.

    >>> equivalent_strength(torch.tensor([1.0, 0.5, 0.0]), lr=1.0, steps=2)
    tensor([0.0000, 0.1667, 0.5000])
    """
    require_positive(lr=lr)
    require_stable_descent(eigenvalues, lr, limit=1.0)
    require_positive_integer(steps=steps)
    left = torch.log1p(-(lr * eigenvalues).clamp(max=1)) * steps  # log of (1 − η·λ)^τ, exact for small λ too
    return torch.where(eigenvalues > 0, eigenvalues / torch.expm1(-left), 1 / (lr * steps))


@torch.no_grad()
def mean_loss(model: nn.Module, split: Split) -> float:
    """The mean cross-entropy of a model on a split, as it stands (in evaluation mode if it is put there).

    Args:
        model: maps images to one score a class.
        split: images and labels, on any device.

    Returns:
        The mean over images, in nats.

    Raises:
        ValueError: the split is empty.
    """
    require_nonempty(split=split.y)
    device = next(model.parameters()).device
    return nn.functional.cross_entropy(model(split.x.to(device)), split.y.to(device)).item()


class EarlyStopping:
    """A callback for ``training.fit`` that ends training when patience runs out and puts the best weights back.

    The best epoch is the one that ``best_epoch`` finds in the errors on ``validation``; its weights are there when
    ``fit`` returns, also if training ran to its last epoch. If no epoch is an improvement (all errors NaN), those of
    the first one are: the callback has not seen the weights before it.

    Args:
        validation: images and labels that are not trained on; choose them like those that the model will meet.
        patience: stop after so many epochs in a row without improvement, at least 1.
        epochs: the ``epochs`` that ``fit`` was given.
        min_delta: how much the error must fall to count, ≥ 0.
        error: ``(model, split) -> number``, lower is better; the mean cross-entropy by default.

    Raises:
        ValueError: a count is not a positive integer, or ``min_delta`` is negative or not finite.

    >>> from course_lib.data import digits, few_labels
    >>> from course_lib.training import batches, fit
    >>> torch.manual_seed(0); model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    <torch._C.Generator ...>
    >>> stopping = EarlyStopping(digits().test, patience=3, epochs=200)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    >>> loader = batches(few_labels(digits().train, 5), 25)
    >>> history = fit(model, loader, optimizer, epochs=200, callbacks=[stopping])
    >>> len(history) < 200 and mean_loss(model, digits().test) == min(stopping.errors)
    True
    """

    def __init__(
        self,
        validation: Split,
        patience: int,
        epochs: int,
        min_delta: float = 0.0,
        error: Callable[[nn.Module, Split], float] = mean_loss,
    ):
        require_positive_integer(patience=patience, epochs=epochs)
        require_nonnegative(min_delta=min_delta)
        self.validation, self.patience, self.epochs, self.min_delta = validation, patience, epochs, min_delta
        self.error, self.errors, self.kept = error, [], {}

    @property
    def best(self) -> int:
        """The best epoch so far, counted from 0; −1 if none was an improvement."""
        return best_epoch(self.errors, self.min_delta)

    def __call__(self, epoch: int, model: nn.Module, averages: dict[str, float]) -> bool:
        """Look at the model after an epoch; True ends training."""
        if epoch == 0:
            self.errors, self.kept = [], {}  # the same callback may serve a second run
        self.errors.append(self.error(model, self.validation))
        if self.best == epoch or not self.kept:
            self.kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        stop = should_stop(self.errors, self.patience, self.min_delta)
        if stop or epoch + 1 == self.epochs:
            model.load_state_dict(self.kept)
        return stop


def generalization_loss(errors: Sequence[float]) -> float:
    """By how many percent the latest validation error lies above the lowest one: Prechelt's GL.

    In a formula::

        GL = 100 · (E / min E − 1)

    Args:
        errors: positive validation errors so far, at least one.

    Returns:
        A percentage ≥ 0. Criterion GL_α stops once it exceeds α.

    Raises:
        ValueError: not a non-empty sequence of numbers.

    Source: Prechelt (1998), *Early stopping – but when?*

    >>> generalization_loss([0.5, 0.4, 0.5])
    25.0
    """
    require_numbers(errors=errors)
    require_nonempty(errors=errors)
    return 100 * (errors[-1] / min(errors) - 1)


def training_progress(training_errors: Sequence[float]) -> float:
    """How much higher the mean training error of a strip of epochs lies above its minimum: Prechelt's P_k.

    In a formula, over the k epochs of one strip::

        P = 1000 · (mean E / min E − 1)

    Args:
        training_errors: positive training errors of the k epochs of the strip, at least one.

    Returns:
        A number ≥ 0, in per mille; large while training still moves fast. Criterion PQ_α stops once
        GL/P exceeds α.

    Raises:
        ValueError: not a non-empty sequence of numbers.

    Source: Prechelt (1998), *Early stopping – but when?*

    >>> training_progress([1.5, 1.0, 0.5])
    1000.0
    """
    require_numbers(training_errors=training_errors)
    require_nonempty(training_errors=training_errors)
    return 1000 * (sum(training_errors) / len(training_errors) / min(training_errors) - 1)


def rises(errors: Sequence[float]) -> int:
    """How many times in a row, up to now, the validation error has risen: Prechelt's UP.

    Args:
        errors: validation errors so far, one at the end of each strip of epochs.

    Returns:
        The length of the latest unbroken climb, 0 if the last error did not rise. Criterion UP_s stops once it is s.

    Raises:
        ValueError: not a sequence of numbers.

    Source: Prechelt (1998), *Early stopping – but when?*

    >>> rises([0.5, 0.6, 0.4, 0.5, 0.6])
    2
    """
    require_numbers(errors=errors)
    count = 0
    for before, after in zip(errors, errors[1:], strict=False):
        count = count + 1 if after > before else 0
    return count
