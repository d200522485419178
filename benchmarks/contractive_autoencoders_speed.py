"""What a contractive step costs: the closed form, dice, and the whole Jacobian, beside a plain autoencoder's step.

Single thread, the versions measured in turn in one process, ratios of medians of processor time. A step is forward,
backward and Adam on a tied 784-256 sigmoid autoencoder, batch 128, float32.

    python benchmarks/contractive_autoencoders_speed.py
"""

import time
from collections.abc import Callable

import torch
from study import Study, medians_in_turn, relative_to
from torch import Tensor

from course_lib.contractive_autoencoders import (
    TiedAutoencoder,
    contractive_penalty,
    hutchinson_penalty,
    jacobian_penalty,
    reconstruction_loss,
)
from course_lib.data import mnist

Penalty = Callable[[TiedAutoencoder, Tensor, Tensor], Tensor]


def step(penalty: Penalty | None, x: Tensor) -> Callable[[], None]:
    """One training step of an autoencoder of its own."""
    model = TiedAutoencoder(x.shape[1], 256, seed=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def work():
        hidden = model.encode(x)
        loss = reconstruction_loss(model.decode(hidden), x)
        if penalty is not None:
            loss = loss + 0.1 * penalty(model, hidden, x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return work


def measured(batch: int) -> dict[str, float]:
    """The plain step in milliseconds, and ratios; the whole Jacobian, which takes long, is measured less often."""
    x, draw = mnist().train.x[:batch].flatten(1), torch.Generator().manual_seed(0)
    quick = {
        "plain": step(None, x),
        "closed form": step(lambda model, hidden, x: contractive_penalty(hidden, model.weight), x),
        "one probe": step(lambda model, hidden, x: hutchinson_penalty(model.encode, x, 1, draw), x),
        "four probes": step(lambda model, hidden, x: hutchinson_penalty(model.encode, x, 4, draw), x),
    }
    slow = {"plain": quick["plain"], "whole Jacobian": step(lambda m, h, x: jacobian_penalty(m.encode, x), x)}
    ratios = [
        relative_to("plain", medians_in_turn(versions, repeats, time.process_time))
        for versions, repeats in ((slow, 10), (quick, 200))
    ]
    return ratios[0] | ratios[1]


def main():
    """Measure what is not yet in benchmarks/results/contractive_autoencoders_speed.json."""
    torch.set_num_threads(1)
    about = "a training step relative to a plain one: ratios of medians of processor time, one thread, versions in turn"
    study = Study(
        "contractive_autoencoders_speed", about, "MNIST, 784-256 tied sigmoid autoencoder, batch 128, float32"
    )
    study.run("step", lambda: measured(128))


if __name__ == "__main__":
    main()
