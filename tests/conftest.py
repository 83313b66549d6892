"""What every test shares: one thread, no display, reproducible examples, the shared recordings."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Before torch and matplotlib are imported.  One thread, so that results do not depend on the
# number of cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

settings.register_profile("spikecdl", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("spikecdl")

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of recordings that lie beside the checkout; tests that need it are skipped without."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the recordings of ../shared/data are not beside this checkout")
    return folder
