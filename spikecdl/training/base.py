"""What a trainer is given, and what it returns: observations, penalty weights, problem, state."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from spikecdl.model.covariates import Covariates
from spikecdl.model.dictionary import ConvDictionary
from spikecdl.model.families import Family
from spikecdl.model.penalties import Penalty
from spikecdl.solvers import threads
from spikecdl.solvers.events import Events
from spikecdl.training.steps import Steps

COVARIATES = "covariates"  # name of their coefficients among the tensors of units
_FEWER_LEVELS = 25.0  # precision of windows' levels around a drift, relative to that without
PART = 2**22  # numbers in memory at once, as floats


@dataclass(frozen=True)
class Observations:
    """Windows of counts as the model sees them.

    Counts stay integers as they are stored, in memory or in a file.  `parts` converts a few trials
    at a time to the precision and device of the baseline, so that memory does not grow with the
    number of trials.

    Parameters
    ----------
    y : tensor, shape (trial, unit, channel, bin)
        Observations.  Shared layout: one channel; joint layout: one unit whose channels are the
        recorded units.
    mask : tensor of bool, same shape
        False where nothing was observed.
    family : Family
        With every parameter known.
    baseline : tensor of real numbers, shape (trial, unit, channel, 1) or that of ``y``
        Linear predictor without events, including the offset of covariates.
    learn_baseline : bool
        Whether the constant level of each window is to be fitted with the templates.
    shown : tensor of bool, shape (bin,), optional
        False in bins that are hidden, as if nothing had been observed there.
    covariates : Covariates, optional
        Spike history and drift, whose coefficients are to be fitted with the templates.
    """

    y: Tensor
    mask: Tensor
    family: Family
    baseline: Tensor
    learn_baseline: bool
    shown: Tensor | None = None
    covariates: Covariates | None = None

    def take(self, index: Tensor | slice) -> Observations:
        """Keep some of the trials."""
        return self._map(lambda tensor: tensor[index])

    def load(self) -> Observations:
        """Return real numbers, in the precision and on the device of the baseline."""
        mask = self.mask.to(self.baseline.device)
        return replace(
            self,
            y=self.y.to(self.baseline),
            mask=mask if self.shown is None else mask & self.shown.to(mask.device),
            family=self.family.map(lambda values: values.to(self.baseline)),
            shown=None,
        )

    def parts(self, copies: int = 1) -> Iterator[tuple[slice, Observations]]:
        """Yield the slice of each part of the trials, and the part, loaded.

        A part has about `PART` numbers in all when ``copies`` are made of each.
        """
        count = max(1, PART // copies * len(self.y) // max(1, self.y.numel()))
        for first in range(0, len(self.y), count):
            part = slice(first, min(first + count, len(self.y)))
            yield part, self.take(part).load()

    @property
    def is_one_part(self) -> bool:
        """Whether all observations fit in one part."""
        return self.y.numel() <= PART

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the arithmetic."""
        return self.baseline.dtype

    @property
    def level_precision(self) -> float:
        """Precision of the normal prior of each window's level; infinite if it is not learned.

        The standard deviation is the family's `eta_scale`, or with drift, which explains how
        windows differ, a fifth of it.
        """
        if not self.learn_baseline:
            return math.inf
        return (_FEWER_LEVELS if self.drifts else 1.0) / self.family.eta_scale**2

    @property
    def drifts(self) -> bool:
        """Whether a drift explains how windows differ."""
        return self.covariates is not None and self.covariates.drift is not None

    def rows(self) -> Observations:
        """Lay trials and units along one window axis: (window, channel, bin)."""
        return self._map(lambda tensor: tensor.flatten(0, -3))

    def rows_of(self, part: slice) -> tuple[int, int]:
        """Return the first row of some trials, and the first row after them."""
        rows = math.prod(self.y.shape[1:-2])
        return rows * part.start, rows * part.stop

    def totals(self) -> Tensor:
        """Sum observations and exposures over bins: (2, trial, unit, channel, 1), float64."""
        sums = []
        for _, some in self.rows().parts():
            both = torch.stack([some.y, some.family.exposure(some.y)])
            both = torch.where(some.mask, both, 0)
            sums.append(both.sum(-1, keepdim=True, dtype=torch.float64))
        return torch.cat(sums, 1).reshape(2, *self.y.shape[:-1], 1)

    def mean_baseline(self) -> Tensor:
        """Return the linear predictor of the mean rate of every window, or with drift every unit.

        Counts have one spike added, in the exposure of one spike at the unit's rate (with half a
        spike added), so that silent windows stay finite.  A signal not observed has the mean of its
        unit.
        """
        family, sums = self.family, self.totals()
        total, exposure = sums.to(self.dtype)
        all_total, all_exposure = sums.sum(1, keepdim=True).to(self.dtype)
        if not family.integer_valued:
            unit = all_total / all_exposure.clamp(min=1)
            return family.link(torch.where(exposure > 0, total / exposure.clamp(min=1), unit))
        unit = (all_total + 0.5) / (all_exposure + 1)
        if self.drifts:
            return family.link_rate(unit).expand_as(total).clone()
        return family.link_rate((total + 1) / (exposure + 1 / unit))

    def of_trials(self, penalty: Penalty, part: slice | Tensor) -> Penalty:
        """Return the penalty of some trials; weights are one number or have trials first."""
        return penalty.map(lambda weight: weight[part] if weight.ndim else weight)

    def group_size(self, penalty: Penalty) -> int:
        """Return how many neighbouring rows the penalty groups: the units of a trial, or 1."""
        return self.y.shape[-3] if penalty.grouped else 1

    def to(self, target: torch.dtype | torch.device | str) -> Observations:
        """Change the precision of real numbers, or move to a device."""
        real = isinstance(target, torch.dtype)
        return self._map(lambda t: t.to(target) if t.is_floating_point() or not real else t)

    def cost(self, eta: Tensor) -> Tensor:
        """Return the negative log likelihood, up to a constant, of the observed bins."""
        return torch.where(self.mask, self.family.cost(self.y, eta), 0).sum()

    def residual(self, eta: Tensor) -> Tensor:
        """Return its derivative with respect to ``-eta``, zero where nothing was observed."""
        return torch.where(self.mask, self.family.residual(self.y, eta), 0)

    def _map(self, change) -> Observations:  # type: ignore[no-untyped-def]
        return replace(
            self,
            y=change(self.y),
            mask=change(self.mask),
            family=self.family.map(change),
            baseline=change(self.baseline),
            covariates=None if self.covariates is None else self.covariates.map(change),
        )


class Weight(ABC):
    """Rule that sets the weight of a penalty for given observations and templates."""

    #: Levels, multiples of the weight, among which a trainer may choose by held-out likelihood.
    levels: ClassVar[tuple[float, ...]] = (1.0,)

    def at(self, level: float) -> Weight:
        """Return the rule at one of its levels."""
        return self

    @abstractmethod
    def __call__(
        self, penalty: Penalty, dictionary: ConvDictionary, data: Observations, baseline: Tensor
    ) -> Penalty:
        """Return the penalty with its weight: one number, or one per window and template."""


@dataclass(frozen=True)
class UniversalThreshold(Weight):
    r"""Largest score expected of pure noise, times a level; one weight per window and template.

    The largest of N normal scores is about :math:`\sigma\sqrt{2\log N}`, hence

    .. math:: \lambda = \sqrt{2 \log(C N_{\text{onset}})}
              \Bigl(\sum_{n,k} h_{n,k}^2\, c_n(\mu)\Bigr)^{1/2}

    with c the curvature at the baseline, summed over channels n and bins k.  Levels below 1 are
    for events too frequent for this threshold.

    References
    ----------
    Donoho and Johnstone, Biometrika 81, 1994 (Gaussian family).
    """

    level: float = 1.0
    levels: ClassVar[tuple[float, ...]] = (1.0, 0.7, 0.5, 0.35)

    def at(self, level: float) -> UniversalThreshold:
        return UniversalThreshold(level)

    def __call__(
        self, penalty: Penalty, dictionary: ConvDictionary, data: Observations, baseline: Tensor
    ) -> Penalty:
        spread = score_spread(dictionary, data, baseline)
        n_onsets = data.y.shape[-1] - dictionary.support[0] + 1
        threshold = penalty.universal_threshold(spread, spread.shape[-2] * n_onsets)
        return penalty.with_weight(self.level * threshold)


@dataclass(frozen=True)
class Fraction(Weight):
    """Fraction of `lambda_max`; one weight for all windows."""

    fraction: float

    def __call__(
        self, penalty: Penalty, dictionary: ConvDictionary, data: Observations, baseline: Tensor
    ) -> Penalty:
        return penalty.with_weight(self.fraction * lambda_max(penalty, dictionary, data, baseline))


@dataclass(frozen=True)
class Fixed(Weight):
    """Weight of an earlier fit, in the unit of scores."""

    weight: float

    def __call__(
        self, penalty: Penalty, dictionary: ConvDictionary, data: Observations, baseline: Tensor
    ) -> Penalty:
        return penalty.with_weight(self.weight)


def score_spread(dictionary: ConvDictionary, data: Observations, baseline: Tensor) -> Tensor:
    """Return the standard deviation of scores at the baseline, (..., template, 1)."""
    templates, means = dictionary.templates.detach(), []
    for part, some in data.parts():
        curvature = some.family.curvature(some.y, baseline[part].expand_as(some.y))
        observed = some.mask.sum(-1).clamp(min=1)
        means.append(torch.where(some.mask, curvature, 0).sum(-1) / observed)  # (..., channel)
    return (torch.cat(means) @ templates.square().sum(-1).mT).sqrt()[..., None]


@torch.no_grad()
def lambda_max(
    penalty: Penalty, dictionary: ConvDictionary, data: Observations, baseline: Tensor
) -> Tensor:
    """Return the smallest weight for which all codes of these observations are zero."""
    highest = []
    for part, some in data.parts(len(dictionary.templates)):
        residual = some.residual(baseline[part].expand_as(some.y))
        highest.append(penalty.lambda_max(dictionary.adjoint(residual)))
    return torch.stack(highest).max()


@dataclass(frozen=True)
class Problem:
    """Observations and the model to be learned from them.

    ``length`` is in bins; ``weight`` sets that of the penalty; ``generator``, on the CPU, is all
    randomness; ``steps`` are those before the first epoch.  ``unit_tensors`` are those of `Learned`
    for these units, in their order; before the fit, coefficients of covariates alone.
    """

    data: Observations
    n_templates: int
    length: int
    penalty: Penalty
    weight: Weight
    n_epochs: int
    generator: torch.Generator
    unit_tensors: Mapping[str, Tensor] = field(default_factory=dict)
    steps: Steps = field(default_factory=Steps)

    @property
    def size(self) -> int:
        """Number of observations times templates."""
        return self.data.y.numel() * self.n_templates

    @property
    def code_shape(self) -> tuple[int, int]:
        """Templates and onsets of a window."""
        return self.n_templates, self.data.y.shape[-1] - self.length + 1

    def history_filter(self) -> Tensor | None:
        """Return the filter of each unit's history, (unit, lag), if there is one."""
        covariates = self.data.covariates
        return None if covariates is None else covariates.filters(self.unit_tensors[COVARIATES])

    def codes(self, events: Events) -> Tensor:
        """Return codes (trial, unit, template, onset)."""
        n_trials, n_units = self.data.y.shape[:2]
        codes = events.to_codes((n_trials * n_units, *self.code_shape))
        return codes.reshape(n_trials, n_units, *self.code_shape)

    def mean(self, dictionary: ConvDictionary, events: Events, baseline: Tensor) -> Tensor:
        """Return expected observations (window, channel, bin), in double precision."""
        parts = self.data.rows().parts(self.n_templates)
        found = (dictionary, events, baseline)
        return torch.cat([some.family.mean(self.eta(*found, p).double()) for p, some in parts])

    def eta(
        self, dictionary: ConvDictionary, events: Events, baseline: Tensor, part: slice
    ) -> Tensor:
        """Return the linear predictor (window, channel, bin) of some windows."""
        mine = events.within(part.start, part.stop)
        codes = mine.to_codes((part.stop - part.start, *self.code_shape))
        return dictionary(codes).detach() + baseline.flatten(0, 1)[part]

    def weight_used(self, dictionary: ConvDictionary, level: float) -> tuple[float, float]:
        """Return the median weight at a level as a fraction of lambda_max, and itself."""
        data = self.windows()
        model = (self.penalty, dictionary, data, data.baseline)
        top = lambda_max(*model)
        used = torch.as_tensor(self.weight.at(level)(*model).weight, dtype=top.dtype).median()
        return float(used / top) if top > 0 else 1.0, float(used)

    def windows(self) -> Observations:
        """Lay trials and units along one axis, unless the penalty needs them apart."""
        return self.data if self.penalty.grouped else self.data.rows()


@dataclass
class Learned:
    """State of training: what makes the model, and what else is needed to go on.

    Parameters
    ----------
    tensors : dict
        ``templates`` (template, channel, bin) and whatever else `Trainer.encode` needs.  Each is a
        number, or has templates as its first axis, so that templates can be reordered.  All are
        saved with the model.
    state : dict
        Tensors that only training needs, such as the baseline of the training data or the state
        of an optimiser.  They are saved in checkpoints alone.
    epoch : int
        Epochs completed.
    history : list of dict
        One record per epoch.
    converged : bool
    unit_tensors : dict
        Tensors with one row per unit of the recording, in the order of the units, such as their
        baselines.  They are saved with the model; `Problem.unit_tensors` brings them to
        `Trainer.encode`.
    """

    tensors: dict[str, Tensor]
    state: dict[str, Tensor] = field(default_factory=dict)
    epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    converged: bool = False
    unit_tensors: dict[str, Tensor] = field(default_factory=dict)

    def model(self, n_templates: int) -> dict[str, Tensor]:
        """Return the tensors in single precision, checked to be numbers or to have rows."""
        for name, value in self.tensors.items():
            if value.ndim and len(value) != n_templates:
                raise ValueError(
                    f"`trainer`: its tensor {name!r} {tuple(value.shape)} must be a number or have "
                    f"one row per template ({n_templates})"
                )
        return {name: value.float() for name, value in self.tensors.items()}

    def of_units(self, n_units: int) -> dict[str, Tensor]:
        """Return the tensors of units in single precision, checked to have a row per unit."""
        for name, value in self.unit_tensors.items():
            if value.shape[:1] != (n_units,):
                raise ValueError(
                    f"`trainer`: its tensor of units {name!r} {tuple(value.shape)} must have one "
                    f"row per unit ({n_units})"
                )
        return {name: value.float() for name, value in self.unit_tensors.items()}

    def warn_if_unsettled(self, any_events: bool, lower: str | None) -> None:
        """Warn the caller of an estimator's `fit` if it found no events or has not settled."""
        if not any_events:
            remedy = f"lower `{lower}`, or " if lower else ""
            problem = (
                "no events were found: all codes are zero and the templates mean nothing; "
                f"{remedy}use larger bins or more data"
            )
        elif not self.converged:
            problem = f"training did not converge in {self.epoch} epochs; raise `n_epochs`"
        else:
            return
        warnings.warn(problem, NotConvergedWarning, stacklevel=3)


class NotConvergedWarning(UserWarning):
    """Training stopped before it converged, or found no events."""


#: Called after every epoch with the state of training.
OnEpoch = Callable[[Learned], None]


class Trainer(ABC):
    """Way of learning templates, and of coding observations with them: a dataclass of settings."""

    #: Name in the registry and in files.
    name: ClassVar[str]
    default_epochs: ClassVar[int]
    uses_penalty: ClassVar[bool] = True

    @abstractmethod
    def fit(self, problem: Problem, learned: Learned | None, on_epoch: OnEpoch) -> Learned:
        """Train, or go on from ``learned``."""

    @abstractmethod
    def encode(self, problem: Problem, tensors: dict[str, Tensor]) -> tuple[Events, Tensor]:
        """Return events and baseline of the problem's data with `Learned.tensors`.

        `Problem.unit_tensors` are those that the fit has learned of the units of these data.

        Windows of events are numbered as in ``data.rows()``.  How codes are found is the trainer's:
        the same templates give the debiased amplitudes of `Alternating`, the output of the layers
        of `Unrolled`, or the penalised solution of `Implicit`.
        """

    def coded(self, problem: Problem, tensors: dict[str, Tensor]) -> tuple[Events, Tensor]:
        """Return what `encode` does in single precision, with tensors on any device."""
        moved = {n: value.to(problem.data.baseline.device) for n, value in tensors.items()}
        with threads.for_size(problem.size):
            events, baseline = self.encode(problem, moved)
        return events.with_amplitude(events.amplitude.float()), baseline.float()

    def config(self) -> dict[str, Any]:
        """Describe the trainer in plain values."""
        return {"name": self.name, **{f.name: getattr(self, f.name) for f in fields(self)}}  # type: ignore[arg-type]
