"""Arrays of (trial, column, bin) as NWB TimeSeries, windows one after another, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spikecdl.data import BinnedSpikes
from spikecdl.io._hdf_tables import text
from spikecdl.io._nwb_tables import add_intervals

if TYPE_CHECKING:
    import h5py
    from pynwb import NWBFile

MODULE = "ecephys"
_SETTINGS = "Settings: "


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


def read_series(module: h5py.Group, name: str) -> tuple[np.ndarray, dict[str, Any]]:
    """Read what `TimeAxis.add` wrote, as (trial, column, bin), and the settings it came with.

    Raises
    ------
    ValueError
        If the series came without settings, so that its shape is not known.
    """
    names = [name] if name in module else []
    while f"{name}_{len(names)}" in module:
        names.append(f"{name}_{len(names)}")
    settings = settings_in(module[names[0]])
    trials, columns, bins = settings["shape"]
    rows = np.concatenate([np.asarray(module[part]["data"]) for part in names], axis=1)
    return rows.reshape(trials, bins, columns).transpose(0, 2, 1), settings


def add_to_module(file: NWBFile, thing: Any) -> None:
    """Add a series or table to the processing module, which is made when it is first needed."""
    if MODULE not in file.processing:
        file.create_processing_module(MODULE, "Templates of firing-rate change, and binned data")
    file.processing[MODULE].add(thing)


def with_settings(description: str, settings: Mapping[str, Any]) -> str:
    """Return a description that ends with settings as JSON."""
    return f"{description}. {_SETTINGS}{json.dumps(settings)}"


def settings_in(series_or_table: h5py.Group) -> dict[str, Any]:
    """Return the settings at the end of a description.

    Raises
    ------
    ValueError
        If there are none.
    """
    description = text(series_or_table.attrs.get("description", ""))
    if _SETTINGS not in description:
        raise ValueError(f"{series_or_table.name} was not written by spikecdl: it lacks settings")
    return json.JSONDecoder().raw_decode(description.partition(_SETTINGS)[2])[0]
