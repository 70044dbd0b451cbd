"""Daily towers: days average every minute of a local day; daily files and hours are fused to one tower."""

from __future__ import annotations

import itertools
import json
import zipfile
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxcube.cubes import daily
from fluxcube.cubes.daily import read_daily_tower
from fluxcube.cubes.fusion import CARBON_UNIT, fuse
from fluxcube.cubes.hourly import to_hourly
from fluxcube.cubes.localdays import GRAMS_OF_CARBON, to_daily
from fluxcube.cubes.tower_data import TowerOptions
from fluxcube.errors import ConfigError, SourceError
from fluxcube.simulation import Planet
from fluxcube.simulation.archives import PUBLISHERS, write_archive, write_bif
from fluxcube.simulation.records import Place, simulate_record
from fluxcube.sources.towers.badm import SiteInfo, read_badm
from fluxcube.sources.towers.discovery import discover
from fluxcube.sources.towers.oneflux import read_oneflux
from fluxcube.sources.towers.oneflux_daily import read_oneflux_daily
from fluxcube.timestamps import standard_to_utc

DAY = np.timedelta64(1, "D")


def record(start: str, step: int, steps: np.ndarray | int, *, utc_offset: float = 0.0, **columns) -> xr.Dataset:
    """A native record of the steps with these numbers after local `start`; flags are 0 unless given."""
    steps = np.arange(steps) if isinstance(steps, int) else np.asarray(steps)
    local = np.datetime64(start, "m") + steps * np.timedelta64(step, "m")
    arrays = {}
    for name, values in columns.items():
        if name.endswith("_QC"):
            continue
        values = np.broadcast_to(np.asarray(values, np.float32), len(steps))
        arrays[name] = ("time", values)
        if not name.endswith("UNC"):
            flags = np.broadcast_to(columns.get(f"{name}_QC", 0), len(steps))
            arrays[f"{name}_QC"] = ("time", np.where(np.isnan(values), -1, flags).astype("i1"))
    time = standard_to_utc(local, utc_offset).astype("datetime64[ns]")
    return xr.Dataset(arrays, coords={"time": time}, attrs={"step_minutes": step, "site": "X"})


def minute_by_minute(ds: xr.Dataset, name: str, how: str, offset: float) -> dict[np.datetime64, tuple[float, float]]:
    """Value and quality of each local day, by spreading every step over its minutes."""
    step, days = ds.attrs["step_minutes"], {}
    shift = np.timedelta64(round(60 * offset), "m")
    for at, value, flag in zip(ds.time.values, ds[name].values, ds[f"{name}_QC"].values, strict=True):
        for minute in range(step):
            day = (at.astype("datetime64[m]") + minute + shift).astype("datetime64[D]")
            share = float(value) / step if how == "sum" else float(value)
            days.setdefault(day, []).extend([] if np.isnan(value) else [(share, flag <= 1)])
    out = {}
    for day, minutes in days.items():
        values = np.array([value for value, _ in minutes])
        needed = 0.9 * 1440 if how in ("mean", "vector") else 1440
        value = np.nan
        if len(minutes) >= needed:
            value = values.sum() if how == "sum" else values.mean()
            if how == "flux":
                value *= 12.011e-6 * 86400
            if how == "vector":
                mean = np.exp(1j * np.deg2rad(values)).mean()
                value = np.rad2deg(np.angle(mean)) % 360 if abs(mean) > 1e-6 else np.nan
        out[day] = value, np.nan if np.isnan(value) else sum(good for _, good in minutes) / 1440
    return out


@st.composite
def records(draw):
    """Two days or so of steps, some missing, some absent, beginning at any quarter of an hour of UTC."""
    step = draw(st.sampled_from([30, 60]))
    n = draw(st.integers(20, 2 * 1440 // step + 7))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    gaps = draw(st.sampled_from([0.0, 0.02, 0.2]))
    steps = np.flatnonzero(rng.random(n) >= gaps / 2)
    columns = {}
    for name, high in (("TA", 40), ("P", 9), ("WD", 360), ("NEE", 20)):
        values = rng.integers(0, high, len(steps)).astype(float)
        columns[name] = np.where(rng.random(len(steps)) < gaps, np.nan, values)
        columns[f"{name}_QC"] = rng.integers(0, 4, len(steps))
    start = np.datetime64("2020-02-27", "m") + 15 * draw(st.integers(0, 95))
    return record(str(start), step, steps, **columns)


@settings(deadline=None, max_examples=20)
@given(records(), st.sampled_from([0.0, -9.0, 5.5, 5.75, -3.5, 12.0]))
def test_is_what_averaging_each_minute_of_the_local_day_gives(ds, offset):
    days = to_daily(ds, utc_offset=offset)
    assert (np.diff(days.time.values) == DAY).all()
    for name, how in {"TA": "mean", "P": "sum", "WD": "vector", "NEE": "flux"}.items():
        expected = minute_by_minute(ds, name, how, offset)
        assert days.time.values[[0, -1]].astype("datetime64[D]").tolist() == [min(expected), max(expected)]
        for i, day in enumerate(days.time.values.astype("datetime64[D]")):
            value, quality = expected.get(day, (np.nan, np.nan))
            found = float(days[name][i])
            if how == "vector" and np.isfinite(value):
                found = value + (found - value + 180) % 360 - 180
            np.testing.assert_allclose(found, value, rtol=1e-4, atol=1e-3 if how == "vector" else 1e-5)
            np.testing.assert_allclose(days[f"{name}_QUALITY"][i], quality, atol=1e-6)


@pytest.mark.parametrize("offset", [0.0, -9.0, 5.5, 5.75])
def test_rain_and_carbon_are_neither_made_nor_lost(offset):
    """Over whole local days, totals are the record's; from UTC hours, too, but for what straddles midnight."""
    rng = np.random.default_rng(1)
    n = 10 * 48
    ds = record("2020-02-25", 30, n, utc_offset=offset, P=rng.gamma(0.3, 2, n), NEE=rng.normal(0, 8, n))
    days = to_daily(ds, utc_offset=offset)
    assert days.sizes["time"] == 10
    assert float(days.P.sum()) == pytest.approx(float(ds.P.sum()), rel=1e-5)
    grams = float(ds.NEE.astype(float).sum()) * 1800 * 12.011e-6
    assert float(days.NEE.sum()) == pytest.approx(grams, rel=1e-4)
    hours = to_daily(to_hourly(ds), utc_offset=offset).sel(time=days.time)
    if offset == int(offset):
        for name in days.data_vars:
            if not name.endswith("QUALITY"):
                np.testing.assert_allclose(hours[name], days[name], rtol=1e-4, atol=1e-4)
    else:
        apart = (hours.NEE - days.NEE).values[1:-1]
        assert np.isfinite(apart).all() and 0 < np.abs(apart).max() < 2 * 1800 * 12.011e-6 * np.ptp(ds.NEE.values)


def test_one_micromole_a_second_is_a_gram_a_day():
    days = to_daily(record("2020-01-01", 60, 24, NEE=1.0), utc_offset=0)
    assert float(days.NEE[0]) == pytest.approx(1.0377, abs=1e-4)
    assert days.NEE.attrs["units"] == "gC m-2 d-1"


def test_quality_is_the_share_of_flags_0_and_1():
    flags = np.repeat([0, 1, 2, 3], 12)
    days = to_daily(record("2020-01-01", 30, 48, TA=5.0, TA_QC=flags), utc_offset=0)
    assert float(days.TA_QUALITY[0]) == 0.5


@pytest.mark.parametrize(
    ("name", "missing", "there"),
    [
        ("NEE", 1, False),
        ("LE", 1, False),
        ("P", 1, False),
        ("TA_RANGE", 2, False),
        ("TA", 4, True),
        ("TA", 5, False),
        ("WD", 4, True),
        ("WD", 5, False),
        ("NETRAD", 4, True),
        ("NETRAD", 5, False),
    ],
)
@pytest.mark.parametrize("absent", [True, False])
def test_a_day_must_be_there(name, missing, there, absent):
    """Missing half-hours, as blanks and as rows that are not there: a flux and a sum need all, a mean 90 %."""
    steps = np.delete(np.arange(48), np.arange(20, 20 + missing)) if absent else np.arange(48)
    values = np.where((steps >= 20) & (steps < 20 + missing), np.nan, 7.0)
    made = to_daily(record("2020-01-01", 30, steps, **{name.removesuffix("_RANGE"): values}), utc_offset=0)
    whole = to_daily(record("2020-01-01", 30, 48, **{name.removesuffix("_RANGE"): 7.0}), utc_offset=0)
    assert np.isfinite(whole[name]).all()
    assert bool(np.isfinite(made[name][0])) == there
    if there:
        assert float(made[f"{name}_QUALITY"][0]) == pytest.approx(1 - missing / 48), "a missing hour is not a good one"


def test_the_range_is_of_hours_of_the_local_day():
    """Half-hours 10 and 12 make an hour of 11; the extremes of half-hours do not count, nor those of other days."""
    ta = np.full(96, 5.0)
    ta[20:22], ta[30:32], ta[50:52] = [10.0, 12.0], [-3.0, -1.0], [30.0, 40.0]
    ds = record("2020-01-01", 30, 96, utc_offset=-7, TA=ta)
    for made in (ds, to_hourly(ds)):
        np.testing.assert_allclose(to_daily(made, utc_offset=-7).TA_RANGE, [13.0, 30.0])
    # UTC hours of a clock of +5:30 straddle its hours: the range is of the hours themselves, and of no blend of two.
    hour = np.where(np.arange(48) % 24 == 9, 20.0, 5.0)
    for offset in (5.5, 5.0):
        np.testing.assert_allclose(
            to_daily(to_hourly(record("2020-01-01", 60, 48, TA=hour)), utc_offset=offset).TA_RANGE[1], 15.0
        )
    warmer = ds.assign(TA=ds.TA + 11)
    assert to_daily(warmer, utc_offset=-7).TA_RANGE.equals(to_daily(ds, utc_offset=-7).TA_RANGE)


def test_a_new_offset_begins_where_the_old_one_ends():
    """Days before and after a change are whole; where the clock was set forward, its first day has lost hours."""

    def ds(old, new):
        before = record("2012-05-29", 30, 2 * 48, utc_offset=old, NEE=1.0, TA=1.0)
        after = record("2012-05-31", 30, 2 * 48, utc_offset=new, NEE=2.0, TA=2.0)
        joined = xr.concat([before, after.sel(time=after.time > before.time[-1])], "time")
        return to_daily(joined, utc_offset=[(None, old), ("2012-05-31", new)])

    for old, new in ((8.0, 7.0), (7.0, 7.0)):
        days = ds(old, new)
        np.testing.assert_allclose(days.NEE, np.array([1, 1, 2, 2]) * GRAMS_OF_CARBON, rtol=1e-6)
    days = ds(7.0, 8.0)
    np.testing.assert_allclose(days.NEE, np.array([1, 1, np.nan, 2]) * GRAMS_OF_CARBON, rtol=1e-6)
    np.testing.assert_allclose(days.TA, [1, 1, 2, 2])


def test_random_errors_average_out_and_common_ones_do_not():
    """48 equal errors: divided by the root of 48 where independent, unchanged where common; measured steps only."""
    nan = np.float32(np.nan)
    one = to_daily(record("2020-01-01", 30, 48, NEE=1.0, NEE_RANDUNC=2.0, NEE_JOINTUNC=np.hypot(2, 3)), utc_offset=0)
    assert float(one.NEE_RANDUNC[0]) == pytest.approx(2 / np.sqrt(48) * GRAMS_OF_CARBON, rel=1e-5)
    both = np.hypot(2 / np.sqrt(48), 3) * GRAMS_OF_CARBON
    assert float(one.NEE_JOINTUNC[0]) == pytest.approx(both, rel=1e-5)
    some = np.where(np.arange(48) < 12, 2.0, nan)
    few = to_daily(record("2020-01-01", 30, 48, NEE=1.0, NEE_RANDUNC=some), utc_offset=0)
    assert float(few.NEE_RANDUNC[0]) == pytest.approx(2 / np.sqrt(12) * GRAMS_OF_CARBON, rel=1e-5)
    none = to_daily(record("2020-01-01", 30, 48, NEE=1.0, NEE_RANDUNC=nan), utc_offset=0)
    assert np.isnan(none.NEE_RANDUNC[0]) and "NEE_JOINTUNC" not in none
    alone = to_daily(record("2020-01-01", 30, 48, NEE=1.0, NEE_JOINTUNC=2.0), utc_offset=0)
    assert float(alone.NEE_JOINTUNC[0]) == pytest.approx(2 * GRAMS_OF_CARBON, rel=1e-5), "never too small"


def test_what_is_no_record_or_clock_is_named():
    ds = record("2020-01-01", 30, 48, TA=1.0)
    with pytest.raises(ConfigError, match="step_minutes"):
        to_daily(ds.drop_attrs(), utc_offset=0)
    for wrong, message in (([], "at least one"), ([("May", 1.0)], "expected a start date"), (25.0, "-14 to 14")):
        with pytest.raises(ConfigError, match=message):
            to_daily(ds, utc_offset=wrong)


# ---- real towers


def _differences(days: xr.Dataset, published: xr.Dataset, name: str) -> np.ndarray:
    both = xr.align(days[name], published[name], join="inner")
    found = (both[0] - both[1]).values
    return np.abs(found[np.isfinite(found)])


@pytest.fixture(scope="module")
def wi7(shared_data):
    """US-Wi7 in 2005: its published days, and days made of its half-hours (re-exported, packed to 16 bits)."""
    published = read_oneflux_daily(shared_data / "daily/FLX_US-Wi7_FLUXNET2015_FULLSET_DD_2005-2005_1-4.csv.gz")
    hours = read_oneflux(shared_data / "towers/FLX_US-Wi7_FLUXNET2015_SUBSET_HH_2005-2005_1-4.zip", utc_offset=-6)
    return published, hours


def test_days_made_of_half_hours_are_oneflux_s(wi7):
    """Against ONEFlux's own daily file: values to the packing of the half-hours, quality to the last digit."""
    published, hours = wi7
    days = to_daily(hours, utc_offset=-6)
    for name, limit in {"TA": 1e-3, "SW_IN": 4e-3, "VPD": 1e-3, "NEE": 2e-3, "GPP_NT": 2e-3, "RECO_NT": 2e-3}.items():
        difference = _differences(days, published, name)
        assert len(difference) == 365 and difference.max() < limit, name
        assert _differences(days, published, f"{name}_QUALITY").max() < 1e-6


def test_days_made_of_another_group_s_half_hours_are_oneflux_s(wi7, shared_data):
    """Against ONEFlux's daily file from PLUMBER2's netCDF: fluxes, and weather where PLUMBER2 did not fill it."""
    met, flux = (
        xr.open_dataset(shared_data / f"formats/US-Wi7_2005-2005_FLUXNET2015_{kind}.nc").squeeze()
        for kind in ("Met", "Flux")
    )
    from_file = {
        "TA": (met.Tair - 273.15, met.Tair_qc),
        "SW_IN": (met.SWdown, met.SWdown_qc),
        "VPD": (met.VPD, met.VPD_qc),
        "LW_IN": (met.LWdown, met.LWdown_qc),
        "PA": (met.Psurf / 1000, met.Psurf_qc),
        "WS": (met.Wind, met.Wind_qc),
        "P": (met.Precip * 1800, met.Precip_qc),
        "NEE": (flux.NEE, flux.NEE_qc),
        "LE": (flux.Qle, flux.Qle_qc),
        "H": (flux.Qh, flux.Qh_qc),
    }
    columns = {}
    for name, (values, flags) in from_file.items():
        columns |= {name: values.values, f"{name}_QC": np.where(flags.values == 4, 2, flags.values)}
    days = to_daily(record("2005-01-01", 30, 365 * 48, utc_offset=-6, **columns), utc_offset=-6)
    published, _ = wi7
    limits = {"LW_IN": 2e-3, "PA": 1e-3, "WS": 1e-3, "P": 5e-3, "NEE": 3e-4, "LE": 1e-3, "H": 1e-3}
    for name in from_file:
        good = published[f"{name}_QUALITY"] == 1 if name in ("TA", "SW_IN", "VPD") else True
        difference = _differences(days.where(good), published, name)
        assert len(difference) > 100 and difference.max() < limits.get(name, 2e-3), name
        assert _differences(days, published, f"{name}_QUALITY").max() < 1e-6, name


def test_potential_radiation_and_day_of_year_are_oneflux_s(wi7, shared_data, tmp_path):
    """The computed columns of a tower, against ONEFlux's daily SW_IN_POT and the calendar."""
    found = discover([shared_data / "daily", shared_data / "towers/sites.csv"], resolution="daily")
    archives = [archive for archive in found.archives if archive.site == "US-Wi7"]
    tower = read_daily_tower(
        archives, read_badm(found.badm)["US-Wi7"], TowerOptions(predictors=["TA"], targets=["NEE"])
    )
    raw = pd.read_csv(archives[0].path)
    column = dict(zip(tower.predictors.names, tower.predictors.values.T, strict=True))
    np.testing.assert_allclose(column["SW_IN_POT"], raw.SW_IN_POT, atol=0.01)
    np.testing.assert_array_equal(column["DOY"], pd.DatetimeIndex(tower.time).day_of_year - 1)
    assert (tower.predictors.parts["_quality"][:, :2] == 1).all()
    assert "TOD" not in column and "TA_RANGE" not in column, "a daily file cannot tell a range"


def test_the_mean_of_measured_hours_alone_is_another_thing(shared_data):
    """Nights are the gaps: leaving out what was filled takes 1 gC m-2 d-1 from NEE, and that is not what a day is."""
    shifts, sites = [], (shared_data / "towers/small.txt").read_text("utf-8").split()
    for site in sites[:6]:
        (path,) = (shared_data / "towers").glob(f"FLX_{site}_*.zip")
        hours = read_oneflux(path, utc_offset=0.0, variables=["NEE"])
        days = to_daily(hours, utc_offset=0.0)
        table = hours.NEE.to_series()
        by_day = table.groupby(table.index.floor("D"))
        everything = (by_day.mean() * 1.03775)[by_day.count() == 1440 // hours.attrs["step_minutes"]]
        ours = days.NEE.to_series().dropna()
        pd.testing.assert_series_equal(
            ours, everything, check_names=False, check_freq=False, check_dtype=False, atol=1e-3, rtol=1e-4
        )
        measured = table.where(hours.NEE_QC.to_series() == 0).groupby(table.index.floor("D")).mean() * 1.03775
        shifts.append(float((measured - ours).mean()))
    assert np.median(shifts) < -0.5 and min(shifts) < -1, shifts


def test_days_of_the_simulated_planet_are_near_its_truth(planet_files):
    """Whole good days, against the mean of the true half-hours of the local day; no other day is nearer."""
    planet = Planet(seed=0, quick=True)
    found = discover(planet_files / "towers", resolution="daily")
    infos = read_badm(found.badm)
    for place in planet.towers[:4]:
        archives = [archive for archive in found.archives if archive.site == place.site]
        tower = read_daily_tower(
            archives, infos[place.site], TowerOptions(predictors=["TA"], targets=["NEE", "GPP_NT", "RECO_NT"])
        )
        days = tower.time[0] + np.arange(-1, len(tower.time) + 1) * DAY
        local = days.astype("datetime64[m]")[:, None] + np.arange(0, 1440, 30)
        utc = standard_to_utc(local.ravel(), place.utc_offset)
        true = planet.states(utc, place.latitude, place.longitude, place.igbp, step_hours=0.5, names=("GPP", "RECO"))
        nee = (true["RECO"] - true["GPP"])[0].reshape(len(days), 48).mean(1) * 1.03775
        good = column(tower, "NEE", "_quality") > 0.999
        assert good.sum() > 60
        errors = {
            shift: np.std((column(tower, "NEE") - nee[1 + shift : len(days) - 1 + shift])[good]) for shift in (-1, 0, 1)
        }
        assert min(errors, key=errors.get) == 0 and errors[0] < 0.5 * nee.std(), (place.site, errors)
        assert abs((column(tower, "NEE") - nee[1:-1])[good].mean()) < 0.15 * nee.std()


# ---- one tower of several archives

PLACE = Place(site="IN-Xyz", latitude=21.0, longitude=79.0, utc_offset=5.5)
PREDICTORS = ("DOY", "TA", "TA_RANGE", "SW_IN", "P", "WD", "RH", "LE", "SW_IN_POT")
TARGETS = ("NEE", "GPP_NT", "RECO_NT", "GPP_DT", "RECO_DT", "LE")


def read(folder, **options):
    found = discover(folder, resolution="daily")
    info = read_badm(found.badm)[PLACE.site]
    return read_daily_tower(
        found.archives, info, TowerOptions(**{"predictors": PREDICTORS, "targets": TARGETS, **options})
    )


def column(tower, name: str, ending: str = "") -> np.ndarray:
    stack = tower.fluxes if name in tower.fluxes.names else tower.predictors
    return stack.parts[ending][:, stack.names.index(name)]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A site whose zip has daily and half-hourly tables."""
    folder = tmp_path_factory.mktemp("published")
    write_archive(folder, "FLUXNET2015", simulate_record(PLACE, "2014-01-01", days=20), place=PLACE)
    write_bif(folder, [PLACE])
    return folder


def test_daily_tables_win_and_hours_give_what_they_lack(published):
    tower = read(published)
    archive = next(archive for archive in discover(published, resolution="daily").archives)
    days = read_oneflux_daily(archive)
    hours = to_daily(read_oneflux(archive.path, utc_offset=5.5), utc_offset=5.5)
    assert (tower.time == days.time.values).all() and tower.networks == ("FLUXNET2015",)
    for name in ("TA", "P", "NEE", "LE"):
        np.testing.assert_array_equal(column(tower, name), days[name])
        np.testing.assert_array_equal(column(tower, name, "_quality"), days[f"{name}_QUALITY"])
        assert list(tower.fusion[name]) == ["FLUXNET2015"]
    np.testing.assert_array_equal(column(tower, "TA_RANGE"), hours.TA_RANGE)
    assert list(tower.fusion["TA_RANGE"]) == ["FLUXNET2015 (hours)"]
    assert tower.quality["predictors"]["TA_RANGE"]["from_hours"] == 1
    assert "from_hours" not in tower.quality["predictors"]["TA"]


def test_a_publication_s_days_and_hours_agree(published):
    """The daily table that the simulated publisher made of its half-hours, and ours: alike on whole days."""
    archive = next(archive for archive in discover(published, resolution="daily").archives)
    days = read_oneflux_daily(archive)
    hours = to_daily(read_oneflux(archive.path, utc_offset=5.5), utc_offset=5.5)
    compared = 0
    for name, at in json.loads(days.attrs["columns"]).items():
        if "_F" in at or "VUT_REF" in at:  # filled: their days are whole
            difference = _differences(hours, days, name)
            assert len(difference) == int(hours[name].notnull().sum()) and difference.max(initial=0) < 2e-3, name
            quality = _differences(hours, days, f"{name}_QUALITY")
            assert quality.max(initial=0) < 1e-3, name
            compared += len(quality) > 10
    assert compared > 5


def test_years_without_a_daily_table_are_made_of_hours(tmp_path):
    """Daily table of 2014, half-hours of 2014 and 2015: by either rule the table's days stay, and the rest joins."""
    long = simulate_record(PLACE, "2014-12-22", days=20)
    write_archive(tmp_path, "FLUXNET2015", long, place=PLACE, form="folder")
    for other in [*tmp_path.rglob("*ERAI*"), *tmp_path.rglob("*AUX*")]:
        other.unlink()
    (daily,) = tmp_path.rglob("*_DD_*.csv")
    kept = pd.read_csv(daily, dtype=str).query("TIMESTAMP < '20150101'")
    kept = kept[[name for name in kept if not name.startswith("GPP_DT")]]
    carbon = [name for name in kept if name.startswith(("NEE", "GPP", "RECO"))]
    kept.loc[kept.index[3], carbon] = "-9999"
    kept.to_csv(daily.with_name(daily.name.replace("2014-2015", "2014-2014")), index=False)
    daily.unlink()
    write_bif(tmp_path, [PLACE])
    archives = discover(tmp_path, resolution="daily").archives
    assert sorted(archive.resolution for archive in archives) == ["DD", "HH"]
    for rule in ("newest", "quality"):
        tower = read(tmp_path, rule=rule)
        assert len(tower.time) == 20
        days = tower.time < np.datetime64("2015-01-01")
        for name in ("TA", "NEE", "GPP_NT", "TA_RANGE"):
            given_days = {"_DD_" in label: part["days"] for label, part in tower.fusion[name].items()}
            lost = name in ("NEE", "GPP_NT")
            assert given_days == ({True: 10 - lost, False: 10} if name != "TA_RANGE" else {False: 20}), name
        # The table's own days have its carbon or none: neither a day nor a part that it lacks comes from the hours.
        assert np.isnan(column(tower, "NEE")[3]) and np.isnan(column(tower, "GPP_DT")[:10]).all()
        assert np.isfinite(column(tower, "GPP_DT")[10:]).all()
        np.testing.assert_array_equal(column(tower, "TA")[days], np.float32(kept.TA_F.astype(float)))


@pytest.mark.parametrize("rule", ["newest", "quality"])
def test_publications_are_fused_by_day_and_variable(tmp_path, rule):
    """Two publications: each day's carbon is of one of them, with its quality; the order of files does not matter."""
    records = [simulate_record(PLACE, "2014-01-01", days=20, seed=seed) for seed in (1, 2)]
    for network, one in zip(("FLUXNET2015", "ICOS Warm Winter 2020"), records, strict=True):
        write_archive(tmp_path, network, one, place=PLACE)
    write_bif(tmp_path, [PLACE])
    tower = read(tmp_path, rule=rule)
    found = discover(tmp_path, resolution="daily")
    singles = [read_oneflux_daily(archive) for archive in found.archives]
    assert tower.networks[0] == found.archives[0].network == "ICOS Warm Winter 2020"
    chosen = np.full(20, -1)
    for i, single in enumerate(singles):
        same = [(column(tower, name) == single[name].values) | np.isnan(column(tower, name)) for name in TARGETS[:5]]
        chosen[np.all(same, 0) & np.isfinite(single.NEE.values)] = i
    assert (chosen >= 0).all()
    quality = np.stack([single.NEE_QUALITY.values for single in singles])
    np.testing.assert_array_equal(column(tower, "NEE", "_quality"), quality[chosen, np.arange(20)])
    best = np.nanmax(quality, 0) if rule == "quality" else quality[0]
    np.testing.assert_array_equal(quality[chosen, np.arange(20)], best)
    if rule == "quality":
        assert set(chosen) == {0, 1}, "the simulated records differ in quality both ways"
    turned = read_daily_tower(
        found.archives[::-1], tower.info, TowerOptions(predictors=PREDICTORS, targets=TARGETS, rule=rule)
    )
    for stack in ("predictors", "fluxes"):
        for ending, values in getattr(tower, stack).parts.items():
            np.testing.assert_array_equal(values, getattr(turned, stack).parts[ending])


def test_impossible_predictors_are_missing_and_counted_and_targets_stay(published, tmp_path):
    one = simulate_record(PLACE, "2014-01-01", days=20)
    columns = dict(one.columns)
    columns["TA_F"] = np.where(np.arange(len(one.start)) == 60, 300.0, columns["TA_F"])
    columns["NEE_VUT_REF"] = columns["NEE_VUT_REF"] + 300
    write_archive(tmp_path, "FLUXNET2015", replace(one, columns=columns), place=PLACE, product="SUBSET")
    for path in tmp_path.iterdir():  # half-hours alone
        _keep(path, "_HH_")
    write_bif(tmp_path, [PLACE])
    tower = read(tmp_path)
    assert tower.out_of_bounds["TA"] == 1
    assert np.isfinite(column(tower, "TA")).all(), "of 48 half-hours one may be missing"
    assert np.isnan(column(tower, "TA_RANGE")).sum() == 0, "its hour has another half"
    assert np.nanmin(column(tower, "NEE")) > 200, "a target is never censored"
    assert any("TA" in warning for warning in tower.warnings)


def _keep(path, token: str) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist() if token in name}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def test_what_cannot_be_read_is_noted_or_raised(published, tmp_path):
    """A broken archive beside a good one is noted; alone, or where strict, it is an error."""
    good = next(path for path in published.iterdir() if path.suffix == ".zip")
    (tmp_path / good.name).write_bytes(good.read_bytes())
    bad = tmp_path / "FLX_IN-Xyz_FLUXNET2015_FULLSET_DD_2019-2020_beta-3.csv"
    bad.write_text("TIMESTAMP,TA_F,TA_F_QC\n20190101,1.0,3\n")
    write_bif(tmp_path, [PLACE])
    tower = read(tmp_path)
    assert list(tower.unread) == [bad.name] and "fraction" in tower.unread[bad.name]
    with pytest.raises(SourceError, match="fraction"):
        read(tmp_path, strict=True)
    (tmp_path / good.name).unlink()
    with pytest.raises(SourceError, match="fraction"):
        read(tmp_path)


def test_no_value_at_all_is_an_error(tmp_path):
    path = tmp_path / "FLX_IN-Xyz_FLUXNET2015_FULLSET_DD_2014-2014_1-4.csv"
    path.write_text("TIMESTAMP,TA_F,TA_F_QC\n20140101,-9999,-9999\n")
    info = SiteInfo(site=PLACE.site, latitude=1.0, longitude=2.0)
    with pytest.raises(SourceError, match="no value"):
        read_daily_tower(
            discover(path, resolution="daily").archives, info, TowerOptions(predictors=["TA"], targets=["NEE"])
        )


# ---- fusion of days


@st.composite
def publications(draw):
    """One to three daily records whose values tell which source they are from: source i holds i * 1000 and up."""
    sources = []
    for i in range(draw(st.integers(1, 3))):
        n = draw(st.integers(1, 6))
        arrays = {}
        for name in sorted(draw(st.sets(st.sampled_from(("TA", "TA_RANGE", *CARBON_UNIT)), min_size=1))):
            values = np.array([1000 * i + t for t in range(n)], np.float32)
            values[~np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)))] = np.nan
            shares = st.one_of(st.just(np.nan), st.integers(0, 4).map(lambda x: x / 4))
            quality = np.array(draw(st.lists(shares, min_size=n, max_size=n)), np.float32)
            arrays |= {name: ("time", values), f"{name}_QUALITY": ("time", quality + 0 * values)}
        first = draw(st.integers(0, 4))
        time = np.datetime64("2010-01-01", "ns") + (first + np.arange(n)) * DAY
        gap = draw(st.integers(0, n))  # the days of a file may have gaps
        held = xr.Dataset(arrays, {"time": time + (np.arange(n) >= gap) * DAY})
        sources.append((draw(st.integers(0, 2)), f"source {i}", held))
    return sources


@settings(deadline=None, max_examples=30)
@given(publications(), st.sampled_from(["newest", "quality"]))
def test_fused_days_come_from_somewhere_by_the_rule(sources, rule):
    fused, report = fuse(sources, rule=rule, resolution="daily")
    ordered = sorted(sources, key=lambda source: source[:2])
    assert (np.diff(fused.time.values) == DAY).all()
    for name in (name for name in fused.data_vars if not name.endswith("_QUALITY")):
        offered = [
            (source[name].reindex(time=fused.time).values, source[f"{name}_QUALITY"].reindex(time=fused.time).values)
            if name in source
            else (np.full(fused.sizes["time"], np.nan),) * 2
            for _, _, source in ordered
        ]
        for t, value in enumerate(fused[name].values):
            held = [(v[t], q[t]) for v, q in offered if np.isfinite(v[t])]
            if name in CARBON_UNIT:
                assert np.isnan(value) or value in [v for v, _ in held]
                continue
            if not held:
                assert np.isnan(value)
                continue
            best = max(held, key=lambda pair: -1 if np.isnan(pair[1]) else pair[1]) if rule == "quality" else held[0]
            assert value == best[0]
            np.testing.assert_array_equal(fused[f"{name}_QUALITY"].values[t], best[1])
        given_days = sum(part["days"] for part in report[name].values())
        assert given_days == np.isfinite(fused[name].values).sum()
    unit = [fused[name].values for name in CARBON_UNIT if name in fused]
    for t in range(fused.sizes["time"]):
        assert len({int(values[t] // 1000) for values in unit if np.isfinite(values[t])}) <= 1
    for turned in itertools.islice(itertools.permutations(sources), 3):
        assert fuse(list(turned), rule=rule, resolution="daily")[0].identical(fused)


# ---- every publisher


@pytest.mark.parametrize("form", ["zip", "folder", "gzip"])
@pytest.mark.parametrize("network", sorted(PUBLISHERS))
def test_every_publisher_s_archive_becomes_days(tmp_path, network, form):
    """From its daily table or its half-hours, packed or not: means of all half-hours of the local day."""
    truth = simulate_record(PLACE, "2014-03-01", days=20)
    write_archive(tmp_path, network, truth, place=PLACE, form=form)
    write_bif(tmp_path, [PLACE])
    tower = read(tmp_path, predictors=("TA", "TA_RANGE"), targets=("NEE", "GPP_NT", "RECO_NT", "FCH4"))
    assert tower.networks == (network,) and not tower.unread
    np.testing.assert_array_equal(tower.time, np.datetime64("2014-03-01") + np.arange(20) * DAY)
    means = {name: truth.columns[name].reshape(20, 48).mean(1) for name in ("TA_F", "FCH4_F") if name in truth.columns}
    np.testing.assert_allclose(column(tower, "TA"), means["TA_F"], atol=2e-3)
    hours = truth.columns["TA_F"].reshape(20, 24, 2).mean(2)
    np.testing.assert_allclose(column(tower, "TA_RANGE"), np.ptp(hours, axis=1), atol=4e-3)
    if "FCH4" in tower.fluxes.names:
        np.testing.assert_allclose(column(tower, "FCH4"), means["FCH4_F"], atol=2e-3)
    if "NEE" in tower.fluxes.names:
        rest = column(tower, "NEE") - (column(tower, "RECO_NT") - column(tower, "GPP_NT"))
        assert np.isfinite(rest).any() and np.nanmax(np.abs(rest)) < 5e-3


def test_hours_with_reversed_flags_are_told_or_refused(shared_data, monkeypatch):
    """Of a real tower whose fills are smoother than what was measured."""
    archives = discover(shared_data / "towers" / "FLX_US-Wi7_FLUXNET2015_SUBSET_HH_2005-2005_1-4.zip").archives
    info = SiteInfo(site="US-Wi7", latitude=46.65, longitude=-91.07, elevation=335.0, igbp="OSH", utc_offset=-6)
    options = TowerOptions(predictors=("TA",), targets=("NEE",))
    assert not read_daily_tower(archives, info, replace(options, strict=True)).warnings

    plain = daily.read_archive

    def turned(*args, **kwargs):
        native = plain(*args, **kwargs)
        return native.assign({n: native[n].where(native[n] < 0, 3 - native[n]) for n in ("TA_QC", "NEE_QC")})

    monkeypatch.setattr(daily, "read_archive", turned)
    assert "flags of NEE look reversed" in " ".join(read_daily_tower(archives, info, options).warnings)
    with pytest.raises(SourceError, match=r"US-Wi7.*flags of NEE look reversed"):
        read_daily_tower(archives, info, replace(options, strict=True))


def test_an_archive_s_own_clock_and_place_hold_for_days(tmp_path):
    """JapanFlux2024 stamps UTC+9 whatever the metadata say of the site's other publications."""
    place = replace(PLACE, site="JP-Xyz", longitude=130.0, utc_offset=9.0)
    write_archive(tmp_path, "JapanFlux2024", simulate_record(place, "2014-06-01", days=60), place=place)
    found = discover(tmp_path, resolution="daily")
    info = SiteInfo(site="JP-Xyz", latitude=place.latitude, longitude=130.0, utc_offset=0.0, utc_offsets=((None, 0.0),))
    options = TowerOptions(predictors=("TA",), targets=("NEE",))
    own = read_daily_tower(found.archives, info, replace(options, strict=True))
    right = read_daily_tower(found.archives, replace(info, utc_offset=9.0, utc_offsets=((None, 9.0),)), options)
    np.testing.assert_array_equal(own.time, right.time)
    np.testing.assert_array_equal(own.fluxes.values, right.fluxes.values)
    far = replace(info, elsewhere=(("other.csv", place.latitude + 1, 130.0),))
    assert any("km from" in text for text in read_daily_tower(found.archives, far, options).warnings)
    with pytest.raises(SourceError, match="km from"):
        read_daily_tower(found.archives, far, replace(options, strict=True))


def test_hours_of_a_wrong_clock_are_told_or_refused(tmp_path):
    """Stamps of UTC+5.5 read as UTC+0: days would be cut at the wrong hour."""
    write_archive(tmp_path, "FLUXNET2015", simulate_record(PLACE, "2014-01-01", days=120), place=PLACE)
    for path in tmp_path.iterdir():
        _keep(path, "_HH_")
    write_bif(tmp_path, [replace(PLACE, utc_offset=0.0)])
    tower = read(tmp_path)
    assert tower.sun_lag["FLUXNET2015"] == pytest.approx(5.5, abs=0.4)
    assert any("the sun" in warning for warning in tower.warnings)
    with pytest.raises(SourceError, match="the sun"):
        read(tmp_path, strict=True)
