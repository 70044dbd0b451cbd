"""Values, flags and times as they stand in the file; every fault named with its place."""

from __future__ import annotations

import csv
import datetime
import gzip
import json
import zipfile

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from fluxcube import variables as table
from fluxcube.errors import ConfigError, SourceError, UnknownNameError
from fluxcube.solar import potential_radiation
from fluxcube.sources.towers.badm import clock_of, read_badm
from fluxcube.sources.towers.discovery import discover
from fluxcube.sources.towers.oneflux import parse_stamps, read_oneflux

NAME = "FLX_XX-One_FLUXNET2015_FULLSET_HH_2005-2006_1-4.csv"
COLUMNS = ("TA_F", "TA_F_QC", "NEE_VUT_REF", "NEE_VUT_REF_QC", "GPP_NT_VUT_REF")


def stamps(n, step=30, start="2005-01-01T00:00"):
    """Return n + 1 stamps as ONEFlux writes them."""
    times = np.datetime64(start, "m") + np.arange(n + 1) * step
    return [str(time).translate(str.maketrans("", "", "-T:")) for time in times]


def lines(columns=COLUMNS, rows=None, n=6, step=30):
    """Return the lines of a small file; `rows` are the texts of its values."""
    rows = rows or [["1.5", "0", "-2.5", "1", "3.0"]] * n
    times = stamps(len(rows), step)
    head = ",".join(["TIMESTAMP_START", "TIMESTAMP_END", *columns])
    return [head, *(",".join([times[i], times[i + 1], *row]) for i, row in enumerate(rows))]


def write(tmp_path, text, name=NAME):
    path = tmp_path / name
    path.write_text("\n".join(text) + "\n" if isinstance(text, list) else text)
    return path


def read(tmp_path, text, **options):
    return read_oneflux(write(tmp_path, text), **{"utc_offset": 0.0, **options})


def refused(tmp_path, text, *expected, **options):
    """Check that a file is refused with its name, and everything `expected`, in the message."""
    with pytest.raises(SourceError) as raised:
        read(tmp_path, text, **options)
    message = str(raised.value)
    for part in (NAME, *expected):
        assert part in message, f"{part!r} not in {message!r}"
    assert any(advice in message for advice in ("get the", "download", "Download", "correct it", "repair")), message


# ---- stamps


@given(st.lists(st.datetimes(datetime.datetime(1900, 1, 1), datetime.datetime(2199, 12, 31, 23, 59)), max_size=20))
def test_stamps_are_the_times_they_spell(times):
    numbers = np.array([int(time.strftime("%Y%m%d%H%M")) for time in times], np.int64)
    expected = np.array([time.replace(second=0, microsecond=0) for time in times], "datetime64[m]")
    np.testing.assert_array_equal(parse_stamps(numbers), expected)


@given(st.integers(0, 10**13))
def test_what_is_no_time_is_not_a_time(number):
    found = parse_stamps(np.array([number]))[0]
    try:
        expected = datetime.datetime.strptime(f"{number:012d}", "%Y%m%d%H%M") if number < 10**12 else None
    except ValueError:
        expected = None
    if expected is None or not 1900 <= expected.year < 2200:
        assert np.isnat(found)
    else:
        assert found == np.datetime64(expected, "m")


# ---- values and flags


def test_values_flags_and_times(tmp_path):
    rows = [["1.5", "0", "-2.5", "1", "3.0"], ["-9999", "2", "-9999.0", "-9999", "-9999"], ["", "", "7", "3", "0"]]
    found = read(tmp_path, lines(rows=rows), utc_offset=5.5)
    np.testing.assert_array_equal(found.TA, np.float32([1.5, np.nan, np.nan]))
    np.testing.assert_array_equal(found.TA_QC, [0, -1, -1])
    np.testing.assert_array_equal(found.NEE, np.float32([-2.5, np.nan, 7]))
    np.testing.assert_array_equal(found.NEE_QC, [1, -1, 3])
    np.testing.assert_array_equal(found.GPP_NT, np.float32([3, np.nan, 0]))
    np.testing.assert_array_equal(found.GPP_NT_QC, [1, -1, 3])
    expected = np.array(["2004-12-31T18:30", "2004-12-31T19:00", "2004-12-31T19:30"], "datetime64[ns]")
    np.testing.assert_array_equal(found.time, expected)
    assert found.time.dtype == "datetime64[ns]"
    assert all(found[name].dtype == (np.int8 if name.endswith("_QC") else np.float32) for name in found.data_vars)
    assert (found.step_minutes, found.site, found.network) == (30, "XX-One", "FLUXNET2015")
    assert found.source_file == NAME
    assert json.loads(found.columns) == {"TA": "TA_F", "NEE": "NEE_VUT_REF", "GPP_NT": "GPP_NT_VUT_REF"}
    assert found.TA.attrs["units"] == "degC"


@pytest.mark.parametrize(
    ("column", "name", "flag"),
    [("PA", "PA", 0), ("PA_F", "PA", 2), ("TA_F_MDS", "TA", 3), ("TS_F_MDS_2", "TS_2", 3), ("SWC_F", "SWC_1", 2)],
)
def test_a_column_without_flags_has_those_its_name_says(tmp_path, column, name, flag):
    found = read(tmp_path, lines([column], [["1"], ["-9999"]]))
    np.testing.assert_array_equal(found[f"{name}_QC"], [flag, -1])


def test_nee_without_flags_is_not_taken_for_measured(tmp_path):
    found = read(tmp_path, lines(["NEE_VUT_REF", "RECO_DT_VUT_REF"], [["1", "2"]]))
    assert (found.NEE_QC.item(), found.RECO_DT_QC.item()) == (3, 3)


def test_a_value_whose_flag_is_missing_is_counted(tmp_path):
    rows = [["1", "-9999", "1", "", "2"], ["1", "1", "-9999", "-9999", "2"], ["1", "", "1", "0", "-9999"]]
    found = read(tmp_path, lines(rows=rows))
    np.testing.assert_array_equal(found.TA_QC, [2, 1, 2])
    np.testing.assert_array_equal(found.NEE_QC, [3, -1, 0])
    np.testing.assert_array_equal(found.GPP_NT_QC, [3, 3, -1])
    assert json.loads(found.flags_assumed) == {"TA": 2, "NEE": 1, "GPP_NT": 2}


def test_lower_case_flags_are_no_flags(tmp_path):
    """Only upper case is ONEFlux's."""
    assert read(tmp_path, lines(["TA_F", "TA_F_qc"], [["1", "0"]])).TA_QC.item() == 2


def test_each_step_has_the_best_alias_that_has_a_value(tmp_path):
    """What a FULLSET measured does not hide how its gaps were filled: its SUBSET has the fills, too."""
    columns = ["PA_F", "PA", "PA_F_QC"]
    found = read(tmp_path, lines(columns, [["99", "98", "2"], ["99", "-9999", "2"], ["-9999", "-9999", "-9999"]]))
    np.testing.assert_array_equal(found.PA, np.float32([98, 99, np.nan]))
    np.testing.assert_array_equal(found.PA_QC, [0, 2, -1])
    assert json.loads(found.columns) == {"PA": "PA, PA_F"}
    found = read(tmp_path, lines(columns, [["99", "98", "2"], ["99", "97", "2"]]))
    assert json.loads(found.columns) == {"PA": "PA"} and (found.PA_QC == 0).all()
    found = read(tmp_path, lines(columns, [["99", "-9999", "2"], ["99", "-9999", "2"]]))
    np.testing.assert_array_equal(found.PA, np.float32([99, 99]))
    np.testing.assert_array_equal(found.PA_QC, [2, 2])
    found = read(tmp_path, lines(["PA"], [["-9999"]]))
    assert np.isnan(found.PA.item()) and found.PA_QC.item() == -1


def test_only_what_is_asked_for_is_read(tmp_path):
    found = read(tmp_path, lines(), variables=["GPP_NT", "CO2", "DOY"])
    assert set(found.data_vars) == {"GPP_NT", "GPP_NT_QC"}
    assert (found.GPP_NT_QC == 1).all()
    assert set(read(tmp_path, lines(), variables=["CO2"]).data_vars) == set()
    with pytest.raises(UnknownNameError, match="SW_IN"):
        read(tmp_path, lines(), variables=["SW_INN"])


def test_order_of_columns_does_not_matter(tmp_path):
    text = lines(rows=[[f"{i}", f"{i % 4}", f"-{i}", f"{i % 3}", f"{2 * i}"] for i in range(8)])
    turned = [",".join(reversed(line.split(","))) for line in text]
    xr.testing.assert_identical(read(tmp_path, text), read(tmp_path, turned))


def test_plain_gz_zip_windows_ends_blank_lines_and_bom_read_the_same(tmp_path):
    text = "\n".join(lines(rows=[[f"{i}.25", "1", "0.5", "2", "1e-2"] for i in range(50)]))
    plain = read(tmp_path, text)
    gz, zipped = tmp_path / f"{NAME}.gz", tmp_path / NAME.replace("csv", "zip")
    gz.write_bytes(gzip.compress(text.encode()))
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"folder/{NAME}", text)
    others = [read_oneflux(gz, utc_offset=0), read_oneflux(zipped, utc_offset=0)]
    others.append(read_oneflux(zipped, utc_offset=0, member=f"folder/{NAME}"))
    others.append(read(tmp_path, "\ufeff" + text.replace("\n", "\r\n") + "\r\n"))
    others.append(read(tmp_path, text.replace("\n", "\n\n", 3) + "\n\n"))
    others.append(read(tmp_path, text.replace("TA_F,", '"TA_F",')))
    for other in others:
        xr.testing.assert_equal(plain, other)


# ---- step and clock


@pytest.mark.parametrize("name", [NAME, NAME.replace("_HH_", "_HR_")])
@pytest.mark.parametrize("step", [30, 60])
def test_the_step_comes_from_the_stamps_never_from_the_name(tmp_path, name, step):
    found = read_oneflux(write(tmp_path, lines(step=step), name), utc_offset=0)
    assert found.step_minutes == step
    assert (np.diff(found.time) == np.timedelta64(step, "m")).all()


def test_holes_stay_holes(tmp_path):
    text = lines(n=10)
    found = read(tmp_path, text[:4] + text[7:])
    assert found.sizes["time"] == 7
    assert np.diff(found.time).max() == np.timedelta64(4 * 30, "m")


def test_dated_offsets_hold_from_their_date_on(tmp_path):
    text = lines(n=96)
    found = read(tmp_path, text, utc_offset=((None, 2.0), ("2005-01-02", 1.0)))
    old = read(tmp_path, text, utc_offset=2.0)
    new = read(tmp_path, text, utc_offset=1.0)
    np.testing.assert_array_equal(found.time[:48], old.time[:48])
    np.testing.assert_array_equal(found.time[48:], new.time[48:])
    assert found.clock_repeats == 0
    undated = read(tmp_path, text, utc_offset=[("2005-01-02", 1.0), ("2004-06-01", 2.0)])
    np.testing.assert_array_equal(undated.time, found.time)


def test_an_offset_that_grows_repeats_no_hour(tmp_path):
    rows = [[str(i)] for i in range(96)]
    for step, more, lost in ((30, 1.0, 2), (30, 0.75, 2), (60, 1.0, 1), (60, 0.5, 1)):
        text = lines(["TA"], rows, step=step)
        found = read(tmp_path, text, utc_offset=((None, 1.0), ("2005-01-02", 1.0 + more)))
        assert (np.diff(found.time) >= np.timedelta64(step, "m")).all()
        assert found.clock_repeats == lost
        # What the old clock saw stays; what is left out is the first of the new.
        first = 24 * 60 // step
        np.testing.assert_array_equal(found.TA, np.float32([i for i in range(96) if not first <= i < first + lost]))


def test_an_entry_dated_after_the_record_changes_nothing(tmp_path):
    one = read(tmp_path, lines(), utc_offset=-3.5)
    two = read(tmp_path, lines(), utc_offset=((None, -3.5), (np.datetime64("2030-01-01"), 4.0)))
    xr.testing.assert_identical(one, two)


@pytest.mark.parametrize("offset", [15.0, float("nan"), (), ((None, 99.0),), (("yesterday", 1.0),)])
def test_impossible_offsets_are_refused(tmp_path, offset):
    with pytest.raises(ConfigError, match="utc_offset"):
        read(tmp_path, lines(), utc_offset=offset)


# ---- bad input: each names the file, the line or column, what was expected, and what to do


def test_a_file_that_is_not_oneflux(tmp_path):
    refused(
        tmp_path, "year,doy,flux\n2005,1,2\n", "line 1", "no TIMESTAMP_START and no TIMESTAMP_END", "year, doy, flux"
    )
    refused(tmp_path, lines(["FOO", "BAR"], [["1", "2"]]), "line 1", "none of ONEFlux's variables", "FOO, BAR")
    refused(tmp_path, lines()[0].replace(",", ";") + "\n1;2;3\n", "line 1", "commas between columns")


def test_a_missing_timestamp_column(tmp_path):
    text = [line.split(",", 1)[1] for line in lines()]
    refused(tmp_path, text, "line 1", "found no TIMESTAMP_START")
    daily = ["TIMESTAMP,TA_F,TA_F_QC", "20050101,1.0,0.75"]
    refused(tmp_path, daily, "line 1", "column TIMESTAMP,", "half-hourly (HH)")


@pytest.mark.parametrize("name", ["TIMESTAMP_START", "TA_F", "FOO"])
def test_a_column_that_is_there_twice(tmp_path, name):
    columns = [*COLUMNS, "FOO"]
    text = [f"{line},1" for line in lines(columns, [["1"] * 6])]
    text[0] = text[0][:-1] + name
    where = 1 + ["TIMESTAMP_START", "TIMESTAMP_END", *columns].index(name)
    refused(tmp_path, text, "line 1", f"column {name} occurs 2 times (columns {where}, 9)")


def test_a_stamp_that_is_there_twice(tmp_path):
    text = lines(n=8)
    refused(tmp_path, text[:5] + text[4:], "line 6", "TIMESTAMP_START", text[4].split(",")[0], "twice")


def test_stamps_out_of_order(tmp_path):
    text = lines(n=8)
    text[3], text[6] = text[6], text[3]
    refused(tmp_path, text, "line 5", "TIMESTAMP_START", text[4].split(",")[0], "in order")


@pytest.mark.parametrize(
    ("stamp", "why"),
    [
        ("200502300000", "YYYYMMDDHHMM"),
        ("200501012400", "YYYYMMDDHHMM"),
        ("200513010000", "YYYYMMDDHHMM"),
        ("200501010060", "YYYYMMDDHHMM"),
        ("20050101", "YYYYMMDDHHMM"),
        ("-9999", "YYYYMMDDHHMM"),
        ("", "a whole number"),
        ("2005-01-01 01:00", "a whole number"),
        ("20050101010O", "a whole number"),
    ],
)
@pytest.mark.parametrize("column", [0, 1])
def test_a_stamp_that_is_no_time(tmp_path, stamp, why, column):
    text = lines()
    fields = text[3].split(",")
    fields[column] = stamp
    text[3] = ",".join(fields)
    name = ("TIMESTAMP_START", "TIMESTAMP_END")[column]
    refused(tmp_path, text, "line 4", f"column {name}", why, repr(stamp))


@pytest.mark.parametrize("bad", ["abc", "1.2.3", "--9999", "1x", "inf", "1e999", "0x10", "1_0", "null", "#N/A"])
@pytest.mark.parametrize("column", COLUMNS)
def test_text_in_a_number_column(tmp_path, bad, column):
    rows = [["1.5", "0", "-2.5", "1", "3.0"] for _ in range(6)]
    rows[4][COLUMNS.index(column)] = bad
    kind = "flag" if column.endswith("_QC") and bad in ("inf", "1e999") else "number"
    refused(tmp_path, lines(rows=rows), "line 6", f"column {column}", repr(bad), f"expected a {kind}")


def test_text_in_a_column_that_is_not_read_does_not_matter(tmp_path):
    assert read(tmp_path, lines(["TA_F", "COMMENT"], [["1", "cold"]])).TA.item() == 1


def test_the_line_is_the_line_of_the_file_even_after_blank_ones(tmp_path):
    text = lines()
    text[5] = text[5].replace("1.5", "warm")
    refused(tmp_path, [text[0], "", *text[1:3], "", *text[3:]], "line 8", "'warm'")
    text = lines()
    refused(tmp_path, [text[0], "", *text[1:4], "", *text[3:]], "line 7", "twice")


def test_a_line_far_below_the_first_block_is_named(tmp_path):
    text = lines(["TA_F"], [["1.5"]] * 40_000)
    text[39_000] = text[39_000].replace("1.5", "x")
    assert len("\n".join(text)) > 1 << 20
    refused(tmp_path, text, "line 39001", "column TA_F", "'x'")
    text[39_000] = text[39_000].replace(",x", "")
    refused(tmp_path, text, "line 39001", "2 fields", "has 3")


@pytest.mark.parametrize("flag", ["0.75", "4", "-1", "1.5"])
def test_flags_are_whole_numbers_from_0_to_3(tmp_path, flag):
    """Other flags of NEE, the table's main flux, say that the table is of another kind; those of TA say it of TA."""
    rows = [["1.5", "0", "-2.5", "1", "3.0"] for _ in range(6)]
    rows[2][3] = flag
    refused(tmp_path, lines(rows=rows), "line 4", "column NEE_VUT_REF_QC", f"'{flag}'", "0, 1, 2 or 3", "daily")
    rows[2][1], rows[2][3] = flag, "1"
    found = read(tmp_path, lines(rows=rows))
    lost = 6 if "." in flag else 1  # a fraction is of another scale, another whole number a fault of its cell
    assert (found.TA_QC == 2).sum() == lost and (found.TA == 1.5).all() and (found.NEE_QC == 1).all()
    assert json.loads(found.attrs["flags_assumed"])["TA"] == lost
    assert f"column TA_F_QC: found {float(flag):g} (1 such rows)" in found.attrs["doubts"]


def test_a_wrong_step(tmp_path):
    refused(tmp_path, lines(step=15), "line 2", "15 minutes", "30 or 60")
    refused(tmp_path, lines(step=24 * 60), "line 2", "1440 minutes", "30 or 60")
    backwards = [lines()[0], "200501010030,200501010000,1,0,1,0,1"]
    refused(tmp_path, backwards, "line 2", "-30 minutes")


def test_a_mixed_step(tmp_path):
    text = lines(n=8)
    text[5] = text[5].replace("200501010230", "200501010300", 1)
    refused(tmp_path, text, "line 6", "TIMESTAMP_END", "'200501010300'", "30 minutes")
    hours = lines(n=8) + [line.replace("20050101", "20050102") for line in lines(n=4, step=60)[1:]]
    refused(tmp_path, hours, "line 10", "TIMESTAMP_END", "30 minutes", "(4 such rows)")


def test_rows_off_the_grid(tmp_path):
    text = lines(n=4)
    text.append("200501010215,200501010245,1,0,1,0,1")
    refused(tmp_path, text, "line 6", "TIMESTAMP_START", "not a multiple of 30 minutes")
    text[-1] = "200501010145,200501010215,1,0,1,0,1"
    refused(tmp_path, text, "line 6", "TIMESTAMP_START", "not a multiple of 30 minutes")


def test_a_row_of_another_length(tmp_path):
    for change in (lambda row: row[:-4], lambda row: row + ",1", lambda row: row.split(",")[0]):
        text = lines()
        text[4] = change(text[4])
        refused(tmp_path, text, "line 5", "fields, where the header has 7")


def test_two_faults_that_cancel_are_found(tmp_path):
    """One row has a comma too many and the next one too few."""
    text = lines()
    text[2], text[3] = text[2] + ",1", text[3].rsplit(",", 1)[0]
    refused(tmp_path, text, "line 3", "8 fields")


def test_a_last_row_that_is_cut(tmp_path):
    text = "\n".join(lines())
    for end in range(1, 24):
        cut = text[:-end]
        if cut.rsplit("\n", 1)[-1].count(",") != 6:
            refused(tmp_path, cut, "line 7")


def test_empty_files(tmp_path):
    refused(tmp_path, "", "empty")
    refused(tmp_path, "\n\n", "empty")
    refused(tmp_path, lines()[:1], "a header and no rows")
    refused(tmp_path, lines()[0], "a header and no rows")


def test_binary_junk(tmp_path):
    path = write(tmp_path, "")
    for data in (bytes(range(256)) * 40, "Äg,ö\n1,2\n".encode("utf-16"), b"\xff\xfe" * 100, b"a\rb\rc\r1\r2"):
        path.write_bytes(data)
        with pytest.raises(SourceError, match=rf"{NAME}, line 1: .*expected"):
            read_oneflux(path, utc_offset=0)
    good = "\n".join(lines(n=40)).encode()
    for junk in (b"\0\0\0", b"\xff\xfe", b"\x80abc"):
        path.write_bytes(good[:600] + junk + good[600 + len(junk) :])
        with pytest.raises(SourceError, match=rf"{NAME}, line \d+.*(correct|download|Download)"):
            read_oneflux(path, utc_offset=0)


def test_a_cut_zip_and_one_without_a_table(tmp_path):
    path = tmp_path / NAME.replace("csv", "zip")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(NAME, "\n".join(lines()))
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    with pytest.raises(SourceError, match=rf"{path.name}: cut or broken.*download it again"):
        read_oneflux(path, utc_offset=0)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(NAME.replace("_HH_", "_DD_"), "\n".join(lines()))
    with pytest.raises(SourceError, match=rf"{path.name}: no half-hourly or hourly .* full archive"):
        read_oneflux(path, utc_offset=0)


def test_an_archive_entry_that_leaves_the_archive(tmp_path):
    path = tmp_path / NAME.replace("csv", "zip")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(NAME, "\n".join(lines()))
        archive.writestr(f"../{NAME}", "\n".join(lines()))
    with pytest.raises(SourceError, match=rf"{path.name}.*'\.\.' in its name"):
        read_oneflux(path, utc_offset=0, member=NAME)


def test_a_corrupted_member_while_it_is_parsed(tmp_path):
    path = tmp_path / NAME.replace("csv", "zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(NAME, "\n".join(lines(n=40_000)))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(SourceError, match=rf"{NAME}: cut or broken"):
        read_oneflux(path, utc_offset=0)


def test_ameriflux_base_by_its_content(tmp_path):
    """Renamed, unpacked or without its comments, it stays another product."""
    text = lines(["FC", "TA", "TA_1_1_1", "SW_IN"], [["1", "2", "3", "4"]])
    refused(tmp_path, text, "line 1", "AmeriFlux BASE", "FLUXNET product")
    refused(tmp_path, ["# Site: US-CRT", "# Version: 2-5", *text], "line 1", "AmeriFlux BASE", "FLUXNET product")


# ---- real files


def test_the_real_ameriflux_base_is_refused_by_name_and_by_content(shared_data, tmp_path):
    path = shared_data / "formats" / "AMF_US-CRT_BASE-BADM_2-5.zip"
    with pytest.raises(SourceError, match=r"AMF_US-CRT_BASE-BADM_2-5\.zip.*AmeriFlux BASE.*FLUXNET product"):
        read_oneflux(path, utc_offset=-5)
    with zipfile.ZipFile(path) as archive, archive.open("AMF_US-CRT_BASE_HH_2-5.csv") as member:
        head = b"".join(member.readline() for _ in range(50)).decode()
    refused(tmp_path, head, "AmeriFlux BASE")
    refused(tmp_path, head.split("\n", 2)[2], "AmeriFlux BASE")


def test_the_real_fullset_header_gives_what_a_slow_reader_gives(shared_data):
    (path,) = (shared_data / "formats").glob("FLX_CH-Cha_*.csv")
    found = read_oneflux(path, utc_offset=1.0)
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    columns = json.loads(found.columns)
    assert (found.sizes["time"], len(rows[0]), found.network) == (len(rows), 267, "ICOS Warm Winter 2020")
    assert {"NEE", "GPP_DT", "GPP_NT", "RECO_DT", "RECO_NT", "LE", "H", "TA", "SWC_1", "TS_5"} <= set(columns)
    for name, column in columns.items():
        expected = np.array([float(row[column]) for row in rows])
        expected[expected == -9999] = np.nan
        np.testing.assert_array_equal(found[name], expected.astype(np.float32))
        flag = f"{table.variable(name).qc_from or column}_QC"
        if flag in rows[0]:
            flags = [int(row[flag]) for row in rows]
            np.testing.assert_array_equal(found[f"{name}_QC"], np.where(np.isnan(expected), -1, flags))
    # ERA fills of the consolidated columns say so: the tower had not begun.
    assert (found.TA_QC == 2).all()


def test_real_towers_see_the_sun_when_it_shines(shared_data):
    """Decoded to UTC with their own offsets, light follows the sun to better than an hour."""
    found = discover(shared_data / "towers")
    infos = read_badm(found.badm)
    small = (shared_data / "towers" / "small.txt").read_text().split()
    for archive in (archive for archive in found.archives if archive.site in small):
        info = infos[archive.site]
        data = read_oneflux(archive, utc_offset=clock_of(info), variables=["SW_IN"])
        data = data.isel(time=slice(0, 17520))
        light = data.SW_IN.where(data.SW_IN_QC == 0).to_numpy()
        hours = data.step_minutes / 60
        fits = {}
        for shift in (-60, 0, 60):
            time = data.time.to_numpy() + np.timedelta64(shift, "m")
            sun = potential_radiation(time, info.latitude, info.longitude, hours=hours)
            there = ~np.isnan(light)
            fits[shift] = np.corrcoef(light[there], sun[there])[0, 1]
        assert max(fits, key=fits.get) == 0, (archive.site, fits)


@pytest.mark.proof
def test_every_real_tower_reads_with_sane_numbers(shared_data):
    with open(shared_data / "towers" / "sites.csv", newline="") as file:
        rows = {row["site_id"]: row for row in csv.DictReader(file)}
    archives = discover(shared_data / "towers").archives
    assert [archive.site for archive in archives] == sorted(rows)
    for archive in archives:
        data = read_oneflux(archive, utc_offset=0.0)
        assert data.step_minutes == int(rows[archive.site]["step_minutes"])
        assert int((data.NEE_QC == 0).sum()) == int(rows[archive.site]["nee_measured"])
        assert (np.diff(data.time) > np.timedelta64(0)).all()
        for name in json.loads(data.columns):
            values, flags = data[name].to_numpy(), data[f"{name}_QC"].to_numpy()
            np.testing.assert_array_equal(np.isnan(values), flags == -1)
            assert not (values < -999).any()
        # NEE = RECO - GPP, to the step that values were packed with.
        closure = (data.NEE - (data.RECO_NT - data.GPP_NT)).to_numpy()
        assert np.nanmax(np.abs(closure)) < 0.01
