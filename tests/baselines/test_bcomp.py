"""Matching pursuit against a literal twin, and on simulated and recorded counts."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
import torch
from fits import LENGTH, MODEL, some_counts
from recordings import make_counts
from scipy.optimize import minimize
from sklearn.base import clone
from tables import pairwise, refused

from spikecdl import L1, Binomial, Gaussian, NegativeBinomial, Poisson, read_nwb
from spikecdl.baselines import BCOMP, GLM, PSTH, Basis, ConstantRate, onsets
from spikecdl.baselines.bcomp import Rule, pursue
from spikecdl.evaluation.metrics import deviance_explained, recovery
from spikecdl.simulate import simulate
from spikecdl.solvers.events import Events
from spikecdl.training import NotConvergedWarning, Observations

FAMILIES = [Gaussian(0.7), Binomial(9), Poisson(), NegativeBinomial(3.0)]
PRECISION = 1e-3
FEW = {"n_initializations": 3, "random_state": 0}  # enough for one template


def problem(family, learn_baseline: bool) -> tuple[Observations, torch.Tensor]:
    """Two windows of 200 bins, some unobserved, with events of two templates of 6 bins."""
    draw = torch.Generator().manual_seed(1)
    templates = torch.randn(2, 1, 6, generator=draw, dtype=torch.float64)
    templates /= templates.flatten(1).norm(dim=1)[:, None, None]
    window, onset = torch.tensor([0, 0, 0, 0, 1, 1]), torch.tensor([10, 13, 70, 194, 0, 120])
    template = torch.tensor([0, 1, 1, 0, 1, 0])
    events = Events(window, template, onset, torch.full((6,), 4.0, dtype=torch.float64))
    baseline = torch.full((2, 1, 1), -0.5, dtype=torch.float64)
    y = family.sample(events.add_to(baseline.expand(2, 1, 200), templates), draw)
    mask = torch.rand(2, 1, 200, generator=draw) > 0.05
    return Observations(y, mask, family, baseline, learn_baseline), templates


def twin(rows: Observations, templates: torch.Tensor, rule: Rule, window: int):
    """Pursue one window with every score computed by loops, and every refit by SciPy."""
    y, seen, family = rows.y[window, 0], rows.mask[window, 0], rows.family
    shapes = templates[:, 0].numpy()
    length, expected = shapes.shape[1], float(rows.baseline[window])
    sign = np.array([1.0 if s == "positive" else -1.0 for s in rule.penalty.sign])

    def eta(support, values):
        total = np.full(len(y), values[-1])
        for (c, p), amplitude in zip(support, values[:-1], strict=True):
            for k in range(length):
                total[p + k] += amplitude * shapes[c, k]
        return torch.from_numpy(total)

    def objective(values, support):
        cost = torch.where(seen, family.cost(y, eta(support, values)), 0).sum()
        prior = rule.precision * (values[:-1] ** 2).sum()
        if rows.learn_baseline:
            prior += (values[-1] - expected) ** 2 / family.eta_scale**2
        return float(cost) + prior / 2

    def gradient(values, support):
        residual = torch.where(seen, family.residual(y, eta(support, values)), 0).numpy()
        by = [-residual[p : p + length] @ shapes[c] for c, p in support]
        baseline = -residual.sum() + (values[-1] - expected) / family.eta_scale**2
        return np.r_[by + rule.precision * values[:-1], baseline if rows.learn_baseline else 0.0]

    support, values = [], np.array([expected])
    while len(support) < rule.n_events:
        now = eta(support, values)
        residual = torch.where(seen, family.residual(y, now), 0).numpy()
        curvature = torch.where(seen, family.curvature(y, now), 0).numpy()
        scores = {}
        for c, p in itertools.product(range(len(shapes)), range(len(y) - length + 1)):
            score = sign[c] * sum(shapes[c, k] * residual[p + k] for k in range(length))
            spread = sum(shapes[c, k] ** 2 * curvature[p + k] for k in range(length)) ** 0.5
            scores[c, p] = score / spread if rule.standardise else score
        tried = [*support, max(scores, key=scores.get)]
        bounds = [(0, None) if sign[c] > 0 else (None, 0) for c, _ in tried] + [(None, None)]
        found = minimize(
            objective,
            np.r_[values[:-1], 0.0, values[-1]],
            (tried,),
            jac=gradient,
            method="L-BFGS-B",
            bounds=bounds,
            options={"ftol": 1e-15, "gtol": 1e-9, "maxiter": 1000},
        )
        if objective(values, support) - found.fun < float(rule.min_gain[window]):
            break
        support, values = tried, found.x
    order = sorted(range(len(support)), key=lambda j: support[j])
    return [support[j] for j in order], values[order], values[-1]


@pytest.mark.parametrize(
    ("family", "learn_baseline", "standardise"),
    pairwise(FAMILIES, [True, False], [True, False]),
    ids=lambda value: getattr(value, "name", None),
)
def test_events_are_those_of_a_literal_pursuit(family, learn_baseline, standardise):
    sign = ("positive", "positive" if standardise else "negative")
    rows, templates = problem(family, learn_baseline)
    rule = Rule(L1(sign=sign), standardise, 6, torch.full((2,), 2.0), PRECISION)
    events, baseline = pursue(rows, templates, rule)
    for window in range(2):
        support, amplitude, level = twin(rows, templates, rule, window)
        mine = events.within(window, window + 1)
        assert list(zip(mine.template.tolist(), mine.onset.tolist(), strict=True)) == support
        np.testing.assert_allclose(mine.amplitude, amplitude, atol=2e-3)
        assert float(baseline[window]) == pytest.approx(level, abs=2e-3)
    assert len(events) >= 4


def test_a_window_that_was_not_observed_has_no_events():
    rows, templates = problem(Poisson(), True)
    mask = rows.mask.clone()
    mask[0] = False
    unseen = Observations(rows.y, mask, rows.family, rows.baseline, True)
    rule = Rule(L1(), True, 6, torch.zeros(2), PRECISION)
    events, baseline = pursue(unseen, templates, rule)
    assert set(events.window.tolist()) == {1}
    torch.testing.assert_close(baseline[0], rows.baseline[0])


def pooled_steps(seed: int = 0):
    """Counts of 30 pooled trials with two well-known shapes that are unlike each other."""
    return simulate(
        "binomial",
        ["square", "vee"],
        n_trials=30,
        n_units=12,
        n_events=3,
        baseline=20.0,
        same_events=True,
        random_state=seed,
    ).pool()


@pytest.mark.parametrize(
    "criterion", ["inner_product", pytest.param("score_test", marks=pytest.mark.slow)]
)
def test_templates_and_events_of_pooled_binomial_counts_are_found(criterion):
    counts = pooled_steps()
    model = BCOMP(2, 0.05, "binomial", criterion=criterion, random_state=0).fit(counts)
    found = recovery(model.decompose(counts))
    assert (found.templates.errors < 0.2).all()
    assert found.events.hit_rate > 0.9
    assert found.events.false_alarm_rate < 0.1
    assert model.converged_


@pytest.mark.parametrize("family", ["poisson", "gaussian", "negative_binomial"])
def test_templates_and_events_of_other_families_are_found(family):
    counts = some_counts(family, trials=20)
    model = BCOMP(1, LENGTH, MODEL.get(family, family), **FEW).fit(counts)
    found = recovery(model.decompose(counts))
    assert found.templates.errors[0] < 0.2
    assert found.events.hit_rate > 0.9
    assert found.events.false_alarm_rate < 0.1


def test_a_pursuit_ends_by_number_or_by_gain():
    counts = some_counts("poisson")
    start = {"templates": counts.truth.templates, "n_epochs": 1}

    def codes(**stop):
        with pytest.warns(NotConvergedWarning, match="did not converge in 1 epochs"):
            model = BCOMP(1, LENGTH, "poisson", **start, **stop).fit(counts)
        return model.transform(counts)

    two = (codes(n_events=2) != 0).sum((2, 3))
    assert (two <= 2).all()
    assert (two == 2).any()
    few, many = codes(min_gain=20.0), codes(min_gain=5.0)
    assert 0 < (few != 0).sum() < (many != 0).sum()
    default = codes()
    penalty = np.log(counts.n_bins) + 2 * np.log(counts.n_bins - LENGTH + 1)
    np.testing.assert_array_equal(default, codes(min_gain=penalty))


def test_what_it_says_of_counts_fits_together():
    counts = some_counts("binomial")
    model = BCOMP(1, LENGTH, MODEL["binomial"], **FEW).fit(counts)
    codes, parts = model.transform(counts), model.decompose(counts)
    assert codes.shape == (8, 2, 1, counts.n_bins - LENGTH + 1)
    assert model.transform(counts.select(units=[1])).shape == (8, 1, codes.shape[-1])
    np.testing.assert_array_equal(parts.codes, codes)
    np.testing.assert_allclose(parts.rate * counts.bin_size, model.predict(counts))
    np.testing.assert_allclose(parts.baseline, model.baseline_)
    eta = parts.contributions.sum(2) + np.log(model.baseline_ / (12 - model.baseline_))[..., None]
    np.testing.assert_allclose(model.predict(counts), 12 / (1 + np.exp(-eta)))
    assert len(parts.events()) == (codes != 0).sum() == model.history_[-1]["n_events"]
    np.testing.assert_allclose(np.linalg.norm(model.templates_, axis=(1, 2)), 1)
    again = clone(model).fit(counts)
    np.testing.assert_array_equal(again.templates_, model.templates_)


COUNTS = make_counts()


def test_errors_say_what_is_wrong():
    for arguments, words in [
        ({"criterion": "fit"}, "`criterion` (='fit') must be one of"),
        ({"min_gain": -1.0}, "`min_gain` (=-1.0) must not be negative"),
        ({"n_events": 0}, "`n_events` (=0) must be at least 1"),
        ({"n_initializations": 0}, "`n_initializations` (=0) must be at least 1"),
        ({"n_epochs": 0}, "`n_epochs` (=0) must be at least 1"),
        ({"n_templates": 0}, "`n_templates` (=0) must be at least 1"),
        ({"sign": "up"}, "`sign` (='up') must be one of"),
        ({"template_length": 1.0}, "is longer than the window"),
        ({"templates": np.zeros((1, 4))}, "`templates` number 0 must be finite and not all zeros"),
        ({"templates": np.ones((2, 4))}, "must have shape (1, 1, 4)"),
        ({"templates": np.ones(4)}, "must have shape (template, channel, bin)"),
        ({"family": Binomial(n_trials=1)}, "is outside the support of Binomial"),
    ]:
        model = BCOMP(1, 0.04, "poisson").set_params(**arguments)
        with refused(ValueError, re.escape(words), arguments):
            model.fit(COUNTS)


def test_nothing_found_is_said():
    with pytest.warns(NotConvergedWarning, match="no events were found"):
        model = BCOMP(1, 0.04, "poisson", min_gain=1e6, random_state=0).fit(COUNTS)
    assert not model.transform(COUNTS).any()


def test_counts_of_other_bins_are_refused():
    model = BCOMP(1, LENGTH, "poisson", **FEW).fit(some_counts())
    with pytest.raises(ValueError, match="`bin_size` of the counts"):
        model.predict(COUNTS)
    with pytest.raises(TypeError, match="must be BinnedSpikes"):
        model.transform(np.zeros((1, 1, 50)))


def test_whisker_deflections(shared_data):
    """On test trials each comparison method does better than the simpler one."""
    spikes = read_nwb(shared_data / "whisker_thalamus" / "dir3_stim2.nwb")
    counts = spikes.bin(0.005)
    split = spikes.trials["split"].to_numpy()
    train, test = (counts.select(trials=split == name).pool() for name in ("train", "test"))
    times = 0.5 + 0.125 * np.arange(16)
    known = GLM("binomial", stimulus=onsets(times), response=Basis(0.125, size=12))
    pursuit = BCOMP(1, 0.125, "binomial", random_state=0)
    family = Binomial(torch.tensor(test.n_trials))
    null = ConstantRate().fit(train).predict(test)

    def explained(mean):
        return deviance_explained(test.counts, mean, null, family)

    psth, glm = (explained(model.fit(train).predict(test)) for model in (PSTH(), known))
    mean = pursuit.fit(train).predict(train) * test.n_pooled / train.n_pooled
    assert psth > 0.6
    assert explained(mean) > psth + 0.05
    assert glm > explained(mean) + 0.02
    events = pursuit.decompose(train).events()
    for unit in counts.unit_ids:
        found = events["time"][events["unit"] == unit].to_numpy()
        assert len(found) == 16
        np.testing.assert_allclose(found - times, np.median(found - times), atol=0.006)
