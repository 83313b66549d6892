"""Read and write recordings: NWB, Neo and every format it reads, Phy and Kilosort, npz, counts.

A new format is one module with its reader and one line in `READERS`, which `read` asks in order; a
new kind of object is one line in `CONVERTERS`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from spikecdl.data import BinnedSpikes, SpikeTrains
from spikecdl.data.counts_file import is_counts_file, read_counts, write_counts
from spikecdl.data.labelled import is_a, labelled
from spikecdl.data.times import as_observed, as_table, check_columns, union
from spikecdl.files import existing
from spikecdl.io import sorters
from spikecdl.io.neo import neo_readers, read_neo, to_neo
from spikecdl.io.npz import read_npz, write_npz
from spikecdl.io.nwb_read import (
    nwb_content,
    read_binned_nwb,
    read_nwb,
    read_nwb_signal,
    read_nwb_times,
)
from spikecdl.io.nwb_write import write_nwb
from spikecdl.io.sorters import read_phy, read_spikeinterface
from spikecdl.io.tables import from_table, is_table, read_table, write_mat
from spikecdl.validation import extra, listed, names_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "CONVERTERS",
    "READERS",
    "Converter",
    "from_table",
    "read",
    "read_binned_nwb",
    "read_counts",
    "read_neo",
    "read_npz",
    "read_nwb",
    "read_nwb_signal",
    "read_nwb_times",
    "read_phy",
    "read_spikeinterface",
    "read_table",
    "to_neo",
    "to_pynapple",
    "write_counts",
    "write_mat",
    "write_npz",
    "write_nwb",
]


_LINKS = ("follow_links",)  # of readers of files that may name other files


@dataclass(frozen=True)
class Converter:
    """Objects or files of one kind: their name, which they are, and the function that reads them.

    The function takes the object or path and, by name, those of ``arguments`` that are given to
    `read`.
    """

    name: str
    recognises: Callable[[Any], bool]
    convert: Callable[..., SpikeTrains | BinnedSpikes]
    arguments: tuple[str, ...] = ("observed", "trials")


def _is_of_neo(source: Any) -> bool:
    some = source if isinstance(source, list | tuple) and source else [source]
    return all(is_a(each, "neo", "Block", "Segment", "SpikeTrain") for each in some)


def _of(library: str, *names: str) -> Callable[[Any], bool]:
    return lambda source: is_a(source, library, *names)


_SORTINGS = _of("spikeinterface", "BaseSorting", "SortingAnalyzer")
_GROUPS = partial(SpikeTrains.from_arrays, duplicates="keep")
_COUNTS = "a DataArray, TsdFrame, BinnedSpikeTrain or sparse array"
CONVERTERS: tuple[Converter, ...] = (
    Converter("a TsGroup of pynapple", _of("pynapple", "TsGroup"), _GROUPS),
    Converter(
        "a mapping of units to times",
        lambda source: isinstance(source, Mapping),
        SpikeTrains.from_arrays,
    ),
    Converter("a Block, Segment or SpikeTrain of Neo", _is_of_neo, read_neo, ()),
    Converter("a sorting or analyzer of spikeinterface", _SORTINGS, read_spikeinterface),
    Converter("a DataFrame with the columns unit and time", _of("pandas", "DataFrame"), from_table),
    Converter(_COUNTS, lambda x: labelled(x) is not None, BinnedSpikes.from_array, ("bin_size",)),
)
"""Kinds of objects that `spikecdl.read` takes, asked in this order."""


READERS: tuple[Converter, ...] = (
    Converter("npz", lambda path: path.suffix == ".npz", read_npz, ()),
    Converter("counts in HDF5", is_counts_file, read_counts, ()),
    Converter("binned NWB", lambda path: nwb_content(path) == "binned", read_binned_nwb, _LINKS),
    Converter(
        "NWB or NWB-style HDF5", lambda path: nwb_content(path) == "spikes", read_nwb, _LINKS
    ),
    Converter("Phy or Kilosort folder", sorters.is_phy_folder, read_phy, ()),
    Converter(
        "sorting or analyzer of spikeinterface",
        sorters.is_spikeinterface_folder,
        read_spikeinterface,
        (),
    ),
    Converter("text with the columns unit and time", is_table, read_table, ()),
    Converter("one of Neo's formats", lambda path: bool(neo_readers(path)), read_neo, _LINKS),
)
"""Formats that `spikecdl.read` reads, asked in this order."""


def read(
    source: Any,
    *,
    observed: Any = None,
    trials: Any = None,
    bin_size: float | None = None,
    follow_links: bool = False,
) -> SpikeTrains | BinnedSpikes:
    """Read a recording or counts: a file or folder of `READERS`, or an object of `CONVERTERS`.

    These are objects of pynapple, spikeinterface, Neo, elephant, pandas, xarray and scipy.

    Parameters
    ----------
    source : path_like or object
        Path; or a mapping of units to spike times in seconds, a TsGroup (pynapple), a BaseSorting
        or SortingAnalyzer (spikeinterface), a Block, Segment, SpikeTrain or list of these (Neo), a
        DataFrame with the columns ``unit`` and ``time``.  Counts: see `BinnedSpikes.from_array`.
    observed, trials : optional
        As in `SpikeTrains.from_arrays`, in place of what the source knows.
    bin_size : float, optional
        Seconds per bin of arrays of counts that do not say it.
    follow_links : bool
        Whether an HDF5 file may have its data in other files (external links, external storage,
        virtual datasets): a file of unknown origin could name any file that you can read.

    Raises
    ------
    FileNotFoundError
        If nothing is there.
    TypeError
        If an object is of no kind that can be converted.
    ValueError
        If no reader knows the format; if the file is damaged, no regular file, or has no spikes;
        if it names other files, or these are missing; or if it declares more than it can hold, or
        more than 0.5 GB (SPIKECDL_MAX_GB in the environment) and 100 times its size.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp(), "one.nwb")
    >>> write_nwb(path, SpikeTrains.from_arrays([[0.1, 0.25]], observed=(0.0, 1.0)))
    >>> read(path)
    SpikeTrains(1 unit, 2 spikes, 0 to 1 s)
    >>> read({"a": [0.1, 0.25], "b": [0.2]}, trials=[[0.0, 0.5], [0.5, 1.0]])
    SpikeTrains(2 units, 3 spikes, 0 to 1 s, 2 trials)
    """
    asked = {"observed": observed, "trials": trials, "bin_size": bin_size}
    given: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    kinds = CONVERTERS
    if is_path := isinstance(source, str | os.PathLike):
        source, kinds = existing(source), READERS
        given["follow_links"] = follow_links
    for kind in kinds:
        if kind.recognises(source):
            taken = {name: value for name, value in given.items() if name in kind.arguments}
            rest = {name: value for name, value in given.items() if name not in (*taken, *_LINKS)}
            return _completed(kind.convert(source, **taken), rest)
    names = [kind.name for kind in kinds]
    if is_path:
        raise ValueError(f"{source} cannot be read: it is none of {', '.join(names)}")
    raise TypeError(f"`source` ({type(source).__name__}) must be a path, or: {'; '.join(names)}")


def _completed(data: SpikeTrains | BinnedSpikes, given: Mapping[str, Any]) -> Any:
    """Return a recording with the observed intervals and trials of a user in place of its own."""
    if not given:
        return data
    if not isinstance(data, SpikeTrains):
        raise ValueError(f"`{next(iter(given))}` is for spike times, but these are counts in bins")
    if "bin_size" in given:
        raise ValueError("`bin_size` is for arrays of counts; count these spikes with `bin`")
    parts: dict[str, Any] = {}
    if "trials" in given:
        parts["trials"] = as_table("trials", given["trials"])
    if "observed" in given:
        parts["observed"] = as_observed(given["observed"], data.times, list(data.tables.values()))
    return replace(data, **parts)


def to_pynapple(data: SpikeTrains | pd.DataFrame) -> Any:
    """Return a recording or events as a TsGroup of pynapple, or a table as an IntervalSet.

    Columns of ``units``, or of the table, become metadata.  The time support of a group is the time
    in which any unit was observed; a warning says if units differ in it, as a group cannot hold
    that.  Ids that are not integers become 0, 1, ... and are kept in the metadata, as ``unit_id``;
    `read` gives them back.

    A table with the column ``template``, of events, becomes a TsGroup with a Tsd for each template:
    when its events begin in the recording, and their amplitudes.  Events may overlap, which the
    intervals of an IntervalSet may not.

    Parameters
    ----------
    data : SpikeTrains or DataFrame
        A table has the columns ``start_time`` and ``stop_time``, as ``spikes.trials`` and
        `Decomposition.intervals`.

    Raises
    ------
    ValueError
        If a table lacks a column, as `Decomposition.events` does, whose times are those in a trial;
        or if intervals overlap that are not of events.
    ModuleNotFoundError
        If pynapple is not installed: ``pip install "spikecdl[interop]"``.

    Examples
    --------
    >>> spikes = SpikeTrains.from_arrays({"a": [0.1, 0.4], "b": [0.2]}, observed=(0.0, 1.0))
    >>> group = to_pynapple(spikes)  # doctest: +SKIP
    >>> group[0].t, list(group["unit_id"])  # doctest: +SKIP
    (array([0.1, 0.4]), ['a', 'b'])
    """
    with extra("interop", "an object of pynapple's"):
        import pynapple

    if not isinstance(data, SpikeTrains):
        return _intervals(pynapple, as_table("data", data))
    support = union(np.concatenate(data.observed))
    if any(not np.array_equal(union(rows), support) for rows in data.observed):
        warnings.warn(
            "units were observed at different times, which a TsGroup cannot hold: its time support "
            "is the time in which any of them was",
            stacklevel=2,
        )
    support = pynapple.IntervalSet(support)
    about = {} if data.units is None else {str(key): list(v) for key, v in data.units.items()}
    ids = data.unit_ids
    if not all(isinstance(unit, int) for unit in ids):
        ids, about["unit_id"] = tuple(range(len(ids))), list(map(str, data.unit_ids))
    trains = [pynapple.Ts(times, time_support=support) for times in data.times]
    return pynapple.TsGroup(
        dict(zip(ids, trains, strict=True)), time_support=support, metadata=about
    )


def _intervals(pynapple: Any, table: pd.DataFrame) -> Any:
    if "template" in table and "start_time" not in table:
        raise ValueError(
            "`data` has events at times in a trial; pass `Decomposition.intervals()`, which have "
            "times of the recording"
        )
    check_columns("data", table, "start_time", "stop_time")
    table = table.sort_values("start_time")
    if "template" in table:
        support = pynapple.IntervalSet(table["start_time"].min(), table["stop_time"].max())
        events = {int(name): rows for name, rows in table.groupby("template")}
        times = {name: rows["start_time"].to_numpy() for name, rows in events.items()}
        return pynapple.TsGroup(
            {
                name: pynapple.Tsd(times[name], rows["amplitude"].to_numpy(), time_support=support)
                for name, rows in events.items()
            },
            time_support=support,
        )
    edges = table[["start_time", "stop_time"]].to_numpy(dtype=float)
    if np.any(edges[1:, 0] < edges[:-1, 1]):
        first = int(np.argmax(edges[1:, 0] < edges[:-1, 1]))
        raise ValueError(
            f"intervals overlap ({listed(edges[first].tolist())} s and the next), which an "
            "IntervalSet cannot hold; select some of the rows"
        )
    about = {str(key): list(table[key]) for key in table.columns.drop(["start_time", "stop_time"])}
    return pynapple.IntervalSet(edges, metadata=about)


__dir__ = names_of(__name__)
