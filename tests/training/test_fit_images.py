"""A second kind of images goes through cube, features, fit, towers and maps like the chips."""

from __future__ import annotations

import dataclasses
import json
import logging

import numpy as np
import pytest
import xarray as xr
from image_cubes import BANDS, random_images
from surface_cubes import with_surface
from training_helpers import FAST

import fluxcube as fc
from fluxcube.errors import ConfigError, SchemaError, UnknownNameError
from fluxcube.models import checkpoint
from fluxcube.samples.features import FeatureSpec, cube_block
from fluxcube.samples.images import ImageKind, ImageRecord, image_kinds, image_tokens
from fluxcube.samples.towers import cube_spec
from fluxcube.simulation.example import example_cube, example_forcing

S2 = {"product": "S2_L2A", "scale": 1e-4}
ECO = {"latent": 16, "frequencies": 3, "embedding": 4, "context": 24, "heads": 2, "blocks": 2, "self_layers": 1}
PREDICTORS = ("TOD", "TA", "SW_IN")
POINT = {
    "xgboost": {"model": "xgboost", "bands": ("red", "nir"), "pixels": 1, "config": {"n_estimators": 3}},
    "ecoperceiver": {
        "bands": ("red", "nir"),
        "pixels": 1,
        "config": ECO | {"attention": "window", "head": "last"},
        "training": FAST,
        "epochs": 1,
    },
}


@pytest.fixture(scope="module")
def cube():
    plain = example_cube(sites=12, days=12)
    more = fc.add_images(plain, "sentinel2", random_images(plain, gaps=0.1), **S2)
    return fc.add_images(
        more, "alpha", random_images(plain, bands=list("abcde"), side=1, scale=1), product="ALPHA", hold_days=400
    )


@pytest.fixture(scope="module")
def forcing():
    plain = example_forcing(days=12)
    more = fc.add_images(plain, "sentinel2", random_images(plain, gaps=0.1), **S2)
    return fc.add_images(
        more, "alpha", random_images(plain, bands=list("abcde"), side=1, scale=1), product="ALPHA", hold_days=400
    )


def learn(cube, out, **options):
    settings = {
        "predictors": PREDICTORS,
        "config": ECO | {"attention": "window", "head": "last"},
        "training": FAST,
        "epochs": 1,
    }
    return fc.fit(cube, out=out, **(settings | options))


@pytest.fixture(scope="module")
def eco(cube, tmp_path_factory):
    return learn(cube, tmp_path_factory.mktemp("eco") / "run")


def test_a_model_uses_all_kinds_by_default(cube, eco, tmp_path):
    model, about = checkpoint.load(eco.path)
    spec = FeatureSpec.from_dict(json.loads(json.dumps(about["features"])))
    assert [kind.name for kind in spec.images] == ["sentinel2", "alpha"]
    assert spec.images[0] == ImageKind(name="sentinel2", bands=BANDS, pixels=9)
    assert spec.images[1].hold_days == 400 and model.sizes.image_pixels == (9, 1)
    assert about["cube"]["images_sentinel2_product"] == "S2_L2A"
    assert cube_spec(cube, images=()).images == () and "images" not in cube_spec(cube, images=()).to_dict()
    assert cube_spec(cube, images=("alpha",)).images == spec.images[1:]
    with pytest.raises(UnknownNameError, match="sentinel2"):
        cube_spec(cube, images=("sentinel",))
    text = "\n".join(map(str, fc.inspect(eco.path).splitlines()))
    assert "band B4 of images_sentinel2" in text


def test_predictions_depend_on_every_kind_and_not_on_later_images(cube, eco):
    model, few = fc.load_model(eco), cube.isel(site=[0, 5])
    flux = fc.predict(model, few).NEE.values
    for name in ("sentinel2", "alpha"):
        array = few[f"images_{name}"]
        days = array[f"{name}_day"].values
        later = xr.DataArray(days == days[-1], dims=f"{name}_day")
        other = fc.predict(model, few.assign({f"images_{name}": array.where(~later, 0.99)})).NEE.values
        noon = (days[-1] - few.time.values[0]) // np.timedelta64(1, "h") + (12 - few.longitude.values / 15).astype(int)
        for place in range(2):
            np.testing.assert_array_equal(flux[place, : noon[place]], other[place, : noon[place]])
            assert not np.array_equal(flux[place, noon[place] :], other[place, noon[place] :], equal_nan=True)
        gone = fc.predict(model, few.assign({f"images_{name}": array * np.nan})).NEE.values
        assert np.isfinite(gone[:, 24:]).all()
    lazy = fc.predict(model, few.chunk(site=1, sentinel2_day=1)).NEE.values
    np.testing.assert_allclose(lazy, flux, atol=1e-5)


@pytest.mark.parametrize("stride", [1, None])
def test_a_cell_is_estimated_as_a_tower_with_its_values(eco, forcing, cube, stride):
    """The same numbers as a tower of one cell, for chunks of any length."""
    model = fc.load_model(eco)
    maps = fc.upscale(model, forcing, time_chunk=96, stride=stride).NEE.compute()
    whole = fc.upscale(model, forcing.chunk(latitude=1, time=48), stride=stride).NEE.compute()
    np.testing.assert_allclose(maps, whole, atol=1e-5)
    cell = forcing.isel(latitude=1, longitude=2)
    kinds = {f"images_{n}": cell[f"images_{n}"].expand_dims("site") for n in ("sentinel2", "alpha")}
    one = cube.isel(site=[0], time=slice(0, forcing.sizes["time"]))
    shared = cell.predictors.reindex(variable=one["variable"]).transpose("time", "variable").values[None]
    one = one.drop_dims([d for d in one.dims if str(d).startswith(("sentinel2", "alpha"))]).assign(kinds)
    one["predictors"] = one.predictors.copy(data=shared)
    one["predictors_qc"] = one.predictors_qc.copy(data=np.where(np.isfinite(shared), 0, -1).astype("int8"))
    one = one.assign(modis=one.modis.copy(data=cell.modis.values[None]))
    place = {"latitude": [float(cell.latitude)], "longitude": [float(cell.longitude)], "elevation": [450.0]}
    one = one.assign_coords({k: ("site", v) for k, v in place.items()})
    one = one.assign_coords(igbp=("site", np.array([str(cell.igbp.values)], object)))
    tower = fc.predict(model, one, stride=stride).NEE.values[0]
    np.testing.assert_allclose(maps.transpose("time", ...).values[:, 1, 2], tower, atol=1e-5)


def test_maps_need_the_images_and_their_product(eco, forcing):
    without = forcing.drop_vars("images_sentinel2")
    with pytest.raises(ConfigError, match=r"band B4 of images_sentinel2.*add_images on the forcing"):
        fc.upscale(eco, without)
    maps = fc.upscale(eco, without, allow_missing=True)
    assert np.isfinite(maps.NEE.isel(time=100).values).sum() == 11
    other = forcing.copy()
    other["images_sentinel2"] = other.images_sentinel2.assign_attrs(product="HLS")
    with pytest.raises(ConfigError, match=r"trained on S2_L2A.*HLS"):
        fc.upscale(eco, other)
    assert fc.upscale(eco, other, allow_other_product=True).attrs["images_sentinel2_product"] == "HLS"
    larger = fc.add_images(without, "sentinel2", random_images(forcing, side=5), **S2)
    with pytest.raises(ConfigError, match="images of 9 pixels, found 25"):
        fc.upscale(eco, larger).compute()


def test_trees_and_mixed_models_use_them(cube, eco, forcing, tmp_path):
    options = {"predictors": PREDICTORS, "config": {"n_estimators": 5}, "images": ("sentinel2",)}
    run = fc.fit(cube, model="xgboost", out=tmp_path / "trees", **options)
    trees = fc.load_model(run)
    assert trees.spec.images[0].name == "sentinel2" and not trees.spec.fill_chips
    mixed = fc.load_model([eco, run])
    assert [kind.name for kind in mixed.spec.images] == ["sentinel2", "alpha"]
    maps = [fc.upscale(model, forcing).NEE.compute() for model in (eco, run, mixed)]
    np.testing.assert_allclose((maps[0] + maps[1]) / 2, maps[2], atol=1e-5)


def test_a_checkpoint_is_trained_further_with_one_more_kind(cube, tmp_path):
    first = learn(cube, tmp_path / "one", images=("sentinel2",))
    again = learn(cube, tmp_path / "two", init=first, config=None, images=("sentinel2", "alpha"))
    assert [kind.name for kind in fc.load_model(again).spec.images] == ["sentinel2", "alpha"]
    same = learn(cube, tmp_path / "three", init=first, config=None)
    assert [kind.name for kind in fc.load_model(same).spec.images] == ["sentinel2"]
    with pytest.raises(ConfigError, match="images must begin with those of the checkpoint"):
        learn(cube, tmp_path / "four", init=first, config=None, images=("alpha",))


def test_the_area_of_applicability_includes_their_bands(eco, cube, forcing):
    model = fc.load_model(eco)
    assert {"images_sentinel2 B4", "images_alpha a"} <= set(model.training_days().names)
    near = fc.predict(model, cube.isel(site=[0]), applicability=True).dissimilarity
    assert np.isfinite(near.values[:, 48:]).all()


def test_holes_in_the_time_axis_change_no_image(cube):
    spec = cube_spec(cube, predictors=PREDICTORS)
    holed = cube.isel(site=[0, 3], time=np.r_[0:70, 100:288])
    towers = fc.load_windows(holed, spec, length=24, batch_size=10_000, shuffle=False)
    batch = next(iter(towers))
    assert batch["images"].shape[1] == 3 * 3 and len(batch["images"])
    whole = fc.load_windows(cube.isel(site=[0, 3]), spec, length=24, batch_size=10_000, shuffle=False)
    all_of = next(iter(whole))
    at = {(s, t): i for i, (s, t) in enumerate(zip(all_of["site"], all_of["time"], strict=True))}
    for i, (s, t) in enumerate(zip(batch["site"], batch["time"], strict=True)):
        np.testing.assert_array_equal(batch["images"][i], all_of["images"][at[s, t]])
        np.testing.assert_array_equal(batch["image_step"][i], all_of["image_step"][at[s, t]])


def test_an_image_is_used_for_its_days_and_known_after_its_delay():
    plain = example_cube(sites=1, days=30)
    one = random_images(plain, days=np.array(["2018-06-05"], "datetime64[ns]"))
    late = fc.add_images(plain, "s2", one, **S2, hold_days=10, delay_days=3)
    spec = dataclasses.replace(cube_spec(late, predictors=PREDICTORS, bands=()), static=(), igbp_classes=())
    images = cube_block(late, spec).images[0]
    noon = 24 * 7 + 12 - round(float(plain.longitude[0]) / 15)
    assert abs(images.hour[0, 0] - noon) <= 1 and images.hour[0, 1] - images.hour[0, 0] == 240
    assert np.isfinite(images.pixels[0, 0]).all() and np.isnan(images.pixels[0, 1]).all()


def test_pixels_are_filled_and_scaled_by_their_bounds():
    kind = ImageKind(name="s1", bands=("VV", "VH"), pixels=4, bounds=(-30.0, 10.0))
    values = np.array([-10.0, np.nan, -20.0, 50.0], np.float32) * np.ones((1, 1, 2, 1), np.float32)
    record = ImageRecord(values.reshape(1, 1, 2, 2, 2), np.array(["2018-06-01"], "datetime64[D]"), ("VH", "VV"))
    filled = image_tokens(record, kind, np.zeros(1), 0).pixels[0, 0]
    np.testing.assert_allclose(filled, [[0.5, 0.375, 0.25, 0.375]] * 2)
    raw = image_tokens(record, kind, np.zeros(1), 0, fill=False).pixels[0, 0]
    np.testing.assert_array_equal(np.isnan(raw), [[False, True, False, True]] * 2)
    swapped = dataclasses.replace(kind, bands=("VV", "HH"))
    assert np.isnan(image_tokens(record, swapped, np.zeros(1), 0, fill=False).pixels[0, 0, 1]).all()


@pytest.mark.parametrize(
    ("change", "options", "error", "match"),
    [
        (lambda a: a, {"scale": 1.0}, ConfigError, "beyond the bounds.*scale=0.0001"),
        (lambda a: a, {"scale": 1e-4, "bounds": (1, 0)}, ConfigError, "bounds must be"),
        (lambda a: a, {"hold_days": 0}, ConfigError, "hold_days must be whole days of 1"),
        (lambda a: a, {"delay_days": 1.5}, ConfigError, "delay_days must be whole days of 0"),
        (lambda a: a, {"product": ""}, ConfigError, "product must be the name"),
        (lambda a: a.rename(band="bands"), {}, SchemaError, "expected the dimensions"),
        (lambda a: a.drop_vars("band"), {}, SchemaError, "expected the coordinate band"),
        (lambda a: a.assign_coords(day=np.arange(a.sizes["day"])), {}, SchemaError, "expected dates on day"),
        (lambda a: xr.concat([a, a.isel(day=[0])], "day"), {}, SchemaError, "expected each day once"),
        (lambda a: a.assign_coords(band=["B4", "B4"]), {}, SchemaError, "expected each band once"),
        (lambda a: xr.concat([a, a.isel(site=[0])], "site"), {}, SchemaError, "expected each site once"),
        (lambda a: a.assign_coords(site=["p", "q"]), {}, ConfigError, "matched by name"),
        (lambda a: a / 1e4, {}, ConfigError, "applied twice"),
        (lambda a: a.assign_coords(day=a.day + np.timedelta64(400, "D")), {}, ConfigError, "and the cube is of"),
        (lambda a: a.assign_coords(day=a.day - np.timedelta64(60, "D")), {}, ConfigError, "larger hold_days"),
        (
            lambda a: a.assign_coords(latitude=("site", [38.0, 52.5]), longitude=("site", [-90.0, 20.0])),
            {},
            ConfigError,
            "those of XX-S01 lie at 52.5000 N .* 55.6 km",
        ),
        (lambda a: a.to_dataset("band"), {}, SchemaError, "expected an xarray.DataArray, found Dataset"),
        (lambda a: a.isel(day=slice(0)), {}, SchemaError, "at least one image"),
    ],
)
def test_images_that_do_not_fit_are_refused(change, options, error, match):
    cube = example_cube(sites=2, days=10)
    with pytest.raises(error, match=match):
        fc.add_images(cube, "sentinel2", change(random_images(cube)), **(S2 | options))


@pytest.mark.parametrize("name", ["Sentinel", "s-2", "", "2s"])
def test_names_that_are_no_dimension_are_refused(name):
    cube = example_cube(sites=2, days=4)
    with pytest.raises(ConfigError, match="lower-case letters and digits"):
        fc.add_images(cube, name, random_images(cube), **S2)


def test_a_kind_is_added_once_lazily_and_in_any_order(cube, caplog):
    plain = example_cube(sites=3, days=10)
    images = random_images(plain)
    straight = fc.add_images(plain, "s2", images, **S2)
    mixed = images.isel(site=[2, 0], day=[2, 0, 1]).transpose("y", "band", "day", "site", "x").rename(day="time")
    with caplog.at_level(logging.WARNING):
        lazy = fc.add_images(plain, "s2", mixed.chunk(time=1), **S2)
    assert lazy.images_s2.chunks and "1 of 3 sites have none (XX-S01)" in caplog.text
    np.testing.assert_array_equal(lazy.images_s2[[0, 2]], straight.images_s2[[0, 2]])
    assert np.isnan(lazy.images_s2[1]).all() and image_kinds(lazy) == image_kinds(straight)
    with pytest.raises(ConfigError, match="has images s2 already"):
        fc.add_images(straight, "s2", images, **S2)


def test_maps_need_images_of_their_own_cells():
    forcing = example_forcing(days=4)
    images = random_images(forcing)
    turned = fc.add_images(forcing, "s2", images.sortby("latitude"), **S2)
    np.testing.assert_array_equal(turned.images_s2, fc.add_images(forcing, "s2", images, **S2).images_s2)
    for wrong in (images.isel(latitude=[0, 1]), images.assign_coords(longitude=images.longitude + 0.1)):
        with pytest.raises(ConfigError, match="expected the"):
            fc.add_images(forcing, "s2", wrong, **S2)


def test_images_of_their_own_place_and_of_values_at_the_bounds_are_accepted(caplog):
    cube = example_cube(sites=2, days=10)
    images = random_images(cube).assign_coords(latitude=cube.latitude + 0.01, longitude=cube.longitude)
    for change in (lambda a: a, lambda a: a * 0 + 10_000, lambda a: a * 0.01, lambda a: a * 0):
        assert "images_s2" in fc.add_images(cube, "s2", change(images), **S2)
    assert not caplog.records
    fc.add_images(cube, "s2", images * np.nan, **S2)
    assert "no value in a sample" in caplog.text
    old = random_images(cube, days=np.array(["2017-01-01"], "datetime64[ns]"))
    assert "images_s2" in fc.add_images(cube, "s2", old, **S2, delay_days=366, hold_days=366)


def test_a_forcing_store_keeps_the_images(eco, forcing, tmp_path):
    opened = fc.open_forcing(fc.write_forcing(forcing, tmp_path / "forcing.zarr"))
    assert image_kinds(opened) == image_kinds(forcing)
    np.testing.assert_array_equal(opened.images_sentinel2, forcing.images_sentinel2)
    a, b = (fc.upscale(eco, ds).NEE.values for ds in (opened, forcing))
    np.testing.assert_allclose(a, b, atol=2e-2)  # a store packs the reflectance of the chips


@pytest.mark.parametrize("kind", ["xgboost", "ecoperceiver"])
def test_a_model_needs_no_chips_beside_them(cube, forcing, kind, tmp_path):
    """Without MODIS, and beside bands of one point."""
    images = cube.drop_vars("modis").drop_dims(["band", "day"])
    options = {"model": kind} if kind == "ecoperceiver" else {"model": kind, "training": None, "epochs": None}
    options |= {} if kind == "ecoperceiver" else {"config": {"n_estimators": 3}}
    alone = learn(images, tmp_path / "alone", **options)
    assert fc.load_model(alone).spec.bands == () and len(fc.load_model(alone).spec.images) == 2
    assert np.isfinite(fc.upscale(alone, forcing.drop_vars("modis")).NEE.values[100]).sum() == 11
    beside = fc.fit(with_surface(images), out=tmp_path / "point", predictors=PREDICTORS, **POINT[kind])
    spec = fc.load_model(beside).spec
    assert spec.pixels == 1 and spec.bands == ("red", "nir") and len(spec.images) == 2
    few = with_surface(images).isel(site=[0])
    flux = fc.predict(beside, few).NEE.values
    other = fc.predict(beside, few.assign(images_alpha=1 - few.images_alpha)).NEE.values
    assert np.isfinite(flux[:, 48:]).all()
    assert kind == "xgboost" or not np.array_equal(flux, other, equal_nan=True)
