"""The published preset has the published inputs and validation; bounds that scale inputs have names."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from daily_cubes import daily_cube
from training_helpers import FAST, TINY, eco, small_cube

from fluxcube.errors import ConfigError, UnknownNameError
from fluxcube.inference.towers import predict
from fluxcube.models.ecoperceiver import EcoPerceiverConfig
from fluxcube.normalisation import PRESETS, bounds_of, denormalise, normalise, within_bounds
from fluxcube.resolution import DAILY, HOURLY
from fluxcube.samples.features import FeatureSpec, cube_block
from fluxcube.samples.splits import Split
from fluxcube.training.config import TrainingConfig
from fluxcube.training.fit import fit
from fluxcube.training.plan import make_plan
from fluxcube.training.request import FitRequest
from fluxcube.training.settings import configure
from fluxcube.training.single import Data
from fluxcube.variables import PUBLISHED_PREDICTORS

LIMIT = HOURLY.limit(1)


@pytest.fixture(scope="module")
def cube():
    return small_cube()


def planned(cube, **options):
    return make_plan(cube, FitRequest(**{"model": "ecoperceiver", "limit": LIMIT} | options))


@pytest.mark.parametrize("as_mapping", [False, True])
def test_published_inputs(cube, as_mapping):
    config = {"inputs": "published"} if as_mapping else EcoPerceiverConfig.published()
    spec = planned(cube, config=config, training=TrainingConfig.published()).spec
    assert spec.static == () and spec.memory_days == () and spec.bounds == "v1"
    assert set(spec.predictors) <= set(PUBLISHED_PREDICTORS) and "SW_IN_POT" not in spec.predictors
    assert spec.predictors == tuple(n for n in PUBLISHED_PREDICTORS if n in spec.predictors)
    assert spec.bands == tuple(cube.band.values) and "bounds" in spec.to_dict()


def test_other_choices_stand_beside_the_preset(cube):
    config = EcoPerceiverConfig.published()
    chosen = planned(cube, config=config, static=("igbp",), bounds="v2", predictors=("TA", "SW_IN_POT")).spec
    assert (chosen.static, chosen.bounds, chosen.predictors) == (("igbp",), "v2", ("TA", "SW_IN_POT"))
    ours = planned(cube).spec
    assert ours.static == ("latitude", "elevation", "igbp") and ours.bounds == "ours" and "SW_IN_POT" in ours.inputs
    trees = planned(cube, model="xgboost").spec
    assert trees.bounds == "table" and "bounds" not in trees.to_dict()
    daily = make_plan(daily_cube(), FitRequest(model="lstm", limit=DAILY.limit(0.5))).spec
    assert daily.bounds == "table" and "bounds" not in daily.to_dict()


def test_the_command_has_the_preset(cube):
    config, training = configure("ecoperceiver", "published", ["config.latent=16", "config.heads=2"])
    assert isinstance(config, EcoPerceiverConfig) and config.inputs == "published" and config.latent == 16
    assert training.val_windows is None and training.val_quality == "training"


def test_published_validation_scores_every_hour_that_training_would_use(cube):
    cube = cube.assign(fluxes_qc=cube.fluxes_qc.where(cube.fluxes_qc != 2, 1))
    plan = planned(cube, training=dataclasses.replace(FAST, val_windows=None, val_quality="training"))
    ours = planned(cube, training=FAST)
    one, other = Data(plan).val, Data(ours).val
    assert one is not None and other is not None
    measured = cube.fluxes_qc.sel(site=list(plan.split.val), target="NEE")
    assert one.observed().sum() == int((measured.isin([0, 1])).sum())
    assert other.observed().sum() == int((measured == 0).sum()) < one.observed().sum()


def test_a_published_run_is_trained_and_predicts(cube, tmp_path):
    config = dataclasses.replace(TINY, inputs="published", head="last")
    training = dataclasses.replace(FAST, epochs=1, windows_per_epoch=32, val_windows=None, val_quality="training")
    run = eco(cube, tmp_path / "run", config=config, training=training)
    about = json.loads((run.path / "run.json").read_text("utf-8"))
    assert about["features"]["static"] == [] and about["features"]["bounds"] == "v1"
    assert np.isfinite(predict(run, cube.isel(site=[0])).NEE).any()
    assert run.history[0]["val_nse_NEE"] == run.history[0]["val_nse_NEE"]


def test_the_request_of_other_runs_is_as_before(cube):
    request = planned(cube, bounds="table").request(0)
    assert "inputs" not in request["config"] and "val_quality" not in request["training"]
    assert "bounds" not in request["features"]
    assert planned(cube).request(0)["features"]["bounds"] == "ours"


def test_a_checkpoint_is_trained_further_with_its_bounds(cube, tmp_path):
    short = dataclasses.replace(FAST, epochs=1, windows_per_epoch=16)
    first = eco(cube, tmp_path / "first", training=short, bounds="table")
    again = eco(cube, tmp_path / "again", training=short, init=first, config=None)
    assert "bounds" not in json.loads((again.path / "run.json").read_text("utf-8"))["features"]
    with pytest.raises(ConfigError, match=r"bounds must be those of the checkpoint.*'table'.*'ours'"):
        eco(cube, tmp_path / "other", training=short, init=first, config=None, bounds="ours")


def test_bounds_have_names():
    with pytest.raises(UnknownNameError, match="ours, table, v1, v2"):
        FeatureSpec(predictors=("TA",), bounds="v3")
    with pytest.raises(ConfigError, match="hourly predictors"):
        FeatureSpec(predictors=("TA",), resolution="daily", bounds="ours")
    assert bounds_of("SW_IN", bounds="v1") == (0, 2000) and bounds_of("SW_IN", bounds="v2") == (-1500, 1500)
    assert bounds_of("SW_IN") == (-1500, 1500) and bounds_of("RH", bounds="ours") == (0, 100)
    for preset in PRESETS.values():
        assert all(low < high for low, high in preset.values())


@pytest.mark.parametrize(
    "name", ["SW_IN", "SW_IN_POT", "LW_IN", "PPFD_IN", "PPFD_OUT", "SW_OUT", "LW_OUT", "WS", "USTAR"]
)
def test_ours_waste_no_half_of_the_range(name):
    """What is never negative begins at -0.5; the bounds of the table leave the lower half empty."""
    low, high = (normalise(np.array([value]), [name], bounds="ours")[0] for value in bounds_of(name, bounds="ours"))
    assert (low, high) == (-0.5, 0.5) and bounds_of(name, bounds="ours")[0] == 0
    values = np.array([[0.3 * bounds_of(name, bounds="ours")[1]]])
    back = denormalise(normalise(values, [name], bounds="ours"), [name], bounds="ours")
    np.testing.assert_allclose(back, values)


def test_a_sensor_offset_is_no_missing_value():
    values = np.array([-4.0, -75.0, -76.0, 1575.0, 1576.0, np.nan], np.float32)
    np.testing.assert_array_equal(within_bounds(values, "SW_IN", bounds="ours"), [0, 0, np.nan, 1500, np.nan, np.nan])
    np.testing.assert_array_equal(within_bounds(np.array([103.0, 106.0]), "RH", bounds="ours"), [100.0, np.nan])
    np.testing.assert_array_equal(within_bounds(np.array([-4.0, 2001.0]), "SW_IN", bounds="v1"), [np.nan, np.nan])
    np.testing.assert_array_equal(within_bounds(np.array([-4.0, 361.0]), "WD", bounds="ours"), [np.nan, np.nan])
    assert within_bounds(values, "SW_IN").dtype == np.float32


def test_features_are_scaled_by_the_bounds_of_their_spec(cube):
    light = float(cube.predictors.sel(variable="SW_IN").isel(site=0).max())
    for bounds, (low, high) in {"table": (-1500, 1500), "v1": (0, 2000), "ours": (0, 1500)}.items():
        spec = FeatureSpec(predictors=("TA", "SW_IN"), memory_days=(1,), bounds=bounds)
        block = cube_block(cube.isel(site=[0]), spec)
        assert np.nanmax(block.inputs[0, :, 1]) == pytest.approx((light - (low + high) / 2) / (high - low), abs=1e-6)
        assert FeatureSpec.from_dict(spec.to_dict()) == spec
        assert np.isfinite(block.inputs[0, :, 1]).sum() == np.isfinite(cube.predictors.sel(variable="SW_IN")[0]).sum()


def test_fit_passes_bounds_on(cube, tmp_path):
    split = Split(train=tuple(map(str, cube.site.values[:6])))
    run = fit(cube, model="sw-linear", out=tmp_path / "run", bounds="v2", split=split)
    assert json.loads((run.path / "run.json").read_text("utf-8"))["features"]["bounds"] == "v2"


@pytest.mark.parametrize(
    ("coord", "dim", "name", "units", "expected"),
    [("target_units", "target", "NEE", "gC m-2 d-1", "umol m-2 s-1"), ("units", "variable", "TA", "K", "degC")],
)
def test_a_cube_in_other_units_is_refused(cube, tmp_path, coord, dim, name, units, expected):
    """Its estimates would be labelled with the units of the variable table."""
    other = np.where(cube[dim] == name, units, cube[coord].values).astype(object)
    with pytest.raises(ConfigError, match=f"{name} must be in {expected}, found {units}"):
        fit(cube.assign_coords({coord: (dim, other)}), model="sw-linear", out=tmp_path / "run")
    spelled = np.where(cube[dim] == name, {"umol m-2 s-1": "µmol m⁻² s⁻¹", "degC": "°C"}[expected], cube[coord].values)
    fit(cube.assign_coords({coord: (dim, spelled.astype(object))}), model="sw-linear", out=tmp_path / "run")


def test_a_checkpoint_keeps_its_inputs(cube, tmp_path):
    options = {"training": TrainingConfig(epochs=1, windows_per_epoch=4, keep="last")}
    run = fit(cube, out=tmp_path / "run", **options)
    with pytest.raises(ConfigError, match="inputs='published' has no effect"):
        fit(cube, out=tmp_path / "more", init=run, config={"inputs": "published"}, **options)
