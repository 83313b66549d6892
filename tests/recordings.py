"""Small recordings, counts, truths and decompositions that several tests use, and comparisons."""

from __future__ import annotations

import numpy as np
import pandas as pd

from spikecdl.data import BinnedSpikes, Decomposition, SpikeTrains, Truth
from spikecdl.model.families import Binomial, Gaussian


def make_recording() -> SpikeTrains:
    """Three units with text ids, trials with columns of each kind, intervals, and a clock."""
    generator = np.random.default_rng(0)
    spans = ((40, 0, 300_000), (0, 0, 1), (25, 15_000, 240_000))
    ticks = [np.unique(generator.integers(low, high, size)) for size, low, high in spans]
    trials = pd.DataFrame(
        {
            "start_time": [0.0, 2.5, 6.0],
            "stop_time": [2.0, 5.0, 8.5],
            "cue": [0.5, 3.0, np.nan],
            "stimulus": ["odour", "puff", "odour"],
            "rewarded": [True, False, True],
            "licks": [(0.1, 0.2), (), (6.5,)],
            "block": [1, 1, 2],
        },
        index=[10, 11, 15],
    )
    return SpikeTrains.from_arrays(
        {"a": ticks[0] / 30_000, "b": ticks[1] / 30_000, "c": ticks[2] / 30_000},
        observed=[[[0.0, 10.0]], [[0.0, 2.0], [3.0, 9.0]], [[0.5, 8.0]]],
        trials=trials,
        intervals={"ripples": pd.DataFrame({"start_time": [1.0, 4.0], "stop_time": [1.5, 4.25]})},
        units={"area": ["VPM", "VPM", "POm"], "depth": [100.0, 250.5, 300.0]},
        clock_rate=30_000.0,
        source="made for a test",
    )


def make_truth(
    n_trials: int, n_units: int, *, layout: str = "shared", family: str = "binomial"
) -> Truth:
    """Two templates of four bins of 10 ms, and three events of which two are in trial 0."""
    channels = n_units if layout == "joint" else 1
    templates = np.random.default_rng(1).normal(size=(2, channels, 4))
    templates /= np.linalg.norm(templates, axis=(1, 2), keepdims=True)
    unit = -1 if layout == "joint" else n_units - 1
    events = pd.DataFrame(
        {
            "trial": [0, 0, n_trials - 1],
            "unit": [unit, unit if layout == "joint" else 0, unit],
            "template": [0, 1, 1],
            "time": [0.02, 0.05, 0.02],
            "amplitude": [10.0, 12.5, 9.0],
        }
    )
    baseline = 8.0 + np.arange(n_trials * n_units, dtype=float).reshape(n_trials, n_units)
    settings = {"rate": 2.0, "law": "normal"}
    return Truth(templates, events, baseline, 0.01, family, layout, settings)


def make_counts(*, masked: bool = True, truth: str | None = None) -> BinnedSpikes:
    """Three trials of two units with ten bins of 10 ms, partly unobserved."""
    values = np.random.default_rng(2).integers(0, 4, (3, 2, 10))
    mask = np.ones(values.shape, dtype=bool)
    if masked:
        mask[0, 1, 7:], mask[2, :, :2] = False, False
    return BinnedSpikes.from_array(
        np.where(mask, values, 0),
        0.01,
        mask=mask,
        t_start=-0.03,
        unit_ids=("u7", "u9"),
        trial_ids=(4, 5, 9),
        sub_bins=10,
        trial_starts=[0.5, 2.0, 4.25],
        truth=None if truth is None else make_truth(3, 2, layout=truth),
    )


def make_decomposition(counts: BinnedSpikes, layout: str = "shared") -> Decomposition:
    """Return a decomposition of any counts: two templates of four bins, one code for each."""
    generator = np.random.default_rng(3)
    n_trials, n_units, n_bins = counts.shape
    joint = layout == "joint"
    templates = generator.normal(size=(2, n_units if joint else 1, 4))
    templates /= np.linalg.norm(templates, axis=(1, 2), keepdims=True)
    codes = np.zeros((n_trials, 1 if joint else n_units, 2, n_bins - 3))
    codes[0, 0, 0, 1] = 10.0
    codes[-1, -1, 1, 3] = 7.5
    return Decomposition(
        counts=counts,
        templates=templates,
        codes=codes,
        rate=generator.gamma(2.0, 4.0, counts.shape),
        baseline=generator.gamma(2.0, 4.0, (n_trials, n_units)),
        contributions=generator.normal(size=(n_trials, n_units, 2, n_bins)),
        family=Binomial(1) if counts.is_counts else Gaussian(),
        layout=layout,
        deviance_explained=0.25,
        deviance_explained_per_unit=np.linspace(0.2, 0.3, n_units),
    )


def assert_same_table(one: pd.DataFrame | None, other: pd.DataFrame | None) -> None:
    """Check values, columns and row ids, not how pandas holds them."""
    assert (one is None) == (other is None)
    if one is not None:
        loose = {"check_dtype": False, "check_index_type": False, "check_column_type": False}
        pd.testing.assert_frame_equal(one, other, **loose)


def assert_same_truth(one: Truth | None, other: Truth | None) -> None:
    """Check that all parts are equal."""
    assert (one is None) == (other is None)
    if one is None or other is None:
        return
    for name in ("templates", "baseline"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert_same_table(one.events, other.events)
    for name in ("bin_size", "family", "layout", "settings"):
        assert getattr(one, name) == getattr(other, name), name


def assert_same_recording(one: SpikeTrains, other: SpikeTrains) -> None:
    """Check that all parts but the source are equal."""
    assert one.unit_ids == other.unit_ids
    assert one.clock_rate == other.clock_rate
    for name in ("times", "observed"):
        for unit, left, right in zip(
            one.unit_ids, getattr(one, name), getattr(other, name), strict=True
        ):
            np.testing.assert_array_equal(left, right, err_msg=f"{name} of unit {unit}")
    assert_same_table(one.trials, other.trials)
    assert_same_table(one.units, other.units)
    assert set(one.intervals) == set(other.intervals)
    for name, table in one.intervals.items():
        assert_same_table(table, other.intervals[name])
    assert_same_truth(one.truth, other.truth)


def assert_same_counts(one: BinnedSpikes, other: BinnedSpikes) -> None:
    """Check that all parts but the source are equal."""
    for name in ("counts", "mask", "n_pooled", "trial_starts"):
        left, right = getattr(one, name), getattr(other, name)
        np.testing.assert_array_equal(left, right, err_msg=name)
        assert left.dtype.kind == right.dtype.kind, name
    for name in ("bin_size", "t_start", "unit_ids", "trial_ids", "sub_bins"):
        assert getattr(one, name) == getattr(other, name), name
    assert_same_truth(one.truth, other.truth)
