"""Pruning: the templates whose removal costs least are removed one by one."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from spikecdl.training.dictionary_update import Round
from spikecdl.training.steps import Steps

_FIRST_TOLS = (0.5, 0.3)  # tolerances of the first rounds, when templates are still noise
_LOOSE_TOL = 0.5  # tolerance of codes that are only compared
_TOL = 0.3


def prune(
    step: Round,
    templates: Tensor,
    baseline: Tensor,
    count: int,
    centred: Callable[[Tensor], Tensor],
    steps: Steps,
) -> tuple[Tensor, Tensor]:
    """Remove templates one at a time, each time the one whose removal costs least.

    The cost of a removal is the increase of the penalised cost, with codes solved anew.  After each
    removal the remaining templates take a round.

    Parameters
    ----------
    step : Round
        That of the templates that remain.
    templates : tensor, shape (template, channel, bin)
        If templates have signs or bounds of their own, those whose numbers are equal modulo
        ``count`` compete for one of them; otherwise all compete.
    baseline : tensor, shape of ``step.data.baseline``
    count : int
        Number of templates that remain.
    centred : callable
        Moves templates to the middle of their bins before a round.
    steps : Steps
        Each removal is one.
    """
    roles = [c % count for c in range(len(templates))]
    removal_costs = [0.0] * len(roles)

    def first_rounds() -> dict[str, Tensor]:
        now, level = templates, baseline
        for tol in _FIRST_TOLS:
            found = step.select(roles)(centred(now), level, tol)
            now, level = found.templates, found.baseline
        return {"templates": now, "baseline": level}

    def removal() -> dict[str, Tensor]:
        now, costs = centred(templates), list(removal_costs)
        worst = _cheapest(step.select(roles), now, baseline, roles, costs)
        others = [c for c in range(len(roles)) if c != worst]
        left = [roles[c] for c in others]
        found = step.select(left)(now[others], baseline, _TOL)
        return {
            **{"templates": found.templates, "baseline": found.baseline},
            "roles": torch.tensor(left),
            "removal_costs": torch.tensor([costs[c] for c in others], dtype=torch.float64),
        }

    known = steps("first rounds", first_rounds)
    templates, baseline = known["templates"], known["baseline"]
    while len(roles) > count:
        known = steps("removal", removal)
        templates, baseline = known["templates"], known["baseline"]
        roles, removal_costs = known["roles"].tolist(), known["removal_costs"].tolist()
    if step.roles_differ:
        templates = templates[sorted(range(count), key=roles.__getitem__)]
    return templates, baseline


def _cheapest(
    step: Round,
    templates: Tensor,
    baseline: Tensor,
    roles: Sequence[int],
    removal_costs: list[float],
) -> int:
    """Return the template whose removal costs least, and update ``removal_costs``.

    Removal costs grow as templates go, so earlier values are lower bounds, and only those that may
    still be the least are computed again (lazy greedy: Minoux, 1978).
    """
    solved = step.codes(templates, baseline, _LOOSE_TOL)
    whole = step.penalised_cost(templates, solved, baseline)

    def removal_cost(c: int) -> float:
        others = [other for other in range(len(templates)) if other != c]
        kept, lighter = templates[others], solved.penalty.select(others)
        left = step.solve(kept, baseline, lighter, _LOOSE_TOL, solved.events.without(c))
        return step.penalised_cost(kept, left, baseline) - whole

    spare = [c for c, role in enumerate(roles) if roles.count(role) > 1 or not step.roles_differ]
    queue = [(removal_costs[c], c) for c in spare]
    heapq.heapify(queue)
    known: set[int] = set()
    while True:
        _, c = heapq.heappop(queue)
        if c in known:
            return c
        known.add(c)
        removal_costs[c] = removal_cost(c)
        heapq.heappush(queue, (removal_costs[c], c))
