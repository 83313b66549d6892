"""Arrays as counts (trial, unit, bin), also those of libraries that say what their axes are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from spikecdl.validation import listed, plain, shaped

_AXES = ("trial", "unit", "time")
_NAMES = {  # of the axes, in the singular or plural
    **{"trial": "trial", "repeat": "trial", "epoch": "trial"},
    **{"unit": "unit", "neuron": "unit", "cell": "unit", "cluster": "unit"},
    **{"time": "time", "bin": "time"},
}


class Values(NamedTuple):
    """Values (trial, unit, bin), and other arguments of `BinnedSpikes.from_array` that are known.

    ``bin_size`` is not among them if the array does not say it.
    """

    array: np.ndarray
    known: dict[str, Any]


def is_a(value: Any, library: str, *names: str) -> bool:
    """Return whether a value is of a class of a library, which need not be installed for that."""
    return any(
        kind.__module__.partition(".")[0] == library and kind.__name__ in names
        for kind in type(value).__mro__
    )


def labelled(value: Any) -> Callable[[Any], Values] | None:
    """Return what turns a value into `Values`, if it is an object of a class in `LABELLED`."""
    return next((values for of, values in LABELLED.items() if is_a(value, *of)), None)


def values_of(array: Any) -> Values:
    """Return the values of an array, in its own order if nothing says what its axes are."""
    values = labelled(array)
    return Values(np.asarray(without_torch(array)), {}) if values is None else values(array)


def without_torch(array: Any) -> Any:
    """Return the values of a tensor of any kind as an array, and anything else as it is."""
    if not is_a(array, "torch", "Tensor"):
        return array
    values = array.detach().cpu()
    values = values.dequantize() if values.is_quantized else values.to_dense()
    return (values.float() if str(values.dtype) == "torch.bfloat16" else values).numpy()


def signal_in_bins(name: str, given: Any, counts: Any) -> np.ndarray:
    """Return the values of a signal in the bins of counts; see `BinnedSpikes.with_signals`."""
    if is_a(given, "pynapple", "Tsd"):
        given = (given.t, given.d)
    if not isinstance(given, tuple):
        values = np.array(given, dtype=float)
        shaped(name, values, counts.shape[::2], "counts")
        return values
    times, values = (np.asarray(each, dtype=float).ravel() for each in given)
    shaped(name, values, times.shape, "times")
    times, values = times[np.isfinite(values)], values[np.isfinite(values)]
    if not times.size or not (np.diff(times) > 0).all():
        raise ValueError(f"the times of signal {name!r} must rise, in seconds")
    if not np.isfinite(counts.trial_starts).all():
        raise ValueError("`trial_starts` must be known, in seconds, to find signals in trials")
    edges = counts.trial_starts[:, None] + counts.bin_size * np.arange(counts.n_bins + 1)
    before = np.searchsorted(times, edges - 1e-6 * counts.bin_size)
    number, total = np.diff(before), np.diff(np.pad(values, (1, 0)).cumsum()[before])
    middle = edges[:, :-1] + counts.bin_size / 2
    between = np.interp(middle, times, values, left=np.nan, right=np.nan)
    found = np.where(number, total / np.maximum(number, 1), between)
    if np.isnan(found).all():
        raise ValueError(f"signal {name!r} has no value in the windows of the counts")
    return found


def _of_xarray(array: Any) -> Values:
    axes = {_NAMES.get(str(name).lower().removesuffix("s")): name for name in array.dims}
    if None in axes or len(axes) < max(2, array.ndim) or "time" not in axes:
        raise ValueError(
            f"dimensions {array.dims} of the DataArray must be named trial, unit and time; use its "
            "`rename`, or pass its `values` in the order (trial, unit, bin)"
        )
    values = array.transpose(*(axes[axis] for axis in _AXES if axis in axes)).values
    values = np.expand_dims(values, [i for i, axis in enumerate(_AXES) if axis not in axes])
    known: dict[str, Any] = {}
    for axis in ("trial", "unit"):
        if axes.get(axis) in array.coords:
            known[f"{axis}_ids"] = [plain(v) for v in array.coords[axes[axis]].values]
    time = axes["time"]
    if time in array.coords:
        edges = array.coords[time].values
        if edges.dtype.kind not in "iuf":
            raise TypeError(f"coordinate {time!r} must be numbers, in seconds, not {edges.dtype}")
        if (size := _spacing(edges, str(time))) is not None:
            known |= {"t_start": float(edges[0]), "bin_size": size}
    return Values(values, known)


def _of_frame(frame: Any) -> Values:
    """Turn a TsdFrame (time, unit), or a Tsd of one unit, into a trial for each of its epochs."""
    times, values = np.asarray(frame.t, dtype=float), np.asarray(frame.d)
    values = values.reshape(len(times), -1)
    epochs = ((times >= start) & (times <= stop) for start, stop in np.asarray(frame.time_support))
    held = {epoch: part for epoch, part in enumerate(epochs) if part.any()}
    parts = list(held.values())
    sizes = [size for p in parts if (size := _spacing(times[p], "the times", 1e-3)) is not None]
    if not sizes or np.ptp(sizes) > 1e-3 * sizes[0]:
        raise ValueError("the times of each epoch must be evenly spaced, in bins of one size")
    size, longest = sizes[0], max(int(part.sum()) for part in parts)
    array = np.zeros((len(parts), values.shape[1], longest), values.dtype)
    mask = np.zeros(array.shape, dtype=bool)
    for trial, part in enumerate(parts):
        array[trial, :, : part.sum()] = values[part].T
        mask[trial, :, : part.sum()] = True
    starts = [round(times[part][0] - size / 2, 9) for part in parts]
    known = {"bin_size": size, "mask": mask, "trial_starts": starts, "trial_ids": list(held)}
    if hasattr(frame, "columns"):
        known["unit_ids"] = [plain(column) for column in frame.columns]
    return Values(array, known)


def _of_elephant(binned: Any) -> Values:
    size, start = (round(float(t.rescale("s")), 12) for t in (binned.bin_size, binned.t_start))
    return Values(binned.to_array()[None], {"bin_size": size, "trial_starts": [start]})


def _of_sparse(matrix: Any) -> Values:
    if matrix.ndim != 2:
        raise ValueError(f"a sparse array {matrix.shape} must be (unit, bin)")
    return Values(matrix.toarray()[None], {})


#: Classes of other libraries, and the function that turns their objects into `Values`.
LABELLED = {
    ("xarray", "DataArray"): _of_xarray,
    ("pynapple", "TsdFrame", "Tsd"): _of_frame,
    ("elephant", "BinnedSpikeTrain"): _of_elephant,
    ("scipy", "_spbase"): _of_sparse,
}


def _spacing(times: np.ndarray, name: str, tolerance: float = 1e-6) -> float | None:
    """Return the distance between neighbours, None of a single one; ValueError if it varies."""
    steps = np.diff(times)
    if not steps.size:
        return None
    size = float(times[-1] - times[0]) / steps.size
    if not size > 0 or np.any(np.abs(steps - size) > max(tolerance * size, 1e-9)):
        raise ValueError(f"{name} must rise in even steps, not {listed(times.tolist())}")
    return float(f"{size:.9g}")


def blocks(shape: tuple[int, int, int], size: int = 2**20) -> Iterator[tuple[slice, slice]]:
    """Yield slices of trials and units that cover an array in blocks of about ``size`` numbers."""
    n_trials, n_units, n_bins = shape
    windows = max(1, size // n_bins)
    trials, units = max(1, windows // n_units), min(windows, n_units)
    for trial in range(0, n_trials, trials):
        for unit in range(0, n_units, units):
            yield slice(trial, trial + trials), slice(unit, unit + units)


def as_integers(values: np.ndarray) -> np.ndarray:
    """Return counts as signed integers of 16 bits or more; a real-valued signal as it is."""
    if values.dtype.kind == "f":
        whole = all((part >= 0).all() and (part == np.rint(part)).all() for part in values)
        return values.astype(np.int64) if whole else values
    return values if values.dtype.kind == "i" and values.itemsize > 1 else values.astype(np.int64)


def check_counts(counts: np.ndarray) -> None:
    """Raise unless an array holds counts, or a signal, per trial, unit and bin."""
    if counts.ndim != 3 or counts.size == 0:
        shape = "(trial, unit, bin), or (trial, bin) for one unit"
        raise ValueError(f"`counts` {counts.shape} must have shape {shape}, and not be empty")
    for block in blocks(counts.shape):
        part = counts[block]
        bad = part < 0 if counts.dtype.kind != "f" else ~np.isfinite(part)
        if bad.any():
            trial, unit, bin_ = np.argwhere(bad)[0] + [block[0].start, block[1].start, 0]
            value = str(counts[trial, unit, bin_]).replace("nan", "NaN").replace("inf", "infinity")
            raise ValueError(
                f"`counts` (={value} at trial {trial}, unit {unit}, bin {bin_}) must be finite and "
                "not negative; give a `mask` that is False where nothing was observed"
            )
