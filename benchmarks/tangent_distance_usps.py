"""Nearest neighbours by tangent distance on USPS, beside Simard, LeCun & Denker (1993).

The width of the Gaussian, and whether the images are compared sharp or smooth, are chosen on 2 000 of the 7 291
training images, taken out at random. The test images are looked at once, with all training images as neighbours.

    python benchmarks/tangent_distance_usps.py
"""

import torch
from study import Study, on_device
from torch import Tensor

from course_lib.data import ImageData, Split, usps
from course_lib.tangent_distance import nearest_labels, smooth_images, tangent_vectors

SIGMAS = (0.5, 0.75, 1.0, 1.25)


def planes(images: Tensor, sigma: float, kind: str, count: int) -> tuple[Tensor, Tensor]:
    """Images, sharp or smooth, all pixels in one row, and the first of their seven tangents."""
    points = images if kind == "sharp" else smooth_images(images, sigma)
    return points.flatten(1), tangent_vectors(images, sigma)[:, :count].flatten(2)


def error(known: Split, asked: Split, distance: str, sigma: float, kind: str, count: int = 7) -> dict[str, float]:
    """The nearest neighbour's error in percent, with the first ``count`` tangents."""
    x, x_tangents = planes(asked.x, sigma, kind, count)
    y, y_tangents = planes(known.x, sigma, kind, count)
    x_tangents = x_tangents if distance == "two-sided" else 0 * x_tangents[:, :1]  # stays
    y_tangents = y_tangents if distance != "euclidean" else 0 * y_tangents[:, :1]
    wrong = (nearest_labels(x, x_tangents, y, y_tangents, known.y) != asked.y).sum().item()
    return {"error %": round(100 * wrong / len(asked.y), 3), "wrong": wrong, "of": len(asked.y)}


def held_out(train: Split, count: int, seed: int = 0) -> tuple[Split, Split]:
    """The training images without some, and these."""
    order = torch.randperm(len(train.y), generator=torch.Generator().manual_seed(seed)).to(train.y.device)
    return tuple(Split(train.x[part], train.y[part]) for part in (order[count:], order[:count]))


def compare(study: Study, data: ImageData, sigmas: tuple[float, ...], count: int):
    """Choose for each distance on held-out training images, then test each choice once."""
    known, asked = held_out(data.train, count)
    candidates = {"euclidean": [(1.0, "sharp")]}
    candidates |= {d: [(s, k) for s in sigmas for k in ("sharp", "smooth")] for d in ("one-sided", "two-sided")}
    for distance, settings in candidates.items():
        found = {
            setting: study.run(
                f"validation {distance} {setting[0]:g} {setting[1]}",
                lambda d=distance, s=setting: error(known, asked, d, *s),
            )["wrong"]
            for setting in settings
        }
        best = min(found, key=found.get)  # of equally good ones the first, the sharpest
        study.run(
            f"test {distance} {best[0]:g} {best[1]}", lambda d=distance, s=best: error(data.train, data.test, d, *s)
        )


def main():
    """Run what is not yet in benchmarks/results/tangent_distance_usps.json."""
    torch.set_num_threads(1)
    train, test = on_device(usps())
    data = ImageData(train, None, test)
    about = "nearest neighbour; seven tangents; width and kind chosen on 2 000 random training images"
    compare(Study("tangent_distance_usps", about, "USPS, 7291 to train, 2007 to test"), data, SIGMAS, 2000)


if __name__ == "__main__":
    main()
