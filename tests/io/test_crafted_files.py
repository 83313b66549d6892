"""Files made to do harm: each is refused in one sentence, or read without doing any.

Each is read in a process of its own, with limits of time and memory.  Those that keep their data in
other files are in `test_other_files.py` too, and damaged ones in `test_damaged_files.py`.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import socket
import subprocess
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pytest
from mutants import in_a_process

from spikecdl.data import BinnedSpikes, SpikeTrains, hdf5
from spikecdl.io import read, write_counts, write_npz, write_nwb


class Row(NamedTuple):
    """A file: what it is, what makes it, and words of the error ("" if it is read)."""

    what: str
    make: Callable[[Path], Any]
    words: str


def nwb(path: Path, change: Callable[[h5py.File], Any] = bool, **columns: Any) -> Path:
    """Two units with a column of text, and trials; then changed."""
    with h5py.File(path, "w") as file:
        parts = {"spike_times": [0.1, 0.2, 0.7], "spike_times_index": [1, 3], "id": [0, 1]}
        for name, values in (parts | {"area": ["a", "b"]} | columns).items():
            file[f"units/{name}"] = values
        file["units"].attrs["colnames"] = ["spike_times", "area"]
        file["intervals/trials/start_time"] = [0.0, 0.5]
        file["intervals/trials/stop_time"] = [0.5, 1.0]
        change(file)
    return path


def replaced(name: str, *arguments: Any, **more: Any) -> Callable[[Path], Path]:
    """Return what makes a file in which a dataset is created anew."""

    def change(file: h5py.File) -> None:
        file.pop(name, None)
        file.create_dataset(name, *arguments, **more)

    return lambda path: nwb(path, change)


def repeated_chunk(name: str, n_chunks: int) -> Callable[[Path], Path]:
    """A megabyte of zeros in a kilobyte, many times."""

    def change(file: h5py.File) -> None:
        file.pop(name, None)
        length, packed = 2**17, zlib.compress(bytes(2**20), 9)
        how = {"dtype": np.int64, "chunks": (length,), "compression": "gzip"}
        dataset = file.create_dataset(name, (n_chunks * length,), **how)
        for i in range(n_chunks):
            dataset.id.write_direct_chunk((i * length,), packed)

    return lambda path: nwb(path, change)


def large_chunk(path: Path) -> None:
    """Two numbers, in a chunk of two gigabytes."""

    def change(file: h5py.File) -> None:
        del file["units/id"]
        how = {"chunks": (2**28,), "maxshape": (None,), "compression": "gzip"}
        file.create_dataset("units/id", (2,), np.int64, **how)
        file["units/id"].id.write_direct_chunk((0,), zlib.compress(bytes(16)))

    nwb(path, change)


def packed_chunk(n_filters: int) -> Callable[[Path], None]:
    """Two numbers, in a chunk that unpacks to two gigabytes; or one that is packed twice."""

    def make(path: Path) -> None:
        packed = b"\x78\x9c" + 2000 * deflated(bytes(2**20))
        how = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        how.set_chunk((2,))
        how.set_deflate(9)
        for _ in range(n_filters - 1):
            how.set_filter(h5py.h5z.FILTER_DEFLATE, 0, (9,))
            packed = zlib.compress(packed)

        def change(file: h5py.File) -> None:
            del file["units/id"]
            dataset = file.create_dataset("units/id", (2,), np.int64, dcpl=how, chunks=(2,))
            dataset.id.write_direct_chunk((0,), packed)

        nwb(path, change)

    return make


def same_text(path: Path) -> None:
    """Twenty thousand references to one text of a megabyte."""
    nwb(path, units_note=["x" * 2**20, *["y"] * 19_999])
    with h5py.File(path) as file:
        offset, n = file["units/units_note"].id.get_offset(), 20_000
    with path.open("r+b") as file:
        file.seek(offset)
        reference = file.read(16)
        file.seek(offset)
        file.write(reference * n)


def heap(at: int, content: bytes) -> Callable[[Path], None]:
    """Return what makes a file whose texts have these bytes in their first collection."""

    def make(path: Path) -> None:
        data = bytearray(nwb(path).read_bytes())
        start = data.index(b"GCOL") + at
        data[start : start + len(content)] = content
        path.write_bytes(data)

    return make


def checksum(data: bytes) -> bytes:
    """The checksum of HDF5's newer structures, which is Bob Jenkins' lookup3."""

    def turned(x: int, k: int) -> int:
        return (x << k | x >> 32 - k) & 0xFFFFFFFF

    a = b = c = 0xDEADBEEF + len(data) & 0xFFFFFFFF
    while data:
        words = np.frombuffer(data[:12].ljust(12, b"\0"), "<u4").tolist()
        a, b, c = (old + new & 0xFFFFFFFF for old, new in zip((a, b, c), words, strict=True))
        data = data[12:]
        for k in (4, 6, 8, 16, 19, 4) if data else ():
            a, b, c = b, c + b & 0xFFFFFFFF, (a - c & 0xFFFFFFFF) ^ turned(c, k)
    for k in (14, 11, 25, 16, 4, 14, 24):
        a, b, c = b, (c ^ b) - turned(b, k) & 0xFFFFFFFF, a
    return b.to_bytes(4, "little")


def newer(signature: bytes, length: int, at: int, content: bytes) -> Callable[[Path], None]:
    """Return what makes a file of the newer format with these bytes in a structure.

    The structure has so many bytes before its checksum, which is right.
    """

    def make(path: Path) -> None:
        with h5py.File(path, "w", libver="latest") as file:
            for i in range(40):
                file[f"units/column{i}"] = [0, 1]
            file.create_dataset("units/id", data=[0, 1], chunks=(1,), maxshape=(None,))
            file["units/spike_times"], file["units/spike_times_index"] = [0.1, 0.2], [1, 2]
        data = bytearray(path.read_bytes())
        start = data.index(signature)
        end = start + length
        assert data[end : end + 4] == checksum(data[start:end])
        data[start + at : start + at + len(content)] = content
        data[end : end + 4] = checksum(data[start:end])
        path.write_bytes(data)

    return make


def linked(name: str, link: Any) -> Callable[[Path], Path]:
    def change(file: h5py.File) -> None:
        file.pop(name, None)
        file[name] = link

    return lambda path: nwb(path, change)


def link_to_a_pipe(path: Path) -> None:
    os.mkfifo(path.with_suffix(".pipe"))
    linked("units", h5py.ExternalLink(path.with_suffix(".pipe").name, "units"))(path)


def secret(path: Path) -> None:
    """External storage: bytes of a file that belongs to somebody else."""
    other = path.with_suffix(".key")
    other.write_text("a password of 24 letters" * 2)
    where = [(other, 0, 24)]
    replaced("units/spike_times", (3,), float, external=where)(path)


def virtual(source: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        layout = h5py.VirtualLayout((3,), float)
        layout[:] = h5py.VirtualSource(source, "units/id", (3,))

        def change(file: h5py.File) -> None:
            del file["units/spike_times"]
            file["units"].create_virtual_dataset("spike_times", layout)

        nwb(path, change)

    return make


def aliases(path: Path) -> None:
    """One dataset of a megabyte under a thousand names."""

    def change(file: h5py.File) -> None:
        file["units/a"] = np.zeros(2**17)
        for i in range(1000):
            file[f"units/a{i}"] = file["units/a"]

    nwb(path, change)


def overlapping_trials(path: Path) -> None:
    """Every one of a hundred thousand trials holds every one of as many spikes."""
    n = 100_000
    nwb(path, spike_times=np.linspace(0, 1e4, n), spike_times_index=[n, n])
    with h5py.File(path, "r+") as file:
        trials = file["intervals/trials"]
        for name, value in (("start_time", 0.0), ("stop_time", 1e4)):
            del trials[name]
            trials.create_dataset(name, data=np.full(n, value), compression="gzip")


def many_gaps(path: Path) -> None:
    """Ten thousand observed intervals times ten thousand that are taken out."""
    edges = np.arange(20_000.0).reshape(-1, 2)
    nwb(path, obs_intervals=np.concatenate([edges, edges]), obs_intervals_index=[10_000, 20_000])
    with h5py.File(path, "r+") as file:
        file["intervals/invalid_times/start_time"] = edges[:, 0] + 0.25
        file["intervals/invalid_times/stop_time"] = edges[:, 0] + 0.5


def npz(**arrays: Any) -> Callable[[Path], None]:
    return lambda path: np.savez(path, **arrays)


def zip_of(name: str, content: bytes) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, content)

    return make


def zip_bomb(path: Path) -> None:
    """An array of zeros that is packed to a thousandth of its 600 MB."""
    n = 600 * 2**17
    header = npy_header((n,))
    packed = deflated(header) + 600 * deflated(bytes(2**20)) + b"\x03\0"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("counts.npy", packed)
    content = bytearray(path.read_bytes())
    places = ((content.index(b"PK\x03\x04"), 8, 22), (content.rindex(b"PK\x01\x02"), 10, 24))
    for start, method, size in places:
        content[start + method : start + method + 2] = b"\x08\0"
        content[start + size : start + size + 4] = (len(header) + 8 * n).to_bytes(4, "little")
    path.write_bytes(content)


def deflated(values: bytes) -> bytes:
    """A stretch of a deflate stream that may be repeated, and followed by others."""
    packer = zlib.compressobj(9, wbits=-15)
    return packer.compress(values) + packer.flush(zlib.Z_FULL_FLUSH)


def npy_header(shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    about = {"descr": "<f8", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, about)
    return file.getvalue()


class Payload:
    """Runs a command if it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch payload-ran",)


def own_npz(
    change: Callable[[dict[str, Any]], Any], data: SpikeTrains | BinnedSpikes | None = None
) -> Callable[[Path], None]:
    """An archive as `write_npz` writes it, with a changed header."""

    def make(path: Path) -> None:
        write_npz(path, data or SpikeTrains.from_arrays([[0.1, 0.2]], trials=[[0.0, 1.0]]))
        with np.load(path) as archive:
            arrays = dict(archive)
        header = json.loads(str(arrays["spikecdl"]))
        change(header)
        np.savez(path, **(arrays | {"spikecdl": np.array(json.dumps(header))}))

    return make


def binned_npz(**header: Any) -> Callable[[Path], None]:
    counts = BinnedSpikes.from_array([[0, 1, 1]], 0.005)
    return own_npz(lambda h: h.update(header), counts)


def phy(**files: bytes | None) -> Callable[[Path], None]:
    """A Phy folder; None stands for a pipe."""

    def make(path: Path) -> None:
        path.mkdir()
        np.save(path / "spike_times.npy", np.array([300, 600]))
        np.save(path / "spike_clusters.npy", np.array([1, 1]))
        (path / "params.py").write_text("sample_rate = 30000.")
        for name, content in files.items():
            file = path / name.replace("__", ".")
            file.unlink(missing_ok=True)
            os.mkfifo(file) if content is None else file.write_bytes(content)

    return make


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(path))


def counts(change: Callable[[h5py.File], Any]) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        write_counts(path, BinnedSpikes.from_array([[0, 1, 1]], 0.005))
        with h5py.File(path, "r+") as file:
            change(file)

    return make


def anew(file: h5py.File, name: str, *arguments: Any, **more: Any) -> None:
    del file[name]
    file.create_dataset(name, *arguments, **more)


def named(unit: str) -> Callable[[Path], None]:
    """A unit, a column and a table of this name."""

    def make(path: Path) -> None:
        times = {"start_time": [0.0], "stop_time": [1.0], unit: [unit]}
        spikes = SpikeTrains.from_arrays({unit: [0.1]}, trials=times, intervals={unit: times})
        (write_nwb if path.suffix == ".nwb" else write_npz)(path, spikes)

    return make


ROWS = {
    # other files
    "a1.nwb": Row("external link", linked("units", h5py.ExternalLink("b.h5", "units")), "link"),
    "a2.nwb": Row("to itself", linked("units", h5py.ExternalLink("a2.nwb", "units")), "link"),
    "a3.nwb": Row("to a pipe", link_to_a_pipe, "/units is an external link; a3.pipe"),
    "a4.nwb": Row(
        "to a system file", linked("acquisition", h5py.ExternalLink("../k", "/")), "../k"
    ),
    "a5.nwb": Row("behind a soft link", linked("intervals/x", h5py.SoftLink("/gone")), ""),
    "a6.nwb": Row("soft link to itself", linked("units", h5py.SoftLink("/units")), "NWB"),
    "a7.nwb": Row("external storage", secret, "/units/spike_times is stored externally; a7.key"),
    "a8.nwb": Row("virtual, source missing", virtual("gone.h5"), "virtual dataset; gone.h5"),
    "a9.nwb": Row("virtual, of itself", virtual("."), "/units/spike_times is a virtual dataset"),
    # declared, not stored
    "b1.nwb": Row("no chunk", replaced("units/id", (10**12,), int, chunks=(1000,)), "not all"),
    "b2.nwb": Row("nothing", replaced("units/spike_times", (3,), float), "not all; /units/spike_t"),
    "b3.nwb": Row("a bomb", repeated_chunk("units/spike_times", 4000), "GB; limit; SPIKECDL_MAX"),
    "b4.nwb": Row("many rows", repeated_chunk("units/spike_times_index", 50), "limit of"),
    "b5.nwb": Row("a large chunk", large_chunk, "GB; limit of"),
    "b5a.nwb": Row("a chunk of more", packed_chunk(1), "b5a.nwb; use another copy"),
    "b5b.nwb": Row("packed twice", packed_chunk(2), "b5b.nwb; use another copy"),
    "b6.nwb": Row("one text, many references", same_text, "/units/units_note; limit of"),
    "b7.nwb": Row("one dataset, many names", aliases, "limit of"),
    "b8.npz": Row("a bomb", zip_bomb, "limit of"),
    "b9.npz": Row("a large shape", zip_of("counts.npy", npy_header((10**6, 10**6))), "8e+03 GB"),
    # loops and indices
    "c1.nwb": Row("heap object of no size", heap(16, bytes(16)), "use another copy"),
    "c2.nwb": Row("heap object beyond", heap(24, b"\xf0" + b"\xff" * 7), "use another copy"),
    "c3.nwb": Row("heap beyond the file", heap(8, b"\0\0\0\0\1"), "c3.nwb; damaged"),
    "c4.nwb": Row("group in itself", lambda p: nwb(p, lambda f: linked_in(f, "units/x", "/")), ""),
    "c5.nwb": Row("index too large", replaced("units/spike_times_index", data=[1, 10**15]), "rise"),
    "c6.nwb": Row("index falls", replaced("units/spike_times_index", data=[3, 1]), "rise"),
    "c7.nwb": Row("index negative", replaced("units/spike_times_index", data=[-5, 3]), "rise"),
    "c8.nwb": Row(
        "index of floats", replaced("units/spike_times_index", data=[np.inf, 3]), "whole"
    ),
    "c9.nwb": Row("deep JSON", lambda p: binned_notes(p, "[" * 10**5), "general/notes"),
    # times
    "d1.nwb": Row("1e300 s", replaced("units/spike_times", data=[0.1, 0.2, 1e300]), "d1.nwb; time"),
    "d2.nwb": Row("1e9 s", replaced("units/spike_times", data=[0.1, 0.2, 1e9]), "d2.nwb; millisec"),
    "d3.nwb": Row("NaN", replaced("units/spike_times", data=[0.1, 0.2, np.nan]), "d3.nwb; finite"),
    "d4.nwb": Row("1e-300 s", replaced("units/spike_times", data=[0, 1e-300, 1.0]), ""),
    "d5.nwb": Row("trial of 1e12 s", replaced("intervals/trials/stop_time", data=[1, 1e12]), "too"),
    "d6.nwb": Row("trial of 1e7 s", replaced("intervals/trials/stop_time", data=[1, 1e7]), "limit"),
    "d7.nwb": Row("overlapping trials", overlapping_trials, "d7.nwb; windows; limit"),
    "d8.nwb": Row("gaps in gaps", many_gaps, ""),
    "d9.nwb": Row(
        "resolution 1e-320",
        lambda p: nwb(p, lambda f: f["units/spike_times"].attrs.create("resolution", 1e-320)),
        "d9.nwb; NWB",
    ),
    # structures with right checksums
    "n0.nwb": Row("unchanged", newer(b"BTHD", 34, 0, b"BTHD"), ""),
    "n1.nwb": Row("records of no size", newer(b"BTHD", 34, 10, bytes(2)), "n1.nwb; another copy"),
    "n2.nwb": Row("nodes of no size", newer(b"BTHD", 34, 6, bytes(4)), "n2.nwb; another copy"),
    "n3.nwb": Row(
        "nodes of two gigabytes", newer(b"BTHD", 34, 6, b"\xff\xff\xff\x7f"), "n3.nwb; another copy"
    ),
    "n4.nwb": Row("a heap of no rows", newer(b"FRHP", 142, 110, bytes(2)), "n4.nwb; another copy"),
    "n5.nwb": Row(
        "chunks without end", newer(b"EAHD", 68, 44, b"\xff" * 7 + b"\x0f"), "n5.nwb; another copy"
    ),
    "n6.nwb": Row("blocks of no size", newer(b"EAHD", 68, 9, bytes(1)), "n6.nwb"),
    "n7.nwb": Row("blocks by the bit", newer(b"EAHD", 68, 7, b"\xff"), "n7.nwb"),
    # what is no file
    "e1.nwb": Row("a pipe", os.mkfifo, "e1.nwb; a pipe, socket or device"),
    "e2.nwb": Row("a device", lambda path: path.symlink_to("/dev/zero"), "e2.nwb; device"),
    "e3.nwb": Row("a socket", listening, "e3.nwb; socket"),
    "e4.nwb": Row("a folder", Path.mkdir, "e4.nwb; not an HDF5 file"),
    "e5.nwb": Row("a link to itself", lambda path: path.symlink_to(path), "e5.nwb"),
    "e6.nex": Row("a pipe for Neo", os.mkfifo, "e6.nex; a pipe"),
    "e7": Row("Phy with a pipe for times", phy(spike_clusters__npy=None), "e7; spike_clusters.npy"),
    "e8": Row("Phy with a pipe for a table", phy(cluster_info__tsv=None), "e8; cluster_info.tsv"),
    "e9": Row("Phy with a pipe for settings", phy(params__py=None), "e9; sample_rate"),
    # code
    "f1.npz": Row("pickle in npz", npz(counts=np.array([Payload()], dtype=object)), "allow_pickle"),
    "f2": Row("code in params.py", phy(params__py=b"open('payload-ran', 'w')"), "sample_rate"),
    "f3": Row("code for a rate", phy(params__py=b"sample_rate = exit()"), "f3"),
    "f4": Row("pickled array", phy(spike_clusters__npy=pickle.dumps(Payload())), "spike_clusters"),
    "f5.pkl": Row("pickle", lambda path: path.write_bytes(pickle.dumps(Payload())), "none of"),
    "f6.npz": Row("member above", zip_of("../above.npy", npy_header((1,))), "'../above'"),
    # headers
    "g1.npz": Row("arguments", own_npz(lambda h: h.update(x=1)), "g1.npz"),
    "g2.npz": Row("kind", own_npz(lambda h: h.update(kind="os.system")), "g2.npz"),
    "g3.npz": Row("ids", own_npz(lambda h: h.update(unit_ids=[{}])), "g3.npz"),
    "g4.npz": Row("columns", own_npz(lambda h: h["tables"]["trials"].update(columns=["x"])), "g4"),
    "g4a.npz": Row("binned by 1e-320 s", binned_npz(bin_size=1e-320), "g4a.npz; `bin_size`"),
    "g4b.npz": Row("trials beyond count", binned_npz(sub_bins=10**30), "g4b.npz; `sub_bins`"),
    "g4c.npz": Row("ids of lists", binned_npz(unit_ids=[[1]]), "g4c.npz"),
    "g5.h5": Row(
        "counts in chunks", counts(lambda f: anew(f, "counts", (1, 1, 9), int, chunks=True)), "g5"
    ),
    "g6.h5": Row(
        "counts elsewhere",
        counts(lambda f: linked_in(f, "more", h5py.ExternalLink("x", "/"))),
        "link",
    ),
    "g7.h5": Row("kind of many", lambda p: kind_of_many(p), "no reader"),
    # names
    "h1.nwb": Row("markup", named("<script>alert(1)</script>"), ""),
    "h2.npz": Row("path", named("../../above"), ""),
    "h3.npz": Row("terminal", named("\x1b]0;title\x07[red]"), ""),
    "h4 [red]<b>\n.nwb": Row("its own name", nwb, ""),
}


def linked_in(file: h5py.File, name: str, link: Any) -> None:
    file[name] = file[link] if isinstance(link, str) else link


def binned_notes(path: Path, notes: str) -> None:
    with h5py.File(path, "w") as file:
        file["processing/ecephys/binned_signal/data"] = [[1.0]]
        file["general/notes"] = notes


def kind_of_many(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["kind"] = ["spikecdl counts", "spikecdl counts"]


@pytest.mark.soak
def test_files_made_to_do_harm(tmp_path):
    folder = tmp_path / "crafted"
    folder.mkdir()
    files = [folder / name for name in ROWS]
    for file, row in zip(files, ROWS.values(), strict=True):
        row.make(file)
    problems = []
    for row, (said, error) in zip(ROWS.values(), in_a_process("read", *files), strict=True):
        missing = [part for part in row.words.split("; ") if part not in error]
        if said != ("refused" if row.words else "read") or missing:
            problems.append(f"{row.what}: {said}: {error} {missing}")
    assert not problems, "\n" + "\n".join(problems)
    left = {path.name for place in (folder, tmp_path, Path()) for path in place.iterdir()}
    assert not {"payload-ran", "above", "above.npy"} & left


class TestRehearsal:
    """HDF5 files of others are first read in a process of their own."""

    @pytest.fixture
    def started(self, monkeypatch):
        found, run = [], subprocess.run
        monkeypatch.setattr(
            subprocess, "run", lambda *args, **more: found.append(args) or run(*args, **more)
        )
        return found

    def test_each_file_once(self, started, tmp_path):
        path = nwb(tmp_path / "a.nwb")
        assert read(path).n_units == read(path).n_units == 2
        assert len(started) == 1
        nwb(path, lambda file: file.create_dataset("units/more", data=[1, 2]))
        read(path)
        assert len(started) == 2

    def test_not_for_a_file_with_a_seal(self, started, tmp_path):
        write_nwb(tmp_path / "a.nwb", SpikeTrains.from_arrays([[0.1]]))
        read(tmp_path / "a.nwb")
        assert not started

    def test_a_file_that_shrinks(self, tmp_path):
        path = nwb(tmp_path / "a.nwb", spike_times=np.arange(30_000.0), spike_times_index=[1, 2])

        def read_late() -> None:
            with hdf5.opened(path, "NWB", hdf5.RECORDING) as file:
                os.truncate(path, 10_000)
                hdf5.values(file["units/spike_times"])

        with pytest.raises(ValueError, match=r"a.nwb.*cut short"):
            read_late()
