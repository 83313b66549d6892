"""Events between conditions, and against shuffles; templates at other speeds, in simulations."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from spikecdl import DCEA, BinnedSpikes, Marginal, compare_conditions, load, plots, replay

SPEEDS = (8, 12, 16, 20, -12)
NOTHING = dict.fromkeys(("history", "drift", "bursts", "dispersion", "timing"))


def rate(position: np.ndarray, where: np.ndarray, peak: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """Return rates (unit, bin), in Hz: the first units have a field each."""
    rates = np.repeat(rest[:, None], len(position), axis=1)
    field = np.exp(-0.5 * np.square((position - where[:, None]) / 0.06))
    rates[: len(where)] += peak[:, None] * field
    return rates


@pytest.fixture(scope="module")
def laps_and_rest():
    """A fit to laps of 2 s, and 40 s of rest with twelve forward replays and four backward."""
    rng = np.random.default_rng(11)
    where, peak, rest = rng.random(20), rng.gamma(4, 4, 20) + 6, rng.gamma(2, 0.15, 40) + 0.05
    position, rates = (np.arange(40) + 0.5) / 40, np.repeat(rest[:, None], 3000, axis=1)
    for start in range(30, 2950, 95):
        rates[:, start : start + 40] = rate(position, where, peak, rest)
    laps = BinnedSpikes.from_array(rng.poisson(0.05 * rates)[None], bin_size=0.05)
    model = DCEA(1, 2.0, "poisson", layout="joint", random_state=0).fit(laps)
    position, rates = (np.arange(33) + 0.5) / 33, np.repeat(rest[:, None], 8000, axis=1)
    starts = np.arange(200, 7900, 500)
    for number, start in enumerate(starts):
        played = position if number % 4 else position[::-1]
        rates[:, start : start + 33] = rate(played, where, 2 * peak, rest)
    counts = BinnedSpikes.from_array(rng.poisson(0.005 * rates)[None], bin_size=0.005)
    return model, counts, 0.005 * starts


@pytest.fixture(scope="module")
def replayed(laps_and_rest):
    model, rest, _ = laps_and_rest
    return model.at_speeds(rest, SPEEDS)


def test_replays_are_found_with_their_speed_and_direction(laps_and_rest, replayed):
    _, rest, starts = laps_and_rest
    events = replayed.decompose(rest).events().sort_values("time")
    assert len(events) == len(starts)
    assert np.abs(events["time"] - starts).max() < 0.06
    backward = np.arange(len(starts)) % 4 == 0
    assert ((events["speed"] < 0) == backward).all()
    assert events["speed"].abs().median() == 12
    assert (events["original"] == 0).all()


def test_a_model_at_speeds_is_a_model(laps_and_rest, replayed, tmp_path):
    _, rest, _ = laps_and_rest
    assert replayed.n_templates == len(replayed.templates_) == len(SPEEDS)
    assert replayed.templates_.shape[2] == 50
    replayed.save(tmp_path / "model")
    pd.testing.assert_frame_equal(
        load(tmp_path / "model").decompose(rest).events(), replayed.decompose(rest).events()
    )


def test_templates_are_learned_from_events_of_all_speeds():
    rng = np.random.default_rng(5)
    where, peak, rest = rng.random(15), rng.gamma(4, 3, 15) + 4, np.full(20, 0.5)
    rates, speeds, start = np.repeat(rest[:, None], 4000, axis=1), [], 30
    while start < 3900:
        speeds.append(rng.choice([0.6, 1.0, 1.6]))
        n_bins = round(40 / speeds[-1])
        position = (np.arange(n_bins) + 0.5) / n_bins
        rates[:, start : start + n_bins] = rate(position, where, peak, rest)
        start += n_bins + int(rng.integers(20, 60))
    counts = BinnedSpikes.from_array(rng.poisson(0.05 * rates)[None], bin_size=0.05)
    model = DCEA(1, 2.0, "poisson", layout="joint", random_state=0).fit(counts)
    warped = model.at_speeds(counts, (0.6, 1, 1.6), learn_templates=True)
    assert warped.evidence(counts).sum() > model.evidence(counts).sum() + 100
    events = warped.decompose(counts).events().sort_values("time")
    sure = events[events["probability"] > 0.99]
    assert list(sure["speed"]) == speeds
    assert len(model.decompose(counts).events()) > 1.5 * len(speeds)


def test_what_the_fit_has_chosen_stays():
    """History of refractory units, at other speeds, too."""
    rng, counts = np.random.default_rng(0), np.zeros((20, 1, 1000), int)
    for trial in counts[:, 0]:
        rates = np.full(1000, 0.04)
        for start in rng.choice(48, 10, replace=False) * 20 + 20:
            rates[start : start + 20] += 0.9 * np.hanning(20)
        for k in range(1000):
            trial[k] = rng.random() < rates[k] and not trial[max(k - 2, 0) : k].any()
    some = BinnedSpikes.from_array(counts, bin_size=0.002)
    model = DCEA(1, 0.04, random_state=0).fit(some)
    assert model.ingredients_["history"]["value"] is not None
    other = model.at_speeds(some, (1,))
    assert other.ingredients_["history"] == model.ingredients_["history"]
    assert len(other.history_filter_) == len(model.history_filter_)
    gap = abs(float((other.evidence(some) - model.evidence(some)).sum()))
    assert gap < 0.01 * abs(float(model.evidence(some).sum()))


@pytest.mark.parametrize("speeds", [(), (1, 0), (2, 2), (float("nan"),)])
def test_speeds_that_are_none(laps_and_rest, speeds):
    with pytest.raises(ValueError, match="speeds"):
        laps_and_rest[0].at_speeds(laps_and_rest[1], speeds)


def test_windows_with_replays_differ_from_shuffles(laps_and_rest, replayed):
    _, rest, starts = laps_and_rest
    first = np.rint(np.concatenate([starts - 0.1, starts + 0.9]) / 0.005).astype(int)
    windows = np.stack([rest.counts[0][:, s : s + 100] for s in first])
    some = BinnedSpikes.from_array(windows, bin_size=0.005)
    found = replay(replayed, some, n_shuffles=19)
    there = np.arange(len(found)) < len(starts)
    assert (found["p_units"][there] == 0.05).all()
    assert (found["p_times"][there] == 0.05).all()
    assert found["evidence"][there].min() > 10 > found["evidence"][~there].max()
    assert found["p_units"][~there].mean() > 0.2
    assert found["speed"].notna()[there].all()
    assert list(found["trial"]) == list(some.trial_ids)


def test_replay_needs_joint_templates():
    counts = BinnedSpikes.from_array(np.tile([0, 0, 2, 3, 0, 0], (9, 5)), bin_size=0.01)
    model = DCEA(1, 0.05, trainer=Marginal(n_starts=1), **NOTHING).fit(counts)
    with pytest.raises(ValueError, match="layout='joint'"):
        replay(model, counts)


def conditioned(seed: int, rate: float = 1.0, amplitude: float = 1.0, template: bool = False):
    """Return counts of 80 trials, every second of another condition, and the conditions."""
    rng = np.random.default_rng(seed)
    wave = np.hanning(20) * 2.2
    other = np.concatenate([np.zeros(8), np.hanning(12) * 2.6]) if template else wave
    eta = np.full((80, 1, 300), np.log(0.15))
    for trial in range(80):
        is_other = trial % 2
        for start in rng.choice(14, rng.binomial(6, 0.4 * rate**is_other), replace=False):
            bins = slice(20 * start, 20 * start + 20)
            eta[trial, 0, bins] += other * amplitude if is_other else wave
    counts = BinnedSpikes.from_array(rng.poisson(np.exp(eta)), bin_size=0.005)
    return counts, np.array(["go", "stop"] * 40)


def compared(*arguments, **differences) -> pd.DataFrame:
    counts, conditions = conditioned(*arguments, **differences)
    model = DCEA(1, 0.1, random_state=0, trainer=Marginal(overlap=1), **NOTHING).fit(counts)
    table = compare_conditions(model, counts, conditions, n_resamples=199)
    return table[table["condition"] == "stop"].set_index("quantity")


@pytest.mark.parametrize(
    ("quantity", "difference"),
    [("rate", {"rate": 2.2}), ("amplitude", {"amplitude": 1.5}), ("template", {"template": True})],
)
def test_conditions_that_differ(quantity, difference):
    found = compared(3, **difference)
    assert found.loc[quantity, "p_value"] == 0.005
    assert found.loc[quantity, "difference"] > 0
    assert found.loc[quantity, "difference_lower"] > 0


def test_conditions_that_are_the_same():
    found = pd.concat([compared(seed) for seed in range(10)])
    assert (found["p_value"] < 0.05).mean() <= 0.15
    assert found.loc["rate", "lower"].lt(found.loc["rate", "value"]).all()


def test_conditions_by_the_ids_of_trials():
    counts, conditions = conditioned(0)
    model = DCEA(1, 0.1, random_state=0, trainer=Marginal(overlap=1), **NOTHING).fit(counts)
    series = pd.Series(conditions)[::-1]
    one, other = (compare_conditions(model, counts, by) for by in (conditions, series))
    pd.testing.assert_frame_equal(one, other)
    series = series.mask(series.index < 10)
    table = compare_conditions(model, counts, series, n_resamples=19)
    assert set(table["n_trials"]) == {35}
    panels = plots.conditions(table)
    assert [panel.get_ylabel() for panel in panels[0]] == [
        "events per second",
        "amplitude",
        "time (s)",
    ]
    with pytest.raises(ValueError, match="`by` has 3 values; there are 80 trials"):
        compare_conditions(model, counts, [1, 2, 3])
    with pytest.raises(ValueError, match="`by` must have two conditions"):
        compare_conditions(model, counts, np.zeros(80))
    with pytest.raises(ValueError, match="pooled"):
        compare_conditions(model, counts.pool(), [1])
