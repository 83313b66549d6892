"""Large images a tile at a time, each with all that reaches into it: the result of the whole."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from spikecdl.denoise.images import mirrored

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


_LOWEST = 0.01
_WIDTH = 2.0  # pixels, of the smoothing that makes rates of counts
_SHARE = 0.999  # of pixels are not above the peak, but for noise


def estimate_peak(counts: np.ndarray) -> float:
    """Return about the largest expected count: a high quantile of the smoothed counts.

    Less one standard deviation of the noise that the smoothing leaves there.

    Parameters
    ----------
    counts : ndarray, shape (row, column)

    Returns
    -------
    float
        Not below 0.01, also where nothing was counted.

    Examples
    --------
    >>> counts = np.random.default_rng(0).poisson(4.0, (64, 64))
    >>> 3.5 < estimate_peak(counts) < 5
    True
    """
    from scipy.ndimage import gaussian_filter

    smooth = gaussian_filter(np.asarray(counts, float), _WIDTH, mode="reflect")
    highest = float(np.quantile(smooth, _SHARE))
    left = math.sqrt(highest / (4 * math.pi)) / _WIDTH
    return max(highest - left, _LOWEST)


_MUCH = 2.0  # times the light that a network knows


class UnusualLightWarning(UserWarning):
    """An image has much more or less light than a network was trained for."""


def in_known_light(
    rate: Callable[[Tensor, float], Tensor], counts: Tensor, peak: float, known: Sequence[float]
) -> Tensor:
    """Return expected counts by a network that is shown about as much light as it knows.

    Brighter counts are scaled down to the largest peak, and expected counts up: less noisy than
    the network takes them for, they come out smoother than they need be.  Counts of half the
    smallest peak or less are summed over squares of pixels, and expected counts interpolated.

    Parameters
    ----------
    rate : callable
        From counts (row, column) and their peak to expected counts.
    counts : tensor, shape (row, column)
    peak : float
        Largest expected count.
    known : sequence of float
        Peaks of training.

    Warns
    -----
    UnusualLightWarning
        If the peak is more than twice the largest known, or pixels are summed.
    """
    if peak > max(known):
        if peak > _MUCH * max(known):
            warnings.warn(
                f"`peak` (={peak:.3g}) is above {max(known):g} counts, the most that these weights "
                "were trained for: the result is smoother than it need be; denoise.VST may do "
                "better there",
                UnusualLightWarning,
                stacklevel=2,
            )
        scale = max(known) / peak
        return rate(counts * scale, max(known)) / scale
    side = math.ceil(math.sqrt(min(known) / _MUCH / peak))
    if side <= 1:
        return rate(counts, peak)
    warnings.warn(
        f"`peak` (={peak:.3g}) is below {min(known):g} counts, the least that these weights were "
        f"trained for: counts are summed over squares of {side} x {side} pixels",
        UnusualLightWarning,
        stacklevel=2,
    )
    rows, columns = (-(-size // side) * side for size in counts.shape)
    whole = mirrored(counts, (0, 0), (rows, columns))
    summed = F.avg_pool2d(whole[None], side)[0] * side**2
    found = rate(summed, peak * side**2) / side**2
    fine = F.interpolate(found[None, None], scale_factor=side, mode="bilinear")[0, 0]
    return fine[: counts.shape[0], : counts.shape[1]]


def clean_image(image: Any, number: int) -> torch.Tensor:
    """Return a clean image with a largest value of 1.

    Parameters
    ----------
    image : array_like, shape (row, column)
    number : int
        By which an error names it.

    Raises
    ------
    ValueError
        If it is empty, all zero, or a value is negative or not finite.
    """
    values = np.asarray(image, dtype=np.float32)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(
            f"`images`: image {number} (shape {values.shape}) must have the axes (row, column), "
            "none empty"
        )
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() > 0):
        raise ValueError(
            f"`images`: image {number} has values from {values.min():g} to {values.max():g}; they "
            "must be finite, not negative and not all zero"
        )
    return torch.tensor(values / values.max())


def checked_counts(counts: Any, stacks: bool = False) -> np.ndarray:
    """Return counts as an array.

    Parameters
    ----------
    counts : array_like, shape (row, column), or (frame, row, column)
    stacks : bool
        Whether the latter is allowed.

    Raises
    ------
    TypeError
        If they are not numbers.
    ValueError
        If there are no pixels, or one is not a whole number of 0 or more.
    """
    values = np.asarray(counts)
    if values.dtype.kind not in "biuf":
        raise TypeError(f"`counts` (of {values.dtype}) must be numbers")
    if values.ndim != 2 and not (stacks and values.ndim == 3):
        needed = "(row, column) or (frame, row, column)" if stacks else "(row, column), one frame"
        raise ValueError(f"`counts` (shape {values.shape}) must have the axes {needed}")
    if 0 in values.shape[-2:]:
        raise ValueError(f"`counts` (shape {values.shape}) has no pixels")
    wrong = ~np.isfinite(values) | (values < 0) | (values != np.floor(values))
    if wrong.any():
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(
            f"`counts` (={values[place]} at {place}) must be whole numbers of photons, 0 or more; "
            "subtract the detector's offset and divide by its gain"
        )
    return values


def summed(counts: np.ndarray, size: int) -> np.ndarray:
    """Return sums over squares; the image is mirrored where the last ones reach beyond it."""
    if size == 1:
        return counts
    whole = np.pad(counts, [(0, -side % size) for side in counts.shape], mode="symmetric")
    rows, columns = whole.shape
    return whole.reshape(rows // size, size, columns // size, size).sum((1, 3))
