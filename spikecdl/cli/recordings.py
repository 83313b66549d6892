"""`spikecdl inspect` and `spikecdl simulate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spikecdl.cli.fitting import Json, Seed
from spikecdl.cli.summary import counted, show
from spikecdl.cli.windows import File

if TYPE_CHECKING:
    import pandas as pd

    from spikecdl.data import BinnedSpikes, SpikeTrains

_SHOWN = 20  # units listed
_FEW = 5  # values of a column listed
_LONGEST = 30  # characters of a value


def inspect(file: File, as_json: Json = False) -> None:
    """Show what a recording holds; suggest bin and length.

    Units and their rates, trials and their columns, observed time.
    """
    from spikecdl.data import SpikeTrains
    from spikecdl.io import read

    data = read(file)
    if isinstance(data, SpikeTrains):
        about = _of_spikes(data)
        lines = _spikes_in_words(file, about)
    else:
        about = _of_bins(data)
        lines = _bins_in_words(file, about)
    show(about, lines, as_json)


def simulate(
    out: Annotated[Path, typer.Option(metavar="FILE", help="NWB file to write.")],
    family: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="binomial, poisson, negative_binomial or gaussian; parameters after a colon, as "
            "gaussian:scale=2.5.",
        ),
    ] = "binomial",
    templates: Annotated[
        str,
        typer.Option(
            metavar="SHAPES",
            help="Of square, vee, cosine and smooth, separated by commas; or a .npy file of shape "
            "(template, bin) or (template, channel, bin).",
        ),
    ] = "square,vee,cosine",
    length: Annotated[
        float, typer.Option(metavar="SECONDS", help="Length of these shapes: whole bins.")
    ] = 0.05,
    bin: Annotated[float, typer.Option(metavar="SECONDS", help="Size of bins.")] = 0.001,
    trials: Annotated[int, typer.Option(metavar="NUMBER", help="How many trials.")] = 30,
    units: Annotated[int, typer.Option(metavar="NUMBER", help="How many units.")] = 10,
    duration: Annotated[float, typer.Option(metavar="SECONDS", help="Length of a trial.")] = 2.0,
    event_rate: Annotated[
        float, typer.Option(metavar="HZ", help="Events per second of each template.")
    ] = 2.0,
    events: Annotated[
        int | None,
        typer.Option(
            metavar="NUMBER", help="Exactly so many of each template in each window instead."
        ),
    ] = None,
    gap: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Least time between onsets of the same template. Default: its length.",
        ),
    ] = None,
    amplitude: Annotated[
        tuple[float, float],
        typer.Option(metavar="LOW HIGH", help="Amplitudes of events are uniform between these."),
    ] = (10.0, 20.0),
    baseline: Annotated[
        float,
        typer.Option(metavar="HZ", help="Rate without events (gaussian: level of the signal)."),
    ] = 8.0,
    same_events: Annotated[
        bool,
        typer.Option(
            "--same-events",
            help="The same events in every trial of a unit, as under a repeated stimulus; such "
            "trials can be pooled.",
        ),
    ] = False,
    layout: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="shared: one waveform for every unit's own events; joint: sequences across units.",
        ),
    ] = "shared",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Make a recording with known templates and events.

    The truth is in the file. Counts become spike times; a gaussian signal is written as bins.
    """
    import spikecdl.simulate as simulators
    from spikecdl.io import write_nwb
    from spikecdl.model.families import from_text

    counts = simulators.simulate(
        from_text(family),
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
    truth = counts.truth
    assert truth is not None  # a simulator knows it
    about = {
        "file": str(out),
        "family": truth.family,
        "layout": truth.layout,
        "n_trials": len(counts),
        "n_units": counts.n_units,
        "n_bins": counts.n_bins,
        "bin_size": counts.bin_size,
        "n_templates": len(truth.templates),
        "n_events": len(truth.events),
        "seed": seed,
    }
    show(about, [repr(data), repr(truth), f"written to {out}"], as_json)


def _templates(text: str) -> Any:
    """Return names of shapes, or the waveforms in a file."""
    import numpy as np

    if not text.endswith(".npy"):
        return text.split(",")
    try:
        return np.load(text, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"`templates` (={text!r}) is not an array of numbers: {error}") from None


def _of_spikes(data: SpikeTrains) -> dict[str, Any]:
    from spikecdl.suggestions import suggest

    found = suggest(data)
    return {
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
    """What a column holds: its range, if it holds different numbers, or its first values."""
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    if is_numeric_dtype(values) and not is_bool_dtype(values) and values.nunique() > _FEW:
        text = f"{values.min():g} to {values.max():g}"
    else:
        distinct = list(dict.fromkeys(_text(value) for value in values.dropna()))
        text = ", ".join(distinct[:_FEW])
        text += f", ... ({len(distinct)} different)" if len(distinct) > _FEW else ""
    missing = int(values.isna().sum())
    return text + (f" ({missing} missing)" if missing else "")


def _text(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def _bins_in_words(file: Path, about: dict[str, Any]) -> list[str]:
    kind = "counts" if about["is_counts"] else "a real-valued signal"
    return [
        _title(file, about),
        f"{counted(about['n_trials'], 'trial')} of {about['n_bins']} bins of "
        f"{about['bin_size']:g} s: {kind}, observed for {about['observed']:.0%} of the time",
    ]


def _spikes_in_words(file: Path, about: dict[str, Any]) -> list[str]:
    lines = [
        _title(file, about),
        f"recording from {about['t_start']:g} to {about['t_stop']:g} s",
        f"{'unit':>12} {'spikes':>8} {'rate (Hz)':>10} {'observed (s)':>13}",
    ]
    for unit in about["units"][:_SHOWN]:
        rate = "-" if unit["rate"] is None else f"{unit['rate']:.2f}"
        lines.append(f"{unit['id']!s:>12} {unit['n_spikes']:8} {rate:>10} {unit['observed']:13.1f}")
    if len(about["units"]) > _SHOWN:
        lines.append(f"{'...':>12} and {len(about['units']) - _SHOWN} more")
    if about["trials"] is None:
        lines.append("no trials: the whole recording is one window")
    tables = {"trials": about["trials"], **about["intervals"]}
    for name, table in tables.items():
        if table is not None:
            lines.append(f"{name}: {table['n']}")
            lines += [f"    {column}: {values}" for column, values in table["columns"].items()]
    best = about["suggested"]
    lines.append(f"to begin with: --bin {best['bin']:g} --length {best['length']:g}")
    return lines


def _title(file: Path, about: dict[str, Any]) -> str:
    return f"{file}: {counted(len(about['units']), 'unit')}" + ", with truth" * about["truth"]
