"""Write and open forcing stores: forcing cubes computed once from reanalysis and rasters, compressed for making maps.

A file contains a block of cells for three months. Blocks without land are not stored.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TypeGuard

import dask
import numpy as np
import xarray as xr
from dask.system import CPU_COUNT

import fluxcube.exports.accessor  # noqa: F401  (registers ds.fluxcube)
from fluxcube.cubes.forcing_surface_grid import DAY as SURFACE_DAY
from fluxcube.errors import ConfigError, StoreError, unknown
from fluxcube.resolution import DAILY, resolution_of
from fluxcube.schema import validate_forcing
from fluxcube.stores.arrays import ArraySpec, create
from fluxcube.stores.identity import MADE_FROM, differing_inputs, input_digests
from fluxcube.stores.ledger import done_regions, mark_done
from fluxcube.stores.manifest import STORE_ID, Entries
from fluxcube.stores.origin import as_opened, derived_attrs
from fluxcube.stores.reading import is_url, open_store, portable, store_attrs
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

#: Cells along each side of a block, unless the forcing's own chunks have one size.
CELLS = 16
#: Number of hours that are decompressed at once, and of hours in a file, which is what `open_forcing` reads at once.
_HOURS, _SHARD_HOURS = 96, 2208
#: The same for days: of chips, and of a daily forcing.
_DAYS, _SHARD_DAYS = 16, 96
#: Reflectance is stored in steps of 0.0001, as in the MODIS products and tower cubes.
_SCALE, _FILL = 1e-4, -32768

_CELL_DIMS = ("latitude", "longitude")
Task = tuple[str, tuple[slice, ...]]


def write_forcing(
    forcing: xr.Dataset,
    store: str | os.PathLike,
    *,
    overwrite: bool = False,
    workers: int | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    storage_options: Mapping[str, object] | None = None,
) -> Path | str:
    """Write a forcing cube to a compressed store, from which maps are computed faster than from the original files.

    Values of predictors are stored exactly, those of chips in steps of 0.0001. If the process is killed, the same call
    resumes the work.

    Parameters
    ----------
    forcing : xr.Dataset
        As `fluxcube.open_forcing` returns it.
    store : path or URL
        Folder to write; its parent must exist. Or a name in a bucket, such as ``s3://bucket/forcing.zarr`` (also gs,
        az).
    overwrite : bool
        Replace an existing forcing store. Not in a bucket.
    workers : int, optional
        Number of threads, each of which computes a block; default: the number of processors.
    progress : callable, optional
        ``progress(done, total, text)`` after each block.
    storage_options : mapping, optional
        Options of fsspec for a bucket.

    Returns
    -------
    Path or str
        The store, or its URL; `fluxcube.open_forcing` opens it.

    Raises
    ------
    SchemaError
        If `forcing` is not a forcing cube.
    StoreError
        If `store` exists and cannot be replaced, or the disk is full.

    Examples
    --------
    >>> import tempfile
    >>> import fluxcube as fc
    >>> from fluxcube.simulation.example import example_forcing
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_forcing(example_forcing(days=2), f"{folder}/forcing.zarr")
    ...     dict(fc.open_forcing(path).predictors.sizes)
    {'latitude': 3, 'longitude': 4, 'time': 48, 'variable': 6}
    """
    forcing, path = validate_forcing(forcing), target(store, storage_options)
    specs = _specs(forcing)
    with writing(path) as lock:
        _prepare(path, forcing, specs, overwrite)
        done = done_regions(path)
        tasks = {_key(task): task for task in _tasks(forcing, specs)}
        todo = [task for key, task in tasks.items() if key not in done]
        count = len(tasks) - len(todo)
        for task in _in_flight(forcing, path, todo, workers or CPU_COUNT):
            count += 1
            if progress is not None:
                progress(count, len(tasks), task[0])
        finish_regions(path, lock, {"complete": 1})
    return address(path)[0]


def is_forcing_store(path: object, storage_options: Mapping[str, object] | None = None) -> TypeGuard[str | os.PathLike]:
    """Return whether a path is a store that `write_forcing` wrote."""
    if not isinstance(path, (str, os.PathLike)):
        return False
    if not is_url(path) and not (Path(path) / "zarr.json").is_file():
        return False
    try:
        return store_attrs(path, storage_options=storage_options).get("kind") == "forcing"
    except StoreError:
        return False


def open_forcing_store(
    store: str | os.PathLike,
    *,
    predictors: str | Sequence[str] | None = None,
    bbox: tuple[float, float, float, float] | None = None,
    time: slice | tuple | None = None,
    storage_options: Mapping[str, object] | None = None,
) -> xr.Dataset:
    """Open a store that `write_forcing` wrote, lazily, in Dask chunks of a few days or weeks.

    Parameters
    ----------
    store : path or URL
        The store.
    predictors : str or sequence of str, optional
        Predictors to select.
    bbox : (west, south, east, north), optional
        Degrees; selects cells whose centres lie inside. A box with west > east crosses the antimeridian.
    time : slice or (start, stop), optional
        Time steps to select, both ends included.
    storage_options : mapping, optional
        Options of fsspec to reach a URL.

    Returns
    -------
    xr.Dataset
        A forcing cube.

    Raises
    ------
    StoreError
        If the store does not exist, or is not finished.
    ConfigError
        If the region or the period lies outside it.
    UnknownNameError
        If it lacks one of `predictors`.
    """
    # Names of Dask arrays contain the path, and a stopped run must find the same one from any folder.
    place = store if is_url(store) else Path(store).absolute()
    ds = open_store(place, kind="forcing", dask=False, storage_options=storage_options)
    ds = ds.assign(
        {name: array.chunk(_dask_chunks(array), token=_token(place, ds, name)) for name, array in ds.data_vars.items()}
    )
    if bbox is not None:
        ds = _inside(ds, bbox)
    if time is not None:
        ds = _period(ds, time if isinstance(time, slice) else slice(*time))
    if predictors is not None:
        names = [predictors] if isinstance(predictors, str) else list(predictors)
        for name in names:
            if name not in ds["variable"].values:
                raise unknown("predictor of this forcing", name, ds["variable"].values)
        ds = ds.sel(variable=names)
    return as_opened(validate_forcing(portable(ds)))


def _token(place: str | os.PathLike, ds: xr.Dataset, name: object) -> str | None:
    """Return what names the Dask array of a store at a URL: its content, not the credentials that open it.

    None for a store on a disk, which its path and its times of change name.
    """
    if not is_url(place):
        return None
    return f"{place} {name} {ds.attrs.get(STORE_ID)} {ds.attrs.get(MADE_FROM)}"


def _dask_chunks(array: xr.DataArray) -> dict[str, int]:
    """Return the sizes of an array's Dask chunks: several stored ones along time, to keep global graphs small."""
    stored = dict(zip(map(str, array.dims), array.encoding["chunks"], strict=True))
    return {dim: size * {"time": 4, "day": 2, SURFACE_DAY: 2}.get(dim, 1) for dim, size in stored.items()}


def _inside(ds: xr.Dataset, bbox: tuple[float, float, float, float]) -> xr.Dataset:
    west, south, east, north = bbox
    width = (east - west) % 360.0 if east != west and (east - west) % 360.0 else (0.0 if east == west else 360.0)
    # The longitude of a cell may be written as 350 or as -10; counted from the western edge both are the same.
    eastward = np.round((ds.longitude.values - west) % 360.0, 9)
    columns = np.flatnonzero(eastward <= width)
    rows = np.flatnonzero((ds.latitude.values >= south) & (ds.latitude.values <= north))
    if not len(rows) or not len(columns):
        lat, lon = ds.latitude.values, ds.longitude.values
        raise ConfigError(
            f"bbox {bbox} (west, south, east, north) contains no cell of the forcing, which has latitudes "
            f"{lat.min():g} to {lat.max():g} and longitudes {lon.min():g} to {lon.max():g}."
        )
    columns = columns[np.argsort(eastward[columns], kind="stable")]
    return ds.isel(latitude=_slice(rows), longitude=_slice(columns))


def _slice(index: np.ndarray) -> slice | np.ndarray:
    """Return consecutive indices as a slice, which keeps stored chunks whole."""
    return slice(index[0], index[-1] + 1) if (np.diff(index) == 1).all() else index


def _period(ds: xr.Dataset, time: slice) -> xr.Dataset:
    cut = ds.sel(time=time)
    if not cut.sizes["time"]:
        first, last = ds.time.values[[0, -1]].astype("datetime64[h]")
        raise ConfigError(f"time={time} selects no hour: the forcing runs from {first} to {last}.")
    return cut


def _specs(forcing: xr.Dataset) -> dict[str, ArraySpec]:
    """Return the specifications of the arrays of a store."""
    specs = {}
    for name, array in forcing.data_vars.items():
        packed = {"scale_factor": _SCALE, "_FillValue": _FILL} if name == "modis" else {}
        steps = [_sizes(forcing, str(dim), size) for dim, size in array.sizes.items()]
        specs[str(name)] = ArraySpec(
            dims=tuple(map(str, array.dims)),
            shape=array.shape,
            dtype="int16" if packed else "float32",
            fill_value=_FILL if packed else np.nan,
            chunks=tuple(read for read, _ in steps),
            shards=tuple(whole for _, whole in steps),
            attrs=dict(array.attrs) | packed,
            checksum=True,
        )
    return specs


def _sizes(forcing: xr.Dataset, dim: str, size: int) -> tuple[int, int]:
    """Return the lengths, along a dimension, of what is decompressed at once and of a file."""
    if dim in _CELL_DIMS:
        return (_block(forcing, dim),) * 2
    if dim in ("day", SURFACE_DAY) or (dim == "time" and resolution_of(forcing) is DAILY):
        return _DAYS, _SHARD_DAYS
    return (_HOURS, _SHARD_HOURS) if dim == "time" else (size, size)


def _block(forcing: xr.Dataset, dim: str) -> int:
    """Return the number of cells along a side of a block."""
    sizes = forcing.predictors.chunksizes.get(dim, ()) if forcing.predictors.chunks else ()
    return int(sizes[0]) if sizes and len(set(sizes[:-1])) <= 1 and sizes[0] <= 4 * CELLS else CELLS


def _prepare(path: Place, forcing: xr.Dataset, specs: Mapping[str, ArraySpec], overwrite: bool) -> None:
    """Create the store at `path`, unless it contains an unfinished store of the same forcing."""
    token = input_digests(forcing)
    if exists(path):
        there = attrs_of(path)
        if there.get("kind") != "forcing":
            raise StoreError(f"{path} exists and is not a forcing store, and is not replaced: use another path.")
        changed = differing_inputs(there.get(MADE_FROM), token)
        if not there.get("complete") and not changed and not overwrite:
            return
        if not overwrite:
            why = f" (it was begun with other inputs: {', '.join(changed)} differ)" if not there.get("complete") else ""
            raise StoreError(f"{path} exists{why}: {replacing_advice(path)}")
        remove_old(path)
    coords = forcing.coords.to_dataset().compute()
    with creating(path) as building:
        create(building, coords, specs, {**derived_attrs(forcing.attrs), "kind": "forcing", MADE_FROM: token})


def _tasks(forcing: xr.Dataset, specs: Mapping[str, ArraySpec]) -> Iterator[Task]:
    """Yield the array name and the bounds of every file that contains land."""
    land = forcing.land_fraction.transpose(*_CELL_DIMS).values > 0
    for name, spec in specs.items():
        parts = [
            [slice(at, min(at + step, size)) for at in range(0, size, step)]
            for step, size in zip(spec.shards or spec.shape, spec.shape, strict=True)
        ]
        for bounds in itertools.product(*parts):  # cells vary slowest: files of one block of cells follow each other
            if land[bounds[:2]].any():
                yield name, bounds


def _key(task: Task) -> str:
    name, bounds = task
    return f"{name}:" + ",".join(f"{part.start}:{part.stop}" for part in bounds)


def _in_flight(forcing: xr.Dataset, path: Place, todo: Sequence[Task], workers: int) -> Iterator[Task]:
    """Write files, `workers` at a time; yield each one that is written and recorded."""
    coming = iter(todo)
    running: dict[Future[Entries], Task] = {}
    with ThreadPoolExecutor(workers, "fluxcube-forcing") as pool:
        try:
            while True:
                for task in itertools.islice(coming, workers - len(running)):
                    running[pool.submit(_write, forcing, path, task)] = task
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    task = running.pop(future)
                    try:
                        mark_done(path, {_key(task): 0}, {_key(task): future.result()})
                    except OSError as error:
                        raise StoreError(
                            f"{path}: {_key(task)}: {error}; run the same call again to resume."
                        ) from error
                    yield task
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            ended = [future for future in running if not future.cancelled() and future.exception() is None]
            with contextlib.suppress(OSError):  # after Ctrl-C, or an error of another file, such as a full disk
                files = {_key(running[future]): future.result() for future in ended}
                mark_done(path, dict.fromkeys(files, 0), files)


def _write(forcing: xr.Dataset, path: Place, task: Task) -> Entries:
    name, bounds = task
    array = forcing[name].data[bounds]
    (values,) = dask.compute(array, scheduler="synchronous")
    values = np.asarray(values, np.float32)
    if name == "modis":
        values = np.where(np.isfinite(values), np.rint(values / np.float32(_SCALE)), _FILL).astype(np.int16)
    return write_region(path, name, bounds, values, durable=True)
