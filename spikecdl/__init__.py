"""spikecdl: convolutional dictionary learning for spike trains.

Learns *templates*, short waveforms of firing-rate change that recur at unknown times, from counts
in small bins that follow a natural exponential family.  Names are imported on first use, so that
``import spikecdl`` is quick.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Family": "model.families",
    "Gaussian": "model.families",
    "Binomial": "model.families",
    "Poisson": "model.families",
    "NegativeBinomial": "model.families",
    "ConvDictionary": "model.dictionary",
    "L1": "model.penalties",
    "GroupL1": "model.penalties",
    "UnrolledEncoder": "model.encoder",
    "UnrolledAutoencoder": "model.autoencoder",
    "ImplicitEncoder": "solvers.implicit",
    "sparse_code": "solvers.sparse_coding",
    "SpikeTrains": "data",
    "BinnedSpikes": "data",
    "Truth": "data",
    "Decomposition": "data",
    "Alternating": "training",
    "Unrolled": "training",
    "Implicit": "training",
    "DCEA": "estimator",
    "load": "estimator",
    "PoissonDenoiser": "denoise",
    "NotConvergedWarning": "estimator",
    "read": "io",
    "read_nwb": "io",
    "read_neo": "io",
    "read_phy": "io",
    "read_npz": "io",
    "read_counts": "io",
    "to_neo": "io",
    "write_nwb": "io",
    "write_npz": "io",
    "write_counts": "io",
}
_MODULES = {
    **{name: name for name in ("baselines", "datasets", "denoise", "io", "plots", "report")},
    **{name: name for name in ("simulate", "suggestions")},
    **{name: f"evaluation.{name}" for name in ("goodness_of_fit", "heldout", "metrics")},
}

__all__ = [*_HOME, *_MODULES, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{_MODULES[name]}")
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
