"""A residual network, to compare with: what a plain deep network makes of few photons."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from spikecdl import validation
from spikecdl.denoise.network import ImageNetwork

_FIRST_CORRECTIONS = 0.01  # times the standard deviation of the other filters


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
        (He et al., ICCV 2015, doi:10.1109/ICCV.2015.123).  Those of corrections are small, so that
        the first estimate is close to the counts.

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
        self.n_maps, self.halo = n_maps, n_layers
        n_in = [1] + [n_maps - 1] * (n_layers - 1)
        n_out = [n_maps] * (n_layers - 1) + [1]
        self.layers = nn.ModuleList()
        for sizes in zip(n_in, n_out, strict=True):
            # the default initialization would draw from global state
            layer = nn.utils.skip_init(nn.Conv2d, *sizes, 3, padding=1)
            deviation = math.sqrt(2 / layer.weight[0].numel())
            with torch.no_grad():
                layer.weight.normal_(std=deviation, generator=generator)
                layer.weight[:1] *= _FIRST_CORRECTIONS
                layer.bias.zero_()
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

    def settings(self) -> dict[str, Any]:
        return {"n_layers": len(self.layers), "n_maps": self.n_maps}
