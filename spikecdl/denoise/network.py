"""What training and denoising ask of a network."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spikecdl import validation
from spikecdl.denoise.frames import TILE, on_tiles
from spikecdl.denoise.images import mirrored
from spikecdl.denoise.optimizer import SOAP
from spikecdl.model.autoencoder import UnrolledAutoencoder
from spikecdl.model.dictionary import ConvDictionary
from spikecdl.model.encoder import UnrolledEncoder
from spikecdl.model.families import Poisson
from spikecdl.model.penalties import L1
from spikecdl.solvers import threads

if TYPE_CHECKING:
    pass


class ImageNetwork(nn.Module):
    """A module that makes fractions of the peak from counts."""

    @abstractmethod
    def forward(self, y: Tensor, peak: Tensor) -> Tensor:
        """Return expected counts as a fraction of the peak, as they are trained.

        Parameters
        ----------
        y : tensor, shape (image, 1, row, column)
            Counts; sides are of `padded` sizes.
        peak : tensor, shape (image, 1, 1, 1)
            Largest expected count of each image.

        Returns
        -------
        tensor, shape (image, 1, row, column)
        """

    @abstractmethod
    def whole(self, counts: Tensor, peak: float) -> Tensor:
        """Return the fraction of the peak (row, column) for an image of counts of any size."""

    @abstractmethod
    def optimizer(self, learning_rate: float) -> torch.optim.Optimizer:
        """Return what trains it well."""

    @abstractmethod
    def described(self) -> dict[str, Any]:
        """Return the settings as plain values."""

    def in_training(self, n_shifts: int, generator: torch.Generator) -> ImageNetwork:
        """Return what is trained in its place: the mean of so many shifts of a grid, if it has one.

        Raises
        ------
        ValueError
            If there are not as many shifts.
        """
        if n_shifts != 1:
            raise ValueError(f"`n_shifts` (={n_shifts!r}) must be 1 for networks without a grid")
        return self

    #: Pixels at the edges of a crop that training leaves out.
    border = 0

    def padded(self, size: int) -> int:
        """Return the least number of pixels, from ``size``, that a side can have."""
        return size


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
            validation.integer(name, getattr(self, name))
        validation.positive("stabilizer", self.stabilizer)

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
        return log_rate(self, counts).exp() / peak

    def padded(self, size: int) -> int:
        return self.architecture.padded(size)

    def in_training(self, n_shifts: int, generator: torch.Generator) -> ImageNetwork:
        most = self.architecture.stride**2
        if validation.integer("n_shifts", n_shifts) > most:
            raise ValueError(f"`n_shifts` (={n_shifts}) must be at most {most}, those there are")
        return self if n_shifts == 1 else MeanOfShifts(self, n_shifts, generator)

    def optimizer(self, learning_rate: float) -> torch.optim.Optimizer:
        return SOAP(self.parameters(), learning_rate)

    def described(self) -> dict[str, Any]:
        return asdict(self.architecture)


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


@torch.no_grad()
def log_rate(network: ImageAutoencoder, counts: Tensor, tile: int | None = TILE) -> Tensor:
    r"""Return the mean over shifts of what the network says of counts.

    .. math:: \bar\eta = \frac{1}{s^2} \sum_{i,j=0}^{s-1} S_{ij}^{-1}\, \eta(S_{ij}\, y)

    where :math:`S_{ij}` moves the image by i rows and j columns on a canvas that is filled by
    reflection, so far around the image that as many templates reach its edges as its middle; s is
    the stride.  The source averages log rates too.

    Parameters
    ----------
    network : ImageAutoencoder
    counts : tensor, shape (row, column)
    tile : int, optional
        Larger images are cut into tiles of so many pixels, without a change of the result; None:
        never.

    Returns
    -------
    tensor, shape (row, column)
    """
    stride = network.architecture.stride
    shifts = itertools.product(range(stride), repeat=2)
    logs = threads.on_each(partial(_at_shift, network, counts, tile), shifts, counts.device)
    return sum(logs, torch.zeros_like(counts)) / stride**2


def _at_shift(
    network: ImageAutoencoder, counts: Tensor, tile: int | None, shift: tuple[int, ...]
) -> Tensor:
    stride, length = network.architecture.stride, network.architecture.length
    above, left = (network.border + move for move in shift)
    more = 2 * network.border + stride - 1
    height, width = (network.padded(size + more) for size in counts.shape)
    canvas = mirrored(counts, (above, left), (height, width))

    def log_rate_of(part: Tensor) -> Tensor:
        return network.log_rate(part[None])[0]

    eta = on_tiles(log_rate_of, canvas, network.halo, tile, stride, length)
    return eta[above : above + counts.shape[0], left : left + counts.shape[1]]


class MeanOfShifts(ImageNetwork):
    """Training on the mean of log rates at some shifts, drawn anew for every batch.

    At one shift a network learns to be right on its own; at several it learns what their mean
    needs, which is what `log_rate` gives.

    Parameters
    ----------
    network : ImageAutoencoder
    n_shifts : int
        Different shifts of the same crops.
    generator : torch.Generator
    """

    def __init__(
        self, network: ImageAutoencoder, n_shifts: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.network, self.n_shifts, self.generator = network, n_shifts, generator
        self.more = network.architecture.stride - 1
        self.border = network.border + self.more

    def forward(self, y: Tensor, peak: Tensor) -> Tensor:
        """Return fractions of the peak; wrong in the border, where not all shifts reach."""
        stride, size = self.network.architecture.stride, y.shape[-1] - self.more
        drawn = torch.randperm(stride**2, generator=self.generator)[: self.n_shifts].tolist()
        moves = [divmod(number, stride) for number in drawn]
        parts = [y[..., i : i + size, j : j + size] for i, j in moves]
        logs = self.network.log_rate(torch.cat(parts)).split(len(y))  # quicker than one by one
        back = [
            F.pad(log, (j, self.more - j, i, self.more - i))
            for log, (i, j) in zip(logs, moves, strict=True)
        ]
        return torch.stack(back).mean(0).exp() / peak

    def whole(self, counts: Tensor, peak: float) -> Tensor:
        return self.network.whole(counts, peak)

    def padded(self, size: int) -> int:
        return self.network.padded(size) + self.more

    def optimizer(self, learning_rate: float) -> torch.optim.Optimizer:
        return self.network.optimizer(learning_rate)

    def described(self) -> dict[str, Any]:
        return self.network.described()
