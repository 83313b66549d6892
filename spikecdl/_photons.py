"""Counts of photons, as all that denoises images takes them."""

from __future__ import annotations

from typing import Any

import numpy as np


def checked_counts(counts: Any, stacks: bool = False) -> np.ndarray:
    """Return counts as an array.

    Parameters
    ----------
    counts : array_like, shape (row, column), or (frame, row, column)
    stacks : bool
        Whether the latter is allowed.

    Raises
    ------
    TypeError
        If they are not numbers.
    ValueError
        If there are no pixels, or one is not a whole number of 0 or more.
    """
    values = np.asarray(counts)
    if values.dtype.kind not in "biuf":
        raise TypeError(f"`counts` (of {values.dtype}) must be numbers")
    if values.ndim != 2 and not (stacks and values.ndim == 3):
        needed = "(row, column) or (frame, row, column)" if stacks else "(row, column), one frame"
        raise ValueError(f"`counts` (shape {values.shape}) must have the axes {needed}")
    if 0 in values.shape[-2:]:
        raise ValueError(f"`counts` (shape {values.shape}) has no pixels")
    wrong = ~np.isfinite(values) | (values < 0) | (values != np.floor(values))
    if wrong.any():
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(
            f"`counts` (={values[place]} at {place}) must be whole numbers of photons, 0 or more; "
            "subtract the detector's offset and divide by its gain"
        )
    return values


def summed(counts: np.ndarray, size: int) -> np.ndarray:
    """Return sums over squares; the image is mirrored where the last ones reach beyond it."""
    if size == 1:
        return counts
    whole = np.pad(counts, [(0, -side % size) for side in counts.shape], mode="symmetric")
    rows, columns = whole.shape
    return whole.reshape(rows // size, size, columns // size, size).sum((1, 3))
