"""Complete the metadata of a site with the table of known sites, and name what differs from it.

What a download states always comes first. Notes say what the table supplied, and from which source.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fluxcube.knownsites import KnownSite, known_site
from fluxcube.sources.towers.siteinfo import SiteInfo, coordinates

#: Distance in km beyond which a place of the table is that of another tower. Coordinates of one tower differ
#: by up to 3 km between publications (SE-Ros); US-Wi9 of CarbonSense, an error, by 13 km, and CN-HaM by 30 km.
SAME_TOWER_KM = 10.0

_KM_PER_DEGREE = 111.2
_TABLE = "the table of known sites"


def placed_by_table(info: SiteInfo) -> SiteInfo | None:
    """Return the metadata of a site with the place of the table of known sites, and a note; None if it is not in it.

    Examples
    --------
    >>> info = placed_by_table(SiteInfo(site="DE-Tha"))
    >>> info.latitude, info.igbp, info.notes
    (50.9626, '', ('its place (50.9626, 13.5651) is from the table of known sites (FLUXNET2015 BIF)',))
    """
    known = known_site(info.site)
    if known is None:
        return None
    info = replace(info, latitude=known.latitude, longitude=known.longitude, places=())
    return _noted(info, _supplied_note(known, [_place_of(known)]))


def completed_from_table(info: SiteInfo) -> SiteInfo:
    """Return the metadata of a site with the place, elevation, class and offset from UTC of the table if they lack one.

    Notes name the values that the table supplied, and a place, class or offset of the metadata that differs from the
    table; the one of the metadata is used. Of a place farther away than `SAME_TOWER_KM`, nothing is taken.

    Parameters
    ----------
    info : SiteInfo
        Metadata of the download, completed with those of its archives.

    Examples
    --------
    >>> info = completed_from_table(SiteInfo(site="DE-Tha", latitude=50.96, longitude=13.57, igbp="ENF"))
    >>> info.utc_offset, info.notes
    (1.0, ('its elevation (380 m), UTC offset (+1) are from the table of known sites (FLUXNET2015 BIF)',))
    """
    known = known_site(info.site)
    if known is None:
        return info
    info = info if coordinates(info) is not None else placed_by_table(info) or info
    place = coordinates(info)
    if place is not None and (km := _kilometres(info, place, known)) > SAME_TOWER_KM:
        note = (
            f"its place ({place[0]:g}, {place[1]:g}) is {km:.0f} km from that of {info.site} in {_TABLE} "
            f"({known.latitude:g}, {known.longitude:g}), of which nothing is used; check the coordinates and the ID"
        )
        return _noted(info, note)
    changes, supplied = _missing(info, known)
    notes = info.notes
    if (note := _supplied_note(known, [_place_of(known)])) in notes:  # one note for all that the table supplied
        notes = tuple(other for other in notes if other != note)
        supplied = [_place_of(known), *supplied]
    info = replace(info, **changes, notes=notes)
    return _noted(info, *_differences(info, known), *([_supplied_note(known, supplied)] if supplied else []))


def notes_on_table(info: SiteInfo) -> tuple[str, ...]:
    """Return the notes on a site that name the table of known sites."""
    return tuple(note for note in info.notes if _TABLE in note)


def _place_of(known: KnownSite) -> tuple[str, str]:
    return "place", f"place ({known.latitude:.6g}, {known.longitude:.7g})"


def _supplied_note(known: KnownSite, supplied: Sequence[tuple[str, str]]) -> str:
    """Return a sentence on the facts that the table supplied, from their names and texts."""
    sources = "; ".join(dict.fromkeys(_source(known, fact) for fact, _ in supplied))
    verb = "is" if len(supplied) == 1 else "are"
    return f"its {', '.join(text for _, text in supplied)} {verb} from {_TABLE} ({sources})"


def _missing(info: SiteInfo, known: KnownSite) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Return the values that metadata lack and the table has, and each one's name and text."""
    changes: dict[str, Any] = {}
    supplied = []
    if info.elevation is None and known.elevation is not None:
        changes["elevation"] = known.elevation
        supplied.append(("elevation", f"elevation ({known.elevation:g} m)"))
    if not info.igbp and known.igbp:
        changes["igbp"] = known.igbp
        supplied.append(("class", f"IGBP class ({known.igbp})"))
    if info.utc_offset is None and known.utc_offset is not None:
        changes |= {"utc_offset": known.utc_offset, "utc_offsets": ((None, known.utc_offset),)}
        supplied.append(("UTC offset", f"UTC offset ({known.utc_offset:+g})"))
    return changes, supplied


def _differences(info: SiteInfo, known: KnownSite) -> list[str]:
    """Return sentences on a class and an offset from UTC of the metadata that differ from the table's."""
    notes = []
    if known.igbp and info.igbp and known.igbp not in {info.igbp, *(code for _, code in info.classes)}:
        notes.append(f"its IGBP class is {info.igbp}; {_TABLE} has {known.igbp}, which is not used")
    hours = {info.utc_offset, *(hours for _, hours in info.utc_offsets)}
    if known.utc_offset is not None and info.utc_offset is not None and known.utc_offset not in hours:
        notes.append(f"its UTC offset is {info.utc_offset:+g}; {_TABLE} has {known.utc_offset:+g}, which is not used")
    return notes


def _noted(info: SiteInfo, *notes: str) -> SiteInfo:
    return replace(info, notes=tuple(dict.fromkeys((*info.notes, *notes)))) if notes else info


def _source(known: KnownSite, fact: str) -> str:
    """Return the source of a fact according to the line of the table: "SOURCE: fact, fact; SOURCE: fact"."""
    for part in known.source.split("; "):
        source, _, facts = part.partition(": ")
        if fact in facts.split(", "):
            return source
    return "source unknown"


def _kilometres(info: SiteInfo, place: tuple[float, float], known: KnownSite) -> float:
    """Return the distance in km of the nearest of a site's places from that of the table."""
    places = [place, *((dated.latitude, dated.longitude) for dated in info.places)]
    return min(_distance(one, known) for one in places)


def _distance(place: tuple[float, float], known: KnownSite) -> float:
    """Return the distance of a place from that of the table in km, as on a plane."""
    east = (place[1] - known.longitude + 180) % 360 - 180
    east *= math.cos(math.radians((place[0] + known.latitude) / 2))
    return _KM_PER_DEGREE * math.hypot(place[0] - known.latitude, east)
