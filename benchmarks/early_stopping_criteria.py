"""Fourteen stopping criteria of Prechelt (1998) and patience, on small networks: training time against test error.

As in the paper: full-batch RPROP on the squared error, validation at the end of every strip of five epochs, weights of
the lowest validation error so far, at most 3000 epochs, an end when training no longer progresses, half the examples to
train and a quarter each to validate and to test. Ours are the problems: three small tables that come with
scikit-learn, and 800 images of digits, digits with wrong labels, MNIST and USPS.

    python benchmarks/early_stopping_criteria.py
"""

from collections.abc import Callable, Iterator

import torch
from sklearn import datasets
from study import Study
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, mse_loss, one_hot

from course_lib.data import Split, digits, few_labels, mnist, usps
from course_lib.early_stopping import generalization_loss, rises, should_stop, training_progress

STRIP, EPOCHS, SEEDS = 5, 3000, range(5)
WIDTHS = {"16": [16], "64": [64], "32-32": [32, 32]}
Part = tuple[Tensor, Tensor]  # inputs and targets, one example a row


def images(split: Split) -> Part:
    """Eighty images a class, those of 28x28 averaged to 14x14; one-hot labels."""
    x, y = few_labels(split, 80)
    return (avg_pool2d(x, 2) if x.shape[-1] == 28 else x).flatten(1), one_hot(y, 10).float()


def table(name: str) -> Part:
    """A table of scikit-learn, columns standardized; one-hot classes, or a standardized number to predict."""
    source = getattr(datasets, f"load_{name}")()
    x, y = torch.tensor(source.data).float(), torch.tensor(source.target)
    targets = y.float()[:, None] if name == "diabetes" else one_hot(y.long()).float()
    standard = (targets - targets.mean(0)) / targets.std(0) if name == "diabetes" else targets
    return (x - x.mean(0)) / x.std(0), standard


PROBLEMS: dict[str, Callable[[], Part]] = {
    "breast cancer": lambda: table("breast_cancer"),
    "diabetes": lambda: table("diabetes"),
    "wine": lambda: table("wine"),
    "digits": lambda: images(digits().train),
    "digits, 20 % wrong labels": lambda: images(digits().train),
    "MNIST": lambda: images(mnist().train),
    "USPS": lambda: images(usps().train),
}
# name: whether to stop, from the validation errors of all strips and the training errors of the latest
CRITERIA: dict[str, Callable[[list[float], list[float]], bool]] = {
    **{f"GL {a:g}": lambda va, tr, a=a: generalization_loss(va) > a for a in (1, 2, 3, 5)},
    **{
        f"PQ {a:g}": lambda va, tr, a=a: generalization_loss(va) > a * training_progress(tr)
        for a in (0.5, 0.75, 1, 2, 3)
    },
    **{f"UP {s}": lambda va, tr, s=s: rises(va) >= s for s in (2, 3, 4, 6, 8)},
    **{f"patience {p}": lambda va, tr, p=p: should_stop(va, p // STRIP) for p in (10, 20, 40, 80)},
}


def problem(name: str, seed: int) -> tuple[Part, Part, Part]:
    """Half to train, a quarter to validate, a quarter to test; a fifth of the training labels wrong if named so."""
    x, y = PROBLEMS[name]()
    random = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(x), generator=random)
    x, y = x[order], y[order]
    half, quarter = len(x) // 2, len(x) // 4
    if "wrong labels" in name:
        y[: half // 5] = y[: half // 5].roll(int(torch.randint(1, 10, (), generator=random)), dims=1)
    train, validation, test = (slice(0, half), slice(half, half + quarter), slice(half + quarter, None))
    return (x[train], y[train]), (x[validation], y[validation]), (x[test], y[test])


def network(inputs: int, widths: list[int], outputs: int, seed: int) -> nn.Module:
    """Sigmoid hidden layers and linear outputs."""
    torch.manual_seed(seed)
    sizes = [inputs, *widths]
    hidden = [layer for a, b in zip(sizes, widths, strict=False) for layer in (nn.Linear(a, b), nn.Sigmoid())]
    return nn.Sequential(*hidden, nn.Linear(sizes[-1], outputs))


def strips(model: nn.Module, train: Part) -> Iterator[list[float]]:
    """Train strip by strip; the training errors of each, mean squares."""
    optimizer = torch.optim.Rprop(model.parameters(), lr=0.01)
    for _ in range(EPOCHS // STRIP):
        errors = []
        for _ in range(STRIP):
            optimizer.zero_grad()
            loss = mse_loss(model(train[0]), train[1])
            loss.backward()
            optimizer.step()
            errors.append(loss.item())
        yield errors


@torch.no_grad()
def squared_error(model: nn.Module, part: Part) -> float:
    """The mean squared difference to the targets."""
    return mse_loss(model(part[0]), part[1]).item()


def run(parts: tuple[Part, Part, Part], widths: list[int], seed: int) -> dict[str, list[float]]:
    """For each criterion: the epoch of the stop, the best epoch before it, and the test error of that best epoch."""
    train, validation, test = parts
    model = network(train[0].shape[1], widths, train[1].shape[1], seed)
    stops, errors, best = {}, [], []
    for training in strips(model, train):
        errors.append(squared_error(model, validation))
        epoch = STRIP * len(errors)
        if len(errors) == 1 or errors[-1] < min(errors[:-1]):
            best = [epoch, round(squared_error(model, test), 6)]
        over = training_progress(training) < 0.1
        for name, stop in CRITERIA.items():
            if name not in stops and (over or stop(errors, training)):
                stops[name] = [epoch, *best]
        if len(stops) == len(CRITERIA):
            break
    return {name: stops.get(name, [EPOCHS, *best]) for name in CRITERIA}


def main():
    """Run every problem, network and seed that is not yet in the results."""
    torch.set_num_threads(1)
    about = "one or two hidden layers, full-batch RPROP on the squared error, validation every 5 epochs"
    tables = "scikit-learn's breast cancer, diabetes, wine; 800 images of digits, MNIST, USPS"
    study = Study(
        "early_stopping_criteria", about, f"{tables}; half to train, a quarter to validate, a quarter to test"
    )
    for name in PROBLEMS:
        for seed in SEEDS:
            parts = problem(name, seed)
            for shape, widths in WIDTHS.items():
                study.run(f"{name}; {shape}; seed {seed}", lambda p=parts, w=widths, s=seed: run(p, w, s))


if __name__ == "__main__":
    main()
