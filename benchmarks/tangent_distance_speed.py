"""How fast all two-sided tangent distances between two sets of 28×28 images are, beside least squares solvers.

One thread. The competitors take turns in one process, and the ratios are of medians of processor time. Flops are
counted for our algorithm as it runs: a multiplication and an addition each count as one.

    python benchmarks/tangent_distance_speed.py
"""

import time

import torch
from study import Study, medians_in_turn
from torch import Tensor

from course_lib.data import mnist
from course_lib.tangent_distance import tangent_distance_matrix, tangent_vectors

REPEATS = 5


def by_loop(x: Tensor, s: Tensor, y: Tensor, t: Tensor) -> Tensor:
    """One call of torch.linalg.lstsq a pair, with its default driver."""
    rows = []
    for a, p in zip(x, s, strict=True):
        for b, q in zip(y, t, strict=True):
            plane = torch.cat([p, q]).T
            rows.append(((a - b) - plane @ torch.linalg.lstsq(plane, (a - b)[:, None]).solution[:, 0]).square().sum())
    return torch.stack(rows).view(len(x), len(y))


def by_batch(x: Tensor, s: Tensor, y: Tensor, t: Tensor) -> Tensor:
    """One batched call of torch.linalg.lstsq for all pairs."""
    n, m = len(x), len(y)
    both = torch.cat([s[:, None].expand(-1, m, -1, -1), t[None].expand(n, -1, -1, -1)], dim=2).flatten(0, 1).mT
    gap = (x[:, None] - y[None]).flatten(0, 1)[..., None]
    return (gap - both @ torch.linalg.lstsq(both, gap).solution).square().sum(dim=(1, 2)).view(n, m)


def flops(n: int, m: int, pixels: int, k: int) -> float:
    """What ``tangent_distance_matrix`` computes, by its parts."""
    products = 2 * (k + 1) ** 2 * pixels  # all inner products of two bases and feet, a pair
    rows = sum(
        2 * i * (k + k + 1 - i) for i in range(1, k + 2)
    )  # Cholesky, i entries a row, after k + (k + 1 - i) others
    basis = 4 * k**2 * pixels + 2 * k**2 * pixels + 2 * k**2 * pixels  # QR, its turn, and the foot, an image (about)
    return n * m * (products + rows) + (n + m) * basis


def measured(n: int, m: int) -> dict:
    """All competitors in turn."""
    images = mnist().train.x[: n + m]
    # Without the Gaussian's far tails, whose denormal numbers would slow down everybody.
    tangents = torch.nn.functional.hardshrink(tangent_vectors(images, 1.0).flatten(2), 1e-19)
    points = images.flatten(1)
    ours = points[:n], tangents[:n], points[n:], tangents[n:]
    few = points[:12], tangents[:12], points[n : n + 40], tangents[n : n + 40]
    a, b = torch.randn(1024, 784), torch.randn(784, 2048)
    agree = (tangent_distance_matrix(*few) - by_batch(*(part.double() for part in few))).abs().max().item()
    rivals = {
        "ours": (lambda: tangent_distance_matrix(*ours), n * m),
        "loop of lstsq": (lambda: by_loop(*few), 480),
        "batched lstsq": (lambda: by_batch(*few), 480),
        "sgemm": (lambda: a @ b, 2 * 1024 * 784 * 2048),
    }
    times = medians_in_turn({name: work for name, (work, _) in rivals.items()}, REPEATS, time.process_time)
    rate = {name: count / times[name] for name, (_, count) in rivals.items()}
    achieved = flops(n, m, 784, 7) / times["ours"]
    return {
        "pairs/s": {name: round(rate[name]) for name in rivals if name != "sgemm"},
        "times a loop": round(rate["ours"] / rate["loop of lstsq"], 1),
        "times a batch": round(rate["ours"] / rate["batched lstsq"], 1),
        "sgemm Gflop/s": round(rate["sgemm"] / 1e9, 1),
        "ours Gflop/s": round(achieved / 1e9, 1),
        "share of sgemm": round(achieved / rate["sgemm"], 3),
        "largest difference to float64": round(agree, 5),
    }


def main():
    """Run what is not yet in benchmarks/results/tangent_distance_speed.json."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    about = f"one thread, processor time, medians of {REPEATS}, competitors in turn; 7 tangents, two-sided, float32"
    study = Study("tangent_distance_speed", about, "MNIST, 28×28")
    study.run("2000 images beside 4000", lambda: measured(2000, 4000))


if __name__ == "__main__":
    main()
