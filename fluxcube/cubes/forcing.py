"""The forcing cube: what a model is driven with in every cell of a grid, from ERA5 and MODIS."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from fluxcube.biomes import igbp_code, igbp_number
from fluxcube.cubes.chips import (
    CHIP_ATTRS,
    chip_coords,
    chip_days,
    chip_index,
    read_chips,
    sinusoidal_pixel,
    source_rasters,
)
from fluxcube.errors import ConfigError, SourceError
from fluxcube.schema import validate_forcing, variable_coords
from fluxcube.solar import potential_radiation
from fluxcube.sources.era5 import available, cell_coords, check_available, normal_chunks, read_block
from fluxcube.sources.era5_files import Files, read_files
from fluxcube.sources.modis import COLS, ROWS, Tile, find_tiles, read_land_cover
from fluxcube.timestamps import local_clock
from fluxcube.variables import BANDS, COMPUTED, check_role
from fluxcube.variables import predictors as all_predictors

log = logging.getLogger(__name__)

_CELLS = ("latitude", "longitude")
_WATER = igbp_number("WAT")
_FILL = 255
_PER_DEGREE = ROWS // 180
_DAYS_PER_CHUNK = 92
# A model looks back for the latest chip: days before the first hour that are still of use to it.
_DAYS_BEFORE = np.timedelta64(32, "D")


def open_forcing(
    era5: str | os.PathLike | Sequence[str | os.PathLike],
    *,
    modis: str | os.PathLike | Sequence | None = None,
    land_cover: str | os.PathLike | Sequence | None = None,
    igbp: str | xr.DataArray | None = None,
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

    Headers, static fields, land cover and a small sample of accumulations are read at once; weather and chips
    when they are computed, block by block. Files whose storage chunks span the whole globe are read again for
    each block: for large grids ask for whole latitudes and longitudes and a short time in `chunks`.

    Parameters
    ----------
    era5 : path, folder, URL or list of these
        Hourly ERA5 or ERA5-Land: NetCDF, zips of it, or Zarr such as ARCO-ERA5 (`fluxcube.sources.era5.open_era5`).
    modis : path, folder or list, optional
        MCD43A4 and MCD43A2 GeoTIFFs (`fluxcube.sources.modis`).
    land_cover : path, folder or list, optional
        MCD12Q1 GeoTIFFs. A cell's class is the most frequent of its pixels, water only if there is nothing else,
        since fluxes are of the land part of a cell; its chip is the purest block of that class, the nearest to
        the centre among equals. Without it a chip lies at the cell's centre.
    igbp : str or DataArray (latitude, longitude), optional
        Class of every cell, instead of `land_cover`.
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
        If a predictor cannot be made from the files, or options contradict each other.
    """
    if land_cover is not None and igbp is not None:
        raise ConfigError("give land_cover or igbp, not both: each says what grows in a cell.")
    grid = read_files(
        era5, accumulation=accumulation, bbox=bbox, time=time, resolution=resolution, allow_gaps=allow_gaps,
        storage_options=storage_options,
    )  # fmt: skip
    names = _names(predictors, grid)
    shape = len(grid.latitude), len(grid.longitude)
    sizes = normal_chunks(chunks, dict(zip((*_CELLS, "time"), (*shape, len(grid.time)), strict=True)))
    cells = _land_cells(land_cover, grid) if land_cover is not None else _plain_cells(igbp, grid)
    ds = xr.Dataset(
        {"predictors": ((*_CELLS, "time", "variable"), _predictors(grid, names, sizes))},
        coords={
            **cell_coords(grid),
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
    if land_cover is not None and not grid.masked:
        land = ds.land_fraction.copy(data=np.minimum(cells.land, ds.land_fraction.values))
        ds = ds.assign_coords(land_fraction=land.assign_attrs(comment="share of pixels that are not water (MCD12Q1)"))
    if modis is not None:
        ds["modis"] = _modis(modis, cells, grid, sizes)
    return validate_forcing(ds)


@dataclass(frozen=True)
class _Cells:
    """Per cell (latitude, longitude): class, share of land (NaN unknown), and where its chip is centred."""

    igbp: np.ndarray
    land: np.ndarray
    latitude: np.ndarray
    longitude: np.ndarray


def _names(wanted: str | Sequence[str] | None, grid: Files) -> tuple[str, ...]:
    if wanted is None:
        return tuple(name for name in all_predictors() if name in COMPUTED or name in available(grid))
    names = check_role((wanted,) if isinstance(wanted, str) else wanted, "predictor")
    check_available([name for name in names if name not in COMPUTED], grid)
    return names


def _predictors(grid: Files, names: tuple[str, ...], sizes: Mapping[str, tuple[int, ...]]):
    """Lazy (latitude, longitude, time, variable): one task a block, which reads and computes all variables."""
    import dask.array as da
    from dask.base import tokenize

    read_names = tuple(name for name in names if name not in COMPUTED)

    def block(block_info=None) -> np.ndarray:
        rows, cols, time, _ = (slice(*edges) for edges in block_info[None]["array-location"])
        values = dict(zip(read_names, read_block(grid, read_names, time, rows, cols), strict=True))
        values |= _computed(grid.time[time], grid.latitude[rows], grid.longitude[cols])
        return np.stack([np.moveaxis(values[name], 0, -1) for name in names], axis=-1, dtype="float32")

    chunks = (sizes["latitude"], sizes["longitude"], sizes["time"], (len(names),))
    key = f"forcing-{tokenize(grid.token, names, chunks)}"
    grid = grid.travelling()
    return da.map_blocks(block, chunks=chunks, dtype="float32", meta=np.empty((0,) * 4, "float32"), name=key)


def _computed(time: np.ndarray, latitude: np.ndarray, longitude: np.ndarray) -> dict[str, np.ndarray]:
    """DOY, TOD and SW_IN_POT (time, latitude, longitude)."""
    # Open shapes (rows, 1) and (1, columns): clocks and declination do not depend on latitude.
    lat, lon = latitude[:, None], longitude[None, :]
    doy, tod = local_clock(time, lon / 15.0)
    # Rounding to float32 must not lift the last second of a leap year or a day onto the next one's first.
    doy, tod = (
        np.minimum(values.astype("float32"), np.nextafter(np.float32(end), np.float32(0)))
        for values, end in ((doy, 366), (tod, 24))
    )
    fields = {"DOY": doy, "TOD": tod, "SW_IN_POT": potential_radiation(time, lat, lon)}
    shape = (len(latitude), len(longitude), len(time))
    return {name: np.moveaxis(np.broadcast_to(values, shape), -1, 0) for name, values in fields.items()}


def _modis(source: object, cells: _Cells, grid: Files, sizes: Mapping[str, tuple[int, ...]]) -> xr.DataArray:
    """Lazy chips (latitude, longitude, day, band, y, x)."""
    import dask.array as da
    from dask.base import tokenize

    begin, end = (grid.time[i].astype("datetime64[D]") for i in (0, -1))
    rasters = [r for r in source_rasters(source) if begin - _DAYS_BEFORE <= r.day <= end]
    if not rasters:
        raise SourceError(
            f"no MODIS raster from {begin - _DAYS_BEFORE} to {end} in {source}: give those of these days."
        )
    tiles = _near(find_tiles(rasters), cells)
    days = chip_days(tiles)
    if not len(days):
        raise SourceError(
            f"no MCD43A4 raster of {begin - _DAYS_BEFORE} to {end} in {source} covers the grid "
            f"(latitudes {grid.latitude.min():g} to {grid.latitude.max():g}, "
            f"longitudes {grid.longitude.min():g} to {grid.longitude.max():g})."
        )

    def block(block_info=None) -> np.ndarray:
        rows, cols, span = (slice(*edges) for edges in block_info[None]["array-location"][:3])
        lat, lon = cells.latitude[rows, cols], cells.longitude[rows, cols]
        values, _ = read_chips(tiles, *chip_index(lat.ravel(), lon.ravel()), days[span])
        return values.reshape(*lat.shape, *values.shape[1:])

    lengths = normal_chunks({"day": _DAYS_PER_CHUNK}, {"day": len(days)})["day"]
    chunks = (sizes["latitude"], sizes["longitude"], lengths, (len(BANDS),), (8,), (8,))
    changed = [tile.path.stat().st_mtime_ns for tile in tiles]
    key = f"chips-{tokenize([str(t.path) for t in tiles], changed, cells.latitude, cells.longitude, chunks)}"
    data = da.map_blocks(block, chunks=chunks, dtype="float32", meta=np.empty((0,) * 6, "float32"), name=key)
    return xr.DataArray(data, dims=(*_CELLS, "day", "band", "y", "x"), coords=chip_coords(days), attrs=CHIP_ATTRS)


def _near(tiles: Sequence[Tile], cells: _Cells) -> list[Tile]:
    """Tiles that can touch a chip: the others need not travel with the graph."""
    row, col = sinusoidal_pixel(cells.latitude, cells.longitude)
    # A chip reaches 2 km, which near the poles and the antimeridian is up to 20 columns of the slanted grid.
    top, bottom, left, right = row.min() - 8, row.max() + 8, col.min() - 32, col.max() + 32
    return [t for t in tiles if t.row < bottom and t.row + t.height > top and t.col < right and t.col + t.width > left]


def _plain_cells(igbp: str | xr.DataArray | None, grid: Files) -> _Cells:
    """Cells without land cover: one class or a map of classes; chips at the centres."""
    lat, lon = np.meshgrid(grid.latitude, grid.longitude, indexing="ij")
    classes = np.full(lat.shape, "" if igbp is None else igbp, object) if not isinstance(igbp, xr.DataArray) else None
    if classes is None:
        classes = _class_map(igbp, grid)
    for code in {str(c) for c in classes.ravel()} - {""}:
        igbp_number(code)
    return _Cells(classes, np.full(lat.shape, np.nan), lat, lon)


def _class_map(igbp: xr.DataArray, grid: Files) -> np.ndarray:
    if set(igbp.dims) != set(_CELLS):
        raise ConfigError(f"igbp must have dims {_CELLS}, found {igbp.dims}.")
    at = {"latitude": grid.latitude, "longitude": grid.longitude}
    try:
        found = igbp.transpose(*_CELLS).sel(at, method="nearest", tolerance=1e-3)
    except KeyError as problem:
        raise ConfigError(f"igbp must have a value at every cell of the grid: none at {problem}.") from None
    if np.issubdtype(found.dtype, np.number):
        return np.array([[igbp_code(n) if np.isfinite(n) else "" for n in row] for row in found.values], object)
    return found.values.astype(str).astype(object)


def _land_cells(source: object, grid: Files) -> _Cells:
    """Class, land share and chip centre of every cell, from MCD12Q1, one row of cells at a time."""
    tiles = find_tiles(source, products=("MCD12Q1",))
    shape = len(grid.latitude), len(grid.longitude)
    cells = _Cells(np.full(shape, "", object), np.full(shape, np.nan), *np.meshgrid(*_axes(grid), indexing="ij"))
    south, north = _edges(grid.latitude, grid.longitude)
    west, east = _edges(grid.longitude, grid.latitude)
    for i in range(shape[0]):
        strip = _Strip.read(tiles, max(south[i], -90.0), min(north[i], 90.0), west.min(), east.max())
        for j in range(shape[1]):
            found = strip.cell(west[j], east[j], grid.latitude[i], grid.longitude[j])
            if found is not None:
                cells.igbp[i, j], cells.land[i, j], cells.latitude[i, j], cells.longitude[i, j] = found
    unknown = int((cells.igbp == "").sum())
    if unknown:
        log.warning("%d of %d cells have no land cover: their class is empty", unknown, cells.igbp.size)
    cells.land[np.isnan(cells.land)] = 1.0
    return cells


def _axes(grid: Files) -> tuple[np.ndarray, np.ndarray]:
    return grid.latitude, grid.longitude


def _edges(axis: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper edges of cells around centres; a single row or column is as wide as the other axis's step."""
    steps = [np.abs(np.diff(a)).min() for a in (axis, other) if len(a) > 1] or [0.25]
    return axis - steps[0] / 2, axis + steps[0] / 2


@dataclass(frozen=True)
class _Strip:
    """Land cover along a row of cells, with a margin that chips may reach into."""

    classes: np.ndarray  # (rows, columns) uint8
    row: int  # global row and column of its corner
    col: int
    south: float
    north: float

    @classmethod
    def read(cls, tiles: Sequence[Tile], south: float, north: float, west: float, east: float) -> _Strip:
        margin = 24  # columns a chip can reach where the sinusoidal grid is most slanted
        # Beyond the antimeridian the grid goes on at its other end: a cell across it is judged by this side alone.
        west, east = max(west, -180.0), min(east, 179.9999)
        corners = sinusoidal_pixel(*np.meshgrid([south, north, np.clip(0.0, south, north)], [west, east]))
        rows = max(int(corners[0].min()) - margin, 0), min(int(corners[0].max()) + margin + 1, ROWS)
        cols = max(int(corners[1].min()) - margin, 0), min(int(corners[1].max()) + margin + 1, COLS)
        return cls(read_land_cover(tiles, rows, cols), rows[0], cols[0], south, north)

    def cell(self, west: float, east: float, latitude: float, longitude: float) -> tuple | None:
        """Class, land share, and latitude and longitude of the chip of one cell; None where nothing is known."""
        lat = 90.0 - (self.row + np.arange(self.classes.shape[0]) + 0.5) / _PER_DEGREE
        keep_rows = np.flatnonzero((lat > self.south) & (lat <= self.north))
        if not len(keep_rows):
            return None
        width = np.cos(np.deg2rad(lat[keep_rows]))
        ends = (180.0 + np.outer((west, east), width)) * _PER_DEGREE - self.col
        c0, c1 = (int(np.clip(end, 0, self.classes.shape[1])) for end in (ends.min(), np.ceil(ends.max()) + 1))
        block = self.classes[keep_rows[0] : keep_rows[-1] + 1, c0:c1]
        if (block == _FILL).all():
            return None
        lon = ((self.col + np.arange(c0, c1) + 0.5) / _PER_DEGREE - 180.0) / width[:, None]
        here = np.where((lon >= west) & (lon < east), block, _FILL)
        counts = np.bincount(here.ravel(), minlength=256)[: _WATER + 1]
        if not counts.sum():
            return None
        number = int(counts[:_WATER].argmax()) if counts[:_WATER].any() else _WATER
        share = self._purity(number, keep_rows, c0, c1, latitude, longitude)
        best = (here == number) & (share >= share[here == number].max() - 1e-9)
        land = counts[:_WATER].sum() / counts.sum()
        row, col = (int(i) for i in sinusoidal_pixel(np.array(latitude), np.array(longitude)))
        if best[row - self.row - keep_rows[0], col - self.col - c0]:
            return igbp_code(number), land, latitude, longitude
        away = np.hypot(lat[keep_rows][:, None] - latitude, (lon - longitude) * np.cos(np.deg2rad(latitude)))
        r, c = np.unravel_index(np.where(best, away, np.inf).argmin(), away.shape)
        return igbp_code(number), land, lat[keep_rows[r]], lon[r, c]

    def _purity(self, number: int, rows: np.ndarray, c0: int, c1: int, latitude: float, longitude: float) -> np.ndarray:
        """Share of `number` among the 64 pixels of the chip that is centred on each pixel.

        Within a cell all chips take the same pixels relative to their own centre, to within one: the offsets of
        the chip at the cell's centre, slant of the sinusoidal grid included.
        """
        chip_rows, chip_cols = (index[0].ravel() for index in chip_index(latitude, longitude))
        row, col = sinusoidal_pixel(np.array(latitude), np.array(longitude))
        same = self.classes == number
        total = np.zeros((len(rows), c1 - c0))
        for dr, dc in zip(chip_rows - row, chip_cols - col, strict=True):
            # At the edge of what is known a chip cannot be judged: beyond it counts as another class.
            total += _shifted(same, rows[0] + dr, rows[-1] + 1 + dr, c0 + dc, c1 + dc)
        return total / 64.0


def _shifted(mask: np.ndarray, r0: int, r1: int, c0: int, c1: int) -> np.ndarray:
    """Window of a mask that may reach beyond it, False outside."""
    out = np.zeros((r1 - r0, c1 - c0), bool)
    a0, a1, b0, b1 = max(r0, 0), min(r1, mask.shape[0]), max(c0, 0), min(c1, mask.shape[1])
    if a0 < a1 and b0 < b1:
        out[a0 - r0 : a1 - r0, b0 - c0 : b1 - c0] = mask[a0:a1, b0:b1]
    return out
