"""Refinement on a fixed support: templates, amplitudes and baseline without the l1 bias."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import Bounds, minimize
from torch import Tensor

from spikecdl.events import Events
from spikecdl.penalties import Penalty
from spikecdl.training.likelihood import Likelihood, likelihood
from spikecdl.training.observations import Observations


@dataclass(frozen=True)
class Refined:
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


def refine(
    data: Observations,
    templates: Tensor,
    events: Events,
    penalty: Penalty,
    baseline: Tensor,
    *,
    learn_templates: bool = True,
    learn_amplitudes: bool = True,
    max_iter: int = 15,
    smoothness: float = 0.0,
) -> Refined:
    r"""Minimise the cost over templates, amplitudes and baseline with the events' places fixed.

    .. math:: \min_{h, a, \mu} -\log p\Bigl(y \mid \mu + \sum_e a_e\, h_{c(e)}(\cdot - t_e)\Bigr)
              + \frac{\|\mu - \mu_0\|^2}{2 s^2} + \frac{\rho}{2} \sum_c \|\nabla h_c\|^2
              + \pi(h, a)

    with :math:`\mu_0` the baseline the observations came with and s the family's `eta_scale`.
    Priors keep finite what the data say little of.  While templates are learned, their typical
    waveform, at the mean amplitude of their events, is normal with deviation s in every bin:
    :math:`\pi = \sum_c \|\bar a_c h_c\|^2 / 2 s^2`.  With templates as they are, amplitudes are
    normal with the mean square that they have at the start: :math:`\pi = \sum_e a_e^2 /
    2 \overline{a^2}_{c(e)}`, so that doubtful events weigh little.

    By L-BFGS with bounds that keep the sign of amplitudes (Byrd et al., SIAM J. Sci. Comput. 16,
    1995), in double precision.  Amplitudes of templates as they are, on the CPU, by Newton steps of
    each window to the end; see `fit_amplitudes`.

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
        What to fit.  Templates without amplitudes are kept at unit norm on the way, so that the
        codes mean what they meant.
    max_iter : int
        L-BFGS iterations at the most.
    smoothness : float
        Weight :math:`\rho` of squared first differences (zero outside the template).
    """
    rows = data.rows()
    events = events.with_amplitude(events.amplitude.double())
    if learn_amplitudes and not learn_templates and rows.y.device.type == "cpu":
        return _with_templates_known(data, templates.double(), events, penalty, baseline)
    # one unit of each variable should move eta about equally
    scale = float(events.amplitude.abs().mean()) if len(events) else 1.0
    scale *= (templates.shape[1] * templates.shape[2]) ** 0.5
    variables = _Variables(
        (templates.double(), events.amplitude, baseline.double().reshape_as(rows.baseline)),
        (1.0, scale, 1.0),
        (learn_templates, learn_amplitudes, data.learn_baseline),
    )
    objective = _Objective(
        likelihood(rows, events, templates.shape[-1]),
        events.template,
        variables,
        rows.baseline.double(),
        rows.family.eta_scale,
        smoothness,
    )
    values = variables.pack(variables.start).cpu().numpy()
    if values.size:
        values = minimize(
            objective,
            values,
            jac=True,
            method="L-BFGS-B",
            bounds=_bounds(events, penalty, variables),
            options={"maxiter": max_iter, "maxcor": 15, "ftol": 1e-10},
        ).x
    templates, amplitude, baseline = variables.unpack(values)
    norms = _norms(templates)
    if learn_amplitudes:
        amplitude = amplitude * norms[events.template, 0, 0]
    return Refined(
        templates / norms,
        events.with_amplitude(amplitude),
        baseline.reshape_as(data.baseline),
        objective.likelihood(templates / norms, amplitude, baseline)[0],
    )


def _with_templates_known(
    data: Observations, templates: Tensor, events: Events, penalty: Penalty, baseline: Tensor
) -> Refined:
    """Fit amplitudes and baseline to the end, by Newton steps in compiled code."""
    from spikecdl.training._amplitudes import fit_amplitudes

    rows = data.rows()
    spread = _mean_square(events.amplitude, events.template, len(templates)).sqrt()
    amplitude, levels = fit_amplitudes(
        rows,
        templates,
        events,
        _signs(penalty, len(templates)),
        spread,
        baseline.reshape_as(rows.baseline),
    )
    cost = likelihood(rows, events, templates.shape[-1])(templates, amplitude, levels)[0]
    events = events.with_amplitude(amplitude)
    return Refined(templates, events, levels.reshape_as(data.baseline), cost)


@dataclass(frozen=True)
class _Variables:
    """Templates, amplitudes and baseline as one vector of those that are free."""

    start: tuple[Tensor, Tensor, Tensor]
    units: tuple[float, float, float]
    free: tuple[bool, bool, bool]

    def pack(self, values: Sequence[Tensor]) -> Tensor:
        """Lay the free ones end to end, in their units."""
        parts = zip(values, self.units, self.free, strict=True)
        flat = [(value / unit).reshape(-1) for value, unit, free in parts if free]
        return torch.cat(flat or [torch.zeros(0)])

    def pack_gradient(self, gradients: Sequence[Tensor]) -> Tensor:
        """Lay the derivatives end to end: they scale the other way."""
        return self.pack(
            [gradient * unit**2 for gradient, unit in zip(gradients, self.units, strict=True)]
        )

    def unpack(self, vector: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Undo `pack`; what is not free is as at the start."""
        values, position = [], 0
        for value, unit, free in zip(self.start, self.units, self.free, strict=True):
            if free:
                flat = torch.from_numpy(vector[position : position + value.numel()])
                position += value.numel()
                value = unit * flat.to(value.device).reshape(value.shape)
            values.append(value)
        return values[0], values[1], values[2]


@dataclass(frozen=True)
class _Objective:
    """What is minimised, and its gradient, as a function of the free variables."""

    likelihood: Likelihood
    owner: Tensor
    variables: _Variables
    expected: Tensor
    eta_scale: float
    smoothness: float

    def __call__(self, vector: np.ndarray) -> tuple[float, np.ndarray]:
        """Value and gradient."""
        templates, amplitude, baseline = self.variables.unpack(vector)
        free_templates, free_amplitudes, _ = self.variables.free
        on_sphere = free_templates and not free_amplitudes
        norms = _norms(templates) if on_sphere else 1.0
        templates = templates / norms
        cost, *gradients = self.likelihood(templates, amplitude, baseline)
        prior, by_template, by_amplitude = self._prior(templates, amplitude)
        drift = (baseline - self.expected) / self.eta_scale
        by_template = by_template + gradients[0]
        if on_sphere:
            along = (by_template * templates).sum(dim=(1, 2), keepdim=True)
            by_template = (by_template - along * templates) / norms
        gradient = self.variables.pack_gradient(
            [by_template, by_amplitude + gradients[1], drift / self.eta_scale + gradients[2]]
        )
        return cost + float(prior + drift.square().sum() / 2), gradient.cpu().numpy()

    def _prior(self, templates: Tensor, amplitude: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Priors of templates or of amplitudes, and their derivatives by both."""
        owner = self.owner
        count = torch.bincount(owner, minlength=len(templates)).clamp(min=1)

        def mean(values: Tensor) -> Tensor:
            return values.new_zeros(len(templates)).index_add(0, owner, values) / count

        if not self.variables.free[0]:
            square = _mean_square(self.variables.start[1], owner, len(templates))[owner]
            prior = (amplitude.square() / square).sum() / 2
            return prior, torch.zeros_like(templates), amplitude / square
        slopes = F.pad(templates, (1, 1)).diff(dim=-1)
        typical = mean(amplitude.abs())[:, None, None] / self.eta_scale
        wave = typical * templates
        along = (wave * templates).sum(dim=(1, 2)) / count / self.eta_scale
        return (
            (wave.square().sum() + self.smoothness * slopes.square().sum()) / 2,
            typical * wave - self.smoothness * slopes.diff(dim=-1),
            along[owner] * amplitude.sign(),
        )


def _norms(templates: Tensor) -> Tensor:
    """Return l2 norms, shape (template, 1, 1); 1 for a template of zeros."""
    norms = templates.flatten(1).norm(dim=1)[:, None, None]
    return torch.where(norms > 0, norms, 1.0)


def _bounds(events: Events, penalty: Penalty, variables: _Variables) -> Bounds:
    """Amplitudes keep to the signs that the penalty allows; all else is free."""
    templates, amplitude, baseline = variables.start
    up, down = (sign[events.template.cpu()] for sign in _signs(penalty, len(templates)))
    anything = (torch.full_like(templates, torch.inf), torch.full_like(baseline, torch.inf))
    lowest = torch.where(down, -torch.inf, 0.0).to(amplitude)
    highest = torch.where(up, torch.inf, 0.0).to(amplitude)
    return Bounds(
        *(
            variables.pack((sign * anything[0], limit, sign * anything[1])).cpu().numpy()
            for sign, limit in ((-1, lowest), (1, highest))
        )
    )


def _signs(penalty: Penalty, n_templates: int) -> tuple[Tensor, Tensor]:
    """Whether the amplitudes of each template may be positive, and negative."""
    ones = torch.ones(n_templates, 1)
    return penalty.project(ones)[:, 0] > 0, penalty.project(-ones)[:, 0] < 0


def _mean_square(amplitude: Tensor, owner: Tensor, n_templates: int) -> Tensor:
    """Mean square amplitude of the events of each template."""
    count = torch.bincount(owner, minlength=n_templates).clamp(min=1)
    total = amplitude.new_zeros(n_templates).index_add(0, owner, amplitude.square())
    return (total / count).clamp(min=1e-12)
