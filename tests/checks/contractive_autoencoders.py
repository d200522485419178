"""What must be true of any implementation of the tasks in ``contractive_autoencoders``.

``probe_X`` calls an implementation on inputs drawn from the seed and returns what came out; ``verify_X`` decides,
from what it derives itself: closed forms of small encoders in NumPy, central differences, and known variances.
"""

from functools import partial

import numpy as np
import torch

from course_lib.grading import verdicts

close = partial(verdicts.close, rough=1e-3, floor=1e-3, typed=True)

DTYPES = ("float64", "float32")
SHAPES = [(7,), (1, 3, 4), (2, 5)]  # of one input


def gradient(leaf):
    return np.full(leaf.shape, np.nan) if leaf.grad is None else leaf.grad.detach().numpy().copy()


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


# --- the closed form: a loop over examples, units and inputs, and its derivatives ---------------------------------


def draw_layer(seed, dtype, batch):
    random = np.random.default_rng([seed, batch])
    units, pixels = int(random.integers(2, 6)), int(random.integers(6, 10))
    hidden = random.uniform(0.02, 0.98, size=(batch, units))
    hidden[0, 0] = 1.0  # a saturated unit
    return hidden.astype(dtype), (2 * random.normal(size=(units, pixels))).astype(dtype)


def probe_contractive_penalty(implementation, seed):
    out = {}
    for dtype in DTYPES:
        for batch in (6, 1):
            drawn = draw_layer(seed, dtype, batch)
            hidden, weight = (torch.tensor(array, requires_grad=True) for array in drawn)
            value = implementation(hidden, weight)
            (value + 0 * hidden.sum() + 0 * weight.sum()).backward()
            out[f"value {dtype} {batch}"] = value.detach().numpy()
            out[f"hidden {dtype} {batch}"], out[f"weight {dtype} {batch}"] = gradient(hidden), gradient(weight)
            after = (tensor.detach().numpy() for tensor in (hidden, weight))
            out[f"kept {dtype} {batch}"] = np.array([np.array_equal(*pair) for pair in zip(after, drawn, strict=True)])
    return out


def verify_contractive_penalty(arrays, seed):
    for dtype in DTYPES:
        for batch in (6, 1):
            hidden, weight = (array.astype("float64") for array in draw_layer(seed, dtype, batch))
            wanted, by_hidden, by_weight = 0.0, np.zeros_like(hidden), np.zeros_like(weight)
            for n, code in enumerate(hidden):
                for j, h in enumerate(code):
                    slope, row = h * (1 - h), (weight[j] ** 2).sum()
                    wanted += slope**2 * row / batch
                    by_hidden[n, j] = 2 * slope * (1 - 2 * h) * row / batch
                    by_weight[j] += 2 * slope**2 * weight[j] / batch
            where = f"for a batch of {batch}"
            close(arrays[f"value {dtype} {batch}"], wanted, f"the penalty {where}", dtype)
            close(arrays[f"weight {dtype} {batch}"], by_weight, f"its gradient in the weights {where}", dtype)
            close(arrays[f"hidden {dtype} {batch}"], by_hidden, f"its gradient in the codes {where}", dtype)
            assert arrays[f"kept {dtype} {batch}"].all(), "an argument was changed in place: leave them as they are"


# --- the Jacobian: closed forms of a curved encoder, and whether it trains ----------------------------------------


def draw_encoder(seed, dtype, batch, shape):
    """Inputs and two matrices of an encoder h = sin(A x) + (B x)² / 2, which has as many units as rows."""
    random = np.random.default_rng([seed, 1, batch, len(shape)])
    pixels, units = int(np.prod(shape)), int(random.integers(2, 9))
    a, b = random.normal(size=(2, units, pixels)) / np.sqrt(pixels)
    return [array.astype(dtype) for array in (random.normal(size=(batch, *shape)), a, b)]


def curved(a, b):
    """An encoder that takes batches of any shape."""
    return lambda x: torch.sin(x.flatten(1) @ a.T) + (x.flatten(1) @ b.T) ** 2 / 2


def curved_jacobian(x, a, b):
    flat = x.reshape(len(x), -1).astype("float64")
    j = np.cos(flat @ a.T)[:, :, None] * a + (flat @ b.T)[:, :, None] * b
    return j.reshape(len(x), len(a), *x.shape[1:])


def batches(seed):
    return [(5, SHAPES[seed % 3]), (1, SHAPES[(seed + 1) % 3])]


def probe_encoder_jacobian(implementation, seed):
    out = {}
    for dtype in DTYPES:
        for batch, shape in batches(seed):
            x, a, b = (torch.tensor(array) for array in draw_encoder(seed, dtype, batch, shape))
            a.requires_grad_()
            before, asks = x.clone(), batch == 1
            x.requires_grad_(asks)
            jacobian = implementation(curved(a, b), x)
            out[f"jacobian {dtype} {batch}"] = jacobian.detach().numpy()
            out[f"kept {dtype} {batch}"] = np.array(torch.equal(x, before))
            out[f"asks {dtype} {batch}"] = np.array(x.requires_grad == asks)
            (jacobian.square().sum() + 0 * a.sum()).backward()
            out[f"trains {dtype} {batch}"] = gradient(a)
    layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 4), torch.nn.ReLU()).double()
    with torch.no_grad():
        random = np.random.default_rng([seed, 2])
        for parameter in layers.parameters():
            parameter.copy_(torch.tensor(random.normal(size=tuple(parameter.shape))))
        x = torch.tensor(random.normal(size=(3, 1, 4, 3)))
    out["module"] = implementation(layers, x).detach().numpy()
    out["left on the module"] = np.array(all(parameter.grad is None for parameter in layers.parameters()))
    return out


def verify_encoder_jacobian(arrays, seed):
    assert arrays["left on the module"], "gradients were left in the parameters: use torch.autograd.grad, or torch.func"
    for dtype in DTYPES:
        for batch, shape in batches(seed):
            x, a, b = (array.astype("float64") for array in draw_encoder(seed, dtype, batch, shape))
            what = f"the Jacobian for inputs of shape {x.shape}"
            close(arrays[f"jacobian {dtype} {batch}"], curved_jacobian(x, a, b), what, dtype)
            assert arrays[f"kept {dtype} {batch}"], "x was changed in place: leave it as it is"
            assert arrays[f"asks {dtype} {batch}"], "x.requires_grad is another one now: work on a detached copy of x"
            flat = x.reshape(len(x), -1)
            j, slope = curved_jacobian(x, a, b).reshape(len(x), len(a), -1), np.cos(flat @ a.T)
            bent = -np.sin(flat @ a.T) * (j * a).sum(2)  # (batch, unit)
            wanted = 2 * (np.einsum("nj,nji->ji", slope, j) + np.einsum("nj,ni->ji", bent, flat))
            what = "the gradient of the Jacobian's squared norm in the encoder's parameters (does it train?)"
            close(arrays[f"trains {dtype} {batch}"], wanted, what, dtype)
    random = np.random.default_rng([seed, 2])
    weight, bias = random.normal(size=(4, 12)), random.normal(size=4)
    x = random.normal(size=(3, 1, 4, 3))
    on = x.reshape(3, 12) @ weight.T + bias > 0
    wanted = (on[:, :, None] * weight).reshape(3, 4, 1, 4, 3)
    close(arrays["module"], wanted, "the Jacobian of a torch module with rectified units", "float64")


# --- Hutchinson: exact where the rows are orthogonal; elsewhere its mean and its variance are known ---------------

CALLS, CALLED = 60, {"float64": 24, "float32": 2}  # how often an estimate is asked for
MANY, DEEP = 50, 20  # draws in one of them


def draw_linear(seed, dtype="float64"):
    """A matrix with rows that overlap, so that one probe is far from the norm."""
    random = np.random.default_rng([seed, 3])
    units, pixels = int(random.integers(3, 6)), int(random.integers(6, 10))
    rows = random.normal(size=(units, pixels)) + 2 * random.normal(size=pixels)
    return rows.astype(dtype)


def draw_orthogonal(seed, dtype):
    """Rows that are orthogonal, and of lengths of their own."""
    random = np.random.default_rng([seed, 4])
    units, pixels = int(random.integers(3, 6)), 12
    rows = np.linalg.qr(random.normal(size=(pixels, units)))[0].T * random.uniform(0.5, 2.0, size=(units, 1))
    return rows.astype(dtype), random.normal(size=(4, 3, 4)).astype(dtype)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def probe_hutchinson_penalty(implementation, seed):
    out = {}
    for dtype in DTYPES:
        rows, inputs = draw_orthogonal(seed, dtype)
        weight, x = torch.tensor(rows, requires_grad=True), torch.tensor(inputs)
        for probes in (1, 3):
            for batch in (4, 1):
                weight.grad, some = None, x[:batch].clone()
                state = torch.get_rng_state()
                value = implementation(lambda x, weight=weight: x.flatten(1) @ weight.T, some, probes, generator(seed))
                (value + 0 * weight.sum()).backward()
                out[f"value {dtype} {probes} {batch}"] = value.detach().numpy()
                out[f"own dice {dtype} {probes} {batch}"] = np.array(torch.equal(state, torch.get_rng_state()))
                out[f"kept {dtype} {probes} {batch}"] = np.array([torch.equal(some, x[:batch]), not some.requires_grad])
        # The squared norm's gradient, times the weights, is twice the norm for every z; its parts are random.
        out[f"trains {dtype}"] = (gradient(weight) * rows).sum()
        bent = torch.tensor(inputs[:1])
        z = implementation(lambda x: torch.sin(x.flatten(1)), bent, 1, generator(seed))
        out[f"curved {dtype}"] = z.detach().numpy()
    rows = torch.tensor(draw_linear(seed))
    x = torch.zeros(MANY, rows.shape[1], dtype=torch.float64)
    draw = generator(seed)
    for name, probes, inputs in (("one probe", 1, x), ("many probes", MANY, x[:1])):
        values = [implementation(lambda x: x @ rows.T, inputs, probes, draw).detach() for _ in range(CALLS)]
        out[name] = torch.stack(values).numpy()
    again = [implementation(lambda x: x @ rows.T, x, 2, generator(seed + 1)).detach() for _ in range(2)]
    out["again"] = torch.stack(again).numpy()
    overlap = torch.tensor([[1.0, 1.0], [1.0, 0.0]], dtype=torch.float64)  # a probe gives 1 or 5
    pairs = [implementation(lambda x: x @ overlap.T, x[:1, :2], 2, draw).detach() for _ in range(CALLS)]
    out["two probes"] = torch.stack(pairs).numpy()
    return out


def verify_hutchinson_penalty(arrays, seed):
    for dtype in DTYPES:
        rows, inputs = (array.astype("float64") for array in draw_orthogonal(seed, dtype))
        norm = np.asarray((rows**2).sum())
        for probes in (1, 3):
            for batch in (4, 1):
                what = f"for orthogonal rows (probes: {probes}, a batch of {batch}) the estimate"
                close(arrays[f"value {dtype} {probes} {batch}"], norm, what, dtype)
                own = arrays[f"own dice {dtype} {probes} {batch}"]
                assert own, "torch's global generator was used: pass `generator=generator` wherever you draw"
                kept = arrays[f"kept {dtype} {probes} {batch}"]
                assert kept.all(), "x was changed, or asks for gradients now: work on a detached copy of it"
        close(np.asarray(arrays[f"trains {dtype}"]), 2 * norm, "the gradient in the weights (does it train?)", dtype)
        wanted = (np.cos(inputs[0]) ** 2).sum()
        close(arrays[f"curved {dtype}"], wanted, "the estimate for an encoder without weights", dtype)
    rows = draw_linear(seed)
    gram = rows @ rows.T
    norm, variance = np.trace(gram), 2 * ((gram**2).sum() - (np.diag(gram) ** 2).sum())
    for name in ("one probe", "many probes"):
        values, where = arrays[name], "inputs" if name == "one probe" else "probes"
        spread = np.sqrt(variance / MANY)
        assert values.shape == (CALLS,) and np.all(np.isfinite(values)), "the estimate is not one finite number"
        off = abs(values.mean() - norm) / (spread / np.sqrt(CALLS))
        assert off < 6, f"the mean over {CALLS} estimates with {MANY} {where} is off: it is not unbiased"
        ratio = values.var(ddof=1) / spread**2
        assert ratio > 0.2, "the estimates hardly vary: is the Jacobian computed, or the same z drawn in every call?"
        assert ratio < 4, f"estimates over {MANY} {where} scatter too much: does each draw have a z of its own, of ±1?"
    assert np.array_equal(*arrays["again"]), "the same generator gave two different answers"
    found = set(arrays["two probes"].round(6).tolist())
    assert found == {1.0, 3.0, 5.0}, "two probes of one input depend on each other: has each a z of its own, not −z?"


# --- CAE+H: encoders whose second derivatives are constant, grow from zero, or sit in one point -------------------


def draw_quadratic(seed, dtype):
    random = np.random.default_rng([seed, 5])
    units, shape = int(random.integers(2, 4)), [(4,), (2, 2), (1, 2, 3)][seed % 3]
    pixels = int(np.prod(shape))
    half = random.normal(size=(units, pixels, pixels))
    return (half + half.swapaxes(1, 2)).astype(dtype), shape, float(random.uniform(0.05, 0.5))


def probe_hessian_penalty(implementation, seed):
    out = {}
    for dtype in DTYPES:
        matrices, shape, sigma = draw_quadratic(seed, dtype)
        second = torch.tensor(matrices, requires_grad=True)

        def quadratic(x, second=second):
            return torch.einsum("nj,kji,ni->nk", x.flatten(1), second, x.flatten(1)) / 2

        x = torch.tensor(np.random.default_rng([seed, 6]).normal(size=(MANY, *shape)).astype(dtype))
        before, state, draw, calls = x.clone(), torch.get_rng_state(), generator(seed), CALLED[dtype]
        wide = [implementation(quadratic, x, sigma, 1, draw) for _ in range(calls)]
        deep = [implementation(quadratic, x[:1], sigma, DEEP, draw) for _ in range(calls)]
        out[f"own dice {dtype}"] = np.array(torch.equal(state, torch.get_rng_state()))
        for name, values in (("wide", wide), ("deep", deep)):
            out[f"{name} {dtype}"] = torch.stack(values).detach().numpy()
        (sum(wide) / len(wide) + 0 * second.sum()).backward()
        out[f"trains {dtype}"] = (gradient(second) * matrices).sum()
        out[f"kept {dtype}"] = np.array([torch.equal(x, before), not x.requires_grad])
        linear = second.detach()[0]
        flat = implementation(lambda x, linear=linear: x.flatten(1) @ linear.T, x[:3], sigma, 2, generator(seed))
        out[f"linear {dtype}"] = flat.detach().numpy()
        again = [implementation(quadratic, x[:2], sigma, 2, generator(seed + 1)).detach() for _ in range(2)]
        out[f"again {dtype}"] = torch.stack(again).numpy()
    _, _, sigma = draw_quadratic(seed, "float64")
    origin = torch.zeros(2000, 2, dtype=torch.float64)
    out["cubic"] = implementation(lambda x: x**3 / 6, origin, sigma, 5, generator(seed + 2)).detach().numpy()
    apart = lambda x: (x[:, :1] - x[:, 1:]) ** 2 / 2  # noqa: E731
    out["difference"] = implementation(apart, origin, sigma, 5, generator(seed + 4)).detach().numpy()
    edge, draw = torch.full((1, 1), -1e-9, dtype=torch.float64), generator(seed + 3)
    pairs = [implementation(torch.relu, edge, 1.0, 2, draw).detach() for _ in range(CALLS)]
    out["two corruptions"] = torch.stack(pairs).numpy()
    return out


def verify_hessian_penalty(arrays, seed):
    for dtype in DTYPES:
        matrices, _, sigma = draw_quadratic(seed, dtype)
        gram = np.einsum("kij,kil->jl", matrices.astype("float64"), matrices.astype("float64"))
        norm, variance = np.trace(gram), 2 * (gram**2).sum()  # of ‖Hε/σ‖², ε/σ standard normal
        for name, draws in (("wide", MANY), ("deep", DEEP)):
            values = arrays[f"{name} {dtype}"]
            where = f"{draws} {'inputs' if name == 'wide' else 'corruptions'}"
            assert values.dtype == dtype, f"{dtype} in gave {values.dtype} out"
            assert values.shape == (CALLED[dtype],) and np.all(np.isfinite(values)), (
                "the penalty is not one finite number"
            )
            spread = np.sqrt(variance / draws)
            off = abs(values.mean() - norm) / (spread / np.sqrt(CALLED[dtype]))
            assert off < 6, (
                f"for a quadratic encoder, with {where}, the mean over many calls is off: an ε in every entry of x?"
            )
            if dtype == "float32":  # too few calls to judge their scatter
                continue
            ratio = values.var(ddof=1) / spread**2
            assert ratio > 0.1, "the penalty hardly varies: is ε normal, and drawn anew in every call?"
            assert ratio < 6, f"with {where} the penalty scatters too much: does every draw have an ε of its own?"
        value = arrays[f"wide {dtype}"].astype("float64").mean()
        off = abs(arrays[f"trains {dtype}"] - 2 * value)
        assert off < 1e-2 * abs(value), "gradients do not flow to the encoder's parameters, from both Jacobians"
        assert abs(arrays[f"linear {dtype}"]) < 1e-6, "a linear encoder has no second derivatives: the penalty is 0"
        assert arrays[f"own dice {dtype}"], "torch's global generator was used: pass `generator=generator`"
        assert arrays[f"kept {dtype}"].all(), "x was changed, or asks for gradients now: leave it as it is"
        assert np.array_equal(*arrays[f"again {dtype}"]), "the same generator gave two different answers"
    # For x³/6 at 0, ‖J(ε) − J(0)‖²/σ² is Σ ε⁴/4σ²: 3σ²/4 an entry if ε is normal, 0 for the second derivative at 0.
    _, _, sigma = draw_quadratic(seed, "float64")
    off = abs(arrays["cubic"] / (2 * 0.75 * sigma**2) - 1)
    assert off < 0.2, "for a cubic encoder the penalty is off: is it J(x + ε) − J(x) that is squared, with a normal ε?"
    # (a − b)²/2 has second derivatives ±1, four of them; it does not feel an ε that both entries share.
    assert abs(arrays["difference"] / 4 - 1) < 0.2, "off for (a − b)²/2: has every entry of x its own ε?"
    # A rectified unit at its edge: a corruption gives 0 or 1 with equal chances, two of them 0, 1/2 or 1.
    found = set(arrays["two corruptions"].round(6).tolist())
    assert found == {0.0, 0.5, 1.0}, "two corruptions of one input depend on each other: has each an ε of its own?"


# --- the effective rank: matrices made from chosen singular values ------------------------------------------------


def draw_matrices(seed, dtype):
    """Matrices and their singular values; high and wide ones; the last three are tiny, huge and zero."""
    random = np.random.default_rng([seed, 7])
    out = []
    for units, pixels in ((int(random.integers(2, 5)), 8), (9, int(random.integers(2, 5)))):
        rank = min(units, pixels)
        values = random.uniform(0.1, 3.0, size=(6, rank))
        values[1] = 1.0  # all directions alike
        values[2, 1:] = 0.0  # one direction
        values[-3] *= 1e-20
        values[-2] *= 1e20
        values[-1] = 0.0
        left = np.linalg.qr(random.normal(size=(6, units, units)))[0][:, :, :rank]
        right = np.linalg.qr(random.normal(size=(6, pixels, pixels)))[0][:, :rank]
        out.append(((left * values[:, None] @ right).astype(dtype), values))
    return out


def probe_participation_ratio(implementation, seed):
    out = {}
    for dtype in DTYPES:
        for index, (matrices, _) in enumerate(draw_matrices(seed, dtype)):
            given = torch.tensor(matrices)
            out[f"ratio {dtype} {index}"] = implementation(given).detach().numpy()
            out[f"one {dtype} {index}"] = implementation(given[:1]).detach().numpy()
            out[f"kept {dtype} {index}"] = np.array(torch.equal(given, torch.tensor(matrices)))
            leaf = torch.tensor(matrices[:1], requires_grad=True)
            (implementation(leaf).sum() + 0 * leaf.sum()).backward()
            out[f"gradient {dtype} {index}"] = gradient(leaf)
    return out


def verify_participation_ratio(arrays, seed):
    for dtype in DTYPES:
        for index, (matrices, values) in enumerate(draw_matrices(seed, dtype)):
            energy = (values / np.maximum(values.max(1, keepdims=True), 1e-300)) ** 2
            ratio = energy.sum(1) ** 2 / np.maximum((energy**2).sum(1), 1e-300)
            shape = f"matrices of shape {matrices.shape}"
            found = arrays[f"ratio {dtype} {index}"]
            close(
                found[:-3],
                ratio[:-3],
                f"the ratio of {shape}, beside a tiny, a huge and a zero one,",
                dtype,
                exact=1e-6,
            )
            close(found[-3], ratio[-3], "the ratio of a matrix with tiny entries", dtype, exact=1e-6)
            close(found[-2], ratio[-2], "the ratio of a matrix with huge entries", dtype, exact=1e-6)
            close(found, ratio, "the ratio of a matrix of zeros", dtype, exact=1e-6)
            close(arrays[f"one {dtype} {index}"], ratio[:1], "the ratio in a batch of one", dtype, exact=1e-6)
            j = matrices[0].astype("float64")
            total, fourth = (j**2).sum(), ((j @ j.T) ** 2).sum()
            wanted = 4 * total / fourth * j - 4 * total**2 / fourth**2 * (j @ j.T @ j)
            close(arrays[f"gradient {dtype} {index}"][0], wanted, f"the gradient in {shape}", dtype, exact=1e-6)
            assert arrays[f"kept {dtype} {index}"], "the Jacobian was changed in place: leave it as it is"
