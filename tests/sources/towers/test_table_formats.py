"""Read tables in the formats of EddyPro, Campbell loggers, REddyProc and AsiaFlux; ask for what they do not state."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from fluxcube.errors import ConfigError, SourceError
from fluxcube.sources.towers.datetext import parse_parts, parse_times
from fluxcube.sources.towers.table import read_table

ROWS = 96
RNG = np.random.default_rng(5)
NEE = np.round(RNG.normal(-3, 5, ROWS), 3)
CH4 = np.round(RNG.uniform(0.03, 0.07, ROWS), 5)
TAIR = np.round(RNG.normal(12, 4, ROWS), 2)
#: Starts of the periods, local time: the last of them ends with the year.
START = np.datetime64("2015-12-30T00:00", "m") + np.arange(ROWS) * np.timedelta64(30, "m")
END = START + np.timedelta64(30, "m")
OPTIONS = {"site": "XX-Own", "utc_offset": 1, "latitude": 51.1, "longitude": 10.4}
MICRO = "umol m-2 s-1"


def read(path: Path, **options) -> xr.Dataset:
    return read_table(path, **(OPTIONS | options))


def check(record: xr.Dataset, nee: np.ndarray = NEE) -> None:
    """Assert that a record has the right values at the right times."""
    np.testing.assert_array_equal(record.time.values, (START - np.timedelta64(1, "h")).astype("datetime64[ns]"))
    np.testing.assert_allclose(record.NEE, nee, rtol=1e-6)


# --- EddyPro ------------------------------------------------------------------------------------------------------

GROUPS = "file_info,,,,,,,corrected_fluxes_and_quality_flags,,,,air_properties"
NAMES = (
    "filename,date,time,DOY,daytime,file_records,used_records,co2_flux,qc_co2_flux,ch4_flux,qc_ch4_flux,air_temperature"
)
UNIT_ROW = ",[yyyy-mm-dd],[HH:MM],[ddd.ddd],[1=daytime],[#],[#],[µmol+1s-1m-2],[#],[µmol+1s-1m-2],[#],[K]"
EDDYPRO = {"NEE": "co2_flux", "FCH4": "ch4_flux", "TA": "air_temperature"}


def eddypro(path: Path, header: str = f"{GROUPS}\n{NAMES}\n{UNIT_ROW}\n", encoding: str = "utf-8") -> Path:
    """Write a full output of EddyPro; the second row is of a period without enough data."""
    rows = []
    for i, end in enumerate(END):
        day = pd.Timestamp(end)
        when = f"{day:%Y-%m-%d},{day:%H:%M},{day.day_of_year + day.hour / 24:.3f}"
        if i == 1:
            rows.append(f"not_enough_data,{when},-9999,-9999,-9999,-9999,-9999,-9999,-9999,-9999")
            continue
        rows.append(f"x{i}.ghg,{when},1,18000,18000,{NEE[i]},{i % 3},{CH4[i]},0,{TAIR[i] + 273.15:.2f}")
    path.write_bytes((header + "\n".join(rows) + "\n").encode(encoding))
    return path


def without_second(values: np.ndarray) -> np.ndarray:
    return np.where(np.arange(ROWS) == 1, np.nan, values)


@pytest.mark.parametrize(
    ("header", "encoding"),
    [
        (f"{GROUPS}\n{NAMES}\n{UNIT_ROW}\n", "utf-8"),
        (f"{GROUPS}\n{NAMES}\n{UNIT_ROW}\n", "utf-8-sig"),
        (f"{GROUPS}\n{NAMES}\n{UNIT_ROW}\n", "cp1252"),  # as EddyPro before version 7 writes it
        (f"{NAMES}\n{UNIT_ROW.replace('µ', 'μ')}\n", "utf-8"),
        (f"{NAMES.replace('date,time', 'DATE,TIME')}\n", "utf-8"),
    ],
)
def test_eddypro_full_output(tmp_path, header, encoding):
    """Methane in umol becomes nmol, 1000 times as many; times are ends without being told."""
    units = {"NEE": MICRO, "FCH4": MICRO, "TA": "K"}
    record = read(eddypro(tmp_path / "full_output.csv", header, encoding), columns=EDDYPRO, units=units)
    check(record, without_second(NEE))
    np.testing.assert_allclose(record.FCH4, without_second(CH4 * 1000), rtol=1e-6)
    np.testing.assert_allclose(record.TA, without_second(TAIR), atol=1e-4)


@pytest.mark.parametrize("stated", ["[µmol+1s-1m-2]", "[μmol+1s-1m-2]", "µmol m⁻² s⁻¹", "umolm-2s-1", "umol/m2/s"])
def test_a_unit_row_in_any_spelling_is_compared_exactly(tmp_path, stated):
    header = f"{GROUPS}\n{NAMES}\n{UNIT_ROW.replace('[µmol+1s-1m-2]', stated)}\n"
    path = eddypro(tmp_path / "full_output.csv", header)
    with pytest.raises(ConfigError, match=r"line 3, column ch4_flux: the file has .*mol.* 'nmol m-2 s-1': correct"):
        read(path, columns=EDDYPRO, units={"NEE": MICRO, "FCH4": "nmol m-2 s-1", "TA": "K"})
    check(read(path, columns={"NEE": "co2_flux"}, units={"NEE": MICRO}), without_second(NEE))


@pytest.mark.parametrize("stated", ["[furlong+1s-1]", "umol m-2 fortnight-1", "[µmol+1s-1m-2x]"])
def test_a_unit_that_is_not_known_is_refused_by_name(tmp_path, stated):
    header = f"{NAMES}\n{UNIT_ROW.replace('[µmol+1s-1m-2],[#],[K]', f'{stated},[#],[K]')}\n"
    path = eddypro(tmp_path / "full_output.csv", header)
    with pytest.raises(ConfigError, match=r"column ch4_flux: the unit .* of the file is not known") as error:
        read(path, columns=EDDYPRO, units={"NEE": MICRO, "FCH4": MICRO, "TA": "K"})
    assert repr(stated) in str(error.value) and MICRO in str(error.value)


def test_eddypro_states_ends_and_flags_to_discard(tmp_path):
    """Flag 2 of Mauder and Foken (to be discarded) is poor, unless users define the flags."""
    path = eddypro(tmp_path / "full_output.csv")
    own = {"columns": {"NEE": "co2_flux"}, "units": {"NEE": MICRO}, "flags": {"NEE": "qc_co2_flux"}}
    with pytest.raises(ConfigError, match="output of EddyPro, whose times are ends: set stamp='end'"):
        read(path, stamp="start", **own)
    present = np.arange(ROWS) != 1
    flags = np.arange(ROWS) % 3
    assert (read(path, **own).NEE_QC.values == np.where(present, np.array([0, 1, 3])[flags], -1)).all()
    mine = read(path, flag_map={0: 0, 1: 0, 2: 2}, **own)
    assert (mine.NEE_QC.values == np.where(present, np.array([0, 0, 2])[flags], -1)).all()


def test_a_table_that_only_resembles_eddypro_is_asked_for_its_stamps(tmp_path):
    path = tmp_path / "tower.csv"
    index = pd.DatetimeIndex(END)
    columns = {"filename": "a", "date": index.strftime("%Y-%m-%d"), "time": index.strftime("%H:%M"), "Fc": NEE}
    pd.DataFrame(columns).to_csv(path, index=False)
    own = {"columns": {"NEE": "Fc"}, "units": {"NEE": MICRO}}
    with pytest.raises(ConfigError, match=r"column date and time.*set stamp='start' or stamp='end'"):
        read(path, **own)
    check(read(path, stamp="end", **own))


# --- units in the names of columns --------------------------------------------------------------------------------


def test_a_row_of_units_above_the_header_is_compared(tmp_path):
    path = tmp_path / "tower.csv"
    frame = pd.DataFrame({"TIMESTAMP_START": START, "FCH4": CH4 * 1000, "VPD_kPa": 1.5})
    path.write_text("My tower, in the wood\n-,nmol m-2 s-1,kPa\n" + frame.to_csv(index=False))
    columns = {"FCH4": "FCH4", "VPD": "VPD_kPa"}
    with pytest.raises(ConfigError, match="line 2, column FCH4: the file has 'nmol m-2 s-1'"):
        read(path, columns=columns, units={"FCH4": MICRO, "VPD": "kPa"})
    with pytest.raises(ConfigError, match="column VPD_kPa: the file has 'kPa'"):
        read(path, columns=columns, units={"FCH4": "nmol m-2 s-1", "VPD": "hPa"})
    record = read(path, columns=columns, units={"FCH4": "nmol m-2 s-1", "VPD": "kPa"})
    assert (record.VPD == 15).all()


@pytest.mark.parametrize("name", ["FCH4 (nmol m-2 s-1)", "FCH4 [nmolm-2s-1]", "FCH4_[nmol+1s-1m-2]"])
def test_units_in_the_name_of_a_column_are_compared(tmp_path, name):
    path = tmp_path / "tower.csv"
    pd.DataFrame({"TIMESTAMP_START": START, name: CH4 * 1000}).to_csv(path, index=False)
    with pytest.raises(ConfigError, match=r"line 1, column FCH4.*: the file has 'nmol"):
        read(path, columns={"FCH4": name}, units={"FCH4": MICRO})
    record = read(path, columns={"FCH4": name}, units={"FCH4": "nmol m-2 s-1"})
    np.testing.assert_allclose(record.FCH4, CH4 * 1000, rtol=1e-6)


@pytest.mark.parametrize(
    "name", ["TA (2m)", "TA (min)", "TA (f)", "TA (1)", "TA [mean]", "TA (m)", "TA (°C)", "TA [-]"]
)
def test_brackets_without_another_unit_are_ignored(tmp_path, name):
    path = tmp_path / "tower.csv"
    pd.DataFrame({"TIMESTAMP_START": START, name: TAIR}).to_csv(path, index=False)
    np.testing.assert_allclose(read(path, columns={"TA": name}, units={"TA": "degC"}).TA, TAIR, rtol=1e-6)


def test_a_mass_without_its_substance_agrees_with_one_that_has_it(tmp_path):
    """Loggers write mg m-2 s-1; that it is CO2 is for the user to add."""
    path = tmp_path / "flux.dat"
    frame = pd.DataFrame({"TIMESTAMP": END, "Fc": np.round(NEE * 44.009e-3, 5)})
    path.write_text("TIMESTAMP,Fc\nTS,mg m-2 s-1\n,Avg\n" + frame.to_csv(index=False, header=False))
    own = {"columns": {"NEE": "Fc"}, "stamp": "end"}
    np.testing.assert_allclose(read(path, units={"NEE": "mg CO2 m-2 s-1"}, **own).NEE, NEE, atol=1e-3)
    with pytest.raises(ConfigError, match="the file has 'mg m-2 s-1'"):
        read(path, units={"NEE": "ug CO2 m-2 s-1"}, **own)


# --- the sense of time stamps -------------------------------------------------------------------------------------


def toa5(path: Path, first: str = '"TOA5","st","CR3000","1","CR3000.Std","CPU:x.CR3","1","flux"') -> Path:
    rows = "".join(f'"{pd.Timestamp(end):%Y-%m-%d %H:%M:%S}",{i},{NEE[i]}\n' for i, end in enumerate(END))
    head = '"TIMESTAMP","RECORD","Fc_wpl"\n"TS","RN","umol m-2 s-1"\n"","","Smp"\n'
    path.write_text(f"{first}\n{head}{rows}")
    return path


def test_toa5_asks_for_the_sense_of_its_stamps(tmp_path):
    own = {"columns": {"NEE": "Fc_wpl"}, "units": {"NEE": MICRO}}
    path = toa5(tmp_path / "flux.dat")
    with pytest.raises(ConfigError, match=r"starts or the ends of periods: set stamp.*Campbell write the end.*'end'"):
        read(path, **own)
    check(read(path, stamp="end", **own))
    late = read(path, stamp="start", **own)
    assert late.time.values[0] == START[0] - np.timedelta64(30, "m")


@pytest.mark.parametrize("name", ["time", "TIMESTAMP", "DateTime", "when", "Date/Time"])
def test_no_table_without_a_statement_is_read_without_asking(tmp_path, name):
    path = tmp_path / "tower.csv"
    pd.DataFrame({name: END, "Fc": NEE}).to_csv(path, index=False)
    own = {"columns": {"NEE": "Fc"}, "units": {"NEE": MICRO}, "time": name}
    with pytest.raises(ConfigError, match="set stamp='start' or stamp='end'"):
        read(path, **own)
    check(read(path, stamp="end", **own))


@pytest.mark.parametrize(
    ("name", "times", "sense"),
    [
        ("TIMESTAMP_START", START, "start"),
        ("timestamp_end", END, "end"),
        ("period begin", START, "start"),
        ("EndTime", END, "end"),
        ("TIMESTAMP_MID", START + np.timedelta64(15, "m"), "middle"),
    ],
)
def test_the_name_of_a_column_states_the_sense(tmp_path, name, times, sense):
    path = tmp_path / "tower.csv"
    pd.DataFrame({name: times, "Fc": NEE}).to_csv(path, index=False)
    own = {"columns": {"NEE": "Fc"}, "units": {"NEE": MICRO}, "time": name}
    check(read(path, **own))
    for stamp in {"start", "end"} - {sense}:
        with pytest.raises(ConfigError, match=f"times are read from column '{name}': set stamp='{sense}'"):
            read(path, stamp=stamp, **own)


def test_of_two_columns_of_stamps_the_one_that_is_requested_is_read(tmp_path):
    """As in AmeriFlux BASE: lines about the file, two columns of digits."""
    path = tmp_path / "AMF_XX-Own_BASE_HH_1-5.csv"
    stamps = {"TIMESTAMP_START": pd.DatetimeIndex(START), "TIMESTAMP_END": pd.DatetimeIndex(END)}
    frame = pd.DataFrame({name: times.strftime("%Y%m%d%H%M") for name, times in stamps.items()} | {"FC": NEE})
    path.write_text("# Site: XX-Own\n# Version: 1-5\n" + frame.to_csv(index=False))
    for stamp in (None, "start", "end"):
        check(read(path, columns={"NEE": "FC"}, units={"NEE": MICRO}, stamp=stamp))


# --- REddyProc, AsiaFlux, La Thuile -------------------------------------------------------------------------------


def parts(times: np.ndarray, hour: str) -> pd.DataFrame:
    """Return Year, DoY and hours of times, midnight as hour 24 if `hour` is "24" or "2400"."""
    index = pd.DatetimeIndex(times - (np.timedelta64(1, "m") if hour in ("24", "2400") else np.timedelta64(0)))
    minutes = (index.hour * 60 + index.minute).to_numpy() + (1 if hour in ("24", "2400") else 0)
    hours = {
        "24": [f"{minute / 60:g}" for minute in minutes],
        "0": [f"{minute / 60:.1f}" for minute in minutes],
        "2400": [str(minute // 60 * 100 + minute % 60) for minute in minutes],
        "HHMM": [str(minute // 60 * 100 + minute % 60) for minute in minutes],
    }[hour]
    return pd.DataFrame({"Year": index.year, "DoY": index.day_of_year, "Hour": hours})


def write(path: Path, frame: pd.DataFrame, separator: str = "\t", row: str = "") -> Path:
    lines = [separator.join(map(str, cells)) for cells in frame.itertuples(index=False)]
    path.write_text("\n".join([separator.join(frame.columns), *([row] if row else []), *lines]) + "\n")
    return path


REDDYPROC = {"columns": {"NEE": "NEE"}, "units": {"NEE": MICRO}}


@pytest.mark.parametrize("separator", ["\t", " ", ";", ","])
@pytest.mark.parametrize("row", ["", "-- -- -- umolm-2s-1", "- - - [umol m-2 s-1]", "- 1-366 0-24 umolm-2s-1"])
def test_year_day_and_hour(tmp_path, separator, row):
    """Hours from 0.5 to 24 are ends, and the last row of the year belongs to it."""
    if separator == " " and "[" in row:
        return
    cells = row.replace("umol m-2 s-1", "umol_m-2_s-1").split(" ")
    row = separator.join(cells).replace("_", " ")
    path = write(tmp_path / "tower.txt", parts(END, "24").assign(NEE=NEE), separator, row)
    check(read(path, **REDDYPROC))
    check(read(path, time=("Year", "DoY", "Hour"), stamp="end", **REDDYPROC))
    with pytest.raises(ConfigError, match="times of hour 24 are the ends of periods: set stamp='end'"):
        read(path, stamp="start", **REDDYPROC)
    with pytest.raises(ConfigError, match=r"expected none, because .* contain numbers"):
        read(path, time_format="%Y %j %H", **REDDYPROC)


def test_hours_from_0_to_23_5_are_asked_for(tmp_path):
    path = write(tmp_path / "tower.txt", parts(START, "0").assign(NEE=NEE))
    with pytest.raises(ConfigError, match="set stamp='start' or stamp='end'"):
        read(path, **REDDYPROC)
    check(read(path, stamp="start", **REDDYPROC))


def test_hours_and_minutes_in_one_number(tmp_path):
    path = write(tmp_path / "tower.txt", parts(END, "2400").assign(NEE=NEE))
    check(read(path, **REDDYPROC))
    middle = write(tmp_path / "middle.txt", parts(START + np.timedelta64(15, "m"), "HHMM").assign(NEE=NEE))
    for stamp in ("start", "end"):
        with pytest.raises(SourceError, match=r"lie in the middle of periods of 30 minutes.*'middle'"):
            read(middle, stamp=stamp, **REDDYPROC)
    check(read(middle, stamp="middle", **REDDYPROC))


def test_year_month_day_hour_and_minute(tmp_path):
    index = pd.DatetimeIndex(END)
    numbers = {"Year": index.year, "Month": index.month, "Day": index.day, "Hour": index.hour, "Minute": index.minute}
    path = write(tmp_path / "tower.csv", pd.DataFrame(numbers).assign(NEE=NEE), ",")
    check(read(path, stamp="end", **REDDYPROC))
    renamed = pd.DataFrame(numbers).set_axis(["Y", "M", "D", "H", "m"], axis=1).assign(NEE=NEE)
    path = write(tmp_path / "other.csv", renamed, ",")
    time = {"year": "Y", "month": "M", "day": "D", "hour": "H", "minute": "m"}
    check(read(path, time=time, stamp="end", **REDDYPROC))
    with pytest.raises(ConfigError, match=r"time=\{'year': 'Year', 'doy': 'DoY'"):
        read(path, time=("Y", "M", "D", "H", "m"), stamp="end", **REDDYPROC)


def test_year_day_and_clock(tmp_path):
    frame = parts(END, "0").assign(Hour=[f"{pd.Timestamp(end):%H:%M}" for end in END], NEE=NEE)
    path = write(tmp_path / "tower.csv", frame.rename(columns={"DoY": "Day", "Hour": "Time"}), ";")
    check(read(path, stamp="end", **REDDYPROC))


@pytest.mark.parametrize(
    ("numbers", "match"),
    [
        ({"year": "15"}, "line 7: found '15', expected a year of four digits"),
        ({"doy": "0"}, "line 7: found '0', expected a day of the year, counted from 1"),
        ({"doy": "366"}, "line 7: found '366', expected a day of the year"),
        ({"doy": "152.5"}, "line 7: found '152.5', expected a whole number as doy"),
        ({"hour": "25"}, "line 7: found '25', expected an hour"),
        ({"hour": "0.51"}, "line 7: found '0.51', expected an hour .* whole minutes"),
        ({"hour": "x"}, "line 7: found 'x', expected an hour"),
        ({"hour": "''"}, "line 7: found \"''\", expected an hour"),
    ],
)
def test_parts_that_are_no_time(numbers, match):
    good = {"year": "2015", "doy": "152", "hour": "0.5"}
    with pytest.raises(SourceError, match=match):
        parse_parts({name: [text] for name, text in (good | numbers).items()}, [7], "a.txt")


def test_parts_at_the_ends_of_years():
    """Day 366 of a year of 365 days at hour 0 is how some programs write its last midnight."""
    both = parse_parts({"year": ["2015", "2015"], "doy": ["365", "366"], "hour": ["24", "0"]}, [1, 2], "a.txt")
    assert (both == np.datetime64("2016-01-01T00:00")).all()
    third = parse_parts({"year": ["2016"], "doy": ["366"], "hour": ["0,33"]}, [1], "a.txt")
    assert third[0] == np.datetime64("2016-12-31T00:20")


# --- separators at the ends of rows -------------------------------------------------------------------------------


@pytest.mark.parametrize(("header", "row"), [("", ","), (",", ""), (",", ",")])
def test_separators_at_the_ends_of_all_rows_have_no_effect(tmp_path, header, row):
    path = tmp_path / "tower.csv"
    lines = [f"{start},{value}{row}" for start, value in zip(START, NEE, strict=True)]
    path.write_text("\n".join([f"TIMESTAMP_START,Fc{header}", *lines]) + "\n")
    own = {"columns": {"NEE": "Fc"}, "units": {"NEE": MICRO}}
    check(read(path, **own))
    lines[7] = f"{START[7]},1,5{row}"  # a decimal comma
    path.write_text("\n".join([f"TIMESTAMP_START,Fc{header}", *lines]) + "\n")
    with pytest.raises(SourceError, match=r"line 9: .* fields, where the header has"):
        read(path, **own)


# --- dates and zones ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "offset"),
    [
        ("2015-06-01T00:30Z", 0),
        ("2015-06-01 00:30 GMT", 0),
        ("2015-06-01T00:30+01", 1),
        ("2015-06-01T00:30:00.000+0530", 5.5),
        ("2015-06-01T00:30-03:30", -3.5),
        ("2015-06-01 0030", 7),
        ("20150601T0030", 7),
    ],
)
def test_iso_times_with_and_without_a_zone(text, offset):
    assert parse_times([text], [2], "x", utc_offset=offset)[0] == np.datetime64("2015-06-01T00:30")
    if offset != 7:
        with pytest.raises(ConfigError, match=f"set utc_offset={offset:g}"):
            parse_times([text], [2], "x", utc_offset=7)


@pytest.mark.parametrize(("name", "hours"), [("TIMESTAMP_UTC", 0), ("time (UTC+2)", 2), ("GMT-03:30 time", -3.5)])
def test_a_zone_in_the_name_of_the_column_must_agree(tmp_path, name, hours):
    path = tmp_path / "tower.csv"
    pd.DataFrame({name: END, "Fc": NEE}).to_csv(path, index=False)
    own = {"columns": {"NEE": "Fc"}, "units": {"NEE": MICRO}, "time": name, "stamp": "end"}
    with pytest.raises(ConfigError, match=f"states UTC.*set utc_offset={hours:g}"):
        read(path, **own)
    assert read(path, **own | {"utc_offset": hours}).attrs["utc_offset"] == hours


@pytest.mark.parametrize("fraction", [False, True])
def test_a_date_and_an_hour_as_number(tmp_path, fraction):
    path = tmp_path / "tower.csv"
    index = pd.DatetimeIndex(END)
    clock = index.hour + index.minute / 60 if fraction else index.hour * 100 + index.minute
    pd.DataFrame({"date": index.strftime("%d.%m.%Y"), "hhmm": clock, "Fc": NEE}).to_csv(path, index=False)
    check(read(path, columns={"NEE": "Fc"}, units={"NEE": MICRO}, time=("date", "hhmm"), stamp="end"))


# --- spreadsheets -------------------------------------------------------------------------------------------------


def sheet(path: Path, rows: list[list], formats: tuple[str, ...] = ()) -> Path:
    """Write rows as XLSX; `formats` are those of the first columns from the second row on."""
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    for row in book.active.iter_rows(min_row=2):
        for cell, form in zip(row, formats, strict=False):
            cell.number_format = form
    book.save(path)
    return path


def test_a_spreadsheet_is_read_as_its_csv(tmp_path):
    """Dates as Excel stores them (days since 1900), blank cells at the end of a row, units in the second one."""
    serial = (END - np.datetime64("1899-12-30T00:00")).astype(float) / 1440
    values = [None if i == 1 else float(value) for i, value in enumerate(NEE)]
    own = {"columns": {"NEE": "Fc"}, "units": {"NEE": MICRO}, "stamp": "end"}
    rows = [["TIMESTAMP", "Fc"], [None, "umol m-2 s-1"], *map(list, zip(serial.tolist(), values, strict=True))]
    path = sheet(tmp_path / "tower.xlsx", rows, ("yyyy-mm-dd hh:mm",))
    check(read(path, **own), without_second(NEE))
    days, clocks = np.divmod(serial, 1)
    rows = [["date", "time", "Fc"], *map(list, zip(days.tolist(), clocks.tolist(), values, strict=True))]
    path = sheet(tmp_path / "two.xlsx", rows, ("dd/mm/yyyy", "hh:mm"))
    check(read(path, **own), without_second(NEE))
    numbers = parts(END, "24").assign(NEE=NEE)
    rows = [list(numbers.columns), *([int(y), int(d), float(h), float(v)] for y, d, h, v in numbers.itertuples(False))]
    check(read(sheet(tmp_path / "parts.xlsx", rows), **REDDYPROC))


def test_spreadsheets_that_are_no_table(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    own = {"columns": {"NEE": "Fc"}, "units": {"NEE": MICRO}, "stamp": "end"}
    rows = [["TIMESTAMP", "Fc"], ["2015-06-01 00:30", 1.0], ["2015-06-01 01:00", "=B2"]]
    with pytest.raises(SourceError, match="cell B3: a formula"):
        read(sheet(tmp_path / "formula.xlsx", rows), **own)
    book = openpyxl.load_workbook(sheet(tmp_path / "two.xlsx", rows[:2]))
    book.create_sheet("notes").cell(9, 1, "my tower")
    book.save(tmp_path / "two.xlsx")
    with pytest.raises(SourceError, match="expected one sheet, found several"):
        read(tmp_path / "two.xlsx", **own)
    (tmp_path / "old.xls").write_bytes(b"\xd0\xcf\x11\xe0rest")
    with pytest.raises(SourceError, match="found a spreadsheet or zip; save the table as CSV"):
        read(tmp_path / "old.xls", **own)
