"""Two questions about early stopping, asked of the ledger's network on 100 digits, ten seeds each.

On which images to validate: upright ones, rotated ones (±30 degrees) or shifted ones (by a pixel)? And what to do with
the validation images once the epoch is known: leave them aside, retrain on all, or go on training on all?

    python benchmarks/early_stopping_networks.py
"""

import torch
from ledger import BATCH, EPOCHS
from study import Study
from torch import nn

from course_lib.data import ImageData, Split, rotate
from course_lib.early_stopping import EarlyStopping, best_epoch, mean_loss
from course_lib.ledger import network, shift, task
from course_lib.training import accuracy, batches, fit

SEEDS, PATIENCE, LOOK = range(10), 10, 100


def conditions(split: Split) -> dict[str, Split]:
    """The same images upright, rotated by ±30 degrees, and shifted by a pixel in four directions."""
    x, y = split
    turned = [rotate(x, torch.full((len(x),), degrees).deg2rad()) for degrees in (-30.0, 30.0)]
    moved = [shift(x, *step) for step in ((0, 1), (0, -1), (1, 0), (-1, 0))]
    return {
        "upright": split,
        "rotated": Split(torch.cat(turned), y.repeat(2)),
        "shifted": Split(torch.cat(moved), y.repeat(4)),
    }


def train(seed: int, split: Split, epochs: int, callbacks=(), model: nn.Module | None = None) -> tuple[nn.Module, int]:
    """The ledger's network and optimizer, from the start or from a given model; and how many epochs were run."""
    model = model or network(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    history = fit(model, batches(split, BATCH, seed=seed), optimizer, epochs=epochs, callbacks=callbacks)
    return model, len(history)


def validation(seed: int, data: ImageData) -> dict:
    """Test losses of every epoch; and for each way to validate, the best epoch and the tests there."""
    held_out, test = conditions(data.validation), conditions(data.test)
    seen, losses, wrong = [], [], []

    def look(epoch, model, averages):
        seen.append([mean_loss(model, split) for split in held_out.values()])
        losses.append([round(mean_loss(model, split), 4) for split in test.values()])
        wrong.append([round(100 * (1 - accuracy(model, split)), 2) for split in test.values()])

    train(seed, data.train, LOOK, [look])
    chosen = {name: best_epoch([row[i] for row in seen]) for i, name in enumerate(held_out)}
    return {
        "losses": {name: [row[i] for row in losses] for i, name in enumerate(test)},
        "chosen": {name: {"epoch": e + 1, "loss": losses[e], "wrong %": wrong[e]} for name, e in chosen.items()},
    }


def retraining(seed: int, data: ImageData) -> dict:
    """Wrong answers in percent, test loss and epochs for each use of the validation images."""
    everything = Split(*(torch.cat(pair) for pair in zip(data.train, data.validation, strict=True)))
    found = {}

    def note(name, model, epochs):
        wrong, loss = 100 * (1 - accuracy(model, data.test)), mean_loss(model, data.test)
        found[name] = {"wrong %": round(wrong, 3), "loss": round(loss, 4), "epochs": epochs}

    note("no stopping", *train(seed, data.train, EPOCHS))
    stopping = EarlyStopping(data.validation, PATIENCE, EPOCHS)
    model, epochs = train(seed, data.train, EPOCHS, [stopping])
    note("best weights", model, epochs)
    goal, best = mean_loss(model, data.train), stopping.best + 1
    note("same epochs", *train(seed, everything, best))
    note("same steps", *train(seed, everything, max(1, best // 2)))

    def reached(epoch, model, averages):
        return mean_loss(model, data.validation) <= goal

    note("same loss", *train(seed, everything, EPOCHS, [reached], model))
    note("all, no stopping", *train(seed, everything, EPOCHS))
    return found


def main():
    """Run the seeds that are not yet in the results."""
    torch.set_num_threads(1)
    about = f"64-128-10 network, Adam 3e-3, batch {BATCH}; patience {PATIENCE}, at most {EPOCHS} epochs"
    study = Study(
        "early_stopping_networks", about, "scikit-learn digits: 10 a class to train, 10 to validate, 898 to test"
    )
    for seed in SEEDS:
        study.run(f"validation seed {seed}", lambda s=seed: validation(s, task(s)))
        study.run(f"retraining seed {seed}", lambda s=seed: retraining(s, task(s)))


if __name__ == "__main__":
    main()
