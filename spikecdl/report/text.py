"""Numbers as text, and the summary of a fit as lines for a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spikecdl.validation import counted

_MANY_UNITS = 8  # more are not listed one by one


def number(value: float | None, digits: int | None = None, missing: str = "–") -> str:
    """Return three significant figures, or that many decimals; ``missing`` if it is not finite."""
    if value is None or not math.isfinite(value):
        return missing
    if digits is not None:
        return f"{round(value, digits) + 0.0:.{digits}f}"  # never minus zero
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def fit_lines(summary: Mapping[str, Any]) -> list[str]:
    """Describe the summary of a fit."""
    recovery = summary.get("recovery")
    state = "converged" if summary["converged"] else "did NOT converge"
    return [
        *score_lines(summary),
        *(recovery_lines(recovery) if recovery else ()),
        f"training {state} in {counted(summary['n_epochs'], 'epoch')}, "
        f"{summary['seconds']:.1f} s; penalty weight: "
        f"{summary['penalty_weight_fraction']:.3g} of lambda_max",
    ]


def score_lines(summary: Mapping[str, Any]) -> list[str]:
    """Describe the data, the events found in them and how well the model explains them."""
    per_unit = summary["deviance_explained_per_unit"]
    lines = [
        *_data_lines(summary["data"]),
        f"events of each template: {', '.join(map(str, summary['events_per_template']))}",
        f"deviance explained: {_decimals(summary['deviance_explained'])}, in bins held out "
        f"{_decimals(summary['held_out_deviance_explained'])}",
    ]
    if 1 < len(per_unit) <= _MANY_UNITS:
        each = ", ".join(f"{unit}: {_decimals(value)}" for unit, value in per_unit.items())
        lines.append(f"  of each unit: {each}")
    return lines + _rescaling_lines(summary.get("time_rescaling_per_unit", {}))


def recovery_lines(recovery: Mapping[str, Any]) -> list[str]:
    """Describe how well the templates and events of a simulation were found."""
    errors = ", ".join(map(_decimals, recovery["template_errors"]))
    hits, false = (
        "-" if recovery[key] is None else f"{recovery[key]:.0%}"
        for key in ("hit_rate", "false_alarm_rate")
    )
    return [
        f"error of each true template: {errors} (0 is perfect, 1 not found)",
        f"of {counted(recovery['n_true_events'], 'true event')}, {hits} found within "
        f"{_milliseconds(recovery['tolerance'])}; of the events found, {false} false",
    ]


def _data_lines(data: Mapping[str, Any]) -> list[str]:
    pooled, sub_bins = data["n_pooled"], data.get("sub_bins", 1)
    parts = [
        counted(max(pooled, data["n_trials"]), "trial") + " summed" * (pooled > 1),
        counted(data["n_units"], "unit"),
        f"{data['n_bins']} bins of {_milliseconds(data['bin_size'])}",
    ]
    if "n_spikes" in data:
        parts.append(counted(data["n_spikes"], "spike"))
    lines = [f"{Path(data['source']).name}: {', '.join(parts)}"]
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


def _rescaling_lines(per_unit: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say how many units agree with the model in rescaled time, and how far each is from it."""
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
            f"{unit}: {_decimals(found['distance'])} ({'in' if found['inside'] else 'out'}side "
            f"{_decimals(found['band'])})"
            for unit, found in tested.items()
        )
        lines.append(f"  distance of each unit: {', '.join(each)}")
    return lines


def _decimals(value: float | None) -> str:
    return number(value, 3, missing="-")


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:g} ms"
