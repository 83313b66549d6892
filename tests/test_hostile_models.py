"""Model files with a right hash and wrong content: refused when they are loaded, at once."""

from __future__ import annotations

import json
import re
import time

import numpy as np
import pytest
import torch
from fits import quick, some_counts
from tables import refused

import spikecdl
from spikecdl import DCEA, History
from spikecdl.checkpoint import load_tensors, save_tensors

pytestmark = pytest.mark.filterwarnings("ignore::spikecdl.NotConvergedWarning")

SETTINGS = {
    "n_templates": [1_000_000, 0, -1, "x", 1.5, True, None, [1], float("nan")],
    "template_length": [-12.0, 0.0, 1e300, 13.0, float("nan"), float("inf"), "12", {}],
    "family": ["unknown", {"name": "unknown"}, {}, {"name": "poisson", "x": 1}, 3],
    "layout": ["diagonal", "joint", None, ["shared"]],
    "penalty": ["unknown", {"name": "l1", "sign": "up"}, {"name": "l1", "weight": -1.0}, None],
    "penalty_weight": [-0.2, 0.0, 1.0, 1e300, "heavy"],
    "history": [1e12, {"seconds": -1.0}, {"seconds": 5.0, "n_basis": 10**9}, -5.0, "long"],
    "drift": [-1.0, 1e-12, 0.0, "slow"],
    "trainer": [
        "unknown",
        {"name": "alternating", "max_iter": -1},
        {"name": "alternating", "x": 1},
    ],
    "n_epochs": [-1, 0, 1e9, "many"],
    "bin_size": [0.0, -1.0, "wide"],
    "device": ["tpu", 3, None],
    "random_state": [-1, "seed"],
    "eval": ["__import__('os')"],
    "transform": [None],
}
FITTED = {
    "n_bins_": [1_000_000_000, -12, 0, "12", None, 11],
    "bin_size_": [-1.0, 0.0, 1e-300, 2.0, "1", None, float("nan")],
    "unit_ids_": [[0], [0, 1, 2], [], 7, [0, 0], [[], []]],
    "baseline_": [[[1.0]], [[1.0, "x"]], 3.0, [[1.0, 2.0], [1.0]], [[float("nan"), 1.0]]],
    "unit_rate_": [[[1.0]], "x", [["x"], [1.0]]],
    "family_": [{"name": "unknown"}, 3, None],
    "penalty_weight_": ["x", float("nan")],
    "_absolute_weight": ["x", float("inf")],
    "windows_": ["x", 3, None, {"align": 3}, {"window": [0.0, float("nan")]}, {"eval": "x"}],
    "_n_onsets": [0, -3, "x", None, 1.5, 10**18],
    "_time_span": ["x", [0.0], [0.0, float("inf"), True]],
    "fit": [None],
    "transform": ["x"],
    "__class__": ["x"],
    "templates_": [[[[1.0]]]],
}
TENSORS = {
    "templates": [
        torch.ones(1_000, 1, 12),
        torch.ones(1, 1, 0),
        torch.full((1, 1, 12), float("nan")),
        torch.ones(1, 2, 12),
        torch.ones(12),
        None,
    ],
    "level": [torch.full((), float("inf")), torch.ones(7)],
    "event_rates": [torch.ones(9, 3), torch.full((1, 5), float("nan"))],
    "unit.covariates": [torch.ones(1, 3), torch.ones(2, 3)],
}
CASES = [
    *(("settings", name, values) for name, values in SETTINGS.items()),
    *(("fitted", name, values) for name, values in FITTED.items()),
]
EVENTS = (
    *("event_rates", "event_amplitudes", "template_variance", "smoothness", "shrinkage", "cost"),
    *("overlap", "distance"),
)
NEEDED = {
    "settings": ("n_templates", "family", "trainer", "baseline"),
    "fitted": ("n_bins_", "unit_ids_", "family_", "baseline_"),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return the tensors and the content of a model."""
    folder = tmp_path_factory.mktemp("model")
    quick().fit(some_counts()).save(folder)
    return load_tensors(folder / "model.safetensors")


def refuses(path, tensors, content, what) -> None:
    """Check that a model is refused by name, in one sentence, and at once."""
    save_tensors_of_anybody(path, tensors, content)
    began = time.perf_counter()
    with refused(ValueError, re.escape(str(path)), what):
        spikecdl.load(path)
    assert time.perf_counter() - began < 1, what


def save_tensors_of_anybody(path, tensors, content) -> None:
    """Save what the package would not: JSON with NaN."""
    plain = json.dumps
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            json, "dumps", lambda value, **more: plain(value, **more | {"allow_nan": True})
        )
        save_tensors(path, tensors, content)


@pytest.mark.parametrize(("part", "name", "values"), CASES, ids=lambda value: str(value)[:20])
def test_content_is_refused(part, name, values, saved, tmp_path):
    tensors, content = saved
    for value in values:
        changed = {**content, part: {**content[part], name: value}}
        refuses(tmp_path / "hostile.safetensors", tensors, changed, value)


@pytest.mark.parametrize("part", NEEDED)
def test_content_that_lacks_a_part_is_refused(part, saved, tmp_path):
    tensors, content = saved
    for name in NEEDED[part]:
        rest = {key: value for key, value in content[part].items() if key != name}
        refuses(tmp_path / "hostile.safetensors", tensors, {**content, part: rest}, name)


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_are_refused(name, saved, tmp_path):
    tensors, content = saved
    for value in TENSORS[name]:
        changed = {key: each for key, each in tensors.items() if key != name}
        if value is not None:
            changed[name] = value
        refuses(tmp_path / "hostile.safetensors", changed, content, value)


def test_content_of_another_kind_is_refused(saved, tmp_path):
    for content in ([], "fitted", 3, None, {"fitted": {}}, {"fitted": 1, "settings": 2}):
        refuses(tmp_path / "hostile.safetensors", saved[0], content, content)


def test_nested_without_end_is_refused(saved, tmp_path, monkeypatch):
    text, dumps = "[" * 100_000 + "]" * 100_000, json.dumps
    with monkeypatch.context() as patch:  # of the metadata alone, not of the header
        dumped = lambda value, **more: dumps(value, **more) if value else text  # noqa: E731
        patch.setattr("spikecdl.checkpoint.json.dumps", dumped)
        save_tensors(tmp_path / "hostile.safetensors", saved[0], {})
    with pytest.raises(ValueError, match="hostile.safetensors"):
        spikecdl.load(tmp_path / "hostile.safetensors")


@pytest.mark.parametrize("more", [{"drift": 40.0}, {"history": 5.0}, {"history": History(5.0, 3)}])
def test_the_true_one_with_covariates_is_not(more, tmp_path):
    counts = some_counts()
    quick(**more).fit(counts).save(tmp_path)
    model = spikecdl.load(tmp_path)
    assert isinstance(model, DCEA)
    assert np.isfinite(model.transform(counts)).all()
    tensors, content = load_tensors(tmp_path / "model.safetensors")
    for name, value in {"history": 6e8, "drift": 1e-9}.items():
        settings = {**content["settings"], name: value}
        refuses(tmp_path / "hostile.safetensors", tensors, {**content, "settings": settings}, name)


def test_a_model_of_events_that_lacks_a_part(tmp_path):
    DCEA(1, 12, "poisson", n_epochs=2).fit(some_counts()).save(tmp_path)
    tensors, content = load_tensors(tmp_path / "model.safetensors")
    for name in EVENTS:
        rest = {key: value for key, value in tensors.items() if key != name}
        refuses(tmp_path / "hostile.safetensors", rest, content, f"lacks {name}")
    for name in ("overlap", "distance"):
        changed = {**tensors, name: torch.tensor(10**6)}
        refuses(tmp_path / "hostile.safetensors", changed, content, f"{name}.*must be from 0 to")
