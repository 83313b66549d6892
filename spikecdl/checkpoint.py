"""Files of fitted models and of fits under way."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spikecdl import __version__, config
from spikecdl.files import exists, locked, reading, remove_leftovers, write_bytes, write_json
from spikecdl.solvers.parallel import current_processes
from spikecdl.training import Learned, OnEpoch, Problem
from spikecdl.training.steps import Steps
from spikecdl.validation import shown

MOMENT = 1.0  # seconds between steps that are written


def write_model(
    path: str | Path, learned: Learned, settings: Mapping[str, Any], fitted: Mapping[str, Any]
) -> None:
    """Write a model as ``.safetensors`` (all of it) and ``.json`` (to read)."""
    content = {"spikecdl": __version__, "settings": settings, "fitted": fitted}
    stem = _stem(path)
    save_tensors(stem.with_suffix(".safetensors"), _packed(learned), content)
    write_json(stem.with_suffix(".json"), content)


def restored(path: str | Path, kind: Callable[..., Any]) -> Any:
    """Return an estimator of this kind from the files that `write_model` has written."""
    file = _stem(path).with_suffix(".safetensors")
    if not exists(file):
        raise FileNotFoundError(
            f"there is no model at {shown(str(path))} (looked for {file.name[-50:]!r})"
        )
    tensors, content = load_tensors(file)
    if not isinstance(content, dict) or "fitted" not in content:
        raise ValueError(f"`{file}` is not a model but a checkpoint; fit with `resume`")
    with reading(Path(path), "a model"):
        learned = _unpacked(tensors)
        arguments = config.restore(content["settings"])
        model, fitted = kind(**arguments), config.attributes(content["fitted"])
        if arguments.keys() != model.get_params(deep=False).keys():
            raise ValueError(f"its settings {sorted(arguments)} are not those of this version")
        config.check_model(arguments, fitted, learned)
        model.__dict__ |= fitted
        model.tensors_, model.unit_tensors_ = learned.tensors, learned.unit_tensors
    return model


def _stem(path: str | Path) -> Path:
    """Return the common stem of a model's two files."""
    path = Path(path)
    if exists(path) and path.is_dir():
        return path / "model"
    return path.with_suffix("") if path.suffix in (".json", ".safetensors") else path


def _packed(learned: Learned) -> dict[str, Tensor]:
    """Return all tensors of what was learned, with prefixes that tell their kinds apart.

    Those of "state." are needed by training alone; those of "unit." have a row per unit.
    """
    more = _prefixed("unit.", learned.unit_tensors) | _prefixed("state.", learned.state)
    return learned.tensors | more


def _unpacked(tensors: Mapping[str, Tensor]) -> Learned:
    """Return what `_packed` was given."""
    others, state = _split(tensors, "state.")
    others, units = _split(others, "unit.")
    return Learned(others, state, unit_tensors=units)


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in tensors.items()}


def _split(
    tensors: Mapping[str, Tensor], prefix: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the tensors whose name lacks a prefix, and those that have it, without it."""
    others = {name: value for name, value in tensors.items() if not name.startswith(prefix)}
    mine = {n.removeprefix(prefix): value for n, value in tensors.items() if n not in others}
    return others, mine


@contextmanager
def checkpointing(
    path: str | Path | None, settings: Mapping[str, Any], problem: Problem, resume: bool
) -> Iterator[tuple[Learned | None, OnEpoch]]:
    """Keep a fit in a file, if there is a path.

    Yields the state of training in that file, if any is to be resumed, and what writes a later one.
    The steps of the problem are those in the file, and are written to it as they are taken.
    Of several processes, the first writes.

    Raises
    ------
    ValueError
        If the file is damaged, of another fit, or in use by another process.
    """
    if path is None:
        yield None, lambda learned: None
        return
    path, device = Path(path), problem.data.baseline.device
    file = Checkpoint(path, _fingerprint(config.describe(settings), problem), problem.steps)
    if current_processes().rank > 0:
        yield file.load(device) if resume else None, lambda learned: None
        return
    with locked(path.with_name(f".{path.name}.lock"), f"`checkpoint` (={str(path)!r})"):
        remove_leftovers(path)
        learned = file.load(device) if resume else None
        problem.steps.on_step = file.after_step
        yield learned, file.after_epoch


class Checkpoint:
    """The file that holds the state of a fit, and tells it from other fits.

    Parameters
    ----------
    path : Path
    fingerprint : str
        Digest of the version, settings and data of the fit.
    steps : Steps
        Steps before the first epoch.
    """

    def __init__(self, path: Path, fingerprint: str, steps: Steps) -> None:
        self.path, self.fingerprint, self.steps = path, fingerprint, steps
        self.learned: Learned | None = None
        self._written = -math.inf

    def after_epoch(self, learned: Learned) -> None:
        """Write the state of training."""
        self.learned = learned
        self._save()

    def after_step(self) -> None:
        """Write the steps, unless they were written a moment ago."""
        if time.monotonic() - self._written >= MOMENT:
            self._save()

    def _save(self) -> None:
        learned = self.learned or Learned({})
        about = {
            "epoch": learned.epoch,
            "history": learned.history,
            "converged": learned.converged,
            "steps": [name for name, _ in self.steps.done],
            "fingerprint": self.fingerprint,
        }
        tensors = _packed(learned)
        for number, (_, result) in enumerate(self.steps.done):
            tensors |= _prefixed(f"step.{number}.", result)
        save_tensors(self.path, tensors, about)
        self._written = time.monotonic()

    def load(self, device: torch.device) -> Learned | None:
        """Read the steps, and return the state of training if there has been an epoch."""
        if not self.path.exists():
            return None
        tensors, about = load_tensors(self.path)
        if about.get("fingerprint") != self.fingerprint:
            raise ValueError(
                f"`checkpoint` ({self.path}) is of another fit (settings, seed, data or version "
                "differ); remove it, or resume with what it was made from"
            )
        # a generator stays on the CPU; copies are laid out in memory as they were
        tensors = {
            n: t.clone() if t.dtype == torch.uint8 else t.to(device, copy=True)
            for n, t in tensors.items()
        }
        for number, name in enumerate(about["steps"]):
            tensors, result = _split(tensors, f"step.{number}.")
            self.steps.done.append((name, result))
        if about["epoch"]:
            known = {name: about[name] for name in ("epoch", "history", "converged")}
            self.learned = replace(_unpacked(tensors), **known)
        return self.learned


def _fingerprint(settings: Mapping[str, Any], problem: Problem) -> str:
    """Return the digest of a fit, which may go on for more epochs than it was begun with."""
    kept = {name: value for name, value in settings.items() if name not in ("n_epochs", "verbose")}
    digest = hashlib.sha256(json.dumps([__version__, kept]).encode())
    for _, data in problem.data.parts():
        limits = () if data.onsets is None else (data.onsets,)
        for tensor in (data.y, data.mask, data.family.exposure(data.y), data.baseline, *limits):
            digest.update(str(tuple(tensor.shape)).encode())
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def save_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]
) -> None:
    """Write tensors and JSON-able metadata to one safetensors file with its SHA-256 inside.

    The same content gives the same bytes.
    """
    from safetensors.torch import save

    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    text = json.dumps(metadata, sort_keys=True, allow_nan=False)
    header = {"metadata": text, "sha256": _digest(plain, text)}
    about, data = _divided(save(plain, metadata=header))
    # the keys of the header come in any order
    ordered = json.dumps(about, sort_keys=True, separators=(",", ":")).encode()
    ordered += b" " * (-len(ordered) % 8)
    write_bytes(path, len(ordered).to_bytes(8, "little") + ordered + data)


def _divided(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the header and the data of a safetensors file."""
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


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
        header = _divided(content)[0]["__metadata__"]
        text, expected = header["metadata"], header["sha256"]
        metadata = json.loads(text)
    except (SafetensorError, KeyError, ValueError, RecursionError) as error:
        raise ValueError(
            f"`{path}` is not a file written by spikecdl, or damaged: {error}"
        ) from None
    if _digest(tensors, text) != expected:
        raise ValueError(f"`{path}` is damaged: its SHA-256 does not match; use another copy")
    return tensors, metadata


def _digest(tensors: Mapping[str, Tensor], metadata: str) -> str:
    digest = hashlib.sha256(metadata.encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        flat = value.clone(memory_format=torch.contiguous_format).reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
