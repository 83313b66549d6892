"""The one way in which HDF5 files are read: what a file says of itself is checked first.

A file may name other files, declare more than it holds, or be damaged such that the HDF5 library
never returns.  `opened` refuses all three before any value is read.
"""

from __future__ import annotations

import io
import math
import mmap
import os
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spikecdl.files import check_memory, existing, has_seal, memory_limit, reading

if TYPE_CHECKING:
    import h5py

_HEAP = b"GCOL\x01\0\0\0"  # where a collection of texts begins


@contextmanager
def opened(
    path: str | os.PathLike[str],
    called: str,
    parts: Collection[str] = ("/",),
    leave_out: Collection[str] = (),
    follow_links: bool = False,
) -> Iterator[h5py.File]:
    """Open an HDF5 file to read it; any error until it is closed names the file.

    ``called`` is what such a file is called in errors.  ``parts`` are the groups and datasets that
    will be read, but for the datasets of the names ``leave_out``.  With ``follow_links``, data may
    be in other files, which must exist.

    Raises FileNotFoundError if nothing is there, and ValueError if it is not HDF5, or damaged; if
    its checksum is not that of the file; if it names other files, or these are missing; or if what
    is to be read is not all stored, or would take more memory than `memory_limit`.
    """
    import h5py

    path = existing(path)
    with reading(path, called):
        if path.is_dir() or not h5py.is_hdf5(path):
            raise ValueError(f"not an HDF5 file, so not {called}, or cut short")
        has_seal(path)
        with _Guarded(path) as guarded:
            with h5py.File(guarded, "r") as file:
                _check_links(file, path, follow_links, set())
            # the library looks for other files beside a path
            with h5py.File(path if follow_links else guarded, "r") as file:
                _check_sizes(file, path, parts, leave_out)
                yield file


@contextmanager
def peeked(path: Path) -> Iterator[h5py.File | None]:
    """Open a file to see what it is; None if it is not HDF5."""
    import h5py

    if not (path.is_file() and h5py.is_hdf5(path)):
        yield None
        return
    with reading(path, "HDF5"), _Guarded(path) as guarded, h5py.File(guarded, "r") as file:
        yield file


def names(path: Path, group: str = "/") -> set[str]:
    """Return what a group of an HDF5 file holds; nothing if there is no such file or group."""
    from h5py import h5g, h5l, h5o

    with peeked(path) as file:
        inside = None if file is None else file.id
        for part in filter(None, group.encode().split(b"/")):
            if inside is None or part not in list(inside):
                return set()
            here = inside.links.get_info(part).type == h5l.TYPE_HARD
            found = h5o.open(inside, part) if here else None
            inside = found if isinstance(found, h5g.GroupID) else None
        return {name.decode(errors="replace") for name in inside or ()}


def values(dataset: h5py.Dataset, at_once: int = 64) -> Any:
    """Read a dataset: numbers as an array, text as a (nested) list of str.

    So many texts are read ``at_once``, as each may be as long as the file.

    Raises ValueError if the texts take more memory than `memory_limit`.
    """
    import h5py

    is_text = h5py.check_string_dtype(dataset.dtype) is not None
    source = dataset.asstr(errors="replace") if is_text else dataset
    if dataset.dtype.kind != "O" or dataset.ndim == 0:
        found = source[()]
        return found.tolist() if is_text and dataset.ndim else found
    size, used, flat = dataset.file.id.get_filesize(), 0, list[Any]()
    for row in np.ndindex(dataset.shape[:-1]):
        for first in range(0, dataset.shape[-1], at_once):
            part = source[(*row, slice(first, first + at_once))].tolist()
            used += sum(map(len, part))
            check_memory(used, size, f"the values of {dataset.name}")
            flat += part
    return flat if dataset.ndim == 1 else np.reshape(np.array(flat, object), dataset.shape).tolist()


def attribute(thing: Any, name: str, default: Any, most: int = 100) -> Any:
    """Read an attribute of a group or dataset: a number or text, or up to ``most`` of them.

    The default is returned if there is none, or more: each text may be as long as the file.
    """
    from h5py import h5a

    if name not in thing.attrs or math.prod(h5a.open(thing.id, name.encode()).shape) > most:
        return default
    return thing.attrs[name]


class _Guarded(io.FileIO):
    """A file of which the HDF5 library gets no collection of texts that it would not return from.

    A collection (global heap) is a list of objects, each of which says how far away the next is;
    the library goes round for ever if that is 0 or beyond the end.  See "Disk Format: Level 1E -
    Global Heap" in the HDF5 File Format Specification, version 3.0.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._map = mmap.mmap(self.fileno(), 0, access=mmap.ACCESS_READ)
        self._checked = set[int]()

    def readinto(self, buffer: Any) -> int:
        at = self.tell()
        first, end = max(0, at - len(_HEAP)), at + len(buffer) + len(_HEAP)
        while (first := self._map.find(_HEAP, first, end)) >= 0:
            if first not in self._checked:
                self._check_heap(first)
                self._checked.add(first)
            first += 1
        with memoryview(self._map)[at : at + len(buffer)] as part:
            buffer[: len(part)] = part
            buffer[len(part) :] = bytes(len(buffer) - len(part))  # beyond the end
        self.seek(at + len(buffer))
        return len(buffer)

    def close(self) -> None:
        self._map.close()
        super().close()

    def _check_heap(self, start: int) -> None:
        def number(at: int, n_bytes: int) -> int:
            return int.from_bytes(self._map[at : at + n_bytes], "little")

        end, at = start + number(start + 8, 8), start + 16
        while at + 16 <= end <= len(self._map):
            index, size = number(at, 2), number(at + 8, 8)
            step = 16 + -(-size // 8) * 8 if index else size
            if step < 16:
                break
            at += step
        if not end - 16 < at <= end <= len(self._map):
            raise ValueError("its texts are damaged; use another copy of the file")


def _check_links(file: h5py.File, path: Path, follow: bool, seen: set[Path]) -> None:
    """Refuse other files that a file names; if they are followed, those that are not there."""
    if file.id.get_create_plist().get_sizes() != (8, 8):
        raise ValueError("its addresses have other than 8 bytes; write the file anew")
    seen.add(path.resolve())
    for name, (how, *sources) in _elsewhere(file):
        if not follow:
            raise ValueError(
                f"{name} is {how}: its values are in other files "
                f"({os.fsdecode(sources[0][0])!r}); use `follow_links` if you trust the file"
            )
        for source in sources:
            _check_source(name, path, seen, *source)


def _check_source(name: str, path: Path, seen: set[Path], file: Any, inside: Any) -> None:
    """Raise unless another file holds an object, or has as many bytes."""
    import h5py

    if isinstance(inside, int):  # the library looks for these in the working folder
        found = Path(os.fsdecode(file))
        there = found.is_file() and found.stat().st_size >= inside
    else:
        found = path.parent / os.fsdecode(file) if file not in (b".", ".") else path
        there = found.is_file()
        if there and found.resolve() not in seen:
            with _Guarded(found) as guarded, h5py.File(guarded, "r") as other:
                _check_links(other, found, True, seen)
        if there:
            with h5py.File(found, "r") as other:
                there = inside in other
    if not there:
        raise ValueError(f"the values of {name} are missing: they should be in {str(found)!r}")


def _elsewhere(file: h5py.File) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Yield what has its values in other files: its name, how, and pairs of file and object."""
    import h5py
    from h5py import h5d, h5l, h5o

    links: list[tuple[bytes, int]] = []
    file.id.links.visit(lambda part, info: links.append((part, info.type)), info=True)
    for part, kind in links:
        name = f"/{part.decode(errors='replace')}"
        if kind == h5l.TYPE_EXTERNAL:
            yield name, ("an external link", file.id.links.get_val(part))
        elif kind == h5l.TYPE_HARD:
            thing = h5o.open(file.id, part)
            if isinstance(thing, h5d.DatasetID) and (how := _storage(h5py.Dataset(thing))):
                yield name, how
        elif kind != h5l.TYPE_SOFT:
            raise ValueError(f"{name} is a link of an unknown kind; write the file anew")


def _storage(dataset: h5py.Dataset) -> tuple[Any, ...]:
    """Return how a dataset is stored in other files, and pairs of file and object; () if not."""
    if dataset.is_virtual:
        virtual = [(part.file_name, part.dset_name) for part in dataset.virtual_sources()]
        return ("a virtual dataset", *(virtual or [("", "")]))
    n_bytes = math.prod(dataset.shape or (0,)) * dataset.id.get_type().get_size()
    parts = [(f, start + min(size, n_bytes)) for f, start, size in dataset.external or ()]
    return ("stored externally", *parts) if parts else ()


def _check_sizes(
    file: h5py.File,
    path: Path,
    parts: Collection[str],
    leave_out: Collection[str],
    most: int = 10**6,
) -> None:
    """Refuse what declares values that are not stored, and more than fit in memory.

    Also more than ``most`` datasets.
    """
    size, declared = path.stat().st_size, 0
    found = chain.from_iterable(_datasets(f"/{p.strip('/')}", file.get(p)) for p in parts)
    for number, (name, dataset) in enumerate(found):
        if name.rpartition("/")[2] not in leave_out:
            declared += _declared(name, dataset, size)
            check_memory(declared, size, name)
        if number > most:
            raise ValueError(f"it holds more than {most} datasets; write fewer and larger ones")


def _datasets(name: str, thing: Any, depth: int = 4) -> Iterator[tuple[str, h5py.Dataset]]:
    """Yield a dataset, or those of a group, with each of the names that link to them.

    Groups are read down to a ``depth``.
    """
    import h5py

    if isinstance(thing, h5py.Dataset):
        yield name, thing
    elif isinstance(thing, h5py.Group) and depth > 0:
        for part in thing:
            yield from _datasets(f"{name.rstrip('/')}/{part}", thing.get(part), depth - 1)


def _declared(name: str, dataset: h5py.Dataset, size: int) -> int:
    """Return the bytes of memory that a dataset takes; raise unless it is all in the file."""
    n, item = math.prod(dataset.shape or (0,)), dataset.id.get_type().get_size()
    is_stored, chunk = True, 0
    if n and dataset.chunks is not None:
        chunk = math.prod(dataset.chunks) * item
        steps = zip(dataset.shape, dataset.chunks, strict=True)
        n_chunks = math.prod(-(-length // step) for length, step in steps)
        is_stored = dataset.id.get_num_chunks() >= n_chunks
        _check_chunks(name, dataset, chunk, size)
    elif n and not dataset.external and not dataset.is_virtual:
        is_stored = dataset.id.get_storage_size() >= n * item
        is_stored &= (dataset.id.get_offset() or 0) + n * item <= size
    if not is_stored:
        raise ValueError(
            f"{name} declares {n} values, but not all of them are stored; use another copy"
        )
    is_object = dataset.dtype.kind in "OS" or name.endswith("_index")
    return n * (max(item, 8) + 100 * is_object) + chunk  # bytes of a Python object


def _check_chunks(name: str, dataset: h5py.Dataset, n_bytes: int, size: int) -> None:
    """Raise if a chunk could be unpacked to far more than its ``n_bytes``.

    The library unpacks a chunk to its end, whatever it declares.
    """
    from h5py import h5z

    how = dataset.id.get_create_plist()
    filters = [how.get_filter(i)[0] for i in range(how.get_nfilters())]
    if filters.count(h5z.FILTER_DEFLATE) > 1:
        raise ValueError(f"{name} is compressed more than once; write the file anew")
    if h5z.FILTER_DEFLATE not in filters:
        return
    position, chunks = filters.index(h5z.FILTER_DEFLATE), list[Any]()
    dataset.id.chunk_iter(chunks.append)
    most = memory_limit(size) // 1032  # bytes that deflate can make of one
    for chunk in (each for each in chunks if each.size > most):
        mask, packed = dataset.id.read_direct_chunk(chunk.chunk_offset)
        is_packed = not mask >> position & 1
        if is_packed and len(zlib.decompressobj().decompress(packed, n_bytes + 1)) > n_bytes:
            raise ValueError(f"a chunk of {name} holds more than it declares")
