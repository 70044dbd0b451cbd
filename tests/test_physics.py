"""Clocks, sunlight and humidity against independent sources, hand-worked numbers and identities."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxcube.humidity import relative_humidity, saturation_vapour_pressure, vapour_pressure_deficit
from fluxcube.solar import SOLAR_CONSTANT, declination, equation_of_time, potential_radiation
from fluxcube.timestamps import HOUR, hour_axis, local_clock, solar_noon, standard_to_utc

YEAR = hour_axis(np.datetime64("2019-01-01"), np.datetime64("2020-01-01"))


def by_minutes(time, latitude, longitude):
    """SW_IN_POT the slow way: the mean over minutes of the positive cosine, ONEFlux's own procedure."""
    minutes = time[:, None] + np.arange(60) * np.timedelta64(1, "m") + np.timedelta64(30, "s")
    doy, tod = local_clock(minutes.ravel(), longitude / 15)
    doy = np.floor(doy)
    angle = np.deg2rad(15 * (tod + equation_of_time(doy) / 60 - 12))
    phi, delta = np.deg2rad(latitude), declination(doy)
    cosine = np.sin(phi) * np.sin(delta) + np.cos(phi) * np.cos(delta) * np.cos(angle)
    distance = 1.00011 + 0.034221 * np.cos(2 * np.pi * doy / 365)  # leading terms: within 0.1 %
    return (SOLAR_CONSTANT * distance * np.maximum(cosine, 0)).reshape(-1, 60).mean(1)


@pytest.mark.parametrize(
    ("latitude", "longitude"), [(0, 0), (47.2, 8.4), (-35, 149), (70, -157), (-89.9, 15), (10, 179.9)]
)
def test_closed_form_equals_the_mean_over_minutes(latitude, longitude):
    time = YEAR[::73]
    ours = potential_radiation(time, latitude, longitude)
    np.testing.assert_allclose(ours, by_minutes(time, latitude, longitude), atol=2.5)
    assert (ours >= 0).all()


def test_potential_radiation_is_oneflux_s(shared_data):
    """CH-Cha's real SW_IN_POT; what is left at sunrise is ONEFlux's rounding of solar noon to minutes."""
    table = pd.read_csv(next((shared_data / "formats").glob("FLX_CH-Cha*first99rows.csv")))
    stamps = pd.to_datetime(table.TIMESTAMP_START.astype(str), format="%Y%m%d%H%M").to_numpy()
    ours = potential_radiation(standard_to_utc(stamps, 1.0), 47.2102, 8.4104, hours=0.5)
    difference = np.abs(ours - table.SW_IN_POT.to_numpy())
    assert difference.max() < 3 and np.median(difference[ours > 100]) < 1


def test_daily_potential_radiation_is_oneflux_s(shared_data):
    """FI-Ken, 68 N, three years of days: polar night and midnight sun."""
    path = next((shared_data / "daily").glob("FLX_FI-Ken_FLUXNET2015_FULLSET_DD*"))
    table = pd.read_csv(path, usecols=["TIMESTAMP", "SW_IN_POT"])
    first = pd.Timestamp(str(table.TIMESTAMP.iloc[0])) - pd.Timedelta(hours=2)
    time = hour_axis(np.datetime64(first, "h"), np.datetime64(first, "h") + len(table) * 24 * HOUR)
    ours = potential_radiation(time, 67.9872, 24.2430).reshape(-1, 24).mean(1)
    np.testing.assert_allclose(ours, table.SW_IN_POT, atol=1.5)


def test_potential_radiation_broadcasts_over_places():
    lat, lon = np.array([[10.0, 20.0], [30.0, 40.0]]), np.array([[0.0, 90.0], [-90.0, 179.0]])
    together = potential_radiation(YEAR[:48], lat, lon)
    assert together.shape == (2, 2, 48)
    np.testing.assert_allclose(together[1, 0], potential_radiation(YEAR[:48], 30.0, -90.0), rtol=1e-6)


def test_a_year_of_sunlight_is_the_solar_constant_over_four():
    """Averaged over the sphere, the top of the atmosphere receives a quarter of the solar constant."""
    latitude = np.rad2deg(np.arcsin((np.arange(23) + 0.5) / 11.5 - 1))  # equal areas
    mean = potential_radiation(YEAR[::7], latitude, np.zeros(23)).mean()
    assert mean == pytest.approx(SOLAR_CONSTANT / 4, rel=0.01)


@given(st.floats(-12, 14), st.floats(-180, 180))
def test_solar_clock_does_not_depend_on_the_civil_offset(offset, longitude):
    """Stamps of any civil clock decode to one UTC, and UTC to one solar clock."""
    utc = YEAR[:48].astype("datetime64[m]")
    minutes = np.timedelta64(round(offset * 60), "m")
    np.testing.assert_array_equal(standard_to_utc(utc + minutes, round(offset * 60) / 60), utc)
    doy, tod = local_clock(utc, longitude / 15)
    assert ((tod >= 0) & (tod < 24)).all() and ((doy >= 0) & (doy < 366)).all()
    np.testing.assert_allclose((doy % 1) * 24, tod, atol=1e-6)


def test_local_clock_by_hand():
    """Nepal, 85.3 E: at 00 UTC on 1 January the mean sun is at 05:41; New Year's Eve of a leap year is day 365."""
    _, tod = local_clock(np.array(["2020-01-01T00"], "datetime64[h]"), 85.3 / 15)
    assert tod[0] == pytest.approx(85.3 / 15, abs=1e-3)
    doy, _ = local_clock(np.array(["2020-12-31T12"], "datetime64[h]"), 0.0)
    assert doy[0] == 365.5


def test_solar_noon_is_the_hour_that_holds_it():
    day = np.array(["2020-06-01"], "datetime64[D]")
    assert solar_noon(day, 0.0)[0] == np.datetime64("2020-06-01T12")
    assert solar_noon(day, 150.0)[0] == np.datetime64("2020-06-01T02")
    assert solar_noon(day, -170.0)[0] == np.datetime64("2020-06-01T23")


def test_saturation_pressure_against_tables():
    """Goff-Gratch values (Smithsonian tables), hPa; over ice 2.597 at -10 and 1.032 at -20."""
    np.testing.assert_allclose(saturation_vapour_pressure(np.array([10.0, 30.0])), [12.27, 42.43], rtol=5e-3)
    np.testing.assert_allclose(saturation_vapour_pressure(np.array([-10.0, -20.0])), [2.863, 1.254], rtol=1e-2)
    np.testing.assert_allclose(saturation_vapour_pressure(np.array([-10, -20.0]), ice=True), [2.597, 1.032], rtol=1e-2)
    assert saturation_vapour_pressure(0.0, ice=True) == saturation_vapour_pressure(0.0) == 6.11


@pytest.mark.parametrize("site", ["US-Wi7", "DK-Fou"])
def test_deficits_of_frosty_hours_at_towers_are_over_water(shared_data, site):
    """Those files hold what the towers gave: temperature, humidity and deficit."""
    import xarray as xr

    ds = xr.open_dataset(shared_data / f"formats/{site}_2005-2005_FLUXNET2015_Met.nc").squeeze()
    ta, rh, vpd = (ds[name].values.astype(float) for name in ("Tair", "RH", "VPD"))
    cold = (ta < 269.15) & (rh < 95)
    assert cold.sum() > 200

    def off(ice: bool) -> float:
        ours = saturation_vapour_pressure(ta[cold] - 273.15, ice=ice) * (1 - rh[cold] / 100)
        return abs(vpd[cold].sum() / ours.sum() - 1)

    assert off(ice=False) < 0.01 < 0.04 < off(ice=True)


@given(st.floats(-50, 50), st.floats(0, 30))
def test_deficit_and_humidity_agree(ta, depression):
    td = ta - depression
    deficit, humidity = vapour_pressure_deficit(ta, td), relative_humidity(ta, td)
    assert deficit >= 0 and 0 <= humidity <= 100
    assert deficit == pytest.approx(saturation_vapour_pressure(ta) * (1 - humidity / 100), abs=1e-9)


def test_vpd_of_a_tower_is_in_hectopascal(shared_data):
    """DK-Fou's independent copy holds RH and temperature: our VPD in hPa is its VPD."""
    import xarray as xr

    ds = xr.open_dataset(shared_data / "formats/DK-Fou_2005-2005_FLUXNET2015_Met.nc").squeeze()
    ta, rh, vpd = (ds[name].values.astype(float) for name in ("Tair", "RH", "VPD"))
    expected = saturation_vapour_pressure(ta - 273.15) * (1 - rh / 100)
    ok = np.isfinite(expected) & np.isfinite(vpd)
    assert np.median(np.abs(expected - vpd)[ok]) < 0.2
