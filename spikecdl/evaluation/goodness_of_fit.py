"""Goodness of fit by time rescaling, with a Kolmogorov-Smirnov test per unit."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.special import ndtri_exp
from scipy.stats import kstwo

from spikecdl import validation
from spikecdl.data.binned import BinnedSpikes
from spikecdl.data.truth import store
from spikecdl.evaluation.heldout import Estimator
from spikecdl.model.families import FAMILIES, CountingProcess, Family
from spikecdl.model.history import sample_in_time

if TYPE_CHECKING:
    import pandas as pd

    from spikecdl.data.results import Decomposition

_LEVEL = 0.05  # fraction of units outside the band under a correct model


@dataclass(frozen=True, eq=False, repr=False)
class TimeRescaling:
    """Rescaled intervals of each unit and their test; made by `time_rescaling`.

    Parameters
    ----------
    unit_ids : tuple
        Names of the units.
    intervals : tuple of ndarray
        Intervals of each unit in the order of time; see `rescaled_intervals`.
    distance, band, p_value : ndarray, shape (unit,)
        Kolmogorov-Smirnov distance of `uniforms` from the uniform distribution, nan without
        intervals; the distance that a correct model exceeds in 5 % of cases, about 1.36 / sqrt(n);
        and the probability of a distance at least as large under a correct model.
    """

    unit_ids: tuple[int | str, ...]
    intervals: tuple[np.ndarray, ...]
    distance: np.ndarray
    band: np.ndarray
    p_value: np.ndarray

    def __post_init__(self) -> None:
        store(self, "distance", "band", "p_value")
        for intervals in self.intervals:
            intervals.flags.writeable = False

    def __repr__(self) -> str:
        units = validation.counted(len(self.unit_ids), "unit")
        return f"TimeRescaling({units}, {self.inside.sum()} inside the {1 - _LEVEL:.0%} band)"

    @property
    def n_intervals(self) -> np.ndarray:
        """Number of intervals of each unit: its spikes and one more."""
        return np.array([len(intervals) for intervals in self.intervals])

    @property
    def inside(self) -> np.ndarray:
        """Whether each unit's distance is within its band; False without intervals."""
        return self.distance <= self.band

    @property
    def uniforms(self) -> tuple[np.ndarray, ...]:
        """1 - exp(-interval) of each interval: uniform on (0, 1) under a correct model."""
        return tuple(-np.expm1(-intervals) for intervals in self.intervals)

    @property
    def autocorrelation(self) -> np.ndarray:
        """Autocorrelation of normal scores, (unit, lag 1 to 20); nan for 20 intervals or fewer."""
        return np.array([_autocorrelation(intervals) for intervals in self.intervals])

    @property
    def autocorrelation_band(self) -> np.ndarray:
        """Bound exceeded by 5 % of autocorrelations of a correct model, 1.96 / sqrt(n), (unit,)."""
        return 1.96 / np.sqrt(np.maximum(self.n_intervals, 1))

    @property
    def p_holm(self) -> np.ndarray:
        """P-values corrected for the number of units tested, (unit,).

        Rejecting units below 5 % rejects any correct model among them with probability 5 % at most
        (Holm 1979, Scandinavian Journal of Statistics 6).
        """
        order = np.argsort(self.p_value)  # nan last
        tested = np.count_nonzero(~np.isnan(self.p_value))
        factor = np.maximum(tested - np.arange(len(order)), 1)
        corrected = np.empty(len(order))
        corrected[order] = np.maximum.accumulate(np.minimum(factor * self.p_value[order], 1))
        return corrected

    def table(self) -> pd.DataFrame:
        """Return a row per unit: n_intervals, distance, band, p_value, p_holm, inside."""
        import pandas as pd

        columns = ("n_intervals", "distance", "band", "p_value", "p_holm", "inside")
        index = pd.Index(self.unit_ids, name="unit")
        return pd.DataFrame({name: getattr(self, name) for name in columns}, index=index)


def time_rescaling(
    model: Estimator,
    counts: BinnedSpikes | np.ndarray,
    *,
    n_bootstrap: int = 0,
    refit: bool = False,
    random_state: int | None = 0,
) -> TimeRescaling:
    """Test whether spikes occur at the rate that a model predicts, unit by unit.

    `rescaled_intervals` turns counts into intervals. Band and p-value are those of given rates.
    A model with ``decompose`` is tested at events drawn from their posterior (`of_decomposition`);
    any other follows the noise of the counts, unless ``n_bootstrap`` compares it with drawn counts.

    Parameters
    ----------
    model : DCEA or any object with ``family`` and ``predict(counts)``
        A fitted model of counts; ``refit=True`` also needs ``fit(counts)``.
    counts : BinnedSpikes, or array of int (trial, unit, bin)
        Counts; an array has the bin size of the model.
    n_bootstrap : int
        Number of sets of counts drawn for comparison; 0 for none, at least 19 for a level of 5 %.
    refit : bool
        Whether to fit a copy of the model to each set, instead of only applying it.
    random_state : int or None
        Seed of the times of spikes within bins, and of the drawn counts.

    Raises
    ------
    TypeError
        If the model has no ``family`` or ``predict``.
    ValueError
        If the family is not one of counts, or cannot have the predicted mean.

    Examples
    --------
    >>> from spikecdl import DCEA, simulate
    >>> counts = simulate.simulate(n_units=2, same_events=True, random_state=3).pool()
    >>> model = DCEA(3, 0.05, "binomial", random_state=0).fit(counts)
    >>> time_rescaling(model, counts)
    TimeRescaling(2 units, 2 inside the 95% band)
    """
    if not hasattr(model, "predict") or not hasattr(model, "family"):
        raise TypeError(f"`model` ({type(model).__name__}) must have `predict` and `family`")
    validation.integer("n_bootstrap", n_bootstrap, minimum=0)
    rng = np.random.default_rng(random_state)
    if not isinstance(counts, BinnedSpikes):
        counts = BinnedSpikes.from_array(counts, getattr(model, "bin_size_", 1.0))
    if not n_bootstrap and hasattr(model, "decompose"):
        found = of_decomposition(model.decompose(counts), model.family, random_state=random_state)
        if found is not None:
            return found
    mean = model.predict(counts)
    family = resolved(getattr(model, "family_", model.family), counts, mean)
    result = rescale(counts, mean, family, random_state=rng)
    if not n_bootstrap:
        return result
    drawn = []
    mean, effect = np.where(counts.mask, mean, 0), getattr(model, "history_response_", None)
    if hasattr(model, "decompose"):
        effect = model.decompose(counts).history_filter
    for _ in range(n_bootstrap):
        values = np.where(counts.mask, draw_counts(mean, family, rng, counts.counts, effect), 0)
        others = replace(counts, counts=values, truth=None, past=None)
        judge = copy.deepcopy(model).fit(others) if refit else model
        intervals = rescaled_intervals(values, judge.predict(others), family, counts.mask, rng)
        drawn.append([_ks_distance(one) * math.sqrt(len(one)) for one in intervals])
    return _compared(result, np.sort(drawn, axis=0))


def rescale(
    counts: BinnedSpikes,
    mean: np.ndarray,
    family: str | Family,
    *,
    random_state: int | np.random.Generator | None = 0,
) -> TimeRescaling:
    """Test expected counts from any source, as `time_rescaling` does, which raises the same errors.

    Parameters
    ----------
    counts : BinnedSpikes
        Counts.
    mean : ndarray, shape (trial, unit, bin)
        Expected counts.
    family : str or Family
        Observation model; a binomial without ``n_trials`` takes them from the counts.
    random_state : int, Generator or None
        Seed of the times of spikes within bins.

    Examples
    --------
    >>> counts = BinnedSpikes.from_array(np.random.default_rng(0).poisson(0.5, (4, 1, 500)))
    >>> rescale(counts, np.full(counts.shape, 0.7), "poisson")
    TimeRescaling(1 unit, 0 inside the 95% band)
    """
    family = resolved(family, counts, mean)
    intervals = rescaled_intervals(counts.counts, mean, family, counts.mask, random_state)
    distance = np.array([_ks_distance(one) for one in intervals])
    number, same = np.unique([len(one) for one in intervals], return_inverse=True)
    number = np.maximum(number, 1)  # without intervals, the distance is nan
    band = np.where(np.isnan(distance), np.nan, kstwo.isf(_LEVEL, number)[same])
    p_value = kstwo.sf(distance, number[same])
    return TimeRescaling(counts.unit_ids, tuple(intervals), distance, band, p_value)


def of_decomposition(
    decomposition: Decomposition, family: str | Family, *, random_state: int | None = 0
) -> TimeRescaling | None:
    """Test the rates of a decomposition, as `time_rescaling` tests the model that made it.

    Rates are those of events drawn from their posterior, where the decomposition has one: if the
    model is right, spikes and such events have its joint distribution, and intervals are
    exponential however many events are too weak to be found (pivotal quantities at draws: Yuan and
    Johnson, Biometrics 68, 2012).  Returns None for a real-valued signal, which has no spikes.

    Examples
    --------
    >>> from spikecdl import DCEA, simulate
    >>> counts = simulate.simulate(n_units=2, same_events=True, random_state=3).pool()
    >>> model = DCEA(3, 0.05, "binomial", random_state=0).fit(counts)
    >>> of_decomposition(model.decompose(counts), model.family)
    TimeRescaling(2 units, 2 inside the 95% band)
    """
    if not decomposition.family.integer_valued:
        return None
    mean = expected_counts(decomposition)
    return rescale(decomposition.counts, mean, family, random_state=random_state)


def expected_counts(decomposition: Decomposition) -> np.ndarray:
    """Return expected counts (trial, unit, bin), 0 where not observed; see `of_decomposition`."""
    counts, mean = decomposition.counts, decomposition.drawn_mean
    if mean is None:
        mean = decomposition.rate * counts.n_pooled * counts.bin_size
    # rounding could exceed n_trials
    return np.where(counts.mask, mean, 0).astype(np.float32, copy=False)


def rescaled_intervals(
    y: ArrayLike,
    mean: ArrayLike,
    family: Family,
    mask: ArrayLike | None = None,
    random_state: int | np.random.Generator | None = 0,
) -> list[np.ndarray]:
    r"""Turn the counts of each unit into intervals that are exponential under a correct model.

    The count of a bin is the number of spikes of a process that, after n spikes, fires at rate
    a + b n, for a duration d (`Family.counting_process`). Given the count, the times v of these
    spikes are independent with density proportional to exp(b v) on 0 < v < d, and are drawn from
    it. In rescaled time, the integral of the rate, the spikes are then exactly a Poisson process of
    rate one, for bins of any size.

    With one Bernoulli trial per bin this is the discrete-time rescaling of Haslinger, Pipa and
    Brown: an empty bin adds q = -log(1 - p), the bin of a spike -log(1 - r (1 - exp(-q))) with r
    uniform, and the next interval begins in the bin after it.

    Rescaled time does not advance in bins that were not observed, and continues from trial to
    trial. The first interval begins with the first trial. The last, censored by the end of the
    recording, is completed by an exponential draw, so that no interval is left out for being long.
    A unit has one interval more than spikes, in the order of time; one never observed has none.

    Parameters
    ----------
    y, mean : array_like, shape (trial, unit, bin)
        Counts and expected counts.
    family : Family
        Observation model with its ``n_trials``; tensors in it must broadcast to ``y``.
    mask : array_like of bool, shape (trial, unit, bin), optional
        False where nothing was observed.
    random_state : int, Generator or None
        Seed of the times of spikes within bins.

    Raises
    ------
    ValueError
        If shapes differ, the family is not one of counts, or it cannot have a count or mean.

    References
    ----------
    Haslinger, Pipa and Brown 2010, doi:10.1162/NECO_a_00015. Brown et al. 2002,
    doi:10.1162/08997660252741149.

    Examples
    --------
    >>> from spikecdl.model.families import Binomial
    >>> y = np.random.default_rng(0).random((1, 1, 10_000)) < 0.1
    >>> (intervals,) = rescaled_intervals(y, np.full(y.shape, 0.1), Binomial(n_trials=1))
    >>> len(intervals) - int(y.sum()), round(float(intervals.mean()), 1)
    (1, 1.0)
    """
    rng = np.random.default_rng(random_state)
    return [_intervals_of(*unit, rng) for unit in _by_unit(y, mean, family, mask)]


def resolved(family: str | Family, counts: BinnedSpikes, mean: np.ndarray) -> Family:
    """Return a family, given itself or by name, with what it lacks taken from counts and means."""
    family = validation.member("family", family, FAMILIES, Family)
    if family.has_n_trials:
        family = family.resolve(torch.as_tensor(np.array(counts.n_trials, dtype=float)))
    seen = (torch.as_tensor(y[counts.mask]).double() for y in (counts.counts, mean))
    return family if family.is_known else family.estimate(*seen)


def draw_counts(
    mean: np.ndarray,
    family: Family,
    rng: np.random.Generator,
    counts: np.ndarray | None = None,
    effect: np.ndarray | None = None,
) -> np.ndarray:
    """Draw counts with the given means (trial, unit, bin).

    If the means are those after some ``counts``, which have an ``effect`` (unit, lag) on eta, the
    counts that are drawn have it in their place.
    """
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    eta = family.link(torch.as_tensor(mean, dtype=torch.float64))
    if counts is None or effect is None or not effect.size:
        return family.sample(eta, generator).numpy().astype(np.int64)
    past = torch.as_tensor(effect, dtype=eta.dtype)
    for lag in range(1, min(past.shape[1], mean.shape[2] - 1) + 1):
        eta[..., lag:] -= past[:, [lag - 1]] * torch.tensor(counts[..., :-lag])
    return sample_in_time(family, eta, past, generator).numpy().astype(np.int64)


def _ks_distance(intervals: np.ndarray) -> float:
    """Return the KS distance of intervals from the exponential law; nan if there are none."""
    if not len(intervals):
        return math.nan
    expected, steps = -np.expm1(-np.sort(intervals)), np.arange(len(intervals) + 1) / len(intervals)
    return float(max((steps[1:] - expected).max(), (expected - steps[:-1]).max()))


def _compared(result: TimeRescaling, drawn: np.ndarray) -> TimeRescaling:
    """Return the result with band and p-value from sorted distances of drawn counts (set, unit).

    Distances are scaled by the square root of the number of intervals, which differs between sets.
    """
    root = np.sqrt(np.where(result.n_intervals > 0, result.n_intervals, np.nan))
    total = len(drawn) + 1
    p_value = (1 + (drawn >= result.distance * root).sum(axis=0)) / total
    rank = math.ceil((1 - _LEVEL) * total - 1e-9)  # of the distance exceeded in 5 % of cases
    limit = drawn[rank - 1] if rank < total else np.inf
    return replace(result, band=limit / root, p_value=np.where(root > 0, p_value, np.nan))


def _autocorrelation(intervals: np.ndarray, n_lags: int = 20) -> np.ndarray:
    if len(intervals) <= n_lags:
        return np.full(n_lags, np.nan)
    scores = -ndtri_exp(-np.maximum(intervals, np.finfo(float).tiny))
    scores = scores - scores.mean()
    size = scores @ scores
    return np.array([scores[lag:] @ scores[:-lag] for lag in range(1, n_lags + 1)]) / size


def _by_unit(
    y: ArrayLike, mean: ArrayLike, family: Family, mask: ArrayLike | None
) -> Iterator[tuple[np.ndarray, CountingProcess]]:
    """Yield the counts of each unit and their process, in its observed bins (bin,)."""
    counts, means = np.asarray(y), np.asarray(mean)
    if counts.ndim != 3:
        raise ValueError(f"`y` {counts.shape} must have shape (trial, unit, bin)")
    observed = np.broadcast_to(True, counts.shape) if mask is None else np.asarray(mask, dtype=bool)
    for name, array in (("mean", means), ("mask", observed)):
        validation.shaped(name, array, counts.shape, "y")
    kind = type(family).__name__
    for unit in range(counts.shape[1]):
        here = observed[:, unit]
        of_unit = family.map(lambda v: v.expand(counts.shape)[:, unit][torch.tensor(here)])  # noqa: B023
        values = torch.as_tensor(counts[:, unit][here].astype(float))
        expected = torch.as_tensor(means[:, unit][here], dtype=torch.float64)
        process = of_unit.counting_process(expected)
        if process is None:
            raise ValueError(
                f"`family` (={kind}) is not one of counts; time rescaling needs spikes"
            )
        outside, support = of_unit.invalid(values)
        impossible = torch.isnan(of_unit.link(expected)) | ~torch.isfinite(expected)
        for name, entries, bad, why in (
            ("y", values, outside, f"{kind} takes {support}"),
            ("mean", expected, impossible, f"{kind} cannot have it"),
        ):
            if bad.any():
                first = int(bad.nonzero()[0])
                trial, bin_ = np.argwhere(here)[first]
                raise ValueError(
                    f"`{name}` (={entries[first]:g} at trial {trial}, unit {unit}, bin {bin_}) is "
                    f"impossible: {why}"
                )
        yield values.numpy().astype(np.int64), process


def _intervals_of(y: np.ndarray, process: CountingProcess, rng: np.random.Generator) -> np.ndarray:
    """Rescaled intervals of one unit, from counts and counting processes of shape (bin,)."""
    start, duration, step = process.start.numpy(), process.duration.numpy(), process.step
    bins = np.repeat(np.arange(len(y)), y)
    # times within bins, with density proportional to exp(step time)
    time, length = rng.random(len(bins)), duration[bins]
    time = step * np.log1p(time * np.expm1(step * length)) if step else time * length
    time = time[np.lexsort((time, bins))]
    rank = np.arange(len(bins)) - (np.cumsum(y) - y)[bins]  # spikes before it in its bin
    previous = np.where(rank > 0, np.roll(time, 1), 0)
    last = np.zeros(len(y))
    last[bins] = time  # repeated indices keep the last value
    # rescaled time of each bin that follows its last spike, summed over bins
    after = np.append(0, np.cumsum((start + step * y) * (duration - last)))
    waits = np.diff(after[bins], prepend=0) + (start[bins] + step * rank) * (time - previous)
    censored = after[-1] - (after[bins[-1]] if len(bins) else 0)
    return np.append(waits, censored + rng.exponential()) if len(y) else waits


__dir__ = validation.names_of(__name__)
