"""Cells of a grid of latitudes and longitudes: their edges, and how large they are on the ellipsoid."""

from __future__ import annotations

import numpy as np

from fluxcube.errors import SchemaError

#: WGS84: the semi-major axis in metres, and the flattening.
SEMI_MAJOR, FLATTENING = 6378137.0, 1 / 298.257223563

#: Steps of one axis differ by less than this factor; where they do not, cells are missing.
_UNEVEN = 1.6


def cell_bounds(
    centres: np.ndarray, limits: tuple[float, float] | None = None, *, width: float | None = None
) -> np.ndarray:
    """Return the edges of cells, half-way between their centres.

    Parameters
    ----------
    centres : (cell,) array
        Degrees, rising or falling. Those of a circle may go on from 180 to -180, or from 360 to 0.
    limits : (float, float), optional
        Edges beyond which no cell reaches: (-90, 90) for latitudes, so that a cell centred at a pole is half a cell.
        None for longitudes, which are a circle.
    width : float, optional
        Of a single cell, which has no neighbour to tell. Several cells do not need it.

    Returns
    -------
    (cell, 2) float64
        Degrees, in the order of the axis: one cell's second edge is the next one's first, but for whole turns.

    Raises
    ------
    SchemaError
        If there is no cell, or one without a width, or the centres are not in order, not finite or not evenly spaced,
        or more than a whole turn.

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
        raise SchemaError(f"cells need finite centres along one dimension; found {centres!r}.")
    steps = _steps(centres, circle=limits is None, width=width)
    inner = steps[1:] / 2 if len(centres) > 1 else steps / 2
    before, after = np.concatenate([inner[:1], inner])[: len(centres)], np.concatenate([inner, inner[-1:]])
    bounds = np.stack([centres - before, centres + after[-len(centres) :]], 1)
    if limits is None:
        if abs(steps[1:].sum()) + abs(before[0] + after[-1]) > 360 + 1e-3:
            raise SchemaError(f"longitudes from {centres[0]:g} to {centres[-1]:g} are more than a whole turn.")
        return bounds
    if not ((centres >= limits[0] - 1e-6) & (centres <= limits[1] + 1e-6)).all():
        raise SchemaError(f"centres must lie within {limits}; found {centres.min():g} to {centres.max():g}.")
    return np.clip(bounds, *limits)


def _steps(centres: np.ndarray, *, circle: bool, width: float | None) -> np.ndarray:
    """Distance of each centre from the one before it; the first, of a single cell, is its width."""
    if len(centres) == 1:
        if width is None or not width > 0:
            raise SchemaError("the width of a single cell is not known: give width, in degrees.")
        return np.array([float(width)])
    steps = np.diff(centres, prepend=centres[0])
    if circle:
        steps = (steps + 180) % 360 - 180
    size = np.abs(steps[1:])
    if not (np.sign(steps[1:]) == np.sign(steps[1])).all() or not size.min() > 0:
        raise SchemaError(f"centres must rise or fall all along; found {_few(centres)}: sort them, e.g. ds.sortby.")
    if size.max() > _UNEVEN * size.min():
        at = int(size.argmax())
        raise SchemaError(
            f"steps between cells differ from {size.min():g} to {size.max():g} degrees (after {centres[at]:g}), "
            "so cells are missing: select them without holes, or give their bounds."
        )
    return steps


def west_to_east(longitude: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the order in which longitudes rise from west to east, and what they are then.

    They begin at -180, but for a region across the antimeridian: it begins at its own western end and goes on above
    180, in one piece.

    Parameters
    ----------
    longitude : (cell,) array
        Degrees east, in any order, from 0 or from -180 on.

    Returns
    -------
    order : (cell,) int64
    longitude : (cell,) float64
        Rising.

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
    first = (int(np.argmax(gaps)) + 1) % len(east)  # what lies east of the widest gap
    if first == 0 or gaps.max() <= _UNEVEN * gaps.min():
        return order, east
    return np.roll(order, -first), np.concatenate([east[first:], east[:first] + 360])


def cell_area(latitude_bnds: np.ndarray, longitude_bnds: np.ndarray) -> np.ndarray:
    """Return the area of cells on the WGS84 ellipsoid.

    Exact: between two latitudes, an ellipsoid has the area that the sphere of the same surface has between their
    authalic latitudes, so the cells of a whole grid add up to the surface of WGS84, 510,065,621.7 km2. The sphere with
    the same latitudes, which many products use, has cells up to 0.45 % too large at the equator and 0.9 % too small at
    the poles.

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
        If edges are not pairs, or latitudes beyond the poles.

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
            raise SchemaError(f"{name}_bnds must have dims ({name}, 2); found shape {bounds.shape}.")
    if (np.abs(latitude_bnds) > 90 + 1e-6).any():
        raise SchemaError(f"latitudes must be from -90 to 90 degrees; found up to {np.abs(latitude_bnds).max():g}.")
    heights = np.abs(np.diff(zone_area(latitude_bnds), axis=1))[:, 0]
    return np.multiply.outer(heights, np.abs(np.diff(longitude_bnds, axis=1))[:, 0])


def zone_area(latitude: np.ndarray) -> np.ndarray:
    """Return the area of the ellipsoid between the equator and a latitude, per degree of longitude.

    Longitude and this are the axes of an equal-area map.

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
