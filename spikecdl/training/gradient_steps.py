"""Training an auto-encoder by gradient steps on the likelihood of what it decodes."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from spikecdl.autoencoder import UnrolledAutoencoder
from spikecdl.dictionary import ConvDictionary
from spikecdl.events import Events
from spikecdl.ranks import present as ranks_present
from spikecdl.training.observations import Observations
from spikecdl.training.problem import Learned, OnEpoch, Problem
from spikecdl.training.refine import refine
from spikecdl.training.starts import data_starts


class GradientSteps(ABC):
    """Adam on the likelihood of the decoded observations, in mini-batches.

    What back-propagates through which encoder is up to the subclass, a dataclass of its settings.
    """

    #: Settings of every subclass; see `Unrolled`.
    learning_rate: float
    epsilon: float
    batch_size: int
    start: str
    #: Settings to lower when the loss stops being finite, besides the learning rate.
    remedy: ClassVar[str] = ""

    @abstractmethod
    def _autoencoder(self, problem: Problem, tensors: dict[str, Tensor]) -> UnrolledAutoencoder:
        """Build the network from its tensors, and set the weight of its penalty."""

    def _more_tensors(self, problem: Problem, templates: Tensor) -> dict[str, Tensor]:
        """Return what is to be learned besides templates and baseline, at the start."""
        return {}

    def _tensors(self, model: UnrolledAutoencoder) -> dict[str, Tensor]:
        """Return what has been learned besides the baseline."""
        return {"templates": model.dictionary.templates}

    def _set_weight(self, problem: Problem, data: Observations, model: UnrolledAutoencoder) -> None:
        """Let the weight of the penalty follow the templates, so that a fit can go on from them."""
        model.encoder.penalty = problem.weight(
            problem.penalty, model.dictionary, data, data.baseline
        )

    def fit(self, problem: Problem, learned: Learned | None, on_epoch: OnEpoch) -> Learned:
        """Train, or go on from the state of an earlier run.

        Processes of torch.distributed share the windows of each batch.
        """
        learned = self._begin(problem) if learned is None else learned
        model = self._autoencoder(problem, learned.tensors)
        data = problem.windows()
        baseline = learned.tensors["baseline"].clone().requires_grad_(data.learn_baseline)
        parameters = list(model.parameters()) + [baseline] * data.learn_baseline
        adam = torch.optim.Adam(parameters, lr=self.learning_rate, eps=self.epsilon)
        _restore(adam, learned.tensors)
        problem.generator.set_state(learned.tensors["generator"])
        while learned.epoch < problem.n_epochs:
            began = time.perf_counter()
            self._set_weight(problem, data, model)
            loss = self._epoch(data, problem.generator, model, baseline, adam, learned.epoch + 1)
            record = {
                "epoch": learned.epoch + 1,
                "loss": loss,
                "seconds": time.perf_counter() - began,
            }
            tensors = {**self._tensors(model), "baseline": baseline}
            tensors = {name: value.detach().clone() for name, value in tensors.items()}
            tensors |= {**_state(adam), "generator": problem.generator.get_state()}
            history = [*learned.history, record]
            learned = Learned(tensors, learned.epoch + 1, history, _settled(history))
            on_epoch(learned)
        return learned

    def encode(self, problem: Problem, tensors: dict[str, Tensor]) -> tuple[Events, Tensor]:
        """Return the encoder's events, and the baseline as the problem's data give it."""
        model, data = self._autoencoder(problem, tensors), problem.windows()
        baseline = data.baseline
        events = _events(model, data, baseline)
        if data.learn_baseline:
            found = refine(
                data,
                model.dictionary.templates.detach(),
                events,
                problem.penalty,
                baseline,
                learn_templates=False,
                learn_amplitudes=False,
            )
            baseline = found.baseline.to(data.dtype)
            events = _events(model, data, baseline)
        return events, baseline.reshape(*problem.data.y.shape[:2], -1, 1)

    def _begin(self, problem: Problem) -> Learned:
        rows = problem.data.rows()
        shape = (problem.n_templates, rows.y.shape[1], problem.length)
        if self.start == "data":
            eta = rows.baseline.expand_as(rows.y)
            templates = data_starts(rows, eta, shape[0], shape[2], problem.generator)
        else:
            templates = torch.randn(shape, generator=problem.generator, dtype=rows.dtype)
            templates = templates.to(rows.baseline.device)
        templates = ConvDictionary(templates).normalize_().templates.detach()
        tensors = {"templates": templates, "baseline": problem.windows().baseline}
        tensors |= self._more_tensors(problem, templates)
        tensors["generator"] = problem.generator.get_state()
        return Learned(tensors)

    def _epoch(
        self,
        data: Observations,
        generator: torch.Generator,
        model: UnrolledAutoencoder,
        baseline: Tensor,
        adam: torch.optim.Adam,
        epoch: int,
    ) -> float:
        """Take a step for every batch; return the mean loss."""
        order = torch.randperm(len(data.y), generator=generator)
        total, whole, ranks = 0.0, model.encoder.penalty, ranks_present()
        learned = [parameter for group in adam.param_groups for parameter in group["params"]]
        for number, batch in enumerate(order.split(self.batch_size)):
            mine = batch[ranks.part(len(batch))] if len(batch) >= ranks.size else batch
            part = data.take(mine).load()
            model.encoder.penalty = data.share(whole, mine)
            seen = part.mask.sum().double()
            share = seen / ranks.total(seen)
            loss = share * model.loss(part.y, baseline[mine], part.mask, part.family)
            value = float(ranks.total(loss.detach()))
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"the loss is {value} at epoch {epoch}, step {number + 1}; lower "
                    f"`learning_rate` (={self.learning_rate}){self.remedy}"
                )
            adam.zero_grad()
            loss.backward()
            for parameter in learned:
                parameter.grad = ranks.total(parameter.grad)
            adam.step()
            for part_of_model in model.modules():
                if isinstance(part_of_model, ConvDictionary):
                    part_of_model.normalize_()
            total += value * len(batch)
        model.encoder.penalty = whole
        return total / len(order)


@torch.no_grad()
def _events(model: UnrolledAutoencoder, data: Observations, baseline: Tensor) -> Events:
    """Return the codes that are not zero."""
    whole, found = model.encoder.penalty, []
    for part, some in data.parts(len(model.dictionary.templates)):
        model.encoder.penalty = data.share(whole, part)
        codes = model.encoder(some.y, baseline[part], some.mask, some.family)
        found.append(Events.from_codes(codes.flatten(0, -3)).later(data.rows_of(part)[0]))
    model.encoder.penalty = whole
    return Events.joined(found)


def _state(adam: torch.optim.Adam) -> dict[str, Tensor]:
    """Flatten what Adam remembers: its state by parameter number."""
    return {
        f"adam.{number}.{name}": value.clone()
        for number, state in adam.state_dict()["state"].items()
        for name, value in state.items()
    }


def _restore(adam: torch.optim.Adam, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("adam."):
            _, number, name = key.split(".")
            state.setdefault(int(number), {})[name] = value
    if state:
        adam.load_state_dict({**adam.state_dict(), "state": state})


def _settled(history: list[dict[str, Any]]) -> bool:
    """Whether the last epochs moved the loss by less than a hundredth of all it has moved."""
    losses = [record["loss"] for record in history]
    if len(losses) < 4:
        return False
    moved = max(losses) - min(losses)
    return max(losses[-3:]) - min(losses[-3:]) <= 1e-2 * moved
