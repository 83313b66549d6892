"""What readers and writers share: naming the file in errors, and never leaving half a file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def existing(path: str | os.PathLike[str]) -> Path:
    """Return the path, or raise FileNotFoundError if nothing is there."""
    place = Path(path)
    if not place.exists():
        raise FileNotFoundError(f"there is no file or folder {str(place)!r}")
    return place


def starts_with(path: Path | str, signature: bytes) -> bool:
    """Return whether a path is that of a file with these first bytes."""
    try:
        with Path(path).open("rb") as file:
            return file.read(len(signature)) == signature
    except (OSError, ValueError):  # a folder, or no path at all
        return False


@contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """Turn whatever goes wrong while a file is read into one ValueError that names the file."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    except Exception as error:  # h5py, neo and NumPy raise a dozen kinds on damaged files
        raise ValueError(
            f"{path} cannot be read as {kind}; it may be damaged or cut short "
            f"({type(error).__name__}: {error})"
        ) from error


def replaceable(path: str | os.PathLike[str], source: str) -> Path:
    """Return a path that a file can be written to.

    Raises
    ------
    ValueError
        If it is the file that the data were read from, or a folder.
    FileNotFoundError
        If the folder that it is in does not exist.
    """
    target = Path(path)
    existing(target.parent)
    if target.is_dir():
        raise ValueError(f"`path` (={str(path)!r}) is a folder; name a file in it")
    if target.exists() and source and Path(source).exists() and target.samefile(source):
        raise ValueError(f"`path` (={str(path)!r}) is where the data come from; write elsewhere")
    return target


@contextmanager
def replacing(path: str | os.PathLike[str], source: str, suffix: str) -> Iterator[Path]:
    """Give a temporary path, of this suffix, beside ``path``, which it replaces if all goes well.

    Raises
    ------
    ValueError, FileNotFoundError
        As `replaceable`.
    """
    target = replaceable(path, source)
    handle, name = tempfile.mkstemp(prefix=f".{target.stem}-", suffix=suffix, dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
