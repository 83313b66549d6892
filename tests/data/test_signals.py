"""Signals in bins: position, speed and the like, which go with the counts."""

from __future__ import annotations

import numpy as np
import pytest

from spikecdl import BinnedSpikes, concatenate
from spikecdl.conversion import hide
from spikecdl.data.inputs import signal_ranges


def counts(trials=3, bins=40, **more):
    """Counts of two units in trials that begin every ten seconds, in bins of 0.1 s."""
    y = np.random.default_rng(0).poisson(0.5, (trials, 2, bins))
    starts = 10.0 * np.arange(trials)
    return BinnedSpikes.from_array(y, 0.1, trial_starts=starts, **more)


def test_of_many_samples_bins_have_the_mean():
    times = np.arange(0, 40, 0.01) + 0.005
    found = counts().with_signals({"x": (times, times**2)}).signals["x"]
    middle = 10.0 * np.arange(3)[:, None] + 0.1 * np.arange(40) + 0.05
    np.testing.assert_allclose(found, middle**2, atol=0.001)


def test_between_few_samples_values_lie_on_a_line_and_none_before_or_after():
    found = counts().with_signals({"x": ([1.0, 12.0, 21.0], [0.0, 11.0, 20.0])}).signals["x"]
    middle = 10.0 * np.arange(3)[:, None] + 0.1 * np.arange(40) + 0.05
    inside = (middle > 1.05) & (middle < 21.0)
    at_samples = np.isclose(np.abs(middle[..., None] - [1.05, 12.05, 21.05]).min(-1), 0)
    np.testing.assert_allclose(found[inside & ~at_samples], middle[inside & ~at_samples] - 1)
    assert np.isnan(found[(middle < 1) | (middle > 21.1)]).all()


def test_missing_samples_are_bridged():
    times, values = np.arange(0, 40, 0.05), np.arange(0, 40, 0.05)
    values = np.where((times > 1) & (times < 2), np.nan, values)
    found = counts().with_signals({"x": (times, values)}).signals["x"]
    assert np.isfinite(found[0]).all()
    assert (np.diff(found[0]) > 0).all()


def test_values_of_bins_are_taken_as_they_are_and_join_others():
    values = np.arange(120.0).reshape(3, 40)
    some = counts().with_signals({"a": values}).with_signals({"b": values + 1})
    assert list(some.signals) == ["a", "b"]
    np.testing.assert_array_equal(some.signals["b"], values + 1)


def test_go_with_trials_and_bins():
    values = np.arange(120.0).reshape(3, 40)
    some = counts().with_signals({"a": values})
    part = some.select(trials=[2, 0], bins=slice(5, 9), units=[1])
    np.testing.assert_array_equal(part.signals["a"], values[[2, 0], 5:9])
    np.testing.assert_array_equal(hide(some, np.arange(40) % 4 == 0).signals["a"], values)
    assert some.pool().signals is None
    assert some.fingerprint != counts().fingerprint
    assert some.fingerprint != counts().with_signals({"a": values + 1}).fingerprint


def test_of_several_recordings_those_stay_that_all_have():
    one = counts().with_signals({"a": np.ones((3, 40)), "b": np.ones((3, 40))})
    other = counts(bins=30).with_signals({"a": np.zeros((3, 30))})
    both = concatenate([one, other])
    assert list(both.signals) == ["a"]
    np.testing.assert_array_equal(both.signals["a"][3:, 29:31], [[0, np.nan]] * 3)
    assert concatenate([one, counts()]).signals is None


def test_a_signal_of_pynapple():
    nap = pytest.importorskip("pynapple")
    times = np.arange(0, 40, 0.01) + 0.005
    found = counts().with_signals({"x": nap.Tsd(times, times)}).signals["x"]
    np.testing.assert_allclose(found[0], 0.1 * np.arange(40) + 0.05, atol=0.001)


@pytest.mark.parametrize(
    ("signal", "problem"),
    [
        (([0.0, 1.0], [1.0]), r"`x` \(1,\) must have shape \(2,\), as `times`"),
        (([1.0, 0.0], [1.0, 2.0]), "the times of signal 'x' must rise"),
        (([1.0], [np.nan]), "the times of signal 'x' must rise"),
        (([90.0, 91.0], [1.0, 2.0]), "signal 'x' has no value in the windows"),
        (np.ones((3, 7)), r"`x` \(3, 7\) must have shape \(3, 40\)"),
    ],
)
def test_refuses(signal, problem):
    with pytest.raises(ValueError, match=problem):
        counts().with_signals({"x": signal})


def test_needs_times_of_trials():
    y = BinnedSpikes.from_array(np.ones((2, 1, 5), int), 0.1)
    with pytest.raises(ValueError, match="`trial_starts` must be known"):
        y.with_signals({"x": ([0.0, 1.0], [0.0, 1.0])})
    assert y.with_signals({"x": np.ones((2, 5))}).signals["x"].shape == (2, 5)


def test_ranges_are_of_most_values_or_of_all_where_most_are_the_same():
    values = np.linspace(0, 100, 120).reshape(3, 40)
    rare, constant = np.zeros((3, 40)), np.ones((3, 40))
    rare[1, 7] = 2.0
    signals = {"walk": values, "rare": rare, "constant": constant}
    found = signal_ranges(counts().with_signals(signals))
    assert list(found) == ["walk", "rare"]
    np.testing.assert_allclose(found["walk"], [1, 99])
    assert found["rare"] == [0.0, 2.0]
