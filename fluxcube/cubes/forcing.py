"""The forcing cube: what a model is driven with in every cell of a grid, from ERA5 and MODIS."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from fluxcube.cubes.chips import CHIP_ATTRS, chip_coords, chip_days, source_rasters
from fluxcube.cubes.forcing_blocks import Chunks, chips, touches, weather
from fluxcube.cubes.forcing_cells import Cells, at_cells, land_cells, plain_cells
from fluxcube.cubes.forcing_store import is_forcing_store, open_forcing_store
from fluxcube.errors import ConfigError, SourceError
from fluxcube.geometry import cell_area
from fluxcube.schema import validate_forcing, variable_coords
from fluxcube.sources.era5.files import read_files
from fluxcube.sources.era5.open import extent, storage_chunks
from fluxcube.sources.era5.series import Files
from fluxcube.sources.era5.variables import available, cell_coords, check_available, normal_chunks
from fluxcube.sources.modis.rasters import find_tiles
from fluxcube.variables import BANDS, COMPUTED, check_role
from fluxcube.variables import predictors as all_predictors

log = logging.getLogger(__name__)

_CELLS = ("latitude", "longitude")
_DAYS_PER_CHUNK = 92
# A model looks back for the latest chip: days before the first hour that are still of use to it.
_DAYS_BEFORE = np.timedelta64(32, "D")
#: Most bytes of one block with all that it is made of: a worker has 2 GiB, and a forward pass takes its part.
_MOST_BYTES = 1 << 30
# A block whose files' own chunks hold this many times what it keeps is worth a word.
_WASTE = 16


def open_forcing(
    era5: str | os.PathLike | Sequence[str | os.PathLike],
    *,
    modis: str | os.PathLike | Sequence | None = None,
    land_cover: str | os.PathLike | Sequence | None = None,
    igbp: str | xr.DataArray | None = None,
    chips_per_cell: int | None = None,
    elevation: float | xr.DataArray | None = None,
    predictors: str | Sequence[str] | None = None,
    bbox: tuple[float, float, float, float] | None = None,
    time: slice | tuple | None = None,
    resolution: float | None = None,
    chunks: Mapping[str, int] | None = None,
    accumulation: str | None = None,
    allow_gaps: bool = False,
    storage_options: Mapping[str, object] | None = None,
) -> xr.Dataset:
    """Open ERA5, and MODIS rasters if there are any, as a lazy forcing cube.

    Headers, static fields, land cover and small samples are read at once; weather and chips when they are computed,
    block by block. Files whose own chunks span a globe, as ARCO-ERA5's do, are read again for each block, which the log
    says: copy what is wanted of them once (`fluxcube.copy_era5`), or ask for large blocks of a short time in `chunks`.

    Parameters
    ----------
    era5 : path, folder, URL or list of these
        Hourly ERA5 or ERA5-Land: NetCDF, zips of it, or Zarr such as ARCO-ERA5
        (`fluxcube.sources.era5.variables.open_era5`).
    modis : path, folder or list, optional
        MCD43A4 and MCD43A2 GeoTIFFs (`fluxcube.sources.modis.rasters`).
    land_cover : path, folder or list, optional
        MCD12Q1 GeoTIFFs. A cell's class is the most frequent of its pixels, water only if there is nothing else,
        since fluxes are of the land part of a cell; its chip is the purest block of that class, the nearest to
        the centre among equals. Without it a chip lies at the cell's centre.
    igbp : str or DataArray (latitude, longitude), optional
        Class of every cell, instead of `land_cover`.
    chips_per_cell : int, optional
        Blocks of 4 km of each cell, stratified by land cover; the fluxes of a cell are then the mean of theirs, and
        their variance is known. Needs `land_cover` and `modis`.
    elevation : float or DataArray (latitude, longitude), optional
        Height of the ground (m) at each cell, such as that of a finer elevation model, or of a tower. Pressure is
        brought to it from the height of ERA5's orography (``z``) by the hypsometric equation; nothing else is.
    predictors : str or sequence of str, optional
        Predictors wanted; by default all that the files can make, and DOY, TOD and SW_IN_POT.
    bbox : (west, south, east, north), optional
        Degrees; cells whose centres lie inside. West above east crosses the antimeridian, as 170 to 190 does.
    time : slice or (start, stop), optional
        Hours wanted, both ends included, as in xarray. Chips are kept from 32 days before it.
    resolution : float, optional
        Step (degrees) of a finer grid than the files', such as 0.05, whose cells' edges are whole multiples of it.
        Weather comes to its centres by bilinear interpolation among the four cells around, each counted by its share
        of land, too, so that no sea wind blows on a coast. Temperature is not corrected for height.
    chunks : mapping, optional
        Sizes of Dask chunks of latitude, longitude (16 each by default) and time (2208 hours); -1 is all.
    accumulation : {"hour", "day"}, optional
        As in `open_era5`.
    allow_gaps : bool
        Leave hours missing that a member has no stamps for, instead of refusing them.
    storage_options : mapping, optional
        What fsspec needs to reach a URL, e.g. ``{"token": "anon"}``; it travels with the graph.

    Returns
    -------
    xr.Dataset
        ``predictors (latitude, longitude, time, variable)`` and, with `modis`, ``modis (latitude, longitude, day,
        band, y, x)``, float32; elevation, igbp and land_fraction on (latitude, longitude). See `fluxcube.schema`.

    Raises
    ------
    SourceError
        If files are not what they must be.
    UnknownNameError
        If a predictor or class is in no table.
    ConfigError
        If a predictor cannot be made from the files, options contradict each other, or a block is too large.
    """
    if is_forcing_store(era5):
        return open_forcing_store(
            era5,
            predictors=predictors,
            bbox=bbox,
            time=time,
            storage_options=storage_options,
            modis=modis,
            land_cover=land_cover,
            igbp=igbp,
            chips_per_cell=chips_per_cell,
            elevation=elevation,
            resolution=resolution,
            chunks=chunks,
            accumulation=accumulation,
            allow_gaps=allow_gaps,
        )
    _check_options(land_cover, igbp, modis, chips_per_cell)
    grid = read_files(
        era5,
        accumulation=accumulation,
        bbox=bbox,
        time=time,
        resolution=resolution,
        allow_gaps=allow_gaps,
        storage_options=storage_options,
    )
    names = _names(predictors, grid)
    shape = len(grid.latitude), len(grid.longitude)
    sizes = normal_chunks(chunks, dict(zip((*_CELLS, "time"), (*shape, len(grid.time)), strict=True)))
    _check_blocks(grid, names, sizes)
    heights = None if elevation is None else _heights(elevation, grid, names)
    cells = plain_cells(igbp, grid) if land_cover is None else land_cells(land_cover, grid, chips_per_cell or 1)
    ds = xr.Dataset(
        {"predictors": ((*_CELLS, "time", "variable"), _predictors(grid, names, sizes, heights))},
        coords={
            **cell_coords(grid),
            **_geometry(grid),
            "time": ("time", grid.time, {"long_name": "start of the hour, UTC", "standard_name": "time"}),
            **variable_coords(names),
            "igbp": (_CELLS, cells.igbp, {"long_name": "IGBP land-cover class"}),
        },
        attrs={
            "kind": "forcing",
            "Conventions": "CF-1.11",
            "title": "forcing for flux maps from ERA5" + (" and MODIS" if modis is not None else ""),
            "clock": "solar",
            "accumulation": grid.accumulation,
        },
    )
    if heights is not None:
        ds["elevation"] = ds.elevation.copy(data=heights).assign_attrs(long_name="height of the ground")
    if land_cover is not None and (resolution is not None or not grid.masked):
        # Where cells are finer than ERA5's, so is MODIS than its mask; without values of ERA5 there is no land.
        land = np.where(cells.igbp == "", grid.land_fraction, cells.land)
        land = ds.land_fraction.copy(data=np.where(grid.land_fraction > 0, land, 0.0))
        ds = ds.assign_coords(land_fraction=land.assign_attrs(comment="share of pixels that are not water (MCD12Q1)"))
    if modis is not None:
        ds["modis"] = _modis(modis, cells, grid, sizes, chips_per_cell)
        ds = ds.assign_coords(_block_coords(cells) if chips_per_cell else {})
    return validate_forcing(ds)


def _check_options(land_cover: object, igbp: object, modis: object, chips_per_cell: int | None) -> None:
    if land_cover is not None and igbp is not None:
        raise ConfigError("give land_cover or igbp, not both: each says what grows in a cell.")
    if chips_per_cell is None:
        return
    if not isinstance(chips_per_cell, (int, np.integer)) or not 1 <= chips_per_cell <= 64:
        raise ConfigError(f"chips_per_cell must be a whole number from 1 to 64, found {chips_per_cell!r}.")
    if land_cover is None or modis is None:
        raise ConfigError("chips_per_cell needs modis= and land_cover=: blocks are stratified by what grows in a cell.")


def _names(wanted: str | Sequence[str] | None, grid: Files) -> tuple[str, ...]:
    if wanted is None:
        return tuple(name for name in all_predictors() if name in COMPUTED or name in available(grid))
    names = check_role((wanted,) if isinstance(wanted, str) else wanted, "predictor")
    check_available([name for name in names if name not in COMPUTED], grid)
    return names


def _check_blocks(grid: Files, names: Sequence[str], sizes: Chunks) -> None:
    """Refuse blocks that fit in no worker, and say where files are read many times over."""
    rows, cols, hours = (max(sizes[dim]) for dim in (*_CELLS, "time"))
    bytes_ = rows * cols * hours * (8 * len(names) + 8 * len(grid.parameters))
    if bytes_ > _MOST_BYTES:
        raise ConfigError(
            f"chunks of {rows} x {cols} cells and {hours} hours take {bytes_ / 2**30:.1f} GiB while they are made, "
            f"more than {_MOST_BYTES / 2**30:g}: ask for smaller ones in chunks=, e.g. "
            f"{{'time': {max(24, hours * _MOST_BYTES // bytes_ // 24 * 24)}}}."
        )
    name, run = next((name, runs[0]) for name, runs in grid.parameters.items())
    array = run.source.open()[name]
    stored = storage_chunks(array)
    if stored is None:
        return
    kept = [hours, len(grid.rows[:rows].needed), len(grid.columns[:cols].needed)]
    read = [min(-(-a // b) * b, size) for a, b, size in zip(kept, stored, extent(array), strict=True)]
    waste = np.prod(read, dtype=float) / np.prod(kept, dtype=float)
    again = np.prod([min(waste, len(sizes[dim])) for dim in _CELLS])
    if waste > _WASTE and again > 1:
        log.warning(
            "%s is stored in chunks of %s (time, latitude, longitude): a block of %s reads %.0f times what it keeps. "
            "Copy the region once with fluxcube.copy_era5, or give larger chunks= of cells and a shorter time",
            run.source,
            stored,
            (hours, rows, cols),
            waste,
        )


def _heights(elevation: float | xr.DataArray, grid: Files, names: Sequence[str]) -> np.ndarray:
    """Height of the ground (m) at each cell."""
    shape = len(grid.latitude), len(grid.longitude)
    given = at_cells(elevation, grid, "elevation").values if isinstance(elevation, xr.DataArray) else elevation
    heights = np.broadcast_to(np.asarray(given, "float64"), shape).copy()
    wrong = heights[(heights < -500) | (heights > 9000)]
    if wrong.size:
        raise ConfigError(f"elevation must be in m, from -500 to 9000; found {wrong.flat[0]:g}.")
    if "PA" in names and np.isnan(grid.elevation).any():
        raise ConfigError(
            "pressure can be brought to the elevation given only from a known one: add ERA5's geopotential (z) of the "
            "same grid to the files, or leave out PA or elevation."
        )
    return heights


def _geometry(grid: Files) -> dict:
    """Edges and areas of the cells."""
    high, wide = grid.step
    lat = np.clip(_edges(grid.latitude, high), -90.0, 90.0)
    lon = _edges(grid.longitude, wide)
    return {
        "latitude_bnds": (("latitude", "bnds"), lat),
        "longitude_bnds": (("longitude", "bnds"), lon),
        "cell_area": (_CELLS, cell_area(lat, lon), {"units": "m2", "standard_name": "cell_area"}),
    }


def _edges(centres: np.ndarray, step: float) -> np.ndarray:
    """First and second edge of each cell, in the order of the axis."""
    falling = len(centres) > 1 and 0 < centres[0] - centres[1] < 180
    half = -step / 2 if falling else step / 2
    return np.round(np.stack([centres - half, centres + half], 1), 9)


def _predictors(grid: Files, names: tuple[str, ...], sizes: Chunks, heights: np.ndarray | None):
    from dask.base import tokenize

    return weather(grid, names, sizes, heights, tokenize(grid.token, names, sizes, heights))


def _modis(source: object, cells: Cells, grid: Files, sizes: Chunks, blocks: int | None) -> xr.DataArray:
    """Lazy chips (latitude, longitude, [block,] day, band, y, x)."""
    from dask.base import tokenize

    begin, end = (grid.time[i].astype("datetime64[D]") for i in (0, -1))
    rasters = [r for r in source_rasters(source) if begin - _DAYS_BEFORE <= r.day <= end]
    if not rasters:
        raise SourceError(
            f"no MODIS raster from {begin - _DAYS_BEFORE} to {end} in {source}: give those of these days."
        )
    tiles = find_tiles(rasters)
    corners = np.array([(t.row, t.row + t.height, t.col, t.col + t.width) for t in tiles])
    tiles = [tiles[n] for n in np.flatnonzero(touches(corners, cells.latitude, cells.longitude))]
    days = chip_days(tiles)
    if not len(days):
        raise SourceError(
            f"no MCD43A4 raster of {begin - _DAYS_BEFORE} to {end} in {source} covers the grid "
            f"(latitudes {grid.latitude.min():g} to {grid.latitude.max():g}, "
            f"longitudes {grid.longitude.min():g} to {grid.longitude.max():g})."
        )
    spans = normal_chunks({"day": _DAYS_PER_CHUNK}, {"day": len(days)})["day"]
    chunks = (sizes["latitude"], sizes["longitude"], (blocks or 1,), spans, (len(BANDS),), (8,), (8,))
    changed = [(str(tile.path), tile.path.stat().st_mtime_ns) for tile in tiles]
    centres = cells.latitude, cells.longitude
    data = chips(tiles, centres, days, chunks, tokenize(changed, centres, chunks))
    dims = (*_CELLS, "block", "day", "band", "y", "x")
    lazy = xr.DataArray(data, dims=dims, coords=chip_coords(days), attrs=CHIP_ATTRS)
    return lazy if blocks else lazy.isel(block=0)


def _block_coords(cells: Cells) -> dict:
    dims = (*_CELLS, "block")
    share = {"units": "1", "long_name": "share of the cell's land that a block stands for"}
    return {
        "block_weight": (dims, cells.weights, share),
        "block_igbp": (dims, cells.classes, {"long_name": "IGBP land-cover class of a block"}),
        "block_latitude": (dims, cells.latitude, {"units": "degrees_north"}),
        "block_longitude": (dims, cells.longitude, {"units": "degrees_east"}),
    }
