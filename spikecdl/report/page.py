"""One HTML page that says what was fitted, how well, and how to do it again."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spikecdl.evaluation.metrics import template_error, template_table
from spikecdl.plots import style
from spikecdl.report.figures import DPI, comparable, png
from spikecdl.report.text import number
from spikecdl.validation import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from spikecdl.data import Decomposition, Truth

_LABELS = {"bin_size": "bin size (s)", "sha256": "fingerprint (SHA-256)"}
_SHOWN = (
    *("command", "settings", "data", "versions", "seed", "held_out_deviance_explained"),
    *("penalty_weight_fraction", "converged", "n_epochs", "seconds"),
)


def write_report(
    path: str | Path,
    decomposition: Decomposition,
    figures: Mapping[str, Figure | bytes],
    summary: Mapping[str, Any] | None = None,
    *,
    truth: Truth | None = None,
) -> Path:
    """Write a self-contained HTML report of a fit; it needs no network and no other file.

    Parameters
    ----------
    path : str or Path
        File to write; replaced if it exists.
    decomposition : Decomposition
        Made by ``model.decompose(counts)``.
    figures : mapping of str to Figure or bytes
        Figures by name, as made by `draw_figures`, or their content as `png` returns it. They are
        not closed.
    summary : mapping, optional
        As made by `fit_summary`. These keys are shown if present: ``command``, ``settings``,
        ``data``, ``versions``, ``seed``, ``held_out_deviance_explained``,
        ``penalty_weight_fraction``, ``converged``, ``n_epochs`` and ``seconds``.
    truth : Truth, optional
        Adds the error of each template, unless bins or channels differ from the model's.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    TypeError
        If a figure is not a matplotlib Figure.
    OSError
        If the file cannot be written.

    Examples
    --------
    >>> figures = draw_figures(model, decomposition)  # doctest: +SKIP
    >>> write_report("report.html", decomposition, figures, summary)  # doctest: +SKIP
    PosixPath('report.html')
    """
    from jinja2 import Environment, StrictUndefined

    template = resources.files("spikecdl.report").joinpath("report.html.j2")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = number
    known = dict.fromkeys(_SHOWN) | dict(summary or {})
    counts, truth = decomposition.counts, comparable(truth, decomposition)
    source = (known["data"] or {}).get("source") or counts.source
    name = Path(str(source)).name if source else "spike counts"
    settings: dict[str, Any] = {"family": decomposition.family.name, "layout": decomposition.layout}
    if known["seed"] is not None:
        settings["seed"] = known["seed"]
    tables = {
        "Data": known["data"],
        "Settings": settings | (known["settings"] or {}),
        "Versions": known["versions"],
    }
    page = environment.from_string(template.read_text(encoding="utf-8")).render(
        title=f"{counted(len(decomposition.templates), 'template')} learned from {name}",
        summary=known,
        deviance_explained=decomposition.deviance_explained,
        events=_events(decomposition),
        templates=template_table(decomposition).to_dict("records"),
        errors=None if truth is None else _errors(decomposition, truth),
        units=list(_units(decomposition)),
        has_rate=decomposition.family.integer_valued,
        joint=decomposition.layout == "joint",
        in_bins=style.in_bins(counts.bin_size),
        figures=[_embedded(name, figure) for name, figure in figures.items()],
        tables=[(heading, _rows(values)) for heading, values in tables.items() if values],
    )
    target = Path(path)
    target.write_text(page, encoding="utf-8")
    return target


def _events(decomposition: Decomposition) -> dict[str, Any]:
    """Number of events of each template, and their rate."""
    mask = decomposition.counts.mask
    seen = mask.any(axis=1) if decomposition.layout == "joint" else mask
    exposure = float(seen.sum() * decomposition.counts.bin_size)
    counts = np.count_nonzero(decomposition.codes, axis=(0, 1, 3)).tolist()
    return {"counts": counts, "rate": sum(counts) / exposure if exposure else None}


def _errors(decomposition: Decomposition, truth: Truth) -> dict[int, float]:
    """Error of each template that has a true one, by its number."""
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


def _rows(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (_LABELS.get(key, str(key).removeprefix("n_").replace("_", " ")), _text(value))
        for key, value in values.items()
    ]


def _text(value: Any) -> str:
    if value is None:
        return "default"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} = {_text(part)}" for key, part in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_text(part) for part in value)
    return str(value)


def _embedded(name: str, figure: Figure | bytes) -> dict[str, str]:
    """Picture in base64, at a width in pixels that makes text of all figures equally large."""
    from matplotlib.figure import Figure

    if not isinstance(figure, Figure | bytes):
        raise TypeError(
            f"`figures[{name!r}]` ({type(figure).__name__}) must be a matplotlib Figure"
        )
    content = png(figure) if isinstance(figure, Figure) else figure
    pixels = int.from_bytes(content[16:20], "big")  # the width stands first in the header
    return {
        "name": name,
        "data": base64.b64encode(content).decode("ascii"),
        "width": f"{100 * pixels / DPI:.0f}",
    }
