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
# # Sequences across a population
#
# In a population, an event can be a sequence: each unit fires at its own time after the onset, and
# many do not take part. With `layout="joint"`, a template has a waveform for each unit, and its
# events are common to all. Here 30 units fire two sequences of half a second at random times;
# nobody marks them.

# %% tags=["setup"]
import importlib.util

if importlib.util.find_spec("spikecdl") is None:  # as on Colab
    print("Installing spikecdl ...")
    # %pip install --quiet "spikecdl @ git+https://github.com/spikecdl/spikecdl"

# %%
import matplotlib.pyplot as plt
import numpy as np

import spikecdl
from spikecdl import metrics, plots
from spikecdl.simulate import simulate

n_units, length, bin_size = 30, 50, 0.01  # bins of a sequence; seconds
rng = np.random.default_rng(1)
centre = rng.uniform(0.05, 0.95, (2, n_units, 1)) * length
bump = np.exp(-0.5 * ((np.arange(length) + 0.5 - centre) / 3) ** 2)
takes_part = rng.random((2, n_units, 1)) < 0.6
sequences = np.log(15) * bump * takes_part  # change of the log rate (sequence, unit, bin)


def record(random_state):
    """Simulate 100 s: 2 Hz, 30 Hz for a moment in a sequence, three of each kind in 10 s."""
    return simulate(
        "poisson",
        sequences,
        layout="joint",
        n_trials=10,
        n_units=n_units,
        duration=10.0,
        bin_size=bin_size,
        n_events=3,
        amplitude=np.linalg.norm(sequences, axis=(1, 2)).mean(),
        baseline=2.0,
        random_state=random_state,
    )


counts = record(0)
counts

# %% [markdown]
# In the order in which the units were recorded, nothing is to be seen:

# %%
plt.figure(figsize=(8, 3), layout="constrained")
plt.imshow(counts.counts[0], aspect="auto", cmap="Greys", vmax=1, extent=(0, 10, n_units, 0))
plt.xlabel("time (s)")
plt.ylabel("unit")
plt.show()

# %% [markdown]
# ## How many sequences?
#
# `select` fits zero to three templates without a part of the trials, and compares the probability
# of these trials, summed over all events ([number and length](03_number_and_length.ipynb)).

# %%
settings = {"family": "poisson", "layout": "joint", "trainer": "marginal", "random_state": 0}
model = spikecdl.DCEA(template_length=0.5, **settings)
found = spikecdl.select(model, counts, n_templates=[0, 1, 2, 3], n_folds=2)
found.table().drop(columns=["template_length", "covariates"]).round(3)

# %%
assert found.recommended.n_templates == 2
plots.selection(found)
plt.show()

# %% [markdown]
# ## Fit
#
# A unit that does not take part in a sequence has a row of zeros in its template.

# %%
model = spikecdl.DCEA(2, 0.5, **settings).fit(counts)
plots.templates(model)
plt.show()

# %% [markdown]
# ## The sequences
#
# Sorted by their template and the time of their peak, the units show the sequences. Triangles mark
# the onsets of events.

# %%
parts = model.decompose(counts)
plots.population_raster(parts, trial=0)
plt.show()

# %%
recovered = metrics.recovery(parts, tolerance=0.05)
print(f"sequences found: {recovered.events.hit_rate:.2f}")
print(f"false:           {recovered.events.false_alarm_rate:.2f}")
parts.events().round(3).head()

# %%
assert recovered.events.hit_rate > 0.9

# %% [markdown]
# ## Another recording of the same units
#
# The templates are kept; the events of the other recording are found with them. Its evidence says
# whether the sequences are there at all: compare it with a constant rate of each unit.

# %%
other = record(1)
again = model.decompose(other)
recovered = metrics.recovery(again, tolerance=0.05)
print(f"sequences found: {recovered.events.hit_rate:.2f}")
print(f"false:           {recovered.events.false_alarm_rate:.2f}")
metrics.event_table(again).round(2)

# %%
plots.population_raster(again, trial=3)
plt.show()

# %% [markdown]
# On the command line:
#
# ```bash
# spikecdl select population.nwb --layout joint --family poisson --templates 0 1 2 3 --length 0.5 \
#     --bin 0.01 --out model/
# spikecdl apply model/ other.nwb --out other/
# ```
