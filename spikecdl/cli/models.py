"""Learn templates, and use fitted models: `spikecdl fit`, `demo`, `apply`, `evaluate`, `compare`.

`experiment` runs the experiments.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

from spikecdl.cli import fitting, options, outputs
from spikecdl.cli.applied import decomposed, scored
from spikecdl.cli.options import Selection, argument, flag, option
from spikecdl.cli.several import Recordings
from spikecdl.experiments import EXPERIMENTS
from spikecdl.progress import START, Progress, compilation_told, epochs_told, shown, steps_told

_EXPERIMENTS = "; ".join(f"{name}: {each.shows}" for name, each in EXPERIMENTS.items())

Model = Annotated[Path, argument("MODEL", "Folder that a fit wrote to, or its model.safetensors.")]


def fit(
    files: options.Files,
    out: options.Out,
    length: Annotated[
        str,
        option(
            "SECONDS",
            "Length of the templates, in whole bins; as in 0.125 or 125ms.",
            group=options.MODEL,
        ),
    ],
    bin: options.Bin = None,
    templates: Annotated[int, option("NUMBER", "Number of templates.", group=options.MODEL)] = 1,
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
            group=options.MODEL,
        ),
    ] = None,
    penalty: Annotated[
        str,
        option(
            "NAME",
            "l1; or group_l1: units fire together.",
            group=options.MODEL,
            values="l1 group_l1",
        ),
    ] = "l1",
    sign: Annotated[
        str,
        option(
            "NAME",
            "Amplitudes: positive, negative or both; or a value for each template, as in "
            "positive,negative.",
            group=options.MODEL,
            values="positive negative both",
        ),
    ] = "positive",
    nonnegative: options.Nonnegative = None,
    most_events: options.MostEvents = None,
    baseline: Annotated[
        str,
        option(
            "HOW",
            "learned; START:STOP, the mean rate between these times of each window; a rate in Hz; "
            "or a rate for each unit, as in 8,5.5,12.",
            group=options.MODEL,
        ),
    ] = "learned",
    history: options.History = None,
    history_sign: options.HistorySign = "negative",
    history_common: options.HistoryCommon = False,
    drift: options.Drift = None,
    trainer: options.Trainer = "auto",
    onset: Annotated[
        float | None,
        option(
            "FRACTION",
            "Let templates begin where they rise above this fraction of their largest change "
            "(0.2, say), not where their window happens to lie.",
            min=0.01,
            max=0.99,
            group=options.MODEL,
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        option(
            "NUMBER", "Largest number of epochs. Default: the trainer's.", group=options.TRAINING
        ),
    ] = None,
    folds: Annotated[
        int,
        option(
            "NUMBER",
            "Parts of the trials that are held out in turn, each for another fit that is scored "
            "on it. 0: none.",
            min=0,
            group=options.TRAINING,
        ),
    ] = 3,
    bootstrap: Annotated[
        int,
        option(
            "NUMBER",
            "Resamples of the trials (200, say) from which bands of the templates are computed. "
            "0: none.",
            min=0,
            group=options.TRAINING,
        ),
    ] = 0,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    resume: Annotated[
        bool,
        flag("--resume", "Continue from the checkpoint of an interrupted fit.", options.TRAINING),
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
    from spikecdl.data.results import shift_to_response
    from spikecdl.estimator import DCEA
    from spikecdl.model.families import from_text
    from spikecdl.report import fit_summary, summary, verdict
    from spikecdl.solvers.distributed import joined

    model = DCEA(
        templates,
        options.seconds("length", length),
        from_text(family) if ":" in family else family,
        layout=layout,
        penalty=options.penalty(penalty, sign, templates),
        penalty_weight=weight,
        baseline=fitting.baseline(baseline),
        history=options.past(history, history_sign, history_common),
        drift=drift,
        n_epochs=epochs,
        device=device,
        random_state=seed,
    )
    selection = Selection(
        pool_trials, align, window, units, trials, table, follow_links, events, within
    )
    checkpoint, asked = out / "checkpoint.safetensors", (nonnegative, most_events, templates)
    with joined() as processes:
        if processes.rank > 0:  # of several processes (torchrun), the first writes and prints
            selected = Recordings.read(selection, files, bin, layout).whole
            fitting.set_trainer(model, trainer, selected.counts, *asked)
            model.fit(selected.counts, checkpoint=checkpoint, resume=resume)
            fitting.held_out(model, selected, folds, Progress("not shown"))
            return
        with outputs.results_folder(out, files, overwrite) as unfinished:
            recordings = Recordings.read(selection, files, bin, layout)
            selected = recordings.whole
            fitting.set_trainer(model, trainer, selected.counts, *asked)
            fitting.check_repeats(folds, bootstrap, model, selected)
            began = time.perf_counter()
            start = shown(START, as_json)
            with start as progress, steps_told(progress):
                on_epoch = epochs_told(progress, model.epochs_at_most)
                model.fit(selected.counts, checkpoint=checkpoint, resume=resume, on_epoch=on_epoch)
                if onset is not None:
                    model = shift_to_response(model, onset)
                seconds = round(time.perf_counter() - began, 3)
                held_out = fitting.held_out(model, selected, folds, progress)
                found = fitting.bands(model, selected, bootstrap, progress)
                progress.begin("finding events")
                parts = model.decompose(selected.counts)
                each = recordings.found(model)
                progress.begin("scoring")
                about = fit_summary(model, parts, recordings.sources, held_out, found)
                about["settings"] |= {"onset": onset, **selection.described()}
                about["data"] |= fitting.short_distances(recordings)
                about = {"command": outputs.command_line(), **about, "seconds": seconds}
                about |= recordings.summary(each) | {"verdict": verdict(about)}
                more = (model, found, recordings.written(each), format)
                progress.begin("writing results")
                outputs.write_results(unfinished, selected, parts, about, *more)
        checkpoint.unlink(missing_ok=True)
    lines = [*summary.fit_lines(about), f"results in {out}/ (start with report.html)"]
    outputs.show(about, lines, as_json)


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
    fit([datasets.demo()], out, "0.05", "0.001", 3, "binomial", pool_trials=True, **more)


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
    own_windows: options.OwnWindows = False,
    device: options.Device = "auto",
    format: options.Format = options.Picture.PNG,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Find the events of a fitted model in another recording.

    Windows are chosen as in the fit, unless options name others.
    Writes summary.json, figures of rates, codes and events, and results.nwb to --out. Uses the
    model's bin size.
    """
    from spikecdl.report import summary

    if (out / "model.safetensors").exists():
        raise ValueError(f"`out` (={str(out)!r}) holds a fit; choose another folder")
    selection = Selection(
        pool_trials, align, window, units, trials, table, follow_links, events, within
    )
    progress = shown("finding events, scoring them", as_json)
    with outputs.results_folder(out, [file], overwrite) as unfinished, progress:
        selected, parts, about = scored(model, file, selection, own_windows, device)
        outputs.write_results(unfinished, selected, parts, about, format=format)
    lines = [*about["windows"], *summary.score_lines(about), f"results in {out}/"]
    outputs.show(about, lines, as_json)


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
    own_windows: options.OwnWindows = False,
    device: options.Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Measure how well a fitted model explains a recording.

    Windows are chosen as in the fit, unless options name others.
    Prints the deviance explained in all bins, and in bins that were hidden when events were found
    (held out only if the model was fitted to other trials).
    For counts, also tests in rescaled time (Kolmogorov-Smirnov) whether spikes come at the
    model's rate.
    """
    from spikecdl.report import summary

    selection = Selection(
        pool_trials, align, window, units, trials, table, follow_links, events, within
    )
    with shown("finding events, scoring hidden bins", as_json):
        *_, about = scored(model, file, selection, own_windows, device)
    outputs.show(about, [*about["windows"], *summary.score_lines(about)], as_json)


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
    own_windows: options.OwnWindows = False,
    device: options.Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Compare a fitted model with the truth of a simulation.

    Windows are chosen as in the fit, unless options name others.
    Prints the error of each template, at the best order and shift, and how many events were found.
    """
    from spikecdl.report import summary

    selection = Selection(pool_trials, units=units, trials=trials, follow_links=follow_links)
    with shown("finding events", as_json):
        found = decomposed(model, truth, selection, own_windows, device)
    parts = found.parts
    if parts.counts.truth is None:
        raise ValueError(f"{truth} holds no truth; `spikecdl simulate` makes files that do")
    about = {"model": str(model), "truth": str(truth), **summary.recovery_summary(parts, tolerance)}
    outputs.show(about, [*found.lines, *summary.recovery_lines(about)], as_json)


def experiment(
    name: Annotated[str, argument("NAME", _EXPERIMENTS, " ".join(EXPERIMENTS))],
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
    folder = outputs.results_folder(out, [data or Path()], overwrite)
    with folder as unfinished, compilation_told(as_json):
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
