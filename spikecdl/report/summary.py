"""What was fitted and how well: as values that JSON can hold (docs/files.md), and as lines."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spikecdl import validation
from spikecdl.files import sha256
from spikecdl.validation import counted

if TYPE_CHECKING:
    from spikecdl.data import BinnedSpikes, Decomposition
    from spikecdl.estimator import DCEA
    from spikecdl.evaluation.bands import Bands
    from spikecdl.evaluation.crossvalidation import CrossValidated
    from spikecdl.model.families import Family

_LIBRARIES = ("torch", "numpy", "scipy", "scikit-learn", "pandas", "h5py", "pynwb", "neo")
_MANY_UNITS = 8  # more are not listed one by one
_LEVEL = 0.05  # of the tests in rescaled time
_FDR = 0.1  # false discovery rate of the events that are said to be kept


def fit_summary(
    model: DCEA,
    decomposition: Decomposition,
    source: Path | Sequence[Path],
    held_out: CrossValidated | str | None = None,
    bands: Bands | None = None,
) -> dict[str, Any]:
    """Summarize a fit: settings, data, versions, scores, and recovery of a simulation's truth.

    Parameters
    ----------
    model : DCEA
        A fitted model.
    decomposition : Decomposition
        Made by ``model.decompose(counts)`` from the counts that were fitted.
    source : Path or sequence of Path
        File or folder that the data come from, or several; a file is identified by its SHA-256.
    held_out : CrossValidated or str, optional
        Made by `spikecdl.crossvalidation.cross_validate`; or why nothing was held out.
    bands : Bands, optional
        Made by `spikecdl.bands`.

    Examples
    --------
    >>> from spikecdl import DCEA
    >>> counts = np.random.default_rng(0).poisson(np.repeat([0.2, 2, 0.2], [20, 5, 75]), (10, 100))
    >>> model = DCEA(n_templates=1, template_length=10, random_state=0).fit(counts)
    >>> summary = fit_summary(model, model.decompose(counts), Path("counts.npy"))
    >>> summary["family"], summary["seed"], summary["data"]["n_trials"]
    ('poisson', 0, 10)
    """
    from spikecdl.config import describe
    from spikecdl.evaluation.metrics import mismatch

    settings = describe(model.get_params(deep=False))
    seed = settings.pop("random_state")
    summary = {
        "settings": {**settings, "bin_size": decomposition.counts.bin_size},
        "seed": seed,
        **score_summary(model, decomposition, source),
        "held_out": _held_out(held_out, decomposition),
        "penalty_weight_fraction": model.penalty_weight_,
        "converged": model.converged_,
        "n_epochs": model.n_iter_,
    }
    starts = _starts(model, decomposition)
    if starts is not None:
        summary["starts"] = starts
    if bands is not None:
        about = {"n_bootstrap": bands.n_bootstrap, "level": bands.level}
        summary["bands"] = {**about, "template_errors": bands.errors.tolist()}
    if not mismatch(decomposition):
        summary["recovery"] = recovery_summary(decomposition)
    return summary


def score_summary(
    model: DCEA, decomposition: Decomposition, source: Path | Sequence[Path]
) -> dict[str, Any]:
    """Summarize data, versions and scores of any counts; parameters as for `fit_summary`."""
    from spikecdl.evaluation.goodness_of_fit import of_decomposition

    counts = decomposition.counts
    per_unit = zip(counts.unit_ids, decomposition.deviance_explained_per_unit, strict=True)
    summary = {
        "data": data_summary(decomposition.counts, decomposition.family, source),
        "versions": versions(),
        "family": decomposition.family.name,
        "layout": decomposition.layout,
        "deviance_explained": _finite(decomposition.deviance_explained),
        "deviance_explained_per_unit": {str(unit): _finite(value) for unit, value in per_unit},
        "hidden_bins_deviance_explained": _finite(model.score(counts)),
        "events_per_template": np.count_nonzero(decomposition.codes, axis=(0, 1, 3)).tolist(),
        "event_probabilities": _event_probabilities(decomposition),
    }
    if decomposition.history_filter is not None:
        filters = zip(counts.unit_ids, decomposition.history_filter.tolist(), strict=True)
        n_lags = decomposition.history_filter.shape[1]
        summary["history_filter"] = {
            "lags": (counts.bin_size * np.arange(1, 1 + n_lags)).round(12).tolist(),
            "log_rate_per_unit": {str(unit): values for unit, values in filters},
        }
    rescaling = of_decomposition(decomposition, model.family_)
    if rescaling is not None:
        summary["time_rescaling_per_unit"] = {
            str(row.Index): {
                "n_intervals": row.n_intervals,
                "distance": _finite(row.distance),
                "band": _finite(row.band),
                "inside": row.inside if row.n_intervals else None,
                "p_value": _finite(row.p_value),
                "p_holm": _finite(row.p_holm),
            }
            for row in rescaling.table().itertuples()
        }
    return summary


def _starts(model: DCEA, decomposition: Decomposition) -> dict[str, Any] | None:
    """Compare the templates with those of the second best start, if training kept them."""
    from spikecdl.evaluation.template_metrics import template_error

    tensors = model.tensors_
    if "other_start" not in tensors:
        return None
    found = template_error(tensors["other_start"].numpy(), decomposition.templates)
    return {"template_errors": found.errors.tolist(), "gap_nats": float(tensors["start_gap"])}


def _event_probabilities(decomposition: Decomposition) -> dict[str, Any] | None:
    """Summarize how sure the events of each template are; None if they have no probabilities."""
    from spikecdl.evaluation.metrics import event_table

    table = event_table(decomposition, _FDR)
    if table is None:
        return None
    return {
        "expected_true_per_template": table["expected_true"].round(3).tolist(),
        "expected_false_per_template": [*map(_finite, table["expected_false"].round(6))],
        "fdr": _FDR,
        "kept_per_template": table["kept"].tolist(),
    }


def recovery_summary(parts: Decomposition, tolerance: float | None = None) -> dict[str, Any]:
    """Summarize errors of templates and events; raises ValueError without a comparable truth."""
    from spikecdl.evaluation.metrics import recovery

    found = recovery(parts, tolerance)
    return {
        "template_errors": found.templates.errors.tolist(),
        "assignment": found.templates.assignment.tolist(),
        "tolerance": found.tolerance,
        "n_true_events": found.events.hits + found.events.misses,
        "hit_rate": _finite(found.events.hit_rate),
        "false_alarm_rate": _finite(found.events.false_alarm_rate),
    }


def versions() -> dict[str, str]:
    """Return the versions of spikecdl, Python and the libraries that results depend on."""
    import spikecdl

    installed = {}
    for name in _LIBRARIES:
        with suppress(metadata.PackageNotFoundError):  # Neo is optional
            installed[name] = metadata.version(name)
    return {"spikecdl": spikecdl.__version__, "python": platform.python_version(), **installed}


def _held_out(found: CrossValidated | str | None, parts: Decomposition) -> dict[str, Any]:
    """Summarize scores of data that were held out, if any were."""
    if found is None or isinstance(found, str):
        return {"n_folds": 0, "why": found}
    two_sided = bool((parts.codes < 0).any())
    gain, error = found.evidence_gain
    return {
        "n_folds": len(found.folds),
        "how": found.how,
        "deviance_explained": _finite(found.deviance_explained),
        "standard_error": _finite(found.standard_error),
        "bits_per_spike": _finite(found.bits_per_spike),
        "evidence_gain": _finite(gain),
        "evidence_gain_error": _finite(error),
        "deviance_explained_per_fold": [*map(_finite, found.deviance_explained_per_fold)],
        "template_errors": found.template_errors(parts.templates, two_sided).tolist(),
    }


def data_summary(
    counts: BinnedSpikes, family: str | Family, source: Path | Sequence[Path]
) -> dict[str, Any]:
    """Describe the counts, with the SHA-256 of their file, unless it is a folder or several."""
    from spikecdl.model.families import FAMILIES, Family

    files = (source,) if isinstance(source, Path) else tuple(source)
    summary = {
        "source": ", ".join(map(str, files)),
        "sha256": sha256(files[0]) if len(files) == 1 and files[0].is_file() else None,
        "fingerprint": counts.fingerprint,
        **dict(zip(("n_trials", "n_units", "n_bins"), counts.shape, strict=True)),
        "bin_size": counts.bin_size,
        "n_pooled": int(counts.n_pooled.max()),
    }
    if counts.is_counts:
        summary |= {"n_spikes": int(counts.counts.sum()), "sub_bins": counts.sub_bins}
    if validation.member("family", family, FAMILIES, Family).has_n_trials:
        summary["bernoulli_trials_per_bin"] = int(counts.n_trials.max())
    return summary


def _finite(value: float) -> float | None:
    """Return a number, or None for what JSON cannot hold."""
    return float(value) if math.isfinite(value) else None


def number(value: float | None, digits: int | None = None, missing: str = "–") -> str:
    """Return three significant figures, or that many decimals; ``missing`` if it is not finite."""
    if value is None or not math.isfinite(value):
        return missing
    if digits is not None:
        return f"{round(value, digits) + 0.0:.{digits}f}"  # never minus zero
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def fit_lines(summary: Mapping[str, Any]) -> list[str]:
    """Describe the summary of a fit."""
    state = "converged" if summary["converged"] else "did NOT converge"
    weight = summary["penalty_weight_fraction"]
    return [
        *score_lines(summary),
        *_recording_lines(summary.get("recordings", {})),
        *_held_out_lines(summary["held_out"]),
        *(_starts_lines(**summary["starts"]) if "starts" in summary else ()),
        *(_bands_lines(**summary["bands"]) if "bands" in summary else ()),
        *(recovery_lines(summary["recovery"]) if "recovery" in summary else ()),
        f"training {state} in {counted(summary['n_epochs'], 'epoch')}, "
        f"{summary['seconds']:.1f} s"
        + ("" if weight is None else f"; penalty weight: {weight:.3g} of lambda_max"),
        *(f"verdict: {sentence}" for sentence in summary["verdict"]),
    ]


def score_lines(summary: Mapping[str, Any]) -> list[str]:
    """Describe the data, the events found in them and how well the model explains them."""
    lines = [
        *_data_lines(summary["data"]),
        f"events of each template: {', '.join(map(str, summary['events_per_template']))}",
        *_probability_lines(summary["event_probabilities"]),
        f"deviance explained: {_decimals(summary['deviance_explained'])}; in bins hidden from the "
        f"events, not from the templates: {_decimals(summary['hidden_bins_deviance_explained'])}",
    ]
    per_unit = summary["deviance_explained_per_unit"].items()
    if 1 < len(per_unit) <= _MANY_UNITS:
        each = ", ".join(f"{unit}: {_decimals(value)}" for unit, value in per_unit)
        lines.append(f"  of each unit: {each}")
    if "history_filter" in summary:
        lines.append(_history_line(**summary["history_filter"]))
    missed = summary["data"]["n_pooled"] == 1 and summary["event_probabilities"] is None
    return lines + _rescaling_lines(summary.get("time_rescaling_per_unit", {}), missed)


def recording_rows(recordings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what was found in each of several recordings, a row each; texts and numbers."""
    rows = []
    for name, about in recordings.items():
        tested = [unit["inside"] for unit in about.get("time_rescaling_per_unit", {}).values()]
        tested = [inside for inside in tested if inside is not None]
        rows.append(
            {
                "name": name,
                "trials": max(about["data"]["n_pooled"], about["data"]["n_trials"]),
                "units": about["data"]["n_units"],
                "spikes": about["data"].get("n_spikes"),
                "events": " + ".join(map(str, about["events_per_template"])),
                "explained": about["deviance_explained"],
                "hidden": about["hidden_bins_deviance_explained"],
                "inside": f"{sum(tested)} of {len(tested)}" if tested else "–",
            }
        )
    return rows


def _recording_lines(recordings: Mapping[str, Any]) -> list[str]:
    """Describe what was found in each of several recordings."""
    return [
        f"  {row['name']}: {counted(row['trials'], 'trial')}, {counted(row['units'], 'unit')}, "
        f"events {row['events']}, deviance explained {_decimals(row['explained'])} (hidden bins "
        f"{_decimals(row['hidden'])}), units within the band: {row['inside']}"
        for row in recording_rows(recordings)
    ]


def _probability_lines(found: Mapping[str, Any] | None) -> list[str]:
    """Say how many events are expected to be true, and are kept at a false discovery rate."""
    if found is None:
        return []
    true = ", ".join(map(number, found["expected_true_per_template"]))
    rates = found["expected_false_per_template"]
    false = ", ".join("-" if rate is None else f"{rate:.0%}" for rate in rates)
    kept = ", ".join(map(str, found["kept_per_template"]))
    return [
        f"  expected to be true: {true} (false: {false}); kept at a false discovery rate of "
        f"{found['fdr']:.0%}: {kept}"
    ]


def _history_line(lags: list[float], log_rate_per_unit: Mapping[str, list[float]]) -> str:
    """Say by which factor a spike changes the rate, in the median over units."""
    factor = np.exp(np.median(list(log_rate_per_unit.values()), axis=0))
    return (
        f"a spike multiplies the rate by {number(factor[0])} {_milliseconds(lags[0])} later, by "
        f"{number(factor[-1])} {_milliseconds(lags[-1])} later"
    )


def _held_out_lines(held_out: Mapping[str, Any]) -> list[str]:
    if not held_out["n_folds"]:
        return []
    names = ("deviance_explained", "standard_error", "evidence_gain", "evidence_gain_error")
    value, error, gain, gain_error = (_decimals(held_out[name]) for name in names)
    lines = [
        f"deviance explained of data held out: {value}, standard error {error} "
        f"(fitted again {held_out['n_folds']} times, each time without a part of the "
        f"{held_out['how']})"
    ]
    if held_out["evidence_gain"] is not None:
        unit = "bin" if held_out["bits_per_spike"] is None else "spike"
        lines.append(
            f"their evidence, with events summed out: {gain} bits per {unit} above a constant "
            f"rate, standard error {gain_error}"
        )
    return lines


def _starts_lines(template_errors: list[float], gap_nats: float) -> list[str]:
    errors = ", ".join(map(_decimals, template_errors))
    return [
        f"another start of the search ended {number(gap_nats)} nats lower; error between its "
        f"templates and these: {errors}"
    ]


def _bands_lines(n_bootstrap: int, level: float, template_errors: list[float]) -> list[str]:
    return [
        f"expected error of each template: {', '.join(map(_decimals, template_errors))} (0 is "
        f"perfect; from {counted(n_bootstrap, 'resample')} of the trials; bands of {level:.0%})"
    ]


def recovery_lines(recovery: Mapping[str, Any]) -> list[str]:
    """Describe how well the templates and events of a simulation were found."""
    rates = (recovery["hit_rate"], recovery["false_alarm_rate"])
    hits, false = ("-" if rate is None else f"{rate:.0%}" for rate in rates)
    return [
        f"error of each true template: {', '.join(map(_decimals, recovery['template_errors']))} "
        "(0 is perfect, 1 not found)",
        f"of {counted(recovery['n_true_events'], 'true event')}, {hits} found within "
        f"{_milliseconds(recovery['tolerance'])}; of the events found, {false} false",
    ]


def _data_lines(data: Mapping[str, Any]) -> list[str]:
    pooled, sub_bins = data["n_pooled"], data.get("sub_bins", 1)
    parts = [
        counted(max(pooled, data["n_trials"]), "trial") + " summed" * (pooled > 1),
        counted(data["n_units"], "unit"),
        f"{data['n_bins']} bins of {_milliseconds(data['bin_size'])}",
        *([counted(data["n_spikes"], "spike")] if "n_spikes" in data else ()),
    ]
    files = ", ".join(Path(file).name for file in data["source"].split(", "))
    lines = [f"{files}: {', '.join(parts)}"]
    if "bernoulli_trials_per_bin" in data:
        text = f"M = {counted(data['bernoulli_trials_per_bin'], 'Bernoulli trial')} per bin"
        if sub_bins > 1:
            text += (
                f": {counted(pooled, 'trial')} x {sub_bins} sub-bins of "
                f"{_milliseconds(data['bin_size'] / sub_bins)}, as some bins of a single trial "
                "hold several spikes"
            )
        elif pooled > 1:
            text += ", one for each trial summed"
        lines.append(text)
    return lines


def _rescaling_lines(per_unit: Mapping[str, Mapping[str, Any]], missed: bool) -> list[str]:
    """Say how many units agree with the model in rescaled time, and how far each is from it."""
    tested = {unit: found for unit, found in per_unit.items() if found["inside"] is not None}
    if not tested:
        return []
    inside = sum(found["inside"] for found in tested.values())
    rejected = sum(found["p_holm"] < _LEVEL for found in tested.values())
    lines = [
        f"intervals in rescaled time: {inside} of {counted(len(tested), 'unit')} within the 95 % "
        "band (Kolmogorov-Smirnov); "
        f"{rejected or 'none'} rejected after Holm's correction"
    ]
    if len(tested) <= _MANY_UNITS:
        each = (
            f"{unit}: {_decimals(found['distance'])} ({'in' if found['inside'] else 'out'}side "
            f"{_decimals(found['band'])}, p = {number(found['p_value'])})"
            for unit, found in tested.items()
        )
        lines.append(f"  distance of each unit: {', '.join(each)}")
    if missed and inside < len(tested):
        lines.append(
            "  events too weak to be found stay in the residual: of single trials, right templates "
            "are often outside the band, too"
        )
    return lines


def _decimals(value: float | None) -> str:
    return number(value, 3, missing="-")


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:g} ms"
