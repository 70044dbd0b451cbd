"""The metadata of a site: the entries of its files, and how those of two sources become one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fluxcube.biomes import igbp_class
from fluxcube.sources.towers.metatext import is_blank

#: Maximum difference in degrees between coordinates of the same place in two files.
SAME_PLACE = 0.01


#: Local start of a dated entry, None where it has no date, and hours east of UTC.
Dated = tuple[np.datetime64 | None, float]

#: Local start and end of a record.
Span = tuple[np.datetime64, np.datetime64]


@dataclass(frozen=True, kw_only=True)
class DatedPlace:
    """A place of a site, in degrees and metres, and its local start; None where it has no date."""

    since: np.datetime64 | None
    latitude: float
    longitude: float
    elevation: float | None


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
        Hours east of UTC of the site's standard time, from the newest entry; place and class likewise, until
        `at_record` chooses those of a record.
    utc_offsets : tuple of (datetime64 or None, float)
        Every entry with its local start, earliest first: the form of `utc_offset` of the readers.
    elsewhere : tuple of (str, float, float)
        File, latitude and longitude of differing coordinates in other files, which are not used.
    places : tuple of DatedPlace
        Every place with its start, earliest first, if the metadata have several.
    classes : tuple of (datetime64 or None, str)
        Every IGBP class with its start, earliest first, if the metadata have several.
    doubts, notes : tuple of str
        Sentences on entries that contradict each other on place or clock (``strict`` refuses the site), and on other
        entries that are not used.
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
    # Not in repr, of which stores contain a digest (`fluxcube.cubes.stamps.digest_info`, which adds them).
    places: tuple[DatedPlace, ...] = field(default=(), repr=False)
    classes: tuple[tuple[np.datetime64 | None, str], ...] = field(default=(), repr=False)
    doubts: tuple[str, ...] = field(default=(), repr=False)
    notes: tuple[str, ...] = field(default=(), repr=False)


def coordinates(info: SiteInfo) -> tuple[float, float] | None:
    """Return latitude and longitude of a site in degrees; None where one of them is unknown."""
    return None if info.latitude is None or info.longitude is None else (info.latitude, info.longitude)


def fill_in(known: SiteInfo, info: SiteInfo, file: str = "") -> SiteInfo:
    """Return known metadata with the values of another source where they lack one.

    Parameters
    ----------
    known, info : SiteInfo
        Metadata of one site from two sources.
    file : str
        Name of the second source: where its place differs, it is added to ``elsewhere``.
    """
    changes: dict[str, Any] = {}
    for names in (("elevation",), ("igbp", "classes"), ("koppen",), ("utc_offset", "utc_offsets")):
        if getattr(known, names[0]) in (None, ""):
            changes |= {name: getattr(info, name) for name in names}
    # Both coordinates come from one file: never the latitude of one with the longitude of another.
    first, second = coordinates(known), coordinates(info)
    if first is None and (second or (known.latitude is None and known.longitude is None)):
        changes |= {name: getattr(info, name) for name in ("latitude", "longitude", "places")}
    elsewhere = info.elsewhere if first is None else ()
    if file and first and second and not is_near(known, second):
        elsewhere = ((file, *second),)
    return replace(known, **changes, elsewhere=(*known.elsewhere, *elsewhere))


def is_near(known: SiteInfo, place: tuple[float, float]) -> bool:
    """Return whether a place is one of those of a site."""
    places = [(known.latitude, known.longitude), *((p.latitude, p.longitude) for p in known.places)]
    return any(
        lat is not None and lon is not None and max(abs(lat - place[0]), abs(lon - place[1])) <= SAME_PLACE
        for lat, lon in places
    )


def class_of(text: str, where: str) -> tuple[str, str]:
    """Return the IGBP code of a text, "" if it is none, and a sentence on a text that is none.

    Examples
    --------
    >>> class_of("Croplands", "sites.csv, line 3")
    ('CRO', '')
    >>> class_of("TBD", "sites.csv, line 3")[1]
    "sites.csv, line 3: 'TBD' is no IGBP class (such as CRO or Croplands), and counts as unknown"
    """
    code = igbp_class(text)
    if code or is_blank(text):
        return code, ""
    return "", f"{where}: {text[:60]!r} is no IGBP class (such as CRO or Croplands), and counts as unknown"


def changes_within(info: SiteInfo, start: np.datetime64, stop: np.datetime64) -> bool:
    """Return whether a dated place, class or offset from UTC begins within a record, not before or after it."""
    starts = (
        *(place.since for place in info.places[1:]),
        *(since for since, _ in (*info.classes[1:], *info.utc_offsets[1:])),
    )
    return any(since is not None and start < since < stop for since in starts)


def at_record(info: SiteInfo, start: np.datetime64, stop: np.datetime64) -> SiteInfo:
    """Return the metadata of a site with the place, class and offset from UTC that were in force during a record.

    Of several dated entries, each is in force from its date (the first one: from the beginning) until the next; the one
    in force for the longest part of the record is used, and sentences on the others are added to ``notes``. Time stamps
    are still decoded with each dated offset where it is in force.

    Parameters
    ----------
    info : SiteInfo
        From `fluxcube.sources.towers.badm.read_badm`.
    start, stop : datetime64
        Local start and end of the record.

    Examples
    --------
    >>> moved = (None, "ENF"), (np.datetime64("2021-05-01", "m"), "CRO")
    >>> info = SiteInfo(site="XX-Tst", igbp="CRO", classes=moved)
    >>> info = at_record(info, np.datetime64("2015-01-01"), np.datetime64("2016-01-01"))
    >>> info.igbp, info.notes
    ('ENF', ('IGBP class CRO (from 2021-05-01) is not used: ENF was in force during the record (2015-2015)',))
    """
    span = start.astype("datetime64[m]"), stop.astype("datetime64[m]")
    changes: dict[str, Any] = {}
    notes = list(info.notes)
    if info.places:
        at, whole = _in_force([place.since for place in info.places], span)
        used = info.places[at]
        elevation = info.elevation if used.elevation is None else used.elevation
        changes |= {"latitude": used.latitude, "longitude": used.longitude, "elevation": elevation}
        others = [(place.since, _coordinates_text(place)) for place in info.places if not _near(place, used)]
        notes += _note_on("place", others, _coordinates_text(used), span, whole)
    if info.classes:
        at, whole = _in_force([since for since, _ in info.classes], span)
        code = info.classes[at][1]
        changes["igbp"] = code
        notes += _note_on("IGBP class", [entry for entry in info.classes if entry[1] != code], code, span, whole)
    if len(info.utc_offsets) > 1:
        changes["utc_offset"] = info.utc_offsets[_in_force([since for since, _ in info.utc_offsets], span)[0]][1]
    return replace(info, **changes, notes=tuple(dict.fromkeys(notes)))


def _in_force(since: Sequence[np.datetime64 | None], span: Span) -> tuple[int, bool]:
    """Return which of several starts, in order, begins the longest part of a span, and whether that is all of it."""
    edges = np.array([span[0], *(span[0] if start is None else start for start in since[1:]), span[1]])
    parts = np.diff(edges.clip(*span)).astype(np.int64)
    return int(len(parts) - 1 - parts[::-1].argmax()), int((parts > 0).sum()) == 1


def _near(one: DatedPlace, other: DatedPlace) -> bool:
    return max(abs(one.latitude - other.latitude), abs(one.longitude - other.longitude)) <= SAME_PLACE


def _coordinates_text(place: DatedPlace) -> str:
    return f"{place.latitude:g}, {place.longitude:g}"


def _note_on(
    kind: str,
    others: Sequence[tuple[np.datetime64 | None, str]],
    used: str,
    span: Span,
    whole: bool,
) -> list[str]:
    """Return a sentence on the entries that are not used; none if there is none."""
    if not others:
        return []
    names = [f"{text} ({'without a date' if at is None else f'from {str(at)[:10]}'})" for at, text in others]
    years = f"{str(span[0])[:4]}-{str(span[1] - np.timedelta64(1, 'm'))[:4]}"
    return [
        f"{kind} {' and '.join(names)} {'is' if len(names) == 1 else 'are'} not used: {used} was in force during "
        f"{'' if whole else 'most of '}the record ({years})"
    ]
