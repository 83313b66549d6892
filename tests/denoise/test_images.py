"""Images in files: the numbers that went in come out, or an error names the file."""

from __future__ import annotations

import itertools
import re
import zlib
from importlib.util import find_spec

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from spikecdl.denoise.images import read_folder, read_images, write_images

SHAPE = (6, 7)
SUFFIXES = [".npy", ".png", ".tif", ".tiff"]
each_exact = pytest.mark.parametrize("suffix", [".npy", ".tif", ".tiff", ".TIF"])


def numbers(dtype: str, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Return values over the whole range of a type, from 0 on."""
    values = np.random.default_rng(0).random(shape)
    if np.dtype(dtype).kind == "f":
        return (1e4 * values).astype(dtype)
    top = np.iinfo(dtype).max
    counts = (values * top).astype(dtype)
    counts.flat[0], counts.flat[-1] = 0, top
    return counts


def save(path, image: Image.Image, **options):
    image.save(path, **options)
    return path


def assert_same(one: np.ndarray, other: np.ndarray) -> None:
    assert one.dtype == other.dtype
    np.testing.assert_array_equal(one, other)


def refusal(path) -> str:
    """Return the error of reading a file, which names it."""
    with pytest.raises(ValueError) as caught:
        read_images(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


@each_exact
def test_single_precision_comes_back(tmp_path, suffix):
    for shape in (SHAPE, (5, *SHAPE), (1, 3, 2), (3, 4, 4)):
        path, images = tmp_path / f"rates{suffix}", numbers("float32", shape)
        write_images(path, images)
        assert_same(read_images(path), images.reshape(-1, *shape[-2:]))
        assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".npy", ".tif"])
@settings(deadline=None, max_examples=25)
@given(
    images=arrays.arrays(
        np.float32,
        arrays.array_shapes(min_dims=2, max_dims=3, max_side=6),
        elements=st.floats(0, width=32, allow_infinity=False),
    )
)
def test_any_single_precision_comes_back(tmp_path_factory, suffix, images):
    path = tmp_path_factory.mktemp("rates") / f"rates{suffix}"
    write_images(path, images)
    assert_same(read_images(path), images.reshape(-1, *images.shape[-2:]))


@pytest.mark.parametrize("shape", [SHAPE, (4, *SHAPE)])
def test_others_read_what_is_written(tmp_path, shape):
    images = numbers("float32", shape)
    write_images(tmp_path / "rates.tif", images)
    write_images(tmp_path / "rates.npy", images)
    assert_same(tifffile.imread(tmp_path / "rates.tif"), images)
    assert_same(np.load(tmp_path / "rates.npy"), images)


@pytest.mark.parametrize(
    "dtype", ["uint8", "uint16", "uint32", "int8", "int16", "int32", "float32", "float64"]
)
def test_tiff_of_others(tmp_path, dtype):
    path, kinds = tmp_path / "cells.tif", [(None, SHAPE), ("zlib", (5, *SHAPE))]
    for byteorder, (compression, shape) in itertools.product("<>", kinds):
        images = numbers(dtype, shape)
        tifffile.imwrite(
            path, images, byteorder=byteorder, compression=compression, photometric="minisblack"
        )
        assert_same(read_images(path), images.reshape(-1, *SHAPE))


@pytest.mark.parametrize("compression", [None, "tiff_adobe_deflate", "packbits"])
def test_tiff_of_pillow(tmp_path, compression):
    path = tmp_path / "cells.tif"
    for dtype in ("uint8", "uint16", "float32"):
        images = numbers(dtype, (3, *SHAPE))
        first, *rest = map(Image.fromarray, images)
        first.save(path, save_all=True, append_images=rest, compression=compression)
        assert_same(read_images(path), images)


@pytest.mark.skipif(find_spec("imagecodecs") is not None, reason="imagecodecs can read it")
def test_compression_that_needs_another_package(tmp_path):
    image = Image.fromarray(numbers("uint8"))
    path = save(tmp_path / "cells.tif", image, compression="tiff_lzw")
    with pytest.raises(ValueError, match=r"cells\.tif: .*LZW.* requires the 'imagecodecs' package"):
        read_images(path)


@pytest.mark.parametrize(
    "options",
    [{"imagej": True}, {"ome": True}, {"bigtiff": True}, {"imagej": True, "truncate": True}],
)
def test_tiff_stacks_of_microscopes(tmp_path, options):
    path, images = tmp_path / "cells.tif", numbers("uint16", (5, *SHAPE))
    tifffile.imwrite(path, images, photometric="minisblack", **options)
    assert_same(read_images(path), images)


@pytest.mark.parametrize("shape", [SHAPE, (3, *SHAPE)])
def test_npy_of_any_type(tmp_path, shape):
    for dtype in ("bool", "uint8", ">u2", "int64", "float16", "float32", "float64"):
        images = np.random.default_rng(0).poisson(0.7, shape).astype(dtype)
        np.save(tmp_path / "cells.npy", images)
        read = read_images(tmp_path / "cells.npy")
        np.testing.assert_array_equal(read, images.reshape(-1, *SHAPE))
        assert read.dtype == ("uint8" if dtype == "bool" else np.dtype(dtype).newbyteorder("="))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_one_bit(tmp_path, suffix):
    photons = np.random.default_rng(0).random(SHAPE) < 0.5
    path = save(tmp_path / f"photons{suffix}", Image.fromarray(photons))
    assert_same(read_images(path), photons[None].astype(np.uint8))


def test_png_of_few_bits_is_not_spread_over_more(tmp_path):
    for bits in (1, 2, 4, 8, 16):
        counts = np.random.default_rng(0).integers(0, 2**bits, (5, 16))
        counts[0, 0] = 2**bits - 1
        path = tmp_path / "cells.png"
        path.write_bytes(png(counts, bits))
        assert_same(read_images(path)[0], counts.astype("uint16" if bits == 16 else "uint8"))


def png(counts: np.ndarray, bits: int) -> bytes:
    """Return a grey PNG (RFC 2083), with as many bits a pixel as no library at hand writes."""

    def chunk(name: bytes, content: bytes) -> bytes:
        check = zlib.crc32(name + content).to_bytes(4, "big")
        return len(content).to_bytes(4, "big") + name + content + check

    unpacked = counts[..., None] >> np.arange(bits - 1, -1, -1) & 1
    rows = np.packbits(unpacked.reshape(len(counts), -1).astype(np.uint8), axis=1)
    lines = b"".join(b"\0" + row.tobytes() for row in rows)  # no filter
    height, width = counts.shape
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([bits, 0, 0, 0, 0])
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_grey_in_colour(tmp_path, suffix):
    counts = numbers("uint8")
    for mode in ("RGB", "RGBA", "LA", "P"):
        if (mode, suffix) != ("LA", ".tif"):  # which Pillow does not write
            path = save(tmp_path / f"cells{suffix}", Image.fromarray(counts).convert(mode))
            assert_same(read_images(path), counts[None])


@pytest.mark.parametrize("shape", [SHAPE, (1, *SHAPE)])
def test_png_is_scaled_to_its_largest_value(tmp_path, shape):
    rates, path = numbers("float32", shape), tmp_path / "rates.png"
    write_images(path, rates)
    scaled, top = read_images(path), 2**16 - 1
    assert scaled.dtype == np.uint16
    assert scaled.max() == top
    np.testing.assert_allclose(scaled[0], rates.reshape(SHAPE) / rates.max() * top, atol=0.501)


def test_a_dark_png(tmp_path):
    write_images(tmp_path / "dark.png", np.zeros(SHAPE))
    assert (read_images(tmp_path / "dark.png") == 0).all()


@each_exact
def test_counts_are_written_exactly_or_not_at_all(tmp_path, suffix):
    path = tmp_path / f"cells{suffix}"
    write_images(path, [[0, 2**24]])
    assert read_images(path).tolist() == [[[0, 2**24]]]
    before = path.read_bytes()
    for value in (2**24 + 1, 1e39):
        with pytest.raises(ValueError, match="too large for single precision"):
            write_images(path, [[0, value]])
    assert path.read_bytes() == before


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "rates.tif"
    write_images(path, numbers("float32"))
    before = path.read_bytes()

    def full(file, images, **options):
        file.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(tifffile, "imwrite", full)
    with pytest.raises(OSError, match="no space left"):
        write_images(path, np.ones(SHAPE))
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("suffix", [".npy", ".png", ".tif"])
def test_truncated_files(tmp_path, suffix):
    path = tmp_path / f"cut{suffix}"
    noise = np.random.default_rng(0).random((50, 40)).astype(np.float32)
    write_images(path, noise)
    content = path.read_bytes()
    for kept in (0, 20, 60, len(content) // 2, int(0.9 * len(content))):
        path.write_bytes(content[:kept])
        assert refusal(path)


def cut_stack(folder, kept, **options):
    """Return a TIFF stack of which only a share of the bytes is kept, and its frames."""
    path, images = folder / "cut.tif", numbers("uint16", (6, 10, 8))
    tifffile.imwrite(path, images, photometric="minisblack", **options)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    return path, images


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("metadata", [None, {}])
def test_truncated_stacks(tmp_path, compression, metadata):
    for kept in (0.1, 0.3, 0.6, 0.9):
        path, _ = cut_stack(tmp_path, kept, compression=compression, metadata=metadata)
        assert refusal(path)


@settings(deadline=None, max_examples=40)
@given(
    kept=st.floats(0, 1),
    metadata=st.sampled_from([None, {}]),
    compression=st.sampled_from([None, "zlib"]),
)
def test_a_stack_is_whole_or_refused(tmp_path_factory, kept, metadata, compression):
    folder = tmp_path_factory.mktemp("cut")
    path, images = cut_stack(folder, kept, compression=compression, metadata=metadata)
    try:
        read = read_images(path)
    except ValueError as error:
        read, message = None, str(error)
    if read is None:
        assert str(path) in message
    else:
        assert_same(read, images)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_of_another_kind(tmp_path, suffix):
    path = tmp_path / f"text{suffix}"
    path.write_text("these are no pixels\n" * 20)
    assert refusal(path)


@pytest.mark.parametrize("suffix", [".npy", ".tif"])
def test_values_that_no_count_has(tmp_path, suffix):
    for value in (np.nan, np.inf, -1.0):
        path, images = tmp_path / f"bad{value}{suffix}", numbers("float32", (3, *SHAPE))
        images[2, 4, 5] = value
        error = f"`images` (={value} at frame 2, row 4, column 5) must be finite"
        with pytest.raises(ValueError, match=re.escape(error)):
            write_images(path, images)
        assert not path.exists()
        if suffix == ".npy":
            np.save(path, images)
        else:
            tifffile.imwrite(path, images, photometric="minisblack")
        assert refusal(path).startswith(f"{path}: {error}")


def test_negative_counts(tmp_path):
    path = tmp_path / "bad.tif"
    for dtype in ("int8", "int16", "int32"):
        counts = numbers(dtype)
        counts[1, 2] = -3
        tifffile.imwrite(path, counts)
        assert "=-3 at frame 0, row 1, column 2)" in refusal(path)


COLOURED = np.zeros((*SHAPE, 3), dtype=np.uint8)
COLOURED[2, 3] = 9, 9, 8
CLEAR = np.full((*SHAPE, 4), 255, dtype=np.uint8)
CLEAR[2, 3, 3] = 254


def palette() -> Image.Image:
    image = Image.fromarray(np.eye(6, dtype=np.uint8), "L")
    image.putpalette([0, 0, 0, 200, 10, 10])
    return image


@pytest.mark.parametrize(
    ("name", "image", "words"),
    [
        ("a.png", Image.fromarray(COLOURED), "colour; convert it to grey"),
        ("a.tif", Image.fromarray(COLOURED), "colour; convert it to grey"),
        ("a.png", palette(), "colour; convert it to grey"),
        ("a.tif", palette(), "colour; convert it to grey"),
        ("a.png", Image.fromarray(CLEAR), "save it without an alpha channel"),
        ("a.tif", Image.fromarray(COLOURED).convert("CMYK"), "kind SEPARATED; save it as grey"),
    ],
)
def test_colour(tmp_path, name, image, words):
    assert words in refusal(save(tmp_path / name, image))


@pytest.mark.parametrize(
    ("dtype", "shape", "options", "words"),
    [
        ("uint16", SHAPE, {"photometric": "miniswhite"}, "kind MINISWHITE; save it as"),
        ("uint16", (*SHAPE, 3), {"photometric": "rgb"}, "in colour; convert"),
        ("uint8", (*SHAPE, 2), {"extrasamples": ["unassalpha"]}, "without an alpha"),
    ],
)
def test_tiff_that_is_refused(tmp_path, dtype, shape, options, words):
    tifffile.imwrite(tmp_path / "cells.tif", numbers(dtype, shape), **options)
    assert words in refusal(tmp_path / "cells.tif")


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_grey_in_the_colours_of_a_stack(tmp_path, planar):
    for dtype in ("uint8", "uint16", "float32"):
        path, images = tmp_path / "cells.tif", numbers(dtype, (3, *SHAPE))
        colours = np.stack([images] * 3, axis=-1 if planar == "contig" else 1)
        tifffile.imwrite(path, colours, photometric="rgb", planarconfig=planar)
        assert_same(read_images(path), images)


def test_png_of_16_bits_in_colour_is_not_cut_to_8(tmp_path):
    path = tmp_path / "cells.png"
    content = bytearray(png(numbers("uint16").astype(int), 16))
    content[25] = 2  # colour type
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)
    assert "16 bits of colour or transparency; convert it to grey" in refusal(path)


def test_pages_of_unequal_sizes(tmp_path):
    path = tmp_path / "cells.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(numbers("uint8"))
        file.write(numbers("uint8", (3, 3)))
    assert "its 2 pages are not frames of one kind; save each" in refusal(path)


def test_shapes_that_are_no_image(tmp_path):
    path = tmp_path / "cells.npy"
    for shape in ((0, 5), (5, 0), (0, 5, 5), (4,), (), (2, 2, 2, 2)):
        np.save(path, np.zeros(shape))
        error = f"`images` (shape {shape}) must have"
        assert refusal(path).startswith(f"{path}: {error}")
        with pytest.raises(ValueError, match=re.escape(error)):
            write_images(path, np.zeros(shape))


def test_npy_of_things_that_are_no_numbers(tmp_path):
    path = tmp_path / "cells.npy"
    for array in (np.ones(SHAPE, dtype=complex), np.full(SHAPE, "a")):
        np.save(path, array)
        with pytest.raises(ValueError, match="must be"):
            read_images(path)
        with pytest.raises(TypeError, match="`images`"):
            write_images(path, array)


def test_wrong_suffix(tmp_path):
    calls = read_images, lambda path: write_images(path, np.ones(SHAPE))
    for name, call in itertools.product(["cells.jpg", "cells", "cells.tif.gz"], calls):
        path = tmp_path / name
        path.write_bytes(b"")
        with pytest.raises(ValueError) as caught:
            call(path)
        assert str(path) in str(caught.value)
        assert ".npy, .png, .tif, .tiff" in str(caught.value)


def test_where_nothing_is(tmp_path):
    for call in (read_images, read_folder, lambda path: write_images(path, np.ones(SHAPE))):
        with pytest.raises(FileNotFoundError, match="there is no file or folder"):
            call(tmp_path / "nowhere" / "cells.tif")


def test_bad_arguments_of_writing(tmp_path):
    with pytest.raises(ValueError, match=r"`images` \(2 frames\) must be one for PNG"):
        write_images(tmp_path / "cells.png", np.ones((2, *SHAPE)))
    (tmp_path / "folder.tif").mkdir()
    for call in (read_images, lambda path: write_images(path, np.ones(SHAPE))):
        with pytest.raises(ValueError, match="folder"):
            call(tmp_path / "folder.tif")


def test_folder(tmp_path):
    frames = {
        "b": numbers("uint8"),
        "a": numbers("uint16", (3, 4)),
        "c": numbers("float32", (2, 5, 5)),
    }
    save(tmp_path / "b.PNG", Image.fromarray(frames["b"]))
    tifffile.imwrite(tmp_path / "a.tif", frames["a"])
    np.save(tmp_path / "c.npy", frames["c"])
    (tmp_path / "._b.png").write_bytes(b"what other systems leave")
    (tmp_path / "README.txt").write_text("where they come from")
    (tmp_path / "more.png").mkdir()
    found = read_folder(tmp_path)
    assert list(found) == ["a.tif", "b.PNG", "c.npy:0", "c.npy:1"]
    for one, other in zip(found.values(), [frames["a"], frames["b"], *frames["c"]], strict=True):
        assert_same(one, other)


def test_folder_with_a_damaged_image(tmp_path):
    np.save(tmp_path / "a.npy", np.ones(SHAPE))
    (tmp_path / "b.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"b\.png"):
        read_folder(tmp_path)


def test_folder_without_images(tmp_path):
    (tmp_path / "README.txt").write_text("nothing yet")
    with pytest.raises(ValueError, match=r"holds no image \(\.npy, \.png, \.tif, \.tiff\)"):
        read_folder(tmp_path)
    with pytest.raises(ValueError, match="must be a folder; see read_images"):
        read_folder(tmp_path / "README.txt")
