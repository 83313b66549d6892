"""Input that is odd but no error, and the documented result of it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from spikecdl import DCEA, SpikeTrains
from spikecdl.training import NotConvergedWarning

COUNTS = np.random.default_rng(0).poisson(0.3, (6, 2, 60))
TRIALS = {"start_time": [0.0, 1.0], "stop_time": [1.0, 2.0]}


def fit(counts: np.ndarray, **arguments) -> DCEA:
    return DCEA(1, 10, random_state=0, **arguments).fit(counts)


def recording(times=([0.5, 1.5], [0.7]), trials=TRIALS, **parts) -> SpikeTrains:
    return SpikeTrains.from_arrays(times, trials=trials, **parts)


UNEVENTFUL = {
    "silent": np.zeros((6, 2, 60), int),
    "one spike": np.eye(1, 720, 400, dtype=int).reshape(6, 2, 60),
    "all ones": np.ones((6, 2, 60), int),
    "silent unit": np.minimum(COUNTS, 1) * np.array([1, 0])[:, None],
}


@pytest.mark.parametrize(
    ("what", "family"),
    [
        *((what, "binomial") for what in UNEVENTFUL),
        *((what, "poisson") for what in ("silent", "one spike")),
        ("one spike", "negative_binomial"),
    ],
)
def test_nothing_to_find_is_a_warning(what, family):
    with pytest.warns(NotConvergedWarning, match="no events were found"):
        model = fit(UNEVENTFUL[what], family=family)
    assert np.linalg.norm(model.templates_, axis=(1, 2)) == pytest.approx([1], abs=1e-4)
    assert not model.transform(UNEVENTFUL[what]).any()
    expected = model.predict(UNEVENTFUL[what])
    assert np.isfinite(expected).all()
    assert expected == pytest.approx(np.broadcast_to(expected[..., :1], expected.shape))


@pytest.mark.filterwarnings("ignore::spikecdl.NotConvergedWarning")
@pytest.mark.parametrize("what", ["silent", "silent unit"])
def test_a_signal_that_hardly_changes(what):
    """Without noise, a single step is an event; what counts is that all is finite."""
    model = fit(UNEVENTFUL[what], family="gaussian")
    assert np.linalg.norm(model.templates_, axis=(1, 2)) == pytest.approx([1], abs=1e-4)
    assert np.isfinite(model.predict(UNEVENTFUL[what])).all()


@pytest.mark.filterwarnings("ignore::spikecdl.NotConvergedWarning")
@pytest.mark.parametrize("baseline", [(50, 60), [0.3, 0.3]], ids=str)
def test_nothing_to_find_above_a_given_baseline(baseline):
    assert np.isfinite(fit(COUNTS, baseline=baseline).templates_).all()


def test_a_recording_without_trials_is_one_window():
    counts = recording(trials=None, observed=(0.0, 2.0)).bin(0.1)
    assert counts.shape == (1, 2, 20)


def test_a_unit_without_spikes_is_kept():
    counts = recording([[0.5], []]).bin(0.1)
    assert counts.counts.sum(axis=(0, 2)).tolist() == [1, 0]
    assert counts.mask.all()


def test_duplicates_are_kept_if_they_are_real():
    counts = recording([[0.5, 0.5]], duplicates="keep").bin(0.1)
    assert counts.counts.max() == 2


def test_what_was_not_observed_is_masked():
    counts = recording(observed=(0.0, 1.5)).bin(0.1)
    assert counts.mask[1, 0].tolist() == [True] * 5 + [False] * 5


def test_trials_without_times_are_only_an_error_when_used():
    trials = pd.DataFrame({"start_time": [0.0, np.nan], "stop_time": [1.0, 2.0]})
    spikes = recording(trials=trials)
    assert len(spikes.bin(0.1, trials="start_time == start_time")) == 1
    with pytest.raises(ValueError, match="no time for trials"):
        spikes.bin(0.1)
