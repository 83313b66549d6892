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
# # Whisker deflections, found without their times
#
# Two neighbouring units of rat thalamus respond while a whisker is deflected 16 times in each
# trial, eight times a second. The times of the deflections are known but not given to the fit, so
# they can check what it finds. `spikecdl experiment whisker` does this for all recordings, with
# more comparison methods.
#
# The recordings are published (Temereanca, Brown and Simons, 2008; GPL-2.0-or-later). They are
# downloaded once and kept.

# %% tags=["setup"]
import importlib.util

if importlib.util.find_spec("spikecdl") is None:  # as on Colab
    print("Installing spikecdl ...")
    # %pip install --quiet "spikecdl @ git+https://github.com/spikecdl/spikecdl"

# %%
import warnings

import matplotlib.pyplot as plt
import numpy as np

import spikecdl
from spikecdl import heldout, plots
from spikecdl.baselines import GLM, PSTH, Basis, onsets
from spikecdl.evaluation.goodness_of_fit import rescale

name = "dir3_stim2"
spikes = spikecdl.datasets.fetch_whisker([name])[name]
spikes

# %% [markdown]
# ## Trials to fit, trials to test
#
# The file marks the trials to fit and to test. Every trial has the same deflections, so the ones to
# fit are pooled: 17 trials give one count of 0 to 85 spikes (17 trials x 5 sub-bins of 1 ms) in
# each bin.

# %%
training = spikes.bin(0.005, trials="split == 'train'")
test = spikes.bin(0.005, trials="split == 'test'")
plots.raster(training, unit=0)
plt.show()

# %% [markdown]
# ## Fit
#
# One template of 125 ms. In the joint layout a template has a waveform for each unit, and the units
# share its events, because they respond to the same whisker. 125 ms are the time between
# deflections, so the template fills its window and events follow one another without a gap: a
# check of the fit says so. That is meant here, so its warning is not shown.

# %%
warnings.simplefilter("ignore", spikecdl.CheckWarning)
model = spikecdl.DCEA(1, 0.125, "binomial", layout="joint", random_state=0)
model.fit(training.pool())
plots.templates(model)
plt.show()

# %% [markdown]
# ## Are the events at the deflections?
#
# The first deflection was at 0.5 s, and one followed every 125 ms. The onset of a template is a
# convention, so one number, the lag, is free.

# %%
parts = model.decompose(training.pool())
times = parts.events()["time"].to_numpy()
true = 0.5 + 0.125 * np.arange(16)
nearest = true[np.abs(times[:, None] - true).argmin(axis=1)]
lag = np.median(times - nearest)
hit = np.abs(times[:, None] - lag - true).min(axis=0) <= 0.01
print(f"{len(times)} events; {hit.sum()} of 16 deflections have one within 10 ms of {lag:+.3f} s")
assert hit.sum() >= 14

# %%
plots.rates_figure(parts, training)
plt.show()

# %% [markdown]
# ## Does it predict other trials?
#
# The rate that templates and codes give for the fitted trials is scored on the other trials, by the
# fraction of the deviance of a constant rate that it explains. It is compared with the PSTH, and
# with a model that is given the deflections and averages over them.

# %%
others = {
    "PSTH": PSTH(),
    "known onsets": GLM(
        "binomial", stimulus=onsets(true), response=Basis(0.125, size=None), ridge=1e-3
    ),
}
scores = {"DCEA": heldout.transfer(model, training.pool(), test.pool(), "binomial")}
for label, other in others.items():
    other.fit(training.pool())
    scores[label] = heldout.transfer(other, training.pool(), test.pool(), "binomial")
for label, score in scores.items():
    print(f"{label:12}", score.deviance_explained_per_unit.round(3))
assert scores["DCEA"].deviance_explained > scores["PSTH"].deviance_explained

# %% [markdown]
# ## What a rate cannot explain
#
# If spikes were independent at this rate, their rescaled intervals would be uniform. In single
# trials they are not: unit 0 has too few short intervals, unit 1 too many, which no model of the
# rate alone can explain. Time rescaling shows it, whatever the deviance explained.

# %%
single = heldout.transfer(model, training.pool(), test, "binomial")
plots.ks(rescale(test, single.mean, "binomial"))
plt.show()
