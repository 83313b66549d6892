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
# # Your own recording, from NWB to report
#
# This tutorial goes from a file to templates, events, a score on other trials, and a report. It
# uses the small recording that comes with spikecdl; put the path of yours in its place.
# `spikecdl.read` reads NWB, Phy folders, npz, and every format from which Neo reads spikes.

# %% tags=["setup"]
import importlib.util

if importlib.util.find_spec("spikecdl") is None:  # as on Colab
    print("Installing spikecdl ...")
    # %pip install --quiet "spikecdl @ git+https://github.com/spikecdl/spikecdl"

# %%
import matplotlib.pyplot as plt

import spikecdl
from spikecdl import plots

path = spikecdl.datasets.demo()  # for example "recording.nwb"
spikes = spikecdl.read(path)
spikes

# %% [markdown]
# ## Look at the recording
#
# The table of trials has a row per trial. Windows can be aligned to any of its columns of times.

# %%
spikes.trials.head()

# %% [markdown]
# `questions` lists values that look wrong, such as times outside the session; here it finds none.
# `suggest` makes a first guess of bin size and template length from the autocovariance of the
# spikes. Choose bins so short that a bin of one trial rarely holds two spikes, and much shorter
# than the response. Templates should be as long as the response.

# %%
from spikecdl.suggestions import questions, suggest

print(questions(spikes))
suggest(spikes)

# %%
counts = spikes.bin(0.001, units=spikes.unit_ids[:4])  # enough for a tutorial
plots.raster(counts, unit=3)
plt.show()

# %% [markdown]
# ## Keep trials for the test
#
# Ten trials are kept for the test. Time that was not observed is masked, not counted as silence.
#
# In this recording, all trials of a unit have the same events, so they can be pooled: one window
# per unit, with as many Bernoulli trials per bin as trials were summed. Without `pool`, each trial
# of each unit is a window of its own.

# %%
training, test = counts[:20].pool(), counts[20:].pool()
f"{training.mask.mean():.0%} of the bins were observed"

# %% [markdown]
# ## Fit

# %%
model = spikecdl.DCEA(n_templates=3, template_length=0.05, family="binomial", random_state=0)
model.fit(training)
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
# ## Events
#
# Events are a pandas table: trial, unit, template, time, amplitude, and
# [how sure each is](https://github.com/spikecdl/spikecdl/blob/main/docs/events.md).

# %%
events = parts.events()
events.head()

# %%
events.groupby("template").agg(n=("time", "size"), amplitude=("amplitude", "median"))

# %% [markdown]
# ## Write the results
#
# The model, its events as a table, the recording with all results as NWB, and a report as one HTML
# file that needs no connection. The report begins with a verdict, which rests on trials that were
# held out.

# %%
import tempfile
from pathlib import Path

from spikecdl import crossvalidation
from spikecdl.report import draw_figures, fit_summary, verdict, write_report

folder = Path(tempfile.mkdtemp())  # for example Path("results")
model.save(folder)
events.to_csv(folder / "events.csv", index=False)
spikecdl.write_nwb(folder / "results.nwb", spikes, decomposition=parts)

held_out = crossvalidation.cross_validate(model, training, single_trials=counts[:20])
summary = fit_summary(model, parts, path, held_out)
write_report(folder / "report.html", parts, draw_figures(model, parts, counts[:20]), summary)
for line in verdict(summary):
    print("-", line)

# %%
sorted(file.name for file in folder.iterdir())

# %% [markdown]
# The model can be read again, and applied to another recording with bins of the same size:

# %%
again = spikecdl.load(folder)
again.decompose(test).events().head()

# %% [markdown]
# ## The same from the command line
#
# `fit` fits, scores by cross-validation, and writes all of this to a folder:
#
# ```bash
# spikecdl inspect recording.nwb
# spikecdl fit recording.nwb --family binomial --templates 3 --length 0.05 --bin 0.001 \
#     --pool-trials --out out/
# spikecdl apply out/ other.nwb --out other/
# ```
