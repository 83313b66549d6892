"""Cost of events at fixed places, and amplitudes fitted to it, against slower twins."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from spikecdl import L1, Binomial, Gaussian, NegativeBinomial, Poisson
from spikecdl.solvers.amplitudes import Amplitudes
from spikecdl.solvers.events import Events
from spikecdl.training import Observations
from spikecdl.training.dictionary_update import Updater

FAMILIES = [Gaussian(0.7), Binomial(9), Poisson(), NegativeBinomial(3.0)]
each_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)


def problem(family, learn_baseline=True, varies=False):
    """Counts of 5 windows, 2 channels and 60 bins, some unobserved; events, two of them apart.

    The baseline may vary over bins.
    """
    draw = torch.Generator().manual_seed(0)
    templates = torch.randn(2, 2, 7, generator=draw, dtype=torch.float64)
    templates /= templates.flatten(1).norm(dim=1)[:, None, None]
    window = torch.tensor([0, 0, 0, 0, 2, 2, 4, 4])  # windows 1 and 3 have none
    template = torch.tensor([0, 0, 1, 1, 0, 1, 0, 1])
    place = torch.tensor([3, 5, 4, 40, 0, 53, 20, 20])
    amplitude = 1 + torch.rand(8, generator=draw, dtype=torch.float64)
    events = Events(window, template, place, amplitude)
    baseline = torch.full((5, 2, 1), -1.0, dtype=torch.float64)
    if varies:
        baseline = baseline + torch.randn(5, 2, 60, generator=draw, dtype=torch.float64)
    eta = events.add_to(baseline.expand(5, 2, 60), templates)
    y = family.sample(eta, draw)
    mask = torch.rand(5, 2, 60, generator=draw) > 0.1
    rows = Observations(y, mask, family.map(lambda t: t), baseline, learn_baseline)
    return rows, templates, events


@each_family
@pytest.mark.parametrize("learn", [True, False])
def test_slopes_by_templates_are_those_of_the_cost(family, learn):
    rows, templates, events = problem(family)
    precision = torch.tensor([0.3, 0.7])
    signs = (torch.tensor([True, True]), torch.tensor([True, False]))
    best = Amplitudes(rows, events, signs, precision, rows.baseline + 0.3, learn)
    fit = best(templates, tol=1e-9)
    waves = templates.clone().requires_grad_()
    amplitude = best.events.amplitude
    assert torch.equal(amplitude, events.amplitude) is not learn
    eta = best.events.add_to(best.baseline.expand_as(rows.y), waves)
    cost = rows.cost(eta)
    cost.backward()
    torch.testing.assert_close(fit.gradient, waves.grad, rtol=1e-7, atol=1e-7)
    levels = replace(rows, learn_baseline=False)
    none = Amplitudes(
        levels, events.with_amplitude(0 * amplitude), signs, precision, rows.baseline, False
    )
    offset = fit.cost - cost.item()  # a constant is left out
    assert offset == pytest.approx(
        none(templates).cost - float(rows.cost(rows.baseline.expand_as(rows.y))), abs=1e-7
    )
    drift = (best.baseline - rows.baseline).square().sum() / family.eta_scale**2
    prior = (precision[events.template] * amplitude.square()).sum() + drift
    assert fit.prior == pytest.approx(float(prior) / 2)
    weight = family.curvature(rows.y, eta.detach()) * rows.mask
    bend = amplitude.square()[:, None, None] * events.patches(weight, 7)
    expected = torch.zeros_like(templates).index_add(0, events.template, bend)
    torch.testing.assert_close(fit.curvature, expected, rtol=1e-7, atol=1e-7)


@each_family
def test_refined_templates_are_where_the_cost_is_least_on_the_spheres(family):
    rows, templates, events = problem(family)
    found = Updater(rows, L1(1.0), max_iter=500)(templates, events, rows.baseline)
    torch.testing.assert_close(found.templates.flatten(1).norm(dim=1), torch.ones(2).double())
    waves = found.templates.clone().requires_grad_()
    amplitude = found.events.amplitude.clone().requires_grad_()
    eta = found.events.with_amplitude(amplitude).add_to(found.baseline.expand_as(rows.y), waves)
    rows.cost(eta).backward()
    along = (waves.grad * found.templates).sum(dim=(1, 2), keepdim=True)
    tangent = waves.grad - along * found.templates
    first = Updater(rows, L1(1.0), max_iter=1)(templates, events, rows.baseline)
    assert tangent.norm() < 0.05 * along.norm() + 0.05
    assert found.cost < first.cost


@each_family
@pytest.mark.parametrize("learn_baseline", [True, False])
@pytest.mark.parametrize("sign", [1, "both"])
@pytest.mark.parametrize("varies", [False, True])
def test_amplitudes_are_where_the_cost_with_its_priors_is_least(
    family, learn_baseline, sign, varies
):
    rows, templates, events = problem(family, learn_baseline, varies)
    penalty = L1(1.0) if sign == 1 else L1(1.0, sign="both")
    known = {"learn_templates": False, "shrink": True}
    found = Updater(rows, penalty)(templates, events, rows.baseline, **known)
    amplitude = found.events.amplitude.clone().requires_grad_()
    moved = found.baseline - rows.baseline
    torch.testing.assert_close(moved, moved[..., :1].expand_as(moved))
    level = moved[..., :1].clone().requires_grad_()
    owner = events.template
    square = torch.stack([events.amplitude[owner == c].square().mean() for c in (0, 1)])
    without = (rows.baseline + level).expand_as(rows.y)
    eta = events.with_amplitude(amplitude).add_to(without, templates)
    prior = (amplitude.square() / square[owner]).sum() / 2
    drift = level / family.eta_scale
    (rows.cost(eta) + prior + drift.square().sum() / 2).backward()
    curvature = torch.where(rows.mask, family.curvature(rows.y, eta.detach()), 0)
    patches = events.patches(curvature, 7) * templates[owner].square()
    error = (patches.sum(dim=(1, 2)) + 1 / square[owner]).rsqrt()
    slope = amplitude.grad * error  # in standard errors
    at_zero = amplitude == 0
    assert (slope[~at_zero].abs() < 0.15).all()
    assert (slope[at_zero] > -0.15).all()
    if sign == 1:
        assert (amplitude >= 0).all()
    if learn_baseline:
        spread = (curvature.sum(-1, keepdim=True) + family.eta_scale**-2).rsqrt()
        assert ((level.grad * spread).abs() < 0.15).all()
    else:
        torch.testing.assert_close(found.baseline, rows.baseline)


def test_smoothness_is_a_time_constant_however_much_data_there_are():
    """With four times the data the weight is four times as large, and templates are as smooth."""

    def roughness(copies, time_constant):
        rows, templates, events = problem(Gaussian(0.7), learn_baseline=False)
        many = [value.repeat(copies, 1, 1) for value in (rows.y, rows.mask, rows.baseline)]
        rows = Observations(*many[:2], rows.family, many[2], learn_baseline=False)
        events = Events.joined([events.later(5 * copy) for copy in range(copies)])
        update = Updater(rows, L1(), time_constant, max_iter=100)
        return float(update(templates, events, rows.baseline).templates.diff().square().sum())

    some = roughness(8, 1.5)
    assert some < 0.5 * roughness(8, 0.0)
    assert 0.7 < roughness(32, 1.5) / some < 1.4
    assert roughness(32, 0.75) / some > 2  # the weight that was enough for a quarter of the data


def test_nonnegative_templates_stay_so_where_data_pull_them_down():
    rows, templates, events = problem(Gaussian(0.7))
    found = Updater(rows, L1(), nonnegative=(True, True), max_iter=50)(
        templates, events, rows.baseline
    )
    assert templates.min() < 0 <= found.templates.min()
    torch.testing.assert_close(found.templates.flatten(1).norm(dim=1), torch.ones(2).double())


def test_templates_without_events_stay_within_their_bounds():
    rows, templates, events = problem(Gaussian(0.7))
    none = events.take(events.amplitude < 0)
    found = Updater(rows, L1(), nonnegative=(False, True))(templates, none, rows.baseline)
    torch.testing.assert_close(found.templates[0], templates[0])
    assert templates[1].min() < 0 <= found.templates[1].min()
