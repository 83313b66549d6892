"""Suggested bins and lengths, on recordings whose time scale is known, and trainers."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from fits import some_counts
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from spikecdl import DCEA, L1, BinnedSpikes, Binomial, load, simulate
from spikecdl.data import SpikeTrains
from spikecdl.datasets import demo
from spikecdl.io import read
from spikecdl.suggestions import questions, suggest, trainer


def bursts(length: float, duration: float = 200.0, seed: int = 0) -> np.ndarray:
    """Spikes at 2 Hz, and every second or so at 60 Hz for ``length`` seconds."""
    generator = np.random.default_rng(seed)
    starts = np.cumsum(generator.exponential(1.0, round(duration / (1.2 + length))) + length + 0.2)
    times = [generator.uniform(0, duration, round(2 * duration))]
    times += [start + generator.uniform(0, length, round(60 * length)) for start in starts]
    times = np.sort(np.concatenate(times))
    return times[times < duration]


@pytest.mark.parametrize("length", [0.05, 0.1, 0.2])
def test_length_of_bursts(length):
    found = suggest(SpikeTrains.from_arrays([bursts(length)]))
    assert 0.5 * length <= found.length <= 1.3 * length
    assert 15 <= found.length / found.bin_size <= 40


def test_events_of_most_of_a_second():
    found = suggest(SpikeTrains.from_arrays([bursts(0.8, 400.0)]))
    assert 0.6 <= found.length <= 1.2
    assert found.other_length is None


def test_two_time_scales():
    generator = np.random.default_rng(0)
    starts = np.arange(0.0, 600.0, 4.0)
    slow = [start + generator.uniform(0, 1.0, generator.poisson(15)) for start in starts]
    sharp = generator.uniform(0, 600, 400)[:, None] + generator.uniform(0, 0.05, (400, 6))
    times = np.sort(np.concatenate([*slow, sharp.ravel()]))
    found = suggest(SpikeTrains.from_arrays([times]))
    assert 0.03 <= found.length <= 0.08
    assert 0.5 < found.other_length <= 1.3


def test_what_rules_the_shortest_distances():
    """Neither silence after a spike nor bursts say how long a template is."""
    generator = np.random.default_rng(0)
    regular = np.cumsum(generator.gamma(4, 1 / 60, 3000))
    waits = 0.008 + generator.exponential(1 / 40, 5000)
    onsets = np.sort(generator.uniform(0, 200, 600))
    burst = onsets[:, None] + np.cumsum(generator.uniform(0.003, 0.006, (600, 4)), axis=1)
    poisson = generator.uniform(0, 200, 3000)
    for times, short in (
        *((regular, "refractory"), (np.cumsum(waits), "refractory")),
        *((burst.ravel(), "bursts"), (poisson, None)),
    ):
        found = suggest(SpikeTrains.from_arrays([np.sort(times)]))
        assert (found.short, found.length) == (short, 0.1)


@pytest.mark.parametrize("period", [0.06, 0.125])
def test_no_longer_than_the_period_of_a_rhythm(period):
    generator = np.random.default_rng(1)
    beats = np.arange(0.1, 150, period)
    beats = beats[generator.random(beats.size) < 0.6]
    times = np.sort(beats + generator.normal(0, 0.004, beats.size))
    assert suggest(SpikeTrains.from_arrays([times])).length == pytest.approx(period, rel=0.15)


def test_noise_alone_gets_a_tenth_of_a_second():
    generator = np.random.default_rng(2)
    trains = [np.sort(generator.uniform(0, 300, 3000)) for _ in range(3)]
    found = suggest(SpikeTrains.from_arrays(trains, observed=(0.0, 300.0)))
    assert (found.bin_size, found.length) == (0.005, 0.1)


@pytest.mark.parametrize("times", [[], [1.0], [1.0, 2.0]], ids=["silent", "one spike", "two"])
def test_hardly_any_spikes(times):
    found = suggest(SpikeTrains.from_arrays([times, []], observed=(0.0, 5.0)))
    assert (found.bin_size, found.length) == (0.005, 0.1)


def test_time_between_trials_does_not_count():
    """Activity between trials would look like a rhythm with the period of the trials."""
    generator = np.random.default_rng(0)
    starts = 0.3 * np.arange(200)
    times = np.sort(np.repeat(starts, generator.poisson(10, 200)))
    times = np.sort(times + generator.uniform(0, 0.2, times.size))
    trials = {"start_time": starts, "stop_time": starts + 0.2}
    with_trials = suggest(SpikeTrains.from_arrays([times], trials=trials))
    assert (with_trials.bin_size, with_trials.length) == (0.005, 0.1)
    assert suggest(SpikeTrains.from_arrays([times])) != with_trials


def test_the_same_whenever_the_recording_began():
    times = bursts(0.1)
    now = suggest(SpikeTrains.from_arrays([times], observed=(0.0, 200.0)))
    later = suggest(SpikeTrains.from_arrays([times + 1000], observed=(1000.0, 1200.0)))
    assert now == later


@settings(max_examples=40)
@given(st.integers(0, 2**31), st.floats(0.2, 50.0), st.sampled_from([1.0, 0.3, 20.0]))
def test_a_fit_accepts_every_suggestion(seed, rate, duration):
    generator = np.random.default_rng(seed)
    times = np.sort(generator.uniform(0, duration, generator.poisson(rate * duration)))
    found = suggest(SpikeTrains.from_arrays([times], observed=(0.0, duration)))
    assert found.bin_size > 0
    assert 0.02 <= found.length <= max(0.5, duration / 4)
    assert found.length / found.bin_size == pytest.approx(round(found.length / found.bin_size))


def test_trials_that_overlap_and_trials_without_times():
    times = bursts(0.1)
    trials = {"start_time": [50.0, 0.0, np.nan, 20.0], "stop_time": [200.0, 40.0, 9.0, 30.0]}
    found = suggest(SpikeTrains.from_arrays([times], trials=trials))
    assert 0.05 <= found.length <= 0.13


def test_simulated_events():
    counts = simulate.simulate(
        "poisson", ["vee"], n_trials=20, n_units=5, duration=4.0, event_rate=1.0, bin_size=0.005,
        template_length=0.2, amplitude=(5.0, 10.0), baseline=10.0, random_state=1,
    )  # fmt: skip
    assert 0.1 <= suggest(simulate.place_spikes(counts, 0)).length <= 0.3


@pytest.mark.parametrize("name", ["dir3_stim2", "dir16_stim1"])
def test_whiskers_deflected_every_eighth_of_a_second(shared_data, name):
    found = suggest(read(shared_data / "whisker_thalamus" / f"{name}.nwb"))
    assert (found.bin_size, found.length) == (0.005, 0.125)


def poisson_trains() -> list[np.ndarray]:
    """Two units at 10 Hz, for 100 s, on a clock of 30 kHz."""
    ticks = np.random.default_rng(0).integers(1, 3_000_000, (2, 1000))
    return [np.unique(unit) / 30_000 for unit in ticks]


def changed(unit: int, values: ArrayLike, **parts) -> SpikeTrains:
    """The same with more spikes of a unit."""
    times = poisson_trains()
    times[unit] = np.sort(np.r_[times[unit], values])
    observed = (float(min(0.0, times[unit][0])), float(max(100.0, times[unit][-1])))
    given = {"observed": observed, "duplicates": "keep", **parts}
    return SpikeTrains.from_arrays(times, **given)


TRIALS = [[float(start), start + 1.0] for start in range(100)]


def test_questions_about_what_looks_wrong():
    for spikes, words in [
        (changed(1, [5000.0]), ("1 spike far outside the session of 99", "(of unit 1)", "ends at")),
        (changed(1, [2000.0], trials=TRIALS), ("far outside the session of 99",)),
        (changed(0, [-4000.0]), ("far outside", "(of unit 0)", "begins at -4000 s")),
        (changed(0, [1e-300]), ("1 spike between 0 and 1 microsecond (of unit 0)",)),
        (changed(1, [0.5] * 1000), ("with 9 more in the same tick of the clock (of unit 1)",)),
        (changed(0, [0.25e-5 + 7]), ("1 spike off the clock of 30000 Hz",)),
        (changed(0, [], observed=(0.0, 50.0)), ("outside the observed intervals (of units 0, 1)",)),
        (changed(0, np.arange(300_000) / 3000), ("units above 1000 Hz: 0",)),
        (changed(0, [], trials=[*TRIALS[:50], [50.0, 5e4]]), ("as long as the median: 50",)),
    ]:
        asked = questions(spikes)
        assert all(any(word in question for question in asked) for word in words), asked


def test_most_flipped_bits_of_times_are_noticed():
    rng, noticed = np.random.default_rng(0), []
    times = np.sort(np.rint(rng.uniform(0, 100, 500) * 30_000) / 30_000)
    for bit, spike in product(range(64), rng.integers(0, 500, 3)):
        damaged = times.copy()
        damaged.view(np.uint64)[spike] ^= np.uint64(1) << np.uint64(bit)
        try:
            noticed.append(bool(questions(SpikeTrains.from_arrays([damaged]))))
        except ValueError:
            noticed.append(True)
    assert np.mean(noticed) > 0.6


def test_no_questions_about_recordings_that_are_right():
    for spikes in (read(demo()), changed(0, []), changed(0, [], trials=TRIALS)):
        assert questions(spikes) == []
    assert questions(SpikeTrains.from_arrays([[]], observed=(0.0, 1.0))) == []
    assert questions(SpikeTrains.from_arrays([bursts(0.1)])) == []


def test_the_trainer_suits_the_counts():
    for arguments, expected in [
        ({}, "marginal"),
        ({"family": "negative_binomial"}, "marginal"),
        ({"history": 5}, "marginal"),
        ({"penalty_weight": 0.3}, "alternating"),
        ({"layout": "shared"}, "marginal"),
        ({"layout": "shared", "family": "binomial"}, "marginal"),
        ({"layout": "shared", "family": Binomial(30)}, "marginal"),  # of pooled trials
        ({"layout": "shared", "family": "gaussian"}, "marginal"),  # whole numbers
        ({"layout": "shared", "penalty": L1(sign="both")}, "alternating"),
    ]:
        y = np.random.default_rng(0).poisson(0.1, (2, 3, 50))
        model = DCEA(1, 5, **{"layout": "joint", **arguments})
        assert trainer("auto", model, BinnedSpikes.from_array(y)) == expected


def test_what_takes_minutes_for_many_bins_is_alternated():
    for arguments, expected in [
        ({}, "marginal"),
        ({"family": "binomial"}, "marginal"),
        ({"history": 5}, "marginal"),
        ({"family": Binomial(30)}, "alternating"),
        ({"layout": "joint"}, "marginal"),
        ({"layout": "joint", "family": "binomial"}, "marginal"),
        ({"layout": "joint", "history": 5}, "alternating"),
        ({"layout": "joint", "family": Binomial(30)}, "alternating"),
    ]:
        counts = BinnedSpikes.from_array(np.zeros((2, 3, 12_000), int))
        assert trainer("auto", DCEA(1, 5, **arguments), counts) == expected


def test_populations_of_any_size_are_summed_if_always_observed():
    y, mask = np.zeros((1, 1000, 10_100), np.uint8), np.ones((1, 1000, 10_100), bool)
    counts, model = BinnedSpikes.from_array(y, mask=mask), DCEA(1, 5, layout="joint")
    assert trainer("auto", model, counts) == "marginal"
    mask[0, 0, :5] = False
    assert trainer("auto", model, BinnedSpikes.from_array(y, mask=mask)) == "alternating"


@pytest.mark.filterwarnings("ignore::spikecdl.NotConvergedWarning")
def test_a_fit_chooses_its_trainer(tmp_path):
    model, counts = DCEA(1, 12, n_epochs=1, random_state=0), some_counts()
    assert model.fit(counts.pool()).trainer_ == "marginal"
    assert model.fit(counts).trainer_ == "marginal"
    assert model.trainer == "auto"
    named = DCEA(1, 12, trainer="marginal", n_epochs=1, random_state=0).fit(counts)
    assert np.array_equal(model.transform(counts), named.transform(counts))
    model.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.trainer_ == "marginal"
    assert np.array_equal(again.transform(counts), model.transform(counts))
