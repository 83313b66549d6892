"""Comparison methods: simpler or older models of the same counts.

Each is fitted by ``fit(counts)`` and predicts by ``predict(counts)``, as `spikecdl.DCEA` does.
Those of images are in `spikecdl.denoise`.
"""

from __future__ import annotations

from spikecdl.baselines.bcomp import BCOMP
from spikecdl.baselines.glm import GLM, Basis, onsets, true_onsets
from spikecdl.baselines.ppseq import PPSeq
from spikecdl.baselines.psth import PSTH, ConstantRate

__all__ = ["BCOMP", "GLM", "PSTH", "Basis", "ConstantRate", "PPSeq", "onsets", "true_onsets"]
