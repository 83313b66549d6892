"""The weights of the package: what they reach, which are chosen, and damaged files."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from photographs import camera
from scipy.ndimage import gaussian_filter

from spikecdl import checkpoint
from spikecdl.denoise import MODELS, PoissonDenoiser
from spikecdl.denoise.denoiser import SHIPPED, find
from spikecdl.evaluation.metrics import psnr


@pytest.mark.parametrize(
    ("model", "size", "margin", "bias"),
    [("blind", 200, 1.4, 0.03), ("uc", 72, 1.1, 0.03), ("c", 72, 0.3, 0.08)],
)
def test_photographs_are_better_than_smoothed(model, size, margin, bias):
    """They beat the best Gaussian filter, chosen with the truth, by a margin in dB."""
    clean = camera()[:size, :size] / camera()[:size, :size].max()
    for peak in (1, 2, 4):
        counts = np.random.default_rng(0).poisson(clean * peak)
        found = PoissonDenoiser.pretrained(model, peak=peak).predict(counts)
        smooth = (gaussian_filter(counts.astype(float), width) for width in (1, 1.5, 2, 3, 4))
        best = max(psnr(image / peak, clean) for image in smooth)
        assert psnr(found / peak, clean) > best + margin
        assert found.mean() == pytest.approx(counts.mean(), rel=bias)


def test_files_are_small_and_tell_their_origin():
    files = sorted(SHIPPED.glob("*.safetensors"))
    assert len(files) == 7
    for file in files:
        assert file.stat().st_size < 300_000
        about = json.loads(file.with_suffix(".json").read_text())
        assert about["n_parameters"] <= 61_516
        assert about["n_images"] == 380
        assert "spikecdl denoise train" in about["command"]


@pytest.mark.parametrize(
    ("name", "expected"), [("c", 20_618), ("uc", 61_516), ("ca", 655_544), ("blind", 60_331)]
)
def test_numbers_of_parameters(name, expected):
    generator = torch.Generator().manual_seed(0)
    network = MODELS[name].build([torch.rand(40, 40)], 4.0, generator)
    assert network.n_parameters == expected


def test_the_nearest_peak_by_ratio():
    assert find("uc", 1.3).name == "uc-1.safetensors"
    assert find("uc", 1.5).name == "uc-2.safetensors"
    assert find("uc", 90.0).name == "uc-4.safetensors"
    assert find("blind", None).name == "blind.safetensors"


def test_a_folder_comes_before_the_package(tmp_path):
    (tmp_path / "ca-4.safetensors").touch()
    assert find("ca", 1.0, tmp_path) == tmp_path / "ca-4.safetensors"
    assert find("c", 1.0, tmp_path) == SHIPPED / "c-1.safetensors"


def test_missing_weights():
    with pytest.raises(ValueError, match=r"`model` \(='ca'\) comes without weights"):
        PoissonDenoiser.pretrained("ca", peak=1.0)
    with pytest.raises(ValueError, match=r"`peak` \(=None\) must be given"):
        PoissonDenoiser.pretrained("uc")
    with pytest.raises(ValueError, match=r"`model` \(='dncnn'\) must be one of"):
        PoissonDenoiser.pretrained("dncnn")


def test_files_that_are_refused(tmp_path):
    content = bytearray(find("blind", None).read_bytes())
    content[-100] ^= 1
    (tmp_path / "damaged.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="SHA-256 does not match"):
        PoissonDenoiser.read(tmp_path / "damaged.safetensors")
    with pytest.raises(FileNotFoundError):
        PoissonDenoiser.read(tmp_path / "none.safetensors")
    checkpoint.save_tensors(tmp_path / "other.safetensors", {"x": torch.ones(2)}, {"version": 1})
    with pytest.raises(ValueError, match="is not of a denoiser"):
        PoissonDenoiser.read(tmp_path / "other.safetensors")
