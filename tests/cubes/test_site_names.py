"""A site's name never leaves the store's folder, and names from files never steer a terminal."""

from __future__ import annotations

import sqlite3

import numpy as np
import pytest
from tower_files import columns, write_archive, write_places

from fluxcube.cubes.append import append_site
from fluxcube.cubes.carbonsense import build_carbonsense
from fluxcube.cubes.report import open_report
from fluxcube.errors import ConfigError, SourceError, StoreError, printable
from fluxcube.sources.towers.badm import SiteInfo
from fluxcube.sources.towers.discovery import discover
from fluxcube.sources.towers.inspection import format_inspection, inspect_raw
from fluxcube.sources.towers.readers import read_archive
from fluxcube.sources.towers.table import read_table
from fluxcube.stores.building import spill, unspill

ESCAPE = "\x1b[31mX\x1b]0;TITLE\x07"
BAD = ("../../victim", "/tmp/victim", "a/b", "a\\b", "..", ".", "", "zarr.json", "x" * 33, ESCAPE, "XX-Abc\n", "XX Abc")


def write_v2(path, sites):
    """Write a CarbonSense V2 file with a day of each site."""
    stamps = np.datetime64("2018-06-01T00:00", "m") + np.arange(48) * np.timedelta64(30, "m")
    path.parent.mkdir(parents=True, exist_ok=True)
    with sqlite3.connect(path) as base:
        base.execute("CREATE TABLE ec_data (id INTEGER PRIMARY KEY, site TEXT, timestamp INTEGER, TA, NEE, DOY, TOD)")
        base.execute("CREATE TABLE site_data (site TEXT, lat REAL, lon REAL, elev REAL, igbp TEXT)")
        for site in sites:
            base.execute("INSERT INTO site_data VALUES (?, 50, 10, 100, 'GRA')", (site,))
            for i, time in enumerate(stamps):
                number = int(str(time).translate(str.maketrans("", "", "-T:")))
                base.execute(
                    "INSERT INTO ec_data (site, timestamp, TA, NEE, DOY, TOD) VALUES (?, ?, 10, 1, 151, ?)",
                    (site, number, i / 2),
                )
    base.close()
    return path


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Return a folder with a V2 file of one good site and many bad ones, and the report of its build."""
    folder = tmp_path_factory.mktemp("names") / "deep" / "deeper"
    raw = write_v2(folder / "raw" / "carbonsense_v2.sql", (*BAD, "XX-Abc")).parent
    (folder.parent / "victim.npz").write_text("precious")
    return folder, build_carbonsense(raw, folder / "cube.zarr")


def test_bad_names_are_left_out_with_the_reason_and_the_others_built(built):
    folder, report = built
    assert report.sites == ("XX-Abc",)
    assert len(report.left_out) == len(BAD)
    assert all("letters, digits, - and _" in why for why in report.left_out.values())
    assert any("33 characters" in why for why in report.left_out.values())
    assert (folder.parent / "victim.npz").read_text() == "precious"
    assert sorted(path.name for path in folder.iterdir()) == ["cube.zarr", "raw"]
    left_out = open_report(folder / "cube.zarr", "left_out")
    assert (left_out.what == "left_out").sum() == len(BAD)


def test_inspect_and_build_report_the_same_bad_names_without_control_characters(built):
    folder, report = built
    table = inspect_raw(folder / "raw")
    assert dict(zip(table[~table.used].path, table[~table.used].why, strict=True)) == report.left_out
    text = format_inspection(table) + repr(discover(folder / "raw")) + "".join(map(str, report.left_out.items()))
    assert "\x1b" not in text and "\x07" not in text and "\\x1b[31mX" in text


def test_strict_stops_at_a_bad_name(built):
    folder, _ = built
    with pytest.raises(SourceError, match="letters, digits"):
        build_carbonsense(folder / "raw", folder.parent / "strict.zarr", strict=True)


def test_file_names_with_control_characters_are_escaped(tmp_path):
    (tmp_path / f"FLX_{ESCAPE}_FLUXNET2015.zip").write_bytes(b"PK")
    (tmp_path / f"FLX_XX-One_FLUXNET2015_FULLSET_HH_2005-2006_1-4 ({ESCAPE}).csv").write_text("TIMESTAMP_START\n1\n")
    text = format_inspection(inspect_raw(tmp_path))
    assert "\x1b" not in text and text.count("\\x1b[31mX") >= 2
    assert "\x1b" not in "".join(map(str, discover(tmp_path).ignored))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain-Name_1.zip", "plain-Name_1.zip"),
        ("Zürich 東京\u3000塔.csv", "Zürich 東京\u3000塔.csv"),
        ("a\x1b[31mb", r"a\x1b[31mb"),
        ("a\u202eb", r"a\u202eb"),
        ("a\nb\tc\rd", "a\nb\\tc\\rd"),
        ("a\udc80b", r"a\udc80b"),
        ("a\x9bb\x7f", r"a\x9bb\x7f"),
    ],
)
def test_only_characters_that_can_steer_a_terminal_are_escaped(text, shown):
    assert printable(text, keep="\n") == shown
    assert shown.encode()  # can be printed


def test_the_report_names_no_folder_of_the_machine_whatever_its_name(tmp_path):
    raw = tmp_path / "raw\x1b[1m塔"
    write_places(raw, {"XX-New": (50.0, 10.0, 1, "GRA")})
    write_archive(raw, "XX-New", columns(96))
    (raw / "notes.csv").write_text("x")
    report = build_carbonsense(raw, tmp_path / "cube.zarr")
    assert open_report(report.store, "left_out").name.tolist() == ["notes.csv"]


@pytest.mark.parametrize("by", ["attribute", "info"])
def test_append_refuses_a_bad_name_and_changes_nothing(built, tmp_path, by):
    folder, _ = built
    write_places(tmp_path / "new", {"XX-New": (50.0, 10.0, 1, "GRA")})
    write_archive(tmp_path / "new", "XX-New", columns(96))
    record = read_archive(discover(tmp_path / "new").archives[0], utc_offset=1.0)
    record = record.assign_attrs(latitude=50.0, longitude=10.0, site="XX-New" if by == "info" else "../../victim")
    info = SiteInfo(site="../../victim", latitude=50.0, longitude=10.0) if by == "info" else None
    with pytest.raises(SourceError, match="letters, digits"):
        append_site(folder / "cube.zarr", record, info=info)
    assert (folder.parent / "victim.npz").read_text() == "precious"


def test_a_table_of_ones_own_has_the_same_rule(tmp_path):
    (tmp_path / "t.csv").write_text("TIMESTAMP,TA\n2018-06-01 00:00,10\n")
    for site in (*BAD, None, 7):
        with pytest.raises(ConfigError, match="letters, digits, - and _"):
            read_table(
                tmp_path / "t.csv", site=site, utc_offset=1, columns={"TA": "TA"}, units={}, latitude=1, longitude=1
            )


@pytest.mark.parametrize("key", ["", "../x", "a/b", "a\\b", "a\0b"])
def test_temporary_arrays_stay_in_the_store(tmp_path, key):
    with pytest.raises(StoreError, match="without a path"):
        spill(tmp_path / "store", key, {"a": np.zeros(1)})
    with pytest.raises(StoreError, match="without a path"):
        unspill(tmp_path / "store", key)


@pytest.mark.parametrize("site", ["CON", "nul", "Com1", "LPT9"])
def test_devices_of_windows_are_no_sites(tmp_path, site):
    found = discover(write_v2(tmp_path / "carbonsense_v2.sql", (site, "XX-Abc")).parent)
    assert [archive.site for archive in found.archives] == ["XX-Abc"]
    assert "device of Windows" in found.bad_sites[0][1]


def test_names_that_differ_in_case_only_would_share_files_on_some_disks(tmp_path, built):
    found = discover(write_v2(tmp_path / "carbonsense_v2.sql", ("xx-abc", "XX-Abc", "XX-Abd")).parent)
    assert [archive.site for archive in found.archives] == ["XX-Abc", "XX-Abd"]
    assert "differs from that of XX-Abc in case only" in found.bad_sites[0][1]
    (archive,) = discover(built[0] / "raw").archives[:1]
    record = read_archive(archive, utc_offset=1)
    record.attrs["site"] = "xx-ABC"
    with pytest.raises(StoreError, match="has XX-Abc, whose name differs from xx-ABC in case only"):
        append_site(built[0] / "cube.zarr", record, info=SiteInfo(site="xx-ABC", latitude=50, longitude=10))
