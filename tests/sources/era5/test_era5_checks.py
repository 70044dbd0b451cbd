"""ERA5 whose values contradict their header is refused by name; good ERA5, the real files included, is not."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from fluxcube.errors import SourceError
from fluxcube.solar import potential_radiation
from fluxcube.sources.era5.variables import open_era5

HOUR = np.timedelta64(1, "h")
UNITS = {
    "t2m": "K",
    "ssrd": "J m**-2",
    "ssr": "J m**-2",
    "strd": "J m**-2",
    "slhf": "J m**-2",
    "tp": "m",
}
ACCUMULATED = ("ssrd", "ssr", "strd", "slhf", "tp")


def weather(place=(47.0, 7.0), start="2019-07-01", days=4, *, accumulation="hour", clouds=0.6):
    """Hourly ERA5 of 2 x 3 cells: sunlight is a share of the potential radiation, a shower falls every afternoon."""
    latitude = place[0] - 0.25 * np.arange(2)
    longitude = (place[1] + 0.25 * np.arange(3) + 180) % 360 - 180
    time = np.datetime64(start, "ns") + np.arange(24 * days + 1) * HOUR
    north, east = np.meshgrid(latitude, longitude, indexing="ij")
    sun = np.moveaxis(potential_radiation(time - HOUR, north, east), -1, 0)
    hour = (np.arange(len(time)) % 24)[:, None, None]
    fields = {
        "t2m": 285 + 5 * np.sin(2 * np.pi * (hour - 9) / 24) + 0 * sun,
        "ssrd": 3600 * clouds * sun,
        "ssr": 3600 * 0.8 * clouds * sun,
        "strd": 3600 * (330.0 + 10 * np.sin(2 * np.pi * hour / 24)) + 0 * sun,
        "slhf": -3600 * 0.2 * sun,
        "tp": np.where((hour >= 15) & (hour < 17), 0.001, 0.0) + 0 * sun,
    }
    if accumulation == "day":
        fields |= {name: running(fields[name]) for name in ACCUMULATED}
    dims = ("valid_time", "latitude", "longitude")
    arrays = {name: (dims, values.astype("float32"), {"units": UNITS[name]}) for name, values in fields.items()}
    return xr.Dataset(arrays, coords={"valid_time": time, "latitude": latitude, "longitude": longitude})


def running(amounts):
    """Totals since 00 UTC of amounts (time, ...) that begin at 00 UTC: at 00 UTC that of the whole day before."""
    days = np.split(amounts[1:], range(24, len(amounts), 24))
    return np.concatenate([amounts[:1] * 0, *(np.cumsum(day, 0) for day in days)])


def scaled(ds, name, factor):
    return ds.assign({name: (ds[name] * factor).assign_attrs(ds[name].attrs)})


def cut(ds, first, last=None):
    return ds.isel(valid_time=slice(first, last))


def later(ds, hours):
    return ds.assign_coords(valid_time=ds.valid_time + hours * HOUR)


@pytest.fixture
def opened(tmp_path):
    """Write datasets as files of a new folder and open it."""

    def open_all(*datasets, **options):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        for n, ds in enumerate(datasets):
            ds.to_netcdf(folder / f"{n:02}.nc")
        return open_era5(folder, **options)

    return open_all


@pytest.fixture(scope="module")
def hourly():
    return weather()


@pytest.fixture(scope="module")
def since_midnight():
    return weather(accumulation="day")


def test_good_files_of_both_products_are_equal(opened, hourly, since_midnight):
    one, other = opened(hourly).load(), opened(since_midnight).load()
    assert (one.attrs["accumulation"], other.attrs["accumulation"]) == ("hour", "day")
    for name in ("SW_IN", "LW_IN", "LE", "P"):
        np.testing.assert_allclose(one[name], other[name], atol=2e-3)
    assert float(one.P.max()) == pytest.approx(1.0)


@pytest.mark.parametrize("accumulation", ["hour", "day"])
@pytest.mark.parametrize(
    "name, factor",
    [
        ("ssrd", 1 / 3600),  # W m-2
        ("ssrd", 1e-3),
        ("ssrd", 1e-6),
        ("ssrd", 24.0),
        ("ssr", 1 / 3600),
        ("strd", 1 / 3600),
        ("strd", 1e-3),
        ("tp", 1e3),  # mm
    ],
)
def test_values_in_other_units_than_declared_are_refused(opened, name, factor, accumulation):
    ds = scaled(weather(accumulation=accumulation), name, factor)
    with pytest.raises(SourceError, match=rf"00\.nc.*{name}|00\.nc.*cannot determine"):
        opened(ds)


def test_light_in_watts_alone_is_named_by_its_units(opened, hourly):
    """Without rain no value shows the accumulation; the cause is the units."""
    with pytest.raises(SourceError, match=r"00\.nc: the sunlight \(ssrd\) of 4 sampled days is 0\.00"):
        opened(scaled(hourly[["t2m", "ssrd"]], "ssrd", 1 / 3600))


def test_drizzle_in_millimetres_is_no_weather(opened, hourly):
    """0.2 mm in ten hours of every day: 2 mm a day, or 2 m."""
    hour = np.arange(hourly.sizes["valid_time"]) % 24
    drizzle = hourly.assign(tp=hourly.tp.copy(data=0 * hourly.tp + np.where(hour < 10, 2e-4, 0)[:, None, None]))
    assert float(opened(drizzle).P.max()) == pytest.approx(0.2)
    with pytest.raises(SourceError, match=r"tp is .* in a mean hour"):
        opened(scaled(drizzle, "tp", 1e3))


def test_one_file_of_several_in_other_units_is_named(opened):
    long = weather(days=30)
    with pytest.raises(SourceError, match=r"02\.nc: the sunlight \(ssrd\)"):
        opened(cut(long, 0, 200), cut(long, 200, 400), scaled(cut(long, 400), "ssrd", 1 / 3600))
    warm = cut(long, 200, 400)
    with pytest.raises(SourceError, match=r"01\.nc: t2m is .* cannot be K"):
        opened(cut(long, 0, 200), warm.assign(t2m=(warm.t2m - 273.15).assign_attrs(units="K")), cut(long, 400))


@pytest.mark.parametrize("name", ["ssrd", "strd"])
@pytest.mark.parametrize("first, last", [(15, 30), (26, 30), (0, 4)])
def test_units_that_change_within_a_file_are_refused(opened, name, first, last):
    """The mean over all days may be that of cloudy weather."""
    long = weather(days=30)
    values = long[name].values.copy()
    values[24 * first + 1 : 24 * last + 1] /= 3600
    with pytest.raises(
        SourceError, match=rf"00\.nc: the sunlight \({name}\) of \d+ of 30 sampled|{name} is .* of one of them"
    ):
        opened(long.assign({name: long[name].copy(data=values)}))


def test_the_checks_can_be_left_out(opened, hourly):
    dark = scaled(hourly, "ssrd", 1 / 3600)
    with pytest.raises(SourceError, match=r"check=False"):
        opened(dark, accumulation="hour")
    ds = opened(dark, accumulation="hour", check=False)
    assert float(ds.SW_IN.max()) == pytest.approx(float(hourly.ssrd.max()) / 3600**2, rel=1e-4)


@pytest.mark.parametrize("name", ["ssrd", "ssr", "strd", "slhf", "tp"])
def test_each_parameter_is_judged_by_itself(opened, hourly, since_midnight, name):
    for ds, other in ((hourly, since_midnight), (since_midnight, hourly)):
        with pytest.raises(SourceError, match=rf"{name} in .*00\.nc .*contains (amounts|totals)"):
            opened(ds.assign({name: other[name]}))


@pytest.mark.parametrize("days", [3, 10, 27])
def test_an_archive_that_changes_its_accumulation_is_refused(opened, days):
    for first, second in (("hour", "day"), ("day", "hour")):
        one, other = cut(weather(days=30, accumulation=first), 0, 24 * days), weather(days=30, accumulation=second)
        other = cut(other, 24 * days)
        with pytest.raises(SourceError, match=r"ssrd in .*0[01]\.nc .*ssrd in .*0[01]\.nc .*accumulated alike"):
            opened(one, other)
        with pytest.raises(SourceError, match=r"ssrd in .*00\.nc .*ssrd in .*00\.nc .*alike"):
            opened(xr.concat([one, other], "valid_time"))


def test_a_change_outside_the_requested_period_does_not_matter(opened):
    one, other = weather(days=30), weather(days=30, accumulation="day")
    ds = opened(cut(one, 0, 480), cut(other, 480), time=("2019-07-02", "2019-07-12"))
    assert ds.attrs["accumulation"] == "hour" and float(ds.P.max()) == pytest.approx(1.0)


@pytest.mark.parametrize("accumulation", ["hour", "day"])
def test_files_of_one_day_each_show_their_accumulation(opened, accumulation):
    """They contain 00 to 23 UTC: the stamp of 24 UTC is in the next file."""
    ds = weather(accumulation=accumulation)
    assert opened(*(cut(ds, 24 * n, 24 * n + 24) for n in range(4))).attrs["accumulation"] == accumulation


def test_constant_radiation_is_no_total(opened, hourly):
    constant = hourly.assign(strd=hourly.strd.copy(data=np.full(hourly.strd.shape, 340 * 3600.0)))
    assert opened(constant).attrs["accumulation"] == "hour"
    assert opened(constant[["t2m", "strd"]]).attrs["accumulation"] == "hour"


def test_a_negative_difference_is_refused_even_where_the_caller_passes_the_period(opened, hourly):
    with pytest.raises(SourceError, match=r"ssrd of an hour of .* is -.*differences of totals"):
        opened(hourly, accumulation="day")


PLACES = [
    ((15.0, 100.0), "2019-07-01"),
    ((47.0, 7.0), "2019-12-01"),
    ((-33.0, 150.0), "2019-06-15"),
    ((0.0, -60.0), "2019-03-15"),
    ((64.0, 25.0), "2019-06-10"),
    ((45.0, 179.75), "2019-10-01"),
]


@pytest.mark.parametrize("place, start", PLACES)
def test_stamps_in_local_time_are_refused(opened, place, start):
    ds = weather(place, start)
    assert float(opened(ds).SW_IN.max()) > 100
    for hours in {1, -1, round(place[1] / 15)} - {0}:
        with pytest.raises(SourceError, match=r"ssrd.* above the potential radiation.*local time"):
            opened(later(ds, hours))


@pytest.mark.parametrize(
    "place, start",
    [
        ((72.0, 25.0), "2019-12-10"),
        ((-75.0, 0.0), "2019-06-10"),
        ((66.5, -150.0), "2019-12-21"),
        ((68.0, 20.0), "2019-11-29"),
        ((90.0, 0.0), "2019-03-18"),
        ((80.0, 0.0), "2019-06-18"),
    ],
)
def test_polar_days_and_nights_pass(opened, place, start):
    ds = weather(place, start, days=12)
    assert opened(ds, accumulation="hour").SW_IN.notnull().all()
    noise = ds.assign(ssrd=ds.ssrd + 300.0)  # of packing: less than 0.1 W m-2
    opened(noise.assign(ssrd=noise.ssrd.assign_attrs(units="J m**-2")), accumulation="hour")


def test_a_polar_day_has_a_cycle(opened):
    with pytest.raises(SourceError, match=r"daily cycle .*3\.0 hours later"):
        opened(later(weather((75.0, 60.0), "2019-06-15", days=14), 3))


def test_exchanged_axes_and_turned_signs_are_refused(opened, hourly):
    exchanged = hourly.rename(latitude="longitude", longitude="latitude")
    west = weather((47.0, 60.0))
    for ds in (
        exchanged,
        hourly.assign_coords(latitude=-hourly.latitude),
        west.assign_coords(longitude=-west.longitude),
    ):
        with pytest.raises(SourceError, match="above the potential radiation"):
            opened(ds)
    # At 30 N, 30 E sunlight cannot show it, but the attributes of the CDS do.
    near = weather((30.0, 30.0)).rename(latitude="longitude", longitude="latitude")
    near.latitude.attrs["units"] = "degrees_east"
    with pytest.raises(SourceError, match="latitude and longitude are exchanged"):
        opened(near)


def test_one_file_in_local_time_is_named(opened):
    long = weather(days=20)
    with pytest.raises(SourceError, match=r"01\.nc: .* above the potential radiation"):
        opened(cut(long, 0, 241), later(cut(long, 238), 3))


@pytest.mark.parametrize("missing", [slice(0, 3), slice(-40, None), slice(0, 60), slice(1, None, 3)])
def test_missing_hours_do_not_make_sea(opened, hourly, missing):
    gaps = hourly.copy(deep=True)
    gaps.t2m[missing] = np.nan
    assert (opened(gaps).land_fraction == 1).all()


def test_a_cell_is_sea_if_it_never_has_a_value(opened, hourly):
    gaps = hourly.copy(deep=True)
    gaps.t2m[:, 0, 1], gaps.t2m[1, 1, 1] = np.nan, np.nan
    assert opened(gaps).land_fraction.values.tolist() == [[1, 0, 1], [1, 1, 1]]


def test_a_grid_without_values_has_no_land_and_is_logged(opened, hourly, caplog):
    gaps = hourly.copy(deep=True)
    gaps.t2m[:] = np.nan
    assert (opened(gaps).land_fraction == 0).all() and "the grid has no land" in caplog.text


def mask(values, latitude, longitude, units="(0 - 1)"):
    values = np.broadcast_to(np.asarray(values, "float32"), (len(latitude), len(longitude)))
    coords = {"latitude": latitude, "longitude": longitude}
    return xr.Dataset({"lsm": (("latitude", "longitude"), values, {"units": units})}, coords=coords)


def test_a_mask_in_percent_is_refused(opened, hourly):
    at = hourly.latitude.values, hourly.longitude.values
    assert opened(hourly, mask([[0, 0.09, 1.000001]], *at)).land_fraction.values[0] == pytest.approx([0, 0.09, 1])
    for values, units in (([[0, 9, 100]], "(0 - 1)"), ([[0, 2, 5]], "1"), ([[0, 9, 100]], "%"), (-1, "1")):
        with pytest.raises(SourceError, match=r"01\.nc: lsm"):
            opened(hourly, mask(values, *at, units=units))


@pytest.mark.parametrize(
    "latitude, match",
    [
        ((47.25, 47.25), "has a value twice, found 47.25, 47.25"),
        ((147.5, 147.25), "from -90 to 90 degrees, found 147.5"),
        ((90.25, 90.0), "from -90 to 90"),
        ((np.nan, 47.0), "from -90 to 90"),
    ],
)
def test_latitudes_that_cannot_be_are_refused(opened, hourly, latitude, match):
    with pytest.raises(SourceError, match=match):
        opened(hourly.assign_coords(latitude=list(latitude)))


def test_two_masks_that_differ_are_refused(opened, hourly):
    at = hourly.latitude.values, hourly.longitude.values
    one, same, other = (mask([[0.2, 0.4, 0.6]], *at), mask([[0.2, 0.4, 0.601]], *at), mask([[0.2, 0.4, 0.9]], *at))
    assert opened(hourly, one, same).land_fraction.values[0] == pytest.approx([0.2, 0.4, 0.6])
    with pytest.raises(SourceError, match=r"02\.nc and an earlier file both contain lsm, with different values"):
        opened(hourly, one, other)


def test_a_mask_in_time_whose_first_stamp_lacks_a_cell_is_whole(opened, hourly):
    land = (0 * hourly.t2m + 0.4).assign_attrs(units="(0 - 1)")
    values = land.values.copy()
    values[0, 0, 0] = np.nan
    assert np.unique(opened(hourly.assign(lsm=land.copy(data=values))).land_fraction) == pytest.approx([0.4])


def test_rows_that_two_tiles_share_up_to_rounding_are_refused(opened):
    """Their cells would have almost no area."""
    ds = xr.concat([weather(), weather((46.7499, 7.0))], "latitude")
    with pytest.raises(SourceError, match=r"latitude 46\.75 and 46\.7499 are closer than other cells"):
        opened(ds)
    gap = xr.concat([weather(), weather((46.0, 7.0))], "latitude")  # a missing row narrows no cell
    assert opened(gap).sizes["latitude"] == 4
    ds = xr.concat([weather(), weather((47.0, 7.5001))], "longitude")
    with pytest.raises(SourceError, match=r"longitude 7\.5 and 7\.5001 are closer"):
        opened(ds.sortby("longitude"))


@pytest.mark.parametrize("name, code", [("ssrd", -9999.0), ("strd", -9999.0), ("ssr", -999.0)])
def test_codes_of_missing_values_are_refused(opened, hourly, name, code):
    """-9999 J m-2 is -2.8 W m-2, which no limit of the unit excludes."""
    values = hourly[name].values.copy()
    values[30:34] = code
    with pytest.raises(SourceError, match=rf"{name} of an hour .* is {code:g} J m-2 .*code of missing"):
        opened(hourly.assign({name: hourly[name].copy(data=values)}))


@pytest.mark.parametrize("name", ["str", "sshf"])
@pytest.mark.parametrize("factor", [1 / 3600, 1e-3])
def test_fluxes_of_either_sign_in_other_units_are_refused(opened, hourly, name, factor):
    """60 W m-2 upwards; 60 J m-2 an hour would be nothing."""
    flux = hourly.slhf.copy(data=0 * hourly.slhf - 3600 * 60).assign_attrs(units="J m**-2")
    assert opened(hourly.assign({name: flux})).sizes
    with pytest.raises(SourceError, match=rf"magnitude of {name} is .*W m-2 or kJ m-2"):
        opened(hourly.assign({name: (flux * factor).assign_attrs(flux.attrs)}))


def test_a_dewpoint_above_the_temperature_is_refused(opened, hourly):
    dewpoint = (hourly.t2m - 5).assign_attrs(units="K")
    assert float(opened(hourly.assign(d2m=dewpoint)).VPD.min()) > 0
    with pytest.raises(SourceError, match=r"d2m is 285\.\d K .* above t2m with 280\.\d K: the two are exchanged"):
        opened(hourly.assign(t2m=dewpoint, d2m=hourly.t2m))


def test_a_parameter_without_values_is_logged(opened, hourly, caplog):
    ds = hourly.assign(d2m=(hourly.t2m * np.nan).assign_attrs(units="K"))
    with caplog.at_level("WARNING"):
        opened(ds)
    assert [r.getMessage() for r in caplog.records if "d2m has no value at any of the sampled hours" in r.getMessage()]


def test_an_axis_out_of_order_or_not_in_degrees_is_refused(opened):
    ds = xr.concat([weather(), weather((46.0, 7.0))], "latitude")
    with pytest.raises(SourceError, match="latitude is not in order"):
        opened(ds.isel(latitude=[0, 2, 1, 3]))
    ds = ds.assign_coords(latitude=np.deg2rad(ds.latitude))
    ds.latitude.attrs["units"] = "radians"
    with pytest.raises(SourceError, match="must be in degrees, found units 'radians'"):
        opened(ds)


REAL = ["davos_2020-01", "finse_2018-10", "berlin_2017", "pixel_54.25N_9.0E_2019"]


@pytest.mark.parametrize("name", REAL)
def test_single_days_of_real_files_pass(shared_data, opened, name):
    """The darkest day has 0.04 of the potential radiation, the brightest hour 0.78; no light falls at night."""
    path = shared_data / "era5" / f"era5_{name}.nc"
    times = xr.open_dataset(path).time.values
    for day in np.unique(times.astype("datetime64[D]"))[1 : -1 : len(times) // 360]:
        assert open_era5(path, time=(str(day), str(day))).sizes["time"] == 24
    one = xr.open_dataset(path).isel(time=slice(24, 48)).load()
    assert opened(one).attrs["accumulation"] == "hour"


@pytest.mark.parametrize("name", REAL[:3])
def test_real_light_an_hour_late_or_in_watts_is_refused(shared_data, opened, name):
    ds = xr.open_dataset(shared_data / "era5" / f"era5_{name}.nc")[["t2m", "ssrd"]].load()
    for change, match in (
        (ds.assign_coords(time=ds.time + HOUR), "above the potential radiation"),
        (ds.assign_coords(time=ds.time - HOUR), "above the potential radiation"),
        (scaled(ds, "ssrd", 1 / 3600), "cannot determine|potential radiation, expected"),
    ):
        with pytest.raises(SourceError, match=match):
            opened(change, accumulation="hour")
