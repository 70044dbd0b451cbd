"""Cells of a grid that contain land, from the outlines of Natural Earth."""

from __future__ import annotations

import numpy as np

from fluxcube.errors import missing_package
from fluxcube.plotting.outlines import coast_lines

#: South of this latitude no model of land is applied: Antarctica is ice, and its outline crosses all longitudes.
SOUTH = -60.0


def land_cells(resolution: float, bbox: tuple[float, float, float, float]) -> np.ndarray:
    """Return the cells (latitude, longitude), from north to south, that the outlines of land cover or touch.

    The outlines are those of Natural Earth at 1:110 million, which lack small islands.

    Parameters
    ----------
    resolution : float
        Step of the grid, degrees.
    bbox : (west, south, east, north)
        Degrees. Land south of 60 degrees south is not counted.

    Returns
    -------
    (latitude, longitude) bool

    Raises
    ------
    MissingPackageError
        If rasterio is not installed.
    """
    try:
        from rasterio.features import rasterize
        from rasterio.transform import from_origin
    except ImportError:
        raise missing_package("rasterio", "grid", "counting land cells") from None
    west, south, east, north = bbox
    shape = (max(1, round((north - max(south, SOUTH)) / resolution)), max(1, round((east - west) / resolution)))
    # Outlines that cross 180 degrees are cut there: a part is closed along that meridian.
    outlines = [line for line in coast_lines() if len(line) > 2 and line[:, 1].max() > SOUTH]
    shapes = [{"type": "Polygon", "coordinates": [[*line.tolist(), line[0].tolist()]]} for line in outlines]
    turns = [turn for turn in (-360.0, 0.0, 360.0) if west < 180.0 + turn and east > -180.0 + turn]
    land = np.zeros(shape, bool)
    for turn in turns:
        transform = from_origin(west - turn, north, resolution, resolution)
        land |= rasterize(shapes, out_shape=shape, transform=transform, all_touched=True, dtype="uint8").astype(bool)
    return land
