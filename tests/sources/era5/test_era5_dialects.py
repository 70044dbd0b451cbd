"""The same ERA5 under the names, axes and units of every provider: the same forcing."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from fluxcube.errors import ConfigError, SourceError
from fluxcube.sources.era5.parameters import PARAMETERS, RATES, meaning_of, meaning_of_number
from fluxcube.sources.era5.variables import open_era5

LATITUDE, LONGITUDE = np.array([47.5, 47.25, 47.0]), np.array([7.0, 7.25, 7.5, 7.75])
SHORT = ("t2m", "d2m", "sp", "u10", "v10", "ssrd", "strd", "tp")
EARTH_ENGINE = {
    "t2m": "temperature_2m",
    "d2m": "dewpoint_temperature_2m",
    "sp": "surface_pressure",
    "u10": "u_component_of_wind_10m",
    "v10": "v_component_of_wind_10m",
    "ssrd": "surface_solar_radiation_downwards_hourly",
    "strd": "surface_thermal_radiation_downwards_hourly",
    "tp": "total_precipitation_hourly",
}
AWS = {
    "t2m": "air_temperature_at_2_metres",
    "d2m": "dew_point_temperature_at_2_metres",
    "sp": "surface_air_pressure",
    "u10": "eastward_wind_at_10_metres",
    "v10": "northward_wind_at_10_metres",
    "ssrd": "integral_wrt_time_of_surface_direct_downwelling_shortwave_flux_in_air_1hour_Accumulation",
    "tp": "precipitation_amount_1hour_Accumulation",
}


def weather(hours=49, land=False):
    """Three days of plausible values; with `land`, accumulations are totals since 00 UTC."""
    rng = np.random.default_rng(5)
    shape = hours, 3, 4
    hour = np.arange(hours)[:, None, None]
    light = 2e6 * np.maximum(0, np.sin(2 * np.pi * (hour - 6.5) / 24)) * rng.uniform(0.6, 1, shape)
    fields = {
        "t2m": 285 + rng.normal(size=shape),
        "d2m": 280 + rng.normal(size=shape),
        "sp": 95000 + rng.normal(size=shape),
        "u10": rng.normal(size=shape),
        "v10": rng.normal(size=shape),
        "ssrd": light,
        "strd": np.full(shape, 1.1e6),
        "tp": np.where(rng.uniform(size=shape) < 0.2, 1e-3, 0.0),
    }
    if land:
        for name in ("ssrd", "strd", "tp"):
            totals = np.zeros(shape)
            for at in range(1, hours):
                totals[at] = fields[name][at] + (0 if at % 24 == 1 else totals[at - 1])
            fields[name] = totals
    time = np.datetime64("2019-07-01", "ns") + np.arange(hours) * np.timedelta64(1, "h")
    arrays = {
        name: (("time", "latitude", "longitude"), values.astype("float32"), {"units": PARAMETERS[name].units})
        for name, values in fields.items()
    }
    return xr.Dataset(arrays, {"time": time, "latitude": LATITUDE, "longitude": LONGITUDE})


@pytest.fixture(scope="module")
def expected():
    return open_era5(weather()).load()


def without_units(ds):
    return ds.map(lambda array: array.drop_attrs(), keep_attrs=True)


def test_every_parameter_is_known_by_name_request_and_number():
    for name, one in PARAMETERS.items():
        known = [meaning_of(alias) for alias in (name, one.request, *one.others)] + [meaning_of_number(one.number)]
        assert {meaning.parameter for meaning in known} == {name}, name
        assert {meaning.units for meaning in known} == {one.units}
    assert {meaning_of(name).parameter for name in RATES} == set(RATES.values())
    assert meaning_of("var35", {"table": 235}) == meaning_of_number(235035)
    assert meaning_of("var3", {"table": 228}).parameter == "zust" and meaning_of("param3.228").parameter == "zust"
    for other in ("var3", "var167x", "temperature", "skt", "var9999", "t"):
        assert meaning_of(other) is None, other
    assert meaning_of("var167", {"table": "unknown"}) is None


def test_earth_engine_by_xee_is_the_same_forcing(expected):
    """Its bands have no units, its axes are called lon and lat, or x and y, and come in another order."""
    bands = without_units(weather().rename(EARTH_ENGINE)).rename(latitude="lat", longitude="lon")
    old = bands.transpose("time", "lon", "lat").isel(lat=slice(None, None, -1))
    new = bands.rename(lat="y", lon="x")
    for ds in (old, new):
        found = open_era5(ds).sortby("latitude", ascending=False).load()
        xr.testing.assert_equal(found.drop_attrs(), expected.drop_attrs())
    # Bands with other units keep theirs, and are refused.
    wrong = bands.assign(temperature_2m=bands.temperature_2m.assign_attrs(units="degC"))
    with pytest.raises(SourceError, match="t2m must be in K"):
        open_era5(wrong)


def test_hourly_bands_of_earth_engine_are_preferred_to_totals(expected):
    """ERA5-Land in Earth Engine has both; by name, the hourly ones need no whole day to be understood."""
    both = without_units(weather().rename(EARTH_ENGINE))
    totals = without_units(weather(land=True))[["ssrd", "strd", "tp"]]
    both = both.merge(totals.rename({n: PARAMETERS[n].request for n in totals.data_vars}))
    both.attrs["title"] = "ECMWF/ERA5_LAND/HOURLY"
    for ds in (both, both.isel(time=slice(10, 20))):
        found = open_era5(ds).load()
        np.testing.assert_array_equal(found.SW_IN, expected.SW_IN.sel(time=found.time))
        assert found.attrs["accumulation"] == "hour"
    alone = both.drop_vars(EARTH_ENGINE[n] for n in totals.data_vars)
    found = open_era5(alone)
    assert found.attrs["accumulation"] == "day"
    np.testing.assert_allclose(found.SW_IN, expected.SW_IN, atol=0.5)
    with pytest.raises(SourceError, match="hourly amount"):
        open_era5(both, accumulation="day")


def test_files_of_cdo_are_the_same_forcing(expected):
    """``cdo -f nc copy era5.grib``: numbers instead of names, no units; and the names of its ECMWF table."""
    numbered = {name: f"var{PARAMETERS[name].number}" for name in SHORT}
    ds = without_units(weather().rename(numbered)).rename(latitude="lat", longitude="lon")
    for name, number in numbered.items():
        ds[number].attrs = {"code": PARAMETERS[name].number, "table": 128}
    assert_same(ds, expected)
    capitals = weather().rename({name: {"u10": "U10M", "v10": "V10M"}.get(name, name.upper()) for name in SHORT})
    assert_same(capitals, expected)
    dotted = without_units(weather().rename({name: f"param{PARAMETERS[name].number}.128" for name in SHORT}))
    assert_same(dotted, expected)


def assert_same(ds, expected):
    found = open_era5(ds).load()
    xr.testing.assert_equal(found.drop_attrs(), expected.drop_attrs())


def test_mars_names_are_the_same_forcing(expected):
    assert_same(weather().rename(t2m="2t", d2m="2d", u10="10u", v10="10v"), expected)


def test_copies_on_aws_and_the_planetary_computer_are_the_same_forcing(expected, tmp_path):
    """One axis of time for analyses and one for forecasts, as one Dataset, or one store for each parameter."""
    ds = weather()[list(AWS)].rename(latitude="lat", longitude="lon")
    accumulated = ["ssrd", "tp"]
    parts = [ds.drop_vars(accumulated).rename(time="time0"), ds[accumulated].rename(time="time1")]
    whole = xr.merge([part.rename({n: AWS[n] for n in part.data_vars}) for part in parts])
    assert {"time0", "time1"} < set(whole.dims)
    names = [name for name in expected.data_vars if name not in ("LW_IN",)]
    expected = expected[names]
    assert_same(whole, expected)
    stores = []
    for part in parts:
        for name in part.data_vars:
            stores.append(tmp_path / f"{AWS[name]}.zarr")
            part[[name]].rename({name: AWS[name]}).to_zarr(stores[-1], consolidated=False)
    assert_same(stores, expected)
    # The Planetary Computer has one axis; attributes are kept.
    assert_same(ds.rename(AWS), expected)


def test_earth_data_hub_has_short_names_and_longitudes_from_zero(expected, tmp_path):
    ds = weather().rename(time="valid_time").assign_coords(longitude=LONGITUDE - 7.25)
    ds = ds.assign_coords(longitude=ds.longitude % 360).sortby("longitude")
    assert ds.longitude[-1] == 359.75
    ds.to_zarr(tmp_path / "edh.zarr", consolidated=False)
    found = open_era5(tmp_path / "edh.zarr").load()
    np.testing.assert_array_equal(found.longitude, LONGITUDE - 7.25)
    for name in ("TA", "P", "WS"):
        np.testing.assert_array_equal(found[name], expected[name])


def test_a_field_on_pressure_levels_is_not_that_of_the_ground(expected):
    """ARCO-ERA5 has ``geopotential`` on 37 levels beside ``geopotential_at_surface``."""
    ds = weather()
    levels = ("time", "level", "latitude", "longitude"), np.zeros((49, 2, 3, 4), "float32"), {"units": "m2 s-2"}
    ds["geopotential"] = levels
    assert_same(ds, expected)
    surface = ("latitude", "longitude"), np.full((3, 4), 9806.65, "float32"), {"units": "m2 s-2"}
    ds["geopotential_at_surface"] = surface
    assert open_era5(ds).elevation.values == pytest.approx(np.full((3, 4), 1000.0))
    selected = ds.assign_coords(level=[500, 1000]).sel(level=500)
    assert open_era5(selected).elevation.values == pytest.approx(np.full((3, 4), 1000.0))


def test_capitals_of_other_products_beside_era5_are_not_used(expected):
    ds = weather()
    ds["Z"] = ("time", "latitude", "longitude"), np.zeros((49, 3, 4), "float32"), {"units": "m"}
    assert_same(ds, expected)


def test_global_static_files_beside_a_region_are_cut_to_it(tmp_path):
    """With longitudes from 0 or from -180, rows turned, in time or not: the region's own cells are found."""
    latitude, longitude = np.arange(90.0, -90.1, -0.25), np.arange(0.0, 360, 0.25)
    field = np.add.outer(latitude, longitude / 1000)
    world = xr.Dataset(
        {
            "z": (("latitude", "longitude"), 9.80665 * field, {"units": "m**2 s**-2"}),
            "lsm": (("latitude", "longitude"), (field > 47.2).astype(float), {"units": "(0 - 1)"}),
        },
        {"latitude": latitude, "longitude": longitude},
    )
    turned = world.isel(latitude=slice(None, None, -1)).assign_coords(longitude=(longitude + 180) % 360 - 180)
    timed = world.expand_dims(time=[np.datetime64("1981-01-01", "ns")])
    for static in (world, turned.sortby("longitude"), timed, world.rename(latitude="lat", longitude="lon")):
        found = open_era5([weather(), static])
        np.testing.assert_allclose(found.elevation, np.add.outer(LATITUDE, LONGITUDE / 1000), rtol=1e-6)
        assert found.land_fraction.values[:, 0].tolist() == [1, 1, 0]
    coarse = world.isel(latitude=slice(None, None, 4), longitude=slice(None, None, 4))
    with pytest.raises(SourceError, match="latitude"):
        open_era5([weather(), coarse])


def test_a_table_of_a_point_may_have_names_of_any_dialect(tmp_path):
    ds = weather().isel(latitude=0, longitude=0)
    names = {"t2m": "2m_temperature", "ssrd": EARTH_ENGINE["ssrd"], "tp": "avg_tprate"}
    frame = ds[list(names)].drop_vars(["latitude", "longitude"]).to_dataframe().rename(columns=names).reset_index()
    frame = frame.rename(columns={"time": "valid_time"}).assign(latitude=47.5, longitude=7.0)
    frame["avg_tprate"] /= 3.6
    frame.to_csv(tmp_path / "point.csv", index=False)
    found, expected = open_era5(tmp_path / "point.csv"), open_era5(ds[list(names)])
    for name in ("TA", "SW_IN", "P"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-6)


def test_a_variable_that_no_name_gives_is_named(expected):
    with pytest.raises(ConfigError, match="LE cannot be derived"):
        open_era5(weather(), variables="LE")
