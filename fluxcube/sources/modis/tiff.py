"""Read MODIS GeoTIFFs: their position on the sinusoidal grid, their bands, and windows of their pixels."""

from __future__ import annotations

import functools
import hashlib
import os
import struct
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, Protocol

import numpy as np

from fluxcube.errors import SourceError, missing_package
from fluxcube.sources.modis.grid import PIXEL, PRODUCTS, ROWS, SPHERE, Raster, Tile, check_fill, check_scale, grid_place
from fluxcube.sources.modis.layers import find_bands, read_name
from fluxcube.sources.modis.plain_tiff import PlainTiff, plain_layout, read_window

# Tags that determine a raster's position and bands: size, sample format, GeoTIFF's, and GDAL's names, scales and fill.
_TAGS = {256, 257, 258, 277, 339, 33550, 33922, 34264, 34735, 34736, 34737, 42112, 42113}
#: Tags of more bytes are replaced by their digest.
_LONG = 4096
_TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}


@dataclass(frozen=True)
class _Header:
    """The tags of a TIFF that determine its layout; two rasters with the same tags have the same layout.

    PROJ takes over a millisecond to interpret the projection of each file, and a folder contains thousands of files
    that differ in their date only.
    """

    tags: tuple[tuple[int, bytes], ...] | Path  # the path where the file is no classic TIFF: equal to no other header
    path: Path = field(compare=False)

    @classmethod
    def read(cls, path: Path) -> _Header:
        try:
            with open(path, "rb") as file:
                return cls(_read_tags(file) or path, path)
        except OSError as problem:
            raise SourceError(f"{path}: cannot be read ({problem.strerror or problem}).") from problem


def _read_tags(file: BinaryIO) -> tuple[tuple[int, bytes], ...]:
    """Return the tags of the first image of a classic TIFF; none for other formats, which are left to GDAL."""
    start = file.read(8)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(start[:4])
    if order is None or len(start) < 8:
        return ()
    file.seek(struct.unpack(f"{order}I", start[4:])[0])
    count = int.from_bytes(file.read(2), "little" if order == "<" else "big")
    entries, end = file.read(12 * count), os.fstat(file.fileno()).st_size
    found = []
    for tag, kind, number, value in struct.iter_unpack(f"{order}HHI4s", entries[: len(entries) // 12 * 12]):
        if tag in _TAGS:
            size = number * _TYPE_SIZES.get(kind, 1)
            if size > end:  # more values than the file can contain: GDAL judges
                return ()
            if size > 4:
                file.seek(struct.unpack(f"{order}I", value)[0])
                value = file.read(size)
            # The names of some thousand bands take 200 kB, of which the digest is enough to compare headers.
            found.append((tag, value if size <= _LONG else hashlib.sha256(value).digest()))
    return tuple(found)


def band_names(path: Path) -> tuple[str, ...]:
    """Return the description of each band, "" where it has none.

    Raises
    ------
    SourceError
        If the file cannot be read as a GeoTIFF.
    """
    return _names(_Header.read(path))


@functools.lru_cache(maxsize=4096)
def _names(header: _Header) -> tuple[str, ...]:
    with _open(header.path, georeferenced=False) as file:
        return _band_names(file)


def _band_names(file: Any) -> tuple[str, ...]:
    """Return the description of each band; without one, its attribute ``long_name`` where that is a layer's name."""
    # The names of the bands of a year are the same in the files of all towers.
    names = [sys.intern((name or "").strip()) for name in file.descriptions]
    for n, name in enumerate(names):
        if not name:
            other = file.tags(n + 1).get("long_name") or (file.tags().get("long_name") if len(names) == 1 else "")
            names[n] = other if other and read_name(other, "MCD12Q1").layers is not None else ""
    return tuple(names)


def check(raster: Raster) -> Tile:
    """Read a GeoTIFF's header and find its position on the global grid.

    Raises
    ------
    SourceError
        If it is not on the sphere's sinusoidal grid of 500 m, or its bands, type, scale or fill are not the product's.
    """
    _check_legend_of_name(raster)
    about = {field: getattr(raster, field) for field in ("path", "product", "day", "tile", "mask", "parts")}
    if raster.parts:
        return Tile(**about, **_common_layout(raster))
    return Tile(**about, **_layout(_Header.read(raster.path), raster.product, raster.bands))


def _check_legend_of_name(raster: Raster) -> None:
    """Refuse land cover whose legend, in the name of the file, is another one than IGBP's, if no band has a name."""
    if raster.product != "MCD12Q1" or any(band_names(raster.path)):
        return
    layers = read_name(raster.path.stem, raster.product).layers
    if layers is not None and set(PRODUCTS[raster.product].layers).isdisjoint(layers):
        raise SourceError(
            f"{raster.path}: expected {PRODUCTS[raster.product].layers[0]} (IGBP), found "
            f"{', '.join(sorted(layers)) or 'a layer of quality'} in the file's name: convert that layer, or rename "
            "the file if it contains IGBP's classes."
        )


def _common_layout(raster: Raster) -> dict[str, Any]:
    """Return the layout of a raster of one file for each layer, which must be the same in all of them."""
    product, layers = raster.product, PRODUCTS[raster.product].layers
    layouts = [
        _layout(_Header.read(path), product, (1,), layer) for path, layer in zip(raster.parts, layers, strict=True)
    ]
    for path, layout in zip(raster.parts, layouts, strict=True):
        if layout != layouts[0]:
            differing = ", ".join(key for key, value in layout.items() if value != layouts[0][key])
            raise SourceError(
                f"{path}: the files of one product, day and tile must agree, but its {differing} differ from those of "
                f"{raster.path.name}: cut all layers in the same way."
            )
    return layouts[0] | {"bands": (1,) * len(layers)}


@functools.lru_cache(maxsize=4096)
def _layout(header: _Header, product: str, bands: tuple[int, ...], layer: str = "") -> dict[str, Any]:
    """Return the fields of a `Tile` that depend on the file's layout.

    `bands` are those of `Raster`, empty if unknown; `layer` is that of a file of one layer, by its name.
    """
    path = header.path
    content = _content(header)
    row, col, factor = _corner(path, content.crs, content.transform, product)
    if layer:
        _check_layer(path, product, content.names, layer)
    bands = bands or _bands(path, product, content.names)
    _check_types(path, product, [content.dtypes[b - 1] for b in bands])
    scale = check_scale(path, product, [content.scales[b - 1] for b in bands])
    fills = {check_fill(path, product, content.nodatavals[b - 1]) for b in bands}
    height, width = content.height * factor, content.width * factor
    return {
        "row": row,
        "col": col,
        "height": height,
        "width": width,
        "factor": factor,
        "bands": bands,
        "scale": scale,
        "fill": fills.pop(),
    }


@dataclass(frozen=True)
class _Content:
    """What GDAL reports about a file: one entry per band in `names`, `dtypes`, `scales` and `nodatavals`."""

    crs: _CRS | None
    transform: tuple[float, ...]
    height: int
    width: int
    names: tuple[str, ...]
    dtypes: tuple[str, ...]
    scales: tuple[float, ...]
    nodatavals: tuple[float | None, ...]


@functools.lru_cache(maxsize=1024)
def _content(header: _Header) -> _Content:
    with _open(header.path, georeferenced=True) as file:
        return _Content(
            crs=file.crs,
            transform=tuple(file.transform),
            height=file.height,
            width=file.width,
            names=_band_names(file),
            dtypes=tuple(file.dtypes),
            scales=tuple(file.scales),
            nodatavals=tuple(file.nodatavals),
        )


def windows(tile: Tile, boxes: Iterable[tuple[int, int, int, int]]) -> Iterator[np.ndarray]:
    """Yield a window (band, height, width) for each box.

    Parameters
    ----------
    tile : Tile
    boxes : iterable of (int, int, int, int)
        First row, last row + 1, first column and last column + 1, in pixels of the file.
    """
    bands = [int(band) for band in tile.bands + (() if tile.mask == tile.bands else tile.mask)]
    if not tile.parts and (layout := plain_layout(tile.path)) is not None:
        yield from _plain_windows(tile.path, layout, bands, boxes)
        return
    with ExitStack() as stack:
        files = [stack.enter_context(_open(path, georeferenced=False)) for path in tile.files]
        for r0, r1, c0, c1 in boxes:
            window = ((r0, r1), (c0, c1))
            if tile.parts:
                yield np.stack([file.read(1, window=window) for file in files])
            else:
                yield files[0].read(bands, window=window)


def _plain_windows(
    path: Path, layout: PlainTiff, bands: list[int], boxes: Iterable[tuple[int, int, int, int]]
) -> Iterator[np.ndarray]:
    try:
        for box in boxes:
            yield read_window(path, layout, bands, box)
    except OSError as problem:
        raise SourceError(f"{path}: cannot be read as a GeoTIFF ({problem}): download it again.") from problem


_OPENING = threading.Lock()


@contextmanager
def _open(path: Path, *, georeferenced: bool) -> Iterator:
    """Open a GeoTIFF; without `georeferenced`, its projection is not interpreted, which takes an eighth of the time."""
    rasterio = _rasterio()
    options = {} if georeferenced else {"GEOREF_SOURCES": "NONE"}
    try:
        # Without a listing of the folder at every open, which is slow among thousands of small rasters.
        with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"):
            with _OPENING, warnings.catch_warnings():  # filters belong to the whole process, so one thread at a time
                warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
                # With the driver of the format alone: others follow references to further files and to URLs.
                file = rasterio.open(path, driver="GTiff", **options)
            with file:
                yield file
    except (rasterio.errors.RasterioError, UnicodeDecodeError) as problem:
        raise SourceError(f"{path}: cannot be read as a GeoTIFF ({problem}): download it again.") from problem


def _corner(path: Path, crs: _CRS | None, transform: Sequence[float], product: str) -> tuple[int, int, int]:
    """Return the global row and column of the upper left pixel, and the factor, after checking projection and grid."""
    dx, shear_x, x, shear_y, dy, y = tuple(transform)[:6]
    if not np.isfinite(transform).all():
        raise SourceError(f"{path}: the position of its pixels is {tuple(transform)[:6]}: download it again.")
    if (problem := _projection_problem(crs)) is not None:
        raise SourceError(
            f"{path}: {problem}. MODIS chips need the sinusoidal projection on the sphere, "
            f"+proj=sinu +lon_0=0 +x_0=0 +y_0=0 +R={SPHERE} +units=m (on an ellipsoid, pixels are 18 km off): "
            + _remedy(dx, dy, x, y)
        )
    if shear_x or shear_y or dx <= 0 or dy >= 0:
        raise SourceError(
            f"{path}: not on the 500 m sinusoidal grid: its pixels are rotated or flipped, {tuple(transform)[:6]}. "
            "Cut rasters from the original tiles, without resampling."
        )
    return grid_place(path, (dx, -dy), (x, y), product)


def _remedy(dx: float, dy: float, x: float, y: float) -> str:
    """Return the remedy for a wrong projection: where the pixels are on the grid, only their label may be wrong."""
    off = [abs(v - round(v)) for v in ((x + ROWS * PIXEL) / PIXEL, (ROWS / 2 * PIXEL - y) / PIXEL)]
    if max(off) * PIXEL < 1.0 and abs(dx - PIXEL) < 1e-3 and abs(dy + PIXEL) < 1e-3:
        return (
            "its pixels are on the MODIS grid, so if the file was cut without resampling, correct its label with "
            f"gdal_edit.py -a_srs '+proj=sinu +R={SPHERE} +units=m'."
        )
    return (
        "convert the raster from the original HDF tile with that projection (AppEEARS: request the native projection)."
    )


class _CRS(Protocol):
    """The part of `rasterio.crs.CRS` that is used."""

    def __bool__(self) -> bool: ...

    def to_dict(self) -> dict[str, Any]: ...


def _projection_problem(crs: _CRS | None) -> str | None:
    """Return the difference of a coordinate system from MODIS's; None if there is none."""
    if not crs:
        return "the raster has no coordinate system"
    proj = crs.to_dict()
    radius = float(proj.get("R", proj.get("a", 0.0)))
    sphere = "R" in proj or ("b" in proj and float(proj["b"]) == radius)
    offsets = [float(proj.get(key, 0.0)) for key in ("lon_0", "x_0", "y_0")]
    if proj.get("proj") == "sinu" and sphere and abs(radius - SPHERE) < 1.0 and not any(offsets):
        return None
    return f"its coordinate system is {proj or crs}"


def _bands(path: Path, product: str, names: Sequence[str | None]) -> tuple[int, ...]:
    """Return the numbers of the bands that are the product's layers, from the bands' names."""
    if bands := find_bands(product, names):
        return bands
    layers = PRODUCTS[product].layers
    raise SourceError(
        f"{path}: a raster of {product} must contain {', '.join(layers)}, each once, named in the bands' descriptions "
        f"or as its only bands in this order; found {len(names)} bands {[n for n in names if n]}: name the bands in "
        "this way, or convert the layers again from the original tile."
    )


def _check_layer(path: Path, product: str, names: Sequence[str | None], layer: str) -> None:
    """Check that a file contains the one layer that its name promises."""
    if len(names) != 1:
        raise SourceError(f"{path}: by its name it contains {layer} alone, found {len(names)} bands: rename the file.")
    reading = read_name(names[0], product)
    number = reading.number if reading.number is not None and reading.number > 1 else None
    expected = PRODUCTS[product].layers.index(layer) + 1
    if (reading.layers is not None and layer not in reading.layers) or number not in (None, expected):
        raise SourceError(
            f"{path}: by its name it contains {layer}, but its band is described as {names[0]!r}: one of the two is "
            f"wrong; convert {layer} again from the original tile."
        )


def _check_types(path: Path, product: str, types: Sequence[str]) -> None:
    """Check for integers, or floats with unscaled integers (`read_pixels` checks that), wide enough for the product."""
    high = PRODUCTS[product].valid[1]
    for name in sorted(set(types)):
        dtype = np.dtype(name)
        # Flags of 16 bits are the same whether they are read as signed or unsigned.
        wide_enough = dtype.itemsize > 1 or high <= 255
        if dtype.kind not in "iuf" or not wide_enough:
            raise SourceError(
                f"{path}: {product} has integers up to {high}, found {name}: pass the unscaled values, unchanged."
            )


def _rasterio() -> ModuleType:
    try:
        import rasterio
        import rasterio.errors
    except ImportError:
        raise missing_package("rasterio", "grid", "reading MODIS GeoTIFFs") from None
    return rasterio
