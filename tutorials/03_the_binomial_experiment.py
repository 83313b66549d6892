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
# # The source's binomial experiment
#
# The paper that the method comes from shows first that three templates come back from spikes: a
# square, a V and a cosine, in groups of 30 trials, from random starts. `spikecdl experiment
# binomial` does it again, with the default fit beside the source's own training. Here it runs on
# few groups and two seeds, to be read in a minute; the command runs 1,000 groups and ten seeds.

# %%
import matplotlib.pyplot as plt

from spikecdl.experiments import Options, binomial, mismatch, untied
from spikecdl.experiments.benchmark import Groups

size = binomial.Size(
    many=40,  # groups, for the default fit
    few=30,  # groups, for all methods side by side
    n_seeds=2,
    n_trials=(10, 30),
    baselines=(5.0, 8.0),  # Hz
    depths=(10, 25),  # layers of the encoder
    n_unrolled=25,
    n_epochs=12,
)
result = binomial.run(Options(), size)

# %% [markdown]
# ## The data
#
# The trials of a group have the same events; their spikes are summed, which gives binomial counts.
# What the source does not state (events, amplitudes, length) is a setting.

# %%
Groups(size.many)

# %%
result.figures["spikes"]

# %% [markdown]
# ## What was learned
#
# A row for each method. The random start of the source's trainer is grey, the truth dashed. A
# template is known up to its place in time: each is drawn moved by the shift that suits it best,
# and what has left the window counts as an error.

# %%
result.figures["templates"]

# %% [markdown]
# ## How fast
#
# The default fit chooses its start in a race of short runs before its first epoch, so it begins
# late and low. `unrolled` back-propagates through every layer, `implicit` through the solution that
# many layers tend to. A line is a seed.

# %%
result.figures["learning"]

# %% [markdown]
# ## Trials, baselines, layers
#
# More trials and more spikes make smaller errors.

# %%
result.figures["conditions"]

# %% [markdown]
# ## In numbers
#
# A row of the table for each condition and seed; the findings are made of it.

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
# ## Two things taken away
#
# The source asks what tied weights and the right observation model are worth. An encoder with
# weights of its own (`untied`) and a Gaussian model of the same spikes (`mismatch`) train from the
# same starts on the same data. Both learn worse templates, though not always a worse rate: many
# small events of wrong templates follow a rate, too.

# %%
small = untied.Size(n_groups=30, n_seeds=2, n_unrolled=25, n_epochs=12)
for experiment in (untied, mismatch):
    lost = experiment.run(Options(), small)
    print(lost.findings[0])

# %%
lost.figures["losses"]

# %%
plt.close("all")
