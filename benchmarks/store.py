"""Measure the size of a cube relative to NetCDF4, how fast it opens and reads, and the RAM of a build.

    python benchmarks/store.py ../shared/data/towers [--sites 20] [--memory]

Sizes are for the same values and flags from real towers: as floats (any Zarr reader), compact (`fluxcube.decimals`),
and as NetCDF4 with shuffle and zlib 4 in three layouts: one variable per column with whole series in a chunk, the same
in chunks of two months, as in the cube, and the stacked arrays as xarray writes them. Limits: at most 1.0 and 0.7 of
NetCDF4; 400 sites open within 0.3 s, and a site-year is read within 50 ms; RAM does not grow with the number of sites.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xarray as xr
import zarr

sys.path.insert(0, str(Path(__file__).parent))
import build as builds
import carbonsense as shape

import fluxcube as fc
import fluxcube.stores.reading
from fluxcube.schema import PARTS, STACKS
from fluxcube.sources.towers.discovery import discover

ROUNDS = 7
_ZLIB = {"zlib": True, "complevel": 4, "shuffle": True}


def spread(raw: Path, count: int) -> list[str]:
    every = sorted(discover(raw).sites)
    return [every[i] for i in np.linspace(0, len(every) - 1, count).round().astype(int)]


def size_of(path: Path, *arrays: str) -> int:
    """Return the number of bytes of some arrays of a store."""
    return sum(p.stat().st_size for name in arrays for p in (path / name).rglob("*") if p.is_file())


def netcdf(store: Path, path: Path, names: tuple[str, ...], layout: str) -> int:
    """Write arrays of a cube, as stored, to one NetCDF4 file; return its number of bytes."""
    import netCDF4

    cube = fc.stores.reading.open_store(store, kind="cube", dask=False)
    starts, stops = (np.searchsorted(cube.time.values, cube[f"time_{k}"].values) for k in ("start", "stop"))
    first, hours = starts.min(), stops.max() - starts.min()
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("site", len(starts))
        file.createDimension("time", hours)
        for name in names:
            array = zarr.open_array(store / name, mode="r")
            like = {
                "datatype": array.dtype,
                "zlib": True,
                "complevel": 4,
                "shuffle": True,
                "fill_value": array.fill_value,
            }
            if layout == "stacked":
                file.createDimension(name, array.shape[2])
                whole = file.createVariable(f"{name}_", dimensions=("site", "time", name), **like)
            else:
                size = {"series": hours, "months": min(1461, hours)}[layout]
                columns = [
                    file.createVariable(f"{name}_{k}", dimensions=("site", "time"), chunksizes=(1, size), **like)
                    for k in range(array.shape[2])
                ]
            for i, (start, stop) in enumerate(zip(starts, stops, strict=True)):
                values, part = array[i, start:stop], slice(start - first, stop - first)
                if layout == "stacked":
                    whole[i, part] = values
                    continue
                for k, column in enumerate(columns):
                    if not (values[:, k] == array.fill_value).all() and not np.isnan(values[:, k].astype(float)).all():
                        column[i, part] = values[:, k]
    size = path.stat().st_size
    path.unlink()
    return size


def sizes(raw: Path, folder: Path, count: int) -> None:
    names = spread(raw, count)
    stores = {"floats": folder / "floats.zarr", "compact": folder / "compact.zarr"}
    for name, store in stores.items():
        fc.build_carbonsense(raw, store, sites=names, compact=name == "compact")
    arrays = tuple(n for n in (s + e for s in STACKS for e in PARTS) if (stores["floats"] / n).is_dir())
    for label, names_ in (("values", ("predictors", "fluxes")), ("values, flags and coverage", arrays)):
        files = [netcdf(stores["floats"], folder / "x.nc", names_, k) for k in ("series", "months", "stacked")]
        print(f"{label} of {count} sites: MB, share of NetCDF4 in chunks of: a whole series | two months | its own")
        print(f"  {'NetCDF4':<41}" + "   ".join(f"{size / 1e6:9.2f}" for size in files))
        for name, store in stores.items():
            size = size_of(store, *names_)
            print(f"  {name:<18} {size / 1e6:9.2f}             " + "   ".join(f"{size / f:9.2f}" for f in files))


def best(job: Callable[[], object]) -> tuple[float, float, float]:
    taken, cpu = [], []
    for _ in range(ROUNDS):
        start, before = time.perf_counter(), time.process_time()
        job()
        taken.append(time.perf_counter() - start)
        cpu.append(time.process_time() - before)
    return min(taken), float(np.median(taken)), min(cpu)


def show(text: str, job: Callable[[], object]) -> None:
    print("  {:<52} best {:7.4f} s   median {:7.4f} s   CPU {:7.4f} s".format(text, *best(job)))


def speed(folder: Path) -> None:
    many = folder / "many.zarr"
    shape.build(many, np.full(400, 17532))
    print("a cube of 400 sites, two years each")
    show("open_carbonsense", lambda: fc.open_carbonsense(many))
    show("xarray.open_zarr", lambda: xr.open_zarr(many, consolidated=False))
    show("open_report", lambda: fc.open_report(many))
    for name in ("floats", "compact"):
        ds = fc.open_carbonsense(folder / f"{name}.zarr")
        site = str(ds.site.values[ds.sizes["site"] // 2])
        year = str(int(ds.time_start.sel(site=site).dt.year) + 1)
        show(f"read a site-year, all arrays, {name}", lambda ds=ds, s=site, y=year: ds.sel(site=s, time=y).load())


def memory(raw: Path) -> None:
    every = len(discover(raw).sites)
    few, many = (builds.child("build", raw, spread(raw, count)) for count in (every // 4, every))
    for one in (few, many):
        print(
            f"build of {one['sites']} sites: {one['seconds']:.1f} s, CPU {one['cpu']:.1f} s, peak {one['mib']:.0f} MiB"
        )
    print(f"  peak memory, most sites against fewest: {many['mib'] / few['mib']:.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path)
    parser.add_argument("--sites", type=int, default=20)
    parser.add_argument("--memory", action="store_true", help="also build a quarter and all of the sites")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=".") as scratch:
        sizes(arguments.raw, Path(scratch), arguments.sites)
        speed(Path(scratch))
    if arguments.memory:
        memory(arguments.raw)
