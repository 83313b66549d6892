"""What a denoising network must offer, and how one sees images of any size."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Trainable(nn.Module):
    """What training asks of a network."""

    border = 0  # pixels at each edge of a crop that do not count in training

    @abstractmethod
    def forward(self, y: Tensor, peak: Tensor) -> Tensor:
        """Return expected counts (image, 1, row, column) as fractions of the peak.

        Counts y have the same shape, with sides of `padded` sizes, and peaks (image, 1, 1, 1).
        """

    @abstractmethod
    def padded(self, size: int) -> int:
        """Return the smallest number of pixels, at least ``size``, that a side can have."""

    @torch.no_grad()
    def copy_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Copy the values of all parameters, which are given by name."""
        for name, value in self.named_parameters():
            value.copy_(weights[name])


class ImageNetwork(Trainable):
    """A network that turns counts into expected counts.

    It takes sides of ``length`` plus a multiple of ``stride`` pixels.
    """

    length = stride = 1
    halo = 0  # pixels to each side that a pixel of the result depends on; a multiple of the stride
    tile = 504  # pixels along a side of a tile, without its halo

    @abstractmethod
    def denoise(self, counts: Tensor, peak: float) -> Tensor:
        """Return the fractions of the peak (row, column) for counts of an image of any size."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return the settings that build the network again, as plain values."""

    def in_training(self, n_shifts: int, generator: torch.Generator) -> Trainable:
        """Return what is trained: the mean over ``n_shifts`` shifts of the grid, if there is one.

        Raises ValueError if the grid has fewer shifts.
        """
        if n_shifts != 1:
            raise ValueError(f"`n_shifts` (={n_shifts!r}) must be 1 for networks without a grid")
        return self

    @property
    def n_parameters(self) -> int:
        """How many numbers the network learns."""
        return sum(values.numel() for values in self.parameters())

    def padded(self, size: int) -> int:
        least = max(size, self.length)
        return least + (self.length - least) % self.stride

    def on_tiles(
        self,
        function: Callable[[Tensor], Tensor],
        image: Tensor,
        before: Sequence[int] = (0, 0),
        more: int = 0,
    ) -> Tensor:
        """Apply a function of images (1, 1, row, column) to an image (row, column) of any size.

        Each side is extended by reflection: by ``more`` pixels, of which ``before`` are above and
        to the left, and to a `padded` size.  Large images are cut into tiles, which does not change
        the result.
        """
        canvas = mirrored(image, before, [self.padded(size + more) for size in image.shape])
        result = torch.empty_like(canvas)
        for rows, columns in itertools.product(*map(self._tiles, canvas.shape)):
            seen, own, within = zip(rows, columns, strict=True)
            result[own] = function(canvas[seen][None, None])[0, 0][within]
        (above, left), (height, width) = before, image.shape
        return result[above : above + height, left : left + width]

    def _tiles(self, size: int) -> Iterator[tuple[slice, slice, slice]]:
        """Yield, for each tile along a side, what it sees, its own pixels, and those within."""
        step = max(1, self.tile // self.stride) * self.stride
        for first in range(0, size, step):
            begin, last = max(0, first - self.halo), min(first + step, size)
            end = min(size, first + step + self.halo + self.length - self.stride)
            end -= (end - begin - self.length) % self.stride
            yield slice(begin, end), slice(first, last), slice(first - begin, last - begin)


def mirrored(image: Tensor, before: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Return a canvas of a shape that shows an image (row, column) and its reflections.

    ``before`` is the number of rows above the image, and of columns left of it.
    """

    def reflected(size: int, first: int, extent: int) -> Tensor:
        pixel = (torch.arange(extent) - first).remainder(max(2 * size - 2, 1))
        return torch.minimum(pixel, 2 * size - 2 - pixel).to(image.device)

    rows, columns = map(reflected, image.shape, before, shape)
    return image[rows[:, None], columns]
