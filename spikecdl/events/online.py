r"""Events while they happen: what is under way, given the counts until now.

If events follow one another, the forward pass filters exactly: with :math:`F_t` the weight of all
histories without an event under way at the beginning of bin t, and :math:`P_t(k, e)` that of those
with an event e of which bin t is bin k,

.. math:: P_t(0, e) = F_t\, \pi_e\, r_t(0, e), \qquad P_t(k, e) = P_{t-1}(k - 1, e)\, r_t(k, e),
          \qquad F_{t+1} = F_t\, \pi_0 + \sum_e P_t(L - 1, e),

where r is the likelihood of the counts of a bin under the event over that without it.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike

from spikecdl.data import results
from spikecdl.events.model import EventModel
from spikecdl.model.families import Family, Poisson
from spikecdl.validation import integer, shaped


class Fitted(results.Fitted, Protocol):
    """What is needed of a fitted `DCEA`."""

    family_: Family


class Now(NamedTuple):
    """What is under way in the latest bin, of each template (template,).

    ``under_way`` is the probability that one of its events is, ``began`` that one began in the
    latest bins, and ``since`` how many bins ago it began on average, if it is under way.
    """

    under_way: np.ndarray
    began: np.ndarray
    since: np.ndarray


class Online:
    """A fitted model of a population that is given the counts of one bin after the other.

    Probabilities are those of `DCEA.decompose` if it knew the counts up to that bin and none after
    it, where at most one event is under way at a time.  A model of events that overlap is used as
    if its events followed one another.

    Parameters
    ----------
    model : DCEA
        A fitted model of joint templates, trained by `Marginal`, of Poisson counts, without
        history, drift and bursts.
    bin_size : float, optional
        Seconds per bin of the stream; must be that of the fit.
    recent : int
        Bins that count as recent for ``began``.

    Raises
    ------
    ValueError
        If the model is another, or the bins are.

    Examples
    --------
    >>> from spikecdl import DCEA
    >>> rng, bump = np.random.default_rng(0), np.repeat([0.1, 2, 0.1], [20, 5, 75])
    >>> counts = rng.poisson(bump, (40, 3, 100))
    >>> model = DCEA(1, 10, "poisson", layout="joint", random_state=0).fit(counts)
    >>> online = Online(model)
    >>> under_way = [online.step(each).under_way[0] for each in counts[0].T]
    >>> bool(max(under_way[:15]) < 0.2), bool(under_way[24] > 0.99)
    (True, True)
    """

    def __init__(self, model: Fitted, bin_size: float | None = None, recent: int = 1) -> None:
        _check(model, bin_size)
        self.bin_size, self.unit_ids = model.bin_size_, model.unit_ids_
        self.recent = integer("recent", recent)
        baseline = np.log(np.asarray(model.unit_rate_, float).reshape(1, -1))
        events = EventModel.from_file(model.tensors_, baseline).with_timing(0)
        prior = events.prior(1)
        rate, moves = np.exp(baseline[0]), events.moves()
        self._shape = (events.length, *events.amplitudes.shape)  # bin of an event, event
        self._rows = np.ascontiguousarray(events.templates.transpose(1, 2, 0))
        self._amplitudes = events.amplitudes
        lost = np.tensordot(np.expm1(moves), rate, (2, 0))
        self._lost = np.ascontiguousarray(lost.transpose(2, 0, 1))
        self._factors = np.exp(moves)
        overlap = events.overlap  # of chains, of which there is one here
        self._log_start = prior.log_start + np.log(overlap)
        idle = 1.0 - np.exp(self._log_start).sum()
        self._log_idle = np.log(max(idle, 1e-6))
        self._rate = rate / self.bin_size
        self.reset()

    def reset(self) -> None:
        """Forget all counts, as at the beginning of a recording."""
        self.n_bins = 0  # so far
        self._log_free = 0.0
        self._log_events = np.full(self._shape, -np.inf)
        self._weights = np.zeros(self._shape)

    def step(self, counts: ArrayLike) -> Now:
        """Take the counts of all units (unit,) in the next bin, and return what is under way.

        Raises ValueError if they are those of another number of units, or below zero.
        """
        y = np.asarray(counts)
        shaped("counts", y, (len(self._rows),))
        fired = y.nonzero()[0]
        gain = self._amplitudes * np.tensordot(y[fired], self._rows[fired], 1)[..., None]
        gain -= self._lost
        if fired.size and y[fired].min() < 0:
            raise ValueError("`counts` must not be below zero")
        events = self._log_events
        events[1:] = events[:-1]
        events[0] = self._log_free + self._log_start
        events += gain
        none = self._log_free + self._log_idle
        largest = max(none, float(events.max()))
        weights = np.exp(events - largest)
        total = float(np.exp(none - largest) + weights.sum())
        ended = float(weights[-1].sum()) + np.exp(none - largest)
        shift = largest + np.log(total)
        self._log_free = np.log(ended) + largest - shift if ended > 0 else -np.inf
        events -= shift
        self._weights = weights / total
        self.n_bins += 1
        return self._now()

    def _now(self) -> Now:
        by_age = self._weights.sum(2)
        under_way = by_age.sum(0)
        age = np.arange(len(by_age)) @ by_age
        since = np.divide(age, under_way, out=np.zeros_like(age), where=under_way > 0)
        return Now(under_way, by_age[: self.recent].sum(0), since)

    def ahead(self, n_bins: int) -> np.ndarray:
        """Return the expected rates (unit, bin) of the next bins in Hz, as the events go on.

        Events that begin later are not foreseen.
        """
        rates = np.repeat(self._rate[:, None], integer("n_bins", n_bins), axis=1)
        for k in range(min(n_bins, self._shape[0] - 1)):
            weights, factors = self._weights[: -1 - k], self._factors[..., 1 + k :] - 1.0
            rates[:, k] *= 1.0 + np.einsum("kca,caxk->x", weights, factors)
        return rates

    @property
    def state(self) -> dict[str, Any]:
        """What `restore` needs to go on from here."""
        return {
            "n_bins": self.n_bins,
            "log_free": self._log_free,
            "log_events": self._log_events.copy(),
            "weights": self._weights.copy(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from the `state` of another filter of the same model."""
        for name in ("log_events", "weights"):
            shaped(name, np.asarray(state[name]), self._shape)
            setattr(self, f"_{name}", np.array(state[name], float))
        self.n_bins = integer("n_bins", int(state["n_bins"]), minimum=0)
        self._log_free = float(state["log_free"])


def _check(model: Fitted, bin_size: float | None) -> None:
    """Raise ValueError unless a model can be used while events happen."""
    if not hasattr(model, "tensors_"):
        raise ValueError("`model` is not fitted; call its `fit` first")
    if model.layout != "joint" or "event_rates" not in model.tensors_:
        raise ValueError("`model` must have layout='joint' and be trained by 'marginal'")
    if type(model.family_) is not Poisson or model.unit_tensors_:
        raise ValueError(
            "`model` must be of Poisson counts, without history, drift and bursts; fit it with "
            "family='poisson', and None for these"
        )
    if bin_size is not None and abs(bin_size / model.bin_size_ - 1) > 1e-6:
        raise ValueError(f"`bin_size` (={bin_size:g}) must be that of the fit, {model.bin_size_:g}")
