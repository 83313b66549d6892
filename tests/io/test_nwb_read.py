"""Reading NWB files that pynwb or h5py wrote, and recordings made with them."""

from __future__ import annotations

import re
from datetime import datetime, timezone

import h5py
import numpy as np
import pytest
from pynwb import NWBHDF5IO, NWBFile, TimeSeries
from pynwb.epoch import TimeIntervals
from tables import refused

from spikecdl.data import SpikeTrains
from spikecdl.data.binning import infer_clock_rate
from spikecdl.io import read, read_nwb
from spikecdl.io.nwb_read import RecordingWarning


@pytest.fixture
def file():
    return NWBFile("a session", "an id", datetime(2024, 5, 1, tzinfo=timezone.utc))


@pytest.fixture
def written(file, tmp_path):
    """Return a function that writes the file and returns its path."""

    def write():
        path = tmp_path / "session.nwb"
        with NWBHDF5IO(path, "w") as io:
            io.write(file)
        return path

    return write


def test_units_of_pynwb(file, written):
    file.add_unit_column("quality", "how good")
    file.add_unit_column("depths", "several values per unit", index=True)
    file.add_unit(spike_times=[0.1, 0.25], quality="good", depths=[1.0, 2.0], id=7)
    file.add_unit(spike_times=[], quality="bad", depths=[], id=3)
    file.add_unit(spike_times=[0.5], quality="good", depths=[5.0], id=12)
    spikes = read_nwb(written())
    assert spikes.unit_ids == (7, 3, 12)
    assert [t.tolist() for t in spikes.times] == [[0.1, 0.25], [], [0.5]]
    assert spikes.units.quality.tolist() == ["good", "bad", "good"]
    assert spikes.units.depths.tolist() == [(1.0, 2.0), (), (5.0,)]
    assert list(spikes.units.index) == [7, 3, 12]
    assert spikes.trials is None
    assert [o.tolist() for o in spikes.observed] == [[[0.0, 0.5]]] * 3


def test_waveforms_and_references_are_left_out(file, written):
    device = file.create_device("probe")
    group = file.create_electrode_group("shank", "a shank", "VPM", device)
    for _ in range(2):
        file.add_electrode(group=group, location="VPM")
    file.add_unit(
        spike_times=[0.1],
        electrodes=[0, 1],
        electrode_group=group,
        waveform_mean=np.ones((5, 2)),
    )
    spikes = read_nwb(written())
    assert spikes.units.to_dict("list") == {"electrodes": [(0, 1)]}


def test_observed_intervals_of_each_unit(file, written):
    file.add_unit(spike_times=[0.1, 4.5], obs_intervals=[[4.0, 5.0], [0.0, 1.0]])
    file.add_unit(spike_times=[0.3], obs_intervals=[[0.0, 2.0], [1.5, 3.0], [3.0, 3.5]])
    spikes = read_nwb(written())
    assert spikes.observed[0].tolist() == [[0.0, 1.0], [4.0, 5.0]]
    assert spikes.observed[1].tolist() == [[0.0, 3.5]]
    mask = spikes.bin(0.5).mask[0]
    assert mask.sum(axis=1).tolist() == [4, 7]


def test_a_unit_without_intervals_among_units_with_them_is_observed_throughout(file, written):
    file.add_unit(spike_times=[0.1, 0.2], obs_intervals=[[0.0, 1.0]])
    file.add_unit(spike_times=[0.3, 8.0], obs_intervals=np.empty((0, 2)))
    spikes = read_nwb(written())
    assert [o.tolist() for o in spikes.observed] == [[[0.0, 1.0]], [[0.0, 8.0]]]


def test_trials_with_text_ragged_and_missing_values(file, written):
    file.add_trial_column("stimulus", "what")
    file.add_trial_column("licks", "when", index=True)
    file.add_trial_column("go", "cue")
    file.add_trial_column("image_index", "which")
    file.add_trial(0.0, 1.0, [], stimulus="odour", licks=[0.5, 0.6], go=0.4, image_index=4)
    file.add_trial(2.0, 3.5, ["early", "late"], stimulus="ö", licks=[], go=np.nan, image_index=2)
    file.add_trial(4.0, 4.5, [], stimulus="", licks=[4.25], go=4.1, image_index=9)
    file.add_unit(spike_times=[0.5, 2.5])
    spikes = read_nwb(written())
    assert spikes.trials.stimulus.tolist() == ["odour", "ö", ""]
    assert spikes.trials.licks.tolist() == [(0.5, 0.6), (), (4.25,)]
    assert spikes.trials.tags.tolist() == [(), ("early", "late"), ()]
    assert spikes.trials.image_index.tolist() == [4, 2, 9]
    np.testing.assert_array_equal(spikes.trials.go, [0.4, np.nan, 4.1])
    assert (spikes.t_start, spikes.t_stop) == (0.0, 4.5)
    counts = spikes.bin(0.25, align="go", window=(0.0, 0.25), trials="stimulus == 'odour'")
    assert counts.counts.tolist() == [[[1]]]


def test_a_trial_without_an_end_does_not_make_a_file_unreadable(file, written):
    file.add_trial(0.0, 1.0)
    file.add_trial(1.0, np.nan)
    file.add_unit(spike_times=[0.5, 2.5])
    spikes = read_nwb(written())
    assert spikes.bin(0.5, trials="stop_time > 0").trial_ids == (0,)


def test_every_table_of_intervals_is_read(file, written):
    file.add_unit(spike_times=[0.5])
    file.add_epoch(0.0, 5.0, ["sleep"])
    file.add_epoch(5.0, 9.0, ["wake"])
    ripples = TimeIntervals(name="ripples", description="sharp-wave ripples")
    ripples.add_column("power", "dB")
    ripples.add_interval(1.0, 1.5, power=3.5)
    file.add_time_intervals(ripples)
    spikes = read_nwb(written())
    assert set(spikes.intervals) == {"epochs", "ripples"}
    assert spikes.intervals["epochs"].tags.tolist() == ["sleep", "wake"]
    assert spikes.intervals["ripples"].power.tolist() == [3.5]
    assert spikes.t_stop == 9.0


def test_references_to_series_in_trials_are_left_out(file, written):
    series = TimeSeries(name="lfp", data=np.arange(10.0), unit="V", rate=10.0, starting_time=0.0)
    file.add_acquisition(series)
    file.add_trial(0.0, 1.0, timeseries=[series])
    file.add_unit(spike_times=[0.5])
    assert list(read_nwb(written()).trials.columns) == ["start_time", "stop_time"]


def test_invalid_times_are_not_observed(file, written):
    file.add_unit(spike_times=[0.5, 1.5, 5.0], obs_intervals=[[0.0, 4.0], [4.5, 6.0]])
    file.add_unit(spike_times=[1.5], obs_intervals=np.empty((0, 2)))
    for start, stop in [(3.5, 5.0), (1.0, 2.0), (1.5, 2.5)]:
        file.add_invalid_time_interval(start_time=start, stop_time=stop)
    spikes = read_nwb(written())
    assert spikes.observed[0].tolist() == [[0.0, 1.0], [2.5, 3.5], [5.0, 6.0]]
    assert spikes.observed[1].tolist() == [[0.0, 1.0], [2.5, 3.5]]
    assert spikes.times[0].tolist() == [0.5, 1.5, 5.0]
    assert spikes.bin("1s").counts[0, 0].tolist() == [1, 0, 0, 0, 0, 1]
    assert "invalid_times" in spikes.intervals


def test_invalid_times_without_a_known_end(file, written):
    file.add_unit(spike_times=[0.5, 5.0], obs_intervals=[[0.0, 6.0]])
    for start, stop in [(1.0, np.nan), (4.0, np.inf)]:
        file.add_invalid_time_interval(start_time=start, stop_time=stop)
    assert read_nwb(written()).observed[0].tolist() == [[0.0, 4.0]]


def test_spike_times_are_sorted_within_their_unit(file, written):
    file.add_unit(spike_times=[0.5, 0.1, 0.3])
    file.add_unit(spike_times=[0.2, 0.2, 0.1])
    spikes = read_nwb(written())
    assert [t.tolist() for t in spikes.times] == [[0.1, 0.3, 0.5], [0.1, 0.2, 0.2]]


@pytest.mark.parametrize("rate", [1000.0, 24_414.0625, 30_000.0, 32_000.0])
def test_the_clock_is_the_resolution(file, written, rate):
    file.add_unit(spike_times=[0.1234567, 0.25])
    file.units.resolution = 1 / rate
    assert read_nwb(written()).clock_rate == rate


def test_without_a_resolution_the_clock_is_inferred(file, written):
    ticks = np.unique(np.random.default_rng(0).integers(0, 10**6, 300))
    file.add_unit(spike_times=ticks / 30_000)
    path = written()
    assert read_nwb(path).clock_rate == 30_000.0
    counts = read_nwb(path).bin(0.001).counts[0, 0]
    np.testing.assert_array_equal(counts, np.bincount(ticks // 30)[: len(counts)])


def test_reading_leaves_the_file_as_it_is(file, written):
    file.add_unit(spike_times=[0.1])
    path = written()
    before = path.read_bytes()
    read_nwb(path)
    assert path.read_bytes() == before


# plain HDF5


def plain_file(path, **changes):
    """Write HDF5 laid out like NWB, with none of its attributes."""
    datasets = {
        "units/spike_times": np.array([0.1, 0.2, 0.9, 0.5]),
        "units/spike_times_index": np.array([3, 3, 4]),
        "intervals/trials/start_time": np.array([0.0, 1.0]),
        "intervals/trials/stop_time": np.array([1.0, 2.0]),
        "intervals/trials/side": np.array([b"left", b"right"]),
        **changes,
    }
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            if values is not None:
                file[name] = values
    return path


def test_hdf5_laid_out_like_nwb(tmp_path):
    spikes = read(plain_file(tmp_path / "plain.h5"))
    assert spikes.unit_ids == (0, 1, 2)
    assert [t.tolist() for t in spikes.times] == [[0.1, 0.2, 0.9], [], [0.5]]
    assert [str(side) for side in spikes.trials.side] == ["left", "right"]
    assert spikes.bin(0.5, trials="side == 'left'").counts[0, 0].tolist() == [2, 1]


def test_one_unit_needs_no_index(tmp_path):
    index = {"units/spike_times_index": None}
    spikes = read_nwb(plain_file(tmp_path / "one.h5", **index))
    assert [t.tolist() for t in spikes.times] == [[0.1, 0.2, 0.5, 0.9]]


def test_big_endian_numbers_and_ids_of_text(tmp_path):
    starts = {"intervals/trials/start_time": np.array([0.0, 1.0], ">f8")}
    depths = {"units/depth": np.array([1, 2, 3], ">i4"), "units/id": ["a", "b", "c"]}
    spikes = read(plain_file(tmp_path / "big.h5", **starts, **depths))
    assert spikes.unit_ids == ("a", "b", "c")
    assert spikes.units.depth.to_dict() == {"a": 1, "b": 2, "c": 3}
    assert spikes.bin(0.5, trials="start_time > 0.5").counts.shape == (1, 3, 2)


def test_ids_that_repeat_do_not_name_units(tmp_path):
    path = plain_file(tmp_path / "ids.h5", **{"units/id": np.array([4, 4, 5])})
    with pytest.warns(RecordingWarning, match="2 different ids, so they are numbered from 0 to 2"):
        spikes = read_nwb(path)
    assert spikes.unit_ids == (0, 1, 2)


def test_what_is_wrong_inside_a_file_is_named(tmp_path):
    for changes, message in [
        ({"units/spike_times": None, "units/spike_times_index": None}, "intervals/trials"),
        ({"units/spike_times_index": np.array([3, 2, 4])}, "does not rise to the 4 values"),
        ({"units/spike_times_index": np.array([3, 3, 5])}, "does not rise to the 4 values"),
        ({"units/id": np.array([1, 2])}, "units/spike_times has 3 rows for 2 units"),
        ({"units/id": np.array([1, 2, 3j])}, "/units/id must hold whole numbers or text, not c"),
        ({"units/id": np.array([1, 2, np.nan])}, "/units/id must hold whole numbers or text"),
        ({"units/spike_times": np.array([0.1, 0.2, 0.9, 0.5j])}, "must hold times in seconds"),
        ({"intervals/trials/start_time": np.array([0, 1j])}, "must be in seconds, not complex"),
        ({"intervals/trials/start_time": ["2020-01-01", "2020-01-02"]}, "must be in seconds"),
        ({"units/spike_times": np.array([0.1, np.nan, 0.9, 0.5])}, "unit 0 must be finite"),
        ({"units/spike_times": np.array([b"a", b"b", b"c", b"d"])}, "must hold times in seconds"),
        (
            {"intervals/trials/stop_time": None},
            "lacks ['stop_time']; it has ['side', 'start_time']",
        ),
        ({"intervals/trials/stop_time": np.array([1.0])}, "differ in length"),
        ({"intervals/trials/stop_time": np.array([1.0, 0.5])}, "trial 1 must stop after it starts"),
        ({"units/spike_times": np.array([100.0, 200.0, 9e5, 5e5])}, "look like milliseconds"),
        ({"units/obs_intervals": np.array([[0.0, 1.0]])}, "no index to divide it"),
    ]:
        path = plain_file(tmp_path / "wrong.h5", **changes)
        one_line = rf"\A{re.escape(str(path))}.*{re.escape(message)}.*\Z"
        with refused(ValueError, one_line, changes):
            read_nwb(path)


def test_a_file_without_units_says_what_it_has(file, written):
    file.add_trial(0.0, 1.0)
    path = written()
    for reader in (read_nwb, read):
        with pytest.raises(
            ValueError, match="no units table with spike_times; the file has .*trials"
        ):
            reader(path)


def test_a_units_table_without_spikes_says_so(file, written):
    file.add_unit_column("quality", "how good")
    file.add_unit(quality="good")
    with pytest.raises(ValueError, match="no units table with spike_times"):
        read_nwb(written())


# real recordings


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # of pynwb's
def test_head_direction_cells(shared_data):
    path = shared_data / "nwb_hd_cells" / "A2929-200711.nwb"
    spikes = read(path)
    with NWBHDF5IO(path, "r") as io:
        units = io.read().units
        assert spikes.n_units == len(units) == 15
        for unit in range(15):
            np.testing.assert_array_equal(spikes.times[unit], np.sort(units["spike_times"][unit]))
        assert spikes.units.location.tolist() == list(units["location"][:])
    assert len(spikes.intervals["sleep_ripples"]) == 594
    assert spikes.trials is None
    counts = spikes.bin(0.05, table="epochs")
    assert len(counts) == len(spikes.intervals["epochs"])


@pytest.mark.parametrize("name", ["dir3_stim2", "dir16_stim1"])
def test_thalamic_cells(shared_data, name):
    path = shared_data / "whisker_thalamus" / f"{name}.nwb"
    spikes = read(path)
    assert len(spikes.trials) == 50
    assert spikes.trials.split.value_counts().to_dict() == {"test": 33, "train": 17}
    counts = spikes.bin(0.001)
    # spikes sit in the middle of their bin of 1 ms
    with h5py.File(path) as file:
        times = np.asarray(file["units/spike_times"])
    assert counts.counts.sum() == times.size
    assert counts.counts.max() == 1
    assert counts.shape == (50, spikes.n_units, 3000)
    assert counts.mask.all()
    whole = np.sort(np.concatenate(spikes.times))
    expected = np.bincount(np.floor(whole * 1000).astype(int), minlength=150_000)
    np.testing.assert_array_equal(counts.counts.sum(axis=1).ravel(), expected)
    assert spikes.bin(0.005).pool().n_trials.max() in (50, 250)


def test_the_shared_recordings_have_a_clock(shared_data):
    for path in sorted((shared_data / "whisker_thalamus").glob("*.nwb")):
        spikes = read(path)
        assert isinstance(spikes, SpikeTrains)
        assert spikes.clock_rate == infer_clock_rate(spikes.times) == 2000.0
