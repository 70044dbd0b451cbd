"""MODIS files of the layouts that archives ship: HDF4-EOS tiles as LP DAAC writes them, GeoTIFFs on the grid."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from fluxcube.sources.modis.grid import COLS, PIXEL, ROWS, TILE

SPHERE_CRS = "+proj=sinu +lon_0=0 +x_0=0 +y_0=0 +R=6371007.181 +units=m +no_defs"
A4 = tuple(f"Nadir_Reflectance_Band{i}" for i in range(1, 8))
A2 = ("Snow_BRDF_Albedo", "BRDF_Albedo_LandWaterType")
GA = tuple(f"sur_refl_b{i:02d}" for i in range(1, 8))
_SNSOID = "GCTP_SNSOID"
_TYPES = {"int16": ("INT16", 22), "uint8": ("UINT8", 21), "uint16": ("UINT16", 23), "float32": ("FLOAT32", 5)}
_A4 = {"_FillValue": 32767, "scale_factor": 1e-4, "add_offset": 0.0}
_GA = {"_FillValue": -28672, "scale_factor": 1e-4, "add_offset": 0.0}


def name_of(product: str, day: str, tile: tuple[int, int], edition: str = "061.2019194040325") -> str:
    date = np.datetime64(day, "D")
    number = int((date - date.astype("datetime64[Y]").astype("datetime64[D]")).astype(int)) + 1
    return f"{product}.A{str(date)[:4]}{number:03d}.h{tile[0]:02d}v{tile[1]:02d}.{edition}.hdf"


def grid(
    name: str,
    corner: tuple[int, int],
    fields: Mapping[str, tuple],
    *,
    factor: int = 1,
    projection: str = _SNSOID,
    parameters: str = "6371007.181000,0,0,0,0,0,0,0,0,0,0,0,0",
    stretch: float = 1.0,
    shift: float = 0.0,
) -> dict:
    """A grid whose upper left corner is a global 500 m pixel; fields are (values, attributes)."""
    side = PIXEL * factor * stretch
    rows, cols = next(iter(fields.values()))[0].shape
    left, top = (corner[1] - COLS / 2) * PIXEL + shift, (ROWS / 2 - corner[0]) * PIXEL
    return {
        "name": name,
        "fields": fields,
        "rows": rows,
        "cols": cols,
        "projection": projection,
        "parameters": parameters,
        "upper_left": (left, top),
        "lower_right": (left + cols * side, top - rows * side),
    }


def structure(grids: Sequence[Mapping]) -> str:
    """StructMetadata.0, tabs and all."""
    text = "GROUP=SwathStructure\nEND_GROUP=SwathStructure\nGROUP=GridStructure\n"
    for i, g in enumerate(grids, 1):
        text += f'\tGROUP=GRID_{i}\n\t\tGridName="{g["name"]}"\n\t\tXDim={g["cols"]}\n\t\tYDim={g["rows"]}\n'
        text += "\t\tUpperLeftPointMtrs=({:.6f},{:.6f})\n".format(*g["upper_left"])
        text += "\t\tLowerRightMtrs=({:.6f},{:.6f})\n".format(*g["lower_right"])
        text += f"\t\tProjection={g['projection']}\n\t\tProjParams=({g['parameters']})\n\t\tSphereCode=-1\n"
        text += "\t\tGROUP=Dimension\n\t\tEND_GROUP=Dimension\n\t\tGROUP=DataField\n"
        for j, (name, (values, _)) in enumerate(g["fields"].items(), 1):
            text += f'\t\t\tOBJECT=DataField_{j}\n\t\t\t\tDataFieldName="{name}"\n'
            text += f'\t\t\t\tDataType=DFNT_{_TYPES[str(values.dtype)][0]}\n\t\t\t\tDimList=("YDim","XDim")\n'
            text += f"\t\t\tEND_OBJECT=DataField_{j}\n"
        text += f"\t\tEND_GROUP=DataField\n\t\tGROUP=MergedFields\n\t\tEND_GROUP=MergedFields\n\tEND_GROUP=GRID_{i}\n"
    return text + "END_GROUP=GridStructure\nGROUP=PointStructure\nEND_GROUP=PointStructure\nEND\n"


def write_hdf(
    path: Path, grids: Sequence[Mapping], *, metadata: str | None = None, chunk_rows: int | None = None
) -> Path:
    """Write grids into an HDF4 file; layers deflated, as a whole (as in MCD12Q1) or by rows (100 in MCD43)."""
    from pyhdf.SD import SD, SDC

    file = SD(str(path), SDC.WRITE | SDC.CREATE | SDC.TRUNC)
    for g in grids:
        for name, (values, attributes) in g["fields"].items():
            layer = file.create(name, _TYPES[str(values.dtype)][1], values.shape)
            for i, axis in enumerate(("YDim", "XDim") if values.shape == (g["rows"], g["cols"]) else ()):
                layer.dim(i).setname(f"{axis}:{g['name']}")
            if chunk_rows:
                _set_chunks(layer, chunk_rows, values.shape[1])
            else:
                layer.setcompress(SDC.COMP_DEFLATE, 1)
            for key, value in attributes.items():
                kind = SDC.FLOAT64 if isinstance(value, float) else _TYPES[str(values.dtype)][1]
                layer.attr(key).set(kind, value)
            layer[:] = values
            layer.endaccess()
    text = structure(grids) if metadata is None else metadata
    if text:
        file.attr("StructMetadata.0").set(SDC.CHAR8, text)
    file.attr("CoreMetadata.0").set(SDC.CHAR8, "GROUP = INVENTORYMETADATA\nEND\n")
    file.end()
    return path


class _ChunkDefinition(ctypes.Structure):
    """HDF_CHUNK_DEF of the HDF4 library, with room to spare at its end."""

    _fields_: ClassVar = [
        ("lengths", ctypes.c_int32 * 32),
        ("compression", ctypes.c_int32),
        ("model", ctypes.c_int32),
        ("level", ctypes.c_int32),
        ("rest", ctypes.c_int32 * 40),
    ]


def _set_chunks(layer, rows: int, cols: int) -> None:
    """Chunks deflated at level 4, which pyhdf has no call for: ask the library that it brings along."""
    import pyhdf

    (library,) = (Path(pyhdf.__file__).parents[1] / "pyhdf.libs").glob("libmfhdf*")
    definition = _ChunkDefinition(compression=4, level=4)
    definition.lengths[:2] = [rows, cols]
    assert ctypes.CDLL(str(library)).SDsetchunk(ctypes.c_int32(layer._id), definition, ctypes.c_int32(3)) == 0


def nadir(values: np.ndarray, corner: tuple[int, int], **changes) -> dict:
    """MCD43A4's grid of (7, row, column) stored values."""
    fields = {name: (v, _A4) for name, v in zip(A4, np.asarray(values, "int16"), strict=True)}
    quality = np.zeros(np.shape(values)[1:], "uint8")
    fields |= {f"BRDF_Albedo_Band_Mandatory_Quality_Band{i}": (quality, {"_FillValue": 255}) for i in (1, 2)}
    return grid("MOD_Grid_BRDF", corner, fields, **changes)


def flags(values: np.ndarray, corner: tuple[int, int], **changes) -> dict:
    """MCD43A2's grid of snow and land-water type (2, row, column)."""
    fields = {name: (v, {"_FillValue": 255}) for name, v in zip(A2, np.asarray(values, "uint8"), strict=True)}
    return grid("MOD_Grid_BRDF", corner, fields, **changes)


def daily(values: np.ndarray, state: np.ndarray, corner: tuple[int, int]) -> list[dict]:
    """MOD09GA's two grids: state flags at 1 km and reflectance (7, row, column) at 500 m."""
    flags = {"state_1km_1": (np.asarray(state, "uint16"), {"_FillValue": 65535})}
    bands = {f"{name}_1": (v, _GA) for name, v in zip(GA, np.asarray(values, "int16"), strict=True)}
    return [
        grid("MODIS_Grid_1km_2D", corner, flags, factor=2),
        grid("MODIS_Grid_500m_2D", corner, bands),
    ]


def ocean(values: np.ndarray, corner: tuple[int, int]) -> list[dict]:
    """MODOCGA's grid of bands 8 to 16 (9, row, column) at 1 km."""
    bands = {f"sur_refl_b{i + 8:02d}_1": (v, _GA) for i, v in enumerate(np.asarray(values, "int16"))}
    return [grid("MODIS_Grid_1km_2D", corner, bands, factor=2)]


def tile_of(corner: tuple[int, int]) -> tuple[int, int]:
    """(h, v) of the tile that holds a global pixel."""
    return int(corner[1]) // TILE, int(corner[0]) // TILE


def write_tiff(path, values, corner, *, names=None, crs=SPHERE_CRS, factor=1, nodata=None) -> Path:
    """Write (band, row, column) with the upper left corner at a global 500 m pixel."""
    import rasterio

    values = np.asarray(values)
    side = PIXEL * factor
    transform = rasterio.transform.from_origin(
        (corner[1] - COLS / 2) * PIXEL, (ROWS / 2 - corner[0]) * PIXEL, side, side
    )
    shape = {"count": len(values), "height": values.shape[1], "width": values.shape[2]}
    with rasterio.open(
        path, "w", driver="GTiff", dtype=values.dtype, crs=crs, transform=transform, nodata=nodata, **shape
    ) as file:
        file.write(values)
        if names:
            file.descriptions = list(names)
    return path
