"""Write any Dataset as a NetCDF-4 file that follows CF-1.11, with bounded memory, and open such files again."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from dask.callbacks import Callback

from fluxcube.errors import ConfigError, StoreError, missing_package, overwrite_option
from fluxcube.exports.cf import as_cf
from fluxcube.stores.files import replacing

#: Value of missing data, as in tower files.
FILL = np.float32(-9999.0)
#: Maximum number of values of a NetCDF chunk: 4 MB.
_CHUNK = 1_000_000
#: Endings of NetCDF files.
SUFFIXES = (".nc", ".nc4")

Progress = Callable[[int, int, str], None]


def write_file(
    ds: xr.Dataset, path: str | os.PathLike, *, overwrite: bool = False, progress: Progress | None = None
) -> Path:
    """Write a Dataset as a NetCDF file, as ``ds.fluxcube.to_netcdf`` documents it."""
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"{path}: expected a file that ends in .nc, found {path.suffix or 'no ending'!r}: rename it.")
    if path.exists() and not overwrite:
        raise StoreError(f"{path} exists: pass {overwrite_option()} to replace it, or choose another path.")
    with replacing(path) as temporary:
        write_netcdf(ds, temporary, progress=progress)
    return path


def write_netcdf(ds: xr.Dataset, path: Path, *, progress: Progress | None = None) -> None:
    """Write a Dataset in its CF form, chunk by chunk.

    Raises
    ------
    MissingPackageError
        If netCDF4 is not installed.
    """
    try:
        import netCDF4  # noqa: F401
    except ImportError:
        raise missing_package("netCDF4", "grid", "writing NetCDF") from None
    out = as_cf(ds)
    encoding = {name: _encoding(str(name), out[name]) for name in out.variables}
    for array in out.variables.values():
        array.encoding = {}
    unlimited = ["time"] if "time" in out.dims else []
    options: dict[str, Any] = {"engine": "netcdf4", "format": "NETCDF4", "unlimited_dims": unlimited}
    if not any(array.chunks for array in out.variables.values()):
        out.to_netcdf(path, encoding=encoding, **options)
        return
    with _Reported(progress, path.name):
        out.to_netcdf(path, encoding=encoding, compute=False, **options).compute()


class _Reported(Callback):
    """Reports the tasks that Dask has finished, in hundredths."""

    def __init__(self, progress: Progress | None, name: str) -> None:
        super().__init__(start_state=self._begin, posttask=self._after)
        self._progress, self._name, self._total, self._last = progress, name, 1, 0

    def _begin(self, dsk: object, state: Mapping[str, Any]) -> None:
        self._total = max(1, sum(len(state[kind]) for kind in ("ready", "waiting", "running", "finished")))

    def _after(self, key: object, result: object, dsk: object, state: Mapping[str, Any], worker: object) -> None:
        share = 100 * len(state["finished"]) // self._total
        if self._progress is not None and share > self._last:
            self._last = share
            self._progress(min(share, 100), 100, "writing NetCDF")


def _encoding(name: str, array: xr.DataArray) -> dict[str, Any]:
    """Return how an array is stored: times as whole hours, numbers deflated in the chunks of Dask, text as it is."""
    if array.dtype.kind == "M":
        return _of_times(array)
    if array.dtype.kind not in "fiu" or not array.ndim:
        return {"_FillValue": None} if array.dtype.kind != "f" else {"_FillValue": None if name == "crs" else FILL}
    if name in array.dims or name.endswith(("_bnds", "cell_area")):
        return {"_FillValue": None}
    flags = {key: value for key, value in array.encoding.items() if key in ("dtype", "_FillValue")}
    fill = {"_FillValue": array.dtype.type(FILL) if array.dtype.kind == "f" else None}
    return {**fill, **flags, "zlib": True, "complevel": 4, "shuffle": True, "chunksizes": _chunks(array)}


def _of_times(array: xr.DataArray) -> dict[str, Any]:
    """Return the encoding of times: whole hours where they are, else whole minutes or seconds; of dates, days."""
    values = np.asarray(array.values).ravel()
    missing = bool(np.isnat(values).any())
    known = values[~np.isnat(values)].astype("datetime64[s]").astype(np.int64)
    unit = next(unit for unit, size in (("hours", 3600), ("minutes", 60), ("seconds", 1)) if not (known % size).any())
    form = {"units": f"{unit} since 1970-01-01 00:00:00", "calendar": "standard"}
    return {**form, "dtype": "float64"} if missing else {**form, "dtype": "int64", "_FillValue": None}


def _chunks(array: xr.DataArray) -> tuple[int, ...]:
    chunks = [max(part) for part in array.chunks] if array.chunks else list(array.shape)
    while chunks and np.prod(chunks) > _CHUNK:
        at = int(np.argmax(chunks))
        chunks[at] = -(-chunks[at] // 2)
    return tuple(max(1, size) for size in chunks)
