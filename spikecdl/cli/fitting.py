"""`spikecdl fit` and `demo`: learn templates, with folds and bands, and write what was learned."""

from __future__ import annotations

import time
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from spikecdl.cli import outputs
from spikecdl.cli.options import Device, Process, Seed, argument, option, per_template
from spikecdl.cli.windows import Recordings, Selected, Selection
from spikecdl.progress import START, Progress, showing_epochs, showing_steps, shown
from spikecdl.validation import integer, one_of, seconds

if TYPE_CHECKING:
    from spikecdl.data import BinnedSpikes
    from spikecdl.estimator import DCEA
    from spikecdl.evaluation.crossvalidation import CrossValidated

Files = Annotated[
    list[Path], argument("FILE", "Recordings: NWB, npz, Phy folders, or any format that Neo reads.")
]


@dataclass(frozen=True, kw_only=True)
class Settings(Seed, Device):
    """The model of `fit` and `select`, but for its templates, and how it is trained.

    Data
    ----
    bin_size : SECONDS
        Bin size, as in 0.005 or 5ms. Default of fit: that of the file, if it holds bins, or what
        `spikecdl inspect` suggests.

    Model
    -----
    nonnegative : YES,NO
        Keep templates from falling below zero: yes, or a value for each template, as in yes,no.
    most_events : NUMBER
        Events kept in a window: those that gain most, or with marginal training the most probable
        ones. Default: all.
    history : SECONDS
        How far back a unit's own spikes change its rate. Single trials only, as the next ones;
        auto: chosen by the evidence with and without; or none.
    history_sign : NAME
        negative: a spike can only lower the rate; both: raise it, too (bursts).
    history_common
        One history filter for all units, not one for each.
    drift : SECONDS
        Time between the knots of a slow log rate; auto or none.
    bursts : SECONDS
        How long after a spike others of its burst follow; auto or none.
    dispersion : NAME
        auto: counts of the Poisson family are more variable if the evidence says so; none.

    Training
    --------
    trainer : NAME
        alternating; marginal, with events summed out; unrolled, as in the paper; implicit, its
        limit of infinitely many layers; or auto: marginal for counts, except for many bins of
        pooled trials, else alternating.
    n_folds : NUMBER
        Parts of the trials that are held out in turn, each for another fit that is scored on it. 0
        (fit only): none.
    """

    bin_size: str | None = option(None, "--bin")
    nonnegative: str | None = option(None, values="yes no")
    most_events: int | None = option(None, min=1)
    history: str = option("auto", values="auto none")
    history_sign: str = option("negative", values="negative both")
    history_common: bool = False
    drift: str = option("auto", values="auto none")
    bursts: str = option("auto", values="auto none")
    dispersion: str = option("auto", values="auto none")
    timing: str = option("auto", values="auto none")
    trainer: str = option("auto", values="auto alternating marginal unrolled implicit")
    n_folds: int = option(3, "--folds", min=0)

    def estimator(self, process: Process, **more: Any) -> DCEA:
        """Return an estimator with these settings and others; `set_trainer` completes it."""
        from spikecdl.config import INGREDIENTS
        from spikecdl.estimator import DCEA
        from spikecdl.model.families import from_text
        from spikecdl.model.history import History

        asked = {name: getattr(self, name, "auto") for name in INGREDIENTS}  # signals are of data
        given: dict[str, Any] = {name: _ingredient(name, text) for name, text in asked.items()}
        given["family"] = from_text(process.family) if ":" in process.family else process.family
        given["layout"] = process.layout
        if isinstance(past := given["history"], float):
            given["history"] = History(past, sign=self.history_sign, common=self.history_common)
        return DCEA(
            **given,
            device=self.device,
            random_state=self.random_state,
            **more,
        )

    def set_trainer(self, model: DCEA, counts: BinnedSpikes, *n_templates: int) -> None:
        """Set the trainer of a model for these counts, with what other options ask of it.

        Raises ValueError if the trainer does not use it, or not for as many templates.
        """
        from spikecdl import suggestions
        from spikecdl.training import TRAINERS

        name = suggestions.trainer(self.trainer, model, counts)
        kind = TRAINERS[one_of("trainer", name, TRAINERS)]
        given: dict[str, Any] = {}
        if self.nonnegative is not None:
            values = per_template("nonnegative", self.nonnegative, ("yes", "no"), *n_templates)
            bounds = tuple(each == "yes" for each in values)
            given["nonnegative"] = bounds if len(bounds) > 1 else bounds[0]
        if self.most_events is not None:
            given["most_events"] = self.most_events
        for each in given:
            if not hasattr(kind, each):
                raise ValueError(
                    f"`{each}` (={getattr(self, each)!r}) is not used by trainer={name!r}; use "
                    "trainer='alternating' or 'marginal'"
                )
        model.set_params(trainer=kind(**given) if given else name)


@dataclass(frozen=True, kw_only=True)
class Templates(Process):
    """The templates that `fit` learns, and the process that they are learned from.

    Model
    -----
    template_length : SECONDS
        Length of the templates, in whole bins; as in 0.125 or 125ms. auto: what `spikecdl inspect`
        suggests for the (first) recording.
    n_templates : NUMBER
        Number of templates.
    """

    template_length: str = option("auto", "--length", values="auto")
    n_templates: int = option(1, "--templates")


@dataclass(frozen=True, kw_only=True)
class FitSettings(Settings):
    """The model of `fit`, and how it is trained.

    Model
    -----
    penalty_weight : FRACTION
        Penalty weight as a fraction of lambda_max, above which there are no events. Default: chosen
        from the noise and by held-out likelihood.
    penalty : NAME
        l1; or group_l1: units fire together.
    sign : NAME
        Amplitudes: positive, negative or both; or a value for each template, as in
        positive,negative.
    baseline : HOW
        learned; START:STOP, the mean rate between these times of each window; a rate in Hz; or a
        rate for each unit, as in 8,5.5,12.
    onset : FRACTION
        Let templates begin where they rise above this fraction of their largest change (0.2, say),
        not where their window happens to lie.

    Training
    --------
    n_epochs : NUMBER
        Largest number of epochs. Default: the trainer's.
    n_bootstrap : NUMBER
        Resamples of the trials (200, say) from which bands of the templates are computed. 0: none.
    calibrate
        Fit counts drawn from the model, too, to check the probabilities of events.
    resume
        Continue from the checkpoint of an interrupted fit.
    """

    penalty_weight: float | None = option(None, "--lambda")
    penalty: str = option("l1", values="l1 group_l1")
    sign: str = option("positive", values="positive negative both")
    baseline: str = "learned"
    onset: float | None = option(None, min=0.01, max=0.99)
    n_epochs: int | None = option(None, "--epochs")
    n_bootstrap: int = option(0, "--bootstrap", min=0)
    calibrate: bool = False
    resume: bool = False

    def or_suggested(
        self, templates: Templates, selection: Selection, file: Path
    ) -> tuple[FitSettings, Templates, dict[str, float]]:
        """Return settings and templates with the bin size and the length that were left out.

        And these two, if one was left out.
        """
        from spikecdl.data import SpikeTrains
        from spikecdl.suggestions import suggest

        auto = templates.template_length == "auto"
        data = selection.read(file) if auto or self.bin_size is None else None
        if not isinstance(data, SpikeTrains):
            if auto:
                raise ValueError(
                    "`template_length` (='auto') needs spike times; the file holds bins, so give "
                    "it in seconds"
                )
            return self, templates, {}
        size = None if self.bin_size is None else seconds("bin_size", self.bin_size)
        length = None if auto else seconds("template_length", templates.template_length)
        found = suggest(data).in_bins(size, length)
        named = {"bin": found.bin_size, "length": found.length}
        texts = (f"{value:.9g}" for value in named.values())
        settings = replace(self, bin_size=next(texts))
        return settings, replace(templates, template_length=next(texts)), named

    def model(self, templates: Templates) -> DCEA:
        """Return an estimator of templates with these settings; see `Settings.estimator`."""
        from spikecdl.model.penalties import PENALTIES, SIGNS

        signs = per_template("sign", self.sign, SIGNS, templates.n_templates)
        penalty = PENALTIES[one_of("penalty", self.penalty, PENALTIES)]
        return self.estimator(
            templates,
            n_templates=templates.n_templates,
            template_length=seconds("template_length", templates.template_length),
            penalty=penalty(sign=signs if len(set(signs)) > 1 else signs[0]),
            penalty_weight=self.penalty_weight,
            baseline=_baseline(self.baseline),
            n_epochs=self.n_epochs,
        )


def fit(
    files: Files,
    templates: Templates,
    selection: Selection,
    settings: FitSettings,
    results: outputs.Parts,
) -> None:
    """Learn templates from recordings and write results to --out.

    Several recordings share the templates. Writes the model, summary.json, figures, results.nwb (of
    each recording) and report.html. Times are in seconds.
    `spikecdl inspect FILE` shows units, trials and columns, and suggests --bin and --length.
    """
    results.begin(*files)
    from spikecdl.data import shift_to_response
    from spikecdl.evaluation.bands import bands as bootstrap
    from spikecdl.evaluation.checks import CheckWarning
    from spikecdl.report import fit_summary, summary, verdict
    from spikecdl.solvers.parallel import joined

    settings, templates, suggested = settings.or_suggested(templates, selection, files[0])
    model = settings.model(templates)
    checkpoint = results.out / "checkpoint.safetensors"
    how: dict[str, Any] = {"checkpoint": checkpoint, "resume": settings.resume}
    how["calibrate"] = settings.calibrate
    warnings.simplefilter("ignore", CheckWarning)  # the verdict says it

    def read() -> Recordings:
        found = Recordings.read(selection, files, settings.bin_size, templates.layout)
        settings.set_trainer(model, found.whole.counts, templates.n_templates)
        return found

    with joined() as processes:
        if processes.rank > 0:  # of several processes (torchrun), the first writes and prints
            selected = read().whole
            model.fit(selected.counts, **how)
            _held_out(model, selected, settings.n_folds, Progress("not shown"))
            return
        with results.folder(*files) as unfinished:
            recordings = read()
            selected = recordings.whole
            _check_repeats(model, selected, settings)
            began = time.perf_counter()
            with shown(START, results.as_json) as progress, showing_steps(progress):
                on_epoch = showing_epochs(progress, model.epochs_at_most)
                model.fit(selected.counts, on_epoch=on_epoch, **how)
                if settings.onset is not None:
                    model = shift_to_response(model, settings.onset)
                took = round(time.perf_counter() - began, 3)
                held_out = _held_out(model, selected, settings.n_folds, progress)
                bands = None
                if n := settings.n_bootstrap:
                    progress.begin("fitting to resampled trials")
                    bands = bootstrap(
                        *(model, selected.counts, n),
                        on_resample=lambda done: progress(f"{done + 1} of {n}", done + 1, n),
                        single_trials=selected.single_trials if selected.pooled else None,
                    )
                progress.begin("finding events")
                parts = model.decompose(selected.counts)
                each = recordings.found(model)
                progress.begin("scoring")
                about = fit_summary(model, parts, files, held_out, bands)
                about["settings"] |= {"onset": settings.onset, **asdict(selection)}
                about = {"command": outputs.command_line(), **about, "seconds": took}
                about |= recordings.summary(each)
                if suggested:
                    about["suggested"] = suggested
                about["verdict"] = verdict(about)
                progress.begin("writing results")
                more: dict[str, Any] = {"model": model, "bands": bands, "each": each}
                outputs.write_results(unfinished, selected, parts, about, results, **more)
        checkpoint.unlink(missing_ok=True)
    lines = [*summary.lines("fit", about), f"results in {results.out}/ (start with report.html)"]
    results.show(about, lines)


@dataclass(frozen=True, kw_only=True)
class Demo(outputs.Parts, Seed, Device):
    """What `demo` prints and writes."""

    out: Path = Path("spikecdl-demo")


def demo(results: Demo) -> None:
    """Fit the recording that comes with spikecdl, as a check.

    The recording is simulated, so the result is compared with the truth.
    """
    from spikecdl import datasets

    fit(
        [datasets.demo()],
        Templates(template_length="0.05", n_templates=3, family="binomial"),
        Selection(pool_trials=True),
        FitSettings(
            bin_size="0.001",
            n_folds=0,  # the truth says how good the fit is
            random_state=results.random_state,
            device=results.device,
        ),
        results,
    )


def _held_out(
    model: DCEA, selected: Selected, n_folds: int, progress: Progress
) -> CrossValidated | str | None:
    """Return the scores of folds that a model was not fitted to, or why there are none."""
    from spikecdl.evaluation.crossvalidation import divide

    if n_folds == 0:
        return None
    try:
        folds = divide(selected.counts, model.family, n_folds, selected.single_trials)
    except ValueError as error:
        return str(error)
    progress.begin("fitting without a part of the data")
    return folds.fit(model, lambda fold: progress(f"{fold + 1} of {n_folds}", fold, n_folds))


def _check_repeats(model: DCEA, selected: Selected, settings: FitSettings) -> None:
    """Raise before the fit if there would be no scores of folds or no bands after it."""
    from spikecdl.evaluation.bands import check_resamples

    if settings.n_folds:
        integer("n_folds", settings.n_folds, minimum=2)
    if settings.n_bootstrap:
        check_resamples(settings.n_bootstrap, model, selected.single_trials)


def _ingredient(name: str, text: str) -> str | float | None:
    """Return what an option of history, drift and the like means."""
    if text in ("auto", "none"):
        return None if text == "none" else text
    return seconds(name, text)


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
