r"""Events compared between conditions, and with shuffled data: tests by permutation.

Each statistic is a function of sums over trials.  Its p-value is the rank of what was found among
what is found after conditions of trials, rows of templates or times of spikes are shuffled:
(1 + number as large) / (1 + number of shuffles).

Waveforms are compared by one step from the template that all trials share.  With the derivatives
of the log likelihood under the events of a condition, slope s and curvature w of each bin,

.. math:: \delta = s / w, \qquad
          T = \sum \frac{(\delta_k - \delta_0)^2}{1 / w_k + 1 / w_0}.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch

from spikecdl import validation
from spikecdl.data import BinnedSpikes, Decomposition
from spikecdl.data.results import Fitted

if TYPE_CHECKING:
    import pandas as pd

    from spikecdl.model.families import Family


class EventFinder(Fitted, Protocol):
    """What is asked of a fitted `DCEA`."""

    def evidence(self, X: BinnedSpikes) -> np.ndarray: ...

    def predict(self, X: BinnedSpikes) -> np.ndarray: ...

    def decompose(self, X: BinnedSpikes) -> Decomposition: ...


_QUANTITIES = ("rate", "amplitude", "time")
_OF_DIFFERENCES = ("difference", "difference_lower", "difference_upper", "p_value")
_COLUMNS = ("value", "lower", "upper", *_OF_DIFFERENCES)


class _Sums(NamedTuple):
    """Sums over the events of a template in each trial, weighted by their probabilities.

    ``top`` over ``bottom`` (quantity, trial) are `_QUANTITIES`; ``slope`` and ``curvature`` (trial,
    row times bin) are those of the template, which has unit norm.
    """

    top: np.ndarray
    bottom: np.ndarray
    slope: np.ndarray
    curvature: np.ndarray

    def means(self, weight: np.ndarray) -> np.ndarray:
        """Return quantities (quantity, draw) of trials with weights (draw, trial)."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return (self.top @ weight.T) / (self.bottom @ weight.T)

    def apart(self, one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return T (draw,), see above, and the distance of waveforms without that of noise."""
        waves, variances = [], []
        for weight in (one, other):
            curvature = np.maximum(weight @ self.curvature, 1e-9)
            waves.append(weight @ self.slope / curvature)
            variances.append(1 / curvature)
        square, variance = np.square(waves[0] - waves[1]), sum(variances)
        beyond = (square - variance).sum(1).clip(min=0)
        return (square / variance).sum(1), np.sqrt(beyond)


def compare_conditions(
    model: EventFinder,
    counts: BinnedSpikes,
    by: Any,
    *,
    n_resamples: int = 999,
    level: float = 0.95,
    random_state: int = 0,
) -> pd.DataFrame:
    """Compare the events of trials between conditions: how many, how large, when, and their shape.

    Events are those of one model of all trials, each weighted by its probability; so where these
    are low, differences are too small rather than too large.

    Parameters
    ----------
    model : DCEA
        Fitted.
    counts : BinnedSpikes
        Single trials; trials are what is permuted and resampled.
    by : array_like, shape (trial,), or Series
        Condition of each trial; a Series, such as a column of a table of trials, is looked up by
        ``counts.trial_ids``.  Trials where it is missing are left out.
    n_resamples : int
        Permutations, and resamples of the trials of each condition for intervals.
    level : float
        Probability with which an interval is meant to hold the truth.
    random_state : int

    Returns
    -------
    DataFrame
        A row for each template, quantity and condition.  The quantities are ``rate`` (events of all
        units per second), ``amplitude``, ``time`` in the window (s), and ``template``: the distance
        of waveforms in units of the size of the template, 0 if they are the same.  ``value`` with
        its interval ``lower`` to ``upper``; ``difference`` from the first condition, in sorted
        order, with its interval, and its ``p_value``, of trials that can be exchanged.

    Raises
    ------
    ValueError
        If trials are pooled or there are fewer than two conditions of two trials or more.
    """
    import pandas as pd

    labels = _labels(counts, by)
    conditions, condition = np.unique(labels[labels.notna()].to_numpy(), return_inverse=True)
    number = np.bincount(condition)
    if len(conditions) < 2 or number.min() < 2:
        each = dict(zip(conditions.tolist(), number.tolist(), strict=True))
        raise ValueError(f"`by` must have two conditions of two trials or more, not {each}")
    validation.integer("n_resamples", n_resamples)
    if not 0 < validation.real("level", level) < 1:
        raise ValueError(f"`level` (={level!r}) must be between 0 and 1")
    some = counts.select(trials=np.flatnonzero(labels.notna()))
    rng, tails = np.random.default_rng(random_state), [(1 - level) / 2, (1 + level) / 2]
    rows = []
    for template, sums in enumerate(_sums(model, some)):
        for k, name in enumerate(conditions.tolist()):
            about = {"template": template, "condition": name, "n_trials": int(number[k])}
            pair = [np.flatnonzero(condition == each) for each in (k, 0)]
            found = _compared(sums, pair, len(condition), n_resamples, rng, tails)
            rows += [about | {"quantity": quantity} | row for quantity, row in found.items()]
    table = pd.DataFrame(rows)
    table.loc[table["condition"] == conditions[0], list(_OF_DIFFERENCES)] = np.nan
    return table


def _labels(counts: BinnedSpikes, by: Any) -> pd.Series:
    """Return the condition of each trial, missing where it is not known."""
    import pandas as pd

    if counts.n_pooled.max() > 1:
        raise ValueError("`counts` must be single trials; these are pooled")
    if isinstance(by, pd.Series):
        return by.reindex(list(counts.trial_ids)).reset_index(drop=True)
    labels = pd.Series(np.asarray(by))
    if len(labels) != len(counts):
        raise ValueError(f"`by` has {len(labels)} values; there are {len(counts)} trials")
    return labels


def _sums(model: EventFinder, counts: BinnedSpikes) -> Iterator[_Sums]:
    """Yield sums over the events of each template."""
    parts = model.decompose(counts)
    events, (n_templates, n_rows, length) = parts.events(), parts.templates.shape
    position = {name: i for i, name in enumerate(counts.trial_ids)}
    trial = events["trial"].map(position).to_numpy(int)
    weight = events.get("probability", 1.0 + 0 * events["amplitude"]).to_numpy(float)
    onset = np.rint((events["time"] - counts.times[0]) / counts.bin_size).to_numpy(int)
    onset = onset.clip(0, counts.n_bins - length)
    unit = np.zeros(len(events), int)
    if "unit" in events:
        unit = events["unit"].map({u: i for i, u in enumerate(counts.unit_ids)}).to_numpy(int)
    slope, curvature = _derivatives(parts.family, counts, model.predict(counts))
    observed = counts.mask.any(1).sum(1) * counts.bin_size
    amplitude, time = (events[name].to_numpy() for name in ("amplitude", "time"))
    for template in range(n_templates):
        sums = np.zeros((3, len(counts)))
        of_template = np.zeros((2, len(counts), n_rows, length))
        for i in np.flatnonzero(events["template"] == template):
            p, a = weight[i], amplitude[i]
            rows = slice(None) if n_rows > 1 else slice(unit[i], unit[i] + 1)
            here = trial[i], rows, slice(onset[i], onset[i] + length)
            sums[:, trial[i]] += p, p * a, p * time[i]
            of_template[:, trial[i]] += p * a * slope[here], p * a**2 * curvature[here]
        bottom = np.array([observed, sums[0], sums[0]])
        flat = of_template.reshape(2, len(counts), -1)
        yield _Sums(sums, bottom, *flat)


def _derivatives(family: Family, counts: BinnedSpikes, mean: np.ndarray) -> np.ndarray:
    """Return slope and curvature (2, trial, unit, bin) of the log likelihood by eta."""
    y, expected = torch.from_numpy(counts.counts.astype(float)), torch.from_numpy(mean).double()
    eta = family.link(expected)
    found = torch.stack([family.residual(y, eta), family.curvature(y, eta)])
    return torch.where(torch.from_numpy(counts.mask), found, 0.0).numpy()


def _compared(
    sums: _Sums,
    pair: list[np.ndarray],
    n_trials: int,
    n_resamples: int,
    rng: np.random.Generator,
    tails: list[float],
) -> dict[str, dict[str, float]]:
    """Return what is found of each quantity of one condition and another, given their trials."""
    both = np.concatenate(pair)

    def weights(draw: Callable[[], list[np.ndarray]], number: int) -> np.ndarray:
        found = [[np.bincount(each, minlength=n_trials) for each in draw()] for _ in range(number)]
        return np.array(found, float).swapaxes(0, 1)

    here = weights(lambda: pair, 1)
    drawn = weights(lambda: [rng.choice(each, len(each)) for each in pair], n_resamples)
    cut = [len(pair[0])]
    shuffled = weights(lambda: np.split(rng.permutation(both), cut), n_resamples)
    means = [[sums.means(each) for each in two] for two in (here, drawn, shuffled)]
    difference, spread, chance = (one - other for one, other in means)
    found = {}
    for q, quantity in enumerate(_QUANTITIES):
        lower, upper = _quantiles(means[1][0][q], tails)
        least, most = _quantiles(spread[q], tails)
        row = (means[0][0][q, 0], lower, upper, difference[q, 0], least, most)
        p_value = _rank(abs(difference[q, 0]), abs(chance[q]))
        found[quantity] = dict(zip(_COLUMNS, (*row, p_value), strict=True))
    (statistic, apart), (_, spread_apart), (by_chance, _) = (
        sums.apart(*two) for two in (here, drawn, shuffled)
    )
    least, most = np.quantile(spread_apart, tails)
    row = (np.nan, np.nan, np.nan, apart[0], least, most)
    found["template"] = dict(zip(_COLUMNS, (*row, _rank(statistic[0], by_chance)), strict=True))
    return found


def _rank(found: float, by_chance: np.ndarray) -> float:
    """Return the p-value of what was found, see above; what is not known by chance is as large."""
    if np.isnan(found):
        return np.nan
    return (1 + np.count_nonzero(~(by_chance < found))) / (1 + by_chance.size)


def _quantiles(values: np.ndarray, tails: list[float]) -> np.ndarray:
    """Return quantiles of what is known; nan if nothing is, as without any event."""
    known = values[~np.isnan(values)]
    return np.quantile(known, tails) if known.size else np.full(len(tails), np.nan)


def replay(
    model: EventFinder, counts: BinnedSpikes, *, n_shuffles: int = 200, random_state: int = 0
) -> pd.DataFrame:
    """Test whether windows hold an event of joint templates, as replays are tested.

    The statistic of a window is the log evidence of the model over that of no event, in nats.  It
    is compared with that of templates whose units are exchanged, and with that of spikes whose
    times are shifted within the window, around its end, by a random time for each unit.

    Parameters
    ----------
    model : DCEA
        Fitted, with joint templates; as of `DCEA.at_speeds`.
    counts : BinnedSpikes
        A window for each candidate event, as around ripples.
    n_shuffles : int
        Of units, and of times.
    random_state : int

    Returns
    -------
    DataFrame
        A row for each window: ``trial``, ``evidence``, ``p_units`` and ``p_times``, and of its most
        probable event, if any, the columns of `Decomposition.events`.

    Raises
    ------
    ValueError
        If templates are not joint, or events were not summed out in training.
    """
    import pandas as pd

    validation.integer("n_shuffles", n_shuffles)
    if model.layout != "joint" or "event_rates" not in model.tensors_:
        raise ValueError(
            f"`model` (layout={model.layout!r}) must have joint templates, layout='joint', and a "
            "family with a compiled cost, to be tested against shuffles"
        )
    rng, of_units = np.random.default_rng(random_state), ("templates", "template_variance")

    def gain(tensors: dict[str, Any], some: BinnedSpikes) -> np.ndarray:
        none = tensors | {"event_rates": 1e-20 * tensors["event_rates"]}
        with_events, without = copy(model), copy(model)
        with_events.tensors_, without.tensors_ = tensors, none
        return with_events.evidence(some) - without.evidence(some)

    known = model.tensors_
    evidence, larger = gain(known, counts), np.zeros((2, len(counts)))
    for _ in range(n_shuffles):
        order = rng.permutation(counts.n_units)
        exchanged = {n: known[n][:, order] for n in of_units if n in known}
        larger[0] += gain(known | exchanged, counts) >= evidence
        larger[1] += gain(known, _shifted(counts, rng)) >= evidence
    p_units, p_times = (1 + larger) / (1 + n_shuffles)
    found = {"evidence": evidence, "p_units": p_units, "p_times": p_times}
    table = pd.DataFrame({"trial": list(counts.trial_ids)} | found)
    events = model.decompose(counts).events().sort_values("probability", ascending=False)
    return table.merge(events.drop_duplicates("trial"), on="trial", how="left")


def _shifted(counts: BinnedSpikes, rng: np.random.Generator) -> BinnedSpikes:
    """Return counts whose units are shifted within each window, around its end."""
    shift = rng.integers(counts.n_bins, size=(*counts.shape[:2], 1))
    bins = (np.arange(counts.n_bins) + shift) % counts.n_bins
    names = ("counts", "mask", "n_pooled")
    moved: dict[str, Any] = {
        name: np.take_along_axis(getattr(counts, name), bins, 2) for name in names
    }
    return replace(counts, **moved, truth=None)
