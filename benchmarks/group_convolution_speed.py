"""What does a group convolution cost? Against a plain convolution with the same expanded filters, and against escnn.

One hidden layer of regular features, as many fields in as out. A training step is forward and backward, gradients in
the input and in the layer's own weights. The plain convolution has the expanded filters as its weights: this is the
limit, for the arithmetic of the convolution is the same. Inference is in evaluation mode without gradients. The
versions are measured in turn, with one thread in processor time; a number is a ratio of medians. Memory: what the
first two training steps need at their peak, each version in a process of its own. Construction: the first layer of its
kind in this process, nothing kept from before, and the next one; escnn's own cache on disk is warm.

    python benchmarks/group_convolution_speed.py [--repeats 41] [--threads 1] [--device cuda]
"""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from study import Study, medians_in_turn, relative_to
from torch import Tensor, nn

from course_lib import group_convolution
from course_lib.group_convolution import GroupConv2d
from course_lib.groups import Group, cyclic, dihedral
from course_lib.measuring_invariance import escnn_modules

GROUPS = {"C4": cyclic(4), "C8": cyclic(8), "D4": dihedral(4)}
CASES = [  # fields, kernel size, batch, side
    (10, 3, 1, 28),
    (10, 3, 16, 9),
    (10, 3, 64, 28),
    (10, 3, 128, 9),
    (8, 5, 1, 28),
    (8, 5, 16, 9),
    (8, 5, 64, 28),
    (32, 3, 1, 28),
    (32, 3, 16, 9),
    (32, 5, 1, 9),
    (32, 5, 16, 28),
]


def escnn_layer(group: Group, fields: int, size: int) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """Escnn's R2Conv between regular fields, and the function that wraps and unwraps its tensors."""
    gspaces, steerable = escnn_modules()
    space = gspaces.flipRot2dOnR2(group.turns) if group.mirrors else gspaces.rot2dOnR2(group.turns)
    kind = steerable.FieldType(space, fields * [space.regular_repr])
    layer = steerable.R2Conv(kind, kind, size, padding=size // 2)
    return layer, lambda x: layer(steerable.GeometricTensor(x, kind)).tensor


def construction(group: Group, fields: int, size: int) -> dict[str, float]:
    """Milliseconds to make a layer: the first one, and the next."""
    group_convolution._pixel_maps.cache_clear()
    group_convolution._expansion.cache_clear()
    makers = {
        "ours": lambda: GroupConv2d(group, fields, fields, size),
        "escnn": lambda: escnn_layer(group, fields, size),
    }
    found = {}
    for name, make in makers.items():
        for which in ("first", "next"):
            start = time.process_time()
            make()
            found[f"{name}, {which} (ms)"] = round(1000 * (time.process_time() - start), 1)
    return found


def versions(group: Group, fields: int, size: int, batch: int, side: int, device: str) -> dict[str, tuple]:
    """For each version its module, and the function to call."""
    ours = GroupConv2d(group, fields, fields, size, padding=size // 2).to(device)
    plain = ours.to_conv2d()
    theirs, call = escnn_layer(group, fields, size)
    theirs.to(device)
    unflat = (fields, group.order)
    return {"plain": (plain, plain), "ours": (ours, lambda x: ours(x.unflatten(1, unflat))), "escnn": (theirs, call)}


def steps(made: dict[str, tuple], x: Tensor, train: bool) -> dict[str, Callable[[], None]]:
    """For each version one training step, or one pass for inference."""
    x = x.requires_grad_(train)

    def stepping(module: nn.Module, call: Callable[[Tensor], Tensor]) -> Callable[[], None]:
        module.train(train)
        with torch.no_grad():
            cotangent = torch.randn_like(call(x).flatten(1))

        def step() -> None:
            module.zero_grad()
            x.grad = None
            with torch.set_grad_enabled(train):
                y = call(x).flatten(1)
            if train:
                y.backward(cotangent)

        return step

    return {name: stepping(*pair) for name, pair in made.items()}


def ratios(made: dict[str, tuple], x: Tensor, repeats: int, train: bool) -> dict[str, float]:
    """The versions in turn; ratios of medians to the plain convolution, and its milliseconds."""
    clock = time.process_time if x.is_cpu and torch.get_num_threads() == 1 else time.perf_counter
    return relative_to("plain", medians_in_turn(steps(made, x, train), repeats, clock))


def memory(made: dict[str, tuple], x: Tensor) -> dict[str, float]:
    """How much more memory each version's first two training steps need at their peak, in MiB."""
    return {f"{name} (MiB)": round(peak_of(step) / 2**20, 2) for name, step in steps(made, x, True).items()}


def peak_of(step: Callable[[], None]) -> int:
    """Bytes above what there was before: of the GPU, or of a process of its own, which frees nothing for the next."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(), step()
        return torch.cuda.max_memory_allocated() - before
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        before = _status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        step(), step()
        os.write(writer, str(_status("VmHWM") - before).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        found = int(answer.read())
    os.waitpid(child, 0)
    return found


def _status(name: str) -> int:
    """A line of Linux's account of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])


def main():
    """Measure what is not yet in benchmarks/results/group_convolution_speed.json."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--device", default="cpu")
    options.add_argument("--repeats", type=int, default=41)
    options.add_argument("--threads", type=int, default=1)
    options = options.parse_args()
    torch.set_num_threads(options.threads)
    about = "ratios of median times to a plain convolution with the same expanded filters, float32, in turn"
    study = Study("group_convolution_speed", about, "random feature maps")
    for name, group in GROUPS.items():
        for fields, size in ((10, 3), (32, 5)):
            study.run(
                f"construction, {name}, {fields} fields, {size}x{size}",
                lambda g=group, f=fields, s=size: construction(g, f, s),
            )
    for fields, size, batch, side in CASES:
        for name, group in GROUPS.items():
            torch.manual_seed(0)
            where = f"{options.device}, {options.threads} thread{'s' * (options.threads > 1)}"
            what = f"{name}, {fields} fields, {size}x{size}, batch {batch}, {side}x{side}; {options.repeats} repeats"
            kinds = ("training", "inference") if options.threads > 1 else ("memory", "training", "inference")
            if all(f"{where}; {kind}, {what}" in study.runs for kind in kinds):
                continue
            made = versions(group, fields, size, batch, side, options.device)
            x = torch.randn(batch, fields * group.order, side, side, device=options.device)
            if "memory" in kinds:  # a forked process would wait for ever for the threads of this one
                study.run(f"{where}; memory, {what}", lambda m=made, x=x: memory(m, x.detach()))
            for kind in ("training", "inference"):
                train = kind == "training"
                study.run(
                    f"{where}; {kind}, {what}", lambda m=made, x=x, t=train: ratios(m, x.detach(), options.repeats, t)
                )


if __name__ == "__main__":
    main()
