"""group_convolution: wrong and right versions of each task, independent peers, closed forms, bad input."""

import copy
import io
import itertools
import math
import pickle
import shutil
import time

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_lib import group_convolution as library
from course_lib.data import digits
from course_lib.groups import act_on_grid, cyclic, dihedral, plane_matrices

LIFTED_BANK = """
def bank(weight, group):
    turned = []
    for g in range(group.order):
        turned.append(act_on_grid(weight, group, g))
    return torch.stack(turned, dim=1)
"""
LIFTING = """
def lifting(x, weight, group, stride=1, padding=0):
    outputs = []
    for g in range(group.order):
        outputs.append(F.conv2d(x, act_on_grid(weight, group, g), stride=stride, padding=padding))
    return torch.stack(outputs, dim=2)
"""
BANK = """
def bank(weight, group):
    rows = []
    for g in range(group.order):
        row = []
        for h in range(group.order):
            pose = group.table[group.inverse[g], h]
            row.append(act_on_grid(weight[:, :, pose], group, g))
        rows.append(torch.stack(row, dim=2))
    return torch.stack(rows, dim=1)
"""
CONVOLUTION = """
def convolution(x, weight, group, stride=1, padding=0):
    order = group.order
    rows = []
    for g in range(order):
        poses = group.table[group.inverse[g]]
        rows.append(act_on_grid(weight[:, :, poses], group, g))
    bank = torch.stack(rows, dim=1)
    y = F.conv2d(x.flatten(1, 2), bank.flatten(0, 1).flatten(1, 2), stride=stride, padding=padding)
    return y.unflatten(1, (len(weight), order))
"""
POOL = """
def pool(x, bias, average=False):
    active = (x + bias.reshape(1, -1, 1, 1, 1)).relu()
    return active.mean(2) if average else active.max(2).values
"""
TEST = """
def test(layer, x, group, tolerance=1e-4):
    def act(f, h):
        if f.ndim == 5:
            f = f[:, :, group.table[group.inverse[h]]]
        return act_on_grid(f, group, h)
    output = layer(x)
    for h in range(group.order):
        got, wanted = layer(act(x, h)), act(output, h)
        if got.shape != wanted.shape:
            return False
        if (got - wanted).norm() / output.norm() > tolerance:
            return False
    return True
"""


def edited(source, *changes):
    """The function in a source text, with the mistakes that pairs of old and new text make."""
    for old, new in zip(changes[::2], changes[1::2], strict=True):
        assert old in source, old
        source = source.replace(old, new)
    scope = {"torch": torch, "F": F, "act_on_grid": act_on_grid, "math": math}
    exec(source, scope)
    return scope[source.split("def ")[1].split("(")[0]]


def quarter_turns_only(function):
    """Takes every group for the turns of C4, as often as they fit."""

    def wrong(*inputs):
        *rest, group = inputs
        answer = function(*rest, group if group.turns == 4 and not group.mirrors else group)
        first = min(4, group.order)
        return torch.cat([answer[:, :first]] * math.ceil(group.order / first), dim=1)[:, : group.order]

    return wrong


def corners_cut(function):
    """Where turns interpolate, only the disc inside the square is kept."""

    def wrong(weight, group):
        places = torch.arange(weight.shape[-1]) - (weight.shape[-1] - 1) / 2
        disc = places[:, None] ** 2 + places**2 <= (weight.shape[-1] / 2) ** 2
        bank = function(weight, group)
        return bank if group.exact_on_grid else bank * disc

    return wrong


TURN = "act_on_grid(weight, group, g)"
# What students write by mistake: each must lose points.
MUTANTS = {
    "transform_filters": {
        "turned clockwise": edited(LIFTED_BANK, TURN, "act_on_grid(weight, group, int(group.inverse[g]))"),
        "mirror forgotten": edited(LIFTED_BANK, TURN, "act_on_grid(weight, group, g % group.turns)"),
        "mirrored after the turn": edited(
            LIFTED_BANK,
            TURN,
            "act_on_grid(weight, group, g % group.turns).flip([-1] * (g >= group.turns))",
        ),
        "mirrored up and down": edited(
            LIFTED_BANK, TURN, "act_on_grid(weight.flip((-1, -2)) if g >= group.turns else weight, group, g)"
        ),
        "only C4": quarter_turns_only(edited(LIFTED_BANK)),
        "quarter turns for every n": edited(LIFTED_BANK, TURN, "weight.rot90(g % 4, (-2, -1))"),
        "group axis first": edited(LIFTED_BANK, "dim=1", "dim=0"),
        "group axis behind in": edited(LIFTED_BANK, "dim=1", "dim=2"),
        "turns over the channels": edited(LIFTED_BANK, TURN, "weight.rot90(g, (-2, -1)).roll(g, 1)"),
        "identity only": edited(LIFTED_BANK, TURN, "weight"),
        "identity last": edited(LIFTED_BANK, "dim=1)", "dim=1).roll(-1, 1)"),
        "averaged over the group": edited(
            LIFTED_BANK, "torch.stack(turned, dim=1)", "torch.stack([sum(turned) / len(turned)] * len(turned), dim=1)"
        ),
        "detached": edited(LIFTED_BANK, TURN, "act_on_grid(weight.detach(), group, g)"),
        "always float32": edited(LIFTED_BANK, TURN, "act_on_grid(weight.float(), group, g)"),
        "in place": edited(LIFTED_BANK, "    turned = []", "    turned = []\n    weight.data.mul_(2)"),
        "turned again and again": edited(
            LIFTED_BANK,
            TURN,
            "(weight if g == 0 else act_on_grid(weight, group, g) if g == group.turns"
            " else act_on_grid(turned[-1], group, 1))",
        ),
        "norms restored": edited(
            LIFTED_BANK,
            TURN,
            f"{TURN} * (weight.norm(dim=(-2, -1), keepdim=True) / {TURN}.norm(dim=(-2, -1), keepdim=True))",
        ),
        "corners cut": corners_cut(edited(LIFTED_BANK)),
    },
    "lifting_convolution": {
        "turned clockwise": edited(LIFTING, TURN, "act_on_grid(weight, group, int(group.inverse[g]))"),
        "mirror forgotten": edited(LIFTING, TURN, "act_on_grid(weight, group, g % group.turns)"),
        "the image turned instead": edited(
            LIFTING, "F.conv2d(x, act_on_grid(weight, group, g)", "F.conv2d(x, act_on_grid(weight, group, 0 * g)"
        ),
        "output turned back": edited(
            LIFTING,
            "F.conv2d(x, act_on_grid(weight, group, g), stride=stride, padding=padding)",
            "F.conv2d(x, act_on_grid(weight, group, g), stride=stride, padding=padding).rot90(2 * g, (-2, -1))",
        ),
        "stride forgotten": edited(LIFTING, "stride=stride, ", ""),
        "padding forgotten": edited(LIFTING, ", padding=padding", ""),
        "quarter turns in proportion": edited(
            LIFTING,
            TURN,
            "(weight if g < group.turns else weight.flip(-1)).rot90(4 * g // group.turns, (-2, -1))",
        ),
        "same padding always": edited(LIFTING, "padding=padding)", "padding=weight.shape[-1] // 2)"),
        "group axis before the fields": edited(LIFTING, "dim=2", "dim=1"),
        "merged in the wrong order": edited(
            LIFTING, "torch.stack(outputs, dim=2)", "torch.cat(outputs, dim=1).unflatten(1, (len(weight), group.order))"
        ),
        "pooled at once": edited(
            LIFTING,
            "torch.stack(outputs, dim=2)",
            "torch.stack(outputs, dim=2).amax(2, keepdim=True).expand(-1, -1, group.order, -1, -1)",
        ),
        "convolved with flipped filters": edited(LIFTING, TURN, "act_on_grid(weight, group, g).flip((-1, -2))"),
        "only C4": lambda x, weight, group, stride=1, padding=0: edited(LIFTING)(x, weight, cyclic(4), stride, padding),
        "circular padding": lambda x, weight, group, stride=1, padding=0: edited(LIFTING)(
            F.pad(x, [padding] * 4, mode="circular"), weight, group, stride
        ),
        "first channel only": edited(
            LIFTING, "F.conv2d(x, " + TURN, "F.conv2d(x[:, :1], act_on_grid(weight[:, :1], group, g)"
        ),
        "weight detached": edited(LIFTING, TURN, "act_on_grid(weight.detach(), group, g)"),
        "image detached": edited(LIFTING, "F.conv2d(x,", "F.conv2d(x.detach(),"),
        "always float32": edited(
            LIFTING, "F.conv2d(x, " + TURN, "F.conv2d(x.float(), act_on_grid(weight.float(), group, g)"
        ),
        "only square": edited(LIFTING, "F.conv2d(x,", "F.conv2d(x[..., : min(x.shape[-2:]), : min(x.shape[-2:])],"),
    },
    "group_filters": {
        "turned but not permuted": edited(BANK, "group.table[group.inverse[g], h]", "h"),
        "permuted the wrong way": edited(BANK, "group.table[group.inverse[g], h]", "group.table[g, h]"),
        "permuted from the other side": edited(BANK, "[group.inverse[g], h]", "[h, group.inverse[g]]"),
        "permuted but not turned": edited(BANK, "[:, :, pose], group, g)", "[:, :, pose], group, 0)"),
        "turned clockwise": edited(BANK, "[:, :, pose], group, g)", "[:, :, pose], group, int(group.inverse[g]))"),
        "inverse of the product": edited(BANK, "group.table[group.inverse[g], h]", "group.inverse[group.table[g, h]]"),
        "mirror forgotten in space": edited(BANK, "[:, :, pose], group, g)", "[:, :, pose], group, g % group.turns)"),
        "mirror forgotten in the poses": edited(
            BANK, "group.table[group.inverse[g], h]", "(h - g) % group.turns + h // group.turns * group.turns"
        ),
        "only cyclic": edited(BANK, "group.table[group.inverse[g], h]", "(h - g) % group.order"),
        "turned by h": edited(BANK, "[:, :, pose], group, g)", "[:, :, pose], group, h)"),
        "turned by the pose": edited(BANK, "[:, :, pose], group, g)", "[:, :, pose], group, int(pose))"),
        "input and output swapped": edited(
            BANK, "torch.stack(rows, dim=1)", "torch.stack(rows, dim=1).transpose(1, 3)"
        ),
        "fields and poses merged": edited(BANK, "torch.stack(rows, dim=1)", "torch.stack(rows, dim=0)"),
        "detached": edited(BANK, "weight[:, :, pose]", "weight.detach()[:, :, pose]"),
        "always float32": edited(BANK, "weight[:, :, pose]", "weight.float()[:, :, pose]"),
        "in place": edited(BANK, "    rows = []", "    rows = []\n    weight.data.mul_(2)"),
    },
    "group_convolution": {
        "turned but not permuted": edited(CONVOLUTION, "weight[:, :, poses]", "weight"),
        "permuted the wrong way": edited(CONVOLUTION, "group.table[group.inverse[g]]", "group.table[g]"),
        "permuted from the other side": edited(CONVOLUTION, "[group.inverse[g]]", "[:, group.inverse[g]]"),
        "permuted but not turned": edited(CONVOLUTION, "poses], group, g)", "poses], group, 0)"),
        "turned clockwise": edited(CONVOLUTION, "poses], group, g)", "poses], group, int(group.inverse[g]))"),
        "mirror forgotten": edited(CONVOLUTION, "poses], group, g)", "poses], group, g % group.turns)"),
        "input merged in the wrong order": edited(CONVOLUTION, "x.flatten(1, 2)", "x.transpose(1, 2).flatten(1, 2)"),
        "output merged in the wrong order": edited(
            CONVOLUTION, "y.unflatten(1, (len(weight), order))", "y.unflatten(1, (order, len(weight))).transpose(1, 2)"
        ),
        "bank merged in the wrong order": edited(
            CONVOLUTION, "bank.flatten(0, 1)", "bank.transpose(0, 1).flatten(0, 1)"
        ),
        "stride forgotten": edited(CONVOLUTION, "stride=stride, ", ""),
        "padding forgotten": edited(CONVOLUTION, ", padding=padding", ""),
        "same padding": edited(CONVOLUTION, "padding=padding", "padding=weight.shape[-1] // 2 if padding else 0"),
        "mean over input poses": edited(CONVOLUTION, "    return y", "    y = y / order\n    return y"),
        "pooled at once": edited(CONVOLUTION, "(len(weight), order))", "(len(weight), order)).amax(2)"),
        "only square": edited(
            CONVOLUTION,
            "    order = group.order",
            "    x = x[..., : min(x.shape[-2:]), : min(x.shape[-2:])]\n    order = group.order",
        ),
        "only cyclic": lambda x, weight, group, stride=1, padding=0: edited(CONVOLUTION)(
            x, weight, cyclic(group.order), stride, padding
        ),
        "group axis first": edited(CONVOLUTION, "(len(weight), order))", "(len(weight), order)).transpose(1, 2)"),
        "weight detached": edited(CONVOLUTION, "weight[:, :, poses]", "weight.detach()[:, :, poses]"),
        "maps detached": edited(CONVOLUTION, "x.flatten(1, 2)", "x.detach().flatten(1, 2)"),
        "always float32": edited(
            CONVOLUTION, "weight[:, :, poses]", "weight.float()[:, :, poses]", "x.flatten", "x.float().flatten"
        ),
    },
    "group_pool": {
        "pooled before the nonlinearity": edited(
            POOL,
            ").relu()",
            ")",
            "return active.mean(2) if average else active.max(2).values",
            "return (active.mean(2) if average else active.max(2).values).relu()",
        ),
        "pooled before the bias": lambda x, bias, average=False: F.relu(
            (x.mean(2) if average else x.amax(2)) + bias[:, None, None]
        ),
        "no nonlinearity": edited(POOL, ").relu()", ")"),
        "bias forgotten": edited(POOL, "x + bias.reshape(1, -1, 1, 1, 1)", "x"),
        "bias after the nonlinearity": edited(
            POOL, "(x + bias.reshape(1, -1, 1, 1, 1)).relu()", "x.relu() + bias.reshape(1, -1, 1, 1, 1)"
        ),
        "bias along the group": edited(
            POOL, "bias.reshape(1, -1, 1, 1, 1)", "bias[torch.arange(x.shape[2]) % len(bias)].reshape(1, 1, -1, 1, 1)"
        ),
        "sum instead of mean": edited(POOL, "active.mean(2)", "active.sum(2)"),
        "a quarter of the sum": edited(POOL, "active.mean(2)", "active.sum(2) / 4"),
        "cut off at six": edited(POOL, ".relu()", ".clamp(0, 6)"),
        "always the largest": edited(POOL, "if average", "if False"),
        "always the mean": edited(POOL, "if average", "if True"),
        "pooled over fields": edited(POOL, "mean(2)", "mean(1)", "max(2)", "max(1)"),
        "pooled over rows": edited(POOL, "mean(2)", "mean(3)", "max(2)", "max(3)"),
        "group axis kept": edited(POOL, "mean(2)", "mean(2, True)", "max(2)", "max(2, True)"),
        "pooled over space too": edited(POOL, "mean(2)", "mean((2, 3, 4))", "max(2).values", "amax((2, 3, 4))"),
        "in place": edited(POOL, "    active", "    x = x.data.add_(1)\n    active"),
        "bias detached": edited(POOL, "bias.reshape", "bias.detach().reshape"),
        "always float32": edited(POOL, "(x + bias", "(x.float() + bias.float()"),
    },
    "equivariance_test": {
        "always true": lambda layer, x, group, tolerance=1e-4: True,
        "always false": lambda layer, x, group, tolerance=1e-4: False,
        "identity only": edited(TEST, "range(group.order)", "range(1)"),
        "first turn only": edited(TEST, "range(group.order)", "range(min(2, group.order))"),
        "turns only": edited(TEST, "range(group.order)", "range(group.turns)"),
        "last element only": edited(TEST, "range(group.order)", "[group.order - 1]"),
        "four elements at most": edited(TEST, "range(group.order)", "range(min(4, group.order))"),
        "group axis not permuted": edited(TEST, "f.ndim == 5", "False"),
        "permuted the wrong way": edited(TEST, "group.table[group.inverse[h]]", "group.table[h]"),
        "permuted from the other side": edited(
            TEST, "group.table[group.inverse[h]]", "group.table[:, group.inverse[h]]"
        ),
        "permuted but not turned": edited(TEST, "return act_on_grid(f, group, h)", "return f"),
        "turned clockwise": edited(TEST, "act_on_grid(f, group, h)", "act_on_grid(f, group, int(group.inverse[h]))"),
        "tests invariance": edited(TEST, "act(output, h)", "output"),
        "input not moved": edited(TEST, "layer(act(x, h))", "layer(x)"),
        "only the norm": edited(TEST, "(got - wanted).norm()", "(got.norm() - wanted.norm()).abs()"),
        "only the sum": edited(TEST, "(got - wanted).norm()", "(got.sum() - wanted.sum()).abs()"),
        "sign forgotten": edited(
            TEST, "(got - wanted).norm() / output.norm()", "(got - wanted).mean() / output.norm()"
        ),
        "absolute tolerance": edited(TEST, " / output.norm()", ""),
        "relative to the moved output": edited(TEST, "/ output.norm()", "/ got.norm()"),
        "relative to both outputs": edited(TEST, "/ output.norm()", "/ ((got.norm() + output.norm()) / 2)"),
        "compared in float32": edited(TEST, "(got - wanted).norm()", "(got.float() - wanted.float()).norm()"),
        "squared norms": edited(
            TEST, "(got - wanted).norm() / output.norm()", "(got - wanted).square().sum() / output.square().sum()"
        ),
        "tolerance fixed": edited(TEST, "> tolerance", "> 1e-4"),
        "exactly equal": edited(
            TEST, "(got - wanted).norm() / output.norm() > tolerance", "not torch.equal(got, wanted)"
        ),
        "first image only": edited(TEST, "    output = layer(x)", "    x = x[:1]\n    output = layer(x)"),
        "first field only": edited(TEST, "(got - wanted).norm()", "(got - wanted)[:, :, 0].norm()"),
        "its own square input": edited(
            TEST, "    output = layer(x)", "    x = torch.ones_like(x)\n    output = layer(x)"
        ),
        "shapes that differ pass": edited(
            TEST, "            return False\n        if", "            continue\n        if"
        ),
        "the last element decides": edited(
            TEST,
            "            return False\n    return True",
            "            good = False\n        else:\n            good = True\n    return good",
        ),
        "one element suffices": edited(
            TEST,
            "        if (got - wanted).norm() / output.norm() > tolerance:\n            return False\n    return True",
            "        if h and (got - wanted).norm() <= tolerance * output.norm():\n            return True\n"
            "    return group.order == 1",
        ),
        "mean over elements": edited(
            TEST,
            "    output = layer(x)",
            "    output, errors = layer(x), []",
            "        if (got - wanted).norm() / output.norm() > tolerance:\n            return False\n    return True",
            "        errors.append((got - wanted).norm() / output.norm())\n"
            "    return bool(sum(errors) / len(errors) <= tolerance)",
        ),
        "norm over elements": edited(
            TEST,
            "    output = layer(x)",
            "    output, errors = layer(x), []",
            "        if (got - wanted).norm() / output.norm() > tolerance:\n            return False\n    return True",
            "        errors.append((got - wanted).norm() / output.norm())\n"
            "    return bool(torch.stack(errors).norm() <= tolerance)",
        ),
        "worst image": edited(
            TEST,
            "(got - wanted).norm() / output.norm()",
            "((got - wanted).flatten(1).norm(dim=1) / output.flatten(1).norm(dim=1)).max()",
        ),
        "mean over images": edited(
            TEST,
            "(got - wanted).norm() / output.norm()",
            "((got - wanted).flatten(1).norm(dim=1) / output.flatten(1).norm(dim=1)).mean()",
        ),
        "mean image": edited(
            TEST, "(got - wanted).norm() / output.norm()", "(got - wanted).mean(0).norm() / output.mean(0).norm()"
        ),
        "largest entry": edited(
            TEST, "(got - wanted).norm() / output.norm()", "(got - wanted).abs().max() / output.abs().max()"
        ),
        "first channel only": edited(
            TEST, "(got - wanted).norm() / output.norm()", "(got - wanted)[:, 0].norm() / output[:, 0].norm()"
        ),
        "its own random input": edited(
            TEST, "    output = layer(x)", "    x = torch.randn_like(x)\n    output = layer(x)"
        ),
        "cropped to a square": edited(
            TEST,
            "    output = layer(x)",
            "    x = x[..., : min(x.shape[-2:]), : min(x.shape[-2:])]\n    output = layer(x)",
        ),
        "reshaped if the shapes differ": edited(
            TEST,
            "        if got.shape",
            "        if got.numel() == wanted.numel():\n            got = got.reshape(wanted.shape)\n"
            "        if got.shape",
        ),
        "always float32": edited(TEST, "    output = layer(x)", "    x = x.float()\n    output = layer(x)"),
        "relative unless small": edited(TEST, "/ output.norm()", "/ (1 + output.norm())"),
        "returns the error": edited(TEST, "return True", "return (got - wanted).norm()"),
        "permuted even when pooled": edited(TEST, "f.ndim == 5", "f.shape[2] == group.order"),
    },
}


def bank_by_points(weight, group):
    """Every pixel looks up where it came from."""
    size = weight.shape[-1]
    middle = (size - 1) / 2
    places = torch.arange(size, dtype=weight.dtype) - middle
    points = torch.stack([places.expand(size, size), -places[:, None].expand(size, size)])  # right, up
    found = []
    for matrix in plane_matrices(group):
        u, v = torch.einsum("ij,jrc->irc", matrix.T.to(weight.dtype), points)
        grid = torch.stack([u, -v], dim=-1) * 2 / size
        grid = grid[None].expand(len(weight), -1, -1, -1)
        found.append(F.grid_sample(weight, grid, align_corners=False))
    return torch.stack(found, dim=1)


def bank_by_gather(weight, group):
    index, shares = library._expansion(group, weight.shape[-1], weight.shape[1], True)
    shares = None if shares is None else shares.to(weight)
    return library._expanded(weight, index, shares, group.order).unflatten(0, (len(weight), group.order))


def full_bank_by_gather(weight, group):
    index, shares = library._expansion(group, weight.shape[-1], weight.shape[1], False)
    shares = None if shares is None else shares.to(weight)
    bank = library._expanded(weight, index, shares, group.order)
    return bank.unflatten(1, weight.shape[1:3]).unflatten(0, (len(weight), group.order))


def full_bank_by_scattering(weight, group):
    """Each pose k of the filter goes to the input element g·k."""
    turned = bank_by_points(weight.flatten(1, 2), group).unflatten(2, weight.shape[1:3])  # (out, g, in, k, ...)
    bank = torch.zeros_like(turned)
    for g in range(group.order):
        bank[:, g, :, group.table[g]] = turned[:, g].clone()
    return bank


def lifting_by_turning_the_image(x, weight, group, stride=1, padding=0):
    """x ⋆ (g·ψ) = g·((g⁻¹·x) ⋆ ψ) for exact turns with stride 1; for others by the bank."""
    bank = bank_by_points(weight, group)
    return torch.stack([F.conv2d(x, one, None, stride, padding) for one in bank.unbind(1)], dim=2)


def lifting_by_unfolding(x, weight, group, stride=1, padding=0):
    """Patches as columns, all filters as one matrix."""
    bank = torch.stack([act_on_grid(weight, group, g) for g in range(group.order)], dim=1)
    patches = F.unfold(x, weight.shape[-1], padding=padding, stride=stride)  # (batch, in·size·size, place)
    height, width = ((side + 2 * padding - weight.shape[-1]) // stride + 1 for side in x.shape[-2:])
    y = bank.flatten(0, 1).flatten(1) @ patches
    return y.reshape(len(x), len(weight), group.order, height, width)


def convolution_by_pairs(x, weight, group, stride=1, padding=0):
    """One small convolution for each pair of elements."""
    outputs = []
    for g in range(group.order):
        total = 0
        for k in range(group.order):
            turned = act_on_grid(weight[:, :, k], group, g)
            total = total + F.conv2d(x[:, :, group.table[g, k]], turned, stride=stride, padding=padding)
        outputs.append(total)
    return torch.stack(outputs, dim=2)


def convolution_in_three_dimensions(x, weight, group, stride=1, padding=0):
    """conv3d over (pose, row, column), the poses of the input put in order for each output."""
    outputs = []
    for g in range(group.order):
        ordered = x[:, :, group.table[g]]
        turned = torch.stack([act_on_grid(part, group, g) for part in weight.unbind(2)], dim=2)
        outputs.append(F.conv3d(ordered, turned, None, (1, stride, stride), (0, padding, padding)))
    return torch.cat(outputs, dim=2)


def test_by_generators(layer, x, group, tolerance=1e-4):
    """What holds for one turn and the mirror holds for all that they generate."""

    def act(f, h):
        f = act_on_grid(f, group, h)
        if f.ndim == 4:
            return f
        moved = torch.empty_like(f)
        moved[:, :, group.table[h]] = f  # what was at g goes to h·g
        return moved

    output = layer(x)
    for h in {1 % group.order, group.turns % group.order}:
        moved = layer(act(x, h))
        if moved.shape != act(output, h).shape or ((moved - act(output, h)).norm() / output.norm()).item() > tolerance:
            return False
    return True


test_by_generators.__test__ = False


def test_backwards(layer, x, group, tolerance=1e-4):
    """h⁻¹·layer(h·x) is layer(x)."""
    output = layer(x)
    errors = []
    for h in range(group.order):
        back = int(group.inverse[h])
        moved = act_on_grid(x if x.ndim == 4 else x[:, :, group.table[back]], group, h)
        answer = layer(moved)
        answer = act_on_grid(answer if answer.ndim == 4 else answer[:, :, group.table[h]], group, back)
        if answer.shape != output.shape:
            return False
        errors.append(float((answer - output).norm() / output.norm()))
    return max(errors) <= tolerance


test_backwards.__test__ = False


def test_by_all_errors(layer, x, group, tolerance=1e-4):
    """Every error is measured before anything is said; the norm is that of layer(h·x), which is as long."""

    def act(f, h):
        return act_on_grid(f if f.ndim == 4 else f.index_select(2, group.table[group.inverse[h]]), group, h)

    errors = []
    with torch.no_grad():
        for h in range(group.order):
            got, wanted = layer(act(x, h)), act(layer(x), h)
            if got.shape != wanted.shape:
                return False
            errors.append((got.double() - wanted.double()).square().sum().sqrt() / wanted.double().norm())
    return bool(max(errors) <= tolerance)


test_by_all_errors.__test__ = False


def bank_by_a_linear_map(weight, group):
    """What becomes of each pixel alone says everything."""
    size = weight.shape[-1]
    pixels = torch.eye(size * size, dtype=weight.dtype).reshape(-1, size, size)
    maps = torch.stack([act_on_grid(pixels, group, g) for g in range(group.order)])
    return torch.einsum("oip,gpuv->ogiuv", weight.flatten(2), maps)


def full_bank_by_matrices(weight, group):
    """All parts are turned first; permutation matrices then put them into their poses."""
    permutations = F.one_hot(group.table, group.order).transpose(1, 2).to(weight)  # (g, g·k, k)
    turned = torch.stack([act_on_grid(weight, group, g) for g in range(group.order)])
    return torch.einsum("ghk,goikuv->ogihuv", permutations, turned)


def convolution_with_the_pose_outside(x, weight, group, stride=1, padding=0):
    """Channels are (pose, field) on both sides; the result is transposed back."""
    bank = full_bank_by_matrices(weight, group).permute(1, 0, 3, 2, 4, 5).flatten(0, 1).flatten(1, 2)
    y = F.conv2d(x.transpose(1, 2).flatten(1, 2), bank, stride=stride, padding=padding)
    return y.unflatten(1, (group.order, len(weight))).transpose(1, 2)


# Right by another way: each must keep every point.
ALTERNATIVES = {
    "transform_filters": {
        "points looked up": bank_by_points,
        "a linear map": bank_by_a_linear_map,
        "loop": edited(LIFTED_BANK),
        "one gather": bank_by_gather,
    },
    "lifting_convolution": {
        "by the bank": lifting_by_turning_the_image,
        "unfolded": lifting_by_unfolding,
        "loop": edited(LIFTING),
    },
    "group_filters": {
        "scattered": full_bank_by_scattering,
        "regular representation": full_bank_by_matrices,
        "two loops": edited(BANK),
        "one gather": full_bank_by_gather,
    },
    "group_convolution": {
        "pairs of elements": convolution_by_pairs,
        "pose outside": convolution_with_the_pose_outside,
        "conv3d": convolution_in_three_dimensions,
        "loop": edited(CONVOLUTION),
    },
    "group_pool": {
        "loop over average": edited(POOL),
        "pooled in three dimensions": lambda x, bias, average=False: (F.avg_pool3d if average else F.max_pool3d)(
            F.relu(x + bias[:, None, None, None]), (x.shape[2], 1, 1)
        ).squeeze(2),
        "clamp": lambda x, bias, average=False: (
            lambda active: active.sum(2) / x.shape[2] if average else active.amax(2)
        )((x + bias[None, :, None, None, None]).clamp(min=0)),
        "largest first, for the largest": lambda x, bias, average=False: (
            F.relu(x + bias.reshape(-1, 1, 1, 1)).mean(2) if average else F.relu(x.amax(2) + bias.reshape(-1, 1, 1))
        ),
    },
    "equivariance_test": {
        "generators": test_by_generators,
        "moved back": test_backwards,
        "all errors, in float64": test_by_all_errors,
        "loop": edited(TEST),
    },
}


# --- independent peers and closed forms -------------------------------------------------------------------------

EXACT = [cyclic(1), cyclic(2), cyclic(4), dihedral(1), dihedral(2), dihedral(4)]
INEXACT = [cyclic(3), cyclic(8), dihedral(3), dihedral(8)]


def by_loops(layer, x):
    """The layer's output from its definition: a sum over elements, fields and offsets, one at a time."""
    order, size = layer.group.order, layer.kernel_size
    padded = F.pad(x, [layer.padding] * 4)
    reach = layer.dilation * (size - 1) + 1
    height, width = ((side - reach) // layer.stride + 1 for side in padded.shape[-2:])
    y = torch.zeros(len(x), layer.outputs, order, height, width, dtype=x.dtype)
    seen, made = layer.inputs // layer.groups, layer.outputs // layer.groups
    for o, g, i in itertools.product(range(layer.outputs), range(order), range(seen)):
        field = o // made * seen + i
        for h in range(1 if layer.lifts else order):
            source = padded[:, field] if layer.lifts else padded[:, field, h]
            pose = () if layer.lifts else (int((layer.group.table[g] == h).nonzero()),)  # g·pose = h
            filter_ = act_on_grid(layer.weight[(o, i, *pose)], layer.group, g)
            for down, right in itertools.product(range(size), range(size)):
                top, left = down * layer.dilation, right * layer.dilation
                part = source[:, top : top + layer.stride * height, left : left + layer.stride * width]
                y[:, o, g] += filter_[down, right] * part[:, :: layer.stride, :: layer.stride]
    return y if layer.bias is None else y + layer.bias[:, None, None, None]


SETTINGS = [
    {},
    {"padding": 1, "bias": False},
    {"stride": 2, "padding": 2},
    {"dilation": 2, "padding": 1},
    {"groups": 2, "stride": 3},
    {"groups": 2, "dilation": 2, "stride": 2, "padding": 3, "bias": False},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("group", [cyclic(4), dihedral(4), dihedral(1), cyclic(8), dihedral(3)], ids=str)
@pytest.mark.parametrize("size", [2, 3, 5])
def test_layers_are_the_sums_they_say_they_are(group, size, settings):
    torch.manual_seed(0)
    kernel = {"kernel_size": size, "dtype": torch.float64}
    lifting = library.LiftingConv2d(group, 2, 4, **kernel, **settings)
    x = torch.randn(2, 2, 12, 11, dtype=torch.float64)
    torch.testing.assert_close(lifting(x), by_loops(lifting, x), rtol=1e-12, atol=1e-12)
    mixing = library.GroupConv2d(group, 2, 2, **kernel, **settings)
    maps = torch.randn(1, 2, group.order, 11, 12, dtype=torch.float64)
    torch.testing.assert_close(mixing(maps), by_loops(mixing, maps), rtol=1e-12, atol=1e-12)


def test_layers_are_the_functions_of_the_exercise():
    for group in (*EXACT, *INEXACT):
        lifting, mixing = (
            kind(group, 2, 3, 3, stride=2, padding=1).double() for kind in (library.LiftingConv2d, library.GroupConv2d)
        )
        x = torch.randn(2, 2, 7, 6, dtype=torch.float64)
        maps = lifting(x)
        bias = lifting.bias[:, None, None, None]
        wanted = library.lifting_convolution(x, lifting.weight, group, 2, 1) + bias
        torch.testing.assert_close(maps, wanted, rtol=1e-12, atol=1e-12)
        wanted = library.group_convolution(maps[:, :2], mixing.weight, group, 2, 1) + mixing.bias[:, None, None, None]
        torch.testing.assert_close(mixing(maps[:, :2]), wanted, rtol=1e-12, atol=1e-12)


def networks(group, dtype):
    """A small network with every kind of layer that keeps the symmetry at stride 1, its maps and its scores."""
    body = nn.Sequential(
        library.LiftingConv2d(group, 2, 4, 3, padding=1),
        library.GroupBatchNorm2d(4),
        nn.ReLU(),
        library.GroupConv2d(group, 4, 6, 3, padding=1, groups=2),
        nn.GELU(),
        library.SpatialPool2d(3, stride=1, padding=1),
        library.GroupConv2d(group, 6, 3, 2, dilation=2, padding=1),
    ).to(dtype)
    body(torch.randn(16, 2, 8, 8, dtype=dtype))  # running statistics that are not 0 and 1
    return body.eval(), nn.Sequential(body, nn.ReLU(), library.GroupPool(average=True)).eval()


@pytest.mark.parametrize("shape", [(9, 9), (8, 8), (6, 9)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("group", EXACT, ids=str)
def test_exact_groups_are_equivariant_to_rounding(group, dtype, shape):
    torch.manual_seed(0)
    body, pooled = networks(group, dtype)
    x = torch.randn(3, 2, *shape, dtype=dtype)
    bound = 1e-6 if dtype == torch.float32 else 1e-12
    with torch.no_grad():
        assert library.equivariance_errors(body, x, group).max() <= bound
        assert library.equivariance_errors(pooled, x, group).max() <= bound
        assert library.equivariance_test(body, x, group, tolerance=bound)
        maps = torch.randn(3, 4, group.order, *shape, dtype=dtype)
        assert library.equivariance_errors(body[3:], maps, group).max() <= bound


def test_not_equivariant_to_a_larger_group():
    torch.manual_seed(0)
    body, pooled = networks(cyclic(4), torch.float64)
    x = torch.randn(2, 2, 9, 9, dtype=torch.float64)
    mirrored = (pooled(x.flip(-1)) - pooled(x).flip(-1)).norm() / pooled(x).norm()
    assert mirrored > 0.1, "C4 knows no mirrors"


@pytest.mark.parametrize("group", INEXACT, ids=str)
def test_other_groups_are_measured_not_exact(group):
    """A smooth image: quarter turns of C8 and D8 are exact, other elements err, by less than an unrelated map."""
    torch.manual_seed(0)
    layer = library.LiftingConv2d(group, 1, 4, 5, padding=2, dtype=torch.float64)
    place = torch.arange(33, dtype=torch.float64) - 16
    x = torch.exp(-((place - 3) ** 2 + (place[:, None] + 4) ** 2) / 30)[None, None]
    with torch.no_grad():
        errors = library.equivariance_errors(layer, x, group)
    exact = torch.tensor([4 * (g % group.turns) % group.turns == 0 for g in range(group.order)])
    assert errors[exact].max() < 1e-12
    assert 1e-3 < errors[~exact].max() < 0.5


def test_stride_on_an_even_size_breaks_the_symmetry_and_the_test_says_so():
    torch.manual_seed(0)
    for group, stride in itertools.product((cyclic(4), dihedral(4)), (2, 3)):
        layer = library.GroupConv2d(group, 2, 2, 3, stride=stride, padding=1, dtype=torch.float64)
        for side in range(6, 13):
            centred = (side + 2 - 3) % stride == 0
            x = torch.randn(1, 2, group.order, side, side, dtype=torch.float64)
            assert library.equivariance_test(layer, x, group) == centred, (side, stride)


def test_pooling_in_space_keeps_the_symmetry_where_windows_tile():
    for side, tiles in ((8, True), (9, False)):
        x = torch.randn(1, 2, 4, side, side)
        assert library.equivariance_test(library.SpatialPool2d(2), x, cyclic(4)) == tiles
        assert library.equivariance_test(library.SpatialPool2d(2, average=True), x, cyclic(4)) == tiles


def test_filters_are_a_representation():
    """Turning by g, then by h, is turning by h·g; the full bank commutes with moving its input."""
    weight = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    for group in EXACT:
        bank = library.transform_filters(weight, group)
        for g, h in itertools.product(range(group.order), repeat=2):
            again = library.transform_filters(bank[:, g], group)[:, h]
            assert torch.equal(again, bank[:, group.table[h, g]])


@pytest.mark.parametrize("group", [cyclic(4), dihedral(4)], ids=str)
def test_average_over_the_group_is_a_symmetric_filter(group):
    """Pooled by the mean without a nonlinearity, lifting is one convolution with the averaged filter."""
    x, weight = torch.randn(2, 3, 9, 9, dtype=torch.float64), torch.randn(4, 3, 3, 3, dtype=torch.float64)
    pooled = library.lifting_convolution(x, weight, group).mean(dim=2)
    averaged = library.transform_filters(weight, group).mean(dim=1)
    torch.testing.assert_close(pooled, F.conv2d(x, averaged), rtol=1e-12, atol=1e-12)


def test_gradients_pass_gradcheck_twice():
    group = dihedral(4)
    x = torch.randn(1, 1, 8, 3, 3, dtype=torch.float64, requires_grad=True)
    layer = library.GroupConv2d(group, 1, 1, 2, dtype=torch.float64)

    def function(x, weight, bias):
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x,))[:, :, :2]

    inputs = x, layer.weight.detach().requires_grad_(), layer.bias.detach().requires_grad_()
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)
    interpolated = library.LiftingConv2d(cyclic(3), 1, 1, 3, dtype=torch.float64)
    image = torch.randn(1, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: interpolated(x), image)


def test_coset_pooling_leaves_what_the_group_still_moves():
    """D4 pooled over the mirror: C4's turns act on the four cosets as on themselves."""
    group, x = dihedral(4), torch.randn(2, 3, 8, 5, 5, dtype=torch.float64)
    for average in (False, True):
        y = library.coset_pool(x, group, [0, 4], average)
        rows = library.cosets(group, [0, 4])
        assert rows.flatten().sort().values.tolist() == list(range(8))
        for h in range(8):
            moved = library.coset_pool(library.act_on_features(x, group, h), group, [0, 4], average)
            whose = torch.tensor(
                [int((rows == group.table[group.inverse[h], row[0]]).any(1).nonzero()) for row in rows]
            )
            torch.testing.assert_close(moved, act_on_grid(y[:, :, whose], group, h))
        everything = library.coset_pool(x, group, range(8), average)
        torch.testing.assert_close(everything[:, :, 0], library.GroupPool(average)(x))
        torch.testing.assert_close(library.CosetPool(group, [0, 4], average)(x), y)


def test_pools_are_what_loops_find():
    group, x = dihedral(3), torch.randn(2, 3, 6, 7, 5, dtype=torch.float64)
    for average in (False, True):
        together = (lambda values: sum(values) / len(values)) if average else max
        pooled = library.GroupPool(average)(x)
        windows = library.SpatialPool2d(3, stride=2, average=average)(x)
        rows = library.cosets(group, [0, 4])
        left = library.CosetPool(group, [0, 4], average)(x)
        assert windows.shape == (2, 3, 6, 3, 2) and left.shape == (2, 3, 3, 7, 5)
        for b, field, row, column in itertools.product(range(2), range(3), range(7), range(5)):
            poses = x[b, field, :, row, column].tolist()
            assert pooled[b, field, row, column].item() == pytest.approx(together(poses), abs=1e-12)
            for c in range(3):
                wanted = together([poses[g] for g in rows[c].tolist()])
                assert left[b, field, c, row, column].item() == pytest.approx(wanted, abs=1e-12)
            if row < 3 and column < 2:
                for g in range(6):
                    seen = [x[b, field, g, 2 * row + i, 2 * column + j].item() for i in range(3) for j in range(3)]
                    assert windows[b, field, g, row, column].item() == pytest.approx(together(seen), abs=1e-12)


@pytest.mark.parametrize("group", [cyclic(4), dihedral(4)], ids=str)
@pytest.mark.parametrize(
    "norm",
    [library.GroupBatchNorm2d(4), nn.GroupNorm(2, 4), nn.GroupNorm(4, 4), nn.InstanceNorm3d(4, affine=True)],
    ids=str,
)
def test_norms_that_commute_with_the_group(norm, group):
    """torch's own do too, on five axes: they share what they measure and learn over the poses of a field."""
    norm, x = copy.deepcopy(norm).double(), torch.randn(3, 4, group.order, 6, 9, dtype=torch.float64)
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    assert library.equivariance_errors(norm, x, group).max() <= 1e-12
    for_each_pose = nn.BatchNorm2d(4 * group.order).double()
    nn.init.normal_(for_each_pose.weight)
    wrong = library.equivariance_errors(lambda x: for_each_pose(x.flatten(1, 2)).unflatten(1, (4, -1)), x, group)
    assert wrong.max() > 0.1, "a scale for each pose breaks the symmetry"


def test_batch_norm_shares_its_statistics_over_poses():
    norm, x = library.GroupBatchNorm2d(3), torch.randn(4, 3, 4, 6, 5)
    y = norm(x)
    torch.testing.assert_close(y.mean((0, 2, 3, 4)), torch.zeros(3), atol=1e-6, rtol=0)
    assert library.equivariance_test(norm, x, cyclic(4))


# --- what surrounds a layer: keeping filters, copies, files, other numbers, compilers ---------------------------------


def made():
    torch.manual_seed(0)
    return library.GroupConv2d(cyclic(4), 2, 3, 3, padding=1), torch.randn(2, 2, 4, 6, 5)


def fresh(layer, x):
    """The output with nothing kept."""
    other = library.GroupConv2d(layer.group, 2, 3, 3, padding=1, dtype=layer.weight.dtype)
    other.load_state_dict(layer.state_dict())
    return other(x)


def test_filters_are_kept_in_evaluation_and_made_anew_when_weights_change():
    layer, x = made()
    layer.eval()
    with torch.no_grad():
        layer(x)
        kept = layer.filters()[0]
        assert layer.filters()[0] is kept
        for change in (
            lambda: layer.weight.mul_(2),
            lambda: layer.bias.add_(1),
            lambda: layer.load_state_dict({name: 3 * value for name, value in layer.state_dict().items()}),
            lambda: setattr(layer.weight, "data", layer.weight.data + 1),
            lambda: setattr(layer, "weight", nn.Parameter(layer.weight + 1)),
            lambda: (
                nn.utils.vector_to_parameters(torch.randn(75 + 144), layer.parameters())
                if sum(p.numel() for p in layer.parameters()) == 219
                else layer.weight.zero_()
            ),
        ):
            change()
            torch.testing.assert_close(layer(x), fresh(layer, x))
        layer.weight.data.mul_(2)  # autograd does not see this
        layer.eval()
        torch.testing.assert_close(layer(x), fresh(layer, x))
        layer.double()
        torch.testing.assert_close(layer(x.double()), fresh(layer, x.double()))
        layer.float()
        torch.testing.assert_close(layer(x), fresh(layer, x))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for _ in range(2):  # fine-tuned in evaluation mode
        before = layer(x).detach()
        optimizer.zero_grad()
        layer(x).square().sum().backward()
        assert layer.weight.grad.norm() > 0
        optimizer.step()
        with torch.no_grad():
            torch.testing.assert_close(layer(x), fresh(layer, x))
            assert not torch.equal(layer(x), before)
    for kind in (torch.optim.Adam, torch.optim.SGD):  # these change weights without autograd's counting it
        optimizer = kind(layer.parameters(), lr=0.1, fused=True)
        with torch.no_grad():
            before = layer(x)
        layer(x).square().sum().backward()
        optimizer.step()
        with torch.no_grad():
            assert not torch.equal(layer(x), before)
            torch.testing.assert_close(layer(x), fresh(layer, x))
    with torch.inference_mode():
        layer(x)
    layer.requires_grad_(False)
    leaf = x.clone().requires_grad_()
    layer(leaf).sum().backward()
    assert leaf.grad.norm() > 0


def test_training_never_uses_kept_filters():
    layer, x = made()
    with torch.no_grad():
        layer(x)
        assert layer._kept is None
        layer.eval()(x)
        assert layer._kept is not None
    assert layer.train()._kept is None


def test_copies_files_and_pickles():
    layer, x = made()
    layer.eval()
    with torch.no_grad():
        layer(x)
    twin, plans = copy.deepcopy(layer), library._expansion.cache_info().currsize
    copy.deepcopy(layer).double(), pickle.loads(pickle.dumps(layer)).double()
    assert library._expansion.cache_info().currsize == plans and twin.group is layer.group, "copies share one plan"
    assert twin._kept is None and set(layer.state_dict()) == {"weight", "bias"}
    with torch.no_grad():
        twin.weight.zero_()
        assert twin(x).std() < layer(x).std()
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    twin.load_state_dict(torch.load(file))
    torch.testing.assert_close(twin(x), layer(x))


@pytest.mark.parametrize("group", [cyclic(4), cyclic(8)], ids=str)
def test_weights_that_are_assigned_bring_their_device_and_dtype(group):
    source, x = library.GroupConv2d(group, 2, 3, 3, dtype=torch.float64), torch.randn(2, 2, group.order, 6, 5).double()
    with torch.device("meta"):
        empty = nn.Sequential(library.GroupConv2d(group, 2, 3, 3))
    assert empty[0].weight.is_meta
    empty.load_state_dict({f"0.{name}": value for name, value in source.state_dict().items()}, assign=True)
    torch.testing.assert_close(empty(x), source(x), rtol=1e-12, atol=1e-12)
    shorter = library.GroupConv2d(group, 2, 3, 3).eval()
    with torch.no_grad():
        shorter(x.float())
        shorter.load_state_dict(source.state_dict(), assign=True)
        torch.testing.assert_close(shorter(x), source(x), rtol=1e-12, atol=1e-12)
    again = copy.deepcopy(shorter).to("meta").to_empty(device="cpu")
    again.load_state_dict(source.state_dict())
    torch.testing.assert_close(again(x), source(x), rtol=1e-12, atol=1e-12)


def test_what_other_tools_do_with_a_layer():
    """Reparametrized, averaged, vectorized, pickled, mapped over models, without gradients, images or precision."""
    layer, x = made()

    def check(other):
        with torch.no_grad():
            wanted = other.to_conv2d()(x.flatten(1, 2)).unflatten(1, (3, 4))
            torch.testing.assert_close(other(x), wanted, rtol=1e-5, atol=1e-5)

    normed = nn.utils.parametrizations.weight_norm(copy.deepcopy(layer)).eval()
    average = torch.optim.swa_utils.AveragedModel(layer).eval()
    again = pickle.loads(pickle.dumps(layer)).eval()
    for _ in range(2):
        with torch.no_grad():
            [check(other) for other in (normed, average.module, again)]
            normed.parametrizations.weight.original0.mul_(2)
            layer.weight.add_(1)
            average.update_parameters(layer)
            vector = nn.utils.parameters_to_vector(again.parameters())
            nn.utils.vector_to_parameters(vector + 1, again.parameters())
    copies = [made()[0] for _ in range(3)]
    for place, one in enumerate(copies):
        nn.init.constant_(one.bias, place)
    stacked, rest = torch.func.stack_module_state(copies)
    mapped = torch.vmap(lambda part: torch.func.functional_call(copies[0], (part, {}), (x,)))(stacked)
    torch.testing.assert_close(mapped, torch.stack([one(x) for one in copies]))
    slopes = torch.func.grad(lambda part: torch.func.functional_call(layer, part, (x,)).sum())(
        dict(layer.named_parameters())
    )
    layer(x).sum().backward()
    torch.testing.assert_close(slopes["weight"], layer.weight.grad)
    assert layer(x[:0]).shape == (0, 3, 4, 6, 5)
    layer.eval().requires_grad_(False)
    assert not layer(x).requires_grad
    for dtype in (torch.bfloat16, torch.float16):
        short = copy.deepcopy(layer).to(dtype)(x.to(dtype))
        assert short.dtype == dtype and (short - layer(x)).norm() < 0.02 * layer(x).norm()


def test_autocast_then_twice_backward():
    layer, x = made()
    x.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    (slope,) = torch.autograd.grad(y.float().square().sum(), x, create_graph=True)
    slope.square().sum().backward()
    assert layer.weight.grad.isfinite().all() and layer.weight.grad.norm() > 0


def test_interpolated_filters_keep_their_precision():
    layer = library.LiftingConv2d(cyclic(8), 1, 2, 5).double()
    x = torch.randn(1, 1, 9, 9, dtype=torch.float64)
    torch.testing.assert_close(layer(x), by_loops(layer, x), rtol=1e-12, atol=1e-12)


def test_autocast_to_bfloat16():
    layer, x = made()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
        y.float().square().sum().backward()
    assert y.dtype == torch.bfloat16 and layer.weight.grad.dtype == torch.float32
    assert (y.float() - layer(x)).norm() / layer(x).norm() < 0.02
    layer.eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(layer(x), y)


def small_network(group=None):
    torch.manual_seed(0)
    group = group or cyclic(4)
    network = nn.Sequential(
        nn.Sequential(library.LiftingConv2d(group, 1, 3, 3), library.GroupBatchNorm2d(3), nn.ReLU()),
        library.SpatialPool2d(2),
        library.GroupConv2d(group, 3, 5, 3, bias=False),
        nn.ReLU(),
        library.GroupPool(),
        nn.Flatten(),
    )
    network(torch.randn(9, 1, 8, 8))
    return network.eval()


@pytest.mark.parametrize("group, rough", [(cyclic(4), False), (dihedral(4), False), (cyclic(8), True)])
def test_a_layer_that_cannot_be_exact_says_so(group, rough):
    assert repr(library.GroupConv2d(group, 2, 2, 3)).endswith("filters interpolated)") == rough


def test_export():
    network, x = small_network(), torch.randn(2, 1, 8, 8)
    exported = torch.export.export(network, (x,)).module()
    torch.testing.assert_close(exported(x), network(x))
    layer, maps = made()
    torch.testing.assert_close(torch.export.export(layer, (maps,)).module()(maps), layer(maps))


@pytest.mark.parametrize("group", [cyclic(4), dihedral(4), cyclic(8)], ids=lambda group: group.name)
@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch's own exporter, at a function of its own
def test_onnx_gives_the_same_scores_in_a_runtime_without_torch(group, tmp_path):
    import onnxruntime  # here, for the page of the kill table imports this module too

    network, x = small_network(group), torch.randn(2, 1, 8, 8)
    torch.onnx.export(network, (x,), dynamo=True, verbose=False).save(tmp_path / "network.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "network.onnx", providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.tensor(scores), network(x))


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compile_in_one_graph():
    network, x = small_network(), torch.randn(2, 1, 8, 8)
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), network(x))
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), network(x))
        network[2].weight.mul_(2)
        torch.testing.assert_close(compiled(x), network(x))
    network.train()
    compiled(x).sum().backward()
    assert network[2].weight.grad.norm() > 0


@pytest.mark.parametrize("group", [cyclic(4), dihedral(4), cyclic(8)], ids=str)
def test_plain_twins(group):
    network, x = small_network(group), torch.randn(2, 1, 8, 8)
    plain = library.to_plain(network)
    torch.testing.assert_close(plain(x), network(x), rtol=1e-5, atol=1e-6)
    assert all(type(layer).__module__.startswith("torch.nn") for layer in plain.modules())
    settings = {"stride": 2, "padding": 1, "dilation": 2, "groups": 2}
    layer = library.GroupConv2d(group, 4, 6, 3, **settings)
    maps = torch.randn(2, 4, group.order, 9, 8)
    conv = layer.to_conv2d()
    for between in (
        [nn.GroupNorm(2, 4), nn.ZeroPad2d(1), nn.Softmax(dim=2)],
        [nn.InstanceNorm3d(4, affine=True), nn.PReLU(4)],
        [nn.BatchNorm3d(4, affine=False), nn.Identity(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 3)],
        [nn.Sequential(nn.Flatten(), nn.Tanh())],
    ):  # torch's own layers, some of which read the group's axis
        network = nn.Sequential(library.LiftingConv2d(group, 1, 4, 3), nn.ReLU(), *between)
        network(torch.randn(9, 1, 8, 8))
        wanted = network.eval()(x)
        wanted = wanted.flatten(1, 2) if wanted.ndim == 5 else wanted
        torch.testing.assert_close(library.to_plain(network)(x), wanted, rtol=1e-5, atol=1e-6)
    assert type(conv) is nn.Conv2d and not any(p.grad_fn for p in conv.parameters())
    torch.testing.assert_close(conv(maps.flatten(1, 2)), layer(maps).flatten(1, 2))


def test_any_layer_is_made_in_fifty_milliseconds():
    seconds = []
    for group, size in ((cyclic(4), 5), (dihedral(4), 5), (cyclic(8), 5), (dihedral(8), 3)):
        library._pixel_maps.cache_clear()
        library._expansion.cache_clear()
        start = time.process_time()
        library.GroupConv2d(group, 32, 32, size)
        seconds.append(time.process_time() - start)
    assert max(seconds) < 0.1, seconds  # 0.05 on a quiet machine


# --- escnn -----------------------------------------------------------------------------------------------------------


def escnn_layer(escnn, turns, mirrors, fields_in, fields_out, size):
    gspaces, steerable = escnn
    space = gspaces.flipRot2dOnR2(turns) if mirrors else gspaces.rot2dOnR2(turns)
    kinds = [steerable.FieldType(space, fields * [space.regular_repr]) for fields in (fields_in, fields_out)]
    return steerable.R2Conv(*kinds, size, padding=size // 2, bias=False), kinds[0]


def poses_of_escnn(layer, group):
    """Which of escnn's elements each of ours is: by the matrix with which it acts on the plane."""
    theirs = layer.in_type.fibergroup
    elements = list(theirs.elements)
    found = []
    for matrix in plane_matrices(group):
        acts = [torch.tensor(layer.space.basespace_action(e)(e)).double() for e in elements]
        found.append(int(torch.stack([(a - matrix).abs().sum() for a in acts]).argmin()))
    return found


@pytest.mark.parametrize(("turns", "mirrors"), [(4, False), (2, False), (4, True)])
def test_escnn_has_the_same_kernels(escnn, turns, mirrors):
    """escnn's regular layer, its axis put into our order, is one of ours; it has no more free weights than ours."""
    torch.manual_seed(0)
    _, steerable = escnn
    group = dihedral(turns) if mirrors else cyclic(turns)
    theirs, kind = escnn_layer(escnn, turns, mirrors, 2, 3, 3)
    theirs.eval()
    x = torch.randn(2, 2, group.order, 7, 7)

    # their elements: (mirror, turn), a turn first; find the order of poses in which their layer commutes as ours does
    elements = list(kind.gspace.fibergroup.elements)
    values = [e.value if isinstance(e.value, tuple) else (0, e.value) for e in elements]

    def layer(maps, order):
        back = torch.tensor(order).argsort()
        flat = maps[:, :, back].flatten(1, 2)
        y = theirs(steerable.GeometricTensor(flat, kind)).tensor
        return y.unflatten(1, (3, group.order))[:, :, torch.tensor(order)]

    passing = []
    for sign, axis in itertools.product((1, -1), range(turns)):
        order = []
        for g in range(group.order):
            f, k = g // turns, g % turns
            wanted = (f, (sign * k + axis * f) % turns)
            order.append(values.index(wanted))
        with torch.no_grad():
            if library.equivariance_test(lambda maps, order=order: layer(maps, order), x, group, 1e-5):
                passing.append(order)
    assert passing, "escnn's layer commutes with our action in no order of its poses"
    ours = library.GroupConv2d(group, 2, 3, 3, padding=1, bias=False)
    with torch.no_grad():
        bank = theirs.expand_parameters()[0].unflatten(1, (2, group.order)).unflatten(0, (3, group.order))
        order = torch.tensor(passing[0])
        ours.weight.copy_(bank[:, order][:, :, :, order][:, 0])
        torch.testing.assert_close(ours(x), layer(x, passing[0]), rtol=1e-4, atol=1e-5)
    free = sum(p.numel() for p in theirs.parameters())
    assert free <= ours.weight.numel()


@pytest.mark.parametrize(("turns", "mirrors"), [(4, False), (2, False), (4, True)])
def test_escnn_makes_the_same_network(escnn, turns, mirrors):
    """Lifting, normalization, ReLU, pooling in space, convolution, a maximum over poses, with one set of weights."""
    torch.manual_seed(0)
    _, steerable = escnn
    group = dihedral(turns) if mirrors else cyclic(turns)
    convolution, kind = escnn_layer(escnn, turns, mirrors, 3, 2, 3)
    image = steerable.FieldType(kind.gspace, [kind.gspace.trivial_repr])
    theirs = steerable.SequentialModule(
        steerable.R2Conv(image, kind, 3, padding=1, bias=True),
        steerable.InnerBatchNorm(kind),
        steerable.ReLU(kind),
        steerable.PointwiseMaxPool2D(kind, 2),
        convolution,
        steerable.GroupPooling(convolution.out_type),
    )
    ours = nn.Sequential(
        library.LiftingConv2d(group, 1, 3, 3, padding=1),
        library.GroupBatchNorm2d(3),
        nn.ReLU(),
        library.SpatialPool2d(2),
        library.GroupConv2d(group, 3, 2, 3, padding=1, bias=False),
        library.GroupPool(),
    )
    with torch.no_grad():  # their elements stand in our order: mirrored or not, then turned
        theirs[0].bias.normal_()
        lift, bias = theirs[0].expand_parameters()
        ours[0].weight.copy_(lift.unflatten(0, (3, -1))[:, 0])
        ours[0].bias.copy_(bias[:: group.order])
        ours[4].weight.copy_(theirs[4].expand_parameters()[0].unflatten(1, (3, -1)).unflatten(0, (2, -1))[:, 0])
    for _ in range(3):  # both in training mode: the kept statistics are compared as well
        x = torch.randn(4, 1, 8, 8)
        torch.testing.assert_close(ours(x), theirs(steerable.GeometricTensor(x, image)).tensor, rtol=1e-4, atol=1e-5)
    ours.eval(), theirs.eval()
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(steerable.GeometricTensor(x, image)).tensor, rtol=1e-5, atol=1e-5)


# --- bad input -------------------------------------------------------------------------------------------------------

C4 = cyclic(4)
X, W, V, B = torch.zeros(1, 2, 5, 5), torch.zeros(3, 2, 3, 3), torch.zeros(3, 2, 4, 3, 3), torch.zeros(3)
MAPS = torch.zeros(1, 2, 4, 5, 5)
BAD = {
    "filters that are not square": (lambda: library.transform_filters(W[..., :2], C4), "weight must have the sizes"),
    "NaN filters": (lambda: library.transform_filters(W * math.nan, C4), "weight must be finite"),
    "integer filters": (lambda: library.transform_filters(W.long(), C4), "floating point"),
    "images without channels": (lambda: library.lifting_convolution(X[0], W, C4), "x must have the sizes"),
    "channels that differ": (lambda: library.lifting_convolution(X[:, :1], W, C4), "in = "),
    "two dtypes": (lambda: library.lifting_convolution(X.double(), W, C4), "of the kind of"),
    "filters of another group": (lambda: library.group_filters(V, cyclic(2)), "weight must have the sizes"),
    "maps of another group": (lambda: library.group_convolution(MAPS[:, :, :2], V, C4), "x must have the sizes"),
    "images for maps": (lambda: library.group_convolution(X, V, C4), "x must have the sizes"),
    "one bias too many": (lambda: library.group_pool(MAPS, B), "bias must have the sizes"),
    "a test of nothing": (lambda: library.equivariance_test(torch.relu, X[0], C4), "x must have the sizes"),
    "no tolerance": (lambda: library.equivariance_test(torch.relu, X, C4, 0.0), "tolerance must be"),
    "images as features": (lambda: library.act_on_features(X, C4, 1), "f must have the sizes"),
    "no such element": (lambda: library.act_on_features(MAPS, C4, 4), "element must be in range"),
    "not a subgroup": (lambda: library.cosets(C4, [0, 1]), "closed"),
    "an element twice": (lambda: library.cosets(C4, [0, 0, 2]), "each element once"),
    "not an element": (lambda: library.cosets(C4, [0, 7]), "subgroup must be indices"),
    "groups that do not divide": (lambda: library.GroupConv2d(C4, 3, 4, 3, groups=2), "groups must divide"),
    "a rectangular kernel": (lambda: library.GroupConv2d(C4, 3, 4, (3, 5)), "kernel_size"),
    "images for a group layer": (lambda: library.GroupConv2d(C4, 2, 4, 3)(X), "LiftingConv2d"),
    "maps for lifting": (lambda: library.LiftingConv2d(C4, 2, 4, 3)(MAPS), "must fit the layer"),
    "no plain twin": (
        lambda: library.to_plain(nn.Sequential(library.LiftingConv2d(C4, 1, 2, 3), library.CosetPool(C4, [0, 2]))),
        "plain twin",
    ),
    "a plain twin of another shape": (
        lambda: library.to_plain(nn.Sequential(library.LiftingConv2d(C4, 1, 2, 3), nn.Flatten(2))),
        "plain twin",
    ),
    "statistics of each batch": (
        lambda: library.to_plain(
            nn.Sequential(library.GroupConv2d(C4, 1, 2, 3), library.GroupBatchNorm2d(2, track_running_stats=False))
        ),
        "plain twin",
    ),
    "a network of no group": (lambda: library.to_plain(nn.Sequential(library.GroupPool())), "which says its group"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_explained(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call()


def test_real_digits_turn_and_are_read_alike():
    """A trained-from-nothing network's scores of a digit and of the digit turned are the same."""
    x = digits().test.x[:20]
    network = nn.Sequential(
        library.LiftingConv2d(C4, 1, 8, 3),
        nn.ReLU(),
        library.GroupConv2d(C4, 8, 10, 6),
        library.GroupPool(),
        nn.Flatten(),
    )
    with torch.no_grad():
        upright, turned = network(x), network(x.rot90(1, (-2, -1)))
    assert (upright - turned).norm() / upright.norm() < 1e-6 < upright.std(dim=0).mean()
