"""A deep auto-encoder of Poisson counts on several scales, for images of any peak."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spikecdl.denoise.network import ImageNetwork

_WIDTHS = (16, 22, 28, 36)
_LAYERS = (2, 1, 1)  # on the way down and up at each scale but the coarsest, which has one
_LOWEST = 0.01  # counts: the least mean that an image is taken to have
_LAST = 0.1  # scales the weights of the last layer, so that the first estimate is nearly flat
_ORIENTATIONS = 8


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
        widths: Sequence[int] = _WIDTHS,
        n_unrolled: int = 2,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.widths, self.n_unrolled = tuple(widths), n_unrolled
        self.length = self.stride = self.border = 2 ** (len(widths) - 1)  # of the coarsest scale
        layers_seen = sum(count * 2 ** (scale + 1) for scale, count in enumerate(_LAYERS))
        reach = 2 + n_unrolled * (layers_seen + self.stride) + 2 * self.stride
        self.halo = self.padded(reach)  # an upper bound

        def layers() -> nn.ModuleList:
            return nn.ModuleList(
                nn.Sequential(*(_Layer(width, n_unrolled, generator) for _ in range(count)))
                for width, count in zip(widths[:-1], _LAYERS, strict=True)
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
            self.last.weight.mul_(_LAST)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def mean_count(self, y: Tensor) -> Tensor:
        """Return the mean count of each image (image, 1, 1, 1)."""
        return y.mean((-3, -2, -1), keepdim=True).clamp(min=_LOWEST)

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
        for layers, up, fine in zip(
            reversed(self.going_up), reversed(self.up), reversed(kept), strict=True
        ):
            maps = layers(up(torch.relu(maps)) + fine)
        return mean_count * self.last(torch.relu(maps)).float().exp()

    def forward(self, y: Tensor, peak: Tensor) -> Tensor:
        return self.rate(y, self.mean_count(y)) / peak

    def denoise(self, counts: Tensor, peak: float) -> Tensor:
        """Return the mean over the eight orientations of the image, as fractions of the peak."""
        mean_count, border = self.mean_count(counts[None, None]), self.border
        total = torch.zeros_like(counts)
        for number in range(_ORIENTATIONS):
            turns, flipped = number % 4, number >= 4
            image = torch.rot90(counts.mT if flipped else counts, turns)
            found = self.on_tiles(
                lambda y: self.rate(y, mean_count), image, (border, border), 2 * border
            )
            rate = torch.rot90(found, -turns)
            total += rate.mT if flipped else rate
        return total / (_ORIENTATIONS * peak)

    def settings(self) -> dict[str, Any]:
        return {"widths": list(self.widths), "n_unrolled": self.n_unrolled}


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
    n_in: int, n_out: int, size: int, generator: torch.Generator | None, up: bool = False
) -> nn.Conv2d | nn.ConvTranspose2d:
    """Return filters of ``size`` x ``size`` pixels; those of size 2 have a stride of 2."""
    kind = nn.ConvTranspose2d if up else nn.Conv2d
    stride, padding = (2, 0) if size == 2 else (1, size // 2)
    # the default initialization would draw from global state
    layer = nn.utils.skip_init(kind, n_in, n_out, size, stride, padding)
    with torch.no_grad():
        layer.bias.zero_()
        if generator is None:
            layer.weight.zero_()
        else:
            layer.weight.normal_(std=1 / math.sqrt(3 * n_in * size**2), generator=generator)
    return layer
