"""Thalamic units under periodic whisker deflection: DCEA and its comparison methods.

Models are fitted to the pooled counts of some trials of a stimulus; the rates that they give are
scored on the other trials.  A trial has 16 deflections at known times, which only some of the
comparison methods are given.  Smoothing, basis and ridge of these are chosen by cross-validation
over the fitted trials.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from spikecdl.baselines import BCOMP, GLM, PSTH, Basis, ConstantRate, onsets
from spikecdl.config import LayoutName
from spikecdl.data import BinnedSpikes, Decomposition
from spikecdl.estimator import DCEA
from spikecdl.evaluation import heldout
from spikecdl.evaluation.crossvalidation import divide, ratio
from spikecdl.evaluation.goodness_of_fit import rescale
from spikecdl.experiments import Options, Result, findings, whisker_trials
from spikecdl.experiments.whisker_trials import ONSETS, Recording, after_onsets
from spikecdl.plots import style

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

FAMILY: Final = "binomial"
LENGTH = float(ONSETS[1] - ONSETS[0])  # of the template: the period of the stimulus, in seconds
OTHER_LENGTHS = (0.075, 0.1, 0.15)
SMOOTHING = (0.0, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03)  # widths of the PSTH, seconds
SIZES = (6, 8, 12, 16, None)  # functions of a GLM's response; None: a free value in each bin
RIDGES = (1e-3, 0.03, 1.0, 30.0)


class Method(NamedTuple):
    """Models by the name of their settings, made from a recording and a seed.

    If there are several, one is chosen by `chosen`.  ``apart``: for each unit.
    """

    name: str
    make: Callable[[Recording, int], Mapping[str, Any]]
    apart: bool = False


def _dcea(n_templates: int, layout: LayoutName, length: float = LENGTH) -> Callable[..., Mapping]:
    return lambda _, seed: {"": DCEA(n_templates, length, FAMILY, layout=layout, random_state=seed)}


def _of_length(length: float) -> str:
    return f"DCEA, {1e3 * length:g} ms"


def _glm(stimulus: Callable[[Recording], Any]) -> Callable[..., Mapping]:
    return lambda recording, _: {
        f"{size or 'free'}, {ridge:g}": GLM(
            FAMILY, stimulus=stimulus(recording), response=Basis(LENGTH, size), ridge=ridge
        )
        for size in SIZES
        for ridge in RIDGES
    }


OURS, KNOWN_ONSETS = "DCEA", "GLM, known onsets"
METHODS = (
    Method("constant rate", lambda *_: {"": ConstantRate()}),
    Method("PSTH", lambda *_: {f"{1e3 * s:g} ms": PSTH(s) for s in SMOOTHING}, apart=True),
    Method("GLM, stimulus", _glm(lambda recording: recording.stimulus[:, None, None]), apart=True),
    Method(KNOWN_ONSETS, _glm(lambda _: onsets(ONSETS)), apart=True),
    Method("BCOMP", lambda _, seed: {"": BCOMP(1, LENGTH, FAMILY, random_state=seed)}, apart=True),
    Method(OURS, _dcea(1, "joint")),
    *(Method(_of_length(each), _dcea(1, "joint", each)) for each in OTHER_LENGTHS),
    Method("DCEA, two templates", _dcea(2, "joint")),
    Method("DCEA, units apart", _dcea(1, "shared"), apart=True),
    Method("DCEA, one waveform", _dcea(1, "shared")),
)


def chosen(models: Mapping[str, Any], trials: BinnedSpikes) -> tuple[str, Any]:
    """Return the model, and its name, that predicts trials best to which it is not fitted.

    Each of five parts of the trials is left out in turn; the others are pooled for the fit.
    """
    if len(models) == 1:
        return next(iter(models.items()))
    folds = divide(trials.pool(), FAMILY, 5, trials)
    return max(models.items(), key=lambda item: folds.fit(item[1]).deviance_explained)


class Fit(NamedTuple):
    """A method fitted to a unit of a recording."""

    row: dict[str, Any]  # of the table, without its lead
    lost: np.ndarray  # deviance of each single test trial, (trial,)
    null: float  # deviance of the null model of the pooled test trials
    intervals: np.ndarray  # of single test trials, rescaled and sorted
    rates: tuple[np.ndarray, np.ndarray] | None  # counted and fitted after deflections, if it can


def run(options: Options) -> Result:
    """Fit every method to every recording and split (quick: two recordings, one split)."""
    import pandas as pd

    names, splits = whisker_trials.RECORDINGS, list(whisker_trials.SPLITS)
    if options.quick:
        names, splits = names[1::3], splits[:1]
    fits: list[Fit] = []
    judged: list[dict[str, Any]] = []
    generator = np.random.default_rng(options.random_state)
    for recording in whisker_trials.load(options.data, names):
        for split in splits:
            options.say(f"{recording.name}, trials {split}")
            for method in METHODS:
                fits += fit_method(recording, split, method, options.random_state, generator)
        options.say(f"{recording.name}, single trials")
        judged += whisker_trials.judge(recording, splits[0], options.random_state)
    table, single = with_leads(fits), pd.DataFrame(judged)
    first = [fit for fit in fits if fit.row["split"] == splits[0]]
    of_first = table[table["split"] == splits[0]]
    return Result(
        table=table,
        figures={
            "scores": scores(of_first),
            "templates": templates(first),
            "intervals": intervals(first),
        },
        settings={
            "recordings": list(names),
            "splits": splits,
            "bin_size": Recording.bin_size,
            "template_length": LENGTH,
            "template_length_single_trials": whisker_trials.LENGTH,
            "family": FAMILY,
            "onset_tolerance": Recording.tolerance,
        },
        findings=[
            *findings("whisker", of_first, OURS, KNOWN_ONSETS, Recording.tolerance),
            *findings("single_trials", single, whisker_trials.HISTORY),
        ],
        more={"single_trials": single},
    )


def fit_method(
    recording: Recording, split: str, method: Method, seed: int, generator: np.random.Generator
) -> Iterator[Fit]:
    """Yield the fit of each unit, all together or one by one."""
    fitted, test = recording.split(split)
    every = list(range(fitted.n_units))
    for units in [[unit] for unit in every] if method.apart else [every]:
        trials, single = fitted.select(units=units), test.select(units=units)
        began, pooled = time.perf_counter(), trials.pool()
        settings, model = chosen(method.make(recording, seed), trials)
        model.fit(pooled)
        seconds = time.perf_counter() - began
        scored = heldout.transfer(model, pooled, single.pool(), FAMILY)
        of_single = heldout.transfer(model, pooled, single, FAMILY)
        rescaled = rescale(single, of_single.mean, FAMILY)
        parts = model.decompose(pooled) if hasattr(model, "decompose") else None
        for index, unit in enumerate(pooled.unit_ids):
            row = {
                "recording": recording.name,
                "unit": unit,
                "split": split,
                "method": method.name,
                "deviance_explained": scored.deviance_explained_per_unit[index],
                "settings": settings,  # chosen by cross-validation
                "bits_per_spike": scored.bits_per_spike_per_unit[index],
                "ks_distance": rescaled.distance[index],
                "ks_band": rescaled.band[index],
            }
            rates = None
            if parts is not None:
                counted = after_onsets(parts.counts.rate()[0, index], parts)
                rates = counted, after_onsets(parts.rate[0, index], parts)
                row |= _event_scores(parts, index, rates[1], generator)
            row["seconds"] = seconds  # time to fit
            lost, null = of_single.deviances[0, :, index], float(scored.deviances[1, 0, index])
            yield Fit(row, lost, null, np.sort(rescaled.uniforms[index]), rates)


def with_leads(fits: Sequence[Fit]) -> pd.DataFrame:
    r"""Return the table, with a comparison of DCEA to the other methods on the same trials.

    ``lead`` is the deviance explained by DCEA minus that of the other method, on pooled test
    trials.  With the differences d of deviance in n single trials, whose sum is that of the pooled
    trials, and the deviance D of the null model of the pooled trials, ``lead_se`` is
    :math:`\sqrt{n \operatorname{var}(d)} / D`.
    """
    import pandas as pd

    def where(fit: Fit) -> tuple:
        return tuple(fit.row[name] for name in ("recording", "unit", "split"))

    ours = {where(fit): fit.lost for fit in fits if fit.row["method"] == OURS}
    rows = []
    for fit in fits:
        null = np.full(len(fit.lost), fit.null / len(fit.lost))
        lead, error = ratio(fit.lost - ours[where(fit)], null)
        own = fit.row["method"] == OURS
        rows.append(fit.row if own else {**fit.row, "lead": lead, "lead_se": error})
    return pd.DataFrame(rows)


def _event_scores(
    parts: Decomposition, index: int, response: np.ndarray, generator: np.random.Generator
) -> dict[str, float]:
    """Describe the response of a unit to a deflection, and the onsets that its events hit."""
    counts = parts.counts
    codes = parts.codes[0, index if parts.layout == "shared" else 0]
    times = [counts.times[np.flatnonzero(of_template)] for of_template in codes]
    window = counts.duration, counts.bin_size
    return {
        "peak_hz": float(response.max()),
        "peak_ms": 1e3 * counts.bin_size * (int(response.argmax()) + 0.5),
        "n_events": sum(map(len, times)),
        **whisker_trials.onset_hits(times, ONSETS, *window, generator),
    }


@style.styled
def scores(table: pd.DataFrame) -> Figure:
    """Draw the deviance explained of each unit and stimulus, with a mark for each method."""
    rows = table[~table["method"].isin(["constant rate", *map(_of_length, OTHER_LENGTHS)])]
    place = rows.groupby(["recording", "unit"], sort=False).ngroup()
    ax = style.axes_array(None, (1, 1), (style.PAGE, 3.9))[0, 0]
    for number, (method, of_method) in enumerate(rows.groupby("method", sort=False)):
        main, ours = method == "DCEA", "DCEA" in method
        ax.plot(
            place[of_method.index] + (number - 3.5) * 0.08,
            of_method["deviance_explained"],
            "osD^vP*Xh"[number],
            color=style.PALETTE[1] if ours else style.PALETTE[(0, 2, 3, 5)[number % 4]],
            markerfacecolor=None if main else "none",
            markersize=8 if main else 6,
            zorder=3 if main else 2,
            label=method,
        )
    units = rows[["recording", "unit"]].drop_duplicates().itertuples(index=False)
    names = [f"{recording.replace('_', chr(10))}\nunit {unit}" for recording, unit in units]
    ax.set(xticks=range(len(names)), xticklabels=names, ylabel="deviance explained, test trials")
    ax.set_xlim(-0.5, len(names) - 0.5)
    ax.grid(axis="y", color=style.UNSEEN)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4)
    return ax.figure


@style.styled
def templates(fits: Sequence[Fit]) -> Figure:
    """Draw the mean rate after a deflection, as counted and as fitted by DCEA."""
    ours = [fit for fit in fits if fit.row["method"] == OURS]
    axes = style.wrapped(None, len(ours), 3, (style.PAGE, 1.8), sharex=True)
    for ax, fit in zip(axes, ours, strict=True):
        assert fit.rates is not None
        measured, fitted = fit.rates
        edges = 1e3 * Recording.bin_size * np.arange(len(measured) + 1)
        ax.stairs(measured, edges, fill=True, color=style.DATA, alpha=0.6, label="counted")
        line = {"color": style.PALETTE[1], "linewidth": 1.6, "baseline": None}
        ax.stairs(fitted, edges, label="DCEA", **line)
        ax.set_ylim(bottom=0)
    return _labelled(axes, ours, "time from the deflection (ms)", "rate (Hz)")


@style.styled
def intervals(fits: Sequence[Fit]) -> Figure:
    """Draw quantiles of the rescaled intervals of test trials minus those of the uniform law."""
    colours = {"DCEA": style.PALETTE[1], "PSTH": style.PALETTE[0], "constant rate": style.MUTED}
    ours = [fit for fit in fits if fit.row["method"] == OURS]
    axes = style.wrapped(None, len(ours), 3, (style.PAGE, 1.8), sharex=True, sharey=True)
    for ax, own in zip(axes, ours, strict=True):
        same = {"recording": own.row["recording"], "unit": own.row["unit"]}
        for fit in fits:
            if fit.row["method"] in colours and fit.row.items() >= same.items():
                expected = (np.arange(len(fit.intervals)) + 0.5) / len(fit.intervals)
                name = fit.row["method"]
                ax.plot(expected, fit.intervals - expected, color=colours[name], label=name)
        band = own.row["ks_band"]
        ax.axhspan(-band, band, color=style.UNSEEN, zorder=0)
    return _labelled(axes, ours, "quantile of the uniform law", "difference")


def _labelled(axes: np.ndarray, fits: Sequence[Fit], xlabel: str, ylabel: str) -> Figure:
    """Add titles, labels of the outer panels and a legend, and return the figure."""
    for ax, fit in zip(axes, fits, strict=True):
        title = f"{fit.row['recording']}, {style.unit_title(fit.row['unit'])}"
        ax.set(title=title, xlabel=xlabel, ylabel=ylabel)
    style.label_outer(axes, 3)
    return style.legend_outside(axes[0])
