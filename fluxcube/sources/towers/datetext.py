"""Parse dates and times as people write them in tables, and refuse those that can be read in two ways."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from fluxcube.errors import ConfigError, SourceError, to_type

_ZONE = r"(?P<zone> ?(?:Z|UTC|GMT|[+-]\d{2}(?::?\d{2})?))?"
#: Hour and minute, with a colon or as four digits.
_CLOCK = (
    r"[T ]+(?P<hour>\d{1,2}(?=:)|\d{2}(?=\d{2}(?!\d))):?(?P<minute>\d{2})(?::(?P<second>\d{2})(?:[.,]0+)?)?" + _ZONE
)
_FORMS = {
    "year first": re.compile(r"(?P<year>\d{4})([-/.])(?P<month>\d{1,2})\2(?P<day>\d{1,2})" + _CLOCK),
    "year last": re.compile(r"(?P<one>\d{1,2})([-/.])(?P<two>\d{1,2})\2(?P<year>\d{4})" + _CLOCK),
    "digits": re.compile(
        r"(?P<year>\d{4})(?P<month>\d{2})(?P<day>\d{2})[T ]?"
        r"(?P<hour>\d{2}):?(?P<minute>\d{2})(?::?(?P<second>\d{2}))?(?P<zone>)"
    ),
}
_DAY_NUMBER = re.compile(r"\d{1,5}([.,]\d+)?")
_HOUR_24 = re.compile(r"(?:[T ]|^\d{8})24:?00(?!\d)")
#: Maximum distance of an hour with a fraction from a whole minute, in minutes: two decimals (0.33 h) leave 0.2.
_ROUNDED = 0.31


def parse_times(
    text: Sequence[str], lines: Sequence[int], where: str, *, time_format: str | None = None, utc_offset: float = 0.0
) -> np.ndarray:
    """Return the times of a column of texts, to the minute.

    Parameters
    ----------
    text : (time,) str
        All in one form: ``2020-01-31 23:30`` (with ``T``, ``/`` or ``.``, seconds of 0), ``202001312330``, or day and
        month before the year, where a day above 12 in some row shows which of them comes first. 24:00 is the end of
        the day.
    lines : (time,) int
        Line number of each time, for messages.
    where : str
        File and column, for messages.
    time_format : str, optional
        Format of `datetime.strptime`; by default the format is inferred from the rows.
    utc_offset : float
        Hours east of UTC that the caller assumes: times that contain an offset must agree with it.

    Returns
    -------
    (time,) datetime64[m]
        As written, in no time zone.

    Raises
    ------
    SourceError
        If a row is not such a time; the message contains the line number.
    ConfigError
        If the rows can be read in two ways (set `time_format`), or contain another offset (correct `utc_offset`).

    Examples
    --------
    >>> parse_times(["31.01.2020 23:30", "31.01.2020 24:00"], [2, 3], "a.csv, column time")
    array(['2020-01-31T23:30', '2020-02-01T00:00'], dtype='datetime64[m]')
    """
    if time_format is not None:
        return _by_format(text, lines, where, time_format)
    form = next((name for name, pattern in _FORMS.items() if pattern.fullmatch(text[0])), None)
    if form is None:
        raise _unknown(text[0], lines[0], where)
    matches = []
    for line, one in zip(lines, text, strict=True):
        match = _FORMS[form].fullmatch(one)
        if match is None:
            raise SourceError(f"{where}, line {line}: found {one[:40]!r}, expected a time like {text[0]!r}, as before")
        matches.append(match)
    _check_zones({match["zone"].strip() if match["zone"] else "" for match in matches}, utc_offset, where)
    parts = {name: _whole(matches, name) for name in matches[0].groupdict() if name not in ("zone",)}
    if form == "year last":
        parts |= _order(parts, lines, where)
    return _times(parts, text, lines, where)


def parse_parts(parts: Mapping[str, Sequence[str]], lines: Sequence[int], where: str) -> np.ndarray:
    """Return the times of several columns of numbers, to the minute.

    Parameters
    ----------
    parts : mapping of str to (time,) str
        ``year``; ``doy`` (day of the year, from 1), or ``month`` and ``day``; ``hour`` and, if there is such a column,
        ``minute``. Hours have a fraction (0.5 to 24), or minutes in their last two digits (30, 100 to 2400), or a colon
        (00:30). 24 is the end of the day.
    lines : (time,) int
        Line number of each time, for messages.
    where : str
        File and columns, for messages.

    Returns
    -------
    (time,) datetime64[m]
        As written, in no time zone.

    Raises
    ------
    SourceError
        If a row is not such a time; the message contains the line number.

    Examples
    --------
    >>> parse_parts({"year": ["2015", "2015"], "doy": ["152", "152"], "hour": ["0.5", "24"]}, [2, 3], "a.txt")
    array(['2015-06-01T00:30', '2015-06-02T00:00'], dtype='datetime64[m]')
    """
    numbers = {name: _part(name, text, lines, where) for name, text in parts.items() if name != "hour"}
    minutes = minutes_of_day(parts["hour"], numbers.get("minute"), lines, where)
    year = numbers["year"]
    _check_part((year >= 1900) & (year < 2200), parts["year"], lines, where, "a year of four digits")
    if "doy" in numbers:
        january = ((year - 1970) * 12).astype("datetime64[M]").astype("datetime64[D]")
        days = january + (numbers["doy"] - 1)
        # Some programs write the midnight that ends a year as hour 0 of a day 366 or 367.
        midnight = (minutes == 0) & (_year(days - 1) == year)
        good = (numbers["doy"] >= 1) & ((_year(days) == year) | midnight)
        _check_part(good, parts["doy"], lines, where, "a day of the year, counted from 1, that this year has")
    else:
        months = ((year - 1970) * 12 + numbers["month"] - 1).astype("datetime64[M]")
        days = months.astype("datetime64[D]") + (numbers["day"] - 1)
        good = (numbers["month"] >= 1) & (numbers["month"] <= 12) & (numbers["day"] >= 1)
        _check_part(good & (days.astype("datetime64[M]") == months), parts["day"], lines, where, "a day of its month")
    return days.astype("datetime64[m]") + minutes


def has_hour_24(text: Sequence[str], hours: Sequence[str] | None = None) -> bool:
    """Return whether some time is written as hour 24, so that times are the ends of periods.

    Parameters
    ----------
    text : (time,) str
        Times as text.
    hours : (time,) str, optional
        The column of hours, where there is one.

    Examples
    --------
    >>> has_hour_24(["2020-01-31 24:00"]), has_hour_24(["2020-02-01 00:00"]), has_hour_24(["2015 152"], ["24.0"])
    (True, False, True)
    >>> has_hour_24(["2015 152"], ["24", "124"])  # 00:24 and 01:24
    False
    """
    if hours is None:
        return any(_HOUR_24.search(one) for one in text if "24" in one)
    late = {one for one in hours if re.fullmatch(r"24(:?00)?([.,]0+)?", one)}
    return "2400" in late or (bool(late) and not any(re.fullmatch(r"\d{3,4}", one) for one in hours))


def _year(days: np.ndarray) -> np.ndarray:
    return days.astype("datetime64[Y]").astype(np.int64) + 1970


def _part(name: str, text: Sequence[str], lines: Sequence[int], where: str) -> np.ndarray:
    """Return whole numbers (time,) int64 of a column of years, months, days or minutes."""
    good = np.array([re.fullmatch(r"\d{1,4}([.,]0*)?", one) is not None for one in text])
    _check_part(good, text, lines, where, f"a whole number as {name}")
    return np.array([int(re.split("[.,]", one)[0]) for one in text], np.int64)


def _check_part(good: np.ndarray, text: Sequence[str], lines: Sequence[int], where: str, expected: str) -> None:
    if not good.all():
        row = int((~good).argmax())
        raise SourceError(f"{where}, line {lines[row]}: found {text[row][:40]!r}, expected {expected}; correct the row")


def minutes_of_day(hours: Sequence[str], minute: np.ndarray | None, lines: Sequence[int], where: str) -> np.ndarray:
    """Return minutes since midnight (time,) int64.

    Parameters
    ----------
    hours : (time,) str
        Hours with a fraction, with a colon, or of the form HHMM.
    minute : (time,) int or None
        The column of minutes, where there is one.
    lines, where
        As in `parse_parts`.

    Raises
    ------
    SourceError
        If a text is not an hour of 0 to 24, in whole minutes; the message contains the line number.
    """
    if minute is None and all(re.fullmatch(r"\d{1,2}:\d{2}(:00)?", one) for one in hours):
        split = [one.split(":") for one in hours]
        hour, minute = np.array([int(one[0]) for one in split]), np.array([int(one[1]) for one in split], np.int64)
    else:
        number = [re.fullmatch(r"\d{1,4}([.,]\d*)?|[.,]\d+", one) is not None for one in hours]
        _check_part(np.array(number), hours, lines, where, "an hour, such as 0.5, 30 (HHMM) or 00:30")
        hour = np.array([float(one.replace(",", ".")) for one in hours])
        if minute is None and hour.max() >= 100 and (hour % 1 == 0).all():
            hour, minute = np.divmod(hour.astype(np.int64), 100)
    exact = hour * 60 + (0 if minute is None else minute)
    minutes = np.round(exact).astype(np.int64)
    good = (minutes <= 1440) & (np.abs(exact - minutes) <= _ROUNDED)
    good &= True if minute is None else (minute < 60) & (hour % 1 == 0)
    _check_part(good, hours, lines, where, "an hour of at most 24, in whole minutes")
    return minutes


def _by_format(text: Sequence[str], lines: Sequence[int], where: str, time_format: str) -> np.ndarray:
    if "%z" in time_format.lower():
        raise ConfigError(f"time_format={time_format!r}: expected a format without time zone; set utc_offset= instead")
    try:
        times = pd.to_datetime(pd.Series(text, dtype=str), format=time_format, errors="coerce")
    except (ValueError, re.error) as error:
        raise ConfigError(f"time_format={time_format!r}: {error}") from error
    bad = times.isna().to_numpy()
    if bad.any():
        row = int(bad.argmax())
        raise SourceError(f"{where}, line {lines[row]}: found {text[row][:40]!r}, expected a time as {time_format}")
    return _to_minute(times.to_numpy().astype("datetime64[s]"), text, lines, where)


def _unknown(text: str, line: int, where: str) -> Exception:
    found = f"{where}, line {line}: found {text[:40]!r}"
    if _DAY_NUMBER.fullmatch(text):
        return SourceError(f"{found}, a day number: save the table with full dates and times, as 2020-01-31 23:30")
    if any(character.isdigit() for character in text):
        return ConfigError(f"{found}, a time in an unknown format: {_advice()}")
    return SourceError(f"{found}, expected a time such as 2020-01-31 23:30")


def _check_zones(zones: set[str], utc_offset: float, where: str) -> None:
    if zones == {""}:
        return
    if len(zones) > 1:
        found = ", ".join(sorted(zone or "none" for zone in zones)[:4])
        raise SourceError(f"{where}: times in several zones ({found}), as with daylight saving; use standard time")
    zone = zones.pop()
    minutes = zone[3:].lstrip(":")
    hours = 0.0 if zone in ("Z", "UTC", "GMT") else float(zone[:3]) + float(f"{zone[0]}{minutes or 0}") / 60
    if hours != utc_offset:
        raise ConfigError(f"{where}: times are in {zone}, and utc_offset is {utc_offset:g}: set utc_offset={hours:g}")


def _whole(matches: Sequence[re.Match], name: str) -> np.ndarray:
    return np.array([int(match[name] or 0) for match in matches], np.int64)


def _order(parts: dict[str, np.ndarray], lines: Sequence[int], where: str) -> dict[str, np.ndarray]:
    """Return day and month of dates whose year comes last: a number above 12 is a day."""
    one, two = parts["one"], parts["two"]
    first, second = one > 12, two > 12
    if first.any() and second.any():
        line = lines[int((second if first.argmax() < second.argmax() else first).argmax())]
        raise SourceError(f"{where}, line {line}: the day comes first in some rows and second in others; use one order")
    if not first.any() and not second.any():
        raise ConfigError(
            f"{where}: no day is above 12, so that day and month cannot be distinguished: "
            + to_type(
                python="set time_format='%d/%m/%Y %H:%M' or time_format='%m/%d/%Y %H:%M'",
                shell="pass --time-format '%d/%m/%Y %H:%M' or --time-format '%m/%d/%Y %H:%M'",
            )
            + ", with the separators of the file"
        )
    return {"day": one, "month": two} if first.any() else {"day": two, "month": one}


def _times(parts: dict[str, np.ndarray], text: Sequence[str], lines: Sequence[int], where: str) -> np.ndarray:
    year, month, day, hour, minute = (parts[name] for name in ("year", "month", "day", "hour", "minute"))
    months = ((year - 1970) * 12 + month - 1).astype("datetime64[M]")
    days = months.astype("datetime64[D]") + (day - 1)
    good = (year >= 1900) & (year < 2200) & (month >= 1) & (month <= 12) & (day >= 1) & (minute < 60)
    good &= (days.astype("datetime64[M]") == months) & (parts["second"] < 60)
    good &= (hour < 24) | ((hour == 24) & (minute == 0) & (parts["second"] == 0))
    if not good.all():
        row = int((~good).argmax())
        raise SourceError(f"{where}, line {lines[row]}: found {text[row][:40]!r}, which is not a date and time")
    seconds = (hour * 60 + minute) * 60 + parts["second"]
    return _to_minute(days.astype("datetime64[s]") + seconds, text, lines, where)


def _to_minute(times: np.ndarray, text: Sequence[str], lines: Sequence[int], where: str) -> np.ndarray:
    minutes = times.astype("datetime64[m]")
    if (minutes != times).any():
        row = int((minutes != times).argmax())
        raise SourceError(
            f"{where}, line {lines[row]}: found {text[row][:40]!r}, expected times of whole minutes; round them, or "
            "average the rows over periods first"
        )
    return minutes


def _advice() -> str:
    return to_type(
        python="set time_format=, such as time_format='%d/%m/%Y %H:%M'", shell="pass --time-format '%d/%m/%Y %H:%M'"
    )
