"""What a denoising network must offer, how one sees images of any size, and the networks."""

from __future__ import annotations

import functools
import itertools
import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spikecdl import validation
from spikecdl.model.dictionary import ConvDictionary
from spikecdl.model.encoder import UnrolledAutoencoder, UnrolledEncoder
from spikecdl.model.families import Poisson
from spikecdl.model.penalties import L1
from spikecdl.solvers import parallel


class ImageNetwork(nn.Module):
    """A network that turns counts into expected counts.

    It takes sides of ``length`` plus a multiple of ``stride`` pixels.
    """

    settings: dict[str, Any]  # that build the network again, as plain values
    length = stride = 1
    border = 0  # pixels at each edge of a crop that do not count in training
    halo = 0  # pixels to each side that a pixel of the result depends on; a multiple of the stride
    most_shifts = 1  # of a grid of positions, over which `forward` can take the mean
    tile = 504  # pixels along a side of a tile, without its halo

    @abstractmethod
    def forward(self, y: Tensor, peak: Tensor) -> Tensor:
        """Return expected counts (image, 1, row, column) as fractions of the peak.

        Counts y have the same shape, with sides of `padded` sizes, and peaks (image, 1, 1, 1).
        """

    @abstractmethod
    def denoise(self, counts: Tensor, peak: float) -> Tensor:
        """Return the fractions of the peak (row, column) for counts of an image of any size."""

    def margin(self, n_shifts: int) -> int:
        """Return how many pixels more a crop needs if training takes the mean over shifts.

        Raises ValueError if the grid has fewer shifts.
        """
        if validation.integer("n_shifts", n_shifts) > self.most_shifts:
            raise ValueError(
                f"`n_shifts` (={n_shifts}) must be at most {self.most_shifts}, those of the grid"
            )
        return self.stride - 1 if n_shifts > 1 else 0

    @property
    def n_parameters(self) -> int:
        """How many numbers the network learns."""
        return sum(values.numel() for values in self.parameters())

    @torch.no_grad()
    def copy_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Copy the values of all parameters, which are given by name; tied ones have one name."""
        for name, value in self.named_parameters():
            value.copy_(weights[name])

    def padded(self, size: int) -> int:
        """Return the smallest number of pixels, at least ``size``, that a side can have."""
        least = max(size, self.length)
        return least + (self.length - least) % self.stride

    def on_tiles(
        self,
        function: Callable[[Tensor], Tensor],
        image: Tensor,
        before: Sequence[int] = (0, 0),
        more: int = 0,
    ) -> Tensor:
        """Apply a function of images (1, 1, row, column) to an image (row, column) of any size.

        Each side is extended by reflection: by ``more`` pixels, of which ``before`` are above and
        to the left, and to a `padded` size.  Large images are cut into tiles, which does not change
        the result.
        """
        canvas = mirrored(image, before, [self.padded(size + more) for size in image.shape])
        result = torch.empty_like(canvas)
        for rows, columns in itertools.product(*map(self._tiles, canvas.shape)):
            seen, own, within = zip(rows, columns, strict=True)
            result[own] = function(canvas[seen][None, None])[0, 0][within]
        (above, left), (height, width) = before, image.shape
        return result[above : above + height, left : left + width]

    def _tiles(self, size: int) -> Iterator[tuple[slice, slice, slice]]:
        """Yield, for each tile along a side, what it sees, its own pixels, and those within."""
        step = max(1, self.tile // self.stride) * self.stride
        for first in range(0, size, step):
            begin, last = max(0, first - self.halo), min(first + step, size)
            end = min(size, first + step + self.halo + self.length - self.stride)
            end -= (end - begin - self.length) % self.stride
            yield slice(begin, end), slice(first, last), slice(first - begin, last - begin)


def mirrored(image: Tensor, before: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Return a canvas of a shape that shows an image (row, column) and its reflections.

    ``before`` is the number of rows above the image, and of columns left of it.
    """

    def reflected(size: int, first: int, extent: int) -> Tensor:
        pixel = (torch.arange(extent) - first).remainder(max(2 * size - 2, 1))
        return torch.minimum(pixel, 2 * size - 2 - pixel).to(image.device)

    rows, columns = map(reflected, image.shape, before, shape)
    return image[rows[:, None], columns]


def interpolated(image: Tensor, factor: int) -> Tensor:
    """Return an image (row, column), enlarged by linear interpolation between its pixels."""
    return F.interpolate(image[None, None], scale_factor=factor, mode="bilinear")[0, 0]


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
    templates : tensor, shape (template, 1, row, column), optional
        Initial templates of all dictionaries; see `initial_templates`.  None: zero, until weights
        are loaded.

    References
    ----------
    Tolooshams, Song, Temereanca and Ba, ICML 2020, arXiv:1907.03211.
    """

    def __init__(self, architecture: Architecture, templates: Tensor | None = None) -> None:
        super().__init__()
        length, stride = architecture.length, architecture.stride
        if templates is None:
            templates = torch.zeros(architecture.n_templates, 1, length, length)
        bias = torch.full((architecture.n_templates, 1, 1), 0.9)
        bias[:2] = -0.5  # of the templates of the mean

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
        self.settings, self.length, self.stride = asdict(architecture), length, stride
        self.border = length // 2  # where fewer templates reach
        self.most_shifts = stride**2
        # The first layer starts from zero codes and sees the patch at a position.  Each further one
        # sees the neighbours whose patches overlap it, and the decoder all positions over a pixel.
        neighbours = (length - 1) // stride
        self.halo = (neighbours * architecture.n_unrolled + -(-length // stride)) * stride

    def eta(self, y: Tensor) -> Tensor:
        """Return log expected counts of images (..., 1, row, column) of `padded` sizes."""
        return self.autoencoder(y)[1].float()

    def forward(
        self, y: Tensor, peak: Tensor, shifts: Sequence[tuple[int, int]] = ((0, 0),)
    ) -> Tensor:
        """Return the fractions of the peak by the mean of eta over shifts (row, column).

        Several shifts need sides that are longer by `margin`.  Trained at one shift, a network
        learns to be right on its own; trained at several, it learns what their mean needs, which is
        what denoising takes.
        """
        more = self.margin(len(shifts))
        height, width = (side - more for side in y.shape[-2:])
        parts = torch.cat([y[..., i : i + height, j : j + width] for i, j in shifts])
        etas = self.eta(parts).split(len(y))  # faster than one by one
        margins = [(j, more - j, i, more - i) for i, j in shifts]
        return torch.stack([*map(F.pad, etas, margins)]).mean(0).exp() / peak

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


class MultiscaleAutoencoder(ImageNetwork):
    r"""Layers of soft thresholds at scales that halve: a deep relaxation of DCEA.

    .. math:: \hat m = \bar y\, e^{\eta}, \qquad
              \eta = f_\theta\bigl(\sqrt{y + 3/8},\ \log \bar y\bigr)

    where :math:`\bar y` is the mean count of the image, which tells the network how strong the
    noise is.  The network f goes down to a coarser scale by strided filters three times, and up
    again by transposed ones.  At every scale, layers update the maps,

    .. math:: z \leftarrow z + g_k\, (W * \mathrm{ReLU}(z) + b), \qquad k = 1, 2, \dots

    each unrolled a few times with the same filters and a gain for each time; maps on the way down
    are added on the way up.  A ReLU with a bias is the one-sided soft threshold of DCEA, whose
    authors propose deep decoders.  The network sees about sixty pixels to each side.

    Parameters
    ----------
    widths : sequence of int
        Number of maps at each scale, finest first.  The default has 60,331 parameters.
    n_unrolled : int
        Times that a layer is applied; the first gain starts at 1 and the others at 0.
    generator : torch.Generator, optional
        Draws filters.  None: filters are zero, until weights are loaded.

    References
    ----------
    Tolooshams, Song, Temereanca and Ba, ICML 2020, arXiv:1907.03211 (DCEA).  Ronneberger, Fischer
    and Brox, MICCAI 2015, arXiv:1505.04597 (down and up).
    """

    def __init__(
        self,
        widths: Sequence[int] = (16, 22, 28, 36),
        n_unrolled: int = 2,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.settings = {"widths": list(widths), "n_unrolled": n_unrolled}
        self.length = self.stride = self.border = 2 ** (len(widths) - 1)  # of the coarsest scale
        counts = (2, 1, 1)  # of layers, down and up, at each scale but the coarsest, which has one
        layers_seen = sum(count * 2 ** (scale + 1) for scale, count in enumerate(counts))
        reach = 2 + n_unrolled * (layers_seen + self.stride) + 2 * self.stride
        self.halo = self.padded(reach)  # an upper bound

        def layers() -> nn.ModuleList:
            return nn.ModuleList(
                nn.Sequential(*(_Layer(width, n_unrolled, generator) for _ in range(count)))
                for width, count in zip(widths[:-1], counts, strict=True)
            )

        scales = list(itertools.pairwise(widths))
        self.first = _filters(2, widths[0], 3, generator)
        self.going_down = layers()
        self.down = nn.ModuleList(_filters(fine, coarse, 2, generator) for fine, coarse in scales)
        self.bottom = _Layer(widths[-1], n_unrolled, generator)
        self.up = nn.ModuleList(
            _filters(coarse, fine, 2, generator, up=True) for fine, coarse in scales
        )
        self.going_up = layers()
        self.last = _filters(widths[0], 1, 3, generator)
        with torch.no_grad():
            self.last.weight.mul_(0.1)  # so that the first estimate is nearly flat
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def mean_count(self, y: Tensor) -> Tensor:
        """Return the mean count of each image (image, 1, 1, 1), at least 0.01."""
        return y.mean((-3, -2, -1), keepdim=True).clamp(min=0.01)

    def rate(self, y: Tensor, mean_count: Tensor) -> Tensor:
        """Return expected counts of images (image, 1, row, column), given their mean counts."""
        light = mean_count.log().expand_as(y)
        maps = self.first(torch.cat([(y + 3 / 8).sqrt() - 1, light], dim=1))
        kept = []
        for layers, down in zip(self.going_down, self.down, strict=True):
            maps = layers(maps)
            kept.append(maps)
            maps = down(torch.relu(maps))
        maps = self.bottom(maps)
        for layers, up, fine in [*zip(self.going_up, self.up, kept, strict=True)][::-1]:
            maps = layers(up(torch.relu(maps)) + fine)
        return mean_count * self.last(torch.relu(maps)).float().exp()

    def forward(self, y: Tensor, peak: Tensor) -> Tensor:
        return self.rate(y, self.mean_count(y)) / peak

    def denoise(self, counts: Tensor, peak: float) -> Tensor:
        """Return the mean over the eight orientations of the image, as fractions of the peak."""
        mean_count, border = self.mean_count(counts[None, None]), self.border
        total = torch.zeros_like(counts)
        rate = functools.partial(self.rate, mean_count=mean_count)
        for flipped, turns in itertools.product((False, True), range(4)):
            image = torch.rot90(counts.mT if flipped else counts, turns)
            found = self.on_tiles(rate, image, (border, border), 2 * border)
            back = torch.rot90(found, -turns)
            total += back.mT if flipped else back
        return total / (8 * peak)


class _Layer(nn.Module):
    """A layer that is applied a few times, each time to its own result."""

    def __init__(self, width: int, n_unrolled: int, generator: torch.Generator | None) -> None:
        super().__init__()
        self.filters = _filters(width, width, 3, generator)
        self.gains = nn.Parameter(torch.eye(n_unrolled)[0])

    def forward(self, maps: Tensor) -> Tensor:
        for gain in self.gains:
            maps = maps + gain * self.filters(torch.relu(maps))
        return maps


def _filters(
    n_in: int,
    n_out: int,
    size: int,
    generator: torch.Generator | None,
    up: bool = False,
    shrinking: float = 3,
) -> nn.Conv2d | nn.ConvTranspose2d:
    """Return filters of ``size`` x ``size`` pixels; those of size 2 have a stride of 2.

    Weights are zero or, with a generator, normal: their variance is 1 over the number of inputs and
    ``shrinking``.
    """
    kind = nn.ConvTranspose2d if up else nn.Conv2d
    stride, padding = (2, 0) if size == 2 else (1, size // 2)
    # the default initialization would draw from global state
    layer = nn.utils.skip_init(kind, n_in, n_out, size, stride, padding)
    with torch.no_grad():
        layer.bias.zero_()
        if generator is None:
            layer.weight.zero_()
        else:
            layer.weight.normal_(std=1 / math.sqrt(shrinking * n_in * size**2), generator=generator)
    return layer


class ResidualCNN(ImageNetwork):
    r"""Layers of small convolutions, each of which corrects the image a little (CA).

    .. math:: \hat m = \frac{y}{p} + \sum_{l=1}^{L} c_l, \qquad
              (z_l, c_l) = W_l * \mathrm{ReLU}(z_{l-1}) + b_l, \qquad z_0 = \frac{y}{p}

    (without the ReLU in the first layer), with counts y of an image whose largest expected count is
    p.  One map of each layer is its correction, and the others go on to the next layer; the last
    layer has a correction only.  Filters have 3 x 3 pixels, with zeros around the image.  The
    authors train one network for each peak.

    Parameters
    ----------
    n_layers : int
        Number of layers, L.
    n_maps : int
        Maps of a layer, including its correction.  The defaults are those of the authors, with
        655,544 parameters.
    generator : torch.Generator, optional
        Draws filters: normal, with the variance that keeps the scale of maps from layer to layer
        (He et al., ICCV 2015, doi:10.1109/ICCV.2015.123).  Those of corrections are a hundredth of
        that, so that the first estimate is close to the counts.  None: filters are zero, until
        weights are loaded.

    References
    ----------
    Remez, Litany, Giryes and Bronstein, IEEE Trans. Image Process. 27, 2018, arXiv:1808.06562.

    Examples
    --------
    >>> network = ResidualCNN(generator=torch.Generator().manual_seed(0))
    >>> network.n_parameters
    655544
    >>> counts, peak = torch.ones(1, 1, 16, 16), torch.full((1, 1, 1, 1), 4.0)
    >>> network(counts, peak).mean().item()  # as a fraction of the peak
    0.2...
    """

    def __init__(
        self, n_layers: int = 20, n_maps: int = 64, *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        validation.integer("n_layers", n_layers)
        validation.integer("n_maps", n_maps, minimum=2)
        self.settings = {"n_layers": n_layers, "n_maps": n_maps}
        self.halo = n_layers
        n_in = [1] + [n_maps - 1] * (n_layers - 1)
        n_out = [n_maps] * (n_layers - 1) + [1]
        self.layers = nn.ModuleList()
        for sizes in zip(n_in, n_out, strict=True):
            layer = _filters(*sizes, 3, generator, shrinking=0.5)
            with torch.no_grad():
                layer.weight[:1] *= 0.01
            self.layers.append(layer)

    def forward(self, y: Tensor, peak: Tensor) -> Tensor:
        estimate = maps = y / peak
        for layer in self.layers:
            maps = layer(maps)
            estimate = estimate + maps[:, :1]
            maps = torch.relu(maps[:, 1:])
        return estimate

    def denoise(self, counts: Tensor, peak: float) -> Tensor:
        scale = counts.new_full((1, 1, 1, 1), peak)
        return self.on_tiles(lambda y: self(y, scale).float(), counts)
