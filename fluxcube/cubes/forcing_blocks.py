"""Blocks of a forcing cube: what one Dask task reads and computes, for weather or for chips.

Each task contains only what its own block needs, so that the graph of a global year is small.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fluxcube.cubes.chips import chip_index, read_chips, sinusoidal_pixel
from fluxcube.solar import potential_radiation
from fluxcube.sources.era5.series import GRAVITY, Files
from fluxcube.sources.era5.variables import available, read_block
from fluxcube.sources.modis.rasters import Tile
from fluxcube.timestamps import local_clock
from fluxcube.variables import BANDS, COMPUTED

if TYPE_CHECKING:
    import dask.array as da
    from dask.typing import Key

Chunks = Mapping[str, tuple[int, ...]]

_GAS_CONSTANT = 287.05  # J kg-1 K-1, of dry air
_LAPSE = 0.0065  # K m-1, of the standard atmosphere
_SEA_LEVEL = 288.15  # K


def pressure_at(pressure: np.ndarray, temperature: np.ndarray, rise: np.ndarray) -> np.ndarray:
    """Return the air pressure some metres higher, by the hypsometric equation.

    Parameters
    ----------
    pressure : array
        Pressure at the lower height, in any unit.
    temperature : array
        Temperature at the lower height, degC; it decreases by 6.5 K per km upwards.
    rise : array
        Height difference in m, negative downwards.

    Returns
    -------
    array
        Pressure in the unit of `pressure`.

    References
    ----------
    Wallace and Hobbs 2006, "Atmospheric science: an introductory survey", 2nd edition, equation 3.29.

    Examples
    --------
    >>> round(float(pressure_at(101.325, 15.0, 1000.0)), 1)  # the standard atmosphere has 89.87
    89.9
    """
    mean = temperature + 273.15 - _LAPSE * rise / 2
    return pressure * np.exp(-GRAVITY * rise / (_GAS_CONSTANT * mean))


def weather(grid: Files, names: Sequence[str], sizes: Chunks, heights: np.ndarray | None, key: str) -> da.Array:
    """Return lazy predictors (latitude, longitude, time, variable) float32.

    Parameters
    ----------
    grid : Files
        ERA5 files.
    names : sequence of str
        Predictors.
    sizes : mapping
        Chunks of latitude, longitude and time.
    heights : (latitude, longitude), optional
        Height (m) of the ground, for pressure; default: that of ERA5's orography.
    key : str
        Key of the graph: a digest of all that the values depend on.

    Returns
    -------
    dask.array.Array
        One task for each block.
    """
    chunks = (sizes["latitude"], sizes["longitude"], sizes["time"], (len(names),))

    def task(rows: slice, cols: slice, time: slice, _: slice) -> tuple:
        here = None if heights is None else (grid.elevation[rows, cols], heights[rows, cols])
        return _read_weather, grid.cut(time, rows, cols), tuple(names), here

    return lazy_blocks(f"forcing-{key}", task, chunks)


def chips(
    tiles: Sequence[Tile], centres: tuple[np.ndarray, np.ndarray], days: np.ndarray, chunks: tuple, key: str
) -> da.Array:
    """Return lazy chips (latitude, longitude, block, day, band, y, x) float32.

    Parameters
    ----------
    tiles : sequence of Tile
        Rasters.
    centres : (latitude, longitude, block) arrays
        Latitude and longitude of the chips.
    days : (day,) datetime64[D]
        Days of the chips.
    chunks : tuple
        Chunks of the seven dimensions.
    key : str
        Key of the graph: a digest of all that the values depend on.

    Returns
    -------
    dask.array.Array
        One task for each block.
    """
    corners = np.array([(t.row, t.row + t.height, t.col, t.col + t.width) for t in tiles]).reshape(-1, 4)
    dates = np.array([t.day for t in tiles], "datetime64[D]")

    def task(rows: slice, cols: slice, blocks: slice, span: slice, *_: slice) -> tuple:
        lat, lon = (values[rows, cols, blocks] for values in centres)
        near = touches(corners, lat, lon) & (dates >= days[span][0]) & (dates <= days[span][-1])
        return _read_chips, [tiles[n] for n in np.flatnonzero(near).tolist()], lat.copy(), lon.copy(), days[span]

    return lazy_blocks(f"chips-{key}", task, chunks)


def touches(corners: np.ndarray, latitude: np.ndarray, longitude: np.ndarray) -> np.ndarray:
    """Return whether windows (n, 4: first row, last, first column, last) can contain a pixel of some chips: (n,)."""
    row, col = sinusoidal_pixel(latitude, longitude)
    # A chip reaches 2 km, which near the poles and the antimeridian is up to 20 columns of the slanted grid.
    top, bottom, left, right = row.min() - 8, row.max() + 8, col.min() - 32, col.max() + 32
    return (corners[:, 0] < bottom) & (corners[:, 1] > top) & (corners[:, 2] < right) & (corners[:, 3] > left)


def lazy_blocks(name: str, task: Callable[..., tuple], chunks: tuple[tuple[int, ...], ...]) -> da.Array:
    """Return a Dask array of float32 with one task for each block, which ``task(*slices)`` returns."""
    import dask.array as da
    from dask.highlevelgraph import HighLevelGraph

    edges = [np.concatenate([[0], np.cumsum(sizes)]).tolist() for sizes in chunks]
    layer: dict[Key, object] = {
        (name, *place): task(*(slice(e[n], e[n + 1]) for e, n in zip(edges, place, strict=True)))
        for place in itertools.product(*(range(len(sizes)) for sizes in chunks))
    }
    graph = HighLevelGraph.from_collections(name, layer, dependencies=[])
    return da.Array(graph, name, chunks=chunks, dtype="float32")


def _read_weather(grid: Files, names: tuple[str, ...], heights: tuple[np.ndarray, np.ndarray] | None) -> np.ndarray:
    """Read the predictors of a block; convert pressure from the first of `heights` to the second."""
    read = [name for name in names if name not in COMPUTED]
    heights = heights if "PA" in names else None
    if heights is not None and "TA" not in names and "TA" in available(grid):
        read = [*read, "TA"]
    time, rows, cols = (slice(0, len(axis)) for axis in (grid.time, grid.latitude, grid.longitude))
    values = dict(zip(read, read_block(grid, read, time, rows, cols), strict=True))
    if heights is not None:
        values["PA"] = _lifted(values, *heights)
    values |= _computed(grid.time, grid.latitude, grid.longitude)
    return np.stack([np.moveaxis(values[name], 0, -1) for name in names], axis=-1, dtype="float32")


def _lifted(values: Mapping[str, np.ndarray], model: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """Return the pressure at the height of the ground or, where that is unknown, at that of the orography."""
    rise = np.where(np.isfinite(ground), ground - model, 0.0)
    temperature = values.get("TA", _SEA_LEVEL - 273.15 - _LAPSE * model)
    return pressure_at(values["PA"], temperature, rise)


def _computed(time: np.ndarray, latitude: np.ndarray, longitude: np.ndarray) -> dict[str, np.ndarray]:
    """Return DOY, TOD and SW_IN_POT (time, latitude, longitude)."""
    # Shapes (rows, 1) and (1, columns) are broadcast: clocks and declination do not depend on latitude.
    lat, lon = latitude[:, None], longitude[None, :]
    doy, tod = local_clock(time, lon / 15.0)
    # Rounding to float32 must not move the last second of a leap year or of a day to the next one.
    doy, tod = (
        np.minimum(values.astype("float32"), np.nextafter(np.float32(end), np.float32(0)))
        for values, end in ((doy, 366), (tod, 24))
    )
    fields = {"DOY": doy, "TOD": tod, "SW_IN_POT": potential_radiation(time, lat, lon)}
    shape = (len(latitude), len(longitude), len(time))
    return {name: np.moveaxis(np.broadcast_to(values, shape), -1, 0) for name, values in fields.items()}


def _read_chips(tiles: Sequence[Tile], latitude: np.ndarray, longitude: np.ndarray, days: np.ndarray) -> np.ndarray:
    """Read the chips (latitude, longitude, block, day, band, y, x) of a block."""
    if not tiles:
        return np.full((*latitude.shape, len(days), len(BANDS), 8, 8), np.nan, "float32")
    values, _ = read_chips(tiles, *chip_index(latitude.ravel(), longitude.ravel()), days)
    return values.reshape(*latitude.shape, *values.shape[1:])
