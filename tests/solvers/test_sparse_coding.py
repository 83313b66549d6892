"""Sparse codes: their certificate against the dense matrix, and against scipy's optimiser."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from contracts import Problem, dense, hard_start, in_single_precision, problem
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import Tensor

from spikecdl.model.dictionary import ConvDictionary
from spikecdl.model.families import FAMILIES, Binomial, Gaussian
from spikecdl.model.penalties import L1, PENALTIES, GroupL1
from spikecdl.solvers.sparse_coding import SparseCode, sparse_code

NAMES = sorted(FAMILIES)
SIGNS = ["positive", "negative", "both", ("positive", "both")]

each_family = pytest.mark.parametrize("name", NAMES)
each_sign = pytest.mark.parametrize("sign", SIGNS, ids=str)
each_method = pytest.mark.parametrize("method", ["working_set", "fista"])
each_way = pytest.mark.parametrize(
    ("axes", "method"),
    [(1, "working_set"), (1, "fista"), (2, "fista")],
    ids=["1-D-working_set", "1-D-fista", "2-D-fista"],
)


def solution(
    task: Problem, mask: Tensor | None = None, *, tol: float = 1e-7, **options
) -> SparseCode:
    return sparse_code(
        task.y, task.family, task.dictionary, task.penalty, task.baseline, mask, tol=tol, **options
    )


@pytest.fixture(params=["working_set", "fista"])
def solve(request):
    """Either method, for 1-D problems whose penalty does not couple units."""
    return partial(solution, method=request.param)


def some_mask(task: Problem, seed: int = 5) -> Tensor:
    return torch.rand(task.y.shape, generator=torch.Generator().manual_seed(seed)) < 0.7


def assert_optimal(task: Problem, codes: Tensor, mask: Tensor | None = None) -> None:
    """Zero is a subgradient at the codes: the conditions one by one, with the dense matrix."""
    assert torch.equal(task.penalty.project(codes), codes)
    score, weight = task.score(codes, mask), task.penalty.weight
    on = codes != 0
    np.testing.assert_allclose(score[on], (weight * codes.sign())[on], rtol=1e-4)
    idle = task.penalty.project(score)[~on]
    assert (idle.abs() <= weight * (1 + 1e-4)).all()
    assert on.any()


@each_family
@each_way
@each_sign
def test_zero_is_a_subgradient(name, axes, method, sign):
    task = problem(name, axes, sign)
    solved = solution(task, method=method)
    assert solved.converged
    assert solved.violation.shape == (3,)
    assert (solved.violation <= 1e-7).all()
    assert_optimal(task, solved.codes)


@each_family
@each_way
def test_zero_is_a_subgradient_on_the_observed_bins(name, axes, method):
    task = problem(name, axes, "both")
    mask = some_mask(task)
    solved = solution(task, mask, method=method)
    assert solved.converged
    assert_optimal(task, solved.codes, mask)


def reference(task: Problem, mask: Tensor | None = None) -> Tensor:
    """Codes by L-BFGS-B: positive and negative part are variables of their own, at least 0."""
    places = task.dictionary.code_shape(task.y.shape[-task.dictionary.axes :])
    matrix = dense(task.dictionary.templates.detach(), places, task.dictionary.stride).numpy()
    shape = (len(task.dictionary.templates), *places)
    ones = torch.ones(shape, dtype=torch.float64)
    allowed = [task.penalty.project(part).flatten().numpy() != 0 for part in (ones, -ones)]
    bounds = [(0, None if free else 0) for free in np.concatenate(allowed)]
    weight = float(task.penalty.weight)
    solutions = []
    for window in range(len(task.y)):
        y, baseline = task.y[window], task.baseline[window]
        seen = torch.ones_like(y) if mask is None else mask[window].to(y)

        def objective(parts, y=y, baseline=baseline, seen=seen):
            up, down = np.split(parts, 2)
            eta = torch.from_numpy(matrix @ (up - down)).reshape(y.shape) + baseline
            cost = float((task.family.cost(y, eta) * seen).sum())
            slope = -matrix.T @ (task.family.residual(y, eta) * seen).flatten().numpy()
            return cost + weight * parts.sum(), np.concatenate([slope, -slope]) + weight

        best = minimize(
            objective, np.zeros(2 * ones.numel()), jac=True, method="L-BFGS-B", bounds=bounds,
            options={"maxiter": 5000, "maxfun": 20000, "ftol": 1e-15, "gtol": 1e-9},
        )  # fmt: skip
        up, down = np.split(best.x, 2)
        solutions.append(torch.from_numpy(up - down).reshape(shape))
    return torch.stack(solutions)


@each_family
@each_way
@each_sign
def test_same_as_an_optimiser_of_somebody_else(name, axes, method, sign):
    task = problem(name, axes, sign, windows=2)
    mask = some_mask(task)
    codes, theirs = solution(task, mask, method=method).codes, reference(task, mask)
    with torch.no_grad():
        ours, best = task.objective(codes, mask), task.objective(theirs, mask)
    assert (ours <= best + 1e-7 * (1 + best.abs())).all()
    torch.testing.assert_close(codes, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))


@each_family
@each_method
@settings(max_examples=12)
@given(
    seed=st.integers(0, 10_000),
    fraction=st.floats(0.05, 0.95),
    loudness=st.sampled_from([1, 10]),
    sign=st.sampled_from(SIGNS),
)
def test_certificate_holds_whatever_the_data(name, method, seed, fraction, loudness, sign):
    task = problem(name, sign=sign, seed=seed, fraction=fraction)
    louder = torch.where(task.family.invalid(loudness * task.y)[0], task.y, loudness * task.y)
    task = replace(task, y=louder)
    solved = solution(task, tol=1e-4, method=method)
    assert solved.converged
    nothing = torch.zeros_like(solved.codes)
    with torch.no_grad():
        assert (task.objective(solved.codes) <= task.objective(nothing)).all()
        # a proximal step of any length leaves optimal codes where they are
        point = task.penalty.prox(solved.codes + 1e-3 * task.score(solved.codes), 1e-3)
    assert (point - solved.codes).abs().max() <= 1e-3 * 1.1e-4 * task.penalty.weight


@each_family
@each_sign
@pytest.mark.parametrize("kind", sorted(PENALTIES))
def test_lambda_max_is_where_codes_vanish(name, sign, kind):
    task = problem(name)
    penalty = PENALTIES[kind](sign=sign)
    score = task.dictionary.adjoint(task.family.residual(task.y, task.baseline)).detach()
    largest = float(penalty.lambda_max(score))
    above, below = (
        solution(replace(task, penalty=penalty.with_weight(largest * factor)))
        for factor in (1 + 1e-6, 1 - 1e-3)
    )
    assert (above.codes == 0).all()
    assert above.n_iter == 0
    assert (below.codes != 0).any()


class TestBatches:
    """Many windows at once are as each of them alone."""

    @pytest.fixture
    def solve(self, solve):
        return partial(solve, tol=1e-6)

    @pytest.fixture(params=NAMES)
    def task(self, request) -> Problem:
        """Windows that take from no iteration at all to many."""
        task = problem(request.param, windows=24, fraction=0.2)
        loudness = torch.tensor([0, 1, 1, 10]).repeat(6).reshape(24, 1, 1)
        louder = loudness * task.y
        y = torch.where(task.family.invalid(louder)[0], task.y, louder)
        return replace(task, y=y)

    def test_batch_is_one_by_one(self, task, solve):
        together = solve(task)
        assert together.converged
        iterations = set()
        for window in range(24):
            part = slice(window, window + 1)
            alone = solve(replace(task, y=task.y[part], baseline=task.baseline[part]))
            iterations.add(alone.n_iter)
            torch.testing.assert_close(alone.codes[0], together.codes[window], rtol=1e-3, atol=1e-4)
        assert len(iterations) > 2  # so windows leave the batch at different times
        assert together.n_iter <= max(iterations) + 8

    def test_order_of_windows_does_not_matter(self, task, solve):
        order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
        shuffled = solve(replace(task, y=task.y[order], baseline=task.baseline[order]))
        torch.testing.assert_close(shuffled.codes, solve(task).codes[order], rtol=1e-3, atol=1e-4)

    def test_leading_axes_are_kept(self, task, solve):
        y, baseline = (
            tensor.reshape(4, 6, *tensor.shape[1:]) for tensor in (task.y, task.baseline)
        )
        folded, flat = solve(replace(task, y=y, baseline=baseline)), solve(task)
        assert folded.codes.shape == (4, 6, 2, 18)
        assert folded.violation.shape == (4, 6)
        assert torch.equal(folded.codes.flatten(0, 1), flat.codes)
        assert torch.equal(folded.violation.flatten(), flat.violation)

    def test_what_differs_by_window(self, task, solve):
        """Mask, weight and baseline of its own for every window, whichever leave first."""
        mask = some_mask(task)
        weight = torch.linspace(0.2, 3, 24).double().reshape(24, 1, 1) * task.penalty.weight
        together = solve(replace(task, penalty=task.penalty.with_weight(weight)), mask)
        for window in (0, 5, 11, 23):
            part = slice(window, window + 1)
            penalty = task.penalty.with_weight(float(weight[window]))
            one = replace(task, y=task.y[part], baseline=task.baseline[part], penalty=penalty)
            alone = solve(one, mask[part])
            torch.testing.assert_close(alone.codes[0], together.codes[window], rtol=1e-3, atol=1e-4)


def test_trials_per_bin_differ_by_window_and_bin(solve):
    task = problem("binomial", windows=4)
    n_trials = torch.randint(12, 60, task.y.shape, generator=torch.Generator().manual_seed(0))
    task = replace(task, family=Binomial(n_trials=n_trials))
    together = solve(task)
    assert_optimal(task, together.codes)
    alone = [
        solve(replace(task, family=Binomial(n_trials=n), y=y[None], baseline=baseline[None])).codes
        for n, y, baseline in zip(n_trials, task.y, task.baseline, strict=True)
    ]
    torch.testing.assert_close(torch.cat(alone), together.codes, rtol=1e-3, atol=1e-4)


@each_family
def test_zero_is_a_subgradient_with_a_baseline_that_varies(name, solve):
    task = problem(name)
    wave = torch.linspace(-1, 1, task.y.shape[-1], dtype=torch.float64).sin()
    task = replace(task, baseline=task.baseline + wave)
    assert_optimal(task, solve(task).codes)


@each_family
def test_a_number_as_baseline(name, solve):
    task = problem(name)
    filled = replace(task, baseline=torch.full((1, 1), 0.3, dtype=torch.float64))
    assert torch.equal(solve(replace(task, baseline=0.3)).codes, solve(filled).codes)


@each_family
class TestStart:
    """Codes to begin with."""

    def test_leads_to_the_same_codes(self, name, solve):
        task = problem(name, sign="both")
        cold = solve(task)
        generator = torch.Generator().manual_seed(1)
        start = torch.randn(cold.codes.shape, generator=generator, dtype=torch.float64)
        warm = solve(task, start=start)
        assert warm.converged
        torch.testing.assert_close(warm.codes, cold.codes, rtol=1e-3, atol=1e-4)

    def test_at_the_solution_is_the_end(self, name, solve):
        task = problem(name)
        cold = solve(task)
        warm = solve(task, start=cold.codes, tol=1e-6)
        assert cold.n_iter > 0
        assert warm.n_iter == 0
        assert torch.equal(warm.codes, cold.codes)

    def test_of_a_forbidden_sign_is_dropped(self, name, solve):
        task = problem(name)
        solved = solve(task, start=-torch.ones_like(solve(task).codes), max_iter=0)
        assert (solved.codes == 0).all()


@each_family
def test_not_converged_is_a_value(name, solve):
    task = problem(name, fraction=0.01)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solved = solve(task, tol=1e-9, max_iter=3)
    assert not solved.converged
    assert solved.n_iter == 3
    assert solved.violation.max() > 1e-9
    assert torch.isfinite(solved.codes).all()
    with torch.no_grad():
        better = task.objective(solved.codes) < task.objective(torch.zeros_like(solved.codes))
    assert better.all()


@each_family
def test_single_precision_reaches_the_default_tolerance(name, solve):
    double = problem(name)
    solved = solve(in_single_precision(double), tol=1e-3)
    assert solved.converged
    assert solved.codes.dtype == torch.float32
    torch.testing.assert_close(solved.codes.double(), solve(double).codes, rtol=0.02, atol=0.01)


@each_family
def test_windows_without_observations_have_no_codes(name, solve):
    task = problem(name)
    mask = torch.ones_like(task.y, dtype=torch.bool)
    mask[1] = False
    solved = solve(task, mask)
    assert solved.converged
    assert (solved.codes[1] == 0).all()
    torch.testing.assert_close(
        solved.codes[[0, 2]], solve(task).codes[[0, 2]], rtol=1e-3, atol=1e-4
    )


def test_windows_without_trials_have_no_codes(solve):
    task = problem("binomial")
    family = Binomial(n_trials=torch.tensor([12, 0, 12]).reshape(3, 1, 1))
    mask = torch.tensor([True, False, True]).reshape(3, 1, 1).expand_as(task.y)
    solved = solve(replace(task, family=family, y=task.y * mask), mask)
    assert solved.converged
    assert (solved.codes[1] == 0).all()


@each_family
def test_hidden_bins_have_no_influence(name, solve):
    task = problem(name)
    mask = some_mask(task)
    others = task.family.sample(torch.full_like(task.y, 2.0), torch.Generator().manual_seed(1))
    changed = replace(task, y=torch.where(mask, task.y, others))
    torch.testing.assert_close(
        solve(changed, mask).codes, solve(task, mask).codes, rtol=1e-3, atol=1e-4
    )


@each_family
@pytest.mark.parametrize("baseline", [-25.0, -7.0, 5.0, 70.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_hard_starts(name, baseline, dtype, solve):
    """From rates far too low or far too high: finite, never uphill, and no false certificate."""
    task = hard_start(name, baseline, dtype)
    solved = solve(task, tol=1e-3, max_iter=200)
    with torch.no_grad():
        ours, nothing = (task.objective(c) for c in (solved.codes, torch.zeros_like(solved.codes)))
    assert torch.isfinite(solved.codes).all()
    assert (ours <= nothing + 1e-6 * nothing.abs()).all()


@pytest.mark.parametrize(
    ("axes", "penalty"), [(2, L1(axes=2)), (1, L1(weight=0.0)), (1, GroupL1(weight=0.0))], ids=repr
)
def test_the_working_set_says_where_it_fits(axes, penalty):
    task = replace(problem("binomial", axes), penalty=penalty)
    with pytest.raises(ValueError, match=r'`method` \(="working_set"\) is for .* use "fista"'):
        solution(task, method="working_set")
    assert torch.isfinite(solution(task, tol=0.5, max_iter=20).codes).all()


def test_a_weight_per_place():
    """Any weight that broadcasts to the codes; where it is heavy there are none."""
    task = problem("poisson")
    weight = torch.full((1, 2, 18), task.penalty.weight, dtype=torch.float64)
    weight[..., :9] = 1e6
    solved = solution(replace(task, penalty=task.penalty.with_weight(weight)))
    assert solved.converged
    assert (solved.codes[..., :9] == 0).all()
    assert (solved.codes[..., 9:] != 0).any()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "newton"}, ValueError, r"`method` \(='newton'\) must be one of: auto, fista"),
        ({"tol": 0.0}, ValueError, r"`tol` \(=0.0\) must be positive"),
        ({"tol": None}, TypeError, r"`tol` \(=None\) must be a number"),
        ({"max_iter": -1}, ValueError, r"`max_iter` \(=-1\) must be at least 0"),
        ({"max_iter": 2.5}, TypeError, r"`max_iter` \(=2.5\) must be an integer"),
    ],
)
def test_bad_arguments_are_refused(options, error, message):
    dictionary = ConvDictionary(torch.ones(1, 1, 3))
    with pytest.raises(error, match=message):
        sparse_code(torch.zeros(1, 1, 8), Gaussian(), dictionary, L1(), **options)
