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
# # Photon-limited images
#
# A microscope frame of a few photons per pixel holds Poisson counts, and we want their rate. The
# model is the one for spikes: an exponential family whose log rate is a sum of templates, now in
# two dimensions. The networks here were trained beforehand on clean photographs. This tutorial
# needs scikit-image (`pip install "spikecdl[images]"`).

# %% tags=["setup"]
import importlib.util

if importlib.util.find_spec("spikecdl") is None:  # as on Colab
    print("Installing spikecdl ...")
    # %pip install --quiet "spikecdl[images] @ git+https://github.com/spikecdl/spikecdl"

# %%
import matplotlib.pyplot as plt
import numpy as np
from skimage import data

from spikecdl import metrics
from spikecdl.denoise import VST, PoissonDenoiser, estimate_peak

# %% [markdown]
# ## A frame
#
# A cell, seen by a microscope in good light. We turn it into a frame of few photons: the brightest
# pixel has an expected count of 4, and most pixels have one or two.

# %%
clean = data.cell()[265:485, 290:540].astype(float)
clean /= clean.max()
peak = 4.0
counts = np.random.default_rng(0).poisson(peak * clean)
f"{counts.mean():.2f} photons per pixel, at most {counts.max()}"

# %% [markdown]
# ## Denoised
#
# Counts in, expected counts out. `pretrained()` gives one network for all peaks;
# `pretrained("uc", peak=4)` and `pretrained("c", peak=4)` give the two networks of the paper,
# DCEA-UC and DCEA-C, each trained for one peak.

# %%
rates = {
    "blind": PoissonDenoiser.pretrained().predict(counts),
    "DCEA-UC": PoissonDenoiser.pretrained("uc", peak=peak).predict(counts),
    "VST and total variation": VST().predict(counts),
}
{name: f"{metrics.psnr(rate / peak, clean):.1f} dB" for name, rate in rates.items()}

# %%
figure, axes = plt.subplots(1, 5, figsize=(13, 2.6), layout="constrained")
shown = {"clean": clean * peak, "counts": counts, **rates}
for ax, (name, image) in zip(axes, shown.items(), strict=True):
    ax.imshow(image, cmap="gray", vmin=0, vmax=peak)
    ax.set_title(name)
    ax.axis("off")
plt.show()

# %% [markdown]
# ## The peak
#
# The network for all peaks takes the amount of light from the mean count. Where the peak is needed,
# to choose between networks of different peaks, it can be estimated.

# %%
f"peak {estimate_peak(counts):.2f} counts"

# %% [markdown]
# ## A stack
#
# The frames of a stack are denoised one by one. Here the light fades from frame to frame.

# %%
fading = [np.random.default_rng(n).poisson(light * clean) for n, light in enumerate((4, 2, 1, 0.5))]
restored = PoissonDenoiser.pretrained().predict(np.stack(fading))

figure, axes = plt.subplots(2, 4, figsize=(11, 4.6), layout="constrained")
for column, (frame, rate) in enumerate(zip(fading, restored, strict=True)):
    light = 4 / 2**column
    for ax, image in zip(axes[:, column], (frame, rate), strict=True):
        ax.imshow(image, cmap="gray", vmin=0, vmax=light)
        ax.axis("off")
    axes[0, column].set_title(f"peak {light:g}")
plt.show()

# %% [markdown]
# ## What was learned
#
# DCEA-UC has three dictionaries of 169 templates. In each layer, one takes counts to codes and one
# takes codes back to rates; the third is the decoder. These are the strongest templates of the
# decoder:

# %%
templates = PoissonDenoiser.pretrained("uc", peak=4).network_.autoencoder.dictionary.templates
templates = templates.detach().numpy()[:, 0]
strongest = np.argsort(-np.linalg.norm(templates, axis=(1, 2)))[:48]
figure, axes = plt.subplots(4, 12, figsize=(9, 3.2), layout="constrained")
for ax, template in zip(axes.flat, templates[strongest], strict=True):
    largest = np.abs(template).max()
    ax.imshow(template, cmap="RdBu_r", vmin=-largest, vmax=largest)
    ax.axis("off")
plt.show()

# %% [markdown]
# ## A network of your own
#
# Photographs are not cells. A network trained on clean images of the same kind, such as long
# exposures, does better on that kind. A real training takes hours on a CPU, or minutes on a GPU;
# with `start=` it begins from existing weights. Two epochs on the surroundings of the frame show
# how it is done.

# %%
images = [data.cell()[:265], data.cell()[485:]]
own = PoissonDenoiser(peak=4, model="c", n_epochs=2, batch=2, crop=64).fit(images)
[f"epoch {n + 1}: {-10 * np.log10(loss):.1f} dB" for n, loss in enumerate(own.losses_)]

# %% [markdown]
# `own.save("weights.safetensors")` writes the network, and `PoissonDenoiser.read` reads it. On the
# command line:
#
# ```bash
# spikecdl denoise frames.tif --out rates.tif
# spikecdl denoise train long_exposures/ --model uc --peak 4 --epochs 50 --out weights/
# spikecdl denoise frames.tif --weights weights/uc-4.safetensors --out rates.tif
# spikecdl denoise benchmark long_exposures/ --peaks 1 4 --methods vst-tv dcea-uc --weights weights/
# ```
