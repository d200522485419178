"""The batched warp beside kornia's: the same images, the same maps, one thread, measured in turn.

A ratio is our median time divided by kornia's; below 1 we are faster. Our time includes the checks of the input. Both
results are compared before anything is timed. With CUDA there, the same on the GPU.

    python benchmarks/warp_speed.py
"""

import torch
from kornia.geometry.transform import warp_affine
from study import Study, medians_in_turn
from torch import Tensor

from course_lib.augmentation import affine_matrices, affine_warp

SIZES = [(64, 1, 8, 8), (256, 1, 8, 8), (64, 1, 28, 28), (256, 1, 28, 28), (64, 3, 64, 64)]
REPEATS = 200


def from_the_corner(matrices: Tensor, height: int, width: int) -> Tensor:
    """Kornia counts positions from the upper left pixel, we from the centre."""
    centre = matrices.new_tensor([(width - 1) / 2, (height - 1) / 2])
    shift = matrices[:, :, 2] + centre - matrices[:, :, :2] @ centre
    return torch.cat([matrices[:, :, :2], shift[:, :, None]], dim=2)


def ratio(size: tuple[int, ...], device: str) -> dict[str, float]:
    """Median times in milliseconds, and their ratio."""
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(size, generator=draw)
    matrices = affine_matrices(torch.rand(size[0], generator=draw) - 0.5, torch.rand(size[0], 2, generator=draw))
    theirs = from_the_corner(matrices, *size[2:]).to(device)
    images, matrices = images.to(device), matrices.to(device)
    versions = {
        "ours": lambda: affine_warp(images, matrices),
        "kornia": lambda: warp_affine(images, theirs, size[2:]),
    }
    torch.testing.assert_close(versions["ours"](), versions["kornia"](), rtol=1e-3, atol=1e-4)
    median = {name: 1e3 * seconds for name, seconds in medians_in_turn(versions, REPEATS).items()}
    return {name: round(value, 4) for name, value in (median | {"ratio": median["ours"] / median["kornia"]}).items()}


def main():
    """Run what is not yet in benchmarks/results/warp_speed.json."""
    torch.set_num_threads(1)
    about = (
        f"affine_warp beside kornia.geometry.transform.warp_affine, float32, medians of {REPEATS} paired calls, in ms"
    )
    study = Study("warp_speed", about, "uniform noise, which no warp can tell from photographs")
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        for size in SIZES:
            study.run(f"{device} {'x'.join(map(str, size))}", lambda s=size, d=device: ratio(s, d))


if __name__ == "__main__":
    main()
