"""Tangent prop: tell a network in which directions its output must not move.

A transformation moves an image along a tangent; the penalty is the squared derivative of the output along it. Simard,
Victorri, LeCun & Denker (1992). Beside it the penalty on all directions at once, Drucker & LeCun's double
backpropagation (1992). Chapter: ``book/tangent_prop.md``.
"""

import functools
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from course_lib.preconditions import (
    require_finite,
    require_nonempty,
    require_nonnegative,
    require_positive,
    require_sizes,
)
from course_lib.tangent_distance import image_gradient

#: The velocity of a point at (right, down) from the centre, as a matrix [A | b] for ``affine_tangents``.
GENERATORS = {
    "shift right": ((0.0, 0.0, 1.0), (0.0, 0.0, 0.0)),
    "shift down": ((0.0, 0.0, 0.0), (0.0, 0.0, 1.0)),
    "rotation": ((0.0, 1.0, 0.0), (-1.0, 0.0, 0.0)),
    "scale": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
}


def affine_tangents(
    images: Float[Tensor, "batch 1 height width"], generators: Float[Tensor, "tangent 2 3"], sigma: float
) -> Float[Tensor, "batch tangent 1 height width"]:
    """How images begin to change when the plane flows: one tangent for each image and each affine velocity.

    In a formula, with positions p = (u, v) in pixels, u to the right and v **down** from the image's centre, the smooth
    image s of ``image_gradient``, and [A | b] for ``generators[k]``::

        velocity of the point p:   (u̇, v̇) = A·p + b
        tangent:                   τ(p) = −(u̇·∂s/∂u + v̇·∂s/∂v)

    The minus sign: a pixel shows what flows in, from where the movement comes. The centre is at row (height − 1)/2 and
    column (width − 1)/2.

    Args:
        images: any height and width, square or not. They are not changed.
        generators: velocities [A | b], in pixels per unit of the transformation, for instance ``GENERATORS``. All
            images share them. Same dtype as the images.
        sigma: σ > 0, the width of the Gaussian in pixels.

    Returns:
        Tangents in the order of the generators, on the device and in the dtype of the images. Differentiable (linear)
        in images and generators.

    Raises:
        ValueError: not images of shape (batch, 1, height, width), not generators of shape (tangent, 2, 3), dtypes that
            differ, NaN or infinity, or sigma not positive.

    Source: Simard, LeCun, Denker & Victorri (1998), *Transformation invariance in pattern recognition*, section 4.

    >>> dot = torch.zeros(1, 1, 3, 3); dot[0, 0, 1, 1] = 1.0
    >>> grow = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
    >>> affine_tangents(dot, grow, sigma=1.0)[0, 0, 0, 0]  # a dot that grows: the row above it turns brighter
    tensor([0.1171, 0.0965, 0.1171])
    """
    require_finite(images=images, generators=generators)
    require_sizes(images=(images, "batch 1 height width"), generators=(generators, "tangent 2 3"))
    require_positive(sigma=sigma)
    height, width = images.shape[-2:]
    u = torch.arange(width, dtype=images.dtype, device=images.device) - (width - 1) / 2
    v = torch.arange(height, dtype=images.dtype, device=images.device) - (height - 1) / 2
    point = torch.stack([u.expand(height, width), v[:, None].expand(height, width), torch.ones_like(u + v[:, None])])
    velocity = torch.einsum("kij,jhw->kihw", generators, point)  # (tangent, 2, height, width): right, down
    slopes = image_gradient(images, sigma).flip(1)  # right, down
    tangents = -torch.einsum("kihw,bihw->bkhw", velocity, slopes)[:, :, None].contiguous()
    return F.hardshrink(tangents, torch.finfo(tangents.dtype).tiny ** 0.5)  # tails: nothing, and very slow products


def mlp_pushforward(
    layers: Sequence[tuple[Tensor, Tensor]],
    x: Float[Tensor, "batch feature"],
    tangents: Float[Tensor, "batch tangent feature"],
) -> tuple[Float[Tensor, "batch output"], Float[Tensor, "batch tangent output"]]:
    """The outputs of a ReLU network, and how they move along tangents of its inputs, in one pass forward.

    In a formula, for layers with weights W and biases b, from h = x and t = τ on::

        z = W·h + b        ṫ = W·t             every layer
        h = max(z, 0)      t = ṫ where z > 0, else 0     every layer but the last, which gives z and ṫ themselves

    For each example t starts as one of its tangents and ends as J(x)·τ, exactly: the derivative of the outputs along τ.
    Where z = 0 the derivative of ReLU counts as 0, as in torch.

    Args:
        layers: pairs (W, b), W of shape (out, in) as in ``nn.Linear``, b of shape (out,); at least one pair.
        x: one input a row.
        tangents: any number of directions for each input, in the units of the input.

    Returns:
        The outputs f(x), and J(x)·τ for every tangent, on the device and in the dtype of ``x``. Differentiable in the
        layers' weights and biases, and in x.

    Raises:
        ValueError: no layer, sizes or dtypes that do not fit, NaN or infinity.

    Source: Simard, Victorri, LeCun & Denker (1992), *Tangent prop*, the network beside the network.

    >>> layers = [(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), torch.zeros(2)), (torch.ones(1, 2), torch.zeros(1))]
    >>> mlp_pushforward(layers, torch.tensor([[1.0, 2.0]]), torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]))
    (tensor([[3.]]), tensor([[[1.],
             [1.]]]))
    """
    require_nonempty(layers=layers)
    require_finite(x=x, tangents=tangents)
    require_sizes(
        x=(x, "batch in0"),
        tangents=(tangents, "batch tangent in0"),
        **{f"weight of layer {i}": (weight, f"in{i + 1} in{i}") for i, (weight, _) in enumerate(layers)},
        **{f"bias of layer {i}": (bias, f"in{i + 1}") for i, (_, bias) in enumerate(layers)},
    )
    for weight, bias in layers[:-1]:
        z = x @ weight.T + bias
        tangents = (tangents @ weight.T) * (z > 0)[:, None]  # (batch, tangent, out)
        x = z.relu()
    weight, bias = layers[-1]
    return x @ weight.T + bias, tangents @ weight.T


def tangent_penalty(
    model: Callable[[Tensor], Tensor],
    x: Float[Tensor, " batch *shape"],
    tangents: Float[Tensor, " batch tangent *shape"],
) -> Float[Tensor, ""]:
    """Tangent prop: the squared derivative of the outputs along each input's own tangents.

    In a formula, with J(x) the Jacobian of the model at x and τᵢₖ for ``tangents[i, k]``::

        Ω = 1/n · Σᵢ Σₖ ‖J(xᵢ)·τᵢₖ‖²

    Normalisation: a mean over the n examples, a **sum** over tangents and over outputs; the norm is squared; no factor
    1/2. Tangents are taken as they come, none is scaled to length 1: a longer tangent asks for more.

    Args:
        model: maps a batch to outputs, (batch, ...), each example on its own. It is used in the mode (training or
            evaluation) in which it comes, and not changed.
        x: a batch of inputs.
        tangents: any number of directions for each input, in the units of the input.

    Returns:
        A scalar on the device and in the dtype of ``x``: the exact derivative, not a difference quotient.
        Differentiable, above all in the parameters of the model; no ``.grad`` is written until you call ``backward``.
        (Through ``nn.LayerNorm`` torch 2.13 gets this gradient wrong, and says nothing. ``pushforward`` does not.)

    Raises:
        ValueError: an empty batch, no tangent, sizes, dtypes or devices that differ, NaN or infinity.

    Source: Simard, Victorri, LeCun & Denker (1992), *Tangent prop*.

    >>> model = lambda x: x @ torch.tensor([[1.0, 1.0], [0.0, 2.0]])
    >>> tangent_penalty(model, torch.zeros(1, 2), torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]))  # 1 + 1, and 4
    tensor(6.)
    """
    require_finite(x=x, tangents=tangents)
    require_sizes(x=(x, "batch *shape"), tangents=(tangents, "batch tangent *shape"))
    inputs = x.clone()  # forward mode drags a slice's whole storage along

    def slopes_along(tangent: Tensor) -> Tensor:
        return torch.func.jvp(model, (inputs,), (tangent,))[1]

    slopes = torch.func.vmap(slopes_along, in_dims=1)(tangents)  # (tangent, batch, ...): J·τ
    return slopes.square().sum() / len(x)


def gradient_penalty(
    losses: Callable[[Float[Tensor, " batch *shape"]], Float[Tensor, " batch"]], x: Float[Tensor, " batch *shape"]
) -> Float[Tensor, ""]:
    """Double backpropagation: the squared gradient of each example's loss with respect to its input.

    In a formula, with ℓᵢ(x) for ``losses(x)[i]``, which depends on xᵢ only::

        Ω = 1/n · Σᵢ ‖∂ℓᵢ/∂xᵢ‖²

    Normalisation: a mean over the n examples of squared norms, each a sum over all entries of one input; no root, no
    factor 1/2. The losses are **not** averaged before they are differentiated: an example's gradient does not depend on
    how many others are in the batch.

    Args:
        losses: maps the batch to one number an example, for instance
            ``lambda x: cross_entropy(model(x), y, reduction="none")``. It knows the labels of this batch: call it with
            the whole batch, never with a part.
        x: a batch of inputs. They need not require gradients, and are not changed.

    Returns:
        A scalar on the device and in the dtype of ``x``. Differentiable in the parameters behind ``losses``, not in x;
        no ``.grad`` is written until you call ``backward``.

    Raises:
        ValueError: an empty batch, not a floating-point one, or NaN or infinity.

    Source: Drucker & LeCun (1992), *Improving generalization performance using double backpropagation*.

    >>> slope = torch.tensor([3.0, 4.0])
    >>> gradient_penalty(lambda x: x @ slope, torch.ones(7, 2))  # the norm of the slope is 5 for each of the seven
    tensor(25.)
    """
    require_finite(x=x)
    require_nonempty(x=x)
    leaf = x.detach().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(losses(leaf).sum(), leaf, create_graph=True)
    return gradient.square().sum() / len(x)


def tangent_prop_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: Float[Tensor, " batch *shape"],
    y: Int64[Tensor, " batch"],
    tangents: Float[Tensor, " batch tangent *shape"],
    strength: float,
) -> tuple[float, float]:
    """One training step on the cross-entropy plus a tangent penalty.

    In a formula, with ``tangent_penalty`` for Ω::

        J = cross_entropy(model(x), y) + α·Ω          θ ← optimizer step on ∂J/∂θ

    Normalisation: the cross-entropy is a mean over the batch (torch's default), Ω as in ``tangent_penalty``.

    Args:
        model: maps a batch to one score a class. It is trained in place, in the mode (training or evaluation) in which
            it comes, and keeps that mode.
        optimizer: holds the model's parameters. Gradients that earlier calls left on them do not count.
        x: a batch of inputs.
        y: their classes.
        tangents: any number of directions for each input.
        strength: α ≥ 0.

    Returns:
        Two Python floats, both from before the step: the cross-entropy, and Ω **without** its strength, also where
        the strength is 0.

    Raises:
        ValueError: as ``tangent_penalty``, no label, or a negative strength.

    Source: Simard, Victorri, LeCun & Denker (1992), *Tangent prop*.

    >>> model = nn.Linear(2, 2, bias=False); _ = nn.init.eye_(model.weight)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.25)
    >>> x, y, tangents = torch.zeros(1, 2), torch.tensor([0]), torch.tensor([[[0.0, 2.0]]])
    >>> loss, penalty = tangent_prop_step(model, optimizer, x, y, tangents, strength=0.5)
    >>> round(loss, 4), penalty  # ln 2, and the square of the 2 that the second score moves by
    (0.6931, 4.0)
    >>> model.weight.data  # the weight that let the tangent through has shrunk
    tensor([[1., 0.],
            [0., 0.]])
    """
    require_nonnegative(strength=strength)
    require_finite(x=x, tangents=tangents)
    require_nonempty(x=x, y=y, tangents=tangents)
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    penalty = tangent_penalty(model, x, tangents)
    (loss + strength * penalty).backward()
    optimizer.step()
    return loss.item(), penalty.item()


# Layers that act on each entry alone, so that a tangent is multiplied by the derivative.
_ENTRYWISE = (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus, nn.Softsign)
_ENTRYWISE += (nn.Tanh, nn.Sigmoid, nn.LogSigmoid)
_LINEAR = (nn.Identity, nn.AvgPool2d, nn.AdaptiveAvgPool2d)  # a tangent goes through as an image does
_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


def pushforward(
    model: Callable[[Tensor], Tensor],
    x: Float[Tensor, " batch *shape"],
    tangents: Float[Tensor, " batch tangent *shape"],
) -> tuple[Float[Tensor, " batch *out"], Float[Tensor, " batch tangent *out"]]:
    """The outputs of a model and their derivatives along tangents, from one shared pass forward.

    The penalty of ``tangent_penalty`` is ``slopes.square().sum() / len(x)``: the same value, the same gradients.

    The rule: an ``nn.Sequential`` (also a nested one) is entered layer by layer. ``Linear``, ``Conv2d``, activations
    that act entry by entry, pooling, ``Flatten``, dropout, layer normalization, and batch normalization in evaluation
    mode are written out, all tangents in one matrix product. Every other layer, subclass, or layer with hooks, and a
    model that is no Sequential, is left to forward-mode differentiation (``torch.func.jvp`` under ``vmap``). An example
    and its tangents share one dropout mask.

    Args:
        model: maps a batch to outputs, each example on its own.
        x: a batch of inputs.
        tangents: any number of directions for each input.

    Returns:
        ``(model(x), J(x)·τ)``. Differentiable in the parameters, in x and in the tangents.

    Raises:
        ValueError: an empty batch, no tangent, sizes, dtypes or devices that differ, NaN or infinity, or batch
            normalization with batch statistics: then an example has no derivative of its own.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    >>> outputs, slopes = pushforward(model, torch.ones(5, 1, 2, 2), torch.ones(5, 7, 1, 2, 2))
    >>> outputs.shape, slopes.shape
    (torch.Size([5, 2]), torch.Size([5, 7, 2]))
    """
    require_finite(x=x, tangents=tangents)
    require_sizes(x=(x, "batch *shape"), tangents=(tangents, "batch tangent *shape"))
    _refuse_batch_statistics(model)
    for layer in _layers(model):
        x, tangents = _push(layer, x, tangents)
    return x, tangents


def _refuse_batch_statistics(model: Callable) -> None:
    for name, layer in model.named_modules() if isinstance(model, nn.Module) else ():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and (layer.training or layer.running_mean is None):
            raise ValueError(
                f"examples must not depend on each other: wanted no batch statistics, got {type(layer).__name__} "
                f"{name!r} that uses them. Call .eval() on it, or take GroupNorm."
            )


def _layers(model: Callable) -> Iterator[Callable]:
    """The layers in their order: nested Sequentials are opened, unless a hook wants to see them whole."""
    if type(model) is nn.Sequential and not _hooked(model):
        for part in model:
            yield from _layers(part)
    else:
        yield model


def _hooked(layer: nn.Module) -> bool:
    return bool(layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks)


def _push(layer: Callable, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """One layer: its output, and what becomes of the tangents (batch, tangent, ...)."""
    kind = type(layer)
    if not isinstance(layer, nn.Module) or _hooked(layer):
        return _push_by_jvp(layer, x, t)
    if kind is nn.Linear:
        return layer(x), F.linear(t, layer.weight)
    if kind is nn.Conv2d and layer.padding_mode == "zeros" and x.ndim == 4:
        shape = layer.stride, layer.padding, layer.dilation, layer.groups
        return layer(x), F.conv2d(t.flatten(0, 1), layer.weight, None, *shape).unflatten(0, t.shape[:2])
    if kind is nn.ReLU:
        open_gates = (x > 0).to(t)  # before the layer, which may work in place
        return layer(x), t * open_gates[:, None]
    if kind in _ENTRYWISE and not getattr(layer, "inplace", False):
        x, slope = torch.func.jvp(layer, (x,), (torch.ones_like(x),))
        return x, t * slope[:, None]
    if kind in _DROPOUT and not layer.training:
        return x, t
    if kind in _DROPOUT and not layer.inplace:
        mask = layer(torch.ones_like(x))
        return x * mask, t * mask[:, None]
    if kind is nn.Flatten and layer.start_dim == 1 and layer.end_dim == -1:
        return x.flatten(1), t.flatten(2)
    if kind in _LINEAR and x.ndim == 4:
        return layer(x), layer(t.flatten(0, 1)).unflatten(0, t.shape[:2])
    if kind is nn.MaxPool2d and x.ndim == 4 and not layer.return_indices:
        window = layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.ceil_mode
        x, places = F.max_pool2d(x, *window, return_indices=True)
        places = places.flatten(2)[:, None].expand(-1, t.shape[1], -1, -1)  # (batch, tangent, channel, place)
        return x, t.flatten(3).gather(3, places).unflatten(3, x.shape[2:])
    if kind is nn.LayerNorm:
        return _push_by_jvp(functools.partial(_layer_norm, layer), x, t)
    if kind in (nn.BatchNorm1d, nn.BatchNorm2d):  # in evaluation mode: the others are refused
        scale = (layer.running_var + layer.eps).rsqrt() * (1.0 if layer.weight is None else layer.weight)
        return layer(x), t * scale.reshape(-1, *[1] * (x.ndim - 2))
    return _push_by_jvp(layer, x, t)


def _layer_norm(layer: nn.LayerNorm, x: Tensor) -> Tensor:
    """Layer normalization in small steps: the derivative of torch 2.13's own jvp of it is wrong."""
    axes = tuple(range(-len(layer.normalized_shape), 0))
    centred = x - x.mean(axes, keepdim=True)
    scaled = centred * (centred.square().mean(axes, keepdim=True) + layer.eps).rsqrt()
    scaled = scaled if layer.weight is None else scaled * layer.weight
    return scaled if layer.bias is None else scaled + layer.bias


def _push_by_jvp(layer: Callable, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Forward-mode differentiation, all tangents at once; whatever is random is the same for all of them."""
    x = x.clone()  # forward mode drags a slice's whole storage along

    def push(tangent: Tensor) -> tuple[Tensor, Tensor]:
        return torch.func.jvp(layer, (x,), (tangent,))

    return torch.func.vmap(push, in_dims=1, out_dims=(None, 1), randomness="same")(t)


def central_difference_penalty(
    model: Callable[[Tensor], Tensor],
    x: Float[Tensor, " batch *shape"],
    tangents: Float[Tensor, " batch tangent *shape"],
    step: float,
) -> Float[Tensor, ""]:
    """The penalty of ``tangent_penalty``, its derivatives replaced by central difference quotients.

    In a formula, with h for ``step``::

        Ω ≈ 1/n · Σᵢ Σₖ ‖(f(xᵢ + h·τᵢₖ) − f(xᵢ − h·τᵢₖ)) / (2h)‖²

    For a smooth model the value and the gradient are off by O(h²); a small h loses digits to rounding. For a network
    with kinks (ReLU) every unit whose kink lies between the two points errs, and puts a spike of order 1/h into the
    gradient: there the exact penalty jumps, which its own gradient does not show.

    Args:
        model: maps a batch to outputs, each example on its own and without anything random.
        x: a batch of inputs.
        tangents: any number of directions for each input.
        step: h > 0, in units of the transformation.

    Returns:
        A scalar on the device and in the dtype of ``x``. Differentiable.

    Raises:
        ValueError: as ``tangent_penalty``, or a step that is not positive.

    >>> central_difference_penalty(lambda x: x**2, torch.tensor([[3.0]]), torch.tensor([[[1.0]]]), step=0.5)
    tensor(36.)
    """
    require_finite(x=x, tangents=tangents)
    require_sizes(x=(x, "batch *shape"), tangents=(tangents, "batch tangent *shape"))
    require_positive(step=step)
    moved = torch.stack([x[:, None] + step * tangents, x[:, None] - step * tangents])  # (2, batch, tangent, ...)
    ahead, behind = model(moved.flatten(0, 2)).unflatten(0, moved.shape[:3])
    return ((ahead - behind) / (2 * step)).square().sum() / len(x)


def double_backward_penalty(
    model: Callable[[Tensor], Tensor],
    x: Float[Tensor, " batch *shape"],
    tangents: Float[Tensor, " batch tangent *shape"],
) -> Float[Tensor, ""]:
    """The penalty of ``tangent_penalty`` by reverse mode alone: a backward pass, then one more for each tangent.

    In a formula: reverse mode gives Jᵀ·v for any v, and this is linear in v. So differentiate it once more::

        J(x)·τ = ∂/∂v ⟨J(x)ᵀ·v, τ⟩

    Args:
        model: maps a batch to outputs, each example on its own.
        x: a batch of inputs.
        tangents: any number of directions for each input.

    Returns:
        A scalar on the device and in the dtype of ``x``. Differentiable in the parameters of the model, not in x; wrong
        through ``nn.LayerNorm``, as ``tangent_penalty``.

    Raises:
        ValueError: as ``tangent_penalty``.

    >>> model = lambda x: x @ torch.tensor([[1.0, 1.0], [0.0, 2.0]])
    >>> double_backward_penalty(model, torch.zeros(1, 2), torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]))
    tensor(6.)
    """
    require_finite(x=x, tangents=tangents)
    require_sizes(x=(x, "batch *shape"), tangents=(tangents, "batch tangent *shape"))
    leaf = x.detach().requires_grad_()
    with torch.enable_grad():
        outputs = model(leaf)
        probe = torch.zeros_like(outputs, requires_grad=True)
        (pulled,) = torch.autograd.grad(outputs, leaf, probe, create_graph=True)  # (batch, ...): Jᵀ·v
        products = [(pulled * tangent).sum() for tangent in tangents.unbind(dim=1)]
        slopes = [torch.autograd.grad(product, probe, create_graph=True)[0] for product in products]
    return sum(slope.square().sum() for slope in slopes) / len(x)
