"""Measure how fast daily reflectance of towers comes from NetCDF into an existing cube.

    python benchmarks/surface_cube.py ../shared/data/towers ../shared/data/towers2 \
        --files ../shared/data/vegetation/mod09ga_daily_towers*.nc

The cube of the towers is built without reflectance; then one year of it, and all years, are appended. Limit: one year
within 5 s. The size of the arrays is printed, too.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import xarray as xr

import fluxcube as fc
from fluxcube.schema import SURFACE_ARRAYS


def one_year(files: list[Path], year: str, folder: Path) -> list[Path]:
    """Write one year of each file as it is stored."""
    paths = []
    for file in files:
        with xr.open_dataset(file, mask_and_scale=False) as ds:
            paths.append(folder / f"{year}-{file.name}")
            ds.sel(time=year).to_netcdf(paths[-1])
    return paths


def appended(name: str, raw: list[Path], plain: Path, files: list[Path]) -> Path:
    """Append reflectance to a copy of a cube, and print the time."""
    store = plain.with_name(f"{name}.zarr")
    shutil.copytree(plain, store)
    wall, cpu = time.perf_counter(), time.process_time()
    report = fc.build_carbonsense(raw, store, surface=files, append=True)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{name:<10} {len(report.sites)} towers: {wall:6.2f} s, of which CPU {cpu:5.2f} s")
    return store


def main(raw: list[Path], files: list[Path], year: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fc.build_carbonsense(raw, folder / "plain.zarr")
        appended("one year", raw, folder / "plain.zarr", one_year(files, year, folder))
        store = appended("all years", raw, folder / "plain.zarr", files)
        sizes = {
            part: sum(p.stat().st_size for p in (store / part).rglob("*") if p.is_file()) for part in SURFACE_ARRAYS
        }
        print(", ".join(f"{part} {size / 1e6:.2f} MB" for part, size in sizes.items()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path, nargs="+")
    parser.add_argument("--files", type=Path, nargs="+", required=True)
    parser.add_argument("--year", default="2005")
    options = parser.parse_args()
    main(options.raw, options.files, options.year)
