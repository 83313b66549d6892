"""The one way in which HDF5 files are read: what a file says of itself is checked first.

A file may name other files, or declare more than it holds; `opened` refuses both before any value
is read.  It may also be damaged such that the HDF5 library never returns, or ends the process.
So a file without a seal of ours is first read in a process of its own, with limits of time and
memory (`_rehearse`), and here only if that process comes to its end.
"""

from __future__ import annotations

import io
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spikecdl.files import check_memory, existing, has_seal, memory_limit, reading

if TYPE_CHECKING:
    import h5py

RECORDING = ("units", "intervals", "general/notes", "processing/ecephys")  # where NWB keeps it
WAVEFORMS = ("waveforms", "waveforms_index", "waveform_mean", "waveform_sd")


@contextmanager
def opened(
    path: str | os.PathLike[str],
    called: str,
    parts: tuple[str, ...] = ("/",),
    leave_out: tuple[str, ...] = (),
    follow_links: bool = False,
) -> Iterator[h5py.File]:
    """Open an HDF5 file to read it; any error until it is closed names the file.

    ``called`` is what such a file is called in errors.  ``parts`` are the groups and datasets that
    will be read, but for the datasets of the names ``leave_out``.  With ``follow_links``, data may
    be in other files, which must exist.

    Raises FileNotFoundError if nothing is there, and ValueError if it is not HDF5, or damaged; if
    its checksum is not that of the file; if it names other files, or these are missing; if what is
    to be read is not all stored, or would take more memory than `memory_limit`; or if the library
    does not come to the end of it.
    """
    import h5py

    path = existing(path)
    with reading(path, called):
        if path.is_dir() or not h5py.is_hdf5(path):
            raise ValueError(f"not an HDF5 file, so not {called}, or cut short")
        if not has_seal(path):
            _survive(path, parts, leave_out, follow_links)
        with _checked(path, parts, leave_out, follow_links) as file:
            yield file


@contextmanager
def peeked(path: Path) -> Iterator[h5py.File | None]:
    """Open a file to see what it is; None if it is not HDF5."""
    import h5py

    if not (path.is_file() and h5py.is_hdf5(path)):
        yield None
        return
    with reading(path, "HDF5"):
        if not has_seal(path):
            _survive(path, RECORDING, WAVEFORMS, False)
        with _Alone(path) as alone, h5py.File(alone, "r") as file:
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
    """Read a dataset: numbers as an array of native byte order, text as a (nested) list of str.

    So many texts are read ``at_once``, as each may be as long as the file.

    Raises ValueError if the texts take more memory than `memory_limit`.
    """
    import h5py

    is_text = h5py.check_string_dtype(dataset.dtype) is not None
    source = dataset.asstr(errors="replace") if is_text else dataset
    if dataset.dtype.kind != "O" or dataset.ndim == 0:
        found = source[()]
        if is_text:
            return found.tolist() if dataset.ndim else found
        return found.astype(found.dtype.newbyteorder("="), copy=False)
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


class _Alone(io.FileIO):
    """A file beside which the HDF5 library finds no others, as it knows no path."""

    def readinto(self, buffer: Any) -> int:
        with memoryview(buffer).cast("B") as whole:
            n_read = 0
            while n_read < len(whole):
                step = super().readinto(whole[n_read:])
                if not step:
                    raise ValueError("it is damaged or cut short, or still being written")
                n_read += step
        return n_read


@contextmanager
def _checked(
    path: Path, parts: tuple[str, ...], leave_out: tuple[str, ...], follow_links: bool
) -> Iterator[h5py.File]:
    """Open a file whose links and sizes are as they should be."""
    import h5py

    with _Alone(path) as alone:
        with h5py.File(alone, "r") as file:
            _check_links(file, path, follow_links, set())
        with h5py.File(path if follow_links else alone, "r") as file:
            _check_sizes(file, path, parts, leave_out)
            yield file


def _survive(path: Path, *arguments: Any) -> None:
    """Raise ValueError unless another process reads the same to its end; each file once."""
    about = path.stat()
    _survived(path.resolve(), (about.st_size, about.st_mtime_ns, about.st_ino), *arguments)


@lru_cache(maxsize=1000)
def _survived(path: Path, state: tuple[int, ...], *arguments: Any) -> None:
    size, _, _ = state
    program = f"from {__name__} import _rehearse; _rehearse()"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    seconds = 5 + size / 1e7
    try:
        done = subprocess.run(
            [sys.executable, "-c", program, json.dumps([str(path), seconds, *arguments])],
            env=environment | {"OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60 + 10 * seconds,
        )
    except subprocess.TimeoutExpired:
        raise ValueError("reading it does not end; use another copy") from None
    if done.returncode == -getattr(signal, "SIGXCPU", 0):
        raise ValueError(f"reading it takes more than {seconds:.0f} s; use another copy")
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise ValueError(
            "the HDF5 library does not come to the end of it: it is damaged, or made to do harm; "
            f"use another copy ({said[:200] or f'exit status {done.returncode}'})"
        )


def _rehearse() -> None:
    """Read a file as `opened` does, and all values of its parts, in a process with limits."""
    path, seconds, parts, leave_out, follow_links = json.loads(sys.argv[1])
    _limit_this_process(seconds, memory_limit(Path(path).stat().st_size))
    with _harmless(), _checked(Path(path), parts, leave_out, follow_links) as file:
        for name, thing in [("/", file), *_inside(file, parts)]:
            for each in thing.attrs:
                with _harmless():
                    attribute(thing, each, None)
            if hasattr(thing, "dtype") and name.rpartition("/")[2] not in leave_out:
                with _harmless():
                    _read(name, thing)


@contextmanager
def _harmless() -> Iterator[None]:
    """Pass over errors that come again where there are no limits, but for a lack of memory."""
    try:
        yield
    except Exception as error:
        if isinstance(error, MemoryError) or "alloc" in str(error):
            raise


def _limit_this_process(seconds: float, n_bytes: int) -> None:
    """Limit the time of the processor and the memory; there are no limits on Windows."""
    import h5py  # noqa: F401  which is not to be counted

    with suppress(ImportError):
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        until = math.ceil(used.ru_utime + used.ru_stime + seconds)
        resource.setrlimit(resource.RLIMIT_CPU, (until, until + 1))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with suppress(ValueError, OSError):  # where it cannot be limited
            mapped = int(Path("/proc/self/statm").read_text("utf-8").split()[0])
            most = mapped * resource.getpagesize() + n_bytes + 2**28
            resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _read(name: str, dataset: h5py.Dataset) -> None:
    """Read all values, those that are no numbers a few at a time; end if they cannot be read."""
    import h5py

    try:
        if dataset.dtype.kind != "O" or h5py.check_string_dtype(dataset.dtype) or not dataset.ndim:
            values(dataset)
        else:
            for first in range(0, len(dataset), 64):
                dataset[first : first + 64]
    except OSError as error:
        sys.exit(f"{name}: {error}")


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
            with _Alone(found) as alone, h5py.File(alone, "r") as other:
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
    parts: tuple[str, ...],
    leave_out: tuple[str, ...],
    most: int = 10**4,
) -> None:
    """Refuse what declares values that are not stored, and more than fit in memory.

    Also more than ``most`` groups and datasets.
    """
    size, declared = path.stat().st_size, 0
    for number, (name, thing) in enumerate(_inside(file, parts)):
        if hasattr(thing, "dtype") and name.rpartition("/")[2] not in leave_out:
            declared += _declared(name, thing, size)
            check_memory(declared, size, name)
        if number > most:
            raise ValueError(f"it holds more than {most:,} datasets; write fewer and larger ones")


def _inside(file: h5py.File, parts: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Yield the groups and datasets of parts, with each of the names that link to them."""
    return chain.from_iterable(_below(f"/{part.strip('/')}", file.get(part)) for part in parts)


def _below(name: str, thing: Any, depth: int = 4) -> Iterator[tuple[str, Any]]:
    """Yield a group or dataset, and what is in it down to a ``depth``."""
    import h5py

    if isinstance(thing, h5py.Dataset | h5py.Group):
        yield name, thing
    if isinstance(thing, h5py.Group) and depth > 0:
        for part in thing:
            yield from _below(f"{name.rstrip('/')}/{part}", thing.get(part), depth - 1)


def _declared(name: str, dataset: h5py.Dataset, size: int) -> int:
    """Return the bytes of memory that a dataset takes; raise unless it is all in the file."""
    n, item = math.prod(dataset.shape or (0,)), dataset.id.get_type().get_size()
    is_stored, chunk = True, 0
    if n and dataset.chunks is not None:
        chunk = math.prod(dataset.chunks) * item
        steps = zip(dataset.shape, dataset.chunks, strict=True)
        n_chunks = math.prod(-(-length // step) for length, step in steps)
        is_stored = dataset.id.get_num_chunks() >= n_chunks
    elif n and not dataset.external and not dataset.is_virtual:
        is_stored = dataset.id.get_storage_size() >= n * item
        is_stored &= (dataset.id.get_offset() or 0) + n * item <= size
    if not is_stored:
        raise ValueError(
            f"{name} declares {n} values, but not all of them are stored; use another copy"
        )
    is_object = dataset.dtype.kind in "OS" or name.endswith("_index")
    return n * (max(item, 8) + 100 * is_object) + chunk  # bytes of a Python object
