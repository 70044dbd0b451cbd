"""Of several entries of a site the one in force is used, and none of two that contradict each other silently."""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path

import numpy as np
import pytest
from tower_files import columns, write_archive

import fluxcube as fc
from fluxcube.errors import SourceError, UnknownNameError
from fluxcube.sources.towers.badm import clock_of, read_badm
from fluxcube.sources.towers.discovery import discover
from fluxcube.sources.towers.published import site_info
from fluxcube.sources.towers.readers import read_archive
from fluxcube.sources.towers.siteinfo import SiteInfo, at_record

SITE = "XX-Tst"
BIF = "FLX_AA-Flx_BIF_HH_20200501.csv"
PLACE = (("LOCATION_LAT", 51.0), ("LOCATION_LONG", 13.5))
MOVED = (("LOCATION_LAT", 50.2), ("LOCATION_LONG", 12.1))


def write_bif(path: Path, *groups: tuple[tuple[str, object], ...], ids: bool = True, separator: str = ",") -> Path:
    """Write groups of (variable, value) of one site, with or without their numbers."""
    rows = [("SITE_ID", *(("GROUP_ID",) if ids else ()), "VARIABLE_GROUP", "VARIABLE", "DATAVALUE")]
    for number, group in enumerate(groups):
        rows += [(SITE, *((str(number),) if ids else ()), "GRP", name, str(value)) for name, value in group]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(separator.join(row) for row in rows) + "\n")
    return path


def dated(group: tuple[tuple[str, object], ...], date: str) -> tuple[tuple[str, object], ...]:
    prefix = group[0][0].split("_")[0] if group[0][0] != "UTC_OFFSET" else "UTC_OFFSET"
    return (*group, (f"{prefix}_DATE_START", date))


def build_and_inspect(folder: Path, days: int = 3, name: str = "", start: str = "2015-06-01T00:00", **options):
    """Return the inspected row and the cube of one site whose metadata are in a folder; they must agree."""
    more = {"name": name} if name else {"name": "FLX_{site}_FLUXNET2015_FULLSET_{res}_2015-2015_1-4"}
    write_archive(folder, SITE, columns(days * 48), start=start, **more)
    (row,) = fc.inspect_raw(folder)[lambda table: table.site == SITE].to_dict("records")
    fc.build_carbonsense(folder, folder / "cube.zarr", **options)
    cube = fc.open_carbonsense(folder / "cube.zarr")
    notes = fc.open_report(folder / "cube.zarr", "notes").text.tolist()
    for key in ("latitude", "longitude", "igbp"):
        assert row[key] == pytest.approx(cube[key].values[0]) if key != "igbp" else row[key] == cube[key].values[0]
    assert np.datetime64(start) - cube.time_start.values[0].astype("datetime64[m]") == np.timedelta64(
        int(row["utc_offset"] * 60), "m"
    )
    assert all(note in row["why"] for note in notes)
    return row, notes


def test_the_place_and_class_of_the_record_are_used_and_the_others_named(tmp_path, caplog):
    write_bif(
        tmp_path / BIF,
        dated(PLACE, "2004"),
        dated(MOVED, "20210501"),
        (("UTC_OFFSET", 1),),
        dated((("UTC_OFFSET", 2),), "20210501"),
        (("IGBP", "ENF"),),
        dated((("IGBP", "CRO"),), "20210501"),
    )
    row, notes = build_and_inspect(tmp_path)
    assert (row["latitude"], row["longitude"], row["igbp"], row["utc_offset"]) == (51.0, 13.5, "ENF", 1)
    assert any("50.2, 12.1 (from 2021-05-01)" in note and "51, 13.5 was in force" in note for note in notes)
    assert any("CRO (from 2021-05-01)" in note for note in notes)
    assert "50.2, 12.1" in caplog.text and "CRO" in caplog.text


@pytest.mark.parametrize(
    ("start", "stop", "latitude", "text"),
    [
        ("1990-01-01", "1995-01-01", 1, "during the record"),  # before the first date
        ("2001-01-01", "2004-01-01", 1, "during the record"),
        ("2001-01-01", "2007-01-01", 1, "most of"),
        ("2001-01-01", "2020-01-01", 3, "most of"),
        ("2006-01-01", "2009-01-01", 2, "during the record"),
        ("2012-01-01", "2013-01-01", 3, "during the record"),
    ],
)
def test_of_three_places_the_one_of_most_of_the_record(tmp_path, start, stop, latitude, text):
    places = [
        dated((("LOCATION_LAT", i), ("LOCATION_LONG", 0), ("LOCATION_ELEV", 100 * i)), date)
        for i, date in ((3, "20100101"), (1, "20000101"), (2, "2005-01-01"))
    ]
    info = read_badm(write_bif(tmp_path / BIF, *places))[SITE]
    assert (info.latitude, info.elevation) == (3, 300)  # the newest, as long as the record is unknown
    info = at_record(info, np.datetime64(start), np.datetime64(stop))
    assert (info.latitude, info.elevation) == (latitude, 100 * latitude)
    (note,) = info.notes
    assert text in note and all(f"{i}, 0 (from" in note for i in {1, 2, 3} - {latitude})


def test_places_of_one_field_are_no_note_and_the_table_decides_where_names_have_no_years(tmp_path):
    near = (("LOCATION_LAT", 51.002), ("LOCATION_LONG", 13.5))
    write_bif(tmp_path / BIF, dated(near, "20150615"), dated(PLACE, "2004"), (("UTC_OFFSET", 1),))
    row, notes = build_and_inspect(tmp_path)  # 3 days of June in a file of 2015: before the move
    assert row["latitude"] == 51.0 and notes == []
    other = tmp_path / "icos"
    write_bif(other / BIF, dated(MOVED, "2016"), PLACE, (("UTC_OFFSET", 1),))
    row, notes = build_and_inspect(other, name="ICOSETC_{site}_FLUXNET_{res}_L2", start="2018-01-01T00:00")
    assert row["latitude"] == 50.2 and len(notes) == 1


def test_a_date_that_is_none_is_reported(tmp_path, caplog):
    write_bif(tmp_path / BIF, dated(PLACE, "01.05.2021"), dated((("IGBP", "GRA"),), "soon"))
    info = read_badm(tmp_path / BIF)[SITE]
    assert (info.latitude, info.igbp) == (51.0, "GRA")
    assert "LOCATION_DATE_START '01.05.2021' is not a date" in caplog.text
    assert "IGBP_DATE_START" not in caplog.text  # a text without digits is no date


@pytest.mark.parametrize("order", [1, -1])
def test_undated_offsets_that_contradict_each_other(tmp_path, order, caplog):
    groups = [(("UTC_OFFSET", -5),), (("UTC_OFFSET", -6),)][::order]
    write_bif(tmp_path / BIF, (("LOCATION_LAT", 39.0), ("LOCATION_LONG", -97.5)), *groups)
    row, (note,) = build_and_inspect(tmp_path)
    assert row["utc_offset"] == -6  # nearer to -97.5 / 15, whatever the order
    assert "-5 (line" in note and "-6 (line" in note and "contradict each other, both without a date" in note
    assert note in caplog.text
    with pytest.raises(SourceError, match="contradict each other"):
        fc.build_carbonsense(tmp_path, tmp_path / "strict.zarr", strict=True)


def test_undated_places_and_classes_that_contradict_each_other(tmp_path):
    groups = [PLACE, MOVED, (("UTC_OFFSET", 1),), (("IGBP", "GRA"),), (("IGBP", "Croplands"),)]
    write_bif(tmp_path / BIF, *groups)
    row, notes = build_and_inspect(tmp_path)
    assert (row["latitude"], row["igbp"]) == (50.2, "CRO")
    assert any("51, 13.5 (line 2)" in note and "50.2, 12.1 is used" in note for note in notes)
    assert any("GRA" in note and "CRO is used" in note for note in notes)
    with pytest.raises(SourceError, match=r"place 51, 13\.5"):
        fc.build_carbonsense(tmp_path, tmp_path / "strict.zarr", strict=True)


def test_entries_of_one_date_contradict_each_other_and_equal_ones_do_not(tmp_path, caplog):
    one = dated((("UTC_OFFSET", 9.5),), "2010"), dated((("UTC_OFFSET", 8),), "20100101")
    write_bif(tmp_path / BIF, (("LOCATION_LAT", -22), ("LOCATION_LONG", 133)), *one)
    info = read_badm(tmp_path / BIF)[SITE]
    assert clock_of(info) == 9.5 and "both from 2010-01-01" in info.doubts[0]
    caplog.clear()
    alike = [
        PLACE,
        PLACE,
        (("UTC_OFFSET", 1),),
        (("UTC_OFFSET", "UTC+1"),),
        (("IGBP", "cro"),),
        (("IGBP", "Croplands"),),
    ]
    info = read_badm(write_bif(tmp_path / BIF, *alike))[SITE]
    assert (info.latitude, info.utc_offsets, info.igbp) == (51.0, ((None, 1.0),), "CRO")
    assert not caplog.records and info.doubts == info.notes == ()


def sites_csv(folder: Path, *lines: str, name: str = "sites.csv") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text("\n".join(("site_id,latitude,longitude,igbp,utc_offset", *lines)) + "\n")
    return path


def test_two_lines_of_one_site(tmp_path, caplog):
    sites_csv(tmp_path, f"{SITE},48.0,9.0,CRO,1", f"{SITE},51.0,13.5,GRA,2")
    row, notes = build_and_inspect(tmp_path)
    assert (row["latitude"], row["longitude"], row["igbp"], row["utc_offset"]) == (48.0, 9.0, "CRO", 1)
    for text in ("the place: 48, 9 and 51, 13.5", "the IGBP class: CRO and GRA", "the UTC offset: +1 and +2"):
        assert any(f"lines 2 and 3 differ on {text}; line 2 is used" in note for note in notes), text
        assert text in caplog.text
    with pytest.raises(SourceError, match="lines 2 and 3 differ on the place"):
        fc.build_carbonsense(tmp_path, tmp_path / "strict.zarr", strict=True)


def test_two_lines_that_complete_each_other_are_no_contradiction(tmp_path, caplog):
    info = read_badm(sites_csv(tmp_path, f"{SITE},51,13.5,,1", f"{SITE},51.001,13.5,Grassland,", f"{SITE},,,GRA,1"))[
        SITE
    ]
    assert (info.latitude, info.igbp, info.utc_offset) == (51, "GRA", 1)
    assert not caplog.records and info.doubts == info.notes == ()


def test_files_that_differ_on_class_or_offset_are_reported(tmp_path):
    bif = write_bif(tmp_path / BIF, PLACE, (("UTC_OFFSET", 1),), (("IGBP", "GRA"),))
    table = sites_csv(tmp_path, f"{SITE},51,13.5,CRO,2")
    info = read_badm([table, bif])[SITE]
    assert (info.igbp, info.utc_offset) == ("GRA", 1) and info.doubts == ()
    assert [note.partition(";")[0] for note in info.notes] == [
        "sites.csv has the IGBP class CRO",
        "sites.csv has the UTC offset +2",
    ]


TEXTS = [("Croplands", "CRO"), ("evergreen needleleaf forest", "ENF"), ("cropland/natural vegetation mosaic", "CVM")]


@pytest.mark.parametrize(("text", "code"), [*TEXTS, ("12", "CRO"), ("TBD", ""), ("Sonoran desert", "")])
def test_classes_are_mapped_or_unknown_from_every_source(tmp_path, text, code, caplog):
    sources = {
        "table": sites_csv(tmp_path, f"{SITE},51,13.5,{text},1"),
        "bif": write_bif(tmp_path / BIF, PLACE, (("IGBP", text),)),
    }
    siteinfo = tmp_path / f"ICOSETC_{SITE}_SITEINFO_L2.csv"
    siteinfo.write_text(f'VARIABLE,DATAVALUE\nLOCATION_LAT,51\nLOCATION_LONG,13.5\nIGBP,"{text}"\n')
    methane = tmp_path / "FLX_AA-Flx_CH4-META_20201112135337801132.csv"
    methane.write_text(
        f"SITE_ID,SITE_NAME,COUNTRY,LAT,LON,IGBP,KOPPEN,UTC_OFFSET\n{SITE},Fen,No,51,13.5,{text},Dfb,1\n"
    )
    for path in (*sources.values(), siteinfo, methane):
        caplog.clear()
        info = read_badm(path)[SITE]
        assert info.igbp == code, path.name
        assert (SITE in caplog.text and repr(text) in caplog.text) is (not code)
        assert bool(info.notes) is (not code)
    assert site_info(SITE, 51.0, 13.5, 0.0, text, "v2.sql").igbp == code
    assert {location.name for location in discover(tmp_path).badm} >= {siteinfo.name, methane.name}


def test_an_unknown_class_is_none_in_the_cube(tmp_path):
    sites_csv(tmp_path, f"{SITE},51,13.5,TBD,1")
    row, (note,) = build_and_inspect(tmp_path, strict=True)  # no reason to refuse the site
    assert row["igbp"] == "" and "sites.csv, line 2: 'TBD' is no IGBP class" in note


@pytest.mark.parametrize("blank", ["", "NA", "nan", "-9999", "n/a"])
def test_a_blank_class_is_unknown_without_a_word(tmp_path, blank, caplog):
    info = read_badm(sites_csv(tmp_path, f"{SITE},51,13.5,{blank},1"))[SITE]
    assert info.igbp == "" and not caplog.records


GROUPS = [dated((("LOCATION_LAT", 48), ("LOCATION_LONG", 9)), "2001"), dated(PLACE, "2012"), (("UTC_OFFSET", 1),)]


@pytest.mark.parametrize("order", ["groups", "variables", "newest first", "undated first", "blank numbers"])
def test_a_bif_without_group_ids(tmp_path, order):
    groups = {"newest first": GROUPS[::-1], "undated first": [GROUPS[0][:2], *GROUPS[1:]]}.get(order, GROUPS)
    path = write_bif(tmp_path / BIF, *groups, ids=False)
    lines = path.read_text().splitlines()
    if order == "variables":
        path.write_text("\n".join([lines[0], *sorted(lines[1:], key=lambda line: line.split(",")[2])]) + "\n")
    if order == "blank numbers":
        path.write_text(
            "\n".join([lines[0].replace("SITE_ID", "SITE_ID,GROUP_ID"), *(f"{SITE},{x[7:]}" for x in lines[1:])])
        )
        path.write_text(path.read_text().replace(f"{SITE},", f"{SITE},,"))
    info = read_badm(path)[SITE]
    assert [(place.latitude, place.longitude) for place in info.places] == [(48, 9), (51, 13.5)]
    assert (info.latitude, info.longitude, info.utc_offset) == (51.0, 13.5, 1.0)
    assert at_record(info, np.datetime64("2003"), np.datetime64("2005")).latitude == 48


def test_entries_that_cannot_be_told_apart_are_refused(tmp_path):
    """Sorted by variable, with fewer dates than places: which place has the date?"""
    path = write_bif(tmp_path / BIF, GROUPS[0], PLACE, ids=False)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], *sorted(lines[1:], key=lambda line: line.split(",")[2])]) + "\n")
    with pytest.raises(SourceError, match=r"XX-Tst: the entries of LOCATION from line 2 on .* add GROUP_ID"):
        read_badm(path)


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_other_separators_and_decimal_commas(tmp_path, separator):
    path = write_bif(tmp_path / BIF, PLACE, (("UTC_OFFSET", 1),), (("IGBP", "GRA"),), separator=separator)
    assert discover(tmp_path).badm
    expected = SiteInfo(
        site=SITE, latitude=51.0, longitude=13.5, igbp="GRA", utc_offset=1.0, utc_offsets=((None, 1.0),)
    )
    assert read_badm(path)[SITE] == expected
    path.write_text(f"sep={separator}\n" + path.read_text().replace("13.5", "13,5"))
    assert read_badm(path)[SITE] == expected
    table = sites_csv(tmp_path, f"{SITE},51,13.5,GRA,1")
    table.write_text(table.read_text().replace(",", separator).replace("13.5", "13,5"))
    assert read_badm(table)[SITE] == expected


def test_an_old_excel_workbook_is_named_with_the_remedy(tmp_path):
    old = tmp_path / "AMF_XX-Tst_BIF_LATEST.xls"
    old.write_bytes(bytes.fromhex("d0cf11e0a1b11ae1") + bytes(600))
    table = fc.inspect_raw(tmp_path)
    assert table.path.tolist() == [str(old)] and "old Excel workbook" in table.why[0] and "save it as" in table.why[0]
    other = tmp_path / "sites.ods"
    with zipfile.ZipFile(other, "w") as file:
        file.writestr("content.xml", "<x/>")
    (why,) = fc.inspect_raw(other).why
    assert "sites.ods" in why and "save it as a CSV file" in why
    text = tmp_path / "FLX_AA-Flx_BIF_HH.xls"  # text under the name of a workbook
    write_bif(text, PLACE, (("IGBP", "GRA"),), separator="\t")
    assert read_badm(text)[SITE].igbp == "GRA"


@pytest.mark.parametrize("name", ["sites.csv", "sites.xlsx", "sites.xls"])
def test_a_workbook_of_sites_under_any_name(tmp_path, name):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.append(["site_id", "latitude", "longitude", "igbp", "utc_offset"])
    book.active.append([SITE, 51, 13.5, "Croplands", 1])
    book.save(tmp_path / "book.xlsx")
    (tmp_path / "book.xlsx").rename(tmp_path / name)
    (location,) = discover(tmp_path).badm
    info = read_badm(location)[SITE]
    assert (info.latitude, info.longitude, info.igbp, info.utc_offset) == (51.0, 13.5, "CRO", 1.0)


def test_methane_metadata_by_their_own_name(tmp_path):
    path = tmp_path / "FLX_AA-Flx_CH4-META_20201112135337801132.csv"
    path.write_text(
        "SITE_ID,SITE_NAME,COUNTRY,LAT,LON,SITE_CLASSIFICATION,UPLAND_CLASS,IGBP,KOPPEN,UTC_OFFSET\n"
        f"{SITE},Test fen,Nowhere,51.0,13.5,Fen,,WET,Dfb,1\n"
    )
    row, notes = build_and_inspect(tmp_path)
    assert (row["latitude"], row["igbp"], row["utc_offset"], notes) == (51.0, "WET", 1, [])
    assert read_badm(path)[SITE].koppen == "Dfb"


def test_real_metadata_have_no_note(shared_data, caplog):
    """Of the 157 towers none has; ten have another class in the Shuttle's snapshot, which is a note with both files."""
    with caplog.at_level(logging.WARNING):
        for folder in ("towers", "towers2"):
            infos = read_badm(discover(shared_data / folder).badm)
            assert not [info for info in infos.values() if info.notes or info.doubts or info.places or info.classes]
        snapshot = next((shared_data / "meta").glob("fluxnet_shuttle_snapshot_*"))
        assert not [info for info in read_badm(snapshot).values() if info.notes or not info.igbp]
    assert not caplog.records


def test_an_own_record_takes_a_class_by_name_and_none_that_is_no_class(tmp_path):
    sites_csv(tmp_path, f"{SITE},51,13.5,GRA,1")
    build_and_inspect(tmp_path)
    ds = read_archive(discover(tmp_path).archives[0], utc_offset=1.0)
    ds = ds.assign_attrs(site="XX-Own", latitude=51.0, longitude=13.5, igbp="Croplands", utc_offset=1.0)
    fc.append_site(tmp_path / "cube.zarr", ds)
    assert fc.open_carbonsense(tmp_path / "cube.zarr").igbp.values.tolist() == ["CRO", "GRA"]
    with pytest.raises(UnknownNameError, match="TBD"):
        fc.append_site(tmp_path / "cube.zarr", ds.assign_attrs(site="XX-Oth", igbp="TBD"))


def test_places_in_two_tables_are_named_by_inspect_too(tmp_path):
    sites_csv(tmp_path, f"{SITE},51,13.5,GRA,1")
    sites_csv(tmp_path / "b", f"{SITE},48,9,GRA,1", name="other_sites.csv")
    write_archive(
        tmp_path, SITE, columns(48), start="2015-06-01T00:00", name="FLX_{site}_FLUXNET2015_FULLSET_{res}_2015-2015_1-4"
    )
    (row,) = fc.inspect_raw(tmp_path).to_dict("records")
    assert row["used"] and row["why"] == "other_sites.csv has it at 48, 9"
    with pytest.raises(SourceError, match=r"other_sites\.csv has XX-Tst at 48, 9"):
        fc.build_carbonsense(tmp_path, tmp_path / "strict.zarr", strict=True)


def test_metadata_complete_the_place_of_an_archive(tmp_path, monkeypatch):
    """A class from sites.csv stays where the archive has the coordinates, in inspect as in a build."""
    sites_csv(tmp_path, f"{SITE},,,GRA,1")
    place = SiteInfo(site=SITE, latitude=51.0, longitude=13.5, igbp="CRO", elevation=9.0)
    monkeypatch.setattr("fluxcube.sources.towers.archive_metadata.place_of", lambda archive: place)
    row, notes = build_and_inspect(tmp_path)
    assert (row["latitude"], row["igbp"], row["utc_offset"], notes) == (51.0, "GRA", 1, [])


@pytest.mark.parametrize(
    ("latitude", "longitude", "expected"),
    [
        ("35.7 S", "148.2E", (-35.7, 148.2)),
        ("S35.7", "W 97.5", (-35.7, -97.5)),
        ("-35.7 S", "97.5 W", (-35.7, -97.5)),
        ("51°30'N", "13°30'00\u2033 E", (51.5, 13.5)),
        ("51° 30\u2032 36\u2033 N", "013°30'E", (51.51, 13.5)),
        ("35.7 E", "97.5 S", None),
        ("S 35.7 N", "1", None),
    ],
)
def test_coordinates_with_their_side(tmp_path, latitude, longitude, expected):
    path = tmp_path / "sites.csv"
    path.write_text(f'site_id,latitude,longitude\n{SITE},"{latitude}","{longitude}"\n', encoding="utf-8")
    info = read_badm(path)[SITE]
    if expected is None:
        assert info.latitude is None
    else:
        assert (info.latitude, info.longitude) == pytest.approx(expected)
