"""What is taken for a clean image."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


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
