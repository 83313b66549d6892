"""`spikecdl apply`, `evaluate` and `compare`: a fitted model meets other data, or the truth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spikecdl.cli import windows as choose
from spikecdl.cli.fitting import Device, Json, Out
from spikecdl.cli.progress import working
from spikecdl.cli.windows import Windows

if TYPE_CHECKING:
    from spikecdl.data import BinnedSpikes, Decomposition, SpikeTrains
    from spikecdl.estimator import DCEA

Model = Annotated[Path, typer.Argument(help="Folder of a fit, or its model.safetensors.")]


def apply(
    model: Model,
    file: choose.File,
    out: Out,
    pool_trials: choose.Pool = False,
    align: choose.Align = None,
    window: choose.Window = None,
    units: choose.Units = None,
    trials: choose.Trials = None,
    table: choose.Table = "trials",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Find the codes of a model's templates in another recording."""
    from spikecdl import report, storage
    from spikecdl.cli import outputs

    chosen = Windows(pool_trials, align, window, units, trials, table)
    fitted, data, counts, single = _meet(model, file, chosen, device)
    with outputs.results_folder(out), working("finding events", as_json):
        parts = fitted.decompose(counts)
        summary = _summary(model, file, fitted, counts, chosen, parts)
        storage.write_json(out / "summary.json", summary)
        figures = report.draw_figures(fitted, parts, spikes=single, truth=counts.truth)
        for name in ("rates", "codes"):
            figures[name].savefig(out / f"{name}.png", dpi=150)
        outputs.write_decomposition(out, data, counts, parts)
    _show(summary, as_json, f"results in {out}/")


def evaluate(
    model: Model,
    file: choose.File,
    pool_trials: choose.Pool = False,
    align: choose.Align = None,
    window: choose.Window = None,
    units: choose.Units = None,
    trials: choose.Trials = None,
    table: choose.Table = "trials",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Say how much of a recording a model explains: in all bins, and in bins held out."""
    chosen = Windows(pool_trials, align, window, units, trials, table)
    fitted, _, counts, _ = _meet(model, file, chosen, device)
    with working("scoring", as_json):
        summary = _summary(model, file, fitted, counts, chosen, fitted.decompose(counts))
    _show(summary, as_json)


def compare(
    model: Model,
    truth: Annotated[Path, typer.Argument(help="Simulated recording that holds its truth.")],
    tolerance: Annotated[
        float | None, typer.Option(help="Largest error of an onset in seconds. Default: 3 bins.")
    ] = None,
    pool_trials: choose.Pool = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Compare a model with what made a simulated recording: templates, and events."""
    fitted, _, counts, _ = _meet(model, truth, Windows(pool_trials), device)
    if counts.truth is None:
        raise ValueError(f"`{truth}` holds no truth; `spikecdl simulate` makes files that do")
    found = against_truth(fitted.decompose(counts), tolerance)
    summary = {"model": str(model), "truth": str(truth), **found}
    print(json.dumps(summary, indent=2) if as_json else "\n".join(truth_in_words(found)))


def against_truth(parts: Decomposition, tolerance: float | None = None) -> dict[str, Any]:
    """Return errors of the true templates and how many events were found, as plain values."""
    from spikecdl.metrics import recovery

    found = recovery(parts, tolerance)
    return {
        "template_errors": [float(value) for value in found.templates.errors],
        "assignment": [int(c) for c in found.templates.assignment],
        "tolerance": found.tolerance,
        "hit_rate": found.events.hit_rate,
        "false_alarm_rate": found.events.false_alarm_rate,
    }


def truth_in_words(found: dict[str, Any]) -> list[str]:
    """Return what `against_truth` found as lines of text."""
    errors = ", ".join(f"{error:.3f}" for error in found["template_errors"])
    return [
        f"template errors, sqrt(1 - correlation^2) at the best shift: {errors}",
        f"events within {1e3 * found['tolerance']:g} ms: {found['hit_rate']:.3f} of the true ones "
        f"found, {found['false_alarm_rate']:.3f} of the found ones false",
    ]


def _meet(
    path: Path, file: Path, chosen: Windows, device: str
) -> tuple[DCEA, SpikeTrains | BinnedSpikes, BinnedSpikes, BinnedSpikes]:
    """Return a model, what a file holds, and its counts: to be coded, and of single trials."""
    from spikecdl.estimator import load
    from spikecdl.io import read

    model = load(path).set_params(device=device)
    data = read(file)
    counts, single = chosen.count(data, model.bin_size_)
    return model, data, counts, single


def _summary(
    path: Path,
    file: Path,
    model: DCEA,
    counts: BinnedSpikes,
    chosen: Windows,
    parts: Decomposition,
) -> dict[str, Any]:
    from spikecdl.cli import outputs

    return {
        "model": str(path),
        "data": outputs.fingerprint(file, counts),
        "windows": chosen.described(),
        **outputs.how_good(model, counts, parts),
    }


def _show(summary: dict[str, Any], as_json: bool, *more: str) -> None:
    from spikecdl.cli import outputs

    words = [*outputs.goodness_in_words(summary), *more]
    print(json.dumps(summary, indent=2) if as_json else "\n".join(words))
