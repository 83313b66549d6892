r"""What casts doubt on a fit: limits that it has reached, and what its rates leave unexplained.

Of counts y with predictor :math:`\eta`, the slope r and curvature c of the log likelihood satisfy
E r² = E c if the model is right, and slopes of different bins are uncorrelated.  Sums of
:math:`r_t^2 - c_t` (variability), of :math:`r_t r_{t-k}` (bursts, refractoriness) and of r over
long stretches (drift) are compared with their standard errors.  Rates are those of events drawn
from their posterior, so that events too weak to be found are no fault.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from spikecdl.data import BinnedSpikes, Decomposition
from spikecdl.data.inputs import overlapping
from spikecdl.evaluation.goodness_of_fit import expected_counts, rescale, resolved
from spikecdl.evaluation.metrics import recovery
from spikecdl.events.table import NEAR
from spikecdl.model.families import Family
from spikecdl.training import FitWarning
from spikecdl.validation import counted

_MOST_BINS, _FEWEST = 60_000, 20  # bins that are looked at; templates' lengths of a window
_leaves_out: ContextVar[bool] = ContextVar("leaves_out", default=False)
_SIGNIFICANT = 4.0  # standard errors
_SHARE = 0.05  # of the variance, that is no fault
_NEAR, _STRETCHES = 0.025, 12  # seconds of bursts and refractoriness; stretches of the recording
_LEVEL = 0.01  # of the tests of rescaled time, corrected for the number of units
_MISJUDGED = 0.1  # share of false events that probabilities may be wrong by
_CUT = 0.15  # size of both ends over the largest change, times the share of events in a row


class Fitted(Protocol):
    """What is asked of a fitted `DCEA`."""

    family_: Family
    n_bins_: int
    tensors_: dict[str, torch.Tensor]

    def fit(self, X: BinnedSpikes) -> Fitted: ...

    def decompose(self, X: BinnedSpikes) -> Decomposition: ...

    def simulate(self, X: BinnedSpikes) -> BinnedSpikes: ...


class CheckWarning(FitWarning):
    """A check of a fit has failed; all are in ``checks_``."""


class Check(NamedTuple):
    """What was looked at, whether it is as it should be, what was found, and what to try."""

    check: str
    passed: bool
    found: str
    remedy: str


@contextmanager
def left_out() -> Iterator[None]:
    """Leave out checks and warnings of fits to parts of the data, or to data that were drawn.

    The fit to all data has them.
    """
    before = _leaves_out.set(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FitWarning)
            yield
    finally:
        _leaves_out.reset(before)


def check(model: Fitted, counts: BinnedSpikes, calibrate: bool) -> list[dict[str, Any]]:
    """Return the checks of a fit to counts, each as a mapping with the names of `Check`.

    To ``calibrate`` probabilities of events, a copy of the model is fitted to counts drawn from it.
    """
    if _leaves_out.get():
        return []
    found = [*_of_search(model), *_of_windows(counts)]
    if counts.is_counts and model.family_.integer_valued and counts.mask.any():
        some = _part(counts, model.n_bins_)
        found += _of_rates(model, model.decompose(some))
        if calibrate and "event_rates" in model.tensors_:
            found.append(_of_probabilities(model, some))
    kept = [one._replace(found="", remedy="") if one.passed else one for one in found]
    return [one._asdict() for one in kept]


def warn(checks: list[dict[str, Any]]) -> None:
    """Warn the caller of an estimator's `fit` of each check that has failed."""
    for one in checks:
        if not one["passed"]:
            warnings.warn(f"{one['found']}: {one['remedy']}", CheckWarning, stacklevel=3)


def _part(counts: BinnedSpikes, length: int) -> BinnedSpikes:
    """Return evenly spaced trials of a bounded number of bins, or the first bins of one."""
    every = math.ceil(counts.counts.size / _MOST_BINS)
    some = counts[:: min(every, len(counts))]
    n_bins = max(_MOST_BINS // (len(some) * some.n_units), _FEWEST * length)
    return some if some.n_bins <= n_bins else some.select(bins=slice(0, n_bins))


def _of_search(model: Fitted) -> Iterator[Check]:
    """Yield whether the model is at a limit of what could be found."""
    tensors = model.tensors_
    if "at_bound" in tensors:
        busy = tensors["at_bound"].nonzero().ravel().tolist()
        yield Check(
            "rate of events",
            not busy,
            f"events of {_templates(busy)} begin as often as they may",
            "they follow one another without a gap, or stand for slow changes of the rate; set "
            "`drift`, or use shorter templates",
        )
    if "n_starts" in tensors and tensors["n_starts"] > 1:
        yield Check(
            "search",
            bool(tensors["n_agree"] > 1),
            f"only one of {int(tensors['n_starts'])} starts of the search found these templates",
            "others may explain the data better; try another seed, or more starts",
        )


def _of_windows(counts: BinnedSpikes) -> Iterator[Check]:
    """Yield whether no spike is in two windows, where their times are known."""
    if len(counts) < 2 or not np.isfinite(counts.trial_starts).all():
        return
    group, bins = overlapping(counts)
    again = np.arange(counts.n_bins) < bins[:, None]  # counted in an earlier window
    total = int(counts.counts.sum())
    once = total - int((counts.counts.sum(1) * again).sum())
    found = f"{np.count_nonzero(bins)} of {len(counts)} windows overlap an earlier one"
    if counts.is_counts:
        found += f", so that {total:,} counts come from {once:,} spikes"
    yield Check(
        "windows",
        not bins.any(),
        f"{found}; folds keep those that do together, in {counted(int(group.max()) + 1, 'group')}",
        "use shorter windows, or count the whole recording once and let events begin near these "
        "times (`near`; --events with --within)",
    )


def _of_rates(model: Fitted, parts: Decomposition) -> Iterator[Check]:
    """Yield what the rates of the model leave unexplained."""
    counts, mean = parts.counts, expected_counts(parts)
    family = resolved(model.family_, counts, mean)
    y = torch.as_tensor(counts.counts, dtype=torch.float64)
    eta = family.link(torch.as_tensor(mean, dtype=torch.float64))
    of_bins = (family.residual(y, eta), family.curvature(y, eta))
    slope, curvature = (np.where(counts.mask, x.nan_to_num().numpy(), 0.0) for x in of_bins)
    variance = max(float(curvature.sum()), 1e-12)

    single = "" if counts.n_pooled.max() <= 1 else " single trials, with"
    z, share = _compared([np.square(slope) - curvature], variance)
    yield Check(
        "variability",
        not (z > _SIGNIFICANT and share > _SHARE),
        f"counts vary {1 + share:.2f} times as much as the family {family.name} says",
        f"use{single} dispersion, or the family negative_binomial",
    )
    n_lags = min(max(1, round(_NEAR / counts.bin_size)), counts.n_bins - 1)
    products = [slope[..., lag:] * slope[..., :-lag] for lag in range(1, 1 + n_lags)]
    z, share = _compared(products, variance)
    near = f"within {1e3 * n_lags * counts.bin_size:g} ms of another"
    yield Check(
        "short distances",
        not (abs(z) > _SIGNIFICANT and abs(share) > _SHARE),
        f"there are {'more' if z > 0 else 'fewer'} spikes {near} than the model says",
        f"use{single} bursts and history, or more templates"
        if z > 0
        else f"use{single} history (spikes avoid each other)",
    )
    cut = np.flatnonzero(_ends(parts.templates) * _following(parts) > _CUT).tolist()
    yield Check(
        "length of templates",
        not cut,
        f"{_templates(cut)} is large at both ends of its window, and events follow one another",
        "use longer templates, or set `drift` if the rate changes slowly",
    )
    if counts.n_pooled.max() <= 1 and slope.size >= _STRETCHES * slope.shape[1]:
        sums = [_stretches(x) for x in (slope, curvature)]
        excess, expected = np.square(sums[0]) - sums[1], np.maximum(sums[1], 1e-12)
        z = float(excess.sum() / np.sqrt(2 * np.square(expected).sum()))
        change = math.sqrt(max(0.0, float(np.median(excess / np.square(expected)))))
        yield Check(
            "drift",
            not (z > _SIGNIFICANT and change > _SHARE),
            f"rates still change by {change:.0%} between parts of the recording",
            "use `drift`, or a shorter time between its knots",
        )
    rejected = int((rescale(counts, mean, family).p_holm < _LEVEL).sum())
    yield Check(
        "rescaled time",
        not rejected,
        f"intervals of {counted(rejected, 'unit')} of {counts.n_units} are not those of the model "
        "(time rescaling)",
        "see the other checks; if all are passed, use more templates or smaller bins",
    )


def _of_probabilities(model: Fitted, counts: BinnedSpikes) -> Check:
    """Return whether as many events of drawn counts are false as their probabilities say."""
    drawn = model.simulate(counts)
    from sklearn.base import clone

    with left_out():
        parts = clone(model).fit(drawn).decompose(drawn)
    false = recovery(parts, NEAR * model.n_bins_ * counts.bin_size)
    said = float((1 - parts.events()["probability"]).mean())
    found = false.events.false_alarm_rate
    return Check(
        "probabilities of events",
        not abs(found - said) > _MISJUDGED,
        f"of counts drawn from the model and fitted again, {found:.0%} of the events are false, "
        f"and {said:.0%} by their probabilities",
        "do not rely on probabilities of single events",
    )


def _compared(parts: Sequence[np.ndarray], variance: float) -> tuple[float, float]:
    """Return the sum of values of mean zero in standard errors, and over a variance."""
    total = sum(float(part.sum()) for part in parts)
    error = math.sqrt(sum(float(np.square(part).sum()) for part in parts))
    return total / max(error, 1e-12), total / variance


def _ends(templates: np.ndarray) -> np.ndarray:
    """Return the size (template,) of the smaller end, an eighth, over the largest change."""
    size = np.abs(templates).max(1)
    width = max(1, size.shape[1] // 8)
    ends = np.minimum(size[:, :width].mean(1), size[:, -width:].mean(1))
    return ends / size.max(1).clip(1e-12)


def _following(parts: Decomposition) -> np.ndarray:
    """Return the share (template,) of events that begin where another of them ends."""
    length, n_templates = parts.templates.shape[2], len(parts.templates)
    where = np.stack(np.nonzero(parts.codes))  # trial, unit, template, onset
    gap = np.diff(where[3])
    follows = (np.diff(where[:3]) == 0).all(0) & (gap >= 0.75 * length) & (gap <= 1.25 * length)
    number = np.bincount(where[2, 1:][follows], minlength=n_templates)
    return number / np.bincount(where[2], minlength=n_templates).clip(1)


def _stretches(values: np.ndarray) -> np.ndarray:
    """Return sums (stretch, unit) over parts of the recording, from values (trial, unit, bin)."""
    in_time = values.swapaxes(0, 1).reshape(values.shape[1], -1)
    edges = np.arange(_STRETCHES) * in_time.shape[1] // _STRETCHES
    return np.add.reduceat(in_time, edges, axis=1).T


def _templates(numbers: Sequence[int]) -> str:
    return f"template{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"
