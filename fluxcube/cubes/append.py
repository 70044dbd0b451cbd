"""Append a site to a cube: compose a store from the sites that stay, whose files are reused unchanged, and the new one.

The new store is written beside the old one and replaces it when it is complete, so that killing the process at any
moment loses nothing. Files of sites that stay are linked, not copied: the cost of appending is that of the new sites.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from fluxcube.biomes import igbp_class, igbp_number
from fluxcube.cubes.compose import CubeSites, compose
from fluxcube.cubes.drivers_store import DriverOption, cut_drivers, open_options
from fluxcube.cubes.layout import CubeSettings, check_epoch, spill_tower
from fluxcube.cubes.report import build_document, document, read_report
from fluxcube.cubes.stamps import digest_info, settings_of
from fluxcube.cubes.surface_series import MAX_DISTANCE_KM
from fluxcube.cubes.surface_sources import (
    SurfaceSource,
    as_sources,
    check_any,
    cut_surface,
    open_surface,
    surface_entries,
)
from fluxcube.cubes.tower import tower_of
from fluxcube.cubes.tower_data import Tower
from fluxcube.errors import ConfigError, SourceError, StoreError, to_type
from fluxcube.sources.towers.badm import SiteInfo
from fluxcube.sources.towers.sitenames import check_site, find_twins
from fluxcube.stores.bucket_states import working_copy
from fluxcube.stores.building import staging, store_lock
from fluxcube.stores.reading import open_store
from fluxcube.variables import predictors, targets

_INFO = ("site", "latitude", "longitude", "elevation", "igbp", "koppen", "utc_offset")


#: Settings of a cube that its first site makes.
_NEW = CubeSettings(predictors=predictors(declared=False), fluxes=targets())


def append_site(
    store: str | os.PathLike,
    ds: xr.Dataset | Tower,
    *,
    info: SiteInfo | None = None,
    surface: SurfaceSource | Sequence[SurfaceSource] = (),
    max_distance_km: float = MAX_DISTANCE_KM,
    drivers: DriverOption = False,
    create: bool = False,
    overwrite: bool = False,
    keep: bool = False,
    storage_options: Mapping[str, object] | None = None,
) -> None:
    """Add one site to a cube.

    The files of all other sites stay as they are. The site is added completely or not at all: if an error occurs, the
    cube is unchanged.

    Parameters
    ----------
    store : path or URL
        A cube that `build_carbonsense` wrote, on a disk or in a bucket.
    ds : xarray.Dataset or Tower
        The site's record at its own step, as `fluxcube.sources.towers.table.read_table` or
        `fluxcube.sources.towers.readers.read_archive` returns it: dimension ``time`` (UTC start of each step),
        ``NAME`` and ``NAME_QC``. Required attributes are ``site``, ``network``, ``step_minutes``, ``source_file`` and,
        without `info`, ``latitude`` and ``longitude`` (degrees); optional ones are ``elevation`` (m), ``igbp``,
        ``koppen``, ``utc_offset`` (hours), ``citation``, ``doi`` and ``licence``. The record is converted to hours,
        checked and completed as by `build_carbonsense`. A daily cube needs a Tower
        (`fluxcube.cubes.daily.read_daily_tower`).
    info : SiteInfo, optional
        Metadata of the site, instead of the record's attributes.
    surface, max_distance_km
        Surface reflectance of the site, as in `build_carbonsense`.
    drivers : source, sequence of sources, or mapping of str to these
        Drivers of the site from another source, as in `build_carbonsense`.
    create : bool
        Make an hourly cube of this site alone if there is none.
    overwrite : bool
        Replace a site of that name.
    keep : bool
        Keep the earlier state of the cube, as in `build_carbonsense`.
    storage_options : mapping, optional
        Options of fsspec to reach a URL.

    Raises
    ------
    StoreError
        If there is no such cube, or it has the site and `overwrite` is not set.
    SourceError
        If the record lacks its location or time step, or has no value, or its site has an impossible name; if `surface`
        has no reflectance of the site, or is of another place.
    UnknownNameError
        If its IGBP class is none of the 17.
    ConfigError
        If the cube is daily and `ds` is not a Tower.

    Examples
    --------
    >>> ds = read_table("tower.csv", site="XX-New", utc_offset=1, ...)  # doctest: +SKIP
    >>> append_site("carbonsense.zarr", ds)  # doctest: +SKIP
    """
    with working_copy(store, storage_options, append=True, keep=keep) as path, store_lock(path, parents=create):
        create = create and not path.exists()
        sources = as_sources(surface)
        _append(path, ds, info, sources, max_distance_km, drivers, create=create, overwrite=overwrite, keep=keep)


def _append(
    store: Path,
    ds: xr.Dataset | Tower,
    info: SiteInfo | None,
    surface: Sequence[SurfaceSource],
    max_distance_km: float,
    drivers: DriverOption,
    *,
    create: bool,
    overwrite: bool,
    keep: bool,
) -> None:
    settings = _NEW if create else _settings(store)
    tower = ds if isinstance(ds, Tower) else _tower(ds, info, settings)
    check_site(tower.info.site)
    check_epoch(tower)
    documents, log = ({}, {}) if create else read_report(store)
    site = tower.info.site
    if twin := find_twins([*documents, site]).get(site):
        raise StoreError(f"{store} has {twin}, whose name differs from {site} in case only: use another name.")
    if site in documents and not overwrite:
        how = to_type(python="set overwrite=True", shell="add --overwrite")
        raise StoreError(f"{store} has {site} already: {how} to replace it, or use another name.")
    doc = _document(tower, ds, settings.resolution)
    sources = open_surface(surface, [doc["place"]], max_distance_km) if surface else None
    kept = {name: other for name, other in documents.items() if name != site}
    left_out = {name: why for name, why in log.get("left_out", {}).items() if name.partition(":")[0] != site}
    with staging(store, overwrite=True, keep=keep) as building:
        spill_tower(building, tower, compact=settings.compact)
        parts = None
        if sources is not None:
            check_any(sources, [doc["place"]])
            parts = cut_surface(sources, building, [doc["place"]])
            doc |= surface_entries(sources, parts, doc)
        sites = CubeSites(fresh={site: doc})
        if drivers is not False:
            sites = cut_drivers(open_options(drivers, ()), settings, sites, building)
        sites = CubeSites(kept=kept, fresh=sites.fresh)
        log = build_document(left_out, None, (), log)
        compose(building, settings, sites, source=None if create else store, log=log, surface=parts)


def check_record(record: xr.Dataset) -> None:
    """Check a record as `append_site` does, log the same notes, and write nothing."""
    check_epoch(_tower(record, None, _NEW))


def _settings(store: Path) -> CubeSettings:
    attrs = settings_of(store)
    with open_store(store, kind="cube", dask=False) as cube:
        return CubeSettings.of(cube, attrs)


def _document(tower: Tower, ds: xr.Dataset | Tower, resolution: str) -> dict[str, Any]:
    """Return a site's document; citation and licence are those in the attributes of its record."""
    if not isinstance(ds, xr.Dataset):
        return document(tower, [], digest_info(tower.info), {}, resolution)
    attrs = ds.attrs
    cited: dict[tuple[str, str], tuple[str, str]] = {}
    if attrs.get("citation"):
        cited[tower.info.site, str(attrs["network"])] = str(attrs["citation"]), str(attrs.get("doi", ""))
    licence = str(attrs.get("licence", ""))
    return document(tower, [_described(ds)], digest_info(tower.info), cited, resolution, licence=licence)


def _tower(ds: xr.Dataset, info: SiteInfo | None, settings: CubeSettings) -> Tower:
    if settings.resolution != "hourly":
        raise ConfigError("a daily cube needs a daily Tower: read one with fluxcube.cubes.daily.read_daily_tower.")
    missing = [key for key in ("site", "network", "step_minutes", "source_file") if key not in ds.attrs]
    if missing:
        raise SourceError(f"the record lacks the attributes {', '.join(missing)}: read it with read_table.")
    info = info or _info(ds)
    if info.igbp:
        info = replace(info, igbp=igbp_class(info.igbp) or info.igbp)
        igbp_number(info.igbp)  # raises for a text that is no class
    return tower_of([(0, str(ds.attrs["network"]), ds)], info, settings.tower_options())


def _info(ds: xr.Dataset) -> SiteInfo:
    """Return the site metadata in the attributes of a record."""
    attrs = {key: ds.attrs[key] for key in _INFO if ds.attrs.get(key) is not None}
    numbers = {key: float(attrs[key]) for key in ("latitude", "longitude", "elevation", "utc_offset") if key in attrs}
    if not {"latitude", "longitude"} <= set(numbers):
        raise SourceError(
            f"{ds.attrs['site']}: expected the attributes latitude and longitude, found none; pass them to read_table."
        )
    offset = numbers.get("utc_offset")
    return SiteInfo(
        site=attrs["site"],
        latitude=numbers["latitude"],
        longitude=numbers["longitude"],
        elevation=numbers.get("elevation"),
        igbp=attrs.get("igbp", ""),
        koppen=attrs.get("koppen", ""),
        utc_offset=offset,
        utc_offsets=() if offset is None else ((None, offset),),
    )


def _described(ds: xr.Dataset) -> dict[str, str]:
    """Return the source of a record, with a digest of its values."""
    digest = hashlib.sha256()
    for name in sorted(map(str, ds.variables)):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(ds[name].values).tobytes())
    return {
        "file": os.path.basename(str(ds.attrs["source_file"])),
        "network": str(ds.attrs["network"]),
        "digest": digest.hexdigest(),
    }
