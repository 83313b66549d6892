"""`--events TABLE.COLUMN --within START STOP`: events near known times only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from commands import FIT, run, succeeded

from spikecdl import SpikeTrains, read, read_nwb_times, write_nwb

QUICK = [*FIT, "--folds", 0]


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Path:
    """Ten trials of a second; a burst of spikes after each cue, and another that has no cue."""
    rng = np.random.default_rng(0)
    starts = 2.0 * np.arange(10)
    cues = starts + rng.uniform(0.1, 0.4, 10)
    bursts = np.concatenate([cues + 0.01, starts + 0.7])
    spikes = np.concatenate([rng.uniform(0, 20, 200), *(b + 0.001 * np.arange(12) for b in bursts)])
    trials = {"start_time": starts, "stop_time": starts + 1, "cue": cues, "kind": ["a", "b"] * 5}
    path = tmp_path_factory.mktemp("cues") / "cues.nwb"
    observed, licks = (0.0, 20.0), {"start_time": cues, "stop_time": cues + 0.1}
    made = SpikeTrains.from_arrays(
        [np.unique(spikes)], trials=trials, observed=observed, intervals={"licks": licks}
    )
    return write_nwb(path, made) or path


@pytest.mark.parametrize("column", ["trials.cue", "licks.start_time"])
def test_events_begin_near_the_times_of_a_column(recording, tmp_path, column):
    near = ["--events", column, "--within", 0, 0.02, "--json"]
    about = succeeded(run("fit", recording, *QUICK, *near, "--out", tmp_path / "o")).json
    assert about["settings"]["events"] == column
    assert about["settings"]["within"] == [0.0, 0.02]
    assert about["events_per_template"][0] >= 8
    from pynwb import NWBHDF5IO

    with NWBHDF5IO(str(tmp_path / "o" / "results.nwb"), "r") as io:
        events = io.read().processing["ecephys"]["events"].to_dataframe()
    trials = read(recording).trials
    cues = (trials["cue"] - trials["start_time"]).to_numpy()
    after = events["time"].to_numpy() - cues[events["trial"].to_numpy()]
    assert (after > -0.002).all()
    assert (after <= 0.02 + 1e-9).all()
    again = succeeded(run("evaluate", tmp_path / "o", recording, "--json")).json
    assert again["events_per_template"] == about["events_per_template"]
    anywhere = ["evaluate", tmp_path / "o", recording, "--own-windows", "--json"]
    other = succeeded(run(*anywhere)).json
    assert other["events_per_template"][0] > about["events_per_template"][0]


def test_events_begin_near_the_time_stamps_of_a_series(recording, tmp_path):
    from pynwb import NWBHDF5IO, TimeSeries

    with NWBHDF5IO(str(recording), "r") as io:
        cues = io.read().trials["cue"][:]
    path = tmp_path / "tones.nwb"
    with NWBHDF5IO(str(recording), "r") as source, NWBHDF5IO(str(path), "w") as target:
        file = source.read()
        file.set_modified()
        tones = TimeSeries(name="tones", data=np.ones(10), unit="a.u.", timestamps=cues)
        file.add_stimulus(tones)
        target.export(src_io=source, nwbfile=file)
    np.testing.assert_array_equal(read_nwb_times(path, "/stimulus/presentation/tones"), cues)
    near = ["--within", 0, 0.02, "--json", "--out"]
    series, column = (
        succeeded(run("fit", file, *QUICK, "--events", events, *near, tmp_path / out)).json
        for file, events, out in (
            (path, "stimulus/presentation/tones", "series"),
            (recording, "trials.cue", "column"),
        )
    )
    assert series["events_per_template"] == column["events_per_template"]


@pytest.mark.parametrize("name", ["stimulus/presentation/none", "units", "intervals/trials/kind"])
def test_what_is_no_series_of_times_is_refused(recording, name):
    with pytest.raises(ValueError, match=f"`name` .='{name}'. must be the path of a time series"):
        read_nwb_times(recording, name)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            "--events trials.cue",
            "`--within` (=None) need each other",
        ),
        ("--events trials.kind --within 0 0.1", "trials.start_time, trials.stop_time, trials.cue"),
        ("--events trials.cue --within 0.2 0.1", "must not be before"),
        ("--events trials.cue --within 0 0.1 --trainer unrolled", "begin anywhere"),
    ],
)
def test_options_of_no_use_are_refused(recording, tmp_path, options, words):
    outcome = run("fit", recording, *QUICK, *options.split(), "--out", tmp_path / "o")
    assert outcome.code == 2
    assert words in outcome.err
