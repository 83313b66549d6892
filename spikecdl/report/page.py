"""The figures of a fit, and one HTML page that says what was fitted and how well.

The part of the page that can be zoomed is drawn by uPlot (MIT License), which is in the folder
``uplot`` as it was published.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spikecdl.evaluation.metrics import event_table, mismatch, template_error, template_table
from spikecdl.plots import style
from spikecdl.plots.rates import busiest, rates_of
from spikecdl.report.summary import at_edge, template

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from spikecdl.data import BinnedSpikes, Decomposition, SpikeTrains, Truth
    from spikecdl.estimator import DCEA
    from spikecdl.evaluation.bands import Bands

_DPI = 200  # dots per inch of the figures in a page: sharp on screens of twice the usual density


def draw_figures(
    model: DCEA,
    decomposition: Decomposition,
    spikes: SpikeTrains | BinnedSpikes | None = None,
    bands: Bands | None = None,
) -> dict[str, Figure]:
    """Draw all figures of a fit, and return them by name; none is shown or left open.

    They are ``templates``, ``events`` (spikes around them), ``population`` and ``units`` (in the
    joint layout), ``rates``, ``codes``, ``decomposition`` (of the window with most spikes),
    ``history`` and ``signals`` (if the model has them), ``ks`` (counts only) and ``training``. If
    the counts hold a truth with the model's bins and layout, it is drawn over the templates.

    Parameters
    ----------
    model : DCEA
        A fitted model.
    decomposition : Decomposition
        Made by ``model.decompose(counts)``.
    spikes : BinnedSpikes or SpikeTrains, optional
        Source of the rasters if ``counts`` are pooled; see `spikecdl.plots.rate`.
    bands : Bands, optional
        Made by `spikecdl.bands`; drawn with the templates.

    Examples
    --------
    >>> from spikecdl import DCEA
    >>> counts = np.random.default_rng(0).poisson(np.repeat([0.2, 2, 0.2], [20, 5, 75]), (10, 100))
    >>> model = DCEA(n_templates=1, template_length=10, random_state=0).fit(counts)
    >>> list(draw_figures(model, model.decompose(counts)))
    ['templates', 'events', 'rates', 'codes', 'decomposition', 'ks', 'training']
    """
    import matplotlib.pyplot as plt

    from spikecdl import plots
    from spikecdl.data import BinnedSpikes
    from spikecdl.evaluation.goodness_of_fit import of_decomposition

    counts = decomposition.counts
    window = np.unravel_index(np.abs(counts.counts).sum(axis=-1).argmax(), counts.shape[:2])
    joint = decomposition.layout == "joint"
    templates = plots.templates(decomposition, _truth(decomposition), bands=bands, sort_units=joint)
    trials = spikes if isinstance(spikes, BinnedSpikes) else None
    figures = {
        "templates": templates.flat[0].figure,
        "events": plots.event_figure(decomposition, trials),
    }
    if joint:
        figures["population"] = plots.population_raster(decomposition, int(window[0])).figure
    if model.has_unit_table:
        figures["units"] = plots.unit_order(model.unit_table())[0].figure
    figures |= {
        "rates": plots.rates_figure(decomposition, spikes),
        "codes": plots.codes(decomposition)[0].figure,
        "decomposition": plots.decomposition(decomposition, *map(int, window))[0].figure,
    }
    if decomposition.history_filter is not None:
        figures["history"] = plots.history(decomposition).figure
    if model.signal_effects_:
        figures["signals"] = plots.signals(model)[0].figure
    rescaling = of_decomposition(decomposition, model.family_)
    if rescaling is not None:
        figures["ks"] = plots.ks(rescaling)[0].figure
    figures["training"] = plots.training_curve(model).figure
    for figure in figures.values():
        plt.close(figure)
    return figures


def png(figure: Figure) -> bytes:
    """Return a figure as the content of a PNG file, at 200 dots per inch."""
    buffer = io.BytesIO()
    style.save(figure, buffer, format="png", dpi=_DPI)
    return buffer.getvalue()


def write_report(
    path: str | Path,
    decomposition: Decomposition,
    figures: Mapping[str, Figure | bytes],
    summary: Mapping[str, Any],
) -> Path:
    """Write a self-contained HTML report of a fit, and return its path.

    The file needs no network and no other file. It has the verdict first, then a part to look
    closer, with JavaScript: time can be zoomed, and trial, unit and template chosen. If the counts
    hold a truth with the model's bins and layout, the report gives the error of each template.

    Parameters
    ----------
    path : str or Path
        File to write; replaced if it exists.
    decomposition : Decomposition
        Made by ``model.decompose(counts)``.
    figures : mapping of str to Figure or bytes
        Figures by name, as made by `draw_figures`, or their content as `png` returns it; anything
        else raises TypeError.
    summary : mapping
        As made by `fit_summary`; keys may be missing. Also shown are ``command`` and ``seconds``.

    Examples
    --------
    >>> figures = draw_figures(model, decomposition)  # doctest: +SKIP
    >>> write_report("report.html", decomposition, figures, summary)  # doctest: +SKIP
    PosixPath('report.html')
    """
    counts, joint = decomposition.counts, decomposition.layout == "joint"
    exposure = (counts.mask.any(axis=1) if joint else counts.mask).sum() * counts.bin_size
    sure = event_table(decomposition)
    page = template("report.html.j2").render(
        summary=summary,
        fit=decomposition,
        event_rate=np.count_nonzero(decomposition.codes) / exposure if exposure else None,
        templates=template_table(decomposition).to_dict("records"),
        at_edge=at_edge(decomposition.templates),
        sure=None if sure is None else sure.to_dict("records"),
        errors=_errors(decomposition),
        units=list(_units(decomposition)),
        in_bins=style.in_bins(counts.bin_size),
        figures=[_embedded(name, figure) for name, figure in figures.items()],
        interactive=parts_of_page(decomposition),
    )
    target = Path(path)
    target.write_text(page, encoding="utf-8")
    return target


def _truth(decomposition: Decomposition) -> Truth | None:
    """The truth that the counts hold, if the model can be compared with it."""
    return None if mismatch(decomposition) else decomposition.counts.truth


def _errors(decomposition: Decomposition) -> dict[int, float] | None:
    """Error of each template that has a true one, by its number; None without a truth."""
    truth = _truth(decomposition)
    if truth is None:
        return None
    found = template_error(decomposition.templates, truth.templates)
    return dict(zip(found.assignment.tolist(), found.errors.tolist(), strict=True))


def _units(decomposition: Decomposition) -> Iterator[dict[str, Any]]:
    """Rows of the table of units."""
    counts, shared = decomposition.counts, decomposition.layout == "shared"
    for i, unit in enumerate(counts.unit_ids):
        spikes = counts.counts[:, i].sum()
        exposure = counts.n_pooled[:, i].sum() * counts.bin_size
        yield {
            "unit": unit,
            "explained": decomposition.deviance_explained_per_unit[i],
            "spikes": spikes if counts.is_counts else "–",
            "rate": spikes / exposure if exposure else None,
            "events": np.count_nonzero(decomposition.codes[:, i if shared else 0], axis=(0, 2)),
        }


def _embedded(name: str, figure: Figure | bytes) -> dict[str, str]:
    """Picture in base64, at a width in pixels that makes text of all figures equally large."""
    from matplotlib.figure import Figure

    if not isinstance(figure, Figure | bytes):
        raise TypeError(
            f"`figures[{name!r}]` ({type(figure).__name__}) must be a matplotlib Figure"
        )
    content = png(figure) if isinstance(figure, Figure) else figure
    pixels = int.from_bytes(content[16:20], "big")  # the width stands first in the header
    data = base64.b64encode(content).decode("ascii")
    width = 130 * pixels / _DPI  # 130 pixels of the page for each inch
    return {"name": name, "data": data, "width": f"{width:.0f}"}


# The part that can be zoomed


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
