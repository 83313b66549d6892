"""Attributes of an estimator that follow from what its trainer has learned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from spikecdl.events.model import EventModel
from spikecdl.events.participation import participation
from spikecdl.events.speeds import Speeds
from spikecdl.training.base import COVARIATES
from spikecdl.training.ingredients import Chosen
from spikecdl.training.marginal import AtSpeeds, Marginal
from spikecdl.validation import real, shown

if TYPE_CHECKING:
    import pandas as pd


class LearnedAttributes:
    """Templates, and what changes rates and events, of a fitted `DCEA`."""

    tensors_: dict[str, Tensor]
    unit_tensors_: dict[str, Tensor]
    unit_ids_: tuple[int | str, ...]
    ingredients_: dict[str, dict[str, float | None]]
    bin_size_: float
    _n_onsets: int

    _settings: Callable[[], Any]

    @property
    def templates_(self) -> np.ndarray:
        """Templates of unit l2 norm."""
        return self.tensors_["templates"].cpu().numpy()

    @property
    def of_templates_(self) -> dict[str, np.ndarray]:
        """The ``original`` and the ``speed`` of each template, after `at_speeds`."""
        columns = {"original": int, "speed": float}
        known = {name: self.tensors_[name].cpu().numpy() for name in columns.keys() & self.tensors_}
        return {
            name: known[name].astype(columns[name]).round(5) for name in columns if name in known
        }

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
        history = self._settings().terms.history
        if history is None:
            raise AttributeError("`history_filter_` needs a fit with `history`")
        basis = history.basis(self.bin_size_)
        coefficients = self.unit_tensors_[COVARIATES].cpu()
        return (coefficients[:, : len(basis)] @ basis).numpy()

    @property
    def history_lags_(self) -> np.ndarray:
        """Lags of the history filter, in seconds."""
        return self.bin_size_ * np.arange(1, 1 + self.history_filter_.shape[1])

    @property
    def signal_effects_(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Values of each signal, and the change of eta at them (unit, value)."""
        history, drift, _, signals = self._settings().terms
        first = 0 if history is None else len(history.basis(self.bin_size_))
        first, found = first + (0 if drift is None else drift.n_columns), {}
        for name, function in signals.items():
            values = torch.linspace(function.start, function.stop, 65)
            last = first + function.n_columns
            effect = self.unit_tensors_[COVARIATES][:, first:last].cpu().float() @ function(values)
            found[name] = values.numpy(), effect.numpy()
            first = last
        return found

    def at_speeds(self, X: Any, speeds: Sequence[float], learn_templates: bool = False) -> Any:
        """Return a model of other counts, whose events are those of this one at other speeds.

        For replay: sequences learned while an animal moved, sought while it rests, compressed in
        time or reversed.  And for sequences that are not always equally fast: learned at one speed,
        then at all of them with ``learn_templates``.

        Parameters
        ----------
        X : BinnedSpikes, or an array as in `fit`
            To which the rates of events of each speed and the baselines are fitted, by EM.  Bins
            may be of another size than those of the fit, as for faster events they should.
        speeds : sequence of float
            How many times faster than its template an event may be; negative: backward.
        learn_templates : bool
            Whether templates are learned, too, from events of all speeds.

        Returns
        -------
        DCEA
            With a template for each template and speed.  Tables of its events have two more
            columns, ``original``, the template of this model, and ``speed``.  Events last as long
            as the slowest; while one lasts, no other of the same template begins, and they prefer
            no time of a window.  What the fit has chosen stays: history, drift and the like.

        Raises
        ------
        ValueError
            If speeds are zero or not distinct, or an event is longer than a window; if the model
            has no rates of events.
        """
        from sklearn.base import clone

        values = np.array([real("speeds", one) for one in speeds])
        if not values.size or not values.all() or len(np.unique(values)) < values.size:
            raise ValueError(f"`speeds` (={shown(speeds)}) must be distinct numbers other than 0")
        if "event_rates" not in self.tensors_:
            raise ValueError("`at_speeds` needs rates of events: a family with a compiled cost")
        bin_size = getattr(X, "bin_size", self.bin_size_)
        known = EventModel.from_file(self.tensors_, np.zeros((1, 1)))
        bounded = np.array(self._settings().trainer.bounded(len(known)))
        chosen = {name: one for name, one in self.ingredients_.items() if name != "timing"}
        played = Speeds.of(values, known.length, bin_size / self.bin_size_)
        trainer = AtSpeeds(
            known=replace(known, nonnegative=bounded),
            chosen=Chosen.from_table(chosen),
            speeds=played,
            learn_templates=bool(learn_templates),
        )
        one: Any = clone(self)
        one.set_params(
            n_templates=len(known) * len(values),
            template_length=played.length * bin_size,
            trainer=trainer,
            n_epochs=None,
        )
        one.fit(X)
        one.trainer = one.trainer_ = Marginal(overlap=2, distance=0.0)
        return one

    @property
    def has_unit_table(self) -> bool:
        """Whether there is a `unit_table`: of joint templates whose events were summed out."""
        return self._settings().layout.is_joint and "row_gain" in self.tensors_

    def unit_table(self, level: float = 0.95, fdr: float = 0.1) -> pd.DataFrame:
        """Return which units take part in the events of each joint template, when, and how much.

        Parameters
        ----------
        level : float
            Probability with which an interval is meant to hold the truth.
        fdr : float
            False discovery rate of the units of a template that take part.

        Returns
        -------
        DataFrame
            A row for each template and unit: ``time`` of the unit's largest change after the onset
            of the template (s), ``ratio`` of its rate then to its baseline in an event of mean
            amplitude (of odds, for binomial counts; ``change`` for signals), each with ``_lower``
            and ``_upper`` ends; ``gain``, the evidence of its waveform over none, in nats;
            ``probability`` that it is not zero, ``q_value``, whether the unit ``takes_part``, and
            its place in the ``order`` of those that do.

        Raises
        ------
        ValueError
            If the layout is not joint, or events were not summed out in training.
        """
        import pandas as pd

        if not self.has_unit_table:
            raise ValueError(
                "`unit_table` needs layout='joint', in which each unit has a waveform, and "
                "trainer='marginal'"
            )
        for name, value in (("level", level), ("fdr", fdr)):
            if not 0 < real(name, value) < 1:
                raise ValueError(f"`{name}` (={value!r}) must be between 0 and 1")
        model = EventModel.from_file(self.tensors_, np.zeros((1, len(self.unit_ids_))))
        is_log = self._settings().family.integer_valued
        tables, rng = [], np.random.default_rng(0)
        for template in range(len(model)):
            table = pd.DataFrame(participation(model, template, level, is_log, rng))
            table.insert(0, "unit", list(self.unit_ids_))
            table.insert(0, "template", template)
            table["takes_part"] = (table["q_value"] <= fdr) & (table["probability"] > 0.5)
            order = table["time"].where(table["takes_part"]).rank(method="first")
            tables.append(table.assign(order=order.astype("Int64")))
        found = pd.concat(tables, ignore_index=True)
        times = [name for name in found if name.startswith("time")]
        found[times] *= self.bin_size_
        if is_log:
            changes = [name for name in found if name.startswith("change")]
            found[changes] = np.exp(found[changes])
            found.columns = found.columns.str.replace("change", "ratio")
        return found
