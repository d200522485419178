"""What must be true of any implementation of the tasks in ``tangent_distance``.

``probe_X`` calls an implementation on inputs drawn from the seed and returns what came out; ``verify_X`` decides,
from what it derives itself: finite differences of a real warp, and NumPy's least squares, one pair at a time.
"""

from functools import partial

import numpy as np
import torch

from course_lib.grading import verdicts

close = partial(verdicts.close, exact=1e-8, rough=2e-3, typed=True)

DTYPES = ("float64", "float32")
COUNTS = (5, 1)  # pairs
SIZES = [(1, 6, 9), (3, 8, 8), (2, 7, 4), (4, 5, 1)]  # images, height, width


def tensors(arrays, dtype):
    return [torch.tensor(array.astype(dtype)) for array in arrays]


def kept(given, before):
    return np.array(all(torch.equal(one, torch.tensor(other)) for one, other in zip(given, before, strict=True)))


# --- tangents: finite differences of a real warp of the smooth image ---------------------------------------------


def draw_images(seed, dtype):
    """Images of several sizes, mostly not square; the first seeds all meet a batch of one."""
    random = np.random.default_rng(seed)
    chosen = [SIZES[0], SIZES[1 + seed % 3]]
    images = [(random.random((n, 1, h, w)) ** 2).astype(dtype) for n, h, w in chosen]
    return images, float(random.uniform(0.6, 1.6))


def derivative(images, sigma, warp, step=1e-3):
    """Difference, of fourth order, of the smooth image under ``warp(v, u, t)``: where a pixel looks at time t."""
    height, width = images.shape[-2:]
    v, u = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    v, u = v - (height - 1) / 2, u - (width - 1) / 2

    def at(time):
        rows, columns = warp(v, u, time)
        return verdicts.smooth_at(images, sigma, rows + (height - 1) / 2, columns + (width - 1) / 2)

    return (8 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12 * step)


def probe_tangents(implementation, seed):
    out = {}
    for dtype in DTYPES:
        images, sigma = draw_images(seed, dtype)
        for index, array in enumerate(images):
            given = torch.tensor(array)
            out[f"result {dtype} {index}"] = implementation(given, sigma).detach().numpy()
            out[f"kept {dtype} {index}"] = kept([given], [array])
        leaf = torch.tensor(images[1], requires_grad=True)
        answer = implementation(leaf, sigma)
        (0 * leaf.sum() + (answer * answer.detach()).sum()).backward()
        out[f"gradient {dtype}"] = leaf.grad.numpy()
    return out


def verify_tangents(arrays, seed, warps):
    for dtype in DTYPES:
        images, sigma = draw_images(seed, dtype)
        for index, array in enumerate(images):
            result = arrays[f"result {dtype} {index}"]
            for channel, (name, warp) in enumerate(warps.items()):
                wanted = derivative(array, sigma, warp)
                shape = (len(array), len(warps), *array.shape[2:])
                assert result.shape == shape, f"images {array.shape} gave {result.shape}, wanted {shape}"
                close(result[:, channel], wanted, f"{name} of images of shape {array.shape}", dtype)
            assert arrays[f"kept {dtype} {index}"], "the images were changed in place: return a new tensor instead"
        # The answer is linear in the images, A·x, so the gradient of ½‖A·x‖² times x is ‖A·x‖².
        product = (arrays[f"gradient {dtype}"].astype("float64") * images[1]).sum()
        wanted = sum((derivative(images[1], sigma, warp) ** 2).sum() for warp in warps.values())
        assert abs(product - wanted) < 2e-3 * wanted, "gradients do not flow back to the images"


def probe_image_gradient(implementation, seed):
    return probe_tangents(implementation, seed)


def verify_image_gradient(arrays, seed):
    downwards = {"the slope downwards": lambda v, u, t: (v + t, u)}
    verify_tangents(arrays, seed, downwards | {"the slope to the right": lambda v, u, t: (v, u + t)})


def probe_shift_and_rotation_tangents(implementation, seed):
    return probe_tangents(implementation, seed)


def verify_shift_and_rotation_tangents(arrays, seed):
    def turn(v, u, t):
        return v * np.cos(t) + u * np.sin(t), u * np.cos(t) - v * np.sin(t)

    warps = {
        "the shift to the right": lambda v, u, t: (v, u - t),
        "the shift downwards": lambda v, u, t: (v - t, u),
        "the rotation": turn,
    }
    verify_tangents(arrays, seed, warps)


# --- distances: NumPy's least squares, one pair at a time --------------------------------------------------------


def draw_planes(random, count, tangents, pixels):
    """Points and their tangents; among the planes some with a repeated tangent, and the last one blank."""
    points = random.normal(size=(count, pixels)) + 1.0
    planes = random.normal(size=(count, tangents, pixels))
    planes[count // 2, 1] = -2 * planes[count // 2, 0]
    if count > 1:
        planes[-1] = 0.0
    return points, planes


def residual(difference, tangents):
    """What is left of a vector when the span of some tangents is taken out."""
    tangents = tangents.reshape(-1, difference.size)
    return difference - tangents.T @ np.linalg.lstsq(tangents.T, difference, rcond=1e-9)[0]


def draw_tangents(seed, dtype):
    random = np.random.default_rng([seed, 1])
    planes = draw_planes(random, 4, int(random.integers(2, 6)), int(random.integers(8, 20)))[1]
    planes[0, 0] *= 1e-6  # other units
    if dtype == "float64":  # nearly parallel, but a hundred million rounding units apart
        planes[0, 1] = planes[0, 0] * 1e6 + 3e-7 * planes[1, 0]
    return [planes.astype(dtype), planes[:1, 1:].astype(dtype)]


def probe_orthonormal_tangents(implementation, seed):
    out = {}
    for dtype in DTYPES:
        for index, planes in enumerate(draw_tangents(seed, dtype)):
            given = torch.tensor(planes)
            out[f"basis {dtype} {index}"] = implementation(given).detach().numpy()
            out[f"kept {dtype} {index}"] = kept([given], [planes])
    return out


def verify_orthonormal_tangents(arrays, seed):
    for dtype in DTYPES:
        for index, planes in enumerate(draw_tangents(seed, dtype)):
            basis = arrays[f"basis {dtype} {index}"]
            close(basis, np.where(np.isfinite(basis), basis, 0) if basis.shape == planes.shape else planes, "Q", dtype)
            assert arrays[f"kept {dtype} {index}"], "the tangents were changed in place: return a new tensor instead"
            for rows, tangents in zip(basis.astype("float64"), planes.astype("float64"), strict=True):
                lengths = np.linalg.norm(tangents, axis=1, keepdims=True)
                unit = tangents / np.where(lengths > 0, lengths, 1)
                rank = np.linalg.matrix_rank(unit, tol=1e-4 if dtype == "float32" else 1e-10)
                gram = rows @ rows.T
                what = "Q·Qᵀ of a blank image" if rank == 0 else f"Q·Qᵀ ({rank} of {len(rows)} tangents independent)"
                ones, loose = np.diag((np.diag(gram) > 0.5).astype("float64")), 1e-8 if dtype == "float64" else 1e-3
                close(gram, ones, what, exact=loose)
                found = int((np.diag(gram) > 0.5).sum())
                assert found == rank, (
                    f"{rank} of {len(rows)} tangents are independent, Q has {found} rows that are not zero"
                )
                away = unit - unit @ rows.T @ rows
                assert np.abs(away).max() < loose, "Q does not span all tangents"


def draw_pairs(seed, dtype, count):
    """x, its tangents, y, its tangents; pixels suffice for both planes and more."""
    random = np.random.default_rng([seed, 2, count])
    pixels = int(random.integers(14, 30))
    x, x_tangents = draw_planes(random, count, int(random.integers(2, 5)), pixels)
    y, y_tangents = draw_planes(random, count, int(random.integers(5, 7)), pixels)
    if count > 1:
        y_tangents[0, 2:4] = x_tangents[0, :2]  # two planes that share directions
        y_tangents[1] *= 0.01  # other units
    return [array.astype(dtype) for array in (x, x_tangents, y, y_tangents)]


def probe_pairs(implementation, seed, one_sided):
    out = {}
    for dtype in DTYPES:
        for count in COUNTS:
            arrays = draw_pairs(seed, dtype, count)
            arrays = arrays[::2] + arrays[3:] if one_sided else arrays  # x, y and the tangents of y
            given = tensors(arrays, dtype)
            out[f"distance {dtype} {count}"] = implementation(*given).detach().numpy()
            out[f"kept {dtype} {count}"] = kept(given, arrays)
            leaf = given[0].clone().requires_grad_()
            (implementation(leaf, *given[1:]).sum() + 0 * leaf.sum()).backward()
            out[f"gradient {dtype} {count}"] = leaf.grad.numpy()
    given = tensors(draw_pairs(seed, "float64", COUNTS[0]), "float64")
    same = (given[0], given[0], given[1]) if one_sided else (given[0], given[1], given[0], given[1])
    out["to itself"] = implementation(*same).detach().numpy()
    return out


def verify_pairs(arrays, seed, one_sided):
    for dtype in DTYPES:
        for count in COUNTS:
            left = []
            drawn = (array.astype("float64") for array in draw_pairs(seed, dtype, count))
            for x, x_tangents, y, y_tangents in zip(*drawn, strict=True):
                free = y_tangents if one_sided else np.concatenate([x_tangents, y_tangents])
                left.append(residual(x - y, free))
            left = np.stack(left)
            many = f"a batch of {count}"
            close(arrays[f"distance {dtype} {count}"], (left**2).sum(1), f"the distance of some pair in {many}", dtype)
            close(arrays[f"gradient {dtype} {count}"], 2 * left, "the gradient with respect to x", dtype)
            assert arrays[f"kept {dtype} {count}"], "an argument was changed in place: leave them as they are"
    close(arrays["to itself"], np.zeros(COUNTS[0]), "the distance of an image to itself", "float64")


def probe_one_sided_distance(implementation, seed):
    return probe_pairs(implementation, seed, one_sided=True)


def verify_one_sided_distance(arrays, seed):
    verify_pairs(arrays, seed, one_sided=True)


def probe_two_sided_distance(implementation, seed):
    return probe_pairs(implementation, seed, one_sided=False)


def verify_two_sided_distance(arrays, seed):
    verify_pairs(arrays, seed, one_sided=False)


# --- all pairs ----------------------------------------------------------------------------------------------------


def draw_sets(seed, dtype, n):
    """n images and more others; three planes are in both sets, each with another of its points."""
    random = np.random.default_rng([seed, 3, n])
    m = int(random.integers(6, 9))
    tangents, pixels = int(random.integers(2, 5)), int(random.integers(14, 30))
    x, x_tangents = draw_planes(random, n, tangents, pixels)
    y, y_tangents = draw_planes(random, m, tangents + seed % 2, pixels)
    y_tangents[[0, 1, -2]] = 0.0
    for there, here in ((0, n // 3), (1, 0), (-2, n // 2)):
        y[there] = x[here] + 3 * x_tangents[here].sum(0)
        y_tangents[there, :tangents] = x_tangents[here]
    y_tangents[2, :1] = x_tangents[-1, :1]
    if dtype == "float64":  # two planes a thousandth of a radian apart: 1e-6 squared, and rounding is at 1e-16
        y_tangents[3, 0] = x_tangents[0, 0] + 1e-3 * random.normal(size=pixels)
    return [array.astype(dtype) for array in (x, x_tangents, y, y_tangents)]


def probe_tangent_distance_matrix(implementation, seed):
    out = {}
    for dtype in DTYPES:
        for n in COUNTS:
            arrays = draw_sets(seed, dtype, n)
            given = tensors(arrays, dtype)
            out[f"distances {dtype} {n}"] = implementation(*given).detach().numpy()
            out[f"kept {dtype} {n}"] = kept(given, arrays)
    return out


def verify_tangent_distance_matrix(arrays, seed):
    for dtype in DTYPES:
        for n in COUNTS:
            x, x_tangents, y, y_tangents = (array.astype("float64") for array in draw_sets(seed, dtype, n))
            wanted = [
                [(residual(a - b, np.concatenate([s, t])) ** 2).sum() for b, t in zip(y, y_tangents, strict=True)]
                for a, s in zip(x, x_tangents, strict=True)
            ]
            found = arrays[f"distances {dtype} {n}"]
            close(
                found, wanted, f"the distance of some pair, with {n} images x and {len(y)} images y,", dtype, exact=1e-6
            )
            assert (found >= 0).all(), "a squared distance is negative: rounding needs a clamp"
            assert arrays[f"kept {dtype} {n}"], "an argument was changed in place: leave them as they are"
