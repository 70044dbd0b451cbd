"""List the MODIS rasters in a folder, from the names of files and bands."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fluxcube.errors import SourceError
from fluxcube.sources.modis import earthengine, tiff
from fluxcube.sources.modis.grid import PRODUCTS, Raster

log = logging.getLogger(__name__)

RasterSource = str | os.PathLike | Raster | Sequence[str | os.PathLike | Raster]

#: Suffixes of the formats that are read.
SUFFIXES = (".tif", ".tiff", ".hdf", ".csv")
_ARCHIVE = re.compile(
    r"^(?P<product>M[A-Z]D\d\d[A-Z]\w*)\.A(?P<year>\d{4})(?P<day>\d{3})\.(?:h(?P<h>\d\d)v(?P<v>\d\d)\.)?"
    r"(?P<edition>.*)\.(?P<kind>tiff?|hdf)$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Listing:
    """The contents of a folder: rasters sorted by day, product and path, and ignored files with the reason for each."""

    rasters: tuple[Raster, ...]
    ignored: tuple[tuple[Path, str], ...]


def survey_rasters(source: RasterSource, *, products: Iterable[str] = ()) -> Listing:
    """List the MODIS rasters in a folder, and the files that are ignored, with reasons.

    A file named as by LP DAAC (``MCD43A4.A2019185.h18v04.061.<anything>.hdf`` or ``.tif``) is not opened, since its
    name contains product and date. Of other GeoTIFFs and CSVs the headers are read, since product and date may be in
    the names of their bands only (`earthengine`). Of two editions of a tile and day the later one is used.

    Parameters
    ----------
    source : path, Raster, or list of these
        A folder (searched with its subfolders), a file, or a raster that was listed before.
    products : names, optional
        Products to list; by default all.

    Returns
    -------
    Listing

    Raises
    ------
    SourceError
        If a path does not exist, or the day in a name is impossible.
    """
    selected = set(products) or set(PRODUCTS)
    items = [source] if isinstance(source, (str, os.PathLike, Raster)) else list(source)
    rasters = [item for item in items if isinstance(item, Raster)]
    ignored: list[tuple[Path, str]] = []
    for path in _paths([item for item in items if not isinstance(item, Raster)]):
        in_file, reason = _rasters_in(path)
        rasters += in_file
        if reason:
            ignored.append((path, reason))
    latest, older = _latest([raster for raster in rasters if raster.product in selected])
    return Listing(tuple(sorted(latest, key=lambda r: (r.day, r.product, str(r.path)))), (*ignored, *older))


def list_rasters(source: RasterSource, *, products: Iterable[str] = ()) -> list[Raster]:
    """List the MODIS rasters in a folder, as `survey_rasters`; the number of ignored files is logged.

    Parameters
    ----------
    source, products
        As of `survey_rasters`.

    Returns
    -------
    list of Raster
        Sorted by day, product and path.

    Raises
    ------
    SourceError
        If there is no such file.
    """
    listing = survey_rasters(source, products=products)
    selected = sorted(set(products) or set(PRODUCTS))
    first = f"{listing.ignored[0][0].name}: {listing.ignored[0][1]}" if listing.ignored else ""
    if not listing.rasters:
        raise SourceError(
            f"no MODIS raster in {_shown(source)}: expected {', '.join(selected)} as HDF tiles or GeoTIFFs with names "
            "like MCD43A4.A2019185.h18v04.061.2019194040325.hdf, or Earth Engine exports like MCD43A4_2019_07_04.tif."
            + (f" {len(listing.ignored)} other files were ignored, the first {first}." if first else "")
        )
    if listing.ignored:
        log.warning("%d files in %s are ignored, the first %s", len(listing.ignored), _shown(source), first)
    return list(listing.rasters)


def _rasters_in(path: Path) -> tuple[list[Raster], str]:
    """Return the rasters in a file, and the reason if there is none."""
    suffix = path.suffix.lower()
    if suffix == ".csv":
        return earthengine.name_table(path) if earthengine.is_table(path) else ([], "no table of getRegion")
    if match := _ARCHIVE.match(path.name):
        return _archive_rasters(path, match)
    if suffix == ".hdf":
        return [], "its name is not that of a MODIS tile"
    try:
        return earthengine.name_bands(path, tiff.band_names(path))
    except SourceError as problem:
        if path.stem.upper().startswith(tuple(PRODUCTS)):
            raise  # by its name it should be readable
        return [], str(problem)


def _archive_rasters(path: Path, match: re.Match[str]) -> tuple[list[Raster], str]:
    """Return the rasters in a file named as by LP DAAC, and the reason if there is none."""
    product = match["product"].upper()
    if product not in PRODUCTS:
        return [], f"{product} is not used"
    if not 1 <= int(match["day"]) <= 366:
        raise SourceError(
            f"{path}: the day in the name must be 001 to 366, found day {match['day']} of {match['year']}: download "
            "the file again."
        )
    day = np.datetime64(f"{match['year']}-01-01", "D") + np.timedelta64(int(match["day"]) - 1, "D")
    is_hdf = match["kind"].lower() == "hdf"
    tile = (int(match["h"]), int(match["v"])) if is_hdf and match["h"] else None
    raster = Raster(path=path, product=product, day=day, tile=tile)
    if product != "MOD09GA":
        return [raster], ""
    if is_hdf:
        return [raster, Raster(path=path, product="MOD09GA_STATE", day=day, tile=tile)], ""
    return _daily_tiff(raster)


def _daily_tiff(raster: Raster) -> tuple[list[Raster], str]:
    """Return MOD09GA's reflectance, flags or both, by the bands' names, or by their number in the product's order."""
    names = tiff.band_names(raster.path)
    plain = [re.sub(r"_1$", "", name) for name in names]
    layers = (*PRODUCTS["MOD09GA"].layers, *PRODUCTS["MOD09GA_STATE"].layers)
    if not set(plain) & set(layers):
        plain = {7: list(layers[:7]), 8: list(layers), 1: list(layers[7:])}.get(len(names), plain)
    rasters = [
        Raster(
            path=raster.path,
            product=product,
            day=raster.day,
            bands=tuple(plain.index(layer) + 1 for layer in PRODUCTS[product].layers),
        )
        for product in ("MOD09GA", "MOD09GA_STATE")
        if set(PRODUCTS[product].layers) <= set(plain)
    ]
    reason = f"MOD09GA needs {', '.join(layers[:7])}, or {layers[7]}; found {list(names)[:8]}"
    return rasters, "" if rasters else reason


def _latest(rasters: Sequence[Raster]) -> tuple[list[Raster], list[tuple[Path, str]]]:
    """Select, of the files of one product, day and tile, the last collection and production; and list the others."""
    best: dict[tuple, Raster] = {}
    for raster in rasters:
        if raster.tile is not None:
            key = raster.product, raster.day, raster.tile
            best[key] = max(best.get(key, raster), raster, key=_edition)
    latest = [r for r in rasters if r.tile is None or best[r.product, r.day, r.tile] is r]
    winners = {r: best[r.product, r.day, r.tile] for r in rasters if r.tile is not None}
    older = {r.path: winner.path.name for r, winner in winners.items() if winner is not r}
    return latest, [(path, f"{name} is a later edition of the same tile and day") for path, name in older.items()]


def _edition(raster: Raster) -> str:
    """Return the collection and the time of production in a file's name."""
    match = _ARCHIVE.match(raster.path.name)
    return match["edition"] if match else ""


def _paths(items: Iterable[str | os.PathLike]) -> list[Path]:
    """Return the files of known formats in folders and lists, sorted."""
    files: set[Path] = set()
    for item in map(Path, items):
        if not item.exists():
            raise SourceError(f"{item} does not exist: pass a folder of MODIS HDF tiles or GeoTIFFs.")
        files |= {p for p in item.rglob("*") if p.suffix.lower() in SUFFIXES} if item.is_dir() else {item}
    if other := [path for path in files if path.suffix.lower() not in SUFFIXES]:
        raise SourceError(f"{other[0]}: expected a MODIS raster: {', '.join(SUFFIXES)}.")
    return sorted(files)


def _shown(source: RasterSource) -> str:
    """Return a source as text for messages, shortened to five items."""
    items = [source] if isinstance(source, (str, os.PathLike, Raster)) else list(source)[:5]
    return ", ".join(str(item.path if isinstance(item, Raster) else item) for item in items)
