"""Checks find wrong clocks, impossible values and contradictory locations, and leave correct records unchanged."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxcube.cubes.checks import SUN_LAG, distance_km, places_apart, reversed_flags, sun_lag, within_bounds
from fluxcube.solar import potential_radiation
from fluxcube.sources.towers.badm import SiteInfo
from fluxcube.variables import table

HOUR = np.timedelta64(1, "h")


def minutes(hours: float) -> np.timedelta64:
    return np.timedelta64(round(hours * 60), "m")


def light(
    latitude: float,
    longitude: float,
    *,
    start: str = "2011-01-01",
    days: int = 365,
    step: int = 30,
    shift=0.0,
    minute: int = 0,
    seed: int = 0,
    name: str = "SW_IN",
    cloudy: float = 0.6,
) -> xr.Dataset:
    """Light under clouds that last for hours, on a clock that is `shift` hours (a number or one a step) wrong."""
    rng = np.random.default_rng(seed)
    n = days * 1440 // step
    time = np.datetime64(start, "m") + minute + np.arange(n) * np.timedelta64(step, "m")
    weather = np.repeat(rng.random(n // 6 + 1), 6)[:n]
    clear = np.where(weather < cloudy, weather * rng.uniform(0.2, 1, n), 1) * 0.75
    values = potential_radiation(time, latitude, longitude, hours=step / 60) * clear
    shifts = np.round(np.broadcast_to(shift, n) * 60).astype("timedelta64[m]")
    return record(time + shifts, values.astype(np.float32), step, name)


def record(time: np.ndarray, values: np.ndarray, step: int, name: str = "SW_IN", flag: int = 0) -> xr.Dataset:
    order = np.argsort(time, kind="stable")
    keep = order[np.concatenate([[True], np.diff(time[order]) > np.timedelta64(0)])]
    flags = np.where(np.isnan(values), -1, flag).astype(np.int8)
    return xr.Dataset(
        {name: ("time", values[keep]), f"{name}_QC": ("time", flags[keep])},
        coords={"time": time[keep].astype("datetime64[ns]")},
        attrs={"step_minutes": step},
    )


def apart(one: float, other: float) -> float:
    """Hours between two times of a clock's face."""
    return abs((one - other + 12) % 24 - 12)


@pytest.mark.parametrize("place", [(39.3, -86.4), (-35.7, 148.2), (2.3, 102.3), (67.4, 26.6), (28.0, 84.0)])
@pytest.mark.parametrize(("step", "minute"), [(30, 0), (60, 0), (30, 15), (60, 30)])
@pytest.mark.parametrize("shift", [0, 1, -1, -5, 12, 0.5])
def test_the_lag_of_a_shifted_clock_is_found(place, step, minute, shift):
    found = sun_lag(light(*place, step=step, minute=minute, shift=shift), *place)
    assert apart(found.hours, shift) < 0.15 and found.windows >= 15
    assert bool(found.doubts) == (abs(shift) > SUN_LAG)
    if found.doubts:
        assert ("ahead of" if found.hours < 0 else "behind") in found.doubts[0]
        assert f"{abs(found.hours):.1f} h" in found.doubts[0] and "UTC_OFFSET" in found.doubts[0]


@settings(deadline=None, max_examples=12)
@given(
    st.floats(-60, 60),
    st.floats(-180, 180),
    st.floats(-12, 12),
    st.integers(0, 99),
    st.sampled_from([30, 60]),
)
def test_any_shift_anywhere(latitude, longitude, shift, seed, step):
    """Whole hours under so many clouds are further off for one sky in a hundred: the middle of five is not."""
    skies = range(seed, seed + (5 if step == 60 else 1))
    found = [
        sun_lag(light(latitude, longitude, shift=shift, seed=sky, step=step, days=120, cloudy=0.8), latitude, longitude)
        for sky in skies
    ]
    assert np.median([apart(one.hours, round(shift * 60) / 60) for one in found]) < 0.25


def summer_time(time: np.ndarray, latitude: float) -> np.ndarray:
    """1 where the clock is put forward: from April to October, or the other half of the year in the south."""
    month = time.astype("datetime64[M]").astype(int) % 12 + 1
    north = (month >= 4) & (month <= 10)
    return (north if latitude > 0 else ~north).astype(float)


@pytest.mark.parametrize("latitude", [51.0, -34.0])
@pytest.mark.parametrize("shift", [0, -1, 2])
def test_daylight_saving_is_found_in_both_hemispheres(latitude, shift):
    n = 365 * 48
    time = np.datetime64("2011-01-01", "m") + np.arange(n) * np.timedelta64(30, "m")
    ds = light(latitude, 10, shift=summer_time(time, latitude) + shift)
    found = sun_lag(ds, latitude, 10)
    assert len(found.doubts) == 1 and "daylight saving" in found.doubts[0]
    july, january = (1 + shift, shift) if latitude > 0 else (shift, 1 + shift)
    assert apart(found.seasons["May to September"], july) < 0.15
    assert apart(found.seasons["November to February"], january) < 0.15


def test_a_clock_that_is_set_once_is_found_and_when():
    n = 3 * 365 * 48
    ds = light(45, 10, days=3 * 365, shift=np.where(np.arange(n) < n * 0.5, 0.0, -1.0))
    (doubt,) = sun_lag(ds, 45, 10).doubts[:1]
    assert "its clock changes" in doubt and "2011" in doubt and "2013" in doubt and "dates" in doubt


def test_too_little_light_tells_nothing():
    assert sun_lag(light(40, 0, days=4), 40, 0) is None
    assert sun_lag(light(75, 20, start="2011-11-10", days=70), 75, 20) is None  # polar night
    filled = light(40, 0)
    assert sun_lag(filled.drop_vars(["SW_IN", "SW_IN_QC"]), 40, 0) is None
    dark = filled.assign(SW_IN=filled.SW_IN * 0)
    assert sun_lag(dark, 40, 0) is None
    assert abs(sun_lag(light(75, 20), 75, 20).hours) < 0.2  # where the sun is up for months, too


def test_a_table_without_flags_is_checked_and_fills_do_not_hide_a_wrong_clock():
    ds = light(40, 0, shift=2)
    assert apart(sun_lag(ds.assign(SW_IN_QC=ds.SW_IN_QC * 0 + np.int8(2)), 40, 0).hours, 2) < 0.15
    right, n = light(40, 0), 365 * 48
    measured = np.arange(n) % 480 < 240  # every other five days; the others are filled with the right clock
    values = np.where(measured, np.roll(right.SW_IN.values, 4), right.SW_IN.values)
    flags = np.where(measured, 0, 2).astype(np.int8)
    found = sun_lag(right.assign(SW_IN=("time", values), SW_IN_QC=("time", flags)), 40, 0)
    assert apart(found.hours, 2) < 0.15


def test_few_days_tell_already():
    found = sun_lag(light(40, 0, days=15, shift=1), 40, 0)
    assert found.windows == 1 and found.doubts


def test_a_broken_sensor_and_filled_hours_do_not_matter():
    ds = light(40, 0, days=365)
    values, flags = ds.SW_IN.values.copy(), ds.SW_IN_QC.values.copy()
    values[2000:5000] = np.roll(values, 300)[2000:5000]  # two months of another clock
    values[9000:9100] = 1400
    filled = slice(10_000, 17_000)
    values[filled], flags[filled] = np.roll(values, 20)[filled], 1
    found = sun_lag(ds.assign(SW_IN=("time", values), SW_IN_QC=("time", flags)), 40, 0)
    assert abs(found.hours) < 0.15 and not found.doubts


def test_photons_do_where_there_is_no_radiation():
    assert apart(sun_lag(light(40, 0, name="PPFD_IN", shift=2), 40, 0).hours, 2) < 0.15


def test_a_wrong_longitude_is_a_wrong_clock():
    """15 degrees are an hour, whichever of the two is wrong."""
    found = sun_lag(light(40, 0), 40, 30)
    assert apart(found.hours, 2) < 0.15 and found.doubts


def real_light(shared_data, *sites: str, names=("SW_IN",)):
    from fluxcube.sources.towers.badm import clock_of, read_badm
    from fluxcube.sources.towers.discovery import discover
    from fluxcube.sources.towers.oneflux import read_oneflux

    found = discover(shared_data / "towers")
    infos = read_badm(found.badm)
    for archive in found.archives:
        if not sites or archive.site in sites:
            info = infos[archive.site]
            yield info, read_oneflux(archive, utc_offset=clock_of(info), variables=names)


#: Towers that lag most, whose winter is night, and that others left little light of.
HARD = ("AU-TTE", "AU-DaP", "AU-Wac", "AU-Ync", "US-Wi7", "US-WPT", "SJ-Adv", "GL-NuF", "US-Wi2", "GH-Ank", "IT-Isp")


@pytest.mark.parametrize("sites", [HARD, pytest.param((), marks=pytest.mark.slow)], ids=["hard", "all"])
def test_no_real_tower_is_suspected(shared_data, sites):
    """The stamps of all 109 were checked: the largest lag is half an hour, of AU-TTE."""
    found = {info.site: sun_lag(ds, info.latitude, info.longitude) for info, ds in real_light(shared_data, *sites)}
    assert len(found) == (len(sites) or 109) and None not in found.values()
    assert not {site: lag.doubts for site, lag in found.items() if lag.doubts}
    lags = np.array([lag.hours for lag in found.values()])
    assert 0.5 < np.abs(lags).max() < SUN_LAG - 0.02
    if not sites:
        assert np.quantile(np.abs(lags), 0.95) < 0.25 and abs(np.median(lags)) < 0.05


@pytest.mark.parametrize(
    "sites", [("AU-DaP", "DE-SfN", "IT-La2", "US-KS2", "NL-Hor"), pytest.param((), marks=pytest.mark.slow)]
)
def test_real_flags_are_right_and_reversed_ones_are_found(shared_data, sites):
    """The hardest of the 109 first: those whose fills are roughest beside what was measured."""
    total = 0
    for info, ds in real_light(shared_data, *sites, names=("NEE", "TA")):
        assert reversed_flags(ds, info.longitude) == (), info.site
        for name in ("NEE", "TA"):
            flags = ds[f"{name}_QC"]
            ds[f"{name}_QC"] = flags.where(flags < 0, (flags == 0).astype(np.int8)).astype(np.int8)  # 1 is measured
        assert reversed_flags(ds, info.longitude), info.site
        total += 1
    assert total == (len(sites) or 109)


def test_real_towers_with_a_wrong_clock_are_suspected(shared_data):
    sites = ("US-Ne2", "AU-ASM", "BR-Sa3", "GL-NuF", "SJ-Adv", "FI-Let", "GH-Ank", "CN-Dan", "DE-Tha")
    for info, ds in real_light(shared_data, *sites):
        place = info.latitude, info.longitude
        true = sun_lag(ds, *place).hours
        for shift in (1, -1, -5, 12):
            found = sun_lag(ds.assign_coords(time=ds.time + minutes(shift)), *place)
            assert found.doubts and apart(found.hours - true, shift) < 0.1, (info.site, shift)
        saving = (summer_time(ds.time.values, info.latitude) * 60).astype("timedelta64[m]")
        shifted = record(ds.time.values + saving, ds.SW_IN.values, ds.attrs["step_minutes"])
        doubts = sun_lag(shifted, *place).doubts
        # Where the winter is night, summer time is a wrong hour.
        assert doubts and ("daylight saving" in doubts[0] or info.latitude > 60), info.site


def flagged(seed: int = 0, n: int = 20_000, name: str = "NEE") -> xr.Dataset:
    """Noise where it is measured; the mean of the time of day where it is filled."""
    rng = np.random.default_rng(seed)
    time = np.datetime64("2010-01-01", "ns") + np.arange(n) * np.timedelta64(30, "m")
    flags = np.repeat(rng.choice([0, 1, 2, 3], n // 40, p=[0.5, 0.2, 0.2, 0.1]), 40).astype(np.int8)
    values = np.sin(np.arange(n) / 48 * 2 * np.pi) + np.where(flags == 0, rng.normal(0, 2, n), 0)
    return xr.Dataset({name: ("time", values.astype(np.float32)), f"{name}_QC": ("time", flags)}, {"time": time})


@pytest.mark.parametrize("name", ["NEE", "TA"])
def test_flags_of_the_wrong_sense_are_named(name):
    ds = flagged(name=name)
    wrong = ds.assign({f"{name}_QC": np.int8(3) - ds[f"{name}_QC"]})
    assert reversed_flags(ds, -90) == ()
    (text,) = reversed_flags(wrong, -90)
    assert text.startswith(f"the flags of {name} look reversed") and "0 must mean measured" in text
    assert reversed_flags(ds.assign({f"{name}_QC": ds[f"{name}_QC"] * np.int8(0)}), -90) == ()  # nothing to compare
    assert reversed_flags(wrong.isel(time=slice(0, 300)), -90) == () == reversed_flags(ds.isel(time=slice(0, 1)), -90)
    rng = np.random.default_rng(1)
    noise = wrong.assign({name: ("time", rng.normal(0, 2, wrong.sizes["time"]).astype(np.float32))})
    assert reversed_flags(noise, -90) == ()  # fills as rough as measurements tell nothing


def test_coarse_temperatures_are_no_reversed_flags():
    ds = flagged(name="TA")
    rng = np.random.default_rng(2)
    slow = np.cumsum(rng.normal(0, 0.02, ds.sizes["time"]))
    coarse = np.where(ds.TA_QC == 0, np.round(slow), slow + rng.normal(0, 0.005, ds.sizes["time"]))
    assert reversed_flags(ds.assign(TA=("time", coarse.astype(np.float32))), 0) == ()


@st.composite
def natives(draw):
    n = draw(st.integers(1, 30))
    arrays = {}
    for name in ("TA", "P", "LE"):
        low, high = table()[name].bounds
        value = st.one_of(st.just(np.nan), st.floats(3 * low - 9, 3 * high, width=32), st.sampled_from([low, high]))
        values = np.array(draw(st.lists(value, min_size=n, max_size=n)), np.float32)
        arrays[name] = ("time", values)
        arrays[f"{name}_QC"] = ("time", np.where(np.isnan(values), -1, draw(st.integers(0, 3))).astype(np.int8))
    return xr.Dataset(arrays)


@settings(deadline=None, max_examples=30)
@given(natives())
def test_what_cannot_be_is_removed_and_counted_and_nothing_else(ds):
    kept, counts = within_bounds(ds, ["TA", "P", "SW_IN"])
    for name in ("TA", "P"):
        low, high = table()[name].bounds
        values, found = ds[name].values, kept[name].values
        bad = (values < low) | (values > high)
        assert counts.get(name, 0) == bad.sum() and 0 not in counts.values()
        assert np.isnan(found[bad]).all() and (kept[f"{name}_QC"].values[bad] == -1).all()
        np.testing.assert_array_equal(found[~bad], values[~bad])
        np.testing.assert_array_equal(kept[f"{name}_QC"].values[~bad], ds[f"{name}_QC"].values[~bad])
        assert found.dtype == np.float32 and kept[f"{name}_QC"].dtype == np.int8
    assert kept.LE.identical(ds.LE) and "LE" not in counts
    assert within_bounds(kept, ["TA", "P"])[1] == {}


def place(latitude: float | None, longitude: float | None, **more) -> SiteInfo:
    return SiteInfo(site="XX-Abc", latitude=latitude, longitude=longitude, **more)


@settings(deadline=None, max_examples=30)
@given(*(st.floats(-90, 90), st.floats(-180, 180)) * 2)
def test_distances_are_those_on_a_sphere(lat1, lon1, lat2, lon2):
    def unit(latitude, longitude):
        a, b = np.deg2rad([latitude, longitude])
        return np.array([np.cos(a) * np.cos(b), np.cos(a) * np.sin(b), np.sin(a)])

    one, two = unit(lat1, lon1), unit(lat2, lon2)
    expected = 6371 * np.arctan2(np.linalg.norm(np.cross(one, two)), one @ two)
    assert distance_km(place(lat1, lon1), place(lat2, lon2)) == pytest.approx(expected, abs=1e-3)


def test_places_more_than_ten_km_apart_are_named():
    here = place(50.0, 179.99)
    near = {"a": place(50.05, 179.99), "b": place(50.0, -179.95), "c": place(None, 3), "d": None}
    assert places_apart(here, near) == ()
    (text,) = places_apart(here, near | {"AMF_BIF.csv": place(50.2, 179.99)})
    assert "AMF_BIF.csv has XX-Abc at 50.2, 179.99, 22 km from 50, 179.99" in text
    assert places_apart(place(None, None), {"e": place(1, 1)}) == ()
