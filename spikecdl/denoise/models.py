"""The networks by name, and their files; those that come with the package."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spikecdl import checkpoint, validation
from spikecdl.denoise.multiscale import MultiscaleAutoencoder
from spikecdl.denoise.network import Architecture, ImageAutoencoder, ImageNetwork, parts_of
from spikecdl.denoise.residual_cnn import ResidualCNN, ResidualDenoiser
from spikecdl.files import write_json

_SHIPPED = Path(__file__).parent / "weights"
_SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Model:
    """A kind of network.

    Parameters
    ----------
    build : callable
        Makes one from clean images, the largest expected count in training, and a generator.
    restore : callable
        Makes one of the settings that a file describes, with no particular weights.
    peaks : tuple of float
        Largest expected counts that it is trained for, if no other is asked for.
    learning_rate : float
        At the most.
    """

    build: Callable[[Sequence[Tensor], float, torch.Generator], ImageNetwork]
    restore: Callable[[Mapping[str, Any]], ImageNetwork]
    peaks: tuple[float, ...] = (4.0,)
    learning_rate: float = 6e-4


def _autoencoder(architecture: Architecture) -> Model:
    def build(images: Sequence[Tensor], peak: float, generator: torch.Generator) -> ImageNetwork:
        settings = replace(architecture, stabilizer=peak)
        return ImageAutoencoder(settings, parts_of(images, settings, peak, generator))

    def restore(described: Mapping[str, Any]) -> ImageNetwork:
        settings = Architecture(**described)
        shape = (settings.n_templates, 1, settings.length, settings.length)
        return ImageAutoencoder(settings, torch.zeros(shape))

    return Model(build, restore)


MODELS = {
    "c": _autoencoder(Architecture(tied=True)),
    "uc": _autoencoder(Architecture()),
    "blind": Model(
        lambda images, peak, generator: MultiscaleAutoencoder(generator=generator),
        lambda described: MultiscaleAutoencoder(**described),
        peaks=(0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0),
        learning_rate=1e-3,
    ),
    "ca": Model(
        lambda images, peak, generator: ResidualDenoiser(ResidualCNN(generator=generator)),
        lambda described: ResidualDenoiser(ResidualCNN(generator=torch.Generator())),
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
    checkpoint.save_tensors(path, dict(network.named_parameters()), metadata)
    provenance = {**metadata, "n_parameters": n_parameters(network), **about}
    write_json(path.with_suffix(".json"), provenance)


def read(path: Path) -> tuple[str, ImageNetwork, tuple[float, ...]]:
    """Return the name, the network and the peaks of a file that `save` wrote.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, or not of a denoiser.
    """
    tensors, metadata = checkpoint.load_tensors(path)
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


def find(model: str, peak: float | None, folder: Path | None = None) -> Path:
    """Return the file of a network: in a folder, or else among those that come with the package.

    Of several, that of the peak which is nearest by ratio.

    Raises
    ------
    ValueError
        If there is none, or files are of peaks and none is given.
    """
    validation.one_of("model", model, MODELS)
    folders = [_SHIPPED] if folder is None else [folder, _SHIPPED]
    for place in folders:
        files = {file: _peak_in(file) for file in sorted(place.glob(f"{model}*{_SUFFIX}"))}
        if files:
            return _nearest(files, model, peak)
    there = sorted({file.stem.split("-")[0] for file in _SHIPPED.glob(f"*{_SUFFIX}")})
    raise ValueError(
        f"`model` (={model!r}) comes without weights; give a folder of those that `denoise train` "
        f"wrote, or use one of: {', '.join(there)}"
    )


def _nearest(files: Mapping[Path, float | None], model: str, peak: float | None) -> Path:
    of_peaks = {file: math.log(known) for file, known in files.items() if known is not None}
    if not of_peaks:
        return next(iter(files))
    if peak is None:
        raise ValueError(f"`peak` (=None) must be given for `model` (={model!r}), in counts")
    sought = math.log(validation.positive("peak", peak, "counts"))
    return min(of_peaks, key=lambda file: abs(of_peaks[file] - sought))


def _peak_in(file: Path) -> float | None:
    """Return the peak in a file's name, None if it is of any."""
    _, _, peak = file.stem.partition("-")
    return float(peak) if peak else None
