"""Training an auto-encoder by gradient steps on the likelihood of what it decodes."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from spikecdl.model.autoencoder import UnrolledAutoencoder
from spikecdl.model.dictionary import ConvDictionary
from spikecdl.model.encoder import UnrolledEncoder
from spikecdl.solvers.events import Events
from spikecdl.solvers.implicit import ImplicitEncoder
from spikecdl.training.base import Learned, Observations, OnEpoch, Problem
from spikecdl.training.dictionary_update import update_dictionary
from spikecdl.training.distributed import current_processes
from spikecdl.training.initialization import initial_templates


class GradientSteps(ABC):
    """Adam on the likelihood of the decoded observations, in mini-batches.

    What back-propagates through which encoder is up to the subclass, a dataclass of its settings.
    """

    #: Settings of every subclass; see `Unrolled`.
    learning_rate: float
    epsilon: float
    batch_size: int
    init: str
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
            found = update_dictionary(
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
        if self.init == "data":
            eta = rows.baseline.expand_as(rows.y)
            templates = initial_templates(rows, eta, shape[0], shape[2], problem.generator)
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
        total, whole, processes = 0.0, model.encoder.penalty, current_processes()
        learned = [parameter for group in adam.param_groups for parameter in group["params"]]
        for number, batch in enumerate(order.split(self.batch_size)):
            mine = batch[processes.part(len(batch))] if len(batch) >= processes.size else batch
            part = data.take(mine).load()
            model.encoder.penalty = data.share(whole, mine)
            seen = part.mask.sum().double()
            share = seen / processes.total(seen)
            loss = share * model.loss(part.y, baseline[mine], part.mask, part.family)
            value = float(processes.total(loss.detach()))
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"the loss is {value} at epoch {epoch}, step {number + 1}; lower "
                    f"`learning_rate` (={self.learning_rate}){self.remedy}"
                )
            adam.zero_grad()
            loss.backward()
            for parameter in learned:
                parameter.grad = processes.total(parameter.grad)
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


_DICTIONARIES = ("templates", "analysis", "synthesis")
_UNTIED = {  # tensors of its own that the encoder learns, and where it keeps them
    "analysis": "encoder.analysis.templates",
    "synthesis": "encoder.dictionary.templates",
    "bias": "encoder.bias",
}


@dataclass(frozen=True)
class Unrolled(GradientSteps):
    """Adam on the likelihood of the decoded observations, in mini-batches.

    Parameters
    ----------
    n_unrolled : int
        Layers of the encoder, T.
    accelerated : bool
        FISTA layers if true, else ISTA.
    tied : bool
        One dictionary everywhere (DCEA-C); if false, analysis, synthesis and decoder learn apart,
        and so does a bias per template (DCEA-UC).
    step : float, optional
        Step size of a layer; None: see `UnrolledEncoder`.
    stabilizer : float, optional
        Peak of the Elu that the residual goes through; see `UnrolledEncoder`.
    learning_rate, epsilon : float
        Of Adam.
    batch_size : int
        Windows per step (trials, where the penalty couples units).
    init : {"data", "random"}
        Stretches of the data, or normal noise, at unit norm.

    References
    ----------
    Tolooshams, Song, Temereanca and Ba, ICML 2020, arXiv:1907.03211.

    Examples
    --------
    >>> import spikecdl
    >>> spikecdl.DCEA(trainer=spikecdl.Unrolled(n_unrolled=50, tied=False)).trainer.tied
    False
    """

    n_unrolled: int = 100
    accelerated: bool = True
    tied: bool = True
    step: float | None = None
    stabilizer: float | None = None
    learning_rate: float = 1e-2
    epsilon: float = 1e-8
    batch_size: int = 32
    init: str = "data"
    name: ClassVar[str] = "unrolled"
    default_epochs: ClassVar[int] = 20
    remedy: ClassVar[str] = " or `step`"

    def _autoencoder(self, problem: Problem, tensors: dict[str, Tensor]) -> UnrolledAutoencoder:
        dictionaries = {
            name: ConvDictionary(tensors[name].clone()) for name in _DICTIONARIES if name in tensors
        }
        decoder, data = dictionaries["templates"], problem.windows()
        encoder = UnrolledEncoder(
            data.take(slice(0, 1)).family,  # that of a batch comes with it
            dictionaries.get("synthesis", decoder),
            problem.penalty,
            self.n_unrolled,
            accelerated=self.accelerated,
            step=self.step,
            analysis=dictionaries.get("analysis"),
            bias=tensors["bias"].clone() if "bias" in tensors else None,
            stabilizer=self.stabilizer,
        )
        model = UnrolledAutoencoder(encoder, decoder)
        self._set_weight(problem, data, model)
        return model

    def _more_tensors(self, problem: Problem, templates: Tensor) -> dict[str, Tensor]:
        if self.tied:
            return {}
        data = problem.windows()
        penalty = problem.weight(problem.penalty, ConvDictionary(templates), data, data.baseline)
        bias = torch.as_tensor(penalty.weight, dtype=templates.dtype).mean()
        return {
            "analysis": templates.clone(),
            "synthesis": templates.clone(),
            "bias": bias.expand(len(templates), 1).clone(),
        }

    def _tensors(self, model: UnrolledAutoencoder) -> dict[str, Tensor]:
        more = {} if self.tied else _UNTIED
        return super()._tensors(model) | {k: model.get_parameter(at) for k, at in more.items()}

    def _set_weight(self, problem: Problem, data: Observations, model: UnrolledAutoencoder) -> None:
        if self.tied:  # untied weights learn thresholds
            super()._set_weight(problem, data, model)


@dataclass(frozen=True)
class Implicit(GradientSteps):
    """Adam on the likelihood of the decoded observations, through codes that are solved.

    The loss and its gradient are those that `Unrolled` tends to as its layers become many; see
    `ImplicitEncoder`.  Codes are solved from nothing in every step, so that a fit that was broken
    off goes on to the same bits.

    Parameters
    ----------
    tol : float
        Violation of optimality at which codes are accepted, relative to the penalty weight.
    max_iter : int
        Iterations of `sparse_code` at the most.
    learning_rate, epsilon : float
        Of Adam.
    batch_size : int
        Windows per step (trials, where the penalty couples units).
    init : {"data", "random"}
        Stretches of the data, or normal noise, at unit norm.

    References
    ----------
    Bertrand, Klopfenstein, Blondel, Vaiter, Gramfort and Salmon, ICML 2020, arXiv:2002.08943.
    Tolooshams and Ba, TMLR 2022, arXiv:2106.00058.

    Examples
    --------
    >>> import spikecdl
    >>> spikecdl.DCEA(trainer=spikecdl.Implicit(batch_size=8)).trainer.batch_size
    8
    """

    tol: float = 1e-3
    max_iter: int = 3000
    learning_rate: float = 1e-2
    epsilon: float = 1e-8
    batch_size: int = 32
    init: str = "data"
    name: ClassVar[str] = "implicit"
    default_epochs: ClassVar[int] = 20

    def _autoencoder(self, problem: Problem, tensors: dict[str, Tensor]) -> UnrolledAutoencoder:
        data, dictionary = problem.windows(), ConvDictionary(tensors["templates"].clone())
        family = data.take(slice(0, 1)).family  # that of a batch comes with it
        encoder = ImplicitEncoder(
            family, dictionary, problem.penalty, tol=self.tol, max_iter=self.max_iter
        )
        model = UnrolledAutoencoder(encoder)
        self._set_weight(problem, data, model)
        return model
