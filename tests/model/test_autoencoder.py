"""The auto-encoder: shapes, loss, parameters and what learning them does."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from contracts import Problem, problem

from spikecdl.model.dictionary import ConvDictionary
from spikecdl.model.encoder import UnrolledAutoencoder, UnrolledEncoder
from spikecdl.model.families import FAMILIES, Binomial
from spikecdl.model.penalties import L1

NAMES = sorted(FAMILIES)

each_family = pytest.mark.parametrize("name", NAMES)
each_dimension = pytest.mark.parametrize("axes", [1, 2], ids=["1-D", "2-D"])


def tied(task: Problem, n_unrolled: int = 12) -> UnrolledAutoencoder:
    layers = UnrolledEncoder(task.family, task.dictionary, task.penalty, n_unrolled)
    return UnrolledAutoencoder(layers)


def copies(dictionary: ConvDictionary, n: int) -> list[ConvDictionary]:
    templates = dictionary.templates.detach()
    return [ConvDictionary(templates.clone(), dictionary.stride) for _ in range(n)]


def test_numbers_of_parameters_are_those_of_the_paper():
    """169 filters of 11 x 11 with stride 7 and a bias each: 20,618 tied, 61,516 untied."""
    synthesis, analysis, decoder = (
        ConvDictionary(torch.randn(169, 1, 11, 11), stride=7) for _ in range(3)
    )
    bias = torch.full((169, 1, 1), 0.1)
    options = {"n_unrolled": 2, "accelerated": False, "step": 0.1, "bias": bias}
    penalty = L1(axes=2)
    constrained = UnrolledAutoencoder(
        UnrolledEncoder(FAMILIES["poisson"](), synthesis, penalty, **options)
    )
    unconstrained = UnrolledAutoencoder(
        UnrolledEncoder(FAMILIES["poisson"](), synthesis, penalty, analysis=analysis, **options),
        decoder,
    )
    for model, names, size in (
        (constrained, {"encoder.dictionary.templates", "encoder.bias"}, 20_618),
        (
            unconstrained,
            {
                "encoder.dictionary.templates",
                "encoder.analysis.templates",
                "encoder.bias",
                "dictionary.templates",
            },
            61_516,
        ),
    ):
        parameters = dict(model.named_parameters())
        assert parameters.keys() == names
        assert sum(p.numel() for p in parameters.values()) == size
    codes, eta = unconstrained(torch.poisson(torch.ones(2, 1, 25, 32)))
    assert codes.shape == (2, 169, 3, 4)
    assert eta.shape == (2, 1, 25, 32)


def test_tied_without_a_bias_learns_its_templates_only():
    model = tied(problem("binomial"))
    assert list(model.parameters()) == [model.encoder.dictionary.templates]
    assert model.dictionary is model.encoder.dictionary is model.encoder.analysis


@each_family
@each_dimension
def test_forward_and_loss_are_encoder_then_dictionary(name, axes):
    """The loss is the mean cost of the observed bins, by their codes, without a penalty."""
    task = problem(name, axes)
    model = tied(task)
    codes, eta = model(task.y, task.baseline)
    torch.testing.assert_close(codes, model.encoder(task.y, task.baseline))
    torch.testing.assert_close(eta, task.dictionary(codes) + task.baseline)
    assert eta.shape == task.y.shape
    assert model.family is task.family
    assert (codes != 0).any()
    mask = torch.rand(task.y.shape, generator=torch.Generator().manual_seed(2)) < 0.6
    for hidden in (None, mask):
        codes = model.encoder(task.y, task.baseline, hidden)
        costs = task.family.cost(task.y, task.dictionary(codes) + task.baseline)
        expected = costs.mean() if hidden is None else costs[hidden].mean()
        torch.testing.assert_close(model.loss(task.y, task.baseline, hidden), expected)


@each_family
def test_hidden_bins_do_not_change_the_loss(name):
    task = problem(name)
    model = tied(task)
    mask = torch.ones_like(task.y, dtype=torch.bool)
    mask[..., 12:] = False
    other = torch.where(mask, task.y, 1.0)
    first, second = (model.loss(y, task.baseline, mask) for y in (task.y, other))
    torch.testing.assert_close(first, second)
    slopes = [torch.autograd.grad(loss, task.dictionary.templates)[0] for loss in (first, second)]
    torch.testing.assert_close(*slopes)


def test_a_family_can_be_given_with_the_windows():
    task = problem("binomial")
    model = tied(task)
    family = Binomial(n_trials=torch.tensor([12, 40, 300]).reshape(3, 1, 1))
    codes, eta = model(task.y, task.baseline, None, family)
    torch.testing.assert_close(codes, model.encoder(task.y, task.baseline, None, family))
    loss = model.loss(task.y, task.baseline, None, family)
    torch.testing.assert_close(loss, family.cost(task.y, eta).mean())
    assert not torch.isclose(loss, model.loss(task.y, task.baseline))


@each_family
def test_learning_from_the_loss_lowers_it(name):
    axes = 1 + NAMES.index(name) % 2
    task = problem(name, axes, windows=8, fraction=0.1)
    start = torch.randn(task.dictionary.templates.shape, generator=torch.Generator().manual_seed(1))
    task.dictionary.templates.data = start.double()
    task.dictionary.normalize_()
    model = tied(task, 10)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = model.loss(task.y, task.baseline)
        loss.backward()
        slope = task.dictionary.templates.grad
        assert torch.isfinite(slope).all()
        assert (slope.flatten(1).norm(dim=1) > 0).all()
        optimizer.step()
        task.dictionary.normalize_()
        losses.append(float(loss.detach()))
    nothing = float(task.family.cost(task.y, task.baseline).mean())
    assert losses[-1] < losses[0] < nothing


@each_family
@each_dimension
def test_untied_learns_every_part(name, axes):
    task = problem(name, axes)
    analysis, decoder = copies(task.dictionary, 2)
    bias = torch.full((2, *(1,) * axes), 0.05, dtype=torch.float64)
    layers = UnrolledEncoder(
        task.family, task.dictionary, task.penalty, 8, step=0.03, analysis=analysis, bias=bias
    )
    model = UnrolledAutoencoder(layers, decoder)
    assert model.dictionary is decoder
    torch.testing.assert_close(
        model(task.y, task.baseline)[1],
        decoder(layers(task.y, task.baseline)) + task.baseline,
    )
    model.loss(task.y, task.baseline).backward()
    parameters = dict(model.named_parameters())
    assert len(parameters) == 4
    for part, parameter in parameters.items():
        assert torch.isfinite(parameter.grad).all(), part
        assert (parameter.grad != 0).any(), part


def test_weights_can_be_saved_and_loaded():
    task = problem("binomial")
    other = ConvDictionary(torch.zeros_like(task.dictionary.templates))
    model, fresh = tied(task), tied(replace(task, dictionary=other))
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(task.y, task.baseline)[0], model(task.y, task.baseline)[0])
