"""Several recordings, put together for one fit, and told apart again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

import numpy as np

from spikecdl.data.binned import BinnedSpikes
from spikecdl.data.results import Fitted, M
from spikecdl.data.spike_trains import SpikeTrains
from spikecdl.data.truth import LAYOUTS
from spikecdl.validation import one_of


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
        ``sub_bins`` is the largest; there is no truth.

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
    trial = unit = 0
    for part in every:
        rows, columns = slice(trial, trial + len(part)), slice(unit, unit + part.n_units)
        where = (rows, columns, slice(part.n_bins))
        counts[where], mask[where] = part.counts, part.mask
        if pooled:
            n_pooled[where] = part.n_pooled
        onsets[rows, : part.n_bins] = True if part.onsets is None else part.onsets
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
