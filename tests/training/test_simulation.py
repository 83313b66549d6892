"""Counts drawn from a fitted model are as the model says, and so are their events."""

from __future__ import annotations

import numpy as np
import pytest

from spikecdl import DCEA, BinnedSpikes, CheckWarning, simulate
from spikecdl.config import INGREDIENTS

BIN = 0.005
PLAIN = dict.fromkeys(INGREDIENTS)


def fitted(counts, n_templates=1, length=0.1, **settings):
    settings = {"trainer": "marginal", "random_state": 0, **PLAIN, **settings}
    return DCEA(n_templates, length, **settings).fit(counts)


def check_drawn(model, counts, many=20):
    """Compare spikes of units and numbers of events with what the model expects."""
    drawn = [model.simulate(counts, seed) for seed in range(many)]
    total = np.mean([each.counts.sum((0, 2)) for each in drawn], axis=0)
    expected = counts.counts.sum((0, 2))
    np.testing.assert_allclose(total, expected, rtol=0.12)
    events = np.mean([len(each.truth.events) for each in drawn])
    true = len(counts.truth.events)
    assert events == pytest.approx(true, rel=0.35)
    assert drawn[0].shape == counts.shape
    assert (drawn[0].counts[~counts.mask] == 0).all()
    again = model.simulate(counts, 0)
    assert np.array_equal(again.counts, drawn[0].counts)
    assert again.truth.events.equals(drawn[0].truth.events)
    return drawn


def test_single_trials():
    how = {"n_trials": 40, "n_units": 3, "amplitude": (6.0, 9.0), "bin_size": BIN}
    how |= {"template_length": 0.1, "event_rate": 0.7, "baseline": 12.0, "random_state": 4}
    counts = simulate.simulate("poisson", ["vee"], **how)
    model = fitted(counts, family="poisson")
    drawn = check_drawn(model, counts)
    amplitude = np.mean([each.truth.events["amplitude"].mean() for each in drawn])
    found = model.decompose(counts).events()["amplitude"].mean()
    assert amplitude == pytest.approx(found, rel=0.15)


def test_a_population_with_a_mask():
    counts = simulate.simulate(
        *("poisson", ["vee", "square"]),
        **{"n_trials": 20, "n_units": 16, "layout": "joint", "bin_size": BIN, "random_state": 1},
        **{"template_length": 0.1, "event_rate": 0.5, "amplitude": (20.0, 26.0)},
    )
    mask = counts.mask.copy()
    mask[:, :, 50:80] = False
    counts = BinnedSpikes.from_array(counts.counts, bin_size=BIN, mask=mask, truth=counts.truth)
    drawn = check_drawn(fitted(counts, 2, family="poisson", layout="joint"), counts, many=8)
    assert set(drawn[0].truth.events["unit"]) == {-1}


def test_pooled_trials():
    counts = simulate.simulate(
        *("binomial", ["vee"]),
        **{"n_trials": 20, "n_units": 4, "same_events": True, "random_state": 2},
    ).pool()
    check_drawn(fitted(counts, length=0.05, family="binomial"), counts, many=6)


def test_a_history_and_bursts():
    rng = np.random.default_rng(3)
    counts = rng.poisson(0.1, (40, 1, 400))
    for bin_ in range(1, 400):
        counts[..., bin_] += rng.poisson(0.3 * counts[..., bin_ - 1])
    binned = BinnedSpikes.from_array(counts, bin_size=BIN)
    with pytest.warns(UserWarning, match="no events"):
        model = fitted(binned, family="poisson", bursts=0.015)
    drawn = model.simulate(binned).counts
    for lag in (1, 2, 8):
        pairs = [(each[..., lag:] * each[..., :-lag]).mean() for each in (drawn, counts)]
        assert pairs[0] == pytest.approx(pairs[1], rel=0.2)
    refractory = (rng.random((40, 1, 400)) < 0.3).astype(int)
    for bin_ in range(1, 400):
        refractory[..., bin_] *= 1 - refractory[..., bin_ - 1]
    binned = BinnedSpikes.from_array(refractory, bin_size=BIN)
    with pytest.warns(UserWarning, match="no events"):
        model = fitted(binned, family="poisson", history=0.02)
    drawn = model.simulate(binned).counts
    assert (drawn[..., 1:] * drawn[..., :-1]).mean() < 0.2 * drawn.mean() ** 2
    assert drawn.mean() == pytest.approx(refractory.mean(), rel=0.1)


def test_probabilities_are_compared_with_events_of_drawn_counts():
    how = {"n_trials": 40, "n_units": 2, "amplitude": (6.0, 9.0), "bin_size": BIN}
    how |= {"template_length": 0.1, "event_rate": 0.7, "baseline": 12.0, "random_state": 4}
    counts = simulate.simulate("poisson", ["vee"], **how)
    model = DCEA(1, 0.1, "poisson", trainer="marginal", random_state=0, **PLAIN)
    last = model.fit(counts, calibrate=True).checks_[-1]
    assert last["check"] == "probabilities of events"
    assert last["passed"]
    assert "probabilities of events" not in [one["check"] for one in model.fit(counts).checks_]


def test_wrong_probabilities_are_said(monkeypatch):
    monkeypatch.setattr("spikecdl.evaluation.checks._MISJUDGED", -1.0)
    counts = simulate.simulate("poisson", ["vee"], n_trials=8, n_units=1, bin_size=BIN)
    model = DCEA(1, 0.05, "poisson", trainer="marginal", random_state=0, **PLAIN)
    with pytest.warns(CheckWarning, match="do not rely on probabilities of single events"):
        model.fit(counts, calibrate=True)
