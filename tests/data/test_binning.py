"""Binning against exact arithmetic with fractions, and what windows, masks and trials do."""

from __future__ import annotations

import re
from fractions import Fraction
from math import floor

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import make_recording
from tables import refused

from spikecdl.data import SpikeTrains
from spikecdl.data.binning import COMMON_RATES, Clock, infer_clock_rate, observed_bins

# seconds; each with its exact value
BIN_SIZES = {
    0.001: Fraction(1, 1000),
    0.005: Fraction(1, 200),
    0.0001: Fraction(1, 10_000),
    0.025: Fraction(1, 40),
    1 / 3000: Fraction(1, 3000),
    1 / 30: Fraction(1, 30),
    1 / 1024: Fraction(1, 1024),
    0.1 + 0.2: Fraction(3, 10),
}
RATES = (1000.0, 20_000.0, 24_414.0625, 30_000.0, 32_768.0, 44_100.0)


def exact_counts(spikes, start, width, n_bins):
    """Counts in the bins ``start + width * [b, b + 1)``; spikes and start are exact, in seconds."""
    counts = [0] * n_bins
    for spike in spikes:
        bin_ = floor((spike - start) / width)
        if 0 <= bin_ < n_bins:
            counts[bin_] += 1
    return counts


@settings(max_examples=150)
@given(
    rate=st.sampled_from(RATES),
    bin_size=st.sampled_from(sorted(BIN_SIZES)),
    knows_clock=st.booleans(),
    session=st.sampled_from([0, 7, 3_600, 40_000]),
    start=st.integers(0, 100_000),
    n_bins=st.integers(1, 12),
    on_edges=st.lists(st.integers(-2, 14), max_size=8),
    elsewhere=st.lists(st.integers(-50_000, 50_000), max_size=12),
)
def test_counts_are_those_of_exact_arithmetic(
    rate, bin_size, knows_clock, session, start, n_bins, on_edges, elsewhere
):
    """Spikes on a sampled clock, many of them on the first tick of a bin."""
    exact_rate, width = Fraction(rate), BIN_SIZES[bin_size]
    start += session * int(rate)
    first_ticks = {start - floor(-edge * width * exact_rate) for edge in on_edges}
    ticks = sorted({t for t in (*first_ticks, *(start + e for e in elsewhere)) if t >= 0})
    gap = min(
        (
            abs((t - start) / exact_rate / width % 1)
            for t in ticks
            if (t - start) / exact_rate % width
        ),
        default=1,
    )
    if min(gap, 1 - gap) * width < Fraction(2, 10**9):
        return  # off an edge, but by less than a float of seconds can say
    stop = float(start / exact_rate) + 1e6
    spikes = SpikeTrains.from_arrays(
        [np.array([float(t / exact_rate) for t in ticks])],
        observed=(0.0, stop),
        trials={"start_time": [float(start / exact_rate)], "stop_time": [stop]},
        clock_rate=rate if knows_clock else None,
    )
    binned = spikes.bin(bin_size, align="start_time", window=(0.0, float(n_bins * width)))
    seconds = [t / exact_rate for t in ticks]
    assert binned.counts[0, 0].tolist() == exact_counts(seconds, start / exact_rate, width, n_bins)


def test_spikes_on_edges_fall_in_the_later_bin_where_floats_would_not():
    times = np.arange(1000) / 1000
    naive = np.floor(times / 0.01).astype(int)
    exact = np.arange(1000) // 10
    assert (naive != exact).any(), "the example no longer shows the trap"
    counts = SpikeTrains.from_arrays([times], observed=(0.0, 1.0)).bin(0.01).counts[0, 0]
    np.testing.assert_array_equal(counts, np.bincount(exact))


def test_times_half_way_between_ticks_stay_whole_bins_apart():
    """On the fine clock of bins of 1/1024 s, ticks of 32,768 Hz may end in a half."""
    starts = np.arange(0, 3200, 48) / 32_768
    for start in starts:
        edges = start + np.arange(8) / 1024
        trials = {"start_time": [start], "stop_time": [start + 8 / 1024]}
        spikes = SpikeTrains.from_arrays([edges], trials=trials, observed=(0.0, 1.0))
        assert (spikes.bin(1 / 1024).counts == 1).all()


@settings(max_examples=100)
@given(
    edges=st.sets(st.integers(0, 60), max_size=8),
    starts=st.lists(st.integers(-10, 50), min_size=1, max_size=3),
    width=st.fractions(Fraction(1, 3), 9, max_denominator=3),
    n_bins=st.integers(1, 8),
    touching=st.booleans(),
)
def test_bins_are_observed_if_wholly_inside_intervals(edges, starts, width, n_bins, touching):
    edges = sorted(edges)
    pairs = (
        list(zip(edges, edges[1:], strict=False))
        if touching
        else list(zip(edges[::2], edges[1::2], strict=False))
    )
    clock = Clock(Fraction(1000), width)
    seen = observed_bins(
        np.array(pairs, dtype=np.int64).reshape(-1, 2),
        np.array(starts),
        np.full(len(starts), n_bins),
        clock,
    )
    unions = [(edges[0], edges[-1])] if touching and len(edges) > 1 else pairs
    for start, row in zip(starts, seen, strict=True):
        expected = [
            any(a <= start + b * width and start + (b + 1) * width <= z for a, z in unions)
            for b in range(n_bins)
        ]
        assert row.tolist() == expected


@settings(max_examples=50)
@given(
    ticks=st.lists(st.integers(0, 9_999), unique=True, max_size=60),
    bin_size=st.sampled_from([0.001, 0.005, 0.1, 0.3, 1 / 3]),
    gap=st.tuples(st.integers(0, 9), st.integers(1, 5)),
)
def test_counts_are_conserved(ticks, bin_size, gap):
    """What is counted and what the mask and the incomplete last bin leave out is everything."""
    times = np.sort(np.array(ticks, dtype=float)) / 1000
    low, high = float(gap[0]), float(min(sum(gap), 10))
    observed = [(0.0, low), (high, 10.0)]
    spikes = SpikeTrains.from_arrays([times], observed=[i for i in observed if i[1] > i[0]])
    whole = SpikeTrains.from_arrays([times], observed=(0.0, 10.0))
    window = {"align": "start_time", "window": (0.0, 10.0), "table": "all"}
    table = {"all": pd.DataFrame({"start_time": [0.0]})}
    some, every = (
        SpikeTrains.from_arrays([times], observed=s.observed[0], intervals=table).bin(
            bin_size, **window
        )
        for s in (spikes, whole)
    )
    n_bins = floor(Fraction(10) / Fraction(bin_size).limit_denominator(1000))
    assert every.mask.all()
    assert every.n_bins == n_bins
    assert every.counts.sum() == (times < n_bins * bin_size - 1e-9).sum()
    np.testing.assert_array_equal(some.counts, np.where(some.mask, every.counts, 0))


def test_the_clock_is_inferred():
    for rate in COMMON_RATES:
        ticks = np.unique(np.random.default_rng(0).integers(0, int(3600 * rate), 500))
        found = infer_clock_rate([ticks / rate])
        assert found is not None
        # 20 kHz times are on a clock of 10 kHz only by chance: not 500 of them
        assert found == rate


def test_a_clock_that_some_times_are_not_on_is_not_used():
    times = np.r_[np.arange(5000) / 30_000, 0.2000017]
    trials = {"start_time": [0.1000003], "stop_time": [0.2100003]}
    spikes = SpikeTrains.from_arrays([times], trials=trials, clock_rate=30_000.0)
    counts = spikes.bin(0.001, align="start_time", window=(0.0, 0.1)).counts[0, 0]
    exact = [Fraction(k, 30_000) for k in range(5000)] + [Fraction(2_000_017, 10**7)]
    assert counts.tolist() == exact_counts(
        exact, Fraction(1_000_003, 10**7), Fraction(1, 1000), 100
    )


def test_windows_end_with_the_last_whole_bin():
    binned = SpikeTrains.from_arrays([[0.05, 0.95]], observed=(0.0, 1.0)).bin(0.3)
    assert binned.shape == (1, 1, 3)
    assert binned.counts.sum() == 1
    assert binned.mask.all()


def test_ragged_trials_are_masked_past_their_end():
    trials = np.array([[0.0, 1.0], [1.0, 1.5], [2.0, 4.0]])
    binned = SpikeTrains.from_arrays([[0.1, 1.2, 1.7, 3.9]], trials=trials).bin(0.5)
    assert binned.shape == (3, 1, 4)
    assert binned.mask[:, 0].sum(axis=1).tolist() == [2, 1, 4]
    assert binned.counts[:, 0].tolist() == [[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]]
    assert not binned.n_pooled[~binned.mask].any()
    assert binned.trial_starts.tolist() == [0.0, 1.0, 2.0]


def test_unobserved_time_is_masked_per_unit():
    binned = make_recording().bin(0.5)
    # unit b was not observed from 2 to 3 s, unit c before 0.5 and after 8 s
    assert binned.mask[:, :, 0].tolist() == [[1, 1, 0], [1, 0, 1], [1, 1, 1]]
    assert binned.mask[2, :, -1].tolist() == [1, 1, 0]
    assert not binned.counts[~binned.mask].any()


def test_overlapping_windows_count_a_spike_in_each():
    spikes = SpikeTrains.from_arrays([[0.55]], trials=np.array([[0.0, 1.0], [0.5, 1.5]]))
    assert spikes.bin(0.5).counts[:, 0].tolist() == [[0, 1], [1, 0]]


def test_align_and_window():
    spikes = make_recording()
    binned = spikes.bin(0.1, align="cue", window=(-0.3, 0.7), trials="cue == cue")
    assert binned.trial_ids == (10, 11)
    assert binned.t_start == -0.3
    np.testing.assert_allclose(binned.times, np.arange(-3, 7) / 10)
    np.testing.assert_allclose(binned.trial_starts, [0.2, 2.7])
    for trial, cue in enumerate((0.5, 3.0)):
        edges = cue + np.arange(-3, 8) / 10
        expected = np.histogram(spikes.times[0], edges)[0]
        np.testing.assert_array_equal(binned.counts[trial, 0], expected)


def test_trials_are_chosen_by_query_or_id():
    for trials, expected in [
        (None, (10, 11, 15)),
        ("stimulus == 'odour'", (10, 15)),
        ("rewarded and block > 1", (15,)),
        ("stimulus.str.startswith('p')", (11,)),
        ("start_time >= 2.5", (11, 15)),
        ([15, 10], (15, 10)),
        (np.array([11]), (11,)),
    ]:
        assert make_recording().bin(0.5, trials=trials).trial_ids == expected


def test_units_are_chosen_by_id():
    for units, expected in [("c", ("c",)), (["c", "a"], ("c", "a")), (None, ("a", "b", "c"))]:
        spikes = make_recording()
        binned, every = spikes.bin(0.5, units=units), spikes.bin(0.5)
        assert binned.unit_ids == expected
        columns = [every.unit_ids.index(unit) for unit in expected]
        np.testing.assert_array_equal(binned.counts, every.counts[:, columns])


def test_other_tables_give_windows_too():
    binned = make_recording().bin(0.25, table="ripples")
    assert binned.trial_ids == (0, 1)
    assert binned.mask[:, 0].tolist() == [[True, True], [True, False]]


def test_sub_bins_are_milliseconds_once_a_bin_holds_two_spikes():
    for spikes, bin_size, sub_bins in [
        ([0.1, 0.2], 0.005, 1),
        ([0.1001, 0.1002], 0.005, 5),
        ([0.1001, 0.1002], 0.001, 1),
        ([0.1001, 0.1002], 0.025, 25),
        ([0.1001, 0.1002], 0.0005, 1),
    ]:
        binned = SpikeTrains.from_arrays([spikes, []], observed=(0.0, 1.0)).bin(bin_size)
        assert binned.sub_bins == sub_bins
        np.testing.assert_array_equal(binned.n_trials, binned.n_pooled * sub_bins)


def test_selections_of_a_recording_have_the_same_sub_bins():
    times = [[0.1, 0.2, 1.1001, 1.1002], [0.3, 1.3]]
    spikes = SpikeTrains.from_arrays(times, trials=np.array([[0.0, 1.0], [1.0, 2.0]]))
    chosen = [{}, {"trials": [0]}, {"trials": [1]}, {"units": [1]}, {"window": (0.0, 0.5)}]
    chosen[-1]["align"] = "start_time"
    assert {spikes.bin(0.005, **some).sub_bins for some in chosen} == {5}


def test_trials_without_a_cue_do_not_matter():
    trials = {"start_time": [0, 1], "stop_time": [1, 2], "cue": [0.1, np.nan]}
    spikes = SpikeTrains.from_arrays([[0.15, 1.1001, 1.1002]], trials=trials)
    cued = {"align": "cue", "window": (0.0, 0.5)}
    assert spikes.bin(0.005, **cued, trials=[0]).sub_bins == 1
    assert spikes.bin(0.005, trials=[0]).sub_bins == 5


def test_pooling_trials_does_not_change_sub_bins():
    trials = np.array([[0.0, 1.0], [1.0, 2.0]])
    spikes = SpikeTrains.from_arrays([[0.1001, 1.1001]], trials=trials)
    pooled = spikes.bin(0.005).pool()
    assert pooled.counts.max() == 2
    assert pooled.sub_bins == 1
    assert pooled.n_trials.min() == 2


def test_what_cannot_be_binned_is_refused():
    for options, message in [
        ({"bin_size": 0}, "`bin_size` (=0) must be positive, in seconds"),
        ({"bin_size": -0.1}, "must be positive"),
        ({"bin_size": float("nan")}, "must be finite"),
        ({"bin_size": 1e-12}, "must be at least 1e-9, in seconds"),
        ({"bin_size": "3s"}, "`bin_size` (=3) is longer than the window of trial 10"),
        ({"align": "cue"}, "`align` (='cue') needs a `window`"),
        ({"align": "go", "window": (0.0, 1.0)}, "lacks ['go']; it has ['start_time', 'stop_time'"),
        ({"align": "cue", "window": (0.0, 1.0)}, "column 'cue' has no time for trials [15];"),
        ({"align": "stimulus", "window": (0.0, 1.0)}, "column 'stimulus' must hold times"),
        ({"align": "start_time", "window": (1.0, 0.0)}, "must stop after it starts"),
        ({"window": (100.0, 101.0)}, "outside the recording, 0 to 10 s"),
        ({"units": ["a", "x"]}, "`units` (=['a', 'x']) must be among the units ['a', 'b', 'c']"),
        ({"units": []}, "must be among the units"),
        ({"trials": "stimulus == 'light'"}, "selects none of 3 trials"),
        ({"trials": "colour == 'red'"}, "is not a query on the columns ['start_time'"),
        ({"trials": "start_time"}, "is not a query"),
        ({"trials": [10, 12]}, "`trials` [12] do not exist; those that do are [10, 11, 15]"),
        ({"trials": [10, 10]}, "distinct ids"),
        ({"table": "licks"}, "`table` (='licks') must be one of: ripples, trials"),
    ]:
        with refused(ValueError, re.escape(message), options):
            make_recording().bin(**{"bin_size": 0.1, **options})


def test_a_query_runs_no_code():
    for query in ("@__import__('os').getcwd()", "__import__('os').getcwd()"):
        with pytest.raises(ValueError, match="is not a query"):
            make_recording().bin(0.1, trials=query)


def test_trials_without_times_are_refused_when_they_are_used():
    trials = {"start_time": [0.0, 1.0, 2.0], "stop_time": [1.0, 2.0, np.nan]}
    spikes = SpikeTrains.from_arrays([[0.1, 1.1]], trials=trials, observed=(0.0, 3.0))
    with pytest.raises(ValueError, match=r"'stop_time' has no time for trials \[2\];"):
        spikes.bin(0.5)
    assert spikes.bin(0.5, trials="stop_time == stop_time").trial_ids == (0, 1)


def test_times_that_cannot_be_seconds_are_refused():
    trials = {"start_time": [1.0, 1e13], "stop_time": [2.0, 1e13 + 1]}
    spikes = SpikeTrains.from_arrays([[1.0, 1.5]], trials=trials)
    with pytest.raises(ValueError, match="too large to be binned; give seconds"):
        spikes.bin(0.1)


def test_nothing_observed_is_refused():
    spikes = SpikeTrains.from_arrays([[0.3]], observed=[(0.0, 0.05), (0.95, 1.0)])
    with pytest.raises(ValueError, match="no bin of any window lies wholly inside"):
        spikes.bin(0.1)


def test_a_bin_size_may_have_its_unit():
    spikes = SpikeTrains.from_arrays([[0.1, 0.4, 1.25, 5.5]], observed=(0.0, 6.0))
    same = {size: spikes.bin(size) for size in ("5ms", "5 ms", "0.005", "0.005s", "5000us", 0.005)}
    assert {counts.bin_size for counts in same.values()} == {0.005}
    assert spikes.bin("2s").counts.tolist() == [[[3, 0, 1]]]
    for size in (1, 1.0, "2", np.float64(50)):
        with pytest.raises(ValueError, match="looks like milliseconds; give 0.0"):
            spikes.bin(size)
    for size in ("-5ms", "0s", "ms", "1e", "5 minutes", ""):
        with pytest.raises(ValueError, match="must be a positive time in seconds"):
            spikes.bin(size)


def test_units_are_chosen_by_their_columns():
    columns = pd.DataFrame({"location": ["ca1", "ca3", "ca1"], "depth": [1, 2, 3]}, index=[7, 8, 9])
    spikes = SpikeTrains.from_arrays([[0.1], [0.2], [0.3]], unit_ids=[7, 8, 9], units=columns)
    assert spikes.bin(0.1, units="location == 'ca1'").unit_ids == (7, 9)
    assert spikes.bin(0.1, units="depth > 1 and location == 'ca1'").unit_ids == (9,)
    for text, words in {
        "place == 1": "not a query",
        "depth > 9": "a query on their columns",
    }.items():
        with pytest.raises(ValueError, match=words):
            spikes.bin(0.1, units=text)
