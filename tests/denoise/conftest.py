"""What the tests of denoising share."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def camera():
    """A photograph (row, column) with a largest value of 1."""
    data = pytest.importorskip("skimage.data")
    image = data.camera()[100:300, 100:260].astype(float)
    return image / image.max()
