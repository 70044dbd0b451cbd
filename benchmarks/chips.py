"""Measure how fast chips are cut, relative to a windowed reprojection of each chip and day, and profile a build.

    python benchmarks/chips.py [--sites 50] [--days 20] [--tile h18v04]

A whole simulated tile (2400 x 2400 pixels, seven bands of int16) is in RAM for both methods. One computes the 64
pixels of each site once and gathers them day by day; the other reprojects a window of the tile around the site with
rioxarray, nearest neighbour, for each site and day, as one would without an index. Limits: at least 1,000 times faster
per chip and day, at least 99.5 % of pixels identical.

Then chips are cut end to end from a folder of HDF4 tiles of both products, written here in the format of the archive,
and the time is profiled by its parts.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyproj
import rasterio
import rioxarray  # noqa: F401  (adds .rio to arrays)
import xarray as xr

from fluxcube.cubes.chips import build_chips, chip_index
from fluxcube.sources.modis import hdf, hdf_read
from fluxcube.sources.modis.grid import COLS, PIXEL, ROWS, TILE

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/helpers"))
SPHERE = "+proj=sinu +lon_0=0 +x_0=0 +y_0=0 +R=6371007.181 +units=m +no_defs"
ROUNDS = 3


def places_in(h: int, v: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return places whose chips are completely inside a tile."""
    rng = np.random.default_rng(1)
    latitude, longitude = [], []
    while len(latitude) < n:
        row, col = rng.uniform(v * TILE + 20, (v + 1) * TILE - 20), rng.uniform(h * TILE + 20, (h + 1) * TILE - 20)
        lat = 90 - row / 240
        lon = (col / 240 - 180) / np.cos(np.radians(lat))
        rows, cols = chip_index(lat, lon)
        if abs(lon) < 180 and (rows // TILE == v).all() and (cols // TILE == h).all():
            latitude.append(lat)
            longitude.append(lon)
    return np.array(latitude), np.array(longitude)


def scene(seed: int) -> np.ndarray:
    """Return seven bands of a tile, smooth and noisy, int16."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:TILE, :TILE].astype("float32")
    base = 3000 + 1500 * np.sin(y / 90 + seed) * np.cos(x / 70)
    return np.stack([base * (0.3 + 0.1 * b) + rng.normal(0, 60, base.shape) for b in range(7)]).astype("int16")


def windowed(tile: xr.DataArray, lat: float, lon: float, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """Return one chip by rioxarray: cut a window with a margin, reproject it."""
    zone = int((lon + 180) // 6) + 1
    utm = f"EPSG:{(32700 if lat < 0 else 32600) + zone}"
    x, y = pyproj.Transformer.from_crs("EPSG:4326", utm, always_xy=True).transform(lon, lat)
    part = tile[:, max(rows.min() - 2, 0) : rows.max() + 3, max(cols.min() - 2, 0) : cols.max() + 3]
    transform = rasterio.transform.from_origin(x - 2000, y + 2000, 500, 500)
    nearest = rasterio.enums.Resampling.nearest
    return part.rio.reproject(utm, transform=transform, shape=(8, 8), resampling=nearest, nodata=32767).values


def compare(h: int, v: int, sites: int) -> None:
    """Time both methods in turns on one tile in RAM."""
    lat, lon = places_in(h, v, sites)
    start = time.perf_counter()
    rows, cols = chip_index(lat, lon)
    indexing = time.perf_counter() - start
    rows, cols = rows - v * TILE, cols - h * TILE
    values = scene(0)
    tile = (
        xr.DataArray(
            values,
            dims=("band", "y", "x"),
            coords={
                "y": (ROWS / 2 - v * TILE - 0.5 - np.arange(TILE)) * PIXEL,
                "x": (h * TILE + 0.5 + np.arange(TILE) - COLS / 2) * PIXEL,
            },
        )
        .rio.write_crs(SPHERE)
        .rio.write_nodata(32767)
    )
    flat, index = values.reshape(7, -1), rows * TILE + cols
    theirs: list[np.ndarray] = []
    ours, gathers, reprojections = None, [], []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(100):
            ours = flat.take(index, axis=1)
        gathers.append((time.perf_counter() - start) / 100 / sites)
        start = time.perf_counter()
        theirs = [windowed(tile, *place) for place in zip(lat, lon, rows, cols, strict=True)]
        reprojections.append((time.perf_counter() - start) / sites)
    ratio = min(reprojections) / min(gathers)
    with_index = min(reprojections) / (min(gathers) + indexing / sites / 365)
    same = (np.moveaxis(ours, 0, 1) == np.stack(theirs)).mean()
    print(f"one tile h{h:02d}v{v:02d}, 7 bands of int16 in memory, {sites} sites, best of {ROUNDS} in turns")
    print(f"  index a site's 64 pixels, once               {indexing / sites * 1e3:9.3f} ms")
    print(f"  gather a chip and day                        {min(gathers) * 1e6:9.3f} us  {1 / min(gathers):12,.0f} /s")
    print(f"  windowed rioxarray reprojection              {min(reprojections) * 1e6:9.1f} us")
    print(f"  ratio per chip and day                       {ratio:9,.0f} (required 1,000)")
    print(f"  ratio, the index shared by a year of days    {with_index:9,.0f}")
    print(f"  identical pixels                             {same:9.4%} (required 99.5 %)")


def build(h: int, v: int, sites: int, days: int) -> None:
    """Cut chips from a folder of HDF4 tiles and profile it."""
    from modis_files import flags, nadir, name_of, write_hdf

    lat, lon = places_in(h, v, sites)
    with tempfile.TemporaryDirectory() as folder:
        dates = np.datetime64("2019-06-01") + np.arange(days)
        corner, rng = (v * TILE, h * TILE), np.random.default_rng(0)
        kind = np.stack([np.zeros((TILE, TILE)), rng.integers(0, 8, (60, 60)).repeat(40, 0).repeat(40, 1)])
        one = write_hdf(
            Path(folder) / name_of("MCD43A4", str(dates[0]), (h, v)), [nadir(scene(1), corner)], chunk_rows=100
        )
        two = write_hdf(Path(folder) / name_of("MCD43A2", str(dates[0]), (h, v)), [flags(kind, corner)], chunk_rows=100)
        for date in dates[1:]:  # the same pixels every day: the time does not depend on their values
            for path, product in ((one, "MCD43A4"), (two, "MCD43A2")):
                (Path(folder) / name_of(product, str(date), (h, v))).write_bytes(path.read_bytes())
        size = sum(p.stat().st_size for p in Path(folder).iterdir()) / 2**20
        print(
            f"end to end: {days} days of MCD43A4 and MCD43A2 HDF4 tiles ({size:.0f} MiB), chunks of 100 rows, deflated"
        )
        apart = hdf.call
        for n in sorted({1, sites}):
            start = time.perf_counter()
            build_chips(folder, lat[:n], lon[:n])
            whole = time.perf_counter() - start
            # Use the library in this process, where it can be profiled.
            hdf.call = lambda function, path, **more: hdf_read.READERS[function](path, **more)
            hdf._layout.cache_clear()
            profile = cProfile.Profile()
            start, cpu = time.perf_counter(), time.process_time()
            chips = profile.runcall(build_chips, folder, lat[:n], lon[:n])
            taken, cpu = time.perf_counter() - start, time.process_time() - cpu
            hdf.call = apart
            hdf._layout.cache_clear()
            assert chips.shape == (n, days, 9, 8, 8) and np.isfinite(chips.values).all()
            print(
                f"  {n} sites: {whole:.2f} s; with the HDF4 library in this process {taken:.2f} s "
                f"({cpu:.2f} s of CPU), {n * days / cpu:,.0f} chips per second of CPU"
            )
            show(profile, taken)


def show(profile: cProfile.Profile, taken: float) -> None:
    """Print the shares of the time of the main parts."""
    parts = {
        "read pixels": ("read_pixels",),
        "  of it, the HDF4 library unpacking windows": ("_SDreaddata_0",),
        "check files' grids and attributes": ("check_raster",),
        "list the folder": ("survey_rasters",),
        "index the sites": ("block_index",),
    }
    calls = pstats.Stats(profile).stats.items()
    found = {name: total for (file, _, name), (_, _, _, total, _) in calls if "fluxcube" in file or "pyhdf" in file}
    for what, names in parts.items():
        print(f"    {what:<48} {sum(found.get(name, 0.0) for name in names) / taken:6.1%}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, default=50)
    parser.add_argument("--days", type=int, default=20)
    parser.add_argument("--tile", default="h18v04")
    arguments = parser.parse_args()
    where = int(arguments.tile[1:3]), int(arguments.tile[4:6])
    compare(*where, arguments.sites)
    build(*where, arguments.sites, arguments.days)
