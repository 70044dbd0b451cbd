"""Read site metadata: BADM interchange files (BIF), ICOS SITEINFO and plain tables of sites."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from fluxcube.errors import MissingPackageError, SourceError, to_type
from fluxcube.knownsites import known_site
from fluxcube.sources.towers.archives import Location
from fluxcube.sources.towers.bif import read_bif, read_japan
from fluxcube.sources.towers.metatext import (
    HEADER_WITHIN,
    LIMITS,
    Row,
    is_blank,
    parse_number,
    read_rows,
    warn_nameless,
)
from fluxcube.sources.towers.siteinfo import SAME_PLACE, Dated, SiteInfo, class_of, coordinates, fill_in, is_near

_log = logging.getLogger(__name__)

_TABLE_COLUMNS = {
    "site": ("site_id", "site"),
    "latitude": ("latitude", "location_lat", "lat"),
    "longitude": ("longitude", "location_long", "location_lon", "lon", "long"),
    "elevation": ("elevation", "location_elev", "elev"),
    "igbp": ("igbp",),
    "koppen": ("koppen", "climate_koeppen", "koeppen"),
    "utc_offset": ("utc_offset",),
}


def read_badm(
    paths: str | os.PathLike | Location | Iterable[str | os.PathLike | Location],
    *,
    on_error: Callable[[Location, SourceError], None] | None = None,
) -> dict[str, SiteInfo]:
    """Read and merge site metadata of one or more files.

    BIF files (columns SITE_ID, GROUP_ID, VARIABLE, DATAVALUE), ICOS SITEINFO and JapanFlux2024's General files
    (Variable, dataValue1) come first, in the order of `paths`; plain tables (site_id, latitude, longitude and
    optionally elevation, igbp, koppen, utc_offset) supply values that those lack. Files are XLSX, or text with columns
    that commas, semicolons, tabs or vertical bars separate. Of entries without a date that contradict each other the
    last one of a BIF file is used, of offsets from UTC the one nearest to longitude / 15, and the first line of a
    table. A warning is logged where entries or files contradict each other (places: by more than 0.01 degrees), where a
    place is at 0 N, 0 E, for rows without a site, which are left out, and for impossible values and texts that are no
    IGBP class, which count as unknown.

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
    fault += ", and not in the table of known sites (fluxcube.known_sites())" if known_site(site) is None else ""
    raise SourceError(
        f"site {site} {fault}; its coordinates are required: add LOCATION_LAT and LOCATION_LONG to a BIF file, or "
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
    return fill_in(known, other, f"the archive of {known.site}")


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
    rows = read_rows(location, lambda row: _form(_header(row)) is not None)
    for index, (_, row) in enumerate(rows[:HEADER_WITHIN]):
        header = _header(row)
        if form := _form(header):
            infos = form(location, header, rows[index + 1 :])
            for info in infos.values():
                for sentence in (*info.doubts, *info.notes):
                    _log.warning("%s: %s", info.site, sentence)
            return form is not _from_table, infos
    found = ", ".join(name.strip() for name in rows[0][1][:5]) if rows else "nothing"
    raise SourceError(
        f"{location}, line 1: neither a BIF file (SITE_ID, GROUP_ID, VARIABLE, DATAVALUE) nor a table of sites "
        f"(site_id, latitude, longitude); found {found}. Correct it or move it away; a table of your own site "
        f"is added to a cube with {to_type(python='fc.add_site', shell='`fluxcube add-site`')}"
    )


def _header(row: Sequence[str]) -> list[str]:
    return [name.strip().upper() for name in row]


def _form(header: Sequence[str]) -> Callable[[Location, Sequence[str], Sequence[Row]], dict[str, SiteInfo]] | None:
    """Return the function that reads the rows below a header; None if the row is no header."""
    if "VARIABLE" in header and "DATAVALUE" in header:
        return read_bif
    if "VARIABLE" in header and "DATAVALUE1" in header:
        return read_japan
    needed = (_first(header, _TABLE_COLUMNS[key]) for key in ("site", "latitude", "longitude"))
    return None if None in needed else _from_table


def _first(header: Sequence[str], names: Sequence[str]) -> int | None:
    return next((header.index(name.upper()) for name in names if name.upper() in header), None)


def _from_table(location: Location, header: Sequence[str], rows: Sequence[Row]) -> dict[str, SiteInfo]:
    """Read a table with one line for each site; of several lines of a site, the first that has a value is used."""
    columns = {key: _first(header, names) for key, names in _TABLE_COLUMNS.items()}
    infos: dict[str, SiteInfo] = {}
    lines: dict[str, int] = {}
    nameless = []
    for line, row in rows:
        cells = {key: row[at].strip() if at is not None and at < len(row) else "" for key, at in columns.items()}
        site = cells["site"]
        if not site:
            nameless.append(line)
            continue
        info = _info_of_cells(cells, location, line)
        if site in infos:
            infos[site] = _joined_lines(infos[site], info, location, lines[site], line)
        else:
            infos[site], lines[site] = info, line
    warn_nameless(location, nameless)
    return infos


def _info_of_cells(cells: Mapping[str, str], location: Location, line: int) -> SiteInfo:
    where = f"{location}, line {line}, {cells['site']}"
    number = {key: parse_number(cells[key], key, where) for key in LIMITS}
    offset = number["utc_offset"]
    code, note = class_of(cells["igbp"], f"{location.name}, line {line}")
    return SiteInfo(
        site=cells["site"],
        latitude=number["latitude"],
        longitude=number["longitude"],
        elevation=number["elevation"],
        igbp=code,
        koppen="" if is_blank(cells["koppen"]) else cells["koppen"],
        utc_offset=offset,
        utc_offsets=() if offset is None else ((None, offset),),
        notes=(note,) if note else (),
    )


def _joined_lines(known: SiteInfo, info: SiteInfo, location: Location, first: int, line: int) -> SiteInfo:
    """Return the metadata of two lines of one site, and sentences where they contradict each other."""
    used = f"line {first} is used; remove the wrong line"
    lines = f"{location.name}: lines {first} and {line} differ on"
    doubts, notes = list(known.doubts), [*known.notes, *info.notes]
    one, other = coordinates(known), coordinates(info)
    if one and other and max(abs(one[0] - other[0]), abs(one[1] - other[1])) > SAME_PLACE:
        doubts.append(f"{lines} the place: {one[0]:g}, {one[1]:g} and {other[0]:g}, {other[1]:g}; {used}")
    if known.utc_offset is not None and info.utc_offset is not None and known.utc_offset != info.utc_offset:
        doubts.append(f"{lines} the UTC offset: {known.utc_offset:+g} and {info.utc_offset:+g}; {used}")
    if known.igbp and info.igbp and known.igbp != info.igbp:
        notes.append(f"{lines} the IGBP class: {known.igbp} and {info.igbp}; {used}")
    return replace(fill_in(known, info), doubts=tuple(doubts), notes=tuple(dict.fromkeys(notes)))


def _merge(merged: dict[str, SiteInfo], infos: Mapping[str, SiteInfo], location: Location) -> None:
    """Add the metadata of a file where they are not known yet."""
    for site, info in infos.items():
        known = merged.get(site)
        if known is None:
            merged[site] = info
            continue
        _compare(known, info, location)
        notes = _differences(known, info, location)
        for note in notes:
            _log.warning("%s: %s", site, note)
        merged[site] = replace(
            fill_in(known, info, location.name),
            doubts=(*known.doubts, *info.doubts),
            notes=tuple(dict.fromkeys((*known.notes, *info.notes, *notes))),
        )


def _differences(known: SiteInfo, info: SiteInfo, location: Location) -> list[str]:
    """Return sentences on a class or an offset from UTC of a file that differs from those known."""
    notes = []
    if info.igbp and known.igbp and info.igbp not in {known.igbp, *(code for _, code in known.classes)}:
        notes.append(f"{location.name} has the IGBP class {info.igbp}; {known.igbp} of a file read before is used")
    hours = (known.utc_offset, *(hours for _, hours in known.utc_offsets))
    if info.utc_offset is not None and known.utc_offset is not None and info.utc_offset not in hours:
        notes.append(
            f"{location.name} has the UTC offset {info.utc_offset:+g}; {known.utc_offset:+g} of a file read before is "
            "used"
        )
    return notes


def _compare(known: SiteInfo, info: SiteInfo, location: Location) -> None:
    """Log a warning where two files differ on the coordinates of a site."""
    second = coordinates(info)
    if second is not None and is_near(known, second):
        return
    for name in ("latitude", "longitude"):
        one, two = getattr(known, name), getattr(info, name)
        if one is not None and two is not None and abs(one - two) > SAME_PLACE:
            _log.warning(
                "%s: %s of %s is %g, and %g in a file read before, which is used", location, name, info.site, two, one
            )
