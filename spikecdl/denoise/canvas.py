"""Images on a larger canvas that is filled by reflection."""

from __future__ import annotations

import torch
from torch import Tensor


def mirrored(image: Tensor, before: tuple[int, int], shape: tuple[int, int]) -> Tensor:
    """Return a canvas with an image on it, mirrored at its edges as often as it takes.

    Parameters
    ----------
    image : tensor, shape (row, column)
    before : (int, int)
        Rows above the image, and columns left of it.
    shape : (int, int)
        Of the canvas.
    """
    rows, columns = (
        _reflected(size, first, extent).to(image.device)
        for size, first, extent in zip(image.shape, before, shape, strict=True)
    )
    return image[rows[:, None], columns]


def _reflected(size: int, before: int, extent: int) -> Tensor:
    """Return which pixel of a side each of a canvas shows."""
    place = torch.arange(extent) - before
    if size == 1:
        return torch.zeros_like(place)
    place = place.remainder(2 * size - 2)
    return torch.minimum(place, 2 * size - 2 - place)
