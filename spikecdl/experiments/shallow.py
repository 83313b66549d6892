"""The shallow exponential auto-encoder: a single layer, dense and tied, that theory speaks of."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from spikecdl.model.families import Family


@dataclass(frozen=True, eq=False)
class ShallowAutoencoder:
    r"""One encoder step from codes of zero, and the same columns as the decoder.

    .. math:: x = \mathrm{ReLU}(W^T z - b), \qquad
              z = \frac{y - f^{-1}(\mu)}{\kappa}, \qquad \eta = W x + \mu

    with the inverse link :math:`f^{-1}`, here of counts, and :math:`\kappa` the curvature of the
    negative log likelihood at the baseline :math:`\mu`: for a binomial at zero,
    :math:`f^{-1}(0) = M / 2` and :math:`\kappa = M / 4`.  Divided by the curvature, the residual
    is the working response of a generalized linear model, so that codes come out in the size of
    those that made ``y``; it is a proximal gradient step of the length that the curvature asks for.

    Parameters
    ----------
    columns : tensor, shape (dimension, column)
        W, columns of unit norm.
    family : Family
        Observation model.
    bias : float
        b, subtracted from every code before the rectifier, in the unit of the codes.
    baseline : float
        Linear predictor of every observation without codes.

    References
    ----------
    Tolooshams, Song, Temereanca and Ba, ICML 2020, arXiv:1907.03211.
    Nguyen, Wong and Hegde, AISTATS 2019, arXiv:1806.00572, for Gaussian observations.

    Examples
    --------
    >>> import torch
    >>> from spikecdl import Binomial
    >>> model = ShallowAutoencoder(torch.eye(3), Binomial(n_trials=40), bias=0.25)
    >>> model.encode(torch.tensor([[20.0, 30.0, 15.0]]))
    tensor([[0.0000, 0.7500, 0.0000]])
    """

    columns: Tensor
    family: Family
    bias: float
    baseline: float = 0.0

    def encode(self, y: Tensor) -> Tensor:
        """Return the codes (sample, column) of observations (sample, dimension)."""
        return (self._response(y) @ self.columns - self.bias).relu()

    def decode(self, codes: Tensor) -> Tensor:
        """Return the linear predictor (sample, dimension) of codes (sample, column)."""
        return codes @ self.columns.T + self.baseline

    def loss(self, y: Tensor) -> Tensor:
        """Negative log likelihood of a sample, averaged, up to a constant."""
        return self.family.cost(y, self.decode(self.encode(y))).sum(-1).mean()

    def gradient(self, y: Tensor) -> Tensor:
        r"""Derivative of `loss` with respect to the columns, through decoder and encoder.

        .. math:: -\frac{1}{N} \sum \left[ e x^T + z \left( 1_{x > 0} \odot W^T e \right)^T \right]

        with e the derivative of the log likelihood with respect to :math:`\eta`.
        """
        codes = self.encode(y)
        score = self.family.residual(y, self.decode(codes))
        through_encoder = (codes > 0) * (score @ self.columns)
        return -(score.T @ codes + self._response(y).T @ through_encoder) / len(y)

    def after_step(self, y: Tensor, step: float) -> ShallowAutoencoder:
        """Return the model after a gradient step, its columns scaled back to unit norm."""
        columns = self.columns - step * self.gradient(y)
        return replace(self, columns=columns / columns.norm(dim=0))

    def _response(self, y: Tensor) -> Tensor:
        """Observations as the linear predictor sees them near the baseline, (sample, dimension)."""
        level = y.new_tensor(self.baseline)
        return self.family.residual(y, level) / self.family.curvature(y, level)
