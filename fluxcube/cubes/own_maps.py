"""Values of a map in degrees at towers and on the cells of a grid: the pixel at a place, or the mean over a cell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr

from fluxcube.cubes.own_values import DATE_DIM
from fluxcube.errors import ConfigError
from fluxcube.variables import Variable

_CELLS = ("latitude", "longitude")
#: Centres that differ by less, in degrees, are the same.
_SAME = 1e-3


def at_towers(values: xr.DataArray, latitude: np.ndarray, longitude: np.ndarray, name: str) -> xr.DataArray:
    """Return the values (site[, date]) of the pixels that contain some places; NaN beyond the map.

    Parameters
    ----------
    values : xr.DataArray
        (latitude, longitude[, date]), in degrees.
    latitude, longitude : (site,) float
        Degrees; longitudes may be counted from -180 or from 0.
    name : str
        Name of the predictor, for error messages.

    Raises
    ------
    ConfigError
        If no place lies on the map.
    """
    rows, on_row = _pixels(values.latitude.values, latitude, circle=False)
    columns, on_column = _pixels(values.longitude.values, longitude, circle=True)
    inside = on_row & on_column
    if not inside.any():
        raise ConfigError(f"{name}: none of the {len(inside)} sites lies on the map ({_extent(values)}).")
    at = {"latitude": xr.DataArray(rows, dims="site"), "longitude": xr.DataArray(columns, dims="site")}
    return values.isel(at).drop_vars(_CELLS).where(xr.DataArray(inside, dims="site"))


def on_cells(values: xr.DataArray, grid: xr.Dataset, row: Variable) -> xr.DataArray:
    """Return the values (latitude, longitude[, date]) of a map on the cells of a grid; lazy stays lazy.

    Parameters
    ----------
    values : xr.DataArray
        (latitude, longitude[, date]), in degrees.
    grid : xr.Dataset
        With the coordinates latitude and longitude of the centres of its cells.
    row : Variable
        Declaration; of a cyclic predictor the mean direction is computed.

    Returns
    -------
    xr.DataArray
        Means over cells weighted by area, where pixels are smaller than cells; else the value of the pixel that
        contains the centre of the cell.

    Raises
    ------
    ConfigError
        If no cell lies on the map.
    """
    width = {dim: _step(grid[dim].values) for dim in _CELLS}
    width = {dim: width[dim] or max(width.values()) for dim in _CELLS}  # a single row or column
    axes = {dim: _axis(values[dim].values, grid[dim].values, width[dim], circle=dim == "longitude") for dim in _CELLS}
    for dim, axis in axes.items():
        if not axis.inside.any():
            raise ConfigError(f"{row.name}: no {dim} of the grid lies on the map ({_extent(values)}).")
    order = values.transpose(*_CELLS, ...)
    if not any(axis.averages for axis in axes.values()):
        out = order.isel({dim: axis.pixel for dim, axis in axes.items()})
        inside = np.logical_and.outer(*(axis.inside for axis in axes.values()))
        out = out if inside.all() else out.where(xr.DataArray(inside, dims=_CELLS))
    else:
        weight = np.cos(np.deg2rad(order.latitude.values.astype(float))).clip(1e-6)
        out = xr.apply_ufunc(
            _cell_means,
            order.chunk(dict.fromkeys(_CELLS, -1)) if order.chunks else order,
            input_core_dims=[_CELLS],
            output_core_dims=[_CELLS],
            exclude_dims=set(_CELLS),
            dask="parallelized",
            output_dtypes=[np.float64],
            kwargs={"axes": axes, "weight": weight, "period": row.bounds if row.cyclic else None},
            dask_gufunc_kwargs={"output_sizes": {dim: grid.sizes[dim] for dim in _CELLS}},
        )
    out = out.assign_coords({dim: grid[dim].values for dim in _CELLS})
    return out.transpose(*_CELLS, *([DATE_DIM] if DATE_DIM in out.dims else []))


@dataclass(frozen=True, eq=False)
class _Axis:
    """How the pixels along one axis of a map correspond to the cells along that axis of a grid.

    Attributes
    ----------
    averages : bool
        Whether cells are larger than pixels, so that a cell has the mean of several.
    pixel : (cell,) int
        Pixel that contains the centre of each cell, or the nearest one.
    inside : (cell,) bool
        Whether the centre of the cell lies on the map.
    order : (pixel,) int
        Pixels by ascending coordinate.
    edges : (2, cell) float
        Lower and upper edge of each cell, counted in pixels from the lower edge of the first one in `order`.
    circle : bool
        Whether the pixels go around the globe, so that the last one neighbours the first.
    """

    averages: bool
    pixel: np.ndarray
    inside: np.ndarray
    order: np.ndarray
    edges: np.ndarray
    circle: bool

    def pick(self, values: np.ndarray) -> np.ndarray:
        """Return sums (cell, ...) of pixels (pixel, ...) in proportion to their overlap, or the pixel of each cell."""
        if not self.averages:
            return np.where(self.inside.reshape(-1, *[1] * (values.ndim - 1)), values[self.pixel], 0.0)
        values = values[self.order]
        sums = np.concatenate([np.zeros_like(values[:1]), np.cumsum(values, axis=0)])
        low, high = (self._up_to(sums, values, edges) for edges in self.edges)
        return high - low

    def _up_to(self, sums: np.ndarray, values: np.ndarray, edges: np.ndarray) -> np.ndarray:
        """Return the sum of the pixels below each edge (cell, ...), parts of pixels included."""
        count = len(values)
        turns = np.floor(edges / count) if self.circle else np.zeros(len(edges))
        edges = edges - turns * count if self.circle else np.clip(edges, 0, count)
        whole = np.minimum(edges.astype(int), count - 1)
        shape = (-1, *[1] * (values.ndim - 1))
        part = (edges - whole).reshape(shape) * values[whole]
        return sums[whole] + part + turns.reshape(shape) * sums[-1]


def _axis(pixels: np.ndarray, cells: np.ndarray, width: float, *, circle: bool) -> _Axis:
    """Return the correspondence of the centres of pixels and of cells (degrees) of some width."""
    pixels, cells = (np.asarray(values, float) for values in (pixels, cells))
    step = _step(pixels) or width
    pixel, inside = _pixels(pixels, cells, circle=circle, step=step)
    order = np.argsort(pixels, kind="stable")
    low = pixels[order[0]] - step / 2
    around = circle and abs(len(pixels) * step - 360) < step / 2
    centres = low + (cells - low) % 360 if circle else cells
    borders = np.append(pixels[order] - step / 2, pixels[order[-1]] + step / 2)
    edges = np.stack([centres - width / 2, centres + width / 2])
    place = (edges - low) / step if around else np.interp(edges, borders, np.arange(len(borders)))
    return _Axis(len(pixels) > 1 and step < 0.999 * width, pixel, inside, order, place, around)


def _step(centres: np.ndarray) -> float:
    """Return the distance of neighbouring centres in degrees; 0 for a single one."""
    steps = (np.diff(np.asarray(centres, float)) + 180) % 360 - 180  # longitudes may continue from 180 to -180
    return float(np.median(np.abs(steps))) if len(steps) else 0.0


def _pixels(
    centres: np.ndarray, places: np.ndarray, *, circle: bool, step: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest of `centres` to each of `places`, and whether it is within half a step (places,)."""
    centres, places = (np.asarray(values, float) for values in (centres, places))
    step = _step(centres) if step is None else step
    order = np.argsort(centres % 360 if circle else centres, kind="stable")
    ranked = (centres % 360 if circle else centres)[order]
    wanted = places % 360 if circle else places
    at = np.searchsorted(ranked, wanted)
    near = np.stack([at - 1, at % len(ranked)])
    near = near % len(ranked) if circle else np.clip(np.stack([at - 1, at]), 0, len(ranked) - 1)
    away = np.abs(ranked[near] - wanted)
    away = np.minimum(away, 360 - away) if circle else away
    best = np.argmin(away, axis=0)
    rows = np.arange(len(wanted))
    tolerance = step / 2 + _SAME if step else _SAME
    return order[near[best, rows]], away[best, rows] <= tolerance


def _cell_means(
    values: np.ndarray, *, axes: Mapping[str, _Axis], weight: np.ndarray, period: tuple[float, float] | None
) -> np.ndarray:
    """Return means (..., cell row, cell column) of pixels (..., row, column); NaN where there is no valid pixel."""
    if period is not None:
        low, high = period
        angle = (values - low) / (high - low) * 2 * np.pi
        east, north = (
            _cell_means(part, axes=axes, weight=weight, period=None) for part in (np.sin(angle), np.cos(angle))
        )
        return low + (np.arctan2(east, north) / (2 * np.pi) % 1) * (high - low)
    valid = np.isfinite(values)
    sums = [np.where(valid, values, 0.0) * weight[:, None], valid * weight[:, None]]
    for position, dim in ((-2, "latitude"), (-1, "longitude")):
        sums = [np.moveaxis(axes[dim].pick(np.moveaxis(part, position, 0)), 0, position) for part in sums]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(sums[1] > 1e-9, sums[0] / sums[1], np.nan)


def _extent(values: xr.DataArray) -> str:
    return ", ".join(f"{dim}s {values[dim].values.min():g} to {values[dim].values.max():g}" for dim in _CELLS)
