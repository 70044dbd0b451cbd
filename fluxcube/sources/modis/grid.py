"""The MODIS sinusoidal grid, the MODIS products that are used, and rasters of them on the grid.

The 500 m grid has 43200 rows (row 0 begins at 90 N) and 86400 columns (column 0 begins at x = -pi R) on a *sphere*, in
tiles of 2400 x 2400 named by column and row (h00v00 is the upper left). All rasters have positions on that one grid, so
a chip that crosses a tile's edge needs no special case.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fluxcube.errors import SourceError

#: Radius (m) of the sphere of the MODIS sinusoidal grid.
SPHERE = 6371007.181
#: Rows and columns of the global 500 m grid: 240 pixels to a degree of latitude.
ROWS, COLS = 43200, 86400
#: Rows and columns of a tile.
TILE = 2400
#: Side of a pixel, m.
PIXEL = np.pi * SPHERE / ROWS
_PER_DEGREE = ROWS // 180


@dataclass(frozen=True, kw_only=True)
class Product:
    """The layers of a MODIS product and their valid values.

    Attributes
    ----------
    layers : tuple of str
        Names of its layers, in the order in which values are returned.
    valid : (low, high)
        Minimum and maximum valid value, as stored.
    scaled : bool
        Whether stored values are multiplied by 0.0001 to obtain physical ones.
    types : tuple of str
        Data types in which HDF tiles store it.
    """

    layers: tuple[str, ...]
    valid: tuple[int, int]
    scaled: bool = False
    types: tuple[str, ...] = ("uint8",)


#: Products by name. MOD09GA's state flags have a grid of their own, so they are a product of their own here.
PRODUCTS = {
    "MCD43A4": Product(
        layers=tuple(f"Nadir_Reflectance_Band{i}" for i in range(1, 8)),
        valid=(0, 10000),
        scaled=True,
        types=("int16",),
    ),
    "MCD43A2": Product(layers=("Snow_BRDF_Albedo", "BRDF_Albedo_LandWaterType"), valid=(0, 7)),
    "MCD12Q1": Product(layers=("LC_Type1",), valid=(1, 17)),
    "MOD09GA": Product(
        layers=tuple(f"sur_refl_b{i:02d}" for i in range(1, 8)),
        valid=(-100, 16000),
        scaled=True,
        types=("int16",),
    ),
    "MOD09GA_STATE": Product(layers=("state_1km",), valid=(0, 65534), types=("uint16",)),
    "MODOCGA": Product(
        layers=("sur_refl_b11", "sur_refl_b12"),
        valid=(-100, 16000),
        scaled=True,
        types=("int16",),
    ),
}
#: Products on the 1 km grid, which exports may have on the 500 m grid.
_COARSE = ("MOD09GA_STATE", "MODOCGA")


@dataclass(frozen=True, kw_only=True)
class Raster:
    """One day of a product in a file, as described by the name of the file or of its bands.

    Attributes
    ----------
    path : Path
    product : str
        Key of `PRODUCTS`.
    day : np.datetime64[D]
        Date of the product.
    tile : (h, v), optional
        The tile that the file's name specifies, if it does.
    bands : tuple, optional
        Bands of the file (counted from 1, or their names) in the order of the product's layers, once known.
    mask : tuple of int
        Bands that are all zero where the pixel is masked: an Earth Engine export of integers has no fill value.
    parts : tuple of Path
        One file for each layer, in the order of the product's layers, of which `path` is the first; empty if one file
        contains all layers.
    """

    path: Path
    product: str
    day: np.datetime64
    tile: tuple[int, int] | None = None
    bands: tuple[int | str, ...] = ()
    mask: tuple[int, ...] = ()
    parts: tuple[Path, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """All files of the raster."""
        return self.parts or (self.path,)


@dataclass(frozen=True, kw_only=True)
class Tile(Raster):
    """A raster whose header has been checked, and the window of the global pixel grid that it covers.

    Attributes
    ----------
    row, col : int
        Global 500 m pixel of the upper left corner.
    height, width : int
        Number of 500 m pixels.
    factor : int
        Side of the file's pixels in 500 m pixels: 2 for state flags and MODOCGA on the 1 km grid, else 1.
    scale, offset : float
        Physical value = scale x (stored - offset).
    fill : float or None
        Stored value that means missing; values outside the valid range are missing too.
    """

    row: int
    col: int
    height: int
    width: int
    factor: int = 1
    scale: float = 1.0
    offset: float = 0.0
    fill: float | None = None


def sinusoidal_pixel(latitude: np.ndarray, longitude: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the row and column (int64) of the global 500 m sinusoidal pixel that contains each point (degrees)."""
    row, col = (np.floor(a) for a in sinusoidal_position(latitude, longitude))
    return np.clip(row, 0, ROWS - 1).astype(np.int64), np.clip(col, 0, COLS - 1).astype(np.int64)


def sinusoidal_position(latitude: np.ndarray, longitude: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return fractional row and column of points (degrees): the centre of a pixel has fractions of one half.

    As in MODIS's own products, geographic latitude and longitude are used on the sphere without conversion.

    Examples
    --------
    >>> sinusoidal_position(np.array(0.0), np.array(0.0))
    (np.float64(21600.0), np.float64(43200.0))
    """
    longitude = (longitude + 180.0) % 360.0 - 180.0
    return (90.0 - latitude) * _PER_DEGREE, (180.0 + longitude * np.cos(np.deg2rad(latitude))) * _PER_DEGREE


def grid_place(
    path: Path, size: tuple[float, float], corner: tuple[float, float], product: str
) -> tuple[int, int, int]:
    """Find the position of a raster on the global grid.

    Parameters
    ----------
    path : Path
        For error messages.
    size : (dx, dy)
        Width and height of its pixels, m, positive.
    corner : (x, y)
        Upper left corner of its upper left pixel, m.
    product : str
        State flags and MODOCGA may be on the 1 km grid.

    Returns
    -------
    row, col, factor : int
        Global pixel of the corner, and the side of the raster's pixels in 500 m pixels.

    Raises
    ------
    SourceError
        If its pixels are not those of the 500 m (or 1 km) sinusoidal grid.
    """
    factor = 2 if product in _COARSE and abs(size[0] - 2 * PIXEL) < 1.0 else 1
    side = PIXEL * factor
    row, col = ((ROWS / 2 * PIXEL - corner[1]) / side, (corner[0] + ROWS * PIXEL) / side)
    off = max(abs(col - round(col)), abs(row - round(row))) * side
    # A wrong pixel size of 0.02 m moves the far edge of a 2400-pixel tile by 50 m: a tenth of a pixel.
    if max(abs(size[0] - side), abs(size[1] - side)) > 1e-3 * factor or off > 1.0:
        raise SourceError(
            f"{path}: not on the {'1 km' if factor == 2 else '500 m'} sinusoidal grid: pixels must be {side:.4f} m "
            f"and start on a multiple of it from ({-ROWS * PIXEL:.3f}, {ROWS / 2 * PIXEL:.3f}); found "
            f"{size[0]:.4f} x {size[1]:.4f} m at ({corner[0]:.3f}, {corner[1]:.3f}), {off:.1f} m off. "
            "Cut rasters from the original tiles, without resampling."
        )
    return round(row) * factor, round(col) * factor, factor


def check_fill(path: Path, product: str, fill: float | None) -> float | None:
    """Return the fill value; SourceError where the product uses the same value for data.

    Zero is accepted for reflectance, where it does not occur over land or water; among flags it has a meaning.
    """
    low, high = PRODUCTS[product].valid
    if fill is None or np.isnan(fill):
        return None
    if low <= fill <= high and not (fill == 0 and PRODUCTS[product].scaled):
        raise SourceError(
            f"{path}: the fill value {fill:g} is also a value of {product} ({low}..{high}), so missing pixels cannot "
            "be recognised: write the file again with another fill value (MCD43A4 32767, MCD43A2 and MCD12Q1 255, "
            "state_1km 65535)."
        )
    return float(fill)


def check_scale(path: Path, product: str, scales: Sequence[float]) -> float:
    """Return the factor from stored to physical values; SourceError where the raster declares another one."""
    if not PRODUCTS[product].scaled:
        return 1.0
    # Exporters that do not record the scale leave it at 1.
    declared = sorted({1e-4 if scale == 1.0 else float(scale) for scale in scales})
    if len(declared) != 1 or not np.isclose(declared[0], 1e-4, rtol=1e-5):
        raise SourceError(
            f"{path}: {product} is scaled by 0.0001; the raster declares {sorted(set(scales))}: convert it again from "
            "the original tile, unscaled."
        )
    return 1e-4
