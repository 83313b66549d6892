"""The shallow auto-encoder of the source's theory: how fast it finds a dictionary, and when not.

Codes with few, positive, bounded entries drive counts through a dictionary; a `ShallowAutoencoder`
starts at some distance from it and takes gradient steps, each on fresh samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from spikecdl.experiments.result import Options, Result
from spikecdl.experiments.shallow import ShallowAutoencoder
from spikecdl.model.families import Binomial
from spikecdl.plots import style

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AMPLITUDE = (1.0, 2.0)  # entries of a code that are not zero, uniform
BIAS = 0.5  # half of the smallest entry
GAIN = 0.15  # share of its distance that a column is expected to lose in a step
COLUMNS = 1.5  # per dimension


@dataclass(frozen=True)
class Condition:
    """What is simulated and where the model starts.

    Parameters
    ----------
    dimension : int
        Bins of an observation; the dictionary has one and a half times as many columns.
    n_active : int
        Entries of a code that are not zero.
    n_trials : int
        Bernoulli trials of each bin.
    start : float
        Distance at which every column starts from the truth.
    toward_another : bool
        Whether columns are displaced toward another true column instead of in a random direction.
    alike : float
        Correlation of the columns of a pair: each column has a partner.
    common : float
        Correlation of all columns with each other.
    probability : float
        Of a success where the code is zero; the model knows it.
    """

    dimension: int = 100
    n_active: int = 4
    n_trials: int = 1000
    start: float = 0.6
    toward_another: bool = False
    alike: float = 0.0
    common: float = 0.0
    probability: float = 0.5

    @property
    def n_columns(self) -> int:
        """Columns of the dictionary, in pairs."""
        return 2 * round(COLUMNS * self.dimension / 2)

    @property
    def share_active(self) -> float:
        """Probability that an entry of a code is not zero."""
        return self.n_active / self.n_columns

    @property
    def family(self) -> Binomial:
        """Observation model."""
        return Binomial(self.n_trials)

    @property
    def baseline(self) -> float:
        """Linear predictor where the code is zero."""
        return math.log(self.probability / (1 - self.probability))


@dataclass(frozen=True)
class Size:
    """How long and how often a condition is run."""

    n_steps: int = 60
    samples_per_column: int = 100  # that use a column, in each step
    n_seeds: int = 3


CLAIM: Mapping[str, Mapping[str, Condition]] = {
    "dimension": {f"{n}": Condition(dimension=n) for n in (50, 100, 200)},
    "active entries": {f"{k}": Condition(n_active=k) for k in (2, 4, 8)},
    "starting distance": {f"{d}": Condition(start=d) for d in (0.3, 0.6, 0.9)},
    "trials": {f"{m}": Condition(n_trials=m) for m in (100, 1000, 10000)},
}
"""What is varied, and the conditions that differ in it alone: the distance is to contract."""

BREAKS: Mapping[str, Mapping[str, Condition]] = {
    "start": {
        "0.6 away": Condition(),
        "1.3 away": Condition(start=1.3),
        "0.8 toward another column": Condition(start=0.8, toward_another=True),
    },
    "dictionary": {
        "incoherent": Condition(),
        "pairs that correlate 0.9": Condition(alike=0.9),
        "all columns correlate 0.1": Condition(common=0.1),
    },
    "rate": {
        "0.5 a trial, 1000 trials": Condition(),
        "0.5 a trial, 10 trials": Condition(n_trials=10),
        "0.008 a trial, 1000 trials": Condition(probability=0.008),
        "0.008 a trial, 100 trials": Condition(probability=0.008, n_trials=100),
    },
}
"""The same for what takes an assumption away."""


def run(options: Options) -> Result:
    """Follow the distances of columns from the truth, in all conditions of `CLAIM` and `BREAKS`."""
    import pandas as pd

    pass

    size = Size(n_steps=40, samples_per_column=50, n_seeds=1) if options.quick else Size()
    seeds = [options.random_state + repetition for repetition in range(size.n_seeds)]
    runs: dict[tuple[Condition, int], pd.DataFrame] = {}
    tables = []
    for part, varied, name, condition in _conditions():
        options.say(f"{varied}: {name}")
        for seed in seeds:
            if (condition, seed) not in runs:
                run = follow(condition, size, seed)
                fit = fitted_contraction(run["median"].to_numpy())
                runs[condition, seed] = run.assign(**asdict(fit))
            labels = {"part": part, "varied": varied, "condition": name, "seed": seed}
            tables.append(runs[condition, seed].assign(**labels, **asdict(condition)))
    table = pd.concat(tables, ignore_index=True)
    first = ["part", "varied", "condition", "seed", *asdict(Condition())]
    table = table[first + [name for name in table if name not in first]]
    return Result(
        table,
        {
            "contraction": contraction(table[table.part == "claim"]),
            "breaks": breaks(table[table.part == "break"]),
        },
        {
            **asdict(size),
            "seeds": seeds,
            "columns_per_dimension": COLUMNS,
            "amplitude": list(AMPLITUDE),
            "bias": BIAS,
            "gain": GAIN,
            "expected_rate": (1 - GAIN) ** 2,
        },
        _findings(table),
    )


def _conditions() -> Iterator[tuple[str, str, str, Condition]]:
    for part, conditions in (("claim", CLAIM), ("break", BREAKS)):
        for varied, named in conditions.items():
            for name, condition in named.items():
                yield part, varied, name, condition


def follow(condition: Condition, size: Size, seed: int) -> pd.DataFrame:
    """Train on fresh samples, and return the squared distances of columns after each step.

    Returns
    -------
    DataFrame
        Columns ``step``, from 0, ``median`` and ``max`` over the columns of the dictionary.
    """
    import pandas as pd

    generator = torch.Generator().manual_seed(seed)
    truth = dictionary(condition, generator)
    start = beside(truth, condition, generator)
    model = ShallowAutoencoder(start, condition.family, BIAS, condition.baseline)
    n_samples = round(size.samples_per_column / condition.share_active)
    length = step_length(condition)
    rows = []
    for step in range(size.n_steps + 1):
        if step:
            model = model.after_step(observations(condition, truth, n_samples, generator), length)
        distances = (model.columns - truth).square().sum(dim=0)
        rows.append((step, float(distances.median()), float(distances.max())))
    return pd.DataFrame(rows, columns=["step", "median", "max"])


def step_length(condition: Condition) -> float:
    r"""Return the step that takes the share ``GAIN`` of its distance from a column.

    It does so if the dictionary is incoherent, the start near and the rectifier right: the loss
    curves with :math:`\kappa\, \mathrm{E}[x_i^2]` along a column, :math:`\kappa` being the
    family's curvature at the baseline.
    """
    low, high = AMPLITUDE
    square = condition.share_active * (low**2 + low * high + high**2) / 3
    level = torch.tensor(condition.baseline)
    return GAIN / (float(condition.family.curvature(level, level)) * square)


def observations(
    condition: Condition, truth: Tensor, n_samples: int, generator: torch.Generator
) -> Tensor:
    """Draw counts (sample, dimension) that a true dictionary explains."""
    active = codes(n_samples, truth.shape[1], condition.n_active, generator)
    return condition.family.sample(active @ truth.T + condition.baseline, generator)


def dictionary(condition: Condition, generator: torch.Generator) -> Tensor:
    """Draw a true dictionary (dimension, column), columns of unit norm."""
    shape = condition.dimension, condition.n_columns
    columns = _unit(torch.randn(shape, generator=generator))
    shared = _unit(torch.randn((shape[0], 1), generator=generator))
    columns = math.sqrt(condition.common) * shared + math.sqrt(1 - condition.common) * columns
    one, other = columns[:, ::2], columns[:, 1::2]
    other = condition.alike * one + math.sqrt(1 - condition.alike**2) * other
    return _unit(torch.stack([one, other], dim=2).flatten(1))


def beside(truth: Tensor, condition: Condition, generator: torch.Generator) -> Tensor:
    """Return unit columns at the condition's distance from the true ones."""
    direction = torch.randn(truth.shape, generator=generator)
    if condition.toward_another:
        direction = truth.roll(1, dims=1)
    away = _unit(direction - (direction * truth).sum(dim=0) * truth)
    cosine = 1 - condition.start**2 / 2
    return cosine * truth + math.sqrt(1 - cosine**2) * away


def codes(n_samples: int, n_columns: int, n_active: int, generator: torch.Generator) -> Tensor:
    """Draw codes (sample, column) with as many entries that are not zero, at random places."""
    low, high = AMPLITUDE
    places = torch.rand((n_samples, n_columns), generator=generator).topk(n_active).indices
    values = low + (high - low) * torch.rand(places.shape, generator=generator)
    return torch.zeros(n_samples, n_columns).scatter_(1, places, values)


@dataclass(frozen=True)
class Contraction:
    r"""Squared distances as :math:`d_t^2 = d_\infty^2 + c \rho^t`; made by `fitted_contraction`.

    Parameters
    ----------
    rate : float
        :math:`\rho`, by which what is left contracts in a step.
    excess : float
        c, what is to contract.
    neighbourhood : float
        :math:`d_\infty^2`.
    r_squared : float
        Share of the variance of :math:`\log(d_t^2 - d_\infty^2)` that a line explains.
    n_fitted : int
        Steps that the line is fitted to.
    """

    rate: float
    excess: float
    neighbourhood: float
    r_squared: float
    n_fitted: int


def fitted_contraction(distances: np.ndarray) -> Contraction:
    """Fit a line in logarithms to squared distances, (step,), less those of their neighbourhood.

    The neighbourhood is the median of the last quarter of the steps; the line is fitted to the
    first steps, those before the distance falls to twice that.  All else is nan where fewer than
    four are left.
    """
    neighbourhood = float(np.median(distances[-(len(distances) // 4) :]))
    near = distances <= 2 * neighbourhood
    n_fitted = int(near.argmax()) if near.any() else len(distances)
    if n_fitted < 4:
        return Contraction(math.nan, math.nan, neighbourhood, math.nan, 0)
    steps, logs = np.arange(n_fitted), np.log(distances[:n_fitted] - neighbourhood)
    slope, intercept = np.polyfit(steps, logs, 1)
    r_squared = 1 - np.var(logs - slope * steps - intercept) / np.var(logs)
    return Contraction(
        math.exp(slope), math.exp(intercept), neighbourhood, float(r_squared), n_fitted
    )


def _unit(columns: Tensor) -> Tensor:
    return columns / columns.norm(dim=0)


def _findings(table: pd.DataFrame) -> list[str]:
    runs = table[table.step == table.step.max()]
    claim = runs[runs.part == "claim"]
    expected = (1 - GAIN) ** 2
    found = [
        f"Where the assumptions hold, the squared distance of the median column contracts by "
        f"{claim.rate.min():.2f} to {claim.rate.max():.2f} a step ({expected:.2f} expected "
        f"without false codes), on a line in logarithms with R^2 of {claim.r_squared.min():.3f} "
        f"or more, to between {claim.neighbourhood.min():.4f} and {claim.neighbourhood.max():.4f}."
    ]
    for varied, rows in claim.groupby("varied", sort=False):
        means = rows.groupby("condition", sort=False)[["rate", "neighbourhood"]].mean()
        each = (
            f"{name}: {row.rate:.2f} and {row.neighbourhood:.4f}" for name, row in means.iterrows()
        )
        found.append(f"Rate and neighbourhood by {varied}: {'; '.join(each)}.")
    broken = runs[runs.part == "break"].groupby(["varied", "condition"], sort=False)
    for (varied, name), row in broken[["neighbourhood", "max"]].mean().iterrows():
        found.append(
            f"{varied}, {name}: the median column ends at a squared distance of "
            f"{row.neighbourhood:.3f}, the worst one at {row['max']:.2f}."
        )
    return found


@style.styled
def contraction(table: pd.DataFrame) -> Figure:
    """Draw the conditions that contract, and what was fitted to them, dashed."""
    axes = _panels(table)
    for ax, (_, rows) in zip(axes, table.groupby("varied", sort=False), strict=True):
        for number, (name, runs) in enumerate(rows.groupby("condition", sort=False)):
            _draw(ax, runs, style.colour(number), f"{name}: times {runs.rate.mean():.2f} a step")
            _draw_fit(ax, runs)
    _legends(axes, table)
    return axes[0].figure


@style.styled
def breaks(table: pd.DataFrame) -> Figure:
    """Draw the conditions that take an assumption away, beside the one that has them all."""
    axes = _panels(table)
    for ax, (_, rows) in zip(axes, table.groupby("varied", sort=False), strict=True):
        for number, (name, runs) in enumerate(rows.groupby("condition", sort=False)):
            _draw(ax, runs, style.colour(number), str(name))
    _legends(axes, table)
    return axes[0].figure


def _panels(table: pd.DataFrame) -> np.ndarray:
    count = table.varied.nunique()
    axes = style.axes_array(None, (1, count), (2.7 * count, 3.9), sharex=True, sharey=True)[0]
    for ax in axes:
        ax.set(yscale="log", xlabel="gradient steps")
        style.tidy(ax)
    axes[0].set_ylabel("squared distance from the truth")
    return axes


def _legends(axes: np.ndarray, table: pd.DataFrame) -> None:
    """Put legends over their panels, as tall as each other."""
    for ax, varied in zip(axes, table.varied.unique(), strict=True):
        ax.legend(title=varied, alignment="left", loc="lower left", bbox_to_anchor=(0, 1))


def _draw(ax: Axes, runs: pd.DataFrame, colour: str, label: str) -> None:
    """Draw the median column, geometric mean over seeds, and a band up to the worst column."""
    by_step = np.log(runs.set_index("step")[["median", "max"]]).groupby("step").mean()
    middle, worst = np.exp(by_step["median"]), np.exp(by_step["max"])
    ax.plot(middle, color=colour, label=label)
    ax.fill_between(middle.index, middle, worst, color=colour, alpha=0.12, linewidth=0)


def _draw_fit(ax: Axes, runs: pd.DataFrame) -> None:
    """Draw what was fitted, averaged over seeds."""
    fit = runs[["rate", "excess", "neighbourhood"]].mean()
    steps = np.arange(runs.step.max() + 1)
    fitted = fit.neighbourhood + fit.excess * fit.rate**steps
    ax.plot(steps, fitted, color=style.INK, linewidth=0.9, linestyle=(0, (3, 3)))
