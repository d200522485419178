"""Shift consistency of max pooling and of anti-aliased max pooling on Fashion-MNIST, after Zhang (2019).

A small convolutional network with two poolings, trained without shifts on 6 000 images; five seeds. Consistency as in
the paper: the share of test images whose predicted class is the same under two random shifts. Here each goes up to 3
pixels in both directions, zeros coming in. The orbit consistency asks the same of all shifts of up to 1 pixel.

    python benchmarks/measuring_invariance_shifts.py
"""

import torch
from study import Study, on_device
from torch import nn

from course_lib.data import Split, fashion_mnist
from course_lib.ledger import SHIFTS, shift
from course_lib.measuring_invariance import blur_pool, orbit_consistency
from course_lib.training import accuracy, batches, fit, predictions

TRAIN, EPOCHS, BATCH, FARTHEST = 6_000, 8, 50, 3
SEEDS = range(5)


def pooling(kind: str, channels: int) -> list[nn.Module]:
    """Halve a feature map."""
    if kind == "max pool":
        return [nn.MaxPool2d(2)]
    return [nn.MaxPool2d(2, stride=1), blur_pool(channels)]  # dense, then blurred, then every second pixel


def network(kind: str, seed: int) -> nn.Module:
    """Two convolutions, each followed by a pooling, one more, a mean over positions and a linear layer."""
    torch.manual_seed(seed)
    layers = []
    for before, after in ((1, 8), (8, 16), (16, 32)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
        layers += pooling(kind, after) if after < 32 else [nn.AdaptiveAvgPool2d(1)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32, 10))


def two_shifts(x: torch.Tensor, seed: int) -> list[torch.Tensor]:
    """The images under one random shift each, and under another."""
    generator = torch.Generator().manual_seed(seed)
    moves = torch.randint(-FARTHEST, FARTHEST + 1, (2, len(x), 2), generator=generator).tolist()
    return [torch.stack([shift(image, *move) for image, move in zip(x, one, strict=True)]) for one in moves]


def values(kind: str, seed: int, train: Split, test: Split) -> dict:
    """Train with Adam and a learning rate that falls to zero; measure on the test images, in percent."""
    model = network(kind, seed).to(train.x.device)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    fit(model, batches(train, BATCH, seed=seed), optimizer, epochs=EPOCHS, callbacks=[lambda *_: schedule.step()])
    one, other = (predictions(model, moved) for moved in two_shifts(test.x.cpu(), seed))
    with torch.no_grad():
        moves = [lambda x, move=move: shift(x, *move) for move in SHIFTS]
        orbit = orbit_consistency(lambda x: torch.cat([model(part) for part in x.split(500)]), test.x, moves)
    found = {
        "accuracy %": accuracy(model, test),
        "consistency %": (one == other).double().mean().item(),
        "orbit consistency %": orbit,
    }
    return {name: round(100 * value, 2) for name, value in found.items()}


def main():
    """Run what is not yet in the results."""
    torch.set_num_threads(1)
    train, test = on_device(fashion_mnist())
    train = Split(train.x[:TRAIN], train.y[:TRAIN])
    about = f"8-16-32 channels, batch norm, two poolings, Adam 5e-3 to 0 by cosine, {EPOCHS} epochs, batch {BATCH}"
    study = Study("measuring_invariance_shifts", about, f"Fashion-MNIST: {TRAIN} to train, 10 000 to test")
    for seed in SEEDS:
        for kind in ("max pool", "blurred max pool"):
            study.run(f"{kind}, seed {seed}", lambda k=kind, s=seed: values(k, s, train, test))


if __name__ == "__main__":
    main()
