"""The part of the report that can be zoomed: its data are those of the decomposition."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess

import numpy as np
import pytest
from decompositions import made_up

from spikecdl.model.families import FAMILIES
from spikecdl.plots.rates import rates_of
from spikecdl.report import page, write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def unpacked(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text, validate=True), "<f4")


def added(data, trial: int, unit: int) -> np.ndarray:
    """What each template adds (template, bin), as the page computes it from events."""
    found = np.zeros((len(data["templates"]), data["bins"]))
    for at, row, k, onset, amplitude, _ in data["events"]:
        if (at, row) == (trial, 0 if data["joint"] else unit):
            template = unpacked(data["templates"][k][unit if data["joint"] else 0])
            inside = np.arange(onset, onset + len(template))
            kept = (inside >= 0) & (inside < data["bins"])
            found[k, inside[kept]] += amplitude * template[kept]
    return found


def check(data, parts, trials, units, stretch=slice(None)):
    """Compare the data of the page with some trials, units and bins of a decomposition."""
    measured = rates_of(parts).data
    baseline = unpacked(data["baseline"]).reshape(len(trials), len(units))
    for i, j in np.ndindex(len(trials), len(units)):
        trial, unit = trials[i], units[j]
        window = (trial, unit, stretch)
        for name, values in (("measured", measured), ("fitted", parts.rate)):
            np.testing.assert_array_equal(unpacked(data[name][i][j]), values[window].astype("f4"))
        assert baseline[i, j] == np.float32(parts.baseline[trial, unit])
        expected = parts.contributions[trial, unit][:, stretch]
        np.testing.assert_allclose(added(data, i, j), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", ["shared", "joint"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_data_are_those_of_the_decomposition(family, layout):
    mask = np.ones((4, 2, 120), bool)
    mask[1, :, :30] = False
    parts = made_up(family, layout, mask=mask, t_start=-0.2)
    data = page.data_of(parts)
    check(data, parts, range(4), range(2))
    assert data["start"] == pytest.approx(-0.2)
    assert data["units"] == ["0", "1"]
    assert data["marks"] == (family != "gaussian")
    assert len(data["events"]) == np.count_nonzero(parts.codes)


def test_probabilities_of_events_are_those_of_the_table():
    certain = made_up(trials=1)
    n_events = np.count_nonzero(certain.codes)
    object.__setattr__(certain, "certainty", lambda: (np.full((n_events, 8), 0.25), None))
    data = page.data_of(certain)
    assert [event[5] for event in data["events"]] == [0.25] * n_events
    assert {event[5] for event in page.data_of(made_up())["events"]} == {None}


def test_of_much_the_part_with_most_events_is_kept():
    parts = made_up("poisson", units=4, n_templates=1, n_events=0)
    codes = np.zeros_like(parts.codes)
    added = np.zeros_like(parts.contributions)
    for trial, unit, onset in ((1, 3, 55), (1, 1, 60), (3, 3, 65), (3, 3, 66), (0, 0, 5)):
        codes[trial, unit, 0, onset] = 3.0
        added[trial, unit, 0, onset : onset + 12] += 3.0 * parts.templates[0, 0]
    object.__setattr__(parts, "codes", codes)
    object.__setattr__(parts, "contributions", added)
    data = page.data_of(parts, most_units=2, longest=50, most_numbers=200)
    start = round(data["start"] / 0.005)
    assert (data["units"], data["trials"], data["bins"]) == (["0", "3"], ["1", "3"], 50)
    assert data["all"] == {"units": 4, "trials": 4, "bins": 120}
    check(data, parts, [1, 3], [0, 3], slice(start, start + 50))


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to open the page in")
def test_a_browser_draws_it(tmp_path):
    file = write_report(tmp_path / "report.html", made_up(unit_ids=("</script>", "b")), {}, {})
    options = "--headless --no-sandbox --disable-gpu --no-first-run --disable-sync --disable-quic"
    options += " --disable-background-networking --disable-component-update --dump-dom"
    command = [str(CHROMIUM), *options.split(), "--virtual-time-budget=3000"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", file.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.count("<canvas") == 3, done.stderr
    assert '<section id="explore">' in done.stdout
    assert re.search(r"\d+ events here", done.stdout)
    assert re.search(r'<option value="0">&lt;/script&gt;</option>', done.stdout)
