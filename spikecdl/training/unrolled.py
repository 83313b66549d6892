"""Training the paper's way: back-propagation through every layer of the encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from spikecdl.autoencoder import UnrolledAutoencoder
from spikecdl.dictionary import ConvDictionary
from spikecdl.encoder import UnrolledEncoder
from spikecdl.training.gradient_steps import GradientSteps
from spikecdl.training.observations import Observations
from spikecdl.training.problem import Problem

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
