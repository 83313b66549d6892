"""What networks are trained on: crops of clean images, turned and flipped, and their counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from spikecdl import _validation


@dataclass(frozen=True)
class Crops:
    """Draws batches of square crops of images whose largest value is 1.

    A crop at a random place meets the stride's grid at a random shift, so one shift of each crop
    stands for all of them.

    Parameters
    ----------
    images : sequence of tensor, shape (row, column)
        Clean images, scaled so that the largest value of each is 1.
    size : int
        Pixels along a side of a crop.
    peaks : sequence of float
        Largest expected counts; each crop has one of them.
    zoom : float
        Every second crop, on average, is enlarged by up to this factor: frames of microscopes are
        smoother than photographs, and a network should know both.  1: none is.
    """

    images: Sequence[Tensor]
    size: int
    peaks: Sequence[float]
    zoom: float = 1.0

    def __post_init__(self) -> None:
        _validation.integer("size", self.size)
        if _validation.positive("zoom", self.zoom) < 1:
            raise ValueError(f"`zoom` (={self.zoom:g}) must be at least 1: crops are not reduced")
        small = min(min(image.shape) for image in self.images)
        if small < self.size:
            raise ValueError(
                f"`size` (={self.size}) must be at most {small}, the shortest side of an image"
            )

    def draw(self, n_crops: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return clean crops and their counts (crop, 1, row, column), and peaks (crop, 1, 1, 1)."""
        clean = torch.stack([self._crop(generator) for _ in range(n_crops)])[:, None]
        chosen = torch.randint(len(self.peaks), (n_crops,), generator=generator)
        peak = torch.tensor(self.peaks)[chosen, None, None, None]
        return clean, torch.poisson(clean * peak, generator=generator), peak

    def _crop(self, generator: torch.Generator) -> Tensor:
        which, turns, flipped = (
            int(torch.randint(high, (), generator=generator)) for high in (len(self.images), 4, 2)
        )
        image, side = self.images[which], self._side(generator)
        row, column = (
            int(torch.randint(size - side + 1, (), generator=generator)) for size in image.shape
        )
        crop = image[row : row + side, column : column + side]
        if side < self.size:
            crop = _enlarged(crop, self.size)
        crop = torch.rot90(crop, turns)
        return crop.flip(1) if flipped else crop

    def _side(self, generator: torch.Generator) -> int:
        """Return how many pixels of the image a crop shows along each side."""
        if self.zoom == 1:
            return self.size
        chance, place = torch.rand(2, generator=generator).tolist()
        return self.size if chance < 0.5 else math.ceil(self.size / self.zoom**place)


def _enlarged(crop: Tensor, size: int) -> Tensor:
    """Return a crop with so many pixels along each side, between 0 and 1 as before."""
    shape = (size, size)
    return F.interpolate(crop[None, None], shape, mode="bicubic")[0, 0].clamp(0, 1)
