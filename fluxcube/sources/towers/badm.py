"""Read site metadata: BADM interchange files (BIF), ICOS SITEINFO and plain tables of sites."""

from __future__ import annotations

import csv
import io
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from fluxcube.errors import MissingPackageError, SourceError
from fluxcube.sources.towers.archives import Location, open_stream
from fluxcube.sources.towers.sheets import is_sheet, read_sheet

_log = logging.getLogger(__name__)

#: Maximum difference in degrees between coordinates of the same place in two files.
SAME_PLACE = 0.01

#: Maximum size of a metadata file in bytes: the file of all sites of a network has some 10 MB.
MAX_BYTES = 64 << 20

#: Characters that are used as a minus sign: minus, figure dash and en dash.
_MINUS = re.compile("[\u2212\u2012\u2013]")
_SITE = re.compile(r"[A-Z]{2}-[A-Za-z0-9]{3}")
_TABLE_COLUMNS = {
    "site": ("site_id", "site"),
    "latitude": ("latitude", "location_lat", "lat"),
    "longitude": ("longitude", "location_long", "location_lon", "lon", "long"),
    "elevation": ("elevation", "location_elev", "elev"),
    "igbp": ("igbp",),
    "koppen": ("koppen", "climate_koeppen", "koeppen"),
    "utc_offset": ("utc_offset",),
}
_CLOCK = re.compile(r"(?:UTC|GMT)?([+-]?)(\d{1,2})(?::([0-5]\d))?", re.IGNORECASE)
_LIMITS = {"latitude": (-90, 90), "longitude": (-180, 180), "elevation": (-500, 9000), "utc_offset": (-14, 14)}

#: Hours east of UTC of JapanFlux2024's time stamps at all of its sites (Ueyama et al. 2025,
#: doi:10.5194/essd-17-3807-2025).
JAPAN_HOURS = 9.0

#: Number of rows at the beginning that are searched for the header: some spreadsheets have a title above it.
_HEADER_WITHIN = 10

#: Local start of a dated entry, None where it has no date, and hours east of UTC.
Dated = tuple[np.datetime64 | None, float]


@dataclass(frozen=True, kw_only=True)
class SiteInfo:
    """Metadata of a site.

    Attributes
    ----------
    site : str
        ID, e.g. ``"US-MMS"``.
    latitude, longitude : float or None
        Degrees north and east; None where unknown.
    elevation : float or None
        Metres above sea level.
    igbp, koppen : str
        Classes, "" where unknown.
    utc_offset : float or None
        Hours east of UTC of the site's standard time, from the newest entry.
    utc_offsets : tuple of (datetime64 or None, float)
        Every entry with its local start, earliest first: the form of `utc_offset` of the readers.
    elsewhere : tuple of (str, float, float)
        File, latitude and longitude of differing coordinates in other files, which are not used.
    """

    site: str
    latitude: float | None = None
    longitude: float | None = None
    elevation: float | None = None
    igbp: str = ""
    koppen: str = ""
    utc_offset: float | None = None
    utc_offsets: tuple[Dated, ...] = ()
    elsewhere: tuple[tuple[str, float, float], ...] = ()


def read_badm(
    paths: str | os.PathLike | Location | Iterable[str | os.PathLike | Location],
    *,
    on_error: Callable[[Location, SourceError], None] | None = None,
) -> dict[str, SiteInfo]:
    """Read and merge site metadata of one or more files.

    BIF files (columns SITE_ID, GROUP_ID, VARIABLE, DATAVALUE; CSV or XLSX), ICOS SITEINFO and JapanFlux2024's General
    files (Variable, dataValue1) come first, in the order of `paths`; plain tables (site_id, latitude, longitude and
    optionally elevation, igbp, koppen, utc_offset) supply values that those lack. A warning is logged where files
    differ by more than 0.01 degrees on a place, where a place is at 0 N, 0 E, for rows without a site, which are left
    out, and for impossible values, which count as unknown.

    Parameters
    ----------
    paths : path, Location, or iterable of them
        Files, as `discover` lists them.
    on_error : callable, optional
        Called with a file that cannot be read and its error; the file is then skipped. By default the error is raised.

    Returns
    -------
    dict of str to SiteInfo
        Metadata by site.

    Raises
    ------
    SourceError
        If a file is of neither kind, cut or broken, contains no site, or is a spreadsheet with a formula.
    MissingPackageError
        If a file is a spreadsheet and openpyxl is not installed; `on_error` is called with a SourceError instead.
    """
    if isinstance(paths, (str, os.PathLike, Location)):
        paths = [paths]
    locations = [path if isinstance(path, Location) else Location(Path(path)) for path in paths]
    tables: list[tuple[Location, dict[str, SiteInfo]]] = []
    merged: dict[str, SiteInfo] = {}
    for location in locations:
        try:
            is_bif, infos = _read_file(location)
        except (SourceError, MissingPackageError) as error:
            if on_error is None:
                raise
            on_error(location, error if isinstance(error, SourceError) else SourceError(f"{location}: {error}"))
            continue
        if is_bif:
            _merge(merged, infos, location)
        else:
            tables.append((location, infos))
    for location, infos in tables:
        _merge(merged, infos, location)
    for site in (site for site, info in merged.items() if info.latitude == info.longitude == 0):
        _log.warning("%s: latitude and longitude are both 0, a place in the ocean; correct its metadata", site)
    return merged


def require_location(infos: Mapping[str, SiteInfo], site: str) -> SiteInfo:
    """Return the metadata of a site, which must have coordinates.

    Raises
    ------
    SourceError
        If the site's latitude or longitude is unknown.

    Examples
    --------
    >>> require_location({"US-MMS": SiteInfo(site="US-MMS", latitude=39.3, longitude=-86.4)}, "US-MMS").latitude
    39.3
    """
    info = infos.get(site)
    if info is not None and info.latitude is not None and info.longitude is not None:
        return info
    fault = "is in none of the metadata files" if info is None else "has no valid latitude and longitude in them"
    raise SourceError(
        f"site {site} {fault}, and its coordinates are required; add LOCATION_LAT and LOCATION_LONG to a BIF file, or "
        f"a line '{site},<latitude>,<longitude>' to a sites.csv with the header site_id,latitude,longitude"
    )


def merge_places(known: SiteInfo | None, other: SiteInfo | None) -> SiteInfo | None:
    """Return the metadata of a site from two sources; where both have a value, the first is used.

    Parameters
    ----------
    known : SiteInfo or None
        From `read_badm`.
    other : SiteInfo or None
        From an archive itself (`fluxcube.sources.towers.readers.place_of`).

    Examples
    --------
    >>> known = SiteInfo(site="JP-Tak", latitude=36.1, longitude=137.4)
    >>> both = merge_places(known, SiteInfo(site="JP-Tak", utc_offset=9.0))
    >>> both.latitude, both.utc_offset
    (36.1, 9.0)
    """
    if known is None or other is None:
        return known or other
    merged = {known.site: known}
    _merge(merged, {known.site: other}, Location(Path(f"the archive of {known.site}")))
    return merged[known.site]


def clock_of(info: SiteInfo) -> float | tuple[Dated, ...]:
    """Return the offset from UTC that decodes a site's time stamps, as the readers accept it.

    Without an entry it is derived from the longitude (a whole hour for every 15 degrees), and a warning is logged.

    Raises
    ------
    SourceError
        If both offset and longitude are unknown.

    Examples
    --------
    >>> clock_of(SiteInfo(site="AU-ASM", longitude=133.2, utc_offset=9.5, utc_offsets=((None, 9.5),)))
    9.5
    """
    if len(info.utc_offsets) > 1:
        return info.utc_offsets
    if info.utc_offset is not None:
        return info.utc_offset
    if info.longitude is None:
        info = require_location({info.site: info}, info.site)
    offset = float(round((info.longitude or 0.0) / 15))
    _log.warning(
        "%s: no UTC_OFFSET; taking %+.0f h from its longitude. Add UTC_OFFSET to its metadata", info.site, offset
    )
    return offset


def _read_file(location: Location) -> tuple[bool, dict[str, SiteInfo]]:
    """Return whether a file has the form of BIF, and its metadata by site."""
    rows = list(read_sheet(location) if is_sheet(location.name) else _rows(location))
    for index, (_, row) in enumerate(rows[:_HEADER_WITHIN]):
        header = [name.strip().upper() for name in row]
        if "VARIABLE" in header and "DATAVALUE" in header:
            return True, _from_bif(location, header, rows[index + 1 :])
        if "VARIABLE" in header and "DATAVALUE1" in header:
            return True, _from_japan(location, header, rows[index + 1 :])
        columns = {key: _first(header, names) for key, names in _TABLE_COLUMNS.items()}
        if None not in (columns["site"], columns["latitude"], columns["longitude"]):
            return False, _from_table(location, columns, rows[index + 1 :])
    found = ", ".join(name.strip() for name in rows[0][1][:5]) if rows else "nothing"
    raise SourceError(
        f"{location}, line 1: neither a BIF file (SITE_ID, GROUP_ID, VARIABLE, DATAVALUE) nor a table of sites "
        f"(site_id, latitude, longitude); found {found}. Correct it or move it away"
    )


def _rows(location: Location) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and fields of every line that is not blank."""
    with open_stream(location) as stream:
        data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise SourceError(
            f"{location}: more than {MAX_BYTES >> 20} MiB, where site metadata were expected; check whether it is "
            "another file"
        )
    text = _decoded(data, location)
    reader = csv.reader(io.StringIO(text.replace("\0", ""), newline=""))
    try:
        yield from ((reader.line_num, row) for row in reader if any(field.strip() for field in row))
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


def _first(header: Sequence[str], names: Sequence[str]) -> int | None:
    return next((header.index(name.upper()) for name in names if name.upper() in header), None)


def _from_bif(location: Location, header: Sequence[str], rows: Sequence[tuple[int, list[str]]]) -> dict[str, SiteInfo]:
    groups: dict[str, list[_Group]] = {}
    for (site, _), group in _groups(location, header, rows).items():
        groups.setdefault(site, []).append(group)
    return {site: _site_of_groups(of_site, site, location) for site, of_site in groups.items()}


def _from_japan(
    location: Location, header: Sequence[str], rows: Sequence[tuple[int, list[str]]]
) -> dict[str, SiteInfo]:
    """Read the form of JapanFlux2024: one site, one variable per row."""
    name_at, value_at = header.index("VARIABLE"), header.index("DATAVALUE1")
    group: _Group = {}
    for line, row in rows:
        if len(row) > max(name_at, value_at) and row[value_at].strip():
            group.setdefault(row[name_at].strip().upper(), (line, row[value_at].strip()))
    named = _SITE.search(_text(group, "SITE_ID")) or _SITE.search(str(location))
    if named is None:
        raise SourceError(
            f"{location}: no SITE_ID such as JP-Tak, neither in the file nor in its name; add a row SITE_ID"
        )
    info = _site_of_groups([group], named.group(), location)
    if info.utc_offset is None:
        info = replace(info, utc_offset=JAPAN_HOURS, utc_offsets=((None, JAPAN_HOURS),))
    return {named.group(): info}


_Group = dict[str, tuple[int, str]]


def _groups(
    location: Location, header: Sequence[str], rows: Sequence[tuple[int, list[str]]]
) -> dict[tuple[str, str], _Group]:
    """Return the values that were reported together, as variable to (line, text), by site and group."""
    at = {name: header.index(name) for name in header}
    value_at, last = at["DATAVALUE"], len(header) - 1
    match = _SITE.search(location.name)
    site_of_file = match.group() if match else ""
    if "SITE_ID" not in at and not site_of_file:
        raise SourceError(f"{location}: no column SITE_ID, and no site such as JP-Tak in its name; add one of them")
    groups: dict[tuple[str, str], _Group] = {}
    nameless = []
    for line, row in rows:
        if len(row) <= max(at["VARIABLE"], value_at):
            raise SourceError(
                f"{location}, line {line}: {len(row)} fields, expected {len(header)}; the file is cut, get it again"
            )
        site = row[at["SITE_ID"]].strip() if "SITE_ID" in at else site_of_file
        if not site:
            nameless.append(line)
            continue
        # Some files do not quote texts with commas: the last column contains the rest of the line.
        value = ",".join(row[value_at:]) if value_at == last else row[value_at]
        variable = row[at["VARIABLE"]].strip().upper()
        group = row[at["GROUP_ID"]].strip() if "GROUP_ID" in at else ""
        groups.setdefault((site, group), {}).setdefault(variable, (line, value.strip()))
    _warn_nameless(location, nameless)
    return groups


def _warn_nameless(location: Location, lines: Sequence[int]) -> None:
    if lines:
        _log.warning("%s: %d rows without a site are left out, the first in line %d", location, len(lines), lines[0])


def _site_of_groups(groups: Sequence[_Group], site: str, location: Location) -> SiteInfo:
    def number(group: _Group, kind: str, *names: str) -> float | None:
        line, text = next((group[name] for name in names if name in group), (0, ""))
        return _number(text, kind, f"{location}, line {line}, {site}")

    places = sorted((g for g in groups if "LOCATION_LAT" in g), key=lambda g: _text(g, "LOCATION_DATE_START"))
    place = places[-1] if places else {}
    elevations = [value for g in groups if (value := number(g, "elevation", "LOCATION_ELEV")) is not None]
    last_elevation = elevations[-1] if elevations else None
    entries = [(_text(g, "UTC_OFFSET_DATE_START"), number(g, "utc_offset", "UTC_OFFSET")) for g in groups]
    offsets = _offsets(entries, site, location)
    return SiteInfo(
        site=site,
        latitude=number(place, "latitude", "LOCATION_LAT"),
        longitude=number(place, "longitude", "LOCATION_LONG", "LOCATION_LON"),
        elevation=number(place, "elevation", "LOCATION_ELEV") if "LOCATION_ELEV" in place else last_elevation,
        igbp=_class(groups, "IGBP").upper(),
        koppen=_class(groups, "CLIMATE_KOEPPEN"),
        utc_offset=offsets[-1][1] if offsets else None,
        utc_offsets=offsets,
    )


def _text(group: _Group, name: str) -> str:
    return group.get(name, (0, ""))[1]


def _class(groups: Sequence[_Group], name: str) -> str:
    """Return the newest of a site's classes."""
    dated = [(_text(group, f"{name}_DATE_START"), text) for group in groups if (text := _text(group, name))]
    return max(dated, key=lambda entry: entry[0])[1] if dated else ""


def _offsets(entries: Iterable[tuple[str, float | None]], site: str, location: Location) -> tuple[Dated, ...]:
    """Return dated offsets from UTC, earliest first, without repetitions."""
    dated = [(_date(text, site, location), hours) for text, hours in entries if hours is not None]
    first = np.datetime64("0000", "m")
    dated.sort(key=lambda entry: first if entry[0] is None else entry[0])
    return tuple(entry for i, entry in enumerate(dated) if i == 0 or entry[1] != dated[i - 1][1])


def _date(text: str, site: str, location: Location) -> np.datetime64 | None:
    """Return a BADM date: YYYY, then month, day, hour and minute as far as known."""
    digits = re.sub(r"\D", "", text)
    if not digits:
        return None
    parts = [digits[:4], *(digits[i : i + 2] for i in range(4, min(len(digits), 12), 2))]
    iso = "-".join(parts[:3]) + ("T" + ":".join([*parts[3:], "00"][:2]) if len(parts) > 3 else "")
    try:
        return np.datetime64(iso, "m")
    except ValueError:
        _log.warning(
            "%s, %s: UTC_OFFSET_DATE_START %r is not a date (YYYYMMDD); it is read as the beginning of the record",
            location,
            site,
            text,
        )
        return None


def _from_table(
    location: Location, columns: Mapping[str, int | None], rows: Sequence[tuple[int, list[str]]]
) -> dict[str, SiteInfo]:
    infos: dict[str, SiteInfo] = {}
    nameless = []
    for line, row in rows:

        def cell(key: str, row: list[str] = row) -> str:
            at = columns[key]
            return row[at].strip() if at is not None and at < len(row) else ""

        site = cell("site")
        if not site:
            nameless.append(line)
            continue
        where = f"{location}, line {line}, {site}"
        number = {key: _number(cell(key), key, where) for key in _LIMITS}
        offset = number["utc_offset"]
        info = SiteInfo(
            site=site,
            latitude=number["latitude"],
            longitude=number["longitude"],
            elevation=number["elevation"],
            igbp=cell("igbp").upper(),
            koppen=cell("koppen"),
            utc_offset=offset,
            utc_offsets=() if offset is None else ((None, offset),),
        )
        infos.setdefault(site, info)
    _warn_nameless(location, nameless)
    return infos


def _number(text: str, kind: str, where: str) -> float | None:
    """Return a number, or None where the text is blank or (with a logged warning) not a possible number."""
    if text.lower() in ("", "na", "nan", "none", "-9999"):
        return None
    low, high = _LIMITS[kind]
    try:
        value = float(_MINUS.sub("-", text))
    except ValueError:
        value = _clock(text) if kind == "utc_offset" else np.nan
    if low <= value <= high:
        return value
    _log.warning("%s: %s %r is not a number from %g to %g; it counts as unknown", where, kind, text, low, high)
    return None


def _clock(text: str) -> float:
    """Return the hours of an offset that is written as text, such as UTC-6; NaN if the text is not an offset.

    Examples
    --------
    >>> _clock("UTC-6"), _clock("+05:45"), _clock("GMT \u22123:30"), _clock("CET")
    (-6.0, 5.75, -3.5, nan)
    """
    match = _CLOCK.fullmatch(_MINUS.sub("-", text.replace(" ", "")))
    if match is None:
        return np.nan
    sign, hours, minutes = match.groups()
    return (int(hours) + int(minutes or 0) / 60) * (-1 if sign == "-" else 1)


def _merge(merged: dict[str, SiteInfo], infos: Mapping[str, SiteInfo], location: Location) -> None:
    """Add metadata that are not known yet."""
    for site, info in infos.items():
        known = merged.get(site)
        if known is None:
            merged[site] = info
            continue
        _compare(known, info, location)
        both = {f.name: getattr(info, f.name) for f in fields(info) if getattr(known, f.name) in (None, "", ())}
        # Both coordinates come from one file: never the latitude of one with the longitude of another.
        first, second = coordinates(known), coordinates(info)
        latitude, longitude = first or (info.latitude, info.longitude)
        merged[site] = replace(known, **{**both, "latitude": latitude, "longitude": longitude})
        if first and second and max(abs(first[0] - second[0]), abs(first[1] - second[1])) > SAME_PLACE:
            merged[site] = replace(merged[site], elsewhere=(*known.elsewhere, (location.name, *second)))


def coordinates(info: SiteInfo) -> tuple[float, float] | None:
    """Return latitude and longitude of a site in degrees; None where one of them is unknown."""
    return None if info.latitude is None or info.longitude is None else (info.latitude, info.longitude)


def _compare(known: SiteInfo, info: SiteInfo, location: Location) -> None:
    """Log a warning where two files differ on the coordinates of a site."""
    for name in ("latitude", "longitude"):
        one, two = getattr(known, name), getattr(info, name)
        if one is not None and two is not None and abs(one - two) > SAME_PLACE:
            _log.warning(
                "%s: %s of %s is %g, and %g in a file read before, which is used", location, name, info.site, two, one
            )
