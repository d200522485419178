"""contractive_autoencoders: wrong and right versions of each task, independent peers, closed forms, bad input."""

import numpy as np
import pytest
import torch
from checks import contractive_autoencoders as checks
from sklearn.decomposition import PCA

from course_lib import contractive_autoencoders as library
from course_lib.data import digits
from course_lib.norm_penalties import l2_penalty

CLOSED = """
def penalty(hidden, weight):
    slope = hidden * (1 - hidden)
    rows = (weight**2).sum(dim=1)
    return ((slope**2) * rows).sum(dim=1).mean()
"""
JACOBIAN = """
def jacobian(encoder, x):
    x = x.detach().clone().requires_grad_()
    hidden = encoder(x)
    rows = [torch.autograd.grad(unit.sum(), x, create_graph=True)[0] for unit in hidden.unbind(dim=1)]
    return torch.stack(rows, dim=1)
"""
HUTCHINSON = """
def estimate(encoder, x, probes, generator):
    x = x.detach().clone().requires_grad_()
    hidden = encoder(x)
    total = 0
    for _ in range(probes):
        z = (torch.rand(hidden.shape, generator=generator, dtype=x.dtype) < 0.5).to(x.dtype) * 2 - 1
        pulled = torch.autograd.grad((hidden * z).sum(), x, create_graph=True)[0]
        total = total + (pulled**2).sum()
    return total / probes / len(x)
"""
HESSIAN = """
def jacobian(encoder, x):
    x = x.detach().clone().requires_grad_()
    hidden = encoder(x)
    rows = [torch.autograd.grad(unit.sum(), x, create_graph=True)[0] for unit in hidden.unbind(dim=1)]
    return torch.stack(rows, dim=1)

def penalty(encoder, x, sigma, corruptions, generator):
    here = jacobian(encoder, x)
    total = 0
    for _ in range(corruptions):
        noise = sigma * torch.randn(x.shape, generator=generator, dtype=x.dtype)
        there = jacobian(encoder, x + noise)
        total = total + ((there - here) ** 2).sum()
    return total / corruptions / len(x) / sigma**2
"""
RATIO = """
def ratio(jacobian):
    largest = jacobian.abs().amax(dim=(1, 2), keepdim=True)
    j = jacobian / torch.where(largest > 0, largest, torch.ones_like(largest))
    s = torch.linalg.svdvals(j)
    energy = s**2
    return energy.sum(dim=1) ** 2 / (energy**2).sum(dim=1).clamp(min=1e-30)
"""


def edited(source, *changes):
    """The last function in a source text, with the mistakes that pairs of old and new text make."""
    for old, new in zip(changes[::2], changes[1::2], strict=True):
        assert old in source, old
        source = source.replace(old, new)
    scope = {"torch": torch}
    exec(source, scope)
    return scope[source.split("def ")[-1].split("(")[0]]


# What students write by mistake: each must lose points.
MUTANTS = {
    "contractive_penalty": {
        "slope not squared": edited(CLOSED, "(slope**2)", "slope"),
        "weights not squared": edited(CLOSED, "(weight**2)", "weight.abs()"),
        "sum over the batch": edited(CLOSED, ".mean()", ".sum()"),
        "mean over units too": edited(CLOSED, ".sum(dim=1).mean()", ".mean()"),
        "slope of tanh": edited(CLOSED, "hidden * (1 - hidden)", "1 - hidden**2"),
        "slope forgotten": edited(CLOSED, "hidden * (1 - hidden)", "torch.ones_like(hidden)"),
        "a sigmoid too many": edited(CLOSED, "hidden * (1 - hidden)", "hidden.sigmoid() * (1 - hidden.sigmoid())"),
        "root taken": edited(CLOSED, ".sum(dim=1).mean()", ".sum(dim=1).sqrt().mean()"),
        "with a half": edited(CLOSED, "return ", "return 0.5 * "),
        "slope of the mean code": edited(
            CLOSED, "hidden * (1 - hidden)", "hidden.mean(0) * (1 - hidden.mean(0))[None]"
        ),
        "slope detached": edited(CLOSED, "slope = hidden", "slope = hidden.detach()"),
        "code detached": edited(CLOSED, "slope = hidden * (1 - hidden)", "slope = (hidden * (1 - hidden)).detach()"),
        "weights detached": edited(CLOSED, "weight**2", "weight.detach()**2"),
        "norm of the whole matrix": edited(CLOSED, "(weight**2).sum(dim=1)", "(weight**2).sum()"),
        "always float32": edited(CLOSED, ".mean()", ".mean().float()"),
        "float32 on the way": edited(CLOSED, ".mean()", ".mean().float().to(weight.dtype)"),
        "slopes and rows summed apart": edited(CLOSED, "(slope**2) * rows", "(slope**2) * rows.mean()"),
        "squared after the sum over units": edited(
            CLOSED, "((slope**2) * rows).sum(dim=1)", "((slope @ weight)**2).sum(dim=1)"
        ),
    },
    "encoder_jacobian": {
        "does not train": edited(JACOBIAN, "create_graph=True", "retain_graph=True"),
        "values only": edited(JACOBIAN, "return torch.stack(rows, dim=1)", "return torch.stack(rows, dim=1).detach()"),
        "axes swapped": edited(JACOBIAN, "torch.stack(rows, dim=1)", "torch.stack(rows, dim=-1)"),
        "unit before batch": edited(JACOBIAN, "torch.stack(rows, dim=1)", "torch.stack(rows, dim=0)"),
        "mean over the batch": edited(JACOBIAN, "unit.sum()", "unit.mean()"),
        "sum of all units": edited(JACOBIAN, "unit.sum()", "hidden.sum()"),
        "inputs flattened": edited(JACOBIAN, "torch.stack(rows, dim=1)", "torch.stack(rows, dim=1).flatten(2)"),
        "first input for all": edited(
            JACOBIAN, "torch.stack(rows, dim=1)", "torch.stack(rows, 1)[:1].expand(len(x), *[-1] * x.ndim)"
        ),
        "asks x for gradients": edited(JACOBIAN, "x = x.detach().clone().requires_grad_()", "x.requires_grad_()"),
        "sign": edited(JACOBIAN, "torch.stack(rows, dim=1)", "-torch.stack(rows, dim=1)"),
        "first unit left out": edited(
            JACOBIAN,
            "hidden.unbind(dim=1)]",
            "hidden.unbind(dim=1)[1:]]",
            "torch.stack(rows",
            "torch.stack([0 * rows[0], *rows]",
        ),
        "differences of float32 size": lambda encoder, x: torch.stack(
            [
                ((encoder(x + step.view(x.shape[1:])) - encoder(x - step.view(x.shape[1:]))) / 2e-2)
                for step in 1e-2 * torch.eye(x[0].numel(), dtype=x.dtype)
            ],
            dim=-1,
        ).view(len(x), -1, *x.shape[1:]),
        "the whole batch's Jacobian": lambda encoder, x: torch.autograd.functional.jacobian(
            encoder, x, create_graph=True
        ).sum(dim=0),
        "asks x, and asks no more": edited(
            JACOBIAN,
            "x = x.detach().clone().requires_grad_()",
            "x.requires_grad_()",
            "    return",
            "    x.requires_grad_(False)\n    return",
        ),
        "leaves gradients behind": edited(
            JACOBIAN,
            "rows = [",
            "hidden.sum().backward(retain_graph=True); rows = [",
        ),
    },
    "hutchinson_penalty": {
        "does not train": edited(HUTCHINSON, "create_graph=True", "retain_graph=True"),
        "normal z": edited(
            HUTCHINSON,
            "(torch.rand(hidden.shape, generator=generator, dtype=x.dtype) < 0.5).to(x.dtype) * 2 - 1",
            "torch.randn(hidden.shape, generator=generator, dtype=x.dtype)",
        ),
        "z of 0 and 1": edited(HUTCHINSON, ".to(x.dtype) * 2 - 1", ".to(x.dtype)"),
        "z uniform from -1 to 1": edited(HUTCHINSON, " < 0.5).to(x.dtype) * 2 - 1", ") * 2 - 1"),
        "one z for the batch": edited(HUTCHINSON, "torch.rand(hidden.shape,", "torch.rand(hidden.shape[1:],"),
        "one z for all probes": edited(
            HUTCHINSON,
            "    for _ in",
            "    state = generator.get_state()\n    for _ in",
            "        z =",
            "        generator.set_state(state); z =",
        ),
        "z and −z in turn": edited(
            HUTCHINSON,
            "    for _ in",
            "    z = None\n    for _ in",
            "        z = (torch",
            "        z = -z if _ % 2 else (torch",
        ),
        "only one probe": edited(HUTCHINSON, "range(probes)", "range(1)", " / probes", ""),
        "float32 on the way": edited(HUTCHINSON, "total / probes", "total.float().to(x.dtype) / probes"),
        "one sign an input": edited(HUTCHINSON, "torch.rand(hidden.shape,", "torch.rand((len(hidden), 1),"),
        "sum over probes": edited(HUTCHINSON, " / probes", ""),
        "sum over the batch": edited(HUTCHINSON, " / len(x)", ""),
        "global dice": edited(HUTCHINSON, "generator=generator, ", ""),
        "the same dice in every call": edited(
            HUTCHINSON, "    total = 0", "    generator = torch.Generator().manual_seed(0); total = 0"
        ),
        "not squared": edited(HUTCHINSON, "(pulled**2).sum()", "pulled.abs().sum()"),
        "gradients of probes added up": edited(
            HUTCHINSON, "total + (pulled**2).sum()", "total + pulled", "return total", "return (total**2).sum()"
        ),
        "with a half": edited(HUTCHINSON, "return total", "return total / 2"),
        "mean over pixels": edited(HUTCHINSON, "(pulled**2).sum()", "(pulled**2).sum() / x[0].numel()"),
        "asks x for gradients": edited(HUTCHINSON, "x = x.detach().clone().requires_grad_()", "x.requires_grad_()"),
    },
    "hessian_penalty": {
        "not divided by sigma squared": edited(HESSIAN, " / sigma**2", ""),
        "divided by sigma": edited(HESSIAN, " / sigma**2", " / sigma"),
        "noise of variance sigma": edited(HESSIAN, "sigma * torch.randn", "sigma**0.5 * torch.randn"),
        "sum over corruptions": edited(HESSIAN, " / corruptions", ""),
        "sum over the batch": edited(HESSIAN, " / len(x)", ""),
        "not squared": edited(HESSIAN, "((there - here) ** 2)", "(there - here).abs()"),
        "sum of the Jacobians": edited(HESSIAN, "there - here", "there + here"),
        "difference of norms": edited(
            HESSIAN, "((there - here) ** 2).sum()", "((there**2).sum() - (here**2).sum()).abs()"
        ),
        "codes for Jacobians": edited(HESSIAN, "jacobian(encoder, x", "encoder(x"),
        "does not train": edited(HESSIAN, "create_graph=True", "retain_graph=True"),
        "trains one side only": edited(HESSIAN, "here = jacobian(encoder, x)", "here = jacobian(encoder, x).detach()"),
        "one ε for the batch": edited(HESSIAN, "torch.randn(x.shape,", "torch.randn(x.shape[1:],"),
        "one ε for all corruptions": edited(
            HESSIAN,
            "    for _ in",
            "    state = generator.get_state()\n    for _ in",
            "        noise",
            "        generator.set_state(state); noise",
        ),
        "one ε for all pixels": edited(
            HESSIAN, "torch.randn(x.shape,", "torch.randn(x.shape[:1] + (1,) * (x.ndim - 1),"
        ),
        "ε and −ε in turn": edited(
            HESSIAN,
            "    for _ in",
            "    noise = None\n    for _ in",
            "        noise = sigma",
            "        noise = -noise if _ % 2 else sigma",
        ),
        "uniform noise of variance 1": edited(
            HESSIAN,
            "sigma * torch.randn(x.shape, generator=generator, dtype=x.dtype)",
            "sigma * 12**0.5 * (torch.rand(x.shape, generator=generator, dtype=x.dtype) - 0.5)",
        ),
        "the second derivatives at x": edited(  # what the penalty tends to for small σ
            HESSIAN,
            "there = jacobian(encoder, x + noise)",
            "there = jacobian(encoder, x + noise / 100)",
            "(there - here)",
            "100 * (there - here)",
        ),
        "a step to either side": edited(
            HESSIAN,
            "there = jacobian(encoder, x + noise)",
            "there = jacobian(encoder, x + noise / 2)",
            "(there - here)",
            "(there - jacobian(encoder, x - noise / 2))",
        ),
        "uniform noise from 0 to 1": edited(HESSIAN, "torch.randn", "torch.rand"),
        "global dice": edited(HESSIAN, "generator=generator, ", ""),
        "the same dice in every call": edited(
            HESSIAN, "    total = 0", "    generator = torch.Generator().manual_seed(0); total = 0"
        ),
        "with a half": edited(HESSIAN, "return total", "return total / 2"),
        "walks on from noise to noise": edited(
            HESSIAN, "there = jacobian(encoder, x + noise)", "x = x + noise; there = jacobian(encoder, x)"
        ),
    },
    "participation_ratio": {
        "values not squared": edited(RATIO, "energy = s**2", "energy = s"),
        "squares once more": edited(RATIO, "energy = s**2", "energy = s**4"),
        "upside down": edited(
            RATIO,
            "energy.sum(dim=1) ** 2 / (energy**2).sum(dim=1)",
            "(energy**2).sum(dim=1) / (energy.sum(dim=1) ** 2)",
        ),
        "sum not squared": edited(RATIO, "energy.sum(dim=1) ** 2", "energy.sum(dim=1)"),
        "the whole batch's": edited(RATIO, "energy.sum(dim=1) ** 2", "energy.sum() ** 2"),
        "counts the rank": lambda jacobian: torch.linalg.matrix_rank(jacobian).to(jacobian) + 0 * jacobian.sum((1, 2)),
        "stable rank": lambda jacobian: (
            (torch.linalg.matrix_norm(jacobian) / torch.linalg.matrix_norm(jacobian, ord=2).clamp(min=1e-30)) ** 2
        ),
        "share of the possible": edited(RATIO, "return energy", "return 1 / s.shape[1] * energy"),
        "underflows": edited(RATIO, "j = jacobian /", "j = jacobian + 0 *"),
        "zero below a threshold": edited(RATIO, "return energy", "return (largest.flatten() > 1e-16) * energy"),
        "overflows": edited(
            RATIO, "torch.where(largest > 0, largest,", "torch.where((largest > 0) & (largest < 1), largest,"
        ),
        "the largest of the batch": edited(RATIO, "amax(dim=(1, 2), keepdim=True)", "amax()"),
        "exponential of the entropy": edited(
            RATIO,
            "return energy.sum(dim=1) ** 2 / (energy**2).sum(dim=1).clamp(min=1e-30)",
            "p = energy / energy.sum(dim=1, keepdim=True).clamp(min=1e-30)\n    "
            "return torch.exp(torch.special.entr(p).sum(dim=1)) * (largest.flatten() > 0)",
        ),
        "NaN for zeros": edited(RATIO, ".clamp(min=1e-30)", ""),
        "an epsilon below": edited(RATIO, "j = jacobian /", "j = jacobian + 0 *", ".clamp(min=1e-30)", ".add(1e-12)"),
        "entries for singular values": edited(RATIO, "torch.linalg.svdvals(j)", "j.flatten(1)"),
        "lengths of rows": edited(RATIO, "torch.linalg.svdvals(j)", "j.norm(dim=2)"),
        "detached": edited(RATIO, "svdvals(j)", "svdvals(j.detach())"),
        "always float32": edited(RATIO, "svdvals(j)", "svdvals(j.float())"),
        "scaled in place": edited(
            RATIO, "j = jacobian / torch", "j = jacobian.detach().div_(torch", "(largest))", "(largest)))"
        ),
    },
}


def jacobian_by_forward_mode(encoder, x):
    """One column an input pixel: exact too, and slow where pixels outnumber units."""
    columns = []
    for index in range(x[0].numel()):
        direction = torch.zeros_like(x).flatten(1)
        direction[:, index] = 1
        columns.append(torch.func.jvp(encoder, (x,), (direction.view_as(x),))[1])
    return torch.stack(columns, dim=-1).view(len(x), -1, *x.shape[1:])


def jacobian_of_the_whole_batch(encoder, x):
    """All inputs' derivatives in all inputs, of which only the diagonal is not zero."""
    full = torch.autograd.functional.jacobian(encoder, x, create_graph=True)  # (batch, hidden, batch, *shape)
    return torch.stack([full[n, :, n] for n in range(len(x))])


def hutchinson_by_expansion(encoder, x, probes, generator):
    """All probes in one large batch."""
    many = x.detach().repeat_interleave(probes, dim=0).requires_grad_()
    hidden = encoder(many)
    z = torch.empty_like(hidden).bernoulli_(0.5, generator=generator).mul(2).sub(1).detach()
    (pulled,) = torch.autograd.grad(hidden, many, grad_outputs=z, create_graph=True)
    return pulled.flatten(1).square().sum(dim=1).mean()


def jacobian_by_batched_gradients(encoder, x):
    x = x.detach().requires_grad_()
    hidden = encoder(x)
    units = torch.eye(hidden.shape[1]).to(hidden)[:, None].expand(-1, len(x), -1)
    return torch.autograd.grad(hidden, x, units, create_graph=True, is_grads_batched=True)[0].transpose(0, 1)


def hutchinson_by_normal_signs(encoder, x, probes, generator):
    hidden, pull_back = torch.func.vjp(encoder, x)
    draws = torch.randn(len(x), probes, *hidden.shape[1:], generator=generator).sign().to(hidden)
    found = [pull_back(signs)[0].flatten(1).square().sum(1) for signs in draws.unbind(1)]
    return torch.stack(found).mean()


def hutchinson_by_vmap(encoder, x, probes, generator):
    hidden, pull_back = torch.func.vjp(encoder, x)
    z = 1 - 2 * torch.randint(2, (probes, *hidden.shape), generator=generator).to(x.dtype)
    return torch.func.vmap(pull_back)(z)[0].square().sum() / (probes * len(x))


def hessian_by_expansion(encoder, x, sigma, corruptions, generator):
    """All corruptions in one large batch."""
    clean = x.repeat_interleave(corruptions, dim=0)
    noisy = clean + sigma * torch.empty_like(clean).normal_(generator=generator)
    both = torch.cat([clean, noisy])
    there = torch.func.vmap(torch.func.jacrev(lambda one: encoder(one[None])[0]))(both).flatten(1)
    return (there[len(clean) :] - there[: len(clean)]).div(sigma).square().sum(dim=1).mean()


# Right by another way: each must keep every point.
ALTERNATIVES = {
    "contractive_penalty": {
        "example by example": edited(CLOSED),
        "the Jacobian itself": lambda hidden, weight: torch.stack(
            [(torch.diag(h - h**2) @ weight).square().sum() for h in hidden]
        ).mean(),
        "einsum": lambda hidden, weight: (
            torch.einsum("nj,ji->", (hidden - hidden**2) ** 2, weight**2) / hidden.shape[0]
        ),
    },
    "encoder_jacobian": {
        "a backward pass a unit": edited(JACOBIAN),
        "a forward pass a pixel": jacobian_by_forward_mode,
        "the diagonal of a large one": jacobian_of_the_whole_batch,
        "differentiable in x too": lambda encoder, x: torch.func.jacrev(lambda x: encoder(x).sum(dim=0))(x).transpose(
            0, 1
        ),
        "all backward passes at once": jacobian_by_batched_gradients,
        "jacfwd": lambda encoder, x: torch.func.vmap(torch.func.jacfwd(lambda one: encoder(one[None])[0]))(x),
    },
    "hutchinson_penalty": {
        "autograd.grad": edited(HUTCHINSON),
        "one large batch": hutchinson_by_expansion,
        "vmap over probes": hutchinson_by_vmap,
        "signs of normal numbers": hutchinson_by_normal_signs,
    },
    "hessian_penalty": {
        "a loop over units": edited(HESSIAN),
        "one large batch": hessian_by_expansion,
        "float32 noise": edited(HESSIAN, ", dtype=x.dtype", ""),
    },
    "participation_ratio": {
        "singular values": edited(RATIO),
        "in float64": lambda jacobian: (
            lambda e: (e.sum(1) ** 2 / (e * e).sum(1).clamp(min=1e-300)).to(jacobian.dtype)
        )(torch.linalg.svdvals(jacobian.double()) ** 2),
        "NaN made zero": lambda jacobian: (lambda s: torch.nan_to_num((s**2).sum(1) ** 2 / (s**4).sum(1)))(
            (lambda s: s / s[:, :1])(torch.linalg.svdvals(jacobian))
        ),
        "norms of the Gram matrix": lambda jacobian: (
            lambda j: j.square().sum((1, 2)).square() / (j @ j.mT).square().sum((1, 2)).clamp(min=1e-30)
        )(jacobian / jacobian.abs().amax((1, 2), keepdim=True).clamp(min=1e-30)),
        "eigenvalues": lambda jacobian: (lambda e: e.sum(1) ** 2 / (e * e).sum(1).clamp(min=1e-30))(
            torch.linalg.eigvalsh(
                (lambda j: j.mT @ j)(jacobian / jacobian.abs().amax((1, 2), keepdim=True).clamp(min=1e-30))
            )
        ),
    },
}


# --- independent peers and closed forms -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained():
    """A contractive autoencoder of the digits, in float64, and some digits."""
    train, _, test = digits()
    model = library.TiedAutoencoder(64, 30, seed=0)
    library.train_autoencoder(model, train.x[:300], epochs=20, strength=0.3)
    return model.double(), test.x[:20].double()


def test_all_ways_to_the_penalty_agree(trained):
    model, x = trained
    closed = library.contractive_penalty(model.encode(x), model.weight)
    torch.testing.assert_close(library.jacobian_penalty(model.encode, x), closed, rtol=1e-10, atol=0)
    draw = torch.Generator().manual_seed(0)
    estimate = library.hutchinson_penalty(model.encode, x, 2000, draw)
    assert estimate.item() == pytest.approx(closed.item(), rel=0.02)
    peer = torch.stack(
        [torch.autograd.functional.jacobian(model.encode, one[None])[0, :, 0].square().sum() for one in x]
    )
    torch.testing.assert_close(closed, peer.mean(), rtol=1e-10, atol=0)


def test_gradients_of_all_ways_agree(trained):
    model, x = trained
    wanted = torch.autograd.grad(library.contractive_penalty(model.encode(x), model.weight), [model.weight, model.bias])
    found = torch.autograd.grad(library.jacobian_penalty(model.encode, x), [model.weight, model.bias])
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_penalties_pass_gradcheck():
    torch.manual_seed(0)
    x, weight = torch.randn(3, 5, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64, requires_grad=True)

    def seeded(penalty, *numbers):
        return lambda w: penalty(lambda x: torch.sigmoid(x @ w.T), x, *numbers, torch.Generator().manual_seed(1))

    assert torch.autograd.gradcheck(lambda w: library.contractive_penalty(torch.sigmoid(x @ w.T), w), weight)
    assert torch.autograd.gradcheck(seeded(library.hutchinson_penalty, 2), weight)
    assert torch.autograd.gradcheck(seeded(library.hessian_penalty, 0.3, 2), weight)
    assert torch.autograd.gradcheck(library.participation_ratio, torch.randn(2, 3, 5).double().requires_grad_())


def test_a_linear_encoder_is_punished_by_its_weights_alone():
    weight = torch.randn(6, 9, dtype=torch.float64)
    penalty = library.jacobian_penalty(lambda x: x @ weight.T, torch.randn(4, 9, dtype=torch.float64))
    assert penalty.item() == pytest.approx(2 * l2_penalty([weight], 1.0).item(), rel=1e-12)


def test_hessian_penalty_finds_the_second_derivatives(trained):
    model, x = trained
    exact = sum(
        torch.autograd.functional.hessian(lambda one, j=j: model.encode(one[None])[0, j], x[0]).square().sum()
        for j in range(30)
    )
    estimate = library.hessian_penalty(model.encode, x[:1], 1e-3, 3000, torch.Generator().manual_seed(0))
    assert estimate.item() == pytest.approx(exact.item(), rel=0.05)


def test_denoising_is_contraction_of_the_reconstruction():
    """For a linear reconstruction r(x) = Ax: E‖r(x + ε) − x‖² = ‖r(x) − x‖² + σ²‖A‖², whatever σ is."""
    torch.manual_seed(0)
    matrix, x, sigma = torch.randn(5, 5).double(), torch.randn(1, 5).double(), 0.7
    noise = sigma * torch.randn(400_000, 5).double()
    denoising = ((x + noise) @ matrix.T - x).square().sum(1).mean()
    wanted = (x @ matrix.T - x).square().sum() + sigma**2 * library.jacobian_penalty(lambda x: x @ matrix.T, x)
    assert denoising.item() == pytest.approx(wanted.item(), rel=0.01)


def test_participation_ratio_of_principal_components():
    """scikit-learn's variances of centred data are squared singular values, divided by n − 1."""
    x = digits().train.x.flatten(1).double()
    variance = PCA().fit(x.numpy()).explained_variance_
    ratio = library.participation_ratio((x - x.mean(0))[None]).item()
    assert ratio == pytest.approx(variance.sum() ** 2 / (variance**2).sum(), rel=1e-8)


def test_spectrum_is_that_of_numpy_and_of_every_batch_size(trained):
    model, x = trained
    x = x.repeat(7, 1, 1, 1)  # more than one part
    h = model.encode(x).detach().numpy()
    jacobians = (h * (1 - h))[:, :, None] * model.weight.detach().numpy()
    wanted = np.linalg.svd(jacobians, compute_uv=False).mean(0)
    np.testing.assert_allclose(library.jacobian_spectrum(model.encode, x).detach().numpy(), wanted, rtol=1e-9)


def test_a_stronger_penalty_contracts_more():
    x = digits().train.x[:300]
    found = []
    for strength in (0.0, 1.0, 10.0):
        model = library.TiedAutoencoder(64, 30, seed=0)
        library.train_autoencoder(model, x, epochs=20, strength=strength)
        found.append(library.contractive_penalty(model.encode(x), model.weight).item())
    assert found[0] > 1.3 * found[1] > 1.3 * 1.3 * found[2], found


def test_second_order_of_a_sigmoid_layer_in_closed_form(trained):
    model, x = trained
    noise = 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(5), dtype=x.dtype)
    wanted = library.hessian_penalty(model.encode, x, 0.3, 1, torch.Generator().manual_seed(5))
    found = library.sigmoid_hessian_penalty(model.encode(x), model.encode(x + noise), model.weight, 0.3)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=0)
    slopes = [torch.autograd.grad(value, model.weight)[0] for value in (found, wanted)]
    torch.testing.assert_close(*slopes, rtol=1e-9, atol=1e-12)


def test_training_for_the_second_order_straightens_the_code():
    x = digits().train.x[:300]
    found = []
    for curvature in (0.0, 3.0):
        model = library.TiedAutoencoder(64, 30, seed=0)
        library.train_autoencoder(model, x, epochs=20, curvature=curvature)
        found.append(library.hessian_penalty(model.encode, x, 0.1, 1, torch.Generator().manual_seed(0)).item())
    assert found[0] > 1.5 * found[1], found


def test_training_repeats_itself():
    x = digits().train.x[:60]
    runs = []
    for _ in range(2):
        model = library.TiedAutoencoder(64, 8, seed=3)
        history = library.train_autoencoder(model, x, epochs=3, noise=0.3, decay=0.01, curvature=0.1, seed=4)
        runs.append((history, model.weight.detach().clone()))
    assert runs[0][0] == runs[1][0] and torch.equal(runs[0][1], runs[1][1])


def test_encoders_that_mix_the_batch_are_refused_by_the_exact_jacobian():
    mixing = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    with pytest.raises((ValueError, RuntimeError)):
        library.encoder_jacobian(mixing, torch.rand(5, 4))


def test_without_a_graph_the_values_are_the_same(trained):
    model, x = trained
    wanted = library.jacobian_penalty(model.encode, x)
    with torch.no_grad():
        assert library.jacobian_penalty(model.encode, x) == wanted.detach()
        one = library.hutchinson_penalty(model.encode, x, 2, torch.Generator().manual_seed(0))
    assert one == library.hutchinson_penalty(model.encode, x, 2, torch.Generator().manual_seed(0)).detach()


def test_an_encoder_that_sees_nothing_has_a_jacobian_of_zeros():
    x = torch.rand(3, 1, 2, 2)
    jacobian = library.encoder_jacobian(lambda x: torch.ones(len(x), 5), x)
    assert jacobian.shape == (3, 5, 1, 2, 2) and not jacobian.any()
    assert library.participation_ratio(jacobian.flatten(2)).tolist() == [0.0, 0.0, 0.0]


# --- every device that is here -----------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["contractive_penalty", "encoder_jacobian", "participation_ratio"])
def test_on_cuda(task, on_cuda):
    probe, verify = getattr(checks, f"probe_{task}"), getattr(checks, f"verify_{task}")
    verify(probe(on_cuda(getattr(library, task)), 0), 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_training_and_dice_on_cuda():
    x, draw = torch.rand(4, 1, 8, 8, device="cuda"), torch.Generator("cuda").manual_seed(0)
    model = library.TiedAutoencoder(64, 10, seed=0).cuda()
    library.train_autoencoder(model, x, epochs=2, strength=0.1, noise=0.1)
    exact = library.contractive_penalty(model.encode(x), model.weight)
    torch.testing.assert_close(library.jacobian_penalty(model.encode, x), exact)
    assert library.hutchinson_penalty(model.encode, x, 500, draw).item() == pytest.approx(exact.item(), rel=0.2)
    assert library.hessian_penalty(model.encode, x, 0.1, 2, draw).is_cuda
    assert library.participation_ratio(library.encoder_jacobian(model.encode, x).flatten(2)).is_cuda
    assert library.jacobian_spectrum(model.encode, x).is_cuda


# --- bad input ---------------------------------------------------------------------------------------------------

H, W, X, DRAW = torch.full((2, 3), 0.5), torch.ones(3, 4), torch.rand(2, 4), torch.Generator()


def encode(x):
    return torch.sigmoid(x @ W.T)


BAD = {
    "codes of rectified units": (lambda: library.contractive_penalty(3 * H, W), r"hidden must lie in \[0, 1\]"),
    "codes of tanh": (lambda: library.contractive_penalty(-H, W), r"hidden must lie in \[0, 1\]"),
    "weight transposed": (lambda: library.contractive_penalty(H, W.T), r"weight must have the sizes \(hidden, input\)"),
    "integer codes": (lambda: library.contractive_penalty(H.long(), W), "hidden must be floating point"),
    "NaN codes": (lambda: library.contractive_penalty(H * torch.nan, W), "hidden must be finite"),
    "infinite weight": (lambda: library.contractive_penalty(H, W / 0), "weight must be finite"),
    "two dtypes": (lambda: library.contractive_penalty(H, W.double()), "weight must be of the kind of hidden"),
    "no codes": (lambda: library.contractive_penalty(H[:0], W), "at least 1 of each"),
    "one code without a batch": (lambda: library.contractive_penalty(H[0], W), "hidden must have the sizes"),
    "integer x": (lambda: library.encoder_jacobian(encode, X.long()), "x must be floating point"),
    "NaN x": (lambda: library.encoder_jacobian(encode, X * torch.nan), "x must be finite"),
    "no x": (lambda: library.encoder_jacobian(encode, X[:0]), "x must not be empty"),
    "a list": (lambda: library.encoder_jacobian(encode, [1.0]), "x must be a tensor"),
    "no probes": (lambda: library.hutchinson_penalty(encode, X, 0, DRAW), "probes must be a positive integer"),
    "half a probe": (lambda: library.hutchinson_penalty(encode, X, 0.5, DRAW), "probes must be a positive integer"),
    "infinite x": (lambda: library.hutchinson_penalty(encode, X / 0, 1, DRAW), "x must be finite"),
    "none to probe": (lambda: library.hutchinson_penalty(encode, X[:0], 1, DRAW), "x must not be empty"),
    "sigma zero": (lambda: library.hessian_penalty(encode, X, 0.0, 1, DRAW), "sigma must be positive"),
    "sigma negative": (lambda: library.hessian_penalty(encode, X, -1.0, 1, DRAW), "sigma must be"),
    "no corruptions": (lambda: library.hessian_penalty(encode, X, 1.0, 0, DRAW), "corruptions must be a positive"),
    "none to corrupt": (lambda: library.hessian_penalty(encode, X[:0], 1.0, 1, DRAW), "x must not be empty"),
    "integers to corrupt": (lambda: library.hessian_penalty(encode, X.long(), 1.0, 1, DRAW), "floating point"),
    "sigma of a layer": (lambda: library.sigmoid_hessian_penalty(H, H, W, 0.0), "sigma must be positive"),
    "nearby codes of others": (lambda: library.sigmoid_hessian_penalty(H, H[:1], W, 0.1), "nearby must have the sizes"),
    "nearby codes of tanh": (lambda: library.sigmoid_hessian_penalty(H, -H, W, 0.1), r"nearby must lie in \[0, 1\]"),
    "images unflattened": (lambda: library.participation_ratio(torch.ones(2, 3, 4, 4)), "jacobian must have the sizes"),
    "one matrix": (lambda: library.participation_ratio(W), "3 dimensions"),
    "no matrix": (lambda: library.participation_ratio(torch.ones(0, 3, 4)), "at least 1 of each"),
    "NaN matrix": (lambda: library.participation_ratio(torch.ones(1, 3, 4) * torch.nan), "jacobian must be finite"),
    "spectrum of nothing": (lambda: library.jacobian_spectrum(encode, X[:0]), "x must not be empty"),
    "penalty of nothing": (lambda: library.jacobian_penalty(encode, X[:0]), "x must not be empty"),
    "no units": (lambda: library.TiedAutoencoder(4, 0, seed=0), "units must be a positive integer"),
    "pixels beyond 1": (lambda: library.reconstruction_loss(X, X + 1), r"x must lie in \[0, 1\]"),
    "another size": (lambda: library.reconstruction_loss(H, X), "x must have the sizes"),
    "nothing to train on": (
        lambda: library.train_autoencoder(library.TiedAutoencoder(4, 2, seed=0), X[:0], epochs=1),
        "x must not be empty",
    ),
    "no epochs": (
        lambda: library.train_autoencoder(library.TiedAutoencoder(4, 2, seed=0), X, epochs=0),
        "epochs must be",
    ),
    "negative noise": (
        lambda: library.train_autoencoder(library.TiedAutoencoder(4, 2, seed=0), X, epochs=1, noise=-1.0),
        "noise must be",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_explained(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call()
