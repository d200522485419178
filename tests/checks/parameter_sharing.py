"""What must be true of any implementation of the tasks in ``parameter_sharing``.

``probe_X`` calls an implementation on inputs drawn from the seed and returns what came out; ``verify_X`` decides, from
what it derives itself: loops over entries, explicit averages, the null space of the constraints, and orbits by search.
"""

from functools import partial

import numpy as np
import torch

from course_lib.grading import verdicts

close = partial(verdicts.close, exact=1e-8, rough=1e-3, typed=True)

DTYPES = ("float64", "float32")


def pulled(answer, leaf, direction):
    """The gradient of a weighted sum of the answer's entries; zeros where none arrives."""
    (0 * leaf.sum() + (answer * torch.tensor(direction)).sum()).backward()
    return leaf.grad.numpy()


# --- circulant matrices: one entry after the other ------------------------------------------------------------------


def draw_kernel(seed, dtype, index):
    """Taps and a size: all taps, one tap, and some in between; the size 1 among them."""
    random = np.random.default_rng([seed, index])
    size = int(random.integers(4, 9))
    taps, size = [(size, size), (1, size), (int(random.integers(2, size)), size), (1, 1)][index]
    return random.normal(size=taps).astype(dtype), size


def circular(kernel, size):
    matrix = np.zeros((size, size))
    for row in range(size):
        for tap, value in enumerate(kernel):
            matrix[row, (row - tap) % size] += value
    return matrix


def probe_circulant(implementation, seed):
    out = {}
    for dtype in DTYPES:
        for index in range(4):
            kernel, size = draw_kernel(seed, dtype, index)
            given = torch.tensor(kernel)
            out[f"matrix {dtype} {index}"] = implementation(given, size).detach().numpy()
            out[f"kept {dtype} {index}"] = np.array(torch.equal(given, torch.tensor(kernel)))
    kernel, size = draw_kernel(seed, "float64", 2)
    leaf = torch.tensor(kernel, requires_grad=True)
    out["gradient"] = pulled(implementation(leaf, size), leaf, np.arange(size * size).reshape(size, size) / size)
    return out


def verify_circulant(arrays, seed):
    for dtype in DTYPES:
        for index in range(4):
            kernel, size = draw_kernel(seed, dtype, index)
            matrix, what = arrays[f"matrix {dtype} {index}"], f"the matrix of {len(kernel)} tap(s) at size {size}"
            wanted = circular(kernel.astype("float64"), size)
            assert matrix.shape == (size, size), f"{what} has shape {matrix.shape}, wanted {(size, size)}"
            moved = np.roll(matrix, (1, 1), axis=(0, 1))
            assert np.allclose(matrix, moved, atol=1e-5), (
                f"{what} does not commute with shifts: its diagonals are not constant"
            )
            assert np.allclose(matrix[:, 0], wanted[:, 0], atol=1e-5), f"{what}: the first column is not the kernel"
            close(matrix, wanted, what, dtype, exact=1e-12, rough=1e-5)
            assert arrays[f"kept {dtype} {index}"], "the kernel was changed in place: leave it as it is"
    kernel, size = draw_kernel(seed, "float64", 2)
    weights = np.arange(size * size).reshape(size, size) / size
    wanted = [(circular(unit, size) * weights).sum() for unit in np.eye(len(kernel))]
    close(arrays["gradient"], wanted, "the gradient that reaches the kernel", "float64", exact=1e-10)


# --- the matrix of a two-dimensional layer: a loop over every weight ------------------------------------------------


def draw_layer(seed, dtype, index):
    """A kernel and the size of the image: sides differ, channels differ, some kernels are larger than the image."""
    random = np.random.default_rng([seed, 1, index])
    shape, height, width = [
        ((1, 1, 3, 3), 4, 6),
        ((2, 3, 3, 5), 5, 4),
        ((3, 2, 5, 1), 3, 2),
        ((1, 2, 1, 7), 1, 4),
        ((2, 1, 1, 1), 2, 3),
    ][(seed + index) % 5]
    return random.normal(size=shape).astype(dtype), height, width


def layer_matrix(kernel, height, width):
    outputs, inputs, rows, columns = kernel.shape
    matrix = np.zeros((outputs, height, width, inputs, height, width))
    for row in range(height):
        for column in range(width):
            for down in range(rows):
                for right in range(columns):
                    at = row + down - rows // 2, column + right - columns // 2
                    if 0 <= at[0] < height and 0 <= at[1] < width:
                        matrix[:, row, column, :, at[0], at[1]] = kernel[:, :, down, right]
    return matrix.reshape(outputs * height * width, inputs * height * width)


def probe_convolution_matrix(implementation, seed):
    out = {}
    for dtype in DTYPES:
        for index in range(3):
            kernel, height, width = draw_layer(seed, dtype, index)
            given = torch.tensor(kernel)
            out[f"matrix {dtype} {index}"] = implementation(given, height, width).detach().numpy()
            out[f"kept {dtype} {index}"] = np.array(torch.equal(given, torch.tensor(kernel)))
    kernel, height, width = draw_layer(seed, "float64", 1)
    leaf = torch.tensor(kernel, requires_grad=True)
    direction = np.cos(np.arange(layer_matrix(kernel, height, width).size))
    answer = implementation(leaf, height, width)
    out["gradient"] = pulled(answer, leaf, direction[: answer.numel()].reshape(answer.shape))
    return out


def verify_convolution_matrix(arrays, seed):
    for dtype in DTYPES:
        for index in range(3):
            kernel, height, width = draw_layer(seed, dtype, index)
            wanted = layer_matrix(kernel.astype("float64"), height, width)
            matrix = arrays[f"matrix {dtype} {index}"]
            what = f"the matrix of a kernel {kernel.shape} on images of {height} by {width}"
            assert matrix.shape == wanted.shape, f"{what} has shape {matrix.shape}, wanted {wanted.shape}"
            stray = (np.abs(matrix) > 1e-5) & (wanted == 0)
            assert not stray.any(), f"{what} connects pixels that are too far apart, or wraps around the border"
            close(matrix, wanted, what, dtype, exact=1e-12, rough=1e-6)
            assert arrays[f"kept {dtype} {index}"], "the kernel was changed in place: leave it as it is"
    kernel, height, width = draw_layer(seed, "float64", 1)
    direction = np.cos(np.arange(layer_matrix(kernel, height, width).size))
    wanted = np.zeros(kernel.size)
    for place, unit in enumerate(np.eye(kernel.size)):
        wanted[place] = (layer_matrix(unit.reshape(kernel.shape), height, width).ravel() * direction).sum()
    close(
        arrays["gradient"], wanted.reshape(kernel.shape), "the gradient that reaches the kernel", "float64", exact=1e-10
    )


# --- groups: closures of a few generators, on points in no particular order -----------------------------------------


def closure(generators):
    """All products of some permutations."""
    found = {tuple(range(len(generators[0])))}
    fresh = list(found)
    while fresh:
        reached = {tuple(g[place] for place in element) for element in fresh for g in generators}
        fresh = list(reached - found)
        found |= reached
    return np.array(sorted(found))


def draw_action(seed, index):
    """How the elements of a group, in any order, permute some inputs and some outputs."""
    random = np.random.default_rng([seed, 2, index])
    kind = (seed + index) % 5
    if kind == 0:  # a ring, and outputs with two more points that stay
        n = int(random.integers(3, 7))
        elements = closure([np.roll(np.arange(n), 1)])
        sets = [(i,) for i in range(n)], [(i,) for i in range(n)] + [(), ()]
    elif kind == 1:  # all permutations of three points; outputs are ordered pairs of them
        elements = closure([(1, 0, 2), (1, 2, 0)])
        sets = [(i,) for i in range(3)] + [()], [(i, j) for i in range(3) for j in range(3) if i != j]
    elif kind == 2:  # the symmetries of a square: corners twice, and the directed edges
        elements = closure([(1, 2, 3, 0), (1, 0, 3, 2)])
        edges = [(i, j) for i in range(4) for j in range(4) if (i - j) % 4 in (1, 3)]
        sets = [(i,) for i in range(4)] * 2, edges
    elif kind == 3:  # no symmetry
        elements, sets = closure([(0, 1)]), ([(0,), (1,), ()], [(0,), (1,)])
    else:  # two rings of two and three places that turn on their own
        elements = closure([(1, 0, 2, 3, 4), (0, 1, 3, 4, 2)])
        sets = [(i, j) for i in (0, 1) for j in (2, 3, 4)], [(0,), (1,), (2,), (3,), (4,)]
    elements = elements[random.permutation(len(elements))]
    return [moves(elements, points, random) for points in sets]


def moves(elements, points, random):
    """How elements permute points that are written with the places they move; points in random order, copies kept."""
    points = [(*points[at], f"copy {points[:at].count(points[at])}") for at in random.permutation(len(points))]
    place = {point: at for at, point in enumerate(points)}
    return np.array(
        [[place[tuple(i if isinstance(i, str) else int(g[i]) for i in point)] for point in points] for g in elements]
    )


def matrices(move):
    order, size = move.shape
    found = np.zeros((order, size, size))
    found[np.arange(order)[:, None], move, np.arange(size)] = 1
    return found


def plane_turns(n, times):
    angles = 2 * np.pi * times * np.arange(n) / n
    return np.stack([np.cos(angles), -np.sin(angles), np.sin(angles), np.cos(angles)], axis=1).reshape(-1, 2, 2)


def stacked(*parts):
    """Representations side by side, as blocks."""
    size = sum(part.shape[1] for part in parts)
    whole, at = np.zeros((len(parts[0]), size, size)), 0
    for part in parts:
        whole[:, at : at + part.shape[1], at : at + part.shape[1]] = part
        at += part.shape[1]
    return whole


def draw_representations(seed, index):
    """Matrices of a group on inputs and outputs: permutations, other bases (not orthogonal), and turns of the plane.

    In the last two, two elements share every input matrix, but not the output matrix, and no character but the
    identity's is an integer on the inputs.
    """
    random = np.random.default_rng([seed, 3, index])
    if index >= 4:
        twice, sign = plane_turns(10, 2), np.where(np.arange(10) % 2, -1.0, 1.0)[:, None, None]
        shuffled = random.permutation(10)
        return twice[shuffled], stacked(twice, sign)[shuffled]
    if index == 0:
        n = int(random.integers(6, 9))
        once, twice, still = plane_turns(n, 1), plane_turns(n, 2), np.ones((n, 1, 1))
        shuffled = random.permutation(n)
        return stacked(once, still)[shuffled], stacked(twice, once, still, still)[shuffled]
    rho = [matrices(move) for move in draw_action(seed, index)]
    if index == 1:
        return rho
    bases = [np.eye(part.shape[1]) + 0.4 * random.normal(size=part.shape[1:]) / part.shape[1] ** 0.5 for part in rho]
    return [basis @ part @ np.linalg.inv(basis) for basis, part in zip(bases, rho, strict=True)]


def average(weight, rho_in, rho_out):
    return sum(after @ weight @ np.linalg.inv(before) for before, after in zip(rho_in, rho_out, strict=True)) / len(
        rho_in
    )


def probe_tie_by_averaging(implementation, seed):
    out = {}
    for dtype in DTYPES:
        for index in range(6):
            rho_in, rho_out = (part.astype(dtype) for part in draw_representations(seed, index))
            weight = np.random.default_rng([seed, 4, index]).normal(size=(rho_out.shape[1], rho_in.shape[1]))
            arguments = weight.astype(dtype), rho_in, rho_out
            given = [torch.tensor(part) for part in arguments]
            out[f"tied {dtype} {index}"] = implementation(*given).detach().numpy()
            kept = all(torch.equal(one, torch.tensor(two)) for one, two in zip(given, arguments, strict=True))
            out[f"kept {dtype} {index}"] = np.array(kept)
    rho_in, rho_out = draw_representations(seed, 2)
    random = np.random.default_rng([seed, 4, 2])
    leaf = torch.tensor(random.normal(size=(rho_out.shape[1], rho_in.shape[1])), requires_grad=True)
    answer = implementation(leaf, torch.tensor(rho_in), torch.tensor(rho_out))
    out["gradient"] = pulled(answer, leaf, np.sin(np.arange(leaf.numel())).reshape(leaf.shape))
    return out


def verify_tie_by_averaging(arrays, seed):
    for dtype in DTYPES:
        for index in range(6):
            rho_in, rho_out = draw_representations(seed, index)
            weight = np.random.default_rng([seed, 4, index]).normal(size=(rho_out.shape[1], rho_in.shape[1]))
            tied, what = arrays[f"tied {dtype} {index}"], f"the average over {len(rho_in)} element(s)"
            if index in (2, 3):
                what += ", matrices not orthogonal,"
            assert tied.shape == weight.shape, f"{what} has shape {tied.shape}, wanted (out, in) = {weight.shape}"
            for before, after in zip(rho_in, rho_out, strict=True):
                off = np.abs(tied @ before - after @ tied).max()
                assert off < 1e-2, f"{what} does not commute with the group: W·ρ_in(g) is not ρ_out(g)·W"
            close(tied, average(weight, rho_in, rho_out), what, dtype)
            assert arrays[f"kept {dtype} {index}"], "an argument was changed in place: leave them as they are"
    rho_in, rho_out = draw_representations(seed, 2)
    direction = np.sin(np.arange(rho_out.shape[1] * rho_in.shape[1])).reshape(rho_out.shape[1], rho_in.shape[1])
    wanted = average(direction, rho_in.transpose(0, 2, 1), rho_out.transpose(0, 2, 1))
    close(arrays["gradient"], wanted, "the gradient that reaches the weights", "float64", exact=1e-9)


# --- the dimension: the null space of all constraints ---------------------------------------------------------------

# Matrices come a little too large, or too small, and with four decimals: many are no longer quite a group.
SCALES = (1 + 2e-4, 1 - 2e-4, 1 - 1e-4, 1 + 1e-4, 1.0)


def probe_equivariant_dimension(implementation, seed):
    out = {}
    for dtype in DTYPES:
        for index in range(5):
            exact = draw_representations(seed, index)
            arrays = [np.round(SCALES[index] * part, 4).astype(dtype) for part in exact]
            given = [torch.tensor(part) for part in arrays]
            answer = implementation(*given)
            out[f"dimension {dtype} {index}"] = np.array(float(answer))
            out[f"integer {dtype} {index}"] = np.array(isinstance(answer, int) and not isinstance(answer, bool))
            kept = all(torch.equal(one, torch.tensor(two)) for one, two in zip(given, arrays, strict=True))
            out[f"kept {dtype} {index}"] = np.array(kept)
    return out


def null_dimension(rho_in, rho_out):
    """How many directions of W leave all the equations W·ρ_in(g) = ρ_out(g)·W at zero."""
    inputs, outputs = np.eye(rho_in.shape[1]), np.eye(rho_out.shape[1])
    rows = [np.kron(outputs, before.T) - np.kron(after, inputs) for before, after in zip(rho_in, rho_out, strict=True)]
    singular = np.linalg.svd(np.concatenate(rows), compute_uv=False)
    return int((singular < 1e-8).sum())


def verify_equivariant_dimension(arrays, seed):
    for dtype in DTYPES:
        for index in range(5):
            rho_in, rho_out = draw_representations(seed, index)
            wanted, found = null_dimension(rho_in, rho_out), arrays[f"dimension {dtype} {index}"]
            what = f"{len(rho_in)} element(s), {rho_in.shape[1]} inputs, {rho_out.shape[1]} outputs, {dtype}"
            assert arrays[f"integer {dtype} {index}"], f"{what}: wanted a Python int"
            assert found == wanted, f"{what}: not the dimension of the space of layers that commute with the group"
            assert arrays[f"kept {dtype} {index}"], "an argument was changed in place: leave them as they are"


# --- labels: orbits by search ---------------------------------------------------------------------------------------


def probe_orbit_labels(implementation, seed):
    out = {}
    for index in range(5):
        arrays = draw_action(seed, index)
        given = [torch.tensor(part) for part in arrays]
        out[f"labels {index}"] = implementation(*given).numpy()
        kept = all(torch.equal(one, torch.tensor(two)) for one, two in zip(given, arrays, strict=True))
        out[f"kept {index}"] = np.array(kept)
    return out


def orbits(move_in, move_out):
    """Labels by walking from pair to pair, numbered as they are met."""
    labels, count = -np.ones((move_out.shape[1], move_in.shape[1]), dtype=int), 0
    for start in np.ndindex(*labels.shape):
        if labels[start] < 0:
            todo = [start]
            while todo:
                i, j = todo.pop()
                if labels[i, j] < 0:
                    labels[i, j] = count
                    todo += [(after[i], before[j]) for before, after in zip(move_in, move_out, strict=True)]
            count += 1
    return labels


def verify_orbit_labels(arrays, seed):
    for index in range(5):
        move_in, move_out = draw_action(seed, index)
        wanted, labels = orbits(move_in, move_out), arrays[f"labels {index}"]
        what = f"{len(move_in)} element(s), {move_in.shape[1]} inputs, {move_out.shape[1]} outputs"
        assert labels.shape == wanted.shape, f"{what}: shape {labels.shape}, wanted (out, in) = {wanted.shape}"
        assert labels.dtype == np.int64, f"{what}: labels are {labels.dtype}, wanted int64"
        for before, after in zip(move_in, move_out, strict=True):
            tied = labels[np.ix_(after, before)] == labels
            assert tied.all(), f"{what}: an element moves one weight to another, but their labels differ"
        pairs = set(zip(labels.ravel().tolist(), wanted.ravel().tolist(), strict=True))
        assert len(pairs) == wanted.max() + 1, f"{what}: weights share a label that no element moves to each other"
        assert np.array_equal(labels, wanted), f"{what}: labels are not 0, 1, 2, ... in the order of first appearance"
        assert arrays[f"kept {index}"], "an argument was changed in place: leave them as they are"
