"""The derivative of the solution: against finite differences, dense systems and many layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from contracts import Problem, dense, in_single_precision, problem
from torch import Tensor

from spikecdl.model.dictionary import ConvDictionary
from spikecdl.model.encoder import UnrolledAutoencoder, UnrolledEncoder
from spikecdl.model.families import FAMILIES, Binomial, Gaussian
from spikecdl.model.penalties import L1, GroupL1
from spikecdl.solvers.amplitudes import solve_events
from spikecdl.solvers.events import Events
from spikecdl.solvers.implicit import ImplicitEncoder
from spikecdl.solvers.sparse_coding import sparse_code

NAMES = sorted(FAMILIES)
each_family = pytest.mark.parametrize("name", NAMES)
each_dimension = pytest.mark.parametrize("axes", [1, 2], ids=["1-D", "2-D"])
each_sign = pytest.mark.parametrize("sign", ["positive", "negative", "both"])


def encoder(task: Problem, tol: float = 1e-10, **options) -> ImplicitEncoder:
    options = {"max_iter": 100_000, **options}
    return ImplicitEncoder(task.family, task.dictionary, task.penalty, tol=tol, **options)


def one_channel(task: Problem) -> Problem:
    """Return windows of one unit each, the shared layout; those of `problem` are joint."""
    parts = (task.dictionary.templates.detach(), task.y, task.baseline)
    templates, y, baseline = (tensor[:, :1].contiguous() for tensor in parts)
    dictionary = ConvDictionary(templates).normalize_()
    return replace(task, dictionary=dictionary, y=y, baseline=baseline)


def grouped(name: str, sign: str | tuple[str, ...] = "positive") -> Problem:
    """Return two trials of two units that fire together."""
    task = problem(name, sign=sign, windows=4, fraction=0.15)
    y, baseline = (tensor.reshape(2, 2, *tensor.shape[1:]) for tensor in (task.y, task.baseline))
    penalty = GroupL1(weight=task.penalty.weight, sign=sign)
    return replace(task, y=y, baseline=baseline, penalty=penalty)


def some_mask(y: Tensor) -> Tensor:
    mask = torch.rand(y.shape, generator=torch.Generator().manual_seed(9)) < 0.7
    mask[1, ..., 8:] = False
    return mask


def gradient(layers: torch.nn.Module, task: Problem, mask: Tensor | None = None) -> Tensor:
    """Derivatives of the loss by templates and baseline, end to end."""
    baseline = task.baseline.clone().requires_grad_()
    loss = UnrolledAutoencoder(layers).loss(task.y, baseline, mask)
    parts = torch.autograd.grad(loss, [task.dictionary.templates, baseline])
    return torch.cat([part.flatten() for part in parts])


@torch.no_grad()
def differences(
    loss: Callable[[], Tensor], variables: Sequence[Tensor], step: float = 1e-6
) -> Tensor:
    """Central differences of a loss in every entry of some tensors; short of most kinks."""
    slopes = []
    for flat in (tensor.detach().view(-1) for tensor in variables):
        for i, value in enumerate(flat.tolist()):
            ends = []
            for moved in (value + step, value - step):
                flat[i] = moved
                ends.append(float(loss()))
            flat[i] = value
            slopes.append((ends[0] - ends[1]) / (2 * step))
    return torch.tensor(slopes, dtype=torch.float64)


def assert_derivative(task: Problem, mask: Tensor | None = None, tol: float = 1e-10) -> None:
    layers = encoder(task, tol)
    assert (layers(task.y, task.baseline, mask) != 0).any()
    ours = gradient(layers, task, mask)

    def loss() -> Tensor:
        return UnrolledAutoencoder(layers).loss(task.y, task.baseline, mask)

    expected = differences(loss, [task.dictionary.templates, task.baseline])
    assert (ours - expected).norm() < 1e-4 * expected.norm()


class TestDerivative:
    """Of the likelihood of what the codes decode to."""

    @each_family
    @each_sign
    @pytest.mark.parametrize("layout", ["shared", "joint"])
    @pytest.mark.parametrize("masked", [False, True], ids=["", "mask"])
    def test_in_time(self, name, sign, layout, masked):
        task = problem(name, sign=sign, fraction=0.1)
        task = one_channel(task) if layout == "shared" else task
        assert_derivative(task, some_mask(task.y) if masked else None)

    @each_family
    def test_of_images_with_a_stride(self, name):
        task = problem(name, 2, ("positive", "both"), windows=2)
        assert_derivative(task, some_mask(task.y), tol=1e-9)

    @each_family
    def test_of_groups(self, name):
        assert_derivative(grouped(name, ("positive", "both")), tol=1e-9)

    @each_family
    def test_it_is_not_that_of_fixed_codes(self, name):
        """What moves through the codes is a large part of it."""
        task = problem(name)
        codes = encoder(task)(task.y, task.baseline).detach()
        baseline = task.baseline.clone().requires_grad_()
        loss = task.family.cost(task.y, task.dictionary(codes) + baseline).mean()
        parts = torch.autograd.grad(loss, [task.dictionary.templates, baseline])
        held = torch.cat([part.flatten() for part in parts])
        ours = gradient(encoder(task), task)
        assert (ours - held).norm() > 0.1 * ours.norm()

    @each_family
    @each_dimension
    def test_layers_tend_to_it(self, name, axes):
        """Back-propagation through ever more layers points the same way in the end."""
        task = problem(name, axes)
        limit = gradient(encoder(task), task)

        def cosine(n_unrolled: int) -> float:
            layers = UnrolledEncoder(task.family, task.dictionary, task.penalty, n_unrolled)
            return float(torch.cosine_similarity(gradient(layers, task), limit, dim=0))

        few, many = cosine(20), cosine(500)
        assert many > 0.9999
        assert many > few

    @each_family
    def test_both_ways_of_solving_agree(self, name, monkeypatch):
        """Factors of a banded matrix, and conjugate gradients."""
        task = problem(name, sign="both")
        banded = gradient(encoder(task), task)
        monkeypatch.setattr(ConvDictionary, "plain", False)
        torch.testing.assert_close(gradient(encoder(task), task), banded, rtol=1e-5, atol=1e-7)

    @each_family
    def test_a_loose_solution_is_nearly_as_good(self, name):
        task = problem(name)
        loose, exact = (gradient(encoder(task, tol), task) for tol in (1e-3, 1e-10))
        assert (loose - exact).norm() < 0.02 * exact.norm()

    @each_family
    def test_single_precision(self, name):
        double = problem(name)
        task = in_single_precision(double)
        ours = gradient(encoder(task, tol=1e-3), task)
        assert ours.dtype == torch.float32
        expected = gradient(encoder(double), double)
        assert (ours - expected).norm() < 0.02 * expected.norm()


class TestCodes:
    """They are those of `sparse_code`."""

    @each_family
    @each_dimension
    @each_sign
    def test_to_the_bit(self, name, axes, sign):
        task = problem(name, axes, sign)
        codes = encoder(task, tol=1e-3)(task.y, task.baseline)
        parts = (task.y, task.family, task.dictionary, task.penalty, task.baseline)
        assert torch.equal(codes, sparse_code(*parts).codes)
        assert torch.equal(codes, task.penalty.project(codes))
        assert codes.requires_grad
        with torch.no_grad():
            assert not encoder(task)(task.y, task.baseline).requires_grad

    @each_family
    @each_dimension
    def test_windows_are_as_each_alone(self, name, axes):
        task = problem(name, axes, "both")
        layers = encoder(task, tol=1e-6)
        together = layers(task.y, task.baseline)
        for window in range(len(task.y)):
            alone = layers(task.y[window], task.baseline[window])
            torch.testing.assert_close(alone, together[window])
        torch.testing.assert_close(layers(task.y[None], task.baseline[None])[0], together)

    def test_a_family_can_be_given_with_the_windows(self):
        task = problem("binomial")
        n_trials = torch.tensor([12, 40, 300])
        family = Binomial(n_trials=n_trials.reshape(3, 1, 1))
        layers = encoder(task, tol=1e-6)
        together = layers(task.y, task.baseline, None, family)
        for window, n in enumerate(n_trials.tolist()):
            alone = encoder(replace(task, family=Binomial(n_trials=n)), tol=1e-6)
            torch.testing.assert_close(
                together[window], alone(task.y[window], task.baseline[window])
            )

    def test_too_few_iterations_are_a_warning(self):
        task = problem("poisson", 2)
        with pytest.warns(UserWarning, match=r"`tol` \(=1e-10\) in `max_iter` \(=1\).*raise"):
            encoder(task, max_iter=1)(task.y, task.baseline)

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"tol": 0.0}, ValueError, r"`tol` \(=0.0\) must be positive"),
            ({"max_iter": 0}, ValueError, r"`max_iter` \(=0\) must be at least 1"),
            ({"max_iter": 2.5}, TypeError, r"`max_iter` \(=2.5\) must be an integer"),
        ],
    )
    def test_bad_arguments_are_refused(self, options, error, message):
        with pytest.raises(error, match=message):
            encoder(problem("gaussian"), **options)


class TestEdges:
    """Where there is little to differentiate."""

    @each_dimension
    def test_without_codes_the_baseline_is_all(self, axes):
        task = problem("poisson", axes)
        task = replace(task, penalty=task.penalty.with_weight(1e6))
        slopes = gradient(encoder(task), task)
        templates = task.dictionary.templates.numel()
        assert (slopes[:templates] == 0).all()
        residual = task.family.residual(task.y, task.baseline.expand_as(task.y))
        by_baseline = -residual.flatten(2).sum(2).flatten() / task.y.numel()
        torch.testing.assert_close(slopes[templates:], by_baseline)

    @each_family
    @each_dimension
    def test_a_window_without_observations_has_no_part(self, name, axes):
        task = problem(name, axes)
        mask = torch.ones_like(task.y, dtype=torch.bool)
        mask[1] = False
        slopes = gradient(encoder(task), task, mask)
        assert torch.isfinite(slopes).all()
        by_baseline = slopes[task.dictionary.templates.numel() :].reshape(3, -1)
        assert (by_baseline[1] == 0).all()
        assert (by_baseline[0] != 0).any()

    @pytest.mark.parametrize("plain", [True, False])
    def test_two_templates_that_are_one(self, plain, monkeypatch):
        """Their system is singular; its solutions have the same signal."""
        monkeypatch.setattr(ConvDictionary, "plain", plain)
        wave = torch.tensor([[[0.6, 0.8]]], dtype=torch.float64)
        y = torch.tensor([[[0.0, 3.0, 4.0, 0.0, 0.0]]], dtype=torch.float64)
        slopes = []
        for copies in (1, 2):
            dictionary = ConvDictionary(wave.repeat(copies, 1, 1))
            task = Problem(Gaussian(), dictionary, L1(1.0), y, y.new_zeros(1, 1, 1))
            slopes.append(gradient(encoder(task, tol=1e-6), task)[2 * copies :])
        torch.testing.assert_close(slopes[1], slopes[0], rtol=1e-5, atol=1e-6)


class TestSystem:
    """`solve_events` against the dense matrix."""

    @each_family
    def test_solution(self, name):
        task = problem(name, sign="both", fraction=0.1)
        mask = some_mask(task.y)
        codes = encoder(task)(task.y, task.baseline, mask).detach()
        templates = task.dictionary.templates.detach()
        curvature = task.family.curvature(task.y, task.dictionary(codes).detach() + task.baseline)
        events = Events.from_codes(codes)
        right = torch.randn(len(events), generator=torch.Generator().manual_seed(2)).double()
        ours = solve_events(templates, curvature * mask, events, right)
        matrix = dense(templates, codes.shape[2:], (1,))
        for window in range(len(codes)):
            columns = matrix[:, codes[window].flatten() != 0]
            weights = (curvature * mask)[window].flatten()
            system = columns.T @ (weights[:, None] * columns)
            mine = events.window == window
            torch.testing.assert_close(system @ ours[mine], right[mine], rtol=1e-5, atol=1e-5)

    def test_without_curvature_nothing_moves(self):
        events = Events(*(torch.tensor([0, 1]) for _ in range(3)), torch.ones(2))
        curvature = torch.ones(2, 1, 6)
        curvature[1] = 0
        right = solve_events(torch.ones(2, 1, 3), curvature, events, torch.tensor([6.0, 6.0]))
        torch.testing.assert_close(right, torch.tensor([2.0, 0.0]))

    def test_without_events(self):
        none = Events.from_codes(torch.zeros(2, 1, 4))
        assert solve_events(
            torch.ones(1, 1, 3), torch.ones(2, 1, 6), none, torch.ones(0)
        ).shape == (0,)


def kept_for_backward(layers: torch.nn.Module, task: Problem) -> int:
    """Numbers that the graph of the loss holds."""
    held = []

    def pack(tensor: Tensor) -> Tensor:
        held.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        UnrolledAutoencoder(layers).loss(task.y, task.baseline.clone().requires_grad_())
    return sum(held)


@each_dimension
def test_memory_does_not_grow_with_the_iterations(axes):
    task = problem("binomial", axes)
    parts = (task.y, task.family, task.dictionary, task.penalty, task.baseline)
    few, many = (sparse_code(*parts, tol=tol) for tol in (1e-3, 1e-9))
    assert many.n_iter > few.n_iter
    assert torch.equal(many.codes != 0, few.codes != 0)
    ours = [kept_for_backward(encoder(task, tol), task) for tol in (1e-3, 1e-9)]
    assert ours[0] == ours[1]
    layers = UnrolledEncoder(task.family, task.dictionary, task.penalty, few.n_iter)
    more = UnrolledEncoder(task.family, task.dictionary, task.penalty, 2 * few.n_iter)
    assert kept_for_backward(more, task) > 1.5 * kept_for_backward(layers, task)
