"""Choose a model, `select`; use one, `apply`, `compare`, `watch`, ...; run an `experiment`."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from spikecdl.cli import outputs
from spikecdl.cli.fitting import Settings
from spikecdl.cli.options import (
    REQUIRED,
    Device,
    File,
    Links,
    Process,
    Seed,
    argument,
    numbers,
    option,
)
from spikecdl.cli.windows import Selected, Selection
from spikecdl.experiments import EXPERIMENTS
from spikecdl.files import write_json
from spikecdl.progress import shown
from spikecdl.validation import counted, listed, seconds

if TYPE_CHECKING:
    from spikecdl.data import BinnedSpikes, Decomposition
    from spikecdl.estimator import DCEA
    from spikecdl.events.online import Online

_EXPERIMENTS = "; ".join(f"{name}: {each.shows}" for name, each in EXPERIMENTS.items())

Model = Annotated[Path, argument("MODEL", "Folder that a fit wrote to, or its model.safetensors.")]


@dataclass(frozen=True, kw_only=True)
class Search(Process):
    """The numbers and lengths of templates that `select` compares.

    Model
    -----
    template_length : SECONDS ...
        Lengths of the templates, in whole bins.
    n_templates : NUMBER ...
        Numbers of templates; 0 stands for a constant rate.

    Training
    --------
    n_jobs : NUMBER
        Processes at work. Default: one for each core.
    """

    template_length: str = option(REQUIRED, "--length")
    n_templates: str = option("0 1 2 3", "--templates")
    n_jobs: int | None = option(None, "--jobs", min=1)


def select(
    file: File, search: Search, selection: Selection, settings: Settings, results: outputs.Results
) -> None:
    """Compare numbers and lengths of templates on held-out trials.

    Fits each candidate without a part of the trials, and scores it there: by the evidence, the
    probability of the counts with all possible events summed out. Writes selection.csv, a figure,
    summary.json and the recommended model, fitted to all trials, to --out. After an interruption,
    the same command goes on where it was.
    """
    results.begin(file)
    from spikecdl import plots
    from spikecdl.config import describe
    from spikecdl.evaluation.selection import select as compare_candidates
    from spikecdl.report.summary import data_summary, lines
    from spikecdl.solvers.parallel import n_threads

    n_templates = numbers("n_templates", search.n_templates, "--templates 1 2 3", int)
    as_seconds = partial(seconds, "template_length")
    lengths = numbers("template_length", search.template_length, "--length 0.05 0.1", as_seconds)
    model, n_folds, out = settings.estimator(search), settings.n_folds, results.out
    fits = out / "fits"  # those that are finished, which a run that was interrupted goes on from
    with results.folder(file) as unfinished:
        selected = selection.count(selection.read(file), settings.bin_size)
        settings.set_trainer(model, selected.counts, *filter(None, n_templates))
        with shown("fitting candidates without a part of the data", results.as_json) as progress:
            found = compare_candidates(
                *(model, selected.counts, n_templates, lengths),
                n_folds=n_folds,
                single_trials=selected.single_trials,
                n_jobs=search.n_jobs or n_threads(),
                folder=fits,
                on_fit=progress,
            )
        best = found.recommended
        with shown(f"fitting {best} to all trials", results.as_json):
            if best.n_templates:
                best.fit(model, selected.counts).save(unfinished)
            table = found.table()
            about = {
                **outputs.provenance(),
                "settings": describe(model.get_params(deep=False)) | asdict(selection),
                "data": data_summary(selected.counts, model.family, file),
                "how": found.how,
                "n_folds": n_folds,
                "recommended": vars(best),
                "candidates": table.astype(object).where(table.notna(), None).to_dict("records"),
            }
            table.to_csv(unfinished / "selection.csv", index=False)
            plots.save(plots.selection(found), unfinished / f"selection.{results.format.value}")
            write_json(unfinished / "summary.json", about)
    shutil.rmtree(fits, ignore_errors=True)
    named = {"names": list(map(str, found.candidates)), **about}
    results.show(about, [*lines("selection", named), f"results in {out}/"])


@dataclass(frozen=True, kw_only=True)
class Use(Device):
    """How a saved model is used.

    Windows
    -------
    own_windows
        Use the windows that options name, or whole single trials, in place of those of the fit.
    """

    own_windows: bool = False


class Applied(NamedTuple):
    """What a saved model finds in a file, and how, as values that JSON can hold."""

    model: DCEA
    selected: Selected
    parts: Decomposition
    about: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Listed(outputs.Parts):
    """What `apply` looks for and writes.

    Model
    -----
    speeds : SPEED ...
        How many times faster than its template an event may be, as 8 12 -12; negative: backward.
    bin_size : SECONDS
        Bins for --speeds, such as 0.005s. Default: those of the fit.

    Output
    ------
    fdr : RATE
        False discovery rate of the events in events.csv, such as 0.1. Default: all events of
        probability 1/2 or more.
    by : COLUMN
        Column of the trials; compare events between its values in conditions.csv, with a figure.
    shuffles : NUMBER
        Test each window against so many shuffles of units and of times, in replay.csv.
    """

    speeds: str | None = None
    bin_size: str | None = option(None, "--bin")
    fdr: float | None = None
    by: str | None = None
    shuffles: int = 0


def apply(model: Model, file: File, selection: Selection, use: Use, results: Listed) -> None:
    """Find the events of a fitted model in another recording.

    Windows are chosen as in the fit, unless options name others.
    Writes a report, summary.json, events.csv, figures and results.nwb to --out.
    Uses the model's bin size.
    """
    results.begin(file)
    from spikecdl.report import summary

    out = results.out
    if (out / "model.safetensors").exists():
        raise ValueError(f"`out` (={str(out)!r}) holds a fit; choose another folder")
    progress = shown("finding events, scoring them", results.as_json)
    with results.folder(file) as unfinished, progress:
        found = _applied(model, file, selection, use, results)
        about = found.about | summary.score_summary(found.model, found.parts, file)
        lines = [*about["windows"], *summary.lines("score", about)]
        if results.fdr is not None:
            n_kept = len(found.parts.events(results.fdr))
            about |= {"fdr": results.fdr, "n_events_at_fdr": n_kept}
            lines.append(
                f"{n_kept} events at a false discovery rate of {results.fdr:g}: events.csv"
            )
        lines += _compared(found, results, unfinished)
        rest = (found.selected, found.parts, about, results)
        outputs.write_results(unfinished, *rest, fdr=results.fdr)
    results.show(about, [*lines, f"results in {out}/"])


def _compared(found: Applied, results: Listed, folder: Path) -> list[str]:
    """Write tables of conditions and of shuffles that were asked for; return lines about them."""
    from spikecdl import plots
    from spikecdl.evaluation.permutation import compare_conditions, replay

    model, selected, lines = found.model, found.selected, []
    if results.by is not None:
        table = getattr(selected.data, "tables", {}).get(found.about["settings"]["table"])
        if table is None or results.by not in table:
            known = listed(list(table) if table is not None else [], 10)
            raise ValueError(f"`by` (={results.by!r}) must be a column of the trials: {known}")
        if selected.pooled:
            raise ValueError(
                f"`by` (={results.by!r}) compares single trials, but these are pooled, as in the "
                "fit; --own-windows leaves that out"
            )
        conditions = compare_conditions(model, selected.counts, table[results.by])
        conditions.to_csv(folder / "conditions.csv", index=False)
        picture = plots.conditions(conditions)[0, 0].figure
        plots.save(picture, folder / f"conditions.{results.format.value}")
        least = conditions.sort_values("p_value").iloc[0]
        lines.append(
            f"conditions of {results.by}: least p-value {least['p_value']:.3g}, of "
            f"{conditions['p_value'].count()} ({least['quantity']} of template "
            f"{least['template']} in {least['condition']}): conditions.csv"
        )
    if results.shuffles:
        windows = replay(model, selected.counts, n_shuffles=results.shuffles)
        windows.to_csv(folder / "replay.csv", index=False)
        both = (windows[["p_units", "p_times"]] < 0.05).all(axis=1)
        lines.append(
            f"{both.sum()} of {counted(len(windows), 'window')} with p < 0.05 against units and "
            "times shuffled: replay.csv"
        )
    return lines


def evaluate(
    model: Model, file: File, selection: Selection, use: Use, output: outputs.Output
) -> None:
    """Measure how well a fitted model explains a recording.

    Windows are chosen as in the fit, unless options name others.
    Prints the deviance explained in all bins, and in bins that were hidden when events were found
    (held out only if the model was fitted to other trials).
    For counts, also tests in rescaled time (Kolmogorov-Smirnov) whether spikes come at the
    model's rate.
    """
    output.begin(file)
    from spikecdl.report import summary

    with shown("finding events, scoring hidden bins", output.as_json):
        found = _applied(model, file, selection, use)
        about = found.about | summary.score_summary(found.model, found.parts, file)
    output.show(about, [*about["windows"], *summary.lines("score", about)])


@dataclass(frozen=True, kw_only=True)
class Comparison(outputs.Output):
    """What `compare` takes for the same event, and prints.

    Parameters
    ----------
    tolerance : SECONDS
        Largest error of an event's onset. Default: 3 bins.
    """

    tolerance: float | None = None


def compare(
    model: Model,
    truth: Annotated[Path, argument("TRUTH", "Simulated recording, which holds its truth.")],
    selection: Selection,
    use: Use,
    output: Comparison,
) -> None:
    """Compare a fitted model with the truth of a simulation.

    Windows are chosen as in the fit, unless options name others.
    Prints the error of each template, at the best order and shift, and how many events were found.
    """
    output.begin(truth)
    from spikecdl.report import summary

    with shown("finding events", output.as_json):
        found = _applied(model, truth, selection, use)
    if found.parts.counts.truth is None:
        raise ValueError(f"{truth} holds no truth; `spikecdl simulate` makes files that do")
    recovery = summary.recovery_summary(found.parts, output.tolerance)
    about = found.about | {"truth": str(truth)} | recovery
    output.show(about, [*about["windows"], *summary.lines("recovery", about)])


@dataclass(frozen=True, kw_only=True)
class Watching(Links, outputs.Output):
    """How a recording is watched.

    Parameters
    ----------
    threshold : PROBABILITY
        Tell of an event when it is under way with this probability.
    """

    threshold: float = 0.9


def watch(model: Model, file: File, settings: Watching) -> None:
    """Play a recording as a stream, and tell of events at once.

    The model must be of joint templates, without history, drift and bursts (see Online). All units
    of the fit are counted through the whole recording, bin after bin, whatever its trials.
    Prints a line for each event: when it is sure, since when it is under way, its template.
    """
    from spikecdl.data import SpikeTrains
    from spikecdl.estimator import load
    from spikecdl.events.online import Online

    if not 0 < settings.threshold < 1:
        raise ValueError(f"`threshold` (={settings.threshold!r}) must be between 0 and 1")
    fitted, data = load(model), settings.read(file)
    if isinstance(data, SpikeTrains):
        data = replace(data, trials=None, truth=None).bin(fitted.bin_size_)
    places = [data.unit_ids.index(unit) for unit in fitted.unit_ids_ if unit in data.unit_ids]
    if len(places) < len(fitted.unit_ids_):
        raise ValueError(f"{file} lacks units of the fit, which are {listed(fitted.unit_ids_, 10)}")
    online, found, taken = Online(fitted, data.bin_size), list[dict[str, Any]](), list[float]()
    for event in _watched(online, data, places, settings.threshold, taken):
        found.append(event)
        if not settings.as_json:
            which = f"template {event['template']}, which began at about {event['began']:.3f} s"
            print(f"{event['time']:.3f} s: {which} (probability {event['probability']:.2f})")
    taken.sort()
    median, worst = taken[len(taken) // 2], taken[-1]
    said = f"{counted(len(found), 'event')} in {counted(len(taken), 'bin')}"
    times = f"a bin took {1e3 * median:.3f} ms (median), {1e3 * worst:.3f} ms at most"
    about = {"events": found, "seconds_per_bin": {"median": median, "worst": worst}}
    settings.show({"model": str(model), "file": str(file), **about}, [f"{said}; {times}"])


def _watched(
    online: Online, data: BinnedSpikes, places: list[int], threshold: float, taken: list[float]
) -> Iterator[dict[str, Any]]:
    """Yield events when they are sure, and note how long each bin has ``taken``."""
    for trial, begins in enumerate(data.trial_starts.tolist()):
        online.reset()
        before: Any = False
        for number in range(data.n_bins):
            began = time.perf_counter()
            now = online.step(data.counts[trial, places, number])
            taken.append(time.perf_counter() - began)
            sure = now.under_way >= threshold
            for template in (sure & ~before).nonzero()[0].tolist():
                at = (0.0 if math.isnan(begins) else begins) + number * data.bin_size
                since = at - float(now.since[template]) * data.bin_size
                yield {
                    "trial": data.trial_ids[trial],
                    "time": round(at, 9),
                    "began": round(since, 9),
                    "template": template,
                    "probability": float(now.under_way[template]),
                }
            before = sure


def _applied(
    path: Path, file: Path, selection: Selection, use: Use, results: Listed | None = None
) -> Applied:
    """Select from a file as the fit of a saved model has done, and decompose the counts."""
    from spikecdl.data import SpikeTrains
    from spikecdl.estimator import load

    model = load(path).set_params(device=use.device)
    data = selection.read(file)
    lines: list[str] = []
    has_times = isinstance(data, SpikeTrains)
    if not use.own_windows:
        fitted = model.windows_
        if not has_times:  # bins are as they are
            fitted = {"pool_trials": fitted.get("pool_trials", False)}
        selection, lines = selection.like(fitted)
    needs_units = model.layout == "joint" or model.unit_tensors_
    if needs_units and selection.units is None and set(model.unit_ids_) < set(data.unit_ids):
        selection = replace(selection, units=",".join(map(str, model.unit_ids_)))
        lines.append(f"units of the fit: {listed(model.unit_ids_, 10)}")
    speeds, bin_size = [], f"{model.bin_size_}s" if has_times else None
    if results is not None and results.speeds is not None:
        speeds = numbers("speeds", results.speeds, "--speeds 8 12 -12")
        bin_size = results.bin_size or bin_size
    elif results is not None and results.bin_size is not None:
        raise ValueError(
            f"`bin_size` (={results.bin_size!r}) goes with --speeds; without, bins are those of "
            f"the fit, {model.bin_size_:g} s"
        )
    try:
        selected = selection.count(data, bin_size)
    except ValueError as error:
        if not lines:
            raise
        reason = f"{'; '.join(lines)}; --own-windows leaves them out"
        raise ValueError(f"{error} ({reason})") from error
    about: dict[str, Any] = {"command": outputs.command_line(), "model": str(path)}
    about |= {"settings": asdict(selection), "windows": lines}
    if speeds:
        model, about["speeds"] = model.at_speeds(selected.counts, speeds), speeds
    return Applied(model, selected, model.decompose(selected.counts), about)


@dataclass(frozen=True, kw_only=True)
class Experiment(Seed):
    """How an experiment runs.

    Parameters
    ----------
    quick
        Run a small version, in under two minutes.
    data : FOLDER
        Recordings, for the experiments that need them.
    """

    quick: bool = False
    data: Path | None = None


def experiment(
    name: Annotated[str, argument("NAME", _EXPERIMENTS, " ".join(EXPERIMENTS))],
    settings: Experiment,
    results: outputs.Results,
) -> None:
    """Run an experiment, with comparison methods.

    Writes table.csv, figures and summary.json to --out.
    """
    from spikecdl import experiments

    options = experiments.Options(**vars(settings), say=results.say)
    began = time.perf_counter()
    folder = results.folder(settings.data or Path())
    with folder as unfinished:
        result = experiments.run(name, options)
        about = {
            **outputs.provenance(),
            "experiment": name,
            "quick": settings.quick,
            "seed": settings.random_state,
            "seconds": round(time.perf_counter() - began, 3),
        }
        found = result.write(unfinished, about, results.format.value)
    results.show(found, [*result.findings, f"results in {results.out}/"])
