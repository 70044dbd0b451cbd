"""The forcing cube: the model inputs of every cell of a grid, from ERA5 and MODIS."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import xarray as xr

from fluxcube.cubes.chips import CHIP_ATTRS, RasterSource, chip_coords, chip_days, source_rasters
from fluxcube.cubes.forcing_blocks import Chunks, chips, touches, weather
from fluxcube.cubes.forcing_cells import Cells, at_cells, land_cells, plain_cells
from fluxcube.cubes.forcing_request import FileSource, ForcingRequest
from fluxcube.cubes.forcing_store import is_forcing_store, open_forcing_store
from fluxcube.cubes.forcing_surface import SurfaceSource, grid_surface
from fluxcube.errors import ConfigError, SourceError
from fluxcube.geometry import cell_area
from fluxcube.schema import validate_forcing, variable_coords
from fluxcube.sources.era5.files import read_files
from fluxcube.sources.era5.open import extent, storage_chunks
from fluxcube.sources.era5.series import Files
from fluxcube.sources.era5.variables import available, cell_coords, check_available, normal_chunks
from fluxcube.sources.modis.rasters import Tile, find_tiles
from fluxcube.stores.origin import named, origin_of_path
from fluxcube.variables import BANDS, COMPUTED, check_role
from fluxcube.variables import predictors as all_predictors

log = logging.getLogger(__name__)

_CELLS = ("latitude", "longitude")
_DAYS_PER_CHUNK = 92
# A model uses the latest chip: days before the first hour that are still of use to it.
_DAYS_BEFORE = np.timedelta64(32, "D")
#: Maximum number of bytes of a block and the arrays it is computed from: a worker has 2 GiB, part of it for the model.
_MAX_BYTES = 1 << 30
# A warning is logged if the chunks of the files contain more than this many times what a block keeps.
_WASTE = 16


#: A forcing that is open, or the path or URL of its store or its files.
Forcing: TypeAlias = xr.Dataset | str | os.PathLike


def as_forcing(forcing: Forcing) -> xr.Dataset:
    """Return a forcing: an open one as it is, that of a path or URL opened lazily (ConfigError if it is neither)."""
    if isinstance(forcing, str | os.PathLike):
        return open_forcing(forcing)
    if isinstance(forcing, xr.Dataset):
        return forcing
    raise ConfigError(f"forcing: expected a Dataset, or the path or URL of one, found {type(forcing).__name__}.")


def open_forcing(
    era5: FileSource,
    *,
    modis: str | os.PathLike | Sequence | None = None,
    surface: SurfaceSource | None = None,
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
    check: bool = True,
    storage_options: Mapping[str, object] | None = None,
) -> xr.Dataset:
    """Open ERA5 and, optionally, MODIS rasters as a lazy forcing cube; or open a forcing store.

    Headers, static fields, land cover and small samples are read immediately; weather and chips when they are computed,
    block by block. Files whose own chunks span the globe, as those of ARCO-ERA5, are read again for each block, which
    is logged: copy the region once (`fluxcube.copy_era5`), or request large blocks of a short time in `chunks`.

    Parameters
    ----------
    era5 : path, folder, URL, xr.Dataset or list of these
        Hourly ERA5 or ERA5-Land: NetCDF, zips of it, or Zarr such as ARCO-ERA5
        (`fluxcube.sources.era5.variables.open_era5`); or an open Dataset of its parameters, such as a virtual store,
        an Icechunk session or items of a STAC catalogue, to which the same checks apply. Or a store that
        `fluxcube.write_forcing` wrote, which accepts
        `predictors`, `bbox`, `time` and `storage_options` only.
    modis : path, folder or list, optional
        MCD43A4 and MCD43A2 rasters (`fluxcube.sources.modis.rasters`).
    surface : path, folder, list, xr.Dataset or xr.DataArray, optional
        Surface reflectance under a clear sky: MOD09GA rasters with their state flags, read by the same rule as for
        towers; or a NetCDF file, a Zarr store or a Dataset with `surface (latitude, longitude, day, band)` on the cells
        of the grid (`fluxcube.cubes.forcing_surface`).
    land_cover : path, folder or list, optional
        MCD12Q1 rasters. The class of a cell is the most frequent of its pixels, water only if there is no other, since
        fluxes are those of the land part of a cell. Its chip is the purest block of that class, the nearest to the
        centre among equals. Without land cover a chip lies at the cell's centre.
    igbp : str or DataArray (latitude, longitude), optional
        Class of every cell, instead of `land_cover`.
    chips_per_cell : int, optional
        Number of blocks of 4 km in each cell, stratified by land cover; the fluxes of a cell are then the mean over
        its blocks, and their variance is known. Needs `land_cover` and `modis`.
    elevation : float or DataArray (latitude, longitude), optional
        Height of the ground (m) at each cell, such as that of a finer elevation model, or of a tower. Pressure is
        converted to it from the height of ERA5's orography (``z``) by the hypsometric equation; other variables are
        unchanged.
    predictors : str or sequence of str, optional
        Predictors to open; default: all that can be computed from the files, and DOY, TOD and SW_IN_POT.
    bbox : (west, south, east, north), optional
        Degrees; selects cells whose centres lie inside. A box with west > east, or one such as 170 to 190, crosses the
        antimeridian.
    time : slice or (start, stop), optional
        Hours to select (UTC), both ends included, as in xarray. Chips are kept from 32 days before the start, surface
        reflectance from 96 days before it.
    resolution : float, optional
        Step (degrees) of a grid finer than that of the files, such as 0.05; cell edges are whole multiples of it.
        Weather is interpolated to its centres bilinearly among the four surrounding cells, weighted by their shares of
        land, so that conditions over the sea do not affect a coast. Temperature is not corrected for height.
    chunks : mapping, optional
        Sizes of Dask chunks of latitude, longitude (default 16 each) and time (default 2208 hours); -1 is the whole
        dimension.
    accumulation : {"hour", "day"}, optional
        As in `open_era5`.
    allow_gaps : bool
        Leave hours without time stamps missing, instead of raising an error.
    check : bool
        Whether values at sampled hours and cells are checked against their declared units, and sunlight against
        SW_IN_POT (`fluxcube.sources.era5.checks`). False only for values that were found to be right all the same.
    storage_options : mapping, optional
        Options of fsspec to reach a URL, such as ``{"token": "anon"}``; they are part of the Dask graph.

    Returns
    -------
    xr.Dataset
        ``predictors (latitude, longitude, time, variable)`` and, with `modis`, ``modis (latitude, longitude, day,
        band, y, x)``, float32; with `surface`, ``surface (latitude, longitude, surface_day, surface_band)`` and
        ``surface_climatology (latitude, longitude, statistic, feature)``, which is that of the whole record of
        `surface`; elevation, igbp and land_fraction on (latitude, longitude). With `chips_per_cell`, images and
        reflectance have the dimension ``block`` after longitude. See `fluxcube.schema`.

    Raises
    ------
    SourceError
        If files lack required data, or do not fit together.
    UnknownNameError
        If a predictor or class is unknown.
    ConfigError
        If a predictor cannot be computed from the files, options contradict each other, or a block is too large.

    Examples
    --------
    >>> import fluxcube as fc
    >>> forcing = fc.open_forcing("era5/", modis="tiles/", land_cover="landcover/")  # doctest: +SKIP
    """
    request = ForcingRequest(
        era5=era5,
        modis=modis,
        surface=surface,
        land_cover=land_cover,
        igbp=igbp,
        chips_per_cell=chips_per_cell,
        elevation=elevation,
        predictors=predictors,
        bbox=bbox,
        time=time,
        resolution=resolution,
        chunks=chunks,
        accumulation=accumulation,
        allow_gaps=allow_gaps,
        check=check,
        storage_options=storage_options,
    )
    if is_forcing_store(era5, storage_options):
        request.check_for_store()
        return open_forcing_store(era5, predictors=predictors, bbox=bbox, time=time, storage_options=storage_options)
    request.check_for_files()
    return _open_files(request)


def _open_files(request: ForcingRequest) -> xr.Dataset:
    """Open the files of a request as a forcing cube."""
    grid = read_files(
        request.era5,
        accumulation=request.accumulation,
        bbox=request.bbox,
        time=request.time,
        resolution=request.resolution,
        allow_gaps=request.allow_gaps,
        check=request.check,
        storage_options=request.storage_options,
    )
    names = _names(request.predictors, grid)
    shape = len(grid.latitude), len(grid.longitude)
    sizes = normal_chunks(request.chunks, dict(zip((*_CELLS, "time"), (*shape, len(grid.time)), strict=True)))
    _check_blocks(grid, names, sizes)
    heights = None if request.elevation is None else _heights(request.elevation, grid, names)
    cells = _cells(request, grid)
    ds = _weather_cube(grid, names, sizes, heights).assign_coords(
        igbp=(_CELLS, cells.igbp, {"long_name": "IGBP land-cover class"})
    )
    if heights is not None:
        ds["elevation"] = ds.elevation.copy(data=heights).assign_attrs(long_name="height of the ground")
    if request.land_cover is not None and (request.resolution is not None or not grid.masked):
        ds = _with_land_fraction(ds, cells, grid)
    ds.attrs |= named(origin_of_path(request.era5), "era5")
    if request.modis is not None:
        ds.attrs["title"] += " and MODIS"
        ds["modis"] = _modis(request.modis, cells, grid, sizes, request.chips_per_cell)
    if request.surface is not None:
        reflectance = grid_surface(request.surface, cells, grid, sizes, request.chips_per_cell)
        ds = ds.assign(reflectance.data_vars).assign_coords(reflectance.coords)
    if request.chips_per_cell:
        ds = ds.assign_coords(_block_coords(cells))
    return validate_forcing(ds)


def _names(requested: str | Sequence[str] | None, grid: Files) -> tuple[str, ...]:
    """Return the predictors to open; raise an error if one cannot be computed from the files."""
    if requested is None:
        return tuple(name for name in all_predictors() if name in COMPUTED or name in available(grid))
    names = check_role((requested,) if isinstance(requested, str) else requested, "predictor")
    check_available([name for name in names if name not in COMPUTED], grid)
    return names


def _cells(request: ForcingRequest, grid: Files) -> Cells:
    if request.land_cover is None:
        return plain_cells(request.igbp, grid)
    return land_cells(request.land_cover, grid, request.chips_per_cell or 1)


def _weather_cube(grid: Files, names: tuple[str, ...], sizes: Chunks, heights: np.ndarray | None) -> xr.Dataset:
    """Return the lazy predictors of a grid with their coordinates, except classes."""
    from dask.base import tokenize

    values = weather(grid, names, sizes, heights, tokenize(grid.token, names, sizes, heights))
    return xr.Dataset(
        {"predictors": ((*_CELLS, "time", "variable"), values)},
        coords={
            **cell_coords(grid),
            **_geometry(grid),
            "time": ("time", grid.time, {"long_name": "start of the hour, UTC", "standard_name": "time"}),
            **variable_coords(names),
        },
        attrs={
            "kind": "forcing",
            "Conventions": "CF-1.11",
            "title": "forcing for flux maps from ERA5",
            "clock": "solar",
            "accumulation": grid.accumulation,
        },
    )


def _with_land_fraction(ds: xr.Dataset, cells: Cells, grid: Files) -> xr.Dataset:
    """Return a cube whose land fraction is that of MODIS land cover, which is finer than ERA5's mask."""
    fraction = np.where(cells.igbp == "", grid.land_fraction, cells.land)
    # A cell without any value of ERA5 does not count as land.
    land = ds.land_fraction.copy(data=np.where(grid.land_fraction > 0, fraction, 0.0))
    return ds.assign_coords(land_fraction=land.assign_attrs(comment="share of pixels that are not water (MCD12Q1)"))


def _check_blocks(grid: Files, names: Sequence[str], sizes: Chunks) -> None:
    """Raise an error if blocks do not fit in a worker's RAM; log a warning if files are read many times."""
    rows, cols, hours = (max(sizes[dim]) for dim in (*_CELLS, "time"))
    bytes_ = rows * cols * hours * (8 * len(names) + 8 * len(grid.parameters))
    if bytes_ > _MAX_BYTES:
        raise ConfigError(
            f"chunks of {rows} x {cols} cells and {hours} hours need {bytes_ / 2**30:.1f} GiB of RAM while they are "
            f"computed, more than {_MAX_BYTES / 2**30:g} GiB: request smaller ones in chunks=, e.g. "
            f"{{'time': {max(24, hours * _MAX_BYTES // bytes_ // 24 * 24)}}}."
        )
    name, series = next((name, series[0]) for name, series in grid.parameters.items())
    array = series.source.open()[name]
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
            "Copy the region once with fluxcube.copy_era5, or request larger chunks= of cells and a shorter time",
            series.source,
            stored,
            (hours, rows, cols),
            waste,
        )


def _heights(elevation: float | xr.DataArray, grid: Files, names: Sequence[str]) -> np.ndarray:
    """Return the height of the ground (m) at each cell (latitude, longitude)."""
    shape = len(grid.latitude), len(grid.longitude)
    values = at_cells(elevation, grid, "elevation").values if isinstance(elevation, xr.DataArray) else elevation
    heights = np.broadcast_to(np.asarray(values, "float64"), shape).copy()
    wrong = heights[(heights < -500) | (heights > 9000)]
    if wrong.size:
        raise ConfigError(f"elevation must be in m, from -500 to 9000; found {wrong.flat[0]:g}.")
    if "PA" in names and np.isnan(grid.elevation).any():
        raise ConfigError(
            "pressure can be converted to an elevation only from a known height: add ERA5's geopotential (z) on the "
            "same grid to the files, or leave out PA or elevation."
        )
    return heights


def _geometry(grid: Files) -> dict[str, tuple]:
    """Return the edges and areas of the cells."""
    high, wide = grid.step
    lat = np.clip(_edges(grid.latitude, high), -90.0, 90.0)
    lon = _edges(grid.longitude, wide)
    return {
        "latitude_bnds": (("latitude", "bnds"), lat),
        "longitude_bnds": (("longitude", "bnds"), lon),
        "cell_area": (_CELLS, cell_area(lat, lon), {"units": "m2", "standard_name": "cell_area"}),
    }


def _edges(centres: np.ndarray, step: float) -> np.ndarray:
    """Return the first and second edge of each cell (cell, 2), in the order of the axis."""
    falling = len(centres) > 1 and 0 < centres[0] - centres[1] < 180
    half = -step / 2 if falling else step / 2
    return np.round(np.stack([centres - half, centres + half], 1), 9)


def _modis(source: RasterSource, cells: Cells, grid: Files, sizes: Chunks, blocks: int | None) -> xr.DataArray:
    """Return lazy chips (latitude, longitude, [block,] day, band, y, x)."""
    from dask.base import tokenize

    tiles = _tiles(source, cells, grid)
    days = chip_days(tiles)
    if not len(days):
        begin, end = _days(grid)
        raise SourceError(
            f"no MCD43A4 raster of {begin} to {end} in {source} covers the grid "
            f"(latitudes {grid.latitude.min():g} to {grid.latitude.max():g}, "
            f"longitudes {grid.longitude.min():g} to {grid.longitude.max():g})."
        )
    spans = normal_chunks({"day": _DAYS_PER_CHUNK}, {"day": len(days)})["day"]
    chunks = (sizes["latitude"], sizes["longitude"], (blocks or 1,), spans, (len(BANDS),), (8,), (8,))
    states = {path: path.stat() for tile in tiles for path in tile.files}
    changed = [(str(path.absolute()), state.st_size, state.st_mtime_ns) for path, state in states.items()]
    centres = cells.latitude, cells.longitude
    data = chips(tiles, centres, days, chunks, tokenize(changed, centres, chunks))
    dims = (*_CELLS, "block", "day", "band", "y", "x")
    lazy = xr.DataArray(data, dims=dims, coords=chip_coords(days), attrs=CHIP_ATTRS)
    return lazy if blocks else lazy.isel(block=0)


def _days(grid: Files) -> tuple[np.datetime64, np.datetime64]:
    """Return the first and last day of chips that are of use to a grid's hours."""
    begin, end = (grid.time[i].astype("datetime64[D]") for i in (0, -1))
    return begin - _DAYS_BEFORE, end


def _tiles(source: RasterSource, cells: Cells, grid: Files) -> list[Tile]:
    """Return the rasters of the grid's time that contain pixels of its chips."""
    begin, end = _days(grid)
    rasters = [r for r in source_rasters(source) if begin <= r.day <= end]
    if not rasters:
        raise SourceError(f"no MODIS raster from {begin} to {end} in {source}: pass those of these days.")
    tiles = find_tiles(rasters)
    corners = np.array([(t.row, t.row + t.height, t.col, t.col + t.width) for t in tiles])
    return [tiles[n] for n in np.flatnonzero(touches(corners, cells.latitude, cells.longitude))]


def _block_coords(cells: Cells) -> dict[str, tuple]:
    dims = (*_CELLS, "block")
    share = {"units": "1", "long_name": "share of the cell's land that a block stands for"}
    return {
        "block_weight": (dims, cells.weights, share),
        "block_igbp": (dims, cells.classes, {"long_name": "IGBP land-cover class of a block"}),
        "block_latitude": (dims, cells.latitude, {"units": "degrees_north"}),
        "block_longitude": (dims, cells.longitude, {"units": "degrees_east"}),
    }
