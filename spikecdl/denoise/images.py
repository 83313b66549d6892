"""Image files: counts in, expected counts out, and folders of clean images for training."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spikecdl import validation
from spikecdl.files import existing, reading, replaceable, replacing

if TYPE_CHECKING:
    import tifffile

_PNG_BITS, _PNG_COLOUR = 24, 25  # bytes of the header


def read_images(path: str | os.PathLike[str]) -> np.ndarray:
    """Read the frames of a PNG, TIFF or npy file, without scaling their values.

    PNG of up to 16 bits; TIFF of whole or real numbers, where every page is a frame, whether pages
    are times, depths or channels; npy of shape (row, column) or (frame, row, column).  Images in
    colours or with a palette are read if all their pixels are grey.

    Parameters
    ----------
    path : path_like

    Returns
    -------
    ndarray, shape (frame, row, column)
        Of the type in the file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is of another kind, damaged, in colour, compressed in a way that needs another
        package, has pages of unequal sizes, holds no pixel, or a value is negative or not finite.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "cells.tif")
    >>> write_images(path, [[[0.5, 2.0]], [[1.0, 3.0]]])
    >>> read_images(path)
    array([[[0.5, 2. ]],
           [[1. , 3. ]]], dtype=float32)
    """
    place = existing(path)
    if place.is_dir():
        raise ValueError(f"`path` (={str(path)!r}) must be a file; see read_folder for a folder")
    read = _by_suffix(place, _READERS)
    with reading(place, f"{place.suffix[1:].lower()} images"):
        return _checked(read(place))


def read_folder(path: str | os.PathLike[str]) -> list[np.ndarray]:
    """Read all images of a folder, sorted by name, such as those that train a denoiser.

    Files of other kinds, hidden files and folders are ignored.

    Parameters
    ----------
    path : path_like

    Returns
    -------
    list of ndarray, shape (row, column)
        All frames of all files, of any sizes.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ValueError
        If it is a file, holds no image, or one that `read_images` refuses.
    """
    return list(read_named(path).values())


def read_named(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read a folder like `read_folder`, as a mapping from file names (and frame numbers)."""
    folder = existing(path)
    if not folder.is_dir():
        raise ValueError(f"`path` (={str(path)!r}) must be a folder; see read_images for a file")
    files = sorted(
        file
        for file in folder.iterdir()
        if file.suffix.lower() in _READERS and not file.name.startswith(".") and file.is_file()
    )
    if not files:
        raise ValueError(f"`path` (={str(path)!r}) holds no image ({', '.join(_READERS)})")
    named = {}
    for file in files:
        frames = read_images(file)
        for number, frame in enumerate(frames):
            named[file.name if len(frames) == 1 else f"{file.name}:{number}"] = frame
    return named


def write_images(path: str | os.PathLike[str], images: Any, *, png_bits: int = 16) -> None:
    """Write frames to a TIFF, npy or PNG file, whole or not at all.

    TIFF (a page per frame) and npy keep numbers, in single precision.  PNG is for viewing: one
    frame, scaled so that its largest value is white and 0 is black.

    Parameters
    ----------
    path : path_like
        Replaced if it exists; its suffix gives the format.
    images : array_like, shape (row, column) or (frame, row, column)
        Counts or expected counts.
    png_bits : {16, 8}
        Per pixel of a PNG.

    Raises
    ------
    FileNotFoundError
        If the folder does not exist.
    ValueError
        If the suffix is unknown, there is no pixel, a value is negative, not finite or too large
        for single precision (whole numbers: to be exact), or a PNG would have several frames.
    TypeError
        If values are not numbers.
    """
    target = Path(path)
    write = _by_suffix(target, _WRITERS)
    if validation.integer("png_bits", png_bits) not in (8, 16):
        raise ValueError(f"`png_bits` (={png_bits}) must be 8 or 16")
    values = np.asarray(images)
    try:
        frames = _checked(values)
    except (TypeError, ValueError) as error:
        raise type(error)(f"`images`: {error}") from None
    with np.errstate(over="ignore"):
        single = frames.astype(np.float32)
    if not np.isfinite(single).all() or (values.dtype.kind in "iu" and (single != frames).any()):
        raise ValueError(
            f"`images` (up to {values.max()}) are too large for single precision, which holds "
            f"whole numbers up to {2**24} and others up to 3.4e38; divide them"
        )
    with replacing(target, suffix=target.suffix) as temporary:
        write(temporary, single.reshape(values.shape), png_bits)


def check_target(path: Path, n_frames: int, source: Path) -> None:
    """Raise what `write_images` would raise, or if ``source`` would be replaced."""
    if _by_suffix(path, _WRITERS) is _write_png:
        _check_one(n_frames)
    replaceable(path, str(source))


def _by_suffix(path: Path, registry: dict[str, Callable[..., Any]]) -> Callable[..., Any]:
    if path.suffix.lower() not in registry:
        raise ValueError(
            f"`path` (={str(path)!r}) must be a file that ends in one of: {', '.join(registry)}"
        )
    return registry[path.suffix.lower()]


def _checked(images: np.ndarray) -> np.ndarray:
    """Return images as (frame, row, column), or raise if they cannot be counts."""
    if images.dtype.kind not in "biuf":
        raise TypeError(f"values (of {images.dtype}) must be real numbers")
    if images.ndim not in (2, 3) or not images.size:
        raise ValueError(
            f"images (of shape {images.shape}) must be (row, column) or (frame, row, column), with "
            "at least one pixel"
        )
    frames = images if images.ndim == 3 else images[None]
    wrong = ~(np.isfinite(frames) & (frames >= 0))
    if wrong.any():
        frame, row, column = (int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(
            f"{frames[frame, row, column]} at frame {frame}, row {row}, column {column}; values "
            "must be finite and not negative"
        )
    return frames


def _read_npy(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        return _native(np.load(file, allow_pickle=False))


def _read_png(path: Path) -> np.ndarray:
    from PIL import Image

    with path.open("rb") as file:
        header = file.read(_PNG_COLOUR + 1)
    with Image.open(path, formats=["PNG"]) as image:
        bits, is_grey = header[_PNG_BITS], header[_PNG_COLOUR] == 0
        if is_grey:
            values = _native(np.asarray(image))
            # Pillow spreads 2 and 4 bits over the range of 8
            return values // (255 // (2**bits - 1)) if bits in (2, 4) else values
        if bits > 8:  # Pillow would reduce them to 8
            raise ValueError("the image has 16 bits of colour or transparency; convert it to grey")
        return _grey(np.asarray(image.convert("RGBA")), 1)


def _read_tiff(path: Path) -> np.ndarray:
    import tifffile

    with tifffile.TiffFile(path) as file:
        _check_pages(file)
        values = _brightness(file.series[0])
    return _native(values.reshape(-1, *values.shape[-2:]))


def _check_pages(file: tifffile.TiffFile) -> None:
    """Raise unless all pages are there and alike; tifffile leaves out what is cut off."""
    pages: Any = file.pages
    file.filehandle.seek(pages.next_page_offset)
    if file.filehandle.read(file.tiff.offsetsize) != bytes(file.tiff.offsetsize):
        raise ValueError(f"it is cut short after page {len(pages) - 1}; use another copy")
    if len(file.series) != 1 or len(file.series[0].pages) < len(pages):
        raise ValueError(
            f"its {len(pages)} pages are not frames of one kind; save each kind in its own file"
        )


def _brightness(series: tifffile.TiffPageSeries) -> np.ndarray:
    """Return the numbers of all pages (..., row, column), or raise if they are not grey."""
    page: Any = series.keyframe
    values, kind = series.asarray(), page.photometric.name
    if kind == "PALETTE" and values.itemsize == 1:
        colours = (page.colormap >> 8).astype(np.uint8)
        return _grey(colours.T[values], 0)
    if kind not in ("MINISBLACK", "RGB"):
        raise ValueError(f"its numbers are of the kind {kind}; save it as grey, with black as zero")
    if page.samplesperpixel == 1:
        return values
    return _grey(np.moveaxis(values, series.axes.index("S"), -1), len(page.extrasamples))


def _grey(values: np.ndarray, n_alpha: int) -> np.ndarray:
    """Return one of the channels, on the last axis, or raise if colours differ or alpha matters."""
    n_colours = values.shape[-1] - n_alpha
    grey = values[..., 0]
    if (values[..., :n_colours] != grey[..., None]).any():
        raise ValueError("the image is in colour; convert it to grey")
    if n_alpha and (values[..., n_colours:] != np.iinfo(values.dtype).max).any():
        raise ValueError("the image is transparent in part; save it without an alpha channel")
    return grey


def _native(values: np.ndarray) -> np.ndarray:
    """Return numbers in the byte order of this machine, and booleans as whole numbers."""
    if values.dtype.kind == "b":
        return values.astype(np.uint8)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _write_npy(path: Path, images: np.ndarray, png_bits: int) -> None:
    with path.open("wb") as file:
        np.save(file, images)


def _write_png(path: Path, images: np.ndarray, png_bits: int) -> None:
    from PIL import Image

    _check_one(len(images) if images.ndim == 3 else 1)
    frame = images.reshape(images.shape[-2:]).astype(float)
    scaled = np.rint(frame / (frame.max() or 1.0) * (2**png_bits - 1))
    Image.fromarray(scaled.astype(f"uint{png_bits}")).save(path, format="PNG")


def _check_one(n_frames: int) -> None:
    if n_frames > 1:
        raise ValueError(f"`images` ({n_frames} frames) must be one for PNG; write a .tif")


def _write_tiff(path: Path, images: np.ndarray, png_bits: int) -> None:
    import tifffile

    tifffile.imwrite(path, images, photometric="minisblack")


_READERS: dict[str, Callable[[Path], np.ndarray]] = {
    ".npy": _read_npy,
    ".png": _read_png,
    ".tif": _read_tiff,
    ".tiff": _read_tiff,
}
_WRITERS: dict[str, Callable[[Path, np.ndarray, int], None]] = {
    ".npy": _write_npy,
    ".png": _write_png,
    ".tif": _write_tiff,
    ".tiff": _write_tiff,
}
