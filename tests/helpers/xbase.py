"""Stores with the exact layout of FLUXCOM-X-BASE, with the chunks of some cells only: others are NaN."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numcodecs import Blosc

#: Days, hours, rows, columns, and chunks of the hourly store at 0.05 degrees.
SHAPE, CHUNKS = (7670, 24, 3600, 7200), (1461, 24, 40, 40)
#: A store of 180 x 360 cells of one degree and of short chunks, for tests that need no chunk of 224 MB.
SMALL = {"shape": (30, 24, 180, 360), "chunks": (8, 24, 4, 4)}
UNITS = {"NEE": "umolCO2 m-2 s-1", "GPP": "umolCO2 m-2 s-1", "ET": "mm h-1"}
_CODEC = Blosc("lz4", clevel=5, shuffle=1)
GLOBAL = {
    "conventions": "CF-1.8",
    "crs": "WGS 84 / Plate Carree",
    "frequency": "1h",
    "institution": "Max-Planck-Institute for Biogeochemistry",
    "license": "CC-BY 4.0",
    "product_version": "X-BASE 1.0",
    "project": "FLUXCOM-X",
    "references": "",
}


def cell_of(latitude: float, longitude: float, step: float = 0.05) -> tuple[int, int]:
    """Row, from the north, and column of the cell of a place."""
    return int((90.0 - latitude) / step), int((longitude + 180.0) / step)


def series(flux: str, row: int, column: int, days: np.ndarray) -> np.ndarray:
    """The values (day, hour) of one cell: different in each flux, day, hour and cell."""
    first = {"NEE": -2.0, "GPP": 5.0}.get(flux, 0.1)
    return (first + days[:, None] * 1e-3 + np.arange(24) * 0.1 + row % 7 * 0.01 + column % 11 * 0.02).astype("<f4")


def write_store(
    root: Path,
    flux: str = "NEE",
    cells: Iterable[tuple[int, int]] = (),
    blocks: Iterable[int] = (),
    shape: tuple[int, ...] = SHAPE,
    chunks: tuple[int, ...] = CHUNKS,
) -> Path:
    """Write the metadata and axes of one flux, and the chunks of some cells (row, column) in some blocks of days."""
    step = 180.0 / shape[2]
    lat, lon = 90.0 - step * (np.arange(shape[2]) + 0.5), -180.0 + step * (np.arange(shape[3]) + 0.5)
    axes = {
        "time": (np.arange(shape[0]), "<i8", {"units": "days since 2001-01-01", "calendar": "proleptic_gregorian"}),
        "hour": (np.arange(24.0), "<f8", {"bounds": "hour_bnds", "units": "h"}),
        "lat": (lat, "<f8", {"bounds": "lat_bnds", "standard_name": "latitude", "units": "degrees_north"}),
        "lon": (lon, "<f8", {"bounds": "lon_bnds", "standard_name": "longitude", "units": "degrees_east"}),
        "hour_bnds": (np.column_stack([np.arange(24), np.arange(1, 25)]), "<i8", {}),
    }
    files: dict[str, dict] = {".zattrs": GLOBAL, ".zgroup": {"zarr_format": 2}}
    for name, (data, kind, attrs) in axes.items():
        files |= _array(name, data.shape, data.shape, kind, None, [name, "nbnds"][: data.ndim], attrs)
        _write(root / name / ".".join("0" * data.ndim), data.astype(kind))
    dims = ["time", "hour", "lat", "lon"]
    files |= _array("land_fraction", shape[2:], chunks[2:], "<f8", 0.0, dims[2:], {"units": "1"})
    files |= _array(flux, shape, chunks, "<f4", "NaN", dims, {"units": UNITS[flux], "version": "CCBY"})
    _write_chunks(root, flux, list(cells), blocks, shape, chunks)
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(json.dumps(content))
    (root / ".zmetadata").write_text(json.dumps({"metadata": files, "zarr_consolidated_format": 1}))
    return root


def _array(name, shape, chunks, dtype, fill, dims, attrs) -> dict[str, dict]:
    spec = {"zarr_format": 2, "shape": list(shape), "chunks": list(chunks), "dtype": dtype, "fill_value": fill}
    spec |= {"order": "C", "filters": None, "compressor": _CODEC.get_config()}
    return {f"{name}/.zarray": spec, f"{name}/.zattrs": {"_ARRAY_DIMENSIONS": dims, **attrs}}


def _write_chunks(root, flux, cells, blocks, shape, chunks) -> None:
    tiles = {(row // chunks[2], column // chunks[3]) for row, column in cells}
    for block, (rows, columns) in itertools.product(blocks, tiles):
        days = np.arange(block * chunks[0], min((block + 1) * chunks[0], shape[0]))
        data = np.full(chunks, np.nan, "<f4")
        for row, column in cells:
            if (row // chunks[2], column // chunks[3]) == (rows, columns):
                data[: days.size, :, row % chunks[2], column % chunks[3]] = series(flux, row, column, days)
        _write(root / flux / f"{block}.0.{rows}.{columns}", data)
    for rows, columns in tiles:
        _write(root / "land_fraction" / f"{rows}.{columns}", np.full(chunks[2:], 0.75))


def _write(path: Path, data: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_CODEC.encode(np.ascontiguousarray(data)))
