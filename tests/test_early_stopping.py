"""early_stopping: wrong and right versions of each task, independent peers, closed forms, bad input."""

import copy
import io
import itertools
import math

import numpy as np
import pytest
import torch
from checks import early_stopping as checks
from sklearn.linear_model import Ridge
from sklearn.neural_network import MLPClassifier
from torch import nn

from course_lib import early_stopping as library
from course_lib.data import Split, digits, few_labels
from course_lib.training import accuracy, batches, fit

NAN = float("nan")

BEST = """
def best_epoch(errors, min_delta=0.0):
    best, lowest = -1, float("inf")
    for epoch, error in enumerate(errors):
        if error < lowest - min_delta:
            best = epoch
            lowest = error
    return best
"""
STOP = """
def should_stop(errors, patience, min_delta=0.0):
    best, lowest = -1, float("inf")
    for epoch, error in enumerate(errors):
        if error < lowest - min_delta:
            best, lowest = epoch, error
    return len(errors) - 1 - best >= patience
"""
LOOP = """
def best_checkpoint(train_epoch, validate, state, epochs, patience, min_delta=0.0):
    errors = []
    kept = {name: tensor.clone() for name, tensor in state.items()}
    while len(errors) < epochs and not should_stop(errors, patience, min_delta):
        train_epoch()
        errors.append(validate())
        if best_epoch(errors, min_delta) == len(errors) - 1:
            kept = {name: tensor.clone() for name, tensor in state.items()}
    for name, tensor in state.items():
        tensor.copy_(kept[name])
    return errors
"""


def edited(source, *changes):
    """A function with some of its lines changed."""
    for old, new in changes:
        assert old in source
        source = source.replace(old, new)
    scope = {"should_stop": library.should_stop, "best_epoch": library.best_epoch, "copy": copy, "torch": torch}
    exec(source, scope)
    return scope[source.split("def ")[1].split("(")[0]]


COPY = "{name: tensor.clone() for name, tensor in state.items()}"

# What students write by mistake: each must lose points.
MUTANTS = {
    "best_epoch": {
        "latest of a tie": edited(BEST, ("error < lowest", "error <= lowest")),
        "highest is best": edited(
            BEST, ("error < lowest - min_delta", "error > lowest + min_delta"), ('"inf"', '"-inf"')
        ),
        "counts from one": edited(BEST, ("best = epoch", "best = epoch + 1")),
        "min_delta added": edited(BEST, ("lowest - min_delta", "lowest + min_delta")),
        "min_delta forgotten": edited(BEST, (" - min_delta", "")),
        "min_delta relative": edited(BEST, ("lowest - min_delta", "lowest * (1 - min_delta)")),
        "yardstick moves with every new low": edited(
            BEST, ("            lowest = error", "        lowest = min(lowest, error)")
        ),
        "compares with the epoch before": edited(BEST, ("            lowest = error", "        lowest = error")),
        "a drop of min_delta counts": edited(
            BEST, ("error < lowest - min_delta", "lowest - error >= max(min_delta, 1e-9)")
        ),
        "starts at 1e10": edited(BEST, ('float("inf")', "1e10")),
        "a copy in float32": lambda errors, d=0.0: library.best_epoch(torch.tensor(errors).tolist(), d),
        "epoch 0 if none": edited(BEST, ("best, lowest = -1", "best, lowest = 0")),
        "starts with the first error": edited(
            BEST, ('best, lowest = -1, float("inf")', "best, lowest = (0, errors[0]) if errors else (-1, 0)")
        ),
        "argmin of numpy": lambda errors, d=0.0: int(np.argmin(errors)) if errors else -1,
        "min of a list": lambda errors, d=0.0: errors.index(min(errors)) if errors else -1,
        "NaN is best": edited(BEST, ("if error < lowest - min_delta", "if not error >= lowest - min_delta")),
        "sorts the errors": lambda errors, d=0.0: errors.sort() or library.best_epoch(errors, d),
    },
    "should_stop": {
        "one epoch late": edited(STOP, (">= patience", "> patience")),
        "exactly patience, not more": edited(STOP, (">= patience", "== patience")),
        "one epoch early": edited(STOP, ("len(errors) - 1", "len(errors)")),
        "counts every epoch that did not improve": lambda e, p, d=0.0: (
            len(e) - sum(library.best_epoch(e[:end], d) == end - 1 for end in range(1, len(e) + 1)) >= p
        ),
        "patience in a row of rises": lambda e, p, d=0.0: (
            len(e) > p and all(a < b for a, b in itertools.pairwise(e[-p - 1 :]))
        ),
        "compares with patience epochs ago": lambda e, p, d=0.0: len(e) > p and not e[-1] < e[-1 - p] - d,
        "a tie is an improvement": edited(STOP, ("error < lowest - min_delta", "error <= lowest - min_delta")),
        "min_delta forgotten": edited(STOP, (" - min_delta", "")),
        "min_delta added": edited(STOP, ("lowest - min_delta", "lowest + min_delta")),
        "NaN waits for ever": lambda e, p, d=0.0: library.should_stop([x for x in e if not math.isnan(x)], p, d),
        "NaN stops at once": lambda e, p, d=0.0: library.should_stop(e, p, d) or any(map(math.isnan, e)),
        "stops before the first epoch": lambda e, p, d=0.0: not e or library.should_stop(e, p, d),
        "stops at the first rise": lambda e, p, d=0.0: len(e) > 1 and e[-1] > e[-2],
        "lowest error of all, min_delta aside": lambda e, p, d=0.0: len(e) - 1 - library.best_epoch(e) >= p,
        "goes on for ever": lambda e, p, d=0.0: False,
        "waits for a finite error first": lambda e, p, d=0.0: (
            library.best_epoch(e, d) >= 0 and library.should_stop(e, p, d)
        ),
    },
    "best_checkpoint": {
        "keeps the dictionary itself": edited(LOOP, (COPY, "state")),
        "copies the dictionary, not the tensors": edited(LOOP, (COPY, "dict(state)")),
        "shallow copy": edited(LOOP, (COPY, "copy.copy(state)")),
        "detached, not copied": edited(LOOP, ("tensor.clone()", "tensor.detach()")),
        "nothing put back": edited(LOOP, ("        tensor.copy_(kept[name])", "        pass")),
        "entries exchanged, model left": edited(LOOP, ("tensor.copy_(kept[name])", "state[name] = kept[name]")),
        "dictionary updated, model left": edited(
            LOOP, ("        tensor.copy_(kept[name])", "        state.update(kept)")
        ),
        "new memory under the old tensor": edited(LOOP, ("tensor.copy_(kept[name])", "tensor.data = kept[name]")),
        "times zero, plus the best": edited(LOOP, ("tensor.copy_(kept[name])", "tensor.mul_(0).add_(kept[name])")),
        "keeps the last state": edited(LOOP, ("best_epoch(errors, min_delta) == len(errors) - 1", "True")),
        "floating-point tensors only": edited(
            LOOP,
            (
                "        tensor.copy_(kept[name])",
                "        tensor.copy_(kept[name]) if tensor.is_floating_point() else 0",
            ),
        ),
        "put back only when patience ran out": edited(
            LOOP,
            (
                "    for name, tensor in state.items():\n        t",
                "    for name, tensor in state.items() if len(errors) < epochs else ():\n        t",
            ),
        ),
        "validates before training": edited(
            LOOP,
            (
                "        train_epoch()\n        errors.append(validate())",
                "        errors.append(validate())\n        train_epoch()",
            ),
        ),
        "validates twice": edited(LOOP, ("        if best", "        validate()\n        if best")),
        "ignores patience": edited(LOOP, (" and not should_stop(errors, patience, min_delta)", "")),
        "ignores epochs": edited(LOOP, ("len(errors) < epochs and ", "len(errors) < 12 and ")),
        "ignores min_delta": edited(LOOP, (", min_delta)", ")")),
        "one epoch more": edited(LOOP, ("len(errors) < epochs", "len(errors) <= epochs")),
        "copies before the epoch": edited(
            LOOP,
            ("        train_epoch()", f"        before = {COPY}\n        train_epoch()"),
            (f"            kept = {COPY}", "            kept = before"),
        ),
        "keeps the tie": edited(
            LOOP, ("best_epoch(errors, min_delta) == len(errors) - 1", "errors[-1] <= min(errors)")
        ),
        "keeps what equals the minimum, though NaN came first": edited(
            LOOP, ("best_epoch(errors, min_delta) == len(errors) - 1", "errors[-1] == min(errors)")
        ),
        "returns the best errors only": edited(
            LOOP, ("return errors", "return errors[: best_epoch(errors, min_delta) + 1]")
        ),
        "first epoch's state if none was best": edited(
            LOOP,
            (
                "if best_epoch(errors, min_delta) == len(errors) - 1",
                "if best_epoch(errors, min_delta) in (len(errors) - 1, -1)",
            ),
        ),
    },
    "gradient_descent_filter_factors": {
        "what is left": lambda x, lr, t: (1 - lr * x) ** t,
        "gradient flow": lambda x, lr, t: 1 - torch.exp(-lr * x * t),
        "one step linear": lambda x, lr, t: lr * x * t,
        "lr forgotten": lambda x, lr, t: 1 - (1 - x) ** t,
        "one step less": lambda x, lr, t: 1 - (1 - lr * x) ** (t - 1),
        "one step more": lambda x, lr, t: 1 - (1 - lr * x) ** (t + 1),
        "power of the product": lambda x, lr, t: 1 - 1 - (lr * x) ** t,
        "plus in the bracket": lambda x, lr, t: 1 - (1 + lr * x) ** -t,
        "ridge": lambda x, lr, t: x / (x + 1 / (lr * t)),
        "absolute value": lambda x, lr, t: 1 - (1 - lr * x).abs() ** t,
        "clamped": lambda x, lr, t: 1 - (1 - lr * x).clamp(min=0) ** t,
        "logarithm of a negative number": lambda x, lr, t: -torch.expm1(t * torch.log1p(-lr * x)),
        "detached": lambda x, lr, t: 1 - (1 - lr * x.detach()) ** t + 0 * x,
        "no gradient": lambda x, lr, t: torch.from_numpy(1 - (1 - lr * x.detach().numpy()) ** t),
        "lr in float32": lambda x, lr, t: 1 - (1 - torch.tensor(lr) * x) ** t,
        "always float32": lambda x, lr, t: 1 - (1 - lr * x.float()) ** t,
        "times the eigenvalue": lambda x, lr, t: x * (1 - (1 - lr * x) ** t),
        "sorted": lambda x, lr, t: (1 - (1 - lr * x) ** t).sort().values,
    },
    "equivalent_strength": {
        "one over lr times steps, everywhere": lambda x, lr, t: torch.full_like(x, 1 / (lr * t)),
        "lr forgotten in the limit": lambda x, lr, t: torch.where(x > 0, exact_strength(x, lr, t), 1 / t),
        "lr times steps in the limit": lambda x, lr, t: torch.where(x > 0, exact_strength(x, lr, t), lr * t),
        "NaN at zero": lambda x, lr, t: x * (1 - lr * x) ** t / (1 - (1 - lr * x) ** t),
        "zero at zero": lambda x, lr, t: torch.where(x > 0, exact_strength(x, lr, t), 0.0),
        "the limit for all small eigenvalues": lambda x, lr, t: torch.where(
            x > 1e-4, exact_strength(x, lr, t), 1 / (lr * t)
        ),
        "infinity at zero": lambda x, lr, t: torch.where(x > 0, exact_strength(x, lr, t), torch.inf),
        "upside down": lambda x, lr, t: torch.where(x > 0, 1 / exact_strength(x, lr, t), 1 / (lr * t)),
        "without the eigenvalue": lambda x, lr, t: torch.where(x > 0, exact_strength(x, lr, t) / x, 1 / (lr * t)),
        "gradient flow": lambda x, lr, t: torch.where(x > 0, x / torch.expm1(lr * x * t), 1 / (lr * t)),
        "one step less": lambda x, lr, t: torch.where(x > 0, exact_strength(x, lr, t - 1), 1 / (lr * t)),
        "the share that is lost": lambda x, lr, t: torch.where(x > 0, (1 - lr * x) ** t, 1 / (lr * t)),
        "always float32": lambda x, lr, t: exact_strength(x.float(), lr, t).nan_to_num(1 / (lr * t)).to(x.dtype),
        "lr in float32": lambda x, lr, t: library.equivalent_strength(x, torch.tensor(lr).item(), t),
        "mean over the eigenvalues": lambda x, lr, t: library.equivalent_strength(x, lr, t).mean().expand(len(x)),
        "a small number in the denominator": lambda x, lr, t: exact_strength(x + 1e-3, lr, t),
    },
}


def exact_strength(x, lr, t):
    """NaN where x is 0."""
    left = (1 - lr * x) ** t
    return x * left / (1 - left)


def best_by_cumulative_minimum(errors, min_delta=0.0):
    if not min_delta:
        finite = [(error, epoch) for epoch, error in enumerate(errors) if math.isfinite(error)]
        return min(finite)[1] if finite else -1
    return best_by_recursion(errors, min_delta)


def best_by_recursion(errors, min_delta=0.0):
    if not errors:
        return -1
    before = best_by_recursion(errors[:-1], min_delta)
    to_beat = math.inf if before < 0 else errors[before]
    return len(errors) - 1 if errors[-1] < to_beat - min_delta else before


def best_by_numpy(errors, min_delta=0.0):
    errors, best, lowest = np.array(errors, dtype=float), -1, np.inf
    while (better := np.flatnonzero(errors[best + 1 :] < lowest - min_delta)).size:
        best += 1 + better[0]
        lowest = errors[best]
    return int(best)


def stop_by_counting(errors, patience, min_delta=0.0):
    waited, lowest = 0, math.inf
    for error in errors:
        waited += 1
        if lowest - error > min_delta and not math.isinf(error):
            waited, lowest = 0, error
    return waited >= patience


def stop_by_plateau(errors, patience, min_delta=0.0):
    """torch's scheduler as an oracle: it lowers the learning rate when it would stop."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.5, patience=patience - 1, threshold=min_delta, threshold_mode="abs", eps=0.0
    )
    lowered = False
    for error in errors:
        before = optimizer.param_groups[0]["lr"]
        scheduler.step(error)
        lowered = optimizer.param_groups[0]["lr"] < before
        scheduler.num_bad_epochs = patience - 1 if lowered else scheduler.num_bad_epochs  # it starts anew; we wait on
    return lowered


def loop_with_all_states(train_epoch, validate, state, epochs, patience, min_delta=0.0):
    states, errors = [copy.deepcopy(state)], []
    for _ in range(epochs):
        train_epoch()
        states.append(copy.deepcopy(state))
        errors.append(validate())
        if stop_by_counting(errors, patience, min_delta):
            break
    for name in state:
        state[name][...] = states[best_by_recursion(errors, min_delta) + 1][name]
    return errors


def loop_with_counter(train_epoch, validate, state, epochs, patience, min_delta=0.0):
    best = {name: tensor.numpy().copy() for name, tensor in state.items()}
    lowest, waited, errors = math.inf, 0, []
    while waited < patience and len(errors) < epochs:
        train_epoch()
        error = validate()
        errors.append(error)
        waited += 1
        if error < lowest - min_delta:
            lowest, waited = error, 0
            best = {name: tensor.numpy().copy() for name, tensor in state.items()}
    for name, tensor in state.items():
        tensor[...] = torch.from_numpy(best[name])
    return errors


def loop_with_files(train_epoch, validate, state, epochs, patience, min_delta=0.0):
    def saved():
        file = io.BytesIO()
        torch.save(dict(state), file)
        return file

    best, errors = saved(), []
    for _ in range(epochs):
        train_epoch()
        errors.append(validate())
        if best_by_recursion(errors, min_delta) == len(errors) - 1:
            best = saved()
        if stop_by_counting(errors, patience, min_delta):
            break
    best.seek(0)
    for name, tensor in torch.load(best).items():
        state[name].copy_(tensor)
    return errors


def factors_by_logarithm(eigenvalues, lr, steps):
    left = 1 - lr * eigenvalues
    return 1 - left.sign() ** steps * (steps * left.abs().log()).exp()


def factors_by_descent(eigenvalues, lr, steps):
    w = torch.zeros_like(eigenvalues)
    for _ in range(steps):
        w = w - lr * eigenvalues * (w - 1)
    return w


def factors_by_series(eigenvalues, lr, steps):
    left = 1 - lr * eigenvalues
    return lr * eigenvalues * sum(left**k for k in range(steps))


def strength_by_factors(eigenvalues, lr, steps):
    seen = eigenvalues > 0
    strengths = torch.full_like(eigenvalues, 1 / (lr * steps))
    strengths[seen] = eigenvalues[seen] * (1 / factors_by_series(eigenvalues[seen], lr, steps) - 1)
    return strengths


def strength_by_series(eigenvalues, lr, steps):
    """No case for zero: the geometric series divides the eigenvalue out."""
    left = 1 - lr * eigenvalues
    return left**steps / (lr * sum(left**k for k in range(steps)))


# Right by another way: each must keep every point.
ALTERNATIVES = {
    "best_epoch": {
        "recursion": best_by_recursion,
        "sorted pairs": best_by_cumulative_minimum,
        "differences": edited(BEST, ("error < lowest - min_delta", "lowest - error > min_delta")),
        "jumps with numpy": best_by_numpy,
        "last improvement of a list": lambda errors, d=0.0: ([-1, *checks.improvements(errors, d)])[-1],
    },
    "should_stop": {
        "a counter": stop_by_counting,
        "torch's ReduceLROnPlateau": stop_by_plateau,
        "the best is the same without the latest": lambda e, p, d=0.0: (
            len(e) >= p and library.best_epoch(e[: len(e) - p], d) == library.best_epoch(e, d)
        ),
        "no improvement among the latest": lambda e, p, d=0.0: (
            len(e) >= p
            and not any(best_by_recursion(e[:end], d) == end - 1 for end in range(len(e) - p + 1, len(e) + 1))
        ),
    },
    "best_checkpoint": {
        "keeps all states": loop_with_all_states,
        "a counter and numpy": loop_with_counter,
        "saved and loaded": loop_with_files,
    },
    "gradient_descent_filter_factors": {
        "gradient descent itself": factors_by_descent,
        "geometric series": factors_by_series,
        "logarithms, by sign": factors_by_logarithm,
        "repeated product": lambda x, lr, t: 1 - math.prod([1 - lr * x] * t),
    },
    "equivalent_strength": {
        "from the factors": strength_by_factors,
        "geometric series": strength_by_series,
        "logarithms": lambda x, lr, t: torch.where(
            x > 0, x / torch.expm1(-t * torch.log1p(-lr * x)), torch.tensor(1 / (lr * t), dtype=x.dtype)
        ),
    },
}


# --- independent peers and closed forms -------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_patience_is_that_of_torchs_scheduler(seed):
    random = np.random.default_rng(seed)
    errors = (np.abs(np.arange(40) - 15) + random.integers(0, 20, 40)) / 16
    errors[random.random(40) < 0.1] = np.nan
    for patience, min_delta in itertools.product((1, 2, 4, 8), (0.0, 2 / 16)):
        for end in range(len(errors) + 1):
            ours = library.should_stop(errors[:end].tolist(), patience, min_delta)
            assert ours == stop_by_plateau(errors[:end].tolist(), patience, min_delta)


@pytest.mark.parametrize("seed", range(3))
def test_patience_is_that_of_scikit_learns_perceptron_which_waits_one_epoch_more(seed):
    data = few_labels(digits().train, 30, seed=seed)
    peer = MLPClassifier(
        (32,),
        early_stopping=True,
        validation_fraction=0.3,
        n_iter_no_change=4,
        tol=1e-9,
        max_iter=500,
        random_state=seed,
    )
    peer.fit(data.x.flatten(1).numpy(), data.y.numpy())
    errors = [-score for score in peer.validation_scores_]
    stops = [end for end in range(len(errors) + 1) if library.should_stop(errors[:end], patience=4 + 1, min_delta=1e-9)]
    assert peer.n_iter_ < 500 and stops == [peer.n_iter_]


def least_squares(seed=0, n=40, d=6):
    random = np.random.default_rng(seed)
    x = torch.tensor(random.normal(size=(n, d)) * [1, 1, 2, 0.5, 1, 0.1])
    return x, x @ torch.tensor([1.5, 0, -0.5, 0.3, 2, 1]).double() + 0.3 * torch.tensor(random.normal(size=n))


@pytest.mark.parametrize("steps", [1, 5, 100])
@pytest.mark.parametrize("rate", [0.9, 1.7])
def test_torch_sgd_finds_the_share_that_the_factors_say(steps, rate):
    x, y = least_squares()
    eigenvalues, vectors = torch.linalg.eigh(x.T @ x / len(y))
    lr = rate / eigenvalues.max().item()
    w = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        (((x @ w - y) ** 2).mean() / 2).backward()
        optimizer.step()
    factors = library.gradient_descent_filter_factors(eigenvalues, lr, steps)
    solution = torch.linalg.lstsq(x, y[:, None]).solution[:, 0]
    torch.testing.assert_close(vectors.T @ w.detach(), factors * (vectors.T @ solution), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("steps", [1, 3, 30])
def test_where_all_eigenvalues_agree_early_stopping_is_scikit_learns_ridge(steps):
    x, y = least_squares()
    x = 1.5 * torch.linalg.qr(x).Q * len(y) ** 0.5  # every direction has the eigenvalue 2.25
    eigenvalues = torch.linalg.eigvalsh(x.T @ x / len(y))
    w, lr = torch.zeros(6, dtype=torch.float64), 0.1
    for _ in range(steps):
        w = w - lr * x.T @ (x @ w - y) / len(y)
    strengths = library.equivalent_strength(eigenvalues, lr, steps)
    assert strengths.std() < 1e-12
    peer = Ridge(alpha=len(y) * strengths[0].item(), fit_intercept=False, solver="cholesky").fit(x, y)
    np.testing.assert_allclose(w, peer.coef_, rtol=1e-10)


def test_the_strength_falls_from_one_over_lr_times_steps_to_zero():
    eigenvalues = torch.linspace(0, 1, 200, dtype=torch.float64)
    for steps in (1, 2, 10, 1000):
        strengths = library.equivalent_strength(eigenvalues, 1.0, steps)
        assert strengths[0] == 1 / steps and strengths[-1] == 0
        assert (strengths.diff() <= 0).all()


def test_tiny_eigenvalues_lose_no_digits():
    tiny = torch.tensor([1e-12, 1e-9], dtype=torch.float64)
    torch.testing.assert_close(
        library.equivalent_strength(tiny, 1.0, 10), torch.full_like(tiny, 0.1), rtol=1e-8, atol=0
    )
    tiny = torch.tensor([1e-20, 1e-9, 0.0])  # where 1 − λ rounds to 1 in float32
    torch.testing.assert_close(library.equivalent_strength(tiny, 1.0, 10), torch.full_like(tiny, 0.1))


def test_factors_of_descent_lie_between_ridge_and_a_third_more():
    eigenvalues = torch.logspace(-6, 0, 500, dtype=torch.float64)
    for steps in (100, 10_000):
        ridge = eigenvalues / (eigenvalues + 1 / steps)
        ratio = library.gradient_descent_filter_factors(eigenvalues, 1.0, steps) / ridge
        assert 1 <= ratio.min() and ratio.max() < 1.3 + 1 / steps


@pytest.mark.parametrize("steps", [1, 4])
def test_factors_and_strengths_pass_gradcheck(steps):
    leaf = torch.tensor([0.1, 0.4, 0.9], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: library.gradient_descent_filter_factors(x, 0.7, steps), leaf)
    assert torch.autograd.gradcheck(lambda x: library.equivalent_strength(x, 0.7, steps), leaf)


# --- the loop and the callback ------------------------------------------------------------------------------------


def training(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))
    train = few_labels(digits().train, 3, seed=seed)
    held_out = Split(digits().test.x[:200], digits().test.y[:200])
    return model, batches(train, 10, seed=seed), torch.optim.Adam(model.parameters(), lr=0.02), held_out


def test_loop_and_callback_agree_on_a_network_with_buffers():
    model, loader, optimizer, held_out = training()

    def train_epoch():
        model.train()
        for x, y in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        model.eval()

    validate = lambda: library.mean_loss(model, held_out)  # noqa: E731
    errors = library.best_checkpoint(train_epoch, validate, model.state_dict(), 60, 5)
    assert 5 < len(errors) < 60 and validate() == min(errors) < errors[-1]

    other, loader, optimizer, held_out = training()
    stopping = library.EarlyStopping(held_out, 5, 60)
    history = fit(other, loader, optimizer, epochs=60, callbacks=[stopping])
    assert stopping.errors == errors and len(history) == len(errors)
    for one, two in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(one, two)


def test_callback_restores_at_the_last_epoch_and_serves_a_second_run():
    model, loader, optimizer, held_out = training()
    stopping = library.EarlyStopping(held_out, patience=100, epochs=20)
    for _ in range(2):
        fit(model, loader, optimizer, epochs=20, callbacks=[stopping])
        assert len(stopping.errors) == 20 and stopping.best == int(np.argmin(stopping.errors))
        assert library.mean_loss(model, held_out) == min(stopping.errors)


def test_callback_takes_another_error():
    model, loader, optimizer, held_out = training()
    stopping = library.EarlyStopping(held_out, 3, 30, error=lambda model, split: 1 - accuracy(model, split))
    fit(model, loader, optimizer, epochs=30, callbacks=[stopping])
    assert 1 - accuracy(model, held_out) == min(stopping.errors)


def test_parameters_that_ask_for_gradients_are_restored_too():
    weight, errors = nn.Parameter(torch.zeros(2)), iter([1.0, 2.0])

    def train_epoch():
        with torch.no_grad():
            weight.add_(1)

    library.best_checkpoint(train_epoch, lambda: next(errors), {"weight": weight}, 2, 5)
    assert weight.tolist() == [1.0, 1.0] and weight.requires_grad


def test_prechelts_criteria():
    assert library.generalization_loss([2.0, 1.0, 1.5]) == 50.0
    assert library.generalization_loss([2.0, 1.0]) == 0.0
    assert library.training_progress([1.0, 1.0]) == 0.0
    assert library.training_progress([4.0, 2.0, 3.0]) == 500.0
    assert library.rises([]) == library.rises([1.0]) == library.rises([1.0, 1.0]) == library.rises([1.0, 2.0, 2.0]) == 0
    assert library.rises([3.0, 1.0, 2.0, 3.0, 4.0]) == 3


# --- every device that is here -----------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["gradient_descent_filter_factors", "equivalent_strength"])
def test_on_cuda(task, on_cuda):
    probe, verify = getattr(checks, f"probe_{task}"), getattr(checks, f"verify_{task}")
    verify(probe(on_cuda(getattr(library, task)), 0), 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_loop_restores_on_cuda():
    weight, errors = torch.zeros(2, device="cuda"), iter([1.0, 2.0])
    library.best_checkpoint(lambda: weight.add_(1), lambda: next(errors), {"weight": weight}, 2, 5)
    assert weight.tolist() == [1.0, 1.0]


# --- bad input ---------------------------------------------------------------------------------------------------

X = torch.tensor([1.0, 0.5])
STATE = {"w": torch.ones(2)}


def loop(state=STATE, epochs=3, patience=2, min_delta=0.0, error=0.5):
    return library.best_checkpoint(lambda: None, lambda: error, state, epochs, patience, min_delta)


BAD = {
    "a single number": (lambda: library.best_epoch(0.5), "errors must be a sequence.*got float"),
    "a generator": (lambda: library.best_epoch(e for e in [0.5]), "errors must be a sequence.*got generator"),
    "a text": (lambda: library.should_stop("0.5", 1), "errors must be a sequence.*got str"),
    "None in the errors": (lambda: library.best_epoch([0.5, None]), "got NoneType in entry 1"),
    "tensors": (lambda: library.should_stop([torch.tensor(0.5)], 1), r"got Tensor in entry 0. Call .item\(\)"),
    "negative min_delta": (lambda: library.best_epoch([0.5], -0.1), "min_delta must be non-negative"),
    "NaN min_delta": (lambda: library.should_stop([0.5], 1, NAN), "min_delta must be non-negative.*got nan"),
    "patience zero": (lambda: library.should_stop([0.5], 0), "patience must be a positive integer.*got 0"),
    "half an epoch of patience": (lambda: library.should_stop([0.5], 2.5), "patience must be a positive integer"),
    "a list for a state": (lambda: loop(state=[X]), "state must be a dictionary.*got list"),
    "an empty state": (lambda: loop(state={}), "state must not be empty"),
    "numbers in the state": (lambda: loop(state={"w": 1.0}), r"state\['w'\] must be a tensor.*got float"),
    "no epochs": (lambda: loop(epochs=0), "epochs must be a positive integer"),
    "no patience": (lambda: loop(patience=0), "patience must be a positive integer"),
    "loop with negative min_delta": (lambda: loop(min_delta=-1.0), "min_delta must be non-negative"),
    "validate returns a tensor": (lambda: loop(error=torch.tensor(0.5)), "got Tensor in entry 0"),
    "validate returns nothing": (lambda: loop(error=None), "got NoneType in entry 0"),
    "integer eigenvalues": (lambda: library.gradient_descent_filter_factors(X.long(), 0.1, 1), "floating point"),
    "a list of eigenvalues": (lambda: library.equivalent_strength([1.0], 0.1, 1), "eigenvalues must be a tensor"),
    "NaN eigenvalue": (lambda: library.gradient_descent_filter_factors(X * NAN, 0.1, 1), "eigenvalues must be finite"),
    "negative eigenvalue": (lambda: library.equivalent_strength(-X, 0.1, 1), "eigenvalues must lie in.*from -1 to"),
    "lr zero": (lambda: library.gradient_descent_filter_factors(X, 0.0, 1), "lr must be positive"),
    "negative lr": (lambda: library.equivalent_strength(X, -0.1, 1), "lr must be"),
    "lr that diverges": (
        lambda: library.gradient_descent_filter_factors(X, 2.1, 1),
        r"<= 2, got 2.1 \* 1 = 2.1. Take lr <= 2",
    ),
    "lr that overshoots": (lambda: library.equivalent_strength(X, 1.1, 1), r"lr \* eigenvalue <= 1, got 1.1"),
    "no steps": (lambda: library.gradient_descent_filter_factors(X, 0.1, 0), "steps must be a positive integer"),
    "half a step": (lambda: library.equivalent_strength(X, 0.1, 1.5), "steps must be a positive integer"),
    "an empty split": (
        lambda: library.mean_loss(nn.Linear(1, 1), Split(X[:0], X[:0].long())),
        "split must not be empty",
    ),
    "callback without patience": (lambda: library.EarlyStopping(None, 0, 10), "patience must be"),
    "callback without epochs": (lambda: library.EarlyStopping(None, 3, 0), "epochs must be"),
    "no errors for GL": (lambda: library.generalization_loss([]), "errors must not be empty"),
    "no errors for P": (lambda: library.training_progress([]), "errors must not be empty"),
    "a number for UP": (lambda: library.rises(0.5), "errors must be a sequence"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_explained(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call()


def test_small_inputs():
    assert library.best_epoch([]) == -1 and not library.should_stop([], 1)
    assert library.best_epoch((0.5,)) == 0 and library.best_epoch(np.array([0.5, 0.25], dtype="float32")) == 1
    none = torch.ones(0)
    assert library.gradient_descent_filter_factors(none, 0.1, 1).shape == (0,)
    assert library.equivalent_strength(none, 0.1, 1).shape == (0,)
    assert library.equivalent_strength(torch.tensor([3.0]), 1 / 3.0, 5).isfinite().all()
