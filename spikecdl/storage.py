"""Files that are whole or absent, and tensors that are checked when they are read."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def write_atomic(path: str | Path, content: bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, never a part.

    The content goes to a temporary file beside it, is flushed to disk, and takes the name.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON atomically; numbers must be finite."""
    write_atomic(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def save_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]
) -> None:
    """Write tensors and JSON-able metadata to one safetensors file with its SHA-256 inside."""
    from safetensors.torch import save

    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    text = json.dumps(metadata, sort_keys=True, allow_nan=False)
    header = {"metadata": text, "sha256": _digest(plain, text)}
    write_atomic(path, save(plain, metadata=header))


def load_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not such a file, is truncated, or its SHA-256 does not match.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    content = Path(path).read_bytes()
    try:
        tensors = load(content)
        size = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + size])["__metadata__"]
        text, expected = header["metadata"], header["sha256"]
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(
            f"`{path}` is not a file written by spikecdl, or damaged: {error}"
        ) from None
    if _digest(tensors, text) != expected:
        raise ValueError(f"`{path}` is damaged: its SHA-256 does not match; use another copy")
    return tensors, json.loads(text)


def _digest(tensors: Mapping[str, Tensor], metadata: str) -> str:
    digest = hashlib.sha256(metadata.encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        flat = value.clone(memory_format=torch.contiguous_format).reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
