"""Arrays of (trial, column, bin) as NWB TimeSeries, windows one after another, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spikecdl.data import BinnedSpikes
from spikecdl.io.hdf_tables import add_intervals, read_values

if TYPE_CHECKING:
    import h5py
    from pynwb import NWBFile

MODULE = "ecephys"


@dataclass(frozen=True, eq=False)
class TimeAxis:
    """Where the windows of binned data lie: at their own times, or end to end from 0."""

    starts: np.ndarray
    n_bins: int
    bin_size: float

    @classmethod
    def of(cls, counts: BinnedSpikes) -> TimeAxis:
        """Use the windows' times in the recording where they are known and do not overlap."""
        starts = counts.trial_starts
        gaps = np.diff(starts) - counts.duration
        if not np.isfinite(starts).all() or np.any(gaps < -1e-6 * counts.bin_size):
            starts = counts.duration * np.arange(len(counts))
        return cls(starts, counts.n_bins, counts.bin_size)

    def add(self, file: NWBFile, name: str, values: np.ndarray, unit: str, about: str) -> None:
        """Add (trial, column, bin) values to the module as one series (time, column).

        Split where there are more columns than rows, which NWB takes for a swapped time axis.
        """
        from hdmf.backends.hdf5 import H5DataIO
        from pynwb import TimeSeries

        rows = np.moveaxis(values, 1, 2).reshape(-1, values.shape[1])
        parts = range(0, rows.shape[1], len(rows))
        for i, first in enumerate(parts):
            part = np.ascontiguousarray(rows[:, first : first + len(rows)])
            split = f"; columns {first} to {first + part.shape[1] - 1}" if len(parts) > 1 else ""
            series = TimeSeries(
                name=f"{name}_{i}" if len(parts) > 1 else name,
                description=about + split,
                data=H5DataIO(part, compression="gzip"),
                unit=unit,
                **self._times(),
            )
            add_to_module(file, series)

    def add_windows(self, file: NWBFile, name: str, trial_ids: Sequence[int | str]) -> None:
        """Add the interval table that says where each window lies, if there are several."""
        import pandas as pd

        if len(self.starts) > 1:
            stops = self.starts + self.n_bins * self.bin_size
            columns = {"start_time": self.starts, "stop_time": stops}
            add_intervals(file, name, pd.DataFrame(columns, index=pd.Index(list(trial_ids))))

    def _times(self) -> dict[str, Any]:
        apart = np.diff(self.starts) - self.n_bins * self.bin_size
        if np.all(np.abs(apart) <= 1e-6 * self.bin_size):
            return {"starting_time": float(self.starts[0]), "rate": 1.0 / self.bin_size}
        times = np.add.outer(self.starts, self.bin_size * np.arange(self.n_bins))
        return {"timestamps": times.ravel()}


def has_series(module: Mapping[str, Any], name: str) -> bool:
    """Return whether `TimeAxis.add` wrote this series, whole or split."""
    return name in module or f"{name}_0" in module


def read_series(module: h5py.Group, name: str, shape: Sequence[int]) -> np.ndarray:
    """Read what `TimeAxis.add` wrote of an array of this shape (trial, column, bin)."""
    names = [name] if name in module else []
    while f"{name}_{len(names)}" in module:
        names.append(f"{name}_{len(names)}")
    trials, columns, bins = shape
    rows = np.concatenate([np.asarray(module[part]["data"]) for part in names], axis=1)
    return rows.reshape(trials, bins, columns).transpose(0, 2, 1)


def add_to_module(file: NWBFile, thing: Any) -> None:
    """Add a series or table to the processing module, which is made when it is first needed."""
    if MODULE not in file.processing:
        file.create_processing_module(MODULE, "Templates of firing-rate change, and binned data")
    file.processing[MODULE].add(thing)


def write_notes(file: NWBFile, about: Mapping[str, Any]) -> None:
    """Write what series and tables cannot say as JSON into the file's notes."""
    if about:
        file.notes = json.dumps(about)


def read_notes(file: h5py.File) -> dict[str, Any]:
    """Read what `write_notes` wrote.

    Raises
    ------
    ValueError
        If it is not there.
    """
    try:
        return json.loads(read_values(file["general/notes"]))
    except (KeyError, TypeError, ValueError):
        raise ValueError("general/notes hold no JSON, as spikecdl writes it") from None


def numbers(values: np.ndarray) -> list[float | None]:
    """Return a vector for JSON, which has no nan: None instead."""
    return [value if np.isfinite(value) else None for value in values.tolist()]
