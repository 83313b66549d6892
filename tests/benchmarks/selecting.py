"""How many templates there are: what `spikecdl.select` recommends for simulated recordings.

Templates of 100 ms at 20 Hz in bins of 5 ms: single trials of one unit, or 20 trials pooled of six;
events apart, or so many that those of different templates overlap.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator

import numpy as np
from timing import Row, Settings

from spikecdl import DCEA, BinnedSpikes, select

_BIN, _LENGTH, _MOST = 0.005, 20, 3
_x = np.arange(_LENGTH) / _LENGTH
TEMPLATES = np.stack(
    [
        _x * np.exp(-8 * _x),
        np.exp(-0.5 * ((_x - 0.2) / 0.08) ** 2) + np.exp(-0.5 * ((_x - 0.8) / 0.08) ** 2),
    ]
)
TEMPLATES /= np.linalg.norm(TEMPLATES, axis=1, keepdims=True)


def _log_rates(
    rng: np.random.Generator,
    shape: tuple[int, int],
    number: int,
    overlapping: bool,
    sizes: tuple[float, float],
) -> np.ndarray:
    """Return log rates (window, bin) over the baseline, with events of so many templates."""
    log = np.zeros(shape)
    rate = (3.0 if overlapping else 1.0) / max(number, 1)
    for window in log:
        at: list[tuple[int, int]] = []
        for c in range(number):
            for _ in range(rng.poisson(rate * shape[1] * _BIN)):
                s = int(rng.integers(0, shape[1] - _LENGTH + 1))
                near = [d for d, t in at if abs(s - t) < _LENGTH]
                if not near or (overlapping and c not in near):
                    at.append((c, s))
                    window[s : s + _LENGTH] += rng.uniform(*sizes) * TEMPLATES[c]
    return log


def simulate(
    number: int, pooled: bool, overlapping: bool, seed: int
) -> tuple[BinnedSpikes, BinnedSpikes | None]:
    """Return counts with events of so many templates, and their single trials if pooled."""
    rng = np.random.default_rng(seed)
    if pooled:
        log = _log_rates(rng, (6, 800), number, overlapping, (3, 5))
        chance = np.minimum(15 * _BIN * np.exp(log), 0.95)
        single = BinnedSpikes.from_array((rng.random((20, 6, 800)) < chance).astype(int), _BIN)
        return single.pool(), single
    log = _log_rates(rng, (60, 400), number, overlapping, (6, 9))
    return BinnedSpikes.from_array(rng.poisson(20 * _BIN * np.exp(log))[:, None], _BIN), None


def measure(settings: Settings) -> Iterator[Row]:
    """How often each number of templates is recommended, from no template to three."""
    numbers = range(2) if settings.quick else range(3)
    for pooled in (True,) if settings.quick else (False, True):
        for overlapping in (False,) if settings.quick else (False, True):
            for number in numbers if not overlapping else range(1, 3):
                found = Counter(
                    _recommended(number, pooled, overlapping, 77_000 + seed)
                    for seed in range(settings.seeds)
                )
                trials = "pooled" if pooled else "single"
                how = "overlapping" if overlapping else "apart"
                yield Row(
                    f"selection, {number} templates, {trials} trials, {how}",
                    "",
                    f"right in {found[number]} of {settings.seeds}",
                    "",
                    ", ".join(f"{count} x {n}" for n, count in sorted(found.items())),
                )


def _recommended(number: int, pooled: bool, overlapping: bool, seed: int) -> int:
    counts, single = simulate(number, pooled, overlapping, seed)
    model = DCEA(1, 0.1, "binomial" if pooled else "poisson", random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of no events
        return select(model, counts, range(_MOST + 1), single_trials=single).recommended.n_templates
