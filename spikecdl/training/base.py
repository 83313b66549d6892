"""What a trainer is given, and what it returns: observations, penalty weights, problem, state."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from spikecdl import validation
from spikecdl.model.dictionary import ConvDictionary
from spikecdl.model.observations import Observations
from spikecdl.model.penalties import Penalty
from spikecdl.solvers import parallel
from spikecdl.solvers.events import Events
from spikecdl.training.steps import Steps

COVARIATES = "covariates"  # name of their coefficients among the tensors of units


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
        allowed = data.onsets_of(dictionary.support[0])
        if allowed is not None:  # of the window that has most
            n_onsets = int(allowed.sum(-1).max())
        threshold = penalty.universal_threshold(spread, spread.shape[-2] * n_onsets)
        return penalty.with_weight(self.level * threshold)


@dataclass(frozen=True)
class Fraction(Weight):
    """Fraction of `lambda_max`; one weight for all windows."""

    fraction: float

    def __call__(self, penalty: Penalty, *about: Any) -> Penalty:
        return penalty.with_weight(self.fraction * lambda_max(penalty, *about))


@dataclass(frozen=True)
class Fixed(Weight):
    """Weight of an earlier fit, in the unit of scores."""

    weight: float

    def __call__(self, penalty: Penalty, *about: Any) -> Penalty:
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
        score = dictionary.adjoint(some.residual(baseline[part].expand_as(some.y)))
        allowed = some.onsets_of(dictionary.support[0])
        score = score if allowed is None else score * allowed.unsqueeze(-2)
        highest.append(penalty.lambda_max(score))
    return torch.stack(highest).max()


@dataclass(frozen=True)
class Choices:
    """Ingredients that a model may have beside events.

    ``values`` are those to try of each, in seconds or as a shape; ``data`` returns the observations
    with some ingredients, given the value of each.
    """

    values: Mapping[str, Sequence[float]]
    data: Callable[[Mapping[str, float]], Observations]


@dataclass(frozen=True)
class Problem:
    """Observations and the model to be learned from them.

    ``length`` is in bins; ``weight`` sets that of the penalty; ``generator``, on the CPU, is all
    randomness; ``steps`` are those before the first epoch.  ``unit_tensors`` are those of `Learned`
    for these units, in their order; before the fit, coefficients of covariates alone.
    ``nonnegative`` says which of the templates are kept from falling below zero; none if empty.
    ``choices`` are ingredients that a trainer may add, if it `Trainer.chooses`; ``levels`` (unit,
    channel) the baselines of a fit, from which those of these data are sought.
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
    nonnegative: tuple[bool, ...] = ()
    choices: Choices | None = None
    levels: np.ndarray | None = None

    @property
    def bounded(self) -> tuple[bool, ...]:
        """Which of the templates are kept from falling below zero."""
        return self.nonnegative or self.n_templates * (False,)

    @property
    def in_order(self) -> bool:
        """Whether templates have signs or bounds of their own, so that their order matters."""
        return self.penalty.signs_differ or len(set(self.bounded)) > 1

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
        rows = self.data.rows()
        mean = torch.empty(rows.y.shape, dtype=torch.float64, device=baseline.device)
        for part, bins, some in rows.pieces():
            eta = self.eta(dictionary, events, baseline, part, bins)
            mean[part, :, bins] = some.family.mean(eta.double())
        return mean

    def eta(
        self, dictionary: ConvDictionary, events: Events, baseline: Tensor, part: slice, bins: slice
    ) -> Tensor:
        """Return the linear predictor (window, channel, bin) of some windows, and bins of them."""
        return predictor(dictionary, events, baseline.flatten(0, 1), part, bins, self.code_shape[1])

    def weight_used(self, dictionary: ConvDictionary, level: float) -> tuple[float, float]:
        """Return the median weight at a level as a fraction of lambda_max, and itself.

        Windows in which nothing was observed have no weight.
        """
        data = self.windows()
        model = (self.penalty, dictionary, data, data.baseline)
        top = lambda_max(*model)
        weights = torch.as_tensor(self.weight.at(level)(*model).weight, dtype=top.dtype)
        used = weights[weights > 0].median() if (weights > 0).any() else weights.median()
        return float(used / top) if top > 0 else 1.0, float(used)

    def windows(self) -> Observations:
        """Lay trials and units along one axis, unless the penalty needs them apart."""
        return self.data if self.penalty.grouped else self.data.rows()


def predictor(
    dictionary: ConvDictionary,
    events: Events,
    baseline: Tensor,
    part: slice,
    bins: slice,
    n_onsets: int,
) -> Tensor:
    """Return the linear predictor (window, channel, bin) of some windows, and bins of them.

    ``baseline`` has windows first, in which there are ``n_onsets``.
    """
    n_templates, _, length = dictionary.templates.shape
    first, last = max(0, bins.start - length + 1), min(bins.stop, n_onsets)
    mine = events.within(part.start, part.stop)
    mine = mine.take((mine.onset >= first) & (mine.onset < last)).shifted(-first)
    codes = mine.to_codes((part.stop - part.start, n_templates, last - first))
    level = baseline[part]
    level = level if level.shape[-1] == 1 else level[..., bins]
    signal = dictionary(codes).detach()
    return signal[..., bins.start - first : bins.stop - first] + level


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
        shared = {name: x for name, x in self.tensors.items() if not x.ndim}
        return _with_rows(self.tensors, n_templates, "template", shared)

    def of_units(self, n_units: int) -> dict[str, Tensor]:
        """Return the tensors of units in single precision, checked to have a row per unit."""
        return _with_rows(self.unit_tensors, n_units, "unit")

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


def _with_rows(
    tensors: Mapping[str, Tensor], number: int, what: str, shared: Collection[str] = ()
) -> dict[str, Tensor]:
    """Return tensors in single precision; ValueError if one that is not shared lacks rows."""
    for name, value in tensors.items():
        if name not in shared and value.shape[:1] != (number,):
            raise ValueError(
                f"`trainer`: its tensor {name!r} {tuple(value.shape)} must have one row per {what} "
                f"({number})"
            )
    return {name: value.float() for name, value in tensors.items()}


class FitWarning(UserWarning):
    """Something casts doubt on a fit."""


class NotConvergedWarning(FitWarning):
    """Training stopped before it converged, or found no events."""


#: Called after every epoch with the state of training.
OnEpoch = Callable[[Learned], None]


class Trainer(ABC):
    """Way of learning templates, and of coding observations with them: a dataclass of settings."""

    #: Name in the registry and in files.
    name: ClassVar[str]
    default_epochs: ClassVar[int]
    uses_penalty: ClassVar[bool] = True
    #: Whether `fit` and `encode` keep events to `Observations.onsets`.
    takes_onsets: ClassVar[bool] = False
    #: Whether `fit` chooses among `Problem.choices`, and takes bursts.
    chooses: ClassVar[bool] = False

    def bounded(self, n_templates: int) -> tuple[bool, ...]:
        """Return which of the templates are kept from falling below zero; see `Alternating`.

        Raises ValueError if there is not one value for each.
        """
        value = getattr(self, "nonnegative", False)
        values = validation.yes_or_no("nonnegative", value)
        return validation.per_template("nonnegative", value, values, n_templates)

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

    def settled(self, tensors: Mapping[str, Tensor]) -> Trainer:
        """Return the trainer with what it has chosen in a fit with `Learned.tensors`."""
        return self

    def coded(self, problem: Problem, tensors: dict[str, Tensor]) -> tuple[Events, Tensor]:
        """Return what `encode` does in single precision, with tensors on any device."""
        moved = {n: value.to(problem.data.baseline.device) for n, value in tensors.items()}
        with parallel.for_size(problem.size):
            events, baseline = self.encode(problem, moved)
        return events.with_amplitude(events.amplitude.float()), baseline.float()

    def config(self) -> dict[str, Any]:
        """Describe the trainer in plain values."""
        return {"name": self.name, **{f.name: getattr(self, f.name) for f in fields(self)}}  # type: ignore[arg-type]
