"""Rotated MNIST with and without built-in turns: the table of Cohen & Welling (2016), and error by training images.

Five networks of seven layers after the paper's section 8.1 (3 × 3 filters, 4 × 4 in the last, 2 × 2 max pooling
behind the second, batch normalization, ReLU) with about 25 000 parameters: Z2CNN with 20 channels; P4CNN with
rotation pooling, 20 channels, every filter tried in four turns and the largest answer kept; P4CNN with 10 fields on
the group of quarter turns, pooled over it at the end; P4MCNN with 7 fields, mirrors too; C8CNN with 7 fields on eight
turns, half of them interpolated. A sixth, of escnn's layers, has 9 fields on eight turns, whose filters are circular
harmonics and turn by any angle. Adam, one cycle of the learning rate; no dropout.

The curve compares, by the number of training images, Z2CNN; with every batch turned anew by random angles; with tangent
prop along the turn; P4CNN; and P4CNN with every batch turned. Small training sets are read more often: no run has fewer
than MIN_STEPS steps. Tangent prop under batch normalization: all images of a batch turn at once, so the derivative is
that of the batch. Its strength is the best on validation images with another seed and 1000 training images.

Networks trained on all 10 000 images see all 50 000 test images, as in the paper. Those of smaller sets see the first
CURVE_TEST: their errors are large, and differ more by the seed than such a sample can blur.

    python benchmarks/group_convolution_mnist.py [--device cuda] [--seeds 0 1 2] [--epochs 20] [--names P4CNN]
        [--sizes 100 300]
"""

import argparse
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from study import Study
from torch import Tensor, nn

from course_lib.data import ImageData, Split, rotate, rotated
from course_lib.group_convolution import GroupBatchNorm2d, GroupConv2d, GroupPool, LiftingConv2d, SpatialPool2d
from course_lib.groups import Group, cyclic, dihedral
from course_lib.measuring_invariance import escnn_modules
from course_lib.tangent_prop import GENERATORS, affine_tangents, pushforward
from course_lib.training import accuracy

SIZES, BATCH, RATE, MIN_STEPS, SIGMA = (100, 300, 1000, 3000, 10000), 64, 5e-3, 800, 1.0
CURVE_TEST = 10_000
STRENGTHS, TUNING_SEED, TUNING_SIZE = (0.003, 0.03, 0.3), 100, 1000
FILTERS = (3, 3, 3, 3, 3, 3, 4)


def z2cnn(channels: int = 20) -> nn.Sequential:
    """The plain network."""
    layers: list[nn.Module] = []
    widths = [1, *[channels] * 6, 10]
    for depth, size in enumerate(FILTERS):
        layers.append(nn.Conv2d(widths[depth], widths[depth + 1], size))
        if depth < 6:
            layers += [nn.BatchNorm2d(channels), nn.ReLU()]
        if depth == 1:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten()).to(memory_format=torch.channels_last)  # a third less time on a CPU


def p4cnn_rotation_pooling(channels: int = 20) -> nn.Sequential:
    """Every layer lifts, and pools the turns away."""
    layers: list[nn.Module] = []
    widths = [1, *[channels] * 6, 10]
    for depth, size in enumerate(FILTERS):
        layers.append(LiftingConv2d(cyclic(4), widths[depth], widths[depth + 1], size))
        layers += [GroupBatchNorm2d(channels), nn.ReLU()] if depth < 6 else []
        layers.append(GroupPool())
        if depth == 1:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten())


def group_cnn(group: Group, fields: int) -> nn.Sequential:
    """Feature maps on the group through all layers; its axis is pooled away behind the last."""
    layers: list[nn.Module] = []
    widths = [1, *[fields] * 6, 10]
    for depth, size in enumerate(FILTERS):
        kind = GroupConv2d if depth else LiftingConv2d
        layers.append(kind(group, widths[depth], widths[depth + 1], size))
        if depth < 6:
            layers += [GroupBatchNorm2d(fields), nn.ReLU()]
        if depth == 1:
            layers.append(SpatialPool2d(2))
    return nn.Sequential(*layers, GroupPool(), nn.Flatten())


class SteerableC8(nn.Module):
    """The same seven layers in escnn: filters of circular harmonics between regular fields on eight turns."""

    def __init__(self, fields: int = 9):
        super().__init__()
        gspaces, steerable = escnn_modules()
        space = gspaces.rot2dOnR2(8)
        kinds = [steerable.FieldType(space, [space.trivial_repr])]
        kinds += [steerable.FieldType(space, width * [space.regular_repr]) for width in (*[fields] * 6, 10)]
        layers: list[nn.Module] = []
        for depth, size in enumerate(FILTERS):
            there = kinds[depth + 1]
            layers.append(steerable.R2Conv(kinds[depth], there, size))
            if depth < 6:
                layers += [steerable.InnerBatchNorm(there), steerable.ReLU(there)]
            if depth == 1:
                layers.append(steerable.PointwiseMaxPool(there, 2))
        self.layers = steerable.SequentialModule(*layers, steerable.GroupPooling(kinds[-1]))
        self._wrapped = lambda x: steerable.GeometricTensor(x, kinds[0])

    def forward(self, x: Tensor) -> Tensor:
        """Ten scores an image."""
        return self.layers(self._wrapped(x)).tensor.flatten(1)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "Z2CNN": z2cnn,
    "P4CNN rotation pooling": p4cnn_rotation_pooling,
    "P4CNN": lambda: group_cnn(cyclic(4), 10),
    "P4MCNN": lambda: group_cnn(dihedral(4), 7),
    "C8CNN": lambda: group_cnn(cyclic(8), 7),
    "C8 steerable (escnn)": SteerableC8,
}
TABLE = tuple(NETWORKS)
CURVE = ("Z2CNN", "P4CNN", "Z2CNN, augmentation", "P4CNN, augmentation", "Z2CNN, tangent prop")


def with_slopes(model: nn.Sequential, x: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
    """Scores, and their derivative when the images of the whole batch move along their tangents at once."""
    t = tangents[:, None]  # (batch, 1, channel, height, width)
    for layer in model:
        if isinstance(layer, nn.BatchNorm2d):
            flow, axes = t[:, 0], (0, 2, 3)
            centred = x - x.mean(axes, keepdim=True)
            scale = (centred.square().mean(axes, keepdim=True) + layer.eps).rsqrt()
            hat = centred * scale
            flow = scale * (
                flow - flow.mean(axes, keepdim=True) - hat * (hat * flow).mean(axes, keepdim=True)
            )  # the derivative of hat
            x, t = layer(x), (flow * layer.weight[:, None, None])[:, None]
        else:
            x, t = pushforward(layer, x, t)
    return x, t


def trained(name: str, train: Split, seed: int, steps: int, strength: float) -> nn.Module:
    """A network after so many steps."""
    network, _, method = name.partition(", ")
    device = train.x.device
    torch.manual_seed(seed)
    model = NETWORKS[network]().to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    draw = torch.Generator(device).manual_seed(seed)
    turn = torch.tensor([GENERATORS["rotation"]], device=device)
    done = 0
    while done < steps:
        order = torch.randperm(len(train.y), generator=draw, device=device)
        for chosen in order.split(BATCH)[: steps - done]:
            x, y = train.x[chosen], train.y[chosen]
            if method == "augmentation":
                x = rotate(x, torch.rand(len(x), generator=draw, device=device) * 2 * math.pi)
            if method == "tangent prop":
                scores, slopes = with_slopes(model, x, affine_tangents(x, turn, SIGMA)[:, 0])
                loss = F.cross_entropy(scores, y) + strength * slopes.square().sum() / len(x)
            else:
                loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            done += 1
    return model.eval()


def error(model: nn.Module, split: Split) -> float:
    """The share of wrong answers in percent."""
    return round(100 * (1 - accuracy(model, split)), 3)


def main():
    """Run what is not yet in benchmarks/results/group_convolution_mnist.json."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--device", default="cpu")
    options.add_argument("--seeds", type=int, nargs="+", default=range(5))
    options.add_argument("--epochs", type=int, default=20)
    options.add_argument("--test", type=int, default=50_000)
    options.add_argument("--names", nargs="+", default=[*TABLE, *CURVE], help="which of the networks, as in the file")
    options.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="which numbers of training images")
    options = options.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    data = rotated()
    data = ImageData(*(Split(part.x.to(options.device), part.y.to(options.device)) for part in data))
    test = Split(data.test.x[: options.test], data.test.y[: options.test])
    about = f"seven layers, about 25 000 parameters, Adam, one cycle up to {RATE:g}, batch {BATCH}"
    about += f", at least {MIN_STEPS} steps"
    source = (
        "rotated MNIST made from MNIST: 10 000 to train, 2000 to validate, of 50 000 to test as many as the key says"
    )
    study = Study("group_convolution_mnist", about, source)

    def run(name: str, size: int, seed: int, strength: float, measured: Split) -> dict:
        train = Split(data.train.x[:size], data.train.y[:size])
        steps = max(MIN_STEPS, options.epochs * math.ceil(size / BATCH))
        model = trained(name, train, seed, steps, strength)
        parameters = sum(p.numel() for p in model.parameters())
        return {"error %": error(model, measured), "parameters": parameters, "steps": steps, "strength": strength}

    def measure(name: str, size: int, seed: int, strength: float = 0.0) -> None:
        measured = test if size == SIZES[-1] else Split(test.x[:CURVE_TEST], test.y[:CURVE_TEST])
        key = f"{name}; {size} images; {options.epochs} epochs; {len(measured.y)} test; seed {seed}"
        study.run(key, lambda: run(name, size, seed, strength, measured))

    def strength() -> float:
        tried = {}
        for a in STRENGTHS:
            key = f"tuning {a:g}; {TUNING_SIZE} images; {options.epochs} epochs"
            done = lambda a=a: run("Z2CNN, tangent prop", TUNING_SIZE, TUNING_SEED, a, data.validation)  # noqa: E731
            tried[a] = study.run(key, done)["error %"]
        return min(tried, key=tried.get)

    for seed in options.seeds:
        for name in (name for name in TABLE if name in options.names and SIZES[-1] in options.sizes):
            measure(name, SIZES[-1], seed)
    for seed in options.seeds:
        for name in (name for name in CURVE if name in options.names):
            for size in options.sizes:
                measure(name, size, seed, strength() if name.endswith("tangent prop") else 0.0)


if __name__ == "__main__":
    main()
