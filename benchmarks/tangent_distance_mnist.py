"""Nearest neighbours by tangent distance on MNIST, beside LeCun et al. (1998): 1.1 % test error.

Two stages, for one processor: Euclid names 200 candidates for each image, the two-sided distance chooses among
them. The width of the Gaussian is chosen on 1 000 of the 60 000 training images, taken out at random; the test images
are looked at once. Smooth images are compared.

    python benchmarks/tangent_distance_mnist.py [--images 60000]
"""

import argparse

import torch
from study import Study
from tangent_distance_usps import held_out
from torch import Tensor

from course_lib.data import Split, mnist
from course_lib.tangent_distance import orthonormal_tangents, smooth_images, tangent_vectors, two_sided_distance

SIGMAS = (0.75, 1.0, 1.25, 1.5)
CANDIDATES = 200


def candidates(asked: Split, known: Split) -> Tensor:
    """The Euclidean neighbours of each image, nearest first: their places, of shape (asked, candidate)."""
    y = known.x.flatten(1)
    half = y.square().sum(1) / 2
    parts = asked.x.flatten(1).split(500)
    return torch.cat([(half - x @ y.T).topk(CANDIDATES, largest=False).indices for x in parts])


def planes(images: Tensor, sigma: float) -> Tensor:
    """Eight rows an image: a basis of its tangent plane, and the plane's point nearest to zero."""
    parts = []
    for part in images.split(1000):
        basis = orthonormal_tangents(tangent_vectors(part, sigma).flatten(2))
        points = smooth_images(part, sigma).flatten(1)[:, None]
        parts.append(torch.cat([basis, points - points @ basis.mT @ basis], dim=1))
    return torch.nn.functional.hardshrink(torch.cat(parts), 1e-19)  # (image, tangent + 1, pixel)


def distances(left: Tensor, right: Tensor) -> Tensor:
    """The two-sided distance of one plane to many, by the Schur complement."""
    inner = (right.flatten(0, 1) @ left.T).unflatten(0, right.shape[:2])  # (candidate, row of y, row of x)
    cross, foot = inner[:, :-1, :-1], right[:, -1]
    schur = torch.diag_embed(right[:, :-1].square().sum(2)) - cross @ cross.mT
    schur = schur + 1e-5 * torch.eye(len(left) - 1)
    side = inner[:, :-1, -1:] + cross @ inner[:, -1, :-1, None]
    rest = left[-1].square().sum() + foot.square().sum(1) - 2 * inner[:, -1, -1] - inner[:, -1, :-1].square().sum(1)
    return rest - (side * torch.linalg.solve(schur, side)).sum(dim=(1, 2))


def error(known: Split, asked: Split, near: Tensor, sigma: float) -> dict[str, float]:
    """The error of the nearest candidate in percent."""
    x, y = planes(asked.x, sigma), planes(known.x, sigma)
    found = torch.stack([near[i, distances(x[i], y[near[i]]).argmin()] for i in range(len(x))])
    return shares(known.y[found] != asked.y)


def shares(wrong: Tensor) -> dict[str, float]:
    """Mistakes as a number and in percent."""
    return {"error %": round(100 * wrong.double().mean().item(), 3), "wrong": int(wrong.sum()), "of": len(wrong)}


def agreement(images: Tensor, sigma: float = 1.0) -> dict[str, float]:
    """How far this file's distances are from the library's, relative to the largest."""
    points, tangents = smooth_images(images, sigma).flatten(1), tangent_vectors(images, sigma).flatten(2)
    many = points[:1].expand_as(points), tangents[:1].expand_as(tangents), points, tangents
    theirs = two_sided_distance(*(part.double() for part in many))
    rows = planes(images, sigma)
    return {"largest difference": ((distances(rows[0], rows) - theirs).abs().max() / theirs.max()).item()}


def main():
    """Run what is not yet in benchmarks/results/tangent_distance_mnist.json."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--images", type=int, default=60_000, help="training images to use; a sixth as many to test")
    images = options.parse_args().images
    torch.set_num_threads(1)
    data = mnist()
    train, test = (Split(p.x[:n], p.y[:n]) for p, n in ((data.train, images), (data.test, images // 6)))
    known, asked = held_out(train, images // 60)
    about = f"nearest neighbour; seven tangents; two-sided among {CANDIDATES} Euclidean neighbours"
    study = Study("tangent_distance_mnist", about, f"MNIST, {images} to train, {images // 6} to test")
    study.run("agreement with the library", lambda: agreement(train.x[:50]))
    near = candidates(asked, known)
    found = {
        sigma: study.run(f"validation two-sided {sigma:g} smooth", lambda s=sigma: error(known, asked, near, s))[
            "wrong"
        ]
        for sigma in SIGMAS
    }
    best = min(found, key=found.get)
    near = candidates(test, train)
    study.run("test euclidean 1 sharp", lambda: shares(train.y[near[:, 0]] != test.y))
    within = (train.y[near] == test.y[:, None]).any(dim=1)
    study.run("no candidate of the right class", lambda: shares(~within))
    study.run(f"test two-sided {best:g} smooth", lambda: error(train, test, near, best))


if __name__ == "__main__":
    main()
