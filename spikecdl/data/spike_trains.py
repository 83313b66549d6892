"""Containers of recordings: `SpikeTrains` (seconds) and, from its `bin`, `BinnedSpikes` (counts).

Seconds become bins here and nowhere else.  Arrays are read-only; tables are pandas DataFrames.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from spikecdl.data import checks, counts_file
from spikecdl.data.binned import BinnedSpikes, not_pooled
from spikecdl.data.binning import Allocate, Clock, Counting
from spikecdl.data.results import Decomposition
from spikecdl.data.truth import Truth
from spikecdl.validation import positive

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["BinnedSpikes", "Decomposition", "SpikeTrains", "Truth"]

UnitId = int | str


@dataclass(frozen=True, eq=False, repr=False)
class SpikeTrains:
    """Spike times of the units of one recording, its trials, and when each unit was observed.

    Made by the readers in `spikecdl.io` and by `SpikeTrains.from_arrays`, which fills in what is
    not given.  All times are in seconds.

    Parameters
    ----------
    times : tuple of ndarray
        Sorted spike times of each unit.
    unit_ids : tuple of int or str
        Distinct names of the units.
    observed : tuple of ndarray, shape (interval, 2)
        Sorted, disjoint intervals in which each unit was observed.  Spikes may lie outside (in a
        stretch marked invalid, say); they are not counted.
    trials : DataFrame or None
        ``start_time`` and ``stop_time``, and any other columns; the index holds the trials' ids.
        Times may be nan where they are not known; `bin` refuses to use such a trial.
    intervals : mapping of str to DataFrame
        Every other table of intervals or events, by name, with at least ``start_time``.
    units : DataFrame or None
        What else is known of the units, in their order.
    clock_rate : float or None
        Ticks per second of the recording's clock (30000.0, ...), if it is known.
    truth : Truth or None
        For simulated data.
    source : str
        Path or description.

    Raises
    ------
    ValueError
        If a unit's times are unsorted or not finite, a table lacks a column, a trial does not
        stop after it starts, intervals overlap, or times look like milliseconds.

    Examples
    --------
    >>> import numpy as np
    >>> spikes = SpikeTrains.from_arrays(
    ...     [np.array([0.1, 0.4, 1.25])], trials=np.array([[0.0, 1.0], [1.0, 2.0]])
    ... )
    >>> spikes
    SpikeTrains(1 unit, 3 spikes, 0 to 2 s, 2 trials)
    >>> spikes.bin(0.5).counts[:, 0]
    array([[2, 0],
           [1, 0]], dtype=int32)
    """

    times: tuple[np.ndarray, ...]
    unit_ids: tuple[UnitId, ...]
    observed: tuple[np.ndarray, ...]
    trials: pd.DataFrame | None = None
    intervals: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    units: pd.DataFrame | None = None
    clock_rate: float | None = None
    truth: Truth | None = None
    source: str = ""

    def __post_init__(self) -> None:
        """Check every part and make the arrays read-only."""
        if not len(self.times):
            raise ValueError("`times` must hold at least one unit")
        for name in ("times", "unit_ids", "observed"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
            if len(getattr(self, name)) != self.n_units:
                raise ValueError(
                    f"`{name}` has {len(getattr(self, name))} entries for {self.n_units} units"
                )
        object.__setattr__(self, "unit_ids", tuple(map(checks.plain, self.unit_ids)))
        if len(set(self.unit_ids)) != self.n_units:
            raise ValueError(f"`unit_ids` must be distinct, not {self.unit_ids!r}")
        for name, check in (
            ("times", checks.check_times),
            ("observed", checks.check_observed),
        ):
            pairs = zip(self.unit_ids, getattr(self, name), strict=True)
            object.__setattr__(self, name, tuple(check(unit, array) for unit, array in pairs))
        if self.clock_rate is not None:
            positive("clock_rate", self.clock_rate, "ticks per second")
        if self.units is not None and len(self.units) != self.n_units:
            raise ValueError(f"`units` has {len(self.units)} rows for {self.n_units} units")
        if self.trials is not None:
            checks.check_trials(self.trials)
        if "trials" in self.intervals:
            raise ValueError("`intervals` must not hold 'trials'; give them as `trials`")
        for name, table in self.intervals.items():
            checks.check_columns(name, table, ("start_time",))
        shape = (1 if self.trials is None else len(self.trials), self.n_units)
        if self.truth is not None and self.truth.baseline.shape != shape:
            raise ValueError(
                f"`truth` is of {self.truth.baseline.shape} trials and units, the data of {shape}"
            )

    @classmethod
    def from_arrays(
        cls,
        times: Mapping[UnitId, Any] | Sequence[Any],
        unit_ids: Sequence[UnitId] | None = None,
        *,
        observed: Any = None,
        trials: Any = None,
        intervals: Mapping[str, Any] | None = None,
        units: Any = None,
        clock_rate: float | None = None,
        truth: Truth | None = None,
        source: str = "arrays",
        sort: bool = False,
        duplicates: str = "error",
    ) -> SpikeTrains:
        """Make `SpikeTrains` of plain arrays of spike times in seconds.

        Parameters
        ----------
        times : sequence of array_like, or mapping of unit id to array_like
            Spike times of each unit, in seconds.
        unit_ids : sequence of int or str, optional
            Default: the mapping's keys, or 0, 1, 2, ...
        observed : array_like, optional
            One (start, stop) pair or an (interval, 2) array for all units, or a sequence with one
            such array per unit.  Default: one interval for all, from 0 (from the earliest time
            if that is negative, or so late that most of the interval would be empty) to the latest
            time among spikes, trials and intervals.
        trials : DataFrame, mapping of columns or (trial, 2) array, optional
            ``start_time`` and ``stop_time`` in seconds; a frame's index gives the trials' ids.
        intervals : mapping of str to DataFrame, mapping or (interval, 2) array, optional
            Other tables of intervals or events.
        units : DataFrame or mapping of columns, optional
            What else is known of the units, in their order.
        clock_rate : float, optional
            Ticks per second of the recording's clock.
        truth : Truth, optional
            For simulated data.
        source : str
            Description of where the data come from.
        sort : bool
            Sort each unit's times; by default unsorted times are an error.
        duplicates : {"error", "keep"}
            Whether one unit may spike twice at exactly the same time.

        Raises
        ------
        ValueError
            As the class; and for duplicate times, unless ``duplicates="keep"``.
        TypeError
            If ``times`` is not one array per unit.

        Examples
        --------
        >>> SpikeTrains.from_arrays({"a": [0.5, 0.7], "b": []}, observed=(0.0, 1.0)).rates
        array([2., 0.])
        """
        ids, arrays = checks.spike_arrays(times, unit_ids, sort=sort, duplicates=duplicates)
        trial_table = None if trials is None else checks.as_table("trials", trials)
        named = dict(intervals or {})
        tables = {name: checks.as_table(name, table) for name, table in named.items()}
        given = checks.as_observed(observed, len(ids))
        spans = [t for t in (trial_table, *tables.values()) if t is not None]
        checks.check_seconds(arrays, spans, given)
        unit_table = None
        if units is not None:
            import pandas as pd

            unit_table = pd.DataFrame(units)
            if len(unit_table) == len(ids):
                unit_table = unit_table.set_axis(list(ids), axis=0)
        return cls(
            times=arrays,
            unit_ids=ids,
            observed=given or checks.whole_recording(arrays, spans),
            trials=trial_table,
            intervals=tables,
            units=unit_table,
            clock_rate=clock_rate,
            truth=truth,
            source=source,
        )

    def __repr__(self) -> str:
        """Describe in one line."""
        spikes = sum(t.size for t in self.times)
        trials = "" if self.trials is None else f", {_number(len(self.trials), 'trial')}"
        return (
            f"SpikeTrains({_number(self.n_units, 'unit')}, {_number(spikes, 'spike')}, "
            f"{self.t_start:g} to {self.t_stop:g} s{trials})"
        )

    @property
    def n_units(self) -> int:
        """Number of units."""
        return len(self.times)

    @property
    def t_start(self) -> float:
        """Start of the first observed interval of any unit, in seconds."""
        return float(min((o[0, 0] for o in self.observed if len(o)), default=0.0))

    @property
    def t_stop(self) -> float:
        """End of the last observed interval of any unit, in seconds."""
        return float(max((o[-1, 1] for o in self.observed if len(o)), default=0.0))

    @property
    def rates(self) -> np.ndarray:
        """Mean rate of each unit over its observed time, in Hz (unit,); nan if never observed."""
        rates = np.full(self.n_units, np.nan)
        for unit, (times, observed) in enumerate(zip(self.times, self.observed, strict=True)):
            if len(observed):
                interval = np.searchsorted(observed[:, 0], times, "right") - 1
                inside = (interval >= 0) & (times <= observed[interval, 1])
                rates[unit] = inside.sum() / np.diff(observed, axis=1).sum()
        return rates

    def bin(
        self,
        bin_size: float,
        *,
        align: str | None = None,
        window: tuple[float, float] | None = None,
        units: Sequence[UnitId] | None = None,
        trials: str | Sequence[UnitId] | None = None,
        table: str = "trials",
        file: str | os.PathLike[str] | None = None,
    ) -> BinnedSpikes:
        """Count spikes in bins, exactly (see `spikecdl.binning`).

        Windows hold the whole bins that fit in them: what is left at the end is not counted.  Bins
        that are not wholly inside a unit's observed intervals, and bins past the end of a trial
        that is shorter than the longest, have mask False and count 0.

        ``sub_bins`` of the result is 1 while no bin holds two spikes, else the number of whole
        milliseconds in a bin, each of which holds a spike or none.

        Parameters
        ----------
        bin_size : float
            Seconds per bin.
        align : str, optional
            Column of times (s) that windows are relative to; needs ``window``.  Default: each
            trial's start.
        window : (float, float), optional
            Start and stop of the windows relative to the alignment, in seconds.  Default: from
            ``start_time`` to ``stop_time`` of each trial.
        units : sequence of ids, optional
            Default: all units.
        trials : str or sequence of ids, optional
            Query on the columns in pandas' syntax (``"split == 'train'"``), or ids.  Default: all.
        table : str
            ``"trials"`` or the name of another table in ``intervals``.  Without a trials table
            the whole recording is one trial.
        file : path_like, optional
            HDF5 file that is written, and holds the counts in place of memory: for recordings
            whose counts do not fit there.  `spikecdl.read` opens it again.

        Returns
        -------
        BinnedSpikes
            Counts of shape (trial, unit, bin), of int32; in a file of int16 if that holds them.

        Raises
        ------
        ValueError
            If a column, unit, trial or table does not exist (the message lists what does), a
            window holds no whole bin, or a window is wholly outside the recording.

        Examples
        --------
        >>> trials = {"start_time": [0, 1], "stop_time": [1, 2], "cue": [0.1, 1.2]}
        >>> spikes = SpikeTrains.from_arrays([[0.1, 0.4, 1.25]], trials=trials)
        >>> spikes.bin(0.1, align="cue", window=(0.0, 0.3), trials="cue > 1").counts
        array([[[1, 0, 0]]], dtype=int32)
        """
        positive("bin_size", bin_size, "seconds")
        chosen = self._unit_positions(units)
        windows = self._windows(align, window, trials, table)
        checks.check_windows(windows, self.t_start, self.t_stop)
        times = [self.times[i] for i in chosen]
        observed = [self.observed[i] for i in chosen]
        edges = [windows.starts, windows.durations]
        clock = Clock.for_bins(bin_size, self.clock_rate, [*edges, *times, *observed])
        n_bins = clock.bins(clock.ticks(windows.durations))
        if not n_bins.all():
            trial = windows.ids[int(np.argmin(n_bins))]
            raise ValueError(
                f"`bin_size` (={bin_size!r}) is longer than the window of trial {trial!r}"
            )
        counting = Counting(times, observed, windows.starts, n_bins, clock)
        known = self._truth_in(windows, chosen) if table == "trials" else None

        def binned(allocate: Allocate, dtype: Any) -> BinnedSpikes:
            counts, mask = counting(allocate, dtype)
            if not mask.any():
                raise ValueError("no bin of any window lies wholly inside the observed intervals")
            return BinnedSpikes(
                counts=counts,
                mask=mask,
                bin_size=float(bin_size),
                t_start=windows.offset,
                unit_ids=tuple(self.unit_ids[i] for i in chosen),
                trial_ids=windows.ids,
                n_pooled=not_pooled(mask),
                sub_bins=max(1, round(bin_size / 1e-3)) if counts.max() > 1 else 1,
                trial_starts=windows.starts,
                source=self.source,
                truth=known,
            )

        if file is None:
            return binned(lambda name, shape, dtype: np.zeros(shape, dtype), np.int32)
        with counts_file.writing(file, self.source) as target:
            target.finish(binned(target.allocate, counting.smallest_dtype))
        return counts_file.read_counts(file)

    def _unit_positions(self, units: Sequence[UnitId] | None) -> np.ndarray:
        if units is None:
            return np.arange(self.n_units)
        places = {unit: i for i, unit in enumerate(self.unit_ids)}
        wanted = [units] if isinstance(units, int | str) else list(units)
        unknown = [unit for unit in wanted if unit not in places]
        if unknown or not wanted:
            raise ValueError(f"`units` (={units!r}) must be among the units {list(self.unit_ids)}")
        return np.array([places[unit] for unit in wanted])

    def _windows(
        self,
        align: str | None,
        window: tuple[float, float] | None,
        trials: str | Sequence[UnitId] | None,
        table: str,
    ) -> checks.Windows:
        frame = self.trials if table == "trials" else self.intervals.get(table)
        if frame is None:
            if table != "trials":
                names = [*(["trials"] if self.trials is not None else []), *self.intervals]
                raise ValueError(f"`table` (={table!r}) must be one of: {', '.join(names)}")
            span = {"start_time": [self.t_start], "stop_time": [self.t_stop]}
            frame = checks.as_table("trials", span)
        rows = checks.select_rows(frame, trials)
        return checks.make_windows(table, frame.iloc[rows], rows, align, window)

    def _truth_in(self, windows: checks.Windows, units: np.ndarray) -> Truth | None:
        chosen = self.truth.select(windows.rows, units) if self.truth is not None else None
        if chosen is None:
            return None
        whole = np.array([self.t_start])
        begun = whole if self.trials is None else self.trials["start_time"].to_numpy(dtype=float)
        return chosen.shift(windows.starts - begun[windows.rows], windows.durations)


def _number(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
