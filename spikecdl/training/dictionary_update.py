"""Refinement: templates, amplitudes and baselines fitted together, places of events fixed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch import Tensor

from spikecdl.model.dictionary import ConvDictionary
from spikecdl.model.penalties import Penalty
from spikecdl.solvers.events import Events
from spikecdl.solvers.sparse_coding import sparse_code
from spikecdl.training.base import Observations, Weight, null_spread
from spikecdl.training.distributed import Processes
from spikecdl.training.profile_likelihood import Amplitudes, Fit

_LEAST = 0.05  # curvature of a template's bin, as a fraction of the mean, in whose unit it is


@dataclass(frozen=True)
class DictionaryUpdate:
    """Templates (unit norm), events and baseline after refinement, their cost and penalty."""

    templates: Tensor
    events: Events
    baseline: Tensor
    cost: float
    penalty: float = 0.0

    @property
    def objective(self) -> float:
        """Return cost and penalty together."""
        return self.cost + self.penalty


def update_dictionary(
    data: Observations,
    templates: Tensor,
    events: Events,
    penalty: Penalty,
    baseline: Tensor,
    *,
    learn_templates: bool = True,
    learn_amplitudes: bool = True,
    max_iter: int = 3,
    smoothness: float = 0.0,
    processes: Processes | None = None,
) -> DictionaryUpdate:
    r"""Minimise the cost over templates, amplitudes and baseline with the events' places fixed.

    .. math:: \min_{\|h_c\| = 1,\, a,\, \mu}
              -\log p\Bigl(y \mid \mu + \sum_e a_e\, h_{c(e)}(\cdot - t_e)\Bigr)
              + \sum_e \frac{a_e^2}{2 \sigma_{c(e)}^2} + \frac{\|\mu - \mu_0\|^2}{2 s^2}
              + \frac{\rho}{2} \sum_c \|\nabla h_c\|^2

    with :math:`\mu_0` the baseline the observations came with and s the family's `eta_scale`.
    Priors keep finite what the data say little of.  While templates are learned, :math:`\sigma^2`
    is s squared times the number of events: the typical waveform is normal with deviation s in
    every bin.  With templates as they are, it is the mean square that amplitudes have at the
    start, so that doubtful events weigh little.

    Amplitudes and baselines are fitted anew, by Newton steps, for all templates that are tried
    (variable projection: Golub and Pereyra, SIAM J. Numer. Anal. 10, 1973), and templates by
    L-BFGS on the product of their unit spheres, each bin in units of its own curvature.

    Parameters
    ----------
    data : Observations
    templates : tensor, shape (template, channel, bin)
    events : Events
        Of the windows in the order of ``data.rows()``.
    penalty : Penalty
        Only its signs are used.
    baseline : tensor
        Start of the baseline, shape of ``data.baseline``; kept where it is not to be learned.
    learn_templates, learn_amplitudes : bool
        What to fit.
    max_iter : int
        L-BFGS iterations at the most.
    smoothness : float
        Weight :math:`\rho` of squared first differences (zero outside the template).
    processes : Processes, optional
        Processes that share the windows; None: this one has all.  The cost is that of all.
    """
    processes = processes or Processes()
    rows, device = data.rows().to("cpu"), templates.device
    events, waves = events.to("cpu"), templates.double().cpu()
    precision = _precision(rows, events, len(waves), learn_templates, processes) * learn_amplitudes
    best = Amplitudes(
        rows,
        events,
        allowed_signs(penalty, len(waves)),
        precision,
        baseline.cpu().reshape_as(rows.baseline),
        learn_amplitudes,
    )

    def fit_to(templates: Tensor) -> Fit:
        return best(templates).total(processes)

    fit = fit_to(waves)
    if learn_templates and (fit.curvature > 0).any():
        waves = _descend(fit_to, waves, fit, max_iter, smoothness)
        fit = fit_to(waves)
    return DictionaryUpdate(
        waves.to(device),
        best.events.to(device),
        best.baseline.reshape_as(data.baseline).to(device),
        fit.cost,
    )


def _descend(
    fit_to: Callable[[Tensor], Fit],
    templates: Tensor,
    fit: Fit,
    max_iter: int,
    smoothness: float,
) -> Tensor:
    """Take L-BFGS steps of the templates; amplitudes and baselines follow."""
    scale = fit.curvature.clamp(min=1e-12)
    scale = scale.clamp(min=_LEAST * scale.mean()).rsqrt()
    # the first step of L-BFGS has length 1: that of Newton's with the diagonal alone
    scale *= float((scale * fit.slope).norm().clamp(min=1e-12))

    def on_spheres(vector: np.ndarray) -> tuple[Tensor, Tensor]:
        free = torch.from_numpy(vector).reshape(scale.shape) * scale
        norms = _norms(free)
        return free / norms, norms

    def objective(vector: np.ndarray) -> tuple[float, np.ndarray]:
        waves, norms = on_spheres(vector)
        fit = fit_to(waves)
        steps = F.pad(waves, (1, 1)).diff(dim=-1)
        slope = fit.slope - smoothness * steps.diff(dim=-1)
        slope = (slope - (slope * waves).sum(dim=(1, 2), keepdim=True) * waves) / norms * scale
        value = fit.cost + fit.prior + smoothness * float(steps.square().sum()) / 2
        return value, slope.reshape(-1).numpy()

    found = minimize(
        objective,
        (templates / scale).reshape(-1).numpy(),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": max_iter, "maxcor": 15, "ftol": 1e-10},
    )
    return on_spheres(found.x)[0]


def _norms(templates: Tensor) -> Tensor:
    """Return l2 norms, shape (template, 1, 1); 1 for a template of zeros."""
    norms = templates.flatten(1).norm(dim=1)[:, None, None]
    return torch.where(norms > 0, norms, 1.0)


def allowed_signs(penalty: Penalty, n_templates: int) -> tuple[Tensor, Tensor]:
    """Whether the amplitudes of each template may be positive, and negative."""
    ones = torch.ones(n_templates, 1)
    return penalty.project(ones)[:, 0] > 0, penalty.project(-ones)[:, 0] < 0


def _precision(
    rows: Observations,
    events: Events,
    n_templates: int,
    learn_templates: bool,
    processes: Processes,
) -> Tensor:
    """One over the variance of the prior of each template's amplitudes; see `refine`."""
    square = events.amplitude.double().square()
    sums = torch.stack([torch.ones_like(square), square], dim=1)
    sums = sums.new_zeros(n_templates, 2).index_add(0, events.template, sums)
    count, square = processes.total(sums).unbind(dim=1)
    count = count.clamp(min=1)
    if learn_templates:
        return 1 / (count * rows.family.eta_scale**2)
    return 1 / (square / count).clamp(min=1e-12)


@dataclass(frozen=True)
class Gains:
    """Gains of events, each of shape (event,); the first two are multiples of the price.

    Events that the penalty takes together, the units of a trial at one place, gain together: they
    have the sum of their gains in common, and each its share of the price.

    Parameters
    ----------
    own : tensor
        Gain of an event of its amplitude.
    alone : tensor
        Gain of an event that takes over what events near it explain of its waveform.
    unit : tensor
        Gain of a score at the weight of the penalty, in nats: the price of an event, or of a group
        over the number of its events.
    """

    own: Tensor
    alone: Tensor
    unit: Tensor


def event_gains(
    data: Observations, templates: Tensor, events: Events, baseline: Tensor, penalty: Penalty
) -> Gains:
    r"""Gains to second order, with the curvature w of the family at the present predictor.

    An event of amplitude a and waveform h gains :math:`a^2 \langle h, w h\rangle / 2`; alone it
    would have the amplitude :math:`\langle h, w s\rangle / \langle h, w h\rangle`, with s the sum
    of all events.  A score s of spread sigma gains :math:`s^2 / 2 \sigma^2`; of a group, s is the
    norm over units and sigma the root mean square.
    """
    templates, baseline = templates.to(data.dtype), baseline.to(data.dtype)
    events = events.with_amplitude(events.amplitude.to(data.dtype))
    found = [
        _gains(
            some,
            templates,
            events.within(*data.rows_of(part)),
            baseline[part],
            data.of_trials(penalty, part),
        )
        for part, some in data.parts()
    ]
    return Gains(*map(torch.cat, zip(*found, strict=True)))


def _gains(
    data: Observations, templates: Tensor, events: Events, baseline: Tensor, penalty: Penalty
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gains of the events of some trials: own, alone and unit."""
    rows, length = data.rows(), templates.shape[-1]
    signal = events.add_to(torch.zeros_like(rows.y), templates)
    eta = baseline.reshape_as(rows.baseline) + signal
    curvature = torch.where(rows.mask, rows.family.curvature(rows.y, eta), 0)
    waveform = templates[events.template]
    weighted = waveform * events.patches(curvature, length)
    energy = (waveform * weighted).sum(dim=(1, 2)).clamp(min=1e-12)
    explained = (weighted * events.patches(signal, length)).sum(dim=(1, 2))
    group = events.groups(data.group_size(penalty))

    def together(gain: Tensor) -> Tensor:
        return torch.zeros_like(gain).index_add(0, group, gain)[group]

    price = _price(data, templates, baseline, penalty)[events.window, events.template]
    own = together(events.amplitude.square() * energy / 2)
    alone = together(explained.square() / energy / 2)
    return own / price, alone / price, price / together(torch.ones_like(own))


def _price(data: Observations, templates: Tensor, baseline: Tensor, penalty: Penalty) -> Tensor:
    """Return the gain of a score at the weight, of shape (window, template)."""
    spread = penalty.typical(null_spread(ConvDictionary(templates), data, baseline))
    height = penalty.weight / spread.clamp(min=1e-9)
    height = height.expand(*data.y.shape[:-2], len(templates), 1).flatten(0, -3)
    return height[..., 0].square() / 2


_PRICE = 3.0  # an event has to gain so many times what a score at the weight of the penalty does
_PRUNINGS = 2  # an event may only show that it is too weak when others are gone


@dataclass(frozen=True)
class Solved:
    """Events that solve the penalised problem, the penalty with its weight, and its value."""

    events: Events
    penalty: Penalty
    value: float


@dataclass(frozen=True)
class Round:
    """What a round does with some data.

    Parameters
    ----------
    data : Observations
    penalty, weight
        The penalty, and the rule that sets its weight.
    debias : bool
        Merge, prune and refit the events of the l1 solution without the penalty.
    separation : int
        Events of one template at most so many bins apart are joined.
    smoothness : float
        See `refine`.
    max_iter : int
        Iterations of sparse coding at the most.
    processes : Processes
        Processes that share the windows; the data are the part of this one, the costs are of all.
    """

    data: Observations
    penalty: Penalty
    weight: Weight
    debias: bool
    separation: int
    smoothness: float
    max_iter: int
    processes: Processes = field(default_factory=Processes)

    def __call__(self, templates: Tensor, baseline: Tensor, tol: float) -> DictionaryUpdate:
        """Codes to a tolerance, then templates, amplitudes and baseline."""
        solved = self.codes(templates, baseline, tol)
        if self.debias:
            return self.refit(templates, solved, baseline, learn=True)
        penalty = solved.penalty
        found = self._update(templates, solved.events, penalty, baseline, learn_amplitudes=False)
        return self._with_penalty(found, solved.value)

    def codes(self, templates: Tensor, baseline: Tensor, tol: float) -> Solved:
        """Solve for the codes, with the weight of the penalty set."""
        dtype = self.data.dtype
        dictionary = ConvDictionary(templates.to(dtype))
        penalty = self.weight(self.penalty, dictionary, self.data, baseline.to(dtype))
        # a weight for all windows follows from the highest score of all
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
        """Solve for the codes with a penalty whose weight is set.

        Windows are solved in parts, of whose codes only the events are kept.
        """
        data, dictionary = self.data, ConvDictionary(templates.to(self.data.dtype))
        found, value = [], 0.0
        for part, some in data.parts(len(templates)):
            weighed, (first, last) = data.of_trials(penalty, part), data.rows_of(part)
            begun = None
            if start is not None:
                shape = (len(templates), *dictionary.code_shape(data.y.shape[-1:]))
                begun = start.within(first, last).to_codes((last - first, *shape))
                begun = begun.reshape(*some.y.shape[:-2], *shape)
            codes = sparse_code(
                some.y,
                some.family,
                dictionary,
                weighed,
                baseline[part].to(some.y.dtype),
                some.mask,
                tol=tol,
                max_iter=self.max_iter,
                start=begun,
            ).codes
            found.append(Events.from_codes(codes.flatten(0, -3)).later(first))
            value += float(weighed(codes))
        return Solved(Events.joined(found), penalty, value)

    def penalised_cost(self, templates: Tensor, solved: Solved, baseline: Tensor) -> float:
        """Return what the codes minimise."""
        rows, cost = self.data.rows(), 0.0
        levels = baseline.to(rows.baseline).reshape_as(rows.baseline)
        for part, some in rows.parts():
            events = solved.events.within(part.start, part.stop)
            eta = events.add_to(levels[part].expand_as(some.y), templates.to(rows.dtype))
            cost += float(some.cost(eta))
        return cost + solved.value

    def refit(
        self, templates: Tensor, solved: Solved, baseline: Tensor, learn: bool
    ) -> DictionaryUpdate:
        """Merge and prune the events of the l1 solution, and refit them without the penalty."""
        penalty = solved.penalty
        units = self.data.group_size(penalty)
        events = solved.events.merge(self.separation, units)
        gains = event_gains(self.data, templates, events, baseline, penalty)
        events = events.take(gains.alone > 1)
        for _ in range(_PRUNINGS):
            fitted = self._update(templates, events, penalty, baseline, learn_templates=False)
            gains = event_gains(self.data, templates, fitted.events, fitted.baseline, penalty)
            kept = gains.own > _PRICE
            events, baseline = fitted.events.take(kept), fitted.baseline
        found = self._update(templates, events, penalty, baseline, learn_templates=learn)
        return self._with_penalty(found, _PRICE * float(gains.unit[kept].sum()))

    def _update(
        self,
        templates: Tensor,
        events: Events,
        penalty: Penalty,
        baseline: Tensor,
        *,
        learn_templates: bool = True,
        learn_amplitudes: bool = True,
    ) -> DictionaryUpdate:
        return update_dictionary(
            self.data,
            templates,
            events,
            penalty,
            baseline,
            learn_templates=learn_templates,
            learn_amplitudes=learn_amplitudes,
            smoothness=self.smoothness,
            processes=self.processes,
        )

    def _with_penalty(self, found: DictionaryUpdate, penalty: float) -> DictionaryUpdate:
        """Note the penalty of all processes."""
        total = self.processes.total(torch.tensor(penalty, dtype=torch.float64))
        return replace(found, penalty=float(total))
