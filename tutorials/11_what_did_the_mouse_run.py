# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.7
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What did the mouse run?
#
# A mouse ran to and fro on a linear track for 15 minutes, while 452 cells of hippocampal CA1 were
# imaged. Place cells fire one after another in such a run, in another order for each direction.
# From the spikes alone, two joint templates find the runs, each in its direction; then the
# position, which the fit has not seen, says whether they are right.
#
# The session was recorded in the lab of Y. Ziv (Rubin et al., Nature Communications 10:4745, 2019)
# and published with [conv-seq](https://github.com/RomanKoshkin/conv-seq) (Koshkin and Fukai, ICML
# 2024), which has the MIT licence: two MATLAB files are downloaded, once. Spikes were inferred from
# calcium, 20 frames per second.

# %% tags=["setup"]
import importlib.util

if importlib.util.find_spec("spikecdl") is None:  # as on Colab
    print("Installing spikecdl ...")
    # %pip install --quiet "spikecdl @ git+https://github.com/spikecdl/spikecdl"

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pooch
from scipy.io import loadmat
from scipy.ndimage import gaussian_filter1d
from scipy.stats import spearmanr

import spikecdl
from spikecdl import plots

plt.rcParams |= {"font.size": 8, "axes.titlesize": 8.5, "axes.titlelocation": "left"}
plt.rcParams |= {"axes.spines.top": False, "axes.spines.right": False}


def from_matlab(name):
    """Return an array of the source of conv-seq, in the file of that name."""
    commit = "5f681724cc9661668b60f1c3e8ca9d20a7647fa9"
    url = f"https://raw.githubusercontent.com/RomanKoshkin/conv-seq/{commit}/data/{name}.mat"
    pooch.get_logger().setLevel("WARNING")
    try:
        file = pooch.retrieve(url, None, f"{name}.mat", pooch.os_cache("spikecdl"))
    except OSError as error:
        raise ConnectionError(f"{url} could not be downloaded") from error
    return loadmat(file)[name]


def session():
    """Return counts (cell, frame), and the position of the mouse in each frame."""
    path = Path(os.environ.get("SPIKECDL_DATA", "")) / "places" / "ca1_linear_track.npz"
    if not path.exists():
        activity, position = map(from_matlab, ("neuronal_activity_mat", "position_per_frame"))
        return activity.astype(np.int16), position.ravel().astype(int)
    with np.load(path) as file:
        activity = np.zeros((file["n_units"], file["n_frames"]), np.int16)
        activity[file["unit"], file["frame"]] = file["count"]
        return activity, file["position"].astype(int)


activity, position = session()
counts = spikecdl.BinnedSpikes.from_array(activity[None], bin_size=0.05, trial_starts=[0.0])
counts

# %% [markdown]
# A minute of it. Spikes are rare, 37 of a cell in a quarter of an hour, and in the order of the
# file, nothing is to be seen. The position is one of 24, each of 4 cm.

# %%
minute, label = (190.0, 250.0), "position (of 24)"


def panels():
    """Return axes for a minute of spikes and, below, for the position, which is drawn."""
    figure, axes = plt.subplots(
        2, 1, figsize=(8, 5), height_ratios=(3, 1), sharex=True, layout="constrained"
    )
    axes[1].plot(counts.times, position, color="#222222", linewidth=1)
    axes[1].set(xlabel="time (s)", xlim=minute, ylabel=label, ylim=(0, 25), yticks=(1, 12, 24))
    return axes


spikes, track = panels()
cell, frame = np.nonzero(activity)
spikes.plot(counts.times[frame], cell, "|", color="#222222", markersize=2)
spikes.set(ylabel="cell", ylim=(counts.n_units, -1))

assert 30 < activity.sum() / counts.n_units < 45

# %% [markdown]
# ## Two templates
#
# All cells, all frames, and two templates of two seconds.

# %%
model = spikecdl.DCEA(2, 2.0, "poisson", layout="joint", random_state=0).fit(counts)
parts = model.decompose(counts)
events = parts.intervals()
print("converged:", model.converged_)
print("checks not passed:", [check["check"] for check in model.checks_ if not check["passed"]])
print("events of each template:", events["template"].value_counts(sort=False).to_dict())

assert model.converged_
assert all(check["passed"] for check in model.checks_)
assert 65 < len(events) < 80

# %% [markdown]
# The same minute, with cells sorted by the template that is largest in them and the time when it
# is. Triangles mark onsets of events, and lines where the response of each cell is largest. Below,
# events are shaded over the position. Cells that are in neither template are left out.

# %%
colours = "#0072B2", "#D55E00"  # of the templates, as in the figures of the package


def shade(ax, found):
    """Shade events in the colour of their template."""
    for start, stop, number in found[["start_time", "stop_time", "template"]].to_numpy():
        ax.axvspan(start, stop, color=colours[int(number)], alpha=0.35, linewidth=0)


spikes, track = panels()
plots.population_raster(parts, window=minute, ax=spikes)
spikes.set(xlabel="", title="", ylim=(np.any(model.templates_, axis=(0, 2)).sum(), -1))
shade(track, events)

# %% [markdown]
# Each run has an event, and the colours alternate. The mean position around the events of each
# template, with a band from resampled events, says which direction is whose.

# %%
figure, axes = plt.subplots(1, 2, figsize=(6, 2.4), sharey=True, layout="constrained")
plots.triggered(parts, (counts.times, position), axes=axes)
axes[0].set_ylabel(label)

onset = np.rint(events["start_time"] / counts.bin_size).astype(int).to_numpy()
length = model.n_bins_
events["moved"] = position[onset + length - 1] - position[onset]
forth = int(events.groupby("template")["moved"].mean().idxmax())
back = 1 - forth
print(f"template {forth} is forth, template {back} is back")

assert events.loc[events["template"] == forth, "moved"].median() > 8
assert events.loc[events["template"] == back, "moved"].median() < -8

# %% [markdown]
# ## Every run, in its direction?
#
# A pass is a run from position 4 to position 21, or back, and takes two seconds. It is found if an
# event of the template of its direction has its middle in it or at most half a second away, that
# is, 1.5 s from the middle of the pass; no event counts twice. By chance: the same events, all
# later by half a minute, by a minute and so on.

# %%
at_end = np.flatnonzero((position <= 4) | (position >= 21))
change = np.flatnonzero(np.diff(position[at_end] >= 21))
start, stop = at_end[change], at_end[change + 1]
goes_forth = position[stop] > position[start]
passes = {
    "time": counts.bin_size * (start + stop) / 2,
    "template": np.where(goes_forth, forth, back),
}


def compared(shift=0.0):
    """Pair events, so many seconds later, with passes."""
    middle = (events["start_time"] + events["stop_time"]) / 2 + shift
    at = {"time": middle % counts.duration, "template": events["template"]}
    return spikecdl.metrics.event_rates(at, passes, tolerance=1.5)


pairs = compared()
chance = np.mean([compared(shift).hits for shift in np.arange(30, counts.duration - 30, 30)])
of = np.bincount(passes["template"][pairs.pairs[:, 1]], minlength=2)
print(f"{pairs.hits} of {len(start)} passes found, {chance:.1f} by chance")
print(f"forth: {of[forth]} of {goes_forth.sum()}, back: {of[back]} of {(~goes_forth).sum()}")
print(f"{pairs.false_alarms} further events")

assert pairs.hits >= 64
assert pairs.hits > 5 * chance
assert pairs.false_alarms <= 8

# %% [markdown]
# And the pass without an event, and the events without a pass?

# %%
missed = np.setdiff1d(np.arange(len(start)), pairs.pairs[:, 1])
further = events.drop(index=pairs.pairs[:, 0])
at = [*counts.times[start[missed]], *further["start_time"] + 1]
names = ["no event"] * len(missed) + [f"event at {time:.0f} s" for time in further["start_time"]]
figure, axes = plt.subplots(1, len(at), figsize=(9, 2), sharey=True, layout="constrained")
for ax, time, name in zip(axes, at, names, strict=True):
    ax.plot(counts.times - time, position, color="#222222", linewidth=1)
    ax.set(title=name, xlim=(-5, 5), ylim=(0, 25), yticks=(1, 12, 24))
    shifted = events.assign(
        start_time=events["start_time"] - time, stop_time=events["stop_time"] - time
    )
    shade(ax, shifted)
axes[0].set_ylabel(label)
figure.supxlabel("time after the jump, or after the middle of the event (s)", fontsize=8)
print("amplitudes of further events:", further["amplitude"].round().astype(int).tolist())
print("least of the others:", round(events["amplitude"].drop(further.index).min()))

weak = events["amplitude"] < 87
assert all(stop[missed] - start[missed] <= 2)  # frames
assert 2 <= weak.sum() <= 5
assert (weak == events.index.isin(further.index[further["amplitude"] < 87])).all()

# %% [markdown]
# The pass without an event is no run: the position jumps from 23 to 3 within one frame. Two of the
# further events are runs over a part of the track, from 22 to 8 and from 7 to 23, in their
# direction. In the other three the mouse stands at an end or sets out from it, and their amplitudes
# are the smallest of all, little more than half of the usual one.
#
# ## The sequence is the track
#
# `unit_table` says which cells take part in a template, and when each of them changes its rate
# most. Beside it, what is usually done with the position: for each direction, spikes in each
# position over the time spent there, both smoothed, while the mouse runs at 8 cm/s or more. The
# field of a cell is where this rate is highest.

# %%
speed = np.gradient(gaussian_filter1d(position.astype(float), 10)) / counts.bin_size  # per second


def fields(running):
    """Return the position at which each cell has its highest rate, in some of the frames."""
    where = position[running]
    spent = np.bincount(where, minlength=25) * counts.bin_size
    fired = np.array([np.bincount(where, row[running], minlength=25) for row in activity])
    rate = gaussian_filter1d(fired, 1) / np.maximum(gaussian_filter1d(spent, 1), 0.1)
    return np.where(spent > 0.5, rate, 0).argmax(1)


field = {back: fields(speed < -2), forth: fields(speed > 2)}
table = model.unit_table()
figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), sharey=True, layout="constrained")
axes[0].set_ylabel("time after the onset (s)")
for ax, number, name in zip(axes, (forth, back), ("forth", "back"), strict=True):
    rows = table[(table["template"] == number) & table["takes_part"]]
    place = field[number][rows["unit"]]
    rank = spearmanr(place, rows["time"]).statistic
    ax.vlines(place, rows["time_lower"], rows["time_upper"], color=colours[number], alpha=0.2)
    ax.plot(place, rows["time"], "o", color=colours[number], markersize=3)
    ax.set_title(f"{name}: {len(rows)} cells, rank correlation {rank:.2f}")
    ax.set(xlabel="field (position, of 24)", xlim=(0, 25), xticks=(1, 12, 24), yticks=(0, 1, 2))
    assert rank * (1 if number == forth else -1) > 0.8

# %% [markdown]
# A dot is a cell, a bar the interval of its time. The order of cells in the templates, which is
# learned from spikes alone, is the order of their fields along the track. The template of the way
# forth begins where the mouse has come to position 10; two seconds are shorter than a whole run.
#
# ## Where was the mouse?
#
# So an event says where the mouse is. The position at some time after an onset is taken to be the
# median one at that time in the events of the first half. How near is it in the second half?

# %%
half = counts.n_bins // 2
decoded = np.full(counts.n_bins, np.nan)
for number in (back, forth):
    mine = onset[events["template"] == number]
    first = mine[mine + length <= half]
    path = np.median(position[first[:, None] + np.arange(length)], axis=0)
    for begin in mine[mine >= half]:
        decoded[begin : begin + length] = path[: counts.n_bins - begin]

in_pass = np.zeros(counts.n_bins, bool)
for begin, end in zip(start, stop, strict=True):
    in_pass[begin : end + 1] = begin >= half
known = in_pass & ~np.isnan(decoded)
error = np.abs(decoded - position)[known].mean()
usual = np.abs(np.median(position[:half]) - position)[known].mean()
print(f"decoded in {known.sum() / in_pass.sum():.0%} of the time in passes")
print(f"mean error {error:.2f} of 24 positions; {usual:.1f} if always the median position")

figure, ax = plt.subplots(figsize=(8, 2.2), layout="constrained")
ax.plot(counts.times, position, color="#222222", linewidth=1, label="the mouse")
ax.plot(counts.times, decoded, color=colours[1], linewidth=3, alpha=0.7, label="decoded")
ax.set(xlabel="time (s)", xlim=(460, 580), ylabel=label, ylim=(0, 25), yticks=(1, 12, 24))
figure.legend(loc="outside right upper", frameon=False)

assert error < 1 < 3 < usual

# %% [markdown]
# At 541 s the tracked position jumps over half of the track in a tenth of a second; the spikes say
# that the mouse ran a second earlier.
#
# ## Forth, back, or both?
#
# Which cells take part, and in which direction, is known without the position. Do the others fire
# while the mouse runs? And where do those fire that take part in both?

# %%
both_ways = table.pivot(index="unit", columns="template", values="takes_part").sum(axis=1)
kind = both_ways.map({0: "neither", 1: "one", 2: "both"}).rename("templates").reset_index(drop=True)
runs = np.abs(speed) > 2
cells = pd.DataFrame({"spikes": activity.sum(1), "running": activity[:, runs].sum(1)})
summed = cells.groupby(kind).sum().loc[["neither", "one", "both"]]
share = summed["running"] / summed["spikes"]
print(f"the mouse runs {runs.mean():.0%} of the time")

assert share["neither"] < 0.2 < 0.4 < share["one"] < share["both"]
number = kind.value_counts()
pd.DataFrame(
    {
        "cells": number[share.index],
        "spikes per cell": (summed["spikes"] / number).round(1),
        "of them in runs": share.map("{:.0%}".format),
    }
).loc[share.index]

# %%
both = (kind == "both").to_numpy()
place = np.array([field[number][both] for number in (forth, back)])
rng = np.random.default_rng(0)
by_chance = [np.abs(place[0] - rng.permutation(place[1])).mean() for _ in range(1000)]
apart = np.abs(place[0] - place[1]).mean()
print(f"fields are {apart:.1f} positions apart; {np.mean(by_chance):.1f} if cells are exchanged")

figure, ax = plt.subplots(figsize=(3, 3), layout="constrained")
ax.plot((1, 24), (1, 24), "--", color="#6B7075", linewidth=1)
ax.plot(*place, "o", color="#222222", markersize=4)
ax.set(xlabel="field forth (position, of 24)", ylabel="field back (position, of 24)")
ax.set(xticks=(1, 12, 24), yticks=(1, 12, 24), aspect="equal")

low, high = np.quantile(by_chance, [0.005, 0.995])
assert low < apart < high

# %% [markdown]
# Cells that take part in neither template fire nearly as often, but mostly while the mouse rests.
# Those in both have fields in the two directions that are as far apart as those of different
# cells: for these cells, the two directions are two maps.
#
# Next: [populations](https://github.com/spikecdl/spikecdl/blob/main/docs/populations.md), with
# events of several speeds, conditions, and a filter that follows a stream bin by bin; the same
# session [beside PP-Seq](https://github.com/spikecdl/spikecdl/blob/main/docs/experiments.md);
# [replay](09_replay.ipynb) of such sequences in rest.
