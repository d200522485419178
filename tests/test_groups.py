"""groups: wrong and right versions of each task, independent peers, closed forms, bad input."""

import copy
import itertools
import math
import pickle

import pytest
import torch
from checks import groups as checks
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from course_lib import groups as library
from course_lib.data import digits
from course_lib.groups import cyclic, dihedral, direct_product
from course_lib.measuring_invariance import equivariance_error

TABLE = """
def table(permutations):
    place = {tuple(row): g for g, row in enumerate(permutations.tolist())}
    rows = []
    for p in permutations:
        row = []
        for q in permutations:
            product = tuple(p[q].tolist())
            if product not in place:
                raise ValueError("a product is not in the list")
            row.append(place[product])
        rows.append(row)
    return torch.tensor(rows, device=permutations.device)
"""
INVERSES = """
def inverses(table):
    order = len(table)
    found = torch.zeros(order, dtype=torch.int64, device=table.device)
    for g in range(order):
        for h in range(order):
            if table[g, h] == 0:
                found[g] = h
    return found
"""
REGULAR = """
def regular(table):
    order = len(table)
    matrices = torch.zeros(order, order, order, device=table.device)
    for g in range(order):
        for h in range(order):
            matrices[g, table[g, h], h] = 1
    return matrices
"""
IS = """
def answer(table, matrices, tolerance):
    identity = torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
    if (matrices[0] - identity).abs().max() > tolerance:
        return False
    for g in range(len(table)):
        for h in range(len(table)):
            off = matrices[g] @ matrices[h] - matrices[table[g, h]]
            if off.abs().max() > tolerance:
                return False
    return True
"""
AVERAGE = """
def average(function, x, table, action, output_action=None):
    inverse = (table == 0).long().argmax(dim=1).tolist()
    outputs = []
    for g in range(len(table)):
        y = function(action(x, g))
        if output_action is not None:
            y = output_action(y, inverse[g])
        outputs.append(y)
    return torch.stack(outputs).mean(dim=0)
"""

INVERSE = "(table == 0).long().argmax(dim=1).tolist()"


def edited(source, *changes):
    """The function in a source text, with the mistakes that pairs of old and new text make."""
    for old, new in zip(changes[::2], changes[1::2], strict=True):
        assert old in source, old
        source = source.replace(old, new)
    scope = {"torch": torch}
    exec(source, scope)
    return scope[source.split("def ")[1].split("(")[0]]


def average_in_place(function, x, table, action, output_action=None):
    """Adds up in the first output, which may be the input itself."""
    inverse = (table == 0).long().argmax(dim=1).tolist()
    total = None
    for g, undo in enumerate(inverse):
        y = function(action(x, g))
        y = y if output_action is None else output_action(y, undo)
        if total is None:
            total = y
        else:
            total.data += y
    return total / len(table)


def table_by_code(code):
    """Rows are told apart by a code, which two rows may share."""

    def table(permutations):
        place = {code(row): g for g, row in enumerate(permutations.tolist())}
        try:
            return torch.tensor([[place[code(p[q].tolist())] for q in permutations] for p in permutations])
        except KeyError:
            raise ValueError("a product is not in the list") from None

    return table


def table_checked_late(permutations):
    """The check stands outside the inner loop, and sees only the last product of a row."""
    rows = permutations.tolist()
    table = torch.zeros(len(rows), len(rows), dtype=torch.int64)
    for g, p in enumerate(permutations):
        for h, q in enumerate(permutations):
            product = p[q].tolist()
            if product in rows:
                table[g, h] = rows.index(product)
        if product not in rows:
            raise ValueError("a product is not in the list")
    return table


def average_of_different_copies(function, x, table, action, output_action=None):
    """Copies of an example that look alike are asked once."""
    inverse, means = (table == 0).long().argmax(dim=1).tolist(), []
    for one in x.split(1):
        seen, outputs = [], []
        for g, undo in enumerate(inverse):
            copy = action(one, g)
            if not any(torch.equal(copy, other) for other in seen):
                seen.append(copy)
                y = function(copy)
                outputs.append(y if output_action is None else output_action(y, undo))
        means.append(torch.stack(outputs).mean(dim=0))
    return torch.cat(means)


IDENTITY_TEST = "if (matrices[0] - identity).abs().max() > tolerance"

# What students write by mistake: each must lose points.
MUTANTS = {
    "cayley_table": {
        "first g, then h": edited(TABLE, "p[q]", "q[p]"),
        "table transposed": lambda p: edited(TABLE)(p).T,
        "cyclic groups only": lambda p: (torch.arange(len(p))[:, None] + torch.arange(len(p))) % len(p),
        "the list sorted first": lambda p: edited(TABLE)(torch.tensor(sorted(p.tolist()))),
        "looks at the first point only": lambda p: (p[:, p][:, :, None, 0] == p[:, 0]).int().argmax(-1).long(),
        "numbers modulo the order": lambda p: (torch.arange(len(p))[:, None] * torch.arange(len(p))) % len(p),
        "an open list goes unnoticed": edited(
            TABLE, "place[product]", "place.get(product, 0)", "if product not in place", "if False"
        ),
        "an open list gives -1": edited(
            TABLE, "place[product]", "place.get(product, -1)", "if product not in place", "if False"
        ),
        "an open list gives KeyError": edited(TABLE, "if product not in place", "if False"),
        "as floats": lambda p: edited(TABLE)(p).float(),
        "as int32": lambda p: edited(TABLE)(p).int(),
        "entries sorted": lambda p: edited(TABLE)(p).sort(dim=1).values,
        "changes the list in place": lambda p: edited(TABLE)(p.clone()) + 0 * p.zero_().sum(),
        "products of values": edited(TABLE, "p[q]", "((p * q) % len(q))"),
        "conjugates": edited(TABLE, "p[q]", "p[q][p.argsort()]"),
        "divides": edited(TABLE, "p[q]", "p[q.argsort()]"),
        "rows as text without gaps": table_by_code(lambda row: "".join(map(str, row))),
        "rows as decimal numbers": table_by_code(lambda row: sum(p * 10**i for i, p in enumerate(row))),
        "rows as numbers in float32": table_by_code(
            lambda row: (torch.tensor(row).float() * float(len(row)) ** torch.arange(len(row))).sum().item()
        ),
        "an open list is looked for in the last column only": table_checked_late,
    },
    "inverses": {
        "minus g": lambda t: -torch.arange(len(t)) % len(t),
        "everything undoes itself": lambda t: torch.arange(len(t)),
        "the square": lambda t: t.diagonal().clone(),
        "the largest entry": lambda t: t.argmax(dim=1),
        "the column of the identity": lambda t: t[:, 0].clone(),
        "reversed order": lambda t: torch.arange(len(t)).flip(0),
        "identity at the end": lambda t: (t == len(t) - 1).int().argmax(dim=1).long(),
        "as floats": lambda t: edited(INVERSES)(t).float(),
        "as int32": lambda t: edited(INVERSES)(t).int(),
        "as mask": lambda t: (t == 0).long(),
        "one short": lambda t: edited(INVERSES)(t)[1:],
        "stops at order 4": lambda t: torch.where(torch.arange(len(t)) < 4, edited(INVERSES)(t), 0),
        "first half only": lambda t: torch.where(
            torch.arange(len(t)) <= len(t) // 2, edited(INVERSES)(t), torch.arange(len(t))
        ),
        "the cube, as in groups whose elements have order 4": lambda t: t[t.diagonal(), torch.arange(len(t))],
        "one by one from the table, changed on the way": lambda t: t.masked_fill_(t == 0, 99).argmax(dim=1),
    },
    "regular_representation": {
        "transposed: an anti-homomorphism": edited(REGULAR, "[g, table[g, h], h]", "[g, h, table[g, h]]"),
        "right instead of left": edited(REGULAR, "table[g, h], h", "table[h, g], h"),
        "right, by the inverse": edited(REGULAR, "table[g, h], h", "table[h, (table[g] == 0).int().argmax()], h"),
        "the inverse element": lambda t: edited(REGULAR)(t)[(t == 0).int().argmax(dim=1)],
        "one-hot not transposed": lambda t: nn.functional.one_hot(t).to(torch.get_default_dtype()),
        "as integers": lambda t: edited(REGULAR)(t).long(),
        "always float32": lambda t: edited(REGULAR)(t).float(),
        "always float64": lambda t: edited(REGULAR)(t).double(),
        "elements last": lambda t: edited(REGULAR)(t).movedim(0, -1),
        "scaled by the order": lambda t: edited(REGULAR)(t) / len(t),
        "cyclic groups only": lambda t: torch.stack([torch.eye(len(t)).roll(g, 0) for g in range(len(t))]),
        "the identity for all": lambda t: torch.eye(len(t)).repeat(len(t), 1, 1),
        "conjugation": edited(REGULAR, "table[g, h], h", "table[table[g, h], (table[g] == 0).int().argmax()], h"),
        "first column only": edited(REGULAR, "for h in range(order)", "for h in range(1)"),
    },
    "is_representation": {
        "the identity forgotten": edited(IS, "if (matrices[0] - identity).abs().max() > tolerance", "if False"),
        "the identity by the norms of its rows": edited(
            IS, "(matrices[0] - identity).abs().max()", "(matrices[0] - identity).norm(dim=-1).max()"
        ),
        "the products forgotten": edited(IS, "for g in range(len(table))", "for g in range(0)"),
        "the opposite order": edited(IS, "matrices[g] @ matrices[h]", "matrices[h] @ matrices[g]"),
        "both orders allowed": edited(
            IS,
            "if off.abs().max()",
            "other = matrices[h] @ matrices[g] - matrices[table[g, h]]\n"
            + 12 * " "
            + "if min(off.abs().max(), other.abs().max())",
        ),
        "table transposed": edited(IS, "table[g, h]", "table[h, g]"),
        "squares only": edited(IS, "for h in range(len(table))", "for h in [g]"),
        "inverses only": edited(IS, "for h in range(len(table))", "for h in [(table[g] == 0).int().argmax()]"),
        "products with element 1 only": edited(IS, "for g in range(len(table))", "for g in range(min(2, len(table)))"),
        "mirrors forgotten": edited(IS, "range(len(table))", "range((len(table) + 1) // 2)"),
        "the first four elements only": edited(IS, "range(len(table))", "range(min(4, len(table)))"),
        "determinants only": edited(
            IS,
            "off = matrices[g] @ matrices[h] - matrices[table[g, h]]",
            "det = torch.det(matrices)\n            off = det[g] * det[h] - det[table[g, h]]",
        ),
        "traces only": edited(IS, "off.abs().max()", "off.trace().abs()"),
        "mean deviation": edited(IS, "off.abs().max()", "off.abs().mean()"),
        "without absolute values": edited(IS, "off.abs().max()", "off.max()"),
        "exactly": edited(IS, "off.abs().max() > tolerance", "(off != 0).any()"),
        "tolerance of its own": edited(IS, "> tolerance", "> 1e-5"),
        "relative": edited(
            IS, "off.abs().max() > tolerance", "(off.abs() > tolerance + 1e-5 * matrices[table[g, h]].abs()).any()"
        ),
        "orthogonal matrices only": lambda t, m, a: (
            edited(IS)(t, m, a) and bool((m @ m.mT - torch.eye(m.shape[-1]).to(m)).abs().max() <= max(a, 1e-4))
        ),
        "a tensor": lambda t, m, a: torch.tensor(edited(IS)(t, m, a)),
        "the identity exactly": edited(
            IS, "(matrices[0] - identity).abs().max() > tolerance", "not torch.equal(matrices[0], identity)"
        ),
        "always": lambda t, m, a: True,
        "an identity that is merely invertible": edited(IS, IDENTITY_TEST, "if matrices[0].det().abs() < 1e-8"),
        "an identity with positive diagonal": edited(IS, IDENTITY_TEST, "if (matrices[0].diagonal() <= 0).any()"),
        "the identity anywhere": edited(
            IS, IDENTITY_TEST, "if (matrices - identity).abs().amax(dim=(1, 2)).min() > tolerance"
        ),
        "the identity by a mean": edited(
            IS, "(matrices[0] - identity).abs().max()", "(matrices[0] - identity).abs().mean()"
        ),
        "the identity by a norm": edited(IS, "(matrices[0] - identity).abs().max()", "(matrices[0] - identity).norm()"),
        "norms": edited(IS, "off.abs().max()", "off.norm()"),
        "allclose with its own relative tolerance": edited(
            IS, IDENTITY_TEST, "if not torch.allclose(matrices[0], identity, atol=tolerance)"
        ),
        "the tolerance twice": edited(
            IS, "off.abs().max() > tolerance", "(off.abs() > tolerance + tolerance * matrices[table[g, h]].abs()).any()"
        ),
        "less than the tolerance": edited(
            IS, "off.abs().max() > tolerance", "(off.abs().max() >= tolerance if tolerance else off.any())"
        ),
        "half of the products": edited(IS, "for h in range(len(table))", "for h in range(g, len(table))"),
        "products with the identity left out": edited(IS, "range(len(table))", "range(1, len(table))"),
        "faithful ones only": lambda t, m, a: (
            edited(IS)(t, m, a) and (m.shape[1] == 1 or len(m.round(decimals=3).unique(dim=0)) == len(m))
        ),
    },
    "group_average": {
        "sum": edited(AVERAGE, ".mean(dim=0)", ".sum(dim=0)"),
        "the identity forgotten": edited(
            AVERAGE, "range(len(table))", "range(1, len(table)) if len(table) > 1 else [0]"
        ),
        "divides by one less": edited(AVERAGE, ".mean(dim=0)", ".sum(dim=0) / max(1, len(table) - 1)"),
        "maximum": edited(AVERAGE, ".mean(dim=0)", ".amax(dim=0)"),
        "mirrors forgotten": edited(AVERAGE, "range(len(table))", "range((len(table) + 1) // 2)"),
        "four elements only": edited(AVERAGE, "range(len(table))", "range(min(4, len(table)))"),
        "g for its inverse": edited(AVERAGE, "output_action(y, inverse[g])", "output_action(y, g)"),
        "the input moved back as well": edited(
            AVERAGE, "action(x, g))", "action(x, inverse[g]) if output_action else action(x, g))"
        ),
        "outputs not moved back": edited(AVERAGE, "if output_action is not None", "if False"),
        "the output moved, not the input": edited(AVERAGE, "function(action(x, g))", "function(x)"),
        "inputs averaged first": lambda f, x, t, a, o=None: edited(AVERAGE)(
            lambda z: f(torch.stack([a(x, g) for g in range(len(t))]).mean(0)), x, t, a, o
        ),
        "mean over the batch": edited(AVERAGE, ".mean(dim=0)", ".mean(dim=(0, 1))"),
        "mean over outputs": lambda f, x, t, a, o=None: edited(AVERAGE)(f, x, t, a, o).flatten(1).mean(1),
        "detached": edited(AVERAGE, "outputs.append(y)", "outputs.append(y.detach())"),
        "always float32": edited(AVERAGE, ".mean(dim=0)", ".mean(dim=0).float()"),
        "adds up in place": average_in_place,
        "inverse read from column 0": edited(AVERAGE, INVERSE, "table[:, 0].tolist()"),
        "inverse as in cyclic groups": edited(AVERAGE, INVERSE, "[-g % len(table) for g in range(len(table))]"),
        "detached from the input": edited(AVERAGE, "action(x, g)", "action(x.detach(), g)"),
        "copies that look alike count once": average_of_different_copies,
        "elements as tensors": edited(AVERAGE, "in range(len(table))", "in torch.arange(len(table))"),
        "inverses as tensors": edited(AVERAGE, ".tolist()", ""),
        "last element only": edited(AVERAGE, "torch.stack(outputs).mean(dim=0)", "outputs[-1]"),
    },
}


def table_by_comparing(permutations):
    """Every product beside every element."""
    composed = permutations[:, permutations]  # (g, h, point)
    equal = (composed[:, :, None] == permutations).all(dim=-1)
    if not equal.any(dim=-1).all():
        raise ValueError("not closed")
    return equal.long().argmax(dim=-1)


def table_by_matrices(permutations):
    """Permutation matrices, multiplied; a scalar product tells which is which."""
    points = permutations.shape[1]
    matrices = nn.functional.one_hot(permutations, points).mT.double()  # column i has its 1 in row p(i)
    overlap = torch.einsum("gab,hbc,kac->ghk", matrices, matrices, matrices)
    best, table = overlap.max(dim=-1)
    if (best < points).any():
        raise ValueError("a product is missing")
    return table


def table_by_keys(permutations):
    """Each permutation read as one number in base ``points``."""
    base = permutations.shape[1] ** torch.arange(permutations.shape[1], device=permutations.device)
    keys, order = (permutations * base).sum(1).sort()
    wanted = (permutations[:, permutations] * base).sum(-1)
    place = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
    if not torch.equal(keys[place], wanted):
        raise ValueError("not closed under composition")
    return order[place]


def inverses_by_powers(table):
    """Multiply by g until the identity comes out: the power before it."""
    found = []
    for g in range(len(table)):
        power, following = 0, g
        while following != 0:
            power, following = following, int(table[following, g])
        found.append(power)
    return torch.tensor(found, device=table.device)


def regular_by_gathering(table):
    elements = torch.arange(len(table), device=table.device)
    return (elements[None, :, None] == table[:, None, :]).to(torch.get_default_dtype())


def regular_by_scatter(table):
    order = len(table)
    matrices = torch.zeros(order, order, order, dtype=torch.get_default_dtype(), device=table.device)
    return matrices.scatter(1, table[:, None, :], 1.0)


def representation_by_einsum(table, matrices, tolerance):
    products = torch.einsum("gij,hjk->ghik", matrices, matrices)
    right = torch.all((products - matrices[table]).abs() <= tolerance)
    return bool(right & torch.all((matrices[0] - torch.eye(len(matrices[0])).to(matrices)).abs() <= tolerance))


def table_by_unique(permutations):
    """Rows and products sorted together: nothing new may turn up."""
    order = len(permutations)
    rows = torch.cat([permutations, permutations[:, permutations].flatten(0, 1)])
    different, place = rows.unique(dim=0, return_inverse=True)
    if len(different) != order:
        raise ValueError("some product is new")
    number = torch.empty_like(place[:order])
    number[place[:order]] = torch.arange(order, device=permutations.device)
    return number[place[order:]].reshape(order, order)


def regular_by_inverse(table):
    """Row k of ρ(g) has its 1 in column g⁻¹·k; element 0 is the identity."""
    return torch.eye(len(table), device=table.device)[table[table.argmin(dim=1)]]


def representation_by_norm(table, matrices, tolerance):
    """One long matrix product, the largest entry, in float64."""
    order, size = matrices.shape[:2]
    m = matrices.double()
    every = m.reshape(-1, size) @ m.movedim(0, 1).reshape(size, -1)
    off = every.reshape(order, size, order, size).transpose(1, 2) - m[table]
    one = m[0] - torch.eye(size).to(m)
    return torch.cat([off.flatten(), one.flatten()]).norm(p=math.inf).item() <= tolerance


def representation_by_allclose(table, matrices, tolerance):
    close = {"rtol": 0.0, "atol": tolerance}
    one = torch.eye(matrices.shape[1]).to(matrices)
    return torch.allclose(matrices[0], one, **close) and torch.allclose(
        matrices[:, None] @ matrices, matrices[table], **close
    )


def average_one_by_one(function, x, table, action, output_action=None):
    """One example at a time, halves of the group added up."""
    inverse = table.argmin(dim=1).tolist()

    def added(one, first, end):
        if end - first > 1:
            middle = (first + end) // 2
            return added(one, first, middle) + added(one, middle, end)
        y = function(action(one, first))
        return y if output_action is None else output_action(y, inverse[first])

    return torch.cat([added(one, 0, len(table)) / len(table) for one in x.split(1)])


def average_running(function, x, table, action, output_action=None):
    """A running mean, from the last element to the first."""
    mean = None
    for count, g in enumerate(reversed(range(len(table))), start=1):
        y = function(action(x, g))
        y = y if output_action is None else output_action(y, table[g].tolist().index(0))
        mean = y if mean is None else mean.lerp(y, 1 / count)
    return mean


def average_at_once(function, x, table, action, output_action=None):
    copies = torch.stack([action(x, g) for g in range(len(table))])
    outputs = function(copies.flatten(0, 1)).unflatten(0, copies.shape[:2])
    if output_action is not None:
        outputs = torch.stack(
            [output_action(outputs[g], undo) for g, undo in enumerate(inverses_by_powers(table).tolist())]
        )
    return outputs.mean(dim=0)


def average_over_inverses(function, x, table, action, output_action=None):
    """The same sum in another order: over g⁻¹ instead of g."""
    total = 0
    for g, undo in enumerate(inverses_by_powers(table).tolist()):
        y = function(action(x, undo)) / len(table)
        total = total + (y if output_action is None else output_action(y, g))
    return total


# Right by another way: each must keep every point.
ALTERNATIVES = {
    "cayley_table": {
        "comparing all": table_by_comparing,
        "permutation matrices": table_by_matrices,
        "keys and a search": table_by_keys,
        "sorted together, in inference mode": torch.inference_mode()(table_by_unique),
        "two loops": edited(TABLE),
    },
    "inverses": {
        "powers": inverses_by_powers,
        "nonzero": lambda t: (t == 0).nonzero()[:, 1],
        "smallest entry": lambda t: t.argmin(dim=1),
        "first of a sort, a view": lambda t: t.argsort(dim=1)[:, 0],
        "two loops": edited(INVERSES),
    },
    "regular_representation": {
        "comparing": regular_by_gathering,
        "scatter": regular_by_scatter,
        "rows, by inverses": regular_by_inverse,
        "one-hot, a view": lambda t: nn.functional.one_hot(t, len(t)).mT.to(torch.get_default_dtype()),
        "two loops": edited(REGULAR),
    },
    "is_representation": {
        "einsum": representation_by_einsum,
        "one product and the largest entry": representation_by_norm,
        "allclose, absolutely": representation_by_allclose,
        "two loops": edited(IS),
    },
    "group_average": {
        "one batch of all copies": average_at_once,
        "over inverses": average_over_inverses,
        "one example at a time": average_one_by_one,
        "running mean": average_running,
        "stack and mean": edited(AVERAGE),
    },
}


# --- axioms --------------------------------------------------------------------------------------------------------

SMALL = [cyclic(n) for n in range(1, 25)] + [dihedral(n) for n in range(1, 13)]
PRODUCTS = [direct_product(a, b) for a, b in itertools.product(SMALL, repeat=2) if 1 < a.order * b.order <= 24]
ALL = SMALL + PRODUCTS
any_group = st.sampled_from(ALL)


@settings(max_examples=2 * len(ALL), deadline=None)
@given(any_group)
def test_every_group_up_to_order_24_keeps_the_axioms(group):
    assert library.broken_axiom(group.table) is None and library.is_group(group.table)
    elements = torch.arange(group.order)
    assert torch.equal(group.table.sort(dim=0).values, elements[:, None].expand(-1, group.order))  # a Latin square
    assert (group.table[elements, group.inverse] == 0).all() and (group.table[group.inverse, elements] == 0).all()


@settings(max_examples=200, deadline=None)
@given(any_group, st.data())
def test_associativity_element_by_element(group, data):
    g, h, k = (data.draw(st.integers(0, group.order - 1)) for _ in range(3))
    table = group.table
    assert table[table[g, h], k] == table[g, table[h, k]]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([group for group in ALL if group.order > 2]), st.data())
def test_one_changed_entry_breaks_a_table(group, data):
    g, h = (data.draw(st.integers(0, group.order - 1)) for _ in range(2))
    table = group.table.clone()
    table[g, h] = (table[g, h] + data.draw(st.integers(1, group.order - 1))) % group.order
    assert not library.is_group(table)


@pytest.mark.parametrize(
    "table, message",
    [
        ([[0, 1], [1, 2]], "not closed: 1·1 = 2"),
        ([[0, -1], [1, 0]], "not closed: 0·1 = -1"),
        ([[1, 0], [0, 1]], "0 is not the identity: 0·0 = 1"),
        ([[0, 1], [1, 1]], "no inverse: nothing undoes 1"),
        ([[0, 1, 2], [1, 0, 2], [2, 2, 0]], "not associative"),
    ],
)
def test_the_broken_axiom_is_named(table, message):
    assert library.broken_axiom(torch.tensor(table)).startswith(message)


def test_a_group_is_the_same_wherever_it_was_first_asked_for():
    """Groups are kept for the whole process, so their tables may not be inference tensors or lie on another device."""
    with torch.inference_mode(), torch.device("meta"):
        groups = cyclic(29), dihedral(13), direct_product(cyclic(29), cyclic(2))
    signal = torch.randn(29, requires_grad=True)
    library.act_on_signal(signal, groups[0], 3).square().sum().backward()
    torch.testing.assert_close(signal.grad, 2 * signal.detach())
    assert all(group.table.device.type == "cpu" and library.is_group(group.table) for group in groups)


def test_a_copy_of_a_group_is_the_group():
    for group in (cyclic(4), dihedral(3)):
        assert copy.deepcopy(group) is group and pickle.loads(pickle.dumps(group)) is group
    product = direct_product(cyclic(2), cyclic(2))
    again = pickle.loads(pickle.dumps(product))
    assert repr(again) == repr(product) and torch.equal(again.table, product.table) and again.turns == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_few_digits_round_pixels_and_not_places(dtype):
    x = torch.nn.functional.avg_pool2d(torch.randn(1, 1, 70, 74), 7, stride=1).to(dtype)
    found, wanted = (library.act_on_grid(part, cyclic(8), 3) for part in (x, x.double()))
    assert found.dtype == dtype and (found - wanted).norm() <= torch.finfo(dtype).eps * wanted.norm()


def test_multiplying_integers_modulo_five_without_zero():
    """The units modulo 5 are a group of four; as permutations of the residues they are C4."""
    units = torch.tensor([1, 2, 3, 4])
    permutations = units[:, None] * torch.arange(5) % 5
    table = library.cayley_table(permutations)
    assert torch.equal(units[table], units[:, None] * units % 5) and library.is_group(table)


# --- independent peers: escnn, characters, closed forms ------------------------------------------------------------


@pytest.mark.parametrize("mirrors", [False, True])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8])
def test_agrees_with_escnn(n, mirrors):
    """escnn writes D_n as (flip, turns) too, and turns after mirroring; ours numbers it f·n + k."""
    from escnn.group import cyclic_group, dihedral_group

    theirs, ours = (dihedral_group(n), dihedral(n)) if mirrors else (cyclic_group(n), cyclic(n))
    names = [theirs.element((f, k)) if mirrors else theirs.element(k) for f in range(1 + mirrors) for k in range(n)]
    number = {element: index for index, element in enumerate(names)}
    table = [[number[g @ h] for h in names] for g in names]
    assert ours.table.tolist() == table
    assert ours.inverse.tolist() == [number[~g] for g in names]
    order = [number[element] for element in theirs.elements]  # the order of their basis
    matrices = library.regular_representation(ours.table)
    for index, g in enumerate(names):
        wanted = torch.tensor(theirs.regular_representation(g)).float()
        torch.testing.assert_close(matrices[index][order][:, order], wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("group", [group for group in SMALL if group.order <= 24], ids=str)
def test_the_plane_is_a_representation_and_so_is_the_group_itself(group):
    plane = library.plane_matrices(group)
    assert library.is_representation(group.table, plane, 1e-12)
    assert library.is_representation(group.table, library.regular_representation(group.table), 0.0)
    if group.order > 2 and group.mirrors and group.turns > 2:
        assert not library.is_representation(group.table, plane.mT, 0.1)


def test_exact_entries_at_quarter_turns():
    for n in (4, 8, 12, 20, 64):
        matrices = library.plane_matrices(cyclic(n))[:: n // 4]
        assert set(matrices.flatten().tolist()) <= {0.0, 1.0, -1.0}


@pytest.mark.parametrize("n", range(1, 13))
def test_characters_of_cyclic_groups_are_orthogonal(n):
    """One character for each element; the regular representation holds each once."""
    k = torch.arange(n)
    characters = torch.exp(2j * math.pi * (k[:, None] * k % n) / n)
    torch.testing.assert_close(characters @ characters.mH / n, torch.eye(n).to(characters), rtol=0, atol=1e-5)
    regular = library.regular_representation(cyclic(n).table).diagonal(dim1=1, dim2=2).sum(1)
    torch.testing.assert_close(characters @ regular.to(characters) / n, torch.ones(n).to(characters))


@pytest.mark.parametrize("n", range(3, 13))
def test_characters_of_dihedral_groups_are_orthogonal(n):
    """Turns by j steps in the plane (dimension 2), the signs (dimension 1): Σ d² = 2n, and no other irreps."""
    group, characters = dihedral(n), []
    k, f = torch.arange(2 * n) % n, torch.arange(2 * n) // n
    for sign_of_turn, sign_of_mirror in itertools.product((1.0, -1.0), repeat=2):
        if sign_of_turn == 1 or n % 2 == 0:
            signs = sign_of_turn**k * sign_of_mirror**f
            assert library.is_representation(group.table, signs.reshape(-1, 1, 1), 0.0)
            characters.append(signs.double())
    plane = library.plane_matrices(group)
    for j in range(1, (n + 1) // 2):
        turns = torch.stack([torch.linalg.matrix_power(plane[1], j * step) for step in range(n)])
        matrices = torch.cat([turns, turns @ plane[n]])
        assert library.is_representation(group.table, matrices, 1e-10)
        characters.append(matrices.diagonal(dim1=1, dim2=2).sum(1))
    characters = torch.stack(characters)
    gram = characters @ characters.T / (2 * n)
    torch.testing.assert_close(gram, torch.eye(len(gram)).double(), rtol=0, atol=1e-10)
    assert round(characters[:, 0].square().sum().item()) == 2 * n
    regular = library.regular_representation(group.table).double().diagonal(dim1=1, dim2=2).sum(1)
    torch.testing.assert_close(characters @ regular / (2 * n), characters[:, 0])  # each as often as its dimension


def test_the_regular_representation_acts_as_act_on_signal():
    for group in (cyclic(5), dihedral(4), direct_product(cyclic(2), dihedral(3))):
        signal = torch.randn(3, group.order)
        for g, matrix in enumerate(library.regular_representation(group.table)):
            torch.testing.assert_close(library.act_on_signal(signal, group, g), signal @ matrix.T)
            other = library.act_on_signal(signal.T, group, g, dim=0)
            assert torch.equal(other, library.act_on_signal(signal, group, g).T)


@settings(max_examples=60, deadline=None)
@given(any_group, st.data())
def test_acting_twice_is_acting_by_the_product(group, data):
    g, h = (data.draw(st.integers(0, group.order - 1)) for _ in range(2))
    signal = torch.randn(2, group.order)
    twice = library.act_on_signal(library.act_on_signal(signal, group, h), group, g)
    assert torch.equal(twice, library.act_on_signal(signal, group, int(group.table[g, h])))


# --- images ------------------------------------------------------------------------------------------------------

EXACT = [cyclic(1), cyclic(2), cyclic(4), dihedral(1), dihedral(2), dihedral(4)]


@pytest.mark.parametrize("group", EXACT, ids=str)
@pytest.mark.parametrize("shape", [(5, 5), (6, 6), (3, 7), (2, 3, 4, 5)])
def test_exact_groups_move_pixels_and_nothing_else(group, shape):
    x = torch.randn(shape, dtype=torch.float64)
    for g in range(group.order):
        moved = library.act_on_grid(x, group, g)
        assert torch.equal(moved.flatten(-2).sort().values, x.flatten(-2).sort().values)
        for h in range(group.order):
            twice = library.act_on_grid(library.act_on_grid(x, group, h), group, g)
            assert torch.equal(twice, library.act_on_grid(x, group, int(group.table[g, h])))
        assert torch.equal(library.act_on_grid(moved, group, int(group.inverse[g])), x)


@pytest.mark.parametrize("group", [*EXACT, cyclic(8), dihedral(8), cyclic(5)], ids=str)
@pytest.mark.parametrize("size", [(9, 9), (8, 8), (7, 10)])
def test_points_move_as_the_matrices_of_the_plane_say(group, size):
    """(g·x)(p) = x(g⁻¹·p) for a linear image, which bilinear interpolation reproduces away from the edge."""
    height, width = size
    v = (height - 1) / 2 - torch.arange(height, dtype=torch.float64)[:, None]
    u = torch.arange(width, dtype=torch.float64) - (width - 1) / 2
    x = 2 * u - 3 * v + 0.5
    for g, matrix in enumerate(library.plane_matrices(group)):
        moved = library.act_on_grid(x, group, g)
        if moved.shape != x.shape:
            continue
        back = matrix.inverse()
        wanted = 2 * (back[0, 0] * u + back[0, 1] * v) - 3 * (back[1, 0] * u + back[1, 1] * v) + 0.5
        inside = (u**2 + v**2) < (min(size) / 2 - 1) ** 2
        torch.testing.assert_close(moved[inside], wanted[inside], rtol=0, atol=1e-12)


def test_quarter_turns_of_c8_are_exact_and_its_eighths_are_not():
    x = torch.zeros(1, 1, 29, 29, dtype=torch.float64)
    x[..., 1:-1, 1:-1] = torch.randn(27, 27, dtype=torch.float64)
    assert torch.equal(library.act_on_grid(x, cyclic(8), 2), x.rot90(1, (-2, -1)))
    place = torch.arange(29, dtype=torch.float64) - 14
    smooth = torch.exp(-((place[:, None] - 3) ** 2 + (place + 2) ** 2) / 2 / 2.0**2)[None, None]
    errors = {}
    for name, image in (("noise", x), ("smooth", smooth)):
        twice = library.act_on_grid(library.act_on_grid(image, cyclic(8), 1), cyclic(8), 1)
        errors[name] = ((twice - image.rot90(1, (-2, -1))).norm() / image.norm()).item()
    assert 0.01 < errors["smooth"] < 0.1 < 0.5 < errors["noise"] < 1.0


def test_interpolation_passes_gradcheck():
    x = torch.randn(2, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: library.act_on_grid(x, dihedral(8), 9), x)


@pytest.mark.parametrize("size", [1, 4, 5])
@pytest.mark.parametrize("group", EXACT, ids=str)
def test_grid_permutations_are_the_action(group, size):
    index, x = library.grid_permutations(group, size), torch.randn(size, size)
    assert index.shape == (group.order, size * size) and index.dtype == torch.int64
    for g in range(group.order):
        assert torch.equal(x.flatten()[index[g]], library.act_on_grid(x, group, g).flatten())
        for h in range(group.order):
            assert torch.equal(index[h][index[g]], index[group.table[g, h]])
    if size > 3:
        forward = index[group.inverse]  # as maps of pixels, with the product in its usual order
        assert torch.equal(library.cayley_table(forward), group.table)


@pytest.mark.parametrize("group, count", [(cyclic(4), 16), (dihedral(4), 10), (cyclic(2), 32), (dihedral(1), 32)])
def test_orbits_of_pixels_by_burnside(group, count):
    index = library.grid_permutations(group, 8)
    orbits = library.orbits(index)
    fixed = (index == torch.arange(64)).sum(dim=1)
    assert orbits.max() + 1 == count == fixed.double().mean()
    assert (orbits[index] == orbits).all()


# --- averages ----------------------------------------------------------------------------------------------------


def network(outputs=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, outputs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("group", EXACT, ids=str)
def test_averages_do_not_move(group, dtype):
    model, x = network().to(dtype), digits().test.x[:20].to(dtype)
    averaged = library.Averaged(model, group)
    limit = 1e-6 if dtype == torch.float32 else 1e-14
    for g in range(group.order):
        assert equivariance_error(averaged, x, lambda x, g=g: library.act_on_grid(x, group, g)) < limit
    plain = library.group_average(model, x, group.table, lambda x, g: library.act_on_grid(x, group, g))
    torch.testing.assert_close(averaged(x), plain)
    assert group.order == 1 or equivariance_error(model, x, lambda x: library.act_on_grid(x, group, 1)) > 0.01


def test_an_equivariant_average_of_feature_maps():
    """Any function of images to maps with a channel an element, made equivariant: pixels and channels move."""
    group, x = dihedral(4), torch.randn(2, 1, 5, 5, dtype=torch.float64)
    weight = torch.randn(25, 8 * 25, dtype=torch.float64)

    def maps(x):
        return (x.flatten(1) @ weight).tanh().unflatten(1, (8, 5, 5))

    def move(x, g):
        return library.act_on_grid(x, group, g)

    def move_maps(y, g):
        return library.act_on_signal(library.act_on_grid(y, group, g), group, g, dim=-3)

    def averaged(x):
        return library.group_average(maps, x, group.table, move, move_maps)

    for g in range(8):
        error = equivariance_error(averaged, x, lambda x, g=g: move(x, g), lambda y, g=g: move_maps(y, g))
        assert error < 1e-14
    assert equivariance_error(averaged, x, lambda x: move(x, 1)) > 0.5  # it is not a constant


def test_averaging_twice_is_averaging_once():
    group, x = dihedral(4), torch.randn(3, 1, 8, 8, dtype=torch.float64)
    model = network().double()
    once = library.Averaged(model, group)
    torch.testing.assert_close(library.Averaged(once, group)(x), once(x))


def test_an_eighth_turn_is_invariant_up_to_interpolation():
    x = nn.functional.interpolate(digits().test.x[:50], size=28, mode="bicubic", align_corners=False)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10), nn.Softmax(dim=1))
    plain, averaged = (
        equivariance_error(f, x, lambda x: library.act_on_grid(x, cyclic(8), 1))
        for f in (model, library.Averaged(model, cyclic(8)))
    )
    assert 1e-5 < averaged < 0.3 * plain


@pytest.mark.parametrize("group", EXACT, ids=str)
def test_frames_turn_with_the_image(group):
    """F is equivariant: g·x is canonical for h·x's element g·h⁻¹."""
    x = torch.cat([digits().test.x[:60], torch.ones(1, 1, 8, 8)]).double()
    chosen = library.grid_frame(x, group)
    assert chosen.any(dim=0).all() and chosen[:, -1].all()
    for h in range(group.order):
        moved = library.grid_frame(library.act_on_grid(x, group, h), group)
        for g in range(group.order):
            assert torch.equal(moved[g], chosen[group.table[g, h]])


def test_a_frame_average_is_invariant_and_asks_once():
    group, x, seen = dihedral(4), digits().test.x.double(), []
    model = network().double()

    def watched(x):
        seen.append(len(x))
        return model(x)

    averaged = library.frame_average(watched, x, group)
    assert len(x) <= seen[0] < 1.05 * len(x)
    for g in range(8):
        moved = library.act_on_grid(x, group, g)
        torch.testing.assert_close(library.frame_average(model, moved, group), averaged, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        library.frame_average(model, torch.ones(1, 1, 8, 8).double(), group),
        library.Averaged(model, group)(torch.ones(1, 1, 8, 8).double()),
    )


def test_principal_axes_turn_with_the_cloud():
    cloud, weights = torch.randn(5, 20, 2, dtype=torch.float64), torch.rand(5, 20, dtype=torch.float64)
    frame = library.pca_frame(cloud, weights)
    torch.testing.assert_close(frame.mT @ frame, torch.eye(2).double().expand(5, 4, 2, 2), rtol=0, atol=1e-12)
    mean = (weights[..., None] * cloud).sum(1, keepdim=True) / weights.sum(1)[:, None, None]

    def posed(cloud, frame):
        """The multiset of the four canonical clouds, as a fixed feature."""
        mean = (weights[..., None] * cloud).sum(1, keepdim=True) / weights.sum(1)[:, None, None]
        poses = (cloud - mean)[:, None] @ frame  # rows times g: g⁻¹ applied to points
        return (poses @ torch.tensor([1.0, 0.3]).double()).clamp(min=0).pow(3).sum(dim=(1, 2))

    value = posed(cloud, frame)
    assert mean.abs().max() > 0
    for angle in (0.3, 2.0):
        cos, sin = math.cos(angle), math.sin(angle)
        for matrix in ([[cos, -sin], [sin, cos]], [[-cos, -sin], [-sin, cos]]):
            moved = cloud @ torch.tensor(matrix, dtype=torch.float64).T + torch.tensor([3.0, -1.0]).double()
            torch.testing.assert_close(posed(moved, library.pca_frame(moved, weights)), value, rtol=1e-9, atol=1e-9)


# --- every device that is here --------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["cayley_table", "inverses", "regular_representation", "is_representation"])
def test_on_cuda(task, on_cuda):
    probe, verify = getattr(checks, f"probe_{task}"), getattr(checks, f"verify_{task}")
    verify(probe(on_cuda(getattr(library, task)), 0), 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("group", [cyclic(4), dihedral(4), cyclic(8)], ids=str)
def test_actions_and_averages_on_cuda(group):
    model, x = network(), torch.rand(3, 1, 8, 8)
    for average in (library.Averaged(model, group), lambda x: library.frame_average(model, x, group)):
        here = average(x)
        model.cuda()
        torch.testing.assert_close(average(x.cuda()).cpu(), here, rtol=1e-4, atol=1e-4)
        model.cpu()
    signal = torch.rand(2, group.order)
    assert torch.equal(library.act_on_signal(signal.cuda(), group, 1).cpu(), library.act_on_signal(signal, group, 1))


# --- bad input -----------------------------------------------------------------------------------------------------

C4, X = cyclic(4), torch.rand(2, 1, 4, 4)
PRODUCT = direct_product(C4, C4)


def turn(x, g):
    return library.act_on_grid(x, C4, g)


BAD = {
    "a list that is not closed": (lambda: library.cayley_table(torch.tensor([[0, 1, 2], [1, 2, 0]])), "must be closed"),
    "permutations as floats": (lambda: library.cayley_table(torch.eye(3)), "must be indices"),
    "one permutation alone": (lambda: library.cayley_table(torch.tensor([0, 1])), "order, point"),
    "points counted from 1": (lambda: library.cayley_table(torch.tensor([[1, 2], [2, 1]])), "out of range"),
    "a table that is not square": (lambda: library.inverses(C4.table[:2]), "must have the sizes"),
    "a table of floats": (lambda: library.inverses(C4.table.float()), "must be indices"),
    "a table with -1": (lambda: library.inverses(C4.table - 1), "out of range"),
    "a Group for its table": (lambda: library.inverses(C4), "must be a tensor"),
    "regular, not square": (lambda: library.regular_representation(C4.table[:2]), "must have the sizes"),
    "regular, of floats": (lambda: library.regular_representation(C4.table.float()), "must be indices"),
    "too few matrices": (
        lambda: library.is_representation(C4.table, torch.eye(2).repeat(3, 1, 1), 0.1),
        "matrices must have the sizes",
    ),
    "matrices not square": (
        lambda: library.is_representation(C4.table, torch.ones(4, 2, 3), 0.1),
        "matrices must have the sizes",
    ),
    "NaN in matrices": (lambda: library.is_representation(C4.table, torch.eye(2).repeat(4, 1, 1) / 0, 0.1), "finite"),
    "negative tolerance": (
        lambda: library.is_representation(C4.table, torch.eye(2).repeat(4, 1, 1), -0.1),
        "tolerance must be non-negative",
    ),
    "no inputs": (lambda: library.group_average(torch.abs, X[:0], C4.table, turn), "at least 1 of each"),
    "NaN inputs": (lambda: library.group_average(torch.abs, X / 0 * 0, C4.table, turn), "x must be finite"),
    "a table cut short": (lambda: library.group_average(torch.abs, X, C4.table[:2], turn), "must have the sizes"),
    "C0": (lambda: cyclic(0), "positive integer"),
    "D of a fraction": (lambda: dihedral(2.5), "positive integer"),
    "axioms of a rectangle": (lambda: library.is_group(C4.table[:2]), "must have the sizes"),
    "axioms of floats": (lambda: library.is_group(C4.table.float()), "must be indices"),
    "a product in the plane": (lambda: library.plane_matrices(PRODUCT), "must act on the plane"),
    "a product on images": (lambda: library.act_on_grid(X, PRODUCT, 0), "must act on the plane"),
    "no such element": (lambda: library.act_on_grid(X, C4, 4), "an integer from 0 to 3"),
    "an angle for an element": (lambda: library.act_on_grid(X, C4, 0.5), "an integer from 0 to 3"),
    "interpolating integers": (lambda: library.act_on_grid(X.long(), cyclic(8), 1), "Call .float"),
    "no image": (lambda: library.act_on_grid(X[0, 0, 0], C4, 1), "x must have the sizes"),
    "permutations of C8": (lambda: library.grid_permutations(cyclic(8), 5), "act_on_grid"),
    "a grid of no pixels": (lambda: library.grid_permutations(C4, 0), "positive integer"),
    "a signal too long": (lambda: library.act_on_signal(torch.ones(5), C4, 1), "wanted length 4"),
    "an axis that is not there": (lambda: library.act_on_signal(torch.ones(4), C4, 1, dim=1), "wanted length 4"),
    "no such element of a signal": (lambda: library.act_on_signal(torch.ones(4), C4, -1), "an integer from 0 to 3"),
    "orbits of floats": (lambda: library.orbits(torch.eye(3)), "must be indices"),
    "averaged over a product": (lambda: library.Averaged(network(), PRODUCT), "must act on the plane"),
    "averaged, not square": (lambda: library.Averaged(network(), C4)(torch.ones(1, 1, 4, 5)), "must have the sizes"),
    "frame, not square": (lambda: library.grid_frame(torch.ones(1, 1, 4, 5), C4), "must have the sizes"),
    "frame of a product": (lambda: library.frame_average(torch.abs, X, PRODUCT), "must act on the plane"),
    "weights of another cloud": (
        lambda: library.pca_frame(torch.ones(2, 5, 2), torch.ones(2, 4)),
        "weights must have the sizes",
    ),
    "points in space": (lambda: library.pca_frame(torch.ones(2, 5, 3), torch.ones(2, 5)), "points must have the sizes"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_explained(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call()
