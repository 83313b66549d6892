"""The rivals of `spikecdl.DCEA`: simpler or older models of the same counts.

Each is fitted by ``fit(counts)`` and predicts by ``predict(counts)``, as `spikecdl.DCEA` does; but
for those of images: `VST`, which learns nothing, `SPDA`, which learns from the counts that it
predicts, and `ResidualCNN`, a torch module.
"""

from __future__ import annotations

from spikecdl.baselines.bases import Basis
from spikecdl.baselines.bcomp import BCOMP
from spikecdl.baselines.constant import ConstantRate
from spikecdl.baselines.glm import GLM
from spikecdl.baselines.psth import PSTH
from spikecdl.baselines.residual_cnn import ResidualCNN
from spikecdl.baselines.spda import SPDA
from spikecdl.baselines.stimuli import onsets, true_onsets
from spikecdl.baselines.vst import VST

__all__ = [
    "BCOMP",
    "GLM",
    "PSTH",
    "SPDA",
    "VST",
    "Basis",
    "ConstantRate",
    "ResidualCNN",
    "onsets",
    "true_onsets",
]
