"""underconstrained_problems: wrong and right versions of each task, independent peers, closed forms, bad input."""

import numpy as np
import pytest
import scipy.linalg
import torch
from checks import underconstrained_problems as checks
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.svm import SVC
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from course_lib import underconstrained_problems as library
from course_lib.norm_penalties import shrinkage_factors

# Right versions, for mistakes that change one line of them.
SOURCES = {
    "ridge_svd": """
def ridge_svd(x, y, a):
    u, s, vt = torch.linalg.svd(x, full_matrices=False)
    seen = s > max(x.shape) * torch.finfo(x.dtype).eps * s.max()
    u, s, v = u[:, seen], s[seen], vt[seen].T
    return v * (s / (s**2 + len(x) * a)) @ (u.T @ y)
""",
    "row_space_component": """
def row_space_component(x, w):
    u, s, vt = torch.linalg.svd(x, full_matrices=False)
    rows = vt[s > max(x.shape) * torch.finfo(x.dtype).eps * s.max()]
    return rows.T @ (rows @ w)
""",
    "gradient_descent_least_squares": """
def gradient_descent_least_squares(x, y, lr, steps, start):
    w = start
    for _ in range(steps):
        w = w - lr / len(x) * (x.T @ (x @ w - y))
    return w
""",
    "fit_logistic": """
def fit_logistic(x, y, a, lr, steps):
    w, norms = torch.zeros_like(x[0]), []
    for _ in range(steps):
        pull = torch.sigmoid(-y * (x @ w)) * y
        w = w - lr * (a * w - x.T @ pull / len(x))
        norms.append(w.norm())
    return w, torch.stack(norms)
""",
}


def edited(task, old, new):
    assert old in SOURCES[task]
    scope = {"torch": torch}
    exec(SOURCES[task].replace(old, new), scope)
    return scope[task]


def ridge(old, new):
    return edited("ridge_svd", old, new)


def component(old, new):
    return edited("row_space_component", old, new)


def descent(old, new):
    return edited("gradient_descent_least_squares", old, new)


def logistic(old, new):
    return edited("fit_logistic", old, new)


def normal_equations(x, y, a):
    if a == 0:
        return torch.linalg.pinv(x) @ y
    return torch.linalg.solve(x.T @ x + len(x) * a * torch.eye(x.shape[1]).to(x), x.T @ y)


def ridge_by_eigh(x, y, a):
    values, v = torch.linalg.eigh(x.T @ x)
    seen = values > max(x.shape) * torch.finfo(x.dtype).eps * values.max()
    return (v[:, seen] / (values[seen] + len(x) * a)) @ (v[:, seen].T @ (x.T @ y))


def logistic_by_exp(x, y, a, lr, steps):
    """exp may overflow here: 1/(1 + inf) is 0, and right."""
    w, norms = torch.zeros_like(x[0]), []
    for _ in range(steps):
        w = w + lr * ((y / (1 + torch.exp(y * (x @ w)))) @ x / len(x) - a * w)
        norms.append(w.norm())
    return w, torch.stack(norms)


# What students write by mistake: each must lose points.
MUTANTS = {
    "ridge_svd": {
        "strength of a sum of squares": ridge("len(x) * a", "a"),
        "strength divided by n": ridge("len(x) * a", "a / len(x)"),
        "strength times features": ridge("len(x) * a", "x.shape[1] * a"),
        "twice the strength": ridge("len(x) * a", "2 * len(x) * a"),
        "singular values not squared": ridge("s**2 +", "s +"),
        "strength squared": ridge("len(x) * a", "len(x) * a**2"),
        "the filter without 1/s": ridge("(s / (s**2", "(s**2 / (s**2"),
        "no cutoff": ridge("seen = s >", "seen = s > -1 +"),
        "cutoff for float64 only": ridge("torch.finfo(x.dtype).eps", "2.2e-16"),
        "an absolute cutoff": ridge("max(x.shape) * torch.finfo(x.dtype).eps * s.max()", "1e-6"),
        "cutoff not exceeded by a blank x": ridge("s >", "s >="),
        "scaled along the targets": ridge(
            "return v * (s / (s**2 + len(x) * a)) @ (u.T @ y)", "return v @ (s / (s**2 + len(x) * a) * (u.T @ y))"
        ),
        "a greedy cutoff": ridge("max(x.shape) * torch.finfo(x.dtype).eps", "0.1"),
        "a cutoff of 1e-6 times the largest": ridge("max(x.shape) * torch.finfo(x.dtype).eps", "1e-6"),
        "a cutoff without the size": ridge("max(x.shape) * ", ""),
        "a cutoff of the smaller side": ridge("max(x.shape)", "min(x.shape)"),
        "a cutoff without the largest": ridge(" * s.max()", ""),
        "eigenvalues of XᵀX": ridge_by_eigh,
        "cutoff at exactly zero": ridge("max(x.shape) * torch.finfo(x.dtype).eps * s.max()", "0"),
        "cutoff only without a penalty": ridge("s.max()", "s.max() * float(a == 0)"),
        "normal equations": lambda x, y, a: torch.linalg.solve(x.T @ x + len(x) * a * torch.eye(x.shape[1]), x.T @ y),
        "normal equations, pseudo-inverse at zero": normal_equations,
        "normal equations by pseudo-inverse": lambda x, y, a: (
            torch.linalg.pinv(x.T @ x + len(x) * a * torch.eye(x.shape[1]).to(x)) @ x.T @ y
        ),
        "inverse of XXᵀ": lambda x, y, a: x.T @ torch.linalg.solve(x @ x.T + len(x) * a * torch.eye(len(x)), y),
        "one target only": lambda x, y, a: library.ridge_svd(x, y.reshape(len(y), -1)[:, 0], a),
        "centres the data": lambda x, y, a: library.ridge_svd(x - x.mean(0), y - y.mean(0), a),
        "always float32": lambda x, y, a: library.ridge_svd(x.float(), y.float(), a).to(x),
        "ignores the strength": lambda x, y, a: library.ridge_svd(x, y, 0.0),
    },
    "row_space_component": {
        "the null space's part": component("return", "return w -"),
        "all right singular vectors": component("full_matrices=False", "full_matrices=True"),
        "no cutoff": component("s >", "s > -1 +"),
        "cutoff for float64 only": component("torch.finfo(x.dtype).eps", "2.2e-16"),
        "cutoff at exactly zero": component("max(x.shape) * torch.finfo(x.dtype).eps * s.max()", "0"),
        "an absolute cutoff": component("max(x.shape) * torch.finfo(x.dtype).eps * s.max()", "1e-6"),
        "a greedy cutoff": component("max(x.shape) * torch.finfo(x.dtype).eps", "0.1"),
        "a cutoff without the size": component("max(x.shape) * ", ""),
        "a cutoff of 1e-4 times the largest": component("max(x.shape) * torch.finfo(x.dtype).eps", "1e-4"),
        "pseudo-inverse of XXᵀ": lambda x, w: x.T @ (torch.linalg.pinv(x @ x.T) @ (x @ w)),
        "weighted by singular values": lambda x, w: x.T @ (x @ w),
        "a mean over examples": lambda x, w: torch.linalg.pinv(x) @ (x @ w) / len(x),
        "inverse of XXᵀ": lambda x, w: x.T @ torch.linalg.solve(x @ x.T, x @ w),
        "first rows for a basis": lambda x, w: x.T @ (x @ w) / (x**2).sum(),
        "nothing is unseen": lambda x, w: w.clone(),
        "one vector only": lambda x, w: library.row_space_component(x, w.reshape(len(w), -1)[:, 0]),
        "always float32": lambda x, w: library.row_space_component(x.float(), w.float()).to(w),
        "in place": lambda x, w: w.copy_(library.row_space_component(x, w)),
    },
    "gradient_descent_least_squares": {
        "a sum over examples": descent("lr / len(x)", "lr"),
        "without the half": descent("lr / len(x)", "2 * lr / len(x)"),
        "a mean over features": descent("lr / len(x)", "lr / x.shape[1]"),
        "a mean over all entries of the error": descent("lr / len(x)", "lr / y.numel()"),
        "climbs": descent("w - lr", "w + lr"),
        "starts at zero": descent("w = start", "w = torch.zeros_like(start)"),
        "one step too few": descent("range(steps)", "range(steps - 1)"),
        "one step too many": descent("range(steps)", "range(steps + 1)"),
        "gradient of the start throughout": descent("(x @ w - y)", "(x @ start - y)"),
        "start in place": descent(
            "w = w - lr / len(x) * (x.T @ (x @ w - y))", "w -= lr / len(x) * (x.T @ (x @ w - y))"
        ),
        "jumps to the limit": lambda x, y, lr, steps, start: library.gradient_descent_limit(x, y, start),
        "targets forgotten": descent("x @ w - y", "x @ w"),
        "penalizes": descent("- lr / len(x) *", "- lr * 0.01 * w - lr / len(x) *"),
        "one example a step": descent("(x.T @ (x @ w - y))", "(x[:1].T @ (x[:1] @ w - y[:1])) * len(x)"),
    },
    "fit_logistic": {
        "a sum over examples": logistic("/ len(x)", ""),
        "no penalty": logistic("a * w", "0 * w"),
        "penalty without the half": logistic("a * w", "2 * a * w"),
        "penalty a mean over weights": logistic("a * w", "a * w / len(w)"),
        "penalty not times lr": logistic("lr * (a * w - x.T @ pull / len(x))", "a * w + lr * x.T @ pull / len(x)"),
        "penalty of the norm, not squared": logistic("a * w", "a * w / (w.norm() + 1e-12)"),
        "climbs": logistic("w - lr", "w + lr"),
        "labels zero and one": logistic("pull = torch.sigmoid(-y * (x @ w)) * y", "pull = y - torch.sigmoid(x @ w)"),
        "perceptron": logistic("torch.sigmoid(-y * (x @ w))", "(y * (x @ w) <= 0).to(x)"),
        "sign of the margin": logistic("-y * (x @ w)", "y * (x @ w)"),
        "overflows": logistic("torch.sigmoid(-y * (x @ w))", "(-y * (x @ w)).exp() / (1 + (-y * (x @ w)).exp())"),
        "clamps the margin": logistic("-y * (x @ w)", "(-y * (x @ w)).clamp(-1, 1)"),
        "starts at one": logistic("zeros_like", "ones_like"),
        "norm before the step": logistic("        pull", "        norms.append(w.norm())\n        pull"),
        "the start's norm first": logistic("[]\n", "[0 * x[0, 0]]\n"),
        "norms squared": logistic("w.norm()", "w @ w"),
        "largest weight for the norm": logistic("w.norm()", "w.abs().max()"),
        "only the last norm": logistic("torch.stack(norms)", "norms[-1]"),
        "norms in float32": logistic("torch.stack(norms)", "torch.tensor([n.item() for n in norms])"),
        "unit length": logistic("return w", "return w / w.norm()"),
        "one step too few": logistic("range(steps)", "range(max(1, steps - 1))"),
    },
    "margin": {
        "not divided by the norm": lambda w, x, y: (y * (x @ w)).min(),
        "divided by the squared norm": lambda w, x, y: (y * (x @ w)).min() / (w @ w),
        "divided by the L1 norm": lambda w, x, y: (y * (x @ w)).min() / w.abs().sum(),
        "the angle's cosine": lambda w, x, y: (y * (x @ w) / x.norm(dim=1)).min() / w.norm(),
        "mean for minimum": lambda w, x, y: (y * (x @ w)).mean() / w.norm(),
        "farthest example": lambda w, x, y: (y * (x @ w)).max() / w.norm(),
        "distance without a sign": lambda w, x, y: (y * (x @ w)).abs().min() / w.norm(),
        "labels forgotten": lambda w, x, y: (x @ w).min() / w.norm(),
        "never negative": lambda w, x, y: (y * (x @ w)).min().clamp(min=0) / w.norm(),
        "both sides together": lambda w, x, y: 2 * (y * (x @ w)).min() / w.norm(),
        "norm detached": lambda w, x, y: (y * (x @ w)).min() / w.detach().norm(),
        "hinge": lambda w, x, y: (1 - y * (x @ w)).max() / w.norm(),
        "always float32": lambda w, x, y: ((y * (x @ w)).min() / w.norm()).float().to(x),
        "one side only": lambda w, x, y: (y * (x @ w))[y > 0].min() / w.norm() if (y > 0).any() else 0 * w.sum(),
    },
}


def cutoff(x):
    return max(x.shape) * torch.finfo(x.dtype).eps * torch.linalg.matrix_norm(x, 2)


def ridge_in_row_space(x, y, a):
    """A basis of the row space by pivoted QR, then the normal equations in its few coordinates."""
    q, r, _ = scipy.linalg.qr(x.double().numpy().T, mode="economic", pivoting=True)
    basis = torch.tensor(q[:, np.abs(np.diag(r)) > cutoff(x).item()])  # (d, rank)
    z = x.double() @ basis
    inner = z.T @ z + len(x) * a * torch.eye(z.shape[1], dtype=z.dtype)
    return (basis @ torch.linalg.solve(inner, z.T @ y.double())).to(x)


def ridge_by_pinv(x, y, a):
    """The pseudo-inverse, shrunk along its own singular vectors."""
    inverse = torch.linalg.pinv(x)  # its singular values are 1/s
    u, r, vt = torch.linalg.svd(inverse, full_matrices=False)
    return u * (r / (1 + len(x) * a * r**2)) @ vt @ y


def component_by_lstsq(x, w):
    flat = w.reshape(len(w), -1)
    return torch.linalg.lstsq(x, x @ flat, driver="gelsd").solution.reshape(w.shape)


def component_by_gram_schmidt(x, w):
    basis = []
    for row in x.double():
        for _ in range(2):  # twice is enough
            for direction in basis:
                row = row - (direction @ row) * direction
        if row.norm() > cutoff(x):
            basis.append(row / row.norm())
    seen = sum((torch.tensordot(b, w.double(), 1) * b.reshape(-1, *[1] * (w.ndim - 1)) for b in basis), 0 * w.double())
    return seen.to(w.dtype)


def descent_by_autograd(x, y, lr, steps, start):
    w = start.clone().requires_grad_()
    optimizer = torch.optim.SGD([w], lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        (((x @ w - y) ** 2).sum() / (2 * len(x))).backward()
        optimizer.step()
    return w.detach()


def descent_by_filter(x, y, lr, steps, start):
    """No loop: along each singular vector the error shrinks by 1 − ηs²/n a step."""
    u, s, vt = torch.linalg.svd(x, full_matrices=True)
    factors = torch.zeros(len(vt), dtype=x.dtype)
    factors[: len(s)] = s**2 / len(x)
    kept = (1 - lr * factors) ** steps
    # the sum of a geometric series, also where the factor is 1
    summed = torch.stack([(1 - lr * factors) ** t for t in range(steps)]).sum(0)
    pull = vt @ (x.T @ y) * lr / len(x)
    kept, summed = (factor.reshape(-1, *[1] * (start.ndim - 1)) for factor in (kept, summed))
    return vt.T @ (kept * (vt @ start) + summed * pull)


def descent_by_gram(x, y, lr, steps, start):
    gram, moment, w = x.T @ x / len(x), x.T @ y / len(x), start.clone()
    for _ in range(steps):
        w = w - lr * (gram @ w) + lr * moment
    return w


def logistic_by_autograd(x, y, a, lr, steps):
    w, norms = torch.zeros(x.shape[1], dtype=x.dtype, requires_grad=True), torch.zeros(steps, dtype=x.dtype)
    for step in range(steps):
        objective = -logsigmoid(y * (x @ w)).mean() + a / 2 * (w**2).sum()
        (gradient,) = torch.autograd.grad(objective, w)
        w = (w - lr * gradient).detach().requires_grad_()
        norms[step] = w.detach().norm()
    return w.detach(), norms


def logistic_by_torch(x, y, a, lr, steps):
    w, norms = torch.nn.Parameter(torch.zeros(x.shape[1], dtype=x.dtype)), []
    optimizer = torch.optim.SGD([w], lr=lr, weight_decay=a)
    for _ in range(steps):
        optimizer.zero_grad()
        binary_cross_entropy_with_logits(x @ w, (y + 1) / 2).backward()
        optimizer.step()
        norms.append(torch.linalg.vector_norm(w.detach()))
    return w.detach(), torch.stack(norms)


# Right by another way: each must keep every point.
ALTERNATIVES = {
    "ridge_svd": {"pivoted QR": ridge_in_row_space, "through the pseudo-inverse": ridge_by_pinv},
    "row_space_component": {
        "pseudo-inverse": lambda x, w: torch.linalg.pinv(x) @ (x @ w),
        "least squares": component_by_lstsq,
        "Gram-Schmidt": component_by_gram_schmidt,
    },
    "gradient_descent_least_squares": {
        "autograd and SGD": descent_by_autograd,
        "filter factors": descent_by_filter,
        "Gram matrix": descent_by_gram,
    },
    "fit_logistic": {
        "autograd": logistic_by_autograd,
        "torch's SGD and cross-entropy": logistic_by_torch,
        "one over one plus exp": logistic_by_exp,
    },
    "margin": {
        "of the unit vector": lambda w, x, y: (y * (x @ (w / w.norm()))).min(),
        "distances sorted": lambda w, x, y: ((y[:, None] * x * w).sum(1) / (w**2).sum().sqrt()).sort().values[0],
        "class by class": lambda w, x, y: (
            torch.stack([label * (row @ w) for row, label in zip(x, y, strict=True)]).amin()
            / torch.nn.functional.normalize(w, dim=0).dot(w)
        ),
    },
}


# --- the checks hold for any seed ---------------------------------------------------------------------------------


@pytest.mark.parametrize("task", sorted(ALTERNATIVES))
def test_right_versions_pass_on_many_seeds(task):
    probe, verify = getattr(checks, f"probe_{task}"), getattr(checks, f"verify_{task}")
    for version in (getattr(library, task), *ALTERNATIVES[task].values()):
        for seed in range(12):
            verify(probe(version, seed), seed)


# --- independent peers and closed forms -------------------------------------------------------------------------


def problem(n=12, d=30, targets=(), seed=0):
    random = np.random.default_rng(seed)
    return random.normal(size=(n, d)), random.normal(size=(n, *targets))


def classes(n=20, d=30, seed=0):
    """Fewer examples than features: separable whatever the labels."""
    random = np.random.default_rng(seed)
    return random.normal(size=(n, d)), np.where(np.arange(n) % 2 == 0, -1.0, 1.0)


def tensors(*arrays):
    return [torch.tensor(array) for array in arrays]


@pytest.mark.parametrize("shape, targets", [((12, 30), ()), ((12, 30), (3,)), ((30, 12), ()), ((30, 12), (3,))])
def test_ridge_is_scikit_learns(shape, targets):
    x, y = problem(*shape, targets)
    theirs = Ridge(alpha=0.3 * len(x), fit_intercept=False, solver="svd").fit(x, y).coef_
    ours = library.ridge_svd(*tensors(x, y), 0.3).numpy()
    np.testing.assert_allclose(ours.T if targets else ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shape, targets", [((12, 30), ()), ((12, 30), (3,)), ((30, 12), (3,))])
def test_ridge_without_strength_is_the_pseudo_inverse_of_numpy_and_gelsd_of_scipy(shape, targets):
    x, y = problem(*shape, targets)
    x = np.concatenate([x, x[:4]])  # four examples twice, with other targets
    y = np.concatenate([y, -y[:4]])
    ours = library.ridge_svd(*tensors(x, y), 0.0).numpy()
    np.testing.assert_allclose(ours, np.linalg.pinv(x) @ y, atol=1e-11)
    np.testing.assert_allclose(ours, np.linalg.lstsq(x, y, rcond=None)[0], atol=1e-11)
    np.testing.assert_allclose(ours, scipy.linalg.lstsq(x, y, lapack_driver="gelsd")[0], atol=1e-11)


def test_ridge_goes_to_the_pseudo_inverse_in_proportion_to_the_strength():
    x, y = tensors(*problem())
    limit = library.ridge_svd(x, y, 0.0)
    gaps = [(library.ridge_svd(x, y, strength) - limit).norm().item() for strength in (1e-4, 1e-6, 1e-8)]
    np.testing.assert_allclose([gaps[0] / gaps[1], gaps[1] / gaps[2]], 100, rtol=1e-2)


def test_ridge_shrinks_the_limit_by_the_factors_of_norm_penalties():
    x, y = tensors(*problem())
    _, s, vt = torch.linalg.svd(x, full_matrices=False)
    kept = (vt @ library.ridge_svd(x, y, 0.2)) / (vt @ library.ridge_svd(x, y, 0.0))
    torch.testing.assert_close(kept, shrinkage_factors(s**2 / len(x), 0.2), rtol=1e-9, atol=1e-12)


def test_the_component_is_the_projection_by_scipys_null_space():
    x, _ = problem()
    x = np.concatenate([x, x[:2] - x[2:4]])
    w = np.random.default_rng(1).normal(size=30)
    unseen = scipy.linalg.null_space(x)
    np.testing.assert_allclose(library.row_space_component(*tensors(x, w)), w - unseen @ (unseen.T @ w), atol=1e-12)


@pytest.mark.parametrize("targets", [(), (2,)])
@pytest.mark.parametrize("shape", [(8, 20), (20, 8)])
def test_gradient_descent_ends_at_its_limit_for_any_start(shape, targets):
    x, y = tensors(*problem(*shape, targets))
    lr = len(x) / torch.linalg.matrix_norm(x, 2).item() ** 2
    for scale in (0.0, 3.0):
        start = scale * torch.randn(x.shape[1], *targets, dtype=torch.float64)
        end = library.gradient_descent_least_squares(x, y, lr, 5000, start)
        torch.testing.assert_close(end, library.gradient_descent_limit(x, y, start), rtol=1e-8, atol=1e-8)


def test_the_limit_from_zero_is_the_shortest_of_all_solutions():
    x, y = tensors(*problem())
    shortest = library.gradient_descent_limit(x, y, torch.zeros(30, dtype=torch.float64))
    for seed in range(5):
        start = torch.tensor(np.random.default_rng(seed).normal(size=30))
        other = library.gradient_descent_limit(x, y, start)
        torch.testing.assert_close(x @ other, y)
        assert other.norm() > shortest.norm()


def test_the_null_space_never_moves():
    x, y = tensors(*problem())
    start = torch.randn(30, dtype=torch.float64)
    for steps in (1, 100):
        w = library.gradient_descent_least_squares(x, y, 0.1, steps, start)
        unseen = w - library.row_space_component(x, w)
        torch.testing.assert_close(unseen, start - library.row_space_component(x, start), rtol=1e-10, atol=1e-12)


def test_penalized_logistic_regression_is_scikit_learns():
    x, y = classes()
    theirs = LogisticRegression(C=1 / (0.1 * len(x)), fit_intercept=False, tol=1e-12, max_iter=10**5).fit(x, y).coef_[0]
    ours, norms = library.fit_logistic(*tensors(x, y), 0.1, 0.2, 3000)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    np.testing.assert_allclose(norms[-1], np.linalg.norm(theirs), atol=1e-6)


def test_without_a_penalty_the_norm_grows_with_the_logarithm_of_time():
    x, y = tensors(*classes())
    best = library.max_margin(x, y)
    w, norms = library.fit_logistic(x, y, 0.0, 0.2, 20000)
    slope = (norms[-1] - norms[1999]) / np.log(10)
    assert (norms.diff() > 0).all() and abs(slope / best.norm() - 1) < 0.15
    assert 0.8 < library.margin(w, x, y) * best.norm() <= 1


def test_the_widest_margin_is_that_of_the_support_vector_machine():
    x, y = classes()
    # the mirror image of every example makes the machine's constant zero
    peer = SVC(kernel="linear", C=1e10, tol=1e-10).fit(np.concatenate([x, -x]), np.concatenate([y, -y]))
    ours = library.max_margin(*tensors(x, y))
    np.testing.assert_allclose(ours, peer.coef_[0], atol=1e-5)
    assert library.margin(ours, *tensors(x, y)).item() == pytest.approx(1 / ours.norm().item(), rel=1e-9)


def test_margin_is_in_the_units_of_x_and_of_no_unit_in_w():
    x, y = tensors(*classes())
    w = torch.randn(30, dtype=torch.float64)
    one = library.margin(w, x, y)
    torch.testing.assert_close(library.margin(5 * w, x, y), one)
    torch.testing.assert_close(library.margin(w, 5 * x, y), 5 * one)


def test_logistic_loss_has_the_gradient_that_the_descent_takes():
    x, y = tensors(*classes())
    w = torch.randn(30, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: library.logistic_loss(v, x, y, 0.3), w)
    first = library.fit_logistic(x, y, 0.3, 1.0, 1)[0].requires_grad_()
    second = library.fit_logistic(x, y, 0.3, 1.0, 2)[0]
    (gradient,) = torch.autograd.grad(library.logistic_loss(first, x, y, 0.3), first)
    torch.testing.assert_close(second, first - gradient)
    assert library.logistic_loss(-1e6 * x[0], x, y).isfinite()


def test_gradients_of_the_differentiable_functions():
    x, y = tensors(*problem(4, 6, (2,)))
    w = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    y.requires_grad_()
    assert torch.autograd.gradcheck(lambda t: library.ridge_svd(x, t, 0.1), y)
    assert torch.autograd.gradcheck(lambda v: library.row_space_component(x, v), w)
    assert torch.autograd.gradcheck(lambda v: library.gradient_descent_least_squares(x, y.detach(), 0.1, 3, v), w)
    signs = torch.tensor([1.0, -1.0, 1.0, 1.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda v: library.margin(v, x, signs), w[:, 0].detach().requires_grad_())


def test_one_example_and_one_feature():
    x, y, w = torch.tensor([[3.0]]), torch.tensor([6.0]), torch.tensor([5.0])
    assert library.ridge_svd(x, y, 0.0).item() == pytest.approx(2.0)
    assert library.row_space_component(x, w).item() == pytest.approx(5.0)
    assert library.margin(w, x, y.sign()).item() == pytest.approx(3.0)
    assert library.max_margin(x, y.sign()).item() == pytest.approx(1 / 3)


# --- every device that is here -----------------------------------------------------------------------------------


@pytest.mark.parametrize("task", sorted(ALTERNATIVES))
def test_on_cuda(task, on_cuda):
    probe, verify = getattr(checks, f"probe_{task}"), getattr(checks, f"verify_{task}")
    verify(probe(on_cuda(getattr(library, task)), 0), 0)


# --- bad input ---------------------------------------------------------------------------------------------------

X, Y, W = torch.tensor([[1.0, 2.0, 0.0], [0.0, -1.0, 1.0]]), torch.tensor([1.0, -1.0]), torch.ones(3)
NAN = torch.nan
BAD = {
    "ridge: an image": (
        lambda: library.ridge_svd(torch.ones(2, 1, 8, 8), Y, 0.1),
        r"x must have the sizes \(n, d\).*\.flatten",
    ),
    "ridge: one example as a vector": (lambda: library.ridge_svd(W, Y, 0.1), r"x must have the sizes.*\[None\]"),
    "ridge: no example": (lambda: library.ridge_svd(X[:0], Y[:0], 0.1), r"at least 1 of each, got \(0, 3\)"),
    "ridge: too few targets": (
        lambda: library.ridge_svd(X, Y[:1], 0.1),
        r"y must have the sizes \(n, targets\?\): wanted \(2, targets\?\), got \(1,\). x has n = 2",
    ),
    "ridge: a number for y": (
        lambda: library.ridge_svd(X, torch.tensor(1.0), 0.1),
        "y must have the sizes.*wanted 1 or 2 dimensions",
    ),
    "ridge: dtypes": (lambda: library.ridge_svd(X, Y.double(), 0.1), "y must be of the kind of x.*float64"),
    "ridge: integers": (lambda: library.ridge_svd(X.long(), Y, 0.1), "x must be floating point"),
    "ridge: an array": (lambda: library.ridge_svd(X.numpy(), Y, 0.1), "x must be a tensor.*ndarray"),
    "ridge: NaN": (lambda: library.ridge_svd(X * NAN, Y, 0.1), "x must be finite"),
    "ridge: infinite target": (lambda: library.ridge_svd(X, Y / 0, 0.1), "y must be finite"),
    "ridge: negative strength": (lambda: library.ridge_svd(X, Y, -0.1), "strength must be non-negative"),
    "component: shape": (lambda: library.row_space_component(X, Y), r"w must have the sizes.*got \(2,\). x has d = 3"),
    "component: three dimensions": (
        lambda: library.row_space_component(X, torch.ones(3, 1, 1)),
        "w must have the sizes.*1 or 2 dimensions",
    ),
    "component: dtypes": (lambda: library.row_space_component(X, W.double()), "w must be of the kind of x"),
    "component: NaN": (lambda: library.row_space_component(X, W * NAN), "w must be finite"),
    "component: empty": (lambda: library.row_space_component(X[:, :0], W[:0]), "x must have the sizes.*at least 1"),
    "descent: start": (lambda: library.gradient_descent_least_squares(X, Y, 0.1, 1, Y), "start must have the sizes"),
    "descent: start for other targets": (
        lambda: library.gradient_descent_least_squares(X, Y, 0.1, 1, W[:, None]),
        r"start must have the sizes.*wanted \(3,\), got \(3, 1\). y has targets\? = \(\)",
    ),
    "descent: lr": (lambda: library.gradient_descent_least_squares(X, Y, 0.0, 1, W), "lr must be positive"),
    "descent: no step": (lambda: library.gradient_descent_least_squares(X, Y, 0.1, 0, W), "steps must be"),
    "descent: NaN start": (lambda: library.gradient_descent_least_squares(X, Y, 0.1, 1, W * NAN), "start must be"),
    "descent: targets": (lambda: library.gradient_descent_least_squares(X, W, 0.1, 1, W), "y must have the sizes"),
    "limit: start": (lambda: library.gradient_descent_limit(X, Y, Y), "start must have the sizes"),
    "limit: NaN": (lambda: library.gradient_descent_limit(X, Y, W * NAN), "start must be finite"),
    "limit: targets": (lambda: library.gradient_descent_limit(X, Y[:1], W), "y must have the sizes"),
    "limit: start for other targets": (
        lambda: library.gradient_descent_limit(X, Y, W[:, None]),
        "start must have the sizes",
    ),
    "loss: labels": (lambda: library.logistic_loss(W, X, Y * 2), "y must be signs"),
    "loss: weights": (lambda: library.logistic_loss(Y, X, Y), "w must have the sizes"),
    "loss: strength": (lambda: library.logistic_loss(W, X, Y, -1.0), "strength must be"),
    "fit: labels zero and one": (lambda: library.fit_logistic(X, (Y + 1) / 2, 0.1, 0.1, 1), r"2 \* y - 1"),
    "fit: labels as a column": (
        lambda: library.fit_logistic(X, Y[:, None], 0.1, 0.1, 1),
        r"y must have the sizes.*wanted 1 dimension, got \(2, 1\)",
    ),
    "fit: integer labels": (lambda: library.fit_logistic(X, Y.long(), 0.1, 0.1, 1), "y must be floating point"),
    "fit: dtypes": (lambda: library.fit_logistic(X, Y.double(), 0.1, 0.1, 1), "y must be of the kind of x"),
    "fit: too many labels": (lambda: library.fit_logistic(X, torch.ones(3), 0.1, 0.1, 1), "y must have the sizes"),
    "fit: empty": (lambda: library.fit_logistic(X[:0], Y[:0], 0.1, 0.1, 1), "x must have the sizes.*at least 1"),
    "fit: strength": (lambda: library.fit_logistic(X, Y, -0.1, 0.1, 1), "strength must be"),
    "fit: lr": (lambda: library.fit_logistic(X, Y, 0.1, -0.1, 1), "lr must be"),
    "fit: steps": (lambda: library.fit_logistic(X, Y, 0.1, 0.1, 1.5), "steps must be a positive integer"),
    "fit: NaN": (lambda: library.fit_logistic(X * NAN, Y, 0.1, 0.1, 1), "x must be finite"),
    "margin: w zero": (lambda: library.margin(0 * W, X, Y), "w must not be zero everywhere"),
    "margin: several w": (lambda: library.margin(torch.ones(3, 2), X, Y), "w must have the sizes"),
    "margin: w too short": (lambda: library.margin(W[:2], X, Y), "w must have the sizes"),
    "margin: labels": (lambda: library.margin(W, X, 0 * Y), "y must be signs"),
    "margin: empty": (lambda: library.margin(W, X[:0], Y[:0]), "x must have the sizes.*at least 1"),
    "margin: NaN": (lambda: library.margin(W * NAN, X, Y), "w must be finite"),
    "svm: not separable": (lambda: library.max_margin(torch.ones(2, 3), Y), "two classes must be separable"),
    "svm: a blank image": (lambda: library.max_margin(0 * X, Y), "two classes must be separable"),
    "svm: labels": (lambda: library.max_margin(X, Y * 3), "y must be signs"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_explained(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call()
