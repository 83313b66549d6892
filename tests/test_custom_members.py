"""A family, a penalty and a trainer of a user's, outside the package, go everywhere ours go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from fits import quick, same_bits, some_counts

import spikecdl
from spikecdl import DCEA, L1, Alternating, ConvDictionary, Poisson, heldout, plots, sparse_code
from spikecdl.evaluation.goodness_of_fit import of_decomposition, time_rescaling
from spikecdl.model.families import FAMILIES, CountingProcess, Family, ScalarLoss
from spikecdl.model.penalties import PENALTIES
from spikecdl.report import draw_figures, write_report
from spikecdl.solvers.events import Events
from spikecdl.training import TRAINERS, Learned, Trainer


@dataclass(frozen=True)
class Geometric(Family):
    """Counts before a failure, with mean exp(eta): log prob = y eta - (y + 1) log(1 + exp(eta))."""

    name: ClassVar[str] = "geometric"
    eta_name: ClassVar[str] = "log rate, geometric"

    def cost(self, y, eta):
        return (y + 1) * torch.nn.functional.softplus(eta) - y * eta

    def scalar_loss(self, y):
        return ScalarLoss("logistic", y, torch.ones_like(y))

    def log_base(self, y):
        return torch.zeros_like(y)

    def saturated_cost(self, y):
        return torch.xlogy(y + 1, y + 1) - torch.xlogy(y, y)

    def mean(self, eta):
        return torch.exp(eta)

    def link(self, mean):
        return torch.log(mean)

    def residual(self, y, eta):
        return y - (y + 1) * torch.sigmoid(eta)

    def curvature(self, y, eta):
        return (y + 1) * torch.sigmoid(eta) * torch.sigmoid(-eta)

    def curvature_bound(self, y):
        return (y + 1) / 4

    def sample(self, eta, generator=None):
        uniform = torch.rand(eta.shape, generator=generator, dtype=eta.dtype)
        return torch.floor(torch.log(uniform) / torch.nn.functional.logsigmoid(eta))

    def invalid(self, y):
        return (y < 0) | (y != torch.floor(y)), "whole counts of 0 or more"

    def counting_process(self, mean):
        return CountingProcess(torch.ones_like(mean), torch.log1p(mean), 1)


@dataclass(frozen=True)
class Exponential(Family):
    """A positive signal of mean exp(eta), whose cost no compiled solver knows."""

    name: ClassVar[str] = "exponential"
    integer_valued: ClassVar[bool] = False

    def cost(self, y, eta):
        return eta + y * torch.exp(-eta)

    def log_base(self, y):
        return torch.zeros_like(y)

    def saturated_cost(self, y):
        return 1 + torch.log(y)

    def mean(self, eta):
        return torch.exp(eta)

    def link(self, mean):
        return torch.log(mean)

    def residual(self, y, eta):
        return y * torch.exp(-eta) - 1

    def curvature(self, y, eta):
        return y * torch.exp(-eta)

    def curvature_bound(self, y):
        return None

    def sample(self, eta, generator=None):
        return -torch.exp(eta) * torch.log(torch.rand(eta.shape, generator=generator))

    def invalid(self, y):
        return ~(y > 0), "positive numbers"


class Dear(L1):
    """An l1 penalty whose prox asks twice the price."""

    name: ClassVar[str] = "dear"

    def __call__(self, codes):
        return 2 * super().__call__(codes)

    def prox(self, codes, step):
        return super().prox(codes, 2 * step)

    def lambda_max(self, score):
        return super().lambda_max(score) / 2


@dataclass(frozen=True)
class Fixed(Trainer):
    """Keeps a bump as its template, beside a gain of its own; the codes are scores above it."""

    gain: float = 0.5
    name: ClassVar[str] = "fixed"
    default_epochs: ClassVar[int] = 1

    def fit(self, problem, learned, on_epoch):
        bump = torch.hann_window(problem.length + 2, periodic=False)[1:-1]
        templates = (bump / bump.norm()).expand(problem.n_templates, 1, -1).clone()
        tensors = {"templates": templates, "gains": torch.full((problem.n_templates,), self.gain)}
        units = {"gain": problem.data.rows().baseline.new_tensor(range(1, 3))[:, None]}
        history = [{"epoch": 1, "loss": 1.0}]
        learned = Learned(tensors, {"seen": torch.ones(3)}, 1, history, True, units)
        on_epoch(learned)
        return learned

    def encode(self, problem, tensors):
        rows = problem.data.rows()
        dictionary = ConvDictionary(tensors["templates"])
        score = dictionary.adjoint(rows.load().residual(rows.baseline.expand_as(rows.y)))
        codes = tensors["gains"][:, None] * torch.relu(score.detach() - 2)
        of_unit = problem.unit_tensors["gain"].repeat(len(problem.data.y), 1)
        codes = codes * of_unit[..., None]
        return Events.from_codes(codes), problem.data.baseline


@pytest.fixture
def registered():
    """Put the classes into the registries for a test."""
    members = ((FAMILIES, Geometric), (FAMILIES, Exponential), (PENALTIES, Dear), (TRAINERS, Fixed))
    for registry, kind in members:
        registry[kind.name] = kind
    yield
    for registry, kind in members:
        del registry[kind.name]


def signal():
    """A positive signal with bumps, and the baseline it has between them."""
    counts = some_counts()
    draws = np.random.default_rng(0).exponential(size=counts.shape)
    return (0.1 + counts.counts) * draws


pytestmark = pytest.mark.filterwarnings("ignore:training did not converge")

MODELS = {
    "family": lambda: quick(Geometric()),
    "family, positive signal": lambda: quick(
        Exponential(), "unrolled", baseline=[1.0, 1.0], penalty_weight=0.3
    ),
    "penalty": lambda: quick(penalty=Dear()),
    "penalty, implicit": lambda: quick(trainer="implicit", penalty=Dear()),
    "penalty, unrolled": lambda: quick(trainer="unrolled", penalty=Dear()),
    "trainer": lambda: quick(trainer=Fixed()),
}


def of_each(*names):
    return pytest.mark.parametrize("fitted", names, indirect=True)


@pytest.fixture(scope="module", params=sorted(MODELS))
def fitted(request):
    counts = signal() if "signal" in request.param else some_counts()
    return MODELS[request.param]().fit(counts), counts


def test_events_rates_and_score(fitted):
    model, counts = fitted
    codes, expected = model.transform(counts), model.predict(counts)
    assert (codes != 0).any()
    assert np.isfinite(expected).all()
    assert expected.shape == np.shape(getattr(counts, "counts", counts))
    assert np.isfinite(model.score(counts))


def test_held_out_scores_and_goodness_of_fit(fitted):
    model, counts = fitted
    if not isinstance(counts, spikecdl.BinnedSpikes):
        counts = spikecdl.BinnedSpikes.from_array(counts)
    assert np.isfinite(heldout.masked(model, counts, model.family).deviance_explained)
    if isinstance(model.family, Exponential):
        assert of_decomposition(model.decompose(counts), model.family) is None
        with pytest.raises(ValueError, match=r"`family` \(=Exponential\(\)\) has no `split`"):
            heldout.split(counts, model.family)
    else:
        assert (time_rescaling(model, counts).distance < 1).all()


@of_each("family", "family, positive signal", "penalty", "trainer")
def test_figures_and_report(fitted, tmp_path):
    model, counts = fitted
    parts = model.decompose(counts)
    page = write_report(tmp_path / "report.html", parts, draw_figures(model, parts), {})
    assert parts.family.name in page.read_text("utf-8")
    panels = np.ravel(plots.decomposition(parts))
    assert any(parts.family.eta_name in ax.get_ylabel() for ax in panels)


def test_saved_and_loaded(fitted, registered, tmp_path):
    model, counts = fitted
    model.save(tmp_path / "model")
    again = spikecdl.load(tmp_path / "model")
    assert same_bits(again.transform(counts), model.transform(counts))
    assert again.unit_tensors_.keys() == model.unit_tensors_.keys()
    for name, value in model.unit_tensors_.items():
        assert torch.equal(again.unit_tensors_[name], value)
    for name in ("family", "penalty", "trainer"):
        assert type(getattr(again, name)) is type(getattr(model, name))


def test_tensors_of_units_follow_the_units(tmp_path):
    counts = some_counts()
    model = quick(trainer=Fixed()).fit(counts)
    codes = model.transform(counts)
    swapped = model.transform(counts.select(units=[1, 0]))
    assert same_bits(swapped[:, ::-1], codes)
    assert same_bits(model.transform(counts.select(units=[1])), codes[:, 1])
    other = spikecdl.BinnedSpikes.from_array(counts.counts, unit_ids=(0, "b"))
    with pytest.raises(ValueError, match="unit 'b' was not in the fit, which has learned the gain"):
        model.transform(other)


def test_resumed(registered, tmp_path):
    file, counts = tmp_path / "checkpoint.safetensors", some_counts()
    model = quick(penalty=Dear(), n_epochs=1).fit(counts, checkpoint=file)
    model.set_params(n_epochs=3).fit(counts, checkpoint=file, resume=True)
    whole = quick(penalty=Dear(), n_epochs=3).fit(counts)
    assert same_bits(model.templates_, whole.templates_)


@of_each("family", "penalty", "trainer")
def test_what_is_not_registered_is_refused_at_save(fitted, tmp_path):
    model, _ = fitted
    with pytest.raises(TypeError, match=r"`\w+` \(=\w+\) cannot be saved, as \w+ is not a regist"):
        model.save(tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_a_trainer_that_is_none_is_refused():
    with pytest.raises(TypeError, match="`trainer`.*must be a Trainer or one of: alternating"):
        DCEA(trainer=object()).fit(some_counts())


def test_tensors_of_a_trainer_have_a_row_per_template():
    @dataclass(frozen=True)
    class Odd(Fixed):
        def fit(self, problem, learned, on_epoch):
            learned = super().fit(problem, learned, on_epoch)
            learned.tensors["odd"] = torch.ones(7)
            return learned

    with pytest.raises(ValueError, match=r"its tensor 'odd' \(7,\) must have one row per template"):
        quick(trainer=Odd()).fit(some_counts())


def test_tensors_of_units_have_a_row_per_unit():
    with pytest.raises(ValueError, match=r"its tensor 'gain' \(2, 1\) must have one row"):
        quick(trainer=Fixed()).fit(some_counts(units=3))


@pytest.mark.parametrize("trainer", [Alternating(), "unrolled"])
def test_a_family_without_compiled_form_is_refused_where_it_is_needed(trainer):
    with pytest.raises(ValueError, match=r"`family` \(=Exponential\) has no `scalar_loss`"):
        quick(Exponential(), trainer).fit(signal())


def test_a_changed_cost_does_not_inherit_the_compiled_form():
    class Weighted(Poisson):
        def cost(self, y, eta):
            return 2 * super().cost(y, eta)

        def residual(self, y, eta):
            return 2 * super().residual(y, eta)

        def curvature(self, y, eta):
            return 2 * super().curvature(y, eta)

    dictionary = ConvDictionary(torch.ones(1, 1, 1, dtype=torch.float64))
    y = torch.full((1, 1, 1), 8.0, dtype=torch.float64)
    solved = sparse_code(y, Weighted(), dictionary, L1(1.0), tol=1e-8)
    # 2 (y - exp(x)) = weight
    torch.testing.assert_close(solved.codes.exp(), y - 0.5)


def test_a_changed_prox_is_called():
    """Of 5 - weight the doubled price leaves 3, by any method."""
    dictionary = ConvDictionary(torch.ones(1, 1, 1))
    y = torch.full((1, 1, 1), 5.0)
    for method in ("auto", "fista"):
        solved = sparse_code(y, spikecdl.Gaussian(), dictionary, Dear(1.0), method=method)
        torch.testing.assert_close(solved.codes, torch.full((1, 1, 1), 3.0))
    with pytest.raises(ValueError, match=r"`method` \(=\"working_set\"\) is for L1 and GroupL1"):
        sparse_code(y, spikecdl.Gaussian(), dictionary, Dear(1.0), method="working_set")
