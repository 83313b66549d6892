"""The report: one file that needs no other, says what was found, and runs nothing of the data's."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import struct
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from decompositions import made_up
from drawings import fitted
from matplotlib.figure import Figure

from spikecdl.data import Decomposition, Truth
from spikecdl.evaluation.metrics import template_table
from spikecdl.model.families import FAMILIES
from spikecdl.report import draw_figures, fit_summary, png, write_report

VOID = {"area", "base", "br", "col", "hr", "img", "input", "link", "meta", "source", "wbr"}
NAMES = ["templates", "events", "rates", "codes", "decomposition", "ks", "training"]
SUMMARY = {
    "command": "spikecdl fit recording.nwb --templates 2",
    "settings": {"n_templates": 2, "penalty_weight": None, "window": (0.0, 0.6), "pool": True},
    "data": {
        **{"source": "folder/recording.nwb", "sha256": "ab12" * 16, "fingerprint": "cd34" * 16},
        "bin_size": 0.005,
    },
    "versions": {"spikecdl": "0.1.0", "torch": "2.9"},
    "seed": 17,
    "hidden_bins_deviance_explained": 0.0987,
    "held_out": {
        **{"n_folds": 3, "how": "trials", "deviance_explained": 0.0432, "standard_error": 0.0111}
    },
    "verdict": ["A first sentence.", "A second one."],
    "penalty_weight_fraction": 0.0796,
    "converged": False,
    "n_epochs": 12,
    "seconds": 3.21,
    "a key of later": "never mind",
}


def test_a_paragraph_for_the_methods_section(tmp_path):
    model, parts = fitted()
    summary = fit_summary(model, parts, tmp_path)
    page = write_report(tmp_path / "report.html", parts, {}, summary).read_text("utf-8")
    text = " ".join(page[page.index("For the methods section") :].split())
    assert "Spikes of " in text
    assert f"spikecdl {summary['versions']['spikecdl']}: counts followed the" in text
    assert "Tolooshams, Bahareh and Song, Andrew H." in text


class Page(HTMLParser):
    """What a browser would see: elements with their attributes, tables and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.scripts: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")
        elif tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "script" in self.open:
            self.scripts[-1] += data
            return
        if "style" in self.open:
            return
        self.words.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data.strip()

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def table(self, *heads: str) -> list[dict[str, str]]:
        """Rows of the table with these heads."""
        (table,) = [t for t in self.tables if set(heads) <= set(t[0])]
        return [dict(zip(table[0], row, strict=True)) for row in table[1:]]

    def facts(self) -> dict[str, str]:
        """Rows of all tables of names and values."""
        return {row[0]: row[1] for table in self.tables for row in table if len(row) == 2}


def written(folder, parts, figures=None, summary=None) -> Page:
    path = write_report(folder / "report.html", parts, figures or {}, summary or {})
    return Page(path.read_text("utf-8"))


@pytest.fixture(scope="module")
def figures():
    return draw_figures(*fitted())


def with_truth(parts, **changes) -> Decomposition:
    """Return the decomposition of counts whose truth has the same templates in another order."""
    columns = ["trial", "unit", "template", "time", "amplitude"]
    events = pd.DataFrame([(0, 0, 0, 0.1, 1.0)], columns=columns)
    known = {"bin_size": 0.005, "layout": parts.layout, "templates": parts.templates[::-1]}
    known |= {"events": events, "baseline": np.ones(parts.counts.shape[:2])}
    truth = Truth(family=parts.family.name, **known | changes)
    return replace(parts, counts=replace(parts.counts, truth=truth))


def test_report_of_a_fit_is_one_file_with_its_pictures(tmp_path, figures):
    assert list(figures) == NAMES
    assert plt.get_fignums() == []
    _, parts = fitted()
    page = written(tmp_path, parts, figures, SUMMARY)
    images = [attributes for tag, attributes in page.elements if tag == "img"]
    assert len(images) == len(NAMES)
    for name, image in zip(NAMES, images, strict=True):
        kind, content = image["src"].split(",")
        assert kind == "data:image/png;base64"
        png = base64.b64decode(content, validate=True)
        width, height = struct.unpack(">II", png[16:24])
        assert png[:8] == b"\x89PNG\r\n\x1a\n"
        assert width / 200 == pytest.approx(int(image["width"]) / 130, abs=0.02)  # inches
        assert height > 200
        assert image["alt"].startswith(f"{name}: ")
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_report_refers_to_nothing_outside_itself(tmp_path, figures):
    _, parts = fitted()
    page = written(tmp_path, parts, {"codes": figures["codes"]}, SUMMARY)
    for tag, attributes in page.elements:
        assert tag not in {"link", "iframe", "object", "embed", "base", "form"}
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name not in {"href", "srcset", "action", "data"}
            assert name != "src" or value.startswith("data:")
    source = (tmp_path / "report.html").read_text("utf-8")
    assert not re.search(r"https?:|@import|url\(", source)
    policy = next(a["content"] for tag, a in page.elements if "http-equiv" in a)
    digest = base64.b64encode(hashlib.sha256(page.scripts[1].encode()).digest()).decode()
    assert policy.startswith("default-src 'none';")
    assert f"script-src 'sha256-{digest}'" in policy
    assert "Copyright (c) 2022 Leon Sorokin" in page.scripts[1]
    assert "Permission is hereby granted" in page.scripts[1]


def test_report_says_how_many_events_to_believe(tmp_path):
    parts = made_up(trials=4, units=1)
    assert "Expected to be true" not in written(tmp_path, parts).text
    table = np.ones((np.count_nonzero(parts.codes), 7))
    table[:, 3] = np.where(parts.events()["template"] == 0, 0.99, 0.5)
    object.__setattr__(parts, "certainty", lambda: (table, None))
    rows = written(tmp_path, parts).table("Template", "Expected to be true")
    assert [row["Expected to be true"] for row in rows] == ["11.9", "6"]
    assert [row["Expected to be false"] for row in rows] == ["1 %", "50 %"]
    assert [row["Kept at a false discovery rate of 10 %"] for row in rows] == ["12", "2"]
    table[:, 3] = 1 - 1e-13  # not a percentage with a power of ten
    rows = written(tmp_path, parts).table("Template", "Expected to be true")
    assert [row["Expected to be false"] for row in rows] == ["0 %", "0 %"]


def test_report_has_the_evidence_and_rescaled_time_of_each_unit(tmp_path):
    parts = made_up(trials=4, units=3, unit_ids=("left", "right", "silent"))
    plain = written(tmp_path, parts, summary=SUMMARY)
    assert "Score of held-out data" not in plain.text
    assert "escaled time" not in plain.text
    held_out = {**SUMMARY["held_out"], "evidence_gain": 0.2824, "evidence_gain_error": 0.0401}
    rescaled = {
        "left": {"distance": 0.0187, "band": 0.0252, "inside": True, "p_holm": 0.4},
        "right": {"distance": 0.0351, "band": 0.0286, "inside": False, "p_holm": 0.02},
        "silent": {"distance": None, "band": None, "inside": None, "p_holm": None},
    }
    more = {"held_out": held_out, "time_rescaling_per_unit": rescaled}
    page = written(tmp_path, parts, summary=SUMMARY | more)
    assert "Score of held-out data 0.282 ± 0.040 Bits per spike" in page.text
    names = ["Score of held-out data", "Deviance explained in", "In bins hidden", "In all bins"]
    places = [page.text.index(name) for name in names]
    assert places == sorted(places)
    assert "Rescaled time 1 of 2 Units" in page.text
    assert "1 is rejected" in page.text
    units = page.table("Unit", "Distance in rescaled time")
    assert [row["Distance in rescaled time"] for row in units] == ["0.019", "0.035", "–"]
    assert [row["Edge of its band"] for row in units] == ["0.025", "0.029", "–"]


def test_report_says_what_was_found(tmp_path):
    parts = made_up("binomial", trials=4, units=2, n_pooled=3, unit_ids=("left", "right"))
    page = written(tmp_path, parts, summary=SUMMARY)
    for number in ("0.123", "0.099", "0.043 ± 0.011", "24 + 24", "0.0796 λ_max", "12", "3.21 s"):
        assert number in page.text
    assert "Training stopped before the loss had settled" in page.text
    assert "2 templates learned from recording.nwb" in page.text
    assert page.text.index("A first sentence. A second one.") < page.text.index("How well it fits")
    assert SUMMARY["command"] in page.text

    units = page.table("Unit", "Deviance explained")
    spikes = parts.counts.counts.sum(axis=(0, 2))
    assert [row["Unit"] for row in units] == ["left", "right"]
    assert [row["Deviance explained"] for row in units] == ["0.100", "0.200"]
    assert [row["Spikes"] for row in units] == [str(n) for n in spikes]
    assert [row["Events"] for row in units] == ["12 + 12"] * 2
    rates = spikes / (4 * 3 * 0.6)
    np.testing.assert_allclose([float(r["Mean rate (Hz)"]) for r in units], rates, rtol=0.01)

    rows = page.table("Template", "Peak or trough")
    table = template_table(parts)
    for row, (number, expected) in zip(rows, table.iterrows(), strict=True):
        assert row["Template"] == str(number)
        name, factor = row["Peak or trough"].split(" ×")
        assert name == ("peak" if expected["peak_change"] > 0 else "trough")
        assert float(factor) == pytest.approx(expected["peak_gain"], rel=0.01)
        assert row["Its time"] == f"{1e3 * expected['peak_time']:.3g} ms"
        assert row["Response begins"] == f"{1e3 * expected['response_time']:.3g} ms"
        assert row["Events"] == "24"
    facts = page.facts()
    assert facts["family"] == "binomial"
    assert facts["layout"] == "shared"
    assert facts["seed"] == "17"
    assert facts["torch"] == "2.9"
    assert facts["SHA-256 of the file"] == "ab12" * 16
    assert facts["fingerprint of the data"] == "cd34" * 16
    assert facts["bin size (s)"] == "0.005"
    assert facts["penalty weight"] == "default"
    assert facts["window"] == "0, 0.6"
    assert facts["pool"] == "yes"
    assert "a key of later" not in page.text


@pytest.mark.parametrize("family", ["poisson", "gaussian"])
def test_report_calls_a_trough_by_its_name_and_says_what_is_at_an_edge(tmp_path, family):
    parts = made_up(family, units=1)
    shapes = np.zeros_like(parts.templates)
    shapes[0, 0, -1], shapes[1, 0, 5] = 1.0, -1.0
    object.__setattr__(parts, "templates", shapes)
    page = written(tmp_path, parts)
    high, low = page.table("Template", "Peak or trough")
    table, sign = template_table(parts), "×" if family == "poisson" else ""
    effect = table["peak_gain" if family == "poisson" else "peak_change"]
    assert high["Peak or trough"] == f"peak {sign}{effect[0]:.3g}"
    assert low["Peak or trough"] == f"trough {sign}{effect[1]:.3g}"
    assert high["Its time"] == "57.5 ms (edge)"
    assert low["Its time"] == "27.5 ms"
    assert "Edge: the template is largest at an edge of its window" in page.text


def test_report_sets_what_is_in_backticks_as_code(tmp_path):
    failed = {"check": "drift", "passed": False, "found": "set `drift`", "remedy": ""}
    said = ["Compare with `spikecdl select`, and <b>`a`</b>."]
    page = written(tmp_path, made_up(), summary=SUMMARY | {"verdict": said, "checks": [failed]})
    assert "`" not in page.text
    assert [tag for tag, _ in page.elements].count("code") == 3
    assert "b" not in [tag for tag, _ in page.elements]


def test_report_escapes_what_the_data_are_called(tmp_path):
    evil = "<b>&\"'</b><script>alert(1)</script>"
    parts = made_up(unit_ids=(evil, "{{ 7 * 7 }}"))
    summary = {
        "command": f"fit {evil}",
        "settings": {evil: evil, "nested": {evil: [evil]}},
        "data": {"source": f"{evil}.nwb", "note": evil},
        "versions": {evil: evil},
        "seed": evil,
    }
    page = written(tmp_path, parts, {evil: Figure()}, summary)
    tags = [tag for tag, _ in page.elements]
    assert "b" not in tags
    assert tags.count("script") == 2
    assert json.loads(page.scripts[0])["units"] == [evil, "{{ 7 * 7 }}"]
    rows = page.table("Unit", "Deviance explained")
    assert [row["Unit"] for row in rows] == [evil, "{{ 7 * 7 }}"]
    assert page.facts()[evil] == evil
    (image,) = [attributes for tag, attributes in page.elements if tag == "img"]
    assert image["alt"] == f"{evil}: {evil}"


@pytest.mark.parametrize("layout", ["shared", "joint"])
@pytest.mark.parametrize("family", FAMILIES)
def test_report_of_every_family_and_layout(tmp_path, family, layout):
    parts = made_up(family, layout, units=3)
    page = written(tmp_path, parts)
    heads = set(page.table("Template")[0])
    assert ("in unit" in heads) == (layout == "joint")
    rows = page.table("Unit")
    assert ("Events" in rows[0]) == (layout == "shared")
    assert ("Spikes" in rows[0]) == (family != "gaussian")
    assert "Versions" not in page.text
    assert "nan" not in page.text


def test_report_without_events_or_with_units_never_observed_has_dashes(tmp_path):
    parts = made_up(n_events=0, mask=np.arange(2)[:, None] > 0)
    parts = replace(parts, deviance_explained=np.nan, deviance_explained_per_unit=[np.nan, 0.5])
    page = written(tmp_path, parts)
    assert "nan" not in page.text
    assert page.table("Template")[0]["Peak or trough"] == "–"
    assert page.table("Unit")[0]["Deviance explained"] == "–"
    assert page.table("Unit")[0]["Mean rate (Hz)"] == "–"
    assert "0 + 0" in page.text


def test_report_of_plain_arrays_counts_bins(tmp_path):
    parts = made_up("poisson", bin_size=1.0)
    page = written(tmp_path, parts)
    assert "per bin of observed time" in page.text
    assert "Mean rate (spikes per bin)" in page.table("Unit")[0]
    assert all(row["Its time"].endswith(" bins") for row in page.table("Template"))


def test_report_with_a_truth_has_errors(tmp_path):
    parts = made_up()
    assert "Error to truth" not in written(tmp_path, parts).text
    page = written(tmp_path, with_truth(parts))
    assert [row["Error to truth"] for row in page.table("Template")] == ["0.00", "0.00"]
    page = written(tmp_path, with_truth(parts, templates=parts.templates[1:]))
    assert [row["Error to truth"] for row in page.table("Template")] == ["–", "0.00"]


def test_a_truth_that_cannot_be_compared_is_left_out(tmp_path):
    model, parts = fitted()

    def title(parts):
        return draw_figures(model, parts)["templates"].axes[0].get_title(loc="left")

    assert "error 0.00" in title(with_truth(parts))
    other = with_truth(parts, bin_size=0.001)
    assert "error" not in title(other)
    assert "Error to truth" not in written(tmp_path, other).text
    joint = made_up(layout="joint", units=3)
    assert "Error to truth" in written(tmp_path, with_truth(joint)).text
    fewer = with_truth(joint, layout="shared", templates=made_up().templates)
    assert "Error to truth" not in written(tmp_path, fewer).text


def test_figures_show_the_window_with_most_spikes(figures):
    _, parts = fitted()
    trial, unit = np.unravel_index(parts.counts.counts.sum(axis=2).argmax(), (6, 2))
    ax = figures["decomposition"].axes[0]
    assert ax.get_title(loc="left") == f"unit {unit} · trial {trial}"


def test_rasters_come_from_before_pooling(figures):
    model, parts = fitted()
    before = replace(parts.counts, n_pooled=np.ones_like(parts.counts.n_pooled))
    raster = draw_figures(model, parts, spikes=before)["rates"]
    assert [len(figures["rates"].axes), len(raster.axes)] == [2, 4]


def test_report_replaces_an_older_one(tmp_path):
    parts = made_up()
    path = tmp_path / "report.html"
    path.write_text("x" * 100_000)
    assert write_report(str(path), parts, {}, {}) == path
    assert path.read_text("utf-8").startswith("<!DOCTYPE html>")


def test_report_refuses_what_is_no_figure(tmp_path):
    with pytest.raises(TypeError, match=r"`figures\['codes'\]` \(str\) must be a matplotlib Fig"):
        written(tmp_path, made_up(), {"codes": "codes.png"})
    with pytest.raises(OSError, match="No such file"):
        write_report(tmp_path / "nowhere" / "report.html", made_up(), {}, {})


def test_headings_go_down_one_level_at_a_time(tmp_path):
    page = written(tmp_path, made_up(), summary=SUMMARY)
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))


def test_figures_that_are_pictures_already(tmp_path):
    parts = made_up()
    figure = Figure(figsize=(4, 2))
    figure.subplots().plot([0, 1])
    drawn, again = (
        write_report(tmp_path / name, parts, {"codes": picture}, {}).read_text("utf-8")
        for name, picture in (("figure.html", figure), ("bytes.html", png(figure)))
    )
    assert drawn == again
    assert 'width="520"' in drawn
