"""The auto-encoder of DCEA: unrolled encoder, dictionary as decoder, family as likelihood."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spikecdl.model.dictionary import ConvDictionary
from spikecdl.model.encoder import Encoder
from spikecdl.model.families import Family
from spikecdl.model.penalties import Penalty


class UnrolledAutoencoder(nn.Module):
    r"""Encode observations to codes and decode codes to the linear predictor.

    .. math:: x_T = \mathrm{encoder}(y), \qquad \eta = H x_T + \mu

    Parameters
    ----------
    encoder : UnrolledEncoder or ImplicitEncoder
        T layers, tied (its dictionary is the decoder's) or untied, or their limit.
    dictionary : ConvDictionary, optional
        Decoder H; the encoder's own when not given (DCEA-C).

    Examples
    --------
    >>> import torch
    >>> from spikecdl import Binomial, ConvDictionary, L1, UnrolledEncoder
    >>> dictionary = ConvDictionary(torch.tensor([[[0.6, 0.8]]]))
    >>> encoder = UnrolledEncoder(Binomial(n_trials=10), dictionary, L1(0.1), n_unrolled=20)
    >>> codes, eta = UnrolledAutoencoder(encoder)(torch.tensor([[1.0, 8.0, 9.0, 1.0]]))
    >>> codes.shape, eta.shape
    (torch.Size([1, 3]), torch.Size([1, 4]))
    """

    def __init__(self, encoder: Encoder, dictionary: ConvDictionary | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.dictionary = encoder.dictionary if dictionary is None else dictionary

    @property
    def family(self) -> Family:
        """Observation model."""
        return self.encoder.family

    def forward(
        self,
        y: Tensor,
        baseline: Tensor | float = 0.0,
        mask: Tensor | None = None,
        family: Family | None = None,
        penalty: Penalty | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return codes (..., template, *onsets) and eta, the shape of ``y``."""
        codes = self.encoder(y, baseline, mask, family, penalty)
        return codes, self.dictionary(codes) + baseline

    def loss(
        self,
        y: Tensor,
        baseline: Tensor | float = 0.0,
        mask: Tensor | None = None,
        family: Family | None = None,
        penalty: Penalty | None = None,
    ) -> Tensor:
        """Mean cost (negative log likelihood up to a constant) of the observed bins.

        The loss of the paper has no penalty term: sparsity acts through the encoder only.
        """
        _, eta = self(y, baseline, mask, family, penalty)
        cost = (family or self.family).cost(y, eta)
        return cost.mean() if mask is None else torch.where(mask, cost, 0).sum() / mask.sum()
