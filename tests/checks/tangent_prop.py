"""What must be true of any implementation of the tasks in ``tangent_prop``.

``probe_X`` calls an implementation on inputs drawn from the seed and returns what came out; ``verify_X`` decides,
from what it derives itself: finite differences of a flow of the plane, and closed forms of small networks in NumPy.
"""

from functools import partial

import numpy as np
import torch

from course_lib.grading import verdicts

close = partial(verdicts.close, exact=1e-8, rough=2e-3, typed=True)

DTYPES = ("float64", "float32")
IMAGES = [(1, 6, 9), (3, 8, 8), (2, 7, 4), (4, 5, 1)]  # images, height, width; the first seeds all meet a batch of one
BATCHES = [(1, 1), (5, 3), (4, 1), (1, 4)]  # examples, tangents


def same(given, before):
    return np.array(all(torch.equal(one, torch.tensor(other)) for one, other in zip(given, before, strict=True)))


def gradients(leaves):
    """The gradients as arrays; zeros where none arrived."""
    return [(torch.zeros_like(leaf) if leaf.grad is None else leaf.grad).detach().numpy() for leaf in leaves]


# --- tangents: finite differences of a real flow of the plane ----------------------------------------------------


def draw_flow(seed, dtype):
    """Two batches of images, mostly not square, the smoothing width, and the velocities."""
    random = np.random.default_rng(seed)
    chosen = [IMAGES[0], IMAGES[1 + seed % 3]]
    images = [(random.random((n, 1, h, w)) ** 2).astype(dtype) for n, h, w in chosen]
    generators = random.normal(size=(1 + seed % 4, 2, 3)) * np.array([0.5, 0.5, 1.0])
    return images, generators.astype(dtype), float(random.uniform(0.6, 1.6))


def moved(images, generator, sigma, time):
    """The smooth image after a short flow: each pixel looks a little way back against the velocity."""
    height, width = images.shape[-2:]
    v, u = np.meshgrid(np.arange(height) - (height - 1) / 2, np.arange(width) - (width - 1) / 2, indexing="ij")
    right = generator[0, 0] * u + generator[0, 1] * v + generator[0, 2]
    down = generator[1, 0] * u + generator[1, 1] * v + generator[1, 2]
    rows, columns = v - time * down + (height - 1) / 2, u - time * right + (width - 1) / 2
    return verdicts.smooth_at(images, sigma, rows, columns)


def derivative(images, generators, sigma, step=1e-4):
    ends = [[moved(images, g, sigma, time) for g in generators.astype("float64")] for time in (step, -step)]
    return np.moveaxis(np.subtract(*ends), 0, 1)[:, :, None] / (2 * step)  # (batch, tangent, 1, height, width)


def probe_affine_tangents(implementation, seed):
    out = {}
    for dtype in DTYPES:
        images, generators, sigma = draw_flow(seed, dtype)
        for index, array in enumerate(images):
            given = torch.tensor(array), torch.tensor(generators)
            out[f"tangents {dtype} {index}"] = implementation(*given, sigma).detach().numpy()
            out[f"kept {dtype} {index}"] = same(given, (array, generators))
    images, generators, sigma = draw_flow(seed, "float64")
    leaf, flow = torch.tensor(images[1], requires_grad=True), torch.tensor(generators, requires_grad=True)
    answer = implementation(leaf, flow, sigma)
    (0 * leaf.sum() + 0 * flow.sum() + (answer * answer.detach()).sum()).backward()
    out["gradient"], out["gradient of the flow"] = leaf.grad.numpy(), flow.grad.numpy()
    return out


def verify_affine_tangents(arrays, seed):
    for dtype in DTYPES:
        images, generators, sigma = draw_flow(seed, dtype)
        for index, array in enumerate(images):
            wanted, found = derivative(array, generators, sigma), arrays[f"tangents {dtype} {index}"]
            assert found.shape == wanted.shape, (
                f"images {array.shape} and {len(generators)} generators gave {found.shape}, wanted {wanted.shape}"
            )
            what = f"the tangents of images of shape {array.shape}"
            close(found, wanted, what, dtype, exact=1e-6)
            assert arrays[f"kept {dtype} {index}"], "an argument was changed in place: leave them as they are"
    images, generators, sigma = draw_flow(seed, "float64")
    wanted = (derivative(images[1], generators, sigma) ** 2).sum()  # the tangents are linear in images and generators
    assert abs((arrays["gradient"] * images[1]).sum() - wanted) < 1e-4 * wanted, "no gradient flows to the images"
    found = (arrays["gradient of the flow"] * generators).sum()
    assert abs(found - wanted) < 1e-4 * wanted, "no gradient flows to the generators"


# --- forward through a ReLU network: the sum over its paths, example by example ----------------------------------


def draw_mlp(seed, dtype, index):
    """Weights and biases of one to four layers, inputs and tangents; one unit sits exactly at its kink."""
    random = np.random.default_rng([seed, 1, index])
    batch, count = BATCHES[(seed + index) % len(BATCHES)]
    sizes = [int(size) for size in random.integers(3, 8, size=(1, 4, 3)[index] + 1)]
    layers = [
        (random.normal(size=(out, into)) / np.sqrt(into), random.normal(size=out))
        for into, out in zip(sizes[:-1], sizes[1:], strict=True)
    ]
    if len(layers) > 1:  # z = 0 for every input: weights that cancel, no bias
        layers[0][0][1], layers[0][1][1] = 0.0, 0.0
    x, tangents = random.normal(size=(batch, sizes[0])), random.normal(size=(batch, count, sizes[0]))
    layers = [(weight.astype(dtype), bias.astype(dtype)) for weight, bias in layers]
    return layers, x.astype(dtype), tangents.astype(dtype)


def probe_mlp_pushforward(implementation, seed):
    out = {}
    for dtype in DTYPES:
        for index in range(3):
            layers, x, tangents = draw_mlp(seed, dtype, index)
            given = torch.tensor(x), torch.tensor(tangents)
            leaves = [(torch.tensor(w, requires_grad=True), torch.tensor(b, requires_grad=True)) for w, b in layers]
            outputs, slopes = implementation(leaves, *given)
            out[f"outputs {dtype} {index}"] = outputs.detach().numpy()
            out[f"slopes {dtype} {index}"] = slopes.detach().numpy()
            out[f"kept {dtype} {index}"] = same(given, (x, tangents))
            (slopes.square().sum() + sum(0 * part.sum() for pair in leaves for part in pair)).backward()
            for layer, (weight, _) in enumerate(leaves):
                out[f"gradient {dtype} {index} {layer}"] = weight.grad.detach().numpy()
    return out


def jacobian(layers, x):
    """Outputs and Jacobian of a ReLU network at one input, and the matrices that it is the product of."""
    factors, h = [], x
    for weight, bias in layers[:-1]:
        z = weight @ h + bias
        gate = (z > 0).astype("float64")
        factors.append((gate[:, None], weight))
        h = np.maximum(z, 0)
    factors.append((1.0, layers[-1][0]))
    return layers[-1][0] @ h + layers[-1][1], factors


def verify_mlp_pushforward(arrays, seed):
    for dtype in DTYPES:
        for index in range(3):
            layers, xs, tangents = draw_mlp(seed, dtype, index)
            layers = [(w.astype("float64"), b.astype("float64")) for w, b in layers]
            outputs, slopes, wanted = [], [], [np.zeros_like(w) for w, _ in layers]
            for x, directions in zip(xs.astype("float64"), tangents.astype("float64"), strict=True):
                output, factors = jacobian(layers, x)
                whole = np.eye(len(x))
                for gate, weight in factors:
                    whole = gate * weight @ whole
                outputs.append(output)
                slopes.append(directions @ whole.T)
                for at in range(len(layers)):  # d‖J·τ‖²/dW = 2·(what follows)ᵀ·J·τ·(what came before · τ)ᵀ
                    before, after = np.eye(len(x)), np.eye(len(layers[-1][1]))
                    for gate, weight in factors[:at]:
                        before = gate * weight @ before
                    for gate, weight in reversed(factors[at + 1 :]):
                        after = after @ (gate * weight)
                    gated = (after * np.transpose(factors[at][0])).T @ slopes[-1].T  # (out, tangent)
                    wanted[at] += 2 * gated @ (directions @ before.T)
            many = (
                f"{len(layers)} layer{'s' * (len(layers) > 1)}, {len(xs)} input(s) with {tangents.shape[1]} tangent(s)"
            )
            close(arrays[f"outputs {dtype} {index}"], outputs, f"the output of {many}", dtype, exact=1e-10)
            close(arrays[f"slopes {dtype} {index}"], slopes, f"J·τ of {many}", dtype, exact=1e-10)
            assert arrays[f"kept {dtype} {index}"], "an argument was changed in place: leave them as they are"
            for at, gradient in enumerate(wanted):
                what = f"the gradient of ‖J·τ‖² with respect to the weight of layer {at} of {len(layers)}"
                close(arrays[f"gradient {dtype} {index} {at}"], gradient, what, dtype, exact=1e-9)


# --- penalties of a tanh network with one hidden layer, all in closed form --------------------------------------


class Network:
    """Scores W₂·tanh(W₁·x + b₁) + b₂ of images that need not be square, their classes and tangents."""

    def __init__(self, seed, index):
        random = np.random.default_rng([seed, 2, index])
        batch, count = BATCHES[(seed + index) % len(BATCHES)]
        self.shape = [(1, 3, 4), (6,), (2, 2, 1)][(seed + index) % 3]
        pixels, hidden, classes = int(np.prod(self.shape)), int(random.integers(3, 6)), int(random.integers(3, 5))
        shapes = (hidden, pixels), (hidden,), (classes, hidden), (classes,)
        self.parameters = [0.7 * random.normal(size=shape) for shape in shapes]
        self.x = random.normal(size=(batch, *self.shape))
        self.tangents = random.normal(size=(batch, count, *self.shape))
        self.y = random.integers(0, classes, size=batch)
        self.strength, self.lr = float(random.uniform(0.2, 2.0)), float(random.uniform(0.05, 0.3))
        if index == 2:  # plain training, but the penalty is still to be measured
            self.strength = 0.0

    def tensors(self, dtype):
        """The input, the tangents and the parameters as torch has them; the last ones ask for gradients."""
        x, tangents = torch.tensor(self.x.astype(dtype)), torch.tensor(self.tangents.astype(dtype))
        return x, tangents, [torch.tensor(part.astype(dtype), requires_grad=True) for part in self.parameters]

    def loss(self, parameters):
        """Cross-entropy, a mean."""
        scores = self.scores(parameters)[1]
        top = scores.max(axis=1, keepdims=True)
        logs = scores - top - np.log(np.exp(scores - top).sum(axis=1, keepdims=True))
        return -logs[np.arange(len(self.y)), self.y].mean()

    def scores(self, parameters):
        first, shift, second, offset = parameters
        hidden = np.tanh(self.x.reshape(len(self.x), -1) @ first.T + shift)
        return hidden, hidden @ second.T + offset

    def along_tangents(self, parameters):
        """The mean over examples of the squared derivative of all scores along all tangents."""
        first, _, second, _ = parameters
        hidden = self.scores(parameters)[0]
        inner = self.tangents.reshape(*self.tangents.shape[:2], -1) @ first.T
        return (((1 - hidden**2)[:, None] * inner @ second.T) ** 2).sum() / len(self.x)

    def of_inputs(self, parameters):
        """The mean over examples of the squared gradient of the cross-entropy by the input."""
        first, _, second, _ = parameters
        hidden, scores = self.scores(parameters)
        chances = np.exp(scores - scores.max(axis=1, keepdims=True))
        chances = chances / chances.sum(axis=1, keepdims=True) - np.eye(scores.shape[1])[self.y]
        return ((((chances @ second) * (1 - hidden**2)) @ first) ** 2).sum() / len(self.x)

    def slope(self, function, step=1e-5):
        """The gradient of a function of the parameters, by central differences."""
        found = []
        for place, part in enumerate(self.parameters):
            gradient = np.zeros(part.shape)
            for entry in np.ndindex(part.shape):
                ends = []
                for sign in (1, -1):
                    changed = [other.copy() for other in self.parameters]
                    changed[place][entry] += sign * step
                    ends.append(function(changed))
                gradient[entry] = (ends[0] - ends[1]) / (2 * step)
            found.append(gradient)
        return found


class Watched(torch.nn.Module):
    """Applies a function, and notes in which mode (training or evaluation) it was called."""

    def __init__(self, function=lambda x: x):
        super().__init__()
        self.function, self.modes = function, []

    def forward(self, x):
        self.modes.append(self.training)
        return self.function(x)

    def kept(self, mode):
        return self.training == mode and all(seen == mode for seen in self.modes)


MODE = "the model was switched to another mode (training or evaluation) than it came in"


def torch_scores(parameters):
    first, shift, second, offset = parameters
    return lambda x: torch.tanh(x.flatten(1) @ first.T + shift) @ second.T + offset


def probe_penalty(call, seed):
    """``call(network, x, tangents, parameters)`` gives a penalty; its value, gradients, and what it left behind."""
    out = {}
    for dtype in DTYPES:
        for index in range(2):
            network = Network(seed, index)
            x, tangents, parameters = network.tensors(dtype)
            before = x.numpy().copy(), tangents.numpy().copy()
            value = call(network, x, tangents, parameters)
            out[f"untouched {dtype} {index}"] = np.array(all(leaf.grad is None for leaf in parameters))
            (value + sum(0 * leaf.sum() for leaf in parameters)).backward()
            out[f"value {dtype} {index}"] = value.detach().numpy()
            for place, gradient in enumerate(gradients(parameters)):
                out[f"gradient {dtype} {index} {place}"] = gradient
            kept = bool(same((x, tangents), before)) and not x.requires_grad and not tangents.requires_grad
            out[f"kept {dtype} {index}"] = np.array(kept)
    return out


def verify_penalty(arrays, seed, value_of):
    for dtype in DTYPES:
        for index in range(2):
            network = Network(seed, index)
            many = f"{len(network.x)} input(s) of shape {network.shape}, {network.tangents.shape[1]} tangent(s) each"
            wanted = value_of(network, network.parameters)
            close(arrays[f"value {dtype} {index}"], wanted, f"the penalty of {many}", dtype, exact=1e-9)
            for place, gradient in enumerate(network.slope(lambda p, n=network: value_of(n, p))):
                name = ("the first weight", "the first bias", "the last weight", "the last bias")[place]
                what = f"the penalty's gradient with respect to {name}"
                close(arrays[f"gradient {dtype} {index} {place}"], gradient, what, dtype, exact=1e-6, rough=5e-3)
            assert arrays[f"untouched {dtype} {index}"], "the penalty wrote a .grad: only the caller's backward may"
            assert arrays[f"kept {dtype} {index}"], "the inputs were changed, or were made to require gradients"


def probe_tangent_penalty(implementation, seed):
    kept = []

    def call(network, x, tangents, parameters):
        mode = len(kept) % 2 == 0
        model = Watched(torch_scores(parameters)).train(mode)
        value = implementation(model, x, tangents)
        kept.append(model.kept(mode))
        return value

    return probe_penalty(call, seed) | {"mode": np.array(all(kept))}


def verify_tangent_penalty(arrays, seed):
    verify_penalty(arrays, seed, lambda network, parameters: network.along_tangents(parameters))
    assert arrays["mode"], MODE


def probe_gradient_penalty(implementation, seed):
    def call(network, x, tangents, parameters):
        scores, y = torch_scores(parameters), torch.tensor(network.y)
        return implementation(lambda z: torch.nn.functional.cross_entropy(scores(z), y, reduction="none"), x)

    return probe_penalty(call, seed)


def verify_gradient_penalty(arrays, seed):
    verify_penalty(arrays, seed, lambda network, parameters: network.of_inputs(parameters))


# --- one training step --------------------------------------------------------------------------------------------


def module(parameters):
    first, shift, second, offset = parameters
    layers = torch.nn.Linear(*first.shape[::-1]), torch.nn.Tanh(), torch.nn.Linear(*second.shape[::-1])
    model = torch.nn.Sequential(Watched(), torch.nn.Flatten(), *layers).to(first.dtype)
    for parameter, value in zip(model.parameters(), parameters, strict=True):
        parameter.data.copy_(value.detach())
    return model


def probe_tangent_prop_step(implementation, seed):
    out = {}
    for dtype in DTYPES:
        for index in range(3):
            network = Network(seed, index)
            x, tangents, parameters = network.tensors(dtype)
            before = x.numpy().copy(), tangents.numpy().copy()
            model = module(parameters).train(index == 0)
            optimizer = torch.optim.SGD(model.parameters(), lr=network.lr, momentum=0.5)
            for parameter in model.parameters():  # what an earlier backward might have left
                parameter.grad = torch.full_like(parameter, 3.0)
            loss, penalty = implementation(model, optimizer, x, torch.tensor(network.y), tangents, network.strength)
            plain = isinstance(loss, float) and isinstance(penalty, float)
            out[f"floats {dtype} {index}"] = np.array(plain)
            out[f"loss {dtype} {index}"], out[f"penalty {dtype} {index}"] = (
                np.array(float(loss)),
                np.array(float(penalty)),
            )
            for place, parameter in enumerate(model.parameters()):
                out[f"parameter {dtype} {index} {place}"] = parameter.detach().numpy().copy()
            out[f"kept {dtype} {index}"] = same((x, tangents), before)
            out[f"mode {dtype} {index}"] = np.array(model.training == (index == 0) and model[0].kept(index == 0))
    return out


def verify_tangent_prop_step(arrays, seed):
    for dtype in DTYPES:
        for index in range(3):
            network = Network(seed, index)
            loose = 1e-9 if dtype == "float64" else 2e-3
            loss, penalty = network.loss(network.parameters), network.along_tangents(network.parameters)
            assert arrays[f"floats {dtype} {index}"], "wanted two Python floats: call .item() on scalar tensors"
            for name, wanted in (("loss", loss), ("penalty", penalty)):
                close(arrays[f"{name} {dtype} {index}"], wanted, f"the {name} that is returned", "float64", exact=loose)
            slopes = network.slope(lambda p, n=network: n.loss(p) + n.strength * n.along_tangents(p))
            for place, (start, slope) in enumerate(zip(network.parameters, slopes, strict=True)):
                name = ("first weight", "first bias", "last weight", "last bias")[place]
                what = f"the {name} after the step (optimizer: SGD; old gradients were lying around)"
                close(
                    arrays[f"parameter {dtype} {index} {place}"],
                    start - network.lr * slope,
                    what,
                    dtype,
                    exact=1e-6,
                    rough=5e-3,
                )
            assert arrays[f"kept {dtype} {index}"], "the inputs were changed"
            assert arrays[f"mode {dtype} {index}"], MODE
