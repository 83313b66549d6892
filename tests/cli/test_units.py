"""Units by number, range and column on the command line, and events at a false discovery rate."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from commands import run, succeeded

from spikecdl import SpikeTrains, load, read
from spikecdl.cli.windows import Selection


@pytest.fixture(scope="module")
def spikes() -> SpikeTrains:
    columns = pd.DataFrame({"location": ["ca1", "ca3", "ca1", "ca1"]}, index=[2, 7, 9, 14])
    times = np.random.default_rng(0).uniform(0, 9, (4, 50))
    return SpikeTrains.from_arrays(
        list(np.sort(times)), unit_ids=[2, 7, 9, 14], units=columns, trials=[[0.0, 9.0]]
    )


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("7-14", (7, 9, 14)),
        ("2,9-100", (2, 9, 14)),
        ("14, 7", (14, 7)),
        ("location == 'ca1'", (2, 9, 14)),
        ("location in ['ca3', 'ca1']", (2, 7, 9, 14)),
    ],
)
def test_units(text, units, spikes):
    assert Selection(units=text).count(spikes, "0.1").counts.unit_ids == units


@pytest.mark.parametrize("text", ["3-6", "9-7", "7,x", ",", "location = 'ca1'"])
def test_units_that_are_not_there(text, spikes):
    with pytest.raises(ValueError, match="`units`"):
        Selection(units=text).count(spikes, "0.1")


@pytest.mark.filterwarnings("ignore:the model was fitted to counts summed")
def test_events_at_a_false_discovery_rate(fitted, sims, tmp_path, no_figures):
    tables = {}
    for fdr in (None, 0.01):
        out = tmp_path / str(fdr)
        more = [] if fdr is None else ["--fdr", fdr]
        line = ("apply", fitted[0], sims["pooled"], "--own-windows", "--out", out, *more)
        said = succeeded(run(*line)).out
        tables[fdr] = pd.read_csv(out / "events.csv")
    parts = load(fitted[0]).decompose(read(sims["pooled"]).bin(0.002))
    assert len(tables[None]) == len(parts.events())
    assert len(tables[0.01]) == len(parts.events(0.01)) < len(tables[None])
    assert (tables[0.01]["q_value"] <= 0.01).all()
    assert f"{len(tables[0.01])} events at a false discovery rate of 0.01: events.csv" in said
    about = json.loads((tmp_path / "0.01" / "summary.json").read_text())
    assert about["n_events_at_fdr"] == len(tables[0.01])
