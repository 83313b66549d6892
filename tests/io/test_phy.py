"""Phy and Kilosort folders: clusters, labels, sample rates."""

from __future__ import annotations

import numpy as np
import pytest

from spikecdl.io import read, read_phy

SAMPLES = np.array([900, 30, 60, 60, 45_000, 3000, 60_000, 15])
CLUSTERS = np.array([4, 2, 4, 4, 9, 2, 9, 11])

GROUPS = "cluster_id\tgroup\n2\tgood\n4\tmua\n9\tgood\n11\tnoise\n30\tgood\n"
PARAMS = "dat_path = 'recording.dat'\nn_channels_dat = 64\nsample_rate = 30000.\n"


@pytest.fixture
def folder(tmp_path):
    np.save(tmp_path / "spike_times.npy", SAMPLES.astype(np.uint64)[:, None])
    np.save(tmp_path / "spike_clusters.npy", CLUSTERS.astype(np.int32))
    (tmp_path / "cluster_group.tsv").write_text(GROUPS)
    (tmp_path / "params.py").write_text(PARAMS)
    return tmp_path


def test_good_clusters_are_units(folder):
    spikes = read(folder)
    assert spikes.unit_ids == (2, 9)
    assert [t.tolist() for t in spikes.times] == [[0.001, 0.1], [1.5, 2.0]]
    assert spikes.clock_rate == 30_000.0
    assert (spikes.t_start, spikes.t_stop) == (0.0, 2.0)
    assert spikes.units.group.tolist() == ["good", "good"]
    assert spikes.bin(0.001).counts[0, 0, [0, 1, 100]].tolist() == [0, 1, 1]


def test_groups_are_chosen(folder):
    for groups, units in [
        (("good", "mua"), (2, 4, 9)),
        ("mua", (4,)),
        (["noise"], (11,)),
        (None, (2, 4, 9, 11)),
    ]:
        assert read_phy(folder, groups).unit_ids == units


def test_times_are_sorted_and_duplicates_kept(folder):
    assert read_phy(folder, "mua").times[0].tolist() == [0.002, 0.002, 0.03]


def test_a_group_that_no_cluster_has(folder):
    with pytest.raises(ValueError, match="no cluster is labelled 'best'; the labels are") as error:
        read_phy(folder, "best")
    assert "'good': 2" in str(error.value)


def test_info_and_labels_of_kilosort(folder):
    """Clusters that nobody has labelled have Kilosort's label; columns of all files are kept."""
    (folder / "cluster_group.tsv").unlink()
    (folder / "cluster_info.tsv").write_text(
        "cluster_id\tgroup\tKSLabel\tch\tdepth\n"
        "2\t\tgood\t5\t100.5\n4\tgood\tmua\t6\t110.0\n9\tmua\tgood\t7\t120.0\n11\t\tmua\t8\t130.0\n"
    )
    (folder / "cluster_Amplitude.tsv").write_text("cluster_id\tAmplitude\n4\t31.5\n2\t12.25\n")
    spikes = read_phy(folder)
    assert spikes.unit_ids == (2, 4)
    assert spikes.units.depth.tolist() == [100.5, 110.0]
    assert spikes.units.Amplitude.tolist() == [12.25, 31.5]


def test_labels_of_curation_win_over_those_of_older_files(folder):
    (folder / "cluster_info.tsv").write_text("id\tgroup\n2\tnoise\n4\tgood\n9\tnoise\n11\tnoise\n")
    assert read_phy(folder).unit_ids == (2, 9)


def test_a_folder_that_nobody_has_curated(folder):
    (folder / "spike_clusters.npy").rename(folder / "spike_templates.npy")
    (folder / "cluster_group.tsv").unlink()
    spikes = read_phy(folder)
    assert spikes.unit_ids == (2, 4, 9, 11)
    assert spikes.units is None


def test_params_are_parsed_and_never_run(folder):
    (folder / "params.py").write_text(
        "open('ran', 'w').close()\nraise SystemExit\nsample_rate = 24414.0625\n"
    )
    assert read_phy(folder).clock_rate == 24_414.0625
    assert not (folder / "ran").exists()
    assert read_phy(folder, sample_rate=20_000.0).times[0][0] == 30 / 20_000


def remove(name):
    return lambda folder: (folder / name).unlink()


def write(name, text):
    return lambda folder: (folder / name).write_text(text)


def save(name, array):
    return lambda folder: np.save(folder / name, array)


def cut(name):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-20])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (remove("spike_times.npy"), "spike_times.npy is missing"),
        (remove("spike_clusters.npy"), "spike_templates.npy is missing"),
        (remove("params.py"), "params.py with a sample_rate is missing; give `sample_rate`"),
        (write("params.py", "n_channels_dat = 64"), "give `sample_rate`"),
        (write("params.py", "sample_rate = -1"), "`sample_rate` (=-1.0) must be positive"),
        (write("params.py", "sample_rate ="), "cannot be read as a Phy folder"),
        (save("spike_times.npy", SAMPLES[:-1]), "7 spike times, but 8 clusters of spikes"),
        (save("spike_times.npy", SAMPLES / 3e4), "spike_times.npy must hold integers, not float64"),
        (save("spike_times.npy", np.zeros(0, int)), "0 spike times, but 8 clusters"),
        (cut("spike_times.npy"), "spike_times.npy: Failed to read all data"),
        (write("spike_times.npy", "text"), "spike_times.npy is not an array that NumPy wrote"),
        (write("cluster_group.tsv", "unit\tgroup\n2\tgood\n"), "has no column cluster_id, only"),
        (write("cluster_group.tsv", ""), "cluster_group.tsv: No columns"),
    ],
)
def test_what_is_wrong_with_a_folder_is_named(folder, spoil, message, tmp_path_factory):
    spoil(folder)
    with pytest.raises(ValueError) as error:
        read_phy(folder)
    assert str(error.value).startswith(str(folder))
    assert message in str(error.value)


def test_no_spikes_at_all(folder):
    for name in ("spike_times.npy", "spike_clusters.npy"):
        np.save(folder / name, np.zeros(0, int))
    (folder / "cluster_group.tsv").unlink()
    with pytest.raises(ValueError, match="`times` must hold at least one unit"):
        read_phy(folder)
