"""Digests of the inputs of a store that is written region by region, so that a stopped run is continued with them only.

The values of lazy arrays are not known, but the name of a Dask array is derived from all that its values depend on:
paths, sizes and times of change of files, options, and the bytes of arrays in RAM.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import numpy as np
import xarray as xr

#: Name of the attribute of maps that contains the digests.
DIGESTS = "input_digests"
#: Attribute of a forcing store that contains the digests of the inputs that it was computed from.
MADE_FROM = "made_from"
#: Coordinates that follow from others, or that are compared themselves.
_SKIPPED = ("latitude", "longitude", "time", "day", "surface_day", "cell_area")
_LENGTH = 16


def input_digests(inputs: xr.Dataset, settings: Mapping[str, object] | None = None) -> str:
    """Return a digest of each array of a Dataset and of each coordinate of its cells, as text.

    Parameters
    ----------
    inputs : xr.Dataset
        Forcing or maps, lazy or in RAM. Coordinates are read, lazy arrays are not.
    settings : mapping, optional
        Further values that results depend on, which JSON can represent.

    Returns
    -------
    str
        ``name=digest`` of each, separated by blanks.

    Examples
    --------
    >>> one = xr.Dataset({"predictors": ("time", np.arange(3.0))})
    >>> input_digests(one) == input_digests(one.copy(deep=True)), input_digests(one) == input_digests(one * 2)
    (True, False)
    """
    source = str(inputs.attrs.get(MADE_FROM, ""))
    digests = {str(name): _array_digest(array, source) for name, array in inputs.data_vars.items()}
    for name, coordinate in inputs.coords.items():
        if name not in _SKIPPED and not str(name).endswith("_bnds"):
            digests[str(name)] = _values_digest(coordinate.compute(scheduler="synchronous").values)
    for name, value in (settings or {}).items():
        digests[name] = _digest(json.dumps(value, sort_keys=True).encode())
    return " ".join(f"{name}={digests[name]}" for name in sorted(digests))


def differing_inputs(stored: object, current: object) -> list[str]:
    """Return the names of the inputs that differ between two results of `input_digests`; "inputs" if one is no such.

    Examples
    --------
    >>> differing_inputs("igbp=12 predictors=ab", "igbp=13 modis=cd predictors=ab")
    ['igbp', 'modis']
    >>> differing_inputs(None, "igbp=13")
    ['inputs']
    """
    if stored == current:
        return []
    old, new = _parsed(stored), _parsed(current)
    if not old or not new:
        return ["inputs"]
    return sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))


def _parsed(text: object) -> dict[str, str]:
    parts = [part.partition("=") for part in str(text or "").split()]
    return {name: digest for name, equals, digest in parts if equals}


def _array_digest(array: xr.DataArray, source: str) -> str:
    """Return the digest of an array: of its Dask name, or of its bytes; and of the axes in time that it has."""
    from dask.base import tokenize

    values = str(array.data.name) if array.chunks is not None else tokenize(array.values)
    dated = [dim for dim in array.dims if str(dim).endswith(("time", "day")) and dim in array.coords]
    axes = [_values_digest(array[dim].values) for dim in dated]
    return _digest(" ".join([source, values, *axes]).encode())


def _values_digest(values: np.ndarray) -> str:
    values = np.asarray(values)
    if values.dtype.kind in "OT":
        values = values.astype(object).astype("U")  # numpy below 2.4 cannot cast StringDType to it
    head = f"{values.dtype.str} {values.shape} ".encode()
    return _digest(head, np.ascontiguousarray(values).reshape(-1).view("u1").data)


def _digest(*parts: bytes | memoryview) -> str:
    digest = hashlib.blake2b(digest_size=_LENGTH // 2)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
