"""Averages of signals around events."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from tables import refused

from spikecdl import DCEA, BinnedSpikes, plots

ONSET, LENGTH = 0.5, 0.1  # seconds of each trial, of which there is one a second


@pytest.fixture(scope="module")
def parts():
    rate = np.repeat([0.1, 2.0, 0.1], [50, 10, 40])
    y = np.random.default_rng(0).poisson(rate, (30, 100))[:, None]
    counts = BinnedSpikes.from_array(y, 0.01, trial_starts=np.arange(30.0))
    found = DCEA(1, LENGTH, "poisson", random_state=0).fit(counts).decompose(counts)
    assert len(found.events()) == pytest.approx(30, abs=3)
    return found


def curve(ax) -> tuple[np.ndarray, np.ndarray]:
    line = ax.lines[0]
    return line.get_xdata(), line.get_ydata()


def test_a_signal_that_follows_events(parts):
    times = np.arange(0, 30, 0.005)
    bump = np.exp(-0.5 * np.square((times % 1 - ONSET - 0.15) / 0.02))
    (ax,) = plots.triggered(parts, (times, bump), (-0.3, 0.4))
    lags, mean = curve(ax)
    assert lags[mean.argmax()] == pytest.approx(0.15, abs=0.02)
    assert mean.max() > 0.8
    assert mean[0] < 0.01
    band = ax.collections[0].get_paths()[0].vertices
    assert band[:, 1].max() >= mean.max()


def test_intervals_are_one_inside(parts):
    inside = pd.DataFrame({"start_time": np.arange(30) + 0.45, "stop_time": np.arange(30) + 0.7})
    lags, mean = curve(plots.triggered(parts, inside, (-0.3, 0.4))[0])
    assert mean[(lags > 0) & (lags < 0.15)].min() > 0.9
    assert mean[(lags < -0.1) | (lags > 0.25)].max() < 0.1


def test_events_have_the_weight_of_their_probability(parts):
    times = np.arange(0, 30, 0.01)
    step = (times > 15).astype(float)
    events = parts.intervals()
    weight, late = events["probability"], events["start_time"] > 15
    _, mean = curve(plots.triggered(parts, (times, step), (0.0, 0.1))[0])
    assert mean[50] == pytest.approx((weight * late).sum() / weight.sum(), abs=1e-9)


def test_signals_of_pynapple(parts):
    nap = pytest.importorskip("pynapple")
    times = np.arange(0, 30, 0.01)
    signal = nap.Tsd(times, np.sin(times))
    ours, theirs = (
        curve(plots.triggered(parts, s)[0])[1] for s in ((times, np.sin(times)), signal)
    )
    np.testing.assert_allclose(ours, theirs)


def test_what_is_no_signal_is_refused(parts):
    with refused(ValueError, "must have shape", "lengths"):
        plots.triggered(parts, (np.arange(3.0), np.zeros(2)))
    with refused(ValueError, "times .* that rise", "order"):
        plots.triggered(parts, (np.array([0.0, 2.0, 1.0]), np.zeros(3)))
