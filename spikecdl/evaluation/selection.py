"""How many templates, and how long: held-out evidence of every candidate."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spikecdl import config, validation
from spikecdl.data import BinnedSpikes
from spikecdl.evaluation import checks
from spikecdl.evaluation.crossvalidation import Fold, divide, independent, ratio, size
from spikecdl.evaluation.heldout import TemplateModel
from spikecdl.evaluation.null_model import NullModel
from spikecdl.files import write_json

if TYPE_CHECKING:
    import pandas as pd

_Rows = list[list[float]]  # evidence (trial, unit)


@dataclass(frozen=True)
class Candidate:
    """Settings to compare.

    Parameters
    ----------
    n_templates : int
    template_length : float or None
        None without templates.
    covariates : bool
        Whether the rate depends on history, drift and bursts; False if the model has none.
    """

    n_templates: int
    template_length: float | None
    covariates: bool = False

    def __str__(self) -> str:
        if self.template_length is None:
            return "no template" + ", with history, drift or bursts" * self.covariates
        templates = validation.counted(self.n_templates, "template")
        return f"{templates} of {self.template_length:g}"

    def fit(self, other: TemplateModel, counts: BinnedSpikes) -> Any:
        """Return a model with these settings, and else those of another, fitted to counts.

        Without templates, what is "auto" is what a fit of one template chooses.
        """
        from sklearn.base import clone

        if self.template_length is None:
            values = other.get_params(deep=False).values()
            if self.covariates and any(isinstance(v, str) and v == "auto" for v in values):
                other = clone(other).set_params(n_templates=1).fit(counts)
            return NullModel.like(other, self.covariates).fit(counts)
        own = {"n_templates": self.n_templates, "template_length": self.template_length}
        return clone(other).set_params(**own).fit(counts)


# in nats, and of the gain over a constant rate, up to which the simpler candidate is as good
_LEAST_NATS, _LEAST_GAIN = 10.0, 0.03
_Key = tuple[Candidate, int]  # and the number of a fold


@dataclass(frozen=True, eq=False)
class Selection:
    """Held-out evidence of candidates; made by `select`.

    Attributes
    ----------
    candidates : tuple of Candidate
        By number of templates, then by length.
    evidence : ndarray, shape (candidate, row)
        Log marginal likelihood of each trial that was held out, in nats (of each unit of it, if
        there are fewer than ten trials).
    n_spikes : ndarray, shape (row,)
        Spikes of these (observed bins of a signal).
    how : str
        What was held out; see `CrossValidated`.
    """

    candidates: tuple[Candidate, ...]
    evidence: np.ndarray
    n_spikes: np.ndarray
    how: str

    def __repr__(self) -> str:
        number = validation.counted(len(self.candidates), "candidate")
        return f"Selection({number}, recommended: {self.recommended})"

    @property
    def recommended(self) -> Candidate:
        """The simplest candidate within ten nats of the best, or 3 % of what it gains.

        Simple is fewer templates first, then shorter ones.  Ten nats are as much as an ingredient
        of a fit must gain; 150 times less speaks very strongly for a model (Kass and Raftery, J.
        Am. Stat. Assoc. 90, 1995).  The gain is that over no template: what templates cannot
        explain, such as many events at a time, grows with it, and further templates take some.
        """
        return self.candidates[int(np.argmax(self.table()["recommended"]))]

    def table(self) -> pd.DataFrame:
        """Return a row per candidate, with evidence in bits per spike (per bin of a signal).

        Columns: ``n_templates``, ``template_length``, ``covariates``; ``evidence`` and its
        ``standard_error`` over trials; ``difference`` to the best candidate and
        ``difference_error``, paired over trials; ``recommended``.
        """
        import pandas as pd

        best = self.evidence[self.evidence.sum(1).argmax()]
        rows, bits = [], self.n_spikes * np.log(2)
        for candidate, found in zip(self.candidates, self.evidence, strict=True):
            value, error = ratio(found, bits)
            difference, its_error = ratio(found - best, bits)
            rows.append((*vars(candidate).values(), value, error, difference, its_error))
        columns = [*vars(candidate), "evidence", "standard_error", "difference", "difference_error"]
        table = pd.DataFrame(rows, columns=columns)
        none = [c.template_length is None for c in self.candidates]
        gain = -table["difference"][none].max() if any(none) else 0.0
        enough = max(_LEAST_NATS / bits.sum(), _LEAST_GAIN * gain)
        close = table["difference"] >= -enough
        return table.assign(recommended=np.arange(len(table)) == int(np.argmax(close)))


def select(
    model: TemplateModel,
    counts: BinnedSpikes,
    n_templates: Sequence[int] = (0, 1, 2, 3),
    template_length: Sequence[float] | None = None,
    *,
    n_folds: int = 3,
    single_trials: BinnedSpikes | None = None,
    n_jobs: int = 1,
    folder: str | Path | None = None,
    on_fit: Callable[[str, int, int], None] | None = None,
    random_state: int = 0,
) -> Selection:
    """Compare numbers and lengths of templates by their evidence in trials that were held out.

    Each candidate is fitted without a part of the data, and the log marginal likelihood of this
    part (``model.evidence``, events summed out) is its score; see `spikecdl.crossvalidation` for
    the parts.  No templates stand for a constant rate of each unit (`NullModel`), without history,
    drift and bursts and with those of the model.

    Parameters
    ----------
    model : DCEA
        All other settings.
    counts : BinnedSpikes
        Counts.
    n_templates : sequence of int
        Numbers of templates; 0 for none.
    template_length : sequence of float, optional
        Lengths, in the unit of ``bin_size``; default: that of the model.
    n_folds : int
        Parts that are held out in turn.
    single_trials : BinnedSpikes, optional
        The counts before they were pooled: then whole trials are held out.
    n_jobs : int
        Processes at work.
    folder : path, optional
        Where finished fits are kept.  The same call finds them there and goes on.
    on_fit : callable, optional
        Called with a text, the number of finished fits and that of all.
    random_state : int
        Seed of the parts.

    Raises
    ------
    TypeError
        If the model has no ``evidence``.
    ValueError
        If a number or a length cannot be fitted, or the data cannot be divided.

    Examples
    --------
    >>> from spikecdl import DCEA
    >>> y = np.random.default_rng(0).poisson(0.2, size=(30, 100))
    >>> select(DCEA(1, 10), BinnedSpikes.from_array(y), [0])
    Selection(2 candidates, recommended: no template)
    """
    if not hasattr(model, "evidence"):
        raise TypeError(f"`model` ({type(model).__name__}) must have `evidence`, as DCEA has")
    may_choose = model.layout == "shared" and counts.is_counts and counts.n_pooled.max() <= 1
    candidates = _candidates(model, n_templates, template_length, may_choose)
    if candidates[-1].covariates and template_length is not None:  # for what has no templates
        model = copy(model)
        model.template_length = min(template_length)
    folds = divide(counts, model.family, n_folds, single_trials, random_state)
    for candidate in candidates:
        if candidate.template_length is not None:
            config.template_bins(candidate.template_length, counts.bin_size, counts.n_bins)
    keys = [(candidate, number) for candidate in candidates for number in range(n_folds)]
    settings = config.describe(model.get_params(deep=False))
    store = _Store(folder, [settings, (n_folds, folds.how, random_state)], counts)
    score = partial(_score, model, folds.folds)
    found: dict[_Key, _Rows] = {}
    for key, rows in store.each(keys, score, validation.integer("n_jobs", n_jobs)):
        found[key] = rows
        if on_fit is not None:
            on_fit(f"{key[0]}, fold {key[1] + 1} of {n_folds}", len(found), len(keys))
    evidence = [
        independent([np.array(found[candidate, number]) for number in range(n_folds)])
        for candidate in candidates
    ]
    sizes = independent([size(fold.unseen, model.layout) for fold in folds.folds])
    return Selection(tuple(candidates), np.array(evidence), sizes, folds.how)


def _candidates(
    model: TemplateModel,
    n_templates: Sequence[int],
    template_length: Sequence[float] | None,
    may_choose: bool,
) -> list[Candidate]:
    """Return the candidates, the simplest first."""
    numbers = sorted({validation.integer("n_templates", n, minimum=0) for n in n_templates})
    lengths = [model.template_length] if template_length is None else template_length
    lengths = sorted({validation.positive("template_length", length) for length in lengths})
    if not numbers or not lengths:
        raise ValueError("`n_templates` and `template_length` must not be empty")
    given = [getattr(model, name, None) for name in config.INGREDIENTS]
    covariates = any(value is not None for value in given if value != "auto" or may_choose)
    none = [Candidate(0, None, each) for each in sorted({False, covariates})]
    some = [Candidate(n, length, covariates) for n in numbers if n for length in lengths]
    return none * (numbers[0] == 0) + some


def _score(model: TemplateModel, folds: Sequence[Fold], key: _Key) -> _Rows:
    """Return the evidence (trial, unit) of a fold, for which the candidate is fitted."""
    candidate, fold = key
    with checks.left_out():
        fitted = candidate.fit(model, folds[fold].seen)
    return fitted.evidence(folds[fold].unseen, per_unit=True).tolist()


class _Store:
    """Finished fits, in files that are named by all that decides their content."""

    def __init__(self, folder: str | Path | None, about: list[Any], counts: BinnedSpikes) -> None:
        self.folder = None if folder is None else Path(folder)
        text = json.dumps([*about, counts.header()], sort_keys=True, default=str)
        self.digest = hashlib.sha256(text.encode())
        limits = () if counts.onsets is None else (counts.onsets,)
        for array in (counts.counts, counts.n_pooled, *limits):
            self.digest.update(np.ascontiguousarray(array).tobytes())

    def each(
        self, keys: Sequence[_Key], score: Callable[[_Key], _Rows], n_jobs: int
    ) -> Iterator[tuple[_Key, _Rows]]:
        """Yield the evidence of each key: those in the folder first, then others as they come."""
        kept = {key: file for key in keys if (file := self._file(key)) and file.exists()}
        for key, file in kept.items():
            yield key, json.loads(file.read_text())
        left = [key for key in keys if key not in kept]
        for key, rows in _scores(score, left, min(n_jobs, len(left))):
            if file := self._file(key):
                file.parent.mkdir(parents=True, exist_ok=True)
                write_json(file, rows)
            yield key, rows

    def _file(self, key: _Key) -> Path | None:
        digest = self.digest.copy()
        digest.update(repr(key).encode())
        return None if self.folder is None else self.folder / f"{digest.hexdigest()[:20]}.json"


def _scores(
    score: Callable[[_Key], _Rows], keys: Sequence[_Key], n_jobs: int
) -> Iterator[tuple[_Key, _Rows]]:
    """Score the keys in this process, or in several of one thread each."""
    from sklearn.utils.parallel import Parallel, delayed

    if n_jobs <= 1:
        yield from ((key, score(key)) for key in keys)
    else:
        how = {"return_as": "generator_unordered", "inner_max_num_threads": 1}
        pool = Parallel(n_jobs, "loky", **how)
        yield from pool(delayed(_keyed)(score, key) for key in keys)


def _keyed(score: Callable[[_Key], _Rows], key: _Key) -> tuple[_Key, _Rows]:
    """Return a key and its score, from a process."""
    return key, score(key)
