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
from spikecdl.evaluation.metrics.fit import rate_gain

if TYPE_CHECKING:
    import pandas as pd

    from spikecdl.data import Decomposition


@dataclass(frozen=True, eq=False)
class TemplateError:
    """Distance of estimated templates from true ones; made by `template_error`.

    Attributes
    ----------
    errors : ndarray, shape (true template,)
        Error of each true template, from 0 (same shape) to 1 (nothing in common).
    assignment : ndarray of int, shape (true template,)
        Estimated template that stands for each true one; -1 where there was none left.
    shifts : ndarray of int, shape (true template,)
        Bins by which the estimate has to be moved later to lie on the truth.
    signs : ndarray of int, shape (true template,)
        -1 where the estimate has to be turned upside down (only with ``sign=True``), else 1.
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
    r"""Compare learned templates with true ones, whatever their order and shift.

    A pair has the error :math:`\sqrt{1 - \langle h, \hat h_s \rangle^2}`, where both templates
    have unit norm over all their channels and bins, and :math:`\hat h_s` is the estimate moved by
    the shift s that makes the error smallest. Only overlapping bins enter the product while the
    norms stay those of the whole templates, so a part that is shifted out counts as an error.
    Templates are then paired one to one so that the sum of errors is smallest.

    One-sided codes fix the sign of a template, so by default an estimate that is upside down has
    nothing in common with the truth: negative products count as 0.

    Parameters
    ----------
    templates : array_like, shape (template, channel, bin) or (template, bin)
        Estimated templates, of any norm.
    truth : array_like, shape (true template, channel, bin) or (true template, bin)
        True templates; as many channels as ``templates``, any number of templates and bins.
    max_shift : int, optional
        Largest shift between the first bins of a pair, in bins. None: any shift that overlaps.
    sign : bool
        Allow an estimate to be turned upside down (for two-sided codes).

    Returns
    -------
    TemplateError
        In the order of the true templates. A true template without a partner has error 1.

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
    estimate, true = _unit_norm("templates", templates), _unit_norm("truth", truth)
    if estimate.shape[1] != true.shape[1]:
        raise ValueError(
            f"`templates` have {estimate.shape[1]} channels and `truth` has {true.shape[1]}; "
            "compare templates of the same channels"
        )
    lags = _lags(true.shape[2], estimate.shape[2], max_shift)
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


def _unit_norm(name: str, templates: ArrayLike) -> np.ndarray:
    array = np.asarray(templates, dtype=float)
    array = array[:, np.newaxis] if array.ndim == 2 else array
    if array.ndim != 3 or array.size == 0:
        raise ValueError(
            f"`{name}` (shape {np.shape(templates)}) must have the shape (template, channel, bin)"
        )
    norms = np.linalg.norm(array, axis=(1, 2), keepdims=True)
    wrong = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
    if wrong.size:
        raise ValueError(f"`{name}` number {wrong[0]} must be finite and not all zeros")
    return array / norms


def _lags(n_true: int, n_estimate: int, max_shift: int | None) -> list[int]:
    """Shifts to try, the smallest first so that it wins a tie."""
    farthest = max(n_true, n_estimate)
    if max_shift is not None:
        farthest = validation.integer("max_shift", max_shift, minimum=0)
    lags = range(max(1 - n_estimate, -farthest), min(n_true - 1, farthest) + 1)
    return sorted(lags, key=abs)


def _product(true: np.ndarray, estimate: np.ndarray, lag: int) -> np.ndarray:
    """Inner products (true, estimate) with the estimates moved later by ``lag`` bins."""
    start, stop = max(0, lag), min(true.shape[2], estimate.shape[2] + lag)
    shifted = estimate[..., start - lag : stop - lag]
    return np.tensordot(true[..., start:stop], shifted, axes=((1, 2), (1, 2)))


@dataclass(frozen=True)
class TemplateShape:
    """Where a template is largest; made by `template_shape`.

    Attributes
    ----------
    peak : float
        Value of largest magnitude, with its sign.
    time : float
        Middle of its bin after the template's onset, in units of the bin size.
    width : float
        Width of the transient around it at half its height, in units of the bin size.
    channel : int
        Channel that holds it.
    """

    peak: float
    time: float
    width: float
    channel: int


def template_shape(template: ArrayLike, bin_size: float = 1.0) -> TemplateShape:
    """Measure a template's largest transient.

    Parameters
    ----------
    template : array_like, shape (channel, bin) or (bin,)
        One template.
    bin_size : float
        Seconds per bin; times are in bins where it is 1.

    Returns
    -------
    TemplateShape
        Peak, its time and its width. The width is found by linear interpolation between bins, with
        0 before the first bin and after the last.

    Raises
    ------
    ValueError
        If the template is not finite or has another shape, or if the bin size is not positive.

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
    width = _reach(height[at + 1 :], abs(peak) / 2) + _reach(height[at + 1 :: -1], abs(peak) / 2)
    return TemplateShape(peak, float((at + 0.5) * size), width * size, int(channel))


def _reach(height: np.ndarray, level: float) -> float:
    """Steps from the first value to where the line through the values meets ``level``."""
    below = np.flatnonzero(height[1:] <= level)
    if level == 0 or not below.size:
        return 0.0
    step = int(below[0])
    return float(step + (height[step] - level) / (height[step] - height[step + 1]))


def template_table(decomposition: Decomposition) -> pd.DataFrame:
    """Describe the templates of a fitted model at the size of their median event.

    Parameters
    ----------
    decomposition : Decomposition
        Made by ``model.decompose(counts)``.

    Returns
    -------
    DataFrame
        One row per template: ``n_events``; ``amplitude``, the median magnitude of its events;
        ``peak_change``, the largest change of eta in such an event; ``peak_gain``, the factor by
        which it changes the median baseline rate (nan for a real-valued signal); ``peak_time`` and
        ``width`` at half height, in seconds; ``unit``, the unit with the peak (-1 in the shared
        layout). What depends on amplitudes is nan for a template without events.

    See Also
    --------
    rate_gain : How a change of eta becomes a factor.

    Examples
    --------
    >>> from spikecdl import BinnedSpikes, Decomposition, Poisson
    >>> counts = BinnedSpikes.from_array(np.array([[0, 1, 1, 0]]), bin_size=0.01)
    >>> codes = np.array([0.0, 1.0, 0.0]).reshape(1, 1, 1, 3)
    >>> parts = Decomposition(counts, np.array([[[0.8, 0.6]]]), codes, np.ones((1, 1, 4)),
    ...                       np.ones((1, 1)), np.ones((1, 1, 1, 4)), Poisson(), "shared", 0.5,
    ...                       np.array([0.5]))
    >>> template_table(parts)[["n_events", "peak_change", "peak_gain"]].round(2)
              n_events  peak_change  peak_gain
    template
    0                1          0.8       2.23
    """
    import pandas as pd

    bin_size = decomposition.counts.bin_size
    joint = decomposition.layout == "joint"
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
                "peak_time": shape.time,
                "width": shape.width,
                "unit": decomposition.counts.unit_ids[shape.channel] if joint else -1,
            }
        )
    return pd.DataFrame(rows).rename_axis("template")


def gain_of(
    decomposition: Decomposition, unit: int | None = None
) -> Callable[[ArrayLike], np.ndarray] | None:
    """Return `rate_gain` at the median baseline (of one unit); None for a real-valued signal.

    It is nan where the baseline is impossible: counts out of more Bernoulli trials than the counts
    themselves know of.
    """
    if not decomposition.family.integer_valued:
        return None
    counts, chosen = decomposition.counts, slice(None) if unit is None else [unit]
    seen = counts.mask[:, chosen].any(axis=-1)
    level = np.median(decomposition.baseline[:, chosen][seen]) if seen.any() else np.nan
    mean = level * counts.bin_size / counts.sub_bins
    return partial(rate_gain, mean=mean, family=decomposition.family)
