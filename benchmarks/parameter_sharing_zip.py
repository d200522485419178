"""LeCun et al. (1989) rebuilt: the zip codes' own digits, weights shared or not, everything else equal.

    python benchmarks/parameter_sharing_zip.py

As in the paper: 7 291 digits of 16×16 pixels to train on, 2 007 to test, 23 passes, mean squared error against targets
-1 and 1. Not as in the paper: batches of twenty and plain gradient descent instead of single examples and a diagonal
Newton method. The rate is chosen for each network after six passes, on 1 291 of the training images.
"""

import torch
from study import Study
from torch import Tensor

from course_lib.data import Split, usps
from course_lib.parameter_sharing import ZipCodeNetwork

PASSES, BATCH, RATES, TUNING, SEEDS = 23, 20, (0.05, 0.1, 0.2, 0.4, 0.8, 1.6), 100, range(5)


def targets(y: Tensor) -> Tensor:
    """1 for the class, -1 for the others."""
    return 2.0 * torch.nn.functional.one_hot(y, 10) - 1


@torch.no_grad()
def error(network: ZipCodeNetwork, part: Split) -> float:
    """Percent wrong."""
    return round(100 * (network(part.x).argmax(1) != part.y).float().mean().item(), 3)


def trained(tied: bool, rate: float, seed: int, train: Split, passes: int = PASSES) -> ZipCodeNetwork:
    """A network after all passes."""
    network, draw = ZipCodeNetwork(tied, seed), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(network.parameters(), lr=rate)
    for _ in range(passes):
        for chosen in torch.randperm(len(train.y), generator=draw).split(BATCH):
            loss = (network(train.x[chosen]) - targets(train.y[chosen])).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network


def main():
    """Run what is not yet in benchmarks/results/parameter_sharing_zip.json."""
    torch.set_num_threads(1)
    about = f"network of 1989, tied and untied, {PASSES} passes, batches of {BATCH}, plain gradient descent, MSE"
    study = Study("parameter_sharing_zip", about, "USPS digits, 7291 to train, 2007 to test; 1291 of 7291 for tuning")
    train, test = (Split(2 * part.x - 1, part.y) for part in (usps().train, usps().test))
    order = torch.randperm(len(train.y), generator=torch.Generator().manual_seed(TUNING))
    fitted, held = (Split(train.x[part], train.y[part]) for part in (order[1291:], order[:1291]))
    for name, tied in (("tied", True), ("untied", False)):

        def tune(tied: bool = tied) -> dict:
            return {f"{rate:g}": error(trained(tied, rate, TUNING, fitted, 6), held) for rate in RATES}

        tried = study.run(f"{name}, tuning", tune)
        rate = float(min(tried, key=tried.get))
        for seed in SEEDS:

            def one(tied: bool = tied, rate: float = rate, seed: int = seed) -> dict:
                network = trained(tied, rate, seed, train)
                free = sum(parameter.numel() for parameter in network.parameters())
                return {"rate": rate, "train %": error(network, train), "test %": error(network, test), "free": free}

            study.run(f"{name}, seed {seed}", one)


if __name__ == "__main__":
    main()
