"""Counts in an HDF5 file, read where they lie: recordings whose counts do not fit in memory."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spikecdl.data.binned import BinnedSpikes, blocks, not_pooled
from spikecdl.data.truth import EVENT_COLUMNS, Truth
from spikecdl.files import HDF5_SIGNATURE, existing, reading, replacing, starts_with

if TYPE_CHECKING:
    import h5py

_KIND = "spikecdl counts"  # what the file says that it is
_IN_HEADER = ("bin_size", "t_start", "unit_ids", "trial_ids", "sub_bins")
_OF_TRUTH = ("bin_size", "family", "layout", "settings")


class CountsFile:
    """A file of counts that is being written; see `writing`."""

    def __init__(self, path: Path) -> None:
        import h5py

        self._path, self._arrays = path, []  # type: tuple[Path, list[np.memmap]]
        with h5py.File(path, "w") as file:
            file.attrs["kind"] = _KIND

    def allocate(self, name: str, shape: Sequence[int], dtype: Any) -> np.ndarray:
        """Return an array of zeros that is in the file: what is written to it is written there."""
        import h5py

        with h5py.File(self._path, "r+") as file:
            file.create_dataset(name, shape, dtype, dcpl=_in_one_piece())
        with h5py.File(self._path, "r") as file:
            self._arrays.append(_mapped(self._path, file[name], "r+"))
        return self._arrays[-1]

    def finish(self, counts: BinnedSpikes) -> None:
        """Add what else there is to know of the counts whose arrays are in the file."""
        import h5py

        for array in self._arrays:
            array.flush()
        self._arrays.clear()  # so that the file is closed when the counts are
        header = {name: getattr(counts, name) for name in _IN_HEADER}
        with h5py.File(self._path, "r+") as file:
            file["header"] = json.dumps(header)
            file["trial_starts"] = counts.trial_starts
            if counts.truth is not None:
                _write_truth(file.create_group("truth"), counts.truth)


@contextmanager
def writing(path: str | os.PathLike[str], source: str) -> Iterator[CountsFile]:
    """Begin a file of counts, which takes the place of ``path`` if all goes well.

    Raises
    ------
    ValueError
        If ``path`` is the file ``source`` that the data come from, or a folder.
    FileNotFoundError
        If the folder that ``path`` is in does not exist.
    """
    with replacing(path, source, ".h5") as temporary:
        yield CountsFile(temporary)


def write_counts(path: str | os.PathLike[str], counts: BinnedSpikes) -> BinnedSpikes:
    """Write counts to an HDF5 file, and return them as they lie there (see `read_counts`).

    Parameters
    ----------
    path : path_like
        Where to write; replaced if it exists, unless it is the file the data come from.
    counts : BinnedSpikes

    Raises
    ------
    ValueError
        If ``path`` is the file that the counts were read from.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp(), "counts.h5")
    >>> write_counts(path, BinnedSpikes.from_array([[0, 1, 1]], 0.005))
    BinnedSpikes(1 trial, 1 unit, 3 bins of 0.005 s, 2 spikes)
    """
    names = ["counts"] + ["mask"] * (not counts.mask.all()) + ["n_pooled"] * _is_pooled(counts)
    with writing(path, counts.source) as file:
        for name in names:
            array = getattr(counts, name)
            stored = file.allocate(name, array.shape, array.dtype)
            for block in blocks(array.shape):
                stored[block] = array[block]
        file.finish(counts)
    return read_counts(path)


def read_counts(path: str | os.PathLike[str]) -> BinnedSpikes:
    """Open counts that `write_counts` or `SpikeTrains.bin` wrote.

    The arrays stay in the file, of which the operating system reads what is used.  The file must
    not be changed while they are in use.

    Parameters
    ----------
    path : path_like
        The file; it is opened read-only.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not such a file, is damaged or cut short, or its arrays are not in one piece.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp(), "counts.h5")
    >>> counts = write_counts(path, BinnedSpikes.from_array([[0, 1, 1], [2, 0, 0]], 0.005))
    >>> read_counts(path).counts[1]
    array([[2, 0, 0]])
    """
    place = existing(path)
    if not is_counts_file(place):
        raise ValueError(f"{path}: not a file of counts that spikecdl wrote")
    import h5py

    with reading(place, "counts in HDF5"), h5py.File(place, "r") as file:
        counts = _mapped(place, file["counts"])
        whole = np.broadcast_to(True, counts.shape)
        mask = _mapped(place, file["mask"]) if "mask" in file else whole
        if mask.view(np.uint8).max() > 1:
            raise ValueError("`mask` holds other values than True and False; use another copy")
        pooled = _mapped(place, file["n_pooled"]) if "n_pooled" in file else not_pooled(mask)
        header = json.loads(file["header"].asstr()[()])
        return BinnedSpikes(
            **{name: header[name] for name in _IN_HEADER},
            counts=counts,
            mask=mask,
            n_pooled=pooled,
            trial_starts=file["trial_starts"][:],
            source=str(path),
            truth=_read_truth(file["truth"]) if "truth" in file else None,
        )


def is_counts_file(path: Path) -> bool:
    """Return whether a file is of this format."""
    if not starts_with(path, HDF5_SIGNATURE):
        return False
    import h5py

    with reading(path, "HDF5"), h5py.File(path, "r") as file:
        return file.attrs.get("kind") == _KIND


def _in_one_piece() -> h5py.h5p.PropDCID:
    """Say that an array is to lie in the file as in memory, from the start."""
    from h5py import h5d, h5p

    properties = h5p.create(h5p.DATASET_CREATE)
    properties.set_layout(h5d.CONTIGUOUS)
    properties.set_alloc_time(h5d.ALLOC_TIME_EARLY)
    return properties


def _mapped(path: Path, dataset: h5py.Dataset, mode: Any = "r") -> np.memmap:
    """Map the bytes of an array in a file."""
    offset = dataset.id.get_offset()
    if offset is None:
        raise ValueError(
            f"`{dataset.name[1:]}` is stored in chunks or compressed and cannot be read where it "
            "lies; write the file anew with spikecdl.write_counts"
        )
    if offset + dataset.nbytes > path.stat().st_size:
        raise ValueError(f"`{dataset.name[1:]}` is cut short; use another copy of the file")
    return np.memmap(path, dataset.dtype, mode, offset, dataset.shape)


def _is_pooled(counts: BinnedSpikes) -> bool:
    return bool(counts.n_pooled.max() > 1)


def _write_truth(group: h5py.Group, truth: Truth) -> None:
    group["header"] = json.dumps(
        {name: getattr(truth, name) for name in _OF_TRUTH} | {"settings": dict(truth.settings)}
    )
    group["templates"], group["baseline"] = truth.templates, truth.baseline
    for name in EVENT_COLUMNS:
        group[f"events/{name}"] = truth.events[name].to_numpy()


def _read_truth(group: h5py.Group) -> Truth:
    import pandas as pd

    events = pd.DataFrame({name: group[f"events/{name}"][:] for name in EVENT_COLUMNS})
    header = json.loads(group["header"].asstr()[()])
    return Truth(
        templates=group["templates"][:], baseline=group["baseline"][:], events=events, **header
    )
