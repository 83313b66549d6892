"""A network on every shift of its stride's grid: what makes its rates smooth."""

from __future__ import annotations

import itertools
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from spikecdl import threads
from spikecdl.denoise.canvas import mirrored
from spikecdl.denoise.contract import ImageNetwork
from spikecdl.denoise.tiles import TILE, on_tiles

if TYPE_CHECKING:
    from spikecdl.denoise.network import ImageAutoencoder


@torch.no_grad()
def log_rate(network: ImageAutoencoder, counts: Tensor, tile: int | None = TILE) -> Tensor:
    r"""Return the mean over shifts of what the network says of counts.

    .. math:: \bar\eta = \frac{1}{s^2} \sum_{i,j=0}^{s-1} S_{ij}^{-1}\, \eta(S_{ij}\, y)

    where :math:`S_{ij}` moves the image by i rows and j columns on a canvas that is filled by
    reflection, so far around the image that as many templates reach its edges as its middle; s is
    the stride.  The source averages log rates too.

    Parameters
    ----------
    network : ImageAutoencoder
    counts : tensor, shape (row, column)
    tile : int, optional
        Larger images are cut into tiles of so many pixels, without a change of the result; None:
        never.

    Returns
    -------
    tensor, shape (row, column)
    """
    stride = network.architecture.stride
    shifts = itertools.product(range(stride), repeat=2)
    logs = threads.on_each(partial(_at_shift, network, counts, tile), shifts, counts.device)
    return sum(logs, torch.zeros_like(counts)) / stride**2


def _at_shift(
    network: ImageAutoencoder, counts: Tensor, tile: int | None, shift: tuple[int, ...]
) -> Tensor:
    stride, length = network.architecture.stride, network.architecture.length
    above, left = (network.border + move for move in shift)
    more = 2 * network.border + stride - 1
    height, width = (network.padded(size + more) for size in counts.shape)
    canvas = mirrored(counts, (above, left), (height, width))

    def log_rate_of(part: Tensor) -> Tensor:
        return network.log_rate(part[None])[0]

    eta = on_tiles(log_rate_of, canvas, network.halo, tile, stride, length)
    return eta[above : above + counts.shape[0], left : left + counts.shape[1]]


class MeanOfShifts(ImageNetwork):
    """Training on the mean of log rates at some shifts, drawn anew for every batch.

    At one shift a network learns to be right on its own; at several it learns what their mean
    needs, which is what `log_rate` gives.

    Parameters
    ----------
    network : ImageAutoencoder
    n_shifts : int
        Different shifts of the same crops.
    generator : torch.Generator
    """

    def __init__(
        self, network: ImageAutoencoder, n_shifts: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.network, self.n_shifts, self.generator = network, n_shifts, generator
        self.more = network.architecture.stride - 1
        self.border = network.border + self.more

    def forward(self, y: Tensor, peak: Tensor) -> Tensor:
        """Return fractions of the peak; wrong in the border, where not all shifts reach."""
        stride, size = self.network.architecture.stride, y.shape[-1] - self.more
        drawn = torch.randperm(stride**2, generator=self.generator)[: self.n_shifts].tolist()
        moves = [divmod(number, stride) for number in drawn]
        parts = [y[..., i : i + size, j : j + size] for i, j in moves]
        logs = self.network.log_rate(torch.cat(parts)).split(len(y))  # quicker than one by one
        back = [
            F.pad(log, (j, self.more - j, i, self.more - i))
            for log, (i, j) in zip(logs, moves, strict=True)
        ]
        return torch.stack(back).mean(0).exp() / peak

    def whole(self, counts: Tensor, peak: float) -> Tensor:
        return self.network.whole(counts, peak)

    def padded(self, size: int) -> int:
        return self.network.padded(size) + self.more

    def optimizer(self, learning_rate: float) -> torch.optim.Optimizer:
        return self.network.optimizer(learning_rate)

    def described(self) -> dict[str, Any]:
        return self.network.described()
