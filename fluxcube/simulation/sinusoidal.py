"""The MODIS 500 m grid: a sinusoidal projection of a sphere, with pixels numbered from 90 N, 180 W.

Written independently of `fluxcube.sources.modis`, so that the readers can be tested against it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

#: Radius of the MODIS sphere, m.
RADIUS = 6371007.181
#: Side of a pixel, m: a tile of 10 degrees has 2400.
PIXEL = np.pi * RADIUS / 18 / 2400
#: Rows and columns of a tile, and of the grid.
TILE = 2400
ROWS, COLUMNS = 18 * TILE, 36 * TILE
CRS = "+proj=sinu +lon_0=0 +x_0=0 +y_0=0 +R=6371007.181 +units=m +no_defs"


def pixel_at(latitude: ArrayLike, longitude: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return the row and column (float; the integer part is the pixel) of coordinates in degrees.

    References
    ----------
    MODIS land grid, https://modis-land.gsfc.nasa.gov/MODLAND_grid.html

    Examples
    --------
    >>> pixel_at(0.0, 0.0)
    (np.float64(21600.0), np.float64(43200.0))
    """
    phi, lam = np.deg2rad(latitude), np.deg2rad(longitude)
    return ROWS / 2 - RADIUS * phi / PIXEL, COLUMNS / 2 + RADIUS * lam * np.cos(phi) / PIXEL


def centre_of(row: np.ndarray, column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the latitude and longitude (degrees) of pixels' centres."""
    phi = (ROWS / 2 - np.asarray(row) - 0.5) * PIXEL / RADIUS
    lam = (np.asarray(column) + 0.5 - COLUMNS / 2) * PIXEL / (RADIUS * np.cos(phi))
    return np.rad2deg(phi), np.rad2deg(lam)


def corner_of(row: int, column: int) -> tuple[float, float]:
    """Return the projected x and y (m) of a pixel's upper left corner."""
    return (column - COLUMNS / 2) * PIXEL, (ROWS / 2 - row) * PIXEL


def tile_name(row: int, column: int) -> str:
    """Return the name of the tile that contains a pixel, such as "h17v04"."""
    return f"h{int(column) // TILE:02d}v{int(row) // TILE:02d}"
