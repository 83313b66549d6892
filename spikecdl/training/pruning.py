"""Fewer templates from more: those are taken away that the others can best do without."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from spikecdl.training.dictionary_update import Round

_BEGIN = (0.5, 0.3)  # tolerances of the first rounds, when the templates are still noise
_LOOSE = 0.5  # tolerance of codes that are only compared
_TOL = 0.3


def prune(
    step: Round,
    templates: Tensor,
    baseline: Tensor,
    count: int,
    centred: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """Take templates away one at a time, each time that without which the cost grows least.

    The cost is the penalised one, with codes solved anew.  Those that are left have a round after
    each, in which they take over what they can.

    Parameters
    ----------
    step : Round
        What a round does, and with which data; its penalty is that of the templates to be left.
    templates : tensor, shape (template, channel, bin)
        Those whose numbers are the same modulo ``count`` are rivals for one place, if the penalty
        has a sign for each; otherwise all are rivals for all places.
    baseline : tensor
        See `Round`.
    count : int
        Templates that are to be left.
    centred : callable
        Moves templates to the middle of their bins before a round.

    Returns
    -------
    templates, baseline
    """
    places = [c % count for c in range(len(templates))]
    growth = [0.0] * len(places)
    for tol in _BEGIN:
        found = _with_signs(step, places)(centred(templates), baseline, tol)
        templates, baseline = found.templates, found.baseline
    while len(places) > count:
        templates = centred(templates)
        worst = _least_missed(_with_signs(step, places), templates, baseline, places, growth)
        others = [c for c in range(len(places)) if c != worst]
        growth, places = [growth[c] for c in others], [places[c] for c in others]
        found = _with_signs(step, places)(templates[others], baseline, _TOL)
        templates, baseline = found.templates, found.baseline
    if step.penalty.signs_differ:
        templates = templates[sorted(range(count), key=places.__getitem__)]
    return templates, baseline


def _with_signs(step: Round, places: Sequence[int]) -> Round:
    """Return the round for templates that are rivals for those places."""
    return replace(step, penalty=step.penalty.select(places))


def _least_missed(
    step: Round,
    templates: Tensor,
    baseline: Tensor,
    places: Sequence[int],
    growth: list[float],
) -> int:
    """Return the template without which the cost grows least; ``growth`` is brought up to date.

    A template is missed the more the fewer others there are, so the growths of before are least
    ones: only those are computed anew that may be the least still (Minoux, 1978).
    """
    solved = step.codes(templates, baseline, _LOOSE)
    whole = step.penalised_cost(templates, solved, baseline)

    def missed(c: int) -> float:
        others = [other for other in range(len(templates)) if other != c]
        waves, lighter = templates[others], solved.penalty.select(others)
        left = step.solve(waves, baseline, lighter, _LOOSE, solved.events.without(c))
        return step.penalised_cost(waves, left, baseline) - whole

    spare = [
        c
        for c, place in enumerate(places)
        if places.count(place) > 1 or not step.penalty.signs_differ
    ]
    queue = [(growth[c], c) for c in spare]
    heapq.heapify(queue)
    known: set[int] = set()
    while True:
        _, c = heapq.heappop(queue)
        if c in known:
            return c
        known.add(c)
        growth[c] = missed(c)
        heapq.heappush(queue, (growth[c], c))
