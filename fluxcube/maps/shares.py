"""Shares of the cells of a grid in geographic regions, biomes or bands of latitude."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fluxcube.errors import ConfigError
from fluxcube.geometry import zone_area
from fluxcube.parsing import read_json

#: Maximum step along the edges of a region, in degrees, for the computation of its area.
_STEP = 0.25


@dataclass(frozen=True)
class Groups:
    """Assignment of cells to groups, with the share of each cell.

    Attributes
    ----------
    dim : str or None
        Name of the groups' dimension; None for a single group of all cells.
    labels : tuple of str
        One for each group.
    cell, group : (entry,) int64
        Position in the flattened (latitude, longitude) grid, and in `labels`.
    share : (entry,) float64
        Share of the cell's area in the group, above 0 and at most 1.
    inside : (group,) float64
        Share of the group's area that lies within the grid.
    """

    dim: str | None
    labels: tuple[str, ...]
    cell: np.ndarray
    group: np.ndarray
    share: np.ndarray
    inside: np.ndarray


def everywhere(cells: int) -> Groups:
    """Return one group of all cells."""
    cell = np.arange(cells)
    return Groups(None, ("all",), cell, np.zeros_like(cell), np.ones(cells), np.ones(1))


def by_class(classes: np.ndarray) -> Groups:
    """Group cells by their class (latitude, longitude); those without one are "unknown"."""
    names = np.array([str(name) or "unknown" for name in np.ravel(classes)], object)
    labels, group = np.unique(names.astype(str), return_inverse=True)
    cell = np.arange(names.size)
    return Groups("igbp", tuple(map(str, labels)), cell, group.ravel(), np.ones(cell.size), np.ones(len(labels)))


def by_latitude(latitude_bnds: np.ndarray, columns: int, step: float) -> Groups:
    """Group cells by bands of latitude `step` degrees high, from the equator on; an edge divides cells."""
    if not 0 < step <= 90:
        raise ConfigError(f"latitude_step: expected more than 0 and at most 90 degrees, found {step!r}.")
    count = int(np.ceil(90 / step - 1e-9))
    edges = np.clip(step * np.arange(-count, count + 1), -90, 90)
    low, high = zone_area(latitude_bnds.min(1)), zone_area(latitude_bnds.max(1))
    south, north = zone_area(edges[:-1, None]), zone_area(edges[1:, None])
    shares = np.clip(np.minimum(high, north) - np.maximum(low, south), 0, None) / (high - low)
    kept = np.flatnonzero((shares > 1e-12).any(1))
    group, row = np.nonzero(shares[kept] > 1e-12)
    cell = (row[:, None] * columns + np.arange(columns)).ravel()
    labels = tuple(f"{_degrees(edges[i])} to {_degrees(edges[i + 1])}" for i in kept)
    share = np.repeat(shares[kept][group, row], columns)
    return Groups("band", labels, cell, np.repeat(group, columns), share, np.ones(len(labels)))


def by_region(
    regions: str | os.PathLike | Mapping[str, object], latitude_bnds: np.ndarray, longitude_bnds: np.ndarray, name: str
) -> Groups:
    """Divide cells among polygons, exactly: a cell that a border crosses counts for its part on each side.

    Parameters
    ----------
    regions : path or mapping
        A GeoJSON file, or geometries (GeoJSON mappings, or objects with `__geo_interface__`) by name. Their edges are
        straight lines in longitude and latitude (RFC 7946, 3.1.1). They may overlap each other.
    latitude_bnds, longitude_bnds : (cell, 2) arrays
        Edges of the grid.
    name : str
        Property of a GeoJSON feature that contains its name.

    Returns
    -------
    Groups

    Raises
    ------
    ConfigError
        If there is no region, or one is not a valid polygon.
    """
    geometries = _read(Path(regions), name) if isinstance(regions, str | os.PathLike) else dict(regions)
    if not geometries:
        raise ConfigError(
            "expected at least one region, found none: pass a GeoJSON file or a mapping of names to polygons."
        )
    grid = _Grid.of(latitude_bnds, longitude_bnds)
    parts = [_shares(label, geometry, grid) for label, geometry in geometries.items()]
    group = np.repeat(np.arange(len(parts)), [len(cell) for cell, _, _ in parts])
    cell, share = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    inside = np.array([part[2] for part in parts])
    return Groups("region", tuple(map(str, geometries)), cell, group, share, inside)


def _degrees(value: float) -> str:
    letter = "N" if value > 0 else "S" if value < 0 else ""
    return f"{abs(value):g}{letter}"


def _read(path: Path, name: str) -> dict[str, object]:
    """Return the geometries of a GeoJSON file by the name of their feature."""
    try:
        content = read_json(path, dict)
    except FileNotFoundError:
        raise ConfigError(f"no file of regions at {path}: pass the path of a GeoJSON file.") from None
    except (ValueError, OSError) as error:
        raise ConfigError(f"{path}: expected GeoJSON, found other text ({error}).") from None
    kind = content.get("type")
    if kind in ("Polygon", "MultiPolygon"):
        return {path.stem: content}
    if kind not in ("FeatureCollection", "Feature"):
        raise ConfigError(f"{path}: expected a GeoJSON FeatureCollection, Feature or Polygon, found type {kind!r}.")
    out: dict[str, object] = {}
    features = content.get("features") if kind == "FeatureCollection" else [content]
    if not isinstance(features, list) or not all(isinstance(feature, dict) for feature in features):
        raise ConfigError(f"{path}: expected a list of GeoJSON features, found {features!r:.60}.")
    for i, feature in enumerate(features):
        properties = feature.get("properties") or {}
        if not isinstance(properties, dict):
            raise ConfigError(f"{path}: expected the properties of feature {i}, found {properties!r:.60}.")
        label = properties.get(name, feature.get("id"))
        if label is None:
            raise ConfigError(
                f"{path}: feature {i} has no property {name!r} and no id; it has "
                f"{', '.join(sorted(properties)) or 'none'}: choose one of them with name=."
            )
        if str(label) in out:
            raise ConfigError(
                f"{path}: two features are named {label!r}: choose another property than {name!r} with name=."
            )
        out[str(label)] = feature.get("geometry")
    return out


@dataclass(frozen=True)
class _Grid:
    """Edges of a grid in rising order, and the positions of its rows and columns in the original grid."""

    south_north: np.ndarray
    west_east: np.ndarray
    rows: np.ndarray
    columns: np.ndarray

    @classmethod
    def of(cls, latitude_bnds: np.ndarray, longitude_bnds: np.ndarray) -> _Grid:
        south, west = latitude_bnds.min(1), _unrolled(longitude_bnds.min(1))
        rows, columns = np.argsort(south), np.argsort(west)
        width = float(np.abs(np.diff(longitude_bnds[columns[-1]]))[0])
        return cls(
            np.append(south[rows], latitude_bnds.max()),
            np.append(west[columns], west[columns[-1]] + width),
            rows,
            columns,
        )


def _unrolled(longitude: np.ndarray) -> np.ndarray:
    """Return longitudes without jumps of 360 degrees from one to the next."""
    steps = (np.diff(longitude) + 180) % 360 - 180
    return longitude[0] + np.concatenate([[0.0], np.cumsum(steps)])


def _shares(label: str, geometry: object, grid: _Grid) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the cells that a region touches, the share of each in it, and the share of the region in the grid."""
    cells, shares, whole = [np.array([], np.int64)], [np.array([])], 0.0
    for sign, ring in _rings(label, geometry):
        whole += sign * _ring_area(ring)
        for cell, share in _cover(ring, grid):
            cells.append(cell)
            shares.append(sign * share)
    if not whole > 0:
        raise ConfigError(
            f"region {label!r}: expected an area above 0, found none: check the order of its coordinates "
            "(longitude, latitude)."
        )
    cell, where = np.unique(np.concatenate(cells), return_inverse=True)
    share = np.bincount(where, np.concatenate(shares), len(cell))
    if len(cell) and not (share.min() > -1e-6 and share.max() < 1 + 1e-6):
        raise ConfigError(
            f"region {label!r}: its polygons overlap or cross themselves, so their area is not defined; repair them."
        )
    kept = share > 1e-9
    cell, share = cell[kept], np.minimum(share[kept], 1.0)
    row, column = np.divmod(cell, len(grid.columns))
    area = np.diff(zone_area(grid.south_north))[row] * np.diff(grid.west_east)[column]
    inside = min(float((share * area).sum() / whole), 1.0)
    return grid.rows[row] * len(grid.columns) + grid.columns[column], share, inside


def _rings(label: str, geometry: object) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the rings (point, 2) of a geometry with a sign: 1 for an outline, -1 for a hole."""
    content = getattr(geometry, "__geo_interface__", geometry)
    shape: Mapping[str, Any] = (content.get("geometry", content) or {}) if isinstance(content, Mapping) else {}
    kind, coordinates = shape.get("type"), shape.get("coordinates") or ()
    if kind not in ("Polygon", "MultiPolygon"):
        raise ConfigError(f"region {label!r}: expected a GeoJSON Polygon or MultiPolygon, found {kind!r}.")
    polygons = [coordinates] if kind == "Polygon" else coordinates
    if not isinstance(polygons, list | tuple) or not all(isinstance(rings, list | tuple) for rings in polygons):
        raise ConfigError(f"region {label!r}: expected lists of rings as its coordinates, found {coordinates!r:.60}.")
    for polygon in polygons:
        for i, ring in enumerate(polygon):
            points = _points(ring)
            if len(points) < 3 or not np.isfinite(points).all() or np.abs(points[:, 1]).max() > 90 + 1e-9:
                raise ConfigError(
                    f"region {label!r}: expected rings of three or more points with latitudes from -90 to 90, "
                    "found another one."
                )
            if (points[0] != points[-1]).any():
                points = np.concatenate([points, points[:1]])
            yield (1 if i == 0 else -1), points


def _points(ring: Any) -> np.ndarray:
    """Return the points (point, 2) of a ring; none if it is no list of pairs of numbers."""
    try:
        points = np.array([point[:2] for point in ring], float)
    except (TypeError, ValueError, LookupError, OverflowError):
        points = np.empty((0, 2))
    return points if points.shape[1:] == (2,) else np.empty((0, 2))


def _ring_area(ring: np.ndarray) -> float:
    """Return the area of a ring in m2: the integral of longitude over the zones' area along its outline."""
    pieces = np.maximum(1, np.ceil(np.abs(np.diff(ring, axis=0)).max(1) / _STEP)).astype(int)
    at, edge = _within(pieces)
    ends = np.stack([at / pieces[edge], (at + 1) / pieces[edge]])[..., None]
    start, stop = ring[edge] + ends * (ring[edge + 1] - ring[edge])
    rise = zone_area(stop[:, 1]) - zone_area(start[:, 1])
    return float(abs(((start[:, 0] + stop[:, 0]) / 2 * rise).sum()))


def _within(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the index of each item in its group, and its group: for counts 2 and 1, (0, 1, 0) and (0, 0, 1)."""
    group = np.repeat(np.arange(len(counts)), counts)
    return np.arange(len(group)) - np.repeat(np.cumsum(counts) - counts, counts), group


def _cover(ring: np.ndarray, grid: _Grid) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the cells that a ring touches and the share of each in it, once for each turn of 360 degrees."""
    west, east = grid.west_east[[0, -1]]
    first, last = (west - ring[:, 0].max()) / 360, (east - ring[:, 0].min()) / 360
    for turn in range(int(np.floor(first)), int(np.ceil(last)) + 1):
        x, y = ring[:, 0] + 360 * turn, ring[:, 1]
        rows, columns = (_range(edges, values) for edges, values in ((grid.south_north, y), (grid.west_east, x)))
        if rows and columns:
            edges = grid.south_north[rows.start : rows.stop + 1], grid.west_east[columns.start : columns.stop + 1]
            share = _scanned(x, y, *edges)
            row, column = np.nonzero(share)
            yield (row + rows.start) * len(grid.columns) + column + columns.start, share[row, column]


def _range(edges: np.ndarray, values: np.ndarray) -> range:
    """Return the cells between `edges` that lie between the minimum and the maximum of some values."""
    start = max(0, int(np.searchsorted(edges, values.min(), "right")) - 1)
    return range(start, min(len(edges) - 1, int(np.searchsorted(edges, values.max(), "left"))))


def _scanned(x: np.ndarray, y: np.ndarray, lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
    """Return the share of each cell (row, column) within one ring.

    The ring's edges are cut where they cross edges of cells. Each piece then covers the part of its own cell that lies
    to the east of it, and all of the cells further east in its row; pieces in the other direction subtract the cells
    outside the ring again.
    """
    x0, y0, x1, y1 = _cut(x, y, lat, lon)
    row, column = (np.searchsorted(edges, (a + b) / 2, "right") - 1 for edges, a, b in ((lat, y0, y1), (lon, x0, x1)))
    kept = (row >= 0) & (row < len(lat) - 1)
    row, column = row[kept], np.clip(column[kept], 0, len(lon) - 2)
    middle = np.clip((x0 + x1)[kept] / 2, lon[0], lon[-1])
    rise = (zone_area(y1) - zone_area(y0))[kept] / np.diff(zone_area(lat))[row]
    own = rise * (lon[column + 1] - middle) / np.diff(lon)[column]
    shape = len(lat) - 1, len(lon)
    further = np.bincount(row * shape[1] + column + 1, rise, shape[0] * shape[1]).reshape(shape)
    here = np.bincount(row * shape[1] + column, own, shape[0] * shape[1]).reshape(shape)
    share = (here + np.cumsum(further, axis=1))[:, :-1]
    share[np.abs(share) < 1e-12] = 0.0
    return np.abs(share)


def _cut(x: np.ndarray, y: np.ndarray, lat: np.ndarray, lon: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the ends (x0, y0, x1, y1) of the pieces of a ring's edges between the lines of a grid."""
    edges, along = [np.repeat(np.arange(len(x) - 1), 2)], [np.tile([0.0, 1.0], len(x) - 1)]
    for values, lines in ((x, lon), (y, lat)):
        low, high = np.minimum(values[:-1], values[1:]), np.maximum(values[:-1], values[1:])
        first = np.searchsorted(lines, low, "right")
        at, edge = _within(np.maximum(np.searchsorted(lines, high, "left") - first, 0))
        edges.append(edge)
        along.append((lines[first[edge] + at] - values[edge]) / (values[edge + 1] - values[edge]))
    edge, t = np.concatenate(edges), np.concatenate(along)
    order = np.lexsort((t, edge))
    edge, t = edge[order], t[order]
    px, py = (values[edge] + t * (values[edge + 1] - values[edge]) for values in (x, y))
    same = edge[1:] == edge[:-1]
    return px[:-1][same], py[:-1][same], px[1:][same], py[1:][same]
