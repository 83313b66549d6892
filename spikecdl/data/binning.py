"""Exact binning: seconds become whole ticks of a clock once, and bins are found with integers.

In floating point, ``floor(t / bin_size)`` puts spikes that lie on a bin edge, as those of a sampled
recording often do, in the wrong bin.  Here a time becomes the tick nearest to ``t * rate``, a bin
width becomes an exact fraction of ticks ``num / den``, and a spike ``d`` ticks after the window's
start lies in bin ``floor(d * den / num)``, computed with integers only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import lcm, prod
from typing import Any

import numpy as np

from spikecdl.data.binned import blocks
from spikecdl.data.times import in_ranges, union
from spikecdl.validation import positive, seconds

COMMON_RATES = (
    *(1000.0, 2000.0, 10000.0, 20000.0, 24414.0625, 25000.0, 30000.0),
    *(32000.0, 32768.0, 40000.0, 48000.0, 48828.125, 50000.0, 1e6),
)
"""Sampling rates (Hz) that `infer_clock_rate` tries, in this order."""


def size_in_seconds(bin_size: float | str) -> float:
    """Return a bin size in seconds; see `SpikeTrains.bin`."""
    size = seconds("bin_size", bin_size)
    if size >= 1 and not str(bin_size).endswith("s"):
        raise ValueError(
            f"`bin_size` (={size:g}) looks like milliseconds; give {size / 1000:g}, or '{size:g}s' "
            "if you mean seconds"
        )
    return size


@dataclass(frozen=True)
class Clock:
    """Ticks per second, and ticks per bin, as exact fractions.

    Examples
    --------
    >>> clock = Clock.for_bins(1 / 30, 30000.0, [])
    >>> clock.rate, clock.width
    (Fraction(30000, 1), Fraction(1000, 1))
    >>> clock.bins(clock.ticks([0.0, 1 / 30, 0.1]))
    array([0, 1, 3])
    """

    rate: Fraction
    width: Fraction

    @classmethod
    def for_bins(
        cls,
        bin_size: float,
        clock_rate: float | None,
        times: Sequence[np.ndarray],
        fine: int = 10**9,
        largest: int = 2**62,
    ) -> Clock:
        """Choose the clock on which bins of ``bin_size`` seconds are counted.

        It is the recording's own clock if that is known, all ``times`` are on it and integers
        cannot overflow: tick numbers times the denominator of the bin width are below ``largest``.
        Otherwise it has about ``fine`` ticks per second, and the bin width (where possible, every
        whole microsecond) is a whole number of ticks.
        """
        size = Fraction(positive("bin_size", bin_size, "seconds")).limit_denominator(10**9)
        if size <= 0:
            raise ValueError(f"`bin_size` (={bin_size!r}) must be at least 1e-9, in seconds")
        latest = max((float(np.abs(t).max()) for t in times if t.size), default=0.0)
        if clock_rate is not None and all(on_clock(t, clock_rate).all() for t in times):
            rate = Fraction(clock_rate).limit_denominator(10**6)
            clock = cls(rate, size * rate)
            if latest * rate * clock.width.denominator < largest:
                return clock
        step = lcm(size.denominator, 10**6)
        step = step if step <= 10 * fine else size.denominator
        rate = Fraction(step * -(-fine // step))
        if latest * rate >= largest:
            raise ValueError(f"a time of {latest:g} is too large to be binned; give seconds")
        return cls(rate, size * rate)

    def ticks(self, times: np.ndarray | Sequence[float]) -> np.ndarray:
        """Return times in seconds as the nearest whole ticks (int64)."""
        # rint rounds halves to even, and would move times apart that are whole bins apart
        ticks = np.asarray(times, dtype=float) * float(self.rate)
        return np.floor(ticks + 0.5).astype(np.int64)

    def bins(self, ticks: np.ndarray) -> np.ndarray:
        """Return the bin that each tick (counted from the window's start) lies in, rounded down."""
        return ticks * self.width.denominator // self.width.numerator


def on_clock(times: np.ndarray, clock_rate: float) -> np.ndarray:
    """Return which times (s) are a whole number of ticks, up to rounding of the float."""
    ticks = np.asarray(times, dtype=float) * clock_rate
    return np.abs(ticks - np.rint(ticks)) <= 1e-3 + 4 * np.spacing(np.abs(ticks))


def infer_clock_rate(
    times: Iterable[np.ndarray], share: float = 1.0, most: int = 2000
) -> float | None:
    """Return the first of `COMMON_RATES` (Hz) on whose ticks a sample of all units' spikes lies.

    None if there are no spikes, or no rate fits this ``share`` of them.  The sample has about
    ``most`` spikes.

    Examples
    --------
    >>> infer_clock_rate([np.array([0.0005, 0.0015, 0.1025])])
    2000.0
    """
    merged = np.concatenate([np.asarray(t, dtype=float) for t in times] or [np.empty(0)])
    sample = merged[:: max(1, merged.size // most)]
    if sample.size == 0:
        return None
    return next((r for r in COMMON_RATES if np.mean(on_clock(sample, r)) >= share), None)


def count_spikes(
    ticks: np.ndarray, starts: np.ndarray, n_bins: np.ndarray, clock: Clock
) -> np.ndarray:
    """Count one unit's spikes in the bins of each window: (trial, max(n_bins)).

    ``ticks`` are sorted spike times; ``starts`` and ``n_bins`` are the first tick and the number of
    bins of each window (trial,).  Windows may overlap.
    """
    longest = int(n_bins.max())
    stops = starts + _first_tick(n_bins, clock)
    spike, trial = in_ranges(np.searchsorted(ticks, starts), np.searchsorted(ticks, stops))
    index = trial * longest + clock.bins(ticks[spike] - starts[trial])
    return np.bincount(index, minlength=starts.size * longest).reshape(starts.size, longest)


def observed_bins(
    intervals: np.ndarray, starts: np.ndarray, n_bins: np.ndarray, clock: Clock
) -> np.ndarray:
    """Return which bins of each window lie wholly inside observed intervals: (trial, max(n_bins)).

    ``intervals`` (interval, 2) of one unit are sorted and disjoint, in ticks; ones that touch count
    as one.  The others are as in `count_spikes`.
    """
    longest = int(n_bins.max())
    edges = np.zeros((starts.size, longest + 1), dtype=np.int32)
    first, last = union(intervals).T
    stops = starts + _first_tick(n_bins, clock)
    which, trial = in_ranges(np.searchsorted(last, starts), np.searchsorted(first, stops))
    begin = np.clip(-clock.bins(starts[trial] - first[which]), 0, None)
    end = np.minimum(clock.bins(last[which] - starts[trial]), n_bins[trial])
    whole = end > begin
    np.add.at(edges, (trial[whole], begin[whole]), 1)
    np.add.at(edges, (trial[whole], end[whole]), -1)
    return edges.cumsum(axis=1)[:, :-1] > 0


def check_size(
    shape: tuple[int, int, int],
    times: Sequence[np.ndarray],
    starts: np.ndarray,
    durations: np.ndarray,
    most_bins: int = 2**27,
    bins_per_spike: int = 10_000,
) -> None:
    """Raise if there are far more bins than spikes, as a few damaged times can ask for.

    ``shape`` is (trial, unit, bin); spikes count once for each of the windows (trial,), all in
    seconds, that they are in.  There may be ``most_bins``, and ``bins_per_spike`` more for each.
    """
    inside = (np.searchsorted(t, starts + durations) - np.searchsorted(t, starts) for t in times)
    asked = prod(shape) + sum(int(number.sum()) for number in inside)
    n_spikes = sum(t.size for t in times)
    most = most_bins + bins_per_spike * n_spikes
    if asked > most:
        raise ValueError(
            f"{shape[0]} windows of {shape[2]} bins are too many for {n_spikes} spikes of "
            f"{shape[1]} units ({asked:.3g} numbers, above the limit of {most:.3g}); check the "
            "times, or use larger bins or fewer trials or units"
        )


def holds_two_spikes(
    times: np.ndarray, starts: np.ndarray, durations: np.ndarray, clock: Clock
) -> bool:
    """Return whether some bin of windows (trial,) holds two spikes of a unit; all in seconds."""
    ticks, first = clock.ticks(times), clock.ticks(starts)
    close = np.flatnonzero(np.diff(ticks) * clock.width.denominator < clock.width.numerator)
    one, other = ticks[close], ticks[close + 1]
    stops = first + _first_tick(clock.bins(clock.ticks(durations)), clock)
    pair, trial = in_ranges(np.searchsorted(one, first), np.searchsorted(one, stops))
    bins = (clock.bins(spikes[pair] - first[trial]) for spikes in (one, other))
    return bool(np.equal(*bins).any())


def _first_tick(bins: np.ndarray, clock: Clock) -> np.ndarray:
    """Return the first whole tick that is not before the left edge of each bin."""
    return -(-bins.astype(np.int64) * clock.width.numerator // clock.width.denominator)


#: Makes an array of zeros of this name, shape and dtype, in memory or in a file.
Allocate = Callable[[str, tuple[int, ...], Any], np.ndarray]


def bin_spikes(
    times: Sequence[np.ndarray],
    observed: Sequence[np.ndarray],
    starts: np.ndarray,
    n_bins: np.ndarray,
    clock: Clock,
    allocate: Allocate,
    dtype: Any = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Count the spikes of all units in all windows; return counts and mask (trial, unit, bin).

    ``times`` (spike,) and ``observed`` (interval, 2) of each unit and ``starts`` (trial,) of the
    windows are in seconds; ``n_bins`` (trial,) are the windows' bins.  Without a ``dtype``, counts
    are int16 if that holds them, else int32.
    """
    spikes = [clock.ticks(unit) for unit in times]
    first_ticks = clock.ticks(starts)
    # keyed by content, because units often share their observed intervals
    names = [rows.tobytes() for rows in observed]
    intervals = {rows.tobytes(): clock.ticks(rows) for rows in observed}
    if dtype is None:
        width = -(-clock.width.numerator // clock.width.denominator)
        # spikes within a bin's width of each, itself included
        near = [np.searchsorted(ticks, ticks + width) - np.arange(len(ticks)) for ticks in spikes]
        dtype = np.int16 if max(n.max(initial=0) for n in near) < 2**15 else np.int32
    shape = (len(starts), len(times), int(n_bins.max()))
    counts, mask = allocate("counts", shape, dtype), None
    for trials, _ in blocks((shape[0], 1, shape[2])):
        windows = first_ticks[trials], n_bins[trials], clock
        seen_in = {name: observed_bins(rows, *windows) for name, rows in intervals.items()}
        for unit, name in enumerate(names):
            seen = seen_in[name]
            here = (trials, unit, slice(0, seen.shape[1]))
            counts[here] = count_spikes(spikes[unit], *windows) * seen
            if mask is None and not (seen.shape[1] == shape[2] and seen.all()):
                mask = allocate("mask", shape, bool)
                mask[: trials.start] = mask[trials, :unit] = True  # all bins before this one
            if mask is not None:
                mask[here] = seen
    return counts, np.broadcast_to(True, shape) if mask is None else mask
