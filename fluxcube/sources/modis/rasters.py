"""List and read MODIS rasters of every format: the rasters in a folder, their extents, and their physical values.

HDF4 tiles of LP DAAC (`fluxcube.sources.modis.hdf`), GeoTIFFs cut from them (`tiff`) and Earth Engine's
exports (`earthengine`) are found by name, placed on one sinusoidal grid (`grid`) and read in the same way.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from fluxcube.errors import ConfigError, SourceError
from fluxcube.sources.modis import earthengine, hdf, tiff
from fluxcube.sources.modis.grid import COLS, PIXEL, PRODUCTS, ROWS, SPHERE, Raster, Tile, sinusoidal_pixel

__all__ = [
    "COLS",
    "PIXEL",
    "ROWS",
    "SPHERE",
    "Listing",
    "Raster",
    "Tile",
    "check_raster",
    "class_mode",
    "find_tiles",
    "list_rasters",
    "read_land_cover",
    "read_pixels",
    "read_tile",
    "sinusoidal_pixel",
    "survey_rasters",
]

log = logging.getLogger(__name__)

_FILL_CLASS = 255
_ARCHIVE = re.compile(
    r"^(?P<product>M[A-Z]D\d\d[A-Z]\w*)\.A(?P<year>\d{4})(?P<day>\d{3})\.(?:h(?P<h>\d\d)v(?P<v>\d\d)\.)?"
    r"(?P<edition>.*)\.(?P<kind>tiff?|hdf)$",
    re.IGNORECASE,
)


class _Format(Protocol):
    """A module that reads one file format."""

    def check(self, raster: Raster) -> Tile:
        """Read the header."""

    def windows(self, tile: Tile, boxes: Iterable[tuple[int, int, int, int]]) -> Iterator[np.ndarray]:
        """Yield stored values (band, height, width) in boxes of the file's pixels."""


RasterSource = str | os.PathLike | Raster | Sequence[str | os.PathLike | Raster]

_FORMATS: dict[str, _Format] = {".tif": tiff, ".tiff": tiff, ".hdf": hdf, ".csv": earthengine}
# BRDF_Albedo_LandWaterType: 1 land, 2 shoreline; 0 and 3 to 7 are types of water (MCD43 User Guide V006).
_WATER_TYPES = (0, 3, 4, 5, 6, 7)
_LAND_TYPES = (1, 2)
# Maximum number of pixels in a window (seven bands of int16 are 14 MiB), and maximum number of unused rows in it.
_WINDOW, _GAP = 2**20, 64


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


def find_tiles(source: RasterSource, *, products: Iterable[str] = ()) -> list[Tile]:
    """List the rasters in a folder, as `list_rasters`, and read the header of each to check its grid.

    Parameters
    ----------
    source, products
        As of `survey_rasters`.

    Returns
    -------
    list of Tile
        Sorted by day, product and path.

    Raises
    ------
    SourceError
        If there is no such file; if a raster is not in the sphere's sinusoidal projection or not on its
        500 m grid; if its bands cannot be identified.
    """
    return [check_raster(raster) for raster in list_rasters(source, products=products)]


def check_raster(raster: Raster) -> Tile:
    """Read a raster's header and return it as a `Tile`; errors as of `find_tiles`."""
    return raster if isinstance(raster, Tile) else _format(raster).check(raster)


def read_tile(tile: Tile, rows: tuple[int, int] | None = None, cols: tuple[int, int] | None = None) -> np.ndarray:
    """Read a raster, or a window of it, in physical values.

    Parameters
    ----------
    tile : Tile
    rows, cols : (start, stop), optional
        Window in pixels of the *global* grid, within the tile; all of it by default.

    Returns
    -------
    (band, height, width) float32
        MCD43A4 and MOD09GA: reflectance of bands red, nir, blue, green, swir1, swir2, swir3. MCD43A2: snow and
        water, 0 or 1. MCD12Q1: the IGBP number, 1..17. MOD09GA_STATE: the bits, as a whole number. Fill and invalid
        values are NaN.

    Raises
    ------
    ConfigError
        If the window extends beyond the tile.
    SourceError
        If the file cannot be read.
    """
    r0, r1 = rows or (tile.row, tile.row + tile.height)
    c0, c1 = cols or (tile.col, tile.col + tile.width)
    _check_inside(tile, r0, r1, c0, c1)
    f, r0, r1, c0, c1 = tile.factor, r0 - tile.row, r1 - tile.row, c0 - tile.col, c1 - tile.col
    box = r0 // f, -(-r1 // f), c0 // f, -(-c1 // f)
    (raw,) = _format(tile).windows(tile, [box])
    values = _decode(tile, raw).repeat(f, axis=1).repeat(f, axis=2) if f > 1 else _decode(tile, raw)
    top, left = r0 - box[0] * f, c0 - box[2] * f
    return values[:, top : top + r1 - r0, left : left + c1 - c0]


def read_pixels(tile: Tile, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """Read single pixels in one pass over the file from north to south; values as of `read_tile`.

    Parameters
    ----------
    tile : Tile
    rows, cols : (pixel,) int
        Of the *global* grid, within the tile, in any order.

    Returns
    -------
    (band, pixel) float32
    """
    if not rows.size:
        return np.empty((len(PRODUCTS[tile.product].layers), 0), np.float32)
    _check_inside(tile, rows.min(), rows.max() + 1, cols.min(), cols.max() + 1)
    r, c = (rows - tile.row) // tile.factor, (cols - tile.col) // tile.factor
    strips = list(_strips(r, c))
    boxes = [(int(r[s].min()), int(r[s].max()) + 1, int(c[s].min()), int(c[s].max()) + 1) for s in strips]
    parts = [
        raw[:, r[strip] - box[0], c[strip] - box[2]]
        for strip, box, raw in zip(strips, boxes, _format(tile).windows(tile, boxes), strict=True)
    ]
    stored = np.empty((len(parts[0]), rows.size), parts[0].dtype)
    stored[:, np.concatenate(strips)] = np.concatenate(parts, axis=1)
    return _decode(tile, stored)


def _strips(r: np.ndarray, c: np.ndarray) -> Iterator[np.ndarray]:
    """Split pixels into strips of rows that are read together, from north to south: yield the pixels' indices."""
    order = np.argsort(r, kind="stable")
    used, at = np.unique(r[order], return_index=True)
    tallest = max(_WINDOW // (int(np.ptp(c)) + 1), 1)
    begin = 0
    for i in range(1, len(used) + 1):
        if i == len(used) or used[i] - used[i - 1] > _GAP or used[i] - used[begin] >= tallest:
            yield order[at[begin] : at[i] if i < len(used) else None]
            begin = i


def read_land_cover(tiles: Sequence[Tile], rows: tuple[int, int], cols: tuple[int, int]) -> np.ndarray:
    """Read the land cover of a window: the most frequent class of each pixel over the years of the tiles.

    A single year's map is noisy, and its producers advise against comparisons between years; the mode is stable.

    Parameters
    ----------
    tiles : sequence of Tile
        MCD12Q1; other products are ignored.
    rows, cols : (start, stop)
        Window of the global 500 m grid; it may extend beyond the tiles.

    Returns
    -------
    (rows, cols) uint8
        IGBP number 1..17; 255 where it is unknown. Of equally frequent classes the lower number is returned.
    """
    shape = rows[1] - rows[0], cols[1] - cols[0]
    days = sorted({t.day for t in tiles if t.product == "MCD12Q1"})
    maps = [_land_cover_year([t for t in tiles if t.day == day and t.product == "MCD12Q1"], rows, cols) for day in days]
    return class_mode(maps) if maps else np.full(shape, _FILL_CLASS, "uint8")


def class_mode(maps: Sequence[np.ndarray]) -> np.ndarray:
    """Return the most frequent class, 1..17, over maps of one shape (uint8; 255 unknown; the lower of equal ones)."""
    if len(maps) == 1:
        return maps[0]
    best, mode = np.zeros(maps[0].shape, "uint8"), np.full(maps[0].shape, _FILL_CLASS, "uint8")
    for number in range(1, 18):
        count = np.zeros(mode.shape, "uint8")
        for classes in maps:
            count += classes == number
        mode[count > best] = number
        best = np.maximum(best, count)
    return mode


def _land_cover_year(tiles: Sequence[Tile], rows: tuple[int, int], cols: tuple[int, int]) -> np.ndarray:
    out = np.full((rows[1] - rows[0], cols[1] - cols[0]), _FILL_CLASS, "uint8")
    for tile in tiles:
        r0, r1 = max(rows[0], tile.row), min(rows[1], tile.row + tile.height)
        c0, c1 = max(cols[0], tile.col), min(cols[1], tile.col + tile.width)
        if r0 >= r1 or c0 >= c1:
            continue
        values = read_tile(tile, (r0, r1), (c0, c1))[0]
        part = out[r0 - rows[0] : r1 - rows[0], c0 - cols[0] : c1 - cols[0]]
        known = (part == _FILL_CLASS) & np.isfinite(values)
        part[known] = values[known]
    return out


def _decode(tile: Tile, raw: np.ndarray) -> np.ndarray:
    """Convert stored values (band, ...) to physical ones, float32; bands of the mask may follow those of the layers."""
    bands = len(PRODUCTS[tile.product].layers)
    stored, missing = raw[:bands], np.zeros(raw[:bands].shape, bool)
    if tile.mask:
        missing |= (raw[bands if len(raw) > bands else 0 :] == 0).all(axis=0)
    if tile.fill is not None:
        missing |= stored == tile.fill
    if stored.dtype.kind == "f":
        missing |= ~np.isfinite(stored)
        _check_whole(tile, stored[~missing])
    low, high = PRODUCTS[tile.product].valid
    if tile.product == "MOD09GA_STATE":  # 16 bits, which some exports store as signed
        stored = np.where(missing, 0, stored).astype(np.int64) & 0xFFFF
    missing |= (stored < low) | (stored > high)
    return np.where(missing, np.float32(np.nan), _PHYSICAL.get(tile.product, _scaled)(tile, stored))


def _scaled(tile: Tile, stored: np.ndarray) -> np.ndarray:
    if tile.offset:
        stored = stored - np.float32(tile.offset)
    return (stored * np.float32(tile.scale)).astype(np.float32)


def _snow_and_water(tile: Tile, stored: np.ndarray) -> np.ndarray:
    out = np.full(stored.shape, np.nan, "float32")
    out[0][stored[0] == 0] = 0
    out[0][stored[0] == 1] = 1
    out[1][np.isin(stored[1], _LAND_TYPES)] = 0
    out[1][np.isin(stored[1], _WATER_TYPES)] = 1
    return out


_PHYSICAL: dict[str, Callable[[Tile, np.ndarray], np.ndarray]] = {"MCD43A2": _snow_and_water}


def _check_whole(tile: Tile, values: np.ndarray) -> None:
    """Check that floats are whole numbers: a fraction means scaled or resampled values."""
    if (part := values[values != np.rint(values)]).size:
        raise SourceError(
            f"{tile.path}: {tile.product} has integers, found {part[0]:g}: pass the unscaled values, not resampled."
        )


def _check_inside(tile: Tile, r0: int, r1: int, c0: int, c1: int) -> None:
    if r0 < tile.row or c0 < tile.col or r1 > tile.row + tile.height or c1 > tile.col + tile.width:
        raise ConfigError(
            f"{tile.path.name} covers rows {tile.row}..{tile.row + tile.height} and columns "
            f"{tile.col}..{tile.col + tile.width} of the global grid; rows {r0}..{r1}, columns {c0}..{c1} were "
            "requested: choose a window inside."
        )


def _format(raster: Raster) -> _Format:
    return _FORMATS[raster.path.suffix.lower()]


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
        files |= {p for p in item.rglob("*") if p.suffix.lower() in _FORMATS} if item.is_dir() else {item}
    if other := [path for path in files if path.suffix.lower() not in _FORMATS]:
        raise SourceError(f"{other[0]}: expected a MODIS raster: {', '.join(_FORMATS)}.")
    return sorted(files)


def _shown(source: RasterSource) -> str:
    """Return a source as text for messages, shortened to five items."""
    items = [source] if isinstance(source, (str, os.PathLike, Raster)) else list(source)[:5]
    return ", ".join(str(item.path if isinstance(item, Raster) else item) for item in items)
