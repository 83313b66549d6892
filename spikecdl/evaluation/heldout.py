"""Scores of any model on counts that it has not seen: split counts, hidden bins, other trials."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch

from spikecdl import config, conversion, validation
from spikecdl.data import BinnedSpikes
from spikecdl.data.results import Fitted
from spikecdl.data.truth import store
from spikecdl.evaluation import deviance
from spikecdl.model.families import FAMILIES, Family
from spikecdl.model.history import History
from spikecdl.training import Observations, Trainer

SHARED = config.LAYOUTS["shared"]  # every unit of every trial is a window


class Model(Protocol):
    """A model to score: `DCEA`, a comparison method, or any object with ``predict``."""

    def predict(self, counts: Any, /) -> np.ndarray:
        """Return expected counts (trial, unit, bin).

        Bins that were not observed have as many recorded trials as the unit pools in other bins.
        """


class Estimator(Model, Protocol):
    """A model that can be fitted."""

    family: str | Family

    def fit(self, X: Any, /) -> Any: ...


class TemplateModel(Fitted, Estimator, Protocol):
    """A `DCEA`; for its arguments, attributes and methods see there."""

    template_length: float
    history: float | str | History | None
    drift: float | str | None
    bursts: float | str | None
    trainer_: str | Trainer
    history_: list[dict[str, Any]]
    converged_: bool

    def get_params(self, deep: bool = True) -> dict[str, Any]: ...

    def evidence(self, X: Any, per_unit: bool = False) -> np.ndarray: ...

    def resampled_templates(
        self, X: Any, n_resamples: int, seed: int, draw: bool = True
    ) -> Iterator[np.ndarray]: ...


class Scores:
    """Scores made of the ``deviances`` (2, trial, unit) of a model and its null model in counts."""

    counts: BinnedSpikes
    deviances: Any

    @property
    def deviance_explained(self) -> float:
        """Fraction of the null model's deviance that the model explains; nan if that is 0."""
        return float(deviance.fraction_explained(*self.deviances.sum((1, 2))))

    @property
    def deviance_explained_per_unit(self) -> np.ndarray:
        """Deviance explained of each unit, shape (unit,)."""
        return deviance.fraction_explained(*self.deviances.sum(1))

    @property
    def bits_per_spike(self) -> float:
        """Log-likelihood gain over the null model in bits per spike; nan for signals."""
        model, null = self.deviances.sum((1, 2))
        return float(deviance.bits_gained(model, null, self.n_spikes.sum()))

    @property
    def bits_per_spike_per_unit(self) -> np.ndarray:
        """Bits per spike of each unit, shape (unit,)."""
        model, null = self.deviances.sum(1)
        return deviance.bits_gained(model, null, self.n_spikes)

    @property
    def n_spikes(self) -> np.ndarray:
        """Spikes of each unit, shape (unit,); none in a signal."""
        return self.counts.counts.sum((0, 2)) * self.counts.is_counts


@dataclass(frozen=True, eq=False, repr=False)
class HeldOut(Scores):
    """Scores of a model on counts that it had not seen; made by `masked`, `split` and `transfer`.

    See `spikecdl.metrics.deviance_explained` and `spikecdl.metrics.bits_per_spike`.  Both scores
    are 0 for a model no better than the null model, a constant rate per unit.

    Parameters
    ----------
    counts : BinnedSpikes
        The counts that were scored.
    mean, null_mean : ndarray, shape (trial, unit, bin)
        Finite expected counts under the model, and at the constant rate of each unit in the data
        given to the model, with half a spike added.
    family : Family
        Observation model; parameters that are tensors must broadcast to the counts.

    Examples
    --------
    >>> from spikecdl import Poisson
    >>> counts = BinnedSpikes.from_array(np.array([[0, 2, 0, 2]]))
    >>> HeldOut(counts, np.array([[[0.5, 1.5, 0.5, 1.5]]]), np.ones((1, 1, 4)), Poisson())
    HeldOut(1 trial, 1 unit, 4 bins: deviance explained 0.585, 0.585 bits per spike)
    """

    counts: BinnedSpikes
    mean: np.ndarray
    null_mean: np.ndarray
    family: Family

    def __post_init__(self) -> None:
        store(self, "mean", "null_mean")
        for name in ("mean", "null_mean"):
            array = getattr(self, name)
            validation.shaped(name, array, self.counts.shape, "counts")
            if not np.isfinite(array[self.counts.mask]).all():
                raise ValueError(f"`{name}` must be finite wherever something was observed")

    def __repr__(self) -> str:
        sizes = zip(self.counts.shape, ("trial", "unit", "bin"), strict=True)
        shape = ", ".join(validation.counted(size, name) for size, name in sizes)
        return (
            f"HeldOut({shape}: deviance explained {self.deviance_explained:.3f}, "
            f"{self.bits_per_spike:.3f} bits per spike)"
        )

    @cached_property
    def deviances(self) -> np.ndarray:
        """Deviances of the model and of the null model, shape (2, trial, unit)."""
        y, mask, means = self.counts.counts, self.counts.mask, (self.mean, self.null_mean)
        return np.stack([deviance.deviance(y, mean, self.family, mask, 2) for mean in means])


@dataclass(frozen=True, eq=False)
class HiddenBins(Scores):
    """Scores of hidden bins as `masked` finds them, but without rates, which may be too large."""

    counts: BinnedSpikes
    deviances: np.ndarray


def rates(model: Model, seen: BinnedSpikes, family: str | Family) -> np.ndarray:
    """Return counts per recorded trial that model and null model expect, (2, trial, unit, bin)."""
    mean = np.asarray(model.predict(seen), dtype=float)
    if mean.shape != seen.shape:
        raise ValueError(
            f"`model` predicts counts of shape {mean.shape}; `predict` must return the shape of "
            f"its argument {seen.shape}"
        )
    data = observed(seen, family)
    constant = deviance.null_rate(data, prior=0.5) * data.family.exposure(data.y)
    return np.stack([mean, SHARED.squeeze(constant)]) / conversion.trials_everywhere(seen)


def held_out(counts: BinnedSpikes, rates: np.ndarray, family: str | Family) -> HeldOut:
    """Score counts against `rates`, (2, trial, unit, bin) or (2, 1, unit, bin) for all trials."""
    resolved = observed(counts, family).family
    resolved = resolved.map(lambda values: values.squeeze(SHARED.axis))
    mean, null_mean = rates * counts.n_pooled
    return HeldOut(counts, mean, null_mean, resolved)


def observed(counts: BinnedSpikes, family: str | Family, baseline: Any = "learned") -> Observations:
    """Return counts as `conversion.observe` does, in the shared layout and double precision."""
    chosen = validation.member("family", family, FAMILIES, Family)
    data = conversion.observe(counts, chosen, SHARED, baseline, torch.device("cpu"))
    y = torch.from_numpy(SHARED.expand(counts.counts.astype(np.float64)))
    return replace(data.to(torch.float64).load(), y=y)


def transfer(
    model: Model, seen: BinnedSpikes, unseen: BinnedSpikes, family: str | Family
) -> HeldOut:
    r"""Score the prediction from some trials on other trials of the same condition.

    With the expected counts m_k of trial k of ``seen``, in which n_k recorded trials are pooled,
    the rate per recorded trial of every unit and bin is :math:`r = \sum_k m_k / \sum_k n_k`.
    Every trial of ``unseen``, in which n are pooled, is scored against the expected count n r.

    Parameters
    ----------
    model : Model
        A fitted model.  Its codes and baselines, and the null model, come from ``seen``.
    seen, unseen : BinnedSpikes
        Counts of the same units, bins and condition.
    family : str or Family
        Observation model.

    Raises
    ------
    ValueError
        If units or bins differ, or the model does not return the shape of ``seen``.

    Examples
    --------
    >>> rate = np.where(np.arange(200) % 20 < 5, 0.6, 0.1)
    >>> counts = BinnedSpikes.from_array(np.random.default_rng(0).binomial(1, rate, (60, 200)))
    >>> class Average:
    ...     def predict(self, counts):
    ...         return (counts.counts + 0.5) / (counts.n_pooled + 1) * counts.n_pooled
    >>> seen, unseen = counts.select(trials=slice(40)), counts.select(trials=slice(40, 60))
    >>> transfer(Average(), seen.pool(), unseen.pool(), "binomial")
    HeldOut(1 trial, 1 unit, 200 bins: deviance explained 0.749, 0.706 bits per spike)
    """
    for name in ("unit_ids", "n_bins", "bin_size", "t_start"):
        one, other = getattr(seen, name), getattr(unseen, name)
        if one != other:
            raise ValueError(
                f"`seen` and `unseen` must have the same {name}, not {one!r} and {other!r}"
            )
    weights = np.broadcast_to(conversion.trials_everywhere(seen), (2, *seen.shape))
    rate = np.average(rates(model, seen, family), axis=1, weights=weights, keepdims=True)
    return held_out(unseen, rate, family)


def masked(model: Model, counts: BinnedSpikes, family: str | Family, n_folds: int = 4) -> HeldOut:
    """Score the prediction of hidden bins from the other bins.

    Every ``n_folds``-th bin is hidden in turn, so that each observed bin is scored once.  The null
    model is the constant rate of each unit in the other bins.

    Parameters
    ----------
    model : Model
        A fitted model, which must return the shape of the counts.
    counts : BinnedSpikes
        Counts to score.
    family : str or Family
        Observation model.
    n_folds : int
        Number of parts, 2 or more.

    Examples
    --------
    >>> class Flat:
    ...     def predict(self, counts):
    ...         return np.full(counts.shape, counts.counts[counts.mask].mean())
    >>> y = np.random.default_rng(0).poisson(0.3, size=(5, 100))
    >>> masked(Flat(), BinnedSpikes.from_array(y), "poisson")
    HeldOut(5 trials, 1 unit, 100 bins: deviance explained -0.000, -0.000 bits per spike)
    """
    validation.integer("n_folds", n_folds, minimum=2)
    rate = np.zeros((2, *counts.shape))
    for hidden in conversion.hidden_in_turn(counts.n_bins, n_folds):
        seen = conversion.hide(counts, hidden)
        rate[..., hidden] = rates(model, seen, family)[..., hidden]
    return held_out(counts, rate, family)


@dataclass(frozen=True, eq=False)
class Split:
    """Counts in two independent parts with the same codes and rates; made by `split`.

    The ``ratio`` is the expected count per recorded trial in ``unseen`` divided by that in
    ``seen``: 1 unless single trials were split.
    """

    seen: BinnedSpikes
    unseen: BinnedSpikes
    family: Family
    ratio: float = 1.0

    def score(self, model: Model) -> HeldOut:
        """Score the prediction from ``seen`` on ``unseen``."""
        predicted = rates(model, self.seen, self.family)
        return held_out(self.unseen, self.ratio * predicted, self.family)


def split(
    counts: BinnedSpikes, family: str | Family, share: float = 0.5, random_state: int | None = None
) -> Split:
    r"""Split counts into two parts that are independent given the rate: count splitting.

    Of the n recorded trials of a bin, :math:`n_1 = \mathrm{round}(\mathrm{share} \cdot n)` go to
    the first part (each part gets at least one), and of its y spikes

    .. math:: y_1 \sim \mathrm{Hypergeometric}(y \text{ of } M,\ M_1), \qquad
              y_1 \sim \mathrm{Binomial}(y,\ n_1 / n)

    for binomial counts, with M Bernoulli trials in the bin and :math:`M_1 = M n_1 / n`, and for
    Poisson counts; both parts are counts of the same family.  A bin of one recorded trial among
    pooled ones goes to the first part as a whole.

    If no bin pools trials, the sub-bins of binomial bins are split in the same way, and Poisson
    counts are thinned: each spike goes to the first part with probability ``share``, which scales
    the rate of the first part, so a model must estimate its baseline from the counts it is given.

    Parameters
    ----------
    counts : BinnedSpikes
        Counts to split.
    family : str or Family
        Observation model with a ``split``: binomial, Poisson, or a family of your own.
    share : float
        Fraction of the trials in the first part, between 0 and 1.
    random_state : int, optional
        Seed.

    Raises
    ------
    ValueError
        If the counts have no independent parts in the family, or the bins cannot be divided.

    References
    ----------
    Neufeld et al. 2024, *Data thinning for convolution-closed distributions*, arXiv:2301.07276.

    Examples
    --------
    >>> y = np.random.default_rng(0).binomial(1, 0.3, size=(30, 200))
    >>> halves = split(BinnedSpikes.from_array(y).pool(), "binomial", random_state=0)
    >>> int(halves.seen.n_pooled.max()), int(halves.unseen.n_pooled.max())
    (15, 15)
    """
    model = validation.member("family", family, FAMILIES, Family)
    if not 0 < validation.real("share", share) < 1:
        raise ValueError(f"`share` (={share!r}) must lie between 0 and 1")
    observed(counts, model)  # refuses counts that the family cannot have
    if model.has_n_trials and model.n_trials is not None:  # type: ignore[attr-defined]
        raise ValueError(
            f"`family` (={model}) fixes n_trials, but each part has fewer; set `sub_bins` of the "
            "counts and pass `family` by name"
        )
    y, pooled = counts.counts, counts.n_pooled
    trials, sub_bins, ratio = (pooled, pooled), (counts.sub_bins, counts.sub_bins), 1.0
    total, part = counts.n_trials, None
    if pooled.max() > 1:
        trials = _divide(pooled, share)
        part = trials[0] * counts.sub_bins
    elif not model.has_n_trials:
        ratio, total, part = (1 - share) / share, np.ones_like(pooled), np.array(share)
    elif counts.sub_bins > 1:
        sub_bins = _divide(counts.sub_bins, share)
        ratio, part = float(sub_bins[1] / sub_bins[0]), pooled * sub_bins[0]
    else:
        raise ValueError(
            "`counts` have one Bernoulli trial in each bin, which cannot be split; pool "
            "trials, or score other trials (`transfer`)"
        )
    y_seen = model.split(y, total, part, np.random.default_rng(random_state))
    if y_seen is None:
        raise ValueError(
            f"`family` (={family!r}) has no `split`: its counts have no independent parts of the "
            "same family; score hidden bins (`masked`) or other trials (`transfer`)"
        )
    counts = replace(counts, past=None)
    if pooled.max() <= 1:  # the truth does not hold for parts of a trial
        counts = replace(counts, truth=None)
    seen, unseen = (
        replace(counts, counts=y_part, mask=n_pooled > 0, n_pooled=n_pooled, sub_bins=int(each))
        for y_part, n_pooled, each in zip((y_seen, y - y_seen), trials, sub_bins, strict=True)
    )
    return Split(seen, unseen, model, ratio)


def _divide(number: Any, share: float) -> tuple[Any, Any]:
    """Divide whole numbers into about a share and the rest, each at least 1; 1 is not divided."""
    number = np.asarray(number)
    first = np.rint(share * number).astype(int).clip(1, (number - 1).clip(min=1))
    first = np.minimum(first, number)
    return first, number - first


__dir__ = validation.names_of(__name__)
