"""Events while they happen: the time of a step, and how soon events are sure."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from timing import Row, Settings, Skip

from spikecdl import DCEA, BinnedSpikes, Online

FILE = Path(__file__).parents[3] / "shared" / "data" / "places" / "ca1_linear_track.npz"
_UNITS = (100, 1_000)


def measure(settings: Settings) -> Iterator[Row]:
    """The median and longest step at random spikes; then the latency on place cells."""
    rng = np.random.default_rng(0)
    for n_units in _UNITS:
        counts = BinnedSpikes.from_array(rng.poisson(0.05, (1, n_units, 2_000)), 0.01)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = DCEA(2, 0.5, "poisson", layout="joint", n_epochs=1, random_state=0).fit(counts)
        taken = _steps(Online(model), np.asarray(counts.counts[0]))[1]
        text = f"{1e3 * np.median(taken):.3f} ms"
        note = f"longest of {len(taken)} steps {1e3 * taken.max():.2f} ms"
        yield Row(f"online: a step of {n_units} units, 2 templates of 50 bins", "", text, "", note)
    yield _of_places()


def _steps(online: Online, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what is under way (bin, template), and the seconds of each step."""
    found, taken = [], []
    for y in counts.T:
        began = time.perf_counter()
        found.append(online.step(y).under_way)
        taken.append(time.perf_counter() - began)
    return np.array(found), np.array(taken)


def _of_places(sure: float = 0.9) -> Row:
    """How many events of the fit are sure while they happen, how soon, and further alarms."""
    what = f"online: CA1, events that reach a probability of {sure:g}"
    if not FILE.exists():
        raise Skip(f"{FILE} is not there")
    with np.load(FILE) as file:
        shape = (1, int(file["unit"].max()) + 1, len(file["position"]))
        counts = np.zeros(shape, np.int16)
        np.add.at(counts[0], (file["unit"], file["frame"]), file["count"])
    binned = BinnedSpikes.from_array(counts, 0.05)
    model = DCEA(2, 2.0, "poisson", layout="joint", random_state=0).fit(binned)
    under_way, _ = _steps(Online(model), counts[0])
    events, near, delays = model.decompose(binned).events(), np.zeros(shape[2], bool), []
    for time_, template in events[["time", "template"]].itertuples(index=False):
        start = round(time_ / 0.05)
        reached = under_way[start : start + 40, template] > sure
        near[max(start - 5, 0) : start + 45] = True
        if reached.any():
            delays.append(0.05 * (reached.argmax() + 1))
    alarms = np.sum(np.diff(((under_way > sure).any(1) & ~near).astype(int)) == 1)
    rate = alarms / (shape[2] * 0.05 / 60)
    note = f"median after {np.median(delays):.2f} s; {rate:.1f} further alarms a minute"
    return Row(what, "", f"{len(delays)} of {len(events)}", "", note)
