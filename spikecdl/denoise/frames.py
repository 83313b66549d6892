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

from spikecdl.denoise.networks import mirrored

_AXES = ("frame", "row", "column")
_PHOTONS = (
    "whole numbers of photons, 0 or more; subtract the detector's offset and divide by its gain"
)


class UnusualLightWarning(UserWarning):
    """An image has much more or less light than a network was trained for."""


def checked(
    name: str, values: Any, axes: Sequence[int] = (2, 3), whole: bool = False
) -> np.ndarray:
    """Return pixels (row, column) or (frame, row, column) as an array, if they can be light.

    ``axes`` are the numbers of axes that are allowed.  Raises TypeError if values are not numbers,
    and ValueError for other axes, if there are no pixels, or if one is negative, not finite or, if
    ``whole``, not a whole number.
    """
    pixels = np.asarray(values)
    if pixels.dtype.kind not in "biuf":
        raise TypeError(f"`{name}` (of {pixels.dtype}) must be real numbers")
    if pixels.ndim not in axes or 0 in pixels.shape[-2:]:
        needed = " or ".join(f"({', '.join(_AXES[-number:])})" for number in axes)
        raise ValueError(
            f"`{name}` (shape {pixels.shape}) must have the axes {needed} and at least one pixel"
        )
    wrong = ~np.isfinite(pixels) | (pixels < 0)
    if whole:
        wrong |= pixels != np.floor(pixels)
    if wrong.any():
        place = tuple(np.argwhere(wrong)[0])
        where = ", ".join(
            f"{axis} {i}" for axis, i in zip(_AXES[-len(place) :], place, strict=True)
        )
        needed = _PHOTONS if whole else "finite and not negative"
        raise ValueError(f"`{name}` (={pixels[place]} at {where}) must be {needed}")
    return pixels


class FrameDenoiser(BaseEstimator):
    """A method that denoises a single frame and learns nothing from others, so it has no fit."""

    def predict(self, counts: Any) -> np.ndarray:
        """Return the expected counts (row, column) of every pixel.

        Parameters
        ----------
        counts : array_like, shape (row, column)
            Photons per pixel.

        Raises
        ------
        ValueError, TypeError
            If a count is not a whole number of 0 or more, or a setting does not suit the image.
        """
        return self._rates(checked("counts", counts, axes=(2,), whole=True).astype(float))

    @abstractmethod
    def _rates(self, counts: np.ndarray) -> np.ndarray:
        """Return the expected counts (row, column) of a frame."""


def clean_image(image: Any, number: int) -> Tensor:
    """Return a clean image (row, column), scaled to a largest value of 1; see `checked`.

    ``number`` names the image in errors.
    """
    name = f"images[{number}]"
    values = checked(name, np.asarray(image, np.float32), axes=(2,))
    if not values.any():
        raise ValueError(f"`{name}` must not be all zero")
    return torch.tensor(values / values.max())


def summed(counts: np.ndarray, size: int) -> np.ndarray:
    """Return sums over squares of pixels; the image is mirrored where the last ones exceed it."""
    whole = np.pad(counts, [(0, -side % size) for side in counts.shape], mode="symmetric")
    rows, columns = whole.shape
    return whole.reshape(rows // size, size, columns // size, size).sum((1, 3))


def interpolated(image: Tensor, factor: int) -> Tensor:
    """Return an image (row, column), enlarged by linear interpolation between its pixels."""
    return F.interpolate(image[None, None], scale_factor=factor, mode="bilinear")[0, 0]


def estimate_peak(counts: np.ndarray) -> float:
    """Estimate the largest expected count of an image (row, column), at least 0.01.

    It is the 99.9 % quantile of the counts, smoothed by a Gaussian window two pixels wide, less one
    standard deviation of the noise that remains after smoothing.

    Examples
    --------
    >>> counts = np.random.default_rng(0).poisson(4.0, (64, 64))
    >>> 3.5 < estimate_peak(counts) < 5
    True
    """
    from scipy.ndimage import gaussian_filter

    width = 2.0
    smooth = gaussian_filter(np.asarray(counts, float), width, mode="reflect")
    highest = float(np.quantile(smooth, 0.999))
    noise = math.sqrt(highest / (4 * math.pi)) / width
    return max(highest - noise, 0.01)


def in_known_light(
    rate: Callable[[Tensor, float], Tensor], counts: Tensor, peak: float, known: Sequence[float]
) -> Tensor:
    """Return the expected counts of a network, which is shown about as much light as it knows.

    Brighter counts are scaled down to the largest known peak, and expected counts scaled up again.
    Scaled counts are less noisy than the network assumes, so the result is smoother than necessary.
    Counts of at most half the smallest known peak are summed over squares of pixels, and expected
    counts are interpolated.

    ``rate`` returns expected counts, given counts (row, column) and their peak; ``known`` are the
    peaks of training.  Warns if the peak is more than twice the largest known one, or pixels are
    summed.
    """
    brightest, darkest = max(known), min(known)
    if peak > brightest:
        if peak > 2 * brightest:
            message = (
                f"`peak` (={peak:.3g}) is above {brightest:g} counts, the most that these weights "
                "were trained for: the result is smoother than necessary; denoise.VST may be better"
            )
            warnings.warn(message, UnusualLightWarning, stacklevel=2)
        scale = brightest / peak
        return rate(counts * scale, brightest) / scale
    side = math.ceil(math.sqrt(darkest / 2 / peak))
    if side <= 1:
        return rate(counts, peak)
    message = (
        f"`peak` (={peak:.3g}) is below {darkest:g} counts, the least that these weights were "
        f"trained for: counts are summed over squares of {side} x {side} pixels"
    )
    warnings.warn(message, UnusualLightWarning, stacklevel=2)
    whole = mirrored(counts, (0, 0), [-(-size // side) * side for size in counts.shape])
    sums = F.avg_pool2d(whole[None], side)[0] * side**2
    fine = interpolated(rate(sums, peak * side**2) / side**2, side)
    return fine[: counts.shape[0], : counts.shape[1]]
