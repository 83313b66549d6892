"""`--events TABLE.COLUMN --within START STOP`: events near known times only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import FIT, run, succeeded, without_figures

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


@pytest.fixture(scope="module")
def near_cues(recording, tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    """Folder and summary of a fit of events near the cues."""
    out = tmp_path_factory.mktemp("near")
    near = ["--events", "trials.cue", "--within", 0, 0.02, "--json"]
    near += ["--bursts", "none"]  # which these events are, too: twelve spikes 1 ms apart
    with without_figures():
        return out, succeeded(run("fit", recording, *QUICK, *near, "--out", out)).json


def test_events_begin_near_the_times_of_a_column(recording, near_cues):
    from pynwb import NWBHDF5IO

    out, about = near_cues
    assert about["settings"]["events"] == "trials.cue"
    assert about["settings"]["within"] == [0.0, 0.02]
    assert about["events_per_template"][0] >= 8
    with NWBHDF5IO(str(out / "results.nwb"), "r") as io:
        events = io.read().processing["ecephys"]["events"].to_dataframe()
    trials = read(recording).trials
    cues = (trials["cue"] - trials["start_time"]).to_numpy()
    after = events["time"].to_numpy() - cues[events["trial"].to_numpy()]
    assert (after > -0.002).all()
    assert (after <= 0.02 + 1e-9).all()
    again = succeeded(run("evaluate", out, recording, "--json")).json
    assert again["events_per_template"] == about["events_per_template"]
    other = succeeded(run("evaluate", out, recording, "--own-windows", "--json")).json
    assert other["events_per_template"][0] > about["events_per_template"][0]


def test_times_may_be_of_another_table_or_of_a_series(recording, near_cues, tmp_path, only_summary):
    from pynwb import NWBHDF5IO, TimeSeries

    path, near = tmp_path / "tones.nwb", ["--within", 0, 0.02, "--json", "--out"]
    with NWBHDF5IO(str(recording), "r") as source, NWBHDF5IO(str(path), "w") as target:
        file = source.read()
        cues = file.trials["cue"][:]
        file.set_modified()
        tones = TimeSeries(name="tones", data=np.ones(10), unit="a.u.", timestamps=cues)
        file.add_stimulus(tones)
        target.export(src_io=source, nwbfile=file)
    np.testing.assert_array_equal(read_nwb_times(path, "/stimulus/presentation/tones"), cues)
    for name in ("stimulus/presentation/tones", "licks.start_time"):
        line = ["fit", path, *QUICK, "--events", name, "--bursts", "none"]
        line += [*near, tmp_path / name.replace("/", "-")]
        found = succeeded(run(*line)).json
        assert found["events_per_template"] == near_cues[1]["events_per_template"]


def test_what_is_no_series_of_times_is_refused(recording):
    for name in ("stimulus/presentation/none", "units", "intervals/trials/kind"):
        message = f"`name` .='{name}'. must be the path of a time series"
        with pytest.raises(ValueError, match=message):
            read_nwb_times(recording, name)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            "--events trials.cue",
            "`--within` (=None) need each other",
        ),
        ("--events trials.kind --within 0 0.1", "trials.start_time, trials.stop_time, trials.cue"),
        ("--events trials.cue --within 0 0.1 --trainer unrolled", "begin anywhere"),
    ],
)
def test_options_of_no_use_are_refused(recording, tmp_path, options, words):
    outcome = run("fit", recording, *QUICK, *options.split(), "--out", tmp_path / "o")
    assert outcome.code == 2
    assert words in outcome.err
