# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A real session: heading and ripples
#
# A mouse slept for ten minutes and then walked for nine. Seven units of the anterodorsal
# nucleus (ADn), whose rates follow the heading of the head, and eight of hippocampal CA1 were
# recorded, with the heading and the times of sharp-wave ripples, found in the local field
# potential. Two questions:
#
# - Which changes of rate are left once those that follow the heading are known?
# - What do the CA1 units do in a ripple, and can their spikes alone tell when one was?
#
# The session is `A2929-200711` of the lab of A. Peyrache (Viejo et al., eLife 12:RP85786, 2023).
# It comes with the source of [pynapple](https://pynapple.org), which has the MIT licence: 88 MB
# are downloaded, once.

# %% tags=["setup"]
import importlib.util

if importlib.util.find_spec("spikecdl") is None:  # as on Colab
    print("Installing spikecdl ...")
    # %pip install --quiet "spikecdl @ git+https://github.com/spikecdl/spikecdl"

# %%
import os
import subprocess
import sys
import tarfile
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pooch

import spikecdl
from spikecdl import plots

warnings.simplefilter("ignore", spikecdl.CheckWarning)  # they are in `checks_`


def session():
    """Return the path of the recording, which is taken from the source of pynapple."""
    name, shelf = "A2929-200711.nwb", Path(os.environ.get("SPIKECDL_DATA", ""))
    if (shelf / "nwb_hd_cells" / name).exists():
        return shelf / "nwb_hd_cells" / name
    folder = Path(pooch.os_cache("spikecdl"))
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / name).exists():
        source = ["--no-deps", "--no-binary=pynapple", "pynapple==0.8.4", "--dest", str(folder)]
        done = subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", *source])
        if done.returncode:
            raise ConnectionError("the source of pynapple 0.8.4 could not be downloaded")
        with tarfile.open(folder / "pynapple-0.8.4.tar.gz") as archive:
            inside = f"pynapple-0.8.4/tests/nwbfilestest/neurosuite/pynapplenwb/{name}"
            (folder / name).write_bytes(archive.extractfile(inside).read())
    return folder / name


path = session()
spikes = spikecdl.read(path)
spikes

# %% [markdown]
# ## Heading
#
# Counts of the ADn units in bins of 20 ms, while the heading was tracked. The heading is an angle:
# its sine and cosine are given to the counts as signals, from which a smooth function of each is
# learned. Whether they are used is decided by the evidence, as for bursts, drift and the like.
# What is learned in the first half is judged in the second.

# %%
adn = [unit for unit, where in spikes.units["location"].items() if where == "adn"]
walk = spikes.bin(0.02, units=adn, table="position_time_support")
times, heading = spikecdl.read_nwb_signal(path, "CompassDirection/ry")["ry"]
walk = walk.with_signals({"sine": (times, np.sin(heading)), "cosine": (times, np.cos(heading))})

half = walk.n_bins // 2
first, second = walk.select(bins=slice(half)), walk.select(bins=slice(half, None))
model = spikecdl.DCEA(1, 0.4, "poisson", random_state=0).fit(first)
for name, one in model.ingredients_.items():
    print(f"{name:12}{one['nats']:+8.0f} nats, {'used' if one['value'] else 'not used'}")

# %% [markdown]
# The heading gains most. The tuning of each unit is the sum of its two functions, drawn around the
# circle: what a tuning curve shows, but fitted together with events, bursts and drift.

# %%
grid = np.linspace(0, 2 * np.pi, 200)
effects = model.signal_effects_
log_rate = sum(
    np.array([np.interp(values(grid), at, each) for each in effect])
    for values, (at, effect) in zip((np.sin, np.cos), effects.values(), strict=True)
)
figure, axes = plt.subplots(figsize=(5, 2.6), layout="constrained")
axes.plot(np.degrees(grid), np.exp(log_rate - log_rate.mean(1, keepdims=True)).T)
axes.set(yscale="log", xlabel="heading (degrees)", ylabel="factor on the rate", xlim=(0, 360))

assert model.ingredients_["signals"]["nats"] > 300
assert (np.ptp(log_rate, axis=1) > np.log(4)).sum() >= 5  # units whose rate changes fourfold

# %% [markdown]
# Without the heading, its slow changes are taken for events: many more are found, and the spikes of
# the second half are predicted worse.

# %%
blind = spikecdl.DCEA(1, 0.4, "poisson", signals=None, random_state=0).fit(first)
events = {name: len(each.decompose(second).events()) for name, each in
          (("with the heading", model), ("without", blind))}  # fmt: skip
gain = (model.evidence(second) - blind.evidence(second)).sum() / second.counts.sum() / np.log(2)
print(events)
print(f"{gain:.3f} bits per spike by the heading, in the second half")

assert events["without"] > 2 * events["with the heading"]
assert gain > 0.02

# %% [markdown]
# ## Ripples
#
# Now the sleep. One template across the eight CA1 units, from windows around the ripples.

# %%
ca1 = [unit for unit, where in spikes.units["location"].items() if where == "ca1"]
ripples = spikes.tables["sleep_ripples"]
around = spikes.bin(0.005, units=ca1, table="sleep_ripples", align="start_time", window=(-0.2, 0.3))
of_ripples = spikecdl.DCEA(1, 0.1, "poisson", layout="joint", random_state=0).fit(around)
plots.templates(of_ripples)
[check["found"] for check in of_ripples.checks_ if not check["passed"]]

# %% [markdown]
# The first check is right: ripples come in groups, so windows overlap, and most spikes are counted
# twice. So the model is judged where it was not made: in the whole sleep, where nobody tells it of
# the ripples.

# %%
sleep = spikes.bin(0.005, units=ca1, table="epochs", trials="tags == 'sleep'")
middle = (ripples["start_time"] + ripples["stop_time"]).to_numpy() / 2


def near(times, others, seconds=0.05):
    """Return which times are so near one of the others."""
    return np.abs(times[:, None] - others).min(1) < seconds


def compared(model):
    """Print how many events are near a ripple, by chance, and how many ripples have one."""
    found = model.decompose(sleep).intervals()
    peak, sure = found["peak_time"].to_numpy(), found["probability"].to_numpy() > 0.9
    shifted = [near((peak + shift) % 600, middle).mean() for shift in np.arange(30, 570, 30)]
    share = near(peak, middle).mean(), near(peak[sure], middle).mean(), np.mean(shifted)
    hits = near(middle, peak).mean()
    print(f"{len(found)} events, {share[0]:.0%} of them near a ripple; {share[1]:.0%} of the "
          f"{sure.sum()} with a probability above .9; {share[2]:.0%} by chance")  # fmt: skip
    print(f"{hits:.0%} of {len(middle)} ripples have an event")
    return share, hits


share, hits = compared(of_ripples)
assert share[1] > 3 * share[2]
assert hits > 0.6

# %% [markdown]
# And without any ripple: a template learned from the sleep itself.

# %%
alone = spikecdl.DCEA(1, 0.1, "poisson", layout="joint", random_state=0).fit(sleep)
share, hits = compared(alone)
assert hits > 0.6

plots.population_raster(alone.decompose(sleep.select(bins=slice(0, 1000))), 0)
for start, stop in ripples[["start_time", "stop_time"]].to_numpy():
    if stop < 5:
        plt.gca().axvspan(start, stop, color="#E69F00", alpha=0.3, linewidth=0)

# %% [markdown]
# Shaded are the ripples of the field potential, triangles the onsets of events in the spikes. Most
# ripples are found from the spikes of eight cells, and what is found beside them is no error: cells
# also fire together where the field shows no ripple that passed its threshold.
#
# Next: [populations](https://github.com/spikecdl/spikecdl/blob/main/docs/populations.md), with the
# order of units, conditions and events bin by bin; [replay](09_replay.ipynb) of sequences.
