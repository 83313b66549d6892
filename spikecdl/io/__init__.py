"""Read and write recordings: NWB, all that Neo reads, Phy and Kilosort, npz, counts, text.

A new format is one module with its reader and one line in `READERS`, which `read` asks in order; a
new kind of object is one line in `CONVERTERS`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spikecdl.data import BinnedSpikes, SpikeTrains
from spikecdl.data.counts_file import is_counts_file, read_counts, write_counts
from spikecdl.data.labelled import is_a, labelled
from spikecdl.data.times import as_observed, as_table, check_columns, union
from spikecdl.files import existing, reading
from spikecdl.io import sorters
from spikecdl.io.neo import neo_readers, read_neo, to_neo
from spikecdl.io.npz import read_npz, write_npz
from spikecdl.io.nwb_read import nwb_content, read_binned_nwb, read_nwb, read_nwb_times
from spikecdl.io.nwb_write import write_nwb
from spikecdl.io.sorters import read_phy, read_spikeinterface
from spikecdl.validation import extra, listed, plain

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
    "read_nwb_times",
    "read_phy",
    "read_spikeinterface",
    "read_text",
    "to_neo",
    "to_pynapple",
    "write_counts",
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


def from_table(table: pd.DataFrame, *, observed: Any = None, trials: Any = None) -> SpikeTrains:
    """Return the spikes in a long table: one row per spike, with the columns ``unit`` and ``time``.

    Times are in seconds of the recording; they are sorted within each unit, duplicates are kept.
    Other columns (amplitudes, ...) are left out.

    Parameters
    ----------
    table : DataFrame
    observed, trials
        As in `SpikeTrains.from_arrays`.

    Raises
    ------
    ValueError
        If a column is missing or a unit is not named; if there is a column ``trial``, as times are
        then likely to be relative to trials.

    Examples
    --------
    >>> import pandas as pd
    >>> from_table(pd.DataFrame({"unit": ["a", "b", "a"], "time": [0.4, 0.2, 0.1]}))
    SpikeTrains(2 units, 3 spikes, 0 to 0.4 s)
    """
    check_columns("spikes", table, "unit", "time")
    if "trial" in table:
        raise ValueError(
            "the table of spikes has a column 'trial'; add the start of its trial to each time, "
            "drop the column, and give `trials`, a table with start_time and stop_time"
        )
    if table["unit"].isna().any():
        raise ValueError("the table of spikes has rows without a unit; drop them, or name the unit")
    times = {plain(unit): rows.to_numpy() for unit, rows in table.groupby("unit")["time"]}
    more: dict[str, Any] = {"source": "table", "sort": True, "duplicates": "keep"}
    return SpikeTrains.from_arrays(times, observed=observed, trials=trials, **more)


def read_text(path: str | os.PathLike[str]) -> SpikeTrains:
    """Read a table of spikes from text: one row per spike, with its unit and its time in seconds.

    Columns are separated by tabs, semicolons, commas or blanks, and named ``unit`` and ``time`` in
    the first line; others are left out.  Without names, two columns are taken if only one holds
    whole numbers or words, some of them twice, which are the units; a single column holds the times
    of one unit.

    Parameters
    ----------
    path : path_like

    Raises
    ------
    FileNotFoundError, ValueError
        If the file is missing or damaged, or it is not clear which column is the unit and which the
        time; as `from_table` does.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp(), "spikes.txt")
    >>> _ = path.write_text("3\\t0.12\\n7\\t0.31\\n3\\t1.4\\n")
    >>> read_text(path)
    SpikeTrains(2 units, 3 spikes, 0 to 1.4 s)
    """
    import pandas as pd

    path = existing(path)
    with reading(path, "a table of spikes"):
        separator, rows = _first_rows(path)
        named = _are_names(rows[0])
        how: dict[str, Any] = {"header": None, "skipinitialspace": True, "encoding": "utf-8-sig"}
        how |= {"names": list(map(str.lower, rows[0])), "skiprows": 1} if named else {}
        table = pd.read_csv(path, sep=separator or r"\s+", **how)
        if not named and len(table.columns) == 1:
            table = pd.DataFrame({"unit": 0, "time": table[0]})
        elif not named and len(table.columns) == 2:
            whole = [name for name in table if _is_whole(table[name])]
            if len(whole) == 1 and table[whole[0]].duplicated().any():  # a unit with two spikes
                table = table.rename(columns={whole[0]: "unit", 1 - whole[0]: "time"})
        if not {"unit", "time"} <= set(table.columns):
            raise ValueError(
                f"which of the columns {list(table.columns)} is the unit of a spike and which its "
                "time is not clear; name them unit and time (in seconds) in the first line"
            )
        table["unit"] = table["unit"].convert_dtypes()  # 3.0 is 3
        return replace(from_table(table), source=str(path))


def _is_text(path: Path) -> bool:
    """Whether a file is a table of spikes in text, not a train per line, which Neo reads (.txt)."""
    if path.suffix == ".txt" and path.is_file():
        _, rows = _first_rows(path)
        return _are_names(rows[0]) or {len(row) for row in rows} in ({1}, {2})
    return path.suffix in (".csv", ".tsv")


def _first_rows(path: Path, most: int = 100) -> tuple[str | None, list[list[str]]]:
    """Return what separates columns, None for blanks, and the first rows of a text file."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        lines = [line.strip("# \t\n") for line in islice(file, most) if line.strip()]
    separator = next((mark for mark in "\t;," if mark in "".join(lines[:1])), None)
    rows = [[cell.strip('" ') for cell in line.split(separator)] for line in lines]
    return separator, rows or [[]]


def _are_names(row: list[str]) -> bool:
    return bool(row) and all(cell[:1].isalpha() for cell in row if cell)


def _is_whole(column: pd.Series) -> bool:
    """Whether a column holds whole numbers or words."""
    return column.dtype.kind != "f" or bool((column % 1 == 0).all())


def _is_of_neo(source: Any) -> bool:
    some = source if isinstance(source, list | tuple) and source else [source]
    return all(is_a(each, "neo", "Block", "Segment", "SpikeTrain") for each in some)


def _of(library: str, *names: str) -> Callable[[Any], bool]:
    return lambda source: is_a(source, library, *names)


_OF_A_FILE = _of("pynapple", "NWBFile")
_SORTINGS = _of("spikeinterface", "BaseSorting", "SortingAnalyzer")
_GROUPS = partial(SpikeTrains.from_arrays, duplicates="keep")
_COUNTS = "a DataArray, TsdFrame, BinnedSpikeTrain or sparse array"
CONVERTERS: tuple[Converter, ...] = (
    Converter("a TsGroup of pynapple", _of("pynapple", "TsGroup"), _GROUPS),
    Converter(
        "a mapping of units to times",
        lambda source: isinstance(source, Mapping) and not _OF_A_FILE(source),
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
    Converter("table of spikes in text (.csv, .tsv, .txt)", _is_text, read_text, ()),
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
        raise ValueError(f"{source} is of no format that can be read: {', '.join(names)}")
    raise TypeError(f"`source` ({type(source).__name__}) {_remedy(source, names)}")


def _remedy(source: Any, names: Sequence[str]) -> str:
    """Say what to give in place of an object of none of the kinds that are read."""
    if _OF_A_FILE(source):
        return "is a file as pynapple holds it; give its path, or its units: read(source['units'])"
    if isinstance(source, np.ndarray | list | tuple) or is_a(source, "pynapple", "Ts"):
        return (
            "does not say what it holds; spike times come with the names of their units, as in "
            "read({'a': times}), and counts go to BinnedSpikes.from_array(source, bin_size)"
        )
    return f"must be a path, or: {'; '.join(names)}"


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
    """Return a recording or events as a TsGroup of pynapple, or other intervals as an IntervalSet.

    Columns of ``units``, or of the table, become metadata.  The time support of a recording is the
    time in which any unit was observed; a warning says if units differ in it, as a group cannot
    hold that.  Ids that are not integers become 0, 1, ... and are kept in the metadata, as
    ``unit_id``; `read` gives them back.

    Events, which may overlap, become a group with a Tsd for each template: the amplitudes of its
    events, of all units, at their onsets in the recording.

    Parameters
    ----------
    data : SpikeTrains or DataFrame
        A table of events is that of `Decomposition.events` or `Decomposition.intervals`, or some of
        its rows.  Any other has the columns ``start_time`` and ``stop_time``, as
        ``spikes.trials``.

    Raises
    ------
    ValueError
        If intervals of a table overlap, which an IntervalSet cannot hold; if there are no events,
        or it is not known when they are in the recording.
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
        table = as_table("data", data)
        is_events = {"template", "amplitude"} <= set(table.columns)
        return _events(pynapple, table) if is_events else _intervals(pynapple, table)
    support = union(np.concatenate(data.observed))
    if any(not np.array_equal(union(rows), support) for rows in data.observed):
        warnings.warn(
            "units were observed at different times, which a TsGroup cannot hold: its time support "
            "is the time in which any of them was",
            stacklevel=2,
        )
    about = {} if data.units is None else {str(key): list(v) for key, v in data.units.items()}
    ids = data.unit_ids
    if not all(isinstance(unit, int) for unit in ids):
        ids, about["unit_id"] = tuple(range(len(ids))), list(map(str, data.unit_ids))
    support = pynapple.IntervalSet(support)
    trains = [pynapple.Ts(times, time_support=support) for times in data.times]
    return pynapple.TsGroup(
        dict(zip(ids, trains, strict=True)), time_support=support, metadata=about
    )


def _events(pynapple: Any, table: pd.DataFrame) -> Any:
    about = table.attrs  # of `Decomposition.events`
    spans = table.filter(["start_time", "stop_time"]).to_numpy(dtype=float)
    if "trials" in about:
        zeros = dict(zip(about["trials"], about["zeros"], strict=True))
        table["start_time"] = table["trial"].map(zeros) + table["time"]
        spans = np.add.outer(about["zeros"], about["window"])
    if not spans.size or "start_time" not in table:
        raise ValueError(
            "`data` must hold events with their times in the recording, start_time and stop_time; "
            "give `Decomposition.intervals()` of counts whose `trial_starts` are known"
        )
    support = pynapple.IntervalSet(union(spans))
    each = {
        template: pynapple.Tsd(
            rows["start_time"].to_numpy(), rows["amplitude"].to_numpy(), time_support=support
        )
        for template, rows in table.sort_values("start_time").groupby("template")
    }
    return pynapple.TsGroup(each, time_support=support)


def _intervals(pynapple: Any, table: pd.DataFrame) -> Any:
    check_columns("data", table, "start_time", "stop_time")
    table = table.sort_values("start_time")
    edges = table[["start_time", "stop_time"]].to_numpy(dtype=float)
    if np.any(edges[1:, 0] < edges[:-1, 1]):
        first = int(np.argmax(edges[1:, 0] < edges[:-1, 1]))
        raise ValueError(
            f"intervals overlap ({listed(edges[first].tolist())} s and the next), which an "
            "IntervalSet cannot hold; select rows that do not"
        )
    about = {str(key): list(table[key]) for key in table.columns.drop(["start_time", "stop_time"])}
    return pynapple.IntervalSet(edges, metadata=about)
