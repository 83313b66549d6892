"""What was fitted, how well, and what to do: as values for JSON (docs/files.md), and as lines."""

from __future__ import annotations

import math
import platform
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spikecdl import validation
from spikecdl.files import sha256
from spikecdl.suggestions import best_trainer
from spikecdl.validation import counted

if TYPE_CHECKING:
    from jinja2 import Template

    from spikecdl.data import BinnedSpikes, Decomposition
    from spikecdl.estimator import DCEA
    from spikecdl.evaluation.bands import Bands
    from spikecdl.evaluation.crossvalidation import CrossValidated
    from spikecdl.model.families import Family

_LIBRARIES = ("torch", "numpy", "scipy", "scikit-learn", "pandas", "h5py", "pynwb", "neo")


def fit_summary(
    model: DCEA,
    decomposition: Decomposition,
    source: Path | Sequence[Path],
    held_out: CrossValidated | str | None = None,
    bands: Bands | None = None,
) -> dict[str, Any]:
    """Summarize a fit: settings, data, versions, scores, and recovery of a simulation's truth.

    Parameters
    ----------
    model : DCEA
        A fitted model.
    decomposition : Decomposition
        Made by ``model.decompose(counts)`` from the counts that were fitted.
    source : Path or sequence of Path
        File or folder that the data come from, or several; a file is identified by its SHA-256.
    held_out : CrossValidated or str, optional
        Made by `spikecdl.crossvalidation.cross_validate`; or why nothing was held out.
    bands : Bands, optional
        Made by `spikecdl.bands`.

    Examples
    --------
    >>> from spikecdl import DCEA
    >>> counts = np.random.default_rng(0).poisson(np.repeat([0.2, 2, 0.2], [20, 5, 75]), (10, 100))
    >>> model = DCEA(n_templates=1, template_length=10, random_state=0).fit(counts)
    >>> summary = fit_summary(model, model.decompose(counts), Path("counts.npy"))
    >>> summary["family"], summary["seed"], summary["data"]["n_trials"]
    ('poisson', 0, 10)
    """
    from spikecdl.config import describe
    from spikecdl.evaluation.metrics import mismatch

    settings = describe(model.get_params(deep=False))
    seed = settings.pop("random_state")
    auto, why = best_trainer(model, decomposition.counts)
    name = getattr(model.trainer_, "name", model.trainer_)
    summary = {
        "settings": {**settings, "bin_size": decomposition.counts.bin_size},
        "seed": seed,
        **score_summary(model, decomposition, source),
        "held_out": _held_out(held_out, decomposition),
        "templates_at_edge": at_edge(decomposition.templates),
        "ingredients": _ingredients(model),
        "checks": model.checks_,
        "penalty_weight_fraction": model.penalty_weight_,
        "trainer": {"name": name, "reason": why if name == auto else "it was chosen"},
        "converged": model.converged_,
        "n_epochs": model.n_iter_,
    }
    starts = _starts(model, decomposition)
    if starts is not None:
        summary["starts"] = starts
    if bands is not None:
        about = {"n_bootstrap": bands.n_bootstrap, "level": bands.level}
        summary["bands"] = {**about, "template_errors": bands.errors}
    if not mismatch(decomposition):
        summary["recovery"] = recovery_summary(decomposition)
    if model.has_unit_table:
        table = model.unit_table()
        summary["unit_table"] = table.astype(object).where(table.notna(), None).to_dict("records")
    return _plain(summary)


def score_summary(
    model: DCEA, decomposition: Decomposition, source: Path | Sequence[Path]
) -> dict[str, Any]:
    """Summarize data, versions and scores of any counts; parameters as for `fit_summary`."""
    from spikecdl.evaluation.goodness_of_fit import of_decomposition

    counts = decomposition.counts
    units = list(map(str, counts.unit_ids))
    explained = decomposition.deviance_explained_per_unit
    summary = {
        "data": data_summary(decomposition.counts, decomposition.family, source),
        "versions": versions(),
        "family": decomposition.family.name,
        "layout": decomposition.layout,
        "deviance_explained": decomposition.deviance_explained,
        "deviance_explained_per_unit": dict(zip(units, explained, strict=True)),
        "hidden_bins_deviance_explained": model.score(counts),
        "events_per_template": np.count_nonzero(decomposition.codes, axis=(0, 1, 3)),
        "event_probabilities": _event_probabilities(decomposition),
    }
    if decomposition.history_filter is not None:
        filters = decomposition.history_filter
        summary["history_filter"] = {
            "lags": (counts.bin_size * np.arange(1, 1 + filters.shape[1])).round(12),
            "log_rate_per_unit": dict(zip(units, filters, strict=True)),
        }
    rescaling = of_decomposition(decomposition, model.family_)
    if rescaling is not None:
        rows = rescaling.table().to_dict("records")
        for row in rows:
            row["inside"] = row["inside"] if row["n_intervals"] else None
        summary["time_rescaling_per_unit"] = dict(zip(units, rows, strict=True))
    return _plain(summary)


def _starts(model: DCEA, decomposition: Decomposition) -> dict[str, Any] | None:
    """Return how many starts of the search agree, and what the best of the others found."""
    from spikecdl.evaluation.template_metrics import template_error

    tensors = model.tensors_
    if "n_starts" not in tensors:
        return None
    starts = {name: int(tensors[name]) for name in ("n_starts", "n_agree")}
    if "other_start" not in tensors:
        return {**starts, "template_errors": [], "gap_nats": None}
    found = template_error(tensors["other_start"].numpy(), decomposition.templates)
    gap = float(tensors["start_gap"])
    return {**starts, "template_errors": found.errors, "gap_nats": gap}


def _ingredients(model: DCEA) -> dict[str, Any]:
    """Return what was compared beside events, with how many spikes of a burst follow a spike, and
    when in the window events of each template are most frequent.
    """
    found: dict[str, Any] = {name: dict(one) for name, one in model.ingredients_.items()}
    used = {name for name, one in found.items() if one["value"]}
    if "bursts" in used:
        n_lags = round(found["bursts"]["value"] / model.bin_size_)
        effect = model.unit_tensors_["covariates"][:, -n_lags:].sum(1)
        found["bursts"]["spikes_per_spike"] = float(effect.mean())
    if "signals" in used:
        found["signals"]["names"] = list(model.signal_effects_)
    if "timing" in used:
        rates = model.event_timing_
        times, highest = model.bin_size_ * rates.argmax(1), rates.max(1)
        pairs = zip(times.round(12), highest, strict=True)
        found["timing"]["peaks"] = [{"time": time, "ratio": ratio} for time, ratio in pairs]
    return found


def _event_probabilities(decomposition: Decomposition, fdr: float = 0.1) -> dict[str, Any] | None:
    """Summarize how sure the events of each template are; None if they have no probabilities."""
    from spikecdl.evaluation.metrics import event_table

    table = event_table(decomposition, fdr)
    if table is None:
        return None
    columns = table.drop(columns="n_events").round(6).items()
    return {"fdr": fdr, **{f"{name}_per_template": each.to_numpy() for name, each in columns}}


def at_edge(templates: np.ndarray) -> list[int]:
    """Return the templates that are largest in the first or last 4 % of their window, which may
    cut off their response.
    """
    length = templates.shape[2]
    width = min(max(1, length // 25), length // 3)  # none of one or two bins
    at = np.abs(templates).max(axis=1).argmax(axis=1)
    return np.flatnonzero((at < width) | (at >= length - width)).tolist()


def recovery_summary(parts: Decomposition, tolerance: float | None = None) -> dict[str, Any]:
    """Summarize errors of templates and events; raises ValueError without a comparable truth."""
    from spikecdl.evaluation.metrics import recovery

    found = recovery(parts, tolerance)
    return _plain(
        {
            "template_errors": found.templates.errors,
            "assignment": found.templates.assignment,
            "tolerance": found.tolerance,
            "n_true_events": found.events.hits + found.events.misses,
            "hit_rate": found.events.hit_rate,
            "false_alarm_rate": found.events.false_alarm_rate,
        }
    )


def versions() -> dict[str, str]:
    """Return the versions of spikecdl, Python and the libraries that results depend on."""
    import spikecdl

    installed = {}
    for name in _LIBRARIES:
        with suppress(metadata.PackageNotFoundError):  # Neo is optional
            installed[name] = metadata.version(name)
    return {"spikecdl": spikecdl.__version__, "python": platform.python_version(), **installed}


def _held_out(found: CrossValidated | str | None, parts: Decomposition) -> dict[str, Any]:
    """Summarize scores of data that were held out, if any were."""
    if found is None or isinstance(found, str):
        return {"n_folds": 0, "why": found}
    two_sided = bool((parts.codes < 0).any())
    gain, error = found.evidence_gain
    return {
        "n_folds": len(found.folds),
        "how": found.how,
        "deviance_explained": found.deviance_explained,
        "standard_error": found.standard_error,
        "bits_per_spike": found.bits_per_spike,
        "evidence_gain": gain,
        "evidence_gain_error": error,
        "deviance_explained_per_fold": found.deviance_explained_per_fold,
        "template_errors": found.template_errors(parts.templates, two_sided),
    }


def data_summary(
    counts: BinnedSpikes, family: str | Family, source: Path | Sequence[Path]
) -> dict[str, Any]:
    """Describe the counts, with the SHA-256 of their file, unless it is a folder or several."""
    from spikecdl.model.families import FAMILIES, Family

    files = (source,) if isinstance(source, Path) else tuple(source)
    summary = {
        "source": ", ".join(map(str, files)),
        "sha256": sha256(files[0]) if len(files) == 1 and files[0].is_file() else None,
        "fingerprint": counts.fingerprint,
        **dict(zip(("n_trials", "n_units", "n_bins"), counts.shape, strict=True)),
        "bin_size": counts.bin_size,
        "n_pooled": int(counts.n_pooled.max()),
    }
    if counts.is_counts:
        summary |= {"n_spikes": int(counts.counts.sum()), "sub_bins": counts.sub_bins}
    if validation.member("family", family, FAMILIES, Family).has_n_trials:
        summary["bernoulli_trials_per_bin"] = int(counts.n_trials.max())
    return summary


def _plain(value: Any) -> Any:
    """Return values as JSON can hold them: nothing of NumPy, and None for nan and infinity."""
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(part) for part in value]
    value = validation.plain(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def number(value: float | None, digits: int | None = None, missing: str = "–") -> str:
    """Return three significant figures, or that many decimals; ``missing`` if it is not finite."""
    if value is None or not math.isfinite(value):
        return missing
    if digits is not None:
        return f"{round(value, digits) + 0.0:.{digits}f}"  # never minus zero
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def verdict(summary: Mapping[str, Any]) -> list[str]:
    """Judge a fit by its summary: how well it predicts data that were held out, then a sentence for
    each reason for doubt.

    Where nothing was held out, a simulation is compared with its truth.

    It predicts them if it is better than a constant rate by two standard errors, in the evidence
    or, without it, in the deviance explained.  Doubts are: scores of the fitted data above three
    times the held-out ones; templates that differ between folds (mean error above 0.5), or between
    starts that are within 10 nats; checks that failed (``DCEA.checks_``); templates that are
    largest at an edge of their window; fewer than 10 events of a template.

    Parameters
    ----------
    summary : mapping
        As made by `fit_summary`.

    Examples
    --------
    >>> found = {"deviance_explained": 0.1, "standard_error": 0.01, "n_folds": 3, "how": "trials"}
    >>> found["template_errors"] = [[0.1], [0.2], [0.1]]
    >>> known = {"deviance_explained": 0.2, "events_per_template": [50]}
    >>> verdict({**known, "held_out": found})
    ['Data that were held out are predicted better than by a constant rate, by 10 standard errors,
      and the templates of 3 folds agree.']
    """
    return lines("verdict", summary)


def lines(macro: str, values: Mapping[str, Any]) -> list[str]:
    """Return the lines of text that a macro of ``summary.txt.j2`` makes of a summary.

    Macros are "fit", "score", "recovery", "verdict", "selection" and "inspect".
    """
    text = getattr(template("summary.txt.j2").module, macro)(values)
    return [line for line in text.split("\n") if line]


def template(name: str) -> Template:
    """Return a template of this folder, with filters that format numbers."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup, escape

    environment = Environment(
        loader=PackageLoader("spikecdl.report", ""),
        autoescape=name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["most_units"] = 8  # of more units, values are not listed one by one
    environment.filters |= {
        "code": lambda text: Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text)))),
        "counted": counted,
        "decimals": lambda value, digits=3: number(value, digits, missing="-"),
        "different": lambda errors: [k for k, error in enumerate(errors) if error > 0.5],
        "few": lambda numbers: [k for k, n_events in enumerate(numbers) if n_events < 10],
        "file_names": file_names,
        "printable": validation.printable,
        "means": lambda folds: [sum(each) / len(each) for each in zip(*folds, strict=True)],
        "median_factors": lambda units: np.exp(np.median(list(units.values()), axis=0)),
        "ms": lambda seconds: f"{1e3 * seconds:g} ms",
        "number": number,
        "percent": lambda rate: "-" if rate is None else f"{rate:.0%}",
    }
    return environment.get_template(name)


def file_names(sources: str) -> str:
    """Return the names of files, without their folders."""
    return ", ".join(Path(file).name for file in sources.split(", "))
