"""A network on every shift of its stride's grid: what makes its rates smooth."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from spikecdl.autoencoder import UnrolledAutoencoder

_TILE = 512  # pixels along a side that are denoised together, besides their halo


@torch.no_grad()
def log_rate(network: UnrolledAutoencoder, counts: Tensor, tile: int | None = _TILE) -> Tensor:
    r"""Return the mean over shifts of what the network says of counts.

    .. math:: \bar\eta = \frac{1}{s^2} \sum_{i,j=0}^{s-1} S_{ij}^{-1}\, \eta(S_{ij}\, y)

    where :math:`S_{ij}` moves the image by i rows and j columns on a canvas filled by reflection,
    and s is the stride (the source averages log rates too).

    Parameters
    ----------
    network : UnrolledAutoencoder
    counts : tensor, shape (row, column)
    tile : int, optional
        Larger images are cut into tiles of so many pixels, which are denoised with all that
        reaches into them, so that the result is that of the whole; None: never.

    Returns
    -------
    tensor, shape (row, column)
    """
    (stride, _), (length, _) = network.dictionary.stride, network.dictionary.support
    extents = [_extent(size, length, stride) for size in counts.shape]
    total = torch.zeros_like(counts)
    for shift in itertools.product(range(stride), repeat=2):
        rows, columns = (
            _reflected(size, before, extent)
            for size, before, extent in zip(counts.shape, shift, extents, strict=True)
        )
        canvas = counts[rows[:, None], columns]
        eta = _on_tiles(network, canvas, tile)
        inside = tuple(slice(i, i + size) for i, size in zip(shift, counts.shape, strict=True))
        total += eta[inside]
    return total / stride**2


def _extent(size: int, length: int, stride: int) -> int:
    """Return the pixels of a canvas for every shift of an image, filled by whole strides."""
    least = max(size + stride - 1, length)
    return least + (length - least) % stride


def _reflected(size: int, before: int, extent: int) -> Tensor:
    """Return which pixel of an image each of a canvas shows: mirrored at the edges."""
    place = torch.arange(extent) - before
    period = max(2 * size - 2, 1)
    place = place.remainder(period)
    return torch.minimum(place, period - place) if size > 1 else torch.zeros_like(place)


def _on_tiles(network: UnrolledAutoencoder, canvas: Tensor, tile: int | None) -> Tensor:
    """Return the network's log rates of a canvas, a tile at a time if it is larger than one."""
    if tile is None or max(canvas.shape) <= tile:
        return network(canvas[None])[1][0]
    stride, length = network.dictionary.stride[0], network.dictionary.support[0]
    step = max(1, tile // stride) * stride
    halo = _halo(network)
    eta = torch.empty_like(canvas)
    for top, left in itertools.product(*(range(0, size, step) for size in canvas.shape)):
        parts, inner = [], []
        for first, size in zip((top, left), canvas.shape, strict=True):
            begin = max(0, first - halo)
            end = min(size, first + step + halo + (length - stride))
            end -= (end - begin - length) % stride if end < size else 0
            last = min(first + step, size)
            parts.append(slice(begin, end))
            inner.append((slice(first, last), slice(first - begin, last - begin)))
        part = network(canvas[tuple(parts)][None])[1][0]
        eta[inner[0][0], inner[1][0]] = part[inner[0][1], inner[1][1]]
    return eta


def _halo(network: UnrolledAutoencoder) -> int:
    """Return how far a pixel's log rate sees: a layer reaches the places that overlap the last.

    The first layer starts from no codes and sees the patch under a place; each of the others sees
    the neighbours whose patches overlap it; the decoder, the places over a pixel.
    """
    stride, length = network.dictionary.stride[0], network.dictionary.support[0]
    neighbours = (length - 1) // stride
    return (neighbours * int(network.encoder.n_unrolled) + -(-length // stride)) * stride
