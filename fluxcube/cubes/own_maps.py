"""Values of a map in degrees at towers and on the cells of a grid: the pixel at a place, or the mean over a cell."""

from __future__ import annotations

from collections.abc import Mapping

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

    Raises
    ------
    ConfigError
        If no cell lies on the map.
    """
    axes = {dim: _Axis.of(values[dim].values, grid[dim].values, circle=dim == "longitude") for dim in _CELLS}
    for dim, axis in axes.items():
        if not axis.inside.any():
            raise ConfigError(f"{row.name}: no {dim} of the grid lies on the map ({_extent(values)}).")
    order = values.transpose(*_CELLS, ...)
    if not any(axis.averages for axis in axes.values()):
        picked = order.isel({dim: np.where(axis.inside, axis.pixel, 0) for dim, axis in axes.items()})
        inside = np.logical_and.outer(*(axis.inside for axis in axes.values()))
        out = picked if inside.all() else picked.where(xr.DataArray(inside, dims=_CELLS))
    else:
        out = xr.apply_ufunc(
            _cell_means,
            order.chunk(dict.fromkeys(_CELLS, -1)) if order.chunks else order,
            input_core_dims=[_CELLS],
            output_core_dims=[_CELLS],
            exclude_dims=set(_CELLS),
            dask="parallelized",
            output_dtypes=[np.float64],
            kwargs={"axes": axes, "weight": _row_weights(order), "period": row.bounds if row.cyclic else None},
            dask_gufunc_kwargs={"output_sizes": {dim: grid.sizes[dim] for dim in _CELLS}},
        )
    out = out.assign_coords({dim: grid[dim].values for dim in _CELLS})
    return out.transpose(*_CELLS, *([DATE_DIM] if DATE_DIM in out.dims else []))


class _Axis:
    """How the pixels along one axis of a map correspond to the cells along that axis of a grid.

    Attributes
    ----------
    averages : bool
        Whether cells are larger than pixels, so that a cell has the mean of several.
    pixel : (cell,) int
        Pixel that contains the centre of each cell.
    inside : (cell,) bool
        Whether that pixel exists.
    cell : (pixel,) int
        Cell that contains the centre of each pixel, -1 for none.
    """

    def __init__(self, averages: bool, pixel: np.ndarray, inside: np.ndarray, cell: np.ndarray):
        self.averages, self.pixel, self.inside, self.cell = averages, pixel, inside, cell

    @classmethod
    def of(cls, pixels: np.ndarray, cells: np.ndarray, *, circle: bool) -> _Axis:
        """Return the correspondence of the centres of pixels and of cells, in degrees."""
        pixel, inside = _pixels(pixels, cells, circle=circle, step=_step(pixels) or _step(cells))
        cell, known = _pixels(cells, pixels, circle=circle, step=_step(cells) or _step(pixels))
        averages = len(pixels) > 1 and _step(pixels) < 0.999 * (_step(cells) or _step(pixels))
        if averages:
            cell = np.where(known, cell, -1)
            inside = np.isin(np.arange(len(cells)), cell)
        return cls(averages, pixel, inside, cell)


def _step(centres: np.ndarray) -> float:
    """Return the distance of neighbouring centres in degrees; 0 for a single one."""
    return float(np.median(np.abs(np.diff(np.asarray(centres, float))))) if len(centres) > 1 else 0.0


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


def _row_weights(values: xr.DataArray) -> np.ndarray:
    """Return weights (latitude,) of pixels in proportion to their areas."""
    return np.cos(np.deg2rad(values.latitude.values.astype(float))).clip(1e-6)


def _cell_means(
    values: np.ndarray, *, axes: Mapping[str, _Axis], weight: np.ndarray, period: tuple[float, float] | None
) -> np.ndarray:
    """Return means (..., cell row, cell column) of pixels (..., row, column); NaN where there is no valid pixel."""
    if period is not None:
        low, high = period
        angle = (values - low) / (high - low) * 2 * np.pi
        east, north = (_cell_means(part, axes=axes, weight=weight, period=None) for part in (np.sin(angle), np.cos(angle)))
        return low + (np.arctan2(east, north) / (2 * np.pi) % 1) * (high - low)
    valid = np.isfinite(values)
    sums = [np.where(valid, values, 0.0) * weight[:, None], valid * weight[:, None]]
    for position, dim in ((-2, "latitude"), (-1, "longitude")):
        sums = [_along(part, axes[dim], position) for part in sums]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(sums[1] > 0, sums[0] / sums[1], np.nan)


def _along(values: np.ndarray, axis: _Axis, position: int) -> np.ndarray:
    """Return sums over the pixels of each cell along one axis, or the pixel of each cell where pixels are larger."""
    values = np.moveaxis(values, position, 0)
    if axis.averages:
        out = np.zeros((len(axis.pixel), *values.shape[1:]))
        known = axis.cell >= 0
        np.add.at(out, axis.cell[known], values[known])
    else:
        out = np.where(axis.inside.reshape(-1, *[1] * (values.ndim - 1)), values[axis.pixel], 0.0)
    return np.moveaxis(out, 0, position)


def _extent(values: xr.DataArray) -> str:
    return ", ".join(f"{dim}s {values[dim].values.min():g} to {values[dim].values.max():g}" for dim in _CELLS)
