"""Write recordings, simulated data and what a model found in them as NWB, with pynwb."""

from __future__ import annotations

import json
import os
import uuid
from contextlib import suppress
from datetime import datetime, timezone
from functools import partial
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from spikecdl.data import BinnedSpikes, Decomposition, SpikeTrains, Truth, hdf5
from spikecdl.data.binning import infer_clock_rate
from spikecdl.files import HDF5_SIGNATURE, replacing, starts_with
from spikecdl.io.nwb_layout import (
    TimeAxis,
    add_intervals,
    add_table,
    add_to_module,
    ragged,
    rows_and_columns,
)
from spikecdl.validation import listed

if TYPE_CHECKING:
    import pandas as pd
    from pynwb import NWBFile

_EVENT_COLUMNS = {
    "trial": "trial",
    "unit": "unit; -1 where units share the codes of one template",
    "template": "number of the template",
    "time": "onset of the template, in seconds from what the window is aligned to",
    "amplitude": "amplitude of the code",
    "response_time": "when the template rises above a fifth of its largest change",
    "peak_time": "when the template is largest, in the time of its onset",
    "probability": "probability that the template begins here, given the fitted model",
    "amplitude_sd": "posterior standard deviation of the amplitude, given that there is an event",
    "time_sd": "posterior standard deviation of the onset, in seconds",
    "q_value": "smallest false discovery rate at which the event is kept",
}


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
    from pynwb import NWBHDF5IO

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
        *ragged("spike_times", "spike times of each unit, in seconds", spikes.times),
        *ragged("obs_intervals", "intervals in which each unit was observed", observed),
    ]
    file.units = Units(
        name="units",
        description="Spike trains, and when each unit was observed",
        resolution=None if rate is None else 1.0 / rate,
        **rows_and_columns(Units, "unit_id", columns, others),
    )
    for name, frame in spikes.tables.items():
        add_intervals(file, name, frame)


def _add_binned(file: NWBFile, counts: BinnedSpikes) -> dict[str, Any]:
    axis = TimeAxis(counts)
    unit = "spikes" if counts.is_counts else "a.u."
    axis.add(file, "binned_signal", counts.counts, unit, f"{unit} in each bin; {_columns(counts)}")
    if not (counts.n_pooled == 1).all():
        about = "recorded trials summed in each bin; 0 where nothing was observed"
        axis.add(file, "binned_n_pooled", counts.n_pooled, "trials", about)
    axis.add_windows(file, "trials", counts.trial_ids)
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
    add_table(file, "true_baseline", f"Baseline {about}", columns)
    _add_events(file, "true_events", f"Events {about}", truth.events)
    shape = truth.baseline.shape
    return {"n_templates": len(truth.templates), "shape": shape, **truth.header()}


def _add_decomposition(file: NWBFile, parts: Decomposition) -> dict[str, Any]:
    counts, axis = parts.counts, TimeAxis(parts.counts)
    fit = f"family {parts.family.name}, layout {parts.layout}, bins of {counts.bin_size:g} s"
    _add_templates(file, "templates", f"Templates ({fit})", parts.templates, counts.bin_size)
    padding = counts.n_bins - parts.codes.shape[-1]
    codes = np.pad(parts.codes, [(0, 0), (0, 0), (0, 0), (0, padding)])
    codes = codes.reshape(len(counts), -1, counts.n_bins)
    units = _columns(counts)
    who = "" if parts.layout == "joint" else f"{units}, and for each of them "
    order = f"{who}one column per template, {len(parts.templates)} in all"
    axis.add(file, "codes", codes, "a.u.", f"Amplitude of each template at its onset; {order}")
    unit = "Hz" if parts.family.integer_valued else "a.u."
    rate = partial(parts.of_units, "rate")
    axis.add(file, "fitted_rate", rate, unit, f"Fitted rate ({fit}); {units}", counts.n_units)
    baseline = np.broadcast_to(parts.baseline[:, :, None], counts.shape)
    axis.add(file, "fitted_baseline", baseline, unit, f"Baseline of the fit; {units}")
    events = parts.events()
    ids: Any = list(counts.unit_ids)
    ids = ids if all(isinstance(unit, int) for unit in ids) else list(map(str, ids))
    if not all(isinstance(value, int) for value in (*counts.unit_ids, *counts.trial_ids)):
        events = events.astype({"trial": str, "unit": str})
    _add_events(file, "events", f"Codes that are not zero ({fit})", events)
    _add_event_series(file, axis, parts, events)
    about = "unit of each column of fitted_rate and fitted_baseline"
    add_table(file, "rate_columns", f"Units of the fit ({fit})", {"unit": (about, ids)})
    if parts.history_filter is not None:
        lags = counts.bin_size * np.arange(1, 1 + parts.history_filter.shape[1])
        columns = {
            "lag": ("time since a spike, in seconds", lags),
            "log_rate": (f"change of eta, the log rate; {units}", parts.history_filter.T),
        }
        add_table(file, "history_filter", f"Effect of a unit's own spikes ({fit})", columns)
    axis.add_windows(file, "windows", counts.trial_ids)
    return {
        "family": parts.family.name,
        "layout": parts.layout,
        "bin_size": counts.bin_size,
        "unit_ids": counts.unit_ids,
        "deviance_explained": _numbers(np.array([parts.deviance_explained]))[0],
        "deviance_explained_per_unit": _numbers(parts.deviance_explained_per_unit),
    }


def _columns(counts: BinnedSpikes) -> str:
    """Name the columns of a series, one per unit; attributes of HDF5 cannot hold long lists."""
    return f"columns: units {listed(counts.unit_ids, 20)}"


def _add_templates(
    file: NWBFile, name: str, about: str, templates: np.ndarray, bin_size: float
) -> None:
    columns = {"time": ("time from onset, in seconds", bin_size * np.arange(templates.shape[-1]))}
    for i, template in enumerate(templates):
        waveform = template[0] if len(template) == 1 else template.T
        columns[f"template_{i}"] = (f"template {i}: (bin,) or (bin, channel)", waveform)
    add_table(file, name, about, columns)


def _add_events(file: NWBFile, name: str, about: str, events: pd.DataFrame) -> None:
    if len(events):
        columns = {key: (_EVENT_COLUMNS[key], events[key].to_numpy()) for key in events}
        add_table(file, name, about, columns)


def _add_event_series(
    file: NWBFile, axis: TimeAxis, parts: Decomposition, events: pd.DataFrame
) -> None:
    """Add series of the events of each template, with their onsets on the time axis."""
    from pynwb import TimeSeries

    trial, unit, template, _ = np.nonzero(parts.codes)
    times = axis.starts[trial] + events["time"].to_numpy() - parts.counts.t_start
    values = {"amplitude": ("a.u.", events["amplitude"].to_numpy())}
    if "probability" in events:
        values["probability"] = ("1", events["probability"].to_numpy())
    if parts.codes.shape[1] > 1:
        values["column"] = ("1", unit)
    for i in np.unique(template):
        rows = np.flatnonzero(template == i)
        rows = rows[np.argsort(times[rows], kind="stable")]
        for name, (measure, data) in values.items():
            series = TimeSeries(
                name=f"events_{i}_{name}",
                description=f"{name} of the events of template {i}, at their onsets",
                data=data[rows],
                timestamps=times[rows],
                unit=measure,
            )
            add_to_module(file, series)


def _numbers(values: np.ndarray) -> list[float | None]:
    """Return a vector for JSON, with None for nan."""
    return [value if np.isfinite(value) else None for value in values.tolist()]


_UNKNOWN_START = datetime(2000, 1, 1, tzinfo=timezone.utc)  # NWB requires a session_start_time
_UNIDENTIFIED = "http://purl.obolibrary.org/obo/NCBITaxon_32644"  # as a species, at NCBI
_UNKNOWN_SUBJECT = {"age": "P0D/", "sex": "U", "species": _UNIDENTIFIED}
_SESSION = ("experimenter", "institution", "lab", "session_id", "protocol", "surgery")
_SUBJECT = ("subject_id", "age", "description", "genotype", "sex", "species", "strain", "weight")


def _new_file(source: str, *, simulated: bool) -> NWBFile:
    """Return an NWB file in memory, with the session of ``source`` if that is an NWB file."""
    from pynwb import NWBFile
    from pynwb.file import Subject

    unknown = "simulated" if simulated else "unknown"
    session: dict[str, Any] = {
        "session_start_time": _UNKNOWN_START,
        "experimenter": [f"{unknown.title()}, {unknown.title()}"],
        "institution": unknown,
    }
    subject = {"subject_id": unknown, "description": f"{unknown} subject", **_UNKNOWN_SUBJECT}
    if starts_with(source, HDF5_SIGNATURE):
        with suppress(ValueError):  # one that names other files, say
            known_session, known_subject = _session_of(source)
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


def _session_of(source: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read what an NWB file says of its session and its subject."""
    import pandas as pd

    def texts(group: Any, names: tuple[str, ...]) -> dict[str, Any]:
        found = ((name, hdf5.values(group[name])) for name in names if name in group)
        return {name: value for name, value in found if value}

    with hdf5.opened(source, "NWB", ("session_start_time", "general")) as file:
        general = file.get("general", {})
        session = texts(general, _SESSION)
        if "session_start_time" in file:
            start = pd.Timestamp(str(hdf5.values(file["session_start_time"]))).to_pydatetime()
            session["session_start_time"] = start if start.tzinfo else start.astimezone()
        return session, texts(general.get("subject", {}), _SUBJECT)
