"""Chips: 8 x 8 pixels of 500 m around a place, cut from MODIS rasters on the sinusoidal grid.

Where a chip's pixels lie on that grid depends on the place alone, so it is worked out once; after that a chip
is a gather from a raster, and every place that a raster covers is served in one pass over it. A chip near a tile's
edge takes its pixels from up to four tiles.
"""

from __future__ import annotations

import functools
import logging
import os
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import xarray as xr

from fluxcube.errors import ConfigError, SourceError
from fluxcube.schema import CHIP_X, CHIP_Y
from fluxcube.sources.modis.grid import TILE
from fluxcube.sources.modis.rasters import Raster, check_raster, list_rasters, read_pixels, sinusoidal_pixel
from fluxcube.variables import BANDS

log = logging.getLogger(__name__)

Progress = Callable[[int, int, str], None]

_REFLECTANCES = 7
# Where each product's bands stand among the nine of a chip.
_SLOTS = {"MCD43A4": slice(0, _REFLECTANCES), "MCD43A2": slice(_REFLECTANCES, len(BANDS))}


def chip_index(latitude: float | np.ndarray, longitude: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the pixels of the global 500 m sinusoidal grid that make each place's chip.

    The chip's 8 x 8 centres stand 500 m apart in the place's UTM zone (WGS84), centred on the place; each takes the
    sinusoidal pixel that it falls into (nearest neighbour). See `block_index`.

    Parameters
    ----------
    latitude, longitude : float or (place,)
        Degrees north and east.

    Returns
    -------
    rows, cols : (place, 8, 8) int64
        Row 0 touches 90 N and column 0 the western edge (43200 rows x 86400 columns), y from north to south,
        x from west to east.

    Raises
    ------
    ConfigError
        If a place has no latitude or longitude.

    Examples
    --------
    >>> rows, cols = chip_index(0.001, 0.001)
    >>> rows[0, :, 0]
    array([21595, 21597, 21598, 21599, 21600, 21601, 21602, 21603])
    """
    return block_index(latitude, longitude, CHIP_Y, CHIP_X)


def block_index(
    latitude: float | np.ndarray, longitude: float | np.ndarray, y: np.ndarray, x: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Find the pixels of the global 500 m sinusoidal grid at given distances north and east of each place.

    Distances are those of the place's UTM zone: the one of six degrees that holds its longitude (180 E counts as
    180 W, zone 1), north or south by the sign of its latitude. The wider zones of Norway and Svalbard are not used,
    so that a zone depends on longitude alone. As in MODIS's own products, geographic latitude and longitude are
    used on the sphere as they are: no change of datum.

    Parameters
    ----------
    latitude, longitude : float or (place,)
        Degrees north and east.
    y, x : (row,), (column,)
        Metres north and east of the place.

    Returns
    -------
    rows, cols : (place, row, column) int64

    Raises
    ------
    ConfigError
        If a place has no latitude or longitude.
    """
    latitude, longitude = (np.atleast_1d(np.asarray(a, float)) for a in (latitude, longitude))
    if not (np.isfinite(latitude) & np.isfinite(longitude) & (np.abs(latitude) <= 90)).all():
        raise ConfigError("a chip needs a latitude within -90..90 and a longitude; some place has none.")
    longitude = (longitude + 180.0) % 360.0 - 180.0
    lat, lon = (np.empty((latitude.size, len(y), len(x))) for _ in range(2))
    zone = ((longitude + 180.0) // 6.0).astype(int) + 1
    south = latitude < 0
    for key in np.unique(np.stack([zone, south], 1), axis=0):
        here = (zone == key[0]) & (south == key[1])
        lat[here], lon[here] = _utm_block(latitude[here], longitude[here], y, x, _utm(int(key[0]), bool(key[1])))
    return sinusoidal_pixel(lat, lon)


@functools.cache
def _utm(zone: int, south: bool):
    import pyproj

    return pyproj.Proj(proj="utm", zone=zone, south=south, ellps="WGS84")


def _utm_block(
    latitude: np.ndarray, longitude: np.ndarray, y: np.ndarray, x: np.ndarray, utm
) -> tuple[np.ndarray, np.ndarray]:
    """Latitude and longitude (place, y, x) of the pixels' centres."""
    east, north = utm(longitude, latitude)
    shape = (len(east), len(y), len(x))
    at_x = np.broadcast_to(east[:, None, None] + np.asarray(x, float)[None, None, :], shape)
    at_y = np.broadcast_to(north[:, None, None] + np.asarray(y, float)[None, :, None], shape)
    lon, lat = utm(at_x, at_y, inverse=True)
    return lat, lon


def build_chips(
    source: str | os.PathLike | Sequence,
    latitude: np.ndarray,
    longitude: np.ndarray,
    *,
    progress: Progress | None = None,
) -> xr.DataArray:
    """Cut the chips of many places from MCD43A4 and MCD43A2 rasters.

    HDF4 tiles, GeoTIFFs and Earth Engine exports serve alike (`fluxcube.sources.modis.rasters`). Each raster is opened
    once and serves every place it covers. Where rasters overlap, the first by name that has
    a value gives it. Bands of a day that has no MCD43A2 raster are NaN (snow and water); a chip with more than
    half of its reflectance missing is NaN as a whole.

    Parameters
    ----------
    source : path, list of paths, or list of Raster
        Folder of rasters, or what `list_rasters` or `find_tiles` found in it.
    latitude, longitude : (place,)
        Degrees.
    progress : callable, optional
        Called with (days done, days, text).

    Returns
    -------
    xr.DataArray
        (place, day, band, y, x) float32: reflectance 0..1, snow and water 0..1. `day` holds the dates on which any
        place has a chip, ascending.

    Raises
    ------
    SourceError
        If there is no MCD43A4 raster, or one is not on the grid.
    """
    rasters = source_rasters(source)
    rows, cols = chip_index(latitude, longitude)
    days = chip_days(rasters)
    if not len(days):
        raise SourceError(
            f"no MCD43A4 raster among {len(rasters)} MODIS files: chips need reflectance, not only MCD43A2."
        )
    values, covered = read_chips(rasters, rows, cols, days, progress=progress)
    warn_uncovered(covered, latitude, longitude, "chips")
    kept = np.isfinite(values).any(axis=(0, 2, 3, 4))
    coords = {**chip_coords(days[kept]), "latitude": ("place", latitude), "longitude": ("place", longitude)}
    dims = ("place", "day", "band", "y", "x")
    return xr.DataArray(values[:, kept], dims=dims, coords=coords, name="modis", attrs=CHIP_ATTRS)


#: Attributes of an array of chips.
CHIP_ATTRS = {
    "long_name": "MODIS nadir reflectance (MCD43A4 bands 1-7), snow and water (MCD43A2)",
    "units": "1",
    "comment": "8 x 8 pixels of 500 m in the place's UTM zone, nearest neighbour; day is the product's date.",
}


def chip_coords(days: np.ndarray) -> dict:
    """Coordinates of the dimensions (day, band, y, x)."""
    return {
        "day": ("day", days.astype("datetime64[ns]")),
        "band": ("band", np.array(BANDS, object)),
        "y": ("y", CHIP_Y, {"units": "m", "long_name": "distance north of the chip's centre"}),
        "x": ("x", CHIP_X, {"units": "m", "long_name": "distance east of the chip's centre"}),
    }


def source_rasters(source: object) -> list[Raster]:
    """Return the chip rasters of a folder, or of a list that already holds rasters."""
    products = tuple(_SLOTS)
    if isinstance(source, (list, tuple)) and source and all(isinstance(item, Raster) for item in source):
        return [item for item in source if item.product in products]
    return list_rasters(source, products=products)


def chip_days(rasters: Sequence[Raster]) -> np.ndarray:
    """Dates (day,) datetime64[D] with an MCD43A4 raster, ascending: without reflectance there is no chip."""
    return np.array(sorted({r.day for r in rasters if r.product == "MCD43A4"}), "datetime64[D]")


def read_chips(
    rasters: Sequence[Raster],
    rows: np.ndarray,
    cols: np.ndarray,
    days: np.ndarray,
    *,
    progress: Progress | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Gather the chips of given pixels on given days.

    Parameters
    ----------
    rasters : sequence of Raster
        Those that do not touch a place are not read.
    rows, cols : (place, 8, 8) int64
        Of `chip_index`.
    days : (day,) datetime64[D]

    Returns
    -------
    values : (place, day, band, 8, 8) float32
        NaN where missing; chips with more than half their reflectance missing are NaN as a whole.
    covered : (place,) bool
        Whether any raster holds a pixel of the place.
    """
    values = np.full((len(rows), len(days), len(BANDS), *rows.shape[1:]), np.nan, "float32")
    covered = np.zeros(len(rows), bool)
    extent = extent_of(rows, cols)
    by_day = rasters_by_day(rasters)
    for i, day in enumerate(days):  # threads would not help: opening a raster holds the interpreter
        for raster in by_day[day]:
            gather(raster, rows, cols, extent, values[:, i, _SLOTS[raster.product]], covered)
        _drop_poor(values[:, i])
        if progress:
            progress(i + 1, len(days), f"chips of {day}")
    return values, covered


def rasters_by_day(rasters: Sequence[Raster]) -> dict:
    """Rasters of each day, in their order."""
    by_day = defaultdict(list)
    for raster in rasters:
        by_day[raster.day].append(raster)
    return by_day


def warn_uncovered(covered: np.ndarray, latitude: np.ndarray, longitude: np.ndarray, what: str) -> None:
    """Say in the log how many places lie outside every raster."""
    if covered.all():
        return
    first = np.flatnonzero(~covered)[0]
    log.warning(
        "%d of %d places lie outside every MODIS raster and get no %s, the first at latitude %.3f, longitude %.3f",
        (~covered).sum(),
        covered.size,
        what,
        np.atleast_1d(latitude)[first],
        np.atleast_1d(longitude)[first],
    )


def extent_of(rows: np.ndarray, cols: np.ndarray) -> tuple[np.ndarray, ...]:
    """Each place's first row, last + 1, first column, last + 1: (place,) each."""
    return rows.min((1, 2)), rows.max((1, 2)) + 1, cols.min((1, 2)), cols.max((1, 2)) + 1


def gather(raster: Raster, rows: np.ndarray, cols: np.ndarray, extent: tuple, out: np.ndarray, covered) -> None:
    """Fill the missing pixels of `out` (place, band, y, x), and mark the places covered, from one raster.

    A raster whose name binds it to a tile away from every place is not opened.
    """
    if raster.tile is not None:
        h, v = raster.tile
        if not _touched((v * TILE, h * TILE, TILE, TILE), extent).any():
            return
    tile = check_raster(raster)
    places = np.flatnonzero(_touched((tile.row, tile.col, tile.height, tile.width), extent))
    r, c = rows[places], cols[places]
    inside = (r >= tile.row) & (r < tile.row + tile.height) & (c >= tile.col) & (c < tile.col + tile.width)
    if not inside.any():
        return
    covered[places] |= inside.any((1, 2))
    place, y, x = np.nonzero(inside)
    found = read_pixels(tile, r[inside], c[inside])
    had = out[places[place], :, y, x].T
    out[places[place], :, y, x] = np.where(np.isnan(had), found, had).T


def _touched(window: tuple[int, int, int, int], extent: tuple) -> np.ndarray:
    """Which places' bounding windows meet a window (row, column, height, width): (place,) bool."""
    (row, col, height, width), (top, bottom, left, right) = window, extent
    return (top < row + height) & (bottom > row) & (left < col + width) & (right > col)


def _drop_poor(chips: np.ndarray) -> None:
    """Make chips (place, band, 8, 8) with more than half their reflectance missing all NaN, in place."""
    chips[np.isnan(chips[:, :_REFLECTANCES]).mean((1, 2, 3)) > 0.5] = np.nan
