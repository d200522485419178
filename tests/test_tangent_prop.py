"""tangent_prop: wrong and right versions of each task, independent peers, closed forms, bad input."""

import math

import pytest
import torch
import torch.nn.functional as F
from checks import tangent_prop as checks
from torch import nn

from course_lib import tangent_prop as library
from course_lib.augmentation import affine_warp, first_order_penalty
from course_lib.data import digits
from course_lib.tangent_distance import image_gradient, smooth_images, tangent_vectors

TANGENTS = """
def tangents(images, generators, sigma):
    height, width = images.shape[-2:]
    u = torch.arange(width, dtype=images.dtype, device=images.device) - (width - 1) / 2
    v = torch.arange(height, dtype=images.dtype, device=images.device)[:, None] - (height - 1) / 2
    down, right = image_gradient(images, sigma).unbind(dim=1)
    found = []
    for a, b in generators:
        to_right = a[0] * u + a[1] * v + a[2]
        to_down = b[0] * u + b[1] * v + b[2]
        found.append(-(to_right * right + to_down * down)[:, None])
    return torch.stack(found, dim=1)
"""
MLP = """
def push(layers, x, tangents):
    h, t = x, tangents
    for i, (weight, bias) in enumerate(layers):
        h, t = h @ weight.T + bias, t @ weight.T
        if i < len(layers) - 1:
            t = t * (h > 0)[:, None]
            h = h.clamp(min=0)
    return h, t
"""
PENALTY = """
def penalty(model, x, tangents):
    total = 0
    for tangent in tangents.unbind(dim=1):
        slope = torch.func.jvp(model, (x,), (tangent,))[1]
        total = total + (slope**2).sum()
    return total / len(x)
"""
GRADIENT = """
def penalty(losses, x):
    leaf = x.clone().requires_grad_()
    gradient = torch.autograd.grad(losses(leaf).sum(), leaf, create_graph=True)[0]
    return (gradient**2).sum() / len(x)
"""
STEP = """
def step(model, optimizer, x, y, tangents, strength):
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    slopes = [torch.func.jvp(model, (x,), (tangent,))[1] for tangent in tangents.unbind(dim=1)]
    penalty = sum((slope**2).sum() for slope in slopes) / len(x)
    objective = loss + strength * penalty
    objective.backward()
    optimizer.step()
    return loss.item(), penalty.item()
"""


def edited(source, *changes):
    """The function in a source text, with the mistakes that pairs of old and new text make."""
    for old, new in zip(changes[::2], changes[1::2], strict=True):
        assert old in source, old
        source = source.replace(old, new)
    scope = {"torch": torch, "F": F, "image_gradient": image_gradient}
    exec(source, scope)
    return scope[source.split("def ")[1].split("(")[0]]


def differences(model, x, tangents, step=1e-2):
    """Central difference quotients instead of derivatives."""
    ends = [[model(x + sign * step * t) for t in tangents.unbind(1)] for sign in (1, -1)]
    slopes = [(ahead - behind) / (2 * step) for ahead, behind in zip(*ends, strict=True)]
    return sum((slope**2).sum() for slope in slopes) / len(x)


def unit(tangents):
    """Every tangent scaled to length 1."""
    return tangents / tangents.flatten(2).norm(dim=2).reshape(*tangents.shape[:2], *[1] * (tangents.ndim - 2))


# What students write by mistake: each must lose points.
MUTANTS = {
    "affine_tangents": {
        "minus sign forgotten": edited(TANGENTS, "-(to_right", "(to_right"),
        "right and down swapped": edited(TANGENTS, "down, right =", "right, down ="),
        "v upwards": edited(TANGENTS, "- (height - 1) / 2", "- (height - 1) / 2\n    v = -v"),
        "from the corner": edited(TANGENTS, " - (width - 1) / 2", "", " - (height - 1) / 2", ""),
        "centre half a pixel off": edited(TANGENTS, "(width - 1) / 2", "width / 2"),
        "one centre for both sides": edited(TANGENTS, "(width - 1) / 2", "(height - 1) / 2"),
        "shift forgotten": edited(TANGENTS, " + a[2]", "", " + b[2]", ""),
        "A transposed": edited(TANGENTS, "a[1] * v", "b[0] * v", "b[0] * u", "a[1] * u"),
        "coordinates from -1 to 1": edited(
            TANGENTS, "    down, right", "    u, v = 2 * u / width, 2 * v / height\n    down, right"
        ),
        "not smooth enough": edited(TANGENTS, "image_gradient(images, sigma)", "image_gradient(images, sigma / 2)"),
        "first generator only": edited(TANGENTS, "in generators:", "in generators[:1]:"),
        "tangents before batch": edited(TANGENTS, "found, dim=1", "found, dim=0"),
        "channel forgotten": edited(TANGENTS, "[:, None])\n    return", ")\n    return"),
        "unit length": lambda images, generators, sigma: unit(edited(TANGENTS)(images, generators, sigma)),
        "always float32": lambda images, generators, sigma: edited(TANGENTS)(images.float(), generators.float(), sigma),
        "detached": edited(TANGENTS, "image_gradient(images", "image_gradient(images.detach()"),
        "generators as plain numbers": edited(TANGENTS, "in generators:", "in generators.tolist():"),
    },
    "mlp_pushforward": {
        "bias added to tangents": edited(MLP, "t @ weight.T\n", "t @ weight.T + bias\n"),
        "ReLU of the tangent": edited(MLP, "t * (h > 0)[:, None]", "t.clamp(min=0)"),
        "gate of the tangent": edited(MLP, "t * (h > 0)[:, None]", "t * (t > 0)"),
        "no gate": edited(MLP, "t * (h > 0)[:, None]", "t"),
        "gate open at zero": edited(MLP, "(h > 0)", "(h >= 0)"),
        "ReLU after the last layer": edited(MLP, "if i < len(layers) - 1", "if True"),
        "one ReLU too few": edited(MLP, "len(layers) - 1", "len(layers) - 2"),
        "weights multiplied by h as well": edited(MLP, "t * (h > 0)[:, None]", "t * h.clamp(min=0)[:, None]"),
        "first tangent only": edited(MLP, "h, t = x, tangents", "h, t = x, tangents[:, :1]"),
        "gates of the first example": edited(MLP, "(h > 0)[:, None]", "(h > 0)[:1, None]"),
        "sum of the tangents": edited(MLP, "return h, t", "return h, t.sum(1, keepdim=True).expand_as(t)"),
        "weights detached": edited(MLP, "t @ weight.T\n", "t @ weight.T.detach()\n"),
        "tangents in place": edited(MLP, "h, t = x, tangents", "h, t = x, tangents.mul_(1.5)"),
        "always float32": lambda layers, x, tangents: edited(MLP)(
            [(weight.float(), bias.float()) for weight, bias in layers], x.float(), tangents.float()
        ),
    },
    "tangent_penalty": {
        "sum over the batch": edited(PENALTY, " / len(x)", ""),
        "mean over tangents": edited(PENALTY, " / len(x)", " / len(x) / tangents.shape[1]"),
        "mean over outputs": edited(PENALTY, "(slope**2).sum()", "(slope**2).mean(1).sum()"),
        "with a half": edited(PENALTY, "return total", "return total / 2"),
        "root taken": edited(PENALTY, "(slope**2).sum()", "slope.flatten(1).norm(dim=1).sum()"),
        "not squared": edited(PENALTY, "slope**2", "slope.abs()"),
        "tangents added up first": edited(PENALTY, "in tangents.unbind(dim=1)", "in [tangents.sum(1)]"),
        "first tangent only": edited(PENALTY, "tangents.unbind", "tangents[:, :1].unbind"),
        "tangents scaled to length 1": lambda model, x, tangents: edited(PENALTY)(model, x, unit(tangents)),
        "the output, not its derivative": edited(PENALTY, "(tangent,))[1]", "(tangent,))[0]"),
        "at zero instead of x": edited(PENALTY, "(x,)", "(0 * x,)"),
        "detached": edited(PENALTY, "total / len(x)", "total.detach() / len(x)"),
        "coarse differences": differences,
        "outputs added up first": edited(PENALTY, "(slope**2).sum()", "(slope.sum(1) ** 2).sum()"),
        "always float32": edited(PENALTY, "return total", "return total.float()"),
        "evaluation mode": edited(PENALTY, "    total = 0", "    model.eval()\n    total = 0"),
    },
    "gradient_penalty": {
        "losses averaged first": edited(GRADIENT, "losses(leaf).sum()", "losses(leaf).mean()"),
        "no create_graph": edited(GRADIENT, ", create_graph=True)", ")"),
        "sum over the batch": edited(GRADIENT, " / len(x)", ""),
        "mean over pixels": edited(GRADIENT, "(gradient**2).sum() / len(x)", "(gradient**2).mean()"),
        "root taken": edited(GRADIENT, "(gradient**2).sum()", "gradient.flatten(1).norm(dim=1).sum()"),
        "one norm for the batch": edited(GRADIENT, "(gradient**2).sum()", "gradient.norm()"),
        "with a half": edited(GRADIENT, "/ len(x)", "/ len(x) / 2"),
        "asks the input for gradients": edited(GRADIENT, "x.clone()", "x"),
        "detached": edited(GRADIENT, "(gradient**2)", "(gradient.detach()**2)"),
        "absolute values": edited(GRADIENT, "gradient**2", "gradient.abs()"),
        "at zero instead of x": edited(GRADIENT, "x.clone()", "torch.zeros_like(x)"),
        "always float32": edited(GRADIENT, "return (gradient**2).sum()", "return (gradient**2).sum().float()"),
    },
    "tangent_prop_step": {
        "old gradients kept": edited(STEP, "    optimizer.zero_grad()\n", ""),
        "gradients cleared after backward": edited(
            STEP,
            "    optimizer.zero_grad()\n",
            "",
            "    optimizer.step()",
            "    optimizer.zero_grad()\n    optimizer.step()",
        ),
        "strength forgotten": edited(STEP, "strength * penalty", "penalty"),
        "penalty forgotten": edited(STEP, "loss + strength * penalty", "loss"),
        "loss forgotten": edited(STEP, "loss + strength * penalty", "strength * penalty"),
        "penalty subtracted": edited(STEP, "loss + strength", "loss - strength"),
        "no optimizer step": edited(STEP, "    optimizer.step()\n", ""),
        "two optimizer steps": edited(STEP, "    optimizer.step()\n", "    optimizer.step()\n    optimizer.step()\n"),
        "step before backward": edited(
            STEP, "    objective.backward()\n    optimizer.step()", "    optimizer.step()\n    objective.backward()"
        ),
        "returns strength times penalty": edited(STEP, "penalty.item()", "strength * penalty.item()"),
        "returns the objective": edited(STEP, "return loss.item()", "return objective.item()"),
        "returns tensors": edited(STEP, "loss.item(), penalty.item()", "loss.detach(), penalty.detach()"),
        "returned in the wrong order": edited(STEP, "loss.item(), penalty.item()", "penalty.item(), loss.item()"),
        "measured after the step": edited(STEP, "return loss.item()", "return F.cross_entropy(model(x), y).item()"),
        "summed loss": edited(STEP, "(model(x), y)", "(model(x), y, reduction='sum')"),
        "penalty detached": edited(STEP, "strength * penalty", "strength * penalty.detach()"),
        "evaluation mode": edited(STEP, "    optimizer.zero_grad()", "    model.eval()\n    optimizer.zero_grad()"),
        "evaluation mode, and back": edited(
            STEP,
            "    optimizer.zero_grad()",
            "    mode = model.training\n    model.eval()\n    optimizer.zero_grad()",
            "    return",
            "    model.train(mode)\n    return",
        ),
        "no penalty measured at strength 0": edited(
            STEP, "/ len(x)", "/ len(x) if strength else torch.zeros((), dtype=x.dtype)"
        ),
    },
}


def tangents_by_jvp(images, generators, sigma):
    """Forward-mode differentiation of the smooth image along the flow."""
    height, width = images.shape[-2:]
    like = {"dtype": images.dtype, "device": images.device}
    rows, columns = torch.arange(height, **like), torch.arange(width, **like)
    u, v = columns - (width - 1) / 2, rows[:, None] - (height - 1) / 2

    def hills(places, size):
        offset = places[..., None] - torch.arange(size, **like)
        return torch.exp(-(offset**2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))

    def flowed(time, generator):
        right = generator[0, 0] * u + generator[0, 1] * v + generator[0, 2]
        down = generator[1, 0] * u + generator[1, 1] * v + generator[1, 2]
        across = hills(u - time * right + (width - 1) / 2, width)
        along = hills(v - time * down + (height - 1) / 2, height)
        return torch.einsum("bcij,hwi,hwj->bchw", images, along, across)

    zero, one = torch.zeros((), **like), torch.ones((), **like)
    slopes = [torch.func.jvp(lambda time, g=g: flowed(time, g), (zero,), (one,))[1] for g in generators]
    return torch.stack(slopes, dim=1)


def tangents_by_basis(images, generators, sigma):
    """Six tangents once, one for each entry of a generator; every other tangent is a sum of them."""
    height, width = images.shape[-2:]
    u = (torch.arange(width).to(images) - (width - 1) / 2).expand(height, width)
    v = (torch.arange(height).to(images) - (height - 1) / 2)[:, None].expand(height, width)
    down, right = -image_gradient(images, sigma).movedim(1, 0)
    basis = torch.stack([right * u, right * v, right, down * u, down * v, down])  # (6, batch, height, width)
    return torch.tensordot(generators.flatten(1), basis, dims=1).transpose(0, 1)[:, :, None]


def mlp_by_jvp(layers, x, tangents):
    def network(h):
        for weight, bias in layers[:-1]:
            h = F.relu(F.linear(h, weight, bias))
        return F.linear(h, *layers[-1])

    return network(x), torch.func.vmap(lambda t: torch.func.jvp(network, (x,), (t,))[1], 1, 1)(tangents)


def mlp_by_jacobian(layers, x, tangents):
    def network(h):
        for weight, bias in layers[:-1]:
            h = F.relu(weight @ h + bias)
        return layers[-1][0] @ h + layers[-1][1]

    jacobians = torch.func.vmap(torch.func.jacrev(network))(x)  # (batch, output, feature)
    return torch.func.vmap(network)(x), tangents @ jacobians.mT


def penalty_by_double_backward(model, x, tangents):
    leaf = x.clone().requires_grad_()
    total = 0
    for output in model(leaf).flatten(1).unbind(dim=1):
        gradient = torch.autograd.grad(output.sum(), leaf, create_graph=True)[0]
        total = total + (gradient[:, None] * tangents).flatten(2).sum(dim=2).square().sum()
    return total / len(x)


def penalty_by_stacking(model, x, tangents):
    count = tangents.shape[1]
    copies = x.repeat_interleave(count, dim=0)
    slopes = torch.func.jvp(model, (copies,), (tangents.flatten(0, 1),))[1]
    return count * slopes.flatten(1).square().sum(dim=1).mean()


def penalty_by_pulling_twice(model, x, tangents):
    """The transposed Jacobian's product with a vector, differentiated by that vector."""
    leaf = x.clone().requires_grad_()
    outputs = model(leaf)
    vector = torch.ones_like(outputs, requires_grad=True)
    (pulled,) = torch.autograd.grad(outputs, leaf, vector, create_graph=True)
    slopes = [torch.autograd.grad((pulled * t).sum(), vector, create_graph=True)[0] for t in tangents.unbind(1)]
    return sum((slope**2).sum() for slope in slopes) / len(x)


def gradients_by_vjp(losses, x):
    values, pull = torch.func.vjp(losses, x)
    (gradient,) = pull(torch.ones_like(values))
    return gradient.flatten(1).square().sum(dim=1).mean()


def gradients_by_a_shift(losses, x):
    """The derivative by a shift of zero length."""
    shift = torch.zeros_like(x, requires_grad=True)
    (gradient,) = torch.autograd.grad(losses(x + shift).sum(), shift, create_graph=True)
    return len(x) * (gradient / len(x)).square().sum()


def gradients_one_by_one(losses, x):
    total = 0
    for i in range(len(x)):
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(losses(leaf)[i], leaf, create_graph=True)
        total = total + gradient[i].square().sum() / len(x)
    return total


def step_by_two_backwards(model, optimizer, x, y, tangents, strength):
    penalty = penalty_by_stacking(model, x, tangents)
    loss = F.nll_loss(model(x).log_softmax(dim=1), y)
    numbers = loss.item(), penalty.item()
    for parameter in model.parameters():
        parameter.grad = None
    loss.backward()
    (strength * penalty).backward()
    optimizer.step()
    return numbers


def step_by_grad(model, optimizer, x, y, tangents, strength):
    parameters = list(model.parameters())
    loss, penalty = F.cross_entropy(model(x), y), penalty_by_double_backward(model, x, tangents)
    found = torch.autograd.grad(loss + strength * penalty, parameters, allow_unused=True, materialize_grads=True)
    for parameter, gradient in zip(parameters, found, strict=True):
        parameter.grad = gradient
    optimizer.step()
    return loss.item(), penalty.item()


# Right by another way: each must keep every point.
ALTERNATIVES = {
    "affine_tangents": {
        "forward mode": tangents_by_jvp,
        "a basis of six": tangents_by_basis,
        "loop over generators": edited(TANGENTS),
    },
    "mlp_pushforward": {"forward mode": mlp_by_jvp, "whole Jacobians": mlp_by_jacobian, "one loop": edited(MLP)},
    "tangent_penalty": {
        "double backward": penalty_by_double_backward,
        "tangents stacked on the batch": penalty_by_stacking,
        "loop over tangents": edited(PENALTY),
        "pulled back twice": penalty_by_pulling_twice,
    },
    "gradient_penalty": {
        "vjp": gradients_by_vjp,
        "one by one": gradients_one_by_one,
        "clone": edited(GRADIENT),
        "a shift of zero": gradients_by_a_shift,
    },
    "tangent_prop_step": {
        "two backward passes": step_by_two_backwards,
        "gradients by hand": step_by_grad,
        "loop over tangents": edited(STEP),
    },
}


# --- independent peers and closed forms -------------------------------------------------------------------------


def flows(*names):
    return torch.tensor([library.GENERATORS[name] for name in names], dtype=torch.float64)


def test_generators_are_the_tangents_of_tangent_distance():
    x = torch.rand(3, 1, 6, 9, dtype=torch.float64)
    ours = library.affine_tangents(x, flows("shift right", "shift down", "rotation", "scale"), 0.8)
    torch.testing.assert_close(ours[:, :, 0], tangent_vectors(x, 0.8)[:, :4], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", list(library.GENERATORS))
def test_tangents_are_the_derivatives_of_the_courses_own_warp(name):
    """A wide, smooth image is moved by ``affine_warp`` (bilinear): finite differences agree but for interpolation."""
    place = torch.arange(81, dtype=torch.float64) - 40
    x = torch.exp(-((place[:, None] - 4) ** 2 + (place + 6) ** 2) / 50)[None, None]
    smooth, [flow] = smooth_images(x, 3.0), flows(name)
    square = torch.cat([flow, torch.zeros(1, 3, dtype=torch.float64)])
    step = 0.5 if "shift" in name else 0.05
    ahead, behind = (affine_warp(smooth, torch.linalg.matrix_exp(sign * step * square)[None, :2]) for sign in (1, -1))
    ours = library.affine_tangents(x, flow[None], 3.0)[:, 0]
    assert ((ahead - behind) / (2 * step) - ours).norm() / ours.norm() < 0.03


def test_tangents_pass_gradcheck():
    x = torch.rand(2, 1, 3, 4, dtype=torch.float64, requires_grad=True)
    flow = torch.randn(2, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *inputs: library.affine_tangents(*inputs, 0.8), (x, flow))


def test_tails_of_the_gaussian_are_zero_not_denormal():
    x = torch.zeros(1, 1, 28, 28)
    x[0, 0, 0, 0] = 1.0
    tangents = library.affine_tangents(x, flows("rotation").float(), 1.0)
    assert tangents.is_contiguous() and tangents[tangents != 0].abs().min() > 1e-20


def convolutional():
    first = nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
    second = nn.Conv2d(4, 6, 3, stride=2), nn.Tanh(), nn.AvgPool2d(2, ceil_mode=True)
    return nn.Sequential(nn.Sequential(*first), *second, nn.Flatten(), nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 3))


def normalized():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.SiLU(), nn.Flatten(), nn.LazyLinear(6), nn.BatchNorm1d(6)
    )
    model(torch.rand(64, 1, 8, 8))  # running statistics that are not 0 and 1
    return model.eval()


def other_layers():
    padded = nn.Conv2d(1, 4, 3, padding=1, padding_mode="circular"), nn.GroupNorm(2, 4), nn.LeakyReLU(0.2, inplace=True)
    pooled = (
        nn.AdaptiveAvgPool2d(3),
        nn.PReLU(),
        nn.Flatten(),
        nn.Linear(36, 4),
        nn.ReLU(inplace=True),
    )
    return nn.Sequential(*padded, *pooled, nn.Identity(), nn.Linear(4, 3, bias=False), nn.Softmax(dim=1))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(64, 16), nn.Linear(16, 16)

    def forward(self, x):
        hidden = self.first(x.flatten(1)).relu()
        return hidden + self.second(hidden).tanh()


MODELS = {
    "MLP": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(64, 9), nn.ReLU(), nn.Linear(9, 9), nn.Softplus(), nn.Linear(9, 4)
    ),
    "CNN": convolutional,
    "batch norm": normalized,
    "other layers": other_layers,
    "no Sequential": Residual,
    "Sequential within": lambda: nn.Sequential(Residual(), nn.ELU(inplace=True), nn.Linear(16, 3)),
    "every activation": lambda: nn.Sequential(nn.Flatten(), *(kind() for kind in library._ENTRYWISE), nn.Linear(64, 3)),
}


@pytest.mark.parametrize("name", MODELS)
def test_four_ways_are_one_number_with_the_same_gradients(name):
    torch.manual_seed(0)
    model = MODELS[name]().double()
    x, tangents = torch.rand(3, 1, 8, 8, dtype=torch.float64), torch.randn(3, 4, 1, 8, 8, dtype=torch.float64)
    outputs, slopes = library.pushforward(model, x, tangents)
    torch.testing.assert_close(outputs, model(x), rtol=1e-12, atol=1e-12)
    values = {
        "by layers": slopes.square().sum() / len(x),
        "vmap(jvp)": library.tangent_penalty(model, x, tangents),
        "double backward": library.double_backward_penalty(model, x, tangents),
    }
    parameters = list(model.parameters())
    found = {
        way: torch.cat(
            [g.flatten() for g in torch.autograd.grad(v, parameters, allow_unused=True, materialize_grads=True)]
        )
        for way, v in values.items()
    }
    assert found["by layers"].norm() > 1e-4
    for way in ("vmap(jvp)", "double backward"):
        torch.testing.assert_close(values["by layers"], values[way], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(found["by layers"], found[way], rtol=1e-10, atol=1e-10)
    differences = library.central_difference_penalty(model, x, tangents, 1e-6)
    torch.testing.assert_close(differences, values["by layers"], rtol=1e-4, atol=1e-8)


class SmallSteps(nn.Module):
    def forward(self, x):
        centred = x - x.mean(1, keepdim=True)
        return centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()


def test_layer_normalization_is_right_where_torch_is_wrong():
    """torch 2.13: what jvp gives for a LayerNorm is right, but its gradient is not; ours is written out."""
    torch.manual_seed(0)
    first, last = nn.Linear(6, 5).double(), nn.Linear(5, 4).double()
    x, tangents = torch.randn(3, 6, dtype=torch.float64), torch.randn(3, 2, 6, dtype=torch.float64)
    norm = nn.LayerNorm(5).double()
    models = {
        "layer": nn.Sequential(first, norm, nn.Tanh(), last),
        "steps": nn.Sequential(first, SmallSteps(), nn.Tanh(), last),
    }
    slopes = {name: library.pushforward(model, x, tangents)[1] for name, model in models.items()}
    found = {name: torch.autograd.grad(slope.square().sum(), first.weight)[0] for name, slope in slopes.items()}
    torch.testing.assert_close(slopes["layer"], slopes["steps"], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found["layer"], found["steps"], rtol=1e-10, atol=1e-10)
    near = 3 * library.central_difference_penalty(models["layer"], x, tangents, 1e-5)
    torch.testing.assert_close(torch.autograd.grad(near, first.weight)[0], found["layer"], rtol=1e-5, atol=1e-6)
    for penalty in (
        library.tangent_penalty,
        library.double_backward_penalty,
    ):  # if torch is mended, so must our words be
        theirs = torch.autograd.grad(3 * penalty(models["layer"], x, tangents), first.weight)[0]
        assert (theirs - found["layer"]).norm() > 0.1 * found["layer"].norm(), (
            "the docstrings and the chapter warn of it"
        )
    nn.init.normal_(norm.weight)
    whole = library.pushforward(models["layer"], x, tangents)
    torch.testing.assert_close(whole[0], models["layer"](x))
    torch.testing.assert_close(whole[1].square().sum() / 3, library.tangent_penalty(models["layer"], x, tangents))


@pytest.mark.parametrize("hooked", [False, True])
def test_the_fast_way_is_taken_where_the_rule_says_so(hooked, monkeypatch):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.ReLU(), nn.Linear(9, 4))
    if hooked:
        model[1].register_forward_hook(lambda module, inputs, output: 2 * output)
    left = []
    by_jvp = library._push_by_jvp
    monkeypatch.setattr(library, "_push_by_jvp", lambda layer, x, t: left.append(layer) or by_jvp(layer, x, t))
    x, tangents = torch.rand(2, 1, 8, 8), torch.randn(2, 3, 1, 8, 8)
    outputs, slopes = library.pushforward(model, x, tangents)
    assert left == ([model[1]] if hooked else [])
    torch.testing.assert_close(outputs, model(x))
    torch.testing.assert_close(slopes.square().sum() / 2, library.tangent_penalty(model, x, tangents))


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("kind", [nn.Dropout, nn.Dropout2d])
def test_an_example_and_its_tangents_share_one_dropout_mask(kind, inplace):
    """A linear network: whatever the mask, tangents equal to the input go where the input goes."""
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3, bias=False), kind(0.5, inplace=inplace), nn.Flatten(), nn.Linear(36 * 6, 3, bias=False)
    )
    x = torch.rand(2, 1, 8, 8)
    torch.manual_seed(1)
    outputs, slopes = library.pushforward(model, x, x[:, None].repeat(1, 4, 1, 1, 1))
    torch.testing.assert_close(slopes, outputs[:, None].expand_as(slopes), rtol=1e-5, atol=1e-6)
    torch.manual_seed(1)
    torch.testing.assert_close(outputs, model(x))
    model.eval()
    torch.testing.assert_close(library.pushforward(model, x, x[:, None])[1][:, 0], model(x))


def test_without_gradients_and_by_functional_call():
    model, x, tangents = MODELS["MLP"](), torch.rand(2, 1, 8, 8), torch.randn(2, 3, 1, 8, 8)
    wanted = library.pushforward(model, x, tangents)[1].detach()
    with torch.no_grad():
        assert not library.pushforward(model, x, tangents)[1].requires_grad
        torch.testing.assert_close(library.tangent_penalty(model, x, tangents), wanted.square().sum() / 2)
    state = {name: value.detach().clone().requires_grad_() for name, value in model.named_parameters()}

    def functional(inputs):
        return torch.func.functional_call(model, state, (inputs,))

    torch.testing.assert_close(library.pushforward(functional, x, tangents)[1], wanted)
    library.tangent_penalty(functional, x, tangents).backward()
    assert state["1.weight"].grad.norm() > 0 and model[1].weight.grad is None


def test_a_slice_of_a_large_tensor_is_no_slower():
    """Forward mode gives the tangent of a view the storage of its base; the library copies the view first."""
    x = torch.rand(4000, 1, 8, 8)[:2]
    sizes = []

    def model(inputs):
        sizes.append(
            inputs.untyped_storage().nbytes() if not torch._C._functorch.is_functorch_wrapped_tensor(inputs) else 0
        )
        return inputs.flatten(1)

    library.tangent_penalty(model, x, torch.randn(2, 3, 1, 8, 8))
    assert max(sizes) < 10_000


def test_one_tangent_is_the_first_order_term_of_augmentation():
    model, x = MODELS["MLP"]().double(), torch.rand(4, 1, 8, 8, dtype=torch.float64)
    tangents = torch.randn(4, 1, 8, 8, dtype=torch.float64)
    theirs = first_order_penalty(model, x, tangents, variance=0.25)
    torch.testing.assert_close(library.tangent_penalty(model, x, 0.5 * tangents[:, None]), theirs)


def test_all_unit_directions_make_the_jacobians_norm():
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    x = torch.rand(4, 5, dtype=torch.float64)
    everywhere = torch.eye(5, dtype=torch.float64).expand(4, 5, 5)
    jacobians = torch.func.vmap(torch.func.jacrev(model))(x)
    torch.testing.assert_close(library.tangent_penalty(model, x, everywhere), jacobians.square().sum() / 4)


def test_mlp_pushforward_is_pushforward():
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    layers = [(layer.weight, layer.bias) for layer in model if isinstance(layer, nn.Linear)]
    x, tangents = torch.randn(7, 5), torch.randn(7, 2, 5)
    for ours, theirs in zip(
        library.mlp_pushforward(layers, x, tangents), library.pushforward(model, x, tangents), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_finite_differences_of_a_rectified_network_have_right_values_and_wrong_gradients():
    torch.manual_seed(0)
    x = digits().train.x[:100].double()
    tangents = library.affine_tangents(x, flows("shift right", "rotation"), 0.6)
    errors = {}
    for activation in (nn.ReLU, nn.Tanh):
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), activation(), nn.Linear(64, 10)).double()
        exact, near = (
            penalty(model, x, tangents, *step)
            for penalty, step in ((library.tangent_penalty, ()), (library.central_difference_penalty, (1e-3,)))
        )
        (true, found) = (torch.autograd.grad(value, model[1].weight)[0] for value in (exact, near))
        errors[activation] = ((near / exact - 1).abs().item(), ((found - true).norm() / true.norm()).item())
    assert errors[nn.Tanh][0] < 1e-4 and errors[nn.Tanh][1] < 1e-4
    assert errors[nn.ReLU][0] < 1e-2 < 0.2 < errors[nn.ReLU][1]


def test_penalties_pass_gradcheck():
    weight = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    x, tangents = torch.randn(2, 4, dtype=torch.float64), torch.randn(2, 3, 4, dtype=torch.float64)

    def model(weight):
        return lambda x: torch.tanh(x @ weight.T)

    for penalty in (library.tangent_penalty, library.double_backward_penalty):
        assert torch.autograd.gradcheck(lambda w, p=penalty: p(model(w), x, tangents), weight)
    assert torch.autograd.gradcheck(lambda w: library.gradient_penalty(lambda x: model(w)(x).sum(1), x), weight)


def test_gradient_penalty_of_a_convolutional_network():
    model, x = convolutional().double(), torch.rand(3, 1, 8, 8, dtype=torch.float64)
    y = torch.tensor([0, 2, 1])
    ours = library.gradient_penalty(lambda x: F.cross_entropy(model(x), y, reduction="none"), x)
    jacobians = torch.func.vmap(torch.func.jacrev(model))(x[:, None]).flatten(3)[:, 0]  # (batch, output, pixel)
    chances = model(x).softmax(1) - F.one_hot(y, 3)
    torch.testing.assert_close(ours, torch.einsum("bo,bop->bp", chances, jacobians).square().sum() / 3)


def test_steps_lower_penalty_and_loss():
    torch.manual_seed(0)
    x, y = digits().train.x[:50], digits().train.y[:50]
    tangents = library.affine_tangents(x, flows("rotation").float(), 0.6)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    history = [library.tangent_prop_step(model, optimizer, x, y, tangents, 0.1) for _ in range(60)]
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(plain.parameters(), lr=3e-3)
    without = [library.tangent_prop_step(plain, optimizer, x, y, tangents, 0.0) for _ in range(60)]
    assert history[-1][0] < 0.5 * history[0][0] and history[-1][1] < 0.7 * without[-1][1]


# --- every device that is here -----------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["affine_tangents", "mlp_pushforward"])
def test_on_cuda(task, on_cuda):
    probe, verify = getattr(checks, f"probe_{task}"), getattr(checks, f"verify_{task}")
    verify(probe(on_cuda(getattr(library, task)), 0), 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_penalties_on_cuda():
    model, x = convolutional().double().cuda(), torch.rand(3, 1, 8, 8, dtype=torch.float64).cuda()
    tangents = library.affine_tangents(x, flows("rotation", "scale").cuda(), 1.0)
    value = library.pushforward(model, x, tangents)[1].square().sum() / 3
    torch.testing.assert_close(value, library.tangent_penalty(model, x, tangents))
    torch.testing.assert_close(value, library.double_backward_penalty(model, x, tangents))


# --- bad input ---------------------------------------------------------------------------------------------------

X, T, IMAGES, FLOW = torch.ones(2, 3), torch.ones(2, 4, 3), torch.ones(2, 1, 5, 6), torch.ones(1, 2, 3)
LINEAR = nn.Linear(3, 2)
LAYERS = [(torch.ones(4, 3), torch.ones(4)), (torch.ones(2, 4), torch.ones(2))]
SGD = torch.optim.SGD(LINEAR.parameters(), lr=0.1)
WAYS = {
    "tangent_penalty": library.tangent_penalty,
    "double_backward_penalty": library.double_backward_penalty,
    "pushforward": library.pushforward,
    "central_difference_penalty": lambda model, x, tangents: library.central_difference_penalty(
        model, x, tangents, 0.1
    ),
}
BAD = {
    "colour images": (lambda: library.affine_tangents(torch.ones(2, 3, 5, 6), FLOW, 1.0), "images must have the sizes"),
    "no images": (lambda: library.affine_tangents(IMAGES[:0], FLOW, 1.0), "at least 1 of each"),
    "integer images": (lambda: library.affine_tangents(IMAGES.long(), FLOW, 1.0), "floating point"),
    "NaN images": (lambda: library.affine_tangents(IMAGES * torch.nan, FLOW, 1.0), "images must be finite"),
    "one generator without its axis": (lambda: library.affine_tangents(IMAGES, FLOW[0], 1.0), "tangent, 2, 3"),
    "square generators": (lambda: library.affine_tangents(IMAGES, torch.ones(1, 3, 3), 1.0), "The size is fixed"),
    "generators in float64": (lambda: library.affine_tangents(IMAGES, FLOW.double(), 1.0), "of the kind of images"),
    "sigma zero": (lambda: library.affine_tangents(IMAGES, FLOW, 0.0), "sigma must be positive"),
    "no layer": (lambda: library.mlp_pushforward([], X, T), "layers must not be empty"),
    "layers in the wrong order": (lambda: library.mlp_pushforward(LAYERS[::-1], X, T), "weight of layer 0"),
    "weight transposed": (lambda: library.mlp_pushforward([(torch.ones(3, 2), torch.ones(2))], X, T), "in1, in0"),
    "bias of another size": (
        lambda: library.mlp_pushforward([(torch.ones(2, 3), torch.ones(3))], X, T),
        "bias of layer 0",
    ),
    "tangents without their axis": (lambda: library.mlp_pushforward(LAYERS, X, X), "batch, tangent, in0"),
    "no examples to push": (lambda: library.mlp_pushforward(LAYERS, X[:0], T[:0]), "at least 1 of each"),
    "infinite tangents": (lambda: library.mlp_pushforward(LAYERS, X, T / 0), "tangents must be finite"),
    "mixed dtypes": (lambda: library.mlp_pushforward(LAYERS, X.double(), T.double()), "weight of layer 0"),
    "step zero": (lambda: library.central_difference_penalty(LINEAR, X, T, 0.0), "step must be positive"),
    "NaN input": (lambda: library.gradient_penalty(lambda x: x.sum(1), X * torch.nan), "x must be finite"),
    "no input": (lambda: library.gradient_penalty(lambda x: x.sum(1), X[:0]), "x must not be empty"),
    "integer input": (lambda: library.gradient_penalty(lambda x: x.sum(1), X.long()), "x must be floating point"),
    "negative strength": (
        lambda: library.tangent_prop_step(LINEAR, SGD, X, torch.tensor([0, 1]), T, -1.0),
        "strength must be non-negative",
    ),
    "no label": (lambda: library.tangent_prop_step(LINEAR, SGD, X, torch.tensor([]), T, 1.0), "y must not be empty"),
    "one label too few": (lambda: library.tangent_prop_step(LINEAR, SGD, X, torch.tensor([0]), T, 1.0), "batch_size"),
    "tangents of another batch": (
        lambda: library.tangent_prop_step(LINEAR, SGD, X, torch.tensor([0, 1]), T[:1], 1.0),
        "tangents must have the sizes",
    ),
    "batch statistics": (
        lambda: library.pushforward(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), X, T),
        "batch statistics, got BatchNorm1d '1'",
    ),
} | {
    f"{what} for {name}": (lambda way=way, x=x, t=t: way(LINEAR, x, t), message)
    for name, way in WAYS.items()
    for what, x, t, message in (
        ("an empty batch", X[:0], T[:0], "at least 1 of each"),
        ("no tangent", X, T[:, :0], "at least 1 of each"),
        ("tangents without their axis", X, X, "must have the sizes"),
        ("tangents of another size", X, T[:, :, :2], "tangents must have the sizes"),
        ("tangents of another dtype", X, T.double(), "of the kind of x"),
        ("NaN tangents", X, T * torch.nan, "tangents must be finite"),
        ("integers", X.long(), T.long(), "floating point"),
        ("a scalar", X[0, 0], T, "must have the sizes"),
    )
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_explained(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call()
