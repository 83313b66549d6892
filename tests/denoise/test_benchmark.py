"""The comparison of methods: its measures, its counts, its table and its figure."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest

from spikecdl.denoise import benchmark
from spikecdl.denoise.benchmark import METHODS, Benchmark, Method, comparison
from spikecdl.evaluation.metrics import psnr

metrics = pytest.importorskip("skimage.metrics")


def made(**settings):
    row, column = np.mgrid[:40, :50]
    images = {"sine": 3 + 3 * np.sin(row / 5), "ramp": column.astype(np.uint8)}
    return Benchmark(
        **{"images": images, "peaks": [1.0, 5.0], "methods": ["noisy"], "n_draws": 3, **settings}
    )


def test_counts_are_the_same_for_all_methods_and_new_in_every_draw():
    test = made()
    clean, counts = test.counts("ramp", 5.0, 0)
    assert clean.max() == 1
    np.testing.assert_array_equal(made().counts("ramp", 5.0, 0)[1], counts)
    for other in (test.counts("ramp", 5.0, 1), made(random_state=9).counts("ramp", 5.0, 0)):
        assert (other[1] != counts).any()
    drawn = [test.counts("ramp", 5.0, draw)[1] for draw in range(300)]
    np.testing.assert_allclose(np.mean(drawn, axis=0), 5 * clean, atol=0.75)


def test_the_rows(monkeypatch):
    """Of a method that knows the truth but for a constant, and of the counts themselves."""
    monkeypatch.setitem(METHODS, "flat", lambda *_: Method(lambda y: np.full(y.shape, y.mean()), 7))
    said = []
    test = made(methods=["noisy", "flat"])
    table = test.run(said.append)
    assert len(table) == 2 * 2 * 2 * 3
    assert len(said) == 4
    assert set(table[table.method == "flat"].n_parameters) == {7}
    row = table.query("method == 'noisy' and peak == 5 and image == 'sine' and draw == 2").iloc[0]
    clean, counts = test.counts("sine", 5.0, 2)
    assert row.psnr == pytest.approx(psnr(counts / 5, clean))
    expected = metrics.structural_similarity(clean, counts / 5, data_range=1.0)
    assert row.ssim == pytest.approx(expected)
    assert row.seconds >= 0


def test_means_and_standard_errors_over_draws():
    table = pd.DataFrame(
        [
            ("a", 1.0, "x", 0, 20.0, 0.5, 1.0, 3),
            ("a", 1.0, "y", 0, 22.0, 0.5, 1.0, 3),
            ("a", 1.0, "x", 1, 22.0, 0.7, 3.0, 3),
            ("a", 1.0, "y", 1, 26.0, 0.7, 3.0, 3),
        ],
        columns=["method", "peak", "image", "draw", "psnr", "ssim", "seconds", "n_parameters"],
    )
    (row,) = benchmark.summary(table).itertuples()
    assert row.psnr == 22.5
    assert row.psnr_error == pytest.approx(np.std([21, 24], ddof=1) / np.sqrt(2))
    assert row.seconds == 2
    assert any("22.50 +- 1.50" in line for line in benchmark.in_words(table))
    assert [line.split()[:2] for line in benchmark.images_in_words(table)[2:]] == [
        ["x", "21.00"],
        ["y", "24.00"],
    ]


def test_the_figure_shows_every_method():
    figure = comparison(made(methods=["noisy", "vst-tv", "blind"]))
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert len(titles) == 2 * 4
    for name in ("clean", "counts, peak 5", "vst-tv", "blind"):
        assert sum(title.startswith(name) for title in titles) == 2
    dB = {title.split(",")[0]: float(title.split()[-2]) for title in titles[2:4]}
    assert dB["blind"] > 15
    assert dB["vst-tv"] > 15


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"methods": ["bm3d"]}, r"`methods` \(='bm3d'\) must be one of"),
        ({"peaks": [0.0]}, r"`peaks` \(=0.0\) must be positive"),
        ({"n_draws": 0}, r"`n_draws` \(=0\)"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        made(**settings)


def test_without_scikit_image(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.metrics", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs skimage.*spikecdl\[images\]"):
        made().run(print)


def test_one_draw_has_no_standard_error():
    rows = [("a", 1.0, 10, "i", 0, 20.0, 0.5, 0.1), ("a", 1.0, 10, "j", 0, 22.0, 0.7, 0.1)]
    names = ["method", "peak", "n_parameters", "image", "draw", "psnr", "ssim", "seconds"]
    line = benchmark.in_words(pd.DataFrame(rows, columns=names))[1]
    assert line.split() == ["1", "a", "21.00", "0.600", "0.10", "10"]
