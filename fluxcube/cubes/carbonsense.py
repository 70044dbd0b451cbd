"""Build the CarbonSense cube: raw archives in, one store out, that opens only when all of it is written.

Sites are read one by one and put aside on disk, since which arrays there are is known only when the last was read: the
years in a file's name are a promise, not a fact. Then each site's shards are written. Memory holds one site a worker.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fluxcube.cubes.append import append_site, compose, documents_to_keep, stamp
from fluxcube.cubes.fusion import RULES
from fluxcube.cubes.layout import check_epoch, put_aside, put_chips_aside
from fluxcube.cubes.report import build_document, document, read_snapshots
from fluxcube.cubes.satellite import SATELLITE, cut_sites, span_of_use, stamp_rasters
from fluxcube.cubes.selection import open_carbonsense
from fluxcube.cubes.surface import add_land_cover
from fluxcube.cubes.tower import CLOCKS, DAY_CLOCK, Tower, read_tower
from fluxcube.errors import ConfigError, SourceError, unknown
from fluxcube.sources.towers.badm import SiteInfo, read_badm, require_location
from fluxcube.sources.towers.networks import Archive, Discovery, discover
from fluxcube.sources.towers.readers import chips_of, place_of, reader_of
from fluxcube.stores.building import staging
from fluxcube.stores.swap import build_lock
from fluxcube.variables import COMPUTED, RESOLUTIONS, check_role, predictors, targets

__all__ = ["BuildReport", "append_site", "build_carbonsense", "open_carbonsense"]

_log = logging.getLogger(__name__)

Progress = Callable[[int, int, str], None]

#: Sites named in an error that is about all of them.
_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """What a build made.

    Attributes
    ----------
    store : Path
        The cube.
    sites : tuple of str
        Sites in it.
    left_out : dict of str to str
        Sites (or, beside others of a site that could be read, ``"SITE: file"``) that are not in it, and why.
    report : dict
        Of the sites that were read: ``fusion`` (hours and flags each publication gave, by site and variable),
        ``quality`` (what each rule removed), ``out_of_bounds`` (values of a predictor made missing, by site),
        ``flags_assumed`` (native values without a flag, by site), ``warnings`` (by site); and ``ignored`` (files left
        aside, and why). The store has the whole: `fluxcube.open_report`.
    unchanged : tuple of str
        Sites that an append left as they were.
    """

    store: Path
    sites: tuple[str, ...]
    left_out: dict[str, str]
    report: dict
    unchanged: tuple[str, ...] = ()


def build_carbonsense(
    raw: str | os.PathLike | Sequence[str | os.PathLike],
    store: str | os.PathLike,
    *,
    resolution: str = "hourly",
    modis: str | os.PathLike | None = None,
    land_cover: str | os.PathLike | None = None,
    variables: Sequence[str] | None = None,
    order: str = "newest",
    rule: str = "newest",
    clock: str = "solar",
    strict: bool = False,
    overwrite: bool = False,
    append: bool = False,
    compact: bool = False,
    sites: str | Sequence[str] | None = None,
    progress: Progress | None = None,
) -> BuildReport:
    """Build the cube of every tower found in a folder of downloads.

    Parameters
    ----------
    raw : path or sequence of paths
        Folders with tower archives as published, and with BADM or a table of sites (`fluxcube.sources.towers.badm`).
    store : path
        Where the cube shall be. It appears only when all of it is written.
    resolution : {"hourly", "daily"}
        Hours in UTC; or local days, from daily files where a site has them, else from its hours.
    modis : path, optional
        Folder of MCD43A4 and MCD43A2 rasters; without it the cube has the chips that archives themselves hold, if any.
        A site gets those of its own time and the month before it. Of MOD09GA rasters, for a daily cube.
    land_cover : path, optional
        MCD12Q1 rasters: sites whose metadata tell no IGBP class get that of their pixel, and a note. To be given again
        when appending.
    variables : sequence of str, optional
        Predictors to keep; default all of the table. The computed ones (DOY, TOD, SW_IN_POT) always stay.
    order : {"newest", "paper"}
        Which publication goes before which: the newest first, or as the CarbonSense paper lists them.
    rule : {"newest", "quality"}
        Which publication gives an hour that several have (`fluxcube.cubes.fusion.fuse`).
    clock : {"solar", "standard"}
        DOY and TOD in local mean solar time, as on a grid, or in the standard time of the CarbonSense paper. Local days
        are those of towers' standard time whichever is given, and the store says so.
    strict : bool
        Raise for the first site or file that cannot be read instead of leaving it out.
    overwrite : bool
        Replace a store that is there, once the new one is whole.
    append : bool
        Keep a store that is there, and read only sites that are new, or whose files or place changed. The others'
        files stay as they are, byte by byte, also where their archives are not in `raw`.
    compact : bool
        Keep values as scaled integers of their own last digit (`fluxcube.decimals`), in half the room, and free of the
        rounding errors of float32 means. Such a store opens only where fluxcube is installed; any Zarr reader opens
        the others.
    sites : str or sequence of str, optional
        Only these.
    progress : callable, optional
        ``progress(done, total, text)``.

    Returns
    -------
    BuildReport

    Raises
    ------
    SourceError
        If no site can be read (with `strict`, if any cannot), or `modis` has no raster of the towers' time.
    StoreError
        If `store` exists and neither `overwrite` nor `append` is set.
    ConfigError
        If `append` meets a store that was made with other options.
    UnknownNameError
        If `sites` or `variables` holds a name that there is not.

    References
    ----------
    Fortier et al. 2024, CarbonSense, arXiv:2406.04940; Pastorello et al. 2020, ONEFlux, doi:10.1038/s41597-020-0534-3.
    """
    for name, value, valid in (
        ("resolution", resolution, RESOLUTIONS),
        ("rule", rule, RULES),
        ("clock", clock, CLOCKS),
    ):
        if value not in valid:
            raise ConfigError(f"{name}={value!r}: expected one of {', '.join(valid)}.")
    if append and overwrite:
        raise ConfigError("append keeps a store and overwrite replaces it: give one of them.")
    labels = {"predictors": _predictors(variables, resolution), "fluxes": targets(resolution)}
    settings = {
        "resolution": resolution,
        "clock": clock if resolution == "hourly" else DAY_CLOCK,
        "order": order,
        "fusion_rule": rule,
        "predictors": " ".join(labels["predictors"]),
        "packing": "decimals" if compact else "floats",
    }
    read = functools.partial(
        _reader(resolution),
        predictors=labels["predictors"],
        targets=labels["fluxes"],
        rule=rule,
        clock=clock,
        strict=strict,
    )
    job = _Job(raw, Path(store), settings, labels, read, strict, progress)
    job.find(sites, land_cover)
    with build_lock(store) if append else contextlib.nullcontext():
        if append and job.store.exists():
            job.keep()
        if job.asked or not job.kept or job.outdated(modis):
            with staging(store, overwrite=overwrite or bool(job.kept)) as building:
                job.read(building)
                job.cut(building, modis)
                job.write(building)
    return job.report()


def _predictors(variables: Sequence[str] | None, resolution: str) -> tuple[str, ...]:
    """Return the predictors to keep, in table order."""
    every = predictors(resolution)
    asked = every if variables is None else [variables] if isinstance(variables, str) else variables
    kept = {*check_role(asked, "predictor", resolution), *COMPUTED}
    return tuple(name for name in every if name in kept)


def _reader(resolution: str) -> Callable[..., Tower]:
    if resolution == "hourly":
        return read_tower
    from fluxcube.cubes.daily import read_daily_tower

    return read_daily_tower


class _Job:
    """One build, step by step: what was found, what stays, what was read."""

    def __init__(
        self,
        raw: str | os.PathLike | Sequence[str | os.PathLike],
        store: Path,
        settings: Mapping[str, str],
        labels: Mapping[str, Sequence[str]],
        read_site: Callable[..., Tower],
        strict: bool,
        progress: Progress | None,
    ):
        self.store, self.strict, self.progress = store, strict, progress
        self._settings, self._labels, self._read_site = settings, labels, read_site
        self._roots = [raw] if isinstance(raw, (str, os.PathLike)) else list(raw)
        self.left_out: dict[str, str] = {}
        self.kept: dict[str, Mapping] = {}
        self._classed: dict[str, tuple[SiteInfo, str]] = {}
        self._made: dict[str, dict] = {}
        self._log: Mapping = {}
        self._cut: dict[str, np.ndarray] = {}

    def find(self, sites: str | Sequence[str] | None, land_cover: str | os.PathLike | None) -> None:
        """Find the archives, places and classes of the sites asked for."""
        self._discovery = discover(self._roots, order=self._settings["order"], resolution=self._settings["resolution"])
        self._archives = _chosen(self._discovery, sites)
        badm = self._discovery.badm
        note = None if self.strict else lambda at, error: self.left_out.update({at.name: str(error)})
        self._infos = read_badm(badm, on_error=note)
        if land_cover is not None:
            self._classed = add_land_cover(self._unclassed(), land_cover)
            self._infos |= {site: info for site, (info, _) in self._classed.items()}
        self._cited = read_snapshots([at for at in badm if at.name not in self.left_out], self.left_out)
        self._stamps = {site: stamp(found, self._infos.get(site)) for site, found in self._archives.items()}
        self.asked = list(self._archives)

    def _unclassed(self) -> Iterator[SiteInfo]:
        """Yield what is known of each site whose class neither metadata nor archives tell."""
        for site, archives in self._archives.items():
            try:
                told = [place for archive in archives if (place := place_of(archive)) is not None]
                info = _place(self._infos, site, archives)
            except SourceError:
                continue  # reading the site says why it cannot be read
            if not info.igbp and not any(place.igbp for place in told):
                yield info

    def keep(self) -> None:
        """Keep the sites of the store that need not be read again."""
        self.kept, self._log = documents_to_keep(self.store, self._settings, self._stamps, self.left_out)
        self.asked = [site for site in self.asked if site not in self.kept]

    def outdated(self, modis: str | os.PathLike | None) -> bool:
        """Return whether some site that stays wants its satellite data cut anew."""
        if modis is None:
            return False
        rasters = SATELLITE[self._settings["resolution"]].rasters(modis)
        return any(stamp_rasters(rasters, doc["place"]) != doc.get("rasters", "") for doc in self.kept.values())

    def read(self, building: Path) -> None:
        """Read every other site and put its values aside."""
        results = _each(functools.partial(self._read, building), self.asked, self.progress, lambda s: f"read {s}")
        for site, result in zip(self.asked, results, strict=True):
            if isinstance(result, SourceError):
                self.left_out[site] = str(result)
            else:
                self._made[site] = result
                self.left_out |= {f"{site}: {name}": why for name, why in result["unread"].items()}
        lost = Counter(text for document in self._made.values() for text in document["lost"])
        for text, count in lost.items():
            _log.warning("%s (%d site%s)", text, count, "s" if count > 1 else "")
        if not self._made and not self.kept:
            whys = [f"{name}: {why}" for name, why in self.left_out.items()]
            more = f"; and {len(whys) - _NAMED} more" if len(whys) > _NAMED else ""
            raise SourceError(f"no site could be read: {'; '.join(whys[:_NAMED])}{more}")

    def _read(self, building: Path, site: str) -> dict | SourceError:
        """Read a site; return its document, or why there is none."""
        archives = self._archives[site]
        try:
            for archive in archives:
                reader_of(archive)  # another product: its error before that of a missing place
            tower = self._read_site(archives, _place(self._infos, site, archives))
            check_epoch(tower)
        except SourceError as error:
            if self.strict:
                raise
            return error
        if site in self._classed:
            tower = replace(tower, warnings=(*tower.warnings, self._classed[site][1]))
        put_aside(building, tower, compact=self._settings["packing"] == "decimals")
        stamp = self._stamps[site]
        return document(tower, stamp["archives"], stamp["info"], self._cited, self._settings["resolution"])

    def cut(self, building: Path, modis: str | os.PathLike | None) -> None:
        """Cut the chips of the sites that were read, and of those whose rasters changed, and put them aside.

        A daily cube has MOD09GA's clear reflectance around the tower instead.
        """
        if modis is None:
            self._chips_of_archives(building)
            return
        product = SATELLITE[self._settings["resolution"]]
        rasters = product.rasters(modis)
        documents = {**self.kept, **self._made}
        stamps = {site: stamp_rasters(rasters, doc["place"]) for site, doc in documents.items()}
        stale = [site for site, doc in sorted(documents.items()) if stamps[site] != doc.get("rasters", "")]
        if not any(stamps.values()):
            spans = [span_of_use(doc["place"]) for doc in documents.values()]
            raise SourceError(
                f"modis: no {product.name} raster from {min(s[0] for s in spans)} to {max(s[1] for s in spans)}, when "
                "the towers measured; give a folder that has some."
            )
        self._cut = cut_sites(building, product, rasters, [documents[site]["place"] for site in stale], self.progress)
        for site in stale:
            changed = {**documents[site], "rasters": stamps[site]}
            (self._made if site in self._made else self.kept)[site] = changed
        if not any(map(len, self._cut.values())) and not self.kept:
            raise SourceError("modis: no raster has a valid pixel of any of the sites; check where its tiles lie.")

    def _chips_of_archives(self, building: Path) -> None:
        """Put aside the chips that archives themselves hold, the newest publication's where several do."""
        if self._settings["resolution"] != "hourly":
            return
        for site in self._made:
            for archive in sorted(self._archives[site], key=lambda archive: archive.rank):
                if (found := chips_of(archive)) is not None:
                    day, chips = found
                    day = day.astype("datetime64[D]")
                    put_chips_aside(building, site, day, chips)
                    self._cut[site] = day
                    break

    def write(self, building: Path) -> None:
        """Write the store: what stays is taken over, what was read is written."""
        days = [day for day in self._cut.values() if len(day)]

        def each(function: Callable[[str], None], sites: Sequence[str]) -> None:
            _each(function, list(sites), self.progress, lambda site: f"write {site}")

        compose(
            building,
            self.kept,
            self._made,
            self._labels,
            self._settings,
            source=self.store if self.kept else None,
            log=self._log_of_build(),
            cut=[site for site, day in self._cut.items() if len(day)],
            days=np.unique(np.concatenate(days)) if days else None,
            each=each,
        )

    def _log_of_build(self) -> dict:
        sites = {*self.kept, *self._made}
        before = self._log.get("left_out", {})
        earlier = {name: why for name, why in before.items() if name not in sites and name not in self._archives}
        return build_document(earlier | self.left_out, self._discovery, [str(root) for root in self._roots], self._log)

    def report(self) -> BuildReport:
        """Return what was made."""
        made = self._made

        def by_site(key: str) -> dict:
            return {site: doc[key] for site, doc in made.items() if doc[key]}

        report = {key: by_site(key) for key in ("fusion", "quality", "out_of_bounds", "flags_assumed", "warnings")}
        report["warnings"] = {site: tuple(texts) for site, texts in report["warnings"].items()}
        report["ignored"] = dict(self._discovery.ignored)
        return BuildReport(
            store=self.store,
            sites=tuple(sorted({*self.kept, *made})),
            left_out=self.left_out,
            report=report,
            unchanged=tuple(self.kept),
        )


def _place(infos: Mapping[str, SiteInfo], site: str, archives: Sequence[Archive]) -> SiteInfo:
    """Return what is known of a site: from its metadata or, where they do not tell where it is, from its archives."""
    try:
        return require_location(infos, site)
    except SourceError:
        for archive in sorted(archives, key=lambda archive: archive.rank):
            place = place_of(archive)
            if place is not None and None not in (place.latitude, place.longitude):
                return place
        raise


def _chosen(discovery: Discovery, sites: str | Sequence[str] | None) -> dict[str, list[Archive]]:
    """Return the archives of each site asked for, sites in order."""
    if not discovery.archives:
        aside = "; ".join(f"{path}: {why}" for path, why in discovery.ignored[:3]) or "nothing"
        raise SourceError(
            "no half-hourly or hourly tower archive was found by name; expected files such as "
            f"FLX_US-MMS_FLUXNET2015_FULLSET_1999-2014_1-4.zip. Left aside: {aside}."
        )
    known = discovery.sites
    asked = known if sites is None else [sites] if isinstance(sites, str) else sites
    for site in asked:
        if site not in known:
            raise unknown("site", site, known)
    return {site: [a for a in discovery.archives if a.site == site] for site in sorted(set(asked))}


def _each(function: Callable, items: Sequence, progress: Progress | None, text: Callable[[object], str]) -> list:
    """Call a function for each item on a few threads; results in the order of the items."""
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
