"""Days of towers and of cells, against plain means."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from fluxcube.resolution import HOURLY
from fluxcube.samples.daymeans import block_days, day_columns, tower_days
from fluxcube.samples.features import FeatureSpec, cube_block
from fluxcube.samples.towers import load_towers
from fluxcube.simulation.example import example_cube

SPEC = FeatureSpec(
    predictors=("DOY", "TOD", "TA", "SW_IN", "VPD"),
    memory_days=(1,),
    bands=("red", "nir"),
    static=("latitude", "elevation", "igbp"),
    igbp_classes=("DBF", "ENF", "GRA"),
    fill_chips=False,
)


@pytest.fixture
def cube():
    """Three towers from 05 UTC on, with gaps."""
    cube = example_cube(sites=3, days=9).isel(time=slice(5, None))
    rng = np.random.default_rng(0)
    gaps = xr.DataArray(rng.random(cube.predictors.shape) < 0.1, dims=cube.predictors.dims)
    return cube.assign(predictors=cube.predictors.where(~gaps | cube["variable"].isin(["DOY", "TOD"])))


def test_means_are_those_of_pandas(cube):
    days, lead = block_days(cube_block(cube, SPEC), SPEC)
    names = [column.name for column in day_columns(SPEC)]
    assert lead == 5 and days.shape == (3, 9, len(names))
    for name, low, high in (("TA", -80, 80), ("SW_IN", -1500, 1500), ("VPD", 0, 110)):
        series = cube.predictors.sel(variable=name).to_pandas().T
        scaled = (series - (low + high) / 2) / (high - low)
        by_day = scaled.groupby(pd.DatetimeIndex(scaled.index).floor("D"))
        expected = by_day.mean().where(by_day.count() >= 18).values.T
        np.testing.assert_allclose(days[..., names.index(name)], expected, rtol=1e-4, atol=1e-6)
    assert np.isnan(days[..., names.index("TA")]).sum() < 6
    assert "TOD" not in " ".join(names)


def test_the_day_of_the_year_is_a_place_on_a_circle(cube):
    days, _ = block_days(cube_block(cube, SPEC), SPEC)
    circle = days[..., :2].astype(float)
    np.testing.assert_allclose(np.hypot(*np.moveaxis(circle[:, 1:], -1, 0)), 1.0, atol=1e-3)
    turned = np.unwrap(np.arctan2(circle[:, 1:, 1], circle[:, 1:, 0]), axis=1)
    np.testing.assert_allclose(np.diff(turned, axis=1), 2 * np.pi / 366, rtol=0.01)


def test_chips_numbers_and_classes(cube):
    days, _ = block_days(cube_block(cube, SPEC), SPEC)
    names = [column.name for column in day_columns(SPEC)]
    red = cube.modis.sel(band="red").mean(("y", "x")).values  # days 0 and 8 of the cube
    np.testing.assert_allclose(days[:, 2, names.index("band red")], red[:, 0], rtol=1e-5)
    np.testing.assert_allclose(days[:, 8, names.index("band red")], red[:, 1] if red.shape[1] > 1 else red[:, 0], 1e-5)
    latitude = days[:, 1:, names.index("latitude")]
    np.testing.assert_allclose(latitude, np.repeat(cube.latitude.values[:, None] / 180, 8, 1), rtol=1e-6)
    one_hot = days[:, 4, [names.index(f"igbp {code}") for code in SPEC.igbp_classes]]
    assert one_hot.tolist() == [[float(code == found) for code in SPEC.igbp_classes] for found in cube.igbp.values]


def test_where_a_block_begins_changes_no_whole_day(cube):
    whole, _ = block_days(cube_block(cube, SPEC), SPEC)
    part, lead = block_days(cube_block(cube.isel(time=slice(3 * 24 - 5, 6 * 24 - 5)), SPEC), SPEC)
    assert lead == 0
    names = [column.name for column in day_columns(SPEC) if "MEAN" not in column.name]
    at = [i for i, column in enumerate(day_columns(SPEC)) if column.name in names]
    np.testing.assert_allclose(part[..., at], whole[:, 3:6, at], rtol=1e-5)


def test_a_day_without_weather_is_unknown(cube):
    cube.predictors[1, 24 - 5 : 48 - 5, :] = np.nan
    cube.predictors[1, 24 - 5 : 48 - 5, 0] = 100.0
    days, _ = block_days(cube_block(cube, SPEC), SPEC)
    assert np.isnan(days[1, 1]).all() and np.isfinite(days[1, 3]).any()


def test_towers_keep_days_with_a_flux(cube):
    cube.fluxes[1, 48 - 5 : 96 - 5] = np.nan
    towers = load_towers(cube, list(cube.site.values), SPEC, HOURLY.limit(None))
    found = list(tower_days(towers))
    whole, _ = block_days(cube_block(cube, SPEC), SPEC)
    assert [site for site, _, _ in found] == [0, 1, 2]
    assert found[1][1].astype(str).tolist() == [f"2018-06-0{d}" for d in (1, 2, 5, 6, 7, 8, 9)]
    np.testing.assert_allclose(found[1][2], whole[1, [0, 1, 4, 5, 6, 7, 8]], rtol=1e-5, equal_nan=True)
    np.testing.assert_allclose(found[2][2], whole[2], rtol=1e-5, equal_nan=True)
