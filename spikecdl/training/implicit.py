"""Training through the solution of the codes: the limit of infinitely many layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from spikecdl.autoencoder import UnrolledAutoencoder
from spikecdl.dictionary import ConvDictionary
from spikecdl.implicit import ImplicitEncoder
from spikecdl.training.gradient_steps import GradientSteps
from spikecdl.training.problem import Problem


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
    start : {"data", "random"}
        Stretches of the data, or normal noise, at unit norm.

    References
    ----------
    Bertrand, Klopfenstein, Blondel, Vaiter, Gramfort and Salmon, ICML 2020, arXiv:2002.08943.
    Tolooshams and Ba, TMLR 2022, arXiv:2106.00058.

    Examples
    --------
    >>> import spikecdl
    >>> spikecdl.DCEA(gradient=spikecdl.Implicit(batch_size=8)).gradient.batch_size
    8
    """

    tol: float = 1e-3
    max_iter: int = 3000
    learning_rate: float = 1e-2
    epsilon: float = 1e-8
    batch_size: int = 32
    start: str = "data"
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
