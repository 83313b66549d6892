"""What the numbers of a fit amount to, in plain sentences that say what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from spikecdl.suggestions import SHORT_DISTANCES, history_option

_FEW_EVENTS = 10
_FAR_ABOVE = 3.0  # in-sample deviance explained, as a multiple of the held-out one
_NEAR = 10.0  # nats between two starts, of which either may be right
_DIFFERENT = 0.5  # mean error between templates of folds, above which they are other shapes


def verdict(summary: Mapping[str, Any]) -> list[str]:
    """Judge a fit by its summary: one sentence per reason for doubt, or one calm sentence.

    Doubts are: not better than a constant rate on held-out data by two standard errors, in the
    evidence or, without it, in the deviance explained;
    fewer than 10 events of a template; in-sample scores far above held-out ones; templates that
    differ between folds (mean error above 0.5), or between starts that are within 10 nats; nothing
    held out; bursts or refractoriness, of
    single trials fitted without history.

    Parameters
    ----------
    summary : mapping
        As made by `fit_summary`.

    Examples
    --------
    >>> found = {"deviance_explained": 0.1, "standard_error": 0.01, "n_folds": 3, "how": "trials"}
    >>> found["template_errors"] = [[0.1], [0.2], [0.1]]
    >>> known = {"deviance_explained": 0.2, "events_per_template": [50]}
    >>> verdict({**known, "held_out": found})
    ['Data that were held out are predicted better than by a constant rate, and the templates of
      3 folds agree.']
    """
    held_out = summary.get("held_out", {"n_folds": 0})
    doubts = [
        *(_of_folds(summary, held_out) if held_out["n_folds"] else [_nothing_held_out(held_out)]),
        *_of_starts(**summary.get("starts", {"template_errors": [], "gap_nats": 0.0})),
        *_of_events(summary["events_per_template"]),
        *_of_short_distances(summary),
    ]
    return doubts or [
        "Data that were held out are predicted better than by a constant rate, and the templates "
        f"of {held_out['n_folds']} folds agree."
    ]


def _nothing_held_out(held_out: Mapping[str, Any]) -> str:
    reason = f" ({held_out['why']})" if held_out.get("why") else ""
    return (
        f"Nothing was held out{reason}, so these numbers do not say whether the model predicts "
        "new data: fit with --folds 3, or evaluate it on other trials."
    )


def _of_folds(summary: Mapping[str, Any], held_out: Mapping[str, Any]) -> Iterator[str]:
    explained, in_sample = held_out["deviance_explained"], summary["deviance_explained"] or 0.0
    score, error = explained, held_out["standard_error"]
    if held_out.get("evidence_gain") is not None:
        score, error = held_out["evidence_gain"], held_out["evidence_gain_error"]
    if score is None or score - 2 * (error or 0.0) <= 0:
        yield (
            "Nothing was found that clearly predicts held-out data better than a constant rate: do "
            "not rely on these templates. Try pooled trials, larger bins or fewer templates; "
            "`spikecdl select` compares them."
        )
    elif explained is not None and in_sample > _FAR_ABOVE * max(explained, 0.0):
        yield (
            f"The deviance explained of the fitted data ({in_sample:.3f}) is "
            f"far above that of held-out data ({explained:.3f}): many events fit noise. Use fewer "
            "templates, pooled trials or more data."
        )
    errors = [sum(each) / len(each) for each in zip(*held_out["template_errors"], strict=True)]
    apart = [number for number, error in enumerate(errors) if error > _DIFFERENT]
    if apart:
        worst = max(errors[number] for number in apart)
        yield (
            f"{_templates(apart)} differ{'s' * (len(apart) == 1)} between the "
            f"{held_out['n_folds']} folds (mean error up to {worst:.2f}; below 0.2 two shapes look "
            "the same): the data do not determine it. Use fewer templates or more data; or "
            "shorter templates, if events follow one another without a gap."
        )


def _of_starts(template_errors: Sequence[float], gap_nats: float) -> Iterator[str]:
    apart = [number for number, error in enumerate(template_errors) if error > _DIFFERENT]
    if apart and gap_nats < _NEAR:
        yield (
            f"{_templates(apart)} differ{'s' * (len(apart) == 1)} between two starts of the search "
            f"(error up to {max(template_errors):.2f}) that explain the data almost equally well "
            f"({gap_nats:.1f} nats apart): use fewer templates or more data."
        )


def _of_events(per_template: Sequence[int]) -> Iterator[str]:
    few = [number for number, events in enumerate(per_template) if events < _FEW_EVENTS]
    if few:
        has = "has" if len(few) == 1 else "have"
        yield (
            f"{_templates(few)} {has} fewer than {_FEW_EVENTS} events: too few to trust the shape. "
            "Ask for fewer templates, or use more data."
        )


def _of_short_distances(summary: Mapping[str, Any]) -> Iterator[str]:
    data, settings = summary.get("data", {}), summary.get("settings", {})
    short = data.get("short_distances")
    if short and settings.get("history") is None and data["n_pooled"] == 1:
        yield (
            f"In these data {SHORT_DISTANCES[short]}, which the model may take for events, or miss "
            f"events by: fit with {history_option(short, data['suggested_history'])}."
        )


def _templates(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return f"Template {numbers[0]}"
    return f"Templates {', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"
