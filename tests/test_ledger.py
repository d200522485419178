"""The ledger: its rows, its measurements on models whose answers are known, and how it is shown."""

import ast
from pathlib import Path

import pytest
import torch
from torch import nn

from course_lib import ledger
from course_lib.claims import study
from course_lib.data import Split, rotate
from course_lib.layout import topics

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "ledger.py"


def test_the_benchmark_knows_how_to_run_every_row_and_no_other():
    tree = ast.parse(BENCHMARK.read_text(encoding="utf-8"))
    (methods,) = (
        node.value for node in tree.body if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "METHODS"
    )
    assert [ast.literal_eval(key) for key in methods.keys] == list(ledger.ROWS)


def test_every_row_belongs_to_a_chapter():
    assert set(ledger.ROWS.values()) <= set(topics())


def test_every_stored_row_has_all_columns_for_all_seeds():
    rows, stored = ledger.results(), study("ledger")["runs"]
    assert list(rows) == [method for method in ledger.ROWS if f"{method}, seed 0" in stored]
    lengths = {len(values) for row in rows.values() for values in row.values()}
    assert len(lengths) == 1 and lengths.pop() >= 5
    assert all(set(row) == set(ledger.COLUMNS) for row in rows.values())


def test_a_seed_draws_other_images_but_the_same_test():
    one, other = ledger.task(0), ledger.task(1)
    assert [len(part) for part in (one.train.x, one.validation.x, one.test.x)] == [100, 100, 898]
    for split in (one.train, one.validation):
        assert torch.equal(split.y.bincount(), torch.full((10,), 10))
    assert torch.equal(one.test.x, other.test.x) and not torch.equal(one.train.x, other.train.x)
    overlap = {image.numpy().tobytes() for image in one.train.x} & {
        image.numpy().tobytes() for image in one.validation.x
    }
    assert not overlap
    assert torch.equal(ledger.network(3)[1].weight, ledger.network(3)[1].weight)


class Scores(nn.Module):
    """A model whose scores are a function of the images, times ten numbers."""

    def __init__(self, function):
        super().__init__()
        self.function, self.weights = function, nn.Parameter(torch.linspace(-1, 1, 10))

    def forward(self, x):
        return self.function(x)[:, None] * self.weights


CONSTANT = Scores(lambda x: torch.ones(len(x)))
MIDDLE = Scores(lambda x: x[:, 0, 4, 4])  # of a 9 by 9 image: it stays where it is


def images(size, n=20):
    draw = torch.Generator().manual_seed(0)
    return Split(torch.rand(n, 1, size, size, generator=draw), torch.arange(n) % 10)


@pytest.mark.parametrize(("model", "size"), [(CONSTANT, 8), (MIDDLE, 9)])
def test_a_model_that_rotation_cannot_move_has_no_sensitivity_and_no_invariance_error(model, size):
    found = ledger.measure(model, images(size))
    assert found["sensitivity"] == pytest.approx(0, abs=1e-4)
    assert found["invariance"] == pytest.approx(0, abs=1e-5)
    assert found["rotated"] == found["clean"]


def test_a_model_that_sees_more_has_both():
    found = ledger.measure(ledger.network(0), images(8))
    assert found["sensitivity"] > 0.01 and found["invariance"] > 0.01


def test_the_accuracy_under_shifts_is_that_of_shifted_images():
    test, model = images(8, n=50), ledger.network(2)
    right = [
        (model(ledger.shift(test.x, down, right)).argmax(1) == test.y).double().mean()
        for down in (-1, 0, 1)
        for right in (-1, 0, 1)
        if (down, right) != (0, 0)
    ]
    found = ledger.measure(model, test)
    assert found["shifted"] == pytest.approx(100 * sum(right).item() / 8) and found["shifted"] != found["clean"]


def test_the_sensitivity_is_a_derivative_by_the_angle():
    test, model = images(8, n=5), ledger.network(1)

    def slopes(degrees):  # between pixels images bend, so the slopes to both sides are averaged
        angle = torch.full((5,), degrees).deg2rad().requires_grad_()
        rows = model(rotate(test.x, angle)).softmax(1).T
        return torch.stack([torch.autograd.grad(p.sum(), angle, retain_graph=True)[0] for p in rows], dim=1)

    wanted = ((slopes(0.5) + slopes(-0.5)) / 2).norm(dim=1).mean().item()
    assert ledger.measure(model, test)["sensitivity"] == pytest.approx(wanted, rel=0.03)


def test_a_shift_moves_whole_pixels_and_zeros_come_in():
    x = torch.arange(1.0, 10).reshape(1, 1, 3, 3)
    moved = ledger.shift(x, down=-1, right=1)
    assert torch.equal(moved[0, 0], torch.tensor([[0.0, 4, 5], [0, 7, 8], [0, 0, 0]]))
    assert torch.equal(ledger.shift(x, 0, 0), x)


def test_it_is_shown_up_to_the_chapters_row_which_is_set_apart():
    rows = list(ledger.results())
    last = ledger.show(rows[-1])
    assert last.markup.count("<tr") == len(rows) + 1 and last.markup.count('class="chosen"') == 1
    first = ledger.show(rows[0])
    assert first.markup.count("<tr") == 2 and rows[1] not in first.markup
    whole = ledger.show()
    assert whole.markup.count("<tr") == len(rows) + 1 and "chosen" not in whole.markup


def test_a_row_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(ValueError, match=r"no row 'dropout'.*wanted one of plain.*Run benchmarks/ledger.py"):
        ledger.show("dropout")
