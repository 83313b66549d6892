"""A photograph for tests of denoising."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest


@cache
def camera() -> np.ndarray:
    """Return a photograph (row, column) with a largest value of 1; skip without scikit-image."""
    data = pytest.importorskip("skimage.data")
    image = data.camera()[100:300, 100:260].astype(float)
    return image / image.max()
