"""`spikecdl inspect` and `spikecdl simulate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spikecdl.cli.fitting import Json, Seed
from spikecdl.cli.windows import File

if TYPE_CHECKING:
    import pandas as pd

    from spikecdl.data import BinnedSpikes, SpikeTrains

_FINE = 0.001  # seconds per bin of the counts that suggestions are made from
_SHOWN = 20  # units listed


def inspect(file: File, as_json: Json = False) -> None:
    """Show units, trials with their columns, rates and observed time; suggest bin and length."""
    from spikecdl.data import SpikeTrains
    from spikecdl.io import read

    data = read(file)
    about = _of_spikes(data) if isinstance(data, SpikeTrains) else _of_bins(data)
    print(json.dumps(about, indent=2) if as_json else _in_words(file, about))


def simulate(
    out: Annotated[Path, typer.Option(help="NWB file to write.")],
    family: Annotated[
        str, typer.Option(help="binomial, poisson, negative_binomial or gaussian.")
    ] = "binomial",
    templates: Annotated[
        str, typer.Option(help="Shapes, by commas: square, vee, cosine, smooth; or a .npy file.")
    ] = "square,vee,cosine",
    length: Annotated[float, typer.Option(help="Length of the templates in seconds.")] = 0.05,
    bin: Annotated[float, typer.Option(help="Seconds per bin.")] = 0.001,
    trials: Annotated[int, typer.Option(help="Number of trials.")] = 30,
    units: Annotated[int, typer.Option(help="Number of units.")] = 10,
    duration: Annotated[float, typer.Option(help="Seconds per trial.")] = 2.0,
    event_rate: Annotated[float, typer.Option(help="Events per second of each template.")] = 2.0,
    events: Annotated[
        int | None, typer.Option(help="Exactly so many per template and window instead.")
    ] = None,
    gap: Annotated[
        float | None,
        typer.Option(help="Least time between onsets of a template, s. Default: its length."),
    ] = None,
    amplitude: Annotated[
        tuple[float, float], typer.Option(help="LOW HIGH of the events' amplitudes.")
    ] = (10.0, 20.0),
    baseline: Annotated[
        float, typer.Option(help="Rate without events in Hz (gaussian: mean of the signal).")
    ] = 8.0,
    same_events: Annotated[
        bool,
        typer.Option("--same-events", help="Every trial of a unit has the same events: poolable."),
    ] = False,
    layout: Annotated[
        str, typer.Option(help="shared, or joint: sequences across units.")
    ] = "shared",
    seed: Seed = 0,
) -> None:
    """Make a recording with known templates and events; the truth is in the file."""
    import spikecdl.simulate as simulators
    from spikecdl.io import write_nwb

    counts = simulators.simulate(
        family,
        _templates(templates),
        n_trials=trials,
        n_units=units,
        duration=duration,
        bin_size=bin,
        template_length=length,
        event_rate=event_rate,
        n_events=events,
        gap=gap,
        amplitude=amplitude,
        baseline=baseline,
        same_events=same_events,
        layout=layout,
        random_state=seed,
    )
    data = simulators.place_spikes(counts, seed) if counts.is_counts else counts
    write_nwb(out, data)
    print(f"{data!r}\n{counts.truth!r}\nwritten to {out}")


def _templates(text: str) -> Any:
    """Return names of shapes, or the waveforms in a file."""
    import numpy as np

    if not text.endswith(".npy"):
        return text.split(",")
    return np.load(text, allow_pickle=False)


def _of_spikes(data: SpikeTrains) -> dict[str, Any]:
    from spikecdl.suggestions import suggest

    found = suggest(data.bin(_FINE))
    about: dict[str, Any] = {
        "units": [
            {
                "id": unit,
                "n_spikes": int(times.size),
                "rate": None if rate != rate else float(rate),
                "observed": float((observed[:, 1] - observed[:, 0]).sum()),
            }
            for unit, times, observed, rate in zip(
                data.unit_ids, data.times, data.observed, data.rates, strict=True
            )
        ],
        "t_start": data.t_start,
        "t_stop": data.t_stop,
        "truth": data.truth is not None,
        "trials": None if data.trials is None else _of_table(data.trials),
        "intervals": {name: _of_table(table) for name, table in data.intervals.items()},
        "suggested": {"bin": found.bin_size, "length": found.length},
    }
    return about


def _of_bins(data: BinnedSpikes) -> dict[str, Any]:
    return {
        "units": [{"id": unit} for unit in data.unit_ids],
        "n_trials": len(data),
        "n_bins": data.n_bins,
        "bin_size": data.bin_size,
        "is_counts": data.is_counts,
        "observed": float(data.mask.mean()),
        "truth": data.truth is not None,
    }


def _of_table(table: pd.DataFrame) -> dict[str, Any]:
    """Number of rows, and what each column holds."""
    columns = {name: _of_column(table[name]) for name in table}
    return {"n": len(table), "columns": columns}


def _of_column(values: pd.Series) -> str:
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    if is_numeric_dtype(values) and not is_bool_dtype(values):
        return f"{values.min():g} to {values.max():g}"
    distinct = sorted(map(str, values.dropna().map(str).unique()))
    shown = ", ".join(distinct[:5])
    return shown + (f", ... ({len(distinct)} values)" if len(distinct) > 5 else "")


def _in_words(file: Path, about: dict[str, Any]) -> str:
    lines = [f"{file}: {len(about['units'])} units" + (", with truth" * about["truth"])]
    if "bin_size" in about:
        kind = "counts" if about["is_counts"] else "a real-valued signal"
        lines.append(
            f"{about['n_trials']} trials of {about['n_bins']} bins of {about['bin_size']:g} s: "
            f"{kind}, observed for {about['observed']:.0%} of the time"
        )
        return "\n".join(lines)
    lines.append(f"recording from {about['t_start']:g} to {about['t_stop']:g} s")
    lines.append(f"{'unit':>12} {'spikes':>8} {'rate (Hz)':>10} {'observed (s)':>13}")
    for unit in about["units"][:_SHOWN]:
        rate = "-" if unit["rate"] is None else f"{unit['rate']:.2f}"
        lines.append(f"{unit['id']!s:>12} {unit['n_spikes']:8} {rate:>10} {unit['observed']:13.1f}")
    if len(about["units"]) > _SHOWN:
        lines.append(f"{'...':>12} and {len(about['units']) - _SHOWN} more")
    tables = {"trials": about["trials"], **about["intervals"]}
    for name, table in tables.items():
        if table is None:
            lines.append("no trials: the whole recording is one window")
            continue
        lines.append(f"{name}: {table['n']}")
        lines += [f"    {column}: {values}" for column, values in table["columns"].items()]
    best = about["suggested"]
    lines.append(f"to begin with: --bin {best['bin']:g} --length {best['length']:g}")
    return "\n".join(lines)
