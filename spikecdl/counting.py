"""Counting the spikes of all units in all windows, some trials at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from spikecdl.binned import blocks
from spikecdl.binning import Clock, count_spikes, observed_bins

#: Gives an array of zeros, by its name, shape and dtype, in memory or in a file.
Allocate = Callable[[str, tuple[int, ...], Any], np.ndarray]


class Counting:
    """Spikes and observed intervals of units, and windows in which the spikes are to be counted.

    Parameters
    ----------
    times : sequence of ndarray
        Sorted spike times of each unit, in seconds.
    observed : sequence of ndarray, shape (interval, 2)
        Observed intervals of each unit, in seconds.
    starts : ndarray, shape (trial,)
        Where windows begin, in seconds.
    n_bins : ndarray, shape (trial,)
        Bins of each window.
    clock : Clock
    """

    def __init__(
        self,
        times: Sequence[np.ndarray],
        observed: Sequence[np.ndarray],
        starts: np.ndarray,
        n_bins: np.ndarray,
        clock: Clock,
    ) -> None:
        self._spikes = [clock.ticks(spikes) for spikes in times]
        self._names = [rows.tobytes() for rows in observed]
        # units often share their observed intervals
        self._intervals = {rows.tobytes(): clock.ticks(rows) for rows in observed}
        self._starts, self._n_bins, self._clock = clock.ticks(starts), n_bins, clock
        self._shape = (len(starts), len(times), int(n_bins.max()))

    def __call__(self, allocate: Allocate, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return counts and mask, both (trial, unit, bin)."""
        n_trials, _, longest = self._shape
        some_trials = [trials for trials, _ in blocks((n_trials, 1, longest))]
        whole = all(
            bins.shape[1] == longest and bins.all()
            for trials in some_trials
            for bins in self._observed(trials).values()
        )
        counts = allocate("counts", self._shape, dtype)
        mask = np.broadcast_to(True, self._shape) if whole else allocate("mask", self._shape, bool)
        for trials in some_trials:
            observed, windows = self._observed(trials), self._windows(trials)
            for unit, (spikes, name) in enumerate(zip(self._spikes, self._names, strict=True)):
                seen = observed[name]
                here = (trials, unit, slice(0, seen.shape[1]))
                counts[here] = count_spikes(spikes, *windows) * seen
                if not whole:
                    mask[here] = seen
        return counts, mask

    @property
    def smallest_dtype(self) -> Any:
        """Integers, of 16 bits at the least, that hold any count."""
        width = -(-self._clock.width.numerator // self._clock.width.denominator)
        most = [
            (np.searchsorted(ticks, ticks + width) - np.arange(len(ticks))).max(initial=0)
            for ticks in self._spikes
        ]
        return np.int16 if max(most) < 2**15 else np.int32

    def _observed(self, trials: slice) -> dict[bytes, np.ndarray]:
        """Return the bins (trial, bin) that lie in each of the lists of observed intervals."""
        windows = self._windows(trials)
        return {name: observed_bins(rows, *windows) for name, rows in self._intervals.items()}

    def _windows(self, trials: slice) -> tuple[np.ndarray, np.ndarray, Clock]:
        return self._starts[trials], self._n_bins[trials], self._clock
