"""Neo objects in memory, files that Neo wrote, and the way back."""

from __future__ import annotations

from dataclasses import replace

import neo
import numpy as np
import pandas as pd
import pytest
import quantities as pq
from recordings import assert_same_recording, assert_same_table, make_recording
from tables import refused

from spikecdl.data import SpikeTrains
from spikecdl.io import read, read_neo, to_neo, write_nwb

TICKS = np.array([1, 4, 5, 31, 77, 1000])  # of 1 ms


def train(times=(0.1, 0.25), units="s", t_stop=1.0, **options):
    return neo.SpikeTrain(times, units=units, t_stop=t_stop, **options)


def block_of(*segments):
    block = neo.Block()
    for trains in segments:
        segment = neo.Segment()
        segment.spiketrains.extend(trains)
        block.segments.append(segment)
    return block


# in memory


@pytest.mark.parametrize(
    ("units", "scale"), [("s", 1), ("ms", 1000), ("us", 10**6), (pq.CompoundUnit("1/30000*s"), 30)]
)
def test_units_become_seconds_exactly(units, scale):
    per_second = 30_000 if scale == 30 else scale
    ticks = TICKS * scale if scale == 30 else TICKS * scale / 1000
    spikes = read_neo(train(ticks, units, t_stop=2 * per_second, t_start=0 * per_second))
    np.testing.assert_array_equal(spikes.times[0], TICKS / 1000)
    assert spikes.observed[0].tolist() == [[0.0, 2.0]]
    np.testing.assert_array_equal(
        spikes.bin(0.001).counts[0, 0], np.bincount(TICKS, minlength=2000)
    )


def test_a_train_is_observed_from_its_start_to_its_stop():
    trains = [
        neo.SpikeTrain([2500.0], units="ms", t_start=2000 * pq.ms, t_stop=4 * pq.s),
        neo.SpikeTrain([3.5], units="s", t_start=1.0 * pq.s, t_stop=5000 * pq.ms),
    ]
    spikes = read_neo(trains)
    assert [o.tolist() for o in spikes.observed] == [[[2.0, 4.0]], [[1.0, 5.0]]]
    assert spikes.bin("1s").mask[0].tolist() == [[0, 1, 1, 0], [1, 1, 1, 1]]


@pytest.mark.parametrize("wrap", [lambda t: t, lambda t: block_of([t]).segments[0], lambda t: [t]])
def test_trains_segments_blocks_and_lists(wrap):
    spikes = read_neo(wrap(train(name="a")))
    assert spikes.unit_ids == ("a",)
    assert spikes.times[0].tolist() == [0.1, 0.25]
    assert spikes.trials is None


def test_times_are_sorted():
    assert read_neo(train([0.3, 0.1, 0.3])).times[0].tolist() == [0.1, 0.3, 0.3]


def test_trains_are_named_by_annotation_name_or_order():
    named = [train(name="x"), train(name="y")]
    assert read_neo(named).unit_ids == ("x", "y")
    assert read_neo([train(name="x"), train(name="x")]).unit_ids == (0, 1)
    for number, one in enumerate(named):
        one.annotate(unit_id=7 + number, area="VPM")
    spikes = read_neo(named)
    assert spikes.unit_ids == (7, 8)
    assert spikes.units.area.tolist() == ["VPM", "VPM"]


def test_the_sampling_rate_is_the_clock():
    assert read_neo(train(sampling_rate=24.4140625 * pq.kHz)).clock_rate == 24_414.0625
    assert read_neo(train(TICKS / 1000, t_stop=2.0)).clock_rate == 1000.0


def test_segments_at_times_of_their_own_are_trials_there():
    first = [train(name="a"), train([0.5], name="b")]
    later = [
        neo.SpikeTrain([3000.0], units="ms", t_start=2.5 * pq.s, t_stop=4 * pq.s, name="b"),
        neo.SpikeTrain([3.5], units="s", t_start=2.5, t_stop=4, name="c"),
    ]
    spikes = read_neo(block_of(first, later))
    assert spikes.unit_ids == ("a", "b", "c")
    assert [t.tolist() for t in spikes.times] == [[0.1, 0.25], [0.5, 3.0], [3.5]]
    assert spikes.trials.to_dict("list") == {"start_time": [0.0, 2.5], "stop_time": [1.0, 4.0]}
    assert spikes.observed[0].tolist() == [[0.0, 1.0]]
    mask = spikes.bin(0.5).mask
    assert mask.any(axis=2).tolist() == [[True, True, False], [False, True, True]]


def test_segments_that_all_start_at_zero_are_laid_end_to_end():
    block = block_of([train()], [train([0.5], t_stop=2.0)], [train([], t_stop=1.0)])
    for segment, name in zip(block.segments, ("left", "right", "left"), strict=True):
        segment.name = name
        segment.annotate(contrast=0.5)
        segment.events.append(neo.Event([0.25] * pq.s, labels=["go"], name="cues"))
    spikes = read_neo(block)
    assert spikes.times[0].tolist() == [0.1, 0.25, 1.5]
    assert spikes.trials.start_time.tolist() == [0.0, 1.0, 3.0]
    assert spikes.trials.stop_time.tolist() == [1.0, 3.0, 4.0]
    assert spikes.trials.name.tolist() == ["left", "right", "left"]
    assert spikes.trials.contrast.tolist() == [0.5] * 3
    assert spikes.intervals["cues"].start_time.tolist() == [0.25, 1.25, 3.25]
    assert spikes.intervals["cues"].label.tolist() == ["go"] * 3
    assert spikes.bin(0.5, trials="name == 'left'").counts[:, 0].tolist() == [[2, 0], [0, 0]]


def test_epochs_and_events_become_tables():
    segment = block_of([train()]).segments[0]
    segment.epochs.append(
        neo.Epoch(
            [100.0, 400.0] * pq.ms,
            durations=[0.2, 0.3] * pq.s,
            labels=["odour", "puff"],
            name="trials",
            array_annotations={"contrast": [0.5, 1.0], "start_time": [7, 8]},
        )
    )
    segment.epochs.append(neo.Epoch([0.0] * pq.s, durations=[500.0] * pq.ms))
    segment.events.append(neo.Event([0.3] * pq.s, labels=["go"], name="cues"))
    spikes = read_neo(segment)
    expected = {
        "start_time": [0.1, 0.4],
        "stop_time": [0.1 + 0.2, 0.7],
        "label": ["odour", "puff"],
        "contrast": [0.5, 1.0],
    }
    assert_same_table(spikes.trials, pd.DataFrame(expected))
    assert set(spikes.intervals) == {"epochs", "cues"}
    assert spikes.intervals["epochs"].stop_time.tolist() == [0.5]
    assert list(spikes.intervals["cues"].columns) == ["start_time", "label"]


def test_events_called_trials_are_no_trials():
    segment = block_of([train()]).segments[0]
    segment.events.append(neo.Event([0.3] * pq.s, labels=["go"], name="trials"))
    spikes = read_neo(segment)
    assert spikes.trials is None
    assert spikes.intervals["trials_"].start_time.tolist() == [0.3]


def test_what_holds_no_spikes_is_refused():
    for source, error, message in [
        (3, TypeError, "`source` must be a path, or a Block, Segment"),
        ([train(), 3], TypeError, "not list"),
        ([], ValueError, "no spike trains in the Neo objects"),
        (neo.Block(), ValueError, "no spike trains"),
        (block_of([]), ValueError, "no spike trains"),
        (block_of([train()], [train(), train()]), ValueError, "name the trains"),
    ]:
        with refused(error, message, source):
            read_neo(source)


# there and back


RECORDINGS = {
    "all kinds of columns": make_recording,
    "plain": lambda: SpikeTrains.from_arrays([[0.1, 0.2], []], observed=(0.0, 1.0)),
    "never observed": lambda: SpikeTrains.from_arrays([[0.1], []], observed=[[[0.0, 1.0]], []]),
    "spikes outside": lambda: SpikeTrains.from_arrays([[0.1, 3.0]], observed=(1.0, 2.0)),
    "events": lambda: SpikeTrains.from_arrays([[1.5]], intervals={"go": {"start_time": [0.5]}}),
    "integer ids": lambda: SpikeTrains.from_arrays({7: [0.1], 3: [0.2]}, observed=(0.0, 1.0)),
}


def assert_back(back, spikes):
    """Check that all came back but ragged columns, and the clock where Neo infers it."""
    if spikes.trials is not None:
        spikes = replace(spikes, trials=spikes.trials.drop(columns="licks"))
    assert spikes.clock_rate in (None, back.clock_rate)
    assert_same_recording(back, replace(spikes, clock_rate=back.clock_rate))


@pytest.mark.parametrize("name", RECORDINGS)
def test_recordings_come_back(name):
    spikes = RECORDINGS[name]()
    assert_back(read_neo(to_neo(spikes)), spikes)


def test_neo_gets_seconds_ids_and_limits():
    block = to_neo(make_recording())
    (segment,) = block.segments
    assert [t.name for t in segment.spiketrains] == ["a", "b", "c"]
    one = segment.spiketrains[1]
    assert (one.units, float(one.t_start), float(one.t_stop)) == (pq.s, 0.0, 9.0)
    assert one.annotations["area"] == "VPM"
    assert [(epoch.name, len(epoch)) for epoch in segment.epochs] == [("trials", 3), ("ripples", 2)]
    np.testing.assert_allclose(segment.epochs[0].durations.rescale("s").magnitude, [2, 2.5, 2.5])


# files


def write_nix(path, block):
    with neo.NixIO(str(path), "ow") as io:
        io.write_block(block)
    return path


@pytest.mark.parametrize(
    "name", ["all kinds of columns", "never observed", "events", "integer ids"]
)
def test_nix_files_give_recordings_back(tmp_path, name):
    spikes = RECORDINGS[name]()
    path = write_nix(tmp_path / "recording.nix", to_neo(spikes))
    assert_back(read(path), spikes)


def test_a_nix_file_of_segments_in_milliseconds(tmp_path):
    block = block_of(
        [
            train([100.0, 300.0], "ms", t_stop=500.0, name="a"),
            train([], "ms", t_stop=500, name="b"),
        ],
        [train([50.0], "ms", t_stop=500.0, name="a"), train([450.0], "ms", t_stop=500, name="b")],
    )
    block.segments[0].epochs.append(
        neo.Epoch([0.1] * pq.s, durations=[0.1] * pq.s, labels=["on"], name="light")
    )
    spikes = read(write_nix(tmp_path / "segments.nix", block))
    assert spikes.unit_ids == ("a", "b")
    np.testing.assert_allclose(spikes.times[0], [0.1, 0.3, 0.55], rtol=1e-15)
    np.testing.assert_allclose(spikes.times[1], [0.95], rtol=1e-15)
    assert spikes.trials.stop_time.tolist() == [0.5, 1.0]
    assert spikes.intervals["light"].label.tolist() == ["on"]


def test_a_matlab_file_of_neo(tmp_path):
    path = tmp_path / "block.mat"
    trains = [train([100.0, 250.0], "ms", t_stop=1000.0, name="a"), train([0.5], name="b")]
    neo.NeoMatlabIO(str(path)).write_block(block_of(trains))
    spikes = read(path)
    assert spikes.unit_ids == ("a", "b")
    assert [t.tolist() for t in spikes.times] == [[0.1, 0.25], [0.5]]
    assert [o.tolist() for o in spikes.observed] == [[[0.0, 1.0]]] * 2


def test_a_text_file_with_a_train_per_line(tmp_path):
    path = tmp_path / "trains.txt"
    path.write_text("0.1\t0.25\n0.5\n")
    times = read(path).times  # Neo holds these in single precision
    np.testing.assert_allclose(times[0], [0.1, 0.25], rtol=1e-6)
    np.testing.assert_allclose(times[1], [0.5])


def test_a_nix_file_without_spikes_says_so(tmp_path):
    path = write_nix(tmp_path / "empty.nix", block_of([]))
    with pytest.raises(ValueError, match="no reader of Neo's finds spikes in it") as error:
        read(path)
    assert str(path) in str(error.value)


def test_pickles_are_not_opened(tmp_path):
    path = tmp_path / "block.pkl"
    neo.PickleIO(str(path)).write_block(to_neo(make_recording()))
    for reader in (read, read_neo):
        with pytest.raises(ValueError, match=r"block\.pkl"):
            reader(path)


def test_nwb_goes_to_its_own_reader(tmp_path):
    """Neo's reader loses trials, and fails on files without observed intervals."""
    path = tmp_path / "recording.nwb"
    write_nwb(path, make_recording())
    assert_same_recording(read_neo(path), make_recording())
