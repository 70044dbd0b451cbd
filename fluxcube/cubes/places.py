"""Where a site is and which clock it has, according to its metadata."""

from __future__ import annotations

from fluxcube.errors import SourceError
from fluxcube.sources.towers.badm import SiteInfo


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


def other_places(info: SiteInfo) -> dict[str, SiteInfo]:
    """Return the locations that metadata files have for a site in addition to the one that is used, by file."""
    return {file: SiteInfo(site=info.site, latitude=lat, longitude=lon) for file, lat, lon in info.elsewhere}
