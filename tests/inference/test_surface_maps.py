"""Maps with surface reflectance: the same features as at towers, whatever the chunks of the map."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
import pytest
import xarray as xr
from inference_fakes import chunked, fake

import fluxcube as fc
from fluxcube.cubes.climatology import STATISTICS, surface_climatology, surface_features
from fluxcube.cubes.forcing_daily import daily_forcing
from fluxcube.errors import ConfigError, from_shell
from fluxcube.inference.checks import _advice, check_absent
from fluxcube.inference.grid import upscale
from fluxcube.inference.towers import predict
from fluxcube.samples.features import FeatureSpec
from fluxcube.schema import variable_coords
from fluxcube.simulation.example import example_cube, example_forcing
from fluxcube.training.config import TrainingConfig
from fluxcube.variables import declare, forget

BANDS = ("red", "nir", "swir2", "snow")
COLUMNS = ("NDVI", "LSWI", "NDVI_MEAN_8D", "nir_MEAN_64D", "NIRv_SEASON", "SURFACE_AGE")
CELLS = ("latitude", "longitude")


def model(columns=COLUMNS, static=("NDVI_P10", "nir_P90"), pixels=64, bands=(), lookahead=0, **options):
    predictor = fake(bands=(), **options)
    spec = dataclasses.replace(
        predictor.spec,
        surface=columns,
        static=(*predictor.spec.static, *static),
        bands=bands,
        pixels=pixels,
        lookahead=lookahead,
    )
    return dataclasses.replace(predictor, spec=spec)


def views(shape, first="2018-02-25", last="2018-07-05", clear=0.3, seed=3):
    """Reflectance (place.., day, band): clear on a third of the days, with one gap of months at some places."""
    rng = np.random.default_rng(seed)
    days = np.arange(first, last, dtype="datetime64[D]")
    values = rng.uniform(0.05, 0.5, (*shape, len(days), len(BANDS))).astype("float32")
    values[rng.random((*shape, len(days))) > clear] = np.nan
    values[..., 30:125, :] = np.where(rng.random((*shape, 1, 1)) < 0.4, np.nan, values[..., 30:125, :])
    return values, days


def climatology(values, days):
    flat = surface_climatology(values.reshape(-1, *values.shape[-2:]), days, BANDS)
    return flat.reshape(*values.shape[:-2], *flat.shape[1:])


def with_surface(ds, dims, values, days, statistics=True, **attrs):
    ds = ds.drop_vars("modis", errors="ignore")
    ds = ds.drop_dims([dim for dim in ("day", "band", "y", "x") if dim in ds.dims])
    coords = {"surface_day": days.astype("datetime64[ns]"), "surface_band": np.array(BANDS, object)}
    surface = xr.DataArray(
        values, coords, (*dims, "surface_day", "surface_band"), attrs={"product": "MOD09GA", **attrs}
    )
    ds = ds.assign(surface=surface)
    if statistics:
        labels = {"statistic": list(STATISTICS), "feature": list(surface_features(BANDS))}
        array = xr.DataArray(climatology(values, days), labels, (*dims, "statistic", "feature"))
        ds = ds.assign(surface_climatology=array)
    return ds


@pytest.fixture(scope="module")
def forcing():
    return with_surface(example_forcing(shape=(2, 3), days=24), CELLS, *views((2, 3)))


def towers(forcing):
    """The cells of a forcing as the towers of a cube."""
    lat, lon = (x.ravel() for x in np.meshgrid(forcing.latitude, forcing.longitude, indexing="ij"))
    cube = example_cube(sites=len(lat), days=24).drop_vars(["modis", "day", "band", "y", "x"])
    names = [str(name) for name in forcing["variable"].values]
    values = forcing.predictors.values.reshape(len(lat), -1, len(names))
    cube = cube.drop_dims("variable")
    dims = ("site", "time", "variable")
    cube = cube.assign(
        predictors=(dims, values),
        predictors_qc=(dims, np.where(np.isfinite(values), 0, -1).astype("int8")),
        predictors_coverage=(dims, np.ones(values.shape, "float32")),
    ).assign_coords(variable_coords(names))
    for name in ("elevation", "igbp"):
        cube = cube.assign_coords({name: ("site", forcing[name].values.ravel())})
    cube = cube.assign_coords(latitude=("site", lat), longitude=("site", lon))
    surface = forcing.surface.values
    return with_surface(cube, ("site",), surface.reshape(len(lat), *surface.shape[2:]), forcing.surface_day.values)


MODELS = {
    "columns and percentiles": model(),
    "band tokens of one pixel": model(columns=(), static=(), pixels=1, bands=("red", "nir", "snow")),
    "everything, views of two days later": model(pixels=1, bands=("swir2", "red"), lookahead=2, memory_days=(2,)),
}


@pytest.mark.parametrize("name", MODELS)
def test_cells_are_predicted_as_towers(forcing, name):
    predictor = MODELS[name]
    maps = upscale(predictor, forcing, applicability=False)
    found = predict(predictor, towers(forcing))
    land = (forcing.land_fraction > 0).values.ravel()
    for flux in ("NEE", "GPP_NT"):
        grid = maps[flux].values.reshape(maps.sizes["time"], -1).T
        np.testing.assert_allclose(grid[land], found[flux].values[land], rtol=2e-5, atol=1e-5)
    assert np.isfinite(maps.NEE.values[10:, 1:]).all()
    assert (maps.attrs["masked_predictors"], maps.attrs.get("surface_product")) == ("", "MOD09GA")


@pytest.mark.parametrize("name", MODELS)
def test_chunks_and_periods_do_not_change_values(forcing, name):
    predictor = MODELS[name]
    whole = upscale(predictor, forcing, applicability=False, time_chunk=24 * 24).load()
    pieces = chunked(forcing, latitude=1, longitude=3, time=100, surface_day=7, surface_band=1)
    found = upscale(predictor, pieces, applicability=False, time_chunk=48).load()
    xr.testing.assert_allclose(found, whole, rtol=2e-5, atol=1e-5)
    period = slice("2018-06-20T05", "2018-06-21T13")
    part = upscale(predictor, forcing, applicability=False, time=period, time_chunk=24).load()
    xr.testing.assert_allclose(part, whole.sel(time=period), rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_later_views_change_nothing(forcing, name):
    predictor = MODELS[name]
    before = upscale(predictor, forcing, applicability=False).load()
    changed = forcing.surface.where(forcing.surface_day < np.datetime64("2018-06-20"), 0.123)
    after = upscale(predictor, forcing.assign(surface=changed), applicability=False).load()
    local = np.datetime64("2018-06-20") - np.timedelta64(predictor.spec.lookahead, "D")
    early = before.time.values < local
    np.testing.assert_array_equal(after.NEE[early], before.NEE[early])
    assert not np.array_equal(after.NEE[~early][24:], before.NEE[~early][24:], equal_nan=True)


def test_statistics_are_those_of_the_record_not_of_a_chunk(forcing, caplog):
    predictor = MODELS["columns and percentiles"]
    known = upscale(predictor, forcing, applicability=False, time_chunk=48)
    with caplog.at_level(logging.WARNING):
        without = upscale(predictor, forcing.drop_vars("surface_climatology"), applicability=False, time_chunk=48)
    assert "long-term statistics are those of its own days, 2018-02-25 to 2018-07-04" in caplog.text
    np.testing.assert_array_equal(without.NEE, known.NEE)  # here the forcing has the whole record
    other = forcing.assign(surface_climatology=forcing.surface_climatology + 0.1)
    assert not np.array_equal(upscale(predictor, other, applicability=False).NEE, known.NEE, equal_nan=True)


def test_each_block_of_a_cell_has_its_own_reflectance(forcing):
    predictor = MODELS["everything, views of two days later"]
    values, days = views((2, 3, 2), seed=5)
    weight = np.random.default_rng(0).uniform(0.2, 0.8, (2, 3))
    classes = np.stack([forcing.igbp.values, np.full((2, 3), "ENF", object)], -1)
    dims = (*CELLS, "block")
    both = with_surface(forcing.drop_dims(["surface_day", "surface_band", "statistic"]), dims, values, days)
    both = both.assign_coords(block_weight=(dims, np.stack([weight, 1 - weight], -1)), block_igbp=(dims, classes))
    mean = upscale(predictor, both, applicability=False)
    ones = []
    for k in range(2):
        one = both.isel(block=k).drop_vars(["block_weight", "block_igbp"])
        one = one.assign_coords(igbp=(CELLS, classes[..., k]))
        ones.append(upscale(predictor, one, applicability=False).NEE.values)
    expected = weight * ones[0] + (1 - weight) * ones[1]
    np.testing.assert_allclose(mean.NEE, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        mean.NEE_variance, weight * (1 - weight) * (ones[0] - ones[1]) ** 2, rtol=1e-2, atol=1e-3
    )


def test_a_forcing_without_reflectance_is_refused_with_what_to_pass(forcing):
    predictor = MODELS["columns and percentiles"]
    plain = forcing.drop_dims(["surface_day", "surface_band", "statistic"])
    with pytest.raises(
        ConfigError, match=r"trained on NDVI, LSWI.*\(surface reflectance: .*\(surface=\)\).*allow_missing=True"
    ):
        upscale(predictor, plain)
    with pytest.raises(ConfigError, match=r"trained on band red.*\(surface reflectance: .*\(surface=\)\)"):
        upscale(MODELS["band tokens of one pixel"], plain)
    with pytest.raises(ConfigError, match=r"trained on band red.*\(chips: .*\(modis=\)\)"):
        upscale(fake(), plain)
    masked = upscale(predictor, plain, allow_missing=True, applicability=False)
    assert "NDVI_P10" in masked.attrs["masked_predictors"] and np.isfinite(masked.NEE[20, 1:]).all()
    without = forcing.sel(surface_band=["red", "nir"])
    with pytest.raises(ConfigError, match=r"trained on LSWI, which the forcing lacks"):
        upscale(predictor, without)
    cube = towers(forcing)
    refusal = r"trained on NDVI, LSWI.*the cube lacks.*\(surface reflectance: build_carbonsense\(surface=\)\)"
    with pytest.raises(ConfigError, match=refusal):
        predict(predictor, cube.drop_dims(["surface_day", "surface_band", "statistic"]))
    with pytest.raises(ConfigError, match=r"trained on LSWI, which the cube lacks"):
        predict(predictor, cube.sel(surface_band=["red", "nir"]))
    cloudy = predict(predictor, cube.assign(surface=cube.surface * np.nan))  # missing values are no missing array
    assert cloudy.attrs["masked_predictors"] == ""
    # A model without reflectance does not notice it.
    np.testing.assert_array_equal(
        upscale(fake(bands=()), forcing, applicability=False).NEE,
        upscale(fake(bands=()), plain, applicability=False).NEE,
    )


def recorded(product, collection=""):
    record = {"surface_product": product, "surface_collection": collection}
    return dataclasses.replace(MODELS["columns and percentiles"], metadata={"cube": record})


def test_another_product_of_surface_reflectance_is_refused(forcing, caplog):
    other = forcing.assign(surface=forcing.surface.assign_attrs(product="MCD43A4"))
    message = r"trained on MOD09GA.*\(surface\) is MCD43A4.*allow_other_product=True.*product_bias"
    with pytest.raises(ConfigError, match=message):
        upscale(recorded("MOD09GA"), other)
    with pytest.raises(ConfigError, match=message):
        predict(
            recorded("MOD09GA"), towers(forcing).assign(surface=towers(other).surface.assign_attrs(other.surface.attrs))
        )
    maps = upscale(recorded("MOD09GA"), other, allow_other_product=True, applicability=False)
    assert (maps.attrs["surface_product"], maps.attrs["surface_product_of_training"]) == ("MCD43A4", "MOD09GA")
    same = upscale(recorded("MOD09GA", "006"), forcing, applicability=False)
    assert same.attrs["surface_product_of_training"] == "MOD09GA" and "surface_collection" not in same.attrs
    newer = forcing.assign(surface=forcing.surface.assign_attrs(collection="061"))
    with caplog.at_level(logging.WARNING):
        maps = upscale(recorded("MOD09GA", "006"), newer, applicability=False)
    assert "trained on collection 006 of MOD09GA, found collection 061" in caplog.text
    assert (maps.attrs["surface_collection"], maps.attrs["surface_collection_of_training"]) == ("061", "006")
    assert predict(recorded("MOD09GA"), towers(forcing)).attrs["surface_product"] == "MOD09GA"


def test_daily_maps_have_the_reflectance_of_the_hourly_forcing(forcing):
    days = daily_forcing(forcing)
    predictor = MODELS["columns and percentiles"]
    spec = dataclasses.replace(predictor.spec, resolution="daily", predictors=("DOY", "TA", "SW_IN"))
    daily = dataclasses.replace(predictor, spec=spec, metadata={"cube": {"satellite_product": "MOD09GA"}})
    whole = upscale(daily, days, applicability=False, time_chunk=30)
    assert whole.attrs["satellite_product"] == "MOD09GA"
    np.testing.assert_array_equal(upscale(daily, days, applicability=False, time_chunk=2).NEE, whole.NEE)
    assert np.isfinite(whole.NEE[6:, 1:]).all()
    changed = days.assign(surface=days.surface.where(days.day != np.datetime64("2018-06-20"), 0.4))
    differs = (upscale(daily, changed, applicability=False).NEE != whole.NEE) & whole.NEE.notnull()
    assert differs.sel(time=slice(None, "2018-06-19")).sum() == 0 and differs.sel(time="2018-06-20").any()


def test_a_fitted_model_is_mapped_by_the_command(forcing, tmp_path):
    """From a cube with reflectance to a stored map, whose grid is written to a store and opened again."""
    from typer.testing import CliRunner

    from fluxcube.cli import app

    cube = with_surface(example_cube(sites=12, days=24), ("site",), *views((12,)))
    config = {"n_estimators": 3, "max_depth": 2}
    run = fc.fit(cube, model="xgboost", out=tmp_path / "run", surface=("NDVI", "NDVI_MEAN_8D"), config=config)
    assert fc.load_model(run).metadata["cube"]["surface_product"] == "MOD09GA"
    fc.write_forcing(forcing, tmp_path / "forcing.zarr")
    arguments = [
        "upscale",
        run.path,
        tmp_path / "forcing.zarr",
        tmp_path / "maps.zarr",
        "--time",
        "2018-06-20/2018-06-20",
    ]
    done = CliRunner().invoke(app, [str(x) for x in arguments])
    assert done.exception is None, done.output
    assert "surface reflectance: MOD09GA, red, nir, swir2, snow, 2018-02-25 to 2018-07-04" in done.stdout
    maps = fc.open_maps(tmp_path / "maps.zarr")
    assert maps.attrs["surface_columns"] == "NDVI, NDVI_MEAN_8D" and maps.attrs["surface_product"] == "MOD09GA"
    direct = upscale(run, forcing, time=slice("2018-06-20", "2018-06-20"))
    np.testing.assert_allclose(maps.NEE, direct.NEE, rtol=1e-5, atol=1e-5)
    assert not np.array_equal(
        direct.NEE, upscale(run, forcing.drop_vars("surface"), allow_missing=True).NEE.sel(time="2018-06-20")
    )


def test_a_static_input_in_other_units_is_refused(forcing):
    declare("SOC", units="kg m-2", bounds=(0, 100), kind="static")
    try:
        predictor = model(columns=(), static=("SOC",))
        carbon = xr.DataArray(np.full((2, 3), 12.0), dims=CELLS, attrs={"units": "kg m-2"})
        right = upscale(predictor, forcing.assign_coords(SOC=carbon), applicability=False)
        other = upscale(predictor, forcing.assign_coords(SOC=carbon * 2), applicability=False)
        assert not np.array_equal(other.NEE[10:], right.NEE[10:], equal_nan=True)
        with pytest.raises(ConfigError, match=r"SOC must be in kg m-2, .*found g m-2"):
            upscale(predictor, forcing.assign_coords(SOC=carbon.assign_attrs(units="g m-2")))
        with pytest.raises(
            ConfigError,
            match=r"trained on SOC, which .* them \(SOC: fluxcube.add_predictor\(forcing, 'SOC'",
        ):
            upscale(predictor, forcing)
    finally:
        forget("SOC")


def test_units_that_cannot_be_converted_are_compared_by_their_spelling(forcing):
    """A unit that the package does not know can be declared: towers and grids must then have the same text."""
    declare("SIF", units="mW m-2 nm-1 sr-1", bounds=(0, 10), kind="static")
    try:
        predictor = model(columns=(), static=("SIF",))
        values = xr.DataArray(np.full((2, 3), 1.0), dims=CELLS, attrs={"units": "mW  m-2 nm-1 sr-1"})
        assert "NEE" in upscale(predictor, forcing.assign_coords(SIF=values), applicability=False)
        for units in ("blorg", "W m-2"):
            with pytest.raises(ConfigError, match=f"SIF must be in mW m-2 nm-1 sr-1, .*found {units}"):
                upscale(predictor, forcing.assign_coords(SIF=values.assign_attrs(units=units)))
    finally:
        forget("SIF")


def test_embeddings_of_cells_see_the_reflectance_that_towers_see(tmp_path):
    """TAM-RL with columns of reflectance: a cell with the inputs of a tower has its embedding, and its fluxes."""
    from daily_cubes import daily_cube, train
    from daily_cubes import daily_forcing as cells_of

    cube = daily_cube(sites=12, days=60)
    values, days = views((12,), first="2003-11-01", last="2004-06-01", clear=0.5)
    coords = {"day": days.astype("datetime64[ns]"), "band": np.array(BANDS, object)}
    surface = xr.DataArray(values, coords, ("site", "day", "band"), attrs={"product": "MOD09GA"})
    cube = cube.assign(surface=surface)
    grid = cells_of(cube).assign_coords(coords).assign(surface=((*CELLS, "day", "band"), values[None]))
    run = train(
        cube,
        tmp_path / "tam",
        surface=("NDVI", "nir_MEAN_32D"),
        training=TrainingConfig(epochs=1),
        config={"queries": 2},
    )
    found = predict(run, cube)
    for step in (60, 17):
        maps = upscale(run, grid, applicability=False, time_chunk=step)
        np.testing.assert_allclose(maps.NEE.values[:, 0].T, found.NEE, rtol=1e-4, atol=1e-4)
    assert np.isfinite(found.NEE.values[:, 30:]).all()
    dark = upscale(run, grid.assign(surface=grid.surface * 0.5), applicability=False)
    assert not np.allclose(dark.NEE, maps.NEE, rtol=1e-3, equal_nan=True)


def test_an_absent_class_names_the_options_that_add_it():
    spec = FeatureSpec(predictors=("TA",), static=("igbp",), igbp_classes=("GRA",), targets=("NEE",))
    advice = _advice(("igbp",), spec)
    assert advice == " (igbp: open_forcing(land_cover=))"
    with from_shell():
        assert _advice(("igbp",), spec) == " (igbp: --land-cover or --igbp)"
        with pytest.raises(ConfigError, match=r"--static, --no-chips, --surface ''\).* missing \(--allow-missing\)"):
            check_absent(["TA"], False, spec)
    assert _advice(("TA",), spec) == ""
