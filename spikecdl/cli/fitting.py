"""What `spikecdl fit` does besides the fit itself: checks, folds, bands, and what it tells."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from spikecdl.cli.options import Selected
from spikecdl.cli.progress import Progress
from spikecdl.cli.several import Recordings

if TYPE_CHECKING:
    from spikecdl.estimator import DCEA
    from spikecdl.evaluation.bands import Bands
    from spikecdl.evaluation.crossvalidation import CrossValidated
    from spikecdl.training import Learned

START = "choosing a start"  # stage before the first epoch


def steps_told(progress: Progress) -> AbstractContextManager[None]:
    """Tell of the steps of choosing a start; some know their number, as in "start 3 of 8"."""
    from spikecdl.training.steps import told

    count = itertools.count(1)

    def on_step(name: str) -> None:
        if progress.state.stage == START:
            number = re.search(r"(\d+) of (\d+)$", name)
            done, total = (int(number[1]) - 1, int(number[2])) if number else (0, None)
            progress(name if number else f"step {next(count)}, {name}", done, total)

    return told(on_step)


def epochs_told(model: DCEA, progress: Progress) -> Callable[[Learned], None]:
    """Return what tells of each epoch of a fit."""

    def on_epoch(state: Learned) -> None:
        if progress.state.stage != "training":
            progress.begin("training")
        progress(_epoch(state, model.epochs_at_most), state.epoch, model.epochs_at_most)

    return on_epoch


def _epoch(state: Learned, last: int) -> str:
    """Describe the latest epoch."""
    record = state.history[-1]
    events = f", {record['n_events']} events" if "n_events" in record else ""
    return f"epoch {state.epoch} of at most {last}, loss {record['loss']:.5g}{events}"


def short_distances(recordings: Recordings) -> dict[str, Any]:
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


def held_out(
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


def check_repeats(folds: int, bootstrap: int, model: DCEA, selected: Selected) -> None:
    """Raise before the fit if there would be no scores of folds or no bands after it."""
    from spikecdl.evaluation.bands import check_resamples
    from spikecdl.validation import integer

    if folds:
        integer("folds", folds, minimum=2)
    if bootstrap:
        check_resamples(bootstrap, model, selected.counts)


def bands(model: DCEA, selected: Selected, n: int, progress: Progress) -> Bands | None:
    """Return the bands of the templates, if they are asked for."""
    from spikecdl.evaluation import bands as bootstrap

    def on_resample(number: int) -> None:
        progress(f"{number + 1} of {n}", number + 1, n)

    if not n:
        return None
    progress.begin("fitting to resampled trials")
    return bootstrap.bands(model, selected.counts, n, on_resample=on_resample)


def baseline(text: str) -> str | float | tuple[float, float] | list[float]:
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
