"""Codes, rates and baselines of counts that were not wholly observed."""

from __future__ import annotations

import numpy as np
import pytest
from fits import LENGTH, TRAINERS, quick, same_bits, some_counts
from hypothesis import given
from hypothesis import strategies as st

from spikecdl import BinnedSpikes, Unrolled
from spikecdl.model.families import FAMILIES

pytestmark = pytest.mark.filterwarnings("ignore::spikecdl.NotConvergedWarning")
each_trainer = pytest.mark.parametrize("trainer", sorted(TRAINERS))


class TestNotObserved:
    """Bins outside the mask are missing, not silent."""

    def masked(self, **arguments) -> BinnedSpikes:
        counts = some_counts(**arguments)
        mask = np.ones(counts.shape, bool)
        mask[0, :, 60:] = False
        mask[1, 1, :45] = False
        mask[2, 0, 10:20] = False
        return BinnedSpikes.from_array(counts.counts, mask=mask, sub_bins=counts.sub_bins)

    @each_trainer
    def test_baseline_is_that_of_the_observed_bins(self, trainer):
        noise = some_counts(n_events=0, bins=200)
        mask = np.ones(noise.shape, bool)
        mask[:, 0, 100:] = False
        counts = BinnedSpikes.from_array(noise.counts, mask=mask)
        model = quick(trainer=trainer, penalty_weight=None).fit(counts)
        seen = noise.counts[:, 0, :100].mean()
        assert model.baseline_[:, 0].mean() == pytest.approx(seen, rel=0.2)

    @pytest.mark.parametrize("trainer", [TRAINERS["alternating"], Unrolled(n_unrolled=300)])
    def test_a_window_cut_short_is_a_window_not_observed_to_its_end(self, trainer):
        """Codes before the cut are those of the window that ends there, to numerical accuracy."""
        model = quick(baseline=[1.0]).fit(some_counts(units=1)).set_params(trainer=trainer)
        whole = some_counts(units=1, trials=6, n_events=1, bins=60)
        cut = 45
        mask = np.ones(whole.shape, bool)
        mask[..., cut:] = False
        one = model.transform(BinnedSpikes.from_array(whole.counts, mask=mask))
        other = model.transform(whole.counts[..., :cut])
        onset = whole.truth.events["time"].to_numpy()
        clear = (onset < cut - 2 * LENGTH) | (onset > cut)
        assert clear.sum() >= 3
        assert other[clear].any()
        few = cut - 2 * LENGTH
        np.testing.assert_allclose(one[clear][..., :few], other[clear][..., :few], atol=0.02)

    @pytest.mark.parametrize(
        ("family", "trainer"),
        [
            *((family, "alternating") for family in sorted(FAMILIES)),
            ("binomial", "implicit"),
            ("poisson", "unrolled"),
        ],
    )
    def test_windows_that_were_never_observed(self, family, trainer):
        counts = some_counts(family)
        mask = np.ones(counts.shape, bool)
        mask[5], mask[3, 1] = False, False
        part = BinnedSpikes.from_array(counts.counts, mask=mask, sub_bins=counts.sub_bins)
        model = quick(family, trainer, penalty_weight=None).fit(part)
        codes = model.transform(part)
        assert np.isfinite(codes).all()
        assert not codes[5].any()
        assert not codes[3, 1].any()
        assert np.isfinite(model.score(part))
        parts = model.decompose(part)
        assert np.array_equal(np.isnan(parts.rate), ~mask)

    def test_group_of_a_unit_that_was_not_observed(self):
        part = self.masked()
        codes = quick(penalty="group_l1").fit(part).transform(part)
        assert np.isfinite(codes).all()
        assert codes.any()

    def test_joint_layout(self):
        part = self.masked(layout="joint")
        model = quick(layout="joint", penalty_weight=None).fit(part)
        assert model.score(part) > 0.2

    two_trials = some_counts(trials=2, bins=40)

    @given(data=st.data())
    def test_what_stands_behind_a_mask_does_not_matter(self, data):
        counts = self.two_trials
        rows = data.draw(st.lists(st.booleans(), min_size=40, max_size=40))
        mask = np.broadcast_to(rows, counts.shape)
        behind = data.draw(st.sampled_from([np.nan, np.inf, -3.0, 99.0]))
        one, other = (
            BinnedSpikes.from_array(np.where(mask, counts.counts, value), mask=mask)
            for value in (0.0, behind)
        )
        assert same_bits(one.counts, other.counts)
        assert not one.counts[~mask].any()
