"""What does a step of tangent prop cost, and is its gradient right? Four ways to the same penalty.

Single thread, batch 128, four tangents an image, float32. A step is forward, backward and plain SGD on cross-entropy
plus penalty; the versions are measured in turn, and a number is the ratio of its median to that of a step without
penalty. The arithmetic limit is (1 + tangents) times a plain step, for every layer carries an image and its tangents.
The gradient error is that of the penalty's gradient with respect to all parameters, relative, against float64.

    python benchmarks/tangent_prop_speed.py [--device cuda] [--repeats 41]
"""

import argparse
import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from study import Study, medians_in_turn, relative_to
from torch import Tensor, nn

from course_lib.data import mnist
from course_lib.tangent_prop import (
    GENERATORS,
    affine_tangents,
    central_difference_penalty,
    double_backward_penalty,
    pushforward,
    tangent_penalty,
)

BATCH, STRENGTH = 128, 0.1
STEPS = (1e-3, 1e-1)  # of the finite differences, in standard deviations of the transformation
Penalty = Callable[[nn.Module, Tensor, Tensor], Tensor]


def mlp() -> nn.Module:
    """784-256-256-10."""
    layers = [nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)]
    return nn.Sequential(*layers)


def cnn() -> nn.Module:
    """Two convolutions of 5 × 5 with pooling, 16 and 32 channels, and one hidden layer of 64."""
    first = nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)
    second = nn.Conv2d(16, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(32 * 49, 64), nn.ReLU(), nn.Linear(64, 10))


def forward_penalty(model: nn.Module, x: Tensor, tangents: Tensor) -> Tensor:
    """The penalty alone, layer by layer."""
    return pushforward(model, x, tangents)[1].square().sum() / len(x)


def penalties() -> dict[str, Penalty]:
    """The ways to the penalty, by name."""
    differences = {
        f"finite differences, h = {h:g}": lambda m, x, t, h=h: central_difference_penalty(m, x, t, h) for h in STEPS
    }
    ways = {
        "forward by layers": forward_penalty,
        "vmap(jvp)": tangent_penalty,
        "double backprop": double_backward_penalty,
    }
    return ways | differences


def steps(model: nn.Module, x: Tensor, y: Tensor, tangents: Tensor) -> dict[str, Callable[[], None]]:
    """A step of each kind; each trains its own copy."""

    def train(objective: Callable[[nn.Module], Tensor]) -> Callable[[], None]:
        own = copy.deepcopy(model)
        optimizer = torch.optim.SGD(own.parameters(), lr=1e-3)

        def step() -> None:
            optimizer.zero_grad()
            objective(own).backward()
            optimizer.step()

        return step

    def shared(own: nn.Module) -> Tensor:
        scores, slopes = pushforward(own, x, tangents)
        return F.cross_entropy(scores, y) + STRENGTH * slopes.square().sum() / len(x)

    made = {"plain": train(lambda own: F.cross_entropy(own(x), y)), "forward by layers": train(shared)}
    for name, penalty in list(penalties().items())[1:-1]:  # both difference steps cost the same
        made[name] = train(lambda own, p=penalty: F.cross_entropy(own(x), y) + STRENGTH * p(own, x, tangents))
    return made


def gradient_errors(model: nn.Module, x: Tensor, tangents: Tensor) -> dict[str, float]:
    """The relative error of each way's gradient, in float32 and float64, against double backprop in float64."""

    def gradient(penalty: Penalty, dtype: torch.dtype) -> Tensor:
        own = copy.deepcopy(model).to(dtype)
        value = penalty(own, x.to(dtype), tangents.to(dtype))
        found = torch.autograd.grad(value, list(own.parameters()), allow_unused=True, materialize_grads=True)
        return torch.cat([part.flatten() for part in found]).double()

    truth = gradient(double_backward_penalty, torch.float64)
    errors = {}
    for name, penalty in penalties().items():
        for dtype in (torch.float32, torch.float64):
            error = (gradient(penalty, dtype) - truth).norm() / truth.norm()
            errors[f"{name}, {str(dtype).removeprefix('torch.')}"] = float(f"{error:.2e}")
    return errors


def main():
    """Measure what is not yet in benchmarks/results/tangent_prop_speed.json."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--device", default="cpu")
    options.add_argument("--repeats", type=int, default=41)
    chosen = options.parse_args()
    torch.set_num_threads(1)
    about = f"ratio of median step times to a plain step; batch {BATCH}, 4 tangents, float32, one thread, SGD"
    study = Study("tangent_prop_speed", about, "MNIST, the first 128 training images; shifts, rotation, scale")
    train = mnist().train
    x, y = train.x[:BATCH].clone().to(chosen.device), train.y[:BATCH].to(chosen.device)
    generators = torch.tensor(list(GENERATORS.values()), device=chosen.device)
    amount = torch.tensor([1.0, 1.0, 0.15, 0.1], device=chosen.device)  # pixels, pixels, radians, a share
    tangents = affine_tangents(x, generators * amount[:, None, None], sigma=1.0)
    for name, make in {"MLP": mlp, "CNN": cnn}.items():
        torch.manual_seed(0)
        model = make().to(chosen.device)
        versions = steps(model, x, y, tangents)
        study.run(
            f"{chosen.device}, {name}, step",
            lambda v=versions: relative_to("plain", medians_in_turn(v, chosen.repeats)),
        )
        study.run(f"{chosen.device}, {name}, gradient error", lambda m=model: gradient_errors(m, x, tangents))


if __name__ == "__main__":
    main()
