"""Families against scipy.stats and autograd; whatever is in the registry is tested."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from contracts import example, support
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats
from tables import refused

from spikecdl.model.families import (
    FAMILIES,
    Binomial,
    Family,
    Gaussian,
    NegativeBinomial,
    Poisson,
    from_text,
)

NAMES = sorted(FAMILIES)
COUNTS = [name for name in NAMES if FAMILIES[name].integer_valued]
DTYPES = [torch.float32, torch.float64]
EXTREMES = [0.0, 1e-30, 1.0, 20.0, 60.0, 88.0, 89.0, 104.0, 350.0, 700.0]


@dataclass(frozen=True)
class Oracle:
    """The same family as somebody else wrote it."""

    family: Family
    mean: Callable  # of eta
    distribution: Callable  # frozen scipy distribution of a mean

    def at(self, eta):
        return self.distribution(self.mean(eta))

    def log(self, y, mean):
        distribution = self.distribution(mean)
        return (distribution.logpmf if self.family.integer_valued else distribution.logpdf)(y)


ORACLES = {
    "gaussian": Oracle(Gaussian(0.7), lambda eta: eta, lambda mean: stats.norm(mean, 0.7)),
    "binomial": Oracle(
        Binomial(n_trials=9),
        lambda eta: 9 * special.expit(eta),
        lambda mean: stats.binom(9, mean / 9),
    ),
    "poisson": Oracle(Poisson(), np.exp, stats.poisson),
    "negative_binomial": Oracle(
        NegativeBinomial(shape=2.5),
        np.exp,
        lambda mean: stats.nbinom(2.5, 2.5 / (2.5 + mean)),
    ),
}

each_family = pytest.mark.parametrize("name", NAMES)


def whole_support(family: Family) -> torch.Tensor:
    y = torch.arange(-60.0, 61.0, dtype=torch.float64)
    return y[~family.invalid(y)[0]]


def test_every_family_has_an_oracle():
    assert ORACLES.keys() == FAMILIES.keys()


@each_family
def test_log_prob_is_that_of_scipy(name):
    for dtype in DTYPES:
        oracle = ORACLES[name]
        y = whole_support(oracle.family)[:, None]
        eta = torch.linspace(-9, 5, 57, dtype=torch.float64)
        expected = oracle.log(y.numpy(), oracle.mean(eta.numpy()))
        ours = oracle.family.log_prob(y.to(dtype), eta.to(dtype))
        assert ours.dtype == dtype
        tolerance = 1e-9 if dtype == torch.float64 else 3e-5
        np.testing.assert_allclose(ours.double(), expected, rtol=tolerance, atol=10 * tolerance)


@each_family
def test_the_counting_process_ends_at_a_count_of_the_family(name):
    family = ORACLES[name].family
    eta = torch.tensor([-6.0, -1.0, 0.0, 1.5, 4.0]).double()
    process = family.counting_process(family.mean(eta))
    assert (process is None) == (name == "gaussian")
    if process is None:
        return
    start, duration, step = process  # transition probabilities of a linear birth or death process
    assert start.shape == duration.shape == eta.shape
    each = torch.expm1(step * duration) / step if step else duration
    for y in range(10):
        ways = math.prod(start + step * n for n in range(y)) / math.factorial(y)
        probability = ways * each**y * torch.exp(-(start + step * y) * duration)
        expected = family.log_prob(torch.full_like(eta, y), eta).exp()
        torch.testing.assert_close(probability, expected, rtol=1e-9, atol=1e-300)


@pytest.mark.parametrize("name", COUNTS)
def test_probabilities_sum_to_one(name):
    family = example(name)
    y = torch.arange(0, 4000, dtype=torch.float64)
    y = y[~family.invalid(y)[0]][:, None]
    total = family.log_prob(y, torch.tensor([-6.0, 0.0, 3.0]).double()).exp().sum(0)
    torch.testing.assert_close(total, torch.ones(3).double())


@each_family
def test_mean_is_that_of_scipy(name):
    for dtype in DTYPES:
        oracle = ORACLES[name]
        eta = torch.linspace(-12, 12, 49, dtype=torch.float64)
        mean = oracle.family.mean(eta.to(dtype))
        assert mean.dtype == dtype
        tolerance = 1e-9 if dtype == torch.float64 else 1e-5  # scipy's nbinom has 1 - p
        np.testing.assert_allclose(mean, oracle.at(eta.numpy()).mean(), rtol=tolerance)


@each_family
def test_samples_have_the_distribution_of_scipy(name):
    oracle = ORACLES[name]
    n = 100_000
    for eta in (-3.0, 0.4, 2.0):
        generator = torch.Generator().manual_seed(7)
        y = oracle.family.sample(torch.full((n,), eta, dtype=torch.float64), generator).numpy()
        mean, variance, _, kurtosis = (float(m) for m in oracle.at(eta).stats("mvsk"))
        assert abs(y.mean() - mean) < 5 * math.sqrt(variance / n)
        assert abs(y.var() - variance) < 5 * variance * math.sqrt((kurtosis + 2) / n)
        assert not oracle.family.invalid(torch.from_numpy(y))[0].any()
        # the whole distribution, in cells that hold a twelfth or more (counts: what falls there)
        edges = np.unique(oracle.at(eta).ppf(np.linspace(0, 1, 13)[1:-1]))
        chances = np.diff(oracle.at(eta).cdf(edges), prepend=0, append=1)
        filled = chances > 1e-12
        counts = np.bincount(np.searchsorted(edges, y), minlength=len(chances))
        assert counts[~filled].sum() == 0
        assert stats.chisquare(counts[filled], n * chances[filled]).pvalue > 1e-4


@each_family
def test_samples_repeat_and_leave_the_global_state_alone(name):
    for dtype in DTYPES:
        eta = torch.linspace(-2, 2, 500, dtype=dtype)

        def draw(seed, eta=eta):
            return example(name).sample(eta, torch.Generator().manual_seed(seed))

        torch.manual_seed(1)
        before = torch.get_rng_state()
        first = draw(3)
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(2)
        assert torch.equal(draw(3), first)
        assert not torch.equal(draw(4), first)
        assert first.dtype == dtype
        assert first.shape == eta.shape


@pytest.mark.parametrize("name", ["poisson", "negative_binomial"])
def test_counts_that_cannot_be_drawn_are_refused(name):
    for dtype in DTYPES:
        with pytest.raises(ValueError, match=r"`eta` gives an expected count of .* lower"):
            example(name).sample(torch.tensor([0.0, 60.0], dtype=dtype))


@each_family
def test_residual_and_curvature_are_derivatives(name):
    family = ORACLES[name].family
    y = whole_support(family)[:, None]
    eta = torch.linspace(-15, 15, 61, dtype=torch.float64)
    eta = eta.expand(len(y), -1).clone().requires_grad_()
    (slope,) = torch.autograd.grad(family.log_prob(y, eta).sum(), eta)
    residual = family.residual(y, eta)
    torch.testing.assert_close(residual, slope, rtol=1e-8, atol=1e-7)
    (bend,) = torch.autograd.grad(-residual.sum(), eta)
    torch.testing.assert_close(family.curvature(y, eta), bend, rtol=1e-9, atol=1e-12)


@each_family
def test_everything_is_finite_for_any_eta(name):
    for dtype in DTYPES:
        family = example(name)
        y = support(family, dtype)[:, None]
        eta = torch.tensor([sign * size for size in EXTREMES for sign in (-1, 1)], dtype=dtype)
        eta = eta.expand(len(y), -1).clone().requires_grad_()
        values = {
            "cost": family.cost(y, eta),
            "log_prob": family.log_prob(y, eta),
            "mean": family.mean(eta),
            "residual": family.residual(y, eta),
            "curvature": family.curvature(y, eta),
            "deviance": family.deviance(y, eta),
        }
        for what, value in values.items():
            assert value.dtype == dtype, what
            assert torch.isfinite(value).all(), what
            if value.requires_grad:
                (slope,) = torch.autograd.grad(value.sum(), eta, retain_graph=True)
                assert torch.isfinite(slope).all(), f"derivative of {what}"
        assert (values["curvature"] >= 0).all()


@each_family
def test_single_precision_agrees_with_double(name):
    family = example(name)
    y, eta = support(family)[:, None], torch.linspace(-30, 6, 73, dtype=torch.float64)
    for method in (family.cost, family.residual, family.curvature, family.deviance):
        exact = method(y, eta)
        size = family.cost(y, eta).abs() + exact.abs() + family.mean(eta) + y.abs() + 1
        assert ((method(y.float(), eta.float()) - exact).abs() / size < 1e-5).all()


@each_family
@settings(max_examples=100)
@given(eta=st.floats(-60, 60), index=st.integers(0, 20))
def test_curvature_stays_below_its_bound(name, eta, index):
    family = ORACLES[name].family
    y = whole_support(family)
    y = y[index % len(y)]
    bound = family.curvature_bound(y)
    if bound is not None:
        curvature = family.curvature(y, torch.tensor(eta, dtype=torch.float64))
        assert curvature <= bound * (1 + 1e-12)


@each_family
def test_scalar_loss_is_the_cost_but_for_a_constant(name):
    for dtype in DTYPES:
        family = ORACLES[name].family
        y = whole_support(family).to(dtype)[:, None]
        eta = torch.linspace(-9, 6, 31, dtype=dtype)
        loss = family.scalar_loss(y)
        form = {
            "quadratic": lambda a, b, z: b * (a - z) ** 2 / 2,
            "logistic": lambda a, b, z: a * (1 + (-z).exp()).log() + b * (1 + z.exp()).log(),
            "exponential": lambda a, b, z: b * z.exp() - a * z,
        }[loss.kind]
        constant = form(loss.a, loss.b, eta - loss.shift) - family.cost(y, eta)
        assert constant.dtype == dtype
        torch.testing.assert_close(
            constant,
            constant.mean(1, keepdim=True).expand_as(constant),
            rtol=1e-5,
            atol=1e-2 if dtype == torch.float32 else 1e-9,
        )


@each_family
def test_curvature_bound_is_reached(name):
    family = ORACLES[name].family
    y = whole_support(family)
    eta = torch.linspace(-30, 30, 6001, dtype=torch.float64)
    largest = family.curvature(y[:, None], eta).amax(dim=1)
    bound = family.curvature_bound(y)
    if bound is None:
        assert (largest > 1e12).all()
    else:
        torch.testing.assert_close(largest, bound.expand_as(y), rtol=1e-4, atol=0)


@each_family
def test_deviance_is_twice_the_log_likelihood_lost(name):
    oracle = ORACLES[name]
    y = whole_support(oracle.family).numpy()[:, None]
    eta = np.linspace(-8, 4, 25)
    expected = 2 * (oracle.log(y, y.astype(float)) - oracle.log(y, oracle.mean(eta)))
    ours = oracle.family.deviance(torch.from_numpy(y), torch.from_numpy(eta))
    np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-9)


@each_family
@settings(max_examples=100)
@given(dtype=st.sampled_from(DTYPES), eta=st.floats(-40, 40), index=st.integers(0, 20))
def test_deviance_is_never_negative(name, dtype, eta, index):
    family = example(name)
    y = support(family, dtype)
    y = y[index % len(y)]
    assert family.deviance(y, torch.tensor(eta, dtype=dtype)) >= 0


@each_family
def test_deviance_is_zero_where_the_mean_is_the_observation(name):
    for dtype in DTYPES:
        family = example(name)
        y = support(family, dtype)
        eta = family.link(y)
        eta = torch.where(eta.isinf(), 80 * eta.sign(), eta)  # at an end of the support
        scale = family.cost(y, eta).abs() + 1
        assert (family.deviance(y, eta) / scale < 20 * torch.finfo(dtype).eps).all()


@each_family
@settings(max_examples=100)
@given(eta=st.floats(-9, 9))
def test_link_undoes_mean(name, eta):
    family = example(name)
    eta = torch.tensor(eta, dtype=torch.float64)
    torch.testing.assert_close(family.link(family.mean(eta)), eta, rtol=1e-9, atol=1e-9)


@each_family
def test_link_rate_is_per_exposure(name):
    family = example(name)
    rate = torch.tensor([0.01, 0.2, 0.7], dtype=torch.float64)
    mean = family.mean(family.link_rate(rate))
    torch.testing.assert_close(mean, rate * family.exposure(torch.zeros_like(rate)))


@each_family
def test_a_change_of_eta_scale_is_felt(name):
    """Neither nothing nor everything: the mean moves by a tenth to three of its spreads."""
    oracle = ORACLES[name]
    variance = oracle.at(0.0).var()
    moved = oracle.mean(oracle.family.eta_scale) - oracle.mean(0.0)
    assert 0.1 < moved / np.sqrt(variance) < 3


@each_family
def test_support_is_told(name):
    family = example(name)
    y = torch.tensor([0.0, 3.0, 12.0, 13.0, 0.5, -1.0, math.nan, math.inf, -math.inf])
    wrong, words = family.invalid(y)
    expected = {
        "gaussian": [False] * 6 + [True] * 3,
        "binomial": [False] * 3 + [True] * 6,
        "poisson": [False] * 4 + [True] * 5,
        "negative_binomial": [False] * 4 + [True] * 5,
    }[name]
    assert wrong.tolist() == expected
    assert "numbers" in words or "counts" in words


class TestTrialsPerBin:
    """`n_trials` of the binomial as a tensor: one number per window, or per bin."""

    n_trials = torch.tensor([3, 30, 300])
    family = Binomial(n_trials=n_trials.reshape(3, 1, 1))
    y = torch.tensor([0.0, 1.0, 2.0, 3.0]).double().expand(3, 2, 4)
    eta = torch.linspace(-4, 3, 24, dtype=torch.float64).reshape(3, 2, 4)

    def test_windows_are_as_each_alone(self):
        for name in ("cost", "log_prob", "residual", "curvature", "deviance", "saturated_cost"):
            given = (self.y,) if name == "saturated_cost" else (self.y, self.eta)
            together = getattr(self.family, name)(*given)
            alone = [
                getattr(Binomial(n_trials=int(n)), name)(*windows)
                for n, *windows in zip(self.n_trials, *given, strict=True)
            ]
            torch.testing.assert_close(together, torch.stack(alone))

    def test_means_samples_and_bounds(self):
        mean = self.family.mean(self.eta)
        torch.testing.assert_close(mean, self.n_trials.reshape(3, 1, 1) * self.eta.sigmoid())
        draws = self.family.sample(self.eta, torch.Generator().manual_seed(0))
        assert not self.family.invalid(draws)[0].any()
        assert draws[2].max() > 30
        bound = self.family.curvature_bound(self.y)
        torch.testing.assert_close(bound.flatten(), self.n_trials / 4.0, check_dtype=False)
        assert torch.equal(self.family.exposure(self.y)[:, 1, 2], self.n_trials.double())

    def test_support_ends_differ_by_window(self):
        wrong, _ = self.family.invalid(torch.full((3, 1, 1), 30.0))
        assert wrong.flatten().tolist() == [True, False, False]

    def test_map_reaches_the_tensor_only(self):
        part = self.family.map(lambda tensor: tensor[1:2])
        torch.testing.assert_close(part.mean(self.eta[1]), self.family.mean(self.eta)[1:2])
        for family in (Binomial(4), Gaussian(), Poisson(), NegativeBinomial(5.0)):
            assert family.map(lambda tensor: tensor[1:2]) is family

    def test_resolve_fills_in_what_was_not_given(self):
        assert Binomial().resolve(self.n_trials).n_trials is self.n_trials
        assert Binomial(n_trials=4).resolve(self.n_trials).n_trials == 4
        assert Poisson().resolve(self.n_trials) == Poisson()

    def test_unresolved_is_an_error(self):
        with pytest.raises(ValueError, match=r"`n_trials` \(=None\) is not known"):
            Binomial().mean(self.eta)

    def test_no_trial_says_nothing(self):
        family = Binomial(n_trials=torch.tensor([0.0, 5.0]))
        y = torch.tensor([0.0, 2.0])
        eta = torch.tensor([1.0, 0.3])
        for method in (family.log_prob, family.residual, family.curvature, family.deviance):
            value = method(y, eta)
            assert value[0] == 0, method.__name__
            assert torch.isfinite(value[1])


@pytest.mark.parametrize(
    ("kind", "argument", "values", "types"),
    [
        (Gaussian, "scale", [0, -1.0, math.nan, math.inf], ["1", None, True, torch.ones(2)]),
        (
            Binomial,
            "n_trials",
            [0, -3, *(torch.tensor([3.0, bad]) for bad in (-1.0, 0.5, math.nan))],
            [2.5, 3.0, "30", True],
        ),
        (NegativeBinomial, "shape", [0.0, -2], ["5"]),
    ],
)
def test_bad_parameters_are_refused(kind, argument, values, types):
    for error, wrong in ((ValueError, values), (TypeError, types)):
        for value in wrong:
            with refused(error, rf"^`{argument}` \(=", value):
                kind(**{argument: value})


def restored(config):
    return FAMILIES[config.pop("name")](**config)


@pytest.mark.parametrize(
    "family",
    [
        *(oracle.family for oracle in ORACLES.values()),
        Binomial(),
        Binomial(n_trials=torch.tensor([[3], [4]])),
    ],
    ids=repr,
)
def test_a_family_is_made_anew_from_plain_values(family):
    again = restored(json.loads(json.dumps(family.config())))
    assert type(again) is type(family)
    known, known_again = (f.resolve(torch.tensor(3.0)) for f in (family, again))
    y, eta = torch.tensor([[0.0, 2.0]]), torch.tensor([[-1.0, 1.5]])
    assert torch.equal(known_again.log_prob(y, eta), known.log_prob(y, eta))


@pytest.mark.parametrize("shape", [1e3, 1e4])
def test_the_negative_binomial_becomes_poisson(shape):
    y = torch.arange(12, dtype=torch.float64)
    eta = torch.tensor(0.8, dtype=torch.float64)
    difference = NegativeBinomial(shape).log_prob(y, eta) - Poisson().log_prob(y, eta)
    assert difference.abs().max() < 60 / shape


class TestFromText:
    def test_parameters_follow_a_colon(self):
        assert from_text("poisson") == Poisson()
        assert from_text("gaussian:scale=2.5") == Gaussian(2.5)
        assert from_text("negative_binomial:shape=3") == NegativeBinomial(3.0)
        assert from_text("binomial:n_trials=30").n_trials == 30  # whole

    def test_what_is_wrong_is_named(self):
        for text, message in (
            ("gauss", "must be one of"),
            ("gaussian:sigma=2", "gaussian has no 'sigma'; it has: scale"),
            ("poisson:rate=2", "it has: none"),
            ("gaussian:scale=wide", "`scale` (='wide') must be a number"),
            ("gaussian:scale=-1", "`scale` (=-1.0) must be positive"),
        ):
            with refused(ValueError, re.escape(message), text):
                from_text(text)


@pytest.mark.parametrize("shape", [0.3, 2.0, 30.0])
def test_the_shape_of_largest_likelihood_is_found(shape):
    draw = torch.Generator().manual_seed(0)
    eta = torch.linspace(-1, 3, 40_000, dtype=torch.float64)
    y = NegativeBinomial(shape).sample(eta, draw)
    found = NegativeBinomial().estimate(y, eta.exp())
    assert found.shape == pytest.approx(shape, rel=0.1)
    best = found.log_prob(y, eta).sum()
    for factor in (0.99, 1.01):
        assert NegativeBinomial(factor * found.shape).log_prob(y, eta).sum() < best
    assert NegativeBinomial().estimate(torch.ones(50).double(), torch.ones(50).double()).shape > 5e3
    assert NegativeBinomial(shape).estimate(y, eta.exp()) == NegativeBinomial(shape)


def test_a_negative_binomial_without_shape_says_what_to_do():
    with pytest.raises(ValueError, match=r"`shape` \(=None\) is not known; pass NegativeBinomial"):
        NegativeBinomial().cost(torch.ones(1), torch.ones(1))
