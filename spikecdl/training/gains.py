"""What each event gains of likelihood, and what a score at the weight of the penalty would."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from spikecdl.dictionary import ConvDictionary
from spikecdl.events import Events
from spikecdl.penalties import Penalty
from spikecdl.training.observations import Observations
from spikecdl.training.weight import null_spread


@dataclass(frozen=True)
class Gains:
    """Gains of events, each of shape (event,); the first two are multiples of the third.

    Parameters
    ----------
    own : tensor
        Gain of an event of its amplitude.
    alone : tensor
        Gain of an event that takes over what events near it explain of its waveform.
    unit : tensor
        Gain of a score at the weight of the penalty, in nats.
    """

    own: Tensor
    alone: Tensor
    unit: Tensor


def event_gains(
    data: Observations, templates: Tensor, events: Events, baseline: Tensor, penalty: Penalty
) -> Gains:
    r"""Gains to second order, with the curvature w of the family at the present predictor.

    An event of amplitude a and waveform h gains :math:`a^2 \langle h, w h\rangle / 2`; alone it
    would have the amplitude :math:`\langle h, w s\rangle / \langle h, w h\rangle`, with s the sum
    of all events.  A score s of spread sigma gains :math:`s^2 / 2 \sigma^2`.  A penalty that
    couples units judges whole groups: each event of it gains without bound, at no price.
    """
    if penalty.coupled:
        free = torch.full_like(events.amplitude, torch.inf)
        return Gains(free, free, torch.zeros_like(free))
    dtype, length = data.y.dtype, templates.shape[-1]
    templates, baseline = templates.to(dtype), baseline.to(dtype)
    events = events.with_amplitude(events.amplitude.to(dtype))
    signal = events.add_to(torch.zeros_like(data.y), templates)
    curvature = torch.where(data.mask, data.family.curvature(data.y, baseline + signal), 0)
    waveform = templates[events.template]
    weighted = waveform * events.patches(curvature, length)
    energy = (waveform * weighted).sum(dim=(1, 2)).clamp(min=1e-12)
    explained = (weighted * events.patches(signal, length)).sum(dim=(1, 2))
    spread = null_spread(ConvDictionary(templates), data, baseline).clamp(min=1e-9)
    height = (penalty.weight / spread).expand(len(data.y), len(templates), 1)
    unit = height[events.window, events.template, 0].square() / 2
    own = events.amplitude.square() * energy / 2
    return Gains(own / unit, explained.square() / energy / 2 / unit, unit)
