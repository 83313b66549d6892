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

from spikecdl.evaluation.metrics import template_error, template_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from spikecdl.data import BinnedSpikes, Decomposition, SpikeTrains, Truth
    from spikecdl.estimator import DCEA

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
    "ks": (
        "Intervals between spikes in rescaled time: observed against expected distribution. A "
        "right model lies near the diagonal, in 95 % of all cases between the dashed lines."
    ),
    "training": "Loss after each epoch of training.",
}


_LABELS = {"bin_size": "bin size (s)", "sha256": "fingerprint (SHA-256)"}

_PEAKS = {
    "rate": "Peak: largest factor by which a median event changes the median baseline rate.",
    "signal": "Peak: largest change of the signal in a median event.",
}


class _Number(NamedTuple):
    """A key number: what it is, its value, and what it means."""

    name: str
    value: str
    meaning: str


def draw_figures(
    model: DCEA,
    decomposition: Decomposition,
    *,
    spikes: SpikeTrains | BinnedSpikes | None = None,
    truth: Truth | None = None,
) -> dict[str, Figure]:
    """Draw all figures of a fit.

    Parameters
    ----------
    model : DCEA
        A fitted model.
    decomposition : Decomposition
        Made by ``model.decompose(counts)``.
    spikes : BinnedSpikes or SpikeTrains, optional
        Where rasters come from if ``counts`` are pooled: the counts from before pooling. See
        `spikecdl.plots.rate`.
    truth : Truth, optional
        Drawn over the templates. A truth with other bins or channels than the model's cannot be
        compared and is left out.

    Returns
    -------
    dict of str to Figure
        ``templates``, ``rates``, ``codes``, ``decomposition`` (of the window with most spikes),
        ``ks`` (of counts only) and ``training``, in this order. They are not shown and hold no
        window open.

    Examples
    --------
    >>> from spikecdl import DCEA
    >>> counts = np.random.default_rng(0).poisson(0.2, size=(10, 100))
    >>> counts[:, 20:25] += 2
    >>> model = DCEA(n_templates=1, template_length=10, random_state=0).fit(counts)
    >>> figures = draw_figures(model, model.decompose(counts))
    >>> list(figures)
    ['templates', 'rates', 'codes', 'decomposition', 'ks', 'training']
    """
    import matplotlib.pyplot as plt

    from spikecdl import plots
    from spikecdl.evaluation.goodness_of_fit import of_decomposition

    trial, unit = np.unravel_index(
        np.abs(decomposition.counts.counts).sum(axis=-1).argmax(), decomposition.baseline.shape
    )
    axes = {
        "templates": plots.templates(decomposition, _comparable(truth, decomposition))[..., 0],
        "codes": plots.codes(decomposition)[0],
        "decomposition": plots.decomposition(decomposition, int(trial), int(unit))[0],
        "training": plots.training_curve(model),
    }
    drawn = {name: np.atleast_1d(ax)[0].figure for name, ax in axes.items()}
    drawn["rates"] = plots.rates_figure(decomposition, spikes)
    rescaling = of_decomposition(decomposition, model.family)
    if rescaling is not None:
        drawn["ks"] = plots.ks(rescaling)[0].figure
    for figure in drawn.values():
        plt.close(figure)
    return {name: drawn[name] for name in _CAPTIONS if name in drawn}


def _comparable(truth: Truth | None, decomposition: Decomposition) -> Truth | None:
    """Return the truth if it is of templates on the same bins and channels."""
    if truth is None or not math.isclose(truth.bin_size, decomposition.counts.bin_size):
        return None
    same = truth.templates.shape[1] == decomposition.templates.shape[1]
    return truth if same else None


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
        Made by `draw_figures`, or any others, which are left open; or what `png` made of them.
    summary : mapping, optional
        What the decomposition does not know; what is missing is left out of the report:
        ``command``, ``settings``, ``data``, ``versions`` (mappings, shown as they are), ``seed``,
        ``held_out_deviance_explained``, ``penalty_weight_fraction``, ``converged``, ``n_epochs``,
        ``seconds``. Other keys are ignored.
    truth : Truth, optional
        Adds the error of each template, where it can be compared (see `draw_figures`).

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

    source = resources.files(__name__).joinpath("report.html.j2").read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    summary = summary or {}
    comparable = _comparable(truth, decomposition)
    page = environment.from_string(source).render(
        title=_title(decomposition, summary),
        numbers=list(_numbers(decomposition, summary)),
        templates=_templates(decomposition, comparable),
        with_truth=comparable is not None,
        peak_note=_PEAKS["rate" if decomposition.family.integer_valued else "signal"],
        joint=decomposition.layout == "joint",
        units=_units(decomposition),
        rate_unit=_rate_unit(decomposition),
        figures=[_embedded(name, figure) for name, figure in figures.items()],
        command=summary.get("command"),
        tables=[
            (heading, rows)
            for heading, rows in (
                ("Data", _rows(summary.get("data"))),
                ("Settings", _settings(decomposition, summary)),
                ("Versions", _rows(summary.get("versions"))),
            )
            if rows
        ],
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
    yield _Number(
        "Deviance explained",
        _number(decomposition.deviance_explained, 3),
        "Part of the misfit of a constant rate that the model removes, on the data shown here: 0 "
        "is no better than a constant rate, 1 predicts every count. Spiking noise cannot be "
        "explained, so small bins of single trials stay near 0 even for a correct model.",
    )
    if (held_out := summary.get("held_out_deviance_explained")) is not None:
        yield _Number(
            "Held-out deviance explained",
            _number(held_out, 3),
            "The same for data that the events were not found in: the honest measure, as events "
            "adapt to the noise of the data in which they are found.",
        )
    yield _events_number(decomposition)
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
            _text(bool(converged)),
            "More training would hardly change the templates."
            if converged
            else "Training stopped before the loss had settled; allow it more epochs before "
            "relying on the details.",
        )
    if (epochs := summary.get("n_epochs")) is not None:
        took = summary.get("seconds")
        took = "." if took is None else f", which took {_number(took)} s."
        yield _Number("Epochs", f"{epochs}", f"Passes over the data in training{took}")


def _events_number(decomposition: Decomposition) -> _Number:
    mask, joint = decomposition.counts.mask, decomposition.layout == "joint"
    seen = mask.any(axis=1) if joint else mask
    exposure = float(seen.sum() * decomposition.counts.bin_size)
    counts = np.count_nonzero(decomposition.codes, axis=(0, 1, 3)).tolist()
    per_time = _number(sum(counts) / exposure if exposure else math.nan)
    time = "bin" if _in_bins(decomposition) else "second"
    return _Number(
        "Events",
        " + ".join(f"{n}" for n in counts),
        f"Occurrences found of each template; together {per_time} per {time} of observed time "
        f"{'of the population' if joint else 'per unit'}.",
    )


def _templates(decomposition: Decomposition, truth: Truth | None) -> list[dict[str, str]]:
    """Rows of the table of templates, as text."""
    factor, unit = (1.0, "bins") if _in_bins(decomposition) else (1e3, "ms")
    errors: dict[int, float] = {}
    if truth is not None:
        found = template_error(decomposition.templates, truth.templates)
        errors = dict(zip(found.assignment.tolist(), found.errors.tolist(), strict=True))
    signal = not decomposition.family.integer_valued
    return [
        {
            "number": str(number),
            "peak": _number(row.peak_change) if signal else _times(row.peak_gain),
            "unit": str(row.unit),
            "time": f"{_number(factor * row.peak_time)} {unit}",
            "width": f"{_number(factor * row.width)} {unit}",
            "events": str(row.n_events),
            "amplitude": _number(row.amplitude),
            "error": _number(errors.get(number, math.nan), 2),
        }
        for number, row in enumerate(template_table(decomposition).itertuples())
    ]


def _units(decomposition: Decomposition) -> list[dict[str, str]]:
    """Rows of the table of units, as text."""
    counts, shared = decomposition.counts, decomposition.layout == "shared"
    explained = decomposition.deviance_explained_per_unit
    rows = []
    for i, unit in enumerate(counts.unit_ids):
        seen = counts.n_pooled[:, i]
        total, exposure = counts.counts[:, i].sum(), seen.sum() * counts.bin_size
        events = np.count_nonzero(decomposition.codes[:, i], axis=(0, 2)) if shared else ()
        rows.append(
            {
                "unit": str(unit),
                "explained": _number(explained[i], 3),
                "spikes": str(total) if counts.is_counts else "–",
                "rate": _number(total / exposure if exposure else math.nan),
                "events": " + ".join(f"{n}" for n in events),
            }
        )
    return rows


def _rate_unit(decomposition: Decomposition) -> str:
    """Unit of the units' mean rates; empty for a signal, which has none."""
    if not decomposition.family.integer_valued:
        return ""
    return "spikes per bin" if _in_bins(decomposition) else "Hz"


def _in_bins(decomposition: Decomposition) -> bool:
    return decomposition.counts.bin_size == 1.0


def _settings(decomposition: Decomposition, summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = {"family": decomposition.family.name, "layout": decomposition.layout}
    seed = {"seed": summary["seed"]} if "seed" in summary else {}
    return _rows({**facts, **seed, **(summary.get("settings") or {})})


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
    if not math.isfinite(value):
        return "–"
    if digits is not None:
        return f"{value:.{digits}f}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _times(gain: float) -> str:
    return f"×{_number(gain)}" if math.isfinite(gain) else "–"


def png(figure: Figure) -> bytes:
    """Return a figure as the content of a PNG file, at 150 pixels to the inch."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    return buffer.getvalue()


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
        "caption": _CAPTIONS.get(name, name),
        "data": base64.b64encode(content).decode("ascii"),
        "width": f"{100 * pixels / _DPI:.0f}",
    }
