"""Writing maps, region by region, so that a killed run goes on where it stopped."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import dask
import dask.base
import numpy as np
import xarray as xr
from dask.system import CPU_COUNT

from fluxcube import stores
from fluxcube.errors import ConfigError, StoreError
from fluxcube.schema import validate_maps

#: Hours that a reader decompresses at once, at most: ten days.
_CHUNK_HOURS = 240

Region = tuple[slice, slice, slice]


def write_maps(
    maps: xr.Dataset,
    store: str | os.PathLike,
    *,
    overwrite: bool = False,
    resume: bool = True,
    workers: int | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Path:
    """Compute maps and write them to a Zarr store, region by region.

    A region is one Dask chunk of the maps and one shard of the store. As many are in flight as there are workers,
    each in one thread (or on the cluster, where a Dask client is active), so memory holds that many regions. What
    is written is noted in the store: the same call after a kill computes only the rest.

    Parameters
    ----------
    maps : xr.Dataset
        As `fluxcube.upscale` returns them.
    store : path
        Folder to write; its parent must exist.
    overwrite : bool
        Replace maps that are there. They are removed at the start.
    resume : bool
        Go on with an unfinished store of the same maps.
    workers : int, optional
        Regions in flight; by default the number of processors.
    progress : callable, optional
        ``progress(done, total, text)`` after each region; the text gives land cells times hours per second.

    Returns
    -------
    Path
        The finished store; `open_maps` opens it.

    Raises
    ------
    StoreError
        If a store is in the way: finished, of another model, grid or time, or nothing that fluxcube wrote.
    ConfigError
        If the chunks of the maps are not of one size along each dimension.
    """
    maps, path = _regular(validate_maps(maps)), Path(store).absolute()
    if not path.parent.is_dir():
        raise StoreError(f"cannot write {path}: the folder {path.parent} does not exist; make it first.")
    if _in_the_way(path, maps, overwrite, resume):
        shutil.rmtree(path)
    if not path.exists():
        _create(path, maps)
    done = stores.done_regions(path)
    regions = dict(_regions(maps))
    todo = {key: region for key, region in regions.items() if key not in done}
    land = maps.land_fraction.transpose("latitude", "longitude").values > 0
    rate = _Rate(land, progress, len(regions) - len(todo), len(regions))
    for key in _in_flight(maps, path, todo, workers or CPU_COUNT):
        stores.mark_done(path, key)
        rate.report(todo[key])
    stores.finish(path)
    return path


def open_maps(store: str | os.PathLike, *, partial: bool = False) -> xr.Dataset:
    """Open maps that `write_maps` wrote.

    Parameters
    ----------
    store : path
        Its folder.
    partial : bool
        Open an unfinished store too; what is not written is NaN.

    Returns
    -------
    xr.Dataset
        Lazy maps, one variable (time, latitude, longitude) per flux.

    Raises
    ------
    StoreError
        If there is no such store, or it is unfinished.
    """
    return validate_maps(stores.open_store(store, kind="maps", allow_partial=partial))


def _regular(maps: xr.Dataset) -> xr.Dataset:
    """Give maps as Dask arrays of one chunking, or an error where that cannot be shards."""
    if not all(array.chunks for array in maps.data_vars.values()):
        maps = maps.chunk()
    maps = maps.assign_coords({name: coord.compute() for name, coord in maps.coords.items()})
    if len({array.chunks for array in maps.data_vars.values()}) > 1:
        raise ConfigError(
            "the fluxes of one store must have the same chunks: rechunk the maps, e.g. maps.unify_chunks()."
        )
    for dim, sizes in maps.chunksizes.items():
        if dim in ("time", "latitude", "longitude") and len(set(sizes[:-1]) | {max(sizes)}) > 1:
            raise ConfigError(
                f"chunks of {dim} must be of one size, the last may be smaller; found {sizes}: "
                f"rechunk with maps.chunk({dim}={max(sizes)})."
            )
    return maps


def _in_the_way(path: Path, maps: xr.Dataset, overwrite: bool, resume: bool) -> bool:
    """Whether to remove what is there; False where there is nothing, or what can be gone on with."""
    if not path.exists():
        return False
    there = stores.open_store(path, kind="maps", allow_partial=True)  # nothing but maps is ever removed
    difference = "it is finished" if there.attrs.get("complete") is True else _difference(there, maps)
    if difference is None and resume:
        return False
    if not overwrite:
        what = difference or "it is unfinished, and resume is off"
        raise StoreError(f"{path} exists ({what}): give overwrite (--overwrite) to replace it, or another path.")
    return True


def _difference(there: xr.Dataset, maps: xr.Dataset) -> str | None:
    """Say what tells an unfinished store from these maps; None if nothing does."""
    if set(there.data_vars) != set(maps.data_vars):
        return f"it holds {', '.join(sorted(map(str, there.data_vars)))}"
    for name in ("time", "latitude", "longitude", "land_fraction"):
        if not np.array_equal(there[name].values, maps[name].values, equal_nan=name == "land_fraction"):
            return f"its {name} differs"
    for name, value in _attrs(maps).items():
        if there.attrs.get(name) != value:
            return f"its {name} is {there.attrs.get(name)!r}, not {value!r}"
    first = str(next(iter(maps.data_vars)))
    if there[first].encoding["shards"] != _shards(maps):
        return f"its chunks are {there[first].encoding['shards']}, not {_shards(maps)}"
    return None


def _create(path: Path, maps: xr.Dataset) -> None:
    """Make the empty store; it appears whole, so that a kill leaves nothing that looks like one."""
    shards = _shards(maps)
    specs = {
        str(name): stores.ArraySpec(
            dims=("time", "latitude", "longitude"), shape=array.shape, dtype="float32", fill_value=np.nan,
            chunks=(_chunk_hours(shards[0]), *shards[1:]), shards=shards,
            attrs={**array.attrs, "cell_methods": "time: mean"},
        )
        for name, array in maps.data_vars.items()
    }  # fmt: skip
    making = path.with_name(f".{path.name}.making-{os.getpid()}")
    shutil.rmtree(making, ignore_errors=True)
    try:
        stores.create(making, maps.coords.to_dataset(), specs, _attrs(maps))
        os.replace(making, path)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _attrs(maps: xr.Dataset) -> dict[str, object]:
    """Attributes as the store holds them."""
    return {"kind": "maps"} | {k: v.item() if isinstance(v, np.generic) else v for k, v in maps.attrs.items()}


def _shards(maps: xr.Dataset) -> tuple[int, int, int]:
    return tuple(max(maps.chunksizes[dim]) for dim in ("time", "latitude", "longitude"))


def _chunk_hours(shard: int) -> int:
    """Most hours up to ten days, in whole days, that divide a shard; the shard itself where none do."""
    return next((h for h in range(_CHUNK_HOURS, 0, -24) if shard % h == 0), shard)


def _regions(maps: xr.Dataset) -> Iterator[tuple[str, Region]]:
    """Key and bounds of every region; time changes slowest, so that forcing is read in order."""
    edges = [np.concatenate([[0], np.cumsum(maps.chunksizes[d])]) for d in ("time", "latitude", "longitude")]
    slices = [[slice(int(a), int(b)) for a, b in itertools.pairwise(e)] for e in edges]
    for region in itertools.product(*slices):
        yield ",".join(f"{part.start}:{part.stop}" for part in region), region


def _in_flight(maps: xr.Dataset, path: Path, todo: Mapping[str, Region], workers: int) -> Iterator[str]:
    """Compute and write regions, `workers` at a time; yield the key of each that is written."""
    scheduler = dask.base.get_scheduler() or "synchronous"
    with _torch_threads(min(workers, len(todo))), ThreadPoolExecutor(workers, "fluxcube-region") as pool:
        running = {pool.submit(_write, maps, path, region, scheduler): key for key, region in todo.items()}
        try:
            for future in as_completed(running):
                future.result()
                yield running[future]
        finally:  # an error, or an interrupt: what runs is finished, nothing new begins
            pool.shutdown(wait=True, cancel_futures=True)


def _write(maps: xr.Dataset, path: Path, region: Region, scheduler: object) -> None:
    part = dict(zip(("time", "latitude", "longitude"), region, strict=True))
    arrays = [maps[name].transpose(*part).isel(part).data for name in maps.data_vars]
    for name, values in zip(maps.data_vars, dask.compute(*arrays, scheduler=scheduler), strict=True):
        stores.write_region(path, str(name), region, np.asarray(values, "float32"))


@contextlib.contextmanager
def _torch_threads(regions: int) -> Iterator[None]:
    """Share the processors among regions in flight, where torch is loaded: else its threads compete."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, min(before, CPU_COUNT // max(1, regions))))
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Rate:
    """Reports progress with a speed."""

    def __init__(self, land: np.ndarray, progress: Callable | None, done: int, total: int):
        self._land, self._progress, self._done, self._total = land, progress, done, total
        self._cell_hours, self._start = 0, time.perf_counter()
        if progress is not None and done:
            progress(done, total, "already written")

    def report(self, region: Region) -> None:
        hours, rows, columns = region
        self._done += 1
        self._cell_hours += int(self._land[rows, columns].sum()) * (hours.stop - hours.start)
        if self._progress is not None:
            speed = self._cell_hours / max(time.perf_counter() - self._start, 1e-9)
            self._progress(self._done, self._total, f"{speed:,.0f} cell-hours/s")
