"""What must be true of any implementation of the tasks in ``underconstrained_problems``.

``probe_X`` calls an implementation on inputs drawn from the seed and returns what came out; ``verify_X`` decides,
from what it derives itself. The grader runs the first inside the student's kernel and the second outside it.
"""

import numpy as np
import torch

from course_lib.grading.verdicts import close

DTYPES = ("float64", "float32")


def of_dtype(got, dtype, what):
    assert str(got.dtype) == dtype, f"{what}: {dtype} in gave {got.dtype} out"


def draw_matrix(random, n, d, dtype):
    """A matrix whose singular values lie between 0.2 and 3, so that float32 can be held to its word."""
    left, _ = np.linalg.qr(random.normal(size=(n, min(n, d))))
    right, _ = np.linalg.qr(random.normal(size=(d, min(n, d))))
    return ((left * np.geomspace(3.0, 0.2, min(n, d))) @ right.T).astype(dtype)


def draw_problem(seed, kind, dtype):
    """Inputs and targets of one kind. In "an example twice" and "a blank column" the rank is exactly deficient."""
    random = np.random.default_rng([seed, len(kind)])
    n, d = (int(random.integers(5, 8)), int(random.integers(10, 14)))
    shapes = {"tall": (d, n), "square": (n, n), "one example": (1, d), "one feature": (n, 1)}
    x = draw_matrix(random, *shapes.get(kind, (n, d)), dtype)
    if kind == "an example twice":
        x = np.concatenate([x, x[2:3]])
    elif kind == "a blank column":
        x = np.concatenate([x.T, np.zeros_like(x[:1].T), x.T[:, :1]], axis=1)  # tall, two columns alike, one blank
    elif kind == "blank":
        x = np.zeros_like(x)
    targets = () if random.random() < 0.5 else (3,)
    return x, random.normal(size=(len(x), *targets)).astype(dtype)


KINDS = ["wide", "tall", "square", "one example", "one feature", "an example twice", "a blank column", "blank"]


TINY = 1e-8  # X in other units: a cutoff is relative to the largest singular value


def draw_stairs(seed, dtype, tall):
    """X with one entry a row and a column, so that its singular values are exact: two of them beside the cutoff.

    Returns X, a weight for each column, the columns that count as seen, and the one that barely does: there a solver
    may be off by several percent, as its rounding errors are divided by a singular value almost as small.
    """
    random = np.random.default_rng([seed, 6])
    n, d = (11, 6) if tall else (6, 11)
    cutoff = max(n, d) * np.finfo(dtype).eps
    values = (50.0 if tall else 0.02) * np.array([1, 0.3, 0.01, 3 * cutoff, 0.7 * cutoff, 0])
    rows, columns = random.permutation(n)[:6], random.permutation(d)[:6]
    x = np.zeros((n, d), dtype=dtype)
    x[rows, columns] = values * random.choice([-1, 1], size=6)
    seen = np.zeros(d, dtype=bool)
    seen[columns[:4]] = True
    w = random.choice([-1, 1], size=d) * random.uniform(1, 2, size=d)
    return x, w.astype(dtype), seen, columns[3]


def verify_stairs(got, seed, dtype, tall, what):
    _, w, seen, barely = draw_stairs(seed, dtype, tall)
    what = f"{what} where singular values lie above and below max(n, d)·ε·(largest), the docstring's cutoff,"
    others = np.arange(len(w)) != barely
    assert got.shape == w.shape, f"{what} has shape {got.shape}, wanted {w.shape}"
    close(got[others], (w * seen)[others], what, dtype)
    assert abs(got[barely] - w[barely]) < 0.5, f"{what} leaves out one that is three times the cutoff"


STAIRS = [(dtype, tall) for dtype in DTYPES for tall in (False, True)]


def said(kind, y):
    return f"x is {kind} ({len(y)} examples), {'one target' if y.ndim == 1 else 'several targets'}"


# --- ridge: the minimum by its normal equations, and the pseudo-inverse at its end ------------------------------


def draw_strength(seed):
    return float(np.random.default_rng([seed, 1]).uniform(0.05, 0.8))


def probe_ridge_svd(implementation, seed):
    out = {}
    for dtype in DTYPES:
        for kind in KINDS:
            x, y = (torch.tensor(array) for array in draw_problem(seed, kind, dtype))
            out[f"ridge {kind} {dtype}"] = implementation(x, y, draw_strength(seed)).numpy()
            out[f"limit {kind} {dtype}"] = implementation(x, y, 0.0).numpy()
            if dtype == "float64":
                out[f"small {kind}"] = implementation(x, y, 1e-11 / len(x)).numpy()
                out[f"units {kind}"] = implementation(TINY * x, y, 0.0).numpy()
    for dtype, tall in STAIRS:
        x, w = (torch.tensor(array) for array in draw_stairs(seed, dtype, tall)[:2])
        out[f"stairs {dtype} {tall}"] = implementation(x, x @ w, 0.0).numpy()
    return out


def verify_ridge_svd(arrays, seed):
    strength = draw_strength(seed)
    for dtype in DTYPES:
        for kind in KINDS:
            x, y = draw_problem(seed, kind, dtype)
            n, d = x.shape
            where = said(kind, y)
            w = arrays[f"ridge {kind} {dtype}"]
            of_dtype(w, dtype, "the weights")
            exact, y = x.astype("float64"), y.astype("float64")
            wanted = np.linalg.solve(exact.T @ exact / n + strength * np.eye(d), exact.T @ y / n)
            close(w, wanted, f"the ridge solution where {where}", dtype)
            shortest = np.linalg.pinv(exact, rcond=1e-9) @ y
            close(arrays[f"limit {kind} {dtype}"], shortest, f"the limit (strength 0) where {where}", dtype)
            if dtype == "float64":
                # so small a strength moves the exact solution by 1e-9 at most
                close(arrays[f"small {kind}"], shortest, f"the solution at a tiny strength where {where}", exact=2e-8)
                what = f"the limit (strength 0) for X times {TINY:g}, where {where}: is your cutoff relative? It"
                close(TINY * arrays[f"units {kind}"], shortest, what)
    for dtype, tall in STAIRS:
        verify_stairs(arrays[f"stairs {dtype} {tall}"], seed, dtype, tall, "the limit (strength 0)")


# --- projection: same predictions, and orthogonal to what the data do not see ------------------------------------


def draw_weights(seed, x, y, dtype):
    return np.random.default_rng([seed, 2]).normal(size=(x.shape[1], *y.shape[1:])).astype(dtype)


def probe_row_space_component(implementation, seed):
    out = {}
    for dtype in DTYPES:
        for kind in KINDS:
            x, y = draw_problem(seed, kind, dtype)
            w = torch.tensor(draw_weights(seed, x, y, dtype))
            out[f"{kind} {dtype}"] = implementation(torch.tensor(x), w).numpy().copy()
            out[f"w after {kind} {dtype}"] = w.numpy().copy()
            if dtype == "float64":
                out[f"units {kind}"] = implementation(TINY * torch.tensor(x), w).numpy().copy()
    for dtype, tall in STAIRS:
        x, w = (torch.tensor(array) for array in draw_stairs(seed, dtype, tall)[:2])
        out[f"stairs {dtype} {tall}"] = implementation(x, w).numpy()
    return out


def verify_row_space_component(arrays, seed):
    for dtype in DTYPES:
        for kind in KINDS:
            x, y = draw_problem(seed, kind, dtype)
            w = draw_weights(seed, x, y, dtype)
            where = said(kind, y)
            seen = arrays[f"{kind} {dtype}"]
            of_dtype(seen, dtype, "the component")
            assert np.array_equal(arrays[f"w after {kind} {dtype}"], w), "w was changed in place: return a new tensor"
            exact, w = x.astype("float64"), w.astype("float64")
            assert seen.shape == w.shape, f"w has shape {w.shape}, its component {seen.shape}"
            close(exact @ seen, exact @ w, f"the predictions X·w∥, which should be those of w, where {where}", dtype)
            # the null space from the eigenvectors of XᵀX: 0.04 is the smallest eigenvalue that is not zero
            values, vectors = np.linalg.eigh(exact.T @ exact)
            unseen = vectors[:, values < 1e-3]
            if unseen.size:
                part = unseen.T @ seen
                close(part, np.zeros_like(part), f"the part of w∥ that no example sees, where {where},", dtype)
            if dtype == "float64":
                what = f"w∥ for X times {TINY:g}, where {where}: is your cutoff relative? It"
                close(arrays[f"units {kind}"], w - unseen @ (unseen.T @ w), what)
    for dtype, tall in STAIRS:
        verify_stairs(arrays[f"stairs {dtype} {tall}"], seed, dtype, tall, "w∥")


# --- gradient descent: an affine map, whose power has a closed form ------------------------------------------------


def draw_descent(seed, kind, dtype):
    random = np.random.default_rng([seed, 3])
    x, y = draw_problem(seed, kind, dtype)
    start = random.normal(size=(x.shape[1], *y.shape[1:])).astype(dtype)
    lr = float(random.uniform(0.03, 0.1)) * len(x)  # converges: no squared singular value exceeds 18
    return x, y, lr, int(random.integers(4, 40)), start


def probe_gradient_descent_least_squares(implementation, seed):
    out = {}
    for dtype in DTYPES:
        for kind in KINDS:
            x, y, lr, steps, start = draw_descent(seed, kind, dtype)
            x, y, begin = torch.tensor(x), torch.tensor(y), torch.tensor(start)
            zero = torch.zeros_like(begin)
            out[f"zero {kind} {dtype}"] = implementation(x, y, lr, steps, zero).detach().numpy().copy()
            out[f"start {kind} {dtype}"] = implementation(x, y, lr, steps, begin).detach().numpy().copy()
            out[f"one {kind} {dtype}"] = implementation(x, y, lr, 1, begin).detach().numpy().copy()
            out[f"begin {kind} {dtype}"] = begin.numpy()
    return out


def after(x, y, lr, steps, start):
    """w ← w − η/n·Xᵀ(Xw − y), so often, by a power of the matrix that does it to (w, 1)."""
    n, d = x.shape
    y, start = y.reshape(n, -1), start.reshape(d, -1)
    columns = []
    for target, begin in zip(y.T, start.T, strict=True):
        step = np.eye(d + 1)
        step[:d, :d] -= lr / n * x.T @ x
        step[:d, d] = lr / n * x.T @ target
        columns.append((np.linalg.matrix_power(step, steps) @ np.append(begin, 1.0))[:d])
    return np.stack(columns, axis=1)


def verify_gradient_descent_least_squares(arrays, seed):
    for dtype in DTYPES:
        for kind in KINDS:
            x, y, lr, steps, start = draw_descent(seed, kind, dtype)
            kept = arrays[f"begin {kind} {dtype}"]
            assert np.array_equal(kept, start), "start was changed in place: make a new tensor in every step"
            of_dtype(arrays[f"start {kind} {dtype}"], dtype, "the weights")
            where = said(kind, y)
            x, y, start = (array.astype("float64") for array in (x, y, start))
            cases = {"one": (1, start, "one step"), "zero": (steps, 0 * start, "a descent from zero")}
            cases["start"] = (steps, start, "a descent from another start")
            for name, (number, begin, what) in cases.items():
                wanted = after(x, y, lr, number, begin).reshape(start.shape)
                close(arrays[f"{name} {kind} {dtype}"], wanted, f"the result of {what}, where {where},", dtype)


# --- logistic regression: the same descent as a NumPy loop, and margins of a thousand ------------------------------


def draw_classes(seed, kind, dtype):
    """Two classes: "separable" by the first feature, "mixed", or "far", where the margins are in the thousands."""
    random = np.random.default_rng([seed, 4, len(kind)])
    n, d = int(random.integers(8, 15)), int(random.integers(2, 6))
    x = random.normal(size=(n, d))
    y = np.where(np.arange(n) % 3 == 0, -1.0, 1.0)
    if kind == "separable":
        x[:, 0] = y * (1.0 + np.abs(x[:, 0]))
    if kind == "far":
        x *= 2000.0
    return x.astype(dtype), y.astype(dtype), float(random.uniform(0.1, 0.5)), float(random.uniform(0.1, 0.6))


CLASSES = ["separable", "mixed", "far"]


def draw_steps(seed, kind):
    return 2 if kind == "far" else 20 + seed % 7  # "far" classes make a descent chaotic after a few steps


def probe_fit_logistic(implementation, seed):
    out = {}
    for dtype in DTYPES:
        for kind in CLASSES:
            x, y, strength, lr = draw_classes(seed, kind, dtype)
            steps = draw_steps(seed, kind)
            for name, penalty in (("free", 0.0), ("penalized", strength)):
                w, norms = implementation(torch.tensor(x), torch.tensor(y), penalty, lr, steps)
                out[f"w {kind} {name} {dtype}"] = w.detach().numpy()
                out[f"norms {kind} {name} {dtype}"] = norms.detach().numpy()
    x, y, strength, lr = draw_classes(seed, "separable", "float64")
    w, norms = implementation(torch.tensor(x), torch.tensor(y), strength, lr, 1)
    out["first w"], out["first norms"] = w.detach().numpy(), norms.detach().numpy()
    return out


def descend(x, y, strength, lr, steps):
    """Gradient descent in float64, the derivative of log(1 + exp(−m)) written with tanh, which cannot overflow."""
    x, y = x.astype("float64"), y.astype("float64")
    w, norms = np.zeros(x.shape[1]), []
    for _ in range(steps):
        slopes = [-0.5 * (1 - np.tanh(label * (row @ w) / 2)) * label * row for row, label in zip(x, y, strict=True)]
        w = w - lr * (np.mean(slopes, axis=0) + strength * w)
        norms.append(np.sqrt(np.sum(w**2)))
    return w, np.array(norms)


def verify_fit_logistic(arrays, seed):
    for dtype in DTYPES:
        for kind in CLASSES:
            x, y, strength, lr = draw_classes(seed, kind, dtype)
            steps = draw_steps(seed, kind)
            for name, penalty in (("free", 0.0), ("penalized", strength)):
                w, norms = descend(x, y, penalty, lr, steps)
                where = f"{kind} classes, {'with' if penalty else 'without'} a penalty"
                got, trajectory = arrays[f"w {kind} {name} {dtype}"], arrays[f"norms {kind} {name} {dtype}"]
                of_dtype(got, dtype, "the weights")
                of_dtype(trajectory, dtype, "the norms")
                assert trajectory.shape == (steps,), f"one norm a step: {steps} steps gave shape {trajectory.shape}"
                close(trajectory[:1], norms[:1], f"the norm after the first step ({where})", dtype)
                close(got, w, f"the last weight vector ({where})", dtype)
                close(trajectory, norms, f"the norm after some step ({where})", dtype)
    x, y, strength, lr = draw_classes(seed, "separable", "float64")
    w, norms = descend(x, y, strength, lr, 1)
    close(arrays["first w"], w, "the weight vector after one step")
    close(arrays["first norms"], norms, "the norms of a descent of one step")


# --- margin: planted from the outside in -------------------------------------------------------------------------


def draw_margin(seed, kind, dtype):
    """Examples at chosen signed distances from the boundary of w, and anything along it."""
    random = np.random.default_rng([seed, 5, len(kind)])
    n, d = int(random.integers(3, 9)), int(random.integers(2, 7))
    w = random.normal(size=d)
    w *= float(random.uniform(2.0, 5.0)) / np.linalg.norm(w)
    distances = random.uniform(0.5, 3.0, size=n)
    if kind == "one on the wrong side":
        distances[n // 2] *= -1
    y = np.where(np.arange(n) % 2 == 0, -1.0, 1.0)
    along = random.normal(size=(n, d))
    along -= np.outer(along @ w, w) / (w @ w)
    x = np.outer(y * distances, w / np.linalg.norm(w)) + 2 * along
    if kind == "one example":
        x, y, distances = x[:1], y[:1], distances[:1]
    return w.astype(dtype), x.astype(dtype), y.astype(dtype), distances.min()


SIDES = ["all on their side", "one on the wrong side", "one example"]


def probe_margin(implementation, seed):
    out = {}
    for dtype in DTYPES:
        for kind in SIDES:
            w, x, y, _ = draw_margin(seed, kind, dtype)
            leaf = torch.tensor(w, requires_grad=True)
            value = implementation(leaf, torch.tensor(x), torch.tensor(y))
            out[f"{kind} {dtype}"] = value.detach().numpy()
            value.backward()
            out[f"gradient {kind} {dtype}"] = leaf.grad.numpy()
            out[f"longer {kind} {dtype}"] = implementation(torch.tensor(7 * w), *map(torch.tensor, (x, y))).numpy()
    return out


def verify_margin(arrays, seed):
    for dtype in DTYPES:
        for kind in SIDES:
            w, x, y, wanted = draw_margin(seed, kind, dtype)
            value = arrays[f"{kind} {dtype}"]
            of_dtype(value, dtype, "the margin")
            close(value, wanted, f"the margin with {kind}", dtype)
            close(arrays[f"longer {kind} {dtype}"], wanted, f"the margin of a longer w, with {kind},", dtype)
            # the distance of the nearest example is ±x·w/‖w‖: its gradient is x's part along the boundary over ‖w‖
            w, x, y = w.astype("float64"), x.astype("float64"), y.astype("float64")
            nearest = np.argmin(y * (x @ w))
            signed = y[nearest] * x[nearest]
            gradient = (signed - (signed @ w) * w / (w @ w)) / np.sqrt(w @ w)
            close(arrays[f"gradient {kind} {dtype}"], gradient, f"the gradient of the margin with {kind}", dtype)
