"""Attributes of an estimator that follow from what its trainer has learned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from spikecdl.events.model import EventModel
from spikecdl.training.base import COVARIATES


class LearnedAttributes:
    """Templates, and what changes rates and events, of a fitted `DCEA`."""

    tensors_: dict[str, Tensor]
    unit_tensors_: dict[str, Tensor]
    bin_size_: float
    _n_onsets: int

    _settings: Callable[[], Any]

    @property
    def templates_(self) -> np.ndarray:
        """Templates of unit l2 norm."""
        return self.tensors_["templates"].cpu().numpy()

    @property
    def event_timing_(self) -> np.ndarray:
        """Rate of events in each bin of a window over its mean (template, onset)."""
        if "event_timing" not in self.tensors_:
            return np.ones((len(self.templates_), self._n_onsets))
        model = EventModel.from_file(self.tensors_, np.zeros((1, 1)))
        return np.exp(model.log_timing(self._n_onsets))

    @property
    def history_filter_(self) -> np.ndarray:
        """Change of eta by lag after a spike, shape (unit, lag)."""
        history = self._settings().history
        if history is None:
            raise AttributeError("`history_filter_` needs a fit with `history`")
        basis = history.basis(self.bin_size_)
        coefficients = self.unit_tensors_[COVARIATES].cpu()
        return (coefficients[:, : len(basis)] @ basis).numpy()

    @property
    def history_lags_(self) -> np.ndarray:
        """Lags of the history filter, in seconds."""
        return self.bin_size_ * np.arange(1, 1 + self.history_filter_.shape[1])
