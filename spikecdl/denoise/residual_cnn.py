"""A residual network for photon-limited images: what a plain deep network makes of them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from spikecdl import validation
from spikecdl.denoise.frames import on_tiles
from spikecdl.denoise.network import ImageNetwork
from spikecdl.denoise.optimizer import SOAP

_REACH = 1  # pixels that a filter sees to each side
_FIRST_CORRECTIONS = 0.01  # times the standard deviation of the other filters


class ResidualCNN(nn.Module):
    r"""Layers of small convolutions, each of which corrects the image a little (CA).

    .. math:: \hat m = \frac{y}{p} + \sum_{l=1}^{L} c_l, \qquad
              (z_l, c_l) = W_l * \mathrm{ReLU}(z_{l-1}) + b_l, \qquad z_0 = \frac{y}{p}

    (without the ReLU in the first layer), with counts y of an image whose largest expected count is
    p.  All maps of a layer but one go on to the next, and one is its correction; the last layer has
    a correction only.  Filters are of 3 x 3 pixels, with zeros around the image.  It learns as any
    module does, by the mean squared error to clean images; the source trains one for each peak.

    Parameters
    ----------
    n_layers : int
        L.
    n_maps : int
        Maps of a layer, its correction among them.  The defaults are the source's, with 655,544
        parameters.
    generator : torch.Generator, optional
        Draws filters: normal, with the variance that keeps the scale of maps from layer to layer
        (He et al., ICCV 2015, doi:10.1109/ICCV.2015.123); those of corrections are small, so that
        the first estimate is about the counts themselves.

    Attributes
    ----------
    halo : int
        Pixels to each side that the expected count of a pixel depends on.

    Raises
    ------
    ValueError
        If there is no layer, or are fewer than two maps.
    TypeError
        If a number is not an integer.

    Notes
    -----
    On a CPU ``network.to(memory_format=torch.channels_last)`` is quicker without gradients, and
    slower with them.

    References
    ----------
    Remez, Litany, Giryes and Bronstein, IEEE Trans. Image Process. 27, 2018, arXiv:1808.06562.

    Examples
    --------
    >>> network = ResidualCNN(generator=torch.Generator().manual_seed(0))
    >>> sum(values.numel() for values in network.parameters())
    655544
    >>> counts, peak = torch.ones(1, 1, 16, 16), torch.full((1, 1, 1, 1), 4.0)
    >>> network(counts, peak).mean().item()  # of the peak
    0.2...
    """

    def __init__(
        self, n_layers: int = 20, n_maps: int = 64, *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        validation.integer("n_layers", n_layers)
        validation.integer("n_maps", n_maps, minimum=2)
        going_on = [1] + [n_maps - 1] * (n_layers - 1)
        coming_out = [n_maps] * (n_layers - 1) + [1]
        self.layers = nn.ModuleList(
            _layer(n_in, n_out, generator) for n_in, n_out in zip(going_on, coming_out, strict=True)
        )

    @property
    def halo(self) -> int:
        """Pixels to each side that the expected count of a pixel depends on."""
        return _REACH * len(self.layers)

    def forward(self, y: Tensor, peak: Tensor) -> Tensor:
        """Return expected counts as a fraction of the peak.

        Parameters
        ----------
        y : tensor, shape (image, 1, row, column)
            Counts.
        peak : tensor, shape (image, 1, 1, 1)
            Largest expected count of each image.

        Returns
        -------
        tensor, shape (image, 1, row, column)
            About 0 to 1, but not bounded.
        """
        estimate = maps = y / peak
        for layer in self.layers:
            maps = layer(maps)
            estimate = estimate + maps[:, :1]
            maps = torch.relu(maps[:, 1:])
        return estimate


def _layer(n_in: int, n_out: int, generator: torch.Generator | None) -> nn.Conv2d:
    """Return a convolution whose first map is a correction."""
    # made on no device first, as the default initialisation would draw from global state
    layer = nn.Conv2d(n_in, n_out, 2 * _REACH + 1, padding=_REACH, device="meta")
    layer = layer.to_empty(device="cpu")
    deviation = math.sqrt(2 / layer.weight[0].numel())
    with torch.no_grad():
        layer.weight.normal_(std=deviation, generator=generator)
        layer.weight[:1] *= _FIRST_CORRECTIONS
        layer.get_parameter("bias").zero_()
    return layer


class ResidualDenoiser(ImageNetwork):
    """CA, class-agnostic denoising.

    Parameters
    ----------
    network : ResidualCNN
    """

    def __init__(self, network: ResidualCNN) -> None:
        super().__init__()
        self.network = network

    def forward(self, y: Tensor, peak: Tensor) -> Tensor:
        return self.network(y, peak)

    def whole(self, counts: Tensor, peak: float) -> Tensor:
        scale = counts.new_full((1, 1, 1, 1), peak)

        def fraction(part: Tensor) -> Tensor:
            return self(part[None, None], scale)[0, 0].float()

        return on_tiles(fraction, counts, self.network.halo)

    def optimizer(self, learning_rate: float) -> torch.optim.Optimizer:
        return SOAP(self.parameters(), learning_rate)

    def described(self) -> dict[str, Any]:
        return {}
