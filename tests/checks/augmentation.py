"""What must be true of any implementation of the tasks in ``augmentation``.

``probe_X`` calls an implementation on inputs drawn from the seed and returns what came out; ``verify_X`` decides,
from what it derives itself. The grader runs the first inside the student's kernel and the second outside it.
"""

from functools import partial

import numpy as np
import torch

from course_lib.grading import verdicts

close = partial(verdicts.close, rough=5e-4)

DTYPES = ("float64", "float32")


def unchanged(got, wanted, what):
    assert np.array_equal(got, wanted), f"{what} was changed in place: return a new tensor instead"


def gradient(leaf):
    """What backward() left in a leaf; NaN where nothing arrived."""
    return (torch.full_like(leaf, torch.nan) if leaf.grad is None else leaf.grad).numpy()


def backward(value):
    """Go backwards from a tensor that may carry no gradient: then the leaves stay without."""
    if value.requires_grad:
        value.backward()


# --- affine warp: a sum over all pixels of the input, each spread as a tent around its place --------------------


def draw_warp(seed, dtype, square=False):
    random = np.random.default_rng([seed, 1])
    height, width = (5, 5) if square else (int(random.integers(3, 6)), int(random.integers(6, 10)))
    if not square and seed % 2:
        height, width = width, height
    batch = int(random.integers(2, 5))
    images = random.normal(size=(batch, int(random.integers(1, 4)), height, width))
    matrices = np.eye(2) + random.uniform(-0.5, 0.5, size=(batch, 2, 2))
    flat = np.abs(np.linalg.det(matrices)) < 0.3
    matrices[flat] = [[0.9, 0.5], [-0.3, 1.2]]
    shifts = random.uniform(-1.5, 1.5, size=(batch, 2, 1))
    return images.astype(dtype), np.concatenate([matrices, shifts], axis=2).astype(dtype)


def tents(matrix, height, width):
    """How much each pixel of the input (columns) gives to each pixel of the output (rows) under [A | b]."""
    down, right = np.mgrid[:height, :width].reshape(2, -1) - np.array([[(height - 1) / 2], [(width - 1) / 2]])
    source = np.linalg.solve(matrix[:, :2], np.stack([right, down]) - matrix[:, 2:])
    near_columns = np.maximum(0, 1 - np.abs(source[0][:, None] - right))  # 0 from one pixel's distance on
    near_rows = np.maximum(0, 1 - np.abs(source[1][:, None] - down))
    return near_columns * near_rows  # (output pixel, input pixel)


def warped(images, matrices):
    batch, channels, height, width = images.shape
    spread = np.stack([tents(matrix, height, width) for matrix in matrices])
    return (images.reshape(batch, channels, -1) @ spread.swapaxes(1, 2)).reshape(images.shape)


def probe_affine_warp(implementation, seed):
    out = {}
    for dtype in DTYPES:
        images, matrices = draw_warp(seed, dtype)
        leaves = torch.tensor(images, requires_grad=True), torch.tensor(matrices, requires_grad=True)
        result = implementation(*leaves)
        out[f"result {dtype}"] = result.detach().numpy()
        backward((result * torch.tensor(np.cos(np.arange(images.size)).reshape(images.shape).astype(dtype))).sum())
        out[f"images' gradient {dtype}"], out[f"matrices' gradient {dtype}"] = map(gradient, leaves)
        given = torch.tensor(images), torch.tensor(matrices)
        implementation(*given)
        out[f"images after {dtype}"], out[f"matrices after {dtype}"] = (tensor.numpy() for tensor in given)
    images, _ = draw_warp(seed, "float64")
    still = torch.eye(2, 3, dtype=torch.float64).repeat(len(images), 1, 1)
    out["still"] = implementation(torch.tensor(images), still).numpy()
    step = still.clone()
    step[:, :, 2] = torch.tensor([1.0, -2.0])
    out["stepped"] = implementation(torch.tensor(images), step).numpy()
    images, _ = draw_warp(seed, "float64", square=True)
    turn = torch.tensor([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]], dtype=torch.float64).repeat(len(images), 1, 1)
    out["quarter turn"] = implementation(torch.tensor(images), turn).numpy()
    return out


def verify_affine_warp(arrays, seed):
    images, _ = draw_warp(seed, "float64")
    close(arrays["still"], images, "the result for A = I and b = 0, which is the image itself,")
    stepped = np.zeros_like(images)
    stepped[:, :, :-2, 1:] = images[:, :, 2:, :-1]
    close(arrays["stepped"], stepped, "the result for A = I and b = (1, −2), one to the right and two up,")
    square, _ = draw_warp(seed, "float64", square=True)
    turned = np.rot90(square, 1, (2, 3))
    close(arrays["quarter turn"], turned, "a quarter turn counter-clockwise of a square image")
    for dtype in DTYPES:
        images, matrices = draw_warp(seed, dtype)
        assert arrays[f"result {dtype}"].dtype == dtype, f"{dtype} images came back in another dtype"
        exact = images.astype("float64"), matrices.astype("float64")
        close(arrays[f"result {dtype}"], warped(*exact), "a warp with a general matrix, image not square,", dtype)
        cotangent = np.cos(np.arange(images.size)).reshape(images.shape)
        spread = np.stack([tents(matrix, *images.shape[2:]) for matrix in exact[1]])
        wanted = cotangent.reshape(*images.shape[:2], -1) @ spread
        close(arrays[f"images' gradient {dtype}"], wanted.reshape(images.shape), "the gradient in the images", dtype)
        unchanged(arrays[f"images after {dtype}"], images, "the argument images")
        unchanged(arrays[f"matrices after {dtype}"], matrices, "the argument matrices")
    images, matrices = draw_warp(seed, "float64")
    slopes = np.zeros_like(matrices)
    for place in np.ndindex(2, 3):
        nudge = np.zeros((2, 3))
        nudge[place] = 1e-7
        change = warped(images, matrices + nudge) - warped(images, matrices - nudge)
        slopes[:, *place] = (change * cotangent).sum(axis=(1, 2, 3)) / 2e-7
    what = "the gradient in the matrices (is it cut off?)"
    close(arrays["matrices' gradient float64"], slopes, what, exact=1e-4)


# --- mixup: the formula, where shapes invite a wrong broadcast ---------------------------------------------------


def draw_mixup(seed, dtype, square=False):
    random = np.random.default_rng([seed, 2])
    batch = int(random.integers(4, 7))
    # With as many pixels or classes as examples, a weight in the wrong place broadcasts without an error.
    shape = (batch,) if square else [(3,), (1, 4, 5), (2, 3, 4, 2)][seed % 3]
    classes = batch if square else int(random.integers(2, 5)) + 5 * (seed % 2)
    x = random.normal(size=(batch, *shape))
    y = random.dirichlet(np.ones(classes), size=batch)
    y[0] = np.eye(classes)[0]
    weights = random.uniform(size=batch)
    weights[1:3] = 0.0, 1.0
    partners = random.integers(0, batch, size=batch)
    partners[:3] = 1, 2, 0  # a circle of three: not its own inverse
    return x.astype(dtype), y.astype(dtype), weights.astype(dtype), partners


def probe_mixup(implementation, seed):
    out = {}
    for dtype in DTYPES:
        for square in (False, True):
            *floats, partners = draw_mixup(seed, dtype, square)
            leaves = [torch.tensor(array, requires_grad=True) for array in floats]
            mixed = implementation(*leaves, torch.tensor(partners))
            backward(sum(part.square().sum() for part in mixed))
            for name, part in zip("xy", mixed, strict=True):
                out[f"{name} {dtype} {square}"] = part.detach().numpy()
            for name, leaf in zip(("x", "y", "weights"), leaves, strict=True):
                out[f"{name}'s gradient {dtype} {square}"] = gradient(leaf)
            given = [torch.tensor(array) for array in (*floats, partners)]
            implementation(*given)
            for name, tensor in zip(("x", "y", "weights", "partners"), given, strict=True):
                out[f"{name} after {dtype} {square}"] = tensor.numpy()
    return out


def verify_mixup(arrays, seed):
    for dtype in DTYPES:
        for square in (False, True):
            given = dict(zip(("x", "y", "weights", "partners"), draw_mixup(seed, dtype, square), strict=True))
            batch = len(given["x"])
            mixer = np.zeros((batch, batch))  # row i: what example i is made of
            for i in range(batch):
                mixer[i, i] += given["weights"][i]
                mixer[i, given["partners"][i]] += 1 - given["weights"][i].astype("float64")
            wanted = np.zeros(batch)
            for name, kind in (("x", "inputs"), ("y", "labels")):
                got = arrays[f"{name} {dtype} {square}"]
                assert got.dtype == dtype, f"{dtype} {kind} came back in another dtype"
                assert got.shape == given[name].shape, f"mixed {kind} have shape {got.shape}, not that of {name}"
                flat = given[name].reshape(batch, -1).astype("float64")
                mixed = mixer @ flat
                close(got, mixed.reshape(got.shape), f"a mixture of {kind}", dtype)
                slope = (2 * mixer.T @ mixed).reshape(got.shape)
                close(arrays[f"{name}'s gradient {dtype} {square}"], slope, f"the gradient through the {kind}", dtype)
                wanted += 2 * (mixed * (flat - flat[given["partners"]])).sum(axis=1)
            close(arrays[f"weights's gradient {dtype} {square}"], wanted, "the gradient in the weights", dtype)
            for name, wanted in given.items():
                unchanged(arrays[f"{name} after {dtype} {square}"], wanted, f"the argument {name}")


# --- cutout: pixel by pixel --------------------------------------------------------------------------------------


SIDES = (1, 2, 3, 4, 9, 14)  # the last two may be larger than the image


def draw_cutout(seed, dtype):
    random = np.random.default_rng([seed, 3])
    height, width = int(random.integers(5, 8)), int(random.integers(8, 11))
    if seed % 2:
        height, width = width, height
    batch = int(random.integers(3, 6))
    images = random.uniform(1, 2, size=(batch, 2 + seed % 2, height, width)).astype(dtype)
    rows, columns = random.integers(0, height, size=batch), random.integers(0, width, size=batch)
    rows[:2], columns[:2] = (0, height - 1), (width - 1, 0)  # two squares over a corner
    rows[2], columns[2] = 2, 3
    return images, rows, columns


def probe_cutout(implementation, seed):
    out = {}
    for dtype in DTYPES:
        images, *centres = draw_cutout(seed, dtype)
        for side in SIDES:
            leaf = torch.tensor(images, requires_grad=True)
            result = implementation(leaf, *map(torch.tensor, centres), side)
            backward(result.sum())
            out[f"result {dtype} {side}"] = result.detach().numpy()
            out[f"gradient {dtype} {side}"] = gradient(leaf)
            given = torch.tensor(images)
            implementation(given, *map(torch.tensor, centres), side)
            out[f"images after {dtype} {side}"] = given.numpy()
    return out


def verify_cutout(arrays, seed):
    for dtype in DTYPES:
        images, rows, columns = draw_cutout(seed, dtype)
        for side in SIDES:
            kept = np.ones(images.shape)
            for image, row, column in zip(kept, rows, columns, strict=True):
                top, left = row - side // 2, column - side // 2
                image[:, max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = 0
            got = arrays[f"result {dtype} {side}"]
            assert got.dtype == dtype, f"{dtype} images came back in another dtype"
            assert got.shape == images.shape, f"shape {images.shape} in gave shape {got.shape} out"
            assert np.all(got[kept == 0] == 0), f"a pixel inside a square of side {side} is not 0"
            close(got[kept == 1], images[kept == 1], f"a pixel outside the square of side {side}", dtype)
            close(arrays[f"gradient {dtype} {side}"], kept, "the gradient of the output's sum", dtype)
            unchanged(arrays[f"images after {dtype} {side}"], images, "the argument images")


# --- averaged probabilities: the formula beside NumPy, and its gradient by a difference --------------------------


def draw_scores(seed, dtype):
    random = np.random.default_rng([seed, 4])
    batch, classes = int(random.integers(2, 6)), int(random.integers(3, 6))
    x = random.normal(size=(batch, 1, 3, 4)) if seed % 2 else random.normal(size=(batch, 12))
    weights = 1.5 * random.normal(size=(classes, 12))  # scores far enough apart to tell the two averages apart
    return x.astype(dtype), weights.astype(dtype)


def transforms_of(library):
    """A few transformations, for torch and for NumPy alike; the order and the repetition matter to wrong versions."""
    return [
        lambda x: library.roll(x, 1, -1),
        lambda x: 0.5 * x + 1,
        lambda x: library.flip(x, (-1,)),
        lambda x: library.flip(x, (-1,)),
    ]


def mean_of_softmax(x, weights, count):
    total = 0.0
    for transform in transforms_of(np)[:count]:
        scores = transform(x).reshape(len(x), -1) @ weights.T
        exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
        total = total + exponentials / exponentials.sum(axis=1, keepdims=True)
    return total / count


def probe_averaged_probabilities(implementation, seed):
    out = {}
    for dtype in DTYPES:
        x, weights = draw_scores(seed, dtype)
        for count in (1, 3, 4):
            given, matrix = torch.tensor(x), torch.tensor(weights, requires_grad=True)
            result = implementation(lambda t, m=matrix: t.flatten(1) @ m.T, given, transforms_of(torch)[:count])
            out[f"result {dtype} {count}"] = result.detach().numpy()
            backward(result[:, 0].sum())
            out[f"gradient {dtype} {count}"] = gradient(matrix)
            out[f"x after {dtype} {count}"] = given.numpy()
    x, weights = draw_scores(seed, "float64")
    leaf, matrix = torch.tensor(x, requires_grad=True), torch.tensor(weights)
    backward(implementation(lambda t: t.flatten(1) @ matrix.T, leaf, transforms_of(torch)[:3])[:, 0].sum())
    out["gradient in x"] = gradient(leaf)
    first, second = transforms_of(torch)[:2]
    out["first twice"] = implementation(
        lambda t: t.flatten(1) @ matrix.T, torch.tensor(x), [first, first, second]
    ).numpy()
    loud = torch.tensor([[2000.0, 0.0, -2000.0]], dtype=torch.float64)
    out["loud"] = implementation(lambda t: t + loud, torch.zeros(1, 1).double(), [lambda t: t]).numpy()
    layer = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3, dtype=torch.float64))
    modes, asked = [], []
    layer.register_forward_pre_hook(lambda module, given: asked.append(module.training == mode))
    for mode in (True, False):
        layer.train(mode)
        implementation(layer, torch.tensor(x), transforms_of(torch)[:2])
        modes.append(layer.training == mode)
    out["mode when asked"] = np.array(asked)
    out["mode kept"] = np.array(modes)
    return out


def verify_averaged_probabilities(arrays, seed):
    for dtype in DTYPES:
        x, weights = draw_scores(seed, dtype)
        exact = x.astype("float64"), weights.astype("float64")
        for count in (1, 3, 4):
            got = arrays[f"result {dtype} {count}"]
            assert got.dtype == dtype, f"{dtype} scores gave probabilities in {got.dtype}"
            assert got.shape == (len(x), len(weights)), f"the result has shape {got.shape}, not (batch, classes)"
            close(got.sum(axis=1), np.ones(len(x)), "the sum of an example's probabilities", dtype)
            close(got, mean_of_softmax(*exact, count), f"the mean over {count} transforms", dtype)
            unchanged(arrays[f"x after {dtype} {count}"], x, "the argument x")
            slopes = np.zeros(weights.shape)
            for place in np.ndindex(weights.shape):
                nudge = np.zeros(weights.shape)
                nudge[place] = 1e-6
                ends = (mean_of_softmax(exact[0], exact[1] + sign * nudge, count)[:, 0].sum() for sign in (1, -1))
                slopes[place] = (next(ends) - next(ends)) / 2e-6
            tolerance = 1e-6 if dtype == "float64" else 2e-3
            what = "the gradient in the model's weights (is it cut off?)"
            close(arrays[f"gradient {dtype} {count}"], slopes, what, dtype, exact=tolerance, rough=tolerance)
    x, weights = draw_scores(seed, "float64")
    direction = np.random.default_rng([seed, 41]).normal(size=x.shape)
    ahead, behind = (mean_of_softmax(x + step * direction, weights, 3)[:, 0].sum() for step in (1e-6, -1e-6))
    slope = (arrays["gradient in x"] * direction).sum()
    close(slope, (ahead - behind) / 2e-6, "the gradient in x (is it cut off?)", exact=1e-6)
    wanted = (mean_of_softmax(x, weights, 1) + 2 * mean_of_softmax(x, weights, 2)) / 3  # of a, a and b
    close(arrays["first twice"], wanted, "the mean where one transform is listed twice")
    close(arrays["loud"], np.array([[1.0, 0.0, 0.0]]), "the softmax of scores of 2000, 0 and −2000")
    assert arrays["mode when asked"].all(), "the model was asked in another mode than the one it came in"
    assert arrays["mode kept"].all(), "the model's training or evaluation mode was changed"


# --- first-order penalty: a quadratic model, whose Jacobian is known on paper ------------------------------------


def draw_penalty(seed, dtype):
    random = np.random.default_rng([seed, 5])
    batch, outputs = int(random.integers(2, 6)), int(random.integers(2, 5))
    shape = [(6,), (1, 2, 3), (2, 3, 1)][seed % 3]
    x, tangents = random.normal(size=(2, batch, *shape))
    square, linear = random.normal(size=(2, outputs, 6))
    variance = float(random.uniform(0.05, 0.5))
    return *(array.astype(dtype) for array in (x, tangents, square, linear)), variance


def _sine(t, weights):
    return torch.sin(0.2 * t.flatten(1) @ weights.T)


def probe_first_order_penalty(implementation, seed):
    out = {}
    for dtype in DTYPES:
        x, tangents, square, linear, variance = draw_penalty(seed, dtype)
        weights = torch.tensor(square, requires_grad=True), torch.tensor(linear, requires_grad=True)

        def model(t, weights=weights):
            return (t.flatten(1) @ weights[0].T) ** 2 + t.flatten(1) @ weights[1].T

        given = torch.tensor(x), torch.tensor(tangents)
        value = implementation(model, *given, variance)
        backward(value)
        out[f"value {dtype}"] = value.detach().numpy()
        out[f"gradient {dtype} square"], out[f"gradient {dtype} linear"] = map(gradient, weights)
        out[f"x after {dtype}"], out[f"tangents after {dtype}"] = (tensor.numpy() for tensor in given)
        sine = partial(_sine, weights=torch.tensor(linear))
        out[f"wide {dtype}"] = implementation(sine, *given, 100 * variance).detach().numpy()
        out[f"no variance {dtype}"] = implementation(model, *given, 0.0).detach().numpy()
        out[f"no tangent {dtype}"] = implementation(model, given[0], 0 * given[1], variance).detach().numpy()
    return out


def verify_first_order_penalty(arrays, seed):
    for dtype in DTYPES:
        x, tangents, square, linear, variance = draw_penalty(seed, dtype)
        assert arrays[f"value {dtype}"].dtype == dtype, f"{dtype} inputs gave a penalty in another dtype"
        n = len(x)
        xs, ts = x.reshape(n, 6).astype("float64"), tangents.reshape(n, 6).astype("float64")
        square, linear = square.astype("float64"), linear.astype("float64")
        along_x, along_t = xs @ square.T, ts @ square.T  # (batch, outputs)
        slopes = 2 * along_x * along_t + ts @ linear.T
        tolerance = 1e-4 if dtype == "float64" else 1e-2  # a central difference may pass
        what = f"the penalty in {dtype}"
        close(arrays[f"value {dtype}"], variance / n * (slopes**2).sum(), what, dtype, exact=tolerance, rough=tolerance)
        wide = f"{what} for a sine and a large variance (is the variance a factor, and not the step?)"
        wanted = 100 * variance / n * ((0.2 * np.cos(0.2 * xs @ linear.T) * (ts @ linear.T)) ** 2).sum()
        close(arrays[f"wide {dtype}"], wanted, wide, dtype, exact=1e-2, rough=3e-2)
        weight = 2 * variance / n * slopes  # the penalty's derivative in each slope
        wanted = 2 * (weight * along_t).T @ xs + 2 * (weight * along_x).T @ ts
        what = "the gradient in the model's weights (is it cut off?)"
        close(arrays[f"gradient {dtype} square"], wanted, what, dtype, exact=tolerance, rough=tolerance)
        close(arrays[f"gradient {dtype} linear"], weight.T @ ts, what, dtype, exact=tolerance, rough=tolerance)
        close(arrays[f"no variance {dtype}"], 0.0, "the penalty for variance 0", dtype)
        close(arrays[f"no tangent {dtype}"], 0.0, "the penalty for tangents of 0", dtype)
        unchanged(arrays[f"x after {dtype}"], x, "the argument x")
        unchanged(arrays[f"tangents after {dtype}"], tangents, "the argument tangents")
