"""A network on every shift of its stride's grid: what makes its rates smooth."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from spikecdl.denoise.tiles import TILE, on_tiles

if TYPE_CHECKING:
    from spikecdl.denoise.network import ImageAutoencoder


@torch.no_grad()
def log_rate(
    network: ImageAutoencoder, counts: Tensor, tile: int | None = TILE, turned: bool = False
) -> Tensor:
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
    turned : bool
        Whether shifts see the image in turn in its eight orientations.

    Returns
    -------
    tensor, shape (row, column)
    """
    stride = network.architecture.stride
    baseline = network.baseline(counts[None])
    total = torch.zeros_like(counts)
    for number, shift in enumerate(itertools.product(range(stride), repeat=2)):
        turns, flipped = (number % 4, number % 8 >= 4) if turned else (0, False)
        image = torch.rot90(counts.mT if flipped else counts, turns)
        eta = torch.rot90(_at_shift(network, image, baseline, shift, tile), -turns)
        total += eta.mT if flipped else eta
    return total / stride**2


def _at_shift(
    network: ImageAutoencoder,
    counts: Tensor,
    baseline: Tensor,
    shift: tuple[int, ...],
    tile: int | None,
) -> Tensor:
    architecture = network.architecture
    stride, length = architecture.stride, architecture.length
    before = [network.border + move for move in shift]
    more = 2 * network.border + stride - 1
    rows, columns = (
        _reflected(size, first, architecture.padded(size + more)).to(counts.device)
        for size, first in zip(counts.shape, before, strict=True)
    )
    canvas = counts[rows[:, None], columns]

    def log_rate_of(part: Tensor) -> Tensor:
        return network.log_rate(part[None], baseline)[0]

    eta = on_tiles(log_rate_of, canvas, network.halo, tile, stride, length)
    inside = [slice(i, i + size) for i, size in zip(before, counts.shape, strict=True)]
    return eta[inside[0], inside[1]]


def _reflected(size: int, before: int, extent: int) -> Tensor:
    """Return which pixel of an image each of a canvas shows: mirrored at the edges."""
    place = torch.arange(extent) - before
    if size == 1:
        return torch.zeros_like(place)
    place = place.remainder(2 * size - 2)
    return torch.minimum(place, 2 * size - 2 - place)
