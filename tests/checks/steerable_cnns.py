"""What must be true of any implementation of the tasks in ``steerable_cnns``.

``probe_X`` calls an implementation on inputs drawn from the seed and returns what came out; ``verify_X`` decides, from
complex powers, from filters evaluated along circles, and from averages over whole groups. A basis is never compared
entry by entry: what is asked for is that it satisfies its definition, and spans everything that does.
"""

from functools import partial

import numpy as np
import torch

from course_lib.grading import verdicts

close = partial(verdicts.close, rough=2e-4, typed=True)

DTYPES = ("float64", "float32")


def same(given, before):
    return np.array(all(torch.equal(one, torch.tensor(other)) for one, other in zip(given, before, strict=True)))


KEPT = "an argument was changed in place: leave them as they are"

# --- circular harmonics: complex powers --------------------------------------------------------------------------


def draw_points(seed, index, dtype):
    """Points, the centre among them, with a frequency, a radius and a width."""
    random = np.random.default_rng([seed, 0, index])
    if index == 0:  # a grid with a centre; mostly not square
        height, width = 5, (3, 7, 5)[seed % 3]
    elif index == 1:  # a grid whose middle lies between pixels
        height, width = 4, 6
    if index < 2:
        u, v = np.meshgrid(np.arange(width) - (width - 1) / 2, (height - 1) / 2 - np.arange(height))
        points = np.stack([u, v], axis=-1)
    else:  # a list of points anywhere; on and about the axes too
        points = 3 * random.normal(size=(9, 2))
        points[0], points[1], points[2] = 0.0, (-1.5, 0.0), (0.0, -1.0)
        points[3] = 0.003, -0.004  # near the centre is not at the centre
    frequency = (2, 1, 0, 3)[(seed + index) % 4]
    radius = float(random.uniform(0.0, 0.7 if index == 3 else 2.5))
    return points.astype(dtype), frequency, radius, float(random.uniform(0.4, 1.5))


def probe_circular_harmonic(implementation, seed):
    out = {}
    for dtype in DTYPES:
        for index in range(4):
            points, *others = draw_points(seed, index, dtype)
            given = torch.tensor(points)
            out[f"parts {dtype} {index}"] = implementation(given, *others).detach().numpy()
            out[f"kept {dtype} {index}"] = same([given], [points])
    return out


def verify_circular_harmonic(arrays, seed):
    for dtype in DTYPES:
        for index in range(4):
            points, frequency, radius, width = draw_points(seed, index, dtype)
            z = points[..., 0].astype("float64") + 1j * points[..., 1].astype("float64")
            r = np.abs(z)
            wave = (z / np.where(r > 0, r, 1.0)) ** frequency  # 0 at the centre, and 0⁰ = 1
            wave = wave * np.exp(-((r - radius) ** 2) / (2 * width**2))
            found, what = arrays[f"parts {dtype} {index}"], f"frequency {frequency}, points of shape {points.shape}"
            assert found.shape == (2, *points.shape[:-1]), f"{what}: got shape {found.shape}, wanted 2 and the points'"
            assert np.isfinite(found).all(), f"{what}: NaN or infinite. What happens at the centre?"
            centre = found[:, r == 0]
            if frequency > 0:
                assert not np.abs(centre).any(), f"{what}: a wave does not vanish at the centre, where it has no angle"
            for part, name in enumerate(("cosine", "sine")):
                close(found[part], (wave.real, wave.imag)[part], f"{what}: the {name} part", dtype, rough=2e-5)
            assert arrays[f"kept {dtype} {index}"], KEPT


# --- steering: the filter along a circle, looked up behind the turn ----------------------------------------------


def draw_filter(seed, index, dtype):
    """Coefficients, frequencies in any order (some twice), and angles; one angle, or several."""
    random = np.random.default_rng([seed, 1, index])
    count = (4, 1, 6)[(seed + index) % 3]
    frequencies = random.integers(0, 5, size=count)
    if index == 0:  # the frequency 0 and a repeated one
        frequencies = np.array([3, 0, 1, 3])
        count = 4
    coefficients = random.normal(size=(count, 2))
    angles = random.uniform(-4, 7, size=(1, 5, 3)[index])
    return coefficients.astype(dtype), frequencies.astype("int64"), angles.astype(dtype)


CIRCLE = np.linspace(0, 2 * np.pi, 23, endpoint=False)


def along_circle(coefficients, frequencies):
    """Each term of a filter at the angles of CIRCLE, shape (..., frequency, angle)."""
    phase = frequencies[:, None] * CIRCLE
    return coefficients[..., 0, None] * np.cos(phase) + coefficients[..., 1, None] * np.sin(phase)


def probe_steer(implementation, seed):
    out = {}
    for dtype in DTYPES:
        for index in range(3):
            arrays = draw_filter(seed, index, dtype)
            given = [torch.tensor(array) for array in arrays]
            found = implementation(*given)
            out[f"turned {dtype} {index}"] = found.detach().numpy()
            out[f"kept {dtype} {index}"] = same(given, arrays)
    coefficients, frequencies, angles = (torch.tensor(array) for array in draw_filter(seed, 1, "float64"))
    coefficients.requires_grad_(), angles.requires_grad_()
    found = implementation(coefficients, frequencies, angles)
    weights = torch.tensor(np.random.default_rng(seed).normal(size=found.shape))
    ((found * weights).sum() + 0 * coefficients.sum() + 0 * angles.sum()).backward()
    out["gradient"], out["gradient of the angles"] = coefficients.grad.numpy(), angles.grad.numpy()
    return out


def verify_steer(arrays, seed):
    for dtype in DTYPES:
        for index in range(3):
            coefficients, frequencies, angles = draw_filter(seed, index, dtype)
            found = arrays[f"turned {dtype} {index}"]
            assert found.shape == (len(angles), *coefficients.shape), f"got shape {found.shape}: turn, frequency, 2"
            assert found.dtype == dtype, f"{dtype} in gave {found.dtype} out"
            assert np.all(np.isfinite(found)), "the coefficients are NaN or infinite"
            for angle, turned in zip(angles.astype("float64"), found.astype("float64"), strict=True):
                behind = frequencies[:, None] * (CIRCLE - angle)
                wanted = coefficients[:, :1] * np.cos(behind) + coefficients[:, 1:] * np.sin(behind)
                what = f"the filter with frequencies {frequencies.tolist()}, turned"
                close(along_circle(turned, frequencies).astype(dtype), wanted, what, dtype, rough=1e-4)
            assert arrays[f"kept {dtype} {index}"], KEPT
    coefficients, frequencies, angles = draw_filter(seed, 1, "float64")
    weights = np.random.default_rng(seed).normal(size=(len(angles), *coefficients.shape))

    def value(coefficients, angles):
        phase = angles[:, None] * frequencies
        z = (coefficients[:, 0] + 1j * coefficients[:, 1]) * np.exp(1j * phase)
        return (weights[..., 0] * z.real + weights[..., 1] * z.imag).sum()

    step, wanted = 1e-6, []
    for place in range(2):
        gradient = np.zeros_like((coefficients, angles)[place])
        for entry in np.ndindex(gradient.shape):
            ends = []
            for sign in (1, -1):
                changed = [coefficients.copy(), angles.copy()]
                changed[place][entry] += sign * step
                ends.append(value(*changed))
            gradient[entry] = (ends[0] - ends[1]) / (2 * step)
        wanted.append(gradient)
    matters = frequencies > 0  # the sine part of the frequency 0 is no part of the filter
    found = arrays["gradient"]
    close(found[matters], wanted[0][matters], "the gradient in the coefficients", "float64", exact=1e-6)
    close(arrays["gradient of the angles"], wanted[1], "the gradient in the angles", "float64", exact=1e-6)


# --- the kernel constraint: averages over the whole group --------------------------------------------------------


def rotation(k, angle):
    """The real irreducible representation of frequency k."""
    if k == 0:
        return np.ones((1, 1))
    c, s = np.cos(k * angle), np.sin(k * angle)
    return np.array([[c, -s], [s, c]])


def blocks(*matrices):
    size = sum(len(matrix) for matrix in matrices)
    out, at = np.zeros((size, size)), 0
    for matrix in matrices:
        out[at : at + len(matrix), at : at + len(matrix)] = matrix
        at += len(matrix)
    return out


def permutation(images):
    out = np.zeros((len(images), len(images)))
    out[images, np.arange(len(images))] = 1
    return out


def grid_turn(height):
    """A quarter turn counter-clockwise on a square of pixels, numbered row by row."""
    row, column = np.divmod(np.arange(height * height), height)
    return (height - 1 - column) * height + row


def skewed(random, matrices):
    """The same representation in a basis that is not orthogonal."""
    size = len(matrices[0])
    change = np.eye(size) + 0.5 * np.triu(random.uniform(0.5, 1.0, size=(size, size)), 1)
    change = change @ np.diag(random.uniform(0.7, 1.6, size=size))
    return [change @ matrix @ np.linalg.inv(change) for matrix in matrices]


#: what every seed meets
CASES = ("quarter turns of pixels", "a ring and its centre", "a mirror too", "nothing fits", "only the identity")


def draw_constraint(seed, case, dtype):
    """The whole group, and which of its elements are given to the implementation."""
    random = np.random.default_rng([seed, 2, CASES.index(case)])
    if case == "quarter turns of pixels":
        turn = grid_turn(3)
        moves = [np.arange(9), turn, turn[turn], turn[turn[turn]]]
        frequencies = [((0,), (1,)), ((1,), (1,)), ((0, 1), (2,)), ((1,), (0,))][seed % 4]
        rho_in, rho_out = (
            [blocks(*(rotation(k, g * np.pi / 2) for k in part)) for g in range(4)] for part in frequencies
        )
        given = [1] if seed % 2 else [0, 1, 2, 3]
    elif case == "a ring and its centre":
        n = 5 + seed % 3
        moves = [np.append((np.arange(n) + g) % n, n) for g in range(n)]
        m, k = [(1, 2), (2, 1), (1, 1), (0, 1)][seed % 4]
        rho_in = [rotation(m, 2 * np.pi * g / n) for g in range(n)]
        rho_out = [rotation(k, 2 * np.pi * g / n) for g in range(n)]
        given = [1]
    elif case == "a mirror too":  # D3: element 3·f + k mirrors f times, then turns k steps
        ring = np.arange(6)
        mirror, turn = (3 - ring) % 6, (ring + 2) % 6
        moves, rho_out, regular = [], [], []
        flip = np.diag([-1.0, 1.0])
        for f in (0, 1):
            for k in range(3):
                moved, matrix = ring, np.eye(2)
                moved, matrix = (mirror[moved], flip @ matrix) if f else (moved, matrix)
                for _ in range(k):
                    moved, matrix = turn[moved], rotation(1, 2 * np.pi / 3) @ matrix
                moves.append(moved)
                rho_out.append(matrix)
                images = [3 * ((f + g) % 2) + (k + (1 - 2 * f) * h) % 3 for g in (0, 1) for h in range(3)]
                regular.append(permutation(images))
        rho_in = regular if seed % 2 else [np.eye(1) for _ in moves]
        given = [1, 3] if seed % 3 else list(range(6))
    elif case == "nothing fits":  # every point stays where it is, but the output changes its sign
        moves = [np.arange(2)] * 2
        rho_in, rho_out = [np.eye(1), np.eye(1)], [np.eye(1), -np.eye(1)]
        given = [1] if seed % 2 else [0, 1]
    else:
        moves, rho_in, rho_out, given = [np.arange(2 + seed % 2)], [np.eye(2)], [np.eye(1 + seed % 3)], [0]
    if case in ("quarter turns of pixels", "a ring and its centre", "a mirror too"):
        rho_in, rho_out = skewed(random, rho_in), skewed(random, rho_out)
    rho_in, rho_out = np.array(rho_in).astype(dtype), np.array(rho_out).astype(dtype)
    return rho_in, rho_out, np.array(moves).astype("int64"), given


def probe_solve_kernel_constraint(implementation, seed):
    out = {}
    for dtype in DTYPES:
        for case in CASES:
            rho_in, rho_out, moves, given = draw_constraint(seed, case, dtype)
            arrays = rho_in[given], rho_out[given], moves[given]
            tensors = [torch.tensor(array) for array in arrays]
            out[f"basis {dtype} {case}"] = implementation(*tensors).detach().numpy()
            out[f"kept {dtype} {case}"] = same(tensors, arrays)
    return out


def verify_solve_kernel_constraint(arrays, seed):
    for dtype in DTYPES:
        for case in CASES:
            rho_in, rho_out, moves, given = draw_constraint(seed, case, dtype)
            a, b = rho_in.astype("float64"), rho_out.astype("float64")
            shape = moves.shape[1], b.shape[1], a.shape[1]
            basis = arrays[f"basis {dtype} {case}"]
            what = f"{case}: {shape[0]} points, matrices {shape[1]} × {shape[2]}, {len(given)} element(s) given"
            assert basis.dtype == dtype, f"{what}: {dtype} in gave {basis.dtype} out"
            assert basis.ndim == 4 and basis.shape[1:] == shape, (
                f"{what}: got shape {basis.shape}, wanted (basis, point, out, in)"
            )
            assert np.all(np.isfinite(basis)), f"{what}: NaN or infinite"
            # The average over the group sends every kernel to a solution, and leaves solutions as they are.
            unknown = np.eye(int(np.prod(shape))).reshape(-1, *shape)
            average = np.zeros_like(unknown)
            for rho_a, rho_b, to in zip(a, b, moves, strict=True):
                average[:, to] += rho_b @ unknown @ np.linalg.inv(rho_a) / len(a)
            count = round(np.trace(average.reshape(len(unknown), -1)))
            tolerance = 1e-7 if dtype == "float64" else 2e-3
            kernels = basis.astype("float64")
            for rho_a, rho_b, to in zip(a, b, moves, strict=True):
                gap = np.abs(kernels[:, to] @ rho_a - rho_b @ kernels).max(initial=0.0)
                assert gap < tolerance, f"{what}: a kernel of the basis does not satisfy the constraint"
            flat = kernels.reshape(len(kernels), int(np.prod(shape)))
            assert np.allclose(flat @ flat.T, np.eye(len(flat)), atol=tolerance), (
                f"{what}: the basis is not orthonormal"
            )
            assert len(flat) <= count, f"{what}: more kernels than there are independent solutions"
            assert len(flat) >= count, f"{what} ({dtype}): there are more solutions than the basis spans"
            assert arrays[f"kept {dtype} {case}"], KEPT


# --- the norm nonlinearity: closed form --------------------------------------------------------------------------


def draw_vectors(seed, index, dtype):
    """Fields with zeros in them, and biases of either sign."""
    random = np.random.default_rng([seed, 3, index])
    batch, fields, components, height, width = [(1, 3, 2, 4, 3), (3, 2, 2, 2, 5), (2, 4, 3, 1, 2), (2, 1, 1, 3, 1)][
        (seed + index) % 4
    ]
    x = random.normal(size=(batch, fields, components, height, width))
    x[0, :, :, 0, 0] = 0.0  # a vector without a direction, in every field
    x[-1, :, 0, -1, -1] = 0.0  # a vector along an axis has a direction
    x[-1, :, -1, 0, -1] = 0.0
    bias = random.uniform(0.3, 1.0, size=fields) * np.where(np.arange(fields) % 2 == (seed + index) % 2, -1, 1)
    return x.astype(dtype), bias.astype(dtype), random.normal(size=x.shape).astype(dtype)


def draw_short(seed, dtype):
    """Vectors of length 3e-5, of which a positive bias makes long ones: a short vector has a direction."""
    phi = np.random.default_rng([seed, 3, 9]).uniform(0, 2 * np.pi, size=(1, 2, 1, 3))
    x = 3e-5 * np.stack([np.cos(phi), np.sin(phi)], axis=2)
    return x.astype(dtype), np.array([0.5, -0.5], dtype=dtype)


def probe_norm_nonlinearity(implementation, seed):
    out = {}
    for dtype in DTYPES:
        out[f"short {dtype}"] = implementation(*map(torch.tensor, draw_short(seed, dtype))).detach().numpy()
        for index in range(4):
            x, bias, weights = draw_vectors(seed, index, dtype)
            given = torch.tensor(x, requires_grad=True), torch.tensor(bias, requires_grad=True)
            found = implementation(*given)
            out[f"values {dtype} {index}"] = found.detach().numpy().copy()
            out[f"kept {dtype} {index}"] = same([leaf.detach() for leaf in given], (x, bias))
            ((found * torch.tensor(weights)).sum() + 0 * given[0].sum() + 0 * given[1].sum()).backward()
            out[f"gradient {dtype} {index}"], out[f"bias {dtype} {index}"] = (leaf.grad.numpy() for leaf in given)
    return out


def verify_norm_nonlinearity(arrays, seed):
    for dtype in DTYPES:
        for index in range(4):
            x, bias, weights = (array.astype("float64") for array in draw_vectors(seed, index, dtype))
            b = bias[:, None, None, None]
            norm = np.sqrt((x**2).sum(axis=2, keepdims=True))
            there, length = norm > 0, np.where(norm > 0, norm, 1.0)
            direction = np.where(there, x / length, 0.0)
            open_ = there & (norm + b > 0)
            what = f"fields of shape {x.shape}"
            wanted = np.where(open_, (norm + b) * direction, 0.0)
            found = arrays[f"values {dtype} {index}"]
            assert found.shape == x.shape, f"{what} gave shape {found.shape}"
            assert np.all(np.isfinite(found)), f"{what}: NaN or infinite. What happens where a vector is 0?"
            close(found, wanted, what, dtype, exact=1e-10, rough=2e-5)
            # y = x + b·x/‖x‖ where it is open: the part of a change across x is stretched by 1 + b/‖x‖.
            along = (weights * direction).sum(axis=2, keepdims=True)
            gradient = np.where(open_, along * direction + (1 + b / length) * (weights - along * direction), 0.0)
            slope = arrays[f"gradient {dtype} {index}"]
            assert np.all(np.isfinite(slope)), f"{what}: the gradient is NaN. The root of 0 has no slope"
            close(slope, gradient, f"{what}: the gradient", dtype, exact=1e-9, rough=1e-3)
            of_bias = np.where(open_, along, 0.0).sum(axis=(0, 2, 3, 4))
            close(
                arrays[f"bias {dtype} {index}"],
                of_bias,
                f"{what}: the gradient in the bias",
                dtype,
                exact=1e-9,
                rough=1e-3,
            )
            assert arrays[f"kept {dtype} {index}"], KEPT
        x, bias = (array.astype("float64") for array in draw_short(seed, dtype))
        norm = np.sqrt((x**2).sum(axis=2, keepdims=True))
        wanted = np.maximum(norm + bias[:, None, None, None], 0) * x / norm
        close(arrays[f"short {dtype}"], wanted, "vectors of length 3e-5", dtype, exact=1e-10, rough=2e-5)


# --- the Fourier transform on a cyclic group: its defining property ----------------------------------------------

ORDERS = (8, 5, 1, 2, 3, 6, 7, 4, 9)


def draw_functions(seed, index, dtype):
    """Functions on a cyclic group; even, odd, and smallest orders."""
    random = np.random.default_rng([seed, 4, index])
    n = ORDERS[index] if index < 4 else ORDERS[4 + seed % 5]
    shape = [(n,), (3, n), (2, 1, n), (1, n), (2, 3, n)][(seed + index) % 5]
    return random.normal(size=shape).astype(dtype)


def probe_regular_to_irreps(implementation, seed):
    out = {}
    for dtype in DTYPES:
        for index in range(5):
            x = draw_functions(seed, index, dtype)
            given = torch.tensor(x)
            out[f"coefficients {dtype} {index}"] = implementation(given).detach().numpy()
            out[f"kept {dtype} {index}"] = same([given], [x])
            unit = torch.eye(x.shape[-1], dtype=given.dtype)
            out[f"matrix {dtype} {index}"] = implementation(unit).detach().numpy()
    leaf = torch.tensor(draw_functions(seed, 0, "float64"), requires_grad=True)
    (implementation(leaf).square().sum() + 0 * leaf.sum()).backward()
    out["gradient"] = leaf.grad.numpy()
    return out


def verify_regular_to_irreps(arrays, seed):
    for dtype in DTYPES:
        for index in range(5):
            x = draw_functions(seed, index, dtype)
            n, what = x.shape[-1], f"C{x.shape[-1]}, functions of shape {x.shape}"
            found, change = arrays[f"coefficients {dtype} {index}"], arrays[f"matrix {dtype} {index}"]
            assert change.shape == (n, n), f"{what}: the unit functions gave shape {change.shape}"
            assert np.all(np.isfinite(change)), f"{what}: NaN or infinite"
            q = change.astype("float64").T  # coefficients of x are q @ x
            tolerance = 1e-9 if dtype == "float64" else 1e-4
            close(found, x.astype("float64") @ q.T, f"{what}: the map is not linear in each function", dtype)
            assert np.allclose(q @ q.T, np.eye(n), atol=tolerance), f"{what}: the change of basis is not orthogonal"
            step = permutation((np.arange(n) + 1) % n)
            turned = [rotation(k, 2 * np.pi / n) for k in range((n + 1) // 2)]
            wanted = blocks(*turned, *([-np.ones((1, 1))] if n % 2 == 0 else []))
            assert np.allclose(q @ step @ q.T, wanted, atol=tolerance), (
                f"{what}: a turn by one step does not become the blocks asked for, in their order"
            )
            assert arrays[f"kept {dtype} {index}"], KEPT
    x = draw_functions(seed, 0, "float64")  # the norm is kept, so its square has the gradient 2x
    close(arrays["gradient"], 2 * x, "the gradient", "float64")
