"""The steps of building a cube: find archives, keep sites of an existing store, read the others, cut, write.

Sites are read one by one and spilled to disk, because which arrays the cube has is known only after the last one:
the years in a file name need not be those of its data. Then the shards of each site are written. Each step returns a
frozen result that the next steps take. RAM contains one site per worker.
"""

from __future__ import annotations

import functools
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from fluxcube.cubes.compose import CubeSites, compose
from fluxcube.cubes.daily import read_daily_tower
from fluxcube.cubes.driver_sources import JoinedDrivers
from fluxcube.cubes.drivers_store import DriverOption, is_changed, open_options
from fluxcube.cubes.layout import CubeSettings, check_epoch, spill_chips, spill_tower
from fluxcube.cubes.report import build_document, document, read_snapshots
from fluxcube.cubes.satellite import CHIPS, cut_sites, span_of_use, stamp_rasters
from fluxcube.cubes.stamps import Kept, sites_to_keep, stamp
from fluxcube.cubes.surface import add_land_cover
from fluxcube.cubes.surface_layout import SurfaceParts, stored_span
from fluxcube.cubes.surface_series import MAX_DISTANCE_KM
from fluxcube.cubes.surface_sources import (
    SurfaceSource,
    SurfaceSources,
    check_any,
    cut_surface,
    open_surface,
    surface_entries,
)
from fluxcube.cubes.tower import read_tower
from fluxcube.errors import SourceError, printable, to_type, unknown
from fluxcube.resolution import HOURLY
from fluxcube.sources.towers.archive_metadata import describe_site, find_place, of_records
from fluxcube.sources.towers.badm import SiteInfo, read_badm
from fluxcube.sources.towers.discovery import Discovery, discover
from fluxcube.sources.towers.networks import Archive
from fluxcube.sources.towers.readers import chips_of, reader_of

_log = logging.getLogger(__name__)

Progress = Callable[[int, int, str], None]
Item = TypeVar("Item")
Result = TypeVar("Result")

#: Function that reads a tower, by resolution.
_READERS = {"hourly": read_tower, "daily": read_daily_tower}
#: Number of sites named in an error that concerns all of them.
_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class BuildRequest:
    """What to build, as `fluxcube.build_carbonsense` describes it."""

    roots: tuple[str | os.PathLike, ...]
    store: Path
    settings: CubeSettings
    modis: str | os.PathLike | None = None
    surface: tuple[SurfaceSource, ...] = ()
    max_distance_km: float = MAX_DISTANCE_KM
    land_cover: str | os.PathLike | None = None
    drivers: DriverOption = False
    sites: tuple[str, ...] | None = None
    strict: bool = False
    trust: tuple[str, ...] = ()
    progress: Progress | None = None


@dataclass(frozen=True, kw_only=True)
class FoundSites:
    """What was found of the sites requested.

    Attributes
    ----------
    discovery : Discovery
        All archives and other files found.
    archives : mapping of str to list of Archive
        Archives by site, sites in order.
    infos : mapping of str to SiteInfo
        Metadata by site, completed with land cover.
    land_cover_notes : mapping of str to str
        Sentences on the IGBP classes of sites whose class was read from land cover.
    citations : mapping of (site, network) to (citation, DOI)
        Citations of single products.
    stamps : mapping of str to mapping
        Descriptions of the archives and metadata of each site, which show a change.
    left_out : mapping of str to str
        Metadata files that could not be read, and sites with an impossible name, and why.
    """

    discovery: Discovery
    archives: Mapping[str, list[Archive]]
    infos: Mapping[str, SiteInfo]
    land_cover_notes: Mapping[str, str]
    citations: Mapping[tuple[str, str], tuple[str, str]]
    stamps: Mapping[str, Mapping[str, Any]]
    left_out: Mapping[str, str]


@dataclass(frozen=True)
class ReadSites:
    """Documents of the sites that were read, whose values were spilled; and what was left out, and why."""

    documents: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)


def find_sites(request: BuildRequest) -> FoundSites:
    """Find the archives, metadata and classes of the sites requested.

    Raises
    ------
    SourceError
        If there is no archive; with ``request.strict``, if a metadata file cannot be read, or a site has an impossible
        name.
    UnknownNameError
        If a requested site has no archive.
    """
    settings = request.settings
    discovery = discover(list(request.roots), order=settings.order, resolution=settings.resolution)
    if request.strict and discovery.bad_sites:
        raise SourceError("; ".join(f"site {site}: {why}" for site, why in discovery.bad_sites))
    archives = _requested(discovery, request)
    left_out: dict[str, str] = {}
    note = None if request.strict else lambda at, error: left_out.update({printable(at.name): str(error)})
    infos = of_records(read_badm(discovery.badm, on_error=note), discovery.archives)
    notes: dict[str, str] = {}
    if request.land_cover is not None:
        classed = add_land_cover(_without_class(infos, archives), request.land_cover)
        infos |= {site: info for site, (info, _) in classed.items()}
        notes = {site: text for site, (_, text) in classed.items()}
    citations, problem = read_snapshots([at for at in discovery.badm if at.name not in left_out])
    return FoundSites(
        discovery=discovery,
        archives=archives,
        infos=infos,
        land_cover_notes=notes,
        citations=citations,
        stamps={site: stamp(files, infos.get(site)) for site, files in archives.items()},
        left_out=left_out | dict(discovery.bad_sites) | ({"citations": problem} if problem else {}),
    )


def keep_sites(request: BuildRequest, found: FoundSites) -> Kept:
    """Return the sites of the existing store that need not be read again.

    Raises
    ------
    ConfigError
        If the store was built with other settings.
    """
    return sites_to_keep(request.store, request.settings, found.stamps)


def find_surface(request: BuildRequest, found: FoundSites) -> SurfaceSources | None:
    """Open the sources of surface reflectance, and compare them with the sites requested; None without a source.

    Raises
    ------
    SourceError
        If a source cannot be read, or a series is of another place than the tower of its name.
    """
    if not request.surface:
        return None
    infos = [found.infos[site] for site in found.archives if site in found.infos]
    places = [
        {"site": info.site, "latitude": info.latitude, "longitude": info.longitude}
        for info in infos
        if None not in (info.latitude, info.longitude)
    ]
    sources = open_surface(request.surface, places, request.max_distance_km)
    for place in places:
        sources.series_of(place)
    return sources


def find_drivers(request: BuildRequest) -> dict[str, JoinedDrivers]:
    """Open the other sources of drivers, by name.

    Raises
    ------
    SourceError
        If one cannot be read, or the archives contain no reanalysis although it was requested.
    """
    return open_options(request.drivers, request.roots)


def is_outdated(
    request: BuildRequest,
    kept: Kept,
    sources: SurfaceSources | None,
    drivers: Mapping[str, JoinedDrivers],
) -> bool:
    """Return whether satellite data or drivers of a site that stays must be cut again."""
    if any(is_changed(drivers, doc, request.settings.resolution) for doc in kept.documents.values()):
        return True
    if sources is not None and any(_has_other_surface(sources, doc) for doc in kept.documents.values()):
        return True
    if request.modis is None:
        return False
    rasters = CHIPS.rasters(request.modis)
    return any(stamp_rasters(rasters, doc["place"]) != doc.get("rasters", "") for doc in kept.documents.values())


def _has_other_surface(sources: SurfaceSources, doc: Mapping[str, Any]) -> bool:
    """Return whether the sources have reflectance of a site that differs from that of its document."""
    return sources.stamp(doc["place"]) not in ("", doc.get("surface", ""))


def read_sites(request: BuildRequest, found: FoundSites, kept: Kept, building: Path) -> ReadSites:
    """Read all sites that are not kept, and spill their values to `building`.

    Raises
    ------
    SourceError
        If no site can be read and none is kept; with ``request.strict``, if any cannot be read.
    """
    sites = [site for site in found.archives if site not in kept.documents]
    read = functools.partial(_read_site, request, found, building)
    results = _on_threads(read, sites, request.progress, lambda site: f"read {site}")
    documents: dict[str, Mapping[str, Any]] = {}
    left_out: dict[str, str] = {}
    for site, result in zip(sites, results, strict=True):
        if isinstance(result, SourceError):
            left_out[site] = printable(str(result))
        else:
            documents[site] = result
            left_out |= {printable(f"{site}: {name}"): printable(why) for name, why in result["unread"].items()}
    for text, count in Counter(text for doc in documents.values() for text in doc["lost"]).items():
        _log.warning("%s (%d site%s)", text, count, "s" if count > 1 else "")
    if not documents and not kept.documents:
        reasons = [f"{name}: {why}" for name, why in {**left_out, **kept.left_out, **found.left_out}.items()]
        more = f"; and {len(reasons) - _NAMED} more" if len(reasons) > _NAMED else ""
        raise SourceError(f"no site could be read: {'; '.join(reasons[:_NAMED])}{more}")
    return ReadSites(documents, left_out)


def keep_unread(kept: Kept, read: ReadSites) -> tuple[Kept, ReadSites]:
    """Return what an append reuses, with the sites whose new files cannot be read, and what else was read.

    These sites stay in the cube as they are; `Kept.left_out` reports why they were not updated.
    """
    stay = {site: doc for site, doc in kept.changed.items() if site in read.left_out}
    notes = {f"{site}: update": f"{read.left_out[site]}; the site stays as it is" for site in stay}
    others = {name: why for name, why in read.left_out.items() if name not in stay}
    kept = replace(kept, documents={**kept.documents, **stay}, left_out={**kept.left_out, **notes})
    return kept, replace(read, left_out=others)


def note_losses(request: BuildRequest, kept: Kept, read: ReadSites) -> ReadSites:
    """Return what was read, with a warning for each site of which an append loses hours or satellite data."""
    documents = dict(read.documents)
    for site, doc in documents.items():
        if site in kept.changed:
            losses = _losses(kept.changed[site], doc, request)
            for text in losses:
                _log.warning("%s: %s", site, text)
            documents[site] = {**doc, "warnings": [*doc["warnings"], *losses]} if losses else doc
    return replace(read, documents=documents)


def _losses(before: Mapping[str, Any], now: Mapping[str, Any], request: BuildRequest) -> list[str]:
    """Return sentences on what the document of a site had and its new document lacks."""
    losses = []
    (start, stop), (first, last) = ((doc["place"]["start"], doc["place"]["stop"]) for doc in (before, now))
    if np.datetime64(first) > np.datetime64(start) or np.datetime64(stop) > np.datetime64(last):
        losses.append(
            f"its new files have values from {first} to {last}, before the cube had values from {start} to {stop}; "
            "pass the earlier files as well to keep these"
        )
    for name in before["place"].get("drivers", {}) if request.drivers is False else ():
        losses.append(f"its drivers {name} were not cut again for its new files; append again with drivers (--drivers)")
    for key, option, passed in (
        ("rasters", "modis", request.modis is not None),
        ("surface", "surface", bool(request.surface)),
    ):
        if before.get(key) and not passed:
            losses.append(
                f"its satellite data were not cut again for its new files; append again with {option} (--{option})"
            )
    return losses


def cut_chips(
    request: BuildRequest, found: FoundSites, sites: CubeSites, building: Path
) -> tuple[CubeSites, dict[str, np.ndarray]]:
    """Cut the chips of the sites that were read, or whose rasters changed, and spill them to `building`.

    Without MODIS rasters, the chips are those that the archives themselves contain. A daily cube has no chips.

    Returns
    -------
    sites : CubeSites
        With documents that record the rasters.
    days : dict of str to (day,) datetime64[D]
        Days that were spilled, by site.

    Raises
    ------
    SourceError
        If no raster is of the towers' time, or none has a valid pixel.
    """
    if request.modis is None:
        return sites, _cut_archives(request, found, sites, building)
    rasters = CHIPS.rasters(request.modis)
    documents = sites.documents
    stamps = {site: stamp_rasters(rasters, doc["place"]) for site, doc in documents.items()}
    stale = [site for site, doc in documents.items() if stamps[site] != doc.get("rasters", "")]
    if not any(stamps.values()):
        spans = [span_of_use(doc["place"]) for doc in documents.values()]
        raise SourceError(
            f"modis: no {CHIPS.name} raster from {min(s[0] for s in spans)} to {max(s[1] for s in spans)}, when "
            "the towers measured; pass a folder that has some."
        )
    days = cut_sites(building, CHIPS, rasters, [documents[site]["place"] for site in stale], request.progress)
    if not any(map(len, days.values())) and not sites.kept:
        raise SourceError("modis: no raster has a valid pixel of any of the sites; check where its tiles lie.")
    return _with_entries(sites, {site: {"rasters": stamps[site]} for site in stale}), days


def cut_reflectance(
    request: BuildRequest, sources: SurfaceSources | None, sites: CubeSites, building: Path
) -> tuple[CubeSites, SurfaceParts | None]:
    """Spill the surface reflectance of the sites that were read, or whose series or tiles changed, to `building`.

    Returns
    -------
    sites : CubeSites
        With documents that record the source of the reflectance, and warn where a site has none.
    parts : SurfaceParts or None
        What was spilled; None without a source.

    Raises
    ------
    SourceError
        If the sources have no reflectance of any site, or none of its time.
    """
    if sources is None:
        return sites, None
    documents = sites.documents
    check_any(sources, [doc["place"] for doc in documents.values()])
    stale = [site for site, doc in documents.items() if site in sites.fresh or _has_other_surface(sources, doc)]
    parts = cut_surface(sources, building, [documents[site]["place"] for site in stale], request.progress)
    if not any(map(len, parts.days.values())) and not sites.kept:
        spans = [stored_span(doc["place"]) for doc in documents.values()]
        raise SourceError(
            f"surface: no reflectance from {min(s[0] for s in spans)} to {max(s[1] for s in spans)}, when the towers "
            "measured; pass files of their time."
        )
    entries = {site: surface_entries(sources, parts, documents[site]) for site in stale}
    if lacking := [site for site in stale if site not in parts.days]:
        more = f" and {len(lacking) - _NAMED} more" if len(lacking) > _NAMED else ""
        _log.warning("no surface reflectance of %s%s", ", ".join(lacking[:_NAMED]), more)
    return _with_entries(sites, entries), parts


def _with_entries(sites: CubeSites, entries: Mapping[str, Mapping[str, Any]]) -> CubeSites:
    """Return sites whose documents have further entries, by site."""
    return CubeSites(
        kept={site: {**doc, **entries.get(site, {})} for site, doc in sites.kept.items()},
        fresh={site: {**doc, **entries.get(site, {})} for site, doc in sites.fresh.items()},
    )


def write_cube(
    request: BuildRequest,
    sites: CubeSites,
    days: Mapping[str, np.ndarray],
    surface: SurfaceParts | None,
    log: Mapping[str, Any],
    building: Path,
) -> None:
    """Write the store: link the files of sites that stay, and write the others."""

    def each(function: Callable[[str], None], names: Sequence[str]) -> None:
        _on_threads(function, names, request.progress, lambda site: f"write {site}")

    source = request.store if sites.kept else None
    compose(building, request.settings, sites, log=log, source=source, chip_days=days, surface=surface, each=each)


def log_of_build(
    request: BuildRequest, found: FoundSites, kept: Kept, sites: CubeSites, left_out: Mapping[str, str]
) -> dict[str, Any]:
    """Return the log of a build: what it left out, and what earlier builds left out and is still absent."""
    before = kept.log.get("left_out", {})
    names = {*sites.documents, *found.archives}
    earlier = {name: why for name, why in before.items() if name not in names}
    roots = [printable(str(root)) for root in request.roots]
    return build_document(earlier | dict(left_out), found.discovery, roots, kept.log)


def _requested(discovery: Discovery, request: BuildRequest) -> dict[str, list[Archive]]:
    """Return the archives of each site requested, sites in order."""
    sites = request.sites
    if not discovery.archives:
        others = (*discovery.bad_sites, *discovery.ignored)
        ignored = "; ".join(f"{path}: {why}" for path, why in others[:_NAMED]) or "none"
        raise SourceError(
            "no half-hourly or hourly tower archive was found by name; expected files such as "
            f"FLX_US-MMS_FLUXNET2015_FULLSET_1999-2014_1-4.zip. Files ignored: {ignored}."
            f"{_instead(request.roots)}"
        )
    by_site: dict[str, list[Archive]] = {}
    for archive in discovery.archives:
        by_site.setdefault(archive.site, []).append(archive)
    names = by_site if sites is None else sites
    for site in names:
        if site not in by_site:
            raise unknown("site", site, by_site)
    return {site: by_site[site] for site in sorted(set(names))}


def _instead(roots: Sequence[str | os.PathLike]) -> str:
    """Return what to do with something else than archives: a cube, or one file, which may be a table of one's own."""
    for root in map(str, roots):
        if (Path(root) / "zarr.json").is_file():
            show = to_type(python=f"fc.inspect({root!r})", shell=f"`fluxcube inspect {root}`")
            return f" {printable(root)} is a store that is built already: {show} describes it."
        if Path(root).is_file():
            add = to_type(python=f"fc.add_site({root!r}, store, ...)", shell=f"`fluxcube add-site {root} STORE`")
            return f" If {printable(root)} is a table of your own site, {add} adds it to a cube, or makes one."
    return ""


def _without_class(infos: Mapping[str, SiteInfo], archives: Mapping[str, list[Archive]]) -> Iterator[SiteInfo]:
    """Yield the metadata of each site whose IGBP class is in no metadata, archive or table of known sites."""
    for site, files in archives.items():
        try:
            info = find_place(infos, site, files)
        except SourceError:
            continue  # reading the site reports the error
        if not info.igbp and not describe_site(infos, site, files).igbp:
            yield info


def _read_site(request: BuildRequest, found: FoundSites, building: Path, site: str) -> dict[str, Any] | SourceError:
    """Read a site; return its document, or the error that prevented it."""
    settings, archives = request.settings, found.archives[site]
    try:
        for archive in archives:
            reader_of(archive)  # an archive of another product is reported before a missing location
        info = find_place(found.infos, site, archives)
        options = settings.tower_options(strict=request.strict, trust=request.trust)
        tower = _READERS[settings.resolution](archives, info, options)
        check_epoch(tower)
    except SourceError as error:
        if request.strict:
            raise
        return error
    if site in found.land_cover_notes:
        tower = replace(tower, warnings=(*tower.warnings, found.land_cover_notes[site]))
    spill_tower(building, tower, compact=settings.compact)
    described = found.stamps[site]
    return document(tower, described["archives"], described["info"], found.citations, settings.resolution)


def _cut_archives(request: BuildRequest, found: FoundSites, sites: CubeSites, building: Path) -> dict[str, np.ndarray]:
    """Spill the chips that archives themselves contain, the newest publication's if several do."""
    days: dict[str, np.ndarray] = {}
    if request.settings.resolution != HOURLY.name:
        return days
    for site in sites.fresh:
        for archive in sorted(found.archives[site], key=lambda archive: archive.rank):
            if (series := chips_of(archive)) is not None:
                days[site] = series[0].astype("datetime64[D]")
                spill_chips(building, site, days[site], series[1])
                break
    return days


def _on_threads(
    function: Callable[[Item], Result], items: Sequence[Item], progress: Progress | None, text: Callable[[Item], str]
) -> list[Result]:
    """Call a function for each item in a few threads; return the results in the order of the items."""
    pool = ThreadPoolExecutor(min(4, os.cpu_count() or 1))
    try:
        futures = {pool.submit(function, item): item for item in items}
        for done, future in enumerate(as_completed(futures), 1):
            future.result()
            if progress:
                progress(done, len(items), text(futures[future]))
        return [future.result() for future in futures]
    finally:
        pool.shutdown(cancel_futures=True)
