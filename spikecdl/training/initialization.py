"""First templates and level of the penalty: several candidates, judged by held-out bins."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from spikecdl.solvers.events import Events
from spikecdl.training.base import Observations, Problem
from spikecdl.training.dictionary_update import Round, norms_of
from spikecdl.training.pruning import merged, prune


@dataclass(frozen=True)
class _Candidate:
    """What was fitted to the seen bins, its objective, and the cost of hidden ones (cluster,)."""

    objective: float
    cost: Tensor
    templates: Tensor
    baseline: Tensor
    level: float
    events: Events


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
        Round of training on the data; the weight and number of templates are set here.
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

    def __call__(self) -> tuple[Tensor, float]:
        """Return templates (template, channel, bin), and the level."""
        best = self._search(self.problem.n_templates)
        if self._no_better_than_none(best):
            best = _best([best, self._one_by_one()])
        chosen = _sparsest([best, *self._at_other_levels(best)])
        templates = self._run(chosen, self._data).templates
        return crop(templates, self.problem.length), chosen.level

    @cached_property
    def _data(self) -> Observations:
        """The windows that are used."""
        return _subset(self.step.data, self.most_bins, self.problem.generator)

    @cached_property
    def _seen(self) -> Observations:
        """The same, with the hidden bins marked as not observed."""
        data = self._data
        seen = replace(data, mask=data.mask & ~_hidden(data))
        if not data.learn_baseline or data.drifts:
            return seen
        level = data.baseline + (seen.mean_baseline() - data.mean_baseline())
        return replace(seen, baseline=level)

    def _search(self, count: int) -> _Candidate:
        """Return the best of the candidates that begin at middle levels, or at the lowest."""
        *higher, lowest = self.problem.weight.levels
        middle = higher[1:] or [lowest]
        begun = (self._pruned(count, level) for level in middle)
        same = (self._at(middle[-1], candidate) for candidate in begun)
        best = min(map(self._merged, same), key=lambda candidate: candidate.objective)
        if self._no_better_than_none(best):
            return _best([best, self._pruned(count, lowest)])
        return best

    def _no_better_than_none(self, candidate: _Candidate) -> bool:
        """Return whether the initial baseline without events predicts as well."""
        none = candidate.events.take(candidate.events.window < 0)
        baseline = self._seen.baseline
        cost = _hidden_cost(none, candidate.templates, baseline, self._seen, self._data)
        return as_good(cost, candidate.cost)

    def _merged(self, best: _Candidate) -> _Candidate:
        """Return the candidate with templates merged, as long as fewer events predict as well."""
        templates = merged(best.templates, best.events)
        if templates is None:
            return best
        other = self._run(replace(best, templates=templates))
        fewer = len(other.events) < len(best.events)
        return self._merged(other) if fewer and as_good(other.cost, best.cost) else best

    def _pruned(self, count: int, level: float) -> _Candidate:
        """Return a candidate with ``count`` templates, pruned from more."""
        baseline = self._seen.baseline
        none = Events.from_codes(baseline.new_zeros(1, 1, 1))
        shape = (0, self._data.y.shape[-2], self.problem.length + self.extra)
        templates = baseline.new_zeros(shape)
        empty = _Candidate(math.inf, none.amplitude, templates, baseline, level, none)
        more = self._with_more(empty, count + math.ceil(self.overcomplete * count))
        begin = (self._round(self._seen, level, count), more.templates, baseline)
        templates, baseline = prune(*begin, count, self._centred, self.problem.steps)
        return self._run(replace(empty, templates=templates, baseline=baseline))

    def _one_by_one(self) -> _Candidate:
        """Return a candidate to which templates are added one at a time."""
        candidate = self._search(1)
        while len(candidate.templates) < self.problem.n_templates:
            more = self._with_more(candidate, 1)
            candidate = _best([more, self._run(more)])
        return candidate

    def _with_more(self, candidate: _Candidate, count: int) -> _Candidate:
        """Return the candidate with templates added from where the present ones explain least."""
        rows, length = self._seen.rows(), self.problem.length + self.extra
        baseline = candidate.baseline.reshape_as(rows.baseline).expand_as(rows.y)
        baseline = baseline.to(candidate.templates.dtype)
        eta = candidate.events.add_to(baseline, candidate.templates).to(rows.y.dtype)
        new = initial_templates(rows, eta, count, length, self.problem.generator)
        return replace(candidate, templates=torch.cat([candidate.templates, new]))

    def _at_other_levels(self, best: _Candidate) -> Iterator[_Candidate]:
        """Yield candidates at higher and lower levels, as far as they predict as well."""
        levels = self.problem.weight.levels
        at = levels.index(best.level)
        for way in (levels[at + 1 :], levels[:at][::-1]):
            for level in way:
                other = self._at(level, best)
                yield other
                if not as_good(other.cost, best.cost):
                    break

    def _at(self, level: float, candidate: _Candidate) -> _Candidate:
        """Return the candidate continued at a level, if it is not there."""
        if candidate.level == level:
            return candidate
        return self._run(replace(candidate, level=level))

    def _run(self, candidate: _Candidate, seen: Observations | None = None) -> _Candidate:
        """Take two rounds on the bins that are seen, and note the cost of the others."""
        run = partial(self._rounds, candidate, seen or self._seen)
        found: dict[str, Any] = dict(self.problem.steps("rounds", run))
        events = Events(*map(found.pop, vars(candidate.events)))
        found["objective"] = float(found["objective"])
        return replace(candidate, events=events, **found)

    def _rounds(self, candidate: _Candidate, seen: Observations) -> dict[str, Tensor]:
        """Return what changes of a candidate by two rounds."""
        step = self._round(seen, candidate.level, len(candidate.templates))
        first = step(self._centred(candidate.templates), candidate.baseline, self.tol)
        second = step(self._centred(first.templates), first.baseline, self.tol)
        best = found = min(first, second, key=lambda update: update.objective)
        if step.debias:
            # as amplitudes are found with known templates
            known = {"learn_templates": False, "shrink": True}
            found = step.update(best.templates, best.events, best.baseline, **known)
        model = (found.events, best.templates, found.baseline)
        return {
            "objective": torch.tensor(best.objective, dtype=torch.float64),
            "cost": _hidden_cost(*model, seen, self._data),
            "templates": best.templates,
            "baseline": best.baseline,
            **vars(found.events),
        }

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
        moved = _begun_at(templates, late, reach)
        return moved / norms_of(moved)


def _begun_at(stretches: Tensor, lag: Tensor, reach: int) -> Tensor:
    """Return what begins ``lag`` bins, at most ``reach`` of them, after the begin of each."""
    windows = F.pad(stretches, (reach, reach)).unfold(-1, stretches.shape[-1], 1)
    return windows[torch.arange(len(lag), device=lag.device), :, lag + reach]


def crop(templates: Tensor, length: int) -> Tensor:
    """Cut each template to its ``length`` bins of most energy, at unit norm."""
    energy = templates.square().sum(1).unfold(-1, length, 1).sum(-1)
    cut = _begun_at(templates, energy.argmax(-1), templates.shape[-1])[..., :length]
    return cut / norms_of(cut)


def _hidden_cost(
    events: Events, templates: Tensor, baseline: Tensor, seen: Observations, data: Observations
) -> Tensor:
    """Return the cost of the hidden bins of every window, or stretch if there are few windows."""
    rows = data.rows().to(torch.float64)
    baseline = baseline.double().reshape_as(rows.baseline).expand_as(rows.y)
    eta = events.add_to(baseline, templates)
    hidden = rows.mask & ~seen.rows().mask
    cost = torch.where(hidden, rows.family.cost(rows.y, eta), 0).sum(dim=1)
    return by_cluster(cost, templates.shape[-1])


def by_cluster(cost: Tensor, length: int, least: int = 30) -> Tensor:
    """Sum costs (window, bin) over windows; few windows are cut into stretches of two templates.

    Costs under one event are alike, but those of windows, or of long stretches, are independent.
    A standard error is estimated from about ``least`` sums.
    """
    n_windows, n_bins = cost.shape
    pieces = min(math.ceil(least / n_windows), max(1, n_bins // (2 * length)))
    piece = torch.arange(n_bins, device=cost.device) * pieces // n_bins
    return cost.new_zeros(n_windows, pieces).index_add(1, piece, cost).flatten()


def _best(candidates: Sequence[_Candidate]) -> _Candidate:
    """Return the candidate with the lowest cost of hidden bins, the first of equals."""
    return min(candidates, key=lambda candidate: float(candidate.cost.sum()))


def _sparsest(candidates: Sequence[_Candidate]) -> _Candidate:
    """Return the candidate of the highest level among those as good as the best."""
    best = _best(candidates)
    good = (candidate for candidate in candidates if as_good(candidate.cost, best.cost))
    return max(good, key=lambda candidate: candidate.level)


def as_good(cost: Tensor, other: Tensor, n_errors: float = 2.0, least: float = 0.1) -> bool:
    """Return whether costs (cluster,) are in sum at most two standard errors above others.

    A difference below ``least`` nats counts for nothing.
    """
    worse = cost - other
    error = float(worse.std() * len(worse) ** 0.5) if len(worse) > 1 else 0.0
    return float(worse.sum()) <= max(least, n_errors * error)


def _hidden(data: Observations, every: int = 4) -> Tensor:
    """Mark every fourth bin, shifted by window: events may be at the same time in all windows."""
    *windows, _, n_bins = data.y.shape
    first = torch.arange(math.prod(windows), device=data.y.device).reshape(*windows, 1, 1)
    return (first + torch.arange(n_bins, device=data.y.device)) % every == 0


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
    data: Observations,
    eta: Tensor,
    n_templates: int,
    length: int,
    generator: torch.Generator,
    most: int = 300,
) -> Tensor:
    """Choose stretches of standardised residual that differ up to shifts (k-means++ seeding).

    ``data`` has one window axis; ``eta`` is the linear predictor of the present model.  Returns
    ``n_templates`` of ``length`` bins, (template, channel, bin), of unit norm, chosen among the
    ``most`` stretches of highest energy.
    """
    peaks = [_peaks(some, eta[part], length, most) for part, some in data.parts()]
    energy, stretches = map(torch.cat, zip(*peaks, strict=True))
    if (energy > 0).any():
        energy, stretches = energy[energy > 0], stretches[energy > 0]
    order = energy.argsort(descending=True, stable=True)[:most]
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
    signal, width = data.residual(eta) / spread, max(1.0, length / 20)
    reach = int(3 * width)
    bins = torch.arange(-reach, reach + 1, dtype=signal.dtype, device=signal.device)
    window = torch.exp(-0.5 * (bins / width).square())[None, None]
    flat = signal.reshape(-1, 1, signal.shape[-1])
    return F.conv1d(flat, window / window.sum(), padding=reach).reshape_as(signal)


def _unit(templates: Tensor) -> Tensor:
    norms = templates.flatten(1).norm(dim=1)[:, None, None]
    flat = templates[0].numel() ** -0.5
    return torch.where(norms > 0, templates / norms.clamp(min=1e-12), flat)


def _taper(length: int, like: Tensor) -> Tensor:
    bins = torch.arange(length, dtype=like.dtype, device=like.device) + 0.5
    return (torch.minimum(bins, length - bins) / (0.06 * length)).clamp(max=1)


def _peaks(data: Observations, eta: Tensor, length: int, most: int) -> tuple[Tensor, Tensor]:
    """Return the ``most`` stretches of highest energy, at most half overlapping, and the energies.

    They begin where templates may.
    """
    signal, onsets = _standardised_residual(data, eta, length), data.onsets_of(length)
    energy = signal.square().sum(1).unfold(-1, length, 1).sum(-1)  # (window, onset)
    energy = energy if onsets is None else energy * onsets
    best = F.max_pool1d(energy[:, None], length | 1, 1, length // 2)[:, 0]
    stands_out = (energy == best) & (energy > 0)
    window, onset = (stands_out if stands_out.any() else energy == best).nonzero(as_tuple=True)
    peak = energy[window, onset]
    order = peak.argsort(descending=True)[:most]
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
            aligned = _begun_at(stretches[mine], lag, length)
            means.append((best[c, mine][:, None, None] * aligned).sum(0))
        templates = _unit(torch.stack(means))
    return templates
