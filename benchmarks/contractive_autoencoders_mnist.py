"""Contractive, denoising, decayed and plain autoencoders on MNIST, at a scale that one core can carry.

Tied weights, 784-256, trained on 10 000 images without their labels. Strengths are chosen on 2 000 other training
images, by a linear classifier on the frozen code, at one seed. Then five other seeds: the same linear classifier, and
the network 784-256-10 that starts from the encoder and is trained as a whole (fine-tuned), as the paper does; both see
all 10 000 labels. The test images are looked at once. The spectrum is that of the encoder's Jacobian, averaged over 50
test images.

    python benchmarks/contractive_autoencoders_mnist.py [--images 10000]
"""

import argparse

import torch
from study import Study
from torch import Tensor, nn

from course_lib.contractive_autoencoders import (
    TiedAutoencoder,
    contractive_penalty,
    encoder_jacobian,
    jacobian_spectrum,
    participation_ratio,
    reconstruction_loss,
    train_autoencoder,
)
from course_lib.data import Split, few_labels, mnist
from course_lib.training import accuracy, batches, fit

UNITS, EPOCHS, TUNING, SEEDS = 256, 20, 100, range(5)
CANDIDATES = {
    "plain": {"strength": [0.0]},
    "contractive": {"strength": [0.1, 0.3, 1.0, 3.0]},
    "denoising": {"noise": [0.2, 0.4, 0.8]},
    "weight decay": {"decay": [0.01, 0.1, 1.0]},
}


def pretrained(images: Tensor, seed: int, setting: dict[str, float]) -> TiedAutoencoder:
    """An autoencoder that has seen the images, and no label."""
    model = TiedAutoencoder(images[0].numel(), UNITS, seed)
    train_autoencoder(model, images, epochs=EPOCHS, batch_size=100, lr=1e-3, seed=seed, **setting)
    return model


def error(model: nn.Module, split: Split) -> float:
    """Mistakes in percent."""
    return round(100 * (1 - accuracy(model, split)), 3)


@torch.no_grad()
def codes(model: TiedAutoencoder, split: Split) -> Split:
    """The images' codes in place of the images."""
    return Split(model.encode(split.x), split.y)


def frozen(model: TiedAutoencoder, train: Split, seed: int) -> nn.Module:
    """A linear classifier on the code."""
    torch.manual_seed(seed)
    classifier = nn.Linear(UNITS, 10)
    optimizer = torch.optim.Adam(classifier.parameters(), lr=1e-2)
    fit(classifier, batches(codes(model, train), 100, seed=seed), optimizer, epochs=30)
    return classifier


def fine_tuned(model: TiedAutoencoder, train: Split, seed: int) -> nn.Module:
    """The network that starts from the encoder."""
    torch.manual_seed(seed)
    first = nn.Linear(train.x[0].numel(), UNITS)
    with torch.no_grad():
        first.weight.copy_(model.weight)
        first.bias.copy_(model.bias)
    network = nn.Sequential(nn.Flatten(), first, nn.Sigmoid(), nn.Linear(UNITS, 10))
    fit(network, batches(train, 100, seed=seed), torch.optim.Adam(network.parameters()), epochs=10)
    return network


def tried(train: Split, validation: Split, setting: dict[str, float]) -> dict[str, float]:
    """One strength, on validation images."""
    model = pretrained(train.x, TUNING, setting)
    return {"validation error %": error(frozen(model, train, TUNING), codes(model, validation))}


def measured(train: Split, test: Split, seed: int, setting: dict[str, float]) -> dict:
    """One seed of one method."""
    model = pretrained(train.x, seed, setting)
    some = test.x[:50]
    with torch.no_grad():
        hidden = model.encode(test.x)
        reconstruction = reconstruction_loss(model.decode(hidden), test.x).item()
        penalty = contractive_penalty(hidden, model.weight).item()
        jacobian = encoder_jacobian(model.encode, some).flatten(2)
        spectrum = jacobian_spectrum(model.encode, some)
    return {
        "frozen error %": error(frozen(model, train, seed), codes(model, test)),
        "fine-tuned error %": error(fine_tuned(model, train, seed), test),
        "reconstruction (nats)": round(reconstruction, 2),
        "penalty": round(penalty, 4),
        "participation ratio": round(participation_ratio(jacobian).mean().item(), 2),
        "spectrum": [round(value, 5) for value in spectrum.tolist()],
    }


def scratch(train: Split, test: Split, seed: int) -> dict[str, float]:
    """The same network without any pre-training."""
    return {
        "fine-tuned error %": error(fine_tuned(TiedAutoencoder(train.x[0].numel(), UNITS, seed), train, seed), test)
    }


def main():
    """Run what is not yet in benchmarks/results/contractive_autoencoders_mnist.json."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--images", type=int, default=10_000, help="training images; a fifth as many to validate")
    images = options.parse_args().images
    torch.set_num_threads(1)
    data = mnist()
    chosen = few_labels(data.train, images // 10 + images // 50, seed=0)  # mixed; classes balanced
    train, validation = Split(chosen.x[:images], chosen.y[:images]), Split(chosen.x[images:], chosen.y[images:])
    test = data.test
    about = f"tied 784-{UNITS}, {EPOCHS} epochs of Adam 1e-3, batch 100; linear classifier on the code, or fine-tuned"
    study = Study("contractive_autoencoders_mnist", about, f"MNIST, {images} to train, {len(test.y)} to test")
    settings = {}
    for method, candidates in CANDIDATES.items():
        ((name, values),) = candidates.items()
        errors = {
            value: study.run(f"validation {method} {value:g}", lambda n=name, v=value: tried(train, validation, {n: v}))
            for value in values
        }
        settings[method] = {name: min(errors, key=lambda value: errors[value]["validation error %"])}
    for seed in SEEDS:
        study.run(f"test none 0 seed {seed}", lambda s=seed: scratch(train, test, s))
        for method, setting in settings.items():
            (strength,) = setting.values()
            study.run(
                f"test {method} {strength:g} seed {seed}",
                lambda s=seed, chosen=setting: measured(train, test, s, chosen),
            )


if __name__ == "__main__":
    main()
