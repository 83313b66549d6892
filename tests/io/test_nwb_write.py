"""Writing NWB: nothing is lost, pynwb opens it, validation and inspection find nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timezone

import h5py
import numpy as np
import pandas as pd
import pynwb
import pytest
from decompositions import made_up
from nwbinspector import Importance, inspect_nwbfile_object
from pynwb import NWBHDF5IO, NWBFile
from pynwb.file import Subject
from recordings import (
    assert_same_counts,
    assert_same_recording,
    assert_same_table,
    make_counts,
    make_decomposition,
    make_recording,
    make_truth,
)

from spikecdl import DCEA
from spikecdl.data import BinnedSpikes, SpikeTrains
from spikecdl.io import nwb_write, read, read_binned_nwb, read_nwb, write_nwb
from spikecdl.simulate import simulate


def simulated(layout="shared", family="binomial"):
    trials = np.array([[0.0, 1.0], [1.0, 2.0], [2.0, 3.0]])
    spikes = [[0.1, 0.25, 1.5], [0.3, 2.75]]
    truth = make_truth(3, 2, layout=layout, family=family)
    return SpikeTrains.from_arrays(spikes, trials=trials, truth=truth, observed=(0.0, 3.0))


def signal():
    values = np.random.default_rng(0).normal(size=(3, 2, 40))
    return BinnedSpikes.from_array(values, 0.01, unit_ids=("roi 1", "roi 2"))


def many():
    """Units with ids that make a list longer than an HDF5 attribute can hold."""
    names = [f"{i} {'x' * 300}" for i in range(300)]
    counts = np.random.default_rng(0).integers(0, 2, (1, 300, 400))
    return BinnedSpikes.from_array(counts, unit_ids=names)


RECORDINGS = {
    "all kinds of columns": make_recording,
    "simulated, shared": simulated,
    "simulated, joint": lambda: simulated("joint", "poisson"),
    "one unit": lambda: SpikeTrains.from_arrays([[0.1, 0.25]], observed=(0.0, 1.0)),
    "never observed": lambda: SpikeTrains.from_arrays([[0.1], []], observed=[[[0.0, 1.0]], []]),
    "integer ids": lambda: SpikeTrains.from_arrays({7: [0.1], -3: [0.2]}, observed=(0.0, 1.0)),
}
COUNTS = {
    "masked": make_counts,
    "pooled": lambda: make_counts().pool(),
    "simulated, shared": lambda: make_counts(truth="shared"),
    "simulated, pooled": lambda: make_counts(truth="shared").pool(),
    "simulated, joint": lambda: make_counts(truth="joint"),
    "signal": signal,
    "one window": lambda: BinnedSpikes.from_array([[0, 1, 0, 2, 1, 0, 0]], 0.005),
    "more units than bins": lambda: BinnedSpikes.from_array(np.ones((1, 9, 4), int), 0.1),
    "overlapping windows": lambda: BinnedSpikes.from_array(
        np.ones((2, 5), int), 0.1, trial_starts=[1.0, 1.2]
    ),
    "many units": many,
}


# counts that are also written, and found clean, with a decomposition of this layout
WITH_DECOMPOSITION = {
    "masked": "shared",
    "pooled": "joint",
    "simulated, shared": "shared",
    "signal": "joint",
    "one window": "shared",
}


def assert_clean(path):
    """Check that pynwb opens and validates a file and nwbinspector has at most suggestions."""
    with NWBHDF5IO(path, "r") as io:
        file = io.read()
        assert not pynwb.validate(io=io)
        findings = list(inspect_nwbfile_object(file))
    serious = [
        f"{finding.object_name}: {finding.message}"
        for finding in findings
        if finding.importance.value > Importance.BEST_PRACTICE_SUGGESTION.value
    ]
    assert not serious


@pytest.mark.parametrize("name", RECORDINGS)
def test_recordings_come_back(tmp_path, name):
    spikes, path = RECORDINGS[name](), tmp_path / "recording.nwb"
    write_nwb(path, spikes)
    assert_clean(path)
    back = read(path)
    assert_same_recording(back, replace(spikes, clock_rate=back.clock_rate))
    assert spikes.clock_rate in (None, back.clock_rate)
    assert back.source == str(path)


@pytest.mark.parametrize("name", COUNTS)
def test_binned_data_come_back(tmp_path, name):
    counts, path = COUNTS[name](), tmp_path / "counts.nwb"
    write_nwb(path, counts)
    assert_same_counts(read(path), counts)
    if name not in WITH_DECOMPOSITION:
        assert_clean(path)


@pytest.mark.parametrize(("name", "layout"), WITH_DECOMPOSITION.items())
def test_a_decomposition_is_written_beside_the_counts(tmp_path, name, layout):
    counts, path = COUNTS[name](), tmp_path / "results.nwb"
    parts = make_decomposition(counts, layout)
    write_nwb(path, counts, decomposition=parts)
    assert_clean(path)
    assert_same_counts(read(path), counts)
    n_trials, n_units, n_bins = counts.shape
    with NWBHDF5IO(path, "r") as io:
        file = io.read()
        module = file.processing["ecephys"]
        rate = module["fitted_rate"]
        assert rate.unit == ("Hz" if counts.is_counts else "a.u.")
        np.testing.assert_array_equal(
            rate.data[:].reshape(n_trials, n_bins, n_units), parts.rate.swapaxes(1, 2)
        )
        codes = module["codes"].data[:].reshape(n_trials, n_bins, -1, 2).transpose(0, 2, 3, 1)
        np.testing.assert_array_equal(codes[..., : n_bins - 3], parts.codes)
        assert not codes[..., n_bins - 3 :].any()
        baseline = module["fitted_baseline"].data[:].reshape(n_trials, n_bins, n_units)
        np.testing.assert_array_equal(baseline[:, 0], parts.baseline)
        templates = module["templates"].to_dataframe()
        np.testing.assert_allclose(templates["time"], counts.bin_size * np.arange(4))
        for i, template in enumerate(parts.templates):
            stored = np.stack(templates[f"template_{i}"].to_list()).reshape(4, -1)
            np.testing.assert_array_equal(stored.T, template)
        events = module["events"].to_dataframe().reset_index(drop=True)
        expected = parts.events()
        for column in parts.events().columns.intersection(["trial", "unit"]):
            assert events[column].astype(str).tolist() == expected[column].astype(str).tolist()
        rest = ["template", "time", "amplitude"]
        assert_same_table(events[rest], expected[rest])
        fit = json.loads(file.notes)["fit"]
    assert fit["deviance_explained"] == 0.25
    assert fit["deviance_explained_per_unit"] == parts.deviance_explained_per_unit.tolist()
    assert (fit["family"], fit["layout"]) == (parts.family.name, layout)


def test_results_lie_at_their_own_times_in_the_recording(tmp_path):
    spikes, path = make_recording(), tmp_path / "results.nwb"
    counts = spikes.bin(0.1, align="start_time", window=(0.5, 1.5))
    write_nwb(path, spikes, decomposition=make_decomposition(counts))
    assert_clean(path)
    with NWBHDF5IO(path, "r") as io:
        file = io.read()
        times = file.processing["ecephys"]["fitted_rate"].timestamps[:]
        windows = file.intervals["windows"].to_dataframe()
    np.testing.assert_allclose(
        times.reshape(3, 10), np.add.outer([0.5, 3.0, 6.5], counts.times - 0.5)
    )
    np.testing.assert_allclose(windows.start_time, [0.5, 3.0, 6.5])
    np.testing.assert_allclose(windows.stop_time, [1.5, 4.0, 7.5])
    assert list(windows.index) == [10, 11, 15]
    back = read(path)
    assert_same_recording(replace(back, intervals={"ripples": back.intervals["ripples"]}), spikes)


@pytest.mark.parametrize("starts", [None, [1.0, 1.2], [5.0, 1.0]])
def test_windows_without_times_of_their_own_are_laid_end_to_end(tmp_path, starts):
    counts = BinnedSpikes.from_array(np.arange(10).reshape(2, 5), 0.1, trial_starts=starts)
    write_nwb(tmp_path / "counts.nwb", counts)
    with NWBHDF5IO(tmp_path / "counts.nwb", "r") as io:
        file = io.read()
        series = file.processing["ecephys"]["binned_signal"]
        assert (series.starting_time, series.rate, series.timestamps) == (0.0, 10.0, None)
        assert series.data[:].ravel().tolist() == list(range(10))
        assert file.trials["start_time"][:].tolist() == [0.0, 0.5]


def test_counts_keep_their_integer_type(tmp_path):
    counts = BinnedSpikes.from_array(np.ones((2, 30), int))
    write_nwb(tmp_path / "counts.nwb", counts)
    with h5py.File(tmp_path / "counts.nwb") as file:
        assert file["processing/ecephys/binned_signal/data"].dtype.kind in "iu"


def test_names_that_nwb_keeps_for_itself(tmp_path):
    columns = {"id": [1], "name": ["x"], "timeseries": [2.0], "a/b": ["c"], "trial_id": ["t"]}
    trials = pd.DataFrame({"start_time": [0.0], "stop_time": [1.0], **columns}, index=["first"])
    spikes = SpikeTrains.from_arrays(
        {"a": [0.1], "b": [0.2]},
        trials=trials,
        intervals={"on/off": [[0.0, 0.5]]},
        units={"unit_id": [5, 6], "electrodes": ["e1", "e2"], "spike_times": [1, 2]},
    )
    path = tmp_path / "names.nwb"
    write_nwb(path, spikes)
    assert_clean(path)
    back = read(path)
    assert back.unit_ids == ("a", "b")
    assert set(back.units.columns) == {"unit_id_", "electrodes_", "spike_times_"}
    assert list(back.trials.index) == ["first"]
    renamed = {"id_", "name_", "timeseries_", "a_b", "trial_id_"}
    assert set(back.trials.columns) == {"start_time", "stop_time", *renamed}
    assert set(back.intervals) == {"on_off"}


def test_odd_values_become_text_or_rows(tmp_path):
    trials = pd.DataFrame(
        {
            "start_time": [0.0, 1.0],
            "stop_time": [1.0, 2.0],
            "when": pd.to_datetime(["2024-01-01", None]),
            "what": ["a", None],
            "nested": [((1, 2), (3,)), ()],
            "row": [np.array([1.0, 2.0]), np.array([3.0, 4.0])],
        }
    )
    path = tmp_path / "odd.nwb"
    write_nwb(path, SpikeTrains.from_arrays([[0.1]], trials=trials))
    assert not pynwb.validate(path=path)
    back = read(path).trials
    assert [when[:10] for when in back.when] == ["2024-01-01", ""]
    assert back.what.tolist() == ["a", ""]
    assert back.nested.tolist() == [((1, 2), (3,)), ()]
    assert [list(row) for row in back.row] == [[1.0, 2.0], [3.0, 4.0]]


def test_events_without_an_end_end_where_they_start(tmp_path):
    spikes = SpikeTrains.from_arrays([[0.1]], intervals={"cues": {"start_time": [0.1, 0.5]}})
    write_nwb(tmp_path / "cues.nwb", spikes)
    assert read(tmp_path / "cues.nwb").intervals["cues"].stop_time.tolist() == [0.1, 0.5]


def test_the_session_and_subject_of_the_source_are_carried_over(tmp_path):
    start = datetime(2024, 5, 1, 12, 30, tzinfo=timezone.utc)
    file = NWBFile("a session", "an id", start, experimenter=["Doe, Jane"], lab="the lab")
    file.subject = Subject(subject_id="rat 7", species="Rattus norvegicus", age="P90D", sex="F")
    file.add_unit(spike_times=[0.1, 0.25])
    with NWBHDF5IO(tmp_path / "source.nwb", "w") as io:
        io.write(file)
    spikes = read(tmp_path / "source.nwb")
    for data in (spikes, spikes.bin(0.01)):
        write_nwb(tmp_path / "copy.nwb", data)
        with NWBHDF5IO(tmp_path / "copy.nwb", "r") as io:
            copy = io.read()
            assert copy.session_start_time == start
            assert copy.experimenter == ("Doe, Jane",)
            assert copy.lab == "the lab"
            assert copy.subject.subject_id == "rat 7"
            assert copy.identifier != "an id"
            assert "source.nwb" in copy.session_description


def test_the_source_is_never_overwritten(tmp_path):
    path = tmp_path / "recording.nwb"
    write_nwb(path, make_recording())
    before = path.read_bytes()
    spikes = read(path)
    link = tmp_path / "link.nwb"
    link.symlink_to(path)
    for target in (path, link):
        for data in (spikes, spikes.bin(0.1)):
            with pytest.raises(ValueError, match="is where the data come from; write elsewhere"):
                write_nwb(target, data)
    assert path.read_bytes() == before


def test_files_are_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "recording.nwb"
    write_nwb(path, simulated())
    before = path.read_bytes()

    def fail(*_):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(NWBHDF5IO, "write", fail)
        with pytest.raises(OSError, match="(?i)no space left"):
            write_nwb(path, make_recording())
        with pytest.raises(OSError, match="(?i)no space left"):
            write_nwb(tmp_path / "new.nwb", make_recording())
    assert [file.name for file in tmp_path.iterdir()] == ["recording.nwb"]
    assert path.read_bytes() == before
    write_nwb(path, make_recording())
    assert_same_recording(read_nwb(path), make_recording())


@pytest.mark.parametrize(
    ("name", "data", "error", "message"),
    [
        ("no/such/folder/a.nwb", make_recording(), FileNotFoundError, "no file or folder"),
        ("", make_recording(), ValueError, "is a folder; name a file in it"),
        ("a.nwb", {"times": [0.1]}, TypeError, "must be SpikeTrains or BinnedSpikes, not dict"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path, name, data, error, message):
    with pytest.raises(error, match=message):
        write_nwb(tmp_path / name, data)
    assert not list(tmp_path.iterdir())


def test_binned_data_of_others_are_refused(tmp_path):
    path = tmp_path / "other.nwb"
    write_nwb(path, make_counts())
    with h5py.File(path, "r+") as file:
        del file["general/notes"]
    with pytest.raises(ValueError, match="general/notes hold no JSON, as spikecdl writes it"):
        read(path)
    write_nwb(path, make_recording())
    with pytest.raises(ValueError, match="no binned_signal; the file has .*units"):
        read_binned_nwb(path)


def test_events_of_each_template_are_series(tmp_path):
    recording = make_recording()
    parts = make_decomposition(recording.bin(0.01, align="start_time", window=(0.0, 2.0)))
    write_nwb(tmp_path / "r.nwb", recording, decomposition=parts)
    assert_clean(tmp_path / "r.nwb")
    starts = {10: 0.0, 11: 2.5, 15: 6.0}  # of the trials
    with NWBHDF5IO(tmp_path / "r.nwb", "r") as io:
        module = io.read().processing["ecephys"]
        units = module["rate_columns"]["unit"][:]
        for row in parts.events().itertuples():
            series = module[f"events_{row.template}_amplitude"]
            np.testing.assert_allclose(series.timestamps[:], starts[row.trial] + row.time)
            np.testing.assert_allclose(series.data[:], row.amplitude)
            assert units[module[f"events_{row.template}_column"].data[0]] == row.unit
        assert "events_0_probability" not in module.data_interfaces  # this one has none


def test_pynapple_loads_events_rates_and_units(tmp_path):
    nap = pytest.importorskip("pynapple")
    drawn = simulate("poisson", ["square"], n_units=2, same_events=True, random_state=0)
    counts = drawn.pool()
    model = DCEA(1, 0.05, "poisson", random_state=0).fit(counts)
    parts = model.decompose(counts)
    write_nwb(tmp_path / "r.nwb", counts, decomposition=parts)
    file = nap.load_file(str(tmp_path / "r.nwb"))
    events = parts.events()
    for name in ("amplitude", "probability"):
        series = file[f"events_0_{name}"]
        assert isinstance(series, nap.Tsd)
        expected = events[name][events["template"] == 0].to_numpy()
        np.testing.assert_allclose(np.sort(series.d), np.sort(expected))
    rate = file["fitted_rate"]
    rate.set_info(unit=file.nwb.processing["ecephys"]["rate_columns"]["unit"][:])
    assert list(rate["unit"]) == list(counts.unit_ids)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{}/private/rat.nwb", "the data come from rat.nwb"),
        ("{0}/a.nwb, {0}/b.nwb", "the data come from a.nwb, b.nwb"),
        ("DANDI 000123/sub-1", "the data come from DANDI 000123/sub-1"),
        ("", "the data come from arrays"),
    ],
)
def test_a_file_names_no_folders_of_this_machine(tmp_path, source, said):
    path = tmp_path / "copy.nwb"
    write_nwb(path, replace(make_recording(), source=source.format(tmp_path)))
    with NWBHDF5IO(path, "r") as io:
        assert io.read().session_description.endswith(said)
    assert str(tmp_path).encode() not in path.read_bytes()


@pytest.mark.slow
def test_a_large_recording_is_written_column_by_column(tmp_path):
    """500 units with 1e5 spikes each: row by row this takes minutes."""
    times = [np.arange(100_000) / 1000 + unit * 1e-6 for unit in range(500)]
    spikes = SpikeTrains.from_arrays(times, observed=(0.0, 101.0))
    write_nwb(tmp_path / "large.nwb", spikes)
    assert_same_recording(read(tmp_path / "large.nwb"), replace(spikes, clock_rate=1e6))


@pytest.mark.parametrize("trials", [1, 3])
def test_long_series_are_written_a_few_columns_at_a_time(trials, tmp_path, monkeypatch):
    parts = made_up("poisson", "joint", trials=trials, units=5)
    write_nwb(tmp_path / "whole.nwb", parts.counts, decomposition=parts)
    monkeypatch.setattr(nwb_write._TimeAxis, "at_once", 2 * trials * parts.counts.n_bins)
    write_nwb(tmp_path / "pieces.nwb", parts.counts, decomposition=parts)
    for name in ("fitted_rate", "fitted_baseline", "codes"):
        found = []
        for file in ("whole.nwb", "pieces.nwb"):
            with h5py.File(tmp_path / file) as opened:
                found.append(opened[f"processing/ecephys/{name}/data"][:])
        assert found[0].shape[0] == trials * parts.counts.n_bins
        np.testing.assert_array_equal(*found)
