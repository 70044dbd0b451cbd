"""Coasts and borders of countries, from Natural Earth: for orientation, not as masks."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from importlib import resources

import numpy as np

#: Maps narrower than this (degrees of longitude and of latitude) have the outlines of 1:50 million, and borders.
REGION = 100.0


@functools.cache
def coast_lines() -> tuple[np.ndarray, ...]:
    """Return the outlines of land at 1:110 million, each (points, 2): degrees east and north."""
    lines = [np.reshape(line, (-1, 2)) / 100.0 for line in _read("coast_110m.json")["lines"]]
    # Land that crosses 180 degrees is closed along that meridian, which is not a coast.
    ends = [np.abs(line[:, 0]) == 180 for line in lines]
    parts = [np.split(line, np.flatnonzero(end[1:] & end[:-1]) + 1) for line, end in zip(lines, ends, strict=True)]
    return tuple(part for split in parts for part in split if len(part) > 1)


@functools.cache
def detailed_lines(kind: str) -> tuple[np.ndarray, ...]:
    """Return lines at 1:50 million, each (points, 2): degrees east and north.

    Parameters
    ----------
    kind : {"coast", "borders"}
        Coasts, or the borders of countries.
    """
    return tuple(np.cumsum(np.reshape(line, (-1, 2)), axis=0) / 100.0 for line in _read("outlines_50m.json")[kind])


def _read(name: str) -> dict:
    return json.loads(resources.files("fluxcube").joinpath(f"data/{name}").read_text("utf-8"))


def outlines_within(kind: str, west: float, east: float, south: float, north: float) -> list[np.ndarray]:
    """Return the lines within a box, cut at its western and eastern edge, with as much detail as its size needs.

    Parameters
    ----------
    kind : {"coast", "borders"}
        Coasts, or the borders of countries.
    west, east, south, north : float
        The box, degrees; longitudes may lie beyond 180, where the lines of the other end of the world are.

    Returns
    -------
    list of (points, 2) array
        Degrees east, from west to east, and north.
    """
    world = max(east - west, north - south) > REGION
    detailed = kind == "borders" or not world
    lines, ends = (detailed_lines(kind) if detailed else coast_lines()), _ends(kind, detailed)
    near = []
    for turn in (-360.0, 0.0, 360.0):
        left, right = ends[:, 0] + turn, ends[:, 2] + turn
        found = np.flatnonzero((right > west) & (left < east) & (ends[:, 3] > south) & (ends[:, 1] < north))
        near += [lines[i] + np.array([turn, 0.0]) for i in found]
    return [part for line in near for part in _between(line, west, east)]


@functools.cache
def _ends(kind: str, detailed: bool) -> np.ndarray:
    """Return the western, southern, eastern and northern end (line, 4) of each line."""
    lines = detailed_lines(kind) if detailed else coast_lines()
    return np.array([[*line.min(0), *line.max(0)] for line in lines])


def _between(line: np.ndarray, west: float, east: float) -> Iterable[np.ndarray]:
    """Yield the parts of a line between two meridians, with points where it crosses them."""
    if line[:, 0].min() >= west and line[:, 0].max() <= east:
        return [line]
    for meridian in (west, east):
        line = _with_crossings(line, meridian)
    inside = (line[:, 0] >= west) & (line[:, 0] <= east)
    runs = np.split(np.arange(len(line)), np.flatnonzero(np.diff(inside)) + 1)
    return [line[run] for run in runs if inside[run[0]] and len(run) > 1]


def _with_crossings(line: np.ndarray, meridian: float) -> np.ndarray:
    """Return a line with a point wherever it crosses a meridian."""
    off = line[:, 0] - meridian
    at = np.flatnonzero(off[1:] * off[:-1] < 0)
    share = off[at] / (off[at] - off[at + 1])
    north = line[at, 1] + share * (line[at + 1, 1] - line[at, 1])
    return np.insert(line, at + 1, np.stack([np.full(len(at), meridian), north], 1), axis=0)
