"""The networks: Poisson auto-encoders of images, tied (DCEA-C) or untied (DCEA-UC)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from spikecdl import _validation
from spikecdl.autoencoder import UnrolledAutoencoder
from spikecdl.dictionary import ConvDictionary
from spikecdl.encoder import UnrolledEncoder
from spikecdl.families import Poisson
from spikecdl.penalties import L1

MODELS = ("c", "uc")


@dataclass(frozen=True)
class Architecture:
    """Settings of a network; the defaults are the source's, with 20,618 or 61,516 parameters.

    Parameters
    ----------
    model : {"c", "uc"}
        Whether the analysis and the synthesis of the encoder and the decoder are one dictionary
        (DCEA-C) or three (DCEA-UC).
    n_templates, length : int
        Square templates, of so many pixels along each side.
    stride : int
        Pixels between neighbouring places.
    n_unrolled : int
        Layers.
    peak : float
        Largest expected count of an image, which bounds the residual (see `UnrolledEncoder`).
    """

    model: str = "uc"
    n_templates: int = 169
    length: int = 11
    stride: int = 7
    n_unrolled: int = 15
    peak: float = 4.0

    def __post_init__(self) -> None:
        _validation.one_of("model", self.model, MODELS)
        for name in ("n_templates", "length", "stride", "n_unrolled"):
            _validation.integer(name, getattr(self, name))
        _validation.positive("peak", self.peak)

    def described(self) -> dict[str, Any]:
        """Return the settings as plain values."""
        return asdict(self)

    def padded(self, size: int) -> int:
        """Return the least number of pixels, from ``size``, that whole strides of places fill."""
        return max(size, self.length) + (self.length - max(size, self.length)) % self.stride

    def network(
        self, generator: torch.Generator | None = None, method: str = "auto"
    ) -> UnrolledAutoencoder:
        """Return a network with random templates, of operator norm 1, and thresholds near zero.

        ``method`` is how products are computed (see `ConvDictionary`).
        """
        shape = (self.n_templates, 1, self.length, self.length)
        templates = torch.randn(shape, generator=generator)
        size = self.padded(16 * self.stride)
        norm = ConvDictionary(templates, self.stride).norm_squared((size, size)).detach()

        def dictionary() -> ConvDictionary:
            return ConvDictionary(templates / norm.sqrt(), self.stride, method)

        tied = self.model == "c"
        encoder = UnrolledEncoder(
            Poisson(),
            dictionary(),
            L1(axes=2),
            self.n_unrolled,
            accelerated=False,
            step=1.0,
            analysis=None if tied else dictionary(),
            bias=torch.full((self.n_templates, 1, 1), 0.01),
            stabilizer=self.peak,
        )
        return UnrolledAutoencoder(encoder, None if tied else dictionary())
