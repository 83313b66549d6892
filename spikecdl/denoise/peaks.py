"""The peak of an image: its largest expected count, from the counts alone."""

from __future__ import annotations

import math

import numpy as np

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
