"""Error against the number of labels: one hidden layer that is dense, local, or tied; units and readout are the same.

    python benchmarks/parameter_sharing_labels.py

MNIST at 14×14 pixels (means of four), 8 maps of 14×14 rectified units, largest of every 2×2, ten outputs. The layers
differ in their weights alone: all 196 inputs a unit; a window of 5×5 with weights of its own; the same window with one
set of weights a map. A control sees pixels in a fixed random order before it is tied. Adam 3e-3, 200 steps on all
images at once, the same for all: nothing is tuned.
"""

import math

import torch
import torch.nn.functional as F
from study import Study
from torch import Tensor

from course_lib.data import Split, few_labels, mnist
from course_lib.ledger import shift
from course_lib.parameter_sharing import convolution_matrix

MAPS, SIDE, KERNEL, STEPS, SEEDS = 8, 14, 5, 200, range(5)
PER_CLASS = (1, 3, 10, 30)
LAYERS = ("dense", "local", "tied", "tied, shuffled")
WINDOW = convolution_matrix(torch.ones(MAPS, 1, KERNEL, KERNEL), SIDE, SIDE)  # 1 where a unit may look


def half(part: Split, count: int) -> Split:
    """The first images, at half the resolution."""
    return Split(F.avg_pool2d(part.x[:count], 2), part.y[:count])


def hidden(layer: str, weight: Tensor, x: Tensor) -> Tensor:
    """Weighted sums of all units, (n, map, side, side)."""
    if layer.startswith("tied"):
        return F.conv2d(x, weight, padding=KERNEL // 2)
    return (x.flatten(1) @ (weight * WINDOW if layer == "local" else weight).T).reshape(-1, MAPS, SIDE, SIDE)


def run(layer: str, per_class: int, seed: int, train: Split, test: Split) -> dict:
    """Train one network and count its errors."""
    few, draw = few_labels(train, per_class, seed=seed), torch.Generator().manual_seed(seed)
    order = torch.randperm(SIDE**2, generator=torch.Generator().manual_seed(0))

    def seen(x: Tensor) -> Tensor:
        return x.flatten(1)[:, order].reshape(x.shape) if layer.endswith("shuffled") else x

    inputs = SIDE**2 if layer == "dense" else KERNEL**2
    shape = (MAPS, 1, KERNEL, KERNEL) if layer.startswith("tied") else WINDOW.shape
    first = torch.randn(shape, generator=draw) * math.sqrt(2 / inputs)
    last = torch.randn(MAPS * (SIDE // 2) ** 2, 10, generator=draw) / math.sqrt(MAPS * (SIDE // 2) ** 2)
    parts = [part.requires_grad_() for part in (first, torch.zeros(MAPS, 1, 1), last, torch.zeros(10))]
    optimizer = torch.optim.Adam(parts, lr=3e-3)

    def scores(x: Tensor) -> Tensor:
        units = (hidden(layer, parts[0], seen(x)) + parts[1]).relu()
        return F.max_pool2d(units, 2).flatten(1) @ parts[2] + parts[3]

    for _ in range(STEPS):
        optimizer.zero_grad()
        F.cross_entropy(scores(few.x), few.y).backward()
        optimizer.step()

    @torch.no_grad()
    def error(x: Tensor) -> float:
        return round(100 * (scores(x).argmax(1) != test.y).float().mean().item(), 3)

    weights = int(WINDOW.sum()) if layer == "local" else parts[0].numel()
    shifted = [error(shift(test.x, *move)) for move in ((-1, 0), (1, 0), (0, -1), (0, 1))]
    return {"error %": error(test.x), "shifted %": round(sum(shifted) / 4, 3), "weights": weights}


def main():
    """Run what is not yet in benchmarks/results/parameter_sharing_labels.json."""
    torch.set_num_threads(1)
    about = f"14×14 pixels, {MAPS} maps of one hidden layer, Adam 3e-3, {STEPS} steps, nothing tuned"
    study = Study("parameter_sharing_labels", about, "MNIST, first 10 000 training and first 5 000 test images")
    train, test = half(mnist().train, 10_000), half(mnist().test, 5000)
    for per_class in PER_CLASS:
        for layer in LAYERS:
            for seed in SEEDS:
                key = f"{layer}, {10 * per_class} labels, seed {seed}"
                study.run(key, lambda a=layer, n=per_class, s=seed: run(a, n, s, train, test))


if __name__ == "__main__":
    main()
