"""Is a penalty as cheap as reading the weights, and a projection onto the L1 ball as cheap as sorting them?

Single thread, the versions measured in turn, ratio of medians. "Reading once" is one ``torch.sum`` over ten million
float32 parameters (40 MB, far more than a core's own cache); "sorting once" is one ``torch.sort`` of a million.
Penalties are timed forward, without a graph.

    python benchmarks/penalties_speed.py [--device cuda] [--repeats 101]
"""

import argparse

import torch
from study import Study, medians_in_turn, relative_to

from course_lib.constrained_optimization import max_norm_, project_l1, project_l2
from course_lib.norm_penalties import elastic_net_penalty, l1_penalty, l2_penalty


@torch.no_grad()
def penalties(repeats: int, device: str) -> dict:
    """The three penalties beside one sum over the same parameters."""
    theta = torch.randn(10**7, device=device)
    versions = {
        "read once": theta.sum,
        "l2_penalty": lambda: l2_penalty([theta], 0.1),
        "l1_penalty": lambda: l1_penalty([theta], 0.1),
        "elastic_net_penalty": lambda: elastic_net_penalty([theta], 0.1, 0.1),
    }
    return relative_to("read once", medians_in_turn(versions, repeats))


@torch.no_grad()
def projections(repeats: int, device: str, radius: float) -> dict:
    """The projections beside one sort of the same vector."""
    x = torch.randn(10**6, device=device)
    versions = {
        "sort once": x.sort,
        "project_l1": lambda: project_l1(x, radius),
        "project_l2": lambda: project_l2(x, radius),
        "max_norm_": lambda: max_norm_(x.view(1000, 1000).clone(), radius),
    }
    return relative_to("sort once", medians_in_turn(versions, repeats))


def main():
    """Measure what is not yet in benchmarks/results/penalties_speed.json."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--device", default="cpu")
    options.add_argument("--repeats", type=int, default=101)
    chosen = options.parse_args()
    torch.set_num_threads(1)
    about = "ratios of medians, float32, one thread, versions in turn"
    study = Study(
        "penalties_speed", about, "random normal vectors: 10 000 000 parameters, 1 000 000 entries to project"
    )
    study.run(f"{chosen.device}, penalties", lambda: penalties(chosen.repeats, chosen.device))
    for radius in (1.0, 1e3, 1e5):
        key = f"{chosen.device}, projections, radius {radius:g}"
        study.run(key, lambda r=radius: projections(max(15, chosen.repeats // 4), chosen.device, r))


if __name__ == "__main__":
    main()
