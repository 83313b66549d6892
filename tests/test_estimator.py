"""`DCEA` as a scikit-learn estimator: its arguments, what it takes, and what it gives back."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from fits import BINS, LENGTH, TRAINERS, quick, same_bits, some_counts
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import check_methods_subset_invariance, parametrize_with_checks
from tables import refused

import spikecdl
from spikecdl import (
    DCEA,
    L1,
    Alternating,
    BinnedSpikes,
    Binomial,
    GroupL1,
    NegativeBinomial,
    Unrolled,
    load,
)
from spikecdl.evaluation.metrics import recovery
from spikecdl.model.families import FAMILIES
from spikecdl.simulate import simulate
from spikecdl.training import NotConvergedWarning

pytestmark = pytest.mark.filterwarnings("ignore::spikecdl.NotConvergedWarning")
each_family = pytest.mark.parametrize("family", sorted(FAMILIES))
each_trainer = pytest.mark.parametrize("trainer", sorted(TRAINERS))


@pytest.fixture(scope="module")
def fitted():
    """Models of `some_counts` by family and layout, each fitted once."""
    models = {}

    def fit(family="poisson", layout="shared"):
        key = family, layout
        if key not in models:
            model = quick(family, layout=layout, n_epochs=10, penalty_weight=None)
            models[key] = model.fit(some_counts(family, layout))
        return models[key]

    return fit


class Rounded(DCEA):
    """Poisson counts of the real numbers that scikit-learn draws."""

    def _counts(self, X, reset=False):
        counts = super()._counts(X, reset)
        return replace(counts, counts=np.rint(counts.counts))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = True
        return tags


FAILS = {
    "check_positive_only_tag_during_fit": "the error names the count that no count can be",
    "check_fit2d_1feature": "a window of one bin is shorter than this template, which the error "
    "says in bins",
    "check_methods_subset_invariance": "the baseline of a unit is that of all trials it is given",
}


@parametrize_with_checks(
    [Rounded(1, 2, "poisson", trainer="marginal", n_epochs=2)],
    expected_failed_checks=lambda model: FAILS,
)
def test_conventions_of_scikit_learn(estimator, check):
    check(estimator)


def test_trials_are_coded_on_their_own():
    """With a baseline of each trial, as signals have."""
    model = DCEA(1, 2, "gaussian", trainer="alternating", n_epochs=1)
    check_methods_subset_invariance("DCEA", model)


class TestArguments:
    """Arguments are stored as they come, and checked by `fit`."""

    def test_are_stored_untouched(self):
        given = {name: object() for name in DCEA().get_params(deep=False)}
        model = DCEA(**given)
        assert all(getattr(model, name) is value for name, value in given.items())
        assert model.get_params(deep=False) == given

    def test_objects_survive_clone_and_set_params(self):
        model = DCEA(family=Binomial(n_trials=30), penalty=GroupL1(sign="both"))
        copy = clone(model).set_params(trainer=Unrolled(n_unrolled=7), baseline=(0.0, 1.0))
        assert copy.family.n_trials == 30
        assert copy.penalty.sign == "both"
        assert copy.trainer.n_unrolled == 7
        assert model.trainer == "auto"

    @each_trainer
    def test_are_the_same_after_fit(self, trainer):
        model = quick(trainer=trainer, baseline=[1.0, 1.0])
        before = dict(model.get_params(deep=False))
        model.fit(some_counts())
        assert all(value is before[name] for name, value in model.get_params(deep=False).items())

    def test_wrong_ones_are_named_and_leave_nothing(self):
        """The others are in `test_bad_input`."""
        for arguments, error, words in (
            ({"n_templates": 0}, ValueError, "`n_templates` .=0. must be at least 1"),
            ({"penalty": None}, TypeError, "`penalty`"),
            ({"penalty": L1(sign=("both",) * 3)}, ValueError, "`sign`"),
            ({"penalty_weight": float("nan")}, ValueError, "`penalty_weight`.*finite"),
            ({"random_state": -1}, ValueError, "`random_state`"),
            ({"random_state": "seed"}, ValueError, "seed"),
        ):
            model = quick(**arguments)
            with refused(error, words, arguments):
                model.fit(some_counts(trials=2))
            with pytest.raises(NotFittedError):
                model.transform(some_counts(trials=2))

    def test_cpu_is_what_auto_means_without_gpu(self):
        one = quick(device="cpu").fit(some_counts())
        if not torch.cuda.is_available():
            assert same_bits(one.templates_, quick(device="auto").fit(some_counts()).templates_)


class TestInput:
    """Arrays of two and three axes and `BinnedSpikes` are the same thing."""

    @each_trainer
    def test_kinds_give_the_same_bits(self, trainer):
        counts = some_counts(units=1, trials=4)
        kinds = counts, counts.counts, counts.counts[:, 0].tolist()
        models = [quick(trainer=trainer).fit(kind) for kind in kinds]
        for kind, model in zip(kinds, models, strict=True):
            assert same_bits(model.templates_, models[0].templates_)
            assert same_bits(model.transform(kind), models[0].transform(counts))
            assert model.score(kind) == models[0].score(counts)

    @pytest.mark.parametrize("layout", ["shared", "joint"])
    def test_shapes_of_codes_and_expected_counts(self, fitted, layout):
        model, counts = fitted(layout=layout), some_counts(trials=3, bins=50)
        places = 50 - LENGTH + 1
        expected = (3, 1, places) if layout == "joint" else (3, 2, 1, places)
        assert model.transform(counts).shape == expected
        assert model.transform(counts.counts).shape == expected
        assert model.predict(counts).shape == model.predict(counts.counts).shape == (3, 2, 50)

    def test_one_unit_has_no_axis_of_its_own(self, fitted):
        counts = some_counts(units=1, trials=3)
        model = clone(fitted()).fit(counts.counts[:, 0])
        assert model.transform(counts).shape == (3, 1, BINS - LENGTH + 1)
        assert model.predict(counts.counts[:, 0]).shape == (3, BINS)
        assert model.predict(counts).shape == (3, 1, BINS)
        assert same_bits(model.predict(counts)[:, 0], model.predict(counts.counts[:, 0]))

    def test_names_and_numbers_of_features_are_checked_for_2d(self):
        counts = some_counts(units=1).counts[:, 0]
        model = quick().fit(counts)
        assert model.n_features_in_ == BINS
        with pytest.raises(ValueError, match="features"):
            model.transform(counts[:, :-1])
        assert not hasattr(quick().fit(counts[:, None]), "n_features_in_")

    def test_what_is_not_counts_is_refused(self, fitted):
        for wrong, words in [
            (np.zeros((0, 50)), "0 sample"),
            (np.zeros(50), "Reshape"),
            (np.zeros((2, 2, 2, 50)), "trial, unit, bin"),
            (np.full((2, 50), np.nan), "NaN"),
            (np.full((2, 50), np.inf), "infinity"),
            (-np.ones((2, 50), int), "support of Poisson"),
            (np.full((2, 50), 0.5), "support of Poisson"),
            (np.ones((2, 50)) * 1j, "[Cc]omplex"),
            (np.full((2, 50), 2**25), "above 16777216"),
            (np.full((2, 50), "spike"), "numeric"),
        ]:
            with refused(ValueError, words, wrong):
                quick().fit(wrong)
            with refused(ValueError, words, wrong):
                fitted().transform(wrong)

    def test_a_count_above_n_trials_is_named(self):
        y = np.zeros((3, 2, 40), int)
        y[1, 0, 7] = 5
        words = "count 5 of unit 'a', trial 'two', bin 7 .*Binomial.*n_trials .=4."
        counts = BinnedSpikes.from_array(
            y, unit_ids=("a", "b"), trial_ids=("one", "two", "three"), sub_bins=4
        )
        for family in ("binomial", Binomial(n_trials=4)):
            with pytest.raises(ValueError, match=words):
                quick().set_params(family=family).fit(counts)

    def test_other_counts_than_those_of_the_fit(self, fitted):
        shared, joint = fitted(), fitted(layout="joint")
        with pytest.raises(ValueError, match="`bin_size`.*must be that of the fit"):
            shared.transform(BinnedSpikes.from_array(np.zeros((2, 1, 50), int), 0.5))
        with pytest.raises(ValueError, match="fewer than a template"):
            shared.transform(np.zeros((2, 1, LENGTH - 1)))
        with pytest.raises(ValueError, match="3 units, the joint templates 2"):
            joint.transform(some_counts(units=3))
        with pytest.raises(ValueError, match="another order"):
            joint.transform(some_counts().select(units=[1, 0]))
        assert shared.transform(some_counts(units=3, trials=2)).shape[:2] == (2, 3)

    def test_not_fitted(self):
        for use in ("transform", "predict", "score", "decompose"):
            with pytest.raises(NotFittedError):
                getattr(DCEA(), use)(some_counts(trials=2))

    @pytest.mark.parametrize("kind", ["BinnedSpikes", "2-D"])
    def test_grid_search_over_trials(self, kind):
        counts = some_counts(units=2 if kind != "2-D" else 1, trials=4)
        given = {"BinnedSpikes": counts, "2-D": counts.counts[:, 0]}[kind]
        grid = {"penalty_weight": [0.2, 0.9]}
        search = GridSearchCV(quick(), grid, cv=2, error_score="raise").fit(given)
        assert search.best_params_ == {"penalty_weight": 0.2}
        assert search.best_estimator_.transform(given).shape[0] == len(counts)
        first, second = slice(2), slice(2, 4)
        scores = [
            quick().fit(given[train]).score(given[test])
            for train, test in ((second, first), (first, second))
        ]
        assert np.mean(scores) == pytest.approx(search.best_score_, abs=1e-12)


class TestResults:
    """What a fit leaves."""

    @pytest.mark.parametrize(
        ("family", "layout"),
        [*((family, "shared") for family in FAMILIES), ("gaussian", "joint"), ("poisson", "joint")],
    )
    def test_every_family_in_either_layout(self, fitted, family, layout):
        model, counts = fitted(family, layout), some_counts(family, layout)
        assert model.templates_.shape == (1, 2 if layout == "joint" else 1, LENGTH)
        assert np.linalg.norm(model.templates_) == pytest.approx(1, abs=1e-5)
        assert model.baseline_.shape == (8, 2)
        assert 0 < model.penalty_weight_ < 1
        assert model.n_iter_ == len(model.history_) <= 10
        found = recovery(model.decompose(counts))
        assert found.templates.max < 0.35
        assert found.events.hit_rate > 0.8
        assert model.score(counts) > 0.2

    @each_family
    def test_parts_add_up_to_the_rate(self, fitted, family):
        """The decomposition, put together again by the family alone, is what is predicted."""
        model, counts = fitted(family), some_counts(family)
        parts = model.decompose(counts)
        known = model.family if not isinstance(model.family, str) else FAMILIES[family]()
        baseline = torch.tensor(parts.baseline[..., None])  # bins of one second
        eta = known.link(baseline) + torch.tensor(parts.contributions.sum(axis=2))
        np.testing.assert_allclose(known.mean(eta).numpy(), parts.rate, rtol=2e-4)
        np.testing.assert_allclose(model.predict(counts), parts.rate, rtol=1e-5)
        assert np.array_equal(parts.codes[:, :, 0], model.transform(counts)[:, :, 0])

    def test_plain_arrays_learn_n_trials_from_the_family(self, fitted):
        """So that probabilities per Bernoulli trial can be told from rates."""
        counts = some_counts("binomial")
        parts = fitted("binomial").decompose(counts.counts)
        assert parts.counts.sub_bins == counts.sub_bins == 12
        assert same_bits(parts.rate, fitted("binomial").decompose(counts).rate)

    def test_codes_rebuild_the_contributions(self, fitted):
        parts = fitted().decompose(some_counts())
        trial, unit = 2, 1
        wave = np.convolve(parts.codes[trial, unit, 0], parts.templates[0, 0])
        np.testing.assert_allclose(parts.contributions[trial, unit, 0], wave, atol=1e-4)

    def test_templates_come_in_order_of_events(self):
        waves = np.stack([np.hanning(LENGTH), -np.hanning(LENGTH)])
        counts = some_counts(templates=waves, trials=6)
        codes = quick(n_templates=2).fit(counts).transform(counts)
        number = (codes != 0).sum(axis=(0, 1, 3))
        assert number[0] >= number[1]

    @each_trainer
    def test_signs(self, trainer):
        up = some_counts("gaussian", units=1).counts
        counts = np.concatenate([up, 2.0 - up])  # mirrored at the baseline
        both = quick("gaussian", trainer, penalty=L1(sign="both")).fit(counts).transform(counts)
        assert (both > 0).any()
        assert (both < 0).any()
        down = quick("gaussian", trainer, penalty=L1(sign="negative"))
        assert down.fit(counts).transform(counts).max() == 0
        assert quick("gaussian", trainer).fit(counts).transform(counts).min() == 0
        one_each = quick(
            "gaussian", trainer, n_templates=2, penalty=L1(sign=("positive", "positive"))
        )
        assert one_each.fit(counts).transform(counts).min() == 0
        for signs in (("positive", "negative"), ("negative", "positive")):
            mixed = quick("gaussian", trainer, n_templates=2, penalty=L1(sign=signs))
            codes = mixed.fit(counts).transform(counts)
            for c, sign in enumerate(signs):
                assert (codes[:, c] * (1 if sign == "positive" else -1)).min() == 0

    @each_trainer
    def test_groups_fire_together(self, trainer):
        """Units that share events: under `GroupL1` they are found in both or in neither."""
        single = some_counts(units=1)
        y = np.repeat(single.counts, 2, axis=1)
        y[:, 1] = np.random.default_rng(0).binomial(y[:, 1], 0.15)
        together = quick(trainer=trainer, penalty="group_l1").fit(y).transform(y)[:, :, 0] != 0
        assert together.any()
        shared = together.all(axis=1).sum() / together.any(axis=1).sum()
        alone = quick(trainer=trainer).fit(y).transform(y)[:, :, 0] != 0
        assert shared > alone.all(axis=1).sum() / max(alone.any(axis=1).sum(), 1)

    @pytest.mark.parametrize("trainer", sorted(TRAINERS))
    def test_weight_is_a_fraction_of_lambda_max(self, trainer):
        model = quick(trainer=trainer, penalty_weight=0.3).fit(some_counts())
        assert model.penalty_weight_ == pytest.approx(0.3, rel=1e-5)

    def test_nothing_found_is_a_warning_at_the_caller(self):
        with pytest.warns(NotConvergedWarning, match="no events were found") as record:
            model = quick(penalty_weight=0.99).fit(some_counts())
        assert record[0].filename == __file__
        assert not model.transform(some_counts()).any()

    def test_too_few_epochs_is_a_warning(self):
        with pytest.warns(NotConvergedWarning, match="in 1 epochs; raise `n_epochs`"):
            model = quick(n_epochs=1).fit(some_counts())
        assert not model.converged_

    def test_silence_and_certainty_stay_finite(self):
        for y in (np.zeros((2, 40), int), np.ones((2, 40), int)):
            model = quick(penalty_weight=None).set_params(family="binomial").fit(y)
            assert np.isfinite(model.predict(y)).all()
            assert not model.transform(y).any()

    def test_two_fits_in_threads_give_the_bits_of_one(self):
        before = torch.get_num_threads()
        torch.set_num_threads(2)
        try:
            alone = quick().fit(some_counts()).transform(some_counts())
            with ThreadPoolExecutor(2) as pool:
                found = [pool.submit(quick().fit, some_counts()) for _ in range(4)]
            assert torch.get_num_threads() == 2
            for each in found:
                assert same_bits(each.result().transform(some_counts()), alone)
        finally:
            torch.set_num_threads(before)

    def test_threads_are_as_they_were(self, monkeypatch):
        used = []
        original = Alternating.encode

        def encode(*arguments):
            used.append(torch.get_num_threads())
            return original(*arguments)

        monkeypatch.setattr(Alternating, "encode", encode)
        before = torch.get_num_threads()
        torch.set_num_threads(2)
        try:
            quick().fit(some_counts()).transform(some_counts())
            assert torch.get_num_threads() == 2
        finally:
            torch.set_num_threads(before)
        assert set(used) == {1}


class TestRandomState:
    """The seed decides everything."""

    @each_trainer
    def test_same_seed_same_bits(self, trainer):
        counts = some_counts()
        one, other = (quick(trainer=trainer, random_state=3).fit(counts) for _ in range(2))
        assert same_bits(one.templates_, other.templates_)
        assert same_bits(one.transform(counts), other.transform(counts))
        assert [r["loss"] for r in one.history_] == [r["loss"] for r in other.history_]

    def test_other_seed_other_start(self):
        model = quick(trainer="unrolled", n_epochs=1)
        one, other = (clone(model).set_params(random_state=s).fit(some_counts()) for s in (0, 1))
        assert not np.array_equal(one.templates_, other.templates_)

    def test_kinds(self):
        def fit(random_state):
            return quick(trainer="unrolled", random_state=random_state).fit(some_counts())

        assert same_bits(fit(3).templates_, fit(np.int64(3)).templates_)
        states = np.random.RandomState(5), np.random.RandomState(5)
        assert same_bits(*(fit(state).templates_ for state in states))
        assert fit(None).templates_.shape == (1, 1, LENGTH)

    def test_only_fit_draws(self):
        state = np.random.RandomState(5)
        model = quick(random_state=state).fit(some_counts())
        before = state.get_state()[1].copy()
        model.score(some_counts())
        assert np.array_equal(state.get_state()[1], before)

    def test_global_state_is_left_alone(self):
        torch.manual_seed(1)
        expected = torch.rand(3)
        torch.manual_seed(1)
        quick().fit(some_counts())
        assert torch.equal(torch.rand(3), expected)


def test_names_of_the_package():
    assert spikecdl.DCEA is DCEA
    assert spikecdl.load.__module__ == "spikecdl.estimator"


def of_shape(shape: float, seed: int) -> BinnedSpikes:
    return simulate(
        NegativeBinomial(shape),
        ["square", "vee"],
        n_trials=40,
        n_units=2,
        duration=1.0,
        bin_size=0.005,
        n_events=2,
        template_length=0.1,
        amplitude=(6.0, 8.0),
        baseline=200.0,
        random_state=seed,
    )


@pytest.mark.parametrize(("shape", "n_seeds"), [(1.5, 3), (5.0, 1)])
def test_the_shape_is_estimated_around_the_events(shape, n_seeds):
    """It is known before the templates are learned, so the fit may end with its first epoch."""

    class Enough(Exception):
        pass

    def stop(state):
        raise Enough

    model, shapes = DCEA(2, 0.1, "negative_binomial", trainer="alternating", random_state=0), []
    for seed in range(n_seeds):
        with pytest.raises(Enough):
            model.fit(of_shape(shape, seed), on_epoch=stop)
        shapes.append(model.family_.shape)
    assert np.median(shapes) == pytest.approx(shape, rel=0.15)  # around a constant rate: 0.5


def test_the_shape_that_was_estimated_is_kept(tmp_path):
    counts = some_counts("negative_binomial")
    model = quick().set_params(family="negative_binomial").fit(counts)
    assert model.decompose(counts).family == model.family_
    assert model.family_.shape is not None
    model.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.family_ == model.family_
    assert np.array_equal(again.transform(counts), model.transform(counts))
    fixed = quick().set_params(family=NegativeBinomial(3.0))
    assert fixed.fit(counts).family_ == NegativeBinomial(3.0)
