"""Damaged stores: whatever their metadata or chunks raise becomes a StoreError that names the store and the array.

The metadata of a store of this version are compared with its manifest when it is opened, so that a changed unit, scale
or shape is an error. Those of earlier versions have no manifest; only their structure is checked.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, cast

import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.core.indexing import ExplicitIndexer

from fluxcube.errors import FluxcubeError, StoreError
from fluxcube.stores.manifest import LEDGER, MANIFEST, STORE_ID, Entries, identifier

_log = logging.getLogger(__name__)

#: What zarr, its codecs, xarray and pandas raise if metadata or bytes are not those of a store.
_FAULTS = (
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    AssertionError,
    ImportError,
    MemoryError,
    OSError,
)
#: Maximum number of values of a coordinate, which is read when a store is opened, and of chunks of an array.
_MAX_COORDINATE, _MAX_CHUNKS = 1 << 28, 1 << 24
#: Coordinates that are times in every store.
_TIMES = ("time", "time_bnds", "time_start", "time_stop", "day", "surface_day")


class DamagedError(StoreError):
    """Metadata or values of a store cannot be read: another attempt may succeed where a disk failed for a moment."""


@contextmanager
def damage_named(place: object, what: str = "") -> Iterator[None]:
    """Raise errors of other libraries in the block as a DamagedError that names a store and a part of it.

    Parameters
    ----------
    place : path or URL
        The store.
    what : str
        The part that is read, such as ``"the array fluxes"``; by default the metadata.
    """
    try:
        yield
    except FluxcubeError:
        raise
    except _FAULTS as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise DamagedError(
            f"{place}: {what or 'the metadata'} cannot be read ({why:.300}): copy the store again, or build it again."
        ) from error


def check_metadata(
    place: object, attrs: Mapping[str, object], entries: Entries | None, read: Callable[[str], bytes | None]
) -> None:
    """Compare the attributes of a store and the metadata of its arrays with its manifest.

    Parameters
    ----------
    place : path or URL
        The store, for messages.
    attrs : mapping
        Its attributes; without ``store_id``, as those of earlier versions and of unfinished stores, nothing is checked.
    entries : mapping of str to (size, digest), or None
        Its manifest; None if it has none.
    read : callable
        Returns the content of a file of the store, None if there is none.

    Raises
    ------
    StoreError
        If they are other than those that were written.
    """
    if STORE_ID not in attrs:
        if entries is not None and attrs.get("complete"):
            raise StoreError(f"{place}: its store_id is missing, so its attributes were changed: copy the store again.")
        return
    if entries is None:  # a copy that xarray wrote has the attributes, and neither groups nor a manifest
        if any(read(f"{group}/zarr.json") is not None for group in (MANIFEST, LEDGER, "build")):
            raise StoreError(f"{place}: its manifest is missing, with which it was written: copy the store again.")
        _log.warning(
            "%s has no manifest, so that lost files and changed metadata are not noticed: copy it again", place
        )
        return
    check_identifier(place, attrs, entries)
    for key, (_, digest) in entries.items():
        if key.endswith("/zarr.json") and key.count("/") == 1:
            content = read(key)
            if content is None or hashlib.blake2b(content, digest_size=16).hexdigest() != digest:
                how = "is missing" if content is None else "was changed since the store was written"
                raise StoreError(f"{place}: {key} {how}: copy the store again.")


def check_identifier(place: object, attrs: Mapping[str, object], entries: Entries) -> None:
    """Compare the identifier of a store with its attributes and its manifest (StoreError if it is of other content)."""
    if identifier({key: list(entry) for key, entry in entries.items()}, attrs) != attrs[STORE_ID]:
        raise StoreError(
            f"{place}: its attributes or its manifest were changed since it was written (its store_id is that of other "
            "content): copy the store again, or build it again."
        )


def check_structure(place: object, ds: xr.Dataset) -> None:
    """Refuse arrays that no store has: too large coordinates, too many chunks, one dimension twice (StoreError).

    Parameters
    ----------
    place : path or URL
        The store, for messages.
    ds : xarray.Dataset
        Opened store before CF decoding.
    """
    for name, variable in ds.variables.items():
        if len(set(variable.dims)) < len(variable.dims):
            raise StoreError(f"{place}: the array {name} has the dimensions {variable.dims}: copy the store again.")
        stored = variable.encoding.get("shards") or variable.encoding.get("chunks") or variable.shape
        count = math.prod(-(-size // max(chunk, 1)) for size, chunk in zip(variable.shape, stored, strict=True))
        if count > _MAX_CHUNKS or (name in ds.coords and variable.size > _MAX_COORDINATE):
            raise StoreError(
                f"{place}: the array {name} has {variable.size} values in {count} files, more than any store has: copy "
                "the store again."
            )


def check_times(place: object, ds: xr.Dataset) -> None:
    """Refuse times that are none or out of range (StoreError): units that were changed decode to other types."""
    for name, variable in ds.variables.items():
        units = str(variable.encoding.get("units", variable.attrs.get("units", "")))
        if (" since " in units or name in _TIMES) and variable.dtype.kind != "M":
            raise StoreError(f"{place}: expected times in {name}, found the unit {units[:60]!r}: copy the store again.")


def named_arrays(place: object, ds: xr.Dataset) -> xr.Dataset:
    """Let the lazy arrays of an opened store raise a StoreError where their chunks are damaged; return the Dataset."""
    for name, variable in ds.variables.items():
        outer: Any = variable._data
        while hasattr(inner := getattr(outer, "array", None), "array"):
            outer = inner
        if isinstance(inner, BackendArray):
            outer.array = _NamedArray(cast(_Array, inner), str(place), str(name))
    return ds


class _Array(Protocol):
    """What xarray's arrays of a store have."""

    shape: tuple[int, ...]
    dtype: np.dtype

    def __getitem__(self, key: ExplicitIndexer) -> np.ndarray: ...

    async def async_getitem(self, key: ExplicitIndexer) -> np.ndarray: ...


class _NamedArray(BackendArray):
    """Lazy array of a store, whose errors name the store and the array."""

    def __init__(self, inner: _Array, place: str, name: str) -> None:
        self._inner, self._place, self._name = inner, place, name
        self.shape, self.dtype = inner.shape, inner.dtype

    @property
    def inner(self) -> _Array:
        """The array below this one, which has the chunks and the path of the store."""
        return self._inner

    def __getitem__(self, key: ExplicitIndexer) -> np.ndarray:
        with damage_named(self._place, f"the array {self._name}"):
            return self._inner[key]

    async def async_getitem(self, key: ExplicitIndexer) -> np.ndarray:
        """Return what indexing does, for xarray's asynchronous reading."""
        with damage_named(self._place, f"the array {self._name}"):
            return await self._inner.async_getitem(key)
