"""Photon-limited images: counts in, expected counts out.

`PoissonDenoiser` denoises with weights that come with the package, or that it learns from clean
images; `spikecdl denoise` does so from the command line.
"""

from __future__ import annotations

from spikecdl.denoise.denoiser import PoissonDenoiser
from spikecdl.denoise.images import read_folder, read_images, write_images
from spikecdl.denoise.light import UnusualLightWarning
from spikecdl.denoise.models import MODELS
from spikecdl.denoise.peaks import estimate_peak

__all__ = [
    "MODELS",
    "PoissonDenoiser",
    "UnusualLightWarning",
    "estimate_peak",
    "read_folder",
    "read_images",
    "write_images",
]
