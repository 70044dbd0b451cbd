"""Features of days: the daily table, scaling by training towers, surface columns, climates; and what is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import xarray as xr
from daily_cubes import DRIVERS, TARGETS, daily_cube

from fluxcube.errors import ConfigError, UnknownNameError
from fluxcube.resolution import DAILY
from fluxcube.samples.features import FeatureSpec, cube_block
from fluxcube.samples.surface import OLDEST, SurfaceRecord, surface_columns
from fluxcube.samples.towers import cube_spec, good_fluxes, load_towers, site_years
from fluxcube.simulation.example import example_cube
from fluxcube.variables import BANDS

SPEC = FeatureSpec(predictors=("DOY", *DRIVERS), targets=TARGETS, resolution="daily")


@pytest.fixture(scope="module")
def cube():
    return daily_cube()


def test_a_spec_of_days_knows_the_daily_table_and_one_of_hours_writes_what_it_always_did():
    assert "TA_RANGE" in SPEC.inputs and SPEC.input_units[-1] == "W m-2" and SPEC.cyclic_columns == (0,)
    assert FeatureSpec.from_dict(SPEC.to_dict()) == SPEC
    hourly = FeatureSpec(predictors=("DOY", "TOD", "TA"))
    assert not {"resolution", "koppen_classes", "input_mean", "input_scale"} & set(hourly.to_dict())
    for wrong in ({"predictors": ("TOD",)}, {"surface": ("snows",)}, {"resolution": "weekly"}):
        with pytest.raises(UnknownNameError):
            dataclasses.replace(SPEC, **wrong)
    with pytest.raises(UnknownNameError, match="TA_RANGE"):
        FeatureSpec(predictors=("TA_RANGE",))


def test_inputs_are_scaled_by_the_towers_that_train(cube):
    sites = [str(s) for s in cube.site.values]
    spec = cube_spec(cube, sites[:4], targets=TARGETS, predictors=SPEC.predictors, static=("igbp", "koppen"))
    train = load_towers(cube, sites[:4], spec, DAILY.limit(0.5)).scaled()
    met = train.series.inputs.astype(float)
    np.testing.assert_allclose(met[:, 1:].mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(met[:, 1:].std(0), 1, atol=1e-4)
    assert met[:, 0].min() >= -1 and met[:, 0].max() < 1, "the cyclic one keeps its scale"
    others = load_towers(cube, sites[4:], train.spec, DAILY.limit(0.5))
    by_hand = load_towers(cube, sites[4:], spec, DAILY.limit(0.5)).series.inputs
    by_hand = (by_hand - np.float32(train.spec.input_mean)) / np.float32(train.spec.input_scale)
    np.testing.assert_allclose(others.series.inputs, by_hand, atol=1e-6)
    assert abs(others.series.inputs[:, 1].mean()) > 0.05, "other towers have another mean"
    assert spec.koppen_classes == ("C", "D") and others.series.classes.shape == (8, 2)
    assert others.first_hour[0] == cube.time.values[0].astype("datetime64[D]").astype(int)


def test_quality_masks_fluxes_and_nothing_else(cube):
    one = site_years(cube, "XX-D00")
    counts = [np.isfinite(good_fluxes(one, TARGETS, DAILY.limit(least))).sum() for least in (None, 0.5, 0.7, 1.0)]
    assert counts[0] == counts[1] > counts[2] == counts[3] > 0
    spec = cube_spec(cube, targets=TARGETS)
    assert spec.predictor_max_qc is None and set(spec.predictors) == set(SPEC.predictors)
    unknown = one.assign(fluxes_quality=one.fluxes_quality * np.nan)
    assert not np.isfinite(good_fluxes(unknown, TARGETS, DAILY.limit(0.1))).any(), "what is not known is not good"


def test_flags_in_place_of_shares_are_refused(cube):
    flags = cube.assign(fluxes_quality=cube.fluxes_quality * 0 + 2)
    with pytest.raises(ConfigError, match=r"XX-D00: expected the quality of a day.*found 2"):
        load_towers(flags, ["XX-D00"], SPEC, DAILY.limit(0.5))


def test_days_and_hours_are_not_taken_for_each_other(cube):
    with pytest.raises(ConfigError, match=r"works on hours.*contains days"):
        cube_block(cube, FeatureSpec(predictors=("TA",)))
    with pytest.raises(ConfigError, match=r"works on days.*contains hours"):
        cube_block(example_cube(sites=2, days=3), SPEC)


def test_means_are_over_days(cube):
    spec = dataclasses.replace(SPEC, predictors=("TA",), memory_days=(7,))
    block = cube_block(cube.isel(site=[0]), spec)
    assert spec.memory_steps == 7
    np.testing.assert_allclose(
        block.inputs[0, 6:, 1], np.convolve(block.inputs[0, :, 0], np.ones(7) / 7, "valid"), atol=1e-6
    )
    assert np.isnan(block.inputs[0, :3, 1]).all()


def test_surface_columns_hold_the_last_clear_day_for_a_while_and_never_a_later_one(cube):
    days = cube.time.values[[3, 20, 21]].astype("datetime64[D]")
    rng = np.random.default_rng(0)
    values = rng.uniform(0.05, 0.4, (cube.sizes["site"], 3, 7)).astype("float32")
    values[:, 1] = np.nan
    seen = xr.DataArray(values, dims=("site", "day", "band"), coords={"day": days, "band": list(BANDS[:7])})
    with_surface = cube.assign(surface=seen)
    assert "NDVI_MEAN_64D" in cube_spec(with_surface, targets=TARGETS, predictors=("TA",)).inputs
    spec = cube_spec(with_surface, targets=TARGETS, predictors=("TA",), surface=("red", "NDVI"))
    assert spec.inputs == ("TA", "red", "NDVI")
    met = cube_block(with_surface, spec).inputs
    red, ndvi = met[0, :, 1], met[0, :, 2]
    assert np.isnan(red[:3]).all() and (red[3:21] == values[0, 0, 0]).all() and (red[21:] == values[0, 2, 0])[:32].all()
    assert np.isnan(red[21 + OLDEST + 1 :]).all()
    nir = values[0, 0, 1]
    assert ndvi[5] == pytest.approx((nir - red[5]) / (nir + red[5]), abs=1e-6)
    without = cube_block(cube, spec).inputs
    assert np.isnan(without[..., 1:]).all() and np.array_equal(without[..., 0], met[..., 0])
    record = SurfaceRecord(values[:, :1], days[:1], BANDS[:7])
    early = surface_columns(record, ["red"], cube.time.values[:10], cube.longitude.values, resolution=DAILY)
    np.testing.assert_array_equal(early[0, :, 0], red[:10])
