"""Read the rows of site metadata files, and the numbers, offsets and dates in them, as people write them."""

from __future__ import annotations

import csv
import io
import logging
import re
from collections.abc import Callable, Sequence
from itertools import islice

import numpy as np

from fluxcube.errors import SourceError
from fluxcube.sources.towers.archives import Location, open_stream
from fluxcube.sources.towers.sheets import is_sheet, read_sheet

#: One logger for all of site metadata, which `inspect` disables.
_log = logging.getLogger("fluxcube.sources.towers.badm")

#: Maximum size of a metadata file in bytes: the file of all sites of a network has some 10 MB.
MAX_BYTES = 64 << 20
#: Number of rows at the beginning that are searched for the header: some spreadsheets have a title above it.
HEADER_WITHIN = 10
#: Smallest and largest possible value of each kind of number.
LIMITS = {"latitude": (-90, 90), "longitude": (-180, 180), "elevation": (-500, 9000), "utc_offset": (-14, 14)}

#: Characters that separate columns, tried in this order.
_DELIMITERS = ",;\t|"
#: Characters that are used as a minus sign: minus, figure dash and en dash.
_MINUS = re.compile("[\u2212\u2012\u2013]")
_CLOCK = re.compile(r"(?:UTC|GMT)?([+-]?)(\d{1,2})(?::([0-5]\d))?", re.IGNORECASE)
#: Degrees, with minutes and seconds if there are any, and a letter for the side.
_ANGLE = re.compile(
    r"""(?P<before>[NSEW]?)\s*(?P<degrees>[+-]?\d+(?:\.\d+)?)\s*(?:[\u00b0\u00ba]\s*
    (?:(?P<minutes>\d+(?:\.\d+)?)\s*['\u2032\u2019]\s*(?:(?P<seconds>\d+(?:\.\d+)?)\s*(?:["\u2033\u201d]|'')\s*)?)?)?
    \s*(?P<after>[NSEW]?)""",
    re.IGNORECASE | re.VERBOSE,
)
_SIDES = {"latitude": "NS", "longitude": "EW"}
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
#: Texts that mean that there is no value.
_BLANK = ("", "na", "n/a", "nan", "none", "null", "unknown", "-", "-9999")
_FIRST_YEAR, _LAST_YEAR = 1900, 2100

#: Line number and fields of a row.
Row = tuple[int, list[str]]


def read_rows(location: Location, is_header: Callable[[Sequence[str]], bool]) -> list[Row]:
    """Return line number and fields of every row that is not blank, of a spreadsheet or of separated text.

    Parameters
    ----------
    location : Location
        A file, or an entry of a zip.
    is_header : callable
        Whether a row of fields is the header: columns are separated by the first of comma, semicolon, tab and vertical
        bar for which one of the first rows is a header, else by commas.

    Raises
    ------
    SourceError
        If the file is cut, too large, or an old Excel workbook.
    """
    if is_sheet(location):
        return list(read_sheet(location))
    with open_stream(location) as stream:
        data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise SourceError(
            f"{location}: more than {MAX_BYTES >> 20} MiB, where site metadata were expected; check whether it is "
            "another file"
        )
    text = _decoded(data, location).replace("\0", "")
    for delimiter in _DELIMITERS:
        first = islice(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), HEADER_WITHIN)
        try:
            if any(is_header(row) for row in first):
                return _split(text, delimiter, location)
        except csv.Error:
            continue  # the split by commas reports it
    return _split(text, _DELIMITERS[0], location)


def _split(text: str, delimiter: str, location: Location) -> list[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        return [(reader.line_num, row) for row in reader if any(field.strip() for field in row)]
    except csv.Error as error:
        raise SourceError(
            f"{location}, line {reader.line_num}: not comma-separated text ({error}); save it as CSV"
        ) from error


def _decoded(data: bytes, location: Location) -> str:
    """Return the text of a metadata file: UTF-8, UTF-16 by its byte order mark, else Latin-1 with a logged warning."""
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        _log.warning("%s: not in UTF-8 (byte %d); read as Latin-1, so names may be wrong", location, error.start)
        return data.decode("latin-1")


def is_blank(text: str) -> bool:
    """Return whether a text means that there is no value.

    Examples
    --------
    >>> is_blank(" NA "), is_blank("-9999"), is_blank("0")
    (True, True, False)
    """
    return text.strip().lower() in _BLANK


def parse_number(text: str, kind: str, where: str) -> float | None:
    """Return a number, or None where the text is blank or (with a logged warning) not a possible number.

    Parameters
    ----------
    text : str
        Such as ``-20.25`` or, in a table with other separators, ``-20,25``; of an offset also ``UTC-6``.
    kind : {"latitude", "longitude", "elevation", "utc_offset"}
        Determines the limits.
    where : str
        File, line and site, for the warning.
    """
    if is_blank(text):
        return None
    low, high = LIMITS[kind]
    plain = _MINUS.sub("-", text.strip())
    if _DECIMAL_COMMA.fullmatch(plain) and kind != "elevation":  # the comma of an elevation may be of thousands
        plain = plain.replace(",", ".")
    try:
        value = float(plain)
    except ValueError:
        value = parse_clock(text) if kind == "utc_offset" else parse_angle(plain, kind)
    if low <= value <= high:
        return value
    _log.warning("%s: %s %r is not a number from %g to %g; it counts as unknown", where, kind, text, low, high)
    return None


def parse_angle(text: str, kind: str) -> float:
    """Return the degrees of a latitude or longitude that is written with its side; NaN if the text is none.

    Examples
    --------
    >>> parse_angle("35.7 S", "latitude"), parse_angle("W 97\u00b030'", "longitude"), parse_angle("35.7 S", "longitude")
    (-35.7, -97.5, nan)
    """
    match = _ANGLE.fullmatch(text)
    if match is None or kind not in _SIDES or (match["before"] and match["after"]):
        return np.nan
    side = (match["before"] or match["after"]).upper()
    if side not in _SIDES[kind]:
        return np.nan
    degrees = float(match["degrees"])
    size = abs(degrees) + float(match["minutes"] or 0) / 60 + float(match["seconds"] or 0) / 3600
    negative = match["degrees"].startswith("-") or side == _SIDES[kind][1]
    return -size if negative else size


def parse_clock(text: str) -> float:
    """Return the hours of an offset that is written as text, such as UTC-6; NaN if the text is not an offset.

    Examples
    --------
    >>> parse_clock("UTC-6"), parse_clock("+05:45"), parse_clock("GMT \u22123:30"), parse_clock("CET")
    (-6.0, 5.75, -3.5, nan)
    """
    match = _CLOCK.fullmatch(_MINUS.sub("-", text.replace(" ", "")))
    if match is None:
        return np.nan
    sign, hours, minutes = match.groups()
    return (int(hours) + int(minutes or 0) / 60) * (-1 if sign == "-" else 1)


def parse_date(text: str, name: str, where: str) -> np.datetime64 | None:
    """Return a BADM date: YYYY, then month, day, hour and minute as far as known; None where there is none.

    Parameters
    ----------
    text : str
        Such as ``20210501``.
    name : str
        Name of the variable, for the logged warning about a text that is not such a date.
    where : str
        File and site, for the warning.

    Examples
    --------
    >>> str(parse_date("20210501", "IGBP_DATE_START", "a.csv")), str(parse_date("2004", "IGBP_DATE_START", "a.csv"))
    ('2021-05-01T00:00', '2004-01-01T00:00')
    """
    digits = re.sub(r"\D", "", text)
    if not digits:
        return None
    parts = [digits[:4], *(digits[i : i + 2] for i in range(4, min(len(digits), 12), 2))]
    iso = "-".join(parts[:3]) + ("T" + ":".join([*parts[3:], "00"][:2]) if len(parts) > 3 else "")
    try:
        if _FIRST_YEAR <= int(parts[0]) <= _LAST_YEAR:
            return np.datetime64(iso, "m")
    except ValueError:
        pass
    _log.warning("%s: %s %r is not a date (YYYYMMDD); it is read as the beginning of the record", where, name, text)
    return None


def warn_nameless(location: Location, lines: Sequence[int]) -> None:
    """Log a warning about rows without a site."""
    if lines:
        _log.warning("%s: %d rows without a site are left out, the first in line %d", location, len(lines), lines[0])
