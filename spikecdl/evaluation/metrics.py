"""How good a model is: templates, events and images against a known truth, rates against counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment

from spikecdl import validation
from spikecdl.evaluation.deviance import bits_per_spike, deviance, deviance_explained
from spikecdl.evaluation.template_metrics import (
    TemplateError,
    TemplateShape,
    event_table,
    rate_gain,
    template_error,
    template_shape,
    template_table,
)

if TYPE_CHECKING:
    import pandas as pd

    from spikecdl.data import Decomposition, Truth

__all__ = ["EventRates", "Recovery", "event_rates", "event_table", "psnr", "recovery"]
__all__ += ["bits_per_spike", "deviance", "deviance_explained", "rate_gain"]
__all__ += ["TemplateError", "TemplateShape", "template_error", "template_shape", "template_table"]

_ROUNDING = 1e-9  # seconds; well above the rounding error of a difference of two times
_KEYS = ("trial", "unit", "template")


@dataclass(frozen=True, eq=False)
class EventRates:
    """Hits, misses and false alarms; made by `event_rates`.

    Attributes
    ----------
    hits, misses, false_alarms : int
        Number of true events with and without a found one, and of found ones without a true one.
    pairs : ndarray of int, shape (hits, 2)
        Rows of each hit in the tables of found and of true events.
    amplitude_correlation : float
        Pearson correlation of found and true amplitudes over the hits; nan for fewer than two hits,
        constant amplitudes, or tables without amplitudes.
    """

    hits: int
    misses: int
    false_alarms: int
    pairs: np.ndarray = field(repr=False)
    amplitude_correlation: float

    @property
    def hit_rate(self) -> float:
        """Fraction of true events that were found; nan without true events."""
        return self.hits / (self.hits + self.misses or np.nan)

    @property
    def false_alarm_rate(self) -> float:
        """Fraction of found events that are not true; nan without found events."""
        return self.false_alarms / (self.false_alarms + self.hits or np.nan)


def event_rates(
    found: pd.DataFrame | Mapping[str, ArrayLike],
    true: pd.DataFrame | Mapping[str, ArrayLike],
    tolerance: float,
) -> EventRates:
    """Pair found events with true ones, one to one, and count hits, misses and false alarms.

    Within each (trial, unit, template), the pairing has as many pairs no further apart than
    ``tolerance`` as possible and, among such pairings, the smallest total distance in time.

    Parameters
    ----------
    found, true : DataFrame or mapping of columns
        Column ``time`` in seconds; any of the columns ``trial``, ``unit`` and ``template``, the
        same ones with the same labels in both tables; optionally ``amplitude``.
    tolerance : float
        Largest distance in seconds, inclusive (up to a nanosecond of rounding).

    Raises
    ------
    ValueError
        If a table has no ``time`` or has columns of different lengths, times are not finite, only
        one table has a column, or the tolerance is negative.

    Examples
    --------
    >>> true = {"trial": [0, 0, 1], "time": [0.10, 0.50, 0.30]}
    >>> found = {"trial": [0, 0, 1], "time": [0.11, 0.70, 0.30]}
    >>> rates = event_rates(found, true, tolerance=0.025)
    >>> rates.hits, rates.misses, rates.false_alarms, round(rates.hit_rate, 2)
    (2, 1, 1, 0.67)
    """
    validation.non_negative("tolerance", tolerance, "seconds")
    times = {"found": _times("found", found), "true": _times("true", true)}
    keys, true_keys = (tuple(key for key in _KEYS if key in table) for table in (found, true))
    if keys != true_keys:
        raise ValueError(
            f"`found` has the columns {keys} and `true` has {true_keys}; "
            f"both tables need the same of {_KEYS}"
        )
    true_groups = _groups(true, keys)
    pairs = [
        (ours[i], theirs[j])
        for label, ours in _groups(found, keys).items()
        if (theirs := true_groups.get(label))
        for i, j in _match(times["found"][ours], times["true"][theirs], tolerance + _ROUNDING)
    ]
    matched = np.array(sorted(pairs), dtype=int).reshape(-1, 2)
    return EventRates(
        hits=len(matched),
        misses=len(times["true"]) - len(matched),
        false_alarms=len(times["found"]) - len(matched),
        pairs=matched,
        amplitude_correlation=_amplitude_correlation(found, true, matched),
    )


def _times(name: str, events: Any) -> np.ndarray:
    if "time" not in events:
        raise ValueError(f"`{name}` must have a column 'time', in seconds")
    times = np.asarray(events["time"], dtype=float)
    if not np.isfinite(times).all():
        raise ValueError(f"`{name}` must have finite times; remove the rows without a time")
    for key in _KEYS:
        if key in events and len(events[key]) != len(times):
            raise ValueError(f"`{name}` must have as many rows in {key!r} as in 'time'")
    return times


def _groups(events: Any, keys: tuple[str, ...]) -> dict[tuple, list[int]]:
    """Rows of each (trial, unit, template)."""
    groups: dict[tuple, list[int]] = {}
    columns = (events[key] for key in keys)
    for row, (_, *label) in enumerate(zip(events["time"], *columns, strict=True)):
        groups.setdefault(tuple(label), []).append(row)
    return groups


def _match(found: np.ndarray, true: np.ndarray, tolerance: float) -> list[tuple[int, int]]:
    """Pair times: most pairs first, then the smallest total distance.

    No pair crosses a gap between neighbouring events that is wider than the tolerance, so the
    stretches between such gaps are solved one by one.
    """
    times = np.concatenate([found, true])
    order = np.argsort(times, kind="stable")
    gaps = np.flatnonzero(np.diff(times[order]) > tolerance) + 1
    pairs = []
    for stretch in np.split(order, gaps):
        ours, theirs = stretch[stretch < len(found)], stretch[stretch >= len(found)]
        distance = np.abs(times[ours][:, np.newaxis] - times[theirs])
        allowed = distance <= tolerance
        # one more pair is worth more than any saving in distance
        worth = np.where(allowed, 1 + min(allowed.shape) - distance / tolerance, 0)
        pairs += [
            (ours[i], theirs[j] - len(found))
            for i, j in zip(*linear_sum_assignment(worth, maximize=True), strict=True)
            if allowed[i, j]
        ]
    return pairs


def _amplitude_correlation(found: Any, true: Any, pairs: np.ndarray) -> float:
    if "amplitude" not in found or "amplitude" not in true or len(pairs) < 2:
        return np.nan
    tables = zip((found, true), pairs.T, strict=True)
    sizes = [np.asarray(table["amplitude"], dtype=float)[rows] for table, rows in tables]
    return float(np.corrcoef(sizes)[0, 1]) if np.ptp(sizes, axis=1).all() else np.nan


@dataclass(frozen=True, eq=False)
class Recovery:
    """How much of the truth a model recovered; made by `recovery`.

    ``events`` are over all templates; ``tolerance`` is the largest distance of a hit in seconds.
    """

    templates: TemplateError
    events: EventRates
    tolerance: float


def recovery(decomposition: Decomposition, tolerance: float | None = None) -> Recovery:
    """Compare templates and events with the truth of simulated counts.

    Templates are identified up to order and shift, and up to sign if codes have both signs.
    `template_error` assigns them to the true ones; onsets are shifted accordingly before
    `event_rates` pairs the events.

    Parameters
    ----------
    decomposition : Decomposition
        Of simulated counts.
    tolerance : float, optional
        Largest distance of an event from a true one, in seconds; default: three bins.

    Raises
    ------
    ValueError
        If the counts hold no truth, or one with another bin size, layout or number of channels.

    Examples
    --------
    >>> from spikecdl import DCEA, simulate
    >>> counts = simulate.simulate("binomial", ["square"], n_units=3, baseline=20.0, n_events=3,
    ...                            same_events=True, random_state=0).pool()
    >>> model = DCEA(1, 0.05, "binomial", random_state=0).fit(counts)
    >>> recovery(model.decompose(counts)).events.hit_rate
    1.0
    """
    counts, truth = decomposition.counts, decomposition.counts.truth
    why = mismatch(decomposition)
    if truth is None or why is not None:
        raise ValueError(why)
    two_sided = bool((decomposition.codes < 0).any())
    error = template_error(decomposition.templates, truth.templates, sign=two_sided)
    tolerance = 3 * counts.bin_size if tolerance is None else tolerance
    found = _as_in_truth(decomposition, error, truth)
    true = truth.events.assign(time=truth.events["time"] + counts.t_start)
    return Recovery(error, event_rates(found, true, tolerance), tolerance)


def mismatch(decomposition: Decomposition) -> str | None:
    """Return why a model and the truth in its counts cannot be compared; None if they can."""
    counts, truth = decomposition.counts, decomposition.counts.truth
    if truth is None:
        return "`decomposition` is of counts without a truth; use simulated counts"
    if not np.isclose(truth.bin_size, counts.bin_size):
        return (
            f"`decomposition` has bins of {counts.bin_size:g} s, the truth {truth.bin_size:g} s; "
            "fit with the bins of the truth"
        )
    if truth.layout != decomposition.layout:
        return (
            f"`decomposition` has the layout {decomposition.layout!r}, the truth "
            f"{truth.layout!r}; fit with the layout of the truth"
        )
    return None


def _as_in_truth(decomposition: Decomposition, error: TemplateError, truth: Truth) -> pd.DataFrame:
    """Return found events with the trials, units, templates and onsets of the truth."""
    counts = decomposition.counts
    events = decomposition.events(probabilities=False)
    n_found = len(decomposition.templates)
    number = np.arange(n_found) + len(truth.templates)  # unassigned templates match no true one
    shift = np.zeros(n_found)
    assigned = error.assignment >= 0
    number[error.assignment[assigned]] = np.flatnonzero(assigned)
    shift[error.assignment[assigned]] = error.shifts[assigned]
    units = {unit: i for i, unit in enumerate(counts.unit_ids)}
    return events.assign(
        trial=events["trial"].map({trial: i for i, trial in enumerate(counts.trial_ids)}),
        unit=-1 if decomposition.layout == "joint" else events["unit"].map(units),
        time=events["time"] - shift[events["template"]] * counts.bin_size,
        template=number[events["template"]],
    )


def psnr(estimate: ArrayLike, clean: ArrayLike, peak: float | None = None) -> float:
    r"""Peak signal-to-noise ratio in dB: :math:`10 \log_{10}(peak^2 / MSE)`.

    Parameters
    ----------
    estimate, clean : array_like, same shape
        Estimated and true image (or signal), finite; the ratio is infinite if they are equal.
    peak : float, optional
        Largest possible value, above 0; default: the largest of ``clean``, as is usual in Poisson
        denoising.

    Examples
    --------
    >>> round(psnr([[0.0, 9.0]], [[0.0, 10.0]]), 2)
    23.01
    """
    guess, target = np.asarray(estimate, dtype=float), np.asarray(clean, dtype=float)
    if guess.shape != target.shape or target.size == 0:
        raise ValueError(
            f"`estimate` (shape {guess.shape}) must have the shape of `clean` {target.shape}, "
            "and at least one value"
        )
    error = float(np.mean((guess - target) ** 2))
    if not np.isfinite(error):
        raise ValueError("`estimate` and `clean` must be finite")
    top = validation.positive("peak", float(target.max()) if peak is None else peak)
    return float(10 * np.log10(top**2 / error)) if error > 0 else float("inf")


__dir__ = validation.names_of(__name__)
