"""Nearest neighbours under the ledger's protocol: digits, 10 known images a class, also rotated and shifted.

The width of the Gaussian, and whether the images are compared sharp or smooth, are chosen on the validation images of
three seeds, then fixed; ten other seeds are measured. A nearest neighbour gives no class probabilities and takes no
training steps, so it has no row in the ledger itself.

    python benchmarks/tangent_distance_digits.py
"""

import statistics

import torch
from study import Study
from tangent_distance_usps import error
from torch import Tensor

from course_lib.data import Split, rotate
from course_lib.ledger import ANGLES, SHIFTS, shift, task

SIGMAS = (0.3, 0.4, 0.5, 0.6, 0.75, 1.0)
METHODS = {"euclidean": ("euclidean", 1), "one-sided": ("one-sided", 7), "two-sided": ("two-sided", 7)}
METHODS |= {"two-sided, three tangents": ("two-sided", 3)}  # two shifts and the rotation
TUNING, SEEDS = range(100, 103), range(10)


def accuracy(known: Split, x: Tensor, y: Tensor, setting: tuple[str, float, str, int]) -> float:
    """Right answers in percent."""
    return 100 - error(known, Split(x, y), *setting)["error %"]


def row(setting: tuple[str, float, str, int], seed: int) -> dict[str, float]:
    """The ledger's three accuracies for one seed."""
    known, _, test = task(seed)
    turned = [rotate(test.x, torch.full((len(test.x),), float(angle)).deg2rad()) for angle in ANGLES]
    moved = [shift(test.x, *move) for move in SHIFTS]
    many = {"clean": [test.x], "rotated": turned, "shifted": moved}
    means = {name: statistics.mean(accuracy(known, x, test.y, setting) for x in xs) for name, xs in many.items()}
    return {name: round(value, 4) for name, value in means.items()}


def chosen(study: Study, method: str) -> tuple[str, float, str, int]:
    """The width and kind with the best mean accuracy on validation images."""
    distance, count = METHODS[method]
    if distance == "euclidean":
        return distance, 1.0, "sharp", count  # no width matters

    def on_validation(setting: tuple[str, float, str, int]) -> float:
        tasks = [task(seed) for seed in TUNING]
        return statistics.mean(accuracy(t.train, t.validation.x, t.validation.y, setting) for t in tasks)

    settings = {f"{s:g} {kind}": (distance, s, kind, count) for s in SIGMAS for kind in ("sharp", "smooth")}
    tried = study.run(
        f"{method}, tuning", lambda: {name: round(on_validation(setting), 3) for name, setting in settings.items()}
    )
    return settings[max(tried, key=tried.get)]


def main():
    """Run what is not yet in benchmarks/results/tangent_distance_digits.json."""
    torch.set_num_threads(1)
    about = f"1 nearest neighbour; width and kind chosen on validation images of seeds {list(TUNING)}"
    study = Study(
        "tangent_distance_digits", about, "scikit-learn digits: 10 a class known, 10 to choose on, 898 to test"
    )
    for method in METHODS:
        setting = chosen(study, method)
        for seed in SEEDS:
            study.run(
                f"{method}, seed {seed}",
                lambda c=setting, s=seed: {"sigma": c[1], "kind": c[2]} | row(c, s),
            )


if __name__ == "__main__":
    main()
