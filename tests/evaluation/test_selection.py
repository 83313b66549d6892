"""Selection of templates: by paired held-out evidence, the simplest within ten nats."""

from __future__ import annotations

import numpy as np
import pytest
from fits import quick, some_counts
from scipy import stats
from sklearn.base import BaseEstimator
from tables import refused

from spikecdl import BinnedSpikes, select
from spikecdl.evaluation.crossvalidation import divide
from spikecdl.evaluation.null_model import NullModel
from spikecdl.evaluation.selection import Candidate, Selection

NONE, ONE, TWO, LONG = (Candidate(*each) for each in ((0, None), (1, 12.0), (2, 12.0), (1, 20.0)))


def selection(*evidence, candidates=(NONE, ONE, LONG, TWO)) -> Selection:
    """Return a selection with this evidence of each candidate, and two spikes a trial."""
    return Selection(candidates, np.array(evidence, float), np.full(4, 2), "trials")


class Pretender(BaseEstimator):
    """Its evidence is that of a constant rate, and better by a bonus for two templates."""

    fits = 0
    history = drift = None

    def __init__(self, n_templates=1, template_length=12, family="poisson", layout="shared"):
        self.n_templates = n_templates
        self.template_length = template_length
        self.family = family
        self.layout = layout

    def fit(self, counts):
        Pretender.fits += 1
        self.null_ = NullModel(self.family, self.layout).fit(counts)
        return self

    def evidence(self, counts, per_unit=False):
        bonus = {1: -5.0, 2: 10.0, 3: 10.0}[self.n_templates] + 0.1 * self.template_length
        return self.null_.evidence(counts, per_unit) + bonus


class TestNullModel:
    """Log likelihoods at a constant rate, by an independent computation."""

    @pytest.mark.parametrize("pooled", [1, 4])
    def test_evidence_is_the_log_likelihood_of_other_trials(self, pooled):
        rng = np.random.default_rng(0)
        y = rng.poisson(0.4 * pooled, size=(3, 2, 50))
        mask = rng.random(y.shape) < 0.8
        seen = BinnedSpikes.from_array(y, mask=mask, n_pooled=pooled)
        other = BinnedSpikes.from_array(rng.poisson(0.4, size=(5, 2, 50)))
        model = NullModel("poisson").fit(seen)
        rate = (seen.counts.sum((0, 2)) + 0.5) / (mask.sum((0, 2)) + 1) / pooled
        expected = stats.poisson.logpmf(other.counts, rate[:, None]).sum(2)
        np.testing.assert_allclose(model.evidence(other, per_unit=True), expected, rtol=1e-6)
        np.testing.assert_allclose(model.evidence(other), expected.sum(1), rtol=1e-6)

    def test_binomial_counts_of_pooled_trials(self):
        y = np.random.default_rng(0).binomial(1, 0.3, size=(12, 2, 50))
        counts = BinnedSpikes.from_array(y)
        seen, unseen = counts[:8].pool(), counts[8:].pool()
        p = (seen.counts.sum((0, 2)) + 0.5) / (8 * 50 + 1)
        expected = stats.binom.logpmf(unseen.counts, 4, p[:, None]).sum()
        found = NullModel("binomial").fit(seen).evidence(unseen)
        np.testing.assert_allclose(found, [expected], rtol=1e-6)
        joint = NullModel("binomial", "joint").fit(seen).evidence(unseen, per_unit=True)
        np.testing.assert_allclose(joint, [[expected]], rtol=1e-6)

    def test_a_rate_that_depends_on_earlier_spikes(self):
        rng = np.random.default_rng(0)
        y = np.zeros((20, 2, 200), int)
        for t in range(200):  # no spike in the two bins after one
            silent = y[..., max(t - 2, 0) : t].any(-1)
            y[..., t] = (rng.random((20, 2)) < np.array([0.2, 0.4])) & ~silent
        counts = BinnedSpikes.from_array(y)
        null, past = NullModel("binomial"), NullModel("binomial", history=3.0)
        gain = past.fit(counts[:10]).evidence(counts[10:])
        gain = gain - null.fit(counts[:10]).evidence(counts[10:])
        assert (gain > 0).all()
        known = np.pad(y, [(0, 0), (0, 0), (2, 0)])
        p = np.array([[[0.2], [0.4]]]) * ~(known[..., :-2] | known[..., 1:-1]).astype(bool)
        best = stats.bernoulli.logpmf(y, p).sum((1, 2))[10:] - null.evidence(counts[10:])
        assert gain.sum() == pytest.approx(best.sum(), rel=0.1)

    def test_a_rate_that_drifts(self):
        time = np.arange(40)[:, None, None] * 100 + np.arange(100)
        y = np.random.default_rng(0).poisson(0.5 * np.exp(np.sin(2 * np.pi * time / 2000)))
        folds = divide(BinnedSpikes.from_array(y), "poisson", 3).folds
        for fold in folds:
            found = NullModel("poisson", drift=400.0).fit(fold.seen).evidence(fold.unseen)
            assert (
                found.sum() > NullModel("poisson").fit(fold.seen).evidence(fold.unseen).sum() + 100
            )


class TestRecommended:
    """The rule of ten nats, or 3 % of what the best gains."""

    def test_the_simplest_within_ten_nats(self):
        found = selection([0, 0, 0, 0], [9, 11, 10, 10], [10, 10, 11, 10], [11, 9, 8, 12])
        assert found.recommended == ONE
        table = found.table()
        bits = 1 / np.log(2)
        np.testing.assert_allclose(table["evidence"], bits * np.array([0, 5, 5.125, 5]))
        difference = bits * np.array([-5.125, -0.125, 0, -0.125])
        np.testing.assert_allclose(table["difference"], difference)
        expected = bits * np.std([-1, 1, -1, 0], ddof=1) / 2 / 2
        assert table["difference_error"][1] == pytest.approx(expected)
        assert table["recommended"].sum() == 1

    def test_a_clear_difference_counts_however_much_trials_vary(self):
        trials = np.array([-100, 0, 50, 200])
        assert (
            selection(trials, trials + [9, 10, 11, 10], candidates=(NONE, ONE)).recommended == ONE
        )

    @pytest.mark.parametrize(("gain", "best"), [(2.4, NONE), (2.6, ONE)])
    @pytest.mark.parametrize("spread", [0, 30])
    def test_a_gain_is_one_from_ten_nats_on_however_trials_vary(self, gain, best, spread):
        gains = gain + spread * np.array([1, -1, 0.5, -0.5])
        assert selection([0, 0, 0, 0], gains, candidates=(NONE, ONE)).recommended == best

    @pytest.mark.parametrize(("gain", "best"), [(7, 0), (8, 1)])
    def test_what_is_small_beside_the_gain_of_all_templates_is_none(self, gain, best):
        one, two = np.full(4, 240.0), np.full(4, 240.0 + gain)
        found = selection([0, 0, 0, 0], one, two, candidates=(NONE, ONE, TWO))
        assert found.recommended == (ONE, TWO)[best]

    def test_nothing_is_recommended_where_nothing_is_better(self):
        assert selection([0, 0, 0, 0], [1, -1, 1, -1], candidates=(NONE, ONE)).recommended == NONE


class TestSelect:
    """Candidates are fitted to what is seen, and scored on the rest."""

    def test_two_templates_are_found(self):
        counts, said = some_counts(trials=12), []
        found = select(
            *(Pretender(), counts, [3, 0, 1, 2], [20, 12]),
            on_fit=lambda *progress: said.append(progress),
        )
        assert [str(each) for each in found.candidates[:3]] == [
            *("no template", "1 template of 12", "1 template of 20"),
        ]
        assert found.recommended == Candidate(2, 20.0)
        assert len(said) == said[-1][1] == said[-1][2] == 7 * 3
        assert found.evidence.shape == (7, 12)
        assert found.n_spikes.sum() == counts.counts.sum()

    @pytest.mark.parametrize(("layout", "rows"), [("shared", 6), ("joint", 3)])
    def test_units_count_one_by_one_where_there_are_few_trials(self, layout, rows):
        counts = some_counts("binomial", trials=12)
        model = Pretender(family="binomial", layout=layout)
        found = select(model, counts.pool(), [0, 2], single_trials=counts)
        assert found.evidence.shape == (2, rows)
        assert found.how == "pooled trials"
        assert found.recommended.n_templates == 2

    def test_finished_fits_are_not_fitted_again(self, tmp_path):
        counts = some_counts(trials=12)
        Pretender.fits = 0
        first = select(Pretender(), counts, [0, 1], folder=tmp_path)
        assert Pretender.fits == 3
        again = select(Pretender(), counts, [0, 1, 2], folder=tmp_path)
        assert Pretender.fits == 6
        np.testing.assert_array_equal(again.evidence[:2], first.evidence)
        select(Pretender(), some_counts(trials=12, seed=1), [1], folder=tmp_path)
        assert Pretender.fits == 9

    def test_what_cannot_be_fitted_is_refused_before_any_fit(self):
        for arguments, message in [
            (([-1],), "`n_templates` .=-1. must be at least 0"),
            (([],), "must not be empty"),
            (([1], [0.0]), "`template_length` .=0.0. must be positive"),
            (([1], [500]), "longer than the window"),
        ]:
            with refused(ValueError, message, arguments):
                select(Pretender(), some_counts(), *arguments)

    @pytest.mark.slow
    def test_processes_give_the_same_numbers(self):
        counts, model = some_counts(trials=6), quick(penalty_weight=None)
        one, two = (select(model, counts, [0, 1], n_jobs=jobs) for jobs in (1, 2))
        np.testing.assert_allclose(one.evidence, two.evidence, rtol=1e-6)
        assert one.recommended.n_templates == 1
