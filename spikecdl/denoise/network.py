"""What a denoising network must offer, and how one sees images of any size."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

TILE = 504  # pixels along a side of a tile, without its halo


class Trainable(nn.Module):
    """What training asks of a network."""

    #: Pixels at each edge of a crop that do not count in training.
    border = 0

    @abstractmethod
    def forward(self, y: Tensor, peak: Tensor) -> Tensor:
        """Return expected counts (image, 1, row, column) as fractions of the peak.

        Counts y have the same shape, with sides of `padded` sizes, and peaks (image, 1, 1, 1).
        """

    def padded(self, size: int) -> int:
        """Return the smallest number of pixels, at least ``size``, that a side can have."""
        return size


class ImageNetwork(Trainable):
    """A network that turns counts into expected counts."""

    @abstractmethod
    def denoise(self, counts: Tensor, peak: float) -> Tensor:
        """Return the fractions of the peak (row, column) for counts of an image of any size."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return the settings that build the network again, as plain values."""

    def in_training(self, n_shifts: int, generator: torch.Generator) -> Trainable:
        """Return what is trained: the mean over ``n_shifts`` shifts of the grid, if there is one.

        Raises
        ------
        ValueError
            If the grid has fewer shifts.
        """
        if n_shifts != 1:
            raise ValueError(f"`n_shifts` (={n_shifts!r}) must be 1 for networks without a grid")
        return self


def on_tiles(
    function: Callable[[Tensor], Tensor],
    image: Tensor,
    halo: int,
    tile: int | None = TILE,
    stride: int = 1,
    length: int = 1,
) -> Tensor:
    """Apply a function to a large image tile by tile; the result is that of the whole image.

    Parameters
    ----------
    function : callable
        Returns an image of the size of its argument.
    image : tensor, shape (row, column)
    halo : int
        Pixels to each side that a pixel of the result depends on; a multiple of ``stride``.
    tile : int, optional
        Pixels along a side of a tile, rounded down to a multiple of ``stride``.  None: no tiles.
    stride, length : int
        The function takes sides of ``length`` plus a multiple of ``stride`` pixels.
    """
    if tile is None or max(image.shape) <= tile:
        return function(image)
    step = max(1, tile // stride) * stride

    def spans(size: int) -> list[tuple[slice, slice, slice]]:
        """Return, for each tile along a side, what it sees, its own pixels, and those within."""
        found = []
        for first in range(0, size, step):
            last = min(first + step, size)
            begin, end = max(0, first - halo), min(size, first + step + halo + length - stride)
            end -= (end - begin - length) % stride
            own, within = slice(first, last), slice(first - begin, last - begin)
            found.append((slice(begin, end), own, within))
        return found

    result = torch.empty_like(image)
    for rows, columns in itertools.product(*map(spans, image.shape)):
        seen, own, within = zip(rows, columns, strict=True)
        result[own] = function(image[seen])[within]
    return result


def mirrored(image: Tensor, before: tuple[int, int], shape: tuple[int, int]) -> Tensor:
    """Return a canvas of a shape that shows an image (row, column) and its reflections.

    ``before`` is the number of rows above the image, and of columns left of it.
    """

    def reflected(size: int, first: int, extent: int) -> Tensor:
        place = (torch.arange(extent) - first).remainder(max(2 * size - 2, 1))
        return torch.minimum(place, 2 * size - 2 - place).to(image.device)

    rows, columns = map(reflected, image.shape, before, shape)
    return image[rows[:, None], columns]
