"""The recipe of daily models, and means over sites with their intervals."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from daily_cubes import daily_cube

import fluxcube as fc
from fluxcube.errors import ConfigError, UnknownNameError
from fluxcube.evaluation.sitemeans import site_mean_table
from fluxcube.evaluation.sums import site_sums
from fluxcube.experiments import Variant
from fluxcube.samples.splits import kfold, save_folds

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def recipe():
    spec = importlib.util.spec_from_file_location("daily_recipe", ROOT / "recipes/daily/recipe.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def cube():
    return daily_cube()


def test_site_means_are_means_over_sites(cube):
    rng = np.random.default_rng(0)
    truth = xr.Dataset({name: cube.fluxes.sel(target=name, drop=True) for name in ("NEE", "GPP_NT")})
    errors = rng.uniform(0.5, 2, cube.sizes["site"])
    off = truth + xr.DataArray(errors, dims="site")
    worse = truth + 1.1 * xr.DataArray(errors, dims="site")
    sums = site_sums(cube, {"off": off, "worse": worse})
    table = site_mean_table(sums, draws=200, clusters=0).set_index(["target", "model"])
    for name in ("NEE", "GPP_NT"):
        row = table.loc[name, "worse"]
        assert table.loc[name, "off"].rmse == pytest.approx(errors.mean(), rel=1e-5)
        assert [row.rmse_change, row.rmse_change_low, row.rmse_change_high] == pytest.approx([0.1] * 3, rel=1e-4)
        assert row.rmse_low < row.rmse < row.rmse_high and row.nse_diff_high < 0 and row.n_sites == 12
        whole = cube.fluxes_quality.sel(target=name) >= 0.9999
        spread = [truth[name].isel(site=i).where(whole[i]).var().item() for i in range(12)]
        of_sites = 1 - (1.1 * errors) ** 2 / spread
        assert row.nse == pytest.approx(np.mean(of_sites), rel=1e-3)
    assert set(table.units) == {"gC m-2 d-1"} and table.loc["NEE", "off"].rmse_change == 0
    together = site_mean_table(sums, draws=200, clusters=20000)
    assert together.rmse_low.isna().all(), "one cluster tells nothing of other towers"
    with pytest.raises(UnknownNameError):
        site_mean_table(sums, against="of")
    with pytest.raises(ConfigError, match="no site has 999 scored time steps"):
        site_mean_table(sums, min_steps=999)


def test_the_recipe_scores_on_one_set_of_rows_at_each_quality_and_goes_on(recipe, cube, tmp_path):
    save_folds(kfold(cube, k=2), tmp_path / "folds.json")
    options = {"split": tmp_path / "folds.json", "folds": [1], "budget": "quick", "draws": 100, "part": "val"}
    only = ["XGBoost with 45-day means", "mean cycle of the class", "TAM-RL (ours)"]
    table = recipe.main(cube, tmp_path / "out", only=only, **options)
    assert set(table.model) == set(only) and set(table.min_quality) == {1.0, 0.75}
    files = {"models.md", "models.csv", "classes-1.csv", "site_classes.csv", "classes.png", "sites.csv", "sites.png"}
    files |= {"embedding.png", "embedding.csv", "separation.csv"}
    assert files <= {path.name for path in (tmp_path / "out").iterdir()}
    sites = pd.read_csv(tmp_path / "out/sites.csv").groupby(["target", "model"]).rmse.mean()
    means = table[table.min_quality == 1].set_index(["target", "model"]).rmse
    np.testing.assert_allclose(sites.reindex(means.index), means)
    apart = pd.read_csv(tmp_path / "out/separation.csv")
    assert set(apart.of) == {"embedding", "mean inputs"} and apart.share.between(0, 1).all()
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/runs").rglob("run.json")}
    assert len(stamps) == 3
    again = recipe.main(cube, tmp_path / "out", only=only, **options)
    assert again.equals(table)
    assert stamps == {path: path.stat().st_mtime_ns for path in (tmp_path / "out/runs").rglob("run.json")}
    text = (tmp_path / "out/models.md").read_text("utf-8")
    assert "quality >= 0.75" in text and "| TAM-RL (ours) | GPP_NT (gC m-2 d-1) |" in text


def test_ablations_change_one_thing_each(recipe):
    whole, *others = recipe.ablations_of("full")
    assert (whole.model, whole.seeds) == ("tam-rl", 3) and {v.seeds for v in others} == {3}
    for one in others:
        parts = ("config", "training", "predictors", "static", "target", "bag")
        changed = [name for name in parts if getattr(one, name) != getattr(whole, name)]
        assert len(changed) == 1, one.label
    every = recipe.models_of("full")
    assert len({v.search for v in every[:2]}) == 1 and len({v.seeds for v in every if v.seeds}) == 1
    with pytest.raises(UnknownNameError, match="TAM-RL"):
        recipe.models_of("full", ["TAMRL"])
    with pytest.raises(UnknownNameError, match="stage 1"):
        recipe.ablations_of("full", ["without stage"])
    assert [v.label for v in recipe.ablations_of("full", ["without stage 1"])] == ["without stage 1"]


def test_validation_towers_train_where_test_towers_are_scored(recipe, cube, tmp_path):
    folds = kfold(cube, k=3)
    save_folds(folds, tmp_path / "folds.json")
    for name, split in recipe.folds_of(tmp_path / "folds.json", None, "test").items():
        given = folds[int(name[-1]) - 1]
        assert set(split.train) == {*given.train, *given.val} and not split.val and split.test == given.test
    assert recipe.folds_of(tmp_path / "folds.json", [2], "val") == {"fold2": folds[1]}
    with pytest.raises(UnknownNameError, match="fold"):
        recipe.folds_of(tmp_path / "folds.json", [1, 7], "val")


def test_earlier_runs_keep_their_names(cube):
    split = kfold(cube, k=2)[0]
    one = Variant(label="a", model="ct-lstm")
    named = one.changed({"min_quality": 0.75})
    assert one.run_name(cube, split) == one.changed({"min_quality": None}).run_name(cube, split)
    assert named.run_name(cube, split) != one.run_name(cube, split)


def test_the_recipe_scores_models_with_other_drivers_at_the_towers_that_have_them(recipe, cube, tmp_path):
    (fold, _) = folds = kfold(cube, k=2)
    save_folds(folds, tmp_path / "folds.json")
    have = sorted(fold.test)[:4]
    other = xr.Dataset({"TA": cube.predictors.sel(site=have, variable="TA", drop=True) + 5.0})
    driven = fc.add_drivers(cube, other)
    options = {"split": tmp_path / "folds.json", "folds": [1], "budget": "quick", "draws": 50, "part": "test"}
    table = recipe.main(driven, tmp_path / "out", only=["mean cycle of the class"], drivers="era5", **options)
    assert set(table.model) == {"mean cycle of the class", "mean cycle of the class, era5"}
    assert set(table.n_sites) == {4} and (tmp_path / "out/drivers-era5.csv").exists()
    assert len(list((tmp_path / "out/runs").iterdir())) == 1
