"""What must be true of any implementation of the tasks in ``measuring_invariance``.

``probe_X`` calls an implementation on inputs drawn from the seed and returns what came out; ``verify_X`` decides,
from what it derives itself. The grader runs the first inside the student's kernel and the second outside it.
"""

from functools import partial

import numpy as np
import torch

from course_lib.grading import verdicts

close = partial(verdicts.close, exact=1e-10)


def name_of_error(call):
    """What a call raises, by name; "nothing" if it returns."""
    try:
        call()
    except Exception as error:
        return np.array(type(error).__name__)
    return np.array("nothing")


# --- equivariance error: the ratio, by NumPy, for a function that neither commutes nor keeps norms ----------------


def draw_images(seed, dtype):
    random = np.random.default_rng([seed, 1])
    n, size = int(random.choice([3, 5])), int(random.choice([4, 5]))
    x = random.normal(size=(n, 2, size, size)) * 10.0 ** random.uniform(-1, 1, size=(n, 1, 1, 1))
    mask = random.uniform(0.2, 2.0, size=(1, 2, size, size))
    return x.astype(dtype), mask.astype(dtype)


def probe_equivariance_error(implementation, seed):
    out = {}
    for dtype in ("float64", "float32"):
        x, mask = map(torch.tensor, draw_images(seed, dtype))

        def f(images, mask=mask):
            return torch.tanh(images) * mask + 0.5

        def turn(images):
            return images.rot90(1, (-2, -1))

        def turn_and_double(images):
            return 2 * images.flip(1).rot90(1, (-2, -1))

        leaf = x.clone().requires_grad_()
        value = implementation(f, leaf, turn)
        assert value.requires_grad, "no gradient reaches the input: .item(), float(...) and .detach() cut it"
        value.backward()
        out[f"invariance {dtype}"] = value.detach().numpy()
        out[f"gradient {dtype}"] = torch.zeros(x.shape).numpy() if leaf.grad is None else leaf.grad.numpy()
        out[f"equivariance {dtype}"] = implementation(f, x, turn, turn_and_double).detach().numpy()
        out[f"exact {dtype}"] = implementation(torch.tanh, x, turn, turn).detach().numpy()
        out[f"quarter back {dtype}"] = implementation(torch.tanh, x, turn, lambda y: y.rot90(-1, (-2, -1))).numpy()
        out[f"one image {dtype}"] = implementation(f, x[:1], turn).detach().numpy()
        out[f"input after {dtype}"] = x.numpy()
    out["constant"] = implementation(lambda images: torch.ones(len(images), 3), x, turn).numpy()
    out["zero"] = name_of_error(lambda: implementation(lambda images: 0 * images, x, turn))
    pixel = torch.zeros(4, 4, dtype=torch.float64)
    pixel[1, 3] = 1.0  # the turn takes it to another place
    dots = torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64)[:, None, None, None] * pixel  # they sum to 0
    out["zero at x only"] = name_of_error(lambda: implementation(lambda images: images * (1 - pixel), dots, turn))
    out["zero at g x only"] = implementation(lambda images: images * pixel, dots, turn).numpy()
    out["small"] = implementation(lambda images: 1e-9 * images * pixel, dots, turn).numpy()
    return out


def verify_equivariance_error(arrays, seed):
    def turn(images):
        return np.rot90(images, 1, (-2, -1))

    def ratio(f, expected, x):
        return np.linalg.norm((f(turn(x)) - expected(f(x))).ravel()) / np.linalg.norm(f(x).ravel())

    size = "is it ‖f(g·x) − f(x)‖ / ‖f(x)‖, norms not squared?"
    whole = "is it one ratio of two norms over the whole batch, not a mean of ratios?"
    follow = "is it ρ(g) of f(x) that you subtract, and the norm of f(x) that you divide by?"
    for dtype in ("float64", "float32"):
        x, mask = (array.astype("float64") for array in draw_images(seed, dtype))

        def f(images, mask=mask):
            return np.tanh(images) * mask + 0.5

        alone = ratio(f, lambda y: y, x[:1])
        close(arrays[f"one image {dtype}"], alone, "the invariance error for one image", dtype, hint=size)
        assert arrays[f"invariance {dtype}"].dtype == dtype, f"{dtype} images gave an error in another dtype"
        close(arrays[f"invariance {dtype}"], ratio(f, lambda y: y, x), "the invariance error", dtype, hint=whole)
        wanted = ratio(f, lambda y: 2 * turn(y[:, ::-1]), x)
        what = "the equivariance error with an output transform"
        close(arrays[f"equivariance {dtype}"], wanted, what, dtype, hint=follow)
        close(arrays[f"exact {dtype}"], 0.0, "the error of a function that commutes", dtype, hint=follow)
        wanted = ratio(np.tanh, lambda y: np.rot90(y, -1, (-2, -1)), x)
        what = "the error when the output should turn the other way"
        close(arrays[f"quarter back {dtype}"], wanted, what, dtype, hint=follow)
        direction = np.random.default_rng([seed, 11]).normal(size=x.shape) / x.size
        ahead, behind = (ratio(f, lambda y: y, x + step * direction) for step in (1e-4, -1e-4))
        slope = np.sum(arrays[f"gradient {dtype}"] * direction)
        what = f"the gradient with respect to the input in {dtype} is off: stay inside torch, and detach nothing"
        assert np.isclose(slope, (ahead - behind) / 2e-4, rtol=2e-3, atol=1e-6), what
        assert np.array_equal(arrays[f"input after {dtype}"], x.astype(dtype)), "the input was changed in place"
    close(arrays["constant"], 0.0, "the invariance error of a constant")
    assert arrays["zero"] == "ValueError", "f(x) = 0 everywhere must be refused with require_nonzero(output=...)"
    at_x = "f(x) = 0 must be refused also where f(g·x) is not 0: f(x) is what you divide by"
    assert arrays["zero at x only"] == "ValueError", at_x
    close(arrays["zero at g x only"], 1.0, "the error where f(g·x) is 0, and f(x) is 0 for one image of three")
    close(arrays["small"], 1.0, "the error of a function with small values")


# --- orbit consistency: image by image and element by element, in a loop ------------------------------------------


def draw_orbit(seed):
    random = np.random.default_rng([seed, 2])
    n = int(random.choice([40, 60]))
    x = random.normal(size=(n, 1, 4, 4))
    weights = random.normal(size=(16, 3)) * 0.35
    bias = random.normal(size=(n, 1)) * 2
    return x + bias[:, :, None, None], weights


def classify(x, weights):
    """Three scores: brightness, darkness, and one that depends on position."""
    mean = x.mean(axis=(1, 2, 3))
    places = x.reshape(len(x), -1) @ weights
    return np.stack([mean, -mean, 0.5 * places[:, 0]], axis=1)


def probe_orbit_consistency(implementation, seed):
    x, weights = draw_orbit(seed)
    out = {}
    for dtype in (torch.float64, torch.float32):
        images, w = torch.tensor(x, dtype=dtype), torch.tensor(weights, dtype=dtype)

        def f(batch, w=w):
            mean = batch.mean((1, 2, 3))
            return torch.stack([mean, -mean, 0.5 * (batch.flatten(1) @ w)[:, 0]], dim=1)

        turns = [lambda batch, k=k: batch.rot90(k, (-2, -1)) for k in range(4)]
        mirror = [lambda batch: batch.flip(-1)]
        name = str(dtype).removeprefix("torch.")
        out[f"turns {name}"] = np.array(float(implementation(f, images, turns)))
        out[f"without identity {name}"] = np.array(float(implementation(f, images, turns[1:])))
        out[f"one image {name}"] = np.array(float(implementation(f, images[:1], turns)))
        out[f"mirror {name}"] = np.array(float(implementation(f, images, mirror)))
        out[f"tuple {name}"] = np.array(float(implementation(f, images, tuple(turns[2:]))))
        out[f"brightness {name}"] = np.array(float(implementation(lambda batch, f=f: f(batch)[:, :2], images, turns)))
        # A function that gives the class back one higher on every transformed image: nothing is ever the same.
        restless = [lambda batch, k=k: batch.abs() * 0 + k for k in (1.0, 2.0)]
        out[f"restless {name}"] = np.array(float(implementation(_one_hot_of_first_pixel, images * 0, restless)))
        astray = [lambda batch: batch * 0, lambda batch: batch * 0 + 2]  # from class 1 to 0 and to 2: 1 on average
        out[f"astray {name}"] = np.array(float(implementation(_one_hot_of_first_pixel, images * 0 + 1, astray)))
        agreeing = [lambda batch: batch * 0 + 1, lambda batch: batch * 0 + 1]
        out[f"all but the image {name}"] = np.array(
            float(implementation(_one_hot_of_first_pixel, images * 0, agreeing))
        )
    return out


def _one_hot_of_first_pixel(batch):
    return torch.nn.functional.one_hot(batch[:, 0, 0, 0].long(), 3).to(batch.dtype)


def verify_orbit_consistency(arrays, seed):
    x, weights = draw_orbit(seed)
    turns = [np.rot90(x, k, (-2, -1)) for k in range(4)]

    def share(orbit, images=None):
        images = range(len(x)) if images is None else images
        same = 0
        for i in images:
            classes = {int(classify(moved[i : i + 1], weights).argmax()) for moved in [x, *orbit]}
            same += len(classes) == 1
        return same / len(images)

    agree = partial(close, exact=1e-6, rough=1e-6)
    order = "first ask for all of the orbit, the image itself included, then take the mean over images?"
    for name in ("float64", "float32"):
        for key in ("turns", "without identity"):
            what = f"the consistency over the quarter turns ({key})"
            agree(arrays[f"{key} {name}"], share(turns), what, name, hint=order)
        agree(arrays[f"one image {name}"], share(turns, [0]), "the consistency of a single image", name)
        agree(arrays[f"mirror {name}"], share([x[..., ::-1]]), "the consistency under a mirror", name)
        agree(arrays[f"tuple {name}"], share(turns[2:]), "the consistency over two turns", name)
        agree(arrays[f"brightness {name}"], 1.0, "the consistency of a classifier that sees brightness only", name)
        agree(arrays[f"restless {name}"], 0.0, "the consistency of a class that changes with every element", name)
        agree(arrays[f"astray {name}"], 0.0, "the consistency of class 1 that becomes 0 and 2", name)
        what = "the consistency where all transformed images agree with each other but not with the image itself"
        agree(arrays[f"all but the image {name}"], 0.0, what, name)


# --- local equivariance error: a closed form, for rotations of the plane ------------------------------------------


def draw_plane(seed, dtype):
    random = np.random.default_rng([seed, 3])
    n, m = int(random.choice([3, 6])), int(random.choice([2, 4]))
    x = random.normal(size=(n, m, 2))  # m points of the plane a cloud
    weights = random.normal(size=(m, m))
    return x.astype(dtype), weights.astype(dtype), float(random.uniform(0.5, 2.0)), float(random.uniform(0.5, 2.0))


def probe_local_equivariance_error(implementation, seed):
    out = {}
    for dtype in ("float64", "float32"):
        x, weights, speed, scale = draw_plane(seed, dtype)
        x, weights = torch.tensor(x), torch.tensor(weights)

        def turned(points, t):
            """All points turn by the angle t, counter-clockwise."""
            cos, sin = t.cos(), t.sin()
            a, b = points.unbind(-1)
            return torch.stack([cos * a - sin * b, sin * a + cos * b], dim=-1)

        def flow(points, t, speed=speed):
            return turned(points, speed * t)

        size = torch.tensor(scale, dtype=x.dtype, requires_grad=True)

        def mixed(points, weights=weights, size=size):  # linear: it commutes with turning
            return size * torch.einsum("ij,njk->nik", weights, points)

        def bent(points):
            return mixed(points) + mixed(points) ** 2

        def distances(points, size=size):
            return size * points.square().sum(-1)

        out[f"equivariant {dtype}"] = implementation(mixed, x, flow, flow).detach().numpy()
        out[f"invariant {dtype}"] = implementation(distances, x, flow).detach().numpy()
        out[f"not invariant {dtype}"] = implementation(mixed, x, flow).detach().numpy()
        out[f"one input {dtype}"] = implementation(mixed, x[:1], flow).detach().numpy()
        value = implementation(bent, x, flow, flow)
        out[f"bent {dtype}"] = value.detach().numpy()
        out[f"wrong speed {dtype}"] = implementation(mixed, x, flow, turned).detach().numpy()
        moving = implementation(mixed, x, flow)
        assert moving.requires_grad, "no gradient reaches the parameters of f: create_graph=True?"
        moving.backward()
        out[f"gradient {dtype}"] = np.array(np.nan) if size.grad is None else size.grad.numpy()
        out[f"constant {dtype}"] = implementation(lambda points: points[:, :1] * 0 + 1, x, flow).detach().numpy()
    return out


def verify_local_equivariance_error(arrays, seed):
    back = "did you take the output back, by −t, with output_flow?"
    mean = "is it squared, at t = 0, and a mean over images and outputs?"
    for dtype in ("float64", "float32"):
        x, weights, speed, scale = draw_plane(seed, dtype)
        x, weights = x.astype("float64"), weights.astype("float64")

        def spun(points):
            """The derivative of turning: (a, b) moves along (−b, a)."""
            return np.stack([-points[..., 1], points[..., 0]], axis=-1)

        y = scale * np.einsum("ij,njk->nik", weights, x)
        moving = speed * spun(y)  # the derivative of mixed along the flow, for it is linear and commutes
        bent = (1 + 2 * y) * moving - speed * spun(y + y**2)
        assert arrays[f"bent {dtype}"].dtype == dtype, f"{dtype} inputs gave an error in another dtype"
        close(arrays[f"equivariant {dtype}"], 0.0, "the error of a function that turns along", dtype, hint=back)
        close(arrays[f"invariant {dtype}"], 0.0, "the error of a function that does not move", dtype)
        close(arrays[f"constant {dtype}"], 0.0, "the error of a constant", dtype)
        what = "the error of a function that turns along, where it should not move,"
        close(arrays[f"not invariant {dtype}"], np.mean(moving**2), what, dtype, hint=mean)
        close(arrays[f"one input {dtype}"], np.mean(moving[:1] ** 2), "the error for a single input", dtype, hint=mean)
        close(
            arrays[f"bent {dtype}"], np.mean(bent**2), "the error of a function that half turns along", dtype, hint=back
        )
        wrong = np.mean((moving - spun(y)) ** 2)
        what = "the error where the output should turn at another speed"
        close(arrays[f"wrong speed {dtype}"], wrong, what, dtype, hint=back)
        what = "the gradient with respect to a parameter of f"
        close(arrays[f"gradient {dtype}"], 2 * np.mean(moving**2) / scale, what, dtype)


# --- culprit: the definition, in a loop ---------------------------------------------------------------------------


def draw_errors(seed):
    random = np.random.default_rng([seed, 4])
    lists = []
    for number in range(6):
        count = int(random.integers(1, 9))
        before = random.choice([0.0, 2e-7, 3e-5, 0.02, 0.3], size=count)
        after = random.choice([0.0, 2e-7, 3e-5, 0.02, 0.3, 0.31], size=count)
        names = [f"{kind}{number}{place}" for place, kind in enumerate(random.choice(["conv", "pool", "relu"], count))]
        lists.append([(name, float(b), float(a)) for name, b, a in zip(names, before, after, strict=True)])
    return lists


FIXED = {
    "nothing": [("a", 0.0, 1e-7), ("b", 1e-7, 9e-5)],
    "handed on": [("a", 0.5, 0.5), ("b", 0.4, 0.2), ("c", 0.0, 0.3), ("d", 0.3, 0.9)],
    "infinite": [("a", float("inf"), float("inf")), ("b", 0.0, float("inf"))],
    "branches": [("a", 0.0, 0.0), ("b", 0.4, 0.4), ("c", 0.0, 0.1)],
    "second is larger": [("a", 0.0, 0.01), ("b", 0.01, 0.8)],
    "just the tolerance": [("a", 0.0, 1e-4)],
    "creeping": [("a", 0.0, 6e-5), ("b", 6e-5, 1.2e-4), ("c", 1.2e-4, 3e-4)],
}
WANTED = dict(zip(FIXED, ["None", "c", "b", "c", "a", "None", "c"], strict=True))


def probe_culprit(implementation, seed):
    out = {f"fixed {name}": np.array(str(implementation(list(errors)))) for name, errors in FIXED.items()}
    for number, errors in enumerate(draw_errors(seed)):
        out[f"drawn {number}"] = np.array(str(implementation(list(errors))))
        out[f"loose {number}"] = np.array(str(implementation(list(errors), 0.05)))
        out[f"strict {number}"] = np.array(str(implementation(list(errors), tolerance=1e-6)))
    out["loose second"] = np.array(str(implementation(FIXED["second is larger"], 0.05)))
    out["as much as the tolerance"] = np.array(str(implementation([("a", 0.0, 0.5)], tolerance=0.5)))
    fine = [("a", 0.5, 0.5 + 1e-10), ("b", 1.0, 1.0 + 1e-8), ("c", 0.0, 1.0)]
    out["fine"] = np.array(str(implementation(fine, tolerance=1e-9)))
    out["is none"] = np.array(implementation(FIXED["nothing"]) is None)
    return out


def verify_culprit(arrays, seed):
    def wanted(errors, tolerance):
        for name, before, after in errors:
            if after > before and not after <= before + tolerance:
                return name
        return "None"

    for name, answer in WANTED.items():
        hint = ": compare with this layer's own `before`" if name in ("branches", "handed on", "infinite") else ""
        assert arrays[f"fixed {name}"] == answer, f"the wrong layer is named in the case {name!r}{hint}"
    assert arrays["as much as the tolerance"] == "None", "a rise of just the tolerance is not more than the tolerance"
    assert arrays["loose second"] == "b", "another tolerance names the wrong layer"
    assert arrays["fine"] == "b", "a rise of 1e-8 at tolerance 1e-9 is lost: are the errors rounded to float32?"
    assert arrays["is none"], "where no layer jumps, None is wanted"
    for number, errors in enumerate(draw_errors(seed)):
        for kind, tolerance in {"drawn": 1e-4, "loose": 0.05, "strict": 1e-6}.items():
            what = f"the wrong layer is named for errors {errors} and tolerance {tolerance:g}"
            assert arrays[f"{kind} {number}"] == wanted(errors, tolerance), what
