"""Spreadsheets of site metadata read as their CSV does; formulas and bombs are refused by name."""

from __future__ import annotations

import datetime
import zipfile

import pytest
from packages import optional

from fluxcube.errors import SourceError
from fluxcube.sources.towers.archives import Location
from fluxcube.sources.towers.badm import read_badm
from fluxcube.sources.towers.sheets import read_sheet

openpyxl = optional("openpyxl")

HEAD = ["SITE_ID", "GROUP_ID", "VARIABLE_GROUP", "VARIABLE", "DATAVALUE"]
ROWS = [
    ["US-Ha1", 1, "GRP_LOCATION", "LOCATION_LAT", "42.5378"],
    ["US-Ha1", 1, "GRP_LOCATION", "LOCATION_LON", -72.1715],
    ["US-Ha1", 1, "GRP_LOCATION", "LOCATION_ELEV", 340],
    ["US-Ha1", 2, "GRP_IGBP", "IGBP", "DBF"],
    ["US-Ha1", 3, "GRP_UTC_OFFSET", "UTC_OFFSET", -5],
    ["US-Ha1", 4, "GRP_UTC_OFFSET", "UTC_OFFSET", -4.5],
    ["US-Ha1", 4, "GRP_UTC_OFFSET", "UTC_OFFSET_DATE_START", datetime.datetime(2012, 5, 31)],
]


def workbook(path, rows, *, sheets=1):
    book = openpyxl.Workbook()
    for number in range(sheets):
        sheet = book.active if number == 0 else book.create_sheet()
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


def test_a_bif_as_xlsx_says_what_its_csv_says(tmp_path):
    path = workbook(tmp_path / "AMF_US-Ha1_BIF_20201218.xlsx", [HEAD, *ROWS])
    text = [["20120531" if isinstance(cell, datetime.datetime) else str(cell) for cell in row] for row in [HEAD, *ROWS]]
    plain = tmp_path / "AMF_US-Ha1_BIF_20201218.csv"
    plain.write_text("\n".join(map(",".join, text)))
    zipped = tmp_path / "all.zip"
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.write(path, "meta/AMF_US-Ha1_BIF_20201218.xlsx")
    info = read_badm(path)["US-Ha1"]
    assert (
        info == read_badm(plain)["US-Ha1"] == read_badm(Location(zipped, "meta/AMF_US-Ha1_BIF_20201218.xlsx"))["US-Ha1"]
    )
    assert (info.latitude, info.longitude, info.elevation, info.igbp) == (42.5378, -72.1715, 340, "DBF")
    assert [hours for _, hours in info.utc_offsets] == [-5, -4.5] and str(info.utc_offsets[1][0])[:10] == "2012-05-31"


def test_all_sheets_are_read_and_blank_rows_are_none(tmp_path):
    path = workbook(tmp_path / "x.xlsx", [["a", 1.0], [None, None], [2.5, "b "]], sheets=2)
    assert list(read_sheet(Location(path))) == [(1, ["a", "1"]), (3, ["2.5", "b"])] * 2


@pytest.mark.parametrize("formula", ["=1+1", '=HYPERLINK("http://example.org")'])
def test_a_formula_is_refused_by_sheet_and_cell(tmp_path, formula):
    rows = [list(row) for row in ROWS]
    rows[3][4] = formula
    path = workbook(tmp_path / "AMF_US-Ha1_BIF_20201218.xlsx", [HEAD, *rows])
    with pytest.raises(SourceError, match=r"AMF_US-Ha1_BIF_20201218\.xlsx, sheet 'Sheet', cell E5: a formula"):
        read_badm(path)
    seen = {}
    assert read_badm(path, on_error=lambda where, error: seen.update({where.name: str(error)})) == {}
    assert "cell E5" in seen["AMF_US-Ha1_BIF_20201218.xlsx"]


def test_a_spreadsheet_that_is_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    path = workbook(tmp_path / "AMF_US-Ha1_BIF_20201218.xlsx", [HEAD, *ROWS])
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/worksheets/sheet9.xml", b" " * (80 << 20))
    with pytest.raises(SourceError, match=r"sheet9\.xml' grows from"):
        read_badm(path)
    many = workbook(tmp_path / "AMF_US-Ha2_BIF_20201218.xlsx", [HEAD, *ROWS])
    with zipfile.ZipFile(many, "a", zipfile.ZIP_DEFLATED) as archive:
        for number in range(9):
            archive.writestr(f"xl/more{number}.xml", b" " * (8 << 20))
    with pytest.raises(SourceError, match="more than any spreadsheet"):
        read_badm(many)


@pytest.mark.parametrize("junk", [b"", b"PK\x03\x04", b"SITE_ID,VARIABLE\n", b"\xd0\xcf\x11\xe0" * 100])
def test_what_is_no_spreadsheet_is_refused(tmp_path, junk):
    path = tmp_path / "AMF_US-Ha1_BIF_20201218.xlsx"
    path.write_bytes(junk)
    with pytest.raises(SourceError, match=r"BIF_20201218\.xlsx: cut"):
        read_badm(path)


def test_a_zip_that_is_no_spreadsheet_is_refused(tmp_path):
    path = tmp_path / "AMF_US-Ha1_BIF_20201218.xlsx"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no sheet")
    with pytest.raises(SourceError, match="no spreadsheet"):
        read_badm(path)


def test_without_openpyxl_it_says_what_to_install(tmp_path, monkeypatch):
    from fluxcube.errors import MissingPackageError

    path = workbook(tmp_path / "AMF_US-Ha1_BIF_20201218.xlsx", [HEAD, *ROWS])
    monkeypatch.setitem(__import__("sys").modules, "openpyxl", None)
    with pytest.raises(MissingPackageError, match="pip install"):
        read_badm(path)
    seen = []
    assert read_badm(path, on_error=lambda where, error: seen.append(str(error))) == {}
    assert "openpyxl" in seen[0] and path.name in seen[0]


@pytest.mark.parametrize("folder", ["BADM", "BDAM"])
def test_japanflux_metadata_have_their_own_columns_and_clock(tmp_path, folder):
    path = tmp_path / "A1/DATA" / folder / "FLX_JP-Tak_General.xlsx"
    path.parent.mkdir(parents=True)
    rows = [
        ["Site general information"],
        ["Variable", "Units", "dataValue1", "dataValue2"],
        ["SITE_ID", None, "JP-Tak", None],
        ["LOCATION_LAT", "deg", 36.1462, None],
        ["LOCATION_LONG", "deg", 137.4231, None],
        ["LOCATION_ELEV", "m", 1420, None],
        ["IGBP", None, "DBF", "ENF"],
    ]
    info = read_badm(workbook(path, rows))["JP-Tak"]
    assert (info.latitude, info.longitude, info.elevation, info.igbp) == (36.1462, 137.4231, 1420, "DBF")
    assert (info.utc_offset, info.utc_offsets) == (9.0, ((None, 9.0),))
    told = workbook(path, [*rows, ["UTC_OFFSET", "h", 8, None]])
    assert read_badm(told)["JP-Tak"].utc_offset == 8.0
    unnamed = workbook(path.with_name("General.xlsx"), rows[:2] + rows[3:])
    with pytest.raises(SourceError, match="no SITE_ID"):
        read_badm(unnamed)
    assert read_badm(workbook(path, rows[:2] + rows[3:]))["JP-Tak"].latitude == 36.1462
