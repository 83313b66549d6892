"""The image auto-encoder of the paper, averaged over the shifts of its grid."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from spikecdl import validation
from spikecdl.denoise.networks import ImageNetwork, Trainable
from spikecdl.model.autoencoder import UnrolledAutoencoder
from spikecdl.model.dictionary import ConvDictionary
from spikecdl.model.encoder import UnrolledEncoder
from spikecdl.model.families import Poisson
from spikecdl.model.penalties import L1
from spikecdl.solvers import parallel

_N_MEAN = 2  # templates of the mean, which come first: one bright and one dark


@dataclass(frozen=True)
class Architecture:
    """Settings of an image auto-encoder; the defaults are DCEA-UC of the paper.

    If ``tied``, one dictionary serves as analysis and synthesis of the encoder and as decoder
    (DCEA-C, 20,618 parameters).  Otherwise there are three (DCEA-UC, 61,516 parameters).
    """

    tied: bool = False
    n_templates: int = 169
    length: int = 11  # pixels along a side of a template
    stride: int = 7  # pixels between neighbouring positions of a template
    n_unrolled: int = 15
    stabilizer: float = 4.0  # bounds the residual (see `UnrolledEncoder`); the paper's is the peak

    def __post_init__(self) -> None:
        for name in ("n_templates", "length", "stride", "n_unrolled"):
            validation.integer(name, getattr(self, name))
        validation.positive("stabilizer", self.stabilizer)


class ImageAutoencoder(ImageNetwork):
    """An unrolled auto-encoder of Poisson counts.

    Parameters
    ----------
    architecture : Architecture
    templates : tensor, shape (template, 1, row, column)
        Initial templates of all dictionaries; see `initial_templates`.

    References
    ----------
    Tolooshams, Song, Temereanca and Ba, ICML 2020, arXiv:1907.03211.
    """

    def __init__(self, architecture: Architecture, templates: Tensor) -> None:
        super().__init__()
        length, stride = architecture.length, architecture.stride
        bias = torch.full((architecture.n_templates, 1, 1), 0.9)
        bias[:_N_MEAN] = -0.5

        def dictionary() -> ConvDictionary:
            return ConvDictionary(templates.clone(), stride)

        encoder = UnrolledEncoder(
            Poisson(),
            dictionary(),
            L1(axes=2),
            architecture.n_unrolled,
            accelerated=False,
            step=1.0,
            analysis=None if architecture.tied else dictionary(),
            bias=bias,
            stabilizer=architecture.stabilizer,
        )
        self.autoencoder = UnrolledAutoencoder(encoder, None if architecture.tied else dictionary())
        self.architecture, self.length, self.stride = architecture, length, stride
        self.border = length // 2  # where fewer templates reach
        # The first layer starts from zero codes and sees the patch at a position.  Each further one
        # sees the neighbours whose patches overlap it, and the decoder all positions over a pixel.
        neighbours = (length - 1) // stride
        self.halo = (neighbours * architecture.n_unrolled + -(-length // stride)) * stride

    def eta(self, y: Tensor) -> Tensor:
        """Return log expected counts of images (..., 1, row, column) of `padded` sizes."""
        return self.autoencoder(y)[1].float()

    def forward(self, y: Tensor, peak: Tensor) -> Tensor:
        return self.eta(y).exp() / peak

    @torch.no_grad()
    def denoise(self, counts: Tensor, peak: float) -> Tensor:
        r"""Return the fractions of the peak by the mean of eta over all shifts of the grid.

        .. math:: \bar\eta = \frac{1}{s^2} \sum_{i,j=0}^{s-1} S_{ij}^{-1}\, \eta(S_{ij}\, y)

        where s is the stride and :math:`S_{ij}` moves the image (row, column) by i rows and j
        columns on a canvas that is filled by reflection.  The canvas is so large that as many
        templates reach the edges of the image as its middle.
        """

        def moved(shift: tuple[int, ...]) -> Tensor:
            before = [self.border + move for move in shift]
            return self.on_tiles(self.eta, counts, before, 2 * self.border + self.stride - 1)

        shifts = itertools.product(range(self.stride), repeat=2)
        total = sum(parallel.on_each(moved, shifts, counts.device), torch.zeros_like(counts))
        return (total / self.stride**2).exp() / peak

    def in_training(self, n_shifts: int, generator: torch.Generator) -> Trainable:
        if validation.integer("n_shifts", n_shifts) > self.stride**2:
            raise ValueError(
                f"`n_shifts` (={n_shifts}) must be at most {self.stride**2}, those there are"
            )
        return self if n_shifts == 1 else MeanOfShifts(self, n_shifts, generator)

    def settings(self) -> dict[str, Any]:
        return asdict(self.architecture)


class MeanOfShifts(Trainable):
    """Trains an auto-encoder on the mean of eta over shifts, which are drawn anew for every batch.

    Trained at one shift, a network learns to be right on its own; trained at several, it learns
    what their mean needs, which is what denoising takes.
    """

    def __init__(
        self, network: ImageAutoencoder, n_shifts: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.network, self.n_shifts, self.generator = network, n_shifts, generator
        self.more = network.stride - 1
        self.border = network.border + self.more  # where not all shifts reach

    def forward(self, y: Tensor, peak: Tensor) -> Tensor:
        stride, size = self.network.stride, y.shape[-1] - self.more
        drawn = torch.randperm(stride**2, generator=self.generator)[: self.n_shifts].tolist()
        moves = [divmod(number, stride) for number in drawn]
        parts = [y[..., i : i + size, j : j + size] for i, j in moves]
        etas = self.network.eta(torch.cat(parts)).split(len(y))  # faster than one by one
        back = [
            F.pad(eta, (j, self.more - j, i, self.more - i))
            for eta, (i, j) in zip(etas, moves, strict=True)
        ]
        return torch.stack(back).mean(0).exp() / peak

    def padded(self, size: int) -> int:
        return self.network.padded(size) + self.more


def initial_templates(
    images: Sequence[Tensor], architecture: Architecture, peak: float, generator: torch.Generator
) -> Tensor:
    """Return templates (template, 1, row, column) from random parts of log expected counts.

    Images (row, column) have a largest value of 1, whose expected count is the peak.  The first two
    templates are smooth, one bright and one dark, and carry the mean.  The others are parts of zero
    mean and a random sign, which fade out where neighbours overlap.  They are 3.5
    times (those of the mean 1.2 times) as large as they may be for steps of 1 to be stable if all
    act, but their thresholds leave few.
    """
    length, stride = architecture.length, architecture.stride
    overlap = max(length - stride, 0)
    pixel = torch.arange(1, length + 1)
    fade = torch.minimum(pixel, pixel.flip(0)).clamp(max=overlap + 1) / (overlap + 1)
    smooth = (-((pixel - pixel.float().mean()) / (0.32 * length)).square() / 2).exp()
    templates = torch.empty(architecture.n_templates, 1, length, length)
    for number, template in enumerate(templates):
        if number < _N_MEAN:
            template.copy_((-1) ** number * smooth[:, None] * smooth)
        else:
            sign = 1 if torch.rand((), generator=generator) < 0.5 else -1
            part = _part(images, length, peak, generator) * fade[:, None] * fade
            template.copy_(sign * F.normalize(part.flatten(), dim=0).view_as(part))
    size = length + 15 * stride
    for some, scale in ((templates[:_N_MEAN], 1.2), (templates[_N_MEAN:], 3.5)):
        if len(some):
            norm = ConvDictionary(some.clone(), stride).norm_squared((size, size)).detach()
            some.mul_(scale / (peak * norm).sqrt())
    return templates


def _part(images: Sequence[Tensor], length: int, peak: float, generator: torch.Generator) -> Tensor:
    """Return a part of log counts, of mean 0 and norm 1; of 100 flat ones the last.

    Parts are flat if the norm of their log counts, with 0.1 counts added, is 1 or less.
    """
    for _ in range(100):
        image = images[int(torch.randint(len(images), (), generator=generator))]
        row, column = (
            int(torch.randint(side - length + 1, (), generator=generator)) for side in image.shape
        )
        part = (image[row : row + length, column : column + length] * peak + 0.1).log()
        part = part - part.mean()
        if part.norm() > 1:
            break
    return part / part.norm().clamp(min=torch.finfo(part.dtype).eps)
