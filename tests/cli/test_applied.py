"""`apply` at other speeds, between conditions, and against shuffles."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from commands import FIT, run, succeeded

from spikecdl import SpikeTrains, write_nwb


@pytest.fixture(scope="module")
def applied(tmp_path_factory):
    """A recording with a trial for each second of a sequence, and the folder of its fit."""
    folder, rng = tmp_path_factory.mktemp("applied"), np.random.default_rng(2)
    starts = np.arange(40.0)
    rest = [rng.uniform(0, 40, 60) for _ in range(6)]
    there = starts + 0.2 + rng.uniform(0, 0.3, 40)
    spikes = [
        np.sort(
            np.r_[rest[unit], (there[:, None] + 0.06 * unit + rng.normal(0, 0.01, (40, 3))).ravel()]
        )
        for unit in range(6)
    ]
    trials = pd.DataFrame(
        {"start_time": starts, "stop_time": starts + 1, "side": ["left", "right"] * 20}
    )
    data = SpikeTrains.from_arrays(spikes, trials=trials, observed=[(0, 41)])
    write_nwb(folder / "a.nwb", data)
    line = "--bin 0.02 --length 0.4 --layout joint --family poisson --out"
    succeeded(run("fit", folder / "a.nwb", *line.split(), folder / "fit"))
    return folder


def test_speeds_conditions_and_shuffles(applied, tmp_path):
    options = "--speeds 1 2 -1 --bin 0.01s --by side --shuffles 9".split()
    outcome = succeeded(
        run("apply", applied / "fit", applied / "a.nwb", *options, "--out", tmp_path / "out")
    )
    events = pd.read_csv(tmp_path / "out" / "events.csv")
    assert (events["speed"] == 1).mean() > 0.9
    assert len(events) >= 36
    assert len(pd.read_csv(tmp_path / "out" / "replay.csv")) == 40
    conditions = pd.read_csv(tmp_path / "out" / "conditions.csv")
    assert set(conditions["condition"]) == {"left", "right"}
    assert (tmp_path / "out" / "conditions.png").stat().st_size > 1000
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "3 templates of a fit, found in a.nwb" in page
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["speeds"] == [1, 2, -1]
    assert "p < 0.05 against units" in outcome.out
    assert "conditions of side: least p-value" in outcome.out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--by sides", "`--by` (='sides') must be a column of the trials: 'start_time'"),
        ("--bin 0.01s", "goes with --speeds"),
        ("--speeds 0", "must be distinct numbers other than 0"),
        ("--speeds fast", "must be numbers, as in --speeds 8 12 -12"),
        ("--speeds 0.1", "window"),
    ],
)
def test_options_that_do_not_fit(applied, tmp_path, options, said):
    line = ("apply", applied / "fit", applied / "a.nwb", *options.split(), "--out", tmp_path / "o")
    outcome = run(*line)
    assert outcome.code == 2
    assert said in outcome.err
    assert not (tmp_path / "o").exists()


def test_conditions_of_pooled_trials_are_refused(sims, tmp_path):
    succeeded(
        run("fit", sims["pooled"], "--pool-trials", *FIT, "--folds", 0, "--out", tmp_path / "fit")
    )
    outcome = run(
        "apply", tmp_path / "fit", sims["pooled"], "--by", "start_time", "--out", tmp_path / "o"
    )
    assert outcome.code == 2
    assert "compares single trials, but these are pooled" in outcome.err
    assert "--own-windows" in outcome.err
