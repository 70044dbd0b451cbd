"""Measure how fast reflectance of towers is read, relative to reading the same bands with xarray alone.

    python benchmarks/surface.py [--files ../shared/data/vegetation/mod09ga_daily_towers*.nc]

Simulated series of 157 towers (nine bands of int16, state flags and view angles as in MOD09GA) are written as NetCDF
and as CSV, one year and 19 years, and read by `fluxcube.read_surface`: scaled, checked and reduced to clear days.
Limits: one year of NetCDF within 5 s.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from fluxcube.sources.modis.surface import read_surface

SITES, BANDS = 157, (1, 2, 3, 4, 5, 6, 7, 11, 12)
ROUNDS = 3


def simulated(years: int) -> xr.Dataset:
    """Return stored numbers of reflectance, flags and angles (site, time)."""
    rng = np.random.default_rng(0)
    days = np.arange(365 * years)
    attrs = {"scale_factor": 1e-4, "_FillValue": np.int16(-28672)}
    shape = SITES, len(days)
    season = np.sin(2 * np.pi * days / 365)
    bands = {
        f"sur_refl_b{band:02d}": (
            ("site", "time"),
            (1500 + 50 * band + 300 * season + rng.normal(0, 60, shape)).astype("int16"),
            attrs,
        )
        for band in BANDS
    }
    state = np.where(rng.random(shape) < 0.4, 0, 1).astype("uint16")
    flags = {
        "state_1km": (("site", "time"), state, {"_FillValue": np.uint16(65535)}),
        "sensor_zenith": (("site", "time"), rng.integers(0, 650, shape).astype("int16"), {"scale_factor": 0.1}),
    }
    coords = {
        "site": [f"XX-{i:03d}" for i in range(SITES)],
        "time": ("time", days, {"units": "days since 2000-01-01"}),
        "lat": ("site", rng.uniform(-50, 70, SITES)),
        "lon": ("site", rng.uniform(-180, 180, SITES)),
    }
    return xr.Dataset(bands | flags, coords, {"title": "MOD09GA v061 (simulated)"})


def best(job: Callable[[], object]) -> float:
    """Return the best time of some rounds, s."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        job()
        times.append(time.perf_counter() - start)
    return min(times)


def plain(paths: list[Path]) -> None:
    """Read the bands of NetCDF files with xarray alone."""
    for path in paths:
        with xr.open_dataset(path) as ds:
            ds[[name for name in ds.data_vars if str(name).startswith("sur_refl")]].load()


def report(name: str, paths: list[Path]) -> None:
    seconds = best(lambda: read_surface(paths))
    if paths[0].suffix == ".nc":
        alone = best(lambda: plain(paths))
        print(f"{name:<34} {seconds:6.2f} s   xarray alone, bands only {alone:5.2f} s   x {seconds / alone:.2f}")
    else:
        print(f"{name:<34} {seconds:6.2f} s")


def main(files: list[Path]) -> None:
    if files:
        report(f"{len(files)} files, as they are", files)
    with tempfile.TemporaryDirectory() as folder:
        for years in (1, 19):
            path = Path(folder) / f"{years}.nc"
            ds = simulated(years)
            ds.to_netcdf(path)
            report(f"NetCDF, {SITES} towers x {years} years", [path])
        table = Path(folder) / "table.csv"
        frame: pd.DataFrame = simulated(1).to_dataframe().reset_index()
        bands = [f"sur_refl_b{band:02d}" for band in BANDS]
        frame[bands] *= 1e-4
        frame.assign(time=pd.Timestamp("2000-01-01") + pd.to_timedelta(frame["time"], "D")).to_csv(table, index=False)
        report(f"CSV, {SITES} towers x 1 year", [table])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=Path, nargs="*", default=[])
    main(parser.parse_args().files)
