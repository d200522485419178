"""L2 penalty and decoupled decay on MNIST, beside table 9 of Srivastava et al. (2014): 1.62 % test error with L2.

The network is the paper's, 784-1024-1024-2048-10 with ReLU. Strengths are chosen on 10 000 of the 60 000 training
images; then the chosen ones are trained on all 60 000, five seeds, and tested once.

    python benchmarks/norm_penalties_mnist.py [--epochs 40]
"""

import argparse
from collections.abc import Callable

import torch
from study import Study, on_device
from torch import nn

from course_lib.data import Split, mnist
from course_lib.norm_penalties import l2_penalty
from course_lib.training import accuracy, batches, fit

STRENGTHS = {"plain": [0.0], "l2": [1e-5, 3e-5, 1e-4, 3e-4], "decoupled": [0.01, 0.03, 0.1, 0.3]}
SEEDS = range(5)


def network(seed: int) -> nn.Module:
    """The paper's architecture, with torch's default initialization."""
    torch.manual_seed(seed)
    widths = [784, 1024, 1024, 2048]
    hidden = [layer for a, b in zip(widths, widths[1:], strict=False) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(2048, 10))


def error_after_training(method: str, strength: float, seed: int, train: Split, test: Split, epochs: int) -> dict:
    """Train with Adam and a learning rate that falls to zero along a cosine; the test error in percent."""
    model = network(seed).to(train.x.device)
    loader = batches(train, 256, seed=seed)
    decay = strength if method == "decoupled" else 0.0
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    penalties = [lambda model, x, y: l2_penalty(model.parameters(), strength)] if method == "l2" else []
    history = fit(model, loader, optimizer, epochs=epochs, penalties=penalties, callbacks=[lambda *_: schedule.step()])
    return {"error %": round(100 * (1 - accuracy(model, test)), 3), "last loss": round(history[-1]["loss"], 6)}


def least_error(study: Study, name: str, candidates: list[float], run: Callable[[float, int], dict]) -> float:
    """The candidate with the least mean error on validation images, over two seeds."""

    def total(candidate: float) -> float:
        runs = [
            study.run(f"validation {name}{candidate:g} seed {seed}", lambda s=seed: run(candidate, s))
            for seed in SEEDS[:2]
        ]
        return sum(values["error %"] for values in runs)

    return min(candidates, key=total)


def main():
    """Choose strengths on validation images, then train the chosen ones and test."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--epochs", type=int, default=40)
    epochs = options.parse_args().epochs
    train, test = on_device(mnist())
    kept, held_out = Split(train.x[:50000], train.y[:50000]), Split(train.x[50000:], train.y[50000:])
    about = f"784-1024-1024-2048-10, ReLU, Adam 1e-3 to 0 by cosine, {epochs} epochs, batch 256"
    study = Study("norm_penalties_mnist", about, "MNIST; validation: the last 10 000 training images")
    for method, strengths in STRENGTHS.items():
        best = least_error(
            study, f"{method} ", strengths, lambda a, s, m=method: error_after_training(m, a, s, kept, held_out, epochs)
        )
        for seed in SEEDS:
            study.run(
                f"test {method} {best:g} seed {seed}",
                lambda s=seed, a=best, m=method: error_after_training(m, a, s, train, test, epochs),
            )


if __name__ == "__main__":
    main()
