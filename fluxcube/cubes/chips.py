"""Cut chips, which are 8 x 8 pixels of 500 m around a place, from MODIS rasters on the sinusoidal grid.

The positions of a chip's pixels on that grid depend on the place alone, and are computed once; then a chip is gathered
from a raster by index, for all places that a raster covers in one pass. A chip near the edge of a tile consists of
pixels of up to four tiles.
"""

from __future__ import annotations

import functools
import logging
import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import xarray as xr

from fluxcube.errors import ConfigError, SourceError
from fluxcube.schema import CHIP_X, CHIP_Y
from fluxcube.sources.modis.grid import TILE
from fluxcube.sources.modis.names import collection_of
from fluxcube.sources.modis.rasters import Raster, check_raster, list_rasters, read_pixels, sinusoidal_pixel
from fluxcube.variables import BANDS

log = logging.getLogger(__name__)

Progress = Callable[[int, int, str], None]
#: Folder, file, or list of files or of `fluxcube.sources.modis.rasters.Raster`.
RasterSource = str | os.PathLike | Sequence

_REFLECTANCES = 7
# Positions of each product's bands among the nine of a chip.
_SLOTS = {"MCD43A4": slice(0, _REFLECTANCES), "MCD43A2": slice(_REFLECTANCES, len(BANDS))}


def chip_index(latitude: float | np.ndarray, longitude: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels of the global 500 m sinusoidal grid that form the chip of each place.

    The centres of the 8 x 8 pixels are 500 m apart in the place's UTM zone (WGS84), centred on the place; each has the
    value of the sinusoidal pixel that contains it (nearest neighbour). See `block_index`.

    Parameters
    ----------
    latitude, longitude : float or (place,)
        Degrees north and east.

    Returns
    -------
    rows, cols : (place, 8, 8) int64
        Row 0 begins at 90 N and column 0 at the western edge (43200 rows x 86400 columns); y from north to south, x
        from west to east.

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
    """Return the pixels of the global 500 m sinusoidal grid at distances `y` north and `x` east of each place.

    Distances are those of the place's UTM zone: the one of six degrees that contains its longitude (180 E counts as
    180 W, zone 1), north or south according to its latitude. The wider zones of Norway and Svalbard are not used, so
    that a zone depends on longitude alone. As in the MODIS products, geographic latitude and longitude are used on the
    sphere without a change of datum.

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
        raise ConfigError("a chip needs a latitude from -90 to 90 and a longitude, which some place lacks; add them.")
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
    """Return the latitude and longitude (place, y, x) of the pixels' centres."""
    east, north = utm(longitude, latitude)
    shape = (len(east), len(y), len(x))
    at_x = np.broadcast_to(east[:, None, None] + np.asarray(x, float)[None, None, :], shape)
    at_y = np.broadcast_to(north[:, None, None] + np.asarray(y, float)[None, :, None], shape)
    lon, lat = utm(at_x, at_y, inverse=True)
    return lat, lon


def build_chips(
    source: RasterSource,
    latitude: np.ndarray,
    longitude: np.ndarray,
    *,
    progress: Progress | None = None,
) -> xr.DataArray:
    """Cut the chips of many places from MCD43A4 and MCD43A2 rasters.

    HDF4 tiles, GeoTIFFs and Earth Engine exports can be used (`fluxcube.sources.modis.rasters`). Each raster is opened
    once for all places that it covers. Where rasters overlap, the first by name that has a value is used. The bands of
    snow and water are NaN on a day without MCD43A2 raster; all bands of a chip are NaN if more than half of its
    reflectance is missing.

    Parameters
    ----------
    source : path, list of paths, or list of Raster
        Folder of rasters, or the list that `list_rasters` or `find_tiles` returns.
    latitude, longitude : (place,)
        Degrees.
    progress : callable, optional
        Called with (days done, days, text).

    Returns
    -------
    xr.DataArray
        (place, day, band, y, x) float32: reflectance 0..1, snow and water 0..1. `day` contains the dates on which any
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
            f"no MCD43A4 raster among {len(rasters)} MODIS files: chips need reflectance, not only MCD43A2; add them."
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


def chip_coords(days: np.ndarray) -> dict[str, tuple]:
    """Return the coordinates of the dimensions (day, band, y, x)."""
    return {
        "day": ("day", days.astype("datetime64[ns]")),
        "band": ("band", np.array(BANDS, object)),
        "y": ("y", CHIP_Y, {"units": "m", "long_name": "distance north of the chip's centre"}),
        "x": ("x", CHIP_X, {"units": "m", "long_name": "distance east of the chip's centre"}),
    }


def source_rasters(source: RasterSource) -> list[Raster]:
    """Return the rasters for chips in a folder, or in a list that already contains rasters."""
    products = tuple(_SLOTS)
    if isinstance(source, (list, tuple)) and source and all(isinstance(item, Raster) for item in source):
        return [item for item in source if item.product in products]
    return list_rasters(source, products=products)


def chip_days(rasters: Sequence[Raster]) -> np.ndarray:
    """Return the dates (day,) datetime64[D] with an MCD43A4 raster, ascending: a chip needs reflectance."""
    return np.array(sorted({r.day for r in rasters if r.product == "MCD43A4"}), "datetime64[D]")


def read_chips(
    rasters: Sequence[Raster],
    rows: np.ndarray,
    cols: np.ndarray,
    days: np.ndarray,
    *,
    progress: Progress | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Gather the chips of some pixels on some days.

    Parameters
    ----------
    rasters : sequence of Raster
        Rasters that do not overlap a chip are not read.
    rows, cols : (place, 8, 8) int64
        As `chip_index` returns them.
    days : (day,) datetime64[D]
        Days to gather.
    progress : callable, optional
        Called with (days done, days, text).

    Returns
    -------
    values : (place, day, band, 8, 8) float32
        NaN where missing; all bands of a chip are NaN if more than half of its reflectance is missing.
    covered : (place,) bool
        Whether any raster contains a pixel of the place.
    """
    values = np.full((len(rows), len(days), len(BANDS), *rows.shape[1:]), np.nan, "float32")
    covered = np.zeros(len(rows), bool)
    extent = extent_of(rows, cols)
    by_day = rasters_by_day(rasters)
    for i, day in enumerate(days):  # threads would not help: opening a raster keeps the interpreter locked
        gather(by_day[day], rows, cols, extent, {name: values[:, i, slot] for name, slot in _SLOTS.items()}, covered)
        _drop_poor(values[:, i])
        if progress:
            progress(i + 1, len(days), f"chips of {day}")
    return values, covered


def rasters_by_day(rasters: Sequence[Raster]) -> dict[np.datetime64, list[Raster]]:
    """Return the rasters of each day, in their order."""
    by_day = defaultdict(list)
    for raster in rasters:
        by_day[raster.day].append(raster)
    return by_day


def warn_uncovered(covered: np.ndarray, latitude: np.ndarray, longitude: np.ndarray, what: str) -> None:
    """Log the number of places outside all rasters."""
    if covered.all():
        return
    first = np.flatnonzero(~covered)[0]
    log.warning(
        "%d of %d places lie outside all MODIS rasters and have no %s, the first at latitude %.3f, longitude %.3f",
        (~covered).sum(),
        covered.size,
        what,
        np.atleast_1d(latitude)[first],
        np.atleast_1d(longitude)[first],
    )


def extent_of(rows: np.ndarray, cols: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the first row, last row + 1, first column and last column + 1 of each place, each (place,)."""
    return rows.min((1, 2)), rows.max((1, 2)) + 1, cols.min((1, 2)), cols.max((1, 2)) + 1


def gather(
    rasters: Sequence[Raster],
    rows: np.ndarray,
    cols: np.ndarray,
    extent: tuple,
    out: Mapping[str, np.ndarray],
    covered: np.ndarray,
) -> None:
    """Fill the missing pixels of one day from its rasters, and mark the places that they cover.

    Where collections of a product overlap, those before the latest one are not used, not even where it has no value.

    Parameters
    ----------
    rasters : sequence of Raster
        Rasters of the day, those of later collections first, as `list_rasters` sorts them.
    rows, cols : (place, y, x) int64
        As `block_index` returns them.
    extent : tuple
        As `extent_of` returns it.
    out : mapping of str to (place, band, y, x) float32
        Values by product, filled in place.
    covered : (place,) bool
        Set to True, in place, where a raster contains a pixel of a place.
    """
    for product, values in out.items():
        mine = [raster for raster in rasters if raster.product == product]
        collections = [collection_of(raster.path) for raster in mine] if len(mine) > 1 else []
        latest: dict[str, np.ndarray] = {}  # pixels that each collection contains
        for n, raster in enumerate(mine):
            if len(set(collections) - {""}) < 2 or not collections[n]:
                _gather_one(raster, rows, cols, extent, values, covered)
                continue
            later = [inside for name, inside in latest.items() if name > collections[n]]
            inside = _gather_one(raster, rows, cols, extent, values, covered, later)
            latest[collections[n]] = latest.get(collections[n], False) | inside


def _gather_one(
    raster: Raster,
    rows: np.ndarray,
    cols: np.ndarray,
    extent: tuple,
    out: np.ndarray,
    covered: np.ndarray,
    excluded: Sequence[np.ndarray] = (),
) -> np.ndarray:
    """Fill the missing pixels of `out` (place, band, y, x) from one raster; return which pixels it contains.

    A raster whose name shows that its tile is far from every place is not opened.
    """
    contained = np.zeros(rows.shape, bool)
    if raster.tile is not None:
        h, v = raster.tile
        if not touched((v * TILE, h * TILE, TILE, TILE), extent).any():
            return contained
    tile = check_raster(raster)
    places = np.flatnonzero(touched((tile.row, tile.col, tile.height, tile.width), extent))
    r, c = rows[places], cols[places]
    inside = (r >= tile.row) & (r < tile.row + tile.height) & (c >= tile.col) & (c < tile.col + tile.width)
    contained[places] = inside
    covered[places] |= inside.any((1, 2))
    for pixels in excluded:
        inside = inside & ~pixels[places]
    if not inside.any():
        return contained
    place, y, x = np.nonzero(inside)
    values = read_pixels(tile, r[inside], c[inside])
    before = out[places[place], :, y, x].T
    out[places[place], :, y, x] = np.where(np.isnan(before), values, before).T
    return contained


def touched(window: tuple[int, int, int, int], extent: tuple) -> np.ndarray:
    """Return whether each place's bounding window overlaps a window (row, column, height, width): (place,) bool."""
    (row, col, height, width), (top, bottom, left, right) = window, extent
    return (top < row + height) & (bottom > row) & (left < col + width) & (right > col)


def _drop_poor(chips: np.ndarray) -> None:
    """Set chips (place, band, 8, 8) with more than half of their reflectance missing to NaN, in place."""
    chips[np.isnan(chips[:, :_REFLECTANCES]).mean((1, 2, 3)) > 0.5] = np.nan
