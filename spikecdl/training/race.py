"""Where to start and how heavy the penalty is: several runs, judged by bins they do not see."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from spikecdl.events import Events
from spikecdl.training.observations import Observations
from spikecdl.training.problem import Problem
from spikecdl.training.refine import refine
from spikecdl.training.rounds import Round
from spikecdl.training.starts import data_starts
from spikecdl.training.thinning import thin
from spikecdl.training.weight import Weight

_HIDE_EVERY = 4  # one bin in so many is hidden from a run and judges it
_MOST_BINS = 120_000  # observed bins that a race looks at
_ERRORS = 2.0  # standard errors by which a prediction is better
_NOTHING = 0.1  # nats; less is no evidence at all


@dataclass(frozen=True)
class _Runner:
    """Where a run stands: cost of every hidden bin, templates, baseline, level, events."""

    cost: Tensor
    templates: Tensor
    baseline: Tensor
    level: float
    events: Events


@dataclass(frozen=True)
class Race:
    """Choose templates to start from, and the level of the penalty.

    A run sees three quarters of the bins; the others judge it.  It begins with more templates than
    asked, at stretches of the data, of which it takes away those that are missed least; see `thin`.
    The first is at the highest level of the penalty, others are at lower levels that promise to
    predict better.  Where all this predicts no better than a constant rate, templates are sought
    one by one.  Of the levels that are within two standard errors of the best the highest is
    chosen, which has the fewest events (a standard-error rule: Breiman et al., *Classification and
    Regression Trees*, 1984).

    Parameters
    ----------
    problem : Problem
    make_round : callable
        Gives the `Round` for some observations and rule of weight.
    surplus : float
        Templates that a run begins with beyond those asked, as a multiple of them.
    extra : int
        Bins by which templates are longer than asked; they are cropped to those of most energy.
    tol : float
        Tolerance of codes once templates are no longer noise.
    """

    problem: Problem
    make_round: Callable[[Observations, Weight], Round]
    surplus: float
    extra: int
    tol: float

    def __call__(self, data: Observations) -> tuple[Tensor, float]:
        """Return templates, and the level."""
        data = _part(data, self.problem.generator)
        seen = replace(data, mask=data.mask & ~_hidden(data))
        best = self._search(seen, data, self.problem.n_templates)
        if _as_good(_nothing(best, seen, data), best):
            best = _best([best, self._one_by_one(seen, data)])
        chosen = _sparsest([best, *self._at_other_levels(best, seen, data)])
        templates = self._run(chosen, data, data).templates
        return crop(templates, self.problem.length), chosen.level

    def _search(self, seen: Observations, data: Observations, count: int) -> _Runner:
        """Return the best run from more templates, at the highest level or at lower ones.

        A lower one is tried if it promises to predict better, or as long as nothing has been found
        and it promises to predict about as well.
        """
        highest, *lower = self.problem.weight.levels
        best = self._thinned(seen, data, count, highest)
        for level in lower:
            rival = self._run(replace(best, level=level), seen, data)
            found = not _as_good(_nothing(best, seen, data), best)
            promising = not _as_good(best, rival) if found else _as_good(rival, best)
            if len(best.events) and not promising:
                break
            best = _best([best, rival, self._thinned(seen, data, count, level)])
        return best

    def _thinned(self, seen: Observations, data: Observations, count: int, level: float) -> _Runner:
        """Return a run with so many templates, begun with more."""
        rows = data.rows()
        more = count + math.ceil(self.surplus * count)
        templates = self._stretches(rows, rows.baseline.expand_as(rows.y), more)
        step = self._round(seen, level, count)
        templates, baseline = thin(step, templates, data.baseline, count, self._centred)
        none = Events.from_codes(templates.new_zeros(1, 1, 1))
        start = _Runner(templates.new_zeros(0), templates, baseline, level, none)
        return self._run(start, seen, data)

    def _one_by_one(self, seen: Observations, data: Observations) -> _Runner:
        """Return a run that begins with one template and adds what events explain least."""
        runner = self._search(seen, data, 1)
        rows = seen.rows()
        while len(runner.templates) < self.problem.n_templates:
            level = runner.baseline.reshape_as(rows.baseline).expand_as(rows.y)
            eta = runner.events.add_to(level.to(runner.templates.dtype), runner.templates)
            new = self._stretches(rows, eta.to(rows.y.dtype), 1)
            more = replace(runner, templates=torch.cat([runner.templates, new]))
            runner = _best([more, self._run(more, seen, data)])
        return runner

    def _at_other_levels(
        self, best: _Runner, seen: Observations, data: Observations
    ) -> Iterator[_Runner]:
        """Go on at higher levels and at lower ones, as far as they predict as well."""
        levels = self.problem.weight.levels
        at = levels.index(best.level)
        for way in (levels[at + 1 :], levels[:at][::-1]):
            for level in way:
                other = self._run(replace(best, level=level), seen, data)
                yield other
                if not _as_good(other, best):
                    break

    def _stretches(self, rows: Observations, eta: Tensor, count: int) -> Tensor:
        """Take stretches of the data for templates."""
        length = self.problem.length + self.extra
        return data_starts(rows, eta, count, length, self.problem.generator)

    def _run(self, runner: _Runner, seen: Observations, data: Observations) -> _Runner:
        """Take two rounds on the bins that are seen; the cost is that of the others."""
        step = self._round(seen, runner.level, len(runner.templates))
        first = step(self._centred(runner.templates), runner.baseline, self.tol)
        second = step(self._centred(first.templates), first.baseline, self.tol)
        found = min(first, second, key=lambda refined: refined.objective)
        templates, baseline = found.templates, found.baseline
        if step.debias:
            # amplitudes as they are found when templates are known
            found = refine(
                seen, templates, found.events, step.penalty, baseline, learn_templates=False
            )
        found_runner = replace(runner, templates=templates, baseline=baseline, events=found.events)
        return replace(found_runner, cost=_hidden_cost(found_runner, found.baseline, seen, data))

    def _round(self, seen: Observations, level: float, count: int) -> Round:
        """Return the round for the first templates."""
        step = self.make_round(seen, self.problem.weight.at(level))
        return replace(step, penalty=step.penalty.select(range(count)))

    def _centred(self, templates: Tensor) -> Tensor:
        """Move each template so that the centroid of its energy is in the middle, in the extra."""
        length = templates.shape[-1]
        reach = length - self.problem.length
        energy = templates.square().sum(1)
        bins = torch.arange(length, dtype=energy.dtype, device=energy.device)
        centroid = (energy * bins).sum(-1) / energy.sum(-1).clamp(min=1e-12)
        late = (centroid - (length - 1) / 2).round().long().clamp(-reach, reach)
        source = torch.arange(length, device=late.device) + late[:, None]
        inside = (source >= 0) & (source < length)
        index = source.clamp(0, length - 1)[:, None].expand_as(templates)
        moved = torch.where(inside[:, None], templates.gather(-1, index), 0)
        return moved / moved.flatten(1).norm(dim=1).clamp(min=1e-12)[:, None, None]


def crop(templates: Tensor, length: int) -> Tensor:
    """Keep the stretch of most energy of each template, at unit norm."""
    energy = templates.square().sum(1).unfold(-1, length, 1).sum(-1)
    start = energy.argmax(-1)
    cut = torch.stack([h[:, s : s + length] for h, s in zip(templates, start, strict=True)])
    return cut / cut.flatten(1).norm(dim=1).clamp(min=1e-12)[:, None, None]


def _hidden_cost(
    runner: _Runner, baseline: Tensor, seen: Observations, data: Observations
) -> Tensor:
    """Return the cost of every bin that is not seen."""
    rows = data.rows().to(torch.float64)
    level = baseline.double().reshape_as(rows.baseline).expand_as(rows.y)
    eta = runner.events.add_to(level, runner.templates)
    return rows.family.cost(rows.y, eta)[rows.mask & ~seen.rows().mask]


def _nothing(runner: _Runner, seen: Observations, data: Observations) -> _Runner:
    """Return a runner that has a constant rate and no events."""
    none = replace(runner, events=runner.events.take(runner.events.window < 0))
    return replace(none, cost=_hidden_cost(none, seen.baseline, seen, data))


def _best(runners: Sequence[_Runner]) -> _Runner:
    """Return the runner that predicts the hidden bins best, the first of equals."""
    return min(runners, key=lambda runner: float(runner.cost.sum()))


def _sparsest(runners: Sequence[_Runner]) -> _Runner:
    """Return the runner of the highest level that is within two standard errors of the best."""
    best = _best(runners)
    good = (runner for runner in runners if _as_good(runner, best))
    return max(good, key=lambda runner: runner.level)


def _as_good(runner: _Runner, other: _Runner) -> bool:
    """Whether a runner predicts the hidden bins better than another less two standard errors."""
    worse = runner.cost - other.cost
    return float(worse.sum()) <= max(_NOTHING, _ERRORS * float(worse.std() * len(worse) ** 0.5))


def _hidden(data: Observations) -> Tensor:
    """Mark every so many bins, others in each window: events may come at the same time in all."""
    *windows, _, n_bins = data.y.shape
    first = torch.arange(math.prod(windows), device=data.y.device).reshape(*windows, 1, 1)
    return (first + torch.arange(n_bins, device=data.y.device)) % _HIDE_EVERY == 0


def _part(data: Observations, generator: torch.Generator) -> Observations:
    """Choose random trials, as many as a race may look at."""
    n_trials = len(data.y)
    per_trial = max(1, int(data.mask.count_nonzero()) // n_trials)
    keep = max(1, _MOST_BINS // per_trial)
    if keep >= n_trials:
        return data.load()
    index = torch.randperm(n_trials, generator=generator)[:keep].sort().values
    return data.take(index).load()
