"""Write maps to a Zarr store, region by region, and open them.

A stopped run is continued by the same call; a region that fails does not stop the others.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import xarray as xr

import fluxcube.exports.accessor  # noqa: F401  (registers ds.fluxcube)
from fluxcube.errors import ConfigError, StoreError
from fluxcube.exports.netcdf import SUFFIXES
from fluxcube.maps.inputs import expected_files, input_paths
from fluxcube.maps.netcdf import files_of, open_exported
from fluxcube.maps.regions import DIMS, Region, even_chunks, region_tasks, regions, sent_bytes
from fluxcube.maps.workers import connected, workers_for
from fluxcube.maps.writer import ProgressReport, RegionWriter
from fluxcube.resolution import resolution_of
from fluxcube.schema import DEVICE, REGION_BYTES, validate_maps
from fluxcube.sources.products.open import open_product
from fluxcube.stores.arrays import ArraySpec, create
from fluxcube.stores.identity import DIGESTS, differing_inputs, input_digests
from fluxcube.stores.ledger import done_regions, mark_done
from fluxcube.stores.objects import is_bucket
from fluxcube.stores.origin import as_opened, derived_attrs, is_named, origin_of, other_source
from fluxcube.stores.reading import is_url, open_store, portable
from fluxcube.stores.resumable import (
    Place,
    address,
    creating,
    exists,
    finish_regions,
    remove_new,
    remove_old,
    replacing_advice,
    target,
    writing,
)

if TYPE_CHECKING:
    from distributed import Client

logger = logging.getLogger(__name__)

#: Maps that are open, or the path or URL of their store.
Maps: TypeAlias = xr.Dataset | str | os.PathLike

#: Maximum number of time steps that a reader decompresses at once: ten days of hours.
_CHUNK_STEPS = 240


def write_maps(
    maps: xr.Dataset,
    store: str | os.PathLike,
    *,
    overwrite: bool = False,
    resume: bool = True,
    workers: int | None = None,
    scheduler: str | Client | None = None,
    patience: float | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    storage_options: Mapping[str, object] | None = None,
) -> Path | str:
    """Compute maps and write them to a Zarr store, region by region.

    A region is one Dask chunk of the maps and one shard of the store; a task computes it in one thread and writes it
    on the worker that computed it. New tasks start as others end, so the use of RAM does not grow with the length of
    the maps. A region is recorded in the store after it is on the disk: the same call after a kill computes only the
    others, and the result is the same bit by bit. A region that fails is tried three times; the others are written
    anyway.

    Parameters
    ----------
    maps : xr.Dataset
        Result of `fluxcube.upscale`. Regions without land are not computed.
    store : path or URL
        Folder to write; its parent must exist, and all workers of a cluster must see it. Or a name in a bucket, such as
        ``s3://bucket/maps.zarr`` (also gs, az), which all workers of a cluster must reach.
    overwrite : bool
        Replace existing maps. They are removed at the start. Not in a bucket.
    resume : bool
        Continue an unfinished store of the same maps.
    workers : int, optional
        Number of regions computed at once on this machine; by default its number of processors, or fewer if it has
        little RAM. With GPUs they are divided among one process per GPU, whose threads read while it computes.
    scheduler : str or distributed.Client, optional
        Address of a Dask scheduler, "tcp://..."; "processes" for a LocalCluster on this machine; "threads" for
        threads of this process. Default: the active Dask client, else processes, or threads for a small job and for a
        forcing in RAM (`load`, `persist`), which processes would receive with each task.
    patience : float, optional
        Seconds to wait for a scheduler (by default 8), for its first worker (180), and, when all workers are lost or
        silent, for a sign of life of one (900).
    progress : callable, optional
        ``progress(done, total, text)`` at the start and after each region; the text reports the land cells times
        time steps that are done, their number per second and the time left; at the start, the workers and the address
        of the dashboard.
    storage_options : mapping, optional
        Options of fsspec for a bucket. They are sent to the workers with the tasks; the store does not contain them.

    Returns
    -------
    Path or str
        The finished store, or its URL; `open_maps` opens it.

    Raises
    ------
    StoreError
        If `store` exists and is finished, was begun with another model, grid, time or other inputs (files that changed,
        another class), or was not written by fluxcube; if another
        run is writing it; if the disk is full, the scheduler is gone, or regions failed: written regions stay.
    ConfigError
        If the chunks of the maps are not of one size along each dimension, or do not fit in RAM; if a process that
        computes has no such device as the maps require, or, with device="auto", some have a GPU and others do not.

    Examples
    --------
    >>> import tempfile
    >>> from fluxcube.simulation.example import example_maps
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_maps(example_maps(days=2).chunk(time=24), f"{folder}/maps.zarr", scheduler="threads")
    ...     sorted(open_maps(path).data_vars)
    ['GPP_NT', 'NEE', 'RECO_NT']
    """
    maps, path = even_chunks(validate_maps(maps)), target(store, storage_options)
    task_bytes, device = int(maps.attrs.pop(REGION_BYTES, 0)), str(maps.attrs.pop(DEVICE, "cpu"))
    every = regions(maps)
    with connected(scheduler, patience) as client, writing(path) as lock:  # no store is made for one that is not there
        is_new = _prepare(path, maps, len(every), overwrite, resume)
        done = done_regions(path)
        todo = [region for key, region in every.items() if key not in done]
        ocean = {region.key: 0 for region in todo if not region.land}
        mark_done(path, ocean)
        todo = [region for region in todo if region.land]
        cell_steps = sum(region.land for region in todo)
        step = resolution_of(maps).steps
        report = ProgressReport(progress, every.values(), todo, step)
        used: dict[str, object] = {}
        if todo:
            try:
                sent = functools.partial(_sent_bytes, maps, path, todo)
                inputs = functools.partial(_inputs, maps, path, todo)
                with workers_for(client, workers, cell_steps, task_bytes, path, sent, patience, device, inputs) as team:
                    report.begin(team.text)
                    writer = RegionWriter(maps, path, team, report)
                    writer.write(todo)
                    used = _used(team.devices, writer.precision_error)
            except ConfigError:  # before the first task: an empty store would block a call with other chunks
                if is_new:
                    remove_new(path)
                raise
        missing = sum(done_regions(path).values())
        land = sum(region.land for region in every.values())
        counts: dict[str, object] = {f"land_cell_{step}": land, f"missing_cell_{step}": missing, "complete": 1}
        finish_regions(path, lock, counts | used)
    return address(path)[0]


def is_finished(maps: xr.Dataset, store: str | os.PathLike) -> bool:
    """Return whether a store contains these maps completely: of the same model, inputs, grid, time and chunks."""
    path = target(store)
    if not exists(path):
        return False
    url, options = address(path)
    stored = open_store(url, kind="maps", allow_partial=True, storage_options=options)
    described = even_chunks(maps)
    for name in (REGION_BYTES, DEVICE):  # which tell how maps are computed, and not what they are
        described.attrs.pop(name, None)
    return bool(stored.attrs.get("complete")) and _difference(stored, described) is None


def _used(devices: Sequence[str], precision_error: float | None) -> dict[str, object]:
    """Return attributes that record what computed maps: devices, and the error of a precision below float32."""
    used: dict[str, object] = {DEVICE: ", ".join(devices)} if devices else {}
    return used if precision_error is None else used | {"precision_error": round(precision_error, 6)}


def as_maps(maps: Maps) -> xr.Dataset:
    """Return maps: open ones as they are, those of a path or URL opened lazily (ConfigError if it is neither)."""
    if isinstance(maps, str | os.PathLike):
        return open_maps(maps)
    if isinstance(maps, xr.Dataset):
        return maps
    raise ConfigError(f"maps: expected a Dataset, or the path or URL of maps, found {type(maps).__name__}.")


def open_maps(
    store: str | os.PathLike | Iterable[str | os.PathLike],
    *,
    partial: bool = False,
    storage_options: Mapping[str, object] | None = None,
) -> xr.Dataset:
    """Open maps: a store that `write_maps` wrote, NetCDF files that `export_maps` wrote, or a published product.

    Parameters
    ----------
    store : path, URL, pattern, or list of paths
        Folder of a store, or its URL, such as ``s3://bucket/maps.zarr``; or NetCDF files: one, a folder or pattern of
        them (``"products/*_monthly.nc"``), or a list. Files that fluxcube did not write are opened by
        `fluxcube.open_product`, which has further options.
    partial : bool
        Also open an unfinished store; regions that are not written are NaN.
    storage_options : mapping, optional
        Options of fsspec for a URL.

    Returns
    -------
    xr.Dataset
        Lazy maps, one variable (time, latitude, longitude) for each flux. The attribute `complete` is 1, or 0 for an
        unfinished store. xarray can write them, or parts of them, to NetCDF and Zarr. Maps from exported files have the
        names, units and times of those that were exported, from north to south and from west to east, and the
        identifier of their store as `derived_from`: a file is not the store.

    Raises
    ------
    StoreError
        If there is no such store, or it is unfinished; if files do not belong together.
    SourceError
        If files are neither exported maps nor a product that is recognised.

    Examples
    --------
    >>> import tempfile
    >>> from fluxcube.maps.export import export_maps
    >>> from fluxcube.simulation.example import example_maps
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     files = export_maps(example_maps(days=2), folder)
    ...     sorted(open_maps(folder).load().data_vars)
    ['GPP_NT', 'NEE', 'RECO_NT']
    """
    if files := files_of(store):
        exported = open_exported(files)
        return open_product(files) if exported is None else exported
    if not isinstance(store, str | os.PathLike):
        raise StoreError("expected a store of maps, or NetCDF files (.nc), found an empty list of files.")
    if _is_foreign(store):
        return open_product(store, storage_options=storage_options)
    opened = open_store(store, kind="maps", allow_partial=partial, storage_options=storage_options)
    ds = as_opened(portable(validate_maps(opened)))
    if not ds.attrs.get("complete") and (is_bucket(store) or not is_url(store)):  # others do not list their objects
        ds.attrs["regions_done"] = len(done_regions(target(store, storage_options)))
        logger.warning(
            "%s is not complete: %d of %s regions are written", store, ds.attrs["regions_done"], ds.attrs["regions"]
        )
    return ds


def _is_foreign(store: str | os.PathLike) -> bool:
    """Return whether a path is a Zarr store of another program, or a URL of a NetCDF file."""
    if is_url(store):
        return str(store).partition("?")[0].endswith(SUFFIXES)
    place = Path(store)
    return not (place / "zarr.json").is_file() and any((place / name).is_file() for name in (".zgroup", ".zmetadata"))


def _sent_bytes(maps: xr.Dataset, path: Place, todo: Sequence[Region]) -> int:
    """Return the bytes that a process would receive with the task of the first region."""
    return sent_bytes(next(region_tasks(maps, path, todo)))


def _inputs(maps: xr.Dataset, path: Place, todo: Sequence[Region]) -> tuple[str, ...]:
    """Return files that the task of the first region reads."""
    return expected_files(input_paths(next(region_tasks(maps, path, todo)).graph))


def _prepare(path: Place, maps: xr.Dataset, count: int, overwrite: bool, resume: bool) -> bool:
    """Ensure that there is an unfinished store of these maps at `path`; return whether it is new."""
    if _must_replace(path, maps, overwrite, resume):
        remove_old(path)
    if exists(path):
        return False
    create_maps(path, maps, count)
    return True


def _must_replace(path: Place, maps: xr.Dataset, overwrite: bool, resume: bool) -> bool:
    """Return whether to remove an existing store; False if there is none, or if it can be continued."""
    if not exists(path):
        return False
    url, options = address(path)
    stored = open_store(url, kind="maps", allow_partial=True, storage_options=options)  # only maps are ever removed
    difference = "it is finished" if stored.attrs.get("complete") else _difference(stored, maps)
    if difference is None and resume:
        return False
    if not overwrite:
        why = difference or "it is unfinished, and resume is off"
        raise StoreError(f"{path} exists ({why}): {replacing_advice(path)}")
    return True


def _difference(stored: xr.Dataset, maps: xr.Dataset) -> str | None:
    """Return the first difference between an unfinished store and these maps, as text; None if there is none."""
    if set(stored.data_vars) != set(maps.data_vars):
        return f"it contains {', '.join(sorted(map(str, stored.data_vars)))}"
    for name in ("time", "latitude", "longitude", "land_fraction"):
        if not np.array_equal(stored[name].values, maps[name].values, equal_nan=name == "land_fraction"):
            return f"its {name} differs"
    attrs = _attrs(maps)
    if changed := differing_inputs(stored.attrs.get(DIGESTS), attrs[DIGESTS]):
        other = other_source(origin_of(stored.attrs, "forcing"), origin_of(attrs, "forcing"))
        return f"it was begun with other inputs: {', '.join(changed)} differ{f'; {other}' if other else ''}"
    for name, value in attrs.items():
        if is_named(name) and name not in stored.attrs:  # earlier versions did not record it
            continue
        if stored.attrs.get(name) != value:
            return f"its {name} is {stored.attrs.get(name)!r}, not {value!r}"
    first = str(next(iter(maps.data_vars)))
    if stored[first].encoding["shards"] != _shards(maps):
        return f"its chunks are {stored[first].encoding['shards']}, not {_shards(maps)}"
    return None


def create_maps(path: Place, maps: xr.Dataset, count: int) -> None:
    """Create the store without values, in one step, so that a kill leaves no half of one."""
    shards = _shards(maps)
    specs = {
        str(name): ArraySpec(
            dims=DIMS,
            shape=array.shape,
            dtype="float32",
            fill_value=np.nan,
            chunks=(_chunk_steps(shards[0]), *shards[1:]),
            shards=shards,
            attrs={**array.attrs, "cell_methods": "time: mean"},
            checksum=True,
        )
        for name, array in maps.data_vars.items()
    }
    with creating(path) as building:
        create(building, maps.coords.to_dataset(), specs, _attrs(maps) | {"regions": count})


def _attrs(maps: xr.Dataset) -> dict[str, object]:
    """Return the attributes of maps as the store represents them, with the digests of their inputs."""
    attrs = {k: v.item() if isinstance(v, np.generic) else v for k, v in derived_attrs(maps.attrs).items()}
    return {"kind": "maps", DIGESTS: attrs.get(DIGESTS) or input_digests(maps)} | attrs


def _shards(maps: xr.Dataset) -> tuple[int, int, int]:
    time, latitude, longitude = (max(maps.chunksizes[dim]) for dim in DIMS)
    return time, latitude, longitude


def _chunk_steps(shard: int) -> int:
    """Return the largest multiple of 24, up to 240 steps, that divides a shard; the shard itself if there is none."""
    return next((n for n in range(_CHUNK_STEPS, 0, -24) if shard % n == 0), shard)
