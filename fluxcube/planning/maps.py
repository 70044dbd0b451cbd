"""Public API: plan maps of any forcing from its chunks and from a measured sample of its tasks."""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from dask.system import CPU_COUNT

from fluxcube.cards import card
from fluxcube.cubes.forcing import Forcing, as_forcing
from fluxcube.errors import ConfigError, to_type
from fluxcube.fetch.items import duration_text, size_text
from fluxcube.inference.grid import upscale
from fluxcube.inference.loading import AnyModel, as_predictor
from fluxcube.maps.workers import BASE_BYTES
from fluxcube.planning.reads import ArrayReads, count_reads
from fluxcube.planning.sample import MapSample, TaskSample, measure_tasks, peak_memory
from fluxcube.planning.tiles import Tasks
from fluxcube.resolution import resolution_of
from fluxcube.schema import REGION_BYTES
from fluxcube.tabletext import counted

logger = logging.getLogger(__name__)

#: Bytes read for each byte needed beyond which a plan warns. Stores of `write_forcing` need 2 to 10: a block reads its
#: earlier hours again, whole chunks, cells without land, and predictors that the model does not use.
WASTE = 20.0
#: Time steps read for each time step mapped beyond which chunks in time are too short.
_OVERLAP = 8.0
#: Arrays of a forcing; other names are parameters of ERA5 files.
_ARRAYS = ("predictors", "modis", "surface")
#: Number of reads of each chunk beyond which it contains many blocks of cells, as those of ARCO-ERA5 do.
_SHARED = 16.0
#: Share of the bytes of chunks below which a sample read no data from files, but only the model.
_READ = 0.08
#: RAM of one entry of a Dask graph in the process that submits tasks, and of the record of a region, bytes.
_ENTRY_BYTES, _REGION_BYTES = 900, 900
#: RAM of the submitting process beyond which a plan advises a smaller graph, bytes.
_LARGE_CLIENT = 4 * 2**30


#: Lines of a plan that notebooks show.
_SHOWN = ("maps", "grid", "tasks", "written", "CPU-hours", "wall time", "cost on CPUs", "RAM of a worker")


class Interval(NamedTuple):
    """An estimate, and its range by the task of the sample that took least, and most, in relation to its size."""

    estimate: float
    low: float
    high: float

    def times(self, factor: float, plus: float = 0.0) -> Interval:
        """Return the interval times a factor, plus a constant."""
        return Interval(*(value * factor + plus for value in self))

    def text(self, form: Callable[[float], str]) -> str:
        """Return the interval as text, each number in some form."""
        if self.low == self.high:
            return form(self.estimate)
        return f"{form(self.estimate)} ({form(self.low)} to {form(self.high)})"


@dataclass(frozen=True, kw_only=True)
class MapPlan:
    """What maps will take.

    Attributes
    ----------
    outputs : tuple of str
        Variables of the maps.
    shape : (int, int, int)
        Number of time steps, latitudes and longitudes.
    step : str
        Name of the time steps, "hours" or "days".
    land_cells : int
        Number of cells that contain land.
    blocks, time_chunks : int
        Number of blocks of cells with land, and of chunks in time; a task computes one of each.
    chunk : (int, int, int)
        Time steps, latitudes and longitudes of a task.
    total : (float, float, float)
        Sum of `work` of all tasks (`fluxcube.planning.tiles.Tasks.total`).
    reads : tuple of ArrayReads
        Stored chunks that the tasks read.
    sample : MapSample
        The tasks that were measured.
    workers : int
        Number of workers.
    price_gpu, price_cpu : float
        Price of a GPU-hour and of a core-hour, USD.
    cores_per_gpu : float
        Number of CPU cores that one GPU replaces; an assumption if the sample was measured on a CPU.
    region_bytes : int
        RAM of a task by the estimate that is compared with the RAM of workers before the first task, bytes.
    client_bytes : int
        RAM of the process that submits the tasks, bytes.
    """

    outputs: tuple[str, ...]
    shape: tuple[int, int, int]
    step: str
    land_cells: int
    blocks: int
    time_chunks: int
    chunk: tuple[int, int, int]
    total: tuple[float, ...]
    reads: tuple[ArrayReads, ...]
    sample: MapSample
    workers: int
    price_gpu: float
    price_cpu: float
    cores_per_gpu: float
    region_bytes: int
    client_bytes: int

    @property
    def tasks(self) -> int:
        """Number of regions that are computed and written."""
        return self.blocks * self.time_chunks

    @property
    def cell_steps(self) -> int:
        """Number of land cells times number of time steps."""
        return self.land_cells * self.shape[0]

    @property
    def cpu_hours(self) -> Interval:
        """CPU time of the workers, hours."""
        start = self.workers * self.sample.start_cpu + self.sample.parent_cpu
        return self._scaled(lambda task: task.cpu).times(1 / 3600, start / 3600)

    @property
    def device_hours(self) -> Interval:
        """Time of all tasks, one after the other, on the device of the sample, hours."""
        return self._scaled(lambda task: task.wall).times(1 / 3600)

    @property
    def gpu_hours(self) -> Interval:
        """Hours of one GPU: measured, or those of cores divided by `cores_per_gpu`."""
        return self.device_hours if self.sample.gpu else self.cpu_hours.times(1 / self.cores_per_gpu)

    @property
    def wall_hours(self) -> Interval:
        """Time that passes with the given number of workers, each with whole tasks, hours."""
        longest = -(-self.tasks // self.workers) / self.tasks
        return self.device_hours.times(longest, self.sample.start_wall / 3600)

    @property
    def bytes_read(self) -> int:
        """Bytes of the chunks that are read, before compression."""
        return sum(one.bytes for one in self.reads)

    @property
    def bytes_needed(self) -> int:
        """Bytes of the values that the model uses."""
        return sum(one.needed for one in self.reads)

    @property
    def amplification(self) -> float:
        """Bytes read for each byte needed; NaN for a forcing in RAM."""
        return self.bytes_read / self.bytes_needed if self.bytes_needed else float("nan")

    @property
    def disk_bytes_read(self) -> int:
        """Bytes that are read from files, compressed; 0 where the sample read from a network or computed the values."""
        return round(self._scaled(lambda task: float(task.read)).estimate)

    @property
    def bytes_written(self) -> int:
        """Bytes of the maps on disk."""
        return round(self._scaled(lambda task: float(task.written)).estimate)

    @property
    def worker_bytes(self) -> int:
        """RAM of a worker, bytes: the largest of the sample."""
        return self.sample.memory

    @property
    def cost(self) -> tuple[float, float]:
        """Price of the CPU time, and of the GPU-hours, USD."""
        return self.cpu_hours.estimate * self.price_cpu, self.gpu_hours.estimate * self.price_gpu

    def _scaled(self, measure: Callable[[TaskSample], float]) -> Interval:
        """Return a quantity of all tasks from that of the sample."""
        values = np.array([measure(task) for task in self.sample.tasks])
        return scale(np.array([task.work for task in self.sample.tasks]), values, np.array(self.total))

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know or do."""
        return tuple(_notes(self))

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers by name, for JSON; times in hours, sizes in bytes, prices in USD."""
        numbers: dict[str, Any] = {
            name: getattr(self, name)
            for name in (
                "outputs",
                "shape",
                "step",
                "land_cells",
                "cell_steps",
                "tasks",
                "blocks",
                "time_chunks",
                "chunk",
            )
        }
        numbers |= {name: getattr(self, name)._asdict() for name in ("cpu_hours", "gpu_hours", "wall_hours")}
        sizes = ("bytes_read", "bytes_needed", "disk_bytes_read", "bytes_written", "worker_bytes", "region_bytes")
        numbers |= {name: getattr(self, name) for name in (*sizes, "client_bytes", "workers")}
        numbers |= {name: getattr(self, name) for name in ("price_cpu", "price_gpu", "cores_per_gpu")}
        numbers |= dict(zip(("cost_cpu", "cost_gpu"), self.cost, strict=True))
        numbers["reads"] = [vars(one) for one in self.reads]
        numbers["sample"] = {**vars(self.sample), "tasks": [vars(task) for task in self.sample.tasks]}
        return numbers | {"notes": self.notes}

    def text(self) -> str:
        """Return the plan as a table of at most 100 columns."""
        return "\n".join([*_lines(_rows(self)), *itertools.chain(*(_wrapped(f"note: {note}") for note in self.notes))])

    def __str__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        """Return what the maps will take as HTML."""
        facts = {name: value for name, value in _rows(self) if name in _SHOWN}
        return card("MapPlan", facts, ("print(plan)", 'fc.write_maps(maps, "maps.zarr")'))


def plan_maps(
    model: AnyModel,
    forcing: Forcing,
    *,
    workers: int | None = None,
    sample_tasks: int = 6,
    seed: int = 0,
    scheduler: str = "processes",
    price_gpu: float = 3.0,
    price_cpu: float = 0.04,
    cores_per_gpu: float = 100.0,
    progress: Callable[[int, int, str], None] | None = None,
    **options: Any,
) -> MapPlan:
    """Plan maps of a forcing: tasks, chunks that are read, hours, cost and RAM, from some tasks that are computed.

    Some tasks are chosen at random, in proportion to their land, and computed by a worker of this machine as
    `fluxcube.write_maps` does, into a temporary folder. Their time is scaled to all tasks by their land cells, mapped
    time steps and time steps read. Chunks are counted from the layout of the forcing; only the sample is read.

    Parameters
    ----------
    model : Predictor, path or Run, or a sequence of these
        As `fluxcube.upscale` takes it.
    forcing : xr.Dataset, path or URL
        Forcing cube: a store, files or a lazy Dataset, with the chunks that the maps will have.
    workers : int, optional
        Number of workers; by default the number of processors of this machine.
    sample_tasks : int
        Number of tasks to compute.
    seed : int
        Of the choice of these tasks.
    scheduler : {"processes", "threads"}
        Compute the sample in a worker process, as maps are, or in this process.
    price_gpu, price_cpu : float
        Price of a GPU-hour and of a core-hour, USD.
    cores_per_gpu : float
        Number of CPU cores that one GPU replaces, if the sample is computed on a CPU.
    progress : callable, optional
        ``progress(done, total, text)`` after each task of the sample.
    **options
        Options of `fluxcube.upscale`, such as ``time``, ``stride`` and ``time_chunk``.

    Returns
    -------
    MapPlan

    Raises
    ------
    ConfigError
        If a number is not positive, no cell has land, or `fluxcube.upscale` refuses the forcing or an option.

    Examples
    --------
    >>> import fluxcube as fc
    >>> plan = fc.plan_maps("runs/eco", fc.open_forcing("forcing.zarr"), workers=64)  # doctest: +SKIP
    >>> print(plan)  # doctest: +SKIP
    """
    forcing = as_forcing(forcing)
    workers = workers or CPU_COUNT
    prices = {"price_gpu": price_gpu, "price_cpu": price_cpu, "cores_per_gpu": cores_per_gpu}
    _check_numbers(workers=workers, sample_tasks=sample_tasks, **prices)
    if scheduler not in ("processes", "threads"):
        raise ConfigError(f"scheduler: expected processes or threads for the sample, found {scheduler!r}.")
    predictor = as_predictor(model)
    before = predictor.hours_before(options.get("stride"))
    tasks = Tasks.of(forcing, functools.partial(_set_up, predictor, options), before)
    used = sum(name in set(map(str, forcing["variable"].values)) for name in predictor.spec.predictors)
    plan = MapPlan(
        outputs=tuple(map(str, tasks.one.data_vars)),
        shape=(int(tasks.steps.sum()), int(tasks.rows[-1]), int(tasks.columns[-1])),
        step=resolution_of(forcing).steps,
        land_cells=tasks.cells,
        blocks=len(tasks.blocks),
        time_chunks=len(tasks.steps),
        chunk=(int(tasks.steps.max()), int(np.diff(tasks.rows).max()), int(np.diff(tasks.columns).max())),
        total=tuple(map(float, tasks.total)),
        reads=count_reads(tasks, used),
        sample=measure_tasks(tasks, sample_tasks, seed, scheduler=scheduler, progress=progress),
        workers=workers,
        **prices,
        region_bytes=int(tasks.one.attrs.get(REGION_BYTES, 0)) + BASE_BYTES,
        client_bytes=_client_bytes(tasks),
    )
    if plan.amplification > WASTE:
        logger.warning("%s", _waste(plan))
    return plan


def _set_up(model: AnyModel, options: Mapping[str, Any], part: xr.Dataset) -> xr.Dataset:
    return upscale(model, part, **options)


def _check_numbers(**numbers: float) -> None:
    if wrong := [f"{name}={value}" for name, value in numbers.items() if not 0 < value < np.inf]:
        raise ConfigError(f"expected positive, finite numbers, found {', '.join(wrong)}.")


def _client_bytes(tasks: Tasks) -> int:
    """Estimate the RAM of the process that submits tasks: what it needs now, the graph, and the list of regions."""
    layers = {name: layer for array in tasks.one.data_vars.values() for name, layer in array.data.dask.layers.items()}
    entries = sum(len(layer) for layer in layers.values() if layer.is_materialized())
    blocks = tasks.land.size
    return peak_memory() + blocks * (entries * _ENTRY_BYTES + len(tasks.steps) * _REGION_BYTES)


def scale(work: np.ndarray, values: np.ndarray, total: np.ndarray) -> Interval:
    """Scale measured values of some tasks to all tasks.

    Parameters
    ----------
    work : (task, k) float
        What the values depend on, linearly, with coefficients of zero or more.
    values : (task,) float
        Measured values.
    total : (k,) float
        Sum of `work` over all tasks.

    Returns
    -------
    Interval
        The range is that of the measured values relative to the fitted ones.

    Examples
    --------
    >>> scale(np.array([[1.0, 10.0], [1.0, 20.0]]), np.array([3.0, 5.0]), np.array([100.0, 1000.0]))
    Interval(estimate=300.0, low=300.0, high=300.0)
    """
    unit = work.max(0)
    best, least = np.zeros(work.shape[1]), np.inf
    for some in itertools.chain(*(itertools.combinations(range(work.shape[1]), n) for n in range(1, len(values) + 1))):
        columns = list(some)
        found = np.linalg.lstsq(work[:, columns] / unit[columns], values, rcond=None)[0] / unit[columns]
        left = float(np.square(work[:, columns] @ found - values).sum())
        if (found >= 0).all() and left < least * (1 - 1e-9) - 1e-12:
            best, least = np.zeros(work.shape[1]), left
            best[columns] = found
    estimate, fitted = round(float(best @ total), 9), work @ best
    known = fitted > 0
    ratio = np.round(values[known] / fitted[known], 9) if known.any() else np.ones(1)
    return Interval(estimate, estimate * float(ratio.min()), estimate * float(ratio.max()))


def _rows(plan: MapPlan) -> list[tuple[str, str]]:
    """Return the names and values of a plan's table."""
    steps, rows, columns = plan.shape
    cost_cpu, cost_gpu = plan.cost
    task_rows = (
        f"{plan.tasks:,}: {counted(plan.blocks, 'block')} of up to {plan.chunk[1]} x {plan.chunk[2]} cells, in "
        f"{plan.time_chunks:,} chunks of up to {plan.chunk[0]:,} {plan.step}"
    )
    out = [
        ("maps", ", ".join(plan.outputs)),
        ("grid", f"{rows:,} x {columns:,} cells, {plan.land_cells:,} with land, x {steps:,} {plan.step}"),
        ("tasks", task_rows),
    ]
    for one in plan.reads:
        out.append((f"read: {one.name}", f"{one.chunks:,} chunks, {size_text(one.bytes)} before compression"))
        out.append(("", f"if each chunk were read once: {one.distinct_chunks:,}, {size_text(one.distinct_bytes)}"))
    if plan.reads:
        out.append(("needed", f"{size_text(plan.bytes_needed)}: {plan.amplification:,.1f} bytes are read for each"))
    if plan.disk_bytes_read > _READ * plan.bytes_read:
        out.append(("read from disk", f"about {size_text(plan.disk_bytes_read)}, compressed"))
    gpus = "measured" if plan.sample.gpu else f"if one GPU replaces {plan.cores_per_gpu:g} cores (an assumption)"
    cpu = sum(task.cpu for task in plan.sample.tasks)
    sampled = sum(task.land for task in plan.sample.tasks)
    return [
        *out,
        ("written", f"about {size_text(plan.bytes_written)} on disk"),
        ("CPU-hours", plan.cpu_hours.text(_number)),
        ("GPU-hours", f"{plan.gpu_hours.text(_number)}, {gpus}"),
        ("wall time", f"{plan.wall_hours.text(_duration)} with {plan.workers:,} workers"),
        ("cost on CPUs", f"{_number(cost_cpu)} USD, at {plan.price_cpu:g} USD for a CPU-hour"),
        ("cost on GPUs", f"{_number(cost_gpu)} USD, at {plan.price_gpu:g} USD for a GPU-hour"),
        ("RAM of a worker", f"{size_text(plan.worker_bytes)} measured; {size_text(plan.region_bytes)} are required"),
        ("RAM of the client", f"about {size_text(plan.client_bytes)}"),
        (
            "sample",
            f"{len(plan.sample.tasks)} tasks, {sampled:,} land cells x {plan.step}, {duration_text(cpu)} of CPU; start "
            f"of a worker {duration_text(plan.sample.start_cpu)}",
        ),
    ]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _duration(hours: float) -> str:
    return duration_text(3600 * hours)


def _lines(rows: Sequence[tuple[str, str]]) -> list[str]:
    """Return a table of names and values as lines of at most 100 columns."""
    width = max(len(name) for name, _ in rows) + 2
    lines = []
    for name, value in rows:
        first, *more = _wrapped(value, 100 - width)
        lines += [f"{name:<{width}}{first}", *(f"{'':<{width}}{line}" for line in more)]
    return lines


def _wrapped(text: str, width: int = 100) -> list[str]:
    import textwrap

    return textwrap.wrap(text, width, break_long_words=False) or [""]


def _notes(plan: MapPlan) -> list[str]:
    """Return what a user should know or do."""
    notes = []
    if plan.amplification > WASTE:
        notes.append(_waste(plan))
    if plan.client_bytes > _LARGE_CLIENT:
        notes.append(
            f"the process that submits tasks keeps their graph in RAM, about {size_text(plan.client_bytes)}: use "
            "larger blocks (open_forcing(..., chunks={'latitude': 48, 'longitude': 48}), if workers have the RAM), or "
            "map bands of latitude (--bbox) or single years into stores of their own."
        )
    empty = [task for task in plan.sample.tasks if task.missing == task.land]
    if empty:
        notes.append(
            f"{len(empty)} of {len(plan.sample.tasks)} tasks of the sample have no value at all ({empty[0].place}): "
            "their time may differ from that of others; check the forcing there."
        )
    if len(plan.sample.tasks) == 1:
        more = to_type(python="sample_tasks=6", shell="--sample-tasks 6")
        notes.append(f"the sample is one task, which shows no range; {more} or more is better.")
    if not plan.sample.gpu:
        notes.append("the sample was computed on a CPU; on a machine with a GPU, GPU-hours are measured.")
    return notes


def _waste(plan: MapPlan) -> str:
    """Return a warning about chunks that do not suit maps, with what to type."""
    one = max(plan.reads, key=lambda one: one.bytes)
    times = one.chunks / max(1, one.distinct_chunks)
    if plan.total[2] > _OVERLAP * plan.total[1]:
        advice = (
            f"A task reads {plan.total[2] / plan.total[1]:,.0f} time steps for each that it maps, since the model "
            "depends on earlier ones: map longer chunks in time (--time-chunk)."
        )
    elif one.name in _ARRAYS:
        advice = (
            "Write the forcing once with the cells and predictors that you map (fluxcube.write_forcing), so that "
            "blocks are whole."
        )
    elif times > _SHARED:
        # A forcing store that is written from chunks of the globe would read them again for each of its blocks, too.
        advice = (
            'Type `fluxcube.copy_era5(FILES, "era5.zarr")` in Python and `fluxcube forcing era5.zarr forcing.zarr` '
            "once, and map forcing.zarr."
        )
    else:
        advice = "Type `fluxcube forcing FILES forcing.zarr` once, and map forcing.zarr."
    return (
        f"{plan.amplification:,.0f} bytes are read for each byte needed (more than {WASTE:g}), most of them of "
        f"{one.name}, whose {one.distinct_chunks:,} chunks are read {times:,.0f} times each. {advice}"
    )
