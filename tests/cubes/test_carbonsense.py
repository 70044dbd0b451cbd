"""Building a cube: values, flags and clocks as in the files, faults reported, and the store complete or absent."""

from __future__ import annotations

import json
import logging
import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from processes import Fork
from tower_files import PLACES, columns, write_archive, write_places, write_raw

from fluxcube.catalog import open_carbonsense
from fluxcube.cubes.carbonsense import build_carbonsense
from fluxcube.cubes.report import open_report
from fluxcube.errors import ConfigError, SchemaError, SourceError, StoreError, UnknownNameError
from fluxcube.schema import validate_cube
from fluxcube.solar import potential_radiation
from fluxcube.variables import predictors, targets

HOUR = np.timedelta64(1, "h")


def files(path: Path) -> dict[str, bytes]:
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def test_cube_is_what_the_schema_says(store):
    ds = validate_cube(open_carbonsense(store))
    assert list(ds.site.values) == sorted(PLACES)
    assert tuple(ds["variable"].values) == predictors() and tuple(ds.target.values) == targets()
    assert [ds[n].dtype for n in ("predictors", "predictors_qc", "predictors_coverage")] == ["f4", "i1", "f4"]
    assert ds.attrs["clock"] == "solar" and ds.attrs["Conventions"].startswith("CF-")
    for site, (latitude, longitude, offset, igbp) in PLACES.items():
        one = ds.sel(site=site)
        assert (one.latitude, one.longitude, one.utc_offset, one.igbp) == (latitude, longitude, offset, igbp)
        assert str(one.network.values) == "FLUXNET2015" and np.isnan(one.elevation)
    assert (ds.time_bnds.values[:, 1] - ds.time.values == HOUR).all() and (ds.time_bnds[:, 0] == ds.time).all()


def test_stamps_become_utc_and_nothing_is_moved_or_invented(store):
    ds = open_carbonsense(store).load()
    for i, (site, (*_, offset, _)) in enumerate(PLACES.items()):
        one = ds.sel(site=site)
        step = 60 if site == "FJ-Ddd" else 30
        first = np.datetime64(f"2010-0{i + 1}-01T00:00", "m") - np.timedelta64(int(offset * 60), "m")
        assert one.time_start.values == first.astype("datetime64[h]")
        # The last hour is one of which at least half was observed.
        last = (first + 20 * 1440 + 30).astype("datetime64[h]")
        assert one.time_stop.values == last
        outside = (one.time < one.time_start) | (one.time >= one.time_stop)
        assert outside.any()
        for stack in ("predictors", "fluxes"):
            empty = one[stack].isnull()
            assert empty[outside.values].all()
            assert ((one[f"{stack}_qc"] == -1) == empty).all()
            assert not one[f"{stack}_coverage"][outside.values].any()
        data = columns(20 * 1440 // step, i)
        rain = one.predictors.sel(variable="P")
        if offset % 1 == 0:
            assert float(rain.sum()) == pytest.approx(data["P_F"].sum(), rel=1e-6)
    hourly = ds.sel(site="FJ-Ddd", time=slice("2010-03-31T12", "2010-04-20T11"))
    data = columns(480, 3)
    np.testing.assert_array_equal(
        hourly.predictors.sel(variable="TA"), np.where(data["TA_F"] == -9999, np.nan, data["TA_F"]).astype("f4")
    )
    np.testing.assert_array_equal(hourly.fluxes_qc.sel(target="NEE"), data["NEE_VUT_REF_QC"])
    np.testing.assert_array_equal(hourly.fluxes_qc.sel(target="GPP_NT"), data["NEE_VUT_REF_QC"])


def test_half_hours_at_an_odd_offset_are_split(store):
    """NP-Ccc, UTC+5:45: the hour 18:15-19:15 UTC is local 00:00-01:00, so UTC 19:00 has 15, 30 and 15 minutes."""
    one = open_carbonsense(store, sites="NP-Ccc").squeeze("site").load()
    nee = columns(960, 2)["NEE_VUT_REF"]
    assert one.time_start.values == np.datetime64("2010-02-28T18")
    at = one.fluxes.sel(target="NEE", time="2010-02-28T19")
    assert float(at) == pytest.approx((15 * nee[1] + 30 * nee[2] + 15 * nee[3]) / 60, rel=1e-5)
    first = one.sel(time="2010-02-28T18")
    assert float(first.fluxes.sel(target="NEE")) == pytest.approx((30 * nee[0] + 15 * nee[1]) / 45, rel=1e-5)
    assert float(first.fluxes_coverage.sel(target="NEE")) == pytest.approx(0.75)
    assert np.isnan(first.predictors.sel(variable="P"))  # a sum needs all of its hour


def test_computed_predictors_are_there_for_every_hour_of_a_site(store):
    ds = open_carbonsense(store).load()
    for site, (latitude, longitude, *_) in PLACES.items():
        one = ds.sel(site=site)
        one = one.sel(time=slice(one.time_start, one.time_stop - HOUR))
        held = one.sel(variable=["DOY", "TOD", "SW_IN_POT"])
        assert (held.predictors_qc == 0).all() and (held.predictors_coverage == 1).all()
        light = potential_radiation(one.time.values, latitude, longitude)
        np.testing.assert_allclose(held.predictors.sel(variable="SW_IN_POT"), light, rtol=1e-5, atol=1e-3)
        local = one.time.values + np.timedelta64(round(longitude * 240), "s")
        tod = (local - local.astype("datetime64[D]")) / np.timedelta64(1, "h")
        np.testing.assert_allclose(held.predictors.sel(variable="TOD"), tod, atol=1e-4)
        # The sun stands highest near noon on the clock that models see.
        brightest = float(held.predictors.sel(variable="TOD")[int(light.argmax())])
        assert abs(brightest + 0.5 - 12) < 0.8


def test_standard_clock_is_the_towers_own(raw, tmp_path):
    build_carbonsense(raw, tmp_path / "c", clock="standard", sites=["IN-Bbb"])
    one = open_carbonsense(tmp_path / "c").squeeze("site")
    assert one.attrs["clock"] == "standard"
    tod = float(one.predictors.sel(variable="TOD", time="2010-02-01T00"))
    assert tod == pytest.approx(5.5)


def test_le_is_predictor_and_target_and_only_the_predictor_is_bounded(tmp_path, caplog):
    data = columns(960)
    data["LE_F_MDS"][:8] = 2000.0
    data["NEE_VUT_REF"][100:102] = -90.0
    write_archive(tmp_path / "raw", "US-Aaa", data)
    write_places(tmp_path / "raw", PLACES)
    with caplog.at_level(logging.WARNING):
        report = build_carbonsense(tmp_path / "raw", tmp_path / "c")
    assert report.report["out_of_bounds"] == {"US-Aaa": {"LE": 8}}  # half-hours
    assert "LE: 0.83 % of its values were out of bounds" in report.report["warnings"]["US-Aaa"][0]
    assert "US-Aaa: LE: 0.83 %" in caplog.text
    one = open_carbonsense(tmp_path / "c").squeeze("site").load()
    le, flux = one.predictors.sel(variable="LE"), one.fluxes.sel(target="LE")
    assert le[:4].isnull().all() and (one.predictors_qc.sel(variable="LE")[:4] == -1).all()
    assert (flux[:4] == 2000).all() and float(one.fluxes.sel(target="NEE").min()) == -90
    np.testing.assert_array_equal(le[4:], flux[4:])
    notes = open_report(tmp_path / "c", "notes")
    assert notes[notes.kind == "out_of_bounds"].text.tolist() == ["LE: 8 values became missing"]


def test_variables_choose_predictors_and_the_computed_stay(raw, tmp_path):
    build_carbonsense(raw, tmp_path / "c", variables=["TA", "LE"], sites="US-Aaa")
    ds = open_carbonsense(tmp_path / "c")
    assert ds["variable"].values.tolist() == ["DOY", "TOD", "TA", "LE", "SW_IN_POT"]
    assert tuple(ds.target.values) == targets() and ds.fluxes.sel(target="NEE").notnull().any()
    with pytest.raises(UnknownNameError, match="did you mean 'SW_IN'"):
        build_carbonsense(raw, tmp_path / "d", variables=["SW_INN"])
    with pytest.raises(UnknownNameError):
        build_carbonsense(raw, tmp_path / "d", variables=["NEE"])


def two_networks(folder: Path) -> tuple[dict, dict]:
    """US-Aaa in FLUXNET2015 (January to February) and, from February on, in the newer AmeriFlux product."""
    old, new = columns(59 * 48, 1), columns(59 * 48, 2)
    new["TA_F"][:48] = -9999
    write_archive(folder, "US-Aaa", old, start="2010-01-01T00:00")
    write_archive(
        folder, "US-Aaa", new, start="2010-02-01T00:00", name="AMF_{site}_FLUXNET_FULLSET_{res}_2010-2010_3-5"
    )
    write_places(folder, PLACES)
    return old, new


def test_two_networks_are_fused_and_reported(tmp_path):
    old, new = two_networks(tmp_path / "raw")
    report = build_carbonsense(tmp_path / "raw", tmp_path / "c")
    one = open_carbonsense(tmp_path / "c").squeeze("site").load()
    assert str(one.network.values) == "AmeriFlux FLUXNET;FLUXNET2015"
    ta, nee = one.predictors.sel(variable="TA"), one.fluxes.sel(target="NEE")

    def hourly(data, name, k):
        return data[name][2 * k : 2 * k + 2].mean()

    february = 31 * 24
    first = int((np.datetime64("2010-02-01T06") - one.time_start.values) / HOUR)
    assert first == february
    assert float(nee[february + 5]) == pytest.approx(hourly(new, "NEE_VUT_REF", 5), abs=1e-4)
    assert float(nee[february - 5]) == pytest.approx(hourly(old, "NEE_VUT_REF", february - 5), abs=1e-4)
    k = next(k for k in range(24) if (old["TA_F"][2 * (february + k) : 2 * (february + k) + 2] > -99).all())
    assert float(ta[february + k]) == pytest.approx(hourly(old, "TA_F", february + k), abs=1e-4)
    given = report.report["fusion"]["US-Aaa"]
    assert {name: sum(part["hours"] for part in parts.values()) for name, parts in given.items()} == {
        name: int(
            (one.fluxes if name in targets() else one.predictors)
            .sel({"target" if name in targets() else "variable": name})
            .notnull()
            .sum()
        )
        for name in given
    }
    assert given["NEE"]["FLUXNET2015"]["hours"] == february
    sources = json.loads(one.attrs["sources"])
    assert set(sources) == {"AmeriFlux FLUXNET", "FLUXNET2015"} and sources["FLUXNET2015"]["doi"].startswith("10.1038/")
    told = open_report(tmp_path / "c").set_index(["site", "variable", "source"])
    assert told.loc[("US-Aaa", "NEE", "FLUXNET2015"), "hours"] == february


def test_rule_quality_prefers_the_better_flag(tmp_path):
    two_networks(tmp_path / "raw")
    flags = {}
    for rule in ("newest", "quality"):
        build_carbonsense(tmp_path / "raw", tmp_path / rule, rule=rule)
        flags[rule] = open_carbonsense(tmp_path / rule).fluxes_qc.sel(target="NEE").values
    assert (flags["quality"] <= flags["newest"]).all() and (flags["quality"] < flags["newest"]).any()


def break_zip(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:2000])


@pytest.fixture
def bad_raw(tmp_path) -> Path:
    """Four good sites; a cut zip, one without coordinates, one with nothing but missing values, AmeriFlux BASE."""
    folder = write_raw(tmp_path / "raw", days=3)
    break_zip(write_archive(folder, "US-Cut", columns(96)))
    write_archive(folder, "US-Lst", columns(96))
    write_archive(folder, "US-Mis", {name: np.full(96, -9999) for name in columns(96)})
    write_archive(folder, "US-Bas", columns(96), name="AMF_{site}_BASE-BADM_2-5")
    write_places(folder, PLACES | dict.fromkeys(("US-Cut", "US-Mis", "US-Bas"), (1, 2, 0, "DBF")))
    return folder


def test_a_bad_site_is_left_out_with_its_reason(bad_raw, tmp_path):
    report = build_carbonsense(bad_raw, tmp_path / "c")
    assert report.sites == tuple(sorted(PLACES))
    assert set(report.left_out) == {"US-Cut", "US-Lst", "US-Mis", "US-Bas"}
    assert "BASE" in report.left_out["US-Bas"]
    assert "US-Cut" in report.left_out["US-Cut"] and "download it again" in report.left_out["US-Cut"]
    assert "LOCATION_LAT" in report.left_out["US-Lst"] and "no value" in report.left_out["US-Mis"]
    ds = open_carbonsense(tmp_path / "c")
    told = open_report(tmp_path / "c", "left_out").query("what == 'left_out'").set_index("name").why
    assert {name: why.replace(f"{bad_raw}/", "") for name, why in report.left_out.items()} == told.to_dict()
    assert tuple(ds.site.values) == report.sites


@pytest.mark.parametrize("site", ["US-Cut", "US-Lst", "US-Mis", "US-Bas"])
def test_strict_stops_and_leaves_nothing(bad_raw, tmp_path, site):
    with pytest.raises(SourceError, match=site):
        build_carbonsense(bad_raw, tmp_path / "c", strict=True, sites=["US-Aaa", site])
    assert sorted(os.listdir(tmp_path)) == ["raw"]


def test_an_error_of_all_sites_names_a_few(tmp_path):
    for number in range(5):
        write_archive(tmp_path / "raw", f"US-Aa{number}", columns(48))
    with pytest.raises(SourceError, match=r"^no site could be read: US-Aa0: .*; US-Aa2: .*; and 2 more$"):
        build_carbonsense(tmp_path / "raw", tmp_path / "c")


def test_no_site_left_is_an_error(bad_raw, tmp_path):
    with pytest.raises(SourceError, match=r"no site could be read.*US-Cut"):
        build_carbonsense(bad_raw, tmp_path / "c", sites="US-Cut")
    assert sorted(os.listdir(tmp_path)) == ["raw"]


def test_a_bad_file_beside_a_good_one_is_listed_and_the_site_kept(tmp_path):
    two_networks(tmp_path / "raw")
    (newer,) = (tmp_path / "raw").glob("AMF*.zip")
    newer.write_bytes(newer.read_bytes()[:-30000])
    report = build_carbonsense(tmp_path / "raw", tmp_path / "c")
    assert report.sites == ("US-Aaa",)
    assert list(report.left_out) == [f"US-Aaa: {newer.name}"]
    assert open_carbonsense(tmp_path / "c").network.values.tolist() == ["FLUXNET2015"]
    with pytest.raises(SourceError):
        build_carbonsense(tmp_path / "raw", tmp_path / "d", strict=True)


def test_a_missing_offset_is_taken_from_the_longitude_and_said(tmp_path, caplog):
    write_archive(tmp_path / "raw", "IN-Bbb", columns(480))
    write_places(tmp_path / "raw", {"IN-Bbb": (20.0, 80.0, "", "CRO")})
    report = build_carbonsense(tmp_path / "raw", tmp_path / "c")
    assert "longitude / 15" in report.report["warnings"]["IN-Bbb"][0] and "UTC_OFFSET" in caplog.text
    one = open_carbonsense(tmp_path / "c").squeeze("site")
    assert one.utc_offset == 5 and one.time_start.values == np.datetime64("2009-12-31T19")


def test_what_is_asked_for_must_be_there(raw, tmp_path):
    with pytest.raises(UnknownNameError, match="did you mean 'US-Aaa'"):
        build_carbonsense(raw, tmp_path / "c", sites=["US-Aab"])
    with pytest.raises(ConfigError, match="newest, quality"):
        build_carbonsense(raw, tmp_path / "c", rule="best")
    with pytest.raises(ConfigError, match="solar, standard"):
        build_carbonsense(raw, tmp_path / "c", clock="civil")
    with pytest.raises(SourceError, match="no such file or folder"):
        build_carbonsense(tmp_path / "nowhere", tmp_path / "c")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/data.csv").write_text("a,b\n1,2\n")
    with pytest.raises(SourceError, match=r"expected files such as FLX_US-MMS.*data\.csv"):
        build_carbonsense(tmp_path / "empty", tmp_path / "c")
    assert sorted(os.listdir(tmp_path)) == ["empty"]


def test_a_store_is_replaced_only_when_asked(raw, store, tmp_path):
    target = tmp_path / "c"
    shutil.copytree(store, target)
    before = files(target)
    with pytest.raises(StoreError, match="overwrite"):
        build_carbonsense(raw, target)
    with pytest.raises(UnknownNameError):
        build_carbonsense(raw, target, sites="XX-Xxx", overwrite=True)
    assert files(target) == before
    build_carbonsense(raw, target, sites="US-Aaa", overwrite=True)
    assert open_carbonsense(target).sizes["site"] == 1


def test_two_builds_give_the_same_bytes(raw, store, tmp_path):
    build_carbonsense(raw, tmp_path / "again")
    assert files(tmp_path / "again") == files(store)


def test_progress_reaches_its_end(raw, tmp_path):
    seen = []
    build_carbonsense(raw, tmp_path / "c", progress=lambda done, total, text: seen.append((done, total, text)))
    reads, writes = ([(d, t) for d, t, text in seen if text.startswith(verb)] for verb in ("read", "write"))
    assert reads == writes == [(i, 4) for i in range(1, 5)]


def test_files_hold_only_the_hours_that_a_site_has(tmp_path):
    """Twenty years apart: neither site has a file for the other's years."""
    write_archive(tmp_path / "raw", "US-Aaa", columns(96), start="1990-01-01T00:00")
    write_archive(tmp_path / "raw", "FJ-Ddd", columns(96), start="2012-01-01T00:00")
    write_places(tmp_path / "raw", PLACES)
    build_carbonsense(tmp_path / "raw", tmp_path / "c")
    ds = open_carbonsense(tmp_path / "c")
    assert ds.sizes["time"] > 20 * 8760
    for stack in ("predictors", "fluxes"):
        chunks = sorted(p.relative_to(tmp_path / "c").as_posix() for p in (tmp_path / "c" / stack).rglob("c/*/*/*"))
        assert chunks == [f"{stack}/c/0/0/0", f"{stack}/c/1/0/0"]
        for chunk in chunks:  # two months of a few days, and an index of 60 years
            assert (tmp_path / "c" / chunk).stat().st_size < 16 * 360 + 4 + 5000
    for site, start in (("US-Aaa", "1990-01-01T06"), ("FJ-Ddd", "2011-12-31T12")):
        assert ds.time_start.sel(site=site) == np.datetime64(start)
        held = ds.fluxes.sel(site=site, target="NEE").load()
        assert int(held.notnull().sum()) == 48 and held.dropna("time").time[0] == np.datetime64(start)


@pytest.mark.parametrize("moment", ["read", "write"])
def test_a_killed_build_leaves_no_store(raw, tmp_path, moment):
    Fork(
        lambda output: build_carbonsense(raw, tmp_path / "c", progress=lambda *step: print(step[2], file=output))
    ).kill_at(moment)
    assert not (tmp_path / "c").exists()
    (left,) = tmp_path.glob(".c.building-*")
    with pytest.raises(StoreError):
        open_carbonsense(left)
    build_carbonsense(raw, tmp_path / "c")
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_the_simulated_planet_with_chips(cube_store):
    ds = open_carbonsense(cube_store)
    assert ds.modis.dims == ("site", "day", "band", "y", "x") and ds.modis.dtype == "f4"
    chips = ds.modis.load()
    assert float(chips.min()) >= 0 and float(chips.max()) <= 1 and chips.isnull().any()
    assert (np.diff(ds.day.values) > np.timedelta64(0)).all()
    assert chips.notnull().any(["band", "y", "x"]).any("site").all()  # no day without any chip
    assert (chips.notnull().any(["day", "band", "y", "x"])).all()  # no site without any
    snow = chips.sel(band="snow").values
    assert set(np.unique(snow[np.isfinite(snow)])) <= {0.0, 1.0}


def test_chips_are_those_that_the_cutter_gives(cube_store, planet_files):
    from fluxcube.cubes.chips import build_chips

    (folder,) = [p for p in planet_files.rglob("modis") if p.is_dir()]
    ds = open_carbonsense(cube_store)
    cut = build_chips(folder, ds.latitude.values, ds.longitude.values).sel(day=ds.day)
    np.testing.assert_allclose(ds.modis, cut, atol=5.1e-5)


def test_chips_do_not_depend_on_how_many_sites_are_cut_at_once(cube_store, planet_files, tmp_path, monkeypatch):
    (folder,) = [p for p in planet_files.rglob("modis") if p.is_dir()]
    (raw,) = [p for p in planet_files.rglob("towers") if p.is_dir()]
    monkeypatch.setattr("fluxcube.cubes.satellite._BYTES", 1)
    build_carbonsense(raw, tmp_path / "c", modis=folder)
    assert files(tmp_path / "c") == files(cube_store)


def test_values_without_a_flag_and_repeated_hours_are_reported(tmp_path):
    data = columns(96)
    data["TA_F_QC"][:] = -9999
    write_archive(tmp_path / "raw", "US-Aaa", data)
    (tmp_path / "raw/AMF_AA-Net_BIF_20200101.csv").write_text(
        "SITE_ID,GROUP_ID,VARIABLE_GROUP,VARIABLE,DATAVALUE\n"
        "US-Aaa,1,GRP_LOCATION,LOCATION_LAT,40\nUS-Aaa,1,GRP_LOCATION,LOCATION_LONG,-90\n"
        "US-Aaa,2,GRP_UTC_OFFSET,UTC_OFFSET,-6\n"
        "US-Aaa,3,GRP_UTC_OFFSET,UTC_OFFSET,-5\nUS-Aaa,3,GRP_UTC_OFFSET,UTC_OFFSET_DATE_START,20100102\n"
    )
    report = build_carbonsense(tmp_path / "raw", tmp_path / "c").report
    assert report["flags_assumed"] == {"US-Aaa": {"TA": int((data["TA_F"] != -9999).sum())}}
    assert report["warnings"] == {"US-Aaa": ("FLUXNET2015: 2 rows left out where the clock was set back",)}


def test_chips_that_are_not_there_are_an_error(raw, planet_files, tmp_path):
    (folder,) = [p for p in planet_files.rglob("modis") if p.is_dir()]
    with pytest.raises(SourceError, match="no MCD43A4 raster from 2009-1"):
        build_carbonsense(raw, tmp_path / "c", modis=folder)
    assert not list(tmp_path.iterdir())


def test_real_towers(shared_data, tmp_path):
    """A site's cube agrees with its file, read the plain way; nothing but computed values is added."""
    import pandas as pd

    sites = ["AU-ASM", "US-Ne2", "CA-Qfo"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = build_carbonsense(shared_data / "towers", tmp_path / "c", sites=sites)
        ds = open_carbonsense(tmp_path / "c").load()
    assert report.sites == tuple(sorted(sites)) and not report.left_out
    for site, offset in (("US-Ne2", -6), ("AU-ASM", 9.5)):
        (path,) = (shared_data / "towers").glob(f"FLX_{site}_*.zip")
        frame = pd.read_csv(path, na_values=[-9999])
        start = pd.to_datetime(frame.TIMESTAMP_START.astype(str), format="%Y%m%d%H%M") - pd.Timedelta(hours=offset)
        hourly = frame.set_index(start)[["NEE_VUT_REF", "TA_F"]].resample("1h").mean()
        one = ds.sel(site=site)
        nee = one.fluxes.sel(target="NEE").to_series().reindex(hourly.index)
        np.testing.assert_allclose(nee, hourly.NEE_VUT_REF, atol=2e-5)
        ta = one.predictors.sel(variable="TA").to_series().reindex(hourly.index)
        np.testing.assert_allclose(ta, hourly.TA_F, atol=2e-5)
    held = ds.predictors.notnull().any(["site", "time"])
    assert ds["variable"].values[held].tolist() == ["DOY", "TOD", "TA", "SW_IN", "VPD", "SW_IN_POT"]
    balance = ds.fluxes.sel(target="NEE") - (ds.fluxes.sel(target="RECO_NT") - ds.fluxes.sel(target="GPP_NT"))
    assert float(np.abs(balance).max()) < 5e-3


def test_sunlight_and_clock_agree_at_real_towers(shared_data, tmp_path):
    """Measured light is highest when potential light is: no tower is shifted by more than half an hour."""
    build_carbonsense(shared_data / "towers", tmp_path / "c", sites=["AU-ASM", "US-Ne2", "BR-Sa3"])
    ds = open_carbonsense(tmp_path / "c", variables=["SW_IN", "SW_IN_POT", "TOD"]).load()
    for site in ds.site.values:
        one = ds.predictors.sel(site=site).dropna("time")
        measured, potential, tod = (one.sel(variable=v).values for v in ("SW_IN", "SW_IN_POT", "TOD"))
        centre = [float((w * (tod + 0.5)).sum() / w.sum()) for w in (measured, potential)]
        assert abs(centre[0] - centre[1]) < 0.5, site


def test_another_product_is_named_even_where_its_place_is_unknown(shared_data, tmp_path):
    with pytest.raises(SourceError, match="AmeriFlux BASE file, another product"):
        build_carbonsense(shared_data / "formats", tmp_path / "cube.zarr", sites="US-CRT")


def test_neither_the_order_of_files_nor_their_folder_shows_in_the_store(raw, tmp_path):
    """The same downloads, in one folder or several, named in any order: the same bytes."""
    parts = [tmp_path / name for name in ("z", "a/b")]
    for i, path in enumerate(sorted(raw.iterdir())):
        parts[i % 2].mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, parts[i % 2] / path.name)
    (parts[0] / "notes.csv").write_text("a file of no network\n")
    build_carbonsense(parts, tmp_path / "one.zarr")
    build_carbonsense(parts[::-1], tmp_path / "two.zarr")
    assert files(tmp_path / "one.zarr") == files(tmp_path / "two.zarr")
    assert not [name for name, data in files(tmp_path / "one.zarr").items() if str(tmp_path).encode() in data]
    assert open_report(tmp_path / "one.zarr", "left_out").name.tolist() == ["notes.csv"]


def test_variables_as_data_variables_and_back(store):
    ds = open_carbonsense(store).load()
    for array, dim in ((ds.predictors, "variable"), (ds.fluxes, "target"), (ds.predictors_qc, "variable")):
        plain = array.reset_coords(drop=True)
        xr.testing.assert_equal(plain.to_dataset(dim=dim).to_dataarray(dim), plain.transpose(dim, ...))


def test_whom_to_cite(store, raw, tmp_path):
    ds = open_carbonsense(store)
    every = ds.fluxcube.citations()
    assert every.site.tolist() == sorted(PLACES) and set(every.network) == {"FLUXNET2015"}
    assert every.doi.eq("10.1038/s41597-020-0534-3").all() and every.citation.str.startswith("Pastorello").all()
    assert every.licence.eq("CC-BY-4.0").all()
    for part in (ds.sel(site=["US-Aaa"]), ds.sel(site="US-Aaa"), ds.isel(time=slice(3)).sel(site=["US-Aaa"])):
        assert part.fluxcube.citations().to_dict("list") == every[every.site == "US-Aaa"].to_dict("list")
    with pytest.raises(SchemaError, match="citation"):
        ds.drop_vars("citation").fluxcube.citations()
    two_networks(tmp_path / "raw")
    build_carbonsense(tmp_path / "raw", tmp_path / "c")
    both = open_carbonsense(tmp_path / "c").fluxcube.citations()
    assert both.network.tolist() == ["AmeriFlux FLUXNET", "FLUXNET2015"] and both.citation.nunique() == 2


def test_a_shuttle_product_is_cited_by_its_own_citation(tmp_path):
    """As the Shuttle's snapshot has it; sites of other publications keep theirs."""
    name = "AMF_{site}_FLUXNET_FLUXMET_{res}_2010-2010_v1.3_r1"
    write_archive(tmp_path / "raw", "US-Aaa", columns(96), name=name)
    write_archive(tmp_path / "raw", "IN-Bbb", columns(96), start="2010-02-01T00:00")
    write_places(tmp_path / "raw", PLACES)
    (tmp_path / "raw/fluxnet_shuttle_snapshot_20260624.csv").write_text(
        "site_id,location_lat,location_long,product_citation,product_id\n"
        'US-Aaa,40.0,-90.0,"Somebody (2026), AmeriFlux FLUXNET-1F US-Aaa; (Dataset)",10.17190/AMF/1\n'
        'IN-Bbb,20.0,80.0,"Nobody (2026)",10.17190/AMF/2\n'
    )
    build_carbonsense(tmp_path / "raw", tmp_path / "c")
    cited = open_carbonsense(tmp_path / "c").fluxcube.citations().set_index("site")
    assert cited.citation["US-Aaa"] == "Somebody (2026), AmeriFlux FLUXNET-1F US-Aaa; (Dataset)"
    assert cited.doi["US-Aaa"] == "10.17190/AMF/1" and cited.network["US-Aaa"] == "FLUXNET Shuttle 2026"
    assert cited.citation["IN-Bbb"].startswith("Pastorello")


def test_a_daily_cube_has_local_days_and_grows_like_an_hourly_one(raw, tmp_path):
    build_carbonsense(raw, tmp_path / "d", resolution="daily", sites=["US-Aaa"])
    report = build_carbonsense(raw, tmp_path / "d", resolution="daily", append=True)
    assert report.unchanged == ("US-Aaa",) and len(report.sites) == 4
    build_carbonsense(raw, tmp_path / "whole", resolution="daily")
    assert files(tmp_path / "d") == files(tmp_path / "whole")
    ds = validate_cube(open_carbonsense(tmp_path / "d")).load()
    assert ds.attrs["resolution"] == "daily" and {"predictors_quality", "fluxes_quality"} <= set(ds.data_vars)
    for i, (site, (*_, offset, _)) in enumerate(PLACES.items()):
        one = ds.sel(site=site)
        assert one.time_start.values == np.datetime64(f"2010-0{i + 1}-01"), offset  # a date is the tower's own
        data = columns(20 * 1440 // (60 if site == "FJ-Ddd" else 30), i)
        rain = data["P_F"].reshape(20, -1).sum(1)
        held = one.predictors.sel(variable="P", time=slice(one.time_start, None)).values[:20]
        np.testing.assert_allclose(held[np.isfinite(held)], rain[np.isfinite(held)], rtol=1e-5)
        assert np.isfinite(held).sum() > 15
    with pytest.raises(ConfigError, match="resolution is 'daily'"):
        build_carbonsense(raw, tmp_path / "d", append=True)
    assert open_report(tmp_path / "d").hours.gt(0).all()


def test_a_daily_cube_has_clear_reflectance_of_its_own_time(tmp_path):
    """MOD09GA of three days: two within the tower's time and month before, one long after it."""
    pytest.importorskip("pyhdf.SD")
    from modis_files import daily, name_of, tile_of, write_hdf

    from fluxcube.cubes.chips import block_index
    from fluxcube.cubes.surface import build_surface

    latitude, longitude = 46.8153, 9.8559  # well inside its tile
    rows, cols = block_index(latitude, longitude, [750, 250, -250, -750], [-750, -250, 250, 750])
    corner = (int(rows.min()) - 8) // 2 * 2, (int(cols.min()) - 8) // 2 * 2
    raw = np.random.default_rng(0).integers(100, 6000, (7, 24, 24))
    (tmp_path / "modis").mkdir()
    for day in ("2009-12-20", "2010-01-01", "2010-06-01"):
        grids = daily(raw + int(day[-2:]), np.full((12, 12), 0b1000), corner)
        write_hdf(tmp_path / "modis" / name_of("MOD09GA", day, tile_of(corner)), grids)
    write_archive(tmp_path / "raw", "US-Aaa", columns(5 * 48))
    write_places(tmp_path / "raw", {"US-Aaa": (latitude, longitude, 1, "GRA")})
    build_carbonsense(tmp_path / "raw", tmp_path / "c", resolution="daily", modis=tmp_path / "modis")
    ds = validate_cube(open_carbonsense(tmp_path / "c")).load()
    assert ds.day.values.astype("datetime64[D]").astype(str).tolist() == ["2009-12-20", "2010-01-01"]
    expected = build_surface(tmp_path / "modis", np.array([latitude]), np.array([longitude])).sel(day=ds.day)
    np.testing.assert_array_equal(ds.surface, expected)
    assert ds.surface.dtype == np.float32 and ds.band.values.tolist() == expected.band.values.tolist()


def test_a_class_that_metadata_do_not_tell_is_that_of_the_land_cover(tmp_path):
    """A site without a class gets its pixel's, with a note; what metadata tell stays."""
    pytest.importorskip("rasterio")
    from modis_files import write_tiff

    from fluxcube.cubes.chips import block_index

    latitude, longitude = 46.8153, 9.8559
    rows, cols = block_index(latitude, longitude, [0], [0])
    (tmp_path / "cover").mkdir()
    corner = int(rows.min()) - 5, int(cols.min()) - 5
    write_tiff(tmp_path / "cover/MCD12Q1_2018_01_01.tif", np.full((1, 10, 10), 12, "uint8"), corner, names=["LC_Type1"])
    for i, site in enumerate(("CH-Aaa", "CH-Bbb")):
        write_archive(tmp_path / "raw", site, columns(96, i))
    write_places(tmp_path / "raw", {"CH-Aaa": (latitude, longitude, 1, ""), "CH-Bbb": (latitude, longitude, 1, "GRA")})
    build_carbonsense(tmp_path / "raw", tmp_path / "c", land_cover=tmp_path / "cover")
    assert open_carbonsense(tmp_path / "c").igbp.values.tolist() == ["CRO", "GRA"]
    notes = open_report(tmp_path / "c", "notes")
    assert [site for site, text in zip(notes.site, notes.text, strict=True) if "MCD12Q1" in text] == ["CH-Aaa"]
    build_carbonsense(tmp_path / "raw", tmp_path / "d")
    assert open_carbonsense(tmp_path / "d").igbp.values.tolist() == ["", "GRA"]
