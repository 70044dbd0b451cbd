"""Protocols run by name, and the table of CarbonSense on a simulated folder of its layout: seeds, split, files."""

from __future__ import annotations

import json
import sys

import numpy as np
import pandas as pd
import pytest

import fluxcube as fc
from fluxcube import cli
from fluxcube.errors import ConfigError, SplitError
from fluxcube.protocol_runs import CARBONSENSE, run_protocols, sample_carbonsense, score_classes
from fluxcube.samples.benchmark_splits import benchmark_sites

pytestmark = pytest.mark.usefixtures("short_applicability")

XGB = {"label": "XGBoost (published)", "model": "xgboost", "preset": "published", "bands": None, "static": []}
MODELS = [XGB | {"bounds": "v1", "config": {"n_estimators": 3}}]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A cube built from a simulated folder of version 1 with towers of the published split."""
    out = tmp_path_factory.mktemp("v1")
    folder = sample_carbonsense(out, train=4, val=2, test=3)
    assert sample_carbonsense(out) == folder, "it is written once"
    assert {path.name for path in next(folder.glob("*/*")).iterdir()} == {
        "meta.json",
        "predictors.csv",
        "targets.csv",
        "modis.pkl",
    }
    fc.build_carbonsense(folder, out / "cube.zarr")
    return out / "cube.zarr"


@pytest.fixture(scope="module")
def cube(store):
    return fc.open_carbonsense(store)


@pytest.fixture(scope="module")
def scored(cube, tmp_path_factory):
    """The folder and the table of two seeds, with published scores beside them."""
    out = tmp_path_factory.mktemp("table1")
    igbp = str(cube.igbp.sel(site=benchmark_sites(CARBONSENSE)[0]).item())
    rows = [
        ("carbonsense-v1", mask, "NEE", igbp, "XGBoost", score, value, n)
        for mask, n in (("flag <= 1", 5),)
        for score, value in (("nse", 0.5), ("rmse", 2.0))
    ]
    columns = ["split", "mask", "target", "group", "model", "score", "value", "n"]
    published = pd.DataFrame(rows, columns=columns)
    return out, score_classes(cube, out, models=MODELS, seeds=2, published=published), published


def test_the_split_is_the_published_one_and_trees_train_on_validation_sites_as_well(cube, scored):
    out, table, _ = scored
    (folder,) = (out / "runs").iterdir()
    about = json.loads((folder / "seed-0" / "run.json").read_text("utf-8"))["split"]
    assert set(about["test"]) == set(benchmark_sites(CARBONSENSE)[:3]) and about["kind"] == CARBONSENSE
    expected = {*benchmark_sites(CARBONSENSE, "train")[:4], *benchmark_sites(CARBONSENSE, "val")[:2]}
    assert set(about["train"]) == expected and about["val"] == []
    whole = table[table.group == "all"].iloc[0]
    assert whole.seeds == 2 and whole.n_sites == 3 and whole.n > 100
    assert len(table.attrs["absent_sites"]) == 44 and table.attrs["max_qc"] == 1


def test_scores_are_those_of_the_stored_predictions(cube, scored):
    out, table, _ = scored
    files = sorted((out / "predictions").glob("*-seed-*.nc"))
    assert len(files) == 2
    each = []
    for file in files:
        from fluxcube.evaluation.report import read_predictions

        one = fc.evaluate(cube.sel(site=list(benchmark_sites(CARBONSENSE)[:3])), read_predictions(file), max_qc=1)
        each.append(float(one.nse.sel(target="NEE")))
    assert table[table.group == "all"].nse.item() == pytest.approx(np.mean(each), rel=1e-6)


def test_files_have_the_form_of_the_paper_and_state_what_is_comparable(scored):
    out, table, _ = scored
    page, tex = ((out / "scores" / name).read_text("utf-8") for name in ("scores.md", "table1.tex"))
    assert "| IGBP | XGBoost (published) NSE | XGBoost (published) RMSE |" in page and "±" in page
    assert "listed, but not in the cube (376)" in page and "not comparable" in page
    assert r"\multicolumn{2}{c}{XGBoost (published)}" in tex
    assert set(table.comparable) >= {""} and any(text.startswith("no: ") for text in table.comparable)
    assert len(pd.read_csv(out / "scores" / "scores.csv")) == len(table)


def test_what_is_finished_is_not_repeated(cube, scored):
    out, table, published = scored
    stamps = {path: path.stat().st_mtime_ns for path in [*out.glob("runs/*/*/*"), *out.glob("predictions/*")]}
    lines: list[str] = []
    again = score_classes(cube, out, models=MODELS, seeds=2, published=published, log=lines.append)
    assert again.equals(table) and not lines
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}


def test_another_split_is_not_set_beside_published_scores(cube, scored, tmp_path):
    names = [*benchmark_sites(CARBONSENSE)[:2], *(f"{s},train" for s in benchmark_sites(CARBONSENSE, "train")[:3])]
    (tmp_path / "own.txt").write_text("\n".join(names))
    options = {"models": MODELS, "seeds": 1, "published": scored[2]}
    table = score_classes(cube, tmp_path / "out", split=f"sites:{tmp_path / 'own.txt'}", **options)
    assert "comparable" not in table and table.nse_seed_std.isna().all()


def test_the_commands_train_on_the_split_and_score_by_the_protocol(store, tmp_path, monkeypatch, capsys):
    def command(*words):
        monkeypatch.setattr(sys, "argv", ["fluxcube", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert not ended.value.code, ended.value.code
        return capsys.readouterr().out

    out = command("split", store, tmp_path / "split.json", "--kind", f"benchmark:{CARBONSENSE}", "--format", "csv")
    assert out.endswith("split.json,carbonsense/v1,4,2,3\n")
    xgb = ("--model", "xgboost", "--set", "config.n_estimators=3", "--predictors", "TA,SW_IN", "--static", "")
    command("train", store, tmp_path / "x", "--split", f"benchmark:{CARBONSENSE}", "--seeds", 2, *xgb)
    page = command("evaluate", tmp_path / "x", store, "--protocol", CARBONSENSE, "--out", tmp_path / "out")
    assert "3 of the 47 listed test sites are scored" in page and "was trained on" not in page
    table = pd.read_csv(tmp_path / "out" / "table1.csv")
    assert set(table.seeds) == {2} and (tmp_path / "out" / "table1.tex").exists()
    # A run that was trained on test sites is scored, and the page states that these are no scores of the protocol.
    test, train = benchmark_sites(CARBONSENSE)[:3], benchmark_sites(CARBONSENSE, "train")[:2]
    (tmp_path / "leak.txt").write_text("\n".join([f"{test[0]},train", f"{train[0]},test", *test[1:]]))
    command("train", store, tmp_path / "y", "--split", f"sites:{tmp_path / 'leak.txt'}", *xgb)
    page = command("evaluate", tmp_path / "y", store, "--protocol", CARBONSENSE)
    assert f"y was trained on 1 of the test sites ({test[0]})" in page


def test_protocols_are_run_by_name_and_resumed(cube, tmp_path):
    sites = np.array([*benchmark_sites("fluxtrapolation/TA40")[:2], "XX-Aaa", "XX-Bbb", "XX-Ccc"], object)
    towers = cube.isel(site=slice(0, 5)).assign_coords(site=sites)
    models = [{"label": "XGB_1", "model": "xgboost", "config": {"n_estimators": 3}, "predictors": ["TA", "SW_IN"]}]
    found = run_protocols(towers, ["fluxtrapolation/TA40"], models, tmp_path)["fluxtrapolation/TA40"]
    assert set(found.benchmark.env) == set(sites[:2]) and not any("was trained on" in note for note in found.notes)
    assert (tmp_path / "scores/results/metrics/TA40_NEE_XGB-1_val_mean.csv").exists()
    lines: list[str] = []
    again = run_protocols(towers, ["FLUXtrapolation/ta40"], models, tmp_path, log=lines.append)
    assert again["fluxtrapolation/TA40"].benchmark.equals(found.benchmark) and not lines


def test_mistakes_are_named(cube, tmp_path):
    with pytest.raises(ConfigError, match="seeds"):
        score_classes(cube, tmp_path, models=MODELS, seeds=0)
    with pytest.raises(SplitError, match="none of the 47 test sites"):
        score_classes(cube.isel(site=slice(0, 1)), tmp_path, models=MODELS)
