"""Surface reflectance of the cells of a grid, lazily: from MOD09GA rasters, or from a Dataset on the grid.

A view is known from its own day on, so that maps need views from before their first hour. The climatology of a cell is
that of its whole record, also of years that are not mapped.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from fluxcube.cubes.chips import RasterSource
from fluxcube.cubes.climatology import STATISTICS, surface_climatology, surface_features
from fluxcube.cubes.forcing_blocks import Chunks, lazy_blocks, touches
from fluxcube.cubes.forcing_cells import Cells
from fluxcube.cubes.forcing_surface_grid import (
    BAND,
    DAY,
    DAYS_PER_CHUNK,
    climatology_attrs,
    from_dataset,
    label_coords,
    period_of_use,
)
from fluxcube.cubes.surface import (
    SURFACE_ATTRS,
    read_surface_blocks,
    surface_comment,
    surface_days,
    surface_pixels,
    surface_rasters,
    tile_bands,
)
from fluxcube.errors import SourceError
from fluxcube.parsing import FILE_FAULTS
from fluxcube.schema import SURFACE_BEFORE
from fluxcube.sources.era5.open import is_consolidated
from fluxcube.sources.era5.series import Files
from fluxcube.sources.era5.variables import normal_chunks
from fluxcube.sources.modis.grid import TILE
from fluxcube.sources.modis.names import collection_of
from fluxcube.sources.modis.rasters import Raster, check_raster
from fluxcube.sources.netcdf import open_netcdf

if TYPE_CHECKING:
    import dask.array as da

#: MOD09GA rasters, a NetCDF file or Zarr store with `surface` on the grid, or such a Dataset.
SurfaceSource = RasterSource | xr.Dataset | xr.DataArray

_CELLS = ("latitude", "longitude")


def grid_surface(
    source: SurfaceSource, cells: Cells, grid: Files, sizes: Chunks, blocks: int | None = None
) -> xr.Dataset:
    """Return the lazy surface reflectance of a grid, from 96 days before its first hour to its last.

    Parameters
    ----------
    source : path, list of rasters, xr.Dataset or xr.DataArray
        Folder of MOD09GA rasters (`fluxcube.sources.modis.rasters`); NetCDF file or Zarr store with the array
        `surface` (latitude, longitude, day, band) on the cells of the grid; or such a Dataset.
    cells : Cells
        Blocks of the cells, at which rasters are read.
    grid : Files
        ERA5 files.
    sizes : mapping
        Chunks of latitude and longitude.
    blocks : int, optional
        Number of blocks of a cell, for an array with a dimension of them; default: one block, without a dimension.

    Returns
    -------
    xr.Dataset
        ``surface (latitude, longitude, [block,] surface_day, surface_band)`` float32, NaN where the sky was not clear;
        ``surface_climatology (latitude, longitude, [block,] statistic, feature)`` of the whole record of `source`; and
        ``surface_quality``, where the Dataset has it.

    Raises
    ------
    SourceError
        If there is no reflectance of the grid and its time, or a Dataset has other dimensions, bands or units.
    """
    opened = _opened(source)
    if opened is None:
        return _from_rasters(source, cells, grid, sizes, blocks)
    if blocks and blocks > 1:
        raise SourceError(
            "expected MOD09GA rasters for several blocks per cell, found a Dataset with one value per cell: leave out "
            "chips_per_cell, or pass the rasters in surface=."
        )
    ds = from_dataset(opened, grid, sizes)
    return ds.expand_dims(block=1, axis=2) if blocks else ds


def _opened(source: SurfaceSource) -> xr.Dataset | None:
    """Return a source as a Dataset, None if it consists of rasters."""
    if isinstance(source, xr.DataArray):
        return source.to_dataset(name="surface")
    if isinstance(source, xr.Dataset):
        return source
    if not isinstance(source, (str, os.PathLike)):
        return None
    path = Path(source)
    store = any((path / name).is_file() for name in ("zarr.json", ".zgroup"))
    if not store and path.suffix.lower() not in (".nc", ".nc4"):
        return None
    try:
        if store:
            return xr.open_dataset(path, engine="zarr", chunks={}, consolidated=is_consolidated(path))
        return open_netcdf(path, chunks={})
    except FILE_FAULTS as problem:
        raise SourceError(
            f"{path}: expected NetCDF or Zarr with surface (latitude, longitude, day, band), which cannot be opened "
            f"({problem}): check the path, or write the file again."
        ) from problem


def _from_rasters(source: RasterSource, cells: Cells, grid: Files, sizes: Chunks, blocks: int | None) -> xr.Dataset:
    from dask.base import tokenize

    whole = _near(surface_rasters(source), cells.latitude, cells.longitude)
    days = surface_days(whole)
    begin, end = period_of_use(grid)
    of_use = days[(days >= begin) & (days <= end)]
    if not len(of_use):
        raise SourceError(
            f"no MOD09GA raster with state flags of {begin} to {end} in {source} covers the grid (latitudes "
            f"{grid.latitude.min():g} to {grid.latitude.max():g}, longitudes {grid.longitude.min():g} to "
            f"{grid.longitude.max():g}): pass those of these days, from {SURFACE_BEFORE.astype(int)} days before the "
            "first hour."
        )
    centres = cells.latitude, cells.longitude
    states = sorted({path for raster in whole for path in raster.files})
    changed = [(str(p.absolute()), (state := p.stat()).st_size, state.st_mtime_ns) for p in states]
    places = sizes["latitude"], sizes["longitude"], (blocks or 1,)
    spans = normal_chunks({"day": DAYS_PER_CHUNK}, {"day": len(of_use)})["day"]
    key = tokenize(changed, centres, places, of_use)
    bands = tile_bands(whole)
    features = surface_features(bands)
    values = _lazy_views(whole, centres, of_use, bands, (*places, spans, (len(bands),)), key)
    statistics = _lazy_statistics(
        whole, centres, days, bands, (*places, (len(STATISTICS),), (len(features),)), f"{key}-{len(days)}"
    )
    ds = xr.Dataset(
        {
            "surface": ((*_CELLS, "block", DAY, BAND), values, _attrs(whole)),
            "surface_climatology": ((*_CELLS, "block", "statistic", "feature"), statistics, climatology_attrs(days)),
        },
        coords=_coords(of_use, bands, features),
    )
    return ds if blocks else ds.isel(block=0)


def _near(rasters: Sequence[Raster], latitude: np.ndarray, longitude: np.ndarray) -> list[Raster]:
    """Return the rasters that may contain pixels of some places; a file is opened only if its name has no tile."""
    return _chosen(rasters, touches(_corners(rasters), latitude, longitude))


def _chosen(rasters: Sequence[Raster], mask: np.ndarray) -> list[Raster]:
    """Return the rasters at which a mask is true."""
    return [rasters[n] for n in np.flatnonzero(mask).tolist()]


def _corners(rasters: Sequence[Raster]) -> np.ndarray:
    """Return the corners (raster, 4) of rasters on the global grid, as `touches` takes them."""
    return np.array([_corner(raster) for raster in rasters]).reshape(-1, 4)


def _corner(raster: Raster) -> tuple[int, int, int, int]:
    """Return the first row, the last, the first column and the last of a raster on the global grid."""
    if raster.tile is not None:
        h, v = raster.tile
        return v * TILE, (v + 1) * TILE, h * TILE, (h + 1) * TILE
    tile = check_raster(raster)
    return tile.row, tile.row + tile.height, tile.col, tile.col + tile.width


#: Returns a task from the rasters near a block of cells (a mask), its latitudes and longitudes, and its days.
_Task = Callable[[np.ndarray, np.ndarray, np.ndarray, slice], tuple]


def _lazy(name: str, corners: np.ndarray, centres: tuple[np.ndarray, np.ndarray], chunks: tuple, of: _Task) -> da.Array:
    """Return a lazy array of blocks of cells; each task contains only what its own block needs."""

    def task(rows: slice, cols: slice, blocks: slice, span: slice, _: slice) -> tuple:
        lat, lon = (values[rows, cols, blocks].copy() for values in centres)
        return of(touches(corners, lat, lon), lat, lon, span)

    return lazy_blocks(name, task, chunks)


def _lazy_views(
    rasters: Sequence[Raster],
    centres: tuple[np.ndarray, np.ndarray],
    days: np.ndarray,
    bands: tuple[str, ...],
    chunks: tuple,
    key: str,
) -> da.Array:
    """Return lazy reflectance (latitude, longitude, block, day, band)."""
    dates = np.array([raster.day for raster in rasters], "datetime64[D]")

    def task(near: np.ndarray, lat: np.ndarray, lon: np.ndarray, span: slice) -> tuple:
        mine = near & (dates >= days[span][0]) & (dates <= days[span][-1])
        return read_views, _chosen(rasters, mine), lat, lon, days[span], bands

    return _lazy(f"surface-{key}", _corners(rasters), centres, chunks, task)


def _lazy_statistics(
    rasters: Sequence[Raster],
    centres: tuple[np.ndarray, np.ndarray],
    days: np.ndarray,
    bands: tuple[str, ...],
    chunks: tuple,
    key: str,
) -> da.Array:
    """Return the lazy climatology (latitude, longitude, block, statistic, feature); a task reads the whole record."""

    def task(near: np.ndarray, lat: np.ndarray, lon: np.ndarray, _: slice) -> tuple:
        return _read_statistics, _chosen(rasters, near), lat, lon, days, bands

    return _lazy(f"surface-climatology-{key}", _corners(rasters), centres, chunks, task)


def read_views(
    rasters: Sequence[Raster], latitude: np.ndarray, longitude: np.ndarray, days: np.ndarray, bands: Sequence[str]
) -> np.ndarray:
    """Read the reflectance of places on some days, by the rule for towers (`fluxcube.cubes.surface`).

    Parameters
    ----------
    rasters : sequence of Raster
        MOD09GA with state flags.
    latitude, longitude : (...) float
        Degrees.
    days : (day,) datetime64[D]
        Days to return.
    bands : sequence of str
        Bands to return.

    Returns
    -------
    (..., day, band) float32
        NaN where the sky was not clear, or no raster covers a place.
    """
    lat, lon = latitude.ravel(), longitude.ravel()
    if not len(surface_days(rasters)):
        return np.full((*latitude.shape, len(days), len(bands)), np.nan, np.float32)
    values, _, _ = read_surface_blocks(rasters, *surface_pixels(lat, lon), days, bands=bands)
    return values.reshape(*latitude.shape, len(days), len(bands))


def _read_statistics(
    rasters: Sequence[Raster], latitude: np.ndarray, longitude: np.ndarray, days: np.ndarray, bands: Sequence[str]
) -> np.ndarray:
    """Return the climatology (..., statistic, feature) of places."""
    values = read_views(rasters, latitude, longitude, days, bands)
    flat = surface_climatology(values.reshape(-1, *values.shape[-2:]), days, bands)
    return flat.reshape(*latitude.shape, *flat.shape[1:])


def _attrs(rasters: Sequence[Raster]) -> dict[str, object]:
    """Return the attributes of reflectance from rasters; their collection, if all are of one."""
    collections = {collection_of(raster.path) for raster in rasters} - {""}
    known = {"collection": collections.pop()} if len(collections) == 1 else {}
    return {**SURFACE_ATTRS, "comment": surface_comment(), **known}


def _coords(days: np.ndarray, bands: Sequence[str], features: Sequence[str]) -> Mapping[str, tuple]:
    return {
        DAY: (DAY, days.astype("datetime64[ns]"), {"long_name": "date of the view"}),
        BAND: (BAND, np.array(bands, object)),
        **label_coords(features),
    }
