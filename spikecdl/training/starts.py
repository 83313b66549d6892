"""Starting templates taken from the data: stretches that a constant rate explains worst."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from spikecdl.training.observations import Observations

_N_CANDIDATES = 300


def data_starts(
    data: Observations, eta: Tensor, n_templates: int, length: int, generator: torch.Generator
) -> Tensor:
    """Choose stretches of standardised residual, distinct up to shifts (k-means++ seeding).

    Parameters
    ----------
    data : Observations
        With one window axis.
    eta : tensor, shape of ``data.y``
        Linear predictor so far; what it does not explain is looked at.
    n_templates, length : int
        How many, and how many bins each.

    Returns
    -------
    tensor, shape (template, channel, bin), unit norm
    """
    peaks = [_peaks(_surprise(some, eta[part], length), length) for part, some in data.parts()]
    energy, stretches = map(torch.cat, zip(*peaks, strict=True))
    if (energy > 0).any():
        energy, stretches = energy[energy > 0], stretches[energy > 0]
    order = energy.argsort(descending=True, stable=True)[:_N_CANDIDATES]
    stretches = _unit(stretches[order])
    chosen = [int(torch.randint(len(stretches), (1,), generator=generator))]
    distance = 1 - _similarity(stretches, stretches[chosen[0]])
    while len(chosen) < n_templates:
        chance = distance.clamp(min=1e-9).square()
        chosen.append(int(torch.multinomial(chance.cpu(), 1, generator=generator)))
        distance = torch.minimum(distance, 1 - _similarity(stretches, stretches[chosen[-1]]))
    return _unit(_average(stretches, stretches[chosen]) * _taper(length, stretches))


def _surprise(data: Observations, eta: Tensor, length: int) -> Tensor:
    """Return the standardised residual, smoothed over a twentieth of a template."""
    spread = data.family.curvature(data.y, eta).clamp(min=1e-6).sqrt()
    return _smooth(data.residual(eta) / spread, width=max(1.0, length / 20))


def _unit(templates: Tensor) -> Tensor:
    norms = templates.flatten(1).norm(dim=1)[:, None, None]
    flat = templates[0].numel() ** -0.5
    return torch.where(norms > 0, templates / norms.clamp(min=1e-12), flat)


def _smooth(signal: Tensor, width: float) -> Tensor:
    reach = int(3 * width)
    bins = torch.arange(-reach, reach + 1, dtype=signal.dtype, device=signal.device)
    kernel = torch.exp(-0.5 * (bins / width).square())
    flat = signal.reshape(-1, 1, signal.shape[-1])
    return F.conv1d(flat, (kernel / kernel.sum())[None, None], padding=reach).reshape_as(signal)


def _taper(length: int, like: Tensor) -> Tensor:
    bins = torch.arange(length, dtype=like.dtype, device=like.device) + 0.5
    return (torch.minimum(bins, length - bins) / (0.06 * length)).clamp(max=1)


def _peaks(signal: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Return the stretches of most energy and that energy, none overlapping by more than half."""
    energy = signal.square().sum(1).unfold(-1, length, 1).sum(-1)  # (window, place)
    best = F.max_pool1d(energy[:, None], length | 1, 1, length // 2)[:, 0]
    stands_out = (energy == best) & (energy > 0)
    window, place = (stands_out if stands_out.any() else energy == best).nonzero(as_tuple=True)
    height = energy[window, place]
    order = height.argsort(descending=True)[:_N_CANDIDATES]
    return height[order], signal.unfold(-1, length, 1)[window[order], :, place[order]]


def _correlation(stretches: Tensor, template: Tensor) -> Tensor:
    """Correlation of stretches with a template at every shift from minus to plus its length."""
    n = 2 * stretches.shape[-1]
    spectrum = torch.fft.rfft(stretches, n) * torch.fft.rfft(template, n).conj()
    return torch.fft.irfft(spectrum.sum(1), n)


def _similarity(stretches: Tensor, template: Tensor) -> Tensor:
    return _correlation(stretches, template).amax(-1)


def _average(stretches: Tensor, templates: Tensor, rounds: int = 2) -> Tensor:
    """Replace each template by the mean of the stretches most like it, aligned by their shift."""
    length = stretches.shape[-1]
    for _ in range(rounds):
        correlation = torch.stack([_correlation(stretches, h) for h in templates])
        best, shift = correlation.max(-1)
        owner = best.argmax(0)
        means = []
        for c, template in enumerate(templates):
            mine = ((owner == c) & (best[c] > 0.5)).nonzero()[:, 0]
            if len(mine) < 2:
                means.append(template)
                continue
            lag = torch.where(shift[c] >= length, shift[c] - 2 * length, shift[c])[mine]
            index = torch.arange(length, device=lag.device) + (lag + length)[:, None]
            padded = F.pad(stretches[mine], (length, length))
            aligned = padded.gather(2, index[:, None].expand(-1, padded.shape[1], -1))
            means.append((best[c, mine][:, None, None] * aligned).sum(0))
        templates = _unit(torch.stack(means))
    return templates
