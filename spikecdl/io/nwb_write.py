"""Write recordings, simulated data and what a model found in them as NWB, with pynwb."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from functools import partial
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from spikecdl.data import BinnedSpikes, Decomposition, SpikeTrains, Truth
from spikecdl.data.binning import infer_clock_rate
from spikecdl.data.results import DESCRIPTIONS
from spikecdl.files import HDF5_SIGNATURE, replacing, starts_with
from spikecdl.io.nwb_read import MODULE, import_pynwb, session_of
from spikecdl.validation import listed, plain

if TYPE_CHECKING:
    import pandas as pd
    from hdmf.common import DynamicTable, VectorData
    from pynwb import NWBFile

Values = np.ndarray | Callable[[slice], np.ndarray]  # or what returns those of some columns

_TIMES = {"start_time": "start, in seconds", "stop_time": "end, in seconds"}
_NAMES = {"unit_id": "name of the unit", "trial_id": "name of the trial"}


def write_nwb(
    path: str | os.PathLike[str],
    data: SpikeTrains | BinnedSpikes,
    *,
    decomposition: Decomposition | None = None,
) -> None:
    """Write data, and optionally a model's decomposition of them, to a new NWB file.

    `SpikeTrains` become the units table, with ``obs_intervals`` and all columns, the trials and
    the other tables of intervals.  `BinnedSpikes`, a truth and a decomposition become TimeSeries
    and tables in the processing module ``ecephys``; what these cannot hold is JSON in the file's
    notes.  The page on file formats in the documentation describes each.

    The time axis of each TimeSeries runs through the windows one after another, at their own times
    in the recording where those are known and do not overlap, else end to end from 0; the interval
    table ``windows`` says where each lies.

    Ids that are not integers are kept in a column ``unit_id`` or ``trial_id``; names that NWB keeps
    for itself get an underscore.  If ``source`` is an NWB file that can be read without following
    links, its session, subject and experimenter are carried over; otherwise they are given as
    unknown.

    Parameters
    ----------
    path : path_like
        Where to write; an existing file is replaced in one step.
    data : SpikeTrains or BinnedSpikes
    decomposition : Decomposition, optional
        What a model finds in these data.

    Raises
    ------
    ValueError, FileNotFoundError
        If ``path`` is a folder or the file that the data come from; if its folder does not exist.
    TypeError
        If ``data`` is neither `SpikeTrains` nor `BinnedSpikes`.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from spikecdl.io import read_nwb
    >>> path = pathlib.Path(tempfile.mkdtemp(), "one.nwb")
    >>> write_nwb(path, SpikeTrains.from_arrays([[0.1, 0.25]], observed=(0.0, 1.0)))
    >>> read_nwb(path).times[0]
    array([0.1 , 0.25])
    """
    NWBHDF5IO = import_pynwb().NWBHDF5IO
    if not isinstance(data, SpikeTrains | BinnedSpikes):
        raise TypeError(f"`data` must be SpikeTrains or BinnedSpikes, not {type(data).__name__}")
    with replacing(path, data.source, ".nwb", sealed=True) as temporary:
        file = _new_file(data.source, simulated=data.truth is not None)
        notes: dict[str, Any] = {}
        if isinstance(data, SpikeTrains):
            _add_recording(file, data)
        else:
            notes["binned"] = _add_binned(file, data)
        if data.truth is not None:
            notes["truth"] = _add_truth(file, data.truth)
        if decomposition is not None:
            notes["fit"] = _add_decomposition(file, decomposition)
        if notes:
            file.notes = json.dumps(notes)
        with NWBHDF5IO(temporary, "w") as handle:
            handle.write(file)


def _add_recording(file: NWBFile, spikes: SpikeTrains) -> None:
    import pandas as pd
    from pynwb.misc import Units

    ids = pd.Index(spikes.unit_ids)
    others = pd.DataFrame(index=ids) if spikes.units is None else spikes.units.set_axis(ids)
    rate = spikes.clock_rate or infer_clock_rate(spikes.times)
    never = np.full((1, 2), spikes.t_start)  # without any interval, a unit counts as observed
    observed = [rows if len(rows) else never for rows in spikes.observed]
    columns = [
        *_ragged("spike_times", "spike times of each unit, in seconds", spikes.times),
        *_ragged("obs_intervals", "intervals in which each unit was observed", observed),
    ]
    file.units = Units(
        name="units",
        description="Spike trains, and when each unit was observed",
        resolution=None if rate is None else 1.0 / rate,
        **_rows_and_columns(Units, "unit_id", columns, others),
    )
    for name, frame in spikes.tables.items():
        _add_intervals(file, name, frame)


def _add_binned(file: NWBFile, counts: BinnedSpikes) -> dict[str, Any]:
    axis = _TimeAxis(file, counts)
    unit = "spikes" if counts.is_counts else "a.u."
    axis.add("binned_signal", counts.counts, unit, f"{unit} in each bin; {_units(counts)}")
    if not (counts.n_pooled == 1).all():
        about = "recorded trials summed in each bin; 0 where nothing was observed"
        axis.add("binned_n_pooled", counts.n_pooled, "trials", about)
    axis.add_windows("trials", counts.trial_ids)
    starts = _numbers(counts.trial_starts)
    return {"shape": counts.shape, "trial_starts": starts, **counts.header()}


def _add_truth(file: NWBFile, truth: Truth) -> dict[str, Any]:
    about = "the data were simulated with"
    _add_templates(file, "true_templates", f"Templates {about}", truth.templates, truth.bin_size)
    trial, unit = (axis.ravel() for axis in np.indices(truth.baseline.shape))
    columns = {
        "trial": ("position of the trial", trial),
        "unit": ("position of the unit", unit),
        "rate": ("baseline rate, in Hz", truth.baseline.ravel()),
    }
    _add_table(file, "true_baseline", f"Baseline {about}", columns)
    _add_events(file, "true_events", f"Events {about}", truth.events)
    return {"n_templates": len(truth.templates), "shape": truth.baseline.shape, **truth.header()}


def _add_decomposition(file: NWBFile, parts: Decomposition) -> dict[str, Any]:
    counts, axis = parts.counts, _TimeAxis(file, parts.counts)
    fit = f"family {parts.family.name}, layout {parts.layout}, bins of {counts.bin_size:g} s"
    _add_templates(file, "templates", f"Templates ({fit})", parts.templates, counts.bin_size)
    codes = np.pad(parts.codes, [(0, 0)] * 3 + [(0, counts.n_bins - parts.codes.shape[-1])])
    codes = codes.reshape(len(counts), -1, counts.n_bins)
    units = _units(counts)
    who = "" if parts.layout == "joint" else f"{units}, and for each of them "
    order = f"{who}one column per template, {len(parts.templates)} in all"
    about = f"Amplitude of each template at its onset; {order}"
    axis.add("codes", codes, "a.u.", about)
    unit = "Hz" if parts.family.integer_valued else "a.u."
    rate = partial(parts.of_units, "rate")
    axis.add("fitted_rate", rate, unit, f"Fitted rate ({fit}); {units}")
    baseline = np.broadcast_to(parts.baseline[:, :, None], counts.shape)
    axis.add("fitted_baseline", baseline, unit, f"Baseline of the fit; {units}")
    events = parts.events()
    ids: Any = list(counts.unit_ids)
    ids = ids if all(isinstance(unit, int) for unit in ids) else list(map(str, ids))
    if not all(isinstance(value, int) for value in (*counts.unit_ids, *counts.trial_ids)):
        events = events.astype(dict.fromkeys(events.columns.intersection(["trial", "unit"]), str))
    _add_events(file, "events", f"Codes that are not zero ({fit})", events)
    _add_event_series(axis, parts, events)
    about = "unit of each column of fitted_rate and fitted_baseline"
    _add_table(file, "rate_columns", f"Units of the fit ({fit})", {"unit": (about, ids)})
    if parts.history_filter is not None:
        lags = counts.bin_size * np.arange(1, 1 + parts.history_filter.shape[1])
        columns = {
            "lag": ("time since a spike, in seconds", lags),
            "log_rate": (f"change of eta, the log rate; {units}", parts.history_filter.T),
        }
        _add_table(file, "history_filter", f"Effect of a unit's own spikes ({fit})", columns)
    axis.add_windows("windows", counts.trial_ids)
    return {
        "family": parts.family.name,
        "layout": parts.layout,
        "bin_size": counts.bin_size,
        "unit_ids": counts.unit_ids,
        "deviance_explained": _numbers(np.array([parts.deviance_explained]))[0],
        "deviance_explained_per_unit": _numbers(parts.deviance_explained_per_unit),
    }


def _units(counts: BinnedSpikes) -> str:
    """Name the columns of a series, one per unit; attributes of HDF5 cannot hold long lists."""
    return f"columns: units {listed(counts.unit_ids, 20)}"


def _add_templates(
    file: NWBFile, name: str, about: str, templates: np.ndarray, bin_size: float
) -> None:
    columns = {"time": ("time from onset, in seconds", bin_size * np.arange(templates.shape[-1]))}
    for i, template in enumerate(templates):
        waveform = template[0] if len(template) == 1 else template.T
        columns[f"template_{i}"] = (f"template {i}: (bin,) or (bin, channel)", waveform)
    _add_table(file, name, about, columns)


def _add_events(file: NWBFile, name: str, about: str, events: pd.DataFrame) -> None:
    if len(events):
        columns = {key: (DESCRIPTIONS[key], events[key].to_numpy()) for key in events}
        _add_table(file, name, about, columns)


def _add_event_series(axis: _TimeAxis, parts: Decomposition, events: pd.DataFrame) -> None:
    """Add series of the events of each template, with their onsets on the time axis."""
    from pynwb import TimeSeries

    trial, unit, *_ = np.nonzero(parts.codes)
    times = axis.starts[trial] + events["time"].to_numpy() - parts.counts.t_start
    table = events.assign(time=times, column=unit).sort_values("time", kind="stable")
    measures = {"amplitude": "a.u.", "probability": "1"}
    measures |= {"column": "1"} if parts.codes.shape[1] > 1 else {}
    for i, rows in table.groupby("template"):
        for name in (measure for measure in measures if measure in rows):
            series = TimeSeries(
                name=f"events_{i}_{name}",
                description=f"{name} of the events of template {i}, at their onsets",
                data=rows[name].to_numpy(),
                timestamps=rows["time"].to_numpy(),
                unit=measures[name],
            )
            _add_to_module(axis.file, series)


def _numbers(values: np.ndarray) -> list[float | None]:
    """Return a vector for JSON, with None for nan."""
    return [value if np.isfinite(value) else None for value in values.tolist()]


_UNIDENTIFIED = "http://purl.obolibrary.org/obo/NCBITaxon_32644"  # as a species, at NCBI
_UNKNOWN_SUBJECT = {"age": "P0D/", "sex": "U", "species": _UNIDENTIFIED}


def _new_file(source: str, *, simulated: bool) -> NWBFile:
    """Return an NWB file in memory, with the session of ``source`` if that is an NWB file."""
    from pynwb import NWBFile
    from pynwb.file import Subject

    unknown = "simulated" if simulated else "unknown"
    session: dict[str, Any] = {
        "session_start_time": datetime(2000, 1, 1, tzinfo=timezone.utc),  # NWB requires one
        "experimenter": [f"{unknown.title()}, {unknown.title()}"],
        "institution": unknown,
    }
    subject = {"subject_id": unknown, "description": f"{unknown} subject", **_UNKNOWN_SUBJECT}
    if starts_with(source, HDF5_SIGNATURE):
        with suppress(ValueError):  # one that names other files, say
            known_session, known_subject = session_of(source)
            session, subject = session | known_session, known_subject or subject
    file = NWBFile(
        session_description=f"Written by spikecdl; the data come from {_name_of(source)}",
        identifier=str(uuid.uuid4()),
        experiment_description="Spike trains and templates of firing-rate change found in them",
        keywords=["spike trains", "convolutional dictionary learning"],
        **session,
    )
    file.subject = Subject(**subject)
    return file


def _name_of(source: str) -> str:
    """Return where data come from, without the folders of a file: a file may be published."""
    paths = map(PurePath, (source or "arrays").split(", "))
    return ", ".join(path.name if path.is_absolute() else str(path) for path in paths)


def _add_table(
    file: NWBFile, name: str, description: str, columns: Mapping[str, tuple[str, Any]]
) -> None:
    """Add a table to the module, of columns given as name: (description, values)."""
    from hdmf.common import DynamicTable

    made = [_column(key, about, _smallest(values)) for key, (about, values) in columns.items()]
    table = DynamicTable(name=name, description=description, columns=made, colnames=list(columns))
    _add_to_module(file, table)


def _add_intervals(file: NWBFile, name: str, frame: pd.DataFrame) -> None:
    """Add a frame to a file as the interval table ``name``; rows without an end get their start."""
    from pynwb.epoch import TimeIntervals

    starts = frame["start_time"].to_numpy(dtype=float)
    stops = frame["stop_time"].to_numpy(dtype=float) if "stop_time" in frame else starts
    times = {"start_time": starts, "stop_time": stops}
    columns = [_column(key, _TIMES[key], values) for key, values in times.items()]
    others = frame.drop(columns=list(times), errors="ignore")
    table = TimeIntervals(
        name=_allowed(name),
        description=f"{name} of the recording",
        **_rows_and_columns(TimeIntervals, "trial_id", columns, others),
    )
    if name in ("trials", "epochs", "invalid_times"):
        setattr(file, name, table)
    else:
        file.add_time_intervals(table)


def _rows_and_columns(
    kind: type[DynamicTable], id_column: str, columns: Sequence[VectorData], frame: pd.DataFrame
) -> dict[str, Any]:
    """Return ``id``, ``columns`` and ``colnames`` of a table.

    The frame's index holds the ids, which are kept in ``id_column`` if they are not all integers.
    Numbers, booleans and text are written as they are, rows of several values as a ragged column,
    and anything else as text, empty where nothing is known.  Names that this kind of table keeps
    for itself get an underscore; characters that HDF5 does not allow become underscores.
    """
    from hdmf.common import VectorIndex

    made, ids = list(columns), list(map(plain, frame.index))
    if not all(isinstance(row, int) for row in ids):
        made.append(_column(id_column, _NAMES[id_column], list(map(str, ids))))
        ids = list(range(len(ids)))
    kept = {about["name"] for about in kind.__columns__} - {"tags"} | _NAMES.keys()
    for original, series in frame.items():
        name = _allowed(str(original))
        name += "_" * (name in kept or hasattr(kind, name))
        made += _frame_column(name, _TIMES.get(original, str(original)), series)
    names = [column.name for column in made if not isinstance(column, VectorIndex)]
    return {"id": ids, "columns": made, "colnames": names}


def _ragged(name: str, description: str, rows: Sequence[Any]) -> list[VectorData]:
    """Return a column with rows of different length, and its index; more if rows have rows."""
    from hdmf.common import VectorIndex

    all_arrays = all(isinstance(row, np.ndarray) for row in rows)
    flat: Any = np.concatenate(rows) if all_arrays else [value for row in rows for value in row]
    nested = isinstance(flat, list) and any(isinstance(value, tuple) for value in flat)
    made = _ragged(name, description, flat) if nested else [_column(name, description, flat)]
    ends = np.cumsum([len(row) for row in rows])
    return [*made, VectorIndex(name=f"{made[-1].name}_index", data=ends, target=made[-1])]


def _frame_column(name: str, about: str, series: pd.Series) -> list[VectorData]:
    values = series.to_numpy()
    if name != "tags" and values.dtype.kind in "biuf":
        return [_column(name, about, values)]
    if all(isinstance(row, np.ndarray) for row in values) and len({r.shape for r in values}) == 1:
        return [_column(name, about, np.stack(list(values)))]
    rows = [tuple(row) if isinstance(row, list | tuple | np.ndarray) else row for row in values]
    if name == "tags" or any(isinstance(row, tuple) for row in rows):
        return _ragged(name, about, [row if isinstance(row, tuple) else (row,) for row in rows])
    absent = series.isna().to_numpy()
    return [_column(name, about, ["" if n else str(r) for r, n in zip(rows, absent, strict=True)])]


def _column(name: str, description: str, values: Any) -> VectorData:
    from hdmf.common import VectorData

    return VectorData(name=name, description=description, data=values)


def _allowed(name: str) -> str:
    return name.replace("/", "_").replace(":", "_")


def _smallest(values: Any) -> Any:
    """Return integers in the smallest type that holds them, and anything else as it is."""
    array = np.asarray(values)
    if array.dtype.kind not in "iu" or array.size == 0:
        return values
    low, high = array.min(), array.max()
    return array.astype(np.promote_types(np.min_scalar_type(low), np.min_scalar_type(high)))


class _TimeAxis:
    """Where the windows of binned data lie, in seconds.

    At their own times in the recording if these are known and do not overlap, else end to end.
    """

    at_once = 2**24  # numbers of a series that are computed and written at a time (128 MB)

    def __init__(self, file: NWBFile, counts: BinnedSpikes) -> None:
        self.file, self.n_units = file, counts.n_units
        starts, duration = counts.trial_starts, counts.duration
        slack = 1e-6 * counts.bin_size
        if not np.isfinite(starts).all() or np.any(np.diff(starts) < duration - slack):
            starts = duration * np.arange(len(counts))
        self.starts, self.stops, self.bin_size = starts, starts + duration, counts.bin_size
        self.n_bins, self.n_rows = counts.n_bins, len(starts) * counts.n_bins

    def add(self, name: str, values: Values, unit: str, about: str) -> None:
        """Add (trial, column, bin) values to the module as one series (time, column).

        A series with more columns than rows is split, because NWB takes the longer axis for time.
        Long ones, which may be given by what returns some columns, one for each unit, are written a
        few columns at a time.
        """
        from hdmf.backends.hdf5 import H5DataIO
        from hdmf.data_utils import DataChunkIterator
        from pynwb import TimeSeries

        if np.all(np.abs(self.starts[1:] - self.stops[:-1]) <= 1e-6 * self.bin_size):
            times = {"starting_time": float(self.starts[0]), "rate": 1.0 / self.bin_size}
        else:
            edges = np.add.outer(self.starts, self.bin_size * np.arange(self.n_bins))
            times = {"timestamps": edges.ravel()}
        n_columns = self.n_units if callable(values) else values.shape[1]
        parts = range(0, n_columns, self.n_rows)
        few, chunk = max(1, self.at_once // self.n_rows), 2**16  # what HDF5 caches of a file
        for i, first in enumerate(parts):
            span = range(first, min(first + self.n_rows, parts.stop))
            which = f"; columns {first} to {span[-1]}" if len(parts) > 1 else ""
            how = {"maxshape": (self.n_rows, len(span)), "buffer_size": few, "iter_axis": 1}
            data = DataChunkIterator(_columns(values, span, few), **how)
            chunks = (min(self.n_rows, chunk), min(len(span), max(1, chunk // self.n_rows)))
            series = TimeSeries(
                name=f"{name}_{i}" if len(parts) > 1 else name,
                description=about + which,
                data=H5DataIO(data, compression="gzip", chunks=chunks),
                unit=unit,
                **times,
            )
            _add_to_module(self.file, series)

    def add_windows(self, name: str, trial_ids: Sequence[int | str]) -> None:
        """Add the interval table that says where each window lies, if there are several."""
        import pandas as pd

        if len(self.starts) > 1:
            times = {"start_time": self.starts, "stop_time": self.stops}
            _add_intervals(self.file, name, pd.DataFrame(times, list(trial_ids)))


def _columns(values: Values, span: range, few: int) -> Iterator[np.ndarray]:
    """Yield columns of (trial, column, bin) values, of which a few are computed together."""
    for first in range(span.start, span.stop, few):
        columns = slice(first, min(first + few, span.stop))
        some = values(columns) if callable(values) else values[:, columns]
        yield from np.moveaxis(some, 1, 0).reshape(some.shape[1], -1)


def _add_to_module(file: NWBFile, thing: Any) -> None:
    """Add a series or table to the processing module, which is made when it is first needed."""
    if MODULE not in file.processing:
        file.create_processing_module(MODULE, "Templates of firing-rate change, and binned data")
    file.processing[MODULE].add(thing)
