"""parameter_sharing: wrong and right versions of each task, independent peers, closed forms, bad input."""

import numpy as np
import pytest
import scipy.linalg
import torch
import torch.nn.functional as F
from checks import parameter_sharing as checks
from torch import nn

from course_lib import parameter_sharing as library

CIRCULANT = """
def matrix(kernel, size):
    column = torch.zeros(size, dtype=kernel.dtype, device=kernel.device)
    column = torch.cat([kernel, column[len(kernel):]])
    return torch.stack([column.roll(j) for j in range(size)], dim=1)
"""
LAYER = """
def matrix(kernel, height, width):
    outputs, inputs, rows, columns = kernel.shape
    units = torch.eye(inputs * height * width, dtype=kernel.dtype, device=kernel.device)
    images = units.reshape(-1, inputs, height, width)
    seen = F.conv2d(images, kernel, padding=(rows // 2, columns // 2))
    return seen.flatten(1).T
"""
AVERAGE = """
def average(weight, rho_in, rho_out):
    total = torch.zeros_like(weight)
    for before, after in zip(rho_in, rho_out):
        total = total + after @ weight @ torch.linalg.inv(before)
    return total / len(rho_in)
"""
DIMENSION = """
def dimension(rho_in, rho_out):
    total = 0.0
    for before, after in zip(rho_in, rho_out):
        total = total + torch.trace(after).item() * torch.trace(before).item()
    return round(total / len(rho_in))
"""
LABELS = """
def labels(move_in, move_out):
    outputs, inputs = move_out.shape[1], move_in.shape[1]
    found, count = -torch.ones(outputs, inputs, dtype=torch.int64, device=move_in.device), 0
    for i in range(outputs):
        for j in range(inputs):
            if found[i, j] < 0:
                found[move_out[:, i], move_in[:, j]] = count
                count = count + 1
    return found
"""


def edited(source, *changes):
    """The function in a source text, with the mistakes that pairs of old and new text make."""
    for old, new in zip(changes[::2], changes[1::2], strict=True):
        assert old in source, old
        source = source.replace(old, new)
    scope = {"torch": torch, "F": F}
    exec(source, scope)
    return scope[source.split("def ")[1].split("(")[0]]


def first_of_each(rho):
    """Where each different matrix of a stack comes first."""
    names = rho.flatten(1).mul(1e4).round().tolist()
    return [at for at, name in enumerate(names) if names.index(name) == at]


def numbered(names):
    """Names of places, numbered as they are met."""
    found = {}
    return torch.tensor([[found.setdefault(name, len(found)) for name in row] for row in names.tolist()])


def orthogonally(weight, rho_in, rho_out):
    """The nearest equivariant matrix: not the average, unless the matrices are orthogonal."""
    outputs, inputs = torch.eye(len(weight)).to(weight), torch.eye(weight.shape[1]).to(weight)
    rows = [
        torch.kron(outputs, before.T.contiguous()) - torch.kron(after.contiguous(), inputs)
        for before, after in zip(rho_in, rho_out, strict=True)
    ]
    equations = torch.cat(rows)
    return weight - (torch.linalg.pinv(equations, rtol=1e-4) @ equations @ weight.flatten()).reshape(weight.shape)


# What students write by mistake: each must lose points.
MUTANTS = {
    "circulant": {
        "correlation": edited(CIRCULANT, "dim=1)", "dim=0)"),
        "kernel in the first row": lambda kernel, size: edited(CIRCULANT)(kernel, size).T.contiguous(),
        "rolled upwards": edited(CIRCULANT, "roll(j)", "roll(-j)"),
        "starts one place late": edited(CIRCULANT, "roll(j)", "roll(j + 1)"),
        "centred": edited(CIRCULANT, "roll(j)", "roll(j - len(kernel) // 2)"),
        "kernel turned around": edited(CIRCULANT, "[kernel,", "[kernel.flip(0),"),
        "Toeplitz, does not wrap": lambda kernel, size: edited(CIRCULANT)(kernel, size).tril(),
        "as large as the kernel": lambda kernel, size: edited(CIRCULANT)(kernel, len(kernel)),
        "normalised": edited(CIRCULANT, "[kernel,", "[kernel / kernel.sum(),"),
        "kernel repeated": lambda kernel, size: edited(CIRCULANT)(kernel.repeat(-(-size // len(kernel)))[:size], size),
        "detached": edited(CIRCULANT, "[kernel,", "[kernel.detach(),"),
        "always float32": lambda kernel, size: edited(CIRCULANT)(kernel.float(), size),
        "from a list": lambda kernel, size: torch.tensor(checks.circular(kernel.tolist(), size)).to(kernel.dtype),
        "in place": lambda kernel, size: edited(CIRCULANT)(kernel.mul_(1.01), size),
    },
    "convolution_matrix": {
        "true convolution": edited(LAYER, "images, kernel,", "images, kernel.flip(2, 3),"),
        "transposed": edited(LAYER, "flatten(1).T", "flatten(1)"),
        "input and output maps swapped": edited(
            LAYER,
            "inputs, rows, columns = kernel.shape",
            "inputs, rows, columns = kernel.shape\n    kernel = kernel[:, list(range(inputs))[::-1]]",
        ),
        "no padding": edited(LAYER, "(rows // 2, columns // 2)", "0"),
        "padding for square kernels": edited(LAYER, "columns // 2)", "rows // 2)"),
        "padding swapped": edited(LAYER, "(rows // 2, columns // 2)", "(columns // 2, rows // 2)"),
        "wraps around": edited(
            LAYER,
            "seen = F.conv2d(images, kernel, padding=(rows // 2, columns // 2))",
            "around = [columns // 2] * 2 + [rows // 2] * 2\n"
            "    index = lambda n, k: (torch.arange(n + 2 * (k // 2)) - k // 2) % n\n"
            "    images = images[:, :, index(height, rows)][..., index(width, columns)]\n"
            "    seen = F.conv2d(images, kernel)",
        ),
        "columns before rows": edited(LAYER, "seen.flatten(1).T", "seen.transpose(2, 3).flatten(1).T"),
        "maps last": edited(LAYER, "seen.flatten(1).T", "seen.movedim(1, 3).flatten(1).T"),
        "height and width swapped": edited(LAYER, "inputs, height, width)", "inputs, width, height)"),
        "off by one": edited(LAYER, "seen.flatten(1).T", "seen.roll(1, 3).flatten(1).T"),
        "first map only": edited(LAYER, "images, kernel,", "images, kernel[:1].expand_as(kernel),"),
        "edge repeated": edited(
            LAYER,
            "images, kernel, padding=(rows // 2, columns // 2)",
            "F.pad(images, [columns // 2] * 2 + [rows // 2] * 2, mode='replicate'), kernel",
        ),
        "detached": edited(LAYER, "images, kernel,", "images, kernel.detach(),"),
        "always float32": lambda kernel, height, width: edited(LAYER)(kernel.float(), height, width),
        "in place": lambda kernel, height, width: edited(LAYER)(kernel.mul_(1.01), height, width),
    },
    "tie_by_averaging": {
        "inverse forgotten": edited(AVERAGE, "torch.linalg.inv(before)", "before"),
        "transpose for inverse": edited(AVERAGE, "torch.linalg.inv(before)", "before.T"),
        "inverse on the wrong side": edited(
            AVERAGE, "after @ weight @ torch.linalg.inv(before)", "torch.linalg.inv(after) @ weight @ before.T"
        ),
        "sum, not mean": edited(AVERAGE, " / len(rho_in)", ""),
        "one too few": edited(AVERAGE, "/ len(rho_in)", "/ max(1, len(rho_in) - 1)"),
        "the identity left out": edited(AVERAGE, "zip(rho_in, rho_out)", "list(zip(rho_in, rho_out))[1:]"),
        "outputs only": edited(AVERAGE, " @ torch.linalg.inv(before)", ""),
        "inputs only": edited(AVERAGE, "after @ weight", "weight"),
        "averages the matrices first": lambda weight, rho_in, rho_out: (
            rho_out.mean(0) @ weight @ torch.linalg.inv(rho_in).mean(0)
        ),
        "all pairs of elements": edited(
            AVERAGE,
            "zip(rho_in, rho_out):",
            "((b, a) for b in rho_in for a in rho_out):",
            "/ len(rho_in)",
            "/ len(rho_in)**2",
        ),
        "elements out of step": edited(AVERAGE, "zip(rho_in,", "zip(rho_in.roll(1, 0),"),
        "transposes for inverses": lambda weight, rho_in, rho_out: (rho_out.mT @ weight @ rho_in).mean(0),
        "equal input matrices once": lambda weight, rho_in, rho_out: edited(AVERAGE)(
            weight, *(part[first_of_each(rho_in)] for part in (rho_in, rho_out))
        ),
        "powers of one element": lambda weight, rho_in, rho_out: edited(AVERAGE)(
            weight,
            *(
                torch.stack([torch.linalg.matrix_power(part[-1], k) for k in range(len(part))])
                for part in (rho_in, rho_out)
            ),
        ),
        "orthogonal projection": lambda weight, rho_in, rho_out: orthogonally(weight, rho_in, rho_out),
        "weight returned": lambda weight, rho_in, rho_out: weight.clone(),
        "constant": lambda weight, rho_in, rho_out: weight.mean().expand_as(weight),
        "zeros": lambda weight, rho_in, rho_out: 0 * weight,
        "detached": edited(AVERAGE, "@ weight @", "@ weight.detach() @"),
        "always float32": lambda weight, rho_in, rho_out: edited(AVERAGE)(
            weight.float(), rho_in.float(), rho_out.float()
        ),
        "in place": lambda weight, rho_in, rho_out: weight.copy_(edited(AVERAGE)(weight, rho_in, rho_out).detach()),
    },
    "equivariant_dimension": {
        "truncated": edited(DIMENSION, "return round(", "return int("),
        "rounded up": edited(DIMENSION, "return round(total / len(rho_in))", "return -int(-total // len(rho_in))"),
        "not rounded": edited(DIMENSION, "return round(total / len(rho_in))", "return total / len(rho_in)"),
        "a tensor": edited(
            DIMENSION, "return round(total / len(rho_in))", "return torch.tensor(total / len(rho_in)).round()"
        ),
        "sum, not mean": edited(DIMENSION, " / len(rho_in)", ""),
        "mean of squares": edited(DIMENSION, "* torch.trace(before).item()", "* torch.trace(after).item()"),
        "inputs alone": edited(DIMENSION, "torch.trace(after).item() * ", ""),
        "traces added": edited(DIMENSION, "torch.trace(after).item() * ", "torch.trace(after).item() + "),
        "product of the means": lambda rho_in, rho_out: round(
            (rho_in.diagonal(dim1=1, dim2=2).sum(1).mean() * rho_out.diagonal(dim1=1, dim2=2).sum(1).mean()).item()
        ),
        "absolute traces": edited(
            DIMENSION, "total + torch", "total + abs(torch", "(before).item()", "(before).item())"
        ),
        "weights over order": lambda rho_in, rho_out: round(rho_in.shape[1] * rho_out.shape[1] / len(rho_in)),
        "all weights": lambda rho_in, rho_out: rho_in.shape[1] * rho_out.shape[1],
        "elements out of step": edited(DIMENSION, "zip(rho_in,", "zip(rho_in.roll(1, 0),"),
        "the identity left out": edited(DIMENSION, "zip(rho_in, rho_out)", "list(zip(rho_in, rho_out))[1:]"),
        "characters rounded": edited(
            DIMENSION, "(after).item()", "(after).round().item()", "(before).item()", "(before).round().item()"
        ),
        "strict rank": lambda rho_in, rho_out: int(
            torch.linalg.matrix_rank(
                torch.stack(
                    [
                        torch.kron(after.contiguous(), torch.linalg.inv(before).T.contiguous())
                        for before, after in zip(rho_in, rho_out, strict=True)
                    ]
                ).mean(0)
            )
        ),
        "over the different matrices": lambda rho_in, rho_out: round(
            torch.einsum("gii,gjj->", rho_in, rho_out).item() / len(first_of_each(rho_in))
        ),
        "ones counted on the diagonal": lambda rho_in, rho_out: round(
            ((rho_in.diagonal(dim1=1, dim2=2) > 0.5).sum(1) * (rho_out.diagonal(dim1=1, dim2=2) > 0.5).sum(1))
            .double()
            .mean()
            .item()
        ),
        "sum of all entries": edited(
            DIMENSION, "torch.trace(after)", "after.sum()", "torch.trace(before)", "before.sum()"
        ),
        "in place": lambda rho_in, rho_out: edited(DIMENSION)(rho_in.mul_(1.0001), rho_out),
    },
    "orbit_labels": {
        "outputs stay": edited(LABELS, "found[move_out[:, i], move_in", "found[i, move_in"),
        "inputs stay": edited(LABELS, "move_in[:, j]] = count", "j] = count"),
        "inputs and outputs apart": edited(
            LABELS, "found[move_out[:, i], move_in[:, j]]", "found[move_out[:, i, None], move_in[:, j]]"
        ),
        "transposed": lambda move_in, move_out: edited(LABELS)(move_out, move_in).T.contiguous(),
        "shape (in, out)": lambda move_in, move_out: edited(LABELS)(move_in, move_out).T.contiguous(),
        "first element only": edited(
            LABELS,
            "found[move_out[:, i], move_in[:, j]] = count",
            "found[move_out[0, i], move_in[0, j]] = count\n                found[i, j] = count",
        ),
        "one element's orbit too short": edited(
            LABELS, "found[move_out[:, i], move_in[:, j]]", "found[move_out[:2, i], move_in[:2, j]]"
        ),
        "counts from one": edited(LABELS, "return found", "return found + 1"),
        "read column by column": edited(
            LABELS,
            "for i in range(outputs):\n        for j in range(inputs):",
            "for j in range(inputs):\n        for i in range(outputs):",
        ),
        "numbered backwards": edited(LABELS, "return found", "return found.max() - found"),
        "smallest place, not numbered": lambda move_in, move_out: (
            move_out[:, :, None] * move_in.shape[1] + move_in[:, None]
        ).amin(0),
        "mean place names the orbit": lambda move_in, move_out: numbered(
            (move_out[:, :, None] * move_in.shape[1] + move_in[:, None]).sum(0)
        ),
        "numbered by the largest place": lambda move_in, move_out: (
            (move_out[:, :, None] * move_in.shape[1] + move_in[:, None]).amax(0).unique(return_inverse=True)[1]
        ),
        "starts in the first row only": edited(LABELS, "range(outputs)", "range(1)"),
        "place by the wrong width": lambda move_in, move_out: (
            (move_out[:, :, None] * move_out.shape[1] + move_in[:, None]).amin(0).unique(return_inverse=True)[1]
        ),
        "every weight free": lambda move_in, move_out: torch.arange(move_out.shape[1] * move_in.shape[1]).reshape(
            move_out.shape[1], -1
        ),
        "all tied": lambda move_in, move_out: torch.zeros(move_out.shape[1], move_in.shape[1], dtype=torch.int64),
        "elements out of step": lambda move_in, move_out: edited(LABELS)(move_in.roll(1, 0), move_out),
        "int32": edited(LABELS, "return found", "return found.int()"),
        "in place": lambda move_in, move_out: edited(LABELS)(move_in.clone(), move_out) + 0 * move_in.zero_().sum(),
    },
}


def circulant_by_shifts(kernel, size):
    """A polynomial in the shift by one."""
    shift, power = torch.eye(size).to(kernel).roll(1, 0), torch.eye(size).to(kernel)
    total = torch.zeros_like(shift)
    for tap in kernel:
        total, power = total + tap * power, shift @ power
    return total


def circulant_by_fourier(kernel, size):
    """The Fourier matrix diagonalizes it."""
    waves = torch.fft.fft(torch.eye(size).to(kernel), norm="ortho")
    return (waves.conj() @ torch.diag(torch.fft.fft(kernel, size)) @ waves).real.to(kernel.dtype)


def layer_by_scatter(kernel, height, width):
    outputs, inputs, rows, columns = kernel.shape
    whole = kernel.new_zeros(outputs, height, width, inputs, height + rows - 1, width + columns - 1)
    for row in range(height):
        for column in range(width):
            whole[:, row, column, :, row : row + rows, column : column + columns] = kernel
    cut = whole[..., rows // 2 : rows // 2 + height, columns // 2 : columns // 2 + width]
    return cut.reshape(outputs * height * width, inputs * height * width)


def layer_by_fft(kernel, height, width):
    """Zeros come out as rounding."""
    inputs, rows, columns = kernel.shape[1:]
    sides = height + 2 * rows, width + 2 * columns
    images = torch.eye(inputs * height * width).to(kernel).reshape(-1, inputs, height, width)
    spectra = torch.fft.rfft2(images, s=sides), torch.fft.rfft2(kernel, s=sides).conj()
    seen = torch.fft.irfft2(torch.einsum("nihw,oihw->nohw", *spectra), s=sides)
    return seen.roll((rows // 2, columns // 2), (2, 3))[:, :, :height, :width].flatten(1).T


def layer_by_bands(kernel, height, width):
    """Each tap is a Kronecker product of two shifted diagonals."""

    def band(size, offset):
        return torch.diag_embed(torch.ones(max(0, size - abs(offset))), offset)[:size, :size].to(kernel)

    total = kernel.new_zeros(kernel.shape[0] * height * width, kernel.shape[1] * height * width)
    rows, columns = kernel.shape[2:]
    for down in range(rows):
        for right in range(columns):
            offsets = (height, down - rows // 2), (width, right - columns // 2)
            if all(abs(offset) < size for size, offset in offsets):
                places = torch.kron(*(band(*pair) for pair in offsets))
                total = total + torch.kron(kernel[:, :, down, right].contiguous(), places)
    return total


def average_by_solving(weight, rho_in, rho_out):
    """X·ρ_in = ρ_out·W, solved for X."""
    return torch.linalg.solve(rho_in, rho_out @ weight, left=False).sum(0) / len(rho_in)


def average_by_kronecker(weight, rho_in, rho_out):
    """One large matrix acts on all weights in a row."""
    total = sum(
        torch.kron(after.contiguous(), torch.linalg.inv(before).T.contiguous())
        for before, after in zip(rho_in, rho_out, strict=True)
    )
    return (total @ weight.flatten() / len(rho_in)).reshape(weight.shape)


def dimension_by_trace(rho_in, rho_out):
    """The trace of the projection, on every unit matrix."""
    total = 0.0
    for i in range(rho_out.shape[1]):
        for j in range(rho_in.shape[1]):
            unit = torch.zeros(rho_out.shape[1], rho_in.shape[1], dtype=rho_in.dtype)
            unit[i, j] = 1.0
            total += edited(AVERAGE)(unit, rho_in, rho_out)[i, j].item()
    return round(total)


def dimension_by_null_space(rho_in, rho_out):
    inputs, outputs = torch.eye(rho_in.shape[1]).double(), torch.eye(rho_out.shape[1]).double()
    rows = [
        torch.kron(outputs, before.T.contiguous()) - torch.kron(after, inputs)
        for before, after in zip(rho_in.double(), rho_out.double(), strict=True)
    ]
    return int((torch.linalg.svdvals(torch.cat(rows)) < 1e-2).sum())


def labels_by_relaxing(move_in, move_out):
    """Every weight takes the smallest number in its orbit, then the numbers close ranks."""
    outputs, inputs = move_out.shape[1], move_in.shape[1]
    numbers = torch.arange(outputs * inputs, device=move_in.device).reshape(outputs, inputs)
    for before, after in zip(move_in, move_out, strict=True):
        numbers = torch.minimum(numbers, numbers[after][:, before])
    _, labels = numbers.unique(return_inverse=True)
    return labels


def labels_by_names(move_in, move_out):
    """An orbit's name is the set of its pairs."""
    names = {}
    table = [
        [
            names.setdefault(frozenset(zip(move_out[:, i].tolist(), move_in[:, j].tolist(), strict=True)), len(names))
            for j in range(move_in.shape[1])
        ]
        for i in range(move_out.shape[1])
    ]
    return torch.tensor(table)


# Right by another way: each must keep every point.
ALTERNATIVES = {
    "circulant": {
        "powers of the shift": circulant_by_shifts,
        "Fourier": circulant_by_fourier,
        "rolled columns": edited(CIRCULANT),
        "windows of two periods": lambda kernel, size: (
            F.pad(kernel, (0, size - len(kernel))).flip(0).repeat(2).unfold(0, size, 1)[:size].flip(0)
        ),
    },
    "convolution_matrix": {
        "unit images through the layer": edited(LAYER),
        "kernels laid into place": layer_by_scatter,
        "Kronecker products": layer_by_bands,
        "transposed layer": lambda kernel, height, width: F.conv_transpose2d(
            torch.eye(len(kernel) * height * width).to(kernel).reshape(-1, len(kernel), height, width),
            kernel,
            padding=(kernel.shape[2] // 2, kernel.shape[3] // 2),
        ).flatten(1),
        "FFT on a larger image": layer_by_fft,
        "in float64": lambda kernel, height, width: edited(LAYER)(kernel.double(), height, width).to(kernel.dtype),
    },
    "tie_by_averaging": {
        "one by one": edited(AVERAGE),
        "solving": average_by_solving,
        "Kronecker": average_by_kronecker,
        "over the inverses": lambda weight, rho_in, rho_out: torch.linalg.solve(rho_out, weight @ rho_in).mean(0),
        "twice": lambda *given: edited(AVERAGE)(edited(AVERAGE)(*given), *given[1:]),
        "in float64": lambda *given: edited(AVERAGE)(*(part.double() for part in given)).to(given[0].dtype),
    },
    "equivariant_dimension": {
        "one by one": edited(DIMENSION),
        "trace of the projection": dimension_by_trace,
        "null space": dimension_by_null_space,
        "one einsum": lambda rho_in, rho_out: int((torch.einsum("gii,gjj->", rho_in, rho_out) / len(rho_in)).round()),
    },
    "orbit_labels": {
        "one by one": edited(LABELS),
        "smallest number": labels_by_relaxing,
        "orbits as sets": labels_by_names,
        "largest number, renamed": lambda move_in, move_out: numbered(
            (move_out[:, :, None] * move_in.shape[1] + move_in[:, None]).amax(0)
        ),
    },
}


# --- independent peers and closed forms -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_circulant_is_scipys_and_is_diagonal_in_the_fourier_basis(dtype):
    kernel, x = torch.randn(3, dtype=dtype), torch.randn(8, dtype=dtype)
    ours = library.circulant(kernel, 8)
    torch.testing.assert_close(ours, torch.tensor(scipy.linalg.circulant(np.pad(kernel.numpy(), (0, 5)))))
    spectrum = torch.fft.fft(kernel, 8)
    torch.testing.assert_close(torch.fft.fft(ours @ x), spectrum * torch.fft.fft(x))
    around = F.conv1d(F.pad(x[None, None], (2, 0), mode="circular"), kernel.flip(0)[None, None])[0, 0]
    torch.testing.assert_close(ours @ x, around)


def test_a_matrix_commutes_with_shifts_if_and_only_if_it_is_circulant():
    """The null space of the commutator with the shift is spanned by the circulants."""
    shift, unit = np.roll(np.eye(6), 1, axis=0), np.eye(6)
    commutator = np.kron(unit, shift.T) - np.kron(shift, unit)
    null = scipy.linalg.null_space(commutator)
    circulants = np.stack([library.circulant(tap, 6).numpy().ravel() for tap in torch.eye(6).double()])
    assert null.shape[1] == 6
    assert np.allclose(null @ (null.T @ circulants.T), circulants.T)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_matrix_of_a_layer_is_conv2d(dtype):
    for (out, into, rows, columns), height, width in [((2, 3, 3, 5), 7, 4), ((1, 1, 1, 1), 1, 1), ((3, 1, 7, 3), 4, 9)]:
        kernel, x = torch.randn(out, into, rows, columns, dtype=dtype), torch.randn(2, into, height, width, dtype=dtype)
        ours = x.flatten(1) @ library.convolution_matrix(kernel, height, width).T
        theirs = F.conv2d(x, kernel, padding=(rows // 2, columns // 2)).flatten(1)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_gradients():
    kernel = torch.randn(2, 1, 3, 1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda k: library.convolution_matrix(k, 2, 3), kernel)
    assert torch.autograd.gradcheck(lambda k: library.circulant(k, 4), kernel.detach()[0, 0, :, 0].requires_grad_())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_average_is_a_projection_and_orthogonal_if_the_representations_are(seed, dtype):
    for index in range(5):
        rho = [torch.tensor(part) for part in checks.draw_representations(seed, index)]
        dimension = library.equivariant_dimension(*(part.to(dtype) for part in rho))
        assert dimension == checks.null_dimension(*(part.numpy() for part in rho))
        weight = torch.randn(rho[1].shape[1], rho[0].shape[1], dtype=torch.float64)
        tied = library.tie_by_averaging(weight, *rho)
        torch.testing.assert_close(library.tie_by_averaging(tied, *rho), tied)
        torch.testing.assert_close(tied @ rho[0], rho[1] @ tied)
        if index not in (2, 3):  # orthogonal matrices
            torch.testing.assert_close(((weight - tied) * tied).sum() + 1, torch.ones((), dtype=torch.float64))
        else:
            assert ((weight - tied) * tied).sum().abs() > 1e-6 or len(rho[0]) == 1


@pytest.mark.parametrize("seed", range(5))
def test_labels_averages_and_characters_tell_one_story(seed):
    for index in range(3):
        moves = [torch.tensor(move) for move in checks.draw_action(seed, index)]
        rho = [library.permutation_matrices(move) for move in moves]
        labels = library.orbit_labels(*moves)
        assert labels.max() + 1 == library.equivariant_dimension(*rho)
        weight = torch.randn(2, *labels.shape)
        tied = library.average_ties(weight, labels)
        for one, other in zip(tied, weight, strict=True):
            torch.testing.assert_close(one, library.tie_by_averaging(other, *rho))


def test_tied_by_all_shifts_of_the_torus_is_circular_convolution():
    moves = library.torus_shifts(4, 6)
    layer, x = library.TiedLinear(moves, moves, seed=0), torch.randn(3, 24)
    kernel = layer.free[layer.labels][:, 0].reshape(4, 6)  # the answer to a dot at the first pixel
    spectrum = torch.fft.fft2(x.reshape(3, 4, 6)) * torch.fft.fft2(kernel)
    torch.testing.assert_close(layer(x), torch.fft.ifft2(spectrum).real.flatten(1), rtol=1e-4, atol=1e-5)
    for move in moves[[1, 6, 13]]:
        shifted = torch.empty_like(x)
        shifted[:, move] = x
        out = torch.empty_like(x)
        out[:, move] = layer(x)
        torch.testing.assert_close(layer(shifted), out)


def test_a_tied_layer_does_not_commute_with_what_it_was_not_tied_for():
    moves = library.torus_shifts(4, 4)
    layer, x = library.TiedLinear(moves, moves, seed=0), torch.randn(3, 16)
    turn = torch.arange(16).reshape(4, 4).rot90().flatten()
    assert (layer(x[:, turn]) - layer(x)[:, turn]).abs().max() > 0.1


def test_permutation_matrices_move_entries():
    x, move = torch.randn(6), torch.randperm(6)
    moved = torch.empty(6)
    moved[move] = x
    torch.testing.assert_close(library.permutation_matrices(move[None])[0] @ x, moved)
    image = torch.randn(3, 4)
    shifted = library.permutation_matrices(library.torus_shifts(3, 4))[4 * 2 + 1] @ image.flatten()
    torch.testing.assert_close(shifted.reshape(3, 4), image.roll((2, 1), (0, 1)))


def test_the_windows_of_1989_are_a_strided_convolution():
    sources = torch.tensor([[0, 2], [1, 0], [2, 2]])
    layer, x = library.Windows(sources, 8, tied=True, seed=0), torch.randn(2, 3, 8, 8)
    kernel = torch.zeros(3, 3, 5, 5)
    for m, seen in enumerate(sources):
        for place, source in enumerate(seen):
            kernel[m, source] += layer.weight.detach()[m, 0].reshape(2, 5, 5)[place]
    theirs = F.conv2d(F.pad(x, (2, 1, 2, 1), value=-1.0), kernel, stride=2) + layer.bias.reshape(3, 4, 4)
    torch.testing.assert_close(layer(x), theirs, rtol=1e-4, atol=1e-5)


def test_untied_windows_with_equal_weights_are_the_tied_ones():
    tied, free = (library.ZipCodeNetwork(tied, seed=0) for tied in (True, False))
    assert sum(parameter.numel() for parameter in free.parameters()) == free.connections == tied.connections
    state = {name: value.expand_as(free.state_dict()[name]) for name, value in tied.state_dict().items()}
    free.load_state_dict(state)
    x = torch.randn(2, 1, 16, 16)
    torch.testing.assert_close(free(x), tied(x))


def test_a_batch_of_one_and_the_trivial_group():
    still = torch.arange(3)[None]
    labels = library.orbit_labels(still, still)
    assert torch.equal(labels, torch.arange(9).reshape(3, 3))
    assert library.TiedLinear(still, still, seed=0)(torch.randn(1, 3)).shape == (1, 3)
    assert isinstance(library.TiedLinear(still, still, seed=0), nn.Module)


ONES, EYE, RING = torch.ones(3), torch.eye(3)[None], torch.tensor([[0, 1, 2], [1, 2, 0], [2, 0, 1]])


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: library.circulant(ONES, 2), "size must be in range"),
        (lambda: library.circulant(torch.ones(2, 2), 4), "kernel must have the sizes"),
        (lambda: library.circulant(ONES.long(), 4), "floating point"),
        (lambda: library.convolution_matrix(torch.ones(3, 3), 4, 4), "kernel must have the sizes"),
        (lambda: library.convolution_matrix(torch.ones(1, 1, 2, 3), 4, 4), "rows must be odd"),
        (lambda: library.convolution_matrix(torch.ones(1, 1, 3, 3), 0, 4), "height must be a positive integer"),
        (lambda: library.tie_by_averaging(torch.ones(3, 3), EYE, torch.eye(2)[None]), "rho_out must have the sizes"),
        (lambda: library.tie_by_averaging(torch.ones(3, 3), 0 * EYE, EYE), "rho_in must be invertible"),
        (lambda: library.tie_by_averaging(torch.ones(3, 3), EYE.double(), EYE), "kind of"),
        (lambda: library.equivariant_dimension(EYE, EYE.expand(2, 3, 3)), "rho_out must have the sizes"),
        (lambda: library.equivariant_dimension(EYE * torch.nan, EYE), "finite"),
        (lambda: library.orbit_labels(RING, RING[:2]), "move_out must have the sizes"),
        (lambda: library.orbit_labels(RING.float(), RING), "move_in must be indices"),
        (lambda: library.orbit_labels(RING + 1, RING), "move_in must be indices"),
        (lambda: library.permutation_matrices(RING + 1), "move must be indices"),
        (lambda: library.torus_shifts(0, 2), "height must be a positive integer"),
        (lambda: library.average_ties(torch.ones(2, 2), torch.zeros(3, 3).long()), "labels must have the sizes"),
    ],
)
def test_bad_input_is_explained(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("task", MUTANTS)
def test_on_cuda(task, on_cuda):
    probe, verify = getattr(checks, f"probe_{task}"), getattr(checks, f"verify_{task}")
    verify(probe(on_cuda(getattr(library, task)), 0), 0)
