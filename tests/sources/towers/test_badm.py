"""Site metadata from BIF, SITEINFO and plain tables, merged without mixing places."""

from __future__ import annotations

import csv
import logging

import numpy as np
import pytest

from fluxcube.errors import SourceError
from fluxcube.sources.towers.badm import SiteInfo, clock_of, read_badm, require_location
from fluxcube.sources.towers.oneflux import read_oneflux

HEAD = "SITE_ID,GROUP_ID,VARIABLE_GROUP,VARIABLE,DATAVALUE\n"


def bif(path, *rows):
    """Write a BIF file of (site, group, variable, value)."""
    path.write_text(HEAD + "".join(f"{site},{group},GRP,{name},{value}\n" for site, group, name, value in rows))
    return path


def table(path, text):
    path.write_text(text)
    return path


PLACE = [("XX-One", 1, "LOCATION_LAT", 10.5), ("XX-One", 1, "LOCATION_LONG", -20.25), ("XX-One", 1, "LOCATION_ELEV", 7)]


def test_a_bif_file(tmp_path):
    path = bif(
        tmp_path / "a_BIF_.csv",
        *PLACE,
        ("XX-One", 2, "IGBP", "ENF"),
        ("XX-One", 3, "UTC_OFFSET", -1.5),
        ("XX-One", 4, "CLIMATE_KOEPPEN", "Dfb"),
        ("XX-Two", 5, "IGBP", "wet"),
        ("XX-Two", 6, "TEAM_MEMBER_NAME", "A"),
    )
    assert read_badm(path) == {
        "XX-One": SiteInfo(
            site="XX-One",
            latitude=10.5,
            longitude=-20.25,
            elevation=7.0,
            igbp="ENF",
            koppen="Dfb",
            utc_offset=-1.5,
            utc_offsets=((None, -1.5),),
        ),
        "XX-Two": SiteInfo(site="XX-Two", igbp="WET"),
    }


@pytest.mark.parametrize("name", ["LOCATION_LONG", "LOCATION_LON"])
def test_both_spellings_of_longitude(tmp_path, name):
    rows = [("XX-One", 1, "LOCATION_LAT", 10.5), ("XX-One", 1, name, -20.25)]
    assert read_badm(bif(tmp_path / "a.csv", *rows))["XX-One"].longitude == -20.25


def test_order_of_columns_and_rows_does_not_matter(tmp_path):
    rows = [*PLACE, ("XX-One", 2, "IGBP", "ENF"), ("XX-One", 3, "UTC_OFFSET", -1.5)]
    one = read_badm(bif(tmp_path / "a.csv", *rows))
    path = tmp_path / "b.csv"
    path.write_text(
        "DATAVALUE,VARIABLE,SITE_ID,GROUP_ID\n" + "".join(f"{v},{n},{s},{g}\n" for s, g, n, v in rows[::-1])
    )
    assert read_badm(path) == one


def test_dated_offsets_are_in_order_and_the_newest_is_the_sites(tmp_path):
    path = bif(
        tmp_path / "a.csv",
        *PLACE,
        ("XX-One", 5, "UTC_OFFSET", 2),
        ("XX-One", 5, "UTC_OFFSET_DATE_START", "20100615"),
        ("XX-One", 4, "UTC_OFFSET", 1),
        ("XX-One", 6, "UTC_OFFSET", 3),
        ("XX-One", 6, "UTC_OFFSET_DATE_START", "201201011230"),
    )
    info = read_badm(path)["XX-One"]
    expected = (
        (None, 1.0),
        (np.datetime64("2010-06-15T00:00", "m"), 2.0),
        (np.datetime64("2012-01-01T12:30", "m"), 3.0),
    )
    assert info.utc_offsets == expected
    assert info.utc_offset == 3.0
    assert clock_of(info) == expected


@pytest.mark.parametrize(
    ("text", "date"),
    [("2010", "2010-01-01"), ("201006", "2010-06-01"), ("2010-06-15", "2010-06-15"), ("20100615", "2010-06-15")],
)
def test_dates_of_any_length(tmp_path, text, date):
    rows = [("XX-One", 1, "UTC_OFFSET", 2), ("XX-One", 1, "UTC_OFFSET_DATE_START", text)]
    ((since, _),) = read_badm(bif(tmp_path / "a.csv", *rows))["XX-One"].utc_offsets
    assert since == np.datetime64(date, "m")


def test_an_impossible_date_is_told(tmp_path, caplog):
    rows = [("XX-One", 1, "UTC_OFFSET", 2), ("XX-One", 1, "UTC_OFFSET_DATE_START", "20109999")]
    assert read_badm(bif(tmp_path / "a.csv", *rows))["XX-One"].utc_offsets == ((None, 2.0),)
    assert "20109999" in caplog.text and "YYYYMMDD" in caplog.text


def test_dated_offsets_decode_stamps(tmp_path):
    rows = [
        ("XX-One", 1, "UTC_OFFSET", 2),
        ("XX-One", 2, "UTC_OFFSET", 1),
        ("XX-One", 2, "UTC_OFFSET_DATE_START", "20050102"),
    ]
    info = read_badm(bif(tmp_path / "a.csv", *rows))["XX-One"]
    path = tmp_path / "FLX_XX-One_FLUXNET2015_FULLSET_HR_2005-2005_1-4.csv"
    path.write_text("TIMESTAMP_START,TIMESTAMP_END,TA_F\n200501012300,200501020000,1\n200501020000,200501020100,2\n")
    time = read_oneflux(path, utc_offset=clock_of(info)).time.to_numpy()
    np.testing.assert_array_equal(time, np.array(["2005-01-01T21", "2005-01-01T23"], "datetime64[ns]"))


def test_the_newest_place_and_class(tmp_path):
    path = bif(
        tmp_path / "a.csv",
        *PLACE,
        ("XX-One", 9, "LOCATION_LAT", 11),
        ("XX-One", 9, "LOCATION_LONG", -21),
        ("XX-One", 9, "LOCATION_DATE_START", "20100101"),
        ("XX-One", 2, "IGBP", "ENF"),
        ("XX-One", 2, "IGBP_DATE_START", "2012"),
        ("XX-One", 3, "IGBP", "GRA"),
        ("XX-One", 3, "IGBP_DATE_START", "2003"),
    )
    info = read_badm(path)["XX-One"]
    assert (info.latitude, info.longitude, info.elevation, info.igbp) == (11.0, -21.0, 7.0, "ENF")


def test_siteinfo_of_icos_with_loose_commas_and_no_site_column(tmp_path):
    path = tmp_path / "ICOSETC_BE-Bra_SITEINFO_L2.csv"
    path.write_text(
        "VARIABLE,DATAVALUE\nSITE_DESC,pines, sand and rain\nLOCATION_LAT,51.3\nLOCATION_LONG,4.5\nIGBP,MF\n"
    )
    assert read_badm(path)["BE-Bra"] == SiteInfo(site="BE-Bra", latitude=51.3, longitude=4.5, igbp="MF")


def test_western_european_letters_do_not_matter(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes((HEAD + "XX-One,1,G,SITE_NAME,Brüel\nXX-One,2,G,IGBP,GRA\n").encode("latin-1"))
    assert read_badm(path)["XX-One"].igbp == "GRA"


def test_a_table_of_sites(tmp_path):
    path = table(tmp_path / "sites.csv", "site_id,latitude,longitude\nXX-One,10.5,-20\n\nXX-Two,-9999,\n")
    infos = read_badm(path)
    assert infos["XX-One"] == SiteInfo(site="XX-One", latitude=10.5, longitude=-20.0)
    assert infos["XX-Two"] == SiteInfo(site="XX-Two")


@pytest.mark.parametrize("turned", [False, True])
def test_bif_comes_first_and_the_table_fills(tmp_path, turned, caplog):
    one = bif(tmp_path / "a.csv", *PLACE[:2], ("XX-One", 2, "IGBP", "ENF"))
    two = table(
        tmp_path / "sites.csv",
        "site_id,latitude,longitude,elevation,igbp,koppen,utc_offset\nXX-One,10.505,-20.25,99,GRA,Cfb,2\n",
    )
    info = read_badm([two, one] if turned else [one, two])["XX-One"]
    assert info == SiteInfo(
        site="XX-One",
        latitude=10.5,
        longitude=-20.25,
        elevation=99.0,
        igbp="ENF",
        koppen="Cfb",
        utc_offset=2.0,
        utc_offsets=((None, 2.0),),
        notes=("sites.csv has the IGBP class GRA; ENF of a file read before is used",),
    )
    assert [record.getMessage() for record in caplog.records] == [f"XX-One: {info.notes[0]}"]


def test_a_place_is_never_mixed_from_two_files(tmp_path):
    one = bif(tmp_path / "a.csv", ("XX-One", 1, "LOCATION_LAT", 10.5))
    two = table(tmp_path / "sites.csv", "site_id,latitude,longitude\nXX-One,10.501,-20\n")
    info = read_badm([one, two])["XX-One"]
    assert (info.latitude, info.longitude) == (10.501, -20.0)


def test_places_that_differ_are_told(tmp_path, caplog):
    one = bif(tmp_path / "a.csv", *PLACE)
    two = table(tmp_path / "sites.csv", "site_id,latitude,longitude\nXX-One,10.52,-20.25\n")
    with caplog.at_level(logging.WARNING):
        assert read_badm([one, two])["XX-One"].latitude == 10.5
    (record,) = caplog.records
    message = record.getMessage()
    assert "sites.csv" in message and "latitude of XX-One" in message and "10.52" in message and "10.5" in message


@pytest.mark.parametrize(("name", "value"), [("LOCATION_LAT", "91"), ("LOCATION_LAT", "ten"), ("LOCATION_LONG", "200")])
def test_an_impossible_value_is_told_with_its_line_and_counts_as_unknown(tmp_path, caplog, name, value):
    rows = [(s, g, n, value if n == name else v) for s, g, n, v in PLACE]
    infos = read_badm(bif(tmp_path / "a.csv", *rows))
    line = 2 + [n for _, _, n, _ in rows].index(name)
    assert f"a.csv, line {line}, XX-One" in caplog.text and repr(value) in caplog.text
    with pytest.raises(SourceError, match="XX-One has no valid latitude and longitude"):
        require_location(infos, "XX-One")


@pytest.mark.parametrize(
    ("text", "hours"),
    [
        ("UTC-6", -6),
        ("\u22126", -6),
        ("\u20133.5", -3.5),
        ("-06:00", -6),
        ("+05:45", 5.75),
        ("GMT +9", 9),
        ("utc+10:30", 10.5),
        ("UTC0", 0),
        ("-00:30", -0.5),
        ("CET", None),
        ("06:75", None),
        ("UTC-", None),
        ("-0600", None),
        ("UTC+15", None),
    ],
)
def test_offsets_as_people_write_them(tmp_path, caplog, text, hours):
    path = tmp_path / "a.csv"
    path.write_text(f"{HEAD}XX-One,1,GRP,UTC_OFFSET,{text}\n", encoding="utf-8")
    assert read_badm(path)["XX-One"].utc_offset == hours
    assert ("line 2, XX-One: utc_offset" in caplog.text) is (hours is None)
    path = table(tmp_path / "sites.csv", "")
    path.write_text(f"site_id,latitude,longitude,utc_offset\nXX-One,1,\u22122,{text}\n", encoding="utf-8")
    info = read_badm(path)["XX-One"]
    assert (info.longitude, info.utc_offset) == (-2, hours)


def test_a_place_at_zero_zero_is_told(tmp_path, caplog):
    zero = [("XX-One", 1, "LOCATION_LAT", 0), ("XX-One", 1, "LOCATION_LONG", "0.0")]
    assert read_badm(bif(tmp_path / "a.csv", *zero))["XX-One"].latitude == 0
    assert "XX-One: latitude and longitude are both 0" in caplog.text
    caplog.clear()
    read_badm(table(tmp_path / "sites.csv", "site_id,latitude,longitude\nXX-One,0,9.4\nXX-Two,51.5,0\n"))
    assert not caplog.records


def test_rows_that_name_no_site_are_left_out_and_told(tmp_path, caplog):
    rows = [*PLACE, ("", 2, "IGBP", "ENF"), (" ", 2, "UTC_OFFSET", 3)]
    infos = read_badm(bif(tmp_path / "FLX_AA-Flx_BIF_HH.csv", *rows))
    assert list(infos) == ["XX-One"] and infos["XX-One"].igbp == ""
    assert "2 rows without a site are left out, the first in line 5" in caplog.text
    caplog.clear()
    path = table(tmp_path / "sites.csv", "site_id,latitude,longitude\n,1,2\nXX-Two,3,4\n")
    assert list(read_badm(path)) == ["XX-Two"]
    assert "1 rows without a site" in caplog.text
    with pytest.raises(SourceError, match=r"nowhere\.csv: no column SITE_ID"):
        read_badm(table(tmp_path / "nowhere.csv", "VARIABLE,DATAVALUE\nIGBP,ENF\n"))


def test_a_site_without_coordinates_is_named_with_a_remedy():
    with pytest.raises(SourceError, match=r"site XX-One is in none .*LOCATION_LAT.*sites\.csv"):
        require_location({}, "XX-One")
    with pytest.raises(SourceError, match=r"site XX-One has no valid .*LOCATION_LAT.*sites\.csv"):
        require_location({"XX-One": SiteInfo(site="XX-One", latitude=3.0)}, "XX-One")
    with pytest.raises(SourceError, match="XX-One"):
        clock_of(SiteInfo(site="XX-One"))


def test_without_an_offset_the_longitude_gives_one_and_says_so(caplog):
    assert clock_of(SiteInfo(site="XX-One", longitude=-86.4)) == -6.0
    assert "XX-One" in caplog.text and "UTC_OFFSET" in caplog.text


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "site_id,latitude\nXX-One,3\n"])
def test_another_file_is_refused(tmp_path, text):
    with pytest.raises(SourceError, match=r"x\.csv, line 1: neither a BIF .*site_id, latitude, longitude"):
        read_badm(table(tmp_path / "x.csv", text))


def test_a_cut_line_is_refused_or_handed_to_the_caller(tmp_path):
    good = bif(tmp_path / "good.csv", *PLACE)
    bad = table(tmp_path / "bad.csv", HEAD + "XX-Two,1,GRP,LOCATION_LAT,3\nXX-Two,1\n")
    with pytest.raises(SourceError, match=r"bad\.csv, line 3: 2 fields, expected 5"):
        read_badm([bad, good])
    seen = []
    infos = read_badm([bad, good], on_error=lambda location, error: seen.append((location.name, str(error))))
    assert set(infos) == {"XX-One"}
    assert [name for name, _ in seen] == ["bad.csv"]


def test_real_bif_and_table_say_the_same_of_every_tower(shared_data, caplog):
    towers = shared_data / "towers"
    one, two = read_badm(next(towers.glob("*_BIF_*.csv"))), read_badm(towers / "sites.csv")
    with open(towers / "sites.csv", newline="") as file:
        rows = {row["site_id"]: row for row in csv.DictReader(file)}
    assert len(rows) == 109 and set(one) == set(two) == set(rows)
    for site, row in rows.items():
        for info in (one[site], two[site]):
            assert (info.latitude, info.longitude) == (float(row["latitude"]), float(row["longitude"]))
            assert (info.igbp, info.utc_offset) == (row["igbp"], float(row["utc_offset"]))
        assert two[site].koppen == row["koppen"]
        # A standard clock is never far from the sun's.
        assert abs(one[site].utc_offset - one[site].longitude / 15) < 2.5
    merged = read_badm([towers / "sites.csv", next(towers.glob("*_BIF_*.csv"))])
    assert all(require_location(merged, site).koppen == row["koppen"] for site, row in rows.items())
    assert not caplog.records


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_metadata_in_another_encoding_are_read_and_a_guess_is_noted(tmp_path, caplog, encoding):
    rows = ["SITE_ID,GROUP_ID,VARIABLE,DATAVALUE", "XX-One,1,SITE_NAME,Fôret", "XX-One,2,LOCATION_LAT,51.5"]
    text = "\n".join([*rows, "XX-One,2,LOCATION_LON,4.5"])
    path = tmp_path / "FLX_XX-One_BIF_LATEST.csv"
    path.write_bytes(text.encode(encoding))
    info = read_badm(path)["XX-One"]
    assert (info.latitude, info.longitude) == (51.5, 4.5)
    assert ("read as Latin-1" in caplog.text) is (encoding == "latin-1")
