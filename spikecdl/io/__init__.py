"""Read and write recordings: NWB, Neo and every format it reads, Phy and Kilosort, npz, counts.

A new format is one module with its reader and one line in `READERS`, which `read` asks in order.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

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
    """A format: its name, whether a path is of that format, and the function that reads it.

    The function takes ``follow_links`` if ``has_links``: if such a file may name other files.
    """

    name: str
    recognises: Callable[[Path], bool]
    read: Callable[..., SpikeTrains | BinnedSpikes]
    has_links: bool = False


READERS = (
    Reader("npz", lambda path: path.suffix == ".npz", read_npz),
    Reader("counts in HDF5", is_counts_file, read_counts),
    Reader("binned NWB", lambda path: nwb_content(path) == "binned", read_binned_nwb, True),
    Reader("NWB or NWB-style HDF5", lambda path: nwb_content(path) == "spikes", read_nwb, True),
    Reader("Phy or Kilosort folder", lambda path: (path / "spike_times.npy").is_file(), read_phy),
    Reader("one of Neo's formats", lambda path: bool(neo_readers(path)), read_neo, True),
)


def read(path: str | os.PathLike[str], *, follow_links: bool = False) -> SpikeTrains | BinnedSpikes:
    """Read a recording, or binned data, from a file or folder in a format that `READERS` lists.

    Parameters
    ----------
    path : path_like
    follow_links : bool
        Whether an HDF5 file may have its data in other files (external links, external storage,
        virtual datasets): a file of unknown origin could name any file that you can read.

    Raises
    ------
    FileNotFoundError
        If nothing is there.
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
    """
    path = existing(path)
    for reader in READERS:
        if reader.recognises(path):
            links = {"follow_links": follow_links} if reader.has_links else {}
            return reader.read(path, **links)
    names = ", ".join(reader.name for reader in READERS)
    raise ValueError(f"{path} is of no format that can be read: {names}")
