"""Templates learned with events summed out, probabilities of events, and the evidence of trials."""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace

import numpy as np
import pytest

from spikecdl import (
    DCEA,
    L1,
    BinnedSpikes,
    Gaussian,
    Marginal,
    NotConvergedWarning,
    checkpoint,
    load,
)
from spikecdl.evaluation.metrics import recovery
from spikecdl.experiments.event_recovery import CASES
from spikecdl.simulate import simulate


def fit_quietly(model, counts, **more):
    """Fit a model that may find no events, or stop early."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotConvergedWarning)
        return model.fit(counts, **more)


@pytest.fixture(scope="module")
def single_trials():
    """Fit two templates of 400 ms to 80 windows of single trials, most of whose events are weak."""
    counts = CASES["slow"].draw(0, 80)
    return counts, DCEA(2, 0.4, trainer="marginal", random_state=0).fit(counts)


def test_single_trials_give_templates_and_events(single_trials):
    counts, model = single_trials
    found = recovery(model.decompose(counts), 0.05)
    assert found.templates.errors.max() < 0.35
    assert found.events.hit_rate > 0.4
    assert found.events.false_alarm_rate < 0.3


def test_events_have_the_amplitudes_of_templates_of_unit_norm(single_trials):
    counts, model = single_trials
    parts = model.decompose(counts)
    events = parts.events()
    true = counts.truth.events["amplitude"].median()
    assert events["amplitude"].median() == pytest.approx(true, rel=0.2)
    assert np.nanmean(parts.rate) == pytest.approx(counts.rate().mean(), rel=0.15)
    assert parts.deviance_explained > 0.1


def test_events_know_how_sure_they_are(single_trials):
    counts, model = single_trials
    events = model.decompose(counts).events()
    assert events["probability"].between(0.45, 1).all()
    false = recovery(model.decompose(counts), 0.05).events.false_alarm_rate
    assert abs((1 - events["probability"]).mean() - false) < 0.12
    assert (events["time_sd"] > 0).any()
    assert (events["peak_time"] > events["time"]).all()


def test_false_discovery_rate_is_held(single_trials):
    counts, model = single_trials
    parts = model.decompose(counts)
    everything, kept = parts.events(), parts.events(fdr=0.05)
    assert 0 < len(kept) < len(everything)
    assert (1 - kept["probability"]).mean() <= 0.05
    dropped = everything[everything["q_value"] > 0.05]
    assert kept["probability"].min() >= dropped["probability"].max()
    with pytest.raises(ValueError, match="`fdr`.*between 0 and 1"):
        parts.events(fdr=2)


def test_evidence_of_other_trials_prefers_the_events(single_trials):
    counts, model = single_trials
    others = CASES["slow"].draw(7, 40)
    none = DCEA(1, 0.4, trainer="marginal", random_state=0)
    fit_quietly(none, replace(CASES["slow"], shapes=()).draw(0, 80))
    evidence = model.evidence(others)
    assert evidence.shape == (len(others.counts),)
    none.unit_rate_ = model.unit_rate_
    assert evidence.sum() > none.evidence(others).sum() + 20


def test_evidence_is_a_probability_of_the_counts():
    counts = np.random.default_rng(0).binomial(1, 0.2, (30, 1, 6))
    model = DCEA(1, 3, "binomial", trainer="marginal", n_epochs=2, random_state=0)
    fit_quietly(model, counts)
    every = np.array(np.meshgrid(*[[0, 1]] * 6)).reshape(6, -1).T[:, None]
    np.testing.assert_allclose(np.exp(model.evidence(every)).sum(), 1, rtol=1e-6)


def test_pure_noise_has_hardly_an_event():
    counts = CASES["noise"].draw(3, 60)
    model = DCEA(1, 0.2, trainer="marginal", random_state=0)
    fit_quietly(model, counts)
    assert len(model.decompose(counts).events()) <= 3


def test_default_fit_has_probabilities_for_its_own_events():
    counts = simulate(n_units=6, same_events=True, random_state=0).pool()
    model = DCEA(3, 0.05, "binomial", random_state=0).fit(counts)
    events = model.decompose(counts).events()
    assert events["probability"].median() > 0.9
    assert (events["q_value"] <= 1).all()


def test_families_without_compiled_cost_have_no_probabilities(single_trials):
    counts, model = single_trials
    parts = model.decompose(counts)
    object.__setattr__(parts, "certainty", None)
    assert "probability" not in parts.events()
    with pytest.raises(ValueError, match="needs probabilities"):
        parts.events(fdr=0.1)


def test_signal_of_real_values():
    rng = np.random.default_rng(0)
    signal = rng.normal(0, 0.5, (20, 1, 100))
    template = np.hanning(12)
    for trial in range(20):
        signal[trial, 0, 30 + trial : 42 + trial] += 2 * template
    model = DCEA(1, 12, Gaussian(scale=0.5), trainer="marginal", random_state=0).fit(signal)
    events = model.decompose(BinnedSpikes.from_array(signal, 1.0)).events()
    assert len(events) == pytest.approx(20, abs=2)
    assert (events["probability"] > 0.8).mean() > 0.8


def test_joint_layout_sums_over_units():
    counts = simulate(
        "poisson",
        ["vee"],
        n_trials=20,
        n_units=5,
        layout="joint",
        bin_size=0.01,
        template_length=0.2,
        n_events=2,
        amplitude=20.0,
        random_state=1,
    )
    model = DCEA(1, 0.2, layout="joint", trainer="marginal", random_state=0).fit(counts)
    assert recovery(model.decompose(counts), 0.03).events.hit_rate > 0.8


def test_saved_model_gives_the_same_bits(single_trials, tmp_path):
    counts, model = single_trials
    model.save(tmp_path)
    again = load(tmp_path)
    np.testing.assert_array_equal(again.evidence(counts), model.evidence(counts))
    np.testing.assert_array_equal(again.transform(counts), model.transform(counts))


def test_resumed_fit_is_the_uninterrupted_one(tmp_path):
    counts, file = CASES["slow"].draw(0, 40), tmp_path / "fit.safetensors"
    whole = DCEA(1, 0.4, trainer=Marginal(n_starts=2), random_state=0).fit(counts)
    stopped = DCEA(1, 0.4, trainer=Marginal(n_starts=2), n_epochs=1, random_state=0)
    fit_quietly(stopped, counts, checkpoint=file)
    stopped.set_params(n_epochs=None).fit(counts, checkpoint=file, resume=True)
    np.testing.assert_array_equal(stopped.templates_, whole.templates_)


def test_a_search_broken_off_goes_on_to_the_same_model(tmp_path, monkeypatch):
    counts, file = CASES["slow"].draw(0, 20), tmp_path / "fit.safetensors"
    model = DCEA(2, 0.4, trainer=Marginal(n_starts=2, overlap=1), n_epochs=1, random_state=0)
    fit_quietly(model, counts).save(tmp_path / "whole")
    monkeypatch.setattr(checkpoint, "MOMENT", 0.0)
    save, names = checkpoint.save_tensors, []

    def save_and_stop(path, tensors, about):
        save(path, tensors, about)
        names.append(about["steps"][-1])
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save_tensors", save_and_stop)
    for _ in range(200):
        with pytest.raises(KeyboardInterrupt):
            fit_quietly(model, counts, checkpoint=file, resume=True)
        if names[-1] == "overlap":
            break
    steps = list(dict.fromkeys(names))
    assert steps[:2] == ["start 1", "start 2"]
    monkeypatch.setattr(checkpoint, "save_tensors", save)
    fit_quietly(model, counts, checkpoint=file, resume=True).save(tmp_path / "again")
    whole, again = (tmp_path / f"{name}.safetensors" for name in ("whole", "again"))
    assert again.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"penalty_weight": 0.2}, r"`penalty_weight` \(=0.2\) is not used by trainer='marginal'"),
        ({"penalty": "group_l1"}, r"`penalty` \(='group_l1'\) is not used"),
        ({"penalty": L1(sign="negative")}, r"`sign` \(='negative'\) .* leave it out \(`nonneg"),
        ({"penalty": L1(sign=("positive", "negative"))}, r"`sign` \(=\('positive', 'negative'\)"),
    ],
)
def test_what_it_does_not_use_is_refused(given, words):
    with pytest.raises(ValueError, match=words):
        DCEA(2, 12, trainer="marginal", **given).fit(np.ones((3, 1, 60), int))


@pytest.mark.parametrize("overlap", [1, 3])
def test_templates_that_may_not_fall_below_zero_do_not(single_trials, overlap):
    counts, free = single_trials
    kept = DCEA(
        2, 0.4, trainer=Marginal(nonnegative=(False, True), overlap=overlap), random_state=0
    )
    fit_quietly(kept.set_params(n_epochs=1), counts[:40])
    assert free.templates_.min() < 0
    assert kept.templates_[0].min() < 0 <= kept.templates_[1].min()
    assert kept.decompose(counts[:40]).events()["amplitude"].min() > 0


def test_expected_counts_are_right_where_events_overlap():
    counts = simulate(n_units=2, same_events=True, random_state=0).pool()
    model = DCEA(3, 0.05, "binomial", trainer="marginal", random_state=0).fit(counts)
    assert model.predict(counts).sum() == pytest.approx(counts.counts.sum(), rel=0.02)
    assert len(model.decompose(counts).events()) == pytest.approx(len(counts.truth.events), abs=2)


def test_most_events_lists_the_most_probable(single_trials):
    counts, model = single_trials
    few = copy.deepcopy(model).set_params(trainer=Marginal(most_events=1))
    every, kept = model.decompose(counts).events(), few.decompose(counts).events()
    assert every.groupby(["trial", "unit"]).size().max() > 1
    assert kept.groupby(["trial", "unit"]).size().max() == 1
    best = every.groupby(["trial", "unit"])["probability"].max()
    same = kept.set_index(["trial", "unit"])["probability"]
    np.testing.assert_allclose(same, best, atol=1e-9)


ODD = np.random.default_rng(0).poisson(0.3, (6, 2, 60))
ODDITIES = {
    "one window": (ODD[:1, :1], 10, "poisson"),
    "template as long as the window": (ODD, 60, "poisson"),
    "template of a bin": (ODD, 1, "poisson"),
    "template of two bins": (ODD, 2, "poisson"),
    "no spike": (0 * ODD, 10, "poisson"),
    "a spike in every bin": (0 * ODD + 1, 10, "binomial"),
    "a silent unit": (ODD * [[[1], [0]]], 10, "poisson"),
    "a signal of zeros": (0.0 * ODD, 10, Gaussian()),
}


@pytest.mark.parametrize("what", ODDITIES)
def test_odd_counts_have_finite_results(what):
    counts, length, family = ODDITIES[what]
    model = DCEA(1, length, family, trainer=Marginal(n_starts=2), n_epochs=1, random_state=0)
    fit_quietly(model, counts)
    events = model.decompose(BinnedSpikes.from_array(counts, 1.0)).events()
    assert np.isfinite(model.evidence(counts)).all()
    assert np.isfinite(events.to_numpy(float)).all()
    np.testing.assert_allclose(np.linalg.norm(model.templates_), 1, rtol=1e-5)


def test_unobserved_bins_hide_what_they_hold():
    mask = np.ones(ODD.shape, bool)
    mask[2, 1, 10:40], mask[3] = False, False
    counts = BinnedSpikes.from_array(ODD, 1.0, mask=mask)
    model = fit_quietly(DCEA(1, 10, trainer=Marginal(n_starts=2), random_state=0), counts)
    assert model.evidence(counts)[3] == pytest.approx(0)
    nothing = BinnedSpikes.from_array(ODD, 1.0, mask=mask & False)
    with pytest.warns(NotConvergedWarning, match="no events were found.*; use larger bins"):
        DCEA(1, 10, trainer="marginal", random_state=0).fit(nothing)


def test_settings_are_checked():
    with pytest.raises(ValueError, match="`overlap`"):
        Marginal(overlap=0)


def test_times_are_finer_than_bins():
    """Events at any time, in counts so strong that they are known to a fraction of a bin."""
    rng, length = np.random.default_rng(1), 40
    eta, true = np.full((30, 600), np.log(15.0)), []
    for window in range(30):
        onset = rng.uniform(0, 60)
        while onset + length < 600:
            phase = (np.arange(600) + 0.5 - onset) / length
            eta[window] += (
                1.8 * np.exp(-0.5 * ((phase - 0.4) / 0.13) ** 2) * (abs(phase - 0.5) < 0.5)
            )
            true.append((window, onset))
            onset += length + rng.exponential(40)
    counts = BinnedSpikes.from_array(rng.poisson(np.exp(eta))[None], 1.0, n_pooled=200)
    parts = DCEA(1, length, random_state=0).fit(counts).decompose(counts)
    error = {}
    for between in (True, False):
        events = parts.events(probabilities=between)
        late = [events["time"][events["unit"] == w].to_numpy() - s for w, s in true]
        late = np.array([each[np.abs(each).argmin()] for each in late])
        late -= np.median(late)  # the shift of a template is a convention
        error[between] = np.median(np.abs(late))
    assert error[True] < 0.17 < 0.22 < error[False]  # 0.25 for times rounded to bins
