"""Counts in an HDF5 file, mapped and not loaded: for those that do not fit in memory."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spikecdl.data import hdf5
from spikecdl.data.binned import BinnedSpikes, blocks
from spikecdl.data.truth import Truth
from spikecdl.files import existing, replacing

if TYPE_CHECKING:
    import h5py

_KIND = "spikecdl counts"  # attribute `kind` of the file


def allocate(path: Path, name: str, shape: Sequence[int], dtype: Any) -> np.ndarray:
    """Return an array of zeros that is a map of a file of counts, which is made if it is missing.

    Writing to it writes to the file; `finish` adds the rest.
    """
    import h5py
    from h5py import h5d, h5p

    in_one_piece = h5p.create(h5p.DATASET_CREATE)
    in_one_piece.set_layout(h5d.CONTIGUOUS)
    in_one_piece.set_alloc_time(h5d.ALLOC_TIME_EARLY)
    with h5py.File(path, "a") as file:
        file.attrs["kind"] = _KIND
        made = file.create_dataset(name, shape, dtype, dcpl=in_one_piece)
        file.flush()
        return _mapped(path, made, "r+")


def finish(path: Path, counts: BinnedSpikes) -> None:
    """Write all parts of the counts that are not in the file yet."""
    import h5py

    with h5py.File(path, "r+") as file:
        file["header"] = json.dumps(counts.header())
        file["trial_starts"] = counts.trial_starts
        if counts.truth is not None:
            file["truth/header"] = json.dumps(counts.truth.header())
            for name, values in counts.truth.arrays().items():
                file[f"truth/{name}"] = values


def write_counts(path: str | os.PathLike[str], counts: BinnedSpikes) -> BinnedSpikes:
    """Write counts to an HDF5 file, and return them as `read_counts` opens them.

    An existing file is replaced; ValueError if it is the one that the counts were read from.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp(), "counts.h5")
    >>> write_counts(path, BinnedSpikes.from_array([[0, 1, 1]], 0.005))
    BinnedSpikes(1 trial, 1 unit, 3 bins of 0.005 s, 2 spikes)
    """
    needed = {"counts": True, "mask": not counts.mask.all(), "n_pooled": counts.n_pooled.max() > 1}
    with replacing(path, counts.source, sealed=True) as temporary:
        for name in filter(needed.get, needed):
            array = getattr(counts, name)
            stored = allocate(temporary, name, array.shape, array.dtype)
            for block in blocks(array.shape):
                stored[block] = array[block]
        finish(temporary, counts)
    return read_counts(path)


def read_counts(path: str | os.PathLike[str]) -> BinnedSpikes:
    """Open counts that `write_counts` or `SpikeTrains.bin` wrote.

    The arrays stay in the file, and the operating system loads the parts that are used.  The file
    must not be changed while they are in use.  Errors are those of `spikecdl.read`.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp(), "counts.h5")
    >>> counts = write_counts(path, BinnedSpikes.from_array([[0, 1, 1], [2, 0, 0]], 0.005))
    >>> read_counts(path).counts[1]
    array([[2, 0, 0]])
    """
    path = existing(path)
    if not is_counts_file(path):
        raise ValueError(f"{path}: not a file of counts that spikecdl wrote")
    with hdf5.opened(path, "counts in HDF5") as file:
        counts = _mapped(path, file["counts"])
        every = np.broadcast_to(True, counts.shape)
        mask = _mapped(path, file["mask"]) if "mask" in file else every
        if mask.view(np.uint8).max() > 1:
            raise ValueError("`mask` holds other values than True and False; use another copy")
        known = file.get("truth")
        return BinnedSpikes(
            **_header(file),
            counts=counts,
            mask=mask,
            n_pooled=_mapped(path, file["n_pooled"]) if "n_pooled" in file else mask.view(np.int8),
            trial_starts=file["trial_starts"][:],
            source=str(path),
            truth=None if known is None else Truth.from_parts(_header(known), known),
        )


def is_counts_file(path: Path) -> bool:
    """Return whether a file is of this format."""
    with hdf5.peeked(path) as file:
        return file is not None and str(hdf5.attribute(file, "kind", "")) == _KIND


def _mapped(path: Path, dataset: h5py.Dataset, mode: Any = "r") -> np.memmap:
    """Return an array in a file as a map of its bytes."""
    offset = dataset.id.get_offset()
    if offset is None:
        raise ValueError(
            f"`{dataset.name[1:]}` is stored in chunks or compressed and cannot be mapped; write "
            "the file anew with spikecdl.write_counts"
        )
    if offset + dataset.nbytes > path.stat().st_size:
        raise ValueError(f"`{dataset.name[1:]}` is cut short; use another copy of the file")
    return np.memmap(path, dataset.dtype, mode, offset, dataset.shape)


def _header(group: h5py.Group) -> dict[str, Any]:
    return json.loads(hdf5.values(group["header"]))
