"""Passes along a track: how they are scored, and those of a real mouse."""

from __future__ import annotations

import numpy as np
import pytest

from spikecdl import DCEA
from spikecdl.experiments import Options, places, run
from spikecdl.simulate import simulate

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


def test_positions_are_those_of_events_of_the_first_half():
    rng, shapes = np.random.default_rng(0), np.zeros((1, 8, 20))
    shapes[0, np.arange(8), 2 * np.arange(8) + 2] = 1
    counts = simulate(
        *("poisson", shapes), layout="joint", n_trials=1, n_units=8, duration=400.0, bin_size=0.1,
        n_events=60, amplitude=12.0, baseline=0.3, random_state=0,
    )  # fmt: skip
    begins = np.rint(counts.truth.events["time"].to_numpy() / 0.1).astype(int)
    position = rng.integers(0, 5, counts.n_bins)
    for first in begins:
        position[first : first + 20] = np.arange(20)
    frames = np.stack([begins, begins + 19], axis=1)
    passes = places.Passes(counts, frames, np.zeros(60, int), 2.0, position)
    model = DCEA(1, 2.0, "poisson", layout="joint", random_state=0).fit(counts)
    place = places.decoded(passes, model)
    assert np.isnan(place[: counts.n_bins // 2]).all()
    errors = places._errors(passes, place)
    assert errors["decoded"] > 0.8
    assert errors["position_error"] < 0.5 < 4 < errors["position_error_of_median"]


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
    assert set(found.figures) == {"places", "decoded", "units"}
    assert joint["decoded"] > 0.7
    assert joint["position_error"] < 1.0 < 3.0 < joint["position_error_of_median"]
    assert "a position for" in found.findings[1]
