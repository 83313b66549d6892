"""The GLM against statsmodels and scikit-learn, and against averages that it must equal."""

from __future__ import annotations

import re

import numpy as np
import pytest
import statsmodels.api as sm
from recordings import make_counts
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, PoissonRegressor, Ridge
from tables import refused

from spikecdl import BinnedSpikes, Binomial, Gaussian, NegativeBinomial, Poisson
from spikecdl.baselines import GLM, Basis, ConstantRate, onsets, true_onsets
from spikecdl.baselines.glm import SHAPES
from spikecdl.simulate import simulate

BIN = 0.01
TRIALS, UNITS, BINS = 12, 2, 80
FAMILIES = {
    "binomial": (Binomial(), sm.families.Binomial()),
    "poisson": (Poisson(), sm.families.Poisson()),
    "gaussian": (Gaussian(0.7), sm.families.Gaussian()),
    "negative_binomial": (
        NegativeBinomial(3.0),
        sm.families.NegativeBinomial(sm.families.links.Log(), alpha=1 / 3.0),
    ),
}
each_family = pytest.mark.parametrize("name", FAMILIES)


def some_counts(name: str, n_pooled: int = 1) -> BinnedSpikes:
    """Counts that know nothing of the stimulus, some unobserved."""
    generator = np.random.default_rng(3)
    shape = (TRIALS, UNITS, BINS)
    draws = {
        "binomial": lambda: generator.binomial(n_pooled, 0.3, shape),
        "poisson": lambda: generator.poisson(1.2, shape),
        "gaussian": lambda: generator.normal(1.0, 0.7, shape),
        "negative_binomial": lambda: generator.negative_binomial(3, 0.6, shape),
    }
    mask = generator.random(shape) > 0.05
    return BinnedSpikes.from_array(draws[name](), BIN, mask=mask, n_pooled=n_pooled)


def some_signals() -> np.ndarray:
    return np.random.default_rng(4).normal(size=(2, TRIALS, UNITS, BINS))


def filtered(signal: np.ndarray, basis: Basis, delay: int = 0) -> np.ndarray:
    """Convolve the rows of a signal with each function, by NumPy: (trial, bin, function)."""
    functions = basis.functions(BIN).T
    late = np.pad(signal, ((0, 0), (delay, 0)))
    return np.array(
        [[np.convolve(row, f)[: signal.shape[1]] for f in functions] for row in late]
    ).transpose(0, 2, 1)


def design(counts: BinnedSpikes, unit: int, basis: Basis, signals: np.ndarray) -> np.ndarray:
    """Return the rows of one unit's observed bins, with a column of ones."""
    parts = [filtered(signal[:, unit], basis) for signal in signals]
    rows = np.concatenate(parts, axis=-1)[counts.mask[:, unit]]
    return sm.add_constant(rows, has_constant="add")


@each_family
@pytest.mark.parametrize("shape", SHAPES)
def test_coefficients_are_those_of_statsmodels(name, shape):
    family, theirs = FAMILIES[name]
    counts, signals, basis = some_counts(name), some_signals(), Basis(0.06, 4, shape)
    model = GLM(family, stimulus=signals, response=basis).fit(counts)
    mean = model.predict(counts)
    for unit in range(UNITS):
        rows = design(counts, unit, basis, signals)
        y = counts.counts[:, unit][counts.mask[:, unit]]
        fit = sm.GLM(y, rows, family=theirs).fit(tol=1e-14, maxiter=100)
        ours = np.r_[model.intercept_[unit], model.coef_[unit]]
        np.testing.assert_allclose(ours, fit.params, rtol=0, atol=1e-8)
        np.testing.assert_allclose(mean[:, unit][counts.mask[:, unit]], fit.mu, atol=1e-8)
        weights = fit.params[1:].reshape(2, 4)
        np.testing.assert_allclose(
            model.response_[unit], weights @ basis.functions(BIN).T, atol=1e-7
        )
    assert model.converged_
    assert mean[~counts.mask].all()


def test_pooled_counts_have_the_exposure_of_their_trials():
    counts, signals, basis = some_counts("binomial", n_pooled=9), some_signals(), Basis(0.06, 4)
    model = GLM("binomial", stimulus=signals, response=basis).fit(counts)
    rows, seen = design(counts, 0, basis, signals), counts.mask[:, 0]
    y = counts.counts[:, 0][seen]
    fit = sm.GLM(np.c_[y, 9 - y], rows, family=sm.families.Binomial()).fit(tol=1e-14)
    np.testing.assert_allclose(model.coef_[0], fit.params[1:], atol=1e-8)
    np.testing.assert_allclose(model.predict(counts)[:, 0][seen], 9 * fit.mu, atol=1e-7)


@each_family
def test_expected_counts_grow_with_the_trials_pooled(name):
    family, _ = FAMILIES[name]
    counts, more = some_counts(name), some_counts(name, n_pooled=5)
    model = GLM(family, stimulus=some_signals(), response=Basis(0.06, 4)).fit(counts)
    np.testing.assert_allclose(model.predict(more), 5 * model.predict(counts))
    np.testing.assert_allclose(model.fit(more).predict(more) / 5, model.predict(counts))


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("binomial", LogisticRegression(C=1 / 2.5, tol=1e-12, solver="newton-cholesky")),
        ("poisson", PoissonRegressor(tol=1e-12, solver="newton-cholesky")),
        ("gaussian", Ridge(2.5 * 0.7**2, tol=1e-12)),
    ],
)
def test_a_ridge_is_that_of_scikit_learn(name, theirs):
    counts, signals, basis = some_counts(name), some_signals(), Basis(0.06, 4)
    model = GLM(FAMILIES[name][0], stimulus=signals, response=basis, ridge=2.5).fit(counts)
    rows = design(counts, 1, basis, signals)[:, 1:]
    y = counts.counts[:, 1][counts.mask[:, 1]]
    if isinstance(theirs, PoissonRegressor):  # its cost is a mean
        theirs.set_params(alpha=2.5 / len(y))
    fit = theirs.fit(rows, y)
    np.testing.assert_allclose(model.coef_[1], np.ravel(fit.coef_), atol=1e-8)
    np.testing.assert_allclose(model.intercept_[1], fit.intercept_, atol=1e-8)


def test_history_is_a_convolution_of_the_past_that_is_known():
    counts = some_counts("binomial")
    past = Basis(0.05, 3, "log_cosine")
    model = GLM("binomial", history=past).fit(counts)
    for unit in range(UNITS):
        spikes, mask = counts.counts[:, unit], counts.mask[:, unit]
        known = np.zeros_like(mask)
        for trial, bin_ in np.ndindex(mask.shape):
            known[trial, bin_] = bin_ >= 5 and mask[trial, bin_ - 5 : bin_ + 1].all()
        rows = filtered(spikes, past, delay=1)[known]
        fit = sm.GLM(spikes[known], sm.add_constant(rows), family=sm.families.Binomial())
        params = fit.fit(tol=1e-14).params
        np.testing.assert_allclose(model.intercept_[unit], params[0], atol=1e-8)
        np.testing.assert_allclose(
            model.history_response_[unit], past.functions(BIN) @ params[1:], atol=1e-8
        )
    # an expected count depends on the past alone
    changed = counts.counts.copy()
    changed[:, :, 40:] = 0
    other = BinnedSpikes.from_array(changed, BIN, mask=counts.mask)
    same = np.isclose(model.predict(counts), model.predict(other)).all((0, 1))
    assert same[:41].all()
    assert not same[41:45].any()


def test_refractoriness_is_seen_in_history():
    generator = np.random.default_rng(5)
    spikes = generator.random((200, 1, 100)) < 0.3
    for bin_ in range(1, 100):  # none in the bin after a spike
        spikes[..., bin_] &= ~spikes[..., bin_ - 1]
    counts = BinnedSpikes.from_array(spikes, 0.001)
    found = GLM(history=Basis(0.004, size=None), ridge=1.0).fit(counts).history_response_[0]
    assert found[0] < -4
    assert (abs(found[1:]) < 0.15).all()


def test_a_free_response_to_known_onsets_is_the_average_of_cycles():
    generator = np.random.default_rng(6)
    counts = BinnedSpikes.from_array(generator.binomial(20, 0.2, (3, 1, 100)), BIN, n_pooled=20)
    times = 0.2 + 0.1 * np.arange(8)  # cycles of ten bins to the end
    model = GLM(stimulus=onsets(times), response=Basis(0.1, size=None)).fit(counts)
    cycle = counts.counts[..., 20:].reshape(3, 8, 10).mean((0, 1))
    predicted = model.predict(counts)
    np.testing.assert_allclose(predicted[..., 20:], np.tile(cycle, (3, 1, 8)), rtol=1e-7)
    np.testing.assert_allclose(predicted[..., :20], counts.counts[..., :20].mean(), rtol=1e-7)


def test_without_covariates_it_is_a_constant_rate():
    counts = some_counts("poisson")
    constant = ConstantRate(prior=0.0).fit(counts).predict(counts)
    np.testing.assert_allclose(GLM("poisson").fit(counts).predict(counts), constant)


def test_covariates_that_depend_on_each_other_leave_predictions_as_they_are():
    counts, signals = some_counts("poisson"), some_signals()
    once = GLM("poisson", stimulus=signals, response=Basis(0.06, 4)).fit(counts)
    twice = np.concatenate([signals, signals])
    both = GLM("poisson", stimulus=twice, response=Basis(0.06, 4)).fit(counts)
    np.testing.assert_allclose(both.predict(counts), once.predict(counts), rtol=1e-6)
    np.testing.assert_allclose(both.coef_[:, :8], both.coef_[:, 8:], atol=1e-6)


def test_known_onsets_give_the_templates_of_a_simulation():
    counts = simulate(
        "poisson",
        ["vee", "square"],
        n_trials=20,
        n_units=2,
        duration=4.0,
        bin_size=BIN,
        template_length=0.2,
        amplitude=4.0,
        baseline=60.0,
        random_state=0,
    )
    model = GLM("poisson", stimulus=true_onsets, response=Basis(0.2, size=None)).fit(counts)
    for unit in range(2):
        for found, true in zip(model.response_[unit], counts.truth.templates[:, 0], strict=True):
            assert np.corrcoef(found, true)[0, 1] > 0.95
            assert found @ true == pytest.approx(4.0, rel=0.1)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_functions_of_a_basis(size):
    for shape in SHAPES:
        functions = Basis(0.3, size, shape).functions(BIN)
        assert functions.shape == (30, size)
        assert np.linalg.matrix_rank(functions) == size
        assert (functions >= 0).all()
        assert (functions.max(0) > 0.4).all()
        assert (np.diff(functions.argmax(0)) > 0).all()


def test_onsets_stand_in_the_bins_of_their_times():
    counts = make_counts()  # from -0.03 s, in bins of 0.01 s
    found = onsets([-0.03, 0.0, 0.03 - 1e-12, 0.0399])(counts)
    np.testing.assert_array_equal(found, [[[[1, 0, 0, 1, 0, 0, 2, 0, 0, 0]]]])


COUNTS = make_counts()


def test_errors_say_what_is_wrong():
    for call, words in [
        (lambda: GLM("poisson", ridge=-1.0).fit(COUNTS), "`ridge` (=-1.0) must not be negative"),
        (lambda: GLM("poison").fit(COUNTS), "`family` (='poison') must be one of"),
        (
            lambda: GLM("poisson", history=Basis(0.05, 2)).fit(make_counts(masked=False).pool()),
            "needs counts of single trials, and these pool up to 3",
        ),
        (
            lambda: GLM("poisson", history=Basis(0.1, 2)).fit(COUNTS),
            "unit 'u7' has no observed bin whose past is known",
        ),
        (
            lambda: GLM("poisson", stimulus=np.zeros(7), response=Basis(0.02, 2)).fit(COUNTS),
            "`stimulus` (shape (1, 1, 1, 7)) must broadcast to",
        ),
        (lambda: GLM(stimulus=[np.nan], response=Basis(0.02, 2)).fit(COUNTS), "finite number"),
        (lambda: onsets([0.5])(COUNTS), "(=0.5 s among them) must lie in the windows"),
        (lambda: onsets([np.inf]), "`times` must be finite"),
        (lambda: true_onsets(COUNTS), "hold no truth of the shared layout"),
        (lambda: Basis(0.0), "`length` (=0.0) must be positive, in seconds"),
        (lambda: Basis(0.1, 1), "`size` (=1) must be at least 2"),
        (lambda: Basis(0.1, 3, "square"), "`shape` (='square') must be one of"),
        (lambda: Basis(0.025).functions(0.01), "a whole number of bins of 0.01; the nearest"),
        (lambda: Basis(0.03, 4).functions(0.01), "`size` (=4) must be at most the 3 bins"),
    ]:
        with refused(ValueError, re.escape(words), call):
            call()


def test_it_is_an_estimator_of_scikit_learn():
    model = GLM("poisson", stimulus=onsets([0.0]), response=Basis(0.02, 2))
    copied = clone(model)
    assert copied.get_params()["response"] == Basis(0.02, 2)
    np.testing.assert_array_equal(
        copied.fit(COUNTS).predict(COUNTS), model.fit(COUNTS).predict(COUNTS)
    )
