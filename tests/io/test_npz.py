"""NumPy archives: what was written comes back, exactly."""

from __future__ import annotations

import io
import json
import re
import zipfile

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import assert_same_counts, assert_same_recording, make_counts, make_recording
from tables import refused

from spikecdl.data import BinnedSpikes, SpikeTrains
from spikecdl.io import read, read_npz, write_npz

COUNTS = {
    "masked": make_counts,
    "pooled": lambda: make_counts().pool(),
    "simulated, shared": lambda: make_counts(truth="shared"),
    "simulated, joint": lambda: make_counts(truth="joint"),
    "signal": lambda: BinnedSpikes.from_array([[0.5, -1.25, 1e-300]], 0.01),
}


def test_recordings_come_back(tmp_path):
    path = tmp_path / "recording.npz"
    write_npz(path, make_recording())
    for reader in (read, read_npz):
        back = reader(path)
        assert_same_recording(back, make_recording())
        assert back.source == str(path)


@pytest.mark.parametrize("name", COUNTS)
def test_counts_come_back(tmp_path, name):
    path = tmp_path / "counts.npz"
    write_npz(path, COUNTS[name]())
    assert_same_counts(read(path), COUNTS[name]())


finite = st.floats(allow_nan=False, allow_infinity=False, width=64)
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
tables = st.fixed_dictionaries(
    {
        "number": st.lists(st.floats(), min_size=2, max_size=2),
        "text": st.lists(texts, min_size=2, max_size=2),
        "mixed": st.lists(st.none() | texts | st.integers(-9, 9), min_size=2, max_size=2),
        "rows": st.lists(st.tuples(finite, st.tuples(texts)), min_size=2, max_size=2),
        "flag": st.lists(st.booleans(), min_size=2, max_size=2),
    }
)


@settings(max_examples=25)
@given(
    times=st.lists(st.lists(st.floats(0, 100), unique=True, max_size=5), min_size=1, max_size=3),
    columns=tables,
    ids=st.lists(texts, min_size=2, max_size=2, unique=True) | st.just([3, 1]),
)
def test_any_recording_comes_back(tmp_path_factory, times, columns, ids):
    objects = ("text", "mixed", "rows")
    columns |= {name: pd.Series(columns[name], dtype=object) for name in objects}
    trials = pd.DataFrame({"start_time": [0.0, 1.0], "stop_time": [1.0, 2.5], **columns})
    trials.index = pd.Index(ids)
    spikes = SpikeTrains.from_arrays(times, trials=trials, observed=(0.0, 100.0), sort=True)
    path = tmp_path_factory.getbasetemp() / "any.npz"
    write_npz(path, spikes)
    assert_same_recording(read_npz(path), spikes)


def test_plain_archives_of_counts(tmp_path):
    path = tmp_path / "plain.npz"
    np.savez(
        path,
        counts=np.array([[0, 2, 5]]),
        bin_size=0.005,
        mask=[[True, True, False]],
        t_start=-0.5,
    )
    counts = read(path)
    assert counts.counts.tolist() == [[[0, 2, 0]]]
    assert (counts.bin_size, counts.t_start, counts.source) == (0.005, -0.5, str(path))
    assert counts.mask.tolist() == [[[True, True, False]]]


def archive(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def zipped_text():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("counts.npy", "no array")
    return buffer.getvalue()


def test_what_is_wrong_with_an_archive_is_named(tmp_path):
    for content, message in [
        (b"", "not an npz archive, or cut short"),
        (b"time,unit\n0.1,3\n", "not an npz archive, or cut short"),
        (archive(counts=np.ones((3, 40)))[:-30], "cannot be read as npz; it may be damaged"),
        (archive(counts=np.ones((3, 40)))[:100], "cannot be read as npz; it may be damaged"),
        (zipped_text(), "wrong.npz"),
        (archive(spikes=np.ones(3)), "no array `counts`, only 'spikes'"),
        (archive(counts=np.array([[-1, 0]])), "must be finite and not negative"),
        (archive(counts=np.array([[1, 0]]), bin_size=0.0), "`bin_size` (=0.0) must be positive"),
        (archive(counts=np.array([[{}, 0]], dtype=object)), "allow_pickle=False"),
        (archive(spikecdl=np.array("{")), "wrong.npz: Expecting"),
        (archive(spikecdl=np.array(json.dumps({"kind": "SpikeTrains"}))), "cannot be read as npz"),
    ]:
        path = tmp_path / "wrong.npz"
        path.write_bytes(content)
        for reader in (read, read_npz):
            with refused(
                ValueError, rf"\A(?=.*{re.escape(message)}){re.escape(str(path))}", content
            ):
                reader(path)


def test_what_cannot_be_written_is_refused(tmp_path):
    trials = pd.DataFrame({"start_time": [0.0], "stop_time": [1.0], "odd": [object()]})
    for data in ({"times": [0.1]}, SpikeTrains.from_arrays([[0.1]], trials=trials)):
        with pytest.raises(TypeError, match="must be SpikeTrains|holds object"):
            write_npz(tmp_path / "odd.npz", data)
    assert not list(tmp_path.iterdir())


def test_the_source_is_never_overwritten(tmp_path):
    path = tmp_path / "recording.npz"
    write_npz(path, make_recording())
    with pytest.raises(ValueError, match="is where the data come from; write elsewhere"):
        write_npz(path, read(path))
    write_npz(path, make_counts())
    assert_same_counts(read(path), make_counts())
