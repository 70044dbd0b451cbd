"""Daily forcing: days of each cell's own, no hour lost or counted twice, equal to daily towers of the same hours."""

from __future__ import annotations

import dask
import numpy as np
import pytest
import xarray as xr

from fluxcube.cubes.climates import add_climates
from fluxcube.cubes.forcing import open_forcing
from fluxcube.cubes.forcing_daily import daily_forcing
from fluxcube.cubes.forcing_store import write_forcing
from fluxcube.cubes.localdays import to_daily
from fluxcube.errors import ConfigError, SchemaError
from fluxcube.resolution import check_resolution
from fluxcube.schema import validate_forcing, variable_coords
from fluxcube.simulation import Planet
from fluxcube.simulation.example import example_forcing
from fluxcube.solar import SOLAR_CONSTANT, declination, distance_factor, potential_radiation
from fluxcube.variables import table

HOUR = np.timedelta64(1, "h")


def hours(longitude, columns, *, start="2021-03-01", latitude=(50.0, 10.0)) -> xr.Dataset:
    """A forcing cube of `columns`: arrays that broadcast to (latitude, longitude, hour)."""
    latitude, longitude = np.asarray(latitude, float), np.asarray(longitude, float)
    shape = len(latitude), len(longitude)
    values = np.stack([np.broadcast_to(v, (*shape, np.shape(v)[-1])) for v in columns.values()], -1).astype("float32")
    cells, time = ("latitude", "longitude"), np.datetime64(start, "ns") + np.arange(values.shape[2]) * HOUR
    return validate_forcing(
        xr.Dataset(
            {"predictors": ((*cells, "time", "variable"), values)},
            coords={
                "latitude": latitude,
                "longitude": longitude,
                "time": time,
                **variable_coords(columns),
                "elevation": (cells, np.zeros(shape)),
                "igbp": (cells, np.full(shape, "GRA", object)),
                "land_fraction": (cells, np.ones(shape)),
            },
            attrs={"kind": "forcing"},
        )
    )


def tower_days(forcing: xr.Dataset, row: int, col: int) -> xr.Dataset:
    """The days that a tower's would be, were its hours those of a cell."""
    cell = forcing.isel(latitude=row, longitude=col)
    arrays = {}
    for name in set(forcing["variable"].values) - {"DOY", "TOD", "SW_IN_POT"}:
        values = cell.predictors.sel(variable=name).values
        there = np.isfinite(values)
        arrays |= {name: ("time", values), f"{name}_QC": ("time", np.where(there, 0, -1).astype("i1"))}
        arrays[f"{name}_COVERAGE"] = ("time", there.astype("f4"))
    return to_daily(xr.Dataset(arrays, coords={"time": cell.time.values}), utc_offset=float(cell.longitude) / 15)


def assert_as_towers(days: xr.Dataset, forcing: xr.Dataset, row: int, col: int) -> None:
    expected = tower_days(forcing, row, col).sel(time=days.time)
    cell = days.isel(latitude=row, longitude=col)
    for name in set(days["variable"].values) - {"DOY", "SW_IN_POT"}:
        scale = float(np.abs(expected[name]).max().fillna(0)) + 1e-3
        np.testing.assert_allclose(
            cell.predictors.sel(variable=name), expected[name], atol=2e-6 * scale, err_msg=f"{name} {row} {col}"
        )


@pytest.fixture(scope="module")
def grid(planet_files):
    return open_forcing(planet_files / "era5")


def test_days_of_the_planet_s_grid_are_a_tower_s(grid):
    """Averaged by other code, variable by variable."""
    planet_days, grid = daily_forcing(grid).compute(), grid.drop_vars("modis", errors="ignore").compute()
    assert {"TA", "TA_RANGE", "SW_IN", "LW_IN", "VPD", "PA", "P", "WS", "WD"} <= set(planet_days["variable"].values)
    rows, cols = (len(grid[dim]) for dim in ("latitude", "longitude"))
    for row, col in ((0, 0), (rows // 2, cols // 3), (rows - 1, cols - 1)):
        assert_as_towers(planet_days, grid, row, col)
    towers = [
        t
        for t in Planet(seed=0, quick=True).towers
        if grid.latitude.min() <= t.latitude <= grid.latitude.max()
        and grid.longitude.min() <= t.longitude <= grid.longitude.max()
    ]
    assert towers, "no tower on the grid: nothing is compared"
    for tower in towers[:3]:
        at = [int(np.abs(grid[dim].values - getattr(tower, dim)).argmin()) for dim in ("latitude", "longitude")]
        assert_as_towers(planet_days, grid, *at)


@pytest.mark.parametrize("longitude", [-180.0, -100.9, -7.4, 0.0, 7.5, 8.1, 93.1, 179.9])
@pytest.mark.parametrize("gaps", [0.0, 0.03])
def test_any_meridian_and_gaps(longitude, gaps):
    rng = np.random.default_rng(abs(int(longitude * 10)))
    columns = {
        "TA": rng.normal(size=(2, 1, 144)),
        "P": rng.gamma(1, size=(2, 1, 144)),
        "LE": rng.normal(size=(2, 1, 144)),
        "WD": rng.uniform(0, 360, (2, 1, 144)),
    }
    columns = {name: np.where(rng.random(v.shape) < gaps, np.nan, v) for name, v in columns.items()}
    ds = hours([longitude], columns)
    days = daily_forcing(ds).compute()
    assert days.sizes["time"] == (6 if longitude == 0 else 5)
    for row in (0, 1):
        assert_as_towers(days, ds, row, 0)
    missing = days.predictors.isnull().sum(["latitude", "longitude", "time"]).to_series()
    if gaps:
        assert missing.P > missing.TA and missing.LE > 0, "a mean bears more missing hours than a sum"
    else:
        assert not missing.any()


def test_rain_falls_on_each_longitude_s_own_date():
    """At 12 UTC it is midnight at 180 W: the hour is that date's first there, and nearly all tomorrow's at 180 E."""
    rain = np.zeros(96)
    rain[36] = 6.0  # 12 to 13 UTC of 2 March
    longitude = np.array([-180.0, -90.0, 0.0, 90.0, 172.5, 176.25, 179.75])
    day = daily_forcing(hours(longitude, {"P": rain}, latitude=[0.0])).predictors.sel(variable="P").isel(latitude=0)
    assert day.time.values.astype("datetime64[D]").tolist() == np.array(["2021-03-02", "2021-03-03"], "M8[D]").tolist()
    assert day.units == "mm d-1"
    np.testing.assert_allclose(day.isel(time=0), [6, 6, 6, 6, 3, 1.5, 0.1], atol=1e-6)
    np.testing.assert_allclose(day.isel(time=1), [0, 0, 0, 0, 3, 4.5, 5.9], atol=1e-6)


def test_nothing_is_lost_between_days():
    """Sums of days are the sums of their hours, with the hours at both ends in proportion."""
    rng = np.random.default_rng(1)
    longitude, n = np.linspace(-180, 179, 7), 24 * 9
    rain, sun = rng.gamma(0.3, size=(2, 7, n)), rng.gamma(9.0, size=(2, 7, n))
    days = daily_forcing(hours(longitude, {"P": rain, "SW_IN": sun})).compute()
    begin, end = (int((days.time.values[i] - np.datetime64("2021-03-01")) / HOUR) for i in (0, -1))
    for col, minutes in enumerate(np.round(longitude * 4)):
        ends = begin - minutes / 60, end + 24 - minutes / 60
        assert ends[0] >= 0 and ends[1] <= n, "all of the days' hours are there"
        hour = np.diff(np.clip(np.arange(n + 1), *ends))
        for name, values, amount in (("P", rain, 1), ("SW_IN", sun, 24)):
            total = days.predictors.sel(variable=name).isel(longitude=col).sum("time") * amount
            np.testing.assert_allclose(total, (values[:, col] * hour).sum(-1), rtol=1e-5)


def test_what_follows_the_sun_is_alike_at_every_longitude():
    """A temperature of solar time alone has one daily range and mean; dates of a place east or west do not differ."""
    longitude = np.arange(-180, 180, 3.75)
    solar = (np.arange(96) + 0.5 + longitude[:, None] / 15) % 24
    days = daily_forcing(hours(longitude, {"TA": 10 * np.sin(2 * np.pi * (solar - 9) / 24)})).compute()
    spread = days.predictors.sel(variable="TA_RANGE")
    assert float(spread.min()) == pytest.approx(19.8, abs=0.2) and float(spread.max()) <= 20
    np.testing.assert_allclose(days.predictors.sel(variable="TA"), 0, atol=1e-5)
    whole = spread.sel(longitude=longitude[::4])
    assert float(whole.max() - whole.min()) < 1e-5, "15 degrees further it is the same, an hour earlier"


def test_longitudes_may_count_from_0_to_360():
    """The two conventions give one set of days, whose attributes say which midnight they begin at."""
    rng = np.random.default_rng(2)
    columns = {"TA": rng.normal(size=(2, 3, 96)), "P": rng.gamma(1, size=(2, 3, 96))}
    west = daily_forcing(hours([-170.0, -90.0, -1.0], columns)).compute()
    east = daily_forcing(hours([190.0, 270.0, 359.0], columns)).compute()
    np.testing.assert_array_equal(west.time, east.time)
    assert west.attrs["clock"] == "solar" and "solar" in west.time.attrs["long_name"]
    np.testing.assert_allclose(west.predictors, east.predictors, rtol=1e-6)


def test_sun_and_date_of_every_cell_up_to_the_poles():
    latitude, longitude = [90.0, 89.9, 65.0, 0.0, -65.0, -90.0], [-180.0, -77.7, 0.0, 15.1, 179.9]
    days = daily_forcing(hours(longitude, {"TA": np.zeros(240)}, start="2021-06-15", latitude=latitude)).compute()
    sun = days.predictors.sel(variable="SW_IN_POT").transpose("time", "latitude", "longitude").values
    doy = days.predictors.sel(variable="DOY").values
    date = days.time.dt.dayofyear.values - 1
    assert (doy == date).all() and np.isfinite(sun).all()
    at_pole = SOLAR_CONSTANT * distance_factor(date) * np.sin(declination(date))
    np.testing.assert_allclose(sun[:, 0], np.broadcast_to(at_pole[:, None], sun[:, 0].shape), rtol=1e-5)
    assert (sun[:, -1] == 0).all(), "the southern pole has no sun in June"
    assert np.ptp(sun, axis=2).max() < 1e-3, "a day has its sun at any longitude"
    for row, north in enumerate(latitude):
        midnight = days.time.values.astype("M8[m]")
        hourly = [potential_radiation(midnight + k * HOUR, north, 0.0) for k in range(24)]
        np.testing.assert_allclose(sun[:, row, 2], np.mean(hourly, 0), rtol=1e-5, atol=1e-3)


def test_it_is_a_forcing_cube_of_days():
    forcing = example_forcing(days=4).assign_coords(koppen=(("latitude", "longitude"), np.full((3, 4), "Cfb", object)))
    days = daily_forcing(forcing)
    assert validate_forcing(days) is days
    check_resolution(days, "daily", "this model")
    assert days.attrs["resolution"] == "daily" and days.attrs["clock"] == "solar"
    assert list(days["variable"].values) == ["DOY", "TA", "TA_RANGE", "SW_IN", "VPD", "SW_IN_POT"]
    assert list(days.units.values) == [table("daily")[name].units for name in days["variable"].values]
    for name in ("elevation", "igbp", "koppen", "land_fraction"):
        assert days[name].equals(forcing[name])
    assert "modis" not in days and "day" not in daily_forcing(forcing.drop_vars("modis")).dims


def test_surface_is_the_middle_of_the_chips():
    forcing = example_forcing(days=20)
    chips = forcing.modis.copy()
    chips[0, 0, 1, :, 2:4, 2:6] = np.nan  # half of the middle: still a mean
    chips[0, 0, 2, 3, 2:5, 2:5] = np.nan  # 9 of 16 of one band
    chips[0, 1, 0, :, :2] = np.nan  # none of the middle
    surface = daily_forcing(forcing.assign(modis=chips)).surface
    assert surface.dims == ("latitude", "longitude", "day", "band")
    assert surface.band.values.tolist() == ["red", "nir", "blue", "green", "swir1", "swir2", "swir3"]
    np.testing.assert_array_equal(surface.day, chips.day)
    for at in ((2, 3, 1, 0), (0, 1, 0, 6)):
        np.testing.assert_allclose(surface[at], chips[at][2:6, 2:6].mean(), rtol=1e-5)
    np.testing.assert_allclose(surface[0, 0, 1], chips[0, 0, 1, :7, 4:6, 2:6].mean(("y", "x")), rtol=1e-5)
    assert surface[0, 0, 2].isnull().values.tolist() == [False] * 3 + [True] + [False] * 3
    lazy = daily_forcing(forcing.assign(modis=chips.chunk(day=1))).surface
    assert lazy.chunks is not None
    np.testing.assert_array_equal(lazy, surface)


def test_days_are_stored_and_opened_as_they_are(tmp_path):
    days = daily_forcing(add_climates(example_forcing(days=6), "Dfb"))
    opened = open_forcing(write_forcing(days, tmp_path / "days.zarr"))
    np.testing.assert_array_equal(opened.predictors, days.predictors)
    np.testing.assert_allclose(opened.surface, days.surface, atol=5.1e-5)
    assert opened.attrs["resolution"] == "daily" and opened.koppen.equals(days.koppen)
    np.testing.assert_array_equal(opened.time, days.time)


def test_several_chips_a_cell_are_weighed():
    forcing = example_forcing(days=20)
    other = (forcing.modis * 0.5).copy()
    other[0, 0] = np.nan  # a cell whose second block has no value
    weight = (("latitude", "longitude", "block"), np.broadcast_to([0.75, 0.25], (3, 4, 2)))
    blocks = xr.concat([forcing.modis, other], "block").transpose("latitude", "longitude", "block", ...)
    both = forcing.drop_vars("modis").assign(modis=blocks).assign_coords(block_weight=weight)
    one, days = daily_forcing(forcing).surface, daily_forcing(both)
    factor = np.full((3, 4, 1, 1), 0.75 + 0.25 * 0.5)
    factor[0, 0] = 1.0
    np.testing.assert_allclose(days.surface, one * factor, rtol=1e-5)
    assert days.surface.dims == one.dims and "block_weight" not in days.coords


def test_climates_are_those_of_the_months():
    """A year of hours, and of days, with a monthly climate known by hand: the same class, north and south."""
    season = np.cos(2 * np.pi * (np.arange(365 * 24) / 24 - 196) / 365)
    rain = (60 - 55 * season) / 730  # mm an hour: 5 mm in July, 115 in January
    columns = {"TA": np.stack([15 + 10 * season, np.full_like(season, 27), 15 - 10 * season])[:, None], "P": rain}
    ds = hours([0.0, 15.0], columns, start="2021-01-01", latitude=[45.0, 5.0, -35.0])
    ds.predictors[0, 1, :2000, 0] = np.nan
    expected = [["Csa", ""], ["Aw", "Aw"], ["Cwa", "Cwa"]]
    found = add_climates(ds)
    assert found.koppen.values.tolist() == expected
    assert add_climates(ds.chunk(time=500, latitude=1)).koppen.equals(found.koppen)
    assert daily_forcing(found).koppen.equals(found.koppen)
    assert add_climates(found) is found
    days = add_climates(daily_forcing(ds))
    assert days.koppen.values.tolist() == expected
    assert set(add_climates(ds.isel(variable=[0]), "Dfb").koppen.values.ravel()) == {"Dfb"}
    with pytest.raises(ConfigError, match="'forest'"):
        add_climates(ds, "forest")
    for wrong in (ds.isel(time=slice(0, 5000)), ds.isel(variable=[0])):
        with pytest.raises(ConfigError, match="need TA and P of all twelve months"):
            add_climates(wrong)


def test_nothing_is_computed_before_it_is_asked_for_and_chunks_change_nothing():
    forcing = example_forcing(shape=(3, 4), days=60)
    read = []

    def spy(block, block_info=None):
        read.append(block_info[0]["array-location"][2])
        return block

    chunked = forcing.assign(predictors=forcing.predictors.chunk(latitude=2, longitude=3, time=240))
    watched = chunked.predictors.copy(data=chunked.predictors.data.map_blocks(spy, dtype="f4", meta=np.empty((0,) * 4)))
    days = daily_forcing(chunked.assign(predictors=watched))
    assert not read, "opened, and something was read"
    np.testing.assert_array_equal(days.predictors, daily_forcing(forcing).predictors)
    assert days.predictors.chunksizes["latitude"] == (2, 1) and days.predictors.chunksizes["longitude"] == (3, 1)
    assert days.predictors.dtype == np.float32


def test_a_chunk_of_days_reads_its_own_hours_only(monkeypatch):
    monkeypatch.setattr("fluxcube.cubes.forcing_daily._MIN_DAYS", 10)
    monkeypatch.setattr("fluxcube.cubes.forcing_daily._BYTES", 1)
    forcing = example_forcing(days=62)
    read = []

    def spy(block, block_info=None):
        read.append(block_info[0]["array-location"][2])
        return block

    stack = forcing.predictors.chunk(time=240)
    stack = stack.copy(data=stack.data.map_blocks(spy, dtype="f4", meta=np.empty((0,) * 4)))
    days = daily_forcing(forcing.assign(predictors=stack))
    assert set(days.predictors.chunksizes["time"][:-1]) == {10}
    part = days.predictors.isel(time=slice(20, 30))
    with dask.config.set(scheduler="synchronous"):
        part.compute()
    # 23 June to 2 July, at 8 degrees east from half past eleven of the evening before.
    assert {start for start, _ in read} == {480, 720}
    whole = daily_forcing(forcing.drop_vars("modis"))
    np.testing.assert_array_equal(part, whole.predictors.isel(time=slice(20, 30)))


def test_what_cannot_become_days_is_named():
    days = daily_forcing(example_forcing(days=4))
    with pytest.raises(ConfigError, match=r"daily_forcing works on hours.*hourly forcing"):
        daily_forcing(days)
    with pytest.raises(ConfigError, match=r"works on days.*fluxcube.daily_forcing"):
        check_resolution(example_forcing(days=2), "daily", "this model")
    with pytest.raises(ConfigError, match="no date has all 24 hours"):
        daily_forcing(hours([-180.0, 179.0], {"TA": np.zeros(47)}))
    with pytest.raises(SchemaError):
        daily_forcing(days.drop_vars("predictors"))


def test_days_of_real_reanalysis_are_integrals_between_midnights(shared_data):
    """A year of a pixel at 9 degrees east, whose midnight is 36 minutes before that of UTC, from running sums."""
    forcing = open_forcing(shared_data / "era5/era5_pixel_54.25N_9.0E_2019.nc", igbp="GRA")
    days = daily_forcing(forcing).compute()
    assert days.sizes["time"] == 363, "its first date began in 2018, and its last hour is in the file of 2020"
    hour = np.arange(forcing.sizes["time"] + 1)
    midnight = (days.time.values - forcing.time.values[0]) / HOUR - 9 / 15
    for name in ("TA", "SW_IN", "PA", "WS"):
        values = forcing.predictors.sel(variable=name).values.ravel().astype(float)
        running = np.concatenate([[0], np.cumsum(values)])
        expected = (np.interp(midnight + 24, hour, running) - np.interp(midnight, hour, running)) / 24
        np.testing.assert_allclose(days.predictors.sel(variable=name).values.ravel(), expected, rtol=1e-5, atol=1e-4)
    spread = days.predictors.sel(variable="TA_RANGE")
    assert 4 < float(spread.mean()) < 9 and float(spread.min()) > 0 and float(spread.max()) < 25


def test_the_sun_of_a_day_is_the_reanalysis_s_own(shared_data):
    """ERA5 gives the radiation at the top of the atmosphere, with a solar constant of 1361 instead of 1376 W m-2."""
    path = shared_data / "era5/era5_davos_2020-01.nc"
    days = daily_forcing(open_forcing(path, igbp="ENF"))
    with xr.open_dataset(path) as raw:
        sun = raw.tisr.transpose("latitude", "longitude", ...).values / 3600
    whole = sun[..., 1:].reshape(*sun.shape[:2], -1)[..., : 24 * 30].reshape(*sun.shape[:2], 30, 24).mean(-1)
    ours = days.predictors.sel(variable="SW_IN_POT").transpose("latitude", "longitude", "time").values
    n = min(whole.shape[-1], ours.shape[-1])
    np.testing.assert_allclose(whole[..., 1:n].mean(-1) / ours[..., 1:n].mean(-1), 1361 / SOLAR_CONSTANT, rtol=0.01)
