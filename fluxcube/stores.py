"""The only module that writes Zarr: new stores beside their name, whole shards, ledgers, and what is complete.

A store is Zarr format 3 without consolidated metadata. It opens only if its root says ``complete``, which is the
last thing that is written. Equal content gives equal bytes: nothing here records a time or a path.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import xarray as xr
import zarr
from zarr.codecs import BloscCodec

from fluxcube.errors import ConfigError, StoreError

_LEDGER = "ledger.jsonl"

#: 6 chunks of 1461 hours are a year.
_CHUNKS_A_TASK = 6


@dataclass(frozen=True, kw_only=True)
class ArraySpec:
    """One array of a store.

    Attributes
    ----------
    dims : tuple of str
    shape, chunks, shards : tuple of int
        Sizes along `dims`; a shard is one file and a whole number of chunks.
    dtype : str
    fill_value : number
        What an absent chunk holds; chunks of nothing else are not stored.
    attrs : mapping
        CF attributes; with ``scale_factor`` (and ``_FillValue``) the array opens as the decoded float.
    """

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    chunks: tuple[int, ...]
    shards: tuple[int, ...]
    fill_value: float | int
    attrs: Mapping[str, object] = field(default_factory=dict)


def create(
    path: str | os.PathLike, coords: xr.Dataset, arrays: Mapping[str, ArraySpec], attrs: Mapping[str, object]
) -> None:
    """Write a store's coordinates and attributes, and its arrays without content.

    Parameters
    ----------
    path : path
        Folder to make; it must not exist, or be empty.
    coords : xr.Dataset
        Coordinates only; they are written whole.
    arrays : mapping of str to ArraySpec
    attrs : mapping
        Attributes of the root; ``kind`` ("cube" or "maps") among them.

    Raises
    ------
    StoreError
        If `path` holds something.
    """
    path = Path(path)
    if path.exists() and any(path.iterdir()):
        raise StoreError(f"{path} exists: nothing is overwritten.")
    encoding = {
        name: {"units": "hours since 1970-01-01", "dtype": "int64"}
        for name, coord in coords.variables.items()
        if np.issubdtype(coord.dtype, np.datetime64)
    }
    coords.drop_attrs().assign_attrs(attrs, complete=False).to_zarr(
        path, mode="w", consolidated=False, zarr_format=3, encoding=encoding
    )
    root = zarr.open_group(path, mode="r+", zarr_format=3)
    for name, spec in arrays.items():
        root.create_array(
            name,
            shape=spec.shape,
            dtype=spec.dtype,
            chunks=spec.chunks,
            shards=spec.shards,
            fill_value=spec.fill_value,
            dimension_names=spec.dims,
            attributes=dict(spec.attrs),
            compressors=BloscCodec(cname="zstd", clevel=5, shuffle="shuffle", typesize=np.dtype(spec.dtype).itemsize),
            config={"write_empty_chunks": False},
        )


def write_region(path: str | os.PathLike, name: str, region: tuple[slice, ...], values: np.ndarray) -> None:
    """Write whole shards of one array, so that no two writers ever touch the same file.

    Parameters
    ----------
    path : path
        The store.
    name : str
        Which array.
    region : tuple of slice
        One slice a dimension; each starts at a shard's edge and stops at one or at the array's end.
    values : array
        As stored (scaled and filled, where the array has a ``scale_factor``).

    Raises
    ------
    ConfigError
        If the region cuts a shard.
    """
    array = _array(str(path), name)
    for at, (part, size, shard) in enumerate(zip(region, array.shape, array.shards, strict=True)):
        start, stop, step = part.indices(size)
        if step != 1 or start % shard or (stop % shard and stop != size):
            raise ConfigError(
                f"{path}, {name}: {start}:{stop} of dimension {at} cuts a shard of {shard}; write whole shards, since "
                "two writers of one shard lose each other's values without an error."
            )
    array[region] = values


@functools.lru_cache(maxsize=64)
def _array(path: str, name: str) -> zarr.Array:
    return zarr.open_array(path, path=name, mode="r+", zarr_format=3)


@contextlib.contextmanager
def staging(path: str | os.PathLike, *, overwrite: bool = False) -> Iterator[Path]:
    """Give a folder beside `path` to build in; it takes the name `path`, complete, only if all went well.

    Parameters
    ----------
    path : path
        Store to make.
    overwrite : bool
        Replace what is there, once the new one is complete.

    Yields
    ------
    Path
        An empty folder's name beside `path`. Whatever a killed build left there is removed first.

    Raises
    ------
    StoreError
        If `path` exists and `overwrite` is not set, or its folder does not exist.
    """
    path = Path(path)
    check_absent(path, overwrite=overwrite)
    for stale in path.parent.glob(f".{path.name}.building-*"):
        shutil.rmtree(stale)
    building = path.parent / f".{path.name}.building-{os.getpid()}"
    try:
        yield building
        finish(building)
        _take_over(building, path)
    finally:
        _array.cache_clear()
        shutil.rmtree(building, ignore_errors=True)


def check_absent(path: str | os.PathLike, *, overwrite: bool) -> None:
    """Raise StoreError if `path` is in the way, or cannot be made."""
    path = Path(path)
    if path.exists() and not overwrite:
        raise StoreError(f"{path} exists: give another name, or overwrite (--overwrite) to replace it.")
    if path.exists() and not (path / "zarr.json").is_file():
        raise StoreError(f"{path} exists and is no store: it is not replaced; give another name.")
    if not path.parent.is_dir():
        raise StoreError(f"{path.parent} does not exist: make the folder first.")


def _take_over(building: Path, path: Path) -> None:
    """Rename the finished store over the old one."""
    old = path.parent / f".{path.name}.old-{os.getpid()}"
    if path.exists():
        path.rename(old)
    building.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def finish(path: str | os.PathLike) -> None:
    """Mark a store complete: the last thing that is written."""
    zarr.open_group(path, mode="r+", zarr_format=3).attrs["complete"] = True


def read_attrs(path: str | os.PathLike) -> dict[str, object]:
    """Return the root's attributes; StoreError where there is no store."""
    meta = Path(path) / "zarr.json"
    if not meta.is_file():
        what = "is no Zarr format 3 store" if Path(path).exists() else "does not exist"
        raise StoreError(f"{path} {what}: expected a store that fluxcube made.")
    try:
        return json.loads(meta.read_text("utf-8")).get("attributes", {})
    except json.JSONDecodeError as error:
        raise StoreError(f"{meta}: not JSON ({error}); the store is damaged, make it again.") from None


def open_store(path: str | os.PathLike, *, kind: str, allow_partial: bool = False) -> xr.Dataset:
    """Open a store lazily.

    Parameters
    ----------
    path : path
    kind : {"cube", "maps"}
        What it must be.
    allow_partial : bool
        Also open one that is not complete; what is not written is missing.

    Returns
    -------
    xr.Dataset
        Coordinates in memory, arrays as Dask.

    Raises
    ------
    StoreError
        If it is absent, of another kind, or not complete.
    """
    attrs = read_attrs(path)
    if attrs.get("kind") != kind:
        raise StoreError(f"{path} is {attrs.get('kind') or 'no fluxcube store'}, expected {kind}.")
    if not (attrs.get("complete") or allow_partial):
        raise StoreError(f"{path} is not complete: run the command that writes it again, it goes on or starts anew.")
    ds = xr.open_dataset(path, engine="zarr", consolidated=False, chunks=None, zarr_format=3)
    ds = ds.assign_coords({name: _plain(coord) for name, coord in ds.coords.items()})
    ds = ds.assign({name: _lazy(array) for name, array in ds.data_vars.items()})
    ds.attrs.pop("complete", None)
    return ds


def _plain(coord: xr.DataArray) -> xr.DataArray:
    """Load a coordinate; strings as Python's, which every library understands."""
    return coord.astype(object) if coord.dtype.kind == "T" else coord.load()


def _lazy(array: xr.DataArray) -> xr.DataArray:
    """Give an array Dask chunks: a few of the store's, so that a site-year is one or two tasks, within a shard."""
    chunks = array.encoding.get("chunks") or array.shape
    shards = array.encoding.get("shards") or chunks
    sizes = {dim: min(_CHUNKS_A_TASK * c, s) for dim, c, s in zip(array.dims, chunks, shards, strict=True)}
    lazy = array.chunk(sizes)
    return lazy.astype("float32", keep_attrs=True) if lazy.dtype == np.float64 else lazy


def done_regions(path: str | os.PathLike) -> set[str]:
    """Return the regions that a store's ledger says are written; a torn last line does not count."""
    ledger = Path(path) / _LEDGER
    if not ledger.is_file():
        return set()
    lines = ledger.read_text("utf-8").split("\n")[:-1]
    return {json.loads(line)["region"] for line in lines if line.startswith("{") and line.endswith("}")}


def mark_done(path: str | os.PathLike, key: str) -> None:
    """Append one region to the ledger, after its data, and wait until it is on disk."""
    ledger = Path(path) / _LEDGER
    torn = ledger.is_file() and ledger.read_bytes()[-1:] not in (b"\n", b"")
    with open(ledger, "a", encoding="utf-8") as file:
        file.write(("\n" if torn else "") + json.dumps({"region": key}) + "\n")
        file.flush()
        os.fsync(file.fileno())


def provenance() -> dict[str, str]:
    """Return the versions that decide what a store holds; no time, so that equal inputs give equal bytes."""
    return {f"{name}_version": importlib.metadata.version(name) for name in ("fluxcube", "numpy", "xarray", "zarr")}
