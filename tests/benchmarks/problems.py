"""Workloads in the form of the package and of the yardstick, and the optimality gap of codes."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch
from timing import Skip
from torch import Tensor
from yardstick import Yardstick

from spikecdl import L1, BinnedSpikes, ConvDictionary, sparse_code
from spikecdl.config import LAYOUTS
from spikecdl.conversion import observe
from spikecdl.model.families import FAMILIES
from spikecdl.solvers.events import Events
from spikecdl.solvers.sparse_coding import SparseCode
from spikecdl.training import Fixed, Observations, UniversalThreshold, base

#: Violations of the optimality conditions, relative to the weight.
TOLERANCES = (2.0, 1.0, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 5e-3, 2e-3, 1e-3, 1e-4, 1e-5, 1e-6)
_NEAR, _ROUNDS = 3e-4, 400  # violation with a negligible gap, and iterations to reach it


def use_small_parts() -> None:
    """Let observations of quick sizes be worked on in parts, as those of full sizes are."""
    base.PART = 2**15


def observations(counts: BinnedSpikes, known_baseline: bool) -> Observations:
    """Return windows (window, 1, bin) of real numbers, with the true or a learned baseline."""
    truth = counts.truth
    baseline = truth.baseline if known_baseline else "learned"
    family, layout = FAMILIES[truth.family](), LAYOUTS["shared"]
    return observe(counts, family, layout, baseline, torch.device("cpu")).rows().load()


def true_templates(counts: BinnedSpikes) -> Tensor:
    """Return the templates that made the counts, in single precision."""
    return torch.tensor(counts.truth.templates, dtype=torch.float32)


class Coding:
    """The problem of finding codes of observations, given templates and baseline.

    Parameters
    ----------
    data : Observations
        In rows.
    templates : tensor, shape (template, 1, bin)
    weight : float, optional
        Penalty weight; None: the package's default.
    """

    def __init__(self, data: Observations, templates: Tensor, weight: float | None = None) -> None:
        self.data, self.templates = data, templates
        self.dictionary = ConvDictionary(templates)
        rule = UniversalThreshold() if weight is None else Fixed(weight)
        self.penalty = rule(L1(), self.dictionary, data, data.baseline)

    @classmethod
    def of(cls, counts: BinnedSpikes) -> Coding:
        """Return the problem with the true templates and baseline."""
        return cls(observations(counts, known_baseline=True), true_templates(counts))

    @property
    def yardstick(self) -> Yardstick:
        """The same problem for the yardstick."""
        n_trials = getattr(self.data.family, "n_trials", None)
        return Yardstick(
            self.data.y,
            self.data.baseline,
            self.penalty.weight,
            None if n_trials is None else int(n_trials.max()),
        )

    def solve(self, tol: float, max_iter: int = 3000) -> SparseCode:
        """Solve with the package."""
        return sparse_code(
            self.data.y,
            self.data.family,
            self.dictionary,
            self.penalty,
            self.data.baseline,
            tol=tol,
            max_iter=max_iter,
        )

    def codes(self, tol: float) -> Tensor:
        """Return the codes of `solve`."""
        return self.solve(tol).codes

    def objective(self, codes: Tensor) -> float:
        """Penalised negative log likelihood up to a constant, in double precision."""
        data, codes = self.data.to(torch.float64), codes.double()
        events = Events.from_codes(codes)
        eta = events.add_to(data.baseline.expand_as(data.y), self.templates.double())
        return float(data.cost(eta)) + float(self.penalty(codes))

    @cached_property
    def optimum(self) -> float:
        """The objective at codes with a violation of about a millionth of the weight.

        Raises
        ------
        Skip
            If the violation stays above `_NEAR`.
        """
        solved = self.solve(1e-6, _ROUNDS)
        violation = float(solved.violation.max())
        if violation > _NEAR:
            raise Skip(f"no optimum: sparse coding stopped at a violation of {violation:.1e}")
        return self.objective(solved.codes)

    def gap(self, codes: Tensor) -> float:
        """Return the relative difference of the objective from its optimum."""
        return max(self.objective(codes) / self.optimum - 1, 0.0)

    def loosest(self, gap: float, codes: Callable[[float], Tensor]) -> float:
        """Return the loosest tolerance with which a solver's codes reach a gap, by bisection."""
        index = bisect_left(TOLERANCES, True, key=lambda tol: self.gap(codes(tol)) <= gap)
        return TOLERANCES[min(index, len(TOLERANCES) - 1)]

    def certificate(self, tol: float) -> str:
        """Describe the quality of the package's codes at a tolerance."""
        solved = self.solve(tol)
        return (
            f"gap {self.gap(solved.codes):.1e}, violation {float(solved.violation.max()):.1e} of "
            f"the weight; {int((solved.codes != 0).sum()):,} codes"
        )


def true_events(counts: BinnedSpikes) -> Events:
    """Return the true events of the counts, with windows in rows."""
    table = counts.truth.events.assign(
        window=lambda e: e["trial"] * counts.n_units + e["unit"],
        onset=lambda e: np.rint(e["time"] / counts.bin_size).astype(int),
    ).sort_values(["window", "template", "onset"])
    index = (torch.tensor(table[name].to_numpy()) for name in ("window", "template", "onset"))
    return Events(*index, torch.tensor(table["amplitude"].to_numpy()))
