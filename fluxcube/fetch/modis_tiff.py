"""Write blocks of native MODIS pixels as GeoTIFFs that `fluxcube.sources.modis` reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fluxcube.errors import FetchError, missing_package
from fluxcube.sources.modis.grid import COLS, PIXEL, ROWS, SPHERE
from fluxcube.stores.swap import unwritable

#: Bytes of blocks that GDAL keeps.
_CACHE = 32 << 20
#: The sinusoidal projection of MODIS, on a sphere.
CRS = f"+proj=sinu +lon_0=0 +x_0=0 +y_0=0 +R={SPHERE} +units=m +no_defs"


@dataclass(frozen=True, kw_only=True)
class Block:
    """Position, bands and type of a GeoTIFF.

    Attributes
    ----------
    row, col, height, width : int
        Pixels of the global 500 m grid.
    names : sequence of str
        Name of each band.
    dtype : str
    fill : int or None
        Value of missing pixels, if all bands have the same.
    """

    row: int
    col: int
    height: int
    width: int
    names: Sequence[str]
    dtype: str
    fill: int | None = None

    @property
    def bytes(self) -> int:
        """Approximate size of the file, without compression."""
        pixels = self.height * self.width * np.dtype(self.dtype).itemsize
        return len(self.names) * (pixels + 120) + 2000


def corner(row: int, col: int) -> tuple[float, float]:
    """Return the projected x and y (m) of the upper left corner of a pixel of the global 500 m grid."""
    return (col - COLS / 2) * PIXEL, (ROWS / 2 - row) * PIXEL


def write_block(path: Path, block: Block, values: np.ndarray) -> None:
    """Write values (band, height, width), one band after the other without compression, so that days are read fast."""
    with _open(path, block) as file:
        file.write(np.ascontiguousarray(values, block.dtype))


def write_strips(path: Path, block: Block, strips: Iterable[tuple[int, np.ndarray]]) -> None:
    """Write a large block in strips, compressed.

    Parameters
    ----------
    path : Path
    block : Block
    strips : iterable of (int, (band, row, column) array)
        First row of each strip, counted from the block's, and its values.
    """
    with _open(path, block, compress="deflate", zlevel=1, tiled=True, blockxsize=256, blockysize=256) as file:
        for first, values in strips:
            window = ((first, first + values.shape[1]), (0, block.width))
            file.write(np.ascontiguousarray(values, block.dtype), window=window)


@contextmanager
def _open(path: Path, block: Block, **options: Any) -> Iterator[Any]:
    try:
        import rasterio
        from rasterio.errors import RasterioError
        from rasterio.transform import from_origin
    except ImportError:
        raise missing_package("rasterio", "grid", "writing MODIS GeoTIFFs") from None
    shape = {"height": block.height, "width": block.width, "count": len(block.names)}
    place = {"crs": CRS, "transform": from_origin(*corner(block.row, block.col), PIXEL, PIXEL)}
    form = {"driver": "GTiff", "dtype": block.dtype, "nodata": block.fill, "interleave": "band"}
    if not options:
        options = {"blockysize": block.height}  # one strip a band
    try:
        # By default GDAL keeps blocks of up to 5 % of the computer's RAM.
        with rasterio.Env(GDAL_CACHEMAX=_CACHE), rasterio.open(path, "w", **shape, **place, **form, **options) as file:
            yield file
            file.descriptions = tuple(block.names)
    except RasterioError as problem:
        raise FetchError(f"{path.name}: the GeoTIFF cannot be written ({problem}).") from problem
    except OSError as problem:
        if isinstance(problem, FetchError):
            raise
        raise unwritable(path, problem) from problem
