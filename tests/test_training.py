"""The training loop: the step it takes, seeds, modes, callbacks, bad input."""

import pytest
import torch
from torch import nn

from course_lib.data import Split
from course_lib.norm_penalties import l2_penalty
from course_lib.training import accuracy, batches, fit, predictions


def split(n=20, classes=3):
    x = torch.randn(n, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    return Split(x, torch.arange(n) % classes)


def linear(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))


def sgd(model, **options):
    return torch.optim.SGD(model.parameters(), lr=0.1, **options)


def test_a_penalty_in_the_objective_is_weight_decay_of_sgd():
    ours, theirs = linear(), linear()
    penalty = [lambda model, x, y: l2_penalty(model.parameters(), 0.5)]
    history = fit(ours, batches(split(), 5), sgd(ours), epochs=4, penalties=penalty)
    fit(theirs, batches(split(), 5), sgd(theirs, weight_decay=0.5), epochs=4)
    torch.testing.assert_close(ours[1].weight, theirs[1].weight)
    assert len(history) == 4 and history[0]["penalty"] > history[-1]["penalty"] > 0


def test_one_full_batch_is_one_gradient_step():
    model, data = linear(), split()
    weight = model[1].weight.detach().clone()
    loss = nn.functional.cross_entropy(model(data.x), data.y)
    (gradient,) = torch.autograd.grad(loss, model[1].weight)
    history = fit(model, batches(data, 100), sgd(model), epochs=1)
    torch.testing.assert_close(model[1].weight, weight - 0.1 * gradient)
    assert history == [{"loss": pytest.approx(loss.item()), "penalty": 0.0}]


def test_the_seed_fixes_the_order_and_nothing_else_does():
    torch.manual_seed(5)
    first = [y.tolist() for _, y in batches(split(), 6, seed=3)]
    torch.manual_seed(6)
    assert [y.tolist() for _, y in batches(split(), 6, seed=3)] == first
    assert [y.tolist() for _, y in batches(split(), 6, seed=4)] != first
    assert sorted(sum(first, [])) == sorted(split().y.tolist())


def test_callbacks_see_evaluation_mode_and_can_stop():
    seen = []

    def stop_after_two(epoch, model, averages):
        seen.append((epoch, model.training, sorted(averages)))
        return epoch == 1

    model = nn.Sequential(linear(), nn.Dropout(0.5))
    history = fit(model, batches(split(), 5), sgd(model), epochs=9, callbacks=[stop_after_two])
    assert seen == [(0, False, ["loss", "penalty"]), (1, False, ["loss", "penalty"])]
    assert len(history) == 2 and not model.training


def test_after_step_sees_the_weights_after_every_step():
    model, norms = linear(), []

    def halve(model):
        with torch.no_grad():
            model[1].weight *= 0.5
        norms.append(model[1].weight.norm().item())

    fit(model, batches(split(), 5), sgd(model), epochs=2, after_step=halve)
    assert len(norms) == 8 and norms[-1] == model[1].weight.norm().item() < norms[0]


def test_accuracy_counts_and_restores_the_mode_of_every_module():
    model, data = linear().train(), split(7)
    model[0].eval()
    right = (model(data.x).argmax(1) == data.y).sum().item()
    assert accuracy(model, data) == pytest.approx(right / 7)
    assert model.training and not model[0].training
    assert predictions(model, data.x[:0]).shape == (0,)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_the_model_decides_the_device():
    model = linear().cuda()
    fit(model, batches(split(), 5), sgd(model), epochs=1)
    assert predictions(model, split().x).device.type == "cpu"


def nan_loss(output, y):
    return output.sum() * torch.nan


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda m: fit(m, batches(split(), 5), sgd(m), epochs=0), "epochs must be a positive integer.*got 0"),
        (lambda m: fit(m, [], sgd(m), epochs=1), "loader must not be empty"),
        (lambda m: fit(m, batches(split(), 5), sgd(m), epochs=1, loss=nan_loss), "diverged"),
        (lambda m: batches(split(0), 5), "split must not be empty"),
        (lambda m: batches(split(), 0), "batch_size must be a positive integer.*got 0"),
        (lambda m: accuracy(m, split(0)), "split must not be empty"),
    ],
)
def test_bad_input_is_explained(call, message):
    with pytest.raises(ValueError, match=message):
        call(linear())
