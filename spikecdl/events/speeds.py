r"""Templates at other speeds: operators in time, and sums over events of every speed.

An event of speed s runs through a template |s| times as fast, backward if s < 0.  With r bins of
the template to a bin of the event, bin j of the event is the mean of the template from r j to
r (j + 1),

.. math:: h^s_j = \sum_k R^s_{jk} h_k, \qquad
          R^s_{jk} = \frac{1}{r} \bigl|[r j, r (j + 1)) \cap [k, k + 1)\bigr|,

and zero after the end of the template.  The slope of the log likelihood by the template is that by
events of all speeds through the transposes.  The curvature is bounded by its row sums, which it
equals where templates are smooth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from spikecdl.events.counts import Counts, Expectation
from spikecdl.events.model import EventModel


@dataclass(frozen=True, eq=False)
class Speeds:
    """Speeds of events and their operators (speed, bin of an event, bin of a template)."""

    values: np.ndarray
    operators: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, length: int, ratio: float = 1.0) -> Speeds:
        """Return speeds of templates with a length in bins, by whose size bins are divided for a
        ``ratio``.
        """
        steps = np.abs(values) * ratio
        n_bins = math.ceil(length / steps.min() - 1e-9)
        edges = steps[:, None, None] * np.arange(n_bins + 1)[:, None]
        bins = np.arange(length)
        shared = np.minimum(edges[:, 1:], bins + 1) - np.maximum(edges[:, :-1], bins)
        operators = shared.clip(min=0) / steps[:, None, None]
        operators[values < 0] = operators[values < 0, :, ::-1]
        return cls(values, operators)

    @property
    def length(self) -> int:
        """Bins of an event, of the slowest speed."""
        return self.operators.shape[1]

    def spread(self, model: EventModel) -> EventModel:
        """Return a model of which events of a template may have each speed, as often as others.

        Its amplitudes (template, speed and amplitude) are those of each speed in turn.
        """
        number = len(self.values)
        return replace(
            model,
            amplitudes=np.tile(model.amplitudes, number),
            rates=np.tile(model.rates, number) / number,
            timing=np.zeros((len(model), 0)),
            overlap=2,
            distance=0,
        )

    def played(self, model: EventModel) -> EventModel:
        """Return a `spread` model with a template for each template and speed, in this order.

        Variances are those of templates that err alike in bins next to each other.
        """
        each = {name: getattr(model, name) for name in EventModel.by_template}
        parts: dict[str, Any] = {n: np.repeat(x, len(self.values), 0) for n, x in each.items()}
        parts["templates"] = self._forward(model.templates)
        parts["variance"] = np.square(self._forward(np.sqrt(model.variance)))
        parts["original"] = np.repeat(np.arange(len(model)), len(self.values))
        bins = np.count_nonzero(self.operators.any(2), axis=1)
        parts["duration"] = np.tile(bins, len(model))
        for name in ("amplitudes", "rates"):
            parts[name] = each[name].reshape(len(parts["templates"]), -1)
        return replace(model, **parts)

    def gathered(self, found: Expectation, n_templates: int) -> Expectation:
        """Return sums over events of a `played` model as those of the model."""
        rows = self.operators.sum(2)[:, None]  # of each bin of an event
        curvature = found.curvature.reshape(n_templates, len(rows), -1, self.length) * rows
        return found._replace(
            number=found.number.reshape(n_templates, -1),
            starts=found.starts[:n_templates],
            spikes=self._back(found.spikes),
            expected=self._back(found.expected),
            curvature=self._back(curvature),
        )

    def _forward(self, templates: np.ndarray) -> np.ndarray:
        found = np.einsum("sjk,crk->csrj", self.operators, templates)
        return found.reshape(-1, *found.shape[2:])

    def _back(self, derivatives: np.ndarray) -> np.ndarray:
        shape = (-1, len(self.values), derivatives.shape[-2], self.length)
        return np.einsum("sjk,csrj->crk", self.operators, derivatives.reshape(shape))


class CountsAtSpeeds:
    """Counts, of a model whose events have speeds; see `Counts`, and `Speeds.spread`."""

    def __init__(self, counts: Counts, speeds: Speeds) -> None:
        self._counts, self._speeds = counts, speeds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._counts, name)

    def expect(self, model: EventModel) -> Expectation:
        """Sum over the events of all windows, of every speed."""
        if not len(model):
            return self._counts.expect(model)
        return self._speeds.gathered(self._counts.expect(self._speeds.played(model)), len(model))
