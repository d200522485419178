"""generalization: wrong and right versions of each task, independent peers, closed forms, bad input."""

import random

import numpy as np
import pytest
import torch
from sklearn import model_selection
from sklearn.linear_model import LinearRegression, Ridge

from course_lib import generalization as library

# Right versions, for mistakes that change one line of them.
SOURCES = {
    "k_fold": """
def k_fold(n, k, seed):
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    folds = list(torch.tensor_split(order, k))
    pairs = []
    for i in range(k):
        rest = [fold for j, fold in enumerate(folds) if j != i]
        pairs.append((torch.cat(rest), folds[i]))
    return pairs
""",
    "learning_curve": """
def learning_curve(fit, error, train, test, sizes, seeds):
    (x, y), (test_x, test_y) = train, test
    on_train = torch.zeros(len(seeds), len(sizes), dtype=torch.float64)
    on_test = torch.zeros(len(seeds), len(sizes), dtype=torch.float64)
    for i, seed in enumerate(seeds):
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(x), generator=generator)
        for j, size in enumerate(sizes):
            some = order[:size]
            model = fit(x[some], y[some])
            on_train[i, j] = error(model, x[some], y[some])
            on_test[i, j] = error(model, test_x, test_y)
    return on_train, on_test
""",
    "min_norm_fit": """
def min_norm_fit(phi, y, strength=0.0):
    n, p = phi.shape
    u, s, vh = torch.linalg.svd(phi, full_matrices=False)
    seen = s > 1e-5 * s[0]
    d = torch.where(seen, s / (s**2 + n * strength), torch.zeros_like(s))
    return vh.T @ torch.diag(d) @ u.T @ y
""",
}


def edited(task, old="", new=""):
    assert old in SOURCES[task]
    scope = {"torch": torch, "np": np, "dice": random}
    exec(SOURCES[task].replace(old, new) if old else SOURCES[task], scope)
    return scope[task]


def split(predictions, target, center=None, ddof=0, over=0):
    """The decomposition, with places to go wrong."""
    mean = predictions.mean(dim=over) if center is None else center
    variance = ((predictions - mean) ** 2).sum(dim=over) / (len(predictions) - ddof)
    return (mean - target) ** 2, variance, ((predictions - target) ** 2).mean(dim=over)


def averaged(parts):
    return tuple(part.mean() for part in parts)


def small_squares(phi, y, strength):
    """Least squares by the normal equations, a fraction of the diagonal added."""
    n, p = phi.shape
    return torch.linalg.solve(phi.T @ phi + (n * strength + 1e-4) * torch.eye(p, dtype=phi.dtype), phi.T @ y)


def basic_solution(phi, y, strength=0.0):
    """Right where n > p, but beyond it only the first n columns get weights."""
    n, p = phi.shape
    w = torch.zeros(p, y.shape[1], dtype=phi.dtype)
    w[:n] = ridge_or_pinv(phi[:, :n], y, strength)
    return w


def ridge_or_pinv(phi, y, strength=0.0):
    """Two formulas: the pseudo-inverse, or the normal equations."""
    n, p = phi.shape
    if strength == 0:
        return torch.linalg.pinv(phi, rtol=1e-5) @ y
    return torch.linalg.solve(phi.T @ phi + n * strength * torch.eye(p, dtype=phi.dtype, device=phi.device), phi.T @ y)


# What students write by mistake: each must lose points.
MUTANTS = {
    "bias_variance": {
        "divides by R − 1": lambda p, t: split(p, t, ddof=1),
        "bias not squared": lambda p, t: (p.mean(0) - t, *split(p, t)[1:]),
        "absolute bias": lambda p, t: ((p.mean(0) - t).abs(), *split(p, t)[1:]),
        "mean of squares for squared mean": lambda p, t: (((p - t) ** 2).mean(0), *split(p, t)[1:]),
        "spread about the target": lambda p, t: (split(p, t)[0], ((p - t) ** 2).mean(0), split(p, t)[2]),
        "standard deviation": lambda p, t: (split(p, t)[0], split(p, t)[1].sqrt(), split(p, t)[2]),
        "averaged over examples": lambda p, t: averaged(split(p, t)),
        "one mean for all entries": lambda p, t: split(p, t, center=p.mean()),
        "median model": lambda p, t: split(p, t, center=p.median(0).values),
        "first model for the mean": lambda p, t: split(p, t, center=p[0]),
        "sums for means": lambda p, t: (split(p, t)[0], *(len(p) * part for part in split(p, t)[1:])),
        "bias and variance swapped": lambda p, t: (split(p, t)[1], split(p, t)[0], split(p, t)[2]),
        "error of the mean model": lambda p, t: (*split(p, t)[:2], (p.mean(0) - t) ** 2),
        "always float32": lambda p, t: tuple(part.float() for part in split(p, t)),
        "in place": lambda p, t: split(p.sub_(t), 0 * t),
        "mean detached": lambda p, t: split(p, t, center=p.mean(0).detach()),
        "without gradients": lambda p, t: split(p.detach(), t),
    },
    "k_fold": {
        "not shuffled": edited(
            "k_fold", "torch.randperm(n, generator=torch.Generator().manual_seed(seed))", "torch.arange(n)"
        ),
        "seed ignored": edited("k_fold", "manual_seed(seed)", "manual_seed(0)"),
        "global generator": edited("k_fold", "generator=torch.Generator().manual_seed(seed)", ""),
        "global seed set": edited("k_fold", "generator=torch.Generator()", "generator=torch"),
        "remainder dropped": edited("k_fold", "torch.tensor_split(order, k)", "order[: n // k * k].split(n // k)"),
        "last fold takes the remainder": edited(
            "k_fold", "torch.tensor_split(order, k)", "order.split([n // k] * (k - 1) + [n - n // k * (k - 1)])"
        ),
        "chunks of ceil(n / k)": edited("k_fold", "torch.tensor_split(order, k)", "order.chunk(k)"),
        "folds of size k": edited("k_fold", "torch.tensor_split(order, k)", "order.split(k)"),
        "train and held out swapped": edited("k_fold", "(torch.cat(rest), folds[i])", "(folds[i], torch.cat(rest))"),
        "trains on everything": edited("k_fold", " if j != i]", "]"),
        "trains on the folds before": edited("k_fold", "if j != i", "if j < i or i == 0 and j > 0"),
        "draws with replacement": edited("k_fold", "torch.randperm(n, gen", "torch.randint(n, (n,), gen"),
        "a new shuffle for every fold": edited(
            "k_fold",
            "    for i in range(k):\n",
            "    for i in range(k):\n        folds = list(torch.tensor_split(torch.randperm(n, "
            "generator=torch.Generator().manual_seed(seed + i)), k))\n",
        ),
        "only the folds are shuffled": edited(
            "k_fold",
            "list(torch.tensor_split(order, k))",
            "[torch.tensor_split(torch.arange(n), k)[j] for j in torch.randperm(k, "
            "generator=torch.Generator().manual_seed(seed))]",
        ),
        "one split only": edited("k_fold", "    return pairs", "    return pairs[:1]"),
        "masks for indices": edited(
            "k_fold", "(torch.cat(rest), folds[i])", "(~torch.isin(torch.arange(n), folds[i]), folds[i])"
        ),
        "numpy's global generator": edited(
            "k_fold",
            "torch.randperm(n, generator=torch.Generator().manual_seed(seed))",
            "(np.random.seed(seed), torch.as_tensor(np.random.permutation(n)))[1]",
        ),
        "Python's global generator": edited(
            "k_fold",
            "torch.randperm(n, generator=torch.Generator().manual_seed(seed))",
            "(dice.seed(seed), torch.tensor(dice.sample(range(n), n)))[1]",
        ),
        "turned by the seed": edited(
            "k_fold", "torch.randperm(n, generator=torch.Generator().manual_seed(seed))", "torch.arange(n).roll(seed)"
        ),
        "counts from one": edited("k_fold", "torch.randperm(n, g", "1 + torch.randperm(n, g"),
    },
    "learning_curve": {
        "train error on the whole pool": edited(
            "learning_curve", "error(model, x[some], y[some])", "error(model, x, y)"
        ),
        "test error on what was left": edited(
            "learning_curve",
            "error(model, test_x, test_y)",
            "error(model, *((x[order[size:]], y[order[size:]]) if size < len(x) else test))",
        ),
        "a new subset for every size": edited(
            "learning_curve",
            "            some = order[:size]",
            "            some = torch.randperm(len(x), generator=generator)[:size]",
        ),
        "not shuffled": edited("learning_curve", "torch.randperm(len(x), generator=generator)", "torch.arange(len(x))"),
        "one shuffle for all seeds": edited("learning_curve", "manual_seed(seed)", "manual_seed(0)"),
        "global generator": edited("learning_curve", ", generator=generator", ""),
        "global seed set": edited("learning_curve", "torch.Generator().manual_seed", "torch.manual_seed"),
        "draws with replacement": edited(
            "learning_curve", "torch.randperm(len(x), gen", "torch.randint(len(x), (len(x),), gen"
        ),
        "fits the whole pool": edited("learning_curve", "fit(x[some], y[some])", "fit(x, y)"),
        "leaks the test examples": edited(
            "learning_curve", "fit(x[some], y[some])", "fit(torch.cat([x[some], test_x]), torch.cat([y[some], test_y]))"
        ),
        "train and test swapped": edited("learning_curve", "return on_train, on_test", "return on_test, on_train"),
        "inputs shuffled, labels not": edited("learning_curve", "fit(x[some], y[some])", "fit(x[some], y[:size])"),
        "averaged over seeds": edited(
            "learning_curve", "return on_train, on_test", "return on_train.mean(0), on_test.mean(0)"
        ),
        "one example short": edited("learning_curve", "order[:size]", "order[: max(size - 1, 1)]"),
        "the others held out": edited("learning_curve", "order[:size]", "order[-size:] if size % 2 else order[:size]"),
        "sizes sorted": edited("learning_curve", "enumerate(sizes)", "enumerate(sorted(sizes))"),
        "one model for all sizes": edited(
            "learning_curve", "model = fit(x[some], y[some])", "model = fit(x[some], y[some]) if j == 0 else model"
        ),
        "rows and columns swapped": edited(
            "learning_curve", "return on_train, on_test", "return on_train.T, on_test.T"
        ),
        "in float32": edited("learning_curve", "dtype=torch.float64", "dtype=torch.float32"),
        "the seed's place for the seed": edited("learning_curve", "manual_seed(seed)", "manual_seed(i)"),
        "one generator for all rows": edited(
            "learning_curve",
            "generator = torch.Generator().manual_seed(seed)",
            "generator = torch.Generator().manual_seed(seed) if i == 0 else generator",
        ),
        "shuffles the shuffled": edited(
            "learning_curve",
            "order = torch.randperm(len(x), generator=generator)",
            "order = torch.randperm(len(x), generator=generator)\n"
            "        x, y, order = x[order], y[order], torch.arange(len(x))",
        ),
        "turned by the seed": edited(
            "learning_curve", "torch.randperm(len(x), generator=generator)", "torch.arange(len(x)).roll(seed)"
        ),
        "fits twice": edited("learning_curve", "error(model, test_x", "error(fit(x[some], y[some]), test_x"),
    },
    "min_norm_fit": {
        "n forgotten": edited("min_norm_fit", "n * strength", "strength"),
        "divided by n": edited("min_norm_fit", "n * strength", "strength / n"),
        "p for n": edited("min_norm_fit", "n * strength", "p * strength"),
        "twice the strength": edited("min_norm_fit", "n * strength", "2 * n * strength"),
        "strength ignored": edited("min_norm_fit", "n * strength", "0.0"),
        "strength squared": edited("min_norm_fit", "n * strength", "n * strength**2"),
        "added to the singular values": edited("min_norm_fit", "s / (s**2 + n * strength)", "1 / (s + n * strength)"),
        "zero directions kept": edited("min_norm_fit", "s > 1e-5 * s[0]", "s > 0 * s[0] - 1"),
        "small directions dropped": edited("min_norm_fit", "1e-5 * s[0]", "0.5 * s[0]"),
        "small strengths taken for 0": lambda phi, y, strength=0.0: ridge_or_pinv(
            phi, y, strength if strength > 1e-3 else 0
        ),
        "weak directions dropped": edited("min_norm_fit", "1e-5 * s[0]", "1e-3 * s[0]"),
        "a small constant for zero": edited("min_norm_fit", "1e-5 * s[0]", "1e-6"),
        "outputs detached": lambda phi, y, strength=0.0: ridge_or_pinv(phi, y.detach(), strength),
        "a constant for zero": edited("min_norm_fit", "s > 1e-5 * s[0]", "s > 2.0"),
        "ε of float64": edited("min_norm_fit", "1e-5 * s[0]", "max(n, p) * 2.2e-16 * s[0]"),
        "computed in float64, with its ε": lambda phi, y, strength=0.0: library.min_norm_fit(
            phi.double(), y.double(), strength
        ).to(phi.dtype),
        "always some ridge": lambda phi, y, strength=0.0: small_squares(phi, y, strength),
        "first columns only": basic_solution,
        "random null part": lambda phi, y, strength=0.0: (
            ridge_or_pinv(phi, y, strength)
            + (torch.eye(phi.shape[1], dtype=phi.dtype) - torch.linalg.pinv(phi, rtol=1e-5) @ phi).sum(1, keepdim=True)
        ),
        "centred": lambda phi, y, strength=0.0: ridge_or_pinv(phi - phi.mean(0), y - y.mean(0), strength),
        "one output only": lambda phi, y, strength=0.0: (
            ridge_or_pinv(phi, y, strength)[:, :1].expand(-1, y.shape[1]) + y.sum() * 0.1
        ),
        "predictions for weights": lambda phi, y, strength=0.0: phi @ ridge_or_pinv(phi, y, strength),
        "transposed": lambda phi, y, strength=0.0: ridge_or_pinv(phi, y, strength).T[:, None],
        "always float32": lambda phi, y, strength=0.0: ridge_or_pinv(phi.float(), y.float(), strength),
    },
}


def deal_with_numpy(n, k, seed):
    order = np.random.default_rng(seed).permutation(n)
    owner = np.empty(n, dtype=int)
    owner[order] = np.arange(n) % k
    return [
        (torch.from_numpy(np.flatnonzero(owner != i)), torch.from_numpy(np.flatnonzero(owner == i))) for i in range(k)
    ]


def deal_with_scikit_learn(n, k, seed):
    peer = model_selection.KFold(k, shuffle=True, random_state=seed)
    return [tuple(map(torch.from_numpy, pair)) for pair in peer.split(np.zeros(n))]


def curve_by_ranks(fit, error, train, test, sizes, seeds):
    """Each example gets a rank; the subset of a size are the ranks below it, in the order of the pool."""
    entries = []
    for seed in seeds:
        rank = torch.from_numpy(np.random.RandomState(seed).permutation(len(train[0])))
        for size in sizes:
            part = train[0][rank < size], train[1][rank < size]
            model = fit(*part)
            entries.append([float(error(model, *where)) for where in (part, test)])
    table = torch.tensor(entries, dtype=torch.float64).reshape(len(seeds), len(sizes), 2)
    return table[..., 0], table[..., 1]


def curve_one_size_at_a_time(fit, error, train, test, sizes, seeds):
    """Columns first; a sort of random numbers for a shuffle."""
    columns = []
    for size in sizes:
        pairs = []
        for seed in seeds:
            order = torch.rand(len(train[0]), generator=torch.Generator().manual_seed(seed)).argsort()
            part = [values.index_select(0, order[:size]) for values in train]
            model = fit(*part)
            pairs.append((float(error(model, *part)), float(error(model, *test))))
        columns.append(pairs)
    table = torch.tensor(columns, dtype=torch.float64)  # (size, seed, 2)
    return table[..., 0].T, table[..., 1].T


def fit_by_stacking(phi, y, strength=0.0):
    """Ridge is least squares with p more examples; LAPACK's gelsd returns the one of least norm."""
    n, p = phi.shape
    more = (n * strength) ** 0.5 * torch.eye(p, dtype=phi.dtype)
    both = torch.cat([phi, more]), torch.cat([y, torch.zeros(p, y.shape[1], dtype=y.dtype)])
    return torch.linalg.lstsq(*both, rcond=1e-5, driver="gelsd").solution


def fit_in_the_dual(phi, y, strength=0.0):
    """Weights are combinations of examples: w = Φᵀ (ΦΦᵀ + nα)⁺ y."""
    kernel = phi @ phi.T + len(phi) * strength * torch.eye(len(phi), dtype=phi.dtype, device=phi.device)
    return phi.T @ (torch.linalg.pinv(kernel, hermitian=True) @ y)


# Right by another way: each must keep every point.
ALTERNATIVES = {
    "bias_variance": {
        "by torch.var": lambda p, t: ((p.mean(0) - t).square(), p.var(0, correction=0), (p - t).square().mean(0)),
        "error as the sum": lambda p, t: (*split(p, t)[:2], split(p, t)[0] + split(p, t)[1]),
        "mean of squares minus squared mean": lambda p, t: (
            (p.mean(0) - t) ** 2,
            (p**2).mean(0) - p.mean(0) ** 2,
            ((p - t) ** 2).mean(0),
        ),
        "half the squared differences of pairs": lambda p, t: (
            (p.mean(0) - t) ** 2,
            ((p[:, None] - p[None]) ** 2).mean((0, 1)) / 2,
            ((p - t) ** 2).mean(0),
        ),
    },
    "k_fold": {
        "tensor_split": edited("k_fold"),
        "an owner for every index": deal_with_numpy,
        "scikit-learn's KFold": deal_with_scikit_learn,
    },
    "learning_curve": {
        "slices of one order": edited("learning_curve"),
        "by ranks": curve_by_ranks,
        "columns first": curve_one_size_at_a_time,
    },
    "min_norm_fit": {
        "pseudo-inverse, normal equations": ridge_or_pinv,
        "more examples": fit_by_stacking,
        "in the dual": fit_in_the_dual,
    },
}


# --- independent peers and closed forms -------------------------------------------------------------------------


def test_bias_and_variance_add_up_to_the_error():
    predictions, target = torch.randn(9, 50, 3, dtype=torch.float64), torch.randn(50, 3, dtype=torch.float64)
    bias_squared, variance, error = library.bias_variance(predictions, target)
    torch.testing.assert_close(bias_squared + variance, error, rtol=1e-12, atol=1e-12)


def test_variance_of_the_mean_of_m_numbers_is_one_over_m():
    draws = torch.randn(20000, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    bias_squared, variance, _ = library.bias_variance(draws.mean(1, keepdim=True) + 0.5, torch.zeros(1).double())
    assert abs(variance.item() - 1 / 5) < 0.01 and abs(bias_squared.item() - 0.25) < 0.01


def test_few_retrainings_overstate_the_bias_by_the_variance_over_r_minus_one():
    """As the chapter says: squared bias minus variance / (R − 1) is right on average."""
    models = 0.3 + torch.randn(5, 200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    bias_squared, variance, _ = library.bias_variance(models, torch.zeros(200_000, dtype=torch.float64))
    assert abs(bias_squared.mean().item() - (0.3**2 + 1 / 5)) < 0.005
    assert abs((bias_squared - variance / 4).mean().item() - 0.3**2) < 0.005


def test_bias_variance_passes_gradcheck():
    leaves = torch.randn(4, 3, dtype=torch.float64, requires_grad=True), torch.randn(3, dtype=torch.float64)
    assert torch.autograd.gradcheck(library.bias_variance, leaves)


@pytest.mark.parametrize("n, k", [(10, 3), (11, 5), (7, 7), (2, 2), (100, 10)])
def test_fold_sizes_are_those_of_scikit_learn(n, k):
    peer = model_selection.KFold(k, shuffle=True, random_state=0).split(np.zeros(n))
    ours = library.k_fold(n, k, seed=0)
    assert [len(held_out) for _, held_out in ours] == [len(held_out) for _, held_out in peer]


def test_folds_are_reproducible_and_leave_the_global_generator_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    once, again = (library.k_fold(20, 4, seed=3) for _ in range(2))
    assert all(
        torch.equal(a, b) for one, other in zip(once, again, strict=True) for a, b in zip(one, other, strict=True)
    )
    assert torch.equal(before, torch.get_rng_state())


def regression(n=60, d=3, seed=0):
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, d))
    return x, x @ random.normal(size=d) + random.normal(size=n)


def test_learning_curve_follows_scikit_learns():
    """The same training rows in the same order, the same test rows: the same numbers."""
    x, y = regression()
    train, test = np.arange(40), np.arange(40, 60)
    sizes = [5, 10, 40]

    def fit(x, y):
        return LinearRegression().fit(x.numpy(), y.numpy())

    def error(model, x, y):
        return float(((model.predict(x.numpy()) - y.numpy()) ** 2).mean())

    split_x, split_y = torch.tensor(x), torch.tensor(y)
    parts = (split_x[:40], split_y[:40]), (split_x[40:], split_y[40:])
    ours = library.learning_curve(fit, error, *parts, sizes=sizes, seeds=[3])
    order = torch.randperm(40, generator=torch.Generator().manual_seed(3)).numpy()
    _, *theirs = model_selection.learning_curve(
        LinearRegression(), x, y, train_sizes=sizes, cv=[(train[order], test)], scoring="neg_mean_squared_error"
    )
    np.testing.assert_allclose(ours[0][0], -theirs[0][:, 0], rtol=1e-9)
    np.testing.assert_allclose(ours[1][0], -theirs[1][:, 0], rtol=1e-9)


def test_a_learning_curve_takes_the_loss_itself_for_an_error():
    """A tensor of shape (), with its gradient still attached."""
    x, y = torch.randn(9, 2), torch.randn(9, 1)
    fitted, loss = (lambda x, y: torch.nn.Linear(2, 1)), (lambda model, x, y: (model(x) - y).square().mean())
    train, test = library.learning_curve(fitted, loss, (x[:6], y[:6]), (x[6:], y[6:]), [2, 4], [0])
    assert train.shape == test.shape == (1, 2) and not train.requires_grad and (test > 0).all()


def test_cross_validation_follows_scikit_learns():
    x, y = regression()
    folds = [(train.numpy(), held_out.numpy()) for train, held_out in library.k_fold(60, 5, seed=1)]
    ridge = Ridge(alpha=0.5, fit_intercept=False, tol=1e-12)
    theirs = -model_selection.cross_val_score(ridge, x, y, cv=folds, scoring="neg_mean_squared_error")
    ours = library.cross_validation(
        lambda x, y: library.min_norm_fit(x, y, strength=0.5 / len(x)),  # scikit-learn's sum, our mean
        lambda w, x, y: ((x @ w - y) ** 2).mean(),
        torch.tensor(x),
        torch.tensor(y)[:, None],
        k=5,
        seed=1,
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)


def test_leaving_one_out_has_a_closed_form():
    """For ridge, the held-out residual is the training residual divided by 1 − its leverage."""
    x, y = regression(n=15)
    strength_of_sum = 0.7
    hat = x @ np.linalg.solve(x.T @ x + strength_of_sum * np.eye(3), x.T)
    wanted = ((y - hat @ y) / (1 - np.diag(hat))) ** 2
    errors = library.cross_validation(
        lambda x, y: library.min_norm_fit(x, y, strength=strength_of_sum / len(x)),
        lambda w, x, y: ((x @ w - y) ** 2).mean(),
        torch.tensor(x),
        torch.tensor(y)[:, None],
        k=15,
        seed=0,
    )
    np.testing.assert_allclose(np.sort(errors), np.sort(wanted), rtol=1e-9)


@pytest.mark.parametrize("n, p", [(30, 5), (12, 12), (5, 30), (1, 4), (4, 1)])
def test_min_norm_fit_follows_numpy_and_scikit_learn(n, p):
    random = np.random.default_rng(n)
    phi, y = random.normal(size=(n, p)), random.normal(size=(n, 2))
    ours = library.min_norm_fit(torch.tensor(phi), torch.tensor(y))
    np.testing.assert_allclose(ours, np.linalg.lstsq(phi, y, rcond=None)[0], rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(ours, torch.linalg.pinv(torch.tensor(phi)) @ y, rtol=1e-7, atol=1e-9)
    ridge = Ridge(alpha=0.3 * n, fit_intercept=False, solver="cholesky").fit(phi, y).coef_.T.reshape(p, 2)
    np.testing.assert_allclose(library.min_norm_fit(torch.tensor(phi), torch.tensor(y), 0.3), ridge, rtol=1e-7)


def test_more_features_than_examples_interpolate_with_ever_smaller_norm():
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(20, 6, generator=draw).double(), torch.randn(20, 1, generator=draw).double()
    weights = torch.randn(6, 400, generator=draw).double()
    norms = []
    for p in (40, 100, 400):
        phi = torch.relu(x @ weights[:, :p])  # nested features, not divided by the root of p
        w = library.min_norm_fit(phi, y)
        torch.testing.assert_close(phi @ w, y, rtol=1e-8, atol=1e-8)
        norms.append(w.norm().item())
    assert norms == sorted(norms, reverse=True)


@pytest.mark.parametrize("n, p", [(12, 7), (7, 12)])
def test_noise_enters_the_weights_through_the_inverse_singular_values(n, p):
    """Pure noise of variance 1 gives weights whose expected squared norm is the sum of 1 / s²."""
    draw = torch.Generator().manual_seed(2)
    phi = torch.randn(n, p, generator=draw, dtype=torch.float64)
    w = library.min_norm_fit(phi, torch.randn(n, 100_000, generator=draw, dtype=torch.float64))
    wanted = (1 / torch.linalg.svdvals(phi) ** 2).sum()
    torch.testing.assert_close((w**2).sum(0).mean(), wanted, rtol=0.02, atol=0)


def test_gradient_descent_from_zero_finds_the_least_norm():
    draw = torch.Generator().manual_seed(1)
    phi, y = torch.randn(4, 9, generator=draw).double(), torch.randn(4, 1, generator=draw).double()
    w = torch.zeros(9, 1, dtype=torch.float64)
    for _ in range(4000):
        w = w - 0.05 * phi.T @ (phi @ w - y)
    torch.testing.assert_close(w, library.min_norm_fit(phi, y), rtol=1e-9, atol=1e-9)


def test_min_norm_fit_passes_gradcheck():
    phi, y = torch.randn(4, 6, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    for strength in (0.0, 0.3):
        assert torch.autograd.gradcheck(lambda y, a=strength: library.min_norm_fit(phi, y, a), y)


def test_no_features_at_all_is_no_fit():
    w = library.min_norm_fit(torch.zeros(3, 2), torch.ones(3, 1))
    assert torch.equal(w, torch.zeros(2, 1))


def test_many_relu_features_have_the_arc_cosine_kernel():
    """φ(x)·φ(z) tends to ‖x‖‖z‖ (sin θ + (π − θ) cos θ) / 2π (Cho & Saul 2009), for Gaussian directions."""
    x = torch.tensor([[1.0, 0.0], [0.5, 0.5], [-1.0, 0.3]], dtype=torch.float64)
    weights = torch.randn(2, 400_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    phi = library.random_relu_features(x, weights)
    norms = x.norm(dim=1)
    angle = (x @ x.T / (norms[:, None] * norms)).clamp(-1, 1).acos()
    wanted = norms[:, None] * norms * (angle.sin() + (torch.pi - angle) * angle.cos()) / (2 * torch.pi)
    torch.testing.assert_close(phi @ phi.T, wanted, rtol=0.02, atol=3e-3)


# --- every device that is here -----------------------------------------------------------------------------------


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_on_cuda():
    phi, y = torch.randn(5, 9, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
    for strength in (0.0, 0.3):
        found = library.min_norm_fit(phi.cuda(), y.cuda(), strength)
        assert found.is_cuda
        torch.testing.assert_close(found.cpu(), library.min_norm_fit(phi, y, strength), rtol=1e-9, atol=1e-9)
    assert all(part.is_cuda for part in library.bias_variance(phi.cuda(), phi[0].cuda()))
    assert library.random_relu_features(phi.cuda(), torch.randn(9, 4).double().cuda()).is_cuda
    parts = (phi.cuda(), y.cuda()), (phi.cuda(), y.cuda())
    curves = library.learning_curve(
        library.min_norm_fit, lambda w, x, y: (x @ w - y).square().mean(), *parts, sizes=[2, 5], seeds=[0, 1]
    )
    assert all(curve.shape == (2, 2) and not curve.is_cuda for curve in curves)


# --- bad input ---------------------------------------------------------------------------------------------------

X, Y = torch.ones(4, 3), torch.ones(4, 1)


def curve(train=(X, Y), test=(X, Y), sizes=(2,), seeds=(0,)):
    return library.learning_curve(lambda x, y: 0, lambda model, x, y: 0.0, train, test, sizes, seeds)


BAD = {
    "one resample": (
        lambda: library.bias_variance(X[:1], X[0]),
        r"len\(predictions\) must be in range: wanted an integer from 2",
    ),
    "no resample": (lambda: library.bias_variance(X[:0], X[0]), "predictions must have the sizes.*at least 1"),
    "a scalar": (
        lambda: library.bias_variance(X[0, 0], X[0, 0]),
        r"predictions must have the sizes.*at least 1 dimension, got \(\)",
    ),
    "shapes of the target": (
        lambda: library.bias_variance(X, Y),
        r"target must have the sizes \(\*shape\): wanted \(3,\), got \(4, 1\)",
    ),
    "target would broadcast": (lambda: library.bias_variance(X, X[0, :1]), "target must have the sizes"),
    "NaN prediction": (lambda: library.bias_variance(X * torch.nan, X[0]), "predictions must be finite"),
    "integer labels": (lambda: library.bias_variance(X, X[0].long()), "target must be floating point"),
    "more folds than examples": (lambda: library.k_fold(3, 4, 0), "k must be in range: wanted an integer from 2 to 3"),
    "one fold": (lambda: library.k_fold(3, 1, 0), "k must be in range"),
    "one example": (lambda: library.k_fold(1, 2, 0), "n must be in range"),
    "no example": (lambda: library.k_fold(0, 2, 0), "n must be in range.*got 0"),
    "n is a float": (lambda: library.k_fold(4.0, 2, 0), r"n must be in range.*Call int"),
    "k is True": (lambda: library.k_fold(4, True, 0), "k must be in range"),
    "negative seed": (lambda: library.k_fold(4, 2, -1), "seed must be in range"),
    "labels missing": (lambda: curve(train=(X, Y[:3])), r"train\[1\] must have the sizes.*train\[0\] has n = 4"),
    "test labels missing": (lambda: curve(test=(X, Y[:3])), r"test\[1\] must have the sizes"),
    "no test": (lambda: curve(test=(X[:0], Y[:0])), r"test\[0\] must have the sizes.*at least 1"),
    "size too large": (lambda: curve(sizes=[2, 5]), r"sizes\[1\] must be in range: wanted an integer from 1 to 4"),
    "size zero": (lambda: curve(sizes=[0]), r"sizes\[0\] must be in range"),
    "a share for a size": (lambda: curve(sizes=[0.5]), r"sizes\[0\].*Call int"),
    "negative seed of a curve": (lambda: curve(seeds=[-1]), r"seeds\[0\] must be in range"),
    "features of one example": (
        lambda: library.min_norm_fit(X[0], Y),
        "features must have the sizes.*wanted 2 dimensions",
    ),
    "labels in a row": (lambda: library.min_norm_fit(X, Y[:, 0]), r"y must have the sizes.*\[:, None\]"),
    "one label short": (lambda: library.min_norm_fit(X, Y[:3]), "y must have the sizes.*features has n = 4"),
    "no examples": (lambda: library.min_norm_fit(X[:0], Y[:0]), "features must have the sizes.*at least 1"),
    "no features": (lambda: library.min_norm_fit(X[:, :0], Y), "features must have the sizes.*at least 1"),
    "negative strength": (lambda: library.min_norm_fit(X, Y, -0.1), "strength must be non-negative"),
    "class numbers": (lambda: library.min_norm_fit(X, Y.long()), "y must be floating point"),
    "infinite feature": (lambda: library.min_norm_fit(X / 0, Y), "features must be finite"),
    "images not flattened": (lambda: library.random_relu_features(X[None], X), r"x must have the sizes.*flatten\(1\)"),
    "directions transposed": (
        lambda: library.random_relu_features(X, Y),
        r"weights must have the sizes.*x has d = 3; is one transposed",
    ),
    "no directions": (lambda: library.random_relu_features(X, X.T[:, :0]), "weights must have the sizes.*at least 1"),
    "NaN pixel": (lambda: library.random_relu_features(X * torch.nan, X.T), "x must be finite"),
    "folds without labels": (lambda: library.cross_validation(None, None, X, Y[:3], 2, 0), "y must have the sizes"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_explained(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call()
