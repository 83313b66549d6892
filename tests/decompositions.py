"""Made-up decompositions of any size, family and layout, for the tests of figures and reports."""

from __future__ import annotations

import numpy as np
import torch

from spikecdl.data import BinnedSpikes, Decomposition
from spikecdl.model.families import FAMILIES


def made_up(
    family: str = "binomial",
    layout: str = "shared",
    *,
    trials: int = 4,
    units: int = 2,
    bins: int = 120,
    n_templates: int = 2,
    length: int = 12,
    bin_size: float = 0.005,
    n_pooled: int = 1,
    n_events: int = 3,
    two_sided: bool = False,
    mask: np.ndarray | None = None,
    t_start: float = 0.0,
    unit_ids: tuple = (),
    seed: int = 0,
) -> Decomposition:
    """Draw counts with ``n_events`` events of each template per window, with the rate they have."""
    rng = np.random.default_rng(seed)
    joint = layout == "joint"
    shape = (trials, units, bins)
    seen = np.ones(shape, bool) if mask is None else np.broadcast_to(mask, shape)
    bump = np.hanning(length + 2)[1:-1]
    templates = np.stack([np.roll(bump, k) * (-1) ** k for k in range(n_templates)])[:, None]
    if joint:
        delays = np.linspace(0, length / 2, units).astype(int)
        templates = np.stack([[np.roll(t[0], d) for d in delays] for t in templates])
    templates = templates / np.linalg.norm(templates, axis=(1, 2), keepdims=True)

    codes = np.zeros((trials, 1 if joint else units, n_templates, bins - length + 1))
    for window in np.ndindex(codes.shape[:3]):
        onsets = rng.choice(codes.shape[3], size=min(n_events, codes.shape[3]), replace=False)
        codes[window][onsets] = rng.uniform(3, 6, len(onsets)) * (units if joint else 1) ** 0.5
    if two_sided:
        codes *= rng.choice([-1, 1], size=codes.shape)
    added = np.zeros((trials, units, n_templates, bins))
    for trial, unit, k in np.ndindex(added.shape[:3]):
        template = templates[k, unit if joint else 0]
        added[trial, unit, k] = np.convolve(codes[trial, 0 if joint else unit, k], template)

    model = FAMILIES[family]().resolve(torch.tensor(float(n_pooled))).typical()
    counted = model.integer_valued
    per_bin = rng.uniform(5, 20, size=(trials, units)) * (0.005 if counted else 0.1)
    exposure = float(model.exposure(torch.zeros(())))
    baseline = model.link(torch.as_tensor(exposure * per_bin)[..., None]).numpy()
    eta = torch.as_tensor(baseline + added.sum(axis=2))
    mean = model.mean(eta).numpy()
    y = model.sample(eta, generator=torch.Generator().manual_seed(seed)).numpy()
    unit = n_pooled * bin_size if counted else 1.0
    return Decomposition(
        counts=BinnedSpikes.from_array(
            y, bin_size, mask=seen, t_start=t_start, n_pooled=n_pooled, unit_ids=unit_ids or None
        ),
        templates=templates,
        codes=codes,
        rate=np.where(seen, mean / unit, np.nan),
        baseline=exposure * per_bin / unit,
        contributions=added,
        family=model.per_trial(),
        layout=layout,
        deviance_explained=0.123,
        deviance_explained_per_unit=np.linspace(0.1, 0.2, units),
    )
