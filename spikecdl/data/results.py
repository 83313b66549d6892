"""`Decomposition`: what a model says of counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property, partial
from html import escape
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from spikecdl.data.binned import BinnedSpikes
from spikecdl.data.times import read_only
from spikecdl.data.truth import EVENT_COLUMNS, LAYOUTS, check_templates
from spikecdl.validation import one_of, real, shaped

if TYPE_CHECKING:
    import pandas as pd

    from spikecdl.model.families import Family


class Fitted(Protocol):
    """What is read of a fitted `DCEA` here; for its attributes see there."""

    layout: str
    bin_size_: float
    unit_ids_: tuple[int | str, ...]
    unit_rate_: list[list[float]]
    baseline_: np.ndarray
    windows_: dict[str, Any]
    tensors_: dict[str, Any]
    unit_tensors_: dict[str, Any]

    @property
    def templates_(self) -> np.ndarray: ...


M = TypeVar("M", bound=Fitted)

#: Columns of `Decomposition.events`, in the words of files.
DESCRIPTIONS = {
    "trial": "trial",
    "unit": "unit; -1 where units share the codes of one template",
    "template": "number of the template",
    "time": "onset of the template, in seconds from what the window is aligned to",
    "amplitude": "amplitude of the code",
    "response_time": "when the template rises above a fifth of its largest change",
    "peak_time": "when the template is largest, in the time of its onset",
    "probability": "probability that the template begins here, given the fitted model",
    "time_sd": "posterior standard deviation of the onset, in seconds",
    "q_value": "smallest false discovery rate at which the event is kept",
    "original": "number of the template before it was given a speed",
    "speed": "how many times faster than this template; negative: backward",
}


#: How sure the events of a decomposition are: a table (event, column) with the columns window,
#: template, onset, probability, mean and standard deviation of the onset in bins, and mean of the
#: amplitude; and what returns expected counts (trial, unit, bin), given events drawn from their
#: posterior.
Certainty = tuple[np.ndarray, Callable[[], np.ndarray]]


def response_onsets(templates: np.ndarray, fraction: float = 0.2) -> np.ndarray:
    r"""Return the bin of each template in which its response begins, shape (template,).

    It begins after the last stretch of n bins, an eighth of the template, before its peak p in
    which the change of the linear predictor, over all channels k, stays below a fraction f of the
    largest one; a template is zero before its first bin:

    .. math:: 1 + \max \{t < p : s_u < f s_p,\ t - n < u \le t\}, \qquad
              s_t = \sqrt{\textstyle\sum_k h_{kt}^2}.

    A change of sign is shorter than that, so a dip before a peak is part of the response; where
    noise is never so small for so long, the response begins with the template.

    Parameters
    ----------
    templates : ndarray, shape (template, channel, bin)
    fraction : float
        Above 0, below 1.

    Examples
    --------
    >>> response_onsets(np.array([[[0.0, 0.05, 0.4, 0.9]]]))
    array([2])
    """
    if not 0 < real("fraction", fraction) < 1:
        raise ValueError(f"`fraction` (={fraction!r}) must lie between 0 and 1")
    size = np.sqrt(np.square(templates).sum(axis=1))
    n = max(1, size.shape[1] // 8)
    onsets = []
    for row in size:
        below = np.r_[np.full(n, True), row[: row.argmax()] < fraction * row.max()]
        onsets.append(np.flatnonzero(sliding_window_view(below, n).all(axis=1))[-1])
    return np.array(onsets)


def shift_to_response(model: M, fraction: float = 0.2) -> M:
    """Return a `DCEA` whose templates begin where their response does, so that onsets are there.

    What is before the response (see `spikecdl.data.results.response_onsets`) is dropped, and zeros
    follow at the end; templates are of unit norm again, and amplitudes of events scaled with them.
    All else is the same, and so is ``model``.

    Parameters
    ----------
    model : DCEA
        Fitted.
    fraction : float
        Of the largest change of a template, above which it has begun.

    Raises
    ------
    ValueError
        If ``fraction`` does not lie between 0 and 1.

    Examples
    --------
    >>> import spikecdl
    >>> y = np.random.default_rng(0).poisson(np.repeat([0.2, 3, 0.2], [30, 5, 65]), (20, 100))
    >>> model = spikecdl.DCEA(1, 16, random_state=0).fit(y)
    >>> response_onsets(shift_to_response(model).templates_)
    array([0])
    """
    moved = dict(model.tensors_)
    lags = response_onsets(model.templates_, fraction)
    for name, values in model.tensors_.items():
        if values.shape == model.templates_.shape:  # what else belongs to each bin of a template
            moved[name] = values.new_zeros(values.shape)
            for i, lag in enumerate(lags):
                moved[name][i, :, : values.shape[2] - lag] = values[i, :, lag:]
    if "event_timing" in moved:  # whose onsets are earlier
        moved["event_timing"] = _later(moved["event_timing"], lags, int(moved["n_onsets"]))
    norms = moved["templates"].square().sum((1, 2), keepdim=True).sqrt()
    norms = norms.masked_fill(norms == 0, 1.0)  # if none is left
    moved["templates"] = moved["templates"] / norms
    if "template_variance" in moved:
        moved["template_variance"] = moved["template_variance"] / norms.square()
    if "event_amplitudes" in moved:  # waveforms of events stay as large as they were
        moved["event_amplitudes"] = moved["event_amplitudes"] * norms[..., 0]
    one = copy(model)
    one.tensors_ = moved
    return one


def _later(timing: Any, lags: np.ndarray, n_onsets: int) -> Any:
    """Return the rates of events at knots (template, knot) if they begin some bins later."""
    knots = np.linspace(0, n_onsets - 1, timing.shape[1])
    rows = zip(timing.cpu().numpy(), lags, strict=True)
    return timing.new_tensor(np.array([np.interp(knots - lag, knots, row) for row, lag in rows]))


def q_values(probability: np.ndarray) -> np.ndarray:
    """Return the mean of 1 - probability over all that are at least as probable.

    It is the smallest false discovery rate at which each is kept (Storey, Ann. Stat. 31, 2003).

    Examples
    --------
    >>> q_values(np.array([0.5, 1.0, 0.9]))
    array([0.2 , 0.  , 0.05])
    """
    order = np.argsort(-probability, kind="stable")
    found = np.empty(len(order))
    found[order] = np.cumsum(1 - probability[order]) / np.arange(1, len(order) + 1)
    return found


@dataclass(frozen=True, eq=False, repr=False)
class Decomposition:
    """What a fitted model finds in a set of counts: the rate of each window in its parts.

    Made by ``model.decompose(counts)``.

    Parameters
    ----------
    counts : BinnedSpikes
        The counts that were decomposed, of shape (trial, unit, bin).
    templates : ndarray, shape (template, channel, bin)
        Templates of unit l2 norm.
    codes : ndarray, shape (trial, unit, template, code_bin)
        Amplitudes, one for each bin where a template can begin; one unit in the joint layout.
    rate : ndarray, shape (trial, unit, bin)
        Fitted rate in Hz (for a real-valued signal, in its own unit).  This, ``contributions`` and
        the deviance explained may be given as functions, which are called when they are needed; the
        first two with positions of units, or without for all.
    baseline : ndarray, shape (trial, unit)
        Baseline in the unit of ``rate``.
    contributions : ndarray, shape (trial, unit, template, bin)
        What each template adds to the linear predictor ``eta``.
    family : Family
        Observation model of one trial.
    layout : {"shared", "joint"}
        See `LAYOUTS`.
    certainty : callable, optional
        Computes a `Certainty` when it is first needed.
    deviance_explained, deviance_explained_per_unit : float and ndarray, shape (unit,)
        Fraction of the null deviance that the model explains, of all units and of each.
    history_filter : ndarray, shape (unit, lag), optional
        Change of ``eta`` by each spike 1, 2, ... bins ago; None for a model without history.
    of_templates : mapping of ndarray, shape (template,), optional
        Further columns of `events`, by name: ``original`` and ``speed``; see `DCEA.at_speeds`.

    Examples
    --------
    >>> import numpy as np
    >>> from spikecdl import BinnedSpikes, Poisson
    >>> counts = BinnedSpikes.from_array([[0, 1, 1, 0]], bin_size=0.01)
    >>> codes = np.array([0.0, 9.0, 0.0]).reshape(1, 1, 1, 3)
    >>> parts = Decomposition(counts, np.full((1, 1, 2), 0.5**0.5), codes, np.ones((1, 1, 4)),
    ...                       np.ones((1, 1)), np.ones((1, 1, 1, 4)), Poisson(), "shared", 0.5,
    ...                       np.array([0.5]))
    >>> parts.events()
       trial  unit  template  time  amplitude  response_time  peak_time
    0      0     0         0  0.01        9.0           0.01       0.01
    """

    counts: BinnedSpikes
    templates: np.ndarray
    codes: np.ndarray
    rate: np.ndarray
    baseline: np.ndarray
    contributions: np.ndarray
    family: Family
    layout: str
    deviance_explained: float
    deviance_explained_per_unit: np.ndarray
    history_filter: np.ndarray | None = None
    certainty: Callable[[], Certainty] | None = None
    of_templates: Mapping[str, np.ndarray] | None = None

    def __post_init__(self) -> None:
        one_of("layout", self.layout, LAYOUTS)
        check_templates(np.asarray(self.templates))
        object.__setattr__(self, "_later", {})
        for name in self._shapes:
            if callable(value := vars(self)[name]):
                self._later[name] = vars(self).pop(name)
            else:
                vars(self)[name] = self._checked(name, value)

    def __getattr__(self, name: str) -> Any:
        """Call the function that a field was given as, when the field is first needed."""
        if name not in vars(self).get("_later", ()):
            raise AttributeError(f"Decomposition has no attribute {name!r}", name=name, obj=self)
        vars(self)[name] = self._checked(name, self._later[name]())
        return vars(self)[name]

    def __getstate__(self) -> dict[str, Any]:
        """Return all values, computed, as functions cannot be pickled."""
        later = {name: getattr(self, name) for name in self._later}
        state = {**vars(self), **later, "_later": {}}
        if self.certainty is not None:
            known = (self._computed[0], partial(np.asarray, self.drawn_mean))
            state |= {"certainty": partial(tuple, known), "_computed": known}
        return state

    @property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        trials, units, bins = self.counts.shape
        count, _, length = np.shape(self.templates)
        joint = self.layout == "joint"
        shapes: dict[str, tuple[int, ...]] = {
            "templates": (count, units if joint else 1, length),
            "codes": (trials, 1 if joint else units, count, bins - length + 1),
            "rate": (trials, units, bins),
            "baseline": (trials, units),
            "contributions": (trials, units, count, bins),
            "deviance_explained": (),
            "deviance_explained_per_unit": (units,),
        }
        if self.history_filter is not None:
            shapes["history_filter"] = (units, *np.shape(self.history_filter)[-1:])
        return shapes

    def _checked(self, name: str, value: Any) -> Any:
        """Return the value of a field, read-only, of the shape that it must have."""
        found = read_only(value)
        shaped(name, found, self._shapes[name])
        return found if found.ndim else float(found)

    def of_units(self, name: str, units: Sequence[int] | slice) -> np.ndarray:
        """Return the ``rate`` or ``contributions`` of some units, in the memory of theirs alone."""
        is_later = one_of("name", name, ("rate", "contributions")) not in vars(self)
        return self._later[name](units) if is_later else getattr(self, name)[:, units]

    def __repr__(self) -> str:
        model = f"family={self.family.name!r}, layout={self.layout!r}"
        data = f"{len(self.templates)} templates, counts {self.counts.shape}"
        return f"Decomposition({data}, {model}, deviance explained {self.deviance_explained:.3f})"

    def _repr_html_(self) -> str:
        """Return a table of events, for notebooks."""
        table = self.events(probabilities=False)
        return f"<p>{escape(repr(self))}</p>{table.to_html(max_rows=12, float_format='%.3g')}"

    def events(self, fdr: float | None = None, *, probabilities: bool = True) -> pd.DataFrame:
        """Return the non-zero codes as a table, in the order of trial, unit, template and time.

        Its columns are ``trial`` and ``unit`` (ids; no unit in the joint layout), ``template``,
        ``time`` (onset relative to the alignment, s: where the window of the template begins),
        ``amplitude``, ``response_time``, when the response begins (`response_onsets`), and
        ``peak_time``, when the template is largest.  To have templates begin where their response
        does: `shift_to_response`.  Families with a compiled cost add

        - ``probability`` that an event of the template begins within an eighth of its length of
          this time, given the templates and the rates of events (see `Marginal`);
        - ``q_value``, the smallest false discovery rate at which the event is kept: the mean of
          1 - probability over all events at least as probable (Storey, Ann. Stat. 31, 2003);
        - ``time_sd``, the posterior standard deviation of its time, given that there is one, and
          ``time`` is the posterior mean, which lies between bins.

        Parameters
        ----------
        fdr : float, optional
            Keep the events whose q-value is at most this.
        probabilities : bool
            Whether to compute the columns that need them, which takes longer where events overlap.

        Raises
        ------
        ValueError
            If ``fdr`` is not between 0 and 1, or the model has no probabilities.
        """
        import pandas as pd

        trial, unit, template, onset = np.nonzero(self.codes)
        values = (
            [self.counts.trial_ids[i] for i in trial],
            [self.counts.unit_ids[i] for i in unit],
            template,
            self.counts.times[onset],
            self.codes[trial, unit, template, onset],
        )
        table = pd.DataFrame(dict(zip(EVENT_COLUMNS, values, strict=True)))
        if self.layout == "joint":  # an event is of all units
            table = table.drop(columns="unit")
        peak = np.square(self.templates).sum(1).argmax(1)
        later = {"response_time": response_onsets(self.templates), "peak_time": peak}
        table = table.assign(**dict.fromkeys(later, np.nan))
        of_templates = self.of_templates or {}
        table = table.assign(**{name: values[template] for name, values in of_templates.items()})
        if self.certainty is not None and (probabilities or fdr is not None):
            table = table.assign(**self._certain)
        for name, bins in later.items():
            table[name] = table["time"] + self.counts.bin_size * bins[template]
        if fdr is None:
            return table
        if not 0 < real("fdr", fdr) < 1:
            raise ValueError(f"`fdr` (={fdr!r}) must lie between 0 and 1")
        if self.certainty is None:
            raise ValueError(
                f"`fdr` (={fdr!r}) needs probabilities of events, which this decomposition lacks; "
                "use one made by `DCEA.decompose` and a family with a compiled cost"
            )
        return table[table["q_value"] <= fdr].reset_index(drop=True)

    def intervals(self, fdr: float | None = None) -> pd.DataFrame:
        """Return the events as intervals of the recording, from onset to end of the template.

        They are the rows of `events` in the order of their time, with ``start_time`` and
        ``stop_time`` (s, in the time of the recording) before the other columns: a table that
        `SpikeTrains` takes among its ``intervals``, and `spikecdl.to_pynapple` where intervals do
        not overlap.

        Parameters
        ----------
        fdr : float, optional
            As in `events`.

        Raises
        ------
        ValueError
            If it is not known when the windows begin, as for pooled trials; as `events` does.
        """
        if not np.isfinite(self.counts.trial_starts).all():
            raise ValueError(
                "`trial_starts` of the counts are not known (trials are pooled, or come from an "
                "array), so events have no time in the recording; use `events`"
            )
        events = self.events(fdr)
        begins = dict(zip(self.counts.trial_ids, self.counts.trial_starts, strict=True))
        start = events["trial"].map(begins).to_numpy(dtype=float) - self.counts.t_start
        start = np.round(start + events["time"].to_numpy(), 12)
        stop = np.round(start + self.counts.bin_size * self.templates.shape[-1], 12)
        events.insert(0, "stop_time", stop)
        events.insert(0, "start_time", start)
        return events.sort_values("start_time", kind="stable", ignore_index=True)

    @cached_property
    def _computed(self) -> Certainty:
        assert self.certainty is not None
        return self.certainty()

    @property
    def drawn_mean(self) -> np.ndarray | None:
        """Expected counts (trial, unit, bin) given events drawn from their posterior, if known."""
        return None if self.certainty is None else self._computed[1]()

    @cached_property
    def _certain(self) -> dict[str, np.ndarray]:
        """Columns of the events that say how sure they are."""
        *_, probability, time, time_sd, _ = self._computed[0].T
        return {
            "time": self.counts.times[0] + self.counts.bin_size * time,
            "probability": probability,
            "q_value": q_values(probability),
            "time_sd": time_sd * self.counts.bin_size,
        }
