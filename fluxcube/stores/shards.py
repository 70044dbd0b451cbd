"""Write the shards of a store's arrays, each of them whole.

A region that cuts through a shard is refused: two writers of halves of one shard would each restore the other's old
half, without an error.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import zarr

from fluxcube.errors import ConfigError, StoreError, overwrite_option
from fluxcube.stores.manifest import Entries, entry_of
from fluxcube.stores.objects import Bucket
from fluxcube.stores.swap import link_file
from fluxcube.stores.uploads import send_shards


def write_region(
    path: str | os.PathLike | Bucket, name: str, region: Sequence[slice], values: np.ndarray, *, durable: bool = False
) -> Entries:
    """Write whole shards of one array; chunks that contain only the fill value are not stored.

    A shard is written to a temporary file and renamed, or sent to a bucket in one request: a kill leaves the old shard
    or the new one.

    Parameters
    ----------
    path, name
        The store, on a disk or in a bucket, and its array.
    region : sequence of slice
        One slice with integer bounds for each dimension; each starts on a shard's edge, and ends on one or with the
        array.
    values : numpy.ndarray
        Of the region's shape.
    durable : bool
        Return only when the shards are on the disk, for a ledger that is written after them.

    Returns
    -------
    dict of str to (int, str)
        Size and digest of each shard, for the ledger.

    Raises
    ------
    ConfigError
        If the region cuts a shard, or the values have another shape or type.
    StoreError
        If there is no such array.
    """
    if isinstance(path, Bucket):
        write = functools.partial(_write_region, name=name, region=region, values=values, durable=False)
        return send_shards(path, name, write)
    keys = _write_region(path, name, region, values, durable)
    return {key: entry_of(Path(path), key) for key in keys if (Path(path) / key).exists()}


def _write_region(
    path: str | os.PathLike, name: str, region: Sequence[slice], values: np.ndarray, durable: bool
) -> list[str]:
    """Write shards to a disk, and return their keys."""
    array = _opened(path, name)
    shape = _check_region(array, name, region)
    if values.shape != shape or not np.can_cast(values.dtype, array.dtype, "same_kind"):
        raise ConfigError(
            f"{name}: the region {_text(region)} expects {shape} values of {array.dtype}, found {values.shape} of "
            f"{values.dtype}."
        )
    keys = _shard_keys(name, region, array.shards or array.chunks)
    try:
        array[tuple(region)] = values
    except ValueError:  # Zarr reads a shard before it replaces it, and a crash of the machine may have left half of one
        for key in keys:
            (Path(path) / key).unlink(missing_ok=True)
        array[tuple(region)] = values
    if durable:
        _sync_shards(Path(path), keys)
    return keys


def _shard_keys(name: str, region: Sequence[slice], edges: Sequence[int]) -> list[str]:
    parts = (range(part.start // edge, -(-part.stop // edge)) for part, edge in zip(region, edges, strict=True))
    return ["/".join((name, "c", *map(str, index))) for index in itertools.product(*parts)]


def _sync_shards(store: Path, keys: Sequence[str]) -> None:
    """Wait until files, and their names, are on the disk."""
    for file in (store / key for key in keys):
        for path in (file, file.parent) if file.exists() else ():
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def write_run(path: str | os.PathLike, name: str, at: int, start: int, values: np.ndarray) -> None:
    """Write all values of one place: one run along the second dimension; the rest of the place becomes empty.

    Whole shards are replaced, so two tasks never write the same shard, and only the chunks that the run touches are
    written: a shard may be decades longer than its values.

    Parameters
    ----------
    path, name
        The store and its array, whose shards are one long in the first dimension and whole from the third on.
    at : int
        Index on the first dimension.
    start : int
        Start of the run on the second dimension.
    values : numpy.ndarray
        Of shape (length of the run, ...), the array's third dimension and those after it.

    Raises
    ------
    ConfigError
        If the run does not lie within the array, the values have another shape or type, or a shard of the array
        contains more than one place.
    StoreError
        If there is no such array.
    """
    array = _opened(path, name)
    _check_run(array, name, at, start, values)
    shutil.rmtree(Path(path) / name / "c" / str(at), ignore_errors=True)
    shard, chunk, stop = (array.shards or array.chunks)[1], array.chunks[1], start + len(values)
    for low in range(start // shard * shard, stop, shard):
        first, last = max(start, low), min(stop, low + shard)
        begin, end = first // chunk * chunk, min(-(-last // chunk) * chunk, array.shape[1])
        block = np.full((1, end - begin, *array.shape[2:]), array.fill_value, array.dtype)
        block[0, first - begin : last - begin] = values[first - start : last - start]
        array[at : at + 1, begin:end] = block


def adopt(path: str | os.PathLike, source: str | os.PathLike, places: Mapping[int, int]) -> None:
    """Take the shards of some places from another store, unchanged byte by byte.

    They become hard links where the file system supports them, else copies; the other store stays as it is.

    Parameters
    ----------
    path : path
        A store that is being built; its arrays equal the other's, except for their lengths along the first two
        dimensions.
    source : path
        The other store.
    places : mapping of int to int
        Maps indices on the first dimension of the other store's arrays to indices of this store's.

    Raises
    ------
    StoreError
        If an array is laid out differently in the two stores: another version wrote it, and it must be built again.
    """
    path, source = Path(path), Path(source)
    for name in sorted(meta.parent.name for meta in path.glob("*/zarr.json")):
        if not (source / name / "zarr.json").exists() or not _is_sharded_by_place(path / name):
            continue
        if _layout(path / name) != _layout(source / name):
            raise StoreError(
                f"{source}: another version of fluxcube (or other options) wrote {name}, so its files cannot be "
                f"kept: build the store again with {overwrite_option()}."
            )
        for old, new in places.items():
            for file in sorted((source / name / "c" / str(old)).rglob("*")):
                if file.is_file():
                    link_file(file, path / name / "c" / str(new) / file.relative_to(source / name / "c" / str(old)))


def _is_sharded_by_place(array: Path) -> bool:
    meta = json.loads((array / "zarr.json").read_bytes())
    codecs = [codec["name"] for codec in meta.get("codecs", ())]
    return codecs == ["sharding_indexed"] and meta["chunk_grid"]["configuration"]["chunk_shape"][0] == 1


def _layout(array: Path) -> dict:
    """Return the metadata that decide the bytes of an array's shards: all but the numbers of places and time steps."""
    meta = json.loads((array / "zarr.json").read_bytes())
    meta["shape"] = meta["shape"][2:]
    return {key: meta[key] for key in meta if key != "attributes"}


def _opened(path: str | os.PathLike, name: str) -> zarr.Array:
    meta = Path(path).absolute() / name / "zarr.json"
    try:
        return _open_array(meta.parent, meta.stat().st_mtime_ns)
    except FileNotFoundError:
        raise StoreError(f"{path}: has no array {name}; check its name.") from None


@functools.lru_cache(maxsize=64)
def _open_array(path: Path, changed: int) -> zarr.Array:
    """Open an array once; `changed` distinguishes it from an earlier one at the same path."""
    return zarr.open_array(path, mode="r+", zarr_format=3)


def _check_region(array: zarr.Array, name: str, region: Sequence[slice]) -> tuple[int, ...]:
    """Return the shape of a region (ConfigError where it cuts a shard)."""
    if len(region) != array.ndim:
        raise ConfigError(f"{name}: expected {array.ndim} slices, found {len(region)}.")
    edges = array.shards or array.chunks
    for dim, (part, edge, size) in enumerate(zip(region, edges, array.shape, strict=True)):
        whole = None not in (part.start, part.stop) and part.step in (None, 1) and 0 <= part.start < part.stop <= size
        if not whole or part.start % edge or (part.stop % edge and part.stop != size):
            raise ConfigError(
                f"{name}: the region {_text(region)} cuts a shard in dimension {dim}, of size {size}: it must start at "
                f"a multiple of {edge}, and end at one or at {size}."
            )
    return tuple(part.stop - part.start for part in region)


def _check_run(array: zarr.Array, name: str, at: int, start: int, values: np.ndarray) -> None:
    files = array.shards or array.chunks
    if array.ndim < 2 or files[0] != 1 or files[2:] != array.shape[2:]:
        raise ConfigError(f"{name}: its files {files} contain more than one place of {array.shape}; use write_region.")
    stop = start + len(values)
    if not 0 <= at < array.shape[0] or not 0 <= start < stop <= array.shape[1]:
        raise ConfigError(f"{name}: {start}:{stop} of place {at} does not lie within {array.shape[:2]}.")
    if values.shape[1:] != array.shape[2:] or not np.can_cast(values.dtype, array.dtype, "same_kind"):
        raise ConfigError(
            f"{name}: expected values (time, {', '.join(map(str, array.shape[2:]))}) of {array.dtype}, found "
            f"{values.shape} of {values.dtype}."
        )


def _text(region: Sequence[slice]) -> str:
    return ", ".join(f"{part.start}:{part.stop}" for part in region)
