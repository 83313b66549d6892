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
    """Gains of events, each of shape (event,); the first two are multiples of the price.

    Events that the penalty takes together, the units of a trial at one place, gain together: they
    have the sum of their gains in common, and each its share of the price.

    Parameters
    ----------
    own : tensor
        Gain of an event of its amplitude.
    alone : tensor
        Gain of an event that takes over what events near it explain of its waveform.
    unit : tensor
        Gain of a score at the weight of the penalty, in nats: the price of an event, or of a group
        over the number of its events.
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
    of all events.  A score s of spread sigma gains :math:`s^2 / 2 \sigma^2`; of a group, s is the
    norm over units and sigma the root mean square.
    """
    templates, baseline = templates.to(data.dtype), baseline.to(data.dtype)
    events = events.with_amplitude(events.amplitude.to(data.dtype))
    found = [
        _gains(
            some,
            templates,
            events.within(*data.rows_of(part)),
            baseline[part],
            data.share(penalty, part),
        )
        for part, some in data.parts()
    ]
    return Gains(*map(torch.cat, zip(*found, strict=True)))


def _gains(
    data: Observations, templates: Tensor, events: Events, baseline: Tensor, penalty: Penalty
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gains of the events of some trials: own, alone and unit."""
    rows, length = data.rows(), templates.shape[-1]
    signal = events.add_to(torch.zeros_like(rows.y), templates)
    eta = baseline.reshape_as(rows.baseline) + signal
    curvature = torch.where(rows.mask, rows.family.curvature(rows.y, eta), 0)
    waveform = templates[events.template]
    weighted = waveform * events.patches(curvature, length)
    energy = (waveform * weighted).sum(dim=(1, 2)).clamp(min=1e-12)
    explained = (weighted * events.patches(signal, length)).sum(dim=(1, 2))
    group = events.groups(data.together(penalty))

    def together(gain: Tensor) -> Tensor:
        return torch.zeros_like(gain).index_add(0, group, gain)[group]

    price = _price(data, templates, baseline, penalty)[events.window, events.template]
    own = together(events.amplitude.square() * energy / 2)
    alone = together(explained.square() / energy / 2)
    return own / price, alone / price, price / together(torch.ones_like(own))


def _price(data: Observations, templates: Tensor, baseline: Tensor, penalty: Penalty) -> Tensor:
    """Return the gain of a score at the weight, of shape (window, template)."""
    spread = penalty.typical(null_spread(ConvDictionary(templates), data, baseline))
    height = penalty.weight / spread.clamp(min=1e-9)
    height = height.expand(*data.y.shape[:-2], len(templates), 1).flatten(0, -3)
    return height[..., 0].square() / 2
