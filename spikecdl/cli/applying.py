"""`spikecdl apply`, `evaluate` and `compare`: use a fitted model on a recording."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from spikecdl.cli import options, outputs
from spikecdl.cli.options import Selected, Selection, argument, option

if TYPE_CHECKING:
    from spikecdl.data import Decomposition
    from spikecdl.estimator import DCEA

Model = Annotated[Path, argument("MODEL", "Folder that a fit wrote to, or its model.safetensors.")]


def apply(
    model: Model,
    file: options.File,
    out: options.Out,
    pool_trials: options.Pool = False,
    align: options.Align = None,
    window: options.Window = None,
    units: options.Units = None,
    trials: options.Trials = None,
    table: options.Table = "trials",
    device: options.Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Find the events of a fitted model in another recording.

    Writes summary.json, rates.png, codes.png and results.nwb to --out. Uses the model's bin size.
    """
    from spikecdl.report import summary

    if (out / "model.safetensors").exists():
        raise ValueError(f"`out` (={str(out)!r}) holds a fit; choose another folder")
    selection = Selection(pool_trials, align, window, units, trials, table)
    working = outputs.working("finding events", as_json)
    with outputs.results_folder(out, file) as unfinished, working:
        selected, parts, about = _scored(model, file, selection, device)
        outputs.write_results(unfinished, selected, parts, about)
    outputs.show(about, [*summary.score_lines(about), f"results in {out}/"], as_json)


def evaluate(
    model: Model,
    file: options.File,
    pool_trials: options.Pool = False,
    align: options.Align = None,
    window: options.Window = None,
    units: options.Units = None,
    trials: options.Trials = None,
    table: options.Table = "trials",
    device: options.Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Measure how well a fitted model explains a recording.

    Prints the deviance explained in all bins, and in bins that were hidden when events were found.
    For counts, also tests in rescaled time (Kolmogorov-Smirnov) whether spikes come at the
    model's rate.
    """
    from spikecdl.report import summary

    selection = Selection(pool_trials, align, window, units, trials, table)
    with outputs.working("finding events, scoring bins held out", as_json):
        *_, about = _scored(model, file, selection, device)
    outputs.show(about, summary.score_lines(about), as_json)


def compare(
    model: Model,
    truth: Annotated[Path, argument("TRUTH", "Simulated recording, which holds its truth.")],
    tolerance: Annotated[
        float | None, option("SECONDS", "Largest error of an event's onset. Default: 3 bins.")
    ] = None,
    pool_trials: options.Pool = False,
    units: options.Units = None,
    trials: options.Trials = None,
    device: options.Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Compare a fitted model with the truth of a simulation.

    Prints the error of each template, at the best order and shift, and how many events were found.
    """
    from spikecdl.report import summary

    selection = Selection(pool_trials, units=units, trials=trials)
    with outputs.working("finding events", as_json):
        _, _, parts = _decomposed(model, truth, selection, device)
    if parts.counts.truth is None:
        raise ValueError(f"{truth} holds no truth; `spikecdl simulate` makes files that do")
    about = {"model": str(model), "truth": str(truth), **summary.recovery_summary(parts, tolerance)}
    outputs.show(about, summary.recovery_lines(about), as_json)


def _decomposed(
    path: Path, file: Path, selection: Selection, device: str
) -> tuple[DCEA, Selected, Decomposition]:
    """Return a saved model, what was selected from a file, and the decomposition of its counts."""
    from spikecdl.data import SpikeTrains
    from spikecdl.estimator import load
    from spikecdl.io import read

    model = load(path).set_params(device=device)
    data = read(file)
    selected = selection.count(data, model.bin_size_ if isinstance(data, SpikeTrains) else None)
    return model, selected, model.decompose(selected.counts)


def _scored(
    path: Path, file: Path, selection: Selection, device: str
) -> tuple[Selected, Decomposition, dict[str, Any]]:
    """Return what was selected from a file, its decomposition by a saved model, and the summary."""
    from spikecdl.report.summary import score_summary

    model, selected, parts = _decomposed(path, file, selection, device)
    about = {"command": outputs.command_line(), "model": str(path)}
    scores = score_summary(model, parts, file)
    return selected, parts, {**about, "settings": selection.described(), **scores}
