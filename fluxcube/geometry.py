"""Cells of a latitude-longitude grid: their edges, and their area on the ellipsoid."""

from __future__ import annotations

import numpy as np

from fluxcube.errors import SchemaError

#: Semi-major axis (m) and flattening of WGS84.
SEMI_MAJOR, FLATTENING = 6378137.0, 1 / 298.257223563

#: Largest ratio between two steps of one axis; a larger ratio means that cells are missing.
_MAX_STEP_RATIO = 1.6


def cell_bounds(
    centres: np.ndarray, limits: tuple[float, float] | None = None, *, width: float | None = None
) -> np.ndarray:
    """Return the edges of cells, half-way between neighbouring centres.

    Parameters
    ----------
    centres : (cell,) array
        Degrees, increasing or decreasing. Longitudes may continue from 180 to -180, or from 360 to 0.
    limits : (float, float), optional
        Edges that no cell extends beyond: (-90, 90) for latitudes, so that a cell centred at a pole is half a cell.
        None for longitudes, which are periodic.
    width : float, optional
        Width of a single cell in degrees, which cannot be derived from neighbours. Ignored for several cells.

    Returns
    -------
    (cell, 2) float64
        Degrees, in the order of the axis: the second edge of a cell is the first edge of the next cell, except for
        whole turns of 360 degrees.

    Raises
    ------
    SchemaError
        If there is no cell or a single cell without `width`, or if the centres are not monotonic, not finite, not
        evenly spaced, or span more than 360 degrees.

    Examples
    --------
    >>> cell_bounds(np.array([90.0, 89.75, 89.5]), (-90, 90))
    array([[90.   , 89.875],
           [89.875, 89.625],
           [89.625, 89.375]])
    >>> cell_bounds(np.array([179.5, -179.5])).tolist()
    [[179.0, 180.0], [-180.0, -179.0]]
    """
    centres = np.asarray(centres, np.float64)
    if centres.ndim != 1 or not np.isfinite(centres).all() or not centres.size:
        raise SchemaError(f"expected finite cell centres along one dimension, found {centres!r}; check the coordinate.")
    steps = _steps(centres, circle=limits is None, width=width)
    inner = steps[1:] / 2 if len(centres) > 1 else steps / 2
    before, after = np.concatenate([inner[:1], inner])[: len(centres)], np.concatenate([inner, inner[-1:]])
    bounds = np.stack([centres - before, centres + after[-len(centres) :]], 1)
    if limits is None:
        if abs(steps[1:].sum()) + abs(before[0] + after[-1]) > 360 + 1e-3:
            raise SchemaError(
                f"expected longitudes that span at most 360 degrees, found {centres[0]:g} to {centres[-1]:g}; "
                "select fewer."
            )
        return bounds
    if not ((centres >= limits[0] - 1e-6) & (centres <= limits[1] + 1e-6)).all():
        raise SchemaError(
            f"expected centres within {limits}, found {centres.min():g} to {centres.max():g}; check the coordinate."
        )
    return np.clip(bounds, *limits)


def _steps(centres: np.ndarray, *, circle: bool, width: float | None) -> np.ndarray:
    """Return the distance of each centre from the previous one; for a single cell, its width."""
    if len(centres) == 1:
        if width is None or not width > 0:
            raise SchemaError("the width of a single cell is unknown; pass width= in degrees.")
        return np.array([float(width)])
    steps = np.diff(centres, prepend=centres[0])
    if circle:
        steps = (steps + 180) % 360 - 180
    size = np.abs(steps[1:])
    if not (np.sign(steps[1:]) == np.sign(steps[1])).all() or not size.min() > 0:
        raise SchemaError(
            f"expected increasing or decreasing centres, found {_few(centres)}; sort them, e.g. with ds.sortby."
        )
    if size.max() > _MAX_STEP_RATIO * size.min():
        at = int(size.argmax())
        raise SchemaError(
            f"expected evenly spaced cells, found steps from {size.min():g} to {size.max():g} degrees (after "
            f"{centres[at]:g}), so cells are missing; select a range without gaps, or pass the bounds of the cells."
        )
    return steps


def west_to_east(longitude: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the order that sorts longitudes from west to east, and the sorted longitudes.

    They begin at -180, except for a region across the antimeridian: it begins at its own western end and continues
    above 180, in one piece.

    Parameters
    ----------
    longitude : (cell,) array
        Degrees east in any order, from 0 to 360 or from -180 to 180.

    Returns
    -------
    order : (cell,) int64
        Indices into `longitude`.
    longitude : (cell,) float64
        Increasing.

    Examples
    --------
    >>> west_to_east(np.array([178.0, 179.0, -180.0, -179.0]))[1].tolist()
    [178.0, 179.0, 180.0, 181.0]
    >>> west_to_east(np.array([0.0, 90.0, 180.0, 270.0]))[1].tolist()
    [-180.0, -90.0, 0.0, 90.0]
    """
    east = (np.asarray(longitude, np.float64) + 180) % 360 - 180
    order = np.argsort(east, kind="stable")
    east = east[order]
    if len(east) < 2:
        return order, east
    gaps = np.diff(np.append(east, east[0] + 360))
    first = (int(np.argmax(gaps)) + 1) % len(east)  # the region begins east of the widest gap
    if first == 0 or gaps.max() <= _MAX_STEP_RATIO * gaps.min():
        return order, east
    return np.roll(order, -first), np.concatenate([east[first:], east[:first] + 360])


def cell_area(latitude_bnds: np.ndarray, longitude_bnds: np.ndarray) -> np.ndarray:
    """Return the area of cells on the WGS84 ellipsoid.

    The area is exact: between two latitudes, an ellipsoid has the same area as the sphere of equal surface between the
    corresponding authalic latitudes, so that the cells of a global grid add up to the surface of WGS84,
    510,065,621.7 km2. On a sphere with the same latitudes, which many products use, cells are up to 0.45 % too large at
    the equator and 0.9 % too small at the poles.

    Parameters
    ----------
    latitude_bnds : (latitude, 2) array
        Edges in degrees north, in any order.
    longitude_bnds : (longitude, 2) array
        Edges in degrees east, in any order.

    Returns
    -------
    (latitude, longitude) float64
        m2.

    Raises
    ------
    SchemaError
        If edges are not pairs, or latitudes lie beyond the poles.

    References
    ----------
    Snyder 1987, "Map projections: a working manual", USGS Professional Paper 1395, doi:10.3133/pp1395, equations 3-11
    to 3-13.

    Examples
    --------
    >>> round(float(cell_area([[-90, 90]], [[-180, 180]]).sum() / 1e6), 1)
    510065621.7
    """
    latitude_bnds, longitude_bnds = (np.asarray(bounds, np.float64) for bounds in (latitude_bnds, longitude_bnds))
    for name, bounds in (("latitude", latitude_bnds), ("longitude", longitude_bnds)):
        if bounds.ndim != 2 or bounds.shape[1] != 2:
            raise SchemaError(
                f"{name}_bnds: expected shape ({name}, 2), found {bounds.shape}; pass the two edges of each cell."
            )
    if (np.abs(latitude_bnds) > 90 + 1e-6).any():
        raise SchemaError(
            f"expected latitudes from -90 to 90 degrees, found {np.abs(latitude_bnds).max():g}; check the bounds."
        )
    heights = np.abs(np.diff(zone_area(latitude_bnds), axis=1))[:, 0]
    return np.multiply.outer(heights, np.abs(np.diff(longitude_bnds, axis=1))[:, 0])


def zone_area(latitude: np.ndarray) -> np.ndarray:
    """Return the area of the ellipsoid between the equator and a latitude, per degree of longitude.

    An equal-area map has longitude and this area as its axes.

    Parameters
    ----------
    latitude : array
        Degrees north.

    Returns
    -------
    array of float64
        m2 per degree, negative in the south (Snyder, 3-11 and 3-12).
    """
    e2 = FLATTENING * (2 - FLATTENING)
    e, sine = np.sqrt(e2), np.sin(np.deg2rad(latitude))
    q = (1 - e2) * (sine / (1 - e2 * sine**2) + np.arctanh(e * sine) / e)
    return np.deg2rad(SEMI_MAJOR**2 * q / 2)


def _few(values: np.ndarray) -> str:
    shown = ", ".join(f"{value:g}" for value in values[:4])
    return f"{shown}, ..." if len(values) > 4 else shown
