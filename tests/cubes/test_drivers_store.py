"""Test drivers of other sources in stores: found in archives, cut to records, kept, replaced, read and masked."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from tower_files import PLACES, stamps, write_raw
from typer.testing import CliRunner

import fluxcube as fc
from fluxcube.cli import app
from fluxcube.cubes.checks import sun_lag
from fluxcube.errors import ConfigError, SourceError, UnknownNameError
from fluxcube.samples.splits import Split
from fluxcube.simulation.archives import write_archive, write_bif
from fluxcube.simulation.records import Place, simulate_record
from fluxcube.sources.towers.discovery import discover
from fluxcube.sources.towers.readers import read_archive
from fluxcube.sources.towers.reanalysis import find_reanalysis, read_reanalysis

SITE = "IN-Bbb"
STEPS = 48 * 60
DRIVERS = ("tower", "era5")


def files(path: Path) -> dict[str, bytes]:
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def era_text(start, steps, step=30, **values):
    """Text of a table of reanalysis."""
    lines = [",".join(["TIMESTAMP_START", "TIMESTAMP_END", *values])]
    rows = zip(stamps(start, step, steps), zip(*values.values(), strict=True), strict=True)
    lines += [",".join([*ends, *(f"{v:.6g}" for v in row)]) for ends, row in rows]
    return "\n".join(lines) + "\n"


def add_era(raw, site, start, step=30, steps=STEPS, product="FLUXNET2015_ERAI"):
    """Add a table of reanalysis to the zip of a site; it begins before the record and ends after it."""
    path = next(raw.glob(f"*_{site}_*.zip"))
    res = "HH" if step == 30 else "HR"
    ta = np.arange(steps) * step / 60 % 24
    rain = np.full(steps, 0.2)
    with zipfile.ZipFile(path, "a") as archive:
        text = era_text(start, steps, step, TA_ERA=ta, P_ERA=rain)
        archive.writestr(f"FLX_{site}_{product}_{res}_1989-2014_1-4.csv", text)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    write_raw(folder)
    add_era(folder, SITE, "2010-01-20T00:00")
    add_era(folder, "FJ-Ddd", "2010-03-25T00:00", step=60)
    return folder


@pytest.fixture(scope="module")
def built(raw, tmp_path_factory):
    """A cube with drivers, and its report."""
    store = tmp_path_factory.mktemp("cube") / "cube.zarr"
    return fc.build_carbonsense(raw, store, drivers=True)


def test_a_build_finds_reanalysis_in_archives_and_cuts_it_to_the_records(built):
    ds = fc.open_carbonsense(built.store)
    array = ds.predictors_era5
    assert array.attrs["sites"] == f"FJ-Ddd {SITE}" and array.attrs["variables"] == "TA P"
    assert array.attrs["source"] == "ERAI of FLUXNET2015"
    for site in ds.site.values:
        one = ds.sel(site=site)
        known = one.predictors_era5.sel(variable="TA").notnull()
        inside = (one.time >= one.time_start) & (one.time < one.time_stop)
        assert bool((known == (inside if site in ("FJ-Ddd", SITE) else False)).all())
    assert array.sel(variable="SW_IN_POT").isnull().all()


def test_reanalysis_has_the_clock_of_the_tower(built):
    ds = fc.open_carbonsense(built.store, sites=SITE)
    local = pd.DatetimeIndex(ds.time.values) + pd.Timedelta(5.5, "h")
    hour = local.hour.to_numpy() + local.minute.to_numpy() / 60
    ta = ds.predictors_era5.sel(site=SITE, variable="TA").values
    np.testing.assert_allclose(ta[hour < 23], hour[hour < 23] + 0.25, atol=1e-4)  # mean of two half-hours
    np.testing.assert_allclose(ds.predictors_era5.sel(site=SITE, variable="P"), 0.4, atol=1e-6)


def test_opened_drivers_have_flags_that_no_mask_of_measurements_removes(built):
    plain = fc.open_carbonsense(built.store, sites=SITE)
    for options in ({}, {"max_qc": 0}, {"max_fill_days": 0.05}):
        ds = fc.open_carbonsense(built.store, sites=SITE, drivers="era5", **options)
        np.testing.assert_array_equal(ds.predictors.sel(variable="TA"), plain.predictors_era5.sel(variable="TA"))
        assert (ds.predictors_qc.sel(variable="TA") == 0).all()
        assert (ds.predictors_coverage.sel(variable="TA") == 1).all()
        assert ds.predictors.sel(variable="LE").isnull().all()
        np.testing.assert_array_equal(ds.predictors.sel(variable="TOD"), plain.predictors.sel(variable="TOD"))
    assert fc.open_carbonsense(built.store, drivers="era5").attrs["drivers_sites"] == f"FJ-Ddd {SITE}"
    scaled = fc.open_carbonsense(built.store, sites=SITE, normalized=True)
    same = fc.open_carbonsense(built.store, sites=SITE, normalized=True, drivers="era5")
    np.testing.assert_array_equal(scaled.predictors_era5.sel(variable="TA"), same.predictors.sel(variable="TA"))
    part = fc.open_carbonsense(built.store, sites=SITE, variables=["TA", "TOD"], time="2010-02-03", drivers="era5")
    assert part.predictors.shape == (1, 24, 2)
    with pytest.raises(UnknownNameError, match="add_drivers"):
        fc.open_carbonsense(built.store, drivers="era")


def test_a_cube_without_drivers_stays_as_it_was_byte_by_byte(raw, built, tmp_path):
    store = tmp_path / "plain.zarr"
    fc.build_carbonsense(raw, store)
    plain, with_drivers = files(store), files(built.store)
    arrays = [name for name in plain if "/c/" in name]
    assert arrays and all(plain[name] == with_drivers[name] for name in arrays)
    assert {name.split("/")[0] for name in with_drivers.keys() - plain.keys()} == {"predictors_era5"}
    assert "drivers" not in (store / "report" / SITE / "zarr.json").read_text()
    with pytest.raises(UnknownNameError):
        fc.open_carbonsense(store, drivers="era5")


def test_an_append_adds_drivers_keeps_them_and_reads_only_what_changed(raw, built, tmp_path):
    store = tmp_path / "cube.zarr"
    fc.build_carbonsense(raw, store)
    before = files(store)
    report = fc.build_carbonsense(raw, store, drivers=True, append=True)
    assert len(report.unchanged) == len(PLACES)
    xr.testing.assert_equal(fc.open_carbonsense(store).load(), fc.open_carbonsense(built.store).load())
    assert all(files(store)[name] == data for name, data in before.items() if "/c/" in name)
    inodes = {p: p.stat().st_mtime_ns for p in (store / "predictors_era5").rglob("*")}
    fc.build_carbonsense(raw, store, drivers=True, append=True)
    assert inodes == {p: p.stat().st_mtime_ns for p in (store / "predictors_era5").rglob("*")}
    fc.build_carbonsense(raw, store, append=True)
    assert "predictors_era5" in fc.open_carbonsense(store)


def test_drivers_can_be_added_to_a_store_and_replaced(raw, tmp_path):
    store = tmp_path / "cube.zarr"
    fc.build_carbonsense(raw, store)
    time = fc.open_carbonsense(store, sites=SITE).time.values
    table = pd.DataFrame({"site": SITE, "time": time, "VPD_ERA": 3.0})
    fc.add_drivers_to_store(store, table, name="merra2")
    ds = fc.open_carbonsense(store, sites=SITE, drivers="merra2")
    assert (ds.predictors.sel(variable="VPD") == 3).all() and ds.predictors.sel(variable="TA").isnull().all()
    fc.add_drivers_to_store(store, table.assign(VPD_ERA=4.0), name="merra2")
    fc.add_drivers_to_store(store, raw)
    both = fc.open_carbonsense(store)
    assert (both.predictors_merra2.sel(site=SITE, variable="VPD").dropna("time") == 4).all()
    assert both.predictors_era5.attrs["sites"] == f"FJ-Ddd {SITE}"
    notes = fc.open_report(store, "notes")
    assert notes.text.str.contains("drivers merra2: no value in the time of its record").sum() == len(PLACES) - 1


def test_drivers_of_a_site_are_reported_as_lost_where_its_new_files_have_none(raw, tmp_path, caplog):
    folder, store = tmp_path / "raw", tmp_path / "cube.zarr"
    write_raw(folder)
    add_era(folder, SITE, "2010-01-20T00:00")
    fc.build_carbonsense(folder, store, drivers=True)
    (old,) = folder.glob(f"*_{SITE}_*.zip")
    with zipfile.ZipFile(old, "a") as archive:
        archive.writestr("README.txt", "changed")
    fc.build_carbonsense(folder, store, append=True)
    assert f"{SITE}: its drivers era5 were not cut again" in caplog.text
    assert "predictors_era5" not in fc.open_carbonsense(store)


def test_daily_cubes_have_days_and_ranges_from_half_hours(raw, tmp_path):
    store = tmp_path / "days.zarr"
    fc.build_carbonsense(raw, store, resolution="daily", drivers={"era5": raw, "other": raw}, sites=[SITE])
    ds = fc.open_carbonsense(store)
    one = ds.sel(site=SITE)
    np.testing.assert_allclose(one.predictors_era5.sel(variable="TA"), 11.75, atol=1e-4)
    np.testing.assert_allclose(one.predictors_era5.sel(variable="TA_RANGE"), 23.0, atol=1e-4)
    np.testing.assert_allclose(one.predictors_other.sel(variable="P"), 9.6, atol=1e-4)


def test_requests_that_cannot_be_met_are_refused(raw, tmp_path):
    lone = tmp_path / "raw"
    write_raw(lone)
    with pytest.raises(SourceError, match="among the archives"):
        fc.build_carbonsense(lone, tmp_path / "a.zarr", drivers=True)
    with pytest.raises(ConfigError, match="small letters"):
        fc.build_carbonsense(lone, tmp_path / "a.zarr", drivers={"tower": raw})
    table = pd.DataFrame({"site": ["ZZ-Zzz"], "time": ["2010-01-01T01"], "TA": [1.0]})
    with pytest.raises(ConfigError, match="4 of 4 towers"):
        fc.build_carbonsense(lone, tmp_path / "a.zarr", drivers=table)
    assert not (tmp_path / "a.zarr").exists()


@pytest.mark.parametrize("compact", [False, True])
def test_a_site_that_is_appended_brings_its_own_drivers(raw, tmp_path, compact):
    store = tmp_path / "cube.zarr"
    fc.build_carbonsense(raw, store, sites=["FJ-Ddd", "NP-Ccc"], drivers=True, compact=compact)
    before = fc.open_carbonsense(store).sel(site="FJ-Ddd").predictors_era5.load()
    (archive,) = [a for a in discover(raw).archives if a.site == SITE]
    latitude, longitude, offset, igbp = PLACES[SITE]
    record = read_archive(archive, utc_offset=offset)
    record = record.assign_attrs(latitude=latitude, longitude=longitude, utc_offset=offset, igbp=igbp)
    fc.append_site(store, record, drivers=raw)
    ds = fc.open_carbonsense(store)
    assert ds.predictors_era5.attrs["sites"] == f"FJ-Ddd {SITE}"
    assert (
        ds.predictors_era5.sel(site=SITE, variable="TA").notnull().sum()
        == ds.predictors.sel(site=SITE, variable="TOD").notnull().sum()
    )
    np.testing.assert_array_equal(
        ds.sel(site="FJ-Ddd").predictors_era5.dropna("time", how="all"), before.dropna("time", how="all")
    )
    assert "drivers era5: 2 of 3 sites, TA P (ERAI of FLUXNET2015)" in fc.inspect(store)


def test_a_tower_whose_drivers_cannot_be_read_stays_and_the_report_says_why(raw, tmp_path):
    store = tmp_path / "cube.zarr"
    fc.build_carbonsense(raw, store, drivers=True, sites=["FJ-Ddd", SITE])
    good = fc.open_carbonsense(store).predictors_era5.load()
    text = era_text("2010-01-20T00:00", 96, TA_ERA=np.full(96, 3.0))
    rows = text.splitlines()
    broken = tmp_path / f"FLX_{SITE}_FLUXNET2015_ERAI_HH_1989-2014_1-4.csv"
    broken.write_text("\n".join([*rows[:9], rows[5], *rows[9:]]))
    both = [broken, *raw.glob("*_FJ-Ddd_*.zip")]
    report = fc.build_carbonsense(raw, tmp_path / "new.zarr", drivers=both, sites=["FJ-Ddd", SITE])
    (note,) = report.report["warnings"][SITE][-1:]
    assert note.startswith("drivers era5: cannot be read: ") and "line 10" in note and not report.left_out
    assert fc.open_carbonsense(tmp_path / "new.zarr").predictors_era5.attrs["sites"] == "FJ-Ddd"
    with pytest.raises(SourceError, match="line 10"):
        fc.build_carbonsense(raw, tmp_path / "strict.zarr", drivers=both, sites=["FJ-Ddd", SITE], strict=True)
    fc.add_drivers_to_store(store, both)
    after = fc.open_carbonsense(store).predictors_era5.load()
    np.testing.assert_array_equal(after, good)
    assert fc.open_report(store, "notes").text.str.contains("they stay as they are").any()


# ---- files


@pytest.mark.parametrize("form", ["zip", "gzip", "folder"])
@pytest.mark.parametrize(
    "network", ["FLUXNET2015", "AmeriFlux FLUXNET", "ICOS Warm Winter 2020", "JapanFlux2024", "FLUXNET Shuttle 2026"]
)
def test_reanalysis_of_every_publisher_has_the_clock_of_its_tower(tmp_path, network, form):
    offset, longitude = (9, 106.9) if network == "JapanFlux2024" else (-6, -90.0)
    place = Place(site="US-Zzz", latitude=40.0, longitude=longitude, elevation=231, igbp="CRO", utc_offset=offset)
    record = simulate_record(place, "2012-06-01", days=4, seed=1)
    write_archive(tmp_path / "raw", network, record, place=place, form=form)
    write_bif(tmp_path / "raw", [place])
    fc.build_carbonsense(tmp_path / "raw", tmp_path / "cube.zarr", drivers=True)
    ds = fc.open_carbonsense(tmp_path / "cube.zarr").sel(site="US-Zzz")
    whole = ds.predictors_coverage.sel(variable="TA") == 1  # the simulated reanalysis is warmer by half a degree
    difference = (ds.predictors_era5 - ds.predictors).sel(variable="TA").where(whole)
    assert int(difference.notnull().sum()) > 80
    np.testing.assert_allclose(difference.dropna("time"), 0.5, atol=2e-3)


def test_the_newest_publication_and_version_of_a_site_come_first(tmp_path):
    names = [
        "FLX_DE-Tha_FLUXNET2015_ERAI_HH_1989-2014_1-3.csv",
        "FLX_DE-Tha_FLUXNET2015_ERAI_HH_1989-2014_1-4.csv.gz",
        "FLX_DE-Tha_FLUXNET2015_ERAI_HH_1989-2020_beta-3.csv",
        "ICOS_DE-Tha_FLUXNET_ERA5_HH_1981-2025_v1.3_r1.csv",
        "FLX_DE-Tha_FLUXNET2015_ERAI_MM_1989-2014_1-4.csv",
        "FLX_DE-Tha_FLUXNET2015_FULLSET_HH_1996-2014_1-4.csv",
        "FLX_JP-Tak_JapanFLUX2024_ERA5_HH_1990-2024_1-3.csv",
    ]
    for name in names:
        (tmp_path / name).write_text("")
    found = find_reanalysis([tmp_path])
    assert [archive.path.name for archive in found["DE-Tha"]] == [names[i] for i in (3, 2, 1, 0)]
    assert list(found) == ["DE-Tha", "JP-Tak"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("TIMESTAMP,TA_ERA\n20100101,3\n20100101,4\n", "twice"),
        ("TIMESTAMP,TA_F\n20100101,3\n", "variables of a reanalysis"),
        ("TIMESTAMP_START,TIMESTAMP_END,TA_ERA\n201001010000,201001010030,1\n", "expected a column TIMESTAMP"),
        ("TIMESTAMP,TA_ERA\n20101301,3\n", "expected a date"),
        ("TIMESTAMP,TA_ERA\n20100101,x\n", "x"),
    ],
)
def test_faults_of_daily_files_are_named(tmp_path, text, words):
    path = tmp_path / "FLX_DE-Tha_FLUXNET2015_ERAI_DD_1989-2014_1-4.csv"
    path.write_text(text)
    (archives,) = find_reanalysis([path]).values()
    with pytest.raises(SourceError, match=words):
        read_reanalysis(archives[0], utc_offset=0)


# ---- real files


def test_real_hours_of_a_tower_and_of_its_reanalysis_change_together(shared_data, tmp_path):
    (tmp_path / "sites.csv").write_text(
        "SITE_ID,LOCATION_LAT,LOCATION_LONG,UTC_OFFSET,IGBP\nUS-Wi7,46.649,-91.069,-6,OSH\n"
    )
    (archive,) = (shared_data / "towers").glob("FLX_US-Wi7_*.zip")
    shutil.copy(archive, tmp_path)
    shutil.copy(next((shared_data / "era5").glob("*US-Wi7*ERAI_HH*")), tmp_path)
    fc.build_carbonsense(tmp_path, tmp_path / "cube.zarr", drivers=True)
    ds = fc.open_carbonsense(tmp_path / "cube.zarr").sel(site="US-Wi7")
    known = (ds.predictors_qc.sel(variable="SW_IN") == 0) & ds.predictors_era5.sel(variable="SW_IN").notnull()
    tower, other = (ds[name].sel(variable="SW_IN").where(known).values for name in ("predictors", "predictors_era5"))
    shifted = {lag: pd.Series(tower).corr(pd.Series(np.roll(other, lag))) for lag in (-2, -1, 0, 1, 2)}
    assert max(shifted, key=shifted.get) == 0 and shifted[0] > 0.8, shifted


def test_real_half_hours_follow_the_sun_and_the_tower(shared_data):
    (archive,) = find_reanalysis([shared_data / "era5"])["US-Wi7"]
    record = read_reanalysis(archive, utc_offset=-6)
    assert record.attrs["step_minutes"] == 30 and record.PA.mean() < 105
    lag = sun_lag(record, 46.649, -91.069)
    assert lag is not None and abs(lag.hours) < 1.0


def test_the_command_line_builds_trains_and_evaluates_with_drivers(raw, tmp_path):
    def run(*words):
        return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)

    store, split = tmp_path / "cube.zarr", tmp_path / "split.json"
    assert run("build", raw, store, "--drivers", raw).exit_code == 0
    Split(kind="sites", train=("FJ-Ddd", "US-Aaa"), val=(), test=(SITE,)).save(split)
    options = ("--model", "xgboost", "--predictors", "TA", "--set", "config.n_estimators=3", "--split", split)
    trained = run("train", store, tmp_path / "run", *options, "--drivers", "era5")
    assert trained.exit_code == 0, trained.output
    assert '"drivers": "era5"' in (tmp_path / "run/run.json").read_text()
    tables = {
        d: run("evaluate", tmp_path / "run", store, "--by", "all", "--draws", "0", "--drivers", d) for d in DRIVERS
    }
    assert all(result.exit_code == 0 for result in tables.values())
    assert tables["tower"].output != tables["era5"].output
