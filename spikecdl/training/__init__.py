"""Training: how templates are learned from observations."""

from __future__ import annotations

from spikecdl.training.alternating import Alternating, family_of_first_fit
from spikecdl.training.attributes import LearnedAttributes
from spikecdl.training.backprop import Implicit, Unrolled
from spikecdl.training.base import (
    COVARIATES,
    Choices,
    FitWarning,
    Fixed,
    Fraction,
    Learned,
    NotConvergedWarning,
    Observations,
    OnEpoch,
    Problem,
    Trainer,
    UniversalThreshold,
    Weight,
    lambda_max,
)
from spikecdl.training.covariates import with_covariates
from spikecdl.training.events import certainty, completed, evidence, has_exponential_loss
from spikecdl.training.ingredients import Chosen
from spikecdl.training.marginal import Marginal
from spikecdl.training.resampling import (
    drawn_counts,
    resampled_templates,
    windows_together,
)
from spikecdl.training.steps import AFTER, Steps, announce

#: Values of ``trainer`` by name.
TRAINERS: dict[str, type[Trainer]] = {
    trainer.name: trainer for trainer in (Alternating, Implicit, Marginal, Unrolled)
}
