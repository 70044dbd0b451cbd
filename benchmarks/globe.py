"""Plan maps of the globe, and compare the plan of 1 % of it with the run.

    OMP_NUM_THREADS=1 python benchmarks/globe.py FOLDER [--parts plan,run,reads] [--days 4] [--sample-tasks 8]

plan   time and RAM of the plan of a year of hours at 0.25 and at 0.05 degrees, beside the sample: under 10 s and 1 GiB.
run    1 % of the cells of the 0.25 degree globe: a forcing store with the chunks of the globe, its plan, and its run by
       worker processes. CPU time, bytes and RAM of the workers are those that the system reports. Limit: 15 %.
reads  a globe in the layout of ARCO-ERA5, one hour in each chunk, at a local server: chunks that a map requests, as
       planned and as counted, before and after the files are copied and written as a forcing store.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xarray as xr

import fluxcube as fc
from fluxcube.planning import maps as planning
from fluxcube.planning.globe import plan_globe
from fluxcube.planning.land import land_cells
from fluxcube.planning.maps import MapPlan
from fluxcube.planning.sample import MapSample, TaskSample
from fluxcube.simulation.globe import global_forcing

sys.path[:0] = [str(Path(__file__).parents[1] / folder) for folder in ("tests/helpers", "tests")]
MODEL = "ecoperceiver-towers/seed-0"
#: Blocks of 16 x 16 cells of the part that is mapped, from the north-western corner of the grid: 128 x 80 cells are
#: 0.99 % of the 720 x 1440 cells of the globe (western Europe to the Caspian Sea).
ROWS, COLUMNS = slice(7 * 16, 12 * 16), slice(44 * 16, 52 * 16)


class Sampler(threading.Thread):
    """CPU time, bytes and largest RAM of the descendants of this process, until it is stopped."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.seen: dict[int, tuple[float, int, int]] = {}
        self._stop_event = threading.Event()

    def run(self) -> None:
        while not self._stop_event.wait(0.3):
            for process in descendants():
                try:
                    self.seen[process] = usage_of(process)
                except (OSError, IndexError):
                    continue  # it has ended

    def stop(self) -> None:
        self._stop_event.set()
        self.join()


def descendants() -> set[int]:
    """Return the numbers of the processes that this one started, directly or not."""
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text("utf-8").rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
    family = {os.getpid()}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return family - {os.getpid()}


def usage_of(process: int) -> tuple[float, int, int]:
    """Return CPU seconds, bytes read from files, and the largest RAM in bytes of a process."""
    folder = Path(f"/proc/{process}")
    fields = (folder / "stat").read_text("utf-8").rpartition(")")[2].split()
    cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    read = int((folder / "io").read_text("ascii").split()[1])
    peak = 1024 * int((folder / "status").read_text("utf-8").split("VmHWM:")[1].split()[0])
    return cpu, read, peak


def rss() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def plan_part(folder: Path, **options: object) -> None:
    task = {"cpu": 1.0, "wall": 1.0, "memory": 1, "read": 1, "written": 1, "missing": 0, "gpu": False}
    one = TaskSample(place="", work=(1.0, 1e5, 2e5), land=1, **task)
    planning.measure_tasks, real = (
        lambda *arguments, **more: MapSample(tasks=(one,), start_cpu=1.0, start_wall=1.0, parent_cpu=0.0),
        planning.measure_tasks,
    )
    try:
        for step in (0.25, 0.05):
            start, before = time.process_time(), rss()
            plan = plan_globe(MODEL, resolution=step, period=("2019", "2019"))
            print(
                f"  {step} degrees: {np.prod(plan.shape[1:]):,} cells, {plan.tasks:,} tasks, planned in "
                f"{time.process_time() - start:.1f} s of CPU, {rss():.2f} GiB of RAM at most ({before:.2f} before); "
                f"the client of the map would need {plan.client_bytes / 2**30:.1f} GiB",
                flush=True,
            )
    finally:
        planning.measure_tasks = real


def one_percent(days: int, before: int) -> xr.Dataset:
    """Return the lazy forcing of 1 % of the globe, in the chunks of the globe."""
    land = land_cells(0.25, (-180.0, -60.0, 180.0, 90.0))
    names = fc.load_model(MODEL).spec.predictors
    hours = 24 * (days + before)
    globe = global_forcing(land, resolution=0.25, start="2019-05-01", hours=hours, predictors=names)
    return globe.isel(latitude=ROWS, longitude=COLUMNS)


def run_part(folder: Path, *, days: int, sample_tasks: int, workers: int = 2) -> None:
    before = -(-fc.load_model(MODEL).hours_before() // 24)
    store = folder / "forcing.zarr"
    if not store.exists():
        fc.write_forcing(one_percent(days, before), store, workers=1)
    forcing = fc.open_forcing(store)
    options = {"time": slice(str(forcing.time.values[24 * before]), None), "time_chunk": 48}
    plan = fc.plan_maps(MODEL, forcing, workers=workers, sample_tasks=sample_tasks, **options)
    print(plan, flush=True)
    maps, sampler, start = fc.upscale(MODEL, forcing, **options), Sampler(), time.perf_counter()
    regions = sum(bool(n) for n in _land_regions(maps))
    sampler.start()
    out = fc.write_maps(maps, folder / "maps.zarr", workers=workers, scheduler="processes", overwrite=True)
    sampler.stop()
    report(plan, sampler, Path(out), regions, time.perf_counter() - start)


def _land_regions(maps: xr.Dataset) -> list[int]:
    from fluxcube.maps.regions import even_chunks, regions

    return [region.land for region in regions(even_chunks(maps)).values()]


def report(plan: MapPlan, sampler: Sampler, out: Path, regions: int, seconds: float) -> None:
    """Print what was planned and what the run took."""
    workers = sorted(sampler.seen.values(), reverse=True)[: plan.workers]
    written = sum(p.stat().st_size for name in plan.outputs for p in (out / name).rglob("*/*") if p.is_file())
    read = sum(one[1] for one in workers) - plan.workers * plan.sample.start_read
    cpu = sum(one[0] for one in sampler.seen.values())
    rows: list[tuple[str, float, float, Callable[[float], str]]] = [
        ("tasks", plan.tasks, regions, lambda v: f"{v:,.0f}"),
        (
            "CPU seconds of the workers",
            3600 * plan.cpu_hours.estimate,
            cpu,
            _round,
        ),
        ("MB read from disk", plan.disk_bytes_read / 1e6, read / 1e6, _round),
        ("MB written", plan.bytes_written / 1e6, written / 1e6, _round),
        ("MB of RAM of a worker", plan.worker_bytes / 1e6, max(v[2] for v in workers) / 1e6, _round),
        ("MB of RAM of the client", plan.client_bytes / 1e6, rss() * 2**30 / 1e6, _round),
        ("seconds of wall time", 3600 * plan.wall_hours.estimate, seconds, _round),
    ]
    for name, planned, found, form in rows:
        print(f"  {name:<28} planned {form(planned):>8}, run {form(found):>8}, {planned / found - 1:+.1%}", flush=True)


def _round(value: float) -> str:
    return f"{value:,.1f}"


def reads_part(folder: Path, *, step: float = 8.0, hours: int = 24) -> None:
    from services.arco import ZarrService, write_arco

    write_arco(folder, before=0, hours=hours, after=0, step=step)
    options = {"allow_missing": True, "time_chunk": 24, "applicability": False}
    with ZarrService(folder) as service:
        url, period = f"{service.url}/arco.zarr", ("2019-07-01T00", f"2019-07-{hours // 24:02d}T22")
        arco = {"time": period, "accumulation": "hour", "igbp": "GRA", "chunks": {"latitude": 4, "longitude": 4}}

        def counted(what: str, function: Callable[[], object]) -> object:
            chunks, sent = len(service.chunks()), service.bytes
            result = function()
            print(
                f"  {what}: {len(service.chunks()) - chunks:,} chunks, {(service.bytes - sent) / 1e6:.1f} MB from the "
                "server",
                flush=True,
            )
            return result

        forcing = fc.open_forcing(url, **arco)
        plan = fc.plan_maps(MODEL, forcing, sample_tasks=1, scheduler="threads", **options)
        print(f"  planned: {sum(one.chunks for one in plan.reads):,} chunks, {plan.amplification:.0f} bytes for each")
        maps = fc.upscale(MODEL, forcing, **options)
        counted("map", lambda: fc.write_maps(maps, folder / "a.zarr", scheduler="threads", workers=1, overwrite=True))
        counted("write_forcing", lambda: fc.write_forcing(forcing, folder / "f.zarr", overwrite=True, workers=1))
        copy = folder / "era5.zarr"
        counted("copy_era5", lambda: fc.copy_era5(url, copy, time=period, accumulation="hour", overwrite=True))
        again = fc.open_forcing(copy, igbp="GRA", time=period, chunks=arco["chunks"])
        store = fc.write_forcing(again, folder / "g.zarr", overwrite=True, workers=1)
    plan = fc.plan_maps(MODEL, fc.open_forcing(store), sample_tasks=1, scheduler="threads", **options)
    print(f"  from the forcing store, planned: {plan.amplification:.1f} bytes are read for each byte needed")


def main(folder: Path, parts: str, days: int, sample_tasks: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for part in parts.split(","):
        print(f"{part}, load {os.getloadavg()[0]:.1f}", flush=True)
        if part == "run":
            run_part(folder, days=days, sample_tasks=sample_tasks)
        else:
            {"plan": plan_part, "reads": reads_part}[part](folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--parts", default="plan,run,reads")
    parser.add_argument("--days", type=int, default=4)
    parser.add_argument("--sample-tasks", type=int, default=8)
    given = parser.parse_args()
    main(given.folder, given.parts, given.days, given.sample_tasks)
