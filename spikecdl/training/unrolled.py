"""Training the paper's way: back-propagation through every layer of the encoder."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from spikecdl.autoencoder import UnrolledAutoencoder
from spikecdl.dictionary import ConvDictionary
from spikecdl.encoder import UnrolledEncoder
from spikecdl.events import Events
from spikecdl.training.observations import Observations
from spikecdl.training.problem import Learned, OnEpoch, Problem
from spikecdl.training.refine import refine
from spikecdl.training.starts import data_starts

_DICTIONARIES = ("templates", "analysis", "synthesis")


@dataclass(frozen=True)
class Unrolled:
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
    start : {"data", "random"}
        Stretches of the data, or normal noise, at unit norm.

    References
    ----------
    Tolooshams, Song, Temereanca and Ba, ICML 2020, arXiv:1907.03211.

    Examples
    --------
    >>> import spikecdl
    >>> spikecdl.DCEA(gradient=spikecdl.Unrolled(n_unrolled=50, tied=False)).gradient.tied
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
    start: str = "data"
    name: ClassVar[str] = "unrolled"
    default_epochs: ClassVar[int] = 20

    def fit(self, problem: Problem, learned: Learned | None, on_epoch: OnEpoch) -> Learned:
        """Train, or go on from the state of an earlier run."""
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
            if self.tied:  # follows the templates, so that a fit can go on from them
                model.encoder.penalty = problem.weight(
                    problem.penalty, model.dictionary, data, data.baseline
                )
            loss = self._epoch(data, problem.generator, model, baseline, adam, learned.epoch + 1)
            record = {
                "epoch": learned.epoch + 1,
                "loss": loss,
                "seconds": time.perf_counter() - began,
            }
            tensors = {**_tensors(model), "baseline": baseline.detach().clone()}
            tensors |= {**_state(adam), "generator": problem.generator.get_state()}
            history = [*learned.history, record]
            learned = Learned(tensors, learned.epoch + 1, history, _settled(history))
            on_epoch(learned)
        return learned

    def encode(self, problem: Problem, tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the encoder's codes, and the baseline as the problem's data give it."""
        model, data = self._autoencoder(problem, tensors), problem.windows()
        baseline = data.baseline
        with torch.no_grad():
            codes = model.encoder(data.y, baseline, data.mask, data.family)
            if data.learn_baseline:
                found = refine(
                    data,
                    model.dictionary.templates,
                    Events.from_codes(codes.flatten(0, -3)),
                    problem.penalty,
                    baseline,
                    learn_templates=False,
                    learn_amplitudes=False,
                )
                baseline = found.baseline.to(data.y.dtype)
                codes = model.encoder(data.y, baseline, data.mask, data.family)
        lead = problem.data.y.shape[:2]
        return codes.reshape(*lead, *codes.shape[-2:]), baseline.reshape(*lead, -1, 1)

    def _begin(self, problem: Problem) -> Learned:
        rows = problem.data.rows()
        shape = (problem.n_templates, rows.y.shape[1], problem.length)
        if self.start == "data":
            eta = rows.baseline.expand_as(rows.y)
            templates = data_starts(rows, eta, shape[0], shape[2], problem.generator)
        else:
            templates = torch.randn(shape, generator=problem.generator, dtype=rows.y.dtype)
            templates = templates.to(rows.y.device)
        templates = ConvDictionary(templates).normalize_().templates.detach()
        data = problem.windows()
        tensors = {"templates": templates, "baseline": data.baseline}
        if not self.tied:
            dictionary = ConvDictionary(templates)
            penalty = problem.weight(problem.penalty, dictionary, data, data.baseline)
            bias = torch.as_tensor(penalty.weight, dtype=templates.dtype).mean()
            tensors |= {
                "analysis": templates.clone(),
                "synthesis": templates.clone(),
                "bias": bias.expand(shape[0], 1).clone(),
            }
        tensors["generator"] = problem.generator.get_state()
        return Learned(tensors)

    def _autoencoder(self, problem: Problem, tensors: dict[str, Tensor]) -> UnrolledAutoencoder:
        """Build the network from its tensors; the penalty's weight follows the data."""
        data = problem.windows()
        dictionaries = {
            name: ConvDictionary(tensors[name].clone()) for name in _DICTIONARIES if name in tensors
        }
        decoder = dictionaries["templates"]
        encoder = UnrolledEncoder(
            data.family,
            dictionaries.get("synthesis", decoder),
            problem.penalty,
            self.n_unrolled,
            accelerated=self.accelerated,
            step=self.step,
            analysis=dictionaries.get("analysis"),
            bias=tensors["bias"].clone() if "bias" in tensors else None,
            stabilizer=self.stabilizer,
        )
        if self.tied:
            encoder.penalty = problem.weight(problem.penalty, decoder, data, data.baseline)
        return UnrolledAutoencoder(encoder, decoder)

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
        total, whole = 0.0, model.encoder.penalty
        for number, batch in enumerate(order.split(self.batch_size)):
            batch = batch.to(data.y.device)
            part = data.take(batch)
            model.encoder.penalty = whole.map(lambda w: w[batch] if w.ndim else w)  # noqa: B023
            loss = model.loss(part.y, baseline[batch], part.mask, part.family)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"the loss is {value} at epoch {epoch}, step {number + 1}; lower "
                    f"`learning_rate` (={self.learning_rate}) or `step`"
                )
            adam.zero_grad()
            loss.backward()
            adam.step()
            for dictionary in {model.dictionary, model.encoder.dictionary, model.encoder.analysis}:
                dictionary.normalize_()
            total += value * len(batch)
        model.encoder.penalty = whole
        return total / len(order)


def _tensors(model: UnrolledAutoencoder) -> dict[str, Tensor]:
    tensors = {"templates": model.dictionary.templates}
    if model.encoder.bias is not None:
        tensors |= {
            "analysis": model.encoder.analysis.templates,
            "synthesis": model.encoder.dictionary.templates,
            "bias": model.encoder.bias,
        }
    return {name: value.detach().clone() for name, value in tensors.items()}


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
