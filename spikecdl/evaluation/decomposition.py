"""The rate that templates, codes and baselines give, as a `Decomposition`."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from spikecdl import conversion
from spikecdl.conversion import Layout
from spikecdl.data import BinnedSpikes, Decomposition
from spikecdl.evaluation import deviance
from spikecdl.model.dictionary import ConvDictionary
from spikecdl.training import Observations


def decompose(
    counts: BinnedSpikes,
    layout: Layout,
    data: Observations,
    templates: Tensor,
    codes: Tensor,
    baseline: Tensor,
) -> Decomposition:
    """Return codes, rates, and the contribution of each template to eta.

    ``data`` are the counts as observations.  Shapes: templates (template, channel, bin), of unit l2
    norm; codes (trial, unit, template, onset); baseline, in units of eta, as ``data.baseline``.
    """
    parts = [
        ConvDictionary(template[None])(codes[..., [c], :]).detach()
        for c, template in enumerate(templates)
    ]
    eta = sum(parts) + baseline
    lost = deviance.deviances_per_unit(data, eta, deviance.null_rate(data))
    return Decomposition(
        counts=conversion.with_sub_bins(counts, data.family),
        templates=templates.cpu().numpy(),
        codes=codes.cpu().numpy(),
        rate=conversion.rates(counts, layout.squeeze(data.family.mean(eta)), data.family),
        baseline=conversion.baseline_rates(counts, layout, data, baseline),
        contributions=np.stack([layout.squeeze(part) for part in parts], axis=2),
        family=data.family.per_trial(),
        layout=layout.name,
        deviance_explained=float(deviance.fraction_explained(*lost.sum(1))),
        deviance_explained_per_unit=deviance.fraction_explained(*lost),
    )
