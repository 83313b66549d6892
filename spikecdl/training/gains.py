"""Log-likelihood gains of events: which of them the data support."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from spikecdl.model.dictionary import ConvDictionary
from spikecdl.model.penalties import Penalty
from spikecdl.solvers.events import Events
from spikecdl.training.base import Observations, score_spread

_NEWTON_STEPS = 8
_SETTLED = 1e-5  # change of a factor of an amplitude that ends Newton's method
_LONGEST_STEP = 3.0  # change of the linear predictor in any bin, in typical ones


@dataclass(frozen=True)
class Gains:
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
    found = [
        _gains(
            some,
            templates,
            events.within(*data.rows_of(part)),
            baseline[part],
            data.of_trials(penalty, part),
            alone,
        )
        for part, some in data.parts(len(templates))
    ]
    return Gains(*map(torch.cat, zip(*found, strict=True)))


def _gains(
    data: Observations,
    templates: Tensor,
    events: Events,
    baseline: Tensor,
    penalty: Penalty,
    alone: bool,
) -> tuple[Tensor, Tensor]:
    """Return the fields of `Gains` for the events of some trials."""
    group = events.groups(data.group_size(penalty))

    def of_group(gain: Tensor) -> Tensor:
        return torch.zeros_like(gain).index_add(0, group, gain)[group]

    spread = penalty.group_spread(score_spread(ConvDictionary(templates), data, baseline))
    at_weight = (penalty.weight / spread.clamp(min=1e-9)).square() / 2
    at_weight = at_weight.expand(*data.y.shape[:-2], len(templates), 1).flatten(0, -3)[..., 0]
    threshold = at_weight[events.window, events.template]
    gain = of_group(_log_likelihood_gain(data.rows(), templates, events, baseline, alone))
    return gain / threshold, threshold / of_group(torch.ones_like(gain))


def _log_likelihood_gain(
    rows: Observations, templates: Tensor, events: Events, baseline: Tensor, alone: bool
) -> Tensor:
    """Return the gain of each event beside all others, or in place of those of its template."""

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
    longest = _LONGEST_STEP * family.eta_scale / wave.abs().amax((1, 2)).clamp(min=1e-12)
    factor = torch.ones_like(events.amplitude)
    for _ in range(_NEWTON_STEPS):
        at = without + factor[:, None, None] * wave
        slope = torch.where(mask, wave * family.residual(y, at), 0).sum(dim=(1, 2))
        bend = torch.where(mask, wave.square() * family.curvature(y, at), 0).sum(dim=(1, 2))
        step = slope / bend.clamp(min=1e-12)
        before, factor = factor, (factor + step.clamp(-longest, longest)).clamp(min=0)
        if ((factor - before).abs() <= _SETTLED).all():
            break
    return gain(without, factor[:, None, None] * wave)


def _of_own_template(rows: Observations, templates: Tensor, events: Events) -> Tensor:
    """Return the part of the linear predictor under each event that is due to its template."""
    window = events.window * len(templates) + events.template
    apart = replace(events, window=window)
    signal = rows.y.new_zeros(len(rows.y) * len(templates), *rows.y.shape[1:])
    return apart.patches(apart.add_to(signal, templates), templates.shape[-1])
