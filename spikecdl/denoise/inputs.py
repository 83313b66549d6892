"""What is taken for counts of photons, and for a clean image."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def checked_counts(counts: Any) -> np.ndarray:
    """Return counts as an array.

    Parameters
    ----------
    counts : array_like, shape (row, column) or (frame, row, column)

    Raises
    ------
    ValueError
        If there are no pixels, or one is not a whole number of 0 or more.
    """
    values = np.asarray(counts)
    if values.ndim not in (2, 3) or values.dtype.kind not in "biuf":
        raise ValueError(
            f"`counts` (shape {values.shape}, {values.dtype}) must be numbers with the axes "
            "(row, column) or (frame, row, column)"
        )
    if 0 in values.shape[-2:]:
        raise ValueError(f"`counts` (shape {values.shape}) has no pixels")
    wrong = ~np.isfinite(values) | (values < 0) | (values != np.floor(values))
    if wrong.any():
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(
            f"`counts` (={values[place]} at {place}) must be whole numbers of photons, 0 or more; "
            "divide the pixel values by the detector's gain"
        )
    return values


def clean_image(image: Any, number: int) -> torch.Tensor:
    """Return a clean image with a largest value of 1.

    Parameters
    ----------
    image : array_like, shape (row, column)
    number : int
        By which an error names it.

    Raises
    ------
    ValueError
        If it is empty, all zero, or a value is negative or not finite.
    """
    values = np.asarray(image, dtype=np.float32)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(
            f"`images`: image {number} (shape {values.shape}) must have the axes (row, column), "
            "none empty"
        )
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() > 0):
        raise ValueError(
            f"`images`: image {number} has values from {values.min():g} to {values.max():g}; they "
            "must be finite, not negative and not all zero"
        )
    return torch.tensor(values / values.max())
