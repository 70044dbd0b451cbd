"""Measure what fetching costs beside the services: overhead per request, RAM, copies on disk, bytes read of a region.

    python benchmarks/fetch.py [--part overhead memory region] [--step 2.0]

The real clients fetch from local servers, which run in processes of their own. Limits: less than 50 ms of overhead per
request, less than 500 MiB of RAM and at most one copy on disk for a file of 300 MB. Needs the packages of the extra
`fetch`, and those of the tests, whose servers it uses.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).parents[1] / folder) for folder in ("tests/helpers", "tests")]
SIZE = 300_000_000
#: Sites, years and archives of the requests that are timed.
SITES, YEARS, ARCHIVES = 4, range(2010, 2018), 40
#: Boxes: of a few cells, and of the region that is read from ARCO's layout (the Alps).
SMALL, REGION = (5.0, 45.0, 5.5, 45.5), (5.0, 43.5, 17.0, 48.5)


def serve(kind: str, size: int) -> None:
    """Serve until the standard input is closed; the first line of the output is the address."""
    with {"era5": era5_server, "modis": modis_server, "towers": towers_server}[kind](size) as service:
        print(service.url, flush=True)
        sys.stdin.read()


def era5_server(size: int):
    from fluxcube.simulation.services.cds import ClimateDataStore

    class Store(ClimateDataStore):
        def content(self, dataset: str, body: dict) -> bytes:
            return netcdf_of(size)

    store = Store()
    store.key = None
    return store


def netcdf_of(size: int) -> bytes:
    """Return a NetCDF file with a number of random bytes: its length is checked against its header."""
    import netCDF4

    ds = netCDF4.Dataset("memory.nc", "w", format="NETCDF3_64BIT_OFFSET", memory=size + 4096)
    ds.createDimension("byte", size)
    ds.createVariable("values", "i1", ("byte",))[:] = np.frombuffer(os.urandom(size), "i1")
    return bytes(ds.close())


def modis_server(size: int):
    from services.modis_scene import Scene

    from fluxcube.simulation.services.earthengine import EarthEngine

    days = np.arange(np.datetime64(f"{YEARS[0]}-01-01"), np.datetime64(f"{YEARS[-1] + 1}-01-01"))
    return EarthEngine(Scene(map(str, days)))


def towers_server(size: int):
    from fluxcube.simulation.services.icos import Icos

    icos = Icos()
    for n in range(1 if size > 1e6 else ARCHIVES):
        site, out = f"XX-{n:03d}", io.BytesIO()
        with zipfile.ZipFile(out, "w") as file:
            file.writestr(f"FLX_{site}_FLUXNET_FLUXMET_HH_2010-2011_v1.3_r1.csv", os.urandom(size))
        name = f"FLX_{site}_FLUXNET_2010-2011_v1.3_r1.zip"
        icos.add(site, name, out.getvalue(), igbp="GRA", latitude=50.0, longitude=10.0)
    return icos


@contextmanager
def running(kind: str, size: int = 1000) -> Iterator[str]:
    """Start a server in another process; yield its address."""
    command = [sys.executable, __file__, "--serve", kind, "--size", str(size)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout
        yield process.stdout.readline().strip()
        process.stdin.close()


def fetch_from(kind: str, url: str, out: Path) -> list[Path]:
    """Fetch with one job, as a user does."""
    import fluxcube.fetch as fetch

    if kind == "era5":
        paths = fetch.era5(out, years=2018, bbox=SMALL, variables=["TA", "P"], jobs=1, endpoint=f"{url}/api")
    elif kind == "modis":
        sites = {f"XX-{n:03d}": (50.0 + n, 10.0) for n in range(SITES)}
        options = {"at_sites": sites, "years": f"{YEARS[0]}-{YEARS[-1]}", "every": 8}
        paths = fetch.modis(out, jobs=1, project="p", endpoint=url, **options)
    else:
        paths = fetch.towers(out, source="icos", jobs=1, endpoint=url)
    assert isinstance(paths, list)
    return paths


class Stopwatch:
    """The time within functions of a client, and the number of requests; calls within calls count once."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0
        self.requests, self._depth = 0, 0

    def add(self, owner: object, name: str) -> None:
        """Measure a function, method or property."""
        real = getattr(owner, name)
        if isinstance(real, property):
            setattr(owner, name, property(self._timed(real.fget)))
        else:
            setattr(owner, name, self._timed(real))

    def _timed(self, function: Callable) -> Callable:
        @functools.wraps(function)
        def timed(*arguments, **options):
            self._depth += 1
            start = time.perf_counter(), time.process_time()
            try:
                return function(*arguments, **options)
            finally:
                self._depth -= 1
                if not self._depth:
                    self.wall += time.perf_counter() - start[0]
                    self.cpu += time.process_time() - start[1]

        return timed

    def count(self) -> None:
        """Count and measure all requests that are sent; all clients use requests."""
        import requests

        send = self._timed(requests.Session.send)

        def counted(*arguments, **options):
            self.requests += 1
            return send(*arguments, **options)

        requests.Session.send = counted


def client_of(kind: str) -> Stopwatch:
    """Return a stopwatch of the client of a service."""
    watch = Stopwatch()
    watch.count()
    if kind == "era5":
        import cdsapi
        from ecmwf.datastores import Client
        from ecmwf.datastores.processing import Remote

        for owner, names in {Client: ("submit", "get_remote"), Remote: ("status", "get_results")}.items():
            for name in names:
                watch.add(owner, name)
        watch.add(cdsapi.Client, "__init__")
    elif kind == "modis":
        import ee

        ee.deprecation._FetchDataCatalogStac = dict  # a list of retired data sets, from the internet
        for owner, name in ((ee, "Initialize"), (ee.data, "computePixels"), (ee.data, "computeValue")):
            watch.add(owner, name)
    return watch


def overhead(kind: str, rounds: int = 5) -> None:
    """Print the time beside the client and the server for each request and each file; the best of some rounds."""
    watch, best = client_of(kind), []
    with running(kind) as url, tempfile.TemporaryDirectory() as folder:
        for n in range(rounds + 1):  # the first one imports what is needed
            watch.wall = watch.cpu = watch.requests = 0
            start = time.perf_counter(), time.process_time()
            files = len(fetch_from(kind, url, Path(folder, str(n))))
            wall, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
            best.append((cpu - watch.cpu, wall - watch.wall, watch.cpu, watch.wall, watch.requests, files))
    requests, files = best[-1][4:]
    cpu, wall, client_cpu, client_wall = (1e3 * min(times) for times in list(zip(*best[1:], strict=True))[:4])
    print(f"{kind}: {requests} requests, {files} files; ms of a request, and of a file beside the client")
    for name, own, client in (("CPU", cpu, client_cpu), ("wall", wall, client_wall)):
        print(
            f"  {name}: beside the client {own / requests:.1f}, client and server {client / requests:.1f}; of a file "
            f"{own / files:.1f}",
            flush=True,
        )


def one_large(kind: str, url: str, out: Path) -> None:
    """Fetch one large file, and print the RAM before and after it, MiB."""
    from fluxcube.fetch import era5_fetch

    if kind == "era5":
        real = era5_fetch.find_requests  # of the year, one request is enough
        era5_fetch.find_requests = lambda order: (real(order)[0][:1], [])
        import cdsapi  # noqa: F401
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    (path,) = fetch_from(kind, url, out)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    assert path.stat().st_size > SIZE
    print(json.dumps([before, after]))


def memory(kind: str) -> None:
    """Print the RAM of fetching a file of 300 MB, and the largest number of copies of it on disk at any time."""
    with running(kind, SIZE) as url, tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--one", kind, "--url", url, "--out", folder]
        largest, start = 0, time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            while process.poll() is None:
                largest = max(largest, bytes_in(Path(folder)))
                time.sleep(0.01)
            assert process.stdout
            before, after = json.loads(process.stdout.read())
        print(
            f"{kind}: a file of {SIZE / 1e6:.0f} MB, RAM {after:.0f} MiB ({before:.0f} MiB before the fetch), "
            f"{largest / SIZE:.2f} copies on disk, {time.perf_counter() - start:.1f} s",
            flush=True,
        )


def bytes_in(folder: Path) -> int:
    """Return the bytes of all files in a folder, also of those that are being written."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def region(step: float, hours: int = 240) -> None:
    """Print the bytes that are read of ARCO's layout (an hour of the globe in each chunk) over those of a region."""
    from services.arco import ZarrService, write_arco

    import fluxcube as fc
    from fluxcube.sources.era5 import sampling

    sampling._MAX_BYTES = int(sampling._MAX_BYTES * (0.25 / step) ** 2)  # as many samples as of the whole grid
    names = ("t2m", "d2m", "ssrd")
    with tempfile.TemporaryDirectory() as folder:
        write_arco(Path(folder), before=0, hours=hours, after=0, step=step)
        with ZarrService(Path(folder)) as service:
            url, copy = f"{service.url}/arco.zarr", Path(folder, "copy.zarr")
            time_of = ("2019-07-01T00", f"2019-07-{hours // 24:02d}T22")
            fc.copy_era5(url, copy, bbox=REGION, time=time_of, parameters=names, accumulation="hour")
            forcing = fc.open_forcing(copy)
            cells = forcing.sizes["latitude"] * forcing.sizes["longitude"]
            needed = 4 * cells * hours * len(names)
            chunks = Counter(path for path in service.chunks() if not path.endswith("/c/0"))
            weather = {path: n for path, n in chunks.items() if "mask" not in path and "geopotential" not in path}
            globe, served = round(180 / step + 1) * round(360 / step), service.bytes
    reads, values = sum(weather.values()), 4 * globe
    print(
        f"globe of {globe} cells ({step} degrees), region of {cells}; {hours} hours, {len(names)} parameters\n"
        f"  chunks of weather: {len(weather)} of {hours * len(names)} hours, read {reads} times, two days of "
        f"them as samples when the store is opened\n"
        f"  bytes: {served / 1e6:.2f} MB served, {served / reads / globe:.2f} a value; of the region "
        f"{needed / 1e6:.3f} MB\n"
        f"  ratio: {served / needed:.0f}, without compression {reads * values / needed:.0f}",
        flush=True,
    )


def main(parts: list[str], step: float) -> None:
    for part in parts:
        print(part)
        for kind in ("era5", "modis", "towers") if part == "overhead" else ("era5", "towers"):
            if part == "overhead":  # in a process of its own, since a stopwatch replaces functions of clients
                subprocess.run([sys.executable, __file__, "--overhead", kind], check=True)
            elif part == "memory":
                memory(kind)
        if part == "region":
            region(step)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", default=["overhead", "memory", "region"])
    parser.add_argument("--step", type=float, default=2.0, help="degrees between the cells of the globe")
    for name in ("serve", "overhead", "one", "url"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, default=1000, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.serve, given.size)
    elif given.overhead:
        overhead(given.overhead)
    elif given.one:
        one_large(given.one, given.url, given.out)
    else:
        main(given.part, given.step)
