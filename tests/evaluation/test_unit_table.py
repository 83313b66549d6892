"""Which units take part in joint templates, when and how much."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from spikecdl import DCEA, BinnedSpikes, load, plots
from spikecdl.simulate import simulate

pytestmark = pytest.mark.filterwarnings("ignore::spikecdl.NotConvergedWarning")

N_UNITS, N_PART, LENGTH, RATIO = 40, 10, 40, 6.0


def sequence(seed: int) -> tuple[BinnedSpikes, np.ndarray, np.ndarray]:
    """Draw counts in which ten units are in a sequence; return which, and when they peak (s)."""
    rng = np.random.default_rng(seed)
    centre = rng.uniform(3, LENGTH - 3, N_UNITS)
    part = np.isin(np.arange(N_UNITS), rng.permutation(N_UNITS)[:N_PART])
    bump = np.exp(-0.5 * np.square((np.arange(LENGTH) + 0.5 - centre[:, None]) / 3))
    template = np.log(RATIO) * bump * part[:, None]
    counts = simulate(
        "poisson",
        template[None],
        layout="joint",
        n_trials=1,
        n_units=N_UNITS,
        duration=200.0,
        bin_size=0.01,
        n_events=60,
        amplitude=float(np.linalg.norm(template)),
        baseline=rng.gamma(4, 0.75, N_UNITS),
        random_state=seed,
    )
    return counts, part, 0.01 * centre


@pytest.fixture(scope="module")
def fitted():
    counts, part, centre = sequence(101)
    return DCEA(1, 0.4, "poisson", layout="joint", random_state=0).fit(counts), part, centre


def test_units_that_take_part_are_found(fitted):
    model, part, _ = fitted
    table = model.unit_table()
    assert list(table["unit"]) == list(range(N_UNITS))
    assert (table["takes_part"] & ~part).sum() <= 1
    assert (table["takes_part"] & part).sum() >= 7
    assert (table["probability"].between(0, 1) & table["q_value"].between(0, 1)).all()
    assert sorted(table["order"].dropna()) == list(range(1, table["takes_part"].sum() + 1))


def test_times_and_sizes_are_those_of_the_simulation(fitted):
    model, part, centre = fitted
    found = model.unit_table()
    found = found[found["takes_part"] & part]
    late = found["time"] - centre[found["unit"]]
    late -= late.median()  # where the template begins in its window is a convention
    assert late.abs().median() < 0.015
    assert found["ratio"].median() == pytest.approx(RATIO, rel=0.4)
    for name in ("time", "ratio"):
        assert (found[f"{name}_lower"] <= found[name]).all()
        assert (found[name] <= found[f"{name}_upper"]).all()


def test_wider_intervals_of_a_higher_level(fitted):
    tables = [fitted[0].unit_table(level) for level in (0.5, 0.99)]
    narrow, wide = (table[table["takes_part"]] for table in tables)
    for name in ("time", "ratio"):
        width = [table[f"{name}_upper"] - table[f"{name}_lower"] for table in (narrow, wide)]
        assert (width[0] <= width[1]).all()
        assert width[0].sum() < width[1].sum()


def test_it_is_saved_with_the_model(fitted, tmp_path):
    fitted[0].save(tmp_path / "model")
    pd.testing.assert_frame_equal(load(tmp_path / "model").unit_table(), fitted[0].unit_table())


def test_it_is_drawn_in_order(fitted):
    table = fitted[0].unit_table()
    (ax,) = plots.unit_order(table)
    (points,) = ax.lines
    part = table[table["takes_part"]].sort_values("order")
    np.testing.assert_array_equal(points.get_xdata(), part["time"])
    assert [text.get_text() for text in ax.get_yticklabels()] == list(map(str, part["unit"]))


@pytest.mark.slow
def test_participation_is_right_in_most_simulations():
    right = []
    for seed in range(200, 212):
        counts, part, _ = sequence(seed)
        model = DCEA(1, 0.4, "poisson", layout="joint", random_state=0).fit(counts)
        right.append(int((model.unit_table()["takes_part"] == part).sum()))
    print(right)
    assert np.mean(np.array(right) >= 38) >= 0.9


def test_what_has_no_table_is_refused(fitted):
    counts = np.random.default_rng(0).poisson(0.2, (4, 1, 60))
    with pytest.raises(ValueError, match="needs layout='joint'"):
        DCEA(1, 10, "poisson", n_epochs=1).fit(counts).unit_table()
    joint = {"layout": "joint", "trainer": "alternating", "n_epochs": 1}
    with pytest.raises(ValueError, match="trainer='marginal'"):
        DCEA(1, 10, "poisson", **joint).fit(counts).unit_table()
    with pytest.raises(ValueError, match="`fdr`"):
        fitted[0].unit_table(fdr=0.0)
