"""Count splitting: counts in two independent parts that share codes and rates."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import singledispatch
from typing import Any

import numpy as np

from spikecdl import _validation
from spikecdl.data import BinnedSpikes
from spikecdl.families import FAMILIES, Binomial, Family, Poisson
from spikecdl.heldout.result import HeldOut, Model, held_out, observed, rates


@dataclass(frozen=True, eq=False)
class Split:
    """Counts in two independent parts that share codes and rates; made by `split`.

    Attributes
    ----------
    seen, unseen : BinnedSpikes
        The parts.
    family : Family
        Observation model.
    ratio : float
        Expected count of a recorded trial in ``unseen`` over that in ``seen``: 1 unless single
        trials were split.
    """

    seen: BinnedSpikes
    unseen: BinnedSpikes
    family: Family
    ratio: float = 1.0

    def score(self, model: Model) -> HeldOut:
        """Score what a model expects, given ``seen``, on ``unseen``."""
        given = rates(model, self.seen, self.family)
        return held_out(self.unseen, self.ratio * given, self.family)


def split(
    counts: BinnedSpikes,
    family: str | Family,
    share: float = 0.5,
    random_state: int | None = None,
) -> Split:
    r"""Split counts into two parts that are independent given the rate: count splitting.

    Of a bin with n recorded trials, :math:`n_1 = \mathrm{round}(\mathrm{share} \cdot n)` go to
    the first part (at least one to each), and of its y spikes

    .. math:: y_1 \sim \mathrm{Hypergeometric}(y \text{ of } M,\ M_1), \qquad
              y_1 \sim \mathrm{Binomial}(y,\ n_1 / n)

    for binomial counts, M being the Bernoulli trials of the bin and :math:`M_1 = M n_1 / n`, and
    for Poisson counts.  If :math:`y \sim \mathrm{Binomial}(M, p)` then
    :math:`y_1 \sim \mathrm{Binomial}(M_1, p)` and
    :math:`y - y_1 \sim \mathrm{Binomial}(M - M_1, p)`, independent; likewise for Poisson.
    A bin of one recorded trial among pooled ones goes to the first part as a whole.

    Where no bin pools trials, the slots of binomial bins are split in the same way, and Poisson
    counts are thinned: each spike goes to the first part with probability ``share``.  A trial
    then has that part of its rate in the first part, so a model must find the level of the rate in
    the counts it is given.

    Parameters
    ----------
    counts : BinnedSpikes
    family : str or Family
        "binomial" or "poisson".
    share : float
        Part of the trials that models see, between 0 and 1.
    random_state : int, optional
        Seed.

    Raises
    ------
    ValueError
        If counts of the family have no independent parts, or the bins cannot be divided.

    References
    ----------
    Neufeld, Dharamshi, Gao and Witten, *Data thinning for convolution-closed distributions*, J
    Mach Learn Res 25, 2024, arXiv:2301.07276.

    Examples
    --------
    >>> import numpy as np
    >>> y = np.random.default_rng(0).binomial(1, 0.3, size=(30, 200))
    >>> halves = split(BinnedSpikes.from_array(y).pool(), "binomial", random_state=0)
    >>> int(halves.seen.n_pooled.max()), int(halves.unseen.n_pooled.max())
    (15, 15)
    """
    model = _validation.member("family", family, FAMILIES, Family)
    if not 0 < _validation.real("share", share) < 1:
        raise ValueError(f"`share` (={share!r}) must lie between 0 and 1")
    observed(counts, model)  # refuses counts that the family cannot have
    return _split(model, counts, share, np.random.default_rng(random_state))


@singledispatch
def _split(family: Family, counts: BinnedSpikes, share: float, rng: np.random.Generator) -> Split:
    raise ValueError(
        f"`family` (={family!r}) must be binomial or poisson: other counts have no independent "
        "parts of the same family. Score hidden bins (`masked`) or other trials (`transfer`)"
    )


@_split.register
def _(family: Binomial, counts: BinnedSpikes, share: float, rng: np.random.Generator) -> Split:
    if family.n_trials is not None:
        raise ValueError(
            "`family` fixes n_trials, of which each part has only some; give the counts `slots`, "
            "and `family` as 'binomial'"
        )
    y, pooled, whole = counts.counts, counts.n_pooled, counts.slots
    if pooled.max() > 1:
        trials, slots = _parts(pooled, share), (whole, whole)
    elif whole > 1:
        trials, slots = (pooled, pooled), _parts(whole, share)
    else:
        raise ValueError(
            "`counts` have one Bernoulli trial in each bin, which cannot be split; pool trials "
            "(`counts.pool()`), or score other trials (`transfer`)"
        )
    y_seen = rng.hypergeometric(y, counts.n_trials - y, trials[0] * slots[0])
    return _divided(counts, family, y_seen, trials, slots, slots[1] / slots[0])


@_split.register
def _(family: Poisson, counts: BinnedSpikes, share: float, rng: np.random.Generator) -> Split:
    y, pooled, whole = counts.counts, counts.n_pooled, counts.slots
    if pooled.max() > 1:
        trials, ratio = _parts(pooled, share), 1.0
        y_seen = rng.binomial(y, trials[0] / pooled.clip(min=1))
    else:
        trials, ratio = (pooled, pooled), (1 - share) / share
        y_seen = rng.binomial(y, share)
    return _divided(counts, family, y_seen, trials, (whole, whole), ratio)


def _parts(number: Any, share: float) -> tuple[Any, Any]:
    """Split whole numbers: about a share, and the rest; at least 1 each, but 1 is not split."""
    number = np.asarray(number)
    first = np.rint(share * number).astype(int).clip(1, (number - 1).clip(min=1))
    first = np.minimum(first, number)
    return first, number - first


def _divided(
    counts: BinnedSpikes,
    family: Family,
    y_seen: np.ndarray,
    trials: tuple[np.ndarray, np.ndarray],
    slots: tuple[int, int],
    ratio: float,
) -> Split:
    """Make both parts; the truth of whole trials is not that of parts of a trial."""
    whole = counts if counts.n_pooled.max() > 1 else replace(counts, truth=None)
    seen, unseen = (
        replace(whole, counts=y, mask=n_pooled > 0, n_pooled=n_pooled, slots=int(each))
        for y, n_pooled, each in zip((y_seen, counts.counts - y_seen), trials, slots, strict=True)
    )
    return Split(seen, unseen, family, float(ratio))
