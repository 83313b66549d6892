"""Frames of counts: checks, sums over squares, the peak, and more or less light than is known."""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.base import BaseEstimator
from torch import Tensor

from spikecdl.denoise.network import mirrored

_LOWEST = 0.01  # counts, of an estimated peak
_WIDTH = 2.0  # pixels, of the smoothing that turns counts into rates
_SHARE = 0.999  # of pixels lie below the peak, but for noise
_MUCH = 2.0  # times the light that a network knows


class UnusualLightWarning(UserWarning):
    """An image has much more or less light than a network was trained for."""


def checked_counts(counts: Any, stacks: bool = False) -> np.ndarray:
    """Return counts (row, column), or (frame, row, column) if ``stacks``, as an array.

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


class FrameDenoiser(BaseEstimator):
    """A method that denoises a single frame and learns nothing from others, so it has no fit."""

    def predict(self, counts: Any) -> np.ndarray:
        """Return the expected counts of every pixel.

        Parameters
        ----------
        counts : array_like, shape (row, column)
            Photons per pixel.

        Returns
        -------
        ndarray, shape (row, column)

        Raises
        ------
        ValueError
            If a count is negative, not whole or not finite, the image is too small, or a setting
            is out of range.
        TypeError
            If the counts are not numbers.
        """
        return self._rates(checked_counts(counts).astype(float))

    @abstractmethod
    def _rates(self, counts: np.ndarray) -> np.ndarray:
        """Return the expected counts (row, column) of a frame."""


def clean_image(image: Any, number: int) -> Tensor:
    """Return a clean image (row, column), scaled to a largest value of 1.

    ``number`` names the image in errors.

    Raises
    ------
    ValueError
        If it is empty or all zero, or a value is negative or not finite.
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


def summed(counts: np.ndarray, size: int) -> np.ndarray:
    """Return sums over squares of pixels; the image is mirrored where the last ones exceed it."""
    whole = np.pad(counts, [(0, -side % size) for side in counts.shape], mode="symmetric")
    rows, columns = whole.shape
    return whole.reshape(rows // size, size, columns // size, size).sum((1, 3))


def estimate_peak(counts: np.ndarray) -> float:
    """Estimate the largest expected count of an image.

    It is a high quantile of the smoothed counts, less one standard deviation of the noise that
    remains after smoothing.

    Parameters
    ----------
    counts : ndarray, shape (row, column)

    Returns
    -------
    float
        At least 0.01, also where nothing was counted.

    Examples
    --------
    >>> counts = np.random.default_rng(0).poisson(4.0, (64, 64))
    >>> 3.5 < estimate_peak(counts) < 5
    True
    """
    from scipy.ndimage import gaussian_filter

    smooth = gaussian_filter(np.asarray(counts, float), _WIDTH, mode="reflect")
    highest = float(np.quantile(smooth, _SHARE))
    noise = math.sqrt(highest / (4 * math.pi)) / _WIDTH
    return max(highest - noise, _LOWEST)


def in_known_light(
    rate: Callable[[Tensor, float], Tensor], counts: Tensor, peak: float, known: Sequence[float]
) -> Tensor:
    """Return the expected counts of a network, which is shown about as much light as it knows.

    Brighter counts are scaled down to the largest known peak, and expected counts scaled up again.
    Scaled counts are less noisy than the network assumes, so the result is smoother than necessary.
    Counts of at most half the smallest known peak are summed over squares of pixels, and expected
    counts are interpolated.

    ``rate`` returns expected counts, given counts (row, column) and their peak; ``known`` are the
    peaks of training.

    Warns
    -----
    UnusualLightWarning
        If the peak is more than twice the largest known one, or pixels are summed.
    """
    brightest, darkest = max(known), min(known)
    if peak > brightest:
        if peak > _MUCH * brightest:
            warnings.warn(
                f"`peak` (={peak:.3g}) is above {brightest:g} counts, the most that these weights "
                "were trained for: the result is smoother than necessary; denoise.VST may do "
                "better",
                UnusualLightWarning,
                stacklevel=2,
            )
        scale = brightest / peak
        return rate(counts * scale, brightest) / scale
    side = math.ceil(math.sqrt(darkest / _MUCH / peak))
    if side <= 1:
        return rate(counts, peak)
    warnings.warn(
        f"`peak` (={peak:.3g}) is below {darkest:g} counts, the least that these weights were "
        f"trained for: counts are summed over squares of {side} x {side} pixels",
        UnusualLightWarning,
        stacklevel=2,
    )
    rows, columns = (-(-size // side) * side for size in counts.shape)
    whole = mirrored(counts, (0, 0), (rows, columns))
    sums = F.avg_pool2d(whole[None], side)[0] * side**2
    found = rate(sums, peak * side**2) / side**2
    fine = F.interpolate(found[None, None], scale_factor=side, mode="bilinear")[0, 0]
    return fine[: counts.shape[0], : counts.shape[1]]
