"""Maps by the workers of two hosts, which have separate process numbers, names and views of the files.

    sudo OMP_NUM_THREADS=1 python benchmarks/map_hosts.py

A host is a set of namespaces (`unshare`) with a name of its own and an empty /tmp; the folder of the data is shared,
and may be hidden from a host. It needs root and `unshare`. The locks of two hosts whose system does not share them are
tried by `faults_hosts.py`.

equal      two hosts on one Dask scheduler write, byte by byte, what one thread writes
hidden     a host that does not see the forcing is named, with the path, before the first task
two runs   a run on another host is refused while the first writes the store; when that is killed, it writes the rest
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import fluxcube as fc
from fluxcube.errors import StoreError
from fluxcube.simulation.example import example_forcing
from fluxcube.stores.ledger import done_regions
from fluxcube.stores.reading import store_attrs

MODEL = "ecoperceiver-towers/seed-0"
HOST = ["unshare", "--fork", "--kill-child", "--pid", "--uts", "--mount", "--mount-proc", "sh", "-c"]
RUN = """
import sys, fluxcube as fc
from fluxcube.errors import StoreError
maps = fc.upscale(sys.argv[1], fc.open_forcing(sys.argv[2]), time_chunk=24)
try:
    fc.write_maps(maps, sys.argv[3], scheduler="threads", workers=1, progress=lambda n, *_: print(n, flush=True))
    print("written", flush=True)
except StoreError as error:
    print("refused:", error, flush=True)
"""


def on_host(name: str, command: list[str], hide: Path | None = None, **options: object) -> subprocess.Popen:
    """Start a program on a host; `hide` is a folder that it does not see."""
    hidden = f"; mount -t tmpfs none {hide}" if hide else ""
    script = f'hostname {name}; mount -t tmpfs none /tmp{hidden}; exec "$@"'
    return subprocess.Popen([*HOST, script, "sh", *command], **options)


@contextlib.contextmanager
def cluster(folder: Path, hide: Path | None = None) -> Iterator[object]:
    """Yield a client of a scheduler with a worker on each of two hosts; `hide` is hidden from the second."""
    from distributed import Client, LocalCluster

    log = open(folder / "workers.log", "ab")  # noqa: SIM115
    with LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address=":0") as local, Client(local) as client:
        command = [sys.executable, "-m", "distributed.cli.dask_worker", local.scheduler_address, "--no-nanny"]
        command += ["--nthreads", "1", "--no-dashboard"]
        output = {"stdout": log, "stderr": log}
        hosts = [on_host("node-a", command, **output), on_host("node-b", command, hide, **output)]
        try:
            client.wait_for_workers(2, timeout=300)
            yield client
        finally:
            for host in hosts:
                host.kill()
                host.wait()
            log.close()


def files(store: Path) -> dict[str, bytes]:
    """Return every file of a store but the ledger, whose lines come as regions end."""
    found = {str(f.relative_to(store)): f.read_bytes() for f in sorted(store.rglob("*")) if f.is_file()}
    return {name: content for name, content in found.items() if "ledger" not in name}


def equal(folder: Path, store: Path, whole: Path) -> str:
    with cluster(folder) as client:
        names = set(client.run(lambda: __import__("socket").gethostname()).values())
        maps = fc.upscale(MODEL, fc.open_forcing(store), time_chunk=24)
        fc.write_maps(maps, folder / "two.zarr", scheduler=client)
    same = files(folder / "two.zarr") == files(whole)
    return "" if same and names == {"node-a", "node-b"} else f"files are equal: {same}, hosts {names}"


def hidden(folder: Path, store: Path, whole: Path) -> str:
    with cluster(folder, hide=store) as client:
        maps = fc.upscale(MODEL, fc.open_forcing(store), time_chunk=24)
        try:
            fc.write_maps(maps, folder / "hidden.zarr", scheduler=client)
        except StoreError as error:
            named = "node-b" in str(error) and str(store) in str(error)
            written = done_regions(folder / "hidden.zarr") if (folder / "hidden.zarr").exists() else {}
            return "" if named and not any(written.values()) else f"{error}; {written}"
    return "not refused"


def two_runs(folder: Path, store: Path, whole: Path) -> str:
    command = [sys.executable, "-c", RUN, MODEL, str(store), str(folder / "shared.zarr")]
    options = {"stdout": subprocess.PIPE, "text": True}
    first = on_host("node-a", command, **options)
    while first.stdout.readline().strip() not in ("2", ""):
        pass
    second = on_host("node-b", command, **options).communicate()[0].splitlines()[-1]
    first.kill()
    first.wait()
    third, end = "", time.monotonic() + 300
    while not third.endswith("written") and time.monotonic() < end:  # the lock of a killed host is silent for a while
        third = on_host("node-b", command, **options).communicate()[0].strip()
    if "refused" not in second or "node-a" not in second:
        return f"the second: {second}"
    same = files(folder / "shared.zarr") == files(whole)
    complete = store_attrs(folder / "shared.zarr")["complete"]
    return "" if same and complete and third.splitlines()[0] != "0" else f"equal {same}, the third: {third}"


def main() -> list[tuple[str, str]]:
    results = []
    # Not in /tmp, which each host has for itself.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        forcing = example_forcing(shape=(4, 4), days=36).drop_vars("modis")
        store = Path(fc.write_forcing(forcing.chunk(latitude=2, longitude=2), folder / "forcing.zarr"))
        maps = fc.upscale(MODEL, fc.open_forcing(store), time_chunk=24)
        whole = Path(fc.write_maps(maps, folder / "whole.zarr", scheduler="threads", workers=1))
        for scenario in (equal, hidden, two_runs):
            results.append((scenario.__name__, scenario(folder, store, whole)))
            print(f"{results[-1][0]}: {results[-1][1] or 'as it must be'}", flush=True)
    return results


if __name__ == "__main__":
    main()
