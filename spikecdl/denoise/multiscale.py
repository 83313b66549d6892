"""A deep auto-encoder of Poisson counts on several scales, for images of any peak."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spikecdl.denoise.frames import TILE, on_tiles
from spikecdl.denoise.images import mirrored
from spikecdl.denoise.network import ImageNetwork
from spikecdl.denoise.optimizer import SOAP

_WIDTHS = (16, 22, 28, 36)
_LAYERS = (2, 1, 1)  # on the way down and up at each scale but the coarsest, which has one
_LOWEST = 0.01  # counts: images are not taken to be darker than that on average
_LAST = 0.1  # times the weights of the last layer: the first estimate is nearly flat
_ORIENTATIONS = 8


class MultiscaleAutoencoder(ImageNetwork):
    r"""Log rates by layers of soft thresholds at scales that halve: the relaxation of DCEA.

    .. math:: \hat m = \bar y\, e^{\eta}, \qquad
              \eta = f_\theta\bigl(\sqrt{y + 3/8},\ \log \bar y\bigr)

    with :math:`\bar y` the mean count of the image, which tells the network how strong the noise
    is.  f goes down to a coarser scale by strided filters three times, and up again by their
    transposes.  At every scale layers refine the maps,

    .. math:: z \leftarrow z + g_k\, (W * \mathrm{ReLU}(z) + b), \qquad k = 1, 2, \dots

    each unrolled a few times with the same filters and a gain for each time, and the maps on the
    way down are added on the way up.  A ReLU with a bias is the one-sided soft threshold of DCEA;
    the decoder is deep, as its authors propose for a relaxation.  What it sees of an image grows
    from a few pixels to some sixty, where networks of one scale need many layers.

    Parameters
    ----------
    widths : sequence of int
        Maps at each scale, from the finest.  The defaults make 60,331 parameters.
    n_unrolled : int
        Times that a layer is applied; the gains begin at 1 and zeros.
    generator : torch.Generator, optional
        Draws filters; None: they are zero, to be filled.

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
        finest, coarsest = widths[0], widths[-1]
        self.first = _filters(2, finest, 3, generator)
        self.going_down = nn.ModuleList(_refiners(widths, n_unrolled, generator))
        self.down = nn.ModuleList(
            _filters(fine, coarse, 2, generator) for fine, coarse in itertools.pairwise(widths)
        )
        self.bottom = _Refiner(coarsest, n_unrolled, generator)
        self.up = nn.ModuleList(
            _filters(coarse, fine, 2, generator, up=True)
            for fine, coarse in itertools.pairwise(widths)
        )
        self.going_up = nn.ModuleList(_refiners(widths, n_unrolled, generator))
        self.last = _filters(finest, 1, 3, generator)
        with torch.no_grad():
            self.last.weight.mul_(_LAST)
        self.border = self._multiple
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def _multiple(self) -> int:
        """Pixels of the finest scale in one of the coarsest."""
        return int(2 ** (len(self.widths) - 1))

    @property
    def halo(self) -> int:
        """Pixels, at least as many as a pixel's rate depends on to each side."""
        layers = sum(count * 2 ** (scale + 1) for scale, count in enumerate(_LAYERS))
        reach = 2 + self.n_unrolled * (layers + self._multiple) + 2 * self._multiple
        return self.padded(reach)

    def level(self, y: Tensor) -> Tensor:
        """Return the mean counts (..., 1, 1, 1) of images."""
        return y.mean((-3, -2, -1), keepdim=True).clamp(min=_LOWEST)

    def rate(self, y: Tensor, level: Tensor) -> Tensor:
        """Return expected counts of images (image, 1, row, column) of known mean counts."""
        maps = self.first(torch.cat([(y + 3 / 8).sqrt() - 1, level.log().expand_as(y)], dim=1))
        kept = []
        for refine, down in zip(self.going_down, self.down, strict=True):
            maps = refine(maps)
            kept.append(maps)
            maps = down(torch.relu(maps))
        maps = self.bottom(maps)
        for refine, up, fine in zip(
            reversed(self.going_up), reversed(self.up), reversed(kept), strict=True
        ):
            maps = refine(up(torch.relu(maps)) + fine)
        return level * self.last(torch.relu(maps)).float().exp()

    def forward(self, y: Tensor, peak: Tensor) -> Tensor:
        return self.rate(y, self.level(y)) / peak

    def whole(self, counts: Tensor, peak: float) -> Tensor:
        """Return the fraction of the peak by the mean of rates over the eight orientations."""
        level = self.level(counts[None])[None]
        total = torch.zeros_like(counts)
        for number in range(_ORIENTATIONS):
            turns, flipped = number % 4, number >= 4
            image = torch.rot90(counts.mT if flipped else counts, turns)
            rate = torch.rot90(self._of_any_size(image, level), -turns)
            total += rate.mT if flipped else rate
        return total / (_ORIENTATIONS * peak)

    def _of_any_size(self, counts: Tensor, level: Tensor) -> Tensor:
        """Return the rates of an image (row, column) that is mirrored at its edges."""
        rows, columns = (self.padded(size + 2 * self.border) for size in counts.shape)
        canvas = mirrored(counts, (self.border, self.border), (rows, columns))

        def rate(part: Tensor) -> Tensor:
            return self.rate(part[None, None], level)[0, 0]

        found = on_tiles(rate, canvas, self.halo, TILE, self._multiple, self._multiple)
        inside = [slice(self.border, self.border + size) for size in counts.shape]
        return found[inside[0], inside[1]]

    def padded(self, size: int) -> int:
        return -(-size // self._multiple) * self._multiple

    def optimizer(self, learning_rate: float) -> torch.optim.Optimizer:
        return SOAP(self.parameters(), learning_rate)

    def described(self) -> dict[str, Any]:
        return {"widths": list(self.widths), "n_unrolled": self.n_unrolled}


class _Refiner(nn.Module):
    """A layer that is applied a few times, to what it has made."""

    def __init__(self, width: int, n_unrolled: int, generator: torch.Generator | None) -> None:
        super().__init__()
        self.filters = _filters(width, width, 3, generator)
        self.gains = nn.Parameter(torch.eye(n_unrolled)[0])

    def forward(self, maps: Tensor) -> Tensor:
        for gain in self.gains:
            maps = maps + gain * self.filters(torch.relu(maps))
        return maps


def _refiners(
    widths: Sequence[int], n_unrolled: int, generator: torch.Generator | None
) -> list[nn.Sequential]:
    """Return the layers of every scale but the coarsest."""
    return [
        nn.Sequential(*(_Refiner(width, n_unrolled, generator) for _ in range(count)))
        for width, count in zip(widths[:-1], _LAYERS, strict=True)
    ]


def _filters(
    n_in: int, n_out: int, size: int, generator: torch.Generator | None, up: bool = False
) -> nn.Conv2d | nn.ConvTranspose2d:
    """Return filters of a size in pixels; those of 2 pixels have a stride of 2."""
    kind = nn.ConvTranspose2d if up else nn.Conv2d
    stride, padding = (2, 0) if size == 2 else (1, size // 2)
    # made on no device first, as the default initialisation would draw from global state
    layer = kind(n_in, n_out, size, stride, padding, device="meta").to_empty(device="cpu")
    deviation = 1 / math.sqrt(3 * n_in * size**2)
    with torch.no_grad():
        layer.get_parameter("bias").zero_()
        if generator is None:
            layer.weight.zero_()
        else:
            layer.weight.normal_(std=deviation, generator=generator)
    return layer
