"""A network on every shift of its stride's grid: what makes its rates smooth."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from spikecdl.denoise.network import ImageAutoencoder

TILE = 504  # pixels along a side that are denoised together, besides their halo


@torch.no_grad()
def log_rate(
    network: ImageAutoencoder, counts: Tensor, tile: int | None = TILE, turned: bool = False
) -> Tensor:
    r"""Return the mean over shifts of what the network says of counts.

    .. math:: \bar\eta = \frac{1}{s^2} \sum_{i,j=0}^{s-1} S_{ij}^{-1}\, \eta(S_{ij}\, y)

    where :math:`S_{ij}` moves the image by i rows and j columns on a canvas filled by reflection,
    and s is the stride (the source averages log rates too).

    Parameters
    ----------
    network : ImageAutoencoder
    counts : tensor, shape (row, column)
    tile : int, optional
        Larger images are cut into tiles of so many pixels, which are denoised with all that
        reaches into them, so that the result is that of the whole; None: never.
    turned : bool
        Whether shifts see the image in turn in its eight orientations.

    Returns
    -------
    tensor, shape (row, column)
    """
    baseline = network.baseline(counts[None])
    total = torch.zeros_like(counts)
    shifts = itertools.product(range(network.architecture.stride), repeat=2)
    for number, shift in enumerate(shifts):
        turns, flipped = (number % 4, number % 8 >= 4) if turned else (0, False)
        image = torch.rot90(counts.mT if flipped else counts, turns)
        eta = torch.rot90(_at_shift(network, image, baseline, shift, tile), -turns)
        total += eta.mT if flipped else eta
    return total / network.architecture.stride**2


def _at_shift(
    network: ImageAutoencoder,
    counts: Tensor,
    baseline: Tensor,
    shift: tuple[int, ...],
    tile: int | None,
) -> Tensor:
    padded = network.architecture.padded
    rows, columns = (
        _reflected(size, before, padded(size + network.architecture.stride - 1)).to(counts.device)
        for size, before in zip(counts.shape, shift, strict=True)
    )
    eta = _on_tiles(network, counts[rows[:, None], columns], baseline, tile)
    inside = [slice(i, i + size) for i, size in zip(shift, counts.shape, strict=True)]
    return eta[inside[0], inside[1]]


def _reflected(size: int, before: int, extent: int) -> Tensor:
    """Return which pixel of an image each of a canvas shows: mirrored at the edges."""
    place = torch.arange(extent) - before
    if size == 1:
        return torch.zeros_like(place)
    place = place.remainder(2 * size - 2)
    return torch.minimum(place, 2 * size - 2 - place)


def _on_tiles(
    network: ImageAutoencoder, canvas: Tensor, baseline: Tensor, tile: int | None
) -> Tensor:
    """Return the network's log rates of a canvas, a tile at a time if it is larger than one."""
    if tile is None or max(canvas.shape) <= tile:
        return network.log_rate(canvas[None], baseline)[0]
    eta = torch.empty_like(canvas)
    sides = [list(_spans(network, size, tile)) for size in canvas.shape]
    for (seen_rows, rows), (seen_columns, columns) in itertools.product(*sides):
        part = network.log_rate(canvas[None, seen_rows, seen_columns], baseline)[0]
        inner = [
            slice(own.start - seen.start, own.stop - seen.start)
            for own, seen in ((rows, seen_rows), (columns, seen_columns))
        ]
        eta[rows, columns] = part[inner[0], inner[1]]
    return eta


def _spans(network: ImageAutoencoder, size: int, tile: int) -> list[tuple[slice, slice]]:
    """Return the pixels along a side that each tile sees, of whole strides, and its own."""
    length, stride = network.architecture.length, network.architecture.stride
    step = max(1, tile // stride) * stride
    halo = network.halo
    spans = []
    for first in range(0, size, step):
        begin, end = max(0, first - halo), min(size, first + step + halo + length - stride)
        end -= (end - begin - length) % stride if end < size else 0
        spans.append((slice(begin, end), slice(first, min(first + step, size))))
    return spans
