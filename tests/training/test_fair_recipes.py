"""Recipes compare models with equal weights, and record where settings were chosen and how much seeds matter."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from daily_cubes import daily_cube
from surface_cubes import with_surface

import fluxcube as fc
from fluxcube.errors import ConfigError
from fluxcube.experiments import member_predictions, predictions_of
from fluxcube.models.tamrl import TAMLSTMConfig, TAMRLConfig
from fluxcube.samples.splits import kfold, save_folds

ROOT = Path(__file__).resolve().parents[2]


def load(name, file="recipe.py"):
    spec = importlib.util.spec_from_file_location(f"{name}_{file[:-3]}", ROOT / "recipes" / name / file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def recipe():
    return load("daily")


@pytest.fixture(scope="module")
def cube():
    return daily_cube()


def test_tables_record_seeds_and_where_settings_were_chosen(recipe, cube, tmp_path):
    """Folds without validation towers: the trees are searched inside the training towers of each fold."""
    folds = [dataclasses.replace(fold, train=(*fold.train, *fold.val), val=()) for fold in kfold(cube, k=2)]
    save_folds(folds, tmp_path / "folds.json")
    trees = recipe.SETTINGS["budgets"]["quick"]["xgboost"]
    trees |= {"seeds": 2, "search": 1, "config": {"search_rows": 300, "max_rows": 600}}
    only = ["XGBoost of that day", "TAMLSTM (paper)"]
    options = {"split": tmp_path / "folds.json", "budget": "quick", "draws": 100, "only": only, "folds": [1]}
    table = recipe.main(cube, tmp_path / "out", **options)
    assert {"corr2", "corr2_median", "rmse", "nse"} <= set(table)
    seeds = pd.read_csv(tmp_path / "out/seeds.csv").set_index(["target", "model"])
    means = table[table.min_quality == 1].set_index(["target", "model"])
    assert seeds.members.to_dict()["NEE", "XGBoost of that day"] == 2
    np.testing.assert_allclose(seeds.rmse_site_mean, means.rmse.reindex(seeds.index), rtol=1e-4)
    settings = pd.read_csv(tmp_path / "out/models-settings.csv")
    assert len(settings) == 2 and set(settings.fold) == {"fold1"}
    searched = settings[settings.model == "XGBoost of that day"]
    assert searched.chosen_on.str.contains("inside the training towers").all() and searched.inner_nse.notna().all()
    other = settings[settings.model == "TAMLSTM (paper)"]
    assert other.chosen_on.str.contains("development").all() and set(other.weights) == {"quality, igbp, koppen"}
    assert json.loads(other.settings.iloc[0])["static"] is False
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"errors-igbp.png", "errors-koppen.png"} <= names, "figure 3 of the paper"
    assert {"classes.png", "sites.png"} <= names, "figures 4 and 5"
    one = next(v for v in recipe.models_of("quick") if v.label == only[0])
    split = recipe.folds_of(tmp_path / "folds.json", [1], "test")["fold1"]
    members = member_predictions(cube, split, one, tmp_path / "out")
    whole = predictions_of(cube, split, one, tmp_path / "out")
    np.testing.assert_allclose(np.mean([m.NEE for m in members], 0), whole.NEE, rtol=1e-4, atol=1e-5)


def test_settings_are_never_chosen_on_test_towers(recipe, cube, tmp_path):
    folds = kfold(cube, k=2)
    bare = [dataclasses.replace(fold, val=()) for fold in folds]
    development = [dataclasses.replace(bare[0], kind="development")]
    ablations = load("ablations")
    for module in (recipe, ablations):
        for name, some in (("folds", folds), ("bare", bare), ("development", development)):
            save_folds(some, tmp_path / f"{name}.json")
        paths = {name: tmp_path / f"{name}.json" for name in ("folds", "bare", "development")}
        take = (
            (lambda path: (path, True)) if module is recipe else lambda path: (ablations.splits_of(cube, path, None),)
        )
        assert module.part_of(*take(paths["folds"])) == "val"
        assert module.part_of(*take(paths["development"])) == "test"
        with pytest.raises(ConfigError, match="pass the development split"):
            module.part_of(*take(paths["bare"]))
    assert recipe.part_of(tmp_path / "bare.json", False) == "test"


def test_trees_and_networks_share_weights_and_towers_and_the_paper_s_form_is_the_paper_s(recipe):
    models = {v.label: v for v in recipe.models_of("full")}
    trees = [v for v in models.values() if v.model == "xgboost"]
    ours = [models[label] for label in ("CT-LSTM", "TAMLSTM (ours)", "TAM-RL (ours)")]
    assert len({(tuple(v.training["weigh"]), v.bag) for v in (*trees, *ours)}) == 1
    for label in ("TAMLSTM (paper)", "TAM-RL (paper)"):
        paper = models[label]
        assert (paper.config["static"], paper.config["skip"], paper.config["supervised"]) == (False, False, 1)
        assert paper.training["weigh"] == ["quality", "igbp", "koppen"] and paper.training["balance"] == 0.1
        assert paper.bag == 1.0 and paper.seeds == trees[0].seeds
    assert set(recipe.SETTINGS["with_surface"]) <= set(models)
    assert recipe.drawn_models(["XGBoost of that day", "LSTM", "CT-LSTM", "CT-LSTM + reflectance"]) == [
        "XGBoost of that day",
        "CT-LSTM + reflectance",
    ]
    assert recipe.drawn_models(["LSTM"]) == ["LSTM"]
    for config in (TAMLSTMConfig.published(), TAMRLConfig.published()):
        assert (config.static, config.skip, config.supervised) == (False, False, 1)


@pytest.mark.proof(part=2)
def test_a_daily_model_is_shipped_with_its_calibration_and_a_card(tmp_path, monkeypatch):
    cube = with_surface(daily_cube(), after=0)
    folds = [dataclasses.replace(fold, train=(*fold.train, *fold.val), val=()) for fold in kfold(cube, k=2)]
    save_folds(folds, tmp_path / "folds.json")
    monkeypatch.syspath_prepend(str(ROOT / "recipes/daily"))
    ship = load("daily", "ship.py")
    recipe = sys.modules.pop("recipe")  # other recipes have modules of this name
    monkeypatch.setitem(ship.SETTINGS["budgets"]["quick"]["tam-rl"], "seeds", 2)
    options = {"split": tmp_path / "folds.json", "budget": "quick"}
    (about,) = ship.MODELS.values()
    recipe.main(cube, tmp_path / "out", only=[about["label"]], draws=100, **options)
    ship.main(cube, tmp_path / "out", tmp_path / "models", **options)
    (folder,) = (tmp_path / "models").iterdir()
    model = fc.load_model(folder)
    assert set(model.metadata["training_sites"]) == set(cube.site.values) and len(model.metadata["members"]) == 2
    assert "NEE_std" in fc.predict(model, cube.isel(site=[0]), uncertainty=True)
    card = (folder / "README.md").read_text("utf-8")
    assert f"# {folder.name}" in card and "80% intervals" in card and "{" not in card
    assert "| GPP_NT |" in card and "R2, median" in card
