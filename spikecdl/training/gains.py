"""Log-likelihood gains of events: which of them the data support."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from spikecdl.model.dictionary import ConvDictionary
from spikecdl.model.penalties import Penalty
from spikecdl.solvers.events import Events
from spikecdl.training.base import Observations, score_spread


class Gains(NamedTuple):
    """Log-likelihood gains of events, each of shape (event,).

    ``gain`` is a multiple of ``threshold``: the gain of a score at the weight of the penalty, in
    nats.  Events that the penalty groups, the units of a trial at one onset, share the sum of their
    gains and one threshold.
    """

    gain: Tensor
    threshold: Tensor


def event_gains(
    data: Observations,
    templates: Tensor,
    events: Events,
    baseline: Tensor,
    penalty: Penalty,
    *,
    alone: bool = False,
) -> Gains:
    r"""Return the exact gains of events.

    An event of amplitude a and waveform h, with the linear predictor :math:`\eta` of all events,
    gains

    .. math:: \log p(y \mid \eta) - \log p(y \mid \eta - a h)

    beside the others.  If ``alone``, without the other events of its template in the bins under it,
    it gains :math:`\max_b \log p(y \mid \eta' + b h) - \log p(y \mid \eta')` with b of the sign of
    a.
    A score s of spread sigma gains :math:`s^2 / 2 \sigma^2`; for a group, s is the norm over units
    and sigma the root mean square.
    """
    templates, baseline = templates.to(data.dtype), baseline.to(data.dtype)
    events = events.with_amplitude(events.amplitude.to(data.dtype))
    dictionary, found = ConvDictionary(templates), []
    for part, some in data.parts(len(templates)):
        mine, level = events.within(*data.rows_of(part)), baseline[part]
        group = mine.groups(data.group_size(penalty))
        gain = _log_likelihood_gain(some.rows(), templates, mine, level, alone)
        total, size = (
            torch.zeros_like(gain).index_add(0, group, each)[group]
            for each in (gain, torch.ones_like(gain))
        )
        spread = penalty.group_spread(score_spread(dictionary, some, level))
        weight = data.of_trials(penalty, part).weight
        at_weight = (weight / spread.clamp(min=1e-9)).square() / 2
        at_weight = at_weight.expand(*some.y.shape[:-2], len(templates), 1).flatten(0, -3)[..., 0]
        threshold = at_weight[mine.window, mine.template]
        found.append((total / threshold, threshold / size))
    return Gains(*map(torch.cat, zip(*found, strict=True)))


def _log_likelihood_gain(
    rows: Observations, templates: Tensor, events: Events, baseline: Tensor, alone: bool
) -> Tensor:
    """Return the gain of each event beside all others, or in place of those of its template.

    In place of those, its amplitude is found by Newton steps that change the linear predictor of no
    bin by more than three typical changes.
    """

    def under(signal: Tensor) -> Tensor:
        return events.patches(signal, templates.shape[-1])

    y, mask, family = under(rows.y), under(rows.mask), rows.family.map(under)
    wave = events.amplitude[:, None, None] * templates[events.template]

    def gain(eta: Tensor, added: Tensor) -> Tensor:
        lost = family.cost(y, eta) - family.cost(y, eta + added)
        return torch.where(mask, lost, 0).sum(dim=(1, 2))

    eta = baseline.reshape_as(rows.baseline).expand_as(rows.y)
    eta = under(events.add_to(eta, templates))
    if not alone:
        return gain(eta - wave, wave)
    without = eta - _of_own_template(rows, templates, events)
    longest = 3 * family.eta_scale / wave.abs().amax((1, 2)).clamp(min=1e-12)
    factor = torch.ones_like(events.amplitude)
    for _ in range(8):
        at = without + factor[:, None, None] * wave
        slope = torch.where(mask, wave * family.residual(y, at), 0).sum(dim=(1, 2))
        bend = torch.where(mask, wave.square() * family.curvature(y, at), 0).sum(dim=(1, 2))
        step = slope / bend.clamp(min=1e-12)
        before, factor = factor, (factor + step.clamp(-longest, longest)).clamp(min=0)
        if ((factor - before).abs() <= 1e-5).all():
            break
    return gain(without, factor[:, None, None] * wave)


def _of_own_template(rows: Observations, templates: Tensor, events: Events) -> Tensor:
    """Return the part of the linear predictor under each event that is due to its template."""
    window = events.window * len(templates) + events.template
    apart = replace(events, window=window)
    signal = rows.y.new_zeros(len(rows.y) * len(templates), *rows.y.shape[1:])
    return apart.patches(apart.add_to(signal, templates), templates.shape[-1])
