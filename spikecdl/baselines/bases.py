"""Smooth functions of the time since a stimulus or a spike, of which a GLM makes its responses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import BSpline

from spikecdl import _validation


def raised_cosine(n_bins: int, size: int) -> np.ndarray:
    """Return bumps (bin, function) of one width, at equal distances from the first bin to the last.

    Each is a full turn of a cosine, four times as wide as the distance of two.
    """
    return _bumps(np.arange(n_bins, dtype=float), size)


def log_cosine(n_bins: int, size: int) -> np.ndarray:
    """Return bumps (bin, function) that widen: raised cosines of the logarithm of time.

    Narrow at first, where a unit's response to its own spikes changes most (Pillow et al., J.
    Neurosci. 25, 2005, doi:10.1523/JNEUROSCI.3305-05.2005).
    """
    return _bumps(np.log(np.arange(n_bins) + 1.0), size)


def b_spline(n_bins: int, size: int) -> np.ndarray:
    """Return B-splines (bin, function), cubic unless they are fewer than four; their sum is 1."""
    degree = min(3, size - 1)
    inner = np.linspace(0, n_bins - 1, size - degree + 1)
    knots = np.pad(inner, degree, mode="edge")
    return BSpline.design_matrix(np.arange(n_bins, dtype=float), knots, degree).toarray()


def _bumps(time: np.ndarray, size: int) -> np.ndarray:
    centres = np.linspace(time[0], time[-1], size)
    turn = np.pi / 2 * (time[:, None] - centres) / (centres[1] - centres[0])
    return (1 + np.cos(turn.clip(-np.pi, np.pi))) / 2


#: Shapes of functions by name: functions of the number of bins and of functions.
SHAPES: Mapping[str, Callable[[int, int], np.ndarray]] = {
    "raised_cosine": raised_cosine,
    "log_cosine": log_cosine,
    "b_spline": b_spline,
}


@dataclass(frozen=True)
class Basis:
    """Functions whose weighted sum is a response.

    Parameters
    ----------
    length : float
        How long the response lasts, in seconds; a whole number of bins.
    size : int, optional
        Number of functions, 2 or more; None: one for each bin, so that every response is possible.
    shape : {"raised_cosine", "log_cosine", "b_spline"}
        Of the functions, unless there is one for each bin.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Examples
    --------
    >>> Basis(0.02, size=3, shape="b_spline").functions(bin_size=0.005).round(2)
    array([[1.  , 0.  , 0.  ],
           [0.44, 0.44, 0.11],
           [0.11, 0.44, 0.44],
           [0.  , 0.  , 1.  ]])
    """

    length: float
    size: int | None = 8
    shape: str = "raised_cosine"

    def __post_init__(self) -> None:
        """Check what does not depend on bins."""
        _validation.positive("length", self.length, "seconds")
        _validation.one_of("shape", self.shape, SHAPES)
        if self.size is not None:
            _validation.integer("size", self.size, minimum=2)

    def functions(self, bin_size: float) -> np.ndarray:
        """Return the functions, shape (bin, function).

        Raises
        ------
        ValueError
            If the length is not a whole number of bins, or of fewer bins than there are functions.
        """
        n_bins = round(self.length / bin_size)
        if n_bins < 1 or abs(self.length / bin_size - n_bins) > 1e-6 * n_bins:
            raise ValueError(
                f"`length` (={self.length:g}) must be a whole number of bins of {bin_size:g} s; "
                f"the nearest is {max(n_bins, 1) * bin_size:g}"
            )
        if self.size is None:
            return np.eye(n_bins)
        if self.size > n_bins:
            raise ValueError(
                f"`size` (={self.size}) must be at most the {n_bins} bins of `length` "
                f"(={self.length:g} s); use fewer functions or smaller bins"
            )
        return SHAPES[self.shape](n_bins, self.size)
