"""Photon-limited images: counts in, expected counts out.

`PoissonDenoiser` denoises with weights that come with the package, or that it learns from clean
images; `spikecdl denoise` does the same from the command line.  `VST`, `SPDA` and `ResidualCNN` are
comparison methods.
"""

from __future__ import annotations

from spikecdl.denoise.benchmark import VST
from spikecdl.denoise.denoiser import MODELS, PoissonDenoiser, UnusualLightWarning, estimate_peak
from spikecdl.denoise.images import read_folder, read_images, write_images
from spikecdl.denoise.networks import ResidualCNN
from spikecdl.denoise.spda import SPDA
