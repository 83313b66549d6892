"""What every trainer is asked: the problem, and what it answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from spikecdl.events import Events
from spikecdl.penalties import Penalty
from spikecdl.training.observations import Observations
from spikecdl.training.weight import Weight


@dataclass(frozen=True)
class Problem:
    """Observations and the model to be learned from them.

    Parameters
    ----------
    data : Observations
    n_templates, length : int
        Templates, and bins in each.
    penalty : Penalty
        Its weight is set by ``weight``.
    weight : Weight
        How heavy the penalty is.
    n_epochs : int
    generator : torch.Generator
        On the CPU; the only source of randomness.
    """

    data: Observations
    n_templates: int
    length: int
    penalty: Penalty
    weight: Weight
    n_epochs: int
    generator: torch.Generator

    def windows(self) -> Observations:
        """Lay trials and units along one axis, unless the penalty needs them apart."""
        return self.data if self.penalty.coupled else self.data.rows()


@dataclass
class Learned:
    """State of training: all that is needed to go on, and in the end the result.

    Parameters
    ----------
    tensors : dict
        ``templates`` (template, channel, bin), ``baseline`` in the shape of that of
        `Problem.windows`, and what else the trainer keeps.
    epoch : int
        Epochs completed.
    history : list of dict
        One record per epoch.
    converged : bool
    """

    tensors: dict[str, Tensor]
    epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    converged: bool = False


#: Called after every epoch with the state of training.
OnEpoch = Callable[[Learned], None]


class Trainer(Protocol):
    """A way of learning templates, and of coding observations with them."""

    name: ClassVar[str]
    default_epochs: ClassVar[int]

    def fit(self, problem: Problem, learned: Learned | None, on_epoch: OnEpoch) -> Learned:
        """Train, or go on from ``learned``."""

    def encode(self, problem: Problem, tensors: dict[str, Tensor]) -> tuple[Events, Tensor]:
        """Return events and baseline for the problem's data, the events by ``data.rows()``."""
