"""What `spikecdl fit` does besides the fit itself: checks, folds, bands, and what it tells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spikecdl.cli.options import Selected, per_template
from spikecdl.cli.several import Recordings
from spikecdl.progress import Progress

if TYPE_CHECKING:
    from spikecdl.data import BinnedSpikes
    from spikecdl.estimator import DCEA
    from spikecdl.evaluation.bands import Bands
    from spikecdl.evaluation.crossvalidation import CrossValidated

_YES_OR_NO = ("yes", "no")


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


def set_trainer(
    model: DCEA,
    name: str,
    counts: BinnedSpikes,
    nonnegative: str | None,
    most_events: int | None,
    *n_templates: int,
) -> None:
    """Set the trainer that a name means for these counts, with what other options ask for.

    Raises ValueError if the trainer does not use it, or not for as many templates.
    """
    from spikecdl import suggestions
    from spikecdl.training import TRAINERS
    from spikecdl.validation import one_of

    name = suggestions.trainer(name, model, counts)
    kind = TRAINERS[one_of("trainer", name, TRAINERS)]
    asked: dict[str, Any] = {"nonnegative": nonnegative, "most_events": most_events}
    given = {each: value for each, value in asked.items() if value is not None}
    for each, value in given.items():
        if not hasattr(kind, each):
            raise ValueError(
                f"`{each}` (={value!r}) is not used by trainer={name!r}; use "
                "trainer='alternating' or 'marginal'"
            )
    if nonnegative is not None:
        values = per_template("nonnegative", nonnegative, _YES_OR_NO, *n_templates)
        bounds = tuple(each == "yes" for each in values)
        given["nonnegative"] = bounds if len(bounds) > 1 else bounds[0]
    model.set_params(trainer=kind(**given) if given else name)


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
