"""Templates with a row per unit, events of a population summed out."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from populations import BIN, population, sequences, shuffled
from scipy import stats
from sklearn.base import clone

from spikecdl import DCEA, BinnedSpikes, Marginal, NotConvergedWarning, load
from spikecdl.conversion import hide, problem
from spikecdl.evaluation.metrics import recovery
from spikecdl.events.dense import DenseCounts
from spikecdl.events.listed import ListedCounts
from spikecdl.events.model import EventModel
from spikecdl.events.posterior import with_baseline
from spikecdl.events.spike_list import list_spikes
from spikecdl.training.base import UniversalThreshold
from spikecdl.training.events import counts_of


def problem_of(model, counts):
    return problem(model._settings(), counts, UniversalThreshold(), 50, torch.Generator())


@pytest.fixture(scope="module")
def fitted():
    counts = population(random_state=0)
    return counts, DCEA(2, 0.5, layout="joint", trainer="marginal", random_state=0).fit(counts)


def test_sequences_and_events_are_found(fitted):
    counts, model = fitted
    parts = model.decompose(counts)
    found = recovery(parts, 0.05)
    assert found.templates.max < 0.6
    assert found.events.hit_rate > 0.9
    assert found.events.false_alarm_rate < 0.05
    own = 1 - parts.events()["probability"].mean()
    assert abs(own - found.events.false_alarm_rate) < 0.05
    assert model.tensors_["n_agree"] > 1


def test_most_units_that_take_no_part_have_a_row_of_zeros(fitted):
    counts, model = fitted
    size = np.linalg.norm(model.templates_, axis=2)
    order = recovery(model.decompose(counts)).templates.assignment
    takes_part = np.linalg.norm(counts.truth.templates, axis=2)[np.argsort(order)] > 0
    assert (size[~takes_part] == 0).mean() > 0.7
    assert (size[takes_part] > 0).mean() > 0.95


def test_templates_beyond_those_that_are_there_are_zero_and_have_no_events():
    counts = population(20, 10.0, peak=30.0, n_events=3, n_windows=4)
    model = DCEA(6, 0.5, layout="joint", trainer=Marginal(2), random_state=0).fit(counts)
    assert model.templates_.shape == (6, 20, 50)
    assert set(model.decompose(counts).events()["template"]) == {0, 1}
    assert np.isfinite(model.evidence(counts)).all()


@pytest.mark.slow
def test_units_shuffled_in_time_give_no_template(fitted):
    counts, _ = fitted
    model = DCEA(2, 0.5, layout="joint", trainer="marginal", random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotConvergedWarning)
        model.fit(shuffled(counts))
    assert len(model.decompose(shuffled(counts)).events()) == 0


def test_templates_of_a_population_that_may_not_fall_below_zero(fitted):
    counts, free = fitted
    part = BinnedSpikes.from_array(counts.counts[..., :15_000], counts.bin_size)
    kept = DCEA(2, 0.5, layout="joint", trainer=Marginal(nonnegative=True), random_state=0)
    kept.fit(part)
    assert free.templates_.min() < -0.01
    assert kept.templates_.min() >= 0
    found = recovery(kept.decompose(counts), 0.05)
    assert found.templates.max < 0.55
    assert found.events.hit_rate > 0.9
    for bounds in ((True, False), (False, True)):
        trainer = Marginal(nonnegative=bounds, n_starts=1)
        mixed = clone(kept).set_params(trainer=trainer).fit(part)
        assert tuple(mixed.templates_.min((1, 2)) >= 0) == bounds
        assert mixed.templates_.min() < -0.01


def test_a_saved_model_gives_the_same_bits(fitted, tmp_path):
    counts, model = fitted
    model.save(tmp_path)
    again = load(tmp_path)
    np.testing.assert_array_equal(again.transform(counts), model.transform(counts))
    np.testing.assert_array_equal(again.evidence(counts), model.evidence(counts))


def test_events_drawn_make_the_counts_that_there_are(fitted):
    counts, model = fitted
    mean = model.decompose(counts).drawn_mean
    assert mean.sum() == pytest.approx(counts.counts.sum(), rel=0.05)


def test_hidden_bins_are_expected_from_the_others(fitted):
    counts, model = fitted
    best = DCEA(1, 0.5, layout="joint", trainer="marginal", n_epochs=1, random_state=0)
    assert model.score(counts) > 0.02
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotConvergedWarning)
        assert abs(best.fit(shuffled(counts)).score(shuffled(counts))) < 0.01


def test_evidence_has_all_constants(fitted):
    counts, model = fitted
    few = BinnedSpikes.from_array(counts.counts[..., :60], counts.bin_size)
    sums = few.counts.sum(2)[0]
    known = np.array(model.unit_rate_[0])
    alone = stats.poisson.logpmf(few.counts[0], known[:, None]).sum()
    assert sums.max() > 1
    assert model.evidence(few)[0] == pytest.approx(alone, abs=15)


def test_rates_of_a_decomposition_are_computed_when_they_are_needed(fitted):
    counts, model = fitted
    parts = model.decompose(counts)
    assert len(parts.events()) > 50
    assert "rate" not in vars(parts)
    assert "contributions" not in vars(parts)
    eta = np.log(parts.baseline)[..., None] + parts.contributions.sum(2)
    np.testing.assert_allclose(parts.rate, np.exp(eta), rtol=1e-4)
    assert 0 < parts.deviance_explained < 1


def test_overlapping_events_are_both_found():
    rng = np.random.default_rng(0)
    templates = sequences(rng, 60, 10.0, 0.6)
    level = np.log(np.full(60, 0.02))
    eta = np.tile(level[:, None], (1, 400))
    for c, s in ((0, 100), (1, 120)):
        eta[:, s : s + 50] += templates[c]
    counts = ListedCounts(list_spikes(rng.poisson(np.exp(eta))[None]))
    model = replace(EventModel.of_templates(templates, level[None]), overlap=2)
    ((_, posterior, _),) = counts.posterior(model)
    begins = posterior[0].sum(1)
    assert begins[0, 95:106].sum() > 0.9
    assert begins[1, 115:126].sum() > 0.9


def test_the_part_that_starts_look_at_is_bounded():
    counts = population(5, 2000.0, n_events=3)
    part = ListedCounts(list_spikes(counts.counts)).part(30_000, 50)
    assert part.shape[0] * part.shape[2] <= 30_000
    short = ListedCounts(list_spikes(counts.counts[..., :9000]))
    assert short.part(30_000, 50).shape == (1, 5, 9000)


def test_baselines_are_those_outside_events():
    counts = population(40, 150.0, n_events=30, random_state=1)
    truth, listed = counts.truth, ListedCounts(list_spikes(counts.counts))
    size = truth.events["amplitude"].iloc[0]
    model = EventModel.of_templates(size * truth.templates, listed.start)
    found = np.exp(with_baseline(listed, model).baseline[0]) / BIN
    assert np.abs(found / truth.baseline[0] - 1).mean() < 0.1


def test_any_number_of_threads_gives_the_same_bits(monkeypatch):
    counts = population(20, 30.0, n_events=6, n_windows=3, random_state=2)
    evidence = []
    for threads in ("1", "3"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        model = DCEA(1, 0.5, layout="joint", trainer="marginal", n_epochs=1, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotConvergedWarning)
            evidence.append(model.fit(counts).evidence(counts))
    np.testing.assert_array_equal(*evidence)


def test_units_observed_at_other_times_are_summed_in_dense_form(fitted):
    counts, model = fitted
    counts = BinnedSpikes.from_array(counts.counts[..., :3000], counts.bin_size)
    mask = counts.mask.copy()
    mask[:, 0, :100] = False
    some = replace(counts, counts=np.where(mask, counts.counts, 0), mask=mask, n_pooled=mask * 1)
    assert isinstance(counts_of(problem_of(model, some).data, 50), DenseCounts)
    assert model.transform(some).shape == model.transform(counts).shape


def test_a_gap_in_the_recording_says_nothing(fitted):
    counts, whole = fitted
    gap = np.arange(counts.n_bins) // 10_000 == 1
    some = hide(counts, gap)
    model = DCEA(2, 0.5, layout="joint", trainer=Marginal(2), random_state=0).fit(some)
    assert isinstance(counts_of(problem_of(model, some).data, 50), ListedCounts)
    found = recovery(model.decompose(some), 0.05)
    assert found.templates.max < 0.65
    begins = model.decompose(some).events()["time"] / BIN
    assert not begins.between(10_000, 20_000 - 50).any()  # those that end in the gap or before it
    assert begins.between(20_000, 30_000).sum() > 20
    np.testing.assert_allclose(model.baseline_, whole.baseline_, rtol=0.2)
    # what was observed is as likely as when nothing else was
    parts = [counts.counts[..., ~gap][..., i * 10_000 :][..., :10_000] for i in range(2)]
    apart = BinnedSpikes.from_array(np.concatenate(parts), counts.bin_size)
    assert model.evidence(some)[0] == pytest.approx(model.evidence(apart).sum(), abs=10)
