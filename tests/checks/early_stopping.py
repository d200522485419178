"""What must be true of any implementation of the tasks in ``early_stopping``.

``probe_X`` calls an implementation on inputs drawn from the seed and returns what came out; ``verify_X`` decides,
from what it derives itself. The grader runs the first inside the student's kernel and the second outside it.
"""

from functools import partial

import numpy as np
import torch

from course_lib.grading import verdicts

close = partial(verdicts.close, rough=2e-4)

NAN, INFINITY = float("nan"), float("inf")


# --- histories: multiples of 1/64, so that ties and differences are exact ----------------------------------------


def draw_histories(seed):
    """Validation errors that fall and rise again, by name, each with a min_delta."""
    random = np.random.default_rng(seed)
    length = int(random.integers(12, 30))
    bowl = np.abs(np.arange(length) - length * random.uniform(0.3, 0.6)) * 3 + random.integers(0, 9, length)
    noisy = (20 + np.round(bowl)) / 64
    tied = noisy.copy()
    tied[-1] = noisy.min()
    holes = noisy.copy()
    holes[random.permutation(length)[:4]] = NAN
    late = holes.copy()
    late[:2] = NAN
    blown = noisy.copy()
    blown[[0, -2]] = INFINITY
    creeping = (64 - np.arange(length)) / 64  # each step down is 1/64: only sums of them exceed min_delta
    delta = int(random.integers(2, 5)) / 64
    falling = np.where(np.arange(length) < length // 2, -1, 1) * np.arange(length)
    histories = {
        "errors beyond 10¹⁰ at first": (noisy * 2.0 ** (60 - 3 * np.arange(length)), 0.0),
        "steps too small for float32": (0.5 + falling * 2.0**-40, 0.0),
        "no epoch yet": ([], 0.0),
        "one epoch": ([0.5], 0.0),
        "a bowl with noise": (noisy, 0.0),
        "a tie with the lowest error": (tied, 0.0),
        "some NaN": (holes, 0.0),
        "NaN in the first epochs": (late, 0.0),
        "NaN in every epoch": (np.full(length, NAN), 0.0),
        "infinite errors": (blown, 0.0),
        "negative errors (accuracies with a minus sign)": (noisy - 2, 0.0),
        "a bowl and a min_delta": (noisy, delta),
        "ties, NaN and a min_delta": (np.where(np.isnan(late), late, tied), delta),
        "small steps down and a min_delta": (creeping, delta),
        "a drop of exactly min_delta": ([1.0, 1.0 - delta, 1.0], delta),
    }
    return {name: (np.asarray(errors, dtype="float64"), delta) for name, (errors, delta) in histories.items()}


def improvements(errors, min_delta):
    """The epochs that are improvements: from each, the next one that beats it by more than min_delta."""
    found, beat = [], INFINITY
    while True:
        start = found[-1] + 1 if found else 0
        later = [epoch for epoch in range(start, len(errors)) if errors[epoch] < beat - min_delta]
        if not later:
            return found
        found.append(later[0])
        beat = errors[later[0]]


def probe_best_epoch(implementation, seed):
    out = {}
    for name, (errors, min_delta) in draw_histories(seed).items():
        given = errors.tolist()
        found = [implementation(given[:end], min_delta) for end in range(len(given) + 1)]
        out[name] = np.array([float("nan") if epoch is None else float(epoch) for epoch in found])
        out[f"{name}, afterwards"] = np.array(given)
    out["without min_delta"] = np.array(float(implementation([0.5, 0.25, 0.25])))
    return out


def verify_best_epoch(arrays, seed):
    for name, (errors, min_delta) in draw_histories(seed).items():
        got, kept = arrays[name], arrays[f"{name}, afterwards"]
        assert np.array_equal(kept, errors, equal_nan=True), "the list of errors was changed"
        for end in range(len(errors) + 1):
            found = improvements(errors[:end], min_delta)
            if not found:
                assert got[end] == -1, f"no epoch was an improvement ({name}): wanted -1"
            assert got[end] == (found[-1] if found else -1), f"{name}: not the epoch of the last improvement"
    assert arrays["without min_delta"] == 1, "min_delta is 0 if it is not given"


def probe_should_stop(implementation, seed):
    out = {}
    for name, (errors, min_delta) in draw_histories(seed).items():
        given = errors.tolist()
        for patience in (1, 2, 3, 5, 100):
            says = [implementation(given[:end], patience, min_delta) for end in range(len(given) + 1)]
            out[f"{name}, patience {patience}"] = np.array(
                [-1.0 if answer is None else float(answer) for answer in says]
            )
        out[f"{name}, afterwards"] = np.array(given)
    out["without min_delta"] = np.array(float(implementation([0.5, 0.25, 0.25], 1)))
    return out


def verify_should_stop(arrays, seed):
    for name, (errors, min_delta) in draw_histories(seed).items():
        assert np.array_equal(arrays[f"{name}, afterwards"], errors, equal_nan=True), "the list of errors was changed"
        for patience in (1, 2, 3, 5, 100):
            got = arrays[f"{name}, patience {patience}"]
            assert not (got < 0).any(), "wanted True or False, got None: is `return` missing?"
            for end in range(len(errors) + 1):
                found = improvements(errors[:end], min_delta)
                latest = set(range(end - patience, end))
                wanted = end >= patience and not latest & set(found)
                when = "it stops too early or in error" if got[end] else "it goes on where it should stop"
                assert got[end] == wanted, f"{name}, patience {patience}: {when}"
    assert arrays["without min_delta"] == 1, "min_delta is 0 if it is not given"


# --- the loop: a training that is scripted, so that every call and every copy can be told -------------------------


def draw_runs(seed):
    """By name: the scripted errors, and epochs, patience and min_delta."""
    runs = {}
    for name, (errors, min_delta) in draw_histories(seed).items():
        if len(errors) > 1:
            runs[name] = (errors, len(errors), 2 + seed % 3, min_delta)
    errors = draw_histories(seed)["a bowl with noise"][0]
    runs["too few epochs for patience"] = (errors, 4, 50, 0.0)
    runs["a single epoch"] = (errors, 1, 1, 0.0)
    falling = np.arange(9, 0, -1) / 8
    runs["errors that fall to the end"] = (falling, len(falling), 1, 0.0)
    return runs


def scripted_state(seed, epoch, errors):
    """What the tensors hold after so many epochs: float32, float64 and a counter, each one different each epoch.

    Where the error is NaN the weights are, too, as in a run that diverged.
    """
    random = np.random.default_rng([seed, epoch])
    diverged = epoch > 0 and np.isnan(errors[min(epoch, len(errors)) - 1])
    return {
        "weight": random.normal(size=(2, 3)).astype("float32") * (NAN if diverged else 1),
        "bias": random.normal(size=3),
        "steps": np.array(epoch),
    }


def probe_best_checkpoint(implementation, seed):
    out = {}
    for name, (errors, epochs, patience, min_delta) in draw_runs(seed).items():
        owned, calls = {key: torch.tensor(value) for key, value in scripted_state(seed, 0, errors).items()}, []
        state = {key: tensor.detach() for key, tensor in owned.items()}  # as state_dict: other objects, the same memory

        def train_epoch(owned=owned, calls=calls, errors=errors):
            calls.append(1)
            for key, value in scripted_state(seed, sum(calls), errors).items():
                owned[key].copy_(torch.tensor(value))

        def validate(owned=owned, calls=calls, errors=errors):
            calls.append(0)
            return float(errors[min(int(owned["steps"]), len(errors)) - 1])

        returned = implementation(train_epoch, validate, state, epochs, patience, min_delta)
        out[f"{name}: errors"] = np.array([NAN] if returned is None else [float(error) for error in returned])
        out[f"{name}: returned"] = np.array(returned is not None)
        out[f"{name}: calls"] = np.array(calls)
        for key, tensor in owned.items():
            out[f"{name}: {key}"] = tensor.numpy().copy()
    return out


def verify_best_checkpoint(arrays, seed):
    for name, (errors, epochs, patience, min_delta) in draw_runs(seed).items():
        assert arrays[f"{name}: returned"], "wanted a list of errors, got None: is `return` missing?"
        ran, found = 0, []
        for ran in range(1, epochs + 1):
            found = improvements(errors[:ran], min_delta)
            if ran >= patience and not set(found) & set(range(ran - patience, ran)):
                break
        calls = arrays[f"{name}: calls"]
        assert np.sum(calls) == ran, f"{name}: {np.sum(calls)} epochs were trained, which is not when to stop"
        assert np.array_equal(calls, [1, 0] * ran), "an epoch is one call of train_epoch, then one of validate"
        assert np.array_equal(arrays[f"{name}: errors"], errors[:ran], equal_nan=True), (
            f"{name}: not the errors in their order"
        )
        best = found[-1] + 1 if found else 0
        for key, wanted in scripted_state(seed, best, errors).items():
            got = arrays[f"{name}: {key}"]
            last = scripted_state(seed, ran, errors)[key]
            if best != ran:
                assert not np.array_equal(got, last, equal_nan=True), (
                    f"{name}: at the end {key!r} holds its last values, not its best: was a reference kept in place of "
                    "a copy, or nothing written back into the model's own tensors?"
                )
            assert np.array_equal(got, wanted), f"{name}: at the end {key!r} does not hold the best epoch's values"


# --- filter factors: gradient descent itself, run on a quadratic with these eigenvalues ---------------------------


def draw_spectrum(seed, dtype, largest):
    """Eigenvalues in no order, one of them 0, and a learning rate; lr · eigenvalue reaches ``largest``."""
    random = np.random.default_rng([seed, 5])
    lr = float(2.0 ** random.choice([-4, -3, -2, -1, 1]))  # a power of two, so that products with it are exact
    inside = random.uniform(0.02, 1.0, size=3 + seed % 4)
    products = np.concatenate([inside, [0.0, 1e-4 if dtype == "float64" else 0.05, largest]])
    return (random.permutation(products) / lr).astype(dtype), lr


def draw_descents(seed, largest):
    """By name: eigenvalues in either dtype, a learning rate and a number of steps."""
    descents = {
        f"{dtype} {steps}": (*draw_spectrum(seed, dtype, largest), steps)
        for dtype in ("float64", "float32")
        for steps in (1, 2, 7, 20 + seed % 9)
    }
    lr = 0.3  # no power of two: in float32 it is another number
    descents["float64, lr = 0.3"] = np.array([0.9, 0.0, 1e-6, 0.2, 0.5]) * largest / lr, lr, 5
    return descents


def settled(arrays, name, what, eigenvalues):
    """What came out for one descent, its dtype right and the eigenvalues as they were given."""
    got, dtype = arrays[f"{what} {name}"], eigenvalues.dtype
    assert got.dtype == dtype, f"{dtype} in gave {got.dtype} out"
    assert np.array_equal(arrays[f"afterwards {name}"], eigenvalues), "the eigenvalues were changed"
    return got


def descend(eigenvalues, lr, steps, seed):
    """The share of the solution that gradient descent from zero has found, along each eigenvector."""
    random = np.random.default_rng([seed, 6])
    n = len(eigenvalues)
    vectors = np.linalg.qr(random.normal(size=(n, n)))[0]
    hessian = vectors * eigenvalues @ vectors.T
    solution = vectors @ np.ones(n)
    w = np.zeros(n)
    for _ in range(steps):
        w = w - lr * hessian @ (w - solution)
    return vectors.T @ w


def probe_gradient_descent_filter_factors(implementation, seed):
    out = {}
    for name, (eigenvalues, lr, steps) in draw_descents(seed, largest=1.75).items():
        leaf = torch.tensor(eigenvalues, requires_grad=True)
        factors = implementation(leaf, lr, steps)
        if factors.requires_grad:
            factors.sum().backward()
        out[f"factors {name}"] = factors.detach().numpy()
        out[f"gradient {name}"] = np.full(len(leaf), NAN) if leaf.grad is None else leaf.grad.numpy()
        out[f"afterwards {name}"] = leaf.detach().numpy()
    return out


def verify_gradient_descent_filter_factors(arrays, seed):
    for name, (eigenvalues, lr, steps) in draw_descents(seed, largest=1.75).items():
        got = settled(arrays, name, "factors", eigenvalues)
        dtype, exact = eigenvalues.dtype, eigenvalues.astype("float64")
        wanted = descend(exact, lr, steps, seed)
        one_at_a_time = got.shape == wanted.shape and np.all(np.isfinite(got))
        if one_at_a_time:
            close(got[exact == 0], [0.0], "the factor of a direction that the data do not see", dtype)
        close(got, wanted, f"what gradient descent has found after {steps} steps", dtype)
        slope, found = steps * lr * (1 - lr * exact) ** (steps - 1), arrays[f"gradient {name}"]
        assert not np.isnan(found).all(), "no gradient flows to the eigenvalues: stay inside torch, without .detach()"
        close(found, slope, "the gradient with respect to the eigenvalues", dtype)


# --- equivalent strength: ridge with it keeps what gradient descent has found -------------------------------------


def probe_equivalent_strength(implementation, seed):
    out = {}
    for name, (eigenvalues, lr, steps) in draw_descents(seed, largest=1.0).items():
        given = torch.tensor(eigenvalues)
        out[f"strength {name}"] = implementation(given, lr, steps).numpy()
        out[f"afterwards {name}"] = given.numpy()
    return out


def verify_equivalent_strength(arrays, seed):
    for name, (eigenvalues, lr, steps) in draw_descents(seed, largest=1.0).items():
        got = settled(arrays, name, "strength", eigenvalues)
        dtype, exact = eigenvalues.dtype, eigenvalues.astype("float64")
        assert got.shape == exact.shape, f"{len(exact)} eigenvalues in gave shape {got.shape} out"
        blind, seen, first = exact == 0, exact > 0, exact == exact.max()
        close(got[blind], [1 / (lr * steps)], "the limit for an eigenvalue of 0", dtype)
        limit = "the strength where lr · eigenvalue is 1 and one step finds everything"
        if lr * exact.max() == 1:
            close(got[first] / exact.max(), [0.0], limit, dtype)
        assert np.all(got >= -1e-5 * exact.max()), "a strength is negative"
        kept = exact[seen] / (exact[seen] + got[seen].astype("float64"))
        close(kept, descend(exact, lr, steps, seed)[seen], "what ridge with these strengths keeps", dtype)
        # A second look at the strengths themselves, for factors hide differences where they are close to 1.
        left = (1 - lr * exact[seen]) ** steps
        close(got[seen], exact[seen] * left / (1 - left), "the strength", dtype)
