"""What networks are trained on: crops of clean images, turned and flipped, and their counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
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
    """

    images: Sequence[Tensor]
    size: int
    peaks: Sequence[float]

    def __post_init__(self) -> None:
        _validation.integer("size", self.size)
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
        image = self.images[which]
        row, column = (
            int(torch.randint(side - self.size + 1, (), generator=generator))
            for side in image.shape
        )
        crop = image[row : row + self.size, column : column + self.size]
        crop = torch.rot90(crop, turns)
        return crop.flip(1) if flipped else crop
