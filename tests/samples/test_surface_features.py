"""Columns, statistics and band tokens of the surface reflectance, against references that a reader can check."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from daily_cubes import daily_cube
from surface_cubes import reflectance, with_surface

from fluxcube.errors import ConfigError, UnknownNameError
from fluxcube.indices import INDICES, bands_of, index_of, indices
from fluxcube.resolution import DAILY, HOURLY
from fluxcube.samples.features import FeatureSpec, cube_block, make_block
from fluxcube.samples.images import NO_CHIP, expire
from fluxcube.samples.surface import (
    DEFAULT_COLUMNS,
    STATISTICS,
    SurfaceRecord,
    bands_needed,
    column_of,
    surface_columns,
)
from fluxcube.samples.towers import cube_spec, load_towers
from fluxcube.simulation.example import example_cube
from fluxcube.variables import SURFACE_BANDS

COLUMNS = ("NDVI", "swir1", "CCI", "NDVI_MEAN_8D", "NIRv_MEAN_32D", "red_MEAN_64D", "NDVI_SEASON", "SURFACE_AGE")
TOKENS = ("red", "nir", "green531")


@pytest.fixture(scope="module")
def hourly():
    return with_surface(example_cube(sites=4, days=40).drop_vars("modis"), clear=0.2)


def spec_of(cube, **options):
    options = {"predictors": ("DOY", "TA"), "surface": COLUMNS, "static": ("latitude", "NDVI_P10")} | options
    return cube_spec(cube, **options)


def record_of(cube):
    return SurfaceRecord(cube.surface.values, cube.surface_day.values, SURFACE_BANDS)


def by_hand(series: pd.Series, column, noon: pd.Timestamp) -> float:
    """The value of a column at the time step whose latest known view is that of a day."""
    past = series[:noon].dropna()
    if column.kind == "mean":
        past = past[noon - pd.Timedelta(column.days - 1, "D") :]
        return past.mean() if len(past) else np.nan
    if not len(past):
        return np.nan
    age = (noon - past.index[-1]).days
    return np.nan if age >= column.days else (age if column.kind == "age" else past.iloc[-1])


def test_columns_are_those_of_a_reference_in_pandas(hourly):
    columns = [column_of(name) for name in COLUMNS if not name.endswith("SEASON")]
    names = [column.name for column in columns]
    out = surface_columns(record_of(hourly), names, hourly.time.values, hourly.longitude.values)
    bands = {band: hourly.surface.sel(surface_band=band).values for band in SURFACE_BANDS}
    for place in range(4):
        local_noon = 12 - float(hourly.longitude[place]) / 15
        for step in range(0, hourly.sizes["time"], 37):
            hour = pd.Timestamp(hourly.time.values[step])
            # The view of a day is known in the hour that contains local solar noon.
            day = (hour + pd.Timedelta(59.9, "min") - pd.Timedelta(local_noon, "h")).floor("D")
            for i, column in enumerate(columns):
                feature = index_of(column.feature or "NDVI", {k: v[place].astype(float) for k, v in bands.items()})
                expected = by_hand(pd.Series(feature, hourly.surface_day.values), column, day)
                np.testing.assert_allclose(out[place, step, i], expected, atol=2e-6, err_msg=column.name)
    assert np.isnan(out[..., 0]).mean() + 0.3 > 0.2 and np.isfinite(out[..., 1]).any()


def test_season_and_percentiles_are_those_of_pandas():
    days = np.arange("2001-01-01", "2006-01-01", dtype="datetime64[D]")
    values = reflectance(2, len(days), bands=("red", "nir"))
    record = SurfaceRecord(values, days, ("red", "nir"))
    ndvi = pd.DataFrame(record.feature("NDVI").T, days)
    got = record.statistics("NDVI")
    np.testing.assert_allclose(got[:, :3], ndvi.quantile([0.1, 0.5, 0.9]).T, atol=1e-6)
    monthly = ndvi.groupby(ndvi.index.month).mean()
    np.testing.assert_allclose(got[:, 3:], monthly.T, atol=1e-6)
    dates = np.array(["2004-04-16", "2004-04-30", "2004-05-01", "2004-01-01", "2004-12-31"], "datetime64[D]")
    season = np.stack(
        [surface_columns(record, ["NDVI_SEASON"], dates[[i]], np.zeros(2), resolution=DAILY)[:, 0, 0] for i in range(5)]
    )
    np.testing.assert_allclose(season[0], monthly.loc[4], atol=3e-3)  # half a day after the middle of April
    weight = (30 - 0.5 - 15) / 30.5
    np.testing.assert_allclose(season[1], monthly.loc[4] * (1 - weight) + monthly.loc[5] * weight, atol=1e-6)
    np.testing.assert_allclose(season[3:].mean(0), (monthly.loc[1] + monthly.loc[12]) / 2, atol=1e-4)
    assert (np.diff(season[1:3], axis=0) != 0).all()


def test_a_climatology_replaces_the_statistics_of_the_record(hourly):
    features = np.array(["NDVI", "NIRv"], object)
    values = np.random.default_rng(0).uniform(0, 0.5, (4, 15, 2)).astype("float32")
    climatology = xr.DataArray(
        values, dims=("site", "statistic", "feature"), coords={"statistic": list(STATISTICS), "feature": features}
    )
    spec = spec_of(hourly, static=("NDVI_P90", "red_P50"), surface=("NDVI_SEASON",))
    own, known = (cube_block(cube, spec) for cube in (hourly, hourly.assign(surface_climatology=climatology)))
    np.testing.assert_allclose(known.numbers[:, 0], values[:, 2, 0] / 2, atol=1e-6)
    np.testing.assert_array_equal(known.numbers[:, 1], own.numbers[:, 1])  # a feature that it lacks
    june, july, august = (values[:, STATISTICS.index(m), 0] for m in ("m06", "m07", "m08"))
    low, high = (np.min([june, july, august], 0) / 2, np.max([june, july, august], 0) / 2)
    column = known.inputs[:, 24 * 20 :, 2]
    assert (column >= low[:, None] - 1e-6).all() and (column <= high[:, None] + 1e-6).all()
    assert not np.array_equal(own.inputs, known.inputs)


@pytest.mark.parametrize("tokens", [False, True])
def test_later_views_change_nothing_and_lookahead_makes_them_known(hourly, tokens):
    options = {"bands": TOKENS, "pixels": 1} if tokens else {}
    spec = spec_of(hourly, static=(), surface=tuple(c for c in COLUMNS if c != "NDVI_SEASON"), **options)
    cut = np.datetime64("2018-06-20")
    later = hourly.surface_day >= cut
    changed = hourly.assign(surface=hourly.surface.where(~later, 0.3))
    before, after = cube_block(hourly, spec), cube_block(changed, spec)
    noon = (12 - hourly.longitude.values / 15).astype(int)
    for place in range(4):
        stop = 24 * 19 + noon[place]
        np.testing.assert_array_equal(before.inputs[place, :stop], after.inputs[place, :stop])
        assert (before.inputs[place, stop:] != after.inputs[place, stop:]).any()
        np.testing.assert_array_equal(views(before, place, stop), views(after, place, stop))
    early = dataclasses.replace(spec, lookahead=3)
    before, after = cube_block(hourly, early), cube_block(changed, early)
    shifted = surface_columns(
        record_of(hourly), spec.surface, hourly.time.values + np.timedelta64(72, "h"), hourly.longitude
    )
    np.testing.assert_array_equal(
        surface_columns(record_of(hourly), spec.surface, hourly.time.values, hourly.longitude, lookahead=3), shifted
    )
    assert not np.array_equal(before.inputs[:, : 24 * 18], after.inputs[:, : 24 * 18], equal_nan=True)
    assert np.array_equal(before.inputs[:, : 24 * 16], after.inputs[:, : 24 * 16], equal_nan=True)


def views(block, place, stop):
    """Band tokens that are known before a time step."""
    known = block.chip_hour[place] < stop
    seen = block.chips[place, known]
    expired = np.isnan(seen).all((1, 2))
    return np.append(seen[~expired].ravel(), block.chip_hour[place, known][~expired])


def test_towers_and_cells_are_computed_identically(hourly):
    spec = spec_of(hourly, bands=TOKENS, pixels=1)
    tower = cube_block(hourly, spec)
    order = [SURFACE_BANDS.index(name) for name in ("nir", *reversed(SURFACE_BANDS)) if name != "nir"] + [1]
    record = SurfaceRecord(
        hourly.surface.values[..., order], hourly.surface_day.values, tuple(SURFACE_BANDS[i] for i in order)
    )
    values = hourly.predictors.sel(variable=list(spec.predictors)).values
    place = (hourly.latitude.values, hourly.longitude.values)
    cells = make_block(values, hourly.time.values, *place, spec=spec, surface=record)
    for name in ("inputs", "numbers", "chips", "chip_hour"):
        np.testing.assert_array_equal(getattr(tower, name), getattr(cells, name), err_msg=name)
    # A chunk of time, with the reflectance that it needs and no more, equals the whole.
    part = hourly.isel(time=slice(24 * 20 + 5, 24 * 27))
    first = part.time.values[0].astype("datetime64[D]")
    shorter = SurfaceRecord(record.values, record.days, record.bands)
    kept = record.days >= first - spec.surface_days - 1
    shorter = SurfaceRecord(record.values[:, kept], record.days[kept], record.bands)
    columns = [name for name in COLUMNS if name != "NDVI_SEASON"]
    whole = surface_columns(record, columns, hourly.time.values, place[1])[:, 24 * 20 + 5 : 24 * 27]
    np.testing.assert_array_equal(surface_columns(shorter, columns, part.time.values, place[1]), whole)
    one = SurfaceRecord(record.values[[2]], record.days, record.bands)
    np.testing.assert_array_equal(surface_columns(one, columns, part.time.values, place[1][[2]])[0], whole[2])
    lazy = cube_block(hourly.chunk(site=1, surface_day=50, time=200), spec)
    np.testing.assert_array_equal(lazy.inputs, tower.inputs)
    np.testing.assert_array_equal(lazy.numbers, tower.numbers)


def test_a_gap_of_months_is_masked_and_never_zero(hourly):
    gap = hourly.assign(surface=hourly.surface.where(hourly.surface_day < np.datetime64("2018-05-25")))
    spec = spec_of(gap, bands=TOKENS, pixels=1, static=())
    block = cube_block(gap, spec)
    columns = {name: block.inputs[:, -24:, 2 + i] for i, name in enumerate(COLUMNS)}
    assert np.isnan(columns["NDVI"]).all() and np.isnan(columns["NDVI_MEAN_8D"]).all()
    assert np.isnan(columns["NIRv_MEAN_32D"]).all() and np.isfinite(columns["red_MEAN_64D"]).all()
    assert np.isfinite(columns["SURFACE_AGE"]).all() and (columns["SURFACE_AGE"] > 0).all()  # above 32 of 64 days
    for place in range(4):
        hour = block.chip_hour[place]
        assert np.isnan(block.chips[place, hour < NO_CHIP][-1]).all()
        assert np.diff(hour[hour < NO_CHIP])[-1] == 32 * 24
    cloudy = hourly.assign(surface=hourly.surface * np.nan)
    nothing = cube_block(cloudy, spec_of(cloudy, bands=TOKENS, pixels=1))
    assert np.isnan(nothing.inputs[..., 2:]).all() and np.isnan(nothing.numbers[:, 1]).all()
    assert (nothing.chip_hour == NO_CHIP).all()


@pytest.mark.parametrize("value", [1e30, -1e30, np.inf, -9999.0, np.nan])
def test_one_broken_value_spoils_no_other(hourly, value):
    record = record_of(hourly)
    values = record.values.copy()
    day = np.flatnonzero(np.isfinite(values[0, :, 0]))[-6]
    values[0, day, 0] = value
    without = record.values.copy()
    without[0, day, 0] = np.nan
    columns = ("red", "NDVI", "NDVI_MEAN_8D", "red_MEAN_64D", "NDVI_SEASON", "SURFACE_AGE")
    broken, gap = (
        surface_columns(dataclasses.replace(record, values=v), columns, hourly.time.values, hourly.longitude.values)
        for v in (values, without)
    )
    np.testing.assert_array_equal(broken, gap)


def test_an_absent_band_is_missing_and_named_once(hourly, caplog):
    fewer = hourly.isel(surface_band=slice(0, 7))
    assert "CCI_SEASON" not in cube_spec(fewer).surface and "CCI_SEASON" in cube_spec(hourly).surface
    spec = spec_of(hourly, surface=("NDVI", "CCI", "CCI_MEAN_8D"), static=("CCI_P10",))
    towers = load_towers(fewer, [str(s) for s in fewer.site.values], spec, HOURLY.limit(1))
    assert np.isnan(towers.series.inputs[:, 3:]).all() and np.isfinite(towers.series.inputs[:, 2]).any()
    messages = [record.message for record in caplog.records]
    assert messages == ["the cube cannot supply CCI, CCI_MEAN_8D, CCI_P10: masked"]


def test_default_columns_are_used_where_the_cube_has_reflectance(hourly):
    spec = cube_spec(hourly)
    assert spec.surface == DEFAULT_COLUMNS and spec.static == ("latitude", "elevation", "igbp")
    assert spec.inputs[: len(spec.predictors)] == spec.predictors
    assert cube_spec(hourly, surface=()).surface == () == cube_spec(hourly.drop_vars("surface")).surface
    assert FeatureSpec.from_dict(spec.to_dict()) == spec
    assert not {"surface", "lookahead", "pixels"} & set(cube_spec(hourly, surface=()).to_dict())


def test_daily_cubes_have_the_same_columns_and_earlier_specifications_stay_readable():
    cube = with_surface(daily_cube(sites=2, days=60), bands=SURFACE_BANDS[:7])
    spec = cube_spec(cube, predictors=("TA",), surface=("red", "NDVI_MEAN_8D", "SURFACE_AGE"), static=())
    block = cube_block(cube, spec)
    red = pd.Series(cube.surface.values[1, :, 0], cube.day.values)
    expected = [by_hand(red, column_of("red"), pd.Timestamp(day)) for day in cube.time.values]
    np.testing.assert_allclose(block.inputs[1, :, 1], expected, atol=1e-6)
    old = {key: value for key, value in spec.to_dict().items() if key != "surface"} | {"bands": ["red", "NDVI"]}
    assert FeatureSpec.from_dict(old).surface == ("red", "NDVI") and FeatureSpec.from_dict(old).bands == ()
    with pytest.raises(ConfigError, match="pass the bands and indices as surface="):
        cube_spec(cube, bands=("red",))


def test_band_tokens_of_one_pixel_stand_at_local_noon_of_each_clear_day(hourly):
    spec = spec_of(hourly, bands=TOKENS, pixels=1, surface=(), static=())
    block = cube_block(hourly, spec)
    assert block.chips.shape[2:] == (3, 1)
    values = hourly.surface.sel(surface_band=list(TOKENS)).values
    for place in range(4):
        clear = np.isfinite(values[place]).all(1)
        seen = np.isfinite(block.chips[place]).all((1, 2))
        np.testing.assert_array_equal(block.chips[place, seen][..., 0], values[place, clear])
        days = (hourly.surface_day.values[clear] - hourly.time.values[0]) // np.timedelta64(1, "h")
        noon = np.floor(12 - float(hourly.longitude[place]) / 15)
        np.testing.assert_array_equal(block.chip_hour[place, seen], days + noon)


def test_an_image_expires_where_no_newer_one_follows():
    images = np.ones((2, 3, 1, 1), np.float32)
    hour = np.array([[0, 10, 40], [5, NO_CHIP, NO_CHIP]])
    pixels, hours = expire(images, hour, 20)
    assert hours.tolist() == [[0, 10, 30, 40, 60], [5, 25, NO_CHIP, NO_CHIP, NO_CHIP]]
    assert np.isnan(pixels[0, :, 0, 0]).tolist() == [False, False, True, False, True]
    assert np.isnan(pixels[1, :2, 0, 0]).tolist() == [False, True]


def test_every_index_is_a_function_of_named_bands():
    rng = np.random.default_rng(0)
    bands = {name: rng.uniform(0.05, 0.6, 5) for name in SURFACE_BANDS}
    for name, index in INDICES.items():
        assert bands_of(name) == index.bands and set(index.bands) <= set(SURFACE_BANDS)
        values = index_of(name, bands)
        assert np.isfinite(values).all() and values.shape == (5,)
        absent = {k: v for k, v in bands.items() if k != index.bands[-1]}
        assert np.isnan(index_of(name, absent)).all()
    assert (index_of("LSWI", bands) == (bands["nir"] - bands["swir2"]) / (bands["nir"] + bands["swir2"])).all()
    assert bands_needed(["CCI", "SURFACE_AGE"], ["LSWI_P10"], ["snow"]) == ("red", "nir", "swir2", "green531", "snow")
    table = xr.DataArray(np.stack(list(bands.values())), dims=("band", "x"), coords={"band": list(bands)})
    assert set(indices(table).data_vars) == set(INDICES)


@pytest.mark.parametrize(
    "name",
    ["NDVI_MEAN_0D", "NDVI_MEAN_D", "NDVI_MEAN_8H", "ndvi", "NDVI_SEASON_8D", "water", "", "NDVI_P10", "_MEAN_8D"],
)
def test_names_that_are_no_column_are_refused(name):
    with pytest.raises(UnknownNameError, match="surface column"):
        FeatureSpec(predictors=("TA",), surface=(name,))


@pytest.mark.parametrize(
    ("message", "settings"),
    [
        ("lookahead=8 has no effect", {"lookahead": 8}),
        ("lookahead must be whole days", {"lookahead": -1, "surface": ("NDVI",)}),
        ("pixels must be 64", {"pixels": 4}),
        ("expected each name once", {"surface": ("NDVI", "NDVI")}),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(message, settings):
    with pytest.raises(ConfigError, match=message):
        FeatureSpec(predictors=("TA",), **settings)
    with pytest.raises(UnknownNameError):
        FeatureSpec(predictors=("TA",), static=("NDVI_P20",))
    with pytest.raises(UnknownNameError):
        FeatureSpec(predictors=("TA",), bands=("water",), pixels=1)


def test_a_record_must_fit_its_labels():
    values = np.zeros((1, 3, 2), np.float32)
    days = np.arange("2020-01-01", "2020-01-04", dtype="datetime64[D]")
    with pytest.raises(ConfigError, match="one entry for each day and band"):
        SurfaceRecord(values, days, ("red",))
    for wrong in (days[::-1], days[[0, 1, 1]]):
        with pytest.raises(ConfigError, match=r"expected ascending days .* each once, found 2020-01-02 after"):
            SurfaceRecord(values[:, :3], wrong, ("red", "nir"))
    with pytest.raises(ConfigError, match="expected a climatology"):
        SurfaceRecord(values, days, ("red", "nir"), np.zeros((1, 3, 1), np.float32), ("NDVI",))


def test_real_reflectance_loses_no_band_value(shared_data):
    """Nearly all clear views of real towers are plausible, and recent enough for a column."""
    with xr.open_dataset(shared_data / "vegetation" / "mod09ga_daily_towers.nc") as ds:
        part = ds.isel(site=slice(0, 109, 12)).load()
    state = part.state_1km.fillna(65535).astype("int64").values
    clear = ((state & 0b111) == 0) & ((state >> 8 & 0b11) == 0)
    names = [f"sur_refl_b{number:02d}" for number in (1, 2, 3, 4, 5, 6, 7, 11, 12)]
    values = np.stack([part[name].values for name in names], -1).astype("float32")
    record = SurfaceRecord(np.where(clear[..., None], values, np.nan), part.time.values, SURFACE_BANDS[:9])
    for i, band in enumerate(record.bands):
        np.testing.assert_array_equal(np.isfinite(record.feature(band)), np.isfinite(record.values[..., i]))
    seen = np.isfinite(record.feature("EVI")).sum() / np.isfinite(record.feature("blue")).sum()
    assert seen > 0.999
    days = np.arange("2010-01-01", "2011-01-01", dtype="datetime64[D]")
    columns = surface_columns(record, DEFAULT_COLUMNS, days, np.zeros(len(values)), resolution=DAILY)
    assert np.isfinite(columns).mean((0, 1)).min() > 0.8


def test_a_mean_over_more_days_than_cubes_keep_is_refused():
    assert column_of("NDVI_MEAN_96D").days == 96
    with pytest.raises(ConfigError, match=r"NDVI_MEAN_97D: expected a mean of at most 96 days.*NDVI_SEASON"):
        column_of("NDVI_MEAN_97D")
