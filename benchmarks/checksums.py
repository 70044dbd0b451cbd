"""Cost of checksums and of the manifest of a cube: `python benchmarks/checksums.py TOWERS FOLDER`."""

import argparse
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

import fluxcube as fc
from fluxcube.cubes import compose
from fluxcube.stores.manifest import verify, write_manifest
from fluxcube.stores.reading import open_store, store_attrs


def size(path):
    return sum(os.path.getsize(Path(folder, name)) for folder, _, names in os.walk(path) for name in names)


def seconds(function, repeats=5):
    """Return the shortest time of several calls, which other processes disturb the least."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def read(path, whole=False):
    """Read the record of each tower, or its whole time axis, most of which is empty."""
    with open_store(path, kind="cube", dask=False) as cube:
        starts, stops = (np.searchsorted(cube.time.values, cube[f"time_{end}"].values) for end in ("start", "stop"))
        for name in ("predictors", "fluxes", "fluxes_qc"):
            for site, (start, stop) in enumerate(zip(starts, stops, strict=True)):
                cube[name].isel(site=site, time=slice(None) if whole else slice(start, stop)).values  # noqa: B018


def compare(paths, rounds=7, **options):
    """Return the shortest CPU time of reading each store, in turns, because other programs use the machine."""
    times = {name: [] for name in paths}
    for _ in range(rounds):
        for name, path in paths.items():
            start = time.process_time()
            read(path, **options)
            times[name].append(time.process_time() - start)
    return {name: min(taken) for name, taken in times.items()}


def main(towers, folder):
    paths = {name: Path(folder) / f"{name}.zarr" for name in ("checked", "plain")}
    fc.build_carbonsense(towers, paths["checked"], overwrite=True)
    create = compose.create

    def without(path, coords, arrays, attrs):
        create(path, coords, {name: replace(spec, checksum=False) for name, spec in arrays.items()}, attrs)

    compose.create = without
    try:
        fc.build_carbonsense(towers, paths["plain"], overwrite=True)
    finally:
        compose.create = create
    sizes = {name: size(path) for name, path in paths.items()}
    attrs = store_attrs(paths["checked"])
    print(f"size: {sizes['checked'] / 1e6:.1f} MB, {sizes['checked'] / sizes['plain']:.4f} of that without checksums")
    for text, options in (("records", {}), ("whole time axes", {"whole": True})):
        cpu = compare(paths, **options)
        print(f"reading {text}: {cpu['checked']:.2f} s of CPU, {cpu['checked'] / cpu['plain']:.3f} of that without")
    print(f"manifest: {seconds(lambda: write_manifest(paths['checked'], attrs)):.2f} s")
    print(f"verify: {seconds(lambda: verify(paths['checked']), 1):.2f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("towers", help="folder of tower archives")
    parser.add_argument("folder", help="where to write the cubes")
    main(**vars(parser.parse_args()))
