"""Run the rows of the ledger: every method on the same digits with the same small network.

    python benchmarks/ledger.py

A row's strength is chosen on the validation images of three seeds, then fixed; ten other seeds are measured.
A new row: a function that makes a Recipe from a strength, a line in METHODS, and its place in course_lib.ledger.ROWS.
"""

import functools
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from study import Study, medians_in_turn
from torch import Tensor, nn

from course_lib.augmentation import random_affine
from course_lib.constrained_optimization import max_norm_
from course_lib.contractive_autoencoders import TiedAutoencoder, train_autoencoder
from course_lib.data import ImageData, digits
from course_lib.early_stopping import EarlyStopping
from course_lib.group_convolution import GroupBatchNorm2d, GroupConv2d, GroupPool, LiftingConv2d
from course_lib.groups import Averaged, cyclic
from course_lib.ledger import ROWS, measure, network, task
from course_lib.manifold_tangents import encoder_tangents
from course_lib.norm_penalties import l2_penalty
from course_lib.steerable_cnns import SteerableNetwork
from course_lib.tangent_prop import GENERATORS, affine_tangents, pushforward
from course_lib.training import Callback, Penalty, accuracy, batches, fit

EPOCHS, BATCH = 200, 25
TUNING, SEEDS = range(100, 103), range(10)


@dataclass(frozen=True)
class Recipe:
    """What a method changes in plain training."""

    network: Callable[[int], nn.Module] = network  # makes the network of a seed
    penalties: Sequence[Penalty] = ()
    start: Callable[[nn.Module], object] | None = None  # changes the initial weights
    after_step: Callable[[nn.Module], object] | None = None  # changes the weights after every step
    warp: Callable[[Tensor], Tensor] | None = None  # changes the images of every batch
    callbacks: Callable[[ImageData], Sequence[Callback]] | None = None  # made anew for every run

    def train(self, model: nn.Module, loader: Iterable, data: ImageData, epochs: int):
        """Train a model in place."""
        fit(
            model,
            loader if self.warp is None else Warped(loader, self.warp),
            torch.optim.Adam(model.parameters(), lr=3e-3),
            epochs=epochs,
            penalties=self.penalties,
            callbacks=self.callbacks(data) if self.callbacks else (),
            after_step=self.after_step,
        )


@dataclass(frozen=True)
class Warped:
    """A loader whose images are changed anew every time they are read."""

    loader: Iterable
    warp: Callable[[Tensor], Tensor]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Read the loader once."""
        for x, y in self.loader:
            yield self.warp(x), y


def plain(strength: float) -> Recipe:
    """Chapters generalization and measuring_invariance: nothing added."""
    return Recipe()


def l2(strength: float) -> Recipe:
    """Chapter norm_penalties."""
    return Recipe(penalties=[lambda model, x, y: l2_penalty(model.parameters(), strength)])


def max_norm(strength: float) -> Recipe:
    """Chapter constrained_optimization: the strength is the bound on every unit's incoming weights."""

    def project(model: nn.Module) -> None:
        for layer in model:
            if isinstance(layer, nn.Linear):
                max_norm_(layer.weight, strength)

    return Recipe(after_step=project)


def small_start(scale: float) -> Recipe:
    """Chapter underconstrained_problems: the same start, nearer to zero (or farther)."""

    @torch.no_grad()
    def rescale(model: nn.Module) -> None:
        for parameter in model.parameters():
            parameter.mul_(scale)

    return Recipe(start=rescale)


def stopped(strength: float) -> Recipe:
    """Chapter early_stopping; the strength is the patience in epochs."""
    return Recipe(callbacks=lambda data: [EarlyStopping(data.validation, int(strength), EPOCHS)])


def augmented(strength: float) -> Recipe:
    """Chapter augmentation: every batch is turned by up to ±40 degrees and shifted by up to ±1 pixel, times s."""
    draw = torch.Generator().manual_seed(0)
    return Recipe(warp=lambda images: random_affine(images, 40 * strength, strength, draw))


def convolutional(seed: int) -> nn.Module:
    """Two layers of 3×3 convolutions, pooling between them, and ten outputs: 9 632 parameters; plain has 9 610."""
    torch.manual_seed(seed)
    first = nn.Conv2d(1, 15, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
    return nn.Sequential(*first, nn.Conv2d(15, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10))


def convolution(strength: float) -> Recipe:
    """Chapter parameter_sharing: weights shared over all places, in the network instead of in the loss."""
    return Recipe(network=convolutional)


def tangent_prop(strength: float) -> Recipe:
    """Chapter tangent_prop: rotation and both shifts, their tangents from images smoothed by half a pixel."""
    generators = torch.tensor([GENERATORS[name] for name in ("shift right", "shift down", "rotation")])

    def penalize(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        slopes = pushforward(model, x, affine_tangents(x, generators, sigma=0.5))[1]
        return strength * slopes.square().sum() / len(x)

    return Recipe(penalties=[penalize])


@functools.cache
def learned_tangents() -> tuple[Tensor, Tensor]:
    """The training half of the digits, without labels, as rows; eight learned tangents of each."""
    x = digits().train.x.flatten(1)
    encoder = TiedAutoencoder(64, 128, seed=0)
    train_autoencoder(encoder, x, epochs=40, strength=1.0)
    return x, encoder_tangents(encoder.encode, x, 8)


def manifold_tangents(strength: float) -> Recipe:
    """Chapter manifold_tangents: tangent prop along the learned tangents; the network starts as plain."""
    known, tangents = learned_tangents()

    def penalize(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        place = (x.flatten(1)[:, None] == known).all(dim=2).byte().argmax(dim=1)
        slopes = pushforward(model, x.flatten(1), tangents[place])[1]
        return strength * slopes.square().sum() / len(x)

    return Recipe(penalties=[penalize])


def group_average(strength: float) -> Recipe:
    """Chapter groups: the scores averaged over the four quarter turns, in training and after it."""
    return Recipe(network=lambda seed: Averaged(network(seed), cyclic(4)))


def quarter_turns(seed: int) -> nn.Module:
    """Three layers on the group of quarter turns, then the largest pose and place; 9688 parameters.

    Of three such networks it read the validation images of two tuning seeds best.
    """
    torch.manual_seed(seed)
    group = cyclic(4)
    return nn.Sequential(
        LiftingConv2d(group, 1, 10, 3, padding=1),
        nn.ReLU(),
        GroupConv2d(group, 10, 10, 3, padding=1),
        nn.ReLU(),
        GroupConv2d(group, 10, 16, 3),
        GroupBatchNorm2d(16),
        nn.ReLU(),
        GroupPool(),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


def group_convolution(strength: float) -> Recipe:
    """Chapter group_convolution: another network of about as many parameters, trained as plain."""
    return Recipe(network=quarter_turns)


def steerable(strength: float) -> Recipe:
    """Chapter steerable_cnns: another network, of about as many parameters, equivariant under turns."""
    fields = {"hidden": {0: 10, 1: 8, 2: 5}, "last": {0: 22, 1: 10, 2: 8}}
    return Recipe(network=lambda seed: SteerableNetwork(seed, **fields))


# name of the row: the recipe for a strength, and the strengths to choose from
METHODS: dict[str, tuple[Callable[[float], Recipe], list[float]]] = {
    "plain": (plain, [0.0]),
    "L2 penalty": (l2, [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2]),
    "max-norm constraint": (max_norm, [0.5, 1.0, 1.5, 2.0, 3.0, 4.0]),
    "small start": (small_start, [0.03, 0.1, 0.3, 1.0, 2.0]),
    "early stopping": (stopped, [5, 10, 20, 40]),
    "augmentation": (augmented, [0.25, 0.5, 0.75, 1.0]),
    "convolution": (convolution, [1.0]),
    "tangent prop": (tangent_prop, [0.0001, 0.0003, 0.001, 0.003, 0.01]),
    "manifold tangent classifier": (manifold_tangents, [1e-4, 1e-3, 1e-2]),
    "group average": (group_average, [0.0]),
    "group convolution (C4)": (group_convolution, [0.0]),
    "steerable (SO(2))": (steerable, [0.0]),
}


def trained(recipe: Recipe, seed: int) -> nn.Module:
    """The network after training on the images of one seed."""
    model, data = recipe.network(seed), task(seed)
    if recipe.start is not None:
        recipe.start(model)
    recipe.train(model, batches(data.train, BATCH, seed=seed), data, EPOCHS)
    return model


def chosen_strength(study: Study, method: str) -> float:
    """The strength with the best mean accuracy on validation images."""
    recipe, strengths = METHODS[method]

    def on_validation(strength: float) -> float:
        models = {seed: trained(recipe(strength), seed) for seed in TUNING}
        return statistics.mean(accuracy(model, task(seed).validation) for seed, model in models.items())

    if len(strengths) == 1:
        return strengths[0]
    tried = study.run(f"{method}, tuning", lambda: {f"{s:g}": round(100 * on_validation(s), 2) for s in strengths})
    return float(max(tried, key=tried.get))


def cost(recipe: Recipe, repeats: int = 300) -> float:
    """Time of a training step relative to a plain one: the ratio of medians, the two measured in turn."""
    data = task(0)
    batch = [(data.train.x[:BATCH], data.train.y[:BATCH])]
    loops = {"method": (recipe, recipe.network(0)), "plain": (Recipe(), network(0))}
    steps = {name: functools.partial(chosen.train, model, batch, data, 1) for name, (chosen, model) in loops.items()}
    medians = medians_in_turn(steps, repeats)
    return medians["method"] / medians["plain"]


def row(method: str, strength: float, seed: int) -> dict:
    """One seed of one row."""
    recipe = METHODS[method][0](strength)
    values = measure(trained(recipe, seed), task(seed).test) | {"cost": cost(recipe)}
    return {"strength": strength} | {name: round(value, 4) for name, value in values.items()}


def main():
    """Run what is not yet in benchmarks/results/ledger.json."""
    torch.set_num_threads(1)
    about = f"64-128-10 network, Adam 3e-3, {EPOCHS} epochs, batch {BATCH}; strengths chosen on seeds {list(TUNING)}"
    study = Study("ledger", about, "scikit-learn digits: 10 a class to train, 10 to validate, 898 to test")
    for method in ROWS:
        strength = chosen_strength(study, method)
        for seed in SEEDS:
            study.run(f"{method}, seed {seed}", lambda m=method, a=strength, s=seed: row(m, a, s))


if __name__ == "__main__":
    main()
