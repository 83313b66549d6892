"""Counts that estimators take: of several recordings, or of other libraries, and like a fit."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

import numpy as np

from spikecdl.data.binned import BinnedSpikes
from spikecdl.data.labelled import is_a, labelled, values_of, without_torch
from spikecdl.data.results import Fitted, M
from spikecdl.data.spike_trains import SpikeTrains
from spikecdl.data.truth import LAYOUTS
from spikecdl.validation import one_of, positive


class PooledTrialsWarning(UserWarning):
    """A model of counts that were summed over trials is given single trials."""


def checked_array(X: Any, estimator: Any, reset: bool) -> np.ndarray:
    """Check an array as scikit-learn does; its values are checked with the counts.

    ValueError unless it is (trial, unit, bin) or (trial, bin), of real numbers.
    """
    from sklearn.utils.validation import check_array, validate_data

    X = without_torch(X)
    values = X if hasattr(X, "shape") else np.asarray(X)
    if values.ndim not in (2, 3):
        raise ValueError(
            f"`X` {values.shape} must have shape (trial, unit, bin), or (trial, bin) for one "
            "unit. Reshape your data: one window x is x[None]"
        )
    array = check_array(X, allow_nd=True, ensure_all_finite=False, estimator=estimator)
    if array.ndim == 2:  # bins are features
        validate_data(estimator, X, reset=reset, skip_check_array=True)
    return array


def are_binned(X: Any) -> bool:
    """Whether these are counts that say what their axes are, of one or several recordings.

    They are `BinnedSpikes`, or such as a DataArray of xarray.  TypeError for times of spikes.
    """
    if isinstance(X, SpikeTrains):
        raise TypeError(
            "`X` is SpikeTrains, whose spikes are not counted yet; use `X.bin(bin_size)`, with "
            "bin_size in seconds, and its `align` and `window` if trials are not used whole"
        )
    if labelled(X) is not None and not is_a(X, "scipy", "_spbase"):  # scikit-learn refuses these
        return True
    each = X.values() if isinstance(X, Mapping) else X if isinstance(X, list | tuple) else ()
    return isinstance(X, BinnedSpikes) or any(isinstance(part, BinnedSpikes) for part in each)


def as_counts(X: Any, bin_size: float, layout: str = "shared") -> BinnedSpikes:
    """Return counts as `BinnedSpikes`; a (trial, bin) array has one unit.

    Those of several recordings are put together; see `concatenate`.
    """
    if isinstance(X, BinnedSpikes):
        return X
    if labelled(X) is not None:
        return BinnedSpikes.from_array(X, values_of(X).known.get("bin_size", bin_size))
    if are_binned(X):
        return concatenate(X, layout)
    array = np.asarray(X)
    if array.dtype.kind == "i" and array.min(initial=0) < 0:
        array = array.astype(float)  # a signal, not counts
    return BinnedSpikes.from_array(array, positive("bin_size", bin_size))


def check_like_fit(
    counts: BinnedSpikes,
    bin_size: float,
    n_bins: int,
    channels: tuple[int | str, ...] | None,
    pooled: bool = False,
) -> None:
    """Raise unless the counts have the bin size, enough bins, and the units of the templates.

    Warns of single trials if those of the fit were ``pooled``.
    """
    if pooled and len(counts) > 1 and counts.n_pooled.max() <= 1:
        warnings.warn(
            f"the model was fitted to counts summed over trials, but these are {len(counts)} "
            "single trials, in which it explains far less; pool them, or fit single trials",
            PooledTrialsWarning,
            stacklevel=4,
        )
    if not np.isclose(counts.bin_size, bin_size, rtol=1e-9):
        raise ValueError(
            f"`bin_size` of the counts (={counts.bin_size:g}) must be that of the fit "
            f"({bin_size:g}); bin the spikes again"
        )
    if counts.n_bins < n_bins:
        raise ValueError(
            f"the windows have {counts.n_bins} bins, fewer than a template ({n_bins}); use longer "
            "windows"
        )
    units = counts.unit_ids
    if channels is not None and len(units) != len(channels):
        raise ValueError(
            f"the counts have {len(units)} units, the joint templates {len(channels)}; select the "
            "units of the fit"
        )
    if channels is not None and units != channels and set(units) == set(channels):
        raise ValueError(
            f"the units of the counts {units} are in another order than those of the joint "
            f"templates {channels}; select them in that order"
        )


def unit_rows(
    counts: BinnedSpikes, known: tuple[int | str, ...], learned: tuple[str, ...]
) -> list[int]:
    """Return the position of each unit among those of the fit, which must all be there.

    If nothing was ``learned`` of single units, any units will do, and there are no positions.
    """
    unknown = [unit for unit in counts.unit_ids if learned and unit not in known]
    if unknown:
        raise ValueError(
            f"unit {unknown[0]!r} was not in the fit, which has learned the "
            f"{' and the '.join(learned)} of each unit; select units of the fit"
        )
    return [known.index(unit) for unit in counts.unit_ids] if learned else []


def windows_of(counts: BinnedSpikes) -> dict[str, Any]:
    """Return how the windows of a fit were chosen, as far as counts say it."""
    pooled = {"pool_trials": True} if counts.n_pooled.max() > 1 else {}
    return {**(counts.windows or {}), **pooled}


def signal_ranges(counts: BinnedSpikes) -> dict[str, list[float]]:
    """Return between which values 98 % of each signal lie, or all where these are the same."""
    found: dict[str, list[float]] = {}
    for name, values in (counts.signals or {}).items():
        for rest in (0.0, 0.01):  # the second, if it can be
            first, last = np.nanquantile(values, [rest, 1 - rest])
            found |= {name: [float(first), float(last)]} if first < last else {}
    return found


def time_span(counts: BinnedSpikes) -> tuple[float, float, bool]:
    """Return when the first window begins and the last one ends, and whether that is known.

    If it is not known of all windows, they follow each other from 0 on.
    """
    known = bool(np.isfinite(counts.trial_starts).all())
    begin = starts(counts, known)
    return float(begin.min()), float(begin.max() + counts.duration), known


def starts(counts: BinnedSpikes, known: bool) -> np.ndarray:
    """Return when each window begins in the recording, or in their order."""
    if not known:
        return counts.duration * np.arange(len(counts))
    if not np.isfinite(counts.trial_starts).all():
        raise ValueError(
            "`drift` was fitted over the recording's time, which these counts lack; give them "
            "`trial_starts`, in seconds"
        )
    return counts.trial_starts


def label(recording: str, name: int | str) -> str:
    """Return the name of a unit or trial of one of several recordings."""
    return f"{recording}/{name}"


def concatenate(
    recordings: Mapping[str, BinnedSpikes] | Sequence[BinnedSpikes], layout: str = "shared"
) -> BinnedSpikes:
    """Put the counts of several recordings together, for one set of templates.

    Every trial of every recording is a trial, named ``recording/trial``.  In the shared layout
    every unit is a unit of its own, named ``recording/unit``, and not observed in the trials of
    other recordings; in the joint layout all recordings have the same units.

    Parameters
    ----------
    recordings : mapping of str to BinnedSpikes, or sequence of BinnedSpikes
        Recordings by name; those of a sequence are "0", "1", and so on.
    layout : {"shared", "joint"}
        How templates meet units; see `DCEA`.

    Returns
    -------
    BinnedSpikes
        Of shape (trial, unit, bin).  Shorter windows are not observed after their end;
        ``sub_bins`` is the largest; signals are those that all have; there is no truth.

    Raises
    ------
    ValueError
        If there are no recordings, or they differ in the size of bins, in the start of windows, in
        being counts or a signal, or in the joint layout in their units.
    TypeError
        If they are not all `BinnedSpikes`.

    Examples
    --------
    >>> one = BinnedSpikes.from_array([[0, 1, 1]], unit_ids=["x"])
    >>> other = BinnedSpikes.from_array([[1, 0, 0], [0, 0, 1]], unit_ids=["x"])
    >>> both = concatenate({"monday": one, "tuesday": other})
    >>> both.trial_ids, both.unit_ids
    (('monday/0', 'tuesday/0', 'tuesday/1'), ('monday/x', 'tuesday/x'))
    >>> concatenate([one, other], layout="joint")
    BinnedSpikes(3 trials, 1 unit, 3 bins of 1 s, 4 spikes)
    """
    pairs = recordings.items() if isinstance(recordings, Mapping) else enumerate(recordings)
    parts: dict[str, BinnedSpikes] = {str(name): counts for name, counts in pairs}
    _check(parts, one_of("layout", layout, LAYOUTS) == "joint")
    every, joint = list(parts.values()), layout == "joint"
    units = [label(name, unit) for name, counts in parts.items() for unit in counts.unit_ids]
    n_trials, n_bins = sum(map(len, every)), max(counts.n_bins for counts in every)
    shape = (n_trials, every[0].n_units if joint else len(units), n_bins)
    counts = np.zeros(shape, np.result_type(*(part.counts for part in every)))
    mask = np.zeros(shape, bool)
    pooled = any(part.n_pooled.max() > 1 for part in every)
    n_pooled = np.zeros(shape, np.int32) if pooled else mask.view(np.int8)
    onsets = np.zeros((n_trials, n_bins), bool)
    shared = set.intersection(*(set(part.signals or ()) for part in every))
    signals = {name: np.full((n_trials, n_bins), np.nan) for name in sorted(shared)}
    trial = unit = 0
    for part in every:
        rows, columns = slice(trial, trial + len(part)), slice(unit, unit + part.n_units)
        where = (rows, columns, slice(part.n_bins))
        counts[where], mask[where] = part.counts, part.mask
        if pooled:
            n_pooled[where] = part.n_pooled
        onsets[rows, : part.n_bins] = True if part.onsets is None else part.onsets
        for name, values in signals.items():
            values[rows, : part.n_bins] = part.signals[name]  # type: ignore[index]
        trial, unit = trial + len(part), unit + (0 if joint else part.n_units)
    return BinnedSpikes(
        counts=counts,
        mask=mask,
        bin_size=every[0].bin_size,
        t_start=every[0].t_start,
        unit_ids=every[0].unit_ids if joint else tuple(units),
        trial_ids=tuple(label(name, i) for name, part in parts.items() for i in part.trial_ids),
        n_pooled=n_pooled,
        sub_bins=max(part.sub_bins for part in every),
        trial_starts=np.concatenate([part.trial_starts for part in every]),
        source=", ".join(dict.fromkeys(part.source for part in every)),
        onsets=None if all(part.onsets is None for part in every) else onsets,
        signals=signals or None,
        windows=every[0].windows if all(p.windows == every[0].windows for p in every) else None,
    )


def _check(parts: Mapping[str, BinnedSpikes], joint: bool) -> None:
    """Raise unless the recordings can be put together."""
    if not parts:
        raise ValueError("`recordings` must hold at least one recording")
    for name, counts in parts.items():
        if not isinstance(counts, BinnedSpikes):
            kind = type(counts).__name__
            raise TypeError(f"recording {name!r} must be `BinnedSpikes`, not {kind}; bin it first")
    (first, known), *others = parts.items()
    for name, counts in others:
        for what in ("bin_size", "t_start"):
            one, other = getattr(known, what), getattr(counts, what)
            if not np.isclose(one, other, rtol=1e-9, atol=1e-9):
                raise ValueError(
                    f"`{what}` of recordings {first!r} (={one:g}) and {name!r} (={other:g}) must "
                    "be the same, in seconds; bin both in the same way"
                )
        if counts.is_counts != known.is_counts:
            raise ValueError(f"recordings {first!r} and {name!r} must both be counts, or signals")
        if joint and counts.unit_ids != known.unit_ids:
            raise ValueError(
                f"recordings {first!r} ({known.n_units} units) and {name!r} ({counts.n_units} "
                "units) must have the same units in the same order for the joint layout; select "
                "units that both have, or use the shared layout"
            )


def of_recording(model: M, name: str, counts: BinnedSpikes) -> M:
    """Return a `DCEA` for one of the recordings it was fitted to, whose units have their own names.

    It takes the counts of this recording as they were before `concatenate`.  All else is the same.

    Parameters
    ----------
    model : DCEA
        Fitted to several recordings.
    name : str
        Name of the recording in the fit.
    counts : BinnedSpikes
        Its counts.

    Raises
    ------
    ValueError
        If the recording was not in the fit.

    Examples
    --------
    >>> import spikecdl
    >>> y = np.random.default_rng(0).poisson(np.repeat([0.2, 2, 0.2], [20, 5, 75]), (10, 100))
    >>> days = {"monday": BinnedSpikes.from_array(y), "tuesday": BinnedSpikes.from_array(y + 1)}
    >>> model = spikecdl.DCEA(1, 10, random_state=0).fit(days)
    >>> model.unit_ids_, of_recording(model, "monday", days["monday"]).unit_ids_
    (('monday/0', 'tuesday/0'), (0,))
    """
    if model.layout == "joint":
        return model
    known, rows = model.unit_ids_, []
    for unit in counts.unit_ids:
        if label(name, unit) not in known:
            raise ValueError(f"unit {unit!r} of recording {name!r} was not in the fit")
        rows.append(known.index(label(name, unit)))
    one = copy(model)
    one.unit_ids_, one.baseline_ = counts.unit_ids, model.baseline_[:, rows]
    one.unit_tensors_ = {key: value[rows] for key, value in model.unit_tensors_.items()}
    one.unit_rate_ = [model.unit_rate_[row] for row in rows] if model.unit_rate_ else []
    return one


def count_like(
    model: Fitted,
    spikes: SpikeTrains,
    *,
    units: Sequence[int | str] | None = None,
    trials: str | Sequence[int | str] | None = None,
) -> BinnedSpikes:
    """Count the spikes of a recording in bins and windows like those of a model's fit.

    Bin size, alignment, window and table are those of the fit, and trials are summed if they were,
    as far as ``model.windows_`` says it.  Times near which events may begin (`BinnedSpikes.near`)
    are those of one recording, and not taken over.

    Parameters
    ----------
    model : DCEA
        Fitted.
    spikes : SpikeTrains
    units, trials
        As in `SpikeTrains.bin`.

    Raises
    ------
    ValueError
        If the recording has no such windows, as `SpikeTrains.bin` says.

    Examples
    --------
    >>> import spikecdl
    >>> spikes = spikecdl.read(spikecdl.datasets.demo())
    >>> counts = spikes.bin(0.005, window=(0.0, 1.0)).pool()
    >>> model = spikecdl.DCEA(1, 0.05, "binomial", random_state=0).fit(counts)
    >>> count_like(model, spikes, units=[3, 5])
    BinnedSpikes(1 trial, 2 units, 200 bins of 0.005 s, 929 spikes)
    """
    chosen = {"align": None, "window": None, "table": "trials", **model.windows_}
    how: dict[str, Any] = {name: chosen[name] for name in ("align", "window", "table")}
    counts = spikes.bin(f"{model.bin_size_}s", units=units, trials=trials, **how)
    return counts.pool() if chosen.get("pool_trials") else counts


class CodesAsTable:
    """Base of estimators whose codes are a table after ``set_output``, one row per trial."""

    n_templates: int
    layout: str
    unit_ids_: tuple[int | str, ...]
    _n_onsets: int

    @property
    def _gives_table(self) -> bool:
        """Whether ``set_output``, of the estimator or of scikit-learn, asks for a table."""
        from sklearn import get_config

        asked = getattr(self, "_sklearn_output_config", {})
        return asked.get("transform", get_config()["transform_output"]) != "default"

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()  # type: ignore[misc]
        tags.input_tags.three_d_array = True
        tags.target_tags.required = False
        tags.transformer_tags.preserves_dtype = []
        return tags

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Return the columns of the table of codes, in the order of the codes.

        They are named such as ``unit3_template0_bin12``, by the bin of the onset in windows as long
        as those of the fit; without ``unit`` in the joint layout.
        """
        from sklearn.utils.validation import check_is_fitted

        check_is_fitted(self, "templates_")
        rows = [""] if self.layout == "joint" else [f"unit{unit}_" for unit in self.unit_ids_]
        places = itertools.product(rows, range(self.n_templates), range(self._n_onsets))
        return np.array([f"{row}template{i}_bin{j}" for row, i, j in places], dtype=object)


def overlapping(counts: BinnedSpikes) -> tuple[np.ndarray, np.ndarray]:
    """Return which windows share time: the number of the group of each, and its bins (trial,).

    Windows of a group overlap, directly or through others.  The bins are those at the beginning of
    a window that are in an earlier one, too.  Where it is not known when windows start, none do;
    nor do those of different recordings that were put together by `concatenate`.

    Examples
    --------
    >>> starts = [0.0, 5.0, 0.5, 1.2]
    >>> counts = BinnedSpikes.from_array(np.ones((4, 1, 10), int), 0.1, trial_starts=starts)
    >>> overlapping(counts)
    (array([0, 1, 0, 0]), array([0, 0, 5, 3]))
    """
    group, shared = np.zeros((2, len(counts)), int)
    observed = np.asarray(counts.mask.any(axis=1))
    lasts = counts.n_bins - observed[:, ::-1].argmax(1)  # bins up to the last observed
    stops = counts.trial_starts + counts.bin_size * lasts
    names = np.array([str(trial).rpartition("/")[0] for trial in counts.trial_ids])
    number = 0
    for name in dict.fromkeys(names):
        mine = np.flatnonzero(names == name)
        order = mine[np.argsort(counts.trial_starts[mine], kind="stable")]
        until = np.maximum.accumulate(stops[order])[:-1] - counts.trial_starts[order][1:]
        bins = np.nan_to_num(np.round(until / counts.bin_size), nan=0.0).clip(min=0)
        shared[order[1:]] = np.minimum(bins, lasts[order[1:]])
        group[order] = number + np.append(0, np.cumsum(bins == 0))
        number = int(group[order[-1]]) + 1
    return np.unique(group, return_inverse=True)[1], shared


def check_artifacts(counts: BinnedSpikes, most: float = 1e6) -> None:
    """Raise ValueError if a value of a signal is so many times as far from the median as others."""
    if counts.is_counts:
        return
    signal = counts.counts[counts.mask]
    away = np.abs(signal - np.median(signal))
    typical, farthest = np.median(away), away.max(initial=0.0)
    if farthest > most * typical > 0:
        value = signal[away.argmax()]
        raise ValueError(
            f"`counts` have a value of {value:g}, {farthest / typical:.2g} times as far from the "
            "median as others are: an artifact, or a value that is missing; mask it"
        )
