"""Files of tensors: the same bits come back, and damage is found."""

from __future__ import annotations

import json
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import refused

from spikecdl.checkpoint import load_tensors, save_tensors

METADATA = {"format": 1, "name": "möhre", "list": [1, 2.5, None], "nested": {"a": True}}


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "templates": torch.randn(2, 1, 5, generator=generator),
        "double": torch.randn(3, generator=generator, dtype=torch.float64),
        "half": torch.randn(4, generator=generator).bfloat16(),
        "index": torch.tensor([[1, -2], [3, 4]]),
        "mask": torch.tensor([True, False]),
        "bytes": torch.arange(7, dtype=torch.uint8),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "special": torch.tensor([float("nan"), float("inf"), -0.0]),
        "transposed": torch.arange(6.0).reshape(2, 3).T,
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }


def assert_same(read: dict[str, torch.Tensor], written: dict[str, torch.Tensor]) -> None:
    assert read.keys() == written.keys()
    for name, value in written.items():
        assert read[name].dtype == value.dtype, name
        assert read[name].shape == value.shape, name
        # bitwise, nan and -0.0 too
        one, other = (t.detach().contiguous().flatten() for t in (read[name], value))
        assert torch.equal(one.view(torch.uint8), other.view(torch.uint8)), name


class TestTensors:
    """A safetensors file with its own SHA-256."""

    @pytest.fixture
    def path(self, tmp_path):
        path = tmp_path / "model.safetensors"
        save_tensors(path, tensors(), METADATA)
        return path

    def test_come_back_bitwise(self, path):
        read, metadata = load_tensors(path)
        assert_same(read, tensors())
        assert metadata == METADATA

    def test_same_content_same_bytes(self, path, tmp_path):
        for number in range(8):
            again = tmp_path / f"{number}.safetensors"
            save_tensors(again, dict(reversed(tensors().items())), METADATA)
            assert again.read_bytes() == path.read_bytes()

    def test_same_content_same_sha256(self, path, tmp_path):
        from safetensors import safe_open

        again = tmp_path / "again.safetensors"
        save_tensors(again, dict(reversed(tensors().items())), dict(reversed(METADATA.items())))
        with safe_open(path, "pt") as one, safe_open(again, "pt") as other:
            assert one.metadata() == other.metadata()

    def test_open_in_safetensors(self, path):
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            assert set(file.keys()) == set(tensors())
            assert torch.equal(file.get_tensor("index"), tensors()["index"])
            assert json.loads(file.metadata()["metadata"]) == METADATA

    @pytest.mark.parametrize("flip", [0x01, 0x20])
    def test_a_flipped_byte_is_found_wherever_it_is(self, tmp_path, flip):
        path = tmp_path / "small.safetensors"
        save_tensors(path, {"a": torch.ones(3), "A": torch.arange(4)}, METADATA)
        content = path.read_bytes()
        for position in range(len(content)):
            damaged = bytearray(content)
            damaged[position] ^= flip
            path.write_bytes(damaged)
            with pytest.raises(ValueError, match=re.escape(str(path))):
                load_tensors(path)

    @settings(max_examples=50)
    @given(data=st.data())
    def test_damage_of_any_kind_is_found(self, data, tmp_path_factory):
        """Refused, or such that it changes nothing (white space of the header)."""
        path = tmp_path_factory.mktemp("damage") / "model.safetensors"
        save_tensors(path, tensors(), METADATA)
        content = path.read_bytes()
        start = data.draw(st.integers(0, len(content) - 1))
        length = data.draw(st.integers(1, 40))
        replacement = data.draw(st.binary(max_size=40))
        damaged = content[:start] + replacement + content[start + length :]
        path.write_bytes(damaged)
        if damaged != content:
            try:
                read, metadata = load_tensors(path)
            except ValueError:
                return
            assert_same(read, tensors())
            assert metadata == METADATA

    def test_every_truncation_is_found(self, path):
        content = path.read_bytes()
        for length in range(0, len(content), 7):
            path.write_bytes(content[:length])
            with pytest.raises(ValueError, match="damaged"):
                load_tensors(path)

    def test_another_file_is_refused(self, tmp_path):
        for content in [
            b"",
            b"\x00" * 8,
            b"not a tensor file at all",
            b"\x89HDF\r\n\x1a\n" + b"\x00" * 100,
        ]:
            path = tmp_path / "other.bin"
            path.write_bytes(content)
            with refused(ValueError, "is not a file written by spikecdl, or damaged", content):
                load_tensors(path)

    def test_a_safetensors_file_of_others_is_refused(self, tmp_path):
        for metadata in [None, {}, {"metadata": "{}"}, {"sha256": "0"}]:
            from safetensors.torch import save_file

            path = tmp_path / "other.safetensors"
            save_file({"a": torch.ones(2)}, path, metadata=metadata)
            with refused(ValueError, "is not a file written by spikecdl", metadata):
                load_tensors(path)

    def test_swapped_tensors_are_found(self, tmp_path):
        path = tmp_path / "swapped.safetensors"
        save_tensors(path, {"a": torch.zeros(2), "b": torch.ones(2)}, {})
        content = path.read_bytes().replace(b'"a"', b'"x"').replace(b'"b"', b'"a"')
        path.write_bytes(content.replace(b'"x"', b'"b"'))
        with pytest.raises(ValueError, match="SHA-256 does not match"):
            load_tensors(path)

    def test_changed_types_and_shapes_are_found(self, tmp_path):
        for old, new in [(b'"F32"', b'"I32"'), (b"[2,3]", b"[3,2]")]:
            path = tmp_path / "changed.safetensors"
            save_tensors(path, {"a": torch.ones(2, 3)}, {})
            content = path.read_bytes()
            assert content.count(old) == 1
            path.write_bytes(content.replace(old, new))
            with refused(ValueError, "SHA-256 does not match", old):
                load_tensors(path)

    def test_no_file_is_an_error_of_its_own(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            load_tensors(tmp_path / "absent.safetensors")

    def test_two_names_for_one_tensor(self, tmp_path):
        path = tmp_path / "tied.safetensors"
        shared = torch.arange(3.0)
        written = {"a": shared, "b": shared, "part": shared[1:]}
        save_tensors(path, written, {})
        assert_same(load_tensors(path)[0], written)

    def test_metadata_must_be_plain(self, path):
        before = path.read_bytes()
        with pytest.raises(ValueError, match="JSON"):
            save_tensors(path, {}, {"loss": float("nan")})
        with pytest.raises(TypeError, match="JSON"):
            save_tensors(path, {}, {"family": object()})
        assert path.read_bytes() == before
