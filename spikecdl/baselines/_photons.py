"""Images of photon counts, as the rivals of images take them."""

from __future__ import annotations

from typing import Any

import numpy as np


def image_of_counts(counts: Any) -> np.ndarray:
    """Return counts as real numbers, or raise if they are not those of an image."""
    image = np.asarray(counts)
    if image.dtype.kind not in "biuf":
        raise TypeError(f"`counts` (of {image.dtype}) must be numbers")
    if image.ndim != 2 or not image.size:
        raise ValueError(
            f"`counts` (of shape {image.shape}) must be (row, column) with at least one pixel; "
            "give one frame at a time"
        )
    wrong = ~(np.isfinite(image) & (image >= 0) & (image == np.round(image)))
    if wrong.any():
        row, column = (int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(
            f"`counts` ({image[row, column]} at row {row}, column {column}) must be whole numbers "
            "of photons, not negative; undo offset and gain of the camera first"
        )
    return image.astype(float)


def summed(counts: np.ndarray, size: int) -> np.ndarray:
    """Return sums over squares; the image is mirrored where the last ones reach beyond it."""
    if size == 1:
        return counts
    whole = np.pad(counts, [(0, -side % size) for side in counts.shape], mode="symmetric")
    rows, columns = whole.shape
    return whole.reshape(rows // size, size, columns // size, size).sum((1, 3))
