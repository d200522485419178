"""What must be true of any implementation of the tasks in ``constrained_optimization``.

``probe_X`` calls an implementation on inputs drawn from the seed and returns what came out; ``verify_X`` decides,
from what it derives itself. The grader runs the first inside the student's kernel and the second outside it.
"""

from functools import partial

import numpy as np
import torch

from course_lib.grading import verdicts

SHAPES = [(9,), (4, 3), (2, 3, 5), (1,), ()]
TOLERANCE = {"float64": 1e-10, "float32": 2e-5}  # relative to the largest entry that came in
close = partial(verdicts.close, exact=TOLERANCE["float64"], rough=TOLERANCE["float32"])


# --- projections: the nearest point of a ball --------------------------------------------------------------------


def draw_points(seed, dtype, size):
    """By name: a point, and the radius of a ball, of which ``size`` is the norm."""
    random = np.random.default_rng([seed, 1])
    points = {}
    for index, shape in enumerate(SHAPES):
        x = random.normal(size=shape) * random.uniform(0.5, 3)
        points[f"a point outside, shape {shape}"] = x, random.uniform(0.1, 0.9)
        points[f"a point inside, shape {shape}"] = x, random.uniform(1.1, 2)
        if index == 0:
            points["a point just outside"] = x, 0.999
            points["a point far outside"] = 1000 * x, 1e-4
    points["entries of equal size"] = random.choice([-1.5, 1.5], size=7), random.uniform(0.2, 0.6)
    points["a point with zeros"] = random.normal(size=8) * np.array([0, 1] * 4), random.uniform(0.2, 0.6)
    negative = -np.abs(random.normal(size=6)) - 0.1
    points["a point with negative entries only"] = negative, random.uniform(0.2, 0.6)
    drawn = {}
    for name, (x, share) in points.items():
        x = np.asarray(x, dtype=dtype)
        drawn[name] = x, float(share * size(x.astype("float64")))
    drawn["the origin"] = np.zeros(4, dtype=dtype), 1.0
    return drawn


def probe_projection(implementation, seed, size):
    out = {}
    for dtype in ("float64", "float32"):
        for name, (x, radius) in draw_points(seed, dtype, size).items():
            given = torch.tensor(x)
            result = implementation(given, radius)
            out[f"result {dtype} {name}"] = np.array(torch.as_tensor(result).detach())
            out[f"kept {dtype} {name}"] = np.array(given)
    return out


def verify_projection(arrays, seed, size, verify_outside):
    for dtype in ("float64", "float32"):
        for name, (x, radius) in draw_points(seed, dtype, size).items():
            z, what = arrays[f"result {dtype} {name}"], f"the projection of {name}"
            assert z.dtype == dtype, f"{dtype} in gave {z.dtype} out"
            assert z.shape == x.shape, f"shape {x.shape} in gave shape {z.shape} out"
            kept = np.array_equal(arrays[f"kept {dtype} {name}"], x)
            assert kept, "x itself was changed: return a new tensor instead"
            exact, largest = x.astype("float64"), np.abs(x).max()
            if size(exact) <= radius:
                close(z, x, f"{what} (it should not move)", dtype)
            else:
                verify_outside(z, exact, radius, what, largest)


def length(x):
    return np.sqrt(np.sum(x * x))


def probe_project_l2(implementation, seed):
    return probe_projection(implementation, seed, length)


def verify_project_l2(arrays, seed):
    def outside(z, x, radius, what, largest):
        scale = max(1.0, np.sqrt(x.size) * radius)
        close(length(z), radius, f"the norm of {what}", z.dtype, floor=scale)
        close(z, radius / length(x) * x, what, z.dtype, floor=max(1.0, radius))

    verify_projection(arrays, seed, length, outside)


def taxicab(x):
    return np.sum(np.abs(x))


def probe_project_l1(implementation, seed):
    return probe_projection(implementation, seed, taxicab)


def verify_project_l1(arrays, seed):
    """The conditions of Karush, Kuhn and Tucker: they hold at the nearest point and nowhere else."""

    def outside(z, x, radius, what, largest):
        dtype = z.dtype
        z, tolerance = z.astype("float64"), TOLERANCE[dtype.name] * max(1.0, largest)
        assert np.all(np.isfinite(z)), f"{what} is NaN or infinite"
        missed = abs(taxicab(z) - radius)
        assert missed <= tolerance * x.size, f"{what} does not lie on the sphere: its absolute entries do not sum to r"
        assert np.all(z * x >= 0), f"{what} has an entry whose sign differs from x's"
        moved = np.abs(x) - np.abs(z)
        threshold = moved[z != 0].mean()
        assert threshold > 0, f"{what} did not move towards the origin"
        wrong = np.abs(moved - threshold)[z != 0] > 2 * tolerance
        assert not wrong.any(), f"in {what} not all entries that stay moved by the same amount"
        assert np.all(np.abs(x[z == 0]) <= threshold + 2 * tolerance), f"{what} has a zero where none belongs"
        clear = np.abs(x) < threshold - 2 * tolerance
        assert np.all(z[clear] == 0), f"in {what} an entry within the threshold is not exactly zero"

    verify_projection(arrays, seed, taxicab, outside)


# --- max-norm: one ball for every unit, in place -----------------------------------------------------------------

WEIGHTS = {"a linear layer": (6, 4), "a square layer": (5, 5), "one unit": (1, 7), "a convolution": (6, 3, 2, 4)}
CHANNELS_LAST = "a convolution, channels last in memory"


def draw_weights(seed, dtype):
    random = np.random.default_rng([seed, 2])
    drawn = {}
    for name, shape in (WEIGHTS | {CHANNELS_LAST: (4, 3, 2, 2)}).items():
        weight = random.normal(size=shape)
        norms = np.sqrt((weight.reshape(len(weight), -1) ** 2).sum(1)).reshape(-1, *[1] * (weight.ndim - 1))
        wanted = random.uniform(0.3, 0.9, size=norms.shape)  # of the bound: inside
        wanted.flat[::2] = random.uniform(1.2, 4, size=wanted.flat[::2].shape)  # outside
        if len(weight) > 1:
            wanted.flat[1] = 0.0  # a unit that is dead
        bound = float(random.uniform(0.3, 3))
        drawn[name] = (weight / norms * wanted * bound).astype(dtype), bound
    return drawn


def probe_max_norm_(implementation, seed):
    out = {}
    for dtype in ("float64", "float32"):
        for name, (weight, bound) in draw_weights(seed, dtype).items():
            layout = torch.channels_last if name == CHANNELS_LAST else torch.contiguous_format
            parameter = torch.nn.Parameter(torch.tensor(weight).contiguous(memory_format=layout))
            returned = implementation(parameter, bound)
            leaf, on = parameter.is_leaf and parameter.requires_grad, torch.is_grad_enabled()
            torch.set_grad_enabled(True)
            out[f"weight {dtype} {name}"] = parameter.detach().numpy().copy()
            out[f"facts {dtype} {name}"] = np.array([leaf, returned is parameter, on])
    return out


def verify_max_norm_(arrays, seed):
    for dtype in ("float64", "float32"):
        for name, (before, bound) in draw_weights(seed, dtype).items():
            after = arrays[f"weight {dtype} {name}"]
            leaf, same, on = arrays[f"facts {dtype} {name}"]
            assert after.shape == before.shape, f"the weight of {name} came out with another shape"
            assert on, "autograd is switched off for all that follows: `with torch.no_grad():` switches it back on"
            assert leaf, "the parameter must stay a leaf that requires a gradient: change its entries only"
            for unit, (old, new) in enumerate(zip(before, after, strict=True)):
                norm = length(old.astype("float64"))
                if norm <= bound:
                    what = f"unit {unit} of {name}, which lies inside its ball and should stay as it is,"
                    close(new, old, what, dtype, floor=max(1.0, bound))
                else:
                    wanted = old.astype("float64") * (bound / norm)
                    what = f"unit {unit} of {name}, which lies outside its ball,"
                    close(new, wanted, what, dtype, floor=max(1.0, bound))
            assert same, "the tensor that came in should be returned, the same object"


# --- ridge: from a strength to a radius and back -----------------------------------------------------------------


def draw_bowl(seed, dtype="float64"):
    """Eigenvalues, the last of them 0, and a moment that is 0 there."""
    random = np.random.default_rng([seed, 3])
    n = int(random.integers(4, 9))
    eigenvalues = 10 ** random.uniform(-2, 1, size=n)
    eigenvalues[-1] = 0.0
    moment = random.normal(size=n) * np.sqrt(eigenvalues) + 0.1 * eigenvalues
    order = random.permutation(n)
    return eigenvalues[order].astype(dtype), moment[order].astype(dtype)


def norm_by_solving(seed, eigenvalues, moment, strength):
    """‖(H + αI)⁻¹ b‖ with a Hessian whose eigenvectors are no coordinate axes."""
    random = np.random.default_rng([seed, 4])
    vectors = np.linalg.qr(random.normal(size=(len(moment), len(moment))))[0]
    hessian = vectors @ np.diag(eigenvalues.astype("float64")) @ vectors.T
    shifted = hessian + strength * np.eye(len(moment))
    return length(np.linalg.solve(shifted, vectors @ moment.astype("float64")))


def draw_strengths(seed):
    return [float(strength) for strength in 10 ** np.random.default_rng([seed, 5]).uniform(-2, 2, size=4)] + [1.0]


def probe_ridge_radius(implementation, seed):
    out = {}
    for dtype in ("float64", "float32"):
        eigenvalues, moment = (torch.tensor(array) for array in draw_bowl(seed, dtype))
        for index, strength in enumerate(draw_strengths(seed)):
            radius = implementation(eigenvalues, moment, strength)
            out[f"radius {dtype} {index}"] = np.array(torch.as_tensor(radius).detach())
    flat, pull = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    out["flat"] = np.array(torch.as_tensor(implementation(flat, pull, 0.25)).detach())
    return out


def verify_ridge_radius(arrays, seed):
    for dtype in ("float64", "float32"):
        eigenvalues, moment = draw_bowl(seed, dtype)
        for index, strength in enumerate(draw_strengths(seed)):
            radius = arrays[f"radius {dtype} {index}"]
            assert radius.dtype == dtype, f"{dtype} in gave {radius.dtype} out"
            wanted = norm_by_solving(seed, eigenvalues, moment, strength)
            what, ten = f"the radius for strength {strength:.3g}", 10 * TOLERANCE[dtype]
            close(radius / wanted, 1.0, what, dtype, exact=ten, rough=ten)
    close(arrays["flat"], 4.0, "the radius where the Hessian is zero, b is 1 and the strength is 1/4")


def draw_radii(seed):
    """By name: bowl and radius."""
    random = np.random.default_rng([seed, 6])
    eigenvalues, moment = draw_bowl(seed)
    seen = eigenvalues > 0
    free = length(moment[seen] / eigenvalues[seen])
    drawn = {
        f"{share:.3g} of the free solution's": (eigenvalues, moment, share * free)
        for share in random.uniform(0.1, 0.9, 3)
    }
    drawn["close to the free solution's"] = eigenvalues, moment, 0.999 * free
    drawn["tiny"] = eigenvalues, moment, 1e-6 * free
    drawn["larger than the free solution's"] = eigenvalues, moment, 1.5 * free
    pulled = np.where(seen, moment, random.uniform(0.5, 1))  # a flat direction in which the loss falls for ever
    drawn["any, as the loss falls for ever"] = eigenvalues, pulled, 3 * free
    drawn["large, with b = 0"] = eigenvalues, 0 * moment, 1.0
    return drawn


def probe_strength_for_radius(implementation, seed):
    out = {}
    for name, (eigenvalues, moment, radius) in draw_radii(seed).items():
        for dtype in (torch.float64, torch.float32):
            inputs = torch.tensor(eigenvalues, dtype=dtype), torch.tensor(moment, dtype=dtype)
            out[f"strength {dtype} {name}"] = np.array(float(implementation(*inputs, float(radius))))
    return out


def verify_strength_for_radius(arrays, seed):
    for name, (eigenvalues, moment, radius) in draw_radii(seed).items():
        for dtype, tolerance in ((torch.float64, 1e-7), (torch.float32, 1e-3)):
            strength = float(arrays[f"strength {dtype} {name}"])
            what = f"the strength for a radius that is {name}"
            assert np.isfinite(strength) and strength >= 0, f"{what} is negative, NaN or infinite"
            slack = name.startswith("large")
            if slack:
                assert strength <= 1e-12, f"{what} should be 0: the constraint does not bind"
                continue
            assert strength > 0, f"{what} is 0, but the constraint binds"
            found = norm_by_solving(seed, eigenvalues, moment, strength)
            assert abs(found / radius - 1) < tolerance, f"{what} gives a solution of another norm"
