"""norm_penalties: wrong and right versions of each task, independent peers, closed forms, bad input."""

import numpy as np
import pytest
import torch
from checks import norm_penalties as checks
from sklearn.linear_model import ElasticNet, Ridge
from torch.nn.functional import relu, softshrink

from course_lib import norm_penalties as library

# AdamW, for mistakes that change one line of it.
ADAMW = """
def adamw_step(w, g, m, v, t, lr, decay):
    m = 0.9 * m + 0.1 * g
    v = 0.999 * v + 0.001 * g**2
    step = (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
    return (1 - lr * decay) * w - lr * step, m, v
"""


def edited(old, new):
    assert old in ADAMW
    scope = {}
    exec(ADAMW.replace(old, new), scope)
    return scope["adamw_step"]


# What students write by mistake: each must lose points.
MUTANTS = {
    "l2_penalty": {
        "without the half": lambda theta, a: a * sum((p**2).sum() for p in theta),
        "mean for sum": lambda theta, a: a / 2 * sum((p**2).mean() for p in theta),
        "norm not squared": lambda theta, a: a / 2 * sum((p**2).sum() for p in theta) ** 0.5,
        "sum before square": lambda theta, a: a / 2 * sum(p.sum() ** 2 for p in theta),
        "first tensor only": lambda theta, a: a / 2 * (next(iter(theta)) ** 2).sum(),
        "matrices only": lambda theta, a: a / 2 * sum((p**2).sum() * (p.ndim > 1) for p in theta),
        "detached": lambda theta, a: a / 2 * sum((p.detach() ** 2).sum() + 0 * p.sum() for p in theta),
        "value by .item()": lambda theta, a: torch.tensor(a / 2 * sum((p**2).sum().item() for p in theta)),
        "only what needs a gradient": lambda theta, a: a / 2 * sum((p**2).sum() * p.requires_grad for p in theta),
        "NaN gradient at zero": lambda theta, a: a / 2 * sum((p**2).sum() for p in theta).sqrt() ** 2,
        "strength squared": lambda theta, a: a**2 / 2 * sum((p**2).sum() for p in theta),
        "always float32": lambda theta, a: a / 2 * sum((p.float() ** 2).sum() for p in theta),
        "reads the generator twice": lambda theta, a: [p**2 for p in theta] and a / 2 * sum(map(torch.sum, theta)),
    },
    "l1_penalty": {
        "without absolute value": lambda theta, a: a * sum(p.sum() for p in theta),
        "squares": lambda theta, a: a * sum((p**2).sum() for p in theta),
        "mean for sum": lambda theta, a: a * sum(p.abs().mean() for p in theta),
        "with a half": lambda theta, a: a / 2 * sum(p.abs().sum() for p in theta),
        "absolute value of the sum": lambda theta, a: a * sum(p.sum().abs() for p in theta),
        "NaN gradient at zero": lambda theta, a: a * sum((p**2).sqrt().sum() for p in theta),
        "gradient one at zero": lambda theta, a: a * sum(torch.where(p >= 0, p, -p).sum() for p in theta),
        "smoothed": lambda theta, a: a * sum((p**2 + 1e-6).sqrt().sum() for p in theta),
        "matrices only": lambda theta, a: a * sum(p.abs().sum() * (p.ndim > 1) for p in theta),
        "detached": lambda theta, a: a * sum(p.detach().abs().sum() + 0 * p.sum() for p in theta),
        "largest entry": lambda theta, a: a * sum(p.abs().max() for p in theta),
    },
    "soft_threshold": {
        "hard threshold": lambda x, t: x * (x.abs() > t),
        "sign forgotten": lambda x, t: relu(x.abs() - t),
        "positive side only": lambda x, t: relu(x - t),
        "no stop at zero": lambda x, t: x - t * x.sign(),
        "grows": lambda x, t: x.sign() * (x.abs() + t),
        "clamps instead": lambda x, t: x.clamp(-t, t),
        "double threshold": lambda x, t: x.sign() * relu(x.abs() - 2 * t),
        "in place": lambda x, t: x.detach().copy_(softshrink(x, t)) + 0 * x,
        "shrinks by a factor": lambda x, t: x / (1 + t),
        "almost zero": lambda x, t: x - t * torch.tanh(x / (t + 1e-3)),
        "detached": lambda x, t: softshrink(x.detach(), t) + 0 * x,
        "small for zero": lambda x, t: softshrink(x, t) * (softshrink(x, t).abs() > 1e-6),
    },
    "elastic_net_proximal_step": {
        "threshold without lr": lambda w, g, lr, l1, l2: softshrink(w - lr * g, l1) / (1 + lr * l2),
        "shrinkage without lr": lambda w, g, lr, l1, l2: softshrink(w - lr * g, lr * l1) / (1 + l2),
        "shrinks before threshold": lambda w, g, lr, l1, l2: softshrink((w - lr * g) / (1 + lr * l2), lr * l1),
        "twice l2": lambda w, g, lr, l1, l2: softshrink(w - lr * g, lr * l1) / (1 + 2 * lr * l2),
        "explicit decay": lambda w, g, lr, l1, l2: softshrink(w - lr * g, lr * l1) * (1 - lr * l2),
        "climbs": lambda w, g, lr, l1, l2: softshrink(w + lr * g, lr * l1) / (1 + lr * l2),
        "threshold before gradient": lambda w, g, lr, l1, l2: (softshrink(w, lr * l1) - lr * g) / (1 + lr * l2),
        "subgradient of l1": lambda w, g, lr, l1, l2: (w - lr * (g + l1 * w.sign())) / (1 + lr * l2),
        "l1 and l2 swapped": lambda w, g, lr, l1, l2: softshrink(w - lr * g, lr * l2) / (1 + lr * l1),
        "in place": lambda w, g, lr, l1, l2: w.copy_(softshrink(w - lr * g, lr * l1) / (1 + lr * l2)),
        "zeros stay zero": lambda w, g, lr, l1, l2: (w != 0) * softshrink(w - lr * g, lr * l1) / (1 + lr * l2),
        "small for zero": lambda w, g, lr, l1, l2: (
            softshrink(w - lr * g, lr * l1) / (1 + lr * l2) * (softshrink(w - lr * g, lr * l1).abs() > 1e-3)
        ),
        "l2 forgotten": lambda w, g, lr, l1, l2: softshrink(w - lr * g, lr * l1),
    },
    "adamw_step": {
        "decay in the gradient": edited("    m = 0.9", "    g = g + decay * w; m = 0.9"),
        "decay without lr": edited("(1 - lr * decay)", "(1 - decay)"),
        "no decay": edited("(1 - lr * decay) * ", ""),
        "decay grows": edited("(1 - lr * decay)", "(1 + lr * decay)"),
        "decay after the step": edited("(1 - lr * decay) * w - lr * step", "(1 - lr * decay) * (w - lr * step)"),
        "decay divided by root v": edited("/ (1 - 0.9**t))", "/ (1 - 0.9**t) + decay * w)"),
        "mean not corrected": edited("(m / (1 - 0.9**t))", "m"),
        "square not corrected": edited("(v / (1 - 0.999**t))", "v"),
        "returns the corrected mean": edited("step, m, v", "step, m / (1 - 0.9**t), v"),
        "root forgotten": edited(".sqrt()", ""),
        "gradient not squared": edited("g**2", "g.abs()"),
        "counts from zero": edited("**t", "**(t + 1)"),
        "averages swapped": edited("0.9 * m + 0.1 * g", "0.1 * m + 0.9 * g"),
        "t stops at 100": lambda w, g, m, v, t, lr, decay: edited("return", "return")(
            w, g, m, v, min(t, 100), lr, decay
        ),
        "mean of squares never falls": edited(
            "v = 0.999 * v + 0.001 * g**2", "v = v.maximum(0.999 * v + 0.001 * g**2)"
        ),
        "averages in place": edited("v = 0.999 * v + 0.001 * g**2", "v.mul_(0.999).add_(0.001 * g**2)"),
        "weight in place": edited("return", "w.mul_(1 - lr * decay).sub_(lr * step); return w, m, v #"),
    },
}


def adamw_by_torch(weight, gradient, mean, square, step, lr, decay):
    leaf = weight.clone().requires_grad_()
    leaf.grad = gradient.clone()
    optimizer = torch.optim.AdamW([leaf], lr=lr, weight_decay=decay)
    state = {"step": torch.tensor(float(step - 1)), "exp_avg": mean.clone(), "exp_avg_sq": square.clone()}
    optimizer.state[leaf] = state
    optimizer.step()
    return leaf.detach(), state["exp_avg"], state["exp_avg_sq"]


def adamw_by_lerp(weight, gradient, mean, square, step, lr, decay):
    mean, square = torch.lerp(gradient, mean, 0.9), torch.lerp(gradient.square(), square, 0.999)
    rate = lr * (1 - 0.999**step) ** 0.5 / (1 - 0.9**step)
    adam = rate * mean / (square.sqrt() + 1e-8 * (1 - 0.999**step) ** 0.5)
    return weight - lr * decay * weight - adam, mean, square


def step_by_cases(weight, gradient, lr, l1, l2):
    moved = weight - lr * gradient
    above, below = moved > lr * l1, moved < -lr * l1
    return (torch.where(above, moved - lr * l1, 0.0) + torch.where(below, moved + lr * l1, 0.0)) / (1 + lr * l2)


# Right by another way: each must keep every point.
ALTERNATIVES = {
    "l2_penalty": {
        "one long vector": lambda theta, a: a * torch.cat([p.flatten() for p in theta]).square().sum() / 2,
        "norm, then square": lambda theta, a: torch.stack([p.norm() for p in theta]).norm() ** 2 * (a / 2),
        "matrix product": lambda theta, a: sum(p.reshape(1, -1) @ p.reshape(-1, 1) for p in theta)[0, 0] * a / 2,
    },
    "l1_penalty": {
        "sign times value": lambda theta, a: a * sum((p * p.sign()).sum() for p in theta),
        "both sides by relu": lambda theta, a: a * sum((relu(p) + relu(-p)).sum() for p in theta),
        "one long vector": lambda theta, a: a * torch.cat([p.flatten() for p in theta]).norm(p=1),
    },
    "soft_threshold": {
        "torch's softshrink": softshrink,
        "both sides by relu": lambda x, t: relu(x - t) - relu(-x - t),
        "sign times relu": lambda x, t: x.sign() * relu(x.abs() - t),
        "by cases": lambda x, t: torch.where(x > t, x - t, torch.where(x < -t, x + t, 0 * x)),
    },
    "elastic_net_proximal_step": {
        "by cases": step_by_cases,
        "shrinks first, threshold scaled": lambda w, g, lr, l1, l2: softshrink(
            (w - lr * g) / (1 + lr * l2), lr * l1 / (1 + lr * l2)
        ),
    },
    "adamw_step": {"torch.optim.AdamW": adamw_by_torch, "lerp and one rate": adamw_by_lerp},
}


# --- independent peers and closed forms -------------------------------------------------------------------------


def test_l2_gradient_is_the_weight_decay_of_torch_sgd():
    weight = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    before = weight.detach().clone()
    library.l2_penalty([weight], 0.3).backward()
    ours = before - 0.1 * weight.grad
    weight.grad = torch.zeros_like(weight)
    torch.optim.SGD([weight], lr=0.1, weight_decay=0.3).step()
    torch.testing.assert_close(ours, weight.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("penalty", [library.l2_penalty, lambda p, a: library.elastic_net_penalty(p, a, a)])
def test_penalties_pass_gradcheck(penalty):
    leaf = torch.randn(5, dtype=torch.float64).add(3.0).requires_grad_()
    assert torch.autograd.gradcheck(lambda theta: penalty([theta], 0.7), leaf)
    assert torch.autograd.gradgradcheck(lambda theta: penalty([theta], 0.7), leaf)


def test_hessian_of_l2_is_the_strength_also_at_zero():
    hessian = torch.autograd.functional.hessian(lambda theta: library.l2_penalty([theta], 0.7), torch.zeros(3))
    torch.testing.assert_close(hessian, 0.7 * torch.eye(3))


def regression(seed=0, n=40, d=6):
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, d)) * [1, 1, 2, 0.5, 1, 3]
    return x, x @ [1.5, 0, -0.5, 0, 2, 0] + 0.1 * random.normal(size=n)


def minimize(x, y, l1, l2):
    x, y = torch.tensor(x), torch.tensor(y)
    lr = 1 / torch.linalg.eigvalsh(x.T @ x)[-1].item()
    start = torch.zeros(x.shape[1], dtype=torch.float64)
    return library.proximal_gradient_descent(start, lambda w: x.T @ (x @ w - y), lr, 2000, l1, l2).numpy()


@pytest.mark.parametrize("l1, l2", [(2.0, 0.0), (10.0, 3.0), (60.0, 1.0)])
def test_proximal_gradient_reaches_scikit_learns_elastic_net(l1, l2):
    x, y = regression()
    n = len(y)  # scikit-learn divides the squared error by n
    peer = ElasticNet(alpha=(l1 + l2) / n, l1_ratio=l1 / (l1 + l2), fit_intercept=False, tol=1e-12, max_iter=10**5)
    ours, theirs = minimize(x, y, l1, l2), peer.fit(x, y).coef_
    np.testing.assert_allclose(ours, theirs, atol=1e-8)
    assert np.array_equal(ours == 0, theirs == 0)


def test_ridge_shrinks_each_eigendirection_by_its_factor():
    x, y = regression()
    eigenvalues, vectors = np.linalg.eigh(x.T @ x)
    least_squares = np.linalg.lstsq(x, y, rcond=None)[0]
    factors = library.shrinkage_factors(torch.tensor(eigenvalues), strength=7.0).numpy()
    ridge = Ridge(alpha=7.0, fit_intercept=False, tol=1e-12).fit(x, y).coef_
    np.testing.assert_allclose(vectors @ (factors * (vectors.T @ least_squares)), ridge, rtol=1e-9)
    np.testing.assert_allclose(minimize(x, y, 0.0, 7.0), ridge, atol=1e-8)


def test_shrinkage_factors_at_the_ends():
    eigenvalues = torch.tensor([4.0, 0.0])
    assert library.shrinkage_factors(eigenvalues, 0.0).tolist() == [1.0, 0.0]
    assert library.shrinkage_factors(eigenvalues, 1e12).max() < 1e-10


def test_adamw_step_follows_torch_for_many_steps():
    torch.manual_seed(0)
    ours = theirs = (torch.randn(3, 4, dtype=torch.float64), *torch.zeros(2, 3, 4, dtype=torch.float64))
    for step in range(1, 60):
        gradient = torch.randn(3, 4, dtype=torch.float64)
        ours = library.adamw_step(ours[0], gradient, *ours[1:], step=step, lr=0.05, decay=0.2)
        theirs = adamw_by_torch(theirs[0], gradient, *theirs[1:], step, 0.05, 0.2)
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-12, atol=1e-12)


# --- every device that is here -----------------------------------------------------------------------------------


def test_long_vectors_keep_their_digits():
    theta = torch.randn(3_000_000, generator=torch.Generator().manual_seed(0))
    exact = theta.double().abs().sum().item()
    assert library.l1_penalty([theta], 1.0).item() == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("task", sorted(ALTERNATIVES))
def test_on_cuda(task, on_cuda):
    probe, verify = getattr(checks, f"probe_{task}"), getattr(checks, f"verify_{task}")
    verify(probe(on_cuda(getattr(library, task)), 0), 0)


# --- bad input ---------------------------------------------------------------------------------------------------

W = torch.ones(2, 3)
BAD = {
    "negative strength": (lambda: library.l2_penalty([W], -1.0), "strength must be non-negative.*got -1.0"),
    "negative l1 strength": (lambda: library.l1_penalty([W], -1.0), "strength must be non-negative"),
    "negative l1 of elastic net": (lambda: library.elastic_net_penalty([W], -1.0, 0.0), "non-negative"),
    "negative l2 of elastic net": (lambda: library.elastic_net_penalty([W], 0.0, -1.0), "non-negative"),
    "NaN strength": (lambda: library.l1_penalty([W], float("nan")), "finite number >= 0, got nan"),
    "strength is a tensor": (lambda: library.l2_penalty([W], W), "must be a number.*got Tensor"),
    "no parameters": (lambda: library.l2_penalty([], 1.0), "must not be empty"),
    "a spent generator": (lambda: library.l1_penalty(iter(()), 1.0), "read only once"),
    "a bare tensor": (lambda: library.l2_penalty(W, 1.0), r"Write \[tensor\]"),
    "integers": (lambda: library.elastic_net_penalty([W.long()], 1.0, 1.0), r"floating point.*int64"),
    "not a tensor": (lambda: library.l2_penalty([[1.0]], 1.0), r"must be a tensor.*got list"),
    "NaN parameter": (lambda: library.l2_penalty([W, W * torch.nan], 1.0), r"parameters\[1\] must be finite"),
    "infinite parameter": (lambda: library.l1_penalty([W / 0], 1.0), "6 such of 6 entries"),
    "overflow": (lambda: library.l2_penalty([W * 1e30], 1.0), "a penalty must be finite"),
    "threshold of integers": (lambda: library.soft_threshold(W.long(), 1.0), "x must be floating point"),
    "negative threshold": (lambda: library.soft_threshold(W, -0.5), "threshold must be non-negative"),
    "NaN in x": (lambda: library.soft_threshold(W * torch.nan, 0.5), "x must be finite"),
    "shapes of the step": (
        lambda: library.elastic_net_proximal_step(W, W.T, 0.1, 1.0, 1.0),
        r"gradient must have the sizes \(\*shape\): wanted \(2, 3\), got \(3, 2\). weight has",
    ),
    "lr zero": (lambda: library.elastic_net_proximal_step(W, W, 0.0, 1.0, 1.0), "lr must be positive"),
    "negative lr": (lambda: library.elastic_net_proximal_step(W, W, -0.1, 1.0, 1.0), "lr must be"),
    "NaN gradient": (lambda: library.elastic_net_proximal_step(W, W * torch.nan, 0.1, 1.0, 1.0), "gradient"),
    "shapes of AdamW": (lambda: library.adamw_step(W, W, W[0], W, 1, 0.1, 0.1), "mean must have the sizes"),
    "step zero": (lambda: library.adamw_step(W, W, W, W, 0, 0.1, 0.1), "step must be a positive integer"),
    "negative decay": (lambda: library.adamw_step(W, W, W, W, 1, 0.1, -0.1), "decay must be non-negative"),
    "integer gradient": (lambda: library.adamw_step(W, W.long(), W, W, 1, 0.1, 0.1), "floating point"),
    "negative eigenvalue": (lambda: library.shrinkage_factors(-W[0], 1.0), "eigenvalues must lie in.*from -1 to -1"),
    "negative shrinkage": (lambda: library.shrinkage_factors(W[0], -1.0), "strength must be"),
    "no steps": (lambda: library.proximal_gradient_descent(W, lambda w: w, 0.1, 0), "steps must be"),
    "divergence": (
        lambda: library.proximal_gradient_descent(W, lambda w: -9e9 * w, 1.0, 99),
        "smaller learning rate",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_explained(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call()


def test_an_empty_tensor_costs_nothing():
    assert library.l2_penalty([torch.ones(0, 3)], 1.0) == library.l1_penalty([torch.ones(0)], 1.0) == 0
    assert library.soft_threshold(torch.ones(0, 3), 1.0).shape == (0, 3)
