"""Measure time and RAM of a build of the tower cube, relative to parsing the files only.

    python benchmarks/build.py ../shared/data/towers

Every run is a separate process; parsing alone and building alternate, so that a busy machine slows both. Limits for
the 109 towers of FLUXNET2015's SUBSET: 60 s and 2 GiB on two cores, and time linear in the number of sites.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np


def parse(raw: Path, sites: list[str], store: Path) -> dict:
    """Read every CSV into RAM, on the number of threads of a build."""
    import os

    import pandas as pd

    from fluxcube.sources.towers.discovery import discover

    paths = [a.path for a in discover(raw).archives if a.site in sites]
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        return {"rows": sum(pool.map(lambda path: len(pd.read_csv(path)), paths))}


def build(raw: Path, sites: list[str], store: Path) -> dict:
    from fluxcube.cubes.carbonsense import build_carbonsense

    report = build_carbonsense(raw, store, sites=sites)
    return {"sites": len(report.sites), "bytes": sum(p.stat().st_size for p in store.rglob("*") if p.is_file())}


def child(job: str, raw: Path, sites: list[str]) -> dict:
    """Run one job in a separate process; imports are not timed, but included in the peak RAM."""
    code = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); import build\n"
        "print(json.dumps(build.timed(sys.argv[2], sys.argv[3], json.loads(sys.argv[4]))))"
    )
    arguments = [str(Path(__file__).parent), job, str(raw), json.dumps(sites)]
    done = subprocess.run([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def timed(job: str, raw: str, sites: list[str]) -> dict:
    import pandas  # noqa: F401
    import xarray  # noqa: F401

    import fluxcube.cubes.carbonsense  # noqa: F401

    with tempfile.TemporaryDirectory(dir=".") as folder:
        start, cpu = time.perf_counter(), time.process_time()
        result = {"parse": parse, "build": build}[job](Path(raw), sites, Path(folder) / "cube.zarr")
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return result | {"seconds": seconds, "cpu": cpu, "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def main(raw: Path, counts: list[int]) -> None:
    from fluxcube.sources.towers.discovery import discover

    every = sorted(discover(raw).sites)
    print("sites       rows  parse s  build s  ratio  CPU s    rows/s  peak MiB  store MB")
    rates = []
    for count in counts or [len(every) // 4, len(every) // 2, len(every)]:
        sites = [every[i] for i in np.linspace(0, len(every) - 1, count).round().astype(int)]
        only, whole = child("parse", raw, sites), child("build", raw, sites)
        rates.append(whole["cpu"] / only["rows"])
        print(
            f"{count:5d} {only['rows']:10d} {only['seconds']:8.1f} {whole['seconds']:8.1f} "
            f"{whole['seconds'] / only['seconds']:6.1f} {whole['cpu']:6.1f} "
            f"{only['rows'] / whole['seconds']:9.0f} {whole['mib']:9.0f} {whole['bytes'] / 1e6:9.1f}",
            flush=True,
        )
    print(f"CPU time per row, most sites against fewest: {rates[-1] / rates[0]:.2f} (1 is linear)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path)
    parser.add_argument("--counts", type=int, nargs="*", default=[])
    arguments = parser.parse_args()
    main(arguments.raw, arguments.counts)
