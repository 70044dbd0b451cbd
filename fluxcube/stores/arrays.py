"""Create a store: its coordinates, its attributes, and arrays without values."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
import zarr
from zarr.abc.codec import ArrayBytesCodec, BytesBytesCodec
from zarr.codecs import BloscCodec, Crc32cCodec, TransposeCodec, ZstdCodec

from fluxcube.decimals import DecimalColumns
from fluxcube.errors import ConfigError, StoreError

_EPOCHS: tuple[tuple[Literal["D", "h", "s"], str], ...] = (("D", "days"), ("h", "hours"), ("s", "seconds"))
#: Values of a variable vary smoothly with time, not from one variable to the next: time goes innermost.
_LABELS = ("variable", "target")


@dataclass(frozen=True, kw_only=True)
class ArraySpec:
    """Shape, layout and attributes of an array that is to be created.

    Attributes
    ----------
    dims, shape, dtype
        As in a DataArray.
    chunks : tuple of int
        Unit of reading and decompression.
    shards : tuple of int or None
        Unit of writing: one file, which a task must write whole. Multiples of `chunks`.
    fill_value
        Value that a reader returns where nothing is written. NaN, and the value of the attribute ``_FillValue``, open
        as missing.
    attrs : mapping
        CF attributes; ``scale_factor`` makes packed integers open as float32.
    decimals : bool
        Compress float32 columns (the last dimension) with the codec `fluxcube.decimals`: smaller, identical bit by
        bit, and readable only where fluxcube is installed.
    checksum : bool
        Store a CRC-32C with each chunk: bytes that a disk changed then raise an error; otherwise they might decompress
        to other values.
    """

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str | np.dtype
    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None = None
    fill_value: float | int = 0
    attrs: Mapping[str, object] = field(default_factory=dict)
    decimals: bool = False
    checksum: bool = False


def provenance() -> dict[str, str]:
    """Return the versions of the software that writes a store; no date, so that equal input gives equal bytes."""
    return {f"{name}_version": version(name) for name in ("fluxcube", "numpy", "xarray", "zarr")}


def create(
    path: str | os.PathLike, coords: xr.Dataset, arrays: Mapping[str, ArraySpec], attrs: Mapping[str, object]
) -> None:
    """Create a store with its coordinates, and with arrays that have no values yet.

    Parameters
    ----------
    path : path
        Folder to create, usually the one that `fluxcube.stores.building.staging` yields.
    coords : xarray.Dataset
        Coordinates only; small enough to fit in RAM.
    arrays : mapping of str to ArraySpec
        By name.
    attrs : mapping
        Attributes of the store: ``kind`` and its description, in types that JSON can represent.

    Raises
    ------
    StoreError
        If there is a store at `path`.
    """
    path = Path(path)
    if (path / "zarr.json").exists():
        raise StoreError(f"{path} exists: remove it, or write to another path.")
    extra = [str(name) for name in coords.coords if name not in coords.dims]
    named = {"coordinates": " ".join(sorted(extra))} if extra else {}
    group = zarr.create_group(path, zarr_format=3, attributes={**attrs, **provenance(), **named, "complete": False})
    for name, coord in coords.coords.items():
        _write_coord(group, str(name), coord, f"{name}_bnds" if f"{name}_bnds" in coords.coords else None)
    for name, spec in arrays.items():
        _create_array(group, name, spec)


def _write_coord(group: zarr.Group, name: str, coord: xr.DataArray, bounds: str | None) -> None:
    values, attrs = coord.values, {str(k): v for k, v in coord.attrs.items() if k != "bounds"}
    dtype: np.dtype | type[str] = values.dtype
    fill: float | str = 0
    if values.dtype.kind == "M":
        values, units = _as_integers(values, name)
        attrs |= {"units": units, "calendar": "proleptic_gregorian"} | ({"bounds": bounds} if bounds else {})
        dtype = values.dtype
    elif values.dtype.kind in "OUT":
        values, dtype, fill = values.astype(object), str, ""
    elif values.dtype.kind == "f":
        fill = np.nan
    array = group.create_array(
        name,
        shape=values.shape,
        dtype=dtype,
        chunks=tuple(max(n, 1) for n in values.shape),
        compressors=[ZstdCodec(), Crc32cCodec()],
        fill_value=fill,
        dimension_names=tuple(map(str, coord.dims)),
        attributes=attrs,
    )
    array[...] = values


def _as_integers(values: np.ndarray, name: str) -> tuple[np.ndarray, str]:
    """Return times as whole numbers of the coarsest unit that loses nothing, and that unit."""
    if np.isnat(values).any():
        raise ConfigError(f"coordinate {name}: expected times, found NaT; remove entries without a time.")
    for unit, word in _EPOCHS:
        coarse = values.astype(f"datetime64[{unit}]")
        if (coarse == values).all():
            return coarse.astype(np.int64), f"{word} since 1970-01-01"
    raise ConfigError(f"coordinate {name}: expected times in whole seconds, found fractions; round them first.")


def _create_array(group: zarr.Group, name: str, spec: ArraySpec) -> None:
    filters, serializer, compressors = _codecs(spec)
    group.create_array(
        name,
        shape=spec.shape,
        dtype=np.dtype(spec.dtype),
        chunks=spec.chunks,
        shards=spec.shards,
        filters=filters,
        serializer=serializer,
        compressors=compressors,
        fill_value=spec.fill_value,
        dimension_names=spec.dims,
        attributes=_json(spec.attrs),
        config={"write_empty_chunks": False},
    )


def _codecs(
    spec: ArraySpec,
) -> tuple[list[TransposeCodec] | None, ArrayBytesCodec | Literal["auto"], list[BytesBytesCodec] | None]:
    """Return the filters, the serializer and the compressors of an array."""
    if spec.decimals:
        return None, DecimalColumns(), [Crc32cCodec()] if spec.checksum else None
    last = len(spec.dims) - 1
    time_last = bool(last) and spec.dims[-1] in _LABELS
    typesize = np.dtype(spec.dtype).itemsize
    compressors: list[BytesBytesCodec] = [BloscCodec(cname="zstd", clevel=5, shuffle="shuffle", typesize=typesize)]
    if spec.checksum:
        compressors.append(Crc32cCodec())
    return [TransposeCodec(order=(*range(last - 1), last, last - 1))] if time_last else None, "auto", compressors


def _json(attrs: Mapping[str, object]) -> dict[str, Any]:
    return dict(attrs)
