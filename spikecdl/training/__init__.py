"""Training: how templates are learned from observations."""

from __future__ import annotations

from spikecdl.training.alternating import Alternating
from spikecdl.training.implicit import Implicit
from spikecdl.training.observations import Observations
from spikecdl.training.problem import Learned, OnEpoch, Problem, Trainer
from spikecdl.training.unrolled import Unrolled
from spikecdl.training.weight import Fixed, Fraction, NullScore, Weight, lambda_max

__all__ = [
    "TRAINERS",
    "Alternating",
    "Fixed",
    "Fraction",
    "Implicit",
    "Learned",
    "NullScore",
    "Observations",
    "OnEpoch",
    "Problem",
    "Trainer",
    "Unrolled",
    "Weight",
    "lambda_max",
]

#: Values of ``gradient`` by name.
TRAINERS: dict[str, type] = {trainer.name: trainer for trainer in (Alternating, Implicit, Unrolled)}
