"""steerable_cnns: wrong and right versions of each task, independent peers (escnn too), closed forms, bad input."""

import copy
import itertools
import math
import pickle
import subprocess
import sys

import numpy as np
import pytest
import scipy.linalg
import torch
import torch.nn.functional as F
from checks import steerable_cnns as checks
from torch import nn

from course_lib import steerable_cnns as library
from course_lib.data import digits, rotate
from course_lib.groups import cyclic, dihedral, plane_matrices, regular_representation

HARMONIC = """
def harmonic(points, frequency, radius, width):
    u, v = points[..., 0], points[..., 1]
    r = (u**2 + v**2).sqrt()
    phi = torch.atan2(v, u)
    ring = torch.exp(-((r - radius) ** 2) / (2 * width**2))
    wave = torch.stack([torch.cos(frequency * phi), torch.sin(frequency * phi)])
    if frequency != 0:
        wave = wave * (r > 0)
    return ring * wave
"""
STEER = """
def steer(coefficients, frequencies, angles):
    out = []
    for angle in angles:
        k = frequencies * angle
        a, b = coefficients[:, 0], coefficients[:, 1]
        out.append(torch.stack([a * torch.cos(k) - b * torch.sin(k), a * torch.sin(k) + b * torch.cos(k)], dim=1))
    return torch.stack(out)
"""
SOLVE = """
def solve(rho_in, rho_out, moves):
    p, o, i = moves.shape[1], rho_out.shape[1], rho_in.shape[1]
    n = p * o * i
    rows = []
    for a, b, to in zip(rho_in, rho_out, moves):
        turn = torch.kron(b, torch.linalg.inv(a).T.contiguous())  # vec(B·K·A⁻¹), row by row
        equation = torch.zeros(p, o * i, p, o * i, dtype=rho_in.dtype)
        for q in range(p):
            equation[q, :, to[q]] += torch.eye(o * i, dtype=rho_in.dtype)
            equation[q, :, q] -= turn
        rows.append(equation.reshape(n, n))
    system = torch.cat(rows)
    _, s, v = torch.linalg.svd(system, full_matrices=False)
    small = s <= torch.finfo(s.dtype).eps ** 0.5 * s.max()
    return v[small].reshape(-1, p, o, i)
"""
NORM = """
def rectify(x, bias):
    b = bias[:, None, None, None]
    square = (x**2).sum(2, keepdim=True)
    zero = square == 0
    norm = torch.where(zero, torch.ones_like(square), square).sqrt()
    factor = torch.where(zero, torch.zeros_like(norm), (norm + b).clamp(min=0) / norm)
    return x * factor
"""
FOURIER = """
def fourier(x):
    n = x.shape[-1]
    g = 2 * math.pi * torch.arange(n, dtype=x.dtype, device=x.device) / n
    rows = [torch.ones_like(g) / math.sqrt(n)]
    for k in range(1, (n - 1) // 2 + 1):
        rows.append(math.sqrt(2 / n) * torch.cos(k * g))
        rows.append(math.sqrt(2 / n) * torch.sin(k * g))
    if n % 2 == 0:
        rows.append(torch.cos(n // 2 * g) / math.sqrt(n))
    return x @ torch.stack(rows).T
"""


def edited(source, *changes):
    """The function in a source text, with the mistakes that pairs of old and new text make."""
    for old, new in zip(changes[::2], changes[1::2], strict=True):
        assert old in source, old
        source = source.replace(old, new)
    scope = {"torch": torch, "F": F, "math": math}
    exec(source, scope)
    return scope[source.split("def ")[1].split("(")[0]]


# What students write by mistake: each must lose points.
MUTANTS = {
    "circular_harmonic": {
        "v downwards": edited(HARMONIC, "torch.atan2(v, u)", "torch.atan2(-v, u)"),
        "atan2 the wrong way round": edited(HARMONIC, "torch.atan2(v, u)", "torch.atan2(u, v)"),
        "atan for atan2": edited(HARMONIC, "torch.atan2(v, u)", "torch.atan(v / torch.where(u == 0, 1e-30, u))"),
        "does not vanish at the centre": edited(
            HARMONIC, "    if frequency != 0:\n        wave = wave * (r > 0)\n", ""
        ),
        "frequency 0 vanishes at the centre too": edited(HARMONIC, "if frequency != 0", "if True"),
        "vanishes near the centre too": edited(HARMONIC, "(r > 0)", "(r > 0.01)"),
        "ring forgotten": edited(HARMONIC, "return ring * wave", "return wave"),
        "width forgotten": edited(HARMONIC, "(2 * width**2)", "2"),
        "two forgotten": edited(HARMONIC, "(2 * width**2)", "(width**2)"),
        "width not squared": edited(HARMONIC, "(2 * width**2)", "(2 * width)"),
        "radius forgotten": edited(HARMONIC, "(r - radius)", "r"),
        "squared distance for distance": edited(HARMONIC, ".sqrt()", ""),
        "sine first": edited(
            HARMONIC, "[torch.cos(frequency * phi), torch.sin(", "[torch.sin(frequency * phi), torch.cos("
        ),
        "cosine only": edited(HARMONIC, "torch.sin(frequency * phi)", "torch.cos(frequency * phi)"),
        "frequency forgotten": edited(HARMONIC, "frequency * phi", "phi"),
        "sign of the frequency": edited(HARMONIC, "frequency * phi", "-frequency * phi"),
        "parts behind": edited(HARMONIC, "return ring * wave", "return (ring * wave).movedim(0, -1)"),
        "ring of sum one": edited(HARMONIC, "return ring", "return ring / ring.sum()"),
        "always float32": lambda points, *others: edited(HARMONIC)(points.float(), *others),
        "always float64": lambda points, *others: edited(HARMONIC)(points.double(), *others),
    },
    "steer": {
        "turned the other way": edited(STEER, "frequencies * angle", "-frequencies * angle"),
        "frequency forgotten": edited(STEER, "frequencies * angle", "angle.expand(len(frequencies))"),
        "frequency by its place": edited(STEER, "frequencies * angle", "torch.arange(len(frequencies)) * angle"),
        "in degrees": edited(STEER, "frequencies * angle", "torch.deg2rad(frequencies * angle)"),
        "cosine part only": edited(STEER, "a * torch.cos(k) - b * torch.sin(k)", "a * torch.cos(k)"),
        "a mirror": edited(STEER, "a * torch.sin(k) + b * torch.cos(k)", "a * torch.sin(k) - b * torch.cos(k)"),
        "angle added to every coefficient": edited(STEER, "frequencies * angle", "frequencies + angle"),
        "first angle only": edited(STEER, "torch.stack(out)", "torch.stack(out[:1])"),
        "angles added up": edited(STEER, "in angles:", "in angles.cumsum(0):"),
        "without an axis for one angle": edited(STEER, "torch.stack(out)", "torch.stack(out).squeeze(0)"),
        "frequency first": edited(STEER, "torch.stack(out)", "torch.stack(out, dim=1)"),
        "angles as plain numbers": edited(STEER, "in angles:", "in angles.detach():"),
        "detached": edited(STEER, "torch.stack(out)", "torch.stack(out).detach()"),
        "always float32": lambda c, f, a: edited(STEER)(c.float(), f, a.float()),
        "in place": edited(
            STEER, "    return torch.stack(out)", "    coefficients.data.mul_(2)\n    return torch.stack(out)"
        ),
    },
    "solve_kernel_constraint": {
        "inverse forgotten": edited(SOLVE, "torch.linalg.inv(a).T.contiguous()", "a.T.contiguous()"),
        "transpose for inverse": edited(SOLVE, "torch.linalg.inv(a).T.contiguous()", "a"),
        "inverse transposed": edited(SOLVE, "torch.linalg.inv(a).T.contiguous()", "torch.linalg.inv(a)"),
        "input representation forgotten": edited(
            SOLVE, "torch.linalg.inv(a).T.contiguous()", "torch.eye(i, dtype=a.dtype)"
        ),
        "output representation forgotten": edited(SOLVE, "kron(b,", "kron(torch.eye(o, dtype=b.dtype),"),
        "points stay where they are": edited(SOLVE, "equation[q, :, to[q]]", "equation[q, :, q]"),
        "points go back": edited(SOLVE, "equation[q, :, to[q]]", "equation[q, :, to.argsort()[q]]"),
        "in and out swapped": lambda a, b, to: edited(SOLVE)(b, a, to).transpose(2, 3),
        "first element only": edited(
            SOLVE, "in zip(rho_in, rho_out, moves)", "in zip(rho_in[:1], rho_out[:1], moves[:1])"
        ),
        "equations added up": edited(SOLVE, "torch.cat(rows)", "sum(rows)"),
        "range for null space": edited(SOLVE, "v[small]", "v[~small]"),
        "left singular vectors": edited(SOLVE, "_, s, v", "v, s, _", "v[small]", "v.T[:, :n][small]"),
        "smallest one only": edited(SOLVE, "v[small]", "v[-1:]"),
        "none, which satisfies everything": edited(SOLVE, "v[small]", "v[:0]"),
        "exactly zero only": edited(SOLVE, "s <= torch.finfo(s.dtype).eps ** 0.5 * s.max()", "s == 0"),
        "tolerance too large": edited(SOLVE, "torch.finfo(s.dtype).eps ** 0.5 * s.max()", "0.8 * s.max()"),
        "not of length 1": edited(SOLVE, "v[small]", "2 * v[small]"),
        "not at right angles": edited(
            SOLVE, "return v[small]", "v = v[small] + 0.1 * v[small].roll(1, 0)\n    return v"
        ),
        "some twice": edited(SOLVE, "v[small]", "v[small].repeat(2, 1)"),
        "at least one": edited(SOLVE, "v[small]", "v[small | (s == s.min())]"),
        "point last": edited(SOLVE, "reshape(-1, p, o, i)", "reshape(-1, p, o, i).permute(0, 2, 3, 1)"),
        "fails where there is none": edited(SOLVE, "    return v", "    assert small.any()\n    return v"),
        "always float32": lambda a, b, to: edited(SOLVE)(a.float(), b.float(), to),
        "in place": edited(SOLVE, "    rows = []", "    rows = []\n    rho_out.mul_(1.5)"),
    },
    "norm_nonlinearity": {
        "ReLU of each component": lambda x, bias: (x + bias[:, None, None, None]).relu(),
        "bias inside the norm": edited(NORM, "square = (x**2)", "square = ((x + b) ** 2)", "(norm + b)", "norm"),
        "bias subtracted": edited(NORM, "(norm + b)", "(norm - b)"),
        "bias forgotten": edited(NORM, "(norm + b)", "norm"),
        "no rectifier": edited(NORM, ".clamp(min=0)", ""),
        "absolute value": edited(NORM, "(norm + b).clamp(min=0)", "(norm + b).abs()"),
        "not divided": edited(NORM, ".clamp(min=0) / norm", ".clamp(min=0)"),
        "lengths only": edited(NORM, "return x * factor", "return (norm * factor).expand_as(x)"),
        "squared norm": edited(NORM, ".sqrt()", ""),
        "norm over fields": edited(NORM, ".sum(2, keepdim=True)", ".sum(1, keepdim=True)"),
        "norm over the image": edited(NORM, ".sum(2, keepdim=True)", ".sum((2, 3, 4), keepdim=True)"),
        "mean for sum": edited(NORM, ".sum(2, keepdim=True)", ".mean(2, keepdim=True)"),
        "sum of absolute values": edited(NORM, "(x**2).sum(2, keepdim=True)", "x.abs().sum(2, keepdim=True) ** 2"),
        "root of zero": lambda x, bias: (
            x
            * ((x**2).sum(2, keepdim=True).sqrt() + bias[:, None, None, None]).clamp(min=0)
            / ((x**2).sum(2, keepdim=True).sqrt() + 1e-12)
        ),
        "value mended, gradient not": lambda x, bias: torch.where(
            (x**2).sum(2, keepdim=True) > 0,
            x
            * ((x**2).sum(2, keepdim=True).sqrt() + bias[:, None, None, None]).relu()
            / (x**2).sum(2, keepdim=True).sqrt(),
            torch.zeros_like(x),
        ),
        "any component zero": edited(NORM, "zero = square == 0", "zero = (x == 0).any(2, keepdim=True)"),
        "the first component zero": edited(NORM, "zero = square == 0", "zero = x[:, :, :1] == 0"),
        "no gradient for a component that is zero": lambda x, bias: torch.where(
            x == 0, torch.zeros_like(x), edited(NORM)(x, bias)
        ),
        "short vectors count as zero": edited(NORM, "zero = square == 0", "zero = square < 1e-4"),
        "very short vectors count as zero": edited(NORM, "zero = square == 0", "zero = square < 1e-8"),
        "epsilon of a tenth": edited(NORM, "/ norm)", "/ (norm + 0.1))"),
        "divisor detached": edited(NORM, "/ norm)", "/ norm.detach())"),
        "bias of the first field": edited(NORM, "bias[:, None, None, None]", "bias[0]"),
        "bias along the components": edited(
            NORM, "bias[:, None, None, None]", "bias[torch.arange(x.shape[-1]) % len(bias)]"
        ),
        "sigmoid gate": edited(NORM, "(norm + b).clamp(min=0) / norm", "torch.sigmoid(norm + b)"),
        "in place": lambda x, bias: x.data.copy_(edited(NORM)(x, bias).detach()) * 0 + edited(NORM)(x, bias),
        "always float32": lambda x, bias: edited(NORM)(x.float(), bias.float()),
    },
    "regular_to_irreps": {
        "not normalised": edited(FOURIER, " / math.sqrt(n)", "", "math.sqrt(2 / n) * ", ""),
        "divided by n": edited(FOURIER, "math.sqrt(n)", "n", "math.sqrt(2 / n)", "(2 / n)"),
        "pairs too short": edited(FOURIER, "math.sqrt(2 / n)", "math.sqrt(1 / n)"),
        "sign of the sine": edited(FOURIER, "torch.sin(", "-torch.sin("),
        "sine before cosine": edited(
            FOURIER, "* torch.cos(k * g))\n", "* torch.SIN(k * g))\n", "torch.sin", "torch.cos", "SIN", "sin"
        ),
        "cosines only": edited(FOURIER, "torch.sin(k * g)", "torch.cos(k * g)"),
        "alternating part forgotten": edited(FOURIER, "if n % 2 == 0", "if False"),
        "alternating part with √2": edited(
            FOURIER, "torch.cos(n // 2 * g) /", "math.sqrt(2) * torch.cos(n // 2 * g) /"
        ),
        "alternating part second": edited(FOURIER, "rows.append(torch.cos(n // 2", "rows.insert(1, torch.cos(n // 2"),
        "one pair too few for odd n": edited(FOURIER, "(n - 1) // 2 + 1", "(n - 2) // 2 + 1"),
        "constant part last": edited(FOURIER, "torch.stack(rows)", "torch.stack(rows[1:] + rows[:1])"),
        "all cosines, then all sines": edited(
            FOURIER, "torch.stack(rows)", "torch.stack(rows[:1] + rows[1::2] + rows[2::2])[:n]"
        ),
        "frequencies falling": edited(
            FOURIER, "in range(1, (n - 1) // 2 + 1)", "in reversed(range(1, (n - 1) // 2 + 1))"
        ),
        "the inverse": edited(FOURIER, "torch.stack(rows).T", "torch.stack(rows)"),
        "FFT's order": lambda x: torch.view_as_real(torch.fft.rfft(x, norm="ortho")).flatten(-2)[..., : x.shape[-1]],
        "the same again": lambda x: x.clone(),
        "first axis": lambda x: edited(FOURIER)(x.movedim(0, -1)).movedim(-1, 0),
        "constants only, a mean": lambda x: x.mean(-1, keepdim=True).expand_as(x).clone(),
        "always float32": lambda x: edited(FOURIER)(x.float()),
        "detached": edited(FOURIER, "return x @", "return 0 * x + x.detach() @"),
    },
}


def by_complex_powers(points, frequency, radius, width):
    z = torch.complex(points[..., 0], points[..., 1])
    r = z.abs()
    wave = (z / torch.where(r > 0, r, 1)) ** frequency if frequency else torch.ones_like(z)
    return torch.view_as_real(wave * torch.exp(-((r - radius) ** 2) / (2 * width**2))).movedim(-1, 0)


def by_addition_theorem(points, frequency, radius, width):
    """cos(k+1)φ and sin(k+1)φ from those of k."""
    r = points.norm(dim=-1)
    unit = points / torch.where(r > 0, r, 1)[..., None]
    cos, sin = torch.ones_like(r), torch.zeros_like(r)
    for _ in range(frequency):
        cos, sin = cos * unit[..., 0] - sin * unit[..., 1], sin * unit[..., 0] + cos * unit[..., 1]
    return torch.stack([cos, sin]) * (-0.5 * ((r - radius) / width) ** 2).exp()


def steer_without_the_sine_of_zero(coefficients, frequencies, angles):
    """The sine part of the frequency 0 is no part of the filter, so any number will do."""
    turned = steer_by_complex_numbers(coefficients, frequencies, angles)
    return turned * torch.stack([torch.ones_like(frequencies), frequencies > 0], dim=1)


def steer_by_complex_numbers(coefficients, frequencies, angles):
    turn = torch.polar(torch.ones_like(angles)[:, None], angles[:, None] * frequencies)
    return torch.view_as_real(torch.view_as_complex(coefficients.clone()) * turn)


def steer_by_matrices(coefficients, frequencies, angles):
    generator = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=angles.dtype)
    return torch.stack(
        [
            torch.stack(
                [torch.matrix_exp(k * t * generator) @ c for k, c in zip(frequencies, coefficients, strict=True)]
            )
            for t in angles
        ]
    )


def solve_by_eigenvectors(rho_in, rho_out, moves):
    """The kernels of AᵀA, in double precision."""
    p, o, i = moves.shape[1], rho_out.shape[1], rho_in.shape[1]
    a, b = rho_in.double(), rho_out.double()
    unknown = torch.eye(p * o * i, dtype=torch.float64).reshape(-1, p, o, i)
    normal = 0
    for first, second, to in zip(a, b, moves, strict=True):
        moved = second @ unknown @ torch.linalg.inv(first)
        miss = (unknown[:, to] - moved).flatten(1)
        normal = normal + miss @ miss.T
    values, vectors = torch.linalg.eigh(normal)
    return vectors.T[values < 1e-6].reshape(-1, p, o, i).to(rho_in)


def solve_by_scipy(rho_in, rho_out, moves):
    p, o, i = moves.shape[1], rho_out.shape[1], rho_in.shape[1]
    columns = []
    for unit in np.eye(p * o * i):
        kernel = unit.reshape(p, o, i)
        parts = [
            kernel[to] - b @ kernel @ np.linalg.inv(a)
            for a, b, to in zip(rho_in.double().numpy(), rho_out.double().numpy(), moves.numpy(), strict=True)
        ]
        columns.append(np.concatenate([part.ravel() for part in parts]))
    space = scipy.linalg.null_space(np.stack(columns, axis=1), rcond=1e-4)
    return torch.tensor(space.T.reshape(-1, p, o, i), dtype=rho_in.dtype)


class Rectifier(torch.autograd.Function):
    """The gradient written by hand."""

    @staticmethod
    def forward(ctx, x, bias):
        norm = x.norm(dim=2, keepdim=True)
        direction = torch.nan_to_num(x / norm)
        ctx.save_for_backward(norm, direction, bias)
        return (norm + bias[:, None, None, None]).relu() * direction

    @staticmethod
    def backward(ctx, g):
        norm, direction, bias = ctx.saved_tensors
        b = bias[:, None, None, None]
        lives = (norm > 0) & (norm + b > 0)
        along = (g * direction).sum(2, keepdim=True)
        across = g - along * direction
        slope = along * direction + torch.where(norm > 0, (norm + b) / torch.where(norm > 0, norm, 1), 0) * across
        return torch.where(lives, slope, 0), torch.where(lives, along, 0).sum((0, 2, 3, 4))


def rectify_where_there_is_something(x, bias):
    """Works on the vectors that are not zero, and puts them back."""
    vectors = x.movedim(2, -1)  # (batch, field, height, width, component)
    there = vectors.abs().amax(-1) > 0
    biases = bias[None, :, None, None].expand(there.shape)[there]
    chosen = vectors[there]
    norm = chosen.norm(dim=-1)
    out = torch.zeros_like(vectors)
    out[there] = chosen * (F.relu(norm + biases) / norm)[:, None]
    return out.movedim(-1, 2)


def fourier_by_fft(x):
    n = x.shape[-1]
    z = torch.fft.rfft(x, norm="ortho").conj().resolve_conj()  # the sine part is Σ x·sin
    pairs = torch.view_as_real(z[..., 1 : (n + 1) // 2]).flatten(-2) * math.sqrt(2)
    return torch.cat([z[..., :1].real, pairs, *([z[..., -1:].real] if n % 2 == 0 else [])], dim=-1)


def fourier_in_another_basis(x):
    """Every pair turned by 1 radian, every single number with the other sign."""
    n, y = x.shape[-1], fourier_by_fft(x)
    turn = torch.eye(n, dtype=x.dtype) * -1
    c, s = math.cos(1), math.sin(1)
    for at in range(1, n - 1, 2):
        turn[at : at + 2, at : at + 2] = torch.tensor([[c, -s], [s, c]], dtype=x.dtype)
    return y @ turn.T


ALTERNATIVES = {
    "circular_harmonic": {
        "as in the trials": edited(HARMONIC),
        "complex powers": by_complex_powers,
        "addition theorem": by_addition_theorem,
    },
    "steer": {
        "angle by angle": edited(STEER),
        "complex numbers": steer_by_complex_numbers,
        "matrix exponential": steer_by_matrices,
        "no sine part for frequency 0": steer_without_the_sine_of_zero,
    },
    "solve_kernel_constraint": {
        "Kronecker products": edited(SOLVE),
        "eigenvectors of the normal equations": solve_by_eigenvectors,
        "scipy": solve_by_scipy,
    },
    "norm_nonlinearity": {
        "as in the trials": edited(NORM),
        "gradient by hand": Rectifier.apply,
        "only where there is something": rectify_where_there_is_something,
    },
    "regular_to_irreps": {
        "as in the trials": edited(FOURIER),
        "FFT": fourier_by_fft,
        "another basis": fourier_in_another_basis,
    },
}


def projector(kernels):
    """Onto the space that some kernels span, whatever their number and lengths."""
    _, values, vectors = np.linalg.svd(np.asarray(kernels, dtype="float64").reshape(len(kernels), -1), False)
    basis = vectors[values > 1e-5 * values[0]]
    return basis.T @ basis


def unit_kernels(expand, count):
    """The kernel of each coefficient alone."""
    return torch.stack([expand(unit) for unit in torch.eye(count)]).detach()


def our_kernels(layer):
    """The kernels that the coefficients of a layer stand for, one after the other."""
    layer = copy.deepcopy(layer).requires_grad_(False)
    found = []
    for part in layer.coefficients.values():
        for other in layer.coefficients.values():
            other.zero_()
        for place in range(part.numel()):
            part.zero_().view(-1)[place] = 1.0
            found.append(layer.kernel())
    return torch.stack(found)


# --- the library's own claims ------------------------------------------------------------------------------------

ALL = {0: 2, 1: 2, 2: 1}


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize(
    "size, padding, stride, side", [(5, 2, 1, 9), (3, 0, 1, 8), (4, 0, 1, 7), (5, 2, 2, 9), (1, 0, 1, 4)]
)
def test_quarter_turns_are_exact(dtype, tolerance, size, padding, stride, side):
    torch.manual_seed(0)
    gate = library.GatedNonlinearity(ALL)
    layers = nn.Sequential(
        library.SteerableConv2d(ALL, gate.fields_in, size, stride, padding),
        library.SteerableBatchNorm2d(gate.fields_in),
        gate,
        library.NormNonlinearity(ALL),
    ).to(dtype)
    nn.init.normal_(layers[3].bias, std=0.1)
    x = torch.randn(2, 8, side, side, dtype=dtype)
    for k in (1, 2, 3):
        angle = k * math.pi / 2

        def turn(z, k=k, angle=angle):
            return library.turn_vectors(z.rot90(k, (-2, -1)), ALL, angle)

        still = layers(x)
        assert still.dtype == dtype and still.norm() > 0.1
        error = ((layers(turn(x)) - turn(still)).norm() / still.norm()).item()
        assert error < tolerance, (k, error)


def test_a_layer_made_double_has_the_kernels_in_double():
    layer = library.SteerableConv2d({0: 1}, {1: 1}, 5).double()
    wanted = library.kernel_basis(0, 1, 5, library.default_rings(5)).flatten(1)
    torch.testing.assert_close(layer.basis_0_1, wanted, rtol=0, atol=0)


def test_a_network_of_real_digits_does_not_see_a_quarter_turn():
    model = library.SteerableNetwork(0, {0: 3, 1: 2, 2: 2}, {0: 4, 1: 2}, pools=1)
    x = digits().test.x[:20]
    torch.testing.assert_close(model(x), model(x.rot90(1, (-2, -1))), rtol=1e-4, atol=1e-5)
    wrong = library.SteerableNetwork(0, {0: 3, 1: 2, 2: 2}, {0: 4, 1: 2}, pools=1, componentwise=True)
    assert (wrong(x) - wrong(x.rot90(1, (-2, -1)))).norm() > 0.01 * wrong(x).norm()


def test_other_turns_are_nearly_exact_on_smooth_images_and_better_on_fine_grids():
    """A blob and its turned copy, both drawn exactly: what is left is the grid of the kernels."""
    torch.manual_seed(0)
    layer = library.SteerableConv2d({0: 1}, {1: 2, 2: 2}, 5, padding=2).double()
    wrong = library.SteerableConv2d({0: 1}, {1: 2, 2: 2}, 5, padding=2, rings=((2.0, 0.4, 9.0),)).double()
    with torch.no_grad():
        wrong.coefficients["0_1"].copy_(torch.randn_like(wrong.coefficients["0_1"]))
    angle = math.pi / 4
    errors = []
    for scale in (1.2, 2.0):
        points = library.grid_points(25)
        images = []
        for turned in (0.0, angle):
            at = points @ library.irrep(1, torch.tensor(turned, dtype=torch.float64))  # turned back
            blobs = [torch.exp(-((at - torch.tensor(c).double()) ** 2).sum(-1) / (2 * scale**2)) for c in CENTRES]
            images.append(sum(blobs)[None, None])
        fields = {1: 2, 2: 2}
        found = library.invariants(layer(images[1]), fields).sum((-2, -1))
        wanted = library.invariants(layer(images[0]), fields).sum((-2, -1))
        errors.append(((found - wanted).norm() / wanted.norm()).item())
    assert errors[1] < errors[0] < 0.05 and errors[1] < 0.01, errors


CENTRES = ((3.0, 0.0), (0.0, 2.0), (-2.0, -3.0))


@pytest.mark.parametrize("m", range(4))
@pytest.mark.parametrize("n", range(4))
def test_the_null_space_on_a_ring_is_the_closed_form(m, n):
    """C24 on 24 points: as many solutions as entries of a matrix, made of waves of frequency n − m and n + m."""
    count = 24
    step = torch.tensor(2 * math.pi / count, dtype=torch.float64)
    moves = (torch.arange(count) + 1)[None] % count
    found = library.solve_kernel_constraint(library.irrep(m, step)[None], library.irrep(n, step)[None], moves)
    assert len(found) == library.dimension(m) * library.dimension(n)
    phi = torch.arange(count) * step
    closed = [
        library.irrep(n, phi) @ start @ library.irrep(m, phi).mT for start, _ in library._starts(m, n)
    ]  # (point, out, in)
    np.testing.assert_allclose(projector(found), projector(torch.stack(closed)), atol=1e-9)
    spectrum = torch.fft.rfft(found, dim=1).abs().amax(dim=(0, 2, 3))
    assert set((spectrum > 1e-9).nonzero().flatten().tolist()) == {abs(n - m), n + m}


@pytest.mark.parametrize("m, n, count", [(0, 0, 1), (0, 1, 0), (1, 0, 0), (1, 1, 2), (1, 2, 0), (2, 2, 2)])
def test_at_the_centre_only_waves_of_frequency_zero_remain(m, n, count):
    step = torch.tensor([0.7], dtype=torch.float64)
    stays = torch.tensor([[0]])
    assert len(library.solve_kernel_constraint(library.irrep(m, step), library.irrep(n, step), stays)) == count
    basis = library.kernel_basis(m, n, 5, library.default_rings(5))
    assert torch.linalg.matrix_rank(basis[..., 2, 2].flatten(1)) == count


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("m, n", [(0, 0), (0, 1), (1, 0), (1, 1), (2, 1), (1, 3)])
def test_the_basis_satisfies_the_constraint_of_quarter_turns_and_is_independent(size, m, n):
    basis = library.kernel_basis(m, n, size, library.default_rings(size))
    quarter = torch.tensor(math.pi / 2, dtype=torch.float64)
    back = basis.rot90(1, (-2, -1))  # at the place p, what stood a quarter turn behind
    turned = torch.einsum("oa,bachw,ci->boihw", library.irrep(n, quarter), back, library.irrep(m, quarter).mT)
    torch.testing.assert_close(basis, turned, rtol=0, atol=1e-12)
    assert torch.linalg.matrix_rank(basis.flatten(1), rtol=1e-6) == len(basis)
    norms = basis.flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, torch.full_like(norms, library.dimension(n) ** 0.5))


def test_the_basis_is_made_of_circular_harmonics():
    """From numbers to a field of frequency k: the two columns (cos, sin) and (−sin, cos)."""
    points = library.grid_points(5)
    for k, ring in ((1, (1.0, 0.6, 2.0)), (2, (2.0, 0.4, 2.0)), (3, (1.5, 0.5, 4.0))):
        cos, sin = library.circular_harmonic(points, k, *ring[:2])
        columns = torch.stack([torch.stack([cos, sin]), torch.stack([-sin, cos])])[:, :, None]
        np.testing.assert_allclose(projector(library.kernel_basis(0, k, 5, (ring,))), projector(columns), atol=1e-9)


def test_a_filter_is_steered_as_its_image_is_turned():
    torch.manual_seed(0)
    points, k = library.grid_points(7), torch.tensor([0, 1, 2])
    waves = torch.stack([library.circular_harmonic(points, int(f), 2.0, 0.8) for f in k])  # (frequency, 2, 7, 7)
    coefficients = torch.randn(3, 2, dtype=torch.float64)
    angles = torch.tensor([math.pi / 2, math.pi, 0.3], dtype=torch.float64)
    filters = torch.einsum("tkc,kchw->thw", library.steer(coefficients, k, angles), waves)
    upright = torch.einsum("kc,kchw->hw", coefficients, waves)
    torch.testing.assert_close(filters[0], upright.rot90(1))
    torch.testing.assert_close(filters[1], upright.rot90(2))
    back = points @ library.irrep(1, angles[2])  # each point, turned back by 0.3
    again = torch.stack([library.circular_harmonic(back, int(f), 2.0, 0.8) for f in k])
    torch.testing.assert_close(filters[2], torch.einsum("kc,kchw->hw", coefficients, again))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 12])
def test_the_regular_representation_is_a_sum_of_irreps(n):
    group = cyclic(n)
    change = library.regular_to_irreps(torch.eye(n, dtype=torch.float64)).T
    for element, permutation in enumerate(regular_representation(group.table).double()):
        angle = torch.tensor(2 * math.pi * element / n, dtype=torch.float64)
        parts = [library.irrep(k, angle) for k in range((n + 1) // 2)]
        parts += [torch.tensor([[(-1.0) ** element]], dtype=torch.float64)] if n % 2 == 0 else []
        torch.testing.assert_close(change @ permutation @ change.T, torch.block_diag(*parts), rtol=0, atol=1e-12)


def test_the_constraint_of_a_dihedral_group_from_two_generators_or_from_all():
    group = dihedral(4)
    turns, rho = plane_matrices(group), regular_representation(group.table).double()
    points = library.grid_points(3).flatten(0, 1)
    moved = torch.einsum("gij,pj->gpi", turns, points)
    moves = torch.cdist(moved, points.expand(group.order, -1, -1)).argmin(-1)
    whole = library.solve_kernel_constraint(rho, turns, moves)
    some = library.solve_kernel_constraint(rho[[1, 4]], turns[[1, 4]], moves[[1, 4]])
    assert len(whole) == 9 * 2 * 8 // 8  # the group moves the basis of its regular representation freely
    np.testing.assert_allclose(projector(whole), projector(some), atol=1e-9)


def test_rotation_blocks_multiply_as_turns_do():
    a, b = torch.tensor([0.3, -1.0], dtype=torch.float64)
    for k in range(4):
        torch.testing.assert_close(library.irrep(k, a) @ library.irrep(k, b), library.irrep(k, a + b))
    assert library.irrep(0, torch.zeros(2, 3)).shape == (2, 3, 1, 1)


def test_gates_need_no_numbers_beside_the_vectors():
    gate = library.GatedNonlinearity({1: 2})
    x = torch.randn(1, 6, 3, 3, dtype=torch.float64)
    assert gate.fields_in == {1: 2, 0: 2} and gate(x).shape == (1, 4, 3, 3)
    turned = library.turn_vectors(x.rot90(1, (-2, -1)), gate.fields_in, math.pi / 2)
    wanted = library.turn_vectors(gate(x).rot90(1, (-2, -1)), {1: 2}, math.pi / 2)
    torch.testing.assert_close(gate(turned), wanted)


def test_gates_scale_vectors_and_leave_their_directions():
    gate = library.GatedNonlinearity({0: 1, 1: 2})
    x = torch.randn(2, 7, 3, 3)
    y = gate(x)
    assert gate.fields_in == {0: 3, 1: 2} and y.shape == (2, 5, 3, 3)
    torch.testing.assert_close(y[:, :1], F.elu(x[:, :1]))
    torch.testing.assert_close(y[:, 1:3], x[:, 3:5] * x[:, 1:2].sigmoid())
    torch.testing.assert_close(y[:, 3:5], x[:, 5:7] * x[:, 2:3].sigmoid())


def test_normalized_fields_have_mean_square_one_and_numbers_mean_zero():
    torch.manual_seed(0)
    layer = library.SteerableBatchNorm2d({1: 2, 0: 3}).double()
    x = 5 + torch.arange(1.0, 8)[:, None, None] * torch.randn(6, 7, 4, 5, dtype=torch.float64)
    y = layer(x)
    vectors, numbers = y[:, :4].unflatten(1, (2, 2)), y[:, 4:]
    torch.testing.assert_close(vectors.square().mean((0, 2, 3, 4)), torch.ones(2).double(), rtol=1e-4, atol=0)
    torch.testing.assert_close(numbers.mean((0, 2, 3)), torch.zeros(3).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(numbers.var((0, 2, 3), correction=0), torch.ones(3).double(), rtol=1e-4, atol=0)
    torch.testing.assert_close(vectors[:, :, 0] / vectors[:, :, 1], x[:, [0, 2]] / x[:, [1, 3]])  # directions stay


def test_kept_squares_serve_in_evaluation_mode():
    torch.manual_seed(0)
    layer, x = library.SteerableBatchNorm2d({1: 1}, momentum=0.25), 3 * torch.randn(4, 2, 5, 5)
    layer(x)
    kept = 0.75 + 0.25 * x.square().mean()
    torch.testing.assert_close(layer.running_square, kept[None])
    torch.testing.assert_close(layer.eval()(x[:1]), x[:1] / (kept + 1e-5).sqrt())
    other = library.SteerableBatchNorm2d({1: 1})
    other.load_state_dict(layer.state_dict())
    torch.testing.assert_close(other.eval()(x), layer(x))
    assert not layer.running_square.requires_grad and layer.train()(x).requires_grad


def test_layers_pass_gradcheck():
    torch.manual_seed(0)
    fields = {0: 1, 1: 1}
    layer = library.SteerableConv2d(fields, fields, 3, padding=1).double()
    x = torch.randn(1, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, x) and torch.autograd.gradgradcheck(layer, x)
    fields = x.detach().reshape(1, 1, 3, 3, 3).requires_grad_()
    bias = torch.tensor([-0.2], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(library.norm_nonlinearity, (fields, bias))


def test_the_expanded_kernel_is_kept_until_a_coefficient_changes():
    torch.manual_seed(0)
    layer = library.SteerableConv2d({0: 1}, {0: 2, 1: 1}, 3, padding=1)
    x = torch.rand(2, 1, 5, 5)
    layer.eval()
    with torch.no_grad():
        before = layer(x)
        assert layer._kept_kernel() is layer._kept_kernel()
        torch.testing.assert_close(layer.to_conv2d()(x), before)
    assert layer(x).requires_grad  # with gradients nothing is kept
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    layer(x).square().sum().backward()
    optimizer.step()
    with torch.no_grad():
        assert (layer(x) - before).norm() > 1e-3
        other = library.SteerableConv2d({0: 1}, {0: 2, 1: 1}, 3, padding=1).eval()
        other(x)
        other.load_state_dict(layer.state_dict())
        torch.testing.assert_close(other(x), layer(x))
        torch.testing.assert_close(copy.deepcopy(layer)(x), layer(x))
        assert layer.double()(x.double()).dtype == torch.float64
    assert not any(name.startswith("basis") for name in layer.state_dict())


def kept():
    torch.manual_seed(0)
    layer = library.SteerableConv2d({0: 2, 1: 1}, {0: 2, 1: 2, 2: 1}, 5, padding=2).eval()
    x = torch.randn(2, 4, 7, 6)
    with torch.no_grad():
        layer(x)
    return layer, x


def agrees(layer, x):
    """The output without gradients, where a kernel may be kept, is that of the kernel as it is now."""
    with torch.no_grad():
        torch.testing.assert_close(layer(x), layer.to_conv2d()(x), rtol=1e-5, atol=1e-5)


def test_a_kept_kernel_is_never_an_old_one():
    layer, x = kept()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    agrees(layer, x)
    for kind in (torch.optim.Adam, torch.optim.SGD):
        optimizer = kind(layer.parameters(), lr=0.1, fused=True)
        agrees(layer, x)
        layer(x).square().mean().backward()
        optimizer.step()
        agrees(layer, x)
    for _ in range(20):  # new weights at the address of the old ones
        layer.load_state_dict({name: torch.randn_like(p) for name, p in layer.state_dict().items()}, assign=True)
        agrees(layer, x)
        for name in list(layer.coefficients):
            shape = layer.coefficients[name].shape
            del layer.coefficients[name]
            layer.coefficients[name] = nn.Parameter(torch.randn(shape))
        agrees(layer, x)
    for part in layer.parameters():
        part.data.mul_(2)  # autograd does not see this
    agrees(layer.eval(), x)
    again = pickle.loads(pickle.dumps(layer))
    assert again._kept is None and copy.deepcopy(layer)._kept is None
    agrees(again, x)
    with torch.inference_mode():
        layer(x)
        made = library.SteerableConv2d({0: 2, 1: 1}, {0: 2}, 5).eval()
        made(x), made(x)
    layer(x).sum().backward()
    tripled = {name: 3 * part.detach() for name, part in layer.named_parameters()}
    with torch.no_grad():
        torch.testing.assert_close(torch.func.functional_call(layer, tripled, (x,)), 3 * layer(x))
        stacked = {name: torch.stack([part, 2 * part]) for name, part in layer.named_parameters()}
        mapped = torch.vmap(lambda part: torch.func.functional_call(layer, part, (x,)))(stacked)
        torch.testing.assert_close(mapped, torch.stack([layer(x), 2 * layer(x)]))


def test_coefficients_that_are_assigned_bring_their_device_and_dtype():
    layer, x = kept()
    with torch.device("meta"):
        empty = nn.Sequential(library.SteerableConv2d({0: 2, 1: 1}, {0: 2, 1: 2, 2: 1}, 5, padding=2))
    state = {f"0.{name}": part.double() for name, part in layer.state_dict().items()}
    empty.load_state_dict(state, assign=True)
    torch.testing.assert_close(empty(x.double()), layer.double()(x.double()), rtol=1e-12, atol=1e-12)


def steerable_layers():
    """One of each layer in a row, and images."""
    torch.manual_seed(0)
    fields = {0: 3, 1: 2, 2: 1}
    gate = library.GatedNonlinearity(fields)
    layers = nn.Sequential(
        library.SteerableConv2d({0: 1}, gate.fields_in, 5, padding=2),
        library.SteerableBatchNorm2d(gate.fields_in),
        gate,
        library.SteerableConv2d(fields, {1: 2, 0: 3}, 3, padding=1, stride=2),
        library.NormNonlinearity({1: 2, 0: 3}),
    )
    nn.init.normal_(layers[4].bias)
    x = torch.randn(2, 1, 15, 15)
    layers(x)
    return layers, x


def test_all_layers_export_and_compile_in_one_graph():
    layers, x = steerable_layers()
    for mode in (True, False):
        layers.train(mode)
        compiled = torch.compile(copy.deepcopy(layers), fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), copy.deepcopy(layers)(x))
        with torch.no_grad():
            torch.testing.assert_close(compiled(x), copy.deepcopy(layers)(x))
    batch = torch.export.Dim("batch")
    exported = torch.export.export(layers, (x,), dynamic_shapes=({0: batch},)).module()
    torch.testing.assert_close(exported(torch.cat([x, -x])), layers(torch.cat([x, -x])))
    with torch.no_grad():
        torch.testing.assert_close(torch.export.export(layers, (x,)).module()(x), layers(x))


def test_all_layers_in_few_digits_on_no_images_and_one_at_a_time():
    layers, x = steerable_layers()
    wanted = copy.deepcopy(layers)(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = layers(x)
    found.float().square().sum().backward()
    assert (found - wanted).norm() < 0.05 * wanted.norm()
    assert layers[1].running_square.dtype == torch.float32
    assert all(part.grad.isfinite().all() for part in layers.parameters())
    layers.eval()
    assert layers(x[:0]).shape == (0, 7, 8, 8)
    short = copy.deepcopy(layers).to(torch.bfloat16)(x.to(torch.bfloat16))
    assert short.dtype == torch.bfloat16 and (short - layers(x)).norm() < 0.05 * layers(x).norm()
    torch.testing.assert_close(torch.vmap(lambda one: layers(one[None])[0])(x), layers(x))
    of_channels_last = copy.deepcopy(layers).to(memory_format=torch.channels_last)
    torch.testing.assert_close(of_channels_last(x.to(memory_format=torch.channels_last)), layers(x))


def test_where_vectors_are_zero_two_derivatives_are_finite():
    """Digits have a margin without ink, where every vector has length 0, and its length has no slope."""
    torch.manual_seed(0)
    fields = {1: 2, 0: 3}
    layer, rectify = library.SteerableConv2d({0: 1}, fields, 3), library.NormNonlinearity(fields)
    x = F.pad(digits().test.x[:4], [3] * 4).requires_grad_()
    vectors = layer(x)
    assert (vectors[:, :4, 0] == 0).all() and (vectors[:, :4] != 0).any()
    for z in (rectify(vectors), library.invariants(vectors, fields)):
        (slope,) = torch.autograd.grad(z.square().sum(), x, create_graph=True)
        slope.square().sum().backward(retain_graph=True)
        assert x.grad.isfinite().all() and layer.coefficients["0_1"].grad.isfinite().all()


def test_the_layer_of_norms_is_the_function_of_the_exercise():
    layer, x = library.NormNonlinearity({2: 3, 0: 2}).double(), torch.randn(2, 8, 4, 5, dtype=torch.float64)
    x[:, :, 2:] = 0
    nn.init.normal_(layer.bias)
    y = layer(x)
    wanted = library.norm_nonlinearity(x[:, :6].unflatten(1, (3, 2)), layer.bias[:3])
    torch.testing.assert_close(y[:, :6].unflatten(1, (3, 2)), wanted)
    torch.testing.assert_close(y[:, 6:], (x[:, 6:] + layer.bias[3:, None, None]).relu())


@pytest.mark.parametrize("size, stride, padding", [(3, 1, 1), (4, 2, 0), (5, 2, 2), (2, 1, 1)])
def test_a_layer_is_the_sum_it_says_it_is(size, stride, padding):
    """Point by point: κ(p) = Σ ring(r) · ρ_out(φ) · A · ρ_in(φ)⁻¹ times what the layer sees there."""
    torch.manual_seed(0)
    fields_in, fields_out = {0: 1, 2: 1}, {1: 2, 0: 1}
    layer = library.SteerableConv2d(fields_in, fields_out, size, stride, padding).double()
    nn.init.normal_(layer.bias)
    x = torch.randn(2, 3, 7, 6, dtype=torch.float64)
    seen = F.pad(x, [padding] * 4)
    height, width = ((side - size) // stride + 1 for side in seen.shape[-2:])
    y = torch.zeros(2, 5, height, width, dtype=torch.float64)
    points = [(i, j, j - (size - 1) / 2, (size - 1) / 2 - i) for i in range(size) for j in range(size)]
    top = 0
    for n, many in fields_out.items():
        d_out, left = library.dimension(n), 0
        for m, count in fields_in.items():
            d_in = library.dimension(m)
            waves = []
            for radius, spread, highest in layer.rings:
                for start, wave in library._starts(m, n):
                    kernel = {}
                    for i, j, u, v in points:
                        r, phi = math.hypot(u, v), torch.tensor(math.atan2(v, u), dtype=torch.float64)
                        ring = math.exp(-((r - radius) ** 2) / (2 * spread**2)) * (r > 0 or wave == 0)
                        kernel[i, j] = ring * library.irrep(n, phi) @ start @ library.irrep(m, -phi)
                    norm = math.sqrt(sum(part.square().sum().item() for part in kernel.values()))
                    if abs(wave) <= highest and norm > 1e-6:
                        waves.append({place: part * d_out**0.5 / norm for place, part in kernel.items()})
            learned = layer.coefficients[f"{m}_{n}"].detach()
            assert learned.shape == (many, count, len(waves))
            for o, f, b in itertools.product(range(many), range(count), range(len(waves))):
                for i, j, *_ in points:
                    part = seen[:, left + f * d_in : left + (f + 1) * d_in]
                    part = part[..., i : i + stride * height : stride, j : j + stride * width : stride]
                    moved = torch.einsum("oc,bchw->bohw", waves[b][i, j], part)
                    y[:, top + o * d_out : top + (o + 1) * d_out] += learned[o, f, b] * moved
            left += count * d_in
        top += many * d_out
    y[:, 4:] += layer.bias.detach()[:, None, None]
    torch.testing.assert_close(layer(x), y, rtol=1e-12, atol=1e-12)


def test_outputs_keep_the_variance_of_inputs():
    torch.manual_seed(0)
    fields = {0: 20, 1: 20, 2: 20}
    layer = library.SteerableConv2d(fields, fields, 5)
    spread = layer(torch.randn(8, 100, 15, 15)).var().item()
    assert 1.0 < spread < 3.0  # times two, for the rectifier that follows


def test_a_kernel_without_a_solution_is_zero():
    layer = library.SteerableConv2d({0: 1}, {1: 1}, 1)  # one pixel: numbers cannot become vectors there
    assert layer(torch.rand(1, 1, 3, 3)).abs().max() == 0


def test_interpolated_turns_of_real_digits_cost_more_than_the_layer_does():
    """At 45 degrees our kernels are not the problem: the pixels of an 8 × 8 image are."""
    torch.manual_seed(0)
    x = F.interpolate(digits().test.x[:20], size=40, mode="bicubic")
    x = F.pad(x, (12, 12, 12, 12))
    layer = library.SteerableConv2d({0: 1}, {0: 2, 1: 2}, 5, padding=2)
    turned = rotate(x, torch.full((20,), math.pi / 4))
    still, moved = (library.invariants(layer(z), {0: 2, 1: 2}).mean((-2, -1)) for z in (x, turned))
    assert (moved - still).norm() < 0.05 * still.norm()


# --- escnn -------------------------------------------------------------------------------------------------------


#: escnn's own choice for a kernel of 5 × 5, as (radius, width, highest frequency)
RINGS = ((0.0, 0.005, 0.0), (1.0, 0.6, 2.0), (2.0, 0.4, 2.0))


@pytest.fixture(scope="module")
def both(escnn):
    """One layer of ours and one of escnn's, numbers and vectors to numbers and vectors, on the same rings."""
    gspaces, steerable = escnn
    space = gspaces.rot2dOnR2(-1, maximum_frequency=2)
    torch.manual_seed(0)
    fields = steerable.FieldType(space, [space.irrep(0), space.irrep(1), space.irrep(2)])
    theirs = steerable.R2Conv(fields, fields, 5, padding=2, bias=False, initialize=True)
    assert theirs._rings == [ring[0] for ring in RINGS] and theirs._sigma == [ring[1] for ring in RINGS]
    one = {0: 1, 1: 1, 2: 1}
    return library.SteerableConv2d(one, one, 5, padding=2, bias=False, rings=RINGS), theirs, fields, steerable


def test_escnn_spans_the_same_kernels(both):
    ours, theirs, *_ = both
    expanded = unit_kernels(theirs.basisexpansion, len(theirs.weights)).reshape(-1, 5, 5, 5, 5)
    mine = our_kernels(ours)
    assert len(mine) == len(expanded)
    np.testing.assert_allclose(projector(mine), projector(expanded), atol=1e-5)


def test_escnn_gives_the_same_outputs_with_the_same_kernel(both):
    ours, theirs, fields, steerable = both
    kernels = our_kernels(ours).flatten(1)
    target = theirs.expand_parameters()[0].detach().flatten()
    solution = torch.linalg.lstsq(kernels.T.double(), target.double()[:, None]).solution[:, 0].float()
    with torch.no_grad():
        at = 0
        for part in ours.coefficients.values():
            part.copy_(solution[at : at + part.numel()].view_as(part))
            at += part.numel()
        x = torch.randn(3, 5, 12, 11)
        wanted = theirs(steerable.GeometricTensor(x, fields)).tensor
        assert wanted.norm() > 1
        torch.testing.assert_close(ours(x), wanted, rtol=1e-5, atol=1e-5)


def test_escnn_turns_vectors_as_we_do(both):
    _, _, fields, steerable = both
    x = torch.randn(2, 5, 6, 6)
    angle = 0.7
    element = fields.gspace.fibergroup.element(angle)
    theirs = steerable.GeometricTensor(x, fields).transform_fibers(element).tensor
    torch.testing.assert_close(theirs, library.turn_vectors(x, {0: 1, 1: 1, 2: 1}, angle))


def test_escnn_spans_the_same_regular_kernels(escnn):
    """C4 on 3 × 3 pixels, waves of up to frequency 4: every solution that the pixels allow."""
    gspaces, steerable = escnn
    space = gspaces.rot2dOnR2(4)
    fields = steerable.FieldType(space, [space.regular_repr])
    theirs = steerable.R2Conv(fields, fields, 3, bias=False, frequencies_cutoff=lambda r: 4.0 * (r > 0))
    expanded = unit_kernels(theirs.basisexpansion, len(theirs.weights)).reshape(-1, 4, 4, 3, 3)
    rho = regular_representation(cyclic(4).table).double()
    places = torch.arange(9).reshape(3, 3)
    moves = places.rot90(-1).flatten()[None]  # where each pixel goes in a quarter turn
    ours = library.solve_kernel_constraint(rho[[1]], rho[[1]], moves).permute(0, 2, 3, 1)  # (basis, out, in, point)
    assert len(ours) == 4 * 4 * 9 // 4
    np.testing.assert_allclose(projector(ours), projector(expanded), atol=1e-4)


def test_escnn_has_the_same_norm_nonlinearity(escnn):
    gspaces, steerable = escnn
    space = gspaces.rot2dOnR2(-1, maximum_frequency=2)
    fields = steerable.FieldType(space, [space.irrep(1), space.irrep(1), space.irrep(1)])
    theirs = steerable.NormNonLinearity(fields, "n_relu")
    x = torch.randn(2, 6, 4, 3)
    with torch.no_grad():
        wanted = theirs(steerable.GeometricTensor(x, fields)).tensor
        bias = -theirs.log_bias.exp().flatten()
    ours = library.norm_nonlinearity(x.unflatten(1, (3, 2)), bias).flatten(1, 2)
    torch.testing.assert_close(ours, wanted)


def test_escnn_has_the_same_gates(escnn):
    gspaces, steerable = escnn
    space = gspaces.rot2dOnR2(-1, maximum_frequency=2)
    ours = library.GatedNonlinearity({0: 2, 1: 2, 2: 1})
    x = torch.randn(3, 2 + 3 + 6, 4, 5)
    vectors = steerable.FieldType(space, [space.irrep(1)] * 2 + [space.irrep(2)])
    gates = steerable.FieldType(space, [space.trivial_repr] * 3)
    theirs = steerable.GatedNonLinearity2((gates, vectors))
    nn.init.zeros_(theirs.bias)
    pair = steerable.GeometricTensor(x[:, 2:5], gates), steerable.GeometricTensor(x[:, 5:], vectors)
    wanted = torch.cat([F.elu(x[:, :2]), theirs(*pair).tensor], dim=1)
    torch.testing.assert_close(ours(x), wanted)


def test_escnn_makes_the_same_network(escnn):
    """Three convolutions with a nonlinearity of norms and gates between them, with one set of weights."""
    gspaces, steerable = escnn
    torch.manual_seed(0)
    space = gspaces.rot2dOnR2(-1, maximum_frequency=2)

    def kind(fields):
        return steerable.FieldType(space, [space.irrep(k) for k, count in fields.items() for _ in range(count)])

    middle, last = {0: 2, 1: 2, 2: 1}, {0: 2, 1: 1}
    gate = library.GatedNonlinearity(middle)
    ours = nn.Sequential(
        library.SteerableConv2d({0: 1}, {1: 3}, 5, padding=2, bias=False, rings=RINGS),
        library.NormNonlinearity({1: 3}),
        library.SteerableConv2d({1: 3}, gate.fields_in, 5, padding=2, bias=False, rings=RINGS),
        gate,
        library.SteerableConv2d(middle, last, 5, padding=2, bias=False, rings=RINGS),
    )
    gates, vectors = kind({0: 3}), kind({1: 2, 2: 1})
    theirs = [
        steerable.R2Conv(kind({0: 1}), kind({1: 3}), 5, padding=2, bias=False),
        steerable.NormNonLinearity(kind({1: 3}), "n_relu"),
        steerable.R2Conv(kind({1: 3}), kind(gate.fields_in), 5, padding=2, bias=False),
        steerable.GatedNonLinearity2((gates, vectors)),
        steerable.R2Conv(kind(middle), kind(last), 5, padding=2, bias=False),
    ]
    x = torch.randn(2, 1, 13, 12)
    with torch.no_grad():
        for mine, other in zip(ours[::2], theirs[::2], strict=True):
            kernels, target = our_kernels(mine).flatten(1).double(), other.expand_parameters()[0].flatten().double()
            solution = torch.linalg.lstsq(kernels.T, target[:, None], driver="gelsd").solution[:, 0]
            assert (kernels.T @ solution - target).norm() < 1e-5 * target.norm()  # one span
            nn.utils.vector_to_parameters(solution.float(), mine.coefficients.parameters())
        theirs[3].bias.zero_()
        ours[1].bias.copy_(-theirs[1].log_bias.exp().flatten())
        found = theirs[1](theirs[0](steerable.GeometricTensor(x, kind({0: 1}))))
        found = theirs[2](found).tensor
        pair = steerable.GeometricTensor(found[:, 2:5], gates), steerable.GeometricTensor(found[:, 5:], vectors)
        found = torch.cat([F.elu(found[:, :2]), theirs[3](*pair).tensor], dim=1)
        found = theirs[4](steerable.GeometricTensor(found, kind(middle))).tensor
        assert found.norm() > 1
        torch.testing.assert_close(ours(x), found, rtol=1e-5, atol=1e-5)


def test_escnn_has_the_same_batch_normalization(escnn):
    gspaces, steerable = escnn
    torch.manual_seed(0)
    space = gspaces.rot2dOnR2(-1, maximum_frequency=2)
    fields = steerable.FieldType(space, [space.irrep(0)] * 2 + [space.irrep(1)] * 2 + [space.irrep(2)])
    theirs, ours = steerable.IIDBatchNorm2d(fields), library.SteerableBatchNorm2d(ALL)
    for mode in (True, False):  # what a training step keeps is used in evaluation
        theirs.train(mode), ours.train(mode)
        x = 2 + 3 * torch.randn(4, 8, 6, 5)
        x[2:, 2:] = -x[:2, 2:]  # vectors of mean zero: escnn's spread is around their mean, ours around zero
        wanted = theirs(steerable.GeometricTensor(x, fields)).tensor
        torch.testing.assert_close(ours(x), wanted, rtol=5e-3, atol=5e-3)  # escnn divides by n − 1; here n = 120


COLD = """
import sys, warnings
warnings.simplefilter("ignore")
import joblib
Memory = joblib.Memory
joblib.Memory = lambda location, **options: Memory(sys.argv[1], **options)
import torch
from escnn import gspaces, nn
space = gspaces.flipRot2dOnR2(4)
fields = nn.FieldType(space, [space.regular_repr])
conv = nn.R2Conv(nn.FieldType(space, [space.trivial_repr]), fields, 3)
x = nn.GeometricTensor(torch.rand(1, 1, 5, 5), conv.in_type)
turn = space.fibergroup.element((1, 1))
with torch.no_grad():
    print((conv(x.transform(turn)).tensor - conv(x).transform(turn).tensor).abs().max().item())
"""


def test_escnns_dihedral_layer_is_built_from_a_cold_cache(tmp_path):
    """With scikit-learn from 1.7 on it is not: escnn hands it an np.matrix."""
    pytest.importorskip("escnn")
    done = subprocess.run([sys.executable, "-c", COLD, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout.split()[-1]) < 1e-5
    assert list(tmp_path.rglob("*.pkl")), "nothing was computed anew: was the cache cold?"


# --- every device that is here -----------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["circular_harmonic", "solve_kernel_constraint"])
def test_on_cuda(task, on_cuda):
    probe, verify = getattr(checks, f"probe_{task}"), getattr(checks, f"verify_{task}")
    verify(probe(on_cuda(getattr(library, task)), 0), 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_network_on_cuda():
    model = library.SteerableNetwork(0, {0: 3, 1: 2}, {0: 4, 1: 2}).double()
    x = digits().test.x[:4].double()
    torch.testing.assert_close(copy.deepcopy(model).cuda()(x.cuda()).cpu(), model(x))


# --- bad input ---------------------------------------------------------------------------------------------------

POINTS, ONE, MOVES = torch.ones(3, 2), torch.ones(1, 1, 1), torch.tensor([[1, 0]])
VECTORS = torch.ones(1, 2, 2, 3, 3)
BAD = {
    "points that are no pairs": (lambda: library.circular_harmonic(torch.ones(3, 3), 1, 1.0, 1.0), "points must have"),
    "integer points": (lambda: library.circular_harmonic(POINTS.long(), 1, 1.0, 1.0), "floating point"),
    "a negative frequency": (lambda: library.circular_harmonic(POINTS, -1, 1.0, 1.0), "frequency must be non-neg"),
    "a negative radius": (lambda: library.circular_harmonic(POINTS, 1, -1.0, 1.0), "radius must be non-negative"),
    "no width": (lambda: library.circular_harmonic(POINTS, 1, 1.0, 0.0), "width must be positive"),
    "a frequency too few": (lambda: library.steer(POINTS, torch.tensor([1, 2]), torch.ones(2)), "frequencies must"),
    "an angle without its axis": (lambda: library.steer(POINTS, torch.arange(3), torch.tensor(1.0)), "angles must"),
    "angles in float64": (lambda: library.steer(POINTS, torch.arange(3), torch.ones(2).double()), "of the kind of"),
    "matrices that are not square": (
        lambda: library.solve_kernel_constraint(torch.ones(1, 2, 3), ONE, MOVES),
        "rho_in must have the sizes",
    ),
    "one element too few": (
        lambda: library.solve_kernel_constraint(ONE, ONE.expand(2, 1, 1), MOVES),
        "rho_out must have the sizes",
    ),
    "a point that is not there": (
        lambda: library.solve_kernel_constraint(ONE, ONE, MOVES + 1),
        "moves must be indices",
    ),
    "NaN in a representation": (lambda: library.solve_kernel_constraint(ONE * torch.nan, ONE, MOVES), "must be finite"),
    "components without their axis": (lambda: library.norm_nonlinearity(VECTORS[0], torch.ones(2)), "5 dimensions"),
    "a bias for each component": (
        lambda: library.norm_nonlinearity(VECTORS, torch.ones(4)),
        "bias must have the sizes",
    ),
    "no function": (lambda: library.regular_to_irreps(torch.ones(2, 0)), "x must have the sizes"),
    "a number for a function": (lambda: library.regular_to_irreps(torch.tensor(1.0)), "x must have the sizes"),
    "a frequency below zero": (lambda: library.irrep(-1, torch.zeros(1)), "frequency must be non-negative"),
    "no rings": (lambda: library.kernel_basis(0, 0, 3, ()), "rings must not be empty"),
    "a kernel without size": (lambda: library.SteerableConv2d({0: 1}, {0: 1}, 0), "size must be a positive integer"),
    "no fields": (lambda: library.SteerableConv2d({}, {0: 1}, 3), "fields_in must not be empty"),
    "half a field": (lambda: library.SteerableConv2d({0: 1}, {0: 0.5}, 3), "count must be a positive integer"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_explained(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call()
