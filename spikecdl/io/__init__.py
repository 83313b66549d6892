"""Read and write recordings: NWB, Neo and every format it reads, Phy and Kilosort, npz, counts.

A new format is one module with its reader and one line in `READERS`, which `read` asks in order; a
new kind of object is one line in `CONVERTERS`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spikecdl.data import BinnedSpikes, SpikeTrains
from spikecdl.data.counts_file import is_counts_file, read_counts, write_counts
from spikecdl.files import existing
from spikecdl.io.interop import CONVERTERS, LINKS, Converter, convert, from_table, to_pynapple
from spikecdl.io.neo import neo_readers, read_neo, to_neo
from spikecdl.io.npz import read_npz, write_npz
from spikecdl.io.nwb_read import nwb_content, read_binned_nwb, read_nwb, read_nwb_times
from spikecdl.io.nwb_write import write_nwb
from spikecdl.io.sorters import (
    is_phy_folder,
    is_spikeinterface_folder,
    read_phy,
    read_spikeinterface,
)

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
    "to_neo",
    "to_pynapple",
    "write_counts",
    "write_npz",
    "write_nwb",
]


def _content(kind: str) -> Callable[[Path], bool]:
    return lambda path: nwb_content(path) == kind


READERS = (
    Converter("npz", lambda path: path.suffix == ".npz", read_npz, ()),
    Converter("counts in HDF5", is_counts_file, read_counts, ()),
    Converter("binned NWB", _content("binned"), read_binned_nwb, LINKS),
    Converter("NWB or NWB-style HDF5", _content("spikes"), read_nwb, LINKS),
    Converter("Phy or Kilosort folder", is_phy_folder, read_phy, ()),
    Converter(
        "sorting or analyzer of spikeinterface", is_spikeinterface_folder, read_spikeinterface, ()
    ),
    Converter("one of Neo's formats", lambda path: bool(neo_readers(path)), read_neo, LINKS),
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
    given = {name: value for name, value in asked.items() if value is not None}
    if not isinstance(source, str | os.PathLike):
        return convert(source, CONVERTERS, given)
    return convert(existing(source), READERS, {**given, "follow_links": follow_links})
