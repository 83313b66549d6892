"""Where to start and how heavy the penalty is: several short runs, judged by hidden bins."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from spikecdl.events import Events
from spikecdl.training.observations import Observations
from spikecdl.training.problem import Problem
from spikecdl.training.refine import refine
from spikecdl.training.rounds import Round
from spikecdl.training.starts import data_starts, recurring
from spikecdl.training.weight import Weight

_HIDE_EVERY = 4  # one bin in so many is hidden from a run and judges it
_MOST_BINS = 120_000  # observed bins that a race looks at
_LOOSE = (0.5, 0.3, 0.1)  # tolerances of the first rounds, when the templates are still noise
_TRIAL = (0.3, 0.1, 0.1)
_SETTLING_ROUNDS = 2
_NOTHING = 0.1  # nats; less is no evidence at all
_RESEEDS = 4  # tries to replace each template


@dataclass(frozen=True)
class _Runner:
    """Where a run stands: cost of every hidden bin, templates, baseline, level, events."""

    cost: Tensor
    templates: Tensor
    baseline: Tensor
    level: float
    events: Events
    objective: float = math.inf

    def signal(self, rows: Observations) -> Tensor:
        """Sum of the events, in the shape of the observations."""
        zeros = torch.zeros_like(rows.y, dtype=self.templates.dtype)
        return self.events.add_to(zeros, self.templates)


#: From a runner, what it has seen and a template, to what may take the template's place.
_Proposal = Callable[[_Runner, Observations, int], Tensor]


@dataclass(frozen=True)
class Race:
    """Choose templates to start from, and the level of the penalty.

    Runs begin at stretches of the data, at each level of the penalty in turn, and see three
    quarters of the bins; the others judge them.  Every other run begins with one template and adds
    the rest one by one.  In place of each template of the best run others are tried: what recurs
    where events overlap, and what no event explains.  It then goes on at every level.  Of the
    levels that are within a standard error of the best the highest is chosen, which has the fewest
    events (the one-standard-error rule: Breiman et al., *Classification and Regression Trees*,
    1984).

    Parameters
    ----------
    problem : Problem
    make_round : callable
        Gives the `Round` for some observations and rule of weight.
    n_starts : int
        Runs.
    extra : int
        Bins by which templates are longer than asked.
    tol : float
        Tolerance of codes once templates are no longer noise.
    """

    problem: Problem
    make_round: Callable[[Observations, Weight], Round]
    n_starts: int
    extra: int
    tol: float

    def __call__(self, data: Observations) -> tuple[Tensor, float]:
        """Return templates, longer than asked by the extra bins, and the level."""
        data = _part(data, self.problem.generator)
        seen = replace(data, mask=data.mask & ~_hidden(data))
        levels = self.problem.weight.levels
        settle = (self.tol,) * _SETTLING_ROUNDS
        share = -(-self.n_starts // len(levels))
        first = [self._first(seen, data, level, share) for level in levels]
        leaders = [_best([runner, self._run(runner, seen, data, settle)]) for runner in first]
        winner = self._reseeded(_best(leaders), seen, data)
        others = [
            self._run(replace(winner, level=level), seen, data, settle)
            for level in levels
            if level != winner.level
        ]
        chosen = _sparsest([winner, *others])
        return self._run(chosen, data, data, settle).templates, chosen.level

    def _first(
        self, seen: Observations, data: Observations, level: float, n_starts: int
    ) -> _Runner:
        """Return the best of a few runs at one level, every other one grown."""
        together, one_by_one = self.problem.n_templates, 1
        counts = itertools.islice(itertools.cycle((together, one_by_one)), n_starts)
        return _best(self._grown(seen, data, level, count) for count in counts)

    def _grown(self, seen: Observations, data: Observations, level: float, count: int) -> _Runner:
        """Run with so many templates, then with one more, begun where the others explain least."""
        runner = self._run(self._start(data, level, count), seen, data, _LOOSE)
        while len(runner.templates) < self.problem.n_templates:
            new = self._unexplained(runner, seen)
            idle = replace(runner, templates=torch.cat([runner.templates, new]))
            runner = _best([idle, self._run(idle, seen, data, _LOOSE)])
        return runner

    def _start(self, data: Observations, level: float, n_templates: int) -> _Runner:
        problem, rows = self.problem, data.rows()
        eta = rows.baseline.expand_as(rows.y)
        length = problem.length + self.extra
        templates = data_starts(rows, eta, n_templates, length, problem.generator)
        none = Events.from_codes(templates.new_zeros(1, 1, 1))
        return _Runner(rows.baseline.new_tensor(torch.inf), templates, data.baseline, level, none)

    def _reseeded(self, runner: _Runner, seen: Observations, data: Observations) -> _Runner:
        """Try others in place of each template, as long as that helps."""
        count = len(runner.templates)
        proposals: tuple[_Proposal, ...] = (self._crowded, self._unexplained)
        for _ in range(_RESEEDS if count > 1 else 0):
            before = runner
            for c, propose in itertools.product(range(count), proposals):
                templates = runner.templates.clone()
                templates[c] = propose(runner, seen, c)[0]
                rival = self._run(replace(runner, templates=templates), seen, data, _TRIAL)
                better = rival.objective < runner.objective and _as_good(rival, runner)
                runner = rival if better else _best([runner, rival])
            if runner is before:
                break
        return runner

    def _crowded(self, runner: _Runner, seen: Observations, c: int) -> Tensor:
        """Take for a template what comes back often where several events overlap.

        They may be parts of one event, which together they explain.
        """
        length = runner.templates.shape[-1]
        crowded = replace(runner, events=runner.events.take(runner.events.crowded(length // 2)))
        return recurring(crowded.signal(seen.rows()), length, self.problem.generator)

    def _unexplained(self, runner: _Runner, seen: Observations, without: int = -1) -> Tensor:
        """Take for a template a stretch that the events, without one template's, do not explain."""
        rows = seen.rows()
        others = replace(runner, events=runner.events.take(runner.events.template != without))
        eta = others.signal(rows) + runner.baseline.reshape_as(rows.baseline)
        eta = eta.to(rows.y.dtype)
        return data_starts(rows, eta, 1, runner.templates.shape[-1], self.problem.generator)

    def _run(
        self, runner: _Runner, seen: Observations, data: Observations, tolerances: Sequence[float]
    ) -> _Runner:
        """Take a few rounds on the bins that are seen; the cost is that of the others."""
        step = self.make_round(seen, self.problem.weight.at(runner.level))
        found = step(_centred(runner.templates, self.extra), runner.baseline, tolerances[0])
        for before, tol in zip(tolerances, tolerances[1:], strict=False):
            new = step(_centred(found.templates, self.extra), found.baseline, tol)
            if tol == before and new.objective > found.objective:
                break
            found = new
        objective = found.objective
        templates, baseline = found.templates, found.baseline
        if step.debias:
            # amplitudes as they are found when templates are known
            found = refine(
                seen, templates, found.events, step.penalty, baseline, learn_templates=False
            )
        rows = data.rows().to(torch.float64)
        eta = found.events.add_to(
            found.baseline.reshape_as(rows.baseline).expand_as(rows.y), templates
        )
        hidden = rows.mask & ~seen.rows().mask
        return replace(
            runner,
            cost=rows.family.cost(rows.y, eta)[hidden],
            templates=templates,
            baseline=baseline,
            events=found.events,
            objective=objective,
        )


def _centred(templates: Tensor, reach: int) -> Tensor:
    """Move each template so that the centroid of its energy is in the middle, as far as reach."""
    length = templates.shape[-1]
    energy = templates.square().sum(1)
    bins = torch.arange(length, dtype=energy.dtype, device=energy.device)
    centroid = (energy * bins).sum(-1) / energy.sum(-1).clamp(min=1e-12)
    late = (centroid - (length - 1) / 2).round().long().clamp(-reach, reach)
    source = torch.arange(length, device=late.device) + late[:, None]
    inside = (source >= 0) & (source < length)
    index = source.clamp(0, length - 1)[:, None].expand_as(templates)
    moved = torch.where(inside[:, None], templates.gather(-1, index), 0)
    return moved / moved.flatten(1).norm(dim=1).clamp(min=1e-12)[:, None, None]


def _best(runners: Iterable[_Runner]) -> _Runner:
    """Return the runner that predicts the hidden bins best, the first of equals."""
    return min(runners, key=lambda runner: float(runner.cost.sum()))


def _sparsest(runners: Sequence[_Runner]) -> _Runner:
    """Return the runner of the highest level that is within a standard error of the best."""
    best = _best(runners)
    good = (runner for runner in runners if _as_good(runner, best))
    return max(good, key=lambda runner: runner.level)


def _as_good(runner: _Runner, other: _Runner) -> bool:
    """Whether a runner predicts the hidden bins better than another less a standard error."""
    worse = runner.cost - other.cost
    return float(worse.sum()) <= max(_NOTHING, float(worse.std() * len(worse) ** 0.5))


def _hidden(data: Observations) -> Tensor:
    """Mark every so many bins, others in each window: events may come at the same time in all."""
    *windows, _, n_bins = data.y.shape
    first = torch.arange(math.prod(windows), device=data.y.device).reshape(*windows, 1, 1)
    return (first + torch.arange(n_bins, device=data.y.device)) % _HIDE_EVERY == 0


def _part(data: Observations, generator: torch.Generator) -> Observations:
    """Choose random trials, as many as a race may look at."""
    n_trials = len(data.y)
    per_trial = max(1, int(data.mask.sum()) // n_trials)
    keep = max(1, _MOST_BINS // per_trial)
    if keep >= n_trials:
        return data
    index = torch.randperm(n_trials, generator=generator)[:keep].sort().values
    return data.take(index.to(data.y.device))
