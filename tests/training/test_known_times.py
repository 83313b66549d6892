"""Fits of events that begin near known times only."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from spikecdl import DCEA, BinnedSpikes, GroupL1, Marginal, NotConvergedWarning
from spikecdl.evaluation.template_metrics import template_error

N_TRIALS, N_BINS, LENGTH, BIN = 30, 400, 20, 0.005
WAVE = np.hanning(LENGTH + 2)[1:-1]
WAVE /= np.linalg.norm(WAVE)


def weak_events(amplitude: float = 5.0, units: int = 1) -> tuple[BinnedSpikes, np.ndarray]:
    """Events in four of five windows of 50 ms after known times, and these times."""
    rng = np.random.default_rng(0)
    starts = 10.0 * np.arange(N_TRIALS)
    times = np.sort(rng.uniform(0.2, 1.7, (N_TRIALS, 2)), axis=1)
    eta = np.full((N_TRIALS, units, N_BINS), np.log(0.08))
    for trial, time in zip(*np.broadcast_arrays(np.arange(N_TRIALS)[:, None], times), strict=True):
        for i, t in zip(trial, time, strict=True):
            onset = int(t / BIN) + rng.integers(0, 10)
            if rng.random() < 0.8:
                eta[i, :, onset : onset + LENGTH] += amplitude * WAVE
    counts = BinnedSpikes.from_array(rng.poisson(np.exp(eta)), BIN, trial_starts=starts)
    return counts, (starts[:, None] + times).ravel()


def model(**more) -> DCEA:
    return DCEA(1, LENGTH * BIN, random_state=0, **more)


def begin_where_they_may(codes: np.ndarray, counts: BinnedSpikes) -> bool:
    may = counts.onsets[:, None, None, : codes.shape[-1]]
    return not (codes * ~may).any()


def test_weak_events_are_found_by_their_times():
    counts, times = weak_events(4.0)
    near = counts.near(times, 0.0, 0.05)
    with_times = model(trainer="marginal").fit(near)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotConvergedWarning)  # none is found without them
        without = model(trainer="marginal").fit(counts)
    error, blind = (
        template_error(m.templates_, WAVE[None, None]).errors for m in (with_times, without)
    )
    assert error[0] < 0.3 < 0.45 < blind[0]
    parts = with_times.decompose(near)
    assert np.count_nonzero(parts.codes) > 10
    assert begin_where_they_may(parts.codes, near)
    assert with_times.evidence(near).sum() > with_times.evidence(counts).sum()


@pytest.mark.parametrize("penalty", ["l1", GroupL1()])
def test_strong_events_begin_where_they_may(penalty):
    counts, times = weak_events(9.0, units=2)
    near = counts.near(times, 0.0, 0.05)
    fitted = model(penalty=penalty).fit(near)
    parts = fitted.decompose(near)
    assert np.count_nonzero(parts.codes) > 50
    assert begin_where_they_may(parts.codes, near)
    assert template_error(fitted.templates_, WAVE[None, None]).errors[0] < 0.25
    assert begin_where_they_may(fitted.decompose(near[:3]).codes, near[:3])


def test_events_that_overlap_begin_where_they_may():
    counts, times = weak_events(9.0)
    near = counts.near(times, 0.0, 0.05)
    fitted = model(trainer=Marginal(overlap=2, n_starts=2), n_epochs=1)
    with pytest.warns(match="converge"):
        fitted.fit(near)
    assert begin_where_they_may(fitted.decompose(near).codes, near)


def test_joint_events_begin_where_they_may():
    counts, times = weak_events(6.0, units=3)
    near = counts.near(times, 0.0, 0.05)
    fitted = model(layout="joint", trainer=Marginal(n_starts=2), n_epochs=3).fit(near)
    parts = fitted.decompose(near)
    assert np.count_nonzero(parts.codes) > 30
    assert begin_where_they_may(parts.codes, near)


def test_a_fit_goes_on_with_the_same_times_only(tmp_path):
    counts, times = weak_events(9.0)
    near, other = counts.near(times, 0.0, 0.05), counts.near(times, 0.0, 0.1)
    assert near.fingerprint != other.fingerprint != counts.fingerprint
    state = tmp_path / "state"
    with pytest.warns(match="converge"):
        model(n_epochs=1).fit(near, checkpoint=state)
    with pytest.raises(ValueError, match="another fit"):
        model(n_epochs=1).fit(other, checkpoint=state, resume=True)


def test_other_trainers_and_windows_too_short_are_refused():
    counts, times = weak_events()
    with pytest.raises(ValueError, match="lets events begin anywhere"):
        model(trainer="unrolled").fit(counts.near(times, 0.0, 0.05))
    late = counts.near([1.99], 0.0, 0.05)
    with pytest.raises(ValueError, match="no template of 20 bins that begins where events may"):
        model().fit(late)
