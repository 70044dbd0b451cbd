"""Maps held against towers: sampled in the nearest cell, and averaged over the time steps of the coarser data."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from daily_cubes import daily_cube

import fluxcube as fc
from fluxcube.cubes.localdays import to_daily
from fluxcube.errors import ConfigError, SchemaError
from fluxcube.evaluation.common_steps import Periods, step_days
from fluxcube.evaluation.scales import scale_table
from fluxcube.evaluation.subsets import subset_masks, subset_table
from fluxcube.simulation.example import example_cube

DAY = np.timedelta64(1, "D")
FACTOR = 12.011e-6 * 86400


@pytest.fixture(scope="module")
def cube():
    """Four towers, 70 days of hours, of which a fifth is filled."""
    return example_cube(sites=4, days=70)


def maps_of(arrays, cube, **attrs):
    """Maps of which the cell (i, i) has the values of tower i, and other cells other values."""
    out = {}
    for name, array in arrays.items():
        values = array.transpose("time", "site").values
        field = np.repeat(values[:, :, None], values.shape[1], axis=2) + 50 * (1 - np.eye(values.shape[1]))
        out[name] = (("time", "latitude", "longitude"), field, array.attrs)
    coords = {"time": array.time.values, "latitude": cube.latitude.values, "longitude": cube.longitude.values}
    return xr.Dataset(out, coords, attrs)


def flux(cube, name="NEE", units="umol m-2 s-1"):
    array = cube.fluxes.sel(target=name, drop=True).drop_vars(["target_units", "target_long_name"], errors="ignore")
    return array.reset_coords(drop=True).assign_attrs(units=units)


def solar_days(cube, name="NEE"):
    """Daily means of the filled fluxes of every tower over days of local mean solar time, gC m-2 d-1."""
    days = []
    for i in range(cube.sizes["site"]):
        values = cube.fluxes.sel(target=name).isel(site=i).values
        record = xr.Dataset(
            {name: ("time", values), f"{name}_QC": ("time", np.zeros(len(values), np.int8))},
            {"time": cube.time.values},
            {"step_minutes": 60},
        )
        days.append(to_daily(record, utc_offset=float(cube.longitude[i]) / 15)[name])
    out = xr.concat(days, "site", join="outer").assign_coords(site=cube.site.values)
    return out.assign_attrs(units="gC m-2 d-1")


def test_maps_are_sampled_at_towers(cube, caplog):
    maps = maps_of({"NEE": flux(cube) + 1}, cube)
    scores = fc.evaluate(cube, maps)
    expected = fc.evaluate(cube, flux(cube).rename("NEE") + 1)
    xr.testing.assert_allclose(scores.drop_vars("units"), expected.drop_vars("units"))
    assert scores.attrs["sampling"] == "pred: nearest cell" and "averaging" not in scores.attrs
    table = fc.compare(cube, {"maps": maps, "towers": flux(cube).rename("NEE")}, by="igbp", clusters=50)
    assert table.attrs["sampling"] == "maps: nearest cell"
    assert set(table.group) == {"DBF", "GRA", "ENF", "CRO"}
    by_season = fc.evaluate(cube, maps.chunk(time=100, latitude=1), by="season")
    assert by_season.n.sum() == scores.n
    with pytest.raises(SchemaError, match="coordinate latitude"):
        fc.evaluate(cube.drop_vars("latitude"), maps)


def test_stamps_in_the_middle_of_the_hour_are_those_of_the_hour(cube):
    maps = maps_of({"NEE": flux(cube) + 1}, cube)
    half = maps.assign_coords(time=maps.time + np.timedelta64(30, "m"))
    assert fc.evaluate(cube, half).equals(fc.evaluate(cube, maps))
    turned = maps.isel(time=slice(None, None, -1))  # files of several years in another order
    assert fc.evaluate(cube, turned).equals(fc.evaluate(cube, maps))
    array = maps.NEE.rename(latitude="lat", longitude="lon")
    assert fc.evaluate(cube, array).equals(fc.evaluate(cube, maps))


def test_towers_outside_the_maps_have_no_score(cube):
    inside = maps_of({"NEE": flux(cube)}, cube).isel(latitude=slice(0, 3), longitude=slice(0, 3))
    scores = fc.evaluate(cube, inside, by="site")
    assert (scores.n.sel(target="NEE").values > 0).tolist() == [True, True, True, False]
    assert scores.nse.isnull().values.ravel().tolist() == [False, False, False, True]
    assert "1 of 4 towers outside the maps (XX-S03)" in scores.attrs["sampling"]
    nowhere = fc.evaluate(cube, inside.assign_coords(latitude=[-10.0, -11.0, -12.0]))
    assert nowhere.n.item() == 0 and np.isnan(nowhere.rmse.item())


def test_hourly_maps_against_a_daily_cube():
    """Days are those of local standard time; the maps have the days of each tower, and a bias of 1 umol m-2 s-1."""
    cube = daily_cube(sites=5, days=40, quality=1.0)
    cube = cube.assign_coords(utc_offset=("site", [-8.0, -5.5, -2.0, 1.0, 5.75]))
    hours = np.arange(cube.time.values[0] - DAY, cube.time.values[-1] + 2 * DAY, np.timedelta64(1, "h"))
    nee = cube.fluxes.sel(target="NEE", drop=True) / FACTOR
    series = []
    for i, offset in enumerate(cube.utc_offset.values):
        local = hours + np.timedelta64(int(offset * 60), "m")
        series.append(nee[i].reindex(time=local.astype("datetime64[D]").astype("datetime64[ns]")).values + 1)
    hourly = xr.DataArray(series, dims=("site", "time"), coords={"time": hours}, attrs={"units": "umol m-2 s-1"})
    hourly = hourly.assign_coords(site=cube.site.values)
    scores = fc.evaluate(cube, maps_of({"NEE": hourly}, cube))
    # At the two towers with half hours, an hour that straddles the first or the last midnight has no value here.
    assert scores.n.item() == 5 * 40 - 2 and scores.units.item() == "gC m-2 d-1"
    assert scores.bias.item() == pytest.approx(FACTOR, abs=0.3) and scores.attrs["resolution"] == "daily"
    whole = fc.evaluate(cube.isel(site=[0, 2, 3]), maps_of({"NEE": hourly}, cube))
    assert whole.bias.item() == pytest.approx(FACTOR, rel=1e-5)  # whole hours: exact
    assert whole.mae.item() == pytest.approx(FACTOR, rel=1e-5)
    assert whole.attrs["averaging"] == "daily means over days of local standard time"
    without = hourly.drop_attrs()
    assert fc.evaluate(cube, maps_of({"NEE": without}, cube)).bias.item() == pytest.approx(scores.bias.item())
    short = fc.evaluate(cube, maps_of({"NEE": hourly.isel(time=slice(12, -30))}, cube))
    assert 5 * 36 < short.n.item() < 5 * 40 - 2  # incomplete days at both ends are not scored
    lazy = fc.evaluate(cube, maps_of({"NEE": hourly}, cube).chunk(time=50, latitude=2))
    assert lazy.bias.item() == pytest.approx(scores.bias.item())
    assert fc.evaluate(cube.drop_vars("utc_offset"), maps_of({"NEE": hourly}, cube)).n.item() > 0


def test_daily_maps_against_an_hourly_cube(cube):
    daily = solar_days(cube) + 0.5
    maps = maps_of({"NEE": daily.assign_attrs(units="gC m-2 d-1")}, cube, resolution="daily")
    scores = fc.evaluate(cube, maps, min_quality=0.5)
    assert scores.bias.item() == pytest.approx(0.5, rel=1e-4) and scores.mae.item() == pytest.approx(0.5, rel=1e-4)
    assert scores.units.item() == "gC m-2 d-1" and 4 * 69 <= scores.n.item() <= 4 * 70
    assert scores.attrs["averaging"] == "daily means over days of local mean solar time"
    strict = fc.evaluate(cube, maps)
    assert strict.n.item() < 10  # by default every hour of a day must be measured
    assert fc.evaluate(cube, maps, min_quality=None).n == scores.n
    with pytest.raises(ConfigError, match="min_quality"):
        fc.evaluate(cube, maps, max_qc=1)
    noon = maps.assign_coords(time=maps.time + np.timedelta64(12, "h"))
    assert fc.evaluate(cube, noon, min_quality=0.5).equals(scores)
    fluxes = fc.evaluate(flux(cube).rename("NEE").assign_coords(latitude=cube.latitude, longitude=cube.longitude), maps)
    assert fluxes.bias.item() == pytest.approx(0.5, rel=1e-4)
    named = cube.fluxcube.to_variables()[["NEE", "NEE_QC"]]
    assert fc.evaluate(named, maps, min_quality=0.5).bias.equals(scores.bias)
    assert fc.evaluate(cube.chunk(site=2, time=100), maps, min_quality=0.5).n.equals(scores.n)
    utc = fc.evaluate(cube, maps.assign_attrs(averaged_clock="utc"), min_quality=0.5)
    assert utc.rmse.item() > scores.rmse.item() + 1e-3 and "days of UTC" in utc.attrs["averaging"]
    named = maps.assign_coords(time=("time", noon.time.values, {"long_name": "start of the day (UTC)"}))
    assert fc.evaluate(cube, named, min_quality=0.5).equals(utc)


def test_our_own_daily_means_agree_with_the_days_of_the_towers(cube):
    """`mean_maps` of maps with the fluxes of the towers equals the daily means of these fluxes, in UTC."""
    maps = maps_of({"NEE": flux(cube)}, cube)
    scores = fc.evaluate(cube, fc.mean_maps(maps, "day"), min_quality=None)
    assert scores.nse.item() == pytest.approx(1, abs=1e-6) and scores.n.item() == 4 * 70
    months = fc.evaluate(cube, fc.mean_maps(maps, "month", min_coverage=0), min_quality=None)
    assert months.n.item() == 4 * 2 and months.nse.item() == pytest.approx(1, abs=1e-3)  # nine days of August


@pytest.mark.parametrize("stamp", ["start", "middle", "bounds"])
def test_monthly_maps_against_hourly_and_daily_cubes(cube, stamp):
    daily = solar_days(cube)
    months = daily.sel(time=slice("2018-06-01", "2018-07-31")).resample(time="1MS").mean() + 2
    maps = maps_of({"NEE": months.assign_attrs(units="gC m-2 d-1")}, cube)
    if stamp == "middle":
        maps = maps.assign_coords(time=maps.time + np.timedelta64(15 * 24 + 12, "h"))
    if stamp == "bounds":
        ends = np.array([["2018-06-01", "2018-06-30T23:59:59"], ["2018-07-01", "2018-08-01"]], "datetime64[ns]")
        maps = maps.assign_coords(time=maps.time + 27 * DAY, time_bnds=(("time", "bnds"), ends))
    scores = fc.evaluate(cube, maps, min_quality=None)
    assert scores.n.item() == 8 and scores.bias.item() == pytest.approx(2, abs=0.05)
    assert scores.attrs["averaging"].startswith("means over periods of 30")
    few = fc.evaluate(cube.isel(time=slice(0, 44 * 24)), maps, min_quality=None)
    assert few.n.item() == 4  # 13 days of July are no month
    with pytest.raises(SchemaError, match="time scales need hourly or daily"):
        scale_table(cube, {"maps": maps}, min_quality=None)
    days = daily_cube(sites=4, days=100, quality=1.0)
    nee = days.fluxes.sel(target="NEE", drop=True).resample(time="1MS").mean()
    of_days = maps_of({"NEE": nee.assign_attrs(units="gC m-2 d-1")}, days)
    assert fc.evaluate(days, of_days).nse.item() == pytest.approx(1, abs=1e-6)
    assert fc.evaluate(days, of_days).n.item() == 4 * 3  # February to April; 11 days of May


def test_a_month_is_the_mean_of_its_good_days():
    days = daily_cube(sites=3, days=85, quality=1.0)
    bad = days.copy(deep=True)
    bad.fluxes_quality[:, :14] = 0.2
    bad.fluxes[:, :14] = 99
    nee = days.fluxes.sel(target="NEE", drop=True)
    means = nee.where(days.time >= days.time[14]).resample(time="1MS").mean()
    maps = maps_of({"NEE": means.assign_attrs(units="gC m-2 d-1")}, days)
    scores = fc.evaluate(bad, maps)
    assert scores.n.item() == 3 * 3 and scores.mae.item() == pytest.approx(0, abs=1e-5)
    bad.fluxes_quality[:, :15] = 0.2
    assert fc.evaluate(bad, maps).n.item() == 3 * 2  # 14 of 29 days of February are too few


def test_periods_of_eight_days_and_products_of_three_hours(cube):
    daily = solar_days(cube).sel(time=slice("2018-06-02", "2018-08-04"))
    eight = daily.resample(time="8D").mean().assign_attrs(units="gC m-2 d-1")
    scores = fc.evaluate(cube, maps_of({"NEE": eight}, cube), min_quality=None)
    assert scores.n.item() == 4 * 8 and scores.nse.item() == pytest.approx(1, abs=1e-6)
    three = flux(cube).resample(time="3h").mean().assign_attrs(units="umol m-2 s-1")
    scores = fc.evaluate(cube, maps_of({"NEE": three}, cube), min_quality=None)
    assert scores.n.item() >= 4 * 69 and scores.nse.item() > 0.99 and "daily means" in scores.attrs["averaging"]
    months = daily.resample(time="1MS").mean().assign_attrs(units="gC m-2 d-1")
    both = {"eight": maps_of({"NEE": eight}, cube), "months": maps_of({"NEE": months}, cube)}
    with pytest.raises(SchemaError, match=r"compare these predictions one by one"):
        fc.compare(cube, both, min_quality=None)


def test_models_at_towers_are_averaged_with_the_maps(cube):
    """All predictions are averaged over the days of the coarsest one, on a common row mask."""
    daily = solar_days(cube).assign_attrs(units="gC m-2 d-1")
    maps = maps_of({"NEE": daily}, cube)
    hourly = xr.Dataset({"NEE": flux(cube) + 1, "NEE_std": xr.ones_like(flux(cube))})
    table = fc.compare(cube, {"maps": maps, "model": hourly}, min_quality=None).set_index("model")
    assert table.n["maps"] == table.n["model"] and table.bias["maps"] == pytest.approx(0, abs=1e-5)
    assert table.bias["model"] == pytest.approx(FACTOR, rel=1e-4)
    assert "coverage_80" not in table  # the error of a daily mean does not follow from those of hours
    by_season = fc.compare(cube, {"maps": maps}, by="season", min_quality=None)
    assert by_season.n.sum() == table.n["maps"]
    scales = scale_table(cube, {"maps": maps}, min_quality=None)
    assert "hourly" not in set(scales.group) and scales.set_index("group").n["daily"] == table.n["maps"]
    with pytest.raises(SchemaError, match="subsets of time steps"):
        subset_table(cube, {"maps": maps}, subset_masks(cube), min_quality=None)


def test_sampled_maps_are_scored_as_maps(cube):
    maps = maps_of({"NEE": solar_days(cube).assign_attrs(units="gC m-2 d-1")}, cube)
    towers = fc.sample_at_sites(maps, cube, method="nearest")
    scores = fc.evaluate(cube, towers, min_quality=None)
    assert scores.equals(fc.evaluate(cube, maps, min_quality=None))
    assert scores.attrs == fc.evaluate(cube, maps, min_quality=None).attrs


def test_calibrated_maps_report_their_coverage(cube):
    maps = maps_of({"NEE": flux(cube) + 1}, cube)
    maps = maps.assign(NEE_std=(maps.NEE * 0 + 1).assign_attrs(maps.NEE.attrs))
    assert float(fc.evaluate(cube, maps).coverage_80.squeeze()) == 1


def test_mean_diurnal_cycles_are_refused(cube):
    cycle = fc.mean_cycle(maps_of({"NEE": flux(cube)}, cube), "month", min_coverage=0)
    with pytest.raises(SchemaError, match="hour"):
        fc.evaluate(cube, cycle, min_quality=None)


def test_lengths_of_steps():
    time = np.array(["2001-01-01", "2001-02-01", "2001-04-01"], "datetime64[ns]")
    data = xr.DataArray(np.zeros(3), dims="time", coords={"time": time})
    assert step_days(data) == 31 and Periods.of(data).days.tolist() == [31, 28, 30]
    years = data.assign_coords(time=np.array(["2001-07-01", "2002-07-01", "2003-07-01"], "datetime64[ns]"))
    assert Periods.of(years).needed.tolist() == [183] * 3
    weeks = data.assign_coords(time=time[0] + np.arange(3) * 8 * DAY)
    assert Periods.of(weeks).days.tolist() == [8, 8, 8] and Periods.of(weeks).needed.tolist() == [4] * 3
    with pytest.raises(SchemaError, match="time_bnds"):
        Periods.of(data.isel(time=[0]))
