"""Double descent of random Fourier features on MNIST, beside figure 2 of Belkin, Hsu, Ma & Mandal (2019).

The set-up is theirs: n training images, N complex features exp(i v·x), squared loss on one-hot labels, least squares
for N <= n and the interpolant of least norm for N > n, no penalty. A second curve adds a small L2 penalty. All sums
are in double precision, on a GPU where there is one. Their n is 10 000, which wants a GPU with 40 GB:

    python benchmarks/generalization_mnist.py [--images 500 1000] [--seeds 5]
    python benchmarks/generalization_mnist.py --images 10000
"""

import argparse
import itertools
import math

import torch
from study import Study
from torch import Tensor
from torch.nn.functional import one_hot

from course_lib.data import Split, mnist

RATIOS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0)
RIDGE_RATIOS = (0.1, 0.5, 0.9, 1.0, 1.1, 2.0, 4.0)
BANDWIDTH = 5.0  # of the Gaussian kernel that the features approximate; pixels lie in [0, 1]
STRENGTH = 1e-4  # of the ridge curve: alpha/2 times the squared norm, beside half a mean squared error


def fourier_features(x: Tensor, weights: Tensor) -> Tensor:
    """exp(i x·v) / sqrt(N), one column a v."""
    angles = x @ weights
    return torch.polar(torch.full_like(angles, 1 / math.sqrt(weights.shape[1])), angles)


def least_norm(features: Tensor, y: Tensor) -> Tensor:
    """The least-squares weights, of least norm where there are many; features of full rank.

    By a QR factorization of the features themselves, since a Gram matrix would square their condition number.
    """
    n, count = features.shape
    q, r = torch.linalg.qr(features if count <= n else features.mH)
    if count <= n:
        return torch.linalg.solve_triangular(r, q.mH @ y, upper=True)
    return q @ torch.linalg.solve_triangular(r.mH, y, upper=False)


def ridge(features: Tensor, y: Tensor, strength: float) -> Tensor:
    """The minimum of 1/(2n) ‖features w − y‖² + strength/2 ‖w‖², from the smaller of the two Gram matrices."""
    n, count = features.shape
    if count <= n:
        gram, right = features.mH @ features, features.mH @ y
        gram.diagonal().add_(n * strength)
        return torch.cholesky_solve(right, torch.linalg.cholesky(gram))
    gram = features @ features.mH
    gram.diagonal().add_(n * strength)
    return features.mH @ torch.cholesky_solve(y, torch.linalg.cholesky(gram))


def measures(weight: Tensor, train: tuple, test: tuple, weights: Tensor) -> dict:
    """Zero-one error in percent and squared error, summed over classes, of both parts; the norm of the weights."""
    values = {"norm": weight.norm().item()}
    for name, (x, labels) in {"train": train, "test": test}.items():
        parts = [(fourier_features(images, weights) @ weight).real for images in x.split(2000)]
        scores = torch.cat(parts)
        values[f"{name} error %"] = 100 * (scores.argmax(1) != labels).double().mean().item()
        values[f"{name} squared"] = ((scores - one_hot(labels, 10)) ** 2).sum(1).mean().item()
    return {name: float(f"{value:.5g}") for name, value in values.items()}


def one_fit(split: Split, test: Split, images: int, count: int, strength: float, seed: int) -> dict:
    """Draw images and features, fit, measure."""
    draw = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(split.y), generator=draw)[:images].to(split.y.device)
    directions = torch.randn(784, count, generator=draw, dtype=torch.float64).to(split.x) / BANDWIDTH
    x, labels = split.x[chosen], split.y[chosen]
    y = one_hot(labels, 10).to(torch.complex128)
    features = fourier_features(x, directions)
    weight = ridge(features, y, strength) if strength else least_norm(features, y)
    del features
    return measures(weight, (x, labels), (test.x, test.y), directions)


def main():
    """Run what is not yet in benchmarks/results/generalization_mnist.json."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--images", type=int, nargs="+", default=[500, 1000])
    options.add_argument("--seeds", type=int, default=5)
    given = options.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    data = mnist()
    train, test = (Split(p.x.flatten(1).double().to(device), p.y.to(device)) for p in (data.train, data.test))
    about = f"complex random Fourier features, bandwidth {BANDWIDTH:g}, double precision; ridge strength {STRENGTH:g}"
    study = Study("generalization_mnist", about, "MNIST: n random training images, all 10 000 test images")
    for images, seed in itertools.product(given.images, range(given.seeds)):
        for strength, ratios in ((0.0, RATIOS), (STRENGTH, RIDGE_RATIOS)):
            for count in (round(ratio * images) for ratio in ratios):
                study.run(
                    f"n {images} N {count} strength {strength:g} seed {seed}",
                    lambda n=images, c=count, a=strength, s=seed: one_fit(train, test, n, c, a, s),
                )


if __name__ == "__main__":
    main()
