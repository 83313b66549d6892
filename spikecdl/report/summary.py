"""What was fitted and how well, as plain values that JSON can hold; docs/files.md lists them."""

from __future__ import annotations

import hashlib
import platform
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from spikecdl.data import Decomposition
    from spikecdl.estimator import DCEA

_LIBRARIES = ("torch", "numpy", "scipy", "scikit-learn", "pandas", "h5py", "pynwb", "neo")


def fit_summary(model: DCEA, decomposition: Decomposition, source: Path) -> dict[str, Any]:
    """Summarize a fit: settings, data, versions, scores, and recovery of a simulation's truth.

    Parameters
    ----------
    model : DCEA
        A fitted model.
    decomposition : Decomposition
        Made by ``model.decompose(counts)`` from the counts that were fitted.
    source : Path
        File or folder that the data come from; its SHA-256 identifies them.

    Examples
    --------
    >>> from spikecdl import DCEA
    >>> counts = np.random.default_rng(0).poisson(0.2, size=(10, 100))
    >>> counts[:, 20:25] += 2
    >>> model = DCEA(n_templates=1, template_length=10, random_state=0).fit(counts)
    >>> summary = fit_summary(model, model.decompose(counts), Path("counts.npy"))
    >>> summary["family"], summary["seed"], summary["data"]["n_trials"]
    ('poisson', 0, 10)
    """
    from spikecdl.config import describe
    from spikecdl.evaluation.metrics.truth import comparable

    settings = describe(model.get_params(deep=False))
    seed = settings.pop("random_state")
    recovered = {"recovery": recovery_summary(decomposition)} if comparable(decomposition) else {}
    return {
        "settings": {**settings, "bin_size": decomposition.counts.bin_size},
        "seed": seed,
        **score_summary(model, decomposition, source),
        **recovered,
        "penalty_weight_fraction": model.penalty_weight_,
        "converged": model.converged_,
        "n_epochs": model.n_iter_,
    }


def score_summary(model: DCEA, decomposition: Decomposition, source: Path) -> dict[str, Any]:
    """Summarize data, versions and scores of any counts; parameters as for `fit_summary`."""
    from spikecdl.evaluation.goodness_of_fit import of_decomposition

    counts = decomposition.counts
    per_unit = zip(counts.unit_ids, decomposition.deviance_explained_per_unit, strict=True)
    summary = {
        "data": _data_summary(decomposition, source),
        "versions": versions(),
        "family": decomposition.family.name,
        "layout": decomposition.layout,
        "deviance_explained": _finite(decomposition.deviance_explained),
        "deviance_explained_per_unit": {str(unit): _finite(value) for unit, value in per_unit},
        "held_out_deviance_explained": _finite(model.score(counts)),
        "events_per_template": np.count_nonzero(decomposition.codes, axis=(0, 1, 3)).tolist(),
    }
    rescaling = of_decomposition(decomposition, model.family)
    if rescaling is not None:
        summary["time_rescaling_per_unit"] = {
            str(row.Index): {
                "n_intervals": row.n_intervals,
                "distance": _finite(row.distance),
                "band": _finite(row.band),
                "inside": row.inside if row.n_intervals else None,
            }
            for row in rescaling.table().itertuples()
        }
    return summary


def recovery_summary(
    decomposition: Decomposition, tolerance: float | None = None
) -> dict[str, Any]:
    """Summarize errors of the templates and events found in a simulation.

    Raises
    ------
    ValueError
        If the counts hold no truth with the decomposition's bins and layout.
    """
    from spikecdl.evaluation.metrics import recovery

    found = recovery(decomposition, tolerance)
    return {
        "template_errors": found.templates.errors.tolist(),
        "assignment": found.templates.assignment.tolist(),
        "tolerance": found.tolerance,
        "n_true_events": found.events.hits + found.events.misses,
        "hit_rate": _finite(found.events.hit_rate),
        "false_alarm_rate": _finite(found.events.false_alarm_rate),
    }


def versions() -> dict[str, str]:
    """Return the versions of spikecdl, Python and the libraries that results depend on."""
    import spikecdl

    installed = {name: metadata.version(name) for name in _LIBRARIES}
    return {"spikecdl": spikecdl.__version__, "python": platform.python_version(), **installed}


def _data_summary(decomposition: Decomposition, source: Path) -> dict[str, Any]:
    """Describe the counts, with the SHA-256 of their file (of the counts if it is a folder)."""
    counts = decomposition.counts
    digest = _file_digest(source) if source.is_file() else hashlib.sha256(counts.counts.tobytes())
    n_trials, n_units, n_bins = counts.shape
    summary = {
        "source": str(source),
        "sha256": digest.hexdigest(),
        "n_trials": n_trials,
        "n_units": n_units,
        "n_bins": n_bins,
        "bin_size": counts.bin_size,
        "n_pooled": int(counts.n_pooled.max()),
    }
    if counts.is_counts:
        summary |= {"n_spikes": int(counts.counts.sum()), "sub_bins": counts.sub_bins}
    if decomposition.family.has_n_trials:
        summary["bernoulli_trials_per_bin"] = int(counts.n_trials.max())
    return summary


def _file_digest(path: Path) -> Any:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest


def _finite(value: float) -> float | None:
    """Return a number, or None for what JSON cannot hold."""
    return float(value) if abs(value) < float("inf") else None
