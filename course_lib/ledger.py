"""The ledger: one data set, one small network, one set of measurements through the whole book.

Each chapter earns a row. The rows are run by ``benchmarks/ledger.py``; this module holds what they share and shows
them. Protocol: scikit-learn's digits, ten labelled images a class to train on, ten more to choose a strength,
898 to test; every number is a mean over seeds with its 95% interval.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from course_lib import figures
from course_lib.claims import study
from course_lib.data import ImageData, Split, digits, few_labels, rotate
from course_lib.training import accuracy

# the rows in the order of the chapters that earn them
ROWS = {
    "plain": "generalization",
    "L2 penalty": "norm_penalties",
    "max-norm constraint": "constrained_optimization",
    "small start": "underconstrained_problems",
    "early stopping": "early_stopping",
    "augmentation": "augmentation",
    "convolution": "parameter_sharing",
    "tangent prop": "tangent_prop",
    "manifold tangent classifier": "manifold_tangents",
    "group average": "groups",
    "group convolution (C4)": "group_convolution",
    "steerable (SO(2))": "steerable_cnns",
}
ANGLES = (-40, -30, -20, -10, 10, 20, 30, 40)  # degrees
SHIFTS = tuple((down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if (down, right) != (0, 0))  # pixels
COLUMNS = {
    "clean": "clean accuracy (%)",
    "rotated": "rotated ±10–40° (%)",
    "shifted": "shifted by 1 pixel (%)",
    "sensitivity": "tangent sensitivity (1/rad)",
    "invariance": "invariance error, ±10–40°",
    "cost": "cost per step (plain = 1)",
}


def task(seed: int) -> ImageData:
    """The images of one seed: 100 to train, 100 to validate, 898 to test; 10 a class in the first two.

    Args:
        seed: chooses the images; the test images are the same for all seeds.

    Returns:
        8×8 images with values in [0, 1].
    """
    data = digits()
    twenty = few_labels(data.train, 20, seed=seed)
    ranks = torch.stack([(twenty.y[:i] == label).sum() for i, label in enumerate(twenty.y)])
    first = ranks < 10
    train, validation = (Split(twenty.x[chosen], twenty.y[chosen]) for chosen in (first, ~first))
    return ImageData(train, validation, data.test)


def network(seed: int) -> nn.Module:
    """The network of every row: 64 pixels, 128 hidden rectified units, 10 classes; 9 610 parameters.

    Args:
        seed: fixes the initial weights (and sets torch's global generator).

    Returns:
        A new model on the CPU.
    """
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def shift(x: Tensor, down: int, right: int) -> Tensor:
    """Move images by whole pixels, zeros coming in at the edges.

    Args:
        x: images (n, channels, height, width).
        down: rows, negative for up.
        right: columns, negative for left.

    Returns:
        Images of the same shape.

    >>> shift(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), down=1, right=0)
    tensor([[[[0., 0.],
              [1., 2.]]]])
    """
    return pad(x, (right, -right, down, -down))


def measure(model: nn.Module, test: Split) -> dict[str, float]:
    """All columns of the ledger but the cost.

    Args:
        model: maps 8×8 images to one score a class, on the CPU.
        test: the images to measure on.

    Returns:
        ``clean``, ``rotated``, ``shifted``: accuracies in percent, the last two averaged over ``ANGLES`` and
        ``SHIFTS``. ``sensitivity``: the norm of the derivative of the class probabilities p(x) with respect to the
        angle of rotation, averaged over images; a central difference of ±1 degree, per radian. ``invariance``: the
        equivariance error ‖p(gx) − p(x)‖/‖p(x)‖ for rotations g (a class does not turn, so ρ(g) = 1), both norms over
        all images, averaged over ``ANGLES``.
    """

    def percent(x: Tensor) -> float:
        return 100 * accuracy(model, Split(x, test.y))

    def turned(degrees: float) -> Tensor:
        return rotate(test.x, torch.full((len(test.x),), degrees).deg2rad())

    @torch.no_grad()
    def probabilities(x: Tensor) -> Tensor:
        return model(x).softmax(dim=1)

    upright = probabilities(test.x)
    changes = [(probabilities(turned(angle)) - upright).norm() / upright.norm() for angle in ANGLES]
    moved = probabilities(turned(1.0)) - probabilities(turned(-1.0))
    step = torch.tensor(2.0).deg2rad().item()
    return {
        "clean": percent(test.x),
        "rotated": sum(percent(turned(angle)) for angle in ANGLES) / len(ANGLES),
        "shifted": sum(percent(shift(test.x, *move)) for move in SHIFTS) / len(SHIFTS),
        "sensitivity": (moved.norm(dim=1).mean() / step).item(),
        "invariance": torch.stack(changes).mean().item(),
    }


def results() -> dict[str, dict[str, list[float]]]:
    """The rows that have been earned so far, as ``benchmarks/ledger.py`` left them, in the order of ``ROWS``.

    Returns:
        By method and column: one number a seed.
    """
    values: dict[str, list[dict]] = {method: [] for method in ROWS}
    for key, run in study("ledger")["runs"].items():
        method, _, part = key.partition(", ")
        if part.startswith("seed") and method in values:
            values[method].append(run["values"])
    return {method: {c: [run[c] for run in runs] for c in COLUMNS} for method, runs in values.items() if runs}


def show(highlight: str | None = None) -> figures.Table:
    """The ledger up to and including one row, that row set apart; or the whole ledger.

    Args:
        highlight: the method of the chapter that shows it, as ``benchmarks/ledger.py`` names it; None for all rows.

    Returns:
        A displayable table.

    Raises:
        ValueError: no such row.
    """
    rows = results()
    if highlight is not None and highlight not in rows:
        raise ValueError(
            f"the ledger has no row {highlight!r}: wanted one of {', '.join(rows)}. Run benchmarks/ledger.py."
        )
    methods = list(rows)
    upto = methods if highlight is None else methods[: methods.index(highlight) + 1]
    lines = [
        {"method": method} | {title: figures.interval(rows[method][c]) for c, title in COLUMNS.items()}
        for method in upto
    ]
    seeds = len(rows[upto[-1]]["clean"])
    caption = f"The ledger: digits, 10 labels a class, 898 test images; mean and 95% interval over {seeds} seeds."
    return figures.table(lines, ["method", *COLUMNS.values()], caption=caption, highlight=highlight or ())
