"""`DCEA`: the model as a scikit-learn estimator over counts, and its files."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

import spikecdl
from spikecdl import _validation, settings, storage
from spikecdl.data import BinnedSpikes, Decomposition
from spikecdl.dictionary import ConvDictionary
from spikecdl.families import FAMILIES, Family
from spikecdl.metrics import deviance_explained
from spikecdl.penalties import PENALTIES, Penalty
from spikecdl.preparation import LAYOUTS, as_counts, null_mean, observe, rates
from spikecdl.training import (
    TRAINERS,
    Fixed,
    Fraction,
    Learned,
    NullScore,
    Observations,
    Problem,
    Trainer,
    Weight,
    lambda_max,
)

_FOLDS = 4  # interleaved sets of bins that `score` leaves out in turn


class NotConvergedWarning(UserWarning):
    """Training stopped before it settled."""


class DCEA(TransformerMixin, BaseEstimator):
    r"""Learn templates from counts: convolutional dictionary learning for exponential families.

    Counts of a window follow a family whose linear predictor is a baseline and a sparse sum of
    shifted templates,

    .. math:: y_t \sim \mathrm{family}(\eta_t), \qquad
              \eta = \mu + \sum_c h_c * x_c, \qquad \|h_c\|_2 = 1

    and codes x with few non-zero entries, each an event that begins in that bin.

    Parameters
    ----------
    n_templates : int
        Number of templates.
    template_length : float
        Length of a template in the unit of ``bin_size``: seconds for `BinnedSpikes`, bins for
        plain arrays unless ``bin_size`` is given.  A whole number of bins.
    family : str or Family
        Observation model: "binomial", "poisson", "gaussian", "negative_binomial", or an object
        such as ``spikecdl.Binomial(n_trials=30)``.
    layout : {"shared", "joint"}
        Shared: one waveform for all units, a code per unit.  Joint: units are the channels of
        templates, a code per trial.
    penalty : str or Penalty
        "l1", "group_l1" (units that fire together), or an object such as
        ``spikecdl.L1(sign="both")``; its weight is set here.
    penalty_weight : float, optional
        Weight as a fraction of lambda_max, above which all codes are zero.  None: the height
        that scores of pure noise reach, per window.
    baseline : "learned", (start, stop), or array_like
        Linear predictor without events: learned with the codes per unit and window; estimated
        from bins between two times of each window; or given as rates in Hz, (unit,) or
        (trial, unit).
    gradient : str or trainer
        "alternating" or "unrolled" (the source's), or an object such as
        ``spikecdl.Unrolled(n_unrolled=250)``.
    n_epochs : int, optional
        Epochs at the most; None: as the trainer needs.
    bin_size : float
        Seconds per bin of plain arrays; `BinnedSpikes` know their own.
    device : str
        "auto" (a GPU if there is one), "cpu", "cuda".
    random_state : int, RandomState or None
        Seed; the same seed gives the same bits on one machine.

    Attributes
    ----------
    templates_ : ndarray, shape (template, channel, bin)
        Unit l2 norm.  Order and shift are conventions: by decreasing number of events.
    baseline_ : ndarray, shape (trial, unit)
        Baseline rates of the training data, in Hz.
    penalty_weight_ : float
        Weight used, as a fraction of lambda_max (median over windows and templates).
    history_ : list of dict
        One record per epoch.
    converged_ : bool
    n_iter_ : int
        Epochs.
    bin_size_ : float
    n_bins_ : int
        Bins of a template.

    References
    ----------
    Tolooshams, Song, Temereanca and Ba, ICML 2020, arXiv:1907.03211.

    Examples
    --------
    >>> import numpy as np
    >>> counts = np.random.default_rng(0).poisson(0.2, size=(20, 200))
    >>> counts[:, 50:55] += 2
    >>> model = DCEA(n_templates=1, template_length=10, random_state=0).fit(counts)
    >>> model.templates_.shape, model.transform(counts).shape
    ((1, 1, 10), (20, 1, 191))
    """

    def __init__(
        self,
        n_templates: int = 1,
        template_length: float = 10,
        family: str | Family = "poisson",
        *,
        layout: str = "shared",
        penalty: str | Penalty = "l1",
        penalty_weight: float | None = None,
        baseline: Any = "learned",
        gradient: str | Trainer = "alternating",
        n_epochs: int | None = None,
        bin_size: float = 1.0,
        device: str = "auto",
        random_state: Any = None,
    ) -> None:
        self.n_templates = n_templates
        self.template_length = template_length
        self.family = family
        self.layout = layout
        self.penalty = penalty
        self.penalty_weight = penalty_weight
        self.baseline = baseline
        self.gradient = gradient
        self.n_epochs = n_epochs
        self.bin_size = bin_size
        self.device = device
        self.random_state = random_state

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        checkpoint: str | Path | None = None,
        resume: bool = False,
        on_epoch: Callable[[Learned], None] | None = None,
    ) -> DCEA:
        """Learn templates.

        Parameters
        ----------
        X : BinnedSpikes, array (trial, unit, bin) or array (trial, bin)
            Counts.
        y : ignored
        checkpoint : path, optional
            File that receives the state of training after every epoch (whole or not at all).
        resume : bool
            Go on from that file if it is there; the result is what an unbroken run gives.
        on_epoch : callable, optional
            Called with the state of training after every epoch.

        Raises
        ------
        ValueError
            If an argument or a count is out of range, the template is longer than the window, or
            a checkpoint is damaged or of another fit.
        FloatingPointError
            If the loss stops being finite.
        """
        counts = self._counts(X, reset=True)
        problem = self._problem(counts, self._weight(), self._n_bins(counts))
        learned = None
        if resume and checkpoint is not None and Path(checkpoint).exists():
            learned = self._resumed(checkpoint, problem)

        def after_epoch(state: Learned) -> None:
            if checkpoint is not None:
                self._save_checkpoint(checkpoint, state, problem)
            if on_epoch is not None:
                on_epoch(state)

        learned = self._trainer().fit(problem, learned, after_epoch)
        self._keep(counts, problem, learned)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Return the codes of counts.

        Returns
        -------
        ndarray, shape (trial, template, place)
            Amplitudes; place is the bin in which a template begins, so there are ``n_bins_ - 1``
            fewer than bins.  (trial, unit, template, place) for several units in the shared
            layout.
        """
        codes, _ = self._encode(self._fitted_problem(self._counts(X)))
        codes = codes.cpu().numpy()
        return codes[:, 0] if codes.shape[1] == 1 else codes

    def predict(self, X: Any) -> np.ndarray:
        """Return expected counts, in the shape and unit of the input."""
        problem = self._fitted_problem(self._counts(X))
        mean = self._mean(problem.data, *self._encode(problem))
        return mean[:, 0] if getattr(X, "ndim", np.ndim(X)) == 2 else mean

    def score(self, X: Any, y: Any = None) -> float:
        """Return the deviance explained of bins that the codes have not seen.

        A quarter of the bins, interleaved, is left out in turn; codes and baseline come from the
        others, and so does the null model, a constant rate per unit.  1 is perfect, 0 no better
        than that rate.
        """
        problem = self._fitted_problem(self._counts(X))
        data = problem.data
        mean, null = torch.zeros_like(data.y), torch.zeros_like(data.y)
        fold = torch.arange(data.y.shape[-1], device=data.y.device) % _FOLDS
        for number in range(_FOLDS):
            hidden = fold == number
            part = replace(data, mask=data.mask & ~hidden)
            eta = self._eta(part, *self._encode(replace(problem, data=part)))
            mean = torch.where(hidden, data.family.mean(eta), mean)
            null = torch.where(hidden, null_mean(part), null)
        return float(_explained(data, mean, null))

    def decompose(self, X: Any) -> Decomposition:
        """Return what the model says of counts: codes, rates, and each template's part."""
        counts = self._counts(X)
        problem = self._fitted_problem(counts)
        data, layout = problem.data, LAYOUTS[self.layout]
        codes, baseline = self._encode(problem)
        mean, null = data.family.mean(self._eta(data, codes, baseline)), null_mean(data)
        parts = [
            ConvDictionary(template[None])(codes[..., [c], :]).detach()
            for c, template in enumerate(self._dictionary().templates.detach())
        ]
        contributions = [layout.squeeze(part.cpu().numpy()) for part in parts]
        level = data.family.mean(baseline.expand_as(data.y))
        return Decomposition(
            counts=counts,
            templates=self.templates_,
            codes=codes.cpu().numpy(),
            rate=rates(counts, layout.squeeze(mean.cpu().numpy()), data.family),
            baseline=_level(rates(counts, layout.squeeze(level.cpu().numpy()), data.family)),
            contributions=np.stack(contributions, axis=2),
            family=data.family.name,
            layout=self.layout,
            deviance_explained=float(_explained(data, mean, null)),
            deviance_explained_per_unit=_explained(data, mean, null, 3 - layout.axis),
        )

    def save(self, path: str | Path) -> None:
        """Write the model as ``.safetensors`` (all of it) and ``.json`` (to read); see `load`.

        Parameters
        ----------
        path : path
            Their common stem, or a folder that exists (the files are then called ``model``).
        """
        check_is_fitted(self)
        names = ("bin_size_", "n_bins_", "n_features_in_", "penalty_weight_", "converged_")
        fitted = {name: getattr(self, name) for name in (*names, "n_iter_", "history_")}
        fitted |= {
            "baseline_": self.baseline_.tolist(),
            "unit_ids": list(self._unit_ids),
            "absolute_weight": self._absolute_weight,
        }
        content = {
            "spikecdl": spikecdl.__version__,
            "settings": settings.describe(self.get_params(deep=False)),
            "fitted": fitted,
        }
        stem = _stem(path)
        storage.save_tensors(stem.with_suffix(".safetensors"), self._tensors, content)
        storage.write_json(stem.with_suffix(".json"), content)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.input_tags.positive_only = self._family().integer_valued
        tags.target_tags.required = False
        tags.non_deterministic = False
        return tags

    @property
    def epochs_at_most(self) -> int:
        """Epochs after which training stops at the latest."""
        return self._trainer().default_epochs if self.n_epochs is None else self.n_epochs

    # ----- arguments made into objects

    def _family(self) -> Family:
        return _validation.member("family", self.family, FAMILIES, Family)

    def _trainer(self) -> Trainer:
        if isinstance(self.gradient, str):
            return TRAINERS[_validation.one_of("gradient", self.gradient, TRAINERS)]()
        if not isinstance(self.gradient, tuple(TRAINERS.values())):
            raise TypeError(
                f"`gradient` (={self.gradient!r}) must be a trainer or one of: "
                f"{', '.join(sorted(TRAINERS))}"
            )
        return self.gradient

    def _weight(self) -> Weight:
        if self.penalty_weight is None:
            return NullScore()
        fraction = _validation.positive("penalty_weight", self.penalty_weight)
        if fraction >= 1:
            raise ValueError(
                f"`penalty_weight` (={self.penalty_weight!r}) must be below 1: it is a fraction of "
                "lambda_max, above which all codes are zero"
            )
        return Fraction(fraction)

    def _device(self) -> torch.device:
        _validation.one_of("device", str(self.device).split(":")[0], ("auto", "cpu", "cuda"))
        has_gpu = torch.cuda.is_available()
        if self.device == "auto":
            return torch.device("cuda" if has_gpu else "cpu")
        if str(self.device).startswith("cuda") and not has_gpu:
            raise ValueError(f"`device` (={self.device!r}) is not there; use 'cpu' or 'auto'")
        return torch.device(self.device)

    def _generator(self) -> torch.Generator:
        seed = self.random_state
        if not isinstance(seed, int | np.integer):
            seed = int(check_random_state(seed).randint(2**31 - 1))
        return torch.Generator().manual_seed(int(seed))

    # ----- counts made into a problem

    def _counts(self, X: Any, reset: bool = False) -> BinnedSpikes:
        """Check the input; remember the bin size and units when fitting."""
        if not isinstance(X, BinnedSpikes):
            X = validate_data(self, X, reset=reset, allow_nd=True, dtype="numeric")
            if np.iscomplexobj(X):
                raise ValueError("Complex data not supported: counts are real numbers")
        counts = as_counts(X, self.bin_size)
        if reset:
            self.bin_size_, self._unit_ids = counts.bin_size, counts.unit_ids
            if isinstance(X, BinnedSpikes):
                self.n_features_in_ = counts.shape[1]
            return counts
        check_is_fitted(self)
        if not np.isclose(counts.bin_size, self.bin_size_, rtol=1e-9):
            raise ValueError(
                f"`bin_size` of the counts (={counts.bin_size:g}) must be that of the fit "
                f"({self.bin_size_:g}); bin the spikes again"
            )
        if self.layout == "joint" and counts.shape[1] != self.templates_.shape[1]:
            raise ValueError(
                f"the counts have {counts.shape[1]} units, the joint templates "
                f"{self.templates_.shape[1]}; select the units of the fit"
            )
        return counts

    def _n_bins(self, counts: BinnedSpikes) -> int:
        """Return the template length in bins, which must be whole and fit in the window."""
        length = _validation.positive("template_length", self.template_length)
        n_bins = round(length / counts.bin_size)
        if n_bins < 1 or abs(length / counts.bin_size - n_bins) > 1e-6:
            near = max(n_bins, 1) * counts.bin_size
            raise ValueError(
                f"`template_length` (={length:g}) must be a whole number of bins of "
                f"{counts.bin_size:g}; the nearest is {near:g}"
            )
        if n_bins > counts.shape[2]:
            raise ValueError(
                f"`template_length` (={length:g}, {n_bins} bins of {counts.bin_size:g}) is longer "
                f"than the window ({counts.shape[2]} bins); it is in the unit of `bin_size`"
            )
        return n_bins

    def _problem(self, counts: BinnedSpikes, weight: Weight, n_bins: int) -> Problem:
        layout = LAYOUTS[_validation.one_of("layout", self.layout, LAYOUTS)]
        penalty = _validation.member("penalty", self.penalty, PENALTIES, Penalty)
        return Problem(
            data=observe(counts, self._family(), layout, self.baseline, self._device()),
            n_templates=_validation.integer("n_templates", self.n_templates),
            length=n_bins,
            penalty=penalty,
            weight=weight,
            n_epochs=_validation.integer("n_epochs", self.epochs_at_most),
            generator=self._generator(),
        )

    def _fitted_problem(self, counts: BinnedSpikes) -> Problem:
        fixed = self._absolute_weight
        weight = NullScore() if fixed is None else Fixed(fixed)
        if counts.shape[2] < self.n_bins_:
            raise ValueError(
                f"the windows have {counts.shape[2]} bins, fewer than a template ({self.n_bins_})"
            )
        return self._problem(counts, weight, self.n_bins_)

    # ----- what was learned

    def _keep(self, counts: BinnedSpikes, problem: Problem, learned: Learned) -> None:
        """Take over what training found, with templates in order of their number of events."""
        self._tensors = {
            name: value
            for name, value in learned.tensors.items()
            if name in ("templates", "analysis", "synthesis", "bias", "level")
        }
        self.n_bins_ = problem.length
        self._absolute_weight = None
        codes, _ = self._encode(problem)
        order = (codes != 0).sum(dim=(0, 1, 3)).argsort(descending=True, stable=True)
        self._tensors = {
            name: value[order] if value.ndim else value for name, value in self._tensors.items()
        }
        _, baseline = self._encode(problem)
        data, layout = problem.data, LAYOUTS[self.layout]
        level = layout.squeeze(data.family.mean(baseline.expand_as(data.y)).cpu().numpy())
        self.baseline_ = _level(rates(counts, level, data.family))
        self._set_weight(problem, baseline)
        self.templates_ = self._tensors["templates"].cpu().numpy()
        self.history_, self.n_iter_ = learned.history, learned.epoch
        self.converged_ = learned.converged
        self._warn(codes)

    def _set_weight(self, problem: Problem, baseline: Tensor) -> None:
        """Record the penalty's weight as a fraction of lambda_max, and fix it if it was one."""
        dictionary, data = self._dictionary(), problem.data
        top = lambda_max(problem.penalty, dictionary, data, data.baseline)
        if isinstance(problem.weight, Fraction):
            self._absolute_weight = float(problem.weight.fraction * top)
        level = float(self._tensors.get("level", 1.0))
        used = problem.weight.at(level)(problem.penalty, dictionary, data, data.baseline).weight
        used = torch.as_tensor(used, dtype=top.dtype).median()
        self.penalty_weight_ = float(used / top) if top > 0 else 1.0

    def _warn(self, codes: Tensor) -> None:
        if not bool((codes != 0).any()):
            warnings.warn(
                "no events were found: all codes are zero, and the templates are those of the "
                "start; lower `penalty_weight`, or use larger bins or more data",
                NotConvergedWarning,
                stacklevel=3,
            )
        elif not self.converged_:
            warnings.warn(
                f"training had not settled after {self.n_iter_} epochs; raise `n_epochs`",
                NotConvergedWarning,
                stacklevel=3,
            )

    def _dictionary(self) -> ConvDictionary:
        return ConvDictionary(self._tensors["templates"].to(self._device(), torch.float32))

    def _encode(self, problem: Problem) -> tuple[Tensor, Tensor]:
        device = problem.data.y.device
        tensors = {name: value.to(device) for name, value in self._tensors.items()}
        codes, baseline = self._trainer().encode(problem, tensors)
        return codes.to(torch.float32), baseline.to(torch.float32)

    def _eta(self, data: Observations, codes: Tensor, baseline: Tensor) -> Tensor:
        return self._dictionary()(codes).detach() + baseline

    def _mean(self, data: Observations, codes: Tensor, baseline: Tensor) -> np.ndarray:
        mean = data.family.mean(self._eta(data, codes, baseline))
        return LAYOUTS[self.layout].squeeze(mean.cpu().numpy())

    # ----- checkpoints

    def _fingerprint(self, problem: Problem) -> str:
        """Tell one fit from another: the digest of its settings and data."""
        digest = hashlib.sha256(json.dumps(settings.describe(self.get_params(deep=False))).encode())
        for tensor in (problem.data.y, problem.data.mask):
            digest.update(tensor.cpu().numpy().tobytes())
        return digest.hexdigest()

    def _save_checkpoint(self, path: str | Path, state: Learned, problem: Problem) -> None:
        about = {
            "epoch": state.epoch,
            "history": state.history,
            "converged": state.converged,
            "fingerprint": self._fingerprint(problem),
        }
        storage.save_tensors(path, state.tensors, about)

    def _resumed(self, path: str | Path, problem: Problem) -> Learned:
        tensors, about = storage.load_tensors(path)
        if about.get("fingerprint") != self._fingerprint(problem):
            raise ValueError(
                f"`checkpoint` ({path}) is of another fit (settings, seed or data differ); "
                "remove it, or resume with what it was made from"
            )
        return Learned(tensors, about["epoch"], about["history"], about["converged"])


def load(path: str | Path) -> DCEA:
    """Read a model that `DCEA.save` wrote; it transforms to the same bits.

    Parameters
    ----------
    path : path
        The folder, the common stem, or either of the two files.

    Raises
    ------
    FileNotFoundError
        If there is no such model.
    ValueError
        If the file is damaged, or not of a model.
    """
    file = _stem(path).with_suffix(".safetensors")
    if not file.exists():
        raise FileNotFoundError(f"there is no model at `{path}` (looked for {file})")
    tensors, content = storage.load_tensors(file)
    if "fitted" not in content:
        raise ValueError(f"`{file}` is not a model but a checkpoint; fit with `resume`")
    fitted = dict(content["fitted"])
    model = DCEA(**settings.restore(content["settings"]))
    model._tensors = tensors
    model._absolute_weight = fitted.pop("absolute_weight")
    model._unit_ids = tuple(fitted.pop("unit_ids"))
    model.templates_ = tensors["templates"].numpy()
    model.baseline_ = np.array(fitted.pop("baseline_"))
    for name, value in fitted.items():
        setattr(model, name, value)
    return model


def _stem(path: str | Path) -> Path:
    """Return the common stem of a model's two files."""
    path = Path(path)
    if path.is_dir():
        return path / "model"
    return path.with_suffix("") if path.suffix in (".json", ".safetensors") else path


def _explained(data: Observations, mean: Tensor, null: Tensor, unit_axis: int | None = None) -> Any:
    """Deviance explained of the observed bins, for all or per unit."""
    axes = None if unit_axis is None else tuple(i for i in range(4) if i != unit_axis)
    arrays = [tensor.cpu().double().numpy() for tensor in (data.y, mean, null)]
    family = data.family.map(lambda tensor: tensor.cpu().double())
    return deviance_explained(*arrays, family, data.mask.cpu().numpy(), axis=axes)


def _level(rate: np.ndarray) -> np.ndarray:
    """Reduce a rate that is constant over bins, nan where not observed, to (trial, unit)."""
    seen = ~np.isnan(rate)
    return np.where(seen, rate, 0).sum(-1) / np.maximum(seen.sum(-1), 1)
