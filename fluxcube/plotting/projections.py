"""Projections of maps, by pyproj: the box of degrees that a map shows, and where its points are drawn."""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fluxcube.errors import ConfigError, to_type, unknown

if TYPE_CHECKING:
    import pyproj

#: Names of projections; "platecarree" has degrees as axes.
PROJECTIONS = ("platecarree", "robinson", "mollweide", "lambert", "polar")
#: A projected map of both hemispheres around a pole ends at this latitude.
_POLAR_EDGE = 45.0
#: Radius (m) of the sphere with the area of the Earth, for maps of the whole of it.
_RADIUS = 6371007.0
#: Longitudes stay this far (degrees) from the meridian along which a projection cuts the Earth.
_SEAM = 1e-6
#: Distance (degrees) between the points of a curve.
_STEP = 1.0


@dataclass(frozen=True)
class Box:
    """The part of the Earth that a map shows, in degrees; longitudes increase from west to east, beyond 180 if needed.

    Attributes
    ----------
    west, east, south, north : float
        Edges of the cells at the ends of the map.
    """

    west: float
    east: float
    south: float
    north: float

    @property
    def around(self) -> bool:
        """Whether the box contains all longitudes."""
        return self.east - self.west > 360 - 1e-3

    @property
    def middle(self) -> tuple[float, float]:
        """Longitude and latitude of the centre."""
        return (self.west + self.east) / 2, (self.south + self.north) / 2


@dataclass(frozen=True)
class Projection:
    """A projection and the box of degrees that is drawn in it.

    Attributes
    ----------
    crs : pyproj.CRS
        The projection.
    box : Box
        What is drawn.
    """

    crs: pyproj.CRS
    box: Box

    @functools.cached_property
    def _forward(self) -> pyproj.Proj:
        import pyproj

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of pyproj, on what a PROJ text does not contain
            return pyproj.Proj(self.crs)

    def xy(self, longitude: np.ndarray, latitude: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the place of points on the map, in the units of the projection; NaN where it has none.

        Parameters
        ----------
        longitude, latitude : array
            Degrees; longitudes may lie beyond 180.
        """
        east = np.clip(np.asarray(longitude, float), self.box.west + _SEAM, self.box.east - _SEAM)
        x, y = self._forward(east, np.broadcast_to(np.asarray(latitude, float), east.shape))
        known = np.isfinite(x) & np.isfinite(y)
        return np.where(known, x, np.nan), np.where(known, y, np.nan)

    def curve(self, line: np.ndarray) -> np.ndarray:
        """Return a line (points, 2) of degrees as a curve on the map, with points at most a degree apart."""
        number = np.maximum(1, np.ceil(np.abs(np.diff(line, axis=0)).max(1) / _STEP)).astype(int)
        at = np.concatenate([i + np.arange(n) / n for i, n in enumerate(number)] + [[len(line) - 1.0]])
        index = np.arange(len(line))
        return np.stack(self.xy(np.interp(at, index, line[:, 0]), np.interp(at, index, line[:, 1])), 1)

    @functools.cached_property
    def outline(self) -> np.ndarray:
        """Return the edge (points, 2) of the map: of its box, or its outer parallel around a pole."""
        b = self.box
        if b.around and (centre := _pole_of(self.crs)):
            edge = b.south if centre > 0 else b.north
            return self.curve(np.array([[b.west, edge], [b.east, edge]]))
        corners = [(b.west, b.south), (b.east, b.south), (b.east, b.north), (b.west, b.north), (b.west, b.south)]
        return self.curve(np.array(corners))


def projection_of(projection: str | pyproj.CRS | None, box: Box) -> Projection | None:
    """Return the projection of a map; None for one whose axes are degrees.

    Parameters
    ----------
    projection : str or pyproj.CRS, optional
        A name of `PROJECTIONS`, a text of PROJ or an authority's code ("EPSG:3035"), or a CRS of pyproj or cartopy.
    box : Box
        What the map shows.

    Raises
    ------
    UnknownNameError
        If pyproj does not know it either.
    ConfigError
        If the box does not fit into the projection.
    """
    if projection is None or projection == "platecarree":
        return None
    if isinstance(projection, str) and projection in PROJECTIONS:
        return _named(projection, box)
    return _own(_crs(projection), box)


def _named(name: str, box: Box) -> Projection:
    import pyproj

    lon, lat = box.middle
    if name == "polar":
        side = 1 if lat >= 0 else -1
        if box.south < 0 < box.north:
            box = Box(box.west, box.east, *sorted((side * _POLAR_EDGE, side * 90.0)))
        return Projection(pyproj.CRS(f"+proj=laea +lat_0={90 * side} +lon_0={0 if box.around else lon}"), box)
    if name == "lambert":
        if box.east - box.west > 180:
            raise ConfigError(
                f"the projection lambert: expected a map of at most 180 degrees of longitude, found "
                f"{box.east - box.west:g}; pass {_type('robinson')}, or {_type('polar')} around a pole."
            )
        return Projection(pyproj.CRS(f"+proj=laea +lat_0={lat} +lon_0={lon}"), box)
    kind = {"robinson": "robin", "mollweide": "moll"}[name]
    return Projection(pyproj.CRS(f"+proj={kind} +lon_0={lon} +R={_RADIUS}"), box)


def _type(name: str) -> str:
    return to_type(python=f'projection="{name}"', shell=f"--projection {name}")


def _crs(projection: str | pyproj.CRS) -> pyproj.CRS:
    import pyproj
    from pyproj.exceptions import CRSError

    try:
        return projection if isinstance(projection, pyproj.CRS) else pyproj.CRS.from_user_input(projection)
    except CRSError:
        raise unknown("projection", str(projection), PROJECTIONS) from None


def _own(crs: pyproj.CRS, box: Box) -> Projection:
    """Return a projection of the caller; a map of all longitudes is cut where the projection is."""
    if crs.is_geographic:
        raise ConfigError(f"the projection {crs.name} has degrees as axes; pass {_type('platecarree')}.")
    seam = float(_parameters(crs).get("lon_0", 0.0)) - 180.0
    if box.around:
        return Projection(crs, Box(seam, seam + 360.0, box.south, box.north))
    inside = (seam - box.west) % 360 < box.east - box.west - _SEAM and (seam - box.west) % 360 > _SEAM
    if inside and not _pole_of(crs):
        raise ConfigError(
            f"the projection {crs.name} cuts the Earth at {(seam + 180) % 360 - 180:g} degrees east, within the map "
            f"from {box.west:g} to {box.east:g}; pass one with lon_0 near {box.middle[0]:g}."
        )
    return Projection(crs, box)


def _parameters(crs: pyproj.CRS) -> dict:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return crs.to_dict()


def _pole_of(crs: pyproj.CRS) -> int:
    """Return 1 or -1 for an azimuthal projection centred at the north or south pole, else 0."""
    found = _parameters(crs)
    lat = float(found.get("lat_0", 0.0)) if found.get("proj") in ("laea", "stere", "aeqd", "ortho", "gnom") else 0.0
    return int(np.sign(lat)) if abs(lat) == 90 else 0


def turned(edges: np.ndarray, box: Box) -> tuple[np.ndarray, np.ndarray]:
    """Return the edges of columns of cells of a map of all longitudes from the western end of a box to its eastern end.

    The cell in which the box begins is cut in two.

    Parameters
    ----------
    edges : (columns + 1,) array
        Increasing degrees.
    box : Box
        Of all longitudes.

    Returns
    -------
    edges : (columns + 1 or 2,) array
    columns : array of int
        The column of the map that each column is of.

    Examples
    --------
    >>> turned(np.array([-180.0, -60, 60, 180]), Box(0, 360, -90, 90))
    (array([  0.,  60., 180., 300., 360.]), array([1, 2, 0, 1]))
    """
    parts = [edges + turn for turn in (-360.0, 0.0, 360.0)]
    first = np.clip(np.concatenate([part[:-1] for part in parts]), box.west, box.east)
    last = np.clip(np.concatenate([part[1:] for part in parts]), box.west, box.east)
    kept = np.flatnonzero(last - first > 1e-9)
    return np.append(first[kept], last[kept[-1]]), kept % (len(edges) - 1)
