"""Deviance: how much better a model explains observations than a null model does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from spikecdl import conversion, validation
from spikecdl.config import Layout
from spikecdl.data import BinnedSpikes, Decomposition
from spikecdl.model import observations
from spikecdl.model.dictionary import ConvDictionary
from spikecdl.model.families import Family
from spikecdl.solvers.events import Events
from spikecdl.training import Observations, Problem
from spikecdl.training.base import predictor


def deviance(
    y: ArrayLike,
    mean: ArrayLike,
    family: Family,
    mask: ArrayLike | None = None,
    axis: int | tuple[int, ...] | None = None,
) -> float | np.ndarray:
    """Twice the log likelihood lost against a model that expects every observation as it came.

    Infinite if the model calls an observation impossible.

    Parameters
    ----------
    y : array_like
        Observations, usually (trial, unit, bin).
    mean : array_like, broadcastable to ``y``
        Expected observations, in the unit of ``y``.
    family : Family
        Observation model; parameters that are tensors must broadcast to ``y``.
    mask : array_like of bool, broadcastable to ``y``, optional
        False where nothing was observed; those entries are ignored.
    axis : int or tuple of int, optional
        Axes to sum over: ``axis=(0, 2)`` gives one value per unit, None a float.

    Raises
    ------
    ValueError
        If shapes do not broadcast, observed entries are not finite, or the family cannot have the
        mean.

    Examples
    --------
    >>> from spikecdl.model.families import Gaussian
    >>> deviance([1.0, 2.0], [1.0, 4.0], Gaussian(scale=2.0))
    1.0
    """
    return _value(_deviance("mean", y, mean, family, mask, axis))


def deviance_explained(
    y: ArrayLike,
    mean: ArrayLike,
    null_mean: ArrayLike,
    family: Family,
    mask: ArrayLike | None = None,
    axis: int | tuple[int, ...] | None = None,
) -> float | np.ndarray:
    """Fraction of the null model's deviance that a model explains, 1 - D(mean) / D(null_mean).

    1 if the model predicts every observation, 0 if it is no better than the null model (most often
    a constant rate), negative if it is worse, nan if the null model leaves nothing to explain (a
    silent unit, or nothing observed). Spiking noise keeps it far below 1 in small bins. For the
    Gaussian family it is the coefficient of determination.

    Parameters
    ----------
    y, mean, family, mask, axis
        See `deviance`, which raises the same errors.
    null_mean : array_like, broadcastable to ``y``
        Expected observations under the null model, in the unit of ``y``.

    References
    ----------
    Cameron and Windmeijer 1997, doi:10.1016/S0304-4076(96)01818-0.

    Examples
    --------
    >>> from spikecdl.model.families import Poisson
    >>> y = np.array([0, 1, 0, 4, 5, 2])
    >>> model = np.array([0.5, 0.5, 0.5, 4.0, 4.0, 2.5])
    >>> round(deviance_explained(y, model, y.mean(), Poisson()), 2)
    0.8
    """
    left = _deviance("mean", y, mean, family, mask, axis)
    total = _deviance("null_mean", y, null_mean, family, mask, axis)
    return _value(fraction_explained(left, total))


def bits_per_spike(
    y: ArrayLike,
    mean: ArrayLike,
    null_mean: ArrayLike,
    family: Family,
    mask: ArrayLike | None = None,
    axis: int | tuple[int, ...] | None = None,
) -> float | np.ndarray:
    r"""Log-likelihood gain over a null model, in bits per spike.

    With the deviance D of the model and D0 of the null model, it is
    :math:`(D_0 - D) / (2 \log 2 \, \sum y)`; nan if there is no spike, and minus infinity if the
    model calls an observation impossible.

    Parameters
    ----------
    y, mean, null_mean, family, mask, axis
        See `deviance_explained`, which raises the same errors.

    References
    ----------
    Pillow et al. 2008, doi:10.1038/nature07140.

    Examples
    --------
    >>> from spikecdl.model.families import Poisson
    >>> round(bits_per_spike([0, 0, 4, 4], [0, 0, 4, 4], 2.0, Poisson()), 3)
    1.0
    """
    left = _deviance("mean", y, mean, family, mask, axis)
    total = _deviance("null_mean", y, null_mean, family, mask, axis)
    spikes = np.where(True if mask is None else mask, y, 0).sum(axis=axis)
    return _value(bits_gained(left, total, spikes))


def fraction_explained(deviance: np.ndarray, null_deviance: np.ndarray) -> np.ndarray:
    """Return 1 - D / D0 of deviances D of a model and D0 of its null model; nan if D0 is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(null_deviance > 0, 1 - deviance / null_deviance, np.nan)


def bits_gained(deviance: np.ndarray, null_deviance: np.ndarray, spikes: Any) -> np.ndarray:
    """Return (D0 - D) / (2 log 2) per spike; nan if there are none."""
    with np.errstate(invalid="ignore", divide="ignore"):
        gain = (null_deviance - deviance) / (2 * np.log(2)) / spikes
    return np.where(np.greater(spikes, 0), gain, np.nan)


def null_rate(data: Observations, prior: float = 0.0) -> Tensor:
    """Return the rate per exposure of each unit over all its trials and bins.

    Counts have ``prior`` spikes added in twice as many exposures: half a spike keeps the rate of a
    silent unit above zero (Krichevsky and Trofimov 1981, doi:10.1109/TIT.1981.1056331).
    """
    prior = prior if data.family.integer_valued else 0.0
    total, exposure = data.totals().sum(1, keepdim=True).to(data.dtype)
    return (total + prior) / (exposure + 2 * prior).clamp(min=1)


def log_likelihood(data: Observations, eta: Tensor) -> np.ndarray:
    """Return log likelihoods (trial, unit, channel), with all constants, summed over bins."""
    levels, n_bins = eta.expand(*data.y.shape[:-1], eta.shape[-1]).flatten(0, -3), eta.shape[-1]

    def terms(some: Observations, part: slice, bins: slice) -> Tensor:
        level = levels[part] if n_bins == 1 else levels[part][..., bins]
        return some.family.log_prob(some.y, level.double())

    return data.sum_bins(terms)


def deviances(
    data: Observations, eta: Callable[[slice, slice], Tensor], rate: Tensor
) -> np.ndarray:
    """Return deviances (2, trial, unit) of a model and of the null model, summed over bins.

    The model is given by its linear predictor ``eta``, which does not saturate as a mean does: a
    function that returns it, (window, channel, bin), for some rows of the data, and their bins.
    The null model is given by its ``rate`` per exposure.
    """
    null = rate.double().expand(*data.y.shape[:-1], 1).flatten(0, 1)

    def lost(some: Observations, part: slice, bins: slice) -> Tensor:
        y, family = some.y, some.family
        of_null = _of_means(y, null[part] * family.exposure(y), family.without_bursts())
        return torch.stack([family.deviance(y, eta(part, bins).double()), of_null])

    return data.sum_bins(lost).reshape(2, len(data.y), -1)


def of_hidden_bins(
    whole: Observations,
    hidden: np.ndarray,
    seen: Problem,
    found: tuple[ConvDictionary, Events, Tensor],
) -> np.ndarray:
    """Return the deviances (2, trial, unit) of events and baseline in the ``hidden`` bins.

    They were ``found`` in the data that are ``seen``, the ``whole`` but for these bins.
    """
    judged = replace(whole, shown=torch.from_numpy(hidden))
    return deviances(judged, partial(seen.eta, *found), null_rate(seen.data, prior=0.5))


def decompose(
    counts: BinnedSpikes,
    layout: Layout,
    data: Observations,
    templates: Tensor,
    codes: Tensor,
    baseline: Tensor,
    history_filter: Tensor | None = None,
    **known: Any,
) -> Decomposition:
    """Return codes, rates, the contribution of each template to eta, and the deviance explained.

    ``data`` are the counts as observations.  Shapes: templates (template, channel, bin), of unit l2
    norm; codes (trial, unit, template, onset); baseline, in units of eta, as ``data.baseline``;
    filter of the history (unit, lag), if any.  For what else is ``known`` see `Decomposition`.
    """

    def parts(units: Any) -> list[Tensor]:
        joint = layout.is_joint
        waves, x = (templates[:, units], codes) if joint else (templates, codes[:, units])
        return [ConvDictionary(h[None])(x[..., [c], :]).detach() for c, h in enumerate(waves)]

    def rate(units: Any) -> np.ndarray:
        eta = sum(parts(units)) + layout.units(baseline, units)
        family = data.family.map(lambda values: layout.units(values, units))
        mean = layout.squeeze(family.mean(eta))
        return conversion.rates(counts.select(units=units), mean, family)

    def contributions(units: Any) -> np.ndarray:
        return np.stack([layout.squeeze(part) for part in parts(units)], axis=2)

    @cache
    def lost() -> np.ndarray:
        model = (ConvDictionary(templates), Events.from_codes(codes.flatten(0, 1)))
        eta = partial(predictor, *model, baseline.flatten(0, 1), n_onsets=codes.shape[-1])
        return deviances(data, eta, null_rate(data)).sum(1)

    computed: dict[str, Any] = {
        "rate": partial(_of_units, rate, counts.shape),
        "contributions": partial(_of_units, contributions, counts.shape),
        "deviance_explained": lambda: fraction_explained(*lost().sum(1)),
        "deviance_explained_per_unit": lambda: fraction_explained(*lost()),
    }
    return Decomposition(
        counts=conversion.with_sub_bins(counts, data.family),
        templates=templates.cpu().numpy(),
        codes=codes.cpu().numpy(),
        baseline=conversion.baseline_rates(counts, layout, data, baseline),
        family=data.family.per_trial(),
        layout=layout.name,
        history_filter=None if history_filter is None else history_filter.cpu().numpy(),
        **known,
        **computed,
    )


def _of_units(
    compute: Callable[[Any], np.ndarray], shape: tuple[int, ...], units: Any = None
) -> np.ndarray:
    """Compute an array (trial, unit, ...) of some units, or of all of them, a few at a time."""
    if units is not None:
        return compute(units)
    n_trials, n_units, n_bins = shape
    each, found = max(1, observations.PART // (n_trials * n_bins)), np.empty(0)
    for first in range(0, n_units, each):
        some = compute(slice(first, first + each))
        if first == 0:
            found = np.empty((n_trials, n_units, *some.shape[2:]), some.dtype)
        found[:, first : first + each] = some
    return found


def _value(array: np.ndarray) -> float | np.ndarray:
    """Return a single number as a float."""
    return float(array) if array.ndim == 0 else array


def _of_means(y: Tensor, mean: Tensor, family: Family) -> Tensor:
    """Deviance of each observation; 0 by definition where it equals its mean."""
    return family.deviance(y, family.link(mean)).masked_fill(y == mean, 0)


def _deviance(
    name: str, y: ArrayLike, mean: ArrayLike, family: Family, mask: Any, axis: Any
) -> np.ndarray:
    """Check the arguments of `deviance`, where ``name`` is that of the mean, and compute it."""
    values = np.asarray(y, dtype=float)
    observed = _broadcast("mask", True if mask is None else mask, values).astype(bool)
    means = _broadcast(name, mean, values)
    for argument, array in (("y", values), (name, means)):
        if not np.isfinite(array[observed]).all():
            raise ValueError(f"`{argument}` must be finite wherever something was observed")
    shown, expected = (torch.as_tensor(np.where(observed, a, 0)) for a in (values, means))
    lost = np.where(observed, _of_means(shown, expected, family).numpy(), 0)
    impossible = np.isnan(lost)
    if impossible.any():
        kind = type(family).__name__
        raise ValueError(f"`{name}` (={means[impossible][0]:g}) is not a mean that {kind} can have")
    return lost.sum(axis=axis)


def _broadcast(name: str, array: ArrayLike, like: np.ndarray) -> np.ndarray:
    why = "broadcast to `y`, of shape"
    return validation.broadcast(name, np.asarray(array, dtype=float), like.shape, why)
