"""Counts whose events may begin near known times only."""

from __future__ import annotations

import numpy as np
import pytest

from spikecdl import BinnedSpikes, concatenate


def two_trials(**more) -> BinnedSpikes:
    return BinnedSpikes.from_array(np.ones((2, 6), int), 0.1, **more)


def test_bins_that_overlap_the_window_after_a_time_are_onsets():
    counts = two_trials(trial_starts=[1.0, 5.0]).near([1.23, 5.0], 0.0, 0.2)
    assert counts.onsets.tolist() == [
        [False, False, True, True, True, False],
        [True, True, True, False, False, False],
    ]
    at_once = two_trials(trial_starts=[1.0, 5.0]).near([1.23], 0.0, 0.0)
    assert np.flatnonzero(at_once.onsets).tolist() == [2]
    before = two_trials(trial_starts=[1.0, 5.0]).near([5.25], -0.2, -0.1)
    assert np.argwhere(before.onsets).tolist() == [[1, 0], [1, 1]]


def test_onsets_stay_with_their_trials():
    counts = two_trials(trial_starts=[1.0, 5.0]).near([1.23, 5.0], 0.0, 0.2)
    assert counts[1].onsets.tolist() == counts.onsets[1:].tolist()
    assert counts.pool().onsets.all(1).tolist() == [False]
    assert counts.pool().onsets[0, :5].all()
    both = concatenate([counts, two_trials()])
    assert both.onsets[:2].tolist() == counts.onsets.tolist()
    assert both.onsets[2:].all()


@pytest.mark.parametrize(
    ("times", "within", "words"),
    [
        ([1.2], (0.1, 0.0), r"`stop` \(=0\) must not be before `start` \(=0.1\)"),
        ([np.nan], (0.0, 0.1), "`times` must be finite"),
        ([70.0], (0.0, 0.1), "none of 1 is so near a trial"),
    ],
)
def test_times_of_no_use_are_refused(times, within, words):
    with pytest.raises(ValueError, match=words):
        two_trials(trial_starts=[1.0, 5.0]).near(times, *within)


def test_times_need_a_place_in_the_recording():
    with pytest.raises(ValueError, match="`trial_starts` must be known"):
        two_trials().near([1.0], 0.0, 0.1)
