"""The networks by name, and their files; those that come with the package."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spikecdl import _validation, storage
from spikecdl.baselines.residual_cnn import ResidualCNN
from spikecdl.denoise.contract import ImageNetwork
from spikecdl.denoise.network import Architecture, ImageAutoencoder
from spikecdl.denoise.residual import ResidualDenoiser
from spikecdl.denoise.starts import parts_of

_SHIPPED = Path(__file__).parent / "weights"
_SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Model:
    """A kind of network.

    Parameters
    ----------
    title : str
        What it is, in words.
    build : callable
        Makes one from clean images, the largest expected count in training, and a generator.
    restore : callable
        Makes one of the settings that a file describes, with no particular weights.
    peaks : tuple of float
        Largest expected counts that it is trained for, if nothing else is asked; empty: one.
    learning_rate : float
        At the most.
    """

    title: str
    build: Callable[[Sequence[Tensor], float, torch.Generator], ImageNetwork]
    restore: Callable[[Mapping[str, Any]], ImageNetwork]
    peaks: tuple[float, ...] = ()
    learning_rate: float = 6e-4


def _autoencoder(title: str, architecture: Architecture, **more: Any) -> Model:
    def build(images: Sequence[Tensor], peak: float, generator: torch.Generator) -> ImageNetwork:
        settings = replace(architecture, stabilizer=peak)
        return ImageAutoencoder(settings, parts_of(images, settings, peak, generator))

    def restore(described: Mapping[str, Any]) -> ImageNetwork:
        settings = Architecture(**described)
        shape = (settings.n_templates, 1, settings.length, settings.length)
        return ImageAutoencoder(settings, torch.zeros(shape))

    return Model(title, build, restore, **more)


MODELS = {
    "c": _autoencoder("DCEA-C, tied", Architecture(tied=True)),
    "uc": _autoencoder("DCEA-UC, untied", Architecture()),
    "blind": _autoencoder(
        "DCEA-UC with biases and steps of layers, for any peak",
        Architecture(n_templates=160, layered=True, centred=True, turned=True),
        peaks=(0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0),
    ),
    "ca": Model(
        "CA, residual network",
        lambda images, peak, generator: ResidualDenoiser(ResidualCNN(generator=generator)),
        lambda described: ResidualDenoiser(ResidualCNN()),
    ),
}


def n_parameters(network: ImageNetwork) -> int:
    """Return how many numbers a network has learned."""
    return sum(values.numel() for values in network.parameters())


def save(path: Path, model: str, network: ImageNetwork, peaks: Sequence[float], about: Any) -> None:
    """Write a network with its SHA-256 inside (``.safetensors``), and where it is from (``.json``).

    Parameters
    ----------
    path : path
        Of the first file.
    model : str
        Name of its kind.
    network : module
    peaks : sequence of float
        That it was trained for.
    about : dict
        How it was trained, in plain values.
    """
    metadata = {"model": model, "peaks": list(peaks), "settings": network.described()}
    storage.save_tensors(path, dict(network.named_parameters()), metadata)
    provenance = {**metadata, "n_parameters": n_parameters(network), **about}
    storage.write_json(path.with_suffix(".json"), provenance)


def read(path: Path) -> tuple[str, ImageNetwork, tuple[float, ...]]:
    """Return the name, the network and the peaks of a file that `save` wrote.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, or not of a denoiser.
    """
    tensors, metadata = storage.load_tensors(path)
    if metadata.get("model") not in MODELS:
        raise ValueError(f"`{path}` is not of a denoiser; give weights that `denoise train` wrote")
    network = MODELS[metadata["model"]].restore(metadata["settings"])
    _copy(tensors, network)
    return metadata["model"], network, tuple(metadata["peaks"])


def take_weights(network: ImageNetwork, path: Path, model: str) -> None:
    """Copy the weights of a file to a network of the same kind.

    Raises
    ------
    FileNotFoundError, ValueError
        As `read`, or if the file is of another model.
    """
    name, found, _ = read(path)
    if name != model:
        raise ValueError(f"`start` (={str(path)!r}) is of the model {name!r}, not {model!r}")
    _copy(dict(found.named_parameters()), network)


def _copy(tensors: Mapping[str, Tensor], network: ImageNetwork) -> None:
    with torch.no_grad():
        for name, value in network.named_parameters():
            value.copy_(tensors[name])


def file_name(model: str, peaks: Sequence[float]) -> str:
    """Return what the file of a network is called, such as ``uc-4.safetensors``."""
    return f"{model}-{peaks[0]:g}{_SUFFIX}" if len(peaks) == 1 else f"{model}{_SUFFIX}"


def shipped(model: str, peak: float | None) -> Path:
    """Return the file of a network that comes with the package, of the peak nearest by ratio.

    Raises
    ------
    ValueError
        If none of the kind comes with the package, or it is of a peak and none is given.
    """
    _validation.one_of("model", model, MODELS)
    files = {file: _peak_in(file.stem) for file in sorted(_SHIPPED.glob(f"{model}*{_SUFFIX}"))}
    if not files:
        there = sorted({file.stem.split("-")[0] for file in _SHIPPED.glob(f"*{_SUFFIX}")})
        raise ValueError(
            f"`model` (={model!r}) comes without weights; train it, or use one of: "
            f"{', '.join(there)}"
        )
    if all(known is None for known in files.values()):
        return next(iter(files))
    if peak is None:
        raise ValueError(f"`peak` (=None) must be given for `model` (={model!r}), in counts")
    ratio = math.log(_validation.positive("peak", peak, "counts"))
    return min(files, key=lambda file: abs(math.log(files[file] or 1.0) - ratio))


def _peak_in(stem: str) -> float | None:
    _, _, peak = stem.partition("-")
    return float(peak) if peak else None
