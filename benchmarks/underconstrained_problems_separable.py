"""A million steps of gradient descent on separable digits, beside the laws of Soudry et al. (2018).

Logistic regression without a penalty, threes against eights, 15 images of each and 64 pixels. The paper proves
‖w(t)‖ = ‖ŵ‖·log t + O(1), where ŵ is the hard-margin support vector machine, and an angle to ŵ of O(1/log t).

    python benchmarks/underconstrained_problems_separable.py
"""

import numpy as np
import torch
from study import Study

from course_lib.data import Split, digits, few_labels
from course_lib.underconstrained_problems import fit_logistic, logistic_loss, margin, max_margin

CLASSES, PER_CLASS, LR = (3, 8), 15, 0.3
SEEDS = range(10)
LOOKS = sorted({round(10 ** (k / 4)) for k in range(25)})  # four a decade, up to a million steps


def two_classes(split: Split) -> Split:
    """The images of the two classes."""
    return Split(*(part[torch.isin(split.y, torch.tensor(CLASSES))] for part in split))


def with_signs(split: Split) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels in rows and labels -1 and 1, in float64."""
    return split.x.flatten(1).double(), torch.where(split.y == CLASSES[0], -1.0, 1.0).double()


def weights(x: torch.Tensor, y: torch.Tensor, looks: list[int]) -> dict[int, torch.Tensor]:
    """The weights after some numbers of steps: the descent of ``fit_logistic``, in NumPy, faster here."""
    signed = (y[:, None] * x).numpy()
    rate, w, found = LR / len(signed), np.zeros(signed.shape[1]), {}
    for step in range(1, looks[-1] + 1):
        w = w + rate * ((0.5 - 0.5 * np.tanh(signed @ w / 2)) @ signed)
        if step in looks:
            found[step] = torch.from_numpy(w)
    return found


def row(seed: int) -> dict:
    """One seed: what the paper follows, at every look."""
    data = digits()
    x, y = with_signs(few_labels(two_classes(data.train), PER_CLASS, seed=seed))
    test_x, test_y = with_signs(two_classes(data.test))
    torch.testing.assert_close(weights(x, y, [100])[100], fit_logistic(x, y, 0.0, LR, 100)[0])
    best = max_margin(x, y)
    values = {"norm of the machine": round(best.norm().item(), 6)}
    for step, w in weights(x, y, LOOKS).items():
        cosine = (w @ best / (w.norm() * best.norm())).clamp(max=1)
        measured = {
            "norm": w.norm(),
            "angle": cosine.arccos().rad2deg(),
            "margin": margin(w, x, y) * best.norm(),
            "loss": logistic_loss(w, x, y),
            "test loss": logistic_loss(w, test_x, test_y),
            "test error %": 100 * (test_y * (test_x @ w) <= 0).double().mean(),
        }
        values[str(step)] = {name: float(f"{value.item():.6g}") for name, value in measured.items()}
    machine_error = 100 * (test_y * (test_x @ best) <= 0).double().mean()
    return values | {"test error of the machine %": round(machine_error.item(), 3)}


def main():
    """Ten seeds, each kept when it is done."""
    torch.set_num_threads(1)
    about = f"logistic regression, digits {CLASSES}, {PER_CLASS} images of each, gradient descent with rate {LR} from 0"
    study = Study(
        "underconstrained_problems_separable", about, "scikit-learn digits: 15 a class; all test images of both"
    )
    for seed in SEEDS:
        study.run(f"seed {seed}", lambda s=seed: row(s))


if __name__ == "__main__":
    main()
