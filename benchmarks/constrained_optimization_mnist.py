"""The max-norm constraint on MNIST, beside table 9 of Srivastava et al. (2014): 1.35 % test error.

The network is the paper's, 784-1024-1024-2048-10 with ReLU. The bound is chosen on the last 10 000 training images, for
two seeds; then the chosen one, and no constraint at all, are trained with five seeds and tested once. All but the
constraint is as in ``norm_penalties_mnist.py``. The defaults are meant for a GPU (about five minutes); on a processor
take fewer images and epochs. Runs of another scale are not told apart: delete the JSON before changing it.

    python benchmarks/constrained_optimization_mnist.py [--images 60000] [--epochs 40]
    python benchmarks/constrained_optimization_mnist.py --images 10000 --epochs 5
"""

import argparse
import math

import torch
from norm_penalties_mnist import SEEDS, least_error, network
from study import Study, on_device
from torch import nn

from course_lib.constrained_optimization import max_norm_
from course_lib.data import Split, mnist
from course_lib.training import accuracy, batches, fit

BOUNDS = [0.5, 0.7, 1.0, 1.4]  # torch's initialization gives every unit a norm of about 0.58


def error_after_training(bound: float, seed: int, train: Split, test: Split, epochs: int) -> dict:
    """Train with Adam and a cosine, projecting after every step if the bound is finite; the test error in percent."""
    model = network(seed).to(train.x.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    weights = [layer.weight for layer in model if isinstance(layer, nn.Linear)]
    history = fit(
        model,
        batches(train, 256, seed=seed),
        optimizer,
        epochs=epochs,
        callbacks=[lambda *_: schedule.step()],
        after_step=None if bound == math.inf else lambda _: [max_norm_(weight, bound) for weight in weights],
    )
    norms = torch.cat([weight.detach().norm(dim=1) for weight in weights])
    return {
        "error %": round(100 * (1 - accuracy(model, test)), 3),
        "last loss": round(history[-1]["loss"], 6),
        "largest norm": round(norms.max().item(), 3),
        "units at the bound %": round(100 * (norms > 0.999 * bound).double().mean().item(), 1),
    }


def main():
    """Choose the bound on validation images, then train with it and without it, and test."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--images", type=int, default=60000)
    options.add_argument("--epochs", type=int, default=40)
    chosen = options.parse_args()
    images, epochs = chosen.images, chosen.epochs
    train, test = on_device(mnist())
    fewer = 5 * images // 6
    kept, held_out = Split(train.x[:fewer], train.y[:fewer]), Split(train.x[50000:], train.y[50000:])
    train = Split(train.x[:images], train.y[:images])
    about = f"784-1024-1024-2048-10, ReLU, Adam 1e-3 to 0 by cosine, batch 256, {images} images, {epochs} epochs"
    study = Study("constrained_optimization_mnist", about, "MNIST; validation: the last 10 000 training images")
    best = least_error(study, "", BOUNDS, lambda c, s: error_after_training(c, s, kept, held_out, epochs))
    for bound in (best, math.inf):
        for seed in SEEDS:
            study.run(
                f"test {bound:g} seed {seed}",
                lambda s=seed, c=bound: error_after_training(c, s, train, test, epochs),
            )


if __name__ == "__main__":
    main()
