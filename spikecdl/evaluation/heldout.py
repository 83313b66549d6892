"""Scores of any model on counts that it has not seen: split counts, hidden bins, other trials.

A model is anything with ``predict(counts)``: expected counts (trial, unit, bin), given what the
counts show.  Where their mask is False, it must expect what as many recorded trials as the unit
pools in its other bins would count.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from spikecdl import config, conversion, validation
from spikecdl.data import BinnedSpikes
from spikecdl.data.results import store
from spikecdl.evaluation import deviance, metrics
from spikecdl.model.families import FAMILIES, Family
from spikecdl.training import Observations

_LAYOUT = conversion.LAYOUTS["shared"]


class Model(Protocol):
    """What is scored: `DCEA`, its rivals, or an object of your own."""

    def predict(self, counts: Any, /) -> np.ndarray:
        """Return expected counts (trial, unit, bin)."""


@dataclass(frozen=True, eq=False, repr=False)
class HeldOut:
    r"""Counts, what was expected of them by a model that had not seen them, and its scores.

    With the deviance D of the model's expected counts, and D0 of the null model's,

    .. math:: \text{deviance explained} = 1 - \frac{D}{D_0}, \qquad
              \text{bits per spike} = \frac{D_0 - D}{2 \log 2 \, \sum y}

    both 0 for a model no better than the null model, a constant rate per unit.

    Parameters
    ----------
    counts : BinnedSpikes
        The counts that were scored.
    mean : ndarray, shape (trial, unit, bin)
        Expected counts under the model.
    null_mean : ndarray, shape (trial, unit, bin)
        Expected counts at the constant rate of each unit in the data that the model was given, with
        half a spike added.
    family : Family
        Observation model, with parameters of shapes that broadcast to the counts.

    Raises
    ------
    ValueError
        If shapes do not fit each other, or something expected is not finite.

    Examples
    --------
    >>> from spikecdl import Poisson
    >>> counts = BinnedSpikes.from_array(np.array([[0, 2, 0, 2]]))
    >>> found = HeldOut(counts, np.array([[[0.5, 1.5, 0.5, 1.5]]]), np.ones((1, 1, 4)), Poisson())
    >>> found
    HeldOut(1 trial, 1 unit, 4 bins: deviance explained 0.585, 0.585 bits per spike)
    """

    counts: BinnedSpikes
    mean: np.ndarray
    null_mean: np.ndarray
    family: Family

    def __post_init__(self) -> None:
        """Check that the parts fit each other."""
        store(self, "mean", "null_mean")
        for name in ("mean", "null_mean"):
            array = getattr(self, name)
            if array.shape != self.counts.shape:
                raise ValueError(
                    f"`{name}` {array.shape} must have the shape of `counts` {self.counts.shape}"
                )
            if not np.isfinite(array[self.counts.mask]).all():
                raise ValueError(f"`{name}` must be finite wherever something was observed")

    def __repr__(self) -> str:
        """Describe in one line."""
        sizes = zip(self.counts.shape, ("trial", "unit", "bin"), strict=True)
        shape = ", ".join(f"{size} {name}{'s' * (size != 1)}" for size, name in sizes)
        return (
            f"HeldOut({shape}: deviance explained {self.deviance_explained:.3f}, "
            f"{self.bits_per_spike:.3f} bits per spike)"
        )

    @property
    def deviance_explained(self) -> float:
        """Part of the null model's deviance that the model explains; nan if there is none."""
        return float(self._explained(None))

    @property
    def deviance_explained_per_unit(self) -> np.ndarray:
        """The same for each unit (unit,)."""
        return self._explained((0, 2))

    @property
    def bits_per_spike(self) -> float:
        """Log likelihood gained over the null model, in bits for each spike.

        nan without spikes, and for real-valued signals.
        """
        return float(self._bits(None))

    @property
    def bits_per_spike_per_unit(self) -> np.ndarray:
        """The same for each unit (unit,)."""
        return self._bits((0, 2))

    def _explained(self, axis: tuple[int, ...] | None) -> Any:
        y, mask = self.counts.counts, self.counts.mask
        return metrics.deviance_explained(y, self.mean, self.null_mean, self.family, mask, axis)

    def _bits(self, axis: tuple[int, ...] | None) -> Any:
        y, mask = self.counts.counts, self.counts.mask
        left = metrics.deviance(y, self.mean, self.family, mask, axis)
        total = metrics.deviance(y, self.null_mean, self.family, mask, axis)
        spikes = np.where(self.counts.is_counts, y.sum(axis), 0)
        gain = (np.asarray(total) - left) / (2 * np.log(2))
        return np.divide(gain, spikes, out=np.full(gain.shape, np.nan), where=spikes > 0)


def rates(model: Model, seen: BinnedSpikes, family: str | Family) -> np.ndarray:
    """Return expected counts per recorded trial, and those at a constant rate.

    Returns
    -------
    ndarray, shape (2, trial, unit, bin)
        The model's, given ``seen``; the null model's, given the same.
    """
    mean = np.asarray(model.predict(seen), dtype=float)
    if mean.shape != seen.shape:
        raise ValueError(
            f"`model` expects counts of shape {mean.shape}; `predict` must return the shape of "
            f"what it is given {seen.shape}"
        )
    data = observed(seen, family)
    constant = deviance.null_rate(data, prior=0.5) * data.family.exposure(data.y)
    return np.stack([mean, _LAYOUT.squeeze(constant)]) / conversion.trials_everywhere(seen)


def held_out(counts: BinnedSpikes, rates: np.ndarray, family: str | Family) -> HeldOut:
    """Score counts with `rates` of shape (2, trial, unit, bin), or (2, 1, unit, bin) for all."""
    resolved = observed(counts, family).family
    resolved = resolved.map(lambda values: values.squeeze(_LAYOUT.axis))
    mean, null_mean = rates * counts.n_pooled
    return HeldOut(counts, mean, null_mean, resolved)


def observed(counts: BinnedSpikes, family: str | Family) -> Observations:
    """Check that the family can have these counts, and fill in what only they know of it."""
    chosen = validation.member("family", family, FAMILIES, Family)
    return conversion.observe(counts, chosen, _LAYOUT, "learned", config.device("cpu"))


def transfer(
    model: Model, seen: BinnedSpikes, unseen: BinnedSpikes, family: str | Family
) -> HeldOut:
    r"""Score what a model expects, given some trials, on other trials of the same condition.

    Codes and baselines come from ``seen``.  With m the expected counts, and n the recorded trials
    that are pooled in a bin, the rate per recorded trial of every unit and bin is

    .. math:: r = \sum_k m_k \Big/ \sum_k n_k

    over the trials k of ``seen``, one or many, pooled or not.  On every trial of ``unseen`` the
    count n r is scored.

    Parameters
    ----------
    model : object with ``predict``
        A fitted model (see the module).
    seen, unseen : BinnedSpikes
        Of the same units, bins and condition.
    family : str or Family
        Observation model.

    Returns
    -------
    HeldOut
        The null model is the constant rate of each unit in ``seen``.

    Raises
    ------
    ValueError
        If units or bins differ, or the model does not return what a model should.

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
    >>> transfer(Average(), seen.pool(), unseen, "binomial")
    HeldOut(20 trials, 1 unit, 200 bins: deviance explained 0.205, 0.706 bits per spike)
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
    """Score what a model expects of bins that it has not seen, given the others.

    Every ``n_folds``-th bin is hidden in turn, so that each observed bin is scored once.

    Parameters
    ----------
    model : object with ``predict``
        A fitted model (see the module).
    counts : BinnedSpikes
    family : str or Family
        Observation model.
    n_folds : int
        2 or more.

    Returns
    -------
    HeldOut
        The null model is the constant rate of each unit in the bins that were not hidden.

    Raises
    ------
    ValueError
        If the model does not return what a model should.

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
    for fold in range(min(n_folds, counts.n_bins)):
        hidden = np.arange(counts.n_bins) % n_folds == fold
        seen = conversion.hide(counts, hidden)
        rate[..., hidden] = rates(model, seen, family)[..., hidden]
    return held_out(counts, rate, family)


@dataclass(frozen=True, eq=False)
class Split:
    """Counts in two independent parts that share codes and rates; made by `split`.

    Attributes
    ----------
    seen, unseen : BinnedSpikes
        The parts.
    family : Family
        Observation model.
    ratio : float
        Expected count of a recorded trial in ``unseen`` over that in ``seen``: 1 unless single
        trials were split.
    """

    seen: BinnedSpikes
    unseen: BinnedSpikes
    family: Family
    ratio: float = 1.0

    def score(self, model: Model) -> HeldOut:
        """Score what a model expects, given ``seen``, on ``unseen``."""
        given = rates(model, self.seen, self.family)
        return held_out(self.unseen, self.ratio * given, self.family)


def split(
    counts: BinnedSpikes,
    family: str | Family,
    share: float = 0.5,
    random_state: int | None = None,
) -> Split:
    r"""Split counts into two parts that are independent given the rate: count splitting.

    Of a bin with n recorded trials, :math:`n_1 = \mathrm{round}(\mathrm{share} \cdot n)` go to
    the first part (at least one to each), and of its y spikes

    .. math:: y_1 \sim \mathrm{Hypergeometric}(y \text{ of } M,\ M_1), \qquad
              y_1 \sim \mathrm{Binomial}(y,\ n_1 / n)

    for binomial counts, M being the Bernoulli trials of the bin and :math:`M_1 = M n_1 / n`, and
    for Poisson counts.  If :math:`y \sim \mathrm{Binomial}(M, p)` then
    :math:`y_1 \sim \mathrm{Binomial}(M_1, p)` and
    :math:`y - y_1 \sim \mathrm{Binomial}(M - M_1, p)`, independent; likewise for Poisson.
    A bin of one recorded trial among pooled ones goes to the first part as a whole.

    Where no bin pools trials, the sub_bins of binomial bins are split in the same way, and Poisson
    counts are thinned: each spike goes to the first part with probability ``share``.  A trial
    then has that part of its rate in the first part, so a model must find the level of the rate in
    the counts it is given.

    Parameters
    ----------
    counts : BinnedSpikes
    family : str or Family
        "binomial" or "poisson".
    share : float
        Part of the trials that models see, between 0 and 1.
    random_state : int, optional
        Seed.

    Raises
    ------
    ValueError
        If counts of the family have no independent parts, or the bins cannot be divided.

    References
    ----------
    Neufeld, Dharamshi, Gao and Witten, *Data thinning for convolution-closed distributions*, J
    Mach Learn Res 25, 2024, arXiv:2301.07276.

    Examples
    --------
    >>> import numpy as np
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
            "`family` fixes n_trials, of which each part has only some; give the counts "
            "`sub_bins`, and `family` by name"
        )
    y, pooled, whole = counts.counts, counts.n_pooled, counts.sub_bins
    trials, sub_bins, ratio = (pooled, pooled), (whole, whole), 1.0
    total, part = counts.n_trials, None
    if pooled.max() > 1:
        trials = _parts(pooled, share)
        part = trials[0] * whole
    elif not model.has_n_trials:
        ratio, total, part = (1 - share) / share, np.ones_like(pooled), np.array(share)
    elif whole > 1:
        sub_bins = _parts(whole, share)
        ratio, part = sub_bins[1] / sub_bins[0], pooled * sub_bins[0]
    else:
        raise ValueError(
            "`counts` have one Bernoulli trial in each bin, which cannot be split; pool trials "
            "(`counts.pool()`), or score other trials (`transfer`)"
        )
    y_seen = model.split(y, total, part, np.random.default_rng(random_state))
    if y_seen is None:
        raise ValueError(
            f"`family` (={family!r}) has no `split`: its counts have no independent parts of the "
            "same family. Score hidden bins (`masked`) or other trials (`transfer`)"
        )
    return _divided(counts, model, y_seen, trials, sub_bins, ratio)


def _parts(number: Any, share: float) -> tuple[Any, Any]:
    """Split whole numbers: about a share, and the rest; at least 1 each, but 1 is not split."""
    number = np.asarray(number)
    first = np.rint(share * number).astype(int).clip(1, (number - 1).clip(min=1))
    first = np.minimum(first, number)
    return first, number - first


def _divided(
    counts: BinnedSpikes,
    family: Family,
    y_seen: np.ndarray,
    trials: tuple[np.ndarray, np.ndarray],
    sub_bins: tuple[int, int],
    ratio: float,
) -> Split:
    """Make both parts; the truth of whole trials is not that of parts of a trial."""
    whole = counts if counts.n_pooled.max() > 1 else replace(counts, truth=None)
    seen, unseen = (
        replace(whole, counts=y, mask=n_pooled > 0, n_pooled=n_pooled, sub_bins=int(each))
        for y, n_pooled, each in zip(
            (y_seen, counts.counts - y_seen), trials, sub_bins, strict=True
        )
    )
    return Split(seen, unseen, family, float(ratio))


__all__ = ["HeldOut", "Model", "Split", "masked", "split", "transfer"]
