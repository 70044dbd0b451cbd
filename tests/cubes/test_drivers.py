"""Test drivers from another source than the tower: read, aligned to the tower's record, used, and recorded."""

from __future__ import annotations

import dataclasses
import gzip
import json
import logging

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from daily_cubes import daily_cube

import fluxcube as fc
from fluxcube.cubes.driver_choice import sites_without_drivers
from fluxcube.cubes.driver_comparison import doubts
from fluxcube.errors import ConfigError, SchemaError, SourceError, SplitError, StoreError, UnknownNameError
from fluxcube.samples.splits import Split
from fluxcube.simulation.example import example_cube, example_forcing
from fluxcube.variables import declare, forget

HOUR, DAY = np.timedelta64(1, "h"), np.timedelta64(1, "D")
SITE = "XX-S00"


@pytest.fixture(scope="module")
def days():
    return daily_cube(sites=6, days=40)


@pytest.fixture(scope="module")
def hours():
    cube = example_cube(sites=2, days=6)
    return cube.assign_coords(utc_offset=("site", [1.0, -5.5]))


def tidy(cube, sites, shift=2.0, names=("TA", "SW_IN", "VPD")):
    """A table of the towers' own predictors, warmer by `shift`."""
    part = cube.predictors.sel(site=list(sites), variable=list(names))
    frames = []
    for site in sites:
        frame = part.sel(site=site).to_pandas()[list(names)].rename(columns=lambda name: f"{name}_ERA")
        frames.append(frame.assign(site=site, TA_ERA=frame.TA_ERA + shift).reset_index(names="date"))
    return pd.concat(frames, ignore_index=True)


def era_file(folder, site, start, steps, minutes=30, **columns):
    """A half-hourly ERAI file in local standard time, gzipped."""
    begin = pd.Timestamp(start) + pd.to_timedelta(np.arange(steps) * minutes, "min")
    frame = pd.DataFrame(
        {
            "TIMESTAMP_START": begin.strftime("%Y%m%d%H%M"),
            "TIMESTAMP_END": (begin + pd.Timedelta(minutes, "min")).strftime("%Y%m%d%H%M"),
            **columns,
        }
    )
    path = folder / f"FLX_{site}_FLUXNET2015_ERAI_HH_1989-2014_1-4.csv.gz"
    path.write_bytes(gzip.compress(frame.to_csv(index=False).encode(), mtime=0))
    return path


# ---- daily tables


def test_drivers_of_a_table_lie_at_their_site_and_date_and_others_are_missing(days, caplog):
    sites = ["XX-D03", "XX-D01"]
    table = tidy(days, sites).iloc[::-1]
    with caplog.at_level(logging.INFO):
        cube = fc.add_drivers(days, table)
    array = cube.predictors_era5
    assert array.attrs["variables"] == "TA SW_IN VPD" and array.attrs["sites"] == "XX-D01 XX-D03"
    assert "4 of 6 towers have none: XX-D00, XX-D02, XX-D04, XX-D05" in caplog.text
    assert "TA_RANGE, LW_IN" in caplog.text and "SW_IN_POT" not in caplog.text
    expected = days.predictors.sel(site=sites[::-1], variable="TA") + 2
    np.testing.assert_allclose(array.sel(site=sites[::-1], variable="TA"), expected, atol=1e-4)
    assert array.sel(variable="TA_RANGE").isnull().all() and array.sel(site="XX-D00").isnull().all()
    xr.testing.assert_identical(cube.drop_vars("predictors_era5"), days)


def test_used_drivers_replace_predictors_and_their_quality_and_say_so(days):
    cube = fc.add_drivers(days, tidy(days, ["XX-D01"]))
    used = fc.use_drivers(cube, "era5")
    assert used.attrs["drivers"] == "era5" and "predictors_era5" not in used
    assert used.attrs["drivers_missing"].split()[:2] == ["TA_RANGE", "LW_IN"]
    assert sites_without_drivers(used) == ("XX-D00", "XX-D02", "XX-D03", "XX-D04", "XX-D05")
    one = used.sel(site="XX-D01")
    np.testing.assert_allclose(one.predictors.sel(variable="TA"), days.predictors.sel(site="XX-D01", variable="TA") + 2)
    np.testing.assert_array_equal(used.predictors.sel(variable="SW_IN_POT"), days.predictors.sel(variable="SW_IN_POT"))
    assert (one.predictors_quality.sel(variable="TA") == 1).all()
    assert one.predictors_quality.sel(variable="TA_RANGE").isnull().all()
    assert used.predictors.dtype == used.predictors_quality.dtype == np.float32
    assert used.predictors.dims == days.predictors.dims
    assert fc.use_drivers(cube, "tower") is cube and fc.use_drivers(used, "era5") is used
    with pytest.raises(ConfigError, match="open the cube again"):
        fc.use_drivers(used, "tower")
    with pytest.raises(UnknownNameError, match="era5"):
        fc.use_drivers(cube, "era")


def test_lazy_and_loaded_cubes_have_the_same_drivers(days):
    table = tidy(days, ["XX-D01", "XX-D02"])
    lazy = fc.add_drivers(days.chunk(site=1, time=20), table)
    assert lazy.predictors_era5.chunks == days.chunk(site=1, time=20).predictors.chunks
    loaded = fc.add_drivers(days, table)
    xr.testing.assert_identical(fc.use_drivers(lazy, "era5").compute(), fc.use_drivers(loaded, "era5"))


def test_drivers_are_cut_to_the_record_of_the_tower(days):
    stop = days.time_stop.copy()
    stop[1] = days.time.values[10]
    short = days.assign_coords(time_stop=stop)
    cube = fc.add_drivers(short, tidy(days, ["XX-D01"]))
    known = cube.predictors_era5.sel(site="XX-D01", variable="TA").notnull().values
    assert known[:10].all() and not known[10:].any()
    early = tidy(days, ["XX-D01"])
    early["date"] = early["date"] - pd.Timedelta(400, "D")
    with pytest.raises(ConfigError, match="have no value in the time of their record"):
        fc.add_drivers(days, early)


@pytest.mark.parametrize(
    "dates",
    [
        lambda d: d.strftime("%Y-%m-%d"),
        lambda d: d.strftime("%Y%m%d").astype(int),
        lambda d: d.strftime("%Y%m%d"),
        lambda d: d.tz_localize("UTC"),
    ],
)
def test_dates_may_be_written_in_several_ways(days, dates, tmp_path):
    table = tidy(days, ["XX-D01"])
    table["date"] = dates(pd.DatetimeIndex(table["date"]))
    table.to_csv(tmp_path / "era.csv", index=False)
    for source in (table, tmp_path / "era.csv", tmp_path):
        cube = fc.add_drivers(days, source)
        assert int(cube.predictors_era5.sel(site="XX-D01", variable="TA").notnull().sum()) == 40


def test_datasets_are_converted_and_missing_values_and_impossible_ones_are_missing(days):
    ta = days.predictors.sel(variable="TA", drop=True)
    vpd = days.predictors.sel(variable="VPD", drop=True)
    source = xr.Dataset(
        {
            "TA": (ta + 273.15).assign_attrs(units="K"),
            "VPD_ERA5": (vpd * 100).assign_attrs(units="Pa"),
            "PA_ERA": ta * 0 + 95,
        }
    )
    source["PA_ERA"][0, 0], source["PA_ERA"][0, 1] = -9999.0, 500.0
    cube = fc.add_drivers(days, source, name="merra2")
    array = cube.predictors_merra2
    np.testing.assert_allclose(array.sel(variable="TA"), ta, atol=1e-4)
    np.testing.assert_allclose(array.sel(variable="VPD"), vpd, rtol=1e-5)
    assert array.sel(variable="PA").isnull().values[0, :3].tolist() == [True, True, False]
    assert doubts(fc.compare_drivers(cube, "merra2")) == []


def test_another_cube_can_be_the_source(days):
    other = days.assign(predictors=days.predictors + 1)
    cube = fc.add_drivers(days, other)
    used = fc.use_drivers(cube, "era5")
    np.testing.assert_allclose(used.predictors.sel(variable="TA"), days.predictors.sel(variable="TA") + 1, atol=1e-5)
    np.testing.assert_array_equal(used.predictors.sel(variable="DOY"), days.predictors.sel(variable="DOY"))


def test_several_sources_complement_each_other_and_the_first_comes_first(days):
    both = [tidy(days, ["XX-D01"]), tidy(days, ["XX-D01", "XX-D02"], shift=5.0)]
    array = fc.add_drivers(days, both).predictors_era5.sel(variable="TA")
    warmer = (array - days.predictors.sel(variable="TA")).mean("time")
    assert warmer.sel(site=["XX-D01", "XX-D02"]).values.round(3).tolist() == [2, 5]


def test_other_units_are_reported_and_good_ones_are_not(days, caplog):
    table = tidy(days, ["XX-D01", "XX-D02"])
    with caplog.at_level(logging.WARNING):
        fc.add_drivers(days, table)
    assert "units" not in caplog.text
    table["VPD_ERA"] /= 10  # kPa
    with caplog.at_level(logging.WARNING):
        fc.add_drivers(days, table)
    assert "the mean of VPD is 0.1 times the towers'" in caplog.text


def test_comparison_counts_and_averages_the_steps_that_both_have(days):
    table = tidy(days, ["XX-D01"]).iloc[5:]
    row = fc.compare_drivers(fc.add_drivers(days, table)).set_index("variable").loc["TA"]
    assert row.n == 35 and row.bias == pytest.approx(2, abs=1e-4) and row.r == pytest.approx(1)
    with pytest.raises(UnknownNameError):
        fc.compare_drivers(days)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda t: t.drop(columns="site"), SourceError, "the columns site, date"),
        (lambda t: t[["site", "date"]], SourceError, "drivers such as TA"),
        (lambda t: pd.concat([t, t.iloc[:1]]), SourceError, "more than once"),
        (lambda t: t.assign(date="03/04/2004"), SourceError, "day or the month"),
        (lambda t: t.assign(date="soon"), SourceError, "expected times"),
        (lambda t: t.assign(TA_ERA=t.TA_ERA + 273.15), SourceError, "TA must be in degC"),
        (lambda t: t.assign(TA_ERA=t.TA_ERA.astype(str).str.replace(".", ",")), SourceError, "no numbers"),
        (lambda t: t.assign(site="YY-Abc"), ConfigError, "names of the sites"),
        (lambda t: t.assign(TA_ERA=-9999.0, SW_IN_ERA=np.nan, VPD_ERA=-9999), ConfigError, "6 of 6 towers"),
    ],
)
def test_tables_that_cannot_be_used_are_refused_with_a_reason(days, change, error, words):
    with pytest.raises(error, match=words):
        fc.add_drivers(days, change(tidy(days, ["XX-D01"])))


def test_names_and_cubes_that_do_not_suit_are_refused(days, tmp_path):
    table = tidy(days, ["XX-D01"])
    for name in ("tower", "qc", "quality", "ERA5", "era-5", ""):
        with pytest.raises(ConfigError, match="small letters"):
            fc.add_drivers(days, table, name=name)
    cube = fc.add_drivers(days, table)
    with pytest.raises(ConfigError, match="already"):
        fc.add_drivers(cube, table)
    with pytest.raises(ConfigError, match="tower's own"):
        fc.add_drivers(fc.use_drivers(cube, "era5"), table, name="other")
    with pytest.raises(ConfigError, match="5 of 6"):
        fc.add_drivers(days, table, sites="all")
    with pytest.raises(SourceError, match="expected a file or folder"):
        fc.add_drivers(days, tmp_path / "nothing")
    with pytest.raises(SourceError, match="expected files of reanalysis"):
        fc.add_drivers(days, tmp_path)
    with pytest.raises(SchemaError):
        fc.add_drivers(example_forcing(days=2), table)


def test_a_path_is_opened_as_a_cube(days, tmp_path):
    path = str(tmp_path / "absent.zarr")
    for call in (
        lambda: fc.add_drivers(path, tidy(days, ["XX-D01"])),
        lambda: fc.use_drivers(path, "era5"),
        lambda: fc.compare_drivers(path),
    ):
        with pytest.raises(StoreError, match=r"absent\.zarr: no store there"):
            call()


# ---- hours, and clocks


def test_half_hours_in_local_time_become_utc_hours(hours, tmp_path):
    local = hours.time.values[0] + HOUR  # 01:00 at +1 is 00:00 UTC
    ta, rain = np.arange(96) / 2, np.full(96, 0.25)
    era_file(tmp_path, SITE, local, 96, TA_ERA=ta, P_ERA=rain, VPD_ERA=np.where(ta < 2, -9999, 3.0))
    cube = fc.add_drivers(hours, tmp_path)
    array = cube.predictors_era5.sel(site=SITE).isel(time=slice(0, 48))
    np.testing.assert_allclose(array.sel(variable="TA"), np.arange(48) + 0.25)
    np.testing.assert_allclose(array.sel(variable="P"), 0.5)
    assert array.sel(variable="VPD").isnull().values[:3].tolist() == [True, True, False]
    assert array.attrs["source"] == "ERAI of FLUXNET2015"
    used = fc.use_drivers(cube, "era5").sel(site=SITE)
    assert used.predictors_qc.sel(variable="VPD").values[:3].tolist() == [-1, -1, 0]
    assert used.predictors_qc.dtype == np.int8
    assert (used.predictors_qc.sel(variable="TOD") == hours.predictors_qc.sel(site=SITE, variable="TOD")).all()


def test_half_hours_that_straddle_utc_hours_keep_their_means(hours, tmp_path):
    era_file(tmp_path, "XX-S01", hours.time.values[0] - 5 * HOUR, 96, TA_ERA=np.full(96, 7.0))
    array = fc.add_drivers(hours, tmp_path).predictors_era5.sel(site="XX-S01", variable="TA")
    assert np.nanmax(array) == np.nanmin(array) == 7.0 and int(array.notnull().sum()) == 49


def test_half_hours_give_local_days_and_their_range(days, tmp_path):
    site, offset = "XX-D05", float(days.utc_offset.sel(site="XX-D05"))
    renamed = days.assign_coords(site=[f"XX-D{i:02d}" for i in range(6)])
    clock = np.tile(np.arange(48) / 2, 3)
    path = era_file(tmp_path, site, days.time.values[0], 144, TA_ERA=clock, P_ERA=np.full(144, 0.1))
    assert offset != 0
    array = fc.add_drivers(renamed, path).predictors_era5.sel(site=site).isel(time=slice(0, 4))
    np.testing.assert_allclose(array.sel(variable="TA")[:3], 11.75)
    np.testing.assert_allclose(array.sel(variable="TA_RANGE")[:3], 23.0)
    np.testing.assert_allclose(array.sel(variable="P")[:3], 4.8, rtol=1e-5)
    assert array.sel(variable="TA").isnull()[3]


def test_days_are_refused_for_an_hourly_cube(hours):
    table = pd.DataFrame({"site": SITE, "date": hours.time.values[::24], "TA": 5.0})
    with pytest.raises(SourceError, match="found days"):
        fc.add_drivers(hours, table)


def test_towers_have_the_cell_of_a_forcing_that_contains_them(hours, caplog):
    forcing = example_forcing(days=6).assign_coords(time=hours.time.values)
    lat, lon = forcing.latitude.values, forcing.longitude.values
    there = hours.assign_coords(latitude=("site", [lat[1] + 0.1, 10.0]), longitude=("site", [lon[2] - 0.1, 0.0]))
    with caplog.at_level(logging.WARNING):
        cube = fc.add_drivers(there.chunk(), forcing.chunk())
    expected = forcing.predictors.isel(latitude=1, longitude=2).sel(variable="TA")
    np.testing.assert_allclose(cube.predictors_era5.sel(site=SITE, variable="TA"), expected, atol=1e-4)
    assert "1 of 2 towers have none: XX-S01" in caplog.text
    assert "DOY" not in cube.predictors_era5.attrs["variables"]


def test_masks_and_own_predictors_work_with_drivers(hours):
    row = declare("SOILC", units="kg m-2", bounds=(0, 50), kind="hourly")
    try:
        table = pd.DataFrame({"site": SITE, "time": hours.time.values, "TA_ERA": 5.0})
        cube = fc.add_drivers(hours, table)
        values = pd.DataFrame({"site": SITE, "time": hours.time.values, "SOILC": 4.0})
        both = fc.use_drivers(fc.add_predictor(cube, row.name, values), "era5").sel(site=SITE)
        assert (both.predictors.sel(variable="SOILC") == 4).all() and (both.predictors.sel(variable="TA") == 5).all()
        after = fc.add_predictor(fc.use_drivers(cube, "era5"), row.name, values)
        assert (after.predictors.sel(site=SITE, variable="SOILC") == 4).all()
    finally:
        forget("SOILC")


def test_variables_of_other_drivers_have_names_of_their_own(days):
    cube = fc.add_drivers(days, tidy(days, ["XX-D01"]))
    out = cube.fluxcube.to_variables()
    assert out.TA_ERA5.attrs["units"] == "degC" and "TA_RANGE_ERA5" not in out
    np.testing.assert_array_equal(out.TA_ERA5, cube.predictors_era5.sel(variable="TA"))


def test_hourly_forcings_become_the_local_days_of_a_daily_cube(days):
    forcing = example_forcing(days=5).assign_coords(latitude=[61.0, 60.0, 59.0], longitude=[18.0, 19.0, 20.0, 21.0])
    first = forcing.time.values[0].astype("datetime64[D]")
    cube = days.isel(time=slice(0, 5))
    time = (first + np.arange(5)).astype("datetime64[ns]")
    cube = cube.assign_coords(time=time, time_start=("site", [time[0]] * 6), time_stop=("site", [time[-1] + DAY] * 6))
    array = fc.add_drivers(cube, forcing).predictors_era5.sel(site="XX-D05")
    assert float(cube.utc_offset.sel(site="XX-D05")) == 1
    hours = forcing.predictors.sel(variable="TA").isel(latitude=1, longitude=2).values
    np.testing.assert_allclose(array.sel(variable="TA")[1], hours[23:47].mean(), rtol=1e-4)
    assert float(array.sel(variable="TA_RANGE")[1]) == pytest.approx(np.ptp(hours[23:47]), rel=1e-4)


def test_a_broken_file_of_one_tower_costs_its_drivers_alone(hours, tmp_path, caplog):
    start = hours.time.values[0]
    era_file(tmp_path, SITE, start, 96, TA_ERA=np.full(96, 7.0))
    broken = era_file(tmp_path, "XX-S01", start, 96, TA_ERA=np.full(96, 7.0))
    broken.write_bytes(broken.read_bytes()[:-200])
    assert fc.add_drivers(hours, tmp_path).predictors_era5.attrs["sites"] == SITE
    assert broken.name in caplog.text
    with pytest.raises(SourceError, match="XX-S01"):
        fc.add_drivers(hours, tmp_path, sites="all")
    with pytest.raises(SourceError, match="XX-S01"):
        fc.add_drivers(hours, broken)


# ---- models


def test_fit_and_predict_use_and_record_the_drivers(days, tmp_path, caplog):
    cube = fc.add_drivers(days, tidy(days, list(days.site.values[:5]), shift=4.0))
    split = Split(kind="sites", train=("XX-D00", "XX-D01", "XX-D05"), val=("XX-D02",), test=("XX-D03", "XX-D04"))
    options = {"model": "sw-linear", "predictors": ["TA", "SW_IN", "VPD"], "split": split}
    with caplog.at_level(logging.WARNING):
        era = fc.fit(cube, out=tmp_path / "era", drivers="era5", **options)
    assert "1 training and validation towers have no drivers era5" in caplog.text
    own = fc.fit(cube, out=tmp_path / "own", **options)
    about = json.loads((era.path / "run.json").read_text())
    assert about["request"]["drivers"] == "era5" and about["cube"]["drivers"] == "era5"
    assert about["split"]["train"] == ["XX-D00", "XX-D01"]
    plain = json.loads((own.path / "run.json").read_text())
    assert "drivers" not in plain["request"] and "drivers" not in plain["cube"]
    with caplog.at_level(logging.INFO):
        other = fc.predict(era, cube, drivers="tower")
    assert other.attrs["drivers"] == "tower" and other.attrs["trained_drivers"] == "era5"
    assert "predicted with drivers tower; the model was trained on drivers era5" in caplog.text
    same = fc.predict(era, fc.use_drivers(cube, "era5"))
    assert same.attrs["drivers"] == same.attrs["trained_drivers"] == "era5" and "table" in same.attrs["drivers_source"]
    assert same.NEE.sel(site="XX-D05").isnull().all() and other.NEE.sel(site="XX-D05").notnull().any()
    assert "drivers" not in fc.predict(own, cube).attrs
    lacking = fc.add_drivers(days, tidy(days, list(days.site.values), names=("TA",)))
    mapped = fc.predict(own, lacking, drivers="era5")
    assert set(mapped.attrs["drivers_missing"].split(", ")) == {"SW_IN", "VPD"} and same.attrs["drivers_missing"] == ""
    assert "drivers era5 do not have them: " in caplog.text
    with pytest.raises(SplitError, match="no training site is left: they have no drivers era5"):
        fc.fit(
            cube,
            out=tmp_path / "none",
            drivers="era5",
            **options | {"split": dataclasses.replace(split, train=("XX-D05",))},
        )


# ---- real files


def test_real_daily_reanalysis_follows_the_towers(shared_data):
    names = sorted((shared_data / "daily").glob("FLX_*_ERAI_DD_*"))[:2]
    from fluxcube.sources.towers.reanalysis import find_reanalysis, read_reanalysis

    found = find_reanalysis(names)
    assert len(found) == 2
    for archives in found.values():
        record = read_reanalysis(archives[0], utc_offset=0)
        assert set(record.data_vars) >= {"TA", "SW_IN", "LW_IN", "VPD", "PA", "P", "WS"}
        assert record.sizes["time"] > 11000 and -30 < float(record.TA.mean()) < 20
