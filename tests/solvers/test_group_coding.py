"""Codes of units that are penalised together: the optimality conditions, and both methods alike."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from contracts import Problem, hard_start, in_single_precision, problem
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spikecdl import kernels
from spikecdl.model.dictionary import ConvDictionary
from spikecdl.model.families import FAMILIES
from spikecdl.model.penalties import L1, GroupL1
from spikecdl.solvers.sparse_coding import SparseCode, sparse_code

SIGNS = ["positive", "negative", "both", ("positive", "both")]

each_family = pytest.mark.parametrize("name", sorted(FAMILIES))
each_sign = pytest.mark.parametrize("sign", SIGNS, ids=str)
each_method = pytest.mark.parametrize("method", ["working_set", "fista"])


def groups(name: str, sign="positive", fraction: float = 0.3, *, units: int = 3, seed: int = 0):
    """Two trials of some units; the weight is that fraction of lambda_max behind `some_mask`."""
    task = problem(name, sign=sign, windows=2 * units, seed=seed)
    y, baseline = (t.reshape(2, units, *t.shape[1:]) for t in (task.y, task.baseline))
    penalty = GroupL1(sign=sign)
    seen = task.family.residual(y, baseline) * some_mask(y)
    score = task.dictionary.adjoint(seen).detach()
    penalty = penalty.with_weight(fraction * float(penalty.lambda_max(score)))
    return replace(task, y=y, baseline=baseline, penalty=penalty)


def some_mask(y: Tensor) -> Tensor:
    return torch.rand(y.shape, generator=torch.Generator().manual_seed(5)) < 0.7


def solution(
    task: Problem, mask: Tensor | None = None, *, tol: float | None = None, **options
) -> SparseCode:
    options = {"method": "working_set", "max_iter": 20_000} | options
    tol = {"working_set": 1e-7, "fista": 1e-6}[options["method"]] if tol is None else tol
    return sparse_code(
        task.y, task.family, task.dictionary, task.penalty, task.baseline, mask, tol=tol, **options
    )


def violation(task: Problem, codes: Tensor, mask: Tensor | None = None) -> Tensor:
    """The certificate of the codes, from scores by the dense matrix, for each trial."""
    score, weight = task.score(codes, mask), torch.as_tensor(task.penalty.weight, dtype=codes.dtype)
    norms = codes.norm(dim=1, keepdim=True)
    pull = weight * codes / norms.clamp(min=1e-300)
    rest = torch.where(codes != 0, score - pull, task.penalty.project(score))
    wrong = rest.norm(dim=1, keepdim=True) / weight
    wrong = torch.where(norms > 0, wrong, (wrong - 1).clamp(min=0))
    return wrong.flatten(1).amax(1)


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@each_family
@each_sign
@pytest.mark.parametrize(
    ("method", "masked"), [("working_set", False), ("working_set", True), ("fista", True)]
)
def test_zero_is_a_subgradient(name, method, sign, masked):
    task = groups(name, sign)
    mask = some_mask(task.y) if masked else None
    solved = solution(task, mask, method=method)
    assert solved.converged
    assert solved.violation.shape == (2,)
    assert solved.codes.shape == (2, 3, 2, 18)
    assert torch.equal(task.penalty.project(solved.codes), solved.codes)
    assert (violation(task, solved.codes, mask) <= 1e-4).all()
    assert 0 < (solved.codes != 0).double().mean() < 1


@each_family
@pytest.mark.parametrize("sign", SIGNS[2:], ids=str)
def test_both_methods_agree(name, sign):
    task = groups(name, sign, 0.1)
    mask = some_mask(task.y)
    ours, theirs = (
        solution(task, mask, method=method, tol=1e-9) for method in ("working_set", "fista")
    )
    assert ours.converged
    assert theirs.converged
    torch.testing.assert_close(ours.codes, theirs.codes, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        best, other = task.objective(ours.codes, mask), task.objective(theirs.codes, mask)
    torch.testing.assert_close(best, other, rtol=1e-12, atol=1e-12)
    assert torch.equal(solution(task, mask, method="auto", tol=1e-9).codes, ours.codes)


@each_family
@each_sign
def test_one_unit_is_l1(name, sign):
    task = groups(name, sign, units=1)
    alone = replace(task, penalty=L1(task.penalty.weight, sign=sign))
    ours, theirs = solution(task), solution(alone)
    torch.testing.assert_close(ours.codes, theirs.codes, rtol=1e-5, atol=1e-6)
    # without an iteration nothing is left to chance
    start = torch.randn(theirs.codes.shape, generator=torch.Generator().manual_seed(0)).double()
    ours, theirs = (solution(t, start=start, max_iter=0) for t in (task, alone))
    torch.testing.assert_close(ours.violation, theirs.violation[:, 0])


@each_family
@each_sign
def test_the_certificate_is_honest(name, sign):
    """Whenever it stops, and wherever it began."""
    task = groups(name, sign, 0.05)
    mask = some_mask(task.y)
    shape, generator = (2, 3, 2, 18), torch.Generator().manual_seed(2)
    somewhere = torch.randn(shape, generator=generator, dtype=torch.float64)
    for start in (None, torch.where(somewhere.abs() > 1, somewhere, 0)):
        for max_iter in range(5):
            solved = solution(task, mask, max_iter=max_iter, start=start)
            expected = violation(task, solved.codes, mask)
            torch.testing.assert_close(solved.violation, expected, rtol=1e-6, atol=1e-8)
            assert solved.converged == bool((expected <= 1e-7).all())


@each_family
def test_not_converged_is_a_value(name):
    task = groups(name, fraction=0.01)
    solved = solution(task, tol=1e-10, max_iter=1)
    assert not solved.converged
    assert solved.n_iter == 1
    assert torch.isfinite(solved.codes).all()
    with torch.no_grad():
        nothing = task.objective(torch.zeros_like(solved.codes))
        assert (task.objective(solved.codes) < nothing).all()


@each_family
@settings(max_examples=12)
@given(
    seed=st.integers(0, 10_000),
    fraction=st.floats(0.02, 0.95),
    loudness=st.sampled_from([1, 10]),
    sign=st.sampled_from(SIGNS),
    units=st.integers(1, 6),
)
def test_certificate_holds_whatever_the_data(name, seed, fraction, loudness, sign, units):
    task = groups(name, sign, fraction, units=units, seed=seed)
    louder = torch.where(task.family.invalid(loudness * task.y)[0], task.y, loudness * task.y)
    task = replace(task, y=louder)
    solved = solution(task, tol=1e-4)
    assert solved.converged
    assert (violation(task, solved.codes) <= 1.01e-4).all()
    with torch.no_grad():
        nothing = task.objective(torch.zeros_like(solved.codes))
        assert (task.objective(solved.codes) <= nothing).all()


@each_family
@each_method
def test_trials_are_as_each_alone(name, method):
    task = groups(name, "both")
    together = solution(task, method=method)
    for trial in range(2):
        alone = replace(task, y=task.y[trial], baseline=task.baseline[trial])
        assert_same(solution(alone, method=method).codes, together.codes[trial])


@each_family
@each_method
def test_a_weight_per_trial_and_template(name, method):
    task = groups(name, "both")
    weights = torch.tensor([[0.5, 0.7], [2.0, 1.0]]).double() * task.penalty.weight
    penalty = task.penalty.with_weight(weights.reshape(2, 1, 2, 1))
    weighted = replace(task, penalty=penalty)
    together = solution(weighted, method=method)
    assert (violation(weighted, together.codes) <= 1e-4).all()
    for trial in range(2):
        alone = task.penalty.with_weight(weights[trial].reshape(2, 1))
        one = replace(task, y=task.y[trial], baseline=task.baseline[trial], penalty=alone)
        assert_same(solution(one, method=method).codes, together.codes[trial])


@each_family
@each_method
def test_starts_lead_to_the_same_codes(name, method):
    task = groups(name, "both")
    cold = solution(task, method=method)
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(cold.codes.shape, generator=generator, dtype=torch.float64)
    assert_same(solution(task, start=start, method=method).codes, cold.codes)
    warm = solution(task, start=cold.codes, tol=1e-5, method=method)
    assert cold.n_iter > 0
    assert warm.n_iter == 0
    assert torch.equal(warm.codes, cold.codes)


@each_family
def test_a_unit_without_observations_has_no_codes(name):
    task = groups(name)
    mask = torch.ones_like(task.y, dtype=torch.bool)
    mask[:, 1] = False
    solved = solution(task, mask, start=torch.ones(2, 3, 2, 18, dtype=torch.float64))
    assert solved.converged
    assert (solved.codes[:, 1] == 0).all()
    others = replace(task, y=task.y[:, ::2], baseline=task.baseline[:, ::2])
    assert_same(solved.codes[:, ::2], solution(others).codes)


@each_family
def test_single_precision_reaches_the_default_tolerance(name):
    double = groups(name)
    solved = solution(in_single_precision(double), tol=1e-3)
    assert solved.converged
    assert solved.codes.dtype == torch.float32
    torch.testing.assert_close(solved.codes.double(), solution(double).codes, rtol=0.02, atol=0.01)


@each_family
@pytest.mark.parametrize("sign", ["positive", "both"])
def test_more_events_than_are_solved_together(name, sign):
    """Long windows of smooth templates, a light penalty: events overlap from end to end."""
    generator = torch.Generator().manual_seed(3)
    task = problem(name)
    wave = torch.hann_window(18, periodic=False, dtype=torch.float64)[1:-1]
    dictionary = ConvDictionary(torch.stack([wave, wave.flip(0).cumsum(0)])[:, None]).normalize_()
    baseline = torch.zeros(1, 4, 1, 1, dtype=torch.float64)
    y = task.family.sample(baseline.expand(1, 4, 1, 300), generator)
    penalty = GroupL1(sign=sign)
    score = dictionary.adjoint(task.family.residual(y, baseline)).detach()
    penalty = penalty.with_weight(0.15 * float(penalty.lambda_max(score)))
    long = Problem(task.family, dictionary, penalty, y, baseline)
    solved = solution(long, tol=1e-5)
    assert solved.converged
    assert (violation(long, solved.codes) <= 1.01e-5).all()
    assert (solved.codes.norm(dim=1) > 0).sum() > 48


@each_family
@pytest.mark.parametrize("baseline", [-25.0, -7.0, 5.0, 70.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_hard_starts(name, baseline, dtype):
    """A loud and a silent unit, from rates far too low or far too high."""
    task = hard_start(name, baseline, dtype)
    task = replace(
        task, y=task.y[None], baseline=task.baseline[None], penalty=GroupL1(0.5, sign="both")
    )
    solved = solution(task, tol=1e-3, max_iter=200)
    with torch.no_grad():
        ours, nothing = (task.objective(c) for c in (solved.codes, torch.zeros_like(solved.codes)))
    assert torch.isfinite(solved.codes).all()
    assert (ours <= nothing + 1e-6 * nothing.abs()).all()


class Weights(NamedTuple):
    weight: np.ndarray
    up: np.ndarray
    down: np.ndarray
    grouped: bool


class TestModel:
    """The quadratic model of a Newton step, against its optimality conditions."""

    @pytest.mark.parametrize("sign", ["positive", "negative", "both"])
    @pytest.mark.parametrize("units", [1, 2, 7])
    @pytest.mark.parametrize("correlation", [0.3, 0.9, 0.995])
    def test_is_minimised(self, sign, units, correlation):
        rng = np.random.default_rng(units)
        count, width = 20, 5
        full = np.array([self.matrix(rng, count, width, correlation) for _ in range(units)])
        gram = np.zeros((count, width, units))
        for j in range(count):
            for back in range(min(width, j + 1)):
                gram[j, back] = full[:, j, j - back]
        up, down = (np.full(count, sign != other) for other in ("negative", "positive"))
        weight, slope = rng.uniform(0.5, 2, count), 2 * rng.normal(size=(count, units))
        amplitude = rng.normal(size=(count, units)) * (rng.random((count, 1)) < 0.4)
        amplitude *= np.where(amplitude > 0, up[:, None], down[:, None])
        move, found = np.zeros((count, units)), np.zeros(1)
        penalty = Weights(weight, up, down, grouped=True)
        kernels.function("minimize_model")(gram, slope, penalty, amplitude, 1e-10, move, found)
        change = found[0]
        value = amplitude + move
        score = slope - np.einsum("ujk,ku->ju", full, move)
        radius = np.linalg.norm(value, axis=1, keepdims=True)
        rest = score - weight[:, None] * value / np.maximum(radius, 1e-300)
        legal = np.where(score > 0, up[:, None], down[:, None]) * score
        rest = np.where(value != 0, rest, legal)
        live = radius[:, 0] > 0
        assert np.abs(rest[live]).max() < 1e-7
        assert (np.linalg.norm(rest[~live], axis=1) <= weight[~live] + 1e-7).all()
        assert (np.where(value > 0, up[:, None], down[:, None]) | (value == 0)).all()
        expected = weight @ (radius[:, 0] - np.linalg.norm(amplitude, axis=1))
        assert change == pytest.approx(expected)
        assert 0 < live.sum()

    @staticmethod
    def matrix(rng, count, width, correlation):
        """Banded and positive: inner products of templates that overlap, nearly the same."""
        factor = np.zeros((count, count + width))
        for j in range(count):
            noise = rng.normal(size=width) * np.sqrt(1 - correlation)
            factor[j, j : j + width] = correlation + noise
        return factor @ factor.T


@pytest.mark.parametrize("grouped", [False, True])
def test_codes_are_zero_where_events_may_not_begin(grouped):
    task = groups("poisson") if grouped else problem("poisson", windows=4)
    windows = task.y.shape[:1] if grouped else task.y.shape[:-2]
    n_onsets = task.dictionary.code_shape(task.y.shape[-1:])[-1]
    onsets = torch.rand(*windows, n_onsets, generator=torch.Generator().manual_seed(1)) < 0.3
    onsets = onsets[:, None].expand(-1, task.y.shape[1], -1) if grouped else onsets
    found = {m: solution(task, method=m, onsets=onsets) for m in ("working_set", "fista")}
    for solved in found.values():
        assert solved.converged
        assert (solved.codes != 0).any()
        assert not solved.codes[~onsets.unsqueeze(-2).expand_as(solved.codes)].any()
    one, other = (solved.codes for solved in found.values())
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)
    free = solution(task).codes
    assert (free[~onsets.unsqueeze(-2).expand_as(free)] != 0).any()
