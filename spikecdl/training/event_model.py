"""The event model: templates, and how often events of which amplitude begin."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from spikecdl.solvers.event_posterior import Prior, Sums

M = TypeVar("M", bound="ByTemplate")
RELATIVE_AMPLITUDES = np.array([0.6, 0.8, 1.0, 1.2, 1.4])
_MOST_BUSY = 0.5  # expected events of a template in a time as long as the template
_FEWEST = 0.1  # events added to the count of a template, so that none becomes impossible
_SPREAD_COUNT = 0.5  # events added to each amplitude
_RIDGE = 0.05  # precision of the normal prior of each bin of a template, for eta_scale 1
_FIRST_SMOOTHNESS, _ROUGHEST, _SMOOTHEST = 20.0, 0.1, 1e4  # precision of second differences
_LEAST_NORM = 1e-9  # of a template that has a direction
_LARGEST_STEP = 1.0  # of a bin of a template, in units of eta_scale


@dataclass(frozen=True)
class ByTemplate:
    """What models of events share: arrays with a row for each template, and more.

    ``by_template`` names these arrays, and ``by_bin`` those that have bins as their last axis, too.
    """

    templates: np.ndarray
    by_template: ClassVar[tuple[str, ...]]
    by_bin: ClassVar[tuple[str, ...]]

    @classmethod
    def from_tensors(cls: type[M], tensors: Mapping[str, Tensor]) -> M:
        """Return the model of which `as_tensors` made these, if there are others among them."""
        names = [field.name for field in fields(cls) if field.name in tensors]
        arrays = {name: tensors[name].cpu().numpy() for name in names}
        known: dict[str, Any] = {name: x if x.ndim else int(x) for name, x in arrays.items()}
        return cls(**known)

    def as_tensors(self) -> dict[str, Tensor]:
        """Return its arrays and numbers as tensors."""
        known = {name: value for name, value in vars(self).items() if value is not None}
        return {name: torch.as_tensor(value) for name, value in known.items()}

    def __len__(self) -> int:
        return len(self.templates)

    @property
    def length(self) -> int:
        """Bins of a template."""
        return self.templates.shape[2]

    def take(self: M, index: Sequence[int] | np.ndarray) -> M:
        """Keep some templates."""
        return self._each(lambda array: array[index], self.by_template)

    def joined(self: M, other: M) -> M:
        """Add the templates of another model."""
        pairs = {name: (getattr(self, name), getattr(other, name)) for name in self.by_template}
        parts: dict[str, Any] = {name: np.concatenate(pair) for name, pair in pairs.items()}
        return replace(self, **parts)

    def bounded(self: M, nonnegative: Sequence[bool]) -> M:
        """Return the model in which these templates do not fall below zero."""
        kept = np.array(nonnegative, bool)
        templates = np.where(kept[:, None, None], self.templates.clip(min=0), self.templates)
        parts: dict[str, Any] = {"templates": templates, "nonnegative": kept}
        return replace(self, **parts)

    def padded(self: M, n_bins: int) -> M:
        """Return the model with templates longer by bins of zeros at both ends."""
        width = ((0, 0), (0, 0), (n_bins, n_bins))
        return self._each(lambda array: np.pad(array, width), self.by_bin)

    def cropped(self: M, length: int) -> tuple[M, np.ndarray]:
        """Cut templates to their bins of most energy; return where each begins, too."""
        energy = np.pad(np.square(self.templates).sum(1).cumsum(-1), ((0, 0), (1, 0)))
        start = (energy[:, length:] - energy[:, :-length]).argmax(1)
        bins = (np.arange(len(self))[:, None], slice(None), start[:, None] + np.arange(length))
        return self._each(lambda array: array[bins].transpose(0, 2, 1), self.by_bin), start

    def _each(self: M, change: Callable[[np.ndarray], np.ndarray], names: Sequence[str]) -> M:
        parts: dict[str, Any] = {name: change(getattr(self, name)) for name in names}
        return replace(self, **parts)


@dataclass(frozen=True)
class EventModel(ByTemplate):
    r"""Templates, and the prior of their events.

    In every bin that no event covers, an event of template c and amplitude
    :math:`a_{ci}` begins with probability :math:`\pi_{ci}`.

    Parameters
    ----------
    templates : ndarray, shape (template, channel, bin)
    amplitudes : ndarray, shape (template, amplitude)
        Amplitudes that events may have.
    rates : ndarray, shape (template, amplitude)
        Probability that such an event begins in a free bin.
    baseline : ndarray, shape (unit, channel)
        Predictor of each unit without events; in the joint layout of the one unit's channels.
    smoothness : ndarray, shape (template,)
        Precision of the second differences of each template.
    coefficients : ndarray, shape (unit, column), optional
        Of the covariates of the data, if any.
    n_chains : int
        Most events at a time.
    distance : int
        Least bins between the onsets of events of one template, if events overlap.
    perturbation : ndarray, shape (template, channel, bin), optional
        Added to the gradient of the log prior of the templates; see `perturbed`.
    nonnegative : ndarray of bool, shape (template,), optional
        Which of the templates do not fall below zero.  Default: none of them.
    """

    amplitudes: np.ndarray
    rates: np.ndarray
    baseline: np.ndarray
    smoothness: np.ndarray
    coefficients: np.ndarray | None = None
    n_chains: int = 1
    distance: int = 0
    perturbation: np.ndarray | None = None
    nonnegative: np.ndarray = None  # type: ignore[assignment]
    by_template = ("templates", "amplitudes", "rates", "smoothness", "nonnegative")
    by_bin = ("templates",)

    def __post_init__(self) -> None:
        if self.nonnegative is None:
            object.__setattr__(self, "nonnegative", np.zeros(len(self.templates), bool))

    @classmethod
    def of_templates(
        cls, templates: np.ndarray, baseline: np.ndarray, occupancy: float = 0.3
    ) -> EventModel:
        """Return a model whose templates have typical amplitude one and cover some of the time."""
        count, _, length = templates.shape
        amplitudes = np.tile(RELATIVE_AMPLITUDES, (count, 1))
        each = occupancy / length / max(1, amplitudes.size)
        rates = np.full(amplitudes.shape, each)
        return cls(templates, amplitudes, rates, baseline, np.full(count, _FIRST_SMOOTHNESS))

    def prior(self, n_chains: int = 1) -> Prior:
        """Return the log probabilities of chains that share the events."""
        rates = np.tile(self.rates / n_chains, (n_chains, 1, 1))
        idle = np.maximum(1.0 - rates.sum((1, 2)), 1e-6)
        return Prior(np.log(np.maximum(rates, 1e-30)), np.log(idle), self.distance)

    def normalized(self) -> EventModel:
        """Return the same model with templates of unit norm; those that are zero become flat."""
        flat = np.full_like(self.templates, _LEAST_NORM / self.templates[0].size ** 0.5)
        norms = np.linalg.norm(self.templates, axis=(1, 2))
        templates = np.where(norms[:, None, None] > _LEAST_NORM, self.templates, flat)
        norms = np.maximum(norms, _LEAST_NORM)
        templates = templates / norms[:, None, None]
        return replace(self, templates=templates, amplitudes=self.amplitudes * norms[:, None])

    def perturbed(self, scale: float, rng: np.random.Generator) -> EventModel:
        """Draw a perturbation of the prior of templates, whose smoothness is then kept.

        With normal data of fixed smoothness, templates fitted to such a prior and to noise drawn
        anew have the covariance of the posterior, which accounts for the bias of smoothing, too
        (Bardsley et al., SIAM J. Sci. Comput. 36, 2014).
        """
        bends = np.diff(np.eye(self.length), n=2, axis=0)
        shape = self.templates.shape
        rough = rng.normal(size=(*shape[:2], len(bends))) @ bends
        rough *= np.sqrt(self.smoothness)[:, None, None]
        flat = np.sqrt(_RIDGE) * rng.normal(size=shape)
        return replace(self, perturbation=(rough + flat) / scale)

    def log_density(self, scale: float) -> float:
        """Return the log density of the templates under their prior, up to a constant."""
        bends = np.square(np.diff(self.templates, n=2)).sum((1, 2)) / scale**2
        size = np.square(self.templates).sum() / scale**2
        free = (self.length - 2) * self.templates.shape[1]
        smooth = free * np.log(self.smoothness) - self.smoothness * bends
        return float(smooth.sum() - _RIDGE * size) / 2

    def updated(
        self,
        sums: Sums,
        scale: float,
        learn_templates: bool = True,
        n_chains: int = 1,
        step: float = 1.0,
    ) -> EventModel:
        """Return the model after a step of rates and templates towards what the sums ask for.

        ``scale`` is the typical change of the predictor, `Family.eta_scale`; ``n_chains`` share the
        events; ``step`` is 1 for whole steps.
        """
        model = replace(self, rates=self._new_rates(sums, n_chains, step))
        if not learn_templates:
            return model
        templates, smoothness = self.templates.copy(), self.smoothness.copy()
        bends = np.diff(np.eye(self.length), n=2, axis=0)
        bends = bends.T @ bends / scale**2
        for c, template in enumerate(templates):
            bent = 0.0
            for n, row in enumerate(template):
                prior = smoothness[c] * bends + _RIDGE / scale**2 * np.eye(self.length)
                inverse = np.linalg.inv(np.diag(sums.second[c, n]) + prior)
                slope = sums.first[c, n] - prior @ row
                if self.perturbation is not None:
                    slope += self.perturbation[c, n]
                change = inverse @ slope
                if self.nonnegative[c]:  # the same quadratic, at its least where the row is above
                    root = np.linalg.cholesky(np.diag(sums.second[c, n]) + prior).T
                    wanted = np.linalg.solve(root.T, slope) + root @ row
                    change = nnls(root, wanted)[0] - row
                row += step * np.clip(change, -_LARGEST_STEP * scale, _LARGEST_STEP * scale)
                if self.nonnegative[c]:  # also after a long step
                    np.maximum(row, 0.0, out=row)
                bent += row @ bends @ row + (inverse * bends).sum()
            free = (self.length - 2) * len(template)
            if self.perturbation is None:
                smoothness[c] = np.clip(free / max(bent, 1e-12), _ROUGHEST, _SMOOTHEST)
        return replace(model, templates=templates, smoothness=smoothness)

    def _new_rates(self, sums: Sums, n_chains: int, step: float) -> np.ndarray:
        count = sums.number
        number = count.sum(1, keepdims=True)
        rate = n_chains * (number + _FEWEST) / (sums.free + number.sum() + 2 * _FEWEST)
        rate = np.minimum(rate, _MOST_BUSY / self.length)
        shares = (count + _SPREAD_COUNT) / (count + _SPREAD_COUNT).sum(1, keepdims=True)
        return np.exp((1 - step) * np.log(self.rates) + step * np.log(rate * shares))
