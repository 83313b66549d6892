"""Passes along a track: how they are scored, and those of a real mouse."""

from __future__ import annotations

import numpy as np
import pytest

from spikecdl.experiments import Options, places, run

PASSES = np.array([[0.0, 2.0], [10.0, 12.0], [20.0, 22.0], [30.0, 32.0]])
DIRECTION = np.array([0, 1, 0, 1])


@pytest.mark.parametrize(
    ("template", "centre", "forth", "back", "further"),
    [
        ([0, 1, 0, 1], [1, 11, 21, 31], 2, 2, 0),
        ([1, 0, 1, 0], [1, 11, 21, 31], 2, 2, 0),  # the names of templates are conventions
        ([0, 0, 0, 0], [1, 11, 21, 31], 2, 0, 2),
        ([0, 0, 1], [0.5, 1.5, 10.5], 1, 1, 1),  # one event for each pass
        ([0, 1], [-0.4, 12.6], 1, 0, 1),  # half a second away at most
        ([], [], 0, 0, 0),
    ],
)
def test_score(template, centre, forth, back, further):
    events = places.Events(np.array(template, int), np.array(centre, float))
    found = places.score(events, PASSES, DIRECTION)
    assert (found["forth"], found["back"], found["further"]) == (forth, back, further)
    assert found["hits"] == forth + back
    assert (found["passes"], found["passes_forth"], found["passes_back"]) == (4, 2, 2)


def test_passes_go_from_end_to_end():
    position = np.array([2, 2, 10, 22, 22, 15, 10, 15, 22, 12, 3, 3])
    frames, direction = places._passes(position)
    assert frames.tolist() == [[1, 3], [8, 10]]
    assert direction.tolist() == [0, 1]


def test_recordings_that_are_missing_are_named(tmp_path):
    with pytest.raises(ValueError, match="lacks .*ca1_linear_track.npz.*ca3_laps.npz"):
        run("places", Options(data=tmp_path))


@pytest.mark.slow
def test_a_mouse_on_a_track(shared_data):
    found = run("places", Options(quick=True, data=shared_data / "places"))
    joint = found.table.set_index("method").loc["joint templates"]
    assert joint["hits"] >= 63
    assert joint["further"] <= 6
    assert min(joint["forth"], joint["back"]) >= 31
    assert set(found.figures) == {"places", "units"}
