"""A table of one's own: the same values, however they are written down; what is not said is asked for."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fluxcube.cubes.hourly import to_hourly
from fluxcube.errors import ConfigError, SourceError, UnknownNameError
from fluxcube.sources.towers.datetext import parse_times
from fluxcube.sources.towers.oneflux import read_oneflux
from fluxcube.sources.towers.table import read_table
from fluxcube.units import convert
from fluxcube.variables import table

PLACE = {"site": "XX-Own", "utc_offset": 1, "latitude": 51.1, "longitude": 10.4}
COLUMNS = {"TA": "Tair", "SW_IN": "Rg", "VPD": "vpd", "P": "rain", "NEE": "Fc"}
UNITS = {"TA": "degC", "SW_IN": "W m-2", "VPD": "hPa", "P": "mm", "NEE": "umol m-2 s-1"}


def truth(rows: int = 200, step: int = 30, start: str = "2020-01-20") -> pd.DataFrame:
    """Values to a thousandth by time at the start of the period, a tenth missing."""
    rng = np.random.default_rng(3)
    ranges = {"TA": (-5, 25), "SW_IN": (0, 900), "VPD": (0, 30), "P": (0, 2), "NEE": (-25, 10)}
    index = pd.date_range(start, periods=rows, freq=f"{step}min")
    frame = pd.DataFrame({name: rng.uniform(low, high, rows).round(3) for name, (low, high) in ranges.items()}, index)
    return frame.mask(rng.random(frame.shape) < 0.1)


FRAME = truth()


def write(
    path: Path,
    frame: pd.DataFrame = FRAME,
    *,
    separator=",",
    decimal=".",
    form="%Y-%m-%d %H:%M",
    missing="-9999",
    name="time",
    before="",
    below="",
    shift=0,
    encoding="utf-8",
    newline="\n",
) -> Path:
    """Write a table as someone might."""
    lines = [separator.join([name, *(COLUMNS.get(column, column) for column in frame)])]
    for time, row in frame.iterrows():
        cells = [missing if np.isnan(value) else f"{value:.3f}".replace(".", decimal) for value in row]
        lines.append(separator.join([f"{time + pd.Timedelta(minutes=shift):{form}}", *cells]))
    text = before + lines[0] + "\n" + below + "\n".join(lines[1:]) + "\n"
    path.write_bytes(text.replace("\n", newline).encode(encoding))
    return path


def read(path: Path, **options) -> xr.Dataset:
    return read_table(path, **(PLACE | {"columns": COLUMNS, "units": UNITS, "stamp": "start"} | options))


def agrees(record: xr.Dataset, frame: pd.DataFrame = FRAME, utc_offset: float = 1) -> bool:
    """Whether a record has the values of the table at the right time."""
    assert (record.time.values == frame.index.values - np.timedelta64(round(utc_offset * 60), "m")).all()
    for name in frame:
        np.testing.assert_array_equal(record[name].values, frame[name].to_numpy(np.float32))
        assert (record[f"{name}_QC"].values == np.where(frame[name].notna(), 0, -1)).all()
    return True


FORMS = [
    "%Y-%m-%d %H:%M",
    "%Y-%m-%dT%H:%M:%S",
    "%Y/%m/%d %H:%M",
    "%Y%m%d%H%M",
    "%d.%m.%Y %H:%M",
    "%m/%d/%Y %H:%M:%S",
]
SHORT = FRAME.iloc[:60]


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from([".", ","]),
    st.sampled_from(FORMS),
    st.sampled_from(["-9999", "", "NaN", "NA", " -9999.0 ", "n/a"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252"]),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["", "# a tower, Müncheberg\n# 2020\n", "\n\n"]),
    st.booleans(),
)
def test_the_same_values_however_they_are_written(
    tmp_path_factory, separator, decimal, form, missing, encoding, newline, before, packed
):
    assume(not (separator == "," and decimal == ","))
    path = write(
        tmp_path_factory.mktemp("t") / "tower.csv",
        SHORT,
        separator=separator,
        decimal=decimal,
        form=form,
        missing=missing,
        encoding=encoding,
        newline=newline,
        before=before,
    )
    if packed:
        path = path.rename(path.with_suffix(".csv.gz"))
        path.write_bytes(gzip.compress(path.read_bytes()))
    assert agrees(read(path), SHORT)


def test_attributes_tell_the_place(tmp_path):
    record = read(
        write(tmp_path / "tower.csv"), igbp="ENF", koppen="Cfb", elevation=40, licence="CC-BY-4.0", citation="Me (2020)"
    )
    told = ("site", "network", "latitude", "longitude", "elevation", "utc_offset")
    assert {key: record.attrs[key] for key in told} == {
        "site": "XX-Own",
        "network": "own",
        "latitude": 51.1,
        "longitude": 10.4,
        "elevation": 40.0,
        "utc_offset": 1.0,
    }
    assert (record.attrs["igbp"], record.attrs["koppen"], record.attrs["licence"]) == ("ENF", "Cfb", "CC-BY-4.0")
    assert record.attrs["citation"] == "Me (2020)" and record.attrs["step_minutes"] == 30
    assert json.loads(record.attrs["columns"]) == COLUMNS and record.TA.attrs["units"] == "degC"
    assert json.loads(record.attrs["flags_assumed"])["TA"] == int(FRAME.TA.notna().sum())
    assert "elevation" not in read(tmp_path / "tower.csv").attrs


def test_the_end_of_a_period_is_not_its_start(tmp_path):
    path = write(tmp_path / "tower.csv", shift=30)
    assert agrees(read(path, stamp="end"))
    late = read(path)
    assert (late.time.values - read(path, stamp="end").time.values == np.timedelta64(30, "m")).all()


@pytest.mark.parametrize("offset", [0, -3.5, 5.75, 14, -12])
def test_offsets(tmp_path, offset):
    assert agrees(read(write(tmp_path / "tower.csv"), utc_offset=offset), utc_offset=offset)


def test_date_and_clock_in_two_columns(tmp_path):
    path = write(tmp_path / "tower.csv", form="%d/%m/%Y,%H:%M", name="day,clock")
    assert agrees(read(path, time=("day", "clock")))
    with pytest.raises(ConfigError, match="found 0 columns; choose it with time"):
        read(write(tmp_path / "other.csv", name="when"))
    assert agrees(read(tmp_path / "other.csv", time="when"))


def test_midnight_as_24_00(tmp_path):
    path = write(tmp_path / "tower.csv", shift=30)
    text = path.read_text()
    for day in pd.date_range("2020-01-20", periods=6):
        text = text.replace(f"{day + pd.Timedelta(days=1):%Y-%m-%d} 00:00", f"{day:%Y-%m-%d} 24:00")
    assert "24:00" in text
    path.write_text(text)
    assert agrees(read(path, stamp="end"))


# --- units --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("TA", "K"),
        ("TA", "degF"),
        ("VPD", "kPa"),
        ("VPD", "Pa"),
        ("P", "m"),
        ("P", "mm h-1"),
        ("P", "kg m-2 s-1"),
        ("NEE", "gC m-2 d-1"),
        ("NEE", "mg CO2 m-2 s-1"),
        ("SW_IN", "MJ m-2 d-1"),
        ("SW_IN", "J m-2"),
    ],
)
def test_other_units_give_the_same_values(tmp_path, name, unit):
    """The table in another unit is the same record: what is written is converted by hand here."""
    seconds = 1800
    by_hand = {
        "K": lambda v: v + 273.15,
        "degF": lambda v: v * 1.8 + 32,
        "kPa": lambda v: v / 10,
        "Pa": lambda v: v * 100,
        "m": lambda v: v / 1000,
        "mm h-1": lambda v: v * 2,
        "kg m-2 s-1": lambda v: v / seconds,
        "gC m-2 d-1": lambda v: v * 12.011e-6 * 86400,
        "mg CO2 m-2 s-1": lambda v: v * 44.009e-3,
        "MJ m-2 d-1": lambda v: v * 0.0864,
        "J m-2": lambda v: v * seconds,
    }[unit]
    path = tmp_path / "tower.csv"
    frame = FRAME.assign(**{name: by_hand(FRAME[name])}).rename(columns=COLUMNS).rename_axis("time")
    frame.to_csv(path, na_rep="-9999")
    record = read(path, units=UNITS | {name: unit})
    np.testing.assert_allclose(record[name], FRAME[name], rtol=1e-5, atol=1e-4)
    assert record[name].attrs["units"] == table()[name].units


@pytest.mark.parametrize(
    ("name", "scale", "unit", "match"),
    [
        ("VPD", 100, "hPa", "looks like pascal"),
        ("TA", None, "degC", "looks like kelvin"),
        ("NEE", 40, "umol m-2 s-1", "lie outside -50 to 50"),
        ("SW_IN", 1800, "W m-2", "looks like joules"),
    ],
)
def test_units_that_cannot_be_right_are_refused(tmp_path, name, scale, unit, match):
    changed = FRAME[name] + 273.15 if scale is None else FRAME[name] * scale
    path = write(tmp_path / "tower.csv", FRAME.assign(**{name: changed}))
    with pytest.raises(SourceError, match=match) as error:
        read(path, units=UNITS | {name: unit})
    assert COLUMNS[name] in str(error.value) and unit in str(error.value)


def test_soil_water_as_a_fraction_is_refused_or_said(tmp_path):
    path = write(tmp_path / "tower.csv", pd.DataFrame({"SWC_1": np.linspace(0.1, 0.4, 100)}, FRAME.index[:100]))
    own = {"columns": {"SWC_1": "SWC_1"}}
    with pytest.raises(SourceError, match="looks like a fraction"):
        read(path, units={"SWC_1": "%"}, **own)
    np.testing.assert_allclose(read(path, units={"SWC_1": "m3 m-3"}, **own).SWC_1, np.linspace(10, 40, 100), atol=0.06)


def test_a_row_of_units_is_compared_with_the_units_passed(tmp_path):
    path = write(tmp_path / "tower.csv", below="yyyy-mm-dd HH:MM,°C,W/m^2,mbar,mm,µmol m-2 s-1\n")
    assert agrees(read(path))
    path = write(tmp_path / "tower.csv", below="TS,degC,W m-2,kPa,mm,umol/m2/s\n,Avg,Avg,Avg,Tot,Avg\n")
    with pytest.raises(ConfigError, match=r"line 2, column vpd: the file has 'kPa', and units\['VPD'\] is 'hPa'"):
        read(path)
    kilo = FRAME.assign(VPD=(FRAME.VPD / 10).round(3))
    path = write(tmp_path / "tower.csv", kilo, below="TS,degC,W m-2,kPa,mm,umol/m2/s\n")
    np.testing.assert_allclose(read(path, units=UNITS | {"VPD": "kPa"}).VPD, kilo.VPD * 10, rtol=1e-6)
    path = write(tmp_path / "tower.csv", below="TS,degC,W m-2,bananas,mm,umol/m2/s\n")
    with pytest.raises(ConfigError, match=r"line 2, column vpd: the unit 'bananas' of the file is not known.*clear"):
        read(path)
    path = write(tmp_path / "tower.csv", below="these,are,no,units,at,all\n")
    with pytest.raises(SourceError, match=r"line 2: neither a row of data .* remove the line"):
        read(path)


@pytest.mark.parametrize(
    ("options", "kind", "match"),
    [
        ({"units": {**UNITS, "TA": "bananas"}}, ConfigError, "TA: unit 'bananas' is not known"),
        ({"units": {**UNITS, "TA": "hPa"}}, ConfigError, "TA: 'hPa' cannot become 'degC'"),
        (
            {"units": {name: unit for name, unit in UNITS.items() if name != "TA"}},
            ConfigError,
            "units of TA .* found none",
        ),
        ({"units": {**UNITS, "RH": "%"}}, UnknownNameError, "variable in units 'RH'"),
        ({"columns": {**COLUMNS, "TAIR": "Tair"}}, UnknownNameError, "unknown variable 'TAIR'"),
        ({"columns": {**COLUMNS, "DOY": "doy"}}, ConfigError, "DOY is computed"),
        ({"columns": {}}, ConfigError, "at least one variable"),
        ({"columns": {**COLUMNS, "TA": "Tairr"}}, SourceError, r"missing: 'Tairr' \(did you mean 'Tair'\?\)"),
        ({"site": ""}, ConfigError, "site=''"),
        ({"site": "../x"}, ConfigError, "site="),
        ({"utc_offset": 25}, ConfigError, "utc_offset=25: expected a number from -14 to 14"),
        ({"utc_offset": None}, ConfigError, "utc_offset=None"),
        ({"latitude": 91}, ConfigError, "latitude=91"),
        ({"longitude": float("nan")}, ConfigError, "longitude=nan"),
        ({"elevation": 1e5}, ConfigError, "elevation=100000.0"),
        ({"igbp": "forest"}, UnknownNameError, "IGBP class 'forest'"),
        ({"stamp": "centre"}, ConfigError, "stamp='centre': expected 'start', 'end' or 'middle'"),
        ({"stamp": "middle"}, SourceError, "do not lie in the middle of periods of 30 minutes"),
        ({"step": 7}, ConfigError, "step=7: expected minutes that divide 60"),
        ({"step": 60}, ConfigError, "step=60, but most rows .* are 30 minutes apart"),
        ({"time": "when"}, SourceError, "missing: 'when'"),
        ({"time": ("a", "b", "c")}, ConfigError, "expected one column of times, or two"),
        ({"time": {"year": "a", "hour": "b"}}, ConfigError, "expected one column of times, or two"),
        ({"stamp": None}, ConfigError, "does not state whether its times .* set stamp='start' or stamp='end'"),
        ({"flags": {"RH": "q"}}, UnknownNameError, "variable in flags 'RH'"),
        ({"encoding": "klingon"}, ConfigError, "encoding='klingon'"),
        ({"encoding": "utf-16"}, SourceError, "set encoding|missing"),
        ({"time_format": "%d/%m/%Y"}, SourceError, "line 2: found '2020-01-20 00:00', expected a time as %d/%m/%Y"),
        ({"time_format": "%Y-%m-%d %H:%M%z"}, ConfigError, "without time zone"),
    ],
)
def test_options_are_checked(tmp_path, options, kind, match):
    path = write(tmp_path / "tower.csv")
    with pytest.raises(kind, match=match):
        read(path, **options)


# --- faults of the file -------------------------------------------------------------------------------------------


def edit(path: Path, line: int, old: str, new: str) -> None:
    """Change one line of a file; the first is 1."""
    lines = path.read_text().split("\n")
    assert old in lines[line - 1]
    lines[line - 1] = lines[line - 1].replace(old, new, 1)
    path.write_text("\n".join(lines))


@pytest.mark.parametrize(
    ("line", "old", "new", "kind", "match"),
    [
        (20, "2020-01-20 09:00", "2020-01-20 08:30", SourceError, r"line 20: .* occurs twice \(first in line 19"),
        (20, "2020-01-20 09:00", "2020-01-20 07:00", SourceError, r"line 20: '.* 07:00' is earlier .*first in line 16"),
        (20, "2020-01-20 09:00", "2020-01-20 08:45", SourceError, "line 20: .* is 15 minutes after the row before"),
        (20, "2020-01-20 09:00", "2020-01-32 09:00", SourceError, "line 20: found '2020-01-32.*, which is not a date"),
        (20, "2020-01-20 09:00", "2020-01-20 24:30", SourceError, "line 20: .* which is not a date and time"),
        (20, "2020-01-20 09:00", "20.01.2020 09:00", SourceError, "line 20: .* expected a time like '2020-01"),
        (20, "2020-01-20 09:00", "2020-01-20 09:00:30", SourceError, "line 20: .* whole minutes"),
        (20, "2020-01-20 09:00", "", SourceError, "line 20: found ''"),
        (20, "2020-01-20 09:00", "2020-01-20 09:00,7", SourceError, "line 20: 7 fields, where the header has 6"),
        (1, "Rg", "Tair", SourceError, "missing: 'Rg'"),
        (1, "time,Tair", "Tair,Tair", SourceError, "'Tair' occurs 2 times|usual name for times"),
        (1, "time", "TIMESTAMP_END", ConfigError, "set stamp='end'"),
    ],
)
def test_faults_are_named_with_their_line(tmp_path, line, old, new, kind, match):
    path = write(tmp_path / "tower.csv")
    edit(path, line, old, new)
    with pytest.raises(kind, match=match):
        read(path)


@pytest.mark.parametrize("text", ["warm", "1.2.3", "1,5", "1e", "0x10", "inf", "--5", "1_0", "٣"])
def test_text_among_numbers_is_named(tmp_path, text):
    path = write(tmp_path / "tower.csv", separator=";")
    lines = path.read_text().split("\n")
    cells = lines[49].split(";")
    lines[49] = ";".join([cells[0], text, *cells[2:]])
    path.write_text("\n".join(lines))
    with pytest.raises(SourceError, match="line 50"):
        read(path)
    if text != "1,5":
        path.write_text("\n".join(lines).replace(text, "bad"))
        assert np.isnan(read(path, missing=(-9999, "bad")).TA[48])


@pytest.mark.parametrize("code", [-999, -999.9, 9999, -6999, -99999])
def test_known_codes_become_missing_and_are_counted(tmp_path, caplog, code):
    """Within the limits that scale radiation, too, and whether passed in `missing` or not."""
    sun = write(tmp_path / "sun.csv", FRAME[["SW_IN"]], missing=str(code))
    assert agrees(read(sun, columns={"SW_IN": "Rg"}, units={"SW_IN": "W m-2"}), FRAME[["SW_IN"]])
    path = write(tmp_path / "tower.csv", missing=str(code))
    record = read(path)
    assert agrees(record)
    counts = {name: {f"{code:g}": int(FRAME[name].isna().sum())} for name in FRAME}
    assert json.loads(record.attrs["missing_codes"]) == counts
    assert f"NEE: {FRAME.NEE.isna().sum()} values that are codes" in caplog.text
    assert json.loads(read(path, missing=(code,)).attrs["missing_codes"]) == {}
    assert agrees(read(path, missing=(code,))) and agrees(read(path, missing=("-9999", str(code))))


def test_a_code_that_is_a_value_in_its_unit_is_one(tmp_path):
    """-999 nmol m-2 s-1 of CO2 is -1 umol m-2 s-1, and 99999 Pa is the pressure of an ordinary day."""
    frame = pd.DataFrame({"NEE": -999.0, "PA": 99999.0}, FRAME.index)
    record = read(
        write(tmp_path / "tower.csv", frame),
        columns={"NEE": "Fc", "PA": "PA"},
        units={"NEE": "nmol m-2 s-1", "PA": "Pa"},
    )
    np.testing.assert_allclose(record.NEE, -0.999, rtol=1e-6)
    np.testing.assert_allclose(record.PA, 99.999, rtol=1e-6)


def test_a_logger_s_own_file(tmp_path):
    """Campbell's TOA5: a line about the logger, names, units, how values were made, text in quotes."""
    path = tmp_path / "flux.dat"
    rows = "".join(f'"{time:%Y-%m-%d %H:%M:%S}",{n},{n / 10},"NAN",0.2\n' for n, time in enumerate(FRAME.index))
    path.write_text(
        '"TOA5","CR3000","4711","CR3000","CR3000.Std.32","CPU:x.CR3","123","flux"\n'
        '"TIMESTAMP","RECORD","Tair_Avg","PA","Rain_Tot"\n"TS","RN","degC","kPa","mm"\n"","","Avg","Smp","Tot"\n' + rows
    )
    names = {"TA": "Tair_Avg", "PA": "PA", "P": "Rain_Tot"}
    record = read(path, columns=names, units={"TA": "degC", "PA": "kPa", "P": "mm"}, utc_offset=0)
    np.testing.assert_allclose(record.TA, np.arange(len(FRAME)) / 10, rtol=1e-6)
    assert np.isnan(record.PA).all() and (record.time.values == FRAME.index.values).all()


def test_columns_between_blanks(tmp_path):
    path = write(tmp_path / "tower.txt", separator="   ", form="%Y-%m-%d %H:%M", name="day clock")
    assert agrees(read(path, time=("day", "clock")))


def test_order_of_columns_and_others_beside_them_do_not_matter(tmp_path):
    turned = FRAME[FRAME.columns[::-1]].assign(other=1.0)
    assert agrees(read(write(tmp_path / "tower.csv", turned)), FRAME)


def test_holes_and_blank_lines_stay_holes(tmp_path):
    frame = FRAME.drop(FRAME.index[50:120])
    path = write(tmp_path / "tower.csv", frame)
    path.write_text(path.read_text() + "\n,,,,,\n")
    assert agrees(read(path), frame)


@pytest.mark.parametrize("step", [1, 5, 10, 15, 20, 30, 60])
def test_every_divisor_of_an_hour_becomes_hours(tmp_path, step):
    frame = truth(rows=4 * 60 // step, step=step).fillna(1.0)
    record = read(write(tmp_path / "tower.csv", frame), utc_offset=0)
    hourly = to_hourly(record)
    assert record.attrs["step_minutes"] == step and len(hourly.time) == 4
    by_hand = frame.groupby(frame.index.floor("h"))
    np.testing.assert_allclose(hourly.TA, by_hand.TA.mean(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(hourly.P, by_hand.P.sum(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("step", "match"), [(45, "most rows are 45 minutes apart"), (1440, "most rows are 1440"), (120, "120")]
)
def test_other_steps_are_refused(tmp_path, step, match):
    with pytest.raises(SourceError, match=match):
        read(write(tmp_path / "tower.csv", truth(step=step)))


def test_middles_of_periods_are_refused(tmp_path):
    with pytest.raises(SourceError, match="lie in the middle of periods"):
        read(write(tmp_path / "tower.csv", shift=15))


def test_a_clock_with_daylight_saving_is_refused(tmp_path):
    zone = pd.date_range("2020-10-24", periods=200, freq="30min", tz="UTC").tz_convert("Europe/Berlin")
    frame = FRAME.set_axis(zone.tz_localize(None))
    with pytest.raises(SourceError, match=r"is earlier than the row before.*without daylight saving"):
        read(write(tmp_path / "tower.csv", frame))
    path = write(tmp_path / "tower.csv", FRAME.set_axis(zone), form="%Y-%m-%d %H:%M%z")
    with pytest.raises(SourceError, match="times in several zones"):
        read(path)


def test_times_that_tell_their_zone_must_agree(tmp_path):
    path = write(tmp_path / "tower.csv", form="%Y-%m-%dT%H:%M:%SZ")
    with pytest.raises(ConfigError, match="times are in Z, and utc_offset is 1: set utc_offset=0"):
        read(path)
    assert agrees(read(path, utc_offset=0), utc_offset=0)
    path = write(tmp_path / "tower.csv", form="%Y-%m-%d %H:%M-03:30")
    with pytest.raises(ConfigError, match=r"set utc_offset=-3\.5"):
        read(path)


# --- dates --------------------------------------------------------------------------------------------------------


def test_day_and_month_are_never_guessed(tmp_path):
    early = truth(start="2020-02-01")  # no day above 12
    for form in ("%d/%m/%Y %H:%M", "%m/%d/%Y %H:%M"):
        path = write(tmp_path / "tower.csv", early, form=form)
        with pytest.raises(ConfigError, match="day and month cannot be distinguished: set time_format"):
            read(path)
        assert agrees(read(path, time_format=form), early)
    late = truth(start="2020-02-11")
    for form in ("%d/%m/%Y %H:%M", "%m-%d-%Y %H:%M"):
        assert agrees(read(write(tmp_path / "tower.csv", late, form=form)), late)


TIMES = st.datetimes(pd.Timestamp("1990-01-01"), pd.Timestamp("2049-12-31")).map(
    lambda t: t.replace(second=0, microsecond=0)
)


@given(
    st.lists(TIMES, min_size=1, max_size=5),
    st.sampled_from(["%Y-%m-%d %H:%M", "%Y%m%d%H%M", "%Y.%m.%d %H:%M:%S", "%Y%m%d %H%M"]),
)
def test_times_come_back(times, form):
    text = [f"{time:{form}}" for time in times]
    got = parse_times(text, range(len(times)), "x")
    assert (got == np.array(times, "datetime64[m]")).all()
    assert (got == parse_times(text, range(len(times)), "x", time_format=form)).all()


@given(st.lists(TIMES, min_size=1, max_size=6), st.booleans())
def test_a_day_above_twelve_tells_or_it_is_asked(times, american):
    form = "%m/%d/%Y %H:%M" if american else "%d/%m/%Y %H:%M"
    text = [f"{time:{form}}" for time in times]
    try:
        got = parse_times(text, range(len(times)), "x")
    except ConfigError:
        assert all(time.day <= 12 for time in times)
        return
    assert (got == np.array(times, "datetime64[m]")).all()


@pytest.mark.parametrize(
    ("text", "kind", "match"),
    [
        ("43831.5", SourceError, "a day number"),
        ("01/02/20 10:00", ConfigError, "set time_format"),
        ("1/31/2020 10:00 PM", ConfigError, "set time_format"),
        ("Jan 31 2020 10:00", ConfigError, "set time_format"),
        ("noon", SourceError, "expected a time such as"),
        ("2020-02-30 10:00", SourceError, "not a date and time"),
        ("2020-13-01 10:00", SourceError, "not a date and time"),
        ("1020-01-01 10:00", SourceError, "not a date and time"),
        ("2020-01-01", ConfigError, "set time_format"),
        ("2020-01-01 10:61", SourceError, "not a date and time"),
    ],
)
def test_other_times_are_refused_with_what_to_do(text, kind, match):
    with pytest.raises(kind, match=match):
        parse_times([text], [2], "x")


def test_two_digits_of_a_year_by_format(tmp_path):
    form = "%d/%m/%y %H:%M"
    path = write(tmp_path / "tower.csv", form=form)
    with pytest.raises(ConfigError, match="set time_format"):
        read(path)
    assert agrees(read(path, time_format=form))


# --- flags --------------------------------------------------------------------------------------------------------


def flagged(tmp_path: Path, flags: list) -> Path:
    frame = FRAME.assign(qc=np.resize(np.array(flags, float), len(FRAME)))
    return write(tmp_path / "tower.csv", frame, missing="")


def test_flags_are_taken_as_they_are_said(tmp_path):
    path = flagged(tmp_path, [0, 1, 2, 3])
    present = FRAME.NEE.notna().to_numpy()
    expected = np.where(present, np.resize([0, 1, 2, 3], len(FRAME)), -1)
    record = read(path, flags={"NEE": "qc"})
    assert (record.NEE_QC.values == expected).all() and (record.TA_QC.values >= -1).all()
    assert "NEE" not in json.loads(record.attrs["flags_assumed"])
    turned = read(path, flags={"NEE": "qc"}, flag_map={0: 3, 1: 2, 2: 1, 3: 0})
    assert (turned.NEE_QC.values == np.where(present, 3 - expected, -1)).all()
    own = read(
        path,
        flags={"NEE": "qc", "TA": "qc"},
        flag_map={"NEE": {0: 0, 1: 1, 2: 1, 3: 1}, "TA": {"0": 0, "1": 0, "2": 0, "3": 3}},
    )
    assert set(own.NEE_QC.values[present]) == {0, 1} and set(own.TA_QC.values) == {-1, 0, 3}


def test_flags_that_are_not_said_are_asked_for(tmp_path):
    path = flagged(tmp_path, [1, 2, 9])
    with pytest.raises(
        ConfigError, match=r"column qc, line \d: flag 9 of NEE is not among 0, 1, 2, 3; add its meaning"
    ):
        read(path, flags={"NEE": "qc"})
    for bad in ({1: 0, 2: 5, 9: 3}, {"good": 0}, {}, {1: "a"}):
        with pytest.raises(ConfigError, match="flag_map"):
            read(path, flags={"NEE": "qc"}, flag_map=bad)


def test_a_value_without_its_flag_counts_as_poor_and_is_counted(tmp_path):
    path = flagged(tmp_path, [0, np.nan])
    record = read(path, flags={"NEE": "qc"})
    present = FRAME.NEE.notna().to_numpy()
    assert (record.NEE_QC.values[1::2] == np.where(present[1::2], 3, -1)).all()
    assert json.loads(record.attrs["flags_assumed"])["NEE"] == int(present[1::2].sum())


# --- files that are none ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "empty"),
        (b" \n\n", "empty"),
        (b"PK\x03\x04rest", "a spreadsheet or zip"),
        (b"\xd0\xcf\x11\xe0rest", "a spreadsheet or zip"),
        (b"a\0b,c\n1,2\n", "binary bytes"),
        (b"time,Tair\n", "missing: 'Rg'"),
        (b"time,Tair,Rg,vpd,rain,Fc\n", "expected rows with a time"),
        (b"\xff\xfea", "set encoding|missing"),
        (b'time,Tair,Rg,vpd,rain,Fc\n"2020-01-01 00:00,1,2,3,4,5\n', "fields"),
    ],
)
def test_files_that_are_no_table(tmp_path, data, match):
    path = tmp_path / "tower.csv"
    path.write_bytes(data)
    with pytest.raises(SourceError, match=match):
        read(path)


def test_no_file_and_a_zip(tmp_path):
    with pytest.raises(SourceError, match="expected a readable file"):
        read(tmp_path / "none.csv")
    (tmp_path / "tower.zip").write_bytes(b"PK")
    with pytest.raises(SourceError, match="a zip, where one table was expected"):
        read(tmp_path / "tower.zip")


@settings(max_examples=75, deadline=None)
@given(st.data())
def test_changed_bytes_never_crash(tmp_path_factory, data):
    path = write(
        tmp_path_factory.mktemp("fuzz") / "tower.csv", FRAME.iloc[:20], below="TS,degC,W m-2,hPa,mm,umol/m2/s\n"
    )
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw[: data.draw(st.integers(1, len(raw)))])
    try:
        record = read(path)
    except (SourceError, ConfigError):
        return
    assert (np.diff(record.time.values) > np.timedelta64(0)).all()


def test_progress_goes_to_the_end(tmp_path):
    seen = []
    read(write(tmp_path / "tower.csv"), progress=lambda done, total, text: seen.append((done, total, text)))
    assert seen[-1][0] == seen[-1][1] == len(FRAME) + 1 and "tower.csv" in seen[-1][2]


# --- into the cube ------------------------------------------------------------------------------------------------


def test_it_reads_a_network_s_own_file_as_its_reader_does(shared_data):
    """A real FLUXNET2015 table, read as if nobody knew it, is what the network's reader makes of it."""
    path = next((shared_data / "formats").glob("FLX_CH-Cha_*first99rows.csv"))
    names = {"TA": "TA_F", "SW_IN": "SW_IN_F", "VPD": "VPD_F", "PA": "PA_F", "P": "P_F", "NEE": "NEE_VUT_REF"}
    known = read_oneflux(path, utc_offset=1, variables=names)
    own = read_table(
        path,
        columns=names,
        units={name: table()[name].units for name in names},
        time="TIMESTAMP_END",
        stamp="end",
        flags={name: f"{column}_QC" for name, column in names.items()},
        **PLACE,
    )
    columns = json.loads(known.attrs["columns"])
    same = [name for name in names if columns[name] == names[name]]
    assert {"PA", "P", "NEE"} <= set(same)
    for name in same:
        xr.testing.assert_equal(own[name], known[name])
        xr.testing.assert_equal(own[f"{name}_QC"], known[f"{name}_QC"])


def test_a_site_joins_a_cube_in_five_lines(tmp_path, cube_store):
    """The example of the docstring: a table, a record, a cube that has the site beside the others."""
    import shutil

    import fluxcube as fc
    from fluxcube.cubes.append import append_site

    store = tmp_path / "carbonsense.zarr"
    shutil.copytree(cube_store, store)
    before = fc.open_carbonsense(store).load()
    frame = truth(rows=2000, start=str(before.time.values[0])[:10])
    frame["VPD"] /= 10
    path = write(tmp_path / "tower.csv", frame, shift=30)

    record = read_table(
        path,
        site="XX-Own",
        utc_offset=1,
        latitude=51.1,
        longitude=10.4,
        stamp="end",
        columns=COLUMNS,
        units=UNITS | {"VPD": "kPa"},
        citation="Me (2020): My tower",
    )
    append_site(store, record)
    cube = fc.open_carbonsense(store)

    assert set(cube.site.values) == {*before.site.values, "XX-Own"}
    own = cube.sel(site="XX-Own")
    hourly = to_hourly(record).sel(time=slice(*own.time.values[[0, -1]]))
    got = own.predictors.sel(variable="TA").sel(time=hourly.time).values
    np.testing.assert_array_equal(got, hourly.TA.values)
    np.testing.assert_allclose(np.nanmean(own.predictors.sel(variable="VPD").values), frame.VPD.mean() * 10, rtol=0.1)
    assert float(own.latitude) == 51.1 and str(own.citation.values) == "Me (2020): My tower"
    for site in before.site.values[:2]:
        one, other = (ds.predictors.sel(site=site, time=before.time).values for ds in (before, cube))
        np.testing.assert_array_equal(one, other)


def test_the_unit_of_a_rate_depends_on_the_step(tmp_path):
    """Rain of 2 mm an hour is 1 mm in half an hour and 2 in an hour: the sum over a day is the same."""
    totals = []
    for step in (15, 30, 60):
        index = pd.date_range("2020-01-20", periods=24 * 60 // step, freq=f"{step}min")
        path = write(tmp_path / "tower.csv", pd.DataFrame({"P": np.full(len(index), 2.0)}, index))
        record = read(path, columns={"P": "rain"}, units={"P": "mm/h"}, utc_offset=0)
        totals.append(float(to_hourly(record).P.sum()))
    assert totals == pytest.approx([48, 48, 48])
    assert float(convert(2.0, "mm/h", "mm", step_minutes=15)) == 0.5


@pytest.mark.parametrize("text", ["1e300", "-4e38"])
def test_a_number_too_large_for_a_cube_is_refused_by_its_column(tmp_path, text):
    path = write(tmp_path / "a.csv")
    path.write_text(path.read_text().replace(f"{FRAME.NEE.dropna().iloc[7]:.3f}", text, 1))
    with pytest.raises(SourceError, match=r"a\.csv, column Fc: expected a measurement, found .*e\+(300|38)"):
        read(path)


@pytest.mark.parametrize("extra", [",", ",,,", ", ,"])
def test_empty_fields_at_the_end_of_every_row_do_not_count(tmp_path, extra):
    path = write(tmp_path / "tower.csv")
    head, *rows = path.read_text().splitlines()
    path.write_text("\n".join([head, *(row + extra for row in rows)]) + "\n")
    assert agrees(read(path))
    path.write_text("\n".join([head, *(row + extra for row in rows[:-1]), rows[-1]]) + "\n")
    with pytest.raises(SourceError, match=f"line {len(rows) + 1}: 6 fields"):
        read(path)


def test_codes_with_a_point_in_a_table_with_decimal_commas(tmp_path):
    path = write(tmp_path / "tower.csv", separator=";", decimal=",", missing="-9999.9")
    record = read(path, missing=())
    assert agrees(record) and json.loads(record.attrs["missing_codes"])["NEE"] == {
        "-9999.9": int(FRAME.NEE.isna().sum())
    }
