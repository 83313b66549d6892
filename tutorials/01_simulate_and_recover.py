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
# # Simulate spikes, and recover what made them
#
# Whether a method works is best seen where the answer is known. Here 20 units are recorded in 30
# trials each. Three waveforms of log-odds change recur at random times, the same times in every
# trial of a unit, on a baseline of 8 Hz. The fit gets the spike counts and nothing else.

# %%
import matplotlib.pyplot as plt

import spikecdl
from spikecdl import metrics, plots
from spikecdl.simulate import place_spikes, simulate

counts = simulate(
    "binomial",
    ["square", "vee", "cosine"],
    n_trials=30,
    n_units=20,
    duration=2.0,  # seconds
    bin_size=0.001,
    template_length=0.05,
    event_rate=2.0,  # events per second, of each template
    amplitude=(10.0, 20.0),
    baseline=8.0,  # Hz
    same_events=True,
    random_state=0,
)
counts

# %% [markdown]
# The truth comes with the counts: templates of unit norm, every event, and the baselines.

# %%
counts.truth.events.head()

# %% [markdown]
# Spikes of one unit in single trials. At 8 Hz a trial of 2 s holds some 20 spikes: no event can
# be told by eye.

# %%
plots.raster(counts, unit=0)
plt.show()

# %% [markdown]
# ## Fit
#
# Trials with the same events are pooled: 30 Bernoulli trials per bin. `template_length` is in
# seconds, as everywhere.

# %%
pooled = counts.pool()
model = spikecdl.DCEA(n_templates=3, template_length=0.05, family="binomial", random_state=0)
model.fit(pooled)
print(f"settled: {model.converged_}, after {model.n_iter_} epochs")

# %%
plots.templates(model, counts.truth)
plt.show()

# %% [markdown]
# ## What was found
#
# `decompose` takes the counts apart: events, fitted rates, and what each template adds.

# %%
parts = model.decompose(pooled)
parts.events().head()

# %%
plots.decomposition(parts, trial=0, unit=0)
plt.show()

# %% [markdown]
# Templates are known up to order and shift, so each true one is compared at the best shift of the
# template assigned to it. The error is 0 for the same shape and 1 for nothing in common.

# %%
found = metrics.recovery(parts)
print("template errors:", found.templates.errors.round(3))
print(f"events found: {found.events.hit_rate:.3f}, false: {found.events.false_alarm_rate:.3f}")
print(f"correlation of amplitudes: {found.events.amplitude_correlation:.2f}")

# %%
assert found.templates.max < 0.35
assert found.events.hit_rate > 0.9

# %% [markdown]
# ## Is the fit any good, without the truth?
#
# The deviance explained of the bins that were fitted flatters: codes adapt to noise. `score` hides
# a quarter of the bins in turn, finds codes in the others, and judges the hidden ones.

# %%
print(f"deviance explained: {parts.deviance_explained:.3f}")
print(f"in bins held out:   {model.score(pooled):.3f}")

# %% [markdown]
# ## Keep it
#
# A model is two files: one to compute with, one to read. The recording becomes NWB with the truth
# inside, which `spikecdl compare` reads.

# %%
import tempfile
from pathlib import Path

folder = Path(tempfile.mkdtemp())
model.save(folder)
spikecdl.write_nwb(folder / "simulated.nwb", place_spikes(counts, random_state=0))
again = spikecdl.load(folder)
assert (again.transform(pooled) == model.transform(pooled)).all()
sorted(path.name for path in folder.iterdir())
