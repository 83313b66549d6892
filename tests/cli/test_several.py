"""`fit` with several recordings: what is the same for all, and what is written of each."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from commands import FIT, SIMULATE, Outcome, run, succeeded

from spikecdl.io import read

QUICK = [*FIT, "--lambda", 0.3, "--folds", 0]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    """Two recordings of two units, and one of three."""
    folder = tmp_path_factory.mktemp("several")
    made = [folder / name for name in ("monday.nwb", "tuesday.nwb", "wide.nwb")]
    for seed, (path, units) in enumerate(zip(made, (2, 2, 3), strict=True)):
        more = ["--seed", seed, "--units", units, "--trials", 8 + seed]
        succeeded(run(*SIMULATE, *more, "--out", path))
    return made


@pytest.fixture(scope="module")
def fitted(files, tmp_path_factory) -> tuple[Path, Outcome]:
    out = tmp_path_factory.mktemp("fit")
    return out, succeeded(run("fit", files[0], files[2], *QUICK, "--out", out))


def test_each_recording_has_a_file_and_a_part_of_the_summary(fitted, files):
    out, outcome = fitted
    names = {path.name for path in out.glob("*.nwb")}
    assert names == {"results-monday.nwb", "results-wide.nwb"}
    about = json.loads((out / "summary.json").read_text())
    assert (about["data"]["n_trials"], about["data"]["n_units"]) == (8 + 10, 2 + 3)
    assert about["data"]["sha256"] is None
    assert list(about["deviance_explained_per_unit"]) == [
        *("monday/0", "monday/1", "wide/0", "wide/1", "wide/2")
    ]
    assert about["recordings"].keys() == {"monday", "wide"}
    for name, file in (("monday", files[0]), ("wide", files[2])):
        one, spikes = about["recordings"][name], read(file)
        assert one["data"]["fingerprint"] == spikes.bin(0.002).fingerprint
        assert list(one["time_rescaling_per_unit"]) == [str(unit) for unit in spikes.unit_ids]
        assert 0 < one["deviance_explained"] < 1
        assert f"  {name}: {len(spikes.trials)} trials" in outcome.out
        assert read(out / f"results-{name}.nwb").fingerprint == spikes.fingerprint
    documented = (Path(__file__).parents[2] / "docs" / "files.md").read_text("utf-8")
    keys = about.keys() | about["recordings"]["wide"].keys()
    assert {key for key in keys if f"`{key}`" not in documented} == set()
    page = (out / "report.html").read_text()
    assert "<h2>Recordings</h2>" in page
    assert "learned from monday.nwb, wide.nwb" in page


def test_a_recording_is_named_by_its_folder_where_files_have_one_name(
    files, tmp_path, only_summary
):
    for folder, file in zip(("one", "two"), files, strict=False):
        (tmp_path / folder).mkdir()
        shutil.copy(file, tmp_path / folder / "recording.nwb")
    same = sorted(tmp_path.glob("*/recording.nwb"))
    outcome = succeeded(run("fit", *same, *QUICK, "--out", tmp_path / "out", "--json"))
    assert outcome.json["recordings"].keys() == {"one-recording", "two-recording"}


def test_the_joint_layout_takes_recordings_of_the_same_units(files, tmp_path, only_summary):
    joint = [*QUICK, "--layout", "joint", "--out", tmp_path / "out"]
    refused = run("fit", files[0], files[2], *joint)
    assert refused.code == 2
    assert "must have the same units in the same order for the joint layout" in refused.err
    about = succeeded(run("fit", *files[:2], *joint, "--json")).json
    assert (about["data"]["n_trials"], about["data"]["n_units"]) == (8 + 9, 2)


def test_pooled_trials_are_those_of_each_recording(files, tmp_path, only_summary):
    more = [*QUICK, "--pool-trials", "--family", "binomial", "--out", tmp_path / "out", "--json"]
    about = succeeded(run("fit", files[0], files[2], *more)).json
    assert about["data"]["n_trials"] == 1
    assert [about["recordings"][name]["data"]["n_pooled"] for name in ("monday", "wide")] == [8, 10]


def test_the_same_recording_twice_and_results_in_place_of_data_are_refused(files, tmp_path):
    twice = run("fit", files[0], files[0], *QUICK, "--out", tmp_path / "out")
    assert twice.code == 2
    assert "give each recording once" in twice.err
    data = tmp_path / "results-a.nwb"
    shutil.copy(files[0], data)
    refused = run("fit", data, files[1], *QUICK, "--out", tmp_path, "--overwrite")
    assert refused.code == 2
    assert "holds the data themselves" in refused.err
    assert data.exists()


def test_results_of_fewer_recordings_replace_all_of_the_earlier_run(
    fitted, files, tmp_path, only_summary
):
    out = tmp_path / "out"
    shutil.copytree(fitted[0], out)
    refused = run("fit", files[0], *QUICK, "--out", out)
    assert refused.code == 2
    assert "holds results" in refused.err
    succeeded(run("fit", files[0], *QUICK, "--out", out, "--overwrite"))
    assert [path.name for path in out.iterdir()] == ["summary.json"]
