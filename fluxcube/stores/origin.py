"""The store that a Dataset was opened from, and whether the Dataset still has the content of that store.

Attributes survive most operations of xarray, and a Dataset whose values were changed would claim to be the store. The
identifier of a store is therefore recorded only for a Dataset whose arrays, coordinates and attributes are those that
were opened. Any other Dataset is recorded as derived from the store.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import xarray as xr

from fluxcube.errors import ConfigError, StoreError
from fluxcube.stores.manifest import STORE_ID
from fluxcube.stores.reading import is_url, store_attrs

#: Attribute, and key of records, of what was computed from a store, instead of the identifier of the store.
DERIVED_FROM = "derived_from"
_OPENED = "fluxcube_opened"
#: Number of digits of an identifier in messages.
_SHORT = 12


def as_opened(ds: xr.Dataset) -> xr.Dataset:
    """Return an opened Dataset with a note, in its encoding, of what it contains, so that `origin` notices changes.

    Parameters
    ----------
    ds : xr.Dataset
        As its store was opened, or a selection of it.

    Returns
    -------
    xr.Dataset
        The same; without a change if its store has no identifier.
    """
    if STORE_ID in ds.attrs:
        ds.encoding = {**ds.encoding, _OPENED: _content(ds)}
    return ds


def derived(ds: xr.Dataset) -> xr.Dataset:
    """Return a Dataset whose attributes say that it was computed from its store, not that it is the store."""
    attrs = derived_attrs(ds.attrs)
    if attrs == ds.attrs:
        return ds
    ds = ds.copy()
    ds.attrs = attrs
    return ds


def derived_attrs(attrs: Mapping) -> dict:
    """Return attributes for a Dataset that is computed from one with `attrs`.

    Examples
    --------
    >>> derived_attrs({"title": "a cube", "store_id": "ab12"})
    {'title': 'a cube', 'derived_from': 'ab12'}
    """
    names = {STORE_ID: DERIVED_FROM}
    return {names.get(key, key): value for key, value in attrs.items()}


def origin(ds: xr.Dataset | xr.DataArray) -> dict[str, str]:
    """Return the record of the store of a Dataset.

    Parameters
    ----------
    ds : xr.Dataset or xr.DataArray
        A cube, forcing or maps; an array alone is always derived.

    Returns
    -------
    dict
        ``store_id`` if the Dataset is as it was opened, or opened as a selection; ``derived_from`` if it was changed,
        loaded or computed since; nothing if it is of no store, or of one without an identifier.

    Examples
    --------
    >>> ds = as_opened(xr.Dataset({"fluxes": ("time", np.arange(3.0))}, attrs={"store_id": "ab12"}))
    >>> origin(ds), origin(ds.assign(fluxes=ds.fluxes * 2)), origin(xr.Dataset())
    ({'store_id': 'ab12'}, {'derived_from': 'ab12'}, {})
    """
    store = ds.attrs.get(STORE_ID)
    if store is None:
        source = ds.attrs.get(DERIVED_FROM)
        return {} if source is None else {DERIVED_FROM: str(source)}
    unchanged = isinstance(ds, xr.Dataset) and ds.encoding.get(_OPENED) == _content(ds)
    return {STORE_ID if unchanged else DERIVED_FROM: str(store)}


def origin_of_path(path: object) -> dict[str, str]:
    """Return the record of a store on a disk; nothing for files, URLs, and stores without an identifier."""
    if not isinstance(path, str | os.PathLike) or is_url(path) or not (Path(path) / "zarr.json").is_file():
        return {}
    store = None
    with contextlib.suppress(StoreError):  # a Zarr store of others, which need not be a group
        store = store_attrs(path).get(STORE_ID)
    return {} if store is None else {STORE_ID: str(store)}


def source_of(record: Mapping) -> str:
    """Return the identifier of the store in a record of `origin`; "" if there is none."""
    return str(record.get(STORE_ID) or record.get(DERIVED_FROM) or "")


def other_source(was: Mapping, now: Mapping) -> str:
    """Return how the stores of two records differ, as text; "" if they do not, or if one is not known.

    Examples
    --------
    >>> other_source({"store_id": "ab12"}, {"derived_from": "cd34"})
    'it was store_id ab12, it is store_id cd34'
    >>> other_source({}, {"store_id": "ab12"})
    ''
    """
    old, new = source_of(was), source_of(now)
    if not old or not new or old == new:
        return ""
    return f"it was {STORE_ID} {old[:_SHORT]}, it is {STORE_ID} {new[:_SHORT]}"


def check_origin(result: object, ds: xr.Dataset, record: Mapping[str, str]) -> None:
    """Refuse a result of another store, or of another state of it, than that of a Dataset.

    Parameters
    ----------
    result : Path or str
        Where the result is.
    ds : xr.Dataset
        What it would be continued with.
    record : mapping
        Store that it was computed from, as `origin` returns it.

    Raises
    ------
    ConfigError
        If both are known, and differ.
    """
    if other := other_source(record, origin(ds)):
        raise ConfigError(
            f"{result} was computed from another cube, or another state of it ({other}). Open that state, remove the "
            "file, or write to another folder."
        )


def named(record: Mapping, of: str) -> dict[str, str]:
    """Return a record of `origin` as attributes of a result that was computed from several stores.

    Examples
    --------
    >>> named({"store_id": "ab12"}, "forcing"), origin_of({"forcing_store_id": "ab12", "title": "maps"}, "forcing")
    ({'forcing_store_id': 'ab12'}, {'store_id': 'ab12'})
    """
    return {f"{of}_{key}": str(record[key]) for key in (STORE_ID, DERIVED_FROM) if record.get(key)}


def origin_of(attrs: Mapping, of: str) -> dict[str, str]:
    """Return the record of one of the stores that a result was computed from, from its attributes (`named`)."""
    return {key: str(attrs[f"{of}_{key}"]) for key in (STORE_ID, DERIVED_FROM) if f"{of}_{key}" in attrs}


def is_named(name: str) -> bool:
    """Return whether an attribute records the store that a result was computed from (`named`)."""
    return name.endswith((f"_{STORE_ID}", f"_{DERIVED_FROM}"))


def _content(ds: xr.Dataset) -> str:
    """Return a digest of the names of lazy arrays, of the values of others, and of all attributes."""
    total = hashlib.blake2b(digest_size=16)
    for name in sorted(map(str, ds.variables)):
        variable = ds.variables[name]
        total.update(json.dumps([name, variable.dims, variable.shape, variable.attrs], default=str).encode())
        if variable.chunks is not None:
            total.update(str(variable.data.name).encode())
        else:
            total.update(_bytes(variable.values))
    total.update(json.dumps(ds.attrs, sort_keys=True, default=str).encode())
    return total.hexdigest()


def _bytes(values: np.ndarray) -> memoryview:
    values = np.ascontiguousarray(values.astype(object).astype("U") if values.dtype.kind in "OT" else values)
    return values.reshape(-1).view("u1").data
