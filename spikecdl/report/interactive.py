"""The part of the report that can be zoomed: its data, and the scripts and styles that draw them.

It is drawn by uPlot (MIT License), which is in the folder ``uplot`` as it was published.
"""

from __future__ import annotations

import base64
import hashlib
import json
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np

from spikecdl.plots import style
from spikecdl.plots.rates import busiest, rates_of

if TYPE_CHECKING:
    from spikecdl.data import Decomposition


def parts_of_page(decomposition: Decomposition) -> dict[str, str]:
    """Return data, script, style and the hash of the script, as they stand in the page."""
    folder = resources.files("spikecdl.report")
    library, css, licence, own = (
        folder.joinpath(name).read_text("utf-8")
        for name in ("uplot/uPlot.iife.min.js", "uplot/uPlot.min.css", "uplot/LICENSE", "report.js")
    )
    about, code = library.split("\n", 1)  # the first line names the library and its version
    version = about.rpartition("(")[2].partition(")")[0]
    script = f"/*! uPlot {version}\n{licence}\n*/\n{code}\n{own}"
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    data = json.dumps(data_of(decomposition), allow_nan=False).replace("<", "\\u003c")
    return {"data": data, "script": script, "style": css, "hash": f"sha256-{digest}"}


def data_of(
    decomposition: Decomposition,
    most_units: int = 24,
    longest: int = 20_000,
    most_numbers: int = 300_000,
) -> dict[str, Any]:
    """Return windows, templates and events as JSON can hold them; arrays are float32 in base64.

    Of more than ``most_units``, those that matter most to the templates are kept; of windows longer
    than ``longest`` bins, the stretch with most events; and of many trials, those with most events,
    so that there are ``most_numbers`` bins in all.  The page then has a few megabytes.
    """
    length, joint = decomposition.templates.shape[2], decomposition.layout == "joint"
    units = _largest(_weights(decomposition), most_units)
    rates = rates_of(decomposition, units)
    counts = rates.counts
    codes = decomposition.codes if joint else decomposition.codes[:, units]
    n_bins = min(counts.n_bins, longest)
    start = busiest(codes, n_bins - length + 1)
    there = np.count_nonzero(codes[..., start : start + n_bins], axis=(1, 2, 3))
    trials = _largest(there, max(1, most_numbers // (n_bins * len(units))))
    stretch, names = slice(start, start + n_bins), decomposition.counts
    single = not rates.is_signal and counts.n_pooled.max(initial=0) <= 1
    return {
        "label": rates.label,
        "eta": decomposition.family.eta_name,
        "time": "bins" if style.in_bins(counts.bin_size) else "s",
        "bin": counts.bin_size,
        "start": float(style.edges(counts)[start]),
        "bins": n_bins,
        "marks": bool(single),  # spikes are marks, not bars
        "joint": joint,
        "colours": [style.colour(k) for k in range(len(decomposition.templates))],
        "units": [str(names.unit_ids[unit]) for unit in units],
        "trials": [str(names.trial_ids[trial]) for trial in trials],
        "all": {"units": names.n_units, "trials": len(counts), "bins": counts.n_bins},
        "templates": [
            [_packed(template[unit]) for unit in (units if joint else [0])]
            for template in decomposition.templates
        ],
        "events": _events(decomposition, trials, units, start, n_bins),
        "measured": _rows(rates.data, trials, stretch),
        "fitted": _rows(rates.fit, trials, stretch),
        "baseline": _packed(decomposition.baseline[np.ix_(trials, units)]),
    }


def _weights(decomposition: Decomposition) -> np.ndarray:
    """How much each unit matters to the templates: events in it, or their largest change."""
    if decomposition.layout == "joint":
        return np.abs(decomposition.templates).max(axis=(0, 2))
    return np.count_nonzero(decomposition.codes, axis=(0, 2, 3))


def _largest(weights: np.ndarray, most: int) -> list[int]:
    """Return the positions of the largest weights, in their order."""
    return sorted(np.argsort(-weights, kind="stable")[:most].tolist())


def _events(
    decomposition: Decomposition, trials: list[int], units: list[int], start: int, n_bins: int
) -> list[list[Any]]:
    """Return trial, unit (0 of joint templates), template, onset, amplitude, probability."""
    table, joint = decomposition.events(), decomposition.layout == "joint"
    where = np.nonzero(decomposition.codes)
    probability = table["probability"].tolist() if "probability" in table else [None] * len(table)
    length = decomposition.templates.shape[2]
    rows = zip(*(axis.tolist() for axis in where), table["amplitude"], probability, strict=True)
    return [
        [trials.index(t), 0 if joint else units.index(u), k, onset - start, amplitude, certain]
        for t, u, k, onset, amplitude, certain in rows
        if t in trials and (joint or u in units) and -length < onset - start < n_bins
    ]


def _rows(values: np.ndarray | None, trials: list[int], stretch: slice) -> list[list[str]]:
    """Return a stretch of some trials, unit by unit."""
    assert values is not None
    return [[_packed(unit[stretch]) for unit in values[trial]] for trial in trials]


def _packed(values: np.ndarray) -> str:
    """Return numbers as float32, little-endian, in base64."""
    return base64.b64encode(np.asarray(values, dtype="<f4").tobytes()).decode("ascii")
