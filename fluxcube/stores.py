"""The only module that writes Zarr: stores that appear whole or not at all, written shard by shard.

A store is a Zarr (format 3) group without consolidated metadata. Its attributes say of which `kind` it is and, once
everything is written, that it is `complete`; nothing else opens. A region that cuts through a shard is refused:
two writers of halves of one shard would each put back the other's old half, without an error.
"""

from __future__ import annotations

import functools
import itertools
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
import xarray as xr
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, TransposeCodec
from zarr.registry import register_codec

from fluxcube.decimals import DecimalColumns
from fluxcube.errors import ConfigError, StoreError, missing_package
from fluxcube.swap import building_place, clear_leftovers, link_file, moved_away, take_place

_log = logging.getLogger(__name__)

# Also by entry point, for readers that do not import fluxcube.
register_codec("fluxcube.decimals", DecimalColumns)

_LEDGER = "ledger"
_SPILL = ".parts"
_EPOCHS = (("D", "days"), ("h", "hours"), ("s", "seconds"))
#: Values of a variable vary smoothly with time, not from one variable to the next: time goes innermost.
_LABELS = ("variable", "target")


@dataclass(frozen=True, kw_only=True)
class ArraySpec:
    """What an array of a store is like, before it has values.

    Attributes
    ----------
    dims, shape, dtype
        As of a DataArray.
    chunks : tuple of int
        What is read and decompressed at once.
    shards : tuple of int or None
        What is one file, and what a task must write whole: multiples of `chunks`.
    fill_value
        What a reader gets where nothing is written. NaN, and what the attribute ``_FillValue`` says, open as missing.
    attrs : mapping
        CF attributes; ``scale_factor`` makes packed integers open as float32.
    decimals : bool
        Keep float32 columns (the last dimension) as `fluxcube.decimals` does: smaller, the same bit by bit, and read
        only where fluxcube is installed.
    checksum : bool
        Keep a CRC-32C with each chunk: bytes that a disk changed then raise, where they might decompress to other
        values.
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
    """Return the versions that made a store; no date, so that equal input gives equal bytes."""
    return {f"{name}_version": version(name) for name in ("fluxcube", "numpy", "xarray", "zarr")}


def create(
    path: str | os.PathLike, coords: xr.Dataset, arrays: Mapping[str, ArraySpec], attrs: Mapping[str, object]
) -> None:
    """Make a store with its coordinates, and arrays that hold nothing yet.

    Parameters
    ----------
    path : path
        Folder to make, usually what `staging` gives.
    coords : xarray.Dataset
        Coordinates, and nothing else; small enough to be held in memory.
    arrays : mapping of str to ArraySpec
        By name.
    attrs : mapping
        Attributes of the store: ``kind`` and what describes it, as JSON can hold it.

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


def write_run(path: str | os.PathLike, name: str, at: int, start: int, values: np.ndarray) -> None:
    """Write all that one place holds of an array: one run along the second dimension, and nothing before or after.

    Whole shards are replaced, so no two tasks can meet in one, and only the chunks that the run touches are made: a
    shard may be decades longer than what it holds.

    Parameters
    ----------
    path, name
        The store and its array, whose shards are one long in the first dimension and whole from the third on.
    at : int
        Index on the first dimension.
    start : int
        Where the run begins on the second.
    values : numpy.ndarray
        Of shape (length of the run, ...), the array's third dimension and those after it.

    Raises
    ------
    ConfigError
        If the run does not lie within the array, the values have another shape or type, or a shard of the array
        holds more than one place.
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
    """Take over what another store holds of some places: its shards become this store's, not a byte of them changed.

    They are hard links where the file system has them, so the other store stays as it is, and copies where not.

    Parameters
    ----------
    path : path
        A store that is being made; its arrays, but for their lengths along the first two dimensions, are the same.
    source : path
        The other store.
    places : mapping of int to int
        Index on the first dimension of the other store's arrays, and of this one's.

    Raises
    ------
    StoreError
        If an array of both is laid out differently: it was written by another version, and must be made anew.
    """
    path, source = Path(path), Path(source)
    for name in sorted(meta.parent.name for meta in path.glob("*/zarr.json")):
        if not (source / name / "zarr.json").exists() or not _is_sharded_by_place(path / name):
            continue
        if _layout(path / name) != _layout(source / name):
            raise StoreError(
                f"{source}: {name} is laid out as another version of fluxcube (or with other options) did it, so its "
                "files cannot be kept: build the store anew with overwrite (--overwrite)."
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
    """Return what decides the bytes of an array's shards: all but its name, and how many places and steps it has."""
    meta = json.loads((array / "zarr.json").read_bytes())
    meta["shape"] = meta["shape"][2:]
    return {key: meta[key] for key in meta if key != "attributes"}


def write_documents(path: str | os.PathLike, folder: str, documents: Mapping[str, Mapping[str, object]]) -> None:
    """Keep small documents in a store, each by itself, so that opening the store reads none.

    Parameters
    ----------
    path : path
        A store that is being made.
    folder : str
        Name of the group that holds them.
    documents : mapping of str to mapping
        What JSON can hold, by name.
    """
    from zarr.core.group import GroupMetadata

    nodes = {folder: GroupMetadata(zarr_format=3)}
    for name, document in documents.items():
        nodes[f"{folder}/{name}"] = GroupMetadata(attributes=dict(document), zarr_format=3)
    store = _group(Path(path), "r+").store
    for _ in zarr.create_hierarchy(store=store, nodes=nodes, overwrite=False):
        pass  # the nodes are made as they are drawn


def read_documents(
    path: str | os.PathLike, folder: str, *, storage_options: Mapping[str, object] | None = None
) -> dict[str, dict]:
    """Return what `write_documents` kept, by name; nothing where there is no such group."""
    root = _group(path, "r", storage_options)
    try:
        group = root[folder]
    except KeyError:
        return {}
    return {name: dict(document.attrs) for name, document in sorted(group.groups())}


def write_region(
    path: str | os.PathLike, name: str, region: Sequence[slice], values: np.ndarray, *, durable: bool = False
) -> None:
    """Write whole shards of one array; chunks that hold nothing but the fill value are not stored.

    A shard is written beside its place and renamed: a kill leaves the old one or the new one.

    Parameters
    ----------
    path, name
        The store and its array.
    region : sequence of slice
        One slice with integer bounds a dimension; each starts on a shard's edge, and ends on one or with the array.
    values : numpy.ndarray
        Of the region's shape.
    durable : bool
        Return only when the shards are on the disk, for a ledger that is written after them.

    Raises
    ------
    ConfigError
        If the region cuts a shard, or the values have another shape or type.
    StoreError
        If there is no such array.
    """
    array = _opened(path, name)
    shape = _check_region(array, name, region)
    if values.shape != shape or not np.can_cast(values.dtype, array.dtype, "same_kind"):
        raise ConfigError(
            f"{name}: the region {_text(region)} takes {shape} values of {array.dtype}, found {values.shape} of "
            f"{values.dtype}."
        )
    array[tuple(region)] = values
    if durable:
        _sync_shards(Path(path) / name / "c", region, array.shards or array.chunks)


def _sync_shards(folder: Path, region: Sequence[slice], edges: Sequence[int]) -> None:
    """Wait until the files of a region, and the names of these files, are on the disk."""
    parts = (range(part.start // edge, -(-part.stop // edge)) for part, edge in zip(region, edges, strict=True))
    for index in itertools.product(*parts):
        file = folder.joinpath(*map(str, index))
        for path in (file, file.parent) if file.exists() else ():
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


@contextmanager
def staging(path: str | os.PathLike, *, overwrite: bool = False) -> Iterator[Path]:
    """Give a place beside `path` to make a store in; it takes its place only when the block ends well.

    Parameters
    ----------
    path : path
        Where the store shall be.
    overwrite : bool
        Replace a store of fluxcube that is there. It stays until the new one is whole.

    Yields
    ------
    Path
        For `create` and `write_region`. It is removed if the block raises; a killed process leaves it, and the next
        build of the same store removes it.

    Raises
    ------
    StoreError
        If `path` exists and `overwrite` is not set, or it is nothing that fluxcube wrote.
    """
    if is_url(path):
        raise StoreError(f"{path}: stores are written to a disk; write there, then copy the folder to its bucket.")
    path = Path(path).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    clear_leftovers(path)
    _check_target(path, overwrite)
    building = building_place(path)
    try:
        yield building
        finish(building)
        take_place(building, path)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def finish(path: str | os.PathLike, attrs: Mapping[str, object] | None = None) -> None:
    """Say that everything of a store is written, so that it opens; and what else `attrs` says of it.

    What kills left of shards that were not whole is removed.
    """
    shutil.rmtree(Path(path) / _SPILL, ignore_errors=True)
    if (Path(path) / _LEDGER).is_dir():
        for part in Path(path).glob("*/c/**/*.partial"):
            part.unlink(missing_ok=True)
    _group(Path(path), "r+").update_attributes({**(attrs or {}), "complete": True})


@contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
    """Let no other run write a store that is made in its place; the system ends this with the process.

    Raises
    ------
    StoreError
        If another run writes it.
    """
    try:
        import fcntl
    except ImportError:  # not on this system
        yield
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise StoreError(f"{path}: another run is writing it; wait until it has ended, or stop it.") from None
    except OSError as error:  # some network file systems lock no folders
        _log.info("%s cannot be locked (%s): see that no other run writes it", path, error)
    try:
        yield
    finally:
        os.close(handle)


def remove(path: str | os.PathLike) -> None:
    """Remove a store, under another name, so that a kill leaves no half of one in its place."""
    path = Path(path).absolute()
    gone = building_place(path)
    shutil.rmtree(gone, ignore_errors=True)
    os.replace(path, gone)
    shutil.rmtree(gone)


def spill(path: str | os.PathLike, key: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Put arrays aside in a store that is being made, to `unspill` them when its extent is known; `finish` drops them.

    Parameters
    ----------
    path : path
        The store, which need not have been created yet.
    key : str
        Name of these arrays.
    arrays : mapping of str to numpy.ndarray
        Numbers or fixed-width strings.
    """
    folder = Path(path) / _SPILL
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / f"{key}.npz", allow_pickle=False, **arrays)


def unspill(path: str | os.PathLike, key: str) -> dict[str, np.ndarray]:
    """Return what `spill` put aside."""
    with np.load(Path(path) / _SPILL / f"{key}.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def spilled(path: str | os.PathLike, start: str) -> list[str]:
    """Return the keys of `spill` that begin with `start`, in order."""
    names = (entry.name.removesuffix(".npz") for entry in (Path(path) / _SPILL).glob("*.npz"))
    return sorted(name for name in names if name.startswith(start))


def store_attrs(path: str | os.PathLike, *, storage_options: Mapping[str, object] | None = None) -> dict[str, object]:
    """Return the attributes of a store, of any kind, without opening its arrays (StoreError if there is none)."""
    return dict(_group(path, "r", storage_options).attrs)


def open_store(
    path: str | os.PathLike,
    *,
    kind: str,
    allow_partial: bool = False,
    dask: bool = True,
    storage_options: Mapping[str, object] | None = None,
) -> xr.Dataset:
    """Open a store lazily, with one Dask chunk a shard.

    Parameters
    ----------
    path : path or URL
        The store; a URL such as ``s3://bucket/key`` is opened through fsspec, to read only.
    kind : str
        What it must be: "cube" or "maps".
    allow_partial : bool
        Open a store that is not complete, too; what is not written is missing.
    dask : bool
        False leaves the arrays to xarray's own lazy indexing, for a selection before `dask_chunked`.
    storage_options : mapping, optional
        What fsspec needs to reach a URL; credentials are handed on, and neither kept in the Dataset nor logged.

    Returns
    -------
    xarray.Dataset
        Packed arrays open as float32; flags keep their integers.

    Raises
    ------
    StoreError
        If there is no such store, or it cannot be reached, or it is of another kind or not complete.
    """
    group = _group(path, "r", storage_options)
    attrs = dict(group.attrs)
    if attrs.get("kind") != kind:
        raise StoreError(f"{path}: expected a store of kind {kind!r}, found {attrs.get('kind')!r}.")
    if attrs.get("complete") is not True and not allow_partial:
        raise StoreError(f"{path}: its writing was not finished; run what makes it again.")
    raw = xr.open_zarr(group.store, consolidated=False, zarr_format=3, chunks=None, decode_cf=False)
    for variable in raw.variables.values():
        if "scale_factor" in variable.attrs:  # as JSON's float it would unpack to float64
            variable.attrs["scale_factor"] = np.float32(variable.attrs["scale_factor"])
    ds = xr.decode_cf(raw)
    strings = {n: (v.dims, v.values.astype(object), v.attrs) for n, v in ds.variables.items() if v.dtype.kind == "T"}
    ds = ds.assign_coords(strings)
    return dask_chunked(ds) if dask else ds


def dask_chunked(ds: xr.Dataset, *, begin: Mapping[str, int] | None = None, **most: int) -> xr.Dataset:
    """Turn the lazy arrays of an opened store into Dask arrays, one chunk a shard (or, without shards, a chunk).

    Parameters
    ----------
    ds : xarray.Dataset
        As ``open_store(..., dask=False)`` gives it, or a selection by slices of that.
    begin : mapping of str to int, optional
        Where `ds` begins on the store's axis, by dimension: its first chunk is shorter, so that the others lie on
        stored ones.
    **most : int
        Longest chunk along a dimension, e.g. ``time=17532``.
    """
    begin = begin or {}
    arrays = {}
    for name, array in ds.data_vars.items():
        stored = array.encoding.get("shards") or array.encoding["chunks"]
        sizes = dict(zip(array.dims, stored, strict=True))
        arrays[name] = array.chunk(
            {
                dim: _lengths(array.sizes[dim], min(size, most.get(str(dim), size)), begin.get(str(dim), 0))
                for dim, size in sizes.items()
            }
        )
    return ds.assign(arrays)


def _lengths(size: int, most: int, begin: int) -> tuple[int, ...]:
    """Return chunk lengths of a part that begins somewhere on an axis cut every `most` steps."""
    edges = [0, *range(most - begin % most, size, most), size]
    return tuple(stop - start for start, stop in itertools.pairwise(edges))


def done_regions(path: str | os.PathLike) -> dict[str, int]:
    """Return what `mark_done` has noted; a last line that a kill cut off does not count."""
    try:
        text = _ledger(path).read_bytes()
    except FileNotFoundError:
        return {}
    lines = (json.loads(line) for line in text.split(b"\n")[:-1] if _whole(line))
    return {line["done"]: line.get("missing", 0) for line in lines}


def mark_done(path: str | os.PathLike, regions: Mapping[str, int]) -> None:
    """Note, durably, that regions of a store are written.

    That their chunks exist would not say so: those without a value are never stored.

    Parameters
    ----------
    path : path
        The store.
    regions : mapping of str to int
        By key, how many values are missing in each that one would expect.
    """
    if not regions:
        return
    ledger = _ledger(path)
    if not ledger.parent.exists():
        # A group of its own: a loose file in the store's root would make every reader warn.
        _group(Path(path), "r+").create_group(_LEDGER)
    with open(ledger, "ab+") as file:
        lines = b"".join(json.dumps({"done": key, "missing": n}).encode() + b"\n" for key, n in regions.items())
        file.seek(0, os.SEEK_END)
        if file.tell():
            file.seek(-1, os.SEEK_END)
            lines = lines if file.read(1) == b"\n" else b"\n" + lines
        file.write(lines)
        file.flush()
        os.fsync(file.fileno())


def _ledger(path: str | os.PathLike) -> Path:
    return Path(path) / _LEDGER / "regions.jsonl"


def _whole(line: bytes) -> bool:
    """Return whether a line of the ledger is not the rest of one that a kill cut off."""
    try:
        return "done" in json.loads(line)
    except ValueError:
        return False


def is_url(path: str | os.PathLike) -> bool:
    """Return whether a path is a URL, such as ``s3://bucket/key``."""
    return isinstance(path, str) and "://" in path


def _group(path: str | os.PathLike, mode: str, storage_options: Mapping[str, object] | None = None) -> zarr.Group:
    if is_url(path):
        return _remote_group(str(path), storage_options or {})
    path = Path(path)
    if not (path / "zarr.json").is_file():
        raise StoreError(f"{path}: no store there; {moved_away(path) or 'check the path.'}")
    try:
        return zarr.open_group(path, mode=mode, zarr_format=3)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise StoreError(f"{path}: expected a Zarr group, which its zarr.json is not ({error}).") from error


def _remote_group(url: str, options: Mapping[str, object]) -> zarr.Group:
    from zarr.storage import FsspecStore

    try:
        store = FsspecStore.from_url(url, storage_options=dict(options), read_only=True)
        return zarr.open_group(store, mode="r", zarr_format=3)
    except ImportError as error:
        raise missing_package(str(getattr(error, "name", None) or "s3fs"), "s3", f"opening {url}") from error
    except (FileNotFoundError, KeyError) as error:
        raise StoreError(f"{url}: no store there; check the address.") from error
    except (OSError, ValueError, TypeError, *_cloud_errors()) as error:
        # The class only: a message of another library might repeat what it was given to sign in with.
        raise StoreError(
            f"{url}: cannot be opened ({type(error).__name__}); check the address, storage_options and credentials."
        ) from error


def _cloud_errors() -> tuple[type[BaseException], ...]:
    try:
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        return ()
    return BotoCoreError, ClientError


def _write_coord(group: zarr.Group, name: str, coord: xr.DataArray, bounds: str | None) -> None:
    values, attrs = coord.values, {k: v for k, v in coord.attrs.items() if k != "bounds"}
    dtype, fill = values.dtype, 0
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
        fill_value=fill,
        dimension_names=coord.dims,
        attributes=attrs,
    )
    array[...] = values


def _as_integers(values: np.ndarray, name: str) -> tuple[np.ndarray, str]:
    """Return times as whole numbers of the coarsest unit that loses nothing, and that unit."""
    if np.isnat(values).any():
        raise ConfigError(f"coordinate {name}: expected times, found NaT.")
    for unit, word in _EPOCHS:
        coarse = values.astype(f"datetime64[{unit}]")
        if (coarse == values).all():
            return coarse.astype(np.int64), f"{word} since 1970-01-01"
    raise ConfigError(f"coordinate {name}: expected times in whole seconds.")


def _create_array(group: zarr.Group, name: str, spec: ArraySpec) -> None:
    dtype = np.dtype(spec.dtype)
    last = len(spec.dims) - 1
    order = (*range(last - 1), last, last - 1) if spec.dims[-1] in _LABELS and last else None
    codecs = {
        "filters": [TransposeCodec(order=order)] if order else None,
        "compressors": [BloscCodec(cname="zstd", clevel=5, shuffle="shuffle", typesize=dtype.itemsize)],
    }
    if spec.checksum:
        codecs["compressors"].append(Crc32cCodec())
    if spec.decimals:
        codecs = {"filters": None, "serializer": DecimalColumns(), "compressors": None}
    group.create_array(
        name,
        shape=spec.shape,
        dtype=dtype,
        chunks=spec.chunks,
        shards=spec.shards,
        fill_value=spec.fill_value,
        dimension_names=spec.dims,
        attributes=dict(spec.attrs),
        config={"write_empty_chunks": False},
        **codecs,
    )


def _opened(path: str | os.PathLike, name: str) -> zarr.Array:
    meta = Path(path).absolute() / name / "zarr.json"
    try:
        return _open_array(meta.parent, meta.stat().st_mtime_ns)
    except FileNotFoundError:
        raise StoreError(f"{path}: holds no array {name}.") from None


@functools.lru_cache(maxsize=64)
def _open_array(path: Path, changed: int) -> zarr.Array:
    """Open an array once; `changed` tells it from another that stood at the same path before."""
    return zarr.open_array(path, mode="r+", zarr_format=3)


def _check_region(array: zarr.Array, name: str, region: Sequence[slice]) -> tuple[int, ...]:
    """Return the shape of a region, or say where it cuts a shard."""
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
        raise ConfigError(f"{name}: its files {files} hold more than one place of {array.shape}; use write_region.")
    stop = start + len(values)
    if not 0 <= at < array.shape[0] or not 0 <= start < stop <= array.shape[1]:
        raise ConfigError(f"{name}: {start}:{stop} of place {at} does not lie within {array.shape[:2]}.")
    if values.shape[1:] != array.shape[2:] or not np.can_cast(values.dtype, array.dtype, "same_kind"):
        raise ConfigError(
            f"{name}: a run takes values (time, {', '.join(map(str, array.shape[2:]))}) of {array.dtype}, found "
            f"{values.shape} of {values.dtype}."
        )


def _text(region: Sequence[slice]) -> str:
    return ", ".join(f"{part.start}:{part.stop}" for part in region)


def _check_target(path: Path, overwrite: bool) -> None:
    if not path.exists() and not path.is_symlink():
        return
    if not overwrite:
        raise StoreError(f"{path} exists: give overwrite (--overwrite) to replace it, or another path.")
    if path.is_symlink() or not (path / "zarr.json").is_file() or "fluxcube_version" not in _group(path, "r").attrs:
        raise StoreError(f"{path} is nothing that fluxcube wrote, and is not replaced: give another path.")
