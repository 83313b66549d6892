"""Rescaled intervals against literal loops over bins, and the exponential law."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate, stats
from tables import refused

from spikecdl import Binomial, Gaussian, NegativeBinomial, Poisson
from spikecdl.evaluation.goodness_of_fit import draw_counts, rescaled_intervals

FAMILIES = {
    "one trial": Binomial(n_trials=1),
    "many trials": Binomial(n_trials=12),
    "poisson": Poisson(),
    "negative_binomial": NegativeBinomial(shape=1.5),
}
each_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)


def some_means(family, shape, seed=0):
    """Means that vary a lot from bin to bin, with a few of 0."""
    rng = np.random.default_rng(seed)
    share = rng.beta(0.5, 3.0, shape) * (rng.random(shape) > 0.05)
    return share * (getattr(family, "n_trials", None) or 3)


def rate_in_bin(family, mean):
    """Rate of the next spike after n in a bin, at a fraction s of it, and the law of the places."""
    if isinstance(family, Binomial):  # each trial that has not fired yet does so at the hazard q
        q = -math.log1p(-mean / family.n_trials)

        def place(r):
            return -math.log(1 - r * (1 - math.exp(-q))) / q

        return lambda n, s: (family.n_trials - n) * q, place
    if isinstance(family, Poisson):
        return lambda n, s: mean, lambda r: r
    k = family.shape  # a gamma-distributed rate, of which n spikes by s tell: a Polya process
    return lambda n, s: mean * (k + n) / (k + mean * s), lambda r: r


def loop(y, mean, mask, family, seed):
    """Integrate the rate from spike to spike, bin by bin, for one unit."""
    rng = np.random.default_rng(seed)
    draws = iter(rng.random(int(y[mask].sum())))
    passed, intervals = 0.0, []
    for count, expected in zip(y[mask].tolist(), mean[mask].tolist(), strict=True):
        if expected == 0:
            continue
        rate, place = rate_in_bin(family, expected)
        now = 0.0
        for n, spike in enumerate([*sorted(place(next(draws)) for _ in range(count)), 1.0]):
            passed += integrate.quad(lambda s, n=n, rate=rate: rate(n, s), now, spike)[0]
            now = spike
            if n < count:
                intervals.append(passed)
                passed = 0.0
    return [*intervals, passed + rng.exponential()]


@each_family
def test_intervals_are_the_integral_of_the_rate(family):
    shape = (3, 1, 40)
    mean = some_means(family, shape)
    y = draw_counts(mean, family, np.random.default_rng(1))
    mask = np.random.default_rng(2).random(shape) > 0.2
    (found,) = rescaled_intervals(np.where(mask, y, 99), mean, family, mask, 3)
    expected = loop(y[:, 0], mean[:, 0], mask[:, 0], family, 3)
    assert len(found) > 5
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_one_trial_is_the_formula_of_haslinger_pipa_and_brown():
    p = np.random.default_rng(0).beta(1, 4, 300)
    y = np.random.default_rng(1).random(300) < p
    r = np.random.default_rng(5).random(y.sum())
    q = -np.log(1 - p)
    expected, before = [], -1
    for draw, spike in zip(r, np.flatnonzero(y), strict=True):
        between = sum(q[k] for k in range(before + 1, spike))
        expected.append(between - math.log(1 - draw * (1 - math.exp(-q[spike]))))
        before = spike
    (found,) = rescaled_intervals(y[None, None], p[None, None], Binomial(n_trials=1), None, 5)
    np.testing.assert_allclose(found[:-1], expected, rtol=1e-12)
    assert found[-1] > q[before + 1 :].sum()


@each_family
def test_intervals_of_the_true_model_are_exponential(family):
    mean = some_means(family, (20, 3, 4000))
    y = draw_counts(mean, family, np.random.default_rng(4))
    for intervals in rescaled_intervals(y, mean, family, random_state=5):
        assert len(intervals) > 3000
        assert stats.kstest(intervals, "expon").pvalue > 0.01
        pairs = stats.spearmanr(intervals[1:], intervals[:-1])
        assert pairs.pvalue > 0.01


@each_family
def test_what_was_not_observed_is_cut_out(family):
    mean = some_means(family, (2, 1, 60))
    y = draw_counts(mean, family, np.random.default_rng(1))
    mask = np.ones(y.shape, bool)
    mask[..., 10:25] = False
    (gap,) = rescaled_intervals(np.where(mask, y, 7), np.where(mask, mean, np.nan), family, mask, 0)
    kept = np.r_[0:10, 25:60]
    (cut,) = rescaled_intervals(y[..., kept], mean[..., kept], family, None, 0)
    np.testing.assert_array_equal(gap, cut)


def test_a_silent_unit_has_the_interval_that_the_end_cuts_off_and_an_unseen_one_has_none():
    y = np.zeros((2, 2, 50), int)
    mask = np.ones(y.shape, bool)
    mask[:, 1] = False
    silent, unseen = rescaled_intervals(y, np.full(y.shape, 0.3), Poisson(), mask, 0)
    assert len(silent) == 1
    assert silent[0] > 0.3 * 100
    assert len(unseen) == 0


def test_certain_and_impossible_spikes_give_numbers():
    y = np.array([[[1, 0, 1, 0, 1]]])
    mean = np.array([[[1.0, 1.0, 0.0, 0.0, 0.5]]])
    (found,) = rescaled_intervals(y, mean, Binomial(n_trials=1), None, 0)
    assert np.isfinite(found).all()
    assert found[1] > 30  # a certain spike did not come, an impossible one did


def test_draws_are_of_the_family_and_repeat():
    mean = np.full((1, 1, 20_000), 3.0)
    family = FAMILIES["negative_binomial"]
    one, other = (draw_counts(mean, family, np.random.default_rng(0)) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    assert one.mean() == pytest.approx(3.0, rel=0.03)
    assert one.var() == pytest.approx(3.0 + 9 / 1.5, rel=0.06)


ONE = np.ones((1, 1, 4), int)


def test_what_cannot_be_is_refused():
    for y, mean, family, message in [
        (ONE, ONE * 1.0, Gaussian(), r"`family` \(=Gaussian\) is not one of counts"),
        (ONE[0], ONE[0], Poisson(), r"`y` \(1, 4\) must have shape \(trial, unit, bin\)"),
        (ONE, np.ones((1, 1, 5)), Poisson(), r"`mean` \(1, 1, 5\) must have shape .*, as `y`"),
        (2 * ONE, ONE / 2, Binomial(1), r"`y` \(=2 at trial 0, unit 0, bin 0\).* from 0 to n_tri"),
        (ONE, ONE * 1.5, Binomial(1), r"`mean` \(=1.5 at .*Binomial cannot have it"),
        (ONE, -ONE, Poisson(), r"`mean` \(=-1 at .*Poisson cannot have it"),
        (ONE, ONE * np.inf, Poisson(), r"`mean` \(=inf at"),
        (ONE, ONE * np.nan, NegativeBinomial(5.0), r"`mean` \(=nan at"),
    ]:
        with refused(ValueError, message, y):
            rescaled_intervals(y, mean, family)
