"""Recipes, docs and catalog hold what they say."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

import fluxcube as fc
from fluxcube import shipping
from fluxcube.errors import ConfigError, UnknownNameError
from fluxcube.samples.splits import kfold, save_folds
from fluxcube.simulation import Planet, truth
from fluxcube.simulation.example import example_cube

pytestmark = pytest.mark.usefixtures("short_applicability")

ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted(path for path in (ROOT / "recipes").iterdir() if path.is_dir())


@pytest.mark.parametrize("folder", RECIPES, ids=lambda path: path.name)
def test_a_recipe_is_whole(folder):
    meta = yaml.safe_load((folder / "meta.yaml").read_text("utf-8"))
    assert {"title", "description", "sources", "parameters", "licence"} <= set(meta)
    ast.parse((folder / "recipe.py").read_text("utf-8"))
    assert (folder / "README.md").is_file() and f"({folder.name})" in (ROOT / "recipes/README.md").read_text("utf-8")


def test_the_demo_takes_its_recipe_s_parameters():
    parameters = yaml.safe_load((ROOT / "recipes/demo/meta.yaml").read_text("utf-8"))["parameters"]
    assert set(parameters) <= set(inspect.signature(fc.run_demo).parameters)


def load(name, file="recipe.py"):
    spec = importlib.util.spec_from_file_location(name, ROOT / "recipes" / name / file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def cube():
    return example_cube(sites=16, days=10)


@pytest.fixture(scope="module")
def folds(cube, tmp_path_factory):
    path = tmp_path_factory.mktemp("folds") / "folds.json"
    save_folds(kfold(cube, k=2), path)
    return path


def test_ablations_run_a_part_of_the_grid_and_go_on(cube, folds, tmp_path, capsys):
    recipe = load("ablations")
    options = {"split": str(folds), "folds": [1], "budget": "quick", "draws": 100}
    table = recipe.main(cube, tmp_path, only=["k", "missing"], **options)
    assert set(table.axis) == {"k", *(f"missing {s}%" for s in (0, 20, 40, 60, 80))}
    assert set(table.by) == {"all", "igbp", "climate"} and set(table.group[table.by == "all"]) == {"all"}
    runs = sorted(path.name for path in (tmp_path / "runs").iterdir())
    stamps = [path.stat().st_mtime_ns for path in sorted((tmp_path / "runs").rglob("run.json"))]
    assert len(runs) == 6 + 2, "six K, of which one is the base that `missing` asks again; trees; one with dropout"
    again = recipe.main(cube, tmp_path, only=["k", "missing"], **options)
    assert again.equals(table)
    assert stamps == [path.stat().st_mtime_ns for path in sorted((tmp_path / "runs").rglob("run.json"))]
    assert {"ablations.csv", "ablations.md", "k.png", "missing.png"} <= {path.name for path in tmp_path.iterdir()}
    # what is missing is scored on one set of rows, whatever the share
    assert table[table.axis.str.startswith("missing") & (table.by == "all")].n.nunique() == 1
    assert "K = 24" in (tmp_path / "ablations.md").read_text("utf-8")


def test_ablations_name_what_they_know_and_tell_what_they_leave_out(cube, folds, tmp_path, capsys):
    recipe = load("ablations")
    with pytest.raises(UnknownNameError, match="context"):
        recipe.main(cube, tmp_path, only=["contexts"])
    bare = cube.drop_vars("modis")
    options = {"split": str(folds), "folds": [1], "budget": "quick", "draws": 100}
    recipe.main(bare, tmp_path, only=["modis", "biome", "head"], **options)
    told = capsys.readouterr().out
    assert "left out modis" in told and "left out biome WET" in told
    recipe.main(bare, tmp_path, only=["satellite", "head"], **options)
    assert "left out satellite" in capsys.readouterr().out
    axes = {name for name, *_ in recipe.grid("full")}
    asked = {"context", "k", "dropout", "causal", "modis", "static", "targets", "head", "missing"}
    assert asked <= axes and any(name.startswith("biome") for name in axes)
    for _, _, variants in recipe.grid("full"):
        assert all(v.training.get("keep") == "last" for v in variants if v.model == "ecoperceiver")


def test_the_towers_recipe_s_models_are_chosen_by_label():
    recipe = load("towers")
    labels = [line["label"] for line in recipe.SETTINGS["models"]]
    both = [v.label for v in recipe.variants_of("full")]
    assert both == labels and set(recipe.SETTINGS["with_surface"]) <= set(labels)
    both += [f"{label} + reflectance" for label in recipe.SETTINGS["with_surface"]]
    means = recipe.SETTINGS["means"]
    assert {label for mean in means for label in mean["of"]} <= set(both)
    both += [mean["label"] for mean in means]
    assert {label for pair in recipe.SETTINGS["pairs"] for label in pair} <= set(both)
    trees = [v for v in recipe.variants_of("full") if v.model == "xgboost"]
    networks = [v for v in recipe.variants_of("full") if v.model == "ecoperceiver"]
    assert {v.seeds for v in trees} == {v.seeds for v in networks} and {v.bag for v in (*trees, *networks)} == {1.0}
    weights = [{name: v.training.get(name) for name in ("weigh", "filled_weight")} for v in (*trees, *networks)]
    assert all(each == weights[0] for each in weights)
    assert all(v.search for v in trees), "the folds of 157 towers have no validation towers to stop trees at"
    few = recipe.variants_of("full", ["EcoPerceiver with memory"])
    assert [v.label for v in few] == ["EcoPerceiver with memory"] and few[0].training["epochs"] > 1
    with pytest.raises(UnknownNameError, match="did you mean"):
        recipe.variants_of("quick", ["EcoPerceivr"])


@pytest.mark.proof(part=2)
def test_the_towers_recipe_scores_every_model_on_one_set_of_rows_and_goes_on(cube, folds, tmp_path, monkeypatch):
    recipe = load("towers")
    budget = recipe.SETTINGS["budgets"]["quick"]  # one draw and two seeds show what fifty and five do
    budget["xgboost"] |= {"search": 1, "seeds": 2, "config": {"search_rows": 500, "max_rows": 500}}
    budget["ecoperceiver"] |= {"seeds": 2}
    labels = [line["label"] for line in recipe.SETTINGS["models"]]
    means = {"label": "mean", "of": labels[:2]}
    monkeypatch.setitem(recipe.SETTINGS, "means", [means])
    table = recipe.main(cube, tmp_path, split=folds, budget="quick", draws=100)
    whole = table[table.group == "all"].set_index("model").rmse
    assert whole["mean"] <= whole[labels[:2]].mean()
    assert set(table.model) == {*labels, "mean"} and table[table.group == "all"].n.nunique() == 1
    text = (tmp_path / "scores.md").read_text("utf-8")
    assert "EcoPerceiver with memory and XGBoost with memory" in text
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("run.json")}
    assert len(stamps) == 2 * sum(v.seeds or 1 for v in recipe.variants_of("quick"))
    written = {"seeds.csv", "settings.csv", "settings.md", "scales.md", "subsets.md"}
    assert written <= {path.name for path in tmp_path.iterdir()}
    next((tmp_path / "predictions").iterdir()).unlink()
    assert recipe.main(cube, tmp_path, split=folds, budget="quick", draws=100).equals(table)
    assert stamps == {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("run.json")}


@pytest.mark.proof(part=1)
def test_models_are_shipped_with_their_calibration_and_a_card(cube, folds, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "recipes/towers"))
    ship = load("towers", "ship.py")
    recipe = sys.modules.pop("recipe")  # other recipes have modules of this name
    network, trees = "EcoPerceiver with memory", "XGBoost of 24 hours with memory"
    budget = ship.SETTINGS["budgets"]["quick"]
    monkeypatch.setitem(budget, "xgboost", budget["xgboost"] | {"seeds": 2})
    monkeypatch.setitem(budget, "ecoperceiver", budget["ecoperceiver"] | {"seeds": 2})
    monkeypatch.setitem(ship.SETTINGS, "means", [{"label": "mean", "of": [network, trees]}])
    texts = ship.MODELS["ecoperceiver-towers"]
    models = {
        "network": texts | {"label": network},
        "trees": texts | {"label": trees},
        "mixed": texts | {"label": "mean", "parts": ["network", "trees"]},
    }
    monkeypatch.setattr(ship, "MODELS", models)
    recipe.main(cube, tmp_path, split=folds, only=[network, trees], budget="quick", draws=100)
    ship.main(cube, tmp_path, tmp_path / "models", split=folds, budget="quick")
    for name in models:
        model = fc.load_model(tmp_path / "models" / name)
        assert set(model.metadata["training_sites"]) == set(cube.site.values)
        assert "NEE_std" in fc.predict(model, cube.isel(site=[0]), uncertainty=True)
        card = (tmp_path / "models" / name / "README.md").read_text("utf-8")
        assert f"# {name}" in card and "80% intervals" in card and "{" not in card
    folder = tmp_path / "models/mixed"
    (folder / "large.json").write_bytes(b" " * shipping.LARGEST)
    with pytest.raises(ConfigError, match="at most 8 MB"):
        shipping.ship(folder, tmp_path / "models/other")


@pytest.mark.proof(part=3)
def test_daily_maps_of_the_planet_are_scored_on_one_set_of_rows_and_go_on(planet_files, tmp_path):
    recipe = load("planet_daily")
    (tmp_path / "raw").symlink_to(planet_files)
    table = recipe.main(tmp_path, quick=True)
    labels = {line["label"] for line in recipe.SETTINGS["models"]}
    assert set(table.model) == labels | {recipe.NO_SOILS} and table.n.nunique() == 1
    assert set(table.units) == {"gC m-2 d-1"} and table.nse_low.notna().all()
    text = (tmp_path / "maps.md").read_text("utf-8")
    assert all(label in text for label in labels) and (tmp_path / "maps.png").read_bytes()[:4] == b"\x89PNG"
    kept = [path for name in ("runs", "maps") for path in (tmp_path / name).rglob("*") if path.is_file()]
    stamps = {path: path.stat().st_mtime_ns for path in kept}
    again = recipe.main(tmp_path, quick=True)
    assert again.equals(table) and stamps == {path: path.stat().st_mtime_ns for path in kept}


def test_the_planet_s_true_days_are_integrals_between_solar_midnights():
    recipe = load("planet_daily")
    planet = Planet(seed=3, quick=True)
    days = recipe.true_days(planet, slice("2018-05-02", "2018-05-04"))
    hours = truth(planet, slice("2018-04-30", "2018-05-07"))
    i, j = np.argwhere(days.NEE[0].notnull().values)[-1]
    midnights = np.arange(np.datetime64("2018-05-02"), np.datetime64("2018-05-06")).astype("datetime64[m]")
    midnights = midnights - np.timedelta64(round(float(days.longitude[j]) * 4), "m")
    for name in ("NEE", "GPP_NT", "RECO_NT"):
        run = np.concatenate([[0], np.cumsum(hours[name][:, i, j].values.astype(float))])
        at = (midnights - np.datetime64("2018-04-30")) / np.timedelta64(60, "m")
        means = np.diff(np.interp(at, np.arange(len(run)), run)) / 24
        np.testing.assert_allclose(days[name][:, i, j], means * 1e-6 * 12.011 * 86400, rtol=1e-4)
    np.testing.assert_allclose(days.NEE, days.RECO_NT - days.GPP_NT, atol=1e-4)
    assert float(days.GPP_NT.min()) > 0
