"""What people have: series of one point, mean rates, other spellings of units, rows turned, masks of the globe."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
import xarray as xr

from fluxcube.errors import SourceError
from fluxcube.solar import potential_radiation
from fluxcube.sources.era5.copy import copy_era5
from fluxcube.sources.era5.variables import open_era5

HOUR = np.timedelta64(1, "h")
DIMS = ("valid_time", "latitude", "longitude")
LATITUDE, LONGITUDE = np.array([47.5, 47.25, 47.0]), np.array([7.0, 7.25, 7.5, 7.75])


def weather(latitude=LATITUDE, longitude=LONGITUDE, days=2):
    """Hourly ERA5 with temperatures that differ between all cells and hours."""
    latitude, longitude = np.asarray(latitude, float), np.asarray(longitude, float)
    time = np.datetime64("2019-07-01", "ns") + np.arange(24 * days + 1) * HOUR
    north, east = np.meshgrid(latitude, longitude, indexing="ij")
    sun = np.moveaxis(potential_radiation(time - HOUR, north, east), -1, 0)
    hour = np.arange(len(time))[:, None, None]
    fields = {
        "t2m": (280 + 0.1 * hour + 0.01 * north + 0.001 * (east % 360), "K"),
        "ssrd": (3600 * 0.5 * sun, "J m**-2"),
        "tp": (np.where(hour % 24 == 15, 0.001, 0.0) + 0 * sun, "m"),
    }
    arrays = {name: (DIMS, values, {"units": units}) for name, (values, units) in fields.items()}
    return xr.Dataset(arrays, coords={"valid_time": time, "latitude": latitude, "longitude": longitude})


@pytest.fixture
def write(tmp_path):
    """Write datasets as files of a new folder."""

    def write_all(*datasets, name=""):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        for n, ds in enumerate(datasets):
            ds.to_netcdf(folder / f"{n}{name}.nc")
        return folder

    return write_all


@pytest.fixture(scope="module")
def region():
    return weather()


def same(one, other):
    assert set(one.data_vars) == set(other.data_vars) and one.sizes == other.sizes
    for name in one.data_vars:
        np.testing.assert_allclose(one[name].values, other[name].values, rtol=1e-6, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    "change",
    [
        lambda ds: ds.isel(latitude=0, longitude=0),
        lambda ds: ds.isel(latitude=0, longitude=0).expand_dims(station=1, axis=1),
        lambda ds: ds.isel(latitude=0),
        lambda ds: ds.isel(longitude=0),
        lambda ds: ds.isel(latitude=0, longitude=0).expand_dims(surface=[0.0], height=[2.0]),
    ],
)
def test_a_series_of_one_point_is_a_grid_of_one_cell(write, change):
    point = weather([47.0], [7.0])
    expected = open_era5(write(point)).load()
    found = open_era5(write(change(point))).load()
    same(found, expected)
    assert found.latitude.values.tolist() == [47.0] and found.longitude.values.tolist() == [7.0]


def test_the_accumulation_of_a_point_of_era5_land_is_that_of_its_values(write):
    point = weather([47.0], [7.0]).isel(latitude=0, longitude=0)
    assert open_era5(write(point, name="_reanalysis-era5-land-timeseries")).attrs["accumulation"] == "hour"
    days = point.copy()
    for name in ("ssrd", "tp"):
        amounts = point[name].values
        totals = np.concatenate([[0.0], *(np.cumsum(day) for day in np.split(amounts[1:], 2))])
        days[name] = point[name].copy(data=totals)
    ds = open_era5(write(days, name="_reanalysis-era5-land-timeseries"))
    assert ds.attrs["accumulation"] == "day" and float(ds.P.max()) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "at, name, width", [((47.0, 7.0), "", 0.25), ((47.3, 8.6), "", 0.1), ((47.0, 7.0), "_era5-land", 0.1)]
)
def test_one_cell_of_the_land_product_is_a_tenth_of_a_degree(write, at, name, width):
    from fluxcube.cubes.forcing import open_forcing

    ds = open_forcing(write(weather([at[0]], [at[1]])[["t2m"]], name=name))
    assert abs(np.diff(ds.latitude_bnds).item()) == pytest.approx(width)
    assert abs(np.diff(ds.longitude_bnds).item()) == pytest.approx(width)


@pytest.mark.parametrize("dim", ["pressure_level", "surface", "height", "step", "realization"])
@pytest.mark.parametrize("axis", [0, 1, 3])
def test_dimensions_of_size_one_are_dropped(write, region, dim, axis):
    same(open_era5(write(region.expand_dims({dim: [1.0]}, axis=axis))), open_era5(write(region)))
    with pytest.raises(SourceError, match="must have dims"):
        open_era5(write(region.expand_dims({dim: [1.0, 2.0]}, axis=axis)))


def test_valid_time_goes_before_the_start_of_the_forecast(write, region):
    start = region.rename(valid_time="time").assign_coords(valid_time=("time", region.valid_time.values))
    start = start.assign_coords(time=region.valid_time.values - 6 * HOUR)
    ds = open_era5(write(start))
    same(ds, open_era5(write(region)))
    assert ds.time.values[0] == region.valid_time.values[0]


RATES = {
    "old": {"ssrd": "msdwswrf", "tp": "mtpr"},
    "new": {"ssrd": "avg_sdswrf", "tp": "avg_tprate"},
    "long": {"ssrd": "mean_surface_downward_short_wave_radiation_flux", "tp": "mean_total_precipitation_rate"},
    "time-mean": {
        "ssrd": "time_mean_surface_downward_short_wave_radiation_flux",
        "tp": "time_mean_total_precipitation_rate",
    },
}


def as_rates(ds, names, rain="kg m**-2 s**-1"):
    """W m-2 and kg m-2 s-1 of the hour that ends at the stamp."""
    light, water = ds.ssrd / 3600, 1000 * ds.tp / 3600
    rates = {names["ssrd"]: light.assign_attrs(units="W m**-2"), names["tp"]: water.assign_attrs(units=rain)}
    return ds.drop_vars(["ssrd", "tp"]).assign(rates)


@pytest.mark.parametrize("names", RATES.values(), ids=RATES)
def test_mean_rates_are_the_amounts_of_their_hour(write, tmp_path, region, names):
    expected = open_era5(write(region)).load()
    rates = as_rates(region, names)
    ds = open_era5(write(rates))
    same(ds, expected)
    assert ds.attrs["accumulation"] == "hour" and float(ds.P.max()) == pytest.approx(1.0)
    dry = rates.isel(valid_time=slice(0, 3))  # no values are needed to know their period
    assert open_era5(write(dry)).attrs["accumulation"] == "hour"
    same(open_era5(write(rates[["t2m", names["tp"]]], region[["ssrd"]])), expected)
    same(open_era5(copy_era5(write(rates), tmp_path / "copy.zarr")).load(), expected)


def test_radiation_that_is_not_used_is_named_where_there_is_no_sunlight(write, region, caplog):
    rates = as_rates(region, {"ssrd": "avg_sdswrfcs", "tp": "avg_tprate"})
    with caplog.at_level("WARNING"):
        assert "SW_IN" not in open_era5(write(rates))
        assert "there is no SW_IN; not used: avg_sdswrfcs" in caplog.text
        caplog.clear()
        open_era5(write(region.assign(avg_sdswrfcs=rates.avg_sdswrfcs)))
        open_era5(write(region[["t2m"]]))
    assert not caplog.text


def test_mean_rates_of_all_fluxes(write, region):
    """Towers' fluxes are positive upwards, ERA5's downwards."""
    shape = region.t2m.shape
    rates = {"avg_sdlwrf": 300.0, "avg_snswrf": 0.0, "avg_snlwrf": -60.0, "avg_ishf": -100.0, "avg_slhtf": -50.0}
    arrays = {name: (DIMS, np.full(shape, value), {"units": "W m**-2"}) for name, value in rates.items()}
    ds = open_era5(write(region[["t2m"]].assign(arrays)), check=False)
    expected = {"LW_IN": 300, "NETRAD": -60, "H": 100, "LE": 50, "LW_OUT": 360, "G": -210}
    assert {name: float(ds[name].mean()) for name in expected} == pytest.approx(expected, abs=1e-3)


def test_mean_rates_and_totals_of_a_day_are_refused(write, region):
    rates = as_rates(region, RATES["new"])
    totals = region.ssrd.copy(
        data=np.concatenate([region.ssrd[:1], *np.cumsum(region.ssrd.values[1:].reshape(2, 24, 3, 4), 1)])
    )
    with pytest.raises(SourceError, match=r"tp in .*0\.nc contains amounts.*ssrd in .*1\.nc .*totals|ssrd.*tp"):
        open_era5(write(rates[["t2m", "avg_tprate"]], totals.to_dataset(name="ssrd")))
    with pytest.raises(SourceError, match="stored as a mean rate"):
        open_era5(write(rates), accumulation="day")
    for wrong in (
        rates.avg_sdswrf.assign_attrs(units="J m**-2"),
        (3600 * rates.avg_sdswrf).assign_attrs(units="W m-2"),
    ):
        with pytest.raises(SourceError, match=r"ssrd (must be in W m-2|is .* cannot be)"):
            open_era5(write(rates.assign(avg_sdswrf=wrong)))


@pytest.mark.parametrize(
    "name, units",
    [
        ("t2m", "Kelvin"),
        ("t2m", "kelvin"),
        ("ssrd", "J/m2"),
        ("ssrd", "J m⁻²"),
        ("ssrd", "J m^-2"),
        ("ssrd", "J/m^2"),
        ("ssrd", "W s m-2"),
        ("ssrd", "Joules m**-2"),
        ("tp", "metres"),
        ("tp", "m of water equivalent"),
    ],
)
def test_other_spellings_of_the_same_units(write, region, name, units):
    same(open_era5(write(region.assign({name: region[name].assign_attrs(units=units)}))), open_era5(write(region)))


@pytest.mark.parametrize(
    "name, units", [("t2m", "degC"), ("ssrd", "kJ m-2"), ("tp", "mm"), ("tp", "kg m-2"), ("tp", "?")]
)
def test_other_units_are_refused(write, region, name, units):
    with pytest.raises(SourceError, match=f"{name} must be in"):
        open_era5(write(region.assign({name: region[name].assign_attrs(units=units)})))


def globe(first, north_up=True):
    """A land-sea mask of the globe, different in every cell."""
    latitude = np.arange(90, -90.1, -0.25)[:: 1 if north_up else -1]
    longitude = first + np.arange(0, 360, 0.25)
    values = np.add.outer((latitude + 90) / 200, (longitude % 360) / 3600).astype("float32")
    arrays = {
        "lsm": (DIMS[1:], values, {"units": "(0 - 1)"}),
        "z": (DIMS[1:], 9806.65 * values, {"units": "m**2 s**-2"}),
    }
    return xr.Dataset(arrays, coords={"latitude": latitude, "longitude": longitude})


@pytest.mark.parametrize("first, north_up", [(0.0, True), (-180.0, True), (0.0, False)])
@pytest.mark.parametrize("longitude", [LONGITUDE, [-0.25, 0.0, 0.25], [359.75, 0.0, 0.25], [179.75, -180.0, -179.75]])
def test_static_fields_of_the_globe_lie_beside_weather_of_a_region(write, first, north_up, longitude):
    ds = open_era5(write(globe(first, north_up), weather(longitude=longitude)[["t2m"]]))
    expected = np.add.outer((ds.latitude.values + 90) / 200, (ds.longitude.values % 360) / 3600)
    np.testing.assert_allclose(ds.land_fraction, expected, rtol=1e-6)
    np.testing.assert_allclose(ds.elevation, 1000 * expected, rtol=1e-6)
    assert ds.sizes["latitude"] == 3 and ds.sizes["longitude"] == len(longitude)


def test_static_fields_that_lack_cells_are_refused(write, region):
    for static in (globe(0.0).isel(latitude=slice(0, 172)), globe(0.0)[{"latitude": slice(None, None, 3)}]):
        with pytest.raises(SourceError, match="files on different grids"):
            open_era5(write(region, static))


def shifted(ds):
    """The same cells with the other half of the globe first."""
    return ds.assign_coords(longitude=(ds.longitude + 180) % 360 - 180).sortby("longitude")


@pytest.mark.parametrize("options", [{}, {"resolution": 5.0}, {"bbox": (-70, -40, 100, 40)}])
def test_rows_turned_and_longitudes_shifted_in_one_file(write, tmp_path, options):
    whole = weather([60.0, 30.0, 0.0, -30.0], np.arange(0.0, 360.0, 30.0))
    first, last = whole.isel(valid_time=slice(0, 30)), whole.isel(valid_time=slice(30, None))
    expected = open_era5(write(whole), **options).load()
    for change in (
        lambda ds: ds.isel(latitude=slice(None, None, -1)),
        shifted,
        lambda ds: shifted(ds).isel(latitude=slice(None, None, -1)),
        lambda ds: ds.assign_coords(longitude=ds.longitude - 360),
    ):
        same(open_era5(write(first, change(last)), **options), expected)
    folder = write(first[["t2m"]], change(first[["ssrd", "tp"]]), last)
    same(open_era5(folder, **options), expected)
    same(open_era5(copy_era5(folder, tmp_path / "copy.zarr")).load(), open_era5(write(whole)))


def test_weather_of_other_cells_is_refused(write, region):
    for other in (
        region[["ssrd"]].isel(latitude=slice(0, 2)),
        region[["ssrd"]].assign_coords(longitude=LONGITUDE + 0.25),
        region[["ssrd"]].assign_coords(latitude=LATITUDE - 0.25),
    ):
        with pytest.raises(SourceError, match=r"files on different grids.*sel and sortby"):
            open_era5(write(region[["t2m"]], other))


def test_a_point_of_era5_land_whose_values_show_no_period_is_refused(write):
    point = weather([47.0], [7.0]).isel(latitude=0, longitude=0)[["t2m", "tp"]]
    dry = point.assign(tp=(0 * point.tp).assign_attrs(units="m"))
    with pytest.raises(SourceError, match="accumulation='hour' or accumulation='day'"):
        open_era5(write(dry, name="_reanalysis-era5-land-timeseries"))


def test_a_table_of_one_point_equals_its_netcdf(write, tmp_path):
    """Columns as the CDS names them; a table declares no units, so that its values are checked."""
    point = weather([47.0], [7.0]).isel(latitude=0, longitude=0)
    expected = open_era5(write(point)).load()
    table = point.to_dataframe().reset_index().rename(columns={"ssrd": "surface_solar_radiation_downwards"})
    path = tmp_path / "point.csv"
    table.to_csv(path, index=False)
    with zipfile.ZipFile(tmp_path / "download.zip", "w") as archive:
        archive.write(path, "reanalysis-era5-single-levels-timeseries.csv")
    for source in (path, tmp_path / "download.zip"):
        same(open_era5(source).load(), expected)
    table.assign(t2m=table.t2m - 273.15).to_csv(tmp_path / "celsius.csv", index=False)
    with pytest.raises(SourceError, match=r"celsius\.csv: t2m is .* cannot be K"):
        open_era5(tmp_path / "celsius.csv")
    for wrong, match in (
        (table.drop(columns="latitude"), "needs the columns valid_time, latitude and longitude"),
        (table.assign(latitude=np.arange(len(table))), "must be of one point"),
        (table.assign(valid_time="yesterday"), "cannot be read as a time"),
        (table.assign(valid_time=table.valid_time.dt.strftime("%d.%m.%Y %H:%M")), "cannot be read as a time"),
        (
            table.assign(t2m=table.t2m.astype(object).where(table.index != 3, "none?")),
            "t2m must contain numbers, found",
        ),
    ):
        wrong.to_csv(tmp_path / "wrong.csv", index=False)
        with pytest.raises(SourceError, match=match):
            open_era5(tmp_path / "wrong.csv")
