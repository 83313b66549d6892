"""Cost of events at fixed places as a function of templates, amplitudes and baseline."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from spikecdl.events import Events
from spikecdl.training.observations import Observations

#: From templates (template, channel, bin), amplitudes (event,) and baseline (window, channel, 1)
#: to the cost and its derivatives with respect to each.
Likelihood = Callable[[Tensor, Tensor, Tensor], tuple[float, Tensor, Tensor, Tensor]]


def likelihood(rows: Observations, events: Events, length: int) -> Likelihood:
    """Return the cost of events, compiled on the CPU and as tensors elsewhere.

    Parameters
    ----------
    rows : Observations
        With one window axis.
    events : Events
        Sorted by window; their amplitudes are not used.
    length : int
        Bins of a template.
    """
    if rows.y.device.type != "cpu":
        return TensorLikelihood(rows, events)
    from spikecdl.training._compiled import CompiledLikelihood

    return CompiledLikelihood(rows, events, length)


class TensorLikelihood:
    """The cost as tensor operations, on any device; see `likelihood`."""

    def __init__(self, rows: Observations, events: Events) -> None:
        self._rows, self._events = rows.to(torch.float64), events

    def __call__(
        self, templates: Tensor, amplitude: Tensor, baseline: Tensor
    ) -> tuple[float, Tensor, Tensor, Tensor]:
        """Return the cost and its derivatives, in double precision."""
        rows, events = self._rows, self._events.with_amplitude(amplitude)
        eta = events.add_to(baseline.expand_as(rows.y), templates)
        residual = rows.residual(eta)
        patches = events.patches(residual, templates.shape[-1])
        weighted = -amplitude[:, None, None] * patches
        return (
            float(rows.cost(eta)),
            torch.zeros_like(templates).index_add(0, events.template, weighted),
            -(templates[events.template] * patches).sum(dim=(1, 2)),
            -residual.sum(dim=-1, keepdim=True),
        )
