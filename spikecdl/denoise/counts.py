"""What counts of photons are."""

from __future__ import annotations

from typing import Any

import numpy as np


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
