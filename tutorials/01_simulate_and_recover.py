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
# # Simulate spikes and recover the templates
#
# A simulation shows whether a method finds the right answer. Here, ten units are recorded in 30
# trials each. Three templates, which change the log odds of a spike, recur at random times on a
# baseline of 12 Hz; the times are the same in every trial of a unit. The fit gets the spike counts
# and nothing else.

# %% tags=["setup"]
import importlib.util

if importlib.util.find_spec("spikecdl") is None:  # as on Colab
    print("Installing spikecdl ...")
    # %pip install --quiet "spikecdl @ git+https://github.com/spikecdl/spikecdl"

# %%
import matplotlib.pyplot as plt

import spikecdl
from spikecdl import metrics, plots
from spikecdl.simulate import place_spikes, simulate

counts = simulate(
    "binomial",
    ["square", "vee", "cosine"],
    n_trials=30,
    n_units=10,
    duration=1.0,  # seconds
    bin_size=0.001,
    template_length=0.05,
    event_rate=2.0,  # events per second, of each template
    amplitude=(10.0, 20.0),
    baseline=12.0,  # Hz
    same_events=True,
    random_state=0,
)
counts

# %% [markdown]
# The counts hold their truth: templates of unit norm, all events, and baselines.

# %%
counts.truth.events.head()

# %% [markdown]
# These are the spikes of one unit. A trial of 1 s has only about 40 of them: in a single trial, no
# event is visible by eye.

# %%
plots.raster(counts, unit=0)
plt.show()

# %% [markdown]
# ## Fit
#
# Trials with the same events can be pooled, which gives 30 Bernoulli trials per bin.
# `template_length` is in seconds, like all times.

# %%
pooled = counts.pool()
model = spikecdl.DCEA(n_templates=3, template_length=0.05, family="binomial", random_state=0)
model.fit(pooled)
print(f"converged: {model.converged_}, after {model.n_iter_} epochs")

# %%
plots.templates(model, counts.truth)
plt.show()

# %% [markdown]
# ## What was found
#
# `decompose` returns the events, the fitted rates, and what each template adds to them.

# %%
parts = model.decompose(pooled)
parts.events().head()

# %%
plots.decomposition(parts, trial=0, unit=0)
plt.show()

# %% [markdown]
# Templates are found in any order, and with any shift. So each true template is compared with the
# one assigned to it, at the best shift. The error is 0 for the same shape and 1 for nothing in
# common.

# %%
found = metrics.recovery(parts)
print("template errors:", found.templates.errors.round(3))
print(f"events found: {found.events.hit_rate:.3f}, false: {found.events.false_alarm_rate:.3f}")
print(f"correlation of amplitudes: {found.events.amplitude_correlation:.2f}")

# %%
assert found.templates.max < 0.35
assert found.events.hit_rate > 0.9

# %% [markdown]
# ## Judge the fit without the truth
#
# The deviance explained in the fitted bins is too optimistic, because codes and templates adapt to
# the noise. Cross-validation fits again without a third of the trials, and scores these trials.

# %%
from spikecdl import crossvalidation

print(f"deviance explained: {parts.deviance_explained:.3f}")
print(crossvalidation.cross_validate(model, pooled, single_trials=counts))

# %% [markdown]
# ## Save the model
#
# A model is saved as two files, one for programs and one for people. The recording is written as
# NWB with its truth, which `spikecdl compare` reads.

# %%
import tempfile
from pathlib import Path

folder = Path(tempfile.mkdtemp())
model.save(folder)
spikecdl.write_nwb(folder / "simulated.nwb", place_spikes(counts, random_state=0))
again = spikecdl.load(folder)
assert (again.transform(pooled) == model.transform(pooled)).all()
sorted(path.name for path in folder.iterdir())
