"""Cut series of reflectance around sites from tiles of MCD43A4 or MOD09GA, as HDF4 or GeoTIFF."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from fluxcube.errors import ConfigError, SourceError
from fluxcube.sources.modis.grid import Raster, sinusoidal_position
from fluxcube.sources.modis.names import collection_of
from fluxcube.sources.modis.rasters import check_raster, list_rasters, read_pixels
from fluxcube.sources.modis.surface_observations import Observations
from fluxcube.variables import SURFACE_BANDS

log = logging.getLogger(__name__)

#: Rows and columns of the block of pixels around a site: 2 km x 2 km.
_SIDE = 4
#: Number of days of one block of entries.
_DAYS = 64


def read_tiles(
    paths: Sequence[Path], sites: Mapping[str, tuple[float, float]], flags: Sequence[str] = ()
) -> Iterator[Observations]:
    """Yield the 4 x 4 pixels of 500 m around each site in blocks of days.

    Parameters
    ----------
    paths : sequence of Path
        Tiles of one product, in any format of `fluxcube.sources.modis.rasters`.
    sites : mapping of str to (latitude, longitude)
        Places of the sites, degrees.
    flags : sequence of str
        Quality flags that are needed: of tiles, only ``state_1km`` is read.

    Raises
    ------
    ConfigError
        If `sites` contains no place, or other flags are needed.
    SourceError
        If the rasters are of several products, or no site is on them.
    """
    _check_request(paths, sites, flags)
    where = str(paths[0].parent)
    rasters = list_rasters(list(paths), products=("MCD43A4", "MOD09GA", "MOD09GA_STATE"))
    product = _only("product", {raster.product.removesuffix("_STATE") for raster in rasters}, where)
    collection = _only("collection", {collection_of(raster.path) for raster in rasters} - {""}, where)
    with_state = any(raster.product == "MOD09GA_STATE" for raster in rasters)
    names = tuple(name for name, place in sites.items() if np.isfinite(place).all())
    if left_out := sorted(set(sites) - set(names)):
        log.warning("%d sites have no coordinates and are left out: %s", len(left_out), ", ".join(left_out[:10]))
    latitude, longitude = np.array([sites[name] for name in names], np.float64).T
    rows, cols = _blocks(latitude, longitude)
    days = sorted({raster.day for raster in rasters})
    by_day: dict[np.datetime64, list[Raster]] = {day: [] for day in days}
    for raster in rasters:
        by_day[raster.day].append(raster)
    covered = np.zeros(len(names), bool)
    for start in range(0, len(days), _DAYS):
        chosen = days[start : start + _DAYS]
        stored = np.stack([_read_day(by_day[day], rows, cols, covered) for day in chosen])
        yield Observations(
            source=where,
            sites=names,
            site=np.tile(np.repeat(np.arange(len(names)), rows.shape[1]), len(chosen)),
            day=np.repeat(np.array(chosen, "datetime64[D]"), rows.size),
            bands={name: stored[:, i].reshape(-1) for i, name in enumerate(SURFACE_BANDS[:7])},
            flags={"state_1km": stored[:, 7].reshape(-1)} if with_state else {},
            latitude=latitude,
            longitude=longitude,
            product=product,
            collection=collection,
            pixel=np.tile(np.arange(rows.shape[1]), len(names) * len(chosen)),
            area=np.full(len(names), rows.shape[1]),
            screened=False,
        )
    if not covered.any():
        raise SourceError(f"{where}: no site is on the tiles: pass the tiles of the sites.")


def _check_request(paths: Sequence[Path], sites: Mapping[str, tuple[float, float]], flags: Sequence[str]) -> None:
    """Refuse a request without a place, or for flags that are not read."""
    if not any(np.isfinite(place).all() for place in sites.values()):
        raise ConfigError(
            f"{paths[0]} contains tiles: pass sites= (a table or cube with site, latitude, longitude) to cut them."
        )
    if other := [name for name in flags if name != "state_1km"]:
        raise ConfigError(
            f"quality: the flag {other[0]} is not read from tiles, only state_1km of MOD09GA (all values of MCD43A4 "
            "have mandatory quality 0 or 1): leave it out, or read points or areas of AppEEARS."
        )


def _only(kind: str, found: set[str], where: str) -> str:
    """Return the only product or collection of tiles, "" if there is none; SourceError if there are several."""
    if len(found) > 1:
        raise SourceError(f"{where}: expected tiles of one {kind}, found {', '.join(sorted(found))}: pass each alone.")
    return next(iter(found), "")


def _blocks(latitude: np.ndarray, longitude: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows and columns (site, 16) of the pixels of the sinusoidal grid nearest to each site."""
    row, col = sinusoidal_position(latitude, longitude)
    offset = np.arange(_SIDE) - _SIDE // 2
    rows = np.rint(row).astype(np.int64)[:, None, None] + offset[:, None] + np.zeros(_SIDE, np.int64)
    cols = np.rint(col).astype(np.int64)[:, None, None] + offset[None, :] + np.zeros((_SIDE, 1), np.int64)
    return rows.reshape(len(latitude), -1), cols.reshape(len(latitude), -1)


def _read_day(rasters: Sequence[Raster], rows: np.ndarray, cols: np.ndarray, covered: np.ndarray) -> np.ndarray:
    """Return reflectance of seven bands and state flags (8, site, pixel) of a day, NaN where missing."""
    out = np.full((8, *rows.shape), np.nan, np.float32)
    for raster in rasters:
        tile = check_raster(raster)
        on = (rows >= tile.row) & (rows < tile.row + tile.height) & (cols >= tile.col) & (cols < tile.col + tile.width)
        if not on.any():
            continue
        covered |= on.any(axis=1)
        part = out[7:] if raster.product == "MOD09GA_STATE" else out[:7]
        values = read_pixels(tile, rows[on], cols[on])
        part[:, on] = np.where(np.isnan(part[:, on]), values, part[:, on])
    return out
