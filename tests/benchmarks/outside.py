"""Other packages that learn templates, called as in their documentation.

alphacsc and sporco learn convolutional dictionaries for Gaussian signals; seqnmf learns sequences
across units as a convolutional non-negative factorization.  Packages that are not installed are
skipped: ``pip install alphacsc sporco seqnmf``.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.signal import find_peaks
from timing import Skip


@dataclass(frozen=True)
class Found:
    """Templates (template, channel, bin), codes (window, template, onset), and the fitted mean."""

    templates: np.ndarray
    codes: np.ndarray
    mean: np.ndarray | None = None


def alphacsc(y: np.ndarray, n_templates: int, length: int, share: float, seed: int) -> Found:
    """Learn from signals (window, bin), with all windows in each update.

    ``share`` is the penalty weight as a fraction of lambda_max.
    """
    model = _import("alphacsc").BatchCDL(
        n_templates,
        length,
        reg=share,
        n_iter=40,
        rank1=False,
        solver_z="l-bfgs",  # its default cannot go on from codes with NumPy 2.4
        D_init=_pieces(y, n_templates, length, seed)[:, None],
        random_state=seed,
        verbose=0,
    )
    with _quiet():
        model.fit(y[:, None])
    return Found(model.D_hat_, model.z_hat_)


def sporco(y: np.ndarray, n_templates: int, length: int, share: float, seed: int) -> Found:
    """Learn from signals (window, bin) by ADMM, with non-negative codes.

    ``share`` is the penalty weight as a fraction of the largest score of an initial template.
    """
    package = _import("sporco.dictlrn.cbpdndl").ConvBPDNDictLearn
    initial = _pieces(y, n_templates, length, seed)
    scores = [np.correlate(row, template, "valid").max() for row in y for template in initial]
    method = "cns"  # its default, "pgm", ends at three times the objective on clean signals
    options = package.Options({"MaxMainIter": 300, "CBPDN": {"NonNegCoef": True}}, dmethod=method)
    with _quiet():
        weight = share * float(max(scores))
        learner = package(initial.T, y.T, weight, options, dmethod=method, dimK=1, dimN=1)
        learner.solve()
    templates = learner.getdict().reshape(length, n_templates)
    codes = learner.getcoef().reshape(y.shape[1], len(y), n_templates)
    return Found(templates.T[:, None], np.moveaxis(codes, 0, 2)[..., : y.shape[1] - length + 1])


def seqnmf(
    y: np.ndarray,
    n_templates: int,
    length: int,
    penalty: float,
    seed: int,
    observed: np.ndarray | None = None,
    templates: np.ndarray | None = None,
) -> Found:
    """Learn from one recording (unit, bin) of non-negative signals.

    ``penalty`` is the weight on overlapping sequences, ``observed`` marks the bins to use, and
    ``templates`` are those that are known.
    """
    with _pkg_resources():
        fit = _import("seqnmf").seqnmf
        reconstruct = importlib.import_module("seqnmf.helpers").reconstruct
    n_units, n_bins = y.shape
    rng, padded = np.random.default_rng(seed), n_bins + 2 * length
    seen = np.ones((n_units, n_bins)) if observed is None else observed
    first = y.max() * rng.random((n_units, n_templates, length))
    with _quiet():
        W, H, *_ = fit(
            y.astype(float),
            K=n_templates,
            L=length,
            Lambda=penalty,
            M=np.pad(seen.astype(float), ((0, 0), (length, length)), constant_values=1),
            W_init=first if templates is None else templates.transpose(1, 0, 2),
            W_fixed=templates is not None,
            shift=templates is None,
            H_init=y.max() * rng.random((n_templates, padded)) / np.sqrt(padded / 3),
        )
    # its templates begin one bin before their codes
    return Found(W.transpose(1, 0, 2), H[None, :, 1:], reconstruct(W, H))


def peaks(codes: np.ndarray, apart: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the template and onset of the peaks of codes (template, onset).

    They are at least ``apart`` bins from each other, and above a fraction ``share`` of the largest
    code of their template.
    """
    templates, onsets = [], []
    for template, row in enumerate(codes):
        found = find_peaks(np.pad(row, 1), max(share * row.max(), 1e-12), distance=max(apart, 1))
        onsets.append(found[0] - 1)
        templates.append(np.full(len(onsets[-1]), template))
    return np.concatenate(templates), np.concatenate(onsets)


def _pieces(y: np.ndarray, n_templates: int, length: int, seed: int) -> np.ndarray:
    """Return random pieces of signals (window, bin), drawn by their energy, of unit norm."""
    pieces = np.lib.stride_tricks.sliding_window_view(y, length, axis=1).reshape(-1, length)
    energy = (pieces**2).sum(axis=1)
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(pieces), n_templates, replace=False, p=energy / energy.sum())
    return pieces[chosen] / np.sqrt(energy[chosen, None])


def _import(name: str) -> Any:
    try:
        with _quiet():
            return importlib.import_module(name)
    except ImportError as missing:
        raise Skip(f"{name} cannot be imported ({missing})") from None


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _pkg_resources() -> Iterator[None]:
    """Provide the removed module of setuptools that seqnmf asks for a path."""
    if importlib.util.find_spec("pkg_resources"):
        yield
        return
    stand_in: Any = types.ModuleType("pkg_resources")
    stand_in.resource_filename = lambda package, path: str(
        Path(*(importlib.util.find_spec(package).submodule_search_locations or ["."])) / path
    )
    sys.modules["pkg_resources"] = stand_in
    try:
        yield
    finally:
        del sys.modules["pkg_resources"]
