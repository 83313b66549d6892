"""Basis functions of a GLM's responses, and the stimuli that it responds to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.interpolate import BSpline

from spikecdl import validation
from spikecdl.data import BinnedSpikes
from spikecdl.model.covariates import raised_cosines


def _raised_cosines(time: np.ndarray, size: int) -> np.ndarray:
    return raised_cosines(torch.from_numpy(time), float(time[-1]), size).numpy().T


def _b_splines(n_bins: int, size: int) -> np.ndarray:
    degree = min(3, size - 1)
    inner = np.linspace(0, n_bins - 1, size - degree + 1)
    knots = np.pad(inner, degree, mode="edge")
    return BSpline.design_matrix(np.arange(n_bins, dtype=float), knots, degree).toarray()


#: Functions of the numbers of bins and of basis functions, by name.
SHAPES: Mapping[str, Callable[[int, int], np.ndarray]] = {
    "raised_cosine": lambda n_bins, size: _raised_cosines(np.arange(float(n_bins)), size),
    "log_cosine": lambda n_bins, size: _raised_cosines(np.log(np.arange(n_bins) + 1.0), size),
    "b_spline": _b_splines,
}


@dataclass(frozen=True)
class Basis:
    """Functions whose weighted sum is a response.

    Parameters
    ----------
    length : float
        Duration of the response in seconds, a whole number of bins.
    size : int, optional
        Number of functions, 2 or more; None: one per bin, so that any response is possible.
    shape : {"raised_cosine", "log_cosine", "b_spline"}
        Shape of the functions, unless there is one per bin: raised cosines, evenly spaced from the
        first to the last bin and four times as wide as their spacing; the same in the logarithm of
        time, narrow at first, where a unit's response to its own spikes changes most (Pillow et
        al., J. Neurosci. 25, 2005, doi:10.1523/JNEUROSCI.3305-05.2005); or B-splines that sum to 1,
        cubic if there are four or more.

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
        validation.positive("length", self.length, "seconds")
        validation.one_of("shape", self.shape, SHAPES)
        if self.size is not None:
            validation.integer("size", self.size, minimum=2)

    def functions(self, bin_size: float) -> np.ndarray:
        """Return the functions, shape (bin, function).

        Raises ValueError if the length is not a whole number of bins, or too short for them.
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


Stimulus = Callable[[BinnedSpikes], np.ndarray]


def onsets(times: Any) -> Stimulus:
    """Make a stimulus of onsets at the same times in each trial.

    The stimulus is the number of onsets in each bin of the counts for which it is called; it raises
    ValueError if one lies outside their windows.

    Parameters
    ----------
    times : array_like, shape (onset,)
        Finite, in seconds from the time to which trials are aligned.

    Examples
    --------
    >>> counts = BinnedSpikes.from_array([[0, 1, 1, 0]], bin_size=0.5)
    >>> onsets([0.5, 1.5])(counts)
    array([[[[0., 1., 0., 1.]]]])
    """
    when = np.atleast_1d(np.asarray(times, dtype=float))
    if when.ndim != 1 or not np.isfinite(when).all():
        raise ValueError("`times` must be finite numbers of shape (onset,), in seconds")

    def stimulus(counts: BinnedSpikes) -> np.ndarray:
        bins = _bins(when - counts.t_start, counts)
        outside = (bins < 0) | (bins >= counts.n_bins)
        if outside.any():
            raise ValueError(
                f"`times` (={when[outside][0]:g} s among them) must lie in the windows of the "
                f"counts, from {counts.t_start:g} to {counts.t_start + counts.duration:g} s"
            )
        return np.bincount(bins, minlength=counts.n_bins).astype(float)[None, None, None]

    return stimulus


def true_onsets(counts: BinnedSpikes) -> np.ndarray:
    """Return the events of simulated counts as a stimulus, with one signal per template.

    The value at an onset is the amplitude of the event over the mean amplitude of its template.
    Raises ValueError if the counts were not simulated in the shared layout.

    Examples
    --------
    >>> from spikecdl.simulate import simulate
    >>> counts = simulate("poisson", ["vee"], n_trials=4, n_units=2, n_events=3, random_state=0)
    >>> true_onsets(counts).shape, int((true_onsets(counts) > 0).sum())
    ((1, 4, 2, 2000), 24)
    """
    truth = counts.truth
    if truth is None or truth.layout != "shared":
        raise ValueError(
            "`counts` hold no truth of the shared layout; simulate them, or give the times to "
            "`onsets`"
        )
    events = truth.events
    template, trial, unit = (events[name] for name in ("template", "trial", "unit"))
    typical = events.groupby("template")["amplitude"].mean()
    signal = np.zeros((len(truth.templates), *counts.shape))
    at = (template, trial, unit, _bins(events["time"], counts))
    np.add.at(signal, at, events["amplitude"] / template.map(typical))
    return signal


def _bins(seconds: Any, counts: BinnedSpikes) -> np.ndarray:
    """Return the bins of times from the start of the window, which may lie 1e-6 bin too early."""
    return np.floor(np.asarray(seconds) / counts.bin_size + 1e-6).astype(int)


def sampled(values: Any, counts: BinnedSpikes) -> np.ndarray:
    """Return a stimulus of counts, (signal, trial, unit, bin), from a `Stimulus` or (..., bin)."""
    if callable(values):
        signal = values(counts)
    else:
        signal = np.asarray(values, dtype=float)
        if not signal.ndim or not np.isfinite(signal).all():
            raise ValueError("`stimulus` must hold a finite number for each bin, or be a function")
        signal = signal.reshape((1,) * (4 - signal.ndim) + signal.shape)
    try:
        return np.broadcast_to(signal, (len(signal), *counts.shape))
    except ValueError:
        raise ValueError(
            f"`stimulus` (shape {signal.shape}) must broadcast to (signal, trial, unit, bin) = "
            f"{(len(signal), *counts.shape)}"
        ) from None
