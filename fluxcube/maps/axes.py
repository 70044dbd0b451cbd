"""Cells of a latitude-longitude grid that contain given places: nearest cells, corners around a place, neighbours."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import xarray as xr

from fluxcube.errors import SchemaError
from fluxcube.sources.modis.surface_checks import distance_km

Labelled = TypeVar("Labelled", xr.Dataset, xr.DataArray)

#: Width of the only cell of a grid without bounds, degrees: that of ERA5.
ONE_CELL = 0.25
#: Steps above this multiple of the usual one mean that cells are missing between two rows or columns.
_MAX_STEP_RATIO = 1.6
#: Differences of positions below this (degrees, about 10 m) are rounding errors of float32 coordinates.
_SAME = 1e-4
_KM_PER_DEGREE = 111.2
#: Names of the dimensions in files of other programs, in lower case.
ALIASES = {
    "latitude": ("latitude", "lat", "nav_lat"),
    "longitude": ("longitude", "lon", "long", "nav_lon"),
    "time": ("time", "valid_time"),
}
_UNITS = {"latitude": "degrees_north", "longitude": "degrees_east"}


def standard_names(maps: Labelled) -> Labelled:
    """Return maps whose dimensions are named latitude, longitude and time, whatever the names in their file.

    A dimension is recognised by its name (lat, lon, valid_time), its standard name or its units.

    Raises
    ------
    SchemaError
        If there is no axis of latitudes or of longitudes.
    """
    names: dict[Hashable, str] = {}
    for name in ALIASES:
        if name in maps.dims:
            continue
        found = next((dim for dim in maps.dims if _is_axis(maps, dim, name)), None)
        if found is not None:
            names[found] = name
        elif name != "time":
            raise SchemaError(
                f"maps: expected dimensions latitude and longitude with coordinates in degrees, found "
                f"{', '.join(map(str, maps.dims))}; interpolate projected or rotated grids to latitude and longitude."
            )
    if taken := [name for name in names.values() if name in maps.coords]:
        maps = maps.drop_vars(taken)  # such as the time of the forecast beside valid_time
    out = maps.rename(names)
    for name in _UNITS:
        if name not in out.coords or out[name].ndim != 1:
            raise SchemaError(
                f"maps: expected the coordinate {name} along one dimension, in degrees; found none: assign it, or "
                "interpolate projected or rotated grids to latitude and longitude."
            )
    return out


def is_gridded(data: xr.Dataset | xr.DataArray) -> bool:
    """Return whether data have no sites, but dimensions of latitudes and of longitudes under any name."""
    axes = [name for name in _UNITS if any(_is_axis(data, dim, name) for dim in data.dims)]
    return len(axes) == len(_UNITS) and "site" not in data.dims


def _is_axis(maps: xr.Dataset | xr.DataArray, dim: Hashable, name: str) -> bool:
    if str(dim).lower() in ALIASES[name]:
        return True
    attrs = maps[dim].attrs if dim in maps.coords else {}
    return attrs.get("standard_name") == name or (name in _UNITS and attrs.get("units") == _UNITS[name])


@dataclass(frozen=True, eq=False)
class CellAxis:
    """Cells along the latitudes or the longitudes of a grid, from south to north or from west to east.

    Attributes
    ----------
    centres : (cell,) float64
        Degrees, increasing; longitudes from 0 to 360.
    positions : (cell,) int64
        Position of each cell on the axis of the maps.
    below, above : (cell,) float64
        Distance from the centre to the two edges of the cell, degrees.
    step : float
        Usual distance of neighbouring centres, degrees.
    periodic : bool
        Whether the axis contains longitudes.
    """

    centres: np.ndarray
    positions: np.ndarray
    below: np.ndarray
    above: np.ndarray
    step: float
    periodic: bool

    @classmethod
    def of(cls, centres: np.ndarray, *, width: float, periodic: bool) -> CellAxis:
        """Return the cells with some centres (cell,) in any order; `width` is that of a single cell, degrees."""
        values = np.asarray(centres, np.float64)
        if not values.size or not np.isfinite(values).all():
            raise SchemaError(
                f"maps: expected finite {'longitudes' if periodic else 'latitudes'} of cells, found "
                f"{values[:4].tolist()}; check the coordinate."
            )
        values = np.round(values % 360, 6) % 360 if periodic else values
        order = np.argsort(values, kind="stable")
        ranked = values[order]
        once = np.append(True, np.diff(ranked) > _SAME)  # a global grid may repeat its first column
        once[0] = not (periodic and len(ranked) > 1 and ranked[0] + 360 - ranked[-1] < _SAME)
        ranked, order = ranked[once], order[once]
        gaps = np.diff(ranked, append=ranked[0] + 360 if periodic else np.inf)
        step = float(np.median(np.sort(gaps)[:-1])) if len(gaps) > 1 else float(width)
        half = np.where(gaps <= _MAX_STEP_RATIO * step, gaps, step) / 2
        outer = half[-1] if periodic and len(gaps) > 1 else step / 2
        return cls(ranked, order, np.append(outer, half[:-1]), half, step, periodic)

    def away(self, places: np.ndarray, cells: np.ndarray) -> np.ndarray:
        """Return how far places (n,) are north or east of the centres of `cells` (n,), degrees."""
        difference = places - self.centres[cells]
        return (difference + 180) % 360 - 180 if self.periodic else difference

    def containing(self, places: np.ndarray) -> np.ndarray:
        """Return the cell (n,) that contains each place in degrees (n,), -1 for none; of an edge, the upper cell."""
        known = np.isfinite(places)
        values = np.where(known, places % 360 if self.periodic else places, 0.0)
        upper = np.searchsorted(self.centres, values)
        cells = np.full(len(values), -1)
        for cell in (upper - 1, upper):  # the upper one last: it has the edge between both
            cell = cell % len(self.centres) if self.periodic else np.clip(cell, 0, len(self.centres) - 1)
            away = self.away(values, cell)
            inside = (away >= -self.below[cell] - _SAME) & (away <= self.above[cell] + _SAME)
            cells = np.where(inside & known, cell, cells)
        return cells

    def between(self, places: np.ndarray, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the neighbour (n,) towards each place from its cell, and its share (n,); 0 where there is none."""
        away = self.away(places, cells)
        towards = np.where(away < 0, -1, 1)
        gap = 2 * np.where(away < 0, self.below[cells], self.above[cells])
        other = self._shifted(cells, towards)
        there = other >= 0
        apart = np.abs(self.away(self.centres[np.where(there, other, cells)], cells))
        there &= np.isclose(apart, gap, rtol=0, atol=_SAME)  # not across missing cells
        share = np.where(there, np.clip(np.abs(away) / gap, 0, 1), 0.0)
        return np.where(there, other, cells), share

    def _shifted(self, cells: np.ndarray, by: np.ndarray | int) -> np.ndarray:
        """Return the cells some steps further, -1 beyond the end of the axis."""
        other = cells + by
        if self.periodic:
            return other % len(self.centres)
        return np.where((other >= 0) & (other < len(self.centres)), other, -1)

    def around(self, cell: int, reach: int) -> np.ndarray:
        """Return the cells at most `reach` steps from a cell, each once; not across a gap wider than that."""
        cells = self._shifted(np.full(2 * reach + 1, cell), np.arange(-reach, reach + 1))
        cells = np.unique(cells[cells >= 0])
        near = np.abs(self.away(self.centres[cells], np.full(len(cells), cell)))
        return cells[near <= _MAX_STEP_RATIO * reach * self.step + _SAME]

    def within(self, place: float, degrees: float) -> np.ndarray:
        """Return the cells whose centres are at most some degrees from a place."""
        cells = np.arange(len(self.centres))
        return cells[np.abs(self.away(np.full(len(cells), place), cells)) <= degrees + _SAME]


@dataclass(frozen=True, eq=False)
class Grid:
    """Cells of a latitude-longitude grid; a cell is a pair of positions on its two `CellAxis`, (-1, -1) for none."""

    rows: CellAxis
    columns: CellAxis

    @classmethod
    def of(cls, maps: xr.Dataset | xr.DataArray) -> Grid:
        """Return the grid of maps with the coordinates latitude and longitude.

        The width of a single row or column is that of its bounds, else that of the cells along the other axis, else
        0.25 degrees.
        """
        latitude, longitude = maps["latitude"].values, maps["longitude"].values
        tall, wide = _bounds_width(maps, "latitude"), _bounds_width(maps, "longitude")
        rows = CellAxis.of(latitude, width=tall or 0.0, periodic=False)
        columns = CellAxis.of(longitude, width=wide or rows.step or ONE_CELL, periodic=True)
        if len(rows.centres) == 1 and not tall:
            rows = CellAxis.of(latitude, width=columns.step, periodic=False)
        return cls(rows, columns)

    def containing(self, latitude: np.ndarray, longitude: np.ndarray) -> np.ndarray:
        """Return the cells (n, 2) that contain some places (n,)."""
        cells = np.stack([self.rows.containing(latitude), self.columns.containing(longitude)], -1)
        return np.where((cells >= 0).all(-1, keepdims=True), cells, -1)

    def corners(self, latitude: np.ndarray, longitude: np.ndarray, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the four cells (n, 4, 2) around each place, its own cell (n, 2) first, and bilinear weights (n, 4)."""
        row, down = self.rows.between(latitude, cells[:, 0])
        column, across = self.columns.between(longitude, cells[:, 1])
        pairs = [(cells[:, 0], cells[:, 1]), (row, cells[:, 1]), (cells[:, 0], column), (row, column)]
        weights = [(1 - down) * (1 - across), down * (1 - across), (1 - down) * across, down * across]
        corners, weight = np.stack([np.stack(pair, -1) for pair in pairs], 1), np.stack(weights, 1)
        outside = cells[:, :1] < 0
        return np.where(outside[..., None], -1, corners), np.where(outside, np.eye(4)[0], weight)

    def centres(self, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return latitude and longitude (from -180 to 180) of the centres of cells (..., 2), NaN for none."""
        inside = cells[..., 0] >= 0
        longitude = (self.columns.centres[cells[..., 1]] + 180) % 360 - 180
        return np.where(inside, self.rows.centres[cells[..., 0]], np.nan), np.where(inside, longitude, np.nan)

    def positions(self, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the positions of cells (..., 2) on the two axes of the maps, -1 for none."""
        inside = cells[..., 0] >= 0
        row, column = self.rows.positions[cells[..., 0]], self.columns.positions[cells[..., 1]]
        return np.where(inside, row, -1), np.where(inside, column, -1)

    def distance(self, latitude: np.ndarray, longitude: np.ndarray, cells: np.ndarray) -> np.ndarray:
        """Return the great-circle distance (n,) of places from the centres of cells (n, 2), km."""
        return distance_km(latitude, longitude, *self.centres(cells))

    def neighbours(
        self, latitude: float, longitude: float, own: np.ndarray, *, km: float | None, reach: int | None
    ) -> np.ndarray:
        """Return cells (m, 2) near a place by the distance of their centres, the cell `own` (2,) first.

        Parameters
        ----------
        latitude, longitude : float
            Place, degrees.
        own : (2,) int
            Cell that contains it.
        km : float, optional
            Maximum distance of another cell's centre.
        reach : int, optional
            Maximum number of cells along each axis.
        """
        if reach is not None:
            rows, columns = self.rows.around(int(own[0]), reach), self.columns.around(int(own[1]), reach)
        else:
            degrees = (km or 0.0) / _KM_PER_DEGREE + 1e-3
            widest = np.cos(np.deg2rad(min(abs(latitude) + degrees, 90.0)))
            rows = self.rows.within(latitude, degrees)
            columns = self.columns.within(longitude, degrees / widest if widest > degrees / 180 else 180.0)
        cells = np.stack(np.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2)
        apart = self.distance(np.full(len(cells), latitude), np.full(len(cells), longitude), cells)
        near = (cells != own).any(-1) & (apart <= (np.inf if km is None else km))
        order = np.argsort(np.round(apart[near], 6), kind="stable")
        return np.concatenate([own[None], cells[near][order]])


def _bounds_width(maps: xr.Dataset | xr.DataArray, name: str) -> float | None:
    """Return the width of the first cell by the bounds of an axis; None without bounds."""
    known = maps.variables if isinstance(maps, xr.Dataset) else maps.coords
    for key in (maps[name].attrs.get("bounds", ""), f"{name}_bnds", f"{name[:3]}_bnds"):
        if key in known and known[key].ndim == 2 and known[key].shape[-1] == 2:
            width = float(np.abs(np.diff(known[key].values[0]))[0])
            return width if np.isfinite(width) and width > 0 else None
    return None
