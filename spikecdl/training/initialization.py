"""First templates and level of the penalty: several candidates, judged by held-out bins."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from spikecdl.solvers.events import Events
from spikecdl.training.base import Observations, Problem
from spikecdl.training.dictionary_update import Round
from spikecdl.training.pruning import merged, prune

_HIDE_EVERY = 4  # every fourth bin is hidden from candidates and judges them
_STANDARD_ERRORS = 2.0  # within which one prediction is as good as another
_LEAST_EVIDENCE = 0.1  # nats
_LEAST_CLUSTERS = 30  # sums of costs from which a standard error is estimated
_MOST_STRETCHES = 300  # among which initial templates are chosen


@dataclass(frozen=True)
class _Candidate:
    """What was fitted to the seen bins, its objective, and the cost of hidden ones (cluster,)."""

    objective: float
    cost: Tensor
    templates: Tensor
    baseline: Tensor
    level: float
    events: Events

    def tensors(self) -> dict[str, Tensor]:
        """Return what `of` takes."""
        numbers = torch.tensor([self.objective, self.level], dtype=torch.float64)
        more = {"cost": self.cost, "templates": self.templates, "baseline": self.baseline}
        return {**vars(self.events), **more, "numbers": numbers}

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> _Candidate:
        """Return the candidate of these tensors."""
        rest = dict(tensors)
        objective, level = rest.pop("numbers").tolist()
        more = {name: rest.pop(name) for name in ("cost", "templates", "baseline")}
        return cls(objective, **more, level=level, events=Events(**rest))


@dataclass(frozen=True)
class Initialization:
    """Choose the first templates, and the level of the penalty.

    A candidate is fitted to three quarters of the bins and judged by the others.  It begins with
    more templates than asked, taken from stretches of the data, and prunes them (`prune`).
    Candidates begin at each of the middle levels of the penalty, as strong events are told apart
    best at a high level and weak ones are found at a low level only.  Templates that come together
    are merged (`merged`) if fewer events then predict as well.  The candidate of lowest objective
    at the same level is taken: if it does not predict better than a constant rate, one begins at
    the lowest level, and then templates are added one by one.  The best is continued at other
    levels.
    The level chosen is the highest within two standard errors of the best, which has the fewest
    events (the standard-error rule of Breiman et al., *Classification and Regression Trees*, 1984).

    Parameters
    ----------
    problem : Problem
    step : Round
        Round of training; its data, and the weight and number of templates, are set here.
    overcomplete : float
        Templates beyond those asked that a candidate begins with, as a multiple of them.
    extra : int
        Bins learned beyond the length asked; templates are cropped to the bins of most energy.
    tol : float
        Tolerance of codes.
    most_bins : int
        Observed bins that are used; of more, random windows.
    """

    problem: Problem
    step: Round
    overcomplete: float
    extra: int
    tol: float
    most_bins: int

    def __call__(self, data: Observations) -> tuple[Tensor, float]:
        """Return templates (template, channel, bin), and the level."""
        data = _subset(data, self.most_bins, self.problem.generator)
        seen = replace(data, mask=data.mask & ~_hidden(data))
        if data.learn_baseline and not data.drifts:
            level = data.baseline + (seen.mean_baseline() - data.mean_baseline())
            seen = replace(seen, baseline=level)
        best = self._search(seen, data, self.problem.n_templates)
        if as_good(_without_events(best, seen, data).cost, best.cost):
            best = _best([best, self._one_by_one(seen, data)])
        chosen = _sparsest([best, *self._at_other_levels(best, seen, data)])
        templates = self._run(chosen, data, data).templates
        return crop(templates, self.problem.length), chosen.level

    def _search(self, seen: Observations, data: Observations, count: int) -> _Candidate:
        """Return the best of the candidates that begin at middle levels, or at the lowest."""
        *higher, lowest = self.problem.weight.levels
        middle = higher[1:] or [lowest]
        begun = (self._pruned(seen, data, count, level) for level in middle)
        same = (self._at(middle[-1], candidate, seen, data) for candidate in begun)
        whole = (self._merged(candidate, seen, data) for candidate in same)
        best = min(whole, key=lambda candidate: candidate.objective)
        if as_good(_without_events(best, seen, data).cost, best.cost):
            return _best([best, self._pruned(seen, data, count, lowest)])
        return best

    def _merged(self, best: _Candidate, seen: Observations, data: Observations) -> _Candidate:
        """Return the candidate with templates merged, as long as fewer events predict as well."""
        templates = merged(best.templates, best.events)
        if templates is None:
            return best
        other = self._run(replace(best, templates=templates), seen, data)
        fewer = len(other.events) < len(best.events)
        return self._merged(other, seen, data) if fewer and as_good(other.cost, best.cost) else best

    def _pruned(
        self, seen: Observations, data: Observations, count: int, level: float
    ) -> _Candidate:
        """Return a candidate with ``count`` templates, pruned from more."""
        none = Events.from_codes(data.baseline.new_zeros(1, 1, 1))
        templates = data.baseline.new_zeros(0, data.y.shape[-2], self.problem.length + self.extra)
        empty = _Candidate(math.inf, none.amplitude, templates, seen.baseline, level, none)
        more = self._with_more(empty, seen, count + math.ceil(self.overcomplete * count))
        step = self._round(seen, level, count)
        begin = (step, more.templates, seen.baseline)
        templates, baseline = prune(*begin, count, self._centred, self.problem.steps)
        return self._run(replace(empty, templates=templates, baseline=baseline), seen, data)

    def _one_by_one(self, seen: Observations, data: Observations) -> _Candidate:
        """Return a candidate to which templates are added one at a time."""
        candidate = self._search(seen, data, 1)
        while len(candidate.templates) < self.problem.n_templates:
            more = self._with_more(candidate, seen, 1)
            candidate = _best([more, self._run(more, seen, data)])
        return candidate

    def _with_more(self, candidate: _Candidate, seen: Observations, count: int) -> _Candidate:
        """Return the candidate with templates added from where the present ones explain least."""
        rows, length = seen.rows(), self.problem.length + self.extra
        baseline = candidate.baseline.reshape_as(rows.baseline).expand_as(rows.y)
        baseline = baseline.to(candidate.templates.dtype)
        eta = candidate.events.add_to(baseline, candidate.templates).to(rows.y.dtype)
        new = initial_templates(rows, eta, count, length, self.problem.generator)
        return replace(candidate, templates=torch.cat([candidate.templates, new]))

    def _at_other_levels(
        self, best: _Candidate, seen: Observations, data: Observations
    ) -> Iterator[_Candidate]:
        """Yield candidates at higher and lower levels, as far as they predict as well."""
        levels = self.problem.weight.levels
        at = levels.index(best.level)
        for way in (levels[at + 1 :], levels[:at][::-1]):
            for level in way:
                other = self._at(level, best, seen, data)
                yield other
                if not as_good(other.cost, best.cost):
                    break

    def _at(
        self, level: float, candidate: _Candidate, seen: Observations, data: Observations
    ) -> _Candidate:
        """Return the candidate continued at a level, if it is not there."""
        if candidate.level == level:
            return candidate
        return self._run(replace(candidate, level=level), seen, data)

    def _run(self, candidate: _Candidate, seen: Observations, data: Observations) -> _Candidate:
        """Take two rounds on the bins that are seen, and note the cost of the others."""
        run = partial(self._rounds, candidate, seen, data)
        return _Candidate.of(self.problem.steps("rounds", lambda: run().tensors()))

    def _rounds(self, candidate: _Candidate, seen: Observations, data: Observations) -> _Candidate:
        step = self._round(seen, candidate.level, len(candidate.templates))
        first = step(self._centred(candidate.templates), candidate.baseline, self.tol)
        second = step(self._centred(first.templates), first.baseline, self.tol)
        found = min(first, second, key=lambda update: update.objective)
        objective, templates, baseline = found.objective, found.templates, found.baseline
        if step.debias:
            # as amplitudes are found with known templates
            known = {"learn_templates": False, "shrink": True}
            found = step.update(templates, found.events, baseline, **known)
        new = replace(candidate, objective=objective, templates=templates, baseline=baseline)
        new = replace(new, events=found.events)
        return replace(new, cost=_hidden_cost(new, found.baseline, seen, data))

    def _round(self, seen: Observations, level: float, count: int) -> Round:
        """Return the round for ``count`` templates at a level."""
        step = self.step.select(range(count))
        return replace(step, data=seen, weight=self.problem.weight.at(level))

    def _centred(self, templates: Tensor) -> Tensor:
        """Move each template by at most the extra bins to bring its energy to the middle."""
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
    """Cut each template to its ``length`` bins of most energy, at unit norm."""
    energy = templates.square().sum(1).unfold(-1, length, 1).sum(-1)
    start = energy.argmax(-1)
    cut = torch.stack([h[:, s : s + length] for h, s in zip(templates, start, strict=True)])
    return cut / cut.flatten(1).norm(dim=1).clamp(min=1e-12)[:, None, None]


def _hidden_cost(
    candidate: _Candidate, baseline: Tensor, seen: Observations, data: Observations
) -> Tensor:
    """Return the cost of the hidden bins of every window, or stretch if there are few windows."""
    rows = data.rows().to(torch.float64)
    baseline = baseline.double().reshape_as(rows.baseline).expand_as(rows.y)
    eta = candidate.events.add_to(baseline, candidate.templates)
    hidden = rows.mask & ~seen.rows().mask
    cost = torch.where(hidden, rows.family.cost(rows.y, eta), 0).sum(dim=1)
    return by_cluster(cost, candidate.templates.shape[-1])


def by_cluster(cost: Tensor, length: int) -> Tensor:
    """Sum costs (window, bin) over windows; few windows are cut into stretches of two templates.

    Costs under one event are alike, but those of windows, or of long stretches, are independent.
    """
    n_windows, n_bins = cost.shape
    pieces = min(math.ceil(_LEAST_CLUSTERS / n_windows), max(1, n_bins // (2 * length)))
    piece = torch.arange(n_bins, device=cost.device) * pieces // n_bins
    return cost.new_zeros(n_windows, pieces).index_add(1, piece, cost).flatten()


def _without_events(candidate: _Candidate, seen: Observations, data: Observations) -> _Candidate:
    """Return the candidate without its events, at the initial baseline."""
    none = replace(candidate, events=candidate.events.take(candidate.events.window < 0))
    return replace(none, cost=_hidden_cost(none, seen.baseline, seen, data))


def _best(candidates: Sequence[_Candidate]) -> _Candidate:
    """Return the candidate with the lowest cost of hidden bins, the first of equals."""
    return min(candidates, key=lambda candidate: float(candidate.cost.sum()))


def _sparsest(candidates: Sequence[_Candidate]) -> _Candidate:
    """Return the candidate of the highest level among those as good as the best."""
    best = _best(candidates)
    good = (candidate for candidate in candidates if as_good(candidate.cost, best.cost))
    return max(good, key=lambda candidate: candidate.level)


def as_good(cost: Tensor, other: Tensor) -> bool:
    """Return whether costs (cluster,) are in sum at most two standard errors above others."""
    worse = cost - other
    error = float(worse.std() * len(worse) ** 0.5) if len(worse) > 1 else 0.0
    return float(worse.sum()) <= max(_LEAST_EVIDENCE, _STANDARD_ERRORS * error)


def _hidden(data: Observations) -> Tensor:
    """Mark every fourth bin, shifted by window: events may be at the same time in all windows."""
    *windows, _, n_bins = data.y.shape
    first = torch.arange(math.prod(windows), device=data.y.device).reshape(*windows, 1, 1)
    return (first + torch.arange(n_bins, device=data.y.device)) % _HIDE_EVERY == 0


def _subset(data: Observations, most_bins: int, generator: torch.Generator) -> Observations:
    """Choose random trials, at most ``most_bins`` observed bins of them."""
    n_trials = len(data.y)
    per_trial = max(1, int(data.mask.count_nonzero()) // n_trials)
    keep = max(1, most_bins // per_trial)
    if keep >= n_trials:
        return data.load()
    index = torch.randperm(n_trials, generator=generator)[:keep].sort().values
    return data.take(index).load()


def initial_templates(
    data: Observations, eta: Tensor, n_templates: int, length: int, generator: torch.Generator
) -> Tensor:
    """Choose stretches of standardised residual that differ up to shifts (k-means++ seeding).

    ``data`` has one window axis; ``eta`` is the linear predictor of the present model.  Returns
    ``n_templates`` of ``length`` bins, (template, channel, bin), of unit norm.
    """
    peaks = [
        _peaks(_standardised_residual(some, eta[part], length), length, some.onsets_of(length))
        for part, some in data.parts()
    ]
    energy, stretches = map(torch.cat, zip(*peaks, strict=True))
    if (energy > 0).any():
        energy, stretches = energy[energy > 0], stretches[energy > 0]
    order = energy.argsort(descending=True, stable=True)[:_MOST_STRETCHES]
    stretches = _unit(stretches[order])
    chosen = [int(torch.randint(len(stretches), (1,), generator=generator))]
    distance = 1 - _similarity(stretches, stretches[chosen[0]])
    while len(chosen) < n_templates:
        chance = distance.clamp(min=1e-9).square()
        chosen.append(int(torch.multinomial(chance.cpu(), 1, generator=generator)))
        distance = torch.minimum(distance, 1 - _similarity(stretches, stretches[chosen[-1]]))
    return _unit(_average(stretches, stretches[chosen]) * _taper(length, stretches))


def _standardised_residual(data: Observations, eta: Tensor, length: int) -> Tensor:
    """Return the residual over its standard deviation, smoothed over 5 % of a template."""
    spread = data.family.curvature(data.y, eta).clamp(min=1e-6).sqrt()
    return _smooth(data.residual(eta) / spread, width=max(1.0, length / 20))


def _unit(templates: Tensor) -> Tensor:
    norms = templates.flatten(1).norm(dim=1)[:, None, None]
    flat = templates[0].numel() ** -0.5
    return torch.where(norms > 0, templates / norms.clamp(min=1e-12), flat)


def _smooth(signal: Tensor, width: float) -> Tensor:
    reach = int(3 * width)
    bins = torch.arange(-reach, reach + 1, dtype=signal.dtype, device=signal.device)
    window = torch.exp(-0.5 * (bins / width).square())
    flat = signal.reshape(-1, 1, signal.shape[-1])
    return F.conv1d(flat, (window / window.sum())[None, None], padding=reach).reshape_as(signal)


def _taper(length: int, like: Tensor) -> Tensor:
    bins = torch.arange(length, dtype=like.dtype, device=like.device) + 0.5
    return (torch.minimum(bins, length - bins) / (0.06 * length)).clamp(max=1)


def _peaks(signal: Tensor, length: int, onsets: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the stretches of most energy, at most half overlapping, and their energies.

    They begin where ``onsets`` (window, onset), if there are any, are True.
    """
    energy = signal.square().sum(1).unfold(-1, length, 1).sum(-1)  # (window, onset)
    energy = energy if onsets is None else energy * onsets
    best = F.max_pool1d(energy[:, None], length | 1, 1, length // 2)[:, 0]
    stands_out = (energy == best) & (energy > 0)
    window, onset = (stands_out if stands_out.any() else energy == best).nonzero(as_tuple=True)
    peak = energy[window, onset]
    order = peak.argsort(descending=True)[:_MOST_STRETCHES]
    return peak[order], signal.unfold(-1, length, 1)[window[order], :, onset[order]]


def _correlation(stretches: Tensor, template: Tensor) -> Tensor:
    """Correlate stretches with a template at every shift from minus to plus its length."""
    n = 2 * stretches.shape[-1]
    spectrum = torch.fft.rfft(stretches, n) * torch.fft.rfft(template, n).conj()
    return torch.fft.irfft(spectrum.sum(1), n)


def _similarity(stretches: Tensor, template: Tensor) -> Tensor:
    return _correlation(stretches, template).amax(-1)


def _average(stretches: Tensor, templates: Tensor, rounds: int = 2) -> Tensor:
    """Replace each template by the mean of the stretches most similar to it, aligned."""
    length = stretches.shape[-1]
    for _ in range(rounds):
        correlation = torch.stack([_correlation(stretches, h) for h in templates])
        best, shift = correlation.max(-1)
        owner = best.argmax(0)
        means = []
        for c, template in enumerate(templates):
            mine = ((owner == c) & (best[c] > 0.5)).nonzero()[:, 0]
            if len(mine) < 2:
                means.append(template)
                continue
            lag = torch.where(shift[c] >= length, shift[c] - 2 * length, shift[c])[mine]
            index = torch.arange(length, device=lag.device) + (lag + length)[:, None]
            padded = F.pad(stretches[mine], (length, length))
            aligned = padded.gather(2, index[:, None].expand(-1, padded.shape[1], -1))
            means.append((best[c, mine][:, None, None] * aligned).sum(0))
        templates = _unit(torch.stack(means))
    return templates
