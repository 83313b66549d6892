"""The paper's algorithms written plainly, without the package: the yardstick of all ratios.

Tolooshams, Song, Temereanca and Ba, ICML 2020, arXiv:1907.03211.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Yardstick:
    """Fixed-step FISTA for windows of counts.

    Parameters
    ----------
    y : tensor, shape (window, 1, bin)
        Counts.
    baseline : tensor, shape (window, 1, 1)
        Linear predictor without events.
    weight : tensor, shape (window, template, 1)
        Of the l1 penalty.
    n_trials : int or None
        Bernoulli trials per bin; None: Poisson.
    """

    y: Tensor
    baseline: Tensor
    weight: Tensor
    n_trials: int | None

    def mean(self, eta: Tensor) -> Tensor:
        """Expected counts."""
        return eta.exp() if self.n_trials is None else self.n_trials * eta.sigmoid()

    def cost(self, eta: Tensor) -> Tensor:
        """Negative log likelihood of every bin, up to a constant."""
        if self.n_trials is None:
            return eta.exp() - self.y * eta
        return self.n_trials * F.softplus(eta) - self.y * eta

    def step(self, templates: Tensor) -> float:
        """Return 1/L; the Poisson curvature has no bound, so its L takes the largest count."""
        curvature = float(self.y.max()) if self.n_trials is None else self.n_trials / 4
        spectrum = torch.fft.rfft(templates.detach(), n=self.y.shape[-1])
        return 1 / (curvature * float(spectrum.abs().square().sum(0).max()))

    def encode(self, templates: Tensor, n_iter: int) -> Tensor:
        """Codes (window, template, onset) after that many iterations from zero."""
        places = self.y.shape[-1] - templates.shape[-1] + 1
        codes = point = self.y.new_zeros(len(self.y), len(templates), places)
        step, momentum = self.step(templates), 1.0
        for _ in range(n_iter):
            residual = self.y - self.mean(self.decode(point, templates))
            score = F.conv1d(residual, templates)
            previous, codes = codes, F.relu(point + step * (score - self.weight))
            faster = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
            point = codes + (momentum - 1) / faster * (codes - previous)
            momentum = faster
        return codes

    def decode(self, codes: Tensor, templates: Tensor) -> Tensor:
        """Linear predictor of codes."""
        return F.conv_transpose1d(codes, templates) + self.baseline


class Training:
    """Gradient steps on the templates, back-propagated through every iteration of the encoder."""

    def __init__(self, model: Yardstick, templates: Tensor, n_iter: int) -> None:
        self.model, self.n_iter = model, n_iter
        self.templates = templates.clone().requires_grad_()
        self.adam = torch.optim.Adam([self.templates], lr=1e-3, eps=1e-3)

    def step(self) -> None:
        """Take one step with all windows as the batch."""
        codes = self.model.encode(self.templates, self.n_iter)
        self.adam.zero_grad()
        self.model.cost(self.model.decode(codes, self.templates)).mean().backward()
        self.adam.step()
        with torch.no_grad():
            self.templates /= self.templates.norm(dim=-1, keepdim=True)


def encode_images(
    y: Tensor, filters: Tensor, bias: Tensor, stride: int, peak: float, n_iter: int
) -> Tensor:
    """Codes of the Poisson denoiser: ISTA of step 1, its residual through Elu.

    ``y`` (image, 1, row, column), ``filters`` (filter, 1, row, column), ``bias`` (filter, 1, 1).
    """
    places = [(y.shape[axis] - filters.shape[axis]) // stride + 1 for axis in (2, 3)]
    codes = y.new_zeros(len(y), len(filters), *places)
    for _ in range(n_iter):
        eta = F.conv_transpose2d(codes, filters, stride=stride)
        residual = F.elu(y - eta.exp(), alpha=peak)
        codes = F.relu(codes + F.conv2d(residual, filters, stride=stride) - bias)
    return codes
