"""What the verdicts of all topics share: arrays compared and told in sentences that a student can read; smooth images.

``verify_X`` in ``tests/checks`` calls this outside the student's process. Nothing here gives an expected value away.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

DIGITS = 1e-5  # an error below this in float64 comes from float32 on the way, or from a difference for a derivative


def close(
    got: ArrayLike,
    wanted: ArrayLike,
    what: str,
    dtype: DTypeLike = "float64",
    *,
    exact: float = 1e-9,
    rough: float = 3e-4,
    hint: str = "",
    floor: float = 1.0,
    typed: bool = False,
) -> None:
    """Refuse an array that is not close enough to the one wanted.

    In a formula: every |got − wanted| ≤ tolerance · max(floor, largest |wanted|).

    Args:
        got: what the student's function gave.
        wanted: what it should be.
        what: the words for it at the head of the sentence.
        dtype: of the inputs; it chooses the tolerance.
        exact: the tolerance in float64.
        rough: the tolerance in every other dtype.
        hint: what to look at, where something is off.
        floor: wanted values below this are compared as if they were as large.
        typed: refuse any other dtype than that of the inputs.

    Raises:
        AssertionError: another dtype, another shape, NaN or infinity, or an entry too far off; said in this order.

    >>> close([1.0, 2.0], [1.0, 3.0], "the sum", hint="over all axes?")
    Traceback (most recent call last):
    AssertionError: the sum is off in float64, in 1 of 2 entries: over all axes?
    """
    got, wanted, dtype = np.asarray(got), np.asarray(wanted), np.dtype(dtype)
    assert got.dtype == dtype or not typed, f"{what}: {dtype} in gave {got.dtype} out"
    assert got.shape == wanted.shape, f"{what} has shape {got.shape}, which is not the one asked for"
    assert np.all(np.isfinite(got)), f"{what} is NaN or infinite"
    tolerance, scale = exact if dtype == "float64" else rough, max(floor, np.abs(wanted).max(initial=0.0))
    errors = np.abs(got - wanted)
    wrong = errors > tolerance * scale
    if dtype == "float64" and np.all(errors < DIGITS * scale):
        hint = "right to five digits only: is something made in float32 on the way, or a difference for a derivative?"
    hint = f": {hint}" if hint else ""
    if wrong.any():
        raise AssertionError(f"{what} is off in {dtype}, in {wrong.sum()} of {wrong.size} entries{hint}")


def smooth_at(images: NDArray, sigma: float, rows: NDArray, columns: NDArray) -> NDArray:
    """The value of a smooth image at any points: each pixel a Gaussian hill, times its grey value, summed.

    Args:
        images: shape (batch, 1, height, width).
        sigma: the hills' width in pixels.
        rows: of the points, 0 at the first row's centre, shape (places down, places across).
        columns: of the points, in the same way.

    Returns:
        Shape (batch, places down, places across), float64.

    >>> smooth_at(np.ones((1, 1, 9, 9)), 1.0, np.full((1, 1), 4.0), np.full((1, 1), 4.5)).round(3)
    array([[[1.]]])
    """

    def hills(places: NDArray, size: int) -> NDArray:
        offset = places[..., None] - np.arange(size)
        return np.exp(-(offset**2) / (2 * sigma**2)) / (sigma * np.sqrt(2 * np.pi))

    height, width = images.shape[-2:]
    images = images[:, 0].astype("float64")
    return np.einsum("bij,hwi,hwj->bhw", images, hills(rows, height), hills(columns, width))
