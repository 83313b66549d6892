"""A recording that is played as a stream."""

from __future__ import annotations

import numpy as np
import pytest
from commands import run, succeeded
from populations import population

from spikecdl import DCEA, SpikeTrains, load
from spikecdl.io import write_counts, write_npz


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("watch")
    counts = population(n_units=40, duration=60.0, n_events=20, peak=40.0)
    model = DCEA(2, 0.5, "poisson", layout="joint", random_state=0).fit(counts)
    (folder / "model").mkdir()
    model.save(folder / "model")
    write_counts(folder / "counts.h5", counts)
    rng = np.random.default_rng(0)
    unit, number = np.nonzero(counts.counts[0])
    times = (number + rng.uniform(0.1, 0.9, len(number))) * counts.bin_size
    spikes = [np.sort(times[unit == n]) for n in range(40)]
    write_npz(folder / "spikes.npz", SpikeTrains.from_arrays(spikes, observed=(0.0, 60.0)))
    return folder


@pytest.mark.filterwarnings("ignore::spikecdl.NotConvergedWarning")
@pytest.mark.parametrize("name", ["counts.h5", "spikes.npz"])
def test_events_are_told_while_they_happen(folder, name):
    line = ("watch", folder / "model", folder / name)
    about = succeeded(run(*line, "--json")).json
    model = load(folder / "model")
    known = model.decompose(population(n_units=40, duration=60.0, n_events=20, peak=40.0)).events()
    assert len(known) > 30
    told = about["events"]
    near = [
        any(
            event["template"] == row.template and abs(event["began"] - row.time) < 0.1
            for event in told
        )
        for row in known.itertuples()
    ]
    assert np.mean(near) > 0.8
    assert all(event["began"] <= event["time"] < event["began"] + 0.5 for event in told)
    assert all(event["probability"] >= 0.9 for event in told)
    assert 0 < about["seconds_per_bin"]["median"] <= about["seconds_per_bin"]["worst"]
    lines = succeeded(run(*line)).out.splitlines()
    assert len(lines) == len(told) + 1
    assert lines[-1].startswith(f"{len(told)} events in 6000 bins; a bin took ")


def test_what_cannot_be_watched_is_refused(folder, tmp_path):
    write_npz(tmp_path / "few.npz", SpikeTrains.from_arrays([[0.1]], observed=(0.0, 1.0)))
    assert "lacks units of the fit" in run("watch", folder / "model", tmp_path / "few.npz").err
    outcome = run("watch", folder / "model", folder / "counts.h5", "--threshold", "2")
    assert "`--threshold` (=2.0) must be between 0 and 1" in outcome.err
