"""Training by back-propagation: gradient steps through an unrolled or an implicit encoder."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from spikecdl.model.dictionary import ConvDictionary
from spikecdl.model.encoder import UnrolledAutoencoder, UnrolledEncoder
from spikecdl.model.penalties import Penalty
from spikecdl.solvers.events import Events
from spikecdl.solvers.implicit import ImplicitEncoder
from spikecdl.solvers.parallel import current_processes
from spikecdl.training.base import Learned, Observations, OnEpoch, Problem, Trainer
from spikecdl.training.dictionary_update import Updater
from spikecdl.training.initialization import initial_templates


@dataclass(frozen=True, kw_only=True)
class GradientSteps(Trainer):
    """Adam on the likelihood of the decoded observations, in mini-batches.

    A subclass builds the network.
    """

    learning_rate: float = 1e-2
    epsilon: float = 1e-8
    batch_size: int = 32
    init: str = "data"
    default_epochs: ClassVar[int] = 20
    #: Settings to lower when the loss stops being finite, besides the learning rate.
    remedy: ClassVar[str] = ""

    @abstractmethod
    def _autoencoder(self, problem: Problem, tensors: dict[str, Tensor]) -> UnrolledAutoencoder:
        """Build the network from its tensors."""

    def _more_tensors(self, problem: Problem, templates: Tensor) -> dict[str, Tensor]:
        """Return what is learned besides templates and baseline, at the start."""
        return {}

    def _tensors(self, model: UnrolledAutoencoder) -> dict[str, Tensor]:
        """Return what has been learned besides the baseline."""
        return {"templates": model.dictionary.templates}

    def _penalty(self, problem: Problem, model: UnrolledAutoencoder) -> Penalty:
        """Return the penalty, weighted for the present templates, so that a fit can go on."""
        data = problem.windows()
        return problem.weight(problem.penalty, model.dictionary, data, data.baseline)

    def fit(self, problem: Problem, learned: Learned | None, on_epoch: OnEpoch) -> Learned:
        """Train, or go on from the state of an earlier run.

        Processes of torch.distributed share the windows of each batch.
        """
        learned = self._begin(problem) if learned is None else learned
        model, data = self._autoencoder(problem, learned.tensors), problem.windows()
        level = learned.state["baseline"].clone().requires_grad_(data.learn_baseline)
        parameters = list(model.parameters()) + [level] * data.learn_baseline
        adam = torch.optim.Adam(parameters, lr=self.learning_rate, eps=self.epsilon)
        _restore(adam, learned.state)
        problem.generator.set_state(learned.state["generator"])
        for number in range(learned.epoch + 1, problem.n_epochs + 1):
            loss = self._epoch(problem, model, level, adam, number)
            history = [*learned.history, {"epoch": number, "loss": loss}]
            learned = replace(
                learned,
                tensors={k: v.detach().clone() for k, v in self._tensors(model).items()},
                state={
                    "baseline": level.detach().clone(),
                    "generator": problem.generator.get_state(),
                    **_state(adam),
                },
                epoch=number,
                history=history,
                converged=_settled(history),
            )
            on_epoch(learned)
        return learned

    def encode(self, problem: Problem, tensors: dict[str, Tensor]) -> tuple[Events, Tensor]:
        """Return the encoder's events, and the baseline of the problem's data."""
        model, data = self._autoencoder(problem, tensors), problem.windows()
        penalty, baseline = self._penalty(problem, model), data.baseline
        events = _events(model, data, penalty, baseline)
        if data.learn_baseline:
            fixed = {"learn_templates": False, "learn_amplitudes": False}
            templates = model.dictionary.templates.detach()
            found = Updater(data, problem.penalty)(templates, events, baseline, **fixed)
            baseline = found.baseline.to(data.dtype)
            events = _events(model, data, penalty, baseline)
        return events, baseline.reshape_as(problem.data.baseline)

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
        tensors = {"templates": templates, **self._more_tensors(problem, templates)}
        level, generator = problem.windows().baseline[..., :1], problem.generator.get_state()
        state = {"baseline": level, "generator": generator}
        return Learned(tensors, state, unit_tensors=dict(problem.unit_tensors))

    def _epoch(
        self,
        problem: Problem,
        model: UnrolledAutoencoder,
        level: Tensor,
        adam: torch.optim.Adam,
        epoch: int,
    ) -> float:
        """Take a step for every batch; return the mean loss.

        The ``level`` of each window is its baseline in the first bin.
        """
        data, processes = problem.windows(), current_processes()
        offset = data.baseline - data.baseline[..., :1]
        penalty, total = self._penalty(problem, model), 0.0
        order = torch.randperm(len(data.y), generator=problem.generator)
        learned = [parameter for group in adam.param_groups for parameter in group["params"]]
        for number, batch in enumerate(order.split(self.batch_size)):
            mine = batch[processes.part(len(batch))] if len(batch) >= processes.size else batch
            part = data.take(mine).load()
            seen = part.mask.sum().double()
            share = seen / processes.total(seen)
            observed = (part.y, level[mine] + offset[mine], part.mask, part.family)
            loss = share * model.loss(*observed, data.of_trials(penalty, mine))
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
            for module in model.modules():
                if isinstance(module, ConvDictionary):
                    module.normalize_()
            total += value * len(batch)
        return total / len(order)


@torch.no_grad()
def _events(
    model: UnrolledAutoencoder, data: Observations, penalty: Penalty, baseline: Tensor
) -> Events:
    """Return the codes that are not zero."""
    found = []
    for part, some in data.parts(len(model.dictionary.templates)):
        weighed = data.of_trials(penalty, part)
        codes = model.encoder(some.y, baseline[part], some.mask, some.family, weighed)
        found.append(Events.from_codes(codes.flatten(0, -3)).later(data.rows_of(part)[0]))
    return Events.joined(found)


def _state(adam: torch.optim.Adam) -> dict[str, Tensor]:
    """Return the state of Adam as flat tensors, by parameter number."""
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
    """Return whether the last epochs moved the loss by less than 1 % of all it has moved."""
    losses = [record["loss"] for record in history]
    if len(losses) < 4:
        return False
    moved = max(losses) - min(losses)
    return max(losses[-3:]) - min(losses[-3:]) <= 1e-2 * moved


_UNTIED = {  # further tensors of untied weights, and where the network keeps them
    "analysis": "encoder.analysis.templates",
    "synthesis": "encoder.dictionary.templates",
    "bias": "encoder.bias",
}


@dataclass(frozen=True)
class Unrolled(GradientSteps):
    """Adam through all layers of an unrolled encoder: the training of the paper.

    Parameters
    ----------
    n_unrolled : int
        Layers of the encoder, T.
    accelerated : bool
        FISTA layers if true, else ISTA.
    tied : bool
        One dictionary everywhere (DCEA-C).  If false, analysis, synthesis and decoder are learned
        apart, and so is a threshold per template (DCEA-UC).
    step : float, optional
        Step size of a layer; None: see `UnrolledEncoder`.
    stabilizer : float, optional
        Peak of the Elu applied to the residual; see `UnrolledEncoder`.
    learning_rate, epsilon : float
        Of Adam.
    batch_size : int
        Windows per step (trials, where the penalty groups units).
    init : {"data", "random"}
        Initial templates: stretches of the data, or normal noise, at unit norm.

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
    name: ClassVar[str] = "unrolled"
    remedy: ClassVar[str] = " or `step`"

    def _autoencoder(self, problem: Problem, tensors: dict[str, Tensor]) -> UnrolledAutoencoder:
        more: dict[str, Any] = {}
        synthesis = decoder = ConvDictionary(tensors["templates"].clone())
        if not self.tied:
            synthesis = ConvDictionary(tensors["synthesis"].clone())
            more["analysis"] = ConvDictionary(tensors["analysis"].clone())
            more["bias"] = tensors["bias"].clone()
        encoder = UnrolledEncoder(
            problem.windows().take(slice(0, 1)).family,  # each batch brings its own
            synthesis,
            problem.penalty,
            self.n_unrolled,
            accelerated=self.accelerated,
            step=self.step,
            stabilizer=self.stabilizer,
            **more,
        )
        return UnrolledAutoencoder(encoder, decoder)

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

    def _penalty(self, problem: Problem, model: UnrolledAutoencoder) -> Penalty:
        return super()._penalty(problem, model) if self.tied else problem.penalty


@dataclass(frozen=True)
class Implicit(GradientSteps):
    """Adam through the solution of the codes: the limit of infinitely many layers.

    Loss and gradient are those that `Unrolled` tends to as its layers become many; see
    `ImplicitEncoder`.  Every step solves for the codes from zero, so that a resumed fit gives the
    same bits.

    Parameters
    ----------
    tol : float
        Violation of optimality at which codes are accepted, relative to the penalty weight.
    max_iter : int
        Largest number of iterations of `sparse_code`.
    learning_rate, epsilon, batch_size, init
        See `Unrolled`.

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
    name: ClassVar[str] = "implicit"

    def _autoencoder(self, problem: Problem, tensors: dict[str, Tensor]) -> UnrolledAutoencoder:
        family = problem.windows().take(slice(0, 1)).family  # each batch brings its own
        dictionary = ConvDictionary(tensors["templates"].clone())
        encoder = ImplicitEncoder(
            family, dictionary, problem.penalty, tol=self.tol, max_iter=self.max_iter
        )
        return UnrolledAutoencoder(encoder)
