"""Templates at other speeds: operators in time, and derivatives through their transposes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from spikecdl import Poisson
from spikecdl.events.dense import DenseCounts
from spikecdl.events.model import EventModel
from spikecdl.events.speeds import CountsAtSpeeds, Speeds
from spikecdl.model.observations import Observations

RAMP = np.arange(6.0)


def of(*values: float, length: int = 6, ratio: float = 1.0) -> Speeds:
    return Speeds.of(np.array(values), length, ratio)


@pytest.mark.parametrize(
    ("speed", "ratio", "expected"),
    [
        (1, 1.0, RAMP),
        (-1, 1.0, RAMP[::-1]),
        (2, 1.0, [0.5, 2.5, 4.5]),
        (0.5, 1.0, np.repeat(RAMP, 2)),
        (10, 0.2, [0.5, 2.5, 4.5]),
        (4, 1.0, [1.5, 4.5 / 2]),  # the second bin is half beyond the end, where there is zero
    ],
)
def test_a_bin_of_an_event_is_the_mean_of_the_template(speed, ratio, expected):
    np.testing.assert_allclose(of(speed, ratio=ratio).operators[0] @ RAMP, expected)


def test_events_are_as_long_as_the_slowest():
    speeds = of(0.5, 1, -3)
    assert speeds.length == 12
    assert not speeds.operators[1, 6:].any()
    assert not speeds.operators[2, 2:].any()


@pytest.fixture
def counts() -> DenseCounts:
    y = torch.from_numpy(np.random.default_rng(3).poisson(0.3, (3, 1, 2, 60)).astype(float))
    level = torch.full((3, 1, 2, 1), -1.2, dtype=torch.float64)
    return DenseCounts(Observations(y, torch.ones_like(y).bool(), Poisson(), level, True).load())


def model(counts: DenseCounts) -> EventModel:
    templates = np.random.default_rng(4).normal(0, 0.5, (2, 2, 6))
    known = EventModel.of_templates(templates, counts.start)
    return replace(known, amplitudes=np.ones((2, 1)), rates=np.array([[0.01], [0.02]]))


def test_at_the_speed_of_the_template_nothing_changes(counts):
    known = model(counts)
    found = CountsAtSpeeds(counts, of(1)).expect(of(1).spread(known))
    expected = counts.expect(replace(known, overlap=2, distance=6))
    for name in ("evidence", "number", "spikes", "expected", "curvature", "level_slope"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-12)


def test_the_slope_is_that_of_the_evidence(counts):
    speeds = of(0.7, 1, 2, -1.5)
    known = speeds.spread(model(counts))
    there = CountsAtSpeeds(counts, speeds)
    found = there.expect(known)
    slope = found.spikes - found.expected
    for place in ((0, 0, 1), (1, 1, 4)):
        change = np.zeros_like(known.templates)
        change[place] = 1e-5
        after, before = (
            there.expect(replace(known, templates=known.templates + sign * change)).evidence.sum()
            for sign in (1, -1)
        )
        assert slope[place] == pytest.approx((after - before) / 2e-5, rel=1e-5)


def test_events_of_each_speed_are_as_often_as_others_at_first(counts):
    speeds, known = of(1, 2), model(counts)
    played = speeds.played(speeds.spread(known))
    np.testing.assert_allclose(played.rates[:, 0], [0.005, 0.005, 0.01, 0.01])
    assert played.templates.shape == (4, 2, 6)
    found = CountsAtSpeeds(counts, speeds).expect(speeds.spread(known))
    assert found.number.shape == (2, 2)
