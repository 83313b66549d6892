"""Objects of other libraries become recordings and counts, and go back."""

from __future__ import annotations

import json
import sys

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from recordings import assert_same_recording, make_recording

from spikecdl.data import BinnedSpikes, SpikeTrains
from spikecdl.io import read, read_nwb, read_spikeinterface, to_neo, to_pynapple

TIMES = {3: [0.1, 0.45, 1.5], 7: [0.2]}
SAMPLES, LABELS = np.array([300, 600, 900, 45_000]), np.array(["a", "b", "a", "a"])
RATE = 30_000.0


@pytest.fixture
def nap():
    return pytest.importorskip("pynapple")


@pytest.fixture
def core():
    return pytest.importorskip("spikeinterface.core")


def group_of(nap, **metadata):
    support = nap.IntervalSet([0.0, 1.0], [0.9, 2.0])
    trains = {unit: nap.Ts(np.array(times), time_support=support) for unit, times in TIMES.items()}
    return nap.TsGroup(trains, time_support=support, metadata=metadata)


# Objects with spike times


@pytest.mark.parametrize("make", [read, SpikeTrains.from_arrays])
def test_a_group_of_pynapple_keeps_its_support_and_metadata(nap, make):
    trials = nap.IntervalSet([0.0, 1.0], [0.5, 1.75], metadata={"cue": [0.1, 1.2]})
    spikes = make(group_of(nap, area=["VPM", "POm"]), trials=trials)
    assert spikes.unit_ids == (3, 7)
    for times, expected, observed in zip(
        spikes.times, TIMES.values(), spikes.observed, strict=True
    ):
        np.testing.assert_array_equal(times, expected)
        np.testing.assert_array_equal(observed, [[0.0, 0.9], [1.0, 2.0]])
    assert spikes.units.to_dict("list") == {"area": ["VPM", "POm"]}
    assert spikes.trials.to_dict("list") == {
        **{"start_time": [0.0, 1.0], "stop_time": [0.5, 1.75], "cue": [0.1, 1.2]},
    }
    counts = spikes.bin(0.1, align="cue", window=(0.0, 0.4))
    np.testing.assert_array_equal(counts.counts[:, 0], [[1, 0, 0, 1], [0, 0, 0, 1]])


def test_a_recording_goes_to_pynapple_and_back(nap):
    spikes = make_recording()
    with pytest.warns(UserWarning, match="units were observed at different times"):
        group = to_pynapple(spikes)
    np.testing.assert_array_equal(np.asarray(group.time_support), [[0.0, 10.0]])
    again = read(group, trials=spikes.trials, observed=list(spikes.observed))
    assert again.unit_ids == spikes.unit_ids
    for one, other in zip(spikes.times, again.times, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9)  # pynapple rounds to nanoseconds
    assert again.units.to_dict("list") == spikes.units.to_dict("list")
    assert list(again.trials["cue"].dropna()) == [0.5, 3.0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of pynwb, about fields of the file
def test_a_published_recording_is_the_same_through_pynapple(nap, shared_data):
    path = shared_data / "nwb_hd_cells" / "A2929-200711.nwb"
    group = nap.load_file(str(path))["units"]
    spikes, expected = read(group), read_nwb(path)
    assert spikes.unit_ids == expected.unit_ids
    for one, other in zip(spikes.times, expected.times, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9)


def test_trials_become_an_interval_set_and_come_back(nap):
    spikes = make_recording()
    intervals = to_pynapple(spikes.trials[["start_time", "stop_time", "stimulus"]])
    np.testing.assert_array_equal(intervals.start, spikes.trials["start_time"])
    assert list(intervals["stimulus"]) == ["odour", "puff", "odour"]
    again = SpikeTrains.from_arrays(TIMES, trials=intervals, observed=intervals)
    assert list(again.trials["stop_time"]) == [2.0, 5.0, 8.5]
    np.testing.assert_array_equal(again.observed[1], np.asarray(intervals))


def test_intervals_that_overlap_do_not_become_an_interval_set(nap):
    with pytest.raises(ValueError, match="intervals overlap .*select some of the rows"):
        to_pynapple(pd.DataFrame({"start_time": [0.0, 0.5], "stop_time": [1.0, 2.0]}))


def test_without_pynapple_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynapple", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "spikecdl\[interop\]"'):
        to_pynapple(make_recording())


@pytest.mark.parametrize("columns", [("start", "end"), ("start_time", "stop_time")])
def test_a_mapping_of_units_with_trials(columns):
    trials = pd.DataFrame(dict(zip(columns, ([0.0, 1.0], [1.0, 3.0]), strict=True)))
    spikes = read(TIMES, trials=trials)
    assert spikes.unit_ids == (3, 7)
    np.testing.assert_array_equal(spikes.trials["stop_time"], [1.0, 3.0])
    np.testing.assert_array_equal(spikes.observed[0], [[0.0, 3.0]])


def test_a_long_table_is_one_row_per_spike():
    rows = [("b", 1.5), ("a", 0.2), ("b", 0.1), ("b", 0.1)]
    spikes = read(pd.DataFrame(rows, columns=["unit", "time"]).assign(amplitude=1.0))
    assert spikes.unit_ids == ("a", "b")
    np.testing.assert_array_equal(spikes.times[1], [0.1, 0.1, 1.5])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"unit": ["a"], "spike": [0.1]}, r"lacks \['time'\]; it has \['unit', 'spike'\]"),
        ({"unit": ["a"], "time": [0.1], "trial": [0]}, "add the start of its trial to each time"),
        ({"unit": ["a", None], "time": [0.1, 0.2]}, "rows without a unit"),
        ({"unit": ["a"], "time": ["soon"]}, "must be numbers, in seconds"),
    ],
)
def test_a_long_table_that_says_too_little_is_refused(table, message):
    with pytest.raises((ValueError, TypeError), match=message):
        read(pd.DataFrame(table))


@pytest.mark.parametrize("part", ["block", "segment", "train", "trains"])
def test_objects_of_neo(part):
    block = to_neo(make_recording())
    (segment,) = block.segments
    trains = list(segment.spiketrains)
    given = {"block": block, "segment": segment, "train": trains[0], "trains": trains}[part]
    spikes = read(given)
    assert spikes.unit_ids == (("a",) if part == "train" else ("a", "b", "c"))
    if part == "block":
        assert read(block, trials=[[0.0, 1.0]]).trials["stop_time"].tolist() == [1.0]


def test_a_sorting_of_spikeinterface(core):
    sorting = core.NumpySorting.from_samples_and_labels([SAMPLES], [LABELS], RATE)
    sorting.set_property("quality", ["good", "mua"])
    spikes = read(sorting, trials=[[0.0, 2.0]])
    assert spikes.unit_ids == ("a", "b")
    np.testing.assert_array_equal(spikes.times[0], [0.01, 0.03, 1.5])
    assert spikes.clock_rate == RATE
    assert list(spikes.units["quality"]) == ["good", "mua"]
    np.testing.assert_array_equal(spikes.observed[0], [[0.0, 2.0]])


def test_a_sorting_with_its_recording_knows_how_long_it_was(core):
    recording = core.NumpyRecording([np.zeros((60_000, 1), "float32")], RATE, t_starts=[100.0])
    sorting = core.NumpySorting.from_samples_and_labels([SAMPLES], [LABELS], RATE)
    sorting.register_recording(recording)
    spikes = read(sorting)
    np.testing.assert_allclose(spikes.times[0], [100.01, 100.03, 101.5])
    np.testing.assert_allclose(spikes.observed[1], [[100.0, 102.0]])


def test_segments_of_a_sorting_are_trials_end_to_end(core):
    recording = core.NumpyRecording([np.zeros((60_000, 1)), np.zeros((30_000, 1))], RATE)
    parts = [SAMPLES, np.array([15_000])], [LABELS, np.array(["b"])]
    sorting = core.NumpySorting.from_samples_and_labels(*parts, RATE)
    sorting.register_recording(recording)
    spikes = read(sorting)
    np.testing.assert_allclose(spikes.times[1], [0.02, 2.5])
    np.testing.assert_allclose(spikes.trials, [[0.0, 2.0], [2.0, 3.0]])


@pytest.mark.filterwarnings("ignore:The extractor is not serializable")
def test_a_folder_of_a_sorting_is_as_the_sorting(core, tmp_path):
    parts = [SAMPLES, np.array([15_000])], [LABELS, np.array(["b"])]
    sorting = core.NumpySorting.from_samples_and_labels(*parts, RATE)
    sorting.set_property("quality", ["good", "mua"])
    sorting.save(folder=tmp_path / "sorted")
    assert_same_recording(read(tmp_path / "sorted"), read(sorting))


@pytest.mark.filterwarnings("ignore:The extractor is not serializable")
def test_an_analyzer_and_its_folder(core, tmp_path):
    recording = core.generate_recording(durations=[2.0], num_channels=4, sampling_frequency=RATE)
    sorting = core.NumpySorting.from_samples_and_labels([SAMPLES], [LABELS], RATE)
    where = {"format": "binary_folder", "folder": tmp_path / "analyzer", "sparse": False}
    analyzer = core.create_sorting_analyzer(sorting, recording, **where)
    for source in (analyzer, tmp_path / "analyzer"):
        spikes = read(source)
        np.testing.assert_array_equal(spikes.times[0], [0.01, 0.03, 1.5])
        np.testing.assert_allclose(spikes.observed[0], [[0.0, 2.0]])


def write_folder(folder, **changes):
    """Write a folder like that of a sorting of spikeinterface, without spikeinterface."""
    folder.mkdir()
    about = {"sampling_frequency": RATE, "unit_ids": ["a", "b"], "num_segments": 1} | changes
    (folder / "numpysorting_info.json").write_text(json.dumps(about))
    names = ("sample_index", "unit_index", "segment_index")
    spikes = np.zeros(4, [(name, "int64") for name in names])
    spikes["sample_index"], spikes["unit_index"] = SAMPLES, [0, 1, 0, 0]
    np.save(folder / "spikes.npy", spikes)
    return folder


def test_a_folder_is_read_without_spikeinterface(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "spikeinterface", None)
    spikes = read(write_folder(tmp_path / "sorted"))
    np.testing.assert_array_equal(spikes.times[0], [0.01, 0.03, 1.5])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unit_ids": ["a"]}, "has a unit that is not among 1"),
        ({"num_segments": 0}, "`num_segments` .* must be at least 1"),
        ({"num_segments": 10**9}, "has 1000000000 segments for 4 spikes"),
        ({"unit_ids": 7}, "cannot be read as a folder of spikeinterface"),
        ({"sampling_frequency": "fast"}, "must be a number"),
    ],
)
def test_a_damaged_folder_is_named(tmp_path, changes, message):
    folder = write_folder(tmp_path / "sorted", **changes)
    with pytest.raises(ValueError, match=message) as error:
        read(folder)
    assert str(folder) in str(error.value)


def test_a_folder_runs_no_code(tmp_path):
    folder = write_folder(tmp_path / "sorted")
    (folder / "properties").mkdir()
    np.save(folder / "properties" / "quality.npy", np.array([{}, None]), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle=False; open the folder with `spikeinterf"):
        read(folder)
    with pytest.raises(ValueError, match="numpysorting_info.json is missing"):
        read_spikeinterface(tmp_path)


# Counts in bins


def test_sparse_counts_are_unit_by_bin():
    matrix = scipy.sparse.csr_array([[0, 2, 1], [1, 0, 0]])
    counts = read(matrix, bin_size=0.005)
    assert repr(counts) == "BinnedSpikes(1 trial, 2 units, 3 bins of 0.005 s, 4 spikes)"
    np.testing.assert_array_equal(counts.counts[0], matrix.toarray())


@pytest.mark.filterwarnings("ignore:The 'copy' argument in Quantity is deprecated")
def test_binned_spike_trains_of_elephant():
    conversion = pytest.importorskip("elephant.conversion")
    pq = pytest.importorskip("quantities")
    trains = list(to_neo(make_recording()).segments[0].spiketrains)
    spans = {"t_start": 1 * pq.s, "t_stop": 8 * pq.s}
    binned = conversion.BinnedSpikeTrain(trains, bin_size=5 * pq.ms, **spans, tolerance=None)
    counts = read(binned)
    assert counts.bin_size == 0.005
    assert counts.trial_starts == [1.0]
    np.testing.assert_array_equal(counts.counts[0], binned.to_array())


def test_what_a_source_cannot_have_is_refused():
    for given in ({"trials": [[0, 1]]}, {"observed": (0, 1)}):
        with pytest.raises(ValueError, match="is for spike times"):
            read(scipy.sparse.eye_array(3), **given)
    with pytest.raises(ValueError, match="count these spikes with `bin`"):
        read(TIMES, bin_size=0.1)
    with pytest.raises(TypeError, match=r"`source` \(ndarray\) must be a path, or: a TsGroup"):
        read(np.zeros((2, 3)))
    assert isinstance(read(scipy.sparse.eye_array(3)), BinnedSpikes)


@pytest.mark.parametrize("rate", [1e308, 0.0, -1.0, np.inf])
def test_sampling_rates_that_no_clock_has_are_refused(rate):
    spikeinterface = pytest.importorskip("spikeinterface")
    sorting = spikeinterface.NumpySorting.from_unit_dict({0: np.array([1, 2, 3])}, rate)
    with pytest.raises(ValueError, match="`sampling_frequency`"):
        read(sorting)
