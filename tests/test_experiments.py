"""Test experiments: finished steps are not repeated, scores use common time steps, every setting has its effect."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from fluxcube import experiments
from fluxcube.errors import ConfigError, StoreError, UnknownNameError
from fluxcube.evaluation.report import read_predictions
from fluxcube.evaluation.skill import compare, score_table
from fluxcube.experiments import Variant, member_predictions, predictions_of, score_variants, trained
from fluxcube.inference.loading import load_model
from fluxcube.inference.towers import predict
from fluxcube.samples.splits import kfold
from fluxcube.simulation.example import example_cube

pytestmark = pytest.mark.usefixtures("short_applicability")

TREES = {"model": "xgboost", "config": {"n_estimators": 4, "max_depth": 3}}
LINE = {"model": "sw-linear"}
MET = ("DOY", "TOD", "TA", "SW_IN", "VPD", "SW_IN_POT")


@pytest.fixture(scope="module")
def cube():
    return example_cube(sites=12, days=8)


@pytest.fixture(scope="module")
def splits(cube):
    return {f"fold{i}": split for i, split in enumerate(kfold(cube, k=2), 1)}


@pytest.fixture
def fits(monkeypatch):
    """What is trained, counted."""
    done = []

    def counted(*args, **kwargs):
        done.append(kwargs["out"].name)
        return fit(*args, **kwargs)

    fit = experiments.fit
    monkeypatch.setattr(experiments, "fit", counted)
    return done


def test_finished_steps_are_not_repeated_and_shared_runs_are_trained_once(cube, splits, fits, tmp_path):
    base = Variant(label="trees", predictors=MET, **TREES)
    variants = [
        base,
        base.changed({"label": "half hidden", "hide": 0.5}),
        Variant(label="line", predictors=MET, **LINE),
    ]
    first = score_variants(cube, splits, variants, tmp_path)
    assert len(fits) == len(set(fits)) == 4  # two folds of two models
    again = score_variants(cube, splits, variants, tmp_path)
    assert len(fits) == 4 and again.to_frame().equals(first.to_frame())
    # another model added: only it is trained, and those that are kept are scored on rows common to all
    more = [*variants, base.changed({"label": "of ENF", "train_igbp": "ENF"})]
    score_variants(cube, splits, more, tmp_path)
    assert len(fits) == 6
    table = score_table(first).set_index("model")
    assert table.nse["half hidden"] < table.nse["trees"]


def test_an_ensemble_is_predicted_from_its_members_and_equals_the_loaded_model(cube, splits, tmp_path):
    trees = Variant(label="trees", predictors=MET, seeds=3, **TREES | {"config": {"n_estimators": 4, "subsample": 0.5}})
    split = splits["fold1"]
    found = predictions_of(cube, split, trees, tmp_path)
    model = load_model(trained(cube, split, trees, tmp_path))
    expected = predict(model, split.part(cube, "test"))
    np.testing.assert_allclose(found.NEE, expected.NEE, rtol=1e-5, atol=1e-5)
    assert found.NEE.attrs == expected.NEE.attrs | {"cell_methods": "time: mean"}  # CF states it in the file
    assert set(found.coords) == set(expected.coords)
    members = member_predictions(cube, split, trees, tmp_path)
    assert len(members) == 3 and not np.allclose(members[0].NEE, members[1].NEE, equal_nan=True)
    described = {k: str(v) for k, v in found.attrs.items()}  # the file adds what CF asks for
    assert described.items() >= {k: str(v) for k, v in expected.attrs.items()}.items()
    assert len(list((tmp_path / "predictions").iterdir())) == 4


def test_sums_equal_those_of_the_predictions(cube, splits, tmp_path):
    variants = [Variant(label="trees", predictors=MET, **TREES), Variant(label="line", predictors=MET, **LINE)]
    fold = {"fold1": splits["fold1"]}
    sums = score_variants(cube, fold, variants, tmp_path)
    kept = {v.label: predictions_of(cube, splits["fold1"], v, tmp_path) for v in variants}
    direct = compare(cube, kept, by="igbp")
    found = score_table(sums, by="igbp")
    np.testing.assert_allclose(found.nse, direct.nse)
    one = score_variants(cube, fold, variants, tmp_path, igbp="ENF")
    np.testing.assert_allclose(score_table(one).nse, direct[direct.group == "ENF"].nse)
    assert set(one.places["NEE"].site.values) < set(sums.places["NEE"].site.values)
    inside = score_variants(cube, fold, variants, tmp_path, part="val")
    assert set(inside.places["NEE"].site.values) == set(splits["fold1"].val)


def test_an_interrupted_write_leaves_no_prediction(cube, splits, tmp_path, monkeypatch):
    variant = Variant(label="line", predictors=MET, **LINE)
    move = os.replace

    def interrupted(source, target):
        if Path(target).suffix == ".nc":
            raise KeyboardInterrupt
        move(source, target)

    monkeypatch.setattr("os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        predictions_of(cube, splits["fold1"], variant, tmp_path)
    monkeypatch.undo()
    assert not list((tmp_path / "predictions").iterdir())
    made = predictions_of(cube, splits["fold1"], variant, tmp_path)
    path = next((tmp_path / "predictions").glob("*.nc"))
    assert read_predictions(path).identical(made)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(StoreError, match="no predictions"):
        read_predictions(path)


def test_every_setting_changes_a_name_and_prediction_settings_keep_the_run(cube, splits):
    split, base = splits["fold1"], Variant(label="a", predictors=MET)
    changes = {
        "model": "xgboost",
        "target": ("GPP_NT",),
        "predictors": MET[:4],
        "memory_days": (1,),
        "static": (),
        "bands": None,
        "preset": "small",
        "config": {"latent": 16},
        "training": {"epochs": 1},
        "train_igbp": "ENF",
        "target_qc": 0,
        "search": 3,
        "seed": 1,
        "seeds": 2,
        "stride": 4,
        "hide": 0.2,
        "hide_unit": "token",
        "min_quality": 0.9,
        "separately": True,
        "bag": 0.5,
        "bounds": "table",
        "surface": ("NDVI",),
        "lookahead": 2,
        "pixels": 1,
        "drivers": "era5",
        "predict_drivers": "era5",
    }
    assert set(changes) == {f.name for f in dataclasses.fields(Variant)} - {"label"}
    for name, value in changes.items():
        other = base.changed({name: value})
        assert other.prediction_name(cube, split, "test") != base.prediction_name(cube, split, "test"), name
        same = name in ("stride", "hide", "hide_unit", "predict_drivers")
        assert (other.run_name(cube, split) == base.run_name(cube, split)) == same, name
    assert base.changed({"bounds": "ours"}).run_name(cube, split) == base.run_name(cube, split)  # the default
    assert base.changed({"label": "b"}).run_name(cube, split) == base.run_name(cube, split)
    assert base.run_name(cube, splits["fold2"]) != base.run_name(cube, split)
    assert base.run_name(cube.isel(time=slice(100)), split) != base.run_name(cube, split)
    assert base.prediction_name(cube, split, "val") != base.prediction_name(cube, split, "test")
    assert base.changed({"config": {"latent": 16}}).changed({"config": {"heads": 2}}).config == {
        "latent": 16,
        "heads": 2,
    }


def test_settings_reach_the_run(cube, splits, tmp_path):
    tiny = {"latent": 16, "heads": 2, "blocks": 1, "context": 8, "attention": "window"}
    brief = {"epochs": 1, "windows_per_epoch": 8, "batch_size": 8, "val_windows": 8}
    variant = Variant(label="a", predictors=MET[:4], memory_days=(1,), static=(), config=tiny, training=brief, seed=3)
    model = load_model(trained(cube, splits["fold1"], variant, tmp_path))
    assert model.spec.predictors == MET[:4] and model.spec.memory_days == (1,) and model.spec.static == ()
    assert model.model.config.latent == 16 and model.model.context == 8 and model.model.config.head == "dense"
    assert model.metadata["seed"] == 3 and model.metadata["training"]["batch_size"] == 8
    one = load_model(trained(cube, splits["fold1"], variant.changed({"train_igbp": "ENF"}), tmp_path))
    assert set(one.split.train) < set(splits["fold1"].train)
    assert trained(cube.chunk(site=1), splits["fold1"], variant, tmp_path) == model.path
    with pytest.raises(ConfigError, match="trained on other data"):
        trained(cube.assign(predictors=cube.predictors * 1.01), splits["fold1"], variant, tmp_path)


def test_predictions_and_scores_of_other_data_are_not_taken(cube, splits, tmp_path):
    split, line = splits["fold1"], Variant(label="line", predictors=("SW_IN", "TA"), **LINE)

    def scores(source):
        return score_variants(source, {"fold1": split}, [line], tmp_path)

    before = scores(cube)
    of_test = xr.DataArray(np.isin(cube.site.values, split.test), dims="site")
    rebuilt = cube.assign(fluxes=cube.fluxes.where(~of_test, cube.fluxes * 2))  # the run itself saw no change
    with pytest.raises(ConfigError, match="predicted from other data"):
        scores(rebuilt)
    assert trained(rebuilt, split, line, tmp_path).is_dir()
    np.testing.assert_array_equal(scores(cube.chunk(site=1)).moments["NEE"].n, before.moments["NEE"].n)


def test_separate_targets_equal_models_of_one_target(cube, splits, fits, tmp_path):
    split = splits["fold1"]
    both = Variant(label="trees", target=("NEE", "GPP_NT"), predictors=MET, search=2, separately=True, **TREES)
    made = predictions_of(cube, split, both, tmp_path)
    assert set(made.data_vars) >= {"NEE", "GPP_NT"} and len(fits) == 2
    for name in both.target:
        alone = both.changed({"target": (name,), "separately": False})
        assert predictions_of(cube, split, alone, tmp_path)[name].identical(made[name])
    assert len(fits) == 2, "what is finished is not trained again"
    table = score_table(score_variants(cube, {"fold1": split}, [both], tmp_path))
    assert set(table.target) == {"NEE", "GPP_NT"}
    with pytest.raises(ConfigError, match="each of its parts"):
        trained(cube, split, both, tmp_path)


def test_target_qc_affects_targets_only(splits, tmp_path):
    """Gap-filled fluxes that are wrong change what is learned where they may train, and nowhere else."""
    cube = example_cube(sites=12, days=8, gaps=0.4)
    wrong = cube.assign(fluxes=cube.fluxes.where(cube.fluxes_qc <= 0, 50.0))
    base = Variant(label="line", predictors=("SW_IN", "TA"), **LINE)

    def learned(source, qc, name):
        run = trained(source, splits["fold1"], base.changed({"target_qc": qc}), tmp_path / name)
        return (run / "model.json").read_text("utf-8")

    assert learned(cube, 0, "a") == learned(wrong, 0, "b")
    assert learned(cube, 2, "a") != learned(wrong, 2, "b")
    assert learned(cube, 0, "a") != learned(cube, 2, "a")
    # predictors of flag 2 stay out, whatever flags of targets train: their values do not matter
    late = cube.time >= cube.time[96]
    doubtful = cube.assign(predictors_qc=cube.predictors_qc.where(~late | (cube.predictors_qc < 0), np.int8(2)))
    odd = doubtful.assign(predictors=doubtful.predictors.where(~late, 7.0))
    assert learned(doubtful, 2, "c") == learned(odd, 2, "d") != learned(cube, 2, "a")


def test_invalid_experiments_are_refused(cube, splits, tmp_path):
    line = Variant(label="a", predictors=MET, **LINE)
    with pytest.raises(ConfigError, match="different labels"):
        score_variants(cube, splits, [line, line], tmp_path)
    with pytest.raises(ConfigError, match="WAT"):
        score_variants(cube, splits, [line], tmp_path, igbp="WAT")
    with pytest.raises(UnknownNameError, match="epoch"):
        trained(cube, splits["fold1"], Variant(label="a", training={"epoch": 1}), tmp_path)
    for bad in ({"labels": "x"}, {"model": "forest"}):
        with pytest.raises(UnknownNameError):
            line.changed(bad)
