"""Trained on upright digits, tested on turned ones: steerable fields beside a plain convolutional network.

One thousand MNIST images, upright; 1000 test images, turned by 0 to 180 degrees; then each 2 × 2 pixels are averaged to
one, so that a turn costs little sharpness. All networks have three convolutions of 5 × 5, averages over 2 × 2 pixels
behind the first, and averages over all positions before a linear layer; about 4100 parameters each. "augmented"
sees every batch turned by angles uniform over the circle, for as many steps as the others, which is too few for it.
"augmented, long" takes five times the steps, and its rate falls to 0 along a cosine; at twice the rate one seed of five
learned nothing, and the four others read 47 to 56 %. "augmented, long, wide" does the same with as many channels as
the steerable network and eight times its parameters. "ReLU on components" is the steerable network with the wrong
activation.

    python benchmarks/steerable_cnns_turns.py [--epochs 30] [--device cuda] [--only METHOD]
"""

import argparse

import torch
import torch.nn.functional as F
from study import Study
from torch import Tensor, nn

from course_lib.data import Split, few_labels, mnist, rotate
from course_lib.steerable_cnns import SteerableNetwork
from course_lib.training import accuracy, batches, fit

ANGLES, SEEDS, TEST = range(0, 181, 15), range(5), 1000
FIELDS = {"hidden": {0: 6, 1: 4, 2: 3}, "last": {0: 20, 1: 8, 2: 6}, "pools": 1}
WIDER = {"hidden": {0: 6, 1: 6, 2: 4}, "last": {0: 20, 1: 8, 2: 8}, "pools": 1}  # without gates, as many parameters
LONG, WIDE = "augmented, long", "augmented, long, wide"
METHODS = ("steerable", "plain", "augmented", "ReLU on components", LONG, WIDE)
LONGER = 5  # times the epochs, for the last two


class Plain(nn.Module):
    """The same network with ordinary kernels."""

    def __init__(self, seed: int, width: int = 9, last: int = 8):
        super().__init__()
        torch.manual_seed(seed)
        first = nn.Conv2d(1, width, 5, padding=2), nn.ReLU(), nn.AvgPool2d(2)
        second = nn.Conv2d(width, width, 5, padding=2), nn.ReLU()
        self.body = nn.Sequential(*first, *second, nn.Conv2d(width, last, 5, padding=2), nn.ReLU())
        self.head = nn.Linear(last, 10)

    def forward(self, x: Tensor) -> Tensor:
        """One score a class."""
        return self.head(self.body(x).mean(dim=(-2, -1)))


class Turned:
    """A loader of halved images that are turned anew, by up to so much, every time it is read."""

    def __init__(self, loader, radians: float, seed: int):
        self.loader, self.most, self.draw = loader, radians, torch.Generator().manual_seed(seed)

    def __iter__(self):
        """Read the loader once."""
        for x, y in self.loader:
            radians = self.most * torch.rand(len(x), generator=self.draw)
            yield F.avg_pool2d(rotate(x, radians.to(x.device)), 2), y


def make(method: str, seed: int) -> nn.Module:
    """An untrained network."""
    if method == WIDE:
        return Plain(seed, width=20, last=48)  # the channels of FIELDS
    if method in ("plain", "augmented", LONG):
        return Plain(seed)
    if method == "steerable":
        return SteerableNetwork(seed, **FIELDS)
    return SteerableNetwork(seed, **WIDER, componentwise=True)


def run(method: str, seed: int, data, epochs: int, device: str) -> dict:
    """Train one network, and test it at every angle."""
    train = few_labels(data.train, 100, seed=seed)
    model = make(method, seed).to(device)
    loader = batches(Split(train.x.to(device), train.y.to(device)), 50, seed=seed)
    loader = Turned(loader, 2 * torch.pi if method.startswith("augmented") else 0.0, seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    callbacks = []
    if method in (LONG, WIDE):
        epochs *= LONGER
        falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
        callbacks = [lambda *_: falling.step()]
    fit(model, loader, optimizer, epochs=epochs, callbacks=callbacks)
    model.eval()
    x, y = data.test.x[:TEST].to(device), data.test.y[:TEST].to(device)

    def percent(degrees: int) -> float:
        angle = torch.full((len(x),), float(degrees), device=device).deg2rad()
        with torch.no_grad():
            return round(100 * accuracy(model, Split(F.avg_pool2d(rotate(x, angle), 2), y)), 3)

    return {"parameters": sum(p.numel() for p in model.parameters())} | {f"{a}": percent(a) for a in ANGLES}


def main():
    """Run what is not yet in benchmarks/results/steerable_cnns_turns.json."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--epochs", type=int, default=30)
    options.add_argument("--device", default="cpu")
    options.add_argument("--only", choices=METHODS, help="this method alone")
    given = options.parse_args()
    torch.set_num_threads(1)
    data = mnist()
    about = "three convolutions of 5 × 5, about 4100 parameters; 1000 upright images of 14 × 14, "
    about += f"{given.epochs} epochs of Adam 5e-3; long: {LONGER * given.epochs} epochs, the rate falls to 0"
    study = Study("steerable_cnns_turns", about, f"MNIST: 100 images a class to train on, the first {TEST} test images")
    for seed in SEEDS:
        for method in [given.only] if given.only else METHODS:
            study.run(f"{method}, seed {seed}", lambda m=method, s=seed: run(m, s, data, given.epochs, given.device))


if __name__ == "__main__":
    main()
