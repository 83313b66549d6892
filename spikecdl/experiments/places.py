"""Place cells of mice on a linear track: one template for each direction, an event for each pass.

Nothing but spikes is given to the methods.  A pass is found if the centre of an event of its
direction is in it, or at most half a second away, and no event is taken twice; which template has
which direction is the assignment that finds most.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from spikecdl import baselines, plots
from spikecdl.data import BinnedSpikes
from spikecdl.estimator import DCEA
from spikecdl.experiments import Options, Result, findings, fitted
from spikecdl.plots import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SPEEDS = (0.7, 1.0, 1.4)  # of passes, relative to that of most
_ENDS = (4, 21)  # positions between which the mouse of the CA1 recording runs


@dataclass(frozen=True)
class Passes:
    """A recording of a population, and the passes: first and last frame, and direction."""

    counts: BinnedSpikes
    frames: np.ndarray
    direction: np.ndarray
    length: float  # seconds of a template
    position: np.ndarray | None = None

    @property
    def times(self) -> np.ndarray:
        """Start and stop of each pass in seconds."""
        return self.counts.bin_size * (self.frames + np.array([0, 1]))

    def between(self, start: int, stop: int) -> Passes:
        """Return some bins of the recording, with the passes that are wholly in them."""
        inside = (self.frames[:, 0] >= start) & (self.frames[:, 1] < stop)
        counts = self.counts.counts[:, :, start:stop]
        position = None if self.position is None else self.position[start:stop]
        return Passes(
            BinnedSpikes.from_array(counts, self.counts.bin_size),
            self.frames[inside] - start,
            self.direction[inside],
            self.length,
            position,
        )


class Events(NamedTuple):
    """Template and centre (s) of the events that a method has found."""

    template: np.ndarray
    centre: np.ndarray


def run(options: Options) -> Result:
    """Find the passes of two mice, five times, and of half of a recording with the other half."""
    import pandas as pd

    recordings = _read(options.data)
    seeds = [options.random_state + number for number in range(1 if options.quick else 5)]
    rows: list[dict[str, Any]] = []
    figures: dict[str, Figure] = {}
    for name, passes in itertools.islice(recordings.items(), 1 if options.quick else None):
        for seed in seeds:
            for method, each, events, seconds, model in _found(passes, seed):
                about = {"recording": name, "method": method, "seed": seed}
                found = score(events, each.times, each.direction)
                if model is not None and passes.position is not None:
                    place = decoded(passes, model)
                    found |= _errors(passes, place)
                    if not figures:
                        figures = {"places": _draw(passes, model, events)}
                        figures["decoded"] = _draw_decoded(passes, place)
                        figures["units"] = plots.unit_order(model.unit_table())[0].figure
                rows.append({**about, **found, "seconds": seconds})
                options.say(f"{name}, {method}: {found['hits']} of {found['passes']} passes")
    table = pd.DataFrame(rows)
    settings = {"seeds": seeds, "recordings": list(table["recording"].unique())}
    return Result(table, figures, settings, findings("places", table))


def score(
    events: Events, passes: np.ndarray, direction: np.ndarray, most: float = 0.5
) -> dict[str, Any]:
    """Return how many passes have an event of their direction, and how many events are further.

    The centre of an event is so many seconds (``most``) from the pass, or nearer.
    """
    start, stop = passes.T
    away = np.maximum(start - events.centre[:, None], events.centre[:, None] - stop)
    near = away <= most
    templates = sorted(set(events.template.tolist()))
    best: dict[str, Any] = {"hits": 0, "forth": 0, "back": 0}
    for order in itertools.permutations((*templates, -1, -1), 2):
        right = np.array(order)[direction] == events.template[:, None]
        event, taken = linear_sum_assignment(-(near & right).astype(float))
        found = direction[taken[(near & right)[event, taken]]]
        if len(found) > best["hits"]:
            best = {"hits": len(found), "forth": int((found == 0).sum())}
            best["back"] = len(found) - best["forth"]
    n_forth = int((direction == 0).sum())
    of = {"passes": len(passes), "passes_forth": n_forth, "passes_back": len(passes) - n_forth}
    return {**best, **of, "further": len(events.template) - best["hits"]}


def decoded(passes: Passes, model: DCEA) -> np.ndarray:
    """Return the position in each frame of the second half, from events alone; nan outside them.

    It is the median position at that distance from the onset of events of the same template in the
    first half.  The model has not seen positions.
    """
    assert passes.position is not None
    table = model.decompose(passes.counts).events(probabilities=False).sort_values("time")
    onset = np.rint(table["time"].to_numpy() / passes.counts.bin_size).astype(int)
    template, length = table["template"].to_numpy(), model.n_bins_
    n_frames = len(passes.position)
    found, half = np.full(n_frames, np.nan), n_frames // 2
    places = {}
    for c in np.unique(template[onset + length <= half]):
        begins = onset[(template == c) & (onset + length <= half)]
        places[c] = np.median(passes.position[begins[:, None] + np.arange(length)], axis=0)
    for first, c in zip(onset, template, strict=True):
        if first >= half and c in places:
            found[first : first + length] = places[c][: n_frames - first]
    return found


def _errors(passes: Passes, place: np.ndarray) -> dict[str, float]:
    """Return how much of the time in passes has a position, and its mean error; and the error of
    the median position of the first half at these times.
    """
    assert passes.position is not None
    half, inside = len(place) // 2, np.zeros(len(place), bool)
    for first, last in passes.frames[passes.frames[:, 0] >= half]:
        inside[first : last + 1] = True
    known = inside & ~np.isnan(place)
    true, usual = passes.position[known], np.median(passes.position[:half])
    error, chance = (float(np.abs(other - true).mean()) for other in (place[known], usual))
    share = np.count_nonzero(known) / np.count_nonzero(inside)
    return {"decoded": share, "position_error": error, "position_error_of_median": chance}


def _found(passes: Passes, seed: int) -> Iterator[tuple[str, Passes, Events, float, DCEA | None]]:
    """Yield what each method finds, in which passes, its seconds, and the model of all passes."""
    began = time.perf_counter()
    model, events = _joint(passes, seed)
    yield "joint templates", passes, events, time.perf_counter() - began, model
    warped = model.at_speeds(passes.counts, _SPEEDS, learn_templates=True)
    events = _events_of(warped, passes.counts)
    events = events._replace(template=warped.of_templates_["original"][events.template])
    yield "at several speeds", passes, events, time.perf_counter() - began, None
    began, n_bins = time.perf_counter(), passes.counts.n_bins
    model, _ = _joint(passes.between(0, n_bins // 2), seed)
    later = passes.between(n_bins // 2, n_bins)
    seconds = time.perf_counter() - began
    yield "learned in the first half", later, _events_of(model, later.counts), seconds, None
    began = time.perf_counter()
    events = _of_ppseq(passes, seed)
    yield "PP-Seq", passes, events, time.perf_counter() - began, None


def _joint(passes: Passes, seed: int) -> tuple[DCEA, Events]:
    """Fit joint templates with default settings."""
    model = DCEA(2, passes.length, "poisson", layout="joint", random_state=seed)
    fitted(model, passes.counts)
    return model, _events_of(model, passes.counts)


def _events_of(model: DCEA, counts: BinnedSpikes) -> Events:
    """Return events with the mean time of their template's change as centre."""
    events = model.decompose(counts).events(probabilities=False)
    energy = np.square(model.templates_).sum(1)
    middle = energy @ (np.arange(energy.shape[1]) + 0.5) / energy.sum(1) * counts.bin_size
    template = events["template"].to_numpy()
    return Events(template, events["time"].to_numpy() + middle[template])


def _of_ppseq(passes: Passes, seed: int) -> Events:
    """Return events of PP-Seq, which is told the rate of passes and the spikes in one.

    Of its events those are kept that have as many spikes as finds most passes less further events.
    """
    counts = passes.counts
    of_bin = counts.counts[0].sum(0)
    inside = np.zeros(counts.n_bins, bool)
    for first, last in passes.frames:
        inside[first : last + 1] = True
    rest = of_bin[~inside].mean() if not inside.all() else 0.0
    spikes = float((of_bin[inside] - rest).sum() / len(passes.frames))
    model = baselines.PPSeq(
        2,
        passes.length,
        spikes_per_event=max(spikes, 5.0),
        event_rate=len(passes.frames) / (counts.n_bins * counts.bin_size),
        n_sweeps=600,
        random_state=seed,
    ).fit(counts)
    table = model.events_
    template = table["template"].to_numpy()
    middle = (model.share_ * model.offset_).sum(1)
    every = Events(template, table["time"].to_numpy() + middle[template])
    best, most = every, -np.inf
    for least in np.unique(table["n_spikes"]):
        kept = Events(*(part[table["n_spikes"] >= least] for part in every))
        found = score(kept, passes.times, passes.direction)
        if found["hits"] - found["further"] > most:
            best, most = kept, found["hits"] - found["further"]
    return best


def _read(folder: Path | None) -> Mapping[str, Passes]:
    """Read the recordings; ValueError if they are not there."""
    paths = [Path(folder or ".", f"{name}.npz") for name in ("ca1_linear_track", "ca3_laps")]
    if missing := [str(path) for path in paths if not path.exists()]:
        raise ValueError(
            f"`data` (={str(folder)!r}) must be a folder with the recordings of place cells, but "
            f"lacks {', '.join(missing)}"
        )
    with np.load(paths[0]) as file:
        position = file["position"].astype(int)
        frames, direction = _passes(position)
        first = Passes(_counts(file), frames, direction, 2.0, position)
    with np.load(paths[1]) as file:
        counts = BinnedSpikes.from_array(np.minimum(_counts(file).counts, 1), 0.05)
        second = Passes(counts, file["laps"], file["direction"], 1.45)
    return {"CA1": first, "CA3": second}


def _counts(file: Any) -> BinnedSpikes:
    counts = np.zeros((1, int(file["n_units"]), int(file["n_frames"])), np.int16)
    np.add.at(counts[0], (file["unit"], file["frame"]), file["count"])
    return BinnedSpikes.from_array(counts, 1 / float(file["frames_per_second"]))


def _passes(position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return frames and directions of the runs from one end of the track to the other."""
    low, high = _ENDS
    end = np.where(position <= low, 0, np.where(position >= high, 1, -1))
    at = np.flatnonzero(end >= 0)
    change = np.flatnonzero(np.diff(end[at]))
    frames = np.stack([at[change], at[change + 1]], axis=1)
    return frames, end[at[change]]


@style.styled
def _draw(passes: Passes, model: DCEA, events: Events, seconds: float = 120.0) -> Figure:
    """Draw where the mouse was, and the events that were found from its spikes alone."""
    import matplotlib.pyplot as plt

    assert passes.position is not None
    step = passes.counts.bin_size
    begins = float(passes.times[len(passes.times) // 3, 0]) - 5.0
    times = step * np.arange(len(passes.position))
    figure, ax = plt.subplots(figsize=(style.PAGE, 2.2), layout="constrained")
    ax.plot(times - begins, passes.position, color=style.INK, linewidth=1.0)
    half = step * model.n_bins_ / 2
    for template, centre in zip(*events, strict=True):
        color = style.PALETTE[int(template) % len(style.PALETTE)]
        edges = centre - half - begins, centre + half - begins
        ax.axvspan(*edges, color=color, alpha=0.35, linewidth=0)
    ax.set(xlim=(0, seconds), xlabel="time (s)", ylabel="position on the track")
    ax.set_title("events of two templates (colours), found from spikes alone", loc="left")
    plt.close(figure)
    return figure


@style.styled
def _draw_decoded(passes: Passes, place: np.ndarray, seconds: float = 120.0) -> Figure:
    """Draw where the mouse was, and where events say that it was, in the second half."""
    import matplotlib.pyplot as plt

    assert passes.position is not None
    step, half = passes.counts.bin_size, len(place) // 2
    begins = float(passes.times[passes.frames[:, 0] >= half][0, 0]) - 5.0
    times = step * np.arange(len(place)) - begins
    ax = style.axes_array(None, (1, 1), (style.PAGE, 2.2), layout="constrained")[0, 0]
    ax.plot(times, passes.position, color=style.INK, linewidth=1.0, label="the mouse")
    ax.plot(times, place, color=style.PALETTE[1], linewidth=2.0, alpha=0.8, label="decoded")
    ax.set(xlim=(0, seconds), xlabel="time (s)", ylabel="position on the track")
    style.legend_outside(ax)
    plt.close(ax.figure)
    return ax.figure
