"""Measure time, RAM and size of a cube with the shape of CarbonSense.

    python benchmarks/carbonsense.py [--sites 385] [--hours 27000000] [--compact] [--keep cube.zarr]

Every site has simulated weather and fluxes with three decimals, gaps and flags, for 1 to 26 years. Sites pass through
the same functions as in a build: spilled, composed into a store, reported. Reading archives is not included
(benchmarks/build.py measures it). Then the cube is opened, a site-year is read, and one more site is appended.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from fluxcube.catalog import open_carbonsense
from fluxcube.cubes.append import append_site
from fluxcube.cubes.compose import CubeSites, compose
from fluxcube.cubes.layout import CubeSettings, spill_tower
from fluxcube.cubes.report import build_document, document
from fluxcube.cubes.tower_data import Stack, Tower
from fluxcube.sources.towers.badm import SiteInfo
from fluxcube.stores.building import staging
from fluxcube.variables import predictors, targets

HOUR = np.timedelta64(1, "h")


def lengths(sites: int, hours: int, seed: int = 0) -> np.ndarray:
    """Return the hours of each site: 1 to 26 years, as uneven as in flux networks, `hours` in total."""
    years = np.clip(np.random.default_rng(seed).lognormal(1.9, 0.7, sites), 1, 26)
    whole = np.maximum((years / years.sum() * hours).astype(int), 1)
    whole[0] += hours - whole.sum()
    return whole


def simulate(at: int, hours: int) -> Tower:
    """Return a site with diurnal and annual cycles and autocorrelated noise, three decimals, a tenth missing."""
    rng = np.random.default_rng(at)
    stop = np.datetime64("2025-01-01", "h")
    time_ = (stop - np.arange(hours, 0, -1) * HOUR).astype("datetime64[ns]")
    hour = np.arange(hours)
    cycle = np.sin(hour * (2 * np.pi / 24)) + 2 * np.sin(hour * (2 * np.pi / 8766))
    stacks = {"predictors": _stack(rng, cycle, predictors()), "fluxes": _stack(rng, cycle, targets())}
    info = SiteInfo(site=f"XX-{at:03d}", latitude=rng.uniform(-60, 70), longitude=rng.uniform(-180, 180), igbp="DBF")
    whole = {"hours": hours, "flags": [hours, 0, 0, 0], "first": str(time_[0])[:13], "last": str(time_[-1])[:13]}
    given = {name: {"FLUXNET2015": whole} for name in (*predictors(), *targets())}
    return Tower(
        info=info, utc_offset=0.0, networks=("FLUXNET2015",), time=time_, fusion=given, out_of_bounds={}, **stacks
    )


def _stack(rng: np.random.Generator, cycle: np.ndarray, names: tuple[str, ...]) -> Stack:
    names = tuple(name for i, name in enumerate(names) if i < 4 or rng.random() < 0.75)
    values = np.empty((len(cycle), len(names)), np.float32)
    for i in range(len(names)):
        noise = rng.normal(0, 1, len(cycle)).astype(np.float32)
        noise[1:] += 0.8 * noise[:-1]
        values[:, i] = (10 * cycle + noise).round(3)
    missing = rng.random((len(cycle) // 24 + 1, len(names))) < 0.1
    missing = np.repeat(missing, 24, 0)[: len(cycle)]
    values[missing] = np.nan
    flags = np.where(missing, -1, np.repeat(rng.integers(0, 3, (len(cycle) // 6 + 1, len(names))), 6, 0)[: len(cycle)])
    return Stack(names, {"": values, "_qc": flags.astype(np.int8), "_coverage": (~missing).astype(np.float32)})


def build(store: Path, sizes: np.ndarray, *, compact: bool = False, workers: int = 2) -> None:
    """Write a cube of simulated sites with the functions of the library."""
    settings = CubeSettings(predictors=predictors(), fluxes=targets(), compact=compact)
    with staging(store, overwrite=True) as building, ThreadPoolExecutor(workers) as pool:

        def one(at: int) -> dict:
            tower = simulate(at, int(sizes[at]))
            spill_tower(building, tower, compact=compact)
            return document(tower, [], "", {})

        made = {doc["place"]["site"]: doc for doc in pool.map(one, range(len(sizes)))}
        compose(
            building,
            settings,
            CubeSites(fresh=made),
            log=build_document({}, None, (), {}),
            each=lambda function, sites: list(pool.map(function, sites)),
        )


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def timed(text: str, job: object) -> object:
    start = time.perf_counter()
    result = job()
    print(f"{text:<58} {time.perf_counter() - start:9.3f} s   peak {peak():6.0f} MiB", flush=True)
    return result


def main(sites: int, hours: int, compact: bool, keep: Path | None) -> None:
    with tempfile.TemporaryDirectory(dir=keep.parent if keep else ".") as folder:
        store = keep or Path(folder) / "cube.zarr"
        sizes = lengths(sites, hours)
        print(f"{sites} sites, {sizes.sum():,} site-hours, {sizes.min():,} to {sizes.max():,} a site")
        timed("simulate and put aside only, a twentieth of the sites", lambda: aside(Path(folder), sizes[::20]))
        timed("write the cube, simulation included", lambda: build(store, sizes, compact=compact))
        held = [p.stat().st_size for p in store.rglob("*") if p.is_file()]
        print(f"size {sum(held) / 1e6:.0f} MB in {len(held)} files, {sum(held) / sizes.sum():.1f} bytes a site-hour")
        ds = timed("open_carbonsense", lambda: open_carbonsense(store))
        timed("open_carbonsense again", lambda: open_carbonsense(store))
        site = str(ds.site.values[np.argsort(sizes)[sites // 2]])
        timed(f"read a site-year, all arrays ({site}, 2024)", lambda: ds.sel(site=site, time="2024").load())
        timed("append a site of eight years", lambda: append_site(store, simulate(sites, 8 * 8766)))


def aside(folder: Path, sizes: np.ndarray) -> None:
    for at, hours in enumerate(sizes):
        spill_tower(folder / "aside", simulate(at, int(hours)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, default=385)
    parser.add_argument("--hours", type=int, default=27_000_000)
    parser.add_argument("--compact", action="store_true")
    parser.add_argument("--keep", type=Path)
    arguments = parser.parse_args()
    main(arguments.sites, arguments.hours, arguments.compact, arguments.keep)
