"""One event model: what a setting or a masked bin may change, and what real recordings give."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest

from spikecdl import DCEA, BinnedSpikes, Marginal, NotConvergedWarning, datasets, read
from spikecdl.evaluation.metrics import recovery
from spikecdl.events import em, posterior
from spikecdl.events.model import EventModel
from spikecdl.experiments.event_recovery import CASES
from spikecdl.simulate import simulate


def fit(model, counts):
    """Fit a model whose events may follow each other without a gap."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotConvergedWarning)
        return model.fit(counts)


def four_units() -> BinnedSpikes:
    """Return twelve trials of four units that share strong events."""
    return simulate(
        "poisson",
        ["vee"],
        layout="joint",
        n_trials=12,
        n_units=4,
        duration=1.5,
        bin_size=0.01,
        template_length=0.2,
        n_events=3,
        amplitude=20.0,
        baseline=15.0,
        random_state=0,
    )


def test_one_masked_bin_does_not_change_the_model():
    counts = four_units()
    mask = counts.mask.copy()
    mask[3, 2, 70] = False
    hidden = replace(counts, counts=np.where(mask, counts.counts, 0), mask=mask, n_pooled=mask * 1)
    models = [
        DCEA(1, 0.2, layout="joint", trainer="marginal", random_state=0).fit(each)
        for each in (counts, hidden)
    ]
    sizes = [model.tensors_["event_amplitudes"].median().item() for model in models]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.03)
    evidence = [m.evidence(c).sum() for m, c in zip(models, (counts, hidden), strict=True)]
    assert evidence[1] == pytest.approx(evidence[0], abs=4)


@pytest.mark.parametrize("layout", ["shared", "joint"])
def test_starts_are_as_many_as_asked_at_most(layout):
    counts = four_units()
    for most in (1, 3):
        trainer = Marginal(n_starts=most, overlap=1)
        model = fit(DCEA(1, 0.2, layout=layout, trainer=trainer, random_state=0), counts)
        assert 1 <= model.tensors_["n_starts"] <= most
        assert model.tensors_["overlap"] == 1


def test_evidence_above_zero_is_an_error(monkeypatch):
    counts = four_units()
    model = fit(DCEA(1, 0.2, layout="joint", trainer=Marginal(n_starts=1)), counts)
    assert model.evidence(counts).max() < 0
    right = posterior.evidence
    monkeypatch.setattr(posterior, "evidence", lambda *about: right(*about) + 1e5)
    with pytest.raises(FloatingPointError, match="log probability of counts is .* above zero"):
        model.evidence(counts)


def test_rates_at_their_bound_are_told():
    model = EventModel.of_templates(np.ones((2, 1, 10)), np.zeros((1, 1)))
    often = model.rates * [[1.0], [em.MOST_BUSY / 10 / model.rates[1].sum()]]
    assert em.as_often_as_may_be(replace(model, rates=often)).tolist() == [False, True]


def laps(seed: int) -> tuple[np.ndarray, list[tuple[int, int, int]]]:
    """Return counts of units of which half fire in either direction of a track, and the laps."""
    rng, n_units, length = np.random.default_rng(seed), 120, 24
    where = rng.random((2, n_units))
    takes_part = rng.random((2, n_units)) < 0.4
    parts, truth, begin = [], [], 0
    for lap in range(60):
        way, n_bins = lap % 2, int(length * np.exp(0.12 * rng.normal()))
        late = (np.arange(n_bins) + 0.5) / n_bins - where[way][:, None]
        rate = 0.01 + 0.3 * takes_part[way][:, None] * np.exp(-0.5 * (late / 0.1) ** 2)
        parts.append(rng.poisson(rate))
        truth.append((way, begin, begin + n_bins))
        begin += n_bins
    return np.concatenate(parts, axis=1), truth


def found_laps(events, truth, bin_size, shifts) -> float:
    """Return the share of laps in which an event of the template of their direction begins."""
    shares = []
    for names in ((0, 1), (1, 0)):
        share = 0
        for way, name in enumerate(names):
            at = events["time"][events["template"] == name].to_numpy() / bin_size
            mine = [(a, b) for each, a, b in truth if each == way]
            share += max(
                sum(bool(((at + s >= a) & (at + s < b)).any()) for a, b in mine) for s in shifts
            )
        shares.append(share / len(truth))
    return max(shares)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_sequences_back_to_back_are_told_apart(seed):
    y, truth = laps(seed)
    counts = BinnedSpikes.from_array(y[None], 0.05)
    model = fit(DCEA(2, 1.2, layout="joint", random_state=0), counts)
    events = model.decompose(counts).events()
    assert found_laps(events, truth, 0.05, range(-24, 25)) >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_each_lap_of_a_mouse_is_an_event_of_its_direction(seed, shared_data):
    file = np.load(shared_data / "places" / "ca3_laps.npz")
    y = np.zeros((file["unit"].max() + 1, file["frame"].max() + 1), int)
    np.add.at(y, (file["unit"], file["frame"]), file["count"])
    counts = BinnedSpikes.from_array(np.minimum(y, 1)[None], 0.05)
    model = fit(DCEA(2, 1.45, "poisson", layout="joint", random_state=seed), counts)
    assert -44_500 < model.evidence(counts).sum() < 0
    truth = [(way, a, b) for (a, b), way in zip(file["laps"], file["direction"], strict=True)]
    events = model.decompose(counts).events()
    assert found_laps(events, truth, 0.05, range(-29, 30)) >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("seed", [3, 4])
def test_events_that_overlap_by_chance_are_summed_as_such(seed):
    case = replace(CASES["slow"], gap=0.4, event_rate=0.45)
    counts = case.draw(seed)
    model = case.estimator(seed, trainer="marginal").fit(counts)
    assert model.tensors_["overlap"] >= 2
    parts = model.decompose(counts)
    found = recovery(parts, 0.05)
    assert found.templates.errors.max() < 0.25
    assert found.events.hit_rate > 0.6
    own = 1 - parts.events()["probability"].mean()
    assert abs(own - found.events.false_alarm_rate) < 0.06


@pytest.mark.slow
def test_near_events_of_one_template_are_weighed_with_templates_that_are_learned():
    case = CASES["dense"]  # whose events of one template begin half a template apart at the least
    counts = case.draw(0)
    model = fit(case.estimator(0, trainer="marginal"), counts)
    assert model.tensors_["distance"] < 0.5 * model.tensors_["templates"].shape[-1]
    assert recovery(model.decompose(counts), 0.05 / 8).events.hit_rate > 0.83


@pytest.mark.slow
@pytest.mark.parametrize("seed", [100, 102])
def test_crowded_events_are_told_apart(seed):
    """Sums over two events at a time end at errors of 0.23 and 0.28 here, and prefer them."""
    case = CASES["capped"]
    counts = case.draw(seed)
    model = fit(case.estimator(seed, trainer="marginal"), counts)
    found = recovery(model.decompose(counts), 0.05 / 8)
    assert model.tensors_["overlap"] == 3
    assert found.templates.errors.max() < 0.15
    assert found.events.hit_rate > 0.82


@pytest.mark.slow
def test_three_events_at_a_time_are_learned_from_all_counts():
    """From the half of the demo's counts in which overlaps are compared, an error is 0.24."""
    counts = read(datasets.demo()).bin(0.001, align="start_time", window=(0.0, 2.0)).pool()
    model = fit(DCEA(3, 0.05, "binomial", trainer="marginal", random_state=0), counts)
    assert counts.counts.size > 30_000
    assert model.tensors_["overlap"] == 3
    assert recovery(model.decompose(counts), 0.003).templates.errors.max() < 0.18
