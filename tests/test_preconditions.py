"""What functions ask of their inputs: each refusal says what was wanted, what came, and what to do."""

import numpy as np
import pytest
import torch

from course_lib.preconditions import require_between, require_sizes

IMAGES = torch.ones(5, 1, 8, 9)
REFUSED = {
    "a number too many": ({"x": (IMAGES, "batch pixel")}, r"wanted 2 dimensions, got \(5, 1, 8, 9\)"),
    "too few before the dots": ({"w": (torch.tensor(1.0), "... pixel")}, r"at least 1 dimension, got \(\)"),
    "one word, two sizes": ({"x": (IMAGES, "batch 1 side side")}, r"wanted \(5, 1, 8, 8\), got .*x has side = 8"),
    "a fixed size": ({"x": (IMAGES, "batch 3 height width")}, r"wanted \(5, 3, height, width\).*is fixed"),
    "two tensors": (
        {"x": (IMAGES, "batch 1 height width"), "w": (torch.ones(2, 8), "... width")},
        r"w must have the sizes \(\.\.\., width\): wanted \(\.\.\., 9\), got \(2, 8\). x has width = 9",
    ),
    "the same shape": (
        {"w": (torch.ones(2, 3), "*shape"), "g": (torch.ones(3, 2), "*shape")},
        r"g must have the sizes \(\*shape\): wanted \(2, 3\), got \(3, 2\). w has \*shape = \(2, 3\)",
    ),
    "one column or none": (
        {"y": (torch.ones(5), "n targets?"), "w": (torch.ones(3, 1), "pixel targets?")},
        r"wanted \(3,\), got \(3, 1\). y has targets\? = \(\)",
    ),
    "two columns of columns": ({"y": (IMAGES, "n targets?")}, r"wanted 1 or 2 dimensions, got \(5, 1, 8, 9\)"),
    "between the dots": ({"x": (IMAGES[0, 0], "n c ... height width")}, r"at least 4 dimensions, got \(8, 9\)"),
    "nothing in it": ({"x": (IMAGES[:0], "batch 1 height width")}, r"wanted at least 1 of each, got \(0, 1, 8, 9\)"),
    "another dtype": (
        {"x": (IMAGES, "... width"), "w": (torch.ones(9, dtype=torch.float64), "width")},
        r"wanted torch.float32 on cpu, got torch.float64 on cpu. Call w.to\(x\)",
    ),
    "no tensor": ({"x": (np.ones(3), "pixel")}, "x must be a tensor: wanted torch.Tensor, got ndarray"),
}


@pytest.mark.parametrize(("tensors", "says"), REFUSED.values(), ids=REFUSED)
def test_sizes_that_do_not_fit(tensors, says):
    with pytest.raises(ValueError, match=says):
        require_sizes(**tensors)


def test_sizes_that_fit():
    require_sizes(x=(IMAGES, "batch 1 height width"), y=(torch.ones(5, 72), "batch pixel"), w=(torch.ones(9), "width"))
    require_sizes(x=(IMAGES, "... height width"), kernel=(torch.ones(2, 8, 9), "... height width"))
    require_sizes(weight=(torch.ones(0, 3), "*shape"), gradient=(torch.ones(0, 3), "*shape"))
    require_sizes(y=(torch.ones(5, 2), "n targets?"), w=(torch.ones(3, 2), "pixel targets?"))
    require_sizes(x=(torch.ones(4, 3, 2, 8, 9), "n c ... height width"), labels=(torch.arange(4), "n"))


@pytest.mark.parametrize("entry", [float("nan"), float("inf"), float("-inf"), -0.1])
def test_an_interval_without_end_holds_numbers_only(entry):
    require_between(0, float("inf"), x=torch.tensor([0.0, 1e30]), none=torch.ones(0))
    with pytest.raises(ValueError, match="x must (be finite|lie in)"):
        require_between(0, float("inf"), x=torch.tensor([1.0, entry]))
