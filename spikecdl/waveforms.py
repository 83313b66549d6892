"""Shapes of templates: those of the source paper, smooth random ones, sequences across units."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from spikecdl import _validation

_TURN = 25 * 0.2565  # radians that half of the source's cosine template runs through


def square(n_bins: int, rng: np.random.Generator) -> np.ndarray:
    """Return a step: up for the first half, down for the second."""
    return np.where(np.arange(n_bins) < n_bins / 2, 1.0, -1.0)


def vee(n_bins: int, rng: np.random.Generator) -> np.ndarray:
    """Return a straight fall and rise, from 1 to -1 and back."""
    return _mirrored(np.linspace(1.0, -1.0, (n_bins + 1) // 2), n_bins)


def cosine(n_bins: int, rng: np.random.Generator) -> np.ndarray:
    """Return one turn of a cosine and its mirror image."""
    half = (n_bins + 1) // 2
    return _mirrored(np.cos(_TURN / half * np.arange(half)), n_bins)


def smooth(n_bins: int, rng: np.random.Generator) -> np.ndarray:
    """Return a random sum of five slow sines that begins and ends at zero."""
    time = (np.arange(n_bins) + 0.5) / n_bins
    order = np.arange(1, 6)
    return np.sin(np.pi * np.outer(time, order)) @ (rng.normal(size=5) / order)


#: Shapes by name: functions of the number of bins and a NumPy random generator.
SHAPES: Mapping[str, Callable[[int, np.random.Generator], np.ndarray]] = {
    "square": square,
    "vee": vee,
    "cosine": cosine,
    "smooth": smooth,
}


def waveform(shape: str, n_bins: int, rng: np.random.Generator | None = None) -> np.ndarray:
    """Return a template of one channel and unit l2 norm.

    Parameters
    ----------
    shape : {"square", "vee", "cosine", "smooth"}
        The first three are those of Tolooshams et al., arXiv:1907.03211, section 5.
    n_bins : int
        Length.
    rng : numpy.random.Generator, optional
        For random shapes.

    Raises
    ------
    ValueError
        If there is no such shape, or fewer than two bins.

    Examples
    --------
    >>> waveform("square", 4)
    array([ 0.5,  0.5, -0.5, -0.5])
    """
    _validation.one_of("shape", shape, SHAPES)
    _validation.integer("n_bins", n_bins, minimum=2)
    values = SHAPES[shape](n_bins, np.random.default_rng(0) if rng is None else rng)
    return values / np.linalg.norm(values)


def sequence(shape: str, n_units: int, n_bins: int, rng: np.random.Generator) -> np.ndarray:
    """Return a template across units, (unit, bin) of unit l2 norm.

    Every unit has the waveform, half as long as the template, at a random latency.

    Examples
    --------
    >>> sequence("vee", 3, 20, np.random.default_rng(0)).shape
    (3, 20)
    """
    brief = waveform(shape, max(n_bins // 2, 2), rng)
    template = np.zeros((n_units, n_bins))
    for unit, latency in enumerate(rng.integers(0, n_bins - len(brief) + 1, n_units)):
        template[unit, latency : latency + len(brief)] = brief
    return template / np.linalg.norm(template)


def _mirrored(half: np.ndarray, n_bins: int) -> np.ndarray:
    return np.concatenate([half, half[::-1][n_bins % 2 :]])
