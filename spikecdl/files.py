"""Errors that name the file, and files that are written whole or not at all."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import platform
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from spikecdl.validation import MissingExtraError, shown

_LIMIT = "SPIKECDL_MAX_GB"
_SEAL = b"\nSHA-256 of all before this line, written by spikecdl: "
SEAL_LENGTH = len(_SEAL) + 65  # bytes that `seal` appends
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def existing(path: str | os.PathLike[str]) -> Path:
    """Return the path of a file or folder.

    Raises FileNotFoundError if nothing is there, and ValueError for a pipe or device, which may
    never end.
    """
    target = Path(path)
    if not exists(target):
        raise FileNotFoundError(f"there is no file or folder {shown(str(target))}")
    if not (target.is_file() or target.is_dir()):
        raise ValueError(f"{target}: a pipe, socket or device, not a file; copy it to a file")
    return target


def exists(path: Path) -> bool:
    """Return whether something is there; not if the name is too long for that."""
    try:
        return path.exists()
    except OSError:
        return False


def starts_with(path: Path | str, signature: bytes) -> bool:
    """Return whether ``path`` is a file that begins with these bytes."""
    try:
        with existing(path).open("rb") as file:
            return file.read(len(signature)) == signature
    except (OSError, ValueError):  # a folder or pipe, or not a path
        return False


@contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """Turn any error while a file is read into one ValueError that names the file."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    except MissingExtraError:
        raise
    except Exception as error:  # h5py, neo and NumPy raise many kinds on damaged files
        raise ValueError(
            f"{path} cannot be read as {kind}; it may be damaged or cut short "
            f"({type(error).__name__}: {error})"
        ) from error


@contextmanager
def naming(source: str) -> Iterator[None]:
    """Put the file that data come from, if it is one, before any ValueError about them."""
    try:
        yield
    except ValueError as error:
        if not (source and Path(source).exists()):
            raise
        raise ValueError(f"{source}: {error}") from error


def memory_limit(size: int) -> int:
    """Return the bytes that the values in a file of ``size`` bytes may take in memory.

    They are half a gigabyte, or as many as SPIKECDL_MAX_GB in the environment says, besides 100
    times the file's own size.
    """
    return int(1e9 * float(os.environ.get(_LIMIT, 0.5))) + 100 * size


def check_memory(declared: int, size: int, name: str) -> None:
    """Raise if a file of ``size`` bytes declares more than `memory_limit` when ``name`` is read."""
    if declared > (limit := memory_limit(size)):
        raise ValueError(
            f"with {name}, it declares {declared / 1e9:.3g} GB in a file of {size / 1e9:.2g} GB, "
            f"above the limit of {limit / 1e9:.3g} GB; set {_LIMIT} higher if you trust it"
        )


def sha256(path: Path, n_bytes: int | None = None) -> str:
    """Return the SHA-256 of a file, or of its first bytes."""
    digest, left = hashlib.sha256(), path.stat().st_size if n_bytes is None else n_bytes
    with path.open("rb") as file:
        while left and (block := file.read(min(left, 2**22))):
            digest.update(block)
            left -= len(block)
    return digest.hexdigest()


def seal(path: Path) -> None:
    """Append the SHA-256 of a file to it, for `has_seal`.

    HDF5 and zip end before their file does, so that readers of these formats pass over it; the
    HDF5 library removes it from a file that it changes.
    """
    line = _SEAL + sha256(path).encode() + b"\n"
    with path.open("ab") as file:
        file.write(line)


def has_seal(path: Path) -> bool:
    """Return whether a file has a checksum of `seal`; ValueError if the file has changed since."""
    start = max(0, path.stat().st_size - SEAL_LENGTH)
    with path.open("rb") as file:
        file.seek(start)
        line = file.read()
    if _SEAL[:16] not in line:
        return False
    if line != _SEAL + sha256(path, start).encode() + b"\n":
        raise ValueError("it is damaged or cut short: its SHA-256 does not match; use another copy")
    return True


def replaceable(path: str | os.PathLike[str], source: str = "") -> Path:
    """Return a path that a file can be written to.

    Raises FileNotFoundError if its folder does not exist, and ValueError if it is a folder, or the
    file ``source`` that the data were read from.
    """
    target = Path(path)
    existing(target.parent)
    if target.is_dir():
        raise ValueError(f"`path` (={str(path)!r}) is a folder; name a file in it")
    if target.exists() and source and Path(source).exists() and target.samefile(source):
        raise ValueError(f"`path` (={str(path)!r}) is where the data come from; write elsewhere")
    return target


class DiskFullError(OSError):
    """There is no space left on a disk, or no more that one may use."""


def is_disk_full(error: BaseException | None) -> bool:
    """Return whether an error comes from a full disk; libraries raise many kinds."""
    while error is not None:
        for number in (errno.ENOSPC, errno.EDQUOT):
            if getattr(error, "errno", None) == number or os.strerror(number) in str(error):
                return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def filling(path: Path, target: Path, n_bytes: int = 0) -> Iterator[None]:
    """Turn any error of a full disk, while ``path`` is written, into one that names ``target``.

    The `DiskFullError` says how many bytes are needed: ``n_bytes``, if they are known, and else
    those that the file or folder has by then, or more.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, DiskFullError) or not is_disk_full(error):
            raise
        written = sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file())
        free = shutil.disk_usage(path.parent).free + written
        needed = f"{n_bytes:,} bytes" if n_bytes else f"more than {written:,} bytes"
        text = f"{needed} are needed, {free:,} are free; free some, or write to another disk"
        raise DiskFullError(errno.ENOSPC, f"no space left: {text}", str(target)) from error


@contextmanager
def replacing(
    path: str | os.PathLike[str],
    source: str = "",
    suffix: str = ".tmp",
    n_bytes: int = 0,
    sealed: bool = False,
) -> Iterator[Path]:
    """Give a temporary path in the folder of ``path``; the file written there replaces ``path``.

    It does so in one step, after it is on disk, with a checksum if it is to be ``sealed``, and only
    if the block raises nothing: others see the old file or the whole new one.  Raises as
    `replaceable` and `filling`.
    """
    target = replaceable(path, source)
    temporary = target.with_name(f".{target.stem}-{uuid.uuid4().hex[:8]}{suffix}")
    try:
        with filling(temporary, target, n_bytes):
            yield temporary
            if sealed:
                seal(temporary)
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Keep other processes away from ``what``, by a lock on the file ``path``.

    The operating system frees the lock when the process ends, however it ends.  Raises ValueError
    if another process holds it.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        holder = ""
        with suppress(OSError):
            holder = path.read_text("utf-8")
        raise ValueError(
            f"{what} is in use by {holder or 'another process'}; wait until it ends, or choose "
            "another"
        ) from None
    try:
        started = datetime.now().astimezone().isoformat(" ", "seconds")
        path.write_text(f"process {os.getpid()} on {platform.node()}, since {started}", "utf-8")
        yield
    finally:
        with suppress(OSError):  # Windows removes it with the lock
            path.unlink()
        lock.release()


def remove_leftovers(path: Path) -> None:
    """Remove files of `replacing` for this path, from processes that were killed.

    No other process may be writing the file.
    """
    for file in path.parent.glob(f".{glob.escape(path.stem)}-????????.*"):
        file.unlink(missing_ok=True)


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file with `replacing`."""
    with replacing(path, n_bytes=len(content)) as temporary:
        temporary.write_bytes(content)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write JSON with `replacing`; numbers must be finite."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())
