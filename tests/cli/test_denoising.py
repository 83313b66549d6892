"""`spikecdl denoise`: a frame, a stack, training and comparison, and what goes wrong."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from commands import run, succeeded

from spikecdl.denoise import PoissonDenoiser, estimate_peak, read_images, write_images

pytest.importorskip("skimage")


@pytest.fixture
def counts(tmp_path):
    """Two frames in a TIFF file."""
    row, column = np.mgrid[:60, :50]
    rate = 2 + 2 * np.sin(row / 9) * np.cos(column / 7)
    frames = np.random.default_rng(0).poisson([rate, rate[::-1]])
    write_images(tmp_path / "noisy.tif", frames)
    return frames


@pytest.fixture
def folder(tmp_path):
    """Clean images."""
    place = tmp_path / "clean"
    place.mkdir()
    row, column = np.mgrid[:40, :44]
    for number in range(4):
        write_images(place / f"{number}.png", 1 + np.sin(row / (3 + number) + column / 5))
    return place


class TestImage:
    def test_a_stack(self, counts, tmp_path):
        found = succeeded(
            run("denoise", tmp_path / "noisy.tif", "--out", tmp_path / "clean.npy", "--json")
        ).json
        assert found["frames"] == 2
        assert found["shape"] == [60, 50]
        assert found["peak_estimated"]
        assert found["peak"] == pytest.approx(max(map(estimate_peak, counts)))
        expected = PoissonDenoiser.pretrained().predict(counts)
        np.testing.assert_allclose(np.load(tmp_path / "clean.npy"), expected, rtol=1e-6)

    def test_one_frame_as_png_with_options_first(self, counts, tmp_path):
        write_images(tmp_path / "one.npy", counts[0, :24, :20])
        options = ["--peak", 4, "--out", tmp_path / "clean.png", "--model", "uc"]
        outcome = succeeded(run("denoise", *options, tmp_path / "one.npy"))
        assert "peak 4 counts (given)" in outcome.out
        assert "by uc-4" in outcome.out
        rates = PoissonDenoiser.pretrained("uc", peak=4).predict(counts[0, :24, :20])
        expected = rates / rates.max() * 65535
        np.testing.assert_allclose(read_images(tmp_path / "clean.png")[0], expected, atol=1)

    @pytest.mark.parametrize(
        ("out", "more", "message"),
        [
            ("clean.npy", ["--peak", "0"], "`--peak` (=0.0) must be positive, in counts"),
            ("clean.npy", ["--weights", "none.st"], "No such file or directory: 'none.st'"),
            ("clean.png", [], "(2 frames) must be one for PNG; write a .tif"),
            ("noisy.tif", [], "is where the data come from"),
        ],
    )
    def test_what_is_wrong_is_said_and_nothing_written(
        self, counts, tmp_path, out, more, message, monkeypatch
    ):
        if out != "clean.npy":  # a wrong target is refused before the work
            monkeypatch.setattr(PoissonDenoiser, "predict", None)
        line = ["denoise", "image", tmp_path / "noisy.tif", "--out", tmp_path / out, *more]
        outcome = run(*line)
        assert outcome.code == 2
        assert message in outcome.err
        assert [path.name for path in tmp_path.iterdir()] == ["noisy.tif"]
        np.testing.assert_array_equal(read_images(tmp_path / "noisy.tif"), counts)


class TestTrain:
    def test_weights_that_denoise(self, folder, counts, tmp_path):
        line = ["denoise", "train", folder, "--model", "c", "--peak", 3, "--epochs", 2]
        line += ["--crop", 32, "--batch", 2, "--shifts", 2, "--leave-out", 1]
        found = succeeded(run(*line, "--out", tmp_path / "w", "--json")).json
        assert found["n_images"] == 3
        assert len(found["psnr_of_epochs"]) == 2
        assert 0 < found["validation_psnr"]["3"] < 40
        assert sorted(file.name for file in (tmp_path / "w").iterdir()) == [
            "c-3.json",
            "c-3.safetensors",
        ]
        written = json.loads((tmp_path / "w" / "c-3.json").read_text())
        assert written["training"]["n_shifts"] == 2
        assert written["validation_psnr"] == found["validation_psnr"]
        weights = tmp_path / "w" / "c-3.safetensors"
        line = [*line[:7], "--epochs", 1, "--start", weights, "--out", tmp_path / "more", "--json"]
        again = succeeded(run(*line, "--crop", 32, "--batch", 2)).json
        assert again["start"]["psnr_of_epochs"] == found["psnr_of_epochs"]
        options = ["--weights", weights, "--out", tmp_path / "clean.npy"]
        outcome = succeeded(run("denoise", tmp_path / "noisy.tif", *options))
        assert "by c-3" in outcome.out

    def test_interrupted_and_resumed(self, folder, tmp_path, monkeypatch):
        from spikecdl.denoise.training import Training

        line = ["denoise", "train", folder, "--model", "c", "--epochs", 3, "--crop", 32]
        whole = succeeded(run(*line, "--out", tmp_path / "whole", "--json")).json
        original, calls = Training.run_epoch, []

        def stopping(training):
            calls.append(1)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return original(training)

        monkeypatch.setattr(Training, "run_epoch", stopping)
        out = tmp_path / "out"
        assert run(*line, "--out", out).code == 130
        assert [file.name for file in out.iterdir()] == ["c.checkpoint"]
        found = succeeded(run(*line, "--out", out, "--resume", "--json")).json
        assert len(calls) == 4
        assert found["psnr_of_epochs"] == whole["psnr_of_epochs"]

    def test_too_few_images(self, folder, tmp_path):
        outcome = run("denoise", "train", folder, "--out", tmp_path / "w", "--leave-out", 4)
        assert outcome.code == 2
        assert "`--leave-out` (=4) must be below the 4 images" in outcome.err
        outcome = run("denoise", "train", folder, "--out", tmp_path / "w", "--rate", 0)
        assert "`--rate` (=0.0) must be positive" in outcome.err


class TestBenchmark:
    def test_table_and_figure(self, folder, tmp_path):
        line = ["denoise", "benchmark", folder, "--peaks", 1, 4, "--methods", "noisy", "blind"]
        outcome = succeeded(run(*line, "--draws", 2, "--out", tmp_path / "out"))
        assert "PSNR in dB / SSIM of each image" in outcome.out
        assert "3.png" in outcome.out
        names = sorted(file.name for file in (tmp_path / "out").iterdir())
        assert names == ["figure.png", "summary.json", "table.csv"]
        with open(tmp_path / "out" / "table.csv", newline="") as file:
            assert len(list(csv.DictReader(file))) == 2 * 2 * 4 * 2
        results = json.loads((tmp_path / "out" / "summary.json").read_text())["results"]
        quality = {(row["method"], row["peak"]): row["psnr"] for row in results}
        for peak in (1.0, 4.0):
            assert quality["blind", peak] > quality["noisy", peak] + 5

        line = ["denoise", "benchmark", folder, "--peaks", 2, "--methods", "noisy", "--draws", 1]
        found = succeeded(run(*line, "--json")).json
        assert found["results"][0]["psnr_error"] is None  # of one draw
        assert found["images"] == ["0.png", "1.png", "2.png", "3.png"]

    @pytest.mark.parametrize(
        ("more", "message"),
        [
            (["--peaks"], "`--peaks` (='') must be numbers"),
            (["--methods", "noisy", "bm3d"], "`--methods` (='bm3d') must be one of"),
        ],
    )
    def test_wrong_options(self, folder, more, message):
        outcome = run("denoise", "benchmark", folder, *more)
        assert outcome.code == 2
        assert message in outcome.err
