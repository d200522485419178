"""What must be true of any implementation of the tasks in ``norm_penalties``.

``probe_X`` calls an implementation on inputs drawn from the seed and returns what came out; ``verify_X`` decides,
from what it derives itself. The grader runs the first inside the student's kernel and the second outside it.
"""

from functools import partial

import numpy as np
import torch

from course_lib.grading import verdicts

close = partial(verdicts.close, exact=1e-10, rough=2e-4)

SHAPES = [(), (1,), (7,), (4, 3), (2, 3, 5)]


def draw_parameters(seed, dtype="float64"):
    """A few arrays of random shapes, one entry in five exactly zero, none all zero."""
    random = np.random.default_rng(seed)
    shapes = [SHAPES[index] for index in random.permutation(len(SHAPES))[: random.integers(2, 5)]]
    arrays = [random.normal(size=shape) * (random.random(shape) > 0.2) for shape in shapes]
    arrays.append(np.array([1e-6, -1e-6]))  # small is not zero
    return [np.asarray(np.where(np.any(array), array, array + 1.0), dtype=dtype) for array in arrays]


def draw_strength(seed):
    return float(np.random.default_rng([seed, 1]).uniform(0.1, 2.0))


def unchanged(got, wanted, what):
    assert np.array_equal(got, wanted), f"{what} was changed in place: return a new tensor instead"


# --- penalties: value, gradient, dtype, and a generator as input ------------------------------------------------


def probe_penalty(implementation, seed):
    out = {}
    for dtype in ("float64", "float32"):
        leaves = [torch.tensor(array, requires_grad=True) for array in draw_parameters(seed, dtype)]
        value = implementation((leaf for leaf in leaves), draw_strength(seed))
        value.backward()
        out[f"value {dtype}"] = value.detach().numpy()
        for index, leaf in enumerate(leaves):
            gradient = torch.full_like(leaf, torch.nan) if leaf.grad is None else leaf.grad
            out[f"gradient {dtype} {index}"] = gradient.numpy()
    still = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    implementation([still], 1.0).backward()
    out["gradient at zero"] = still.grad.numpy()
    frozen = torch.full((2, 2), 3.0, dtype=torch.float64)
    out["frozen"] = implementation([frozen, torch.ones(1, dtype=torch.float64)], 1.0).detach().numpy()
    out["zero strength"] = implementation([torch.ones(3, dtype=torch.float64)], 0.0).detach().numpy()
    return out


def verify_penalty(arrays, seed, value_of, gradient_of):
    strength = draw_strength(seed)
    for dtype in ("float64", "float32"):
        parameters = draw_parameters(seed, dtype)
        value = arrays[f"value {dtype}"]
        assert value.dtype == dtype, f"{dtype} parameters gave a penalty in {value.dtype}"
        exact = [parameter.astype("float64") for parameter in parameters]
        wanted = sum(value_of(parameter).sum() for parameter in exact)
        close(value, strength * wanted, f"the value of the penalty in {dtype}", dtype)
        for index, parameter in enumerate(exact):
            what = f"the gradient with respect to a parameter of shape {parameter.shape}"
            close(arrays[f"gradient {dtype} {index}"], strength * gradient_of(parameter), what, dtype)
    close(arrays["gradient at zero"], np.zeros(3), "the gradient where all parameters are zero")
    wanted = 4 * value_of(np.array(3.0)) + value_of(np.array(1.0))
    close(arrays["frozen"], wanted, "the penalty of parameters that need no gradient")
    close(arrays["zero strength"], 0.0, "the penalty of strength 0")


def probe_l2_penalty(implementation, seed):
    return probe_penalty(implementation, seed)


def verify_l2_penalty(arrays, seed):
    verify_penalty(arrays, seed, lambda theta: theta**2 / 2, lambda theta: theta)


def probe_l1_penalty(implementation, seed):
    return probe_penalty(implementation, seed)


def verify_l1_penalty(arrays, seed):
    verify_penalty(arrays, seed, np.abs, np.sign)


# --- soft threshold: the minimum of (z - x)^2 / 2 + t |z|, checked by its optimality condition ------------------


def draw_threshold_inputs(seed, dtype):
    random = np.random.default_rng([seed, 2])
    threshold = float(random.uniform(0.2, 1.5))
    shape = SHAPES[2 + seed % 3]
    beyond = threshold * (1 + (1e-7 if dtype == "float64" else 1e-2))  # just not zero
    edges = np.array([0.0, threshold / 2, -threshold / 2, 3 * threshold, -3 * threshold, beyond, -beyond])
    x = np.concatenate([random.normal(size=shape).ravel() * 2, edges]).astype(dtype)
    return x.reshape(-1, 1) if seed % 2 else x, threshold


def probe_soft_threshold(implementation, seed):
    out = {}
    for dtype in ("float64", "float32"):
        x, threshold = draw_threshold_inputs(seed, dtype)
        leaf = torch.tensor(x, requires_grad=True)
        result = implementation(leaf, threshold)
        result.sum().backward()
        out[f"result {dtype}"] = result.detach().numpy()
        out[f"gradient {dtype}"] = leaf.grad.numpy()
        plain = torch.tensor(x)
        implementation(plain, threshold)
        out[f"input after {dtype}"] = plain.numpy()
        out[f"threshold 0 {dtype}"] = implementation(plain.clone(), 0.0).numpy()
    return out


def verify_soft_threshold(arrays, seed):
    for dtype in ("float64", "float32"):
        x, threshold = draw_threshold_inputs(seed, dtype)
        z = arrays[f"result {dtype}"]
        assert z.dtype == dtype, f"{dtype} in gave {z.dtype} out"
        assert z.shape == x.shape, f"shape {x.shape} in gave shape {z.shape} out"
        inside = np.abs(x) <= threshold
        assert np.all(z[inside] == 0), "an entry with |x| ≤ t is not exactly zero"
        # Elsewhere the derivative z − x + t·sign(z) of the objective vanishes.
        slope = z - x + threshold * np.sign(z)
        close(slope[~inside], np.zeros_like(slope[~inside]), "an entry with |x| > t", dtype)
        close(arrays[f"gradient {dtype}"], 1.0 - inside, "the gradient of the output's sum", dtype)
        unchanged(arrays[f"input after {dtype}"], x, "the input")
        close(arrays[f"threshold 0 {dtype}"], x, "the result for threshold 0", dtype)


# --- elastic-net step: the minimum, checked by its optimality condition -----------------------------------------


def draw_step_inputs(seed, dtype):
    random = np.random.default_rng([seed, 3])
    shape = SHAPES[2 + seed % 3]
    weight, gradient = random.normal(size=(2, *shape))
    lr, l1, l2 = (float(number) for number in random.uniform(0.2, 1.2, size=3))
    weight.flat[0], gradient.flat[0] = 0.5 * lr * l1, 0.0  # lands inside the threshold
    weight.flat[1], gradient.flat[1] = 2.0, -1.0  # and one that does not
    weight.flat[3], gradient.flat[3] = 0.0, -l1 - 1.0  # a zero that must not stay one
    weight.flat[2], gradient.flat[2] = 1.0002 * lr * l1, 0.0  # and one that only just does not
    return weight.astype(dtype), gradient.astype(dtype), lr, l1, l2


def probe_elastic_net_proximal_step(implementation, seed):
    out = {}
    for dtype in ("float64", "float32"):
        weight, gradient, lr, l1, l2 = draw_step_inputs(seed, dtype)
        inputs = torch.tensor(weight), torch.tensor(gradient)
        out[f"result {dtype}"] = implementation(*inputs, lr, l1, l2).numpy()
        out[f"weight after {dtype}"], out[f"gradient after {dtype}"] = inputs[0].numpy(), inputs[1].numpy()
    inputs = torch.tensor(weight, dtype=torch.float64), torch.tensor(gradient, dtype=torch.float64)
    out["no penalty"] = implementation(*inputs, lr, 0.0, 0.0).numpy()
    out["only l1"] = implementation(*inputs, lr, l1, 0.0).numpy()
    out["only l2"] = implementation(*inputs, lr, 0.0, l2).numpy()
    return out


def stationary(z, weight, gradient, lr, l1, l2, what, dtype):
    """The objective (z − w + ηg)²/2η + α₁|z| + α₂z²/2 has 0 in its subdifferential at z, entry by entry."""
    assert z.shape == weight.shape, f"{what} has shape {z.shape}, the weight has {weight.shape}"
    slope = (z - weight + lr * gradient) / lr + l2 * z
    zero = z == 0
    close((slope + l1 * np.sign(z))[~zero], np.zeros((~zero).sum()), f"{what}, where it is not zero,", dtype)
    assert np.all(np.abs(slope[zero]) <= l1 * (1 + 1e-5) + 1e-6), f"{what} is zero where it should not be"


def verify_elastic_net_proximal_step(arrays, seed):
    for dtype in ("float64", "float32"):
        weight, gradient, lr, l1, l2 = draw_step_inputs(seed, dtype)
        z = arrays[f"result {dtype}"]
        assert z.dtype == dtype, f"{dtype} in gave {z.dtype} out"
        stationary(z, weight, gradient, lr, l1, l2, f"the step in {dtype}", dtype)
        assert z.flat[0] == 0, "an entry with |w − ηg| ≤ η·α₁ is not exactly zero"
        unchanged(arrays[f"weight after {dtype}"], weight, "the weight")
        unchanged(arrays[f"gradient after {dtype}"], gradient, "the gradient")
    weight, gradient = weight.astype("float64"), gradient.astype("float64")
    for name, kept in {"no penalty": (0, 0), "only l1": (l1, 0), "only l2": (0, l2)}.items():
        stationary(arrays[name], weight, gradient, lr, *kept, f"the step with {name}", "float64")


# --- AdamW: several steps beside a NumPy loop that follows the paper's algorithm line by line --------------------


def draw_training(seed, dtype):
    random = np.random.default_rng([seed, 4])
    shape = SHAPES[2 + seed % 3]
    weight = random.normal(size=shape).astype(dtype)
    gradients = (random.normal(size=(4, *shape)) * 10.0 ** random.uniform(-3, 1, size=shape)).astype(dtype)
    gradients[:, 0] = 0.0  # some weights that the data do not move: only the decay does
    gradients[:3, 1], gradients[3, 1] = 1.0, 0.0  # and some whose running mean of squares falls in the end
    return weight, gradients, float(random.uniform(0.05, 0.3)), float(random.uniform(0.2, 1.0))


def draw_late_step(seed):
    """Weight, gradient, mean and square in the middle of a training."""
    weight, gradient, mean, square = np.random.default_rng([seed, 6]).normal(size=(4, 5))
    return weight, gradient, mean, square**2


def probe_adamw_step(implementation, seed):
    out = {}
    for dtype in ("float64", "float32"):
        start, gradients, lr, decay = draw_training(seed, dtype)
        weight, mean, square = torch.tensor(start), torch.zeros(start.shape), torch.zeros(start.shape)
        mean, square = mean.to(weight.dtype), square.to(weight.dtype)
        for step, gradient in enumerate(gradients, start=1):
            before = weight.clone(), mean.clone(), square.clone(), torch.tensor(gradient)
            given = weight, mean, square, torch.tensor(gradient)
            weight, mean, square = implementation(weight, given[3], mean, square, step, lr, decay)
            kept = all(torch.equal(one, other) for one, other in zip(before, given, strict=True))
            out[f"kept {dtype} {step}"] = np.array(kept)
            for name, tensor in (("weight", weight), ("mean", mean), ("square", square)):
                out[f"{name} {dtype} {step}"] = tensor.numpy().copy()
    late = draw_late_step(seed)
    out["late"] = implementation(*map(torch.tensor, late), step=700, lr=0.1, decay=0.5)[0].numpy().copy()
    return out


def verify_adamw_step(arrays, seed):
    weight, g, m, v = draw_late_step(seed)
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
    adam = (m / (1 - 0.9**700)) / (np.sqrt(v / (1 - 0.999**700)) + 1e-8)
    wanted = (1 - 0.1 * 0.5) * weight - 0.1 * adam
    for dtype in ("float64", "float32"):
        weight, gradients, lr, decay = draw_training(seed, dtype)
        weight, m, v = weight.astype("float64"), 0.0, 0.0
        for step, g in enumerate(gradients.astype("float64"), start=1):
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            adam = (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
            weight = weight - lr * decay * weight - lr * adam
            assert arrays[f"weight {dtype} {step}"].dtype == dtype, f"{dtype} weights came back in another dtype"
            assert arrays[f"kept {dtype} {step}"], "an argument was changed in place: return new tensors instead"
            still = arrays[f"weight {dtype} {step}"][0], weight[0]
            close(*still, "a weight whose gradient is zero, which only the decay should move,", dtype)
            close(arrays[f"mean {dtype} {step}"], m, f"the running mean after step {step}", dtype)
            close(arrays[f"square {dtype} {step}"], v, f"the running mean of squares after step {step}", dtype)
            close(arrays[f"weight {dtype} {step}"], weight, f"the weight after step {step}", dtype)
    close(arrays["late"], wanted, "the weight after step 700 (both averages are still corrected)")
