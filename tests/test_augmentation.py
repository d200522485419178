"""augmentation: wrong and right versions of each task, independent peers, closed forms, bad input."""

import math

import kornia
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from checks import augmentation as checks
from scipy import ndimage

from course_lib import augmentation as library
from course_lib.data import digits, rotate

# The warp and the mixture, for mistakes that change one line of them.
WARP = """
def affine_warp(images, matrices):
    height, width = images.shape[-2:]
    half = matrices.new_tensor([width / 2, height / 2])
    turn, shift = matrices[:, :, :2], matrices[:, :, 2:]
    back = torch.linalg.inv(turn)
    source = torch.cat([back * half, -back @ shift], dim=2) / half[:, None]
    grid = F.affine_grid(source, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)
"""
MIXUP = """
def mixup(x, y, weights, partners):
    wide = weights.reshape(-1, *[1] * (x.ndim - 1))
    tall = weights[:, None]
    return wide * x + (1 - wide) * x[partners], tall * y + (1 - tall) * y[partners]
"""
CUTOUT = """
def cutout(images, rows, columns, side):
    i, j = torch.meshgrid(*map(torch.arange, images.shape[-2:]), indexing="ij")
    i, j = i - (rows - side // 2)[:, None, None], j - (columns - side // 2)[:, None, None]
    square = (i >= 0) & (i < side) & (j >= 0) & (j < side)
    return torch.where(square[:, None], 0.0, images)
"""
PENALTY = """
def first_order_penalty(model, x, tangents, variance):
    slopes = torch.func.jvp(model, (x,), (tangents,))[1]
    return variance * slopes.square().sum(dim=1).mean()
"""


def edited(source, old, new):
    assert old in source
    scope = {"torch": torch, "F": F}
    exec(source.replace(old, new), scope)
    return scope[source.split("def ")[1].split("(")[0]]


WRAPPED = """    i, j = i % images.shape[-2], j % images.shape[-1]
    square"""


def mixup_along_the_last_axis(x, y, weights, partners):
    share = weights if x.shape[-1] == len(weights) else weights[:, None].mean()  # else the slip shows by itself
    mixed = library.mixup(x, y, weights, partners)
    return share * x + (1 - share) * x[partners], mixed[1]


def in_evaluation_mode(f, x, transforms):
    mode = getattr(f, "training", None)
    if mode is not None:
        f.eval()
    result = library.averaged_probabilities(f, x, transforms)
    if mode is not None:
        f.train(mode)
    return result


def penalty_in_all_directions(model, x, tangents, variance):
    x = x.clone().requires_grad_()
    rows = [torch.autograd.grad(f.sum(), x, create_graph=True)[0] for f in model(x).T]
    return variance * sum(row.square().sum() for row in rows) / len(x)


# What students write by mistake: each must lose points.
MUTANTS = {
    "affine_warp": {
        "map not inverted": edited(WARP, "torch.linalg.inv(turn)", "turn"),
        "transposed for inverted": edited(WARP, "torch.linalg.inv(turn)", "turn.mT"),
        "shift forgotten": edited(WARP, "-back @ shift", "0 * shift"),
        "shift not turned": edited(WARP, "-back @ shift", "-shift"),
        "shift with the wrong sign": edited(WARP, "-back @ shift", "back @ shift"),
        "shift in whole widths": edited(WARP, "-back @ shift", "-back @ shift / 2"),
        "units of height for width": edited(WARP, "[width / 2, height / 2]", "[height / 2, width / 2]"),
        "only right for square images": edited(WARP, "back * half", "back * half[:, None]"),
        "units forgotten": edited(WARP, "[width / 2, height / 2]", "[1.0, 1.0]"),
        "down before right": edited(WARP, "torch.linalg.inv(turn)", "torch.linalg.inv(turn).flip(1, 2)"),
        "corners aligned in the grid only": edited(
            WARP,
            "F.affine_grid(source, list(images.shape), align_corners=False)",
            "F.affine_grid(source, list(images.shape), align_corners=True)",
        ),
        "corners aligned in both": edited(WARP, "align_corners=False", "align_corners=True"),
        "half a pixel too short": edited(WARP, "[width / 2, height / 2]", "[(width - 1) / 2, (height - 1) / 2]"),
        "edge repeated": edited(
            WARP, "F.grid_sample(images, grid,", "F.grid_sample(images, grid, 'bilinear', 'border',"
        ),
        "nearest pixel": edited(WARP, "F.grid_sample(images, grid,", "F.grid_sample(images, grid, 'nearest',"),
        "first matrix for all": edited(WARP, "matrices[:, :, :2]", "matrices[:1, :, :2].expand(len(images), 2, 2)"),
        "about the upper left corner": edited(
            WARP, "-back @ shift", "back @ (0.5 - half[:, None] - shift) - (0.5 - half[:, None])"
        ),
        "matrices cut off": edited(WARP, "turn, shift =", "matrices = matrices.detach(); turn, shift ="),
        "images cut off": edited(WARP, "F.grid_sample(images,", "F.grid_sample(images.detach(),"),
        "always float32": lambda images, matrices: library.affine_warp(images.float(), matrices.float()),
        "in place": lambda images, matrices: images.data.copy_(library.affine_warp(images, matrices).data) + 0 * images,
    },
    "mixup": {
        "weights swapped": edited(MIXUP, "    wide", "    weights = 1 - weights\n    wide"),
        "labels not mixed": edited(MIXUP, "tall * y + (1 - tall) * y[partners]", "1 * y"),
        "labels of the heavier one": edited(
            MIXUP, "tall * y + (1 - tall) * y[partners]", "torch.where(tall > 0.5, y, y[partners])"
        ),
        "labels made hard": edited(
            MIXUP,
            "tall * y + (1 - tall) * y[partners]",
            "F.one_hot((tall * y + (1 - tall) * y[partners]).argmax(1), y.shape[1]).to(y) + 0 * y",
        ),
        "label weights the wrong way round": edited(
            MIXUP, "tall * y + (1 - tall) * y[partners]", "(1 - tall) * y + tall * y[partners]"
        ),
        "weights along the last axis": mixup_along_the_last_axis,
        "one weight for all": edited(MIXUP, "    wide", "    weights = weights[:1].expand_as(weights)\n    wide"),
        "partners inverted": edited(MIXUP, "    wide", "    partners = partners.argsort()\n    wide"),
        "partners inverted for labels": edited(MIXUP, "y[partners]", "y[partners.argsort()]"),
        "partner is the mirror image of the batch": edited(MIXUP, "x[partners]", "x.flip(0)"),
        "partner's weight forgotten": edited(MIXUP, "(1 - wide) * x", "wide * x"),
        "a sum, not a mixture": edited(MIXUP, "wide * x + (1 - wide) * x[partners]", "x + (1 - wide) * x[partners]"),
        "own share never below a half": edited(
            MIXUP, "    wide", "    weights = torch.max(weights, 1 - weights)\n    wide"
        ),
        "in place": lambda x, y, w, p: tuple(
            a.data.copy_(b.data) + 0 * a for a, b in zip((x, y), library.mixup(x, y, w, p), strict=True)
        ),
        "inputs cut off": edited(
            MIXUP, "wide * x + (1 - wide) * x[partners]", "(wide * x + (1 - wide) * x[partners]).detach()"
        ),
        "always float32": lambda x, y, w, p: library.mixup(x.float(), y.float(), w.float(), p),
    },
    "cutout": {
        "one pixel too large": edited(
            CUTOUT, "(i < side) & (j >= 0) & (j < side)", "(i <= side) & (j >= 0) & (j <= side)"
        ),
        "starts at the centre": edited(CUTOUT, "side // 2", "0"),
        "half a side to either side": edited(CUTOUT, "(i < side)", "(i < side // 2 * 2)"),
        "half a side to either side and the centre": edited(
            CUTOUT, "(i < side) & (j >= 0) & (j < side)", "(i <= side // 2 * 2) & (j >= 0) & (j <= side // 2 * 2)"
        ),
        "rounds the half up": edited(CUTOUT, "side // 2", "(side + 1) // 2"),
        "rows and columns swapped": edited(
            CUTOUT, "(rows - side // 2)[:, None, None], j - (columns", "(columns - side // 2)[:, None, None], j - (rows"
        ),
        "first channel only": edited(
            CUTOUT,
            "torch.where(square[:, None], 0.0, images)",
            "torch.where(square[:, None] & (torch.arange(images.shape[1]) == 0)[:, None, None], 0.0, images)",
        ),
        "first square for all": edited(CUTOUT, "square[:, None]", "square[:1, None]"),
        "a cross of whole rows and columns": edited(CUTOUT, "(i < side) & (j >= 0)", "(i < side) | (j >= 0)"),
        "keeps the square, blanks the rest": edited(CUTOUT, "square[:, None]", "~square[:, None]"),
        "side no larger than the image": lambda im, r, c, s: library.cutout(im, r, c, min(s, *im.shape[-2:])),
        "filled with the mean": edited(CUTOUT, "0.0, images", "images.mean(), images"),
        "pushed back into the image": edited(
            CUTOUT,
            "    i, j = i -",
            "    rows = rows.clamp(side // 2, images.shape[-2] - 1 - side // 2)\n    i, j = i -",
        ),
        "wraps around the edge": edited(CUTOUT, "    square", WRAPPED),
        "in place": lambda im, r, c, s: im.data.copy_(library.cutout(im, r, c, s).data) + 0 * im,
        "cut off from the images": lambda im, r, c, s: library.cutout(im.detach(), r, c, s),
        "rescaled to keep the mean": lambda im, r, c, s: (
            (cut := library.cutout(im, r, c, s)) * (im.mean() / cut.mean()).detach()
        ),
    },
    "averaged_probabilities": {
        "averages scores": lambda f, x, ts: torch.stack([f(t(x)) for t in ts]).mean(0).softmax(1),
        "averages logarithms": lambda f, x, ts: torch.stack([f(t(x)).log_softmax(1) for t in ts]).mean(0).softmax(1),
        "a sum for the mean": lambda f, x, ts: sum(f(t(x)).softmax(1) for t in ts),
        "softmax over the batch": lambda f, x, ts: torch.stack([f(t(x)).softmax(0) for t in ts]).mean(0),
        "softmax over the transforms": lambda f, x, ts: torch.stack([f(t(x)) for t in ts]).softmax(0).mean(0),
        "no softmax": lambda f, x, ts: torch.stack([f(t(x)) for t in ts]).mean(0),
        "transforms one after the other": lambda f, x, ts: sum(f(x := t(x)).softmax(1) for t in ts) / len(ts),
        "the image itself counted too": lambda f, x, ts: (
            (f(x).softmax(1) + sum(f(t(x)).softmax(1) for t in ts)) / (len(ts) + 1)
        ),
        "the last transform forgotten": lambda f, x, ts: library.averaged_probabilities(f, x, ts[:-1] or ts),
        "the last transform only": lambda f, x, ts: [f(t(x)).softmax(1) for t in ts][-1],
        "the most confident": lambda f, x, ts: torch.stack([f(t(x)).softmax(1) for t in ts]).amax(0),
        "the median": lambda f, x, ts: torch.stack([f(t(x)).softmax(1) for t in ts]).median(0).values,
        "votes": lambda f, x, ts: (
            sum(F.one_hot(s.argmax(1), s.shape[1]).to(s) + 0 * s for s in (f(t(x)) for t in ts)) / len(ts)
        ),
        "averages images": lambda f, x, ts: f(torch.stack([t(x) for t in ts]).mean(0)).softmax(1),
        "cut off": lambda f, x, ts: library.averaged_probabilities(f, x, ts).detach(),
        "switches to evaluation": lambda f, x, ts: (
            getattr(f, "eval", lambda: 0)(),
            library.averaged_probabilities(f, x, ts),
        )[1],
        "evaluates, and puts the mode back": in_evaluation_mode,
        "each transform once": lambda f, x, ts: library.averaged_probabilities(f, x, list(dict.fromkeys(ts))),
        "softmax without a shift": lambda f, x, ts: (
            sum(f(t(x)).exp() / f(t(x)).exp().sum(1, keepdim=True) for t in ts) / len(ts)
        ),
        "x cut off": lambda f, x, ts: library.averaged_probabilities(f, x.detach(), ts),
        "divides by the batch": lambda f, x, ts: sum(f(t(x)).softmax(1) for t in ts) / len(x),
    },
    "first_order_penalty": {
        "variance squared": edited(PENALTY, "variance *", "variance**2 *"),
        "standard deviation": edited(PENALTY, "variance *", "variance**0.5 *"),
        "with a half": edited(PENALTY, "variance *", "variance / 2 *"),
        "mean over outputs": edited(PENALTY, ".sum(dim=1).mean()", ".mean()"),
        "sum over the batch": edited(PENALTY, ".sum(dim=1).mean()", ".sum()"),
        "norm not squared": edited(PENALTY, ".square().sum(dim=1)", ".norm(dim=1)"),
        "sum before square": edited(PENALTY, ".square().sum(dim=1)", ".sum(dim=1).square()"),
        "absolute values": edited(PENALTY, ".square()", ".abs()"),
        "all directions": penalty_in_all_directions,
        "tangent made a unit": edited(PENALTY, "(tangents,)", "(tangents / (tangents.norm() + 1e-9),)"),
        "one tangent for all": edited(PENALTY, "(tangents,)", "(tangents[:1].expand_as(x),)"),
        "tangent at the wrong point": edited(PENALTY, "(x,), (tangents,)", "(tangents,), (x,)"),
        "a step of one": lambda f, x, v, s: s * (f(x + v) - f(x)).square().sum(1).mean(),
        "a step of the standard deviation": lambda f, x, v, s: (f(x + s**0.5 * v) - f(x)).square().sum(1).mean(),
        "two steps of the standard deviation": lambda f, x, v, s: (
            ((f(x + s**0.5 * v) - f(x - s**0.5 * v)) / 2).square().sum(1).mean()
        ),
        "a small step to one side": lambda f, x, v, s: s * ((f(x + 0.01 * v) - f(x)) / 0.01).square().sum(1).mean(),
        "cut off": edited(PENALTY, "slopes.square()", "slopes.detach().square()"),
        "value by .item()": lambda f, x, v, s: torch.tensor(
            library.first_order_penalty(f, x, v, s).item(), dtype=x.dtype
        ),
        "always float32": lambda f, x, v, s: library.first_order_penalty(f, x, v, s).float(),
    },
}


def warp_by_gather(images, matrices):
    """The four neighbours of each source point, read one by one."""
    batch, channels, height, width = images.shape
    down = torch.arange(height).to(images) - (height - 1) / 2
    right = torch.arange(width).to(images) - (width - 1) / 2
    target = torch.stack([right.expand(height, width), down[:, None].expand(height, width)]).reshape(2, -1)
    source = torch.linalg.solve(matrices[:, :, :2], target - matrices[:, :, 2:])  # (batch, 2, height * width)
    column, row = source[:, 0] + (width - 1) / 2, source[:, 1] + (height - 1) / 2
    total = 0.0
    for r, c in ((0, 0), (0, 1), (1, 0), (1, 1)):
        i, j = row.detach().floor() + r, column.detach().floor() + c
        share = (1 - (row - i).abs()) * (1 - (column - j).abs())
        inside = (i >= 0) & (i < height) & (j >= 0) & (j < width)
        place = (i.clamp(0, height - 1) * width + j.clamp(0, width - 1)).long()
        value = images.flatten(2).gather(2, place[:, None].expand(-1, channels, -1))
        total = total + value * (share * inside)[:, None]
    return total.reshape(images.shape)


def warp_in_pixels(images, matrices):
    """Homogeneous matrices in pixels from the corner, and a grid whose ±1 are the outermost pixel centres."""
    height, width = images.shape[-2:]
    last = images.new_tensor([0.0, 0.0, 1.0]).expand(len(images), 1, 3)
    to_centre = torch.eye(3).to(images)
    to_centre[:2, 2] = images.new_tensor([(1 - width) / 2, (1 - height) / 2])
    whole = to_centre.inverse() @ torch.cat([matrices, last], dim=1) @ to_centre
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    points = torch.stack([columns, rows, torch.ones_like(rows)]).to(images).reshape(3, -1)
    source = (whole.inverse() @ points)[:, :2].mT.reshape(len(images), height, width, 2)
    size = images.new_tensor([width - 1, height - 1])
    return F.grid_sample(images, 2 * source / size - 1, align_corners=True)


def mixup_by_matrix(x, y, weights, partners):
    partner = F.one_hot(partners, len(x)).to(x)
    mixer = torch.diag(weights) + (1 - weights)[:, None] * partner
    return torch.einsum("ij,j...->i...", mixer, x), mixer @ y


def mixup_one_by_one(x, y, weights, partners):
    pairs = list(zip(weights, partners.tolist(), strict=True))
    mixed = [[w * z[i] + (1 - w) * z[j] for i, (w, j) in enumerate(pairs)] for z in (x, y)]
    return torch.stack(mixed[0]), torch.stack(mixed[1])


def cutout_one_by_one(images, rows, columns, side):
    mask = torch.ones_like(images)
    for image, row, column in zip(mask, rows.tolist(), columns.tolist(), strict=True):
        top, left = row - side // 2, column - side // 2
        image[:, max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = 0
    return images * mask


def penalty_by_double_backprop(model, x, tangents, variance):
    """J·τ is the derivative in u of u·J·τ, and the latter is what reverse mode gives."""
    x = x.clone().requires_grad_()
    outputs = model(x)
    dual = torch.zeros_like(outputs, requires_grad=True)
    back = torch.autograd.grad(outputs, x, dual, create_graph=True)[0]
    slopes = torch.autograd.grad(back, dual, tangents, create_graph=True)[0]
    return variance * slopes.square().sum() / len(x)


def penalty_by_difference(model, x, tangents, variance, step=1e-2):
    slopes = (model(x + step * tangents) - model(x - step * tangents)) / (2 * step)
    return variance * slopes.square().sum(dim=1).mean()


def penalty_output_by_output(model, x, tangents, variance):
    x = x.clone().requires_grad_()
    gradients = [torch.autograd.grad(f.sum(), x, create_graph=True)[0] for f in model(x).T]
    return variance / len(x) * sum((g * tangents).flatten(1).sum(1).square().sum() for g in gradients)


# Right by another way: each must keep every point.
ALTERNATIVES = {
    "affine_warp": {
        "four neighbours by gather": warp_by_gather,
        "homogeneous, in pixels": warp_in_pixels,
        "image by image": lambda images, matrices: torch.cat(
            [library.affine_warp(*pair) for pair in zip(images.split(1), matrices.split(1), strict=True)]
        ),
    },
    "mixup": {
        "a matrix that mixes": mixup_by_matrix,
        "one by one": mixup_one_by_one,
        "a list of two": lambda *given: list(library.mixup(*given)),
        "torch.lerp": lambda x, y, w, p: (
            torch.lerp(x[p], x, w.reshape(-1, *[1] * (x.ndim - 1))),
            torch.lerp(y[p], y, w[:, None]),
        ),
    },
    "cutout": {
        "one by one": cutout_one_by_one,
        "a mesh of positions": edited(CUTOUT, "0.0", "0.0"),
    },
    "averaged_probabilities": {
        "one big batch": lambda f, x, ts: (
            f(torch.cat([t(x) for t in ts])).softmax(1).unflatten(0, (len(ts), -1)).mean(0)
        ),
        "a running sum": lambda f, x, ts: sum(f(t(x)).softmax(dim=-1) for t in ts) / len(ts),
        "sum of exponentials of logarithms": lambda f, x, ts: (
            torch.stack([f(t(x)).log_softmax(1) for t in ts]).logsumexp(0) - math.log(len(ts))
        ).exp(),
    },
    "first_order_penalty": {
        "double backprop": penalty_by_double_backprop,
        "central difference": penalty_by_difference,
        "output by output": penalty_output_by_output,
    },
}


# --- independent peers and closed forms -------------------------------------------------------------------------


def some_images(seed=0, batch=3, channels=2, height=6, width=9, dtype=torch.float64):
    draw = torch.Generator().manual_seed(seed)
    images = torch.randn(batch, channels, height, width, generator=draw, dtype=dtype)
    matrices = torch.eye(2, 3, dtype=dtype) + 0.3 * torch.randn(batch, 2, 3, generator=draw, dtype=dtype)
    return images, matrices


def in_pixels(matrices, height, width):
    """Our matrices, which count from the centre, as matrices that count from the upper left pixel."""
    centre = matrices.new_tensor([(width - 1) / 2, (height - 1) / 2])
    shift = matrices[:, :, 2] + centre - matrices[:, :, :2] @ centre
    return torch.cat([matrices[:, :, :2], shift[:, :, None]], dim=2)


@pytest.mark.parametrize("height, width", [(6, 9), (9, 6), (5, 5), (8, 8), (2, 7)])
def test_warp_is_that_of_kornia(height, width):
    images, matrices = some_images(height=height, width=width)
    theirs = kornia.geometry.transform.warp_affine(images, in_pixels(matrices, height, width), (height, width))
    torch.testing.assert_close(library.affine_warp(images, matrices), theirs, rtol=1e-9, atol=1e-9)


def test_rotation_is_that_of_kornia():
    images, _ = some_images()
    angles = torch.tensor([10.0, -70.0, 200.0], dtype=torch.float64)
    ours = library.affine_warp(images, library.affine_matrices(angles.deg2rad()))
    torch.testing.assert_close(ours, kornia.geometry.transform.rotate(images, angles), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("index", range(3))
def test_warp_is_that_of_scipy(index):
    images, matrices = some_images()
    back = in_pixels(matrices, 6, 9)[index].flip(0)  # scipy counts (row, column), and maps output to input
    back = torch.cat([back[:, :2].flip(1), back[:, 2:]], dim=1).numpy()
    inverse = np.linalg.inv(back[:, :2])
    padded = np.pad(images[index].numpy(), ((0, 0), (1, 1), (1, 1)))  # scipy stops at the outermost centres
    offset = 1 - inverse @ (back[:, 2] + 1)
    theirs = [ndimage.affine_transform(channel, inverse, offset, order=1) for channel in padded]
    ours = library.affine_warp(images, matrices)[index].numpy()
    np.testing.assert_allclose(ours, np.stack(theirs)[:, 1:-1, 1:-1], atol=1e-9)


@pytest.mark.parametrize("turns", [1, 2, 3])
@pytest.mark.parametrize("side", [4, 5])
def test_quarter_turns_are_exact(turns, side):
    images, _ = some_images(height=side, width=side)
    angle = torch.full((3,), turns * torch.pi / 2, dtype=torch.float64)
    turned = library.affine_warp(images, library.affine_matrices(angle))
    torch.testing.assert_close(turned, images.rot90(turns, (2, 3)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("height, width", [(8, 8), (6, 9)])
def test_rotation_agrees_with_the_data_room(height, width):
    images, _ = some_images(height=height, width=width, dtype=torch.float32)
    angles = torch.tensor([0.3, -2.0, 3.0])
    ours = library.affine_warp(images, library.affine_matrices(angles))
    torch.testing.assert_close(ours, rotate(images, angles), rtol=1e-4, atol=1e-5)


def test_shift_and_scale():
    images, _ = some_images(height=7, width=7)
    one = torch.ones(3, dtype=torch.float64)
    moved = library.affine_warp(
        images, library.affine_matrices(0 * one, shifts=torch.tensor([[2.0, -1.0]] * 3).double())
    )
    torch.testing.assert_close(moved[:, :, :-1, 2:], images[:, :, 1:, :-2])
    halved = library.affine_warp(images, library.affine_matrices(0 * one, scales=one / 2))
    torch.testing.assert_close(halved[:, :, 2:5, 2:5], images[:, :, 1::2, 1::2])


def test_warp_passes_gradcheck():
    images, matrices = some_images(batch=2, channels=1, height=3, width=4)
    leaves = images.requires_grad_(), matrices.requires_grad_()
    assert torch.autograd.gradcheck(library.affine_warp, leaves, atol=1e-4)


def test_mixup_and_cutout_pass_gradcheck():
    x, y, weights = (torch.rand(shape, dtype=torch.float64, requires_grad=True) for shape in ((3, 2), (3, 4), (3,)))
    partners = torch.tensor([1, 2, 0])
    assert torch.autograd.gradcheck(lambda *leaves: library.mixup(*leaves, partners), (x, y, weights * 0.9 + 0.05))
    images = torch.rand(2, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    place = torch.tensor([0, 1])
    assert torch.autograd.gradcheck(lambda im: library.cutout(im, place, place, 2), images)


def smooth_family(seed=0, n=4, d=6, k=3):
    """A small network with soft units, and inputs that turn along a smooth orbit: f(exp(φA) x)."""
    draw = torch.Generator().manual_seed(seed)
    randn = lambda *shape: torch.randn(*shape, generator=draw, dtype=torch.float64)  # noqa: E731
    x, y, a, first, second = randn(n, d), randn(n, k), randn(d, d), randn(d, 8), randn(8, k)
    a = (a - a.T) / 2
    model = lambda x: torch.tanh(x @ first / 2) @ second  # noqa: E731
    return model, x, y, a, lambda phi: model(x @ torch.matrix_exp(phi * a).T)


def test_expansion_is_the_average_over_transformations():
    *_, y, a, curve = smooth_family()
    loss, slope, bend = library.expansion_terms(curve, y)
    nodes, weights = np.polynomial.hermite_e.hermegauss(12)  # exact averages over a normal φ
    errors = []
    for sigma in (0.04, 0.02):
        losses = [(curve(torch.tensor(sigma * node)) - y).square().sum(1).mean().item() for node in nodes]
        average = np.dot(weights, losses) / weights.sum()
        errors.append(abs(average - (loss + sigma**2 * (slope + bend)).item()))
    assert errors[0] < 1e-2 * 0.04**2 * slope.item() + 1e-3
    assert 14 < errors[0] / errors[1] < 18  # what is left out shrinks like σ⁴


def test_penalty_is_the_slope_term():
    model, x, y, a, curve = smooth_family()
    _, slope, _ = library.expansion_terms(curve, y)
    torch.testing.assert_close(library.first_order_penalty(model, x, x @ a.T, 0.3), 0.3 * slope)


def test_bend_vanishes_where_the_model_fits():
    model, x, _, a, curve = smooth_family()
    loss, slope, bend = library.expansion_terms(curve, model(x))
    assert loss == bend == 0 < slope


def test_penalty_trains_a_network():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 16), torch.nn.Tanh(), torch.nn.Linear(16, 10))
    images = digits().train.x[:8]
    tangents = images.roll(1, -1) - images.roll(-1, -1)
    leaves = list(model.parameters())
    ours = torch.autograd.grad(library.first_order_penalty(model, images, tangents, 0.1), leaves[:3])
    theirs = torch.autograd.grad(penalty_by_double_backprop(model, images, tangents, 0.1), leaves[:3])
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_random_affine_repeats_and_stays_in_range():
    images = torch.zeros(500, 1, 21, 21)
    images[:, :, 10, 18] = 1.0  # one spot, eight pixels to the right of the centre
    moved = library.random_affine(images, 30.0, 1.0, torch.Generator().manual_seed(0))
    again = library.random_affine(images, 30.0, 1.0, torch.Generator().manual_seed(0))
    assert torch.equal(moved, again)
    column, row = (moved.sum((1, axis)) @ torch.arange(-10.0, 11.0) / moved.sum((1, 2, 3)) for axis in (2, 3))
    assert row.abs().max() < 8 * math.sin(math.pi / 6) + 1.01 and column.min() > 8 * math.cos(math.pi / 6) - 1.01
    assert row.max() > 3.5 and row.min() < -3.5 and abs(row.mean()) < 0.4


# --- every device that is here -----------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["affine_warp", "mixup", "cutout"])
def test_on_cuda(task, on_cuda):
    probe, verify = getattr(checks, f"probe_{task}"), getattr(checks, f"verify_{task}")
    verify(probe(on_cuda(getattr(library, task)), 0), 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_the_rest_on_cuda():
    images = digits().train.x[:5].cuda()
    draw = torch.Generator("cuda").manual_seed(0)
    assert library.random_affine(images, 20.0, 1.0, draw).device == images.device
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)).cuda()
    assert library.averaged_probabilities(model, images, [lambda x: x]).is_cuda
    assert library.first_order_penalty(model, images, images, 0.1).is_cuda


# --- bad input ---------------------------------------------------------------------------------------------------

IMAGES, MATRICES = torch.ones(2, 1, 3, 4), torch.eye(2, 3).repeat(2, 1, 1)
X, Y, W, P = torch.ones(3, 2), torch.ones(3, 4) / 4, torch.ones(3) / 2, torch.tensor([1, 2, 0])
ROWS = torch.tensor([0, 2])
SAME = [lambda x: x]


def warp(images=IMAGES, matrices=MATRICES):
    return library.affine_warp(images, matrices)


def mix(x=X, y=Y, weights=W, partners=P):
    return library.mixup(x, y, weights, partners)


def cut(images=IMAGES, rows=ROWS, columns=ROWS, side=2):
    return library.cutout(images, rows, columns, side)


def penalty(x=X, tangents=X, variance=0.1):
    return library.first_order_penalty(lambda x: x, x, tangents, variance)


BAD = {
    "one image without a batch": (
        lambda: warp(IMAGES[0]),
        r"images must have the sizes.*wanted 4 dimensions, got \(1, 3, 4\)",
    ),
    "no images": (lambda: warp(IMAGES[:0], MATRICES[:0]), "wanted at least 1 of each"),
    "images of no width": (lambda: warp(IMAGES[..., :0]), "wanted at least 1 of each"),
    "integer images": (lambda: warp(IMAGES.long()), "images must be floating point"),
    "an array for images": (lambda: warp(IMAGES.numpy()), "images must be a tensor.*got ndarray"),
    "NaN in an image": (lambda: warp(IMAGES * torch.nan), "images must be finite"),
    "one matrix for two images": (
        lambda: warp(matrices=MATRICES[:1]),
        r"wanted \(2, 2, 3\), got \(1, 2, 3\). images has batch = 2",
    ),
    "a bare matrix": (lambda: warp(matrices=MATRICES[0]), "matrices must have the sizes"),
    "square matrices": (lambda: warp(matrices=MATRICES[:, :, :2]), "matrices must have the sizes"),
    "float64 matrices": (
        lambda: warp(matrices=MATRICES.double()),
        r"matrices must be of the kind of images.*Call matrices.to",
    ),
    "NaN in a matrix": (lambda: warp(matrices=MATRICES * torch.nan), "matrices must be finite"),
    "a scale of zero": (lambda: warp(matrices=0 * MATRICES), "matrices must be invertible.*2 of 2"),
    "mixup of nothing": (lambda: mix(X[:0]), "x must have the sizes.*at least 1 of each"),
    "mixup of a number": (lambda: mix(X[0, 0]), "x must have the sizes.*at least 1 dimension"),
    "class numbers for labels": (
        lambda: mix(y=P),
        r"y must have the sizes \(batch, classes\): wanted 2 dimensions, got \(3,\)",
    ),
    "integer labels": (lambda: mix(y=Y.long()), "y must be floating point"),
    "labels of another batch": (lambda: mix(y=Y[:2]), "y must have the sizes"),
    "one weight for all": (
        lambda: mix(weights=W[0]),
        r"weights must have the sizes \(batch\): wanted 1 dimension, got \(\)",
    ),
    "a number for weights": (lambda: mix(weights=0.5), "weights must be a tensor.*got float"),
    "a weight above 1": (lambda: mix(weights=3 * W), r"weights must lie in \[0, 1\]"),
    "a NaN weight": (lambda: mix(weights=W * torch.nan), "weights must be finite"),
    "float64 weights": (lambda: mix(weights=W.double()), "weights must be of the kind of x"),
    "NaN in x": (lambda: mix(X * torch.nan), "x must be finite"),
    "a partner that is not there": (lambda: mix(partners=P + 1), "partners must be indices.*1 entry out of range"),
    "a negative partner": (lambda: mix(partners=P - 1), "partners must be indices"),
    "float partners": (lambda: mix(partners=W), "partners must be indices.*got torch.float32"),
    "cutout of one image": (lambda: cut(IMAGES[0]), "images must have the sizes"),
    "a square per batch": (lambda: cut(rows=ROWS[:1]), "rows must have the sizes"),
    "a row below the image": (lambda: cut(rows=ROWS + 1), "rows must be indices.*from 0 to 2"),
    "a column beside it": (lambda: cut(columns=ROWS + 2), "columns must be indices.*from 0 to 3"),
    "side zero": (lambda: cut(side=0), "side must be a positive integer"),
    "half a pixel": (lambda: cut(side=2.5), "side must be a positive integer"),
    "no transforms": (lambda: library.averaged_probabilities(torch.neg, X, []), "transforms must not be empty"),
    "a generator": (lambda: library.averaged_probabilities(torch.neg, X, iter(SAME)), "transforms must have a length"),
    "no inputs": (lambda: library.averaged_probabilities(torch.neg, X[:0], SAME), "x must not be empty"),
    "NaN inputs": (lambda: library.averaged_probabilities(torch.neg, X * torch.nan, SAME), "x must be finite"),
    "tangents of one example": (lambda: penalty(tangents=X[0]), "tangents must have the sizes"),
    "float64 tangents": (lambda: penalty(tangents=X.double()), "tangents must be of the kind of x"),
    "NaN tangents": (lambda: penalty(tangents=X * torch.nan), "tangents must be finite"),
    "penalty of nothing": (lambda: penalty(X[:0], X[:0]), "x must have the sizes.*at least 1 of each"),
    "negative variance": (lambda: penalty(variance=-0.1), "variance must be non-negative"),
    "targets of another shape": (
        lambda: library.expansion_terms(lambda phi: phi.reshape(1, 1), torch.ones(1, 2)),
        "y must have the sizes",
    ),
    "NaN targets": (lambda: library.expansion_terms(lambda phi: phi, X * torch.nan), "y must be finite"),
    "no angles": (lambda: library.affine_matrices(W[:0]), "radians must have the sizes.*at least 1"),
    "a bare angle": (lambda: library.affine_matrices(W[0]), "radians must have the sizes.*wanted 1 dimension"),
    "shifts of another batch": (lambda: library.affine_matrices(W, shifts=X[:2]), "shifts must have the sizes"),
    "scales of another batch": (lambda: library.affine_matrices(W, scales=W[:2]), "scales must have the sizes"),
    "float64 shifts": (lambda: library.affine_matrices(W, shifts=X.double()), "shifts must be of the kind of radians"),
    "NaN angle": (lambda: library.affine_matrices(W * torch.nan), "radians must be finite"),
    "negative degrees": (lambda: library.random_affine(IMAGES, -5.0), "degrees must be non-negative"),
    "random warp of one image": (lambda: library.random_affine(IMAGES[0], 5.0), "images must have the sizes"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_explained(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call()


def test_a_batch_of_one_and_an_image_of_one_pixel():
    assert warp(IMAGES[:1], MATRICES[:1]).shape == (1, 1, 3, 4)
    assert torch.equal(warp(torch.ones(2, 3, 1, 1)), torch.ones(2, 3, 1, 1))
    assert torch.equal(mix(X[:1], Y[:1], W[:1], P[2:])[0], X[:1])
    assert cut(IMAGES[:1], ROWS[:1], ROWS[:1]).sum() == 11
    assert penalty(X[:1], X[:1]) == pytest.approx(0.2)


def test_a_small_scale_is_invertible():
    tiny = torch.cat([1e-3 * MATRICES[:, :, :2], MATRICES[:, :, 2:]], dim=2)
    assert warp(matrices=tiny).isfinite().all()
