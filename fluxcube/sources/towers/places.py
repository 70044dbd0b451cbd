"""Where a site is and which clock it has: from its metadata or, where these lack it, from its archives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from fluxcube.errors import SourceError
from fluxcube.sources.towers.badm import SiteInfo, require_location
from fluxcube.sources.towers.networks import Archive
from fluxcube.sources.towers.overlap import name_among
from fluxcube.sources.towers.readers import place_of


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


def describe_site(infos: Mapping[str, SiteInfo], site: str, archives: Sequence[Archive]) -> SiteInfo:
    """Return the metadata of a site as a build uses them; without coordinates where nothing has them.

    Parameters
    ----------
    infos : mapping of str to SiteInfo
        From `fluxcube.sources.towers.badm.read_badm`.
    site : str
        The site.
    archives : sequence of Archive
        All archives of the site that are read.
    """
    try:
        info = find_place(infos, site, archives)
    except SourceError:
        info = infos.get(site, SiteInfo(site=site))
    return completed(info, archive_places(archives))
