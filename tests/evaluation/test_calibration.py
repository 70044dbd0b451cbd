"""Calibration on predictions of held-out towers: intervals of 80 % contain 80 % of the measured values."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest
import xarray as xr

import fluxcube as fc
from fluxcube.errors import CheckpointError, ConfigError
from fluxcube.evaluation.calibration import coverage_table, fold_predictor, predict_fold
from fluxcube.evaluation.report import format_table
from fluxcube.inference.loading import load_model, load_reference, save_mixed
from fluxcube.models import shipped
from fluxcube.models.errormodel import ErrorModel
from fluxcube.samples.splits import Split
from fluxcube.simulation.example import example_cube
from fluxcube.training.calibration import error_calibration, fit_error_model
from fluxcube.training.fit import fit

TARGETS = ("NEE", "GPP_NT")


@pytest.fixture(scope="module")
def cube():
    return example_cube(sites=12, days=8)


@pytest.fixture(scope="module")
def folds(cube, tmp_path_factory):
    """Mixed ensembles of two folds, and their predictions of the towers that they were not trained on."""
    folder, sites = tmp_path_factory.mktemp("folds"), tuple(map(str, cube.site.values))
    mixed, parts = [], []
    for fold, test in enumerate((sites[::2], sites[1::2])):
        split = Split(train=tuple(site for site in sites if site not in test), test=test)
        kinds = ("sw-linear", "mean-cycle")
        runs = [fit(cube, model=kind, target=TARGETS, out=folder / f"{kind}-{fold}", split=split) for kind in kinds]
        mixed.append(save_mixed(folder / f"mixed-{fold}", runs))
        parts.append(fc.predict(mixed[-1], cube.sel(site=list(test)), uncertainty="spread"))
    return mixed, xr.concat(parts, "site")


@pytest.fixture
def run(folds, tmp_path):
    return shutil.copytree(folds[0][0], tmp_path / "mixed")


def test_intervals_of_the_calibrated_run_contain_what_they_promise(run, folds, cube):
    with pytest.raises(ConfigError, match="NEE, GPP_NT"):
        fc.predict(run, cube, uncertainty="std")
    before = fc.predict(run, cube, uncertainty=True)
    found = fc.calibrate(run, cube, folds[1])
    assert set(found) == set(TARGETS) and "NEE_std" not in before
    made = fc.predict(run, cube, uncertainty="std")
    xr.testing.assert_equal(made[list(TARGETS)], before[list(TARGETS)])
    assert {name for name in made if "_" in name and name.endswith(("std", "spread"))} == {"NEE_std", "GPP_NT_std"}
    for name in TARGETS:
        model = ErrorModel(**found[name]["error_model"])
        estimates = {"mean": before[name].values, "spread": before[f"{name}_spread"].values}
        np.testing.assert_allclose(made[f"{name}_std"], model.apply(estimates), rtol=1e-5)
        assert made[f"{name}_std"].attrs["error_model"] == model.formula(name) and model.floor > 0
        assert made[f"{name}_std"].attrs["coverage_80"] == pytest.approx(found[name]["held_out"]["0.8"], abs=1e-4)
        assert found[name]["calibrated"]["0.8"] == pytest.approx(0.8, abs=0.01)
        assert found[name]["held_out"]["0.8"] == pytest.approx(0.8, abs=0.15)
        assert set(found[name]["by_class"]) == set(cube.igbp.values) and found[name]["sites"] == 12
        held_out, predicted = cube.fluxes.sel(target=name).where(cube.fluxes_qc.sel(target=name) == 0), folds[1]
        of_folds = {"mean": predicted[name].values, "spread": predicted[f"{name}_spread"].values}
        inside = np.abs(held_out.sel(site=predicted.site).values - predicted[name].values) <= 1.2816 * model.apply(
            of_folds
        )
        measured = np.isfinite(held_out.sel(site=predicted.site).values) & np.isfinite(predicted[name].values)
        assert inside[measured].mean() == pytest.approx(0.8, abs=0.01)
    table = coverage_table(found).set_index(["target", "class"])
    assert set(table.loc["NEE"].index) == {"all", *cube.igbp.values}
    assert table.loc[("NEE", "all"), "coverage of 80 % intervals (%)"] == 100 * found["NEE"]["held_out"]["0.8"]


def test_a_lazy_prediction_of_the_run_as_it_was_is_refused(run, folds, cube):
    reference = load_model(run).reference
    fc.calibrate(run, cube, folds[1])
    assert load_model(run).calibrated == TARGETS and load_model(run).reference != reference
    made = fc.upscale(run, fc_forcing(), uncertainty=True)
    assert {"NEE_std", "NEE_spread"} <= set(made) and float(made.NEE_std.min()) > 0
    with pytest.raises(CheckpointError, match="calibrated again"):
        load_reference(type(reference)(reference.path, "".join(reference.digest), reference.seal + "0"))


def fc_forcing():
    from fluxcube.simulation.example import example_forcing

    return example_forcing(shape=(2, 2), days=3)


def test_predictions_of_training_towers_are_refused(run, folds, cube):
    model = load_model(run)
    own = fc.predict(model, cube, uncertainty="spread")
    with pytest.raises(ConfigError, match=r"XX-S01.*6 towers.*smaller than those at new places"):
        fc.calibrate(run, cube, own)
    unknown = folds[1].drop_vars("in_training")
    with pytest.raises(ConfigError, match="out_of_fold=True"):
        fc.calibrate(run, cube, unknown)
    one = fc.calibrate(run, cube, unknown, out_of_fold=True)
    assert one == fc.calibrate(run, cube, folds[1])


def test_a_standard_deviation_is_refused_for_the_targets_that_lack_it(run, folds, cube):
    fc.calibrate(run, cube, folds[1][["NEE", "NEE_spread"]])
    with pytest.raises(ConfigError, match="standard deviation of GPP_NT:"):
        fc.predict(run, cube, uncertainty="std")
    maps = fc.upscale(run, fc_forcing(), targets=["NEE"], uncertainty="std")
    assert "NEE_std" in maps and "NEE_spread" not in maps
    assert {"NEE_std", "NEE_spread", "GPP_NT_spread"} <= set(fc.predict(run, cube, uncertainty=True))


def test_what_cannot_be_calibrated_is_named(run, folds, cube, tmp_path):
    predictions = folds[1]
    with pytest.raises(ConfigError, match="lack NEE_spread"):
        fc.calibrate(run, cube, predictions.drop_vars("NEE_spread"))
    with pytest.raises(ConfigError, match="no target of the run"):
        fc.calibrate(run, cube, predictions[[]])
    with pytest.raises(ConfigError, match="too few measured values"):
        fc.calibrate(run, cube, predictions.where(predictions.time < predictions.time[1]))
    with pytest.raises(ConfigError, match="in no folder"):
        fc.calibrate(load_model([part.path for part in load_model(run).parts]), cube, predictions)
    with pytest.raises(ConfigError, match="ships with the package"):
        fc.calibrate(shipped.FOLDER / "ecoperceiver-towers", cube, predictions)


def test_a_single_model_has_an_error_that_grows_with_its_flux(folds, cube, tmp_path):
    run = shutil.copytree(load_model(folds[0][0]).parts[0].path, tmp_path / "line")
    with pytest.raises(ConfigError, match=r"does not estimate the error.*fluxcube\.calibrate"):
        fc.predict(run, cube, uncertainty=True)
    found = fc.calibrate(run, cube, folds[1].drop_attrs(deep=False))
    made = fc.predict(run, cube, uncertainty=True)
    assert "NEE_std" in made and "NEE_spread" not in made and found["NEE"]["error_model"]["spread"] == 0
    with pytest.raises(ConfigError, match="no spread"):
        fc.predict(run, cube, uncertainty="spread")


def test_an_error_model_is_found_again_and_wide_towers_are_reported():
    rng = np.random.default_rng(0)
    mean, spread = rng.normal(0, 5, 40000), rng.gamma(2, 0.5, 40000)
    truth = ErrorModel(floor=0.5, flux=0.2, spread=0.8)
    estimates = {"mean": mean, "spread": spread}
    found = fit_error_model(rng.normal(size=mean.size) * truth.apply(estimates), estimates)
    np.testing.assert_allclose([found.floor, found.flux, found.spread], [0.5, 0.2, 0.8], atol=0.05)
    constant = fit_error_model(rng.normal(size=mean.size), estimates)
    assert constant.floor == pytest.approx(1, abs=0.05) and constant.flux < 0.01 and constant.spread < 0.05
    site = np.repeat([0, 1, 2, 3], 10000)
    group = np.array(["DBF", "DBF", "GRA", ""])[site]
    residual = rng.normal(size=mean.size) * np.where(site == 2, 6.0, 1.0)
    report = error_calibration(residual, estimates, site, site, group)
    assert report["calibrated"]["0.8"] == pytest.approx(0.8, abs=0.01)
    assert set(report["by_class"]) == {"DBF", "GRA"} and report["by_class"]["DBF"]["0.8"] > 0.9
    assert report["by_class"]["GRA"]["0.8"] < 0.4 and report["by_class"]["DBF"]["sites"] == 2
    assert error_calibration(residual[:10], {"mean": mean[:10]}, site[:10], site[:10], group[:10]) == {}


@pytest.mark.parametrize("wrong", [{"floor": 0.0}, {"floor": -1.0}, {"floor": 1.0, "flux": float("nan")}])
def test_an_error_model_has_a_floor_and_no_negative_part(wrong):
    with pytest.raises(ConfigError, match="error model"):
        ErrorModel(**wrong)
    with pytest.raises(CheckpointError, match="damaged"):
        ErrorModel.from_dict(wrong | {"power": 2})


def with_std(cube, factor):
    """Predictions of NEE with a random error of 2, and standard deviations that are `factor` times that."""
    rng = np.random.default_rng(3)
    truth = cube.fluxes.sel(target="NEE", drop=True)
    std = xr.full_like(truth, 2.0 * factor).assign_attrs(units="umol m-2 s-1")
    pred = (truth + 2.0 * rng.normal(size=truth.shape).astype(np.float32)).assign_attrs(units="umol m-2 s-1")
    return xr.Dataset({"NEE": pred, "NEE_std": std})


def test_tables_of_scores_report_the_coverage_of_the_intervals(cube):
    right, narrow = with_std(cube, 1.0), with_std(cube, 0.5)
    table = fc.compare(
        cube, {"right": right, "narrow": narrow, "none": right[["NEE"]]}, by="igbp", clusters=50, draws=100
    )
    rows = table.set_index(["group", "model"]).coverage_80
    whole = fc.evaluate(cube, right)
    assert float(whole.coverage_80.sel(target="NEE")) == pytest.approx(0.8, abs=0.02)
    assert float(fc.evaluate(cube, narrow).coverage_80.sel(target="NEE")) == pytest.approx(0.478, abs=0.03)
    assert (rows.xs("narrow", level="model") < rows.xs("right", level="model")).all()
    assert rows.xs("none", level="model").isna().all() and "coverage of 80 % intervals" in format_table(table)
    hours = table.query("model == 'right'").n
    mean = (rows.xs("right", level="model").values * hours).sum() / hours.sum()
    assert mean == pytest.approx(float(whole.coverage_80.sel(target="NEE")))
    seasons = fc.evaluate(cube, right, by="season").coverage_80.sel(target="NEE").dropna("group")
    assert len(seasons) and ((seasons > 0.7) & (seasons < 0.9)).all()
    assert "coverage_80" not in fc.compare(cube, {"none": right[["NEE"]]})
    grams = right.copy()
    for name in grams:
        grams[name] = grams[name] * 1e-6
        grams[name].attrs["units"] = "mol m-2 s-1"
    xr.testing.assert_allclose(fc.evaluate(cube, grams).coverage_80, whole.coverage_80, atol=1e-3)


def test_predictions_of_another_kind_of_model_are_refused(run, folds, cube):
    """Their errors are not those of the run."""
    other = folds[1].assign_attrs(model="ecoperceiver")
    with pytest.raises(ConfigError, match="expected predictions of the kind of the run, mixed, found those of ecoperc"):
        fc.calibrate(run, cube, other)


def test_a_gaussian_head_is_calibrated_with_its_own_standard_deviation_and_again(cube, tmp_path):
    config = {"latent": 8, "frequencies": 2, "embedding": 4, "context": 4, "heads": 2, "blocks": 1, "self_layers": 0}
    training = {"epochs": 1, "batch_size": 16, "windows_per_epoch": 64, "keep": "last"}
    options = {"config": config | {"distribution": "gaussian"}, "training": training, "predictors": ("TA", "SW_IN")}
    run = fit(cube, out=tmp_path / "run", split="kfold:1/2", bands=(), **options).path
    towers = load_model(run).split.part(cube, "test")
    part = predict_fold(fold_predictor(run), towers)
    assert "NEE_std" in part
    few = towers.drop_sel(variable="TA")
    with pytest.raises(ConfigError, match="trained on TA, which the cube lacks"):
        predict_fold(fold_predictor(run), few)
    assert predict_fold(fold_predictor(run), few, allow_missing=True).attrs["masked_predictors"] == "TA"
    first = fc.calibrate(run, cube, part)
    again = predict_fold(fold_predictor(run), towers)
    xr.testing.assert_equal(again.NEE_std.compute(), part.NEE_std.compute())
    assert fc.calibrate(run, cube, again) == first
    model = ErrorModel(**first["NEE"]["error_model"])
    made = fc.predict(run, towers, uncertainty="std")
    estimates = {"mean": part.NEE.values, "std": part.NEE_std.values}
    np.testing.assert_allclose(made.NEE_std, model.apply(estimates), rtol=1e-4)


def test_coverage_at_towers_that_calibrated_the_model_is_named(run, folds, cube):
    half = folds[1].isel(site=slice(0, 6))
    found = fc.calibrate(run, cube, half)
    assert set(found["NEE"]["towers"]) == set(map(str, half.site.values))
    made = fc.predict(run, cube, uncertainty="std")
    assert set(made.NEE_std.attrs["calibration_sites"].split()) == set(found["NEE"]["towers"])
    lazy = fc.predict(run, cube.chunk(site=1), uncertainty="std")
    assert lazy.NEE_std.attrs == made.NEE_std.attrs
    table = fc.compare(cube, {"mix": made}, by="igbp")
    note = "Coverage includes that of towers the model was calibrated on, 6 of 12 (mix)"
    assert note in format_table(table) and note in table.attrs["coverage_note"]
    assert "6 of 12" in fc.evaluate(cube, made).coverage_80.attrs["comment"]
    others = fc.compare(cube, {"mix": made.isel(site=~made.site.isin(half.site))})
    assert "Coverage includes" not in format_table(others) and "coverage_80" in others


def test_a_calibration_without_a_record_of_its_towers_counts_for_all_towers_of_the_split(folds):
    member = load_model(folds[0][0]).parts[0]
    split = {"train": ["A"], "val": ["B"], "test": ["C"]}

    def sites(entry):
        model = dataclasses.replace(member, metadata={"split": split, "calibration": {"NEE": entry}})
        return model.calibration_sites("NEE")

    error_model = {"error_model": {"floor": 1.0, "flux": 0.0, "spread": 0.0, "std": 0.0}, "calibrated": {"0.8": 0.8}}
    assert sites(error_model) == ("A", "B", "C")
    assert sites(error_model | {"towers": ["C"]}) == ("C",)
    assert sites({"factor": 1.0}) == ()
