"""Images: their pixels, methods that learn from one alone, files, and folders of clean images."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator

from spikecdl.files import existing, reading, replaceable, replacing
from spikecdl.validation import extra

if TYPE_CHECKING:
    import tifffile


_AXES = ("frame", "row", "column")
_PHOTONS = (
    "whole numbers of photons, 0 or more; subtract the detector's offset and divide by its gain"
)


def checked(
    name: str, values: Any, axes: Sequence[int] = (2, 3), whole: bool = False
) -> np.ndarray:
    """Return pixels (row, column) or (frame, row, column) as an array, if they can be light.

    ``axes`` are the numbers of axes that are allowed.  Raises TypeError if values are not numbers,
    and ValueError for other axes, if there are no pixels, or if one is negative, not finite or, if
    ``whole``, not a whole number.
    """
    pixels = np.asarray(values)
    if pixels.dtype.kind not in "biuf":
        raise TypeError(f"`{name}` (of {pixels.dtype}) must be real numbers")
    if pixels.ndim not in axes or 0 in pixels.shape[-2:]:
        needed = " or ".join(f"({', '.join(_AXES[-number:])})" for number in axes)
        raise ValueError(
            f"`{name}` (shape {pixels.shape}) must have the axes {needed} and at least one pixel"
        )
    wrong = ~np.isfinite(pixels) | (pixels < 0)
    if whole:
        wrong |= pixels != np.floor(pixels)
    if wrong.any():
        place = tuple(np.argwhere(wrong)[0])
        where = ", ".join(
            f"{axis} {i}" for axis, i in zip(_AXES[-len(place) :], place, strict=True)
        )
        needed = _PHOTONS if whole else "finite and not negative"
        raise ValueError(f"`{name}` (={pixels[place]} at {where}) must be {needed}")
    return pixels


class SingleImageDenoiser(BaseEstimator):
    """A method that denoises a single frame and learns nothing from others, so it has no fit."""

    def predict(self, counts: Any) -> np.ndarray:
        """Return the expected counts (row, column) of every pixel.

        Parameters
        ----------
        counts : array_like, shape (row, column)
            Photons per pixel.

        Raises
        ------
        ValueError, TypeError
            If a count is not a whole number of 0 or more, or a setting does not suit the image.
        """
        return self._rates(checked("counts", counts, axes=(2,), whole=True).astype(float))

    @abstractmethod
    def _rates(self, counts: np.ndarray) -> np.ndarray:
        """Return the expected counts (row, column) of a frame."""


def summed(counts: np.ndarray, size: int) -> np.ndarray:
    """Return sums over squares of pixels; the image is mirrored where the last ones exceed it."""
    whole = np.pad(counts, [(0, -side % size) for side in counts.shape], mode="symmetric")
    rows, columns = whole.shape
    return whole.reshape(rows // size, size, columns // size, size).sum((1, 3))


def read_images(path: str | os.PathLike[str]) -> np.ndarray:
    """Read the frames (frame, row, column) of a file, with the numbers and the type in it.

    Parameters
    ----------
    path : path_like
        PNG of up to 16 bits; TIFF of whole or real numbers, where every page is a frame, whether
        pages are times, depths or channels; or npy of shape (row, column) or (frame, row, column).
        Images in colours or with a palette are read if all their pixels are grey.

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
    suffix = _suffix(place)
    with reading(place, f"{suffix[1:]} images"):
        return _frames(_READERS[suffix](place))


def read_folder(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read all images of a folder, such as those that train a denoiser.

    Files of other kinds, hidden files and folders are ignored.

    Returns
    -------
    dict of str to ndarray, shape (row, column)
        Frames by file name, in its order; those of stacks are numbered, as in "cells.tif:0".

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such folder, it holds no image, or one that `read_images` refuses.
    """
    folder = existing(path)
    if not folder.is_dir():
        raise ValueError(f"`path` (={str(path)!r}) must be a folder; see read_images for a file")
    named = {}
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() in _READERS and not file.name.startswith(".") and file.is_file():
            frames = read_images(file)
            for number, frame in enumerate(frames):
                named[file.name if len(frames) == 1 else f"{file.name}:{number}"] = frame
    if not named:
        raise ValueError(f"`path` (={str(path)!r}) holds no image ({', '.join(_READERS)})")
    return named


def write_images(path: str | os.PathLike[str], images: Any) -> None:
    """Write frames to a TIFF, npy or PNG file, whole or not at all.

    TIFF (a page per frame) and npy keep numbers, in single precision.  PNG is for viewing: one
    frame with 16 bits per pixel, scaled so that its largest value is white and 0 is black.

    Parameters
    ----------
    path : path_like
        Replaced if it exists; its suffix gives the format.
    images : array_like, shape (row, column) or (frame, row, column)
        Counts or expected counts.

    Raises
    ------
    FileNotFoundError
        If the folder does not exist.
    ValueError, TypeError
        If the suffix is unknown, there is no pixel, a value is not a number, negative, not finite
        or too large for single precision (whole numbers: to be exact), or a PNG would have several
        frames.
    """
    suffix = _suffix(Path(path))
    values = np.asarray(images)
    frames = _frames(values)
    with np.errstate(over="ignore"):
        single = frames.astype(np.float32)
    if not np.isfinite(single).all() or (values.dtype.kind in "iu" and (single != frames).any()):
        raise ValueError(
            f"`images` (up to {values.max()}) are too large for single precision, which holds "
            f"whole numbers up to {2**24} and others up to 3.4e38; divide them"
        )
    with replacing(path) as temporary:
        _write(temporary, single.reshape(values.shape), suffix)


def check_target(path: Path, n_frames: int, source: Path) -> None:
    """Raise what `write_images` would raise, or if ``source`` would be replaced."""
    if _suffix(path) == ".png":
        _check_one(n_frames)
    replaceable(path, str(source))


def _frames(values: np.ndarray) -> np.ndarray:
    """Return pixels as (frame, row, column), numbers in the byte order of this machine."""
    pixels = checked("images", values)
    if not len(pixels):
        raise ValueError(f"`images` (shape {pixels.shape}) must have at least one frame")
    kind = np.uint8 if pixels.dtype.kind == "b" else pixels.dtype.newbyteorder("=")
    return pixels.astype(kind, copy=False).reshape(-1, *pixels.shape[-2:])


def _read_png(path: Path) -> np.ndarray:
    from PIL import Image

    with path.open("rb") as file:
        header = file.read(26)
    with Image.open(path, formats=["PNG"]) as image:
        bits, colour = header[24:]
        if colour == 0:  # grey
            values = np.asarray(image)
            # Pillow spreads 2 and 4 bits over the range of 8
            return values // (255 // (2**bits - 1)) if bits in (2, 4) else values
        if bits > 8:  # Pillow would reduce them to 8
            raise ValueError("the image has 16 bits of colour or transparency; convert it to grey")
        return _grey(np.asarray(image.convert("RGBA")), 1)


def _read_tiff(path: Path) -> np.ndarray:
    with extra("images", "TIFF"):
        import tifffile

    with tifffile.TiffFile(path) as file:
        pages: Any = file.pages
        file.filehandle.seek(pages.next_page_offset)  # tifffile leaves out what is cut off
        if file.filehandle.read(file.tiff.offsetsize) != bytes(file.tiff.offsetsize):
            raise ValueError(f"it is cut short after page {len(pages) - 1}; use another copy")
        if len(file.series) != 1 or len(file.series[0].pages) < len(pages):
            raise ValueError(
                f"its {len(pages)} pages are not frames of one kind; save each kind in its own file"
            )
        values = _brightness(file.series[0])
    return values.reshape(-1, *values.shape[-2:])


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


def _read_npy(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        return np.load(file, allow_pickle=False)


_READERS = {".npy": _read_npy, ".png": _read_png, ".tif": _read_tiff, ".tiff": _read_tiff}


def _suffix(path: Path) -> str:
    """Return the suffix of a file in small letters, or raise if its format is unknown."""
    suffix = path.suffix.lower()
    if suffix not in _READERS:
        raise ValueError(
            f"`path` (={str(path)!r}) must be a file that ends in one of: {', '.join(_READERS)}"
        )
    return suffix


def _write(path: Path, images: np.ndarray, suffix: str) -> None:
    """Write images in the format of a suffix, which the path may lack."""
    if suffix == ".npy":
        with path.open("wb") as file:
            np.save(file, images)
    elif suffix == ".png":
        from PIL import Image

        _check_one(len(images) if images.ndim == 3 else 1)
        frame = images.reshape(images.shape[-2:]).astype(float)
        scaled = np.rint(frame / (frame.max() or 1.0) * (2**16 - 1))
        Image.fromarray(scaled.astype(np.uint16)).save(path, format="PNG")
    else:
        with extra("images", "TIFF"):
            import tifffile

        tifffile.imwrite(path, images, photometric="minisblack")


def _check_one(n_frames: int) -> None:
    if n_frames > 1:
        raise ValueError(f"`images` ({n_frames} frames) must be one for PNG; write a .tif")
