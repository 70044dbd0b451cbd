"""Read HDF4 tiles with pyhdf, in a process of its own: a damaged file can crash the library.

`fluxcube.sources.modis.hdf_process` starts this module as a program and sends it requests; `READERS` are the functions
that it can call.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fluxcube.errors import SourceError, missing_package
from fluxcube.sources.modis.grid import PRODUCTS, SPHERE, check_fill, check_scale, grid_place
from fluxcube.sources.reader_process import Readers, serve

# Numbers of HDF4 types.
_TYPES = {20: "int8", 21: "uint8", 22: "int16", 23: "uint16", 24: "int32", 25: "uint32", 5: "float32", 6: "float64"}
_GROUP = re.compile(r"GROUP\s*=\s*(GRID_\d+)\b(.*?)END_GROUP\s*=\s*\1\b", re.DOTALL)
_FIELD = re.compile(r'DataFieldName\s*=\s*"([^"]*)"')
_PAIR = re.compile(r"\(\s*([-+.\deE]+)\s*,\s*([-+.\deE]+)\s*\)")


def read_layout(path: Path, product: str) -> Iterator[dict[str, Any]]:
    """Yield one dict: the position of a product's layers on the global grid, and how their values are stored.

    Its keys are those attributes of `fluxcube.sources.modis.grid.Tile` that the file determines.

    Raises
    ------
    SourceError
        If the file cannot be read, or its grid or layers are not the product's.
    """
    with _open(path) as file:
        grids = _grids(path, _structure(path, file))
        names = [_layer(path, file.datasets(), product, layer) for layer in PRODUCTS[product].layers]
        grid = next((g for g in grids if g.fields >= {_bare(name) for name in names}), None)
        if grid is None:
            raise SourceError(
                f"{path}: no grid of StructMetadata.0 contains {', '.join(names)}: download the original tile."
            )
        row, col, factor = grid.place(path, product)
        values = [_attributes(path, file, name, product, grid) for name in names]
    fills, scales, offsets = (list(column) for column in zip(*values, strict=True))
    if len({*fills}) > 1 or len({*offsets}) > 1:
        raise SourceError(
            f"{path}: the layers of {product} differ in fill ({fills}) or offset ({offsets}): download the original "
            "tile."
        )
    yield {
        "row": row,
        "col": col,
        "height": grid.rows * factor,
        "width": grid.cols * factor,
        "factor": factor,
        "bands": names,
        "scale": check_scale(path, product, scales),
        "offset": offsets[0],
        "fill": fills[0],
    }


def read_windows(path: Path, bands: Iterable[str], boxes: Iterable[tuple[int, int, int, int]]) -> Iterator[np.ndarray]:
    """Yield a window (band, height, width) for each box; arguments as of `fluxcube.sources.modis.hdf.windows`."""
    with _open(path) as file:
        layers = [file.select(name) for name in bands]
        for r0, r1, c0, c1 in boxes:
            yield np.stack([layer.get((r0, c0), (r1 - r0, c1 - c0)) for layer in layers])


#: Functions that a request can name.
READERS: Readers = {"layout": read_layout, "windows": read_windows}


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    library, library_error = _pyhdf()
    _check_complete(path)
    try:
        file = library(str(path))
        try:
            yield file
        finally:
            file.end()
    except (library_error, ValueError, TypeError, IndexError) as problem:
        if isinstance(problem, SourceError):
            raise
        # pyhdf reports a damaged file by its own error, or its wrapper fails with another one.
        raise SourceError(
            f"{path}: cannot be read as an HDF4 file, it is damaged or cut short ({problem}): download it again."
        ) from problem


def _check_complete(path: Path) -> None:
    """Check the file's list of data objects: in a file that was cut short, an object ends beyond the file's end.

    The HDF4 library trusts that list, and has crashed on wrong ones.

    References
    ----------
    HDF Specification and Developer's Guide 4.2, ch. 2: data descriptors
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        if file.read(4) != b"\x0e\x03\x13\x01":
            raise SourceError(f"{path}: is no HDF4 file (of {size} bytes): download the tile again.")
        at, seen = 4, set()
        while at:
            file.seek(at)
            block = file.read(6)
            count, after = struct.unpack(">HI", block) if len(block) == 6 else (0, 0)
            entries = file.read(12 * count)
            if at in seen or not count or len(entries) < 12 * count or not _within(entries, size):
                raise SourceError(f"{path}: the HDF4 file is damaged or cut short at {size} bytes: download it again.")
            seen.add(at)
            at = after


def _within(entries: bytes, size: int) -> bool:
    """Return whether all data objects of a block of descriptors end within the file."""
    table = np.frombuffer(entries, np.dtype([("tag", ">u2"), ("ref", ">u2"), ("offset", ">u4"), ("length", ">u4")]))
    used = (table["tag"] > 1) & (table["offset"] != 0xFFFFFFFF) & (table["length"] != 0xFFFFFFFF)
    return bool((table["offset"][used].astype(np.int64) + table["length"][used] <= size).all())


def _structure(path: Path, file: Any) -> str:
    """Return the structural metadata, which the library splits into pieces of 32 kB."""
    pieces, count = [], file.info()[1]
    for index in range(count):
        attribute = file.attr(index)
        name = attribute.info()[0]
        if name.startswith("StructMetadata."):
            pieces.append((name, attribute.get()))
        elif pieces:
            break  # the rest is metadata about the granule, slow to read
    if not pieces:
        raise SourceError(f"{path}: no StructMetadata.0, so its grid is unknown: download the original tile.")
    return "".join(text for _, text in sorted(pieces)).replace("\0", "")


@dataclass(frozen=True, kw_only=True)
class _Grid:
    """A grid in the structural metadata: its size, its corners (x, y) in m, and the fields on it."""

    name: str
    rows: int
    cols: int
    upper_left: tuple[float, float]
    lower_right: tuple[float, float]
    fields: frozenset[str]

    def place(self, path: Path, product: str) -> tuple[int, int, int]:
        """Return the position on the global grid; see `grid_place`."""
        (left, top), (right, bottom) = self.upper_left, self.lower_right
        if self.rows < 1 or self.cols < 1:
            raise SourceError(
                f"{path}: {self.name} has {self.rows} rows and {self.cols} columns, expected at least 1: download the "
                "original tile."
            )
        return grid_place(path, ((right - left) / self.cols, (top - bottom) / self.rows), (left, top), product)


def _grids(path: Path, text: str) -> list[_Grid]:
    grids = [_grid(path, name, body) for name, body in _GROUP.findall(text)]
    if not grids:
        raise SourceError(f"{path}: StructMetadata.0 describes no grid: this is no tile of a gridded MODIS product.")
    return grids


def _grid(path: Path, name: str, body: str) -> _Grid:
    def entry(key: str) -> str:
        if (match := re.search(rf"^\s*{key}\s*=\s*(.+?)\s*$", body, re.MULTILINE)) is None:
            raise SourceError(f"{path}: {name} of StructMetadata.0 has no {key}: download the original tile.")
        return match[1]

    def pair(key: str) -> tuple[float, float]:
        if (match := _PAIR.search(entry(key))) is None:
            raise SourceError(f"{path}: {key} of {name} in StructMetadata.0 is no pair of numbers: {entry(key)}.")
        return float(match[1]), float(match[2])

    projection, parameters = entry("Projection"), entry("ProjParams").strip("()").split(",")
    radius, offsets = float(parameters[0]), [float(p) for p in parameters[1:8]]
    # A second number above zero is the minor axis, or the square of the eccentricity: an ellipsoid.
    if projection != "GCTP_SNSOID" or abs(radius - SPHERE) > 1.0 or any(offsets):
        raise SourceError(
            f"{path}: {name} is in projection {projection} with parameters {entry('ProjParams')}; MODIS tiles are "
            f"sinusoidal (GCTP_SNSOID) on a sphere of {SPHERE} m around longitude 0 (an ellipsoid is 18 km off)."
        )
    return _Grid(
        name=name,
        rows=int(entry("YDim")),
        cols=int(entry("XDim")),
        upper_left=pair("UpperLeftPointMtrs"),
        lower_right=pair("LowerRightMtrs"),
        fields=frozenset(_bare(field) for field in _FIELD.findall(body)),
    )


def _bare(name: str) -> str:
    """Return a field's name without the number of its layer: in daily tiles names end in _1, the first observation."""
    return name.removesuffix("_1")


def _layer(path: Path, datasets: Mapping[str, Any], product: str, layer: str) -> str:
    """Return the name of a layer in the file."""
    for name in (layer, f"{layer}_1"):
        if name in datasets:
            return name
    raise SourceError(
        f"{path}: {product} must contain {layer}, found {', '.join(sorted(datasets)[:12]) or 'nothing'}: download the "
        "original tile."
    )


def _attributes(path: Path, file: Any, name: str, product: str, grid: _Grid) -> tuple[float | None, float, float]:
    """Return the fill, scale and offset of a layer, after checking its shape and type."""
    _, shape, number, _ = file.datasets()[name]
    if tuple(shape) != (grid.rows, grid.cols):
        raise SourceError(
            f"{path}: {name} is {tuple(shape)}; its grid is {grid.rows} x {grid.cols}: download the original tile."
        )
    stored, expected = _TYPES.get(number, f"type {number}"), PRODUCTS[product].types
    if stored not in expected:
        raise SourceError(
            f"{path}: {name} is stored as {stored}; {product} is stored as {' or '.join(expected)}: download the "
            "original tile."
        )
    attributes = file.select(name).attributes()
    fill = attributes.get("_FillValue")
    scale, offset = (float(attributes.get(key, value)) for key, value in (("scale_factor", 1), ("add_offset", 0)))
    return check_fill(path, product, fill), scale, offset


def _pyhdf() -> tuple[Callable[[str], Any], type[Exception]]:
    try:
        from pyhdf.error import HDF4Error
        from pyhdf.SD import SD
    except ImportError:
        raise missing_package("pyhdf", "sources", "reading MODIS HDF4 tiles") from None
    return SD, HDF4Error


if __name__ == "__main__":
    serve(READERS)
