"""Append sites to a cube: compose a store from the sites that stay, whose files are reused unchanged, and new ones.

The new store is written beside the old one and replaces it when it is complete, so that killing the process at any
moment loses nothing. Files of sites that stay are linked, not copied: the cost of appending is that of the new sites.
"""

from __future__ import annotations

import functools
import hashlib
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from fluxcube.cubes.layout import (
    CubeSettings,
    check_epoch,
    cube_arrays,
    cube_coords,
    spill_tower,
    time_axis,
    write_chips,
    write_tower,
)
from fluxcube.cubes.report import build_document, cube_attrs, document, read_report, write_report
from fluxcube.cubes.tower import tower_of
from fluxcube.cubes.tower_data import Tower
from fluxcube.errors import ConfigError, SourceError, StoreError
from fluxcube.sources.towers.badm import SiteInfo
from fluxcube.sources.towers.networks import Archive
from fluxcube.stores import adopt, create, is_url, open_store, staging, store_attrs
from fluxcube.swap import alone

_BLOCK = 1 << 20
_SETTINGS = ("resolution", "clock", "order", "fusion_rule", "predictors", "packing")
_INFO = ("site", "latitude", "longitude", "elevation", "igbp", "koppen", "utc_offset")

#: ``each(function, sites)`` calls a function for each site, perhaps in several threads.
Each = Callable[[Callable[[str], None], Sequence[str]], None]


@dataclass(frozen=True)
class CubeSites:
    """Documents of the sites of a cube, by site: those that stay as they are, and those whose values were spilled."""

    kept: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    fresh: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def documents(self) -> dict[str, Mapping[str, Any]]:
        """All documents, in the order of the site axis."""
        return dict(sorted({**self.kept, **self.fresh}.items()))


def append_site(
    store: str | os.PathLike, ds: xr.Dataset | Tower, *, info: SiteInfo | None = None, overwrite: bool = False
) -> None:
    """Add one site to a cube.

    The files of all other sites stay as they are. The site is added completely or not at all: if an error occurs, the
    cube is unchanged.

    Parameters
    ----------
    store : path
        A cube that `build_carbonsense` wrote.
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
    overwrite : bool
        Replace a site of that name.

    Raises
    ------
    StoreError
        If there is no such cube, or it has the site and `overwrite` is not set.
    SourceError
        If the record lacks its location or time step, or has no value.
    ConfigError
        If the cube is daily and `ds` is not a Tower.

    Examples
    --------
    >>> ds = read_table("tower.csv", site="XX-New", utc_offset=1, ...)  # doctest: +SKIP
    >>> append_site("cube.zarr", ds)  # doctest: +SKIP
    """
    if is_url(store):
        raise StoreError(f"{store}: a store at a URL is only read; append to a copy on disk.")
    with alone(store):
        _append(Path(store), ds, info, overwrite)


def _append(store: Path, ds: xr.Dataset | Tower, info: SiteInfo | None, overwrite: bool) -> None:
    attrs = settings_of(store)
    with open_store(store, kind="cube", dask=False) as cube:
        settings = CubeSettings.of(cube, attrs)
    tower = ds if isinstance(ds, Tower) else _tower(ds, info, settings)
    check_epoch(tower)
    documents, log = read_report(store)
    site = tower.info.site
    if site in documents and not overwrite:
        raise StoreError(f"{store} has {site} already: set overwrite=True to replace it, or use another name.")
    sites = CubeSites(
        kept={name: doc for name, doc in documents.items() if name != site},
        fresh={site: _document(tower, ds, settings.resolution)},
    )
    left_out = {name: why for name, why in log.get("left_out", {}).items() if name.partition(":")[0] != site}
    with staging(store, overwrite=True) as building:
        spill_tower(building, tower, compact=settings.compact)
        compose(building, settings, sites, source=store, log=build_document(left_out, None, (), log))


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
    return tower_of([(0, str(ds.attrs["network"]), ds)], info or _info(ds), settings.tower_options())


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


def settings_of(store: str | os.PathLike) -> dict[str, str]:
    """Return the attributes of a cube that record its settings (`CubeSettings.attrs`)."""
    attrs = store_attrs(store)
    if attrs.get("kind") != "cube":
        raise StoreError(f"{store}: expected a cube, found a store of kind {attrs.get('kind')!r}.")
    if "packing" not in attrs:
        raise StoreError(
            f"{store}: an older version of fluxcube wrote it; build it again with overwrite (--overwrite)."
        )
    return {key: str(attrs[key]) for key in _SETTINGS if key in attrs}


@dataclass(frozen=True)
class Kept:
    """What an append reuses of a cube.

    Attributes
    ----------
    documents : mapping of str to mapping
        Documents of the sites that stay as they are.
    log : mapping
        Log of the build that wrote the cube.
    left_out : mapping of str to str
        Sites that cannot be updated, because files that they were built from are absent, and which ones.
    """

    documents: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    log: Mapping[str, Any] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)


def sites_to_keep(store: str | os.PathLike, settings: CubeSettings, stamps: Mapping[str, Mapping]) -> Kept:
    """Return the sites that an append leaves as they are.

    Parameters
    ----------
    store : path
        The cube.
    settings : CubeSettings
        Of the build that appends.
    stamps : mapping of str to mapping
        `stamp` of each site for which archives were found.

    Returns
    -------
    Kept

    Raises
    ------
    ConfigError
        If the cube was built with other settings.
    """
    stored, requested = settings_of(store), settings.attrs
    if other := [key for key in stored if stored[key] != requested.get(key)]:
        differences = "; ".join(f"{key} is {stored[key]!r}, requested {requested.get(key)!r}" for key in other)
        raise ConfigError(
            f"{store}: its {differences}. Append with the same options, or build it again with overwrite."
        )
    documents, log = read_report(store)
    kept, left_out = {}, {}
    for site, doc in documents.items():
        new = stamps.get(site)
        if new is None or (doc["archives"] == new["archives"] and doc["info"] == new["info"]):
            kept[site] = doc
        elif lost := _lost(doc["archives"], new["archives"]):
            kept[site] = doc
            left_out[f"{site}: update"] = (
                f"the cube's {site} was made from {', '.join(lost)}, too, which is not among the files given: it stays "
                "as it is. Give those files as well, or build anew with overwrite."
            )
    return Kept(kept, log, left_out)


def _lost(before: Sequence[Mapping], now: Sequence[Mapping]) -> list[str]:
    """Return the files that a site was built from and that are neither present now nor covered by a newer file."""
    return [old["file"] for old in before if not any(new["file"] == old["file"] or _covers(new, old) for new in now)]


def _covers(new: Mapping, old: Mapping) -> bool:
    if new.get("network") != old.get("network"):
        return False
    ends = new.get("first_year"), new.get("last_year"), old.get("first_year"), old.get("last_year")
    if None in ends:
        return True
    first, last, old_first, old_last = (int(year) for year in ends if year is not None)
    return first <= old_first and old_last <= last


def stamp(archives: Sequence[Archive], info: SiteInfo | None) -> dict[str, Any]:
    """Return a description of the archives and metadata of a site that shows a change; without modification times."""
    return {"archives": [_stamp(archive) for archive in archives], "info": digest_info(info)}


def digest_info(info: SiteInfo | None) -> str:
    """Return a digest of the metadata of a site."""
    return hashlib.sha256(repr(info).encode()).hexdigest()[:16]


def _stamp(archive: Archive) -> dict[str, object]:
    member = f"!{archive.member}" if archive.member and archive.path.suffix.lower() == ".zip" else ""
    return {
        "file": f"{archive.path.name}{member}",
        "network": archive.network,
        "version": archive.version,
        "first_year": archive.first_year,
        "last_year": archive.last_year,
        "digest": _digest(archive.path),
    }


def _digest(path: Path) -> str:
    """Return a digest of the content of a file or folder; for a zip, of the checksums that it contains."""
    digest = hashlib.sha256()
    if path.is_dir():
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            digest.update(f"{file.relative_to(path).as_posix()} {_digest_file(file)}".encode())
        return digest.hexdigest()
    return _digest_file(path)


def _digest_file(path: Path) -> str:
    status = path.stat()
    return _digest_content(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _digest_content(path: Path, size: int, changed: int) -> str:
    """Return the digest of a file, computed once per process even if the file contains many sites."""
    digest = hashlib.sha256()
    if path.suffix.lower() == ".zip":
        try:
            with zipfile.ZipFile(path) as archive:
                for entry in archive.infolist():
                    digest.update(f"{entry.filename} {entry.file_size} {entry.CRC}\n".encode())
            return digest.hexdigest()
        except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError):
            pass  # its reader raises an error that explains the problem
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def compose(
    building: Path,
    settings: CubeSettings,
    sites: CubeSites,
    *,
    log: Mapping[str, Any],
    source: Path | None = None,
    satellite_days: Mapping[str, np.ndarray] | None = None,
    each: Each | None = None,
) -> None:
    """Write a cube from the sites of another one, which stay as they are, and from sites that were spilled.

    Parameters
    ----------
    building : path
        The folder that `fluxcube.stores.staging` yields.
    settings : CubeSettings
        Of the cube.
    sites : CubeSites
        Documents; the values of the fresh sites were spilled to `building`.
    log : mapping
        The log that `build_document` returns.
    source : path, optional
        The store that has the kept sites; needed if there are any.
    satellite_days : mapping of str to (day,) datetime64, optional
        Days of the satellite data that were spilled to `building`, by site.
    each : callable, optional
        ``each(function, sites)`` calls a function for each site, perhaps in several threads; by default one by one.
    """
    documents = sites.documents
    parts = {site: days for site, days in (satellite_days or {}).items() if len(days)}
    days = np.unique(np.concatenate(list(parts.values()))) if parts else None
    if sites.kept and source is not None:
        days = _all_days(source, days)
    order = {site: at for at, site in enumerate(documents)}
    _create(building, settings, documents, days)
    if sites.kept and source is not None:
        with open_store(source, kind="cube", dask=False) as old:
            before = {str(site): at for at, site in enumerate(old.site.values)}
        adopt(building, source, {before[site]: order[site] for site in sites.kept})

    def write(site: str) -> None:
        if site in sites.fresh:
            write_tower(building, order[site], documents[site]["place"], settings)
        if site in parts:
            write_chips(building, order[site], site, settings.resolution)

    (each or _one_by_one)(write, sorted({*sites.fresh, *parts}))
    write_report(building, documents, log)


def _one_by_one(function: Callable[[str], None], sites: Sequence[str]) -> None:
    for site in sites:
        function(site)


def _create(building: Path, settings: CubeSettings, documents: Mapping[str, Mapping], days: np.ndarray | None) -> None:
    """Create the coordinates and the empty arrays of a cube."""
    places = [doc["place"] for doc in documents.values()]
    time = time_axis(places, settings.resolution)
    coords = cube_coords(places, time, settings, days)
    arrays = cube_arrays(places, len(time), settings, coords.sizes.get("day"))
    create(building, coords, arrays, cube_attrs(documents, settings.attrs))


def _all_days(source: Path, days: np.ndarray | None) -> np.ndarray | None:
    """Return the days of new satellite data and of those that stay."""
    with open_store(source, kind="cube", dask=False) as old:
        if "day_held" not in old.coords:
            return days
        present = old.day.values[old.day_held.values].astype("datetime64[D]")
    return present if days is None else np.union1d(present, days.astype("datetime64[D]"))
