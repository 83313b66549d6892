# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Fit templates to a recording
#
# This tutorial goes from a file to templates, codes and a score of the fit. It uses the small
# recording that comes with spikecdl; replace its path by yours. `spikecdl.read` reads NWB, Phy
# folders, npz, and every format from which Neo reads spikes.

# %%
from pathlib import Path

import matplotlib.pyplot as plt

import spikecdl
from spikecdl import plots

here = Path(__file__).parent if "__file__" in globals() else Path.cwd()
recording = here.parent / "datasets" / "demo.nwb"

spikes = spikecdl.read(recording)
spikes

# %% [markdown]
# ## Look at the recording
#
# The table of trials has a row per trial. Windows can be aligned to any of its columns of times.

# %%
spikes.trials.head()

# %% [markdown]
# Choose bins so short that a bin of one trial rarely holds two spikes, and much shorter than the
# response. Templates should be as long as the response. `suggest` makes a first guess from the
# autocovariance of the spikes.

# %%
from spikecdl.suggestions import suggest

suggest(spikes)

# %%
counts = spikes.bin(0.001)
plots.raster(counts, unit=3)
plt.show()

# %% [markdown]
# ## Keep trials for the test
#
# Ten trials are kept for the test. Time that was not observed is masked, not counted as silence.

# %%
training, test = counts[:20].pool(), counts[20:].pool()
training.mask.mean()

# %% [markdown]
# ## Fit
#
# In this recording, all trials of a unit have the same events, so they can be pooled: one window
# per unit, with as many Bernoulli trials per bin as trials were summed. Without `pool`, each trial
# of each unit is a window of its own.

# %%
model = spikecdl.DCEA(n_templates=3, template_length=0.05, family="binomial", random_state=0)
model.fit(training)
plots.training_curve(model)
plt.show()

# %%
plots.templates(model)
plt.show()

# %% [markdown]
# ## Score the fit
#
# The deviance explained in the fitted bins, in hidden bins of the same trials, which templates have
# seen, and in hidden bins of the test trials, which nothing has seen:

# %%
parts = model.decompose(training)
print(f"fitted bins:              {parts.deviance_explained:.3f}")
print(f"hidden bins:              {model.score(training):.3f}")
print(f"hidden bins, test trials: {model.score(test):.3f}")
assert model.score(test) > 0.2

# %% [markdown]
# The fitted rate over the measured rate of three units:

# %%
few = [0, 1, 2]
plots.rates_figure(model.decompose(training.select(units=few)), counts[:20].select(units=few))
plt.show()

# %% [markdown]
# ## Choose the number of templates
#
# `score` compares numbers of templates, penalties or lengths. `DCEA` is a scikit-learn estimator,
# so `GridSearchCV` works too. Here, a fit with one template is compared on the test trials.

# %%
one = spikecdl.DCEA(1, 0.05, "binomial", random_state=0).fit(training)
for fitted in (one, model):
    print(f"{fitted.n_templates} templates: {fitted.score(test):.3f}")

# %% [markdown]
# ## Save the results
#
# Events are a pandas table. The recording with all results can be written as NWB.

# %%
events = parts.events()
events.groupby("template").agg(n=("time", "size"), amplitude=("amplitude", "median"))

# %%
import tempfile

folder = Path(tempfile.mkdtemp())
spikecdl.write_nwb(folder / "results.nwb", spikes, decomposition=model.decompose(counts.pool()))
model.save(folder)
sorted(path.name for path in folder.iterdir())

# %% [markdown]
# The command line does the same, with figures and a report:
#
# ```bash
# spikecdl inspect datasets/demo.nwb
# spikecdl fit datasets/demo.nwb --family binomial --templates 3 --length 0.05 --bin 0.001 \
#     --pool-trials --out out/
# ```
