"""The networks by name, and where their weights are."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spikecdl import validation
from spikecdl.denoise.autoencoder import Architecture, ImageAutoencoder, initial_templates
from spikecdl.denoise.networks import ImageNetwork, MultiscaleAutoencoder, ResidualCNN

SHIPPED = Path(__file__).parent / "weights"
_SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Model:
    """A kind of network, and the defaults of its training.

    ``build`` makes one from clean images, the largest expected count in training, and a generator;
    ``restore`` makes one from its `ImageNetwork.settings`, with arbitrary weights.
    """

    build: Callable[[Sequence[Tensor], float, torch.Generator], ImageNetwork]
    restore: Callable[[Mapping[str, Any]], ImageNetwork]
    peaks: tuple[float, ...] = (4.0,)  # counts
    learning_rate: float = 6e-4


def _autoencoder(tied: bool) -> Model:
    def build(images: Sequence[Tensor], peak: float, generator: torch.Generator) -> ImageNetwork:
        chosen = Architecture(tied, stabilizer=peak)
        return ImageAutoencoder(chosen, initial_templates(images, chosen, peak, generator))

    def restore(settings: Mapping[str, Any]) -> ImageNetwork:
        chosen = Architecture(**settings)
        templates = torch.zeros(chosen.n_templates, 1, chosen.length, chosen.length)
        return ImageAutoencoder(chosen, templates)

    return Model(build, restore)


MODELS = {
    "c": _autoencoder(tied=True),
    "uc": _autoencoder(tied=False),
    "blind": Model(
        lambda images, peak, generator: MultiscaleAutoencoder(generator=generator),
        lambda settings: MultiscaleAutoencoder(**settings),
        peaks=(0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0),
        learning_rate=1e-3,
    ),
    "ca": Model(
        lambda images, peak, generator: ResidualCNN(generator=generator),
        lambda settings: ResidualCNN(**settings),
    ),
}


def peaks_of(model: str, peak: float | None) -> tuple[float, ...]:
    """Return the largest expected counts that a model is trained for; None: its own."""
    own = MODELS[validation.one_of("model", model, MODELS)].peaks
    return own if peak is None else (validation.positive("peak", peak),)


def file_name(model: str, peaks: Sequence[float]) -> str:
    """Return the file name of weights, such as ``uc-4.safetensors``."""
    return f"{model}-{peaks[0]:g}{_SUFFIX}" if len(peaks) == 1 else f"{model}{_SUFFIX}"


def find(model: str, peak: float | None, folder: Path | None = None) -> Path:
    """Return the weights of a model, from a folder or else from the package.

    Of several files, the one with the nearest peak by ratio is taken.  Raises ValueError if there
    are none, or files are for single peaks and no peak is given.
    """
    validation.one_of("model", model, MODELS)
    for place in [SHIPPED] if folder is None else [folder, SHIPPED]:
        files = sorted(place.glob(f"{model}-*{_SUFFIX}"))
        if files:
            if peak is None:
                raise ValueError(f"`peak` (=None) must be given for `model` ({model!r}), in counts")
            known = {float(file.stem.removeprefix(f"{model}-")): file for file in files}
            wanted = validation.positive("peak", peak, "counts")
            return known[min(known, key=lambda value: abs(math.log(value / wanted)))]
        if (file := place / f"{model}{_SUFFIX}").exists():
            return file
    there = sorted({file.stem.partition("-")[0] for file in SHIPPED.glob(f"*{_SUFFIX}")})
    raise ValueError(
        f"`model` (={model!r}) comes without weights; give a folder of those that `denoise train` "
        f"wrote, or use one of: {', '.join(there)}"
    )
