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
# # Choose the number and the length of templates
#
# How many templates are there, and how long are they? More templates always fit better, and longer
# ones too, so the fit itself cannot tell. Trials that were held out can. Here two templates of
# 100 ms are planted in single trials, and `spikecdl.select` compares zero to three templates of
# three lengths.

# %% tags=["setup"]
import importlib.util

if importlib.util.find_spec("spikecdl") is None:  # as on Colab
    print("Installing spikecdl ...")
    # %pip install --quiet "spikecdl @ git+https://github.com/spikecdl/spikecdl"

# %%
import matplotlib.pyplot as plt

import spikecdl
from spikecdl import plots
from spikecdl.simulate import simulate

counts = simulate(
    "poisson",
    ["square", "cosine"],
    n_trials=18,
    n_units=3,
    duration=2.0,  # seconds
    bin_size=0.01,
    template_length=0.1,
    event_rate=0.7,  # events per second, of each template
    amplitude=(5.0, 7.0),
    baseline=15.0,  # Hz
    random_state=2,
)
plots.raster(counts, unit=0)
plt.show()

# %% [markdown]
# ## Compare on held-out trials
#
# Each candidate is fitted twice, each time without half of the trials. Its score is the log
# probability of the trials that were left out, summed over all events that they may hold: the
# evidence. No event is chosen in them, so nothing can be fitted to them. No template at all is a
# candidate too: a constant rate of each unit.

# %%
trainer = spikecdl.Marginal(overlap=1)  # events do not overlap here, which saves time
model = spikecdl.DCEA(2, 0.1, "poisson", trainer=trainer, random_state=1)
candidates = {"n_templates": [0, 1, 2, 3], "template_length": [0.05, 0.1, 0.2]}
found = spikecdl.select(model, counts, **candidates, n_folds=2)
found

# %%
plots.selection(found)
plt.show()

# %% [markdown]
# Evidence is in bits per spike. `recommended` is the simplest candidate that is within ten nats
# (14.4 bits, in all) of the best, or within 3 % of what the best gains over no template: fewer
# templates first, then shorter ones. The standard error is that of the difference to the best
# candidate, trial by trial.

# %%
found.table().drop(columns="covariates").round(4)

# %%
best = found.recommended
assert (best.n_templates, best.template_length) == (2, 0.1)
best

# %% [markdown]
# ## Fit what is recommended
#
# The selection compares; the model itself is fitted to all trials.

# %%
model.set_params(n_templates=best.n_templates, template_length=best.template_length).fit(counts)
plots.templates(model)
plt.show()

# %% [markdown]
# ## When there is nothing
#
# Without events, no template should be recommended. Here are counts at the same rates, with nothing
# that recurs.

# %%
noise = simulate(
    "poisson",
    n_trials=18,
    n_units=3,
    duration=2.0,
    bin_size=0.01,
    event_rate=0.0,
    baseline=20.0,
    random_state=0,
)
nothing = spikecdl.select(model, noise, n_templates=[0, 1, 2], n_folds=2)
assert nothing.recommended.n_templates == 0
nothing.table().drop(columns=["template_length", "covariates"]).round(4)

# %% [markdown]
# On the command line, `select` compares, writes the table and the figure, and fits what it
# recommends:
#
# ```bash
# spikecdl select recording.nwb --templates 0 1 2 3 --length 0.05 0.1 0.2 --bin 0.01 --out sel/
# ```
