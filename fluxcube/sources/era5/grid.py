"""The grid that ERA5 is wanted on: the files' own cells, or finer ones between them by bilinear interpolation."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from fluxcube.errors import ConfigError

#: Step (degrees) of a file of one cell, which has no neighbour to tell.
_ONE_CELL = 0.25
_CLOSE = 1e-6


@dataclass(frozen=True, eq=False)
class Axis:
    """Where the cells of one axis lie among a file's: `share` of the way from `low` to `high`.

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
    def own(cls, centres: np.ndarray, places: np.ndarray) -> Axis:
        """The file's own cells."""
        return cls(centres, places, places, np.zeros(len(places)))

    def __len__(self) -> int:
        return len(self.low)

    def __getitem__(self, cells: slice | np.ndarray) -> Axis:
        return Axis(self.centres[cells], self.low[cells], self.high[cells], self.share[cells])

    @property
    def exact(self) -> bool:
        """Whether nothing is interpolated."""
        return not self.share.any()

    @functools.cached_property
    def needed(self) -> np.ndarray:
        """Positions of the file that are read, ascending."""
        return np.unique(np.concatenate([self.low, self.high]))

    def corners(self, needed: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
        """The two positions among `needed` of every cell, each with its weight."""
        low, high = (np.searchsorted(needed, place) for place in (self.low, self.high))
        return (low, 1.0 - self.share), (high, self.share)


def blend(values: np.ndarray, rows: Axis, columns: Axis, land: np.ndarray) -> np.ndarray:
    """Interpolate bilinearly, each of the four cells around counted by its share of land, too.

    Parameters
    ----------
    values : (..., row, column)
        At the rows and columns that `rows.needed` and `columns.needed` name.
    rows, columns : Axis
        Of the cells wanted.
    land : (row, column)
        Share of land of each cell of `values`, 0 to 1; among cells without any the weights are those of the
        distance alone.

    Returns
    -------
    (..., latitude, longitude) float64
        NaN where a cell that counts is missing.
    """
    r, c = rows.corners(rows.needed), columns.corners(columns.needed)
    corners = [(i, j, np.multiply.outer(wi, wj)) for i, wi in r for j, wj in c]
    on_land = [weight * land[np.ix_(i, j)] for i, j, weight in corners]
    total = sum(on_land)
    some = total > 0
    out = 0.0
    for (i, j, near), weight in zip(corners, on_land, strict=True):
        weight = np.where(some, weight / np.where(some, total, 1.0), near)
        part = values[..., i[:, None], j[None, :]]
        out = out + np.where(weight > 0, part * weight, 0.0)
    return out


def interpolate(values: np.ndarray, rows: Axis, columns: Axis) -> np.ndarray:
    """Interpolate bilinearly, all cells alike: (row, column) at the positions needed, to (latitude, longitude)."""
    if rows.exact and columns.exact:
        return values[np.ix_(rows.corners(rows.needed)[0][0], columns.corners(columns.needed)[0][0])]
    (top, one), (bottom, other) = rows.corners(rows.needed)
    values = values[top] * one[:, None] + values[bottom] * other[:, None]
    (left, one), (right, other) = columns.corners(columns.needed)
    return values[:, left] * one + values[:, right] * other


def target_axes(
    latitude: np.ndarray, longitude: np.ndarray, columns: np.ndarray, resolution: float, bbox: tuple | None
) -> tuple[Axis, Axis]:
    """Lay a grid of `resolution` degrees into the files' cells.

    Its cells' edges are whole multiples of the resolution, as those of X-BASE; a cell belongs to it if its centre lies
    in a cell of the files (and in `bbox`). Beyond the outermost centres, half a cell at most, values are the outermost
    cell's.

    Parameters
    ----------
    latitude : (row,)
        Of the files, in their order.
    longitude, columns : (column,)
        From -180 to 180, ascending, and the files' position of each.
    resolution : float
    bbox : (west, south, east, north) or None

    Returns
    -------
    (Axis, Axis)
        Of latitudes, in the files' order, and of longitudes, from west to east.

    Raises
    ------
    ConfigError
        If the resolution is not finer than the files', or no cell is left.
    """
    size, wide = cell_step(latitude, longitude), cell_step(longitude, latitude, circle=True)
    if not 0 < resolution <= min(size, wide) + _CLOSE:
        raise ConfigError(
            f"resolution={resolution:g}: it must be above 0 and at most the files' {min(size, wide):g} degrees; "
            "for coarser maps take means of maps."
        )
    count = round(180.0 / resolution)
    if abs(count * resolution - 180.0) > _CLOSE:
        raise ConfigError(f"resolution={resolution:g} does not divide 180 degrees: take e.g. {180.0 / count:g}.")
    middles = np.round((np.arange(2 * count) + 0.5) * (180.0 / count) - 180.0, 8)
    east_west = _between(longitude, columns, middles, wide, circle=True)
    south_north = _between_rows(latitude, middles[np.abs(middles) < 90.0], size)
    if bbox is not None:
        rows, cols = inside_box(bbox, south_north.centres, east_west.centres)
        south_north, east_west = south_north[rows], east_west[cols]
    return south_north, west_to_east(east_west, resolution)


def west_to_east(axis: Axis, step: float) -> Axis:
    """Let longitudes that go on across the antimeridian do so: 176, 178, -180, -178; a whole circle begins at -180."""
    if len(axis) < 2:
        return axis
    gaps = np.diff(axis.centres, append=axis.centres[0] + 360.0)
    widest = int(gaps.argmax())
    return axis if gaps[widest] <= 1.5 * step else axis[np.roll(np.arange(len(axis)), -widest - 1)]


def inside_box(bbox: tuple, latitude: np.ndarray, longitude: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions whose centres lie in (west, south, east, north); west > east crosses the antimeridian.

    Raises
    ------
    ConfigError
        If south is above north, or no centre lies inside.
    """
    west, south, east, north = (float(edge) for edge in bbox)
    if south > north:
        raise ConfigError(f"bbox must be (west, south, east, north); found south {south:g} above north {north:g}.")
    rows = np.flatnonzero((latitude >= south) & (latitude <= north))
    whole_turn = east - west >= 360 - _CLOSE
    # Either way of counting longitudes is fine: 350 to 370, -10 to 10.
    west, east = ((edge + 180) % 360 - 180 if not -180 <= edge <= 180 else edge for edge in (west, east))
    right, left = longitude >= west, longitude <= east
    cols = np.flatnonzero(right | left | whole_turn if west > east or whole_turn else right & left)
    if not len(rows) or not len(cols):
        raise ConfigError(
            f"bbox (west, south, east, north) = {tuple(bbox)} holds no cell: the files cover latitudes "
            f"{latitude.min():g} to {latitude.max():g} and longitudes {longitude.min():g} to {longitude.max():g}."
        )
    return rows, cols


def cell_step(axis: np.ndarray, other: np.ndarray, *, circle: bool = False) -> float:
    """Width (degrees) of the cells of an axis; a single cell is as wide as those of the other axis."""
    steps = [np.abs(np.diff(a)).min() for a in (axis, other) if len(a) > 1]
    if len(axis) > 1 and circle:  # two cells may be neighbours across the antimeridian
        steps = [min(steps[0], (axis[0] - axis[-1]) % 360 or 360.0), *steps[1:]]
    return float([*steps, _ONE_CELL][0])


def _between(axis: np.ndarray, places: np.ndarray, wanted: np.ndarray, step: float, *, circle: bool) -> Axis:
    """Lay wanted centres between those of an ascending axis; those more than half a step outside are left out."""
    size = len(axis)
    after = np.searchsorted(axis, wanted + _CLOSE)
    before = after - 1
    if circle:
        before, after = before % size, after % size
        gap, away = (axis[after] - axis[before]) % 360, (wanted - axis[before] + _CLOSE) % 360 - _CLOSE
        gap = np.where(gap == 0, 360.0, gap)
    else:
        before, after = np.clip(before, 0, size - 1), np.clip(after, 0, size - 1)
        gap, away = axis[after] - axis[before], wanted - axis[before]
    adjacent = (gap < 1.5 * step) & (gap > 0) & (away >= -_CLOSE)
    share = np.where(adjacent, np.clip(away / np.where(gap > 0, gap, 1.0), 0.0, 1.0), 0.0)
    share[share < _CLOSE] = 0.0
    nearest, beyond = _nearest(axis, wanted, before, after, circle)
    low, high = np.where(adjacent, before, nearest), np.where(adjacent & (share > 0), after, nearest)
    high = np.where(share > 0, high, low)
    kept = adjacent | ((beyond >= -step / 2 - _CLOSE) & (beyond < step / 2 - _CLOSE))
    return Axis(wanted[kept], places[low[kept]], places[high[kept]], share[kept])


def _nearest(
    axis: np.ndarray, wanted: np.ndarray, before: np.ndarray, after: np.ndarray, circle: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The nearer of two positions, and how far beyond it a centre lies (degrees, north or east positive)."""
    away = [wanted - axis[end] for end in (before, after)]
    if circle:
        away = [(one + 180) % 360 - 180 for one in away]
    first = np.abs(away[0]) <= np.abs(away[1])
    return np.where(first, before, after), np.where(first, *away)


def _between_rows(latitude: np.ndarray, wanted: np.ndarray, step: float) -> Axis:
    order = np.argsort(latitude, kind="stable")
    found = _between(latitude[order], order, wanted, step, circle=False)
    return found if len(latitude) > 1 and latitude[0] < latitude[-1] else found[::-1]
