"""The training loop of every chapter: small enough to read before the first experiment."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset
from tqdm.auto import tqdm

from course_lib.data import Split
from course_lib.preconditions import require_nonempty, require_positive_integer

Loss = Callable[[Tensor, Tensor], Tensor]
Penalty = Callable[[nn.Module, Tensor, Tensor], Tensor]
Callback = Callable[[int, nn.Module, dict[str, float]], object]


def batches(split: Split, batch_size: int, *, seed: int = 0) -> DataLoader:
    """Shuffled batches of a split, in an order that the seed fixes.

    Args:
        split: images and labels.
        batch_size: images a batch, at least 1; the last batch may be smaller.
        seed: fixes the order of every epoch; it does not touch torch's global generator.

    Returns:
        A loader of pairs ``(x, y)``.

    Raises:
        ValueError: the split is empty, or ``batch_size`` is not positive.
    """
    require_nonempty(split=split.y)
    require_positive_integer(batch_size=batch_size)
    images = TensorDataset(split.x, split.y)
    order = RandomSampler(images, generator=torch.Generator().manual_seed(seed))
    # A batch is one index into the tensors, wherever they live: far cheaper than collating images one by one.
    return DataLoader(images, sampler=BatchSampler(order, batch_size, drop_last=False), batch_size=None)


def fit(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    optimizer: torch.optim.Optimizer,
    *,
    epochs: int,
    loss: Loss = nn.functional.cross_entropy,
    penalties: Sequence[Penalty] = (),
    callbacks: Sequence[Callback] = (),
    after_step: Callable[[nn.Module], object] | None = None,
    progress: bool = False,
) -> list[dict[str, float]]:
    """Minimize the mean loss of each batch plus all penalties.

    In a formula::

        θ ← optimizer step on  loss(model(x), y) + Σₖ penaltyₖ(model, x, y)

    Args:
        model: trained in place, on the device of its parameters; batches are moved there. It is in training mode
            during an epoch and in evaluation mode while the callbacks look at it, and at the end.
        loader: pairs ``(x, y)``, read once an epoch.
        optimizer: holds the model's parameters.
        epochs: passes over the loader, at least 1.
        loss: ``(output, y) -> scalar``, a mean over the batch.
        penalties: each ``(model, x, y) -> scalar``, for example
            ``lambda model, x, y: l2_penalty(model.parameters(), 1e-3)``.
        callbacks: each called after an epoch with ``(epoch, model, averages)``; one that returns True ends training.
        after_step: called with the model after every optimizer step, for example to project its weights back onto a
            constraint set.
        progress: show a bar.

    Returns:
        One dictionary an epoch with ``"loss"`` and ``"penalty"``, means over its batches.

    Raises:
        ValueError: ``epochs`` is below 1, the loader is empty, or the objective is not finite.

    >>> from course_lib.data import digits
    >>> torch.manual_seed(0); model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    <torch._C.Generator ...>
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> history = fit(model, batches(digits().train, 64), optimizer, epochs=3)
    >>> history[0]["loss"] > history[2]["loss"]
    True
    """
    require_positive_integer(epochs=epochs)
    device = next(model.parameters()).device
    history = []
    for epoch in tqdm(range(epochs), disable=not progress, desc="epochs"):
        model.train()
        terms = []
        for x, y in loader:
            terms.append(_step(model, optimizer, loss, penalties, x.to(device), y.to(device)))
            if after_step is not None:
                after_step(model)
        if not terms:
            raise ValueError(
                "loader must not be empty: wanted at least one batch, got none. A generator is read only once."
            )
        averages = torch.stack(terms).mean(dim=0)
        history.append({"loss": averages[0].item(), "penalty": averages[1].item()})
        model.eval()
        if any([callback(epoch, model, history[-1]) is True for callback in callbacks]):
            break
    return history


def _step(
    model: nn.Module, optimizer: torch.optim.Optimizer, loss: Loss, penalties: Sequence[Penalty], x: Tensor, y: Tensor
) -> Float[Tensor, "2"]:
    """One optimizer step; loss and penalty before it."""
    optimizer.zero_grad()
    error = loss(model(x), y)
    penalty = sum((penalize(model, x, y) for penalize in penalties), start=torch.zeros_like(error))
    objective = error + penalty
    if not torch.isfinite(objective):
        raise ValueError(
            f"the objective must be finite: wanted a number, got loss {error.item():g} and penalty {penalty.item():g}. "
            "Training has diverged: try a smaller learning rate or strength."
        )
    objective.backward()
    optimizer.step()
    return torch.stack([error.detach(), penalty.detach()])


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode for a while; then every module in it gets its own mode back.

    Args:
        model: the model; its modules may be in different modes, for example frozen ones.

    >>> model = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
    >>> with evaluating(model):
    ...     model[0].training
    False
    >>> [layer.training for layer in model]
    [True, False]
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:  # parents come first, so that children keep their own
            module.train(training)


@torch.no_grad()
def predictions(model: nn.Module, x: Float[Tensor, "n ..."], *, batch_size: int = 1000) -> Int64[Tensor, " n"]:
    """The class that the model finds most likely for each image, in evaluation mode.

    Args:
        model: maps images to one score a class; every module's mode is restored.
        x: images, on any device.
        batch_size: images at a time.

    Returns:
        Class numbers on the CPU.
    """
    device = next(model.parameters()).device
    with evaluating(model):
        found = [model(part.to(device)).argmax(dim=1).cpu() for part in x.split(batch_size)]
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.int64)


def accuracy(model: nn.Module, split: Split) -> float:
    """The share of a split's images that the model classifies rightly, in [0, 1].

    Args:
        model: maps images to one score a class.
        split: images and labels.

    Returns:
        Right answers divided by images.

    Raises:
        ValueError: the split is empty.
    """
    require_nonempty(split=split.y)
    return (predictions(model, split.x) == split.y.cpu()).double().mean().item()
