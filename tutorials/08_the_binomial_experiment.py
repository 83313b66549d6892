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
# # The paper's binomial experiment
#
# The paper first shows that three templates can be recovered from spikes and a random
# initialization: a square, a V and a cosine, in groups of 30 trials. `spikecdl experiment binomial`
# repeats this, and compares alternating training with the paper's own training. Here it runs on few
# groups and one seed, which takes a minute or two; the command runs 1,000 groups and ten seeds.

# %% tags=["setup"]
import importlib.util

if importlib.util.find_spec("spikecdl") is None:  # as on Colab
    print("Installing spikecdl ...")
    # %pip install --quiet "spikecdl @ git+https://github.com/spikecdl/spikecdl"

# %%
import matplotlib.pyplot as plt

from spikecdl.experiments import Options, binomial
from spikecdl.experiments.binomial import Groups

size = binomial.Size(
    many=20,  # groups, for alternating training
    few=20,  # groups, for the comparison of all methods
    n_seeds=1,
    n_trials=(10, 30),
    baselines=(5.0, 8.0),  # Hz
    depths=(10, 20),  # layers of the encoder
    n_unrolled=20,
    n_epochs=12,
)
result = binomial.run(Options(), size)
plt.close("all")  # figures are shown below, one by one

# %% [markdown]
# ## The data
#
# The trials of a group have the same events; their spikes are summed, which gives binomial counts.
# What the paper does not state (events, amplitudes, length) is a setting.

# %%
Groups(size.many)

# %%
result.figures["spikes"]

# %% [markdown]
# ## What was learned
#
# One row per method. The random initialization of the paper's trainer is grey, the truth dashed. A
# template is determined only up to a shift in time: each is drawn at the shift with the smallest
# error, and what has left the window counts as an error.

# %%
result.figures["templates"]

# %% [markdown]
# ## How fast
#
# Alternating training chooses its initialization among short runs before its first epoch, so it
# starts late and with a small error. `unrolled` back-propagates through every layer, `implicit`
# through the solution that many layers converge to. With more seeds, each has a line.

# %%
result.figures["learning"]

# %% [markdown]
# ## Trials, baselines, layers
#
# Errors decrease with more trials and more spikes.

# %%
result.figures["conditions"]

# %% [markdown]
# ## In numbers
#
# The table has a row for each condition and seed; the findings summarise it.

# %%
columns = ["n_groups", "n_trials", "baseline", "n_unrolled"]
measures = ["error_mean", "hit_rate", "false_alarm_rate", "rate_r2"]
groups = result.table.groupby(["method", *columns], dropna=False)
groups[measures].median().round(2)

# %%
for finding in result.findings:
    print("-", finding)

# %%
default = result.table[result.table["method"] == "alternating"]
by_gradient = result.table[result.table["method"].isin(["unrolled", "implicit"])]
assert default["error_mean"].max() < by_gradient["error_mean"].min()

# %% [markdown]
# ## Two ablations
#
# The paper asks how much tied weights and the right observation model contribute. An encoder with
# its own weights (`untied`) and a Gaussian model of the same spikes (`mismatch`) train from the
# same initialization on the same data. Both learn worse templates, though not always a worse rate:
# many small events of wrong templates also follow a rate.

# %%
for experiment in (binomial.untied, binomial.mismatch):
    ablated = experiment(Options(), size)
    print(ablated.findings[0])
plt.close("all")

# %%
ablated.figures["losses"]
