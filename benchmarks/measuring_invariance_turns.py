"""The ledger's plain network over all angles, and a C4 network on digits of an even and of an odd size.

    python benchmarks/measuring_invariance_turns.py

The plain networks are those of the ledger, seed by seed. The C4 network (escnn, one stride of 2) is trained on all of
the digits' training images, upright, as 8×8 images and with one empty row and column more, as 9×9.
"""

import torch
from ledger import plain, trained
from study import Study
from torch import nn
from torch.nn.functional import pad

from course_lib.data import Split, digits, rotate
from course_lib.ledger import task
from course_lib.measuring_invariance import QuarterTurnNetwork, accuracy_sweep, equivariance_error, orbit_consistency
from course_lib.training import accuracy, batches, fit

ANGLES = list(range(-180, 181, 10))  # degrees
SEEDS, SIZES, EPOCHS, BATCH, LR = range(10), (8, 9), 10, 50, 1e-2


def turned(degrees: float):
    """Rotation by an angle."""
    return lambda x: rotate(x, torch.full((len(x),), float(degrees)).deg2rad())


def quarter(times: int):
    """Exact rotation by quarter turns."""
    return lambda x: x.rot90(times, (-2, -1))


def sweep(seed: int) -> dict:
    """The plain network of one seed: accuracy and invariance error at every angle."""
    model, test = trained(plain(0.0), seed), task(seed).test
    turns = [turned(degrees) for degrees in ANGLES]
    model.requires_grad_(False)
    errors = [equivariance_error(lambda x: model(x).softmax(dim=1), test.x, turn).item() for turn in turns]
    right = accuracy_sweep(model, test, turns)
    return {"accuracy %": [round(100 * share, 2) for share in right], "error": [round(error, 4) for error in errors]}


def framed(split: Split, size: int) -> Split:
    """Empty rows below and columns to the right, up to a size."""
    return Split(pad(split.x, (0, size - split.x.shape[-1]) * 2), split.y)


def fitted(seed: int, size: int) -> tuple[nn.Module, Split]:
    """A C4 network after training, and its test images."""
    data, model = digits(), QuarterTurnNetwork(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    fit(model, batches(framed(data.train, size), BATCH, seed=seed), optimizer, epochs=EPOCHS)
    return model, framed(data.test, size)


def turning(seed: int, size: int) -> dict:
    """A C4 network on upright and on turned digits."""
    model, test = fitted(seed, size)
    model.requires_grad_(False)
    found = {
        "upright %": 100 * accuracy(model, test),
        "turned %": 100 * sum(accuracy_sweep(model, test, [quarter(k) for k in (1, 2, 3)])) / 3,
        "orbit consistency %": 100 * orbit_consistency(model, test.x, [quarter(k) for k in (1, 2, 3)]),
    }
    error = equivariance_error(lambda x: model(x).softmax(dim=1), test.x, quarter(1)).item()
    return {name: round(value, 2) for name, value in found.items()} | {"error": float(f"{error:.3g}")}


def main():
    """Run what is not yet in the results."""
    torch.set_num_threads(1)
    about = f"the ledger's plain network; C4 network: {EPOCHS} epochs of Adam {LR:g}, batch {BATCH}"
    study = Study("measuring_invariance_turns", about, "scikit-learn digits: 100 or (C4) 899 to train, 898 to test")
    for seed in SEEDS:
        study.run(f"plain, seed {seed}", lambda s=seed: {"angles": ANGLES} | sweep(s))
        for size in SIZES:
            study.run(f"C4 {size}×{size}, seed {seed}", lambda s=seed, n=size: turning(s, n))


if __name__ == "__main__":
    main()
