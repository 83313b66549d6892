"""`SpikeTrains`: spike times in seconds, which its `bin` turns into `BinnedSpikes`."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from spikecdl.data import binning, counts_file
from spikecdl.data import times as timing
from spikecdl.data.binned import BinnedSpikes
from spikecdl.data.binning import Allocate, Clock, bin_spikes
from spikecdl.data.labelled import is_a
from spikecdl.data.truth import Truth
from spikecdl.files import naming, replacing
from spikecdl.validation import counted, distinct, listed, one_of, plain, positive, shown

if TYPE_CHECKING:
    import pandas as pd

UnitId = int | str


@dataclass(frozen=True, eq=False, repr=False)
class SpikeTrains:
    """Spike times of the units of one recording, its trials, and when each unit was observed.

    Made by the readers in `spikecdl.io` and by `SpikeTrains.from_arrays`.  All times are in
    seconds, arrays are read-only.

    Parameters
    ----------
    times : tuple of ndarray
        Sorted spike times of each unit.
    unit_ids : tuple of int or str
        Distinct names of the units.
    observed : tuple of ndarray, shape (interval, 2)
        Sorted, disjoint intervals in which each unit was observed; spikes outside do not count.
    trials : DataFrame or None
        ``start_time`` and ``stop_time`` (nan if unknown), and any other columns; ids as its index.
    intervals : mapping of str to DataFrame
        Every other table of intervals or events, by name, with at least ``start_time``.
    units : DataFrame or None
        Other columns about the units, one row per unit.
    clock_rate : float or None
        Ticks per second of the recording's clock (30000.0, ...), if it is known.
    truth : Truth or None
        What the simulator knows, for simulated data.
    source : str
        Path or description of where the data come from.

    Examples
    --------
    >>> spikes = SpikeTrains.from_arrays([[0.1, 0.4, 1.25]], trials=[[0.0, 1.0], [1.0, 2.0]])
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
        if not len(self.times):
            raise ValueError("`times` must hold at least one unit")
        object.__setattr__(self, "unit_ids", distinct("unit_ids", self.unit_ids, self.n_units))
        for name, value in (("observed", self.observed), ("units", self.units)):
            if value is not None and len(value) != self.n_units:
                raise ValueError(f"`{name}` has {len(value)} entries for {self.n_units} units")
        for name, check in (("times", timing.check_times), ("observed", timing.check_observed)):
            arrays = tuple(map(check, self.unit_ids, getattr(self, name)))
            object.__setattr__(self, name, arrays)
        if self.clock_rate is not None:
            positive("clock_rate", self.clock_rate, "ticks per second")
        if self.trials is not None:
            timing.check_trials(self.trials)
        if "trials" in self.intervals:
            raise ValueError("`intervals` must not hold 'trials'; give them as `trials`")
        for name, table in self.intervals.items():
            timing.check_columns(name, table, "start_time")
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
            Spike times of each unit, in seconds; or a TsGroup of pynapple, whose time support is
            ``observed`` and whose metadata are ``units`` unless these are given.
        unit_ids : sequence of int or str, optional
            Default: the mapping's keys, or 0, 1, 2, ...
        observed : array_like, optional
            One (start, stop) pair, an (interval, 2) array, a table or an IntervalSet of pynapple
            for all units, or an array or None for each.  None: from 0 (from the earliest time if
            that is negative, or so late that most of the interval would be empty) to the latest
            time of spikes, trials and intervals.
        trials, intervals, units, clock_rate, truth, source
            As in the class; a table may also be a mapping of columns, and one of trials or
            intervals an array of shape (interval, 2) in seconds or an IntervalSet of pynapple.
            Its columns may also be ``start`` and ``end``.
        sort : bool
            Whether to sort each unit's times; by default unsorted times are an error.
        duplicates : {"error", "keep"}
            Whether one unit may spike twice at exactly the same time.

        Raises
        ------
        ValueError
            If times are unsorted, repeated, not finite or look like milliseconds, a table lacks a
            column, a trial does not stop after it starts, or intervals overlap.
        TypeError
            If ``times`` is not one array per unit.

        Examples
        --------
        >>> SpikeTrains.from_arrays({"a": [0.5, 0.7], "b": []}, observed=(0.0, 1.0)).rates
        array([2., 0.])
        """
        import pandas as pd

        if is_a(times, "pynapple", "TsGroup"):
            observed = times.time_support if observed is None else observed  # type: ignore
            units = times.metadata.drop(columns="rate") if units is None else units  # type: ignore
            if unit_ids is None and "unit_id" in units:
                unit_ids, units = list(units["unit_id"]), units.drop(columns="unit_id")
            units = units if len(units.columns) else None
        ids, arrays = timing.spike_arrays(times, unit_ids, sort=sort, duplicates=duplicates)
        trial_table = None if trials is None else timing.as_table("trials", trials)
        tables = {name: timing.as_table(name, table) for name, table in (intervals or {}).items()}
        spans = [table for table in (trial_table, *tables.values()) if table is not None]
        filled = timing.as_observed(observed, arrays, spans)
        timing.check_seconds(arrays, spans, () if observed is None else filled)
        unit_table = None if units is None else pd.DataFrame(units)
        if unit_table is not None and len(unit_table) == len(ids):
            unit_table = unit_table.set_axis(list(ids), axis=0)
        return cls(
            times=arrays,
            unit_ids=ids,
            observed=filled,
            trials=trial_table,
            intervals=tables,
            units=unit_table,
            clock_rate=clock_rate,
            truth=truth,
            source=source,
        )

    def __repr__(self) -> str:
        units = counted(self.n_units, "unit")
        spikes = counted(sum(t.size for t in self.times), "spike")
        trials = "" if self.trials is None else f", {counted(len(self.trials), 'trial')}"
        return f"SpikeTrains({units}, {spikes}, {self.t_start:g} to {self.t_stop:g} s{trials})"

    def _repr_html_(self) -> str:
        """Return a table of units, for notebooks."""
        import pandas as pd

        number = [times.size for times in self.times]
        known = {"spikes": number, "rate (Hz)": self.rates}
        table = pd.DataFrame(known, index=pd.Index(self.unit_ids, name="unit"))
        if self.units is not None:
            table = table.join(self.units.set_axis(table.index), rsuffix=" (of the file)")
        return f"<p>{escape(repr(self))}</p>{table.to_html(max_rows=12, float_format='%.3g')}"

    @property
    def n_units(self) -> int:
        """Number of units."""
        return len(self.times)

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """The trials, if there are any, and the other tables of intervals, by name."""
        return {**({} if self.trials is None else {"trials": self.trials}), **self.intervals}

    @property
    def t_start(self) -> float:
        """Start of the first observed interval of any unit, in seconds."""
        return float(min((o[0, 0] for o in self.observed if len(o)), default=0.0))

    @property
    def t_stop(self) -> float:
        """End of the last observed interval of any unit, in seconds."""
        return float(max((o[-1, 1] for o in self.observed if len(o)), default=0.0))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the units' names, spikes and observed intervals: the same for any file."""
        digest = hashlib.sha256(json.dumps(self.unit_ids).encode())
        for rows in (*self.times, *self.observed):
            digest.update(len(rows).to_bytes(8, "little"))
            digest.update(rows.astype("<f8").tobytes())
        return digest.hexdigest()

    @property
    def rates(self) -> np.ndarray:
        """Mean rate of each unit over its observed time, in Hz (unit,); nan if never observed."""
        rates = np.full(self.n_units, np.nan)
        for unit, (times, observed) in enumerate(zip(self.times, self.observed, strict=True)):
            if len(observed):
                inside = timing.interval_of(times, observed) >= 0
                rates[unit] = inside.sum() / np.diff(observed, axis=1).sum()
        return rates

    def bin(
        self,
        bin_size: float | str,
        *,
        align: str | None = None,
        window: tuple[float, float] | None = None,
        units: str | Sequence[UnitId] | None = None,
        trials: str | Sequence[UnitId] | None = None,
        table: str = "trials",
        file: str | os.PathLike[str] | None = None,
    ) -> BinnedSpikes:
        """Count spikes in bins, exactly (see `spikecdl.data.binning`).

        Windows hold whole bins only: the rest at their end is not counted.  Bins that are not
        wholly inside a unit's observed intervals, and bins past the end of a trial that is shorter
        than the longest, have mask False and count 0.  Counts are of int32; in a file of int16 if
        that holds them.

        ``sub_bins`` of the result is 1 while no bin of any unit and trial of the recording holds
        two spikes, else the number of whole milliseconds in a bin, each of which holds a spike or
        none.  It is the same for all selections of ``units`` and ``trials``.

        Parameters
        ----------
        bin_size : float or str
            Seconds per bin, or a text with its unit, as in "5ms".  Numbers from 1 on are refused,
            as they are likely to be milliseconds; "2s" says that they are not.
        align : str, optional
            Column of times (s) that windows are relative to; needs ``window``.  Default: each
            trial's start.
        window : (float, float), optional
            Start and stop relative to the alignment, in seconds.  Default: each trial's own.
        units : str or sequence of ids, optional
            Query on the columns of ``units`` (``"location == 'ca1'"``), or ids.  Default: all.
        trials : str or sequence of ids, optional
            Query on the columns in pandas' syntax (``"split == 'train'"``), or ids.  Default: all.
        table : str
            Name of the table; without ``"trials"`` the whole recording is one trial.
        file : path_like, optional
            HDF5 file to hold the counts of a long recording, instead of memory; see `read_counts`.

        Raises
        ------
        ValueError
            If ``bin_size`` looks like milliseconds; if a column, unit, trial or table does not
            exist (the message lists what does), a
            window holds no whole bin, or a window is wholly outside the recording; if windows hold
            more than 10,000 bins for each spike, and more than 134 million.

        Examples
        --------
        >>> trials = {"start_time": [0, 1], "stop_time": [1, 2], "cue": [0.1, 1.2]}
        >>> spikes = SpikeTrains.from_arrays([[0.1, 0.4, 1.25]], trials=trials)
        >>> spikes.bin(0.1, align="cue", window=(0.0, 0.3), trials="cue > 1").counts
        array([[[1, 0, 0]]], dtype=int32)
        """
        size = binning.size_in_seconds(bin_size)
        with naming(self.source):
            chosen = self._unit_positions(units)
            whole = timing.as_table("trials", [[self.t_start, self.t_stop]])  # without trials
            tables = {"trials": whole, **self.tables}
            rows = tables[one_of("table", table, tables)]
            windows = timing.Windows.of(table, rows, trials, align, window)
            windows.check_inside(self.t_start, self.t_stop)
            times = [self.times[i] for i in chosen]
            observed = [self.observed[i] for i in chosen]
            edges = [windows.starts, windows.durations]
            clock = Clock.for_bins(size, self.clock_rate, [*edges, *times, *observed])
            n_bins = clock.bins(clock.ticks(windows.durations))
            if not n_bins.all():
                trial = windows.ids[int(np.argmin(n_bins))]
                raise ValueError(
                    f"`bin_size` (={size:g}) is longer than the window of trial {trial!r}; use "
                    "smaller bins (in seconds) or a longer window"
                )
            truth = None
            if table == "trials" and self.truth is not None:
                truth = self.truth.select(windows.rows, chosen)
            if truth is not None:  # a joint template may have no part in these units
                starts = rows["start_time"].to_numpy(dtype=float)[windows.rows]
                truth = truth.shift(windows.starts - starts, windows.durations)

            timed = ["start_time" if align is None else align, *["stop_time"] * (window is None)]
            every = timing.Windows.of(table, rows.dropna(subset=timed), None, align, window)
            in_all = (every.starts, every.durations, clock)
            shape = (len(n_bins), len(chosen), int(n_bins.max()))
            binning.check_size(shape, self.times, every.starts, every.durations)
            several = any(binning.holds_two_spikes(unit, *in_all) for unit in self.times)

            def binned(allocate: Allocate, dtype: Any = None) -> BinnedSpikes:
                parts = (times, observed, windows.starts, n_bins, clock)
                counts, mask = bin_spikes(*parts, allocate, dtype)
                if not mask.any():
                    raise ValueError(
                        "no bin of any window lies wholly inside the observed intervals"
                    )
                return BinnedSpikes(
                    counts=counts,
                    mask=mask,
                    bin_size=size,
                    t_start=windows.offset,
                    unit_ids=tuple(self.unit_ids[i] for i in chosen),
                    trial_ids=windows.ids,
                    n_pooled=mask.view(np.int8),
                    sub_bins=max(1, round(size / 1e-3)) if several or counts.max() > 1 else 1,
                    trial_starts=windows.starts,
                    source=self.source,
                    truth=truth,
                    windows=windows.chosen,
                )

            if file is None:
                return binned(lambda name, shape, dtype: np.zeros(shape, dtype), np.int32)
            with replacing(file, self.source, sealed=True) as temporary:
                counts_file.finish(temporary, binned(partial(counts_file.allocate, temporary)))
            return replace(counts_file.read_counts(file), windows=windows.chosen)

    def _unit_positions(self, units: str | Sequence[UnitId] | None) -> np.ndarray:
        chosen = self.unit_ids if units is None else units
        positions = {unit: i for i, unit in enumerate(self.unit_ids)}
        if isinstance(chosen, str) and chosen not in positions and self.units is not None:
            chosen = list(map(plain, timing.query("units", chosen, self.units)))
        wanted = [chosen] if isinstance(chosen, int | str) else list(chosen)
        if not wanted or not set(wanted) <= set(positions):
            raise ValueError(
                f"`units` (={shown(units)}) must be among the units [{listed(self.unit_ids, 20)}]"
                + ("" if self.units is None else ", or a query on their columns that selects some")
            )
        return np.array([positions[unit] for unit in wanted])
