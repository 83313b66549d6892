"""The event model: templates, how often events of which amplitude begin, and rates without them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from spikecdl import kernels

#: Amplitudes that events may have, relative to the typical one of their template.
RELATIVE_AMPLITUDES = np.array([0.6, 0.8, 1.0, 1.2, 1.4])
FIRST_SMOOTHNESS, FIRST_SHRINKAGE = 30.0, 1.0  # of templates that nothing is known of
PAIRED = -4.0  # log weight from which an event may be one of a pair
MOST_LIKELY = 0.9  # probability that an event begins in a bin, at most
NEVER = 1e-10  # probability of an event of a template that has none
_LEAST_NORM = 1e-9  # of a template that has a direction


class ChainPrior(NamedTuple):
    """Log probabilities, of each of ``n_chains``, that an event (template, amplitude) begins in a
    bin, and that none does.

    ``log_start`` (template, amplitude) changes by ``log_timing`` (template, onset), which has no
    onsets if it does not; ``log_idle`` is (onset,).  Of events that overlap, one begins at least
    ``apart`` (template, later template) bins after another; those of a log weight below ``least``
    are in no pair.
    """

    log_start: np.ndarray
    log_timing: np.ndarray
    log_idle: np.ndarray
    n_chains: int
    apart: np.ndarray
    least: float


class Factors(NamedTuple):
    """Factors of two events that overlap, as logarithms (pattern, lag, event, event).

    ``largest`` (pattern, lag) are the largest logarithms, and ``linear`` the factors relative to
    these.
    """

    log: np.ndarray
    largest: np.ndarray
    linear: np.ndarray


def relative(log: np.ndarray) -> Factors:
    """Return logarithms of factors together with their largest ones, and relative to these."""
    factors = Factors(log, np.empty(log.shape[:2]), np.empty_like(log))
    kernels.function("fill_relative")(factors)
    return factors


@dataclass(frozen=True)
class EventModel:
    r"""Templates and the prior of their events.

    At most ``overlap`` events are under way at a time: there are as many chains, and in every bin
    in which a chain is idle it begins an event of template c and amplitude :math:`a_{ci}` with
    probability :math:`\pi_{ci}` over the number of chains.  An event lasts as long as a template.
    Templates are normal a posteriori, and their events change the predictor by :math:`a_{ci} h_c`.

    Parameters
    ----------
    templates, variance : ndarray, shape (template, row, bin)
        Posterior means and variances; rows are channels.
    amplitudes, rates : ndarray, shape (template, amplitude)
        Amplitudes that events may have, and the probability that such an event begins in a bin
        without events.
    baseline : ndarray, shape (unit, row)
        Predictor of each unit without events; in the joint layout of the one unit's channels.
    smoothness : ndarray, shape (template,)
        Precision of second differences relative to that of values; see `spikecdl.events.prior`.
    shrinkage : ndarray, shape (template, row)
        Precision of the prior of each row.
    cost : ndarray, shape (template,)
        Divergence of templates from their prior, in nats, and what their rows cost.
    gain : ndarray, shape (template, row)
        Evidence of each row over that without it, in nats.
    nonnegative : ndarray of bool, shape (template,)
        Which of the templates do not fall below zero.
    timing : ndarray, shape (template, knot)
        Log rate of events relative to that of other times, at knots that are evenly spaced over the
        onsets of a window; see `spikecdl.events.prior`.  No knots: events prefer no time.
    original, duration : ndarray of int, shape (template,)
        Of which template it is another speed (-1: of none), and the bins that this one lasts: so
        long no other event of the same original begins.
    overlap : int
        Most events at a time.
    distance : int
        Least bins between the onsets of events of one template, if events overlap.
    coefficients : ndarray, shape (unit, column), optional
        Of the covariates of the data, if any.
    """

    templates: np.ndarray
    variance: np.ndarray
    amplitudes: np.ndarray
    rates: np.ndarray
    baseline: np.ndarray
    smoothness: np.ndarray
    shrinkage: np.ndarray
    cost: np.ndarray
    gain: np.ndarray
    nonnegative: np.ndarray
    timing: np.ndarray
    original: np.ndarray
    duration: np.ndarray
    overlap: int = 1
    distance: int = 0
    coefficients: np.ndarray | None = None
    by_bin: ClassVar[tuple[str, ...]] = ("templates", "variance")
    by_template: ClassVar[tuple[str, ...]] = (
        *by_bin,
        *("amplitudes", "rates", "smoothness", "shrinkage", "cost", "gain"),
        *("nonnegative", "timing", "original", "duration"),
    )

    @classmethod
    def of_templates(
        cls, templates: np.ndarray, baseline: np.ndarray, occupancy: float = 0.3
    ) -> EventModel:
        """Return a model whose templates have typical amplitude one and cover some of the time."""
        count, n_rows, length = templates.shape
        shape = (count, RELATIVE_AMPLITUDES.size)
        return cls(
            templates=templates,
            variance=np.zeros(templates.shape),
            amplitudes=np.tile(RELATIVE_AMPLITUDES, (count, 1)),
            rates=np.full(shape, occupancy / length / max(1, count * shape[1])),
            baseline=baseline,
            smoothness=np.full(count, FIRST_SMOOTHNESS),
            shrinkage=np.full((count, n_rows), FIRST_SHRINKAGE),
            cost=np.full(count, np.inf),  # not known before the first step
            gain=np.zeros((count, n_rows)),
            nonnegative=np.zeros(count, bool),
            timing=np.zeros((count, 0)),
            original=np.full(count, -1),
            duration=np.zeros(count, np.int64),
        )

    def __len__(self) -> int:
        return len(self.templates)

    @property
    def length(self) -> int:
        """Bins of a template."""
        return self.templates.shape[2]

    def prior(self, n_onsets: int) -> ChainPrior:
        """Return log probabilities of the chains that share the events of a window."""
        each, timing = self.rates / self.overlap, np.zeros((len(self), 0))
        start = np.full(n_onsets, each.sum())
        if self.timing.size:
            timing = self.log_timing(n_onsets)
            start = each.sum(1) @ np.exp(timing)
            crowded = np.log(np.maximum(start / MOST_LIKELY, 1.0))
            timing, start = timing - crowded, start * np.exp(-crowded)
        idle = np.log(np.maximum(1.0 - start, 1e-6))
        return ChainPrior(self.log_start, timing, idle, self.overlap, self.apart, PAIRED)

    @property
    def apart(self) -> np.ndarray:
        """Least bins (template, later template) between the onsets of events that overlap."""
        alike = (self.original[:, None] == self.original) & (self.original >= 0)
        own = self.distance * np.eye(len(self), dtype=np.int64)
        return np.where(alike, self.duration[:, None], own)

    @property
    def log_start(self) -> np.ndarray:
        """Log probability (template, amplitude) that an event begins, at a mean time."""
        return np.log(np.maximum(self.rates / self.overlap, 1e-30))

    def log_timing(self, n_onsets: int) -> np.ndarray:
        """Return the log of the rate of events relative to its mean (template, onset)."""
        log = self.timing @ hats(self.timing.shape[1], n_onsets)
        return log - np.log(np.exp(log).mean(1, keepdims=True))

    def with_timing(self, n_knots: int) -> EventModel:
        """Return the model with as many knots of the rate of events, which is constant if new."""
        if self.timing.shape[1] == n_knots:
            return self
        return replace(self, timing=np.zeros((len(self), n_knots)))

    @property
    def has_events(self) -> np.ndarray:
        """Which templates have events (template,)."""
        return self.rates.sum(1) > NEVER

    def moves(self) -> np.ndarray:
        """Return the log of the expected factor of a rate (template, amplitude, row, bin)."""
        size = self.amplitudes[..., None, None]
        return size * self.templates[:, None] + np.square(size) * self.variance[:, None] / 2

    def take(self, index: Sequence[int] | np.ndarray) -> EventModel:
        """Keep some templates."""
        return self._each(lambda array: array[index], self.by_template)

    def joined(self, other: EventModel) -> EventModel:
        """Add the templates of another model."""
        other = other.with_timing(self.timing.shape[1])
        pairs = {name: (getattr(self, name), getattr(other, name)) for name in self.by_template}
        parts: dict[str, Any] = {name: np.concatenate(pair) for name, pair in pairs.items()}
        return replace(self, **parts)

    def filled(self, n_templates: int) -> EventModel:
        """Return the model with as many templates; those that are added have no events."""
        missing = n_templates - len(self)
        if missing <= 0:
            return self
        zeros = np.zeros((missing, *self.templates.shape[1:]))
        nothing = EventModel.of_templates(zeros, self.baseline)
        return self.joined(nothing.without_events(np.arange(missing)))

    def padded(self, n_bins: int) -> EventModel:
        """Return the model with templates longer by bins of zeros at both ends."""
        width = ((0, 0), (0, 0), (n_bins, n_bins))
        return self._each(lambda array: np.pad(array, width), self.by_bin)

    def cropped(self, length: int) -> tuple[EventModel, np.ndarray]:
        """Cut templates to their bins of most energy; return where each begins, too."""
        energy = np.pad(np.square(self.templates).sum(1).cumsum(-1), ((0, 0), (1, 0)))
        start = (energy[:, length:] - energy[:, :-length]).argmax(1)
        bins = (np.arange(len(self))[:, None], slice(None), start[:, None] + np.arange(length))
        return self._each(lambda array: array[bins].transpose(0, 2, 1), self.by_bin), start

    def bounded(self, nonnegative: Sequence[bool]) -> EventModel:
        """Return the model in which these templates do not fall below zero.

        If others do, those take these places from whose likelihood the bound takes least.
        """
        bounded, order = np.array(nonnegative, bool), np.arange(len(self))
        below = np.square(self.templates.clip(max=0)).sum((1, 2)) * self.rates.sum(1)
        least = below.argsort(kind="stable")[: bounded.sum()]
        order[bounded], order[~bounded] = np.sort(least), np.setdiff1d(order, least)
        one = self.take(order)
        templates = np.where(bounded[:, None, None], one.templates.clip(min=0), one.templates)
        return replace(one, templates=templates, nonnegative=bounded)

    def without_events(self, index: Sequence[int] | np.ndarray) -> EventModel:
        """Return the model in which some templates are zero and have no events."""
        names = ("rates", *self.by_bin, "cost")
        parts: dict[str, Any] = {name: getattr(self, name).copy() for name in names}
        for name, array in parts.items():
            array[index] = NEVER / 10 / array.shape[1] if name == "rates" else 0.0
        return replace(self, **parts)

    def normalized(self) -> EventModel:
        """Return the same model with templates of unit norm; those that are zero become flat."""
        norms = np.linalg.norm(self.templates, axis=(1, 2))[:, None, None]
        flat = np.full_like(self.templates, _LEAST_NORM / self.templates[:1].size ** 0.5)
        templates = np.where(norms > _LEAST_NORM, self.templates, flat)
        return replace(self, templates=templates).scaled(1 / np.maximum(norms, _LEAST_NORM))

    def scaled(self, factor: np.ndarray) -> EventModel:
        """Return the same model with templates multiplied by factors (template, 1, 1)."""
        return replace(
            self,
            templates=factor * self.templates,
            variance=np.square(factor) * self.variance,
            amplitudes=self.amplitudes / factor[..., 0],
            shrinkage=self.shrinkage / np.square(factor[..., 0]),
        )

    def as_tensors(self) -> dict[str, Tensor]:
        """Return its arrays and numbers as tensors."""
        known = {name: value for name, value in vars(self).items() if value is not None}
        return {name: torch.as_tensor(value) for name, value in known.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> EventModel:
        """Return the model of which `as_tensors` made these, if there are others among them."""
        names = [field.name for field in fields(cls) if field.name in tensors]
        arrays = {name: tensors[name].cpu().numpy() for name in names}
        known: dict[str, Any] = {n: x if x.ndim else int(x) for n, x in arrays.items()}
        return cls(**known)

    def to_file(self) -> dict[str, Tensor]:
        """Return what a fitted model keeps of its templates, which have unit norm there."""
        one = self.normalized()
        numbers = {"overlap": torch.tensor(one.overlap), "distance": torch.tensor(one.distance)}
        arrays = {f: getattr(one, name) for f, name in _IN_FILES.items()}
        if not one.gain.any():  # as without an M step of the templates
            del arrays["row_gain"]
        return {f: torch.from_numpy(array) for f, array in arrays.items() if array.size} | numbers

    @classmethod
    def from_file(
        cls,
        tensors: Mapping[str, Tensor],
        baseline: np.ndarray,
        coefficients: np.ndarray | None = None,
    ) -> EventModel:
        """Return the model that `to_file` has stored, with templates of typical amplitude one."""
        known = {name: tensors[f] for f, name in _IN_FILES.items() if f in tensors}
        arrays: dict[str, Any] = {n: x.double().cpu().numpy() for n, x in known.items()}
        count, n_rows, length = arrays["templates"].shape
        original, speed = (tensors.get(name, torch.ones(count)) for name in ("original", "speed"))
        rate = speed.double().abs().cpu().numpy()
        model = cls(
            **{"timing": np.zeros((count, 0)), "gain": np.zeros((count, n_rows)), **arrays},
            original=original.long().cpu().numpy() if "speed" in tensors else np.full(count, -1),
            duration=np.ceil(length * rate.min(initial=1.0) / rate - 1e-6).astype(np.int64),
            baseline=baseline,
            nonnegative=np.zeros(count, bool),
            overlap=int(tensors["overlap"]),
            distance=int(tensors["distance"]),
            coefficients=coefficients,
        )
        return model.scaled(np.median(np.abs(model.amplitudes), axis=1)[:, None, None])

    def _each(self, change: Callable[[np.ndarray], np.ndarray], names: Sequence[str]) -> EventModel:
        parts: dict[str, Any] = {name: change(getattr(self, name)) for name in names}
        return replace(self, **parts)


#: Names of arrays in files of models, where templates are what is known best.
_IN_FILES = {
    "templates": "templates",
    "template_variance": "variance",
    "event_amplitudes": "amplitudes",
    "event_rates": "rates",
    "smoothness": "smoothness",
    "shrinkage": "shrinkage",
    "cost": "cost",
    "row_gain": "gain",
    "event_timing": "timing",
}
#: Without them a file is not whole.
NEEDED_IN_FILES = _IN_FILES.keys() - {"event_timing", "row_gain"} | {"overlap", "distance"}


def hats(n_knots: int, n_onsets: int) -> np.ndarray:
    """Return functions (knot, onset) that are 1 at a knot, 0 at others, and linear between."""
    at, knots = np.arange(n_onsets), np.linspace(0, n_onsets - 1, n_knots)
    return np.stack([np.interp(at, knots, one) for one in np.eye(n_knots)])
