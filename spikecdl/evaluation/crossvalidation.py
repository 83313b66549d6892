"""Cross-validation: models are fitted again to a part of the data and scored on the rest."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from spikecdl import config, conversion, validation
from spikecdl.data import BinnedSpikes
from spikecdl.data.inputs import overlapping
from spikecdl.evaluation import checks, deviance, heldout
from spikecdl.evaluation.heldout import Estimator, Model, Scores, Split
from spikecdl.evaluation.null_model import NullModel
from spikecdl.evaluation.template_metrics import template_error
from spikecdl.model.families import FAMILIES, Family


@dataclass(frozen=True, eq=False)
class Apart:
    """Trials, or a stretch of time of all trials, that are left out: their events are their own.

    They are found in three quarters of the bins, and the other bins are scored
    (`spikecdl.heldout.masked`).  Parts are made when they are asked for, so that those of one fold
    are in memory at a time.
    """

    counts: BinnedSpikes
    left_out: np.ndarray  # of bool, (trial,) or (bin,)
    of_trials: bool
    family: Family

    @property
    def seen(self) -> BinnedSpikes:
        """Counts to fit to."""
        return self._part(~self.left_out)

    @property
    def unseen(self) -> BinnedSpikes:
        """Counts to score."""
        return self._part(self.left_out)

    def _part(self, chosen: np.ndarray) -> BinnedSpikes:
        return self.counts[chosen] if self.of_trials else conversion.hide(self.counts, ~chosen)

    def score(self, model: Model) -> Scores:
        """Score hidden bins of ``unseen``."""
        unseen, family = self.unseen, getattr(model, "family_", self.family)
        if hasattr(model, "hidden_deviances") and family.name == self.family.name:
            return heldout.HiddenBins(unseen, model.hidden_deviances(unseen))
        return heldout.masked(model, unseen, self.family)


Fold = Apart | Split


@dataclass(frozen=True)
class Folds:
    """Ways to divide the same counts; made by `divide`.  ``how`` says what was divided."""

    folds: tuple[Fold, ...]
    how: str

    def fit(self, model: Estimator, on_fold: Callable[[int], None] | None = None) -> CrossValidated:
        """Fit and score a clone of a model in each fold; see `cross_validate`."""
        from sklearn.base import clone

        layout = getattr(model, "layout", "shared")
        own = config.settled(model) if hasattr(model, "ingredients_") else {}
        scores, models = [], []
        gains: list[np.ndarray] = []
        for number, fold in enumerate(self.folds):
            if on_fold is not None:
                on_fold(number)
            with checks.left_out():
                models.append(clone(model).set_params(**own).fit(fold.seen))
            scores.append(fold.score(models[-1]))
            if hasattr(models[-1], "evidence"):
                gains.extend(_gain(models[-1], fold))
        return CrossValidated(tuple(scores), tuple(models), self.how, tuple(gains), layout)


@dataclass(frozen=True, eq=False)
class CrossValidated:
    """Scores of a model in folds that it was not fitted to; made by `cross_validate`.

    Attributes
    ----------
    folds : tuple of HeldOut or HiddenBins
        Scores of each fold.
    models : tuple
        The model fitted for each fold.
    how : str
        What the folds are: "trials", "pooled trials", "parts of pooled trials" or "stretches of
        time".
    gains : tuple of ndarray, shape (trial, unit)
        Evidence of each fold (`DCEA.evidence`) above that of a constant rate of each unit
        (`NullModel`), in nats; (trial, 1) in the joint layout.  Empty for a model without evidence.
    layout : str
        That of the model; "shared" if it has none.
    """

    folds: tuple[Scores, ...]
    models: tuple[Any, ...]
    how: str
    gains: tuple[np.ndarray, ...] = ()
    layout: str = "shared"

    def __repr__(self) -> str:
        value, error = self._explained()
        return (
            f"CrossValidated({validation.counted(len(self.folds), 'fold')} of {self.how}: "
            f"deviance explained {value:.3f} +- {error:.3f})"
        )

    @property
    def deviance_explained(self) -> float:
        """Fraction of the null deviance explained, over all folds; see `HeldOut`."""
        return self._explained()[0]

    @property
    def standard_error(self) -> float:
        """Standard error of ``deviance_explained``, from the spread over trials; see `ratio`."""
        return self._explained()[1]

    @property
    def bits_per_spike(self) -> float:
        """Log-likelihood gain over the null model in bits per spike; nan for signals."""
        model, null = sum(fold.deviances.sum((1, 2)) for fold in self.folds)
        spikes = sum(fold.n_spikes.sum() for fold in self.folds)
        return float(deviance.bits_gained(model, null, spikes))

    @property
    def evidence_gain(self) -> tuple[float, float]:
        """Evidence above that of a constant rate, in bits per spike, and its standard error.

        With events summed out it counts events that are too weak to be found, and pays for every
        freedom of the model.  nan without evidence or spikes.
        """
        if not self.gains:
            return np.nan, np.nan
        sizes = [size(fold.counts, self.layout) for fold in self.folds]
        gain, error = ratio(independent(self.gains), independent(sizes))
        return gain / math.log(2), error / math.log(2)

    @property
    def deviance_explained_per_fold(self) -> np.ndarray:
        """Deviance explained of each fold, shape (fold,)."""
        return np.array([fold.deviance_explained for fold in self.folds])

    def template_errors(self, templates: np.ndarray, sign: bool = False) -> np.ndarray:
        """Compare templates with those of each fold, (fold, template); see `template_error`.

        An error of 0 is the same shape, above 0.5 another one.  Templates that differ from fold to
        fold are not determined by the data.
        """
        return np.array(
            [template_error(m.templates_, templates, sign=sign).errors for m in self.models]
        )

    def _explained(self) -> tuple[float, float]:
        model, null = map(independent, zip(*(fold.deviances for fold in self.folds), strict=True))
        return ratio(null - model, null)


def cross_validate(
    model: Estimator,
    counts: BinnedSpikes,
    n_folds: int = 3,
    *,
    single_trials: BinnedSpikes | None = None,
    family: str | Family | None = None,
    on_fold: Callable[[int], None] | None = None,
    random_state: int = 0,
) -> CrossValidated:
    """Fit a model again without a part of the data, and score it on this part, for each of them.

    All that is learned (templates, level of the penalty, baselines, initialization) comes from the
    other parts; settings stay those of the model, also what a fitted model has chosen to add
    (history, drift, bursts, dispersion, timing).  `divide` says what the parts are.

    Parameters
    ----------
    model : DCEA or any scikit-learn estimator with ``fit`` and ``predict``
        Model whose settings are judged; it is cloned, and need not be fitted.
    counts : BinnedSpikes
        Counts.
    n_folds : int
        Number of parts, 2 or more.
    single_trials : BinnedSpikes, optional
        The counts before they were pooled: then whole trials are left out.
    family : str or Family, optional
        Observation model; default: ``model.family``.
    on_fold : callable, optional
        Called with the number of each fold, from 0, before it is fitted.
    random_state : int
        Seed of the parts.

    Raises
    ------
    ValueError
        As `divide` does, and as the model's ``fit`` does.

    Examples
    --------
    >>> from spikecdl import DCEA
    >>> y = np.random.default_rng(0).poisson(0.2, size=(30, 100))
    >>> cross_validate(DCEA(1, 10, penalty_weight=0.5), BinnedSpikes.from_array(y))
    CrossValidated(3 folds of trials: deviance explained -0.0... +- 0.0...)
    """
    family = model.family if family is None else family
    return divide(counts, family, n_folds, single_trials, random_state).fit(model, on_fold)


def divide(
    counts: BinnedSpikes,
    family: str | Family,
    n_folds: int,
    single_trials: BinnedSpikes | None = None,
    random_state: int = 0,
) -> Folds:
    """Divide counts into parts, each of which is left out once.

    - Single trials, at least as many as folds: whole trials, drawn at random.
    - Pooled trials: the trials, if ``single_trials`` are given; else the counts are divided as by
      `spikecdl.heldout.split`.
    - Fewer single trials: stretches of time of each of them.

    Raises
    ------
    ValueError
        If there are fewer than two folds, or pooled counts of this family cannot be split.

    Examples
    --------
    >>> counts = BinnedSpikes.from_array(np.ones((7, 10), int))
    >>> [len(fold.unseen) for fold in divide(counts, "poisson", 3).folds]
    [3, 2, 2]
    """
    validation.integer("n_folds", n_folds, minimum=2)
    family = validation.member("family", family, FAMILIES, Family)
    pooled = counts.n_pooled.max() > 1
    source = counts if single_trials is None or not pooled else single_trials
    if len(source) >= n_folds and source.n_pooled.max() <= 1:
        if not np.isfinite(source.trial_starts).all():  # trials drift in their order
            source = replace(source, trial_starts=source.duration * np.arange(len(source)))
        number = _dealt(overlapping(source)[0], n_folds, random_state)
        apart = [Apart(source, number == fold, True, family) for fold in range(n_folds)]
        if not pooled:
            return Folds(tuple(apart), "trials")
        same = (Split(fold.seen.pool(), fold.unseen.pool(), family) for fold in apart)
        return Folds(tuple(same), "pooled trials")
    if pooled:
        return Folds(_split(counts, family, n_folds, random_state), "parts of pooled trials")
    number = np.arange(counts.n_bins) * n_folds // counts.n_bins
    stretches = (Apart(counts, number == fold, False, family) for fold in range(n_folds))
    return Folds(tuple(stretches), "stretches of time")


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> tuple[float, float]:
    r"""Return a ratio of sums over independent trials, and its standard error.

    With :math:`r = \sum_i a_i / \sum_i b_i`, the variance is
    :math:`\frac{n}{n - 1} \sum_i (a_i - r b_i)^2 / (\sum_i b_i)^2` (Cochran, *Sampling Techniques*,
    1977, section 2.11).  The error is nan for fewer than two trials.

    Examples
    --------
    >>> ratio(np.array([1.0, 3.0]), np.array([2.0, 2.0]))
    (1.0, 0.5)
    """
    total, n = denominator.sum(), len(numerator)
    if not total > 0:
        return np.nan, np.nan
    value = numerator.sum() / total
    if n < 2:
        return float(value), np.nan
    spread = np.square(numerator - value * denominator).sum() * n / (n - 1)
    return float(value), float(np.sqrt(spread) / total)


def independent(arrays: Sequence[np.ndarray], least: int = 10) -> np.ndarray:
    """Return values (trial, unit) of folds by trial, by unit of each if there are fewer trials."""
    few = sum(map(len, arrays)) < least
    return np.concatenate([array.ravel() if few else array.sum(1) for array in arrays])


def size(counts: BinnedSpikes, layout: str) -> np.ndarray:
    """Return the spikes, or observed bins of a signal: (trial, unit), or (trial, 1) if joint."""
    found = (counts.counts if counts.is_counts else counts.mask).sum(2)
    return found.sum(1, keepdims=True) if layout == "joint" else found


def _dealt(group: np.ndarray, n_folds: int, random_state: int) -> np.ndarray:
    """Deal windows to folds at random, those of a group together if there are enough of these."""
    if group.max() + 1 < n_folds:
        group = np.arange(len(group))
    order = np.random.default_rng(random_state).permutation(group.max() + 1)
    return (order.argsort() % n_folds)[group]


def _gain(model: heldout.TemplateModel, fold: Fold) -> Iterator[np.ndarray]:
    """Yield the evidence of what was not seen above that of a constant rate, if there is any."""
    try:
        found = model.evidence(fold.unseen, per_unit=True)
    except ValueError:  # a family without compiled cost
        return
    yield found - NullModel.like(model).fit(fold.seen).evidence(fold.unseen, per_unit=True)


def _split(
    counts: BinnedSpikes, family: Family, n_folds: int, random_state: int
) -> tuple[Split, ...]:
    """Return the folds of pooled trials: disjoint parts, and the trials that are not in each."""
    counts = replace(counts, past=None)
    rest, parts = counts, []
    for fold in range(n_folds - 1):
        divided = heldout.split(rest, family, 1 / (n_folds - fold), random_state + fold)
        parts.append(divided.seen)
        rest = divided.unseen
    return tuple(Split(_without(counts, part), part, family) for part in [*parts, rest])


def _without(counts: BinnedSpikes, part: BinnedSpikes) -> BinnedSpikes:
    """Return the counts of the pooled trials that are not in a part of them."""
    n_pooled = counts.n_pooled - part.n_pooled
    return replace(counts, counts=counts.counts - part.counts, n_pooled=n_pooled, mask=n_pooled > 0)


__dir__ = validation.names_of(__name__)
