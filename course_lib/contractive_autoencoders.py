"""Contractive autoencoders: a code that stands still unless it must move.

The penalty is the squared norm of the encoder's Jacobian; reconstruction pulls the other way, but only along the
directions in which the data vary. What is left over is a map of those directions. Rifai, Vincent, Muller, Glorot &
Bengio (2011). Chapter: ``book/contractive_autoencoders.md``.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from course_lib.norm_penalties import l2_penalty
from course_lib.preconditions import (
    require_between,
    require_finite,
    require_nonempty,
    require_nonnegative,
    require_positive,
    require_positive_integer,
    require_sizes,
)

Encoder = Callable[[Tensor], Tensor]


def contractive_penalty(
    hidden: Float[Tensor, "batch hidden"], weight: Float[Tensor, "hidden input"]
) -> Float[Tensor, ""]:
    """The squared Frobenius norm of a sigmoid layer's Jacobian, from its output and its weights alone.

    In a formula, for the code h = sigmoid(W·x + b) of each input x of the batch::

        ‖∂h/∂x‖² = Σⱼ (hⱼ·(1 − hⱼ))² · Σᵢ Wⱼᵢ²

    Normalisation: a sum over hidden units and inputs, a mean over the batch; the norm is squared; no factor 1/2, no
    strength.

    Args:
        hidden: the codes h, in [0, 1].
        weight: W, one row a hidden unit, as in ``torch.nn.Linear``.

    Returns:
        A scalar on the device and in the dtype of the inputs. Differentiable in both: training needs the two paths.

    Raises:
        ValueError: sizes, dtypes or devices differ, an empty batch, not finite, or codes outside [0, 1].

    Source: Rifai, Vincent, Muller, Glorot & Bengio (2011), *Contractive auto-encoders*, section 3.

    >>> contractive_penalty(torch.tensor([[0.5, 0.5]]), torch.tensor([[4.0, 0.0], [0.0, 8.0]]))
    tensor(5.)
    """
    require_between(0, 1, hidden=hidden)
    require_finite(weight=weight)
    require_sizes(hidden=(hidden, "batch hidden"), weight=(weight, "hidden input"))
    slope = hidden * (1 - hidden)  # (batch, hidden)
    return slope.square().mean(dim=0) @ torch.linalg.vector_norm(weight, dim=1).square()


def encoder_jacobian(
    encoder: Callable[[Tensor], Tensor], x: Float[Tensor, " batch *shape"]
) -> Float[Tensor, "batch hidden *shape"]:
    """The Jacobian of any encoder, for every input of a batch.

    In a formula, with the code h = encoder(x)::

        J[n, j, ...] = ∂h[n, j] / ∂x[n, ...]

    Args:
        encoder: maps ``(batch, *shape)`` to codes (batch, hidden), every input by itself: no batch normalization in
            training mode.
        x: inputs of any shape, for example images (batch, 1, height, width). Neither their values nor their
            ``requires_grad`` are changed.

    Returns:
        One Jacobian an input, on the device and in the dtype of x. Differentiable in the encoder's parameters, so that
        a penalty on it trains them.

    Raises:
        ValueError: x is not a floating-point tensor, is empty, or not finite.

    >>> encoder_jacobian(lambda x: x**2, torch.tensor([[1.0, 3.0]]))
    tensor([[[2., 0.],
             [0., 6.]]])
    """
    require_finite(x=x)
    require_nonempty(x=x)
    return torch.func.vmap(torch.func.jacrev(lambda one: encoder(one[None])[0]))(x)


def hutchinson_penalty(
    encoder: Callable[[Tensor], Tensor], x: Float[Tensor, " batch *shape"], probes: int, generator: torch.Generator
) -> Float[Tensor, ""]:
    """An unbiased estimate of the squared Frobenius norm of the encoder's Jacobian, one backward pass a probe.

    In a formula, with J the Jacobian of the code h = encoder(x) at one input::

        ‖J‖² = E ‖Jᵀ·z‖²,     z with independent entries +1 and −1, equally likely, one for each hidden unit

    Jᵀ·z is the gradient of z·h(x) in x: the Jacobian itself is never built.

    Normalisation: a mean over ``probes`` draws of z and over the batch; every input and every draw has a z of its own.
    A sum over the input's entries, squared, no factor 1/2.

    Args:
        encoder: maps ``(batch, *shape)`` to codes (batch, hidden), every input by itself.
        x: inputs of any shape. Neither their values nor their ``requires_grad`` are changed.
        probes: how many z an input, at least 1.
        generator: draws the z, on x's device; torch's global generator is left alone.

    Returns:
        A scalar on the device and in the dtype of x. Differentiable in the encoder's parameters.

    Raises:
        ValueError: x is not a floating-point tensor, is empty or not finite, or probes is not an integer of at least 1.

    Source: Hutchinson (1990), *A stochastic estimator of the trace of the influence matrix*.

    >>> draw = torch.Generator().manual_seed(0)
    >>> hutchinson_penalty(lambda x: 3 * x, torch.ones(2, 5), probes=1, generator=draw)  # orthogonal rows: exact
    tensor(45.)
    """
    require_finite(x=x)
    require_nonempty(x=x)
    require_positive_integer(probes=probes)
    hidden, pull_back = torch.func.vjp(encoder, x)
    total = 0.0
    for _ in range(probes):
        z = torch.randint(2, hidden.shape, generator=generator, device=x.device).to(x.dtype) * 2 - 1
        total = total + pull_back(z)[0].square().sum()
    return total / (probes * len(x))


def hessian_penalty(
    encoder: Callable[[Tensor], Tensor],
    x: Float[Tensor, " batch *shape"],
    sigma: float,
    corruptions: int,
    generator: torch.Generator,
) -> Float[Tensor, ""]:
    """How much the encoder's Jacobian changes nearby: the second-order term of the CAE+H.

    In a formula, with J the Jacobian of ``encoder_jacobian``::

        E ‖J(x + ε) − J(x)‖² / σ²,     ε normal with mean 0 and standard deviation σ in every entry of x

    For small σ this is the squared norm of all second derivatives, Σ (∂²hⱼ/∂xᵢ∂xₖ)².

    Normalisation: a mean over ``corruptions`` draws of ε and over the batch; every input and every draw has an ε of its
    own. Squared Frobenius norm, divided by σ² (the paper leaves 1/σ² to the strength), no factor 1/2.

    Args:
        encoder: maps ``(batch, *shape)`` to codes (batch, hidden), every input by itself.
        x: inputs of any shape. Neither their values nor their ``requires_grad`` are changed.
        sigma: σ > 0, in the units of x.
        corruptions: how many ε an input, at least 1.
        generator: draws the ε, on x's device; torch's global generator is left alone.

    Returns:
        A scalar on the device and in the dtype of x. Differentiable in the encoder's parameters.

    Raises:
        ValueError: x is not a floating-point tensor, is empty or not finite, sigma is not positive, or corruptions is
            not an integer of at least 1.

    Source: Rifai, Mesnil, Vincent, Muller, Bengio, Dauphin & Glorot (2011), *Higher order contractive auto-encoder*.

    >>> draw = torch.Generator().manual_seed(0)
    >>> hessian_penalty(lambda x: 3 * x, torch.ones(2, 5), sigma=0.1, corruptions=4, generator=draw)  # nothing curved
    tensor(0.)
    """
    require_finite(x=x)
    require_nonempty(x=x)
    require_positive(sigma=sigma)
    require_positive_integer(corruptions=corruptions)
    here, total = encoder_jacobian(encoder, x), 0.0
    for _ in range(corruptions):
        noise = sigma * torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        total = total + (encoder_jacobian(encoder, x + noise) - here).square().sum()
    return total / (corruptions * len(x) * sigma**2)


def sigmoid_hessian_penalty(
    hidden: Float[Tensor, "batch hidden"],
    nearby: Float[Tensor, "batch hidden"],
    weight: Float[Tensor, "hidden input"],
    sigma: float,
) -> Float[Tensor, ""]:
    """``hessian_penalty`` of a sigmoid layer for one ε an input, from its two outputs and its weights alone.

    In a formula, with h the codes of x and h′ those of x + ε::

        ‖J(x + ε) − J(x)‖² / σ² = Σⱼ (h′ⱼ·(1 − h′ⱼ) − hⱼ·(1 − hⱼ))² · Σᵢ Wⱼᵢ² / σ²

    Normalisation: as in ``hessian_penalty``; a mean over the batch.

    Args:
        hidden: the codes h, in [0, 1].
        nearby: the codes h′ of the same inputs after the step ε.
        weight: W, one row a hidden unit.
        sigma: σ > 0, the standard deviation of the entries of ε.

    Returns:
        A scalar on the device and in the dtype of the inputs. Differentiable in all three.

    Raises:
        ValueError: sizes, dtypes or devices differ, an empty batch, not finite, codes outside [0, 1], or σ ≤ 0.

    Source: Rifai, Mesnil, Vincent, Muller, Bengio, Dauphin & Glorot (2011), *Higher order contractive auto-encoder*.

    >>> sigmoid_hessian_penalty(torch.tensor([[0.5]]), torch.tensor([[0.0]]), torch.tensor([[4.0]]), sigma=0.5)
    tensor(4.)
    """
    require_between(0, 1, hidden=hidden, nearby=nearby)
    require_finite(weight=weight)
    require_sizes(hidden=(hidden, "batch hidden"), nearby=(nearby, "batch hidden"), weight=(weight, "hidden input"))
    require_positive(sigma=sigma)
    change = nearby * (1 - nearby) - hidden * (1 - hidden)  # (batch, hidden)
    return change.square().mean(dim=0) @ torch.linalg.vector_norm(weight, dim=1).square() / sigma**2


def participation_ratio(jacobian: Float[Tensor, "batch hidden input"]) -> Float[Tensor, " batch"]:
    """How many directions of input space a code feels: the effective rank of each Jacobian.

    In a formula, with s₁, s₂, ... the singular values of one Jacobian::

        r = (Σₖ sₖ²)² / Σₖ sₖ⁴

    Equal singular values count fully, small ones hardly: r lies between 1 and min(hidden, input).

    Normalisation: none is needed; c·J gives the same r as J for every number c ≠ 0, however small or large.
    A Jacobian that is zero everywhere gives 0.

    Args:
        jacobian: one matrix an input; flatten images first.

    Returns:
        One number a matrix, on the device and in the dtype of the Jacobians. Differentiable where J is not zero.

    Raises:
        ValueError: not a floating-point tensor of three dimensions, empty, or not finite.

    >>> participation_ratio(torch.tensor([[[3.0, 0.0, 0.0], [0.0, 3.0, 0.0]], [[0.0, 5.0, 0.0], [0.0, 0.0, 0.0]]]))
    tensor([2., 1.])
    """
    require_finite(jacobian=jacobian)
    require_sizes(jacobian=(jacobian, "batch hidden input"))
    largest = jacobian.abs().amax(dim=(1, 2), keepdim=True)
    scaled = jacobian / torch.where(largest > 0, largest, 1.0)  # fourth powers would underflow
    energy = scaled.square().sum(dim=(1, 2))  # Σ s², and below Σ s⁴: squared norms of J and of J·Jᵀ, no singular values
    return energy.square() / (scaled @ scaled.mT).square().sum(dim=(1, 2)).clamp(min=torch.finfo(energy.dtype).tiny)


def jacobian_penalty(encoder: Encoder, x: Float[Tensor, " batch *shape"]) -> Float[Tensor, ""]:
    """The squared Frobenius norm of any encoder's Jacobian: exact, and as costly as that Jacobian.

    Args:
        encoder: as for ``encoder_jacobian``.
        x: inputs of any shape.

    Returns:
        A sum over the Jacobian's entries, a mean over the batch. Differentiable in the encoder's parameters.

    Raises:
        ValueError: as ``encoder_jacobian``.

    >>> jacobian_penalty(lambda x: 3 * x, torch.ones(2, 5))
    tensor(45.)
    """
    return encoder_jacobian(encoder, x).square().sum() / len(x)


def jacobian_spectrum(encoder: Encoder, x: Float[Tensor, " batch *shape"]) -> Float[Tensor, " rank"]:
    """The singular values of the encoder's Jacobian, largest first, each averaged over the batch.

    Args:
        encoder: as for ``encoder_jacobian``.
        x: inputs of any shape.

    Returns:
        min(hidden, entries of one input) numbers.

    Raises:
        ValueError: as ``encoder_jacobian``.

    Source: Rifai, Vincent, Muller, Glorot & Bengio (2011), figure 3.

    >>> jacobian_spectrum(lambda x: x**2, torch.tensor([[1.0, 3.0], [3.0, 2.0]]))
    tensor([6., 3.])
    """
    parts = []
    for part in x.split(100):
        jacobian = encoder_jacobian(encoder, part)
        parts.append(torch.linalg.svdvals(jacobian.flatten(2)))
    return torch.cat(parts).mean(dim=0)


class TiedAutoencoder(nn.Module):
    """An autoencoder whose decoder is its encoder's transpose.

    In a formula::

        h = sigmoid(W·x + b),     r = sigmoid(Wᵀ·h + c)

    The weights are drawn uniformly from ±√(6/(pixels + units)), the constants b and c are 0.

    Args:
        pixels: entries of an input.
        units: hidden units.
        seed: fixes the weights; torch's global generator is left alone.

    >>> model = TiedAutoencoder(64, 100, seed=0)
    >>> model.encode(torch.rand(5, 1, 8, 8)).shape, model(torch.rand(5, 1, 8, 8)).shape
    (torch.Size([5, 100]), torch.Size([5, 64]))
    """

    def __init__(self, pixels: int, units: int, seed: int):
        super().__init__()
        require_positive_integer(pixels=pixels, units=units)
        draw = torch.Generator().manual_seed(seed)
        start = (2 * torch.rand(units, pixels, generator=draw) - 1) * (6 / (pixels + units)) ** 0.5
        self.weight, self.bias = nn.Parameter(start), nn.Parameter(torch.zeros(units))
        self.visible_bias = nn.Parameter(torch.zeros(pixels))

    def encode(self, x: Float[Tensor, " batch *shape"]) -> Float[Tensor, "batch unit"]:
        """The codes h, in (0, 1)."""
        return torch.sigmoid(nn.functional.linear(x.flatten(1), self.weight, self.bias))

    def decode(self, hidden: Float[Tensor, "batch unit"]) -> Float[Tensor, "batch pixel"]:
        """The logits of the reconstruction r."""
        return nn.functional.linear(hidden, self.weight.T, self.visible_bias)

    def forward(self, x: Float[Tensor, " batch *shape"]) -> Float[Tensor, "batch pixel"]:
        """The logits of the reconstruction of x; the reconstruction itself is their sigmoid."""
        return self.decode(self.encode(x))


def reconstruction_loss(logits: Float[Tensor, "batch pixel"], x: Float[Tensor, " batch *shape"]) -> Float[Tensor, ""]:
    """Cross-entropy between pixels in [0, 1] and their reconstruction: a sum over pixels, a mean over the batch.

    Args:
        logits: the reconstruction r = sigmoid(logits).
        x: what should come out.

    Returns:
        A scalar, in nats an image. Differentiable.

    Raises:
        ValueError: sizes or dtypes differ, not finite, or pixels outside [0, 1].

    >>> reconstruction_loss(torch.zeros(3, 4), torch.ones(3, 4))  # four times log 2
    tensor(2.7726)
    """
    require_between(0, 1, x=x)
    require_finite(logits=logits)
    require_sizes(logits=(logits, "batch pixel"), x=(x.flatten(1), "batch pixel"))
    return nn.functional.binary_cross_entropy_with_logits(logits, x.flatten(1), reduction="sum") / len(x)


def train_autoencoder(
    model: TiedAutoencoder,
    x: Float[Tensor, " n *shape"],
    *,
    epochs: int,
    strength: float = 0.0,
    noise: float = 0.0,
    decay: float = 0.0,
    curvature: float = 0.0,
    sigma: float = 0.1,
    batch_size: int = 50,
    lr: float = 3e-3,
    seed: int = 0,
) -> list[float]:
    """Train an autoencoder with Adam, in place: plain, contractive (CAE, CAE+H), denoising, or with weight decay.

    In a formula, for a batch::

        reconstruction_loss(model(x + noise·ε), x) + strength·contractive_penalty
            + curvature·sigmoid_hessian_penalty + decay/2·‖W‖²

    Args:
        model: on the device of x.
        x: images with values in [0, 1]; no labels.
        epochs: passes over the images, at least 1.
        strength: of the contractive penalty.
        noise: standard deviation of the corruption; the contractive penalty then sees the corrupted images.
        decay: of the L2 penalty on the weight.
        curvature: of the second-order penalty, with one draw an image.
        sigma: standard deviation of that draw.
        batch_size: images a step.
        lr: Adam's learning rate.
        seed: fixes the order of the images and the noise.

    Returns:
        The mean objective of every epoch.

    Raises:
        ValueError: no images, pixels outside [0, 1], or a number that makes no sense.

    >>> from course_lib.data import digits
    >>> objectives = train_autoencoder(TiedAutoencoder(64, 16, seed=0), digits().train.x, epochs=2, strength=0.1)
    >>> objectives[1] < objectives[0]
    True
    """
    require_nonempty(x=x)
    require_positive_integer(epochs=epochs, batch_size=batch_size)
    require_nonnegative(strength=strength, noise=noise, decay=decay, curvature=curvature, lr=lr)
    draw, optimizer = torch.Generator(x.device).manual_seed(seed), torch.optim.Adam(model.parameters(), lr=lr)
    history = []
    for _ in range(epochs):
        objectives = []
        for part in torch.randperm(len(x), generator=draw, device=x.device).split(batch_size):
            clean = x[part].flatten(1)
            seen = clean + noise * torch.randn(clean.shape, generator=draw, device=x.device) if noise else clean
            hidden = model.encode(seen)
            objective = reconstruction_loss(model.decode(hidden), clean)
            if strength:
                objective = objective + strength * contractive_penalty(hidden, model.weight)
            if curvature:
                nearby = model.encode(seen + sigma * torch.randn(seen.shape, generator=draw, device=x.device))
                objective = objective + curvature * sigmoid_hessian_penalty(hidden, nearby, model.weight, sigma)
            if decay:
                objective = objective + l2_penalty([model.weight], decay)
            optimizer.zero_grad()
            objective.backward()
            optimizer.step()
            objectives.append(objective.detach())
        history.append(torch.stack(objectives).mean().item())
    return history
