"""Read site metadata in the form of BADM interchange files (BIF), ICOS SITEINFO and JapanFlux2024's General files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np

from fluxcube.errors import SourceError
from fluxcube.sources.towers.archives import Location
from fluxcube.sources.towers.bifgroups import Group, group_rows
from fluxcube.sources.towers.metatext import Row, is_blank, parse_date, parse_number, warn_nameless
from fluxcube.sources.towers.siteinfo import SAME_PLACE, DatedPlace, SiteInfo, class_of

_Value = TypeVar("_Value")
_SITE = re.compile(r"[A-Z]{2}-[A-Za-z0-9]{3}")

#: Hours east of UTC of JapanFlux2024's time stamps at all of its sites (Ueyama et al. 2025,
#: doi:10.5194/essd-17-3807-2025).
JAPAN_HOURS = 9.0


def read_bif(location: Location, header: Sequence[str], rows: Sequence[Row]) -> dict[str, SiteInfo]:
    """Read the form of BIF and SITEINFO: one variable per row, in groups."""
    match = _SITE.search(location.name)
    groups, nameless = group_rows(location, header, rows, site=match.group() if match else "")
    warn_nameless(location, nameless)
    return {site: _site_of_groups(of_site, site, location) for site, of_site in groups.items()}


def read_japan(location: Location, header: Sequence[str], rows: Sequence[Row]) -> dict[str, SiteInfo]:
    """Read the form of JapanFlux2024: one site, one variable per row."""
    name_at, value_at = header.index("VARIABLE"), header.index("DATAVALUE1")
    group: Group = {}
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


@dataclass(frozen=True)
class _Entry(Generic[_Value]):
    """A value with its local start (None: no date) and its line."""

    since: np.datetime64 | None
    line: int
    value: _Value


def _site_of_groups(groups: Sequence[Group], site: str, location: Location) -> SiteInfo:
    """Return the metadata in the groups of a site, from the newest entries, and all entries where there are several."""
    where = f"{location}, {site}"
    places, doubts = _settled(_place_entries(groups, site, location), _Kind("place", "LOCATION_DATE_START"), location)
    newest = places[-1].value if places else (None, None, None)
    elevations = [v for g in groups if (v := _number_of(g, "elevation", site, location, "LOCATION_ELEV")) is not None]
    hours = [
        _Entry(parse_date(_text(g, "UTC_OFFSET_DATE_START"), "UTC_OFFSET_DATE_START", where), g["UTC_OFFSET"][0], value)
        for g in groups
        if (value := _number_of(g, "utc_offset", site, location, "UTC_OFFSET")) is not None
    ]
    offsets, clock_doubts = _settled(hours, _Kind("UTC offset", "UTC_OFFSET_DATE_START", newest[1]), location)
    classes, notes = _class_entries(groups, site, location)
    koppen, more = _settled(_texts(groups, "CLIMATE_KOEPPEN", where), _Kind("Köppen class", "a date"), location)
    dated = tuple((entry.since, entry.value) for entry in offsets)
    return SiteInfo(
        site=site,
        latitude=newest[0],
        longitude=newest[1],
        elevation=newest[2] if newest[2] is not None or not elevations else elevations[-1],
        igbp=classes[-1].value if classes else "",
        koppen=koppen[-1].value if koppen else "",
        utc_offset=offsets[-1].value if offsets else None,
        utc_offsets=_without_repeats(dated),
        places=_dated_places(places),
        classes=_several(_without_repeats(tuple((entry.since, entry.value) for entry in classes))),
        doubts=(*doubts, *clock_doubts),
        notes=(*notes, *more),
    )


_Place = tuple[float | None, float | None, float | None]


def _place_entries(groups: Sequence[Group], site: str, location: Location) -> list[_Entry[_Place]]:
    """Return every place of a site; those without both coordinates only if there is no other."""
    entries = []
    for group in (group for group in groups if "LOCATION_LAT" in group):
        latitude = _number_of(group, "latitude", site, location, "LOCATION_LAT")
        longitude = _number_of(group, "longitude", site, location, "LOCATION_LONG", "LOCATION_LON")
        elevation = _number_of(group, "elevation", site, location, "LOCATION_ELEV")
        name = "LOCATION_DATE_START"
        since = parse_date(_text(group, name), name, f"{location}, {site}")
        entries.append(_Entry(since, group["LOCATION_LAT"][0], (latitude, longitude, elevation)))
    complete = [entry for entry in entries if None not in entry.value[:2]]
    return complete or entries[-1:]


def _dated_places(entries: Sequence[_Entry[_Place]]) -> tuple[DatedPlace, ...]:
    places = []
    for entry in entries:
        latitude, longitude, elevation = entry.value
        if latitude is not None and longitude is not None:
            places.append(DatedPlace(since=entry.since, latitude=latitude, longitude=longitude, elevation=elevation))
    return _several(tuple(places))


def _class_entries(groups: Sequence[Group], site: str, location: Location) -> tuple[list[_Entry[str]], tuple[str, ...]]:
    """Return the IGBP classes of a site, and sentences on texts that are none and on contradictions."""
    entries, notes = [], []
    for entry in _texts(groups, "IGBP", f"{location}, {site}"):
        code, note = class_of(entry.value, f"{location.name}, line {entry.line}")
        notes += [note] if note else []
        entries += [_Entry(entry.since, entry.line, code)] if code else []
    settled, doubts = _settled(entries, _Kind("IGBP class", "IGBP_DATE_START"), location)
    return settled, (*notes, *doubts)


def _texts(groups: Sequence[Group], name: str, where: str) -> list[_Entry[str]]:
    """Return every text of a variable, with its date."""
    start = f"{name}_DATE_START"
    return [
        _Entry(parse_date(_text(group, start), start, where), group[name][0], group[name][1])
        for group in groups
        if not is_blank(_text(group, name))
    ]


@dataclass(frozen=True)
class _Kind:
    """What entries are: their name, the variable that dates them, and for offsets from UTC the longitude."""

    name: str
    date: str
    longitude: float | None = None

    def same(self, one: object, other: object) -> bool:
        if isinstance(one, tuple) and isinstance(other, tuple) and None not in (*one[:2], *other[:2]):
            return max(abs(a - b) for a, b in zip(one[:2], other[:2], strict=True)) <= SAME_PLACE
        return one == other

    def choose(self, entries: Sequence[_Entry[_Value]]) -> _Entry[_Value]:
        """Return the last entry; of offsets from UTC, the one nearest to longitude / 15."""
        if self.longitude is None:
            return entries[-1]
        solar = self.longitude / 15
        return min(reversed(entries), key=lambda entry: abs(float(str(entry.value)) - solar))

    def text(self, value: object) -> str:
        if isinstance(value, tuple):
            return ", ".join(f"{number:g}" for number in value[:2])
        return f"{value:+g}" if isinstance(value, float) else str(value)


def _settled(
    entries: Sequence[_Entry[_Value]], kind: _Kind, location: Location
) -> tuple[list[_Entry[_Value]], tuple[str, ...]]:
    """Return one entry for each date, earliest first, and a sentence on each date whose entries differ."""
    by_date: dict[np.datetime64 | None, list[_Entry[_Value]]] = {}
    for entry in entries:
        by_date.setdefault(entry.since, []).append(entry)
    settled, doubts = [], []
    for since, alike in by_date.items():
        chosen = kind.choose(alike)
        settled.append(chosen)
        differing = [entry for entry in alike if not kind.same(entry.value, chosen.value)]
        if differing:
            one = differing[0]
            doubts.append(
                f"{location.name}: {kind.name} {kind.text(one.value)} (line {one.line}) and {kind.text(chosen.value)} "
                f"(line {chosen.line}) contradict each other, {_of_date(since)}; {kind.text(chosen.value)} is used"
                f"{', which is nearer to longitude / 15' if kind.longitude is not None else ''}; add {kind.date}, or "
                "remove the wrong one"
            )
    settled.sort(key=lambda entry: _FIRST if entry.since is None else entry.since)
    return settled, tuple(doubts)


_FIRST = np.datetime64("0000", "m")


def _of_date(since: np.datetime64 | None) -> str:
    return "both without a date" if since is None else f"both from {str(since)[:10]}"


def _several(values: tuple[_Value, ...]) -> tuple[_Value, ...]:
    return values if len(values) > 1 else ()


def _without_repeats(dated: Sequence[tuple[np.datetime64 | None, _Value]]) -> tuple:
    """Return dated values without those that repeat the value before."""
    return tuple(entry for i, entry in enumerate(dated) if i == 0 or entry[1] != dated[i - 1][1])


def _text(group: Group, name: str) -> str:
    return group.get(name, (0, ""))[1]


def _number_of(group: Group, kind: str, site: str, location: Location, *names: str) -> float | None:
    line, text = next((group[name] for name in names if name in group), (0, ""))
    return parse_number(text, kind, f"{location}, line {line}, {site}")
