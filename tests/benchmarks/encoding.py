"""Codes: an iteration of the encoder, and sparse coding to a given gap."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
import workloads
from machine import Peaks, peaks
from problems import Coding, observations, true_templates
from timing import Row, Settings, Skip, compared, duration, interleaved
from torch import Tensor

from spikecdl import L1, BinnedSpikes, ConvDictionary, Gaussian, UnrolledEncoder
from spikecdl.solvers.parallel import n_threads
from spikecdl.training import Observations, lambda_max

_PAPER_ITERATIONS = 250
_TIGHT = 1e-6  # relative gap
_MOST_SECONDS, _SOLVES = 40, 15  # limit of the time for W2, and how often it is solved


def iterations(settings: Settings) -> Iterator[Row]:
    """An iteration: products with the dictionary and its adjoint, residual, soft threshold."""
    limits = peaks(settings)
    for name, make, n_iter in (("W1", _w1, 20), ("W3", _w3, 10), ("W2", _w2, 3)):
        problem = Coding.of(make(settings))
        yield _iteration(f"encoder iteration, {name}", problem, n_iter, limits, settings)


def at_the_gap_of_the_yardstick(settings: Settings) -> Iterator[Row]:
    """Codes with the gap that the paper's number of iterations reaches."""
    n_iter = 25 if settings.quick else _PAPER_ITERATIONS
    for name, make in (("W1", _w1), ("W3", _w3)):
        problem = Coding.of(make(settings))
        plain = _without_graph(problem.yardstick.encode, problem.templates, n_iter)
        gap = problem.gap(plain())
        tol = problem.loosest(gap, problem.codes)
        calls = {"yardstick": plain, "package": partial(problem.codes, tol)}
        seconds = interleaved(calls, settings.repeats, warm=False)
        note = f"yardstick: gap {gap:.1e}; package: {problem.certificate(tol)}"
        yield compared(f"codes at the gap of {n_iter} iterations, {name}", seconds, note=note)


def to_a_certificate(settings: Settings) -> Iterator[Row]:
    """Codes to a relative gap of a millionth; W2 with as many units as time allows."""
    yield _certified("W1", Coding.of(_w1(settings)), settings)
    n_units = _affordable_units(settings)
    problem = Coding.of(_w2(settings, n_units))
    yield _certified(f"W2 ({n_units} of 100 units)", problem, settings)


def against_alphacsc(settings: Settings) -> Iterator[Row]:
    """Gaussian codes, compared with the locally greedy coordinate descent of alphacsc."""
    solver = _alphacsc()
    problem = _gaussian(_w1(settings))
    theirs = partial(solver, problem)
    for gap in (1e-3, _TIGHT):
        calls = {
            "yardstick": partial(theirs, problem.loosest(gap, theirs)),
            "package": partial(problem.codes, problem.loosest(gap, problem.codes)),
        }
        seconds = interleaved(calls, settings.repeats, warm=False)
        note = "gaps " + ", ".join(f"{problem.gap(call()):.1e}" for call in calls.values())
        what = f"Gaussian codes to gap {gap:.0e}, W1, alphacsc as the yardstick"
        yield compared(what, seconds, note=note)


def _alphacsc() -> Callable[[Coding, float], Tensor]:
    """Return alphacsc's solver."""
    try:
        from alphacsc.update_z_multi import update_z_multi
    except ImportError as missing:
        raise Skip(f"alphacsc cannot be imported ({missing})") from None

    def solve(problem: Coding, tol: float) -> Tensor:
        codes, *_ = update_z_multi(
            problem.data.y.double().numpy(),
            problem.templates.double().numpy(),
            float(problem.penalty.weight),
            solver="lgcd",
            solver_kwargs={"tol": tol},
            n_jobs=n_threads(),
        )
        return torch.from_numpy(codes)

    return solve


def _gaussian(counts: BinnedSpikes) -> Coding:
    """Return square roots of counts minus their median, with a weight of 0.1 lambda_max."""
    root = observations(counts, known_baseline=True).y.sqrt()
    y = root - root.median(dim=-1, keepdim=True).values
    data = Observations(y, y == y, Gaussian(), torch.zeros_like(y[..., :1]), False)
    templates = true_templates(counts)
    top = lambda_max(L1(), ConvDictionary(templates), data, data.baseline)
    return Coding(data, templates, 0.1 * float(top))


def _w1(settings: Settings) -> BinnedSpikes:
    return workloads.w1(n_windows=4) if settings.quick else workloads.w1()


def _w2(settings: Settings, n_units: int = 100) -> BinnedSpikes:
    if settings.quick:
        return workloads.w2(n_bins=12_000, n_units=min(n_units, 4))
    return workloads.w2(n_units=n_units)


def _affordable_units(settings: Settings) -> int:
    """Return how many units of W2 can be solved repeatedly in `_MOST_SECONDS`."""
    problem = Coding.of(_w2(settings, 1))
    solved = problem.solve(1e-3)  # compiles
    if not solved.converged:
        violation = float(solved.violation.max())
        raise Skip(f"W2: sparse coding stopped at a violation of {violation:.1e} of the weight")
    seconds = interleaved({"solve": partial(problem.codes, 1e-3)}, 1, warm=False)["solve"][0]
    most = 4 if settings.quick else 100
    return int(np.clip(_MOST_SECONDS / _SOLVES * n_threads() / seconds, 1, most))


def _w3(settings: Settings) -> BinnedSpikes:
    return workloads.w3(n_windows=50) if settings.quick else workloads.w3()


def _iteration(what: str, problem: Coding, n_iter: int, limits: Peaks, settings: Settings) -> Row:
    """Check that both give the same codes, then time iterations from zero."""
    data, yardstick = problem.data, problem.yardstick
    step = yardstick.step(problem.templates)
    encoder = UnrolledEncoder(data.family, problem.dictionary, problem.penalty, n_iter, step=step)
    calls = {
        "yardstick": _without_graph(yardstick.encode, problem.templates, n_iter),
        "package": _without_graph(encoder, data.y, data.baseline),
    }
    expected, codes = (call() for call in calls.values())
    torch.testing.assert_close(codes, expected, rtol=1e-3, atol=1e-3 * float(expected.max()))
    seconds = interleaved(calls, settings.repeats, warm=False)
    fastest = float(np.median(seconds["package"])) / n_iter
    flops = 4 * codes.numel() * problem.templates[0].numel()
    n_bytes = 4 * codes.nbytes + data.y.nbytes  # codes and their extrapolation, read and written
    return compared(what, seconds, n_iter, limits.bound(flops, n_bytes, fastest))


def _certified(name: str, problem: Coding, settings: Settings) -> Row:
    """Time the loosest tolerance that gives the gap."""
    tol = problem.loosest(_TIGHT, problem.codes)
    seconds = interleaved({"package": partial(problem.codes, tol)}, settings.repeats, warm=False)
    return Row(
        f"codes to gap {_TIGHT:.0e}, {name}",
        package=duration(np.median(seconds["package"])),
        note=problem.certificate(tol),
    )


def _without_graph(call: Callable[..., Tensor], *arguments: object) -> Callable[[], Tensor]:
    return torch.no_grad()(lambda: call(*arguments))
