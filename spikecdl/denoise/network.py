"""The networks: Poisson auto-encoders of images, tied (DCEA-C) or untied (DCEA-UC)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from spikecdl import _validation
from spikecdl.autoencoder import UnrolledAutoencoder
from spikecdl.denoise import shifts
from spikecdl.denoise.contract import ImageNetwork
from spikecdl.denoise.optimizer import SOAP
from spikecdl.dictionary import ConvDictionary
from spikecdl.encoder import UnrolledEncoder
from spikecdl.families import Poisson
from spikecdl.penalties import L1

_FIRST_BIAS = 0.01


@dataclass(frozen=True)
class Architecture:
    """Settings of a network; the defaults are DCEA-UC of the source, with 61,516 parameters.

    Parameters
    ----------
    tied : bool
        Whether the analysis and the synthesis of the encoder and the decoder are one dictionary
        (DCEA-C, 20,618 parameters) or three (DCEA-UC).
    n_templates, length : int
        Square templates, of so many pixels along each side.
    stride : int
        Pixels between neighbouring places.
    n_unrolled : int
        Layers.
    stabilizer : float
        Bounds the residual (see `spikecdl.UnrolledEncoder`); the source takes the peak.
    """

    tied: bool = False
    n_templates: int = 169
    length: int = 11
    stride: int = 7
    n_unrolled: int = 15
    stabilizer: float = 4.0

    def __post_init__(self) -> None:
        for name in ("n_templates", "length", "stride", "n_unrolled"):
            _validation.integer(name, getattr(self, name))
        _validation.positive("stabilizer", self.stabilizer)

    def padded(self, size: int) -> int:
        """Return the least number of pixels, from ``size``, that whole strides of places fill."""
        least = max(size, self.length)
        return least + (self.length - least) % self.stride


class ImageAutoencoder(ImageNetwork):
    """An unrolled auto-encoder of Poisson counts, on one shift of its stride's grid.

    Parameters
    ----------
    architecture : Architecture
    templates : tensor, shape (template, 1, row, column)
        Where all dictionaries start; steps are 1, so they should not be of a larger operator norm
        than one over the root of the largest count.
    method : str
        How products are computed (see `spikecdl.ConvDictionary`).
    """

    def __init__(self, architecture: Architecture, templates: Tensor, method: str = "auto") -> None:
        super().__init__()

        def dictionary() -> ConvDictionary:
            return ConvDictionary(templates.clone(), architecture.stride, method)

        encoder = UnrolledEncoder(
            Poisson(),
            dictionary(),
            L1(axes=2),
            architecture.n_unrolled,
            accelerated=False,
            step=1.0,
            analysis=None if architecture.tied else dictionary(),
            bias=torch.full((architecture.n_templates, 1, 1), _FIRST_BIAS),
            stabilizer=architecture.stabilizer,
        )
        self.architecture = architecture
        self.border = architecture.length // 2  # where fewer templates reach
        self.autoencoder = UnrolledAutoencoder(encoder, None if architecture.tied else dictionary())

    @property
    def halo(self) -> int:
        """Pixels that a pixel's log rate sees to each side.

        The first layer starts from no codes and sees the patch under a place; each of the others
        sees the neighbours whose patches overlap it; the decoder, the places over a pixel.
        """
        length, stride = self.architecture.length, self.architecture.stride
        neighbours = (length - 1) // stride
        return (neighbours * self.architecture.n_unrolled + -(-length // stride)) * stride

    def log_rate(self, y: Tensor) -> Tensor:
        """Return log expected counts of images (..., 1, row, column) of whole strides."""
        return self.autoencoder(y)[1].float()

    def forward(self, y: Tensor, peak: Tensor) -> Tensor:
        return self.log_rate(y).exp() / peak

    def whole(self, counts: Tensor, peak: float) -> Tensor:
        """Return the fraction of the peak by the mean of log rates over all shifts."""
        return shifts.log_rate(self, counts).exp() / peak

    def padded(self, size: int) -> int:
        return self.architecture.padded(size)

    def in_training(self, n_shifts: int, generator: torch.Generator) -> ImageNetwork:
        most = self.architecture.stride**2
        if _validation.integer("n_shifts", n_shifts) > most:
            raise ValueError(f"`n_shifts` (={n_shifts}) must be at most {most}, those there are")
        return self if n_shifts == 1 else shifts.MeanOfShifts(self, n_shifts, generator)

    def optimizer(self, learning_rate: float) -> torch.optim.Optimizer:
        return SOAP(self.parameters(), learning_rate)

    def described(self) -> dict[str, Any]:
        return asdict(self.architecture)
