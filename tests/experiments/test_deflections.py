"""Whisker recordings: the split of their trials, and events against known onsets."""

from __future__ import annotations

import numpy as np

from spikecdl.experiments import whisker_trials
from spikecdl.experiments.whisker_trials import onset_hits

ONSETS = 0.5 + 0.125 * np.arange(16)


def hits(times, tolerance=0.01, seed=0):
    generator = np.random.default_rng(seed)
    return onset_hits(times, ONSETS, 3.0, 0.005, generator, tolerance)


def test_events_at_a_constant_distance_hit_every_onset():
    found = hits([ONSETS - 0.02])
    assert found["hit_rate"] == 1
    assert found["false_alarm_rate"] == 0
    assert found["hit_p_value"] == 1 / 501


def test_each_template_has_a_lag_of_its_own():
    found = hits([ONSETS[:8] + 0.03, ONSETS[8:] - 0.04], tolerance=0.0)
    assert found["hit_rate"] == 1


def test_events_that_hit_nothing_are_false_alarms():
    found = hits([np.append(ONSETS[:12], [0.05, 2.8, 2.85, 2.9])])
    assert found["hit_rate"] == 0.75
    assert found["false_alarm_rate"] == 0.25


def test_two_events_at_one_onset_hit_one_and_none_is_false():
    found = hits([np.append(ONSETS, ONSETS[3] + 0.005)])
    assert (found["hit_rate"], found["false_alarm_rate"]) == (1, 0)


def test_without_events_nothing_is_hit():
    found = hits([[]])
    assert (found["hit_rate"], found["chance_hit_rate"], found["hit_p_value"]) == (0, 0, 1)
    assert np.isnan(found["false_alarm_rate"])


def test_events_at_random_times_are_at_chance():
    generator = np.random.default_rng(5)
    found = [hits([generator.uniform(0, 3, 16)], seed=seed) for seed in range(20)]
    rates = np.array([one["hit_rate"] for one in found])
    standard_error = rates.std() / np.sqrt(len(rates))
    assert abs(rates.mean() - found[0]["chance_hit_rate"]) < 3 * standard_error
    assert 0.2 < np.mean([one["hit_p_value"] for one in found]) < 0.8


def test_the_splits_share_no_trial(shared_data):
    recording = next(whisker_trials.load(shared_data / "whisker_thalamus", ["dir3_stim2"]))
    for split, sizes in zip(whisker_trials.SPLITS, ((17, 33), (30, 20)), strict=True):
        fitted, test = recording.split(split)
        assert (len(fitted), len(test)) == sizes
        assert not set(fitted.trial_ids) & set(test.trial_ids)
