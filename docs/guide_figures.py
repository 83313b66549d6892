"""Figures of guide pages, each drawn from a small simulation; see `make_figures`."""

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

import spikecdl
from spikecdl import plots
from spikecdl.evaluation.goodness_of_fit import of_decomposition
from spikecdl.model.dictionary import ConvDictionary
from spikecdl.model.families import Binomial, Gaussian, NegativeBinomial, Poisson
from spikecdl.plots import style
from spikecdl.simulate import simulate


@style.styled
def words() -> Figure:
    """Draw what the words of the model mean, in one window."""
    bin_size, length, n_bins = 0.005, 30, 200
    axes = style.axes_array(None, (3, 1), (6.5, 4.2), sharex=True)[:, 0]
    time = bin_size * np.arange(n_bins)
    shape = np.hanning(length)[None] * np.array([[1.0], [-0.6]])
    codes = np.zeros((2, n_bins - length + 1))
    codes[0, [30, 120]], codes[1, 75] = (1.6, 2.4), 2.0
    eta = np.log(0.1) + sum(
        np.convolve(code, wave) for code, wave in zip(codes, shape, strict=True)
    )
    counts = np.random.default_rng(2).poisson(np.exp(eta))
    axes[0].vlines(bin_size * np.flatnonzero(codes.any(0)), 0, codes.max(0)[codes.any(0)], lw=1)
    for template, code in enumerate(codes):
        at = np.flatnonzero(code)
        axes[0].vlines(bin_size * at, 0, code[at], color=style.colour(template), lw=2)
        axes[0].plot(bin_size * at, code[at], "o", ms=4, color=style.colour(template))
        for onset in at:
            wave = code[onset] * shape[template]
            axes[1].plot(time[onset : onset + length], wave, color=style.colour(template))
    axes[0].set_ylabel("codes")
    axes[0].annotate("onset and amplitude\nof an event", (0.62, 1.6), size=7)
    axes[1].set_ylabel("change of\nlog rate")
    axes[1].annotate("template 0", (0.28, 1.0), size=7, color=style.colour(0))
    axes[1].annotate("template 1", (0.53, -0.9), size=7, color=style.colour(1))
    axes[2].bar(time, counts, width=bin_size, color=style.DATA, label="counts")
    axes[2].plot(time, np.exp(eta), color=style.INK, label="rate: expected counts")
    axes[2].axhline(0.1, ls=":", lw=1, color=style.INK, label="baseline")
    axes[2].legend(fontsize=7, loc="upper left", ncols=3, frameon=False)
    axes[2].set(
        ylabel="counts in a bin", xlabel="time in the window (s)", ylim=(0, counts.max() + 1)
    )
    return axes[0].figure


@style.styled
def threshold() -> Figure:
    """Draw counts, the score of the true template, and the threshold under noise alone."""
    about = {"duration": 2.0, "bin_size": 0.005, "template_length": 0.1}
    about |= {"n_trials": 1, "n_units": 1, "n_events": 5, "amplitude": 7.0, "baseline": 40.0}
    counts = simulate("poisson", ["vee"], **about, random_state=2)
    truth = counts.truth
    assert truth is not None
    template = torch.as_tensor(truth.templates, dtype=torch.float32)
    y = torch.as_tensor(counts.counts, dtype=torch.float32)[0]
    rate = 40.0 * counts.bin_size
    score = ConvDictionary(template).adjoint((y - rate)[None])[0, 0].detach().numpy()
    level = np.sqrt(rate) * np.sqrt(2 * np.log(len(score)))
    axes = style.axes_array(None, (2, 1), (6.5, 3.0), sharex=True)[:, 0]
    time = counts.bin_size * np.arange(counts.n_bins)
    axes[0].bar(time, counts.counts[0, 0], width=counts.bin_size, color=style.DATA)
    axes[0].set_ylabel("counts in a bin")
    axes[1].plot(time[: len(score)], score, color=style.INK)
    axes[1].axhline(level, ls="--", color=style.colour(1), label="universal threshold")
    onsets = truth.events["time"].to_numpy()
    axes[1].plot(onsets, np.full(len(onsets), score.max() * 1.1), "v", color=style.colour(0),
                 label="true onsets")  # fmt: skip
    style.legend_outside(axes[1])
    axes[1].set(ylabel="score", xlabel="time in the window (s)")
    return axes[0].figure


@style.styled
def families() -> Figure:
    """Draw mean and variance of families against the linear predictor."""
    eta = torch.linspace(-4, 2.5, 200, dtype=torch.float64)
    each = {
        "binomial, M = 10": Binomial(n_trials=10),
        "negative binomial, shape 2": NegativeBinomial(shape=2.0),
        "Poisson": Poisson(),
        "Gaussian": Gaussian(),
    }
    axes = style.axes_array(None, (1, 2), (6.5, 2.6))[0]
    rng = torch.Generator().manual_seed(0)
    for number, (name, family) in enumerate(each.items()):
        mean = family.mean(eta)
        dashes = "--" if name == "Poisson" else "-"  # on the curve of the negative binomial
        axes[0].plot(eta, mean, dashes, color=style.colour(number), label=name)
        drawn = family.sample(eta.expand(4000, -1), rng)
        axes[1].plot(mean, drawn.var(0), color=style.colour(number), lw=1)
    axes[0].set(xlabel="linear predictor", ylabel="mean count", ylim=(-4, 13))
    axes[0].legend(fontsize=7, frameon=False)
    axes[1].set(xlabel="mean count", ylabel="variance (of draws)", xlim=(0, 10), ylim=(0, 25))
    return axes[0].figure


@style.styled
def verdicts() -> Figure:
    """Draw the test of rescaled times of a right and of a wrong model."""
    settings: dict[str, Any] = {"n_trials": 20, "n_units": 1, "duration": 3.0, "bin_size": 0.005}
    about: dict[str, Any] = {"template_length": 0.1, "amplitude": 8.0, "baseline": 15.0}
    right = simulate("poisson", ["vee"], **settings, **about, random_state=0)
    wrong = simulate("poisson", ["vee"], **settings, **about, history=[-4.0] * 4, random_state=0)
    axes = style.axes_array(None, (1, 2), (6.5, 3.0))[0]
    for axis, counts, title in (
        (axes[0], right, "as the model says"),
        (axes[1], wrong, "20 ms refractory, history=None"),
    ):
        model = spikecdl.DCEA(1, 0.1, "poisson", history=None, random_state=0).fit(counts)
        plots.ks(of_decomposition(model.decompose(counts), "poisson"), ax=axis)
        axis.set_title(title, fontsize=9)
    return axes[0].figure


def signals() -> Figure:
    """Draw how rates of three units change with a signal, as fitted to a simulation."""
    rng, time = np.random.default_rng(0), 0.02 * np.arange(6000)
    speed = 1 + np.sin(time / 3) + np.sin(time / 7)
    counts = rng.poisson(0.2 * np.exp(np.outer([0.6, 0.0, -0.6], speed)))[None]
    binned = spikecdl.BinnedSpikes.from_array(counts, 0.02, trial_starts=[0.0])
    binned = binned.with_signals({"speed (a.u.)": speed[None]})
    model = spikecdl.DCEA(1, 0.2, "poisson", signals=6, trainer="marginal", random_state=0)
    return plots.signals(model.fit(binned))[0].figure


def population() -> dict[str, Figure]:
    """Fit two sequences of 30 units, and draw which units take part, and a window."""
    rng = np.random.default_rng(0)
    peak = rng.uniform(4, 46, (2, 30, 1))
    shapes = np.exp(-0.5 * np.square((np.arange(50) + 0.5 - peak) / 3))
    shapes *= np.log(8) * (rng.random((2, 30, 1)) < 0.6)
    about: dict[str, Any] = {"n_trials": 2, "n_units": 30, "duration": 60.0, "bin_size": 0.01}
    size = float(np.linalg.norm(shapes, axis=(1, 2)).mean())
    counts = simulate(
        "poisson", shapes, layout="joint", n_events=20, amplitude=size, baseline=3.0,
        random_state=0, **about,
    )  # fmt: skip
    model = spikecdl.DCEA(2, 0.5, "poisson", layout="joint", random_state=0).fit(counts)
    parts = model.decompose(counts)
    return {
        "unit_order": plots.unit_order(model.unit_table())[0].figure,
        "two_sequences": plots.population_raster(parts, 0).figure,
    }


def drawn() -> dict[str, Figure]:
    """Draw all of them, by name."""
    each = {"words": words, "threshold": threshold, "families": families}
    each |= {"verdicts": verdicts, "signals": signals}
    return {name: draw() for name, draw in each.items()} | population()
