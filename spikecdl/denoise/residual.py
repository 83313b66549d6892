"""The residual network of the baselines, to be trained and run as the auto-encoders are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from spikecdl.baselines.residual_cnn import ResidualCNN
from spikecdl.denoise.contract import ImageNetwork
from spikecdl.denoise.optimizer import SOAP
from spikecdl.denoise.tiles import on_tiles


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
