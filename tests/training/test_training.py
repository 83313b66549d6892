"""The trainers: they lower their loss, find templates, and say what went wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from fits import LENGTH, TRAINERS, WAVE, quick, same_bits, some_counts
from scipy import stats

from spikecdl import DCEA, L1, Alternating, BinnedSpikes, GroupL1, Implicit, Marginal, Unrolled
from spikecdl.evaluation.metrics import recovery, template_error
from spikecdl.model.dictionary import ConvDictionary
from spikecdl.model.families import FAMILIES, Poisson
from spikecdl.simulate import simulate
from spikecdl.solvers.sparse_coding import sparse_code
from spikecdl.training import Fixed, Fraction, Observations, UniversalThreshold, lambda_max

pytestmark = pytest.mark.filterwarnings("ignore::spikecdl.NotConvergedWarning")
each_family = pytest.mark.parametrize("family", sorted(FAMILIES))
each_trainer = pytest.mark.parametrize("trainer", sorted(TRAINERS))


def losses(model: DCEA, key: str = "loss") -> list[float]:
    return [record[key] for record in model.history_]


class TestHistory:
    """One record per epoch."""

    @each_trainer
    def test_records(self, trainer):
        seen = []
        model = quick(trainer=trainer, n_epochs=3)
        model.fit(some_counts(), on_epoch=lambda state: seen.append(state.epoch))
        assert losses(model, "epoch") == seen == list(range(1, model.n_iter_ + 1))
        assert np.isfinite(losses(model)).all()

    @each_trainer
    def test_loss_is_per_observed_bin(self, trainer):
        """Without events it is the likelihood of the given rates, by SciPy."""
        counts = some_counts()
        mask = np.random.default_rng(0).random(counts.shape) < 0.7
        part = BinnedSpikes.from_array(counts.counts, mask=mask)
        model = quick(trainer=trainer, baseline=[0.7, 1.3], penalty_weight=0.9999, n_epochs=1)
        model.fit(part)
        rate = np.broadcast_to(np.array([0.7, 1.3])[:, None], counts.shape)
        y = counts.counts[mask]
        terms = stats.poisson.logpmf(y, rate[mask]) + torch.lgamma(torch.tensor(y) + 1.0).numpy()
        assert losses(model)[0] == pytest.approx(-terms.mean(), rel=1e-3)


class TestAlternating:
    """Codes, then templates."""

    @each_family
    def test_objective_does_not_rise_with_codes_as_they_are(self, family):
        """Without merging and pruning both steps are on the same objective.

        The weight is a fraction of lambda_max, which moves a little with the templates.
        """
        trainer = Alternating(debias=False, tol=1e-3)
        model = quick(family, trainer, n_epochs=6, baseline=[1.0, 1.0])
        objective = np.array(losses(model.fit(some_counts(family)), "objective"))
        slack = 1e-3 * np.abs(objective[0])
        assert (np.diff(objective) <= slack).all(), objective

    @each_family
    def test_beats_the_model_without_events(self, family):
        counts = some_counts(family)
        model = quick(family, n_epochs=10, penalty_weight=None).fit(counts)
        none = quick(family, penalty_weight=0.9999, n_epochs=1).fit(counts)
        assert losses(model)[-1] < losses(none)[-1]
        assert losses(model, "n_events")[-1] > 0
        assert model.converged_

    def test_sharp_templates_are_found_in_their_place(self):
        """Cropped to the bins of most energy: found without a shift to speak of."""
        wave = np.sin(np.linspace(0, 2 * np.pi, LENGTH + 2)[1:-1])[None]
        counts = some_counts(templates=wave, trials=12)
        found = recovery(quick(penalty_weight=None, n_epochs=10).fit(counts).decompose(counts))
        assert found.templates.max < 0.2
        assert abs(found.templates.shifts[0]) <= 2

    def test_silence_with_a_given_baseline(self):
        """Nothing is left to fit: no event, and no baseline."""
        model = quick(baseline=[1.0, 1.0]).fit(some_counts())
        silence = np.zeros((2, 2, 40), int)
        assert not model.transform(silence).any()
        np.testing.assert_allclose(model.predict(silence), 1.0, rtol=1e-5)

    def test_separation_merges_events(self):
        counts = some_counts()
        far = quick(trainer=Alternating(separation=0.9)).fit(counts)
        place = np.argwhere(far.transform(counts)[:, :, 0])
        gaps = np.diff(place[:, 2])[(np.diff(place[:, :2], axis=0) == 0).all(axis=1)]
        assert gaps.min() > 0.4 * LENGTH

    def test_units_that_fire_together_share_their_events(self):
        """Trials of the same events, taken for the units of one trial."""
        units = [
            simulate(
                "poisson", WAVE, n_trials=3, n_units=1, duration=96.0, bin_size=1.0, n_events=3,
                amplitude=(4.0, 5.0), baseline=1.0, same_events=True, random_state=seed,
            )
            for seed in range(8)
        ]  # fmt: skip
        counts = np.stack([trial.counts[:, 0] for trial in units])
        model = quick(penalty="group_l1", penalty_weight=None).fit(counts)
        live = model.transform(counts)[:, :, 0] != 0  # (trial, unit, place)
        together = live.sum(axis=1)[live.any(axis=1)]
        assert 16 <= len(together) <= 32
        assert (together == 3).mean() > 0.8

    def test_smoothness_makes_smooth(self):
        counts = some_counts(trials=3)

        def roughness(weight):
            trainer = Alternating(smoothness=weight)
            templates = quick(trainer=trainer).fit(counts).templates_
            return np.square(np.diff(templates)).sum()

        assert roughness(0.2) < 0.8 * roughness(0.0)

    def test_nonnegative_templates_have_no_negative_bin(self):
        counts = some_counts(trials=3)
        free, kept = (
            quick(trainer=Alternating(nonnegative=each)).fit(counts).templates_
            for each in (False, True)
        )
        assert free.min() < 0 <= kept.min()
        assert np.correlate(free[0, 0].clip(0), kept[0, 0], "full").max() > 0.7

    def test_each_template_is_nonnegative_or_not(self):
        counts = some_counts(trials=3)
        for nonnegative in ((True, False), (False, True)):
            kept = (
                quick(n_templates=2, trainer=Alternating(nonnegative=nonnegative))
                .fit(counts)
                .templates_
            )
            assert tuple(kept.min((1, 2)) >= 0) == nonnegative

    @pytest.mark.parametrize("trainer", [Alternating, Marginal])
    def test_as_many_values_as_templates(self, trainer):
        model = quick(n_templates=3, trainer=trainer(nonnegative=(True, False)))
        with pytest.raises(
            ValueError,
            match=r"`nonnegative` \(=\(True, False\)\) has 2 values for 3 templates; give one for "
            "each, or one for all",
        ):
            model.fit(some_counts(trials=3))
        with pytest.raises(TypeError, match=r"`nonnegative` \(=1\) must be True or False"):
            trainer(nonnegative=1)

    def test_most_events_keeps_the_strongest(self):
        counts = some_counts(trials=3)
        every = quick().fit(counts)
        one = quick(trainer=Alternating(most_events=1)).fit(counts)
        codes, few = every.transform(counts), one.transform(counts)
        assert (codes != 0).sum(-1).max() > 1
        assert (few != 0).sum(-1).max() == 1
        same = few.argmax(-1) == codes.argmax(-1)
        assert same.mean() > 0.7

    def test_most_events_needs_debiased_events(self):
        with pytest.raises(ValueError, match=r"`most_events` \(=2\) selects events after debias"):
            Alternating(most_events=2, debias=False)


class TestUnrolled:
    """Back-propagation through the encoder."""

    @each_family
    @pytest.mark.parametrize("tied", [True, False])
    def test_loss_falls(self, family, tied):
        step = 0.02 if not tied else None
        trainer = Unrolled(n_unrolled=10, tied=tied, step=step)
        model = quick(family, trainer, n_epochs=6).fit(some_counts(family))
        assert losses(model)[-1] < losses(model)[0]
        codes = model.transform(some_counts(family))
        assert np.isfinite(codes).all()

    @pytest.mark.parametrize(
        "change",
        [{"accelerated": False}, {"init": "random"}, {"stabilizer": 5.0}, {"batch_size": 3}],
        ids=lambda change: next(iter(change)),
    )
    def test_variants(self, change):
        trainer = replace(TRAINERS["unrolled"], **change)
        model = quick(trainer=trainer, n_epochs=4).fit(some_counts())
        assert losses(model)[-1] < losses(model)[0]
        assert np.linalg.norm(model.templates_) == pytest.approx(1, abs=1e-5)

    def test_finds_a_template(self):
        counts = some_counts("gaussian", trials=16)
        trainer = Unrolled(n_unrolled=30)
        model = quick("gaussian", trainer, n_epochs=6, penalty_weight=0.3).fit(counts)
        assert recovery(model.decompose(counts)).templates.max < 0.3

    def test_untied_keeps_three_dictionaries(self):
        trainer = Unrolled(n_unrolled=10, tied=False, step=0.02)
        model = quick("binomial", trainer, n_epochs=3).fit(some_counts("binomial"))
        parts = {"templates", "analysis", "synthesis", "bias"}
        assert parts <= set(model.tensors_)
        assert not torch.equal(model.tensors_["analysis"], model.tensors_["templates"])

    def test_a_loss_that_is_not_finite_names_epoch_and_step(self):
        trainer = Unrolled(n_unrolled=30, step=1e30, accelerated=False)
        model = quick("gaussian", trainer, n_epochs=2)
        with pytest.raises(FloatingPointError, match="epoch 1, step 1.*`learning_rate`.*`step`"):
            model.fit(some_counts("gaussian"))


class TestImplicit:
    """Through codes that are solved."""

    @each_family
    @pytest.mark.parametrize("layout", ["shared", "joint"])
    def test_loss_falls(self, family, layout):
        counts = some_counts(family, layout)
        model = quick(family, "implicit", layout=layout, n_epochs=6).fit(counts)
        assert losses(model)[-1] < losses(model)[0]
        assert model.transform(counts).any()

    @pytest.mark.parametrize(
        "change",
        [{"init": "random"}, {"batch_size": 3}, {"tol": 1e-5}, {"learning_rate": 0.03}],
        ids=lambda change: next(iter(change)),
    )
    def test_variants(self, change):
        trainer = replace(TRAINERS["implicit"], **change)
        model = quick(trainer=trainer, n_epochs=4).fit(some_counts())
        assert losses(model)[-1] < losses(model)[0]
        assert np.linalg.norm(model.templates_) == pytest.approx(1, abs=1e-5)

    @pytest.mark.parametrize("penalty", [L1(sign="both"), GroupL1()], ids=["both", "groups"])
    def test_other_penalties(self, penalty):
        model = quick(trainer="implicit", penalty=penalty, n_epochs=4).fit(some_counts())
        assert losses(model)[-1] < losses(model)[0]

    @each_family
    def test_finds_a_template_from_nothing(self, family):
        """From noise, about orthogonal to the truth."""
        counts, seen = some_counts(family, trials=16), []

        def on_epoch(state):
            seen.append(template_error(counts.truth.templates, state.tensors["templates"].numpy()))

        trainer = Implicit(init="random", batch_size=8, learning_rate=0.05)
        quick(family, trainer, n_epochs=10, penalty_weight=0.3).fit(counts, on_epoch=on_epoch)
        assert seen[0].max > 0.6
        assert seen[-1].max < 0.35

    @each_family
    def test_many_layers_learn_the_same(self, family):
        """Back-propagation through 300 layers ends close by."""
        counts = some_counts(family)
        one, other = (
            quick(family, trainer, n_epochs=5).fit(counts)
            for trainer in (Implicit(tol=1e-5), Unrolled(n_unrolled=300))
        )
        assert losses(one) == pytest.approx(losses(other), rel=1e-3)
        assert np.vdot(one.templates_, other.templates_) > 0.999


class TestWeight:
    """How heavy the penalty is."""

    def problem(self, seed=0):
        generator = torch.Generator().manual_seed(seed)
        dictionary = ConvDictionary(torch.randn(2, 1, 6, generator=generator)).normalize_()
        baseline = torch.zeros(40, 1, 1, 1)
        y = Poisson().sample(baseline.expand(40, 1, 1, 200), generator)
        data = Observations(y, torch.ones_like(y, dtype=torch.bool), Poisson(), baseline, False)
        return dictionary, data

    def events(self, weight):
        dictionary, data = self.problem()
        penalty = weight(L1(), dictionary, data, data.baseline)
        rows = data.rows()
        if isinstance(penalty.weight, torch.Tensor) and penalty.weight.ndim:
            penalty = penalty.with_weight(penalty.weight.flatten(0, 1))
        found = sparse_code(rows.y, rows.family, dictionary, penalty, rows.baseline, rows.mask)
        return found.codes

    def test_lambda_max_is_the_edge(self):
        dictionary, data = self.problem()
        top = float(lambda_max(L1(), dictionary, data, data.baseline))
        assert not self.events(Fixed(1.0001 * top)).any()
        assert (self.events(Fixed(0.99 * top)) != 0).sum() >= 1
        half = Fraction(0.5)(L1(), dictionary, data, data.baseline)
        assert float(half.weight) == pytest.approx(0.5 * top)

    def test_null_score_lets_little_noise_through(self):
        """Scores of noise seldom reach their expected maximum: about one window in four at most."""
        windows = (self.events(UniversalThreshold()) != 0).flatten(1).any(dim=1)
        assert windows.float().mean() < 0.3
        liberal = (self.events(UniversalThreshold().at(0.35)) != 0).flatten(1).any(dim=1)
        assert liberal.float().mean() > windows.float().mean()


def test_templates_of_different_shapes_are_told_apart():
    """The source's square and V from binomial counts of pooled trials, at 5 ms."""
    counts = simulate(
        "binomial", ("square", "vee"), n_trials=30, n_units=12, duration=2.0, bin_size=0.002,
        n_events=4, gap=0.1, same_events=True, random_state=2,
    ).pool()  # fmt: skip
    trainer = Alternating()
    model = DCEA(2, 0.05, "binomial", trainer=trainer, random_state=0).fit(counts)
    found = recovery(model.decompose(counts))
    assert found.templates.max < 0.25
    assert found.events.hit_rate > 0.8
    assert found.events.false_alarm_rate < 0.2


def test_large_data_are_initialized_on_some_of_their_trials():
    counts = some_counts(trials=20)
    one, other = (
        quick(n_epochs=4, trainer=Alternating(most_bins=1000)).fit(counts) for _ in range(2)
    )
    assert same_bits(one.templates_, other.templates_)
    assert recovery(one.decompose(counts)).templates.max < 0.2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("overcomplete", -1.0),
        ("padding", -0.1),
        ("separation", -1),
        ("smoothness", -2.0),
        ("tol", 0.0),
    ],
)
def test_settings_out_of_range(name, value):
    with pytest.raises(ValueError, match=rf"`{name}` \(={value}\) must"):
        Alternating(**{name: value})
