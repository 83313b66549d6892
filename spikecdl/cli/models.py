"""Learn templates, and use fitted models: `spikecdl fit`, `demo`, `apply`, `evaluate`, `compare`.

`experiment` runs the experiments.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from spikecdl.cli import options, outputs
from spikecdl.cli.options import Selected, Selection, argument, flag, option
from spikecdl.cli.several import Recordings
from spikecdl.experiments import EXPERIMENTS

if TYPE_CHECKING:
    from spikecdl.data import Decomposition
    from spikecdl.estimator import DCEA
    from spikecdl.evaluation.bands import Bands
    from spikecdl.evaluation.crossvalidation import CrossValidated
    from spikecdl.training import Learned

_EXPERIMENTS = "; ".join(f"{name}: {each.shows}" for name, each in EXPERIMENTS.items())

Model = Annotated[Path, argument("MODEL", "Folder that a fit wrote to, or its model.safetensors.")]


def fit(
    files: options.Files,
    out: options.Out,
    length: Annotated[float, option("SECONDS", "Length of the templates, in whole bins.")],
    bin: options.Bin = None,
    templates: Annotated[int, option("NUMBER", "Number of templates.")] = 1,
    family: options.Family = "poisson",
    pool_trials: options.Pool = False,
    align: options.Align = None,
    window: options.Window = None,
    units: options.Units = None,
    trials: options.Trials = None,
    table: options.Table = "trials",
    follow_links: options.FollowLinks = False,
    events: options.Events = None,
    within: options.Within = None,
    layout: options.Layout = "shared",
    weight: Annotated[
        float | None,
        option(
            "FRACTION",
            "Penalty weight as a fraction of lambda_max, above which there are no events. "
            "Default: chosen from the noise and by held-out likelihood.",
            "--lambda",
        ),
    ] = None,
    penalty: Annotated[str, option("NAME", "l1; or group_l1: units fire together.")] = "l1",
    sign: Annotated[str, option("NAME", "Amplitudes: positive, negative or both.")] = "positive",
    baseline: Annotated[
        str,
        option(
            "HOW",
            "learned; START:STOP, the mean rate between these times of each window; a rate in Hz; "
            "or a rate for each unit, as in 8,5.5,12.",
        ),
    ] = "learned",
    history: options.History = None,
    history_sign: options.HistorySign = "negative",
    history_common: options.HistoryCommon = False,
    drift: options.Drift = None,
    trainer: options.Trainer = "auto",
    epochs: Annotated[
        int | None, option("NUMBER", "Largest number of epochs. Default: the trainer's.")
    ] = None,
    folds: Annotated[
        int,
        option(
            "NUMBER",
            "Parts of the trials that are held out in turn, each for another fit that is scored "
            "on it. 0: none.",
            min=0,
        ),
    ] = 3,
    bootstrap: Annotated[
        int,
        option(
            "NUMBER",
            "Resamples of the trials (200, say) from which bands of the templates are computed. "
            "0: none.",
            min=0,
        ),
    ] = 0,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    resume: Annotated[
        bool, flag("--resume", "Continue from the checkpoint of an interrupted fit.")
    ] = False,
    format: options.Format = options.Picture.PNG,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Learn templates from recordings and write results to --out.

    Several recordings share the templates. Writes the model, summary.json, figures, results.nwb (of
    each recording) and report.html. Times are in seconds.
    `spikecdl inspect FILE` shows units, trials and columns, and suggests --bin and --length.
    """
    from spikecdl.estimator import DCEA
    from spikecdl.model.families import from_text
    from spikecdl.model.penalties import PENALTIES
    from spikecdl.report import fit_summary, summary, verdict
    from spikecdl.training.distributed import joined
    from spikecdl.validation import one_of

    model = DCEA(
        templates,
        length,
        from_text(family) if ":" in family else family,
        layout=layout,
        penalty=PENALTIES[one_of("penalty", penalty, PENALTIES)](sign=sign),
        penalty_weight=weight,
        baseline=_baseline(baseline),
        history=options.past(history, history_sign, history_common),
        drift=drift,
        n_epochs=epochs,
        device=device,
        random_state=seed,
    )
    selection = Selection(
        pool_trials, align, window, units, trials, table, follow_links, events, within
    )
    checkpoint = out / "checkpoint.safetensors"
    with joined() as processes:
        if processes.rank > 0:  # of several processes (torchrun), the first writes and prints
            selected = Recordings.read(selection, files, bin, layout).whole
            model.set_params(trainer=options.trainer(trainer, model, selected.counts))
            model.fit(selected.counts, checkpoint=checkpoint, resume=resume)
            _held_out(model, selected, folds, lambda fold: None)
            return
        with outputs.results_folder(out, files, overwrite) as unfinished:
            recordings = Recordings.read(selection, files, bin, layout)
            selected = recordings.whole
            model.set_params(trainer=options.trainer(trainer, model, selected.counts))
            _check_repeats(folds, bootstrap, model, selected)
            began = time.perf_counter()
            with outputs.epochs_shown("finding initial templates", as_json) as update:

                def on_epoch(state: Learned) -> None:
                    update(_epoch(state), state.epoch, model.epochs_at_most)

                def on_fold(fold: int) -> None:
                    update(f"without fold {fold + 1} of {folds}", fold, folds)

                model.fit(selected.counts, checkpoint=checkpoint, resume=resume, on_epoch=on_epoch)
                seconds = round(time.perf_counter() - began, 3)
                held_out = _held_out(model, selected, folds, on_fold)
                found = _bands(model, selected, bootstrap, update)
            with outputs.working("writing results", as_json):
                parts = model.decompose(selected.counts)
                each = recordings.found(model)
                about = fit_summary(model, parts, recordings.sources, held_out, found)
                about["settings"] |= selection.described()
                about["data"] |= _short_distances(recordings)
                about = {"command": outputs.command_line(), **about, "seconds": seconds}
                about |= recordings.summary(each) | {"verdict": verdict(about)}
                more = (model, found, recordings.written(each), format)
                outputs.write_results(unfinished, selected, parts, about, *more)
        checkpoint.unlink(missing_ok=True)
    lines = [*summary.fit_lines(about), f"results in {out}/ (start with report.html)"]
    outputs.show(about, lines, as_json)


def _epoch(state: Learned) -> str:
    """Describe the latest epoch."""
    record = state.history[-1]
    events = f", {record['n_events']} events" if "n_events" in record else ""
    return f"epoch {state.epoch}: loss {record['loss']:.5g}{events}"


def _short_distances(recordings: Recordings) -> dict[str, Any]:
    """Return what rules the shortest distances between spikes, and the history to use for it.

    Of the first recording in which something does.
    """
    from spikecdl.data import SpikeTrains
    from spikecdl.suggestions import suggest

    every = [one.data for one in recordings.each.values()]
    found = [suggest(data) for data in every if isinstance(data, SpikeTrains)]
    if not found:
        return {}
    first = next((one for one in found if one.short is not None), found[0])
    return {"short_distances": first.short, "suggested_history": first.history}


def _held_out(
    model: DCEA, selected: Selected, n_folds: int, on_fold: Callable[[int], None]
) -> CrossValidated | str | None:
    """Return the scores of folds that a model was not fitted to, or why there are none."""
    from spikecdl.evaluation.crossvalidation import divide

    if n_folds == 0:
        return None
    try:
        folds = divide(selected.counts, model.family, n_folds, selected.single_trials)
    except ValueError as error:
        return str(error)
    return folds.fit(model, on_fold)


def _check_repeats(folds: int, bootstrap: int, model: DCEA, selected: Selected) -> None:
    """Raise before the fit if there would be no scores of folds or no bands after it."""
    from spikecdl.evaluation.bands import check_resamples
    from spikecdl.validation import integer

    if folds:
        integer("folds", folds, minimum=2)
    if bootstrap:
        check_resamples(bootstrap, model, selected.counts)


def _bands(
    model: DCEA, selected: Selected, n: int, update: Callable[[str, int, int | None], None]
) -> Bands | None:
    """Return the bands of the templates, if they are asked for."""
    from spikecdl.evaluation.bands import bands

    def on_resample(number: int) -> None:
        if (number + 1) % max(1, n // 10) == 0:
            update(f"resample {number + 1} of {n}", number + 1, n)

    return bands(model, selected.counts, n, on_resample=on_resample) if n else None


def _baseline(text: str) -> str | float | tuple[float, float] | list[float]:
    """Return the baseline that an option means."""
    if text == "learned":
        return text
    try:
        if ":" in text:
            start, stop = text.split(":")
            return float(start), float(stop)
        rates = [float(rate) for rate in text.split(",")]
    except ValueError:
        raise ValueError(
            f"`baseline` (={text!r}) must be learned, START:STOP in seconds, or rates in Hz "
            "separated by commas"
        ) from None
    return rates if len(rates) > 1 else rates[0]


def demo(
    out: options.Out = Path("spikecdl-demo"),
    seed: options.Seed = 0,
    device: options.Device = "auto",
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Fit the recording that comes with spikecdl, as a check.

    The recording is simulated, so the result is compared with the truth.
    """
    from spikecdl import datasets

    more: dict[str, Any] = {"seed": seed, "device": device}
    more |= {"overwrite": overwrite, "as_json": as_json}
    fit([datasets.demo()], out, 0.05, 0.001, 3, "binomial", pool_trials=True, **more)


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
    follow_links: options.FollowLinks = False,
    events: options.Events = None,
    within: options.Within = None,
    device: options.Device = "auto",
    format: options.Format = options.Picture.PNG,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Find the events of a fitted model in another recording.

    Writes summary.json, figures of rates, codes and events, and results.nwb to --out. Uses the
    model's bin size.
    """
    from spikecdl.report import summary

    if (out / "model.safetensors").exists():
        raise ValueError(f"`out` (={str(out)!r}) holds a fit; choose another folder")
    selection = Selection(
        pool_trials, align, window, units, trials, table, follow_links, events, within
    )
    working = outputs.working("finding events", as_json)
    with outputs.results_folder(out, [file], overwrite) as unfinished, working:
        selected, parts, about = _scored(model, file, selection, device)
        outputs.write_results(unfinished, selected, parts, about, format=format)
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
    follow_links: options.FollowLinks = False,
    events: options.Events = None,
    within: options.Within = None,
    device: options.Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Measure how well a fitted model explains a recording.

    Prints the deviance explained in all bins, and in bins that were hidden when events were found
    (held out only if the model was fitted to other trials).
    For counts, also tests in rescaled time (Kolmogorov-Smirnov) whether spikes come at the
    model's rate.
    """
    from spikecdl.report import summary

    selection = Selection(
        pool_trials, align, window, units, trials, table, follow_links, events, within
    )
    with outputs.working("finding events, scoring hidden bins", as_json):
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
    follow_links: options.FollowLinks = False,
    device: options.Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Compare a fitted model with the truth of a simulation.

    Prints the error of each template, at the best order and shift, and how many events were found.
    """
    from spikecdl.report import summary

    selection = Selection(pool_trials, units=units, trials=trials, follow_links=follow_links)
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

    model = load(path).set_params(device=device)
    data = selection.read(file)
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


def experiment(
    name: Annotated[str, argument("NAME", _EXPERIMENTS)],
    out: options.Out,
    quick: Annotated[bool, flag("--quick", "Run a small version, in under two minutes.")] = False,
    data: Annotated[
        Path | None, option("FOLDER", "Recordings, for the experiments that need them.")
    ] = None,
    seed: options.Seed = 0,
    format: options.Format = options.Picture.PNG,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Run an experiment, with comparison methods.

    Writes table.csv, figures and summary.json to --out.
    """
    from rich.console import Console

    from spikecdl import experiments
    from spikecdl.report.summary import versions

    console = Console(stderr=True, quiet=as_json)
    settings = experiments.Options(
        quick, seed, data, lambda text: console.print(text, highlight=False, soft_wrap=True)
    )
    began = time.perf_counter()
    with outputs.results_folder(out, [data or Path()], overwrite) as unfinished:
        result = experiments.run(name, settings)
        about = {
            "command": outputs.command_line(),
            "experiment": name,
            "quick": quick,
            "versions": versions(),
            "seed": seed,
            "seconds": round(time.perf_counter() - began, 3),
        }
        found = result.write(unfinished, about, format.value)
    outputs.show(found, [*result.findings, f"results in {out}/"], as_json)
