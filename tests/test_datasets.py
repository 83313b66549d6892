"""Recordings that are shipped or fetched; a server on this machine stands for the public one."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from recordings import assert_same_recording
from scipy.io import savemat

from spikecdl import datasets, read_nwb, write_nwb

TRIALS, BINS = 50, 3000
STIMULUS = np.where(np.arange(BINS) % 125 < 40, 9.5, 0.0)


@dataclass
class Server:
    """What lies where, what was asked for, and how the server misbehaves."""

    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    cut: bool = False
    address: str = ""
    stop: object = None


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    """A server whose files the registry names as the whisker data."""
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):  # noqa: N802
            path = unquote(self.path).lstrip("/")
            state.asked.append(path)
            if path not in state.files:
                self.send_error(404)
                return
            content = state.files[path]
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if state.cut else content)

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()

        def stop():
            http.shutdown()
            http.server_close()
            thread.join()

        state.stop, state.address = stop, f"http://127.0.0.1:{http.server_port}/"
        entry = {"download": state.address, "files": []}
        for file in datasets.registry()["whisker_thalamus"]["files"]:
            entry["files"].append({"path": file["path"]})
        monkeypatch.setattr(datasets, "registry", lambda: {"whisker_thalamus": entry})
        yield state
        if thread.is_alive():
            stop()


def known(path: str, sha256: str) -> None:
    """Enter a SHA-256 in the registry of the test."""
    for file in datasets.registry()["whisker_thalamus"]["files"]:
        if file["path"] == path:
            file["sha256"] = sha256


def put(server: Server, unit: str, stimulus: int, y: np.ndarray, is_train: np.ndarray) -> list[str]:
    """Lay the files of a unit, trials (trial, bin) in recorded order, on the server."""
    paths = []
    for file, key, chosen in (
        ("trngdataBis.mat", "idxtr", is_train),
        ("testdataBis.mat", "idxts", ~is_train),
    ):
        content = {
            "y": y[chosen].reshape(1, -1),
            "t": np.tile(STIMULUS, chosen.sum())[None],
            key: np.flatnonzero(chosen)[None] + 1,
        }
        buffer = io.BytesIO()
        savemat(buffer, content)
        paths.append(f"data/Explicit Stimulus/{unit}/Stim{stimulus}/{file}")
        server.files[paths[-1]] = buffer.getvalue()
    return paths


def some_trials(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Spikes (trial, bin) and which trials are to train."""
    rng = np.random.default_rng(seed)
    is_train = np.zeros(TRIALS, bool)
    is_train[rng.permutation(TRIALS)[:17]] = True
    return (rng.random((TRIALS, BINS)) < 0.02).astype(np.uint8), is_train


def kept(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.fixture
def one(server) -> tuple[Server, list[str], np.ndarray, np.ndarray]:
    """The server with the files of dir16_stim2."""
    y, is_train = some_trials()
    return server, put(server, "Dir16/Neuron1", 2, y, is_train), y, is_train


class TestShipped:
    def test_the_demo_knows_its_truth(self):
        assert read_nwb(datasets.demo()).truth is not None

    def test_every_file_that_is_fetched_is_in_the_registry(self):
        entry = datasets.registry()["whisker_thalamus"]
        paths = [file["path"] for file in entry["files"]]
        assert len(paths) == len(set(paths)) == 2 * sum(map(len, datasets.WHISKER.values())) == 18
        assert entry["download"].startswith("https://")
        assert entry["download"].endswith("/7a74a902621cf0793f48f28ff96aa0d90982720b/")
        assert [file["path"] for file in entry["files"] if "sha256" in file] == [
            "data/Explicit Stimulus/Dir3/Neuron1/Stim2/trngdataBis.mat"
        ]


class TestFetch:
    def test_trials_come_back_in_recorded_order(self, one, tmp_path):
        server, paths, y, is_train = one
        spikes = datasets.fetch_whisker(["dir16_stim2"], tmp_path)["dir16_stim2"]
        assert sorted(server.asked) == sorted(paths)
        assert np.array_equal(spikes.bin(0.001).counts[:, 0], y)
        assert np.array_equal(spikes.trials["split"] == "train", is_train)
        assert (spikes.trials["stimulus"] == 2).all()
        assert np.array_equal(spikes.observed[0], [[0, 150]])
        shown = datasets.whisker_displacement("dir16_stim2", tmp_path)
        np.testing.assert_array_equal(shown, np.tile(STIMULUS / 10, (TRIALS, 1)))

    def test_a_converted_copy_is_read_instead(self, one, tmp_path, monkeypatch):
        server, *_ = one
        spikes = datasets.fetch_whisker(["dir16_stim2"], tmp_path)["dir16_stim2"]
        (tmp_path / "whisker_thalamus").mkdir()
        write_nwb(tmp_path / "whisker_thalamus" / "dir16_stim2.nwb", spikes)
        server.stop()
        monkeypatch.setenv("SPIKECDL_DATA", str(tmp_path))
        assert_same_recording(datasets.fetch_whisker(["dir16_stim2"])["dir16_stim2"], spikes)

    def test_the_second_time_needs_no_connection(self, one, tmp_path):
        server, paths, *_ = one
        known(paths[0], hashlib.sha256(server.files[paths[0]]).hexdigest())
        first = datasets.fetch_whisker(["dir16_stim2"], tmp_path)
        server.stop()
        again = datasets.fetch_whisker(["dir16_stim2"], tmp_path)
        assert_same_recording(first["dir16_stim2"], again["dir16_stim2"])
        assert len(server.asked) == 2

    def test_another_file_than_the_registry_knows(self, one, tmp_path):
        server, paths, *_ = one
        known(paths[0], "0" * 64)
        with pytest.raises(ValueError, match="SHA-256 mismatch for .*expected 0{64}") as caught:
            datasets.fetch_whisker(["dir16_stim2"], tmp_path)
        assert server.address + paths[0] in str(caught.value)
        assert kept(tmp_path) == []

    def test_a_change_after_the_first_download_is_noticed(self, one, tmp_path):
        server, paths, y, is_train = one
        datasets.fetch_whisker(["dir16_stim2"], tmp_path)
        good = (tmp_path / paths[1]).read_bytes()
        (tmp_path / paths[1]).write_bytes(good[:-1] + b"?")
        spikes = datasets.fetch_whisker(["dir16_stim2"], tmp_path)["dir16_stim2"]
        assert (tmp_path / paths[1]).read_bytes() == good
        assert np.array_equal(spikes.bin(0.001).counts[:, 0], y)
        (tmp_path / paths[1]).unlink()
        put(server, "Dir16/Neuron1", 2, 1 - y, is_train)
        with pytest.raises(ValueError, match="SHA-256 mismatch"):
            datasets.fetch_whisker(["dir16_stim2"], tmp_path)

    @pytest.mark.parametrize("sha256", [True, False])
    def test_a_download_that_breaks_off(self, one, tmp_path, sha256):
        server, paths, *_ = one
        if sha256:
            known(paths[0], hashlib.sha256(server.files[paths[0]]).hexdigest())
        server.cut = True
        with pytest.raises((ConnectionError, ValueError), match=r"trngdataBis\.mat"):
            datasets.fetch_whisker(["dir16_stim2"], tmp_path)
        assert kept(tmp_path) == []
        server.cut = False
        datasets.fetch_whisker(["dir16_stim2"], tmp_path)

    def test_no_server(self, one, tmp_path):
        server, paths, *_ = one
        server.stop()
        with pytest.raises(ConnectionError, match="check the connection, or put the file at") as no:
            datasets.fetch_whisker(["dir16_stim2"], tmp_path)
        assert server.address + paths[0] in str(no.value)
        assert str(tmp_path / paths[0]) in str(no.value)
        for path, content in server.files.items():  # the remedy works
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_bytes(content)
        assert datasets.fetch_whisker(["dir16_stim2"], tmp_path)

    def test_no_such_file(self, server, tmp_path):
        with pytest.raises(ConnectionError, match=r"could not be downloaded .HTTPError: 404"):
            datasets.fetch_whisker(["dir3_stim1"], tmp_path)

    @pytest.mark.parametrize(
        "content",
        [
            {"y": np.full((1, 6000), 2), "t": np.zeros((1, 6000)), "idxtr": [[1, 2]]},
            {"y": np.zeros((1, 6000)), "t": np.zeros((1, 3000)), "idxtr": [[1, 2]]},
            {"spikes": np.zeros((1, 6000))},
            b"<html>not here</html>",
            b"",
        ],
    )
    def test_a_file_that_holds_something_else(self, one, tmp_path, content):
        server, paths, *_ = one
        if isinstance(content, dict):
            buffer = io.BytesIO()
            savemat(buffer, content)
            content = buffer.getvalue()
        server.files[paths[0]] = content
        with pytest.raises(ValueError, match="^http.* is not the file expected .*not kept"):
            datasets.fetch_whisker(["dir16_stim2"], tmp_path)
        assert kept(tmp_path) == []

    def test_a_file_of_the_users_own_is_not_removed(self, one, tmp_path):
        mine = tmp_path / one[1][0]
        mine.parent.mkdir(parents=True)
        mine.write_bytes(b"mine")
        with pytest.raises(ValueError, match=r"trngdataBis.mat is not the file .* remove it"):
            datasets.fetch_whisker(["dir16_stim2"], tmp_path)
        assert kept(tmp_path) == [mine]

    def test_trials_that_are_missing_or_twice(self, one, tmp_path):
        server, _, y, is_train = one
        put(server, "Dir16/Neuron1", 2, y[:-1], is_train[:-1])
        datasets.fetch_whisker(["dir16_stim2"], tmp_path / "49")  # 49 trials are fine
        other = np.roll(is_train, 1)
        test_file = put(server, "Dir16/Neuron1", 2, y, other)[1]
        wrong = server.files[test_file]
        put(server, "Dir16/Neuron1", 2, y, is_train)
        server.files[test_file] = wrong
        with pytest.raises(ValueError, match="number every trial once"):
            datasets.fetch_whisker(["dir16_stim2"], tmp_path / "twice")

    def test_units_with_other_splits(self, server, tmp_path):
        put(server, "Dir3/Neuron1", 1, *some_trials(0))
        put(server, "Dir3/Neuron2", 1, *some_trials(1))
        with pytest.raises(ValueError, match="units of dir3_stim1 have other trials"):
            datasets.fetch_whisker(["dir3_stim1"], tmp_path)

    def test_names(self, tmp_path):
        with pytest.raises(ValueError, match="`names` .='dir4_stim1'. must be one of: dir16_stim1"):
            datasets.fetch_whisker(["dir4_stim1"], tmp_path)
        with pytest.raises(TypeError, match="must be a sequence of names"):
            datasets.fetch_whisker("dir3_stim1", tmp_path)


@pytest.mark.parametrize("name", ["dir3_stim2", "dir16_stim1"])
def test_gives_what_the_nwb_copy_holds(name, server, shared_data, tmp_path):
    import h5py

    path = shared_data / "whisker_thalamus" / f"{name}.nwb"
    copy = read_nwb(path)
    with h5py.File(path) as file:
        shown = file["stimulus/presentation/whisker_displacement/data"][:].reshape(-1, BINS)
    is_train = (copy.trials["split"] == "train").to_numpy()
    counts = copy.bin(0.001).counts
    for i, unit in enumerate(copy.units["unit_name"]):
        put(server, unit, int(name[-1]), counts[:, i].astype(np.uint8), is_train)
    found = datasets.fetch_whisker([name], tmp_path)[name]
    assert_same_recording(found, copy)
    assert list(found.trials) == list(copy.trials)
    assert datasets.whisker_displacement(name, tmp_path).shape == shown.shape
    write_nwb(tmp_path / f"{name}.nwb", found)
    assert_same_recording(read_nwb(tmp_path / f"{name}.nwb"), copy)
