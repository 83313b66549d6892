"""Several recordings put together, and told apart again."""

from __future__ import annotations

import numpy as np
import pytest
from fits import quick, same_bits, some_counts

from spikecdl import DCEA, BinnedSpikes, concatenate, of_recording


def two(layout: str = "shared", units: tuple[int, int] = (2, 3)) -> dict[str, BinnedSpikes]:
    """Recordings of 6 and 4 trials."""
    return {
        "a": some_counts(layout=layout, trials=6, units=units[0], seed=0),
        "b": some_counts(layout=layout, trials=4, units=units[1], seed=1),
    }


def test_units_and_trials_are_told_apart_by_recording():
    parts = two()
    whole = concatenate(parts)
    assert whole.shape == (10, 5, parts["a"].n_bins)
    assert whole.unit_ids == ("a/0", "a/1", "b/0", "b/1", "b/2")
    assert whole.trial_ids[:6] == tuple(f"a/{trial}" for trial in range(6))
    assert np.array_equal(whole.counts[:6, :2], parts["a"].counts)
    assert np.array_equal(whole.counts[6:, 2:], parts["b"].counts)
    assert not whole.mask[:6, 2:].any()
    assert not whole.mask[6:, :2].any()
    assert whole.mask.sum() == sum(part.mask.sum() for part in parts.values())


def test_in_the_joint_layout_units_are_the_same():
    parts = two("joint", (3, 3))
    whole = concatenate(list(parts.values()), "joint")
    assert whole.shape == (10, 3, parts["a"].n_bins)
    assert whole.unit_ids == parts["a"].unit_ids
    assert whole.trial_ids[-1] == "1/3"
    assert whole.mask.all()


def test_shorter_windows_and_pooled_trials_are_kept_as_they_are():
    short = BinnedSpikes.from_array([[2, 1]], n_pooled=3, sub_bins=2, trial_starts=[5.0])
    long = BinnedSpikes.from_array([[1, 0, 1]], trial_starts=[7.0])
    whole = concatenate([short, long])
    assert whole.mask[0, 0].tolist() == [True, True, False]
    assert whole.n_pooled[:, :, 0].tolist() == [[3, 0], [0, 1]]
    assert whole.sub_bins == 2
    assert whole.trial_starts.tolist() == [5.0, 7.0]


@pytest.mark.parametrize(
    ("change", "layout", "words"),
    [
        ({"bin_size": 0.5}, "shared", r"`bin_size` of recordings '0' \(=1\) and '1' \(=0.5\)"),
        ({"t_start": -1.0}, "shared", r"`t_start` of recordings"),
        ({"unit_ids": ["x"]}, "joint", "must have the same units in the same order"),
    ],
)
def test_recordings_that_do_not_go_together_are_refused(change, layout, words):
    one, other = (BinnedSpikes.from_array([[0, 1]], **more) for more in ({}, change))
    with pytest.raises(ValueError, match=words):
        concatenate([one, other], layout)


def test_signals_do_not_go_with_counts_nor_arrays_with_recordings():
    one = BinnedSpikes.from_array([[0, 1]])
    with pytest.raises(ValueError, match="both be counts, or signals"):
        concatenate([one, BinnedSpikes.from_array([[0.5, 1.5]])])
    with pytest.raises(TypeError, match="recording '1' must be `BinnedSpikes`, not ndarray"):
        DCEA().fit([one, np.ones((1, 2))])
    with pytest.raises(ValueError, match="at least one recording"):
        concatenate([])


@pytest.mark.parametrize("trainer", ["alternating", "marginal"])
def test_a_list_is_fitted_as_one_set_of_trials(trainer):
    parts = two()
    more = {"penalty_weight": None} if trainer == "marginal" else {}
    model = quick(trainer=trainer, **more).fit(list(parts.values()))
    again = quick(trainer=trainer, **more).fit(concatenate(list(parts.values())))
    assert same_bits(model.templates_, again.templates_)
    assert model.transform(list(parts.values())).shape[:2] == (10, 5)
    assert model.predict(list(parts.values())).shape == (10, 5, parts["a"].n_bins)


def test_units_are_not_expected_to_have_events_in_other_recordings():
    """Windows in which nothing was observed say nothing of the rate of events."""
    parts = two()
    model = quick(trainer="marginal", penalty_weight=None).fit(parts)
    alone = quick(trainer="marginal", penalty_weight=None).fit(parts["a"])
    n_observed = 6 * 2 + 4 * 3
    per_window = model.history_[-1]["n_events"] / n_observed
    assert per_window == pytest.approx(alone.history_[-1]["n_events"] / 12, rel=0.2)
    assert np.isfinite(model.penalty_weight_ or 0.0)


def test_the_penalty_weight_is_that_of_windows_that_were_observed():
    parts = two()
    model = quick(penalty_weight=None, n_epochs=8).fit(parts)
    assert model.penalty_weight_ > 0.1


def test_a_model_of_several_recordings_takes_each_of_them():
    parts = two()
    settings = {"trainer": "marginal", "penalty_weight": None, "history": 3.0}
    model = quick(**settings).fit(parts)
    whole = model.decompose(parts)
    with pytest.raises(ValueError, match="unit 0 was not in the fit"):
        model.transform(parts["b"])
    one = of_recording(model, "b", parts["b"])
    found = one.decompose(parts["b"])
    assert found.counts.unit_ids == (0, 1, 2)
    assert np.allclose(found.codes, whole.codes[6:, 2:], atol=1e-3)
    assert np.allclose(found.history_filter, whole.history_filter[2:])
    assert np.allclose(one.evidence(parts["b"]), model.evidence(parts)[6:], atol=1e-6)
    with pytest.raises(ValueError, match="unit 0 of recording 'c' was not in the fit"):
        of_recording(model, "c", parts["b"])


def test_a_joint_model_of_several_recordings_is_that_of_each():
    parts = two("joint", (3, 3))
    model = quick(layout="joint").fit(parts)
    assert of_recording(model, "a", parts["a"]) is model
    assert model.transform(parts["a"]).shape[0] == 6
