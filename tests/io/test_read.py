"""`read` finds the reader for every format, and says clearly what it cannot read."""

from __future__ import annotations

import json
import re

import neo
import numpy as np
import pytest
from recordings import make_counts, make_recording
from tables import refused

from spikecdl.data import BinnedSpikes, SpikeTrains
from spikecdl.io import (
    READERS,
    read,
    read_neo,
    read_npz,
    read_nwb,
    read_phy,
    to_neo,
    write_counts,
    write_npz,
    write_nwb,
)


def write_phy(folder):
    folder.mkdir()
    np.save(folder / "spike_times.npy", np.array([30, 60]))
    np.save(folder / "spike_clusters.npy", np.array([1, 1]))
    (folder / "params.py").write_text("sample_rate = 30000")


def write_nix(path):
    with neo.NixIO(str(path), "ow") as file:
        file.write_block(to_neo(make_recording()))


def write_sorting(folder):
    folder.mkdir()
    about = {"sampling_frequency": 30_000.0, "unit_ids": [4], "num_segments": 1}
    (folder / "numpysorting_info.json").write_text(json.dumps(about))
    names = ("sample_index", "unit_index", "segment_index")
    spikes = np.zeros(1, [(name, "int64") for name in names])
    spikes["sample_index"] = 30
    np.save(folder / "spikes.npy", spikes)


# one example for each reader: what to call the file, and how to write it
EXAMPLES = {
    "npz": ("a.npz", lambda path: write_npz(path, make_recording())),
    "binned NWB": ("a.nwb", lambda path: write_nwb(path, make_counts())),
    "counts in HDF5": ("a.h5", lambda path: write_counts(path, make_counts())),
    "NWB or NWB-style HDF5": ("a.nwb", lambda path: write_nwb(path, make_recording())),
    "Phy or Kilosort folder": ("sorted", write_phy),
    "sorting or analyzer of spikeinterface": ("sorted", write_sorting),
    "text with the columns unit and time": (
        "a.txt",
        lambda path: path.write_text("1\t0.25\n2\t0.5\n1\t0.75\n"),
    ),
    "one of Neo's formats": ("a.nix", write_nix),
}


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_every_format_is_recognised(tmp_path, reader):
    name, write = EXAMPLES[reader.name]
    path = tmp_path / name
    write(path)
    assert next(one for one in READERS if one.recognises(path)) is reader
    for given in (path, str(path)):
        data = read(given)
        binned = reader.name in ("binned NWB", "counts in HDF5")
        assert isinstance(data, BinnedSpikes if binned else SpikeTrains)
        assert data.source == str(path)


@pytest.mark.parametrize("name", ["a.h5", "a", "a.dat"])
def test_nwb_is_recognised_by_what_it_holds(tmp_path, name):
    for data in (make_recording(), make_counts()):
        write_nwb(tmp_path / name, data)
        assert isinstance(read(tmp_path / name), type(data))


def test_what_is_not_there_is_not_found(tmp_path):
    for reader in [read, read_nwb, read_neo, read_npz, read_phy]:
        with refused(FileNotFoundError, "there is no file or folder .*missing.nwb", reader):
            reader(tmp_path / "missing.nwb")


def damaged(cut):
    def write(path):
        write_nwb(path, make_recording())
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * cut)])

    return write


def zeroed(path):
    write_nwb(path, make_recording())
    content = path.read_bytes()
    path.write_bytes(content[:200] + bytes(len(content) - 200))


def test_what_cannot_be_read_is_named_in_one_sentence(tmp_path):
    rows = [
        ("a.nwb", lambda path: path.write_text("0.1 0.2\n"), "not an HDF5 file, so not NWB"),
        ("a.nwb", lambda path: path.write_bytes(b""), "not an HDF5 file, so not NWB"),
        ("a.nwb", lambda path: path.mkdir(), "not an HDF5 file, so not NWB"),
        ("a.nwb", lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n"), "damaged or cut short"),
        ("a.nwb", damaged(0.9), "damaged or cut short"),
        ("a.nwb", damaged(0.3), "damaged or cut short"),
        ("a.h5", damaged(0.5), "damaged or cut short"),
        ("a.nwb", zeroed, "damaged or cut short"),
        (
            "folder",
            lambda path: path.mkdir(),
            "cannot be read: it is none of npz, counts in HDF5",
        ),
        ("a.png", lambda path: path.write_bytes(b"\x89PNG"), "cannot be read: it is none of"),
        ("a", lambda path: path.write_bytes(b"0.1"), "no reader of Neo's finds spikes in it"),
        ("a.nex", lambda path: path.write_bytes(b"not nex at all"), "no reader of Neo's finds"),
        ("a.plx", lambda path: path.write_bytes(b""), "no reader of Neo's finds spikes in it"),
        ("a.npz", lambda path: path.write_text("text"), "not an npz archive"),
        ("a.npz", lambda path: path.mkdir(), "not an npz archive"),
    ]
    for number, (name, write, message) in enumerate(rows):
        path = tmp_path / str(number) / name
        path.parent.mkdir()
        write(path)
        one_line = rf"\A(?=.*{re.escape(str(path))}).*{re.escape(message)}.*\Z"
        with refused(ValueError, one_line, message):
            read(path)
