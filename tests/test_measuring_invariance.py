"""measuring_invariance: wrong and right versions of each task, peers, closed forms, the classic culprits, bad input."""

import functools
import itertools
import math
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import pad

from course_lib import measuring_invariance as library
from course_lib.data import digits, rotate
from course_lib.measuring_invariance import FourfoldConv2d, blur_pool, diagnose
from course_lib.preconditions import require_nonzero

# Three of the tasks, for mistakes that change one line.
SOURCES = {
    "equivariance_error": """
def equivariance_error(f, x, g, rho=None):
    y = f(x)
    if not y.any(): raise ValueError("zero")
    wanted = y if rho is None else rho(y)
    return (f(g(x)) - wanted).norm() / y.norm()
""",
    "orbit_consistency": """
def orbit_consistency(f, x, gs):
    first = f(x).argmax(1)
    same = torch.stack([f(g(x)).argmax(1) == first for g in gs])
    return same.all(0).double().mean().item()
""",
    "local_equivariance_error": """
def local_equivariance_error(f, x, flow, back=None):
    def path(t):
        y = f(flow(x, t))
        return y if back is None else back(y, -t)
    zero = torch.zeros((), dtype=x.dtype)
    lie = torch.func.jvp(path, (zero,), (zero + 1,))[1]
    return (lie**2).mean()
""",
    "culprit": """
def culprit(errors, tolerance=1e-4):
    for name, before, after in errors:
        if after - before > tolerance:
            return name
    return None
""",
}


def edited(task, old, new):
    assert old in SOURCES[task]
    scope = {"torch": torch, "np": np}
    exec(SOURCES[task].replace(old, new), scope)
    return scope[task]


def error(old, new):
    return edited("equivariance_error", old, new)


def orbit(old, new):
    return edited("orbit_consistency", old, new)


def lie(old, new):
    return edited("local_equivariance_error", old, new)


def jump(old, new):
    return edited("culprit", old, new)


# What students write by mistake: each must lose points.
MUTANTS = {
    "equivariance_error": {
        "output transform forgotten": error("wanted = y if rho is None else rho(y)", "wanted = y"),
        "moved output transformed instead": error(
            "(f(g(x)) - wanted)", "((f(g(x)) if rho is None else rho(f(g(x)))) - y)"
        ),
        "transforms the output by g": error("rho(y)", "g(y)"),
        "always transforms the output by g": error("wanted = y if rho is None else rho(y)", "wanted = g(y)"),
        "not relative": error(" / y.norm()", ""),
        "relative to the moved output": error("/ y.norm()", "/ f(g(x)).norm()"),
        "relative to the wanted output": error("/ y.norm()", "/ wanted.norm()"),
        "relative to the input": error("/ y.norm()", "/ x.norm()"),
        "relative to the sum": error("/ y.norm()", "/ (y.norm() + wanted.norm())"),
        "squared": error(".norm() / y.norm()", ".norm() ** 2 / y.norm() ** 2"),
        "mean of ratios": error(
            "(f(g(x)) - wanted).norm() / y.norm()",
            "((f(g(x)) - wanted).flatten(1).norm(dim=1) / y.flatten(1).norm(dim=1)).mean()",
        ),
        "absolute values": error(".norm() / y.norm()", ".abs().sum() / y.abs().sum()"),
        "largest entry": error(".norm() / y.norm()", ".abs().max() / y.abs().max()"),
        "difference of norms": error("(f(g(x)) - wanted).norm()", "(f(g(x)).norm() - wanted.norm()).abs()"),
        "detached": error(
            "return (f(g(x)) - wanted).norm()", "return 0 * y.sum() + (f(g(x)) - wanted).detach().norm()"
        ),
        "zero let through": error('raise ValueError("zero")', "pass"),
        "zero called equivariant": error('raise ValueError("zero")', "return y.sum()"),
        "guarded by a small number": error("/ y.norm()", "/ (y.norm() + 1e-3)"),
        "zero of the sum": error("not y.any()", "y.sum() == 0"),
        "zero of one image": error("not y.any()", "not all(one.any() for one in y)"),
        "small taken for zero": error("not y.any()", "y.norm() < 1e-6"),
        "zero looked for after g": error("not y.any()", "not f(g(x)).any()"),
        "f after g forgotten": error("f(g(x))", "g(x) * 0 + f(x)"),
    },
    "orbit_consistency": {
        "mean agreement": orbit("same.all(0).double()", "same.double()"),
        "one agreement is enough": orbit("same.all(0)", "same.any(0)"),
        "majority": orbit("same.all(0)", "(same.double().mean(0) > 0.5)"),
        "image itself left out": orbit("first = f(x).argmax(1)", "first = f(gs[0](x)).argmax(1)"),
        "last element only": orbit("same.all(0)", "same[-1]"),
        "first element only": orbit("same.all(0)", "same[0]"),
        "all images at once": orbit("same.all(0)", "same.all()"),
        "scores compared": orbit("f(g(x)).argmax(1) == first", "(f(g(x)) - f(x)).abs().amax(1) < 1e-3"),
        "count, not share": orbit(".mean()", ".sum()"),
        "share that changes": orbit("same.all(0).double()", "(~same.all(0)).double()"),
        "argmin": orbit("f(g(x)).argmax(1) == first", "f(g(x)).argmin(1) == f(x).argmin(1)"),
        "worst element": orbit("same.all(0).double().mean()", "same.double().mean(1).min()"),
        "transforms composed": orbit("for g in gs", "for g in [lambda x: gs[0](gs[-1](x))]"),
        "mean of the classes": orbit(
            "same.all(0)", "(torch.stack([f(g(x)).argmax(1) for g in gs]).double().mean(0) == first)"
        ),
        "mean class": orbit(
            "f(g(x)).argmax(1) == first", "torch.stack([f(h(x)) for h in gs]).mean(0).argmax(1) == first"
        ),
    },
    "local_equivariance_error": {
        "not squared": lie("(lie**2).mean()", "lie.abs().mean()"),
        "square of the mean": lie("(lie**2).mean()", "lie.mean() ** 2"),
        "root": lie("(lie**2).mean()", "(lie**2).mean().sqrt()"),
        "sum over outputs": lie("(lie**2).mean()", "(lie**2).flatten(1).sum(1).mean()"),
        "sum over images": lie("(lie**2).mean()", "(lie**2).sum() / lie[0].numel()"),
        "with a half": lie("(lie**2).mean()", "(lie**2).mean() / 2"),
        "output not taken back": lie("back(y, -t)", "y"),
        "output moved on": lie("back(y, -t)", "back(y, t)"),
        "output taken back along the input": lie("back(y, -t)", "flow(y, -t)"),
        "input moved backwards": lie("flow(x, t)", "flow(x, -t)"),
        "derivative at one": lie("(zero,), (zero + 1,)", "(zero + 1,), (zero + 1,)"),
        "forward difference": lie(
            "torch.func.jvp(path, (zero,), (zero + 1,))[1]", "(path(zero + 1e-3) - path(zero)) / 1e-3"
        ),
        "central difference": lie(
            "torch.func.jvp(path, (zero,), (zero + 1,))[1]", "(path(zero + 0.01) - path(zero - 0.01)) / 0.02"
        ),
        "difference not divided": lie(
            "torch.func.jvp(path, (zero,), (zero + 1,))[1]", "path(zero + 0.01) - path(zero)"
        ),
        "detached": lie("(lie**2)", "(lie.detach()**2 + 0 * lie)"),
        "relative": lie("(lie**2).mean()", "(lie**2).mean() / (f(x)**2).mean()"),
        "flow twice": lie("f(flow(x, t))", "f(flow(flow(x, t), t))"),
        "derivative of the sum": lie("(lie**2).mean()", "lie.sum() ** 2 / lie.numel()"),
    },
    "culprit": {
        "largest jump": lambda errors, t=1e-4: max([(a - b, n) for n, b, a in errors if a - b > t], default=(0, None))[
            1
        ],
        "any error after": jump("after - before > tolerance", "after > tolerance"),
        "changes either way": jump("after - before > tolerance", "abs(after - before) > tolerance"),
        "at least the tolerance": jump("> tolerance", ">= tolerance"),
        "falls": jump("after - before > tolerance", "before - after > tolerance"),
        "last jump": jump("in errors", "in errors[::-1]"),
        "tolerance fixed": jump("> tolerance", "> 1e-4"),
        "tolerance ignored": jump("> tolerance", "> 0"),
        "previous layer's after": lambda errors, t=1e-4: next(
            (n for (n, _, a), (_, _, p) in zip(errors, [("", 0, 0.0), *errors], strict=False) if a - p > t), None
        ),
        "doubles": jump("after - before > tolerance", "after > 2 * before + tolerance"),
        "clean input only": jump("after - before > tolerance", "before <= tolerance < after"),
        "index for name": lambda errors, t=1e-4: next((i for i, (_, b, a) in enumerate(errors) if a - b > t), None),
        "layer before": lambda errors, t=1e-4: next(
            (errors[max(i - 1, 0)][0] for i, (_, b, a) in enumerate(errors) if a - b > t), None
        ),
        "last layer if none": jump("return None", "return name"),
        "empty text if none": jump("return None", "return ''"),
        "rounded to float32": jump("after - before > tolerance", "np.float32(after) - np.float32(before) > tolerance"),
        "sum of jumps": lambda errors, t=1e-4: next(
            (n for i, (n, _, _) in enumerate(errors) if sum(max(a - b, 0) for _, b, a in errors[: i + 1]) > t), None
        ),
    },
}


def error_by_lists(f, x, g, rho=None):
    y, moved = f(x), f(g(x))
    if (y == 0).all():
        raise ValueError("zero everywhere")
    expected = y if rho is None else rho(y)
    squares = [((a - b) ** 2).sum() for a, b in zip(moved, expected, strict=True)]
    return (sum(squares) / sum((row**2).sum() for row in y)).sqrt()


def error_by_means(f, x, g, rho=None):
    y = f(x)
    require_nonzero(output=y)
    moved, expected = f(g(x)).flatten(), (y if rho is None else rho(y)).flatten()
    return torch.nn.functional.mse_loss(moved, expected).sqrt() / y.square().mean().sqrt()


def error_one_image_at_a_time(f, x, g, rho=None):
    y, moved = (torch.cat([f(one) for one in batch.split(1)]) for batch in (x, g(x)))
    if not y.any():
        raise ValueError("zero")
    return (moved - (y if rho is None else rho(y))).norm() / y.norm()


def consistency_by_sets(f, x, gs):
    classes = [f(h(x)).max(dim=1).indices.tolist() for h in (lambda x: x, *gs)]
    return sum(len(set(one)) == 1 for one in zip(*classes, strict=True)) / len(x)


def consistency_by_extremes(f, x, gs):
    classes = torch.stack([f(x).argmax(1), *(f(g(x)).argmax(1) for g in gs)])
    return (classes.amax(0) == classes.amin(0)).float().mean()


def path_of(f, x, flow, back):
    return lambda t: f(flow(x, t)) if back is None else back(f(flow(x, t)), -t)


def lie_by_double_vjp(f, x, flow, back=None):
    t = torch.zeros((), dtype=x.dtype, requires_grad=True)
    y = path_of(f, x, flow, back)(t)
    if not y.requires_grad:
        return torch.zeros((), dtype=x.dtype)
    dummy = torch.zeros_like(y, requires_grad=True)
    (pulled,) = torch.autograd.grad(y, t, dummy, create_graph=True)
    (derivative,) = torch.autograd.grad(pulled, dummy, create_graph=True)
    return derivative.pow(2).mean()


def lie_by_jacobian(f, x, flow, back=None):
    jacobian = torch.autograd.functional.jacobian
    zero = torch.zeros((), dtype=x.dtype)
    return jacobian(path_of(f, x, flow, back), zero, create_graph=True).square().flatten().mean()


def lie_by_one_image_at_a_time(f, x, flow, back=None):
    zero = torch.zeros((), dtype=x.dtype)
    moves = [torch.func.jacfwd(path_of(f, one[None], flow, back))(zero) for one in x]
    return sum(move.pow(2).sum() / move.numel() for move in moves) / len(x)


def culprit_by_numpy(errors, tolerance=1e-4):
    names, before, after = zip(*errors, strict=True)
    jumps = np.flatnonzero(np.array(after) > np.array(before) + tolerance)
    return names[jumps[0]] if len(jumps) else None


# Right by another way: each must keep every point.
def culprit_by_tensors(errors, tolerance=1e-4):
    """Infinity less infinity is NaN, which exceeds nothing."""
    rises = torch.tensor([pair for _, *pair in errors], dtype=torch.float64).diff(dim=1)[:, 0] > tolerance
    return errors[int(rises.int().argmax())][0] if rises.any() else None


ALTERNATIVES = {
    "equivariance_error": {
        "image by image": error_by_lists,
        "root of the mean squares": error_by_means,
        "f asked for one image at a time": error_one_image_at_a_time,
    },
    "orbit_consistency": {
        "sets of classes": consistency_by_sets,
        "smallest class is largest": consistency_by_extremes,
    },
    "local_equivariance_error": {
        "double vjp": lie_by_double_vjp,
        "jacobian": lie_by_jacobian,
        "forward, image by image": lie_by_one_image_at_a_time,
    },
    "culprit": {
        "numpy": culprit_by_numpy,
        "float64 tensors": culprit_by_tensors,
        "filtered list": lambda errors, t=1e-4: ([name for name, b, a in errors if a > b + t] or [None])[0],
    },
}

X = digits().test.x[:24]


def turn(x):
    return x.rot90(1, (-2, -1))


def roll(x):
    return x.roll(1, -1)


# --- the classic culprits, each with its fix beside it ------------------------------------------------------------


class DensePool(nn.MaxPool2d):
    """Max pooling of stride 1 whose windows reach around the edge."""

    def __init__(self):
        super().__init__(2, stride=1)

    def forward(self, x):
        return super().forward(pad(x, (0, 1, 0, 1), mode="circular"))


def circular(a, b, **options):
    return nn.Conv2d(a, b, 3, padding=1, padding_mode="circular", **options)


def seven(x):
    return x[..., :7, :7]


def half_a_radian(x):
    return rotate(x, torch.full((len(x),), 0.5).to(x))


F4 = FourfoldConv2d
# name: (layers, transform, images, where, the cause, and layers, transform, images that mend it)
CASES = {
    "stride 2 on an even size, quarter turn": (
        lambda: [F4(1, 4, 3, padding=1), nn.ReLU(), F4(4, 4, 3, stride=2, padding=1)],
        turn, X, "2 FourfoldConv2d", "Stride 2 does not fit an 8×8 map.*On 7×7",
        lambda: [F4(1, 4, 3, padding=1), nn.ReLU(), F4(4, 4, 3, stride=2, padding=1)], turn, seven(X),
    ),
    "zero padding, shift": (
        lambda: [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)],
        roll, X, "0 Conv2d", "Zeros come in.*circular padding",
        lambda: [circular(1, 4), nn.ReLU(), circular(4, 4)], roll, X,
    ),
    "no padding, shift": (
        lambda: [circular(1, 4), nn.Conv2d(4, 4, 3)],
        roll, X, "1 Conv2d", "No window reaches over the edge.*circular",
        lambda: [circular(1, 4), circular(4, 4)], roll, X,
    ),
    "even kernel, quarter turn": (
        lambda: [F4(1, 4, 3, padding="same"), F4(4, 4, 4, padding="same")],
        turn, X, "1 FourfoldConv2d", "even kernel.*alike on both sides",
        lambda: [F4(1, 4, 3, padding="same"), F4(4, 4, 5, padding="same")], turn, X,
    ),
    "interpolation": (
        lambda: [F4(1, 4, 3, padding=1), nn.ReLU()],
        half_a_radian, X, "the transform", "interpolates",
        lambda: [F4(1, 4, 3, padding=1), nn.ReLU()], turn, X,
    ),
    "shift that loses pixels": (
        lambda: [circular(1, 4)],
        lambda x: pad(x[..., :-1], (1, 0)), X + 0.1, "the transform", "loses pixels",
        lambda: [circular(1, 4)], roll, X + 0.1,
    ),
    "max pool, shift by one": (
        lambda: [circular(1, 4), nn.ReLU(), nn.MaxPool2d(2)],
        roll, X, "2 MaxPool2d", "keeps one position in 2.*stride 1 and circular",
        lambda: [circular(1, 4), nn.ReLU(), DensePool(), blur_pool(4, stride=1)], roll, X,
    ),
    "max pool on an odd size, quarter turn": (
        lambda: [F4(1, 4, 3, padding=1), nn.MaxPool2d(2)],
        turn, seven(X), "1 MaxPool2d", "does not fit a 7×7 map.*On 6×6",
        lambda: [F4(1, 4, 3, padding=1), nn.MaxPool2d(2)], turn, X,
    ),
    "max pool of 3 on an even size, quarter turn": (
        lambda: [F4(1, 4, 3, padding=1), nn.MaxPool2d(3, 2, 1)],
        turn, X, "1 MaxPool2d", "does not fit an 8×8 map",
        lambda: [F4(1, 4, 3, padding=1), nn.MaxPool2d(3, 2, 1)], turn, seven(X),
    ),
    "ordinary filters, quarter turn": (
        lambda: [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU()],
        turn, X, "0 Conv2d", "has a direction",
        lambda: [F4(1, 4, 3, padding=1), nn.ReLU()], turn, X,
    ),
    "flattening, quarter turn": (
        lambda: [F4(1, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(144, 10)],
        turn, X, "2 Flatten", "keeps positions",
        lambda: [F4(1, 4, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)], turn, X,
    ),
    "strided convolution, shift by one": (
        lambda: [circular(1, 4), circular(4, 4, stride=2)],
        roll, X, "1 Conv2d", "keeps one position in 2.*With stride 1",
        lambda: [circular(1, 4), circular(4, 4)], roll, X,
    ),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_the_culprit_is_named_and_its_fix_clears_it(case, dtype):
    layers, transform, x, where, cause, mended, other_transform, other_x = CASES[case]
    for seed in range(3):
        torch.manual_seed(seed)
        found = diagnose(nn.Sequential(*layers()).to(dtype), transform, x.to(dtype))
        assert found.culprit is not None and found.culprit.label == where, found
        assert found.culprit.adds > 0.01 and found.culprit in found.suspects
        assert re.search(cause, found.culprit.cause), found.culprit.cause
        assert where in found.verdict and where in repr(found)
        found = diagnose(nn.Sequential(*mended()).to(dtype), other_transform, other_x.to(dtype))
        assert found.culprit is None and not found.constant and found.output_error < 1e-5, found


def test_a_shift_by_a_share_of_the_width_means_the_same_on_every_map():
    torch.manual_seed(0)
    net = nn.Sequential(circular(1, 4), nn.ReLU(), nn.MaxPool2d(2), circular(4, 4))
    assert diagnose(net, lambda x: x.roll(x.shape[-1] // 4, -1), X).culprit is None
    assert diagnose(net, lambda x: x.roll(2, -1), X).culprit.label == "2 MaxPool2d"  # 2 pixels are 1 after the pool


class Handmade(nn.Module):
    """What people write: functions in forward, a shared activation, a shortcut."""

    def __init__(self, flatten=False, pool=True):
        super().__init__()
        self.first, self.second, self.short = F4(1, 4, 3, padding=1), F4(4, 4, 3, padding=1), F4(1, 4, 1)
        self.relu, self.drop = nn.ReLU(inplace=True), nn.Dropout(0.5)
        self.head = nn.Linear((49 if pool else 64) * 4 if flatten else 4, 3)
        self.flatten, self.pool = flatten, pool

    def forward(self, x):
        h = self.relu(self.second(self.relu(self.first(x))) + self.short(x))
        h = nn.functional.max_pool2d(h, 2, stride=2, padding=0)[..., :4, :4] if self.pool else h
        h = self.drop(h)
        return self.head(h.flatten(1) if self.flatten else h.mean((-2, -1)))


def test_functions_in_forward_get_a_row_where_they_add_an_error():
    torch.manual_seed(0)
    assert diagnose(Handmade(), turn, X).culprit is None
    assert diagnose(Handmade(), turn, seven(X)).culprit.name == "code before drop"  # pooling 7×7 by a function
    found = diagnose(Handmade(flatten=True, pool=False), turn, X)
    assert found.culprit.name == "code before head" and "outside every layer" in found.culprit.cause
    assert [layer.name for layer in found.layers if layer.kind == "ReLU"] == ["relu", "relu (call 2)"]


def test_code_after_the_last_layer_is_found():
    class Corner(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = F4(1, 2, 3, padding=1)

        def forward(self, x):
            return self.conv(x)[..., 0, 0]

    torch.manual_seed(0)
    found = diagnose(Corner(), turn, X)
    assert found.culprit.name == "code before output" and "at the end of forward" in found.culprit.cause


def test_padding_that_the_next_layer_takes_back_is_not_blamed():
    torch.manual_seed(0)
    pooled = [nn.CircularPad2d((0, 1, 0, 1)), nn.MaxPool2d(2, 1)]
    assert diagnose(nn.Sequential(circular(1, 4), *pooled), roll, X).culprit is None
    found = diagnose(nn.Sequential(circular(1, 4), *pooled, nn.MaxPool2d(2)), roll, X)
    assert found.culprit.label == "3 MaxPool2d"


def test_a_model_is_left_as_it_was():
    torch.manual_seed(0)
    net = nn.Sequential(F4(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
    net[1].eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    x = X.clone()
    diagnose(net, turn, x)
    assert [module.training for module in net.modules()] == [True, True, False, True]
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    assert torch.equal(x, X)


def test_a_constant_is_not_called_invariant():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 3))
    net[2].weight.data.zero_()
    found = diagnose(net, turn, X)
    assert found.constant and "A constant is invariant" in found.verdict
    assert not diagnose(net, turn, X[:1]).constant  # of one image nothing can be said


def test_shapes_that_cannot_match_are_explained():
    torch.manual_seed(0)
    found = diagnose(nn.Sequential(F4(1, 2, 3, padding=1), nn.Conv2d(2, 2, (3, 1)), nn.ReLU()), turn, X)
    assert found.culprit.label == "1 Conv2d" and math.isinf(found.culprit.adds)
    assert "6×8" in found.verdict and "shapes that cannot be compared" in found.verdict
    assert "shapes differ" in repr(found)


def test_images_that_are_not_square_can_still_be_turned():
    torch.manual_seed(0)
    assert diagnose(nn.Sequential(F4(1, 2, 3, padding=1), nn.ReLU()), turn, X[..., :6]).culprit is None


def test_tuples_keywords_and_parametrized_layers():
    class Inner(nn.Module):
        def forward(self, x, *, scale):
            return {"out": (x * scale, None)}

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.inner = nn.utils.parametrizations.weight_norm(F4(1, 2, 3)), Inner()

        def forward(self, x):
            return [self.inner(self.conv(x), scale=torch.ones(2, 1, 1))["out"][0]]

    torch.manual_seed(0)
    found = diagnose(Outer(), turn, X)
    assert [layer.name for layer in found.layers] == ["the transform", "conv", "inner"] and found.culprit is None


def test_a_group_axis_may_be_moved_by_the_transform():
    def turn_and_roll(x):
        return x.roll(1, 2).rot90(1, (-2, -1)) if x.ndim == 5 else turn(x)

    class Lift(nn.Conv2d):
        def forward(self, x):
            return torch.stack([nn.functional.conv2d(x, self.weight.rot90(k, (-2, -1))) for k in range(4)], dim=2)

    torch.manual_seed(0)
    net = nn.Sequential(Lift(1, 3, 3), nn.ReLU())
    assert diagnose(net, turn_and_roll, X).culprit is None
    assert diagnose(net, turn, X).culprit.label == "0 Lift"


# --- escnn: its nets as a case, its own check as a peer -----------------------------------------------------------


@pytest.fixture(scope="module")
def quarter_turns(escnn):
    gspaces, steerable = escnn
    space = gspaces.rot2dOnR2(4)
    scalar = steerable.FieldType(space, [space.trivial_repr])
    fields = steerable.FieldType(space, 3 * [space.regular_repr])
    return space, steerable, scalar, fields


def steerable_net(quarter_turns, stride):
    space, steerable, scalar, fields = quarter_turns

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = steerable.SequentialModule(
                steerable.R2Conv(scalar, fields, 3, padding=1),
                steerable.InnerBatchNorm(fields),
                steerable.ReLU(fields, inplace=True),
                steerable.R2Conv(fields, fields, 3, padding=1, stride=stride),
                steerable.ReLU(fields),
                steerable.GroupPooling(fields),
            )
            self.head = nn.Linear(3, 10)

        def forward(self, x):
            return self.head(self.body(steerable.GeometricTensor(x, scalar)).tensor.mean((-2, -1)))

    torch.manual_seed(0)
    return Net(), space.fibergroup.element(1)


def test_the_culprit_in_an_escnn_net_is_its_stride_on_an_even_size(quarter_turns):
    net, quarter = steerable_net(quarter_turns, stride=2)
    found = diagnose(net, turn, X, element=quarter)
    assert found.culprit.label == "body.3 R2Conv" and "On 7×7 the error vanishes" in found.culprit.cause
    assert [layer.label for layer in found.suspects] == ["body.3 R2Conv"]
    assert diagnose(net, turn, seven(X), element=quarter).culprit is None
    assert diagnose(steerable_net(quarter_turns, stride=1)[0], turn, X, element=quarter).culprit is None
    assert net.training and not hasattr(net.body[0], "filter")  # not left as evaluation mode caches it


def test_a_geometric_tensor_goes_in_and_a_wrong_element_comes_out(quarter_turns):
    space, steerable, scalar, _ = quarter_turns
    net, quarter = steerable_net(quarter_turns, stride=1)
    x = steerable.GeometricTensor(X, scalar)
    assert diagnose(net.body, turn, x, element=quarter).culprit is None
    body = steerable.SequentialModule(*list(net.body.children())[:5])  # without the pooling over the group
    assert diagnose(body, turn, x, element=quarter).culprit is None
    assert diagnose(body, turn, x, element=space.fibergroup.element(2)).culprit.label == "0 R2Conv"
    with pytest.raises(ValueError, match="wanted element=..., got None"):
        diagnose(net.body, turn, x)


def test_errors_agree_with_escnns_own_transform(quarter_turns):
    space, steerable, scalar, fields = quarter_turns
    net, quarter = steerable_net(quarter_turns, stride=2)
    net.eval()
    with torch.no_grad():
        x = steerable.GeometricTensor(X, scalar)
        still, moved = net.body(x), net.body(x.transform(quarter))
        theirs = (moved.tensor - still.transform(quarter).tensor).norm() / still.tensor.norm()
    ours = diagnose(net.body, turn, x, element=quarter).output_error
    assert ours == pytest.approx(theirs.item(), rel=1e-5)
    plain = library.equivariance_error(
        lambda images: net.body(steerable.GeometricTensor(images, scalar)).tensor, X, turn, turn
    )
    assert plain.item() == pytest.approx(ours, rel=1e-5)


# --- peers and closed forms ---------------------------------------------------------------------------------------


def test_an_orthogonal_matrix_against_a_closed_form():
    """For f = A and g = B, both linear, on a basis: ‖AB − BA‖ / ‖A‖ in the Frobenius norm."""
    torch.manual_seed(0)
    a, b = torch.randn(2, 5, 5, dtype=torch.float64)
    basis = torch.eye(5, dtype=torch.float64)
    ours = library.equivariance_error(lambda x: x @ a.T, basis, lambda x: x @ b.T, lambda y: y @ b.T)
    wanted = np.linalg.norm(a.numpy() @ b.numpy() - b.numpy() @ a.numpy()) / np.linalg.norm(a.numpy())
    assert ours.item() == pytest.approx(wanted, rel=1e-12)


def test_circular_convolution_commutes_with_torch_roll_and_not_with_rot90():
    torch.manual_seed(0)
    conv = circular(1, 3).double()
    x = X.double()
    for by, axis in itertools.product((1, 3), (-1, -2)):
        moved = functools.partial(torch.roll, shifts=by, dims=axis)
        assert library.equivariance_error(conv, x, moved, moved) < 1e-15
    assert library.equivariance_error(conv, x, turn, turn) > 0.1


def test_consistency_of_quarter_turns_against_rot90_by_hand():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    classes = [net(torch.tensor(np.rot90(X.numpy(), k, (-2, -1)).copy())).argmax(1) for k in range(4)]
    wanted = sum(len({int(c[i]) for c in classes}) == 1 for i in range(len(X))) / len(X)
    assert library.orbit_consistency(net, X, [lambda x, k=k: x.rot90(k, (-2, -1)) for k in (1, 2, 3)]) == wanted


@pytest.mark.parametrize("size", [8, 9])
def test_spectral_shift_is_torch_roll_for_whole_pixels(size):
    x = torch.randn(2, 3, size, size + 2, dtype=torch.float64)
    moved = library.spectral_shift(x, torch.tensor(3.0), torch.tensor(-2.0))
    torch.testing.assert_close(moved, x.roll((3, -2), (-1, -2)), rtol=1e-12, atol=1e-12)


def band_limited(size=9, cutoff=3, seed=0):
    """Random images without waves above a frequency, and centred under a soft window."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(4, 1, size, size, dtype=torch.float64, generator=generator)
    frequency = torch.fft.fftfreq(size).abs() * size
    keep = (frequency[:, None] <= cutoff) & (frequency <= cutoff)
    return torch.fft.ifft2(torch.fft.fft2(x) * keep).real


def test_spectral_shifts_compose_and_undo():
    x, half = band_limited(), torch.tensor(0.5, dtype=torch.float64)
    there = library.spectral_shift(x, half, -half)
    torch.testing.assert_close(library.spectral_shift(there, -half, half), x, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        library.spectral_shift(there, half, -half), x.roll((1, -1), (-1, -2)), rtol=0, atol=1e-12
    )


def test_spectral_rotation_turns_as_the_rotations_of_data_and_kornia_do():
    kornia = pytest.importorskip("kornia")
    rows = torch.arange(31.0) - 15
    blob = torch.exp(-((rows[:, None] + 4) ** 2 + (rows - 5) ** 2) / 12)[None, None]  # above, and right of the centre
    angle = torch.tensor(0.4)
    ours = library.spectral_rotation(blob, angle)
    peers = rotate(blob, angle[None]), kornia.geometry.transform.rotate(blob, angle[None].rad2deg())
    for theirs in peers:
        assert (ours - theirs).norm() / blob.norm() < 0.03
    assert (library.spectral_rotation(blob, -angle) - peers[0]).norm() / blob.norm() > 1


def test_derivative_of_the_rotation_is_the_tangent_of_a_gaussian():
    """d/dφ of a blob at p is −∇·(turned p): closed form, in float64."""
    rows = torch.arange(25.0, dtype=torch.float64) - 12
    down, right = rows[:, None], rows
    blob = torch.exp(-((down + 2) ** 2 + (right - 3) ** 2) / 8)[None, None]
    # A point (right, down) from the centre moves along (down, −right): counter-clockwise, with rows counted downwards.
    slope_right, slope_down = -(right - 3) / 4 * blob, -(down + 2) / 4 * blob
    wanted = -(slope_right * down - slope_down * right)
    zero = torch.zeros((), dtype=torch.float64)
    _, tangent = torch.func.jvp(lambda t: library.spectral_rotation(blob, t), (zero,), (zero + 1,))
    assert (tangent - wanted).norm() / wanted.norm() < 1e-4
    lee = library.local_equivariance_error(lambda x: x, blob, library.spectral_rotation)
    assert lee.item() == pytest.approx(wanted.square().mean().item(), rel=1e-3)


def test_lie_derivative_against_a_finite_difference_of_a_network():
    torch.manual_seed(0)
    net = nn.Sequential(circular(1, 4), nn.Tanh(), nn.Flatten(), nn.Linear(256, 3)).double()
    x, step = X.double(), torch.tensor(1e-5, dtype=torch.float64)
    difference = (net(library.spectral_rotation(x, step)) - net(library.spectral_rotation(x, -step))) / (2 * step)
    ours = library.local_equivariance_error(net, x, library.spectral_rotation)
    assert ours.item() == pytest.approx(difference.square().mean().item(), rel=1e-7)
    assert torch.autograd.gradcheck(
        lambda w: library.local_equivariance_error(
            lambda x: torch.tanh(x.flatten(1) @ w), x[:3], library.spectral_rotation
        ),
        torch.randn(64, 2, dtype=torch.float64, requires_grad=True),
    )


def test_what_the_lie_derivative_cannot_see():
    """A smooth function that is exactly invariant to shifts and tells every image from its mirror image."""

    def twist(x):
        ahead = library.spectral_shift(x, torch.tensor(1.0, dtype=x.dtype))
        return (x**2 * ahead - x * ahead**2).mean((1, 2, 3))[:, None]

    x = band_limited(size=9, cutoff=2)
    assert library.local_equivariance_error(twist, x, library.spectral_shift) < 1e-24
    assert library.equivariance_error(twist, x, lambda t: t.flip(-1)) == pytest.approx(2.0, rel=1e-9)


def test_an_exactly_equivariant_network_has_a_lie_derivative_that_grows_with_bandwidth():
    torch.manual_seed(0)
    net = nn.Sequential(circular(1, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).double()
    found = []
    for cutoff in (1, 4):
        x = band_limited(cutoff=cutoff)
        x = x / x.norm()
        assert library.equivariance_error(net, x, lambda t: t.roll((2, 3), (-1, -2))) < 1e-14
        found.append(library.local_equivariance_error(net, x, library.spectral_shift).item())
    assert found[1] > 5 * found[0] > 0


def test_blur_pool_is_kornias():
    kornia = pytest.importorskip("kornia")
    x = torch.randn(2, 3, 9, 9)
    ours = blur_pool(3, stride=1)(x)[..., 1:-1, 1:-1]
    kernel = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
    torch.testing.assert_close(ours, kornia.filters.filter2d(x, kernel[None], border_type="circular")[..., 1:-1, 1:-1])
    assert not any(weight.requires_grad for weight in blur_pool(3).parameters())


# --- every device that is here ------------------------------------------------------------------------------------


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_on_cuda():
    torch.manual_seed(0)
    net = nn.Sequential(F4(1, 4, 3, padding=1), nn.ReLU(), F4(4, 4, 3, stride=2, padding=1)).cuda()
    x = X.cuda()
    assert diagnose(net, turn, x).culprit.label == "2 FourfoldConv2d"
    assert library.equivariance_error(net, x, turn, turn).is_cuda
    assert library.local_equivariance_error(net, x, library.spectral_rotation).is_cuda
    assert 0 <= library.orbit_consistency(lambda t: net(t).mean((-2, -1)), x, [turn]) <= 1


# --- bad input ----------------------------------------------------------------------------------------------------

NET = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 6 * 6, 3))
BAD = {
    "empty batch": (lambda: library.equivariance_error(torch.tanh, X[:0], turn), "at least 1 of each"),
    "integers": (lambda: library.equivariance_error(torch.abs, X.long(), turn), "x must be floating point"),
    "NaN": (lambda: library.equivariance_error(torch.tanh, X * torch.nan, turn), "x must be finite"),
    "a number": (
        lambda: library.equivariance_error(torch.tanh, torch.tensor(1.0), turn),
        "x must have the sizes.*at least 1 dimension",
    ),
    "not a tensor": (lambda: library.equivariance_error(abs, [1.0], turn), "x must be a tensor"),
    "zero output": (lambda: library.equivariance_error(lambda x: 0 * x, X, turn), "output must not be zero"),
    "NaN output": (lambda: library.equivariance_error(lambda x: x.log() - x.log(), X, turn), "output must be finite"),
    "no orbit": (lambda: library.orbit_consistency(NET, X, []), "transforms must not be empty"),
    "one transform": (lambda: library.orbit_consistency(NET, X, turn), "transforms must have a length"),
    "empty orbit batch": (lambda: library.orbit_consistency(NET, X[:0], [turn]), "at least 1 of each"),
    "empty lie batch": (
        lambda: library.local_equivariance_error(NET, X[:0], library.spectral_shift),
        "at least 1 of each",
    ),
    "integers for lie": (lambda: library.local_equivariance_error(NET, X.int(), library.spectral_shift), "floating"),
    "no layers": (lambda: library.culprit([]), "errors must not be empty"),
    "NaN error": (lambda: library.culprit([("a", 0.0, math.nan)]), "without NaN"),
    "tensor error": (lambda: library.culprit([("a", 0.0, torch.ones(()))]), r"int or float, got Tensor"),
    "no tolerance": (lambda: library.culprit([("a", 0.0, 0.0)], 0.0), "tolerance must be positive"),
    "negative tolerance": (lambda: diagnose(NET, turn, X, tolerance=-1.0), "tolerance must be"),
    "no sweep": (lambda: library.accuracy_sweep(NET, digits().test, []), "transforms must not be empty"),
    "one image": (lambda: diagnose(NET, turn, X[0]), r"\(n, channels, ..., height, width\).*got \(1, 8, 8\)"),
    "one row to shift": (
        lambda: library.spectral_shift(X[0, 0], torch.tensor(1.0)),
        "x must have the sizes.*at least 4 dimensions",
    ),
    "one row to turn": (
        lambda: library.spectral_rotation(X[0, 0], torch.tensor(1.0)),
        "x must have the sizes.*at least 4 dimensions",
    ),
    "no channels to blur": (lambda: blur_pool(0), "channels must be a positive integer"),
    "empty diagnosis": (lambda: diagnose(NET, turn, X[:0]), "at least 1 of each"),
    "transform returns no tensor": (lambda: diagnose(NET, lambda x: None, X), "got NoneType"),
    "transform drops pixels": (
        lambda: diagnose(NET, lambda x: x[..., 1:], X),
        "keep examples, channels and the number",
    ),
    "transform drops images": (lambda: diagnose(NET, lambda x: x[1:], X), "keep examples"),
    "a turn of a strip": (
        lambda: diagnose(
            nn.Sequential(nn.Conv2d(1, 2, (5, 3)), nn.Flatten(), nn.Linear(2 * 4 * 4, 3)), turn, X[..., :6]
        ),
        r"the model must take the transformed images.*\(24, 1, 6, 8\) for \(24, 1, 8, 6\)",
    ),
    "layers that depend on values": (lambda: diagnose(Fickle(), turn, X), "the same layers must run on both inputs"),
    "NaN in a layer": (lambda: diagnose(nn.Sequential(Log()), turn, X - 1), "outputs of every layer must be finite"),
}


class Fickle(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Identity(), nn.Identity()

    def forward(self, x):
        return self.a(x) if x[0, 0, 1, 2] > x[0, 0, 5, 1] else self.b(x)


class Log(nn.Module):
    def forward(self, x):
        return x.log()


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_explained(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call()


def test_a_batch_of_one_is_a_batch():
    assert library.equivariance_error(torch.tanh, X[:1], turn, turn) == 0
    assert library.orbit_consistency(lambda x: x.flatten(1), X[:1], [lambda x: x]) == 1
    assert diagnose(NET, turn, X[:1]).culprit.label == "0 Conv2d"
    assert library.local_equivariance_error(lambda x: x, X[:1] * 0, library.spectral_shift) == 0
