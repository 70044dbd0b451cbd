"""Fits with surface reflectance: columns, static numbers and band tokens reach the models and their checkpoints."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
import xarray as xr
from daily_cubes import FAST, TARGETS, TINY, TINY_TAM, daily_cube
from surface_cubes import with_surface

from fluxcube.errors import ConfigError, UnknownNameError
from fluxcube.experiments import Variant
from fluxcube.inference.loading import load_model
from fluxcube.inference.towers import predict
from fluxcube.models import checkpoint
from fluxcube.models.base import Batch, Sizes
from fluxcube.models.boosting import Boosting, BoostingConfig
from fluxcube.models.ecoperceiver import EcoPerceiver, EcoPerceiverConfig
from fluxcube.samples.features import FeatureSpec, cube_block
from fluxcube.samples.surface import DEFAULT_COLUMNS, STATISTICS, SurfaceRecord
from fluxcube.samples.towers import cube_spec
from fluxcube.samples.windows import gather
from fluxcube.simulation.example import example_cube
from fluxcube.training.config import TrainingConfig
from fluxcube.training.fit import fit
from fluxcube.training.plan import sizes_of
from fluxcube.training.run import differences

ECO = {
    "latent": 8,
    "frequencies": 2,
    "embedding": 4,
    "context": 6,
    "heads": 2,
    "blocks": 1,
    "self_layers": 0,
    "dropout": 0.0,
    "head": "dense",
}
ONCE = {"epochs": 1, "batch_size": 16, "windows_per_epoch": 32, "val_windows": 16}
PREDICTORS = ("DOY", "TOD", "TA", "SW_IN")


@pytest.fixture(scope="module")
def hourly():
    return with_surface(example_cube(sites=12, days=10), clear=0.5)


@pytest.fixture(scope="module")
def points(hourly, tmp_path_factory):
    """EcoPerceiver with columns, static numbers and band tokens of one pixel."""
    options = {"predictors": PREDICTORS, "bands": ("red", "nir", "swir2"), "pixels": 1}
    return fit(hourly, out=tmp_path_factory.mktemp("run") / "eco", config=ECO, training=ONCE, **options)


def test_the_checkpoint_describes_its_surface_features(points, hourly):
    about = json.loads((points.path / "run.json").read_text())
    spec = FeatureSpec.from_dict(about["features"])
    assert spec.surface == DEFAULT_COLUMNS
    assert (spec.pixels, spec.bands, spec.lookahead) == (1, ("red", "nir", "swir2"), 0)
    model, _ = checkpoint.load(points)
    assert model.sizes.pixels == 1 and model.band_weight.shape[1] == 1
    assert "NDVI_MEAN_16D" in spec.inputs and spec.inputs.index("NDVI_MEAN_16D") not in model.sizes.protected
    older = {key: value for key, value in dataclasses.asdict(model.sizes).items() if key != "pixels"}
    assert Sizes.from_dict(older).pixels == 64


_SEASONAL = ("NDVI", "NIRv", "LSWI", "CCI")


def with_climatology(cube):
    """Return a cube with statistics of its reflectance, which without them are computed from all of its days."""
    record = SurfaceRecord(cube.surface.values, cube.surface_day.values, tuple(cube.surface_band.values))
    values = np.stack([record.statistics(name) for name in _SEASONAL], -1)
    coords = {"statistic": list(STATISTICS), "feature": list(_SEASONAL)}
    return cube.assign(surface_climatology=xr.DataArray(values, coords, ("site", "statistic", "feature")))


def test_predictions_depend_on_the_reflectance_and_not_on_later_days(points, hourly):
    cube = with_climatology(hourly.isel(site=[0, 1]))
    flux = predict(load_model(points), cube).NEE.values
    later = cube.surface_day >= np.datetime64("2018-06-06")
    other = predict(load_model(points), cube.assign(surface=cube.surface.where(~later, 0.2))).NEE.values
    noon = (12 - cube.longitude.values / 15).astype(int) + 24 * 5
    for place in range(2):
        np.testing.assert_array_equal(flux[place, : noon[place]], other[place, : noon[place]])
        assert not np.array_equal(flux[place, noon[place] :], other[place, noon[place] :], equal_nan=True)
    cloudy = predict(load_model(points), cube.assign(surface=cube.surface * np.nan)).NEE.values
    assert np.isfinite(cloudy[:, 6:]).all(), "a place without a view is estimated from the other inputs"
    lazy = predict(load_model(points), cube.chunk(site=1, surface_day=40)).NEE.values
    np.testing.assert_allclose(lazy, flux, atol=1e-5)


def test_predictions_do_not_depend_on_what_masked_tokens_contain(points, hourly, monkeypatch):
    from fluxcube.models import tokens

    model, metadata = checkpoint.load(points)
    gaps = hourly.isel(site=[0]).assign(surface=hourly.isel(site=[0]).surface.where(hourly.surface_day.dt.day % 3 == 0))
    block = cube_block(gaps, FeatureSpec.from_dict(metadata["features"]))
    stop = np.arange(6, 240, 7)
    batch = Batch.of(gather(block, np.zeros(len(stop), int), stop, 6))
    torch.nn.init.normal_(model.head.weight)
    before = model.predict(batch)
    monkeypatch.setattr(tokens, "_PLACEHOLDER", 7.5)
    np.testing.assert_array_equal(model.predict(batch), before)
    broken = batch._replace(images=np.where(np.isfinite(batch.images), batch.images + 0.1, batch.images))
    assert not np.array_equal(model.predict(broken), before, equal_nan=True), "band tokens are read"


@pytest.mark.parametrize("pixels", [1, 64])
def test_band_tokens_of_any_number_of_pixels_slide_as_windows_do(pixels):
    torch.manual_seed(0)
    sizes = Sizes(inputs=3, bands=2, targets=1, pixels=pixels)
    model = EcoPerceiver(EcoPerceiverConfig(**{**ECO, "head": "last"}), sizes).eval()
    torch.nn.init.normal_(model.head.weight)
    rng = np.random.default_rng(0)
    inputs = rng.uniform(-0.5, 0.5, (1, 60, 3)).astype("float32")
    images = rng.random((1, 3, 2, pixels), np.float32)
    images[0, 1, 1] = np.nan
    rest = {"numbers": np.empty((1, 0), np.float32), "classes": np.empty((1, 0), np.int64)}
    whole = model.predict(Batch(inputs=inputs, images=images, image_step=np.array([[3, 20, 40]]), **rest))
    for stop in (10, 23, 26, 59):
        step = np.array([[3, 20, 40]]) - (stop - 6)
        latest = np.flatnonzero(step[0] <= 0)
        known = (step[0] > 0) & (step[0] < 6)
        known[latest[-1:]] = True
        at = np.where(known, np.maximum(step, 0), -1)
        window = Batch(inputs=inputs[:, stop - 6 : stop], images=images, image_step=at, **rest)
        np.testing.assert_allclose(model.predict(window)[0, -1], whole[0, stop - 1], atol=1e-5)


def test_trees_have_columns_and_numbers_and_their_lags_repeat_no_column(hourly, tmp_path):
    options = {"model": "xgboost", "predictors": PREDICTORS, "bands": (), "static": ("igbp", "NDVI_P50")}
    config = {"n_estimators": 3, "lags": (1, 2)}
    run = fit(hourly, out=tmp_path / "xgb", config=config, **options)
    model, metadata = checkpoint.load(run)
    spec = FeatureSpec.from_dict(metadata["features"])
    batch = Batch.of(gather(cube_block(hourly.isel(site=[0]), spec), np.zeros(1, int), np.array([100]), model.context))
    rows = model.rows(batch)
    lagged = 2 * 2  # TA and SW_IN, twice
    classes = sum(map(len, spec.class_lists.values()))
    assert rows.shape[1] == len(spec.inputs) + lagged + len(spec.numbers) + classes
    at = len(spec.inputs) + lagged + spec.numbers.index("NDVI_P50")
    assert rows[0, at] == batch.numbers[0, spec.numbers.index("NDVI_P50")] and np.isfinite(rows[0, at])
    tokens = fit(hourly, out=tmp_path / "one", config=config, **(options | {"bands": ("red",), "pixels": 1}))
    model, metadata = checkpoint.load(tokens)
    spec = FeatureSpec.from_dict(metadata["features"])
    batch = Batch.of(gather(cube_block(hourly.isel(site=[0]), spec), np.zeros(1, int), np.array([100]), model.context))
    latest = np.argmax(batch.image_step[0])
    assert model.rows(batch)[0, len(spec.inputs) + lagged] == batch.images[0, latest, 0, 0]
    assert isinstance(model, Boosting) and isinstance(model.config, BoostingConfig)


def test_daily_networks_have_the_same_columns(tmp_path):
    cube = with_surface(daily_cube(sites=12, days=80), clear=0.5)
    training = dataclasses.replace(FAST, epochs=1)
    options = {"target": TARGETS, "predictors": ("DOY", "TA", "SW_IN"), "training": training}
    for model, config in (("ct-lstm", TINY), ("tam-rl", TINY_TAM)):
        run = fit(cube, model=model, out=tmp_path / model, config=config, **options)
        spec = FeatureSpec.from_dict(run.metadata["features"] if hasattr(run, "metadata") else features_of(run))
        assert spec.surface == DEFAULT_COLUMNS and spec.input_scale
        flux = predict(load_model(run), cube.isel(site=[0])).NEE.values
        other = predict(load_model(run), cube.isel(site=[0]).assign(surface=cube.surface[[0]] * 1.3)).NEE.values
        assert not np.array_equal(flux, other, equal_nan=True), model


def features_of(run) -> dict:
    return json.loads((run.path / "run.json").read_text())["features"]


def test_options_of_a_fit_are_checked_and_change_the_features(hourly, tmp_path):
    options = {"model": "xgboost", "config": {"n_estimators": 1}, "predictors": PREDICTORS, "bands": ()}
    runs = {
        "none": {"surface": ()},
        "some": {"surface": ("NDVI", "NDVI_SEASON"), "static": ("NDVI_P90",)},
        "early": {"surface": ("NDVI",), "lookahead": 8},
    }
    found = {name: features_of(fit(hourly, out=tmp_path / name, **options, **extra)) for name, extra in runs.items()}
    assert "surface" not in found["none"] and found["none"]["static"] == ["latitude", "elevation", "igbp"]
    assert found["some"]["surface"] == ["NDVI", "NDVI_SEASON"] and found["some"]["static"] == ["NDVI_P90"]
    assert found["early"]["lookahead"] == 8
    for error, message, extra in (
        (ConfigError, "no surface reflectance", {"cube": hourly.drop_vars("surface"), "surface": ("NDVI",)}),
        (ConfigError, "pixels=1, but the cube has no surface", {"cube": hourly.drop_vars("surface"), "pixels": 1}),
        (UnknownNameError, "surface column 'NDVII'", {"surface": ("NDVII",)}),
        (UnknownNameError, "band of the cube 'water'", {"bands": ("water",), "pixels": 1}),
        (ConfigError, "lookahead=4 has no effect", {"surface": (), "lookahead": 4}),
    ):
        extra = {"bands": None, **extra}
        with pytest.raises(error, match=message):
            fit(extra.pop("cube", hourly), out=tmp_path / "no", **{**options, **extra})


def test_published_inputs_have_no_reflectance_of_a_point(hourly, tmp_path):
    config = ECO | {"inputs": "published"}
    run = fit(hourly, out=tmp_path / "run", config=config, training=ONCE, bands=())
    assert "surface" not in features_of(run) and features_of(run)["static"] == []


def test_a_checkpoint_is_trained_further_with_more_columns(points, hourly, tmp_path):
    spec = FeatureSpec.from_dict(features_of(points))
    run = fit(hourly, out=tmp_path / "more", init=points.path, training=ONCE, surface=(*spec.surface, "EVI"))
    assert features_of(run)["surface"][-1] == "EVI" and features_of(run)["pixels"] == 1
    with pytest.raises(ConfigError, match="lookahead must be those of the checkpoint"):
        fit(hourly, out=tmp_path / "other", init=points.path, training=ONCE, lookahead=2)


def test_a_daily_request_of_an_earlier_version_is_the_same():
    columns = ["red", "NDVI"]
    now = {"features": {"resolution": "daily", "bands": [], "surface": columns, "static": []}}
    was = {"features": {"resolution": "daily", "bands": columns, "static": []}}
    assert differences(was, now) == "" == differences(now, now)
    other = {"features": now["features"] | {"surface": ["red"]}}
    assert "features.surface was ['red', 'NDVI']" in differences(was, other)
    assert "features.surface" in differences({"features": was["features"] | {"bands": []}}, now)


def test_training_settings_may_be_a_mapping(hourly, tmp_path):
    with pytest.raises(UnknownNameError, match="epoch"):
        fit(hourly, out=tmp_path / "run", config=ECO, training={"epoch": 1})
    run = fit(hourly, out=tmp_path / "run", config=ECO, training=ONCE, bands=(), surface=())
    about = json.loads((run.path / "run.json").read_text())
    assert about["training"]["epochs"] == 1 and about["training"]["lr"] == TrainingConfig().lr


def test_variants_name_their_surface_features():
    base = Variant(label="a")
    assert (base.surface, base.lookahead, base.pixels) == ((), 0, 64)
    assert Variant.from_dict({"label": "b", "surface": ["NDVI"]}).surface == ("NDVI",)
    assert Variant.from_dict({"label": "b", "surface": "default"}).surface == "default"


def test_sizes_count_columns_as_inputs_that_change_daily(hourly):
    spec = FeatureSpec(predictors=("DOY", "TA"), memory_days=(7,), surface=("NDVI", "SURFACE_AGE"))
    sizes = sizes_of(spec)
    assert (sizes.inputs, sizes.means, sizes.bands, sizes.protected) == (5, 3, 0, (0,))


def test_columns_that_no_view_can_fill_are_refused_before_training(hourly, tmp_path):
    without = hourly.drop_vars([name for name in hourly.variables if str(name).startswith("surface")])
    for options, message in (
        ({"surface": ("LSWI",)}, "LSWI needs the bands nir, swir2, and .* lacks swir2"),
        ({"surface": "SURFACE_AGE", "static": ("NDVI_P10", "CCI_P90")}, "CCI_P90 needs the bands .* lacks green531"),
    ):
        with pytest.raises(ConfigError, match=message):
            fit(hourly.sel(surface_band=["red", "nir"]), model="xgboost", out=tmp_path / "r", bands=(), **options)
    with pytest.raises(ConfigError, match=r"NDVI_P90.*no surface reflectance: build it with surface="):
        fit(without, model="xgboost", out=tmp_path / "r", bands=(), static=("latitude", "NDVI_P90"))
    assert not (tmp_path / "r").exists()


def test_one_column_may_be_a_text(hourly):
    assert cube_spec(hourly, bands=(), surface="NDVI").surface == ("NDVI",)
    with pytest.raises(UnknownNameError, match="'ndvi'"):
        cube_spec(hourly, bands=(), surface="ndvi")
