"""Containers: what they refuse, what they fill in, and selecting, pooling and shifting them."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from recordings import make_counts, make_decomposition, make_recording, make_truth
from sklearn.model_selection import KFold, train_test_split
from tables import refused

from spikecdl.data import BinnedSpikes, SpikeTrains, Truth
from spikecdl.data.results import response_onsets

# SpikeTrains


def test_recordings_that_cannot_be_are_refused():
    for arguments, error, message in [
        ({"times": []}, ValueError, "`times` must hold at least one unit"),
        ({"times": [0.1, 0.2]}, TypeError, "wrap a single unit in a list"),
        ({"times": "spikes"}, TypeError, "one 1-D array per unit"),
        ({"times": 3.0}, TypeError, "one 1-D array per unit"),
        ({"times": [[[0.1]]]}, TypeError, "one 1-D array per unit"),
        ({"times": [["a", "b"]]}, TypeError, "unit 0 must be numbers, in seconds"),
        ({"times": {"u": [0.2, 0.1]}}, ValueError, "unit 'u' are not sorted; use np.sort"),
        ({"times": {"u": [0.1, np.nan]}}, ValueError, "unit 'u' must be finite"),
        ({"times": {"u": [0.1, np.inf]}}, ValueError, "unit 'u' must be finite"),
        ({"times": {"u": [0.1, 0.1, 0.2]}}, ValueError, "hold 0.1 s twice (1 in all)"),
        ({"times": [[0.1], [0.2]], "unit_ids": [1]}, ValueError, "1 entries for 2 units"),
        ({"times": [[0.1], [0.2]], "unit_ids": [1, 1]}, ValueError, "2 distinct ids"),
        ({"times": [[]]}, ValueError, "`observed` must be given"),
        ({"times": [[0.1]], "observed": (1.0, 0.0)}, ValueError, "stop after they start"),
        ({"times": [[0.1]], "observed": (0.0, np.inf)}, ValueError, "must be finite intervals"),
        ({"times": [[0.1]], "observed": [0.0, 1.0, 2.0]}, ValueError, "shape (interval, 2)"),
        (
            {"times": [[0.1]], "observed": [[0.0, 2.0], [1.0, 3.0]]},
            ValueError,
            "[0.0, 2.0] and [1.0, 3.0] s overlap",
        ),
        ({"times": [[0.1]], "observed": [[[0, 1]], [[0, 1]]]}, ValueError, "2 entries for 1 units"),
        ({"times": [[0.1]], "trials": [[1.0, 0.5]]}, ValueError, "trial 0 must stop after it"),
        ({"times": [[0.1]], "trials": [[1.0, 1.0]]}, ValueError, "trial 0 must stop after it"),
        ({"times": [[0.1]], "trials": [0.0, 1.0]}, ValueError, "`trials` (2,) must be a table"),
        ({"times": [[0.1]], "trials": {"start_time": [0.0]}}, ValueError, "lacks ['stop_time']"),
        (
            {"times": [[0.1]], "trials": pd.DataFrame({"start_time": [], "stop_time": []})},
            ValueError,
            "`trials` must hold at least one trial, or be None",
        ),
        (
            {
                "times": [[0.1]],
                "trials": pd.DataFrame({"start_time": [0, 1], "stop_time": [1, 2]}, index=[5, 5]),
            },
            ValueError,
            "distinct ids",
        ),
        (
            {"times": [[0.1]], "intervals": {"cues": {"time": [0.1]}}},
            ValueError,
            "table 'cues' lacks ['start_time']; it has ['time']",
        ),
        (
            {"times": [[0.1]], "intervals": {"trials": [[0.0, 1.0]]}},
            ValueError,
            "give them as `trials`",
        ),
        (
            {"times": [[0.1]], "units": {"area": ["a", "b"]}},
            ValueError,
            "`units` has 2 entries for 1 units",
        ),
        ({"times": [[0.1]], "clock_rate": 0.0}, ValueError, "`clock_rate` (=0.0) must be positive"),
        ({"times": [[0.1, 0.1]], "duplicates": "drop"}, ValueError, "must be one of: error, keep"),
        ({"times": [[0.1]], "truth": make_truth(2, 1)}, ValueError, "`truth` is of (2, 1) trials"),
    ]:
        with refused(error, re.escape(message), arguments):
            SpikeTrains.from_arrays(**arguments)


def test_milliseconds_are_not_taken_for_seconds():
    for arguments in [
        # 100 s at 2 Hz in ms, beside trials in seconds
        {"times": [np.arange(0, 100_000, 500.0)], "trials": [[0.0, 100.0]]},
        # an hour at 5 Hz in ms, with nothing to compare with
        {"times": [np.arange(0, 3_600_000, 200.0)]},
        # ten minutes at 40 Hz in microseconds
        {"times": [np.arange(0, 6e8, 25_000.0)]},
    ]:
        with refused(ValueError, "look like milliseconds: the last spike is at", arguments):
            SpikeTrains.from_arrays(**arguments)
        seconds = SpikeTrains.from_arrays([t / 1000 for t in arguments["times"]], observed=(0, 1e6))
        assert seconds.t_stop == 1e6


def test_the_observed_time_is_filled_in():
    for arguments, span in [
        ({"times": [[0.5, 4.0]]}, (0.0, 4.0)),
        ({"times": [[-1.0, 4.0]]}, (-1.0, 4.0)),
        ({"times": [[1000.0, 1010.0]]}, (1000.0, 1010.0)),
        ({"times": [[1.0]], "trials": [[0.0, 2.0], [2.0, 5.0]]}, (0.0, 5.0)),
        ({"times": [[1.0]], "intervals": {"cues": {"start_time": [0.5, 7.0]}}}, (0.0, 7.0)),
        ({"times": [[1.0]], "observed": (0.25, 3.0)}, (0.25, 3.0)),
        ({"times": [[1.0], []], "observed": [[[0.0, 1.0], [2.0, 3.0]], []]}, (0.0, 3.0)),
        ({"times": [[1.0], [4.0]], "observed": [None, [[3.0, 5.0]]]}, (0.0, 5.0)),
    ]:
        spikes = SpikeTrains.from_arrays(**arguments)
        assert (spikes.t_start, spikes.t_stop) == span


def test_rates_are_over_observed_time():
    spikes = SpikeTrains.from_arrays(
        [[0.5, 1.5, 2.5, 3.0], [0.5], []], observed=[[[0, 1], [2, 3]], [[0, 4]], []]
    )
    np.testing.assert_array_equal(spikes.rates, [1.5, 0.25, np.nan])


def test_times_are_sorted_and_kept_on_request_only():
    spikes = SpikeTrains.from_arrays([[0.2, 0.1, 0.2]], sort=True, duplicates="keep")
    assert spikes.times[0].tolist() == [0.1, 0.2, 0.2]


def test_quantities_are_not_stripped_of_their_unit():
    quantities = pytest.importorskip("quantities")
    with pytest.raises(TypeError, match="use read_neo"):
        SpikeTrains.from_arrays([[100.0, 200.0] * quantities.ms])


def test_the_callers_arrays_are_neither_shared_nor_locked():
    times, trials = np.array([0.1, 0.2]), pd.DataFrame({"start_time": [0.0], "stop_time": [1.0]})
    spikes = SpikeTrains.from_arrays([times], trials=trials)
    times[0], trials.loc[0, "stop_time"] = 0.15, 9.0
    assert spikes.times[0][0] == 0.1
    assert spikes.t_stop == 1.0
    with pytest.raises(ValueError, match="read-only"):
        spikes.times[0][0] = 0.3


def test_recordings_describe_themselves():
    assert repr(make_recording()) == "SpikeTrains(3 units, 65 spikes, 0 to 10 s, 3 trials)"


# BinnedSpikes


def test_counts_that_cannot_be_are_refused():
    for arguments, error, message in [
        ({"counts": []}, ValueError, "must have shape (trial, unit, bin)"),
        ({"counts": [1, 2]}, ValueError, "must have shape (trial, unit, bin)"),
        ({"counts": np.zeros((0, 3))}, ValueError, "not be empty"),
        ({"counts": np.zeros((1, 1, 1, 1))}, ValueError, "must have shape"),
        ({"counts": [["a"]]}, TypeError, "must hold real numbers"),
        ({"counts": [[1j]]}, TypeError, "must hold real numbers"),
        ({"counts": [[0, -1]]}, ValueError, "(=-1 at trial 0, unit 0, bin 1)"),
        ({"counts": [[0, np.nan]]}, ValueError, "(=NaN at trial 0, unit 0, bin 1)"),
        ({"counts": [[0, np.inf]]}, ValueError, "give a `mask`"),
        ({"counts": [[0, 1]], "bin_size": 0}, ValueError, "`bin_size` (=0) must be positive"),
        ({"counts": [[0, 1]], "mask": [[True]]}, ValueError, "must have shape (1, 2), as `counts`"),
        ({"counts": [[0, 1]], "sub_bins": 0}, ValueError, "`sub_bins` (=0) must be at least 1"),
        ({"counts": [[0, 1]], "sub_bins": 1.5}, TypeError, "`sub_bins` (=1.5) must be an integer"),
        ({"counts": [[0, 1]], "n_pooled": 0}, ValueError, "`n_pooled` must be positive"),
        ({"counts": [[0, 1]], "n_pooled": 1.5}, TypeError, "must be integers"),
        ({"counts": [[0, 1]], "unit_ids": ["a", "b"]}, ValueError, "must be 1 distinct ids"),
        ({"counts": [[0], [1]], "trial_ids": [1, 1]}, ValueError, "must be 2 distinct ids"),
        (
            {"counts": [[0, 1]], "trial_starts": [0, 1]},
            ValueError,
            "`trial_starts` (2,) must have shape (1,)",
        ),
    ]:
        with refused(error, re.escape(message), arguments):
            BinnedSpikes.from_array(**arguments)


def test_counts_under_the_mask_may_be_anything():
    binned = BinnedSpikes.from_array([[np.nan, 2.0, -5.0]], mask=[[False, True, False]])
    assert binned.counts.ravel().tolist() == [0, 2, 0]
    assert binned.n_pooled.ravel().tolist() == [0, 1, 0]
    assert binned.is_counts
    np.testing.assert_array_equal(binned.rate().ravel(), [np.nan, 2.0, np.nan])


def test_whole_numbers_that_are_not_negative_are_counts():
    for values, is_counts in [
        ([[0.0, 3.0]], True),
        ([[0.5, 3.0]], False),
        ([[-1.0, 3.0]], False),
        ([[True, False]], True),
        (np.array([[0, 3]], np.uint8), True),
    ]:
        binned = BinnedSpikes.from_array(values)
        assert binned.is_counts is is_counts
        np.testing.assert_array_equal(binned.counts[:, 0], np.asarray(values, dtype=float))


@pytest.mark.parametrize("n_pooled", [3, [3, 4], [[3, 3, 3], [4, 4, 4]]])
def test_pooled_trials_are_given_once_per_trial_or_per_bin(n_pooled):
    binned = BinnedSpikes.from_array([[0, 1, 2], [1, 0, 0]], n_pooled=n_pooled)
    assert binned.n_pooled[0].max() == binned.n_pooled[0].min() == 3
    assert binned.n_pooled[1].max() == (3 if n_pooled == 3 else 4)


def test_selecting_trials_and_units():
    counts = make_counts(truth="shared")
    some = counts.select(trials=[2, 0], units=[1])
    assert (some.trial_ids, some.unit_ids) == ((9, 4), ("u9",))
    assert some.trial_starts.tolist() == [4.25, 0.5]
    for name in ("counts", "mask", "n_pooled"):
        np.testing.assert_array_equal(getattr(some, name), getattr(counts, name)[[2, 0]][:, [1]])
    assert some.truth.baseline.tolist() == [[13.0], [9.0]]
    assert (some.bin_size, some.t_start, some.sub_bins) == (0.01, -0.03, 10)


def test_indexing_takes_trials():
    for key in [1, -2, slice(1, 2), [1], np.array([1]), [False, True, False], (1, ...)]:
        assert make_counts()[key].trial_ids == (5,)


def test_indexing_units_is_refused():
    with pytest.raises(IndexError, match="see `select` for units"):
        make_counts()[0, 1]


def test_selections_that_cannot_be_are_refused():
    for choice, message in [
        ({"trials": 3}, "`trials` (=3) must be positions below 3"),
        ({"units": [0, 2]}, "`units` (=[0, 2]) must be positions below 2"),
        ({"trials": slice(3, None)}, "leaves none of 3"),
        ({"trials": [True, False]}, "must be positions below 3"),
        ({"trials": [0, 0]}, "distinct ids"),
        ({"bins": [1, 3]}, "`bins` (=[1, 3]) must be neighbours"),
        ({"bins": slice(10, None)}, "`bins` (=slice(10, None, None)) leaves none of 10"),
    ]:
        with refused(ValueError, re.escape(message), choice):
            make_counts().select(**choice)


@pytest.mark.parametrize("bins", [slice(3, 7), [3, 4, 5, 6], np.arange(10) // 4 == 1])
def test_selecting_bins_keeps_their_times(bins):
    counts = replace(make_counts(truth="shared"), onsets=np.arange(30).reshape(3, 10) % 4 == 0)
    some = counts.select(trials=[0, 2], bins=bins)
    first = np.arange(10)[bins][0]
    chosen = slice(first, first + 4)
    for name in ("counts", "mask", "n_pooled"):
        np.testing.assert_array_equal(getattr(some, name), getattr(counts, name)[::2, :, chosen])
    assert np.shares_memory(counts.select(bins=bins).counts, counts.counts)
    np.testing.assert_array_equal(some.onsets, counts.onsets[::2, chosen])
    np.testing.assert_allclose(some.times, counts.times[chosen])
    np.testing.assert_allclose(some.trial_starts, [0.5 + 0.01 * first, 4.25 + 0.01 * first])
    events = counts.truth.events
    kept = events[(events["time"] > 0.01 * first - 0.001) & (events["trial"] != 1)]
    np.testing.assert_allclose(some.truth.events["time"], kept["time"] - 0.01 * first, atol=1e-9)


def test_bins_of_a_recording_are_those_of_its_shorter_window():
    spikes = make_recording()
    whole = spikes.bin(0.1, align="cue", window=(-0.3, 0.9), trials=[10, 11])
    part = spikes.bin(0.1, align="cue", window=(0.1, 0.5), trials=[10, 11])
    some = whole.select(bins=slice(4, 8))
    np.testing.assert_array_equal(some.counts, part.counts)
    np.testing.assert_allclose(some.trial_starts, part.trial_starts)
    assert (some.t_start, some.windows) == (part.t_start, part.windows)


def test_iterating_yields_trials():
    counts = make_counts()
    assert [trial.trial_ids for trial in counts] == [(4,), (5,), (9,)]
    assert len(counts) == 3


def test_scikit_learn_splits_trials():
    counts = make_counts()
    train, test = train_test_split(counts, test_size=1, random_state=0)
    assert set(train.trial_ids) | set(test.trial_ids) == {4, 5, 9}
    assert len(list(KFold(3).split(counts))) == 3


def test_pooling_sums_trials_and_says_how_many_were_observed():
    counts = make_counts()
    pooled = counts.pool()
    np.testing.assert_array_equal(pooled.counts[0], counts.counts.sum(axis=0))
    np.testing.assert_array_equal(pooled.n_pooled[0], counts.mask.sum(axis=0))
    np.testing.assert_array_equal(pooled.n_trials, pooled.n_pooled * 10)
    assert pooled.trial_ids == ("pooled",)
    assert np.isnan(pooled.trial_starts).all()
    with np.errstate(invalid="ignore"):
        mean = counts.counts.sum(axis=0) / counts.mask.sum(axis=0) / 0.01
    np.testing.assert_allclose(pooled.rate()[0], mean)


def test_pooling_pooled_trials_counts_recorded_trials():
    twice = BinnedSpikes.from_array([[1, 2], [3, 4]], n_pooled=[10, 20]).pool()
    assert twice.n_pooled.ravel().tolist() == [30, 30]
    assert twice.counts.ravel().tolist() == [4, 6]


def test_the_mean_of_a_pooled_signal_is_its_rate():
    pooled = BinnedSpikes.from_array([[0.5, -1.0], [1.5, 2.0]], 0.1).pool()
    np.testing.assert_allclose(pooled.rate().ravel(), [1.0, 0.5])


def test_counts_are_read_only():
    with pytest.raises(ValueError, match="read-only"):
        make_counts().counts[0, 0, 0] = 1


# Truth


def test_truths_that_cannot_be_are_refused():
    for changes, error, message in [
        ({"templates": np.ones((2, 4))}, ValueError, "must have shape (template, channel, bin)"),
        ({"templates": np.ones((2, 1, 4))}, ValueError, "unit l2 norm"),
        ({"templates": np.full((2, 1, 4), np.nan)}, ValueError, "unit l2 norm"),
        ({"baseline": np.ones(3)}, ValueError, "must have shape (trial, unit)"),
        ({"bin_size": 0.0}, ValueError, "`bin_size` (=0.0) must be positive"),
        ({"layout": "both"}, ValueError, "must be one of: joint, shared"),
        ({"events": pd.DataFrame({"trial": [0]})}, ValueError, "lacks ['unit'"),
        ({"settings": {"generator": object()}}, TypeError, "writable as JSON"),
    ]:
        truth = make_truth(3, 2)
        names = ("templates", "events", "baseline", "bin_size", "family", "layout", "settings")
        with refused(error, re.escape(message), changes):
            Truth(**{**{name: getattr(truth, name) for name in names}, **changes})


def test_events_must_be_of_trials_units_and_templates_that_exist():
    for column, value in [("trial", 3), ("unit", 2), ("unit", -1), ("template", 2)]:
        truth = make_truth(3, 2)
        events = truth.events.assign(**{column: value})
        with refused(ValueError, f"column '{column}' must hold positions", column):
            Truth(truth.templates, events, truth.baseline, 0.01, "poisson")


def test_select_renumbers_trials_and_units():
    truth = make_truth(3, 2)  # events: (trial 0, unit 1), (0, 0), (2, 1)
    some = truth.select(np.array([2, 0]), np.array([1]))
    assert some.events[["trial", "unit", "time"]].to_numpy().tolist() == [
        [1, 0, 0.02],
        [0, 0, 0.02],
    ]
    assert some.events["amplitude"].tolist() == [10.0, 9.0]
    assert some.baseline.tolist() == [[13.0], [9.0]]


def test_select_may_leave_no_event():
    assert len(make_truth(3, 2).select(np.array([1]), np.array([0, 1])).events) == 0


def test_select_cuts_joint_templates_to_the_units():
    truth = make_truth(3, 2, layout="joint")
    some = truth.select(np.arange(3), np.array([1]))
    np.testing.assert_allclose(np.linalg.norm(some.templates, axis=(1, 2)), 1.0)
    # what an event adds to a unit's linear predictor has not changed
    for (_, before), (_, after) in zip(
        truth.events.iterrows(), some.events.iterrows(), strict=True
    ):
        template = int(before.template)
        np.testing.assert_allclose(
            after.amplitude * some.templates[template, 0],
            before.amplitude * truth.templates[template, 1],
        )


def test_select_is_none_where_a_joint_template_has_no_part():
    truth = make_truth(3, 2, layout="joint")
    templates = truth.templates.copy()
    templates[0, 1] = 0
    templates /= np.linalg.norm(templates, axis=(1, 2), keepdims=True)
    silent = Truth(templates, truth.events, truth.baseline, 0.01, "poisson", "joint")
    assert silent.select(np.arange(3), np.array([1])) is None
    assert silent.select(np.arange(3), np.array([0])) is not None


def test_shift_moves_events_into_each_trials_window():
    truth = make_truth(3, 2)  # times 0.02 and 0.05 in trial 0, 0.02 in trial 2
    moved = truth.shift(np.array([0.02, 0.0, -0.1]), np.array([0.03, 1.0, 0.2]))
    assert moved.events["trial"].tolist() == [0, 2]  # the onset at the window's end is outside
    np.testing.assert_allclose(moved.events["time"], [0.0, 0.12], atol=1e-12)
    assert len(truth.shift(np.full(3, 0.03), np.ones(3)).events) == 1


def test_pool_averages_over_trials():
    truth = make_truth(4, 2)
    events = pd.DataFrame(
        {
            "trial": [0, 1, 3, 2],
            "unit": [0, 0, 0, 1],
            "template": [0, 0, 0, 0],
            "time": [0.02, 0.02, 0.02, 0.02],
            "amplitude": [10.0, 6.0, 4.0, 8.0],
        }
    )
    pooled = Truth(truth.templates, events, truth.baseline, 0.01, "binomial").pool()
    assert pooled.events.to_numpy().tolist() == [[0, 0, 0, 0.02, 5.0], [0, 1, 0, 0.02, 2.0]]
    np.testing.assert_array_equal(pooled.baseline, truth.baseline.mean(axis=0, keepdims=True))


def test_binning_a_simulated_recording_takes_its_truth_along():
    truth = make_truth(3, 2)
    trials = np.array([[0.0, 1.0], [1.0, 2.0], [2.0, 3.0]])
    spikes = SpikeTrains.from_arrays([[0.1], [1.1]], trials=trials, truth=truth)
    whole = spikes.bin(0.01)
    assert whole.truth.events.equals(truth.events)
    window = spikes.bin(0.01, align="start_time", window=(-0.1, 0.9), trials=[2], units=[1])
    np.testing.assert_allclose(window.truth.events.to_numpy(), [[0, 0, 1, 0.12, 9.0]])
    assert window.truth.baseline.tolist() == [[13.0]]
    assert whole.pool().truth.baseline.shape == (1, 2)


# Decomposition


@pytest.mark.parametrize("layout", ["shared", "joint"])
def test_events_are_the_codes_that_are_not_zero(layout):
    counts = make_counts()
    parts = make_decomposition(counts, layout)
    events = parts.events()
    joint = layout == "joint"
    expected = [
        [4, *([] if joint else ["u7"]), 0, -0.02, 10.0],
        [9, *([] if joint else ["u9"]), 1, 0.0, 7.5],
    ]
    largest = np.square(parts.templates).sum(1).argmax(1)
    bins = np.stack([response_onsets(parts.templates), largest], axis=1)
    expected = [[*row, *(row[-2] + 0.01 * bins[row[-3]])] for row in expected]
    assert events.to_numpy(dtype=object).tolist() == expected


def test_events_of_no_codes_is_an_empty_table():
    counts = make_counts()
    parts = make_decomposition(counts)
    codes = np.zeros_like(parts.codes)
    events = replace(parts, codes=codes).events()
    assert len(events) == 0
    names = ["trial", "unit", "template", "time", "amplitude", "response_time", "peak_time"]
    assert list(events.columns) == names


def test_parts_that_do_not_fit_are_refused():
    parts = make_decomposition(make_counts())
    names = ["codes", "rate", "baseline", "contributions", "templates"]
    for name in [*names, "deviance_explained_per_unit"]:
        array = getattr(parts, name)
        with refused(ValueError, "must have shape|unit l2 norm", name):
            replace(parts, **{name: array[..., :-1]})


def test_notebooks_show_a_table_of_units():
    spikes = SpikeTrains.from_arrays({"<b>": [0.1, 0.2], "two": []}, observed=(0.0, 1.0))
    text = spikes._repr_html_()
    assert "2 units, 2 spikes" in text
    assert "&lt;b&gt;" in text
    assert "<b>" not in text
