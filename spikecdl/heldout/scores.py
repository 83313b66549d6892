"""A model meets other trials of a condition, or bins that were hidden from it."""

from __future__ import annotations

import numpy as np

from spikecdl import _validation, preparation
from spikecdl.data import BinnedSpikes
from spikecdl.families import Family
from spikecdl.heldout.result import HeldOut, Model, held_out, rates


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
    weights = np.broadcast_to(preparation.trials_everywhere(seen), (2, *seen.shape))
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
    _validation.integer("n_folds", n_folds, minimum=2)
    rate = np.zeros((2, *counts.shape))
    for fold in range(min(n_folds, counts.n_bins)):
        hidden = np.arange(counts.n_bins) % n_folds == fold
        seen = preparation.hide(counts, hidden)
        rate[..., hidden] = rates(model, seen, family)[..., hidden]
    return held_out(counts, rate, family)
