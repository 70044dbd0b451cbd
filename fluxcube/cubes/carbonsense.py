"""Build the CarbonSense cube from raw tower archives: one store, which exists only once it is completely written."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fluxcube.cards import card, few
from fluxcube.cubes.building import (
    BuildRequest,
    FoundSites,
    Progress,
    ReadSites,
    cut_chips,
    cut_reflectance,
    find_drivers,
    find_sites,
    find_surface,
    is_outdated,
    keep_sites,
    keep_unread,
    log_of_build,
    note_losses,
    read_sites,
    write_cube,
)
from fluxcube.cubes.compose import CubeSites
from fluxcube.cubes.drivers_store import DriverOption, cut_drivers
from fluxcube.cubes.fusion import RULES
from fluxcube.cubes.layout import CHECKSUMS, CubeSettings
from fluxcube.cubes.stamps import Kept, settings_of
from fluxcube.cubes.surface_series import MAX_DISTANCE_KM
from fluxcube.cubes.surface_sources import SurfaceSource, as_sources
from fluxcube.errors import ConfigError, without_secrets
from fluxcube.resolution import ALL, DAILY
from fluxcube.sources.towers.contradictions import check_trust
from fluxcube.stores.bucket_states import working_copy
from fluxcube.stores.building import check_target, staging, store_lock
from fluxcube.stores.reading import is_url, open_store
from fluxcube.tabletext import counted
from fluxcube.variables import COMPUTED, RESOLUTIONS, check_role, predictors, targets

__all__ = ["BuildReport", "build_carbonsense"]

CLOCKS = ("solar", "standard")
#: Clock of daily cubes: days of towers, as in their daily files, begin at midnight of standard time.
DAY_CLOCK = "standard"


#: Number of sites that were left out whose reasons are shown.
_REASONS = 3


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """Result of a build.

    Attributes
    ----------
    store : Path or str
        The cube; a URL is a str.
    sites : tuple of str
        Sites in it.
    left_out : dict of str to str
        Sites that are not in it, and why; also files of a site (``"SITE: file"``) that could not be read although
        others of the site could.
    report : dict
        For the sites that were read: ``fusion`` (hours and flags that each publication supplied, by site and variable),
        ``quality`` (what each rule removed), ``out_of_bounds`` (values of a predictor that became missing, by site),
        ``flags_assumed`` (native values without a flag, by site), ``missing_codes`` (native values that are codes for
        missing values or impossible, by site, variable and code), ``warnings`` (by site); and ``ignored`` (files that
        were not used, and why). The store contains the complete report: `fluxcube.open_report`.
    unchanged : tuple of str
        Sites that an append left as they were.
    """

    store: Path | str
    sites: tuple[str, ...]
    left_out: dict[str, str]
    report: dict
    unchanged: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Return the store, and the numbers of sites that are in it and left out."""
        left = f", {len(self.left_out)} left out" if self.left_out else ""
        return f"<BuildReport {without_secrets(str(self.store))}: {counted(len(self.sites), 'site')}{left}>"

    def _repr_html_(self) -> str:
        """Return what is in the cube, and what was left out and why, as HTML."""
        store, warned = without_secrets(str(self.store)), self.report.get("warnings") or {}
        reasons = [f"{site}: {why}" for site, why in list(self.left_out.items())[:_REASONS]]
        facts = {
            "store": store,
            "sites": f"{len(self.sites)}: {few(self.sites)}",
            "unchanged": few(self.unchanged) if self.unchanged else "",
            "left out": f"{len(self.left_out)}; {'; '.join(reasons)}" if self.left_out else "",
            "warnings": f"{counted(len(warned), 'site')}: {few(list(warned))}" if warned else "",
        }
        return card("BuildReport", facts, (f'cube = fc.open_carbonsense("{store}")', f'fc.open_report("{store}")'))


def build_carbonsense(
    raw: str | os.PathLike | Sequence[str | os.PathLike],
    store: str | os.PathLike,
    *,
    resolution: str = "hourly",
    modis: str | os.PathLike | None = None,
    surface: SurfaceSource | Sequence[SurfaceSource] = (),
    max_distance_km: float = MAX_DISTANCE_KM,
    land_cover: str | os.PathLike | None = None,
    drivers: DriverOption = False,
    variables: Sequence[str] | None = None,
    order: str = "newest",
    rule: str = "newest",
    clock: str = "solar",
    strict: bool = False,
    trust: str | Sequence[str] = (),
    overwrite: bool = False,
    append: bool = False,
    compact: bool = False,
    sites: str | Sequence[str] | None = None,
    keep: bool = False,
    storage_options: Mapping[str, object] | None = None,
    progress: Progress | None = None,
) -> BuildReport:
    """Build the cube of all towers found in folders of downloads.

    Parameters
    ----------
    raw : path or sequence of paths
        Folders with tower archives as published, and with BADM or a table of sites (`fluxcube.sources.towers.badm`).
    store : path or URL
        Cube to write. It exists only once it is completely written. In a bucket (``s3://``, ``gs://``, ``az://``), it
        is built in a temporary folder and uploaded as a whole.
    resolution : {"hourly", "daily"}
        Hours in UTC; or local days, from daily files where a site has them, else aggregated from its hours.
    modis : path, optional
        Folder of MCD43A4 and MCD43A2 rasters, of which each site has the chips of its own time and the month before.
        Without `modis`, the cube has the chips that the archives themselves contain, if any. A daily cube has no chips:
        there, `modis` is a folder of MOD09GA rasters, and means the same as `surface`.
    surface : path, xr.Dataset, xr.DataArray, pandas.DataFrame or sequence of these, optional
        Surface reflectance of points or areas under a clear sky: a folder of MOD09GA rasters, from which 2 km x 2 km
        around each site are averaged; what `fluxcube.read_surface` reads; or a Dataset such as it returns. Of
        several, a series comes before rasters, and series of one place are joined. The cube has the reflectance of each
        site's own time and the 96 days before it (`surface`), its quality where it is known (`surface_quality`), and
        percentiles and monthly means over the whole record (`surface_climatology`). A series belongs to the site of its
        name.
    max_distance_km : float
        Maximum distance of the place of a series from the site of its name.
    land_cover : path, optional
        Folder of MCD12Q1 rasters: sites without an IGBP class in their metadata receive that of their pixel, and a
        note. Pass it again when appending.
    drivers : bool, source, sequence of sources, or mapping of str to these
        A second source of predictors, which becomes the array ``predictors_era5``: True for the reanalysis that
        publishers add to archives (``..._ERAI_...`` and ``..._ERA5_...`` files in `raw`), else what
        `fluxcube.add_drivers` takes: a folder, a table, a Dataset or a forcing. A mapping sets other names than "era5".
        The drivers are cut to each tower's own record. `open_carbonsense`, `fit` and `predict` use them with
        ``drivers="era5"``.
    variables : sequence of str, optional
        Predictors to keep; default all of the variable table. The computed ones (DOY, TOD, SW_IN_POT) are always kept.
    order : {"newest", "paper"}
        Order of preference of publications: the newest first, or as listed in the CarbonSense paper.
    rule : {"newest", "quality"}
        Which publication supplies a time step that several have (`fluxcube.cubes.fusion.fuse`).
    clock : {"solar", "standard"}
        DOY and TOD in local mean solar time, as on a grid, or in standard time, as in the CarbonSense paper. A daily
        cube always has days of standard time, and its attributes record this.
    strict : bool
        Raise an error for the first site or file that cannot be read, instead of leaving it out, for a clock that no
        source has, instead of estimating it from the light, and for a clock or place that is doubtful.
    trust : str or sequence of str
        Variables whose unit and sign are right although a record contradicts them, such as VPD in kPa beside RH, or NEE
        of the opposite sign of RECO - GPP. Such a record is otherwise left out, with the evidence; where it is
        accepted, the evidence becomes a note.
    overwrite : bool
        Replace an existing store, once the new one is complete.
    append : bool
        Keep an existing store, and read only sites that are new, or whose files or metadata changed. The files of other
        sites stay identical byte by byte, also if their archives are not in `raw`.
    compact : bool
        Round values to the decimals of their source (`fluxcube.decimals`: 18 % of the values change, by at most 1.3e-7
        of the variable's maximum), which takes 0.588 of the default size (docs/benchmarks.md#codecs). Such a store
        opens only where fluxcube is installed; any Zarr reader opens the others.
    sites : str or sequence of str, optional
        Build only these sites.
    keep : bool
        With `append` or `overwrite`: keep the earlier state of the store, which
        ``open_carbonsense(store, version=store_id)`` then opens, and which those who are reading it read to the end.
        Without `keep` they get an error.
    storage_options : mapping, optional
        Options of fsspec to reach a URL.
    progress : callable, optional
        ``progress(done, total, text)``.

    Returns
    -------
    BuildReport

    Raises
    ------
    SourceError
        If no site can be read (with `strict`, if any cannot); if `drivers` cannot be read; if `modis` has no raster
        from the time of the towers; if `surface` has no reflectance of any of them, or a series is of a place farther
        than `max_distance_km` from its site.
    StoreError
        If `store` exists and neither `overwrite` nor `append` is set, or another process is writing it.
    ConfigError
        If an option is unknown, no tower has `drivers`, or the store that `append` keeps was built with other options.
    UnknownNameError
        If `sites` or `variables` contains an unknown name.

    References
    ----------
    Fortier et al. 2024, CarbonSense, arXiv:2406.04940; Pastorello et al. 2020, ONEFlux, doi:10.1038/s41597-020-0534-3.

    Examples
    --------
    >>> import fluxcube as fc
    >>> built = fc.build_carbonsense("downloads/", "carbonsense.zarr", modis="tiles/")  # doctest: +SKIP
    >>> built.sites, built.left_out  # doctest: +SKIP
    """
    _check_options(resolution, rule, clock, max_distance_km)
    if append and overwrite:
        raise ConfigError("append keeps a store and overwrite replaces it: set only one of them.")
    sources = as_sources(surface)
    if modis is not None and resolution == DAILY.name:  # a daily cube has no chips
        sources, modis = (*sources, modis), None
    with working_copy(store, storage_options, append=append, overwrite=overwrite, keep=keep, progress=progress) as path:
        settings = CubeSettings(
            predictors=_predictors(variables, resolution),
            fluxes=_fluxes(path, resolution, append=append),
            resolution=resolution,
            clock=DAY_CLOCK if ALL[resolution].local else clock,
            order=order,
            rule=rule,
            compact=compact,
            checksum=_checksum(path, append=append),
        )
        request = BuildRequest(
            roots=(raw,) if isinstance(raw, (str, os.PathLike)) else tuple(raw),
            store=path,
            settings=settings,
            modis=modis,
            surface=sources,
            max_distance_km=max_distance_km,
            land_cover=land_cover,
            drivers=drivers,
            sites=(sites,) if isinstance(sites, str) else None if sites is None else tuple(sites),
            strict=strict,
            trust=check_trust(trust, resolution),
            progress=progress,
        )
        report = _build(request, overwrite=overwrite, append=append, keep=keep)
    return replace(report, store=str(store) if is_url(store) else Path(store))


def _check_options(resolution: str, rule: str, clock: str, max_distance_km: float) -> None:
    """Refuse options that are not valid (ConfigError)."""
    for name, value, valid in (
        ("resolution", resolution, RESOLUTIONS),
        ("rule", rule, RULES),
        ("clock", clock, CLOCKS),
    ):
        if value not in valid:
            raise ConfigError(f"{name}={value!r}: expected one of {', '.join(valid)}.")
    if not max_distance_km >= 0:
        raise ConfigError(f"max_distance_km={max_distance_km!r}: expected a distance in km, 0 or more.")


def _predictors(variables: Sequence[str] | None, resolution: str) -> tuple[str, ...]:
    """Return the predictors to keep, in table order."""
    every = predictors(resolution, declared=False)
    names = every if variables is None else [variables] if isinstance(variables, str) else variables
    kept = {*check_role(names, "predictor", resolution), *COMPUTED}
    return tuple(name for name in every if name in kept)


def _fluxes(store: Path, resolution: str, *, append: bool) -> tuple[str, ...]:
    """Return the targets of the cube: all of the table, or those that the store to append to already has."""
    if not (append and store.exists()):
        return targets(resolution)
    with open_store(store, kind="cube", dask=False) as cube:
        return tuple(map(str, cube.target.values))


def _checksum(store: Path, *, append: bool) -> bool:
    """Return whether chunks have checksums: always, but in a store of an earlier version that is appended to."""
    return not (append and store.exists()) or settings_of(store).get("checksums") == CHECKSUMS


def _build(request: BuildRequest, *, overwrite: bool, append: bool, keep: bool) -> BuildReport:
    """Run the steps of a build; each takes the results of those before it."""
    found = find_sites(request)
    sources, drivers = find_surface(request, found), find_drivers(request)
    with store_lock(request.store, parents=True):
        check_target(request.store, overwrite=overwrite or append)  # before archives are read
        kept = keep_sites(request, found) if append and request.store.exists() else Kept()
        to_read = any(site not in kept.documents for site in found.archives)
        if kept.documents and not to_read and not is_outdated(request, kept, sources, drivers):
            return _report(request, found, kept, ReadSites(), CubeSites(kept.documents))
        with staging(request.store, overwrite=overwrite or append, keep=keep) as building:
            read = read_sites(request, found, kept, building)
            kept, read = keep_unread(kept, note_losses(request, kept, read))
            sites = CubeSites(kept.documents, read.documents)
            sites, days = cut_chips(request, found, sites, building)
            sites, surface = cut_reflectance(request, sources, sites, building)
            sites = cut_drivers(drivers, request.settings, sites, building, strict=request.strict)
            log = log_of_build(request, found, kept, sites, _left_out(found, kept, read))
            write_cube(request, sites, days, surface, log, building)
    return _report(request, found, kept, read, sites)


def _left_out(found: FoundSites, kept: Kept, read: ReadSites) -> dict[str, str]:
    return {**found.left_out, **kept.left_out, **read.left_out}


def _report(request: BuildRequest, found: FoundSites, kept: Kept, read: ReadSites, sites: CubeSites) -> BuildReport:
    """Return the report of a build."""

    def by_site(key: str) -> dict:
        return {site: doc[key] for site, doc in sites.fresh.items() if doc[key]}

    keys = ("fusion", "quality", "out_of_bounds", "flags_assumed", "missing_codes", "warnings")
    report = {key: by_site(key) for key in keys}
    report["warnings"] = {site: tuple(texts) for site, texts in report["warnings"].items()}
    report["ignored"] = dict(found.discovery.ignored)
    return BuildReport(
        store=request.store,
        sites=tuple(sites.documents),
        left_out=_left_out(found, kept, read),
        report=report,
        unchanged=tuple(sites.kept),
    )
