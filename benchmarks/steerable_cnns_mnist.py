"""Rotated MNIST with our steerable network: 12 000 turned images to train on, 50 000 to test on.

A network of about 25 000 parameters, trained on the 10 000 training and 2000 validation images of ``data.rotated``
without augmentation; the learning rate rises and falls once (OneCycle). Nothing was chosen on the test images.

    python benchmarks/steerable_cnns_mnist.py [--epochs 10] [--seeds 1] [--test 50000] [--device cuda]
"""

import argparse

import torch
import torch.nn.functional as F
from study import Study

from course_lib.data import Split, rotated
from course_lib.steerable_cnns import SteerableNetwork
from course_lib.training import accuracy, batches

FIELDS = {"hidden": {0: 16, 1: 12, 2: 8}, "last": {0: 48, 1: 18, 2: 14}, "pools": 2}
BATCH, RATE = 64, 1e-2


def run(seed: int, train: Split, test: Split, epochs: int, device: str) -> dict:
    """Train one network; its error in percent."""
    model = SteerableNetwork(seed, **FIELDS).to(device)
    loader = batches(train, BATCH, seed=seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, epochs=epochs, steps_per_epoch=len(loader))
    for epoch in range(epochs):
        for x, y in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"seed {seed}, epoch {epoch}: loss {loss.item():.3f}", flush=True)
    model.eval()
    parameters = sum(p.numel() for p in model.parameters())
    return {
        "error %": round(100 * (1 - accuracy(model, test)), 3),
        "parameters": parameters,
        "epochs": epochs,
        "test images": len(test.y),
    }


def main():
    """Run what is not yet in benchmarks/results/steerable_cnns_mnist.json."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--epochs", type=int, default=10)
    options.add_argument("--seeds", type=int, default=1)
    options.add_argument("--test", type=int, default=50_000)
    options.add_argument("--device", default="cpu")
    given = options.parse_args()
    torch.set_num_threads(1)
    data = rotated(test=given.test)
    x, y = (torch.cat(both) for both in zip(data.train, data.validation, strict=True))
    train = Split(x.to(given.device), y.to(given.device))
    test = Split(data.test.x.to(given.device), data.test.y.to(given.device))
    about = f"SO(2)-steerable network, frequencies 0, 1, 2; Adam, OneCycle to {RATE:g}, batch {BATCH}, no augmentation"
    study = Study("steerable_cnns_mnist", about, "rotated MNIST made by us: 12 000 to train, 50 000 or fewer to test")
    for seed in range(given.seeds):
        study.run(
            f"steerable, {given.epochs} epochs, {given.test} test images, seed {seed}",
            lambda s=seed: run(s, train, test, given.epochs, given.device),
        )


if __name__ == "__main__":
    main()
