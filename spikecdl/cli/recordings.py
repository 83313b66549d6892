"""`spikecdl inspect` and `spikecdl simulate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from spikecdl.cli import options, outputs
from spikecdl.cli.options import flag, option
from spikecdl.validation import counted

if TYPE_CHECKING:
    import pandas as pd

    from spikecdl.data import BinnedSpikes, SpikeTrains

_SHOWN = 20  # units listed
_FEW = 5  # values of a column listed
_LONGEST = 30  # characters of a value


def inspect(
    file: options.File,
    follow_links: options.FollowLinks = False,
    as_json: options.Json = False,
) -> None:
    """Show what a recording holds, and suggest --bin and --length.

    Lists units with their rates, trials with their columns, and the observed time. Asks about
    values that look wrong, as after damage to the file.
    """
    from spikecdl.data import SpikeTrains
    from spikecdl.files import has_seal
    from spikecdl.io import read

    data = read(file, follow_links=follow_links)
    about, lines = _of_spikes(data) if isinstance(data, SpikeTrains) else _of_bins(data)
    checked = file.is_file() and has_seal(file)  # readers have compared it
    about |= {"fingerprint": data.fingerprint, "checksum": checked}
    lines.append(
        f"fingerprint of the data: {data.fingerprint[:16]} "
        + ("(the file's checksum is right)" if checked else "(the file has no checksum)")
    )
    title = f"{file}: {counted(data.n_units, 'unit')}" + ", with truth" * about["truth"]
    outputs.show(about, [title, *lines], as_json)


def simulate(
    out: Annotated[Path, option("FILE", "NWB file to write.")],
    family: options.Family = "binomial",
    templates: Annotated[
        str,
        option(
            "SHAPES",
            "square, vee, cosine or smooth, or several of these separated by commas; or a .npy "
            "file of shape (template, bin) or (template, channel, bin).",
        ),
    ] = "square,vee,cosine",
    length: Annotated[float, option("SECONDS", "Length of these shapes, in whole bins.")] = 0.05,
    bin: Annotated[float, option("SECONDS", "Bin size.")] = 0.001,
    trials: Annotated[int, option("NUMBER", "Number of trials.")] = 30,
    units: Annotated[int, option("NUMBER", "Number of units.")] = 10,
    duration: Annotated[float, option("SECONDS", "Duration of a trial.")] = 2.0,
    event_rate: Annotated[float, option("HZ", "Events per second of each template.")] = 2.0,
    events: Annotated[
        int | None, option("NUMBER", "Events per template and window, in place of --event-rate.")
    ] = None,
    gap: Annotated[
        float | None,
        option("SECONDS", "Least time between a template's onsets. Default: --length."),
    ] = None,
    amplitude: Annotated[
        tuple[float, float], option("LOW HIGH", "Range of the amplitudes, which are uniform.")
    ] = (10.0, 20.0),
    baseline: Annotated[
        float, option("HZ", "Rate without events (gaussian: signal without events).")
    ] = 8.0,
    same_events: Annotated[
        bool, flag("--same-events", "Repeat the events of each unit in every trial, for pooling.")
    ] = False,
    history: Annotated[
        str | None,
        option(
            "NUMBERS",
            "Change of the log rate in each of the bins after a spike, as in --history=-3,-1.5.",
        ),
    ] = None,
    drift: Annotated[
        tuple[float, float] | None,
        option("SIZE SECONDS", "Size and period of a slow sine of the log rate."),
    ] = None,
    layout: options.Layout = "shared",
    seed: options.Seed = 0,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Simulate a recording with known templates and events.

    The file holds the recording and its truth: spike times, or bins of a gaussian signal.
    """
    import spikecdl.simulate as simulators
    from spikecdl.io import write_nwb
    from spikecdl.model.families import from_text

    outputs.new_file(out, overwrite)
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
        history=None
        if history is None
        else options.numbers("history", history, "--history=-3,-1.5"),
        drift=drift,
        layout=layout,
        random_state=seed,
    )
    data = simulators.place_spikes(counts, seed) if counts.is_counts else counts
    write_nwb(out, data)
    truth = counts.truth
    assert truth is not None  # simulators attach it
    about = {
        **{"file": str(out), "family": truth.family, "layout": truth.layout},
        **dict(zip(("n_trials", "n_units", "n_bins"), counts.shape, strict=True)),
        **{"bin_size": counts.bin_size, "n_templates": len(truth.templates)},
        **{"n_events": len(truth.events), "seed": seed},
    }
    outputs.show(about, [repr(data), repr(truth), f"written to {out}"], as_json)


def _templates(text: str) -> Any:
    """Return names of shapes, or the waveforms in a file."""
    import numpy as np

    if not text.endswith(".npy"):
        return text.split(",")
    try:
        return np.load(text, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"`templates` (={text!r}) is not an array of numbers: {error}") from None


def _of_bins(data: BinnedSpikes) -> tuple[dict[str, Any], list[str]]:
    """Describe counts or a signal in bins, as values and as lines."""
    about = {
        "units": [{"id": unit} for unit in data.unit_ids],
        "n_trials": len(data),
        "n_bins": data.n_bins,
        "bin_size": data.bin_size,
        "is_counts": data.is_counts,
        "observed": float(data.mask.mean()),
        "truth": data.truth is not None,
    }
    kind = "counts" if data.is_counts else "a real-valued signal"
    line = (
        f"{counted(len(data), 'trial')} of {data.n_bins} bins of {data.bin_size:g} s: {kind}, "
        f"observed for {about['observed']:.0%} of the time"
    )
    return about, [line]


def _of_spikes(data: SpikeTrains) -> tuple[dict[str, Any], list[str]]:
    """Describe spike trains, as values and as lines."""
    from spikecdl.suggestions import SHORT_DISTANCES, history_option, questions, suggest

    best, asked = suggest(data), questions(data)
    units = [
        {
            "id": unit,
            "n_spikes": int(times.size),
            "rate": None if rate != rate else float(rate),
            "observed": float((observed[:, 1] - observed[:, 0]).sum()),
        }
        for unit, times, observed, rate in zip(
            data.unit_ids, data.times, data.observed, data.rates, strict=True
        )
    ]
    intervals = {name: _table_summary(table) for name, table in data.intervals.items()}
    trials = None if data.trials is None else _table_summary(data.trials)
    about = {
        "units": units,
        "t_start": data.t_start,
        "t_stop": data.t_stop,
        "truth": data.truth is not None,
        "trials": trials,
        "intervals": intervals,
        "questions": asked,
        "suggested": {
            **{"bin": best.bin_size, "length": best.length, "other_length": best.other_length},
            **{"short_distances": best.short, "history": best.history},
        },
    }
    lines = [
        f"recording from {data.t_start:g} to {data.t_stop:g} s",
        f"{'unit':>12} {'spikes':>8} {'rate (Hz)':>10} {'observed (s)':>13}",
    ]
    for unit in units[:_SHOWN]:
        rate = "-" if unit["rate"] is None else f"{unit['rate']:.2f}"
        lines.append(f"{unit['id']!s:>12} {unit['n_spikes']:8} {rate:>10} {unit['observed']:13.1f}")
    if len(units) > _SHOWN:
        lines.append(f"{'...':>12} and {len(units) - _SHOWN} more")
    if trials is None:
        lines.append("no trials: the whole recording is one trial")
    for name, table in {**({} if trials is None else {"trials": trials}), **intervals}.items():
        lines.append(f"{name}: {table['n']}")
        lines += [f"    {column}: {values}" for column, values in table["columns"].items()]
    lines.append(f"suggested: --bin {best.bin_size:g} --length {best.length:g}")
    if best.other_length is not None:
        lines.append(f"rates also change on a slower scale: --length {best.other_length:g}")
    if best.short is not None:
        lines.append(
            f"{SHORT_DISTANCES[best.short]}: with single trials, "
            f"{history_option(best.short, best.history)}"
        )
    lines += [f"is this right? {question}" for question in asked]
    return about, lines


def _table_summary(table: pd.DataFrame) -> dict[str, Any]:
    return {"n": len(table), "columns": {name: _column_summary(table[name]) for name in table}}


def _column_summary(values: pd.Series) -> str:
    """Return the range of a column of many different numbers, or the first values of any other."""
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    if is_numeric_dtype(values) and not is_bool_dtype(values) and values.nunique() > _FEW:
        text = f"{values.min():g} to {values.max():g}"
    else:
        distinct = list(dict.fromkeys(map(_text, values.dropna())))
        text = ", ".join(distinct[:_FEW])
        text += f", ... ({len(distinct)} different)" if len(distinct) > _FEW else ""
    missing = int(values.isna().sum())
    return text + (f" ({missing} missing)" if missing else "")


def _text(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
