"""Penalties on codes: what makes them sparse, and which signs they may take."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from spikecdl import validation

SIGNS = ("positive", "negative", "both")
P = TypeVar("P", bound="Penalty")


@dataclass(frozen=True, eq=False)
class Penalty(ABC):
    """Convex function of the codes with a closed-form proximal operator.

    Parameters
    ----------
    weight : float or tensor
        Multiplies the penalty; a tensor is broadcast against codes of axes
        (..., template, *onsets), for instance one weight per window.
    sign : {"positive", "negative", "both"} or sequence of those
        Sign that codes may take, for all templates or for each.
    axes : int
        Number of axes of onsets after the template axis: 1 for time, 2 for images.
    """

    weight: float | Tensor = 1.0
    sign: str | Sequence[str] = "positive"
    axes: int = 1
    #: Name in the registry and in files.
    name: ClassVar[str]

    def __post_init__(self) -> None:
        if not isinstance(self.weight, Tensor):
            validation.non_negative("weight", self.weight)
        if not isinstance(self.sign, str | Sequence):
            raise TypeError(
                f"`sign` (={self.sign!r}) must be one or a sequence of: {', '.join(SIGNS)}"
            )
        for sign in (self.sign,) if isinstance(self.sign, str) else self.sign:
            validation.one_of("sign", sign, SIGNS)

    @abstractmethod
    def __call__(self, codes: Tensor) -> Tensor:
        """Return the penalty summed over all codes, whose signs are not checked."""

    @abstractmethod
    def prox(self, codes: Tensor, step: float | Tensor) -> Tensor:
        """Minimise ``|u - codes|^2 / 2 + step * penalty(u)`` over ``u``."""

    @abstractmethod
    def lambda_max(self, score: Tensor) -> Tensor:
        """Return the smallest weight at which all codes are zero, from the score at zero codes."""

    @abstractmethod
    def universal_threshold(self, spread: Tensor, n_scores: int) -> Tensor:
        """Return the largest of ``n_scores`` scores expected of pure noise.

        ``spread`` (..., template, *1) is the standard deviation of a score.
        """

    def curvature(self, codes: Tensor, direction: Tensor) -> Tensor:
        """Multiply a direction by the second derivative at the non-zero codes."""
        return torch.zeros_like(direction)

    @property
    def grouped(self) -> bool:
        """Whether codes of different units form groups."""
        return False

    def group_spread(self, spread: Tensor) -> Tensor:
        """Return the spread of scores (..., template, *1) that grouped codes share."""
        return spread

    @property
    def signs_differ(self) -> bool:
        """Whether templates have signs of their own, so that their order matters."""
        return not isinstance(self.sign, str) and len(set(self.sign)) > 1

    def with_weight(self: P, weight: float | Tensor) -> P:
        """Return the same penalty with another weight."""
        return replace(self, weight=weight)

    def select(self: P, templates: Sequence[int]) -> P:
        """Return the penalty of some of the templates, in that order."""
        sign, weight, dim = self.sign, self.weight, -1 - self.axes
        if not isinstance(sign, str) and len(sign) > 1:
            sign = tuple(sign[c] for c in templates)
        if isinstance(weight, Tensor) and weight.ndim >= -dim and weight.shape[dim] > 1:
            weight = weight.index_select(dim, torch.tensor(templates, device=weight.device))
        return replace(self, sign=sign, weight=weight)

    def map(self: P, change: Callable[[Tensor], Tensor]) -> P:
        """Return the penalty with ``change`` applied to its weight, if that is a tensor."""
        return self.with_weight(change(self.weight)) if isinstance(self.weight, Tensor) else self

    def project(self, codes: Tensor) -> Tensor:
        """Set codes of a forbidden sign to zero."""
        up, down = self._signs(codes)
        return up * codes.clamp(min=0) + down * codes.clamp(max=0)

    def config(self) -> dict[str, Any]:
        """Describe the penalty in plain values, but for its weight and axes, which a fit sets."""
        names = [f.name for f in fields(self) if f.name not in ("weight", "axes")]
        return {"name": self.name, **{name: getattr(self, name) for name in names}}

    def _signs(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Return zero-one tensors: where positive, and where negative codes are allowed."""
        signs = (self.sign,) if isinstance(self.sign, str) else tuple(self.sign)
        if len(signs) not in (1, codes.shape[-1 - self.axes]):
            raise ValueError(
                f"`sign` (={self.sign!r}) must be one or one per template "
                f"({codes.shape[-1 - self.axes]})"
            )
        shape = (len(signs), *(1,) * self.axes)
        up = codes.new_tensor([sign != "negative" for sign in signs]).reshape(shape)
        down = codes.new_tensor([sign != "positive" for sign in signs]).reshape(shape)
        return up, down


class L1(Penalty):
    r"""Sum of absolute codes, one- or two-sided.

    .. math:: \operatorname{prox}(x, s) = \operatorname{sign}(x) \max(|x| - s\lambda, 0)

    for codes of an allowed sign, zero for others.

    Examples
    --------
    >>> import torch
    >>> L1(weight=1.0).prox(torch.tensor([[-2.0, 0.5, 3.0]]), step=1.0)
    tensor([[0., 0., 2.]])
    """

    name: ClassVar[str] = "l1"

    def __call__(self, codes: Tensor) -> Tensor:
        return (self.weight * codes.abs()).sum()

    def prox(self, codes: Tensor, step: float | Tensor) -> Tensor:
        threshold = step * self.weight
        if self.sign == "positive":
            return torch.relu_(codes - threshold)
        up, down = self._signs(codes)
        return up * torch.relu(codes - threshold) - down * torch.relu(-codes - threshold)

    def lambda_max(self, score: Tensor) -> Tensor:
        return self.project(score).abs().max()

    def universal_threshold(self, spread: Tensor, n_scores: int) -> Tensor:
        return spread * math.sqrt(2 * math.log(max(n_scores, 2)))


class GroupL1(Penalty):
    r"""Sum over trials, templates and onsets of the l2 norm across units: units that fire together.

    Codes have the axes (..., unit, template, *onsets); the group is the unit axis.

    .. math:: \operatorname{prox}(x, s) = x_+ \max(1 - s\lambda / \|x_+\|_2, 0)

    with :math:`x_+` the codes of an allowed sign (Yuan and Lin 2006; the one-sided form follows
    because the projection keeps directions).

    Examples
    --------
    >>> import torch
    >>> codes = torch.tensor([[[3.0]], [[4.0]]])  # two units, one template, one onset
    >>> GroupL1(weight=2.5).prox(codes, step=1.0).flatten()
    tensor([1.5000, 2.0000])
    """

    name: ClassVar[str] = "group_l1"

    @property
    def grouped(self) -> bool:
        return True

    def __call__(self, codes: Tensor) -> Tensor:
        return (self.weight * self._norms(codes)).sum()

    def prox(self, codes: Tensor, step: float | Tensor) -> Tensor:
        allowed = self.project(codes)
        norms = self._norms(allowed)
        shrunk = torch.relu(norms - step * self.weight)
        return allowed * (shrunk / norms.clamp(min=torch.finfo(codes.dtype).tiny))

    def lambda_max(self, score: Tensor) -> Tensor:
        return self._norms(self.project(score)).max()

    def curvature(self, codes: Tensor, direction: Tensor) -> Tensor:
        norms = self._norms(codes)
        unit = codes / norms
        along = (unit * direction).sum(dim=-2 - self.axes, keepdim=True)
        return self.weight / norms * (direction - unit * along)

    def universal_threshold(self, spread: Tensor, n_scores: int) -> Tensor:
        # the norm of n normal scores is about sqrt(n), plus the largest of one
        threshold = math.sqrt(2 * math.log(max(n_scores, 2)))
        return self.group_spread(spread) * (math.sqrt(spread.shape[-2 - self.axes]) + threshold)

    def group_spread(self, spread: Tensor) -> Tensor:
        """Return the root mean square over units, whose axis is kept."""
        return spread.square().mean(dim=-2 - self.axes, keepdim=True).sqrt()

    def _norms(self, codes: Tensor) -> Tensor:
        # a tiny floor keeps the derivative at zero finite
        squares = codes.square().sum(dim=-2 - self.axes, keepdim=True)
        return squares.clamp(min=torch.finfo(codes.dtype).tiny).sqrt()


PENALTIES: dict[str, type[Penalty]] = {penalty.name: penalty for penalty in (L1, GroupL1)}
