"""Convolutional orthogonal matching pursuit: events one by one, the best first."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any

import numpy as np
import torch
from numba import njit
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from spikecdl import config, conversion, validation
from spikecdl.baselines.psth import binned
from spikecdl.data import BinnedSpikes, Decomposition, inputs
from spikecdl.data.truth import unit_norm
from spikecdl.evaluation.deviance import decompose
from spikecdl.evaluation.heldout import SHARED, observed
from spikecdl.model.families import Family
from spikecdl.model.penalties import L1, Penalty
from spikecdl.solvers import parallel
from spikecdl.solvers.amplitudes import Baselines, Prior, fit_in_turn, of_window, prior_value
from spikecdl.solvers.events import Events
from spikecdl.solvers.losses import LOSSES, Loss, State, as_array, fill_state, value
from spikecdl.solvers.operators import fill_scores
from spikecdl.solvers.working_set import BLOCK, mark_stale, next_stale
from spikecdl.training import Learned, Observations
from spikecdl.training.alternating import Epoch, alternate, null_cost
from spikecdl.training.dictionary_update import DictionaryUpdate, Updater, allowed_signs
from spikecdl.training.initialization import crop, initial_templates


@dataclass(frozen=True)
class Rule:
    """How events are chosen, and when there are enough."""

    penalty: Penalty  # of which only the signs are used
    standardise: bool  # compare scores in units of their standard errors, not as they are
    n_events: int  # of a window, at the most
    min_gain: Tensor  # (window,), in nats; an event with less is not taken and ends the pursuit
    precision: float  # one over the variance of a normal prior of amplitudes


@dataclass(eq=False, repr=False)
class BCOMP(TransformerMixin, BaseEstimator):
    r"""Learn templates by orthogonal matching pursuit: the greedy, l0 alternative to `DCEA`.

    Events of a window are found one at a time.  With residual r and curvature w of the family at
    the current linear predictor, the next event is where

    .. math:: \langle h_c(\cdot - t), r\rangle \qquad\text{or}\qquad
              \langle h_c(\cdot - t), r\rangle \,/\, \langle h_c^2(\cdot - t), w\rangle^{1/2}

    is largest ("inner_product", as in the paper, or "score_test").  Newton steps then refit the
    amplitudes of all events, and the baseline if it is learned.  The pursuit of a window stops
    after ``n_events`` events, or when an event lowers the deviance by less than ``min_gain``.
    Templates are then updated with the onsets fixed, by the dictionary update of `DCEA`, in which
    amplitudes and baselines follow, and the two steps alternate.

    Parameters
    ----------
    n_templates, template_length, family, baseline
        As for `DCEA`, in the shared layout; ``template_length`` is in seconds.
    n_events : int, optional
        Maximum number of events in a window, over all templates.
    min_gain : float, optional
        Smallest decrease of the deviance by an event.  None: 0 if ``n_events`` is given, otherwise
        the penalty per event of the extended Bayesian information criterion,
        :math:`\log n + 2 \log N` for n observed bins and N pairs of template and onset.
    criterion : {"inner_product", "score_test"}
    sign : {"positive", "negative", "both"} or sequence of those
        Of amplitudes, for all templates or for each.
    templates : array_like, shape (template, bin) or (template, 1, bin), optional
        Initial templates; None: stretches of the data that a constant rate explains worst.
    n_initializations : int
        Fits from different stretches, of which the best is kept.  With several templates most
        greedy fits end in a poor minimum.
    n_epochs : int
        Maximum number of epochs.
    random_state : int, RandomState or None
        Seed of the initializations.

    Attributes
    ----------
    templates_ : ndarray, shape (template, 1, bin)
        Unit l2 norm, by decreasing number of events.
    baseline_ : ndarray, shape (trial, unit)
        Baseline rates of the training data, in Hz.
    history_ : list of dict
        One record per epoch of the best fit: ``epoch``, ``loss`` (negative log likelihood per
        observed bin up to a constant), ``objective`` (over all bins, plus half of ``min_gain`` per
        event), ``n_events`` and ``seconds``.
    converged_ : bool
    n_iter_, n_bins_ : int
        Epochs; bins of a template.
    bin_size_ : float
    unit_ids_ : tuple

    References
    ----------
    Pati, Rezaiifar and Krishnaprasad, Asilomar 1993, doi:10.1109/ACSSC.1993.342465; Lozano,
    Swirszcz and Abe, AISTATS 2011 (other losses); Chen and Chen, Biometrika 95, 2008,
    doi:10.1093/biomet/asn034 (the criterion).

    Examples
    --------
    >>> from spikecdl.simulate import simulate
    >>> counts = simulate("binomial", ["square"], n_units=3, baseline=20.0, n_events=3,
    ...                   same_events=True, random_state=0).pool()
    >>> model = BCOMP(1, 0.05, "binomial", random_state=0).fit(counts)
    >>> from spikecdl.evaluation.metrics import recovery
    >>> recovery(model.decompose(counts)).events.hit_rate
    1.0
    """

    n_templates: int = 1
    template_length: float = 10
    family: str | Family = "binomial"
    _: KW_ONLY
    n_events: int | None = None
    min_gain: float | None = None
    criterion: str = "inner_product"
    sign: str | Any = "positive"
    baseline: Any = "learned"
    templates: Any = None
    n_initializations: int = 10
    n_epochs: int = 20
    random_state: Any = None

    def fit(self, counts: BinnedSpikes, y: Any = None) -> BCOMP:
        """Learn templates; ``y`` is ignored.

        Raises ValueError if an argument or a count is out of range, or the template is longer than
        the window.
        """
        counts = binned(counts)
        validation.integer("n_templates", self.n_templates)
        validation.integer("n_epochs", self.n_epochs)
        length = config.template_bins(self.template_length, counts.bin_size, counts.n_bins)
        data = observed(counts, self.family, self.baseline)
        rows, rule = data.rows(), self._rule(data, length)
        with parallel.for_size(rows.y.numel() * self.n_templates):
            fits = [
                self._alternate(rows, rule, initial)
                for initial in self._initializations(rows, rule, length)
            ]
        best = min(fits, key=lambda fit: fit.history[-1]["objective"])
        self.bin_size_, self.n_bins_, self.unit_ids_ = counts.bin_size, length, counts.unit_ids
        self.history_, self.n_iter_, self.converged_ = best.history, best.epoch, best.converged
        self.templates_ = best.tensors["templates"].numpy()
        events, baseline = self._pursue(data)
        number = torch.bincount(events.template, minlength=self.n_templates)
        if not rule.penalty.signs_differ:
            self.templates_ = self.templates_[number.argsort(descending=True, stable=True).numpy()]
        self.baseline_ = conversion.baseline_rates(counts, SHARED, data, baseline)
        best.warn_if_unsettled(len(events) > 0, "min_gain")
        return self

    def transform(self, counts: BinnedSpikes) -> np.ndarray:
        """Return codes (trial, template, onset), as from `DCEA.transform`.

        Those of several units are (trial, unit, template, onset).
        """
        codes = self._codes(*self._found(counts)[:2]).numpy()
        return codes[:, 0] if codes.shape[1] == 1 else codes

    def predict(self, counts: BinnedSpikes) -> np.ndarray:
        """Return expected counts (trial, unit, bin), given events and baseline of these counts."""
        data, events, baseline = self._found(counts)
        without = baseline.expand_as(data.y).flatten(0, 1)
        eta = events.add_to(without, torch.from_numpy(self.templates_)).reshape_as(data.y)
        return SHARED.squeeze(data.family.mean(eta))

    def decompose(self, counts: BinnedSpikes) -> Decomposition:
        """Return rates, codes and contributions of counts, with a table from ``events()``."""
        data, events, baseline = self._found(counts)
        templates, codes = torch.from_numpy(self.templates_), self._codes(data, events)
        return decompose(counts, SHARED, data, templates, codes, baseline)

    def _found(self, counts: BinnedSpikes) -> tuple[Observations, Events, Tensor]:
        """Check counts against the fit; return observations, their events and baseline."""
        check_is_fitted(self)
        inputs.check_like_fit(binned(counts), self.bin_size_, self.n_bins_, None)
        data = observed(counts, self.family, self.baseline)
        return data, *self._pursue(data)

    def _pursue(self, data: Observations) -> tuple[Events, Tensor]:
        """Return events, and the refitted baseline in the shape of the data's."""
        templates = torch.from_numpy(self.templates_)
        events, baseline = pursue(data.rows(), templates, self._rule(data, self.n_bins_))
        return events, baseline.reshape_as(data.baseline)

    def _codes(self, data: Observations, events: Events) -> Tensor:
        """Return dense codes (trial, unit, template, onset)."""
        trials, units, _, bins = data.y.shape
        shape = (self.n_templates, bins - self.n_bins_ + 1)
        return events.to_codes((trials * units, *shape)).reshape(trials, units, *shape)

    def _rule(self, data: Observations, length: int) -> Rule:
        """Return the rule that selects events in these data."""
        n_bins, n_templates = data.y.shape[-1], self.n_templates
        validation.one_of("criterion", self.criterion, ("inner_product", "score_test"))
        if self.min_gain is not None or self.n_events is not None:
            least = validation.non_negative("min_gain", self.min_gain or 0.0)
            gain = torch.full((data.mask[..., 0, 0].numel(),), least)
        else:
            observed_bins = data.mask.sum(-1).flatten().clamp(min=1)
            gain = observed_bins.log() + 2 * math.log(n_templates * (n_bins - length + 1))
        n_events = n_bins if self.n_events is None else self.n_events
        return Rule(
            penalty=L1(sign=self.sign),
            standardise=self.criterion == "score_test",
            n_events=validation.integer("n_events", n_events),
            min_gain=gain.double() / 2,
            precision=1e-4 / data.family.eta_scale**2,  # amplitudes stay finite in silent bins
        )

    def _initializations(self, rows: Observations, rule: Rule, length: int) -> Iterator[Tensor]:
        """Yield initial templates.

        Stretches of the data are 40 % longer than the template at first, because its onset in them
        is unknown, and are cropped to the bins of most energy after three epochs.
        """
        if self.templates is not None:
            given = unit_norm("templates", self.templates)
            validation.shaped("templates", given, (self.n_templates, 1, length))
            yield torch.from_numpy(given)
            return
        generator = config.generator(self.random_state)
        extra = min(round(0.4 * length), rows.y.shape[-1] - length)
        for _ in range(validation.integer("n_initializations", self.n_initializations)):
            eta = rows.baseline.expand_as(rows.y)
            templates = initial_templates(rows, eta, self.n_templates, length + extra, generator)
            for _ in range(3):
                templates = _epoch(rows, rule, templates).templates
            yield crop(templates, length)

    def _alternate(self, rows: Observations, rule: Rule, templates: Tensor) -> Learned:
        """Alternate between finding events and updating templates."""

        def epoch(before: Learned) -> Epoch:
            found = _epoch(rows, rule, before.tensors["templates"])
            record = {
                "loss": found.cost / int(rows.mask.sum()),
                "objective": found.cost + float(rule.min_gain[found.events.window].sum()),
                "n_events": len(found.events),
            }
            return replace(before, tensors={"templates": found.templates}), record

        return alternate(epoch, Learned({"templates": templates}), self.n_epochs, null_cost(rows))


def _epoch(rows: Observations, rule: Rule, templates: Tensor) -> DictionaryUpdate:
    """Find events, and update templates with the onsets fixed."""
    events, baseline = pursue(rows, templates, rule)
    return Updater(rows, rule.penalty)(templates, events, baseline)


# The pursuit, compiled: single windows, one event at a time, the best first


def pursue(rows: Observations, templates: Tensor, rule: Rule) -> tuple[Events, Tensor]:
    """Find the events of every window, with templates (template, channel, bin).

    ``rows`` are on the CPU, with one window axis.  Returns events, sorted and without those whose
    amplitude is zero, and baselines (window, channel, 1), refitted if they are to be learned.
    """
    scalar = rows.family.scalar_loss(rows.y)
    loss = Loss(LOSSES[scalar.kind], *(as_array(v * rows.mask) for v in (scalar.a, scalar.b)))
    level = as_array(rows.baseline)[..., 0] - scalar.shift
    none = np.zeros((*level.shape, 1))
    baselines = Baselines(level, np.ones_like(level), level.copy(), rows.level_precision, none)
    shape = (len(level), min(rule.n_events, loss.a.shape[-1]))
    found = (np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(shape))
    number, shapes = np.zeros(len(level), np.int64), as_array(templates)
    up, down = (sign.numpy() for sign in allowed_signs(rule.penalty, len(shapes)))
    prior = Prior(np.full(len(shapes), rule.precision), up, down)
    criteria = (rule.standardise, as_array(rule.min_gain))

    def work(part: slice) -> None:
        span = (part.start, part.stop)
        _pursue_windows(span, loss, shapes, prior, baselines, criteria, found, number)

    parallel.in_parallel(work, len(level), loss.a.size * len(shapes) * parallel.COSTLY)
    window, rank = np.nonzero(np.arange(shape[1]) < number[:, None])
    which, onset, amplitude = (values[window, rank] for values in found)
    order = np.lexsort((onset, which, window))
    order = order[amplitude[order] != 0]
    events = (torch.from_numpy(v[order]) for v in (window, which, onset, amplitude))
    return Events(*events), torch.from_numpy(level[..., None] + scalar.shift)


@njit(cache=True, error_model="numpy", nogil=True)
def _pursue_windows(span, loss, templates, prior, baselines, rule, found, number):
    """Fill in the events of some windows and their number, and their baselines."""
    (standardise, min_gain), (which, onset, amplitude) = rule, found
    for i in range(span[0], span[1]):
        window, level = of_window(loss, baselines, i)
        events, own_rule = (which[i], onset[i], amplitude[i]), (standardise, min_gain[i])
        number[i] = _pursue(window, level, templates, prior, own_rule, events)


@njit(cache=True, error_model="numpy")
def _pursue(loss, baseline, templates, prior, rule, events):
    """Add events to one window until the next gains too little; return their number.

    Events are kept in order of time, in the first entries of the arrays of ``events``.  The
    baseline of each channel is changed in place.
    """
    (which, onset, amplitude), (standardise, min_gain) = events, rule
    n_onsets = loss.a.shape[1] - templates.shape[2] + 1
    squares = templates * templates
    eta = np.empty_like(loss.a)
    for n in range(len(eta)):
        eta[n] = baseline.value[n]
    state = State(eta, np.empty_like(eta), np.empty_like(eta))
    fill_state(loss, state)
    score = np.empty((templates.shape[0], n_onsets))
    spread = np.ones_like(score)
    stale = np.ones((n_onsets + BLOCK - 1) // BLOCK, np.bool_)
    count, present = 0, (which[:0], onset[:0], amplitude[:0])
    now = value(loss, eta) + prior_value(prior, baseline, present)
    while count < which.size:
        _renew(templates, squares, state, standardise, stale, score, spread)
        c, p = _best(score, spread, prior.up, prior.down)
        if c < 0 or np.any((present[0] == c) & (present[1] == p)):
            break
        before = (which[:count].copy(), onset[:count].copy(), amplitude[:count].copy())
        old = baseline.value.copy()
        _insert(which, onset, amplitude, count, c, p)
        count += 1
        present = (which[:count], onset[:count], amplitude[:count])
        changed = _refit(loss, state, templates, prior, baseline, present, p)
        then = value(loss, eta) + prior_value(prior, baseline, present)
        if not now - then >= min_gain:
            count -= 1
            which[:count], onset[:count], amplitude[:count] = before
            baseline.value[:] = old
            break
        now = then
        mark_stale(stale, changed[0] - templates.shape[2] + 1, changed[1] - 1)
    return count


@njit(cache=True, error_model="numpy")
def _renew(templates, squares, state, standardise, stale, score, spread):
    """Compute the scores, and their spread, in the blocks of onsets that are stale."""
    begun, ended = next_stale(stale, 0)
    while begun < ended:
        first, last = begun * BLOCK, min(ended * BLOCK, score.shape[1])
        fill_scores(templates, state.residual, first, last, score)
        if standardise:
            fill_scores(squares, state.curvature, first, last, spread)
            spread[:, first:last] = np.sqrt(np.maximum(spread[:, first:last], 1e-12))
        begun, ended = next_stale(stale, ended)


@njit(cache=True, error_model="numpy")
def _best(score, spread, up, down):
    """Return template and onset of the largest score of an allowed sign; -1 if there is none."""
    largest, template, where = 0.0, -1, -1
    for c in range(score.shape[0]):
        for p in range(score.shape[1]):
            relative = score[c, p] / spread[c, p]
            own = max(relative if up[c] else 0.0, -relative if down[c] else 0.0)
            if own > largest:
                largest, template, where = own, c, p
    return template, where


@njit(cache=True, error_model="numpy")
def _insert(which, onset, amplitude, count, c, p):
    """Add an event of amplitude zero to the first ``count``, in order of time."""
    j = count
    while j > 0 and onset[j - 1] > p:
        which[j], onset[j], amplitude[j] = which[j - 1], onset[j - 1], amplitude[j - 1]
        j -= 1
    which[j], onset[j], amplitude[j] = c, p, 0.0


@njit(cache=True, error_model="numpy")
def _refit(loss, state, templates, prior, baseline, events, new):
    """Fit amplitudes, and the baseline if it is free, after an event was added at ``new``.

    With a fixed baseline, only events that are linked to the new one by overlaps change.  Returns
    the first bin that has changed and the end of those bins.
    """
    which, onset, amplitude = events
    length, is_free = templates.shape[2], baseline.stiffness < np.inf
    begin, end = 0, onset.size
    if not is_free:
        begin = np.searchsorted(onset, new)
        end = begin + 1
        while begin > 0 and onset[begin] - onset[begin - 1] < length:
            begin -= 1
        while end < onset.size and onset[end] - onset[end - 1] < length:
            end += 1
    linked = (which[begin:end], onset[begin:end], amplitude[begin:end])
    until = (1e-3, 50)  # of a standard error; rounds of amplitudes and baseline in turn
    fit_in_turn(loss, state, templates, prior, baseline, linked, until)
    if is_free:
        return 0, state.eta.shape[1]
    return onset[begin], onset[end - 1] + length
