"""What training and denoising ask of a network."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn


class ImageNetwork(nn.Module):
    """A module that makes fractions of the peak from counts."""

    @abstractmethod
    def forward(self, y: Tensor, peak: Tensor) -> Tensor:
        """Return expected counts as a fraction of the peak, as they are trained.

        Parameters
        ----------
        y : tensor, shape (image, 1, row, column)
            Counts; sides are of `padded` sizes.
        peak : tensor, shape (image, 1, 1, 1)
            Largest expected count of each image.

        Returns
        -------
        tensor, shape (image, 1, row, column)
        """

    @abstractmethod
    def whole(self, counts: Tensor, peak: float) -> Tensor:
        """Return the fraction of the peak (row, column) for an image of counts of any size."""

    @abstractmethod
    def optimizer(self, learning_rate: float) -> torch.optim.Optimizer:
        """Return what trains it well."""

    @abstractmethod
    def described(self) -> dict[str, Any]:
        """Return the settings as plain values."""

    def in_training(self, n_shifts: int, generator: torch.Generator) -> ImageNetwork:
        """Return what is trained in its place: the mean of so many shifts of a grid, if it has one.

        Raises
        ------
        ValueError
            If there are not as many shifts.
        """
        if n_shifts != 1:
            raise ValueError(f"`n_shifts` (={n_shifts!r}) must be 1 for networks without a grid")
        return self

    #: Pixels at the edges of a crop that training leaves out.
    border = 0

    def padded(self, size: int) -> int:
        """Return the least number of pixels, from ``size``, that a side can have."""
        return size
