"""Where training starts: templates that are parts of clean images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from spikecdl.denoise.network import Architecture
from spikecdl.dictionary import ConvDictionary

_FLAT = 0.2  # share of templates that are flat but for a little of a part
_LITTLE = 0.3
_DARK = 0.1  # counts, added before the logarithm
_LEAST = 1.0  # norm of the log counts of a part that is not flat
_TRIES = 100  # parts that are looked at for each template


def parts_of(
    images: Sequence[Tensor],
    architecture: Architecture,
    peak: float,
    generator: torch.Generator,
) -> Tensor:
    """Return templates (template, 1, row, column): parts of the log counts of clean images.

    Less their means, with random signs, faded out where neighbours overlap, and scaled so that
    steps of 1 are stable at the peak.  Some are nearly flat.

    Parameters
    ----------
    images : sequence of tensor, shape (row, column)
        Clean images, the largest value of each 1.
    architecture : Architecture
    peak : float
        Expected count of the largest value.
    generator : torch.Generator
    """
    length, stride = architecture.length, architecture.stride
    overlap = max(length - stride, 0)
    place = torch.arange(1, length + 1)
    fade = torch.minimum(place, place.flip(0)).clamp(max=overlap + 1) / (overlap + 1)
    templates = torch.empty(architecture.n_templates, 1, length, length)
    for number, template in enumerate(templates):
        part = _part(images, length, peak, generator)
        if number < _FLAT * len(templates):
            part = 1 / length + _LITTLE * part
        sign = 1 if torch.rand((), generator=generator) < 0.5 else -1
        template.copy_(sign * part * fade[:, None] * fade)
        template.div_(template.norm())
    size = architecture.padded(16 * stride)
    norm = ConvDictionary(templates, stride).norm_squared((size, size)).detach()
    return templates / (peak * norm).sqrt()


def _part(images: Sequence[Tensor], length: int, peak: float, generator: torch.Generator) -> Tensor:
    """Return a part of log counts, of mean 0 and norm 1; the last one tried, if all are flat."""
    for _ in range(_TRIES):
        image = images[int(torch.randint(len(images), (), generator=generator))]
        row, column = (
            int(torch.randint(side - length + 1, (), generator=generator)) for side in image.shape
        )
        part = (image[row : row + length, column : column + length] * peak + _DARK).log()
        part = part - part.mean()
        if part.norm() > _LEAST:
            break
    return part / part.norm().clamp(min=torch.finfo(part.dtype).eps)
