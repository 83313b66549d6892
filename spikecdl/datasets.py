"""Recordings to try spikecdl on: one that is shipped, and published ones that are downloaded.

`registry` gives the address and licence of each, and what to cite.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from spikecdl import validation
from spikecdl.data import SpikeTrains, hdf5
from spikecdl.io import read_nwb

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

WHISKER = {
    f"dir{site}_stim{stimulus}": tuple(f"Dir{site}/Neuron{unit}" for unit in range(1, n_units + 1))
    for site, n_units in ((3, 2), (16, 1))
    for stimulus in (1, 2, 3)
}
"""Recordings of the whisker data by name, with the units of each."""

_PARTS = {"trngdataBis.mat": "idxtr", "testdataBis.mat": "idxts"}  # file: positions of its trials


def demo() -> Path:
    """Return the path of the recording that is shipped: simulated, with its truth inside."""
    return _shipped("demo.nwb")


def registry() -> dict[str, Any]:
    """Return address, licence, citation and files of each recording.

    Examples
    --------
    >>> registry()["whisker_thalamus"]["licence"]
    'GPL-2.0-or-later'
    """
    return tomllib.loads(_shipped("registry.toml").read_text("utf-8"))


def fetch_whisker(
    names: Sequence[str] = tuple(WHISKER), folder: str | Path | None = None
) -> dict[str, SpikeTrains]:
    """Download recordings of rat thalamus under periodic whisker deflection.

    Units of the ventral posterior medial nucleus, 50 trials of 3 s for each stimulus: half a second
    of rest, then 16 deflections at 8 Hz, fast (1), middle (2) or slow (3).

    The original files, two for each unit and stimulus, are downloaded once and kept.  The SHA-256
    of one is known and checked.  The others must hold spikes and trials of the right form; their
    SHA-256 is written beside them at the first download, so that later changes are found.

    Parameters
    ----------
    names : sequence of str
        Keys of `WHISKER`; those of "dir3" have two units, those of "dir16" one.
    folder : path, optional
        Where the original files are kept.  Default: ``whisker_thalamus`` in the folder that the
        environment variable SPIKECDL_DATA names, or else in the user's cache.  A recording that
        lies there as ``dir3_stim2.nwb`` or the like is read from that file.

    Returns
    -------
    dict of str to SpikeTrains
        Trials one after another in the order of recording (their true times are not public), with
        the columns ``split`` ("train" for 17 trials, "test" for 33) and ``stimulus``.  Spike times
        are the middles of bins of 1 ms.

    Raises
    ------
    ConnectionError, ValueError
        If a file cannot be downloaded; if a name is unknown or a file is not as expected.

    References
    ----------
    Temereanca, Brown and Simons, J Neurosci 28:11153, 2008.

    Examples
    --------
    >>> spikes = fetch_whisker(["dir3_stim2"])["dir3_stim2"]  # doctest: +SKIP
    >>> train = spikes.bin(0.005, trials="split == 'train'")  # doctest: +SKIP
    """
    if isinstance(names, str):
        raise TypeError(f"`names` (={names!r}) must be a sequence of names, as [{names!r}]")
    for name in names:
        validation.one_of("names", name, WHISKER)
    return {name: _whisker(name, folder) for name in names}


def whisker_displacement(name: str, folder: str | Path | None = None) -> np.ndarray:
    """Return the whisker's displacement (trial, bin), in mm and bins of 1 ms.

    Trials are in the order of recording; files and errors are as for `fetch_whisker`.
    """
    unit = WHISKER[validation.one_of("name", name, WHISKER)][0]
    converted = _shelf(folder) / f"{name}.nwb"
    if converted.exists():
        part = "stimulus/presentation/whisker_displacement/data"
        with hdf5.opened(converted, "NWB", (part,)) as file:
            return file[part][:].reshape(-1, 3000)
    trials, _ = _recorded(name, unit, "t", folder)
    return trials / 10


def _shelf(folder: str | Path | None) -> Path:
    """Return the folder of the whisker data."""
    from pooch import os_cache

    if folder is not None:
        return Path(folder)
    return Path(os.environ.get("SPIKECDL_DATA") or os_cache("spikecdl")) / "whisker_thalamus"


def _whisker(name: str, folder: str | Path | None) -> SpikeTrains:
    converted = _shelf(folder) / f"{name}.nwb"
    if converted.exists():
        return read_nwb(converted)
    times, splits, bin_size, duration = [], [], 1e-3, 3.0
    for unit in WHISKER[name]:
        y, is_train = _recorded(name, unit, "y", folder)
        trial, bin_ = np.nonzero(y)
        times.append(trial * duration + (bin_ + 0.5) * bin_size)
        splits.append(is_train)
    if not all(np.array_equal(split, splits[0]) for split in splits):
        raise ValueError(f"the units of {name} have other trials in their training files")
    start = np.arange(len(splits[0])) * duration
    return SpikeTrains.from_arrays(
        times,
        observed=(0.0, len(start) * duration),
        trials={
            "start_time": start,
            "stop_time": start + duration,
            "split": np.where(splits[0], "train", "test").astype(object),
            "stimulus": np.full(len(start), int(name[-1])),
        },
        units={"unit_name": list(WHISKER[name])},
        clock_rate=2 / bin_size,
        source=f"whisker_thalamus/{name}",
    )


def _recorded(
    name: str, unit: str, variable: str, folder: str | Path | None, n_bins: int = 3000
) -> tuple[np.ndarray, np.ndarray]:
    """Return a variable of all trials (trial, bin), and which trials are for training."""
    shelf = _shelf(folder)
    stem = f"data/Explicit Stimulus/{unit}/Stim{name[-1]}/"
    contents = [_matlab(stem + file, shelf) for file in _PARTS]
    known = contents[1] | contents[0]
    positions = [known.get(key, np.array([])).astype(int) - 1 for key in _PARTS.values()]
    values = np.concatenate([content[variable] for content in contents])
    order = np.concatenate(positions)
    if values.size != order.size * n_bins or set(order) != set(range(order.size)):
        raise ValueError(
            f"{stem} holds {values.size} bins of {order.size} trials; they should be {n_bins} of "
            f"each, and {' and '.join(_PARTS.values())} number every trial once"
        )
    back = np.argsort(order)
    return values.reshape(-1, n_bins)[back], back < len(positions[0])


def _matlab(path: str, folder: Path) -> dict[str, np.ndarray]:
    """Read a MATLAB file, downloaded if need be; a download that cannot be read is not kept."""
    from pooch import file_hash
    from scipy.io import loadmat

    file = folder / path
    note = file.with_name(file.name + ".sha256")
    was_here = file.exists()
    address = _fetch(path, folder, note.read_text("utf-8").strip() if note.exists() else None)
    try:
        content = loadmat(file, variable_names=["y", "t", *_PARTS.values()])
        values = {k: v.ravel().astype(float) for k, v in content.items() if k[0] != "_"}
        if not np.isin(values["y"], (0, 1)).all() or values["t"].size != values["y"].size:
            raise ValueError("y must be 0 or 1 in each bin of t")
    except Exception as error:  # the reader's errors are of many kinds
        if not was_here:
            file.unlink()
        what, remedy = (file, "remove it") if was_here else (address, "it was not kept; try again")
        raise ValueError(f"{what} is not the file expected ({error!r}); {remedy}") from None
    if not note.exists():
        note.write_text(file_hash(file) + "\n", "utf-8")
    return values


def _fetch(path: str, folder: Path, noted: str | None) -> str:
    """Download a file to the folder unless it is there, check its SHA-256, return its address."""
    import pooch
    import requests

    entry = registry()["whisker_thalamus"]
    known = {file["path"]: file.get("sha256") for file in entry["files"]}[path] or noted
    shelf = pooch.create(path=folder, base_url=entry["download"], registry={path: known})
    address = shelf.get_url(path)
    try:
        shelf.fetch(path)
    except requests.RequestException as error:
        status = "" if error.response is None else f": {error.response.status_code}"
        raise ConnectionError(
            f"{address} could not be downloaded ({type(error).__name__}{status}); check the "
            f"connection, or put the file at {folder / path}"
        ) from None
    except ValueError:
        raise ValueError(
            f"SHA-256 mismatch for {address} (expected {known}); the download was discarded. Try "
            "again; if it happens again, the file has changed there"
        ) from None
    return address


def _shipped(name: str) -> Path:
    """Return a file of the folder ``datasets``, in an installed package or in a checkout."""
    installed = Path(str(resources.files("spikecdl").joinpath(name)))
    return installed if installed.exists() else Path(__file__).parents[1] / "datasets" / name


__dir__ = validation.names_of(__name__)
