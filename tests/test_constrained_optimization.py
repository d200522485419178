"""constrained_optimization: wrong and right versions of each task, independent peers, closed forms, bad input."""

import numpy as np
import pytest
import torch
from checks import constrained_optimization as checks
from scipy.optimize import brentq, minimize
from sklearn.linear_model import Lasso, Ridge
from torch.linalg import vector_norm
from torch.nn.functional import normalize, relu, softshrink

from course_lib import constrained_optimization as library
from course_lib.norm_penalties import proximal_gradient_descent

# Three tasks in full, for mistakes that change one line of them.
PROJECT_L1 = """
def project_l1(x, r):
    u = x.abs().flatten().sort(descending=True).values
    j = torch.arange(1, x.numel() + 1, dtype=x.dtype)
    t = ((u.cumsum(0) - r) / j).max().clamp(min=0)
    return x.sign() * (x.abs() - t).clamp(min=0)
"""
MAX_NORM_ = """
def max_norm_(w, c):
    with torch.no_grad():
        norms = w.flatten(1).norm(dim=1)
        w /= (norms / c).clamp(min=1).reshape(-1, *[1] * (w.ndim - 1))
    return w
"""
STRENGTH = """
def strength_for_radius(e, b, r):
    low, high = 0.0, b.norm().item() / r
    for _ in range(100):
        middle = (low + high) / 2
        if (b / (e + middle)).norm() > r:
            low = middle
        else:
            high = middle
    return low
"""


def edited(source, old, new):
    assert old in source
    scope = {"torch": torch}
    exec(source.replace(old, new), scope)
    return scope[source.split("(")[0].split()[-1]]


def rescaled(x, r, size):
    return x * min(1.0, r / max(size.item(), 1e-300))


# What students write by mistake: each must lose points.
MUTANTS = {
    "project_l2": {
        "always rescales": lambda x, r: x * (r / (vector_norm(x) + 1e-30)),
        "clips entries": lambda x, r: x.clamp(-r, r),
        "norm not rooted": lambda x, r: rescaled(x, r, (x**2).sum()),
        "mean for sum": lambda x, r: rescaled(x, r, (x**2).mean().sqrt()),
        "L1 norm": lambda x, r: rescaled(x, r, x.abs().sum()),
        "largest entry": lambda x, r: rescaled(x, r, x.abs().max()),
        "row by row": lambda x, r: (
            x * (r / vector_norm(x, dim=-1, keepdim=True).clamp(min=1e-30)).clamp(max=1)
            if x.ndim
            else rescaled(x, r, x.abs())
        ),
        "radius forgotten": lambda x, r: rescaled(x, 1.0, vector_norm(x)),
        "radius is squared": lambda x, r: rescaled(x, r**0.5, vector_norm(x)),
        "shrinks instead": lambda x, r: softshrink(x, max(0.0, (vector_norm(x).item() - r) / x.numel())),
        "zero outside": lambda x, r: x * (vector_norm(x) <= r),
        "in place": lambda x, r: x.mul_(min(1.0, r / max(vector_norm(x).item(), 1e-300))),
        "NaN at the origin": lambda x, r: x / vector_norm(x) * vector_norm(x).clamp(max=r),
        "always float32": lambda x, r: rescaled(x.float(), r, vector_norm(x)),
        "a small constant beside the norm": lambda x, r: x * (r / (vector_norm(x) + 1e-6)).clamp(max=1),
        "torch.renorm, with its small constant": lambda x, r: x.reshape(1, -1).renorm(2, 0, r).reshape(x.shape),
        "radius in float32": lambda x, r: x / (vector_norm(x) / torch.tensor(r)).clamp(min=1),
    },
    "project_l1": {
        "rescales": lambda x, r: rescaled(x, r, x.abs().sum()),
        "L2 ball": lambda x, r: rescaled(x, r, vector_norm(x)),
        "radius as threshold": lambda x, r: softshrink(x, r),
        "clips entries": lambda x, r: x.clamp(-r, r),
        "threshold of all entries": edited(PROJECT_L1, ".max()", "[-1]"),
        "threshold of the largest entry": edited(PROJECT_L1, ".max()", "[0]"),
        "smallest candidate": edited(PROJECT_L1, ".max()", ".min()"),
        "sorts upwards": edited(PROJECT_L1, "descending=True", "descending=False"),
        "sorts signed entries": edited(PROJECT_L1, "x.abs().flatten()", "x.flatten()"),
        "counts from zero": edited(PROJECT_L1, "/ j)", "/ (j - 1).clamp(min=1))"),
        "counts from two": edited(PROJECT_L1, "/ j)", "/ (j + 1))"),
        "grows inside": edited(PROJECT_L1, ".clamp(min=0)\n    return", "\n    return"),
        "sign forgotten": edited(PROJECT_L1, "x.sign() * ", ""),
        "hard threshold": edited(PROJECT_L1, "(x.abs() - t).clamp(min=0)", "x.abs() * (x.abs() > t)"),
        "no stop at zero": edited(PROJECT_L1, "(x.abs() - t).clamp(min=0)", "(x.abs() - t)"),
        "radius one": edited(PROJECT_L1, "- r", "- 1"),
        "always float32": edited(PROJECT_L1, "x.abs().flatten()", "x.float().abs().flatten()"),
        "each row its own ball": lambda x, r: (
            torch.stack([library.project_l1(row, r) for row in x]) if x.ndim > 1 else library.project_l1(x, r)
        ),
        "bisection that stops at 1e-7": lambda x, r: project_l1_by_bisection(x, r, tolerance=1e-7),
        "in place": edited(PROJECT_L1, "return", "return x.copy_(x.sign() * (x.abs() - t).clamp(min=0)) #"),
        "one dimension only": edited(PROJECT_L1, "x.abs().flatten().sort", "x.abs().reshape(x.shape or (1,)).sort"),
    },
    "max_norm_": {
        "columns": lambda w, c: w.data.div_((w.data.norm(dim=0) / c).clamp(min=1)) is None or w,
        "whole tensor": edited(MAX_NORM_, "w.flatten(1).norm(dim=1)", "w.norm().expand(len(w))"),
        "every kernel by itself": lambda w, c: (
            w.data.div_((w.data.norm(dim=1, keepdim=True) / c).clamp(min=1)) is None or w
        ),
        "always on the sphere": edited(MAX_NORM_, ".clamp(min=1)", ".clamp(min=1e-30)"),
        "NaN for dead units": edited(MAX_NORM_, "(norms / c)", "(norms / norms * norms / c)"),
        "squared norm": edited(MAX_NORM_, "norm(dim=1)", "square().sum(1)"),
        "L1 norm": edited(MAX_NORM_, "norm(dim=1)", "abs().sum(1)"),
        "mean for sum": edited(MAX_NORM_, "norm(dim=1)", "square().mean(1).sqrt()"),
        "largest unit decides": edited(MAX_NORM_, "norm(dim=1)", "norm(dim=1).max().expand(len(w))"),
        "clips entries": lambda w, c: w.data.clamp_(-c, c) is None or w,
        "not in place": lambda w, c: w / (w.flatten(1).norm(dim=1) / c).clamp(min=1).reshape(-1, *[1] * (w.ndim - 1)),
        "inside the graph": edited(MAX_NORM_, "torch.no_grad()", "torch.enable_grad()"),
        "no longer trained": edited(MAX_NORM_, "return w", "return w.requires_grad_(False)"),
        "returns the norms": edited(MAX_NORM_, "return w", "return norms"),
        "bound one": edited(MAX_NORM_, "/ c", "/ 1"),
        "a small constant beside the norm": edited(MAX_NORM_, "norm(dim=1)", "norm(dim=1) + 1e-6"),
        "torch.renorm, with its small constant": lambda w, c: w.data.copy_(w.data.renorm(2, 0, c)).numel() == 0 or w,
        "bound in float32": edited(MAX_NORM_, "/ c", "/ torch.tensor(c)"),
        "a flat copy of channels_last": edited(
            MAX_NORM_,
            "w /= (norms / c).clamp(min=1).reshape(-1, *[1] * (w.ndim - 1))",
            "w.flatten(1).div_((norms / c).clamp(min=1)[:, None])",
        ),
        "autograd left off": edited(MAX_NORM_, "with torch.no_grad():", "if torch.set_grad_enabled(False):"),
    },
    "ridge_radius": {
        "norm squared": lambda e, b, a: (b / (e + a)).square().sum(),
        "twice the strength": lambda e, b, a: vector_norm(b / (e + 2 * a)),
        "L1 norm": lambda e, b, a: (b / (e + a)).abs().sum(),
        "mean for sum": lambda e, b, a: (b / (e + a)).square().mean().sqrt(),
        "kept share of b": lambda e, b, a: vector_norm(e / (e + a) * b),
        "strength forgotten": lambda e, b, a: vector_norm(b / e.clamp(min=1e-30)),
        "strength squared": lambda e, b, a: vector_norm(b / (e + a**2)),
        "sum before square": lambda e, b, a: (b / (e + a)).sum().abs(),
        "roots added": lambda e, b, a: vector_norm(b) / vector_norm(e + a),
        "eigenvalues squared": lambda e, b, a: vector_norm(b / (e**2 + a)),
        "always float32": lambda e, b, a: vector_norm(b.float() / (e.float() + a)),
        "one entry a direction": lambda e, b, a: (b / (e + a)).abs(),
    },
    "strength_for_radius": {
        "search turned round": edited(STRENGTH, ".norm() > r", ".norm() < r"),
        "bracket ends at 1": edited(STRENGTH, "b.norm().item() / r", "1.0"),
        "bracket without the radius": edited(STRENGTH, "b.norm().item() / r", "b.norm().item()"),
        "bracket starts at 1e-3": edited(STRENGTH, "0.0, ", "1e-3, "),
        "ten halvings": edited(STRENGTH, "range(100)", "range(10)"),
        "first middle": edited(STRENGTH, "range(100)", "range(1)"),
        "norm squared": edited(STRENGTH, ".norm() > r", ".norm() ** 2 > r"),
        "L1 norm": edited(STRENGTH, ".norm() > r", ".abs().sum() > r"),
        "half the strength": edited(STRENGTH, "return low", "return low / 2"),
        "radius is squared": edited(STRENGTH, "> r", "> r**0.5"),
        "kept share of b": edited(STRENGTH, "(b / (e + middle))", "(e * b / (e + middle))"),
        "the bracket itself": lambda e, b, r: b.norm().item() / r,
        "ratio of norms": lambda e, b, r: max(0.0, b.norm().item() / r - e.max().item()),
    },
}


def project_l1_by_newton(x, radius):
    """Newton's method on Σ max(|x| − t, 0) = r: drop what lies below the mean excess until nothing falls."""
    kept = x.abs().flatten()
    if kept.sum() <= radius:
        return x.clone()
    while True:
        threshold = (kept.sum() - radius) / len(kept)
        if (kept > threshold).all() or len(kept) == 1:
            return x.sign() * relu(x.abs() - threshold)
        kept = kept[kept > threshold] if (kept > threshold).any() else kept[:1]


def project_l1_by_bisection(x, radius, tolerance=0.0):
    low, high = 0.0, x.abs().max().item() if x.abs().sum() > radius else 0.0
    for _ in range(200):
        if high - low < tolerance:
            break
        middle = (low + high) / 2
        low, high = (middle, high) if relu(x.abs() - middle).sum() > radius else (low, middle)
    return softshrink(x, high)


def project_l1_as_in_the_paper(x, radius):
    u = x.abs().reshape(-1).sort(descending=True)[0]
    if u.sum() <= radius:
        return x
    sums = u.cumsum(0)
    rho = max(j for j in range(1, len(u) + 1) if j == 1 or u[j - 1] - (sums[j - 1] - radius) / j > 0)
    return x.sign() * (x.abs() - (sums[rho - 1] - radius) / rho).clamp(min=0)


def max_norm_by_loop(weight, bound):
    for row in weight.data:
        norm = row.square().sum().sqrt()
        if norm > bound:
            row *= bound / norm
    return weight


@torch.no_grad()
def max_norm_by_projections(weight, bound):
    return weight.copy_(torch.stack([unit / max(unit.norm().item() / bound, 1) for unit in weight]))


@torch.no_grad()
def max_norm_by_where(weight, bound):
    norms = weight.square().sum(tuple(range(1, weight.ndim)), keepdim=True).sqrt()
    return weight.mul_(torch.where(norms > bound, bound / norms, 1))


def max_norm_by_numpy(weight, bound):
    entries = weight.detach().numpy()
    norms = np.sqrt((entries.astype("float64") ** 2).sum(tuple(range(1, entries.ndim)), keepdims=True))
    entries /= np.maximum(norms / bound, 1).astype(entries.dtype)
    return weight


@torch.no_grad()
def max_norm_by_movedim(weight, bound):
    units_last = weight.movedim(0, -1)
    units_last /= (weight.flatten(1).norm(dim=1) / bound).clamp(min=1)
    return weight


def strength_by_brent(eigenvalues, moment, radius):
    e, b = eigenvalues.double().numpy(), moment.double().numpy()

    def excess(strength):
        with np.errstate(all="ignore"):
            return np.linalg.norm(np.where(b == 0, 0, b / (e + strength))) - radius

    high = np.linalg.norm(b) / radius
    return brentq(excess, 0.0, 2 * high, xtol=1e-300, maxiter=1000) if excess(1e-14) > 0 else 0.0


def strength_by_newton(eigenvalues, moment, radius):
    """Newton's method on 1/r(α), which is almost a straight line."""
    e, b, strength = eigenvalues.double(), moment.double(), 1e-13
    for _ in range(300):
        w = b / (e + strength)
        size = w.norm()
        if size <= radius * (1 + 1e-14):
            break
        strength += ((size / radius - 1) * size**2 / (w**2 / (e + strength)).sum()).item()
    return strength


def ridge_radius_by_solving(eigenvalues, moment, strength):
    eye = torch.eye(len(moment), dtype=moment.dtype)
    return torch.linalg.solve(eigenvalues.diag() + strength * eye, moment).norm()


# Right by another way: each must keep every point.
ALTERNATIVES = {
    "project_l2": {
        "by cases": lambda x, r: x if vector_norm(x) <= r else x * r / vector_norm(x),
        "direction times length": lambda x, r: (
            normalize(x.flatten(), dim=0).view(x.shape) * vector_norm(x).clamp(max=r)
        ),
        "least factor": lambda x, r: rescaled(x, r, x.square().sum().sqrt()),
    },
    "project_l1": {
        "Newton's method": project_l1_by_newton,
        "bisection": project_l1_by_bisection,
        "the paper's index": project_l1_as_in_the_paper,
    },
    "max_norm_": {
        "row by row": max_norm_by_loop,
        "projections, stacked": max_norm_by_projections,
        "a factor by cases": max_norm_by_where,
        "numpy on the same memory": max_norm_by_numpy,
        "units last": max_norm_by_movedim,
    },
    "ridge_radius": {
        "by solving": ridge_radius_by_solving,
        "root of the sum of squares": lambda e, b, a: ((b / (e + a)) ** 2).sum().sqrt(),
    },
    "strength_for_radius": {"Brent's method": strength_by_brent, "Newton's method": strength_by_newton},
}


# --- independent peers and closed forms -------------------------------------------------------------------------


def regression(seed=0, n=40, d=6):
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, d)) * [1, 1, 2, 0.5, 1, 3]
    y = x @ [1.5, 0, -0.5, 0, 2, 0] + 0.1 * random.normal(size=n)
    return torch.tensor(x), torch.tensor(y)


def bowl(seed=0):
    """Hessian, moment and the gradient of half the mean squared error."""
    x, y = regression(seed)
    hessian, moment = x.T @ x / len(y), x.T @ y / len(y)
    return hessian, moment, lambda w: hessian @ w - moment


def constrained(seed, project, steps=4000):
    hessian, moment, gradient_of = bowl(seed)
    lr = 1 / torch.linalg.eigvalsh(hessian)[-1].item()
    return library.projected_gradient_descent(torch.zeros_like(moment), gradient_of, project, lr, steps)


@pytest.mark.parametrize("strength", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_lasso_is_the_solution_in_the_ball_of_its_own_norm(seed, strength):
    x, y = regression(seed)
    peer = Lasso(alpha=strength, fit_intercept=False, tol=1e-14, max_iter=10**5).fit(x.numpy(), y.numpy()).coef_
    ours = constrained(seed, lambda w: library.project_l1(w, np.abs(peer).sum().item()))
    np.testing.assert_allclose(ours, peer, atol=1e-8)
    assert np.array_equal(ours == 0, peer == 0)


@pytest.mark.parametrize("strength", [0.01, 0.1, 2.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_ridge_is_the_solution_in_the_ball_of_its_own_norm(seed, strength):
    x, y = regression(seed)
    peer = Ridge(alpha=strength * len(y), fit_intercept=False, tol=1e-12).fit(x.numpy(), y.numpy()).coef_
    radius = np.linalg.norm(peer).item()
    np.testing.assert_allclose(constrained(seed, lambda w: library.project_l2(w, radius)), peer, atol=1e-8)
    hessian, moment, _ = bowl(seed)
    eigenvalues, vectors = torch.linalg.eigh(hessian)
    assert library.ridge_radius(eigenvalues, vectors.T @ moment, strength).item() == pytest.approx(radius, rel=1e-9)
    assert library.strength_for_radius(eigenvalues, vectors.T @ moment, radius) == pytest.approx(strength, rel=1e-7)


def test_projections_agree_with_a_general_solver():
    """SLSQP knows nothing of thresholds: z = p − q with p, q ≥ 0 and Σ (p + q) ≤ r."""
    x = np.random.default_rng(0).normal(size=6)
    n, radius = len(x), 1.3
    l2 = minimize(
        lambda z: ((z - x) ** 2).sum(),
        np.zeros(n),
        constraints={"type": "ineq", "fun": lambda z: radius**2 - z @ z},
        options={"ftol": 1e-14, "maxiter": 500},
    )
    np.testing.assert_allclose(library.project_l2(torch.tensor(x), radius), l2.x, atol=1e-5)
    l1 = minimize(
        lambda pq: ((pq[:n] - pq[n:] - x) ** 2).sum(),
        np.full(2 * n, 0.1),
        bounds=[(0, None)] * (2 * n),
        constraints={"type": "ineq", "fun": lambda pq: radius - pq.sum()},
        options={"ftol": 1e-14, "maxiter": 500},
    )
    np.testing.assert_allclose(library.project_l1(torch.tensor(x), radius), l1.x[:n] - l1.x[n:], atol=1e-5)


@pytest.mark.parametrize("project", [library.project_l2, library.project_l1])
def test_projections_are_idempotent_and_bring_no_two_points_apart(project):
    torch.manual_seed(0)
    for _ in range(50):
        x, y = 3 * torch.randn(2, 4, 3, dtype=torch.float64)
        p, q = project(x, 1.5), project(y, 1.5)
        assert vector_norm(p - q) <= vector_norm(x - y) + 1e-12
        torch.testing.assert_close(project(p, 1.5), p, rtol=0, atol=1e-12)


@pytest.mark.parametrize("project", [library.project_l2, library.project_l1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inside_the_ball_every_bit_stays(project, dtype):
    torch.manual_seed(0)
    for _ in range(50):
        x = torch.randn(5, 3, dtype=dtype)
        assert torch.equal(project(x, 1.01 * x.abs().sum().item()), x)


def test_units_inside_keep_every_bit():
    torch.manual_seed(0)
    for bound in torch.rand(50).tolist():
        weight = torch.randn(8, 3) * 0.3
        inside = weight.norm(dim=1) <= bound
        assert torch.equal(library.max_norm_(weight.clone(), bound)[inside], weight[inside])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_threshold_survives_extreme_sizes(dtype):
    x = torch.tensor([1e10, 1.0, -1e-3], dtype=dtype)
    for radius in (1e-8, 1e-3, 1e3, 1e9):
        z = library.project_l1(x, radius)
        assert torch.isfinite(z).all() and z.abs().sum() <= radius + 1e10 * torch.finfo(dtype).eps
    many = torch.randn(10**6, dtype=dtype, generator=torch.Generator().manual_seed(0))
    for radius in (1.0, 1e3, 1e5):
        assert library.project_l1(many, radius).abs().sum().item() == pytest.approx(radius, rel=1e-3)


@pytest.mark.parametrize("project", [library.project_l2, library.project_l1])
@pytest.mark.parametrize("radius", [0.7, 50.0])
def test_projections_pass_gradcheck(project, radius):
    torch.manual_seed(0)
    leaf = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: project(x, radius), leaf)


def test_the_gradient_at_the_origin_is_one():
    for project in (library.project_l2, library.project_l1):
        leaf = torch.zeros(3, requires_grad=True)
        project(leaf, 1.0).sum().backward()
        assert leaf.grad.tolist() == [1, 1, 1]


def test_max_norm_agrees_with_renorm_and_leaves_gradients_alone():
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(3, 8, 5, dtype=torch.float64)
    layer.weight.grad = torch.ones_like(layer.weight)
    wanted = layer.weight.detach().renorm(p=2, dim=0, maxnorm=0.5)
    assert library.max_norm_(layer.weight, 0.5) is layer.weight
    torch.testing.assert_close(layer.weight.detach(), wanted, rtol=1e-6, atol=1e-9)
    assert layer.weight.is_leaf and layer.weight.requires_grad and (layer.weight.grad == 1).all()


def test_the_radius_is_where_a_general_solver_ends():
    """A penalty turned up by Brent's method until the norm fits, the weights by solving."""
    hessian, moment, _ = bowl(1)
    eigenvalues, vectors = torch.linalg.eigh(hessian)

    def excess(strength):
        return torch.linalg.solve(hessian + strength * torch.eye(len(moment)).double(), moment).norm().item() - 0.8

    ours = library.strength_for_radius(eigenvalues, vectors.T @ moment, 0.8)
    assert ours == pytest.approx(brentq(excess, 0, 1e3, xtol=1e-13), rel=1e-9)


def test_the_multiplier_is_the_price_of_radius():
    """The envelope theorem: d(best loss)/d(r²/2) = −α, by a central difference."""
    hessian, moment, _ = bowl(2)
    eigenvalues, vectors = torch.linalg.eigh(hessian)
    b = vectors.T @ moment

    def best_loss(size):
        w = b / (eigenvalues + library.strength_for_radius(eigenvalues, b, (2 * size) ** 0.5))
        return (eigenvalues * w**2 / 2 - b * w).sum().item()

    slope = (best_loss(0.5 + 1e-4) - best_loss(0.5 - 1e-4)) / 2e-4
    assert slope == pytest.approx(-library.strength_for_radius(eigenvalues, b, 1.0), rel=1e-5)


@pytest.mark.parametrize("project", [library.project_l2, library.project_l1])
def test_the_residual_vanishes_at_solutions_only(project):
    _, _, gradient_of = bowl(0)

    def ball(w):
        return project(w, 1.2)

    def residual(w):
        return library.kkt_residual(w, gradient_of(w), ball)

    solution = constrained(0, ball)
    assert residual(solution) < 1e-10
    torch.manual_seed(0)
    for _ in range(20):
        assert residual(ball(solution + 0.1 * torch.randn(6, dtype=torch.float64))) > 1e-3
    assert residual(2 * solution) > 0.1, "outside the ball nothing is a solution"


def test_without_a_constraint_the_residual_is_the_gradient():
    w, gradient = torch.randn(2, 3, 4)
    assert library.kkt_residual(w, gradient, lambda z: z) == pytest.approx(gradient.norm().item(), rel=1e-5)


def test_a_projected_step_agrees_with_the_proximal_one():
    """With a ball that binds, both roads end at the lasso."""
    hessian, moment, gradient_of = bowl(0)
    lr = 1 / torch.linalg.eigvalsh(hessian)[-1].item()
    lasso = proximal_gradient_descent(torch.zeros_like(moment), gradient_of, lr, 4000, l1=0.2)
    ours = constrained(0, lambda w: library.project_l1(w, lasso.abs().sum().item()))
    torch.testing.assert_close(ours, lasso, rtol=0, atol=1e-10)
    assert gradient_of(ours).abs().max().item() == pytest.approx(0.2), "the multiplier is the largest slope"


# --- every device that is here -----------------------------------------------------------------------------------


@pytest.mark.parametrize("task", sorted(set(ALTERNATIVES) - {"max_norm_"}))
def test_on_cuda(task, on_cuda):
    probe, verify = getattr(checks, f"probe_{task}"), getattr(checks, f"verify_{task}")
    verify(probe(on_cuda(getattr(library, task)), 0), 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_max_norm_on_cuda():
    weight = torch.nn.Parameter(torch.randn(6, 3, 2, 4, device="cuda"))
    wanted = library.max_norm_(weight.detach().cpu(), 1.0)
    torch.testing.assert_close(library.max_norm_(weight, 1.0).detach().cpu(), wanted)


# --- bad input ---------------------------------------------------------------------------------------------------

W, E = torch.ones(2, 3), torch.ones(3)
BAD = {
    "negative radius": (lambda: library.project_l2(W, -1.0), "radius must be non-negative.*got -1.0"),
    "radius zero": (lambda: library.project_l1(W, 0.0), "radius must be positive"),
    "NaN radius": (lambda: library.project_l1(W, float("nan")), "finite number >= 0, got nan"),
    "radius is a tensor": (lambda: library.project_l2(W, E), "must be a number.*got Tensor"),
    "integers": (lambda: library.project_l2(W.long(), 1.0), r"x must be floating point.*int64"),
    "integers in L1": (lambda: library.project_l1(W.long(), 1.0), r"x must be floating point.*int64"),
    "not a tensor": (lambda: library.project_l1([1.0], 1.0), "x must be a tensor.*got list"),
    "NaN in x": (lambda: library.project_l1(W * torch.nan, 1.0), "x must be finite"),
    "infinity in x": (lambda: library.project_l2(W / 0, 1.0), "6 such of 6 entries"),
    "nothing to project": (lambda: library.project_l1(torch.ones(0, 3), 1.0), "x must not be empty"),
    "a bias": (lambda: library.max_norm_(E, 1.0), r"weight must have the sizes.*at least 2 dimensions, got \(3,\)"),
    "bound zero": (lambda: library.max_norm_(W, 0.0), "bound must be positive"),
    "integer weight": (lambda: library.max_norm_(W.long(), 1.0), "weight must be floating point"),
    "NaN weight": (lambda: library.max_norm_(W * torch.nan, 1.0), "weight must be finite"),
    "strength zero": (lambda: library.ridge_radius(E, E, 0.0), "strength must be positive"),
    "shapes of the bowl": (lambda: library.ridge_radius(E, W, 1.0), "moment must have the sizes.*eigenvalues has"),
    "negative eigenvalue": (
        lambda: library.ridge_radius(-E, E, 1.0),
        r"eigenvalues must lie in \[0, inf\].*from -1 to -1. Clamp rounding errors",
    ),
    "NaN moment": (lambda: library.ridge_radius(E, E * torch.nan, 1.0), "moment must be finite"),
    "no radius": (lambda: library.strength_for_radius(E, E, 0.0), "radius must be positive"),
    "shapes for the strength": (lambda: library.strength_for_radius(E, E[:2], 1.0), "moment must have the sizes"),
    "negative eigenvalue for the strength": (
        lambda: library.strength_for_radius(-E, E, 1.0),
        "eigenvalues must lie in",
    ),
    "integer eigenvalues": (lambda: library.strength_for_radius(E.long(), E, 1.0), "floating point"),
    "shapes of the residual": (lambda: library.kkt_residual(W, W.T, lambda w: w), "gradient must have the sizes"),
    "NaN gradient": (lambda: library.kkt_residual(W, W * torch.nan, lambda w: w), "gradient must be finite"),
    "lr zero": (lambda: library.projected_gradient_descent(W, lambda w: w, lambda w: w, 0.0, 1), "lr must be"),
    "no steps": (lambda: library.projected_gradient_descent(W, lambda w: w, lambda w: w, 0.1, 0), "steps must be"),
    "divergence": (
        lambda: library.projected_gradient_descent(W, lambda w: -9e9 * w, lambda w: w, 1.0, 99),
        "smaller learning rate",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_explained(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call()


def test_empty_tensors_where_nothing_is_compared():
    assert library.project_l2(torch.ones(0, 3), 1.0).shape == (0, 3)
    assert library.strength_for_radius(torch.ones(0), torch.ones(0), 1.0) == 0.0


def test_a_radius_without_entries_is_refused():
    arrays = checks.probe_ridge_radius(library.ridge_radius, 5)
    checks.verify_ridge_radius(arrays, 5)
    arrays["radius float64 0"] = arrays["radius float64 0"].reshape(-1)[:0]
    with pytest.raises(AssertionError, match="has shape"):
        checks.verify_ridge_radius(arrays, 5)
