"""Distillation: labels of a teacher on training towers, and a student that learns them."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from daily_cubes import daily_cube

import fluxcube as fc
from fluxcube.errors import ConfigError, SplitError
from fluxcube.samples.partition import Split
from fluxcube.samples.splits import per_igbp, save_folds
from fluxcube.samples.teacher import TEACHER, labelled_targets, teacher_of
from fluxcube.simulation.example import example_cube, example_forcing
from fluxcube.training.weights import quality_weights

pytestmark = pytest.mark.usefixtures("short_applicability")

TARGETS = ("NEE", "GPP_NT")


@pytest.fixture(scope="module")
def cube():
    return example_cube(sites=16, days=6)


@pytest.fixture(scope="module")
def split(cube):
    return per_igbp(cube)


@pytest.fixture(scope="module")
def teacher(cube, split, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    config = {"n_estimators": 8, "max_rows": 2000}
    options = {"model": "xgboost", "target": TARGETS, "split": split, "bands": (), "config": config}
    return fc.fit(cube, out=folder / "run", seeds=2, **options)


@pytest.fixture(scope="module")
def labelled(cube, teacher):
    return fc.distil(teacher, cube)


def test_labels_are_the_teachers_predictions_at_training_towers_alone(cube, split, teacher, labelled):
    expected = fc.predict(teacher, cube.sel(site=list(split.train)))
    for name in TARGETS:
        fluxes = labelled.fluxes.sel(target=name)
        there = expected[name].notnull()
        assert float(there.mean()) > 0.9
        np.testing.assert_array_equal(fluxes.sel(site=list(split.train)).where(there), expected[name].where(there))
        held_out = [*split.val, *split.test]
        for array in ("fluxes", "fluxes_qc", "fluxes_coverage"):
            xr.testing.assert_equal(labelled[array].sel(site=held_out), cube[array].sel(site=held_out))
        flags = labelled.fluxes_qc.sel(target=name, site=list(split.train))
        assert (flags.values[there.values] == 1).all() and flags.dtype == np.int8
    assert labelled.fluxes.dtype == np.float32 and labelled.fluxes.attrs == cube.fluxes.attrs
    xr.testing.assert_identical(labelled.fluxes.sel(target="LE"), cube.fluxes.sel(target="LE"))
    assert TEACHER not in cube.attrs


def test_hours_without_a_measured_flux_have_labels(cube, split, labelled):
    record = teacher_of(labelled)
    train = cube.sel(site=list(split.train))
    absent = ((train.fluxes_qc.sel(target="NEE") != 0) | train.fluxes.sel(target="NEE").isnull()).mean()
    assert record.share_of_labels["NEE"] == pytest.approx(float(absent), abs=0.02) and record.members == 2
    assert record.sites == tuple(split.train) and record.targets == TARGETS


def test_a_measured_flux_has_its_weight_in_the_label(cube, split, teacher, labelled):
    mixed = fc.distil(teacher, cube, observed=0.25)
    site = list(split.train)
    alone, blend, flux = (ds.fluxes.sel(site=site, target="NEE") for ds in (labelled, mixed, cube))
    measured = (cube.fluxes_qc.sel(site=site, target="NEE") == 0) & flux.notnull() & alone.notnull()
    expected = xr.where(measured, 0.25 * flux + 0.75 * alone, alone)
    np.testing.assert_allclose(blend, expected, rtol=1e-5)
    for weight in (1.0, -0.1, 2):
        with pytest.raises(ConfigError, match="observed must be"):
            fc.distil(teacher, cube, observed=weight)


def test_a_student_learns_the_teacher_and_records_it(cube, split, teacher, labelled, tmp_path):
    config = {"n_estimators": 20, "max_rows": 2000}
    run = fc.fit(labelled, model="xgboost", target=TARGETS, bands=(), config=config, out=tmp_path / "student")
    student, about = fc.load_model(run), json.loads((run.path / "run.json").read_text("utf-8"))
    assert about["teacher"]["model_digest"] == fc.load_model(teacher).digest
    assert set(about["teacher"]["share_of_labels"]) == set(TARGETS)
    assert run.split == split and about["training_sites"] == list(split.train)
    test = cube.sel(site=list(split.test))
    ours, theirs = fc.predict(student, test), fc.predict(teacher, test)
    assert ours.attrs["teacher_digest"] == about["teacher"]["model_digest"] and "teacher_digest" not in theirs.attrs
    difference = float((ours.NEE - theirs.NEE).std() / theirs.NEE.std())
    assert difference < 0.5
    assert student.has_training_days
    assert fc.calibrate(run, cube, ours.assign_coords(in_training=("site", [False] * len(split.test))))


def test_towers_of_the_teacher_count_as_training_towers_of_the_student(split, labelled, tmp_path):
    few = dataclasses.replace(split, train=split.train[:5])
    run = fc.fit(labelled, model="sw-linear", split=few, out=tmp_path / "few", bands=())
    seeds = fc.fit(
        labelled, model="xgboost", split=few, out=tmp_path / "seeds", seeds=2, bands=(), config={"n_estimators": 2}
    )
    for one in (run, seeds):
        assert set(fc.load_model(one).metadata["training_sites"]) == set(split.train)


def test_a_teacher_that_learned_from_held_out_towers_is_refused_by_name(cube, split, teacher, labelled, tmp_path):
    other = Split(train=split.val + split.test, val=(), test=split.train[:2])
    with pytest.raises(
        SplitError, match=f"trained or validated on test towers of the student: {', '.join(split.train[:2])}"
    ):
        fc.distil(teacher, cube, split=other)
    with pytest.raises(SplitError, match="trained or validated on test towers"):
        fc.fit(labelled, model="sw-linear", split=other, out=tmp_path / "run", bands=())
    validated = Split(train=split.train[1:], val=split.train[:1], test=split.test)
    with pytest.raises(SplitError, match=f"trained or validated on validation towers of the student: {split.train[0]}"):
        fc.distil(teacher, cube, split=validated)
    # The teacher stopped, and was calibrated, by its validation towers: they are no test towers of a student.
    tested = Split(train=split.train, test=split.val)
    with pytest.raises(SplitError, match="test towers"):
        fc.distil([teacher.path / "seed-0", teacher.path / "seed-1"], cube, split=tested)


def test_a_tower_with_labels_is_not_held_out(cube, split, teacher, tmp_path):
    wider = dataclasses.replace(split, train=split.train + split.test[:1], test=split.test[1:])
    labelled = fc.distil(teacher, cube, split=wider)
    assert labelled_targets(labelled.sel(site=[split.test[0]])).any()
    with pytest.raises(SplitError, match=f"labels of the teacher .*: {split.test[0]}"):
        fc.fit(labelled, model="sw-linear", split=split, out=tmp_path / "run", bands=())


def test_labels_are_never_scored_nor_calibrated_on(cube, split, teacher, labelled, tmp_path):
    predictions = fc.predict(teacher, cube)
    with pytest.raises(ConfigError, match="expected measured fluxes, found labels of the teacher"):
        fc.evaluate(labelled, predictions, max_qc=None)
    held_out = predictions.sel(site=list(split.test))
    assert fc.evaluate(labelled, held_out).equals(fc.evaluate(cube, held_out))
    run = fc.fit(labelled, model="sw-linear", out=tmp_path / "run", bands=())
    apart = fc.predict(run, cube).drop_vars("in_training")
    with pytest.raises(ConfigError, match="labels of the teacher"):
        fc.calibrate(run, labelled, apart, out_of_fold=True, max_qc=1)


def test_labels_stay_in_the_training_periods(cube, tmp_path):
    periods = {
        "train": {s: [("2018-06-01", "2018-06-04")] for s in map(str, cube.site.values)},
        "test": {s: [("2018-06-05", "2018-06-07")] for s in map(str, cube.site.values)},
    }
    names = tuple(map(str, cube.site.values))
    split = Split(train=names, test=names, periods=periods)
    teacher = fc.fit(cube, model="sw-linear", split=split, out=tmp_path / "teacher", bands=())
    labelled = fc.distil(teacher, cube)
    late = slice("2018-06-04", None)
    xr.testing.assert_equal(labelled.fluxes.sel(time=late), cube.fluxes.sel(time=late))
    assert not labelled.fluxes.sel(time="2018-06-02", target="NEE").equals(
        cube.fluxes.sel(time="2018-06-02", target="NEE")
    )
    assert fc.fit(labelled, model="sw-linear", out=tmp_path / "student", bands=()).split == split


def test_a_file_of_predictions_is_read_by_the_same_call_and_refused_by_others(cube, teacher, labelled, tmp_path):
    path = tmp_path / "labels.nc"
    first = fc.distil(teacher, cube, out=path)
    stamp = path.stat().st_mtime_ns
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Dask warns where an operation changes the number of chunks
        again = fc.distil(teacher, cube.chunk({"site": 1, "time": 6}), out=path)
    assert again.fluxes.chunksizes == cube.fluxes.chunk({"site": 1, "time": 6}).chunksizes
    assert path.stat().st_mtime_ns == stamp and again.fluxes.chunks is not None
    xr.testing.assert_identical(first.fluxes, labelled.fluxes)
    xr.testing.assert_identical(again.fluxes.compute(), first.fluxes)
    np.testing.assert_array_equal(again.fluxes_qc, first.fluxes_qc)
    assert json.loads(again.attrs[TEACHER]) == json.loads(first.attrs[TEACHER])
    with pytest.raises(ConfigError, match="model_digest"):
        fc.distil(teacher.path / "seed-0", cube, out=path)
    with pytest.raises(ConfigError, match="data_digest"):
        fc.distil(teacher, cube.assign(predictors=cube.predictors + 1), out=path)
    fluxes = fc.distil(teacher, cube.assign(fluxes=cube.fluxes + 1), out=path).fluxes  # no input of the teacher
    xr.testing.assert_identical(fluxes.sel(target="LE"), cube.fluxes.sel(target="LE") + 1)
    with pytest.raises(ConfigError, match="another time axis"):
        fc.distil(teacher, cube.isel(time=slice(24, None)), out=path)


def test_a_cube_is_labelled_once(labelled, teacher):
    with pytest.raises(ConfigError, match="already"):
        fc.distil(teacher, labelled)


def test_labels_of_a_publication_without_flags_are_accepted_and_have_weight_one(teacher, cube, split):
    networks = np.where(np.arange(cube.sizes["site"]) % 2, "CarbonSense v2", "FLUXNET2015").astype(object)
    labelled = fc.distil(teacher, cube.assign_coords(network=("site", networks)))
    for site in split.train[:4]:
        one = labelled.sel(site=[site])
        best = 2 if one.network.item() == "CarbonSense v2" else 1
        flags = one.fluxes_qc.sel(target="NEE").values
        assert (flags == best).mean() > 0.9
        weights = quality_weights(one.sel(target=["NEE", "LE"]))
        assert (weights[:, 0] == 1).all()


def test_daily_cubes_are_labelled_too(tmp_path):
    daily = daily_cube()
    split = per_igbp(daily)
    teacher = fc.fit(daily, model="met-regression", target="NEE", split=split, out=tmp_path / "teacher")
    labelled = fc.distil(teacher, daily)
    train = labelled.sel(site=list(split.train), target="NEE")
    there = fc.predict(teacher, daily.sel(site=list(split.train))).NEE.notnull()
    assert there.any() and (train.fluxes_quality.values[there.values] == 0.5).all()
    one = labelled.sel(site=[split.train[0]], target=["NEE", "GPP_NT"])
    assert (quality_weights(one)[:, 0] == 1).all()
    run = fc.fit(labelled, model="met-regression", target="NEE", out=tmp_path / "student")
    assert fc.load_model(run).metadata["teacher"]["kind"] == "met-regression"
    with pytest.raises(ConfigError, match="NEE: observed in no day"):
        fc.fit(labelled, model="met-regression", target="NEE", min_quality=0.9, out=tmp_path / "strict")


def test_a_student_of_another_network_learns_all_hours(labelled, split, tmp_path):
    config = {"latent": 16, "heads": 2, "blocks": 1, "frequencies": 2, "context": 4}
    training = {
        "epochs": 1,
        "windows_per_epoch": 32,
        "batch_size": 16,
        "val_windows": 16,
        "weigh": ["quality", "sqrt-site"],
    }
    options = {"bands": (), "config": config, "training": training, "target": TARGETS}
    run = fc.fit(labelled, out=tmp_path / "run", **options)
    student = fc.load_model(run)
    assert student.metadata["teacher"]["split"]["test"] == list(split.test) and student.has_training_days
    assert np.isfinite(fc.predict(run, labelled.sel(site=list(split.test))).NEE).any()


def test_the_coverage_and_uncertainty_of_a_label_are_none(teacher, cube, split):
    labelled = fc.distil(teacher, cube.assign(fluxes_randunc=cube.fluxes * 0 + 1))
    train = labelled.sel(site=list(split.train), target="NEE")
    assert (train.fluxes_coverage == 0).mean() > 0.9 and train.fluxes_randunc.isnull().mean() > 0.9
    test = labelled.sel(site=list(split.test), target="NEE")
    assert test.fluxes_randunc.notnull().any()


def test_the_recipe_compares_a_student_with_its_teacher_and_goes_on(tmp_path):
    path = Path(__file__).resolve().parents[1] / "recipes/distillation/recipe.py"
    spec = importlib.util.spec_from_file_location("distillation_recipe", path)
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    cube, forcing = example_cube(sites=16, days=8), example_forcing(days=3)
    folds = tmp_path / "folds.json"
    save_folds([per_igbp(cube)], folds)
    options = {"split": folds, "budget": "quick", "draws": 100, "forcing": forcing}
    table = recipe.main(cube, tmp_path / "out", **options)
    assert set(table.model) == {"ensemble", "one member", "student"} and table.groupby("target").n.nunique().eq(1).all()
    summary = json.loads((tmp_path / "out/summary.json").read_text("utf-8"))
    assert summary["cost_ratio"] > 1 and set(summary["maps"]) == {"NEE", "GPP_NT", "RECO_NT"}
    text = (tmp_path / "out/distillation.md").read_text("utf-8")
    assert "student and ensemble: NEE" in text and "times the CPU time" in text
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("run.json")}
    assert len(stamps) == 3
    assert recipe.main(cube, tmp_path / "out", **options).equals(table)
    assert stamps == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("run.json")}


def test_a_student_may_be_a_teacher_and_its_own_teacher_counts(cube, split, labelled, tmp_path):
    few = dataclasses.replace(split, train=split.train[:5])
    student = fc.fit(labelled, model="sw-linear", split=few, out=tmp_path / "student", bands=())
    again = fc.distil(student, cube)
    assert set(teacher_of(again).training_sites) == set(split.train) and teacher_of(again).sites == few.train
    other = Split(train=few.train, test=(split.train[-1],))
    with pytest.raises(SplitError, match=f"trained or validated on test towers of the student: {split.train[-1]}"):
        fc.distil(student, cube, split=other)


def test_labels_can_be_weighted_by_random_uncertainty(cube, teacher, tmp_path):
    labelled = fc.distil(teacher, cube.assign(fluxes_randunc=cube.fluxes * 0 + 1))
    options = {"model": "xgboost", "bands": (), "config": {"n_estimators": 2}, "target": "NEE"}
    weighed = fc.fit(labelled, out=tmp_path / "run", training={"weight_by_randunc": True}, **options)
    assert np.isfinite(fc.predict(weighed, cube.isel(site=[0])).NEE).any()


def test_held_out_towers_near_a_training_tower_of_the_teacher_are_reported(cube, split, teacher, caplog):
    wide = dataclasses.replace(split, train=split.train[:3], buffer_km=5000.0)
    with caplog.at_level("WARNING", logger="fluxcube.distillation"):
        fc.distil(teacher, cube)
        assert not caplog.records  # the teacher's own split
        fc.distil(teacher, cube, split=wide)
    assert "within 5000 km of a training tower of the teacher" in caplog.text and split.test[0] in caplog.text
