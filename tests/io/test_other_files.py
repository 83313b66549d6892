"""HDF5 files that have their data in other files: refused, or followed when that is asked for."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from commands import run

from spikecdl.io import read, read_nwb

TIMES = np.array([0.25, 0.5, 0.75, 1.0])


def write(path: Path, spike_times=TIMES) -> Path:
    """A unit; its spike times may be a link or anything else that a group takes."""
    with h5py.File(path, "w") as file:
        file["units/spike_times"] = spike_times
        file["units/spike_times_index"] = [len(TIMES)]
    return path


def external_link(folder: Path) -> Path:
    write(folder / "other.nwb")
    return write(folder / "a.nwb", h5py.ExternalLink("other.nwb", "units/spike_times"))


def external_storage(folder: Path) -> Path:
    (folder / "times.bin").write_bytes(TIMES.tobytes())
    path = write(folder / "a.nwb")
    with h5py.File(path, "r+") as file:
        del file["units/spike_times"]
        file["units"].create_dataset(
            "spike_times", (4,), float, external=[(folder / "times.bin", 0, h5py.h5f.UNLIMITED)]
        )
    return path


def virtual_dataset(folder: Path) -> Path:
    other = write(folder / "other.nwb")
    path = write(folder / "a.nwb")
    layout = h5py.VirtualLayout((4,), float)
    layout[:] = h5py.VirtualSource(other.name, "units/spike_times", (4,))
    with h5py.File(path, "r+") as file:
        del file["units/spike_times"]
        file["units"].create_virtual_dataset("spike_times", layout, fillvalue=0.125)
    return path


HOW = {
    external_link: ("external link", "other.nwb"),
    external_storage: ("stored externally", "times.bin"),
    virtual_dataset: ("virtual dataset", "other.nwb"),
}


@pytest.mark.parametrize("make", HOW)
class TestOtherFiles:
    def test_refused_by_name(self, make, tmp_path):
        kind, other = HOW[make]
        with pytest.raises(ValueError, match=f"a.nwb: /units/spike_times is .*{kind}.*{other}"):
            read(make(tmp_path))

    def test_followed_if_asked_for(self, make, tmp_path):
        spikes = read_nwb(make(tmp_path), follow_links=True)
        np.testing.assert_array_equal(spikes.times[0], TIMES)

    def test_missing_ones_are_an_error(self, make, tmp_path):
        path = make(tmp_path)
        (tmp_path / HOW[make][1]).unlink()
        with pytest.raises(ValueError, match="a.nwb: .*/units/spike_times are missing"):
            read(path, follow_links=True)

    def test_option_of_the_command_line(self, make, tmp_path):
        path = make(tmp_path)
        refused = run("inspect", path)
        assert refused.code == 2
        assert "--follow-links" in refused.err
        assert run("inspect", path, "--follow-links", "--json").json["units"][0]["n_spikes"] == 4


def test_an_unused_group_may_not_name_other_files_either(tmp_path):
    path = write(tmp_path / "a.nwb")
    with h5py.File(path, "r+") as file:
        file["acquisition/raw"] = h5py.ExternalLink("other.nwb", "/")
    with pytest.raises(ValueError, match="a.nwb: /acquisition/raw is an external link"):
        read(path)


def test_links_of_a_followed_file_are_checked_too(tmp_path):
    external_link(tmp_path).rename(tmp_path / "first.nwb")
    with h5py.File(tmp_path / "other.nwb", "r+") as file:
        file["more"] = h5py.ExternalLink("nowhere.nwb", "/")
    with pytest.raises(ValueError, match="first.nwb: the values of /more are missing.*nowhere.nwb"):
        read(tmp_path / "first.nwb", follow_links=True)


def test_links_within_a_file_need_no_permission(tmp_path):
    path = write(tmp_path / "a.nwb", h5py.SoftLink("/elsewhere"))
    with h5py.File(path, "r+") as file:
        file["elsewhere"] = TIMES
        file["units/again"] = file["units"]  # a loop
    np.testing.assert_array_equal(read_nwb(path).times[0], TIMES)
