"""Whether spikes come as a model says: time rescaling, with a Kolmogorov-Smirnov test per unit."""

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
from spikecdl.evaluation.rescaling import draw_counts, known, rescaled_intervals
from spikecdl.model.families import Family

if TYPE_CHECKING:
    import pandas as pd

    from spikecdl.data.results import Decomposition

LEVEL = 0.05
"""Part of the units of a right model that lies outside its band."""

_LAGS = 20  # of the autocorrelation


class RateModel(Protocol):
    """What can be tested: a family, and expected counts of counts."""

    family: str | Family

    def predict(self, X: Any) -> np.ndarray:
        """Return expected counts, in the shape of the counts."""
        ...


@dataclass(frozen=True, eq=False, repr=False)
class TimeRescaling:
    """Intervals between spikes in rescaled time, and how far they are from what a model says.

    Made by `time_rescaling`.

    Parameters
    ----------
    unit_ids : tuple
        Names of the units.
    intervals : tuple of ndarray
        Of each unit, in the order of time: independent and exponential, with mean 1, if the model
        is right. The last one is completed by a draw. None of a unit that was not observed.
    distance : ndarray, shape (unit,)
        Kolmogorov-Smirnov distance of `uniforms` from the uniform law; nan without intervals.
    band : ndarray, shape (unit,)
        Distance that a right model exceeds in 5 % of all cases, about 1.36 / sqrt(n).
    p_value : ndarray, shape (unit,)
        Probability of a distance as large or larger if the model is right.
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
        count = len(self.unit_ids)
        return (
            f"TimeRescaling({count} unit{'s' * (count != 1)}, {int(self.inside.sum())} inside "
            f"the {1 - LEVEL:.0%} band)"
        )

    @property
    def n_intervals(self) -> np.ndarray:
        """Intervals of each unit, one more than its spikes."""
        return np.array([len(intervals) for intervals in self.intervals])

    @property
    def inside(self) -> np.ndarray:
        """Whether each unit's distance is within its band; False where there is none."""
        return self.distance <= self.band

    @property
    def uniforms(self) -> tuple[np.ndarray, ...]:
        """Intervals as 1 - exp(-interval): uniform from 0 to 1 if the model is right."""
        return tuple(-np.expm1(-intervals) for intervals in self.intervals)

    @property
    def autocorrelation(self) -> np.ndarray:
        """Autocorrelation of the normal scores of `uniforms`, shape (unit, lag), from lag 1.

        nan where there are no more intervals than lags.
        """
        return np.array([_autocorrelation(intervals) for intervals in self.intervals])

    @property
    def autocorrelation_band(self) -> np.ndarray:
        """What 5 % of the autocorrelations of a right model exceed, 1.96 / sqrt(n), (unit,)."""
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
    """Test whether spikes come at the rate that a model says, unit by unit.

    See `spikecdl.evaluation.rescaling.rescaled_intervals` for how counts become intervals. The
    band and the p-value are those of a model that does not know the counts. One that was fitted
    to them, or that finds its events in them, follows their noise; ``n_bootstrap`` then
    compares with as many sets of counts drawn from the model, each of which the model meets in
    the same way.

    Parameters
    ----------
    model : DCEA or any model of counts
        With ``family`` and ``predict(counts)``; ``fit(counts)`` if it is to be fitted again.
    counts : BinnedSpikes, or array of int (trial, unit, bin)
        Counts; an array has bins of the model's size.
    n_bootstrap : int
        Sets of counts to compare with, 0 for none; 19 at the least to tell 5 %.
    refit : bool
        Whether a copy of the model is fitted to each set, not only applied to it.
    random_state : int or None
        Seed of the places of spikes within bins, and of the sets.

    Returns
    -------
    TimeRescaling

    Raises
    ------
    TypeError
        If the model has no ``family`` or ``predict``.
    ValueError
        If the family is not one of counts, or the model expects what the family cannot.

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
    drawn = []
    for _ in range(n_sets):
        others = _drawn_like(counts, mean, model.family, rng)
        met = copy.deepcopy(model).fit(others) if refit else model  # type: ignore[attr-defined]
        drawn.append(rescale(others, met.predict(others), model.family, random_state=rng))
    return _compared(result, drawn)


def rescale(
    counts: BinnedSpikes,
    mean: np.ndarray,
    family: str | Family,
    *,
    random_state: int | np.random.Generator | None = 0,
) -> TimeRescaling:
    """Test expected counts, wherever they come from; see `time_rescaling`.

    Parameters
    ----------
    counts : BinnedSpikes
        Counts.
    mean : ndarray, shape (trial, unit, bin)
        Expected counts.
    family : str or Family
        Observation model; ``n_trials`` of a binomial is taken from the counts if it has none.
    random_state : int, Generator or None
        Of the places of spikes within bins.

    Returns
    -------
    TimeRescaling

    Raises
    ------
    ValueError
        If ``mean`` has another shape, the family is not one of counts, or cannot have that mean.

    Examples
    --------
    >>> counts = BinnedSpikes.from_array(np.random.default_rng(0).poisson(0.5, (4, 1, 500)))
    >>> rescale(counts, np.full(counts.shape, 0.5), "poisson")
    TimeRescaling(1 unit, 1 inside the 95% band)
    >>> rescale(counts, np.full(counts.shape, 0.7), "poisson")
    TimeRescaling(1 unit, 0 inside the 95% band)
    """
    resolved = known(family, counts.n_trials)
    intervals = rescaled_intervals(counts.counts, mean, resolved, counts.mask, random_state)
    distance = [rescaling.distance(-np.expm1(-one)) for one in intervals]
    number = [len(one) for one in intervals]
    return TimeRescaling(
        unit_ids=counts.unit_ids,
        intervals=tuple(intervals),
        distance=np.array(distance),
        band=np.array([rescaling.limit(LEVEL, n) for n in number]),
        p_value=np.array(list(map(rescaling.exceeded_by, distance, number))),
    )


def of_decomposition(
    decomposition: Decomposition, family: str | Family, *, random_state: int | None = 0
) -> TimeRescaling | None:
    """Test the rates of a decomposition: what `time_rescaling` finds for the model that made it.

    Parameters
    ----------
    decomposition : Decomposition
        Made by ``model.decompose(counts)``.
    family : str or Family
        That of the model.
    random_state : int or None
        Seed of the places of spikes within bins.

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
    if not known(family, counts.n_trials).integer_valued:
        return None
    mean = np.where(counts.mask, decomposition.rate, 0) * counts.n_pooled * counts.bin_size
    single = mean.astype(np.float32)  # as the model found it: no rounding above what can be
    return rescale(counts, single, family, random_state=random_state)


def _drawn_like(
    counts: BinnedSpikes, mean: np.ndarray, family: str | Family, rng: np.random.Generator
) -> BinnedSpikes:
    """Counts drawn from the model in the bins that were observed."""
    family = known(family, counts.n_trials)
    values = draw_counts(np.where(counts.mask, mean, 0), family, rng)
    return replace(counts, counts=np.where(counts.mask, values, 0), truth=None)


def _compared(result: TimeRescaling, drawn: list[TimeRescaling]) -> TimeRescaling:
    """Return a result whose band and p-value come from those of drawn counts.

    Distances are compared times the root of the number of intervals, which differs between sets.
    """
    others = np.sort([one.distance * np.sqrt(one.n_intervals) for one in drawn], axis=0)
    root = np.sqrt(result.n_intervals)
    total = len(drawn) + 1
    p_value = (1 + (others >= result.distance * root).sum(axis=0)) / total
    rank = math.ceil((1 - LEVEL) * total - 1e-9)  # of the set that a right model exceeds in 5 %
    limit = others[rank - 1] if rank < total else np.full(len(root), np.inf)
    tested = root > 0
    return replace(
        result,
        band=np.divide(limit, root, out=np.full(len(root), np.nan), where=tested),
        p_value=np.where(tested, p_value, np.nan),
    )


def _autocorrelation(intervals: np.ndarray) -> np.ndarray:
    """Autocorrelation at each lag of intervals made standard normal."""
    if len(intervals) <= _LAGS:
        return np.full(_LAGS, np.nan)
    scores = -ndtri_exp(-np.maximum(intervals, np.finfo(float).tiny))
    scores = scores - scores.mean()
    size = scores @ scores
    return np.array([scores[lag:] @ scores[:-lag] for lag in range(1, _LAGS + 1)]) / size
