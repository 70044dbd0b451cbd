"""MODIS GeoTIFFs on the sinusoidal grid: what a raster covers, and its pixels in physical values.

The 500 m grid is 43200 rows (row 0 touches 90 N) by 86400 columns (column 0 touches x = -pi R) on a
*sphere*. Rasters are placed on that one grid, so a chip that crosses a tile's edge needs no special case.
"""

from __future__ import annotations

import functools
import os
import re
import struct
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fluxcube.errors import ConfigError, SourceError, missing_package

#: Radius (m) of the sphere of the MODIS sinusoidal grid.
SPHERE = 6371007.181
#: Rows and columns of the global 500 m grid: 240 pixels to a degree of latitude.
ROWS, COLS = 43200, 86400
#: Side of a pixel, m.
PIXEL = np.pi * SPHERE / ROWS

_FILL_CLASS = 255
_NAME = re.compile(r"^(MCD43A4|MCD43A2|MCD12Q1)\.A(\d{4})(\d{3})\..*\.tiff?$", re.IGNORECASE)
_LAYERS = {
    "MCD43A4": tuple(f"Nadir_Reflectance_Band{i}" for i in range(1, 8)),
    "MCD43A2": ("Snow_BRDF_Albedo", "BRDF_Albedo_LandWaterType"),
    "MCD12Q1": ("LC_Type1",),
}
# BRDF_Albedo_LandWaterType: 1 land, 2 shoreline; 0 and 3 to 7 are kinds of water (MCD43 User Guide V006).
_WATER_TYPES = (0, 3, 4, 5, 6, 7)
_LAND_TYPES = (1, 2)


@dataclass(frozen=True)
class Raster:
    """A MODIS GeoTIFF, as its name describes it; nothing has been opened.

    Attributes
    ----------
    path : Path
    product : {"MCD43A4", "MCD43A2", "MCD12Q1"}
    day : np.datetime64[D]
        Date in the file's name.
    """

    path: Path
    product: str
    day: np.datetime64


@dataclass(frozen=True)
class Tile(Raster):
    """A raster that has been opened and found right, and the window of the global pixel grid that it covers.

    Attributes
    ----------
    row, col : int
        Global pixel of the upper left corner.
    height, width : int
        Pixels.
    bands : tuple of int
        The raster's bands (counted from 1) in the order that `read_tile` returns.
    """

    row: int
    col: int
    height: int
    width: int
    bands: tuple[int, ...]


def list_rasters(
    source: str | os.PathLike | Sequence[str | os.PathLike], *, products: Iterable[str] = ()
) -> list[Raster]:
    """List the MCD43A4, MCD43A2 and MCD12Q1 GeoTIFFs in a folder by their names, without opening them.

    Parameters
    ----------
    source : path or list of paths
        A folder (searched through), a GeoTIFF, or a list of either. Product and date are read from names like
        ``MCD43A4.A2019185.h18v04.061.<anything>.tif``; other files are left alone.
    products : names, optional
        Keep only these.

    Returns
    -------
    list of Raster
        Sorted by day, product and path.

    Raises
    ------
    SourceError
        If there is no such file.
    """
    wanted = set(products) or set(_LAYERS)
    rasters = [raster for path in _paths(source) if (raster := _named(path)) and raster.product in wanted]
    if not rasters:
        raise SourceError(
            f"no MODIS raster in {_shown(source)}: expected GeoTIFFs of {', '.join(sorted(wanted))} with names like "
            "MCD43A4.A2019185.h18v04.061.site.tif (HDF tiles: turn them into GeoTIFFs with gdal_translate first)."
        )
    return sorted(rasters, key=lambda r: (r.day, r.product, str(r.path)))


def find_tiles(source: str | os.PathLike | Sequence[str | os.PathLike], *, products: Iterable[str] = ()) -> list[Tile]:
    """List the rasters in a folder, like `list_rasters`, and read each one's header to check its grid.

    Returns
    -------
    list of Tile
        Sorted by day, product and path.

    Raises
    ------
    SourceError
        If there is no such file; if a raster is not on the sphere's sinusoidal projection or not on its
        500 m grid; if its bands cannot be told.
    """
    return [check_raster(raster) for raster in list_rasters(source, products=products)]


def check_raster(raster: Raster) -> Tile:
    """Read a raster's header and return it as a `Tile`; errors are those of `find_tiles`."""
    if isinstance(raster, Tile):
        return raster
    return Tile(raster.path, raster.product, raster.day, *_layout(_Header.read(raster)))


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
        MCD43A4: reflectance 0..1 of bands red, nir, blue, green, swir1, swir2, swir3. MCD43A2: snow and water,
        0 or 1. MCD12Q1: the IGBP number, 1..17. Fill and invalid values are NaN.

    Raises
    ------
    ConfigError
        If the window leaves the tile.
    SourceError
        If the file cannot be read.
    """
    window = _window(tile, rows, cols)
    with _open(tile.path, georeferenced=False) as file:
        return _DECODE[tile.product](file.read(list(tile.bands), window=window))


def read_land_cover(tiles: Sequence[Tile], rows: tuple[int, int], cols: tuple[int, int]) -> np.ndarray:
    """Read the land cover of a window: the most frequent class of each pixel over the years given.

    A single year's map is noisy, and its producers advise against comparing years; the mode is stable.

    Parameters
    ----------
    tiles : sequence of Tile
        MCD12Q1; other products are ignored.
    rows, cols : (start, stop)
        Window of the global 500 m grid; it may reach beyond the tiles.

    Returns
    -------
    (rows, cols) uint8
        IGBP number 1..17; 255 where nothing is known. Ties go to the lower number.
    """
    shape = rows[1] - rows[0], cols[1] - cols[0]
    days = sorted({t.day for t in tiles if t.product == "MCD12Q1"})
    maps = [_land_cover_year([t for t in tiles if t.day == day and t.product == "MCD12Q1"], rows, cols) for day in days]
    if len(maps) <= 1:
        return maps[0] if maps else np.full(shape, _FILL_CLASS, "uint8")
    best, mode = np.zeros(shape, "uint8"), np.full(shape, _FILL_CLASS, "uint8")
    for number in range(1, 18):
        count = sum((m == number).astype("uint8") for m in maps)
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


def _reflectance(raw: np.ndarray) -> np.ndarray:
    # Fill is 32767, which the upper limit removes with the rest of what is no reflectance.
    return np.where((raw >= 0) & (raw <= 10000), raw * np.float32(1e-4), np.float32(np.nan))


def _snow_and_water(raw: np.ndarray) -> np.ndarray:
    out = np.full(raw.shape, np.nan, "float32")
    out[0][raw[0] == 0] = 0
    out[0][raw[0] == 1] = 1
    out[1][np.isin(raw[1], _LAND_TYPES)] = 0
    out[1][np.isin(raw[1], _WATER_TYPES)] = 1
    return out


def _classes(raw: np.ndarray) -> np.ndarray:
    return np.where((raw >= 1) & (raw <= 17), raw, np.nan).astype("float32")


_DECODE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "MCD43A4": _reflectance,
    "MCD43A2": _snow_and_water,
    "MCD12Q1": _classes,
}


def _window(tile: Tile, rows: tuple[int, int] | None, cols: tuple[int, int] | None) -> tuple:
    r0, r1 = rows or (tile.row, tile.row + tile.height)
    c0, c1 = cols or (tile.col, tile.col + tile.width)
    if r0 < tile.row or c0 < tile.col or r1 > tile.row + tile.height or c1 > tile.col + tile.width:
        raise ConfigError(
            f"{tile.path.name} covers rows {tile.row}..{tile.row + tile.height} and columns "
            f"{tile.col}..{tile.col + tile.width} of the global grid; rows {r0}..{r1}, columns {c0}..{c1} were asked."
        )
    return (r0 - tile.row, r1 - tile.row), (c0 - tile.col, c1 - tile.col)


def _named(path: Path) -> Raster | None:
    if (match := _NAME.match(path.name)) is None:
        return None
    if not 1 <= int(match[3]) <= 366:
        raise SourceError(f"{path}: the name gives day {match[3]} of {match[2]}; it must lie in 001..366.")
    day = np.datetime64(f"{match[2]}-01-01", "D") + np.timedelta64(int(match[3]) - 1, "D")
    return Raster(path, match[1].upper(), day)


# What decides a raster's place and bands: size, sample format, the tags of GeoTIFF, and GDAL's names and scales.
_TAGS = {256, 257, 258, 277, 339, 33550, 33922, 34264, 34735, 34736, 34737, 42112}
_TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}


@dataclass(frozen=True)
class _Header:
    """The tags of a TIFF that decide where its pixels lie; two rasters with the same tags have the same layout.

    PROJ takes over a millisecond to understand the projection of each file, and a folder holds thousands that
    differ in their date alone.
    """

    product: str
    tags: tuple[tuple[int, bytes], ...] | Path  # the path where the file is no plain TIFF: shared with no other
    path: Path = field(compare=False)

    @classmethod
    def read(cls, raster: Raster) -> _Header:
        with open(raster.path, "rb") as file:
            return cls(raster.product, _read_tags(file) or raster.path, raster.path)


def _read_tags(file: BinaryIO) -> tuple[tuple[int, bytes], ...]:
    """Tags of the first image of a classic TIFF; none where it is something else, which GDAL shall judge."""
    start = file.read(8)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(start[:4])
    if order is None or len(start) < 8:
        return ()
    file.seek(struct.unpack(f"{order}I", start[4:])[0])
    count = int.from_bytes(file.read(2), "little" if order == "<" else "big")
    entries = file.read(12 * count)
    found = []
    for tag, kind, number, value in struct.iter_unpack(f"{order}HHI4s", entries[: len(entries) // 12 * 12]):
        if tag in _TAGS:
            size = number * _TYPE_SIZES.get(kind, 1)
            if size > 4:
                file.seek(struct.unpack(f"{order}I", value)[0])
                value = file.read(size)
            found.append((tag, value))
    return tuple(found)


@functools.lru_cache(maxsize=4096)
def _layout(header: _Header) -> tuple[int, int, int, int, tuple[int, ...]]:
    """Global row and column, height, width and bands of a raster, once they are known to be right."""
    path = header.path
    with _open(path, georeferenced=True) as file:
        row, col = _corner(path, file.crs, file.transform)
        bands = _bands(path, header.product, file.descriptions, file.dtypes, file.scales)
        return row, col, file.height, file.width, bands


_OPENING = threading.Lock()


@contextmanager
def _open(path: Path, *, georeferenced: bool) -> Iterator:
    """Open a GeoTIFF; without its projection where that is known, which takes an eighth of the time."""
    rasterio = _rasterio()
    options = {} if georeferenced else {"GEOREF_SOURCES": "NONE"}
    try:
        # No listing of the folder at every open, which is slow among thousands of small rasters.
        with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"):
            with _OPENING, warnings.catch_warnings():  # filters are the process's, so one thread at a time
                warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
                file = rasterio.open(path, **options)
            with file:
                yield file
    except rasterio.errors.RasterioError as problem:
        raise SourceError(f"{path}: cannot be read as a GeoTIFF ({problem}): fetch it again.") from problem


def _corner(path: Path, crs: object, transform: Sequence[float]) -> tuple[int, int]:
    """Global row and column of the upper left pixel, once projection and grid are known to be right."""
    if (why := _projection_problem(crs)) is not None:
        raise SourceError(
            f"{path}: {why}. MODIS chips need the sinusoidal projection on the sphere, "
            f"+proj=sinu +lon_0=0 +x_0=0 +y_0=0 +R={SPHERE} +units=m (on an ellipsoid, pixels lie 18 km off): "
            "convert the raster from the original HDF tile with that projection."
        )
    dx, shear_x, x, shear_y, dy, y = tuple(transform)[:6]
    col, row = (x + ROWS * PIXEL) / PIXEL, (ROWS / 2 * PIXEL - y) / PIXEL
    off = max(abs(col - round(col)), abs(row - round(row))) * PIXEL
    # A wrong pixel size of 0.02 m moves the far edge of a 2400-pixel tile by 50 m: a tenth of a pixel.
    if shear_x or shear_y or abs(dx - PIXEL) > 1e-3 or abs(dy + PIXEL) > 1e-3 or off > 1.0:
        raise SourceError(
            f"{path}: not on the 500 m sinusoidal grid: pixels must be {PIXEL:.4f} m and start on a multiple of it "
            f"from ({-ROWS * PIXEL:.3f}, {ROWS / 2 * PIXEL:.3f}); found {dx:.4f} x {dy:.4f} m at ({x:.3f}, {y:.3f}), "
            f"{off:.1f} m off. Cut rasters from the original tiles, without resampling."
        )
    return round(row), round(col)


def _projection_problem(crs: object) -> str | None:
    if not crs:
        return "the raster has no coordinate system"
    found = crs.to_dict()
    radius = float(found.get("R", found.get("a", 0.0)))
    sphere = "R" in found or ("b" in found and float(found["b"]) == radius)
    offsets = [float(found.get(key, 0.0)) for key in ("lon_0", "x_0", "y_0")]
    if found.get("proj") == "sinu" and sphere and abs(radius - SPHERE) < 1.0 and not any(offsets):
        return None
    return f"its coordinate system is {found or crs}"


def _bands(path: Path, product: str, names: Sequence, dtypes: Sequence[str], scales: Sequence[float]) -> tuple:
    layers = _LAYERS[product]
    given = {str(name).strip().removeprefix("MOD_Grid_BRDF:"): i for i, name in enumerate(names, 1) if name}
    if all(layer in given for layer in layers):
        bands = tuple(given[layer] for layer in layers)
    elif len(names) == len(layers):  # unnamed, or named by a converter: the product's own order
        bands = tuple(range(1, len(layers) + 1))
    else:
        raise SourceError(
            f"{path}: a raster of {product} must hold {', '.join(layers)}, named in the bands' descriptions or as its "
            f"only bands in this order; found {len(names)} bands {[n for n in names if n]}."
        )
    if any(not np.issubdtype(dtypes[b - 1], np.integer) for b in bands):
        raise SourceError(f"{path}: {product} holds integers; found {sorted(set(dtypes))}: give the unscaled values.")
    if product == "MCD43A4" and any(abs(scales[b - 1] - 1e-4) > 1e-9 and scales[b - 1] != 1.0 for b in bands):
        raise SourceError(f"{path}: MCD43A4 is scaled by 0.0001; the raster says {sorted(set(scales))}.")
    return bands


def _paths(source: object) -> list[Path]:
    items = [source] if isinstance(source, (str, os.PathLike)) else list(source)
    found: list[Path] = []
    for item in map(Path, items):
        if not item.exists():
            raise SourceError(f"{item} does not exist: give a folder of MODIS GeoTIFFs.")
        found += [p for p in item.rglob("*") if p.suffix.lower() in (".tif", ".tiff")] if item.is_dir() else [item]
    return sorted(found)


def _shown(source: object) -> str:
    return str(source) if isinstance(source, (str, os.PathLike)) else ", ".join(map(str, list(source)[:5]))


def _rasterio():
    try:
        import rasterio
        import rasterio.errors
    except ImportError:
        raise missing_package("rasterio", "grid", "reading MODIS GeoTIFFs") from None
    return rasterio
