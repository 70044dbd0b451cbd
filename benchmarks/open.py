"""Measure the time to import fluxcube, to open a cube and to read one site-year, relative to plain alternatives.

    python benchmarks/open.py cube.zarr [--raw ../shared/data/towers]

Limits for the cube of 109 towers: import within 0.1 s of bare Python, open within 0.3 s, a site-year within 50 ms. All
alternatives are timed in turns; the best and the median time are printed, because a busy machine affects only the
latter.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROUNDS = 12


def process(code: str) -> Callable[[], None]:
    return lambda: subprocess.run([sys.executable, "-c", code], check=True)


def take_turns(jobs: dict[str, Callable[[], object]]) -> None:
    """Time the jobs in turns; print the times, and their ratio to the first job."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _, (name, job) in itertools.product(range(ROUNDS), jobs.items()):
        start = time.perf_counter()
        job()
        times[name].append(time.perf_counter() - start)
    first = next(iter(jobs))
    for name, taken in times.items():
        ratio = min(taken) / min(times[first])
        print(f"  {name:<46} best {min(taken):7.4f} s   median {statistics.median(taken):7.4f} s   x {ratio:.2f}")


def main(store: Path, raw: Path | None) -> None:
    print("import")
    take_turns({"bare Python": process("pass"), "import fluxcube": process("import fluxcube")})

    import xarray as xr

    import fluxcube as fc

    def plain() -> xr.Dataset:
        return xr.open_zarr(store, consolidated=False)

    print("open")
    take_turns({"fluxcube.open_carbonsense": lambda: fc.open_carbonsense(store), "xarray.open_zarr": plain})

    ds, other = fc.open_carbonsense(store), plain()
    site = str(ds.site.values[ds.sizes["site"] // 2])
    year = str(int(ds.time_start.sel(site=site).dt.year) + 1)
    print(f"read one site-year, all arrays ({site}, {year})")
    jobs = {
        "cube.sel(site, time).load()": lambda: ds.sel(site=site, time=year).load(),
        "the same, predictors only": lambda: ds.predictors.sel(site=site, time=year).load(),
        "open_carbonsense(sites=, time=).load()": lambda: fc.open_carbonsense(store, sites=site, time=year).load(),
        "xarray.open_zarr, .sel(site, time).load()": lambda: other.sel(site=site, time=year).load(),
    }
    if raw is not None:
        import pandas as pd

        (path,) = raw.glob(f"*_{site}_*.zip")
        jobs["pandas.read_csv of the site's file"] = lambda: pd.read_csv(path)
    take_turns(jobs)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--raw", type=Path)
    arguments = parser.parse_args()
    main(arguments.store, arguments.raw)
