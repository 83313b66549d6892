"""Learned templates: their distance from true ones, and what their shape says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment

from spikecdl import validation
from spikecdl.data.results import response_onsets
from spikecdl.data.truth import unit_norm

if TYPE_CHECKING:
    import pandas as pd

    from spikecdl.data import Decomposition
    from spikecdl.model.families import Family


@dataclass(frozen=True, eq=False)
class TemplateError:
    """Distance of estimated templates from true ones; made by `template_error`.

    Attributes
    ----------
    errors : ndarray, shape (true template,)
        Error of each true template, from 0 (same shape) to 1 (nothing in common).
    assignment : ndarray of int, shape (true template,)
        Estimated template assigned to each true one; -1 if none is left.
    shifts : ndarray of int, shape (true template,)
        Bins by which the estimate must be delayed to match the truth.
    signs : ndarray of int, shape (true template,)
        -1 if the sign of the estimate must be flipped (only with ``sign=True``), else 1.
    """

    errors: np.ndarray
    assignment: np.ndarray
    shifts: np.ndarray
    signs: np.ndarray

    @property
    def mean(self) -> float:
        """Mean error over the true templates."""
        return float(self.errors.mean())

    @property
    def max(self) -> float:
        """Error of the worst true template."""
        return float(self.errors.max())


def template_error(
    templates: ArrayLike, truth: ArrayLike, max_shift: int | None = None, sign: bool = False
) -> TemplateError:
    r"""Compare learned templates with true ones, up to order and shift.

    The error of a pair is :math:`\sqrt{1 - \langle h, \hat h_s \rangle^2}`, where both templates
    have unit norm over all channels and bins, and :math:`\hat h_s` is the estimate delayed by the
    shift s with the smallest error. Bins that are shifted out count as an error, because the norms
    are those of the whole templates. Templates are paired one to one to minimize the sum of errors;
    an unpaired true template has error 1.

    Parameters
    ----------
    templates, truth : array_like, shape (template, channel, bin) or (template, bin)
        Estimated and true templates of any norm, with the same channels; the numbers of templates
        and of bins may differ.
    max_shift : int, optional
        Largest shift between the first bins of a pair, in bins. None: any shift that overlaps.
    sign : bool
        Whether the sign of an estimate may be flipped, for two-sided codes. If not, an estimate of
        the wrong sign has error 1.

    Raises
    ------
    ValueError
        If a template is all zeros or not finite, or if the numbers of channels differ.

    References
    ----------
    Tolooshams et al. 2020, arXiv:1907.03211 (error); Agarwal et al. 2016, doi:10.1137/140979861.

    Examples
    --------
    >>> truth = np.array([[0.0, 1.0, 2.0, 1.0, 0.0], [1.0, 1.0, 0.0, -1.0, -1.0]])
    >>> found = np.array([[1.0, 1.0, 0.0, -1.0, -1.0], [1.0, 2.0, 1.0, 0.0, 0.0]])
    >>> error = template_error(found, truth)
    >>> error.assignment.tolist(), error.shifts.tolist(), round(error.max, 3)
    ([1, 0], [1, 0], 0.0)
    """
    estimate, true = unit_norm("templates", templates), unit_norm("truth", truth)
    if estimate.shape[1] != true.shape[1]:
        raise ValueError(
            f"`templates` have {estimate.shape[1]} channels and `truth` has {true.shape[1]}; "
            "they must have the same channels"
        )
    farthest = max(true.shape[2], estimate.shape[2])
    if max_shift is not None:
        farthest = validation.integer("max_shift", max_shift, minimum=0)
    possible = range(max(1 - estimate.shape[2], -farthest), min(true.shape[2] - 1, farthest) + 1)
    lags = sorted(possible, key=abs)  # the smallest shift wins a tie
    products = np.stack([_product(true, estimate, lag) for lag in lags])
    best = (np.abs(products) if sign else products).argmax(axis=0)
    product = np.take_along_axis(products, best[np.newaxis], axis=0)[0]
    overlap = np.abs(product) if sign else np.maximum(product, 0)
    pair_errors = np.sqrt(1 - np.minimum(overlap, 1) ** 2)

    pairs = linear_sum_assignment(pair_errors)
    result = TemplateError(
        errors=np.ones(len(true)),
        assignment=np.full(len(true), -1),
        shifts=np.zeros(len(true), dtype=int),
        signs=np.ones(len(true), dtype=int),
    )
    result.errors[pairs[0]] = pair_errors[pairs]
    result.assignment[pairs[0]] = pairs[1]
    result.shifts[pairs[0]] = np.array(lags)[best[pairs]]
    result.signs[pairs[0]] = np.where(sign & (product[pairs] < 0), -1, 1)
    return result


def _product(true: np.ndarray, estimate: np.ndarray, lag: int) -> np.ndarray:
    """Inner products (true, estimate) with the estimates delayed by ``lag`` bins."""
    start, stop = max(0, lag), min(true.shape[2], estimate.shape[2] + lag)
    shifted = estimate[..., start - lag : stop - lag]
    return np.tensordot(true[..., start:stop], shifted, axes=((1, 2), (1, 2)))


@dataclass(frozen=True)
class TemplateShape:
    """Largest transient of a template; made by `template_shape`.

    Attributes
    ----------
    peak : float
        Value of largest magnitude, with its sign.
    time, width : float
        Time of the peak after the onset (middle of its bin), and full width at half its height,
        in units of the bin size.
    channel : int
        Channel of the peak.
    """

    peak: float
    time: float
    width: float
    channel: int


def template_shape(template: ArrayLike, bin_size: float = 1.0) -> TemplateShape:
    """Measure a template's largest transient.

    The width is interpolated linearly between bins, with 0 outside the template.

    Parameters
    ----------
    template : array_like, shape (channel, bin) or (bin,)
        One template, finite.
    bin_size : float
        Seconds per bin; 1 for times in bins.

    Examples
    --------
    >>> template_shape([0.0, 0.5, 1.0, 0.5, 0.0], bin_size=0.005)
    TemplateShape(peak=1.0, time=0.0125, width=0.01, channel=0)
    """
    array = np.atleast_2d(np.asarray(template, dtype=float))
    size = validation.positive("bin_size", bin_size, "seconds")
    if array.ndim != 2 or array.size == 0 or not np.isfinite(array).all():
        raise ValueError(
            f"`template` (shape {np.shape(template)}) must be finite, with the shape (channel, bin)"
        )
    channel, at = np.unravel_index(np.abs(array).argmax(), array.shape)
    peak = float(array[channel, at])
    height = np.concatenate([[0], array[channel] * np.sign(peak), [0]])
    width = sum(_half_width(side) for side in (height[at + 1 :], height[at + 1 :: -1]))
    return TemplateShape(peak, float((at + 0.5) * size), width * size, int(channel))


def _half_width(height: np.ndarray) -> float:
    """Bins from a peak, the first value, to half its height, linearly interpolated."""
    half = height[0] / 2
    below = np.flatnonzero(height[1:] <= half)
    if half == 0 or not below.size:
        return 0.0
    step = int(below[0])
    return float(step + (height[step] - half) / (height[step] - height[step + 1]))


def rate_gain(change: ArrayLike, mean: ArrayLike, family: Family) -> np.ndarray:
    """Turn a change of eta into the factor by which the expected count changes.

    For a log link it is the exponential of the change; for log odds it saturates as the
    probability approaches 1. It is nan where the family cannot have that mean.

    Parameters
    ----------
    change : array_like
        Change of the linear predictor.
    mean : array_like, broadcastable to ``change``
        Expected count before the change; a probability for `Binomial` without ``n_trials``.
    family : Family
        Observation model of counts.

    Examples
    --------
    >>> from spikecdl.model.families import Binomial
    >>> rate_gain([0.0, np.log(3)], 0.5, Binomial()).round(3)
    array([1. , 1.5])
    """
    import torch

    before = torch.as_tensor(mean, dtype=torch.float64)
    family = family.resolve(torch.ones_like(before))
    eta = family.link(before) + torch.as_tensor(np.asarray(change), dtype=torch.float64)
    return (family.mean(eta) / before).numpy()


def template_table(decomposition: Decomposition) -> pd.DataFrame:
    """Describe the templates of a decomposition and the effect of their median event.

    Returns
    -------
    DataFrame
        One row per template: ``n_events``; ``amplitude``, the median magnitude of its events;
        ``peak_change``, the largest change of eta in such an event; ``peak_gain``, the factor by
        which it changes the median baseline rate (`rate_gain`; nan for a real-valued signal);
        ``response_time``, where the response begins (`spikecdl.data.results.response_onsets`),
        ``peak_time`` and ``width`` at half height, in seconds; ``unit``, the unit with the peak
        (-1 in the shared layout). Amplitude, change and gain are nan without events.

    Examples
    --------
    >>> from spikecdl import DCEA, simulate
    >>> counts = simulate.simulate(n_units=2, same_events=True, random_state=0).pool()
    >>> model = DCEA(3, 0.05, "binomial", random_state=0).fit(counts)
    >>> template_table(model.decompose(counts))["n_events"].tolist()
    [10, 9, 7]
    """
    import pandas as pd

    bin_size = decomposition.counts.bin_size
    joint = decomposition.layout == "joint"
    begins = response_onsets(decomposition.templates)
    rows = []
    for number, template in enumerate(decomposition.templates):
        events = decomposition.codes[:, :, number]
        sizes = np.abs(events[events != 0])
        amplitude = float(np.median(sizes)) if sizes.size else np.nan
        shape = template_shape(template, bin_size)
        change = amplitude * shape.peak
        gain = gain_of(decomposition, shape.channel if joint else None)
        rows.append(
            {
                "n_events": sizes.size,
                "amplitude": amplitude,
                "peak_change": change,
                "peak_gain": np.nan if gain is None else float(gain(change)),
                "response_time": bin_size * begins[number],
                "peak_time": shape.time,
                "width": shape.width,
                "unit": decomposition.counts.unit_ids[shape.channel] if joint else -1,
            }
        )
    return pd.DataFrame(rows).rename_axis("template")


def event_table(decomposition: Decomposition, fdr: float = 0.1) -> pd.DataFrame | None:
    """Say how many events of each template are to be believed; None if they have no probabilities.

    Parameters
    ----------
    decomposition : Decomposition
    fdr : float
        False discovery rate over the events of all templates; see `Decomposition.events`.

    Returns
    -------
    DataFrame or None
        One row per template: ``n_events``; ``expected_true``, the sum of their probabilities;
        ``expected_false``, the mean of 1 - probability (nan without events); ``kept``, the number
        of events that hold ``fdr``.

    Examples
    --------
    >>> from spikecdl import DCEA, simulate
    >>> counts = simulate.simulate(n_units=2, same_events=True, random_state=0).pool()
    >>> model = DCEA(3, 0.05, "binomial", random_state=0).fit(counts)
    >>> event_table(model.decompose(counts))["kept"].tolist()
    [10, 9, 7]
    """
    import pandas as pd

    if decomposition.certainty is None:
        return None
    numbers = pd.RangeIndex(len(decomposition.templates), name="template")
    all_events = decomposition.events().groupby("template")["probability"]
    kept = decomposition.events(fdr)["template"].value_counts()
    return pd.DataFrame(
        {
            "n_events": all_events.size().reindex(numbers, fill_value=0),
            "expected_true": all_events.sum().reindex(numbers, fill_value=0.0),
            "expected_false": 1 - all_events.mean().reindex(numbers),
            "kept": kept.reindex(numbers, fill_value=0),
        }
    )


def gain_of(
    decomposition: Decomposition, unit: int | None = None
) -> Callable[[ArrayLike], np.ndarray] | None:
    """Return `rate_gain` at the median baseline (of one unit); None for a real-valued signal.

    The gain is nan if the baseline is above ``counts.sub_bins`` spikes per bin and trial.
    """
    if not decomposition.family.integer_valued:
        return None
    counts, chosen = decomposition.counts, slice(None) if unit is None else [unit]
    seen = counts.mask[:, chosen].any(axis=-1)
    level = np.median(decomposition.baseline[:, chosen][seen]) if seen.any() else np.nan
    mean = level * counts.bin_size / counts.sub_bins
    return partial(rate_gain, mean=mean, family=decomposition.family)
