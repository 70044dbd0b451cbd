"""Open stores to read them, from a disk or through a URL."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import xarray as xr
import zarr

from fluxcube.errors import StoreError, to_type
from fluxcube.stores.damage import (
    check_identifier,
    check_metadata,
    check_structure,
    check_times,
    damage_named,
    named_arrays,
)
from fluxcube.stores.manifest import STORE_ID, arrays_in
from fluxcube.stores.pinned import PinnedStore
from fluxcube.stores.remote import RemoteStore, open_remote, remote_states
from fluxcube.stores.states import ID_LENGTH, STATE, disk_state, is_state_name, kept_states, states_folder
from fluxcube.stores.swap import describe_moved_store

#: File that is written once, by kind of store, where it is not ``zarr.json``: that of maps changes while regions are
#: written.
_WITNESSES = {"maps": "time/zarr.json", "forcing": "time/zarr.json"}
#: By kind of store: the function that opens it, and the command that writes it.
_OPENED = {"cube": "open_carbonsense", "forcing": "open_forcing", "maps": "open_maps"}
_WRITTEN = {"cube": "build", "forcing": "forcing", "maps": "upscale"}
#: Number of times that a store is looked for while two are exchanged, and seconds between them.
_ATTEMPTS, _PAUSE = 10, 0.05
#: Parts of an encoding that every format can have.
_CF_ENCODING = ("dtype", "_FillValue", "scale_factor", "add_offset", "units", "calendar")


def is_url(path: str | os.PathLike) -> bool:
    """Return whether a path is a URL, such as ``s3://bucket/key``."""
    return isinstance(path, str) and "://" in path


def open_group(
    path: str | os.PathLike, mode: Literal["r", "r+"], storage_options: Mapping[str, object] | None = None
) -> zarr.Group:
    """Open the Zarr group of a store.

    Parameters
    ----------
    path : path or URL
        The store; a URL is opened to read only.
    mode : {"r", "r+"}
        To read, or also to write.
    storage_options : mapping, optional
        Options of fsspec for a URL.

    Returns
    -------
    zarr.Group

    Raises
    ------
    StoreError
        If there is no store at the path, or it cannot be opened.
    """
    if is_url(path):
        return _group(open_remote(str(path), storage_options), str(path), "r")
    _check_exists(Path(path))
    if mode != "r":
        return _group(Path(path), path, mode)
    return _group(_pinned(_local_place(path)), path, mode)


def _pointed(path: Path, group: zarr.Group) -> Path:
    """Return where the current state of a store lies: in its folder, or beside it if it was copied from a bucket."""
    if STATE not in group.attrs:
        return path
    name = group.attrs[STATE]
    state = states_folder(path) / str(name)
    if is_state_name(name) and (state / "zarr.json").is_file():
        return state
    raise StoreError(
        f"{path}: copied from a bucket without its arrays, which lie beside it there: copy the folder "
        f"{states_folder(path).name}/{name} instead."
    )


def _check_exists(path: Path) -> None:
    for attempt in range(_ATTEMPTS):
        if (path / "zarr.json").is_file():
            return
        moved = describe_moved_store(path)
        if not moved:
            break
        if attempt + 1 < _ATTEMPTS:  # perhaps a writer is just exchanging two stores
            time.sleep(_PAUSE)
    is_run = any((path / name).is_file() for name in ("run.json", "ensemble.json"))
    why = "it is a run of a model, which has no data." if is_run else "check the path."
    raise StoreError(f"{path}: no store there; {moved or why}")


def _pinned(path: Path, witness: str = "zarr.json") -> PinnedStore:
    try:
        return PinnedStore(path, witness=witness)
    except OSError as error:
        raise StoreError(
            f"{path}: was moved or removed while it was opened ({error.strerror}); open it again."
        ) from error


def _group(store: Path | PinnedStore | RemoteStore, path: str | os.PathLike, mode: Literal["r", "r+"]) -> zarr.Group:
    try:
        return zarr.open_group(store, mode=mode, zarr_format=3)
    except StoreError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, MemoryError, OSError) as error:
        raise StoreError(
            f"{path}: expected a Zarr group, which its zarr.json is not ({error!s:.200}): copy the store again."
        ) from error


def current_place(path: str | os.PathLike) -> str | os.PathLike:
    """Return where the current state of a store lies: several reads from there are of one state, or end in an error."""
    if is_url(path):
        return open_remote(str(path)).place
    return _local_place(path)


def _local_place(path: str | os.PathLike) -> Path:
    _check_exists(Path(path))
    place = Path(path).absolute()
    return _pointed(place, _group(place, path, "r"))


def kept_ids(path: str | os.PathLike) -> list[str]:
    """Return the identifiers of the states of a store that can be opened by `version`, the oldest first."""
    names = remote_states(str(path), {}) if is_url(path) else kept_states(Path(path))
    return list(dict.fromkeys(name[:ID_LENGTH] for name in names))


def store_attrs(path: str | os.PathLike, *, storage_options: Mapping[str, object] | None = None) -> dict[str, object]:
    """Return the attributes of a store, of any kind, without opening its arrays (StoreError if there is none)."""
    return dict(open_group(path, "r", storage_options).attrs)


def open_store(
    path: str | os.PathLike,
    *,
    kind: str,
    allow_partial: bool = False,
    dask: bool = True,
    storage_options: Mapping[str, object] | None = None,
    version: str | None = None,
) -> xr.Dataset:
    """Open a store lazily, with one Dask chunk for each shard.

    Parameters
    ----------
    path : path or URL
        The store; a URL such as ``s3://bucket/key`` is opened through fsspec, to read only.
    kind : str
        Expected kind: "cube", "maps" or "forcing".
    allow_partial : bool
        Also open a store that is not complete; what is not written is missing.
    dask : bool
        False leaves the arrays to xarray's own lazy indexing, for a selection before `dask_chunked`.
    storage_options : mapping, optional
        Options of fsspec for a URL; credentials are passed on, and neither stored in the Dataset nor logged.
    version : str, optional
        `store_id` of a state of the store that is kept, or its first characters; default: the current state.

    Returns
    -------
    xarray.Dataset
        Packed arrays open as float32; flags stay integers.

    Raises
    ------
    StoreError
        If there is no such store or state, or it cannot be reached, or it is of another kind, not complete, or lacks an
        array that it was written with; when values are read later, if the store was replaced, moved or removed since,
        or a file is missing that it was written with.
    """
    with damage_named(path):
        group = _pinned_group(path, kind, storage_options, version)
        attrs = dict(group.attrs)
    if attrs.get("kind") != kind:
        raise StoreError(
            f"{path}: expected a store of kind {kind!r}, found {attrs.get('kind')!r}{_instead(kind, attrs)}."
        )
    if attrs.get("complete", False) not in (True, False):  # a flipped bit: 1 is True, 3 is neither
        raise StoreError(f"{path}: its mark of completeness is {attrs['complete']!r}: copy the store again.")
    if not attrs.get("complete") and not allow_partial:
        raise StoreError(f"{path}: its writing was not finished; run the command that writes it again.")
    if isinstance(group.store, PinnedStore):
        _check_unchanged(group.store, attrs)
    elif isinstance(group.store, RemoteStore) and STORE_ID in attrs and (entries := group.store.manifest()):
        check_identifier(path, attrs, entries)
    with damage_named(path):
        ds = _decoded(path, group)
        return dask_chunked(ds) if dask else ds


def _instead(kind: str, attrs: Mapping[str, object]) -> str:
    """Return what to type where a store of another kind was found."""
    opened, written = _OPENED.get(str(attrs.get("kind"))), _WRITTEN.get(kind)
    python = f": fluxcube.{opened} opens it" if opened else ""
    return to_type(python=python, shell=f": pass one that `fluxcube {written}` wrote" if written else "")


def _check_unchanged(store: PinnedStore, attrs: Mapping[str, object]) -> None:
    """Compare the metadata of a store with its manifest (StoreError if they differ, or it was replaced meanwhile)."""

    def read(key: str) -> bytes | None:
        with damage_named(store.root, key):
            found = store.get_sync(key)
        return None if found is None else found.to_bytes()

    try:
        check_metadata(store.root, attrs, store.manifest(), read)
    except StoreError:
        read("zarr.json")  # raises the error of a store that was replaced, if that is why they differ
        raise


def _decoded(path: str | os.PathLike, group: zarr.Group) -> xr.Dataset:
    """Return the arrays of a group as CF describes them, lazily; arrays of text in RAM."""
    raw = xr.open_zarr(group.store, consolidated=False, zarr_format=3, chunks=None, decode_cf=False)
    check_structure(path, raw)
    _check_arrays(path, group, raw)
    if isinstance(group.store, PinnedStore):
        for meta in sorted(Path(group.store.root).glob("*/zarr.json")):
            if meta.parent.name not in raw.variables:
                group[meta.parent.name]  # xarray leaves out what it cannot read; this raises the error
    for variable in named_arrays(path, raw).variables.values():
        if "scale_factor" in variable.attrs:  # as JSON's float it would unpack to float64
            variable.attrs["scale_factor"] = np.float32(variable.attrs["scale_factor"])
    ds = xr.decode_cf(raw)
    check_times(path, ds)
    strings = {n: (v.dims, v.values.astype(object), v.attrs) for n, v in ds.variables.items() if v.dtype.kind == "T"}
    return ds.assign_coords(strings)


def _pinned_group(
    path: str | os.PathLike, kind: str, storage_options: Mapping[str, object] | None, version: str | None
) -> zarr.Group:
    """Open the group of a store so that a later read from a store that replaced it is an error."""
    if is_url(path):
        return _group(open_remote(str(path), storage_options, kind=kind, version=version), path, "r")
    state = disk_state(Path(path).absolute(), version)
    _check_exists(state)
    witness = _WITNESSES.get(kind, "zarr.json")
    if not (state / witness).is_file():  # a store of another kind, which the caller names
        witness = "zarr.json"
    group = _group(_pinned(state, witness), path, "r")
    pointed = _pointed(state, group)
    return group if pointed == state else _group(_pinned(pointed), path, "r")


def names_written(group: zarr.Group) -> frozenset[str]:
    """Return the names of the files that the manifest of an opened store lists; none if it has no manifest."""
    return group.store.written() if isinstance(group.store, PinnedStore | RemoteStore) else frozenset()


def _check_arrays(path: str | os.PathLike, group: zarr.Group, raw: xr.Dataset) -> None:
    """Raise a StoreError if an array that the manifest lists is not there, because a copy lost its metadata."""
    if missing := sorted(arrays_in(names_written(group)) - set(map(str, raw.variables))):
        raise StoreError(
            f"{path}: the metadata of {', '.join(missing)} are missing, which were there when the store was written: "
            "copy it again."
        )


def portable(ds: xr.Dataset) -> xr.Dataset:
    """Return an opened store in a form that xarray can write to NetCDF and to Zarr of any format and chunks.

    Chunks, shards and codecs of the store are left out of the encoding, and truth values of attributes become 0 or 1.

    Parameters
    ----------
    ds : xarray.Dataset
        Opened store.

    Returns
    -------
    xarray.Dataset
        With the same values; `ds` is not changed.
    """
    ds = ds.copy()
    for variable in ds.variables.values():
        variable.encoding = {key: value for key, value in variable.encoding.items() if key in _CF_ENCODING}
    ds.encoding = {}
    return ds.assign_attrs({k: int(v) if isinstance(v, bool | np.bool_) else v for k, v in ds.attrs.items()})


def dask_chunked(ds: xr.Dataset, *, begin: Mapping[str, int] | None = None, **longest: int) -> xr.Dataset:
    """Turn the lazy arrays of an opened store into Dask arrays, one chunk for each shard (or stored chunk).

    Parameters
    ----------
    ds : xarray.Dataset
        Result of ``open_store(..., dask=False)``, or a selection by slices of it.
    begin : mapping of str to int, optional
        Position of the first element of `ds` on the store's axis, by dimension: the first chunk is shorter, so that
        the others coincide with stored ones.
    **longest : int
        Maximum length of a chunk along a dimension, e.g. ``time=17532``.

    Returns
    -------
    xarray.Dataset
    """
    begin = begin or {}
    arrays = {}
    for name, array in ds.data_vars.items():
        stored = array.encoding.get("shards") or array.encoding["chunks"]
        sizes = dict(zip(array.dims, stored, strict=True))
        # The variable alone: chunking the array would also divide each of its coordinates, and drop the result.
        arrays[name] = array.variable.chunk(
            {
                dim: _lengths(array.sizes[dim], min(size, longest.get(str(dim), size)), begin.get(str(dim), 0))
                for dim, size in sizes.items()
            }
        )
    return ds.assign(arrays)


def _lengths(size: int, longest: int, begin: int) -> tuple[int, ...]:
    """Return the chunk lengths of a part that begins at `begin` on an axis cut every `longest` steps."""
    edges = [0, *range(longest - begin % longest, size, longest), size]
    return tuple(stop - start for start, stop in itertools.pairwise(edges))
