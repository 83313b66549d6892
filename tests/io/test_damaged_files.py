"""Damaged files: those that we wrote are refused or unchanged, others at least do no harm."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest
from mutants import in_a_process, unsealed
from recordings import assert_same_counts, assert_same_recording, make_counts, make_recording

from spikecdl.data import SpikeTrains
from spikecdl.files import has_seal
from spikecdl.io import read, write_counts, write_npz, write_nwb

WRITERS = {"recording.nwb": write_nwb, "recording.npz": write_npz, "binned.nwb": write_nwb}
WRITERS |= {"counts.npz": write_npz, "counts.h5": write_counts}


def write(folder: Path, name: str) -> Path:
    data = make_recording() if name.startswith("recording") else make_counts(truth="shared")
    WRITERS[name](folder / name, data)
    return folder / name


@pytest.mark.parametrize("name", WRITERS)
class TestChecksum:
    def test_written_and_right(self, name, tmp_path):
        path = write(tmp_path, name)
        assert has_seal(path)
        data = read(path)
        if isinstance(data, SpikeTrains):
            assert_same_recording(data, make_recording())
        else:
            assert_same_counts(data, make_counts(truth="shared"))

    def test_any_flipped_bit_is_found(self, name, tmp_path):
        path = write(tmp_path, name)
        content = bytearray(path.read_bytes())
        for position in np.random.default_rng(0).integers(0, len(content) - 200, 20):
            content[position] ^= 1
            path.write_bytes(content)
            with pytest.raises(ValueError, match=f"{name}") as error:
                read(path)
            assert len(str(error.value)) < 500
            content[position] ^= 1

    def test_files_without_one_are_read(self, name, tmp_path):
        path = unsealed(write(tmp_path, name))
        assert not has_seal(path)
        assert read(path).fingerprint == read(write(tmp_path, name)).fingerprint


def test_a_file_that_is_changed_loses_it(tmp_path):
    path = write(tmp_path, "recording.nwb")
    before = read(path).fingerprint
    with h5py.File(path, "r+") as file:
        file["units/spike_times"][0] += 1e-3
    assert not has_seal(path)
    assert read(path).fingerprint != before


def test_fingerprints_tell_data_apart():
    spikes, counts = make_recording(), make_counts()
    assert spikes.fingerprint == make_recording().fingerprint
    assert spikes.fingerprint != SpikeTrains.from_arrays(spikes.times, spikes.unit_ids).fingerprint
    assert counts.fingerprint != make_counts(masked=False).fingerprint
    assert counts.fingerprint != counts.select(trials=[1, 0, 2]).fingerprint


@pytest.mark.soak
def test_damage_of_many_kinds(tmp_path, capsys):
    """500 files: five that we wrote and one that we did not, damaged in five ways."""
    files = [write(tmp_path, name) for name in WRITERS]
    foreign = tmp_path / "foreign.nwb"
    with h5py.File(files[0]) as source, h5py.File(foreign, "w") as file:
        for name in ("units", "intervals"):
            source.copy(source[name], file, name)
    found = in_a_process("damage", 16, *files) | in_a_process("damage", 20, foreign)
    totals = {name: sum(map(Counter, kinds.values()), Counter()) for name, kinds in found.items()}
    with capsys.disabled():
        print("\n" + json.dumps(totals))
    assert sum(total.total() for total in totals.values()) == 500
    for name, total in totals.items():
        allowed = {"refused", "same"} | ({"changed"} if name == "foreign.nwb" else set())
        assert set(total) <= allowed, (name, found[name])
