"""Match the grids of ERA5 files: the same cells may be stored with rows turned or longitudes shifted.

Static fields are often downloaded once for the globe: they may cover more cells than the weather.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fluxcube.errors import SourceError
from fluxcube.sources.era5.header import Header

#: Maximum distance (degrees) between the centres of one cell in two files.
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Layout:
    """Where the cells of the first file are in another file on the same grid.

    Attributes
    ----------
    turned : int
        Number of rows if they run the other way; 0 if they do not.
    shift, columns : int
        Positions by which columns are shifted, and their number; 0 if they are not shifted.
    """

    turned: int = 0
    shift: int = 0
    columns: int = 0

    def file_rows(self, rows: np.ndarray) -> np.ndarray:
        """Return the file's rows of rows of the first file."""
        return self.turned - 1 - rows if self.turned else rows

    def file_columns(self, columns: np.ndarray) -> np.ndarray:
        """Return the file's columns of columns of the first file."""
        return (columns + self.shift) % self.columns if self.shift else columns


def find_layout(first: Header, other: Header) -> Layout:
    """Return where the cells of `first` are in `other`.

    Raises
    ------
    SourceError
        If the files do not have the same cells.
    """
    turned, shift = 0, 0
    if not _close(first.latitude, other.latitude):
        if not _close(first.latitude, other.latitude[::-1]):
            raise _different(first, other, "latitude")
        turned = len(first.latitude)
    if not _close(first.longitude, other.longitude, circle=True):
        shift = int(np.abs(_turn(other.longitude - first.longitude[0])).argmin())
        if not _close(first.longitude, np.roll(other.longitude, -shift), circle=True):
            raise _different(first, other, "longitude")
    return Layout(turned, shift, len(first.longitude) if shift else 0)


def find_cells(first: Header, other: Header, rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows and columns of a file of static fields at which the cells of the first file are.

    Parameters
    ----------
    first, other : Header
        Headers of the weather, and of the static fields, which may cover more cells in another order.
    rows, columns : (row,), (column,) int64
        Positions in the first file.

    Raises
    ------
    SourceError
        If the file lacks some of the cells.
    """
    found = []
    for name, wanted, axis in (
        ("latitude", first.latitude[rows], other.latitude),
        ("longitude", _turn(first.longitude[columns]), _turn(other.longitude)),
    ):
        order = np.argsort(axis, kind="stable")
        after = np.searchsorted(axis[order], wanted).clip(0, len(axis) - 1)
        # On a circle the neighbour of the first value is the last one.
        neighbours = np.stack([order[after], order[after - 1]])
        distance = np.abs(axis[neighbours] - wanted)
        distance = np.abs(_turn(distance)) if name == "longitude" else distance
        if (distance.min(0) > _TOLERANCE).any():
            raise _different(first, other, name)
        found.append(np.where(distance[0] <= distance[1], *neighbours))
    return found[0], found[1]


def _turn(degrees: np.ndarray) -> np.ndarray:
    """Return longitudes, or differences between them, from -180 to 180."""
    return (degrees + 180.0) % 360.0 - 180.0


def _close(one: np.ndarray, other: np.ndarray, *, circle: bool = False) -> bool:
    if one.shape != other.shape:
        return False
    apart = _turn(one - other) if circle else one - other
    return bool(np.abs(apart).max() <= _TOLERANCE)


def _different(one: Header, other: Header, name: str) -> SourceError:
    a, b = getattr(one, name), getattr(other, name)
    return SourceError(
        f"files on different grids: {one.source} has {_extent(a)} of {name}, {other.source} has {_extent(b)}. Open "
        "them one grid at a time, or select the same cells of both, e.g. with xarray's sel and sortby; static fields "
        "(z, lsm) may cover more cells, in a file of their own."
    )


def _extent(axis: np.ndarray) -> str:
    return f"{len(axis)} values from {axis[0]:g} to {axis[-1]:g}"
