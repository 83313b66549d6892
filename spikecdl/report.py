"""One HTML file that says what was fitted, how well, and how to do it again."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from spikecdl.metrics import template_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from spikecdl.data import Decomposition

_PNG = b"\x89PNG\r\n\x1a\n"
_DPI = 150

_CAPTIONS = {
    "templates": (
        "Templates at the size of their median event: the change of the firing rate that each "
        "event brings, from its onset on."
    ),
    "rates": (
        "Spikes of single trials (where they are known), and below the measured rate (grey), the "
        "fitted rate (black) and the baseline (dashed)."
    ),
    "codes": "Events: when each template begins, and how strongly (height of the stem).",
    "decomposition": "One window taken apart into what each template adds.",
    "training": "Loss after each epoch of training.",
}


_LABELS = {"bin_size": "bin size (s)", "sha256": "fingerprint (SHA-256)"}

_PEAKS = {
    "rate": "Peak: largest factor by which a median event changes the median baseline rate.",
    "gaussian": "Peak: largest change of the signal in a median event.",
}


class _Number(NamedTuple):
    """A key number: what it is, its value, and what it means."""

    name: str
    value: str
    meaning: str


def write_report(
    path: str | Path,
    decomposition: Decomposition,
    summary: Mapping[str, Any],
    figures: Mapping[str, Figure | str | Path],
) -> Path:
    """Write a self-contained HTML report of a fit; it needs no network and no other file.

    Parameters
    ----------
    path : str or Path
        File to write; replaced if it exists.
    decomposition : Decomposition
        Made by ``model.decompose(counts)``.
    summary : mapping
        What ``spikecdl fit`` writes to ``summary.json``; what is missing is left out of the report:
        ``command``, ``settings``, ``data`` (``source``, ``sha256``, ``n_trials``, ``n_units``,
        ``n_bins``, ``bin_size``, ``n_spikes``), ``versions``, ``seed``, ``family``, ``layout``,
        ``deviance_explained``, ``deviance_explained_per_unit``, ``events_per_template``,
        ``penalty_weight_fraction``, ``converged``, ``n_epochs``, ``seconds``.
    figures : mapping of str to Figure or path of a PNG file
        Figures by name; ``templates``, ``rates``, ``codes``, ``decomposition`` and ``training``
        have captions, others are captioned with their name. Figures are left open.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    ValueError
        If a file among ``figures`` is not a PNG image.
    TypeError
        If a figure is neither a matplotlib Figure nor a path.
    OSError
        If a file cannot be read or written.

    Examples
    --------
    >>> write_report("report.html", decomposition, summary, figures)  # doctest: +SKIP
    PosixPath('report.html')
    """
    from jinja2 import Environment, StrictUndefined

    source = resources.files("spikecdl").joinpath("report.html.j2").read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.from_string(source).render(
        title=_title(decomposition, summary),
        numbers=list(_numbers(decomposition, summary)),
        units=_units(decomposition, summary),
        templates=_templates(decomposition),
        peak_note=_PEAKS["gaussian" if decomposition.family == "gaussian" else "rate"],
        joint=decomposition.layout == "joint",
        figures=[
            {
                "name": name,
                "caption": _CAPTIONS.get(name, name),
                "data": _png(name, figure),
                "width": _width(figure),
            }
            for name, figure in figures.items()
        ],
        command=summary.get("command"),
        data=_rows(summary.get("data")),
        settings=_rows({**_facts(summary), **(summary.get("settings") or {})}),
        versions=_rows(summary.get("versions")),
    )
    target = Path(path)
    target.write_text(page, encoding="utf-8")
    return target


def _title(decomposition: Decomposition, summary: Mapping[str, Any]) -> str:
    count = len(decomposition.templates)
    data = summary.get("data") or {}
    source = data.get("source") or decomposition.counts.source
    name = Path(str(source)).name if source else "spike counts"
    return f"{count} template{'s' * (count != 1)} learned from {name}"


def _numbers(decomposition: Decomposition, summary: Mapping[str, Any]) -> Iterator[_Number]:
    """Key numbers, in the order in which a reader asks for them."""
    explained = float(summary.get("deviance_explained", decomposition.deviance_explained))
    yield _Number(
        "Deviance explained",
        _number(explained, 3),
        "Part of the misfit of a constant rate that the model removes, on the data shown here: 0 "
        "is no better than a constant rate, 1 predicts every count. Spiking noise cannot be "
        "explained, so small bins of single trials stay near 0 even for a correct model.",
    )
    events = _event_counts(decomposition, summary)
    per_second = sum(events) / exposure if (exposure := _exposure(decomposition)) else math.nan
    where = "of the population" if decomposition.layout == "joint" else "per unit"
    yield _Number(
        "Events",
        " + ".join(f"{n}" for n in events),
        f"Occurrences found of each template; together {_number(per_second)} per "
        f"{_time_unit(decomposition)} of observed time {where}.",
    )
    if (fraction := summary.get("penalty_weight_fraction")) is not None:
        yield _Number(
            "Penalty weight",
            f"{_number(fraction)} λ_max",
            "Price of an event, as a fraction of the price above which no event at all is found; "
            "a higher price gives fewer events.",
        )
    if (converged := summary.get("converged")) is not None:
        yield _Number(
            "Converged",
            "yes" if converged else "no",
            "More training would hardly change the templates."
            if converged
            else "Training stopped before the loss had settled; allow it more epochs before "
            "relying on the details.",
        )
    if (epochs := summary.get("n_epochs")) is not None:
        took = summary.get("seconds")
        yield _Number(
            "Epochs",
            f"{epochs}",
            "Passes over the data in training"
            + (f", which took {_number(took)} s." if took is not None else "."),
        )


def _event_counts(decomposition: Decomposition, summary: Mapping[str, Any]) -> list[int]:
    given = summary.get("events_per_template")
    if given is not None:
        return [int(n) for n in given]
    return np.count_nonzero(decomposition.codes, axis=(0, 1, 3)).tolist()


def _exposure(decomposition: Decomposition) -> float:
    """Observed time of all windows in which events could begin, in seconds."""
    mask = decomposition.counts.mask
    seen = mask.any(axis=1) if decomposition.layout == "joint" else mask
    return float(seen.sum() * decomposition.counts.bin_size)


def _units(decomposition: Decomposition, summary: Mapping[str, Any]) -> list[dict[str, str]]:
    given = summary.get("deviance_explained_per_unit")
    if given is None:
        values = decomposition.deviance_explained_per_unit
        given = dict(zip(decomposition.counts.unit_ids, values, strict=True))
    return [{"unit": str(unit), "value": _number(value, 3)} for unit, value in given.items()]


def _templates(decomposition: Decomposition) -> list[dict[str, str]]:
    """Rows of the table of templates, as text."""
    gaussian = decomposition.family == "gaussian"
    in_bins = _time_unit(decomposition) == "bin"
    factor, unit = (1.0, "bins") if in_bins else (1e3, "ms")
    return [
        {
            "number": str(number),
            "gain": _number(row.peak_change) if gaussian else _times(row.peak_gain),
            "time": f"{_number(factor * row.peak_time)} {unit}",
            "width": f"{_number(factor * row.width)} {unit}",
            "events": str(row.n_events),
            "amplitude": _number(row.amplitude),
            "unit": str(row.unit),
        }
        for number, row in enumerate(template_table(decomposition).itertuples())
    ]


def _time_unit(decomposition: Decomposition) -> str:
    return "bin" if decomposition.counts.bin_size == 1.0 else "second"


def _facts(summary: Mapping[str, Any]) -> dict[str, Any]:
    return {key: summary[key] for key in ("family", "layout", "seed") if key in summary}


def _rows(mapping: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    return [
        (_LABELS.get(key, str(key).removeprefix("n_").replace("_", " ")), _text(value))
        for key, value in (mapping or {}).items()
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


def _number(value: float, digits: int | None = None) -> str:
    """Three figures (or that many decimals); a dash where there is no number."""
    if value is None or not math.isfinite(value):
        return "–"
    if digits is not None:
        return f"{value:.{digits}f}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _times(gain: float) -> str:
    return f"×{_number(gain)}" if math.isfinite(gain) else "–"


def _width(figure: Any) -> str:
    """Width in pixels at which text of all figures is equally large; none for files."""
    return f"{100 * figure.get_figwidth():.0f}" if hasattr(figure, "get_figwidth") else ""


def _png(name: str, figure: Figure | str | Path) -> str:
    """Picture in base64."""
    from matplotlib.figure import Figure

    if isinstance(figure, Figure):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=_DPI)
        content = buffer.getvalue()
    elif isinstance(figure, str | Path):
        content = Path(figure).read_bytes()
        if not content.startswith(_PNG):
            raise ValueError(f"`figures[{name!r}]` (={str(figure)!r}) must be a PNG image")
    else:
        raise TypeError(
            f"`figures[{name!r}]` ({type(figure).__name__}) must be a matplotlib Figure or the "
            "path of a PNG image"
        )
    return base64.b64encode(content).decode("ascii")
