"""The folder of results: model, summary, figures, NWB and report."""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikecdl.cli.windows import Windows

if TYPE_CHECKING:
    from spikecdl.data import BinnedSpikes, Decomposition, SpikeTrains
    from spikecdl.estimator import DCEA

_LIBRARIES = ("torch", "numpy", "scipy", "sklearn", "h5py", "pynwb", "neo")
_DPI = 150
FIGURES = ("templates", "rates", "codes")


@contextmanager
def results_folder(out: Path) -> Iterator[None]:
    """Make the folder; if nothing came to be in it, take it away again."""
    made = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        if made and not any(out.iterdir()):
            out.rmdir()


def write_results(
    out: Path,
    model: DCEA,
    data: SpikeTrains | BinnedSpikes,
    single: BinnedSpikes,
    counts: BinnedSpikes,
    file: Path,
    chosen: Windows,
    seconds: float,
) -> dict[str, Any]:
    """Write everything about a fit and return the summary.

    Parameters
    ----------
    out : Path
        Folder that exists.
    model : DCEA
        Fitted.
    data, single, counts
        What the file holds, its counts of single trials, and those that were fitted.
    file : Path
        Where the data come from.
    chosen : Windows
    seconds : float
        How long the fit took.
    """
    from spikecdl import report, storage
    from spikecdl.settings import describe

    decomposition = model.decompose(counts)
    arguments = describe(model.get_params(deep=False))
    seed = arguments.pop("random_state")
    summary = {
        "command": " ".join(["spikecdl", *sys.argv[1:]]),
        "settings": {**arguments, "bin_size": counts.bin_size, **chosen.described()},
        "data": fingerprint(file, counts),
        "versions": _versions(),
        "seed": seed,
        **how_good(model, counts, decomposition),
        "penalty_weight_fraction": model.penalty_weight_,
        "converged": model.converged_,
        "n_epochs": model.n_iter_,
        "seconds": round(seconds, 3),
    }
    model.save(out)
    storage.write_json(out / "summary.json", summary)
    truth = counts.truth
    figures = report.draw_figures(model, decomposition, spikes=single, truth=truth)
    for name in FIGURES:
        figures[name].savefig(out / f"{name}.png", dpi=_DPI)
    write_decomposition(out, data, counts, decomposition)
    report.write_report(out / "report.html", decomposition, figures, summary, truth=truth)
    return summary


def how_good(model: DCEA, counts: BinnedSpikes, decomposition: Decomposition) -> dict[str, Any]:
    """Return what a model's codes of some counts are worth."""
    import numpy as np

    per_unit = decomposition.deviance_explained_per_unit
    events = np.count_nonzero(decomposition.codes, axis=(0, 1, 3))
    return {
        "family": decomposition.family,
        "layout": decomposition.layout,
        "deviance_explained": _finite(decomposition.deviance_explained),
        "deviance_explained_per_unit": {
            str(unit): _finite(value) for unit, value in zip(counts.unit_ids, per_unit, strict=True)
        },
        "held_out_deviance_explained": _finite(model.score(counts)),
        "events_per_template": [int(number) for number in events],
    }


def write_decomposition(
    out: Path, data: SpikeTrains | BinnedSpikes, counts: BinnedSpikes, parts: Decomposition
) -> None:
    """Write ``results.nwb``: the recording, and what the model says of the counts."""
    from spikecdl.io import write_nwb

    write_nwb(out / "results.nwb", data, decomposition=parts)


def fingerprint(file: Path, counts: BinnedSpikes) -> dict[str, Any]:
    """Say which data these are: the file's SHA-256 (a folder's: of its counts), and sizes."""
    content = counts.counts.tobytes() if file.is_dir() else None
    digest = hashlib.sha256(content) if content is not None else _file_digest(file)
    n_trials, n_units, n_bins = counts.shape
    about = {
        "source": str(file),
        "sha256": digest.hexdigest(),
        "n_trials": n_trials,
        "n_units": n_units,
        "n_bins": n_bins,
        "bin_size": counts.bin_size,
        "n_pooled": int(counts.n_pooled.max()),
    }
    if counts.is_counts:
        about["n_spikes"] = int(counts.counts.sum())
        about["slots_per_bin"] = counts.slots
        about["bernoulli_trials_per_bin"] = int(counts.n_trials.max())
    return about


def in_words(summary: dict[str, Any], out: Path) -> str:
    """Return the summary as a person reads it."""
    data = summary["data"]
    lines = [_data_in_words(data, summary["family"]), *goodness_in_words(summary)]
    state = "settled" if summary["converged"] else "had NOT settled"
    lines.append(
        f"training {state} after {summary['n_epochs']} epochs, {summary['seconds']:.1f} s; penalty "
        f"at {summary['penalty_weight_fraction']:.3g} of lambda_max"
    )
    lines.append(f"results in {out}/ (start with report.html)")
    return "\n".join(lines)


def goodness_in_words(found: dict[str, Any]) -> list[str]:
    """Return what `how_good` found as lines of text."""
    per_unit = found["deviance_explained_per_unit"]
    lines = [
        f"events per template: {', '.join(map(str, found['events_per_template']))}",
        f"deviance explained: {found['deviance_explained']:.3f}, in bins held out "
        f"{found['held_out_deviance_explained']:.3f}",
    ]
    if 1 < len(per_unit) <= 8:
        parts = (f"{unit}: {value:.3f}" for unit, value in per_unit.items())
        lines.append(f"  per unit: {', '.join(parts)}")
    return lines


def _data_in_words(data: dict[str, Any], family: str) -> str:
    size = f"{data['n_units']} units, {data['n_bins']} bins of {1e3 * data['bin_size']:g} ms"
    pooled = data["n_pooled"]
    trials = f"{pooled} trials summed" if pooled > 1 else f"{data['n_trials']} trials"
    text = f"{Path(data['source']).name}: {trials}, {size}"
    if "n_spikes" in data:
        text += f", {data['n_spikes']} spikes"
    if family == "binomial":
        text += (
            f"; M = {data['bernoulli_trials_per_bin']} Bernoulli trials per bin ({pooled} x "
            f"{data['slots_per_bin']} slots)"
        )
    return text


def _versions() -> dict[str, str]:
    import spikecdl

    loaded = {name: sys.modules[name].__version__ for name in _LIBRARIES if name in sys.modules}
    return {"spikecdl": spikecdl.__version__, "python": platform.python_version(), **loaded}


def _file_digest(path: Path) -> Any:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest


def _finite(value: float) -> float | None:
    """Return a number that JSON can hold."""
    return float(value) if abs(value) < float("inf") else None
