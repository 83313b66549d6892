"""Parameters of a family that are estimated from the data, around what is expected of them."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from spikecdl.model.dictionary import ConvDictionary
from spikecdl.model.families import Family
from spikecdl.model.observations import PART, Observations
from spikecdl.training.alternating import Alternating
from spikecdl.training.base import Problem
from spikecdl.training.covariates import with_covariates


def estimated_family(family: Family, data: Observations, mean: Tensor) -> Family:
    """Return the family, what is not known of it estimated from the observed bins.

    ``mean`` (window, channel, bin) is what is expected of the data as rows; of large data, some
    rows are used.
    """
    some = slice(None, None, max(1, data.y.numel() // PART))
    rows = data.rows().take(some).load()
    return family.estimate(rows.y[rows.mask].double(), mean[some][rows.mask].double())


def family_of_first_fit(problem: Problem, family: Family) -> Family:
    """Return the family, what is not known of it estimated around the rates of a first epoch.

    Around a constant rate, events would be taken for variability of the counts, as they would by
    a trainer that weighs them against it.
    """
    trainer = Alternating()
    problem = with_covariates(problem)
    once = replace(problem, n_epochs=1)

    def first_fit() -> dict[str, Tensor]:
        return trainer.fit(once, None, lambda state: None).model(problem.n_templates)

    tensors = problem.steps("first fit", first_fit)
    dictionary = ConvDictionary(tensors["templates"].to(problem.data.baseline.device))
    mean = problem.mean(dictionary, *trainer.coded(problem, tensors))
    return estimated_family(family, problem.data, mean)
