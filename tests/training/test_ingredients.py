"""What a model needs beside events is chosen by the evidence with and without it."""

from __future__ import annotations

import numpy as np
import pytest

from spikecdl import DCEA, BinnedSpikes, Bursts, load
from spikecdl.config import INGREDIENTS
from spikecdl.evaluation.crossvalidation import cross_validate
from spikecdl.evaluation.null_model import NullModel
from spikecdl.evaluation.selection import Candidate
from spikecdl.events.model import EventModel

BIN, WINDOWS, BINS = 0.005, 40, 400
x = np.arange(20) / 20
TEMPLATE = x * np.exp(-8 * x) / np.linalg.norm(x * np.exp(-8 * x))


def log_rates(rng, event_rate=0.7):
    """Log rates (window, bin) relative to the baseline, of single events of one template."""
    found = np.zeros((WINDOWS, BINS))
    for window in found:
        for _ in range(rng.poisson(event_rate * BINS * BIN)):
            onset = rng.integers(0, BINS - 20)
            window[onset : onset + 20] = rng.uniform(6, 9) * TEMPLATE
    return found


def with_bursts(counts, rng, share):
    """Let one to three spikes follow a share of the spikes, 3 to 8 ms apart."""
    counts = counts.copy()
    for window, first in np.argwhere(counts > 0):
        time = (first + rng.random()) * BIN
        for _ in range(rng.integers(1, 4) * (rng.random() < share)):
            time += rng.uniform(0.003, 0.008)
            if time < BINS * BIN:
                counts[window, int(time / BIN)] += 1
    return counts


def fitted(counts, **settings):
    return DCEA(1, 0.1, "poisson", bin_size=BIN, random_state=0, **settings).fit(counts)


@pytest.fixture(scope="module")
def bursting():
    rng = np.random.default_rng(5)
    return with_bursts(rng.poisson(15 * BIN, (WINDOWS, BINS)), rng, 0.3)


@pytest.fixture(scope="module")
def model(bursting):
    with pytest.warns(UserWarning, match="no events were found"):
        return fitted(bursting)


def chosen(model):
    return {name for name, one in model.ingredients_.items() if one["value"] is not None}


def test_nothing_is_added_to_counts_of_events_alone():
    rng = np.random.default_rng(1)
    model = fitted(rng.poisson(15 * BIN * np.exp(log_rates(rng))))
    assert set(model.ingredients_) == {*INGREDIENTS} - {"signals"}
    assert not chosen(model)
    assert all(one["nats"] < 10 for one in model.ingredients_.values())


def test_bursts_are_not_taken_for_events(model, bursting):
    assert chosen(model) == {"bursts"}
    assert not model.transform(bursting).any()
    none = dict.fromkeys(INGREDIENTS)
    with pytest.warns(UserWarning, match="did not converge"):
        alone = fitted(bursting, n_epochs=1, **none)
    assert np.count_nonzero(alone.transform(bursting)) > 50
    assert not alone.ingredients_


def test_a_search_in_some_of_the_units(bursting, monkeypatch):
    """Of one long trial, templates are sought in a part of the units; all have their bursts."""
    monkeypatch.setattr("spikecdl.events.starts._ENOUGH_BINS", 1000)
    counts = BinnedSpikes.from_array(bursting[:39].reshape(1, 3, -1), BIN)
    with pytest.warns(UserWarning, match="no events were found"):
        model = DCEA(1, 0.1, "poisson", random_state=0).fit(counts)
    assert "bursts" in chosen(model)
    assert model.unit_tensors_["covariates"].shape[0] == 3


def test_drift_is_not_taken_for_events():
    rng = np.random.default_rng(2)
    slow = 0.8 * np.sin(np.linspace(0, 9, WINDOWS * BINS)).reshape(WINDOWS, BINS)
    counts = rng.poisson(15 * BIN * np.exp(slow))
    with pytest.warns(UserWarning, match="no events were found"):
        model = fitted(counts)
    assert chosen(model) == {"drift"}


def test_events_of_regular_spikes_are_not_taken_for_bursts():
    rng = np.random.default_rng(8)
    rates = 84 * np.exp(np.concatenate([log_rates(rng) for _ in range(3)]))
    counts, age = np.zeros(rates.shape, int), np.full(len(rates), 1000)
    for bin_ in range(BINS):
        for _ in range(5):  # ms; spikes hardly follow others within 12
            ready = -np.expm1(-np.maximum(age - 4, 0) / 4)
            spike = rng.random(len(rates)) < rates[:, bin_] / 1000 * ready
            counts[:, bin_] += spike
            age = np.where(spike, 1, age + 1)
    model = fitted(counts)
    assert chosen(model) == {"history"}
    assert len(model.decompose(counts).events()) > 10


def test_folds_keep_what_a_fit_has_chosen(model, bursting):
    scores = cross_validate(model, BinnedSpikes.from_array(bursting[:, None], bin_size=BIN), 2)
    assert [fold.bursts for fold in scores.models] == [model.ingredients_["bursts"]["value"]] * 2
    assert [fold.ingredients_ for fold in scores.models] == [{}, {}]


def test_counts_more_variable_than_poisson_get_another_family():
    rng = np.random.default_rng(3)
    mean = 15 * BIN * np.exp(log_rates(rng))
    model = fitted(rng.poisson(rng.gamma(mean / 0.5, 0.5)))
    assert chosen(model) == {"dispersion"}
    assert model.family_.name == "negative_binomial"
    assert model.family_.shape == model.ingredients_["dispersion"]["value"]


@pytest.fixture(scope="module")
def locked():
    """Windows in half of which a response begins .4 s after their beginning, with a spread."""
    rng = np.random.default_rng(4)
    log, onsets = np.zeros((WINDOWS, 160)), {}
    for window in np.flatnonzero(rng.random(WINDOWS) < 0.7):
        onsets[window] = onset = round(80 + 6 * rng.standard_normal())
        log[window, onset : onset + 20] = rng.uniform(4, 6) * TEMPLATE
    return rng.poisson(15 * BIN * np.exp(log)), onsets


def found_near(model, counts, onsets):
    """Share of the responses that have an event at most 25 ms from their onset.

    Where a template begins before its response is a matter of its window, and the same for all.
    """
    found = [np.flatnonzero(codes.any(0)) for codes in model.transform(counts)]
    late = [found[window] - s for window, s in onsets.items()]
    nearest = [each[np.abs(each).argmin()] for each in late if len(each)]
    return np.mean([np.any(np.abs(each - np.median(nearest)) <= 5) for each in late])


def test_events_that_prefer_a_time_are_found_better(locked):
    model = fitted(locked[0])
    assert chosen(model) == {"timing"}
    onsets = 160 - 20 + 1
    rate = EventModel.from_file(model.tensors_, np.zeros((1, 1))).log_timing(onsets)[0]
    assert rate.argmax() == pytest.approx(80, abs=12)
    flat = fitted(locked[0], timing=None)
    assert found_near(model, *locked) > found_near(flat, *locked) + 0.1
    assert model.evidence(locked[0]).sum() > flat.evidence(locked[0]).sum() + 10


def test_the_times_of_events_are_saved_and_are_not_used_in_other_windows(locked, tmp_path):
    model, (counts, _) = fitted(locked[0]), locked
    model.save(tmp_path / "model")
    assert np.array_equal(load(tmp_path / "model").transform(counts), model.transform(counts))
    half = BinnedSpikes.from_array(counts[:, None, 40:], bin_size=BIN)
    flat = fitted(counts)
    del flat.tensors_["event_timing"]
    assert np.array_equal(model.transform(half), flat.transform(half))


def test_a_model_with_bursts_predicts_them(model, bursting):
    """Spikes of bursts are a part of what is expected, and of the evidence."""
    expected = model.predict(bursting)
    after = np.pad(bursting, ((0, 0), (1, 0)))[:, :-1] > 0
    assert expected[after].mean() == pytest.approx(bursting[after].mean(), rel=0.15)
    assert expected.sum() == pytest.approx(bursting.sum(), rel=0.03)
    counts = BinnedSpikes.from_array(bursting[:, None], bin_size=BIN)
    null = NullModel.like(model).fit(counts)
    assert null.bursts == model.ingredients_["bursts"]["value"]
    assert model.evidence(bursting).sum() == pytest.approx(null.evidence(counts).sum(), abs=3)
    constant = NullModel.like(model, covariates=False).fit(counts)
    assert null.evidence(counts).sum() > constant.evidence(counts).sum() + 100


def test_a_saved_model_has_its_ingredients(model, bursting, tmp_path):
    model.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.ingredients_ == model.ingredients_
    assert np.array_equal(again.predict(bursting), model.predict(bursting))


def test_the_null_model_of_a_selection_has_what_a_fit_chooses(bursting):
    counts = BinnedSpikes.from_array(bursting[:, None], bin_size=BIN)
    other = DCEA(1, 0.1, "poisson", bin_size=BIN, random_state=0)
    with pytest.warns(UserWarning, match="no events were found"):
        null = Candidate(0, None, covariates=True).fit(other, counts)
    assert null.bursts == pytest.approx(0.025)


def test_a_fit_that_was_broken_off_goes_on(model, bursting, tmp_path):
    class Stop(Exception):
        pass

    def stop(learned):
        raise Stop

    how = {"checkpoint": tmp_path / "checkpoint.safetensors"}
    again = DCEA(1, 0.1, "poisson", bin_size=BIN, random_state=0)
    with pytest.raises(Stop):
        again.fit(bursting, on_epoch=stop, **how)
    with pytest.warns(UserWarning, match="no events were found"):
        again.fit(bursting, resume=True, **how)
    assert again.ingredients_ == model.ingredients_
    assert np.array_equal(again.templates_, model.templates_)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"bursts": 0.001}, r"`bursts` \(=0.001\) must be at least one bin of 0.005"),
        ({"bursts": 0.02, "family": "negative_binomial"}, "needs family='poisson'"),
        ({"bursts": 0.02, "trainer": "alternating"}, "needs trainer='marginal'"),
        ({"history": "always"}, r"`history` \(='always'\) must be 'auto', None or a time"),
        ({"dispersion": 3.0}, r"`dispersion` \(='3.0'\) must be one of: "),
    ],
)
def test_refuses(settings, problem, bursting):
    settings = {"family": "poisson"} | settings
    with pytest.raises(ValueError, match=problem):
        DCEA(1, 0.1, bin_size=BIN, **settings).fit(bursting)


def test_bursts_are_a_positive_time():
    with pytest.raises(ValueError, match=r"`bursts` \(=-1.0\) must be positive"):
        Bursts(-1.0)
