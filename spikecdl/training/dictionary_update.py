"""Dictionary update: templates, amplitudes and baselines fitted with the events' onsets fixed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch import Tensor

from spikecdl.model.dictionary import ConvDictionary
from spikecdl.model.penalties import Penalty
from spikecdl.solvers.amplitudes import Amplitudes, Fit
from spikecdl.solvers.events import Events
from spikecdl.solvers.parallel import ALONE, Processes
from spikecdl.solvers.sparse_coding import sparse_code
from spikecdl.training.base import Observations, Weight
from spikecdl.training.gains import event_gains


@dataclass(frozen=True)
class DictionaryUpdate:
    """Templates (unit norm), events and baseline after an update, their cost and penalty."""

    templates: Tensor
    events: Events
    baseline: Tensor
    cost: float
    penalty: float = 0.0

    @property
    def objective(self) -> float:
        """Cost plus penalty."""
        return self.cost + self.penalty

    def eta(self, data: Observations) -> Tensor:
        """Return the linear predictor of the data of the update, in their shape."""
        rows = data.rows()
        baseline = self.baseline.reshape_as(rows.baseline).expand_as(rows.y)
        return self.events.add_to(baseline, self.templates).reshape(data.y.shape)


@dataclass(frozen=True)
class Updater:
    r"""Minimise the cost over templates, amplitudes and baseline with the events' onsets fixed.

    .. math:: \min_{\|h_c\| = 1,\, a,\, \mu}
              -\log p\Bigl(y \mid \mu + \sum_e a_e\, h_{c(e)}(\cdot - t_e)\Bigr)
              + \sum_e \frac{a_e^2}{2 \sigma_{c(e)}^2} + \frac{\|\mu - \mu_0\|^2}{2 s^2}
              + \sum_c \frac{\rho_c}{2} \|\nabla h_c\|^2

    with :math:`\mu_0` the baseline of the observations and s the family's `eta_scale` (a fifth of
    it for :math:`\mu`, with drift).  The priors keep parameters finite where the data say little.
    :math:`\sigma^2` is s squared times the number of events, as if a typical waveform were normal
    with standard deviation s in every bin.  With ``shrink`` it is the mean square of the initial
    amplitudes instead, so that doubtful events weigh little.

    Newton steps fit amplitudes and baselines for each trial value of the templates (variable
    projection: Golub and Pereyra, SIAM J. Numer. Anal. 10, 1973); L-BFGS fits the templates on the
    product of their unit spheres, each bin scaled by its own curvature.

    Parameters
    ----------
    data : Observations
    penalty : Penalty
        Only its signs are used.
    smoothness : float
        Time constant of smoothing, in bins.  The weight :math:`\rho_c` of squared first differences
        (a template is zero outside) is its square times the mean curvature of the cost by a bin, so
        that a single bin spreads over its neighbours as :math:`e^{-|t|/\tau}`.
    nonnegative : tuple of bool
        Which of the templates are kept from falling below zero; none of them if empty.
    max_iter : int
        Largest number of L-BFGS iterations.
    processes : Processes
        Processes that share the windows, whose costs are summed.
    """

    data: Observations
    penalty: Penalty
    smoothness: float = 0.0
    nonnegative: tuple[bool, ...] = ()
    max_iter: int = 3
    processes: Processes = ALONE

    def __call__(
        self,
        templates: Tensor,
        events: Events,
        baseline: Tensor,
        *,
        learn_templates: bool = True,
        learn_amplitudes: bool = True,
        shrink: bool = False,
    ) -> DictionaryUpdate:
        """Return the update of templates (template, channel, bin) and of what is learned with them.

        Windows of events are numbered as in ``data.rows()``; the baseline, of the shape of that of
        the data, stays unless it is learned.
        """
        rows, device = self.data.rows().to("cpu"), templates.device
        events, templates = events.to("cpu"), templates.double().cpu()
        if learn_templates:
            templates = self._within_bounds(templates)
        precision = self._precision(events, len(templates), shrink)
        best = Amplitudes(
            rows,
            events,
            allowed_signs(self.penalty, len(templates)),
            precision * learn_amplitudes,
            baseline.cpu().reshape_as(rows.baseline),
            learn_amplitudes,
            self.processes,
        )
        fit = best(templates)
        if learn_templates and (fit.curvature > 0).any():
            templates = self._descend(best, templates, fit)
            fit = best(templates)
        return DictionaryUpdate(
            templates.to(device),
            best.events.to(device),
            best.baseline.reshape_as(self.data.baseline).to(device),
            fit.cost,
        )

    def _within_bounds(self, templates: Tensor) -> Tensor:
        """Return templates of unit norm that do not fall below zero where they may not."""
        if not any(self.nonnegative):
            return templates
        bounded = torch.tensor(self.nonnegative)[:, None, None]
        kept = torch.where(bounded, templates.clamp(min=0), templates)
        return kept / norms_of(kept)

    def _precision(self, events: Events, n_templates: int, shrink: bool) -> Tensor:
        """Return one over the variance of the prior of each template's amplitudes."""
        square = events.amplitude.double().square()
        sums = torch.stack([torch.ones_like(square), square], dim=1)
        sums = sums.new_zeros(n_templates, 2).index_add(0, events.template, sums)
        count, square = self.processes.total(sums).unbind(dim=1)
        count = count.clamp(min=1)
        if shrink:
            return 1 / (square / count).clamp(min=1e-12)
        return 1 / (count * self.data.family.eta_scale**2)

    def _descend(self, fit_to: Callable[[Tensor], Fit], templates: Tensor, fit: Fit) -> Tensor:
        """Take L-BFGS steps of the templates, with amplitudes and baselines fitted at each."""
        rough = self.smoothness**2 * fit.curvature.mean((1, 2), keepdim=True)
        scale = fit.curvature.clamp(min=1e-12)
        scale = scale.clamp(min=0.05 * scale.mean()).rsqrt()  # bins of little curvature move far
        # the first step of L-BFGS has length 1: make it the Newton step with a diagonal Hessian
        scale *= float((scale * fit.gradient).norm().clamp(min=1e-12))

        def scaled(vector: np.ndarray) -> Tensor:
            return torch.from_numpy(vector).reshape(scale.shape) * scale

        def objective(vector: np.ndarray) -> tuple[float, np.ndarray]:
            norms = norms_of(scaled(vector))
            unit = scaled(vector) / norms
            fit = fit_to(unit)
            steps = F.pad(unit, (1, 1)).diff(dim=-1)
            gradient = fit.gradient - rough * steps.diff(dim=-1)
            along = (gradient * unit).sum(dim=(1, 2), keepdim=True)
            gradient = (gradient - along * unit) / norms * scale
            value = fit.cost + fit.prior + float((rough * steps.square()).sum()) / 2
            return value, gradient.reshape(-1).numpy()

        each = scale[0].numel()
        lowest = [(0 if bound else None, None) for bound in self.nonnegative for _ in range(each)]
        found = minimize(
            objective,
            (templates / scale).reshape(-1).numpy(),
            jac=True,
            bounds=lowest if any(self.nonnegative) else None,
            method="L-BFGS-B",
            options={"maxiter": self.max_iter, "maxcor": 15, "ftol": 1e-10},
        )
        return scaled(found.x) / norms_of(scaled(found.x))


def norms_of(templates: Tensor) -> Tensor:
    """Return l2 norms, shape (template, 1, 1); 1 for a template of zeros."""
    norms = templates.flatten(1).norm(dim=1)[:, None, None]
    return torch.where(norms > 0, norms, 1.0)


def allowed_signs(penalty: Penalty, n_templates: int) -> tuple[Tensor, Tensor]:
    """Return whether the amplitudes of each template may be positive, and negative."""
    ones = torch.ones(n_templates, 1)
    return penalty.project(ones)[:, 0] > 0, penalty.project(-ones)[:, 0] < 0


@dataclass(frozen=True)
class Solved:
    """Events that solve the penalised problem, and the penalty with its weight and value."""

    events: Events
    penalty: Penalty
    value: float


@dataclass(frozen=True)
class Round:
    """One round of alternating training: sparse coding, then a dictionary update.

    Parameters
    ----------
    data : Observations
    penalty, weight
        The penalty, and the rule that sets its weight.
    debias : bool
        Merge, select and refit the events of the penalised solution without the penalty.
    separation : int
        Events of one template at most this many bins apart are merged.
    smoothness : float
        See `Updater`.
    max_iter : int
        Largest number of iterations of sparse coding.
    nonnegative : tuple of bool
        See `Updater`.
    most_events : int, optional
        Events kept in a window, those that gain most.
    processes : Processes
        Processes that share the windows: ``data`` is the part of this one, costs are of all.
    least_gain : float
        Of an event that is kept, in multiples of the threshold.
    """

    data: Observations
    penalty: Penalty
    weight: Weight
    debias: bool
    separation: int
    smoothness: float
    max_iter: int
    nonnegative: tuple[bool, ...] = ()
    most_events: int | None = None
    processes: Processes = ALONE
    least_gain: float = 3.0

    @property
    def update(self) -> Updater:
        """Dictionary update on the data."""
        settings = (self.data, self.penalty, self.smoothness, self.nonnegative)
        return Updater(*settings, processes=self.processes)

    @property
    def roles_differ(self) -> bool:
        """Whether templates have signs or bounds of their own, so that their order matters."""
        return self.penalty.signs_differ or len(set(self.nonnegative)) > 1

    def select(self, templates: Sequence[int]) -> Round:
        """Return the round of some of the templates, in that order."""
        chosen = tuple(self.nonnegative[c] for c in templates if self.nonnegative)
        return replace(self, penalty=self.penalty.select(templates), nonnegative=chosen)

    def __call__(self, templates: Tensor, baseline: Tensor, tol: float) -> DictionaryUpdate:
        """Solve for the codes to a tolerance, then update templates, amplitudes and baseline."""
        solved = self.codes(templates, baseline, tol)
        if self.debias:
            return self.refit(templates, solved, baseline, learn=True)
        found = self.update(templates, solved.events, baseline, learn_amplitudes=False)
        return self._with_penalty(found, solved.value)

    def codes(self, templates: Tensor, baseline: Tensor, tol: float) -> Solved:
        """Set the weight of the penalty, and solve for the codes."""
        dtype = self.data.dtype
        dictionary = ConvDictionary(templates.to(dtype))
        penalty = self.weight(self.penalty, dictionary, self.data, baseline.to(dtype))
        # a single weight for all windows depends on the windows of all processes
        penalty = penalty.map(lambda w: w if w.ndim else self.processes.largest(w))
        return self.solve(templates, baseline, penalty, tol)

    def solve(
        self,
        templates: Tensor,
        baseline: Tensor,
        penalty: Penalty,
        tol: float,
        start: Events | None = None,
    ) -> Solved:
        """Solve for the codes with a weighted penalty, in parts of which only events are kept."""
        data, dictionary = self.data, ConvDictionary(templates.to(self.data.dtype))
        shape = (len(templates), *dictionary.code_shape(data.y.shape[-1:]))
        found, value = [], 0.0
        for part, some in data.parts(len(templates)):
            weighed, (first, last) = data.of_trials(penalty, part), data.rows_of(part)
            begun = None
            if start is not None:
                begun = start.within(first, last).to_codes((last - first, *shape))
                begun = begun.reshape(*some.y.shape[:-2], *shape)
            model = (some.family, dictionary, weighed, baseline[part].to(some.y.dtype), some.mask)
            allowed = some.onsets_of(templates.shape[-1])
            given = {"tol": tol, "max_iter": self.max_iter, "start": begun, "onsets": allowed}
            codes = sparse_code(some.y, *model, **given).codes  # type: ignore[arg-type]
            found.append(Events.from_codes(codes.flatten(0, -3)).later(first))
            value += float(weighed(codes))
        return Solved(Events.joined(found), penalty, value)

    def penalised_cost(self, templates: Tensor, solved: Solved, baseline: Tensor) -> float:
        """Return the objective of sparse coding."""
        rows, cost = self.data.rows(), 0.0
        baseline = baseline.to(rows.baseline).reshape_as(rows.baseline)
        for part, some in rows.parts():
            events = solved.events.within(part.start, part.stop)
            eta = events.add_to(baseline[part].expand_as(some.y), templates.to(rows.dtype))
            cost += float(some.cost(eta))
        return cost + solved.value

    def refit(
        self, templates: Tensor, solved: Solved, baseline: Tensor, learn: bool
    ) -> DictionaryUpdate:
        """Merge and select the events of the penalised solution, and refit without the penalty."""
        penalty = solved.penalty
        events = solved.events.merge(self.separation, self.data.group_size(penalty))
        allowed = self.data.rows().onsets_of(templates.shape[-1])
        events = events if allowed is None else events.moved_to(allowed)
        alone = event_gains(self.data, templates, events, baseline, penalty, alone=True)
        events = events.take(alone.gain > 1)
        for _ in range(2):  # an event may only show that it is too weak when others are gone
            fitted = self.update(templates, events, baseline, learn_templates=False)
            gains = event_gains(self.data, templates, fitted.events, fitted.baseline, penalty)
            kept = gains.gain > self.least_gain
            kept &= fitted.events.strongest(gains.gain, self.most_events)
            events, baseline = fitted.events.take(kept), fitted.baseline
        found = self.update(templates, events, baseline, learn_templates=learn, shrink=not learn)
        return self._with_penalty(found, self.least_gain * float(gains.threshold[kept].sum()))

    def _with_penalty(self, found: DictionaryUpdate, penalty: float) -> DictionaryUpdate:
        """Return the update with the penalty summed over processes."""
        total = self.processes.total(torch.tensor(penalty, dtype=torch.float64))
        return replace(found, penalty=float(total))
