"""The ledger's measurements for a network that starts from an autoencoder's code.

The ledger's images, seeds, optimizer and columns; its network with sigmoid units in place of rectified ones, for these
are what the closed form is about. The autoencoders see all 899 training digits, without labels; the network then sees
the 100 labels of its seed. The strength is chosen on the validation images of three other seeds.

    python benchmarks/contractive_autoencoders_digits.py
"""

import statistics

import torch
from study import Study
from torch import nn

from course_lib.contractive_autoencoders import TiedAutoencoder, train_autoencoder
from course_lib.data import digits
from course_lib.ledger import measure, task
from course_lib.training import accuracy, batches, fit

STRENGTHS, TUNING, SEEDS = [0.3, 1.0, 3.0, 10.0], range(100, 103), range(10)


def network(seed: int, start: TiedAutoencoder | None) -> nn.Module:
    """The ledger's 64-128-10 network with sigmoid units, its first layer copied from an autoencoder."""
    torch.manual_seed(seed)
    first = nn.Linear(64, 128)
    if start is not None:
        with torch.no_grad():
            first.weight.copy_(start.weight)
            first.bias.copy_(start.bias)
    return nn.Sequential(nn.Flatten(), first, nn.Sigmoid(), nn.Linear(128, 10))


def trained(seed: int, strength: float | None) -> nn.Module:
    """Trained as the ledger trains; None is no pre-training."""
    start = None
    if strength is not None:
        start = TiedAutoencoder(64, 128, seed)
        train_autoencoder(start, digits().train.x, epochs=60, strength=strength, seed=seed)
    model = network(seed, start)
    fit(model, batches(task(seed).train, 25, seed=seed), torch.optim.Adam(model.parameters(), lr=3e-3), epochs=200)
    return model


def tried(strength: float) -> dict[str, float]:
    """The mean accuracy on validation images."""
    found = [accuracy(trained(seed, strength), task(seed).validation) for seed in TUNING]
    return {"validation accuracy %": round(100 * statistics.mean(found), 2)}


def main():
    """Run what is not yet in benchmarks/results/contractive_autoencoders_digits.json."""
    torch.set_num_threads(1)
    about = "64-128-10 sigmoid network, Adam 3e-3, 200 epochs, batch 25; autoencoders 60 epochs on 899 images"
    study = Study("contractive_autoencoders_digits", about, "scikit-learn digits, as in the ledger")
    found = {s: study.run(f"validation {s:g}", lambda s=s: tried(s)) for s in STRENGTHS}
    best = max(found, key=lambda s: found[s]["validation accuracy %"])
    for seed in SEEDS:
        for method, strength in {"none": None, "plain": 0.0, "contractive": best}.items():

            def work(seed=seed, strength=strength):
                return {k: round(v, 4) for k, v in measure(trained(seed, strength), task(seed).test).items()}

            study.run(f"{method}, {strength or 0:g}, seed {seed}", work)


if __name__ == "__main__":
    main()
