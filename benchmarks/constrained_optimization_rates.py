"""How large a learning rate training survives: plain, with an L2 penalty, with a max-norm constraint.

The ledger's network and images, 100 labelled digits; gradient descent with momentum, 30 epochs. The bound and the
strength are the best of a short list at rate 0.3 on validation images of three other seeds.

    python benchmarks/constrained_optimization_rates.py
"""

import statistics

import torch
from study import Study
from torch import nn

from course_lib.constrained_optimization import max_norm_
from course_lib.data import Split
from course_lib.ledger import network, task
from course_lib.norm_penalties import l2_penalty
from course_lib.training import accuracy, batches, fit

RATES = [0.03, 0.1, 0.3, 0.5, 0.7, 1.0, 1.4]
CHOICES = {"plain": [0.0], "L2 penalty": [1e-3, 3e-3, 1e-2], "max-norm": [0.7, 1.0, 1.5, 2.0]}
TUNING, SEEDS = range(100, 103), range(5)


def error(method: str, number: float, rate: float, seed: int, on: str) -> float:
    """Error in percent after training; a run that diverges is as good as guessing."""
    model, data = network(seed), task(seed)
    weights = [layer.weight for layer in model if isinstance(layer, nn.Linear)]
    penalties = [lambda model, x, y: l2_penalty(model.parameters(), number)] if method == "L2 penalty" else []
    project = (lambda _: [max_norm_(weight, number) for weight in weights]) if method == "max-norm" else None
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    measured: Split = getattr(data, on)
    try:
        fit(model, batches(data.train, 25, seed=seed), optimizer, epochs=30, penalties=penalties, after_step=project)
    except ValueError:  # the objective, or a weight, is no longer finite
        return 90.0
    return round(100 * (1 - accuracy(model, measured)), 2)


def main():
    """Choose once, then sweep the rates."""
    torch.set_num_threads(1)
    about = "64-128-10 network, momentum 0.9, 30 epochs, batch 25"
    data = "scikit-learn digits: 10 a class to train, 10 to validate, 898 to test"
    study = Study("constrained_optimization_rates", about, data)
    for method, numbers in CHOICES.items():
        tuned = study.run(
            f"{method}, tuning",
            lambda m=method, ns=numbers: {
                f"{number:g}": round(statistics.mean(error(m, number, 0.3, s, "validation") for s in TUNING), 2)
                for number in ns
            },
        )
        best = float(min(tuned, key=tuned.get))
        for seed in SEEDS:
            study.run(
                f"{method}, seed {seed}",
                lambda m=method, b=best, s=seed: {
                    "number": b,
                    "rates": RATES,
                    "error %": [error(m, b, rate, s, "test") for rate in RATES],
                },
            )


if __name__ == "__main__":
    main()
