"""What must be true of any implementation of the tasks in ``generalization``.

``probe_X`` calls an implementation on inputs drawn from the seed and returns what came out; ``verify_X`` decides,
from what it derives itself. The grader runs the first inside the student's kernel and the second outside it.
"""

import random as dice

import numpy as np
import torch

from course_lib.grading.verdicts import close

# --- bias and variance: sums written out, model by model -----------------------------------------------------------

SHAPES = [(), (1,), (6,), (4, 3), (2, 3, 2)]
PARTS = ("squared bias", "variance", "mean squared error")


def draw_predictions(seed):
    """By name: a stack of predictions and the target; two models up, one of the targets far from every prediction."""
    random = np.random.default_rng([seed, 1])
    cases = {}
    for index in random.permutation(len(SHAPES))[:3]:
        resamples = int(random.integers(2, 7))
        target = random.normal(size=SHAPES[index])
        noise = random.normal(size=(resamples, *SHAPES[index]))
        cases[f"{resamples} models, target of shape {SHAPES[index]}"] = (target + 0.7 + noise, target)
    cases["two models that agree"] = (np.full((2, 3), 2.0), random.normal(size=3))
    cases["models that are right on average"] = (np.array([[1.0, -2.0], [-1.0, 2.0]]), np.zeros(2))
    return cases


def probe_bias_variance(implementation, seed):
    out = {}
    for name, (predictions, target) in draw_predictions(seed).items():
        for dtype in ("float64", "float32"):
            given = torch.tensor(predictions.astype(dtype)), torch.tensor(target.astype(dtype))
            parts = implementation(*given)
            out[f"{name} {dtype} parts"] = np.array(len(parts))
            for part, values in zip(PARTS, parts, strict=True):
                out[f"{name} {dtype} {part}"] = values.numpy().copy()
            kept = (given[0].numpy() == predictions.astype(dtype)).all() and (
                given[1].numpy() == target.astype(dtype)
            ).all()
            out[f"{name} {dtype} kept"] = np.array(bool(kept))
        given = [torch.tensor(values, requires_grad=True) for values in (predictions, target)]
        parts = implementation(*given)
        out[f"{name} graph"] = np.array(all(part.requires_grad for part in parts))
        if out[f"{name} graph"]:
            sum(weight * part.sum() for weight, part in zip((1.0, 2.0, 4.0), parts, strict=True)).backward()
            out[f"{name} slopes of predictions"] = given[0].grad.numpy().copy()
            out[f"{name} slopes of target"] = given[1].grad.numpy().copy()
    return out


def verify_bias_variance(arrays, seed):
    for name, (predictions, target) in draw_predictions(seed).items():
        count = len(predictions)
        mean = sum(predictions) / count
        wanted = {
            "squared bias": (mean - target) ** 2,
            "variance": sum((one - mean) ** 2 for one in predictions) / count,
            "mean squared error": sum((one - target) ** 2 for one in predictions) / count,
        }
        for dtype, tolerance in (("float64", 1e-10), ("float32", 1e-4)):
            assert arrays[f"{name} {dtype} kept"], "an argument was changed in place: make new tensors instead"
            for part in PARTS:
                got = arrays[f"{name} {dtype} {part}"]
                assert got.dtype == dtype, f"{dtype} predictions gave a {part} in {got.dtype}"
                close(got, wanted[part], f"the {part} in {dtype} for {name}", dtype, exact=tolerance, rough=tolerance)
        assert arrays[f"{name} graph"], "gradients do not pass: the three parts are differentiable, so detach nothing"
        # of bias² + 2 variance + 4 error, in which each model counts 1/R
        slopes = 2 / count * ((mean - target) + 2 * (predictions - mean) + 4 * (predictions - target))
        close(arrays[f"{name} slopes of predictions"], slopes, f"the derivative by the predictions for {name}")
        close(arrays[f"{name} slopes of target"], -10 * (mean - target), f"the derivative by the target for {name}")


# --- k folds: a partition, shuffled evenly, and nothing else touched -----------------------------------------------


def draw_folds(seed):
    """By name: how many examples, how many folds, which shuffle."""
    random = np.random.default_rng([seed, 2])
    k = int(random.integers(4, 8))
    n = k * int(random.integers(8, 13)) + int(
        random.integers(2, k - 1)
    )  # a remainder that one fold cannot take or lack
    return {
        "a remainder": (n, k, seed),
        "another shuffle of the same": (n, k, seed + 1),
        "equal folds": (6 * k, k, seed),
        "one example a fold": (k, k, seed),
        "two folds": (2 * k + 1, 2, seed),
    }


def counted(folds, n):
    """How often each index stands in each part, (fold, part, index); and whether all indices are int64 in range."""
    counts, legal = np.zeros((len(folds), 2, n), dtype=int), True
    for row, parts in enumerate(folds):
        for column, indices in enumerate(parts):
            inside = (indices >= 0) & (indices < n)
            legal &= indices.dtype == torch.int64 and indices.ndim == 1 and bool(inside.all())
            counts[row, column] = np.bincount(indices[inside].numpy().astype(int).ravel(), minlength=n)
    return counts, np.array(bool(legal))


def global_generators():
    """The states of torch's, numpy's and Python's global generators, to compare by ==."""
    _, keys, position, *_ = np.random.get_state()
    return torch.get_rng_state().numpy().tobytes(), keys.tobytes(), position, dice.getstate()


def probe_k_fold(implementation, seed):
    out = {}
    torch.manual_seed(seed)
    before = global_generators()
    for name, (n, k, shuffle) in draw_folds(seed).items():
        out[f"{name} counts"], out[f"{name} legal"] = counted(list(implementation(n, k, shuffle)), n)
    torch.manual_seed(seed + 17)
    n, k, shuffle = draw_folds(seed)["a remainder"]
    out["again"], _ = counted(list(implementation(n, k, shuffle)), n)
    torch.manual_seed(seed)
    implementation(n, k, shuffle)
    out["generator kept"] = np.array(before == global_generators())
    together = np.zeros((8, 8))
    for shuffle in range(200):
        for _, held_out in implementation(8, 2, shuffle):
            mask = np.zeros(8)
            mask[held_out.numpy()] = 1
            together += np.outer(mask, mask)
    out["together"] = together / 200
    return out


def verify_k_fold(arrays, seed):
    cases = draw_folds(seed)
    for name, (n, k, _) in cases.items():
        counts = arrays[f"{name} counts"]
        what = f"n = {n}, k = {k}"
        assert counts.shape == (k, 2, n), f"{what}: wanted {k} pairs (train, held_out), got {len(counts)}"
        train, held_out = counts[:, 0], counts[:, 1]
        assert np.array_equal(held_out.sum(0), np.ones(n)), (
            f"{what}: an index is not held out exactly once; is the order (train, held_out)?"
        )
        assert np.array_equal(train + held_out, np.ones((k, n))), (
            f"{what}: in some fold, train is not all that is not held out, each index once"
        )
        sizes = held_out.sum(1)
        assert sizes.max() - sizes.min() <= 1, f"{what}: the sizes of two folds differ by more than one"
        assert arrays[f"{name} legal"], f"{what}: the parts are not one-dimensional int64 indices from 0 to n − 1"
    first = arrays["a remainder counts"]
    assert np.array_equal(first, arrays["again"]), "the same seed gave other folds: use a generator of your own"
    assert arrays["generator kept"], "a global generator (torch's, numpy's or Python's) was moved: use one of your own"
    other = arrays["another shuffle of the same counts"]
    assert not np.array_equal(first, other), "another seed gave the same folds"
    share = arrays["together"][~np.eye(8, dtype=bool)]
    # two of eight shuffled indices share a fold of four in 3 of 7 shuffles; 0.16 is 4.5 standard deviations
    assert np.all(np.abs(share - 3 / 7) < 0.16), (
        "over many seeds, some pairs of indices share a fold too often or never"
    )


# --- learning curve: a fit and an error that write down what they are given ----------------------------------------


def draw_study(seed):
    random = np.random.default_rng([seed, 3])
    n, tests = int(random.integers(20, 30)), int(random.integers(4, 9))
    y = random.normal(size=n + tests)
    small, large = random.integers((3, n // 2 + 2), (n // 2, n))
    sizes = [int(size) for size in random.permutation([1, small, small + 1, large, n])]
    seeds = [int(one) for one in random.choice(1000, 4, replace=False)]
    return y, n, sizes, seeds


class Log:
    """A method that predicts the mean of its labels, and a list of what it was fitted to and measured on."""

    def __init__(self, y):
        self.y, self.fits, self.calls, self.paired = y, [], [], True

    def counts(self, x, y):
        """How often each example occurs; an input whose label is another's is noted."""
        indices = x[:, 0].round().long()
        self.paired &= len(x) == len(y) and bool(torch.equal(y, self.y[indices]))
        return np.bincount(indices.numpy(), minlength=len(self.y))

    def fit(self, x, y):
        self.fits.append(self.counts(x, y))
        return self.fits[-1], y.mean().item()

    def error(self, model, x, y):
        self.calls.append(np.stack([model[0], self.counts(x, y)]))
        return ((y - model[1]) ** 2).mean().item() if len(self.calls) % 2 else ((y - model[1]) ** 2).mean()


def probe_learning_curve(implementation, seed):
    y, n, sizes, seeds = draw_study(seed)
    y = torch.tensor(y)
    x = torch.stack([torch.arange(len(y)).double(), torch.ones(len(y), dtype=torch.float64)], dim=1)
    torch.manual_seed(seed)
    before = global_generators()
    log = Log(y)
    given = (log.fit, log.error, (x[:n], y[:n]), (x[n:], y[n:]), sizes, seeds)
    train, test = implementation(*given)
    out = {"train": train.numpy().copy(), "test": test.numpy().copy()}
    out["fits"], out["calls"], out["paired"] = np.stack(log.fits), np.stack(log.calls), np.array(log.paired)
    out["generator kept"] = np.array(before == global_generators())
    torch.manual_seed(seed + 17)
    out["again"] = implementation(*given)[1].numpy().copy()
    out["last seeds alone"] = implementation(*given[:-1], seeds[2:])[1].numpy().copy()
    log = Log(y)
    implementation(log.fit, log.error, (x[:8], y[:8]), (x[n:], y[n:]), [4], list(range(200)))
    out["drawn"] = np.stack(log.fits)[:, :8]
    return out


def verify_learning_curve(arrays, seed):
    y, n, sizes, seeds = draw_study(seed)
    for name in ("train", "test"):
        wanted = (len(seeds), len(sizes))
        assert arrays[name].shape == wanted, f"the {name} errors have shape {arrays[name].shape}, wanted {wanted}"
        assert arrays[name].dtype == "float64", f"the {name} errors are {arrays[name].dtype}, wanted float64"
    assert arrays["paired"], "an input came with the label of another: shuffle both in the same way"
    assert not arrays["fits"][:, n:].any(), "fit was given test examples: that is a leak"
    assert arrays["fits"].max() == 1, "fit was given the same example twice: draw without replacement"
    everything = np.arange(len(y)) >= n
    found = {"train": {}, "test": {}}  # the errors that belong there, by how many and which examples were fitted
    for fitted, measured in arrays["calls"]:
        error = ((np.repeat(y, measured) - y[fitted > 0].mean()) ** 2).mean()
        if np.array_equal(measured, fitted):
            found["train"].setdefault(fitted.sum(), []).append((error, fitted > 0))
        if np.array_equal(measured, everything):
            found["test"].setdefault(fitted.sum(), []).append((error, fitted > 0))
    places = {
        "train": "on exactly the examples that the model was fitted to",
        "test": "on all test examples and nothing else",
    }
    subsets = {}
    for name, where in places.items():
        for row, column in np.ndindex(arrays[name].shape):
            size = sizes[column]
            got = arrays[name][row, column]
            fits = [mask for error, mask in found[name].get(size, []) if np.isclose(error, got, rtol=1e-10, atol=1e-12)]
            what = f"entry [{row}, {column}] of the {name} errors"
            assert fits, f"{what} is not the error of a model fitted to {size} examples, measured {where}"
            subsets[name, row, size] = fits[0]
    for row in range(len(seeds)):
        for small, large in zip(sorted(sizes), sorted(sizes)[1:], strict=False):
            one, other = subsets["test", row, small], subsets["test", row, large]
            assert np.all(other[one]), f"seed {seeds[row]}: the {small} examples are not among the {large}: not nested"
    middle = sorted(sizes)[2]
    firsts = [subsets["test", row, middle] for row in range(len(seeds))]
    assert not all(np.array_equal(firsts[0], one) for one in firsts), "all seeds gave the same subsets"
    assert not all(one[:middle].all() for one in firsts), "the subsets are the first examples: shuffle"
    assert len(arrays["fits"]) <= arrays["test"].size, (
        f"fit was called {len(arrays['fits'])} times for {arrays['test'].size} entries: "
        "fit once and measure that model twice"
    )
    close(arrays["again"], arrays["test"], "a second run with the same seeds (do you use torch's global generator?)")
    alone = "the rows of the last two seeds, asked for without the others (a seed alone fixes its row)"
    close(arrays["last seeds alone"], arrays["test"][2:], alone)
    drawn = arrays["drawn"].astype(float)
    share = (drawn.T @ drawn / len(drawn))[~np.eye(8, dtype=bool)]
    # two of eight shuffled examples are both among the first four in 3 of 14 shuffles; 0.14 is 4.8 standard deviations
    assert np.all(np.abs(share - 3 / 14) < 0.14), "over many seeds, some pairs of examples are drawn together too often"
    assert arrays["generator kept"], "a global generator (torch's, numpy's or Python's) was moved: use one of your own"


# --- least-norm fit and ridge: normal equations, and nothing in the null space -------------------------------------


def draw_features(seed):
    """By name: features whose singular values lie between 1 and 3, or are exactly 0; and several outputs."""
    random = np.random.default_rng([seed, 4])

    def features(n, p, rank):
        left, right = np.linalg.qr(random.normal(size=(n, rank)))[0], np.linalg.qr(random.normal(size=(p, rank)))[0]
        return left * random.uniform(1, 3, size=rank) @ right.T

    few, many = (int(size) for size in random.integers((5, 12), (9, 20)))
    shapes = {
        "n > p": (many, few, few),
        "n = p": (few, few, few),
        "n < p": (few, many, few),
        "n < p of low rank": (few, many, few - 2),
        "n > p of low rank": (many, few, few - 2),
    }
    cases = {name: features(*shape) for name, shape in shapes.items()}
    repeated = random.normal(size=(many, 2))
    cases["a repeated column and one of zeros"] = np.column_stack([repeated, repeated[:, 0], np.zeros(many)])
    cases["one example"] = random.normal(size=(1, few)) + 2.0
    return {name: (phi, random.normal(size=(len(phi), 1 + seed % 3))) for name, phi in cases.items()}


def draw_weak_direction(seed):
    """Features with a singular value of s₁/10 000, which is small but far from rounding, and a vector to fit."""
    random = np.random.default_rng([seed, 6])
    left, right = (np.linalg.qr(random.normal(size=(rows, 4)))[0] for rows in (9, 6))
    return left * [2.0, 1.5, 1.0, 2e-4] @ right.T, right @ random.choice([-1.0, 1.0], size=(4, 1))


def draw_strength(seed):
    return float(np.random.default_rng([seed, 5]).uniform(0.05, 0.5))


def probe_min_norm_fit(implementation, seed):
    out = {}
    for name, (phi, y) in draw_features(seed).items():
        for dtype in ("float64", "float32"):
            given = torch.tensor(phi.astype(dtype)), torch.tensor(y.astype(dtype))
            out[f"{name} {dtype} plain"] = implementation(*given).numpy().copy()
            out[f"{name} {dtype} ridge"] = implementation(*given, strength=draw_strength(seed)).numpy().copy()
            kept = (given[0].numpy() == phi.astype(dtype)).all() and (given[1].numpy() == y.astype(dtype)).all()
            out[f"{name} {dtype} kept"] = np.array(bool(kept))
        out[f"{name} small strength"] = implementation(torch.tensor(phi), torch.tensor(y), 1e-4).numpy().copy()
        wanted = torch.tensor(y, requires_grad=True)
        w = implementation(torch.tensor(phi), wanted)
        out[f"{name} graph"] = np.array(w.requires_grad)
        if w.requires_grad:
            out[f"{name} slopes"] = torch.autograd.grad(w.sum(), wanted)[0].numpy().copy()
        out[f"{name} small units"] = implementation(1e-8 * torch.tensor(phi), torch.tensor(y)).numpy().copy()
        out[f"{name} near the limit"] = implementation(torch.tensor(phi), torch.tensor(y), 1e-7).numpy().copy()
    phi, w = draw_weak_direction(seed)
    out["weak direction"] = implementation(torch.tensor(phi), torch.tensor(phi @ w)).numpy().copy()
    return out


def verify_min_norm_fit(arrays, seed):
    strength = draw_strength(seed)
    for name, (phi, y) in draw_features(seed).items():
        n, p = phi.shape
        shortest = np.linalg.norm(np.linalg.pinv(phi, rcond=1e-8) @ y)
        null = np.eye(p) - np.linalg.pinv(phi, rcond=1e-8) @ phi  # onto the directions that no example sees
        for dtype, tolerance in (("float64", 1e-8), ("float32", 3e-3)):
            plain, ridge = arrays[f"{name} {dtype} plain"], arrays[f"{name} {dtype} ridge"]
            for w, kind in ((plain, "strength 0"), (ridge, "a positive strength")):
                what = f"the fit with {kind}, {name}, {dtype}"
                assert w.shape == (p, y.shape[1]), f"{what} has shape {w.shape}, wanted {(p, y.shape[1])}"
                assert w.dtype == dtype, f"{what} came back in {w.dtype}"
                assert np.all(np.isfinite(w)), f"{what} is NaN or infinite"
            assert np.linalg.norm(plain) < 100 * (1 + shortest), (
                f"the fit with strength 0, {name}, {dtype}: rounding noise was inverted: ‖w‖ is huge. "
                "Cut singular values at max(n,p)·ε·s₁ with ε of features.dtype, even if you compute in float64"
            )
            # the derivative of the objective vanishes
            slope = phi.T @ (phi @ plain - y)
            assert np.abs(slope).max() < 30 * tolerance, f"strength 0, {name}, {dtype}: another w has a smaller error"
            slope = phi.T @ (phi @ ridge - y) / n + strength * ridge
            assert np.abs(slope).max() < 10 * tolerance, (
                f"a positive strength, {name}, {dtype}: the derivative of the objective is not zero; is n in its place?"
            )
            hidden = np.abs(null @ plain).max()
            assert hidden < 10 * tolerance, f"strength 0, {name}, {dtype}: a fit as good has a smaller norm"
            assert arrays[f"{name} {dtype} kept"], "an argument was changed in place: return a new tensor instead"
        limit = f"strength 0, {name}: the result is not the limit of small strengths"
        close(arrays[f"{name} near the limit"], arrays[f"{name} float64 plain"], limit, exact=1e-4)
        ridge = arrays[f"{name} small strength"]
        slope = phi.T @ (phi @ ridge - y) / n + 1e-4 * ridge
        assert np.abs(slope).max() < 1e-7, f"strength 1e-4, {name}: the derivative of the objective is not zero"
        units = f"strength 0, {name}, features 1e8 times smaller: is zero relative to the largest singular value?"
        close(arrays[f"{name} small units"] * 1e-8, arrays[f"{name} float64 plain"], units, exact=1e-6)
        assert arrays[f"{name} graph"], "gradients do not reach y: compute with torch, and detach nothing"
        slopes = np.linalg.pinv(phi, rcond=1e-8).sum(0)[:, None] + np.zeros_like(y)
        close(arrays[f"{name} slopes"], slopes, f"strength 0, {name}: the derivative of the weights by y", exact=1e-6)
    wanted = draw_weak_direction(seed)[1]
    weak = "strength 0, float64, a singular value of s₁/10 000 (is your zero max(n, p)·ε·s₁?)"
    close(arrays["weak direction"], wanted, weak, exact=1e-4)
