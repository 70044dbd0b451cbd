"""The metadata of a site as its archives need them: completed with what archives contain, and of their years."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from fluxcube.errors import SourceError
from fluxcube.sources.towers.badm import merge_places, require_location
from fluxcube.sources.towers.networks import Archive
from fluxcube.sources.towers.readers import place_of, reader_of
from fluxcube.sources.towers.siteinfo import SiteInfo, at_record

#: The logger of site metadata, which `inspect` disables.
_log = logging.getLogger("fluxcube.sources.towers.badm")


def of_records(infos: Mapping[str, SiteInfo], archives: Iterable[Archive]) -> dict[str, SiteInfo]:
    """Return the metadata of sites with the place, class and offset from UTC in force during their records.

    Sites whose metadata have one entry of each kind, and those without an archive, stay as they are. A note on entries
    that are not used is logged as a warning.

    Parameters
    ----------
    infos : mapping of str to SiteInfo
        From `fluxcube.sources.towers.badm.read_badm`.
    archives : iterable of Archive
        All archives of all sites.
    """
    by_site: dict[str, list[Archive]] = {}
    for archive in archives:
        by_site.setdefault(archive.site, []).append(archive)
    chosen = dict(infos)
    for site, info in infos.items():
        if site not in by_site or not (info.places or info.classes or len(info.utc_offsets) > 1):
            continue
        span = _span(by_site[site])
        if span is not None:
            chosen[site] = at_record(info, *span)
            for note in chosen[site].notes[len(info.notes) :]:
                _log.warning("%s: %s", site, note)
    return chosen


def _span(archives: Sequence[Archive]) -> tuple[np.datetime64, np.datetime64] | None:
    """Return start and end of all records of a site, as the beginning of each table or its name states; else None."""
    spans = [span for archive in archives if (span := _span_of(archive)) is not None]
    return (min(start for start, _ in spans), max(stop for _, stop in spans)) if spans else None


def _span_of(archive: Archive) -> tuple[np.datetime64, np.datetime64] | None:
    first, last = archive.first_year, archive.last_year
    named = None
    if first is not None and last is not None:
        named = np.datetime64(f"{first:04d}", "m"), np.datetime64(f"{last + 1:04d}", "m")
    try:
        summary = reader_of(archive).summarise(archive)
    except SourceError:
        return named  # reading the archive raises the same error
    if summary is None:
        return named
    start = np.datetime64(str(summary.first)[:16], "m")
    stop = start + np.timedelta64(int(summary.rows * summary.step_minutes), "m")  # rows are estimated from the size
    return start, stop if named is None else max(min(stop, named[1]), start + np.timedelta64(1, "D"))


def name_archives(archives: Sequence[Archive]) -> Callable[[Archive], str]:
    """Return a function that labels each archive with its network or, where that is ambiguous, its file too."""
    networks = [archive.network for archive in archives]
    return lambda a: a.network if networks.count(a.network) == 1 else f"{a.network}: {a.location.name}"


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
    return replace(info, notes=tuple(dict.fromkeys((*info.notes, *(n for p in places.values() for n in p.notes)))))


def find_place(infos: Mapping[str, SiteInfo], site: str, archives: Sequence[Archive]) -> SiteInfo:
    """Return the metadata of a site or, where they lack its location, with that of the newest archive that has one.

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
                return merge_places(infos.get(site), place) or place
        raise
