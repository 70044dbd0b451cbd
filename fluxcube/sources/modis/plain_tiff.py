"""Read windows of GeoTIFFs whose bands are stored one after the other without compression, without GDAL.

Chips of a tower are files of a year with a band for each day and layer. GDAL interprets the names of all of its some
thousand bands at every opening, which takes a hundred times longer than to read a day of it.
"""

from __future__ import annotations

import functools
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

# Tags of TIFF 6.0: size, bits, compression, strips, bands, layout of bands, tiles, format of values.
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _OFFSETS, _BANDS = 256, 257, 258, 259, 273, 277
_ROWS_PER_STRIP, _PLANAR, _TILED, _FORMAT = 278, 284, 322, 339
_TAGS = (_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _OFFSETS, _BANDS, _ROWS_PER_STRIP, _PLANAR, _TILED, _FORMAT)
_INTEGERS = {1: "B", 3: "H", 4: "I"}
_KINDS = {1: "u", 2: "i", 3: "f"}
#: Files with fewer bands are opened by GDAL in a few milliseconds.
MIN_BANDS = 32


@dataclass(frozen=True)
class PlainTiff:
    """Position of the bands in a file: each is one block of `height` x `width` values of `dtype`."""

    height: int
    width: int
    dtype: np.dtype
    offsets: tuple[int, ...]


def plain_layout(path: Path) -> PlainTiff | None:
    """Return the layout of a file of many bands without compression, one strip a band; None for any other file."""
    try:
        state = path.stat()
    except OSError:
        return None
    return _layout(path, state.st_size, state.st_mtime_ns)


def read_window(path: Path, layout: PlainTiff, bands: list[int], box: tuple[int, int, int, int]) -> np.ndarray:
    """Return a window (band, height, width) of bands that are counted from 1.

    Parameters
    ----------
    path : Path
    layout : PlainTiff
        As `plain_layout` returns it.
    bands : list of int
    box : (int, int, int, int)
        First row, last row + 1, first column and last column + 1.

    Raises
    ------
    OSError
        If the file ends within a band.
    """
    r0, r1, c0, c1 = box
    out = np.empty((len(bands), r1 - r0, c1 - c0), layout.dtype)
    row = layout.width * layout.dtype.itemsize
    with open(path, "rb") as file:
        for values, band in zip(out, bands, strict=True):
            file.seek(layout.offsets[band - 1] + r0 * row)
            block = file.read((r1 - r0) * row)
            if len(block) < (r1 - r0) * row:
                raise OSError(f"it ends within band {band}")
            values[:] = np.frombuffer(block, layout.dtype).reshape(r1 - r0, layout.width)[:, c0:c1]
    return out.astype(layout.dtype.newbyteorder("="), copy=False)


@functools.lru_cache(maxsize=1024)
def _layout(path: Path, size: int, changed: int) -> PlainTiff | None:
    with open(path, "rb") as file:
        tags = _read_tags(file)
    if tags is None or tags.get(_BANDS, (1,))[0] < MIN_BANDS or _TILED in tags:
        return None
    height, width, bands = tags[_HEIGHT][0], tags[_WIDTH][0], tags[_BANDS][0]
    bits, formats, offsets = set(tags[_BITS]), set(tags.get(_FORMAT, (1,))), tags[_OFFSETS]
    plain = tags.get(_COMPRESSION, (1,))[0] == 1 and tags.get(_PLANAR, (1,))[0] == 2
    if not plain or len(bits) != 1 or len(formats) != 1 or len(offsets) != bands:
        return None
    kind, side = _KINDS.get(formats.pop()), bits.pop() // 8
    if kind is None or side not in (1, 2, 4, 8) or tags.get(_ROWS_PER_STRIP, (height,))[0] < height:
        return None
    order = "<" if tags[_ORDER] else ">"
    return PlainTiff(height, width, np.dtype(f"{order}{kind}{side}"), tuple(offsets))


#: Key of the byte order among the tags: (1,) if little-endian, else ().
_ORDER = 0


def _read_tags(file: BinaryIO) -> dict[int, tuple[int, ...]] | None:
    """Return the whole numbers of the tags of the first image; None if it is no classic TIFF, or damaged."""
    start = file.read(8)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(start[:4])
    if order is None or len(start) < 8:
        return None
    file.seek(struct.unpack(f"{order}I", start[4:])[0])
    count = int.from_bytes(file.read(2), "little" if order == "<" else "big")
    entries, end = file.read(12 * count), os.fstat(file.fileno()).st_size
    tags: dict[int, tuple[int, ...]] = {_ORDER: (1,) if order == "<" else ()}
    for tag, kind, number, value in struct.iter_unpack(f"{order}HHI4s", entries[: len(entries) // 12 * 12]):
        if tag in _TAGS and kind in _INTEGERS:
            form = f"{order}{number}{_INTEGERS[kind]}"
            size = struct.calcsize(form)
            if size > end:  # a number of values that the file cannot contain
                return None
            if size > 4:
                file.seek(struct.unpack(f"{order}I", value)[0])
                value = file.read(size)
            if len(value) < size:
                return None
            tags[tag] = struct.unpack(form, value[:size])
    needed = {_WIDTH, _HEIGHT, _BITS, _OFFSETS}
    if not needed <= set(tags) or end < max(tags[_OFFSETS]):
        return None
    return tags
