"""The light of a tower shows a latitude without its minus sign, a mistyped one, and a longitude of the wrong sign."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from fluxcube.cubes.checks import sun_lag
from fluxcube.cubes.daily import read_daily_tower
from fluxcube.cubes.latitude import daily_doubts, excess_share
from fluxcube.cubes.tower import tower_of
from fluxcube.cubes.tower_data import TowerOptions
from fluxcube.errors import SourceError
from fluxcube.solar import potential_radiation
from fluxcube.sources.towers.badm import SiteInfo, clock_of, read_badm
from fluxcube.sources.towers.discovery import discover
from fluxcube.sources.towers.oneflux import read_oneflux


def light(latitude: float, longitude: float, *, start: str = "2015-01-01", days: int = 365, step: int = 60):
    """Return measured light under clouds that last for hours."""
    rng = np.random.default_rng(0)
    n = days * 1440 // step
    time = np.datetime64(start, "m") + np.arange(n) * np.timedelta64(step, "m")
    clear = np.where(np.repeat(rng.random(n // 6 + 1), 6)[:n] < 0.6, rng.uniform(0.1, 1, n), 1) * 0.75
    values = (potential_radiation(time, latitude, longitude, hours=step / 60) * clear).astype(np.float32)
    arrays = {"SW_IN": ("time", values), "SW_IN_QC": ("time", np.zeros(n, np.int8))}
    attrs = {"step_minutes": step, "site": "XX-Tst", "network": "Mine", "source_file": "mine.csv"}
    return xr.Dataset(arrays, {"time": time.astype("datetime64[ns]")}, attrs)


@pytest.mark.parametrize(
    ("latitude", "days"), [(-67.0, 365), (-35.7, 60), (-35.7, 365), (-14.0, 365), (14.0, 365), (51.0, 60)]
)
def test_a_lost_sign_of_the_latitude_is_reported_and_the_right_one_is_not(latitude, days):
    ds = light(latitude, 148.2, days=days)
    assert sun_lag(ds, latitude, 148.2).doubts == ()
    found = sun_lag(ds, -latitude, 148.2)
    (doubt,) = found.doubts
    assert f"sign of the latitude is wrong ({latitude:g} instead of {-latitude:g}?)" in doubt
    assert abs(found.hours) < 0.15  # the clock is right, and reported as such


def test_the_evidence_is_the_light_that_no_sky_allows():
    (doubt,) = sun_lag(light(-35.7, 148.2), 35.7, 148.2).doubts
    assert "more than 50 W m-2 above the radiation at the top of the atmosphere at latitude 35.7" in doubt
    watts = light(40, 0).SW_IN.values
    assert excess_share(2 * watts, potential_radiation(light(40, 0).time.values, 40, 0)) > 0.2
    ds = light(40, 0)
    (doubt,) = sun_lag(ds.assign(SW_IN=2 * ds.SW_IN), 40, 0).doubts
    assert "the unit of the light" in doubt


def test_a_mistyped_latitude_and_exchanged_coordinates_are_reported():
    ds = light(51, 13.5)
    (doubt,) = sun_lag(ds, 15, 13.5).doubts
    assert "the latitude is wrong" in doubt
    assert any("latitude and longitude may be exchanged" in doubt for doubt in sun_lag(ds, 13.5, 51).doubts)


def test_a_lost_sign_of_the_longitude_is_a_wrong_clock_with_a_hint():
    found = sun_lag(light(39, -97.5), 39, 97.5)
    assert any("or the sign of the longitude: the light fits -97.5" in doubt for doubt in found.doubts)
    assert not any("longitude" in doubt for doubt in sun_lag(light(39, -97.5), 39, -67.5).doubts)


def test_photons_and_short_records_without_evidence():
    ds = light(-35, 148).rename({"SW_IN": "PPFD_IN", "SW_IN_QC": "PPFD_IN_QC"})
    ds["PPFD_IN"] = ds.PPFD_IN * 2
    assert sun_lag(ds, -35, 148).doubts == ()
    assert "sign of the latitude" in sun_lag(ds, 35, 148).doubts[0]
    equator = light(-2.9, -54, days=365)
    assert sun_lag(equator, -2.9, -54).doubts == () == sun_lag(equator, 2.9, -54).doubts


def test_a_tower_reports_the_latitude_and_strict_refuses():
    ds = light(-35.7, 148.2)
    info = SiteInfo(site="XX-Tst", latitude=35.7, longitude=148.2, utc_offset=10.0, utc_offsets=((None, 10.0),))
    options = TowerOptions(predictors=["SW_IN"], targets=[])
    tower = tower_of([(0, "Mine", ds)], info, options)
    assert any("sign of the latitude is wrong" in text for text in tower.warnings)
    with pytest.raises(SourceError, match="sign of the latitude is wrong"):
        tower_of([(0, "Mine", ds)], info, replace(options, strict=True))
    tower_of([(0, "Mine", ds)], replace(info, latitude=-35.7), replace(options, strict=True))


@pytest.mark.parametrize("latitude", [-60.0, -35.0, 45.0])
def test_daily_means_show_a_lost_sign(latitude):
    ds = light(latitude, 0.0)
    days = ds.SW_IN.values.reshape(-1, 24).mean(1)
    date = ds.time.values[::24].astype("datetime64[D]")
    assert daily_doubts(date, days, latitude) == ()
    (doubt,) = daily_doubts(date, days, -latitude)
    assert f"sign of the latitude is wrong ({latitude:g} instead of {-latitude:g}?)" in doubt
    days[::2] = np.nan
    assert daily_doubts(date, days, latitude) == () and daily_doubts(date, days, -latitude)
    assert daily_doubts(date[:20], days[:20], -latitude) == ()


#: Towers whose light fits their own latitude least well, near the equator, in the polar night, or with little light.
HARD = ("BR-Sa3", "AR-Vir", "AU-TTE", "AU-DaP", "US-Wi2", "RU-Cok", "CG-Tch", "SJ-Blv", "US-Atq")


@pytest.mark.parametrize("sites", [HARD, pytest.param((), marks=pytest.mark.slow)], ids=["hard", "all"])
def test_no_real_tower_is_suspected_and_turned_ones_are(shared_data, sites):
    """Of the 157 towers none is suspected; with the sign turned, 151: all but six near the equator."""
    seen = found = 0
    for folder in ("towers", "towers2"):
        listed = discover(shared_data / folder)
        infos = read_badm(listed.badm)
        for archive in listed.archives:
            info = infos[archive.site]
            if sites and info.site not in sites:
                continue
            ds = read_oneflux(archive, utc_offset=clock_of(info), variables=["SW_IN"])
            assert sun_lag(ds, info.latitude, info.longitude).place_doubts == (), info.site
            found += bool(sun_lag(ds, -info.latitude, info.longitude).place_doubts)
            seen += 1
    assert (seen, found) == ((len(sites), 7) if sites else (157, 151))


@pytest.mark.parametrize("strict", [False, True])
def test_a_published_daily_table_shows_a_lost_sign(shared_data, strict):
    path = next((shared_data / "daily").glob("FLX_US-Wi7_*_DD_*"))
    info = SiteInfo(site="US-Wi7", latitude=46.65, longitude=-91.07, utc_offset=-6.0)
    options = TowerOptions(predictors=["TA"], targets=["NEE"], strict=strict)
    archives = discover(path, resolution="daily").archives
    assert not any("latitude" in text for text in read_daily_tower(archives, info, options).warnings)
    turned = replace(info, latitude=-46.65)
    if strict:
        with pytest.raises(SourceError, match=r"DD.*sign of the latitude is wrong \(46\.65 instead"):
            read_daily_tower(archives, turned, options)
    else:
        assert any("sign of the latitude" in text for text in read_daily_tower(archives, turned, options).warnings)
