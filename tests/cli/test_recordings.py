"""`spikecdl simulate` and `inspect`: what is written, and what is shown of a recording."""

from __future__ import annotations

import re

import h5py
import numpy as np
import pytest
from commands import SIMULATE, run, succeeded

import spikecdl
from spikecdl.io import read


def test_simulate_says_what_it_made(tmp_path):
    outcome = succeeded(run(*SIMULATE, "--json", "--out", tmp_path / "sim.nwb"))
    made = read(tmp_path / "sim.nwb")
    assert outcome.json["n_events"] == len(made.truth.events) == 80
    assert outcome.json["n_units"] == made.n_units == 2
    assert made.truth.family == "binomial"


def test_simulate_takes_templates_from_a_file(tmp_path):
    shapes = np.array([[1.0, 2, 3, 4], [4.0, -1, 0, 0]])
    np.save(tmp_path / "shapes.npy", shapes)
    more = ["--templates", tmp_path / "shapes.npy", "--length", 0.008, "--out", tmp_path / "s.nwb"]
    succeeded(run(*SIMULATE, *more))
    found = read(tmp_path / "s.nwb").truth.templates[:, 0]
    assert found == pytest.approx(shapes / np.linalg.norm(shapes, axis=1, keepdims=True))


def test_inspect_shows_what_there_is(sims):
    data = read(sims["pooled"])
    outcome = succeeded(run("inspect", sims["pooled"]))
    assert "2 units, with truth" in outcome.out
    assert "trials: 20" in outcome.out
    assert "start_time: 0 to " in outcome.out
    for unit, times in zip(data.unit_ids, data.times, strict=True):
        assert re.search(
            rf"^ +{unit} +{times.size} +\d+\.\d\d +\d+\.\d$", outcome.out, re.MULTILINE
        )
    about = succeeded(run("inspect", sims["pooled"], "--json")).json
    assert [unit["n_spikes"] for unit in about["units"]] == [times.size for times in data.times]
    best = about["suggested"]
    assert f"--bin {best['bin']:g} --length {best['length']:g}" in outcome.out


def test_inspect_shows_bins_and_columns(sims, tmp_path):
    assert "a real-valued signal" in succeeded(run("inspect", sims["gaussian"])).out
    trials = {
        "start_time": np.arange(12.0),
        "stop_time": np.arange(12.0) + 1,
        "stimulus": ["odour", "puff"] * 6,
        "block": [1, 1, 2] * 4,
        "licks": [tuple(np.arange(20.0))] * 12,
        "cue": [np.nan, *np.linspace(0.5, 11.5, 11)],
    }
    spikes = spikecdl.SpikeTrains.from_arrays({"one": [0.5, 3.25]}, trials=trials)
    spikecdl.write_nwb(tmp_path / "r.nwb", spikes)
    text = succeeded(run("inspect", tmp_path / "r.nwb")).out
    for line in (
        ": 1 unit\n",
        "stimulus: odour, puff\n",
        "block: 1, 2\n",
        "by stimulus: odour 6, puff 6 (--trials \"stimulus == 'odour'\")\n",
        "(1 missing)\n",
        "...\n",
    ):
        assert line in text


def test_inspect_lists_time_series(tmp_path):
    path = tmp_path / "behavior.nwb"
    spikecdl.write_nwb(path, spikecdl.SpikeTrains.from_arrays([[0.5]], observed=(0.0, 1.0)))
    with h5py.File(path, "r+") as file:
        for name, data, times in (
            ("speed", (9,), "starting_time"),
            ("place", (7, 2), "timestamps"),
        ):
            series = file.create_group(f"processing/behavior/Position/{name}")
            series.attrs["neurodata_type"] = "SpatialSeries"
            series["data"] = np.zeros(data)
            series[times] = 0.0 if times == "starting_time" else np.arange(7.0)
            if times == "starting_time":
                series[times].attrs["rate"] = 50.0
    series = succeeded(run("inspect", path, "--json")).json["series"]
    inside = "processing/behavior/Position"
    assert series == [
        {"path": f"{inside}/place", "type": "SpatialSeries", "shape": [7, 2], "rate": None},
        {"path": f"{inside}/speed", "type": "SpatialSeries", "shape": [9], "rate": 50.0},
    ]
    text = succeeded(run("inspect", path)).out
    assert f"series {inside}/place: SpatialSeries, 7 x 2 values with time stamps\n" in text
    assert f"series {inside}/speed: SpatialSeries, 9 values at 50 Hz\n" in text


def test_inspect_asks_about_what_looks_wrong(tmp_path):
    times = {"\x1b]0;title\x07": [1e-300, 0.25, 0.5]}
    spikecdl.write_nwb(tmp_path / "r.nwb", spikecdl.SpikeTrains.from_arrays(times))
    outcome = succeeded(run("inspect", tmp_path / "r.nwb"))
    assert "is this right? 1 spike between 0 and 1 microsecond" in outcome.out
    assert "the file's checksum is right" in outcome.out
    assert "\x1b" not in outcome.out
    about = succeeded(run("inspect", tmp_path / "r.nwb", "--json")).json
    assert about["fingerprint"] == spikecdl.read(tmp_path / "r.nwb").fingerprint
    assert len(about["questions"]) == 1
