"""What must be true of any implementation of the tasks in ``group_convolution``.

``probe_X`` calls an implementation on inputs drawn from the seed and returns what came out; ``verify_X`` decides, from
what it derives itself in NumPy: points of the plane moved by matrices, and convolutions as sums over offsets.
"""

import math
from functools import partial

import numpy as np
import torch

from course_lib.grading import verdicts

close = partial(verdicts.close, exact=1e-10, rough=1e-4, typed=True)

DTYPES = ("float64", "float32")
GROUPS = [(4, False), (4, True)]  # (turns, mirrors): in every draw
MORE_EXACT = [(2, False), (1, True), (2, True), (1, False)]  # one in each draw
INTERPOLATED = [(8, False), (3, True), (6, False), (5, True)]  # one in each draw
EXACT = [(2, False), (4, False), (1, True), (2, True), (4, True)]


class Symmetries:
    """A group as students know it: the same attributes, its table from products of matrices."""

    def __init__(self, turns, mirrors):
        self.name = f"{'D' if mirrors else 'C'}{turns}"
        self.turns, self.mirrors = turns, mirrors
        self.matrices = matrices(turns, mirrors)
        self.order = len(self.matrices)
        products = np.einsum("gij,hjk->ghik", self.matrices, self.matrices)
        away = np.abs(products[:, :, None] - self.matrices).sum(axis=(3, 4))
        self.table = torch.tensor(away.argmin(axis=2))
        self.inverse = torch.tensor([int(np.flatnonzero(row == 0)[0]) for row in self.table.numpy()])
        self.exact_on_grid = turns in (1, 2, 4)

    def __repr__(self):
        return f"Group({self.name})"


def matrices(turns, mirrors):
    """Element f·n + k on points (u right, v up): mirror f times, then k turns counter-clockwise."""
    found = []
    for f in range(1 + mirrors):
        for k in range(turns):
            angle = 2 * math.pi * k / turns
            turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
            found.append(turn @ np.diag([(-1.0) ** f, 1.0]))
    return np.array(found)


def same(given, before):
    return np.array(all(torch.equal(one, torch.tensor(other)) for one, other in zip(given, before, strict=True)))


def gradients(leaves):
    """The gradients as arrays; zeros where none arrived."""
    return [(torch.zeros_like(leaf) if leaf.grad is None else leaf.grad).detach().numpy() for leaf in leaves]


def backward(answer, cotangent, leaves):
    """The gradients of ⟨answer, cotangent⟩; zeros where none arrives, or where the shape is wrong anyway."""
    if answer.shape == cotangent.shape:
        (torch.sum(answer * torch.tensor(cotangent)) + sum(0 * leaf.sum() for leaf in leaves)).backward()
    return gradients(leaves)


def chosen_groups(seed):
    return [Symmetries(*kind) for kind in [*GROUPS, MORE_EXACT[seed % 4], INTERPOLATED[seed // 4 % 4]]]


def turned(filters, matrix):
    """(g·ψ)(q) = ψ(g⁻¹q): for every pixel look up where it came from, bilinearly, zeros outside."""
    size = filters.shape[-1]
    middle = (size - 1) / 2
    rows, columns = np.meshgrid(np.arange(size), np.arange(size), indexing="ij")
    u, v = np.einsum("ij,jrc->irc", np.linalg.inv(matrix), np.stack([columns - middle, middle - rows]))
    at_row, at_column = np.round(middle - v, 13), np.round(u + middle, 13)
    out = np.zeros(filters.shape)
    for down in (0, 1):
        for right in (0, 1):
            row, column = np.floor(at_row).astype(int) + down, np.floor(at_column).astype(int) + right
            share = (1 - np.abs(at_row - row)) * (1 - np.abs(at_column - column))
            inside = (row >= 0) & (row < size) & (column >= 0) & (column < size)
            out += np.where(inside, share, 0.0) * filters[..., row.clip(0, size - 1), column.clip(0, size - 1)]
    return out


def lifted_bank(weight, group):
    """(out, order, in, size, size)"""
    return np.stack([turned(weight, matrix) for matrix in group.matrices], axis=1)


def full_bank(weight, group):
    """(out, order, in, order, size, size): entry (g, h) is g·(ψ at the k for which g·k = h)."""
    table, bank = group.table.numpy(), []
    for g, matrix in enumerate(group.matrices):
        picked = [int(np.flatnonzero(table[g] == h)[0]) for h in range(group.order)]
        bank.append(turned(weight[:, :, picked], matrix))
    return np.stack(bank, axis=1)


def correlated(x, bank, stride, padding):
    """Sum over offsets: x (batch, channel, height, width) with filters (row, channel, size, size)."""
    size = bank.shape[-1]
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    height, width = ((x.shape[axis] - size) // stride + 1 for axis in (2, 3))
    out = np.zeros((len(x), len(bank), height, width))
    for down in range(size):
        for right in range(size):
            seen = x[:, :, down : down + stride * height : stride, right : right + stride * width : stride]
            out += np.einsum("bchw,oc->bohw", seen[:, :, :height, :width], bank[:, :, down, right])
    return out


# --- filters in every pose ----------------------------------------------------------------------------------------


def draw_filters(seed, index, dtype, order=None):
    """Filters whose two field counts differ, of odd and even sizes."""
    random = np.random.default_rng([seed, index])
    sizes = [(2, 3, 3), (3, 1, 4), (1, 2, 5), (2, 3, 2), (1, 2, 3)]
    fixed = {0: (2, 3, 3 + seed % 2), 3: (2, 1, 4 + seed % 2)}  # from size 4 on, turns carry corners out of the square
    out, into, size = fixed.get(index, sizes[(seed + index) % len(sizes)])
    poses = () if order is None else (order,)
    return random.normal(size=(2, out, into, *poses, size, size)).astype(dtype)  # the filters, and a direction


def probe_bank(implementation, seed, poses):
    out = {}
    for index, group in enumerate(chosen_groups(seed)):
        for dtype in DTYPES:
            weight = draw_filters(seed, index, dtype, group.order if poses else None)[0]
            given = torch.tensor(weight)
            out[f"bank {dtype} {index}"] = implementation(given, group).detach().numpy()
            out[f"kept {dtype} {index}"] = same([given], [weight])
        leaf = torch.tensor(draw_filters(seed, index, "float64", group.order if poses else None)[0], requires_grad=True)
        answer = implementation(leaf, group)
        cotangent = np.random.default_rng([seed, index, 1]).normal(size=tuple(answer.shape))
        out[f"gradient {index}"] = backward(answer, cotangent, [leaf])[0]
    return out


def verify_bank(arrays, seed, poses, truth):
    for index, group in enumerate(chosen_groups(seed)):
        for dtype in DTYPES:
            weight = draw_filters(seed, index, dtype, group.order if poses else None)[0]
            wanted = truth(weight.astype("float64"), group)
            what = f"the bank of filters {weight.shape} under {group.name}"
            close(arrays[f"bank {dtype} {index}"], wanted, what, dtype, rough=1e-5)
            assert arrays[f"kept {dtype} {index}"], "the filters were changed in place: leave them as they are"
        direction = draw_filters(seed, index, "float64", group.order if poses else None)[1]
        moved = truth(direction, group)  # the bank is linear in the filters
        cotangent = np.random.default_rng([seed, index, 1]).normal(size=moved.shape)
        what = f"the gradient of the bank under {group.name}, along a direction,"
        close((arrays[f"gradient {index}"] * direction).sum(), (cotangent * moved).sum(), what, "float64", exact=1e-9)


def probe_transform_filters(implementation, seed):
    return probe_bank(implementation, seed, False)


def verify_transform_filters(arrays, seed):
    verify_bank(arrays, seed, False, lifted_bank)


def probe_group_filters(implementation, seed):
    return probe_bank(implementation, seed, True)


def verify_group_filters(arrays, seed):
    verify_bank(arrays, seed, True, full_bank)


# --- convolutions -------------------------------------------------------------------------------------------------


def draw_convolution(seed, index, dtype, order=None):
    """Maps that are not square, filters, two directions, stride and padding."""
    random = np.random.default_rng([seed, index, 2])
    batch, height, width = [(2, 6, 9), (1, 8, 5), (3, 7, 7)][(seed + index) % 3]
    out, into, size, padding = [(2, 3, 3, 2), (3, 2, 4, 1), (2, 3, 2, 0)][(seed // 3 + index) % 3]  # never size // 2
    poses = () if order is None else (order,)
    x = random.normal(size=(2, batch, into, *poses, height, width)).astype(dtype)
    weight = random.normal(size=(2, out, into, *poses, size, size)).astype(dtype)
    stride = 1 + (seed // 9 + index) % 2
    return x, weight, stride, padding


def probe_convolution(implementation, seed, poses):
    out = {}
    for index, group in enumerate(chosen_groups(seed)):
        order = group.order if poses else None
        for dtype in DTYPES:
            x, weight, stride, padding = draw_convolution(seed, index, dtype, order)
            given = torch.tensor(x[0]), torch.tensor(weight[0])
            answer = implementation(*given, group, stride, padding)
            out[f"output {dtype} {index}"] = answer.detach().numpy()
            out[f"kept {dtype} {index}"] = same(given, (x[0], weight[0]))
        x, weight, stride, padding = draw_convolution(seed, index, "float64", order)
        leaves = [torch.tensor(part[0], requires_grad=True) for part in (x, weight)]
        answer = implementation(*leaves, group, stride=stride, padding=padding)
        cotangent = np.random.default_rng([seed, index, 3]).normal(size=tuple(answer.shape))
        out[f"slope by x {index}"], out[f"slope by weight {index}"] = backward(answer, cotangent, leaves)
        given = [torch.tensor(part[0]) for part in (x, weight)]
        out[f"usual {index}"] = implementation(*given, group).detach().numpy()
    return out


def verify_convolution(arrays, seed, poses):
    for index, group in enumerate(chosen_groups(seed)):
        order = group.order if poses else None

        def truth(x, weight, stride, padding, group=group):
            x, weight = x.astype("float64"), weight.astype("float64")
            if poses:
                bank = full_bank(weight, group)
                bank = bank.reshape(bank.shape[0] * bank.shape[1], -1, *bank.shape[4:])
                x = x.reshape(len(x), -1, *x.shape[3:])
            else:
                bank = lifted_bank(weight, group)
                bank = bank.reshape(-1, *bank.shape[2:])
            y = correlated(x, bank, stride, padding)
            return y.reshape(len(y), len(weight), group.order, *y.shape[2:])

        for dtype in DTYPES:
            x, weight, stride, padding = draw_convolution(seed, index, dtype, order)
            what = f"the output for x {x[0].shape}, filters {weight[0].shape}, {group.name}, {stride=}, {padding=}"
            found = arrays[f"output {dtype} {index}"]
            close(found, truth(x[0], weight[0], stride, padding), what, dtype, rough=1e-4)
            assert arrays[f"kept {dtype} {index}"], "an argument was changed in place: leave them as they are"
        x, weight, stride, padding = draw_convolution(seed, index, "float64", order)
        what = f"the output for {group.name} without stride and padding (then they are 1 and 0)"
        close(arrays[f"usual {index}"], truth(x[0], weight[0], 1, 0), what, "float64")
        moved = truth(x[1], weight[0], stride, padding), truth(x[0], weight[1], stride, padding)
        cotangent = np.random.default_rng([seed, index, 3]).normal(size=moved[0].shape)
        for name, direction, change in zip(("x", "weight"), (x[1], weight[1]), moved, strict=True):
            what = f"the gradient by {name} under {group.name}, along a direction,"
            got = (arrays[f"slope by {name} {index}"] * direction).sum()
            close(got, (cotangent * change).sum(), what, "float64", exact=1e-9)


def probe_lifting_convolution(implementation, seed):
    return probe_convolution(implementation, seed, False)


def verify_lifting_convolution(arrays, seed):
    verify_convolution(arrays, seed, False)


def probe_group_convolution(implementation, seed):
    return probe_convolution(implementation, seed, True)


def verify_group_convolution(arrays, seed):
    verify_convolution(arrays, seed, True)


# --- pooling ------------------------------------------------------------------------------------------------------


def draw_maps(seed, index, dtype):
    random = np.random.default_rng([seed, index, 4])
    shape = [(2, 3, 6, 5, 2), (1, 2, 8, 3, 4), (3, 1, 2, 1, 6), (2, 4, 1, 3, 3)][(seed + index) % 4]
    if index == 0:
        shape = (2, 3, 4, 3, 5)
    x = random.normal(size=shape) * (1, 10)[index]  # large ones too: the rectifier has no upper end
    cotangent = random.normal(size=(*shape[:2], *shape[3:]))
    bias = random.permutation(np.linspace(-0.7, 0.8, shape[1]))
    return x.astype(dtype), bias.astype(dtype), cotangent


def probe_group_pool(implementation, seed):
    out = {}
    for index in range(2):
        for dtype in DTYPES:
            x, bias, _ = draw_maps(seed, index, dtype)
            given = torch.tensor(x), torch.tensor(bias)
            out[f"largest {dtype} {index}"] = implementation(*given).detach().numpy()
            out[f"mean {dtype} {index}"] = implementation(*given, average=True).detach().numpy()
            out[f"kept {dtype} {index}"] = same(given, (x, bias))
        x, bias, cotangent = draw_maps(seed, index, "float64")
        for name, average in (("largest", False), ("mean", True)):
            leaves = [torch.tensor(part, requires_grad=True) for part in (x, bias)]
            found = backward(implementation(*leaves, average), cotangent, leaves)
            out[f"{name} by x {index}"], out[f"{name} by bias {index}"] = found
    return out


def verify_group_pool(arrays, seed):
    for index in range(2):
        for dtype in DTYPES:
            x, bias, _ = draw_maps(seed, index, dtype)
            active = np.maximum(x + bias[:, None, None, None], 0).astype("float64")
            for name, wanted in (("largest", active.max(axis=2)), ("mean", active.mean(axis=2))):
                close(arrays[f"{name} {dtype} {index}"], wanted, f"the {name} of maps {x.shape}", dtype, rough=1e-5)
            assert arrays[f"kept {dtype} {index}"], "an argument was changed in place: leave them as they are"
        x, bias, cotangent = draw_maps(seed, index, "float64")
        active = x + bias[:, None, None, None]
        open_gates = active > 0
        first = (np.arange(x.shape[2])[:, None, None] == active.argmax(axis=2)[:, :, None]) & open_gates
        for name, share in (("largest", first), ("mean", open_gates / x.shape[2])):
            wanted = share * cotangent[:, :, None]
            close(arrays[f"{name} by x {index}"], wanted, f"the gradient of the {name} by x", "float64")
            what = f"the gradient of the {name} by the bias"
            close(arrays[f"{name} by bias {index}"], wanted.sum(axis=(0, 2, 3, 4)), what, "float64")


# --- the students' own test, tried on layers that are right and on layers that are broken ----------------------------


def moved(x, group, g):
    """g·x by whole pixels."""
    x = x.flip(-1) if g >= group.turns else x
    return x.rot90(4 * (g % group.turns) // group.turns, (-2, -1))


def slipped_bank(weight, group, slip):
    """The bank of a group convolution (weights with poses) or of lifting (without), with a mistake in it."""
    rows = []
    for g in range(group.order):
        back = int(group.inverse[g])
        if weight.ndim == 5:
            after, order = group.table[g], torch.arange(group.order)
            poses = {"no poses": order, "wrong way": after, "right side": group.table[:, back]}
            picked = weight[:, :, poses.get(slip, group.table[back])]
        else:
            picked = weight
        turn = {"clockwise": back, "not turned": 0, "no mirror": g % group.turns, "one pose": 0 if g == 1 else g}
        rows.append(moved(picked, group, turn.get(slip, g)))
    return torch.stack(rows, dim=1)


def convolution(weight, group, slip=None, bias=None, stride=1, padding=1):
    """A lifting or group convolution as a function of its input."""
    bank = slipped_bank(weight, group, slip).flatten(0, 1)

    def layer(x):
        if weight.ndim == 5:
            x = (x.transpose(1, 2) if slip == "merged" else x).flatten(1, 2)
            x = torch.nn.functional.conv2d(x, bank.flatten(1, 2), stride=stride, padding=padding)
        else:
            x = torch.nn.functional.conv2d(x, bank, stride=stride, padding=padding)
        y = x.unflatten(1, (len(weight), group.order))
        return y if bias is None else y + bias

    return layer


def ramp(height, width, like):
    """A slope across the map: no turn, no mirror leaves it as it is."""
    down, right = torch.arange(height).to(like), torch.arange(width).to(like)
    return down[:, None] + 2.3 * right - (height + 2 * width) / 2


def layers_to_try(seed, part):
    """Tuples (whether it is right, layer, input, group) of one part, in an order that the seed shuffles.

    The parts: ``images`` have no group axis, ``poses`` do; with ``elements`` it counts that all are tried, on the whole
    output.
    """
    torch.manual_seed(seed)
    random = np.random.default_rng([seed, 5])
    found = []
    for index, (turns, mirrors) in enumerate(EXACT):
        group = Symmetries(turns, mirrors)
        asked = torch.float32 if (seed + index) % 2 else torch.float64
        lift, mix = torch.randn(2, 2, 3, 3, dtype=asked), torch.randn(2, 2, group.order, 3, 3, dtype=asked)
        fields, poses = torch.randn(2, 1, 1, 1, dtype=asked), torch.randn(2, group.order, 1, 1, dtype=asked)
        image = torch.randn(3, 2, 5, 7, dtype=asked)
        maps = torch.randn(3, 2, group.order, 7, 5, dtype=asked)
        low = torch.randn(2, 2, group.order, 1 + group.order, dtype=asked)  # as many rows as elements
        even = torch.randn(1, 2, group.order, 6, 6, dtype=asked)
        lifting, mixing = convolution(lift, group, bias=fields), convolution(mix, group, bias=fields)
        shift = group.table[:, group.order - 1]
        symmetric = sum(moved(lift, group, g) for g in range(group.order))

        def same_from_all_sides(x, weight=symmetric):
            return torch.nn.functional.conv2d(x, weight, padding=1)

        def noisy(x, layer=mixing, size=1e-5):
            y = layer(x)
            return y + size * y.norm() * (r := ramp(*y.shape[-2:], y)) / (r.norm() * math.sqrt(y[..., 0, 0].numel()))

        def one_image(x, layer=mixing):
            y = layer(x)
            return torch.cat([y[:2], y[2:] + 0.3 * y.norm() * ramp(*y.shape[-2:], y)])

        def two_layers(x, first=lifting, second=mixing):
            return second(first(x).relu()).relu().amax(dim=2)

        def plain(x, weight=lift):
            return torch.nn.functional.conv2d(x, weight, padding=1)

        def strided(x, weight=symmetric):
            return torch.nn.functional.conv2d(x, weight, stride=(2, 1), padding=1)

        right = {
            "images": [
                (two_layers, image),
                (same_from_all_sides, image),
                (same_from_all_sides, low),
                (lambda x: 1e3 * x.square(), image),
                (lambda x: x + (-x).relu() * ramp(*x.shape[-2:], x), image.abs() + 0.1),  # the identity on this input
            ],
            "poses": [
                (lifting, image),
                (lambda x, f=lifting: 1e-4 * f(x), image),
                (mixing, maps),
                (lambda x, f=mixing: f(x).relu().mean(dim=2), maps),
                (lambda x, s=shift: x[:, :, s], maps),  # products from the other side
                (convolution(mix, group, stride=2), maps),
                (noisy, maps),
            ],
            "elements": [
                (same_from_all_sides, image),
                (lambda x, f=noisy, layer=same_from_all_sides: f(x, layer), image),
            ],
        }
        broken = {
            "images": [
                (plain, image),
                (lambda x, f=plain: 1e-7 * f(x), image),
                (lambda x: torch.nn.functional.pad(x, (1, 0, 1, 0))[..., :-1, :-1], image),
                (lambda x: x * (1 + torch.arange(x.shape[-1]).to(x)), image),
                (lambda x: x[..., : min(x.shape[-2:]), : min(x.shape[-2:])], image),  # right on squares only
            ],
            "poses": [
                (convolution(mix, group, stride=2, padding=1), even),
                (convolution(mix, group, bias=poses), maps),
                (convolution(lift, group, bias=poses), image),
                (convolution(mix, group, "not turned"), maps),
                (convolution(lift, group, "not turned"), image),
                (convolution(mix, group, "no poses"), maps),
                (convolution(mix, group, "merged"), maps),
                (one_image, maps),
                (lambda x, f=noisy: f(x, size=1e-3), maps),
                (lambda x: x * (1 + torch.arange(x.shape[2]).to(x))[:, None, None], maps),
            ],
            "elements": [
                (lambda x, f=one_image, layer=same_from_all_sides: f(x, layer), image),
                (lambda x, f=noisy, layer=same_from_all_sides: f(x, layer, 1e-3), image),
            ],
        }
        if group.turns == 4:
            broken["poses"].append((convolution(mix, group, "clockwise"), maps))
            broken["poses"].append((convolution(lift, group, "clockwise"), image))
            broken["poses"].append((convolution(mix, group, "wrong way"), maps))
            broken["poses"].append((convolution(lift, group, "one pose"), image))
            broken["images"].append((strided, image))  # the two shapes differ
            broken["images"].append((lambda x: x.new_ones(3, 2, 5, 7), image))  # here too, but not the numbers
            half = lift + lift.rot90(2, (-2, -1))  # half turns pass, quarters do not
            broken["elements"].append((lambda x, w=half: torch.nn.functional.conv2d(x, w, padding=1), image))
        if mirrors:
            broken["poses"].append((convolution(mix, group, "no mirror"), maps))
            broken["poses"].append((convolution(lift, group, "no mirror"), image))
            large = torch.randn(2, 2, 5, 5, dtype=asked)  # of size 3, what turns alike is its own mirror image
            turns_only = sum(moved(large, group, g) for g in range(turns))
            across = lift + lift.flip(-1)  # left and right alike: mirrors pass, turns do not
            broken["elements"].append((lambda x, w=turns_only: torch.nn.functional.conv2d(x, w, padding=2), image))
            if turns > 1:
                once = large + moved(large, group, group.order - 1)  # one mirror passes, no other
                broken["elements"].append((lambda x, w=once: torch.nn.functional.conv2d(x, w, padding=2), image))
                broken["elements"].append((lambda x, w=across: torch.nn.functional.conv2d(x, w, padding=1), image))
        if mirrors and turns == 4:
            broken["poses"].append((convolution(mix, group, "right side"), maps))
        found += [(True, *case, group) for case in right[part]] + [(False, *case, group) for case in broken[part]]
    return [found[place] for place in random.permutation(len(found))]


def layers_with_known_error(seed):
    """Tuples (layer, input, its relative error under C4): x + p with a p that stays while x turns.

    Then layer(h·x) − h·layer(x) = p − h·p. It is largest for h = 1; for the stripes it is 0 for the half turn.
    """
    torch.manual_seed(seed)
    x = torch.randn(3, 2, 6, 6, dtype=torch.float64)
    stripes, pixel, opposite = (torch.zeros_like(x) for _ in range(3))
    stripes[..., (0, 5), :] = 0.1
    pixel[seed % 3, seed % 2, 0, 1] = 1.0  # in one image, in one channel
    opposite[0, :, 0, 1], opposite[2, :, 0, 1] = 1.0, -1.0
    even = x + x.rot90(2, (-2, -1))  # layer(x) is a tenth of it, layer(h·x) is longer
    cases = [(stripes, x), (pixel, x), (opposite, x), (-0.9 * even, even)]
    cases.append((1e6 + 0.01 * pixel, x))  # needs float64
    return [(lambda x, p=p: x + p, x, float((p - p.rot90(1, (-2, -1))).norm() / (x + p).norm())) for p, x in cases]


def tried(implementation, seed, part):
    answers, kept = [], []
    for _, layer, x, group in layers_to_try(seed, part):
        before = x.clone()
        answers.append(bool(implementation(layer, x, group)))
        kept.append(torch.equal(x, before))
    return {"answers": np.array(answers), "kept": np.array(kept)}


def judge(arrays, seed, part, right, broken):
    """All right layers of a part pass, all broken ones do not; ``right`` and ``broken`` ask what was forgotten."""
    truth = np.array([case[0] for case in layers_to_try(seed, part)])
    refused, missed = int((truth & ~arrays["answers"]).sum()), int((~truth & arrays["answers"]).sum())
    assert refused < truth.sum() or missed, "your test rejects every layer, the right ones too"
    assert missed < (~truth).sum() or refused, "your test accepts every layer, the broken ones too"
    assert refused == 0, f"{refused} of {truth.sum()} right layers were rejected: {right}"
    assert missed == 0, f"{missed} of {(~truth).sum()} broken layers passed: {broken}"
    assert np.all(arrays["kept"]), "x was changed in place: leave it as it is"


def probe_equivariance_test_images(implementation, seed):
    return tried(implementation, seed, "images")


def verify_equivariance_test_images(arrays, seed):
    right = "does h move output and input alike, and is the error relative to the output?"
    judge(arrays, seed, "images", right, "are both sides of the equation there, and their shapes compared?")


def probe_equivariance_test_poses(implementation, seed):
    return tried(implementation, seed, "poses")


def verify_equivariance_test_poses(arrays, seed):
    right = "does h move output and input alike, each by its own number of axes, and a group axis by h⁻¹g?"
    judge(arrays, seed, "poses", right, "do poses both turn and change places, and is the whole output compared?")


def probe_equivariance_test_elements(implementation, seed):
    return tried(implementation, seed, "elements")


def verify_equivariance_test_elements(arrays, seed):
    right = "is an error below the tolerance let through?"
    judge(arrays, seed, "elements", right, "are all elements tried, mirrors too, and all images?")


def probe_equivariance_test(implementation, seed):
    group, x = Symmetries(4, False), torch.randn(2, 1, 5, 5, generator=torch.Generator().manual_seed(seed))
    bent = [lambda x, size=size: x + size * ramp(5, 5, x) for size in (0.001, 0.1)]
    before = x.clone()
    loose = [implementation(layer, x, group, tolerance=tolerance) for layer in bent for tolerance in (0.02, 10.0)]
    measured = [
        implementation(layer, x, group, tolerance=share * error)
        for layer, x, error in layers_with_known_error(seed)
        for share in (0.8, 1.25)
    ]
    return {
        "kinds": np.array([isinstance(answer, bool) for answer in loose + measured]),
        "kept": np.array(torch.equal(x, before)),
        "tolerances": np.array([bool(answer) for answer in loose]),
        "measured": np.array([bool(answer) for answer in measured]),
    }


def verify_equivariance_test(arrays, seed):
    assert np.all(arrays["kinds"]), "wanted a Python bool, True or False: call bool(...) on a tensor"
    assert arrays["kept"], "x was changed in place: leave it as it is"
    assert arrays["tolerances"].tolist() == [True, True, False, True], (
        "the tolerance is not used as it is described: a relative error above it fails, one below it passes"
    )
    assert arrays["measured"].tolist() == [False, True] * 5, (
        "the error is not measured as it is described: one Euclidean norm over the whole batch, the largest over all h"
    )
