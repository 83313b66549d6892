"""Events of a decomposition as tables."""

from __future__ import annotations

import numpy as np
import pytest
from decompositions import made_up
from recordings import make_counts, make_decomposition

from spikecdl.data import SpikeTrains
from spikecdl.io import to_pynapple


def test_intervals_are_in_the_time_of_the_recording():
    parts = make_decomposition(make_counts())  # windows begin at 0.5, 2 and 4.25 s, 30 ms before 0
    table = parts.intervals()
    np.testing.assert_allclose(table["time"], [-0.02, 0.0])
    np.testing.assert_allclose(table["start_time"], [0.51, 4.28])
    np.testing.assert_allclose(table["stop_time"], [0.55, 4.32])
    assert list(table.columns[:2]) == ["start_time", "stop_time"]
    assert list(table.columns[2:]) == list(parts.events().columns)


def test_intervals_are_windows_of_the_recording_they_come_from():
    parts = make_decomposition(make_counts())
    spikes = SpikeTrains.from_arrays([[0.515, 4.3]], intervals={"events": parts.intervals()})
    counts = spikes.bin(0.01, table="events")
    np.testing.assert_array_equal(counts.counts[:, 0], [[1, 0, 0, 0], [0, 0, 1, 0]])


def test_intervals_of_one_unit_go_to_pynapple():
    pytest.importorskip("pynapple")
    table = make_decomposition(make_counts()).intervals()
    intervals = to_pynapple(table[table["unit"] == "u9"])
    np.testing.assert_allclose(np.asarray(intervals), [[4.28, 4.32]])
    assert list(intervals["amplitude"]) == [7.5]


def test_events_of_pooled_trials_have_no_time_in_the_recording():
    with pytest.raises(ValueError, match="trials are pooled, .* use `events`"):
        made_up().intervals()
