"""The unrolled encoder against loops over a dense matrix, its objective, and autograd."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from contracts import N_TRIALS, Problem, dense, example, hard_start, problem
from hypothesis import example as the_example
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import pairwise, refused
from torch import Tensor

from spikecdl.model.dictionary import ConvDictionary
from spikecdl.model.encoder import UnrolledAutoencoder, UnrolledEncoder, bregman
from spikecdl.model.families import FAMILIES, Binomial, Gaussian, Poisson
from spikecdl.model.penalties import L1, GroupL1
from spikecdl.solvers.sparse_coding import sparse_code

NAMES = sorted(FAMILIES)
SIGNS = ["positive", "both"]
UNBOUNDED = [name for name in NAMES if example(name).curvature_bound(torch.zeros(1)) is None]

each_family = pytest.mark.parametrize("name", NAMES)
each_dimension = pytest.mark.parametrize("axes", [1, 2], ids=["1-D", "2-D"])
of_either_sign = pytest.mark.parametrize(("name", "axes", "sign"), pairwise(NAMES, [1, 2], SIGNS))


def encoder(task: Problem, n_unrolled: int, **options) -> UnrolledEncoder:
    return UnrolledEncoder(task.family, task.dictionary, task.penalty, n_unrolled, **options)


@torch.no_grad()
def encode(task: Problem, n_unrolled: int, **options) -> Tensor:
    return encoder(task, n_unrolled, **options)(task.y, task.baseline)


def soft_threshold(x: Tensor, threshold: float, sign: str) -> Tensor:
    shrunk = x.sign() * (x.abs() - threshold).clamp(min=0)
    return shrunk.clamp(min=0) if sign == "positive" else shrunk


@pytest.mark.parametrize(
    ("name", "axes", "sign", "accelerated"), pairwise(NAMES, [1, 2], SIGNS, [False, True])
)
def test_layers_are_proximal_gradient_steps(name, axes, sign, accelerated):
    """The formula of the paper, written with the dense matrix."""
    task = problem(name, axes, sign)
    step, weight = 0.02, task.penalty.weight
    places = task.dictionary.code_shape(task.y.shape[-axes:])
    matrix = dense(task.dictionary.templates.detach(), places, task.dictionary.stride)
    y, baseline = task.y.flatten(1), task.baseline.expand_as(task.y).flatten(1)
    codes = point = y.new_zeros(len(y), matrix.shape[1])
    momentum = 1.0
    for _ in range(7):
        residual = task.family.residual(y, point @ matrix.T + baseline)
        previous = codes
        codes = soft_threshold(point + step * residual @ matrix, step * weight, sign)
        point = codes
        if accelerated:
            last, momentum = momentum, (1 + math.sqrt(1 + 4 * momentum**2)) / 2
            point = codes + (last - 1) / momentum * (codes - previous)
    ours = encode(task, 7, step=step, accelerated=accelerated)
    assert ours.shape == (len(y), 2, *places)
    torch.testing.assert_close(ours.flatten(1), codes)
    assert (codes != 0).any()


def assert_never_uphill(task: Problem, layers: int = 16) -> None:
    places = task.dictionary.code_shape(task.y.shape[-task.dictionary.axes :])
    last = task.objective(task.y.new_zeros(len(task.y), 2, *places))
    for n_unrolled in range(1, layers):
        now = task.objective(encode(task, n_unrolled, accelerated=False))
        assert (now <= last + 1e-9 * (1 + last.abs())).all(), f"layer {n_unrolled}: {last} to {now}"
        last = now


@each_family
@settings(max_examples=15)
@given(
    axes=st.sampled_from([1, 2]),
    seed=st.integers(0, 10_000),
    scale=st.sampled_from([0.3, 1.0, 4.0]),
    loudness=st.sampled_from([1, 10, 100]),
    fraction=st.floats(0.001, 0.9),
    sign=st.sampled_from(SIGNS),
)
@the_example(axes=1, seed=0, scale=1.0, loudness=1, fraction=0.2, sign="both")
@the_example(axes=2, seed=0, scale=1.0, loudness=1, fraction=0.2, sign="positive")
def test_ista_never_increases_the_objective_whatever_the_data(
    name, axes, seed, scale, loudness, fraction, sign
):
    task = problem(name, axes, sign, seed=seed, fraction=fraction, windows=2)
    task.dictionary.templates.data *= scale  # templates need not be of unit norm
    louder = torch.where(task.family.invalid(loudness * task.y)[0], task.y, loudness * task.y)
    assert_never_uphill(replace(task, y=louder), layers=10)


def assert_limit_is_the_solution(task: Problem, codes: Tensor) -> None:
    solved = sparse_code(
        task.y, task.family, task.dictionary, task.penalty, task.baseline, tol=1e-6
    )
    assert solved.converged
    best, ours = task.objective(solved.codes), task.objective(codes)
    assert (ours - best <= 1e-5 * (1 + best.abs())).all()
    assert (codes - solved.codes).abs().max() < 0.05 * solved.codes.abs().max()


@of_either_sign
def test_limit_of_fista_is_the_solution(name, axes, sign):
    task = problem(name, axes, sign)
    assert_limit_is_the_solution(task, encode(task, 300))


@each_family
def test_limit_of_ista_is_the_solution(name):
    task = problem(name)
    assert_limit_is_the_solution(task, encode(task, 1000, accelerated=False))


@each_family
def test_limit_is_the_solution_for_groups(name):
    sign = SIGNS[NAMES.index(name) % 2]
    task = problem(name, sign=sign, windows=6)
    y, baseline = (tensor.reshape(2, 3, *tensor.shape[1:]) for tensor in (task.y, task.baseline))
    penalty = GroupL1(weight=2 * task.penalty.weight, sign=sign)
    solved = sparse_code(y, task.family, task.dictionary, penalty, baseline, tol=1e-6)
    with torch.no_grad():
        codes = UnrolledEncoder(task.family, task.dictionary, penalty, 300)(y, baseline)
    assert solved.converged
    assert (solved.codes != 0).any()
    assert (codes - solved.codes).abs().max() < 0.02 * solved.codes.abs().max()


@pytest.mark.parametrize(("name", "axes", "accelerated"), pairwise(NAMES, [1, 2], [False, True]))
def test_untied_with_equal_weights_is_tied(name, axes, accelerated):
    task = problem(name, axes)
    options: dict = {"accelerated": accelerated, "step": 0.05 if name in UNBOUNDED else None}
    copy = ConvDictionary(task.dictionary.templates.detach().clone(), task.dictionary.stride)
    weight = torch.full((2, *(1,) * axes), task.penalty.weight, dtype=torch.float64)
    tied = encode(task, 9, **options)
    torch.testing.assert_close(encode(task, 9, analysis=copy, **options), tied)
    torch.testing.assert_close(encode(task, 9, analysis=copy, bias=weight, **options), tied)
    torch.testing.assert_close(encode(task, 9, bias=weight, **options), tied)


@each_dimension
def test_untied_step_takes_both_norms(axes):
    """One over the curvature, the norm of the analysis and the norm of the synthesis."""
    task = problem("binomial", axes)
    analysis = ConvDictionary(3 * task.dictionary.templates.detach(), task.dictionary.stride)
    norm = task.dictionary.norm_squared(task.y.shape[-axes:]).detach()
    step = float(1 / (N_TRIALS / 4 * norm.sqrt() * (9 * norm).sqrt()))
    expected = encode(task, 6, step=step, analysis=analysis)
    torch.testing.assert_close(encode(task, 6, analysis=analysis), expected)
    assert (expected != 0).any()


@each_family
def test_bias_is_a_threshold_per_template(name):
    """A template whose threshold is never reached is as good as absent."""
    task = problem(name)
    bias = torch.tensor([[0.1], [1e9]], dtype=torch.float64)
    codes = encode(task, 20, bias=bias, step=0.05)
    first = ConvDictionary(task.dictionary.templates.detach()[:1])
    alone = encode(replace(task, dictionary=first, penalty=L1(0.1)), 20, step=0.05)
    assert (codes[:, 1] == 0).all()
    torch.testing.assert_close(codes[:, :1], alone)
    assert (alone != 0).any()


class TestBacktracking:
    """Families whose curvature has no bound."""

    @pytest.mark.parametrize("name", UNBOUNDED)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    @pytest.mark.parametrize("baseline", [-25.0, -5.0, 70.0])
    def test_hard_starts(self, name, dtype, baseline):
        """From rates far too low or far too high: finite and never uphill."""
        task = hard_start(name, baseline, dtype)
        nothing = task.objective(task.y.new_zeros(2, 2, 19))
        for accelerated in (False, True):
            codes = encode(task, 40, accelerated=accelerated)
            assert torch.isfinite(codes).all()
            assert torch.isfinite(task.family.mean(task.dictionary(codes) + task.baseline)).all()
            if not accelerated:
                assert (task.objective(codes) <= nothing + 1e-6 * nothing.abs()).all()

    @pytest.mark.parametrize("name", UNBOUNDED)
    def test_steps_are_per_window(self, name):
        """A loud window does not slow its neighbours down."""
        task = problem(name, windows=2)
        task.y[0] *= 100
        together = encode(task, 12)
        alone = UnrolledEncoder(task.family, task.dictionary, task.penalty, 12)
        torch.testing.assert_close(together[1:], alone(task.y[1:], task.baseline[1:]).detach())

    @pytest.mark.parametrize("name", UNBOUNDED)
    def test_untied_weights_need_a_step(self, name):
        task = problem(name)
        with pytest.raises(ValueError, match=r"`step` \(=None\) must be given .* step=0.1"):
            encoder(task, 5, analysis=task.dictionary)
        assert torch.isfinite(encode(task, 5, analysis=task.dictionary, stabilizer=1.0)).all()


@each_family
@settings(max_examples=100)
@given(eta=st.floats(-8, 5), change=st.floats(-6, 6), count=st.integers(0, N_TRIALS))
@the_example(eta=0.0, change=6.0, count=0)
@the_example(eta=0.0, change=1e-5, count=1)
def test_bregman_is_the_cost_above_its_tangent(name, eta, change, count):
    family = example(name)
    y, eta, change = (torch.tensor(v, dtype=torch.float64) for v in (float(count), eta, change))
    tangent = family.cost(y, eta) - family.residual(y, eta) * change
    exact = family.cost(y, eta + change) - tangent
    ours = bregman(y, eta, change, None, family)
    rounding = 1e-13 * (family.cost(y, eta).abs() + 1)
    assert ours >= 0
    # less than the truth lets a step through that is too long
    assert ours >= exact * (1 - 0.05) - rounding
    if change.abs() < 0.5:
        assert ours <= exact * (1 + 0.001) + rounding


@each_family
def test_bregman_keeps_its_digits_for_small_changes(name):
    family = example(name)
    y, eta = torch.tensor(3.0), torch.tensor(0.5)
    change = torch.tensor(1e-4)
    expected = family.curvature(y, eta) * change**2 / 2
    torch.testing.assert_close(bregman(y, eta, change, None, family), expected, rtol=1e-3, atol=0)


class TestStabilizer:
    """Elu with the peak as its alpha, on the residual."""

    @pytest.mark.parametrize("peak", [0.5, 1.0, 4.0])
    def test_one_layer(self, peak):
        task = problem("poisson")
        codes = encode(task, 1, step=0.1, stabilizer=peak)
        residual = task.y - torch.exp(task.baseline)
        bounded = torch.where(residual > 0, residual, peak * (torch.exp(residual) - 1))
        score = task.dictionary.adjoint(bounded).detach()
        torch.testing.assert_close(
            codes, soft_threshold(0.1 * score, 0.1 * task.penalty.weight, "positive")
        )

    @pytest.mark.parametrize("peak", [0.5, 4.0])
    def test_keeps_codes_finite(self, peak):
        task = problem("poisson", scale=3.0)
        codes = encode(task, 50, stabilizer=peak)
        assert torch.isfinite(codes).all()
        assert (codes != 0).any()

    def test_leaves_hidden_bins_out(self):
        task = problem("poisson")
        mask = torch.ones_like(task.y, dtype=torch.bool)
        mask[..., :9] = False
        codes = encoder(task, 1, step=0.1, stabilizer=1.0)(task.y, task.baseline, mask)
        assert (codes[..., :5] == 0).all()  # templates of 5 bins that end before bin 9


@pytest.mark.parametrize(
    ("name", "axes", "tied", "accelerated"), pairwise(NAMES, [1, 2], [True, False], [False, True])
)
def test_gradients(name, axes, tied, accelerated):
    """Through every layer to templates, analysis, decoder, bias and baseline."""
    task = problem(name, axes, "both", windows=1, fraction=0.05)
    shape, stride = task.dictionary.templates.shape, task.dictionary.stride
    generator = torch.Generator().manual_seed(4)
    others = [torch.randn(shape, generator=generator).double() / 3 for _ in range(2)]
    bias = torch.full((2, *(1,) * axes), task.penalty.weight, dtype=torch.float64)
    layers = encoder(
        task,
        3,
        accelerated=accelerated,
        step=0.05 if name in UNBOUNDED and not tied else None,
        analysis=None if tied else ConvDictionary(others[0], stride),
        bias=bias,
    )
    model = UnrolledAutoencoder(layers, None if tied else ConvDictionary(others[1], stride))
    names = [name for name, _ in model.named_parameters()]
    assert len(names) == (2 if tied else 4)

    def run(baseline: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        values = dict(zip(names, parameters, strict=True))
        codes, eta = torch.func.functional_call(model, values, (task.y, baseline))
        return codes, task.family.cost(task.y, eta).sum()

    inputs = [task.baseline, *(p.detach() for p in model.parameters())]
    inputs = [tensor.clone().requires_grad_() for tensor in inputs]
    codes, _ = run(*inputs)
    assert (codes != 0).flatten(2).any(dim=2).all()
    assert torch.autograd.gradcheck(run, inputs)


class TestMask:
    """Bins that were not observed."""

    @pytest.fixture
    def mask(self):
        mask = torch.rand(3, 2, 22, generator=torch.Generator().manual_seed(9)) < 0.7
        mask[1, :, 8:] = False
        return mask

    @pytest.mark.parametrize(
        ("name", "stabilizer", "accelerated"), pairwise(NAMES, [None, 1.0], [False, True])
    )
    def test_hidden_bins_have_no_influence(self, name, stabilizer, accelerated, mask):
        task = problem(name)
        layers = encoder(task, 25, stabilizer=stabilizer, accelerated=accelerated)
        others = task.family.sample(torch.full_like(task.y, 2.0), torch.Generator().manual_seed(1))
        codes = layers(task.y, task.baseline, mask)
        changed = layers(torch.where(mask, task.y, others), task.baseline, mask)
        torch.testing.assert_close(changed, codes)
        assert not torch.allclose(layers(task.y, task.baseline), codes)

    @each_family
    def test_hidden_bins_have_no_gradient(self, name, mask):
        task = problem(name)
        y = task.y.clone().requires_grad_()
        codes = encoder(task, 8)(y, task.baseline, mask)
        (slope,) = torch.autograd.grad(codes.square().sum(), y)
        assert (slope[~mask] == 0).all()
        assert (slope[mask] != 0).any()

    @each_family
    def test_layers_are_steps_on_the_observed_bins(self, name, mask):
        task = problem(name)
        codes = encode(task, 1, step=0.02)
        with torch.no_grad():
            masked = encoder(task, 1, step=0.02)(task.y, task.baseline, mask)
        score = task.score(torch.zeros_like(codes), mask)
        expected = soft_threshold(0.02 * score, 0.02 * task.penalty.weight, "positive")
        torch.testing.assert_close(masked, expected)

    @each_family
    def test_a_window_without_observations_has_no_codes(self, name):
        task = problem(name)
        mask = torch.ones_like(task.y, dtype=torch.bool)
        mask[1] = False
        codes = encoder(task, 20)(task.y, task.baseline, mask)
        assert (codes[1] == 0).all()
        assert (codes[0] != 0).any()

    def test_a_window_without_trials_has_no_codes(self):
        task = problem("binomial")
        family = Binomial(n_trials=torch.tensor([12, 0, 12]).reshape(3, 1, 1))
        mask = torch.tensor([True, False, True]).reshape(3, 1, 1).expand_as(task.y)
        codes = encoder(task, 20)(task.y * mask, task.baseline, mask, family)
        assert (codes[1] == 0).all()
        assert torch.isfinite(codes).all()


@each_family
def test_windows_are_as_each_alone(name):
    axes = 1 + NAMES.index(name) % 2
    task = problem(name, axes, "both")
    layers = encoder(task, 12)
    together = layers(task.y, task.baseline)
    for window in range(len(task.y)):
        alone = layers(task.y[window], task.baseline[window])
        torch.testing.assert_close(alone, together[window])
    folded = layers(task.y[None], task.baseline[None])
    torch.testing.assert_close(folded[0], together)


def test_a_family_can_be_given_with_the_windows():
    task = problem("binomial")
    n_trials = torch.tensor([12, 40, 300])
    together = encoder(task, 15)(
        task.y, task.baseline, None, Binomial(n_trials=n_trials.reshape(3, 1, 1))
    )
    for window, n in enumerate(n_trials.tolist()):
        alone = UnrolledEncoder(Binomial(n_trials=n), task.dictionary, task.penalty, 15)
        torch.testing.assert_close(together[window], alone(task.y[window], task.baseline[window]))


@each_family
def test_single_precision(name):
    double, single = problem(name), problem(name, dtype=torch.float32)
    task = Problem(
        double.family, single.dictionary, double.penalty, double.y.float(), double.baseline.float()
    )
    task.dictionary.templates.data = double.dictionary.templates.detach().float()
    codes = encode(task, 40)
    assert codes.dtype == torch.float32
    torch.testing.assert_close(codes.double(), encode(double, 40), rtol=1e-2, atol=1e-3)


def test_bad_arguments_are_refused():
    dictionary = ConvDictionary(torch.ones(1, 1, 3))
    for options, error, message in (
        ({"n_unrolled": 0}, ValueError, r"`n_unrolled` \(=0\) must be at least 1"),
        ({"n_unrolled": 2.5}, TypeError, r"`n_unrolled` \(=2.5\) must be an integer"),
        ({"step": 0.0}, ValueError, r"`step` \(=0.0\) must be positive"),
        ({"step": "auto"}, TypeError, r"`step` \(='auto'\) must be a number"),
        ({"stabilizer": -1.0}, ValueError, r"`stabilizer` \(=-1.0\) must be positive"),
    ):
        with refused(error, message, options):
            UnrolledEncoder(Gaussian(), dictionary, L1(), **options)


def test_a_window_shorter_than_the_templates_is_refused():
    layers = UnrolledEncoder(Poisson(), ConvDictionary(torch.ones(1, 1, 9)), L1())
    with pytest.raises(ValueError, match="longer than the window"):
        layers(torch.zeros(1, 1, 8))
