"""Refinement: templates, amplitudes and baselines fitted together, places of events fixed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch import Tensor

from spikecdl.events import Events
from spikecdl.penalties import Penalty
from spikecdl.ranks import Ranks
from spikecdl.training._amplitudes import Amplitudes, Fit
from spikecdl.training.observations import Observations

_LEAST = 0.05  # curvature of a template's bin, as a fraction of the mean, in whose unit it is


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
    max_iter: int = 3,
    smoothness: float = 0.0,
    ranks: Ranks | None = None,
) -> Refined:
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
    ranks : Ranks, optional
        Processes that share the windows; None: this one has all.  The cost is that of all.
    """
    ranks = ranks or Ranks()
    rows, device = data.rows().to("cpu"), templates.device
    events, waves = events.to("cpu"), templates.double().cpu()
    precision = _precision(rows, events, len(waves), learn_templates, ranks) * learn_amplitudes
    best = Amplitudes(
        rows,
        events,
        allowed_signs(penalty, len(waves)),
        precision,
        baseline.cpu().reshape_as(rows.baseline),
        learn_amplitudes,
    )

    def fit_to(templates: Tensor) -> Fit:
        return best(templates).total(ranks)

    fit = fit_to(waves)
    if learn_templates and (fit.curvature > 0).any():
        waves = _descend(fit_to, waves, fit, max_iter, smoothness)
        fit = fit_to(waves)
    return Refined(
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
    rows: Observations, events: Events, n_templates: int, learn_templates: bool, ranks: Ranks
) -> Tensor:
    """One over the variance of the prior of each template's amplitudes; see `refine`."""
    square = events.amplitude.double().square()
    sums = torch.stack([torch.ones_like(square), square], dim=1)
    sums = sums.new_zeros(n_templates, 2).index_add(0, events.template, sums)
    count, square = ranks.total(sums).unbind(dim=1)
    count = count.clamp(min=1)
    if learn_templates:
        return 1 / (count * rows.family.eta_scale**2)
    return 1 / (square / count).clamp(min=1e-12)
