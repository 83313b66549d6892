"""What a command found: as plain values for JSON, and in words for the terminal."""

from __future__ import annotations

import hashlib
import json
import math
import platform
import shlex
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikecdl.cli.windows import Windows

if TYPE_CHECKING:
    import pandas as pd

    from spikecdl.data import BinnedSpikes, Decomposition
    from spikecdl.denoise import PoissonDenoiser
    from spikecdl.denoise.benchmark import Benchmark
    from spikecdl.estimator import DCEA
    from spikecdl.experiments import Options

_LIBRARIES = ("torch", "numpy", "scipy", "scikit-learn", "pandas", "h5py", "pynwb", "neo")
_MANY_UNITS = 8  # more are not listed in words


def of_fit(
    model: DCEA, parts: Decomposition, file: Path, chosen: Windows, seconds: float
) -> dict[str, Any]:
    """Return the summary of a fit that took so long; `docs/files.md` explains each field."""
    from spikecdl.config import describe

    arguments = describe(model.get_params(deep=False))
    seed = arguments.pop("random_state")
    settings = {**arguments, "bin_size": parts.counts.bin_size, **chosen.described()}
    return {
        "command": _command(),
        "settings": settings,
        "data": fingerprint(file, parts.counts),
        "versions": _versions(),
        "seed": seed,
        **_goodness(model, parts),
        **_recovery_if_known(parts),
        "penalty_weight_fraction": model.penalty_weight_,
        "converged": model.converged_,
        "n_epochs": model.n_iter_,
        "seconds": round(seconds, 3),
    }


def of_codes(
    model: DCEA, parts: Decomposition, path: Path, file: Path, chosen: Windows
) -> dict[str, Any]:
    """Return the summary of a model, read from a path, on the data of a file."""
    return {
        "command": _command(),
        "model": str(path),
        "settings": chosen.described(),
        "data": fingerprint(file, parts.counts),
        "versions": _versions(),
        **_goodness(model, parts),
    }


def of_experiment(name: str, options: Options, seconds: float) -> dict[str, Any]:
    """Return what was run, and for how long; settings and findings are the experiment's own."""
    return {
        "command": _command(),
        "experiment": name,
        "quick": options.quick,
        "versions": _versions(),
        "seed": options.random_state,
        "seconds": round(seconds, 3),
    }


def of_training(
    folder: Path,
    n_images: int,
    denoiser: PoissonDenoiser,
    start: Path | None,
    validation: dict[str, float],
    seconds: float,
) -> dict[str, Any]:
    """Return where weights are from: what they were trained on, how, how long, and how well.

    With all that is known of the weights that training began with.
    """
    beside = None if start is None else start.with_suffix(".json")
    settings = {
        name: value
        for name, value in denoiser.get_params().items()
        if isinstance(value, bool | int | float | str | None)
    }
    return {
        "command": _command(),
        "images": str(folder),
        "n_images": n_images,
        "training": settings,
        "psnr_of_epochs": [round(-10 * math.log10(loss), 3) for loss in denoiser.losses_],
        "validation_psnr": validation,
        "versions": _versions(),
        "seconds": round(seconds),
        "start": json.loads(beside.read_text()) if beside and beside.exists() else None,
    }


def of_benchmark(test: Benchmark, table: pd.DataFrame, seconds: float) -> dict[str, Any]:
    """Return what was compared, and what came out of it."""
    from spikecdl.denoise import benchmark

    rows = benchmark.summary(table).to_dict("records")
    return {
        "command": _command(),
        "images": sorted(test.images),
        "n_draws": test.n_draws,
        "seed": test.random_state,
        "results": [{name: _plain(value) for name, value in row.items()} for row in rows],
        "versions": _versions(),
        "seconds": round(seconds),
    }


def _plain(value: Any) -> Any:
    """Return a value of a table as JSON has it: numbers that are not finite are null."""
    return value if isinstance(value, str) else _finite(float(value))


def of_recovery(parts: Decomposition, tolerance: float | None = None) -> dict[str, Any]:
    """Return errors of the true templates and how many events were found."""
    from spikecdl.evaluation.metrics import recovery

    found = recovery(parts, tolerance)
    return {
        "template_errors": [float(value) for value in found.templates.errors],
        "assignment": [int(c) for c in found.templates.assignment],
        "tolerance": found.tolerance,
        "n_true_events": found.events.hits + found.events.misses,
        "hit_rate": _finite(found.events.hit_rate),
        "false_alarm_rate": _finite(found.events.false_alarm_rate),
    }


def fingerprint(file: Path, counts: BinnedSpikes) -> dict[str, Any]:
    """Say which data these are: the file's SHA-256 (a folder's: of its counts), and sizes."""
    digest = _file_digest(file) if file.is_file() else hashlib.sha256(counts.counts.tobytes())
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
        about["sub_bins"] = counts.sub_bins
        about["bernoulli_trials_per_bin"] = int(counts.n_trials.max())
    return about


def fit_in_words(about: dict[str, Any]) -> list[str]:
    """Return `of_fit` as lines of text."""
    state = "settled" if about["converged"] else "had NOT settled"
    lines = codes_in_words(about)
    if "recovery" in about:
        lines += recovery_in_words(about["recovery"])
    return [
        *lines,
        f"training {state} after {counted(about['n_epochs'], 'epoch')}, {about['seconds']:.1f} s; "
        f"penalty at {about['penalty_weight_fraction']:.3g} of lambda_max",
    ]


def codes_in_words(about: dict[str, Any]) -> list[str]:
    """Return `of_codes` as lines of text."""
    per_unit = about["deviance_explained_per_unit"]
    lines = [
        *_data_in_words(about["data"], about["family"]),
        f"events of each template: {', '.join(map(str, about['events_per_template']))}",
        f"deviance explained: {_number(about['deviance_explained'])}, in bins held out "
        f"{_number(about['held_out_deviance_explained'])}",
    ]
    if 1 < len(per_unit) <= _MANY_UNITS:
        each = ", ".join(f"{unit}: {_number(value)}" for unit, value in per_unit.items())
        lines.append(f"  of each unit: {each}")
    return lines + _rescaling_in_words(about.get("time_rescaling_per_unit", {}))


def _rescaling_in_words(per_unit: dict[str, dict[str, Any]]) -> list[str]:
    """Return how many units agree with the model in rescaled time, and by how much each."""
    tested = {unit: found for unit, found in per_unit.items() if found["inside"] is not None}
    if not tested:
        return []
    inside = sum(found["inside"] for found in tested.values())
    lines = [
        f"intervals in rescaled time: {inside} of {counted(len(tested), 'unit')} within the 95 % "
        "band of the model (Kolmogorov-Smirnov)"
    ]
    if len(tested) <= _MANY_UNITS:
        each = (
            f"{unit}: {_number(found['distance'])} ({'in' if found['inside'] else 'out'}side "
            f"{_number(found['band'])})"
            for unit, found in tested.items()
        )
        lines.append(f"  distance of each unit: {', '.join(each)}")
    return lines


def recovery_in_words(found: dict[str, Any]) -> list[str]:
    """Return `of_recovery` as lines of text."""
    errors = ", ".join(map(_number, found["template_errors"]))
    return [
        f"error of each true template: {errors} (0 is perfect, 1 not found)",
        f"of {counted(found['n_true_events'], 'true event')}, {_percent(found['hit_rate'])} found "
        f"within {1e3 * found['tolerance']:g} ms; of the events found, "
        f"{_percent(found['false_alarm_rate'])} false",
    ]


def show(values: dict[str, Any], lines: list[str], as_json: bool) -> None:
    """Print one JSON document, or lines of text."""
    print(json.dumps(values, indent=2, allow_nan=False) if as_json else "\n".join(lines))


def counted(number: int, noun: str) -> str:
    """Return a number of things, "1 unit" or "2 units"."""
    return f"{number} {noun}{'s' * (number != 1)}"


def _goodness(model: DCEA, parts: Decomposition) -> dict[str, Any]:
    import numpy as np

    units, per_unit = parts.counts.unit_ids, parts.deviance_explained_per_unit
    events = np.count_nonzero(parts.codes, axis=(0, 1, 3))
    return {
        "family": parts.family.name,
        "layout": parts.layout,
        "deviance_explained": _finite(parts.deviance_explained),
        "deviance_explained_per_unit": {
            str(unit): _finite(value) for unit, value in zip(units, per_unit, strict=True)
        },
        "held_out_deviance_explained": _finite(model.score(parts.counts)),
        **_rescaling_if_counts(model, parts),
        "events_per_template": [int(number) for number in events],
    }


def _rescaling_if_counts(model: DCEA, parts: Decomposition) -> dict[str, Any]:
    """Return each unit's distance from the model in rescaled time; nothing of a signal."""
    from spikecdl.evaluation.goodness_of_fit import of_decomposition

    found = of_decomposition(parts, model.family)
    if found is None:
        return {}
    of_unit = {
        str(row.Index): {
            "n_intervals": row.n_intervals,
            "distance": _finite(row.distance),
            "band": _finite(row.band),
            "inside": row.inside if row.n_intervals else None,
        }
        for row in found.table().itertuples()
    }
    return {"time_rescaling_per_unit": of_unit}


def _recovery_if_known(parts: Decomposition) -> dict[str, Any]:
    from spikecdl.evaluation.metrics.truth import comparable

    return {"recovery": of_recovery(parts)} if comparable(parts) else {}


def _data_in_words(data: dict[str, Any], family: str) -> list[str]:
    from spikecdl.model.families import FAMILIES

    pooled, sub_bins = data["n_pooled"], data.get("sub_bins", 1)
    trials = counted(max(pooled, data["n_trials"]), "trial") + " summed" * (pooled > 1)
    size = (
        f"{counted(data['n_units'], 'unit')}, {data['n_bins']} bins of {_milli(data['bin_size'])}"
    )
    spikes = f", {counted(data['n_spikes'], 'spike')}" if "n_spikes" in data else ""
    lines = [f"{Path(data['source']).name}: {trials}, {size}{spikes}"]
    if hasattr(FAMILIES[family](), "n_trials"):
        bernoulli = data["bernoulli_trials_per_bin"]
        text = f"M = {counted(bernoulli, 'Bernoulli trial')} per bin"
        if sub_bins > 1:
            text += (
                f": {counted(pooled, 'trial')} x {sub_bins} sub-bins of "
                f"{_milli(data['bin_size'] / sub_bins)}, as some bins of a single trial hold "
                "several spikes"
            )
        elif pooled > 1:
            text += ", one for each trial summed"
        lines.append(text)
    return lines


def _milli(seconds: float) -> str:
    return f"{1e3 * seconds:g} ms"


def _number(value: float | None) -> str:
    """Three decimals, never minus zero; a dash where there is no number."""
    return "-" if value is None else f"{round(value, 3) + 0.0:.3f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _finite(value: float) -> float | None:
    """Return a number that JSON can hold."""
    return float(value) if abs(value) < float("inf") else None


def _command() -> str:
    return shlex.join(["spikecdl", *sys.argv[1:]])


def _versions() -> dict[str, str]:
    import spikecdl

    installed = {name: metadata.version(name) for name in _LIBRARIES}
    return {"spikecdl": spikecdl.__version__, "python": platform.python_version(), **installed}


def _file_digest(path: Path) -> Any:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest
