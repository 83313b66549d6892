"""Large images a tile at a time, each with all that reaches into it: the result of the whole."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

TILE = 504  # pixels along a side that are denoised together, besides their halo


def on_tiles(
    function: Callable[[Tensor], Tensor],
    image: Tensor,
    halo: int,
    tile: int | None = TILE,
    stride: int = 1,
    length: int = 1,
) -> Tensor:
    """Return what a function makes of an image, tile by tile if the image is larger than one.

    Parameters
    ----------
    function : callable
        Makes an image from one of the same size.
    image : tensor, shape (row, column)
    halo : int
        Pixels to each side that a pixel of the result depends on; a multiple of the stride.
    tile : int, optional
        Pixels along a side of a tile, rounded down to whole strides; None: the whole at once.
    stride, length : int
        Sides must be of ``length`` and a number of strides, and begin at one.
    """
    if tile is None or max(image.shape) <= tile:
        return function(image)
    result = torch.empty_like(image)
    step = max(1, tile // stride) * stride
    sides = [
        [_span(first, step, size, halo, stride, length) for first in range(0, size, step)]
        for size in image.shape
    ]
    for (seen_rows, rows), (seen_columns, columns) in itertools.product(*sides):
        part = function(image[seen_rows, seen_columns])
        result[rows, columns] = part[_within(rows, seen_rows), _within(columns, seen_columns)]
    return result


def _span(
    first: int, step: int, size: int, halo: int, stride: int, length: int
) -> tuple[slice, slice]:
    """Return the pixels along a side that a tile sees, and its own."""
    begin, end = max(0, first - halo), min(size, first + step + halo + length - stride)
    end -= (end - begin - length) % stride
    return slice(begin, end), slice(first, min(first + step, size))


def _within(own: slice, seen: slice) -> slice:
    return slice(own.start - seen.start, own.stop - seen.start)
