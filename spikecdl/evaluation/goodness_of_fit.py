"""Goodness of fit by time rescaling, with a Kolmogorov-Smirnov test per unit."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from scipy.special import ndtri_exp

from spikecdl import validation
from spikecdl.data.binned import BinnedSpikes
from spikecdl.data.results import store
from spikecdl.evaluation import rescaling
from spikecdl.evaluation.rescaling import draw_counts, rescaled_intervals, resolved
from spikecdl.model.families import Family

if TYPE_CHECKING:
    import pandas as pd

    from spikecdl.data.results import Decomposition

LEVEL = 0.05
"""Significance level: fraction of units outside the band under a correct model."""

_LAGS = 20  # of the autocorrelation


class RateModel(Protocol):
    """A model that can be tested."""

    family: str | Family

    def predict(self, X: Any) -> np.ndarray:
        """Return expected counts, in the shape of the counts."""
        ...


@dataclass(frozen=True, eq=False, repr=False)
class TimeRescaling:
    """Rescaled intervals of each unit and their test; made by `time_rescaling`.

    Parameters
    ----------
    unit_ids : tuple
        Names of the units.
    intervals : tuple of ndarray
        Rescaled intervals of each unit in the order of time (see `rescaled_intervals`):
        independent and exponential with mean 1 under a correct model.
    distance : ndarray, shape (unit,)
        Kolmogorov-Smirnov distance of `uniforms` from the uniform distribution; nan without
        intervals.
    band : ndarray, shape (unit,)
        Distance that a correct model exceeds in 5 % of cases, about 1.36 / sqrt(n).
    p_value : ndarray, shape (unit,)
        Probability of a distance at least as large under a correct model.
    """

    unit_ids: tuple[int | str, ...]
    intervals: tuple[np.ndarray, ...]
    distance: np.ndarray
    band: np.ndarray
    p_value: np.ndarray

    def __post_init__(self) -> None:
        """Make the arrays read-only."""
        store(self, "distance", "band", "p_value")
        for intervals in self.intervals:
            intervals.flags.writeable = False

    def __repr__(self) -> str:
        """Describe in one line."""
        units = validation.counted(len(self.unit_ids), "unit")
        return f"TimeRescaling({units}, {self.inside.sum()} inside the {1 - LEVEL:.0%} band)"

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
        """Autocorrelation of the normal scores of `uniforms` at lags 1 to 20, shape (unit, lag).

        nan for units with 20 intervals or fewer.
        """
        return np.array([_autocorrelation(intervals) for intervals in self.intervals])

    @property
    def autocorrelation_band(self) -> np.ndarray:
        """Bound exceeded by 5 % of autocorrelations of a correct model, 1.96 / sqrt(n), (unit,)."""
        return 1.96 / np.sqrt(np.maximum(self.n_intervals, 1))

    def table(self) -> pd.DataFrame:
        """Return a row per unit: n_intervals, distance, band, p_value, inside."""
        import pandas as pd

        columns = ("n_intervals", "distance", "band", "p_value", "inside")
        index = pd.Index(self.unit_ids, name="unit")
        return pd.DataFrame({name: getattr(self, name) for name in columns}, index=index)


def time_rescaling(
    model: RateModel,
    counts: BinnedSpikes | np.ndarray,
    *,
    n_bootstrap: int = 0,
    refit: bool = False,
    random_state: int | None = 0,
) -> TimeRescaling:
    """Test whether spikes occur at the rate that a model predicts, unit by unit.

    `spikecdl.evaluation.rescaling.rescaled_intervals` turns counts into intervals. Band and p-value
    are those of a model that does not depend on the counts. A model that was fitted to them, or
    finds its events in them, follows their noise; set ``n_bootstrap`` to compare with counts drawn
    from the model instead.

    Parameters
    ----------
    model : DCEA or any model of counts
        With ``family`` and ``predict(counts)``; also ``fit(counts)`` for ``refit=True``.
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

    References
    ----------
    Haslinger, Pipa and Brown 2010, doi:10.1162/NECO_a_00015.

    Examples
    --------
    >>> from spikecdl import DCEA, simulate
    >>> counts = simulate.simulate(n_units=2, same_events=True, random_state=0).pool()
    >>> model = DCEA(3, 0.05, "binomial", random_state=0).fit(counts)
    >>> time_rescaling(model, counts)
    TimeRescaling(2 units, 2 inside the 95% band)
    """
    if not hasattr(model, "predict") or not hasattr(model, "family"):
        raise TypeError(f"`model` ({type(model).__name__}) must have `predict` and `family`")
    n_sets = validation.integer("n_bootstrap", n_bootstrap, minimum=0)
    rng = np.random.default_rng(random_state)
    if not isinstance(counts, BinnedSpikes):
        counts = BinnedSpikes.from_array(counts, getattr(model, "bin_size_", 1.0))
    mean = model.predict(counts)
    result = rescale(counts, mean, model.family, random_state=rng)
    if not n_sets:
        return result
    drawn, family = [], resolved(model.family, counts.n_trials)
    for _ in range(n_sets):
        values = draw_counts(np.where(counts.mask, mean, 0), family, rng)
        others = replace(counts, counts=np.where(counts.mask, values, 0), truth=None)
        judge = copy.deepcopy(model).fit(others) if refit else model  # type: ignore[attr-defined]
        found = rescaled_intervals(others.counts, judge.predict(others), family, others.mask, rng)
        drawn.append([rescaling.distance(one) * math.sqrt(len(one)) for one in found])
    return _compared(result, np.sort(drawn, axis=0))


def rescale(
    counts: BinnedSpikes,
    mean: np.ndarray,
    family: str | Family,
    *,
    random_state: int | np.random.Generator | None = 0,
) -> TimeRescaling:
    """Test expected counts from any source; see `time_rescaling`.

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

    Raises
    ------
    ValueError
        If ``mean`` has another shape, or the family is not one of counts or cannot have that mean.

    Examples
    --------
    >>> counts = BinnedSpikes.from_array(np.random.default_rng(0).poisson(0.5, (4, 1, 500)))
    >>> rescale(counts, np.full(counts.shape, 0.5), "poisson")
    TimeRescaling(1 unit, 1 inside the 95% band)
    >>> rescale(counts, np.full(counts.shape, 0.7), "poisson")
    TimeRescaling(1 unit, 0 inside the 95% band)
    """
    family = resolved(family, counts.n_trials)
    intervals = rescaled_intervals(counts.counts, mean, family, counts.mask, random_state)
    distance = [rescaling.distance(one) for one in intervals]
    number = [len(one) for one in intervals]
    return TimeRescaling(
        unit_ids=counts.unit_ids,
        intervals=tuple(intervals),
        distance=np.array(distance),
        band=np.array([rescaling.critical_distance(LEVEL, n) for n in number]),
        p_value=np.array(list(map(rescaling.p_value, distance, number))),
    )


def of_decomposition(
    decomposition: Decomposition, family: str | Family, *, random_state: int | None = 0
) -> TimeRescaling | None:
    """Test the rates of a decomposition, as `time_rescaling` tests the model that made it.

    Parameters
    ----------
    decomposition : Decomposition
        Made by ``model.decompose(counts)``.
    family, random_state
        See `rescale`.

    Returns
    -------
    TimeRescaling or None
        None for a real-valued signal, which has no spikes.

    Examples
    --------
    >>> from spikecdl import DCEA, simulate
    >>> counts = simulate.simulate(n_units=2, same_events=True, random_state=0).pool()
    >>> model = DCEA(3, 0.05, "binomial", random_state=0).fit(counts)
    >>> of_decomposition(model.decompose(counts), model.family)
    TimeRescaling(2 units, 2 inside the 95% band)
    """
    counts = decomposition.counts
    if not resolved(family, counts.n_trials).integer_valued:
        return None
    mean = np.where(counts.mask, decomposition.rate, 0) * counts.n_pooled * counts.bin_size
    mean = mean.astype(np.float32)  # rounding could otherwise exceed n_trials
    return rescale(counts, mean, family, random_state=random_state)


def _compared(result: TimeRescaling, drawn: np.ndarray) -> TimeRescaling:
    """Return the result with band and p-value from sorted distances of drawn counts (set, unit).

    Distances are scaled by the square root of the number of intervals, which differs between sets.
    """
    root, total = np.sqrt(result.n_intervals), len(drawn) + 1
    p_value = (1 + (drawn >= result.distance * root).sum(axis=0)) / total
    rank = math.ceil((1 - LEVEL) * total - 1e-9)  # of the distance exceeded in 5 % of cases
    limit = drawn[rank - 1] if rank < total else np.full(len(root), np.inf)
    tested = root > 0
    return replace(
        result,
        band=np.divide(limit, root, out=np.full(len(root), np.nan), where=tested),
        p_value=np.where(tested, p_value, np.nan),
    )


def _autocorrelation(intervals: np.ndarray) -> np.ndarray:
    """Autocorrelation of the normal scores of intervals."""
    if len(intervals) <= _LAGS:
        return np.full(_LAGS, np.nan)
    scores = -ndtri_exp(-np.maximum(intervals, np.finfo(float).tiny))
    scores = scores - scores.mean()
    size = scores @ scores
    return np.array([scores[lag:] @ scores[:-lag] for lag in range(1, _LAGS + 1)]) / size
