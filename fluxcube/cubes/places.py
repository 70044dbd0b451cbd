"""Where a site is and which clock it has: from its metadata or, where these lack it, from its archives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from fluxcube.errors import SourceError
from fluxcube.sources.towers.badm import SiteInfo, require_location
from fluxcube.sources.towers.networks import Archive
from fluxcube.sources.towers.overlap import name_among
from fluxcube.sources.towers.readers import place_of


def location(info: SiteInfo) -> tuple[float, float]:
    """Return the latitude and longitude of a site in degrees.

    Raises
    ------
    SourceError
        If either is unknown.
    """
    if info.latitude is None or info.longitude is None:
        raise SourceError(f"{info.site}: expected a latitude and a longitude, found none; add them to the metadata.")
    return info.latitude, info.longitude


def standard_offset(info: SiteInfo) -> float:
    """Return a site's UTC offset in hours: the one in its metadata, else the whole hour nearest to longitude / 15."""
    return info.utc_offset if info.utc_offset is not None else float(round(location(info)[1] / 15))


def name_archives(archives: Sequence[Archive]) -> Callable[[Archive], str]:
    """Return a function that labels each archive with its network or, where that is ambiguous, its file too."""
    networks = [archive.network for archive in archives]
    return lambda a: a.network if networks.count(a.network) == 1 else f"{a.network}: {name_among(a, archives)}"


def archive_places(archives: Sequence[Archive]) -> dict[str, SiteInfo]:
    """Return the site metadata that archives themselves contain, by label, newest first."""
    label = name_archives(archives)
    places = {}
    for archive in sorted(archives, key=lambda archive: archive.rank):
        try:
            place = place_of(archive)
        except SourceError:
            continue  # reading the archive raises the same error
        if place is not None:
            places[label(archive)] = place
    return places


def completed(info: SiteInfo, places: Mapping[str, SiteInfo]) -> SiteInfo:
    """Fill in what a site's metadata lack, except its location, from the newest archive that has it."""
    for place in places.values():
        known = {name: getattr(place, name) for name in ("elevation", "igbp", "koppen", "utc_offset", "utc_offsets")}
        if info.utc_offset is not None:
            del known["utc_offset"], known["utc_offsets"]
        info = replace(info, **{name: value for name, value in known.items() if getattr(info, name) in (None, "", ())})
    return info


def other_places(info: SiteInfo) -> dict[str, SiteInfo]:
    """Return the locations that metadata files have for a site in addition to the one that is used, by file."""
    return {file: SiteInfo(site=info.site, latitude=lat, longitude=lon) for file, lat, lon in info.elsewhere}


def find_place(infos: Mapping[str, SiteInfo], site: str, archives: Sequence[Archive]) -> SiteInfo:
    """Return the metadata of a site or, where they lack its location, those in the newest archive that has one.

    Raises
    ------
    SourceError
        If neither has a location.
    """
    try:
        return require_location(infos, site)
    except SourceError:
        for archive in sorted(archives, key=lambda archive: archive.rank):
            place = place_of(archive)
            if place is not None and None not in (place.latitude, place.longitude):
                return place
        raise
