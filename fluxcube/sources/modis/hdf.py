"""MODIS tiles as LP DAAC ships them: HDF4 files whose grid HDF-EOS describes in a text attribute.

The library that reads them runs in a process of its own (`hdf_process`), which calls the functions of `SERVED`.
"""

from __future__ import annotations

import functools
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from fluxcube.errors import SourceError, missing_package
from fluxcube.sources.modis.grid import PRODUCTS, SPHERE, TILE, Raster, Tile, check_fill, check_scale, grid_place
from fluxcube.sources.modis.hdf_process import call

# Numbers of HDF4 types.
_TYPES = {20: "int8", 21: "uint8", 22: "int16", 23: "uint16", 24: "int32", 25: "uint32", 5: "float32", 6: "float64"}
_GROUP = re.compile(r"GROUP\s*=\s*(GRID_\d+)\b(.*?)END_GROUP\s*=\s*\1\b", re.DOTALL)
_FIELD = re.compile(r'DataFieldName\s*=\s*"([^"]*)"')
_PAIR = re.compile(r"\(\s*([-+.\deE]+)\s*,\s*([-+.\deE]+)\s*\)")


def check(raster: Raster) -> Tile:
    """Read a tile's grid and attributes and place it on the global grid.

    Raises
    ------
    SourceError
        If the file cannot be read as HDF4, its grid is not the 500 m sinusoidal one on the sphere, it does not lie
        in the tile that its name says, or a layer is missing or of another type, scale or fill.
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
    place = _layout(raster.path, state.st_size, state.st_mtime_ns, raster.product)
    if raster.tile is not None:
        _check_name(raster, place)
    return Tile(path=raster.path, product=raster.product, day=raster.day, tile=raster.tile, **place)


@functools.lru_cache(maxsize=65536)
def _layout(path: Path, size: int, changed: int, product: str) -> dict:
    (found,) = call("layout", path, product=product)
    return found | {"bands": tuple(found["bands"])}


def _read_layout(path: Path, product: str) -> Iterator[dict]:
    """Yield where a file's layers of a product lie on the global grid, and how their values are stored."""
    with _open(path) as file:
        grids = _grids(path, _structure(path, file))
        names = [_layer(path, file.datasets(), product, layer) for layer in PRODUCTS[product].layers]
        grid = next((g for g in grids if _plain(g["fields"]) >= {_bare(n) for n in names}), None)
        if grid is None:
            raise SourceError(f"{path}: no grid of StructMetadata.0 holds {', '.join(names)}.")
        row, col, factor = _place(path, grid, product)
        values = [_attributes(path, file, name, product, grid) for name in names]
    fills, scales, offsets = (list(column) for column in zip(*values, strict=True))
    if len({*fills}) > 1 or len({*offsets}) > 1:
        raise SourceError(f"{path}: the layers of {product} differ in fill ({fills}) or offset ({offsets}).")
    yield {
        "row": row,
        "col": col,
        "height": grid["rows"] * factor,
        "width": grid["cols"] * factor,
        "factor": factor,
        "bands": names,
        "scale": check_scale(path, product, scales),
        "offset": offsets[0],
        "fill": fills[0],
    }


def windows(tile: Tile, boxes: Iterable[tuple[int, int, int, int]]) -> Iterator[np.ndarray]:
    """Read windows (first row, last + 1, first column, last + 1; the file's pixels): (band, height, width) each.

    Give them from north to south: a layer that is compressed as a whole is then unpacked once.
    """
    yield from call("windows", tile.path, bands=list(tile.bands), boxes=[list(map(int, box)) for box in boxes])


def _read_windows(path: Path, bands: Iterable[str], boxes: Iterable[tuple[int, int, int, int]]) -> Iterator[np.ndarray]:
    with _open(path) as file:
        layers = [file.select(name) for name in bands]
        for r0, r1, c0, c1 in boxes:
            yield np.stack([layer.get((r0, c0), (r1 - r0, c1 - c0)) for layer in layers])


#: What the other process does.
SERVED: Mapping[str, Callable[..., Iterator]] = {"layout": _read_layout, "windows": _read_windows}


@contextmanager
def _open(path: Path) -> Iterator:
    library, error = _pyhdf()
    _check_complete(path)
    try:
        file = library(str(path))
        try:
            yield file
        finally:
            file.end()
    except (error, ValueError, TypeError, IndexError) as problem:
        if isinstance(problem, SourceError):
            raise
        # pyhdf lets a damaged file through as one of its own errors or as what its wrapper stumbles over.
        raise SourceError(
            f"{path}: cannot be read as an HDF4 file, it is damaged or cut short ({problem}): fetch it again."
        ) from problem


def _check_complete(path: Path) -> None:
    """Look through the file's list of what lies where: in a file that was cut short, something lies beyond its end.

    The HDF4 library trusts that list, and has crashed on wrong ones.

    References
    ----------
    HDF Specification and Developer's Guide 4.2, ch. 2: data descriptors
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        if file.read(4) != b"\x0e\x03\x13\x01":
            raise SourceError(f"{path}: is no HDF4 file (of {size} bytes): fetch the tile again.")
        at, seen = 4, set()
        while at:
            file.seek(at)
            block = file.read(6)
            count, after = struct.unpack(">HI", block) if len(block) == 6 else (0, 0)
            entries = file.read(12 * count)
            if at in seen or not count or len(entries) < 12 * count or not _within(entries, size):
                raise SourceError(f"{path}: the HDF4 file is damaged or cut short at {size} bytes: fetch it again.")
            seen.add(at)
            at = after


def _within(entries: bytes, size: int) -> bool:
    """Whether every used data descriptor lies within the file."""
    table = np.frombuffer(entries, np.dtype([("tag", ">u2"), ("ref", ">u2"), ("offset", ">u4"), ("length", ">u4")]))
    used = (table["tag"] > 1) & (table["offset"] != 0xFFFFFFFF) & (table["length"] != 0xFFFFFFFF)
    return bool((table["offset"][used].astype(np.int64) + table["length"][used] <= size).all())


def _structure(path: Path, file) -> str:
    """The structural metadata, which the library splits into pieces of 32 kB."""
    pieces, count = [], file.info()[1]
    for index in range(count):
        attribute = file.attr(index)
        name = attribute.info()[0]
        if name.startswith("StructMetadata."):
            pieces.append((name, attribute.get()))
        elif pieces:
            break  # the rest is metadata about the granule, slow to read
    if not pieces:
        raise SourceError(f"{path}: no StructMetadata.0, so its grid cannot be told: fetch the original tile.")
    return "".join(text for _, text in sorted(pieces)).replace("\0", "")


def _grids(path: Path, text: str) -> list[dict]:
    grids = [_grid(path, name, body) for name, body in _GROUP.findall(text)]
    if not grids:
        raise SourceError(f"{path}: StructMetadata.0 describes no grid: this is no tile of a gridded MODIS product.")
    return grids


def _grid(path: Path, name: str, body: str) -> dict:
    def entry(key: str) -> str:
        if (found := re.search(rf"^\s*{key}\s*=\s*(.+?)\s*$", body, re.MULTILINE)) is None:
            raise SourceError(f"{path}: {name} of StructMetadata.0 has no {key}.")
        return found[1]

    def pair(key: str) -> tuple[float, float]:
        if (found := _PAIR.search(entry(key))) is None:
            raise SourceError(f"{path}: {key} of {name} in StructMetadata.0 is no pair of numbers: {entry(key)}.")
        return float(found[1]), float(found[2])

    projection, parameters = entry("Projection"), entry("ProjParams").strip("()").split(",")
    radius, offsets = float(parameters[0]), [float(p) for p in parameters[1:8]]
    # A second number above zero is the minor axis, or the square of the eccentricity: an ellipsoid.
    if projection != "GCTP_SNSOID" or abs(radius - SPHERE) > 1.0 or any(offsets):
        raise SourceError(
            f"{path}: {name} is in projection {projection} with parameters {entry('ProjParams')}; MODIS tiles are "
            f"sinusoidal (GCTP_SNSOID) on a sphere of {SPHERE} m around longitude 0 (an ellipsoid is 18 km off)."
        )
    return {
        "name": name,
        "rows": int(entry("YDim")),
        "cols": int(entry("XDim")),
        "upper_left": pair("UpperLeftPointMtrs"),
        "lower_right": pair("LowerRightMtrs"),
        "fields": _FIELD.findall(body),
    }


def _place(path: Path, grid: Mapping, product: str) -> tuple[int, int, int]:
    (left, top), (right, bottom) = grid["upper_left"], grid["lower_right"]
    if grid["rows"] < 1 or grid["cols"] < 1:
        raise SourceError(f"{path}: {grid['name']} has {grid['rows']} rows and {grid['cols']} columns.")
    size = (right - left) / grid["cols"], (top - bottom) / grid["rows"]
    return grid_place(path, size, (left, top), product)


def _check_name(raster: Raster, place: Mapping) -> None:
    h, v = raster.tile
    inside = (
        v * TILE <= place["row"]
        and place["row"] + place["height"] <= (v + 1) * TILE
        and h * TILE <= place["col"]
        and place["col"] + place["width"] <= (h + 1) * TILE
    )
    if not inside:
        raise SourceError(
            f"{raster.path}: the name says tile h{h:02d}v{v:02d} (rows from {v * TILE}, columns from {h * TILE}), the "
            f"grid inside begins at row {place['row']}, column {place['col']} and has {place['height']} x "
            f"{place['width']} pixels: one of the two is wrong; fetch the tile again."
        )


def _bare(name: str) -> str:
    """Name of a field without the number of its layer: fields of daily tiles end in _1, the first observation."""
    return name.removesuffix("_1")


def _plain(fields: Iterable[str]) -> set[str]:
    return {_bare(name) for name in fields}


def _layer(path: Path, datasets: Mapping, product: str, layer: str) -> str:
    for name in (layer, f"{layer}_1"):
        if name in datasets:
            return name
    raise SourceError(f"{path}: {product} must hold {layer}; found {', '.join(sorted(datasets)[:12]) or 'nothing'}.")


def _attributes(path: Path, file, name: str, product: str, grid: Mapping) -> tuple[float | None, float, float]:
    """Fill, scale and offset of a layer, once its shape and type are known to be right."""
    _, shape, number, _ = file.datasets()[name]
    if tuple(shape) != (grid["rows"], grid["cols"]):
        raise SourceError(f"{path}: {name} is {tuple(shape)}; its grid is {grid['rows']} x {grid['cols']}.")
    found, wanted = _TYPES.get(number, f"type {number}"), PRODUCTS[product].types
    if found not in wanted:
        raise SourceError(f"{path}: {name} is stored as {found}; {product} is stored as {' or '.join(wanted)}.")
    attributes = file.select(name).attributes()
    fill = attributes.get("_FillValue")
    scale, offset = (float(attributes.get(key, value)) for key, value in (("scale_factor", 1), ("add_offset", 0)))
    return check_fill(path, product, fill), scale, offset


def _pyhdf():
    try:
        from pyhdf.error import HDF4Error
        from pyhdf.SD import SD
    except ImportError:
        raise missing_package("pyhdf", "sources", "reading MODIS HDF4 tiles") from None
    return SD, HDF4Error
