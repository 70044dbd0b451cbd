"""Surface reflectance of the cells of a grid, lazily: from MOD09GA rasters, or from a Dataset on the grid.

A view is known from its own day on, so that maps need views from before their first hour. The climatology of a cell is
that of its whole record, also of years that are not mapped.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from fluxcube.cubes.chips import RasterSource
from fluxcube.cubes.climatology import STATISTICS, surface_climatology, surface_features
from fluxcube.cubes.forcing_blocks import Chunks, lazy_blocks, touches
from fluxcube.cubes.forcing_cells import Cells
from fluxcube.cubes.surface import (
    SURFACE_ATTRS,
    read_surface_blocks,
    surface_comment,
    surface_days,
    surface_pixels,
    surface_rasters,
    tile_bands,
)
from fluxcube.errors import SourceError, unknown
from fluxcube.resolution import HOURLY
from fluxcube.schema import SURFACE_DIMS
from fluxcube.sources.era5.series import Files
from fluxcube.sources.era5.variables import normal_chunks
from fluxcube.sources.modis.grid import TILE
from fluxcube.sources.modis.names import collection_of
from fluxcube.sources.modis.rasters import Raster, check_raster
from fluxcube.variables import BANDS, SURFACE_BANDS

if TYPE_CHECKING:
    import dask.array as da

log = logging.getLogger(__name__)

#: MOD09GA rasters, a NetCDF file or Zarr store with `surface` on the grid, or such a Dataset.
SurfaceSource = RasterSource | xr.Dataset | xr.DataArray

#: Names of the dimensions of `surface` in an hourly forcing, where `day` and `band` are those of the chips.
DAY, BAND = SURFACE_DIMS[HOURLY.name]
#: Views are kept from this many days before the first hour: means of 64 days of views that are up to 32 days old.
DAYS_BEFORE = np.timedelta64(96, "D")

_CELLS = ("latitude", "longitude")
_DAYS_PER_CHUNK = 184
_DAY_NAMES, _BAND_NAMES = (DAY, "day", "time"), (BAND, "band")
_REFLECTANCES = BANDS[:7]
#: Valid reflectance of MODIS products, widened; and the 95th percentile below which values were scaled twice.
_VALID, _TOO_DARK = (-0.2, 2.0), 0.003
#: Number of cells along each side, and of days, of the sample that is checked.
_SAMPLE_CELLS, _SAMPLE_DAYS = 4, 64
#: Maximum distance (degrees) of a cell of a Dataset from the same cell of the grid.
_APART = 1e-3
#: Attributes of the reflectance of a Dataset, unless it has its own.
_DATASET_ATTRS = {"long_name": "surface reflectance under a clear sky", "units": "1", "lookahead_days": 0}


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
    ds = _from_dataset(opened, grid, sizes)
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
    if path.suffix.lower() in (".nc", ".nc4"):
        return xr.open_dataset(path, chunks={})
    if any((path / name).is_file() for name in ("zarr.json", ".zgroup")):
        return xr.open_zarr(path)
    return None


def _period(grid: Files) -> tuple[np.datetime64, np.datetime64]:
    """Return the first and last day of views that are of use to a grid's hours."""
    begin, end = (grid.time[i].astype("datetime64[D]") for i in (0, -1))
    return begin - DAYS_BEFORE, end


# --- rasters -------------------------------------------------------------------------------------------------------


def _from_rasters(source: RasterSource, cells: Cells, grid: Files, sizes: Chunks, blocks: int | None) -> xr.Dataset:
    from dask.base import tokenize

    whole = _near(surface_rasters(source), cells.latitude, cells.longitude)
    days = surface_days(whole)
    begin, end = _period(grid)
    of_use = days[(days >= begin) & (days <= end)]
    if not len(of_use):
        raise SourceError(
            f"no MOD09GA raster with state flags of {begin} to {end} in {source} covers the grid (latitudes "
            f"{grid.latitude.min():g} to {grid.latitude.max():g}, longitudes {grid.longitude.min():g} to "
            f"{grid.longitude.max():g}): pass those of these days, from {DAYS_BEFORE.astype(int)} days before the "
            "first hour."
        )
    centres = cells.latitude, cells.longitude
    states = sorted({path for raster in whole for path in raster.files})
    changed = [(str(p.absolute()), (state := p.stat()).st_size, state.st_mtime_ns) for p in states]
    places = sizes["latitude"], sizes["longitude"], (blocks or 1,)
    spans = normal_chunks({"day": _DAYS_PER_CHUNK}, {"day": len(of_use)})["day"]
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
            "surface_climatology": ((*_CELLS, "block", "statistic", "feature"), statistics, _climatology_attrs(days)),
        },
        coords=_coords(of_use, bands, features),
    )
    return ds if blocks else ds.isel(block=0)


def _near(rasters: Sequence[Raster], latitude: np.ndarray, longitude: np.ndarray) -> list[Raster]:
    """Return the rasters that may contain pixels of some places; a file is opened only if its name has no tile."""
    if not rasters:
        return []
    near = touches(np.array([_corner(raster) for raster in rasters]), latitude, longitude)
    return [rasters[n] for n in np.flatnonzero(near).tolist()]


def _corner(raster: Raster) -> tuple[int, int, int, int]:
    """Return the first row, the last, the first column and the last of a raster on the global grid."""
    if raster.tile is not None:
        h, v = raster.tile
        return v * TILE, (v + 1) * TILE, h * TILE, (h + 1) * TILE
    tile = check_raster(raster)
    return tile.row, tile.row + tile.height, tile.col, tile.col + tile.width


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

    def task(rows: slice, cols: slice, blocks: slice, span: slice, _: slice) -> tuple:
        mine = np.flatnonzero((dates >= days[span][0]) & (dates <= days[span][-1])).tolist()
        places = (values[rows, cols, blocks].copy() for values in centres)
        return read_views, [rasters[n] for n in mine], *places, days[span], bands

    return lazy_blocks(f"surface-{key}", task, chunks)


def _lazy_statistics(
    rasters: list[Raster],
    centres: tuple[np.ndarray, np.ndarray],
    days: np.ndarray,
    bands: tuple[str, ...],
    chunks: tuple,
    key: str,
) -> da.Array:
    """Return the lazy climatology (latitude, longitude, block, statistic, feature); a task reads the whole record."""

    def task(rows: slice, cols: slice, blocks: slice, *_: slice) -> tuple:
        places = (values[rows, cols, blocks].copy() for values in centres)
        return _read_statistics, rasters, *places, days, bands

    return lazy_blocks(f"surface-climatology-{key}", task, chunks)


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
    mine = _near(rasters, lat, lon)
    if not len(surface_days(mine)):
        return np.full((*latitude.shape, len(days), len(bands)), np.nan, np.float32)
    values, _, _ = read_surface_blocks(mine, *surface_pixels(lat, lon), days, bands=bands)
    return values.reshape(*latitude.shape, len(days), len(bands))


def _read_statistics(
    rasters: Sequence[Raster], latitude: np.ndarray, longitude: np.ndarray, days: np.ndarray, bands: Sequence[str]
) -> np.ndarray:
    """Return the climatology (..., statistic, feature) of places."""
    values = read_views(rasters, latitude, longitude, days, bands)
    flat = surface_climatology(values.reshape(-1, *values.shape[-2:]), days, bands)
    return flat.reshape(*latitude.shape, *flat.shape[1:])


# --- a Dataset -----------------------------------------------------------------------------------------------------


def _from_dataset(ds: xr.Dataset, grid: Files, sizes: Chunks) -> xr.Dataset:
    """Return the reflectance of a Dataset on the cells of a grid, in its chunks."""
    surface = _checked(ds, grid)
    begin, end = _period(grid)
    days = surface[DAY].values.astype("datetime64[D]")
    of_use = (days >= begin) & (days <= end)
    if not of_use.any():
        raise SourceError(
            f"surface: no day of {begin} to {end}, which the grid's hours need; its days are {days[0]} to {days[-1]}: "
            f"pass reflectance from {DAYS_BEFORE.astype(int)} days before the first hour."
        )
    cells = {dim: sizes[dim] for dim in _CELLS}
    out = xr.Dataset({"surface": surface.isel({DAY: of_use}).astype("float32")})
    if "surface_quality" in ds:
        names = {name: DAY for name in _DAY_NAMES[1:] if name in ds.surface_quality.dims}
        quality = _at_cells(ds.surface_quality.rename(names), grid).transpose(*_CELLS, DAY)
        out["surface_quality"] = quality.isel({DAY: of_use}).astype("float32")
    out = out.chunk(cells | {DAY: _DAYS_PER_CHUNK, BAND: -1})
    if "surface_climatology" in ds:
        dims = (*_CELLS, "statistic", "feature")
        out["surface_climatology"] = _at_cells(ds.surface_climatology, grid).transpose(*dims).chunk(cells)
    else:
        out["surface_climatology"] = record_climatology(surface.chunk(cells))
    return out


def record_climatology(surface: xr.DataArray) -> xr.DataArray:
    """Return the lazy climatology of a record of reflectance, a task for each block of cells.

    Parameters
    ----------
    surface : DataArray (latitude, longitude, [block,] day, band)
        Of Dask arrays; the last dimensions may have the names of an hourly or a daily forcing.

    Returns
    -------
    DataArray (latitude, longitude, [block,] statistic, feature) float32
    """
    day, band = surface.dims[-2:]
    bands = tuple(map(str, surface[band].values))
    days, features = surface[day].values.astype("datetime64[D]"), surface_features(bands)
    lazy = xr.apply_ufunc(
        _statistics,
        surface.chunk({day: -1, band: -1}),
        input_core_dims=[[day, band]],
        output_core_dims=[["statistic", "feature"]],
        dask="parallelized",
        output_dtypes=[np.float32],
        kwargs={"days": days, "bands": bands},
        dask_gufunc_kwargs={"output_sizes": {"statistic": len(STATISTICS), "feature": len(features)}},
    )
    return lazy.assign_coords(_label_coords(features)).assign_attrs(_climatology_attrs(days))


def _statistics(values: np.ndarray, days: np.ndarray, bands: tuple[str, ...]) -> np.ndarray:
    flat = surface_climatology(values.reshape(-1, *values.shape[-2:]), days, bands)
    return flat.reshape(*values.shape[:-2], *flat.shape[1:])


def _checked(ds: xr.Dataset, grid: Files) -> xr.DataArray:
    """Return the array `surface` of a Dataset on the cells of the grid, under the names of an hourly forcing.

    Raises
    ------
    SourceError
        If dimensions, days, bands, units or sampled values are not those of reflectance on the grid.
    """
    if "surface" not in ds:
        raise SourceError(
            f"surface: expected a Dataset with the array surface (latitude, longitude, day, band), found "
            f"{', '.join(map(str, ds.data_vars)) or 'no array'}: rename the array of reflectance."
        )
    surface = ds["surface"]
    names = {old: DAY for old in _DAY_NAMES[1:] if old in surface.dims} | {
        old: BAND for old in _BAND_NAMES[1:] if old in surface.dims
    }
    surface = surface.rename(names)
    if set(surface.dims) != {*_CELLS, DAY, BAND}:
        raise SourceError(
            f"surface: expected dims (latitude, longitude, day, band), found {ds['surface'].dims}"
            + (": that is a table of sites, for the cube of towers" if "site" in surface.dims else "")
            + "; pass reflectance on the cells of the grid."
        )
    if (units := str(surface.attrs.get("units", "1"))) not in ("1", "", "-", "reflectance"):
        raise SourceError(f"surface: expected reflectance from 0 to 1 (units 1), found units {units!r}: scale it.")
    for name in (bands := [str(name) for name in surface[BAND].values]):
        if name not in SURFACE_BANDS:
            raise unknown("band of surface", name, SURFACE_BANDS)
    if len(set(bands)) < len(bands):
        raise SourceError(f"surface: expected each band once, found {', '.join(bands)}; drop repeats.")
    surface = _at_cells(_with_dates(surface), grid).transpose(*_CELLS, DAY, BAND)
    _check_scale(surface)
    coords = {name: surface[name].variable for name in (*_CELLS, DAY, BAND)}
    surface = xr.DataArray(surface.variable, coords=coords, attrs=_DATASET_ATTRS | surface.attrs)
    return surface.assign_coords({BAND: np.array(bands, object)})


def _with_dates(surface: xr.DataArray) -> xr.DataArray:
    """Return reflectance in the order of its dates, which must be dates, each once."""
    days = surface[DAY].values
    if not np.issubdtype(days.dtype, np.datetime64):
        raise SourceError(
            f"surface: expected dates (datetime64) on its day axis, found {days.dtype}, such as {days[:1]}: convert "
            "days of the year to dates."
        )
    dates = days.astype("datetime64[D]")
    if len(np.unique(dates)) < len(dates):
        values, counts = np.unique(dates, return_counts=True)
        raise SourceError(f"surface: expected each day once, found {values[counts > 1][0]} twice; drop repeats.")
    order = np.argsort(dates)
    surface = surface if (order == np.arange(len(order))).all() else surface.isel({DAY: order})
    return surface.assign_coords({DAY: dates[order].astype("datetime64[ns]")})


def _at_cells(values: xr.DataArray, grid: Files) -> xr.DataArray:
    """Return the values of a map at the cells of a grid; longitudes may begin at 0 or at -180."""
    positions = {}
    for dim, centres in zip(_CELLS, (grid.latitude, grid.longitude), strict=True):
        there = np.asarray(values[dim].values, float)
        apart = np.abs(there[None] - centres[:, None])
        apart = np.minimum(apart % 360, -apart % 360) if dim == "longitude" else apart
        nearest = apart.argmin(1)
        distance = apart[np.arange(len(centres)), nearest]
        if distance.max() > _APART:
            at = centres[distance.argmax()]
            raise SourceError(
                f"surface: expected a value at every cell of the grid, found none at {dim} {at:g} (the nearest is "
                f"{there[nearest[distance.argmax()]]:g}): bring it to the grid first."
            )
        positions[dim] = slice(nearest[0], nearest[-1] + 1) if (np.diff(nearest) == 1).all() else nearest
    at_grid = values.isel(positions)
    return at_grid.assign_coords(latitude=grid.latitude, longitude=grid.longitude)


def _check_scale(surface: xr.DataArray) -> None:
    """Refuse reflectance that was not scaled, or scaled twice, or contains fill values, from a sample of it."""
    steps = {dim: slice(None, None, max(1, surface.sizes[dim] // _SAMPLE_CELLS)) for dim in _CELLS}
    steps[DAY] = slice(None, None, max(1, surface.sizes[DAY] // _SAMPLE_DAYS))
    bands = [name for name in surface[BAND].values if name != "snow"]
    part = surface.sel({BAND: bands}).isel(steps)
    values = part.values if part.chunks is None else part.compute(scheduler="synchronous").values
    known = values[np.isfinite(values)]
    wrong = known[(known < _VALID[0]) | (known > _VALID[1])]
    if wrong.size:
        raise SourceError(
            f"surface: expected reflectance from 0 to 1, found {wrong.flat[np.abs(wrong).argmax()]:g} in {wrong.size} "
            f"of {known.size} sampled values: scale it (MODIS products by 0.0001), and set fill values to NaN."
        )
    if known.size and 0 < np.percentile(np.abs(known), 95) < _TOO_DARK:
        raise SourceError(
            f"surface: expected reflectance from 0 to 1, found at most {known.max():g} in {known.size} sampled values: "
            "it was probably scaled twice; multiply it by 10000."
        )


# --- attributes ----------------------------------------------------------------------------------------------------


def _attrs(rasters: Sequence[Raster]) -> dict[str, object]:
    """Return the attributes of reflectance from rasters; their collection, if all are of one."""
    collections = {collection_of(raster.path) for raster in rasters} - {""}
    known = {"collection": collections.pop()} if len(collections) == 1 else {}
    return {**SURFACE_ATTRS, "comment": surface_comment(), **known}


def _climatology_attrs(days: np.ndarray) -> dict[str, str]:
    return {
        "long_name": "statistics of the surface reflectance and of indices under a clear sky",
        "units": "1",
        "comment": f"Of all views from {days[0]} to {days[-1]}: 10th, 50th and 90th percentile, and monthly means.",
    }


def _coords(days: np.ndarray, bands: Sequence[str], features: Sequence[str]) -> Mapping[str, tuple]:
    return {
        DAY: (DAY, days.astype("datetime64[ns]"), {"long_name": "date of the view"}),
        BAND: (BAND, np.array(bands, object)),
        **_label_coords(features),
    }


def _label_coords(features: Sequence[str]) -> dict[str, tuple]:
    return {
        "statistic": ("statistic", np.array(STATISTICS, object)),
        "feature": ("feature", np.array(features, object)),
    }
