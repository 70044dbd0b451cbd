"""Find the columns of times in a table of unknown form, and whether its times are starts or ends of periods."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fluxcube.errors import ConfigError, to_type
from fluxcube.sources.towers.anycsv import Table
from fluxcube.sources.towers.datetext import has_hour_24, minutes_of_day, parse_parts, parse_times

#: Whether the time of a row is the start, the middle or the end of its period.
STAMPS = ("start", "middle", "end")

#: Names of the time column that are recognised by default.
_NAMES = (
    "TIMESTAMP_START",
    "TIMESTAMP_END",
    "TIMESTAMP",
    "DATETIME",
    "DATE_TIME",
    "DATE TIME",
    "DATE/TIME",
    "TIME",
)
#: Names of columns of which each is a part of a time, in lower case and without other signs than letters.
_PARTS = {
    "year": ("year", "yr", "yyyy"),
    "doy": ("doy", "dayofyear", "jday", "julianday", "julday", "yday", "jd"),
    "month": ("month", "mon", "mo"),
    "day": ("day", "dayofmonth", "dom", "dd"),
    "hour": ("hour", "hours", "hr", "hh", "hhmm", "hrmin", "time", "decimalhour"),
    "minute": ("minute", "minutes", "min", "mins"),
}
_IN_WORDS = "a year, a day of the year (or a month and a day) and an hour"
_CLOCK = re.compile(r"\d{1,2}:\d{2}(:\d{2})?|\d{1,4}([.,]\d+)?")
_SENSES = {"start": "start|begin", "end": "end", "middle": "mid|middle|centre|center"}
#: A time zone in the name of a column.
_ZONE = re.compile(r"(?i)(?:^|[^a-z])(?:utc|gmt)(?:([+-]\d{1,2})(?::?(\d{2}))?)?(?:$|[^a-z0-9+-])")
#: Flags of Mauder and Foken (2004) as EddyPro writes them: 0 best, 1 good, 2 to be discarded.
_EDDYPRO_FLAGS = {0: 0, 1: 1, 2: 3}


@dataclass(frozen=True)
class TimeColumns:
    """The columns of a table from which times are read.

    Attributes
    ----------
    columns : tuple of str
        One column of times, a column of dates and one of clock times, or a column for each part.
    parts : tuple of str
        The part of a time (year, doy, month, day, hour, minute) that each column contains; () if they contain text.
    """

    columns: tuple[str, ...]
    parts: tuple[str, ...] = ()

    def join(self, cells: Sequence[str]) -> str:
        """Return the cells of a row (column,) as one text."""
        if not self.parts:
            return " ".join(map(str.strip, cells))
        return " ".join("_".join(cell.split()) or "''" for cell in cells)


def requested_times(time: str | Sequence[str] | Mapping[str, str] | None) -> TimeColumns | None:
    """Return the columns that the option `time` of `read_table` names; None if it is None.

    Raises
    ------
    ConfigError
        If several columns do not make a time.
    """
    if time is None:
        return None
    if isinstance(time, str):
        return TimeColumns((time,))
    if isinstance(time, Mapping):
        return _from_parts(dict(time), time)
    names = tuple(time)
    if len(names) <= 2:
        return TimeColumns(names)
    parts = _parts_of(names)
    return _from_parts(parts if len(parts) == len(names) else {}, time)


def _from_parts(parts: Mapping[str, str], time: object) -> TimeColumns:
    if not _is_complete(parts) or not set(parts) <= set(_PARTS):
        raise ConfigError(
            f"time={time!r}: expected one column of times, or two: one of dates and one of clock times, or columns "
            f"with {_IN_WORDS}, such as time={{'year': 'Year', 'doy': 'DoY', 'hour': 'Hour'}} (or 'month', 'day' and "
            "'minute')"
        )
    return TimeColumns(tuple(parts.values()), tuple(parts))


def _is_complete(parts: Mapping[str, str]) -> bool:
    return {"year", "hour"} <= set(parts) and ("doy" in parts) != ({"month", "day"} <= set(parts))


def _parts_of(names: Sequence[str]) -> dict[str, str]:
    """Return the columns that by their names are parts of a time; {} if two of them are the same part."""
    parts: dict[str, str] = {}
    for name in names:
        letters = re.sub(r"[\[(].*|[^a-z]", "", name.lower())
        part = next((part for part, known in _PARTS.items() if letters in known), None)
        if part in parts:
            return {}
        if part:
            parts[part] = name
    if "day" in parts and "month" not in parts and "doy" not in parts:
        parts["doy"] = parts.pop("day")
    return parts


def find_times(table: Table, stamp: str | None) -> TimeColumns:
    """Return the columns with usual names for times.

    Raises
    ------
    ConfigError
        If there are none, or several ones.
    """
    usual = {name: name.upper() for name in table.header if name.upper() in _NAMES}
    first = "TIMESTAMP_END" if stamp == "end" else "TIMESTAMP_START"
    whole = [name for name, upper in usual.items() if upper == first]
    whole = whole or [name for name in usual if not _is_clock(table, name)]
    if len(whole) == 1:
        return TimeColumns((whole[0],))
    dates = [name for name in table.header if name.upper() == "DATE"]
    if not whole and len(dates) == len(usual) == 1:
        return TimeColumns((dates[0], *usual))
    parts = _parts_of(table.header)
    if not whole and _is_complete(parts):
        return TimeColumns(tuple(parts.values()), tuple(parts))
    raise ConfigError(
        f"{table.path}, line {table.line}: expected one column with a usual name for times, found {len(usual)} "
        f"columns; {_choose()}. The file has {', '.join(table.header)[:300]}"
    )


def _is_clock(table: Table, name: str) -> bool:
    """Return whether one of the first cells of a column that have a digit is a time of day without a date."""
    index = table.header.index(name)
    cells = (fields[index].strip() for _, fields in table.rows())
    first = itertools.islice((cell for cell in cells if any(map(str.isdigit, cell))), 3)
    return any(_CLOCK.fullmatch(cell) for cell in first)


def parse_columns(
    times: TimeColumns,
    text: Sequence[str],
    lines: Sequence[int],
    where: str,
    *,
    time_format: str | None,
    utc_offset: float,
) -> np.ndarray:
    """Return the times (time,) datetime64[m] of the rows, from their texts that `TimeColumns.join` made.

    Raises
    ------
    SourceError, ConfigError
        As `fluxcube.sources.towers.datetext.parse_times` and `parse_parts`; also if a column's name states another
        offset from UTC.
    """
    for name in times.columns:
        if zone := _ZONE.search(name):
            hours = float(zone[1] or 0)
            hours += np.copysign(float(zone[2] or 0) / 60, hours)
            if hours != utc_offset:
                raise ConfigError(
                    f"{where}: the name {name!r} states UTC{hours:+g}, and utc_offset is {utc_offset:g}: set "
                    f"utc_offset={hours:g}, or rename the column if its name is wrong"
                )
    if not times.parts:
        text = _with_clock(times, text, lines, where) if time_format is None else text
        return parse_times(text, lines, where, time_format=time_format, utc_offset=utc_offset)
    if time_format is not None:
        raise ConfigError(f"time_format={time_format!r}: expected none, because {where} contain numbers; leave it out")
    split = list(zip(*(one.split(" ") for one in text), strict=True))
    return parse_parts(dict(zip(times.parts, split, strict=True)), lines, where)


def _with_clock(times: TimeColumns, text: Sequence[str], lines: Sequence[int], where: str) -> Sequence[str]:
    """Return dates and clock times, where clock times are numbers: hours with a fraction, or HHMM (930 is 09:30)."""
    clocks = [one.rpartition(" ")[2] for one in text]
    if len(times.columns) != 2 or not all(re.fullmatch(r"\d{1,4}([.,]\d*)?", clock) for clock in clocks):
        return text
    minutes = minutes_of_day(clocks, None, lines, where).tolist()
    dates = (one.rpartition(" ")[0] for one in text)
    return [f"{date} {minute // 60:02d}:{minute % 60:02d}" for date, minute in zip(dates, minutes, strict=True)]


def sense_of_stamps(table: Table, times: TimeColumns, text: Sequence[str], stamp: str | None) -> str:
    """Return whether times are the starts, middles or ends of periods: as the file states it, or as requested.

    Parameters
    ----------
    table : Table
        The file.
    times : TimeColumns
        Its columns of times.
    text : (time,) str
        Their texts.
    stamp : {"start", "middle", "end"} or None
        As requested.

    Raises
    ------
    ConfigError
        If neither the file nor the request states it, or they contradict each other.
    """
    stated, why = _stated(table, times, text)
    if stamp is None and stated is None:
        raise ConfigError(
            f"{table.path}: the file does not state whether its times (column {' and '.join(times.columns)}) are the "
            f"starts or the ends of periods: {_state()}. {_usual(table, times)}"
        )
    if stamp is not None and stated is not None and stamp != stated:
        advice = to_type(python=f"set stamp={stated!r}", shell=f"pass --stamp {stated}")
        raise ConfigError(f"stamp={stamp!r}, but {why}: {advice}")
    return stamp or stated or ""


def _stated(table: Table, times: TimeColumns, text: Sequence[str]) -> tuple[str | None, str]:
    """Return what the file states about its times, and how; None if it states nothing."""
    for sense, words in _SENSES.items():
        for name in times.columns:
            if re.search(rf"(?i)(^|_|\b)({words})($|_|\b)", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)):
                return sense, f"times are read from column {name!r}"
    if is_eddypro(table):
        return "end", "the file is an output of EddyPro, whose times are ends"
    hours = [one.split(" ")[times.parts.index("hour")] for one in text] if "hour" in times.parts else None
    if has_hour_24(text, hours):
        return "end", "times of hour 24 are the ends of periods"
    return None, ""


def _usual(table: Table, times: TimeColumns) -> str:
    if any(line.lstrip('"').startswith(("TOA5", "TOACI1")) for line in table.above):
        return "Loggers of Campbell write the end by default: stamp='end'"
    return "EddyPro, REddyProc and most loggers write the end; TIMESTAMP of FLUXNET is the start"


def is_eddypro(table: Table) -> bool:
    """Return whether a table is an output of EddyPro, by its row of groups or its columns."""
    header = {name.lower() for name in table.header}
    grouped = any(line.lstrip('"').startswith("file_info") for line in table.above)
    counted = bool({"file_records", "used_records"} & header)
    named = "filename" in header and bool({"co2_flux", "h2o_flux", "ch4_flux", "qc_h", "qc_le", "qc_tau"} & header)
    return {"date", "time"} <= header and (grouped or counted or named)


def flags_of_eddypro(table: Table, flags: Mapping[str, str]) -> dict[str, dict[int, int]] | None:
    """Return the meanings of the flags of each variable, if the table is an output of EddyPro, else None."""
    if not is_eddypro(table) or not any(column.startswith("qc_") for column in flags.values()):
        return None
    same = {flag: flag for flag in range(4)}
    return {name: _EDDYPRO_FLAGS if column.startswith("qc_") else same for name, column in flags.items()}


def _choose() -> str:
    """Return how columns of times are chosen."""
    return to_type(
        python="choose it with time='...', or time=('date column', 'clock column'), or time={'year': '...', "
        "'doy': '...', 'hour': '...'}",
        shell="choose it with --time COLUMN, or --time DATE,CLOCK with the columns of dates and of clock times",
    )


def _state() -> str:
    """Return how the part of its period that a time is can be stated."""
    return to_type(
        python="set stamp='start' or stamp='end' (or 'middle')", shell="pass --stamp start or --stamp end (or middle)"
    )
