"""tangent_distance: wrong and right versions of each task, independent peers, closed forms, bad input."""

import math

import kornia
import numpy as np
import pytest
import torch
from checks import tangent_distance as checks
from scipy.ndimage import gaussian_filter1d

from course_lib import tangent_distance as library
from course_lib.data import digits, rotate
from course_lib.grading import verdicts
from course_lib.preconditions import require_sizes

GRADIENT = """
def gradient(images, sigma):
    hills, slopes = [], []
    for size in images.shape[-2:]:
        place = torch.arange(size, dtype=images.dtype, device=images.device)
        offset = place[:, None] - place
        hill = torch.exp(-(offset**2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))
        hills.append(hill)
        slopes.append(-offset / sigma**2 * hill)
    down, right = slopes[0] @ images @ hills[1].T, hills[0] @ images @ slopes[1].T
    return torch.cat([down, right], dim=1)
"""
ROTATION = f"""{GRADIENT}
def tangents(images, sigma):
    height, width = images.shape[-2:]
    v = torch.arange(height, dtype=images.dtype, device=images.device)[:, None] - (height - 1) / 2
    u = torch.arange(width, dtype=images.dtype, device=images.device) - (width - 1) / 2
    down, right = gradient(images, sigma).unbind(dim=1)
    return torch.stack([-right, -down, u * down - v * right], dim=1)
"""
BASIS = """
def basis(tangents):
    lengths = tangents.norm(dim=-1, keepdim=True)
    unit = tangents / torch.where(lengths > 0, lengths, 1.0)
    _, singular, rows = torch.linalg.svd(unit, full_matrices=False)
    cut = tangents.shape[2] * torch.finfo(tangents.dtype).eps * singular[:, :1]
    return rows * (singular > cut)[..., None]
"""
ONE_SIDED = f"""{BASIS}
def distance(x, y, t):
    q = basis(t)
    r = (x - y)[..., None]
    left = r - q.mT @ (q @ r)
    return (left**2).sum(dim=(1, 2))
"""
TWO_SIDED = f"""{BASIS}
def distance(x, s, y, t):
    q = basis(torch.cat([s, t], dim=1))
    r = (x - y)[..., None]
    left = r - q.mT @ (q @ r)
    return (left**2).sum(dim=(1, 2))
"""
SOLVED = "torch.linalg.pinv(gram, hermitian=True, rtol=100 * torch.finfo(x.dtype).eps) @ side"
MATRIX = f"""{BASIS}
def matrix(x, s, y, t):
    s, t = basis(s), basis(t)
    both = torch.cat([s[:, None].expand(-1, len(t), -1, -1), t[None].expand(len(s), -1, -1, -1)], dim=2)
    r = (x[:, None] - y[None])[..., None]
    gram = both @ both.mT
    side = both @ r
    solved = {SOLVED}
    return (r.square().sum(dim=(2, 3)) - (side * solved).sum(dim=(2, 3))).clamp(min=0)
"""


def edited(source, *changes):
    """The last function in a source text, with the mistakes that pairs of old and new text make."""
    for old, new in zip(changes[::2], changes[1::2], strict=True):
        assert old in source, old
        source = source.replace(old, new)
    scope = {"torch": torch, "math": math}
    exec(source, scope)
    return scope[source.split("def ")[-1].split("(")[0]]


# Right answers, for mistakes to be made around them.
slopes, movements, rows_of_plane = edited(GRADIENT), edited(ROTATION), edited(BASIS)
to_plane, between_planes, all_planes = edited(ONE_SIDED), edited(TWO_SIDED), edited(MATRIX)


def cut(x):
    """A square out of each image."""
    return x[..., : min(x.shape[-2:]), : min(x.shape[-2:])]


def one_by_one(x, s, y, t):
    """The two-sided distance, the planes taken out one after the other: wrong, for they are not orthogonal."""
    left = (x - y)[..., None]
    for plane in (s, t):
        basis = rows_of_plane(plane)
        left = left - basis.mT @ (basis @ left)
    return left.square().sum(dim=(1, 2))


def both_at_once(x, s, y, t):
    """The two-sided distance, both planes' shares of the difference subtracted: wrong for the same reason."""
    left = difference = (x - y)[..., None]
    for plane in (s, t):
        basis = rows_of_plane(plane)
        left = left - basis.mT @ (basis @ difference)
    return left.square().sum(dim=(1, 2))


def raw(plane):
    """An orthonormal basis by QR alone: for dependent tangents it holds directions that no tangent has."""
    return torch.linalg.qr(plane.mT)[0].mT.contiguous()


def basis_by_gram_matrix(tangents):
    """The eigenvalues of TTᵀ are squared singular values: with them all below √eps is lost in rounding."""
    unit = torch.nn.functional.normalize(tangents, dim=-1, eps=1e-30)
    squares, turn = torch.linalg.eigh(unit @ unit.mT)
    cut = (tangents.shape[2] * torch.finfo(tangents.dtype).eps) ** 2 * squares[:, -1:]
    return turn.mT @ unit * torch.where(squares > cut, squares.clamp(min=1e-30).rsqrt(), 0)[..., None]


# What students write by mistake: each must lose points.
MUTANTS = {
    "image_gradient": {
        "smooth, no slope": edited(GRADIENT, "-offset / sigma**2 * hill)", "hill)"),
        "sign of the slope": edited(GRADIENT, "-offset / sigma**2", "offset / sigma**2"),
        "slope not divided by sigma squared": edited(GRADIENT, "-offset / sigma**2", "-offset"),
        "slope divided by sigma": edited(GRADIENT, "-offset / sigma**2", "-offset / sigma"),
        "right before down": edited(GRADIENT, "[down, right]", "[right, down]"),
        "squares cut out": lambda x, s: slopes(cut(x), s),
        "not smoothed across": edited(GRADIENT, "slopes[0] @ images @ hills[1].T", "slopes[0] @ images"),
        "hills rescaled to sum to 1": edited(
            GRADIENT, "        hills.append", "        hill = hill / hill.sum(1, keepdim=True)\n        hills.append"
        ),
        "without 1/√(2π)": edited(GRADIENT, " / (sigma * math.sqrt(2 * math.pi))", " / sigma"),
        "variance for width": edited(GRADIENT, "(2 * sigma**2))", "(2 * sigma))"),
        "differences of pixels, no smoothing": lambda x, s: torch.cat(
            [torch.nn.functional.pad((x.roll(-1, d) - x.roll(1, d)) / 2, (0, 0)) for d in (-2, -1)], dim=1
        ),
        "hills cut off at 2σ": edited(
            GRADIENT, "        hills.append", "        hill = hill * (offset.abs() <= 2 * sigma)\n        hills.append"
        ),
        "slope in the other direction": edited(
            GRADIENT, "slopes[0] @ images @ hills[1].T", "slopes[0].T @ images @ hills[1]"
        ),
        "always float32": lambda x, s: slopes(x.float(), s),
        "float32 inside": lambda x, s: slopes(x.float(), s).to(x.dtype),
        "detached": lambda x, s: slopes(x.detach(), s) + 0 * x,
    },
    "shift_and_rotation_tangents": {
        "sign of the shifts": edited(ROTATION, "[-right, -down,", "[right, down,"),
        "down before right": edited(ROTATION, "[-right, -down,", "[-down, -right,"),
        "turns clockwise": edited(ROTATION, "u * down - v * right", "v * right - u * down"),
        "about the corner": edited(ROTATION, " - (height - 1) / 2", "", " - (width - 1) / 2", ""),
        "about half the size": edited(ROTATION, "- (width - 1) / 2", "- width / 2"),
        "scales instead of turning": edited(ROTATION, "u * down - v * right", "-u * right - v * down"),
        "plus for minus in the rotation": edited(ROTATION, "u * down - v * right", "u * down + v * right"),
        "per degree": edited(ROTATION, "u * down - v * right", "(u * down - v * right) * math.pi / 180"),
        "one centre for both sides": edited(ROTATION, "- (width - 1) / 2", "- (height - 1) / 2"),
        "coordinates from -1 to 1": edited(ROTATION, "u * down - v * right", "(u * down - v * right) * 2 / width"),
        "not smooth enough": lambda x, s: movements(x, s / 2),
        "unit length": lambda x, s: torch.nn.functional.normalize(movements(x, s).flatten(2), dim=2).view(
            len(x), 3, *x.shape[2:]
        ),
        "detached": lambda x, s: movements(x.detach(), s) + 0 * x,
    },
    "orthonormal_tangents": {
        "QR as it comes": raw,
        "unit, not orthogonal": lambda t: torch.nn.functional.normalize(t, dim=-1),
        "singular vectors, none dropped": lambda t: torch.linalg.svd(t, full_matrices=False)[2],
        "left out: the scaling to length 1": edited(
            BASIS, "tangents / torch.where(lengths > 0, lengths, 1.0)", "tangents"
        ),
        "scaled by the whole image's length": edited(
            BASIS, "tangents / torch.where(lengths > 0, lengths, 1.0)", "tangents / tangents.norm()"
        ),
        "orthogonal, not of length 1": edited(
            BASIS, "rows * (singular > cut)", "singular[..., None] * rows * (singular > cut)"
        ),
        "drops the largest": edited(BASIS, "(singular > cut)", "((singular < singular[:, :1]) & (singular > cut))"),
        "keeps only what is dropped": edited(BASIS, "singular > cut", "singular <= cut"),
        "drops too much": edited(BASIS, "torch.finfo(tangents.dtype).eps", "0.05"),
        "cut fixed at 0.01": edited(BASIS, "singular > cut", "singular > 0.01"),
        "float32's cut in float64": edited(BASIS, "torch.finfo(tangents.dtype).eps", "torch.finfo(torch.float32).eps"),
        "from the Gram matrix, whose eigenvalues are squares": basis_by_gram_matrix,
        "NaN for blank images": lambda t: rows_of_plane(t) + 0 * t / t.norm(dim=(1, 2), keepdim=True),
        "all images in one plane": lambda t: rows_of_plane(t.reshape(1, -1, t.shape[2])[:, : t.shape[2]])[
            :, : t.shape[1]
        ].expand_as(t),
        "in place": lambda t: t.copy_(rows_of_plane(t)),
        "always float32": lambda t: rows_of_plane(t.float()),
    },
    "one_sided_distance": {
        "Euclidean": lambda x, y, t: (x - y).square().sum(1),
        "root taken": lambda x, y, t: to_plane(x, y, t).clamp(min=1e-12).sqrt(),
        "mean over pixels": edited(ONE_SIDED, ".sum(", ".mean("),
        "length of what the plane explains": edited(ONE_SIDED, "left**2", "(r - left)**2"),
        "tangents not made orthonormal": edited(ONE_SIDED, "basis(t)\n    r", "t\n    r"),
        "tangents only of length 1": edited(
            ONE_SIDED, "basis(t)\n    r", "torch.nn.functional.normalize(t, dim=-1)\n    r"
        ),
        "plane through zero at x only": edited(ONE_SIDED, "q.mT @ (q @ r)", "q.mT @ (q @ x[..., None])"),
        "QR, blank or not": edited(ONE_SIDED, "basis(t)\n    r", "torch.linalg.qr(t.mT)[0].mT\n    r"),
        "first tangent only": edited(ONE_SIDED, "basis(t)\n    r", "basis(t[:, :1])\n    r"),
        "strong ridge": lambda x, y, t: torch.stack(
            [
                ((a - b) - s.T @ torch.linalg.solve(s @ s.T + 0.1 * torch.eye(len(s)).to(s), s @ (a - b)))
                .square()
                .sum()
                for a, b, s in zip(x, y, t, strict=True)
            ]
        ),
        "detached": lambda x, y, t: to_plane(x.detach(), y, t) + 0 * x.sum(1),
        "adds up the pairs": lambda x, y, t: to_plane(x, y, t).sum().expand(len(x)),
        "every pair": lambda x, y, t: all_planes(x, 0 * t, y, t),
    },
    "two_sided_distance": {
        "one-sided": lambda x, s, y, t: to_plane(x, y, t),
        "the smaller of two one-sided": lambda x, s, y, t: torch.minimum(to_plane(x, y, t), to_plane(x, y, s)),
        "the mean of two one-sided": lambda x, s, y, t: (to_plane(x, y, t) + to_plane(x, y, s)) / 2,
        "one plane after the other": one_by_one,
        "both planes' shares subtracted": both_at_once,
        "root taken": lambda x, s, y, t: between_planes(x, s, y, t).clamp(min=1e-12).sqrt(),
        "mean over pixels": edited(TWO_SIDED, ".sum(", ".mean("),
        "QR of both, blank or not": edited(
            TWO_SIDED,
            "basis(torch.cat([s, t], dim=1))",
            "torch.linalg.qr(torch.cat([s, t], 1).mT)[0].mT",
        ),
        "two bases, not one": edited(
            TWO_SIDED,
            "basis(torch.cat([s, t], dim=1))",
            "torch.cat([basis(s), basis(t)], dim=1)",
        ),
        "sum of the images": edited(TWO_SIDED, "x - y", "x + y"),
        "same coefficients on both sides": lambda x, s, y, t: to_plane(
            x, y, s[:, : min(s.shape[1], t.shape[1])] - t[:, : min(s.shape[1], t.shape[1])]
        ),
        "detached": lambda x, s, y, t: between_planes(x.detach(), s, y, t) + 0 * x.sum(1),
    },
    "tangent_distance_matrix": {
        "one-sided": edited(MATRIX, "    both = torch.cat([s[", "    s = 0 * s\n    both = torch.cat([s["),
        "Euclidean": lambda x, s, y, t: torch.cdist(x, y).square(),
        "root taken": lambda x, s, y, t: all_planes(x, s, y, t).clamp(min=1e-12).sqrt(),
        "transposed": lambda x, s, y, t: all_planes(x, s, y, t).T.contiguous(),
        "angles between the planes forgotten": edited(MATRIX, SOLVED, "side"),
        "sign of the Schur complement": edited(
            MATRIX, "gram = both @ both.mT", "gram = both @ both.mT * (2 * torch.eye(both.shape[2]) - 1).to(both)"
        ),
        "strong ridge": edited(
            MATRIX,
            SOLVED,
            "torch.linalg.solve(gram + 1e-2 * torch.eye(gram.shape[2]).to(gram), side)",
        ),
        "float32's cut in float64": edited(MATRIX, "100 * torch.finfo(x.dtype).eps", "1e-5"),
        "ridge, harmless in float32 only": edited(
            MATRIX, SOLVED, "torch.linalg.solve(gram + 1e-6 * torch.eye(gram.shape[2]).to(gram), side)"
        ),
        "rounded below zero": edited(MATRIX, ".clamp(min=0)", ""),
        "no ridge, no cut": edited(
            MATRIX,
            SOLVED,
            "torch.linalg.inv_ex(gram)[0] @ side",
        ),
        "QR, blank or not": lambda x, s, y, t: all_planes(x, raw(s), y, raw(t)),
        "tangents not made orthonormal": edited(MATRIX, "s, t = basis(s), basis(t)", "pass", SOLVED, "side"),
        "what the planes explain": edited(MATRIX, "r.square().sum(dim=(2, 3)) - (side", "(side"),
        "the first image's plane for all": lambda x, s, y, t: all_planes(x, s[:1].expand_as(s), y, t),
        "matched pairs only": lambda x, s, y, t: all_planes(x, s, y, t) * torch.eye(len(x), len(y), dtype=x.dtype),
        "in place": lambda x, s, y, t: all_planes(x, s, y, t.copy_(rows_of_plane(t))),
        "always float32": lambda *planes: all_planes(*(part.float() for part in planes)),
    },
}


def gradient_by_convolution(images, sigma):
    """One filter as large as the image on either side, as ``conv2d`` wants it."""
    height, width = images.shape[-2:]

    def bell(size):
        offset = torch.arange(1 - size, size, dtype=images.dtype, device=images.device)
        return torch.exp(-(offset**2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi)), offset / sigma**2

    (rows, row_slope), (columns, column_slope) = bell(height), bell(width)  # conv2d correlates: no minus sign
    down, right = torch.outer(rows * row_slope, columns), torch.outer(rows, columns * column_slope)
    filters = torch.stack([down, right])[:, None]
    return torch.nn.functional.conv2d(images, filters, padding=(height - 1, width - 1))


def smooth_at(images, sigma, rows, columns):
    def hills(places, size):
        offset = places[..., None] - torch.arange(size, dtype=images.dtype, device=images.device)
        return torch.exp(-(offset**2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))

    height, width = images.shape[-2:]
    return torch.einsum("bij,hwi,hwj->bhw", images[:, 0], hills(rows, height), hills(columns, width))


def warped(images, sigma, right, down, angle):
    """The smooth image, shifted and turned."""
    height, width = images.shape[-2:]
    like = {"dtype": images.dtype, "device": images.device}
    v, u = torch.meshgrid(torch.arange(height, **like), torch.arange(width, **like), indexing="ij")
    v, u = v - (height - 1) / 2 - down, u - (width - 1) / 2 - right
    rows, columns = v * angle.cos() + u * angle.sin(), u * angle.cos() - v * angle.sin()
    return smooth_at(images, sigma, rows + (height - 1) / 2, columns + (width - 1) / 2)


def tangents_by_autograd(images, sigma):
    """Forward-mode derivatives of the warp itself."""
    still = torch.zeros(3, dtype=images.dtype, device=images.device)
    return torch.func.jacfwd(lambda move: warped(images, sigma, *move))(still).movedim(-1, 1)


def gradient_by_autograd(images, sigma):
    right, down, _ = tangents_by_autograd(images, sigma).unbind(dim=1)
    return torch.stack([-down, -right], dim=1)


def tangents_by_moving_hills(images, sigma):
    """A round hill moves with its pixel: weigh the pixels by their velocities first, and smooth afterwards."""
    height, width = images.shape[-2:]
    like = {"dtype": images.dtype, "device": images.device}
    v, u = torch.linspace(-1, 1, height, **like)[:, None] * (height - 1) / 2, torch.arange(width, **like)
    u = u - u.mean()
    slopes = [gradient_by_convolution(weight * images, sigma) for weight in (1, v, u)]
    return torch.stack([-slopes[0][:, 1], -slopes[0][:, 0], slopes[2][:, 0] - slopes[1][:, 1]], dim=1)


def tangents_by_differences(images, sigma):
    """The warp itself, a little forwards and a little backwards, in float64."""
    exact, weights = images.double(), {1: 8, -1: -8, 2: -1, -2: 1}
    steps = 1e-3 * torch.eye(3, dtype=torch.float64, device=images.device)
    moved = [sum(w * warped(exact, sigma, *(k * step)) for k, w in weights.items()) / 12e-3 for step in steps]
    return torch.stack(moved, dim=1).to(images.dtype)


def gram_schmidt(tangents):
    """Twice, for accuracy; a tangent of which nothing is left becomes zero."""
    basis = torch.zeros_like(tangents)
    unit = torch.nn.functional.normalize(tangents, dim=-1, eps=1e-30)
    for k in range(tangents.shape[1]):
        left = unit[:, k, :, None]
        for _ in range(2):
            left = left - basis.mT @ (basis @ left)
        length = left.norm(dim=1, keepdim=True)
        small = tangents.shape[2] * torch.finfo(tangents.dtype).eps
        basis[:, k] = torch.where(length > small, left / length.clamp(min=small), 0.0)[..., 0]
    return basis


def distance_by_pinv(x, y, tangents):
    difference = (x - y)[..., None]
    unit = torch.nn.functional.normalize(tangents, dim=-1, eps=1e-30)
    return (difference - unit.mT @ (torch.linalg.pinv(unit.mT, rtol=1e-5) @ difference)).square().sum(dim=(1, 2))


def distance_by_lstsq(x, y, tangents):
    """A loop over pairs, each by LAPACK's rank-revealing least squares."""
    left = []
    for a, b, plane in zip(x, y, tangents, strict=True):
        plane = torch.nn.functional.normalize(plane, dim=-1, eps=1e-30)
        solved = torch.linalg.lstsq(plane.T, (a - b).detach()[:, None], rcond=1e-5, driver="gelsd").solution
        left.append((a - b - (plane.T @ solved)[:, 0]).square().sum())
    return torch.stack(left)


def distance_by_ridge(x, y, tangents):
    """Normal equations with a ridge too small to matter; it makes dependent tangents harmless."""
    unit = torch.nn.functional.normalize(tangents, dim=-1, eps=1e-30)
    ridge = (1e-13 if x.dtype == torch.float64 else 1e-5) * torch.eye(unit.shape[1], dtype=x.dtype, device=x.device)
    difference = (x - y)[..., None]
    solved = torch.linalg.solve(unit @ unit.mT + ridge, unit @ difference)
    return (difference - unit.mT @ solved).square().sum(dim=(1, 2))


def two_sided(one_sided):
    return lambda x, s, y, t: one_sided(x, y, torch.cat([s, t], dim=1))


def all_pairs(two_sided):
    """A matrix from a function of matched pairs, by repeating both sides."""

    def matrix(x, s, y, t):
        n, m = len(x), len(y)
        pairs = two_sided(x.repeat_interleave(m, 0), s.repeat_interleave(m, 0), y.repeat(n, 1), t.repeat(n, 1, 1))
        return pairs.view(n, m)

    return matrix


# Right by another way: each must keep every point.
ALTERNATIVES = {
    "image_gradient": {"conv2d": gradient_by_convolution, "forward-mode autograd": gradient_by_autograd},
    "shift_and_rotation_tangents": {
        "forward-mode autograd": tangents_by_autograd,
        "hills that move": tangents_by_moving_hills,
        "differences of fourth order": tangents_by_differences,
    },
    "orthonormal_tangents": {"SVD of the tangents": edited(BASIS), "Gram–Schmidt": gram_schmidt},
    "one_sided_distance": {
        "pseudo-inverse": distance_by_pinv,
        "a loop of lstsq": distance_by_lstsq,
        "tiny ridge": distance_by_ridge,
    },
    "two_sided_distance": {
        "pseudo-inverse": two_sided(distance_by_pinv),
        "a loop of lstsq": two_sided(distance_by_lstsq),
        "tiny ridge": two_sided(distance_by_ridge),
    },
    "tangent_distance_matrix": {
        "all pairs at once, pseudo-inverse": edited(MATRIX),
        "repeated pairs, tiny ridge": all_pairs(two_sided(distance_by_ridge)),
        "repeated pairs, a loop of lstsq": all_pairs(two_sided(distance_by_lstsq)),
    },
}


# --- independent peers and closed forms -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def some():
    """Eight real digits in float64, two of them alike."""
    x = digits().train.x[:8].double()
    return torch.cat([x[:7], x[:1]])


@pytest.mark.parametrize("sigma", [0.7, 1.0, 1.5])
def test_gradient_is_scipys_gaussian_derivative(some, sigma):
    options = {"mode": "constant", "truncate": 20.0}
    x = some[:, 0].numpy()
    ours = library.image_gradient(some, sigma).numpy()
    for channel, (order_down, order_right) in enumerate(((1, 0), (0, 1))):
        theirs = gaussian_filter1d(x, sigma, axis=-2, order=order_down, **options)
        theirs = gaussian_filter1d(theirs, sigma, axis=-1, order=order_right, **options)
        # scipy rescales its samples to sum to 1; ours integrate to 1.
        offsets = np.arange(-200, 201)
        total = (np.exp(-(offsets**2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))).sum()
        np.testing.assert_allclose(ours[:, channel], theirs * total**2, atol=1e-9)


def test_rotation_tangent_is_the_derivative_of_the_courses_own_rotation():
    """A wide, smooth image is turned by ``data.rotate`` (bilinear): finite differences agree but for interpolation."""
    place = torch.arange(81, dtype=torch.float64) - 40
    x = torch.exp(-((place[:, None] - 4) ** 2 + (place + 6) ** 2) / 50)[None, None]
    smooth = library.smooth_images(x, 3.0)
    angle = torch.tensor([0.05], dtype=torch.float64)
    difference = (rotate(smooth, angle) - rotate(smooth, -angle)) / (2 * angle)
    ours = library.shift_and_rotation_tangents(x, 3.0)[:, 2:]
    assert (difference - ours).norm() / ours.norm() < 0.03


def test_shift_tangents_are_the_derivatives_of_kornias_translation():
    place = torch.arange(81, dtype=torch.float64) - 40
    x = torch.exp(-((place[:, None] - 4) ** 2 + (place + 6) ** 2) / 50)[None, None]
    smooth = library.smooth_images(x, 3.0)
    for channel, move in enumerate(torch.eye(2, dtype=torch.float64)):  # kornia: right, then down
        moved = [kornia.geometry.translate(smooth, sign * move[None]) for sign in (1, -1)]
        ours = library.shift_and_rotation_tangents(x, 3.0)[:, channel : channel + 1]
        assert ((moved[0] - moved[1]) / 2 - ours).norm() / ours.norm() < 0.03


@pytest.mark.parametrize("shape", [(8, 8), (7, 12), (1, 5)])
def test_the_other_tangents_are_derivatives_of_warps(shape):
    x = torch.rand(2, 1, *shape, dtype=torch.float64)
    tangents = library.tangent_vectors(x, 1.0).numpy()
    warps = {
        3: lambda v, u, t: (v * np.exp(-t), u * np.exp(-t)),
        4: lambda v, u, t: (v * np.exp(t), u * np.exp(-t)),
        5: lambda v, u, t: (v * np.cosh(t) - u * np.sinh(t), u * np.cosh(t) - v * np.sinh(t)),
    }
    for channel, warp in warps.items():
        np.testing.assert_allclose(tangents[:, channel], checks.derivative(x.numpy(), 1.0, warp), atol=1e-6)
    slopes = library.image_gradient(x, 1.0).square().sum(1).numpy()
    np.testing.assert_allclose(tangents[:, 6], slopes, atol=1e-12)
    torch.testing.assert_close(library.tangent_vectors(x, 1.0)[:, :3], library.shift_and_rotation_tangents(x, 1.0))
    assert len(library.TANGENTS) == 7


def test_smooth_images_is_the_smooth_function_at_the_pixels(some):
    rows, columns = np.meshgrid(np.arange(8.0), np.arange(8.0), indexing="ij")
    theirs = verdicts.smooth_at(some.numpy(), 0.8, rows, columns)
    np.testing.assert_allclose(library.smooth_images(some, 0.8)[:, 0].numpy(), theirs, atol=1e-12)


@pytest.mark.parametrize("shape", [(8, 8), (7, 12), (1, 5)])
def test_the_turned_smooth_image_follows_its_curve(shape):
    x = torch.rand(2, 1, *shape, dtype=torch.float64)
    turned = library.turn_smooth_images(x, 0.9, 0.7)[:, 0]
    move = torch.tensor([0.0, 0.0, 0.7], dtype=torch.float64)
    torch.testing.assert_close(turned, warped(x, 0.9, *move))
    torch.testing.assert_close(library.turn_smooth_images(x, 0.9, 0.0), library.smooth_images(x, 0.9))
    both = [library.turn_smooth_images(x, 0.9, angle) for angle in (1e-4, -1e-4)]
    tangent = library.shift_and_rotation_tangents(x, 0.9)[:, 2:]
    torch.testing.assert_close((both[0] - both[1]) / 2e-4, tangent, rtol=1e-6, atol=1e-6)
    if shape[0] == shape[1]:
        quarter = library.turn_smooth_images(x, 0.9, math.pi / 2)
        torch.testing.assert_close(quarter, library.smooth_images(x.rot90(1, (-2, -1)), 0.9))


def planes(images, sigma=0.8):
    return images.flatten(1), library.tangent_vectors(images, sigma).flatten(2)


def test_matrix_agrees_with_least_squares_on_real_digits(some):
    """Seven tangents each, every pair by ``torch.linalg.lstsq``; the pair of equal images among them."""
    x, tangents = planes(some)
    wanted = all_pairs(two_sided(distance_by_lstsq))(x, tangents, x, tangents)
    torch.testing.assert_close(library.tangent_distance_matrix(x, tangents, x, tangents), wanted, rtol=1e-8, atol=1e-9)
    single = [part.float() for part in (x, tangents, x, tangents)]
    torch.testing.assert_close(library.tangent_distance_matrix(*single).double(), wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-8), (torch.float32, 2e-2)])
def test_matrix_of_planes_that_share_a_direction(dtype, tolerance):
    """Thousands of pairs: the direction that both have may come last, behind one that is nearly spent."""
    torch.manual_seed(0)
    x, s, y, t = torch.randn(1, 24), torch.randn(1, 3, 24), torch.randn(4000, 24), torch.randn(4000, 4, 24)
    t[:, 0] = s[0, 0]
    found = library.tangent_distance_matrix(*(part.to(dtype) for part in (x, s, y, t)))
    pairs = x.expand(4000, -1), s.expand(4000, -1, -1), y, t
    wanted = two_sided(distance_by_lstsq)(*(part.double() for part in pairs))
    torch.testing.assert_close(found[0].double(), wanted, rtol=tolerance, atol=tolerance)


def test_matrix_is_the_same_across_its_blocks():
    torch.manual_seed(0)
    x, y = torch.randn(70, 20, dtype=torch.float64), torch.randn(1100, 20, dtype=torch.float64)
    s, t = torch.randn(70, 3, 20, dtype=torch.float64), torch.randn(1100, 2, 20, dtype=torch.float64)
    whole = library.tangent_distance_matrix(x, s, y, t)
    assert whole.shape == (70, 1100)
    for i, j in ((0, 0), (31, 511), (32, 512), (69, 1099), (40, 1024)):
        alone = library.two_sided_distance(x[[i]], s[[i]], y[[j]], t[[j]])
        torch.testing.assert_close(whole[i, j], alone[0], rtol=1e-10, atol=1e-10)


def test_distances_are_ordered_and_symmetric(some):
    """More freedom never moves planes apart; the two-sided distance does not care who is first."""
    x, tangents = planes(some)
    two = library.tangent_distance_matrix(x, tangents, x, tangents)
    one = library.tangent_distance_matrix(x, 0 * tangents, x, tangents)
    euclidean = torch.cdist(x, x).square()
    assert (two <= one + 1e-9).all() and (one <= euclidean + 1e-9).all() and (two >= 0).all()
    torch.testing.assert_close(two, two.T, rtol=1e-9, atol=1e-9)


def test_moving_along_the_tangents_changes_nothing(some):
    x, tangents = planes(some)
    moved = x + torch.einsum("nk,nkd->nd", torch.randn(8, 7, dtype=torch.float64), tangents)
    before = library.two_sided_distance(x, tangents, x.flip(0), tangents.flip(0))
    after = library.two_sided_distance(moved, tangents, x.flip(0), tangents.flip(0))
    torch.testing.assert_close(before, after, rtol=1e-8, atol=1e-9)


def test_blank_images_are_compared_by_euclid(some):
    x, tangents = planes(torch.cat([torch.zeros_like(some[:2]), some]))
    d = library.tangent_distance_matrix(x[:2], tangents[:2], x, tangents)
    assert d[0, :2].abs().max() == 0 and torch.isfinite(d).all()
    torch.testing.assert_close(d[0], library.one_sided_distance(x[:1].expand_as(x), x, tangents))
    assert library.orthonormal_tangents(tangents[:2]).abs().max() == 0


def test_distances_pass_gradcheck_in_both_images():
    torch.manual_seed(0)
    x, y = (torch.randn(3, 9, dtype=torch.float64, requires_grad=True) for _ in range(2))
    s, t = torch.randn(2, 3, 2, 9, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x, y: library.one_sided_distance(x, y, t), (x, y))
    assert torch.autograd.gradcheck(lambda x, y: library.two_sided_distance(x, s, y, t), (x, y))
    assert torch.autograd.gradcheck(lambda x, y: library.tangent_distance_matrix(x, s, y, t), (x, y))


def test_tangents_pass_gradcheck():
    x = torch.rand(2, 1, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: library.tangent_vectors(x, 0.9), x)
    assert torch.autograd.gradcheck(lambda x: library.smooth_images(x, 0.9), x)


def test_tangent_distance_beats_euclid_on_real_digits():
    data = digits()
    x, s = planes(data.test.x)
    y, t = planes(data.train.x[:200])
    label = data.train.y[:200]
    wrong = [(library.nearest_labels(x, k * s, y, k * t, label) != data.test.y).sum() for k in (0, 1)]
    assert wrong[1] < 0.9 * wrong[0]


def test_tangents_of_zero_move_nothing():
    x, y, s = torch.randn(4, 6), torch.randn(3, 6), torch.zeros(4, 2, 6)
    torch.testing.assert_close(library.tangent_distance_matrix(x, s, y, s[:3, :1]), torch.cdist(x, y).square())
    torch.testing.assert_close(library.two_sided_distance(x[:3], s[:3], y, s[:3]), (x[:3] - y).square().sum(1))
    assert library.orthonormal_tangents(s).abs().max() == 0


def test_one_image_one_tangent_one_pixel():
    one = torch.ones(1, 1)
    assert library.tangent_vectors(one.view(1, 1, 1, 1), 1.0).shape == (1, 7, 1, 1)
    torch.testing.assert_close(library.orthonormal_tangents(-3 * one[None]).abs(), one[None])
    assert library.one_sided_distance(5 * one, one, one[None]) == 0
    assert library.tangent_distance_matrix(5 * one, 0 * one[None], one, 0 * one[None]) == 16
    assert library.nearest_labels(one, one[None], one, one[None], torch.tensor([3])) == 3


# --- every device that is here -----------------------------------------------------------------------------------


@pytest.mark.parametrize("task", sorted(ALTERNATIVES))
def test_on_cuda(task, on_cuda):
    probe, verify = getattr(checks, f"probe_{task}"), getattr(checks, f"verify_{task}")
    verify(probe(on_cuda(getattr(library, task)), 0), 0)


# --- bad input ---------------------------------------------------------------------------------------------------

X, Y, S, T = torch.rand(3, 8), torch.rand(3, 8), torch.rand(3, 2, 8), torch.rand(3, 2, 8)
IMAGES = torch.rand(2, 1, 6, 6)
LABELS = torch.tensor([0, 1, 2])
BAD = {
    "no channel": (lambda: library.image_gradient(IMAGES[:, 0], 1.0), "4 dimensions, got"),
    "colours": (lambda: library.image_gradient(IMAGES.expand(2, 3, 6, 6), 1.0), r"wanted \(2, 1, height, width\)"),
    "integer images": (lambda: library.image_gradient(IMAGES.long(), 1.0), "floating point"),
    "NaN images": (lambda: library.shift_and_rotation_tangents(IMAGES * torch.nan, 1.0), "must be finite"),
    "no smoothing": (lambda: library.shift_and_rotation_tangents(IMAGES, 0.0), "sigma must be positive"),
    "negative sigma": (lambda: library.tangent_vectors(IMAGES, -1.0), "sigma must be"),
    "smoothing of flat images": (lambda: library.smooth_images(IMAGES[0], 1.0), "4 dimensions"),
    "turning flat images": (lambda: library.turn_smooth_images(IMAGES[0], 1.0, 0.1), "4 dimensions"),
    "a tensor for sigma": (lambda: library.smooth_images(IMAGES, torch.ones(1)), "sigma must be a number"),
    "images for tangents": (lambda: library.orthonormal_tangents(S[..., None]), "3 dimensions"),
    "tangents transposed": (lambda: library.orthonormal_tangents(S.mT), "from 1 to 2, got 8"),
    "NaN tangents": (lambda: library.orthonormal_tangents(S * torch.inf), "tangents must be finite"),
    "batches differ": (
        lambda: library.one_sided_distance(X, Y[:2], T[:2]),
        r"y must have the sizes.*\(3, 8\), got \(2, 8\)",
    ),
    "pixels differ": (lambda: library.one_sided_distance(X, Y, T[..., :7]), "y_tangents must have the sizes"),
    "dtypes differ": (lambda: library.one_sided_distance(X.double(), Y, T), "y must be of the kind of x"),
    "NaN image": (lambda: library.two_sided_distance(X * torch.nan, S, Y, T), "x must be finite"),
    "x and its tangents": (lambda: library.two_sided_distance(X, S[:2], Y, T), "x_tangents must have the sizes"),
    "too many tangents": (
        lambda: library.two_sided_distance(X[:, :3], S[..., :3], Y[:, :3], T[..., :3]),
        "from 1 to 3, got 4",
    ),
    "integer matrix": (lambda: library.tangent_distance_matrix(X, S, Y.long(), T), "y must be floating point"),
    "matrix pixels": (lambda: library.tangent_distance_matrix(X, S, Y[:, :7], T[..., :7]), "y must have the sizes"),
    "matrix tangents": (lambda: library.tangent_distance_matrix(X, S, Y, T[0]), "3 dimensions"),
    "labels": (lambda: library.nearest_labels(X, S, Y, T, LABELS[:2]), r"y_labels must have the sizes.*got \(2,\)"),
    "nothing to compare with": (
        lambda: library.nearest_labels(X, S, Y[:0], T[:0], LABELS[:0]),
        "y must have .* at least 1 of each",
    ),
    "no images": (lambda: library.image_gradient(IMAGES[:0], 1.0), "images must .* at least 1 of each"),
    "no images to turn": (lambda: library.turn_smooth_images(IMAGES[:0], 1.0, 0.1), "at least 1 of each"),
    "images without width": (lambda: library.tangent_vectors(IMAGES[..., :0], 1.0), "at least 1 of each"),
    "no tangents": (lambda: library.orthonormal_tangents(S[:, :0]), "tangents must .* at least 1 of each"),
    "no pairs": (lambda: library.one_sided_distance(X[:0], Y[:0], T[:0]), "x must .* at least 1 of each"),
    "no tangents of one side": (lambda: library.two_sided_distance(X, S[:, :0], Y, T), "x_tangents must .* at least 1"),
    "no images x": (lambda: library.tangent_distance_matrix(X[:0], S[:0], Y, T), "x must .* at least 1 of each"),
    "a list of images": (lambda: library.smooth_images([IMAGES], 1.0), "images must be a tensor"),
    "NaN tangents of y": (lambda: library.nearest_labels(X, S, Y, T * torch.nan, LABELS), "y_tangents must be finite"),
    "tangents in another dtype": (
        lambda: library.nearest_labels(X, S.double(), Y, T, LABELS),
        "x_tangents must be of the kind of x",
    ),
    "two devices": (
        lambda: require_sizes(x=(X, "batch pixel"), y=(Y.to("meta"), "batch pixel")),
        "y must be of the kind of x: wanted torch.float32 on cpu, got torch.float32 on meta",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_explained(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call()
