"""Run the tasks of regions: start new ones as others end, record what is written, and retry what failed."""

from __future__ import annotations

import contextlib
import errno
import logging
import queue
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError

import xarray as xr

from fluxcube.devices import PRECISION_LIMIT
from fluxcube.errors import CheckpointError, ConfigError, DeviceError, MissingPackageError, StoreError
from fluxcube.interrupts import Interrupted, seconds_left
from fluxcube.maps.regions import Region, RegionResult, RegionTask, region_tasks
from fluxcube.maps.workers import TaskFuture, Workers
from fluxcube.stores.damage import DamagedError
from fluxcube.stores.ledger import done_regions, mark_done
from fluxcube.stores.resumable import Place
from fluxcube.stores.swap import unwritable

Progress = Callable[[int, int, str], None]

logger = logging.getLogger(__name__)

#: Number of attempts for a region; files on a network may be readable again a little later.
_TRIES = 3
#: Number of failed regions after which a run stops, since the cause is not in the regions.
_FAILURES = 20
#: Seconds between checks that workers still exist.
_CHECK_EVERY = 2.0
#: Seconds over which the reported speed is averaged.
_RECENT = 300.0
#: Errors that every other region would raise, too.
_FATAL = (StoreError, CheckpointError, ConfigError, DeviceError, MissingPackageError, ImportError)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)


class RegionWriter:
    """Write regions with workers: as many tasks at once as the workers take, each region tried `_TRIES` times.

    Parameters
    ----------
    maps : xr.Dataset
        Result of `even_chunks`.
    path : Path or Bucket
        Their store, which exists.
    workers : Workers
        Threads or a cluster.
    report : ProgressReport
        Told of each region that is written.
    """

    def __init__(self, maps: xr.Dataset, path: Place, workers: Workers, report: ProgressReport):
        self.maps, self.path, self.workers, self.report = maps, path, workers, report
        self.ended: queue.SimpleQueue[TaskFuture] = queue.SimpleQueue()
        self.running: dict[TaskFuture, RegionTask] = {}
        self.again: deque[RegionTask] = deque()
        self.tries: dict[str, int] = {}
        self.failed: dict[str, tuple[Region, BaseException]] = {}
        self.precision_error: float | None = None

    def write(self, todo: Iterable[Region]) -> None:
        """Write all regions; raise StoreError that names those that could not be written, and why."""
        tasks = region_tasks(self.maps, self.path, todo)
        try:
            while self._start_tasks(tasks):
                self._wait_for_one()
        except StoreError as error:
            raise StoreError(f"{str(error).rstrip('.')}. {self._rest()}") from error
        except (KeyboardInterrupt, Interrupted) as error:
            self._record_running(seconds_left(error))
            self.report.done = len(done_regions(self.path))  # the signal may have come before a region was counted
            error.add_note(self._rest().rstrip("."))
            raise
        finally:
            for future in self.running:
                future.cancel()
        if self.failed:
            raise self._failure(f"{len(self.failed)} of {self.report.total} regions could not be written")

    def _start_tasks(self, tasks: Iterator[RegionTask]) -> bool:
        """Start tasks up to the workers' capacity; return whether any is running."""
        capacity = self.workers.capacity()
        while len(self.running) < capacity and (task := self._next(tasks)) is not None:
            future = self.workers.submit(task)
            self.running[future] = task
            future.add_done_callback(self.ended.put)
        return bool(self.running)

    def _next(self, tasks: Iterator[RegionTask]) -> RegionTask | None:
        """Return the next new task, then those to retry, then None."""
        task = next(tasks, None)
        return self.again.popleft() if task is None and self.again else task

    def _wait_for_one(self) -> None:
        """Wait for one task to end."""
        try:
            future = self.ended.get(timeout=_CHECK_EVERY)
        except queue.Empty:
            self.workers.check()
            return
        task = self.running.pop(future)
        if future.cancelled():
            self.workers.check()
            raise StoreError("the Dask scheduler is gone, or another client cancelled tasks")
        error = future.exception()
        if isinstance(error, CancelledError):
            raise StoreError("the Dask scheduler is gone") from error
        if error is not None:
            self._record_failure(task, error)
            return
        self._record(task.region, future.result())

    def _record_running(self, seconds: float) -> None:
        """Record the regions that end within some seconds; as many as run at once, since no others are to start."""
        end = time.monotonic() + seconds
        for _ in range(min(self.workers.threads, len(self.running))):
            if (future := self._next_ended(end)) is None:
                return
            task = self.running.pop(future)
            if not future.cancelled() and future.exception() is None:
                self._record(task.region, future.result())

    def _next_ended(self, end: float) -> TaskFuture | None:
        """Return the next task that ends before a time; None if none does, or the workers are gone."""
        while time.monotonic() < end:
            with contextlib.suppress(queue.Empty):
                return self.ended.get(timeout=0.5)
            try:
                self.workers.check()
            except StoreError:
                return None
            if not self.workers.threads:
                return None
        return None

    def _record(self, region: Region, result: RegionResult) -> None:
        self._note_precision(result.precision_error)
        try:
            mark_done(self.path, {region.key: result.missing}, {region.key: result.files})
        except StoreError:
            raise
        except OSError as error:
            raise unwritable(self.path, error) from error
        self.report.region_done(region)

    def _note_precision(self, error: float | None) -> None:
        """Keep the largest error of the precision of the maps, and warn when it first is above the limit."""
        before = self.precision_error or 0.0
        if error is not None:
            self.precision_error = max(error, before)
        if error is not None and error > PRECISION_LIMIT >= before:
            logger.warning(
                "precision %s changes the fluxes by %.4f of their standard deviation, which is more than %s: write the "
                "maps again with precision='float32'",
                self.maps.attrs.get("precision"),
                error,
                PRECISION_LIMIT,
            )

    def _record_failure(self, task: RegionTask, error: BaseException) -> None:
        """Schedule another attempt for a region, or raise StoreError where that is of no use."""
        key, where = task.region.key, task.region.place(self.maps)
        self.tries[key] = self.tries.get(key, 0) + 1
        logger.warning("%s failed (%s: %s)", where, type(error).__name__, error)
        if isinstance(error, OSError) and error.errno in _FULL:
            raise unwritable(self.path, error) from error
        if isinstance(error, _FATAL) and not isinstance(error, DamagedError):
            raise StoreError(f"{where}: {type(error).__name__}: {error}") from error
        if self.tries[key] < _TRIES:
            self.again.append(task)
            return
        self.failed[key] = task.region, error
        if len(self.failed) >= _FAILURES:
            raise self._failure(f"{_FAILURES} regions failed, the others were not tried")

    def _failure(self, what: str) -> StoreError:
        region, error = next(iter(self.failed.values()))
        failure = StoreError(
            f"{self.path}: {what}. The first, {region.place(self.maps)}, failed {_TRIES} times: "
            f"{type(error).__name__}: {error}. {self._rest()}"
        )
        failure.__cause__ = error
        return failure

    def _rest(self) -> str:
        return (
            f"{self.report.done} of {self.report.total} regions of {self.path} are written; the same call writes the "
            "others."
        )


class ProgressReport:
    """Report the progress of a run with its speed over the last minutes, and the time left at that speed.

    Parameters
    ----------
    progress : callable or None
        ``progress(done, total, text)``.
    every, todo : iterable of Region
        All regions, and those that this run writes.
    step : str
        Name of the time steps, "hours" or "days".
    """

    def __init__(
        self,
        progress: Progress | None,
        every: Iterable[Region],
        todo: Iterable[Region],
        step: str,
    ):
        every, todo = list(every), list(todo)
        self._step = f"cell-{step}"
        self._progress, self.total, self.done = progress, len(every), len(every) - len(todo)
        self._all = sum(region.land for region in every)
        self._cells = self._all - sum(region.land for region in todo)
        self._seen: deque[tuple[float, int]] = deque()

    def begin(self, text: str) -> None:
        """Report the regions that earlier runs wrote; `text` describes the workers of this one."""
        logger.info("%s", text)
        self._seen.append((time.perf_counter(), self._cells))
        if self._progress is not None:
            self._progress(self.done, self.total, text)

    def region_done(self, region: Region) -> None:
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
    """Return a duration as text.

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
