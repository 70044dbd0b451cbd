"""Surface reflectance (MOD09GA, MODOCGA) and land cover (MCD12Q1) around places, from tiles."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import xarray as xr

from fluxcube.biomes import igbp_code
from fluxcube.cubes.chips import Progress, RasterSource, block_index, extent_of, gather, rasters_by_day, warn_uncovered
from fluxcube.errors import SourceError
from fluxcube.sources.modis.grid import PRODUCTS
from fluxcube.sources.modis.quality import clear_sky, snow_flag
from fluxcube.sources.modis.rasters import Raster, class_mode, list_rasters
from fluxcube.sources.towers.badm import SiteInfo
from fluxcube.variables import SURFACE_BANDS

log = logging.getLogger(__name__)

#: Centres of the 4 x 4 pixels of 500 m, in metres north and east of the place.
_Y = np.array([750.0, 250.0, -250.0, -750.0])
_X = -_Y
_BANDS = SURFACE_BANDS[:7]
_UNKNOWN = 255

#: Products of the rasters that surface reflectance is cut from; MODOCGA, with the ocean bands, is optional.
SURFACE_PRODUCTS = ("MOD09GA", "MOD09GA_STATE", "MODOCGA")
#: Bands of the reflectance that is cut from tiles of MOD09GA, and of MODOCGA.
TILE_BANDS = (*_BANDS, "snow")
OCEAN_BANDS = ("green531", "green551")
#: Attributes of an array of reflectance that is cut from tiles.
SURFACE_ATTRS = {
    "long_name": "MODIS surface reflectance (MOD09GA bands 1-7) of clear pixels",
    "units": "1",
    "product": "MOD09GA",
    "lookahead_days": 0,
}


def build_surface(
    source: RasterSource,
    latitude: np.ndarray,
    longitude: np.ndarray,
    *,
    assumed_clear: bool = False,
    cirrus: int = 0,
    progress: Progress | None = None,
) -> xr.DataArray:
    """Average the clear pixels of MOD09GA over the 2 km x 2 km around each place.

    The 4 x 4 pixels of 500 m are located like those of a chip (`fluxcube.cubes.chips.block_index`); each has the state
    flags of the 1 km pixel that contains it. A band is NaN if fewer than half of its pixels are clear and valid. The
    day is that of the product: the UTC date, which at 10:30 local time is also the local one up to 157 degrees east.

    Parameters
    ----------
    source : path, list of paths, or list of Raster
        Folder of MOD09GA as HDF4 tiles, GeoTIFFs or Earth Engine exports (`fluxcube.sources.modis.rasters`).
    latitude, longitude : (place,)
        Degrees.
    assumed_clear, cirrus
        As in `fluxcube.sources.modis.quality.clear_sky`.
    progress : callable, optional
        Called with (days done, days, text).

    Returns
    -------
    xr.DataArray
        (place, day, band) float32: reflectance of red, nir, blue, green, swir1, swir2, swir3, and snow, the share of
        the clear pixels that are snow; where there are rasters of MODOCGA, also green531 and green551. `day` contains
        the dates on which any place has a value, ascending. The coordinate `quality` (place, day) float32 is the share
        of the pixels that are clear and valid in any band.

    Raises
    ------
    SourceError
        If there is no MOD09GA raster with state flags, or one is not on the grid.
    """
    rasters = surface_rasters(source)
    days = _common_days(rasters)
    rows, cols = surface_pixels(latitude, longitude)
    bands = tile_bands(rasters)
    values, quality, covered = read_surface_blocks(
        rasters, rows, cols, days, bands=bands, assumed_clear=assumed_clear, cirrus=cirrus, progress=progress
    )
    warn_uncovered(covered, latitude, longitude, "surface reflectance")
    kept = np.isfinite(values).any(axis=(0, 2))
    coords = {
        "day": ("day", days[kept].astype("datetime64[ns]")),
        "band": ("band", np.array(bands, object)),
        "quality": (("place", "day"), quality[:, kept]),
        "latitude": ("place", np.atleast_1d(latitude)),
        "longitude": ("place", np.atleast_1d(longitude)),
    }
    attrs = SURFACE_ATTRS | {"comment": surface_comment(assumed_clear, cirrus)}
    return xr.DataArray(values[:, kept], dims=("place", "day", "band"), coords=coords, name="surface", attrs=attrs)


def surface_comment(assumed_clear: bool = False, cirrus: int = 0) -> str:
    """Return the CF comment of reflectance that is cut from tiles with these options of `clear_sky`."""
    return (
        "Mean of clear pixels among 4 x 4 of 500 m around the place; missing where fewer than half are clear. Cloud "
        f"state 11 counts as clear: {assumed_clear}; greatest cirrus class: {cirrus}. Days are UTC dates."
    )


def surface_rasters(source: RasterSource) -> list[Raster]:
    """Return the rasters of surface reflectance and state flags in a folder, or in a list that contains rasters."""
    if isinstance(source, (list, tuple)) and source and all(isinstance(item, Raster) for item in source):
        return [item for item in source if item.product in SURFACE_PRODUCTS]
    return list_rasters(source, products=SURFACE_PRODUCTS)


def tile_bands(rasters: Sequence[Raster]) -> tuple[str, ...]:
    """Return the bands that rasters of surface reflectance have."""
    return (*TILE_BANDS, *OCEAN_BANDS) if any(raster.product == "MODOCGA" for raster in rasters) else TILE_BANDS


def surface_days(rasters: Sequence[Raster]) -> np.ndarray:
    """Return the dates (day,) datetime64[D] with both reflectance and state flags, ascending."""
    reflectance, state = ({r.day for r in rasters if r.product == product} for product in SURFACE_PRODUCTS[:2])
    return np.array(sorted(reflectance & state), "datetime64[D]")


def surface_pixels(latitude: np.ndarray, longitude: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows and columns (place, 4, 4) of the global 500 m grid that surface reflectance is the mean of."""
    return block_index(latitude, longitude, _Y, _X)


def read_surface_blocks(
    rasters: Sequence[Raster],
    rows: np.ndarray,
    cols: np.ndarray,
    days: np.ndarray,
    *,
    bands: Sequence[str] = TILE_BANDS,
    assumed_clear: bool = False,
    cirrus: int = 0,
    progress: Progress | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Average the clear pixels of blocks of the grid on some days.

    Parameters
    ----------
    rasters : sequence of Raster
        As `surface_rasters` returns them. Those that do not overlap a block are not read.
    rows, cols : (place, y, x) int64
        Pixels of each block (`fluxcube.cubes.chips.block_index`).
    days : (day,) datetime64[D]
        Days with reflectance and state flags (`surface_days`).
    bands : sequence of str
        Some of `TILE_BANDS` and `OCEAN_BANDS`, in any order.
    assumed_clear, cirrus
        As in `fluxcube.sources.modis.quality.clear_sky`.
    progress : callable, optional
        Called with (days done, days, text).

    Returns
    -------
    values : (place, day, band) float32
        Reflectance of `bands`; NaN if fewer than half of the pixels are clear and valid, or there is no raster.
    quality : (place, day) float32
        Share of the pixels that are clear and valid in any band; NaN where no raster has state flags.
    covered : (place,) bool
        Whether any raster contains a pixel of the place.
    """
    order = (*TILE_BANDS, *OCEAN_BANDS)
    values = np.full((len(rows), len(days), len(order)), np.nan, "float32")
    quality = np.full(values.shape[:2], np.nan, "float32")
    covered, by_day = np.zeros(len(rows), bool), rasters_by_day(rasters)
    for i, day in enumerate(days):
        reflectance, state, ocean = _read_day(by_day[day], rows, cols, covered)
        clear = clear_sky(state[:, 0], assumed_clear=assumed_clear, cirrus=cirrus)
        land = _clear_mean(reflectance, clear)
        parts = land, _snow_share(state[:, 0], clear)[:, None], _clear_mean(ocean, clear)
        # Snow or ocean bands without any band of MOD09GA are no view.
        values[:, i] = np.where(np.isfinite(land).any(1)[:, None], np.concatenate(parts, 1), np.nan)
        quality[:, i] = _clear_share(reflectance, state[:, 0], clear)
        if progress:
            progress(i + 1, len(days), f"surface reflectance of {day}")
    return values[..., [order.index(band) for band in bands]], quality, covered


def _common_days(rasters: Sequence[Raster]) -> np.ndarray:
    """Return `surface_days`, with a warning about days that have only one of the two; refuse it if there are none."""
    days, counts = (
        surface_days(rasters),
        [len({r.day for r in rasters if r.product == p}) for p in SURFACE_PRODUCTS[:2]],
    )
    if not len(days):
        raise SourceError(
            f"no day has both surface reflectance and state flags: found sur_refl_b01..07 of {counts[0]} days and "
            f"state_1km of {counts[1]}; add the flags, which distinguish clear pixels from clouds."
        )
    if alone := sum(counts) - 2 * len(days):
        log.warning("%d days have only one of surface reflectance and state flags and are left out", alone)
    return days


def _read_day(rasters: Sequence[Raster], rows: np.ndarray, cols: np.ndarray, covered: np.ndarray) -> tuple:
    """Return reflectance (place, 7, y, x), state flags (1) and ocean bands (2) of a day, NaN where missing."""
    out = {
        product: np.full((len(rows), len(PRODUCTS[product].layers), *rows.shape[1:]), np.nan, "float32")
        for product in SURFACE_PRODUCTS
    }
    gather(rasters, rows, cols, extent_of(rows, cols), out, covered)
    return tuple(out.values())


def _clear_mean(reflectance: np.ndarray, clear: np.ndarray) -> np.ndarray:
    """Return the means (place, band) of clear and valid pixels (place, band, y, x); NaN if these are under half."""
    good = clear[:, None] & np.isfinite(reflectance)
    count = good.sum((2, 3))
    total = np.where(good, reflectance, 0).sum((2, 3), dtype="float64")
    enough = count * 2 >= clear[0].size
    return np.where(enough, total / np.maximum(count, 1), np.nan).astype("float32")


def _snow_share(state: np.ndarray, clear: np.ndarray) -> np.ndarray:
    """Return the share (place,) of the clear pixels (place, y, x) that are snow; NaN if under half are clear."""
    count = clear.sum((1, 2))
    share = (clear & (snow_flag(state) == 1)).sum((1, 2)) / np.maximum(count, 1)
    return np.where(count * 2 >= clear[0].size, share, np.nan).astype("float32")


def _clear_share(reflectance: np.ndarray, state: np.ndarray, clear: np.ndarray) -> np.ndarray:
    """Return the share (place,) of pixels that are clear and have a valid band; NaN where no flag is known."""
    valid = clear & np.isfinite(reflectance).any(1)
    return np.where(np.isfinite(state).any((1, 2)), valid.mean((1, 2)), np.nan).astype("float32")


def site_land_cover(source: RasterSource, latitude: np.ndarray, longitude: np.ndarray) -> np.ndarray:
    """Read the land-cover class of the pixel that contains each place: the most frequent one over the years found.

    Parameters
    ----------
    source : path, list of paths, or list of Raster
        Folder of MCD12Q1 as HDF4 tiles, GeoTIFFs or Earth Engine exports (`fluxcube.sources.modis.rasters`).
    latitude, longitude : (place,)
        Degrees.

    Returns
    -------
    (place,) uint8
        IGBP number 1..17 (water is 17; `fluxcube.biomes.igbp_code`); 255 where unknown. Of equally frequent classes,
        the lower number is returned.

    Raises
    ------
    SourceError
        If there is no MCD12Q1 raster, or one is not on the grid.
    """
    rasters = list_rasters(source, products=("MCD12Q1",))
    rows, cols = block_index(latitude, longitude, np.zeros(1), np.zeros(1))
    covered, extent = np.zeros(len(rows), bool), extent_of(rows, cols)
    years = []
    for of_year in rasters_by_day(rasters).values():
        classes = np.full((len(rows), 1, 1, 1), np.nan, "float32")
        gather(of_year, rows, cols, extent, {"MCD12Q1": classes}, covered)
        years.append(np.where(np.isnan(classes), _UNKNOWN, classes).astype("uint8").reshape(-1))
    warn_uncovered(covered, latitude, longitude, "land cover")
    return class_mode(years)


def add_land_cover(infos: Iterable[SiteInfo], source: RasterSource) -> dict[str, tuple[SiteInfo, str]]:
    """Assign sites without an IGBP class that of their pixel of MCD12Q1.

    Parameters
    ----------
    infos : iterable of SiteInfo
        Sites; those with a class, or without a location, are skipped.
    source : path, list of paths, or list of Raster
        As in `site_land_cover`.

    Returns
    -------
    dict of str to (SiteInfo, str)
        By site: its metadata with the class, which is "" if the pixel has none, and a sentence on this.

    Raises
    ------
    SourceError
        If there is no MCD12Q1 raster, or one is not on the grid.
    """
    lacking = [info for info in infos if not info.igbp and None not in (info.latitude, info.longitude)]
    if not lacking:
        return {}
    numbers = site_land_cover(
        source, *(np.array([getattr(i, key) for i in lacking]) for key in ("latitude", "longitude"))
    )
    classed = {}
    for info, code in zip(lacking, map(igbp_code, numbers), strict=True):
        source_of = f"{code} is that of its pixel of 500 m in MCD12Q1" if code else "MCD12Q1 does not contain it either"
        classed[info.site] = replace(info, igbp=code), f"IGBP class: not in the metadata; {source_of}"
    return classed
