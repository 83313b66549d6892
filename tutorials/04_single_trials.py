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
# # Single trials, spike history and probabilities
#
# When events differ from trial to trial, trials cannot be pooled. A response of a few spikes can
# then be chance, and every neuron also has a reason of its own to fire or not: it was silent just
# after its last spike. This tutorial fits single trials of two refractory units, and asks how far
# each event can be believed.

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
from spikecdl import metrics, plots
from spikecdl.simulate import simulate


def refractory(lag):
    """Change of the log odds of a spike, by a spike ``lag`` seconds ago."""
    return -4 * np.exp(-lag / 0.006)


counts = simulate(
    "binomial",
    ["smooth"],
    n_trials=90,
    n_units=2,
    duration=2.0,  # seconds
    bin_size=0.002,
    template_length=0.06,
    event_rate=1.5,  # events per second, at other times in each trial
    amplitude=(8.0, 11.0),
    baseline=40.0,  # Hz, without the spike history
    history=refractory,
    random_state=3,
)
training, test = counts[:30], counts[30:]
plots.raster(training, unit=0)
plt.show()

# %% [markdown]
# ## Without spike history
#
# `trainer="marginal"` sums over all events that the counts may hold, each weighted by its
# probability, instead of deciding which there are. Without history, nothing is found all the same:
# refractory spikes are more regular than the model expects, which hides the additional spikes of
# the events. (`overlap=1` says that events do not overlap, which saves time.)

# %%
trainer = spikecdl.Marginal(overlap=1)
settings = {"family": "binomial", "trainer": trainer, "random_state": 0}
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    without = spikecdl.DCEA(1, 0.06, history=None, **settings).fit(training)
print(caught[-1].message)

# %% [markdown]
# ## With spike history
#
# `history` is the time, in seconds, for which a spike may lower the rate of its unit. The filter is
# learned together with the template. By default, a fit compares the log evidence with and without a
# history of 100 ms, and uses it if it gains ten nats. It does the same with drift and, for the
# Poisson family, with bursts and with counts that are more variable.

# %%
model = spikecdl.DCEA(1, 0.06, **settings).fit(training)
print(model.ingredients_)
assert model.ingredients_["history"]["nats"] > 10
plots.history(model)
plt.show()

# %%
plots.templates(model, counts.truth)
plt.show()

# %% [markdown]
# ## Which model predicts other trials?
#
# The evidence is the log probability of a trial, summed over all events that it may hold. Nothing
# is fitted to the test trials.

# %%
gain = model.evidence(test) - without.evidence(test)
error = gain.std(ddof=1) / np.sqrt(len(gain))
print(f"{gain.mean():.1f} nats a trial better with history, standard error {error:.1f}")
assert gain.mean() > 5 * error

# %% [markdown]
# ## Probabilities
#
# Each event has a probability, the standard deviations of its time and amplitude, and a q-value:
# the smallest false discovery rate at which it is kept.

# %%
parts = model.decompose(test)
events = parts.events()
events.round(3).head()

# %% [markdown]
# Are the probabilities right? The truth of a simulation tells. An event counts as true if a planted
# one is within a fifth of the template's length: the probability allows for an eighth, and the
# learned template may be shifted by a few milliseconds.

# %%
found = metrics.recovery(parts, tolerance=0.06 / 5)
is_true = np.zeros(len(events), bool)
is_true[found.events.pairs[:, 0]] = True
print(f"expected to be false: {1 - events['probability'].mean():.2f} of {len(events)} events")
print(f"in truth false:       {1 - is_true.mean():.2f}")
print(f"planted events found: {found.events.hit_rate:.2f}")

# %%
edges = [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
group = np.digitize(events["probability"], edges[1:-1])
figure, ax = plt.subplots(figsize=(4, 3.5), layout="constrained")
ax.plot([0.5, 1], [0.5, 1], color="grey", linestyle="--", label="as it should be")
for number in range(len(edges) - 1):
    inside = group == number
    share, n = is_true[inside].mean(), inside.sum()
    spread = np.sqrt(share * (1 - share) / n)
    ax.errorbar(events["probability"][inside].mean(), share, spread, fmt="o", color="C0")
ax.set(xlabel="probability of the event", ylabel="share that is true")
ax.legend()
plt.show()

# %% [markdown]
# ## Keep the events that can be believed
#
# `events(fdr=0.1)` keeps the most probable events, of which a tenth is expected to be false. For
# averages, weight each event by its probability rather than keep or drop it. The raster shows the
# spikes around all events of a unit, the most probable on top.

# %%
metrics.event_table(parts, fdr=0.1).round(2)

# %%
sure = parts.events(fdr=0.1)
assert 0 < len(sure) < len(events)
plots.event_raster(parts, template=0, unit=0, sort="probability")
plt.show()

# %% [markdown]
# On the command line, `fit` takes single trials unless `--pool-trials` is given, and prints how
# many events are expected to be true:
#
# ```bash
# spikecdl fit recording.nwb --bin 0.002 --length 0.06 --templates 1 --out out/
# ```
