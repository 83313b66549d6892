"""The paper's theory: how fast a shallow autoencoder finds a dictionary, and when it does not.

Codes with few, positive, bounded entries drive counts through a dictionary.  A `ShallowAutoencoder`
starts at some distance from that dictionary and takes gradient steps, each on fresh samples.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import linregress
from torch import Tensor

from spikecdl.experiments import Options, Result, findings
from spikecdl.model.families import Binomial, Family
from spikecdl.plots import style

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class ShallowAutoencoder:
    r"""One encoder step from codes of zero, with the same columns as the decoder.

    .. math:: x = \mathrm{ReLU}(W^T z - b), \qquad
              z = \frac{y - f^{-1}(\mu)}{\kappa}, \qquad \eta = W x + \mu

    with the inverse link :math:`f^{-1}` of counts and the curvature :math:`\kappa` of the negative
    log likelihood at the baseline :math:`\mu`; for a binomial of M trials at zero,
    :math:`f^{-1}(0) = M / 2` and :math:`\kappa = M / 4`.  Dividing the residual by the curvature
    gives the working response of a generalized linear model, so that codes have the scale of those
    that made ``y``; it is a proximal gradient step of length :math:`1 / \kappa`.

    Parameters
    ----------
    columns : tensor, shape (dimension, column)
        W, columns of unit norm.
    family : Family
    bias : float
        b, subtracted from every code before the rectifier, in units of the codes.
    baseline : float
        Linear predictor of every observation without codes.

    References
    ----------
    Tolooshams, Song, Temereanca and Ba, ICML 2020, arXiv:1907.03211.
    Nguyen, Wong and Hegde, AISTATS 2019, arXiv:1806.00572, for Gaussian observations.

    Examples
    --------
    >>> import torch
    >>> from spikecdl import Binomial
    >>> model = ShallowAutoencoder(torch.eye(3), Binomial(n_trials=40), bias=0.25)
    >>> model.encode(torch.tensor([[20.0, 30.0, 15.0]]))
    tensor([[0.0000, 0.7500, 0.0000]])
    """

    columns: Tensor
    family: Family
    bias: float
    baseline: float = 0.0

    def encode(self, y: Tensor) -> Tensor:
        """Return the codes (sample, column) of observations (sample, dimension)."""
        return (self._response(y) @ self.columns - self.bias).relu()

    def decode(self, codes: Tensor) -> Tensor:
        """Return the linear predictor (sample, dimension) of codes (sample, column)."""
        return codes @ self.columns.T + self.baseline

    def loss(self, y: Tensor) -> Tensor:
        """Mean negative log likelihood of a sample, up to a constant."""
        return self.family.cost(y, self.decode(self.encode(y))).sum(-1).mean()

    def after_step(self, y: Tensor, step: float) -> ShallowAutoencoder:
        """Return the model after a gradient step, with columns rescaled to unit norm.

        The gradient is that of `loss`, through decoder and encoder.
        """
        columns = self.columns.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(replace(self, columns=columns).loss(y), columns)
        moved = columns.detach() - step * gradient
        return replace(self, columns=F.normalize(moved, dim=0))

    def _response(self, y: Tensor) -> Tensor:
        """Return z, (sample, dimension)."""
        mu = y.new_tensor(self.baseline)
        return self.family.residual(y, mu) / self.family.curvature(y, mu)


@dataclass(frozen=True)
class Condition:
    """What is simulated and where the model starts.

    The model is given the probability of a success where the code is zero.
    """

    dimension: int = 100  # bins of an observation
    n_active: int = 4  # nonzero entries of a code
    n_trials: int = 1000  # Bernoulli trials of each bin
    start: float = 0.6  # initial distance of every column from the true one
    toward_another: bool = False  # displaced toward another true column, not at random
    alike: float = 0.0  # correlation of the two columns of each pair
    common: float = 0.0  # correlation of all columns with each other
    probability: float = 0.5  # of a success where the code is zero

    # the same in all conditions
    amplitude: ClassVar = (1.0, 2.0)  # range of the uniform nonzero entries of a code
    bias: ClassVar = 0.5  # in units of the codes: half of the smallest nonzero entry
    gain: ClassVar = 0.15  # expected fraction of its distance that a column loses in a step: small
    columns_per_dimension: ClassVar = 1.5  # an overcomplete dictionary

    @property
    def n_columns(self) -> int:
        """Columns of the dictionary, an even number."""
        return 2 * round(self.columns_per_dimension * self.dimension / 2)

    @property
    def share_active(self) -> float:
        """Probability that an entry of a code is nonzero."""
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
    """Steps, samples that use each column in a step, and seeds of a condition."""

    n_steps: int = 60
    samples_per_column: int = 100
    n_seeds: int = 3


CLAIM: Mapping[str, Mapping[str, Condition]] = {
    "dimension": {f"{n}": Condition(dimension=n) for n in (50, 100, 200)},
    "active entries": {f"{k}": Condition(n_active=k) for k in (2, 4, 8)},
    "starting distance": {f"{d}": Condition(start=d) for d in (0.3, 0.6, 0.9)},
    "trials": {f"{m}": Condition(n_trials=m) for m in (100, 1000, 10000)},
}
"""Conditions by what is varied, in which the distance should contract."""

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
"""Conditions by the assumption that all but the first of each group violate."""


def run(options: Options) -> Result:
    """Follow the distances of columns from the truth in all conditions of `CLAIM` and `BREAKS`."""
    import pandas as pd

    size = Size(n_steps=40, samples_per_column=50, n_seeds=1) if options.quick else Size()
    seeds = [options.random_state + repetition for repetition in range(size.n_seeds)]
    listed = [("claim", *each) for each in CLAIM.items()]
    listed += [("break", *each) for each in BREAKS.items()]

    @cache
    def followed(condition: Condition, seed: int) -> pd.DataFrame:
        run = follow(condition, size, seed)
        return run.assign(**fitted_contraction(run["median"].to_numpy()))

    tables = []
    for part, varied, conditions in listed:
        for (name, condition), seed in itertools.product(conditions.items(), seeds):
            options.say(f"{varied}: {name}, seed {seed}")
            labels = {"part": part, "varied": varied, "condition": name, "seed": seed}
            columns = {**labels, **asdict(condition), **followed(condition, seed)}
            tables.append(pd.DataFrame(columns))
    table = pd.concat(tables, ignore_index=True)
    same = ("columns_per_dimension", "amplitude", "bias", "gain")
    settings = {**asdict(size), "seeds": seeds, **{name: getattr(Condition, name) for name in same}}
    settings["expected_rate"] = (1 - Condition.gain) ** 2
    claim, broken = table[table.part == "claim"], table[table.part == "break"]
    figures = {"contraction": draw(claim, with_fit=True), "breaks": draw(broken, with_fit=False)}
    return Result(table, figures, settings, findings("sea", table, settings["expected_rate"]))


def follow(condition: Condition, size: Size, seed: int) -> pd.DataFrame:
    """Train on fresh samples; return the squared distances of columns after each step.

    The table has ``step``, from 0, and ``median`` and ``max`` over the columns of the dictionary.
    """
    import pandas as pd

    generator = torch.Generator().manual_seed(seed)
    truth = dictionary(condition, generator)
    start = displaced(truth, condition, generator)
    model = ShallowAutoencoder(start, condition.family, condition.bias, condition.baseline)
    n_samples = round(size.samples_per_column / condition.share_active)
    length = step_length(condition)
    rows = []
    for step in range(size.n_steps + 1):
        if step:
            active = codes(n_samples, condition, generator)
            y = condition.family.sample(active @ truth.T + condition.baseline, generator)
            model = model.after_step(y, length)
        distances = (model.columns - truth).square().sum(dim=0)
        rows.append((step, float(distances.median()), float(distances.max())))
    return pd.DataFrame(rows, columns=["step", "median", "max"])


def step_length(condition: Condition) -> float:
    r"""Return the step that reduces the distance of a column by the fraction ``gain``.

    It assumes an incoherent dictionary, a start near it and rectified codes with the right support:
    along a column the loss has the curvature :math:`\kappa\, \mathrm{E}[x_i^2]`, with
    :math:`\kappa` that of the family at the baseline.
    """
    low, high = condition.amplitude
    square = condition.share_active * (low**2 + low * high + high**2) / 3
    eta = torch.tensor(condition.baseline)
    return condition.gain / (float(condition.family.curvature(eta, eta)) * square)


def dictionary(condition: Condition, generator: torch.Generator) -> Tensor:
    """Draw a true dictionary (dimension, column), with columns of unit norm."""
    shape = condition.dimension, condition.n_columns
    columns = F.normalize(torch.randn(shape, generator=generator), dim=0)
    shared = F.normalize(torch.randn((shape[0], 1), generator=generator), dim=0)
    columns = math.sqrt(condition.common) * shared + math.sqrt(1 - condition.common) * columns
    one, other = columns[:, ::2], columns[:, 1::2]
    other = condition.alike * one + math.sqrt(1 - condition.alike**2) * other
    return F.normalize(torch.stack([one, other], dim=2).flatten(1), dim=0)


def displaced(truth: Tensor, condition: Condition, generator: torch.Generator) -> Tensor:
    """Return unit columns at the condition's distance from the true ones."""
    direction = torch.randn(truth.shape, generator=generator)
    if condition.toward_another:
        direction = truth.roll(1, dims=1)
    away = F.normalize(direction - (direction * truth).sum(dim=0) * truth, dim=0)
    cosine = 1 - condition.start**2 / 2
    return cosine * truth + math.sqrt(1 - cosine**2) * away


def codes(n_samples: int, condition: Condition, generator: torch.Generator) -> Tensor:
    """Draw codes (sample, column) with ``n_active`` nonzero entries at random positions."""
    low, high = condition.amplitude
    chances = torch.rand((n_samples, condition.n_columns), generator=generator)
    positions = chances.topk(condition.n_active).indices
    values = low + (high - low) * torch.rand(positions.shape, generator=generator)
    return torch.zeros_like(chances).scatter_(1, positions, values)


def fitted_contraction(distances: np.ndarray) -> dict[str, float]:
    r"""Fit :math:`d_t^2 = d_\infty^2 + c \rho^t` to squared distances (step,).

    The ``neighbourhood`` of the limit is the median of the last quarter of the steps.  A line is
    fitted to the logarithms of what is above it, in the ``n_fitted`` steps before the squared
    distance falls to twice the neighbourhood; with fewer than four such steps, the others are nan.

    Returns the ``rate`` rho of contraction per step, the ``excess`` c, ``neighbourhood``,
    ``r_squared`` of the line, and ``n_fitted``.
    """
    neighbourhood = float(np.median(distances[-(len(distances) // 4) :]))
    near = distances <= 2 * neighbourhood
    n_fitted = int(near.argmax()) if near.any() else len(distances)
    rate = excess = r_squared = math.nan
    if n_fitted < 4:
        n_fitted = 0
    else:
        line = linregress(np.arange(n_fitted), np.log(distances[:n_fitted] - neighbourhood))
        rate, excess, r_squared = math.exp(line.slope), math.exp(line.intercept), line.rvalue**2
    found = {"rate": rate, "excess": excess, "neighbourhood": neighbourhood}
    return {**found, "r_squared": r_squared, "n_fitted": n_fitted}


@style.styled
def draw(table: pd.DataFrame, with_fit: bool) -> Figure:
    """Draw squared distances by step, a panel for each group of conditions.

    Lines are the median column, its geometric mean over seeds; bands reach up to the worst column.
    The fitted contraction is dashed.
    """
    count = table.varied.nunique()
    axes = style.axes_array(None, (1, count), (style.PAGE, 3.4), sharex=True, sharey=True)[0]
    for ax, (varied, rows) in zip(axes, table.groupby("varied", sort=False), strict=True):
        for number, (name, runs) in enumerate(rows.groupby("condition", sort=False)):
            label = f"{name}: times {runs.rate.mean():.2f} a step" if with_fit else str(name)
            by_step = np.log(runs.set_index("step")[["median", "max"]]).groupby("step").mean()
            middle, worst = np.exp(by_step["median"]), np.exp(by_step["max"])
            colour = style.colour(number)
            ax.plot(middle, color=colour, label=label)
            ax.fill_between(middle.index, middle, worst, color=colour, alpha=0.12, linewidth=0)
            if with_fit:
                fit = runs[["rate", "excess", "neighbourhood"]].mean()
                fitted = fit.neighbourhood + fit.excess * fit.rate ** np.arange(len(middle))
                ax.plot(fitted, color=style.INK, linewidth=0.9, linestyle=(0, (3, 3)))
        ax.set(yscale="log", xlabel="gradient steps")
        ax.legend(title=varied, alignment="left", loc="lower left", bbox_to_anchor=(0, 1))
    axes[0].set_ylabel("squared distance from the truth")
    return axes[0].figure
