"""The manifold tangent classifier on MNIST, few labels and all, beside Rifai et al. (2011): 12.03 % with 100 labels.

A small version for one processor: 784-256-10 with sigmoid units, a contractive autoencoder on 10 000 unlabelled images,
ten tangents an image. (The paper: several layers, more units, all images.) A step sees 50 labelled images and two of
their tangents, drawn anew; the penalty is scaled up to all of them. The strength is chosen with 100 labels, on one
seed and 2 000 training images that are used for nothing else. The test images are read once a run.

    python benchmarks/manifold_tangents_mnist.py [--units 256] [--unlabelled 10000]
"""

import argparse
import functools

import torch
from study import Study
from torch import Tensor, nn

from course_lib.contractive_autoencoders import TiedAutoencoder, train_autoencoder
from course_lib.data import Split, few_labels, mnist
from course_lib.manifold_tangents import captured_share, local_pca_tangents, mtc_loss
from course_lib.tangent_distance import orthonormal_tangents, shift_and_rotation_tangents
from course_lib.training import accuracy

PER_CLASS = {100: 10, 600: 60, 1000: 100}  # labels in all: of each class
STEPS = {100: 300, 600: 300, 1000: 300, 58_000: 12_000}
STRENGTHS = (1e-4, 1e-2, 1e-1, 1.0, 10.0)
K, NEIGHBOURS, CONTRACTION = 10, 20, 1.0
BATCH, DRAWN = 50, 2
TUNING, SEEDS = 100, range(5)
METHODS = ("plain", "autoencoder", "learned tangents", "local PCA", "known tangents")


class Task:
    """What the methods of one seed share: images, an encoder, tangents."""

    def __init__(self, seed: int, units: int, unlabelled: int, **contraction: float):
        train, _, test = mnist()
        pool, held = Split(train.x[:58_000], train.y[:58_000]), Split(train.x[58_000:], train.y[58_000:])
        self.seed, self.pool = seed, pool
        self.asked = {"validation": flat(held), "test": flat(test)}
        self.unlabelled = pool.x[:unlabelled].flatten(1)
        self.encoder = TiedAutoencoder(784, units, seed=seed)
        contraction = contraction or {"strength": CONTRACTION}
        train_autoencoder(self.encoder, self.unlabelled, epochs=10, lr=1e-3, seed=seed, **contraction)
        self.codes = [self.encoder]  # one upon the other

    def labelled(self, labels: int) -> Split:
        """The labelled images of this seed."""
        return few_labels(self.pool, PER_CLASS[labels], seed=self.seed) if labels in PER_CLASS else self.pool

    def tangents(self, method: str, images: Tensor) -> Tensor | None:
        """The tangents that a method uses, at images of shape (n, 1, 28, 28)."""
        if method == "learned tangents":
            return self.learned(images.flatten(1))
        if method == "local PCA":
            parts = images.flatten(1).split(200)
            return torch.cat([local_pca_tangents(part, self.unlabelled, NEIGHBOURS, K) for part in parts])
        if method == "known tangents":
            return orthonormal_tangents(shift_and_rotation_tangents(images, 1.0).flatten(2))
        return None

    def learned(self, x: Tensor) -> Tensor:
        """The K leading right singular vectors of the encoder's Jacobian."""
        return torch.cat([layer_tangents(self.encoder, part) for part in x.split(200)])

    def network(self, method: str) -> nn.Sequential:
        """A sigmoid layer for each code, and ten scores; all but the plain network start from the codes."""
        torch.manual_seed(self.seed)
        layers, size = [], 784
        for code in self.codes:
            layer = nn.Linear(size, len(code.bias))
            if method != "plain":
                with torch.no_grad():
                    layer.weight.copy_(code.weight)
                    layer.bias.copy_(code.bias)
            layers += [layer, nn.Sigmoid()]
            size = len(code.bias)
        return nn.Sequential(*layers, nn.Linear(size, 10))

    def error(self, method: str, labels: int, strength: float, asked: str) -> dict[str, float]:
        """Train, and read one set of images once: error in percent."""
        few = self.labelled(labels)
        x, y, tangents, model = few.x.flatten(1), few.y, self.tangents(method, few.x), self.network(method)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        draw = torch.Generator().manual_seed(self.seed)
        for _ in range(STEPS[labels]):
            some = torch.randint(len(x), (BATCH,), generator=draw)
            optimizer.zero_grad()
            if tangents is None:
                loss = nn.functional.cross_entropy(model(x[some]), y[some])
            else:
                chosen = torch.randperm(tangents.shape[1], generator=draw)[:DRAWN]
                scale = strength * tangents.shape[1] / DRAWN
                loss = mtc_loss(model, x[some], y[some], tangents[some][:, chosen], scale)
            loss.backward()
            optimizer.step()
        return {"error %": round(100 * (1 - accuracy(model, self.asked[asked])), 3), "strength": strength}

    def looks(self) -> dict[str, dict[str, float]]:
        """What the planes of 300 images hold: known tangents, and the ways to near images of both kinds."""
        few = few_labels(self.pool, 30, seed=self.seed)
        x = few.x.flatten(1)
        known = shift_and_rotation_tangents(few.x, 1.0).flatten(2)
        same = few.y[:, None] == few.y
        apart = torch.cdist(x, x).fill_diagonal_(torch.inf)
        ways = [x[apart.masked_fill(hidden, torch.inf).argmin(1)] - x for hidden in (~same, same)]
        asked = torch.cat([known, torch.stack(ways, dim=1)], dim=1)
        names = ("shift right", "shift down", "rotation", "to own class", "to another class")
        shares = {
            method: captured_share(asked, self.tangents(method, few.x)).mean(0).tolist()
            for method in ("learned tangents", "local PCA", "known tangents")
        }
        return {
            method: {n: round(v, 4) for n, v in zip(names, values, strict=True)} for method, values in shares.items()
        }

    def alike(self) -> dict[str, dict[str, float]]:
        """How far the planes of two images agree, with each other and with PCA of all images; what they hold of means.

        An agreement is a mean squared cosine of principal angles; the means are those of classes, and what is asked for
        is the steps from one to another.
        """
        few = few_labels(self.pool, 30, seed=self.seed)
        x = few.x.flatten(1)
        means = torch.stack([x[few.y == c].mean(0) for c in range(10)])
        others = torch.stack([means[[c for c in range(10) if c != y]] - means[y] for y in few.y])
        centred = self.unlabelled - self.unlabelled.mean(0)
        overall = torch.linalg.svd(centred, full_matrices=False).Vh[:K].expand(len(x), -1, -1)
        mixed = torch.randperm(len(x), generator=torch.Generator().manual_seed(self.seed))
        planes = {method: self.tangents(method, few.x) for method in ("learned tangents", "local PCA")}
        planes["PCA of all images"] = overall
        return {
            method: {
                "other image": round(captured_share(plane[mixed], plane).mean().item(), 4),
                "PCA of all images": round(captured_share(overall, plane).mean().item(), 4),
                "class means": round(captured_share(others, plane).mean().item(), 4),
            }
            for method, plane in planes.items()
        }


def flat(split: Split) -> Split:
    """Images as rows."""
    return Split(split.x.flatten(1), split.y)


def layer_tangents(encoder: TiedAutoencoder, x: Tensor) -> Tensor:
    """``encoder_tangents`` of one sigmoid layer, faster: eigenvectors of J·Jᵀ = D·W·Wᵀ·D with D = diag(h·(1 − h))."""
    weight = encoder.weight.detach()
    hidden = encoder.encode(x).detach()
    slope = hidden * (1 - hidden)  # (batch, unit)
    gram = slope[:, :, None] * (weight @ weight.T) * slope[:, None]
    left = torch.linalg.eigh(gram).eigenvectors[:, :, -K:].flip(2)  # (batch, unit, K)
    right = torch.einsum("buk,bu,up->bkp", left, slope, weight)
    return torch.nn.functional.normalize(right, dim=2)


def main():
    """Run what is not yet in benchmarks/results/manifold_tangents_mnist.json."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--units", type=int, default=256)
    options.add_argument("--unlabelled", type=int, default=10_000)
    options = options.parse_args()
    torch.set_num_threads(1)
    about = (
        f"784-{options.units}-10, sigmoid; contractive autoencoder, strength {CONTRACTION:g}, 10 epochs on "
        f"{options.unlabelled} unlabelled images; {K} tangents, {NEIGHBOURS} neighbours; Adam 1e-3, batch {BATCH}, 300 "
        f"steps, {STEPS[58_000]} with all labels"
    )
    study = Study("manifold_tangents_mnist", about, "MNIST: labels from 58 000, 2 000 to validate, 10 000 to test")

    @functools.cache
    def task(seed: int) -> Task:
        return Task(seed, options.units, options.unlabelled)

    strengths = {"plain": 0.0, "autoencoder": 0.0}
    for method in METHODS[2:]:
        tried = {
            s: study.run(f"tuning, {method}, {s:g}", lambda m=method, s=s: task(TUNING).error(m, 100, s, "validation"))[
                "error %"
            ]
            for s in STRENGTHS
        }
        strengths[method] = min(tried, key=tried.get)
    for seed in SEEDS:
        study.run(f"what planes hold, seed {seed}", lambda s=seed: task(s).looks())
        study.run(f"how alike planes are, seed {seed}", lambda s=seed: task(s).alike())
        for labels in STEPS:
            for method in METHODS:
                study.run(
                    f"{labels} labels, {method}, seed {seed}",
                    lambda m=method, n=labels, s=seed: task(s).error(m, n, strengths[m], "test"),
                )


if __name__ == "__main__":
    main()
