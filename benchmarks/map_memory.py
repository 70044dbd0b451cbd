"""Measure the RAM of the client and of each worker while a map of many cells is computed, as a curve.

    OMP_NUM_THREADS=1 python benchmarks/map_memory.py FOLDER [--side 100] [--days 365] [--workers 2] [--demo DEMO]

A small XGBoost model (20 trees, three predictors, simulated towers) is trained, a forcing of ``side`` x ``side`` cells
is written, and a map of NEE is computed from it by worker processes. Every second, the resident set of this process, of
the parent of the workers and of each worker is sampled. FOLDER receives the samples (`map_memory.csv`) and a picture of
them (`map_memory.png`). With the folder of a finished demo, its EcoPerceiver is mapped from its forcing instead, in
pieces of two days, --days long. Memory is flat if the last third of the run needs as much as the second.
"""

from __future__ import annotations

import argparse
import csv
import os
import resource
import sys
import threading
import time
from pathlib import Path

import dask.array as da
import numpy as np
import xarray as xr

sys.path.insert(0, str(Path(__file__).parent))
import carbonsense as shape

import fluxcube as fc
from fluxcube.schema import variable_coords
from fluxcube.timestamps import HOUR
from fluxcube.variables import table

PREDICTORS = ("TA", "SW_IN", "VPD")
START = np.datetime64("2019-01-01", "ns")
#: Cells of a block along each axis, and hours of a chunk of the forcing.
BLOCK, CHUNK = 20, 2208


class Sampler(threading.Thread):
    """Samples the resident sets of this process and its descendants each second, until it is stopped."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.rows: list[tuple[float, float, dict[int, float]]] = []
        self.done, self._stop_event = 0.0, threading.Event()

    def run(self) -> None:
        start = time.monotonic()
        while not self._stop_event.wait(1.0):
            self.rows.append((time.monotonic() - start, self.done, resident()))

    def stop(self) -> None:
        self._stop_event.set()
        self.join()


def resident() -> dict[int, float]:
    """Return the resident set (MiB) of this process and of its descendants, by process number."""
    parents, sizes = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text("utf-8").rpartition(")")[2].split()
            except OSError:
                continue  # it has ended
            parents[int(folder.name)] = int(fields[1])
            sizes[int(folder.name)] = int(fields[21]) * resource.getpagesize() / 2**20
    family = {os.getpid()}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return {process: sizes[process] for process in family}


def model(folder: Path) -> Path:
    """Train a small XGBoost on simulated towers, and return its folder."""
    cube, run = folder / "cube.zarr", folder / "run"
    shape.build(cube, np.full(6, 8766))
    ds = fc.open_carbonsense(cube)
    settings = {"n_estimators": 20, "max_depth": 4, "max_rows": 20_000, "early_stopping": 0}
    chosen = {"predictors": PREDICTORS, "static": (), "bands": (), "memory_days": ()}
    fc.fit(ds, model="xgboost", target="NEE", out=run, config=settings, overwrite=True, **chosen)
    return run


def forcing(side: int, days: int) -> xr.Dataset:
    """Return smooth weather within bounds, computed block by block."""
    low, high = np.array([table()[name].bounds for name in PREDICTORS], np.float32).T
    grid = ("latitude", "longitude")
    count = (24 * days, len(PREDICTORS))

    def block(block_info: dict) -> np.ndarray:
        (y0, y1), (x0, x1), (t0, t1), _ = block_info[None]["array-location"]
        phase = np.random.default_rng([y0, x0]).random((y1 - y0, x1 - x0, 1, count[1]), np.float32)
        hour = np.arange(t0, t1, dtype=np.float32)[:, None]
        wave = np.sin(2 * np.pi * (hour / 24 + phase)) + np.sin(2 * np.pi * (hour / 8760 + phase))
        return np.round((low + high) / 2 + (high - low) * np.float32(0.2) * wave, 2).astype(np.float32)

    chunks = da.core.normalize_chunks((BLOCK, BLOCK, CHUNK, -1), shape=(side, side, *count))
    values = da.map_blocks(block, chunks=chunks, dtype="float32", meta=np.empty((0,) * 4, "float32"))
    coords = {
        "latitude": 60 - 0.1 * np.arange(side),
        "longitude": 0.1 * np.arange(side),
        "time": START + np.arange(count[0]) * HOUR,
        **variable_coords(PREDICTORS),
        "elevation": (grid, np.full((side, side), 300.0)),
        "igbp": (grid, np.full((side, side), "GRA", object)),
        "land_fraction": (grid, np.ones((side, side))),
    }
    arrays = {"predictors": ((*grid, "time", "variable"), values)}
    return xr.Dataset(arrays, coords, {"kind": "forcing", "clock": "solar"})


def simulated(folder: Path, side: int, days: int) -> xr.Dataset:
    """Return lazy maps of a small XGBoost model."""
    run = model(folder)
    store = fc.write_forcing(forcing(side, days), folder / "forcing.zarr", overwrite=True)
    return fc.upscale(run, fc.open_forcing(store), applicability=False)


def of_demo(folder: Path, demo: Path, days: int) -> xr.Dataset:
    """Return lazy maps of the demo's EcoPerceiver."""
    from fluxcube.demo import STRIDE, _forcing
    from fluxcube.simulation import Planet

    planet, store = Planet(), folder / "forcing.zarr"
    fc.write_forcing(_forcing(demo / "raw", planet), store, overwrite=True)
    period = slice(planet.period[0], planet.period[0] + 24 * days * HOUR - HOUR)
    run = demo / "runs" / "ecoperceiver"
    return fc.upscale(run, fc.open_forcing(store), time=period, stride=STRIDE, time_chunk=48)


def sample(folder: Path, maps: xr.Dataset, workers: int) -> Sampler:
    """Compute maps, and return the samples taken meanwhile."""
    sampler = Sampler()

    def progress(done: int, total: int, text: str) -> None:
        sampler.done = done / total

    sampler.start()
    fc.write_maps(maps, folder / "maps.zarr", workers=workers, scheduler="processes", overwrite=True, progress=progress)
    sampler.stop()
    return sampler


def lines(sampler: Sampler) -> dict[str, np.ndarray]:
    """Return the samples by name: seconds, share done, client, parent of the workers, and each worker (MiB)."""
    seen = [set(sizes) for *_, sizes in sampler.rows]
    lasting = [p for p in set.union(*seen) if sum(p in one for one in seen) > len(seen) / 2 and p != os.getpid()]
    size = {p: np.array([sizes.get(p, np.nan) for *_, sizes in sampler.rows]) for p in [os.getpid(), *sorted(lasting)]}
    parent, *children = [p for p in sorted(lasting)]
    workers = [p for p in children if np.nanmax(size[p]) > 100]  # not Python's resource tracker
    out = {"seconds": np.array([row[0] for row in sampler.rows]), "done": np.array([row[1] for row in sampler.rows])}
    out |= {"client": size[os.getpid()], "parent of the workers": size[parent]}
    return out | {f"worker {i}": size[p] for i, p in enumerate(workers, 1)}


def report(columns: dict[str, np.ndarray]) -> None:
    """Print the highest and the mean memory in each third of the run after its first tenth."""
    busy = (columns["done"] > 0.1) & (columns["done"] < 1)
    if busy.sum() < 30:
        print("too short to compare parts of the run: map more cells or days")
        return
    for name, values in columns.items():
        if name not in ("seconds", "done"):
            thirds = [part[np.isfinite(part)] for part in np.array_split(values[busy], 3)]
            means, highest = [part.mean() for part in thirds], [part.max() for part in thirds]
            print(
                f"{name:<22} mean of each third {' '.join(f'{v:6.0f}' for v in means)} MiB, highest "
                f"{' '.join(f'{v:6.0f}' for v in highest)} MiB, last against second {means[2] / means[1]:.3f}"
            )


def save(columns: dict[str, np.ndarray], folder: Path, title: str) -> None:
    """Write the samples, and a picture of them with one panel for the client and one for the workers."""
    with open(folder / "map_memory.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*(np.round(values, 3) for values in columns.values()), strict=True))
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 1, sharex=True, figsize=(7, 4.6), layout="constrained")
    x = 100 * columns["done"]
    for name, values in columns.items():
        if name not in ("seconds", "done"):
            axes[int(name.startswith("worker"))].plot(x, values, lw=1, label=name)
    for panel, label in zip(axes, ("client", "workers"), strict=True):
        panel.set(ylabel=f"RAM of the {label} (MiB)", ylim=(0, None), xlim=(0, 100))
        panel.grid(alpha=0.3)
        panel.legend(loc="lower right", fontsize=8, frameon=False, ncols=2)
    axes[1].set_xlabel("share of the map that is written (%)")
    figure.suptitle(title, fontsize=10)
    figure.savefig(folder / "map_memory.png", dpi=90)


def main(folder: Path, side: int, days: int, workers: int, demo: Path | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    maps = simulated(folder, side, days) if demo is None else of_demo(folder, demo, days)
    cells, name = maps.latitude.size * maps.longitude.size, "XGBoost" if demo is None else "EcoPerceiver"
    sampler = sample(folder, maps, workers)
    columns = lines(sampler)
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(one.ru_utime + one.ru_stime for one in used)
    print(f"{cells:,} cells, {24 * days:,} hours: {columns['seconds'][-1]:.0f} s wall, CPU with training {cpu:.0f} s")
    report(columns)
    save(columns, folder, f"{name}, {cells:,} cells and {24 * days:,} hours, {workers} worker processes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--side", type=int, default=100)
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--demo", type=Path)
    arguments = parser.parse_args()
    main(arguments.folder, arguments.side, arguments.days, arguments.workers, arguments.demo)
