"""Check and read MODIS tiles as LP DAAC distributes them: HDF4 files with an HDF-EOS description of their grid.

The library that reads them runs in a process of its own (`hdf_process`), in which `hdf_read` uses it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fluxcube.errors import SourceError
from fluxcube.sources.modis.grid import TILE, Raster, Tile
from fluxcube.sources.modis.hdf_process import call


def check(raster: Raster) -> Tile:
    """Read a tile's grid and attributes and find its position on the global grid.

    Raises
    ------
    SourceError
        If the file cannot be read as HDF4, its grid is not the 500 m sinusoidal one on the sphere, it is not in the
        tile that its name specifies, or a layer is missing or of another type, scale or fill.
    MissingPackageError
        If pyhdf is not installed.

    References
    ----------
    HDF-EOS Library User's Guide, vol. 1 (structural metadata); MODIS land grid,
    https://modis-land.gsfc.nasa.gov/MODLAND_grid.html
    """
    try:
        state = raster.path.stat()
    except OSError as problem:
        raise SourceError(f"{raster.path}: cannot be read ({problem.strerror}).") from problem
    layout = _layout(raster.path, state.st_size, state.st_mtime_ns, raster.product)
    tile = Tile(path=raster.path, product=raster.product, day=raster.day, tile=raster.tile, **layout)
    _check_name(tile)
    return tile


@functools.lru_cache(maxsize=65536)
def _layout(path: Path, size: int, changed: int, product: str) -> dict[str, Any]:
    """Return the fields of a `Tile` that the file determines; size and time of change are part of the cache's key."""
    (layout,) = call("layout", path, product=product)
    return layout | {"bands": tuple(layout["bands"])}


def windows(tile: Tile, boxes: Iterable[tuple[int, int, int, int]]) -> Iterator[np.ndarray]:
    """Yield a window (band, height, width) for each box.

    Parameters
    ----------
    tile : Tile
    boxes : iterable of (int, int, int, int)
        First row, last row + 1, first column and last column + 1, in pixels of the file, from north to south: a layer
        that is compressed as a whole is then decompressed once.
    """
    yield from call("windows", tile.path, bands=list(tile.bands), boxes=[list(map(int, box)) for box in boxes])


def _check_name(tile: Tile) -> None:
    """Check that a file covers the tile that its name specifies, if it specifies one."""
    if tile.tile is None:
        return
    h, v = tile.tile
    rows = v * TILE <= tile.row and tile.row + tile.height <= (v + 1) * TILE
    cols = h * TILE <= tile.col and tile.col + tile.width <= (h + 1) * TILE
    if not (rows and cols):
        raise SourceError(
            f"{tile.path}: by its name it is tile h{h:02d}v{v:02d} (rows from {v * TILE}, columns from {h * TILE}), "
            f"the grid inside begins at row {tile.row}, column {tile.col} and has {tile.height} x {tile.width} pixels: "
            "one of the two is wrong; download the tile again."
        )
