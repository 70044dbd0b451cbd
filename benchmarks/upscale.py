"""Measure the cost of a map from a compressed store of forcing to a store of maps, relative to a plain implementation.

    OMP_NUM_THREADS=1 python benchmarks/upscale.py [--rounds 3] [--parts store,copy,trees,surface,memory,graph,workers]

store    published preset, 21 predictors, 9 bands with daily chips, float32, one thread: maps of a few cells by the
         plain implementation (`naive.py`, which encodes every window separately, with tuned batch size), by sliding
         windows with stride 1 (exact), dense at stride 8 and at 32. All use the same pipeline: forcing store, features,
         model, map store. Limits: 2, 12 and 45 times; everything but the model under 15 %.
copy     the model replaced by a copy of one input: 500,000 cell-hours/s and core.
trees    five fluxes of `small()` and of the published preset, dense at its default stride and banded, against
         XGBoost, five models of 500 trees of depth 8, on the same cells and hours: 3 times as many predictions per
         second with `small()`.
surface  `small()` and XGBoost with weather alone, and with the default columns and percentiles of daily surface
         reflectance: reading it and computing the features takes under 10 % of the time of the map.
memory   peak RAM of a process that maps blocks of 16 x 16 cells, for two lengths, compared with the estimate: 2 GiB.
graph    time to set up a global 0.25 degree year and its first tasks: 10 s.
workers  two worker processes against one, wall time from the first task to the last: 1.8 times.

Parts that compare models run in a Dask worker with the settings of those that `write_maps` starts. CPU time of the
process is measured, which excludes waiting for the disk, since the machine may be shared. Results are medians of rounds
in which all variants take turns; ratios are from the same round. Weights are random, so that nothing here describes
skill.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import operator
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from forward import plain, tensors, tuned, twin
from windows import shape

from fluxcube.cubes.climatology import STATISTICS, surface_climatology, surface_features
from fluxcube.cubes.forcing_store import open_forcing_store, write_forcing
from fluxcube.inference.grid import upscale
from fluxcube.inference.predictor import Predictor
from fluxcube.maps import regions as regions_module
from fluxcube.maps.store import open_maps, write_maps
from fluxcube.maps.workers import _processes as processes
from fluxcube.models.base import BaseModel, Batch, Model, Sizes
from fluxcube.models.boosting import Boosting, BoostingConfig
from fluxcube.models.ecoperceiver import EcoPerceiver
from fluxcube.samples.features import FeatureSpec
from fluxcube.samples.surface import DEFAULT_COLUMNS
from fluxcube.schema import CHIP_X, CHIP_Y, REGION_BYTES, variable_coords
from fluxcube.timestamps import HOUR
from fluxcube.variables import BANDS, SURFACE_BANDS, predictors, table

PREDICTORS = tuple(predictors())[:21]
FLUXES = ("NEE", "GPP_NT", "RECO_NT", "GPP_DT", "RECO_DT")
START = np.datetime64("2019-01-01", "ns")
#: Number of hours of the maps that are compared with those of trees: fewer do not outweigh what each map costs once.
HOURS = 720
#: Forms of attention that are compared with trees, with their T.
FORMS = (("window", 32), ("banded", 32), ("banded", 16))
#: Long-term statistics of surface reflectance, as static inputs.
PERCENTILES = ("NDVI_P10", "NDVI_P50", "NDVI_P90", "NIRv_P10", "NIRv_P50", "NIRv_P90")
#: Parts that run in this process, since they start processes themselves, or measure the process that submits tasks.
OWN = ("memory", "graph", "workers")
#: Numbers of windows per pass of the plain implementation; the fastest is used. `forward.py` tries more.
BATCHES = (8, 16, 32)
#: Long-term statistics of surface reflectance, as static inputs.
PERCENTILES = ("NDVI_P10", "NDVI_P50", "NDVI_P90", "NIRv_P10", "NIRv_P50", "NIRv_P90")


def forcing(cells: tuple[int, int], days: int, chips: bool = True) -> xr.Dataset:
    """Return smooth weather within bounds, and one chip per day from half a year before."""
    rng = np.random.default_rng(0)
    hours = 24 * days
    time_axis = START + np.arange(hours) * HOUR
    low, high = np.array([table()[name].bounds for name in PREDICTORS], np.float32).T
    phase = rng.random((*cells, 1, len(PREDICTORS)), np.float32)
    hour = np.arange(hours, dtype=np.float32)[:, None]
    wave = np.sin(2 * np.pi * (hour / 24 + phase)) + 0.05 * rng.normal(size=(*cells, hours, len(PREDICTORS)))
    values = (low + high) / 2 + (high - low) * np.float32(0.2) * wave.astype(np.float32)
    grid = ("latitude", "longitude")
    arrays = {"predictors": ((*grid, "time", "variable"), np.round(values.astype(np.float32), 3))}
    coords = {
        "latitude": 50 - 0.25 * np.arange(cells[0]),
        "longitude": 8 + 0.25 * np.arange(cells[1]),
        "time": time_axis,
        **variable_coords(PREDICTORS),
        "elevation": (grid, np.full(cells, 300.0)),
        "igbp": (grid, np.full(cells, "GRA", object)),
        "land_fraction": (grid, np.ones(cells)),
    }
    if chips:
        day = START.astype("datetime64[D]") + np.arange(-30, days)
        pixels = rng.integers(0, 4000, (*cells, len(day), len(BANDS), 8, 8), np.int16)
        arrays["modis"] = ((*grid, "day", "band", "y", "x"), pixels * np.float32(1e-4))
        coords |= {"day": day.astype("datetime64[ns]"), "band": np.array(BANDS, object), "y": CHIP_Y, "x": CHIP_X}
    return xr.Dataset(arrays, coords, {"kind": "forcing", "clock": "solar"}).chunk(latitude=16, longitude=16)


def spec(targets: tuple[str, ...] = ("NEE",), bands: bool = True) -> FeatureSpec:
    return FeatureSpec(predictors=PREDICTORS, bands=BANDS if bands else (), targets=targets)


class Timed(BaseModel):
    """A model that counts the CPU time of its forward passes."""

    context, emits, n_targets, sliding_window, streams = (
        property(operator.attrgetter(f"model.{name}"))
        for name in ("context", "emits", "n_targets", "sliding_window", "streams")
    )

    def __init__(self, model: Model):
        self.model, self.seconds = model, 0.0

    def predict(self, batch: Batch) -> np.ndarray:
        start = time.process_time()
        out = self.model.predict(batch)
        self.seconds += time.process_time() - start
        return out


class Plain(BaseModel):
    """The plain implementation, window by window, with the fastest batch size."""

    context, n_targets = 1, 1

    def __init__(self, model: torch.nn.Module, context: int, size: int):
        self.model, self.context, self.size = model, context, size

    @torch.inference_mode()
    def predict(self, batch: Batch) -> np.ndarray:
        out = np.full((*batch.inputs.shape[:2], 1), np.nan, np.float32)
        for at in range(0, len(out), self.size):
            part = batch.take(slice(at, at + self.size)).map(lambda a: torch.from_numpy(np.ascontiguousarray(a)))
            out[at : at + self.size, -1] = self.model(part)[:, -1].numpy()
        return out


class Copy(BaseModel):
    """A model that returns one input for every hour of a window."""

    context, emits, n_targets = 1, 1, 1

    def __init__(self, context: int):
        self.context = self.emits = context

    def predict(self, batch: Batch) -> np.ndarray:
        return batch.inputs[..., 2:3]


class Caught(Copy):
    """A model that keeps the last windows it was called with."""

    batch: Batch | None = None

    def predict(self, batch: Batch) -> np.ndarray:
        type(self).batch = batch
        return super().predict(batch)


def network(preset: str, targets: int = 1, bands: bool = True, **settings: object) -> EcoPerceiver:
    torch.manual_seed(0)
    sizes = Sizes(inputs=len(PREDICTORS), bands=len(BANDS) if bands else 0, targets=targets)
    model = EcoPerceiver(dataclasses.replace(shape(preset), **settings), sizes)
    torch.nn.init.normal_(model.head.weight)
    return model.eval()


def mapped(model: object, features: FeatureSpec, store: Path, out: Path, hours: int, cells: int, **options) -> tuple:
    """Return CPU seconds of a map and of its model, and the predictions, for a square of cells and some hours."""
    timed = Timed(model)
    source = open_forcing_store(store)
    source = source.isel(latitude=slice(0, cells), longitude=slice(0, cells))
    period = slice(START + 240 * HOUR, START + (240 + hours - 1) * HOUR)
    start = time.process_time()
    maps = upscale(Predictor(timed, features, digest="x"), source, time=period, applicability=False, **options)
    write_maps(maps, out, workers=1, scheduler="threads", overwrite=True)
    seconds = time.process_time() - start
    return seconds, timed.seconds, cells * cells * hours * len(features.targets)


def compared(variants: dict[str, Callable[[], tuple]], base: str, rounds: int) -> dict[str, tuple]:
    """Print predictions per second, the ratio to `base` in the same round, and the share of time outside the model."""
    found: dict[str, list] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            seconds, model, count = run()
            found[name].append((count / seconds, 1 - model / seconds))
    for name, rows in found.items():
        rate, rest = np.median(np.array(rows), 0)
        ratio = np.median(np.divide([r for r, _ in rows], [r for r, _ in found[base]]))
        print(f"  {name:<44} {rate:11,.0f} /s   x {ratio:7.2f}   beside the model {rest:6.1%}", flush=True)
    return found


def store_part(folder: Path, rounds: int) -> None:
    model = network("published")
    length = model.context
    last, dense = twin(model, "last"), twin(model, "dense")
    store = write_forcing(forcing((16, 16), 30), folder / "forcing.zarr")
    sizes = {name: sum(f.stat().st_size for f in (store / name).rglob("*")) for name in ("predictors", "modis")}
    print("  forcing store: " + ", ".join(f"{k} {v / (256 * 720):.0f} B a cell-hour" for k, v in sizes.items()))
    one = spec()
    mapped(Caught(length), one, store, folder / "caught.zarr", 96, 2, stride=1)
    some = tensors(Caught.batch._asdict())
    attention, size = tuned(lambda a: plain(model, a), lambda m, n: m(some.take(slice(n))), BATCHES)
    naive = Plain(plain(model, attention), length, size)
    name = f"plain, every window afresh, batch {size}, {attention}"
    out = {key: folder / f"{key}.zarr" for key in ("plain", "exact", "8", "32")}
    compared(
        {
            name: lambda: mapped(naive, one, store, out["plain"], 48, 2, stride=1),
            "exact, stride 1": lambda: mapped(last, one, store, out["exact"], 144, 2, stride=1),
            "dense, stride 8": lambda: mapped(dense, one, store, out["8"], 240, 6, stride=8),
            "dense, stride 32": lambda: mapped(dense, one, store, out["32"], 240, 12, stride=32),
        },
        name,
        rounds,
    )
    ours, theirs = (open_maps(out[k]).NEE.isel(time=slice(0, 48)).values[:, :2, :2] for k in ("exact", "plain"))
    print(f"  largest difference of exact from plain: {np.abs(ours - theirs).max() / theirs.std():.1e} of the spread")


def copy_part(folder: Path, rounds: int) -> None:
    store = write_forcing(forcing((16, 16), 70), folder / "long.zarr")
    for label, features in (("with daily chips of 9 bands", spec()), ("without chips", spec(bands=False))):
        variants = {
            f"copy, {label}, {hours} h at once": (
                lambda hours=hours, features=features: mapped(
                    Copy(32), features, store, folder / "copy.zarr", 1440, 16, stride=8, time_chunk=hours
                )
            )
            for hours in (240, 720)
        }
        compared(variants, next(iter(variants)), rounds)


def trees_part(folder: Path, rounds: int) -> None:
    store = write_forcing(forcing((12, 12), 10 + HOURS // 24), folder / "trees.zarr")
    five = spec(FLUXES)
    sizes = Sizes(inputs=len(PREDICTORS), bands=len(BANDS), targets=5)
    config = BoostingConfig(n_estimators=500, max_depth=8, early_stopping=0, min_child_weight=1)
    rng = np.random.default_rng(0)
    one = Boosting(config, dataclasses.replace(sizes, targets=1))
    rows = rng.random((20_000, len(PREDICTORS) + len(BANDS)), np.float32) - np.float32(0.5)
    one.fit(rows, np.sin(9 * rows).sum(1, keepdims=True).astype(np.float32))
    trees = Boosting(config, sizes)
    trees.boosters = one.boosters * 5
    name = "XGBoost, 5 x 500 trees of depth 8"
    variants = {name: lambda: mapped(trees, five, store, folder / "a.zarr", HOURS, 12)}
    for preset, cells in (("small", 12), ("published", 4)):
        for form, context in FORMS:
            model = twin(network(preset, 5, head="dense", attention=form, context=context), "dense")
            variants[f"{preset}(), {form}, T {context}"] = lambda model=model, cells=cells: mapped(
                model, five, store, folder / "b.zarr", HOURS, cells
            )
    compared(variants, name, rounds)


def with_surface(source: xr.Dataset) -> xr.Dataset:
    """Add daily surface reflectance from 96 days before the first hour, clear on a third of the days."""
    rng = np.random.default_rng(1)
    grid, bands = ("latitude", "longitude"), SURFACE_BANDS
    shape = tuple(source.sizes[dim] for dim in grid)
    first, last = source.time.values[[0, -1]].astype("datetime64[D]")
    days = np.arange(first - np.timedelta64(96, "D"), last + np.timedelta64(1, "D"))
    values = rng.integers(300, 4000, (*shape, len(days), len(bands))).astype("float32") * np.float32(1e-4)
    values[rng.random((*shape, len(days))) > 1 / 3] = np.nan
    flat = surface_climatology(values.reshape(-1, *values.shape[2:]), days, bands)
    arrays = {
        "surface": ((*grid, "surface_day", "surface_band"), values, {"product": "MOD09GA"}),
        "surface_climatology": ((*grid, "statistic", "feature"), flat.reshape(*shape, *flat.shape[1:])),
    }
    labels = {"surface_band": list(bands), "statistic": list(STATISTICS), "feature": list(surface_features(bands))}
    coords = {"surface_day": days.astype("datetime64[ns]")} | {k: np.array(v, object) for k, v in labels.items()}
    return source.assign_coords(coords).assign(arrays).chunk(latitude=16, longitude=16)


def surface_part(folder: Path, rounds: int) -> None:
    store = write_forcing(with_surface(forcing((16, 16), 30, chips=False)), folder / "surface.zarr")
    plain = spec(bands=False)
    more = dataclasses.replace(plain, surface=DEFAULT_COLUMNS, static=PERCENTILES)
    models: dict[str, Callable[[FeatureSpec], Model]] = {}
    rng = np.random.default_rng(0)
    config = BoostingConfig(n_estimators=500, max_depth=8, early_stopping=0, min_child_weight=1)
    for name, features in (("weather", plain), ("weather and reflectance", more)):
        sizes = Sizes(
            inputs=len(features.inputs), bands=0, numbers=len(features.numbers), targets=1, means=len(features.surface)
        )
        torch.manual_seed(0)
        models[f"small(), {name}"] = twin(EcoPerceiver(shape("small"), sizes).eval(), "dense")
        trees = Boosting(config, sizes)
        rows = rng.random((20_000, len(features.inputs) + len(features.numbers)), np.float32) - np.float32(0.5)
        trees.fit(rows, np.sin(9 * rows).sum(1, keepdims=True).astype(np.float32))
        models[f"XGBoost, {name}"] = trees
    used = {name: more if name.endswith("reflectance") else plain for name in models}
    seconds: dict[str, list] = {name: [] for name in models}
    for _ in range(rounds):
        for name, model in models.items():
            total, of_model, count = mapped(model, used[name], store, folder / "s.zarr", 480, 12)
            seconds[name].append((1e6 * total / count, 1e6 * (total - of_model) / count))
    for kind in ("small()", "XGBoost"):
        (total, beside), (total_more, beside_more) = (
            np.median(seconds[f"{kind}, {name}"], 0) for name in ("weather", "weather and reflectance")
        )
        print(
            f"  {kind:<8} us per cell-hour: weather {total:.1f} (beside the model {beside:.1f}), and reflectance "
            f"{total_more:.1f} ({beside_more:.1f}): features take {(beside_more - beside) / total_more:.1%} of "
            f"the map; it takes x {total_more / total:.2f}",
            flush=True,
        )


def memory_part(folder: Path) -> None:
    for days in (30, 120):
        store = write_forcing(forcing((32, 16), days), folder / f"memory-{days}.zarr")
        code = f"import upscale as u; u.measure_memory({str(store)!r}, {str(folder / 'm.zarr')!r})"
        here = str(Path(__file__).parent)
        run = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONPATH": here},
            capture_output=True,
            text=True,
            check=True,
        )
        print(f"  {days} days: {run.stdout.strip()}", flush=True)


class Brief(Timed):
    """A model that computes its first passes only: later ones take no more RAM."""

    passes = 0

    def predict(self, batch: Batch) -> np.ndarray:
        self.passes += 1
        return self.model.predict(batch) if self.passes <= 5 else batch.inputs[..., :1]


def measure_memory(store: str, out: str) -> None:
    """Print the peak of this process, for blocks of 16 x 16 cells and chunks as long as by default."""
    torch.set_num_threads(1)
    model = Brief(twin(network("published"), "dense"))
    source = open_forcing_store(store)
    maps = upscale(Predictor(model, spec(), digest="x"), source, applicability=False)
    estimate = maps.attrs[REGION_BYTES]
    write_maps(maps, out, workers=1, scheduler="threads", overwrite=True)
    # ru_maxrss is not used, because a process inherits it from its parent.
    status = Path("/proc/self/status").read_text("utf-8")
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
    print(f"peak {peak:,.0f} MiB; a region was estimated at {estimate / 2**20:,.0f} MiB beside what a process needs")


def graph_part() -> None:
    import dask.array as da
    from dask.array.core import normalize_chunks

    shape, grid = (721, 1440, 8760, len(PREDICTORS)), ("latitude", "longitude")
    rng = np.random.default_rng(0)
    land = np.kron(rng.random((46, 90)) < 0.35, np.ones((16, 16)))[:721, :1440]
    for hours in (2208, 384):

        def read(block_info=None) -> np.ndarray:
            raise RuntimeError("nothing is read")

        chunks = normalize_chunks((16, 16, hours, -1), shape=shape)
        values = da.map_blocks(read, chunks=chunks, dtype="float32", meta=np.empty((0,) * 4, "float32"))
        source = xr.Dataset(
            {"predictors": ((*grid, "time", "variable"), values)},
            {
                "latitude": np.linspace(90, -90, 721),
                "longitude": np.arange(0, 360, 0.25),
                "time": START + np.arange(shape[2]) * HOUR,
                **variable_coords(PREDICTORS),
                "elevation": (grid, np.zeros(shape[:2])),
                "igbp": (grid, np.full(shape[:2], "GRA", object)),
                "land_fraction": (grid, land),
            },
            {"kind": "forcing"},
        )
        for step in (720,):
            start, cpu = time.perf_counter(), time.process_time()
            model = Predictor(Copy(32), spec(bands=False), digest="x")
            maps = regions_module.even_chunks(upscale(model, source, stride=8, applicability=False, time_chunk=step))
            todo = [region for region in regions_module.regions(maps).values() if region.land]
            coming = regions_module.region_tasks(maps, Path("x.zarr"), todo)
            next(coming)
            first, first_cpu = time.perf_counter() - start, time.process_time() - cpu
            row = sum(region.block[0] == 0 for region in todo)
            cpu = time.process_time()
            for _ in range(row - 1):
                next(coming)
            each = (time.process_time() - cpu) / row
            rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            print(
                f"  chunks of {hours} h read, {step} h mapped: first of {len(todo):,} tasks after {first_cpu:.1f} s "
                f"of CPU ({first:.1f} s wall), {1e3 * each:.1f} ms each, peak {rss:.1f} GiB",
                flush=True,
            )


def workers_part(folder: Path) -> None:
    store = write_forcing(forcing((32, 32), 8), folder / "workers.zarr")
    rates = {}
    for count in (1, 2):
        maps = upscale(
            Predictor(twin(network("published"), "dense"), spec(), digest="x"),
            open_forcing_store(store),
            stride=32,
            time_chunk=96,
            applicability=False,
        )
        seen: list[float] = []
        write_maps(
            maps,
            folder / "w.zarr",
            workers=count,
            scheduler="processes",
            overwrite=True,
            progress=lambda *_, seen=seen: seen.append(time.perf_counter()),
        )
        seen = seen[1 + 2 * count :]  # workers have imported everything by then
        rates[count] = (len(seen) - 1) / (seen[-1] - seen[0])
    print(f"  regions a second: {rates[1]:.3f} with one worker, {rates[2]:.3f} with two: x {rates[2] / rates[1]:.2f}")


def run_part(part: str, folder: Path, rounds: int) -> None:
    """Run one part, which prints its results."""
    torch.set_num_threads(1)
    if part in ("store", "copy", "trees", "surface"):
        globals()[f"{part}_part"](folder, rounds)
    elif part == "graph":
        graph_part()
    else:
        globals()[f"{part}_part"](folder)


def run_into(text: Path, part: str, folder: Path, rounds: int) -> None:
    """Run one part, which prints its results into a file."""
    with open(text, "a", buffering=1, encoding="utf-8") as file, contextlib.redirect_stdout(file):
        run_part(part, folder, rounds)


def in_worker(part: str, folder: Path, rounds: int) -> None:
    """Run one part in a Dask worker, as `write_maps` starts it, and print its results as they come."""
    import upscale as own  # the worker imports this module, and not the program that is running

    text = folder / f"{part}.txt"
    text.touch()
    with processes(1) as (client, _, _), open(text, encoding="utf-8") as lines:
        future = client.submit(own.run_into, text, part, folder, rounds, pure=False)
        while not future.done():
            time.sleep(1)
            print(lines.read(), end="", flush=True)
        future.result()
        print(lines.read(), end="", flush=True)


def main(parts: str, rounds: int) -> None:
    print(f"21 predictors, T 32; load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = Path(name).absolute()
        for part in parts.split(","):
            print(part, flush=True)
            (run_part if part in OWN else in_worker)(part, folder, rounds)
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parts", default="store,copy,trees,surface,memory,graph,workers")
    arguments = parser.parse_args()
    main(arguments.parts, arguments.rounds)
