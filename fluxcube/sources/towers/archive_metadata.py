"""The metadata of a site as its archives need them: completed with what archives contain, and of their years."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from fluxcube.errors import SourceError
from fluxcube.sources.towers.badm import merge_places, require_location
from fluxcube.sources.towers.completion import completed_from_table, notes_on_table, placed_by_table
from fluxcube.sources.towers.networks import Archive
from fluxcube.sources.towers.overlap import name_among
from fluxcube.sources.towers.readers import place_of, reader_of
from fluxcube.sources.towers.siteinfo import SiteInfo, Span, at_record, changes_within

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
        span = named = _named_span(by_site[site])
        if named is None or not _decides(info, named):
            span = _sampled_span(by_site[site]) or named
        if span is not None and named is not None and span[0] < named[1]:
            span = span[0], min(span[1], named[1])  # the number of rows is an estimate
        if span is not None:
            chosen[site] = at_record(info, *span)
            for note in chosen[site].notes[len(info.notes) :]:
                _log.warning("%s: %s", site, note)
    return chosen


def _decides(info: SiteInfo, span: Span) -> bool:
    """Return whether the same entries are in force wherever in its first and last year a record begins and ends."""
    year = np.timedelta64(365, "D")
    starts, stops = (span[0], span[0] + year), (span[1] - year, span[1])
    used = [replace(at_record(info, start, stop), notes=()) for start in starts for stop in stops if start < stop]
    return not changes_within(info, *span) or (len(used) == 4 and all(one == used[0] for one in used))


def _named_span(archives: Sequence[Archive]) -> Span | None:
    """Return start and end of a site's records as the names of the files state them; None if one states none."""
    years = [(archive.first_year, archive.last_year) for archive in archives]
    first = [start for start, _ in years if start is not None]
    last = [stop for _, stop in years if stop is not None]
    if not len(first) == len(last) == len(years):
        return None
    return np.datetime64(f"{min(first):04d}", "m"), np.datetime64(f"{max(last) + 1:04d}", "m")


def _sampled_span(archives: Sequence[Archive]) -> Span | None:
    """Return start and end of a site's records from the beginnings of the tables; None if none has a summary."""
    spans = []
    for archive in archives:
        try:
            summary = reader_of(archive).summarise(archive)
        except SourceError:
            continue  # reading the archive raises the same error
        if summary is not None:
            start = np.datetime64(str(summary.first)[:16], "m")
            spans.append((start, start + np.timedelta64(int(summary.rows * summary.step_minutes), "m")))
    return (min(start for start, _ in spans), max(stop for _, stop in spans)) if spans else None


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
    """Fill in what a site's metadata lack, except its location, from the newest archive that has it, then the table.

    The table is that of known sites (`fluxcube.known_sites`); notes name what it supplied, and where it differs.
    """
    for place in places.values():
        known = {name: getattr(place, name) for name in ("elevation", "igbp", "koppen", "utc_offset", "utc_offsets")}
        if info.utc_offset is not None:
            del known["utc_offset"], known["utc_offsets"]
        info = replace(info, **{name: value for name, value in known.items() if getattr(info, name) in (None, "", ())})
    info = replace(info, notes=tuple(dict.fromkeys((*info.notes, *(n for p in places.values() for n in p.notes)))))
    return completed_from_table(info)


def log_notes(info: SiteInfo) -> None:
    """Log the notes that name what the table of known sites supplied, and where it differs."""
    for note in notes_on_table(info):
        _log.warning("%s: %s", info.site, note)


def find_place(infos: Mapping[str, SiteInfo], site: str, archives: Sequence[Archive]) -> SiteInfo:
    """Return the metadata of a site or, where they lack its location, with that of the newest archive that has one.

    If no archive has one, the location is that of the table of known sites (`fluxcube.known_sites`), with a note.

    Raises
    ------
    SourceError
        If none of these has a location.
    """
    try:
        return require_location(infos, site)
    except SourceError:
        for archive in sorted(archives, key=lambda archive: archive.rank):
            place = place_of(archive)
            if place is not None and None not in (place.latitude, place.longitude):
                return merge_places(infos.get(site), place) or place
        info = placed_by_table(infos.get(site, SiteInfo(site=site)))
        if info is None:
            raise
        return info


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
