"""The target grid: the ERA5 files' own cells, or finer ones between them by bilinear interpolation."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from fluxcube.errors import ConfigError

#: Cell size (degrees) of ERA5, and of ERA5-Land, of a file with one cell, where no neighbour shows it.
ONE_CELL, ONE_CELL_LAND = 0.25, 0.1
_CLOSE = 1e-6


@dataclass(frozen=True, eq=False)
class Axis:
    """Positions of the target cells along one axis of a file: `share` of the way from `low` to `high`.

    Attributes
    ----------
    centres : (cell,) float64
        Degrees.
    low, high : (cell,) int64
        Positions on the file's axis.
    share : (cell,) float64
        0 to less than 1; 0 where the file has the cell itself.
    """

    centres: np.ndarray
    low: np.ndarray
    high: np.ndarray
    share: np.ndarray

    @classmethod
    def own(cls, centres: np.ndarray, positions: np.ndarray) -> Axis:
        """Return an axis of the file's own cells, without interpolation."""
        return cls(centres, positions, positions, np.zeros(len(positions)))

    def __len__(self) -> int:
        return len(self.low)

    def __getitem__(self, cells: slice | np.ndarray) -> Axis:
        return Axis(self.centres[cells], self.low[cells], self.high[cells], self.share[cells])

    @property
    def exact(self) -> bool:
        """Whether all cells are the file's own, so that nothing is interpolated."""
        return not self.share.any()

    @functools.cached_property
    def needed(self) -> np.ndarray:
        """Positions on the file's axis that are read, ascending."""
        return np.unique(np.concatenate([self.low, self.high]))

    def corners(self, needed: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
        """Return the two positions among `needed` of every cell, each with its weight."""
        low, high = (np.searchsorted(needed, positions) for positions in (self.low, self.high))
        return (low, 1.0 - self.share), (high, self.share)


def blend(values: np.ndarray, rows: Axis, columns: Axis, land: np.ndarray) -> np.ndarray:
    """Interpolate bilinearly between four cells, weighted by their land fractions as well.

    Parameters
    ----------
    values : (..., row, column)
        At the rows and columns in `rows.needed` and `columns.needed`.
    rows, columns : Axis
        Of the target cells.
    land : (row, column)
        Land fraction of each cell of `values`, 0 to 1; between cells without land only the distance counts.

    Returns
    -------
    (..., latitude, longitude) float64
        NaN where a cell with a weight above 0 is missing.
    """
    r, c = rows.corners(rows.needed), columns.corners(columns.needed)
    corners = [(i, j, np.multiply.outer(wi, wj)) for i, wi in r for j, wj in c]
    on_land = [weight * land[np.ix_(i, j)] for i, j, weight in corners]
    total = on_land[0] + on_land[1] + on_land[2] + on_land[3]
    any_land = total > 0
    out = np.zeros((*values.shape[:-2], *total.shape))
    for (i, j, near), weight in zip(corners, on_land, strict=True):
        weight = np.where(any_land, weight / np.where(any_land, total, 1.0), near)
        part = values[..., i[:, None], j[None, :]]
        out += np.where(weight > 0, part * weight, 0.0)
    return out


def interpolate(values: np.ndarray, rows: Axis, columns: Axis) -> np.ndarray:
    """Interpolate bilinearly without land weights, from (row, column) at `needed` to (latitude, longitude)."""
    if rows.exact and columns.exact:
        return values[np.ix_(rows.corners(rows.needed)[0][0], columns.corners(columns.needed)[0][0])]
    (top, one), (bottom, other) = rows.corners(rows.needed)
    values = values[top] * one[:, None] + values[bottom] * other[:, None]
    (left, one), (right, other) = columns.corners(columns.needed)
    return values[:, left] * one + values[:, right] * other


def target_axes(
    latitude: np.ndarray,
    longitude: np.ndarray,
    columns: np.ndarray,
    resolution: float,
    bbox: tuple | None,
    one_cell: float = ONE_CELL,
) -> tuple[Axis, Axis]:
    """Return the axes of a grid of `resolution` degrees within the files' cells.

    The edges of its cells are whole multiples of the resolution, as in X-BASE. A cell is part of the grid if its centre
    lies in a cell of the files (and in `bbox`). Beyond the outermost centres, at most half a cell, the values are those
    of the outermost cell.

    Parameters
    ----------
    latitude : (row,)
        Of the files, in their order.
    longitude, columns : (column,)
        From -180 to 180, ascending, and the files' position of each.
    resolution : float
        Degrees.
    bbox : (west, south, east, north) or None
    one_cell : float
        Width of the cell of files with one cell, degrees.

    Returns
    -------
    (Axis, Axis)
        Of latitudes, in the files' order, and of longitudes, from west to east.

    Raises
    ------
    ConfigError
        If the resolution is coarser than the files', or no cell is left.
    """
    size = cell_step(latitude, longitude, one_cell=one_cell)
    wide = cell_step(longitude, latitude, circle=True, one_cell=one_cell)
    if not 0 < resolution <= min(size, wide) + _CLOSE:
        raise ConfigError(
            f"resolution must be above 0 and at most the files' {min(size, wide):g} degrees, found {resolution:g}; "
            "for coarser maps average the maps."
        )
    count = round(180.0 / resolution)
    if abs(count * resolution - 180.0) > _CLOSE:
        raise ConfigError(f"resolution={resolution:g} does not divide 180 degrees: use e.g. {180.0 / count:g}.")
    middles = np.round((np.arange(2 * count) + 0.5) * (180.0 / count) - 180.0, 8)
    east_west = _between(longitude, columns, middles, wide, circle=True)
    south_north = _between_rows(latitude, middles[np.abs(middles) < 90.0], size)
    if bbox is not None:
        rows, cols = inside_box(bbox, south_north.centres, east_west.centres)
        south_north, east_west = south_north[rows], east_west[cols]
    return south_north, west_to_east(east_west, resolution)


def west_to_east(axis: Axis, step: float) -> Axis:
    """Order longitudes so that they continue across the antimeridian: 176, 178, -180; a full circle begins at -180."""
    if len(axis) < 2:
        return axis
    gaps = np.diff(axis.centres, append=axis.centres[0] + 360.0)
    widest = int(gaps.argmax())
    return axis if gaps[widest] <= 1.5 * step else axis[np.roll(np.arange(len(axis)), -widest - 1)]


def inside_box(bbox: tuple, latitude: np.ndarray, longitude: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of centres in (west, south, east, north); west > east crosses the antimeridian.

    Raises
    ------
    ConfigError
        If south is above north, or no centre lies inside.
    """
    west, south, east, north = (float(edge) for edge in bbox)
    if south > north:
        raise ConfigError(
            f"bbox must be (west, south, east, north), found south {south:g} above north {north:g}: exchange them."
        )
    rows = np.flatnonzero((latitude >= south) & (latitude <= north))
    whole_turn = east - west >= 360 - _CLOSE
    # Longitudes may be counted either way: 350 to 370, or -10 to 10.
    west, east = ((edge + 180) % 360 - 180 if not -180 <= edge <= 180 else edge for edge in (west, east))
    right, left = longitude >= west, longitude <= east
    cols = np.flatnonzero(right | left | whole_turn if west > east or whole_turn else right & left)
    if not len(rows) or not len(cols):
        raise ConfigError(
            f"bbox (west, south, east, north) = {tuple(bbox)} contains no cell: the files cover latitudes "
            f"{latitude.min():g} to {latitude.max():g} and longitudes {longitude.min():g} to {longitude.max():g}."
        )
    return rows, cols


def cell_step(axis: np.ndarray, other: np.ndarray, *, circle: bool = False, one_cell: float = ONE_CELL) -> float:
    """Return the width (degrees) of the cells of an axis; a single cell is as wide as those of the other axis."""
    steps = [np.abs(np.diff(a)).min() for a in (axis, other) if len(a) > 1]
    if len(axis) > 1 and circle:  # two cells may be neighbours across the antimeridian
        steps = [min(steps[0], (axis[0] - axis[-1]) % 360 or 360.0), *steps[1:]]
    return float([*steps, one_cell][0])


def _between(axis: np.ndarray, positions: np.ndarray, target: np.ndarray, step: float, *, circle: bool) -> Axis:
    """Place target centres between those of an ascending axis; centres over half a step outside are dropped."""
    size = len(axis)
    after = np.searchsorted(axis, target + _CLOSE)
    before = after - 1
    if circle:
        before, after = before % size, after % size
        gap, away = (axis[after] - axis[before]) % 360, (target - axis[before] + _CLOSE) % 360 - _CLOSE
        gap = np.where(gap == 0, 360.0, gap)
    else:
        before, after = np.clip(before, 0, size - 1), np.clip(after, 0, size - 1)
        gap, away = axis[after] - axis[before], target - axis[before]
    adjacent = (gap < 1.5 * step) & (gap > 0) & (away >= -_CLOSE)
    share = np.where(adjacent, np.clip(away / np.where(gap > 0, gap, 1.0), 0.0, 1.0), 0.0)
    share[share < _CLOSE] = 0.0
    nearest, beyond = _nearest(axis, target, before, after, circle)
    low, high = np.where(adjacent, before, nearest), np.where(adjacent & (share > 0), after, nearest)
    high = np.where(share > 0, high, low)
    inside = adjacent | ((beyond >= -step / 2 - _CLOSE) & (beyond < step / 2 - _CLOSE))
    return Axis(target[inside], positions[low[inside]], positions[high[inside]], share[inside])


def _nearest(
    axis: np.ndarray, target: np.ndarray, before: np.ndarray, after: np.ndarray, circle: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearer of two positions, and the distance of the centre from it (degrees, north or east positive)."""
    away = [target - axis[end] for end in (before, after)]
    if circle:
        away = [(one + 180) % 360 - 180 for one in away]
    first = np.abs(away[0]) <= np.abs(away[1])
    return np.where(first, before, after), np.where(first, *away)


def _between_rows(latitude: np.ndarray, target: np.ndarray, step: float) -> Axis:
    """Place target latitudes between those of the files, in the files' order."""
    order = np.argsort(latitude, kind="stable")
    ascending = _between(latitude[order], order, target, step, circle=False)
    return ascending if len(latitude) > 1 and latitude[0] < latitude[-1] else ascending[::-1]
