"""Cubes that grow: a store is put together of the sites that stay, whose files are kept as they are, and of new ones.

The new store is made beside the old one and takes its place when it is whole, so a kill at any moment costs nothing.
What stays is linked, not copied: appending a site costs what the site costs.
"""

from __future__ import annotations

import functools
import hashlib
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from fluxcube.cubes.layout import (
    check_epoch,
    cube_arrays,
    cube_coords,
    put_aside,
    time_axis,
    write_chips,
    write_tower,
)
from fluxcube.cubes.report import build_document, cube_attrs, document, read_report, write_report
from fluxcube.cubes.tower import Tower, tower_of
from fluxcube.errors import ConfigError, SourceError, StoreError
from fluxcube.schema import STACKS, resolution_of
from fluxcube.sources.towers.badm import SiteInfo
from fluxcube.sources.towers.networks import Archive
from fluxcube.stores.arrays import create
from fluxcube.stores.building import staging
from fluxcube.stores.reading import is_url, open_store, store_attrs
from fluxcube.stores.shards import adopt
from fluxcube.stores.swap import build_lock

_BLOCK = 1 << 20
_SETTINGS = ("resolution", "clock", "order", "fusion_rule", "predictors", "packing")
_INFO = ("site", "latitude", "longitude", "elevation", "igbp", "koppen", "utc_offset")

Each = Callable[[Callable[[str], None], Sequence[str]], None]


def append_site(
    store: str | os.PathLike, ds: xr.Dataset | Tower, *, info: SiteInfo | None = None, overwrite: bool = False
) -> None:
    """Add one site to a cube.

    Every other site's files stay as they are, and the cube grows whole or not at all: nothing that happens on the way
    changes what was there.

    Parameters
    ----------
    store : path
        A cube that `build_carbonsense` made.
    ds : xarray.Dataset or Tower
        The site's record at its own step, as `fluxcube.sources.towers.table.read_table` or
        `fluxcube.sources.towers.readers.read_archive` returns it: dimension ``time`` (UTC start of each step),
        ``NAME`` and ``NAME_QC``. Its attributes have ``site``, ``network``, ``step_minutes``, ``source_file`` and,
        where `info` is not given, ``latitude`` and ``longitude`` (degrees) and, if known, ``elevation`` (m),
        ``igbp``, ``koppen`` and ``utc_offset`` (hours); perhaps ``citation``, ``doi`` and ``licence``. It becomes
        hours, is checked and completed as `build_carbonsense` does it.
    info : SiteInfo, optional
        What is known of the site, instead of the record's attributes.
    overwrite : bool
        Replace a site of that name.

    Raises
    ------
    StoreError
        If there is no such cube, or it has the site and `overwrite` is not set.
    SourceError
        If the record lacks its place or step, or has no value.

    Examples
    --------
    >>> ds = read_table("tower.csv", site="XX-New", utc_offset=1, ...)  # doctest: +SKIP
    >>> append_site("cube.zarr", ds)  # doctest: +SKIP
    """
    if is_url(store):
        raise StoreError(f"{store}: a store behind a URL is only read; append to a copy on disk.")
    with build_lock(store):
        _append(Path(store), ds, info, overwrite)


def _append(store: Path, ds: xr.Dataset | Tower, info: SiteInfo | None, overwrite: bool) -> None:
    with open_store(store, kind="cube", dask=False) as cube:
        labels = {stack: [str(name) for name in cube[dim].values] for stack, dim in STACKS.items()}
        resolution = resolution_of(cube)
    settings = settings_of(store)
    tower = ds if isinstance(ds, Tower) else _tower(ds, info, labels, settings)
    check_epoch(tower)
    documents, log = read_report(store)
    site = tower.info.site
    if site in documents and not overwrite:
        raise StoreError(f"{store} has {site}: give overwrite=True to replace it, or another name.")
    made = _document(tower, ds, resolution)
    kept = {name: doc for name, doc in documents.items() if name != site}
    left_out = {name: why for name, why in log.get("left_out", {}).items() if name.partition(":")[0] != site}
    with staging(store, overwrite=True) as building:
        put_aside(building, tower, compact=settings["packing"] == "decimals")
        compose(
            building,
            kept,
            {site: made},
            labels,
            settings,
            source=store,
            log=build_document(left_out, None, (), log),
        )


def _document(tower: Tower, ds: xr.Dataset | Tower, resolution: str) -> dict[str, object]:
    """Return a site's document; citation and licence are those that its record brings."""
    if not isinstance(ds, xr.Dataset):
        return document(tower, [], digest_info(tower.info), {}, resolution)
    attrs, cited = ds.attrs, {}
    if attrs.get("citation"):
        cited[tower.info.site, str(attrs["network"])] = str(attrs["citation"]), str(attrs.get("doi", ""))
    licence = str(attrs.get("licence", ""))
    return document(tower, [_described(ds)], digest_info(tower.info), cited, resolution, licence=licence)


def _tower(ds: xr.Dataset, info: SiteInfo | None, labels: Mapping, settings: Mapping[str, str]) -> Tower:
    if settings["resolution"] != "hourly":
        raise ConfigError("a daily cube takes a Tower of days; make one with fluxcube.cubes.daily.")
    missing = [key for key in ("site", "network", "step_minutes", "source_file") if key not in ds.attrs]
    if missing:
        raise SourceError(f"the record lacks the attributes {', '.join(missing)}: read it with read_table.")
    info = info or _info(ds)
    return tower_of(
        [(0, str(ds.attrs["network"]), ds)],
        info,
        predictors=labels["predictors"],
        targets=labels["fluxes"],
        rule=settings["fusion_rule"],
        clock=settings["clock"],
    )


def _info(ds: xr.Dataset) -> SiteInfo:
    known = {key: ds.attrs[key] for key in _INFO if ds.attrs.get(key) is not None}
    if not {"latitude", "longitude"} <= set(known):
        raise SourceError(
            f"{ds.attrs['site']}: the record does not tell its latitude and longitude; give them to read_table."
        )
    numbers = {key: float(known[key]) for key in ("latitude", "longitude", "elevation", "utc_offset") if key in known}
    offsets = ((None, numbers["utc_offset"]),) if "utc_offset" in numbers else ()
    return SiteInfo(**{**known, **numbers}, utc_offsets=offsets)


def _cited(ds: xr.Dataset | Tower) -> dict[tuple[str, str], tuple[str, str]]:
    """Return how a record says that it is to be cited, as `document` takes it."""
    said = ds.attrs.get("citation") if isinstance(ds, xr.Dataset) else None
    return {(str(ds.attrs["site"]), str(ds.attrs["network"])): (str(said), "")} if said else {}


def _described(ds: xr.Dataset) -> dict[str, str]:
    """Return where a record comes from, with a digest of its values."""
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
    """Return how a cube was made: what appending must not change."""
    attrs = store_attrs(store)
    if attrs.get("kind") != "cube":
        raise StoreError(f"{store}: expected a cube, found a store of kind {attrs.get('kind')!r}.")
    if "packing" not in attrs:
        raise StoreError(f"{store}: an older version of fluxcube made it; build it anew with overwrite (--overwrite).")
    named = _SETTINGS
    return {key: str(attrs[key]) for key in named if key in attrs}


def documents_to_keep(
    store: str | os.PathLike, settings: Mapping[str, str], stamps: Mapping[str, Mapping], left_out: dict[str, str]
) -> tuple[dict[str, Mapping], Mapping]:
    """Return the documents of the sites that an append leaves as they are, and the one of the store's making.

    Parameters
    ----------
    store : path
        The cube.
    settings : mapping of str to str
        As `settings_of` gives them, of the build that appends.
    stamps : mapping of str to mapping
        `stamp` of each site found.
    left_out : dict of str to str
        Is told which sites cannot be read anew, because files that they were made from are not there.

    Raises
    ------
    ConfigError
        If the cube was made otherwise.
    """
    there = settings_of(store)
    if other := [key for key in there if there[key] != settings.get(key)]:
        told = "; ".join(f"{key} is {there[key]!r}, asked for {settings.get(key)!r}" for key in other)
        raise ConfigError(f"{store}: its {told}. Append with the same options, or build anew with overwrite.")
    documents, log = read_report(store)
    kept = {}
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
    return kept, log


def _lost(before: Sequence[Mapping], now: Sequence[Mapping]) -> list[str]:
    """Return the files that a site was made from, and that no file given now is or covers."""
    return [old["file"] for old in before if not any(new["file"] == old["file"] or _covers(new, old) for new in now)]


def _covers(new: Mapping, old: Mapping) -> bool:
    if new.get("network") != old.get("network"):
        return False
    years = new.get("first_year"), new.get("last_year"), old.get("first_year"), old.get("last_year")
    return None in years or (years[0] <= years[2] and years[3] <= years[1])


def stamp(archives: Sequence[Archive], info: SiteInfo | None) -> dict[str, object]:
    """Return what a site would be read from, so that a change is seen: no times of files, which copying alters."""
    return {"archives": [_stamp(archive) for archive in archives], "info": digest_info(info)}


def digest_info(info: SiteInfo | None) -> str:
    """Return a digest of what is known of a site."""
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
    """Return a digest of a file's or folder's content; of a zip, of the checksums that it holds itself."""
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
    """Digest a file once a process, though it may hold many sites."""
    digest = hashlib.sha256()
    if path.suffix.lower() == ".zip":
        try:
            with zipfile.ZipFile(path) as archive:
                for entry in archive.infolist():
                    digest.update(f"{entry.filename} {entry.file_size} {entry.CRC}\n".encode())
            return digest.hexdigest()
        except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError):
            pass  # its reader will say what is wrong
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def compose(
    building: Path,
    kept: Mapping[str, Mapping],
    fresh: Mapping[str, Mapping],
    labels: Mapping[str, Sequence[str]],
    settings: Mapping[str, str],
    *,
    source: Path | None,
    log: Mapping,
    cut: Sequence[str] = (),
    days: np.ndarray | None = None,
    each: Each | None = None,
) -> None:
    """Put a cube together of the sites of another one, which stay as they are, and of sites that were put aside.

    Parameters
    ----------
    building : path
        As `fluxcube.stores.building.staging` gives it.
    kept, fresh : mapping of str to mapping
        Documents by site; values of the fresh ones were put aside in `building`.
    labels : mapping of str to sequence of str
        Labels of each stack.
    settings : mapping of str to str
        For the attributes, as `settings_of` gives them.
    source : path or None
        The store that has the kept sites.
    log : mapping
        As `build_document` gives it.
    cut : sequence of str
        Sites whose chips were put aside, too.
    days : (day,) datetime64 or None
        Days of those chips.
    each : callable, optional
        ``each(function, sites)`` calls a function for each site, perhaps on several threads.
    """
    documents = dict(sorted({**kept, **fresh}.items()))
    places = [doc["place"] for doc in documents.values()]
    resolution = settings["resolution"]
    if kept and source is not None:
        days = _all_days(source, days)
    time = time_axis(places, resolution)
    coords = cube_coords(places, time, labels, days, resolution)
    days_of = coords.sizes.get("day")
    arrays = cube_arrays(places, len(time), labels, days_of, resolution, compact=settings["packing"] == "decimals")
    create(building, coords, arrays, cube_attrs(documents, settings))
    order = {site: at for at, site in enumerate(documents)}
    if kept and source is not None:
        with open_store(source, kind="cube", dask=False) as old:
            before = {str(site): at for at, site in enumerate(old.site.values)}
        adopt(building, source, {before[site]: order[site] for site in kept})

    def one(site: str) -> None:
        if site in fresh:
            write_tower(building, order[site], documents[site]["place"], labels, resolution)
        if site in cut:
            write_chips(building, order[site], site, resolution)

    sites = sorted({*fresh, *cut})
    if each is None:
        for site in sites:
            one(site)
    else:
        each(one, sites)
    write_report(building, documents, log)


def _all_days(source: Path, days: np.ndarray | None) -> np.ndarray | None:
    """Return the days of new chips and of those that stay."""
    with open_store(source, kind="cube", dask=False) as old:
        if "day_held" not in old.coords:
            return days
        held = old.day.values[old.day_held.values].astype("datetime64[D]")
    return held if days is None else np.union1d(held, days.astype("datetime64[D]"))
