"""`BinnedSpikes`: counts per trial, unit and bin, with what was not observed marked as such."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from spikecdl.data.labelled import as_integers, blocks, check_counts, signal_in_bins, values_of
from spikecdl.data.truth import Truth, store
from spikecdl.validation import (
    as_slice,
    counted,
    distinct,
    integer,
    positions,
    positive,
    real,
    shaped,
)

Index = int | slice | Sequence[int] | Sequence[bool] | np.ndarray

_KINDS = {"counts": "iuf", "n_pooled": "iu", "trial_starts": "f"}  # of dtypes


@dataclass(frozen=True, eq=False, repr=False)
class BinnedSpikes:
    """Spike counts in bins, or a real-valued signal, for every trial and unit.

    Made by `SpikeTrains.bin`, `BinnedSpikes.from_array` and the simulators; `spikecdl.read_counts`
    maps the arrays from a file.

    Parameters
    ----------
    counts : ndarray, shape (trial, unit, bin)
        Integers of 16 bits or more, or floats for a real-valued signal; 0 where not observed.
    mask : ndarray of bool, shape (trial, unit, bin)
        True where the bin was observed.
    bin_size : float
        Seconds per bin.
    t_start : float
        Left edge of the first bin, relative to what trials are aligned to, in seconds.
    unit_ids, trial_ids : tuple of int or str
        Distinct names of units and trials.
    n_pooled : ndarray of int, shape (trial, unit, bin)
        Recorded trials that are summed in each bin: 1 if not pooled, 0 where not observed.
    sub_bins : int
        Bernoulli trials per bin and recorded trial.
    trial_starts : ndarray, shape (trial,)
        Time of the first bin's left edge in the recording, in seconds; nan where not known.
    source : str
        Path or description of where the data come from.
    truth : Truth or None
        What the simulator knows, for simulated data.
    onsets : ndarray of bool, shape (trial, bin), or None
        Where events may begin; None: anywhere.  See `near`; files do not keep them.
    signals : mapping of str to ndarray, shape (trial, bin), or None
        Values of signals in each bin, nan where they are not known, on which rates may depend.  See
        `with_signals`; files do not keep them.
    past : ndarray or None
        Counts of all bins where some are hidden, for the history of later ones; not in files.
    windows : mapping or None
        How windows were chosen, if that is known: ``align``, ``window`` and ``table`` of
        `SpikeTrains.bin`, and ``pool_trials``.  Models keep it, files do not.

    Examples
    --------
    >>> counts = BinnedSpikes.from_array([[0, 1, 1], [0, 0, 1]], bin_size=0.005)
    >>> counts
    BinnedSpikes(2 trials, 1 unit, 3 bins of 0.005 s, 3 spikes)
    >>> counts.pool().counts
    array([[[0, 1, 2]]])
    """

    counts: np.ndarray
    mask: np.ndarray
    bin_size: float
    t_start: float
    unit_ids: tuple[int | str, ...]
    trial_ids: tuple[int | str, ...]
    n_pooled: np.ndarray
    sub_bins: int
    trial_starts: np.ndarray
    source: str = ""
    truth: Truth | None = None
    onsets: np.ndarray | None = None
    windows: Mapping[str, Any] | None = None
    past: np.ndarray | None = None
    signals: Mapping[str, np.ndarray] | None = None

    def __post_init__(self) -> None:
        store(self, "counts", "mask", "n_pooled", "trial_starts")
        if not 1e-9 <= positive("bin_size", self.bin_size, "seconds") <= 1e9:
            raise ValueError(f"`bin_size` (={self.bin_size}) must be from 1e-9 to 1e9, in seconds")
        real("t_start", self.t_start, "seconds")
        integer("sub_bins", self.sub_bins)
        for name, kinds in _KINDS.items():
            dtype = getattr(self, name).dtype
            if dtype.kind not in kinds or dtype.itemsize > 8:
                raise TypeError(f"`{name}` must be numbers of at most 64 bits, not {dtype}")
        check_counts(self.counts)
        shapes = {"mask": self.shape, "n_pooled": self.shape, "trial_starts": self.shape[:1]}
        shapes |= {"onsets": self.shape[::2], "past": self.shape}
        for name in (name for name in shapes if getattr(self, name) is not None):
            store(self, name)
            shaped(name, getattr(self, name), shapes[name], "counts")
        for name, values in (self.signals or {}).items():
            shaped(name, values, self.shape[::2], "counts")
        for name, size in (("trial_ids", self.shape[0]), ("unit_ids", self.shape[1])):
            object.__setattr__(self, name, distinct(name, getattr(self, name), size))
        for block in blocks(self.shape):
            counts, mask = self.counts[block], self.mask[block]
            if mask.dtype != bool or counts[~mask].any():
                raise ValueError("`mask` must be boolean, and counts 0 where it is False")
            if not np.array_equal(self.n_pooled[block] > 0, mask):
                raise ValueError("`n_pooled` must be positive where `mask` is True, else 0")
            if self.past is not None and (self.past[block] != counts)[mask].any():
                raise ValueError("`past` must be `counts` where `mask` is True")
        if (most := int(self.n_pooled.max()) * self.sub_bins) > 2**31:
            raise ValueError(f"`n_pooled` times `sub_bins` (={most}) must be at most {2**31}")

    @classmethod
    def from_array(
        cls,
        counts: Any,
        bin_size: float | None = None,
        *,
        mask: Any = None,
        t_start: float | None = None,
        unit_ids: Sequence[int | str] | None = None,
        trial_ids: Sequence[int | str] | None = None,
        n_pooled: Any = 1,
        sub_bins: int = 1,
        trial_starts: Any = None,
        source: str = "array",
        truth: Truth | None = None,
    ) -> BinnedSpikes:
        """Make `BinnedSpikes` of a (trial, unit, bin) array, or of (trial, bin) for one unit.

        Arrays of other libraries that name their axes are put in this order: a DataArray of xarray
        with dimensions trial, unit and time (whose coordinates, left edges of bins in seconds, give
        ``t_start`` and ``bin_size``), a TsdFrame of pynapple (time, unit), with a trial for each
        epoch of its time support and times at the centres of bins, a BinnedSpikeTrain of elephant,
        and a sparse array of scipy (unit, bin).

        Parameters
        ----------
        counts : array_like
            Floats that are all whole and not negative are counts and become integers; other floats
            are a signal.  A read-only array of int16 or wider is not copied, unless masked.
        bin_size : float, optional
            Seconds per bin.  Default: what the array says, else 1: all times are in bins.
        mask : array_like of bool, optional
            True where observed; counts elsewhere become 0, and may be NaN.  Default: all observed.
            In the order trial, unit, bin.
        unit_ids, trial_ids : sequence, optional
            Default: 0, 1, 2, ...
        n_pooled : int or array_like
            Recorded trials summed in each bin: one number, one per trial, or one per bin.
        trial_starts : array_like, shape (trial,), optional
            Default: not known (nan).
        t_start, sub_bins, source, truth
            As in the class.

        Raises
        ------
        ValueError, TypeError
            If the array is empty, not 2-D or 3-D, or holds anything but finite numbers or counts;
            if names of its axes are not known, or ``bin_size`` is not that of the array.
        """
        array, known = values_of(counts)
        asked = None if bin_size is None else positive("bin_size", bin_size, "seconds")
        size = known.get("bin_size", asked or 1.0)
        if asked is not None and abs(asked / size - 1) > 1e-6:
            raise ValueError(f"`bin_size` (={asked:g}) must be {size:g}, or left out")
        if mask is not None:
            mask = np.array(values_of(mask).array, dtype=bool)
        if "mask" in known:
            mask = known["mask"] if mask is None else known["mask"] & mask
        if array.dtype.kind not in "biuf":
            raise TypeError(f"`counts` must hold real numbers, not {array.dtype}")
        if mask is None:
            array = array.copy() if array.flags.writeable else array
            mask = np.broadcast_to(True, array.shape)
        else:
            array = array.copy()
            shaped("mask", mask, array.shape, "counts")
            array[~mask] = 0
        if array.ndim == 2:
            array, mask = array[:, None], mask[:, None]
        check_counts(array)
        pooled = np.asarray(n_pooled)
        if pooled.dtype.kind not in "iu":
            raise TypeError(f"`n_pooled` (={n_pooled!r}) must be integers")
        if pooled.ndim in (1, 2):
            pooled = pooled.reshape(len(pooled), 1, -1)
        given = {"t_start": t_start, "unit_ids": unit_ids, "trial_ids": trial_ids}
        given["trial_starts"] = trial_starts
        known |= {name: value for name, value in given.items() if value is not None}
        return cls(
            counts=as_integers(array),
            mask=mask,
            bin_size=size,
            t_start=real("t_start", known.get("t_start", 0.0), "seconds"),
            unit_ids=tuple(known.get("unit_ids", range(array.shape[1]))),
            trial_ids=tuple(known.get("trial_ids", range(array.shape[0]))),
            n_pooled=mask.view(np.int8) if np.array_equal(pooled, 1) else np.where(mask, pooled, 0),
            sub_bins=sub_bins,
            trial_starts=np.array(known.get("trial_starts", np.full(len(array), np.nan)), float),
            source=source,
            truth=truth,
        )

    def __repr__(self) -> str:
        sizes = zip(self.shape, ("trial", "unit", "bin"), strict=True)
        shape = ", ".join(counted(size, name) for size, name in sizes)
        content = f"{int(self.counts.sum())} spikes" if self.is_counts else "real-valued"
        return f"BinnedSpikes({shape} of {self.bin_size:g} s, {content})"

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> BinnedSpikes:
        """Select trials by position, as scikit-learn does to split data."""
        trials, *others = key if isinstance(key, tuple) else (key,)
        if any(other is not Ellipsis for other in others):
            raise IndexError("BinnedSpikes are indexed by trial only; see `select` for units")
        return self.select(trials=trials)

    def __iter__(self) -> Iterator[BinnedSpikes]:
        return (self.select(trials=trial) for trial in range(len(self)))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Numbers of trials, units and bins."""
        return self.counts.shape

    @property
    def n_units(self) -> int:
        """Number of units."""
        return self.shape[1]

    @property
    def n_bins(self) -> int:
        """Number of bins."""
        return self.shape[2]

    @property
    def n_trials(self) -> np.ndarray:
        """Bernoulli trials per bin, ``n_pooled * sub_bins``, of shape (trial, unit, bin)."""
        return np.multiply(self.n_pooled, self.sub_bins, dtype=np.int64)

    @property
    def is_counts(self) -> bool:
        """Whether the values are integer counts, not a real-valued signal."""
        return self.counts.dtype.kind != "f"

    @property
    def times(self) -> np.ndarray:
        """Left edge of each bin relative to the alignment, in seconds."""
        return np.round(self.t_start + self.bin_size * np.arange(self.n_bins), 12)

    @property
    def duration(self) -> float:
        """Length of a window, in seconds."""
        return self.bin_size * self.n_bins

    def header(self) -> dict[str, Any]:
        """Return the parts that JSON can hold, but ``source``, for files."""
        names = ("bin_size", "t_start", "unit_ids", "trial_ids", "sub_bins")
        return {name: getattr(self, name) for name in names}

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the counts, the mask, the bin size and the names: the same for any file.

        Also of ``onsets`` and ``signals``, if there are any.
        """
        digest = hashlib.sha256(json.dumps(self.header()).encode())
        digest.update(b"" if self.onsets is None else self.onsets.tobytes())
        for name, values in (self.signals or {}).items():
            digest.update(name.encode() + values.tobytes())
        for block in blocks(self.shape):
            counts = self.counts[block].astype("<i8" if self.is_counts else "<f8")
            digest.update(counts.tobytes())
            digest.update(self.mask[block].tobytes())
        return digest.hexdigest()

    def rate(self) -> np.ndarray:
        """Return the rate of each bin per recorded trial, in Hz; nan where not observed.

        For a real-valued signal: its mean per recorded trial, in the signal's own unit.
        """
        exposure = self.n_pooled * (self.bin_size if self.is_counts else 1.0)
        rate = np.full(self.shape, np.nan)
        return np.divide(self.counts, exposure, out=rate, where=self.mask & (exposure > 0))

    def pool(self) -> BinnedSpikes:
        """Sum over trials: one trial, whose ``n_pooled`` says how many were observed in each bin.

        Signals are left out: they differ between trials.

        Examples
        --------
        >>> pooled = BinnedSpikes.from_array([[0, 1], [1, 1]], mask=[[1, 1], [0, 1]]).pool()
        >>> pooled.counts.ravel(), pooled.n_pooled.ravel()
        (array([0, 2]), array([1, 2]))
        """
        n_pooled = self.n_pooled.sum(axis=0, keepdims=True)
        is_single = len(self) == 1
        return replace(
            self,
            counts=self.counts.sum(axis=0, keepdims=True),
            mask=n_pooled > 0,
            n_pooled=n_pooled,
            trial_ids=self.trial_ids if is_single else ("pooled",),
            trial_starts=self.trial_starts if is_single else np.array([np.nan]),
            truth=None if self.truth is None else self.truth.pool(),
            onsets=None if self.onsets is None else np.any(self.onsets, axis=0, keepdims=True),
            windows={**(self.windows or {}), "pool_trials": True},
            past=None,
            signals=None,
        )

    def near(self, times: Any, start: float, stop: float) -> BinnedSpikes:
        """Let events begin only near known times.

        Parameters
        ----------
        times : array_like
            Times in the recording, in seconds, such as those of stimuli.
        start, stop : float
            Templates may begin in bins that lie, at least in part, from ``start`` to ``stop`` after
            one of the times, in seconds.

        Raises
        ------
        ValueError
            If ``trial_starts`` are not known, a number is not finite, ``stop`` is before ``start``,
            or none of the bins is near a time.

        Examples
        --------
        >>> counts = BinnedSpikes.from_array([[0, 1, 1, 0, 0]], trial_starts=[10.0])
        >>> counts.near([11.5], 0.0, 1.0).onsets
        array([[False,  True,  True, False, False]])
        """
        if real("stop", stop, "seconds") < real("start", start, "seconds"):
            raise ValueError(f"`stop` (={stop:g}) must not be before `start` (={start:g})")
        if not np.isfinite(self.trial_starts).all():
            raise ValueError("`trial_starts` must be known, in seconds, to find times in trials")
        known = np.sort(np.ravel(np.asarray(times, dtype=float)))
        if not np.isfinite(known).all():
            raise ValueError("`times` must be finite, in seconds")
        edges = self.trial_starts[:, None] + self.bin_size * np.arange(self.n_bins)
        slack = 1e-6 * self.bin_size
        first = np.searchsorted(known, edges - stop - slack)
        after = np.searchsorted(known, edges + self.bin_size - start - slack)
        onsets = np.asarray(after > first)
        if not onsets.any():
            raise ValueError(
                f"`times`: none of {len(known)} is so near a trial that an event may begin there "
                f"from {start:g} to {stop:g} s after it"
            )
        return replace(self, onsets=onsets)

    def with_signals(self, signals: Mapping[str, Any]) -> BinnedSpikes:
        """Return the counts with signals, such as position or speed, on which rates may depend.

        Parameters
        ----------
        signals : mapping of str to tuple, Tsd or array_like
            By name: times in the recording and values, a Tsd of pynapple, or values (trial, bin).
            Bins have the mean of the values in them, or if there are none what lies between those
            next to them, and nan before the first and after the last.

        Raises
        ------
        ValueError
            If ``trial_starts`` are not known, times do not rise, or no bin has a value.

        Examples
        --------
        >>> counts = BinnedSpikes.from_array([[0, 1, 1, 0]], trial_starts=[10.0])
        >>> counts.with_signals({"speed": ([10.0, 10.5, 12.5], [2, 4, 6])}).signals
        {'speed': array([[ 3.,  5.,  6., nan]])}
        """
        new = {name: signal_in_bins(name, values, self) for name, values in signals.items()}
        return replace(self, signals={**(self.signals or {}), **new})

    def select(
        self, *, trials: Index | None = None, units: Index | None = None, bins: Index | None = None
    ) -> BinnedSpikes:
        """Return some trials, units and bins, by position: an int, a slice, a list or a mask.

        Neighbours are views: nothing is copied.  Bins must be neighbours, and keep their times.

        Examples
        --------
        >>> counts = BinnedSpikes.from_array([[0, 1], [1, 1], [1, 0]])
        >>> counts.select(trials=slice(1, None))
        BinnedSpikes(2 trials, 1 unit, 2 bins of 1 s, 3 spikes)
        >>> counts.select(bins=slice(1, 2)).times
        array([1.])
        """
        rows = positions("trials", trials, self.shape[0])
        columns = positions("units", units, self.shape[1])
        time = as_slice(positions("bins", bins, self.n_bins))
        if not isinstance(time, slice):
            raise ValueError(f"`bins` (={bins!r}) must be neighbours, in the order of time")
        row_index, column_index = as_slice(rows), as_slice(columns)
        arrays = ("counts", "mask", "n_pooled", *["past"] * (self.past is not None))
        chosen = replace(
            self,
            **{name: getattr(self, name)[row_index][:, column_index, time] for name in arrays},
            unit_ids=tuple(self.unit_ids[i] for i in columns),
            trial_ids=tuple(self.trial_ids[i] for i in rows),
            trial_starts=self.trial_starts[rows],
            truth=None if self.truth is None else self.truth.select(rows, columns),
            onsets=None if self.onsets is None else self.onsets[rows, time],
            signals=self.signals and {n: x[rows, time] for n, x in self.signals.items()},
        )
        if bins is None:
            return chosen
        offset, every = self.bin_size * time.start, np.ones(len(rows))
        start = round(self.t_start + offset, 12)
        window = (start, round(start + chosen.duration, 12))
        return replace(
            chosen,
            t_start=start,
            trial_starts=chosen.trial_starts + offset,
            truth=chosen.truth and chosen.truth.shift(offset * every, chosen.duration * every),
            windows=self.windows and {**self.windows, "window": window},
        )
