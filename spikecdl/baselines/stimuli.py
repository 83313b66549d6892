"""Stimuli of a GLM: signals in the bins of counts.

A stimulus is a function that takes counts and returns an array (signal, trial, unit, bin); an axis
along which it does not change may have length 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from spikecdl.data import BinnedSpikes

Stimulus = Callable[[BinnedSpikes], np.ndarray]

_SLACK = 1e-6  # of a bin, by which a time may lie before its edge


def onsets(times: Any) -> Stimulus:
    """Make a stimulus of onsets at the same times in each trial.

    Parameters
    ----------
    times : array_like, shape (onset,)
        Relative to what trials are aligned to, in seconds.

    Returns
    -------
    callable
        Gives the number of onsets in each bin.

    Raises
    ------
    ValueError
        If times are not finite; when called, if one lies outside the windows of the counts.

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
        place = np.floor((when - counts.t_start) / counts.bin_size + _SLACK).astype(int)
        outside = (place < 0) | (place >= counts.n_bins)
        if outside.any():
            raise ValueError(
                f"`times` (={when[outside][0]:g} s among them) must lie in the windows of the "
                f"counts, from {counts.t_start:g} to {counts.t_start + counts.duration:g} s"
            )
        return np.bincount(place, minlength=counts.n_bins).astype(float)[None, None, None]

    return stimulus


def true_onsets(counts: BinnedSpikes) -> np.ndarray:
    """Return, as a stimulus, the events of simulated counts: one signal for each template.

    Each event has its amplitude relative to the mean of its template's amplitudes.

    Parameters
    ----------
    counts : BinnedSpikes
        Simulated in the shared layout.

    Raises
    ------
    ValueError
        If the counts hold no truth of the shared layout.

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
    place = np.floor(events["time"] / counts.bin_size + _SLACK).astype(int)
    typical = events.groupby("template")["amplitude"].mean()
    signal = np.zeros((len(truth.templates), *counts.shape))
    np.add.at(signal, (template, trial, unit, place), events["amplitude"] / template.map(typical))
    return signal


def as_stimulus(values: Any) -> Stimulus:
    """Return the stimulus that an argument is, or the signal (..., bin) that it holds."""
    if callable(values):
        return values
    array = np.asarray(values, dtype=float)
    if not array.ndim or not np.isfinite(array).all():
        raise ValueError("`stimulus` must hold a finite number for each bin, or be a function")
    return lambda counts: array.reshape((1,) * (4 - array.ndim) + array.shape)


def sampled(stimulus: Stimulus, counts: BinnedSpikes) -> np.ndarray:
    """Return a stimulus of counts, shape (signal, trial, unit, bin).

    Raises
    ------
    ValueError
        If its shape does not fit the counts.
    """
    signal = stimulus(counts)
    try:
        return np.broadcast_to(signal, (len(signal), *counts.shape))
    except ValueError:
        raise ValueError(
            f"`stimulus` (shape {signal.shape}) must broadcast to (signal, trial, unit, bin) = "
            f"{(len(signal), *counts.shape)}"
        ) from None
