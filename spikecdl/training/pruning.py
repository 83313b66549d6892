"""Pruning and merging: templates that cost least are removed; those that come together, merged."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from spikecdl.solvers.events import Events
from spikecdl.training.dictionary_update import Round
from spikecdl.training.steps import Steps


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
    all_roles = torch.arange(len(templates)) % count

    def first_rounds() -> dict[str, Tensor]:
        now, level = templates, baseline
        for tol in (0.5, 0.3):  # templates are still noise
            found = step.select(all_roles.tolist())(centred(now), level, tol)
            now, level = found.templates, found.baseline
        none = torch.zeros(len(now), dtype=torch.float64)
        return {"templates": now, "baseline": level, "roles": all_roles, "removal_costs": none}

    def removal() -> dict[str, Tensor]:
        now, level = centred(known["templates"]), known["baseline"]
        roles, costs = known["roles"].tolist(), known["removal_costs"].tolist()
        worst = _cheapest(step.select(roles), now, level, roles, costs)
        others = [c for c in range(len(roles)) if c != worst]
        found = step.select([roles[c] for c in others])(now[others], level, 0.3)
        return {
            **{"templates": found.templates, "baseline": found.baseline},
            "roles": known["roles"][others],
            "removal_costs": torch.tensor(costs, dtype=torch.float64)[others],
        }

    known = steps("first rounds", first_rounds)
    while len(known["roles"]) > count:
        known = steps("removal", removal)
    order = known["roles"].argsort() if step.roles_differ else torch.arange(count)
    return known["templates"][order], known["baseline"]


def _cheapest(
    step: Round,
    templates: Tensor,
    baseline: Tensor,
    roles: Sequence[int],
    removal_costs: list[float],
    tol: float = 0.5,
) -> int:
    """Return the template whose removal costs least, and update ``removal_costs``.

    Removal costs grow as templates go, so earlier values are lower bounds, and only those that may
    still be the least are computed again (lazy greedy: Minoux, 1978).  Codes are only compared, so
    a loose tolerance is enough.
    """
    solved = step.codes(templates, baseline, tol)
    whole = step.penalised_cost(templates, solved, baseline)

    def removal_cost(c: int) -> float:
        others = [other for other in range(len(templates)) if other != c]
        kept, lighter = templates[others], solved.penalty.select(others)
        left = step.solve(kept, baseline, lighter, tol, solved.events.without(c))
        return step.penalised_cost(kept, left, baseline) - whole

    spare = [c for c, role in enumerate(roles) if roles.count(role) > 1 or not step.roles_differ]
    known: set[int] = set()
    while (cheapest := min(spare, key=removal_costs.__getitem__)) not in known:
        known.add(cheapest)
        removal_costs[cheapest] = removal_cost(cheapest)
    return cheapest


def merged(templates: Tensor, events: Events, least_share: float = 0.5) -> Tensor | None:
    """Return templates (template, channel, bin) of which one has taken up another, or None.

    If most events of a template (``least_share``) come with those of another at about the same lag,
    within a fortieth of a template, the two may be parts of one waveform.  The first then becomes
    their sum, at the ratio of the mean amplitudes of these events; the second is left as it is, for
    its other events.
    """
    n, length = len(templates), templates.shape[-1]
    same = max(1, length // 40)
    first, second = _pairs(events, length)
    a, b = events.template[first], events.template[second]
    lag = events.onset[second] - events.onset[first]
    apart = a != b
    at = (a[apart], b[apart], lag[apart] + length)
    counts = events.amplitude.new_zeros(n, n, 2 * length + 1)
    counts.index_put_(at, counts.new_ones(()), accumulate=True)
    counts = F.avg_pool1d(counts, 2 * same + 1, 1, same) * (2 * same + 1)
    share = counts / events.template.bincount(minlength=n).clamp(min=1)[:, None, None]
    if not (share > least_share).any():
        return None
    one, other, late = (int(k) for k in torch.unravel_index(share.argmax(), share.shape))
    late -= length
    near = (a == one) & (b == other) & ((lag - late).abs() <= same)
    ratio = float(events.amplitude[second[near]].mean() / events.amplitude[first[near]].mean())
    both = templates.clone()
    both[one] += ratio * F.pad(templates[other], (late, -late))
    return both


def _pairs(events: Events, reach: int) -> tuple[Tensor, Tensor]:
    """Return the indices of all ordered pairs of events of a window less than ``reach`` apart."""
    order = events.onset.argsort()
    order = order[events.window[order].argsort(stable=True)]
    window, onset = events.window[order], events.onset[order]
    pairs = [order.new_zeros(2, 0)]
    for k in range(1, len(order)):
        near = (window[k:] == window[:-k]) & (onset[k:] - onset[:-k] < reach)
        if not near.any():
            break
        pairs.append(torch.stack([order[:-k][near], order[k:][near]]))
    first, second = torch.cat(pairs, dim=1)
    return torch.cat([first, second]), torch.cat([second, first])
