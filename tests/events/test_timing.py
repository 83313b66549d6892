"""The rate of events within a window: its fit, and what it costs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spikecdl.events.counts import Expectation
from spikecdl.events.model import EventModel
from spikecdl.events.prior import _cost, _derivatives, exposure, timing_cost, updated_timing

N_ONSETS, LENGTH = 60, 5
at = np.arange(N_ONSETS)


def expected(starts: np.ndarray, n_windows: float) -> Expectation:
    """What is expected of windows in which events begin at some onsets (template, onset)."""
    busy = np.minimum(at + LENGTH, N_ONSETS) - at
    free = n_windows * N_ONSETS - float(starts.sum(0) @ busy)
    none = np.zeros(0)
    return Expectation(none, starts.sum(1), starts, free, none, none, none, none, none)


def model_of(n_knots: int) -> EventModel:
    return EventModel.of_templates(np.ones((1, 1, LENGTH)), np.zeros((1, 1))).with_timing(n_knots)


def learned(found: Expectation, n_knots: int) -> EventModel:
    model = model_of(n_knots)
    for _ in range(40):
        model = updated_timing(model, found, 1.0)
    return model


def test_exposure_is_what_is_left_by_earlier_events():
    starts = np.zeros((1, N_ONSETS))
    starts[0, [10, 57]] = 3.0, 2.0
    idle = exposure(model_of(3), expected(starts, 7.0))
    truth = np.full(N_ONSETS, 7.0)
    truth[11:15] -= 3.0
    truth[58:] -= 2.0
    np.testing.assert_allclose(idle, truth)


def test_a_rate_that_does_not_change_costs_nothing():
    found = expected(np.full((1, N_ONSETS), 0.5), 200.0)
    model = learned(found, 12)
    assert np.ptp(model.log_timing(N_ONSETS)) < 0.05
    assert timing_cost(model, found) == pytest.approx(0.0, abs=0.05)
    assert timing_cost(model_of(0), found) == 0.0


def test_the_rate_is_that_of_the_events():
    true = 0.02 + 0.6 * np.exp(-np.square((at - 25) / 8.0))
    found = expected(40 * true[None], 2000.0)
    rate = np.exp(learned(found, 20).log_timing(N_ONSETS)[0])
    observed = found.starts[0] / exposure(model_of(20), found)
    np.testing.assert_allclose(rate / rate.mean(), observed / observed.mean(), atol=0.15)


def test_the_cost_is_that_of_integrating_rates_out():
    """With two knots, against sums over the level and the difference."""
    found = expected(np.linspace(0.5, 1.5, N_ONSETS)[None], 400.0)
    idle, tau = exposure(model_of(2), found), 4.0
    level, apart = np.linspace(-6.5, -5.0, 301), np.linspace(-3, 4, 401)
    share = at / (N_ONSETS - 1) - 0.5
    rate = level[:, None, None] + apart[:, None] * share
    value = (found.starts[0] * rate - idle * np.exp(rate)).sum(-1)
    walk = -tau / 2 * np.square(apart) + np.log(tau / (2 * np.pi)) / 2
    both = np.logaddexp.reduce((value + walk).ravel()) + np.log(apart[1] - apart[0])
    alone = np.logaddexp.reduce(value[:, np.abs(apart).argmin()])
    best = apart[np.unravel_index((value + walk).argmax(), value.shape)[1]]
    model = replace(model_of(2), timing=np.array([[-best / 2, best / 2]]))
    curvature = _derivatives(model, found, idle, 0)[1]
    gained = value[:, np.abs(apart - best).argmin()].max() - value[:, np.abs(apart).argmin()].max()
    cost = _cost(model.timing[0], curvature, tau)
    assert gained - cost == pytest.approx(both - alone, abs=0.05)
