"""Copy ERA5 of a region and a period into a Zarr store whose chunks suit the reading of maps.

Stores such as ARCO-ERA5 have one hour of the globe in each chunk: a map of a region would read and decompress every
hour for each block of its cells. The copy reads each hour once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

import numpy as np
import xarray as xr

from fluxcube.errors import StoreError
from fluxcube.sources.era5.files import read_files
from fluxcube.sources.era5.open import ERA5Paths, storage_chunks
from fluxcube.sources.era5.parameters import STATIC, UNITS
from fluxcube.sources.era5.series import GRAVITY, Box, Files, Period
from fluxcube.stores.arrays import ArraySpec, create
from fluxcube.stores.ledger import done_regions, mark_done
from fluxcube.stores.resumable import (
    Place,
    address,
    attrs_of,
    creating,
    exists,
    finish_regions,
    remove_old,
    replacing_advice,
    target,
    writing,
)
from fluxcube.stores.shards import write_region

#: Side of a chunk in cells: the size of block that `open_forcing` reads by default.
_CELLS = 16
#: Maximum number of bytes of a parameter that are in RAM at once, and of hours in a chunk.
_BYTES, _HOURS = 256 << 20, 744


def copy_era5(
    source: ERA5Paths,
    store: str | os.PathLike,
    *,
    bbox: Box | None = None,
    time: Period | None = None,
    accumulation: str | None = None,
    allow_gaps: bool = False,
    check: bool = True,
    storage_options: Mapping[str, object] | None = None,
    parameters: Collection[str] | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
    store_options: Mapping[str, object] | None = None,
) -> Path | str:
    """Copy the ERA5 parameters that fluxcube uses, reading each stored hour once; the same call resumes after a kill.

    Parameters
    ----------
    source, bbox, time, accumulation, allow_gaps, check, storage_options
        As in `fluxcube.open_forcing`. For a finer grid later, choose a box that is one cell wider.
    store : path or URL
        Zarr store to write, also in a bucket (``s3://bucket/era5.zarr``; gs, az); `fluxcube.open_forcing` and
        `open_era5` read it like any other ERA5.
    parameters : collection of str, optional
        Short names of the parameters to copy, such as t2m and ssrd; default: all that fluxcube uses. Orography and
        land-sea mask are always copied.
    overwrite : bool
        Replace an existing store. Not in a bucket.
    progress : callable, optional
        Called as ``progress(done, total, text)`` after each step.
    store_options : mapping, optional
        Options of fsspec to write to a bucket; `storage_options` are those of the source.

    Returns
    -------
    Path or str
        The store, or its URL: float32 (time, latitude, longitude), in chunks of 16 x 16 cells.

    Raises
    ------
    SourceError
        As `open_era5`.
    StoreError
        If a store already exists at the path, or the disk is full.

    Examples
    --------
    >>> import fluxcube as fc
    >>> june = ("2019-06-01", "2019-06-30")
    >>> fc.copy_era5("arco-era5", "alps.zarr", bbox=(5, 43.5, 17, 48.5), time=june)  # doctest: +SKIP
    """
    files = read_files(
        source,
        bbox=bbox,
        time=time,
        accumulation=accumulation,
        allow_gaps=allow_gaps,
        check=check,
        storage_options=storage_options,
        parameters=parameters,
    )
    path, hours = target(store, store_options), _chunk_hours(files)
    with writing(path) as lock:
        _prepare(path, files, hours, overwrite)
        done = done_regions(path)
        tasks = list(_tasks(files, hours))
        for n, (name, start, stop) in enumerate(tasks, 1):
            if (key := f"{name}:{start}:{stop}") in done:
                continue
            values = files.read_cells(name, slice(start, stop), files.rows.low, files.columns.low)
            region = slice(start, stop), *(slice(0, len(axis)) for axis in (files.rows, files.columns))
            try:
                written = write_region(path, name, region, values.astype("float32"))
                mark_done(path, {key: int(np.isnan(values).sum())}, {key: written})
            except OSError as error:
                raise StoreError(f"{path}: {key}: {error}; solve this and call again: the copy resumes.") from error
            if progress is not None:
                progress(n, len(tasks), key)
        finish_regions(path, lock)
    return address(path)[0]


def _tasks(files: Files, hours: int) -> Iterator[tuple[str, int, int]]:
    """Yield the parameter, first stamp and stamp after the last of each chunk, in the order of time."""
    for start in range(0, files.count, hours):
        for name in files.parameters:
            yield name, start, min(start + hours, files.count)


def _chunk_hours(files: Files) -> int:
    """Return the number of hours in a chunk: whole chunks of the source where they fit."""
    limit = max(1, min(_HOURS, _BYTES // (8 * len(files.rows) * len(files.columns))))
    name, all_series = next(iter(files.parameters.items()))
    stored = (storage_chunks(all_series[0].source.open()[name]) or (1,))[0]
    return limit // stored * stored or limit


def _prepare(path: Place, files: Files, hours: int, overwrite: bool) -> None:
    """Ensure that `path` is an unfinished copy of exactly these files: a new one, or one to resume."""
    every = [series for all_series in files.parameters.values() for series in all_series]
    token = repr([[*s.source.identity, s.start, s.stop] for s in every])
    attrs = {
        "kind": "era5",
        "accumulation": files.accumulation,
        "hours": hours,
        "copied_from": token,
        "begin": str(files.begin),
        "count": files.count,
    }
    if exists(path):
        existing = attrs_of(path)
        same = all(existing.get(key) == value for key, value in attrs.items())
        if same and existing.get("complete") is not True and not overwrite:
            return
        if existing.get("kind") != "era5":
            raise StoreError(f"{path} exists and is not a copy of ERA5, and is not replaced: use another path.")
        if not overwrite:
            raise StoreError(f"{path} exists: {replacing_advice(path)}")
        remove_old(path)
    with creating(path) as building:
        create(building, _coords(files), _specs(files, hours), attrs)
        for name, values in _static(files).items():
            write_region(building, name, tuple(slice(0, n) for n in values.shape), values)


def _coords(files: Files) -> xr.Dataset:
    return xr.Dataset(
        coords={
            "time": ("time", files.stamps, {"long_name": "stamp, UTC", "standard_name": "time"}),
            "latitude": ("latitude", files.latitude, {"units": "degrees_north", "standard_name": "latitude"}),
            "longitude": ("longitude", files.longitude, {"units": "degrees_east", "standard_name": "longitude"}),
        }
    )


def _specs(files: Files, hours: int) -> dict[str, ArraySpec]:
    cells = len(files.rows), len(files.columns)
    shards = tuple(-(-n // _CELLS) * _CELLS for n in cells)
    specs = {
        name: ArraySpec(
            dims=("time", "latitude", "longitude"),
            shape=(files.count, *cells),
            dtype="float32",
            fill_value=np.nan,
            chunks=(hours, _CELLS, _CELLS),
            shards=(hours, *shards),
            attrs={"units": UNITS[name]},
            checksum=True,
        )
        for name in files.parameters
    }
    static = {
        name: ArraySpec(
            dims=("latitude", "longitude"),
            shape=cells,
            dtype="float32",
            fill_value=np.nan,
            chunks=cells,
            attrs={"units": STATIC[name]},
        )
        for name in _static(files)
    }
    return specs | static


def _static(files: Files) -> dict[str, np.ndarray]:
    """Return the geopotential and the land mask, if the files have them."""
    fields = {}
    if np.isfinite(files.elevation).any():
        fields["z"] = (files.elevation * GRAVITY).astype("float32")
    if files.masked:
        fields["lsm"] = files.land_fraction.astype("float32")
    return fields
