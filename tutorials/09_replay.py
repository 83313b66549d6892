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
# # Replay: sequences of a run, sought in rest
#
# While an animal runs along a track, place cells fire one after another. While it rests, the same
# sequence comes back ten to twenty times faster, sometimes backward. Here the sequence is learned
# from the spikes of the run alone, without positions, and then sought in the rest that follows, at
# several speeds and in both directions. The recording is simulated, so all that is found can be
# compared with the truth.

# %% tags=["setup"]
import importlib.util

if importlib.util.find_spec("spikecdl") is None:  # as on Colab
    print("Installing spikecdl ...")
    # %pip install --quiet "spikecdl @ git+https://github.com/spikecdl/spikecdl"

# %%
import matplotlib.pyplot as plt
import numpy as np

import spikecdl
from spikecdl import plots

rng = np.random.default_rng(3)
n_units, n_cells = 60, 25  # all units, and those with a place field
field, peak = rng.random(n_cells), rng.gamma(4, 3, n_cells) + 4  # of the track; Hz
rest_rate = rng.gamma(2, 0.2, n_units) + 0.05


def passage(n_bins):
    """Return rates (unit, bin) in Hz while the animal passes from one end to the other."""
    rates = np.repeat(rest_rate[:, None], n_bins, axis=1)
    position = (np.arange(n_bins) + 0.5) / n_bins
    rates[:n_cells] += peak[:, None] * np.exp(-0.5 * ((position - field[:, None]) / 0.06) ** 2)
    return rates


def spikes(rates, bin_size):
    """Draw counts in bins."""
    return spikecdl.BinnedSpikes.from_array(rng.poisson(rates * bin_size)[None], bin_size)


# %% [markdown]
# ## The run
#
# Forty laps of about two seconds, one way, with pauses: no lap is as fast as another.

# %%
bin_size, start, laps = 0.05, 40, []
rates = np.repeat(rest_rate[:, None], 4000, axis=1)
while len(laps) < 40:
    n_bins = round(40 / np.exp(rng.uniform(np.log(0.7), np.log(1.4))))
    rates[:, start : start + n_bins] = passage(n_bins)
    laps.append(start * bin_size)
    start += n_bins + int(rng.integers(20, 60))
run = spikes(rates, bin_size)

model = spikecdl.DCEA(1, 2.0, "poisson", layout="joint", random_state=0).fit(run)
print(f"{len(model.decompose(run).events())} events for {len(laps)} laps")

# %% [markdown]
# A template has one speed, so slow laps may be taken for two. `at_speeds` lets an event be one of
# several times as fast, and learns the template from events of all speeds:

# %%
warped = model.at_speeds(run, (0.7, 0.85, 1, 1.2, 1.4), learn_templates=True)
found = warped.decompose(run).events()
print(f"{len(found)} events for {len(laps)} laps")
print(f"evidence: {float((warped.evidence(run) - model.evidence(run)).sum()):+.0f} nats")
assert len(found) == len(laps)

# %% [markdown]
# Which cells are in the sequence, and in which order? That is in the model of one speed:

# %%
table = model.unit_table()
found_cells = set(table["unit"][table["takes_part"]])
print(f"{len(found_cells & set(range(n_cells)))} of {n_cells} cells with a field are found, and")
print(f"{len(found_cells - set(range(n_cells)))} of the {n_units - n_cells} others")
plots.unit_order(table)
plt.show()

# %% [markdown]
# ## The rest
#
# Two minutes with thirty replays, twelve times as fast as a lap, and every third of them backward.
# Bins are those of fast events now, 5 ms.

# %%
fine, n_bins = 0.005, round(2 / 12 / 0.005)
first = np.sort(rng.choice(np.arange(5, 395), 30, replace=False)) * 60
backward = rng.random(30) < 1 / 3
rates = np.repeat(rest_rate[:, None], 24_000, axis=1)
for begin, is_backward in zip(first, backward, strict=True):
    played = 1.5 * passage(n_bins)
    rates[:, begin : begin + n_bins] = played[:, ::-1] if is_backward else played
rest = spikes(rates, fine)

replays = model.at_speeds(rest, (8, 12, 16, -8, -12, -16))
events = replays.decompose(rest).events().sort_values("time")
events[["time", "speed", "probability", "q_value"]].round(3).head()

# %%
time = events["time"].to_numpy()
near = np.abs(time[:, None] - first * fine) < 0.08
print(f"hits: {near.any(0).mean():.2f}, false: {1 - near.any(1).mean():.2f}")
direction = np.sign(events["speed"].to_numpy()[near.any(1)])
right = direction == np.where(backward[near[near.any(1)].argmax(1)], -1, 1)
print(f"direction right: {right.mean():.2f}")
assert near.any(0).mean() > 0.9

# %% [markdown]
# Two of them, a forward and a backward one, with the units in the order of their fields:

# %%
order = np.r_[np.argsort(field), np.arange(n_cells, n_units)]
figure, panels = plt.subplots(1, 2, figsize=(8, 3), sharey=True, layout="constrained")
for panel, which in zip(panels, (~backward, backward), strict=True):
    begin = first[which][0]
    unit, bin_ = np.nonzero(rest.counts[0][order, begin - 20 : begin + 60])
    panel.plot((bin_ - 20) * fine * 1e3, unit, "|", color="black", markersize=4)
    panel.set(
        xlabel="time (ms)", xlim=(-100, 300), title="backward" if which is backward else "forward"
    )
panels[0].set_ylabel("unit, by field")
plt.show()

# %% [markdown]
# ## Against shuffles
#
# The evidence of a window with a replay is compared with that of templates whose units are
# exchanged, and of spikes whose times are shifted for each unit. Half of these windows are around
# replays, the others between them.

# %%
centre = np.r_[first, first[:-1] + np.diff(first) // 2]
cut = np.stack([rest.counts[0][:, c - 30 : c + 70] for c in centre])
windows = spikecdl.BinnedSpikes.from_array(cut, fine)
tested = spikecdl.replay(replays, windows, n_shuffles=29)
there = np.abs(centre[:, None] - first).min(1) < 40
plt.figure(figsize=(4, 3), layout="constrained")
for name, which in (("replay", there), ("none", ~there)):
    plt.plot(tested["evidence"][which], tested["p_units"][which], "o", alpha=0.6, label=name)
plt.axhline(0.05, color="grey", linewidth=1)
plt.xlabel("evidence over no event (nats)")
plt.ylabel("p-value, units exchanged")
plt.xscale("symlog")
plt.legend()
plt.show()

# %% [markdown]
# ## Does a condition change them?
#
# Say that the first half of the windows was recorded after a reward, and the others not, which in
# this simulation means nothing. `compare_conditions` says for each template (one for each speed)
# how rate, amplitude and time of its events differ, with permutation tests.

# %%
conditions = np.where(np.arange(len(windows)) % 2, "reward", "none")
compared = spikecdl.compare_conditions(replays, windows, conditions, n_resamples=199)
most = compared.dropna(subset="p_value").sort_values("p_value").head(3)
most[["template", "quantity", "condition", "difference", "p_value"]].round(3)

# %% [markdown]
# The smallest of many p-values is small by chance: divide the level of your test by their number.
#
# Next: formulas, the command line, and results for laps of two mice are on the page
# [Populations](https://github.com/spikecdl/spikecdl/blob/main/docs/populations.md).
