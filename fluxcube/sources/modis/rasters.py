"""Read MODIS rasters of every format: their extents, and their pixels in physical values.

HDF4 tiles of LP DAAC (`fluxcube.sources.modis.hdf`), GeoTIFFs cut from them (`tiff`) and Earth Engine's
exports (`earthengine`) are found by name (`listing`), placed on one sinusoidal grid (`grid`) and read in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np

from fluxcube.errors import ConfigError, SourceError
from fluxcube.sources.modis import earthengine, hdf, tiff
from fluxcube.sources.modis.grid import COLS, PIXEL, PRODUCTS, ROWS, SPHERE, Raster, Tile, sinusoidal_pixel
from fluxcube.sources.modis.listing import Listing, RasterSource, list_rasters, survey_rasters

__all__ = [
    "COLS",
    "PIXEL",
    "ROWS",
    "SPHERE",
    "Listing",
    "Raster",
    "RasterSource",
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

_FILL_CLASS = 255
#: Lowest value for pixels without a class.
_UNCLASSIFIED = 254


class _Format(Protocol):
    """A module that reads one file format."""

    def check(self, raster: Raster) -> Tile:
        """Read the header."""

    def windows(self, tile: Tile, boxes: Iterable[tuple[int, int, int, int]]) -> Iterator[np.ndarray]:
        """Yield stored values (band, height, width) in boxes of the file's pixels."""


_FORMATS: dict[str, _Format] = {".tif": tiff, ".tiff": tiff, ".hdf": hdf, ".csv": earthengine}
# BRDF_Albedo_LandWaterType: 1 land, 2 shoreline; 0 and 3 to 7 are types of water (MCD43 User Guide V006).
_WATER_TYPES = (0, 3, 4, 5, 6, 7)
_LAND_TYPES = (1, 2)
# Maximum number of pixels in a window (seven bands of int16 are 14 MiB), and maximum number of unused rows in it.
_WINDOW, _GAP = 2**20, 64


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
        MCD43A4 and MOD09GA: reflectance of bands red, nir, blue, green, swir1, swir2, swir3. MODOCGA: of 531 and
        551 nm. MCD43A2: snow and water, 0 or 1. MCD12Q1: the IGBP number, 1..17. MOD09GA_STATE: the bits, as a whole
        number. Fill and invalid values are NaN.

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
    if tile.product == "MCD12Q1":
        _check_legend(tile, stored[~missing])
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


def _check_legend(tile: Tile, values: np.ndarray) -> None:
    """Check for classes that IGBP lacks, as the legends of other layers have; 254 and 255 are unclassified."""
    if (other := values[(values > PRODUCTS[tile.product].valid[1]) & (values < _UNCLASSIFIED)]).size:
        raise SourceError(
            f"{tile.path}: LC_Type1 of {tile.product} has the IGBP classes 1 to 17, found {other[0]:g}: the file "
            "contains another layer; convert LC_Type1 from the original tile."
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
