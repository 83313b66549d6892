"""Errors that name the file, and files that are written whole or not at all."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def existing(path: str | os.PathLike[str]) -> Path:
    """Return the path, or raise FileNotFoundError if nothing is there."""
    target = Path(path)
    if not target.exists():
        raise FileNotFoundError(f"there is no file or folder {str(target)!r}")
    return target


def starts_with(path: Path | str, signature: bytes) -> bool:
    """Return whether ``path`` is a file that begins with these bytes."""
    try:
        with Path(path).open("rb") as file:
            return file.read(len(signature)) == signature
    except (OSError, ValueError):  # a folder, or not a path
        return False


@contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """Turn any error while a file is read into one ValueError that names the file."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    except Exception as error:  # h5py, neo and NumPy raise many kinds on damaged files
        raise ValueError(
            f"{path} cannot be read as {kind}; it may be damaged or cut short "
            f"({type(error).__name__}: {error})"
        ) from error


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


@contextmanager
def replacing(
    path: str | os.PathLike[str], source: str = "", suffix: str = ".tmp"
) -> Iterator[Path]:
    """Give a temporary path in the folder of ``path``; the file written there replaces ``path``.

    It does so in one step, after it is on disk, and only if the block raises nothing: others see
    the old file or the whole new one.  Raises as `replaceable`.
    """
    target = replaceable(path, source)
    temporary = target.with_name(f".{target.stem}-{uuid.uuid4().hex[:8]}{suffix}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file with `replacing`."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write JSON with `replacing`; numbers must be finite."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())
