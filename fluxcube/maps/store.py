"""Writing maps, region by region, so that a run that was stopped goes on, and faults of some do not stop the rest."""

from __future__ import annotations

import errno
import logging
import os
import queue
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from fluxcube.errors import CheckpointError, ConfigError, MissingPackageError, StoreError
from fluxcube.maps.regions import DIMS, Region, Work, even_chunks, regions, works
from fluxcube.maps.workers import Workers, workers_for
from fluxcube.schema import REGION_BYTES, validate_maps
from fluxcube.stores.arrays import ArraySpec, create
from fluxcube.stores.building import finish, remove, write_lock
from fluxcube.stores.ledger import done_regions, mark_done
from fluxcube.stores.reading import open_store
from fluxcube.stores.swap import building_place, clear_leftovers

if TYPE_CHECKING:
    from distributed import Client

logger = logging.getLogger(__name__)

#: Hours that a reader decompresses at once, at most: ten days.
_CHUNK_HOURS = 240
#: Times that a region is tried; files on a network may be back a little later.
_TRIES = 3
#: Regions that may fail before a run is given up, since the fault is not theirs.
_FAILURES = 20
#: Seconds between looks at whether workers are still there.
_LOOK = 5.0
#: Seconds over which the speed is told.
_RECENT = 300.0
#: Faults that the next region would meet, too.
_FATAL = (StoreError, CheckpointError, ConfigError, MissingPackageError, ImportError)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)


def write_maps(
    maps: xr.Dataset,
    store: str | os.PathLike,
    *,
    overwrite: bool = False,
    resume: bool = True,
    workers: int | None = None,
    scheduler: str | Client | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Path:
    """Compute maps and write them to a Zarr store, region by region.

    A region is one Dask chunk of the maps and one shard of the store; a task computes it in one thread and writes it
    where it runs. Tasks are handed out as others end, so memory does not grow with the length of a run. What is
    written is noted in the store after it is on the disk: the same call after a kill computes only the rest, and the
    result is the same bit by bit. A region that fails is tried three times; the others are written all the same.

    Parameters
    ----------
    maps : xr.Dataset
        As `fluxcube.upscale` returns them. Regions without land are not computed.
    store : path
        Folder to write; its parent must exist, and all workers of a cluster must see it.
    overwrite : bool
        Replace maps that are there. They are removed at the start.
    resume : bool
        Go on with an unfinished store of the same maps.
    workers : int, optional
        Regions in flight on this machine; by default as many as it has processors, or fewer if its memory is small.
    scheduler : str or distributed.Client, optional
        Address of a Dask scheduler, "tcp://..."; "processes" for a LocalCluster of this machine; "threads" for this
        process. Default: the Dask client that is active, else processes, or threads where a job is small.
    progress : callable, optional
        ``progress(done, total, text)`` at the start and after each region; the text gives land cells times hours done
        and per second, the time left, and at the start what computes them and the dashboard's address.

    Returns
    -------
    Path
        The finished store; `open_maps` opens it.

    Raises
    ------
    StoreError
        If a store is in the way: finished, of another model, grid or time, or nothing that fluxcube wrote; if another
        run is writing it; if the disk is full, the scheduler is gone, or regions failed: what is done stays.
    ConfigError
        If the chunks of the maps are not of one size along each dimension, or do not fit in memory.
    """
    maps, path = even_chunks(validate_maps(maps)), Path(store).absolute()
    task_bytes = int(maps.attrs.pop(REGION_BYTES, 0))
    if not path.parent.is_dir():
        raise StoreError(f"cannot write {path}: the folder {path.parent} does not exist; make it first.")
    every = regions(maps)
    made = _prepare(path, maps, len(every), overwrite, resume)
    with write_lock(path):
        done = done_regions(path)
        todo = [region for key, region in every.items() if key not in done]
        ocean = {region.key: 0 for region in todo if not region.land}
        mark_done(path, ocean)
        todo = [region for region in todo if region.land]
        cell_hours = sum(region.land for region in todo)
        step = "days" if maps.attrs.get("resolution") == "daily" else "hours"
        state = _Progress(progress, every.values(), todo, step)
        if todo:
            try:
                with workers_for(scheduler, workers, cell_hours, task_bytes, path) as team:
                    state.begin(team.text)
                    _Run(maps, path, team, state).all(todo)
            except ConfigError:  # before the first task: nothing is left that would be in the way of other chunks
                if made:
                    remove(path)
                raise
        missing = sum(done_regions(path).values())
        land = sum(region.land for region in every.values())
        finish(path, {f"land_cell_{step}": land, f"missing_cell_{step}": missing})
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
    ds = validate_maps(open_store(store, kind="maps", allow_partial=partial))
    if ds.attrs.get("complete") is not True:
        ds.attrs["regions_done"] = len(done_regions(store))
        logger.warning(
            "%s is not complete: %d of %s regions are written", store, ds.attrs["regions_done"], ds.attrs["regions"]
        )
    return ds


def _prepare(path: Path, maps: xr.Dataset, count: int, overwrite: bool, resume: bool) -> bool:
    """See that an unfinished store of these maps is at `path`; return whether it is new."""
    clear_leftovers(path)
    if _in_the_way(path, maps, overwrite, resume):
        with write_lock(path):
            remove(path)
    if path.exists():
        return False
    try:
        _create(path, maps, count)
    except OSError as error:
        raise _unwritable(path, error) from error
    return True


def _in_the_way(path: Path, maps: xr.Dataset, overwrite: bool, resume: bool) -> bool:
    """Whether to remove what is there; False where there is nothing, or what can be gone on with."""
    if not path.exists():
        return False
    there = open_store(path, kind="maps", allow_partial=True)  # nothing but maps is ever removed
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


def _create(path: Path, maps: xr.Dataset, count: int) -> None:
    """Make the empty store; it appears whole, so that a kill leaves nothing that looks like one."""
    shards = _shards(maps)
    specs = {
        str(name): ArraySpec(
            dims=DIMS,
            shape=array.shape,
            dtype="float32",
            fill_value=np.nan,
            chunks=(_chunk_hours(shards[0]), *shards[1:]),
            shards=shards,
            attrs={**array.attrs, "cell_methods": "time: mean"},
            checksum=True,
        )
        for name, array in maps.data_vars.items()
    }
    making = building_place(path)
    shutil.rmtree(making, ignore_errors=True)
    try:
        create(making, maps.coords.to_dataset(), specs, _attrs(maps) | {"regions": count})
        os.replace(making, path)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _attrs(maps: xr.Dataset) -> dict[str, object]:
    """Attributes as the store holds them."""
    return {"kind": "maps"} | {k: v.item() if isinstance(v, np.generic) else v for k, v in maps.attrs.items()}


def _shards(maps: xr.Dataset) -> tuple[int, int, int]:
    return tuple(max(maps.chunksizes[dim]) for dim in DIMS)


def _chunk_hours(shard: int) -> int:
    """Most hours up to ten days, in whole days, that divide a shard; the shard itself where none do."""
    return next((h for h in range(_CHUNK_HOURS, 0, -24) if shard % h == 0), shard)


class _Run:
    """Hands out tasks as others end, notes what is written, and tries again what failed."""

    def __init__(self, maps: xr.Dataset, path: Path, team: Workers, state: _Progress):
        self.maps, self.path, self.team, self.state = maps, path, team, state
        self.ended: queue.SimpleQueue[Future] = queue.SimpleQueue()
        self.running: dict[Future, Work] = {}
        self.again: deque[Work] = deque()
        self.tries: dict[str, int] = {}
        self.failed: dict[str, tuple[Region, BaseException]] = {}

    def all(self, todo: Iterable[Region]) -> None:
        """Write all regions, or raise StoreError that says which could not be written and why."""
        coming = works(self.maps, self.path, todo)
        try:
            while self._fill(coming):
                self._one()
        except StoreError as error:
            raise StoreError(f"{str(error).rstrip('.')}. {self._rest()}") from error
        finally:
            for future in self.running:
                future.cancel()
        if self.failed:
            raise self._given_up(f"{len(self.failed)} of {self.state.total} regions could not be written")

    def _fill(self, coming: Iterable[Work]) -> bool:
        """Begin tasks while there is room; tell whether any runs."""
        room = self.team.room()
        while len(self.running) < room and (work := next(coming, None) or (self.again and self.again.popleft())):
            future = self.team.submit(work)
            self.running[future] = work
            future.add_done_callback(self.ended.put)
        return bool(self.running)

    def _one(self) -> None:
        """Wait for one task to end."""
        try:
            future = self.ended.get(timeout=_LOOK)
        except queue.Empty:
            self.team.check()
            return
        work = self.running.pop(future)
        if future.cancelled():
            self.team.check()
            raise StoreError("the Dask scheduler is gone, or another client cancelled tasks")
        error = future.exception()
        if isinstance(error, CancelledError):
            raise StoreError("the Dask scheduler is gone") from error
        if error is not None:
            self._failed(work, error)
            return
        self._note(work.region, future.result())

    def _note(self, region: Region, missing: int) -> None:
        try:
            mark_done(self.path, {region.key: missing})
        except OSError as error:
            raise _unwritable(self.path, error) from error
        self.state.report(region)

    def _failed(self, work: Work, error: BaseException) -> None:
        key = work.region.key
        self.tries[key] = self.tries.get(key, 0) + 1
        logger.warning("%s failed (%s: %s)", work.region.place(self.maps), type(error).__name__, error)
        if getattr(error, "errno", None) in _FULL:
            raise _unwritable(self.path, error) from error
        if isinstance(error, _FATAL):
            raise StoreError(f"{work.region.place(self.maps)}: {type(error).__name__}: {error}") from error
        if self.tries[key] < _TRIES:
            self.again.append(work)
            return
        self.failed[key] = work.region, error
        if len(self.failed) >= _FAILURES:
            raise self._given_up(f"{_FAILURES} regions failed, the rest was not tried")

    def _given_up(self, what: str) -> StoreError:
        region, error = next(iter(self.failed.values()))
        made = StoreError(
            f"{self.path}: {what}. The first, {region.place(self.maps)}, failed {_TRIES} times: "
            f"{type(error).__name__}: {error}. {self._rest()}"
        )
        made.__cause__ = error
        return made

    def _rest(self) -> str:
        return (
            f"{self.state.done} of {self.state.total} regions of {self.path} are written; the same call does the rest."
        )


def _unwritable(path: Path, error: OSError) -> StoreError:
    return StoreError(f"cannot write {path} ({error.strerror or error}): make room there, or write elsewhere.")


class _Progress:
    """Reports progress with a speed, that of the last minutes, and the time left at it."""

    def __init__(self, progress: Callable | None, every: Iterable[Region], todo: Iterable[Region], step: str):
        every, todo = list(every), list(todo)
        self._step = f"cell-{step}"
        self._progress, self.total, self.done = progress, len(every), len(every) - len(todo)
        self._all = sum(region.land for region in every)
        self._cells = self._all - sum(region.land for region in todo)
        self._seen: deque[tuple[float, int]] = deque()

    def begin(self, text: str) -> None:
        """Report what was done before, and what will do the rest."""
        logger.info("%s", text)
        self._seen.append((time.perf_counter(), self._cells))
        if self._progress is not None:
            self._progress(self.done, self.total, text)

    def report(self, region: Region) -> None:
        """Report that a region is written."""
        self.done += 1
        self._cells += region.land
        now = time.perf_counter()
        self._seen.append((now, self._cells))
        while len(self._seen) > 2 and now - self._seen[1][0] > _RECENT:
            self._seen.popleft()
        if self._progress is not None:
            then, before = self._seen[0]
            speed = (self._cells - before) / max(now - then, 1e-9)
            left = _clock((self._all - self._cells) / speed)
            self._progress(
                self.done,
                self.total,
                f"{self._cells:,} of {self._all:,} {self._step}, {speed:,.0f} {self._step}/s, {left} left",
            )


def _clock(seconds: float) -> str:
    """Return a time in words.

    Examples
    --------
    >>> _clock(59.6), _clock(3725), _clock(200_000)
    ('1:00', '1:02:05', '2 d 7 h')
    """
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
