"""What must be true of any implementation of the tasks in ``groups``.

``probe_X`` calls an implementation on inputs drawn from the seed and returns what came out; ``verify_X`` decides,
from what it derives itself, in NumPy: groups are closures of permutations, drawn under random names.
"""

import numpy as np
import torch

DTYPES = ("float64", "float32")
# Generators of the groups that are drawn from, as permutations of points.
GENERATORS = {
    "C1": [(0,)],
    "C2": [(1, 0)],
    "C3": [(1, 2, 0)],
    "C4": [(1, 2, 3, 0)],
    "C2 x C2": [(1, 0, 2, 3), (0, 1, 3, 2)],
    "C5": [(1, 2, 3, 4, 0)],
    "C6": [(1, 2, 0, 4, 3)],
    "D3": [(1, 2, 0), (0, 2, 1)],
    "D4": [(1, 2, 3, 0), (0, 3, 2, 1)],
    "Q8": [(1, 2, 3, 0, 5, 6, 7, 4), (4, 7, 6, 5, 2, 1, 0, 3)],
    "D5": [(1, 2, 3, 4, 0), (0, 4, 3, 2, 1)],
    "A4": [(1, 2, 0, 3), (0, 2, 3, 1)],
    "D3 x C2": [(1, 2, 0, 3, 4), (0, 2, 1, 3, 4), (0, 1, 2, 4, 3)],
}
SMALL = ["C3", "C4", "C2 x C2", "C5", "C6"]
MIXED = ["D3", "D4", "Q8", "D5", "A4", "D3 x C2"]  # not commutative: left is not right


def closure(generators):
    """All products of permutations, the identity first."""
    found = {tuple(range(len(generators[0])))}
    while True:
        more = {tuple(np.array(p)[list(q)].tolist()) for p in found for q in generators} - found
        if not more:
            return np.array(sorted(found))
        found |= more


def products(permutations):
    """The Cayley table, by comparing every product with every element."""
    composed = permutations[:, permutations]  # (g, h, point)
    return (composed[:, :, None] == permutations).all(axis=-1).argmax(axis=-1)


def draw_groups(seed, first_stays=True, always=()):
    """Three groups as permutations, the second and third not commutative; points and elements have random names.

    The groups named in ``always`` follow.
    """
    random = np.random.default_rng([seed, 0])
    names = [SMALL[seed % len(SMALL)], *random.permutation(MIXED)[:2]]
    names[0] = ("C1", "C2")[seed % 2] if seed % 5 == 4 else names[0]
    for name in (*names, *always):
        permutations = closure(GENERATORS[name])
        points = random.permutation(permutations.shape[1])
        renamed = np.empty_like(permutations)
        renamed[:, points] = points[permutations]  # p becomes s∘p∘s⁻¹
        order = random.permutation(len(renamed))
        if first_stays:
            order = np.concatenate([[0], order[order != 0]])
        yield name, renamed[order]


def draw_tables(seed, always=()):
    return [(name, products(permutations)) for name, permutations in draw_groups(seed, always=always)]


def same(given, before):
    return np.array(torch.equal(given, torch.tensor(before)))


def raised(call):
    """The name of the error that a call raises."""
    try:
        call()
    except Exception as error:
        return np.array(type(error).__name__)
    return np.array("")


def require_integers(found, shape, what):
    """Refuse anything but int64 of a shape."""
    assert found.dtype == np.int64, f"{what}: wanted int64, got {found.dtype}"
    assert found.shape == shape, f"{what} has shape {found.shape}, which is not the one asked for"


KEPT = "the argument was changed in place: leave it as it is"


# --- the table of a list of permutations --------------------------------------------------------------------------

# Groups on twelve points: two rows, written as text or as a number, must not look the same.
ROTATE_A, SWAP_A = (0, 1, 2, 4, 5, 3, 6, 7, 8, 9, 10, 11), (4, 3, 2, 1, 0, 10, 6, 7, 8, 9, 5, 11)
ROTATE_B, SWAP_B = (11, 0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1), (6, 4, 2, 3, 1, 11, 0, 7, 8, 9, 10, 5)
TWELVE = {
    "two points of twelve change places": [(1, 0, *range(2, 12))],
    "C3 wr C2 on twelve points": [ROTATE_A, SWAP_A],
    "the same on other points": [ROTATE_B, SWAP_B],
}


def draw_lists(seed):
    """The lists of permutations: groups of any kind, and groups that move few of many points."""
    yield from draw_groups(seed, first_stays=False)
    for index, (name, generators) in enumerate(TWELVE.items()):
        found = closure(generators)
        yield name, found[np.random.default_rng([seed, 5, index]).permutation(len(found))]


def draw_open(seed):
    """Lists that are not closed: one permutation left out, and the identity first, or last."""
    for index, (name, permutations) in enumerate(draw_groups(seed)):
        if len(permutations) > 2:
            for place, rows in (("first", permutations[:-1]), ("last", permutations[-2::-1])):
                yield f"{index}, the identity {place}", name, rows


def probe_cayley_table(implementation, seed):
    out = {}
    for index, (_, permutations) in enumerate(draw_lists(seed)):
        given = torch.tensor(permutations)
        out[f"table {index}"] = implementation(given).numpy()
        out[f"kept {index}"] = same(given, permutations)
    for which, _, permutations in draw_open(seed):
        given = torch.tensor(permutations.copy())  # a copy, as rows in reverse are a view
        out[f"open {which}"] = raised(lambda rows=given: implementation(rows))
    return out


def verify_cayley_table(arrays, seed):
    for index, (name, permutations) in enumerate(draw_lists(seed)):
        order, table = len(permutations), arrays[f"table {index}"]
        require_integers(table, (order, order), f"the table of {order} permutations of {permutations.shape[1]} points")
        assert table.min() >= 0 and table.max() < order, "an entry of the table is no row of the list"
        for g in range(order):
            for h in range(order):
                wanted = [permutations[g][permutations[h][i]] for i in range(permutations.shape[1])]
                assert list(permutations[table[g, h]]) == wanted, (
                    f"a group of order {order} ({name}): table[{g}, {h}] is not 'first {h}, then {g}'"
                )
        assert arrays[f"kept {index}"], KEPT
    for which, name, permutations in draw_open(seed):
        what = str(arrays[f"open {which}"]) or "nothing"
        assert what == "ValueError", (
            f"{len(permutations)} of the {len(permutations) + 1} permutations of {name}: not closed, but raised {what}"
        )


# --- what undoes each element -------------------------------------------------------------------------------------


FIXED = ("D3", "D5")  # so that elements of order 2, 3 and 5 occur for every seed


def probe_inverses(implementation, seed):
    out = {}
    for index, (_, table) in enumerate(draw_tables(seed, always=FIXED)):
        given = torch.tensor(table)
        out[f"inverses {index}"], out[f"kept {index}"] = implementation(given).numpy(), None
        out[f"kept {index}"] = same(given, table)
    return out


def verify_inverses(arrays, seed):
    for index, (name, table) in enumerate(draw_tables(seed, always=FIXED)):
        found, order = arrays[f"inverses {index}"], len(table)
        require_integers(found, (order,), f"the inverses of {order} elements")
        assert found.min() >= 0 and found.max() < order, "an inverse is no element of the group"
        for g in range(order):
            assert table[g, found[g]] == 0 == table[found[g], g], f"{name}: an element and its inverse do not make 0"
        assert arrays[f"kept {index}"], KEPT


# --- the group permutes itself ------------------------------------------------------------------------------------


def probe_regular_representation(implementation, seed):
    out = {}
    for index, (_, table) in enumerate(draw_tables(seed)):
        given = torch.tensor(table)
        for dtype in DTYPES:
            before = torch.get_default_dtype()
            try:
                torch.set_default_dtype(getattr(torch, dtype))
                out[f"matrices {dtype} {index}"] = implementation(given).numpy()
            finally:
                torch.set_default_dtype(before)
        out[f"kept {index}"] = same(given, table)
    return out


def verify_regular_representation(arrays, seed):
    for index, (name, table) in enumerate(draw_tables(seed)):
        order = len(table)
        for dtype in DTYPES:
            found = arrays[f"matrices {dtype} {index}"]
            assert found.dtype == dtype, f"with {dtype} as torch's default, the matrices came in {found.dtype}"
            assert found.shape == (order, order, order), f"{order} elements: got the shape {found.shape}"
            for g in range(order):
                for h in range(order):
                    column = np.zeros(order)
                    column[table[g, h]] = 1
                    assert np.array_equal(found[g, :, h], column), f"{name}: ρ({g}) does not take e_{h} to e_({g}·{h})"
        assert arrays[f"kept {index}"], KEPT


# --- is it a representation? --------------------------------------------------------------------------------------


def deviation(table, matrices):
    """The largest entry by which any equation is off."""
    worst = np.abs(matrices[0] - np.eye(matrices.shape[-1])).max()
    for g in range(len(table)):
        for h in range(len(table)):
            worst = max(worst, np.abs(matrices[g] @ matrices[h] - matrices[table[g, h]]).max())
    return worst


def plane(n, mirrors):
    """The table of C_n or D_n and its matrices; element f·n + k mirrors f times, then turns k steps."""
    angles = 2 * np.pi * np.arange(n) / n
    turns = np.array([[[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]] for a in angles])
    k, f = np.arange(n * (1 + mirrors)) % n, np.arange(n * (1 + mirrors)) // n
    table = (f[:, None] + f) % 2 * n + (k[:, None] + (-1) ** f[:, None] * k) % n
    return table, np.concatenate([turns, turns @ np.diag([-1.0, 1.0])]) if mirrors else turns


def deviations(table, matrices):
    """By how much each product is off: the largest entry, for every g and h."""
    return np.abs(matrices[:, None] @ matrices - matrices[table]).max(axis=(-1, -2))


def one_product_off(random, table, matrices, wanted):
    """Bent matrices and a limit that a single product (g, h) with ``wanted(g, h)`` exceeds, and nothing else."""
    for _ in range(10_000):  # a few draws do, as a rule
        bent = matrices + 0.1 * random.uniform(-1, 1, size=matrices.shape)
        off = deviations(table, bent)
        second, first = np.sort(off, axis=None)[-2:]
        g, h = np.unravel_index(off.argmax(), off.shape)
        limit = (first + second) / 2
        if wanted(g, h) and first - second > 0.004 and np.abs(bent[0] - np.eye(bent.shape[-1])).max() < limit - 0.002:
            return bent, limit
    raise RuntimeError("no such draw was found: a defect of the check")


def draw_exact(seed):
    """Claims at and about a limit, where being a little off matters; far from rounding or exact in any dtype."""
    random = np.random.default_rng([seed, 6])
    two = np.array([[0, 1], [1, 0]])
    n = (3, 5)[seed % 2]
    table, matrices = plane(n, mirrors=True)
    basis = np.array([[1.0, 0.4], [-0.3, 1.2]]) + 0.1 * random.normal(size=(2, 2))
    skew = basis @ matrices @ np.linalg.inv(basis)
    below, limit_below = one_product_off(random, table, skew, lambda g, h: g > h > 0)
    shear = np.array([[[1.1, 0.0], [0.0, 1.0]], [[1.0, 2.0], [0.0, -1.0]]])  # only ρ(0)·ρ(1) is off by 0.2
    ones = np.ones((2, 1, 1))
    rather = np.stack([np.diag([0.7, 1.0, 1.0]), np.diag([0.8, 1.0, 1.0])])
    last = np.ones((10, 1, 1))
    last[-1] = 1.5
    # ρ(0) is off by 2⁻¹⁷, which ρ(0)·ρ(1) multiplies by 4096: an error of 2⁻⁵ in an entry of that size
    tall = np.array([[[1 + 2**-17, 0.0], [0.0, 1.0]], [[1.0, 4096.0], [0.0, -1.0]]])
    return {
        "only the last of ten elements off": (plane(5, mirrors=True)[0], last, 0.25, False),
        "an entry of 4096 off by 0.03, the tolerance is 0.01": (two, tall, 0.01, False),
        "one product off, its g larger than its h": (table, below, limit_below, False),
        "the same, and a limit that allows it": (table, below, 1.01 * deviations(table, below).max(), True),
        "one product with the identity off": (two, shear, 0.15, False),
        "the identity for all elements, in the plane": (table, np.tile(np.eye(2), (2 * n, 1, 1)), 0.0, True),
        "a product off by exactly the tolerance": (two, np.array([[[1.0]], [[1.5]]]), 1.25, True),
        "a product off by a quarter more than the tolerance": (two, np.array([[[1.0]], [[1.5]]]), 1.0, False),
        "the identity off by exactly the tolerance": (two, 0.75 * ones, 0.25, True),
        "the identity off by 0.3, the tolerance is 0.25": (two, rather, 0.25, False),
        "the identity off by 0.06251, the tolerance is 0.0625": (two, (1 - 0.0625 - 5e-6) * ones, 0.0625, False),
        "every entry off by at most 0.12": (two, np.tile(np.eye(2) + 0.1, (2, 1, 1)), 0.125, True),
        "two entries off, each by less than the tolerance": (two, np.tile(1.2 * np.eye(2), (2, 1, 1)), 0.25, True),
    }


def draw_claims(seed, dtype):
    """Tables, matrices that may or may not be a representation, and a tolerance."""
    random = np.random.default_rng([seed, 3])
    n = int(random.integers(3, 7))
    tolerance = 1e-8 if dtype == "float64" else 1e-3
    table, matrices = plane(n, mirrors=True)
    around, turns = plane(n, mirrors=False)
    basis = np.array([[1.0, 0.4], [-0.3, 1.2]]) + 0.1 * random.normal(size=(2, 2))
    skew = basis @ matrices @ np.linalg.inv(basis)  # right, and not orthogonal
    nudge = np.zeros_like(skew)
    nudge[random.integers(1, 2 * n), 0, 1] = 1.0
    corner = np.zeros((2 * n, 8, 8))
    corner[random.integers(1, 2 * n), 2, 3] = 1.0
    flat = np.tile(np.diag([1.0, 0.0]), (2 * n, 1, 1))
    halves = np.concatenate([turns, turns])
    four = np.array([[0, 1, 2, 3], [1, 0, 3, 2], [2, 3, 0, 1], [3, 2, 1, 0]])
    signs = np.array([[[1.0]], [[-1.0]], [[-1.0]], [[-1.0]]])
    small = 0.01 * tolerance
    doubled = np.zeros((2 * n, 4, 4))
    doubled[:, :2, :2], doubled[:, 2:, 2:] = matrices, skew
    large = np.diag([1e3, 1e-3]) @ matrices @ np.diag([1e-3, 1e3])
    claims = {
        "turns and mirrors": (table, matrices, tolerance),
        "turns alone": (around, turns, tolerance),
        "another basis": (table, skew, tolerance),
        "two blocks": (table, doubled, tolerance),
        "all ones": (table, np.ones((2 * n, 1, 1)), tolerance),
        "the group of one": (np.array([[0]]), np.eye(3)[None], tolerance),
        "all zero": (table, np.zeros_like(matrices), tolerance),
        "all the same projection": (table, flat, tolerance),
        "in the opposite order": (table, matrices.transpose(0, 2, 1), tolerance),
        "every matrix doubled": (table, 2 * matrices, tolerance),
        "every sign changed": (table, -matrices, tolerance),
        "mirrors forgotten": (table, halves, tolerance),
        "right squares, wrong products": (four, signs, tolerance),
        "the angle of another group": (around, plane(n + 1, False)[1][:n], tolerance),
        "one entry off": (table, skew + 0.3 * nudge, tolerance),
        "one entry off, by a little more than allowed": (table, skew + 20 * tolerance * nudge, tolerance),
        "one entry off, by far less than allowed": (table, skew + small * nudge, tolerance),
        "one entry of a large matrix off": (table, np.kron(np.eye(4), matrices) + 4 * tolerance * corner, tolerance),
        "a half in place of a sign": (four[:2, :2], np.array([[[1.0]], [[0.5]]]), tolerance),
        "off, but less than a loose tolerance": (table, skew + 0.01 * nudge, 0.5),
        "the identity off": (around[:1, :1], np.eye(2)[None] + 0.4 * tolerance * np.eye(2)[::-1], tolerance),
        "the identity wrong": (around[:1, :1], np.array([[[1.0, 0.0], [0.0, 0.0]]]), tolerance),
    }
    if dtype == "float64":  # deviations count as they are, however large the entries
        # a deviation of a tenth beside entries of about a million is small only relative to them
        claims["large entries, one off by a tenth"] = (table, large + 0.1 * nudge, 1e-2)
    return {name: (table, matrices.astype(dtype), limit) for name, (table, matrices, limit) in claims.items()}


def probe_is_representation(implementation, seed):
    out = {}
    for dtype in DTYPES:
        for name, (table, matrices, tolerance) in draw_claims(seed, dtype).items():
            given = torch.tensor(table), torch.tensor(matrices)
            answer = implementation(*given, tolerance)
            out[f"plain {dtype} {name}"] = np.array(type(answer) is bool)
            out[f"answer {dtype} {name}"] = np.array(bool(answer))
            out[f"kept {dtype} {name}"] = same(given[0], table) & same(given[1], matrices)
        for name, (table, matrices, tolerance, _) in draw_exact(seed).items():
            answer = implementation(torch.tensor(table), torch.tensor(matrices.astype(dtype)), float(tolerance))
            out[f"answer {dtype} {name}"] = np.array(bool(answer))
    return out


def verify_is_representation(arrays, seed):
    for dtype in DTYPES:
        for name, (table, matrices, tolerance) in draw_claims(seed, dtype).items():
            off = deviation(table, matrices.astype("float64"))
            assert not tolerance / 2 < off < 2 * tolerance, "this draw is too close to call: a defect of the check"
            wanted, found = off <= tolerance, bool(arrays[f"answer {dtype} {name}"])
            verdict = "refused, but they are one" if wanted else "accepted, but they are none"
            assert found == wanted, f"{name} ({dtype}): these matrices were {verdict}"
            assert arrays[f"plain {dtype} {name}"], "wanted a Python bool: True or False, no tensor"
            assert arrays[f"kept {dtype} {name}"], "an argument was changed in place: leave them as they are"
        for name, (*_, wanted) in draw_exact(seed).items():
            verdict = (
                "refused, but every entry is off by at most the tolerance" if wanted else "accepted, but they are none"
            )
            assert bool(arrays[f"answer {dtype} {name}"]) == wanted, f"{name} ({dtype}): these matrices were {verdict}"


# --- the average --------------------------------------------------------------------------------------------------


class Draw:
    """A group, inputs whose last axis it permutes, and weights of a function that is not symmetric at all."""

    def __init__(self, seed, index, dtype):
        random = np.random.default_rng([seed, 4, index])
        groups = list(draw_groups(seed + index))
        self.name, self.permutations = groups[min(index, 2)]
        self.table = products(self.permutations)
        order, points = self.permutations.shape
        batch, rows = [(1, 2), (4, 3), (3, 1)][(seed + index) % 3]
        self.x = random.normal(size=(batch, rows, points)).astype(dtype)
        self.x[-1] = self.x[-1, :, :1]  # every element leaves the last one as it is
        self.weight = random.normal(size=(rows * points, order)).astype(dtype)
        backward = np.argsort(self.permutations, axis=1)  # p_g⁻¹
        self.back, self.table_back = backward, np.argsort(self.table, axis=1)  # g⁻¹·h, for every g and h
        # dictionaries: an element is promised to be a Python int, and a tensor is no such key
        self.moves = {g: torch.tensor(row) for g, row in enumerate(self.back)}
        self.output_moves = {g: torch.tensor(row) for g, row in enumerate(self.table_back)}

    def action(self, x, g):
        """Move inputs: the value at point i stands at p_g(i) afterwards. The identity hands its argument back."""
        return x[..., self.moves[g]] if self.moves[g] is not self.moves[0] else x

    def output_action(self, y, g):
        """Permute outputs, one for each element, as the group permutes itself."""
        return y[..., self.output_moves[g]] if self.output_moves[g] is not self.output_moves[0] else y

    def outputs(self, weight, g, x):
        moved = x[..., self.back[g]]
        return np.tanh(moved.reshape(len(moved), -1) @ weight)

    def average(self, weight, equivariant, x=None):
        x, total = self.x.astype("float64") if x is None else x, 0.0
        for g in range(len(self.table)):
            y = self.outputs(weight.astype("float64"), g, x)
            undo = int(np.argmax(self.table[g] == 0))
            total = total + (y[:, self.table_back[undo]] if equivariant else y)
        return total / len(self.table)

    def slope(self, equivariant, step=1e-5):
        """The gradient of the sum of squares, by central differences, along one direction of the weights."""
        direction = np.cos(np.arange(self.weight.size)).reshape(self.weight.shape)
        ends = [(self.average(self.weight + s * step * direction, equivariant) ** 2).sum() for s in (1, -1)]
        return direction, (ends[0] - ends[1]) / (2 * step)

    def slope_in_x(self, equivariant, step=1e-5):
        """The same along one direction of the inputs."""
        direction = np.cos(1 + np.arange(self.x.size)).reshape(self.x.shape)
        weight, x = self.weight.astype("float64"), self.x.astype("float64")
        ends = [(self.average(weight, equivariant, x + s * step * direction) ** 2).sum() for s in (1, -1)]
        return direction, (ends[0] - ends[1]) / (2 * step)


def probe_group_average(implementation, seed):
    out = {}
    for dtype in DTYPES:
        for index in range(3):
            draw = Draw(seed, index, dtype)
            table, x = torch.tensor(draw.table), torch.tensor(draw.x)
            for equivariant in (False, True):
                weight = torch.tensor(draw.weight, requires_grad=True)
                extra = (draw.output_action,) if equivariant else ()
                value = implementation(lambda z, w=weight: (z.flatten(1) @ w).tanh(), x, table, draw.action, *extra)
                out[f"value {dtype} {index} {equivariant}"] = value.detach().numpy()
                (value.square().sum() + 0 * weight.sum()).backward()
                out[f"gradient {dtype} {index} {equivariant}"] = weight.grad.numpy()
                moving, fixed = x.clone().requires_grad_(), torch.tensor(draw.weight)
                value = implementation(lambda z, w=fixed: (z.flatten(1) @ w).tanh(), moving, table, draw.action, *extra)
                (value.square().sum() + 0 * moving.sum()).backward()
                out[f"gradient in x {dtype} {index} {equivariant}"] = moving.grad.numpy()
            out[f"itself {dtype} {index}"] = implementation(lambda z: z, x, table, draw.action).numpy()
            out[f"kept {dtype} {index}"] = same(x, draw.x) & same(table, draw.table)
    return out


def verify_group_average(arrays, seed):
    for dtype in DTYPES:
        for index in range(3):
            draw = Draw(seed, index, dtype)
            tolerance = 1e-9 if dtype == "float64" else 1e-4
            many = f"{draw.name}, a batch of {len(draw.x)}"
            for equivariant in (False, True):
                kind = "with an output action" if equivariant else "without an output action"
                found, wanted = arrays[f"value {dtype} {index} {equivariant}"], draw.average(draw.weight, equivariant)
                assert found.dtype == dtype, f"{dtype} in gave {found.dtype} out"
                assert found.shape == wanted.shape, f"the average has shape {found.shape}: one output an example?"
                off = np.abs(found - wanted).max()
                assert off < tolerance, f"{many}, {kind} ({dtype}): the average over the group is off"
                direction, slope = draw.slope(equivariant)
                got = (arrays[f"gradient {dtype} {index} {equivariant}"] * direction).sum()
                assert abs(got - slope) < (1e-5 if dtype == "float64" else 1e-2) * max(1, abs(slope)), (
                    f"{many}, {kind}: the gradient in the function's weights is off"
                )
                direction, slope = draw.slope_in_x(equivariant)
                got = (arrays[f"gradient in x {dtype} {index} {equivariant}"] * direction).sum()
                assert abs(got - slope) < (1e-5 if dtype == "float64" else 1e-2) * max(1, abs(slope)), (
                    f"{many}, {kind}: the gradient in the inputs x is off"
                )
            copies = np.mean([draw.x.astype("float64")[..., back] for back in draw.back], axis=0)
            assert np.abs(arrays[f"itself {dtype} {index}"] - copies).max() < tolerance, (
                "the function that returns its input: the average is not the mean of all moved inputs"
            )
            assert arrays[f"kept {dtype} {index}"], "an argument was changed in place: leave them as they are"
