"""Codes as tables: `set_output`, names of columns, and pipelines of scikit-learn."""

from __future__ import annotations

from copy import copy

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from tables import refused

from spikecdl import DCEA, BinnedSpikes, SpikeTrains, load

LABELS = np.arange(24) % 2
VALUES = np.random.default_rng(0).poisson(0.2, (24, 2, 100))
VALUES[LABELS == 1, :, 20:25] += 4


@pytest.fixture(scope="module", params=["shared", "joint"])
def fitted(request):
    counts = BinnedSpikes.from_array(VALUES, 0.01, unit_ids=("a", 7))
    model = DCEA(2, 0.1, layout=request.param, random_state=0)
    return model.fit(counts), counts


def test_a_table_has_a_row_per_trial_and_named_columns(fitted):
    model, counts = fitted
    codes = model.transform(counts)
    table = copy(model).set_output(transform="pandas").transform(counts)
    assert isinstance(table, pd.DataFrame)
    np.testing.assert_array_equal(table.to_numpy(), codes.reshape(len(codes), -1))
    names = model.get_feature_names_out()
    assert list(table.columns) == list(names)
    joint = model.layout == "joint"
    assert names[0] == ("" if joint else "unita_") + "template0_bin0"
    assert names[-1] == ("" if joint else "unit7_") + "template1_bin90"
    trial, unit, template, onset = 3, 1, 1, 20
    name = f"{'' if joint else 'unit7_'}template{template}_bin{onset}"
    index = (trial, template, onset) if joint else (trial, unit, template, onset)
    assert table[name].iloc[trial] == codes[index]


def test_the_setting_of_scikit_learn_is_kept_to(fitted):
    model, counts = fitted
    with sklearn.config_context(transform_output="pandas"):
        assert isinstance(model.transform(counts), pd.DataFrame)
    assert model.transform(counts).ndim == (3 if model.layout == "joint" else 4)


def test_names_survive_saving_and_need_a_fit(fitted, tmp_path):
    model, _ = fitted
    model.save(tmp_path)
    assert list(load(tmp_path).get_feature_names_out()) == list(model.get_feature_names_out())
    with pytest.raises(NotFittedError):
        DCEA().get_feature_names_out()


def test_a_pipeline_classifies_trials_by_their_codes():
    counts = BinnedSpikes.from_array(VALUES, 0.01)
    model = DCEA(1, 0.1, random_state=0).set_output(transform="pandas")
    pipeline = make_pipeline(model, LogisticRegression())
    assert pipeline.fit(counts, LABELS).score(counts, LABELS) == 1.0
    pipeline.set_params(dcea__template_length=10)  # of an array, in bins
    assert cross_val_score(pipeline, VALUES[:, 0], LABELS, cv=2).min() > 0.8


def test_spike_trains_are_refused_with_the_remedy(fitted):
    for method in ["fit", "transform", "predict", "score", "decompose"]:
        spikes = SpikeTrains.from_arrays([[0.1, 0.4, 1.25]])
        with refused(TypeError, r"spikes are not counted yet; use `X.bin\(bin_size\)`", method):
            getattr(fitted[0], method)(spikes)
