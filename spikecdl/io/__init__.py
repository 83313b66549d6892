"""Read and write recordings: NWB, Neo and every format it reads, Phy and Kilosort, npz, counts.

A new format is one module with its reader and one line in `READERS`, which `read` asks in order.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spikecdl.data import BinnedSpikes, SpikeTrains
from spikecdl.data.counts_file import is_counts_file, read_counts, write_counts
from spikecdl.files import existing
from spikecdl.io.neo import neo_readers, read_neo, to_neo
from spikecdl.io.npz import read_npz, write_npz
from spikecdl.io.nwb_read import nwb_content, read_binned_nwb, read_nwb
from spikecdl.io.nwb_write import write_nwb
from spikecdl.io.phy import read_phy

__all__ = [
    "READERS",
    "Reader",
    "read",
    "read_binned_nwb",
    "read_counts",
    "read_neo",
    "read_npz",
    "read_nwb",
    "read_phy",
    "to_neo",
    "write_counts",
    "write_npz",
    "write_nwb",
]


@dataclass(frozen=True)
class Reader:
    """A format: its name, whether a path is of that format, and the function that reads it."""

    name: str
    recognises: Callable[[Path], bool]
    read: Callable[[Any], SpikeTrains | BinnedSpikes]


READERS = (
    Reader("npz", lambda path: path.suffix == ".npz", read_npz),
    Reader("counts in HDF5", is_counts_file, read_counts),
    Reader("binned NWB", lambda path: nwb_content(path) == "binned", read_binned_nwb),
    Reader("NWB or NWB-style HDF5", lambda path: nwb_content(path) == "spikes", read_nwb),
    Reader("Phy or Kilosort folder", lambda path: (path / "spike_times.npy").is_file(), read_phy),
    Reader("one of Neo's formats", lambda path: bool(neo_readers(path)), read_neo),
)


def read(path: str | os.PathLike[str]) -> SpikeTrains | BinnedSpikes:
    """Read a recording, or binned data, from a file or folder in a format that `READERS` lists.

    Raises
    ------
    FileNotFoundError, ValueError
        If nothing is there; if no reader knows the format, the file is damaged or has no spikes.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp(), "one.nwb")
    >>> write_nwb(path, SpikeTrains.from_arrays([[0.1, 0.25]], observed=(0.0, 1.0)))
    >>> read(path)
    SpikeTrains(1 unit, 2 spikes, 0 to 1 s)
    """
    path = existing(path)
    for reader in READERS:
        if reader.recognises(path):
            return reader.read(path)
    names = ", ".join(reader.name for reader in READERS)
    raise ValueError(f"{path} is of no format that can be read: {names}")
