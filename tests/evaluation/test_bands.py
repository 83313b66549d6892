"""Bands of templates: their coverage in simulations, and what they are made of."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from fits import LENGTH, WAVE, quick, some_counts

from spikecdl import DCEA, Alternating, BinnedSpikes, Marginal, bands
from spikecdl.evaluation.metrics import template_error
from spikecdl.experiments.event_recovery import CASES
from spikecdl.simulate import simulate


class Known:
    """A model whose resampled templates are given."""

    layout, trainer_ = "shared", "alternating"

    def __init__(self, fitted: np.ndarray, resampled: np.ndarray) -> None:
        self.templates_, self.resampled = fitted, resampled

    def resampled_templates(self, counts, n_resamples, seed):
        return self.resampled


COUNTS = np.zeros((10, 2, 50), int)


def bump(at: float, length: int = 40) -> np.ndarray:
    template = np.exp(-0.5 * ((np.arange(length) - at) / 3) ** 2)
    return (template / np.linalg.norm(template))[None]


def test_standard_errors_and_bands_are_those_of_the_resamples():
    rng = np.random.default_rng(0)
    fitted = bump(20)[None]
    noise = 0.01 * rng.normal(size=(2000, 1, 1, 40))
    found = bands(Known(fitted, fitted + noise), COUNTS, 2000, level=0.9)
    np.testing.assert_allclose(found.standard_error, 0.01, rtol=0.15)
    np.testing.assert_allclose(found.upper - fitted, 1.645 * found.standard_error, rtol=1e-3)
    inside = (fitted + noise >= found.simultaneous_lower) & (
        fitted + noise <= found.simultaneous_upper
    )
    assert inside.all(axis=(1, 2, 3)).mean() == pytest.approx(0.9, abs=0.03)
    assert found.errors[0] == pytest.approx(0.01 * np.sqrt(40), rel=0.05)


def test_sign_shift_and_scale_are_conventions():
    resampled = [s * size * bump(20 + d)[None] for s in (1, -1) for size in (1, 3) for d in (-3, 4)]
    found = bands(Known(bump(20)[None], np.array(resampled * 3)), COUNTS, 24)
    assert found.standard_error.max() < 1e-6


def test_what_is_too_far_away_is_another_template():
    found = bands(Known(bump(20)[None], np.array([bump(32)[None]] * 20)), COUNTS, 20)
    assert found.errors[0] > 1


def test_same_seed_same_bands_and_progress():
    counts, told = some_counts(trials=10), []
    model = quick().fit(counts)
    one = bands(model, counts, 20, random_state=3, on_resample=told.append)
    two = bands(model, counts, 20, random_state=3)
    other = bands(model, counts, 20, random_state=4)
    assert told == list(range(20))
    assert (one.standard_error == two.standard_error).all()
    assert (one.standard_error != other.standard_error).any()


@pytest.mark.parametrize(("family", "layout"), [("binomial", "shared"), ("gaussian", "joint")])
def test_every_layout(family, layout):
    counts = some_counts(family, layout, trials=10)
    model = quick(family, layout=layout, n_epochs=20).fit(counts)
    found = bands(model, counts, 20)
    assert found.lower.shape == model.templates_.shape
    assert (found.lower < found.upper).all()


@pytest.mark.parametrize(("trainer", "layout"), [(Alternating, "joint"), (Marginal, "shared")])
def test_bands_of_templates_that_may_not_fall_below_zero_do_not(trainer, layout):
    n_units = 2 if layout == "joint" else 1
    templates = np.stack([WAVE, np.hanning(LENGTH)[None]]).repeat(n_units, axis=1)
    counts = some_counts(layout=layout, trials=10, units=n_units, templates=templates)
    settings = {"layout": layout, "penalty_weight": None, "n_epochs": 30}
    if trainer is Marginal:
        trainer = partial(Marginal, overlap=1)
    model = quick(trainer=trainer(nonnegative=(False, True)), n_templates=2, **settings)
    model.fit(counts)
    assert np.min(list(model.resampled_templates(counts, 2, 0))) < 0
    assert min(drawn[1].min() for drawn in model.resampled_templates(counts, 2, 0)) >= 0
    found = bands(model, counts, 20)
    assert found.nonnegative == (False, True)
    for lower in (found.lower, found.simultaneous_lower):
        assert lower[0].min() < lower[1].min() == 0
    assert (found.lower <= found.templates).all()


def test_more_data_are_surer():
    few, many = (some_counts(trials=n) for n in (10, 90))
    errors = [bands(quick(n_epochs=20).fit(counts), counts, 40).errors[0] for counts in (few, many)]
    assert 1.8 < errors[0] / errors[1] < 5


def test_few_windows_and_wrong_arguments_are_refused():
    counts = some_counts(trials=3, units=2)
    model = quick().fit(counts)
    with pytest.raises(ValueError, match="8 trials or windows, not 6"):
        bands(model, counts)
    with pytest.raises(ValueError, match=r"`n_bootstrap` \(=3\)"):
        bands(model, counts, 3)
    with pytest.raises(ValueError, match="`level`"):
        bands(model, some_counts(trials=8), level=95)


def coverage(model: DCEA, counts: BinnedSpikes) -> list[np.ndarray]:
    """Return which bins of each template the pointwise bands hold."""
    found, truth = bands(model.fit(counts), counts, 50), counts.truth.templates
    farthest = model.n_bins_ // 10
    error = template_error(found.templates, truth, max_shift=farthest)
    held = []
    for true, k, shift in zip(truth, error.assignment, error.shifts, strict=True):
        moved = np.pad(true, ((0, 0), (farthest, farthest)))[:, farthest + shift :]
        moved = moved[:, : model.n_bins_]
        held.append((moved >= found.lower[k]) & (moved <= found.upper[k]))
    return held


@pytest.mark.slow
def test_bands_hold_95_percent_of_the_bins():
    held = []
    for case, trainer, n_windows in (
        ("suppression", "alternating", None),
        ("suppression", "marginal", None),
        ("slow", "marginal", 120),
    ):
        for seed in range(3):
            counts = CASES[case].draw(seed, n_windows)
            held.append(coverage(CASES[case].estimator(0, trainer=trainer), counts))
    by_case = np.array([np.mean(each) for each in held]).reshape(3, 3).mean(axis=1)
    assert by_case.min() > 0.8  # EM can end in another optimum, of which the bands know nothing
    assert 0.92 <= by_case.mean() <= 0.98


@pytest.mark.slow
def test_bands_where_events_overlap_hold_most_bins():
    settings = {"n_units": 80, "same_events": True, "duration": 0.4, "event_rate": 4.0}
    held = []
    for seed in range(3):
        counts = simulate(**settings, random_state=seed).pool()
        held += coverage(DCEA(3, 0.05, "binomial", random_state=0), counts)
    assert 0.84 <= np.mean(held) <= 0.98


def test_bands_of_pooled_trials_hold_the_truth():
    """Of 95 %, on average over the bins of two simulations."""
    wave, inside = 3.0 * np.hanning(22)[1:-1], []
    for seed in range(2):
        single = simulate(
            "poisson",
            wave[None],
            n_trials=30,
            n_units=2,
            duration=3.0,
            bin_size=0.01,
            n_events=8,
            amplitude=float(np.linalg.norm(wave)),
            baseline=3.0,
            same_events=True,
            random_state=seed,
        )
        model = DCEA(1, 0.2, "poisson", trainer=Marginal(overlap=1), random_state=0)
        model.fit(single.pool())
        found = bands(model, single.pool(), 40, single_trials=single)
        true = wave / np.linalg.norm(wave)
        shifted = [np.roll(true, k) for k in range(-5, 6)]  # where it begins is a convention
        true = min(shifted, key=lambda each: np.linalg.norm(each - found.templates[0, 0]))
        inside.append((found.lower[0, 0] <= true) & (true <= found.upper[0, 0]))
    assert 0.8 <= np.mean(inside) <= 1


def test_bands_of_few_pooled_trials_are_refused():
    counts = some_counts(trials=3)
    model = quick().fit(counts.pool())
    with pytest.raises(ValueError, match="a bootstrap needs 8 trials or windows, not 6"):
        bands(model, counts.pool(), 20, single_trials=counts)
