"""Measure some tasks of maps in a worker process: CPU time, time that passes, RAM, bytes read and written."""

from __future__ import annotations

import itertools
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xarray as xr

from fluxcube.maps.regions import Region, RegionTask, region_tasks, regions
from fluxcube.maps.store import create_maps
from fluxcube.maps.workers import workers_for
from fluxcube.planning.tiles import Tasks
from fluxcube.schema import DEVICE, REGION_BYTES

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, kw_only=True)
class TaskSample:
    """A task that was measured.

    Attributes
    ----------
    place : str
        Times, latitudes and longitudes.
    work : tuple of float
        What its time depends on (`Tasks.work`).
    land : int
        Number of land cells times number of time steps.
    cpu, wall : float
        Seconds of CPU time, and seconds that passed, from the reading of the forcing to the written file.
    memory : int
        Largest RAM of the worker so far, bytes.
    read, written : int
        Bytes read from files, compressed; bytes of the files of maps. Bytes from a network are not counted.
    missing : int
        Number of land cells times time steps without a value.
    gpu : bool
        Whether the model was computed on a GPU.
    """

    place: str
    work: tuple[float, ...]
    land: int
    cpu: float
    wall: float
    memory: int
    read: int
    written: int
    missing: int
    gpu: bool


@dataclass(frozen=True, kw_only=True)
class MapSample:
    """Tasks that were measured, one after the other, in one worker.

    Attributes
    ----------
    tasks : tuple of TaskSample
        The tasks.
    start_cpu, start_wall : float
        Seconds of a worker before its first task: start of Python, imports, model.
    start_read : int
        Bytes that a worker reads from files before its first task: Python's modules and the model.
    parent_cpu : float
        CPU time of the process that starts the workers of a machine, seconds.
    """

    tasks: tuple[TaskSample, ...]
    start_cpu: float
    start_wall: float
    parent_cpu: float
    start_read: int = 0

    @property
    def gpu(self) -> bool:
        """Whether the model was computed on a GPU."""
        return any(task.gpu for task in self.tasks)

    @property
    def memory(self) -> int:
        """Largest RAM of the worker, bytes."""
        return max(task.memory for task in self.tasks)


class Usage(NamedTuple):
    """What the process of a task had used when the task ended."""

    missing: int
    cpu: float
    start_cpu: float
    wall: float
    memory: int
    start_read: int
    read: int
    gpu: bool
    parent_cpu: float


class MeasuredTask:
    """A task that reports what it used; called on a worker."""

    def __init__(self, task: RegionTask):
        self.task = task

    def __call__(self) -> Usage:
        """Compute and write the region."""
        cpu, wall, read = time.process_time(), time.perf_counter(), _bytes_read()
        result = self.task()
        return Usage(
            missing=result.missing,
            cpu=time.process_time(),
            start_cpu=cpu,
            wall=time.perf_counter() - wall,
            memory=peak_memory(),
            start_read=read,
            read=_bytes_read(),
            gpu=_on_gpu(),
            parent_cpu=_cpu_of(os.getppid()),
        )


def measure_tasks(
    tasks: Tasks, number: int, seed: int, *, scheduler: str = "processes", progress: Progress | None = None
) -> MapSample:
    """Compute some tasks in a worker of this machine, into a temporary folder.

    Parameters
    ----------
    tasks : Tasks
        All tasks.
    number, seed : int
        As `Tasks.choose` takes them.
    scheduler : {"processes", "threads"}
        A worker process, as maps have it, or a thread of this process.
    progress : callable, optional
        ``progress(done, total, text)``.

    Returns
    -------
    MapSample
    """
    chosen = tasks.choose(number, seed)
    with tempfile.TemporaryDirectory(prefix="fluxcube-plan-") as name:
        folder = Path(name)
        row, column = tasks.blocks[chosen[0][0]].tolist()
        # The first task of a worker loads the model: one cell shows how long that takes.
        prepared = [_prepared(tasks.maps(row, column, cells=1), chosen[0][1], folder / "start.zarr")]
        prepared += [
            _prepared(tasks.maps(*tasks.blocks[block].tolist()), part, folder / f"{n}.zarr")
            for n, (block, part) in enumerate(chosen)
        ]
        begin = time.perf_counter()
        task_bytes = max(size for *_, size in prepared)
        device = str(tasks.one.attrs.get(DEVICE, "cpu"))
        with workers_for(scheduler, 1, 0, task_bytes, folder / "start.zarr", device=device) as team:
            usages = []
            for task, *_ in prepared:
                usages.append(team.submit(MeasuredTask(task)).result())
                if len(usages) == 1:
                    started = time.perf_counter() - begin
                if progress is not None:
                    progress(len(usages), len(prepared), "sample")
        places, parts = np.array(chosen).T
        work = tasks.work(places, parts)
        samples = [
            _sample(task, usage, before, place, row)
            for (task, _, place, _), usage, before, row in zip(prepared[1:], usages[1:], usages, work, strict=False)
        ]
    begun = 0.0 if scheduler == "processes" else usages[0].start_cpu
    return MapSample(
        tasks=tuple(samples),
        start_cpu=usages[0].cpu - begun,
        start_wall=started,
        parent_cpu=usages[-1].parent_cpu if scheduler == "processes" else 0.0,
        start_read=usages[0].read if scheduler == "processes" else 0,
    )


def _prepared(maps: xr.Dataset, part: int, path: Path) -> tuple[RegionTask, Region, str, int]:
    """Return the task of one chunk in time of the maps of a block, with its place and its estimated RAM."""
    size = int(maps.attrs.pop(REGION_BYTES, 0))
    region = next(itertools.islice(regions(maps).values(), part, None))
    create_maps(path, maps, 1)
    (task,) = region_tasks(maps, path, [region])
    return task, region, region.place(maps), size


def _sample(task: RegionTask, usage: Usage, before: Usage, place: str, work: Sequence[float]) -> TaskSample:
    # The time between two tasks belongs to the second: the worker received it meanwhile.
    return TaskSample(
        place=place,
        work=tuple(map(float, work)),
        land=task.region.land,
        cpu=usage.cpu - before.cpu,
        wall=usage.wall,
        memory=usage.memory,
        read=usage.read - usage.start_read,
        written=sum(map(_size, _files(Path(str(task.path)), tuple(task.keys)))),
        missing=usage.missing,
        gpu=usage.gpu,
    )


def _files(store: Path, names: tuple[str, ...]) -> Iterator[Path]:
    return (path for name in names for path in (store / name).rglob("*/*"))


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def peak_memory() -> int:
    """Return the largest RAM of this process so far, bytes."""
    try:
        # ru_maxrss of a new process begins with that of its parent.
        status = Path("/proc/self/status").read_text("utf-8")
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    except (OSError, IndexError, ValueError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _bytes_read() -> int:
    """Return the number of bytes that this process has read from files; 0 where the system does not count them."""
    try:
        return int(Path("/proc/self/io").read_text("ascii").split()[1])
    except (OSError, IndexError, ValueError):
        return 0


def _cpu_of(process: int) -> float:
    """Return the CPU time of a process, seconds; 0 where the system does not report it."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text("utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return 0.0


def _on_gpu() -> bool:
    """Return whether this process has used a GPU."""
    torch = sys.modules.get("torch")
    return bool(torch and torch.cuda.is_available() and torch.cuda.max_memory_allocated())
