"""A cube has every hour of any file of a site, the newest value where two have one, and each file by its name."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
from tower_files import columns, write_archive, write_places

from fluxcube.catalog import open_carbonsense
from fluxcube.cubes.carbonsense import build_carbonsense
from fluxcube.cubes.report import open_report

SITE = "XX-Tst"
ICOS = "ICOSETC_{site}_FLUXNET_{res}_L2"


def days(count, value, step=30):
    n = count * 1440 // step
    return columns(n) | {"TA_F": np.full(n, float(value)), "TA_F_QC": np.zeros(n)}


def build(folder, **options):
    write_places(folder, {SITE: (51.0, 13.5, 0, "GRA")})
    report = build_carbonsense(folder, folder.parent / f"{folder.name}.zarr", **options)
    cube = open_carbonsense(report.store)
    return report, cube.predictors.sel(variable="TA", site=SITE).dropna("time").load()


def counts(ta):
    values, number = np.unique(ta.values, return_counts=True)
    return dict(zip(values.tolist(), number.tolist(), strict=True))


def test_the_newer_of_two_releases_counts_and_the_older_fills_its_own_hours(tmp_path):
    raw = tmp_path / "raw"
    write_archive(raw / "b", SITE, days(20, 1), start="2015-06-01T00:00", name=ICOS)
    write_archive(raw / "a", SITE, days(30, 2), start="2015-06-11T00:00", name=ICOS)
    report, ta = build(raw)
    assert counts(ta) == {1: 240, 2: 720} and not report.left_out
    sources = open_report(report.store).query("variable == 'TA'").set_index("source").hours
    assert sorted(sources) == [240, 720] and all("ICOS 2023 L2: " in name for name in sources.index)
    assert len(set(sources.index)) == 2


def test_a_release_that_another_one_has_whole_is_set_aside_with_a_true_reason(tmp_path):
    raw = tmp_path / "raw"
    write_archive(raw / "a", SITE, days(20, 1), start="2015-06-01T00:00", name=ICOS)
    write_archive(raw / "b", SITE, days(40, 2), start="2015-06-01T00:00", name=ICOS)
    report, ta = build(raw)
    assert counts(ta) == {2: 960}
    ((name, why),) = report.report["ignored"].items()
    assert "/a/" in name and "ends at 2015-06-21T00:00" in why


@pytest.mark.parametrize("resolution", ["hourly", "daily"])
def test_interim_hours_join_the_final_ones(tmp_path, resolution):
    raw = tmp_path / "raw"
    write_archive(raw, SITE, days(20, 1), start="2015-06-01T00:00", name=ICOS)
    write_archive(raw, SITE, days(30, 2), start="2015-06-11T00:00", name=ICOS.replace("_L2", "_INTERIM_L2"))
    _, ta = build(raw, resolution=resolution)
    assert counts(ta) == ({1: 480, 2: 480} if resolution == "hourly" else {1: 20, 2: 20})


def test_the_tables_of_a_zip_are_read_as_if_they_were_unpacked(tmp_path):
    raw = tmp_path / "raw"
    for year in (2014, 2015):
        name = f"FLX_{{site}}_FLUXNET2015_SUBSET_{{res}}_{year}-{year}_1-4"
        write_archive(raw, SITE, days(20, year - 2000), start=f"{year}-06-01T00:00", name=name)
    _, unpacked = build(raw)
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    with zipfile.ZipFile(bundle / "towers.zip", "w") as archive:
        for path in raw.glob("*.zip"):
            with zipfile.ZipFile(path) as one:
                for member in one.namelist():
                    archive.writestr(member, one.read(member))
    _, packed = build(bundle)
    assert counts(packed) == counts(unpacked) == {14: 480, 15: 480}


def test_hours_and_half_hours_of_a_site_are_both_read(tmp_path):
    raw, name = tmp_path / "raw", "AMF_{site}_FLUXNET_FULLSET_{res}_2015-2015_3-5"
    write_archive(raw / "HH", SITE, days(10, 1), start="2015-06-11T00:00", name=name)
    write_archive(raw / "HR", SITE, days(20, 2, 60), start="2015-06-01T00:00", name=name, step=60)
    _, ta = build(raw)
    assert counts(ta) == {1: 240, 2: 240}


def test_files_of_one_name_that_cannot_be_read_are_each_named(tmp_path):
    raw = tmp_path / "raw"
    for folder, flag in (("a", 0), ("b", 7), ("c", 8)):
        start = f"2015-0{'abc'.index(folder) + 1}-01T00:00"
        table = days(5, 1)
        table |= {name: np.full(240, flag) for name in table if name.endswith("_QC")}
        write_archive(raw / folder, SITE, table, start=start, name=ICOS)
    report, ta = build(raw)
    assert counts(ta) == {1: 120}
    assert len(report.left_out) == 2 and {"'7'" in why for why in report.left_out.values()} == {True, False}


@pytest.mark.parametrize("packed", [True, False])
def test_a_daily_table_is_completed_from_its_own_hours_beside_interim_ones(tmp_path, packed):
    """TA_RANGE is in no daily table: its hours have it, also where other hours of the site are read anyway."""
    raw, name = tmp_path / "raw", ICOS.format(site=SITE, res="{}")
    zips = [
        write_archive(tmp_path / "z", SITE, days(20, i), start=f"2015-0{i}-01T00:00", name=ICOS + str(i))
        for i in (6, 7)
    ]
    tables = []
    for path in zips:
        with zipfile.ZipFile(path) as archive:
            tables.append(archive.read(archive.namelist()[0]))
    dates = np.datetime64("2015-06-01") + np.arange(20)
    daily = "TIMESTAMP,TA_F,TA_F_QC\n" + "".join(f"{str(d).replace('-', '')},9,1\n" for d in dates)
    files = {name.format("DD"): daily.encode(), name.format("HH"): tables[0]}
    interim = {name.format("HH").replace("_L2", "_INTERIM_L2"): tables[1]}
    raw.mkdir()
    if packed:
        with zipfile.ZipFile(raw / "ICOSETC_XX-Tst_ARCHIVE_L2.zip", "w") as archive:
            for member, data in files.items():
                archive.writestr(f"{member}.csv", data)
        files = {}
    for member, data in (files | interim).items():
        (raw / f"{member}.csv").write_bytes(data)
    report, ta = build(raw, resolution="daily")
    assert counts(ta) == {7: 20, 9: 20}
    cube = open_carbonsense(report.store)
    assert cube.predictors.sel(variable="TA_RANGE", site=SITE).dropna("time").sizes["time"] == 40
