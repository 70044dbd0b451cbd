"""A clock that no source has is estimated from the light, whatever its flags; with strict it is refused."""

from __future__ import annotations

import csv
import pickle

import numpy as np
import pytest
import xarray as xr
from tower_files import columns, write_archive, write_places

from fluxcube.catalog import open_carbonsense
from fluxcube.cubes.carbonsense import build_carbonsense
from fluxcube.cubes.checks import sun_lag
from fluxcube.cubes.clocks import clock_from_light, standard_times
from fluxcube.cubes.daily import read_daily_tower
from fluxcube.cubes.report import open_report
from fluxcube.cubes.tower import read_tower
from fluxcube.cubes.tower_data import TowerOptions
from fluxcube.errors import SourceError
from fluxcube.simulation.published import write_v1, write_v2
from fluxcube.simulation.records import Place, simulate_record
from fluxcube.solar import potential_radiation
from fluxcube.sources.towers.badm import SiteInfo
from fluxcube.sources.towers.discovery import discover
from fluxcube.sources.towers.oneflux import read_oneflux

DAYS = 60


def light_at(latitude: float, longitude: float, offset: float, *, start="2010-04-01", step=30, days=DAYS) -> np.ndarray:
    """Light (time,) under changing clouds, of steps that begin at local midnight."""
    n = days * 1440 // step
    local = np.datetime64(start, "m") + np.arange(n) * np.timedelta64(step, "m")
    utc = local - np.timedelta64(round(offset * 60), "m")
    clouds = np.random.default_rng(0).uniform(0.3, 0.75, n)
    return (potential_radiation(utc, latitude, longitude, hours=step / 60) * clouds).round(1)


def record(latitude, longitude, offset, *, decoded=0.0, flag=0, **options) -> xr.Dataset:
    """A record whose stamps are `offset` hours ahead of UTC, and which was decoded with another offset."""
    light = light_at(latitude, longitude, offset, **options).astype(np.float32)
    step = options.get("step", 30)
    time = np.datetime64(options.get("start", "2010-04-01"), "m") + np.arange(len(light)) * np.timedelta64(step, "m")
    time = (time - np.timedelta64(round(decoded * 60), "m")).astype("datetime64[ns]")
    data = {"SW_IN": ("time", light), "SW_IN_QC": ("time", np.full(len(light), flag, np.int8))}
    return xr.Dataset(data, coords={"time": time}, attrs={"step_minutes": step})


@pytest.mark.parametrize(
    ("site", "latitude", "longitude", "offset"),
    [
        ("ES-Xxx", 37.0, -3.0, 1),  # an hour from the nearest to the longitude
        ("FR-Xxx", 43.7, 3.6, 1),
        ("CN-Xxx", 30.5, 91.1, 8),  # two hours
        ("US-Xxx", 39.3, -86.4, -5),
        ("AU-Xxx", -22.3, 133.2, 9.5),
        ("AU-Xxx", -22.3, 140.0, 10),  # Queensland
        ("IN-Xxx", 20.0, 77.0, 5.5),
        ("CA-Xxx", 48.5, -56.0, -3.5),
        ("NZ-Xxx", -43.6, 171.9, 12),
        ("US-Xxx", 40.0, -90.0, 0),  # stamps in UTC
    ],
)
@pytest.mark.parametrize("flag", [0, 1, 2])
def test_the_standard_time_is_found_whatever_the_flags(site, latitude, longitude, offset, flag):
    assumed = float(round(longitude / 15))
    info = SiteInfo(site=site, latitude=latitude, longitude=longitude)
    clock = clock_from_light(record(latitude, longitude, offset, decoded=assumed, flag=flag), info, assumed)
    assert clock.offset == offset and clock.estimated and f"{offset:+g} h was estimated" in clock.note
    assert ("or in UTC" in clock.note) == (site == "US-Xxx" and offset == 0)


@pytest.mark.parametrize(("latitude", "summer"), [(50.0, (4, 10)), (-35.0, (10, 4))])
def test_daylight_saving_never_becomes_the_offset(latitude, summer):
    start, days = "2010-01-01", 365
    light = record(latitude, 15.0, 1, decoded=1.0, start=start, days=days)
    month = light.time.values.astype("datetime64[M]").astype(int) % 12 + 1
    saving = (month >= summer[0]) & (month < summer[1]) if latitude > 0 else (month >= summer[0]) | (month < summer[1])
    time = light.time.values + np.where(saving, 60, 0).astype("timedelta64[m]")
    order = np.unique(time, return_index=True)[1]
    light = light.isel(time=order).assign_coords(time=time[order])
    info = SiteInfo(site="XX-Xxx", latitude=latitude, longitude=15.0)
    assert clock_from_light(light, info, 1.0).offset == 1
    assert "of one season only" in clock_from_light(light.isel(time=slice(48 * 90)), info, 1.0).note


def test_the_best_flags_that_are_enough_are_used():
    """Few measured values are no reason not to look at the others."""
    light = record(50.0, 15.0, 1, decoded=0.0, flag=1)
    flags = light.SW_IN_QC.values.copy()
    flags[: 48 * 3] = 0  # three days: too few for half a month
    lag = sun_lag(light.assign(SW_IN_QC=("time", flags)), 50.0, 15.0)
    assert lag.hours == pytest.approx(1, abs=0.15) and lag.windows >= 3
    none = light.assign(SW_IN_QC=("time", np.full(len(flags), -1, np.int8)))
    assert sun_lag(none, 50.0, 15.0) is None


def raw(folder, site="ES-Xxx", offset=1.0, place=(37.0, -3.0), lit=True, **options):
    """A tower whose metadata do not state its offset."""
    n = DAYS * 48
    data = columns(n)
    if lit:
        data |= {"SW_IN_F": light_at(*place, offset), "SW_IN_F_QC": np.zeros(n)}
    write_archive(folder, site, data, start="2010-04-01T00:00", **options)
    write_places(folder, {site: (*place, "", "CRO")})
    return folder


def test_a_cube_has_the_estimated_clock_and_says_so(tmp_path, caplog):
    build_carbonsense(raw(tmp_path / "raw"), tmp_path / "c")
    one = open_carbonsense(tmp_path / "c").squeeze("site")
    assert one.utc_offset == 1 and one.time_start.values == np.datetime64("2010-03-31T23")
    (note,) = open_report(tmp_path / "c", "notes").text
    assert "no source has its UTC_OFFSET: +1 h was estimated from the light" in note and note in caplog.text
    assert np.corrcoef(*(one.predictors.sel(variable=name) for name in ("SW_IN", "SW_IN_POT")))[0, 1] > 0.9
    with pytest.raises(SourceError, match=r"ES-Xxx: no source has its UTC_OFFSET, and strict refuses.*sites\.csv"):
        build_carbonsense(tmp_path / "raw", tmp_path / "d", strict=True)


def test_days_follow_the_estimated_clock_too(tmp_path):
    raw(tmp_path)
    info = SiteInfo(site="ES-Xxx", latitude=37.0, longitude=-3.0)
    options = TowerOptions(predictors=("TA", "SW_IN"), targets=("NEE",))
    tower = read_daily_tower(discover(tmp_path, resolution="daily").archives, info, options)
    assert tower.utc_offset == 1 and str(tower.time[0])[:10] == "2010-04-01" and len(tower.time) == DAYS
    assert any("+1 h was estimated" in warning for warning in tower.warnings)


def test_an_archive_without_light_has_the_clock_of_another(tmp_path):
    raw(tmp_path, lit=False)
    raw(tmp_path, name="AMF_{site}_FLUXNET_FULLSET_{res}_2010-2010_3-5")
    info = SiteInfo(site="ES-Xxx", latitude=37.0, longitude=-3.0)
    tower = read_tower(discover(tmp_path).archives, info, TowerOptions(predictors=("TA",), targets=("NEE",)))
    assert tower.utc_offset == 1 and tower.time[0] == np.datetime64("2010-03-31T23")
    assert any("too little light: +1 h is that of another archive" in warning for warning in tower.warnings)


def test_without_any_light_the_longitude_remains(tmp_path):
    raw(tmp_path, lit=False)
    info = SiteInfo(site="ES-Xxx", latitude=37.0, longitude=-3.0)
    tower = read_tower(discover(tmp_path).archives, info, TowerOptions(predictors=("TA",), targets=("NEE",)))
    assert tower.utc_offset == 0 and "too little light" in tower.warnings[0] and "longitude / 15" in tower.warnings[0]


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_published_carbonsense_has_right_clocks(tmp_path, version):
    """It states no offset and no original flag: one site is known, the other's clock is seen in its light."""
    places = [
        Place(site=site, latitude=36.93, longitude=-2.75, igbp="OSH", utc_offset=1.0) for site in ("ES-LJu", "ES-Z00")
    ]
    records = [simulate_record(place, "2012-06-01", days=50, step_minutes=60, seed=1) for place in places]
    if version == "v1":
        for place, one in zip(places, records, strict=True):
            write_v1(tmp_path / "raw/carbonsense", one, place, dump=pickle.dumps)
    else:
        write_v2(tmp_path / "raw/carbonsense_v2.sql", list(zip(places, records, strict=True)))
    build_carbonsense(tmp_path / "raw", tmp_path / "c")
    ds = open_carbonsense(tmp_path / "c")
    assert ds.utc_offset.values.tolist() == [1, 1]
    assert (ds.time_start.values == np.datetime64("2012-05-31T23")).all()
    notes = open_report(tmp_path / "c", "notes").query("kind == 'warning'").set_index("site").text
    assert "UTC offset (+1)" in notes["ES-LJu"] and "table of known sites" in notes["ES-LJu"]
    assert "+1 h was estimated from the light" in notes["ES-Z00"]


def test_countries_with_parts_of_hours():
    assert 5.75 in standard_times("NP-Xxx", 28, 84) and 6.0 not in standard_times("NP-Xxx", 28, 84)
    assert 9.5 not in standard_times("AU-Xxx", -32, 150) and -3.5 not in standard_times("CA-Xxx", 50, -75)
    assert 0.0 in standard_times("AU-Xxx", -22, 133)


@pytest.mark.parametrize("site", ["ES-Ln2", "AU-TTE", "CA-SF2", "US-Atq", "CH-Dav", "CN-Dan", "SN-Dhr", "GF-Guy"])
def test_the_clocks_of_real_towers_are_found(shared_data, site):
    """Where the longitude is off, or the sensor shaded; all 157 are found (benchmarked apart, to save time)."""
    (path,) = [path for folder in ("towers", "towers2") for path in (shared_data / folder).glob(f"FLX_{site}_*.zip")]
    with open(path.with_name("sites.csv")) as file:
        (row,) = (row for row in csv.DictReader(file) if row["site_id"] == site)
    info = SiteInfo(site=site, latitude=float(row["latitude"]), longitude=float(row["longitude"]))
    assumed = float(round(info.longitude / 15))
    light = read_oneflux(path, utc_offset=assumed, variables=["SW_IN"])
    for flag in (0, 2):  # as published, and as in CarbonSense v2
        if flag:
            light = light.assign(SW_IN_QC=("time", np.where(light.SW_IN_QC >= 0, flag, -1).astype(np.int8)))
        assert clock_from_light(light, info, assumed).offset == float(row["utc_offset"])
