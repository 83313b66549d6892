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
# From a file to templates, codes and a judgement of the fit. The recording is the small one that
# comes with spikecdl; put the path of yours in its place. `spikecdl.read` takes NWB, every format
# from which Neo reads spikes, Phy folders and npz.

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
# ## Look first
#
# Which trials are there, and what is known of them? Windows can start at any column of times.

# %%
spikes.trials.head()

# %% [markdown]
# Bins should be short enough that a bin of one trial rarely holds two spikes, and short compared
# with what is looked for; templates should be as long as the response. A first guess comes from
# the spikes' autocovariance.

# %%
from spikecdl.suggestions import suggest

suggest(spikes)

# %%
counts = spikes.bin(0.001)
plots.raster(counts, unit=3)
plt.show()

# %% [markdown]
# ## Hold trials back
#
# Ten trials are kept for the end. What was not observed is masked, never counted as silence.

# %%
training, test = counts[:20].pool(), counts[20:].pool()
training.mask.mean()

# %% [markdown]
# ## Fit
#
# All trials of a unit follow the same course here, so they are pooled: one window per unit,
# binomial with as many Bernoulli trials per bin as trials were summed. Without `pool`, each trial
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
# ## How good is it?
#
# On the fitted trials, on hidden bins of them, and on hidden bins of the trials held back.

# %%
parts = model.decompose(training)
print(f"fitted bins:             {parts.deviance_explained:.3f}")
print(f"hidden bins:             {model.score(training):.3f}")
print(f"hidden bins, new trials: {model.score(test):.3f}")
assert model.score(test) > 0.2

# %% [markdown]
# The fitted rate over the measured one, for a few units.

# %%
few = [0, 1, 2]
plots.rates_figure(model.decompose(training.select(units=few)), counts[:20].select(units=few))
plt.show()

# %% [markdown]
# ## Choose the number of templates
#
# `DCEA` is a scikit-learn estimator. The number of templates, the penalty or the length can be
# compared by `score`; here, by hand, on the trials held back.

# %%
for n_templates in (1, 3):
    other = spikecdl.DCEA(n_templates, 0.05, "binomial", random_state=0).fit(training)
    print(n_templates, "templates:", round(other.score(test), 3))

# %% [markdown]
# ## Take the results along
#
# The events as a table, for any analysis of one's own; and everything as NWB.

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
# The same from the command line, with figures and a report:
#
# ```bash
# spikecdl inspect datasets/demo.nwb
# spikecdl fit datasets/demo.nwb --family binomial --templates 3 --length 0.05 --bin 0.001 \
#     --pool-trials --out out/
# ```
