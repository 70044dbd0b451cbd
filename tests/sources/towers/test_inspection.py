"""What a folder holds is told from part of each file, and agrees with what reading it all gives."""

from __future__ import annotations

import gzip
import re
import zipfile

import numpy as np
import pandas as pd
import pytest
from test_japanflux import write

from fluxcube.sources.towers import archives
from fluxcube.sources.towers.archive_metadata import archive_places, completed, find_place
from fluxcube.sources.towers.archives import Location
from fluxcube.sources.towers.badm import read_badm
from fluxcube.sources.towers.csvfile import SAMPLE_BYTES, read_sample
from fluxcube.sources.towers.discovery import discover
from fluxcube.sources.towers.inspection import COLUMNS, format_inspection, inspect_raw
from fluxcube.sources.towers.oneflux import read_oneflux

NAME = "FLX_{}_FLUXNET2015_FULLSET_HH_2005-2006_1-4.csv"


@pytest.fixture
def folder(tmp_path):
    """Return four sites: whole, without a place, broken, and one of a product that is not read."""
    columns = {
        "TA_F": [1, 2, 3, 4],
        "TA_F_QC": [0, 0, 2, 0],
        "NEE_VUT_REF": [1, 2, -9999, 4],
        "NEE_VUT_REF_QC": [0, 3, -9999, 1],
    }
    write(tmp_path, columns, name=NAME.format("XX-One"))
    write(tmp_path, columns, name=NAME.format("XX-Two"), step=60)
    write(tmp_path, columns | {"TA_F": [1, "x", 3, 4]}, name=NAME.format("XX-Bad"))
    write(tmp_path, columns, name="FLX_XX-Six_JapanFLUX2024_ALLVARS_HH_2005-2006_1-3.csv")
    (tmp_path / "AMF_XX-Old_BASE_HH_2-5.csv").write_text("")
    (tmp_path / NAME.format("XX-One").replace("_HH_", "_DD_")).write_text("TIMESTAMP,TA_F,TA_F_QC\n20050101,1,0.5\n")
    (tmp_path / "sites.csv").write_text(
        "site_id,lat,lon,igbp,utc_offset\nXX-One,50,10,GRA,1\nXX-Bad,1,2,,\nXX-Six,36,137,,\n"
    )
    return tmp_path


def test_one_row_an_archive_and_one_a_file_left_aside(folder):
    table = inspect_raw(folder)
    assert tuple(table.columns) == COLUMNS and len(table) == 6
    one = table[(table.site == "XX-One") & table.used].iloc[0]
    assert (one.network, one["product"], one.resolution, one.step_minutes, one["rows"]) == (
        "FLUXNET2015",
        "FULLSET",
        "HH",
        30,
        4,
    )
    assert one.variables == ("TA", "NEE") and one.measured == {"TA": 0.75, "NEE": 0.25}
    assert (one.latitude, one.longitude, one.igbp, one.utc_offset, one.why) == (50, 10, "GRA", 1, "")
    why = {(row.site, row.resolution): row.why for row in table[~table.used].itertuples()}
    assert why["XX-One", "DD"].startswith("resolution DD")
    assert "no latitude and longitude" in why["XX-Two", "HH"] and "AmeriFlux BASE" in why["XX-Old", "HH"]
    assert "line 3, column TA_F" in why["XX-Bad", "HH"] and "'x'" in why["XX-Bad", "HH"]
    assert table[table.site == "XX-Two"].step_minutes.item() == 60
    # JapanFlux2024's own clock, which no metadata told.
    assert table[table.site == "XX-Six"].utc_offset.item() == 9.0 and table[table.site == "XX-Six"].used.item()


def test_a_site_whose_clock_is_unknown_is_used_with_a_note(folder):
    (folder / "sites.csv").write_text("site_id,lat,lon\nXX-One,50,10\n")
    one = inspect_raw(folder).query("site == 'XX-One' and used").iloc[0]
    assert "a build estimates it" in one.why and pd.isna(one.utc_offset)
    assert "1 with a note:\n  XX-One: no source has its UTC_OFFSET" in format_inspection(inspect_raw(folder))


def test_days_are_looked_at_too(folder):
    table = inspect_raw(folder, resolution="daily")
    one = table[(table.site == "XX-One") & table.used].iloc[0]
    assert (one.resolution, one.step_minutes, one["rows"], one.variables) == ("DD", 1440, 1, ("TA",))
    assert one.measured == {"TA": 0.5}


def test_the_text_has_a_line_a_site_a_summary_and_every_reason(folder):
    table = inspect_raw(folder)
    text = format_inspection(table)
    assert text.splitlines()[0].split()[:3] == ["site", "network", "product"]
    lines = [line for line in text.splitlines() if line.startswith("XX-")]
    assert [line.split()[0] for line in lines] == ["XX-One", "XX-Six", "XX-Two"]
    assert len({line.index("FLUXNET2015") for line in lines if "FLUXNET2015" in line}) == 1
    assert "2 sites in 2 archives will be used" in text and "4 ignored" in text
    assert all(why in text for why in table[~table.used].why) and all(path in text for path in table[~table.used].path)
    assert "and 1 more" in format_inspection(inspect_raw([folder, folder]).assign(why="same"), max_files=3)
    assert "1 site in 1 archive will be used: 2 site-years" in format_inspection(table[table.site == "XX-One"])
    assert "0 sites" in format_inspection(inspect_raw([]))


def test_metadata_that_cannot_be_read_are_named(folder):
    (folder / "FLX_AA-Flx_BIF_HH_20200501.csv").write_text("nothing\n1\n")
    table = inspect_raw(folder)
    assert table.path.str.endswith("FLX_AA-Flx_BIF_HH_20200501.csv").sum() == 1
    assert "neither a BIF file" in table[table.path.str.contains("_BIF_")].why.item()


def test_unknown_places_clocks_and_years_are_no_numbers(tmp_path):
    """A column with a number in another row has NaN, not None, where a value is unknown."""
    columns = {"TA_F": np.arange(48.0), "TA_F_QC": np.zeros(48, int)}
    write(tmp_path, columns, name=NAME.format("XX-One"))
    write(tmp_path, columns, name=NAME.format("XX-Two"))
    write(tmp_path, columns, name="ICOSETC_XX-Ico_FLUXNET_HH_L2.csv")
    (tmp_path / "sites.csv").write_text("site_id,lat,lon,igbp,utc_offset\nXX-One,50,10,GRA,1\nXX-Ico,50,10,GRA,\n")
    text = format_inspection(inspect_raw(tmp_path))
    assert "nan" not in text.lower() and "unknown" in text and "  ?  " in text
    assert "2 sites in 2 archives will be used: about 3 site-years, about 96 rows" in text
    assert re.search(r"XX-Ico .*FLUXNET +\d{4}-~\d{4} ", text)
    (tmp_path / NAME.format("XX-One")).unlink()
    assert "about 1 site-year," in format_inspection(inspect_raw(tmp_path))
    (tmp_path / "sites.csv").unlink()
    assert "0 sites in 0 archives will be used.\n" in format_inspection(inspect_raw(tmp_path))
    assert "0 site-years" not in format_inspection(inspect_raw(tmp_path))


def test_site_years_are_estimated_where_names_state_none_and_counted_once():
    row = dict.fromkeys(COLUMNS, "") | {"used": True, "measured": {}, "variables": (), "step_minutes": 30}
    row |= {"latitude": 50.0, "longitude": 10.0, "utc_offset": 1.0}
    rows = [
        row | {"site": "XX-Ico", "first_year": 2010, "last_year": None, "rows": 5 * 17532},
        row | {"site": "XX-One", "first_year": 2005, "last_year": 2009, "rows": 5 * 17532},
        row | {"site": "XX-One", "first_year": 2008, "last_year": 2012, "rows": 5 * 17532},
        row | {"site": "XX-Old", "first_year": None, "last_year": None, "rows": None, "step_minutes": None},
    ]
    table = pd.DataFrame(rows).astype({"first_year": "Int64", "last_year": "Int64", "rows": "Int64"})
    text = format_inspection(table)
    assert "about 13 site-years, the years of 1 archive are unknown, about 262,980 rows" in text
    assert "the years of 1 archive are unknown." in format_inspection(table[table.site == "XX-Old"])


def test_inspect_describes_a_site_as_a_build_uses_it(tmp_path):
    """The clock in one archive of a site is that of all its archives, and so is a location."""
    zeros = np.zeros(48, int)
    columns = {"TA_F": np.arange(48.0), "TA_F_QC": zeros, "NEE_VUT_REF": np.ones(48), "NEE_VUT_REF_QC": zeros}
    write(tmp_path, columns, name=NAME.format("XX-One"))
    write(tmp_path, columns, name="FLX_XX-One_JapanFLUX2024_ALLVARS_HH_2005-2006_1-3.csv")
    (tmp_path / "sites.csv").write_text("site_id,lat,lon,igbp\nXX-One,50,10,GRA\n")
    table = inspect_raw(tmp_path)
    assert len(table) == 2 and table.used.all() and not table.why.any()
    assert table.utc_offset.tolist() == [9.0, 9.0]
    archives = discover(tmp_path).archives
    info = find_place(read_badm(discover(tmp_path).badm), "XX-One", archives)
    assert completed(info, archive_places(archives)).utc_offset == 9.0


# ---- part of a file


def test_no_more_than_the_first_mebibytes_of_a_file_are_read(tmp_path, monkeypatch):
    rows = np.arange(700_000)
    text = "A,B\n" + "".join(f"{row},{row % 7}.5\n" for row in rows)
    plain, zipped, packed = tmp_path / "a.csv", tmp_path / "a.zip", tmp_path / "a.csv.gz"
    plain.write_text(text)
    packed.write_bytes(gzip.compress(text.encode(), 1))
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.csv", text)
    assert len(text) > 1.5 * SAMPLE_BYTES
    read = []
    whole = archives._Stream.readinto
    monkeypatch.setattr(archives._Stream, "readinto", lambda self, b: read.append(n := whole(self, b)) or n)
    for location in (Location(plain), Location(packed), Location(zipped, "a.csv")):
        read.clear()
        table, count = read_sample(location, lambda header: header, integers=("A",))
        assert sum(read) <= SAMPLE_BYTES + (1 << 20)
        # Whole rows, each once, in order, from the first on and far into what was read.
        np.testing.assert_array_equal(table.B, np.float32(table.A % 7 + 0.5))
        assert table.A.iloc[0] == 0 and (np.diff(table.A) > 0).all() and table.A.iloc[-1] > 0.5 * len(rows)
        assert abs(count / len(rows) - 1) < 0.05


def test_a_small_file_is_read_whole(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("A\n1\n2\n3")
    table, count = read_sample(Location(path), lambda header: header)
    assert count == 3 and list(table.A) == [1, 2, 3]


@pytest.mark.proof
def test_estimates_of_real_towers_are_near_the_truth(shared_data):
    small = (shared_data / "towers" / "small.txt").read_text().split()
    table = inspect_raw(shared_data / "towers").set_index("site")
    assert len(table) == 109 and table.used.all() and not table.why.any()
    assert table.utc_offset.notna().all() and table.igbp.ne("").all()
    for archive in (archive for archive in discover(shared_data / "towers").archives if archive.site in small):
        row, found = table.loc[archive.site], read_oneflux(archive, utc_offset=0.0)
        assert row.step_minutes == found.step_minutes and abs(row["rows"] / found.sizes["time"] - 1) < 0.01
        assert set(row.variables) == {name for name in found.data_vars if not name.endswith("_QC")}
        assert abs(row.measured["NEE"] - float((found.NEE_QC == 0).mean())) < 0.15
