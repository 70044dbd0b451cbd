"""Scales: what is added at one scale is seen there and not at those that take it away."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from fluxcube.errors import SchemaError
from fluxcube.evaluation.scales import SCALES, at_scales, scale_table
from fluxcube.evaluation.skill import compare
from fluxcube.resolution import HOURLY

SITES, LONGITUDE = ("A", "B", "C"), (-120.0, 0.0, 150.0)


@pytest.fixture(scope="module")
def obs():
    """Three years, leap year among them, of three towers: a cycle of the day and year, weather, and a trend."""
    time = np.arange("2003-01-01", "2006-01-01", dtype="datetime64[h]").astype("datetime64[ns]")
    rng = np.random.default_rng(0)
    hours = np.arange(len(time))
    days = np.repeat(rng.normal(size=(3, len(time) // 24)), 24, axis=1)
    values = 3 * np.sin(2 * np.pi * hours / 24) + 5 * np.sin(2 * np.pi * hours / 8766) + days + hours / 1e4
    values = values + np.array([0.0, 2.0, -1.0])[:, None]
    coords = {
        "site": list(SITES),
        "time": time,
        "longitude": ("site", list(LONGITUDE)),
        "latitude": ("site", [1.0, 9, 40]),
    }
    return xr.DataArray(values, dims=("site", "time"), coords=coords, name="NEE")


def table(obs, **predictions):
    return scale_table(obs, predictions, max_qc=None).set_index(["model", "group"])


def test_the_eight_scales_of_a_perfect_model(obs):
    found = table(obs, same=obs)
    assert tuple(found.loc["same"].index) == SCALES and (found.nse == 1).all()
    n = found.loc["same"].n
    # local days of a tower away from Greenwich cut the record's ends: at most one a site, and weeks and months with it
    assert n["hourly"] == 3 * 26304 and 3 * 1096 - 2 <= n["daily"] <= 3 * 1096 + 2
    assert n["monthly"] == 3 * 36 and n["interannual"] == 3 * 3 and n["spatial"] == 3
    assert n["seasonal"] == 3 * 365 and abs(n["anomaly"] - (n["daily"] - 3)) <= 2  # the leap day comes once
    assert abs(n["weekly"] - 3 * 157) <= 3


def test_a_bias_of_a_site_is_spatial_alone(obs):
    found = table(obs, biased=obs + xr.DataArray([4.0, -3.0, 1.0], dims="site")).loc["biased"]
    assert found.nse["anomaly"] == pytest.approx(1) and found.nse["interannual"] == pytest.approx(1)
    assert (
        found.nse["spatial"] < 0
        and found.nse["seasonal"] < 1
        and found.rmse["hourly"] == pytest.approx(np.sqrt((16 + 9 + 1) / 3))
    )


def test_a_model_of_the_mean_year_knows_no_anomaly(obs):
    """Trained on the site's own cycle it has the season exactly, and nothing of the days."""
    lon = xr.DataArray(list(LONGITUDE), dims="site", coords={"site": list(SITES)})
    local = [obs.time.values.astype("datetime64[s]") + np.timedelta64(int(x * 240), "s") for x in lon.values]
    cycle = np.empty(obs.shape)
    for i, t in enumerate(local):
        day = t.astype("datetime64[D]")
        key = (day - day.astype("datetime64[Y]")).astype(int)
        # the mean of days of which each has the same number of hours, the record's first and last cut days aside
        whole = np.isin(day, [d for d, c in zip(*np.unique(day, return_counts=True), strict=True) if c >= 12])
        daily = {k: obs.values[i][whole & (key == k)] for k in np.unique(key)}
        cycle[i] = [daily[k].mean() for k in key]
    found = table(obs, cycle=obs.copy(data=cycle)).loc["cycle"]
    assert found.nse["seasonal"] > 0.999 and abs(found.nse["anomaly"]) < 0.01
    assert found.nse["interannual"] < 0.01 < found.nse["weekly"]


def test_noise_of_hours_fades_with_the_scale(obs):
    noise = xr.DataArray(np.random.default_rng(1).normal(0, 3, obs.shape), dims=obs.dims)
    found = table(obs, noisy=obs + noise).loc["noisy"]
    errors = found.rmse[["hourly", "daily", "weekly", "monthly"]].tolist()
    assert errors[0] == pytest.approx(3, rel=0.01)
    np.testing.assert_allclose(np.array(errors[:-1]) / errors[0], 1 / np.sqrt([1, 24, 168]), rtol=0.06)
    assert errors == sorted(errors, reverse=True)


def test_hours_that_one_model_lacks_count_for_none_and_short_days_drop_out(obs):
    hour = obs.time.dt.hour
    gappy = obs.where((hour < 11) | (obs.time.dt.day > 14))
    both = table(obs, gappy=gappy, whole=obs + 1)
    assert (both.loc["gappy"].n == both.loc["whole"].n).all()
    alone = table(obs, whole=obs + 1)
    assert both.loc["whole"].n["daily"] < alone.loc["whole"].n["daily"]
    hourly = compare(obs, {"gappy": gappy, "whole": obs + 1}, max_qc=None).set_index("model")
    assert both.nse["whole", "hourly"] == pytest.approx(hourly.nse["whole"], abs=1e-12)
    assert both.n["gappy", "hourly"] == hourly.n["gappy"]


def test_days_are_those_of_the_sun_s_clock():
    time = np.arange("2003-01-01", "2003-01-03", dtype="datetime64[h]")
    values = np.arange(48.0)[:, None]
    assert at_scales(values, time)["daily"].ravel().tolist() == [11.5, 35.5]
    # at 90 E the first local day ends at 18 h UTC, the third has 6 hours and is too short
    assert at_scales(values, time + HOURLY.solar_shift(90.0))["daily"].ravel().tolist() == [8.5, 29.5]
    assert at_scales(values, time)["weekly"].shape == (0, 1)


def test_intervals_come_with_the_scales(obs):
    found = scale_table(obs, {"a": obs + 1, "b": obs * 0.5}, max_qc=None, clusters=0, against="a")
    row = found.query("group == 'spatial' and model == 'b'").iloc[0]
    assert row.n_clusters == 3 and row.rmse_diff_low <= row.rmse_diff <= row.rmse_diff_high
    with pytest.raises(SchemaError, match="longitude"):
        scale_table(obs.drop_vars("longitude"), {"a": obs}, max_qc=None)


def daily_cube(obs):
    """The same as a daily cube, of local dates, with whole and half measured days."""
    days = obs.resample(time="D").mean().transpose("site", "time")
    quality = xr.ones_like(days).astype("float32")
    quality[:, ::7] = 0.5
    fluxes = xr.Dataset({"fluxes": days.rename(None), "fluxes_quality": quality.rename(None)}).expand_dims(
        target=["NEE"]
    )
    return fluxes.transpose("site", "time", "target").assign_attrs(resolution="daily")


def test_scales_of_a_daily_cube_begin_at_days_and_its_dates_are_local(obs):
    cube = daily_cube(obs)
    found = scale_table(cube, {"same": cube.fluxes}).set_index("group")
    assert tuple(found.index) == SCALES[1:] and (found.nse == 1).all()
    whole = (cube.fluxes_quality == 1).values.sum()
    assert found.n["daily"] == whole and found.n["monthly"] == 3 * 36
    assert found.attrs["min_quality"] == 1 and "quality >= 1" in found.attrs["row_mask"]
    more = scale_table(cube.drop_vars("longitude"), {"same": cube.fluxes}, min_quality=0.5).set_index("group")
    assert more.n["daily"] == cube.fluxes.size, "dates need no longitude"


def test_seasons_of_local_dates_are_not_shifted_once_more(obs):
    """The first of December of a daily cube is a winter day at every longitude."""
    cube = (
        daily_cube(obs).sel(time=["2003-11-30", "2003-12-01"]).assign_coords(longitude=("site", [-170.0, 0.0, 170.0]))
    )
    found = compare(cube, {"same": cube.fluxes}, by="season", min_quality=None).set_index("group")
    assert found.n[["winter", "autumn"]].tolist() == [3, 3]
    hours = obs.sel(time=slice("2003-11-30T00", "2003-12-01T23")).assign_coords(longitude=cube.longitude)
    found = compare(hours, {"same": hours}, by="season", max_qc=None).set_index("group")
    # 1 December begins at 11:20 UTC of that day at 170 W, and at 12:40 UTC of the day before at 170 E
    assert found.n["winter"] == 12 + 24 + (24 + 11), "of UTC hours the local date decides"
