"""Appending: unchanged sites keep their files, and the result equals a build of all sites."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr
from processes import Fork
from tower_files import PLACES, columns, write_archive, write_places, write_raw

from fluxcube.catalog import open_carbonsense
from fluxcube.cubes import carbonsense
from fluxcube.cubes.append import append_site
from fluxcube.cubes.building import ReadSites, note_losses
from fluxcube.cubes.carbonsense import build_carbonsense
from fluxcube.cubes.layout import EPOCH
from fluxcube.cubes.report import open_report, read_report
from fluxcube.cubes.stamps import Kept
from fluxcube.errors import ConfigError, SourceError, StoreError
from fluxcube.sources.towers.discovery import discover
from fluxcube.sources.towers.readers import read_archive
from fluxcube.sources.towers.table import read_table
from fluxcube.stores import reading
from fluxcube.stores.lock import writer_lock
from fluxcube.variables import targets

DAYS = 6
HOUR = np.timedelta64(1, "h")


def files(path: Path) -> dict[str, bytes]:
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def shards(path: Path, site: str) -> dict[str, tuple[int, bytes]]:
    """Inode and bytes of a site's shards, by array."""
    at = open_store(path).site.values.tolist().index(site)
    arrays = [a for a in path.iterdir() if a.name.startswith(("predictors", "fluxes", "modis"))]
    found = [p for array in arrays for p in (array / "c" / str(at)).rglob("*") if p.is_file()]
    return {p.relative_to(path).as_posix().split("/c/")[0]: (p.stat().st_ino, p.read_bytes()) for p in found}


def open_store(path: Path) -> xr.Dataset:
    return reading.open_store(path, kind="cube")


@pytest.fixture(scope="module")
def templates(tmp_path_factory) -> Path:
    """A raw folder, a cube of two of its four sites (the first and the last but one by name), and a cube of all."""
    folder = tmp_path_factory.mktemp("templates")
    write_raw(folder / "raw", days=DAYS)
    build_carbonsense(folder / "raw", folder / "c.zarr", sites=["FJ-Ddd", "NP-Ccc"])
    build_carbonsense(folder / "raw", folder / "whole.zarr")
    return folder


@pytest.fixture
def raw(templates, tmp_path) -> Path:
    """A raw folder of the test's own."""
    return shutil.copytree(templates / "raw", tmp_path / "raw")


@pytest.fixture
def some(raw, templates, tmp_path) -> Path:
    """A cube of two sites, of the test's own."""
    return shutil.copytree(templates / "c.zarr", tmp_path / "c.zarr")


@pytest.fixture
def whole(templates) -> dict[str, bytes]:
    """The files of a cube of all four sites, built at once."""
    return files(templates / "whole.zarr")


def test_new_sites_join_and_the_others_keep_their_files(raw, some, whole):
    before = {site: shards(some, site) for site in ("FJ-Ddd", "NP-Ccc")}
    report = build_carbonsense(raw, some, append=True)
    assert report.sites == tuple(sorted(PLACES)) and report.unchanged == ("FJ-Ddd", "NP-Ccc")
    assert set(report.report["fusion"]) == {"US-Aaa", "IN-Bbb"}
    for site, held in before.items():
        assert held and shards(some, site) == held
    assert files(some) == whole


def test_where_links_cannot_be_made_files_are_copied(raw, some, whole, monkeypatch):
    link, refused = os.link, []

    def refuse(source: Path, target: Path) -> None:
        if "c.zarr/" not in f"{source}":  # zarr's own, within the new store
            return link(source, target)
        refused.append(source)
        raise OSError("no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    build_carbonsense(raw, some, append=True)
    monkeypatch.undo()
    assert refused
    assert files(some) == whole


def test_the_old_store_is_not_written_through_a_link(raw, some, tmp_path):
    """A hard link made by somebody else shows what the old files hold after the append."""
    shutil.copytree(some, tmp_path / "links", copy_function=os.link)
    before = files(tmp_path / "links")
    write_archive(raw, "NP-Ccc", columns(DAYS * 48, 9), start="2010-03-01T00:00")
    build_carbonsense(raw, some, append=True)
    assert files(tmp_path / "links") == before


def test_a_new_year_lengthens_the_axis_and_touches_no_other_site(raw, some, tmp_path):
    before, old = shards(some, "FJ-Ddd"), open_carbonsense(some).load()
    write_archive(
        raw,
        "NP-Ccc",
        columns(DAYS * 48, 9),
        start="2011-05-01T00:00",
        name="FLX_{site}_FLUXNET2015_FULLSET_{res}_2011-2011_1-4",
    )
    report = build_carbonsense(raw, some, append=True, sites=["NP-Ccc", "FJ-Ddd"])
    assert report.unchanged == ("FJ-Ddd",) and set(report.report["fusion"]) == {"NP-Ccc"}
    assert shards(some, "FJ-Ddd") == before
    new = open_carbonsense(some).load()
    assert new.sizes["time"] > 365 * 24 > old.sizes["time"]
    for site in old.site.values:
        one = old.sel(site=site, time=slice(old.time_start.sel(site=site), old.time_stop.sel(site=site) - HOUR))
        for name in ("predictors", "fluxes", "fluxes_qc"):
            np.testing.assert_array_equal(new[name].sel(site=site, time=one.time), one[name])
    assert new.fluxes.sel(site="NP-Ccc", time="2011-05").notnull().any()
    build_carbonsense(raw, tmp_path / "whole.zarr", sites=["NP-Ccc", "FJ-Ddd"])
    assert files(some) == files(tmp_path / "whole.zarr")


def test_nothing_new_changes_nothing_not_even_a_file(raw, some):
    before = {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in some.rglob("*")}
    for path in raw.iterdir():
        os.utime(path, (1, 1))  # a copy has another time, and is the same file
    report = build_carbonsense(raw, some, append=True, sites=["FJ-Ddd", "NP-Ccc"])
    assert report.unchanged == report.sites == ("FJ-Ddd", "NP-Ccc")
    assert {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in some.rglob("*")} == before


def test_a_cube_whose_every_site_changed_is_replaced(raw, tmp_path):
    store, longer = tmp_path / "one.zarr", columns(2 * DAYS * 48, 5)
    build_carbonsense(raw, store, sites="US-Aaa")
    write_archive(raw, "US-Aaa", longer)
    report = build_carbonsense(raw, store, sites="US-Aaa", append=True)
    assert report.sites == ("US-Aaa",) and report.unchanged == () and report.left_out == {}
    expected = tmp_path / "expected.zarr"
    build_carbonsense(raw, expected, sites="US-Aaa")
    assert files(store) == files(expected)


def test_hours_that_newer_files_lack_are_reported(raw, some):
    write_archive(raw, "FJ-Ddd", columns(DAYS * 12), step=60, start="2010-04-01T00:00")
    report = build_carbonsense(raw, some, sites=["FJ-Ddd", "NP-Ccc"], append=True)
    (warning,) = report.report["warnings"]["FJ-Ddd"]
    assert "pass the earlier files as well" in warning and not report.left_out
    assert warning in open_report(some, "notes").text.tolist()


def test_satellite_data_that_are_not_cut_again_are_reported():
    place = {"start": "2010-01-01T00", "stop": "2011-01-01T00"}
    before, now = {"place": place, "rasters": "digest"}, {"place": place, "warnings": ["known"]}
    kept = Kept(changed={"XX-One": before})
    for modis, count in ((None, 2), ("tiles", 1)):
        read = note_losses(SimpleNamespace(modis=modis, surface=(), drivers=False), kept, ReadSites({"XX-One": now}))
        assert len(read.documents["XX-One"]["warnings"]) == count
    assert now["warnings"] == ["known"]


def test_a_site_whose_new_file_cannot_be_read_stays_as_it_is(raw, some):
    before = {site: shards(some, site) for site in ("FJ-Ddd", "NP-Ccc")}
    bad = columns(DAYS * 24)
    bad |= {name: np.full(DAYS * 24, 7) for name in bad if name.endswith("_QC")}
    write_archive(raw, "FJ-Ddd", bad, step=60)
    report = build_carbonsense(raw, some, sites=["FJ-Ddd", "NP-Ccc"], append=True)
    assert report.sites == ("FJ-Ddd", "NP-Ccc")
    (reason,) = report.left_out.items()
    assert reason[0] == "FJ-Ddd: update" and "found '7'" in reason[1] and reason[1].endswith("the site stays as it is")
    assert {site: shards(some, site) for site in before} == before


def test_a_file_of_other_months_replaces_no_file_whose_years_are_unknown(raw, tmp_path):
    """An INTERIM table without the final one is no newer version of it."""
    store, icos = tmp_path / "icos.zarr", raw / "icos"
    name = "ICOSETC_US-Aaa_FLUXNET_HH{}_L2"
    write_archive(icos, "US-Aaa", columns(DAYS * 48), start="2015-01-01T00:00", name=name.format(""))
    write_places(icos, PLACES)
    build_carbonsense(icos, store)
    before = files(store)
    shutil.rmtree(icos)
    write_archive(icos, "US-Aaa", columns(DAYS * 48), start="2015-02-01T00:00", name=name.format("_INTERIM"))
    write_places(icos, PLACES)
    report = build_carbonsense(icos, store, append=True)
    assert report.sites == report.unchanged == ("US-Aaa",)
    assert "the site stays as it is" in report.left_out["US-Aaa: update"]
    assert files(store) == before


def test_another_place_is_a_change(raw, some):
    write_places(raw, PLACES | {"FJ-Ddd": (-18.0, 178.0, 12, "ENF")})
    report = build_carbonsense(raw, some, append=True, sites=["FJ-Ddd", "NP-Ccc"])
    assert report.unchanged == ("NP-Ccc",)
    assert open_carbonsense(some, sites="FJ-Ddd").igbp.item() == "ENF"


def test_a_folder_of_news_only_keeps_what_it_does_not_have(raw, some, tmp_path):
    for name in ("FJ-Ddd", "NP-Ccc", "IN-Bbb"):
        (path,) = raw.glob(f"*{name}*")
        path.unlink()
    build_carbonsense(raw, some, append=True)
    assert open_carbonsense(some).site.values.tolist() == ["FJ-Ddd", "NP-Ccc", "US-Aaa"]


def test_a_site_is_not_made_poorer_by_files_that_are_not_there(raw, some):
    """Half of what the site was made from is gone: reading the other half anew would lose its hours."""
    (old,) = raw.glob("*NP-Ccc*")
    old.unlink()
    write_archive(
        raw,
        "NP-Ccc",
        columns(DAYS * 48, 9),
        start="2011-05-01T00:00",
        name="FLX_{site}_FLUXNET2015_FULLSET_{res}_2011-2011_1-4",
    )
    before = shards(some, "NP-Ccc")
    report = build_carbonsense(raw, some, append=True)
    assert shards(some, "NP-Ccc") == before
    assert old.name in report.left_out["NP-Ccc: update"]
    write_archive(
        raw,
        "NP-Ccc",
        columns(DAYS * 48, 9),
        start="2010-05-01T00:00",
        name="FLX_{site}_FLUXNET2015_FULLSET_{res}_2010-2011_1-5",
    )
    report = build_carbonsense(raw, some, append=True)
    assert "NP-Ccc" not in report.unchanged and not report.left_out  # its years cover those of the old file


def test_a_compact_cube_has_the_same_decimals_and_grows_likewise(raw, some, tmp_path):
    build_carbonsense(raw, tmp_path / "small.zarr", compact=True, sites=["FJ-Ddd", "NP-Ccc"])
    small, plain = open_carbonsense(tmp_path / "small.zarr").load(), open_carbonsense(some).load()
    for name in plain.data_vars:
        np.testing.assert_allclose(small[name], plain[name], rtol=2**-22, atol=2e-5)
    one = slice(small.time_start.sel(site="FJ-Ddd"), small.time_stop.sel(site="FJ-Ddd") - HOUR)
    ta = small.predictors.sel(site="FJ-Ddd", variable="TA", time=one)  # hourly: to the last digit of its file
    source = columns(DAYS * 24, 3)["TA_F"]
    np.testing.assert_array_equal(ta, np.where(source == -9999, np.nan, source).astype(np.float32))
    build_carbonsense(raw, tmp_path / "small.zarr", compact=True, append=True)
    append_site(tmp_path / "small.zarr", native(raw, "US-Aaa"), overwrite=True)
    build_carbonsense(raw, tmp_path / "whole.zarr", compact=True)
    xr.testing.assert_identical(
        open_carbonsense(tmp_path / "small.zarr").load(), open_carbonsense(tmp_path / "whole.zarr").load()
    )


def test_append_refuses_other_options_and_other_stores(raw, some, tmp_path):
    for options in ({"clock": "standard"}, {"rule": "quality"}, {"variables": ["TA"]}, {"compact": True}):
        with pytest.raises(ConfigError, match="Append with the same options"):
            build_carbonsense(raw, some, append=True, **options)
    with pytest.raises(ConfigError, match="set only one of them"):
        build_carbonsense(raw, some, append=True, overwrite=True)
    build_carbonsense(raw, tmp_path / "none.zarr", append=True)  # nothing there: a build
    assert open_carbonsense(tmp_path / "none.zarr").sizes["site"] == 4


def test_what_was_left_out_is_tried_again_and_forgotten(raw, some):
    (path,) = raw.glob("*US-Aaa*")
    whole = path.read_bytes()
    path.write_bytes(whole[:2000])
    assert set(build_carbonsense(raw, some, append=True).left_out) == {"US-Aaa"}
    assert open_report(some, "left_out").name.tolist() == ["US-Aaa"]
    path.write_bytes(whole)
    assert not build_carbonsense(raw, some, append=True).left_out
    assert open_report(some, "left_out").empty and "US-Aaa" in open_carbonsense(some).site


def test_a_bad_new_site_leaves_the_store_as_it_was(raw, some):
    (path,) = raw.glob("*US-Aaa*")
    path.write_bytes(path.read_bytes()[:2000])
    before = files(some)
    with pytest.raises(SourceError):
        build_carbonsense(raw, some, append=True, strict=True)
    assert files(some) == before and sorted(os.listdir(some.parent)) == ["c.zarr", "raw"]


@pytest.mark.parametrize("moment", ["read", "write"])
def test_a_killed_append_costs_nothing(raw, some, moment):
    before = files(some)
    Fork(
        lambda output: build_carbonsense(raw, some, append=True, progress=lambda *step: print(step[2], file=output))
    ).kill_at(moment)
    assert files(some) == before
    assert open_carbonsense(some).sizes["site"] == 2
    build_carbonsense(raw, some, append=True)
    assert open_carbonsense(some).sizes["site"] == 4 and sorted(os.listdir(some.parent)) == ["c.zarr", "raw"]


def test_killed_between_two_renames_the_store_is_told_of_and_comes_back(raw, some):
    gone = Fork(lambda output: None)
    gone.wait()
    left = some.with_name(f".{some.name}.replaced-{gone.pid}")
    os.replace(some, left)
    with pytest.raises(StoreError, match=rf"left it as {left.name}"):
        open_carbonsense(some)
    build_carbonsense(raw, some, append=True)
    assert open_carbonsense(some).sizes["site"] == 4 and not left.exists()


def native(raw: Path, site: str) -> xr.Dataset:
    """A site's record as `read_table` gives one: values at their own step, the place in the attributes."""
    (archive,) = [a for a in discover(raw).archives if a.site == site]
    latitude, longitude, offset, igbp = PLACES[site]
    ds = read_archive(archive, utc_offset=offset)
    return ds.assign_attrs(latitude=latitude, longitude=longitude, utc_offset=offset, igbp=igbp)


def test_a_record_joins_as_the_same_site_does_from_its_archive(raw, some, tmp_path):
    before = shards(some, "NP-Ccc")
    append_site(some, native(raw, "IN-Bbb"))
    assert shards(some, "NP-Ccc") == before
    build_carbonsense(raw, tmp_path / "three.zarr", sites=["FJ-Ddd", "IN-Bbb", "NP-Ccc"])
    xr.testing.assert_identical(open_carbonsense(some).load(), open_carbonsense(tmp_path / "three.zarr").load())
    told = [open_report(path).query("site == 'IN-Bbb'") for path in (some, tmp_path / "three.zarr")]
    assert len(told[0]) and told[0].equals(told[1])


def test_a_site_is_replaced_only_when_asked(raw, some):
    ds = native(raw, "NP-Ccc")
    with pytest.raises(StoreError, match="has NP-Ccc already"):
        append_site(some, ds)
    append_site(some, ds.assign(TA=ds.TA + 1), overwrite=True)
    append_site(some, native(raw, "US-Aaa"))
    assert open_carbonsense(some).site.values.tolist() == ["FJ-Ddd", "NP-Ccc", "US-Aaa"]


def test_appending_never_loses_a_site_that_came_from_a_table(raw, some):
    append_site(some, native(raw, "IN-Bbb").assign_attrs(site="XX-Own"))
    build_carbonsense(raw, some, append=True)
    assert open_carbonsense(some).site.values.tolist() == [*sorted(PLACES), "XX-Own"]


def test_a_table_of_ones_own_joins_in_five_lines(some, tmp_path):
    rows = [f"2010-04-{1 + i // 24:02d} {i % 24:02d}:00,{i % 24 + 0.25},{i % 7 - 3.5}" for i in range(72)]
    (tmp_path / "own.csv").write_text("\n".join(["when,air,flux", *rows]) + "\n")
    ds = read_table(
        tmp_path / "own.csv",
        site="XX-Own",
        utc_offset=1,
        latitude=51.0,
        longitude=10.0,
        igbp="GRA",
        stamp="start",
        time="when",
        columns={"TA": "air", "NEE": "flux"},
        units={"TA": "degC", "NEE": "umol m-2 s-1"},
        citation="Me (2026),\n my tower",
        licence="CC0-1.0",
    )
    before = shards(some, "NP-Ccc")
    append_site(some, ds)
    assert shards(some, "NP-Ccc") == before
    one = open_carbonsense(some, sites="XX-Own").squeeze("site").load()
    assert one.sizes["time"] == 72 and one.igbp == "GRA" and one.time.values[0] == np.datetime64("2010-03-31T23")
    np.testing.assert_array_equal(one.predictors.sel(variable="TA"), [i % 24 + 0.25 for i in range(72)])
    np.testing.assert_array_equal(one.fluxes.sel(target="NEE"), [i % 7 - 3.5 for i in range(72)])
    assert one.predictors.sel(variable=["DOY", "TOD", "SW_IN_POT"]).notnull().all()
    cited = open_carbonsense(some).fluxcube.citations().set_index("site").loc["XX-Own"]
    assert (cited.network, cited.citation, cited.licence) == ("own", "Me (2026), my tower", "CC0-1.0")


def test_two_runs_do_not_append_to_one_store_at_once(raw, some):
    before = files(some)
    with writer_lock(some):
        with pytest.raises(StoreError, match=f"another run .process {os.getpid()} on .* is writing it"):
            append_site(some, native(raw, "IN-Bbb"))
        with pytest.raises(StoreError, match="is writing it"):
            build_carbonsense(raw, some, append=True)
    assert files(some) == before
    append_site(some, native(raw, "IN-Bbb"))
    assert sorted(os.listdir(some.parent)) == ["c.zarr", "raw"]


def test_a_record_that_lacks_its_place_is_refused(raw, some):
    before = files(some)
    ds = native(raw, "IN-Bbb")
    del ds.attrs["latitude"]
    with pytest.raises(SourceError, match="latitude"):
        append_site(some, ds)
    with pytest.raises(SourceError, match="step_minutes"):
        append_site(some, ds.drop_attrs())
    with pytest.raises(StoreError, match="only read"):
        append_site("https://x.org/cube.zarr", ds)
    with pytest.raises(StoreError, match="no store there"):
        append_site(some.with_name("d.zarr"), ds)
    assert files(some) == before


def test_what_is_older_than_the_axis_is_left_out_by_name(raw, tmp_path):
    write_archive(
        raw, "US-Aaa", columns(96), start="1979-12-31T00:00", name="FLX_{site}_FLUXNET2015_FULLSET_{res}_1979-1980_1-5"
    )
    report = build_carbonsense(raw, tmp_path / "c.zarr")
    assert f"from {EPOCH} on" in report.left_out["US-Aaa"] and len(report.sites) == 3


def test_the_axis_begins_at_the_epoch_and_users_see_no_empty_decade(raw, some):
    held = open_store(some)
    assert held.time.values[0] == EPOCH and held.time.values[-1] == held.time_stop.max() - np.timedelta64(1, "h")
    for site in ("FJ-Ddd", "NP-Ccc"):
        ds = open_carbonsense(some, sites=site)
        assert ds.time.values[0] == ds.time_start.values[0]
        assert ds.fluxes.isel(time=[0, -1]).notnull().any("target").all()


def test_the_report_of_every_site_is_kept(raw, some):
    build_carbonsense(raw, some, append=True)
    documents, _ = read_report(some)
    assert list(documents) == sorted(PLACES)
    ds, told = open_carbonsense(some).load(), open_report(some)
    for row in told.itertuples():
        stack, dim = ("fluxes", "target") if row.variable in ds.target else ("predictors", "variable")
        flags = ds[f"{stack}_qc"].sel({"site": row.site, dim: row.variable})
        held = np.bincount(flags.values[flags.values >= 0], minlength=4)
        assert [row.flag0, row.flag1, row.flag2, row.flag3] == held.tolist() and row.hours == held.sum()
        assert flags.time.values[flags.values >= 0][[0, -1]].tolist() == [row.first.value, row.last.value]
    shares = open_report(some, "quality")
    assert set(shares.site) == set(PLACES) and (shares["values"] > 0).all()
    archives = open_report(some, "archives")
    assert sorted(archives.site) == sorted(PLACES) and archives.digest.str.len().eq(64).all()


def test_chips_of_other_sites_stay_as_they_are(planet_files, cube_store, tmp_path):
    """A site more, with rasters at hand: one site's chips are cut, and they are those of a build of all."""
    whole = open_carbonsense(cube_store)
    first, second = (str(site) for site in whole.site.values[[1, 0]])
    modis = planet_files / "modis"
    build_carbonsense(planet_files / "towers", tmp_path / "c.zarr", modis=modis, sites=first)
    before = shards(tmp_path / "c.zarr", first)
    assert "modis" in before
    report = build_carbonsense(
        planet_files / "towers", tmp_path / "c.zarr", modis=modis, sites=[first, second], append=True
    )
    assert report.unchanged == (first,) and shards(tmp_path / "c.zarr", first) == before
    both = open_carbonsense(tmp_path / "c.zarr").load()
    held = whole.modis.sel(site=both.site, day=both.day).load()
    np.testing.assert_array_equal(both.modis, held)
    for site in (first, second):
        one = whole.modis.sel(site=site).load().dropna("day", how="all")
        np.testing.assert_array_equal(both.modis.sel(site=site, day=one.day), one)
    stamp = {p: p.stat().st_ino for p in (tmp_path / "c.zarr").rglob("*") if p.is_file()}
    build_carbonsense(planet_files / "towers", tmp_path / "c.zarr", modis=modis, sites=[first, second], append=True)
    assert {p: p.stat().st_ino for p in (tmp_path / "c.zarr").rglob("*") if p.is_file()} == stamp


def test_codes_in_the_fluxes_of_a_record_from_elsewhere_become_missing(raw, some):
    archive = discover(raw).archives[0]
    record = read_archive(archive, utc_offset=0).load()
    record.attrs |= {"site": "XX-New", "latitude": 40.0, "longitude": 0.0}
    nee = record.NEE.values
    nee[4:10] = -9999.9
    append_site(some, record)
    fluxes = open_store(some).fluxes.sel(site="XX-New", target="NEE")
    assert float(fluxes.min()) > -100
    notes = open_report(some, "notes")
    assert "-9999.9: 6" in " ".join(notes[notes.site == "XX-New"].text)


def test_a_cube_from_before_h_was_a_target_keeps_its_targets(templates, tmp_path, monkeypatch):
    """Files of its sites stay as they are, so that appended sites have the same targets."""
    raw, old = templates / "raw", tmp_path / "old.zarr"
    before = tuple(name for name in targets() if name != "H")
    with monkeypatch.context() as patch:
        patch.setattr(carbonsense, "targets", lambda resolution: before)
        build_carbonsense(raw, old, sites=["FJ-Ddd"])
    kept = shards(old, "FJ-Ddd")
    build_carbonsense(raw, old, append=True, sites=["FJ-Ddd", "NP-Ccc"])
    assert tuple(open_store(old).target.values) == before and shards(old, "FJ-Ddd") == kept
    new = open_carbonsense(templates / "c.zarr").fluxes.sel(target=list(before), site="NP-Ccc")
    xr.testing.assert_equal(open_carbonsense(old).fluxes.sel(site="NP-Ccc").load(), new.load())
