"""The manifold tangent classifier with a deep code: two layers, CAE+H, all images; beside Rifai et al. (2011).

Two contractive autoencoders with the second-order penalty are trained one on the other, on 58 000 unlabelled images of
MNIST. The tangents are the ten leading singular vectors of the Jacobian of both layers together. The classifier starts
from both layers and is trained as in ``manifold_tangents_mnist.py``. The contraction is the one whose layers alone do
best with 100 labels, and then the strength of the tangents is chosen for each number of labels, on images and a seed
that are used for nothing else. With 100 labels much depends on which: every number is a mean over three draws of them.
The test images are read once a run.

    python benchmarks/manifold_tangents_deep.py [--units 500] [--seeds 3]
"""

import argparse
import functools

import torch
from manifold_tangents_mnist import METHODS, NEIGHBOURS, PER_CLASS, TUNING, K, Task
from study import Study
from torch import Tensor, nn

from course_lib.contractive_autoencoders import TiedAutoencoder, train_autoencoder
from course_lib.data import Split, few_labels

EPOCHS, SIGMA, STRENGTHS = 10, 0.1, (1e-4, 1e-2, 1e-1, 1.0, 10.0, 100.0)
DRAWS = {100: 3, 1000: 1}  # of labelled images, by their number
# Strengths of first order and of second order.
CONTRACTIONS = ((0.1, 0.1), (0.3, 0.3), (1.0, 0.0), (1.0, 1.0), (3.0, 1.0), (10.0, 1.0))


class DeepTask(Task):
    """What the methods of one seed share: images, an encoder of two layers, tangents."""

    def __init__(self, seed: int, units: int, contraction: tuple[float, float]):
        strength, curvature = contraction
        super().__init__(seed, units, 58_000, strength=strength, curvature=curvature, sigma=SIGMA)
        second = TiedAutoencoder(units, units, seed=1000 + seed)
        with torch.no_grad():
            x = self.encoder.encode(self.unlabelled)
        setting = {"strength": strength, "curvature": curvature, "sigma": SIGMA}
        train_autoencoder(second, x, epochs=EPOCHS, lr=1e-3, seed=seed, **setting)
        self.codes.append(second)
        self.draw, self.known = 0, {}

    def labelled(self, labels: int) -> Split:
        """The labelled images of this seed and draw."""
        return few_labels(self.pool, PER_CLASS[labels], seed=self.seed + 1000 * self.draw)

    def tangents(self, method: str, images: Tensor) -> Tensor | None:
        """As for one layer; each plane is made once."""
        key = method, len(images), self.draw
        if key not in self.known:
            self.known[key] = super().tangents(method, images)
        return self.known[key]

    def errors(self, method: str, labels: int, strength: float, asked: str) -> dict:
        """The mean error over the draws, in percent, and each."""
        found = []
        for self.draw in range(DRAWS[labels]):
            found.append(self.error(method, labels, strength, asked)["error %"])
        self.draw = 0
        return {"error %": round(sum(found) / len(found), 3), "errors %": found, "strength": strength}

    def learned(self, x: Tensor) -> Tensor:
        """The K leading right singular vectors of each Jacobian, from eigenvectors of J·Jᵀ."""
        rows = []
        with torch.no_grad():
            for image in x:
                hidden, jacobian = image, torch.eye(len(image))
                for code in self.codes:
                    hidden = code.encode(hidden[None])[0]
                    jacobian = (hidden * (1 - hidden))[:, None] * (code.weight @ jacobian)
                gram = jacobian @ jacobian.T  # (code, code)
                left = torch.linalg.eigh(gram.double()).eigenvectors[:, -K:].flip(1).to(x.dtype)
                rows.append(nn.functional.normalize(left.T @ jacobian, dim=1))
        return torch.stack(rows)


def main():
    """Run what is not yet in benchmarks/results/manifold_tangents_deep.json."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--units", type=int, default=500)
    options.add_argument("--seeds", type=int, default=3)
    options = options.parse_args()
    torch.set_num_threads(1)
    about = (
        f"784-{options.units}-{options.units}-10, sigmoid; two CAE+H, sigma {SIGMA:g}, {EPOCHS} epochs each on 58000 "
        f"unlabelled images; {K} tangents, {NEIGHBOURS} neighbours; Adam 1e-3, batch 50, 300 steps"
    )
    study = Study("manifold_tangents_deep", about, "MNIST: labels from 58 000, 2 000 to validate, 10 000 to test")

    @functools.lru_cache(1)  # an encoder takes minutes, but is asked for many times in a row
    def task(seed: int, contraction: tuple[float, float]) -> DeepTask:
        return DeepTask(seed, options.units, contraction)

    tried = {}
    for pair in CONTRACTIONS:
        done = lambda p=pair: task(TUNING, p).error("autoencoder", 100, 0.0, "validation")  # noqa: E731
        tried[pair] = study.run(f"tuning, contraction {pair[0]:g} and {pair[1]:g}", done)["error %"]
    best = min(tried, key=tried.get)
    strengths = {(labels, method): 0.0 for labels in DRAWS for method in METHODS}
    for labels in DRAWS:
        for method in METHODS[2:]:
            tried = {}
            for s in STRENGTHS:
                done = lambda m=method, n=labels, s=s: task(TUNING, best).errors(m, n, s, "validation")  # noqa: E731
                tried[s] = study.run(f"tuning, {labels} labels, {method}, {s:g}", done)["error %"]
            strengths[labels, method] = min(tried, key=tried.get)
    for seed in range(options.seeds):
        study.run(f"what planes hold, seed {seed}", lambda s=seed: task(s, best).looks())
        study.run(f"how alike planes are, seed {seed}", lambda s=seed: task(s, best).alike())
        for (labels, method), strength in strengths.items():
            done = lambda m=method, n=labels, a=strength, s=seed: task(s, best).errors(m, n, a, "test")  # noqa: E731
            study.run(f"{labels} labels, {method}, seed {seed}", done)


if __name__ == "__main__":
    main()
