"""Spikes from text with a row for each; results as tables of MATLAB."""

from __future__ import annotations

import numpy as np
import pytest
from decompositions import made_up
from scipy.io import loadmat
from tables import refused

from spikecdl.io import read, read_table, write_mat

READ = {
    "tabs.txt": "1.0\t0.25\n2.0\t0.5\n1.0\t0.75\n",
    "time_first.csv": "0.25,1\n0.5,2\n0.75,1\n",
    "named.csv": "time,unit,amplitude\n0.25,1,3\n0.5,2,4\n0.75,1,5\n",
    "quoted.tsv": '"Unit"\t"Time"\n1\t0.25\n2\t0.5\n1\t0.75\n',
    "blanks.dat": "1   0.25\n2   0.5\n1   0.75\n",
    "semicolons.csv": "1;0.25\n2;0.5\n1;0.75\n",
}


@pytest.mark.parametrize("name", READ)
def test_is_read(name, tmp_path):
    (tmp_path / name).write_text(READ[name])
    spikes = read(tmp_path / name)
    assert [times.tolist() for times in spikes.times] == [[0.25, 0.75], [0.5]]
    assert list(map(int, spikes.unit_ids)) == [1, 2]
    assert spikes.source == str(tmp_path / name)


def test_units_may_have_names(tmp_path):
    (tmp_path / "a.csv").write_text("a7,0.25\nb,0.5\na7,0.75\n")
    assert read(tmp_path / "a.csv").unit_ids == ("a7", "b")


def test_is_asked_about(tmp_path):
    for text, words in {
        "1,2\n3,4\n1,2\n": "either of its two columns may be that of units.*unit,time",
        "0.1,0.2\n0.3,0.4\n0.5,0.6\n": "either of its two columns",
        "x,y,z\n1,2,3\n4,5,6\n": "do not have columns for the unit and the time",
        "unit,time\n1,\n2,0.5\n1,x\n": "a.csv",
        "": "do not have columns",
    }.items():
        (tmp_path / "a.csv").write_text(text)
        with refused(ValueError, words, text):
            read_table(tmp_path / "a.csv")


def test_matlab_reads_what_was_found(tmp_path):
    parts = made_up()
    found = loadmat(write_mat(tmp_path / "results.mat", parts), simplify_cells=True)
    np.testing.assert_array_equal(
        found["templates"].reshape(parts.templates.shape), parts.templates
    )
    np.testing.assert_array_equal(found["rate"], parts.rate)
    np.testing.assert_array_equal(found["counts"], parts.counts.counts)
    events = parts.events()
    assert set(found["events"]) == set(events)
    np.testing.assert_allclose(found["events"]["time"], events["time"])
    assert list(map(str, found["unit_ids"])) == list(map(str, parts.counts.unit_ids))
    assert found["bin_size"] == parts.counts.bin_size
    with pytest.raises(ValueError, match=r"must end in \.mat"):
        write_mat(tmp_path / "results.txt", parts)
