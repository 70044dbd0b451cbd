"""Measure the CPU time and page faults of a map in Dask workers, relative to the same map in one process.

    OMP_NUM_THREADS=1 python benchmarks/map_workers.py DEMO [--days 90] [--model ecoperceiver] [--rounds 3]
        [--variants "one process,ours,quiet"]

DEMO is the folder of a finished demo (`fluxcube demo`). Its forcing is written to a store, and its model is mapped from
that store, each time by one worker with one thread that has mapped ten days before, so that imports are not counted:

one process     a thread of the process that calls `write_maps`
before          a worker of `dask worker` with Dask's threshold plus a byte, which fluxcube leaves as it is, since it is
                not Dask's default: what all workers had before
ours            a worker that `write_maps` starts
another's       a worker of `dask worker` as Dask starts it; the first task undoes its setting of malloc. Its own work,
                such as samples for the dashboard, remains, and grows with the wall time: more on a busy machine
quiet           the same, with that work done less often (docs/clusters.md)

CPU time (user and system) and page faults are those of the process that computes, by `getrusage` in it. The variants
take turns in each round; ratios are medians of those of a round. All maps must be equal.
Limit: "ours" and "quiet" take at most 1.1 times as much as one process.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from distributed import Client, LocalCluster

import fluxcube as fc
from fluxcube.demo import _forcing
from fluxcube.maps import teams, workers
from fluxcube.simulation import Planet
from fluxcube.timestamps import HOUR

#: Days that each worker maps before it is measured.
WARM = 10


def usage(dask_worker: object = None) -> tuple[float, float, int, float]:
    """Return user and system time (s), minor page faults and the current resident set (MiB) of a process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    pages = int(Path("/proc/self/statm").read_text("utf-8").split()[1])
    return used.ru_utime, used.ru_stime, used.ru_minflt, pages * resource.getpagesize() / 2**20


@contextlib.contextmanager
def one_process() -> Iterator[None]:
    """Use a thread of this process."""
    yield None


@contextlib.contextmanager
def ours() -> Iterator[Client]:
    """Start a worker as `write_maps` does."""
    with workers._processes(1) as (client, _, _):
        client.wait_for_workers(1)
        yield client


@contextlib.contextmanager
def theirs(**variables: str) -> Iterator[Client]:
    """Start a worker as a user does, with Dask's command line."""
    with LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address=":0") as cluster:
        command = [sys.executable, "-m", "distributed.cli.dask_worker", cluster.scheduler_address]
        options = ["--nworkers", "1", "--nthreads", "1", "--no-dashboard", "--memory-limit", "4GiB"]
        process = subprocess.Popen(
            command + options, env=os.environ | variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            with Client(cluster, set_as_default=False) as client:
                client.wait_for_workers(1)
                yield client
        finally:
            process.terminate()
            process.wait()


VARIANTS: dict[str, Callable[[], contextlib.AbstractContextManager[Client | None]]] = {
    "one process": one_process,
    "before": lambda: theirs(MALLOC_TRIM_THRESHOLD_="65537"),
    "ours": ours,
    "another's": theirs,
    "quiet": lambda: theirs(**teams._worker_environment({})),
}


def mapped(variant: str, model: Path, forcing: xr.Dataset, days: int, out: Path) -> tuple[np.ndarray, xr.Dataset]:
    """Return user and system time, page faults and resident set of the process that computes a map, and the map."""
    start = Planet().period[0]

    def write(count: int, client: Client | None) -> Path:
        maps = fc.upscale(model, forcing, time=slice(start, start + 24 * count * HOUR - HOUR))
        how = {"scheduler": "threads", "workers": 1} if client is None else {"scheduler": client}
        return fc.write_maps(maps, out, overwrite=True, **how)

    def used(client: Client | None) -> np.ndarray:
        return np.array(usage() if client is None else next(iter(client.run(usage).values())))

    with VARIANTS[variant]() as client:
        write(WARM, client)
        before = used(client)
        store = write(days, client)
        after = used(client)
    return np.append((after - before)[:3], after[3]), fc.open_maps(store).load()


def main(demo: Path, days: int, name: str, rounds: int, variants: list[str]) -> None:
    torch.set_num_threads(1)
    found: dict[str, list[np.ndarray]] = {variant: [] for variant in variants}
    with tempfile.TemporaryDirectory(dir=".") as folder:
        store = fc.write_forcing(_forcing(demo / "raw", Planet()), Path(folder) / "forcing.zarr")
        forcing, first = fc.open_forcing(store), None
        print(f"{name}, {forcing.sizes['latitude']} x {forcing.sizes['longitude']} cells, {days} days", flush=True)
        for _ in range(rounds):
            for variant in variants:
                start = time.perf_counter()
                row, maps = mapped(variant, demo / "runs" / name, forcing, days, Path(folder) / "maps.zarr")
                found[variant].append(row)
                first = maps if first is None else first
                xr.testing.assert_equal(maps, first)
                print(
                    f"  {variant:<12} user {row[0]:6.1f} s, system {row[1]:5.1f} s, {row[2]:11,.0f} page faults, "
                    f"{row[3]:5.0f} MiB at the end ({time.perf_counter() - start:.0f} s wall)",
                    flush=True,
                )
    for variant, rows in found.items():
        ratios = [row[:2].sum() / base[:2].sum() for row, base in zip(rows, found["one process"], strict=True)]
        median = np.median(rows, 0)
        print(
            f"{variant:<12} {median[:2].sum():6.1f} s of CPU ({median[1]:.1f} s in the kernel), {median[2]:11,.0f} "
            f"page faults, x {np.median(ratios):.2f} of one process; {median[3]:.0f} MiB at the end"
        )
    print(f"load {os.getloadavg()[0]:.0f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path)
    parser.add_argument("--days", type=int, default=90)
    parser.add_argument("--model", default="ecoperceiver")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--variants", default=",".join(VARIANTS), help="first one process, the base of the ratios")
    arguments = parser.parse_args()
    main(arguments.demo, arguments.days, arguments.model, arguments.rounds, arguments.variants.split(","))
