"""Counts in a file: written, opened where they lie, and refused when damaged."""

from __future__ import annotations

from dataclasses import replace

import h5py
import numpy as np
import pytest
from fits import some_counts
from mutants import unsealed
from recordings import assert_same_counts, make_counts, make_recording

from spikecdl import BinnedSpikes, SpikeTrains, read, read_counts, write_counts
from spikecdl.simulate import place_spikes


def in_file(counts: BinnedSpikes) -> bool:
    """Whether the counts are a map of a file."""
    array = counts.counts
    while isinstance(array.base, np.ndarray) and not isinstance(array, np.memmap):
        array = array.base
    return isinstance(array, np.memmap)


class TestBinning:
    """`SpikeTrains.bin(file=...)` counts what `bin` counts in memory."""

    @pytest.mark.parametrize("bin_size", [0.05, 1e-5])
    def test_trials_of_different_lengths_partly_observed(self, tmp_path, bin_size):
        """The finer bins are checked and written in parts."""
        spikes, path = make_recording(), tmp_path / "counts.h5"
        whole = spikes.bin(bin_size)
        assert not whole.mask.all()
        stored = spikes.bin(bin_size, file=path)
        assert_same_counts(stored, whole)
        assert in_file(stored)
        assert stored.counts.dtype == np.int16
        assert stored.source == str(path)
        assert_same_counts(read(path), whole)

    def test_counting_in_parts_is_counting_at_once(self):
        """2,000 windows of 1,000 bins are counted in parts, one window of 2,000,000 bins is not."""
        ticks = np.unique(np.random.default_rng(0).integers(0, 2_000_000, 5000))
        starts = np.arange(0.0, 2000.0)
        spikes = SpikeTrains.from_arrays(
            [ticks / 1000],
            trials={"start_time": starts, "stop_time": starts + 1},
            intervals={"whole": [[0.0, 2000.0]]},
            observed=[[0.0, 700.5], [701.0, 2000.0]],
        )
        parts, whole = spikes.bin(0.001), spikes.bin(0.001, table="whole")
        assert parts.shape == (2000, 1, 1000)
        for name in ("counts", "mask"):
            np.testing.assert_array_equal(
                getattr(parts, name).ravel(), getattr(whole, name).ravel(), err_msg=name
            )

    def test_all_observed_is_one_array(self, tmp_path):
        spikes = SpikeTrains.from_arrays(
            [[0.1, 0.11, 1.5], [0.3]], trials=[[0, 1], [1, 2]], observed=(0, 2)
        )
        stored = spikes.bin(0.1, file=tmp_path / "counts.h5")
        assert_same_counts(stored, spikes.bin(0.1))
        with h5py.File(tmp_path / "counts.h5") as file:
            assert set(file) == {"counts", "header", "trial_starts"}

    def test_truth_is_kept(self, tmp_path):
        drawn = some_counts("poisson")
        spikes = place_spikes(drawn, random_state=0)
        stored = spikes.bin("1s", file=tmp_path / "counts.h5")
        assert stored.truth is not None
        assert_same_counts(stored, spikes.bin("1s"))

    def test_very_many_spikes_in_a_bin_need_wider_integers(self, tmp_path):
        times = np.sort(np.random.default_rng(0).uniform(0, 1, 40_000))
        spikes = SpikeTrains.from_arrays([times], observed=(0, 3))
        stored = spikes.bin("1s", file=tmp_path / "counts.h5")
        assert stored.counts.dtype == np.int32
        assert stored.counts.ravel().tolist() == [40_000, 0, 0]

    def test_nothing_is_left_of_what_fails(self, tmp_path):
        spikes = SpikeTrains.from_arrays(
            [[0.5]], trials=[[0, 1], [3, 4]], observed=[[0.5, 0.6], [3.1, 3.15]]
        )
        with pytest.raises(ValueError, match="no bin of any window"):
            spikes.bin(0.5, file=tmp_path / "counts.h5")
        assert not list(tmp_path.iterdir())


class TestRoundTrip:
    """`write_counts` and `read_counts`."""

    @pytest.mark.parametrize(
        "counts",
        [
            make_counts(),
            make_counts(masked=False),
            make_counts(truth="joint"),
            make_counts().pool(),
            some_counts("gaussian"),
            replace(
                make_counts(), trial_ids=tuple(f"trial {i}" for i in range(len(make_counts())))
            ),
        ],
        ids=["masked", "whole", "truth", "pooled", "signal", "text ids"],
    )
    def test_everything_comes_back(self, tmp_path, counts):
        stored = write_counts(tmp_path / "a.h5", counts)
        for one in (stored, read(tmp_path / "a.h5"), read_counts(str(tmp_path / "a.h5"))):
            assert_same_counts(one, counts)
            assert one.counts.dtype == counts.counts.dtype
            assert in_file(one)

    def test_neighbouring_trials_stay_in_the_file(self, tmp_path):
        stored = write_counts(tmp_path / "a.h5", some_counts())
        part = stored.select(trials=slice(2, 5))
        assert np.shares_memory(part.counts, stored.counts)
        assert_same_counts(part, some_counts().select(trials=[2, 3, 4]))

    def test_a_file_is_not_written_over_while_it_is_read(self, tmp_path):
        stored = write_counts(tmp_path / "a.h5", some_counts())
        with pytest.raises(ValueError, match="is where the data come from"):
            write_counts(tmp_path / "a.h5", stored)
        assert_same_counts(read(tmp_path / "a.h5"), some_counts())


class TestDamage:
    """What is wrong with a file is one sentence that names it."""

    def changed(self, tmp_path, change) -> str:
        path = tmp_path / "a.h5"
        write_counts(path, make_counts())
        with h5py.File(path, "r+") as file:
            change(file)
        return str(path)

    def refused(self, path, message):
        for reader in (read, read_counts):
            with pytest.raises(ValueError, match=message) as error:
                reader(path)
            assert str(path) in str(error.value)

    @pytest.mark.parametrize("left", [0.2, 0.6, 0.999])
    def test_cut_short(self, tmp_path, left):
        path = tmp_path / "a.h5"
        write_counts(path, some_counts())
        content = path.read_bytes()
        path.write_bytes(content[: int(left * len(content))])
        self.refused(path, "damaged or cut short")

    def test_packed_anew_in_chunks(self, tmp_path):
        def change(file):
            counts = file["counts"][:]
            del file["counts"]
            file.create_dataset("counts", data=counts, chunks=True, compression="gzip")

        self.refused(self.changed(tmp_path, change), "`counts` is stored in chunks or compressed")

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("counts", -1, "must be finite and not negative"),
            ("mask", False, "counts 0 where it is False"),
        ],
    )
    def test_values_that_cannot_be(self, tmp_path, name, value, message):
        def change(file):
            file[name][np.unravel_index(int(file["counts"][:].argmax()), file[name].shape)] = value

        self.refused(self.changed(tmp_path, change), message)

    def test_a_mask_of_other_numbers(self, tmp_path):
        path = tmp_path / "a.h5"
        write_counts(path, make_counts())
        unsealed(path)
        with h5py.File(path) as file:
            offset = file["mask"].id.get_offset()
        content = bytearray(path.read_bytes())
        content[offset] = 7
        path.write_bytes(content)
        self.refused(path, "`mask` holds other values")

    def test_parts_that_are_missing(self, tmp_path):
        for name in ("counts", "header", "trial_starts"):
            path = self.changed(tmp_path, lambda file: file.pop(name))  # noqa: B023
            self.refused(path, "cannot be read as counts in HDF5")

    def test_other_hdf5(self, tmp_path):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["counts"] = [[[1]]]
        with pytest.raises(ValueError, match="not a file of counts that spikecdl wrote"):
            read_counts(tmp_path / "a.h5")


class TestArrays:
    """Arrays of a caller's own."""

    def test_an_array_that_cannot_be_written_to_is_not_copied(self, tmp_path):
        np.save(tmp_path / "a.npy", np.ones((3, 2, 5), np.int16))
        mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
        assert np.shares_memory(BinnedSpikes.from_array(mapped).counts, mapped)

    def test_one_that_can_be_is(self):
        array = np.ones((3, 2, 5), int)
        counts = BinnedSpikes.from_array(array)
        array[:] = 9
        assert (counts.counts == 1).all()

    def test_counts_are_signed_and_do_not_wrap_around_soon(self):
        for dtype in [bool, np.int8, np.uint8, np.uint64, np.int16, np.float32]:
            counts = BinnedSpikes.from_array(np.ones((1, 1, 3), dtype)).counts
            assert counts.dtype.kind == "i"
            assert counts.dtype.itemsize > 1

    def test_bernoulli_trials_do_not_wrap_around(self):
        counts = BinnedSpikes.from_array([[0, 1]], sub_bins=200)
        assert counts.n_pooled.dtype == np.int8
        assert counts.n_trials.tolist() == [[[200, 200]]]
