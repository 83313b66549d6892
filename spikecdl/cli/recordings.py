"""`spikecdl inspect` and `spikecdl simulate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spikecdl.cli import outputs
from spikecdl.cli.options import File, Links, Process, Seed, numbers, option

if TYPE_CHECKING:
    import pandas as pd

    from spikecdl.data import BinnedSpikes, SpikeTrains


def inspect(file: File, links: Links, output: outputs.Output) -> None:
    """Show what a recording holds, and suggest --bin and --length.

    Lists units with their rates, trials with their columns, and the observed time. Asks about
    values that look wrong, as after damage to the file.
    """
    from spikecdl.data import SpikeTrains
    from spikecdl.files import has_seal
    from spikecdl.io.nwb_read import series_of
    from spikecdl.report.summary import lines

    data = links.read(file)
    series = series_of(file, links.follow_links)
    about = _of_spikes(data) if isinstance(data, SpikeTrains) else _of_bins(data)
    checked = file.is_file() and has_seal(file)  # readers have compared it
    about |= {"series": series, "fingerprint": data.fingerprint, "checksum": checked}
    output.show(about, lines("inspect", {"file": str(file), **about}))


@dataclass(frozen=True, kw_only=True)
class Simulation(Process, Seed):
    """The arguments of `spikecdl.simulate`.

    Data
    ----
    bin_size : SECONDS
        Bin size.
    n_trials : NUMBER
        Number of trials.
    n_units : NUMBER
        Number of units.
    duration : SECONDS
        Duration of a trial.

    Model
    -----
    templates : SHAPES
        square, vee, cosine or smooth, or several of these separated by commas; or a .npy file of
        shape (template, bin) or (template, channel, bin).
    template_length : SECONDS
        Length of these shapes, in whole bins.
    event_rate : HZ
        Events per second of each template.
    n_events : NUMBER
        Events per template and window, in place of --event-rate.
    gap : SECONDS
        Least time between a template's onsets. Default: --length.
    amplitude : LOW HIGH
        Range of the amplitudes, which are uniform.
    baseline : HZ
        Rate without events (gaussian: signal without events).
    same_events
        Repeat the events of each unit in every trial, for pooling.
    history : NUMBERS
        Change of the log rate in each of the bins after a spike, as in --history=-3,-1.5.
    drift : SIZE SECONDS
        Size and period of a slow sine of the log rate.
    """

    family: str = "binomial"
    templates: str = "square,vee,cosine"
    n_trials: int = option(30, "--trials")
    n_units: int = option(10, "--units")
    duration: float = 2.0
    bin_size: float = option(0.001, "--bin")
    template_length: float = option(0.05, "--length")
    event_rate: float = 2.0
    n_events: int | None = option(None, "--events")
    gap: float | None = None
    amplitude: tuple[float, float] = (10.0, 20.0)
    baseline: float = 8.0
    same_events: bool = False
    history: str | None = None
    drift: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class NewRecording(outputs.Written):
    """What `simulate` prints and writes.

    Output
    ------
    out : FILE
        NWB file to write.
    """


def simulate(settings: Simulation, output: NewRecording) -> None:
    """Simulate a recording with known templates and events.

    The file holds the recording and its truth: spike times, or bins of a gaussian signal.
    """
    import spikecdl.simulate as simulators
    from spikecdl.io import write_nwb
    from spikecdl.model.families import from_text

    output.check_new(output.out)
    parsed = {"family": from_text(settings.family), "templates": _templates(settings.templates)}
    if settings.history is not None:
        parsed["history"] = numbers("history", settings.history, "--history=-3,-1.5")
    counts = simulators.simulate(**vars(settings) | parsed)
    seed = settings.random_state
    data = simulators.place_spikes(counts, seed) if counts.is_counts else counts
    write_nwb(output.out, data)
    truth = counts.truth
    assert truth is not None  # simulators attach it
    about = {
        **{"file": str(output.out), "family": truth.family, "layout": truth.layout},
        **dict(zip(("n_trials", "n_units", "n_bins"), counts.shape, strict=True)),
        **{"bin_size": counts.bin_size, "n_templates": len(truth.templates)},
        **{"n_events": len(truth.events), "seed": seed},
    }
    output.show(about, [repr(data), repr(truth), f"written to {output.out}"])


def _templates(text: str) -> Any:
    """Return names of shapes, or the waveforms in a file."""
    import numpy as np

    if not text.endswith(".npy"):
        return text.split(",")
    try:
        return np.load(text, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"`templates` (={text!r}) is not an array of numbers: {error}") from None


def _of_bins(data: BinnedSpikes) -> dict[str, Any]:
    """Describe counts or a signal in bins."""
    return {
        "units": [{"id": unit} for unit in data.unit_ids],
        "n_trials": len(data),
        "n_bins": data.n_bins,
        "bin_size": data.bin_size,
        "is_counts": data.is_counts,
        "observed": float(data.mask.mean()),
        "truth": data.truth is not None,
    }


def _of_spikes(data: SpikeTrains) -> dict[str, Any]:
    """Describe spike trains."""
    from spikecdl.suggestions import questions, suggest

    best = suggest(data)
    each = zip(data.unit_ids, data.times, data.observed, data.rates, strict=True)
    units = [
        {
            "id": unit,
            "n_spikes": int(times.size),
            "rate": None if rate != rate else float(rate),
            "observed": float((observed[:, 1] - observed[:, 0]).sum()),
        }
        for unit, times, observed, rate in each
    ]
    tables: dict[str, dict[str, Any]] = {
        name: {"n": len(table), "columns": {column: _column(table[column]) for column in table}}
        for name, table in data.tables.items()
    }
    return {
        "units": units,
        "unit_columns": {} if data.units is None else _shares(data.units, "units"),
        "subsets": {name: _shares(table, "trials") for name, table in data.tables.items()},
        "t_start": data.t_start,
        "t_stop": data.t_stop,
        "truth": data.truth is not None,
        "trials": tables.get("trials"),
        "intervals": {name: table for name, table in tables.items() if name != "trials"},
        "questions": questions(data),
        "suggested": {
            **{"bin": best.bin_size, "length": best.length, "other_length": best.other_length},
            "short_distances": best.short,
        },
    }


def _shares(table: pd.DataFrame, option: str, few: int = 8) -> dict[str, dict[str, Any]]:
    """Return how many rows have each value of columns of text, if few; and how to select some."""
    found = {}
    for name, values in table.items():
        number = values.dropna().map(str).value_counts(sort=False)
        is_text = values.map(lambda value: isinstance(value, str)).all()
        if not is_text or not str(name).isidentifier() or not 1 < len(number) <= few:
            continue
        if number.max() > 1 or option == "trials":  # a unit may have a name of its own
            example = f"--{option} \"{name} == '{number.index[0]}'\""
            found[str(name)] = {"number": number.to_dict(), "example": example}
    return found


def _column(values: pd.Series, few: int = 5) -> str:
    """Return the range of a column of many different numbers, or the first values of any other."""
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    if is_numeric_dtype(values) and not is_bool_dtype(values) and values.nunique() > few:
        text = f"{values.min():g} to {values.max():g}"
    else:
        distinct = list(dict.fromkeys(map(_text, values.dropna())))
        text = ", ".join(distinct[:few])
        text += f", ... ({len(distinct)} different)" if len(distinct) > few else ""
    missing = int(values.isna().sum())
    return text + (f" ({missing} missing)" if missing else "")


def _text(value: Any, longest: int = 30) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= longest else text[: longest - 3] + "..."
